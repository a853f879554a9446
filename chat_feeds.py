"""Feeds and their keys: what we wrote in one conversation, and what one session wrote to us.

What lives here: `OurFeed` (entries, audience, sender key, who has which key, receipts) and
`TheirFeed` (their keys, the frames held until a key comes, gaps).  Nothing in them grows for ever
at another's will; each limit stands here with its reason.  What it does not know: frames,
members' bundles beyond the one it is handed, names, chains of blocks, clocks.  The session owns it.

    feed.rotate_if_due(audience, now_s)               # then the shares, then the entries:
    payload = feed.seal(feed.write(EntryKind.CHAT, text, seen, now_ms))

Specified in docs/PROTOCOL.md, sections 3.3 to 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from chat_blocks import Head
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    MAX_AUDIENCE,
    MAX_MISSING,
    Bundle,
    Entry,
    EntryKind,
    FeedReport,
    KeyShare,
    Message,
    SignedEntry,
    audience_items,
    pad,
    unpad,
)
from chat_wire import Malformed
from crypto_utils import (
    ReceiverChain,
    SenderChain,
    SigningKey,
    VerifyKey,
    open_sealed,
    seal,
)

__all__ = ["MAX_HELD_FRAMES", "Arrival", "OurFeed", "TheirFeed"]

EPOCH_MAX_MESSAGES = 1000
EPOCH_MAX_AGE_S = 3600.0
# A receiver's keys outlive a newer epoch by what may still be on its way, and their sender's hour
# by the same (DESIGN.md section 4).
_OLD_EPOCH_LIFE_S = 120.0
_KEY_LIFE_S = 3720.0
# An honest author's epochs follow each other at a person's pace; what one that hurries makes us
# keep, up to 1000 skipped keys (0.2 MB) for each, is bounded.
_MAX_EPOCHS = 4
MAX_HELD_FRAMES = 64  # of one session, while their key is awaited
_REQUEST_AFTER_S = 2.0  # a key that was overtaken by its frames comes within that
# Twice the distance at which requests are answered, so that none of ours is dropped as too early.
_REQUEST_EVERY_S = 4.0
_ANSWER_WITHIN_S = 60.0  # an answer takes as long as a round trip; after this, none will come
_MAX_WAITS = 64  # epochs of one feed without a key that are remembered; an honest author needs one
# Gaps of one feed that may still be filled.  Each takes a message of its author to open; the
# oldest are given up.
_MAX_GAPS = 1024
# Sessions that were given a key: twice as many as can be live.  Beyond it they come and go to make
# us remember them, and a new epoch begins that forgets them.
_MAX_GIVEN = 2 * MAX_AUDIENCE
# Unwrapping a share costs us 2 ms of RSA.  An honest author sends one each 1000 messages or each
# time somebody is ignored; a burst beyond this many is dropped, one more is allowed each second.
_SHARE_BURST = 32


class OurFeed:
    """Our session's entries in one conversation, and the sender key they travel under."""

    def __init__(self, tag: bytes, session_id: bytes, key: SigningKey, room_mix: bytes) -> None:
        self.tag = tag
        self.ids: list[bytes] = []  # entry_id of seq i+1
        self._sent_ms: list[int] = []  # likewise
        self.audience: frozenset[bytes] = frozenset()  # fingerprints, as last written
        self.acked: dict[bytes, FeedReport] = {}  # by acker's session_id
        self._session_id = session_id
        self._key = key
        self._room_mix = room_mix
        self._since: dict[bytes, int] = {}  # seq of the entry that began each one's present stay
        self._chain: SenderChain | None = None
        self._epoch_started_s = 0.0
        self._given: set[bytes] = set()  # session_ids that have this epoch's key
        self._given_to: set[bytes] = set()  # fingerprints behind those sessions
        # session_id → seq of the first of the entries that were sent to it, all of them since
        self._reached: dict[bytes, int] = {}

    @property
    def seq(self) -> int:
        """Of our last entry here; 0 before the first."""
        return len(self.ids)

    @property
    def chain(self) -> SenderChain | None:
        """The present epoch's, if any began."""
        return self._chain

    def rotate_if_due(self, audience: frozenset[bytes], now_s: float) -> None:
        """Starts a new epoch if the audience lost somebody, or after 1000 messages or an hour."""
        chain = self._chain
        if (
            chain is None
            or (self.audience | self._given_to) - audience
            or chain.n >= EPOCH_MAX_MESSAGES
            or len(self._reached) >= _MAX_GIVEN
            or now_s - self._epoch_started_s >= EPOCH_MAX_AGE_S
        ):
            self._chain = SenderChain(chain.epoch + 1 if chain else 1, self._room_mix)
            self._epoch_started_s = now_s
            self._given, self._given_to = set(), set()

    def lacks_key(self, member: Bundle) -> bool:
        """Whether this session was not given the present epoch."""
        return member.session_id not in self._given

    def share(self, member: Bundle, next_seq: int = 0) -> KeyShare:
        """The present chain key, wrapped for one session of the audience.

        Args:
            next_seq: of the entry that is sent next; 0: it is not written yet.
        """
        assert self._chain is not None, "a share is made within an epoch"
        first_seq = self._since.get(member.fingerprint, self.seq + 1)
        self._given.add(member.session_id)
        self._given_to.add(member.fingerprint)
        self._reached.setdefault(member.session_id, next_seq or self.seq + 1)
        return KeyShare.create(
            self._key,
            self._session_id,
            self.tag,
            self._chain.epoch,
            self._chain.n,
            first_seq,
            member,
            self._chain.chain_key,
        )

    def write_audience(self, audience: frozenset[bytes], seen: bytes, now_ms: int) -> SignedEntry:
        """The entry that says who may read what follows."""
        text = b"".join(sorted(f[:AUDIENCE_ITEM_BYTES] for f in audience))
        seq = self.seq + 1
        self._since = {f: self._since.get(f, seq) for f in audience}
        self.audience = audience
        return self.write(EntryKind.AUDIENCE, text, seen, now_ms)

    def write(self, kind: EntryKind, text: bytes, seen: bytes, now_ms: int) -> SignedEntry:
        """Our next entry, signed."""
        previous = self.ids[-1] if self.ids else bytes(32)
        entry = Entry.create(
            kind, self.tag, self._session_id, self.seq + 1, previous, seen, now_ms, text
        )
        self.ids.append(entry.entry_id)
        self._sent_ms.append(now_ms)
        return entry.sign(self._key)

    def seal(self, signed: SignedEntry) -> Message:
        """The entry under the chain's next message key, which is gone afterwards."""
        assert self._chain is not None, "an entry is sealed within an epoch"
        if len(self._reached) > len(self._given):  # the first of an epoch that is not for all
            self._reached = {s: seq for s, seq in self._reached.items() if s in self._given}
        n, key = self._chain.next()
        header = Message.header(self._session_id, self.tag, self._chain.epoch, n)
        sealed = seal(key, pad(signed.serialize()), header)
        return Message(self._session_id, self.tag, self._chain.epoch, n, sealed)

    def report(self) -> FeedReport:
        """For an ack: how far we came."""
        return FeedReport(self._session_id, self.seq, self.ids[-1])

    def take_report(self, acker: bytes, report: FeedReport) -> bool:
        """An ack of ours by `acker`; one that names an entry that we never wrote says nothing.

        Returns:
            whether it names one that we wrote.
        """
        if not 1 <= report.seq <= self.seq or self.ids[report.seq - 1] != report.entry_id:
            return False
        before = self.acked.get(acker)
        if before is None or report.seq >= before.seq:
            self.acked[acker] = report
        return True

    def forget(self, session_ids: Iterable[bytes]) -> None:
        """Sessions are gone: what they come back with is not known.  They are given the key again
        then, and their first acks say again what they have."""
        for session_id in list(session_ids):
            self.acked.pop(session_id, None)
            self._reached.pop(session_id, None)
            self._given.discard(session_id)

    def confirmed(self, session_id: bytes, seq: int) -> bool:
        """Whether that session signed that entry `seq` is on its chain."""
        report = self.acked.get(session_id)
        return report is not None and report.seq >= seq and seq not in report.missing

    def has_signed_for(self, session_id: bytes, seq: int) -> bool:
        """As `confirmed`, of entries alone that were sent to it: what it says of others is that
        they are none of its business."""
        reached = self._reached.get(session_id)
        return reached is not None and seq >= reached and self.confirmed(session_id, seq)

    def recipients(self, live: Iterable[bytes]) -> list[bytes]:
        """The live sessions that our last entry was sent to."""
        return [s for s in live if s in self._given and self.seq >= self._reached[s]]

    def unconfirmed(self, live: Iterable[bytes]) -> list[bytes]:
        """The live sessions that did not confirm all that was sent to them.  What was written for
        them before they came is not waited for: it does not reach them by this way."""
        return [s for s in self.recipients(live) if not self._has_all(s)]

    def unconfirmed_since(self, session_id: bytes) -> int:
        """When we wrote the first entry that a session of `unconfirmed` did not confirm, as of
        `Entry.sent_ms`."""
        first, report = self._reached[session_id], self.acked.get(session_id)
        if report is not None:
            lacking = (seq for seq in report.missing if seq >= first)
            first = min(lacking, default=max(first, report.seq + 1))
        return self._sent_ms[first - 1]

    def _has_all(self, session_id: bytes) -> bool:
        reached = self._reached[session_id]
        return self.confirmed(session_id, self.seq) and not any(
            seq >= reached for seq in self.acked[session_id].missing
        )


class Arrival(Enum):
    """What an opened entry is to the feed it came in."""

    NEW = auto()
    DUPLICATE = auto()  # its seq is on our chain already
    FORK = auto()  # it and what is on our chain cannot both be of one feed: its author lies
    NOT_OURS = auto()  # below our first_seq: said before we were in the audience


@dataclass
class _Wait:
    """An epoch whose key we do not have, since its first frame came."""

    since_s: float
    asked_s: float | None = None
    over: bool = False  # refused, or never answered: frames of it are held no more


@dataclass
class TheirFeed:
    """What one session of somebody else wrote in one conversation, as far as we have it, and what
    it asked and told us there."""

    tag: bytes
    session_id: bytes
    highest: int = 0  # seq on our chain
    last_id: bytes = b""  # its entry_id; empty: none is known, so `previous` is not checked
    # What is not on our chain below `highest`, whether it is for us or not; both ends included.
    missing: list[tuple[int, int]] = field(default_factory=list)
    updated_ms: int = 0
    held: list[Message] = field(default_factory=list)
    audience: bytes = b""  # as last written by the author
    is_forked: bool = False  # said, and the proof is on our chain
    said_refused: bool = False
    noted_first_seq: int = 0  # the `first_seq` that the side table has
    ack_number: int = 0  # of its last ack here
    answered_s: float = -math.inf  # when we last answered a key request of its here
    began: int = field(default=0, compare=False)  # seq of the first entry that came to our chain
    # entry_ids at the edges of what is missing, as the entries beside it show; of this run.
    _edges: dict[int, bytes] = field(default_factory=dict, compare=False)
    _first_seq: int = 0  # 0: no share yet
    _chains: dict[int, tuple[ReceiverChain, float]] = field(default_factory=dict)  # until, seconds
    _waits: dict[int, _Wait] = field(default_factory=dict)  # by epoch, oldest first
    _asked_s: float = -math.inf
    _left_s: float = math.inf
    _share_tokens: float = _SHARE_BURST
    _share_tokens_s: float = 0.0

    def has_key(self, epoch: int) -> bool:
        """Whether we hold a chain of that epoch."""
        return epoch in self._chains

    def may_unwrap(self, share: KeyShare, now_s: float) -> bool:
        """Whether a verified share is worth its 2 ms of RSA.

        A newer epoch than we hold is.  We ask for none that we hold, so a share for one answers
        nothing, and would only take from us the skipped keys that we keep.
        """
        if any(epoch >= share.epoch for epoch in self._chains):
            return False
        earned = max(0.0, now_s - self._share_tokens_s)
        self._share_tokens = min(_SHARE_BURST, self._share_tokens + earned)
        self._share_tokens_s = now_s
        if self._share_tokens < 1:
            return False
        self._share_tokens -= 1
        return True

    def take_key(self, share: KeyShare, chain_key: bytes, room_mix: bytes, now_s: float) -> None:
        """Notes an unwrapped key, ends older epochs, and where our present stay began."""
        for epoch, (chain, until) in self._chains.items():
            if epoch < share.epoch:
                self._chains[epoch] = (chain, min(until, now_s + _OLD_EPOCH_LIFE_S))
        chain = ReceiverChain(share.n, chain_key, room_mix)
        self._chains[share.epoch] = (chain, now_s + _KEY_LIFE_S)
        while len(self._chains) > _MAX_EPOCHS:
            del self._chains[min(self._chains)]
        self._waits = {e: wait for e, wait in self._waits.items() if e > share.epoch}
        if share.first_seq > self._first_seq:
            self._first_seq = share.first_seq
            if share.first_seq > self.highest + 1:
                # Nothing between is of this stay, and `previous` is unknown.
                self._note_gap(share.first_seq)
                self.highest, self.last_id = share.first_seq - 1, b""

    @property
    def lacks_key(self) -> bool:
        """Whether frames came whose key did not."""
        return bool(self._waits)

    def wait_for(self, epoch: int, now_s: float) -> str:
        """Notes that a frame of an epoch without a key came.

        Returns:
            why the frame is not to be held; empty if it is.
        """
        if epoch < max(self._chains, default=0):
            return "too old"
        wait = self._waits.get(epoch)
        if wait is not None:
            return "not for us" if wait.over else ""
        if len(self._waits) >= _MAX_WAITS:
            done = next((e for e, other in self._waits.items() if other.over), None)
            if done is None:
                return "not held"
            del self._waits[done]
        self._waits[epoch] = _Wait(now_s)
        return ""

    def epoch_to_ask_for(self, now_s: float) -> int | None:
        """The newest epoch that waited for 2 s, each once; the answer is about the present, so it
        is the older ones' answer too."""
        if now_s - self._asked_s < _REQUEST_EVERY_S:
            return None
        due = [
            epoch
            for epoch, wait in self._waits.items()
            if wait.asked_s is None and now_s - wait.since_s >= _REQUEST_AFTER_S
        ]
        if not due:
            return None
        for epoch in due:
            self._waits[epoch].asked_s = now_s
        self._asked_s = now_s
        return max(due)

    def refuse(self, epoch: int) -> bool:
        """The author will not give us that epoch's key; False if we did not ask for it."""
        wait = self._waits.get(epoch)
        if wait is None or wait.asked_s is None or wait.over:
            return False
        for other, older in self._waits.items():
            older.over |= other <= epoch
        return True

    def give_up(self, now_s: float) -> None:
        """Ends the waiting for what was asked for a minute ago."""
        for wait in self._waits.values():
            wait.over |= wait.asked_s is not None and now_s - wait.asked_s >= _ANSWER_WITHIN_S

    def take_held(self) -> list[Message]:
        """The held frames whose waiting is over: their key came, or never will."""
        newest = max(self._chains, default=0)
        waiting = {e for e, wait in self._waits.items() if not wait.over and e > newest}
        ready = [m for m in self.held if m.epoch not in waiting]
        self.held = [m for m in self.held if m.epoch in waiting]
        return ready

    def stop_waiting(self) -> list[Message]:
        """No key will come on this connection any more; returns what was held, in vain."""
        self._waits.clear()
        self._asked_s = -math.inf
        held, self.held = self.held, []
        return held

    def author_left(self, now_s: float) -> None:
        """The newest key is kept for what its author may send again, if it soon comes back."""
        self._chains = {e: kept for e, kept in self._chains.items() if e == max(self._chains)}
        self._left_s = now_s

    def author_came(self) -> None:
        """Or came back: its key lives on."""
        self._left_s = math.inf

    def drop_old_keys(self, now_s: float) -> None:
        """Forgets chains whose time is over."""
        if now_s - self._left_s >= _OLD_EPOCH_LIFE_S:
            self._chains = {}
        self._chains = {e: (c, until) for e, (c, until) in self._chains.items() if until > now_s}

    def open(self, message: Message, key: VerifyKey) -> SignedEntry:
        """The signed entry in `message`; its key is used up only if everything fits.

        Args:
            message: of an epoch that we have a key for (`has_key`).
            key: the session's SSK.

        Raises:
            KeyUsed: opened before, or before what we were given.
            TooFarAhead: more than 1000 ahead.
            BadCiphertext, BadSignature, WireError: altered, or not by that session.
        """
        chain, _ = self._chains[message.epoch]
        step = chain.derive(message.n)
        plaintext = open_sealed(step.key, message.sealed, message.associated)
        signed = SignedEntry.parse(unpad(plaintext))
        entry = signed.entry
        if entry.tag != message.tag or entry.session_id != message.session_id:
            raise Malformed("an entry of another conversation or session")
        signed.verify(key)
        chain.commit(step)
        return signed

    def accept(self, entry: Entry, now_ms: int) -> Arrival:
        """Where an opened entry stands; NEW advances the feed, and notes a gap before it."""
        seq = entry.seq
        if self._is_fork(entry):
            return Arrival.FORK
        if seq < self._first_seq:
            return Arrival.NOT_OURS
        if seq <= self.highest:
            return self._fill(entry)
        self._note_gap(seq, entry.previous)
        self._advance(entry, now_ms)
        return Arrival.NEW

    def accept_late(self, entry: Entry, reader: bytes, now_ms: int) -> Arrival:
        """Where an entry stands that somebody handed on, its signature verified.

        Args:
            reader: the beginning of our fingerprint, as audience entries name us: what is not of a
                stay of ours is not taken, whoever hands it on.
        """
        seq = entry.seq
        if self._is_fork(entry):
            return Arrival.FORK
        if entry.kind == EntryKind.AUDIENCE:
            is_ours = reader in audience_items(entry.text)
        else:  # the audience is that of the entry before, if we hold that
            is_ours = 0 < self._first_seq <= seq or self._holds(seq - 1)
        if not is_ours:
            return Arrival.NOT_OURS
        if seq <= self.highest:
            return self._fill(entry)
        if seq > self.highest + 1:
            if entry.kind != EntryKind.AUDIENCE:
                return Arrival.NOT_OURS
            self._note_gap(seq, entry.previous)
            self._first_seq = max(seq, self._first_seq)
        self._first_seq = self._first_seq or seq
        self._advance(entry, now_ms)
        return Arrival.NEW

    def differs(self, report: FeedReport) -> bool:
        """Whether who acknowledges this feed has another entry in the place of our last."""
        is_last = report.seq == self.highest and bool(self.last_id)
        return is_last and report.entry_id != self.last_id

    def _is_fork(self, entry: Entry) -> bool:
        """Whether it stands where we have another, or names another than we have before it.

        It is not known of all that we have: of the last, and of what stands beside a gap.  So it
        is found all the same, since what follows on two stories differs too.
        """
        here, before = self._id_at(entry.seq), self._id_at(entry.seq - 1)
        return here not in (b"", entry.entry_id) or before not in (b"", entry.previous)

    def _id_at(self, seq: int) -> bytes:
        """Of the entry that stands there, as far as it is known."""
        return (self.last_id if seq == self.highest else b"") or self._edges.get(seq, b"")

    def _holds(self, seq: int) -> bool:
        is_missing = any(low <= seq <= high for low, high in self.missing)
        is_last = seq == self.highest and bool(self.last_id)
        return is_last or (0 < seq < self.highest and not is_missing)

    def unheld(self, first: int, last: int) -> list[tuple[int, int]]:
        """What of a range is not on our chain."""
        parts = [(max(first, low), min(last, high)) for low, high in self.missing]
        parts.append((max(first, self.highest + 1), last))
        return [(low, high) for low, high in parts if low <= high]

    def resume(self, entry: Entry, received_ms: int) -> None:
        """An entry that is on our chain since an earlier run; in the order of the chain, after
        `resume_stay`."""
        if entry.seq <= self.highest:
            self._fill(entry)
            return
        self._note_gap(entry.seq, entry.previous)
        self._advance(entry, received_ms)

    @property
    def first_seq(self) -> int:
        """Where our present unbroken stay in the audience began; 0: not known."""
        return self._first_seq

    def resume_stay(self, first_seq: int) -> None:
        """`first_seq` as an earlier run noted it."""
        self._first_seq = self.noted_first_seq = first_seq

    def report(self, held: Head | None = None) -> FeedReport:
        """For an ack: how far our chain has this feed, the first of what it lacks, and the head
        that is held of its author's chain."""
        lacking = (seq for low, high in self._lacking() for seq in range(low, high + 1))
        missing = tuple(islice(lacking, MAX_MISSING))
        witnessed = (held.index, held.hash) if held else ()
        return FeedReport(self.session_id, self.highest, self.last_id, missing, *witnessed)

    def missing_count(self) -> int:
        """How many entries before the highest we lack."""
        return sum(high - low + 1 for low, high in self._lacking())

    def _lacking(self) -> Iterator[tuple[int, int]]:
        """Ranges of what is missing and for us: nothing below the first_seq of our stay is, or, if
        that is not known, below what came first."""
        first = self._first_seq or self.began
        for low, high in self.missing:
            if high >= first:
                yield max(low, first), high

    def _note_gap(self, before: int, named: bytes = b"") -> None:
        """Between our highest and that seq, if there is one.

        Args:
            named: the entry_id that stands at its end.
        """
        low, high = self.highest + 1, before - 1
        if low > high:
            return
        self.missing.append((low, high))
        self._edges |= {low - 1: self.last_id, high: named}
        for low, high in self.missing[:-_MAX_GAPS]:
            self._edges.pop(low - 1, None)
            self._edges.pop(high, None)
        del self.missing[:-_MAX_GAPS]

    def _advance(self, entry: Entry, now_ms: int) -> None:
        self.began = self.began or entry.seq
        self.highest, self.last_id, self.updated_ms = entry.seq, entry.entry_id, now_ms
        if entry.kind == EntryKind.AUDIENCE:
            self.audience = entry.text

    def _fill(self, entry: Entry) -> Arrival:
        seq = entry.seq
        for i, (low, high) in enumerate(self.missing):
            if low <= seq <= high:
                self.missing[i : i + 1] = [
                    part for part in ((low, seq - 1), (seq + 1, high)) if part[0] <= part[1]
                ]
                self._edges |= {seq - 1: entry.previous, seq: entry.entry_id}
                if seq == low:
                    del self._edges[seq - 1]
                if seq == high:
                    del self._edges[seq]
                return Arrival.NEW
        return Arrival.DUPLICATE
