"""What a session knows of earlier runs of this profile.

What lives here: `Memory`, the side tables that it is kept in, and what must stay the same behind a
session_id.  What it does not know: where rows and blocks come from (`chat_history`), what a
session makes of it.

    memory = Memory()
    memory.read_member(room, key, value)     # the side tables first,
    memory.read_event(Event.parse(record))   # then the chain, in its order
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from chat_feeds import TheirFeed
from chat_messages import Bundle, Entry, Event, EventKind
from chat_roster import MAX_LIVE, Person
from chat_wire import WireError
from crypto_utils import CryptoError, RoomSecret

__all__ = ["FEEDS_TABLE", "MAX_FEEDS", "MEMBERS_TABLE", "Memory", "who"]

# Feeds that we know: those of all live members, room and pair.  Beyond it the first of those whose
# session is gone are forgotten: whoever joins again and again makes us keep no more than these.
MAX_FEEDS = 2 * MAX_LIVE
# Side tables; a row with an empty value is one that may be forgotten.
MEMBERS_TABLE = "members"  # room_tag ‖ fingerprint → last_seen_ms u64 ‖ nick
FEEDS_TABLE = "feeds"  # tag ‖ session_id → first_seq u64


@dataclass
class Memory:
    """What a session knows of earlier runs, read from the side tables and then from the chain."""

    known: dict[bytes, Person] = field(default_factory=dict)  # met in this room, by fingerprint
    ignored: set[bytes] = field(default_factory=set)
    feeds: dict[tuple[bytes, bytes], TheirFeed] = field(default_factory=dict)  # by tag, session_id
    recorded: dict[bytes, bytes] = field(default_factory=dict)  # by session_id: who it is

    def read_member(self, room: RoomSecret, key: bytes, value: bytes) -> None:
        """A row of the side table `members`."""
        if key[:16] == room.tag and value:
            seen_ms = int.from_bytes(value[:8], "big")
            self.known[key[16:]] = Person(value[8:].decode("utf-8", "replace"), seen_ms)

    def read_feed(self, key: bytes, value: bytes) -> None:
        """A row of the side table `feeds`."""
        if value:
            self._feed(key[:16], key[16:]).resume_stay(int.from_bytes(value, "big"))

    def read_event(self, event: Event) -> None:
        """An EVENT block's event, in the order of the chain."""
        if event.kind == EventKind.BUNDLE:
            with suppress(WireError, CryptoError):
                bundle = Bundle.parse(event.body, None)
                self.recorded[bundle.session_id] = who(bundle)
        elif event.kind == EventKind.IGNORE:
            self.ignored.add(event.body)
        elif event.kind == EventKind.UNIGNORE:
            self.ignored.discard(event.body)

    def read_received(self, entry: Entry, received_ms: int | None = None) -> None:
        """A RECEIVED block's entry, in the order of the chain, and the block's time."""
        feed = self._feed(entry.tag, entry.session_id)
        feed.resume(entry, entry.sent_ms if received_ms is None else received_ms)

    def feeds_of(self, tags: set[bytes], since_ms: int) -> dict[tuple[bytes, bytes], TheirFeed]:
        """The feeds of these conversations that gained something since; the latest, if many."""
        recent = [
            (key, feed)
            for key, feed in self.feeds.items()
            if feed.tag in tags and feed.updated_ms > since_ms
        ]
        recent.sort(key=lambda item: item[1].updated_ms)
        return dict(recent[-MAX_FEEDS:])

    def _feed(self, tag: bytes, session_id: bytes) -> TheirFeed:
        return self.feeds.setdefault((tag, session_id), TheirFeed(tag, session_id))


def who(bundle: Bundle) -> bytes:
    """What must not change behind a session_id that wrote to us: else its next owner's words would
    stand on our chain under the first one's name."""
    return bundle.fingerprint + bundle.session_key.public
