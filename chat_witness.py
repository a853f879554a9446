"""Heads of chains: those that others signed and we keep for them, and who keeps ours.

What lives here: `Heads` (of others, in the side table `heads`), `OurWitnesses` (who holds which
head of our chain, and what in the side table `acks` proves it).  Nothing in them grows for ever at
another's will.  What it does not know: when anything is sent (`chat_acks`, `chat_session`), what is
on our chain (`blockchain`), names, frames, clocks.  The session owns them.

    heads = Heads(chain.side(HEADS_TABLE))
    verify_ack_head(ack.head, bundle)
    if heads.take(bundle.fingerprint, ack.head, now_ms) is Taken.CONFLICT: ...
    rows = heads.unkept()                    # on disk before our next ack

Specified in docs/PROTOCOL.md 4.10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from chat_blocks import Head, SideRow
from chat_messages import MAX_AUDIENCE, Ack, Bundle, FeedReport, Witness
from chat_wire import prefixed, u64
from crypto_utils import BadSignature, VerifyKey

__all__ = [
    "ACKS_TABLE",
    "HEADS_TABLE",
    "Heads",
    "OurWitnesses",
    "Taken",
    "evidence",
    "verify_ack_head",
]

# Side tables; a row with an empty value is one that may be forgotten.
# fingerprint ‖ chain_id → index u64 ‖ hash[32] ‖ CSK signature[64] ‖ when it was kept, ms u64
HEADS_TABLE = "heads"
# What others signed about our chain, as `evidence`: of acks our session_id ‖ tag ‖ acker's
# session_id, of Witness payloads our chain_id ‖ the witness's fingerprint.
ACKS_TABLE = "acks"

# A person begins a new chain when the old one was tampered with, or by throwing the profile away.
MAX_CHAINS = 8
# As many as an audience can name: whoever joins under ever new identities makes us keep no more.
MAX_HEAD_PEOPLE = MAX_AUDIENCE
# Heads that acks of ours carried lately: hours of them.  Who reports one lags by an ack interval.
_MAX_CARRIED = 4096
# Acks kept of one run, one for each person and conversation: as many as an audience can name.
_MAX_EVIDENCE = MAX_AUDIENCE
MAX_EVIDENCE_BYTES = 8192  # an ack; longer ones are first acks that list many feeds, others follow


def verify_ack_head(head: Head, bundle: Bundle) -> None:
    """Raises BadSignature unless that head is of the chain that the bundle names, and signed."""
    if head.chain_id != bundle.chain_id:
        raise BadSignature("a head of another chain than the bundle's")
    head.verify(bundle.chain_key)


def evidence(bundle: Bundle, payload: Ack | Witness) -> bytes:
    """A signed payload that can be checked without anything else: bundle (u16) ‖ payload."""
    return prefixed(bundle.raw) + payload.serialize()


class Taken(Enum):
    """What a signed head is to those that we hold."""

    NEWER = auto()
    KNOWN = auto()  # or older, which is no sign of anything: acks may overtake each other
    CONFLICT = auto()  # another hash at the index that we hold: the chain was rewritten


@dataclass(frozen=True)
class _Held:
    head: Head
    kept_ms: int


_ROW_KEY_BYTES, _ROW_BYTES = 32 + 16, 8 + 32 + 64 + 8


class Heads:
    """The newest head of each chain of each person, as its owner signed it."""

    def __init__(self, rows: Mapping[bytes, bytes] | None = None) -> None:
        """`rows`: of the side table `heads`; those of another form are not looked at."""
        # By fingerprint, who signed a head last at the end; then chain_id, what was kept last.
        self._people: dict[bytes, dict[bytes, _Held]] = {}
        self._unkept: dict[bytes, bytes] = {}
        found = [
            (int.from_bytes(value[104:], "big"), key, value)
            for key, value in (rows or {}).items()
            if len(key) == _ROW_KEY_BYTES and len(value) == _ROW_BYTES
        ]
        for kept_ms, key, value in sorted(found):
            index = int.from_bytes(value[:8], "big")
            head = Head(key[32:], index, value[8:40], value[40:104])
            self._put(key[:32], _Held(head, kept_ms))

    def get(self, fingerprint: bytes, chain_id: bytes) -> Head | None:
        """The newest of that chain."""
        held = self._people.get(fingerprint, {}).get(chain_id)
        return held.head if held else None

    def of(self, fingerprint: bytes) -> list[Head]:
        """Of all chains of a person, what was kept last first; at most MAX_CHAINS."""
        return [held.head for held in reversed(self._people.get(fingerprint, {}).values())]

    def take(self, fingerprint: bytes, head: Head, now_ms: int) -> Taken:
        """A head that its owner signed (verified); it is kept if it is newer than what we hold."""
        before = self.get(fingerprint, head.chain_id)
        if before is not None and head.index <= before.index:
            # He is here: others, however many, do not push him out of what we keep.
            self._people[fingerprint] = self._people.pop(fingerprint)
            is_other = head.index == before.index and head.hash != before.hash
            return Taken.CONFLICT if is_other else Taken.KNOWN
        self._put(fingerprint, _Held(head, now_ms))
        value = u64(head.index) + head.hash + head.signature + u64(now_ms)
        self._unkept[fingerprint + head.chain_id] = value
        return Taken.NEWER

    def unkept(self) -> list[SideRow]:
        """What is to be written since the last call."""
        rows = [SideRow(HEADS_TABLE, key, value) for key, value in self._unkept.items()]
        self._unkept.clear()
        return rows

    def _put(self, fingerprint: bytes, held: _Held) -> None:
        """Re-inserted at the end, so that the first are those not seen for longest; they go."""
        chains = self._people.pop(fingerprint, {})
        self._people[fingerprint] = chains
        chains.pop(held.head.chain_id, None)
        chains[held.head.chain_id] = held
        if len(chains) > MAX_CHAINS:
            self._forget(fingerprint, [next(iter(chains))])
        if len(self._people) > MAX_HEAD_PEOPLE:
            oldest = next(iter(self._people))
            self._forget(oldest, list(self._people[oldest]))
            del self._people[oldest]

    def _forget(self, fingerprint: bytes, chain_ids: Iterable[bytes]) -> None:
        for chain_id in chain_ids:
            del self._people[fingerprint][chain_id]
            self._unkept[fingerprint + chain_id] = b""


class OurWitnesses:
    """Who holds which head of our chain, and the acks that prove what of ours was seen."""

    def __init__(self, session_id: bytes, chain_id: bytes, chain_key: VerifyKey) -> None:
        """Our session's, and our own chain's."""
        self._session_id = session_id
        self._chain_id = chain_id
        self._chain_key = chain_key
        self._carried: dict[int, bytes] = {}  # hashes by index, the latest last
        self._holds: dict[bytes, int] = {}  # by session_id of live members: the highest index
        self._came: dict[bytes, set[bytes]] = {}  # by session_id: chain_ids that it witnessed
        # By (tag, fingerprint): the row's key, and what was said; the oldest first.
        self._evidence: dict[tuple[bytes, bytes], tuple[bytes, FeedReport]] = {}
        self._unkept: dict[bytes, bytes] = {}

    def carry(self, head: Head) -> None:
        """An ack of ours carries that head, so from now on others may hold it."""
        self._carried[head.index] = head.hash
        if len(self._carried) > _MAX_CARRIED:
            del self._carried[next(iter(self._carried))]

    def take_ack(self, ack: Ack, author: Bundle) -> None:
        """A verified ack, all of whose reports on our feed name entries that we wrote.

        What it says of our chain counts only if an ack of ours carried that in this run: the claim
        has no signature of ours, so a liar could make our chain look tampered with by it.  Who
        really holds something else proves it with a Witness.
        """
        reports = [report for report in ack.feeds if report.session_id == self._session_id]
        if any(r.is_witness and not self._is_ours(r) for r in reports):
            return
        for report in reports:
            if report.is_witness:
                self._hold(ack.session_id, report.witnessed_index)
        if len(reports) == 1:
            self._keep(ack, author, reports[0])

    def _is_ours(self, report: FeedReport) -> bool:
        return self._carried.get(report.witnessed_index) == report.witnessed_hash

    def _keep(self, ack: Ack, author: Bundle, report: FeedReport) -> None:
        """As evidence, instead of what the same person said before, unless that said more."""
        if len(ack.serialize()) > MAX_EVIDENCE_BYTES:
            return
        place = (ack.tag, author.fingerprint)
        before = self._evidence.get(place)
        if before is not None:
            if not _says_no_less(report, before[1]):
                return
            del self._evidence[place]
            self._unkept[before[0]] = b""
        key = self._session_id + ack.tag + ack.session_id
        self._evidence[place] = (key, report)
        self._unkept[key] = evidence(author, ack)
        if len(self._evidence) > _MAX_EVIDENCE:
            oldest, _ = self._evidence.pop(next(iter(self._evidence)))
            self._unkept[oldest] = b""

    def is_expected(self, witness: Witness) -> bool:
        """Whether that session may still give us a head of that chain: each once, MAX_CHAINS in
        all; noted before it is verified, so that a flood costs little."""
        came = self._came.setdefault(witness.session_id, set())
        if witness.head.chain_id in came or len(came) >= MAX_CHAINS:
            return False
        came.add(witness.head.chain_id)
        return True

    def take_witness(self, witness: Witness) -> None:
        """Of a live member, signed by it.  Raises BadSignature if we did not sign the head."""
        witness.head.verify(self._chain_key)
        if witness.head.chain_id == self._chain_id:
            self._hold(witness.session_id, witness.head.index)

    def _hold(self, session_id: bytes, index: int) -> None:
        self._holds[session_id] = max(index, self._holds.get(session_id, 0))

    def holders(self) -> dict[bytes, int]:
        """By session_id of live members: the highest block of our chain whose hash, signed by us,
        each is known to hold."""
        return dict(self._holds)

    def left(self, session_id: bytes) -> None:
        """A session is gone."""
        self._holds.pop(session_id, None)
        self._came.pop(session_id, None)

    def unkept(self) -> list[SideRow]:
        """What is to be written since the last call."""
        rows = [SideRow(ACKS_TABLE, key, value) for key, value in self._unkept.items()]
        self._unkept.clear()
        return rows


def _says_no_less(report: FeedReport, before: FeedReport) -> bool:
    return (
        report.seq >= before.seq
        and report.witnessed_index >= before.witnessed_index
        and {seq for seq in report.missing if seq <= before.seq} <= set(before.missing)
    )
