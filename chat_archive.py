"""Which entries our chain holds, and which of them somebody who catches up may have.

What lives here: an index of the entries on our chain, by conversation, session and seq, with the
audiences that were in force; and what of them a person is entitled to.  What it does not know: who
asks, who is ignored or doubted (`chat_session`), how often may be asked (`chat_sync`), the chain's
file (it is told each block, and reads records through a function).  The engine owns it.

    archive = Archive(read)
    for _ in fill(archive, chain, now_ms): ...                # a slice of what is there already
    archive.note(index, BlockType.RECEIVED, record)           # and what comes
    answer = archive.answer(Ask(since=0), fingerprint, {tag}, head_index)

Specified in docs/PROTOCOL.md 4.12.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, islice

from blockchain import Blockchain, StoreUnreadable
from chat_blocks import Block, BlockType
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    ENTRY_HEAD_BYTES,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
)
from chat_sync_bodies import MAX_ENTRIES_BYTES, MAX_RANGES, Ask, Entries, Fetch, Gained, Range
from chat_wire import MAX_BUNDLE_BYTES, WireError

__all__ = ["Archive", "fill"]

_LIFE_MS = 30 * 24 * 3600 * 1000  # what was appended longer ago is handed on no more
_LAST_SEQ = _LAST_INDEX = 2**64 - 1
# A longer entry fits no answer, with the largest bundle that there is.
_MAX_ENTRY_BYTES = MAX_ENTRIES_BYTES - 4 - 2 - MAX_BUNDLE_BYTES
_SLICE_BLOCKS = 200  # read at once, in some milliseconds
_WANTED = (
    BlockType.SENT,
    BlockType.CONTROL,
    BlockType.RECEIVED,
    BlockType.EVENT,
    BlockType.FORGET,
)


@dataclass
class _Run:
    """Entries that follow each other: the seq of the first, and each one's block."""

    first: int
    blocks: array[int]

    @property
    def end(self) -> int:
        """The seq behind the last."""
        return self.first + len(self.blocks)


@dataclass
class _Held:
    """One feed, as far as our chain has it."""

    runs: list[_Run] = field(default_factory=list)  # rising; none touches the next
    # Of the audience entries among them, rising: the seq, and the text, which says who may read
    # from there on; as it is, since anybody may write many, and a set is eight times as large.
    audience_seqs: list[int] = field(default_factory=list)
    audiences: list[bytes] = field(default_factory=list)
    newest: int = 0  # the highest block

    def put(self, seq: int, block: int) -> None:
        """Entry `seq` stands in that block; of two, the first counts."""
        at = bisect_right(self.runs, seq, key=lambda run: run.first)
        before = self.runs[at - 1] if at else None
        if before is not None and seq < before.end:
            return
        self.newest = max(self.newest, block)
        if before is not None and seq == before.end:
            before.blocks.append(block)
        else:
            before = _Run(seq, array("Q", (block,)))
            self.runs.insert(at, before)
            at += 1
        if at < len(self.runs) and self.runs[at].first == before.end:
            before.blocks.extend(self.runs.pop(at).blocks)

    def put_audience(self, seq: int, audience: bytes) -> None:
        """Entry `seq` says who may read."""
        at = bisect_left(self.audience_seqs, seq)
        if self.audience_seqs[at : at + 1] != [seq]:
            self.audience_seqs.insert(at, seq)
            self.audiences.insert(at, audience)

    def has_audience(self, seq: int) -> bool:
        """Whether it is known who may read entry `seq`, which we have."""
        run = self.runs[bisect_right(self.runs, seq, key=lambda run: run.first) - 1]
        at = bisect_right(self.audience_seqs, seq) - 1
        return at >= 0 and self.audience_seqs[at] >= run.first

    def entitled(
        self, reader: bytes, first: int = 1, last: int = _LAST_SEQ
    ) -> Iterator[tuple[_Run, int, int]]:
        """Seqs from the one to before the other, of a run, that `reader` (the beginning of a
        fingerprint) may have; of the stays that have a part in `first` to `last`.

        What stands in front of a run's first audience entry is nobody's: who was in the audience
        then is in a hole of ours.
        """
        at = max(0, bisect_right(self.runs, first, key=lambda run: run.first) - 1)
        end_at = bisect_right(self.runs, last, key=lambda run: run.first)
        for run in self.runs[at:end_at]:
            seqs = self.audience_seqs
            low, high = (bisect_left(seqs, seq) for seq in (run.first, run.end))
            stays = range(
                max(low, bisect_right(seqs, first) - 1), min(high, bisect_right(seqs, last))
            )
            for n in stays:
                if _names(self.audiences[n], reader):
                    yield run, seqs[n], seqs[n + 1] if n + 1 < high else run.end

    def of(self, first: int, last: int, reader: bytes) -> Iterator[tuple[int, int]]:
        """Seq and block of what there is of a range for `reader`."""
        for run, low, end in self.entitled(reader, first, last):
            for seq in range(max(first, low), min(last + 1, end)):
                yield seq, run.blocks[seq - run.first]


def _names(audience: bytes, reader: bytes) -> bool:
    at = audience.find(reader)
    while at > 0 and at % AUDIENCE_ITEM_BYTES:
        at = audience.find(reader, at + 1)
    return at >= 0


class Archive:
    """The entries that our chain holds, as far as it was told."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """`read` gives the record of a block; empty: it is erased."""
        self._read = read
        self.first = 0  # nobody is told of what the chain gained before this block
        self._feeds: dict[tuple[bytes, bytes], _Held] = {}  # by tag and session_id
        # By session_id: the block of its bundle, and the beginning of its person's fingerprint.
        self._bundles: dict[bytes, tuple[int, bytes]] = {}
        self._audiences: dict[bytes, bytes] = {}  # most members write the same
        self._not_served: set[int] = set()  # blocks of texts that are erased or too long

    def note(self, index: int, kind: int, record: bytes) -> None:
        """A block of ours, and its record in clear; each may be told more than once.

        Args:
            index: of the block; of a forget block, of the one that was erased: so it stays known
                that something stands there.

        Raises WireError: it holds something else.
        """
        if kind == BlockType.EVENT:
            event = Event.parse(record)
            if event.kind == EventKind.BUNDLE:
                session_id, fingerprint = Bundle.author_of(event.body)
                self._bundles[session_id] = (index, fingerprint[:AUDIENCE_ITEM_BYTES])
            return
        if not record:  # of a forget block that keeps nothing
            return
        entry = Entry.of_head(record[:ENTRY_HEAD_BYTES])
        held = self._feeds.setdefault((entry.tag, entry.session_id), _Held())
        held.put(entry.seq, index)
        if kind == BlockType.FORGET or len(record) > _MAX_ENTRY_BYTES:
            self._not_served.add(index)
        if entry.kind == EntryKind.AUDIENCE:
            # Of one that was erased nobody knows any more whom it named: from there on nobody may.
            text = b"" if kind == BlockType.FORGET else SignedEntry.parse(record).entry.text
            held.put_audience(entry.seq, self._audiences.setdefault(text, text))

    def lacks_beginnings(self, first_seqs: dict[tuple[bytes, bytes], int]) -> bool:
        """Whether it is not known who wrote one of these, or who may read it."""
        return any(
            feed[1] not in self._bundles or not self._feeds[feed].has_audience(seq)
            for feed, seq in first_seqs.items()
        )

    def first_seqs(self) -> dict[tuple[bytes, bytes], int]:
        """Of each feed the first entry that we have, by tag and session_id."""
        return {feed: held.runs[0].first for feed, held in self._feeds.items()}

    def answer(
        self, question: Ask | Fetch, fingerprint: bytes, tags: Collection[bytes], head: int
    ) -> Gained | Entries:
        """To a person who may be answered.

        Args:
            tags: of the conversations that it is about.
            head: the index of our last block.
        """
        reader = fingerprint[:AUDIENCE_ITEM_BYTES]
        if isinstance(question, Ask):
            return self._gained(question.since, reader, tags, head)
        return self._entries(question.ranges, reader, tags)

    def _gained(self, since: int, reader: bytes, tags: Collection[bytes], head: int) -> Gained:
        """What our chain gained behind block `since`, the longest on it first, as much as an
        answer has room for."""
        since = max(since, self.first - 1)
        found: list[tuple[int, Range]] = []  # with the lowest block
        for (tag, session_id), held in self._feeds.items():
            # What nobody introduced on our chain, nobody could check; and one's own is no news.
            _, author = self._bundles.get(session_id, (0, reader))
            if held.newest <= since or tag not in tags or author == reader:
                continue
            for run, first, end in held.entitled(reader):
                blocks = run.blocks[first - run.first : end - run.first]
                # What stands behind a hole could not be had before that was filled.
                had_since = [*accumulate(blocks, max)]
                at = bisect_right(had_since, since)
                if at < len(had_since):
                    its = Range(tag, session_id, first + at, end - 1)
                    found.append((had_since[at], its))
        found.sort()
        upto = found[MAX_RANGES][0] - 1 if len(found) > MAX_RANGES else head
        return Gained(upto, upto < head, tuple(its for _, its in found[:MAX_RANGES]))

    def _entries(
        self, ranges: tuple[Range, ...], reader: bytes, tags: Collection[bytes]
    ) -> Entries:
        done: list[int] = []
        bundles: dict[bytes, bytes] = {}
        entries: list[bytes] = []
        room, is_full = MAX_ENTRIES_BYTES, False
        for tag, session_id, first, last in ranges:
            reached = first - 1
            is_here = tag in tags and session_id in self._bundles and not is_full
            held = self._feeds.get((tag, session_id)) if is_here else None
            for seq, block in held.of(first, last, reader) if held else ():
                if block in self._not_served or not (record := self._read(block)):
                    continue
                bundle, size = b"", 4 + len(record)
                if session_id not in bundles:
                    bundle = Event.parse(self._read(self._bundles[session_id][0])).body
                    size += 2 + len(bundle)
                if is_full := size > room:
                    break
                bundles.setdefault(session_id, bundle)
                entries.append(record)
                room, reached = room - size, seq
            done.append(reached if is_full else last)
        return Entries(tuple(done), tuple(bundles.values()), tuple(entries))


def fill(archive: Archive, chain: Blockchain, now_ms: int) -> Iterator[None]:
    """Tells the archive of what the chain gained in 30 days, a slice at a time, for other work in
    between, appends to that chain too; and of what was before, as far as it takes to know who wrote
    that, and who may read it.  What cannot be read ends it: that the chain was changed is for its
    verification to say."""
    archive.first = start = _first_since(chain, now_ms - _LIFE_MS)
    with suppress(StoreUnreadable, WireError):
        while (last := _tell(archive, chain, start)) >= start:
            start = last + 1
            yield
        first_seqs, start = archive.first_seqs(), archive.first
        while start and archive.lacks_beginnings(first_seqs):
            end, start = start, max(0, start - _SLICE_BLOCKS)
            _tell(archive, chain, start, end)
            yield


def _tell(archive: Archive, chain: Blockchain, start: int, end: int = _LAST_INDEX) -> int:
    """Of one slice, from `start` on and before `end`; the last of it, below `start` if none."""
    index = start - 1
    for index, header, record in islice(chain.scan(*_WANTED, start=start), _SLICE_BLOCKS):
        if index >= end:
            break
        block = Block.parse(header)
        about = block.refers_to if block.type is BlockType.FORGET else index
        archive.note(about, block.type, record)
    return index


def _first_since(chain: Blockchain, since_ms: int) -> int:
    """The first block of that time or later."""
    low, high = 0, chain.head().index + 1
    while low < high:
        middle = (low + high) // 2
        block = chain.block(middle)
        if block is not None and block.timestamp_ms < since_ms:
            low = middle + 1
        else:
            high = middle
    return low
