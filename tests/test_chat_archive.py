"""chat_archive: what is handed on is what the rule allows, all of it and no more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chains import keystore, run
from hypothesis import given, settings
from hypothesis import strategies as st

import chat_archive
from blockchain import Blockchain
from chat_archive import Archive, fill
from chat_blocks import BlockType, Draft
from chat_history import forget
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    Entry,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
)
from chat_sync_bodies import MAX_RANGES, Ask, Entries, Fetch, Gained, Range
from chat_wire import u8, u16
from crypto_utils import fingerprint

ROOM, PAIR, ELSEWHERE = b"room".ljust(16), b"pair".ljust(16), b"elsewhere".ljust(16)
TAGS = (ROOM, PAIR)  # those that the reader may ask about
NOW = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
SIZE = AUDIENCE_ITEM_BYTES


def session(number: int) -> bytes:
    return b"session %7d." % number


def spki(person: int) -> bytes:
    return (b"person %d" % person).ljust(422)


def person(number: int) -> bytes:
    """Its fingerprint."""
    return fingerprint(spki(number))


READER = 0
US = 9


def bundle(of: int, its_person: int, size: int = 600) -> bytes:
    """As much of one as is looked at; nobody signed it."""
    body = u8(1) + ROOM + u16(422) + spki(its_person) + u16(4) + b"nick" + session(of)
    return body.ljust(size, b"\0")


def audience(*people: int) -> bytes:
    return b"".join(sorted(person(number)[:SIZE] for number in people))


def signed(tag: bytes, of: int, seq: int, text: bytes, kind: int = EntryKind.CHAT) -> SignedEntry:
    entry = Entry(kind, tag, session(of), seq, bytes(32), bytes(32), 0, bytes(16), text)
    return SignedEntry(entry, bytes(64))


# ------------------------------------------------------------------------------------------------
# a naive model


@dataclass
class Model:
    """Every entry by its place, in its block; what may be handed on, by the words of PROTOCOL.md
    4.12 and nothing else."""

    authors: dict[int, int] = field(default_factory=dict)  # session → person, if its bundle is here
    # By tag and session: seq → block and entry.
    feeds: dict[tuple[bytes, int], dict[int, tuple[int, SignedEntry]]] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)  # blocks

    def in_force(self, tag: bytes, of: int, seq: int) -> tuple[int, ...] | None:
        """The blocks from the audience entry in force at a seq to that seq; None: there is a hole
        between the two, or it does not name the reader."""
        feed, blocks = self.feeds[tag, of], []
        for at in range(seq, 0, -1):
            if at not in feed:
                return None
            block, entry = feed[at]
            blocks.append(block)
            if entry.entry.kind == EntryKind.AUDIENCE:
                items = entry.entry.text
                named = {items[i : i + SIZE] for i in range(0, len(items), SIZE)}
                is_known = block not in self.erased
                return tuple(blocks) if is_known and person(READER)[:SIZE] in named else None
        return None

    def allowed(self) -> dict[tuple[bytes, int, int], tuple[int, bytes]]:
        """What the reader may have: the block that made it so, and the record; empty: erased."""
        found = {}
        for (tag, of), feed in self.feeds.items():
            if tag not in TAGS or of not in self.authors:
                continue
            for seq, (block, entry) in feed.items():
                if (blocks := self.in_force(tag, of, seq)) is not None:
                    record = b"" if block in self.erased else entry.serialize()
                    found[tag, of, seq] = (max(blocks), record)
        return found


@dataclass
class World:
    """A chain, its archive, and the model."""

    model: Model = field(default_factory=Model)
    records: list[tuple[BlockType, bytes]] = field(default_factory=list)
    archive: Archive = field(init=False)

    def __post_init__(self) -> None:
        self.archive = Archive(self.read)

    def read(self, block: int) -> bytes:
        return b"" if block in self.model.erased else self.records[block - 1][1]

    @property
    def head(self) -> int:
        return len(self.records)

    def append(self, kind: BlockType, record: bytes) -> int:
        self.records.append((kind, record))
        self.archive.note(self.head, kind, record)
        return self.head

    def introduce(self, of: int, its_person: int) -> None:
        event = Event(EventKind.BUNDLE, bundle(of, its_person))
        self.append(BlockType.EVENT, event.serialize())
        self.model.authors[of] = its_person

    def takes(self, tag: bytes, of: int, seq: int, text: bytes, kind: int = EntryKind.CHAT) -> None:
        entry = signed(tag, of, seq, text, kind)
        ours = BlockType.SENT if kind == EntryKind.CHAT else BlockType.CONTROL
        is_ours = self.model.authors.get(of) == US
        block = self.append(ours if is_ours else BlockType.RECEIVED, entry.serialize())
        self.model.feeds.setdefault((tag, of), {}).setdefault(seq, (block, entry))

    def asks(self, since: int) -> Gained:
        answer = self.archive.answer(Ask(since), person(READER), TAGS, self.head)
        assert isinstance(answer, Gained)
        return answer

    def fetches(self, *ranges: Range) -> Entries:
        answer = self.archive.answer(Fetch(ranges), person(READER), TAGS, self.head)
        assert isinstance(answer, Entries)
        assert answer.deals_with(Fetch(ranges))
        return answer


def places(ranges: tuple[Range, ...]) -> list[tuple[bytes, int, int]]:
    return [
        (its.tag, int(its.session_id[8:15]), seq)
        for its in ranges
        for seq in range(its.first, its.last + 1)
    ]


def place(record: bytes) -> tuple[bytes, int, int]:
    entry = SignedEntry.parse(record).entry
    return entry.tag, int(entry.session_id[8:15]), entry.seq


def every(ranges: list[Range], world: World) -> list[bytes]:
    """All that is served of them, in as many answers as it takes."""
    got: list[bytes] = []
    while ranges:
        answer = world.fetches(*ranges[:MAX_RANGES])
        got += answer.entries
        introduced = {data[16 + 1 + 2 + 422 + 6 :][:16] for data in answer.bundles}
        assert introduced == {session(place(record)[1]) for record in answer.entries}
        behind = zip(ranges, answer.done, strict=False)
        rest = [its._replace(first=done + 1) for its, done in behind if done < its.last]
        ranges = rest + ranges[MAX_RANGES:]
        assert answer.entries or not rest
    return got


# ------------------------------------------------------------------------------------------------
# any history

_PEOPLE = {1: 1, 2: 2, 3: READER, 4: US, 5: 1}  # session → person; one is the reader's own


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Feeds whose entries come in any order, with holes, audiences that change, some erased."""
    world = World()
    waiting: list[tuple[bytes, int, int, bytes, int]] = []
    for of in draw(st.sets(st.sampled_from([*_PEOPLE]), min_size=1)):
        for tag in draw(st.sets(st.sampled_from([ROOM, PAIR, ELSEWHERE]), min_size=1)):
            for seq in range(1, draw(st.integers(1, 12)) + 1):
                kind: int = EntryKind.CHAT
                text = b"x" * draw(st.sampled_from([1, 40, 16_384]))
                if draw(st.integers(0, 3)) == 0 or (seq == 1 and draw(st.booleans())):
                    kind = EntryKind.AUDIENCE
                    text = audience(*draw(st.sets(st.sampled_from([READER, 1, 2]))))
                if draw(st.integers(0, 7)):
                    waiting.append((tag, of, seq, text, kind))
    if draw(st.booleans()):
        waiting = draw(st.permutations(waiting))
    for n, (tag, of, seq, text, kind) in enumerate(waiting):
        if of not in world.model.authors and draw(st.integers(0, 5)):
            world.introduce(of, _PEOPLE[of])
        world.takes(tag, of, seq, text, kind)
        if n % 3 == 0 and draw(st.integers(0, 3)) == 0:
            world.takes(tag, of, seq, text, kind)  # a second time: no matter
    chats = [
        block
        for feed in world.model.feeds.values()
        for block, entry in feed.values()
        if entry.entry.kind == EntryKind.CHAT
    ]
    world.model.erased = draw(st.sets(st.sampled_from(chats), max_size=3)) if chats else set()
    return world


@settings(max_examples=30)
@given(worlds(), st.data())
def test_what_is_told_and_served_is_what_the_rule_allows(world: World, data: st.DataObject) -> None:
    allowed = world.model.allowed()
    others = {of for of, author in world.model.authors.items() if author != READER}
    since = data.draw(st.integers(0, world.head))
    gained = world.asks(since)
    assert (gained.upto, gained.more) == (world.head, False)
    told = places(gained.ranges)
    assert len(told) == len({*told})
    news = {key for key, (block, _) in allowed.items() if block > since and key[1] in others}
    assert {*told} == news
    # All there is, asked for whole, in order and once.
    ranges = [Range(tag, session(of), 1, 2**64 - 1) for tag, of in world.model.feeds]
    got = every(ranges, world)
    assert [place(record) for record in got] == sorted(
        (key for key, (_, record) in allowed.items() if record),
        key=lambda key: ([*world.model.feeds].index(key[:2]), key[2]),
    )
    assert all(allowed[place(record)][1] == record for record in got)
    # And in parts.
    parts = [
        Range(tag, session(of), *sorted(data.draw(st.tuples(_SEQ, _SEQ))))
        for tag, of in world.model.feeds
    ]
    asked_for = {*places(tuple(parts))}
    assert {place(record) for record in every(parts, world)} == {
        key for key, (_, record) in allowed.items() if record and key in asked_for
    }


_SEQ = st.integers(1, 14)


def test_question_looks_at_no_stay_but_those_that_it_is_about() -> None:
    """A feed of 1,000 stays, each behind a hole, and 512 ranges of it."""
    world, looked_at = World(), 0

    class Counting(list[bytes]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().__getitem__(at)

    world.introduce(1, 1)
    for seq in range(1, 2000, 2):
        world.takes(ROOM, 1, seq, audience(READER, 1), EntryKind.AUDIENCE)
    held = world.archive._feeds[ROOM, session(1)]
    held.audiences = Counting(held.audiences)
    answer = world.fetches(*(Range(ROOM, session(1), 2 * n, 2 * n) for n in range(1, 513)))
    assert not answer.entries
    assert looked_at <= 512


def test_entries_that_fit_no_answer_are_not_read_again_and_again() -> None:
    world, read = World(), 0
    world.introduce(1, 1)
    world.takes(ROOM, 1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    for seq in range(2, 50):
        world.takes(ROOM, 1, seq, bytes(65_535), 77)
    inner = world.archive._read

    def counted(block: int) -> bytes:
        nonlocal read
        read += 1
        return inner(block)

    world.archive._read = counted
    answer = world.fetches(*[Range(ROOM, session(1), 2, 2**64 - 1)] * MAX_RANGES)
    assert not answer.entries
    assert read <= 2 * MAX_RANGES


# ------------------------------------------------------------------------------------------------
# a chain


@dataclass
class Chain:
    """A real one, with what was appended."""

    chain: Blockchain
    now_ms: int = NOW

    def append(self, kind: BlockType, record: bytes) -> int:
        its_id = hashlib.sha256(record).digest()
        self.chain.append([Draft(kind, record, its_id)], self.now_ms)
        return self.chain.head().index

    def introduce(self, of: int, its_person: int) -> int:
        event = Event(EventKind.BUNDLE, bundle(of, its_person))
        return self.append(BlockType.EVENT, event.serialize())

    def takes(self, of: int, seq: int, text: bytes, kind: int = EntryKind.CHAT) -> int:
        return self.append(BlockType.RECEIVED, signed(ROOM, of, seq, text, kind).serialize())

    def archive(self) -> Archive:
        """Filled."""
        archive = Archive(self.read)
        for _ in fill(archive, self.chain, self.now_ms):
            pass
        return archive

    def read(self, index: int) -> bytes:
        block = self.chain.block(index)
        return b"" if block is None or block.is_erased else self.chain.record(block)

    def served(self, archive: Archive | None = None) -> list[int]:
        """The seqs of session 1 that are listed, all of which are served."""
        its = archive or self.archive()
        gained = its.answer(Ask(0), person(READER), TAGS, self.chain.head().index)
        assert isinstance(gained, Gained)
        assert not gained.more
        told = [seq for _, of, seq in places(gained.ranges) if of == 1]
        if told:
            answer = its.answer(Fetch(gained.ranges), person(READER), TAGS, 0)
            assert isinstance(answer, Entries)
            assert [place(record)[2] for record in answer.entries] == told
        return told


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    monkeypatch.setattr(chat_archive, "_SLICE_BLOCKS", 3)
    its = Blockchain.create(tmp_path / "chain.db", keystore(), NOW)
    yield Chain(its)
    its.close()


def test_what_is_there_is_told_in_slices_with_appends_in_between(chain: Chain) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    for seq in range(2, 12):
        chain.takes(1, seq, b"x")
    archive = Archive(chain.read)
    seq, slices = 12, 0
    for _ in fill(archive, chain.chain, NOW):
        slices += 1
        if slices % 2:
            index = chain.takes(1, seq, b"y")
            entry = signed(ROOM, 1, seq, b"y")
            archive.note(index, BlockType.RECEIVED, entry.serialize())
            seq += 1
    assert slices > 4
    assert chain.served(archive) == list(range(1, seq))


def test_erased_text_is_not_served_and_leaves_no_hole(chain: Chain) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    block = chain.takes(1, 2, b"x")
    chain.takes(1, 3, b"x")
    forget(chain.chain, block, NOW)
    archive = chain.archive()
    fetch = Fetch((Range(ROOM, session(1), 1, 9),))
    answer = archive.answer(fetch, person(READER), TAGS, 0)
    assert isinstance(answer, Entries)
    assert ([place(r)[2] for r in answer.entries], answer.done) == ([1, 3], (9,))


def test_erased_audience_is_the_end_of_what_it_allowed_and_of_nothing_else(chain: Chain) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    chain.takes(1, 2, b"x")
    block = chain.takes(1, 3, audience(1), EntryKind.AUDIENCE)
    chain.takes(1, 4, b"not for the reader")
    chain.takes(1, 5, audience(READER, 1), EntryKind.AUDIENCE)
    forget(chain.chain, block, NOW)
    chain.takes(1, 6, b"x")
    assert chain.served() == [1, 2, 5, 6]


def test_what_came_more_than_30_days_ago_is_handed_on_no_more(chain: Chain) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    chain.takes(1, 2, b"x")
    chain.introduce(2, 2)
    chain.now_ms += 31 * DAY_MS
    assert chain.served() == []


def test_who_writes_for_more_than_30_days_is_handed_on_all_the_same(chain: Chain) -> None:
    """Its bundle, and who may read, stand where it began."""
    for of in (2, 1):
        chain.introduce(of, of)
        chain.takes(of, 1, audience(READER, 1), EntryKind.AUDIENCE)
    for seq in range(2, 10):
        chain.takes(1, seq, b"old")
    chain.now_ms += 31 * DAY_MS
    for seq in range(10, 15):
        chain.takes(1, seq, b"new")
    assert chain.served() == list(range(10, 15))


def test_hole_from_before_30_days_hides_what_stands_behind_it(chain: Chain) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    chain.takes(1, 3, b"old")
    chain.now_ms += 31 * DAY_MS
    for seq in range(4, 8):
        chain.takes(1, seq, b"new")
    assert chain.served() == []


def test_row_that_is_damaged_ends_what_is_told(chain: Chain, tmp_path: Path) -> None:
    chain.introduce(1, 1)
    chain.takes(1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    blocks = [chain.takes(1, seq, b"x") for seq in range(2, 12)]
    path = tmp_path / "chain.db"
    chain.chain.close()
    run(path, f"UPDATE blocks SET body = x'01' || body WHERE idx = {blocks[5]}")
    chain.chain = Blockchain.open(path, keystore())
    told = chain.served()
    assert told == list(range(1, len(told) + 1))
    assert len(told) <= 6
    index = chain.chain.head().index + 1  # and what is told from here on is served
    archive = chain.archive()
    for seq, text, kind in ((20, audience(READER), EntryKind.AUDIENCE), (21, b"x", EntryKind.CHAT)):
        archive.note(index, BlockType.RECEIVED, signed(ROOM, 1, seq, text, kind).serialize())
        index += 1
    gained = archive.answer(Ask(0), person(READER), TAGS, index)
    assert isinstance(gained, Gained)
    assert [seq for _, _, seq in places(gained.ranges)] == [*told, 20, 21]


# ------------------------------------------------------------------------------------------------
# pages


def pages(world: World, grows: bool) -> list[Gained]:
    found, since = [world.asks(0)], 0
    while found[-1].more:
        assert found[-1].upto > since
        since = found[-1].upto
        if grows:
            world.takes(ROOM, 1, 1 + max(world.model.feeds[ROOM, 1]), b"meanwhile")
        found.append(world.asks(since))
    return found


@pytest.mark.parametrize("grows", [False, True])
def test_pages_name_all_there_is(grows: bool) -> None:
    """Each of these feeds once; one goes on growing, and what it grew by is named again."""
    world, count = World(), 3 * MAX_RANGES + 7
    world.introduce(1, 1)
    world.takes(ROOM, 1, 1, audience(READER, 1), EntryKind.AUDIENCE)
    for of in range(2, count + 1):
        world.introduce(of, 1)
        world.takes(ROOM, of, 1, audience(READER, 1), EntryKind.AUDIENCE)
        world.takes(ROOM, of, 2, b"x")
    found = pages(world, grows)
    assert len(found) == 4
    assert [len(page.ranges) for page in found[:3]] == [MAX_RANGES] * 3
    told = [key for page in found for key in places(page.ranges)]
    assert {*told} == {*world.model.allowed()}
    twice = {key for key in told if told.count(key) > 1} if grows else set()
    assert {of for _, of, _ in twice} <= {1}
    if not grows:
        assert len(told) == len({*told})
    assert world.asks(found[-1].upto).ranges == ()
