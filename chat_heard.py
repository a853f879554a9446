"""What others wrote to us: their feeds, the frames that wait for a key, and who the sessions are.

What lives here: the feeds of others as far as our chain has them, at most so many and so much held;
whose bundle is on our chain, and that nobody else comes behind its session_id.  What it does not
know: what a frame is opened with and checked for (`chat_feeds`, `chat_session`), who is believed,
what is shown, clocks.  The session owns it.

    feed = heard.feed(tag, session_id)
    effects = heard.keep(signed, feed, author)         # an entry that the feed took

Specified in docs/PROTOCOL.md 4.2, 4.5 and 4.7.
"""

from __future__ import annotations

from collections.abc import Iterable

from chat_blocks import BlockType, Draft, SideRow
from chat_effects import Append, Effects, Remember, record
from chat_feeds import MAX_HELD_FRAMES, TheirFeed
from chat_memory import FEED_LIFE_MS, FEEDS_TABLE, MAX_FEEDS, Memory, who
from chat_messages import Bundle, EventKind, Message, SignedEntry
from chat_roster import Roster
from chat_wire import u64

__all__ = ["Feed", "Heard", "Seqs"]

_MAX_HELD_BYTES = 4 * 1024 * 1024  # over all sessions

Feed = tuple[bytes, bytes]  # tag, session_id
Seqs = tuple[int, int]  # both included


class Heard:
    """The feeds of others, and whose they are."""

    def __init__(self, memory: Memory, roster: Roster, tags: set[bytes], now_ms: int) -> None:
        """The roster is the session's; `tags` are of the conversations that it may have."""
        self._roster = roster
        self.feeds = memory.feeds_of(tags, now_ms - FEED_LIFE_MS)  # at most MAX_FEEDS
        self._held_bytes = 0  # in all feeds together
        # Whose bundles are on the chain already, by session_id: of sessions with a feed, and ours.
        self._recorded = {
            session_id: memory.recorded[session_id]
            for _, session_id in self.feeds
            if session_id in memory.recorded
        }
        self._ours = {roster.our.session_id} | {  # and earlier runs, as far as they are known
            session_id
            for session_id, known in memory.recorded.items()
            if known.startswith(roster.our.fingerprint)
        }
        self.outdated = [  # rows of side tables that may be forgotten
            SideRow(FEEDS_TABLE, tag + session_id, b"")
            for (tag, session_id), feed in memory.feeds.items()
            if feed.noted_first_seq and feed.updated_ms <= now_ms - FEED_LIFE_MS
        ]

    # ----------------------------------------------------------------- feeds

    def feed(self, tag: bytes, session_id: bytes) -> TheirFeed:
        """Of that session in that conversation, known or not; the oldest whose session is gone
        makes room."""
        key = (tag, session_id)
        if key not in self.feeds:
            if len(self.feeds) >= MAX_FEEDS:
                self._forget_one()
            self.feeds[key] = TheirFeed(*key)
        return self.feeds[key]

    def _forget_one(self) -> None:
        live = self._roster.live
        oldest = next(iter(self.feeds))
        tag, session_id = next((key for key in self.feeds if key[1] not in live), oldest)
        if self.feeds.pop((tag, session_id)).noted_first_seq:
            self.outdated.append(SideRow(FEEDS_TABLE, tag + session_id, b""))
        if not any(session_id == other for _, other in self.feeds):
            self._recorded.pop(session_id, None)

    def unheld(self, feed: Feed, seqs: Seqs) -> list[Seqs]:
        """What of a range is not on our chain."""
        known = self.feeds.get(feed)
        return known.unheld(*seqs) if known else [seqs]

    def keep(self, signed: SignedEntry, feed: TheirFeed, author: Bundle) -> Effects:
        """An entry that the feed took, for our chain."""
        effects = self.record_bundle(author)
        draft = Draft(BlockType.RECEIVED, signed.serialize(), signed.entry.entry_id)
        effects.append(Append(draft))
        if feed.first_seq != feed.noted_first_seq:
            feed.noted_first_seq = feed.first_seq
            key, value = feed.tag + feed.session_id, u64(feed.first_seq)
            effects.append(Remember(SideRow(FEEDS_TABLE, key, value)))
        return effects

    # ----------------------------------------------------------------- whose they are

    def record_bundle(self, bundle: Bundle) -> Effects:
        """A bundle goes onto the chain before its session's first entry, for deep verification."""
        if bundle.session_id in self._recorded:
            return []
        self._recorded[bundle.session_id] = who(bundle)
        return [record(EventKind.BUNDLE, bundle.raw)]

    def is_another(self, bundle: Bundle) -> bool:
        """Whether our chain knows that session as somebody else's."""
        return self._recorded.get(bundle.session_id, who(bundle)) != who(bundle)

    def author(self, session_id: bytes) -> bytes:
        """The fingerprint behind a session whose bundle is on our chain; else empty."""
        return self._recorded.get(session_id, b"")[:32]

    def is_ours(self, session_id: bytes) -> bool:
        """Whether it is this run, or an earlier one of ours."""
        return session_id in self._ours

    # ----------------------------------------------------------------- frames that wait for a key

    def hold(self, message: Message, feed: TheirFeed, of_session: Iterable[TheirFeed]) -> bool:
        """Keeps a message until its key comes; whether there was room.

        Args:
            of_session: all feeds of that session.
        """
        size = self._held_bytes + len(message.sealed)
        if sum(len(f.held) for f in of_session) >= MAX_HELD_FRAMES or size > _MAX_HELD_BYTES:
            return False
        self._held_bytes = size
        feed.held.append(message)
        return True

    def take_held(self, feed: TheirFeed) -> list[Message]:
        """What waits in a feed no longer: its key came, or never will."""
        return self._released(feed.take_held())

    def stop_waiting(self, feed: TheirFeed) -> int:
        """No key will come on this connection any more; how many were held in vain."""
        return len(self._released(feed.stop_waiting()))

    def _released(self, messages: list[Message]) -> list[Message]:
        self._held_bytes -= sum(len(message.sealed) for message in messages)
        return messages
