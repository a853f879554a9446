"""Where a second sender thread pays: one flush to N members, with one thread and with more.

    python benchmarks/bench_senders.py [--threads 2] [--sizes 605 9000 38720]

Members are loopback connections whose buffers are empty and which nobody reads, so the flush is all
that is measured; a few rounds fit into their buffers, then new ones are made.  The first line says
what two busy processes get of this machine at the same time: where that is 1.0, no thread can gain
anything, and what is left to see is the price of the hand-over.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import chat_fanout  # noqa: E402 - found through the line above
from chat_fanout import Log, Outlet, Senders  # noqa: E402
from chat_wire import Broadcast  # noqa: E402

MEMBERS = (32, 64, 128, 256, 512, 1000)
ROUND_BYTES = 40_000  # of one member, before it gets a new connection
REPEATS = 5


def busy() -> float:
    """Seconds for a fixed amount of work."""
    start, total = time.perf_counter(), 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - start


def parallel_speed() -> float:
    """How much two processes get done at the same time, in processes."""
    with multiprocessing.Pool(2) as pool:
        alone = pool.apply(busy)
        both = [task.get() for task in [pool.apply_async(busy) for _ in range(2)]]
    return 2 * alone / max(both)


def flush_us(size: int, members: int, threads: int) -> float:
    """Microseconds of one flush of a frame of `size` bytes; the median of all rounds."""
    times: list[float] = []
    payload = Broadcast(bytes(size - 5)).serialize()
    senders = Senders(threads)
    for _ in range(REPEATS):
        log, outlets, peers = Log(), list[Outlet](), list[socket.socket]()
        with socket.create_server(("127.0.0.1", 0), backlog=members) as listener:
            for _member in range(members):
                peers.append(socket.create_connection(listener.getsockname()))
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                outlets.append(Outlet(sock))
                outlets[-1].enter(log)
        for _round in range(max(1, ROUND_BYTES // size)):
            log.append(payload)
            start = time.perf_counter()
            log.share(members)
            sent, troubled = senders.flush(outlets)
            times.append(time.perf_counter() - start)
            assert (sent, troubled) == (size * members, [])
        for outlet in outlets:
            outlet.close()
        for peer in peers:
            peer.close()
    senders.close()
    return statistics.median(times) * 1e6


def main() -> None:
    """Prints a row for each size and number of members."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[605, 9_000, 38_720])
    options = parser.parse_args()
    print(f"two busy processes at the same time get {parallel_speed():.2f} of one's work done")
    chat_fanout.OUTLETS_A_THREAD = 1  # the switch is what is to be found
    print(f"{'bytes':>7} {'members':>8} {'1 thread':>12} {options.threads:>5} threads   gain")
    for size in options.sizes:
        for members in MEMBERS:
            one, more = (flush_us(size, members, n) for n in (1, options.threads))
            print(f"{size:7} {members:8} {one:9.0f} µs {more:9.0f} µs   {one / more:.2f}")


if __name__ == "__main__":
    main()
