"""Names are bound to keys: who is new, another, changed, verified, accepted."""

from __future__ import annotations

import pytest
from simulated_room import (
    DECIDED_S,
    SimulatedMember,
    SimulatedRoom,
    events,
    fingerprint,
    is_message,
    payload_of,
    tag,
)

from chat_messages import EventKind, KeyShare, Message
from chat_terminal import Kind
from chat_trust import MAX_UNREAD_FRAMES
from crypto_utils import safety_number

# ------------------------------------------------------------------------------------------------
# New


def test_new_person_is_pinned_and_said_when_it_joins(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    name = f"bob#{tag('bob')}"
    assert f"-- {name} joined (new to you: /verify {name})" in alice.notices
    assert events(alice, EventKind.PIN) == [fingerprint("bob") + b"bob"]


def test_new_people_who_are_there_already_are_said_in_one_line(
    room: SimulatedRoom, carol: SimulatedMember
) -> None:
    assert "-- all new to you; /verify NAME compares keys" in carol.notices
    room.crash(carol)
    dave = room.join("dave")
    room.crash(dave)
    room.join("erin")
    again = room.join("carol", carol.memory)
    assert f"-- new to you: erin#{tag('erin')}; /verify NAME compares keys" in again.notices


def test_person_met_before_is_not_new(room: SimulatedRoom, knows_bob: SimulatedMember) -> None:
    room.join("bob")
    assert knows_bob.notices[-1] == f"-- bob#{tag('bob')} joined"
    assert len(events(knows_bob, EventKind.PIN)) == 1


def test_pins_outlive_a_run(room: SimulatedRoom, knows_bob: SimulatedMember) -> None:
    room.crash(knows_bob)
    room.join("bob")
    again = room.join("alice", knows_bob.memory)
    assert not again.said("new to you")


# ------------------------------------------------------------------------------------------------
# Another key under a known name


def test_changed_key_is_an_alarm_after_an_ack_interval_and_5_s(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    before = len(knows_bob.notices)
    mallory = room.join("mallory", nick="bob")
    mallory.types("trust me")
    room.passes(7)
    assert knows_bob.notices[before:] == []
    room.passes(1)
    new, old = f"bob#{tag('mallory')}", f"bob#{tag('bob')}"
    (alert,) = knows_bob.alerts
    assert alert.startswith(f"KEY CHANGED: {new} has another key than {old}, whom you know.")
    assert f"/accept {new}" in alert
    assert events(knows_bob, EventKind.ALERT) == [alert.encode()]
    assert events(knows_bob, EventKind.PIN) == [fingerprint("bob") + b"bob"]


def test_changed_key_gets_no_keys_and_is_not_read(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    false_bob.types("read me")
    knows_bob.types("a secret")
    room.passes(30)
    assert knows_bob.messages == []
    assert false_bob.messages == []
    assert knows_bob.payloads(KeyShare) == []
    assert "read me" not in knows_bob.texts


def test_nothing_is_given_to_who_is_not_judged_yet(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="bob")
    knows_bob.types("a secret")
    room.passes(1)
    assert knows_bob.payloads(KeyShare) == []
    assert mallory.messages == []


def test_request_for_a_key_by_a_changed_one_is_refused(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    knows_bob.types("a secret")
    room.passes(5)
    assert false_bob.said("says things that are not for you to read")
    assert knows_bob.payloads(KeyShare) == []


def test_accepted_key_is_read_from_its_first_word_and_reads_from_then_on(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    false_bob.types("one")
    false_bob.types("two")
    knows_bob.types("before")
    name = f"bob#{tag('mallory')}"
    (accepted,) = [n for n in knows_bob.asks("/accept bob") if "accepted" in n]
    assert accepted == f"-- {name} is accepted: reads what you say from here on"
    assert knows_bob.messages == ["bob: one", "bob: two"]
    knows_bob.types("after")
    room.passes(5)
    assert false_bob.messages == ["alice: after"]
    assert events(knows_bob, EventKind.PIN)[-1] == fingerprint("mallory") + b"bob"


def test_accepted_key_stays_accepted_in_the_next_run(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    knows_bob.types("/accept bob")
    room.crash(knows_bob)
    again = room.join("alice", knows_bob.memory)
    room.passes(DECIDED_S)
    assert again.alerts == []
    false_bob.types("hello")
    assert again.messages == ["bob: hello"]


def test_changed_key_is_an_alarm_again_in_the_next_run(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    room.crash(knows_bob)
    again = room.join("alice", knows_bob.memory)
    assert not again.said("bob")
    room.passes(DECIDED_S)
    assert [alert[:11] for alert in again.alerts] == ["KEY CHANGED"]


def test_frames_of_a_changed_key_wait_unread_within_bounds(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    for n in range(MAX_UNREAD_FRAMES + 10):
        false_bob.types(f"line {n}")
    knows_bob.types("/accept bob")
    # The key share and the audience's entry come first.
    assert knows_bob.messages == [f"bob: line {n}" for n in range(MAX_UNREAD_FRAMES - 2)]
    assert knows_bob.counts["of a key that is not accepted"] == 12


def test_frames_of_a_changed_key_go_with_it(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    false_bob.types("bye")
    room.crash(false_bob)
    knows_bob.types("/accept bob")
    assert knows_bob.messages == []
    assert knows_bob.counts["of a key that is not accepted"] == 3


def test_verified_person_with_another_key_is_named_as_verified(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/verify bob")
    alice.types("/verify bob yes")
    room.passes(5)
    room.crash(bob)
    room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    assert f"than bob#{tag('bob')}, whom you verified." in alice.alerts[0]


def test_msg_to_a_changed_key_is_refused_and_given_back(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    name = f"bob#{tag('mallory')}"
    answer = knows_bob.asks(f"/msg {name} psst")
    assert answer == [f"chainroom: the key of {name} is not accepted: /accept {name} first"]
    assert knows_bob.refused == [f"/msg {name} psst"]


def test_who_says_whose_key_is_doubted(room: SimulatedRoom, knows_bob: SimulatedMember) -> None:
    room.join("mallory", nick="bob")
    assert any("its key is being looked at" in line for line in knows_bob.asks("/who"))
    room.passes(DECIDED_S)
    assert any("KEY CHANGED: not read" in line for line in knows_bob.asks("/who"))


def test_accept_of_nobody_says_whose_key_waits(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    (line,) = knows_bob.asks("/accept bob")
    assert line == "chainroom: say it like this: /accept NAME; nobody's key is waiting for that"
    room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    (line,) = knows_bob.asks("/accept carol")
    assert line.endswith(f"whose key is: bob#{tag('mallory')}")


def test_changed_key_that_comes_again_is_an_alarm_once(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    for _ in range(3):
        room.crash(false_bob)
        false_bob = room.join("mallory", nick="bob")
        false_bob.types("still me")
        room.passes(DECIDED_S)
    assert [alert[:11] for alert in knows_bob.alerts] == ["KEY CHANGED"]
    name = f"bob#{tag('mallory')}"
    again = f"-- {name} is here again; its key is not accepted: /accept {name}"
    assert knows_bob.notices.count(again) == 3
    assert len(events(knows_bob, EventKind.ALERT)) == 1
    assert knows_bob.messages == []


def test_changed_key_is_not_in_the_audience_even_when_it_is_gone(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    room.crash(false_bob)
    knows_bob.types("to whom it concerns")
    audience = [e for e in knows_bob.entries if e.kind == 2][-1]
    assert fingerprint("mallory")[:16] not in audience.text
    assert fingerprint("bob")[:16] in audience.text


# ------------------------------------------------------------------------------------------------
# Another of that name


def test_second_bob_is_another_while_the_first_is_present(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    other = room.join("robert", nick="bob")
    room.passes(1)
    new, old = f"bob#{tag('robert')}", f"bob#{tag('bob')}"
    assert f"-- another bob: {new} is not {old}, whom you know" in alice.notices
    assert alice.alerts == []
    alice.types("hello both")
    room.passes(5)
    assert other.messages == bob.messages == ["alice: hello both"]
    (which,) = alice.asks("/msg bob hello")
    assert which == f"chainroom: which bob? {', '.join(sorted([new, old]))}"
    assert alice.refused == ["/msg bob hello"]


def test_second_bob_is_an_alarm_if_the_first_is_verified(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("/verify bob")
    alice.types("/verify bob yes")
    room.join("robert", nick="bob")
    room.passes(1)
    name = f"bob#{tag('bob')}"
    assert alice.alerts == [f"another bob: bob#{tag('robert')} is not {name}, whom you verified"]
    bob.types("it is me")
    assert [m.author for m in alice.lines if m.kind is Kind.MESSAGE] == [name]


def test_who_has_our_own_name_is_said_to_us(room: SimulatedRoom, alice: SimulatedMember) -> None:
    room.join("mallory", nick="alice")
    room.passes(DECIDED_S)
    names = f"alice#{tag('mallory')}", f"alice#{tag('alice')}"
    text = f"-- another alice: {names[0]} is not you, who are {names[1]}; /nick changes your name"
    assert alice.notices[-1] == text
    assert alice.alerts == []


def test_what_is_said_of_who_is_there_stands_below_that_we_are_in(room: SimulatedRoom) -> None:
    room.join("bob", nick="alice")
    alice = room.join("alice")
    assert alice.notices[0] == "Connected! Type your messages below."
    assert alice.notices[-1].startswith("-- another alice")


def test_frames_that_waited_for_the_judgement_are_shown_in_their_order(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    other = room.join("robert", nick="bob")
    other.types("one")
    other.types("two")
    assert alice.messages == []
    room.passes(DECIDED_S)
    assert alice.messages == ["bob: one", "bob: two"]
    assert alice.alerts == []


@pytest.mark.parametrize("nick", ["Bob", "b0b", "bоb", "bob_", "ＢＯＢ"])
def test_look_alike_is_an_alarm_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, nick: str
) -> None:
    mallory = room.join("mallory", nick=nick)
    (alert,) = alice.alerts
    name = f"{mallory.session.our_name}"
    assert alert == f"{name} looks like bob#{tag('bob')}, and is somebody else"
    room.crash(mallory)
    room.join("mallory", nick=nick)
    assert len(alice.alerts) == 1


def test_look_alike_of_our_own_name_is_an_alarm(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.join("mallory", nick="aIice")
    (alert,) = alice.alerts
    assert alert.endswith("looks like your own name, and is somebody else")


# ------------------------------------------------------------------------------------------------
# The same key under another name


def test_who_looks_like_us_and_a_namesake_is_not_said_to_be_one_of_us(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.join("bob", nick="alice")
    room.join("carol", nick="a1ice")
    likes = [text for text in alice.alerts if "looks like" in text]
    names = f"your own name and alice#{tag('bob')}"
    assert likes == [f"a1ice#{tag('carol')} looks like {names}, and is somebody else"]


def test_nick_is_changed_and_said_and_kept_for_the_next_message(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    assert bob.asks("/nick rob") == [f"-- you are rob#{tag('bob')} from here on"]
    assert f"-- bob#{tag('bob')} is now called rob#{tag('bob')}" in alice.notices
    bob.types("hi")
    assert alice.messages == ["rob: hi"]
    assert events(alice, EventKind.PIN)[-1] == fingerprint("bob") + b"rob"


def test_nick_without_a_name_says_how_it_is_said(alice: SimulatedMember) -> None:
    assert alice.asks("/nick") == ["chainroom: say it like this: /nick NAME"]


@pytest.mark.parametrize("nick", ["two words", "/slash", "a#b", "x" * 33])
def test_nick_outside_the_grammar_changes_nothing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, nick: str
) -> None:
    (line,) = bob.asks(f"/nick {nick}")
    assert line.startswith("chainroom: a name ")
    bob.types("hi")
    assert alice.messages == ["bob: hi"]


def test_who_takes_the_nick_of_somebody_who_is_here_is_an_alarm_and_still_read(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.passes(5)
    carol.types("/nick bob")
    room.passes(DECIDED_S)
    new, old = f"bob#{tag('carol')}", f"bob#{tag('bob')}"
    assert alice.alerts == [f"another bob: {new} is not {old}, whom you know"]
    carol.types("hi")
    assert alice.messages == ["bob: hi"]


# ------------------------------------------------------------------------------------------------
# Verified


def test_both_screens_show_the_same_number(alice: SimulatedMember, bob: SimulatedMember) -> None:
    def number(member: SimulatedMember, of: str) -> str:
        rows = [n for n in member.asks(f"/verify {of}") if n.startswith("--     ")]
        return " ".join(row[7:] for row in rows)

    shown = number(alice, "bob")
    assert shown == number(bob, "alice")
    assert shown == safety_number(fingerprint("alice"), fingerprint("bob"))
    assert len(shown.replace(" ", "")) == 60


def test_pasted_number_verifies_and_the_name_loses_its_tag(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    number = safety_number(fingerprint("alice"), fingerprint("bob"))
    (line,) = alice.asks(f"/verify bob {number}")
    assert line == "-- bob is verified: this name stands without a tag for that key alone"
    assert events(alice, EventKind.VERIFIED) == [fingerprint("bob")]
    bob.types("hi")
    assert [m.author for m in alice.lines if m.kind is Kind.MESSAGE] == ["bob"]
    room.passes(5)
    assert "-- bob (verified)" in alice.asks("/who")


def test_name_that_stands_without_a_tag_means_whom_it_is_shown_for(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="bob")  # another bob, for bob is here
    alice.types(
        f"/verify bob#{tag('bob')} {safety_number(fingerprint('alice'), fingerprint('bob'))}"
    )
    room.crash(mallory)
    room.crash(bob)
    assert "-- fingerprint of bob: " in alice.asks("/key bob")[0]
    assert f"bob#{tag('mallory')}" in alice.asks(f"/key bob#{tag('mallory')}")[0]


def test_msg_asks_which_when_the_verified_one_is_away_and_a_namesake_here(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.join("mallory", nick="bob")  # another bob, for bob is here: not doubted
    room.passes(DECIDED_S)
    number = safety_number(fingerprint("alice"), fingerprint("bob"))
    alice.types(f"/verify bob#{tag('bob')} {number}")
    room.crash(bob)
    names = sorted(f"bob#{tag(name)}" for name in ("bob", "mallory"))
    assert alice.asks("/msg bob psst") == [f"chainroom: which bob? {', '.join(names)}"]


def test_wrong_number_is_an_alarm_and_changes_nothing(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    wrong = safety_number(fingerprint("alice"), fingerprint("carol"))
    before = len(alice.chain)
    (line,) = alice.asks(f"/verify bob {wrong}")
    assert line.startswith("!! NO MATCH: ")
    assert len(alice.chain) == before
    bob.types("hi")
    assert [m.author for m in alice.lines if m.kind is Kind.MESSAGE] == [f"bob#{tag('bob')}"]


@pytest.mark.parametrize("said", ["12345", "of course", "1" * 61])
def test_what_is_no_number_of_60_digits_is_no_comparison(
    alice: SimulatedMember, bob: SimulatedMember, said: str
) -> None:
    (line,) = alice.asks(f"/verify bob {said}")
    assert line.startswith("chainroom: ")
    assert events(alice, EventKind.VERIFIED) == []


def test_verified_outlives_a_run_and_can_be_taken_back(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/verify bob")
    alice.types("/verify bob yes")
    room.crash(alice)
    again = room.join("alice", alice.memory)
    room.passes(5)
    assert "-- bob (verified)" in again.asks("/who")
    name = f"bob#{tag('bob')}"
    assert again.asks("/verify bob no") == [f"-- {name} is verified no longer"]
    assert events(again, EventKind.UNVERIFIED) == [fingerprint("bob")]


def test_matching_number_of_a_changed_key_accepts_it(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    number = safety_number(fingerprint("alice"), fingerprint("mallory"))
    false_bob.types("new laptop")
    knows_bob.types(f"/verify bob {number}")
    assert knows_bob.messages == ["bob: new laptop"]
    assert knows_bob.lines[-1].author == "bob"


def test_key_shows_fingerprints_in_full(alice: SimulatedMember, bob: SimulatedMember) -> None:
    for command, of in (("/key", "alice"), ("/key bob", "bob")):
        (line,) = alice.asks(command)
        assert line.replace(" ", "").endswith(fingerprint(of).hex())


def test_honest_room_raises_no_alarm(room: SimulatedRoom) -> None:
    members = [room.join(name) for name in ("alice", "bob", "carol")]
    for n in range(3):
        for member in members:
            member.types(f"line {n}")
        room.passes(5)
    assert [member.alerts for member in members] == [[], [], []]
    assert all(is_message(frame) or payload_of(frame) for frame in members[0].sent[1:])
    assert members[0].payloads(Message)
