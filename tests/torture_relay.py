"""A relay under torture: thousands of messages while members come and go every 50 ms.

    python tests/torture_relay.py [--messages 24000] [--members 60] [plain] [shared]

Whoever stayed must have heard every message once, in one order, with each direct frame in its
place; whoever came and left must have heard the part of that order that it was there for.  One
member stops reading, and is cut.  The relay is a process of its own, taken both ways
(`relay_peers.WAYS`).  Ends with code 1 and what was wrong, or prints what was counted.

No test of pytest's: it takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 1)]

import pytest
from relay_peers import WAYS, Crowd, Ear, Ended, Peer, judge, talk, use

import chat_server
from chat_daemon import EventLog
from chat_members import Limits

TALKERS = 4
WINDOW = 400  # messages that the slowest reader may have yet to hear
INTERVAL_S = 0.05  # between one guest's coming and the next
DEADLINE_S = 240.0  # for one way


def serve(way: str) -> None:
    """The relay's process: a port on its output, then its log; it ends with its input."""
    use(WAYS[way], pytest.MonkeyPatch())
    chat_server.UNSENT_BYTES = 4_096  # so that the kernel often takes no more, or only a part
    log = EventLog(lambda line: os.write(1, line), as_json=True)
    relay = chat_server.start_server(
        "127.0.0.1",
        0,
        limits=Limits(rate=0, max_lag_bytes=2_000_000),
        log=log,
        senders=WAYS[way].senders,
    )
    sys.stdin.read()
    relay.request_status()
    relay.stop()
    log.close()
    sys.exit(relay.failure is not None)


def join(port: int, rcvbuf: int | None = None) -> Peer:
    """A member that was welcomed."""
    peer = Peer(("127.0.0.1", port), rcvbuf=rcvbuf)
    peer.join()
    peer.welcome()
    return peer


def torture(port: int, messages: int, members: int) -> dict[str, float]:
    """Talks, comes and goes, and judges; returns what was counted."""
    start, rng = time.monotonic(), random.Random(1)
    guests: list[Ear] = []
    present: list[Ear] = []
    with Crowd() as crowd:
        # Every third has the smallest buffer.
        ears = [crowd.add(join(port, None if n % 3 else 4096)) for n in range(members)]
        stalled = join(port, rcvbuf=4096)
        speakers = [
            threading.Thread(
                target=talk, args=(crowd, ears, range(n, messages, TALKERS), WINDOW), daemon=True
            )
            for n in range(TALKERS)
        ]
        for speaker in speakers:
            speaker.start()
        while any(speaker.is_alive() for speaker in speakers):
            if time.monotonic() - start > DEADLINE_S:
                raise TimeoutError(f"only {len(ears[0].numbers)} messages were heard")
            began = time.monotonic()
            guests.append(crowd.add(join(port)))
            present.append(guests[-1])
            if len(present) > 5:
                crowd.drop(present.pop(rng.randrange(len(present))))
            time.sleep(max(0.0, INTERVAL_S - (time.monotonic() - began)))
        for guest in present:
            crowd.drop(guest)
        told = len([n for n in range(messages) if n // TALKERS % 10 == 0])
        crowd.wait(lambda: all(len(ear.numbers) == messages for ear in ears))
        crowd.wait(lambda: all(len(ear.dels) > len(guests) for ear in ears))  # the stalled one too
        crowd.wait(lambda: sum(len(ear.directs) for ear in ears) == told)
        seconds = time.monotonic() - start
    judge(ears, guests, TALKERS, messages)
    stalled.close()
    for ear in ears:
        ear.peer.close()
    return {
        "members": members,
        "guests": len(guests),
        "messages": messages,
        "directs": told,
        "deliveries": sum(len(ear.numbers) for ear in [*ears, *guests]) + told,
        "seconds": round(seconds, 1),
    }


def run(way: str, messages: int, members: int) -> str:
    """One way from beginning to end; returns the line to print."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--serve", way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        address = str(json.loads(child.stdout.readline())["address"])
        log: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: log.extend(map(json.loads, child.stdout or ())))
        reader.start()
        counts = torture(int(address.rpartition(":")[2]), messages, members)
        child.stdin.close()
        code = child.wait(DEADLINE_S)
        reader.join()
    finally:
        child.kill()
        child.wait()
    drops = [event["drops"] for event in log if event["event"] == "status"]
    assert code == 0, "the relay failed"
    assert not [event for event in log if event["event"] == "bug"]
    assert drops == [1], f"the stalled member alone is cut, not {drops}"
    return f"{way}: " + ", ".join(f"{value} {name}" for name, value in counts.items())


def main() -> int:
    """Tortures both ways, or those that are named."""
    parser = argparse.ArgumentParser(description="a relay under torture")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--messages", type=int, default=24_000)
    parser.add_argument("--members", type=int, default=60)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    for way in options.ways or ["plain", "shared"]:
        try:
            print(run(way, options.messages, options.members), flush=True)
        except (AssertionError, Ended, OSError, ValueError) as exc:
            print(f"{way}: FAILED: {exc!r}", flush=True)
            return 1
    print("nobody who stayed missed or repeated a frame")
    return 0


if __name__ == "__main__":
    sys.exit(main())
