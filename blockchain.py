"""One person's chain of blocks, on SQLite: append, read, verify.

What lives here: the block's layout, mining, the store and its verdicts.  What it does not know:
what a record says (`chat_messages`), who is in a room, threads, the profile's other files.

    chain = Blockchain.open(path, keystore)
    block = chain.add_block(Draft(BlockType.SENT, record, entry_id), now_ms)  # on disk
    verdict = chain.verify()  # OK, EDITED@17, …

Specified in docs/CHAIN_FORMAT.md.  Errors::

    StoreError
    ├── StoreFailed        a write failed: what is on disk is unknown until the store is reopened
    ├── StoreLocked        another process has it open
    └── StoreUnreadable    SQLite, or a block's decryption, cannot make sense of it
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from functools import cached_property
from pathlib import Path

from chat_wire import H, Label, Malformed, Reader, WireError, prefixed, u64
from crypto_utils import (
    SIGNATURE_BYTES,
    BadSignature,
    CryptoError,
    IdentityPublic,
    Keystore,
    VerifyKey,
    mac,
    open_sealed,
    random_bytes,
    seal,
)

__all__ = [
    "DEFAULT_DIFFICULTY",
    "HEADER_BYTES",
    "Block",
    "BlockType",
    "Blockchain",
    "Draft",
    "Finding",
    "Genesis",
    "Head",
    "SideRow",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "StoreUnreadable",
    "Verdict",
]

# Zero bits that the hash of every sent block begins with: the seed's "00" in hex, and never less.
DEFAULT_DIFFICULTY = 8
_MAGIC = b"CRB1"
_CHAIN_ID_BYTES = 16
_FORMAT_VERSION = 1  # SQLite's user_version


class StoreError(Exception):
    """Base of what the store raises; the text is one line for a person."""


class StoreFailed(StoreError):
    """A write failed: what the disk holds is unknown until the store is reopened."""


class StoreLocked(StoreError):
    """Another process has the store open."""


class StoreUnreadable(StoreError):
    """SQLite, or a block's decryption, cannot make sense of what is there."""


# --------------------------------------------------------------------------- blocks


class BlockType(IntEnum):
    """What a block's record is (CHAIN_FORMAT.md 3)."""

    GENESIS = 1  # a Genesis, in clear
    SENT = 2  # a signed chat entry of one's own; mined
    CONTROL = 3  # a signed audience entry of one's own
    RECEIVED = 4  # a signed entry of somebody else
    EVENT = 5  # an Event
    FORGET = 6  # refers_to = the index whose body was erased (not written yet)


@dataclass(frozen=True)
class Draft:
    """What somebody wants appended."""

    type: BlockType
    record: bytes  # in clear
    entry_id: bytes  # 32 bytes: the entry's, or the event's
    refers_to: int = 0


@dataclass(frozen=True)
class SideRow:
    """A value that is kept beside the chain under a key, sealed; it replaces the one before, and an
    empty value removes it."""

    table: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Head:
    """The last block; the signature is CSK's over "block sig" ‖ chain_id ‖ index ‖ hash."""

    chain_id: bytes  # 16 bytes
    index: int
    hash: bytes  # 32 bytes
    signature: bytes  # 64 bytes


_HEADER = struct.Struct(">4sBB16sQ32sQ32s32sQQ")
HEADER_BYTES = _HEADER.size  # 150
_AAD_BYTES = 70  # the header's fields before body_hash
_NONCE_AT = 134
_MAX_NONCE = 2**64 - 1


@dataclass(frozen=True)
class Block:
    """A header, its CSK signature and its body.

    header (150 bytes): magic "CRB1" ‖ type u8 ‖ difficulty u8 ‖ chain_id[16] ‖ index u64 ‖
    previous_hash[32] ‖ timestamp_ms u64 ‖ body_hash[32] ‖ entry_id[32] ‖ nonce u64 ‖ refers_to u64.
    """

    type: BlockType
    difficulty: int
    chain_id: bytes
    index: int
    previous_hash: bytes
    timestamp_ms: int
    body_hash: bytes
    entry_id: bytes
    nonce: int
    refers_to: int
    body: bytes = field(repr=False, default=b"")
    signature: bytes = field(repr=False, default=b"")

    @cached_property
    def header(self) -> bytes:
        """150 bytes."""
        return _HEADER.pack(
            _MAGIC,
            self.type,
            self.difficulty,
            self.chain_id,
            self.index,
            self.previous_hash,
            self.timestamp_ms,
            self.body_hash,
            self.entry_id,
            self.nonce,
            self.refers_to,
        )

    @classmethod
    def parse(cls, header: bytes, body: bytes = b"", signature: bytes = b"") -> Block:
        """A block from its stored parts; nothing is verified.  Raises Malformed."""
        if len(header) != HEADER_BYTES:
            raise Malformed(f"a header of {len(header)} bytes, expected {HEADER_BYTES}")
        magic, kind, *rest = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise Malformed("not a block")
        try:
            known = BlockType(kind)
        except ValueError as exc:
            raise Malformed(f"unknown type {kind}") from exc
        return cls(*(known, *rest, body, signature))

    def calculate_hash(self) -> bytes:
        """H("block", header), 32 bytes."""
        return H(Label.BLOCK, self.header)

    def mine_block(self, difficulty: int) -> Block:
        """This block with a nonce for which the hash begins with `difficulty` zero bits.

        The nonce and refers_to are the header's last 16 bytes, so all before is hashed once.
        """
        start = replace(self, difficulty=difficulty, nonce=0).header
        common = hashlib.sha256(Label.BLOCK + start[:_NONCE_AT])
        tail, limit = start[_NONCE_AT + 8 :], 1 << (256 - difficulty)
        # Whole zero bytes are compared first: that alone settles 255 attempts in 256.
        zeros = bytes(difficulty // 8)
        for nonce in range(_MAX_NONCE):
            attempt = common.copy()
            attempt.update(nonce.to_bytes(8, "big") + tail)
            digest = attempt.digest()
            if digest.startswith(zeros) and int.from_bytes(digest, "big") < limit:
                return replace(self, difficulty=difficulty, nonce=nonce)
        raise AssertionError("2^64 hashes did not suffice")


@dataclass(frozen=True)
class Genesis:
    """The first block's body: whose chain this is, and what it follows.

    identity SPKI (u16) ‖ CSK[32] ‖ certificate[384] ‖ predecessor's chain_id[16] ‖ its index u64 ‖
    its hash[32] (zeros: none) ‖ finding (u16, UTF-8).
    certificate = IK's signature over "chain cert" ‖ chain_id ‖ CSK.
    """

    identity_spki: bytes
    chain_key: bytes
    certificate: bytes
    predecessor: tuple[bytes, int, bytes]  # chain_id, index, hash
    finding: str  # what was found wrong with the predecessor

    def serialize(self) -> bytes:
        """The body."""
        chain_id, index, block_hash = self.predecessor
        body = prefixed(self.identity_spki) + self.chain_key + self.certificate
        return body + chain_id + u64(index) + block_hash + prefixed(self.finding.encode())

    @classmethod
    def parse(cls, data: bytes) -> Genesis:
        """Raises WireError."""
        r = Reader(data)
        spki, key, certificate = r.prefixed(), r.fixed(32), r.fixed(384)
        predecessor = (r.fixed(_CHAIN_ID_BYTES), r.u64(), r.fixed(32))
        finding = r.prefixed()
        r.end()
        try:
            return cls(spki, key, certificate, predecessor, finding.decode())
        except UnicodeDecodeError as exc:
            raise Malformed("the finding is not UTF-8") from exc

    def verify(self, chain_id: bytes) -> None:
        """Raises CryptoError unless the identity certified this key for this chain."""
        identity = IdentityPublic(self.identity_spki)
        identity.verify(self.certificate, Label.CHAIN_CERT, chain_id + self.chain_key)


# --------------------------------------------------------------------------- verdicts


class Finding(Enum):
    """What a verification can end with, each with the sentence a person needs."""

    OK = "every block is as it was written"
    MISSING = "this block is gone; those before it are whole"
    UNREADABLE = "this block cannot be read, so nothing from it on can be checked"
    REORDERED = "another block stands in this one's place; those before it are whole"
    EDITED = "this block was changed after it was written; those before it are whole"
    FORGED = "this profile's key did not sign this block here; those before it are whole"
    WEAKPOW = "this block lacks its proof of work; those before it are whole"
    REWRITTEN = "this is another chain than the one that this profile wrote"


@dataclass(frozen=True)
class Verdict:
    """The first thing wrong, or OK.  `str` is `OK` or `EDITED@17`."""

    finding: Finding
    index: int = 0  # of the block it names; of OK: how many blocks there are

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
        """For a person."""
        return f"{self.index} blocks, {self.finding.value}" if self.ok else self.finding.value

    def __str__(self) -> str:
        return self.finding.name if self.ok else f"{self.finding.name}@{self.index}"


# idx, header, signature, body as SQLite has them: where a schema was changed, of any type.
_Row = tuple[object, object, object, object]
# A message of SQLite's may quote damaged bytes, which Python then cannot decode.
_SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)

# --------------------------------------------------------------------------- the store

_SCHEMA = f"""
PRAGMA user_version={_FORMAT_VERSION};
CREATE TABLE blocks (
    idx INTEGER PRIMARY KEY,
    header BLOB NOT NULL,
    signature BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE side (
    name TEXT NOT NULL,
    row BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (name, row)
);
"""


class Blockchain:
    """A chain in its file.  Owned by one thread at a time, one process at a time."""

    def __init__(self, connection: sqlite3.Connection, keystore: Keystore) -> None:
        """Use `create` or `open`."""
        self._db = connection
        self._keystore = keystore
        self._verify_key = VerifyKey(keystore.chain_signing_key.public)
        self._failed = False
        self._last: Block | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        keystore: Keystore,
        now_ms: int,
        *,
        predecessor: Head | None = None,
        finding: str = "",
    ) -> Blockchain:
        """A new chain with a random chain_id and its genesis, committed.

        Args:
            path: where no file is.
            predecessor: the head of the chain that this one follows, and `finding`: why.

        Raises:
            StoreFailed: it cannot be written.
        """
        chain_id = random_bytes(_CHAIN_ID_BYTES)
        csk = keystore.chain_signing_key.public
        genesis = Genesis(
            keystore.identity.spki,
            csk,
            keystore.identity.sign(Label.CHAIN_CERT, chain_id + csk),
            (predecessor.chain_id, predecessor.index, predecessor.hash)
            if predecessor
            else (bytes(_CHAIN_ID_BYTES), 0, bytes(32)),
            finding,
        )
        body = genesis.serialize()
        try:
            # SQLite gives the files beside it the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            connection = _connect(path, is_new=True)
        except (*_SQLITE_ERRORS, OSError) as exc:
            raise StoreFailed(f"{path} cannot be written: {exc}") from exc
        chain = cls(connection, keystore)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            chain._insert(
                Block(
                    BlockType.GENESIS,
                    0,
                    chain_id,
                    0,
                    bytes(32),
                    now_ms,
                    hashlib.sha256(body).digest(),
                    bytes(32),
                    0,
                    0,
                    body,
                )
            )
            connection.execute("COMMIT")
        except BaseException as exc:
            connection.close()
            if isinstance(exc, _SQLITE_ERRORS):
                raise StoreFailed(f"{path} cannot be written: {exc}") from exc
            raise
        return chain

    @classmethod
    def open(cls, path: Path, keystore: Keystore) -> Blockchain:
        """A chain as it is: nothing but its last block is looked at.

        Raises:
            StoreLocked: another process has it open.
            StoreUnreadable: SQLite cannot read it, or it is no chain.
        """
        try:
            connection = _connect(path)
        except (*_SQLITE_ERRORS, OSError) as exc:
            raise _unreadable(path, exc) from exc
        chain = cls(connection, keystore)
        try:
            last = chain._rows("ORDER BY idx DESC LIMIT 1").fetchone()
        except _SQLITE_ERRORS as exc:
            connection.close()
            raise _unreadable(path, exc) from exc
        with suppress(Malformed):  # then `verify` says what is wrong with it
            chain._last = _parsed(last) if last else None
        return chain

    def close(self) -> None:
        """Folds the write-ahead log into the file and lets go of it."""
        self._db.close()

    # ----------------------------------------------------------------- append

    def add_block(self, draft: Draft, now_ms: int) -> Block:
        """`append` of one."""
        return self.append([draft], now_ms)[0]

    def append(
        self, drafts: Sequence[Draft], now_ms: int, side: Sequence[SideRow] = ()
    ) -> list[Block]:
        """Appends blocks and keeps side rows in one transaction; all is on disk when it returns,
        or nothing.

        Sent ones are mined.

        Raises:
            StoreFailed: nothing more is taken until the store is reopened.
        """
        if self._failed:
            raise StoreFailed("an earlier write failed")
        blocks: list[Block] = []
        before = self._last
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for draft in drafts:
                blocks.append(self._insert(self._sealed(draft, now_ms)))
            for row in side:
                self._put(row)
            self._db.execute("COMMIT")
        except BaseException as exc:
            self._failed, self._last = True, before
            with suppress(*_SQLITE_ERRORS):  # so that what is read from now on is on disk
                self._db.execute("ROLLBACK")
            if isinstance(exc, (*_SQLITE_ERRORS, OSError)):
                raise StoreFailed(str(exc)) from exc
            raise
        return blocks

    def _sealed(self, draft: Draft, now_ms: int) -> Block:
        latest = self.get_latest_block()
        bare = Block(
            draft.type,
            DEFAULT_DIFFICULTY if draft.type is BlockType.SENT else 0,
            latest.chain_id,
            latest.index + 1,
            latest.calculate_hash(),
            now_ms,
            bytes(32),
            draft.entry_id,
            0,
            draft.refers_to,
        )
        body = seal(self._body_key(bare), draft.record, _associated(bare))
        block = replace(bare, body=body, body_hash=hashlib.sha256(body).digest())
        return block.mine_block(DEFAULT_DIFFICULTY) if draft.type is BlockType.SENT else block

    def _insert(self, block: Block) -> Block:
        """Signs and inserts; the caller's transaction is open."""
        signed_part = _signed(block, block.chain_id)
        signature = self._keystore.chain_signing_key.sign(Label.BLOCK_SIG, signed_part)
        signed = replace(block, signature=signature)
        self._db.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (signed.index, signed.header, signature, signed.body),
        )
        self._last = signed
        return signed

    # ----------------------------------------------------------------- read

    def get_latest_block(self) -> Block:
        """Raises StoreUnreadable where there is none that can be parsed."""
        if self._last is None:
            raise StoreUnreadable("the chain has no last block that can be read")
        return self._last

    def head(self) -> Head:
        """The last block, vouched for."""
        last = self.get_latest_block()
        return Head(last.chain_id, last.index, last.calculate_hash(), last.signature)

    def genesis(self) -> Genesis:
        """Raises StoreUnreadable."""
        try:
            return Genesis.parse(_parsed(self._rows("WHERE idx = 0").fetchone()).body)
        except (TypeError, WireError, *_SQLITE_ERRORS) as exc:
            raise StoreUnreadable("the genesis cannot be read") from exc

    def records(self, *types: BlockType) -> Iterator[tuple[Block, bytes]]:
        """The blocks of these types in order, each with its record in clear.

        Raises:
            StoreUnreadable: a block that cannot be parsed or decrypted.
        """
        marks = ",".join("?" * len(types))
        wanted = f"WHERE substr(header, 5, 1) IN ({marks}) ORDER BY idx"
        index: object = 0
        try:
            for row in self._rows(wanted, *(bytes((kind,)) for kind in types)):
                index = row[0]
                block = _parsed(row)
                yield block, open_sealed(self._body_key(block), block.body, _associated(block))
        except (Malformed, CryptoError, *_SQLITE_ERRORS) as exc:
            raise StoreUnreadable(f"block {index} cannot be read: {exc}") from exc

    def coins(self, before: int = 2**62) -> set[bytes]:
        """The entry_ids of sent blocks below an index: one coin each, in a chain that verifies."""
        try:
            rows = self._db.execute(
                "SELECT DISTINCT substr(header, 103, 32) FROM blocks "
                "WHERE substr(header, 5, 1) = ? AND idx < ?",
                (bytes((BlockType.SENT,)), before),
            )
            return {entry_id for (entry_id,) in rows}
        except _SQLITE_ERRORS as exc:
            raise StoreUnreadable(f"the chain cannot be read: {exc}") from exc

    def _rows(self, rest: str, *values: bytes) -> sqlite3.Cursor:
        # `rest` is ours, never from outside.
        return self._db.execute(f"SELECT idx, header, signature, body FROM blocks {rest}", values)  # noqa: S608

    def _body_key(self, block: Block) -> bytes:
        label = Label.BODY_KEY
        return mac(self._keystore.chain_data_key, label, block.chain_id + u64(block.index))

    # ----------------------------------------------------------------- verify

    def is_chain_valid(self) -> bool:
        """Whether `verify` says OK."""
        return self.verify().ok

    def verify(
        self, *, signatures: bool = True, progress: Callable[[int], None] | None = None
    ) -> Verdict:
        """Goes through the whole chain once; memory stays flat.

        That the last blocks were cut off, or all replaced by an older copy, cannot be seen here:
        only somebody who remembers a later head can tell.

        Args:
            signatures: False checks the last block's alone.  The links make it vouch for every
                header and body before it, so an edit is found all the same, but not one that
                touches an old signature and nothing else.
            progress: called with the index, each 1000 blocks.

        Returns:
            the first thing wrong: its index, and what.  CHAIN_FORMAT.md 5 has the order.
        """
        verdict = self._verify(signatures, progress)
        if not signatures and not verdict.ok:
            # Which of two neighbours was edited is for their signatures to say.
            verdict = self._verify(True, progress)
        return verdict

    def _verify(self, signatures: bool, progress: Callable[[int], None] | None) -> Verdict:
        block: Block | None = None  # whose successor is looked at
        chain_id = b""
        index = -1
        for index, following in enumerate(self._in_places()):
            if block is None:
                chain_id = following.chain_id if isinstance(following, Block) else b""
            else:
                successor = following if isinstance(following, Block) else None
                if found := self._check(block, successor, chain_id, signatures):
                    return Verdict(found, block.index)
            if not isinstance(following, Block):
                return Verdict(following, index)
            block = following
            if progress is not None and index % 1000 == 0:
                progress(index)
        if block is None:
            return Verdict(Finding.MISSING, 0)
        if found := self._check(block, None, chain_id, True):
            return Verdict(found, block.index)
        return Verdict(Finding.OK, index + 1)

    def _in_places(self) -> Iterator[Block | Finding]:
        """What stands in each place from 0 on: a block, or at last why none does."""
        try:
            for index, row in enumerate(self._rows("ORDER BY idx")):
                yield _in_place(row, index)
        except _SQLITE_ERRORS:
            yield Finding.UNREADABLE

    def _check(
        self, block: Block, successor: Block | None, chain_id: bytes, signatures: bool
    ) -> Finding | None:
        """What is wrong with a block that stands in its place.

        Args:
            successor: the block after it, if that stands in its place.
            chain_id: the genesis'.
            signatures: False leaves them to the head's; the last block's is always looked at.
        """
        if hashlib.sha256(block.body).digest() != block.body_hash:
            return Finding.EDITED
        if block.index == 0 and self._is_another_chain(block):
            return Finding.REWRITTEN
        block_hash = block.calculate_hash()
        linked = successor is None or successor.previous_hash == block_hash
        if signatures and not self._is_signed(block, chain_id):
            # Its successor tells which of the two was changed: the block, or its signature.
            return Finding.FORGED if linked else Finding.EDITED
        # If this one is as it was signed, then either the successor is not, and its turn is next,
        # or both are: then the successor followed another block than this.
        if (
            not linked
            and successor is not None
            and (not signatures or self._is_signed(successor, chain_id))
        ):
            return Finding.EDITED
        if block.index == 0:
            return _check_genesis(block)
        if block.type is BlockType.SENT and (
            block.difficulty < DEFAULT_DIFFICULTY
            or int.from_bytes(block_hash, "big") >> (256 - block.difficulty)
        ):
            return Finding.WEAKPOW
        return None

    def _is_signed(self, block: Block, chain_id: bytes) -> bool:
        """By our key, for this place in this chain."""
        try:
            self._verify_key.verify(block.signature, Label.BLOCK_SIG, _signed(block, chain_id))
        except BadSignature:
            return False
        return True

    def _is_another_chain(self, genesis_block: Block) -> bool:
        """Whether this is a whole genesis, but not that of the chain which this profile writes."""
        try:
            genesis = Genesis.parse(genesis_block.body)
            genesis.verify(genesis_block.chain_id)
        except (WireError, CryptoError):
            return False
        keys = (genesis.identity_spki, genesis.chain_key)
        ours = (self._keystore.identity.spki, self._keystore.chain_signing_key.public)
        expected = (genesis_block.chain_id, bytes(_CHAIN_ID_BYTES))
        return keys != ours or self._keystore.chain_id not in expected

    # ----------------------------------------------------------------- side tables

    def _put(self, side: SideRow) -> None:
        """Inserts, replaces or removes a row; the caller's transaction is open."""
        key = self._side_key(side.table)
        row = mac(key, Label.SIDE_ROW, side.key)
        if not side.value:
            self._db.execute("DELETE FROM side WHERE name = ? AND row = ?", (side.table, row))
            return
        sealed = seal(key, prefixed(side.key) + side.value, side.table.encode() + row)
        self._db.execute("INSERT OR REPLACE INTO side VALUES (?, ?, ?)", (side.table, row, sealed))

    def side(self, name: str) -> dict[bytes, bytes]:
        """All values of one side table.  Raises StoreUnreadable."""
        values: dict[bytes, bytes] = {}
        key = self._side_key(name)
        try:
            rows = self._db.execute("SELECT row, sealed FROM side WHERE name = ?", (name,))
            for row, sealed in rows:
                r = Reader(open_sealed(key, sealed, name.encode() + row))
                found = r.prefixed()
                values[found] = r.rest()
        except (*_SQLITE_ERRORS, CryptoError, WireError, TypeError) as exc:
            raise StoreUnreadable(f"the side table {name} cannot be read: {exc}") from exc
        return values

    def _side_key(self, name: str) -> bytes:
        return mac(self._keystore.chain_data_key, Label.SIDE_TABLE, name.encode())


# --------------------------------------------------------------------------- helpers


def _in_place(row: _Row, index: int) -> Block | Finding:
    """The block that stands in place `index`, or why none does."""
    if not isinstance(row[0], int):
        return Finding.UNREADABLE
    if row[0] != index:
        return Finding.MISSING if row[0] > index else Finding.REORDERED
    try:
        block = _parsed(row)
    except Malformed:
        return Finding.UNREADABLE
    if block.index != index or (block.type is BlockType.GENESIS) != (index == 0):
        return Finding.REORDERED
    return block


def _check_genesis(block: Block) -> Finding | None:
    try:
        Genesis.parse(block.body).verify(block.chain_id)
    except WireError:
        return Finding.UNREADABLE
    except CryptoError:
        return Finding.FORGED
    return None


def _signed(block: Block, chain_id: bytes) -> bytes:
    return chain_id + u64(block.index) + block.calculate_hash()


def _associated(block: Block) -> bytes:
    return block.header[:_AAD_BYTES] + block.entry_id


def _parsed(row: _Row) -> Block:
    """Raises Malformed."""
    _, header, signature, body = row
    if (
        not isinstance(header, bytes)
        or not isinstance(body, bytes)
        or not isinstance(signature, bytes)
        or len(signature) != SIGNATURE_BYTES
    ):
        raise Malformed("a row of other types than a block's")
    return Block.parse(header, body, signature)


def _connect(path: Path, *, is_new: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=0,
        isolation_level=None,  # transactions are ours to begin
        check_same_thread=False,  # opened by the prompt's thread, then owned by the engine's
    )
    try:
        # First of all, so that the first read takes the lock and keeps it.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        if not is_new:  # before anything is written: what is no chain stays as it is
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != _FORMAT_VERSION:
                raise StoreUnreadable(f"{path} is no chain of this format (version {version})")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _unreadable(path: Path, exc: Exception) -> StoreError:
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF == sqlite3.SQLITE_BUSY:  # the rest of an extended code says how
        return StoreLocked(f"{path} is in use by another process")
    return StoreUnreadable(f"{path} cannot be read: {exc}")
