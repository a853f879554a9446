"""Catching up: what was said while somebody was away comes from whoever has it."""

from __future__ import annotations

import pytest
from simulated_room import (
    DECIDED_S,
    SimulatedMember,
    SimulatedRoom,
    is_message,
    payload_of,
    tag,
)

from chat_messages import Sync
from chat_terminal import Kind
from chat_text import local_time

CAUGHT_UP_S = 6.0  # an ack interval, and some questions


def name(of: str) -> str:
    return f"{of}#{tag(of)}"


def come_back(room: SimulatedRoom, member: SimulatedMember) -> SimulatedMember:
    """Its next run, which remembers all that the last one did."""
    again = room.join(member.name, member.memory)
    again.remembered |= {**member.remembered, **again.remembered}
    return again


def says_unheard(
    room: SimulatedRoom, speaker: SimulatedMember, reader: SimulatedMember, text: str
) -> None:
    """The relay withholds it from one of them."""
    room.tamper = lambda sender, receiver, data: (
        [] if receiver is reader and is_message(data) else [data]
    )
    speaker.types(text)
    room.tamper = None


# ------------------------------------------------------------------------------------------------
# What one missed


def test_what_was_said_while_the_line_was_down_is_handed_on_once_in_order(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.disconnect(bob)
    for text in ("two", "three", "four"):
        alice.types(text)
    room.connect(bob)
    room.passes(CAUGHT_UP_S)
    assert bob.texts == ["one", "two", "three", "four"]
    assert bob.notices[-1] == "-- caught up: 3 messages"
    late = [line for line in bob.lines if line.kind is Kind.MESSAGE][1:]
    assert [line.author for line in late] == [f"{name('alice')} (late)"] * 3
    assert all(line.fields["late"] for line in late)
    alice.types("five")
    room.passes(30)
    assert bob.texts == ["one", "two", "three", "four", "five"]
    assert (alice.alerts, bob.counts, alice.counts) == ([], {}, {})


def test_next_run_gets_what_was_said_between(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.crash(bob)
    alice.types("two")
    again = come_back(room, bob)
    room.passes(CAUGHT_UP_S)
    assert again.texts == ["two"]
    assert again.notices[-1] == "-- caught up: 1 message"


def test_it_comes_from_who_has_it_when_its_author_is_gone(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.crash(bob)
    alice.types("two")
    room.passes(5)
    room.crash(alice)
    again = come_back(room, bob)
    room.passes(CAUGHT_UP_S)
    assert again.texts == ["two"]
    (line,) = [line for line in again.lines if line.kind is Kind.MESSAGE]
    assert line.author == f"{name('alice')} (late, via {name('carol')})"


def test_who_was_never_met_is_introduced_by_what_it_said(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    room.crash(bob)
    dave = room.join("dave")
    room.passes(5)
    alice.types("tell bob")  # so that dave, who was told nothing of bob, is not the only author
    dave.types("hello")
    room.crash(dave)
    again = come_back(room, bob)
    room.passes(CAUGHT_UP_S)
    assert again.texts == ["tell bob"]  # dave never saw bob, so bob is not in its audience


def test_private_message_reaches_who_was_away_from_a_later_run_of_its_author(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    room.crash(bob)
    alice.types("/msg bob between us")
    assert alice.said("is away")
    room.crash(alice)
    come_back(room, alice)
    carol = room.join("carol")
    again = come_back(room, bob)
    room.passes(CAUGHT_UP_S)
    assert again.messages == ["alice: between us"]
    (line,) = [line for line in again.lines if line.kind is Kind.MESSAGE]
    assert line.author == f"{name('alice')} (private, late)"
    assert carol.texts == []


def test_what_was_withheld_is_said_and_fetched(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    says_unheard(room, alice, bob, "two")
    alice.types("three")
    assert bob.notices[-1] == f"-- 1 message of {name('alice')} missing, fetching"
    room.passes(9)
    assert bob.texts == ["one", "three"]
    room.passes(CAUGHT_UP_S)
    assert bob.texts == ["one", "three", "two"]


def test_last_message_is_missed_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Nothing comes behind it that could show a gap: the acks do."""
    alice.types("one")
    room.passes(5)
    says_unheard(room, alice, bob, "two")
    room.passes(20)
    assert bob.texts == ["one", "two"]


# ------------------------------------------------------------------------------------------------
# And nothing that was not for one


def test_latecomer_gets_nothing_from_before(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("before")
    room.passes(5)
    carol = room.join("carol")
    room.passes(30)
    alice.types("after")
    room.passes(30)
    assert carol.texts == ["after"]
    assert not carol.said("missing")


def test_ignored_one_gets_nothing_of_who_ignores_it_from_anybody(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    alice.types(f"/ignore {name('bob')}")
    alice.types("not for bob")
    room.passes(60)
    room.disconnect(bob)
    alice.types("nor this")
    room.connect(bob)
    room.passes(60)
    alice.types(f"/ignore {name('bob')} off")
    alice.types("for all")
    room.passes(60)
    assert bob.texts == ["one", "for all"]
    assert not bob.said("missing")
    assert carol.texts == ["one", "not for bob", "nor this", "for all"]


def test_private_messages_are_handed_on_by_the_two_alone(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("/msg bob between us")
    room.passes(5)
    room.disconnect(carol)
    room.connect(carol)
    room.passes(30)
    assert carol.texts == []
    assert bob.texts == ["between us"]


def test_key_that_is_not_accepted_is_handed_on_after_it_is(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    carol = room.join("carol")
    mallory = room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    for n in range(70):  # more than wait unread
        mallory.types(f"{n}")
    room.crash(mallory)
    knows_bob.types(f"/accept #{tag('mallory')}")
    room.passes(30)
    assert carol.texts == [f"{n}" for n in range(70)]
    assert knows_bob.texts == carol.texts


def test_what_stands_behind_a_hole_is_handed_on_when_that_is_filled(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.disconnect(carol)
    kept: list[bytes] = []

    def keep(sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes) -> list[bytes]:
        if receiver is bob and is_message(data):
            kept.append(data)
            return []
        return [data]

    room.tamper = keep
    alice.types("two")
    room.tamper = None
    alice.types("three")
    room.crash(alice)
    room.connect(carol)
    room.passes(CAUGHT_UP_S)
    assert carol.texts == ["one"]  # who may read "three" stands before it, for all that bob knows
    room.connect(alice)
    room.passes(0.1)
    bob.hears(*kept)
    room.crash(alice)
    room.passes(30)
    assert bob.texts == ["one", "three", "two"]
    assert carol.texts == ["one", "two", "three"]


@pytest.mark.parametrize("count", [300])
def test_more_than_one_answer_holds_comes_in_many(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, count: int
) -> None:
    alice.types("one")
    room.passes(5)
    room.disconnect(bob)
    texts = [f"{n} {'x' * 600}" for n in range(count)]
    for text in texts:
        alice.types(text)
    room.connect(bob)
    room.passes(20)
    assert bob.texts == ["one", *texts]
    assert bob.notices[-1] == f"-- caught up: {count} messages"


def test_nobody_is_asked_again_who_gained_nothing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(20)
    before = len([f for f in room.captured if isinstance(payload_of(f), Sync)])
    room.disconnect(bob)
    room.passes(1)
    room.connect(bob)
    room.passes(20)
    alice.types("two")
    room.passes(20)
    assert len([f for f in room.captured if isinstance(payload_of(f), Sync)]) == before


# ------------------------------------------------------------------------------------------------
# And who wrote it learns who has it


def test_who_is_here_and_confirms_nothing_is_said_once_with_the_time(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    room.tamper = lambda sender, receiver, data: [] if sender is bob else [data]
    alice.types("one")
    since = local_time(room.now.ms, "hm")
    room.passes(30)
    alice.types("two")
    assert not alice.said("not confirmed")
    assert f"-- not confirmed by {name('bob')} since {since}" in alice.asks("/status")
    before = len(alice.notices)
    room.passes(90)
    assert alice.notices[before:] == [f"-- not confirmed by {name('bob')} since {since}"]
    room.tamper = None
    room.passes(90)
    alice.types("three")
    room.passes(5)
    assert not any("not confirmed" in line for line in alice.asks("/status"))
