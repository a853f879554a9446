"""Reading one's own chain: what was said, and what a session remembers of earlier runs.

What lives here: everything that turns blocks back into people and messages.  What it does not
know: sockets, threads, flags, how blocks are stored or verified.

    for line in history(chain, 20): terminal.show(line)
    memory = recall(chain, room)
"""

from __future__ import annotations

from collections import deque

from blockchain import Block, Blockchain, BlockType
from chat_messages import AUDIENCE_ITEM_BYTES, Bundle, EntryKind, Event, EventKind, SignedEntry
from chat_session import MEMBERS_TABLE, Memory
from chat_terminal import Kind, Line
from crypto_utils import RoomSecret

__all__ = ["history", "recall"]


class _Reader:
    """Goes through a chain once, in order, and knows at each block who is who."""

    def __init__(self) -> None:
        self._bundles: dict[bytes, Bundle] = {}  # by session_id
        self._peers: dict[bytes, bytes] = {}  # a pair's tag → the other's fingerprint prefix
        self._memory = Memory()  # for whom we ignore

    def read(self, block: Block, record: bytes) -> Line | None:
        """The line that this block is to a person, if it is one."""
        if block.type is BlockType.EVENT:
            event = Event.parse(record)
            if event.kind == EventKind.BUNDLE:
                bundle = Bundle.parse(event.body, None)
                self._bundles[bundle.session_id] = bundle
            self._memory.read_event(event)
            return None
        entry = SignedEntry.parse(record).entry
        author = self._bundles.get(entry.session_id)
        if block.type is BlockType.CONTROL and author is not None:
            size = AUDIENCE_ITEM_BYTES
            audience = {entry.text[i : i + size] for i in range(0, len(entry.text), size)}
            audience.discard(author.fingerprint[:size])
            if len(audience) == 1:
                self._peers[entry.tag] = audience.pop()
        if entry.kind != EntryKind.CHAT or author is None:
            return None
        if block.type is BlockType.RECEIVED and author.fingerprint in self._memory.ignored:
            return None
        label = self._name(author)
        if entry.tag != author.room_tag:
            peer = self._peers.get(entry.tag) if block.type is BlockType.SENT else None
            label += f" (private to {self._name_of(peer)})" if peer else " (private)"
        return Line(Kind.MESSAGE, entry.text.decode(), label, entry.sent_ms)

    def _name(self, bundle: Bundle) -> str:
        return f"{bundle.nick}#{bundle.fingerprint.hex()[:4]}"

    def _name_of(self, prefix: bytes) -> str:
        for bundle in reversed(self._bundles.values()):
            if bundle.fingerprint.startswith(prefix):
                return self._name(bundle)
        return f"?#{prefix.hex()[:4]}"


def history(chain: Blockchain, count: int, find: str = "") -> list[Line]:
    """The last `count` messages whose text holds `find` (upper and lower case alike), oldest first.

    Raises:
        StoreUnreadable: a block that cannot be decrypted.
    """
    reader = _Reader()
    found: deque[Line] = deque(maxlen=count)
    kinds = (BlockType.EVENT, BlockType.CONTROL, BlockType.SENT, BlockType.RECEIVED)
    for block, record in chain.records(*kinds):
        line = reader.read(block, record)
        if line is not None and find.casefold() in line.text.casefold():
            found.append(line)
    return list(found)


def recall(chain: Blockchain, room: RoomSecret) -> Memory:
    """What a new session takes over from earlier runs: people met, people ignored, feeds.

    Raises:
        StoreUnreadable: a block that cannot be decrypted.
    """
    memory = Memory()
    for key, value in chain.side(MEMBERS_TABLE).items():
        memory.read_member(room, key, value)
    for block, record in chain.records(BlockType.EVENT, BlockType.RECEIVED):
        if block.type is BlockType.EVENT:
            memory.read_event(Event.parse(record))
        else:
            memory.read_received(SignedEntry.parse(record).entry)
    return memory
