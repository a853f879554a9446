"""The checker of histories finds nothing in an honest room, and each breach in a doctored one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import simulated_room
from history_checker import Fault, History, check, faults, of_profiles, of_room
from lying_relay import each_once
from profiles import checked_identity, edit_body
from simulated_room import LOBBY, SimulatedMember, SimulatedRoom, keystore, session_keys

from blockchain import BlockType, Draft, Head, SideRow
from chat_folder import NO_CHAIN
from chat_messages import Bundle, Entry, EntryKind, Event, EventKind, FeedReport, SignedEntry
from chat_profile import Profile
from crypto_utils import Identity, Keystore, SigningKey

Doctor = Callable[[dict[str, History]], None]


@pytest.fixture(scope="module")
def told() -> list[History]:
    """Alice, Bob and Carol after a conversation, in the room and in pairs; Dave came late, and
    Bob lacks nothing though his client was started twice."""
    with each_once():
        return talked()


def talked() -> list[History]:
    room = SimulatedRoom()
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    alice.types("one")
    bob.types("two")
    alice.types("/msg bob psst")
    room.passes(5)
    room.crash(bob)
    again = room.join("bob", bob.memory, heads=bob.heads)
    carol.types("three")
    alice.types("/ignore carol")
    alice.types("four")
    dave = room.join("dave")
    alice.types("five")
    alice.types("six")
    room.passes(5)
    return of_room([alice, bob, again, carol, dave])


def copied(histories: list[History]) -> dict[str, History]:
    return {
        h.name: replace(h, blocks=[*h.blocks], acks=[*h.acks], shown=[*(h.shown or ())])
        for h in histories
    }


def entry_of(draft: Draft) -> Entry:
    return SignedEntry.parse(draft.record).entry


def index_of(history: History, text: str) -> int:
    """Of the block that says it."""
    entries = (BlockType.SENT, BlockType.RECEIVED)
    return next(
        i
        for i, d in enumerate(history.blocks)
        if d.type in entries and entry_of(d).text == text.encode()
    )


def rules(found: list[Fault]) -> set[tuple[str, str]]:
    return {(fault.rule, fault.name) for fault in found}


def signed_draft(kind: BlockType, entry: Entry, key: SigningKey) -> Draft:
    return Draft(kind, entry.sign(key).serialize(), entry.entry_id)


def bundle_draft(bundle: bytes) -> Draft:
    event = Event(EventKind.BUNDLE, bundle)
    return Draft(BlockType.EVENT, event.serialize(), event.event_id)


def stranger(name: str, by: str | None = None) -> tuple[SigningKey, Bundle]:
    """A session of that name's whose signing key the test has."""

    key, own = SigningKey.generate(), keystore(name)
    fields = (key, 1, session_keys(name, 0).get_public_key(), own.chain_id)
    return key, Bundle.create(
        keystore(by or name).identity, LOBBY, name, *fields, own.chain_signing_key.public
    )


def test_honest_room_has_no_fault_and_nothing_lacking(told: list[History]) -> None:
    assert faults(told, lacking=()) == []
    assert {h.name: h.balance for h in told} == {"alice": 5, "bob": 1, "carol": 1, "dave": 0}
    assert all(h.acks for h in told)


# ------------------------------------------------------------------- each rule can fail


def tampered(people: dict[str, History]) -> None:
    people["bob"].verdict = "EDITED@3"


def one_coin_too_many(people: dict[str, History]) -> None:
    people["alice"].balance += 1


def one_coin_too_few(people: dict[str, History]) -> None:
    people["alice"].balance -= 1


def own_entry_lost(people: dict[str, History]) -> None:
    """And its coin with it; who got it has what nobody wrote."""
    del people["alice"].blocks[index_of(people["alice"], "one")]
    people["alice"].balance -= 1


def own_audience_lost(people: dict[str, History]) -> None:
    blocks = people["carol"].blocks
    del blocks[next(i for i, d in enumerate(blocks) if d.type is BlockType.CONTROL)]


def own_entry_of_another_kind(people: dict[str, History]) -> None:
    blocks = people["bob"].blocks
    at = index_of(people["bob"], "two")
    blocks[at] = replace(blocks[at], type=BlockType.CONTROL)
    people["bob"].balance = 0


def bundle_lost(people: dict[str, History]) -> None:
    """Of Carol, on Bob's chain."""
    blocks = people["bob"].blocks
    del blocks[next(i for i, d in enumerate(blocks) if is_bundle(d, "carol"))]


def is_bundle(draft: Draft, nick: str) -> bool:
    if draft.type is not BlockType.EVENT:
        return False
    event = Event.parse(draft.record)
    return event.kind == EventKind.BUNDLE and Bundle.parse(event.body, None).nick == nick


def bundle_after_its_entry(people: dict[str, History]) -> None:
    blocks = people["bob"].blocks
    at = next(i for i, d in enumerate(blocks) if is_bundle(d, "carol"))
    blocks.append(blocks.pop(at))


def signature_spoilt(people: dict[str, History]) -> None:
    blocks = people["dave"].blocks
    at = index_of(people["dave"], "five")
    record = blocks[at].record
    blocks[at] = replace(blocks[at], record=record[:-1] + bytes((record[-1] ^ 1,)))


def own_feed_of_somebody_else(people: dict[str, History]) -> None:
    key, bundle = stranger("dave", by="carol")
    entry = Entry(
        EntryKind.AUDIENCE,
        LOBBY.tag,
        bundle.session_id,
        1,
        bytes(32),
        bytes(32),
        0,
        bytes(16),
        b"",
    )
    people["dave"].blocks += [
        bundle_draft(bundle.raw),
        signed_draft(BlockType.CONTROL, entry, key),
    ]


def entry_kept_twice(people: dict[str, History]) -> None:
    blocks = people["bob"].blocks
    blocks.append(blocks[index_of(people["bob"], "one")])


def two_entries_in_one_place(people: dict[str, History]) -> None:
    key, bundle = stranger("alice")
    place = (EntryKind.CHAT, LOBBY.tag, bundle.session_id, 1, bytes(32), bytes(32))
    made = [Entry(*place, i, bytes(16), b"x") for i in (0, 1)]
    people["bob"].blocks.append(bundle_draft(bundle.raw))
    people["bob"].blocks += [signed_draft(BlockType.RECEIVED, e, key) for e in made]


def entry_that_nobody_wrote(people: dict[str, History]) -> None:
    """Though it is signed."""
    key, bundle = stranger("alice")
    place = (EntryKind.CHAT, LOBBY.tag, bundle.session_id, 1, bytes(32), bytes(32))
    entry = Entry(*place, 0, bytes(16), b"x")
    people["bob"].blocks += [
        bundle_draft(bundle.raw),
        signed_draft(BlockType.RECEIVED, entry, key),
    ]


def own_entry_as_somebody_elses(people: dict[str, History]) -> None:
    """It stands there as received, with one coin less."""
    blocks = people["alice"].blocks
    at = index_of(people["alice"], "six")
    blocks[at] = replace(blocks[at], type=BlockType.RECEIVED)
    people["alice"].balance -= 1


def entry_given_to_who_was_ignored(people: dict[str, History]) -> None:
    give(people, "four", "carol")


def entry_given_to_who_came_later(people: dict[str, History]) -> None:
    give(people, "four", "dave")


def private_entry_given_away(people: dict[str, History]) -> None:
    give(people, "psst", "carol")


def give(people: dict[str, History], text: str, to: str) -> None:
    """What Alice said, on a chain where it does not belong."""
    draft = people["alice"].blocks[index_of(people["alice"], text)]
    blocks = people[to].blocks
    blocks.append(replace(draft, type=BlockType.RECEIVED))


def two_entries_exchanged(people: dict[str, History]) -> None:
    blocks = people["bob"].blocks
    one, other = index_of(people["bob"], "five"), index_of(people["bob"], "six")
    blocks[one], blocks[other] = blocks[other], blocks[one]


def entries_that_are_not_linked(people: dict[str, History]) -> None:
    key, bundle = stranger("alice")
    both = b"".join(sorted(people[name].fingerprint[:16] for name in ("alice", "bob")))
    rest = (bytes(32), bytes(32), 0, bytes(16), both)
    made = [Entry(EntryKind.AUDIENCE, LOBBY.tag, bundle.session_id, seq, *rest) for seq in (1, 2)]
    for name, kind in (("alice", BlockType.CONTROL), ("bob", BlockType.RECEIVED)):
        people[name].blocks.append(bundle_draft(bundle.raw))
        people[name].blocks += [signed_draft(kind, entry, key) for entry in made]


def entry_lost(people: dict[str, History]) -> None:
    """By Dave, before he acknowledged what came behind it."""
    blocks, dave = people["dave"].blocks, people["dave"]
    del blocks[index_of(dave, "five")]
    dave.acks = []


def last_entry_lost(people: dict[str, History]) -> None:
    blocks = people["dave"].blocks
    del blocks[index_of(people["dave"], "six") :]
    people["dave"].acks = []


def entry_lost_after_its_ack(people: dict[str, History]) -> None:
    del people["dave"].blocks[index_of(people["dave"], "six") :]


def entry_acknowledged_before_it_was_there(people: dict[str, History]) -> None:
    dave = people["dave"]
    dave.acks = [replace(a, head=replace(a.head, index=1)) for a in dave.acks]


def ack_of_another_entry(people: dict[str, History]) -> None:
    reported(people, lambda report: replace(report, entry_id=b"x" * 32))


def ack_that_lacks_what_is_there(people: dict[str, History]) -> None:
    reported(people, lambda report: replace(report, missing=(report.seq - 1,)))


def reported(people: dict[str, History], change: Callable[[FeedReport], FeedReport]) -> None:
    dave = people["dave"]
    dave.acks = [replace(a, feeds=tuple(map(change, a.feeds))) for a in dave.acks]


def ack_that_conceals_a_hole(people: dict[str, History]) -> None:
    """Something else stands where the entry should."""
    event = Event(EventKind.PIN, bytes(32) + b"eve")
    instead = Draft(BlockType.EVENT, event.serialize(), event.event_id)
    people["dave"].blocks[index_of(people["dave"], "five")] = instead


def shown_without_being_there(people: dict[str, History]) -> None:
    assert people["bob"].shown is not None
    people["bob"].shown.append("from nowhere")


def shown_twice(people: dict[str, History]) -> None:
    assert people["bob"].shown is not None
    people["bob"].shown.append("one")


DOCTORED: list[tuple[Doctor, set[tuple[str, str]]]] = [
    (tampered, {("verdict", "bob")}),
    (one_coin_too_many, {("balance", "alice")}),
    (one_coin_too_few, {("balance", "alice")}),
    (
        own_entry_lost,
        {("written", "alice"), ("acknowledged", "alice"), ("unsent", "bob"), ("unsent", "carol")},
    ),
    (own_audience_lost, {("written", "carol"), ("unsent", "bob"), ("unsent", "alice")}),
    (own_entry_of_another_kind, {("written", "bob")}),
    (bundle_lost, {("recorded", "bob")}),
    (bundle_after_its_entry, {("recorded", "bob")}),
    (signature_spoilt, {("recorded", "dave")}),
    (own_feed_of_somebody_else, {("recorded", "dave")}),
    (entry_kept_twice, {("twice", "bob")}),
    (two_entries_in_one_place, {("twice", "bob"), ("unsent", "bob")}),
    (entry_that_nobody_wrote, {("unsent", "bob")}),
    (own_entry_as_somebody_elses, {("unsent", "alice"), ("acknowledged", "alice")}),
    (entry_given_to_who_was_ignored, {("not entitled", "carol")}),
    (entry_given_to_who_came_later, {("not entitled", "dave")}),
    (private_entry_given_away, {("not entitled", "carol")}),
    (two_entries_exchanged, {("order", "bob")}),
    (entries_that_are_not_linked, {("link", "alice"), ("link", "bob")}),
    (entry_lost, {("hole", "dave")}),
    (last_entry_lost, {("hole", "dave")}),
    (entry_lost_after_its_ack, {("acknowledged", "dave"), ("hole", "dave")}),
    (entry_acknowledged_before_it_was_there, {("acknowledged", "dave")}),
    (ack_of_another_entry, {("acknowledged", "dave")}),
    (ack_that_lacks_what_is_there, {("acknowledged", "dave")}),
    (ack_that_conceals_a_hole, {("acknowledged", "dave"), ("hole", "dave")}),
    (shown_without_being_there, {("shown", "bob")}),
    (shown_twice, {("shown", "bob")}),
]


@pytest.mark.parametrize(("doctor", "expected"), DOCTORED, ids=lambda v: getattr(v, "__name__", ""))
def test_doctored_history_is_found_out(
    told: list[History], doctor: Doctor, expected: set[tuple[str, str]]
) -> None:
    people = copied(told)
    doctor(people)
    found = rules(faults(people.values(), lacking=()))
    assert expected <= found
    # A thing that is wrong may break a second rule, but nothing of what is sound.
    named = {rule for rule, _ in expected} | FURTHER.get(doctor, set())
    assert {rule for rule, _ in found} <= named
    with pytest.raises(AssertionError, match=next(iter(expected))[0]):
        check(people.values(), lacking=())


# Rules that a doctored history breaks besides.
FURTHER: dict[Doctor, set[str]] = {
    own_audience_lost: {"not entitled"},
    entry_given_to_who_was_ignored: {"order"},
    entry_given_to_who_came_later: {"order"},
    entry_lost: {"shown"},
    last_entry_lost: {"shown"},
    entry_lost_after_its_ack: {"shown"},
    ack_that_conceals_a_hole: {"shown"},
}


# ------------------------------------------------------------------- what a scenario allows


def test_what_may_be_lacking_is_no_hole_and_only_that(told: list[History]) -> None:
    people = copied(told)
    last_entry_lost(people)
    people["dave"].shown = None
    lost = entry_of(people["alice"].blocks[index_of(people["alice"], "six")]).entry_id
    assert faults(people.values(), lacking={("dave", lost)}) == []
    assert faults(people.values(), lacking=None) == []
    assert rules(faults(people.values(), lacking={("bob", lost)})) == {("hole", "dave")}


def test_what_nobody_who_is_here_can_give_is_no_hole(told: list[History]) -> None:
    people = copied(told)
    last_entry_lost(people)
    people["dave"].shown = None
    people["alice"].is_here = False
    assert rules(faults(people.values(), lacking=())) == {("hole", "dave")}, "Bob has it"
    people["bob"].is_here = False
    assert faults(people.values(), lacking=()) == []
    people["bob"].is_here, people["dave"].is_here = True, False
    assert faults(people.values(), lacking=()) == []


def test_nobody_has_to_give_to_whom_he_ignores_nor_above_a_hole_of_his_own(
    told: list[History],
) -> None:
    people = copied(told)
    last_entry_lost(people)
    people["dave"].shown = None
    people["alice"].is_here = False
    ignoring = copied([*people.values()])
    event = Event(EventKind.IGNORE, people["dave"].fingerprint)
    ignoring["bob"].blocks.append(Draft(BlockType.EVENT, event.serialize(), event.event_id))
    assert faults(ignoring.values(), lacking=()) == []
    bob = people["bob"]
    del bob.blocks[index_of(bob, "five")]
    bob.acks, bob.shown = [], None
    five = entry_of(people["alice"].blocks[index_of(people["alice"], "five")]).entry_id
    assert faults(people.values(), lacking={("bob", five)}) == []


def test_what_came_late_may_stand_behind_and_only_that(told: list[History]) -> None:
    people = copied(told)
    two_entries_exchanged(people)
    five = entry_of(people["alice"].blocks[index_of(people["alice"], "five")]).entry_id
    assert faults(people.values(), lacking=(), late={five}) == []
    assert faults(people.values(), lacking=(), late=None) == []
    assert faults(people.values(), lacking=(), late={b"x" * 32}) != []


def test_nothing_is_asked_of_liars_nor_about_what_they_wrote(told: list[History]) -> None:
    people = copied(told)
    entry_that_nobody_wrote(people)
    one_coin_too_many(people)
    assert rules(faults(people.values())) == {("unsent", "bob"), ("balance", "alice")}
    assert faults(people.values(), liars={"alice"}) == []


# ------------------------------------------------------------------- real profiles


class FiledMember(SimulatedMember):
    """Whose chain is in a real profile."""

    def __init__(self, room: SimulatedRoom, name: str, profile: Profile) -> None:
        super().__init__(room, name)
        self.profile = profile

    def head(self) -> Head:
        filed = self.profile.chain.head().index
        rows = [SideRow(*key, value) for key, value in self.remembered.items()]
        self.profile.chain.append(self.chain[filed:], self.room.now.ms, rows)
        return self.profile.chain.head()


def test_profiles_are_checked_as_simulated_members_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Identity, "from_pkcs8", checked_identity)
    homes = {name: tmp_path / name for name in ("alice", "bob")}
    profiles: dict[str, Profile] = {}
    for name, home in homes.items():
        empty = keystore(name).with_chain(NO_CHAIN)
        monkeypatch.setattr(Keystore, "generate", lambda empty=empty: empty)
        profiles[name] = Profile.open(home)
    monkeypatch.setattr(simulated_room, "keystore", lambda name: profiles[name].keystore)
    room = SimulatedRoom()
    alice, bob = (FiledMember(room, name, profile) for name, profile in profiles.items())
    for member in (alice, bob):
        room.connect(member)
    alice.types("one")
    bob.types("/msg alice two")
    room.passes(10)
    for member in (alice, bob):
        member.head()
        member.profile.close()
    found = of_profiles(homes)
    assert [h.blocks for h in found] == [alice.chain, bob.chain]
    assert [(h.balance, len(h.acks)) for h in found] == [(1, 1), (1, 1)]
    check(found, lacking=())
    edit_body(homes["bob"])
    people = {h.name: h for h in of_profiles(homes)}
    assert ("verdict", "bob") in rules(faults(people.values()))
