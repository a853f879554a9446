"""Acks that carry heads, and witnesses that hand them back, in a room that is a list.

Attacks are here: heads that are forged or of another chain, claims, replays, floods, copies.
"""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from simulated_room import (
    LOBBY,
    SimulatedMember,
    SimulatedRoom,
    Tamper,
    keystore,
    payload_of,
    signed_head,
)

import chat_acks
from blockchain import Blockchain, BlockType, Draft, Head
from chat_acks import Conversation, Dropped
from chat_effects import Moment, Remember, Transmit, Witnessed
from chat_feeds import OurFeed
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    FeedReport,
    Message,
    Witness,
    parse_payload,
)
from chat_terminal import Kind
from chat_wire import Add, Broadcast, Del, Direct, Frame, FrameType, LeaveReason, Reader
from chat_witness import ACKS_TABLE, HEADS_TABLE, MAX_CHAINS, Heads, evidence
from crypto_utils import SigningKey, VerifyKey, pair_tag


def fingerprint(name: str) -> bytes:
    return keystore(name).identity.fingerprint


def held(member: SimulatedMember, name: str) -> list[Head]:
    """What `member` has on disk of that person's chains."""
    return member.heads.of(fingerprint(name))


def acks_kept(member: SimulatedMember) -> dict[bytes, bytes]:
    return {key: row for (table, key), row in member.remembered.items() if table == ACKS_TABLE}


def reports_of(member: SimulatedMember, whom: SimulatedMember) -> list[FeedReport]:
    """What its acks said of that member's feeds."""
    reports = [r for ack in member.payloads(Ack) for r in ack.feeds]
    return [r for r in reports if r.session_id == whom.session_id]


_NUMBERS = count(1000)


def ack_of(member: SimulatedMember, head: Head, *reports: FeedReport) -> bytes:
    """An ack that `member` signs, as a frame; each has a higher number than the one before."""
    fields = (LOBBY.tag, next(_NUMBERS), bytes(32), reports, head)
    ack = Ack.create(member.session._key, member.session_id, *fields)
    return Broadcast(ack.serialize()).serialize()


def witness_of(
    member: SimulatedMember, to: SimulatedMember, head: Head, tag: bytes = LOBBY.tag
) -> bytes:
    """A witness that `member` signs, as a frame."""
    made = Witness.create(member.session._key, member.session_id, tag, to.session_id, head)
    return Direct(to.session_id, made.serialize()).serialize()


def restored(room: SimulatedRoom, member: SimulatedMember, height: int) -> SimulatedMember:
    """Its client again, from a copy of its folder that had so many blocks."""
    room.crash(member)
    del room.blocks[member.name][height:]
    return room.join(member.name)


# --------------------------------------------------------------------------------------------------
# learning heads


def test_members_hold_the_head_that_contains_what_was_said_last(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    for word in ("one", "two"):
        alice.types(word)
        room.passes(5)
        assert held(bob, "alice") == [alice.head()]
    assert held(alice, "bob") == [bob.head()]
    (report,) = alice.payloads(Ack)[-1].feeds  # nothing of others to report
    assert (report.session_id, report.seq) == (alice.session_id, alice.entries[-1].seq)


def test_head_of_somebody_who_leaves_at_once_is_held_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """As a script does that says one line."""
    room.passes(5)
    alice.types("done")
    alice.types("/quit")
    room.passes(1, step=0.1)
    assert alice.exit_code == 0
    room.passes(3)
    assert held(bob, "alice") == [alice.head()]


def test_head_comes_with_private_messages_to_the_one_they_are_for(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    carol = room.join("carol")
    room.passes(5)
    before = held(carol, "alice")
    alice.types("/msg bob psst")
    room.passes(5)
    assert held(bob, "alice") == [alice.head()]
    assert held(carol, "alice") == before


def test_what_was_said_last_is_soon_under_a_head_that_all_say_they_hold(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Without it the last words of every talk had no witness."""
    carol = room.join("carol")
    room.passes(5)
    for member in (alice, bob, carol, alice):
        member.types("hello")
        room.passes(10)
    last = alice.head().index
    assert dict(alice.session.holders()) == {
        bob.session.our_name: last,
        carol.session.our_name: last,
    }
    alice.types("/msg bob psst")
    room.passes(10)
    assert dict(alice.session.holders())[bob.session.our_name] == alice.head().index


def test_each_message_causes_two_acks_of_each_listener_and_then_there_is_silence(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """One says that it is there, the other that its author's chain with it is."""
    room.passes(10)
    before = [len(m.payloads(Ack)) for m in (alice, bob)]
    alice.types("hello")
    room.passes(60)
    after = [len(m.payloads(Ack)) for m in (alice, bob)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 2]


def test_quiet_room_stays_silent_whatever_heads_do(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """A head alone never causes an ack, else acks would answer acks for ever."""
    alice.types("hello")
    room.passes(10)
    before = len(room.captured)
    alice.types("/ignore bob")  # a block of alice's, for nobody else
    room.passes(30)
    assert len(room.captured) == before


def test_what_was_learned_is_on_disk_before_the_ack_that_says_so(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    on_disk: set[tuple[int, bytes]] = set()
    for _ in range(6):
        alice.types("x")
        room.passes(2)
    said = 0
    for effect in bob.effects:
        match effect:
            case Remember(row) if row.table == HEADS_TABLE:
                on_disk.add((int.from_bytes(row.value[:8], "big"), row.value[8:40]))
            case Transmit(frame) if isinstance(payload := payload_of(frame), Ack):
                for report in payload.feeds:
                    said += report.is_witness
                    known = (report.witnessed_index, report.witnessed_hash)
                    assert not report.is_witness or known in on_disk
    assert said >= 3


def test_what_was_learned_is_on_disk_soon_even_if_no_ack_is_due(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    head = signed_head("alice", 50, b"h" * 32)
    bob.hears(ack_of(alice, head))
    acks = len(bob.payloads(Ack))
    assert held(bob, "alice") != [head]
    room.passes(2.5)
    assert held(bob, "alice") == [head]
    assert len(bob.payloads(Ack)) == acks
    later = signed_head("alice", 51, b"i" * 32)
    bob.hears(ack_of(alice, later))
    room.disconnect(bob)
    assert held(bob, "alice") == [later]


def test_heads_that_come_often_are_written_together(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    before = sum(isinstance(e, Remember) for e in bob.effects)
    for index in range(50, 90):
        bob.hears(ack_of(alice, signed_head("alice", index, b"h" * 32)))
    room.passes(3)
    assert sum(isinstance(e, Remember) for e in bob.effects) == before + 1


def test_next_run_holds_what_this_one_learned(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(5)
    room.crash(bob)
    again = room.join("bob", bob.memory, heads=bob.heads)
    alice.types("again")
    room.tick()
    (known,) = held(bob, "alice")
    report = reports_of(again, alice)[0]
    assert (report.witnessed_index, report.witnessed_hash) == (known.index, known.hash)


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda good: Head(good.chain_id, 99, good.hash, good.signature), id="index"),
        pytest.param(
            lambda good: Head(good.chain_id, good.index, b"x" * 32, good.signature), id="hash"
        ),
        pytest.param(lambda good: signed_head("bob", 99, good.hash), id="of bob's chain"),
        pytest.param(
            lambda good: signed_head("bob", 99, good.hash, good.chain_id), id="signed by bob"
        ),
        pytest.param(
            lambda good: signed_head("alice", 99, good.hash, b"another chain id"),
            id="of another chain than in her bundle",
        ),
        pytest.param(lambda good: Head(good.chain_id, 99, b"x" * 32, bytes(64)), id="unsigned"),
    ],
)
def test_ack_whose_head_its_sender_did_not_sign_for_that_chain_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, forge: Any
) -> None:
    bob.types("hello")
    room.passes(5)
    known, seen = held(bob, "alice"), acks_kept(bob)
    receipt = FeedReport(bob.session_id, bob.entries[-1].seq, bob.entries[-1].entry_id)
    bob.hears(ack_of(alice, forge(alice.head()), receipt))
    room.passes(5)
    assert bob.counts == {"head of another chain": 1}
    assert (held(bob, "alice"), acks_kept(bob)) == (known, seen)
    assert bob.alerts == []


def test_head_without_a_hash_is_refused_so_that_ours_stays_readable(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Zeros in a report mean that no head is held: with an index they would be refused by all."""
    alice.types("hello")
    room.passes(5)
    bob.hears(ack_of(alice, signed_head("alice", 99, bytes(32))))
    assert bob.counts == {"malformed": 1}
    alice.types("again")
    room.passes(5)
    assert "delivered to 1 of 1" in str(alice.asks("/status"))


def test_heads_of_a_chain_in_its_file_are_verified_kept_and_found_again(tmp_path: Path) -> None:
    keys = keystore("alice")
    chain = Blockchain.create(tmp_path / "chain.db", keys, 1)
    heads, ours = Heads(), keys.chain_signing_key.public
    chain.add_block(Draft(BlockType.EVENT, b"something", b"e" * 32), 2)
    chain.head().verify(VerifyKey(ours))
    heads.take(fingerprint("alice"), chain.head(), 3)
    chain.append([], 4, heads.unkept())
    newest = chain.head()
    chain.close()
    again = Blockchain.open(tmp_path / "chain.db", keys.with_chain(newest.chain_id))
    assert Heads(again.side(HEADS_TABLE)).of(fingerprint("alice")) == [newest]
    again.close()


# --------------------------------------------------------------------------------------------------
# copies and rewritten chains


def test_restored_copy_never_lowers_what_is_held_and_is_no_alarm_to_others(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    for word in ("one", "two", "three"):
        alice.types(word)
        room.passes(5)
    newest = alice.head()
    again = restored(room, alice, 2)
    room.passes(5)
    assert again.payloads(Ack)[0].head == again.head()
    assert again.head().index < newest.index
    assert held(bob, "alice") == [newest]
    assert bob.alerts == []


def test_restored_copy_is_told_what_it_signed_before_its_first_receipt(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """A script leaves with its last receipt; it should know by then."""
    for word in ("one", "two", "three"):
        alice.types(word)
        room.passes(5)
    newest = alice.head()
    again = restored(room, alice, 2)
    again.types("a line")
    again.types("/quit")
    room.passes(3, step=0.1)
    assert again.exit_code == 0
    assert [w.head for w in again.witnessed] == [newest]


def test_restored_copy_that_soon_is_longer_again_is_told_all_the_same(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    newest = alice.head()
    again = restored(room, alice, newest.index - 1)
    for word in range(9):
        again.types(str(word))
    room.passes(5)
    assert held(bob, "alice") == [again.head()]  # a longer one, as far as bob can tell
    assert [w.head for w in again.witnessed] == [newest]


def test_two_signed_blocks_at_one_index_are_said_once_a_session_and_the_first_is_held(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(5)
    first = alice.head()
    other = signed_head("alice", first.index, b"x" * 32)
    name = bob.session._roster.name(fingerprint("alice"))
    bob.hears(ack_of(alice, other), ack_of(alice, other))
    (said,) = bob.alerts
    assert said == (
        f"{name}'s chain was rewritten: {name} signed two different blocks {first.index}; "
        f"what you got from {name} stands on your own chain as it was"
    )
    room.passes(5)
    assert held(bob, "alice") == [first]
    assert bob.counts == {}


def test_lower_head_is_never_an_alarm(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(5)
    for index in (2, 1, 0):
        bob.hears(ack_of(alice, signed_head("alice", index, b"x" * 32)))
    assert bob.alerts == []
    assert bob.counts == {}


# --------------------------------------------------------------------------------------------------
# handing back


def test_who_joins_again_is_handed_its_head_once_by_each_who_holds_it(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.join("carol")
    alice.types("hello")
    room.passes(5)
    newest = alice.head()
    room.crash(alice)
    again = room.join("alice")
    room.passes(30)
    assert [w.head for w in again.witnessed] == [newest] * 2
    assert sorted(w.name[:5] for w in again.witnessed) == [
        "bob#" + fingerprint("bob").hex()[:1],
        "carol",
    ]
    assert again.counts == {}
    for told in again.witnessed:
        assert told.row.table == ACKS_TABLE
        r = Reader(told.row.value)
        bundle, payload = Bundle.parse(r.prefixed(), LOBBY), parse_payload(r.rest())
        assert isinstance(payload, Witness)
        payload.verify(bundle.session_key)
        assert (payload.head, payload.recipient) == (newest, again.session_id)


def test_who_was_there_when_we_came_back_is_handed_its_head_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(5)
    room.crash(bob)
    room.crash(alice)
    again = room.join("alice")
    back = room.join("bob", bob.memory, heads=bob.heads)
    room.passes(5)
    assert [w.head for w in again.witnessed] == held(bob, "alice")
    assert len(back.payloads(Witness)) == 1


def test_nobody_is_handed_anything_whom_we_know_nothing_of(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(10)
    assert not alice.payloads(Witness) + bob.payloads(Witness)


def test_heads_of_all_chains_of_a_person_are_handed_back_eight_at_most(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    """Each under the CSK that they were signed by, whatever became of the chain."""
    heads = Heads()
    chains = [bytes((n,)) * 16 for n in range(1, 10)]
    signed = [signed_head("alice", 5, b"h" * 32, chain_id) for chain_id in chains]
    for now_ms, head in enumerate(signed):
        heads.take(fingerprint("alice"), head, now_ms)
    room.join("bob", heads=heads)
    room.passes(3)
    assert [w.head for w in alice.witnessed] == signed[:0:-1]
    assert len(alice.witnessed) == MAX_CHAINS


def test_handing_back_is_spread_over_the_time_that_the_room_is_large(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    """0 to max(2 s, 100 ms × members), for each member anew."""
    heads, spread = Heads(), []
    heads.take(fingerprint("carol"), signed_head("carol", 5, b"h" * 32), 0)
    acks = chat_acks.Acks(alice.session._key, alice.session._roster, heads)
    carol = Bundle.parse(SimulatedMember(room, "carol").session._our.raw, LOBBY)
    for _ in range(300):
        acks.joined(carol, 100.0)
        spread.append(acks._owed[carol.session_id].due_s - 100.0)
    assert 0 <= min(spread) < 0.2
    assert 1.8 < max(spread) <= 2.0
    alice.session._roster.live.update((bytes((n,)) * 16, carol) for n in range(59))
    spread = []
    for _ in range(300):
        acks.joined(carol, 100.0)
        spread.append(acks._owed[carol.session_id].due_s - 100.0)
    assert 0 <= min(spread) < 0.6
    assert 5.4 < max(spread) <= 6.0


def test_who_left_before_it_was_due_is_handed_nothing_and_owed_nothing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.passes(5)
    room.crash(alice)
    again = room.join("alice")
    room.crash(again)
    room.passes(5)
    assert bob.payloads(Witness) == []
    assert bob.session._acks._owed == {}
    room.join("alice")
    room.disconnect(bob)
    assert bob.session._acks._owed == {}


# --------------------------------------------------------------------------------------------------
# what an owner believes


def test_witness_of_a_head_that_we_did_not_sign_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    for forged in (
        Head(keystore("alice").chain_id, 99, b"x" * 32, bytes(64)),
        signed_head("bob", 99, b"x" * 32),
        signed_head("bob", 99, b"x" * 32, b"somebody's chain"),
    ):
        alice.hears(witness_of(bob, alice, forged))
    assert alice.witnessed == []
    assert alice.counts == {"head that is not ours": 3}
    assert alice.session.holders() == []


def test_witness_of_an_earlier_run_proves_nothing_to_this_one(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """A relay repeats it, as it was and to the new session, which it was not signed for."""
    room.passes(5)
    old = witness_of(bob, alice, signed_head("alice", 99, b"x" * 32))
    payload = Direct.parse(Frame(old).body).payload
    room.crash(alice)
    again = room.join("alice")
    again.hears(old, Direct(again.session_id, payload).serialize())
    assert again.witnessed == []
    assert again.counts == {"misdirected": 2}


def test_witness_altered_or_in_anothers_name_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    head = signed_head("alice", 99, b"x" * 32)
    good = witness_of(bob, alice, head)
    altered = good[:-1] + bytes((good[-1] ^ 1,))
    stranger = Witness.create(
        SigningKey.generate(), bob.session_id, LOBBY.tag, alice.session_id, head
    )
    alice.hears(altered, Direct(alice.session_id, stranger.serialize()).serialize())
    assert alice.counts == {"bad signature": 2}
    private = pair_tag(LOBBY, fingerprint("alice"), fingerprint("bob"))
    alice.hears(witness_of(bob, alice, head, private))
    alice.hears(Broadcast(Direct.parse(Frame(good).body).payload).serialize())
    assert alice.counts == {"bad signature": 2, "misdirected": 1, "came the wrong way": 1}
    assert alice.witnessed == []
    alice.hears(good)
    assert [w.head for w in alice.witnessed] == [head]


def test_flood_of_witnesses_is_at_most_one_for_each_chain_and_eight_a_session(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    once = signed_head("alice", 99, b"x" * 32)
    alice.hears(*[witness_of(bob, alice, once)] * 5)
    alice.hears(witness_of(bob, alice, signed_head("alice", 100, b"y" * 32)))
    assert [w.head for w in alice.witnessed] == [once]
    for n in range(20):
        alice.hears(witness_of(bob, alice, signed_head("alice", 9, b"x" * 32, bytes((n,)) * 16)))
    assert len(alice.witnessed) == MAX_CHAINS
    assert alice.counts == {"witness once more": 5 + 20 - (MAX_CHAINS - 1)}


def test_witness_effect_is_all_that_the_session_does(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Whether the chain still leads there is for its owner to look up, and to say."""
    room.passes(5)
    effects = alice.hears(witness_of(bob, alice, signed_head("alice", 99, b"x" * 32)))
    assert [type(effect) for effect in effects] == [Witnessed]
    assert alice.alerts == []


# --------------------------------------------------------------------------------------------------
# evidence and holders


def test_newest_ack_of_each_member_is_kept_and_proves_itself(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    carol = room.join("carol")
    for word in ("one", "two"):
        alice.types(word)
        room.passes(5)
    kept = acks_kept(alice)
    place = alice.session_id + LOBBY.tag
    assert kept.keys() == {place + bob.session_id, place + carol.session_id}
    for member in (bob, carol):
        newest = [a for a in member.payloads(Ack) if a.feeds][-1]
        bundle = Bundle.parse(member.bundle, LOBBY)
        assert kept[place + member.session_id] == evidence(bundle, newest)
        (report,) = newest.feeds
        assert report.entry_id == alice.entries[-1].entry_id
        assert report.is_witness


def test_private_receipts_are_evidence_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/msg bob psst")
    room.passes(5)
    tag = pair_tag(LOBBY, fingerprint("alice"), fingerprint("bob"))
    assert acks_kept(alice).keys() == {alice.session_id + tag + bob.session_id}


def test_ack_that_claims_a_head_we_never_signed_is_a_receipt_and_no_evidence(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = lambda sender, to, data: [] if isinstance(payload_of(data), Ack) else [data]
    alice.types("hello")
    entry = alice.entries[-1]
    claim = FeedReport(alice.session_id, entry.seq, entry.entry_id, (), 900, b"x" * 32)
    alice.hears(ack_of(bob, bob.head(), claim))
    room.passes(5)
    assert "delivered to 1 of 1" in str(alice.asks("/status"))
    assert acks_kept(alice) == {}
    assert alice.session.holders() == []
    assert alice.alerts == []
    assert alice.counts == {}


def test_holders_are_who_is_here_and_the_highest_that_each_said(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    assert alice.session.holders() == []
    carol = room.join("carol")
    alice.types("one")
    room.passes(5)
    alice.types("two")
    room.passes(5)
    holders = dict(alice.session.holders())
    names = {m: alice.session._roster.name(fingerprint(m.name)) for m in (bob, carol)}
    assert holders.keys() == {*names.values()}
    for member, name in names.items():
        assert holders[name] == reports_of(member, alice)[-1].witnessed_index
    assert all(1 <= index <= alice.head().index for index in holders.values())
    room.crash(carol)
    assert dict(alice.session.holders()).keys() == {names[bob]}
    alice.hears(witness_of(bob, alice, alice.head()))
    assert alice.session.holders() == [(names[bob], alice.head().index)]
    room.disconnect(alice)
    assert alice.session.holders() == []


def test_person_with_two_sessions_holds_the_higher_of_both(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    twin = room.join("bob")
    for member, index in ((bob, 5), (twin, 3)):
        alice.hears(witness_of(member, alice, signed_head("alice", index, b"h" * 32)))
    assert [index for _, index in alice.session.holders()] == [5]


def test_no_member_that_comes_and_goes_leaves_anything_behind(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    for _ in range(12):
        bob = room.join("bob")
        alice.types("x")
        alice.hears(witness_of(bob, alice, alice.head()))
        room.passes(2.5)
        room.crash(bob)
    acks = alice.session._acks
    assert (acks._owed, acks._said_rewritten) == ({}, set())
    assert (acks._differing, acks._said_differs) == ({}, set())
    assert (acks._witnesses._holds, acks._witnesses._came) == ({}, {})
    assert len(acks_kept(alice)) <= 1
    assert len(held(alice, "bob")) == 1


def test_any_byte_of_an_ack_or_a_witness_changed_and_nothing_is_learned(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.types("hello")
    room.passes(5)
    known, kept = held(bob, "alice"), acks_kept(bob)
    entry = bob.entries[-1]
    head = bob.head()
    receipt = FeedReport(bob.session_id, entry.seq, entry.entry_id, (), head.index, head.hash)
    ack = ack_of(alice, signed_head("alice", 99, b"x" * 32), receipt)
    witness = witness_of(alice, bob, signed_head("bob", 99, b"x" * 32))
    for good in (ack, witness):
        for at in range(5, len(good)):
            changed = good[:at] + bytes((good[at] ^ 1 << at % 8,)) + good[at + 1 :]
            assert bob.hears(changed) == [], at
    room.passes(3)
    assert (held(bob, "alice"), acks_kept(bob), bob.witnessed) == (known, kept, [])
    bob.hears(ack, witness)
    room.passes(3)
    assert held(bob, "alice") == [signed_head("alice", 99, b"x" * 32)]
    assert acks_kept(bob) != kept
    assert len(bob.witnessed) == 1


# --------------------------------------------------------------------------------------------------
# a conversation's own books


def test_echo_that_nobody_awaits_or_that_differs_is_said_to_be_none() -> None:
    ours = OurFeed(LOBBY.tag, b"s" * 16, SigningKey.generate(), LOBBY.mix)
    conversation = Conversation(ours, None)
    message = Message(b"s" * 16, LOBBY.tag, 1, 0, bytes(284))
    entry = Entry.create(EntryKind.CHAT, LOBBY.tag, b"s" * 16, 1, bytes(32), bytes(32), 0, b"x")
    conversation.sent(message, b"frame", entry)
    assert conversation.unsent() == 1
    with pytest.raises(Dropped, match="altered echo"):
        conversation.take_echo(message, b"other")
    conversation.take_echo(message, b"frame")
    assert conversation.unsent() == 0
    with pytest.raises(Dropped, match="duplicate"):
        conversation.take_echo(message, b"frame")


# --------------------------------------------------------------------------------------------------
# rosters that differ


def differs(member: SimulatedMember, other: SimulatedMember) -> str:
    """The alert that names `other`."""
    name = member.session._roster.name(fingerprint(other.name))
    return (
        f"members differ: {name} is shown other members of this room than you are. The relay "
        f"may hide somebody, or show you different rooms: compare /who with {name}"
    )


def talk(room: SimulatedRoom, seconds: int, *members: SimulatedMember) -> None:
    """Each says something now and then, so that all acknowledge."""
    for second in range(0, seconds, 4):
        members[second // 4 % len(members)].types(f"after {second} s")
        room.passes(4, step=4)


def untold(frame: FrameType, receiver: SimulatedMember) -> Tamper:
    """A relay that keeps from one member who comes, or who goes."""
    return lambda _, to, data: [] if to is receiver and Frame(data).type == frame else [data]


def test_member_who_is_hidden_from_another_is_an_alarm_to_all_within_a_hundred_seconds(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """After 30 s to whom somebody is hidden from, since it never had such a roster; after 60 s more
    to the others, who had that one until a newcomer came."""
    room.tamper = untold(FrameType.ADD, bob)
    carol = room.join("carol")
    room.tamper = None
    talk(room, 28, alice, bob)
    assert alice.alerts == bob.alerts == carol.alerts == []
    talk(room, 12, alice, bob)
    assert bob.alerts == [differs(bob, alice)]
    assert carol.alerts == [differs(carol, bob)]
    talk(room, 40, alice, bob)
    assert alice.alerts == []
    talk(room, 20, alice, bob)
    assert alice.alerts == [differs(alice, bob)]
    assert [line.event for line in alice.lines if line.kind is Kind.ALERT] == ["members_differ"]
    assert bob.counts["of no member"] > 0
    talk(room, 120, alice, bob)
    assert len(alice.alerts) == len(bob.alerts) == 1


def test_member_who_left_and_is_kept_on_show_is_an_alarm(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.tamper = untold(FrameType.DEL, bob)
    room.crash(carol)
    room.tamper = None
    talk(room, 100, alice, bob)
    assert alice.alerts == [differs(alice, bob)]
    assert bob.alerts == [differs(bob, alice)]


def test_alarm_is_raised_once_until_whom_it_named_comes_anew(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    """In a room that is split in two everybody differs from half of it."""
    room.tamper = untold(FrameType.ADD, carol)
    room.join("dave")
    room.tamper = None
    talk(room, 100, alice, bob, carol)
    assert alice.alerts == [differs(alice, carol)]
    assert carol.alerts == [differs(carol, alice)]
    room.disconnect(carol)
    room.connect(carol)
    talk(room, 60, alice, carol)
    assert len(alice.alerts) == 1
    assert carol.alerts[1:] == ["connection lost: the cable was pulled; " + KEPT]
    room.tamper = untold(FrameType.DEL, carol)
    room.crash(bob)
    talk(room, 100, alice, carol)
    assert alice.alerts[1:] == [differs(alice, carol)]


KEPT = "what you type is kept, and delivered when it is back"


def test_what_differs_for_less_than_30_s_is_no_alarm(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    late: list[bytes] = []
    for _ in range(2):
        room.tamper = lambda _, to, data: (
            late.append(data) or []  # type: ignore[func-returns-value]
            if to is bob and Frame(data).type in (FrameType.ADD, FrameType.DEL)
            else [data]
        )
        carol = room.join("carol")
        talk(room, 24, alice, bob)
        room.tamper = None
        bob.hears(*late)
        late.clear()
        talk(room, 8, alice, bob)
        room.crash(carol)
    assert alice.alerts == bob.alerts == []


def test_member_who_slept_is_no_alarm_to_others_nor_they_to_it(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Its first ack when it wakes is of a roster of ten minutes ago, again and again."""
    for _ in range(2):
        slept: list[bytes] = []
        room.tamper = lambda _, to, data, slept=slept: (
            slept.append(data) or [] if to is bob else [data]
        )
        for _ in range(2):
            carol = room.join("carol")
            for _ in range(20):
                alice.types("is anybody there?")
                room.now = Moment(room.now.s + 4, room.now.ms + 4000)
                alice.tick()
                carol.tick()
                room.settle()
            room.crash(carol)
            alice.tick()
        room.tamper = None
        bob.session._room_conversation.owe()
        bob.tick()
        room.settle()
        bob.hears(*slept)
        room.passes(3)
    assert alice.alerts == bob.alerts == []


def test_more_rosters_than_are_remembered_are_no_alarm_until_it_can_be_told(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = untold(FrameType.ADD, bob)
    room.join("carol")
    room.tamper = None
    talk(room, 20, alice, bob)
    carol = room.members[-1]
    add, gone = Add(carol.session_id, carol.bundle), Del(carol.session_id, LeaveReason.LEFT)
    alice.hears(*[gone.serialize(), add.serialize()] * 128)
    talk(room, 60, alice, bob)
    assert alice.alerts == []
    assert bob.alerts == [differs(bob, alice)]
    talk(room, 60, alice, bob)
    assert alice.alerts == [differs(alice, bob)]


def test_honest_churn_on_a_slow_network_is_never_an_alarm() -> None:
    churn(seed=0, steps=60)


@pytest.mark.torture
def test_honest_churn_is_never_an_alarm_in_thirty_hours() -> None:
    for seed in range(50):
        churn(seed, steps=540)


def churn(seed: int, steps: int) -> None:
    """Four people come, crash, lose their connection and talk, for 4 s each step, and what is on
    its way to some of them is late by up to twenty seconds."""
    dice, room = random.Random(seed), SimulatedRoom()
    room.is_slow = True
    runs = [room.join(name) for name in ("alice", "bob")]
    late: dict[SimulatedMember, float] = {}
    for _ in range(steps):
        here = {m.name: m for m in room.connected}
        name = dice.choice(("alice", "bob", "carol", "dave"))
        match dice.randrange(8):
            case 0 if name not in here:
                runs.append(room.join(name))
            case 1 if len(here) > 2 and name in here:
                room.crash(here[name])
            case 2 if name in here:
                room.disconnect(here[name])
                room.connect(here[name])
            case 3 if name in here:
                late[here[name]] = room.now.s + 20 * dice.random()
            case _ if name in here and here[name].session.joined:
                here[name].types("still here")
        room.passes(4, step=2)
        for member in list(room.connected):
            while member.inbox and late.get(member, 0) <= room.now.s:
                frame = Frame(member.inbox.popleft())
                member.perform(member.session.receive(frame, room.now))
    assert sum(len(m.payloads(Ack)) for m in runs) > steps / 3
    assert not any("differ" in text for m in runs for text in m.alerts)
