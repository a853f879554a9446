"""What two members say to each other to catch up: questions and answers inside a SYNC payload.

What lives here: values, and which bytes each is.  What it does not know: how they are sealed and
signed (`chat_messages.Sync`), what is asked when (`chat_sync`), what is answered (`chat_archive`).

    body = parse_body(data)
    serialize_body(body)                    # `data` again

Specified in docs/PROTOCOL.md 4.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, NamedTuple

from chat_messages import Entry
from chat_wire import (
    MAX_BUNDLE_BYTES,
    SESSION_ID_BYTES,
    TAG_BYTES,
    Malformed,
    Reader,
    TooLarge,
    prefixed,
    u8,
    u16,
    u32,
    u64,
)

__all__ = [
    "MAX_ENTRIES_BYTES",
    "MAX_RANGES",
    "RANGE_BYTES",
    "Ask",
    "AskLater",
    "Body",
    "Entries",
    "Fetch",
    "Gained",
    "Range",
    "parse_body",
    "serialize_body",
]

RANGE_BYTES = TAG_BYTES + SESSION_ID_BYTES + 8 + 8
MAX_RANGES = 512  # of one body: 24 KiB
# Entries and bundles of one answer, each with its length: with all around it, that fits a frame.
MAX_ENTRIES_BYTES = 48 * 1024
_PADDED_TO = 1024  # so that an answer's size says little about how long texts are


class _Kind(IntEnum):
    ASK = 1
    GAINED = 2
    FETCH = 3
    ENTRIES = 4
    ASK_LATER = 5


class Range(NamedTuple):
    """Entries of one session in one conversation.  tag[16] ‖ session_id[16] ‖ first u64 ‖ last u64,
    both included."""

    tag: bytes
    session_id: bytes
    first: int
    last: int

    def serialize(self) -> bytes:
        """48 bytes."""
        return self.tag + self.session_id + u64(self.first) + u64(self.last)

    @classmethod
    def read(cls, r: Reader) -> Range:
        """Raises WireError."""
        its = cls(r.fixed(TAG_BYTES), r.fixed(SESSION_ID_BYTES), r.u64(), r.u64())
        if not 1 <= its.first <= its.last:
            raise Malformed(f"seqs from {its.first} to {its.last}")
        return its


def _counted(ranges: tuple[Range, ...]) -> bytes:
    return u16(len(ranges)) + b"".join(item.serialize() for item in ranges)


def _read_ranges(r: Reader) -> tuple[Range, ...]:
    count = r.u16()
    if count > MAX_RANGES:
        raise TooLarge(f"{count} ranges, at most {MAX_RANGES} are allowed")
    return tuple(Range.read(r) for _ in range(count))


@dataclass(frozen=True)
class Ask:
    """What did your chain gain that is for me, behind block `since`?  since u64."""

    since: int
    KIND: ClassVar[_Kind] = _Kind.ASK

    def fields(self) -> bytes:
        """Behind the kind."""
        return u64(self.since)

    @classmethod
    def read(cls, r: Reader) -> Ask:
        """Raises WireError."""
        return cls(r.u64())


@dataclass(frozen=True)
class Gained:
    """The answer: these, up to block `upto`; and whether there is more behind that.

    upto u64 ‖ more u8, 1 or 0 ‖ u16 count × Range.
    """

    upto: int
    more: bool
    ranges: tuple[Range, ...]
    KIND: ClassVar[_Kind] = _Kind.GAINED

    def fields(self) -> bytes:
        """Behind the kind."""
        return u64(self.upto) + u8(self.more) + _counted(self.ranges)

    @classmethod
    def read(cls, r: Reader) -> Gained:
        """Raises WireError."""
        upto, more = r.u64(), r.u8()
        if more > 1:
            raise Malformed(f"more is 0 or 1, got {more}")
        return cls(upto, bool(more), _read_ranges(r))


@dataclass(frozen=True)
class Fetch:
    """Give me these.  u16 count × Range."""

    ranges: tuple[Range, ...]
    KIND: ClassVar[_Kind] = _Kind.FETCH

    def covers(self, entry: Entry) -> bool:
        """Whether that entry was asked for."""
        place = (entry.tag, entry.session_id)
        return any(r[:2] == place and r.first <= entry.seq <= r.last for r in self.ranges)

    def fields(self) -> bytes:
        """Behind the kind."""
        return _counted(self.ranges)

    @classmethod
    def read(cls, r: Reader) -> Fetch:
        """Raises WireError."""
        ranges = _read_ranges(r)
        if not ranges:
            raise Malformed("nothing is asked for")
        return cls(ranges)


@dataclass(frozen=True)
class Entries:
    """The answer: as far as it got, and what there is of it for the asker.

    u16 count × done u64: for each range of the request the last seq that is dealt with, below its
    first if none; what is dealt with and not here is not the asker's, or not held ‖ u16 count ×
    bundle (u16 length): of the sessions that wrote ‖ u16 count × signed entry (u32 length), in the
    order of the ranges and of seq.
    """

    done: tuple[int, ...]
    bundles: tuple[bytes, ...]
    entries: tuple[bytes, ...]
    KIND: ClassVar[_Kind] = _Kind.ENTRIES

    def deals_with(self, question: Fetch) -> bool:
        """Whether it can be the answer to that."""
        return len(self.done) == len(question.ranges) and all(
            its.first - 1 <= last <= its.last
            for its, last in zip(question.ranges, self.done, strict=True)
        )

    def fields(self) -> bytes:
        """Behind the kind."""
        body = u16(len(self.done)) + b"".join(map(u64, self.done))
        body += u16(len(self.bundles)) + b"".join(map(prefixed, self.bundles))
        body += u16(len(self.entries))
        return body + b"".join(u32(len(entry)) + entry for entry in self.entries)

    @classmethod
    def read(cls, r: Reader) -> Entries:
        """Raises WireError."""
        count = r.u16()
        if count > MAX_RANGES:
            raise TooLarge(f"{count} ranges, at most {MAX_RANGES} are allowed")
        done = tuple(r.u64() for _ in range(count))
        bundles = tuple(r.prefixed(MAX_BUNDLE_BYTES) for _ in range(r.u16()))
        entries = tuple(r.fixed(r.u32()) for _ in range(r.u16()))
        return cls(done, bundles, entries)


@dataclass(frozen=True)
class AskLater:
    """The answer: not now; says nothing about why.  Empty."""

    KIND: ClassVar[_Kind] = _Kind.ASK_LATER

    def fields(self) -> bytes:
        """Behind the kind."""
        return b""

    @classmethod
    def read(cls, _r: Reader) -> AskLater:
        """Nothing to read."""
        return cls()


Body = Ask | Gained | Fetch | Entries | AskLater

_READERS = {kind.KIND: kind.read for kind in (Ask, Gained, Fetch, Entries, AskLater)}


def serialize_body(body: Body) -> bytes:
    """kind u8 ‖ length of its fields u32 ‖ fields ‖ zeros up to a multiple of 1024 bytes."""
    fields = body.fields()
    data = u8(body.KIND) + u32(len(fields)) + fields
    return data.ljust(-(-len(data) // _PADDED_TO) * _PADDED_TO, b"\0")


def parse_body(data: bytes) -> Body:
    """What `serialize_body` made.  Raises WireError."""
    r = Reader(data)
    kind = r.u8()
    fields, padding = Reader(r.fixed(r.u32())), r.rest()
    if padding.count(0) != len(padding) or len(data) % _PADDED_TO or len(padding) >= _PADDED_TO:
        raise Malformed("wrong padding")
    read = _READERS.get(kind)  # type: ignore[call-overload]
    if read is None:
        raise Malformed(f"unknown kind {kind}")
    body: Body = read(fields)
    fields.end()
    return body
