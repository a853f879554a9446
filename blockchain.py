"""One person's chain of blocks, on SQLite: append, read, verify.

What lives here: the block's layout, mining, the store and its verdicts.  What it does not know:
what a record says (`chat_messages`), who is in a room, threads, the profile's other files.

    chain = Blockchain.open(path, keystore)
    block = chain.add_block(Draft(BlockType.SENT, record, entry_id), now_ms)  # on disk
    verdict = chain.verify()  # OK, EDITED@17, …
    chain.forget(17, now_ms)  # its text is gone, and the chain says so

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import Enum, IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from chat_wire import H, Label, Malformed, Reader, WireError, prefixed, u64
from crypto_utils import (
    SIGNATURE_BYTES,
    BadSignature,
    CryptoError,
    IdentityPublic,
    Keystore,
    PublicKeys,
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
    FORGET = 6  # refers_to = the index of a message whose body was erased


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


# Types whose body may be erased: what somebody wrote.
_ERASABLE = (BlockType.SENT, BlockType.RECEIVED)
_HEADER = struct.Struct(">4sBB16sQ32sQ32s32sQQ")
HEADER_BYTES = _HEADER.size  # 150
_INDEX_AT, _PREVIOUS_AT, _TIME_AT = 22, 30, 62
_AAD_BYTES = 70  # the header's fields before body_hash
_ENTRY_ID_AT, _NONCE_AT = 102, 134
_MAX_NONCE = 2**64 - 1
_MAX_IDX = 2**63 - 1  # SQLite's integers


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
        known = _TYPES.get(kind)
        if known is None:
            raise Malformed(f"unknown type {kind}")
        # Not __init__, which takes four times as long: a search parses every block there is.
        block = cls.__new__(cls)
        vars(block).update(zip(_FIELDS, (known, *rest, body, signature, header), strict=True))
        return block

    @property
    def is_erased(self) -> bool:
        """Whether its body was overwritten with zeros; `verify` says whether that was right."""
        return self.type in _ERASABLE and not self.body.strip(b"\0")

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


_TYPES = {int(kind): kind for kind in BlockType}
_FIELDS = (*(f.name for f in fields(Block)), "header")


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


# idx, header, signature, body as SQLite has them: where a schema was changed, of any type.
_Row = tuple[Any, Any, Any, Any]
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

    def __init__(self, connection: sqlite3.Connection, keys: Keystore | PublicKeys) -> None:
        """Use `create` or `open`."""
        self._db = connection
        self._secrets = keys if isinstance(keys, Keystore) else None
        self._public = keys.public if isinstance(keys, Keystore) else keys
        self._verify_key = VerifyKey(self._public.chain_key)
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
    def open(cls, path: Path, keys: Keystore | PublicKeys) -> Blockchain:
        """A chain as it is: nothing but its last block is looked at.

        Args:
            keys: the public ones alone are enough to verify, not to read or to write.

        Raises:
            StoreLocked: another process has it open.
            StoreUnreadable: SQLite cannot read it, or it is no chain.
        """
        try:
            connection = _connect(path)
        except (*_SQLITE_ERRORS, OSError) as exc:
            raise _unreadable(path, exc) from exc
        chain = cls(connection, keys)
        try:
            last = chain._rows("ORDER BY idx DESC LIMIT 1").fetchone()
        except _SQLITE_ERRORS as exc:
            connection.close()
            raise _unreadable(path, exc) from exc
        with suppress(Malformed):  # then `verify` says what is wrong with it
            chain._last = _parsed(last) if last else None
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            # After a crash, maybe in the middle of `forget`: the old bytes go now.  If the disk is
            # full, they go at the next chance, as the rest of what SQLite writes.
            with suppress(*_SQLITE_ERRORS):
                chain._fold()
        return chain

    def close(self) -> None:
        """Folds the write-ahead log into the file and lets go of it."""
        self._db.close()

    def _fold(self) -> None:
        """The write-ahead log into the file, and none of its bytes are kept beside it."""
        (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the write-ahead log is being read")

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
            StoreUnreadable: there is no last block, or not the keys to write.
        """
        with self._transaction():
            blocks = [self._insert(self._sealed(draft, now_ms)) for draft in drafts]
            for row in side:
                self._put(row)
        return blocks

    def forget(self, index: int, now_ms: int, kept: bytes = b"") -> Block:
        """Erases a message's text here for good, from the file and its write-ahead log, and appends
        the block that says so.

        No generator of `records` may be half read.

        Args:
            kept: what stays known of the message (CHAIN_FORMAT.md 3), the new block's record.

        Returns:
            the forget block.

        Raises:
            ValueError: there is nothing to erase; the text is one sentence.
            StoreFailed: as of `append`; if that was said after the commit, the bytes go when the
                store is reopened.
            StoreUnreadable: as of `append`.
        """
        block = self.block(index)
        if block is None:
            raise ValueError(f"there is no block {index}")
        if block.type not in _ERASABLE:
            raise ValueError(
                f"block {index} is no message but {block.type.name.lower()}: that cannot be erased"
            )
        if block.is_erased:
            raise ValueError(f"the text of block {index} is erased already")
        with self._transaction():
            draft = Draft(BlockType.FORGET, kept, bytes(32), index)
            forget = self._insert(self._sealed(draft, now_ms))
            # Of the same size, so that SQLite overwrites the bytes where they are.  Shorter bodies
            # would make it move rows from page to page, and secure_delete does not promise to clean
            # the places that they are moved from.
            self._db.execute(
                "UPDATE blocks SET body = zeroblob(length(body)) WHERE idx = ?", (index,)
            )
        try:
            self._fold()
        except _SQLITE_ERRORS as exc:
            self._failed = True
            raise StoreFailed(f"block {index} is not erased for good yet: {exc}") from exc
        return forget

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is written within is on disk at its end, or none of it."""
        if self._failed:
            raise StoreFailed("an earlier write failed")
        before = self._last
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as exc:
            self._failed, self._last = True, before
            with suppress(*_SQLITE_ERRORS):  # so that what is read from now on is on disk
                self._db.execute("ROLLBACK")
            if isinstance(exc, (*_SQLITE_ERRORS, OSError)):
                raise StoreFailed(str(exc)) from exc
            raise

    def _sealed(self, draft: Draft, now_ms: int) -> Block:
        """The block that comes next, mined if it is a sent one, not signed yet."""
        latest, is_sent = self.get_latest_block(), draft.type is BlockType.SENT
        bare = _HEADER.pack(
            _MAGIC,
            draft.type,
            DEFAULT_DIFFICULTY if is_sent else 0,
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
        body_hash = hashlib.sha256(body).digest()
        block = Block.parse(bare[:_AAD_BYTES] + body_hash + bare[_ENTRY_ID_AT:], body)
        return block.mine_block(DEFAULT_DIFFICULTY) if is_sent else block

    def _insert(self, block: Block) -> Block:
        """Signs and inserts; the caller's transaction is open."""
        signed_part = _signed(block, block.chain_id)
        signature = self._keys.chain_signing_key.sign(Label.BLOCK_SIG, signed_part)
        self._db.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (block.index, block.header, signature, block.body),
        )
        self._last = Block.parse(block.header, block.body, signature)
        return self._last

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

    def block(self, index: int) -> Block | None:
        """A block as it stands there, verified or not; None: no such row.

        Raises:
            StoreUnreadable: it cannot be parsed.
        """
        if not 0 <= index <= _MAX_IDX:
            return None
        try:
            row = self._rows("WHERE idx = ?", index).fetchone()
            return _parsed(row) if row else None
        except (Malformed, *_SQLITE_ERRORS) as exc:
            raise StoreUnreadable(f"block {index} cannot be read: {exc}") from exc

    def hash_at(self, index: int) -> bytes | None:
        """The hash of a block, 32 bytes; None: no such row.  Raises StoreUnreadable."""
        block = self.block(index)
        return block.calculate_hash() if block else None

    def record(self, block: Block) -> bytes:
        """A block's record in clear.

        Raises:
            StoreUnreadable: erased, altered, or without the key.
        """
        if block.type is BlockType.GENESIS:
            return block.body
        if block.is_erased:
            raise StoreUnreadable(f"the text of block {block.index} is erased")
        try:
            return open_sealed(self._body_key(block.header), block.body, _associated(block.header))
        except CryptoError as exc:
            raise StoreUnreadable(f"block {block.index} cannot be read: {exc}") from exc

    def records(
        self, *types: BlockType, start: int = 0, newest_first: bool = False
    ) -> Iterator[tuple[Block, bytes]]:
        """The blocks of these types in order, each with its record in clear; those are left out
        that a forget block says were erased.

        Args:
            start: none below this index.

        Raises:
            StoreUnreadable: a block that cannot be parsed or decrypted.
        """
        for (_, header, signature, body), record in self._opened(types, start, newest_first):
            yield Block.parse(header, body, signature), record

    def scan(
        self, *types: BlockType, start: int = 0, newest_first: bool = False
    ) -> Iterator[tuple[int, bytes, bytes]]:
        """`records` for who goes through many: index, header (150 bytes, see `Block`), record.
        It takes two thirds of the time."""
        for (index, header, _, _), record in self._opened(types, start, newest_first):
            yield index, header, record

    def _opened(
        self, types: Sequence[BlockType], start: int, newest_first: bool
    ) -> Iterator[tuple[tuple[int, bytes, bytes, bytes], bytes]]:
        """Rows whose parts have the types and sizes of a block's, and their records."""
        kinds = ",".join(f"x'{kind:02x}'" for kind in types)
        order = "DESC" if newest_first else "ASC"
        wanted = f"WHERE idx >= ? AND substr(header, 5, 1) IN ({kinds}) ORDER BY idx {order}"
        key, label = self._keys.chain_data_key, Label.BODY_KEY
        forgotten: _Forgotten | None = None
        index = 0
        try:
            for row in self._rows(wanted, min(start, _MAX_IDX)):
                index, header, _, body = row
                if not _is_whole(row):
                    raise Malformed("no block")
                if not body.strip(b"\0"):
                    forgotten = forgotten or _Forgotten(self, header[6:_INDEX_AT])
                    if index in forgotten:
                        continue
                body_key = mac(key, label, header[6:_PREVIOUS_AT])
                yield row, open_sealed(body_key, body, _associated(header))
        except (Malformed, CryptoError, *_SQLITE_ERRORS) as exc:
            raise StoreUnreadable(f"block {index} cannot be read: {exc}") from exc

    def erased(self) -> dict[int, int]:
        """Index of a message → index of the forget block that says it was erased.

        Raises:
            StoreUnreadable.
        """
        try:
            return dict(_Forgotten(self, self.get_latest_block().chain_id).read())
        except _SQLITE_ERRORS as exc:
            raise StoreUnreadable(f"the chain cannot be read: {exc}") from exc

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

    def _rows(self, rest: str, *values: bytes | int) -> sqlite3.Cursor:
        # `rest` is ours, never from outside.
        return self._db.execute(f"SELECT idx, header, signature, body FROM blocks {rest}", values)  # noqa: S608

    def _body_key(self, header: bytes) -> bytes:
        """Of the block with this chain_id and index."""
        return mac(self._keys.chain_data_key, Label.BODY_KEY, header[6:_PREVIOUS_AT])

    @property
    def _keys(self) -> Keystore:
        if self._secrets is None:
            raise StoreUnreadable("reading and writing this chain needs the passphrase")
        return self._secrets

    # ----------------------------------------------------------------- verify

    def is_chain_valid(self) -> bool:
        """Whether `verify` says OK."""
        return self.verify().ok

    def compare(self, head: Head, who: str) -> Verdict:
        """This chain beside a head of it that somebody else kept: OK, TRUNCATED, or REWRITTEN at
        the head's index.  Nothing else is verified here.

        Args:
            head: of this chain_id, else ValueError.
            who: the witness, as a person is told.

        Raises:
            BadSignature: our key did not sign that head.
            StoreUnreadable: the block there, or the last one, cannot be found or parsed.
        """
        last = self.get_latest_block()
        if head.chain_id != last.chain_id:
            raise ValueError("a head of another chain")
        signed = head.chain_id + u64(head.index) + head.hash
        self._verify_key.verify(head.signature, Label.BLOCK_SIG, signed)
        if head.index > last.index:
            blocks, good_ms = last.index + 1, last.timestamp_ms
            return Verdict(Finding.TRUNCATED, blocks, who, head.index, good_ms)
        its_hash = self.hash_at(head.index)
        if its_hash is None:  # in a chain that verifies: the table's own tree is damaged
            raise StoreUnreadable(f"block {head.index} cannot be found")
        if its_hash != head.hash:
            return Verdict(Finding.REWRITTEN, head.index, who)
        return Verdict(Finding.OK, last.index + 1)

    def _is_signature(self, signature: bytes, signed_part: bytes) -> bool:
        """Whether our key made it, over "block sig" ‖ chain_id ‖ index ‖ hash."""
        try:
            self._verify_key.verify(signature, Label.BLOCK_SIG, signed_part)
        except BadSignature:
            return False
        return True

    def verify(
        self,
        *,
        signatures: bool = True,
        start: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Verdict:
        """`verification` in one go.

        Args:
            progress: called with the index that is next, each 1000 blocks.
        """
        done = start
        for verdict in self.verification(signatures=signatures, slice_blocks=1000, start=start):
            if verdict is not None:
                return verdict
            done += 1000
            if progress is not None:
                progress(done)
        raise AssertionError("a verification ends with a verdict")

    def verification(
        self, *, signatures: bool = False, slice_blocks: int = 2000, start: int = 0
    ) -> Iterator[Verdict | None]:
        """Goes through the chain once, a slice at a time; memory stays flat.

        None is yielded between the slices, for other work, appends to this chain too; at last the
        verdict: the first thing wrong, its index, and what.  CHAIN_FORMAT.md 5 has the order.

        That the last blocks were cut off, or all replaced by an older copy, cannot be seen here:
        `compare` needs somebody who remembers a later head.

        Args:
            signatures: False checks the last block's alone, and those around what is wrong.  The
                links make a signature vouch for every header and body before it, so all is found
                but an old signature that was altered and nothing else.
            slice_blocks: 2000 take about 10 ms; with signatures 200 ms.
            start: the first block to look at.  The one before it is trusted: the caller remembers
                its hash.  Where that one cannot be read, all are looked at.
        """
        run = _Verification(self, signatures, start)
        while (verdict := run.slice(slice_blocks)) is None:
            yield None
        yield verdict

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
        return mac(self._keys.chain_data_key, Label.SIDE_TABLE, name.encode())


# --------------------------------------------------------------------------- verification

_AFTER_GENESIS = frozenset(BlockType) - {BlockType.GENESIS}


class _Forgotten:
    """Which bodies the forget blocks of a chain say were erased: read when first asked, and again
    where the chain grew."""

    def __init__(self, chain: Blockchain, chain_id: bytes) -> None:
        self._chain = chain
        self._chain_id = chain_id  # the genesis'
        self._found: dict[int, int] = {}
        self._read_to = -1

    def __contains__(self, index: int) -> bool:
        """Raises what SQLite raises."""
        return index in self._found or index in self.read()

    def read(self) -> dict[int, int]:
        """Erased index → the forget block's: one that is signed, for its place, and later."""
        wanted = "WHERE +idx > ? AND substr(header, 1, 5) = ? ORDER BY idx"
        forget = _MAGIC + bytes((BlockType.FORGET,))
        for row in self._chain._rows(wanted, self._read_to, forget):
            if type(row[0]) is not int or not _is_whole(row):
                continue
            self._read_to, block = row[0], _parsed(row)
            if (
                row[0] == block.index > block.refers_to
                and block.refers_to not in self._found
                and self._chain._is_signature(block.signature, _signed(block, self._chain_id))
            ):
                self._found[block.refers_to] = block.index
        return self._found


class _Misfit(Exception):
    """The block whose turn it is does not fit."""


class _Verification:
    """One way through a chain.

    It is quick where all is well: a block that fits costs two hashes and few comparisons, on the
    row as it is (`_take`).  Where one does not fit, `_exact` says what is wrong there.
    """

    def __init__(self, chain: Blockchain, signatures: bool, start: int) -> None:
        self._chain = chain
        self._signatures = signatures
        self._before: Block | None = None  # the one before the block whose turn it is; it fits
        if start > 0:
            with suppress(StoreUnreadable):
                self._before = chain.block(start - 1)
        self._first = start if self._before else 0  # to be looked at
        self._next = self._first  # whose turn it is
        self._chain_id = self._before.chain_id if self._before else b""  # the genesis'
        self._forgotten = _Forgotten(chain, self._chain_id)
        self._erased = 0

    def slice(self, limit: int) -> Verdict | None:
        """Looks at `limit` blocks more.  None: there may be others behind."""
        until = self._next + limit
        try:
            last = self._take(limit)
        except (_Misfit, *_SQLITE_ERRORS):
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
        rows = self._chain._rows("WHERE idx >= ? ORDER BY idx LIMIT ?", index - 1, limit + 1)
        row: _Row | None = rows.fetchone()
        if row is None or row[:2] != (index - 1, before.header):
            raise _Misfit
        try:
            for row in rows:
                idx, header, signature, body = row
                if not (
                    type(idx) is int
                    and idx == index
                    and _is_whole(row)
                    and header[4] in _AFTER_GENESIS
                    and header[_INDEX_AT:_TIME_AT] == u64(index) + previous
                ):
                    raise _Misfit
                if sha256(body).digest() != header[_AAD_BYTES:_ENTRY_ID_AT]:
                    if not self._may_be_gone(Block.parse(header, body)):
                        raise _Misfit
                    self._erased += 1
                previous = sha256(label + header).digest()
                if header[4] == sent and not _is_mined(header[5], previous):
                    raise _Misfit
                if self._signatures and not self._is_signature(signature, index, previous):
                    raise _Misfit
                index += 1
        finally:
            self._next = index
        self._before = _parsed(row)
        return self._before

    def _genesis(self) -> Block:
        """The first block, which fits.  Raises _Misfit, and what SQLite raises."""
        row = self._chain._rows("ORDER BY idx LIMIT 1").fetchone()
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
        self._forgotten = _Forgotten(self._chain, genesis.chain_id)

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
        with suppress(StoreUnreadable):  # it could be read a moment ago: `_exact` will say
            block = self._chain.block(index)
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
        # Of the whole chain the rows before the first place too, with an idx that is none.  The
        # plus makes SQLite go through all rows: what is there is found, even if the tree that leads
        # to it is damaged.
        wanted = ("WHERE +idx >= ? ORDER BY idx", first) if first else ("ORDER BY idx",)
        try:
            for index, row in enumerate(self._chain._rows(*wanted), first):
                yield _in_place(row, index)
        except _SQLITE_ERRORS:
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
            except _SQLITE_ERRORS:  # whether it may be is behind what cannot be read
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
        if block.type is BlockType.SENT and not _is_mined(block.difficulty, block_hash):
            return Finding.WEAKPOW
        return None

    def _may_be_gone(self, block: Block) -> bool:
        """Whether its body was erased, and the chain says so.  Raises what SQLite raises."""
        return block.is_erased and block.index in self._forgotten

    def _is_signed(self, block: Block) -> bool:
        return self._is_signature(block.signature, block.index, block.calculate_hash())

    def _is_signature(self, signature: bytes, index: int, block_hash: bytes) -> bool:
        """Ours, for this place in this chain."""
        return self._chain._is_signature(signature, self._chain_id + u64(index) + block_hash)

    def _is_another_chain(self, genesis_block: Block) -> bool:
        """Whether this is a whole genesis, but not that of the chain which this profile writes."""
        try:
            genesis = Genesis.parse(genesis_block.body)
            genesis.verify(genesis_block.chain_id)
        except (WireError, CryptoError):
            return False
        ours = self._chain._public
        keys = (genesis.identity_spki, genesis.chain_key)
        expected = (genesis_block.chain_id, bytes(_CHAIN_ID_BYTES))
        return keys != (ours.identity_spki, ours.chain_key) or ours.chain_id not in expected

    def _verdict(self, finding: Finding, index: int) -> Verdict:
        before = None
        with suppress(StoreUnreadable):
            before = self._chain.block(index - 1)
        return Verdict(finding, index, good_ms=before.timestamp_ms if before else 0)


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


def _is_mined(difficulty: int, block_hash: bytes) -> bool:
    zero_bits = block_hash.startswith(bytes(difficulty // 8)) and (
        int.from_bytes(block_hash, "big") >> (256 - difficulty) == 0
    )
    return zero_bits and difficulty >= DEFAULT_DIFFICULTY


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


def _signed(block: Block, chain_id: bytes) -> bytes:
    return chain_id + u64(block.index) + block.calculate_hash()


def _associated(header: bytes) -> bytes:
    """What a body's cipher authenticates beside the record."""
    return header[:_AAD_BYTES] + header[_ENTRY_ID_AT:_NONCE_AT]


def _is_whole(row: _Row) -> bool:
    """Whether its parts have the types and sizes of a block's."""
    _, header, signature, body = row
    return (
        type(header) is type(signature) is type(body) is bytes
        and len(header) == HEADER_BYTES
        and len(signature) == SIGNATURE_BYTES
        and header.startswith(_MAGIC)
    )


def _parsed(row: _Row) -> Block:
    """Raises Malformed."""
    if not _is_whole(row):
        raise Malformed("a row of other types or sizes than a block's")
    _, header, signature, body = row
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
