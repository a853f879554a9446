"""One sender, two receivers, real processes: messages a second, and where the time goes.

    python benchmarks/bench_chat.py [--messages 10000] [--repeats 3] [--profile]

Each repeat starts a relay and three clients with new profiles on the loopback interface, pipes the
lines into one client, and takes three times: until the sender mined its last line, until the sender
left (every receiver confirmed), and until each receiver showed the last line.  Everything shown is
verified and on disk.  All processes share this machine's cores, which the figures therefore do too.

--profile runs one client's work in this process instead, without sockets, and prints cProfile's
view of it: sending, then receiving.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TEXT = "line {}: the quick brown fox jumps over the lazy dog, and the ship's cat watches it"


def one_run(messages: int) -> dict[str, float]:
    """Messages a second: mined by the sender, confirmed to it, shown by the slower receiver."""
    from processes import Client, Relay

    with tempfile.TemporaryDirectory() as folder, Relay("--rate", "0") as relay:
        home = Path(folder)
        with (
            Client(relay.port, home / "b", "bob").joined() as bob,
            Client(relay.port, home / "c", "carol").joined() as carol,
            Client(relay.port, home / "a", "alice").joined() as alice,
        ):
            for other in (bob, carol):
                other.sees("alice")
            start = time.perf_counter()
            alice.types(*(TEXT.format(i) for i in range(messages)))
            alice.ends_input()
            alice.out.wait_for(f"New balance: {messages}$")
            mined = time.perf_counter() - start
            last = rf"line {messages - 1}: .*$"
            for other in (bob, carol):
                other.out.wait_for(last)
            shown = time.perf_counter() - start
            assert alice.exit_code() == 0, alice.err.text
            confirmed = time.perf_counter() - start
            for other in (bob, carol):
                assert other.leaves() == 0
                said = re.findall(r": line (\d+): ", other.out.text)
                assert said == [str(i) for i in range(messages)], "lost or out of order"
    return {
        "sent (mined, on disk)": messages / mined,
        "received (verified, on disk, shown)": messages / shown,
        "confirmed to the sender": messages / confirmed,
    }


def profile(messages: int) -> None:
    """cProfile of the session and the chain: sending, then receiving, in one process."""
    from simulated_room import SimulatedRoom, keystore

    from blockchain import Blockchain
    from chat_effects import Append

    room = SimulatedRoom()
    alice, bob = room.join("alice"), room.join("bob")
    frames: list[bytes] = []
    room.tamper = lambda _sender, receiver, frame: (
        frames.append(frame) or [] if receiver is bob else [frame]  # type: ignore[func-returns-value]
    )
    with tempfile.TemporaryDirectory() as folder:
        for what, member in (("sending", alice), ("receiving", bob)):
            chain = Blockchain.create(
                Path(folder) / f"{member.name}.db", keystore(member.name), room.now.ms
            )
            profiler = cProfile.Profile()
            start = time.perf_counter()
            profiler.enable()
            if member is alice:
                for i in range(messages):
                    effects = alice.session.typed(TEXT.format(i), room.now)
                    chain.append([e.draft for e in effects if isinstance(e, Append)], room.now.ms)
                    alice.perform([e for e in effects if not isinstance(e, Append)])
                    room.settle()
            else:
                from chat_wire import Frame

                for i in range(0, len(frames), 20):
                    effects = []
                    for frame in frames[i : i + 20]:
                        effects += bob.session.receive(Frame(frame), room.now)
                    chain.append([e.draft for e in effects if isinstance(e, Append)], room.now.ms)
            profiler.disable()
            took = time.perf_counter() - start
            chain.close()
            print(f"\n{what}: {took / messages * 1e6:.0f} µs a message under the profiler")
            pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


def main() -> None:
    """Prints medians with the least and the most of all repeats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        profile(min(options.messages, 5_000))
        return
    version = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    print(
        f"chainroom {version}, {os.cpu_count()} cores, {options.messages} messages to 2 receivers"
    )
    runs = [one_run(options.messages) for _ in range(options.repeats)]
    for name in runs[0]:
        rates = [run[name] for run in runs]
        low, middle, high = min(rates), statistics.median(rates), max(rates)
        print(f"{name:40} {middle:6.0f}/s  ({low:.0f}-{high:.0f})")


if __name__ == "__main__":
    main()
