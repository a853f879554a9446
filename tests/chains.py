"""Chains to be read, changed and damaged: what the tests of a chain's modules share."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import make_vectors_chain as reference
import make_vectors_crypto

from blockchain import Block, Blockchain, BlockType, Draft
from chat_verdicts import Verification
from crypto_utils import Identity, Keystore, SigningKey

ROOT = Path(__file__).resolve().parent.parent
VECTORS: dict[str, Any] = json.loads(reference.PATH.read_text("ascii"))
NOW = 1_700_000_000_000  # milliseconds
SENT, RECEIVED, EVENT = BlockType.SENT, BlockType.RECEIVED, BlockType.EVENT
PARTS = {"header": 1, "signature": 2, "body": 3}  # of a row
Row = list[Any]  # idx, header, signature, body


@cache
def keystore() -> Keystore:
    """The vectors' keys, which exist only to be known; they name no chain."""
    identity = Identity.from_pkcs8(make_vectors_crypto.pkcs8(make_vectors_crypto.E))
    seed, data_key = bytes.fromhex(VECTORS["csk_seed"]), bytes.fromhex(VECTORS["cdk"])
    return Keystore(identity, SigningKey(seed), data_key)


def draft(number: int, kind: BlockType = SENT) -> Draft:
    return Draft(kind, b"record %d" % number, hashlib.sha256(b"%d" % number).digest())


@contextmanager
def opened(path: Path, keys: Keystore | None = None) -> Iterator[Blockchain]:
    with closing(Blockchain.open(path, keys or keystore())) as chain:
        yield chain


def records(chain: Blockchain) -> list[bytes]:
    return [record for _, record in chain.records(*set(BlockType) - {BlockType.GENESIS})]


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


# A schema that holds whatever was done to a chain: any type, and an idx twice.
LOOSE = "CREATE TABLE blocks (idx, header, signature, body)"


@contextmanager
def database(rows: Sequence[Sequence[Any]], schema: str = LOOSE) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(schema)
        connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", rows)
        yield connection


def verdicts(connection: sqlite3.Connection, chain_id: bytes) -> tuple[str, str, str]:
    """Ours, ours of the quick check, and the second verifier's."""
    keys = keystore().with_chain(chain_id)
    chain = Blockchain(connection, keys)
    verdict = chain.verify()
    assert chain.is_chain_valid() is verdict.ok
    assert Verification(chain._rows, keys.public)._exact(0) == verdict, "the quick way is the same"
    quick = str(chain.verify(signatures=False))
    spki, csk = bytes.fromhex(VECTORS["identity_spki"]), bytes.fromhex(VECTORS["csk"])
    return str(verdict), quick, reference.verify(connection, spki, csk, chain_id)


def value(written: Any) -> Any:
    if isinstance(written, dict):
        return written["text"]
    return bytes.fromhex(written) if isinstance(written, str) else written


def rows_of(case: dict[str, Any]) -> list[Row]:
    return [[idx, *map(value, VECTORS["blocks"][number])] for idx, number in case["rows"]]


def named(case: dict[str, Any]) -> str:
    return f"{case['expect']}: {case['why']}"


EXAMPLE, BASE = VECTORS["cases"][:2]


@contextmanager
def stored(path: Path, case: dict[str, Any]) -> Iterator[tuple[Blockchain, sqlite3.Connection]]:
    """A whole chain in a file, open, and the same for the second verifier."""
    rows = rows_of(case)
    Blockchain.create(path, keystore(), NOW).close()
    run(path, "DELETE FROM blocks")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", rows)
    with opened(path) as chain, database(rows) as theirs:
        yield chain, theirs


def run(path: Path, *statements: str) -> None:
    """By somebody who has the file and no keys."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


def naive_hash(block: Block) -> bytes:
    return hashlib.sha256(b"chainroom/1 block\0" + block.header).digest()


def held_in(*files: Path) -> bytes:
    """Every byte of these files and of what SQLite keeps beside them."""
    found = (other for file in files for other in file.parent.glob(f"{file.name}*"))
    return b"".join(other.read_bytes() for other in found)


def is_anywhere(body: bytes, held: bytes) -> bool:
    """Whether any 128 bytes of it in a row are there, or its first 16."""
    return any(body[at : at + 16] in held for at in range(0, len(body) - 16, 112))


def rows_in(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM blocks ORDER BY idx").fetchall()
