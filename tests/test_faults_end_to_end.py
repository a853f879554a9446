"""Real clients on a line that breaks: nothing is lost, nothing comes twice, and it is said once.

What others said meanwhile is fetched from them.  `Member` and `check` are for the long runs too
(`test_fault_torture`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import history_checker
from fault_proxy import FaultProxy, Way
from processes import DEADLINE_S, Process, Relay, environment

from chat_history import history
from chat_profile import Profile
from chat_verification import verify_profile

Event = dict[str, Any]
Script = Callable[[FaultProxy], None]


class Member(Process):
    """A client with --json."""

    def __init__(self, port: int, home: Path, name: str, *flags: str) -> None:
        arguments = ["--server", "127.0.0.1", "--port", str(port), "--name", name, *flags]
        super().__init__(["chat_client.py", "--json", *arguments], environment(home))
        self.name, self.home = name, home
        self.told: list[Event] = []  # so far
        self._read = 0  # bytes

    def says(self, *texts: str) -> None:
        """At most 64 characters each, and none of them twice."""
        self.types(*(json.dumps({"type": "say", "text": t, "id": t}) for t in texts))

    def reads(self, within_s: float = 0.0) -> bool:
        """Takes what it tells, and waits for something; whether there was anything."""
        whole = self.out.more(self._read, within_s).rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        self.told += map(json.loads, whole.splitlines())
        return bool(whole)

    def waits(self, is_it: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
        """Until that is so; only what it tells makes it so.  AssertionError: it took longer."""
        deadline = time.monotonic() + within_s
        self.reads()
        while not is_it():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{self.name} after {within_s} s: no {what}"
            if not self.reads(left_s):
                assert self.process.poll() is None, f"{self.name} ended: no {what}"

    def count(self, what: str, since: int = 0) -> int:
        """How often it told that."""
        return sum(event["type"] == what for event in self.told[since:])

    def joins(self) -> None:
        """Waits until it is in the room."""
        self.waits(lambda: self.count("ready") > 0, "ready")

    def meets(self, *nicks: str, within_s: float = DEADLINE_S) -> None:
        """Waits until all of them were seen in the room."""

        def met() -> set[str]:
            names = {event["name"] for event in self.told if event["type"] == "joined"}
            for event in self.told:
                names |= set(event.get("members", ()))
            return {name.partition("#")[0] for name in names}

        self.waits(lambda: met() >= set(nicks), f"meeting {nicks}", within_s)

    def is_back(self, since: int, within_s: float = DEADLINE_S) -> None:
        """Waits until what it told since ends in the room."""

        def here() -> bool:
            ways = ("connected_again", "connection_lost", "protocol_broken")
            told = [event["type"] for event in self.told[since:] if event["type"] in ways]
            return bool(told) and told[-1] == "connected_again"

        self.waits(here, "connection again", within_s)

    def mined(self) -> list[str]:
        """Texts that it told us are mined, in order."""
        self.reads()
        return [event["id"] for event in self.told if event["type"] == "sent"]

    def heard(self) -> list[str]:
        """What others said, in the order in which it was told."""
        self.reads()
        return [event["text"] for event in self.told if event["type"] == "message"]

    def late(self) -> set[str]:
        """Texts that it told came late."""
        self.reads()
        return {e["text"] for e in self.told if e["type"] == "message" and e["late"]}

    def hears(self, texts: Iterable[str], within_s: float = DEADLINE_S) -> None:
        """Waits until it was told all of them."""
        missing = set(texts)
        seen = 0

        def is_complete() -> bool:
            nonlocal seen
            missing.difference_update(event["text"] for event in self.told[seen:])
            seen = len(self.told)
            return not missing

        try:
            self.waits(is_complete, "message that was waited for", within_s)
        except AssertionError as exc:
            exc.add_note(f"missing: {sorted(missing)[:10]}")
            raise

    def leaves(self) -> int:
        """Ends its input and waits for its end."""
        self.ends_input()
        return self.exit_code()


def texts_on(home: Path) -> list[str]:
    """Every message on the chain of a profile that nobody uses, which must be OK."""
    checked = verify_profile(home)
    assert [found.exit_code for found in checked] == [0], checked
    with Profile.open(home, create=False) as profile:
        return [line.text for line in history(profile.chain, 1 << 30)]


def check(
    homes: Mapping[str, Path],
    mined: Mapping[str, list[str]],
    late: Mapping[str, Collection[str]],
    asked: Mapping[str, list[str]] | None = None,
) -> None:
    """What must hold of all chains at the end, whatever happened, of those who were there together.

    Args:
        homes: by name of the member; its texts begin with that name and a space, and a number that
            rises is their last word.
        mined: what each was told is mined, in order.
        late: by name, what may stand behind later messages of its author.  Without a name: all.
        asked: what each was asked to say, in order, if it may have been killed before it said so.
    """
    chains = {name: texts_on(home) for name, home in homes.items()}
    said = {name: [t for t in texts if t.startswith(f"{name} ")] for name, texts in chains.items()}
    for name, texts in chains.items():
        assert len(texts) == len(set(texts)), f"twice on the chain of {name}"
        if asked is None:
            assert said[name] == mined[name], f"the chain of {name} is not what was mined"
        else:
            lost = set(mined[name]) - set(texts)
            assert not lost, f"mined, and not on the chain of {name}: {sorted(lost)[:10]}"
            assert said[name] == [t for t in asked[name] if t in set(said[name])]
        for author in homes:
            due = [t for t in texts if t.startswith(f"{author} ") and t not in late.get(name, [t])]
            numbers = [int(t.split()[-1]) for t in due]
            assert numbers == sorted(numbers), f"{author}'s out of order at {name}"
    history_checker.check(history_checker.of_profiles(homes), lacking=(), late=None)


# --------------------------------------------------------------------------- each fault once


def cut(line: FaultProxy) -> None:
    line.cut()


def cut_into_a_blackhole(line: FaultProxy) -> None:
    line.blackhole()
    line.cut()


def half_close_up(line: FaultProxy) -> None:
    line.half_close(Way.UP)


def half_close_down(line: FaultProxy) -> None:
    line.half_close(Way.DOWN)


def repeat_bytes(line: FaultProxy) -> None:
    line.duplicate(Way.DOWN)


# So many bits that the next length is beyond all limits; with fewer it may take 45 s to be noticed.


def corrupt_down(line: FaultProxy) -> None:
    line.corrupt(Way.DOWN, every=1)


def corrupt_up(line: FaultProxy) -> None:
    line.corrupt(Way.UP, every=1)


def stall(line: FaultProxy) -> None:
    line.stall()


def stall_upwards(line: FaultProxy) -> None:
    line.stall(Way.UP)


def delay(line: FaultProxy) -> None:
    line.delay(0.05)


BREAKING = (
    cut,
    cut_into_a_blackhole,
    half_close_up,
    half_close_down,
    repeat_bytes,
    corrupt_down,
    corrupt_up,
)
BENDING = (stall, stall_upwards, delay)  # for a moment, which TCP survives


def test_a_line_that_breaks_loses_nothing_repeats_nothing_and_is_said_once(tmp_path: Path) -> None:
    with (
        Relay() as relay,
        FaultProxy(relay.port, seed=1) as line,
        Member(line.port, tmp_path / "alice", "alice") as alice,
        Member(relay.port, tmp_path / "bob", "bob") as bob,
    ):
        alice.meets("bob")
        bob.meets("alice")
        for number, fault in enumerate((*BENDING, *BREAKING)):
            try:
                break_it(line, fault, alice, bob, 10 * number)
            except AssertionError as exc:
                exc.add_note(f"while: {fault.__name__}")
                raise
        mined = {member.name: member.mined() for member in (alice, bob)}
        late = {member.name: member.late() for member in (alice, bob)}
        assert [alice.leaves(), bob.leaves()] == [0, 0]
    check({member.name: member.home for member in (alice, bob)}, mined, late)


def break_it(line: FaultProxy, fault: Script, alice: Member, bob: Member, number: int) -> None:
    """One fault from before it begins until all is well and everybody has heard everything."""
    breaks = fault in BREAKING
    before, during, offline, after = (
        f"{when} {number + n}" for n, when in enumerate(("before", "during", "offline", "after"))
    )
    alice.says(f"alice {before}")
    bob.hears([f"alice {before}"])
    since = len(alice.told)
    fault(line)
    alice.says(f"alice {during}")
    bob.says(f"bob {during}")
    alice.waits(lambda: f"alice {during}" in alice.mined(), "coin")
    said = [f"alice {during}"]
    if breaks:
        alice.waits(lambda: alice.count("connection_lost", since) > 0, "word that it is lost")
        alice.says(f"alice {offline}")
        alice.waits(lambda: f"alice {offline}" in alice.mined(), "coin")
        said.append(f"alice {offline}")
    line.heal()
    if breaks:
        alice.is_back(since)
    bob.hears(said)
    bob.says(f"bob {after}")
    alice.hears([f"bob {during}", f"bob {after}"])
    alice.says(f"alice {after}")
    bob.hears([f"alice {after}"])
    if is_late := f"bob {during}" in alice.late():
        alice.waits(lambda: alice.count("caught_up", since) > 0, "word that it caught up")
    assert is_late or fault is not cut_into_a_blackhole
    assert not is_late or breaks
    for what in ("connection_lost", "connected_again"):
        assert alice.count(what, since) == breaks, (what, alice.told[since:])
    caught_up = [event for event in alice.told[since:] if event["type"] == "caught_up"]
    assert [event["text"] for event in caught_up] == is_late * ["caught up: 1 message"]
    assert [event["count"] for event in caught_up] == is_late * [1]
    why = [event["text"] for event in alice.told[since:] if event["kind"] in ("alert", "error")]
    assert len(why) == breaks, why
