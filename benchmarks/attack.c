/* Somebody who abuses the relay, while loadgen's honest members measure how they fare.
 *
 *     attack connects|halfopen|hugelength|garbage PORT SOURCE SECONDS
 *
 * Comes from SOURCE, an address of 127.0.0.0/8, to 127.0.0.1:PORT, and goes nowhere else.  Prints
 * `ready`, attacks until it has done its worst (see `attacks`) or SECONDS are over, prints one line
 * of JSON.  Exit codes: 0, 1 the relay is gone, 2 usage.
 *
 * It runs only when nobody else wants its core (SCHED_IDLE), and sends in small pieces, so that
 * beside an honest generator on the same core it is the relay that it disturbs.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000, EVENTS = 256, PIECE = 1 << 16, NOISE = 1 << 20 };

struct attack {
    const char *name;
    int parallel;                    /* connections at a time, each replaced when it is closed */
    int per_second;                  /* connects, at most */
    long connects;                   /* in all, at most */
    const char *opening;             /* said at once, and nothing after it */
    long noise;                      /* instead: random bytes, in all */
};

static const struct attack attacks[] = {
    {"connects", MOST, 1000, 10000, "", 0},
    {"halfopen", 200, 10000, 100000, "", 0},
    {"hugelength", 16, 2000, 100000, "\xff\xff\xff\xff\x02 and then some", 0},
    {"garbage", 16, 2000, 100000, "", 1 << 30},
};

struct connection {
    int fd;                          /* 0: none */
    size_t at;                       /* in the opening, or in `noise` */
};

static struct connection slots[MOST];
static char noise[NOISE], scratch[PIECE];
static int poller;

static _Noreturn void fail(int code, const char *what, const char *why)
{
    fprintf(stderr, "attack: %s: %s\n", what, why);
    exit(code);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) != 0)
        fail(1, "epoll_ctl", strerror(errno));
}

static void dial(struct connection *c, struct sockaddr_in source, struct sockaddr_in relay)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail(1, "socket", strerror(errno));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source) != 0)
        fail(1, "bind", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&relay, sizeof relay) != 0 && errno != EINPROGRESS)
        fail(1, "connect", strerror(errno));
    c->at = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

/* Says more of what it has to say; returns the bytes that went, -1 when the connection is gone. */
static ssize_t say(const struct attack *a, struct connection *c, long noise_left)
{
    const char *data = a->opening + c->at;
    size_t size = strlen(data);
    if (a->noise) {
        data = noise + c->at;
        size = noise_left < PIECE ? (size_t)noise_left : PIECE;
    }
    ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    c->at += (size_t)n;
    if (!a->noise && a->opening[c->at] == '\0')
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    else if (a->noise)
        c->at = (size_t)random() % (NOISE - PIECE);
    return n;
}

int main(int argc, char **argv)
{
    const struct attack *a = attacks;
    while (argc == 5 && a < attacks + 4 && strcmp(a->name, argv[1]) != 0)
        a++;
    if (argc != 5 || a == attacks + 4)
        fail(2, "usage", "attack connects|halfopen|hugelength|garbage PORT SOURCE SECONDS");
    struct sockaddr_in relay = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    struct sockaddr_in source = {.sin_family = AF_INET};
    relay.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (inet_pton(AF_INET, argv[3], &source.sin_addr) != 1 ||
        ntohl(source.sin_addr.s_addr) >> 24 != 127)
        fail(2, "only addresses of 127.0.0.0/8 are used", argv[3]);
    double most_seconds = atof(argv[4]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < NOISE; i++)
        noise[i] = (char)(random() >> 7);
    puts("ready");
    fflush(stdout);

    long connects = 0, closed = 0, bytes = 0;
    double began = now(), seconds = 0;
    while (seconds < most_seconds && (a->noise ? bytes < a->noise : connects < a->connects)) {
        for (int i = 0; i < a->parallel && (double)connects <= seconds * a->per_second; i++)
            if (slots[i].fd == 0 && connects < a->connects) {
                dial(&slots[i], source, relay);
                connects++;
            }
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, 5);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t n = 0;
            if (events[i].events & EPOLLOUT)
                n = say(a, c, a->noise - bytes);
            bytes += n > 0 ? n : 0;
            if (n >= 0 && events[i].events & ~(uint32_t)EPOLLOUT) {
                n = recv(c->fd, scratch, sizeof scratch, 0);
                errno = n == 0 ? 0 : errno;
                n = n > 0 || (n < 0 && errno == EAGAIN) ? 0 : -1;
            }
            if (n < 0 && errno == ECONNREFUSED)
                fail(1, "the relay is gone", strerror(errno));
            if (n < 0) {
                close(c->fd);
                c->fd = 0;
                closed++;
            }
        }
        seconds = now() - began;
    }
    printf("{\"connects\": %ld, \"closed\": %ld, \"bytes\": %ld, \"seconds\": %.2f}\n", connects,
           closed, bytes, seconds);
    return 0;
}
