"""Reading one's own chain: what was said, and what a session remembers of earlier runs.

What lives here: everything that turns blocks back into people and messages.  What it does not
know: sockets, threads, flags, how blocks are stored or verified.

    for line in history(chain, 20): terminal.show(line)
    memory = recall(chain, room)
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from blockchain import Block, Blockchain, BlockType, StoreUnreadable
from chat_memory import FEEDS_TABLE, MEMBERS_TABLE, Memory
from chat_messages import AUDIENCE_ITEM_BYTES, Bundle, EntryKind, Event, EventKind, SignedEntry
from chat_terminal import Kind, Line
from chat_wire import WireError
from crypto_utils import CryptoError, RoomSecret

__all__ = ["history", "recall"]

_TAG_DIGITS = 4


@dataclass(frozen=True)
class _Said:
    """A message and who is behind it; what they are called is known at the end of the chain."""

    author: Bundle
    text: str
    sent_ms: int
    is_private: bool
    peer: bytes | None  # whom our private message was for: the beginning of a fingerprint


class _Reader:
    """Goes through a chain once, in order, and knows at each block who is who."""

    def __init__(self) -> None:
        self._bundles: dict[bytes, Bundle] = {}  # by session_id
        self._peers: dict[bytes, bytes] = {}  # a pair's tag → the other's fingerprint prefix
        self._memory = Memory()  # for whom we ignore

    def read(self, block: Block, record: bytes) -> _Said | None:
        """What this block is to a person, if anything.  Raises WireError, CryptoError."""
        if block.type is BlockType.EVENT:
            event = Event.parse(record)
            if event.kind == EventKind.BUNDLE:
                bundle = Bundle.parse(event.body, None)
                self._bundles[bundle.session_id] = bundle
            self._memory.read_event(event)
            return None
        entry = SignedEntry.parse(record).entry
        author = self._bundles.get(entry.session_id)
        if author is None:
            return None
        if block.type is BlockType.CONTROL:
            size = AUDIENCE_ITEM_BYTES
            audience = {entry.text[i : i + size] for i in range(0, len(entry.text), size)}
            audience.discard(author.fingerprint[:size])
            if len(audience) == 1:
                self._peers[entry.tag] = audience.pop()
        if entry.kind != EntryKind.CHAT:
            return None
        if block.type is BlockType.RECEIVED and author.fingerprint in self._memory.ignored:
            return None
        is_private = entry.tag != author.room_tag
        peer = self._peers.get(entry.tag) if block.type is BlockType.SENT else None
        return _Said(
            author, entry.text.decode(), entry.sent_ms, is_private, peer if is_private else None
        )

    def line(self, said: _Said) -> Line:
        """As it is shown."""
        label = self._name(said.author.nick, said.author.fingerprint)
        if said.peer is not None:
            label += f" (private to {self._name_of(said.peer)})"
        elif said.is_private:
            label += " (private)"
        return Line(Kind.MESSAGE, said.text, label, said.sent_ms)

    def _name(self, nick: str, fingerprint: bytes) -> str:
        """nick#tag, the tag as long as it takes to differ from everybody else with that nick."""
        digits, size = fingerprint.hex(), _TAG_DIGITS
        namesakes = {b.fingerprint.hex() for b in self._bundles.values() if b.nick == nick}
        while size < len(digits) and any(
            other != digits and other.startswith(digits[:size]) for other in namesakes
        ):
            size += 1
        return f"{nick}#{digits[:size]}"

    def _name_of(self, prefix: bytes) -> str:
        for bundle in reversed(self._bundles.values()):
            if bundle.fingerprint.startswith(prefix):
                return self._name(bundle.nick, bundle.fingerprint)
        return f"?#{prefix.hex()[:_TAG_DIGITS]}"


def history(
    chain: Blockchain, count: int, find: str = "", *, before: int | None = None
) -> list[Line]:
    """The last `count` messages whose text holds `find` (upper and lower case alike), oldest first.

    Args:
        before: of a chain that was tampered with, the first block that is not to be relied on.

    Raises:
        StoreUnreadable: a block that cannot be decrypted, or holds no record.
    """
    reader = _Reader()
    found: deque[_Said] = deque(maxlen=count)
    kinds = (BlockType.EVENT, BlockType.CONTROL, BlockType.SENT, BlockType.RECEIVED)
    records = chain.records(*kinds)
    for block, record in records if before is None else _below(before, records):
        with _of_block(block):
            said = reader.read(block, record)
        if said is not None and (not find or _folded(find) in _folded(said.text)):
            found.append(said)
    return [reader.line(said) for said in found]


def _below(before: int, records: Iterator[tuple[Block, bytes]]) -> Iterator[tuple[Block, bytes]]:
    """The verified part of a chain: what decrypts is as it was written, its index too."""
    last = -1
    with suppress(StoreUnreadable):  # the first that is not to be relied on, or one behind it
        for block, record in records:
            if not last < block.index < before:
                return
            last = block.index
            yield block, record


def _folded(text: str) -> str:
    """What texts have in common that differ in case or in how an accent is encoded alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


@contextmanager
def _of_block(block: Block) -> Iterator[None]:
    """Whatever a record may hold instead of what it should: StoreUnreadable."""
    try:
        yield
    except (WireError, CryptoError) as exc:
        raise StoreUnreadable(f"block {block.index} cannot be read: {exc}") from exc


def recall(chain: Blockchain, room: RoomSecret) -> Memory:
    """What a new session takes over from earlier runs: people met, people ignored, feeds.

    Raises:
        StoreUnreadable: a block that cannot be decrypted, or holds no record.
    """
    memory = Memory()
    for key, value in chain.side(MEMBERS_TABLE).items():
        memory.read_member(room, key, value)
    for key, value in chain.side(FEEDS_TABLE).items():
        memory.read_feed(key, value)
    for block, record in chain.records(BlockType.EVENT, BlockType.RECEIVED):
        with _of_block(block):
            if block.type is BlockType.EVENT:
                memory.read_event(Event.parse(record))
            else:
                memory.read_received(SignedEntry.parse(record).entry, block.timestamp_ms)
    return memory
