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
from processes import DEADLINE_S, Client, Guest, Relay, RelayHere, Wire, settled
from simulated_room import is_message

from chat_wire import MAX_FRAME_BYTES, FrameDecoder


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


def test_what_was_said_while_one_was_away_comes_from_whoever_has_it(tmp_path: Path) -> None:
    """From who heard it, when its author is gone; what nobody heard, from its author's next run."""
    homes = {name: tmp_path / name for name in ("alice", "bob", "carol")}
    with ExitStack() as stack:
        with RelayHere() as relay:
            port = relay.port
            carol = stack.enter_context(Guest(port, homes["carol"], "carol"))
            alice = stack.enter_context(Guest(port, homes["alice"], "alice", "--linger", "0.2"))
            with Guest(port, homes["bob"], "bob") as bob:
                for one, others in ((alice, (bob, carol)), (bob, (carol,)), (carol, (bob,))):
                    for other in others:
                        one.sees(other.name)
                assert bob.leaves() == 0
            alice.err.wait_for(r"^-- bob#\w{4} left$")
            alice.types("one", "/msg bob two")
            alice.err.wait_for(r"^-- bob#\w{4} is away: kept on your chain, delivered when ")
            carol.shows(r"alice#\w{4}: one")
        alice.err.wait_for(r"^-- connection lost")
        alice.types("three")
        alice.out.wait_for(r"^Mined 1 coin\. New balance: 3$")
        assert alice.leaves() == 3
        alice.err.wait_for(r"^!! 2 messages not delivered; kept on your chain$")

        stack.enter_context(RelayHere(port))
        bob_again = stack.enter_context(Client(port, homes["bob"], "bob"))
        bob_again.shows(r"alice#\w{4} \(late, via carol#\w{4}\): one")
        bob_again.err.wait_for(r"^-- caught up: 1 message$")
        alice_again = stack.enter_context(Client(port, homes["alice"], "alice"))
        bob_again.shows(r"alice#\w{4} \(private, late\): two")
        for member in (bob_again, carol):
            member.shows(r"alice#\w{4} \(late(, via \w+#\w{4})?\): three")
        bob_again.err.wait_for(r"^-- caught up: 2 messages$")
        carol.err.wait_for(r"^-- caught up: 1 message$")
        assert [one.leaves() for one in (alice_again, bob_again, carol)] == [0, 0, 0]
        assert bob_again.out.text.count("alice#") == 3
        assert "two" not in carol.out.text
        assert "!!" not in bob_again.err.text
    check(homes)


def test_a_relay_killed_in_the_middle_of_a_burst_takes_nothing_with_it(tmp_path: Path) -> None:
    homes = {"alice": settled(tmp_path / "alice"), "bob": tmp_path / "bob"}
    said = [f"line {n}" for n in range(200)]
    with Relay() as relay:
        port = relay.port
        alice = Client(port, homes["alice"], "alice")
        bob = Guest(port, homes["bob"], "bob")
        with alice, bob:
            alice.sees("bob")
            alice.types(*said)
            bob.shows(r"alice#\w{4}: line 5")
            relay.process.send_signal(signal.SIGKILL)
            relay.process.wait(DEADLINE_S)
            with Relay("--port", str(port)):
                alice.out.wait_for(r"^Mined 1 coin\. New balance: 200$")
                bob.shows(r"alice#\w{4}( \(late\))?: line \d+", len(said))
                assert [alice.leaves(), bob.leaves()] == [0, 0]
            texts = [line.split(": ")[1] for line in bob.out.text.splitlines() if ": line" in line]
            assert sorted(texts) == sorted(said)
    check(homes)
