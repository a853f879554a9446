/* Load generator for bench_relay.py: one thread, one epoll, nothing but libc.
 *
 *     loadgen MODE --port N [--protocol relay|redis|nats|mqtt] [--receivers N] [--senders N] ...
 *
 * Modes, each of which prints `ready` once all connections are joined, then one line of JSON:
 *     throughput  as fast as the window lets it, --seconds long after a warm-up
 *     latency     one message at a time, the next when all have it; or --rate N messages a second,
 *                 then --stalled N of the receivers may stop reading; ends after --count messages
 *                 and a warm-up, --seconds, or with --until-eof at the end of standard input
 *     idle        holds its connections until the end of standard input
 *
 * What it measures.  N receivers and S senders, all on connections of their own, over the real
 * handshake of the protocol.  A message is 600 bytes: its sender (u32), its number (u64, from 1),
 * when it was sent (u64, ns), then a pattern that those three choose.  A delivery is a message that
 * one receiver got and found right.  In the relay's protocol senders are members of the room and get
 * every message too; those are checked in the same way, but not counted.
 *
 * What it checks.  Every byte that arrives belongs to a message that is exactly as it must be at
 * exactly this place (header, length, sender, number = the last one of this sender to this receiver
 * + 1, pattern, trailer) or to a control message that the protocol allows here.  Anything else ends
 * the run: one line on standard error, exit code 1.  So does silence (--patience seconds).
 *
 * Flow control, the same for all protocols: a sender has at most --window messages in flight,
 * counted over all receivers (sent * N - delivered <= window * N).  Every receiver has the kernel's
 * own buffer sizes, as a client would.
 *
 * How it stays out of the way.  One receive buffer for all, 256 KiB; a message that is cut in two is
 * the only thing ever copied.  Level-triggered epoll: edge-triggered measured 3 % less CPU, for which
 * it is not worth to hang on one forgotten read.  Nothing is allocated while it measures.  It says how
 * much CPU it used, so that the runner can tell when it was the limit.
 *
 * It connects to 127.0.0.0/8 alone and refuses everything else.  Exit codes: 0, 1 failed, 2 usage.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    PAYLOAD = 600,                   /* bytes of a message */
    STAMP = 20,                      /* of which sender, number and time */
    MAX_SENDERS = 64,
    MAX_MESSAGES = 1000000,          /* of one latency run: bounds its tables */
    WARM_UP = 200,                   /* messages that its percentiles leave out */
    RECEIVE = 256 * 1024,            /* bytes read at once */
    CARRY = 4096,                    /* the longest unit that is ever completed later */
    OUT_SMALL = 4096,                /* what a receiver may have to say: a JOIN, a PONG */
    PACED_OUT = 256 * 1024,          /* what a paced sender may have unsent */
    HANDSHAKES = 64,                 /* at a time; the relay allows 256 half-open ones */
    EVENTS = 256,
    BUNDLE = 1400,                   /* bytes of a member's bundle, which the relay never reads */
    PATTERNS = 4096,
};

static const int64_t SECOND = 1000000000;

/* ------------------------------------------------------------------------------ what runs */

enum stage { UNUSED, CONNECTING, GREETING, JOINED, CLOSED };

struct connection {
    int fd;
    int index;                       /* receivers from 0, then the senders */
    bool is_sender, is_stalled;
    bool is_watched_for_write;
    enum stage stage;
    uint32_t skip;                   /* bytes of a control message that nobody needs */
    uint32_t carried;
    uint8_t *out;                    /* unsent bytes are out[out_at .. out_end] */
    size_t out_at, out_end, out_size;
    uint64_t seen[MAX_SENDERS];      /* the last number of each sender that arrived here */
    double left_after;               /* stalled: seconds until the relay told the others, or 0 */
    int left_reason;                 /* stalled: in that DEL */
    uint64_t bytes;                  /* stalled: read after the load */
    uint8_t carry[CARRY];            /* the beginning of a unit whose rest has not come */
};

struct span {
    const void *bytes;
    size_t size;
};
#define TEXT(literal) {(literal), sizeof(literal) - 1}

/* One protocol.  A message is recognised by the bytes around its payload, which never vary, so that
 * the hot path is two comparisons; everything else is a control message. */
struct protocol {
    const char *name;
    bool senders_receive;
    struct span publish_head, publish_tail;  /* around a payload, from a sender */
    struct span deliver_head, deliver_tail;  /* around a payload, to a receiver */
    void (*connected)(struct connection *);  /* says what a client says first, if it does */
    /* Handles the control message at `at`, of which `size` bytes are here.  Returns its length,
     * which may be more than `size` if the rest can be skipped; 0 to wait for more of it. */
    size_t (*control)(struct connection *, const uint8_t *at, size_t size);
};

static struct {
    const char *host;
    const struct protocol *protocol;
    long port, receivers, senders, window, seconds, count, rate, stalled, rooms, patience, server_pid;
    bool until_eof;
} run = {
    .host = "127.0.0.1", .receivers = 10, .senders = 1, .window = 64, .seconds = 2, .rooms = 1,
    .patience = 10,
};
static struct connection *connections;
static int connection_count, opened, joined;
static struct sockaddr_in server_address;

static int poller;
static int64_t now;                  /* ns; when this turn began, or the last bytes were read */
static int64_t began;                /* when all were joined */
static bool is_stdin_at_end;
static struct connection standard_input, timer; /* what epoll says of those two, no connections */

static uint8_t buffer[CARRY + RECEIVE];
static uint8_t patterns[PATTERNS + PAYLOAD];
static uint64_t sent[MAX_SENDERS];       /* messages of each sender */
static uint64_t delivered[MAX_SENDERS];  /* times a receiver got one of them */

/* A latency run's tables, by message; NULL in the other modes. */
static int64_t *due_at, *first_at, *last_at;
static uint32_t *arrivals;
static uint64_t complete;            /* messages that all who still read have */
static uint32_t readers;

static _Noreturn void fail(const struct connection *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    if (c != NULL && c->is_sender)
        fprintf(stderr, "sender %ld: ", c->index - run.receivers);
    else if (c != NULL)
        fprintf(stderr, "receiver %d: ", c->index);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void *table(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail(NULL, "out of memory");
    return memory;
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        fail(NULL, "cannot read a clock: %s", strerror(errno));
    return t.tv_sec * SECOND + t.tv_nsec;
}

static uint64_t total(const uint64_t *counts)
{
    uint64_t sum = 0;
    for (int s = 0; s < run.senders; s++)
        sum += counts[s];
    return sum;
}

static void make_patterns(void)
{
    uint64_t x = 88172645463325252u; /* xorshift64 */
    for (size_t i = 0; i < sizeof patterns; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        patterns[i] = (uint8_t)(x >> 32);
    }
}

/* Another one whenever one byte of these differs: the time is folded to 12 bits, as many as choose
 * a pattern, so that it is checked too. */
static const uint8_t *pattern(uint32_t sender, uint64_t number, uint64_t time)
{
    uint64_t folded = time ^ time >> 12 ^ time >> 24 ^ time >> 36 ^ time >> 48 ^ time >> 60;
    return patterns + (sender * 977 + number * 61 + folded) % PATTERNS;
}

/* ------------------------------------------------------------------------------ sending */

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) != 0)
        fail(c, "epoll_ctl: %s", strerror(errno));
}

static void flush(struct connection *c)
{
    while (c->out_at < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            fail(c, "send: %s", strerror(errno));
        c->out_at += (size_t)n;
    }
    if (c->out_at == c->out_end)
        c->out_at = c->out_end = 0;
    bool is_blocked = c->out_end != 0;
    if (is_blocked != c->is_watched_for_write) {
        c->is_watched_for_write = is_blocked;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | (is_blocked ? EPOLLOUT : 0));
    }
}

static size_t room_to_write(struct connection *c)
{
    if (c->out_at > 0) {
        memmove(c->out, c->out + c->out_at, c->out_end - c->out_at);
        c->out_end -= c->out_at;
        c->out_at = 0;
    }
    return c->out_size - c->out_end;
}

static void append(struct connection *c, struct span data)
{
    memcpy(c->out + c->out_end, data.bytes, data.size);
    c->out_end += data.size;
}

static void say(struct connection *c, const void *bytes, size_t size)
{
    if (room_to_write(c) < size)
        fail(c, "the server does not read");
    append(c, (struct span){bytes, size});
    flush(c);
}

static size_t published_size(void)
{
    const struct protocol *p = run.protocol;
    return p->publish_head.size + PAYLOAD + p->publish_tail.size;
}

/* Appends a sender's next message; the caller has seen to the room, and flushes. */
static void compose(struct connection *c, int64_t time)
{
    uint32_t sender = (uint32_t)(c->index - run.receivers);
    uint64_t number = ++sent[sender];
    append(c, run.protocol->publish_head);
    append(c, (struct span){&sender, 4});
    append(c, (struct span){&number, 8});
    append(c, (struct span){&time, 8});
    append(c, (struct span){pattern(sender, number, (uint64_t)time), PAYLOAD - STAMP});
    append(c, run.protocol->publish_tail);
}

/* ------------------------------------------------------------------------------ receiving */

static void deliver(struct connection *c, const uint8_t *payload)
{
    uint32_t sender;
    uint64_t number, time;
    memcpy(&sender, payload, 4);
    memcpy(&number, payload + 4, 8);
    memcpy(&time, payload + 12, 8);
    if (sender >= (uint32_t)run.senders)
        fail(c, "wrong bytes: a message of sender %u of %ld", sender, run.senders);
    uint64_t expected = c->seen[sender] + 1;
    if (number != expected || number > sent[sender])
        fail(c, "%s: expected message %lu of sender %u, got %lu",
             number > expected ? "lost or out of order" : "repeated or out of order",
             expected, sender, number);
    if (memcmp(payload + STAMP, pattern(sender, number, time), PAYLOAD - STAMP) != 0)
        fail(c, "wrong bytes in message %lu of sender %u", number, sender);
    c->seen[sender] = number;
    if (c->is_sender) {
        if (!run.protocol->senders_receive)
            fail(c, "a message came without a subscription");
    } else if (!c->is_stalled) {
        delivered[sender]++;
        if (arrivals != NULL) {
            if (arrivals[number]++ == 0)
                first_at[number] = now;
            last_at[number] = now;
            complete += arrivals[number] == readers;
        }
    }
}

/* Handles all whole units of at[0 .. size]; returns how many bytes those are, at most. */
static size_t consume(struct connection *c, const uint8_t *at, size_t size)
{
    const struct protocol *p = run.protocol;
    const size_t head = p->deliver_head.size, tail = p->deliver_tail.size;
    const size_t whole = head + PAYLOAD + tail;
    size_t left = size;
    while (left > 0) {
        if (memcmp(at, p->deliver_head.bytes, left < head ? left : head) == 0) {
            if (left < whole)
                break;
            if (memcmp(at + head + PAYLOAD, p->deliver_tail.bytes, tail) != 0)
                fail(c, "wrong bytes behind a message");
            deliver(c, at + head);
            at += whole;
            left -= whole;
            continue;
        }
        size_t length = p->control(c, at, left);
        if (length == 0)
            break;
        if (length > left) {
            c->skip = (uint32_t)(length - left);
            length = left;
        }
        at += length;
        left -= length;
    }
    return size - left;
}

/* One recv and all that is whole in it.  Returns whether the connection is still there. */
static bool receive(struct connection *c)
{
    /* What was carried goes in front of what comes, so that a unit is always in one piece. */
    uint8_t *start = buffer + CARRY - c->carried;
    ssize_t n = recv(c->fd, buffer + CARRY, RECEIVE, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return false;
    now = clock_ns(CLOCK_MONOTONIC);
    memcpy(start, c->carry, c->carried);
    size_t size = (size_t)n + c->carried;
    if (c->is_stalled)
        c->bytes += (size_t)n;
    size_t skipped = c->skip < size ? c->skip : size; /* nothing is carried while it skips */
    c->skip -= (uint32_t)skipped;
    start += skipped;
    size -= skipped;
    size_t used = consume(c, start, size);
    if (size - used > CARRY)
        fail(c, "a control message of more than %d bytes", CARRY);
    c->carried = (uint32_t)(size - used);
    memcpy(c->carry, start + used, c->carried);
    return true;
}

static void is_joined(struct connection *c)
{
    if (c->stage != GREETING)
        fail(c, "a second answer to the handshake");
    c->stage = JOINED;
    joined++;
}

/* Where the server speaks first. */
static void says_nothing(struct connection *c)
{
    (void)c;
}

/* ------------------------------------------------------------------------------ the relay */

enum { HELLO = 1, JOIN, WELCOME, ADD, DEL, REBUNDLE, BROADCAST, DIRECT, PING, PONG, ERROR };

static uint32_t be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void relay_join(struct connection *c)
{
    enum { BODY = 1 + 16 + 16 + 32 + 2 + BUNDLE };
    uint8_t frame[5 + BODY] = {0, 0, (BODY + 1) >> 8, (BODY + 1) & 255, JOIN, 1};
    snprintf((char *)frame + 6, 16, "room %d", c->index % (int)run.rooms & 0xffff);
    snprintf((char *)frame + 22, 16, "member %d", c->index & 0xffff); /* session_id */
    frame[70] = BUNDLE >> 8;
    frame[71] = BUNDLE & 255;
    memcpy(frame + 72, patterns, BUNDLE);
    memcpy(frame + 72, &c->index, sizeof c->index); /* no two bundles are equal */
    say(c, frame, sizeof frame);
}

static void relay_left(const uint8_t *session_id, int reason)
{
    char name[17] = "";
    int index = -1;
    memcpy(name, session_id, 16);
    if (sscanf(name, "member %d", &index) != 1 || index < 0 || index >= run.receivers)
        return;
    struct connection *who = &connections[index];
    if (who->is_stalled && who->left_after == 0) {
        who->left_after = (double)(now - began) / 1e9;
        who->left_reason = reason;
    }
}

static size_t relay_control(struct connection *c, const uint8_t *at, size_t size)
{
    if (size < 6)
        return 0;
    uint32_t length = be32(at);
    size_t whole = 4 + (size_t)length;
    uint8_t type = at[4];
    if (length == 0 || length > 65536)
        fail(c, "a frame of %u bytes", length);
    if (type == ADD)
        return whole;
    if (type == WELCOME) { /* the others, in several frames, of which the last one says so */
        if (at[5] == 1)
            is_joined(c);
        return whole;
    }
    if (whole > CARRY)
        fail(c, "a frame of type %u with %u bytes", type, length);
    if (size < whole)
        return 0;
    if (type == HELLO && length == 40 && c->stage == GREETING) {
        if (at[5] > 1 || at[6] < 1 || at[39] != 0)
            fail(c, "the relay speaks another version or needs a password");
        relay_join(c);
    } else if (type == PING && length == 9) {
        uint8_t pong[13];
        memcpy(pong, at, sizeof pong);
        pong[4] = PONG;
        say(c, pong, sizeof pong);
    } else if (type == DEL && length == 18) {
        relay_left(at + 5, at[21]);
    } else if (type == ERROR && length >= 4) {
        if (!c->is_stalled)
            fail(c, "the relay's error %u: %.*s", at[5], (int)length - 4, at + 8);
    } else {
        fail(c, "unexpected frame of type %u with %u bytes", type, length);
    }
    return whole;
}

/* ------------------------------------------------------------------------------ the peers */

static const char REDIS_SUBSCRIBED[] = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";

static void redis_connected(struct connection *c)
{
    const char *first = c->is_sender ? "*1\r\n$4\r\nPING\r\n" : "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n";
    say(c, first, strlen(first));
}

/* The length of a line with its CR LF, 0 if it is not whole. */
static size_t line(const uint8_t *at, size_t size)
{
    const uint8_t *end = memmem(at, size, "\r\n", 2);
    return end == NULL ? 0 : (size_t)(end - at) + 2;
}

static bool starts(const uint8_t *at, size_t size, const char *with)
{
    return size >= strlen(with) && memcmp(at, with, strlen(with)) == 0;
}

static _Noreturn void unexpected(const struct connection *c, const uint8_t *at, size_t size)
{
    fail(c, "unexpected bytes: %.*s", (int)(size < 60 ? size : 60), at);
}

static size_t redis_control(struct connection *c, const uint8_t *at, size_t size)
{
    size_t length = at[0] == '*' ? sizeof REDIS_SUBSCRIBED - 1 : line(at, size);
    if (length == 0 || size < length)
        return 0;
    if (at[0] == ':' && c->stage == JOINED) { /* PUBLISH's answer: to how many it was sent */
        if (atol((const char *)at + 1) != run.receivers)
            unexpected(c, at, length);
    } else if (starts(at, length, c->is_sender ? "+PONG\r\n" : REDIS_SUBSCRIBED)) {
        is_joined(c);
    } else {
        unexpected(c, at, length);
    }
    return length;
}

static size_t nats_control(struct connection *c, const uint8_t *at, size_t size)
{
    static const char hello[] = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n";
    size_t length = line(at, size);
    if (length == 0)
        return 0;
    if (starts(at, length, "INFO ")) {
        if (c->stage == GREETING) {
            say(c, hello, sizeof hello - 1);
            say(c, c->is_sender ? "PING\r\n" : "SUB c 1\r\nPING\r\n", c->is_sender ? 6 : 15);
        }
    } else if (starts(at, length, "PING\r\n")) {
        say(c, "PONG\r\n", 6);
    } else if (starts(at, length, "PONG\r\n")) {
        is_joined(c);
    } else {
        unexpected(c, at, length);
    }
    return length;
}

static void mqtt_connected(struct connection *c)
{
    /* CONNECT: protocol level 4, clean session, no keep-alive, a client id of 6 bytes */
    char packet[21] = {0x10, 18, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 6};
    snprintf(packet + 14, 7, "%06d", c->index);
    say(c, packet, 20);
}

static size_t mqtt_control(struct connection *c, const uint8_t *at, size_t size)
{
    static const uint8_t connack[] = {0x20, 2, 0, 0}, suback[] = {0x90, 3, 0, 1, 0};
    static const uint8_t subscribe[] = {0x82, 6, 0, 1, 0, 1, 'c', 0};
    if (size < 2 || size < 2 + (size_t)at[1])
        return 0;
    if (memcmp(at, connack, sizeof connack) == 0 && c->is_sender)
        is_joined(c);
    else if (memcmp(at, connack, sizeof connack) == 0)
        say(c, subscribe, sizeof subscribe);
    else if (memcmp(at, suback, sizeof suback) == 0)
        is_joined(c);
    else
        fail(c, "unexpected packet: %02x %02x", at[0], at[1]);
    return 2 + (size_t)at[1];
}

static const struct protocol protocols[] = {
    {"relay", true, TEXT("\0\0\x02\x59\x07"), TEXT(""), TEXT("\0\0\x02\x59\x07"), TEXT(""),
     says_nothing, relay_control},
    {"redis", false, TEXT("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$600\r\n"), TEXT("\r\n"),
     TEXT("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$600\r\n"), TEXT("\r\n"),
     redis_connected, redis_control},
    {"nats", false, TEXT("PUB c 600\r\n"), TEXT("\r\n"), TEXT("MSG c 1 600\r\n"), TEXT("\r\n"),
     says_nothing, nats_control},
    {"mqtt", false, TEXT("\x30\xdb\x04\0\1c"), TEXT(""), TEXT("\x30\xdb\x04\0\1c"), TEXT(""),
     mqtt_connected, mqtt_control},
};

/* ------------------------------------------------------------------------------ connections */

static void open_next(void)
{
    struct connection *c = &connections[opened++];
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail(c, "socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&server_address, sizeof server_address) != 0 &&
        errno != EINPROGRESS)
        fail(c, "connect to %s:%ld: %s", run.host, run.port, strerror(errno));
    c->stage = CONNECTING;
    c->is_watched_for_write = true;
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void is_connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0)
        fail(c, "connect to %s:%ld: %s", run.host, run.port, strerror(error));
    c->stage = GREETING;
    run.protocol->connected(c);
    flush(c);
}

/* Waits at most so long, then reads and writes all that is ready. */
static void turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, timeout_ms);
    now = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c == &standard_input || c == &timer) { /* of the timer, that it woke us is enough */
            char ignored[256];
            if (read(c->fd, ignored, sizeof ignored) <= 0 && c == &standard_input) {
                is_stdin_at_end = true;
                epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
            }
            continue;
        }
        if (c->stage == CONNECTING)
            is_connected(c);
        else if (events[i].events & EPOLLOUT)
            flush(c);
        if (events[i].events & ~(uint32_t)EPOLLOUT && !receive(c))
            fail(c, "the server closed the connection");
    }
}

/* One turn of a run in which something must arrive every --patience seconds. */
static void hopeful_turn(void)
{
    static uint64_t progress;
    static int64_t since;
    turn(50);
    uint64_t current = total(delivered) + (uint64_t)joined;
    if (current != progress || since == 0) {
        progress = current;
        since = now;
    } else if (now - since > run.patience * SECOND) {
        fail(NULL, "nothing arrived for %ld s: %d of %d joined, %lu messages sent, %lu deliveries",
             run.patience, joined, connection_count, total(sent), total(delivered));
    }
}

static void watch_stdin(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &standard_input};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event) != 0)
        is_stdin_at_end = true; /* a file or nothing: it has ended */
}

static void join_all(void)
{
    connection_count = (int)(run.receivers + run.senders);
    connections = table((size_t)connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++) {
        struct connection *c = &connections[i];
        c->index = i;
        c->is_sender = i >= run.receivers;
        c->out_size = OUT_SMALL;
        if (c->is_sender)
            c->out_size += run.rate ? PACED_OUT : (size_t)run.window * published_size();
        c->out = table(1, c->out_size);
    }
    while (joined < connection_count) {
        while (opened < connection_count && opened - joined < HANDSHAKES)
            open_next();
        hopeful_turn();
    }
    puts("ready");
    fflush(stdout);
    began = now = clock_ns(CLOCK_MONOTONIC);
}

/* Whether everybody has everything, the relay's senders too. */
static bool all_arrived(void)
{
    for (int s = 0; s < run.senders; s++) {
        if (delivered[s] != sent[s] * readers)
            return false;
        for (long i = run.receivers; run.protocol->senders_receive && i < connection_count; i++)
            if (connections[i].seen[s] != sent[s])
                return false;
    }
    return true;
}

/* ------------------------------------------------------------------------------ throughput */

struct mark {
    int64_t time, own_cpu, server_cpu;
    uint64_t delivered;
};

static struct mark mark(void)
{
    struct mark m = {.time = now, .delivered = total(delivered)};
    m.own_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    clockid_t clock; /* all threads' time, as in /proc/PID/stat, but in ns */
    if (run.server_pid != 0) {
        if (clock_getcpuclockid((pid_t)run.server_pid, &clock) != 0)
            fail(NULL, "no process %ld", run.server_pid);
        m.server_cpu = clock_ns(clock);
    }
    return m;
}

static void print_usage(struct mark begin, struct mark end)
{
    double seconds = (double)(end.time - begin.time) / 1e9;
    uint64_t deliveries = end.delivered - begin.delivered;
    printf("\"deliveries\": %lu, \"seconds\": %.4f, \"per_second\": %.0f, "
           "\"generator_cpu\": %.4f, \"server_cpu\": %.4f}\n",
           deliveries, seconds, (double)deliveries / seconds,
           (double)(end.own_cpu - begin.own_cpu) / 1e9,
           (double)(end.server_cpu - begin.server_cpu) / 1e9);
}

/* Lets each sender send what its window allows.  Waiting until that is some share of the window
 * measured no better: what comes while the server flushes is a batch already. */
static void pump(void)
{
    for (int s = 0; s < run.senders; s++) {
        struct connection *c = &connections[run.receivers + s];
        uint64_t ahead = sent[s] - delivered[s] / (uint64_t)run.receivers;
        uint64_t allowed = (uint64_t)run.window - ahead;
        if (allowed == 0)
            continue;
        room_to_write(c); /* is enough for a whole window */
        while (allowed-- > 0)
            compose(c, now);
        flush(c);
    }
}

static void throughput(void)
{
    struct mark begin = {0}, end = {0};
    int64_t begin_at = began + SECOND / 2;
    int64_t end_at = begin_at + run.seconds * SECOND;
    while (end.time == 0) {
        pump();
        hopeful_turn();
        if (begin.time == 0 && now >= begin_at)
            begin = mark();
        else if (begin.time != 0 && now >= end_at)
            end = mark();
    }
    while (!all_arrived())
        hopeful_turn();
    printf("{");
    print_usage(begin, end);
}

/* ------------------------------------------------------------------------------ latency */

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Prints p50 and p99, in µs, of the times since `due_at` of all messages but the first `skip`. */
static void print_percentiles(const char *name, int64_t *times, uint64_t skip, uint64_t count)
{
    for (uint64_t i = 1; i <= count; i++)
        times[i] -= due_at[i];
    int64_t *sample = times + 1 + skip;
    size_t size = count - skip;
    qsort(sample, size, sizeof *sample, by_size);
    printf("\"%s_p50_us\": %.1f, \"%s_p99_us\": %.1f, \"%s_max_us\": %.1f, ",
           name, (double)sample[size / 2] / 1e3,
           name, (double)sample[size - 1 - size / 100] / 1e3,
           name, (double)sample[size - 1] / 1e3);
}

/* What became of those who stopped reading: they read on until their end, or until nothing comes.
 * Of several, the one that took longest. */
static void print_stalled(void)
{
    const struct connection *last = &connections[0];
    int closed = 0;
    for (int i = 0; i < run.stalled; i++) {
        struct connection *c = &connections[i];
        struct pollfd readable = {.fd = c->fd, .events = POLLIN};
        while (c->stage == JOINED && poll(&readable, 1, 2000) > 0)
            if (!receive(c))
                c->stage = CLOSED;
        closed += c->stage == CLOSED;
        last = c->left_after > last->left_after ? c : last;
    }
    printf("\"stalled_closed\": %d, \"stalled_after_s\": %.2f, \"stalled_reason\": %d, "
           "\"stalled_bytes\": %lu, ", closed, last->left_after, last->left_reason, last->bytes);
}

static void latency(void)
{
    struct connection *sender = &connections[run.receivers];
    for (int i = 0; i < run.stalled; i++) {
        connections[i].is_stalled = true;
        watch(&connections[i], EPOLL_CTL_DEL, 0);
    }
    int64_t interval = run.rate ? SECOND / run.rate : 0, next_at = began;
    if (run.rate) {
        struct itimerspec each = {{interval / SECOND, interval % SECOND},
                                  {interval / SECOND, interval % SECOND}};
        timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        if (timer.fd < 0 || timerfd_settime(timer.fd, 0, &each, NULL) != 0)
            fail(NULL, "no timer: %s", strerror(errno));
        watch(&timer, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (run.until_eof)
        watch_stdin();
    int64_t end_at = began + run.seconds * SECOND;
    uint64_t most = run.count ? (uint64_t)run.count + WARM_UP : MAX_MESSAGES;
    struct mark begin = mark();
    while (now < end_at && sent[0] < most && !(run.until_eof && is_stdin_at_end)) {
        if (run.rate == 0 && complete == sent[0]) {
            due_at[sent[0] + 1] = now = clock_ns(CLOCK_MONOTONIC);
            compose(sender, now);
            flush(sender);
        }
        while (run.rate && next_at <= now && sent[0] < most &&
               room_to_write(sender) >= OUT_SMALL + published_size()) {
            due_at[sent[0] + 1] = next_at; /* not when it went: being late counts */
            compose(sender, next_at);
            next_at += interval;
            flush(sender);
        }
        hopeful_turn();
    }
    while (!all_arrived())
        hopeful_turn();
    if (sent[0] == 0)
        fail(NULL, "standard input ended before the first message");
    struct mark end = mark();
    uint64_t skip = sent[0] > 2 * WARM_UP ? WARM_UP : 0;
    printf("{\"messages\": %lu, ", sent[0] - skip);
    print_percentiles("first", first_at, skip, sent[0]);
    print_percentiles("last", last_at, skip, sent[0]);
    if (run.stalled)
        print_stalled();
    print_usage(begin, end);
}

static void idle(void)
{
    watch_stdin();
    while (!is_stdin_at_end)
        turn(-1);
    printf("{\"connections\": %d}\n", joined);
}

/* ------------------------------------------------------------------------------ command line */

static _Noreturn void usage(const char *what, const char *value)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, value);
    exit(2);
}

static const struct {
    const char *name;
    long *value, low, high;
} numbers[] = {
    {"port", &run.port, 1, 65535},           {"receivers", &run.receivers, 1, 50000},
    {"senders", &run.senders, 0, MAX_SENDERS}, {"window", &run.window, 1, 4096},
    {"seconds", &run.seconds, 1, 600},       {"count", &run.count, 1, MAX_MESSAGES / 2},
    {"rate", &run.rate, 1, 100000},          {"stalled", &run.stalled, 0, 1000},
    {"rooms", &run.rooms, 1, 1000},          {"patience", &run.patience, 1, 600},
    {"server-pid", &run.server_pid, 1, 1 << 22},
};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

/* Reads all options, and returns the mode. */
static const char *parse(int argc, char **argv)
{
    enum { HOST = NUMBERS, PROTOCOL, UNTIL_EOF, ALL };
    struct option known[ALL + 1] = {
        [HOST] = {"host", 1, NULL, HOST},
        [PROTOCOL] = {"protocol", 1, NULL, PROTOCOL},
        [UNTIL_EOF] = {"until-eof", 0, NULL, UNTIL_EOF},
    };
    for (int i = 0; i < NUMBERS; i++)
        known[i] = (struct option){numbers[i].name, 1, NULL, i};
    const char *protocol = "relay";
    int which;
    while ((which = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (which == HOST) {
            run.host = optarg;
        } else if (which == PROTOCOL) {
            protocol = optarg;
        } else if (which == UNTIL_EOF) {
            run.until_eof = true;
        } else if (which < NUMBERS) {
            char *end;
            long value = strtol(optarg, &end, 10);
            if (*optarg == '\0' || *end != '\0' || value < numbers[which].low ||
                value > numbers[which].high)
                usage(numbers[which].name, optarg);
            *numbers[which].value = value;
        } else {
            exit(2); /* getopt has said why */
        }
    }
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if (strcmp(protocols[i].name, protocol) == 0)
            run.protocol = &protocols[i];
    if (run.protocol == NULL)
        usage("no such protocol", protocol);
    if (optind != argc - 1)
        usage("expected one mode", "see the top of loadgen.c");
    if (run.port == 0)
        usage("missing", "--port");
    if (run.stalled >= run.receivers)
        usage("stalled", "somebody must go on reading");
    server_address.sin_family = AF_INET;
    server_address.sin_port = htons((uint16_t)run.port);
    if (inet_pton(AF_INET, run.host, &server_address.sin_addr) != 1 ||
        ntohl(server_address.sin_addr.s_addr) >> 24 != 127)
        usage("only addresses of 127.0.0.0/8 are loaded", run.host);
    return argv[optind];
}

int main(int argc, char **argv)
{
    const char *mode = parse(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    make_patterns();
    readers = (uint32_t)(run.receivers - run.stalled);
    poller = epoll_create1(EPOLL_CLOEXEC);
    bool is_latency = strcmp(mode, "latency") == 0, is_idle = strcmp(mode, "idle") == 0;
    if (!is_latency && !is_idle && strcmp(mode, "throughput") != 0)
        usage("no such mode", mode);
    if (run.senders == 0 && !is_idle)
        usage("senders", "0");
    if (is_latency) {
        run.senders = 1;
        due_at = table(MAX_MESSAGES + 1, sizeof *due_at);
        first_at = table(MAX_MESSAGES + 1, sizeof *first_at);
        last_at = table(MAX_MESSAGES + 1, sizeof *last_at);
        arrivals = table(MAX_MESSAGES + 1, sizeof *arrivals);
    }
    join_all();
    if (is_latency)
        latency();
    else if (is_idle)
        idle();
    else
        throughput();
    return 0;
}
