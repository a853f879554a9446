"""One person's chain of blocks, on SQLite: append, read, verify.

What lives here: the file, what is written and sealed in it, and that all of a write is on disk or
nothing.  What it does not know: what a block is (`chat_blocks`), how a chain is verified
(`chat_verdicts`), what a record says (`chat_messages`), who is in a room, threads, the profile's
other files.  What its methods take and give of the first two can be imported from here too.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chat_blocks import (
    BODY_HASH_AT,
    CHAIN_ID_AT,
    CHAIN_ID_BYTES,
    DEFAULT_DIFFICULTY,
    ENTRY_ID_AT,
    ERASABLE,
    HEADER,
    INDEX_AT,
    MAGIC,
    NONCE_AT,
    PREVIOUS_AT,
    Block,
    BlockType,
    Draft,
    Genesis,
    Head,
    SideRow,
    signed_part,
)
from chat_rows import MAX_IDX, SQLITE_ERRORS, Rows, is_whole, parse_row
from chat_verdicts import Finding, Forgotten, Verdict, Verification
from chat_wire import Label, Malformed, Reader, WireError, prefixed
from crypto_utils import (
    CryptoError,
    Keystore,
    PublicKeys,
    VerifyKey,
    mac,
    open_sealed,
    random_bytes,
    seal,
)

__all__ = [
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

_FORMAT_VERSION = 1  # SQLite's user_version


class StoreError(Exception):
    """Base of what the store raises; the text is one line for a person."""


class StoreFailed(StoreError):
    """A write failed: what the disk holds is unknown until the store is reopened."""


class StoreLocked(StoreError):
    """Another process has the store open."""


class StoreUnreadable(StoreError):
    """SQLite, or a block's decryption, cannot make sense of what is there."""


_TABLES = {
    "blocks": """CREATE TABLE blocks (
    idx INTEGER PRIMARY KEY,
    header BLOB NOT NULL,
    signature BLOB NOT NULL,
    body BLOB NOT NULL
)""",
    "side": """CREATE TABLE side (
    name TEXT NOT NULL,
    row BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (name, row)
)""",
}
# What SQLite keeps of them: type, name, tbl_name, sql.  It makes the index for side's key.
_SCHEMA = {
    *(("table", name, name, sql) for name, sql in _TABLES.items()),
    ("index", "sqlite_autoindex_side_1", "side", None),
}


class Blockchain:
    """A chain in its file.  Owned by one thread at a time, one process at a time."""

    def __init__(self, connection: sqlite3.Connection, keys: Keystore | PublicKeys) -> None:
        """Use `create` or `open`."""
        self._db = connection
        self._secrets = keys if isinstance(keys, Keystore) else None
        self._public = keys.public if isinstance(keys, Keystore) else keys
        self._verify_key = VerifyKey(self._public.chain_key)
        self._rows = Rows(connection)
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
        chain_id = random_bytes(CHAIN_ID_BYTES)
        csk = keystore.chain_signing_key.public
        genesis = Genesis(
            keystore.identity.spki,
            csk,
            keystore.identity.sign(Label.CHAIN_CERT, chain_id + csk),
            (predecessor.chain_id, predecessor.index, predecessor.hash)
            if predecessor
            else (bytes(CHAIN_ID_BYTES), 0, bytes(32)),
            finding,
        )
        body = genesis.serialize()
        try:
            # SQLite gives the files beside it the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            connection = _connect(path, is_new=True)
        except (*SQLITE_ERRORS, OSError) as exc:
            raise StoreFailed(f"{path} cannot be written: {exc}") from exc
        chain = cls(connection, keystore)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version={_FORMAT_VERSION}")
            for sql in _TABLES.values():
                connection.execute(sql)
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
            if isinstance(exc, SQLITE_ERRORS):
                raise StoreFailed(f"{path} cannot be written: {exc}") from exc
            raise
        return chain

    @classmethod
    def open(cls, path: Path, keys: Keystore | PublicKeys) -> Blockchain:
        """A chain as it is: nothing but its schema and its last block is looked at.

        Args:
            keys: the public ones alone are enough to verify, not to read or to write.

        Raises:
            StoreLocked: another process has it open.
            StoreUnreadable: SQLite cannot read it, it is no chain, or more than a chain.
        """
        try:
            connection = _connect(path)
        except (*SQLITE_ERRORS, OSError) as exc:
            raise _unreadable(path, exc) from exc
        chain = cls(connection, keys)
        try:
            last = chain._rows.last()
        except SQLITE_ERRORS as exc:
            connection.close()
            raise _unreadable(path, exc) from exc
        with suppress(Malformed):  # then `verify` says what is wrong with it
            chain._last = parse_row(last) if last else None
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            # After a crash, maybe in the middle of `forget`: the old bytes go now.  If the disk is
            # full, they go at the next chance, as the rest of what SQLite writes.
            with suppress(*SQLITE_ERRORS):
                chain._fold()
        return chain

    def close(self) -> None:
        """Folds the write-ahead log into the file and lets go of it."""
        self._db.close()

    def settle(self) -> None:
        """Puts all that can be read of it into the file itself, and that on disk.

        After an fsync that failed, the system shows what it may never have written, and a second
        fsync of it says nothing; but what is copied from there is written.

        Raises:
            StoreFailed.
        """
        try:
            self._fold()
        except SQLITE_ERRORS as exc:
            raise StoreFailed(str(exc)) from exc

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
        if block.type not in ERASABLE:
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
            self._change("UPDATE blocks SET body = zeroblob(length(body)) WHERE idx = ?", index)
        try:
            self._fold()
        except SQLITE_ERRORS as exc:
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
            with suppress(*SQLITE_ERRORS):  # so that what is read from now on is on disk
                self._db.execute("ROLLBACK")
            if isinstance(exc, (*SQLITE_ERRORS, OSError)):
                raise StoreFailed(_why(exc)) from exc
            raise

    def _sealed(self, draft: Draft, now_ms: int) -> Block:
        """The block that comes next, mined if it is a sent one, not signed yet."""
        latest, is_sent = self.get_latest_block(), draft.type is BlockType.SENT
        bare = HEADER.pack(
            MAGIC,
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
        block = Block.parse(bare[:BODY_HASH_AT] + body_hash + bare[ENTRY_ID_AT:], body)
        return block.mine_block(DEFAULT_DIFFICULTY) if is_sent else block

    def _insert(self, block: Block) -> Block:
        """Signs and inserts; the caller's transaction is open."""
        part = signed_part(block.chain_id, block.index, block.calculate_hash())
        signature = self.sign(Label.BLOCK_SIG, part)
        self._change(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            block.index,
            block.header,
            signature,
            block.body,
        )
        self._last = Block.parse(block.header, block.body, signature)
        return self._last

    def _change(self, statement: str, *values: bytes | int | str) -> None:
        """Writes one row; the caller's transaction is open."""
        if self._db.execute(statement, values).rowcount != 1:
            raise StoreFailed("SQLite took a row and did not write it")

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
            block = self._rows.block(0)
            if block is None:
                raise Malformed("there is none")
            return Genesis.parse(block.body)
        except (WireError, *SQLITE_ERRORS) as exc:
            raise StoreUnreadable("the genesis cannot be read") from exc

    def block(self, index: int) -> Block | None:
        """A block as it stands there, verified or not; None: no such row.

        Raises:
            StoreUnreadable: it cannot be parsed.
        """
        try:
            return self._rows.block(index)
        except (Malformed, *SQLITE_ERRORS) as exc:
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
        key, label = self._keys.chain_data_key, Label.BODY_KEY
        forgotten: Forgotten | None = None
        index = 0
        try:
            for row in self._rows.of_types(types, start, newest_first=newest_first):
                index, header, _, body = row
                if not is_whole(row):
                    raise Malformed("no block")
                if not body.strip(b"\0"):
                    forgotten = forgotten or Forgotten(
                        self._rows, self._verify_key, header[CHAIN_ID_AT:INDEX_AT]
                    )
                    if index in forgotten:
                        continue
                body_key = mac(key, label, header[CHAIN_ID_AT:PREVIOUS_AT])
                yield row, open_sealed(body_key, body, _associated(header))
        except (Malformed, CryptoError, *SQLITE_ERRORS) as exc:
            raise StoreUnreadable(f"block {index} cannot be read: {exc}") from exc

    def erased(self) -> dict[int, int]:
        """Index of a message → index of the forget block that says it was erased.

        Raises:
            StoreUnreadable.
        """
        try:
            chain_id = self.get_latest_block().chain_id
            return dict(Forgotten(self._rows, self._verify_key, chain_id).read())
        except SQLITE_ERRORS as exc:
            raise StoreUnreadable(f"the chain cannot be read: {exc}") from exc

    def coins(self, before: int = MAX_IDX, start: int = 0) -> set[bytes]:
        """The entry_ids of sent blocks: one coin each, in a chain that verifies.

        Args:
            before: only below this index, and from `start` on.

        Raises:
            StoreUnreadable.
        """
        try:
            return self._rows.entry_ids(BlockType.SENT, start, before)
        except SQLITE_ERRORS as exc:
            raise StoreUnreadable(f"the chain cannot be read: {exc}") from exc

    def _body_key(self, header: bytes) -> bytes:
        """Of the block with this chain_id and index."""
        return mac(self._keys.chain_data_key, Label.BODY_KEY, header[CHAIN_ID_AT:PREVIOUS_AT])

    def sign(self, label: bytes, body: bytes) -> bytes:
        """This chain's key's signature over label ‖ body, 64 bytes.  Raises StoreUnreadable."""
        return self._keys.chain_signing_key.sign(label, body)

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
        head.verify(self._verify_key)
        if head.index > last.index:
            blocks, good_ms = last.index + 1, last.timestamp_ms
            return Verdict(Finding.TRUNCATED, blocks, who, head.index, good_ms)
        its_hash = self.hash_at(head.index)
        if its_hash is None:  # in a chain that verifies: the table's own tree is damaged
            raise StoreUnreadable(f"block {head.index} cannot be found")
        if its_hash != head.hash:
            return Verdict(Finding.REWRITTEN, head.index, who)
        return Verdict(Finding.OK, last.index + 1)

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
        run = Verification(self._rows, self._public, signatures=signatures, start=start)
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
        self._change("INSERT OR REPLACE INTO side VALUES (?, ?, ?)", side.table, row, sealed)

    def side(self, name: str, *, what_opens: bool = False) -> dict[bytes, bytes]:
        """All values of one side table.

        Args:
            what_opens: leaves out rows that were damaged, where they are StoreUnreadable else.

        Raises:
            StoreUnreadable.
        """
        values: dict[bytes, bytes] = {}
        key = self._side_key(name)
        try:
            # Not by the index, which a damaged file may have without some of the rows.
            rows = self._db.execute(
                "SELECT row, sealed FROM side NOT INDEXED WHERE name = ? ORDER BY rowid", (name,)
            )
            for row, sealed in rows:
                try:
                    r = Reader(open_sealed(key, sealed, name.encode() + row))
                    found = r.prefixed()
                    values[found] = r.rest()
                except (CryptoError, WireError, TypeError):
                    if not what_opens:
                        raise
        except (*SQLITE_ERRORS, CryptoError, WireError, TypeError) as exc:
            raise StoreUnreadable(f"the side table {name} cannot be read: {exc}") from exc
        return values

    def _side_key(self, name: str) -> bytes:
        return mac(self._keys.chain_data_key, Label.SIDE_TABLE, name.encode())


def _associated(header: bytes) -> bytes:
    """What a body's cipher authenticates beside the record."""
    return header[:BODY_HASH_AT] + header[ENTRY_ID_AT:NONCE_AT]


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
            _check_schema(connection, path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """A view, an index or a trigger could hide rows from our queries or keep them from being
    written, and no verdict would tell: it is only rows that are signed.

    Raises:
        StoreUnreadable: there is anything but our tables.
    """
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?"
    found = connection.execute(query, (len(_SCHEMA) + 1,)).fetchall()
    if len(found) == len(_SCHEMA) and set(found) == _SCHEMA:
        return
    others = [f"{kind!s:.10} {name!s:.40}" for kind, name, *_ in set(found) - _SCHEMA]
    why = f"differs in {min(others)!a}" if others else "lacks a table"
    raise StoreUnreadable(f"{path} is no chain of this format (its schema {why})")


def _unreadable(path: Path, exc: Exception) -> StoreError:
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF == sqlite3.SQLITE_BUSY:  # the rest of an extended code says how
        return StoreLocked(f"{path} is in use by another process")
    return StoreUnreadable(f"{path} cannot be read: {_why(exc)}")


def _why(exc: BaseException) -> str:
    return str(exc) or "there is no memory for it"  # a MemoryError says nothing
