"""What can be wrong with a chain, in words, and how the first wrong block is found.

What lives here: verdicts, the check of a chain's rows, which bodies may be gone; CHAIN_FORMAT.md 5
has the order.  What it does not know: how rows are written (`blockchain`) or asked of SQLite
(`chat_rows`), what a record says, who signed for a later head (`Blockchain.compare`, `chat_audit`).

    run = Verification(rows, keystore.public)
    while (verdict := run.slice(2000)) is None:
        ...  # something else; the chain may grow
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from chat_blocks import (
    BODY_HASH_AT,
    CHAIN_ID_BYTES,
    DIFFICULTY_AT,
    ENTRY_ID_AT,
    INDEX_AT,
    TIME_AT,
    TYPE_AT,
    Block,
    BlockType,
    Genesis,
    is_mined,
    signed_part,
)
from chat_rows import SQLITE_ERRORS, Row, Rows, is_whole, parse_row
from chat_wire import Label, Malformed, WireError, u64
from crypto_utils import BadSignature, CryptoError, PublicKeys, VerifyKey

__all__ = ["Finding", "Forgotten", "Verdict", "Verification"]


class Finding(Enum):
    """What a verification can end with, each with what a person is told of the block it names."""

    OK = "{blocks}, each as it was written"
    MISSING = "block {index} is gone"
    UNREADABLE = "block {index} cannot be read, so nothing from it on can be checked"
    REORDERED = "another block stands in the place of block {index}"
    EDITED = "block {index} was changed after it was written"
    FORGED = "block {index} does not bear the signature of this profile's key"
    WEAKPOW = "block {index} lacks its proof of work"
    TRUNCATED = (
        "the last blocks were cut off: {blocks} left, and {who} holds block {held} with this "
        "profile's signature"
    )
    REWRITTEN = "this is another chain than the one that this profile wrote"
    BADAUTHOR = "its author did not sign what stands in block {index}"


@dataclass(frozen=True)
class Verdict:
    """The first thing wrong, or OK.  `str` is `OK` or `EDITED@17`."""

    finding: Finding
    index: int = 0  # of the block it names; of OK and TRUNCATED: how many blocks there are
    who: str = ""  # TRUNCATED, REWRITTEN: the witness who holds another head
    held: int = 0  # TRUNCATED: that head's index
    # For the sentence alone:
    good_ms: int = field(default=0, compare=False)  # when the block before `index` was written
    erased: int = field(default=0, compare=False)  # OK: bodies that are gone and may be

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return self.finding is Finding.OK

    @property
    def exit_code(self) -> int:
        """0 OK, 6 could not be checked, 4 tampered."""
        return {Finding.OK: 0, Finding.UNREADABLE: 6}.get(self.finding, 4)

    @property
    def sentence(self) -> str:
        """What, where, and what can still be relied on, for a person."""
        what = self.finding.value
        if self.finding is Finding.REWRITTEN and self.who:
            what = (
                "block {index} is not the one that {who} holds with this profile's signature: that "
                "block, or one before it and all since, was written anew"
            )
        blocks = "1 block" if self.index == 1 else f"{self.index} blocks"
        who = self.who or "somebody"
        what = what.format(index=self.index, blocks=blocks, who=who, held=self.held)
        if self.ok:
            gone = "1 text was" if self.erased == 1 else f"{self.erased} texts were"
            return f"{what}; {gone} erased by /forget" if self.erased else what
        return f"{what}; {self._trust}"

    @property
    def _trust(self) -> str:
        """What is left, and since when, as far as is known."""
        if self.index == 0:
            if self.finding is Finding.UNREADABLE:
                return "that alone is no sign of tampering"
            return "no block can be relied on"
        if self.finding is Finding.REWRITTEN:
            return "how far back, only more witnesses can tell"
        since = f", the last of them of {_time(self.good_ms)}" if self.good_ms else ""
        if self.index == 1:
            return f"block 0 is whole{since.replace('the last of them ', '')}"
        return f"blocks 0 to {self.index - 1} are whole{since}"

    def __str__(self) -> str:
        return self.finding.name if self.ok else f"{self.finding.name}@{self.index}"


# --------------------------------------------------------------------------- erased bodies


class Forgotten:
    """Which bodies the forget blocks of a chain say were erased: read when first asked, and again
    where the chain grew."""

    def __init__(self, rows: Rows, key: VerifyKey, chain_id: bytes) -> None:
        self._rows = rows
        self._key = key
        self._chain_id = chain_id  # the genesis'
        self._found: dict[int, int] = {}
        self._read_to = -1

    def __contains__(self, index: int) -> bool:
        """Raises what SQLite raises."""
        return index in self._found or index in self.read()

    def read(self) -> dict[int, int]:
        """Erased index → the forget block's: one that is signed, for its place, and later."""
        for row in self._rows.forgetting(self._read_to):
            if type(row[0]) is not int or not is_whole(row):
                continue
            self._read_to, block = row[0], parse_row(row)
            if (
                row[0] == block.index > block.refers_to
                and block.refers_to not in self._found
                and _is_signature(
                    self._key,
                    block.signature,
                    signed_part(self._chain_id, block.index, block.calculate_hash()),
                )
            ):
                self._found[block.refers_to] = block.index
        return self._found


# --------------------------------------------------------------------------- verification

_AFTER_GENESIS = frozenset(BlockType) - {BlockType.GENESIS}


class _Misfit(Exception):
    """The block whose turn it is does not fit."""


class Verification:
    """One way through a chain.

    It is quick where all is well: a block that fits costs two hashes and few comparisons, on the
    row as it is (`_take`).  Where one does not fit, `_exact` says what is wrong there.
    """

    def __init__(
        self, rows: Rows, keys: PublicKeys, *, signatures: bool = True, start: int = 0
    ) -> None:
        """Of the chain that these keys write; the rest as of `Blockchain.verification`."""
        self._rows = rows
        self._keys = keys
        self._key = VerifyKey(keys.chain_key)
        self._signatures = signatures
        self._before: Block | None = None  # the one before the block whose turn it is; it fits
        if start > 0:
            with suppress(Malformed, *SQLITE_ERRORS):
                self._before = rows.block(start - 1)
        self._first = start if self._before else 0  # to be looked at
        self._next = self._first  # whose turn it is
        self._chain_id = self._before.chain_id if self._before else b""  # the genesis'
        self._forgotten = Forgotten(rows, self._key, self._chain_id)
        self._erased = 0

    def slice(self, limit: int) -> Verdict | None:
        """Looks at `limit` blocks more.  None: there may be others behind."""
        until = self._next + limit
        try:
            last = self._take(limit)
        except (_Misfit, *SQLITE_ERRORS):
            return self._judge()
        if self._next >= until:
            return None
        if not self._is_signed(last):
            return self._judge()
        return Verdict(Finding.OK, self._next, good_ms=last.timestamp_ms, erased=self._erased)

    def _take(self, limit: int) -> Block:
        """Goes on while blocks fit.

        Returns:
            the last one that did.

        Raises:
            _Misfit, and what SQLite raises: it is `_next` that does not fit.
        """
        before = self._before or self._genesis()
        index, previous = self._next, before.calculate_hash()
        sha256, label, sent = hashlib.sha256, Label.BLOCK, BlockType.SENT
        # With the block before: where the schema was changed there may be two of one idx.
        rows = self._rows.following(index - 1, limit + 1)
        row: Row | None = rows.fetchone()
        if row is None or row[:2] != (index - 1, before.header):
            raise _Misfit
        try:
            for row in rows:
                idx, header, signature, body = row
                if not (
                    type(idx) is int
                    and idx == index
                    and is_whole(row)
                    and header[TYPE_AT] in _AFTER_GENESIS
                    and header[INDEX_AT:TIME_AT] == u64(index) + previous
                ):
                    raise _Misfit
                if sha256(body).digest() != header[BODY_HASH_AT:ENTRY_ID_AT]:
                    if not self._may_be_gone(Block.parse(header, body)):
                        raise _Misfit
                    self._erased += 1
                previous = sha256(label + header).digest()
                if header[TYPE_AT] == sent and not is_mined(header[DIFFICULTY_AT], previous):
                    raise _Misfit
                if self._signatures and not self._is_signature(signature, index, previous):
                    raise _Misfit
                index += 1
        finally:
            self._next = index
        self._before = parse_row(row)
        return self._before

    def _genesis(self) -> Block:
        """The first block, which fits.  Raises _Misfit, and what SQLite raises."""
        row = self._rows.first()
        genesis = _in_place(row, 0) if row else Finding.MISSING
        if isinstance(genesis, Finding):
            raise _Misfit
        self._begin(genesis)
        if self._check(genesis, None, self._signatures):
            raise _Misfit
        self._before, self._next = genesis, 1
        return genesis

    def _begin(self, genesis: Block) -> None:
        self._chain_id = genesis.chain_id
        self._forgotten = Forgotten(self._rows, self._key, genesis.chain_id)

    # ----------------------------------------------------------------- what is wrong

    def _judge(self) -> Verdict:
        """What is wrong with the block whose turn it is, or with the one before it."""
        first = max(self._first, self._next - 1)
        if not self._signatures and (unsigned := self._unsigned(first)) is not None:
            return self._verdict(Finding.FORGED, unsigned)
        verdict = self._exact(first)
        if verdict.ok:  # all rows are there, but by its idx SQLite did not find this one
            return self._verdict(Finding.UNREADABLE, self._next)
        return verdict

    def _unsigned(self, end: int) -> int | None:
        """A block below `end` that is not signed while the one before it is, and so, by the links,
        all before it are as they were written.  None: the last one below `end` is signed."""
        good, bad = self._first - 1, end - 1
        if bad == good or self._is_signed_at(bad):
            return None
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._is_signed_at(middle):
                good = middle
            else:
                bad = middle
        return bad

    def _is_signed_at(self, index: int) -> bool:
        block = None
        with suppress(Malformed, *SQLITE_ERRORS):  # as it was a moment ago: `_exact` will say
            block = self._rows.block(index)
        return block is None or self._is_signed(block)

    def _exact(self, first: int) -> Verdict:
        """Goes through from there, each block beside its successor; all before fit."""
        block: Block | None = None  # whose successor is looked at
        index = first - 1
        for index, following in enumerate(self._in_places(first), first):
            if block is not None:
                successor = following if isinstance(following, Block) else None
                if found := self._check(block, successor, True):
                    return self._verdict(found, block.index)
            if not isinstance(following, Block):
                return self._verdict(following, index)
            block = following
            if index == 0:
                self._begin(block)
        if block is None:
            return self._verdict(Finding.MISSING, first)
        if found := self._check(block, None, True):
            return self._verdict(found, block.index)
        return Verdict(Finding.OK, index + 1)

    def _in_places(self, first: int) -> Iterator[Block | Finding]:
        """What stands in each place from there on: a block, or at last why none does."""
        try:
            for index, row in enumerate(self._rows.all_following(first), first):
                yield _in_place(row, index)
        except SQLITE_ERRORS:
            yield Finding.UNREADABLE

    def _check(self, block: Block, successor: Block | None, signatures: bool) -> Finding | None:
        """What is wrong with a block that stands in its place.

        Args:
            successor: the block after it, if that stands in its place.
            signatures: False leaves them to the links and the head's.
        """
        if hashlib.sha256(block.body).digest() != block.body_hash:
            try:
                if not self._may_be_gone(block):
                    return Finding.EDITED
            except SQLITE_ERRORS:  # whether it may be is behind what cannot be read
                return Finding.UNREADABLE
        if block.index == 0 and self._is_another_chain(block):
            return Finding.REWRITTEN
        block_hash = block.calculate_hash()
        linked = successor is None or successor.previous_hash == block_hash
        if signatures and not self._is_signed(block):
            # Its successor tells which of the two was changed: the block, or its signature.
            return Finding.FORGED if linked else Finding.EDITED
        # If this one is as it was signed, then either the successor is not, and its turn is next,
        # or both are: then the successor followed another block than this.
        if not linked and successor is not None and self._is_signed(successor):
            return Finding.EDITED
        if block.index == 0:
            return _check_genesis(block)
        if block.type is BlockType.SENT and not is_mined(block.difficulty, block_hash):
            return Finding.WEAKPOW
        return None

    def _may_be_gone(self, block: Block) -> bool:
        """Whether its body was erased, and the chain says so.  Raises what SQLite raises."""
        return block.is_erased and block.index in self._forgotten

    def _is_signed(self, block: Block) -> bool:
        return self._is_signature(block.signature, block.index, block.calculate_hash())

    def _is_signature(self, signature: bytes, index: int, block_hash: bytes) -> bool:
        """Ours, for this place in this chain."""
        part = signed_part(self._chain_id, index, block_hash)
        return _is_signature(self._key, signature, part)

    def _is_another_chain(self, genesis_block: Block) -> bool:
        """Whether this is a whole genesis, but not that of the chain which this profile writes."""
        try:
            genesis = Genesis.parse(genesis_block.body)
            genesis.verify(genesis_block.chain_id)
        except (WireError, CryptoError):
            return False
        ours = self._keys
        keys = (genesis.identity_spki, genesis.chain_key)
        expected = (genesis_block.chain_id, bytes(CHAIN_ID_BYTES))
        return keys != (ours.identity_spki, ours.chain_key) or ours.chain_id not in expected

    def _verdict(self, finding: Finding, index: int) -> Verdict:
        before = None
        with suppress(Malformed, *SQLITE_ERRORS):
            before = self._rows.block(index - 1)
        return Verdict(finding, index, good_ms=before.timestamp_ms if before else 0)


# --------------------------------------------------------------------------- helpers


def _is_signature(key: VerifyKey, signature: bytes, part: bytes) -> bool:
    try:
        key.verify(signature, Label.BLOCK_SIG, part)
    except BadSignature:
        return False
    return True


def _in_place(row: Row, index: int) -> Block | Finding:
    """The block that stands in place `index`, or why none does."""
    if not isinstance(row[0], int):
        return Finding.UNREADABLE
    if row[0] != index:
        return Finding.MISSING if row[0] > index else Finding.REORDERED
    try:
        block = parse_row(row)
    except Malformed:
        return Finding.UNREADABLE
    if block.index != index or (block.type is BlockType.GENESIS) != (index == 0):
        return Finding.REORDERED
    return block


def _time(ms: int) -> str:
    """For a person; of any u64."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return "a time that is none"


def _check_genesis(block: Block) -> Finding | None:
    try:
        Genesis.parse(block.body).verify(block.chain_id)
    except WireError:
        return Finding.UNREADABLE
    except CryptoError:
        return Finding.FORGED
    return None
