"""Reading one's own chain: what was said, and what a session remembers of earlier runs.

What lives here: everything that turns blocks back into people and messages, and what of them a next
chain begins with.  What it does not know: sockets, threads, flags, how blocks are stored or
verified.

    for line in history(chain, 20): terminal.show(line)
    memory = recall(chain, room, read_past(Past(), chain))

A search decrypts every message there is, so what does not match is looked at as bytes; and only of
who is shown the bundle is checked, which takes an RSA verification.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from blockchain import Block, Blockchain, BlockType, Draft, SideRow, StoreUnreadable
from chat_blocks import BODY_HASH_AT, ERASABLE, TIME_AT, TYPE_AT
from chat_memory import (
    FEEDS_TABLE,
    MEMBERS_TABLE,
    TOLD_TABLE,
    Memory,
    Past,
    kept_members,
    kept_of,
)
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    ENTRY_HEAD_BYTES,
    Bundle,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
    audience_items,
    full_name,
)
from chat_rooms import ROOMS_TABLE, kept_rooms
from chat_terminal import Kind, Line
from chat_wire import Reader, WireError
from chat_witness import HEADS_TABLE, Heads
from crypto_utils import SIGNATURE_BYTES, CryptoError, RoomSecret, fingerprint

__all__ = ["forget", "hand_over", "history", "read_past", "recall"]

_T = TypeVar("_T")

_Records = Iterator[tuple[int, bytes, bytes]]  # index, header, record in clear

# Of a signed entry (CHAIN_FORMAT.md 3): head ‖ salt ‖ text (u16 length) ‖ signature.
_TEXT_AT = ENTRY_HEAD_BYTES + 16 + 2
_BEYOND_TEXT_BYTES = _TEXT_AT + SIGNATURE_BYTES
# Letters and signs that fold alone, whatever stands beside them, and then to their casefold():
# Latin but for U+01F0, Cyrillic, kana, Han, Hangul, usual punctuation and emoji.
_PLAIN = re.compile(
    "[\\0-\u01ef\u01f1-\u02af\u0400-\u0482\u048a-\u052f\u2010-\u2027\u20ac\u3001-\u3029\u3041-\u3096"
    "\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e\U0001f300-\U0001faff]*"
)


@dataclass
class _Author:
    """A session as its bundle introduces it, which is checked when it is first needed."""

    index: int  # of its block
    raw: bytes
    room_tag: bytes
    fingerprint: bytes
    nick: str
    is_checked: bool = False

    @classmethod
    def read(cls, index: int, raw: bytes) -> tuple[bytes, _Author]:
        """With its session_id.  Raises WireError."""
        r = Reader(raw)
        r.version()
        room_tag, spki, nick, session_id = r.fixed(16), r.prefixed(), r.prefixed(), r.fixed(16)
        author = cls(index, raw, room_tag, fingerprint(spki), nick.decode("utf-8", "replace"))
        return session_id, author

    def check(self) -> None:
        """Raises StoreUnreadable."""
        if not self.is_checked:
            with _of_block(self.index):
                Bundle.parse(self.raw, None)
            self.is_checked = True


@dataclass(frozen=True)
class _Said:
    """A message and who is behind it."""

    index: int  # of the block
    author: _Author
    text: str
    sent_ms: int
    is_private: bool
    peer: bytes | None  # whom our private message was for: the beginning of a fingerprint


class _People:
    """Who is who, who is ignored and who the other in a pair is, at each block of a chain."""

    def __init__(self, records: _Records) -> None:
        """Reads EVENT and CONTROL blocks, in order.  Raises StoreUnreadable."""
        # Each as it changed: with the index of the block that says so.
        self._sessions: dict[bytes, list[tuple[int, _Author]]] = defaultdict(list)
        self._peers: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)  # by a pair's tag
        self._ignored: dict[bytes, list[tuple[int, bool]]] = defaultdict(list)
        # By fingerprint: what each was called from then on.
        self._nicks: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
        self._names: dict[tuple[str, bytes], str] = {}  # as `_name` found them
        for index, header, record in records:
            with _of_block(index):
                if header[TYPE_AT] == BlockType.EVENT:
                    self._read_event(index, Event.parse(record))
                else:
                    self._read_audience(index, record)

    def _read_event(self, index: int, event: Event) -> None:
        if event.kind == EventKind.BUNDLE:
            session_id, author = _Author.read(index, event.body)
            self._sessions[session_id].append((index, author))
        elif event.kind == EventKind.PIN:
            person, nick = event.body[:32], event.body[32:]
            self._nicks[person].append((index, nick.decode("utf-8", "replace")))
        elif event.kind in (EventKind.IGNORE, EventKind.UNIGNORE):
            is_ignored = event.kind == EventKind.IGNORE
            self._ignored[event.body].append((index, is_ignored))

    def _read_audience(self, index: int, record: bytes) -> None:
        entry = SignedEntry.parse(record).entry
        author = _at(self._sessions.get(entry.session_id), index)
        if author is None or entry.tag == author.room_tag:
            return
        audience = set(audience_items(entry.text))
        audience.discard(author.fingerprint[:AUDIENCE_ITEM_BYTES])
        if len(audience) == 1:
            self._peers[entry.tag].append((index, audience.pop()))

    def read(self, index: int, kind: int, record: bytes) -> _Said | None:
        """What a SENT or RECEIVED block is to a person, if anything.

        Raises:
            WireError: it holds no entry.
            StoreUnreadable: its author's bundle does not hold.
        """
        entry = SignedEntry.parse(record).entry
        author = _at(self._sessions.get(entry.session_id), index)
        if author is None or entry.kind != EntryKind.CHAT:
            return None
        is_theirs = kind == BlockType.RECEIVED
        if is_theirs and _at(self._ignored.get(author.fingerprint), index):
            return None
        author.check()
        is_private = entry.tag != author.room_tag
        peer = None if is_theirs or not is_private else _at(self._peers.get(entry.tag), index)
        return _Said(index, author, entry.text.decode(), entry.sent_ms, is_private, peer)

    def line(self, said: _Said, *, numbered: bool) -> Line:
        """As it is shown."""
        label = f"[{said.index}] " if numbered else ""
        author = said.author
        renamed = [change for change in self._nicks[author.fingerprint] if change[0] > author.index]
        label += self._name(_at(renamed, said.index) or author.nick, author.fingerprint)
        if said.peer is not None:
            label += f" (private to {self._name_of(said.peer)})"
        elif said.is_private:
            label += " (private)"
        return Line(Kind.MESSAGE, said.text, label, said.sent_ms)

    def _name(self, nick: str, fingerprint: bytes) -> str:
        """nick#tag, the tag as long as it takes to differ from everybody else with that nick."""
        if (known := self._names.get((nick, fingerprint))) is not None:
            return known
        namesakes = [author.fingerprint for author in self._authors() if author.nick == nick]
        namesakes += (f for f, nicks in self._nicks.items() if any(nick == n for _, n in nicks))
        name = self._names[nick, fingerprint] = full_name(nick, fingerprint, namesakes)
        return name

    def _name_of(self, prefix: bytes) -> str:
        known = [a for a in self._authors() if a.fingerprint.startswith(prefix)]
        if known:
            latest = max(known, key=lambda author: author.index)
            return self._name(latest.nick, latest.fingerprint)
        return full_name("?", prefix)

    def _authors(self) -> Iterator[_Author]:
        """Each session as it was last introduced."""
        return (changes[-1][1] for changes in self._sessions.values())


def _at(changes: list[tuple[int, _T]] | None, index: int) -> _T | None:
    """What was in force when block `index` was written."""
    return next((value for since, value in reversed(changes or []) if since < index), None)


class _Search:
    """Which records hold a text; as bytes, for that is all that most of them are needed for."""

    def __init__(self, text: str) -> None:
        self._folded = _folded(text)
        self._ascii = self._folded.encode() if self._folded.isascii() else None

    def may_match(self, record: bytes) -> bool:
        """Whether the text holds what is looked for, or `record` needs a closer look anyway."""
        size = len(record) - _BEYOND_TEXT_BYTES
        if size < 0 or int.from_bytes(record[_TEXT_AT - 2 : _TEXT_AT], "big") != size:
            return True
        text = record[_TEXT_AT:-SIGNATURE_BYTES]
        if text.isascii():  # then folding is lower case, and leaves it ASCII
            return self._ascii is not None and self._ascii in text.lower()
        try:
            return self._folded in _folded(text.decode())
        except UnicodeDecodeError:  # no chat, or none that could have been written
            return True


def history(
    chain: Blockchain,
    count: int,
    find: str = "",
    *,
    before: int | None = None,
    numbered: bool = False,
) -> list[Line]:
    """The last `count` messages whose text holds `find` (upper and lower case alike), oldest first.

    Args:
        before: of a chain that was tampered with, the first block that is not to be relied on.
        numbered: with `[17] ` before each name: the block, as /forget and /chain take it.

    Raises:
        StoreUnreadable: a block that cannot be decrypted, or holds no record.
    """
    events = (BlockType.EVENT, BlockType.CONTROL)
    search = _Search(find) if find else None
    if before is None:
        people = _People(chain.scan(*events))
        latest_first = chain.scan(*ERASABLE, newest_first=True)
        found = list(islice(_said(latest_first, people, search), count))[::-1]
    else:
        people = _People(_below(before, chain.scan(*events)))
        verified = _below(before, chain.scan(*ERASABLE))
        found = list(deque(_said(verified, people, search), count))
    return [people.line(said, numbered=numbered) for said in found]


def _said(records: _Records, people: _People, search: _Search | None) -> Iterator[_Said]:
    for index, header, record in records:
        if search is None or search.may_match(record):
            with _of_block(index):
                said = people.read(index, header[TYPE_AT], record)
            if said is not None:
                yield said


def _below(before: int, records: _Records) -> _Records:
    """The verified part of a chain: what decrypts is as it was written, its index too."""
    last = -1
    with suppress(StoreUnreadable):  # the first that is not to be relied on, or one behind it
        for index, header, record in records:
            if not last < index < before:
                return
            last = index
            yield index, header, record


def _folded(text: str) -> str:
    """What texts have in common that differ in case or in how an accent is encoded alone."""
    if _PLAIN.fullmatch(text):
        return text.casefold()  # the same, in a third of the time
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


@contextmanager
def _of_block(index: int) -> Iterator[None]:
    """Whatever a record may hold instead of what it should: StoreUnreadable."""
    try:
        yield
    except (WireError, CryptoError) as exc:
        raise _unreadable(index, exc) from exc


def _unreadable(index: int, exc: Exception) -> StoreUnreadable:
    return StoreUnreadable(f"block {index} cannot be read: {exc}")


def forget(chain: Blockchain, index: int, now_ms: int) -> Block:
    """Erases a message's text here for good; that somebody wrote something there stays known.

    Returns:
        the block that says so.

    Raises:
        ValueError, StoreFailed, StoreUnreadable: as `Blockchain.forget`.
    """
    block = chain.block(index)
    kept = b""
    if block is not None and block.type in ERASABLE and not block.is_erased:
        kept = kept_of(chain.record(block))
    return chain.forget(index, now_ms, kept)


# --------------------------------------------------------------------------- memory


def read_past(past: Past, chain: Blockchain, start: int = 0) -> Past:
    """`past` after the blocks from `start` on.

    Raises:
        Incomplete: it lacks what these blocks go on from.
        StoreUnreadable: a block that cannot be decrypted, or holds no record.
    """
    kinds = (BlockType.EVENT, BlockType.RECEIVED, BlockType.FORGET)
    index = start
    try:
        for index, header, record in chain.scan(*kinds, start=start):  # noqa: B007 - below
            match header[TYPE_AT]:
                case BlockType.EVENT:
                    past.read_event(Event.parse(record))
                case BlockType.RECEIVED:
                    received_ms = int.from_bytes(header[TIME_AT:BODY_HASH_AT], "big")
                    past.read_received(SignedEntry.parse(record).entry, received_ms)
                case _:
                    erased = chain.block(Block.parse(header).refers_to)
                    if erased is not None and erased.type is BlockType.RECEIVED:
                        past.read_forgotten(record, erased.timestamp_ms)
    except (WireError, CryptoError) as exc:
        raise _unreadable(index, exc) from exc
    return past


def recall(chain: Blockchain, room: RoomSecret, past: Past) -> Memory:
    """What a new session takes over from earlier runs: people met, people ignored, feeds.

    Args:
        past: of the whole chain.

    Raises:
        StoreUnreadable: a side table cannot be read.
    """
    memory = past.memory(chain.side(FEEDS_TABLE))
    for key, value in chain.side(MEMBERS_TABLE).items():
        memory.read_member(room, key, value)
    memory.told = chain.side(TOLD_TABLE)
    return memory


def hand_over(chain: Blockchain, past: Past, start: int) -> tuple[list[Draft], list[SideRow]]:
    """What the next chain begins with, where this one was tampered with: whom this person ignores,
    which keys go by which names, whom he met, the rooms that he was invited to, and the heads that
    he holds for others, who would be hurt if they were lost now.

    Whatever decrypts was written by this person, as it stands there; what does not is left out.
    Feeds, acks and the checkpoint are about this chain and stay with it.

    Args:
        past: of the chain before block `start`; of what was decided, it may know blocks that are
            gone.
    """
    decided = _decided_since(past.decisions(), chain, start)
    events = [Event(EventKind.IGNORE, person) for person in sorted(decided.ignored)]
    events += [Event(EventKind.PIN, f + nick.encode()) for nick, f in decided.pins]
    events += [Event(EventKind.VERIFIED, person) for person in decided.pins.verified]
    drafts = [Draft(BlockType.EVENT, event.serialize(), event.event_id) for event in events]
    side = [
        SideRow(table, key, value)
        for table, kept in (
            (HEADS_TABLE, _kept_heads),
            (MEMBERS_TABLE, kept_members),
            (ROOMS_TABLE, kept_rooms),
        )
        for key, value in kept(_side(chain, table)).items()
    ]
    return drafts, side


def _decided_since(decided: Memory, chain: Blockchain, start: int) -> Memory:
    """What was decided about others after the events that can be read from block `start` on."""
    changes: dict[int, Event] = {}
    # As far as it goes, and, if something in between cannot be read, from the end as far back.
    for newest_first in (False, True):
        with suppress(StoreUnreadable):
            chain_id = chain.get_latest_block().chain_id
            events = chain.scan(BlockType.EVENT, start=start, newest_first=newest_first)
            for index, header, record in events:
                block = Block.parse(header)
                if (block.chain_id, block.index) != (chain_id, index):
                    continue
                with suppress(WireError):
                    event = Event.parse(record)
                    if event.kind not in (EventKind.BUNDLE, EventKind.ALERT):
                        changes[index] = event
            break
    for index in sorted(changes):
        decided.read_decision(changes[index])
    return decided


def _kept_heads(rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Of the side table `heads`, the rows that a session would keep."""
    heads = Heads(rows)
    return {key: value for key, value in rows.items() if heads.get(key[:32], key[32:])}


def _side(chain: Blockchain, table: str) -> dict[bytes, bytes]:
    with suppress(StoreUnreadable):
        return chain.side(table, what_opens=True)
    return {}
