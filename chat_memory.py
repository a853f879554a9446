"""What a session knows of earlier runs of this profile.

What lives here: `Memory`, the side tables that it is kept in, `Past` (what a chain up to a block
makes of it), and what must stay the same behind a session_id.  What it does not know: where rows
and blocks come from (`chat_history`), what a session makes of it.

    past = Past.parse(data)                  # as `serialize` wrote it; Past() is the empty chain's
    past.read_event(Event.parse(record))     # then the chain behind that, in its order
    memory = past.memory(chain.side(FEEDS_TABLE))
    memory.read_member(room, key, value)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from chat_feeds import TheirFeed
from chat_messages import (
    ENTRY_HEAD_BYTES,
    MAX_AUDIENCE,
    MAX_NICK_CHARACTERS,
    Bundle,
    Entry,
    Event,
    EventKind,
    check_nick,
)
from chat_pins import Pins
from chat_roster import MAX_LIVE, Person
from chat_wire import Malformed, Reader, WireError, prefixed, u8, u32, u64
from crypto_utils import SIGNATURE_BYTES, CryptoError, RoomSecret

__all__ = [
    "FEEDS_TABLE",
    "FEED_LIFE_MS",
    "MAX_FEEDS",
    "MAX_KEPT_MEMBERS",
    "MEMBERS_TABLE",
    "TOLD_TABLE",
    "Incomplete",
    "Memory",
    "Past",
    "kept_members",
    "kept_of",
    "who",
]

FEED_LIFE_MS = 30 * 24 * 3600 * 1000  # first acks and memory go back 30 days
# Feeds that we know: those of all live members, room and pair.  Beyond it the first of those whose
# session is gone are forgotten: whoever joins again and again makes us keep no more than these.
MAX_FEEDS = 2 * MAX_LIVE
_MAX_PAST_FEEDS = 4 * MAX_FEEDS  # of all rooms together
MAX_KEPT_MEMBERS = 4 * MAX_AUDIENCE  # of all rooms together
# Side tables; a row with an empty value is one that may be forgotten.
MEMBERS_TABLE = "members"  # room_tag ‖ fingerprint → last_seen_ms u64 ‖ nick
FEEDS_TABLE = "feeds"  # tag ‖ session_id → first_seq u64
# room_tag ‖ fingerprint ‖ chain_id → the block up to which we know what that person's chain holds
# for us, u64
TOLD_TABLE = "told"

_WHO_BYTES = 32 + 32 + 16 + 32
_Key = tuple[bytes, bytes]  # of a feed: tag, session_id


@dataclass
class Memory:
    """What a session knows of earlier runs, read from the side tables and then from the chain."""

    known: dict[bytes, Person] = field(default_factory=dict)  # met in this room, by fingerprint
    ignored: set[bytes] = field(default_factory=set)
    pins: Pins = field(default_factory=Pins)
    feeds: dict[_Key, TheirFeed] = field(default_factory=dict)
    recorded: dict[bytes, bytes] = field(default_factory=dict)  # by session_id: who it is
    told: dict[bytes, bytes] = field(default_factory=dict)  # the side table (`chat_sync`)

    def read_member(self, room: RoomSecret, key: bytes, value: bytes) -> None:
        """A row of the side table `members`."""
        if key[:16] == room.tag and value:
            seen_ms = int.from_bytes(value[:8], "big")
            self.known[key[16:]] = Person(value[8:].decode("utf-8", "replace"), seen_ms)

    def read_feed(self, key: bytes, value: bytes) -> None:
        """A row of the side table `feeds`."""
        if value:
            self._feed(key[:16], key[16:]).resume_stay(int.from_bytes(value, "big"))

    def read_event(self, event: Event) -> bytes | None:
        """An EVENT block's event, in the order of the chain; the session whose bundle it holds."""
        if event.kind == EventKind.BUNDLE:
            with suppress(WireError, CryptoError):
                bundle = Bundle.parse(event.body, None)
                self.recorded[bundle.session_id] = who(bundle)
                return bundle.session_id
        if event.kind == EventKind.FORK:
            with suppress(WireError):
                entry = Entry.of_head(event.body[:-SIGNATURE_BYTES])
                if feed := self.feeds.get((entry.tag, entry.session_id)):
                    feed.is_forked = True
        self.read_decision(event)
        return None

    def read_decision(self, event: Event) -> None:
        """Of an EVENT block's event, in the order of the chain: what the person decided about
        somebody, or this program for him."""
        person, rest = event.body[:32], event.body[32:]
        if len(person) < 32:
            return
        match event.kind:
            case EventKind.IGNORE:
                self.ignored.add(person)
            case EventKind.UNIGNORE:
                self.ignored.discard(person)
            case EventKind.PIN:
                with suppress(ValueError):
                    self.pins.pin(check_nick(rest.decode()), person)
            case EventKind.VERIFIED:
                self.pins.verify(person)
            case EventKind.UNVERIFIED:
                self.pins.unverify(person)

    def read_received(self, entry: Entry, received_ms: int) -> None:
        """A RECEIVED block's entry, in the order of the chain, and the block's time."""
        self._feed(entry.tag, entry.session_id).resume(entry, received_ms)

    def feeds_of(self, tags: set[bytes], since_ms: int) -> dict[_Key, TheirFeed]:
        """The feeds of these conversations that gained something since; the latest, if many."""
        recent = [
            (key, feed)
            for key, feed in self.feeds.items()
            if feed.tag in tags and feed.updated_ms > since_ms
        ]
        recent.sort(key=lambda item: item[1].updated_ms)
        return dict(recent[-MAX_FEEDS:])

    def resume_feed(self, feed: TheirFeed, first: int) -> None:
        """A feed as far as it is on the chain, after the side tables.

        Args:
            feed: in which every gap from seq 1 on is noted.
            first: the seq of its first entry on the chain: where our stay began, if that is not
                known.
        """
        ours = self._feed(feed.tag, feed.session_id)
        ours.highest, ours.last_id, ours.missing = feed.highest, feed.last_id, list(feed.missing)
        ours.began, ours.is_forked = first, feed.is_forked
        ours.updated_ms, ours.audience = feed.updated_ms, feed.audience

    def _feed(self, tag: bytes, session_id: bytes) -> TheirFeed:
        key = (tag, session_id)
        if key not in self.feeds:
            self.feeds[key] = TheirFeed(*key)
        return self.feeds[key]


class Incomplete(Exception):
    """A session wrote that `Past.forget` left out: what it said before is needed."""


class Past:
    """What a chain up to some block says of others, apart from the side tables, which change.

    It is enough for what comes behind that block, or says `Incomplete`.  It can tell because a
    session's bundle is on the chain before its first entry: an entry of one that is neither here
    nor introduced since was forgotten.
    """

    def __init__(self) -> None:
        """Of an empty chain."""
        # Each feed as if our stay had begun with seq 1, so that all gaps are noted.
        self._all = Memory()
        # By session_id, then by tag: the seq of that feed's first entry on the chain.
        self._first: dict[bytes, dict[bytes, int]] = {}
        self._forgot = False  # there are sessions that are not here

    def read_event(self, event: Event) -> None:
        """An EVENT block's event, in the order of the chain."""
        session_id = self._all.read_event(event)
        if session_id is not None:
            # If it is not the first, then the run that wrote this one had forgotten what this
            # session said before, and what it says from now on is no part of that.
            for tag in self._first.get(session_id, ()):
                del self._all.feeds[tag, session_id]
            self._first[session_id] = {}

    def read_received(self, entry: Entry, received_ms: int) -> None:
        """A RECEIVED block's entry, in the order of the chain, and the block's time.

        Raises:
            Incomplete: this is good for nothing any more.
        """
        tag, session_id = entry.tag, entry.session_id
        if self._forgot and session_id not in self._first:
            raise Incomplete
        first = self._first.setdefault(session_id, {})
        if tag not in first:
            first[tag] = entry.seq
            self._all.read_feed(tag + session_id, u64(1))
        self._all.read_received(entry, received_ms)

    def read_forgotten(self, kept: bytes, received_ms: int) -> None:
        """What a FORGET block keeps of a RECEIVED one (`kept_of`; maybe nothing), and that one's
        time, in the order of the chain: so the feed is not said to lack what was erased here.

        Raises:
            Malformed: it is something else.
            Incomplete: as of `read_received`.
        """
        if kept:
            self.read_received(Entry.of_head(kept[:-SIGNATURE_BYTES]), received_ms)

    def decisions(self) -> Memory:
        """Of all this, what the person decided about others; nothing is shared with this."""
        return Memory(ignored=set(self._all.ignored), pins=self._all.pins.copy())

    def memory(self, stays: Mapping[bytes, bytes]) -> Memory:
        """What a new session takes over, but for the people it met; nothing is shared with this.

        Args:
            stays: the side table `feeds`.
        """
        memory = self.decisions()
        memory.recorded = dict(self._all.recorded)
        for key, value in stays.items():
            memory.read_feed(key, value)
        for (tag, session_id), feed in self._all.feeds.items():
            memory.resume_feed(feed, self._first[session_id][tag])
        return memory

    def forget(self, since_ms: int) -> None:
        """Forgets sessions of which no feed gained anything since, and the oldest, if many."""
        feeds = [feed for feed in self._all.feeds.values() if feed.updated_ms > since_ms]
        feeds.sort(key=lambda feed: feed.updated_ms)
        recent = {feed.session_id for feed in feeds[-_MAX_PAST_FEEDS:]}
        if recent.issuperset(self._first):
            return
        self._forgot = True
        self._first = {s: first for s, first in self._first.items() if s in recent}
        self._all.recorded = {s: known for s, known in self._all.recorded.items() if s in recent}
        self._all.feeds = {key: feed for key, feed in self._all.feeds.items() if key[1] in recent}

    def serialize(self) -> bytes:
        """forgot u8, 1 or 0 ‖ count u32 ‖ fingerprint[32] of each who is ignored ‖ count u32 ‖
        pins: fingerprint[32] ‖ nick (u16 length) ‖ count u32 ‖ fingerprint[32] of each who is
        verified ‖ count u32 ‖ audiences, each behind a u16 length ‖ count u32 ‖ sessions:
        session_id[16] ‖ who it is (u16 length; empty: not known) ‖ count u32 ‖ feeds: tag[16] ‖ its
        session's number u32 ‖ first seq u64 ‖ highest u64 ‖ entry_id[32] ‖ updated_ms u64 ‖ its
        audience's number u32 ‖ forked u8, 1 or 0 ‖ count u32 ‖ ranges of what is missing from seq 1
        on: first and last seq, u64 each.
        """
        known, sessions = self._all.recorded, {s: number for number, s in enumerate(self._first)}
        audiences: dict[bytes, int] = {}  # most members of a room write the same
        feeds = []
        for (tag, session_id), feed in self._all.feeds.items():
            audience = audiences.setdefault(feed.audience, len(audiences))
            missing = [u64(low) + u64(high) for low, high in feed.missing]
            place = tag + u32(sessions[session_id]) + u64(self._first[session_id][tag])
            reached = u64(feed.highest) + feed.last_id + u64(feed.updated_ms)
            told = u32(audience) + u8(feed.is_forked)
            feeds.append(place + reached + told + _counted(missing))
        return (
            u8(self._forgot)
            + _counted(sorted(self._all.ignored))
            + _counted([f + prefixed(nick.encode()) for nick, f in self._all.pins])
            + _counted(self._all.pins.verified)
            + _counted([prefixed(audience) for audience in audiences])
            + _counted([s + prefixed(known.get(s, b"")) for s in sessions])
            + _counted(feeds)
        )

    @classmethod
    def parse(cls, data: bytes) -> Past:
        """Raises WireError."""
        r, past = Reader(data), cls()
        past._forgot = r.u8() > 0
        past._all.ignored = {r.fixed(32) for _ in range(r.u32())}
        pins = [(r.fixed(32), r.prefixed()) for _ in range(r.u32())]
        for fingerprint in [r.fixed(32) for _ in range(r.u32())]:
            past._all.pins.verify(fingerprint)
        for fingerprint, nick in pins:
            past._all.pins.pin(nick.decode("utf-8", "replace"), fingerprint)
        audiences = [r.prefixed() for _ in range(r.u32())]
        sessions = [(r.fixed(16), r.prefixed()) for _ in range(r.u32())]
        if any(len(known) not in (0, _WHO_BYTES) for _, known in sessions):
            raise Malformed("who a session is, of another length")
        past._all.recorded = {session_id: known for session_id, known in sessions if known}
        past._first = {session_id: {} for session_id, _ in sessions}
        for _ in range(r.u32()):
            tag, number, first, highest = r.fixed(16), r.u32(), r.u64(), r.u64()
            last_id, updated_ms, audience, is_forked = r.fixed(32), r.u64(), r.u32(), r.u8() > 0
            missing = [(r.u64(), r.u64()) for _ in range(r.u32())]
            if number >= len(sessions) or audience >= len(audiences):
                raise Malformed("a feed of no session, or without an audience")
            session_id = sessions[number][0]
            feed = TheirFeed(tag, session_id, highest, last_id, missing, updated_ms)
            feed.audience, feed.is_forked = audiences[audience], is_forked
            past._all.feeds[tag, session_id] = feed
            past._first[session_id][tag] = first
        r.end()
        return past


def who(bundle: Bundle) -> bytes:
    """What must not change behind a session_id that wrote to us, 112 bytes: person, SSK, chain_id
    and CSK.  Else its next owner's words would stand on our chain under the first one's name, or
    its acks would be of another chain than the bundle on ours names."""
    keys = bundle.fingerprint + bundle.session_key.public
    return keys + bundle.chain_id + bundle.chain_key.public


def kept_of(record: bytes) -> bytes:
    """What stays known of a signed entry whose text is erased: its head[146] ‖ signature[64]."""
    return record[:ENTRY_HEAD_BYTES] + record[-SIGNATURE_BYTES:]


def kept_members(rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Of the side table `members`, the rows that a next chain is given: those of the right form,
    and if there are many, of whom was seen last."""
    longest = 8 + 4 * MAX_NICK_CHARACTERS
    good = [row for row in rows.items() if len(row[0]) == 16 + 32 and 8 < len(row[1]) <= longest]
    return dict(sorted(good, key=lambda row: row[1][:8])[-MAX_KEPT_MEMBERS:])


def _counted(items: list[bytes]) -> bytes:
    return u32(len(items)) + b"".join(items)
