"""Attacks on catching up: what a member can do with questions, answers and acks of its own.

Each began as an attack, or an honest case, that lost something.  Whatever one member says, what an
honest one has still comes.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from unittest import mock

import pytest
import simulated_room
from simulated_room import (
    DECIDED_S,
    LOBBY,
    SimulatedMember,
    SimulatedRoom,
    Tamper,
    fingerprint,
    keystore,
    session_keys,
    tag,
)

import chat_roster
import chat_sync
from blockchain import BlockType
from chat_archive import Archive
from chat_feeds import TheirFeed
from chat_heard import Seqs
from chat_memory import MEMBERS_TABLE
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    FeedReport,
    Sync,
    parse_payload,
)
from chat_sync_bodies import Ask, Body, Entries, Fetch, Gained, Range, parse_body, serialize_body
from chat_wire import Broadcast, Direct, Frame, FrameType
from crypto_utils import SigningKey, pair_tag, random_bytes

U64 = 2**64 - 1

Answer = Callable[[Ask | Fetch], "Body | bytes | None"]  # bytes: sealed as they are


class Liar:
    """A member whose client answers questions as it pleases, and asks what it likes."""

    def __init__(self, room: SimulatedRoom, member: SimulatedMember, answer: Answer) -> None:
        self.room, self.member, self.answer = room, member, answer
        self.asked: list[Ask | Fetch] = []
        self.acks = 0
        honest = room.tamper

        def tamper(
            sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
        ) -> list[bytes]:
            if receiver is member and sender is not None and (sync := sync_of(data)):
                return self._hear(sender, sync, data)
            return honest(sender, receiver, data) if honest else [data]

        room.tamper = tamper

    def _hear(self, asker: SimulatedMember, sync: Sync, data: bytes) -> list[bytes]:
        keys = dict(self.member.session._seks)
        question = parse_body(sync.open(keys[sync.sek_number]))
        if not isinstance(question, Ask | Fetch):  # an answer, for the client that it runs
            return [data]
        self.asked.append(question)
        if (body := self.answer(question)) is not None:
            self.says(asker, sync.request_id, body)
        return []

    def says(self, to: SimulatedMember, request_id: bytes, body: Body | bytes) -> None:
        """A question or an answer."""
        session, bundle = self.member.session, Bundle.parse(to.bundle, LOBBY)
        data = body if isinstance(body, bytes) else serialize_body(body)
        place = (session._key, self.member.session_id, LOBBY.tag, bundle, request_id)
        sync = Sync.create(*place, data)
        self.room.deliver(self.member, to, Direct(to.session_id, sync.serialize()).serialize())

    def shows(self, to: SimulatedMember, *reports: FeedReport, tag: bytes = LOBBY.tag) -> None:
        """An ack that says: these are on my chain."""
        self.acks += 1
        session = self.member.session
        place = (session._key, self.member.session_id, tag, 1000 + self.acks, bytes(32))
        ack = Ack.create(*place, reports, self.member.head())
        data = ack.serialize()
        is_direct = tag != LOBBY.tag
        frame = Direct(to.session_id, data) if is_direct else Broadcast(data)
        self.room.deliver(self.member, to, frame.serialize())
        self.room.settle()


def nothing(question: Ask | Fetch) -> Body:
    """The answer of who has nothing."""
    if isinstance(question, Ask):
        return Gained(question.since, False, ())
    return Entries(tuple(its.last for its in question.ranges), (), ())


def sync_of(frame: bytes) -> Sync | None:
    """The question or answer that a frame carries."""
    whole = Frame(frame)
    if whole.type != FrameType.DIRECT:
        return None
    data = Direct.parse(whole.body).payload
    payload = parse_payload(data)
    return payload if isinstance(payload, Sync) else None


# ------------------------------------------------------------------------------------------------
# What a member answers


def test_answer_with_the_longest_texts_fits_a_frame(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(5)
    room.disconnect(bob)
    texts = ["x" * size for size in (16_384, 16_384, 14_300, 16_384)]
    for text in texts:
        alice.types(text)
    room.connect(bob)
    room.passes(20)
    assert bob.texts == ["one", *texts]


def misses(room: SimulatedRoom, member: SimulatedMember, texts: list[str]) -> None:
    """Alice says these to the room while that member is away; all settle, and it comes back."""
    (alice,) = [other for other in room.members if other.name == "alice"]
    room.passes(10)
    room.disconnect(member)
    for text in texts:
        alice.types(text)
    room.passes(10)


def test_answer_that_makes_no_sense_leaves_the_question_open_to_others(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    """The right member, the right request, and no body that can be read."""
    has = (Range(LOBBY.tag, alice.session_id, 1, 4),)
    gained = Gained(U64, False, has)
    liar = Liar(room, carol, lambda asked: gained if isinstance(asked, Ask) else bytes(1024))
    alice.types("one")
    misses(room, bob, ["two", "three"])
    comes_back_to(room, bob, liar, alice)
    room.passes(40)
    assert bob.texts == ["one", "hello", "two", "three"]
    assert bob.said("caught up: 2 messages")


def comes_back_to(
    room: SimulatedRoom, member: SimulatedMember, liar: Liar, honest: SimulatedMember
) -> None:
    """The liar is heard first: what the honest one says is withheld for 4 s, until it speaks."""
    room.tamper, before = without(room, honest, member), room.tamper
    room.connect(member)
    room.passes(4, step=0.1)
    room.tamper = before
    assert liar.asked
    honest.types("hello")


def test_holder_that_deals_with_one_seq_at_a_time_and_gives_none_is_asked_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    def slowly(question: Ask | Fetch) -> Body:
        if isinstance(question, Ask):
            return Gained(
                question.since + 1, False, ((Range(LOBBY.tag, alice.session_id, 1, U64)),)
            )
        return Entries(tuple(its.first for its in question.ranges), (), ())

    liar = Liar(room, carol, slowly)
    alice.types("one")
    misses(room, bob, ["two", "three"])
    comes_back_to(room, bob, liar, alice)
    liar.shows(bob, FeedReport(alice.session_id, U64, b"x" * 32))
    room.passes(40)
    assert bob.texts == ["one", "hello", "two", "three"]


def without(room: SimulatedRoom, sender: SimulatedMember, receiver: SimulatedMember) -> Tamper:
    """What one says to the other is withheld."""
    honest = room.tamper

    def tamper(by: SimulatedMember | None, to: SimulatedMember, data: bytes) -> list[bytes]:
        if by is sender and to is receiver:
            return []
        return honest(by, to, data) if honest else [data]

    return tamper


def test_who_names_anothers_chain_speaks_of_its_own_alone(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle's chain_id is its owner's word: Mallory names Alice's."""
    taken = keystore("mallory").with_chain(keystore("alice").chain_id)
    theirs = {"mallory": taken}
    monkeypatch.setattr(simulated_room, "keystore", lambda name: theirs.get(name) or keystore(name))
    mallory = room.join("mallory")
    room.blocks["mallory"] *= 50
    mallory.types("I have a long chain")
    alice.types("one")
    misses(room, bob, ["two"])
    room.crash(mallory)
    before = bob.texts
    room.connect(bob)
    room.passes(10)
    assert bob.texts == [*before, "two"]


def test_more_feeds_than_are_remembered_push_out_none_that_somebody_has_for_us(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    def invents(question: Ask | Fetch) -> Body | None:
        if isinstance(question, Fetch) or question.since >= 20:
            return None
        made = (Range(LOBBY.tag, random_bytes(16), 1, 1) for _ in range(512))
        return Gained(question.since + 1, True, tuple(made))

    liar = Liar(room, carol, invents)
    alice.types("one")
    misses(room, bob, ["two", "three"])
    comes_back_to(room, bob, liar, alice)
    room.passes(40)
    assert len(bob.session._catching_up._lacks) <= chat_sync._MAX_LACKS
    assert bob.texts == ["one", "hello", "two", "three"]


def test_more_places_in_a_feed_than_are_remembered_push_out_none_that_somebody_has_for_us(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    def invents(question: Ask | Fetch) -> Body | None:
        if isinstance(question, Fetch):
            return None
        places = (2 * n for n in range(1000, 1512))
        return Gained(U64, False, tuple(Range(LOBBY.tag, alice.session_id, n, n) for n in places))

    liar = Liar(room, carol, invents)
    alice.types("one")
    misses(room, bob, ["two", "three"])
    comes_back_to(room, bob, liar, alice)
    room.passes(40)
    assert bob.texts == ["one", "hello", "two", "three"]


def test_feed_with_more_holes_than_a_question_has_room_for_stops_no_other(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    carol: SimulatedMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_sync, "MAX_RANGES", 4)
    liar = Liar(room, carol, lambda question: None)
    alice.types("one")
    carol.types("I leave out every other one")
    room.passes(5)
    ours = carol.session._room_conversation.ours
    liar.shows(bob, FeedReport(carol.session_id, 100, b"x" * 32))
    for n in range(6):
        ours.ids.append(random_bytes(32))
        ours._sent_ms.append(0)
        carol.types(f"{n}")
    room.passes(15)
    assert liar.asked
    misses(room, bob, ["two"])
    room.connect(bob)
    room.passes(30)
    assert bob.texts[-1] == "two"


def test_four_who_say_they_have_it_and_do_not_answer_hide_nobody_who_does(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    def told(question: Ask | Fetch) -> Body | None:
        return nothing(question) if isinstance(question, Ask) else None

    liars = [Liar(room, room.join(f"liar{n}"), told) for n in range(4)]
    alice.types("one")
    misses(room, bob, ["two", "three"])
    room.crash(alice)
    comes_back_to(room, bob, liars[0], carol)
    for _ in range(240):
        for liar in liars:
            liar.shows(bob, FeedReport(alice.session_id, U64, b"x" * 32))
        room.passes(0.5)
        if "three" in bob.texts:
            break
    assert bob.texts == ["one", "hello", "two", "three"]


def test_who_does_not_answer_is_asked_nothing_for_a_while(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    def only_tells(question: Ask | Fetch) -> Body | None:
        if isinstance(question, Fetch):
            asked_s.append(room.now.s)
            return None
        made = (Range(LOBBY.tag, random_bytes(16), 1, 1) for _ in range(8))
        return Gained(question.since + 1, True, tuple(made))

    asked_s: list[float] = []
    alice.types("one")
    Liar(room, alice, only_tells)
    room.passes(100)
    assert asked_s
    assert all(later - before >= 15 for before, later in pairwise(asked_s))


def test_only_the_two_are_asked_for_what_they_said_in_private(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    """Who is asked learns that they talk, and how much."""
    liar = Liar(room, carol, nothing)
    alice.types("/msg bob psst")
    room.passes(5)
    pair = pair_tag(LOBBY, fingerprint("alice"), fingerprint("bob"))
    Liar(room, alice, nothing).shows(bob, FeedReport(alice.session_id, 9, b"x" * 32), tag=pair)
    room.passes(60)
    assert not [q for q in liar.asked if isinstance(q, Fetch)]


# ------------------------------------------------------------------------------------------------
# What honest members could lose


def test_what_stands_behind_a_hole_is_listed_once_the_hole_is_filled(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    dave = room.join("dave")
    alice.types("one")
    room.passes(10)
    room.disconnect(bob)
    alice.types("two")
    room.tamper = without(room, alice, dave)
    alice.types("three")
    room.tamper = None
    alice.types("four")
    room.crash(alice)
    room.crash(carol)
    assert dave.texts == ["one", "two", "four"]
    room.connect(bob)
    room.passes(30)
    assert bob.texts == ["one", "two"]
    room.disconnect(bob)
    carol = room.join("carol", carol.memory)
    room.passes(30)
    assert dave.texts == ["one", "two", "four", "three"]
    room.crash(carol)
    room.connect(bob)
    room.passes(30)
    assert bob.texts == ["one", "two", "three", "four"]


def test_private_message_comes_though_it_and_the_ack_that_tells_of_it_were_withheld(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(10)
    room.tamper = without(room, alice, bob)
    alice.types("/msg bob psst")
    room.passes(3)
    room.tamper = None
    room.passes(90)
    assert bob.texts == ["psst"]


def test_last_words_come_though_they_and_the_acks_that_tell_of_them_were_withheld(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(10)
    room.tamper = without(room, alice, bob)
    alice.types("two")
    room.passes(10)
    room.tamper = None
    room.passes(90)
    assert bob.texts == ["one", "two"]


def test_nobody_makes_anothers_words_his_own(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    """Mallory signs a bundle that names Carol's session and its public key as hers: the session_id
    is made of her key and his name."""
    mallory, keys = room.join("mallory"), keystore("mallory")
    room.passes(10)
    room.disconnect(bob)
    carol.types("mine")
    room.crash(carol)
    with mock.patch("chat_messages.session_id_of", return_value=carol.session_id):
        stolen = Bundle.create(
            keys.identity,
            LOBBY,
            "mallory",
            carol.session._key,  # its public half alone goes in
            1,
            session_keys("mallory", 0).get_public_key(),
            keys.chain_id,
            keys.chain_signing_key.public,
        )
    words = tuple(d.record for d in carol.chain if d.type in (BlockType.CONTROL, BlockType.SENT))
    has = (Range(LOBBY.tag, carol.session_id, 1, 2),)

    def hands_on(question: Ask | Fetch) -> Body:
        if isinstance(question, Ask):
            return Gained(U64, False, has)
        return Entries(tuple(its.last for its in question.ranges), (stolen.raw,), words)

    comes_back_to(room, bob, Liar(room, mallory, hands_on), alice)
    room.passes(30)
    assert bob.messages == ["alice: hello", "carol: mine"]


def test_feed_that_an_ack_names_six_hundred_times_is_looked_at_once(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    liar = Liar(room, alice, nothing)
    alice.types("one")
    room.passes(5)
    looked: list[Seqs] = []
    unheld = TheirFeed.unheld

    def counted(feed: TheirFeed, first: int, last: int) -> list[Seqs]:
        looked.append((first, last))
        return unheld(feed, first, last)

    monkeypatch.setattr(TheirFeed, "unheld", counted)
    liar.shows(bob, *(FeedReport(alice.session_id, 1000 + n, b"x" * 32) for n in range(600)))
    assert looked == [(1, 1599)]


def test_who_is_met_by_what_was_handed_on_leaves_no_more_rows_than_people_are_kept(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carol = room.join("carol")
    dave = Bundle.parse(SimulatedMember(room, "dave").session._our.raw, LOBBY)
    room.crash(carol)
    monkeypatch.setattr(chat_roster, "MAX_AUDIENCE", 3)
    bob.perform(bob.session._meet_absent(dave, room.now))
    room.passes(1)
    kept = {key[16:] for table, key in bob.remembered if table == MEMBERS_TABLE}
    assert kept == {fingerprint("alice"), fingerprint("dave")}


def test_copy_of_our_own_profile_is_not_asked_when_a_key_is_accepted(
    room: SimulatedRoom, knows_bob: SimulatedMember
) -> None:
    copy = room.join("alice")
    room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    knows_bob.types(f"/accept #{tag('mallory')}")
    room.passes(5)
    assert copy.session_id not in {sync.recipient for sync in knows_bob.payloads(Sync)}


def test_long_audience_takes_no_more_room_than_it_is_long(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    """Anybody may write as many as the relay lets through."""
    key, archive = SigningKey.generate(), Archive(lambda index: b"")
    records = []
    for seq in range(1, 11):
        text = b"".join(sorted(random_bytes(16) for _ in range(2048)))
        place = (LOBBY.tag, alice.session_id, seq, bytes(32), bytes(32), 0)
        records.append(Entry.create(EntryKind.AUDIENCE, *place, text).sign(key).serialize())
    tracemalloc.start()
    for index, record in enumerate(records, 1):
        archive.note(index, BlockType.RECEIVED, record)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.1 * sum(map(len, records))
