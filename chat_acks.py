"""Acks and witnesses, both ways: who has what of ours, and what we owe others for theirs.

What lives here: `Conversation` (what we wrote there and what became of it, the reports that we owe)
and `Acks` (acks and witnesses as they come and as they go out).  What it does not know: message
keys, who may read what, what is shown (`chat_session`), our chain's blocks, clocks.  The session
owns them.

    conversation.owe(session_id)                      # its feed grew on our chain
    effects = acks.due(conversations, feeds, now, head, at_once=False)
    effects = acks.take(ack, author, conversation, feed, now)

Specified in docs/PROTOCOL.md 3.7, 3.10, 4.6 and 4.10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from chat_blocks import Head, SideRow
from chat_effects import Effects, Moment, Remember, Transmit, Witnessed, alert
from chat_feeds import OurFeed, TheirFeed
from chat_messages import Ack, Bundle, Entry, EntryKind, FeedReport, Message, SignedEntry, Witness
from chat_roster import DIGEST_LIFE_S, Roster
from chat_wire import Broadcast, Direct
from chat_witness import ACKS_TABLE, Heads, OurWitnesses, Taken, evidence, verify_ack_head
from crypto_utils import BadSignature, SigningKey, random_bytes

__all__ = ["Acks", "Conversation", "Dropped"]

_ACK_MIN_INTERVAL_S = 2.0
_ACK_INTERVAL_PER_MEMBER_S = 0.1
# So long a member's acks must be of other rosters than ours before that is said: who was slow, or
# asleep, has caught up by then.
_DIFFER_FOR_S = 30.0
# What we learn of heads waits this long for an ack of ours, to be written with it.
_KEEP_EVERY_S = 2.0


class Dropped(Exception):
    """A payload that came to nothing; the text is what it is counted as."""


def _interval_s(members: int, low: float, high: float) -> float:
    """max(2 s, 100 ms × members), so that total traffic stays flat as a room grows, times a random
    factor, so that not all send at once."""
    mean_s = max(_ACK_MIN_INTERVAL_S, _ACK_INTERVAL_PER_MEMBER_S * members)
    return mean_s * (low + (high - low) * int.from_bytes(random_bytes(2), "big") / 0xFFFF)


class _Sent(NamedTuple):
    frame: bytes
    is_chat: bool
    seq: int


@dataclass
class Conversation:
    """The room's, or one with a single person."""

    ours: OurFeed
    peer: bytes | None  # the other's fingerprint; None: the room
    seen: bytes = bytes(32)  # entry_id of the last entry of somebody else that was shown
    # Written with nobody to send to, each with the fingerprints that it was written for.
    pending: list[tuple[SignedEntry, frozenset[bytes]]] = field(default_factory=list)
    _unechoed: dict[tuple[int, int], _Sent] = field(default_factory=dict)  # by (epoch, n)
    # In a pair, by seq: our entries that are not confirmed, as they were sent last; empty: not yet.
    _unacked: dict[int, _Sent] = field(default_factory=dict)
    _reported: int = 0  # seq of our own last entry that an ack of ours named, on this connection
    _ack_number: int = 0
    _is_ack_due: bool = False
    _next_ack_s: float = 0.0
    _tell_again_s: float = 0.0
    _advanced: set[bytes] = field(default_factory=set)  # session_ids whose feed we owe a report
    # Whose feed grew, and no head came since that covers it.
    _uncovered: set[bytes] = field(default_factory=set)

    @property
    def tag(self) -> bytes:
        """16 bytes."""
        return self.ours.tag

    def transmit(self, payload: bytes, roster: Roster) -> list[Transmit]:
        """To whom it is for: the room, or each live session of the other person."""
        if self.peer is None:
            return [Transmit(Broadcast(payload).serialize())]
        sessions = roster.sessions_of(self.peer)
        return [Transmit(Direct(b.session_id, payload).serialize()) for b in sessions]

    # ----------------------------------------------------------------- what became of ours

    def wrote(self, signed: SignedEntry) -> None:
        """A chat entry of ours, on our chain."""
        if self.peer is not None:
            self._unacked[signed.entry.seq] = _Sent(b"", True, signed.entry.seq)

    def sent(self, message: Message, frame: bytes, entry: Entry) -> None:
        """It went out: to the room, and the relay's copy of it is awaited; or to one person, and
        the ack is."""
        is_chat = entry.kind == EntryKind.CHAT
        if self.peer is None:
            self._unechoed[message.epoch, message.n] = _Sent(frame, is_chat, entry.seq)
        else:
            self._unacked[entry.seq] = _Sent(message.serialize(), is_chat, entry.seq)

    def again(self, roster: Roster) -> list[Transmit]:
        """What went out and may have been lost with the connection, as the same bytes."""
        frames = [Transmit(sent.frame) for sent in self._unechoed.values()]
        payloads = [sent.frame for _, sent in sorted(self._unacked.items()) if sent.frame]
        return frames + [frame for data in payloads for frame in self.transmit(data, roster)]

    def take_echo(self, message: Message, frame: bytes) -> None:
        """The relay's copy: our receipt that it went out, and unaltered.  Raises Dropped."""
        sent = self._unechoed.get((message.epoch, message.n))
        if sent is None or sent.frame != frame:
            raise Dropped("altered echo" if sent else "duplicate")
        del self._unechoed[message.epoch, message.n]

    def take_report(self, acker: bytes, report: FeedReport) -> bool:
        """What a session says that it has of our feed; whether it names an entry that we wrote."""
        is_ours = self.ours.take_report(acker, report)
        done = [seq for seq in self._unacked if self.ours.confirmed(acker, seq)]
        for seq in done:
            del self._unacked[seq]
        # Whose copy was altered on its way to us, or to all and was fetched since, did arrive.
        arrived = [
            key for key, sent in self._unechoed.items() if self.ours.has_signed_for(acker, sent.seq)
        ]
        for key in arrived:
            del self._unechoed[key]
        return is_ours

    def unsent(self) -> int:
        """Our messages that never left: not echoed by the relay nor confirmed by anybody, or in a
        pair not confirmed."""
        if self.peer is not None:
            return sum(sent.is_chat for sent in self._unacked.values())
        waiting = sum(signed.entry.kind == EntryKind.CHAT for signed, _ in self.pending)
        return waiting + sum(sent.is_chat for sent in self._unechoed.values())

    # ----------------------------------------------------------------- the acks that we owe

    def owe(self, session_id: bytes = b"") -> None:
        """That session's feed grew on our chain; without one: our own, or the roster changed."""
        if session_id:
            self._advanced.add(session_id)
            self._uncovered.add(session_id)
        self._is_ack_due = True

    def covered(self, session_id: bytes) -> None:
        """A newer head of that author came: once for what it wrote, we say that we hold it.

        A head that grew by what others wrote causes no ack, or acks would never end.
        """
        if session_id in self._uncovered:
            self._uncovered.remove(session_id)
            self._advanced.add(session_id)
            self._is_ack_due = True

    def owe_at_once(self, now_s: float) -> None:
        """We came: an ack that waits for nothing."""
        self._is_ack_due, self._next_ack_s = True, now_s

    def will_report(self, session_ids: Iterable[bytes]) -> None:
        """The next ack that is due for another reason reports these feeds too, and our own."""
        self._advanced.update(session_ids)
        self._reported = 0

    def tell_again(self, now_s: float, every_s: float) -> None:
        """Somebody may never have heard of what we wrote, nor of the acks that told of it."""
        if now_s >= self._tell_again_s:
            self._tell_again_s = now_s + every_s
            self._reported, self._is_ack_due = 0, True

    def is_due(self, now_s: float, *, at_once: bool) -> bool:
        """Whether an ack goes out now."""
        return self._is_ack_due and (at_once or now_s >= self._next_ack_s)

    def next_ack(
        self,
        feeds: Mapping[tuple[bytes, bytes], TheirFeed],
        held: Callable[[bytes], Head | None],
        now_s: float,
        interval_s: float,
    ) -> tuple[int, tuple[FeedReport, ...]]:
        """The ack that goes out now: its number, and its reports of the feeds that advanced, our
        own and then the latest first, as many as one ack has room for; the rest is due an
        interval later.

        Args:
            feeds: of others, by (tag, session_id).
            held: by session_id, the newest head that we hold of its person's present chain.
        """
        advanced = {s: feeds[self.tag, s] for s in self._advanced if (self.tag, s) in feeds}
        advanced = {s: feed for s, feed in advanced.items() if feed.highest and feed.last_id}
        reports: list[FeedReport] = []
        if self.ours.seq > self._reported:
            self._reported = self.ours.seq
            reports.append(self.ours.report())
        size = sum(len(report.serialize()) for report in reports)
        for session_id in sorted(advanced, key=lambda s: -advanced[s].updated_ms):
            report = advanced[session_id].report(held(session_id))
            size += len(report.serialize())
            if size > Ack.ROOM_FOR_FEEDS:
                break
            reports.append(report)
        self._advanced = advanced.keys() - {report.session_id for report in reports}
        self._uncovered = {s for s in self._uncovered if (self.tag, s) in feeds}  # bounded as these
        self._is_ack_due = bool(self._advanced)
        self._ack_number += 1
        self._next_ack_s = now_s + interval_s
        return self._ack_number, tuple(reports)


class _Differs(NamedTuple):
    """The first of a member's acks, one after the other, whose rosters we never had."""

    since_s: float
    digest: bytes


class _Owed(NamedTuple):
    due_s: float
    heads: list[Head]  # the newest first


class Acks:
    """One session's acks and witnesses, as they come and as they go out."""

    def __init__(self, key: SigningKey, roster: Roster, heads: Heads) -> None:
        """`key` is our SSK; the roster is the session's."""
        our = roster.our
        self._key = key
        self._session_id = our.session_id
        self._room_tag = our.room_tag
        self._roster = roster
        self._heads = heads
        self._witnesses = OurWitnesses(our.session_id, our.chain_id, our.chain_key)
        # By session_id of live members: the heads that we held when it joined.  What its acks say
        # since may have replaced the very one that shows a chain was cut.
        self._owed: dict[bytes, _Owed] = {}
        self._said_rewritten: set[bytes] = set()  # session_ids of live members
        self._differing: dict[bytes, _Differs] = {}  # by session_id of live members
        self._said_differs: set[bytes] = set()  # the same; one at a time
        self._keep_next_s = 0.0

    # ----------------------------------------------------------------- who is there

    def joined(self, bundle: Bundle, now_s: float) -> None:
        """A member came, or was there when we came: it is owed what we hold of its person."""
        heads = self._heads.of(bundle.fingerprint)
        heads.sort(key=lambda head: head.chain_id != bundle.chain_id)  # the present chain's first
        if heads:
            due_s = now_s + _interval_s(self._members, 0.0, 1.0)
            self._owed[bundle.session_id] = _Owed(due_s, heads)

    def left(self, session_ids: Iterable[bytes]) -> None:
        """Sessions are gone."""
        for session_id in session_ids:
            self._owed.pop(session_id, None)
            self._said_rewritten.discard(session_id)
            self._differing.pop(session_id, None)
            self._said_differs.discard(session_id)
            self._witnesses.left(session_id)

    @property
    def interval_s(self) -> float:
        """The mean time between two acks of a member, seconds."""
        return max(_ACK_MIN_INTERVAL_S, _ACK_INTERVAL_PER_MEMBER_S * self._members)

    @property
    def _members(self) -> int:
        return len(self._roster.live) + 1

    def holders(self) -> list[tuple[str, int]]:
        """Who of those present holds which block of our chain, signed by us: name and index."""
        highest: dict[str, int] = {}
        for session_id, index in self._witnesses.holders().items():
            name = self._roster.name(self._roster.live[session_id].fingerprint)
            highest[name] = max(index, highest.get(name, 0))
        return sorted(highest.items())

    # ----------------------------------------------------------------- what comes

    def take(
        self,
        ack: Ack,
        author: Bundle,
        conversation: Conversation | None,
        feed: TheirFeed,
        now: Moment,
    ) -> Effects:
        """An ack, whose signature is verified.

        Args:
            author: the live session that signed it.
            conversation: of its tag, if we said anything there or got anything.
            feed: that session's in this conversation.

        Raises:
            Dropped: it comes to nothing.
        """
        if ack.number <= feed.ack_number:
            raise Dropped("duplicate")
        try:
            verify_ack_head(ack.head, author)
        except BadSignature as exc:
            raise Dropped("head of another chain") from exc
        feed.ack_number = ack.number
        taken = self._heads.take(author.fingerprint, ack.head, now.ms)
        effects = self._conflict(ack.head, author) if taken is Taken.CONFLICT else []
        if conversation is None:
            return effects
        if taken is Taken.NEWER:
            conversation.covered(ack.session_id)
        if conversation.peer is None:
            effects += self._compare_rosters(ack, author, now.s)
        reports = [r for r in ack.feeds if r.session_id == self._session_id]
        ours = [r for r in reports if conversation.take_report(ack.session_id, r)]
        if ours:
            # They cover our session_id, and the number is new: the acker is running now.
            self._roster.present.add(ack.session_id)
        if ours == reports:
            self._witnesses.take_ack(ack, author)
        return effects

    def _compare_rosters(self, ack: Ack, author: Bundle, now_s: float) -> Effects:
        """Whether that member sees the same room; what differs for a moment is no sign of anything,
        since all learn of members in the same order, but not at once."""
        session_id = ack.session_id
        if self._roster.saw_digest(session_id, ack.digest, now_s):
            self._differing.pop(session_id, None)
            return []
        first = self._differing.setdefault(session_id, _Differs(now_s, ack.digest))
        if now_s - first.since_s < _DIFFER_FOR_S:
            return []
        before_s = first.since_s - DIGEST_LIFE_S
        if any(self._roster.may_have_been(d, before_s) for d in (first.digest, ack.digest)):
            self._differing[session_id] = _Differs(now_s, ack.digest)
            return []
        if self._said_differs:  # else a room that is split would fill the screen
            return []
        self._said_differs.add(session_id)
        name = self._roster.name(author.fingerprint)
        text = (
            f"members differ: {name} is shown other members of this room than you are. The relay "
            f"may hide somebody, or show you different rooms: compare /who with {name}"
        )
        return [alert(text, "members_differ", name=name)]

    def _conflict(self, head: Head, author: Bundle) -> Effects:
        if author.session_id in self._said_rewritten:
            return []
        self._said_rewritten.add(author.session_id)
        name = self._roster.name(author.fingerprint)
        text = (
            f"{name}'s chain was rewritten: {name} signed two different blocks {head.index}; what "
            f"you got from {name} stands on your own chain as it was"
        )
        return [alert(text, "rewritten", name=name)]

    def take_witness(self, witness: Witness, author: Bundle) -> Effects:
        """A head of ours comes back, from the live session that signed this; whether our chain
        still leads to it is its owner's to look up.

        Raises:
            Dropped: it comes to nothing.
        """
        if witness.recipient != self._session_id or witness.tag != self._room_tag:
            raise Dropped("misdirected")
        if not self._witnesses.is_expected(witness):
            raise Dropped("witness once more")
        try:
            self._witnesses.take_witness(witness)
        except BadSignature as exc:
            raise Dropped("head that is not ours") from exc
        key = witness.head.chain_id + author.fingerprint
        row = SideRow(ACKS_TABLE, key, evidence(author, witness))
        return [Witnessed(witness.head, self._roster.name(author.fingerprint), row)]

    # ----------------------------------------------------------------- what goes out

    def due(
        self,
        conversations: Iterable[Conversation],
        feeds: Mapping[tuple[bytes, bytes], TheirFeed],
        now: Moment,
        head: Head,
        *,
        at_once: bool,
    ) -> Effects:
        """The acks and witnesses that are due, and before them what we learned for the disk.

        Args:
            feeds: of others, by (tag, session_id).
            head: our chain's, with all on disk that an ack may report.
            at_once: acks that are owed do not wait for their interval.
        """
        acks: Effects = []
        for conversation in conversations:
            if conversation.is_due(now.s, at_once=at_once) and self._is_heard(conversation):
                ack = self._ack(conversation, feeds, now.s, head)
                # Who has this receipt may leave, and should know before what we hold of it.
                for report in ack.feeds:
                    acks += self._hand_back(report.session_id)
                acks += conversation.transmit(ack.serialize(), self._roster)
                self._witnesses.carry(head)
        witnesses: Effects = []
        for session_id in [s for s, owed in self._owed.items() if now.s >= owed.due_s]:
            witnesses += self._hand_back(session_id)
        return [*self.keep(now.s, at_once=at_once or bool(acks)), *acks, *witnesses]

    def _is_heard(self, conversation: Conversation) -> bool:
        return not conversation.peer or bool(self._roster.sessions_of(conversation.peer))

    def _ack(
        self,
        conversation: Conversation,
        feeds: Mapping[tuple[bytes, bytes], TheirFeed],
        now_s: float,
        head: Head,
    ) -> Ack:
        interval_s = _interval_s(self._members, 0.75, 1.25)
        number, reports = conversation.next_ack(feeds, self._held_of, now_s, interval_s)
        digest = self._roster.digest() if conversation.peer is None else bytes(32)
        return Ack.create(
            self._key, self._session_id, conversation.tag, number, digest, reports, head
        )

    def _held_of(self, session_id: bytes) -> Head | None:
        bundle = self._roster.live.get(session_id)
        return self._heads.get(bundle.fingerprint, bundle.chain_id) if bundle else None

    def keep(self, now_s: float, *, at_once: bool) -> Effects:
        """What we learned of heads: on disk before our next ack, and soon if there is none."""
        if not at_once and now_s < self._keep_next_s:
            return []
        self._keep_next_s = now_s + _KEEP_EVERY_S
        return [Remember(row) for row in (*self._heads.unkept(), *self._witnesses.unkept())]

    def _hand_back(self, session_id: bytes) -> Effects:
        """The heads that we owe it, if any still."""
        effects: Effects = []
        for head in self._owed.pop(session_id, _Owed(0.0, [])).heads:
            witness = Witness.create(self._key, self._session_id, self._room_tag, session_id, head)
            effects.append(Transmit(Direct(session_id, witness.serialize()).serialize()))
        return effects
