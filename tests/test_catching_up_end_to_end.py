"""Catching up through real processes: each thing that a person is told of it, once.

Who is not a process is a guest on a thread.  What JSON says of it is in `test_faults_end_to_end`.
"""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import history_checker
import pytest
from processes import DEADLINE_S, Client, Guest, Relay, RelayHere, Wire, settled
from simulated_room import is_message

from chat_wire import MAX_FRAME_BYTES, FrameDecoder

pytestmark = pytest.mark.usefixtures("quick_keys")  # which the checker reads again and again


class Withholding(Wire):
    """A relay, to those who come this way, that withholds messages when a test says so."""

    def __init__(self, port: int) -> None:
        self.withholds = False
        self.withheld = threading.Semaphore(0)  # released by each
        super().__init__(port)

    def _forward(self, source: socket.socket, target: socket.socket, captured: bytearray) -> None:
        decoder = FrameDecoder(MAX_FRAME_BYTES)
        try:
            while data := source.recv(65_536):
                decoder.feed(data)
                for frame in decoder:
                    if self.withholds and is_message(frame.raw):
                        self.withheld.release()
                    else:
                        target.sendall(frame.raw)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def check(homes: dict[str, Path]) -> None:
    """Nothing is lost, nothing twice, every chain verifies, and coins are right."""
    history_checker.check(history_checker.of_profiles(homes), lacking=(), late=None)


def test_what_is_withheld_is_missed_and_comes_when_somebody_is_here_who_has_it(
    relay: RelayHere, tmp_path: Path
) -> None:
    homes = {name: tmp_path / name for name in ("alice", "bob", "carol")}
    with (
        Withholding(relay.port) as wire,
        Client(wire.port, settled(homes["bob"]), "bob") as bob,
        Guest(wire.port, homes["carol"], "carol") as carol,
    ):
        with Client(relay.port, settled(homes["alice"]), "alice") as alice:
            for one, others in ((alice, (bob, carol)), (bob, (carol,)), (carol, (bob,))):
                for other in others:
                    one.sees(other.name)
            alice.types("one")
            for member in (bob, carol):
                member.shows(r"alice#\w{4}: one")
            wire.withholds = True
            alice.types("two")
            for _ in (bob, carol):
                assert wire.withheld.acquire(timeout=DEADLINE_S)
            wire.withholds = False
            alice.types("three")
            for member in (bob, carol):
                member.shows(r"alice#\w{4}: three")
            bob.err.wait_for(r"^-- 1 message of alice#\w{4} missing, fetching$")
            alice.process.send_signal(signal.SIGKILL)
            alice.process.wait(DEADLINE_S)
        bob.err.wait_for(
            r"^-- 1 message of alice#\w{4} still missing: nobody here has what is for you$"
        )
        assert "two" not in bob.out.text
        with Guest(relay.port, homes["alice"], "alice") as alice_again:
            for member in (bob, carol):
                member.shows(r"alice#\w{4} \(late(, via \w+#\w{4})?\): two")
                member.err.wait_for(r"^-- caught up: 1 message$")
            assert [one.leaves() for one in (alice_again, bob, carol)] == [0, 0, 0]
        assert bob.out.text.count("two") == 1
        assert bob.err.text.count("missing") == 2
        assert "!!" not in bob.err.text
    check(homes)


def test_what_was_said_while_one_was_away_outlives_relay_and_author(tmp_path: Path) -> None:
    """What somebody heard comes from there while the author is gone; what nobody heard, since the
    relay was killed in the middle of a burst or one was away, from the author's next run."""
    homes = {name: tmp_path / name for name in ("alice", "bob", "carol")}
    burst = [f"line {n}" for n in range(100)]
    with ExitStack() as stack:
        relay = stack.enter_context(Relay())
        carol = stack.enter_context(Guest(relay.port, homes["carol"], "carol"))
        alice = stack.enter_context(Guest(relay.port, homes["alice"], "alice", "--linger", "0.2"))
        with Guest(relay.port, homes["bob"], "bob") as bob:
            for one, others in ((alice, (bob, carol)), (bob, (carol,)), (carol, (bob,))):
                for other in others:
                    one.sees(other.name)
            assert bob.leaves() == 0
        alice.err.wait_for(r"^-- bob#\w{4} left$")
        alice.types("/msg bob psst")
        alice.err.wait_for(r"^-- bob#\w{4} is away: kept on your chain, delivered when ")
        alice.types(*burst[:50])
        carol.shows(r"alice#\w{4}: line 9")
        relay.process.send_signal(signal.SIGKILL)
        relay.process.wait(DEADLINE_S)
        alice.types(*burst[50:])
        alice.err.wait_for(r"^!! connection lost: ")
        alice.types("offline")
        alice.out.wait_for(r"^Mined 1 coin\. New balance: 102$")
        assert alice.leaves() == 3
        alice.err.wait_for(r"^!! \d+ messages not delivered; kept on your chain$")

        stack.enter_context(Relay("--port", str(relay.port)))
        bob_again = stack.enter_context(Client(relay.port, homes["bob"], "bob"))
        bob_again.shows(r"alice#\w{4} \(late, via carol#\w{4}\): line 9")
        bob_again.err.wait_for(r"^-- caught up: \d+ messages$")
        alice_again = stack.enter_context(Client(relay.port, homes["alice"], "alice"))
        bob_again.shows(r"alice#\w{4} \(private, late\): psst")
        for member in (bob_again, carol):
            member.shows(r"alice#\w{4} \(late(, via \w+#\w{4})?\): offline")
        bob_again.err.wait_for(r"^-- caught up: \d+ messages$", 2)
        carol.err.wait_for(r"^-- caught up: \d+ messages?$")
        assert [one.leaves() for one in (alice_again, bob_again, carol)] == [0, 0, 0]
        heard = [line.split("): ")[1] for line in bob_again.out.text.splitlines() if "late" in line]
        assert sorted(heard) == sorted([*burst, "offline", "psst"])
        assert "psst" not in carol.out.text
        assert "!!" not in bob_again.err.text
    check(homes)
