"""A file that proves a history to a third party: made from a chain, checked with nothing else.

What lives here: the proof's bytes, made and checked.  What it does not know: profiles, files, the
network, how a report is told or looks (`chat_report`, `chat_export`).

    data = make_proof(chain, nick="alice")
    report = check_proof(data)              # on any machine; never raises
    report.exit_code                        # 0 proven, 4 something does not fit, 6 unreadable

Specified in docs/CHAIN_FORMAT.md, "Proof files".
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from blockchain import Block, Blockchain, BlockType, Genesis, Head, StoreUnreadable
from chat_audit import (
    ENTRY_TYPES,
    Authors,
    Evidence,
    Misattributed,
    Written,
    kept_evidence,
)
from chat_blocks import CHAIN_ID_AT, ERASABLE, HEADER_BYTES, INDEX_AT, is_mined, signed_part
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    FeedReport,
    SignedEntry,
    check_nick,
)
from chat_messages import Witness as WitnessPayload
from chat_report import Message, Report, Who, Witness
from chat_wire import Label, Malformed, Reader, UnknownVersion, WireError, prefixed, u8, u32, u64
from crypto_utils import SIGNATURE_BYTES, CryptoError, VerifyKey, fingerprint

__all__ = ["Message", "Report", "Who", "Witness", "check_proof", "make_proof"]

_MAGIC = b"CRP1"
_VERSION = 1
_ROW_BYTES = HEADER_BYTES + SIGNATURE_BYTES
# People whose acks one proof holds: as many as an audience can name, so that what is said of each
# message stays small whatever a file claims.
_MAX_WITNESSES = 2048
_NO_NICK = "?"  # of an owner who never said anything
_PROGRESS_BLOCKS = 1000


# --------------------------------------------------------------------------- making


def _everything(_block: Block, _signed: SignedEntry) -> bool:
    return True


def make_proof(
    chain: Blockchain,
    *,
    nick: str,
    only: Callable[[Block, SignedEntry], bool] = _everything,
) -> bytes:
    """A proof of this chain as it is; nothing is verified, `check_proof` does that.

    All headers and signatures are in it; of the records those that `only` picks, the bundles of
    their authors, what these signed in another story beside them (FORK events), and of the acks
    that are kept those which say something of what was picked, or the most of the chain.

    Args:
        chain: with its keys.
        nick: what the owner is called if he never said anything on this chain; may be "".
        only: asked for each entry, own and received, audience lists too; of an erased one salt and
            text are empty.

    Raises:
        StoreUnreadable: a block or an ack cannot be read, or a block's author did not sign it.
    """
    return _Maker(chain, nick, only).data()


class _Maker:
    """Goes through a chain once and gathers what is disclosed."""

    def __init__(
        self, chain: Blockchain, nick: str, only: Callable[[Block, SignedEntry], bool]
    ) -> None:
        self._chain = chain
        self._nick = nick
        self._only = only
        self._last = chain.get_latest_block()
        genesis = chain.genesis()
        self._owner = fingerprint(genesis.identity_spki)
        self._authors = Authors(genesis, self._last.chain_id)
        self._bundles: dict[int, bytes] = {}  # records that introduce sessions, by index
        self._own: dict[bytes, int] = {}  # by session_id: where an own one is introduced
        self._disclosed: dict[int, bytes] = {}  # records by index
        self._feeds: set[tuple[bytes, bytes]] = set()  # own, disclosed: session_id, tag
        self._places: set[tuple[bytes, bytes, int]] = set()  # disclosed: session_id, tag, seq
        # FORK events: index, record, and what the record holds.
        self._forks: list[tuple[int, bytes, Entry]] = []
        self._evidence: list[Evidence] = []

    def data(self) -> bytes:
        kinds = (*ENTRY_TYPES, BlockType.EVENT, BlockType.FORGET)
        for block, record in self._chain.records(*kinds):
            try:
                self._take(block, record)
            except (WireError, Misattributed) as exc:
                raise StoreUnreadable(f"block {block.index} proves nothing: {exc}") from exc
        self._choose_forks()
        self._choose_evidence()
        return self._signed()

    def _take(self, block: Block, record: bytes) -> None:
        if block.type is BlockType.EVENT:
            self._take_event(block, record)
        elif block.type is not BlockType.FORGET:
            self._offer(block, SignedEntry.parse(record), block.index, record)
        elif record and (erased := self._chain.block(block.refers_to)) is not None:
            entry = Entry.of_head(record[:-SIGNATURE_BYTES])
            self._offer(erased, SignedEntry(entry, record[-SIGNATURE_BYTES:]), block.index, record)

    def _take_event(self, block: Block, record: bytes) -> None:
        event = Event.parse(record)
        if event.kind not in (EventKind.BUNDLE, EventKind.FORK):
            return
        fork = self._authors.take(block, record)
        if fork is not None:
            self._forks.append((block.index, record, fork.entry))
            return
        bundle = Bundle.parse(event.body, None)
        self._bundles[block.index] = record
        if self._authors.is_own(bundle):
            self._own.setdefault(bundle.session_id, block.index)
            self._nick = bundle.nick

    def _offer(self, block: Block, signed: SignedEntry, index: int, record: bytes) -> None:
        """An entry's block, and the record that discloses it, which is that of block `index`."""
        session_id = signed.entry.session_id
        introduced = self._authors.introduced(session_id, block.index)
        if introduced is not None and self._only(block, signed):
            self._disclosed[index] = record
            self._disclose_bundle(introduced.index)
            self._places.add((session_id, signed.entry.tag, signed.entry.seq))
            if self._authors.is_own(introduced.bundle):
                self._feeds.add((session_id, signed.entry.tag))

    def _choose_forks(self) -> None:
        """Those that say something beside what is disclosed."""
        for index, record, entry in self._forks:
            introduced = self._authors.introduced(entry.session_id, index)
            beside = {(entry.session_id, entry.tag, entry.seq + step) for step in (-1, 0, 1)}
            if introduced is not None and not beside.isdisjoint(self._places):
                self._disclosed[index] = record
                self._disclose_bundle(introduced.index)

    def _disclose_bundle(self, index: int) -> None:
        self._disclosed[index] = self._bundles[index]

    def _choose_evidence(self) -> None:
        chosen: list[tuple[int, Evidence]] = []  # with the highest block that it says is held
        best: dict[bytes, tuple[int, Evidence]] = {}  # by fingerprint
        for _, evidence in kept_evidence(self._chain):
            if evidence.witness.fingerprint == self._owner:
                continue
            reports = [r for r in evidence.feeds if self._authors.is_ours(r.session_id)]
            if len(reports) > 1:  # the run that kept it looked at what is said of its own alone
                continue
            index = _witnessed(evidence, reports, self._last.chain_id)
            tag, who = evidence.payload.tag, evidence.witness.fingerprint
            if any((report.session_id, tag) in self._feeds for report in reports):
                chosen.append((index, evidence))
            # Whom one spoke to in private stays so.
            elif tag == evidence.witness.room_tag and index > best.get(who, (-1,))[0]:
                best[who] = (index, evidence)
        chosen += best.values()
        highest: dict[bytes, int] = {}  # of each witness
        for index, evidence in chosen:
            who = evidence.witness.fingerprint
            highest[who] = max(index, highest.get(who, -1))
        taken = set(sorted(highest, key=highest.__getitem__, reverse=True)[:_MAX_WITNESSES])
        self._evidence = [e for _, e in chosen if e.witness.fingerprint in taken]
        for evidence in self._evidence:
            for report in evidence.feeds:
                if report.session_id in self._own:
                    self._disclose_bundle(self._own[report.session_id])

    def _signed(self) -> bytes:
        genesis = self._block(0)
        rows: list[bytes] = []
        entry_ids: set[bytes] = set()
        for index in range(self._last.index + 1):
            block = self._block(index)
            rows += [block.header, block.signature]
            if block.type in ENTRY_TYPES:
                if block.entry_id in entry_ids:  # the first counts; its text may be erased
                    self._disclosed.pop(index, None)
                entry_ids.add(block.entry_id)
        parts = [_MAGIC, u8(_VERSION), prefixed(self._nick.encode()), prefixed(genesis.body)]
        parts += [u32(self._last.index + 1), *rows, u32(len(self._disclosed))]
        for index, record in sorted(self._disclosed.items()):
            parts += [u64(index), prefixed(record)]
        statements = {e.payload.serialize(): e.witness.raw for e in self._evidence}
        parts.append(u32(len(statements)))
        for payload, bundle in sorted(statements.items()):
            parts += [prefixed(bundle), prefixed(payload)]
        body = b"".join(parts)
        return body + self._chain.sign(Label.PROOF_SIG, body)

    def _block(self, index: int) -> Block:
        block = self._chain.block(index)
        if block is None:
            raise StoreUnreadable(f"block {index} is gone")
        return block


def _witnessed(evidence: Evidence, reports: Iterable[FeedReport], chain_id: bytes) -> int:
    """The highest block of that chain that it says is held; -1: none."""
    if isinstance(evidence.payload, WitnessPayload):
        head = evidence.payload.head
        return head.index if head.chain_id == chain_id else -1
    return max((r.witnessed_index for r in reports if r.is_witness), default=-1)


# --------------------------------------------------------------------------- checking


class _Failed(Exception):
    """Why it is no proof, in one sentence."""

    exit_code = 4


class _Unreadable(_Failed):
    """No proof file, or one that was cut."""

    exit_code = 6


def check_proof(
    data: bytes, *, signatures: bool = True, progress: Callable[[int], None] | None = None
) -> Report:
    """What a proof file proves.  Needs nothing else; raises nothing, whatever the bytes are.

    Args:
        signatures: False leaves the blocks' own signatures but the last one's out: the links let
            that one vouch for all, in half the time.
        progress: called with the index that is next, each 1000 blocks.

    Returns:
        a report whose `problem` is "" if all fits, else one sentence; then nothing else in it is
        proven, and it names the owner as far as the genesis proves it.
    """
    check = _Check(data)
    try:
        check.run(signatures, progress or (lambda _: None))
    except _Failed as exc:
        return check.failed(exc)
    return check.report()


@dataclass
class _Layout:
    """The file's fields; nothing in them is checked."""

    nick: bytes
    genesis: Genesis
    genesis_body: bytes
    rows: bytes  # headers and signatures, _ROW_BYTES each
    records: list[tuple[int, bytes]]
    evidence: list[tuple[bytes, bytes]]  # bundle, payload
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> _Layout:
        """Raises WireError."""
        r = Reader(data)
        if r.fixed(len(_MAGIC)) != _MAGIC:
            raise Malformed("it is no proof file")
        version = r.u8()
        if version != _VERSION:
            raise UnknownVersion(f"it is of version {version}, which this program does not know")
        nick, genesis_body = r.prefixed(), r.prefixed()
        genesis = Genesis.parse(genesis_body)
        rows = r.fixed(r.u32() * _ROW_BYTES)
        records = [(r.u64(), r.prefixed()) for _ in range(r.u32())]
        evidence = [(r.prefixed(), r.prefixed()) for _ in range(r.u32())]
        signed, signature = r.done(), r.fixed(SIGNATURE_BYTES)
        r.end()
        return cls(nick, genesis, genesis_body, rows, records, evidence, signed, signature)


class _Check:
    """One pass over one file, in the order of CHAIN_FORMAT.md."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._owner = Who(bytes(32), _NO_NICK)  # until it is proven
        self._blocks: list[Block] = []
        self._erased: set[int] = set()
        self._entries: dict[bytes, int] = {}  # entry_id → index of its first block
        self._written: dict[bytes, Written] = {}  # disclosed, by entry_id
        self._beside: list[Written] = []  # and what their authors signed in another story
        self._held: dict[bytes, _Held] = {}  # by fingerprint
        self._last_hash = b""

    def run(self, signatures: bool, progress: Callable[[int], None]) -> None:
        """Raises _Failed."""
        try:
            self._layout = _Layout.parse(self._data)
        except WireError as exc:
            raise _Unreadable(f"this file cannot be read: {exc}") from exc
        self._check_owner()
        self._check_blocks(signatures, progress)
        self._check_records()
        self._check_evidence()

    def failed(self, why: _Failed) -> Report:
        nothing = (bytes(16), 0, bytes(32), False, 0, 0, "", None, (), 0, 0, ())
        return Report(self._owner, *nothing, problem=str(why), exit_code=why.exit_code)

    # ----------------------------------------------------------------- whose it is

    def _check_owner(self) -> None:
        layout = self._layout
        if not layout.rows:
            raise _Failed("there is no block in it")
        chain_id = layout.rows[CHAIN_ID_AT:INDEX_AT]
        try:
            layout.genesis.verify(chain_id)
            self._key = VerifyKey(layout.genesis.chain_key)
        except CryptoError as exc:
            raise _Failed(f"its key is not certified by the identity that it names: {exc}") from exc
        try:
            self._key.verify(layout.signature, Label.PROOF_SIG, layout.signed)
        except CryptoError as exc:
            raise _Failed(
                "the file was changed after its owner signed it, or was put together by others"
            ) from exc
        try:
            nick = check_nick(layout.nick.decode()) if layout.nick else _NO_NICK
        except ValueError as exc:
            raise _Failed(f"its owner's name is none: {exc}") from exc
        self._owner = Who(fingerprint(layout.genesis.identity_spki), nick)
        self._authors = Authors(layout.genesis, chain_id)
        self._chain_id = chain_id

    # ----------------------------------------------------------------- the chain

    def _check_blocks(self, signatures: bool, progress: Callable[[int], None]) -> None:
        rows = self._layout.rows
        previous = bytes(32)
        for index, at in enumerate(range(0, len(rows), _ROW_BYTES)):
            if index and index % _PROGRESS_BLOCKS == 0:
                progress(index)
            row = rows[at : at + _ROW_BYTES]
            header, signature = row[:HEADER_BYTES], row[HEADER_BYTES:]
            previous = self._check_block(index, header, previous)
            if signatures or at + _ROW_BYTES == len(rows):
                signed = signed_part(self._chain_id, index, previous)
                try:
                    self._key.verify(signature, Label.BLOCK_SIG, signed)
                except CryptoError as exc:
                    raise _Failed(f"block {index} does not bear the owner's signature") from exc
        self._last_hash = previous

    def _check_block(self, index: int, header: bytes, previous: bytes) -> bytes:
        """The hash of the block at `index`, which fits behind one of hash `previous`."""
        try:
            block = Block.parse(header)
        except WireError as exc:
            raise _Failed(f"block {index} is none: {exc}") from exc
        if (block.chain_id, block.index) != (self._chain_id, index):
            raise _Failed(f"another block stands in the place of block {index}")
        if block.previous_hash != previous:
            raise _Failed(f"block {index} follows another block than the one before it")
        if (block.type is BlockType.GENESIS) != (index == 0):
            raise _Failed(f"block {index} cannot be of type {block.type.name.lower()}")
        if index == 0 and hashlib.sha256(self._layout.genesis_body).digest() != block.body_hash:
            raise _Failed("the genesis is not the one that block 0 names")
        block_hash = block.calculate_hash()
        if block.type is BlockType.SENT and not is_mined(block.difficulty, block_hash):
            raise _Failed(f"block {index} lacks its proof of work")
        if block.type in ENTRY_TYPES:
            before = self._entries.setdefault(block.entry_id, index)
            # Who is forgotten after a month can say the same once more, which is not the owner's
            # doing; what he wrote himself he wrote once.
            if before != index and block.type is not BlockType.RECEIVED:
                raise _Failed(f"block {index} repeats the message of block {before}")
        elif block.type is BlockType.FORGET and block.refers_to < index:
            self._erased.add(block.refers_to)
        self._blocks.append(block)
        return block_hash

    # ----------------------------------------------------------------- the records

    def _check_records(self) -> None:
        last = -1
        for index, record in self._layout.records:
            if not last < index < len(self._blocks):
                raise _Failed("the records are not in the order of their blocks")
            last, block = index, self._blocks[index]
            refers_back = block.type is BlockType.FORGET and block.refers_to < index
            erased = self._blocks[block.refers_to] if refers_back else None
            try:
                written = self._authors.take(block, record, erased)
            except Misattributed as exc:
                raise _Failed(f"the record of block {index} does not hold: {exc}") from exc
            if written is not None and written.is_fork:
                self._beside.append(written)
                continue
            if written is None or self._entries[written.entry_id] != written.block.index:
                continue  # no entry, or one that was received before
            # A text counts before what is left of it.
            self._written.setdefault(written.entry_id, written)

    # ----------------------------------------------------------------- who signed for it

    def _check_evidence(self) -> None:
        last = b""
        self._count_runs()
        for bundle, payload in self._layout.evidence:
            if payload <= last:
                raise _Failed("the witnesses' statements are not in order, or there twice")
            last = payload
            try:
                evidence = Evidence.verified(bundle, payload)
            except (WireError, CryptoError) as exc:
                raise _Failed(f"a witness's statement does not hold: {exc}") from exc
            self._take_evidence(evidence)

    def _take_evidence(self, evidence: Evidence) -> None:
        witness = evidence.witness
        who = Who(witness.fingerprint, witness.nick)
        if who.fingerprint == self._owner.fingerprint:
            raise _Failed("the owner is no witness of his own chain")
        held = self._held.setdefault(who.fingerprint, _Held(who))
        if len(self._held) > _MAX_WITNESSES:
            raise _Unreadable(f"it has more than {_MAX_WITNESSES} witnesses")
        if isinstance(evidence.payload, WitnessPayload):
            self._take_head(evidence.payload.head, held, who)
            return
        reports = [r for r in evidence.feeds if self._authors.is_ours(r.session_id)]
        if not reports:
            raise _Failed(f"what {who.name} signed says nothing of this chain")
        for report in reports:
            if report.is_witness:
                self._take_index(report.witnessed_index, report.witnessed_hash, held, who)
            self._take_report(report, evidence.payload, held, who)

    def _take_head(self, head: Head, held: _Held, who: Who) -> None:
        if head.chain_id != self._chain_id:
            raise _Failed(f"what {who.name} signed is about another chain")
        try:
            head.verify(self._key)
        except CryptoError as exc:
            raise _Failed(f"{who.name} holds a head that the owner never signed") from exc
        self._take_index(head.index, head.hash, held, who)

    def _take_index(self, index: int, its_hash: bytes, held: _Held, who: Who) -> None:
        if index >= len(self._blocks):
            raise _Failed(
                f"{who.name} holds block {index} of this chain, which ends before that: "
                f"blocks were cut off"
            )
        if its_hash != self._hash_at(index):
            raise _Failed(
                f"{who.name} holds another block {index}: that one, or one before it and all "
                f"since, was written anew"
            )
        if index > held.index:
            held.index, held.who = index, who

    def _hash_at(self, index: int) -> bytes:
        return self._blocks[index].calculate_hash()

    def _take_report(self, report: FeedReport, ack: Ack, held: _Held, who: Who) -> None:
        """What an ack says of one of the owner's feeds."""
        index = self._entries.get(report.entry_id)
        if index is None or self._blocks[index].type is BlockType.RECEIVED:
            raise _Failed(
                f"{who.name} has a message of the owner's that is not in this chain: blocks were "
                f"cut off or written anew"
            )
        written = self._written.get(report.entry_id)
        if written is None:
            return
        feed, seq = _place(written)
        if (*feed[1:], seq) != (report.session_id, ack.tag, report.seq):
            raise _Failed(f"what {who.name} signed for is not the message of block {index}")
        held.entries[feed] = max(held.entries.get(feed, 0), self._runs[report.entry_id])

    def _count_runs(self) -> None:
        """How many messages each entry of the owner's leads to through links of disclosed ones:
        who signs for an entry has signed for those too, whether he has them or not."""
        self._runs: dict[bytes, int] = {}  # by entry_id
        for written in self._in_order():
            entry = written.entry
            if not self._authors.is_own(written.author):
                continue
            feed, seq = _place(written)
            count = 0
            before = self._written.get(entry.previous)
            if before is not None and _place(before) == (feed, seq - 1):
                count = self._runs.get(before.entry_id, 0)  # none, if it stands behind
            self._runs[written.entry_id] = count + (entry.kind == EntryKind.CHAT)

    def _in_order(self) -> list[Written]:
        """What is disclosed, in the chain's order."""
        return sorted(self._written.values(), key=lambda written: written.block.index)

    # ----------------------------------------------------------------- what it proves

    def report(self) -> Report:
        """Of a file in which all fits."""
        held = sorted(self._held.values(), key=lambda h: (-h.index, h.who.nick, h.who.fingerprint))
        disclosed = self._in_order()
        texts = {written.block.index for written in disclosed if not written.is_erased}
        erased = self._erased.intersection(self._entries.values()) - texts
        erased = {i for i in erased if self._blocks[i].type in ERASABLE}
        shown = erased | texts
        genesis = self._layout.genesis
        return Report(
            owner=self._owner,
            chain_id=self._chain_id,
            blocks=len(self._blocks),
            head_hash=self._last_hash,
            head_signed=True,
            started_ms=self._blocks[0].timestamp_ms,
            ended_ms=self._blocks[-1].timestamp_ms,
            finding=genesis.finding,
            predecessor=genesis.predecessor if any(genesis.predecessor[0]) else None,
            messages=tuple(self._messages(disclosed, held)),
            undisclosed=sum(index not in shown for index in self._entries.values()),
            erased=len(erased),
            witnesses=tuple(Witness(h.who, h.index, sum(h.entries.values())) for h in held),
            late=self._late(),
            unseen=self._unseen(),
            forks=self._forks(),
        )

    def _messages(self, disclosed: list[Written], held: list[_Held]) -> Iterator[Message]:
        """`held` is sorted, the highest index first."""
        names = tuple(h.who for h in held)
        count, witnesses = len(held), names
        for written in disclosed:
            entry, author, index = written.entry, written.author, written.block.index
            if entry.kind != EntryKind.CHAT:
                continue
            if count and held[count - 1].index < index:
                while count and held[count - 1].index < index:
                    count -= 1
                witnesses = names[:count]
            yield Message(
                index,
                Who(author.fingerprint, author.nick),
                author.fingerprint == self._owner.fingerprint,
                entry.tag != author.room_tag,
                None if written.is_erased else entry.text.decode(),
                entry.sent_ms,
                written.block.timestamp_ms,
                entry.seq,
                entry.session_id,
                entry.tag,
                witnesses,
            )

    def _late(self) -> int:
        """Entries that stand behind one whose author names them as earlier."""
        late = set[int]()
        for written in self._written.values():
            for earlier in (written.entry.previous, written.entry.seen):
                index = self._entries.get(earlier, -1)
                if index > written.block.index:
                    late.add(index)
        return len(late)

    def _unseen(self) -> int:
        seqs: dict[_Feed, set[int]] = defaultdict(set)
        for written in self._written.values():
            feed, seq = _place(written)
            seqs[feed].add(seq)
        return sum(max(found) - min(found) + 1 - len(found) for found in seqs.values())

    def _forks(self) -> tuple[Who, ...]:
        """Who signed two stories: that two entries stand in one place, be it that one of them is
        only named as the one before the next."""
        stories = [*self._written.values(), *self._beside]
        places: dict[tuple[_Feed, int], set[bytes]] = defaultdict(set)  # entry_ids
        for written in stories:
            feed, seq = _place(written)
            places[feed, seq].add(written.entry_id)
            places[feed, seq - 1].add(written.entry.previous)
        forked = {
            Who(written.author.fingerprint, written.author.nick)
            for written in stories
            for feed, seq in (_place(written),)
            if len(places[feed, seq]) > 1 or len(places[feed, seq - 1]) > 1
        }
        return tuple(sorted(forked, key=lambda who: (who.nick, who.fingerprint)))


_Feed = tuple[bytes, bytes, bytes]  # its author's fingerprint, session_id, tag


@dataclass
class _Held:
    """What a witness signed for, so far."""

    who: Who
    index: int = -1  # the highest block
    entries: dict[_Feed, int] = field(default_factory=dict)


def _place(written: Written) -> tuple[_Feed, int]:
    """An entry's feed, which is its author's as well: another's may have the same session_id; and
    its seq there."""
    entry = written.entry
    return (written.author.fingerprint, entry.session_id, entry.tag), entry.seq
