"""Attacks on the binding of names to keys: what a member or the relay does to pass for somebody.

Each began as an attack that worked.  A key that was said to be another one stays so until the
person accepts it, whatever its owner does meanwhile; and who is present is known from signatures
over what nobody could know before.
"""

from __future__ import annotations

import pytest
from simulated_room import (
    DECIDED_S,
    LOBBY,
    SimulatedMember,
    SimulatedRoom,
    events,
    fingerprint,
    keystore,
    payload_of,
    recall,
    session_keys,
    tag,
)

from chat_effects import MakeSessionKey
from chat_messages import Ack, Bundle, EntryKind, EventKind
from chat_terminal import Kind
from chat_wire import Add, Frame, FrameType, Hello, Member, Welcome
from crypto_utils import SigningKey


def bundle_of(name: str, nick: str, key: SigningKey | None = None, sek_number: int = 1) -> Bundle:
    """A valid bundle of a session that nobody runs; by default of a new one."""
    keys = keystore(name)
    return Bundle.create(
        keys.identity,
        LOBBY,
        nick,
        key or SigningKey.generate(),
        sek_number,
        session_keys(name, 0).get_public_key(),
        keys.chain_id,
        keys.chain_signing_key.public,
    )


def welcomed(member: SimulatedMember, *bundles: Bundle, last: bool = True) -> None:
    """The relay says HELLO, and that these are here."""
    member.perform(member.session.connected())
    members = tuple(Member(bundle.session_id, bundle.raw) for bundle in bundles)
    member.hears(Hello(1, 1, bytes(32), False).serialize(), Welcome(members, last).serialize())


def key_alarms(member: SimulatedMember) -> list[str]:
    return [alert for alert in member.alerts if alert.startswith("KEY CHANGED: ")]


def last_audience(member: SimulatedMember) -> bytes:
    return [e for e in member.entries if e.kind == EntryKind.AUDIENCE][-1].text


# ------------------------------------------------------------------------------------------------
# A key that is said to be another one stays so until it is accepted


def test_rejoining_while_the_real_one_is_here_lifts_no_doubt(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    room.join("bob")
    room.passes(DECIDED_S)
    room.crash(false_bob)
    again = room.join("mallory", nick="bob")
    again.types("hi")
    knows_bob.types("secret")
    room.passes(DECIDED_S)
    assert (again.messages, knows_bob.messages) == ([], [])


def test_new_bundle_while_the_real_one_is_here_lifts_no_doubt(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    room.join("bob")
    room.passes(DECIDED_S)
    false_bob.perform([MakeSessionKey()])
    room.settle()
    knows_bob.types("secret")
    room.passes(5)
    assert false_bob.messages == []


def test_another_nick_lifts_no_doubt(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    false_bob.types("I am bob")
    false_bob.types("/nick zoe")
    knows_bob.types("secret")
    room.passes(DECIDED_S)
    assert (knows_bob.messages, false_bob.messages) == ([], [])


def test_second_session_lifts_no_doubt(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    second = room.join("mallory", nick="zoe")
    second.types("shown?")
    room.passes(DECIDED_S)
    assert knows_bob.messages == []


def test_name_that_is_taken_by_a_rename_is_an_alarm_and_not_read(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="zoe")
    mallory.types("/nick bob")
    mallory.types("it is me, bob")
    room.passes(DECIDED_S)
    knows_bob.types("secret")
    room.passes(5)
    assert len(key_alarms(knows_bob)) == 1
    assert (knows_bob.messages, mallory.messages) == ([], [])


def test_name_that_was_taken_by_a_rename_is_an_alarm_in_the_next_run(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="zoe")
    mallory.types("/nick bob")
    room.passes(DECIDED_S)
    room.crash(knows_bob)
    again = room.join("alice", knows_bob.memory)
    room.passes(DECIDED_S)
    assert len(key_alarms(again)) == 1


@pytest.fixture
def knows_both(room: SimulatedRoom, alice: SimulatedMember) -> SimulatedMember:
    """alice, who met bob and carol, and both are gone."""
    for member in (room.join("bob"), room.join("carol")):
        room.passes(5)
        member.types("/quit")
        room.passes(5)
    return alice


def test_second_name_of_a_changed_key_is_an_alarm_too(
    room: SimulatedRoom, knows_both: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    mallory.types("/nick carol")
    room.passes(DECIDED_S)
    assert len(key_alarms(knows_both)) == 2


def test_accepting_one_name_pins_no_other(room: SimulatedRoom, knows_both: SimulatedMember) -> None:
    room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    room.join("mallory", nick="carol")  # which nobody was told of yet
    knows_both.types(f"/accept #{tag('mallory')}")
    pins = events(knows_both, EventKind.PIN)
    assert fingerprint("mallory") + b"bob" in pins
    assert fingerprint("mallory") + b"carol" not in pins


def test_another_key_is_an_alarm_after_one_was_accepted(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    knows_bob.types("/accept bob")
    room.crash(false_bob)
    third = room.join("eve", nick="bob")
    room.passes(DECIDED_S)
    knows_bob.types("secret")
    room.passes(5)
    assert len(key_alarms(knows_bob)) == 2
    assert third.messages == []


def test_another_key_is_an_alarm_after_a_namesake_was_here(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    namesake = room.join("mallory", nick="bob")  # while bob is here: a notice
    room.passes(DECIDED_S)
    room.crash(namesake)
    room.crash(bob)
    room.join("eve", nick="bob")
    room.passes(DECIDED_S)
    assert len(key_alarms(alice)) == 1


def test_friend_of_our_own_name_is_guarded_by_his_own_presence(room: SimulatedRoom) -> None:
    us, friend = room.join("alice", nick="bob"), room.join("bob")
    room.passes(5)
    us.types("/verify bob")
    us.types("/verify bob yes")
    room.crash(friend)
    mallory = room.join("mallory", nick="bob")
    us.types("secret")
    room.passes(DECIDED_S)
    assert len(key_alarms(us)) == 1
    assert mallory.messages == []


def test_name_of_a_verified_person_is_not_shown_for_an_absent_other_one(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("/verify bob")
    alice.types("/verify bob yes")
    room.crash(carol)
    bob.types("/nick carol")
    bob.types("I am carol")
    room.passes(DECIDED_S)
    assert "carol" not in [line.author for line in alice.lines if line.kind is Kind.MESSAGE]
    assert len(key_alarms(alice)) == 1


# ------------------------------------------------------------------------------------------------
# Who is not judged yet is in no audience


def test_who_leaves_before_the_judgement_is_in_no_audience(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    mallory = room.join("mallory", nick="bob")
    room.passes(3)
    room.crash(mallory)
    room.passes(10)
    knows_bob.types("to whom it concerns")
    assert fingerprint("mallory")[:16] not in last_audience(knows_bob)


def test_who_is_not_judged_when_the_connection_is_lost_is_in_no_audience(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    room.join("mallory", nick="bob")
    room.passes(3)
    room.disconnect(knows_bob)
    knows_bob.types("typed offline")
    assert fingerprint("mallory")[:16] not in last_audience(knows_bob)


def test_changed_key_is_in_no_audience_when_the_connection_is_lost(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    room.disconnect(knows_bob)
    knows_bob.types("typed offline")
    assert fingerprint("mallory")[:16] not in last_audience(knows_bob)


# ------------------------------------------------------------------------------------------------
# Who is present


def test_hidden_leave_makes_nobody_present(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    room.tamper = lambda sender, receiver, data: (
        [] if receiver is alice and Frame(data).type == FrameType.DEL else [data]
    )
    room.crash(bob)
    room.passes(3600, step=30)
    mallory = room.join("mallory", nick="bob")
    mallory.types("it is me")
    room.passes(DECIDED_S)
    assert len(key_alarms(alice)) == 1
    assert alice.messages == []


def test_ack_that_was_withheld_makes_nobody_present_later(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("hello")
    kept: list[bytes] = []

    def withhold(
        sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
    ) -> list[bytes]:
        if receiver is alice and sender is bob and isinstance(payload_of(data), Ack):
            kept.append(data)
            return []
        return [data]

    room.tamper = withhold
    room.passes(10)
    room.tamper = None
    room.crash(bob)
    room.passes(3600, step=30)
    alice.hears(Add(bob.session_id, bob.bundle).serialize(), *kept)
    room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    assert kept
    assert len(key_alarms(alice)) == 1


def test_known_one_in_a_large_room_has_the_time_that_a_large_room_takes(
    room: SimulatedRoom,
) -> None:
    first, bob = room.join("alice"), room.join("bob")
    room.passes(5)
    room.crash(first)
    room.crash(bob)
    alice = SimulatedMember(room, "alice", first.memory)
    crowd = [bundle_of("crowd", f"c{n}") for n in range(100)]
    welcomed(alice, bundle_of("robert", "bob"), *crowd[:40], last=False)
    for page in (crowd[40:80], crowd[80:]):
        members = tuple(Member(bundle.session_id, bundle.raw) for bundle in page)
        alice.hears(Welcome(members, last=page[-1] is crowd[-1]).serialize())
    room.members.append(alice)
    room.passes(alice.session._acks.interval_s * 1.25)
    assert alice.alerts == []


# ------------------------------------------------------------------------------------------------
# What is verified, said and recorded


def test_yes_verifies_no_key_but_the_one_whose_number_was_shown(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("/verify bob")
    room.crash(bob)
    mallory = room.join("mallory", nick="bob")
    answer = alice.asks("/verify bob yes")
    mallory.types("now I am verified")
    assert answer[0].startswith(f"-- safety number of you and bob#{tag('mallory')}")
    assert events(alice, EventKind.VERIFIED) == []


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_broken_off_welcome_pinned_is_said(room: SimulatedRoom, is_first: bool) -> None:
    alice, bob = room.join("alice"), room.join("bob")
    room.passes(5)
    room.disconnect(alice)
    if is_first:
        room.crash(bob)
        alice = SimulatedMember(room, "alice", alice.memory)
    welcomed(alice, bundle_of("mallory", "b0b"), last=False)
    alice.perform(alice.session.disconnected("gone", room.now))
    assert [a for a in alice.alerts if a.startswith(f"b0b#{tag('mallory')} looks like bob")]
    pinned = recall([*zip(alice.chain, alice.appended_ms, strict=True)], alice.remembered).pins
    assert fingerprint("mallory") in pinned.of("b0b")


def test_new_bundles_within_a_welcome_are_not_taken(room: SimulatedRoom) -> None:
    alice = SimulatedMember(room, "alice")
    key = SigningKey.generate()
    one, other = bundle_of("mallory", "n1", key), bundle_of("mallory", "n2", key, 2)
    welcomed(alice, one, last=False)
    before = len(alice.effects)
    page = Welcome((Member(other.session_id, other.raw),), last=False)
    alice.hears(page.serialize())
    assert alice.effects[before:] == []
    assert alice.counts == {"stale bundle": 1}


def test_our_new_nick_is_ours_too(room: SimulatedRoom, alice: SimulatedMember) -> None:
    alice.types("/nick ally")
    room.join("mallory", nick="ally")
    room.passes(DECIDED_S)
    assert alice.said("is not you, who are ally")


def test_look_alike_of_our_new_nick_is_an_alarm(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    alice.types("/nick robert")
    room.join("mallory", nick="r0bert")
    room.passes(DECIDED_S)
    assert any("looks like your own name" in alert for alert in alice.alerts)


def test_ignored_one_is_not_accepted(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    name = f"bob#{tag('mallory')}"
    knows_bob.types(f"/ignore {name}")
    (answer,) = knows_bob.asks(f"/accept {name}")
    assert answer == f"chainroom: you ignore {name}: /ignore {name} off comes first"
    knows_bob.types("secret")
    assert false_bob.messages == []


def test_lost_connections_record_an_alarm_once(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    for _ in range(10):
        room.disconnect(knows_bob)
        room.connect(knows_bob)
        room.passes(DECIDED_S)
    assert len(events(knows_bob, EventKind.ALERT)) == 1


def test_who_comes_and_goes_with_a_changed_key_grows_no_chain(
    room: SimulatedRoom, knows_bob: SimulatedMember, false_bob: SimulatedMember
) -> None:
    before = len(knows_bob.chain)
    for _ in range(10):
        room.crash(false_bob)
        false_bob = room.join("mallory", nick="bob")
        room.passes(DECIDED_S)
    assert len(knows_bob.chain) == before


# ------------------------------------------------------------------------------------------------
# And honest rooms stay quiet


@pytest.mark.parametrize("gone", range(3))
def test_namesake_in_a_room_that_changes_all_the_time_is_no_alarm(gone: int) -> None:
    room = SimulatedRoom()
    alice, _ = room.join("alice"), room.join("bob")
    crowd = [room.join("crowd", nick=f"c{n}") for n in range(8)]
    room.passes(8)
    namesake = room.join("robert", nick="bob")
    for n in range(12):
        room.crash(crowd.pop(gone))
        crowd.append(room.join("crowd", nick=f"d{n}"))
        room.passes(1)
    assert key_alarms(alice) == []
    namesake.types("hello")
    assert "bob: hello" in alice.messages
