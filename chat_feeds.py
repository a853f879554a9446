"""Feeds and their keys: what we wrote in one conversation, and what one session wrote to us.

What lives here: `OurFeed` (entries, audience, sender key, who has which key, receipts) and
`TheirFeed` (their keys, the frames held until a key comes, gaps).  What it does not know: frames,
members' bundles beyond the one it is handed, names, chains of blocks, clocks.  The session owns it.

    feed.rotate_if_due(audience, now_s)               # then the shares, then the entries:
    payload = feed.seal(feed.write(EntryKind.CHAT, text, seen, now_ms))

Specified in docs/PROTOCOL.md, sections 3.3 to 3.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    MAX_MISSING,
    Bundle,
    Entry,
    EntryKind,
    FeedReport,
    KeyShare,
    Message,
    SignedEntry,
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
MAX_HELD_FRAMES = 64  # of one session, while their key is awaited
# Unwrapping a share costs us 2 ms of RSA.  An honest author sends one each 1000 messages or each
# time somebody is ignored; a burst beyond this many is dropped, one more is allowed each second.
_SHARE_BURST = 32


class OurFeed:
    """Our session's entries in one conversation, and the sender key they travel under."""

    def __init__(self, tag: bytes, session_id: bytes, key: SigningKey, room_mix: bytes) -> None:
        self.tag = tag
        self.ids: list[bytes] = []  # entry_id of seq i+1
        self.audience: frozenset[bytes] = frozenset()  # fingerprints, as last written
        self.acked: dict[bytes, FeedReport] = {}  # by acker's session_id
        self._session_id = session_id
        self._key = key
        self._room_mix = room_mix
        self._since: dict[bytes, int] = {}  # seq of the entry that began each one's present stay
        self._chain: SenderChain | None = None
        self._epoch_started_s = 0.0
        self._given: dict[bytes, int] = {}  # session_id → first_seq of the share it got this epoch
        self._given_to: set[bytes] = set()  # fingerprints behind those sessions

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
            or now_s - self._epoch_started_s >= EPOCH_MAX_AGE_S
        ):
            self._chain = SenderChain(chain.epoch + 1 if chain else 1, self._room_mix)
            self._epoch_started_s = now_s
            self._given, self._given_to = {}, set()

    def lacks_key(self, member: Bundle) -> bool:
        """Whether this session was not given the present epoch."""
        return member.session_id not in self._given

    def share(self, member: Bundle) -> KeyShare:
        """The present chain key, wrapped for one session of the audience."""
        assert self._chain is not None, "a share is made within an epoch"
        first_seq = self._since.get(member.fingerprint, self.seq + 1)
        self._given[member.session_id] = first_seq
        self._given_to.add(member.fingerprint)
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
        return entry.sign(self._key)

    def seal(self, signed: SignedEntry) -> Message:
        """The entry under the chain's next message key, which is gone afterwards."""
        assert self._chain is not None, "an entry is sealed within an epoch"
        n, key = self._chain.next()
        header = Message.header(self._session_id, self.tag, self._chain.epoch, n)
        sealed = seal(key, pad(signed.serialize()), header)
        return Message(self._session_id, self.tag, self._chain.epoch, n, sealed)

    def take_report(self, acker: bytes, report: FeedReport) -> None:
        """An ack of ours by `acker`; one that names an entry that we never wrote says nothing."""
        if not 1 <= report.seq <= self.seq or self.ids[report.seq - 1] != report.entry_id:
            return
        before = self.acked.get(acker)
        if before is None or report.seq >= before.seq:
            self.acked[acker] = report

    def confirmed(self, session_id: bytes, seq: int) -> bool:
        """Whether that session signed that entry `seq` is on its chain."""
        report = self.acked.get(session_id)
        return report is not None and report.seq >= seq and seq not in report.missing

    def unconfirmed(self, live: Iterable[bytes]) -> list[bytes]:
        """The live sessions that have our key and did not confirm all that we sent them."""
        return [
            s
            for s in live
            if s in self._given
            and self.seq >= self._given[s]
            and not (self.confirmed(s, self.seq) and not self._lacks(s))
        ]

    def recipients(self, live: Iterable[bytes]) -> list[bytes]:
        """The live sessions that our last entry was for."""
        return [s for s in live if s in self._given and self.seq >= self._given[s]]

    def _lacks(self, session_id: bytes) -> bool:
        return any(m >= self._given[session_id] for m in self.acked[session_id].missing)


class Arrival(Enum):
    """What an opened entry is to the feed it came in."""

    NEW = auto()
    DUPLICATE = auto()  # its seq is on our chain already
    CONTRADICTION = auto()  # its `previous` is not the entry that we have before it
    NOT_OURS = auto()  # below our first_seq: said before we were in the audience


@dataclass
class TheirFeed:
    """What one session of somebody else wrote in one conversation, as far as we have it."""

    tag: bytes
    session_id: bytes
    highest: int = 0  # seq on our chain
    last_id: bytes = b""  # its entry_id; empty: none is known, so `previous` is not checked
    missing: list[tuple[int, int]] = field(default_factory=list)  # ranges, both ends included
    updated_ms: int = 0
    held: list[Message] = field(default_factory=list)
    held_since_s: float = 0.0
    asked: set[int] = field(default_factory=set)  # epochs asked for on this connection
    refused: int = 0  # the highest epoch that we were refused
    audience: bytes = b""  # as last written by the author
    contradicted: bool = False  # said once
    _first_seq: int = 0  # 0: no share yet
    _chains: dict[int, tuple[ReceiverChain, float]] = field(default_factory=dict)  # until, seconds
    _share_tokens: float = _SHARE_BURST
    _share_tokens_s: float = 0.0

    def has_key(self, epoch: int) -> bool:
        """Whether we hold a chain of that epoch."""
        return epoch in self._chains

    def may_unwrap(self, share: KeyShare, now_s: float) -> bool:
        """Whether a verified share is worth its 2 ms of RSA.

        A new epoch is; one that we hold counts only as the answer to a request, with n not before
        ours; an older one than we hold never.
        """
        held = self._chains.get(share.epoch)
        if held is not None and (share.epoch not in self.asked or share.n < held[0].n):
            return False
        if held is None and any(epoch > share.epoch for epoch in self._chains):
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
        self.asked.discard(share.epoch)
        if share.first_seq > self._first_seq:
            self._first_seq = share.first_seq
            if share.first_seq > self.highest + 1:
                # Nothing between is for us, so nothing is missing and `previous` is unknown.
                self.highest, self.last_id = share.first_seq - 1, b""

    def take_held(self) -> list[Message]:
        """The held frames whose waiting is over: their key came, or never will."""
        newest = max(self._chains, default=0)
        over = [
            m.epoch in self._chains or m.epoch < newest or m.epoch <= self.refused
            for m in self.held
        ]
        ready = [m for m, done in zip(self.held, over, strict=True) if done]
        self.held = [m for m, done in zip(self.held, over, strict=True) if not done]
        return ready

    def drop_old_keys(self, now_s: float) -> None:
        """Forgets chains whose time is over."""
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

    def accept(self, entry: Entry) -> Arrival:
        """Where an opened entry stands; NEW advances the feed, and notes a gap before it."""
        seq = entry.seq
        if seq < self._first_seq:
            return Arrival.NOT_OURS
        if seq <= self.highest:
            return self._fill(seq)
        if seq == self.highest + 1:
            if self.last_id and entry.previous != self.last_id:
                return Arrival.CONTRADICTION
        else:
            self.missing.append((self.highest + 1, seq - 1))
        self._advance(entry)
        return Arrival.NEW

    def resume(self, entry: Entry) -> None:
        """An entry that is on our chain since an earlier run; in the order of the chain."""
        if entry.seq <= self.highest:
            self._fill(entry.seq)
            return
        if self.highest and entry.seq > self.highest + 1:
            self.missing.append((self.highest + 1, entry.seq - 1))
        self._advance(entry)

    def report(self) -> FeedReport:
        """For an ack: how far our chain has this feed, and the first of what it lacks."""
        lacking = (seq for low, high in self._lacking() for seq in range(low, high + 1))
        return FeedReport(
            self.session_id, self.highest, self.last_id, tuple(islice(lacking, MAX_MISSING))
        )

    def missing_count(self) -> int:
        """How many entries before the highest we lack."""
        return sum(high - low + 1 for low, high in self._lacking())

    def _lacking(self) -> Iterator[tuple[int, int]]:
        """Ranges of what is missing and for us: nothing below the first_seq of our stay is."""
        for low, high in self.missing:
            if high >= self._first_seq:
                yield max(low, self._first_seq), high

    def _advance(self, entry: Entry) -> None:
        self.highest, self.last_id, self.updated_ms = entry.seq, entry.entry_id, entry.sent_ms
        if entry.kind == EntryKind.AUDIENCE:
            self.audience = entry.text

    def _fill(self, seq: int) -> Arrival:
        for i, (low, high) in enumerate(self.missing):
            if low <= seq <= high:
                self.missing[i : i + 1] = [
                    part for part in ((low, seq - 1), (seq + 1, high)) if part[0] <= part[1]
                ]
                return Arrival.NEW
        return Arrival.DUPLICATE
