"""Who wrote what stands in a chain, up to the author's identity, and who else signed for the chain.

What lives here: `Authors` (block by block, each record's author and signature), `Evidence` (what a
witness signed, and the witness), `audit` (both, over a whole chain: the deep verification).  What
it does not know: how blocks are linked and signed (`blockchain.verify` comes first), proof files.

    verdict = chain.verify()
    if verdict.ok:
        verdict = audit(chain)               # OK, BADAUTHOR@17, TRUNCATED, REWRITTEN@110
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from blockchain import Block, Blockchain, BlockType, Finding, Genesis, StoreUnreadable, Verdict
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    FeedReport,
    SignedEntry,
    Witness,
    parse_payload,
)
from chat_wire import SESSION_ID_BYTES, H, Label, Malformed, Reader, WireError
from chat_witness import ACKS_TABLE
from crypto_utils import SIGNATURE_BYTES, BadSignature, CryptoError, fingerprint

__all__ = [
    "ENTRY_TYPES",
    "Authors",
    "Evidence",
    "Introduced",
    "Misattributed",
    "Written",
    "audit",
    "kept_evidence",
]

# What records an entry; a forget block keeps the head of one.
ENTRY_TYPES = (BlockType.SENT, BlockType.CONTROL, BlockType.RECEIVED)
_PROGRESS_BLOCKS = 1000


class Misattributed(Exception):
    """Nobody signed what stands in a block, or not the one whose it should be; one sentence."""


@dataclass(frozen=True)
class Written:
    """An entry whose author's signature was checked, up to the identity."""

    block: Block  # that records it; of an erased one too
    entry: Entry  # of an erased one without salt and text
    entry_id: bytes
    author: Bundle  # the last of its session's that stands before the block
    is_erased: bool = False
    # Its block is an event's: this is what its author signed beside an entry of another block.
    is_fork: bool = False


@dataclass(frozen=True)
class Introduced:
    """Whose a session is, as a chain says it."""

    index: int  # of the block that holds the bundle
    bundle: Bundle


class Authors:
    """Takes records in the order of their blocks; knows whose each session is, and was.

    A session_id is one person's, by what it is made of, but he may sign several bundles for it: a
    record goes with the one that stands last before it.
    """

    def __init__(self, genesis: Genesis, chain_id: bytes) -> None:
        """`genesis` is verified: its identity is the chain's owner."""
        self._owner = fingerprint(genesis.identity_spki)
        self._chain = (chain_id, genesis.chain_key)
        # By session_id, in the order of their blocks.
        self._introduced: dict[bytes, list[Introduced]] = defaultdict(list)
        self._ours: set[bytes] = set()

    def introduced(self, session_id: bytes, index: int) -> Introduced | None:
        """Whose a session was when block `index` was written; None: nothing says it."""
        found = self._introduced.get(session_id, [])
        at = bisect_left(found, index, key=attrgetter("index"))
        return found[at - 1] if at else None

    def is_own(self, bundle: Bundle) -> bool:
        """Whether it is one of the owner's, on this very chain."""
        return (
            bundle.fingerprint == self._owner
            and (bundle.chain_id, bundle.chain_key.public) == self._chain
        )

    def is_ours(self, session_id: bytes) -> bool:
        """Whether it was the owner's own, on this very chain."""
        return session_id in self._ours

    def take(self, block: Block, record: bytes, erased: Block | None = None) -> Written | None:
        """What a block's record says, in clear, if that is an entry or the head of one.

        Args:
            block: of any type but GENESIS.
            record: its record.
            erased: of a forget block, the block that it refers to.

        Raises:
            Misattributed.
        """
        try:
            if block.type is BlockType.EVENT:
                return self._take_event(block, record)
            if block.type is BlockType.FORGET:
                return self._take_kept(record, erased) if record else None
            return self._take_entry(block, record)
        except (WireError, CryptoError) as exc:
            raise Misattributed(str(exc)) from exc

    def _take_event(self, block: Block, record: bytes) -> Written | None:
        if H(Label.EVENT, record) != block.entry_id:
            raise Misattributed("the record is not the one that the block names")
        event = Event.parse(record)
        if event.kind == EventKind.FORK:
            entry = Entry.of_head(event.body[:-SIGNATURE_BYTES])
            author = self._author(block, entry, event.body[-SIGNATURE_BYTES:])
            return Written(block, entry, entry.entry_id, author, is_erased=True, is_fork=True)
        if event.kind != EventKind.BUNDLE:
            return None
        bundle = Bundle.parse(event.body, None)
        self._introduced[bundle.session_id].append(Introduced(block.index, bundle))
        if self.is_own(bundle):
            self._ours.add(bundle.session_id)
        return None

    def _take_entry(self, block: Block, record: bytes) -> Written:
        signed = SignedEntry.parse(record)
        return self._written(block, signed.entry, signed.signature)

    def _take_kept(self, record: bytes, erased: Block | None) -> Written:
        """What stays of an entry whose text is erased: head[146] ‖ signature[64]."""
        entry, signature = Entry.of_head(record[:-SIGNATURE_BYTES]), record[-SIGNATURE_BYTES:]
        if erased is None or erased.type not in ENTRY_TYPES:
            raise Misattributed("what it says was erased is no message")
        return self._written(erased, entry, signature, is_erased=True)

    def _author(self, block: Block, entry: Entry, signature: bytes) -> Bundle:
        """Of what that block records."""
        introduced = self.introduced(entry.session_id, block.index)
        if introduced is None:
            raise Misattributed("nothing says whose session wrote it")
        introduced.bundle.session_key.verify(signature, Label.ENTRY_SIG, entry.head)
        return introduced.bundle

    def _written(
        self, block: Block, entry: Entry, signature: bytes, *, is_erased: bool = False
    ) -> Written:
        if entry.entry_id != block.entry_id:
            raise Misattributed("the message is not the one that the block names")
        author = self._author(block, entry, signature)
        if block.type is not BlockType.RECEIVED:
            if not self.is_own(author):
                raise Misattributed("it stands there as the owner's own, and is not")
            is_chat = block.type is BlockType.SENT
            if entry.kind != (EntryKind.CHAT if is_chat else EntryKind.AUDIENCE):
                raise Misattributed("a message of another kind than its block's")
        return Written(block, entry, entry.entry_id, author, is_erased)


# --------------------------------------------------------------------------- witnesses


@dataclass(frozen=True)
class Evidence:
    """What a witness signed, verified up to the witness's identity; what it says is compared with a
    chain elsewhere."""

    witness: Bundle
    payload: Ack | Witness

    @classmethod
    def verified(cls, bundle: bytes, payload: bytes) -> Evidence:
        """Raises WireError, CryptoError."""
        witness, said = Bundle.parse(bundle, None), parse_payload(payload)
        if not isinstance(said, Ack | Witness):
            raise Malformed("neither an ack nor a witness")
        if said.session_id != witness.session_id:
            raise Malformed("signed by another session than the one beside it")
        said.verify(witness.session_key)
        return cls(witness, said)

    @classmethod
    def parse(cls, value: bytes) -> Evidence:
        """As a side table keeps it: bundle (u16) ‖ payload.  Raises WireError, CryptoError."""
        r = Reader(value)
        return cls.verified(r.prefixed(), r.rest())

    @property
    def feeds(self) -> tuple[FeedReport, ...]:
        """What an ack says of its conversation's feeds; a Witness says nothing of them."""
        return () if isinstance(self.payload, Witness) else self.payload.feeds


# --------------------------------------------------------------------------- deep verification


def audit(chain: Blockchain, *, progress: Callable[[int], None] | None = None) -> Verdict:
    """What `Blockchain.verify` cannot see: that the authors signed their records, and what others
    signed about the chain, kept beside it.  Call it when that one said OK.

    Such a statement is kept only when what it says of this chain was so; if it is not so any more,
    blocks were cut off or written anew.

    Args:
        progress: called with the index that is next, each 1000 blocks.

    Returns:
        OK, BADAUTHOR@i, TRUNCATED or REWRITTEN@i.

    Raises:
        StoreUnreadable: a record cannot be decrypted.
    """
    last = chain.get_latest_block()
    evidence = list(kept_evidence(chain))
    reports = [
        (kept.witness.name, report)
        for ours, kept in evidence
        for report in kept.feeds
        if report.session_id == ours
    ]
    # Own entries that a witness has, by whom; the blocks are gone through to meet each of them.
    awaited = {report.entry_id: name for name, report in reports}
    bad = _first_misattributed(chain, awaited, progress)
    if bad is not None:
        before = chain.block(bad - 1)
        return Verdict(Finding.BADAUTHOR, bad, good_ms=before.timestamp_ms if before else 0)
    for name, report in reports:
        held = report.witnessed_index
        if report.is_witness and held > last.index:
            return _truncated(last, name, held)
        if report.is_witness and chain.hash_at(held) != report.witnessed_hash:
            return Verdict(Finding.REWRITTEN, held, name)
    for _, kept in evidence:
        if isinstance(kept.payload, Witness) and kept.payload.head.chain_id == last.chain_id:
            try:
                verdict = chain.compare(kept.payload.head, kept.witness.name)
            except BadSignature as exc:
                raise _damaged(exc) from exc
            if not verdict.ok:
                return verdict
    if awaited:  # they stood in blocks behind those that are there
        return _truncated(last, min(awaited.values()), last.index + 1)
    return Verdict(Finding.OK, last.index + 1, good_ms=last.timestamp_ms)


def _truncated(last: Block, who: str, held: int) -> Verdict:
    return Verdict(Finding.TRUNCATED, last.index + 1, who, held, last.timestamp_ms)


def kept_evidence(chain: Blockchain) -> Iterator[tuple[bytes, Evidence]]:
    """What witnesses signed and is kept beside a chain, each behind the beginning of its row's key:
    for an ack the session of ours that it reports on.  Raises StoreUnreadable."""
    for key, value in sorted(chain.side(ACKS_TABLE).items()):
        try:
            yield key[:SESSION_ID_BYTES], Evidence.parse(value)
        except (WireError, CryptoError) as exc:
            raise _damaged(exc) from exc


def _damaged(exc: Exception) -> StoreUnreadable:
    return StoreUnreadable(f"what is kept as evidence is damaged: {exc}")


def _first_misattributed(
    chain: Blockchain, awaited: dict[bytes, str], progress: Callable[[int], None] | None
) -> int | None:
    """The index of the first block whose author did not sign it; own entries that are met go from
    `awaited`.  Raises StoreUnreadable."""
    authors = Authors(chain.genesis(), chain.get_latest_block().chain_id)
    following = _PROGRESS_BLOCKS
    for block, record in chain.records(*ENTRY_TYPES, BlockType.EVENT, BlockType.FORGET):
        if progress is not None and block.index >= following:
            progress(block.index)
            following = block.index + _PROGRESS_BLOCKS
        erased = chain.block(block.refers_to) if block.type is BlockType.FORGET else None
        awaited.pop(erased.entry_id if erased else block.entry_id, None)
        try:
            authors.take(block, record, erased)
        except Misattributed:
            return block.index
    return None
