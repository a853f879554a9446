"""blockchain: what is written, that it is on disk or not at all, and that every change is named.

`make_vectors_chain` is a second writer and a second verifier, made from docs/CHAIN_FORMAT.md alone;
what the two must agree on is in vectors/chain.json.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import make_vectors_chain as reference
import make_vectors_crypto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockchain import (
    Block,
    Blockchain,
    BlockType,
    Draft,
    Finding,
    Genesis,
    Head,
    SideRow,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnreadable,
    Verdict,
)
from chat_audit import audit
from chat_blocks import DEFAULT_DIFFICULTY, HEADER_BYTES
from chat_messages import Bundle, EntryKind, Event, EventKind, SignedEntry
from chat_profile import Profile, ProfileDamaged
from chat_verdicts import Verification
from chat_verification import verify_profile
from chat_wire import H, Label, Malformed, WireError, u64
from crypto_utils import BadSignature, Identity, Keystore, RoomSecret, SigningKey, VerifyKey

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "CHAIN_FORMAT.md").read_text("utf-8")
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


def with_other_data_key() -> Keystore:
    ours = keystore()
    return Keystore(ours.identity, ours.chain_signing_key, b"another key of thirty-two bytes.")


def draft(number: int, kind: BlockType = SENT) -> Draft:
    return Draft(kind, b"record %d" % number, hashlib.sha256(b"%d" % number).digest())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.db"


@pytest.fixture
def chain(path: Path) -> Iterator[Blockchain]:
    """A genesis, and a record of each of three types."""
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        chain.append([draft(1), draft(2, RECEIVED), draft(3, EVENT)], NOW)
        yield chain


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


# --------------------------------------------------------------------------------------------------
# vectors and the document


def value(written: Any) -> Any:
    if isinstance(written, dict):
        return written["text"]
    return bytes.fromhex(written) if isinstance(written, str) else written


def rows_of(case: dict[str, Any]) -> list[Row]:
    return [[idx, *map(value, VECTORS["blocks"][number])] for idx, number in case["rows"]]


def named(case: dict[str, Any]) -> str:
    return f"{case['expect']}: {case['why']}"


EXAMPLE, BASE = VECTORS["cases"][:2]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=named)
def test_two_verifiers_say_of_a_vector_what_it_says(case: dict[str, Any]) -> None:
    with database(rows_of(case)) as connection:
        ours, quick, theirs = verdicts(connection, bytes.fromhex(case["chain_id"]))
        verdict = Blockchain(connection, keystore().with_chain(value(case["chain_id"]))).verify()
    assert ours == theirs == case["expect"]
    assert quick == case.get("quick", ours)
    assert verdict.exit_code == case["exit"]
    assert verdict.sentence


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


@pytest.mark.parametrize("case", [c for c in VECTORS["cases"] if "head" in c], ids=named)
def test_two_verifiers_say_of_a_witnessed_head_what_its_vector_says(
    path: Path, case: dict[str, Any]
) -> None:
    index, parts = case["head"]["index"], [value(case["head"][n]) for n in ("hash", "signature")]
    with stored(path, case) as (chain, connection):
        ours = chain.compare(Head(value(case["chain_id"]), index, *parts), "bob")
        head = reference.Head(value(case["chain_id"]), index, *parts)
        theirs = reference.compare(connection, value(VECTORS["csk"]), head)
    assert str(ours) == theirs == case["witnessed"]
    assert (ours.finding is Finding.OK) or "bob" in ours.sentence


@pytest.mark.parametrize("case", [c for c in VECTORS["cases"] if "deep" in c], ids=named)
def test_two_verifiers_say_of_the_authors_what_a_vector_says(
    path: Path, case: dict[str, Any]
) -> None:
    keys = (value(VECTORS[name]) for name in ("cdk", "identity_spki", "csk"))
    with stored(path, case) as (chain, connection):
        assert str(audit(chain)) == reference.deep(connection, *keys) == case["deep"]


@pytest.mark.parametrize("case", VECTORS["schemas"], ids=lambda c: str(c["why"]))
def test_a_file_with_more_than_a_chains_schema_is_unreadable_and_stays_as_it_is(
    path: Path, case: dict[str, Any]
) -> None:
    with stored(path, BASE) as (chain, _):
        said, coins = records(chain), chain.coins()
    run(path, *case["sql"])
    with closing(sqlite3.connect(path)) as connection:
        assert reference.is_of_format(connection) is (case["exit"] == 0)
    content = path.read_bytes()
    if case["exit"] == 0:
        with opened(path) as chain:
            assert (records(chain), chain.coins(), str(chain.verify())) == (said, coins, "OK")
        return
    for keys in (keystore(), keystore().public):
        with pytest.raises(StoreUnreadable, match="no chain of this format") as refusal:
            Blockchain.open(path, keys)
        assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


# types whose record is sealed
SEALED = [kind for kind in BlockType if kind is not BlockType.GENESIS]


@pytest.mark.parametrize(
    "case", [c for c in VECTORS["cases"] if "coins" in c], ids=lambda c: str(c["why"])
)
def test_a_whole_chain_reads_as_its_vector_says(case: dict[str, Any]) -> None:
    with database(rows_of(case)) as connection:
        chain = Blockchain(connection, keystore())
        assert len(chain.coins()) == case["coins"]
        assert chain.verify().erased == len(case.get("erased", []))
        if "records" in case:
            found = [[block.type, record] for block, record in chain.records(*SEALED)]
            assert found == [[kind, value(record)] for kind, record in case["records"]]


def test_the_records_of_the_vectors_are_entries_and_events() -> None:
    """Each is what its block's type says, signed, and the block's entry_id is its own."""
    (case,) = (c for c in VECTORS["cases"] if c["why"] == "every kind of record")
    keys: dict[bytes, VerifyKey] = {}
    kinds: list[tuple[BlockType, int]] = []
    with database(rows_of(case)) as connection:
        for block, record in Blockchain(connection, keystore()).records(*SEALED):
            if block.type is EVENT:
                event = Event.parse(record)
                assert block.entry_id == event.event_id
                kinds.append((block.type, event.kind))
                if event.kind == EventKind.BUNDLE:
                    bundle = Bundle.parse(event.body, RoomSecret.open_room("lobby"))
                    keys[bundle.session_id] = bundle.session_key
            else:
                signed = SignedEntry.parse(record)
                signed.verify(keys[signed.entry.session_id])
                assert block.entry_id == signed.entry.entry_id
                kinds.append((block.type, signed.entry.kind))
    entries = {
        (SENT, EntryKind.CHAT),
        (BlockType.CONTROL, EntryKind.AUDIENCE),
        (RECEIVED, EntryKind.CHAT),
        (RECEIVED, EntryKind.AUDIENCE),
    }
    assert set(kinds) == entries | {(EVENT, kind) for kind in EventKind}


def test_the_vectors_are_what_their_script_makes() -> None:
    assert reference.PATH.read_text("ascii") == reference.text()


def test_every_finding_has_a_vector() -> None:
    verdicts = {c.get(by) for c in VECTORS["cases"] for by in ("expect", "witnessed", "deep")}
    assert {v.split("@")[0] for v in verdicts if v} == {f.name for f in Finding}


def test_the_second_verifier_imports_nothing_of_chainroom() -> None:
    ours = {file.stem for file in ROOT.glob("*.py")}
    for script in (reference, make_vectors_crypto):
        tree = ast.parse(Path(script.__file__ or "").read_text("utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & ours


def test_the_code_writes_the_documented_bytes(path: Path) -> None:
    """The example again, with everything random as it was there."""
    rows, chain_id = rows_of(EXAMPLE), value(EXAMPLE["chain_id"])
    certificate = rows[0][3][456:840]
    with (
        mock.patch("blockchain.random_bytes", return_value=chain_id),
        mock.patch.object(Identity, "sign", return_value=certificate) as sign,
        closing(Blockchain.create(path, keystore(), NOW)) as chain,
    ):
        sign.assert_called_once_with(Label.CHAIN_CERT, chain_id + value(VECTORS["csk"]))
        for row, (kind, record) in zip(rows[1:], EXAMPLE["records"], strict=True):
            head = value(record)[:146]
            wanted = Draft(BlockType(kind), value(record), H(Label.ENTRY, head))
            with mock.patch("crypto_utils.os.urandom", return_value=row[3][:12]):
                chain.add_block(wanted, NOW + 1000 * row[0])
    with closing(sqlite3.connect(path)) as connection:
        written = connection.execute("SELECT * FROM blocks ORDER BY idx").fetchall()
    assert [list(row) for row in written] == rows


def code_block(language: str) -> str:
    """The document's only one of this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (text,) = (text for name, text in found if name == language)
    return str(text)


def test_the_document_shows_the_example_of_the_vectors() -> None:
    assert code_block("") == reference.example()


def test_the_example_in_the_document_is_what_the_code_reads() -> None:
    """Block by block: the fields in their order are the header, and the rest follows from it."""
    shown = code_block("")
    csk = VerifyKey(value(VECTORS["csk"]))
    for i, text in enumerate(re.split(r"^block .*\n", shown, flags=re.MULTILINE)[1:]):
        fields, rest = text.split("  hash ", 1)
        block_hash, signature_hex, body = re.split(r"signature|body, \d+ bytes", rest, maxsplit=2)
        signature = bytes.fromhex(signature_hex)
        block = Block.parse(bytes.fromhex("".join(re.findall(r"[0-9a-f]+\n", fields))))
        assert block.index == i
        assert block.type.name.lower() in shown.split("block ")[i + 1].splitlines()[0]
        assert block.calculate_hash() == bytes.fromhex(block_hash)
        signed = block.chain_id + u64(block.index) + bytes.fromhex(block_hash)
        csk.verify(signature, Label.BLOCK_SIG, signed)
        row = rows_of(EXAMPLE)[i]
        assert row[1:3] == [block.header, signature]
        if i > 0:
            assert row[3] == bytes.fromhex(body.split("body key")[0])


def test_the_document_has_the_schema_and_every_verdict_and_the_header(
    chain: Blockchain, path: Path
) -> None:
    chain.close()
    sql = code_block("sql")
    with closing(sqlite3.connect(path)) as ours, closing(sqlite3.connect(":memory:")) as theirs:
        theirs.executescript(sql)
        query = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
        assert ours.execute(query).fetchall() == theirs.execute(query).fetchall()
        assert ours.execute("PRAGMA user_version").fetchone() == (1,)
    assert "`PRAGMA user_version` = 1" in DOCUMENT
    assert all(f.name in DOCUMENT for f in Finding)
    table = re.findall(r"^\| (\d+) \| (\w+)", DOCUMENT.split("## 3.")[0], re.MULTILINE)
    assert [(name, int(at)) for at, name in table] == list(reference.AT.items())


# --------------------------------------------------------------------------------------------------
# blocks

sizes = {"chain_id": 16, "previous_hash": 32, "body_hash": 32, "entry_id": 32}
numbers = {"index": 64, "timestamp_ms": 64, "nonce": 64, "refers_to": 64, "difficulty": 8}
blocks = st.builds(
    Block,
    type=st.sampled_from(BlockType),
    body=st.binary(max_size=9),
    signature=st.binary(max_size=9),
    **{name: st.binary(min_size=size, max_size=size) for name, size in sizes.items()},
    **{name: st.integers(0, 2**bits - 1) for name, bits in numbers.items()},
)


@given(block=blocks)
def test_a_block_is_its_header_body_and_signature_and_back(block: Block) -> None:
    assert len(block.header) == HEADER_BYTES
    assert Block.parse(block.header, block.body, block.signature) == block


@given(block=blocks, at=st.integers(0, HEADER_BYTES - 1), data=st.binary(max_size=4))
def test_any_bytes_are_a_header_or_malformed(block: Block, at: int, data: bytes) -> None:
    header = block.header[:at] + data + block.header[at + len(data) :]
    try:
        assert Block.parse(header).header == header
    except Malformed:
        assert header[:4] != b"CRB1" or header[4] not in set(BlockType) or len(header) != 150


@given(data=st.binary(max_size=200))
def test_a_header_of_another_size_is_malformed(data: bytes) -> None:
    if len(data) != HEADER_BYTES:
        with pytest.raises(Malformed, match=f"{len(data)} bytes"):
            Block.parse(data)


def naive_hash(block: Block) -> bytes:
    return hashlib.sha256(b"chainroom/1 block\0" + block.header).digest()


def zero_bits(digest: bytes) -> int:
    return len(f"1{int.from_bytes(digest, 'big'):0256b}".removeprefix("1").split("1")[0])


@given(block=blocks)
def test_a_blocks_hash_is_that_of_its_label_and_header(block: Block) -> None:
    assert block.calculate_hash() == naive_hash(block)


@given(block=blocks, difficulty=st.integers(0, 10))
def test_mining_takes_the_first_nonce_that_fits_and_changes_nothing_else(
    block: Block, difficulty: int
) -> None:
    mined = block.mine_block(difficulty)
    attempts = (
        reference._HEADER.pack(*reference._HEADER.unpack(mined.header)[:-2], nonce, mined.refers_to)
        for nonce in itertools.count()
    )
    fitting = (h for h in attempts if zero_bits(H(Label.BLOCK, h)) >= difficulty)
    assert mined.header == next(fitting)
    assert mined.difficulty == difficulty
    before, after = vars(block) | {"header": 0}, vars(mined) | {"header": 0}
    changed = {name for name in after if before[name] != after[name]}
    assert changed <= {"nonce", "difficulty"}


def test_every_sent_block_is_mined_and_no_other(chain: Blockchain) -> None:
    for number in range(40):
        sent, received = chain.append([draft(number), draft(number, RECEIVED)], NOW)
        assert zero_bits(naive_hash(sent)) >= DEFAULT_DIFFICULTY == sent.difficulty == 8
        assert (received.nonce, received.difficulty) == (0, 0)


GENESIS_BODY = value(VECTORS["blocks"][0][2])


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_genesis_or_a_wire_error(data: bytes) -> None:
    for body in (data, GENESIS_BODY[:-2] + data, GENESIS_BODY + data, data + GENESIS_BODY):
        try:
            assert Genesis.parse(body).serialize() == body
        except WireError:
            assert body != GENESIS_BODY


@given(at=st.integers(0, len(GENESIS_BODY) - 1), bit=st.integers(0, 7), finding=st.text(max_size=9))
def test_a_changed_genesis_serializes_back_or_is_a_wire_error(
    at: int, bit: int, finding: str
) -> None:
    said = finding.encode()
    body = flipped(GENESIS_BODY, at, bit)[:-2] + len(said).to_bytes(2, "big") + said
    with suppress(WireError):
        genesis = Genesis.parse(body)
        assert genesis.serialize() == body
        assert genesis.finding == finding


# --------------------------------------------------------------------------------------------------
# append and read


def test_a_new_chain_is_its_genesis(path: Path) -> None:
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        block, genesis = chain.get_latest_block(), chain.genesis()
        assert str(chain.verify()) == "OK"
    assert (block.type, block.index, block.timestamp_ms) == (BlockType.GENESIS, 0, NOW)
    assert genesis.identity_spki == keystore().identity.spki
    assert genesis.chain_key == keystore().chain_signing_key.public
    assert (genesis.predecessor, genesis.finding) == ((bytes(16), 0, bytes(32)), "")
    genesis.verify(block.chain_id)


def test_a_chain_names_the_one_that_it_follows(path: Path, tmp_path: Path) -> None:
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        chain.add_block(draft(1), NOW)
        head = chain.head()
    with closing(
        Blockchain.create(tmp_path / "2", keystore(), NOW, predecessor=head, finding="EDITED@1 ✓")
    ) as chain:
        genesis = chain.genesis()
        assert genesis.predecessor == (head.chain_id, 1, head.hash)
        assert genesis.finding == "EDITED@1 ✓"
        assert chain.get_latest_block().chain_id != head.chain_id
        assert chain.is_chain_valid()


def test_a_draft_becomes_a_block_that_is_linked_to_the_one_before(chain: Blockchain) -> None:
    before = chain.get_latest_block()
    wanted = Draft(BlockType.FORGET, b"", b"e" * 32, refers_to=2)
    block = chain.add_block(wanted, NOW + 5)
    assert (block.type, block.entry_id, block.refers_to) == (BlockType.FORGET, b"e" * 32, 2)
    assert (block.index, block.timestamp_ms) == (4, NOW + 5)
    assert (block.chain_id, block.previous_hash) == (before.chain_id, naive_hash(before))
    assert block.body_hash == hashlib.sha256(block.body).digest()
    assert chain.get_latest_block() == block


def test_the_head_is_the_last_block_vouched_for(chain: Blockchain) -> None:
    last, head = chain.get_latest_block(), chain.head()
    assert head == Head(last.chain_id, 3, naive_hash(last), last.signature)
    signed = head.chain_id + u64(head.index) + head.hash
    VerifyKey(keystore().chain_signing_key.public).verify(head.signature, Label.BLOCK_SIG, signed)


def test_the_chains_key_signs_other_things_under_their_own_label(chain: Blockchain) -> None:
    key, signature = keystore().public.chain_key, chain.sign(Label.PROOF_SIG, b"a file")
    VerifyKey(key).verify(signature, Label.PROOF_SIG, b"a file")
    with pytest.raises(BadSignature):
        VerifyKey(key).verify(signature, Label.BLOCK_SIG, b"a file")


def test_a_chain_goes_on_where_it_was_closed(path: Path) -> None:
    Blockchain.create(path, keystore(), NOW).close()
    for number in range(5):
        with opened(path) as chain:
            assert chain.add_block(draft(number), NOW).index == number + 1
    with opened(path) as chain:
        assert str(chain.verify()) == "OK"
        assert chain.verify() == Verdict(Finding.OK, 6)
        assert records(chain) == [draft(number).record for number in range(5)]


def test_records_come_back_in_clear_by_type_and_in_order(chain: Blockchain) -> None:
    chain.append([draft(4, RECEIVED), draft(5)], NOW)
    found = [(block.index, record) for block, record in chain.records(SENT, RECEIVED)]
    assert found == [(1, b"record 1"), (2, b"record 2"), (4, b"record 4"), (5, b"record 5")]
    assert [record for _, record in chain.records(EVENT)] == [b"record 3"]
    assert list(chain.records()) == []


def test_a_record_of_any_size_comes_back(chain: Blockchain) -> None:
    sizes = (0, 1, 16_612, 100_000)
    chain.append([Draft(EVENT, b"x" * size, bytes(32)) for size in sizes], NOW)
    assert [len(record) for record in records(chain)[3:]] == list(sizes)
    assert chain.is_chain_valid()


def test_a_chain_without_its_data_key_is_verified_and_not_read(
    path: Path, chain: Blockchain
) -> None:
    chain.close()
    with opened(path, with_other_data_key()) as locked:
        assert str(locked.verify()) == "OK"
        with pytest.raises(StoreUnreadable, match="block 1 "):
            list(locked.records(SENT))


def test_a_record_of_another_place_does_not_open(chain: Blockchain) -> None:
    """Key and associated data bind a body to its header."""
    rows = rows_of(BASE)
    for i, at in ((1, 62), (1, 102), (1, 5)):  # timestamp, entry_id, difficulty
        moved = [list(row) for row in rows]
        moved[i][1] = flipped(moved[i][1], at)
        with database(moved) as connection, pytest.raises(StoreUnreadable, match="block 1 "):
            list(Blockchain(connection, keystore()).records(SENT))
    rows[1][3], rows[3][3] = rows[3][3], rows[1][3]
    with database(rows) as connection, pytest.raises(StoreUnreadable, match="block 1 "):
        list(Blockchain(connection, keystore()).records(SENT))


def test_a_block_is_found_by_its_index(chain: Blockchain) -> None:
    block = chain.block(2)
    assert block is not None
    assert (block.index, block.entry_id) == (2, draft(2).entry_id)
    assert chain.record(block) == b"record 2"
    assert chain.hash_at(2) == naive_hash(block)
    genesis = chain.block(0)
    assert genesis is not None
    assert chain.record(genesis) == chain.genesis().serialize()
    for index in (4, -1, 2**63 - 1, 2**63, 2**64 - 1):
        assert chain.block(index) is None
        assert chain.hash_at(index) is None


def test_a_block_that_cannot_be_parsed_is_unreadable(chain: Blockchain) -> None:
    chain._db.execute("UPDATE blocks SET header = x'00' WHERE idx = 2")
    for ask in (chain.block, chain.hash_at):
        with pytest.raises(StoreUnreadable, match="block 2 "):
            ask(2)


def test_records_begin_where_they_are_asked_to_and_come_newest_first_too(chain: Blockchain) -> None:
    def found(**how: Any) -> list[int]:
        return [block.index for block, _ in chain.records(SENT, RECEIVED, EVENT, **how)]

    assert found(start=2) == [2, 3]
    assert found(start=2, newest_first=True) == [3, 2]
    assert found(newest_first=True) == [3, 2, 1]
    assert found(start=4) == found(start=2**64) == []


@pytest.mark.parametrize("how", [{}, {"start": 2}, {"newest_first": True}])
def test_a_scan_gives_what_records_give(chain: Blockchain, how: dict[str, Any]) -> None:
    chain.append([draft(4), draft(5, RECEIVED)], NOW)
    chain.forget(4, NOW)
    scanned = list(chain.scan(*SEALED, **how))
    assert scanned == [(b.index, b.header, record) for b, record in chain.records(*SEALED, **how)]
    assert len(scanned) >= 4


def test_the_public_keys_alone_check_a_chain_and_read_nothing(
    path: Path, chain: Blockchain
) -> None:
    chain.append([], NOW, [SideRow("a", b"k", b"v")])
    head = chain.head()
    chain.close()
    with closing(Blockchain.open(path, keystore().public)) as checked:
        assert str(checked.verify()) == "OK"
        assert checked.compare(head, "bob").ok
        assert checked.head() == head
        assert checked.coins() == {draft(1).entry_id}
        block = checked.block(1)
        assert block is not None
        for ask in (
            lambda: list(checked.records(SENT)),
            lambda: checked.record(block),
            lambda: checked.side("a"),
            lambda: checked.add_block(draft(4), NOW),
            lambda: checked.sign(Label.PROOF_SIG, b""),
        ):
            with pytest.raises(StoreUnreadable, match="needs the passphrase"):
                ask()
    with opened(path) as chain:
        assert chain.head() == head


def test_a_coin_is_a_distinct_entry_that_was_sent(chain: Blockchain) -> None:
    chain.append([draft(1), draft(7), draft(7), draft(8, RECEIVED), draft(9, EVENT)], NOW)
    assert chain.coins() == {draft(1).entry_id, draft(7).entry_id}
    assert chain.coins(before=5) == {draft(1).entry_id}
    assert chain.coins(before=0) == set()
    assert chain.coins(start=5) == {draft(7).entry_id}
    assert chain.coins(start=4, before=5) == {draft(1).entry_id}, "though it was sent before"
    assert chain.coins(start=6, before=6) == set()


def test_an_empty_append_changes_nothing(chain: Blockchain) -> None:
    head = chain.head()
    assert chain.append([], NOW) == []
    assert chain.head() == head


def test_a_chain_without_blocks_has_no_head_and_no_genesis() -> None:
    with database([]) as connection:
        chain = Blockchain(connection, keystore())
        for ask in (chain.get_latest_block, chain.head, chain.genesis):
            with pytest.raises(StoreUnreadable):
                ask()


# --------------------------------------------------------------------------------------------------
# all or nothing


class Faulty(sqlite3.Connection):
    """Fails at the k-th statement from now, before or after that was carried out."""

    fails_at = -1  # counts down
    is_carried_out = False
    error: BaseException = sqlite3.OperationalError("disk I/O error")

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self.fails_at -= 1
        if self.fails_at != -1:
            return super().execute(sql, parameters)
        if self.is_carried_out:
            super().execute(sql, parameters)
        raise self.error


@contextmanager
def faulty_connections() -> Iterator[list[Faulty]]:
    """Every connection made in here is one."""
    made: list[Faulty] = []

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        made.append(plain(*arguments, **named, factory=Faulty))
        return made[-1]

    plain: Callable[..., Any] = sqlite3.connect
    with mock.patch("sqlite3.connect", connect):
        yield made


STATEMENTS = 6  # BEGIN, three blocks, a side row, COMMIT


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["failed", "failed but written"])
@pytest.mark.parametrize("k", range(STATEMENTS + 1))
def test_an_append_is_on_disk_as_a_whole_or_not_at_all(
    path: Path, chain: Blockchain, k: int, is_carried_out: bool
) -> None:
    chain.append([], NOW, [SideRow("table", b"key", b"old")])
    before = chain.head()
    chain.close()
    drafts = [draft(4), draft(5, RECEIVED), draft(6)]
    row = SideRow("table", b"key", b"new")
    is_written = k == STATEMENTS or (k == STATEMENTS - 1 and is_carried_out)
    with faulty_connections() as made, opened(path) as chain:
        made[0].fails_at, made[0].is_carried_out = k, is_carried_out
        if k == STATEMENTS:  # nothing failed: so many there are
            chain.append(drafts, NOW, [row])
            assert made[0].fails_at == 0
            made[0].fails_at = -1
        else:
            with pytest.raises(StoreFailed, match="disk I/O error"):
                chain.append(drafts, NOW, [row])
            assert chain.head() == before
            with pytest.raises(StoreFailed, match="an earlier write failed"):
                chain.append([draft(7)], NOW)
            with pytest.raises(StoreFailed, match="an earlier write failed"):
                chain.append([], NOW, [row])
        seen = (records(chain), chain.side("table"), chain.verify())
    with opened(path) as chain:
        assert seen == (records(chain), chain.side("table"), chain.verify())
        assert chain.is_chain_valid()
        assert chain.head().index == (6 if is_written else 3)
        assert len(records(chain)) == (6 if is_written else 3)
        assert chain.side("table") == {b"key": b"new" if is_written else b"old"}
        assert chain.add_block(draft(8), NOW).index == chain.head().index


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError("no space")])
def test_whatever_stops_an_append_nothing_is_half_written(
    path: Path, chain: Blockchain, error: BaseException
) -> None:
    before = chain.head()
    with mock.patch.object(Block, "mine_block", side_effect=error):
        wanted = StoreFailed if isinstance(error, OSError) else type(error)
        with pytest.raises(wanted):
            chain.append([draft(4, RECEIVED), draft(5)], NOW)
    assert chain.head() == before
    assert len(records(chain)) == 3
    with pytest.raises(StoreFailed):
        chain.add_block(draft(6), NOW)
    chain.close()
    with opened(path) as chain:
        assert chain.head() == before
        assert chain.is_chain_valid()


def test_a_value_that_is_no_block_is_not_appended(chain: Blockchain) -> None:
    with pytest.raises(Exception, match=r"argument out of range|int too large|format requires"):
        chain.append([draft(4, RECEIVED), draft(5, RECEIVED)], -1)
    assert len(records(chain)) == 3
    with pytest.raises(StoreFailed):
        chain.add_block(draft(6), NOW)


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["failed", "failed but written"])
@pytest.mark.parametrize("k", range(10))
def test_a_chain_that_could_not_be_made_is_let_go_of(
    path: Path, k: int, is_carried_out: bool
) -> None:
    is_whole = False
    with (
        faulty_connections(),
        mock.patch.multiple(Faulty, fails_at=k, is_carried_out=is_carried_out),
    ):
        try:
            Blockchain.create(path, keystore(), NOW).close()
            is_whole = True
        except StoreFailed as failure:
            kept = failure  # and with it, every frame that could hold the connection
            assert str(path) in str(kept)
    try:
        with opened(path) as chain:
            assert chain.is_chain_valid()
    except StoreUnreadable:
        assert not is_whole


def test_a_new_chain_never_takes_a_files_place(path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(StoreFailed, match="exists"):
        Blockchain.create(path, keystore(), NOW)
    assert path.read_bytes() == b"something else"
    with pytest.raises(StoreFailed, match="cannot be written"):
        Blockchain.create(path.parent / "nowhere" / "chain.db", keystore(), NOW)


NURSERY = """
import os, sys
from pathlib import Path
from blockchain import Blockchain, BlockType, Draft, SideRow
from crypto_utils import Keystore

path, keystore = Path(sys.argv[1]), Keystore.parse(Path(sys.argv[2]).read_bytes())
for _ in sys.stdin:  # a life for each line
    child = os.fork()
    if child == 0:
        chain = Blockchain.open(path, keystore)
        os.write(1, b"%d\\n" % os.getpid())
        while True:
            last = chain.head().index + 3
            drafts = [Draft(BlockType.SENT, b"x" * 300, os.urandom(32)) for _ in range(3)]
            chain.append(drafts, 0, [SideRow("table", b"last", b"%d" % last)])
            os.write(1, b"%d\\n" % last)
    os.waitpid(child, 0)
    os.write(1, b"gone\\n")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_a_client_killed_at_any_moment_loses_nothing_that_was_appended(
    path: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(keystore().serialize())
    Blockchain.create(path, keystore(), NOW).close()
    child = 0
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(path), str(keys)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        try:
            for _ in range(20):
                nursery.stdin.write("live\n")
                nursery.stdin.flush()
                child = int(nursery.stdout.readline())
                with pytest.raises(StoreLocked):
                    Blockchain.open(path, keystore())
                for _ in range(random.randrange(4)):
                    nursery.stdout.readline()
                for _ in range(random.randrange(3000)):
                    pass  # somewhere within an append
                os.kill(child, signal.SIGKILL)
                said = list(iter(nursery.stdout.readline, "gone\n"))
                child = 0
                with opened(path) as chain:
                    assert chain.is_chain_valid()
                    last = chain.head().index
                    assert last % 3 == 0
                    assert last >= max(map(int, said), default=0)
                    assert chain.side("table") == ({b"last": b"%d" % last} if last else {})
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
            nursery.stdin.close()
    assert last > 0
    assert nursery.returncode == 0


# --------------------------------------------------------------------------------------------------
# side tables


def test_a_side_row_is_replaced_by_its_key_within_its_table(path: Path, chain: Blockchain) -> None:
    chain.append([draft(4)], NOW, [SideRow("a", b"k", b"1"), SideRow("a", b"", b"0")])
    chain.append([], NOW, [SideRow("a", b"k", b"2"), SideRow("b", b"k", b"3")])
    chain.close()
    with opened(path) as chain:
        assert chain.side("a") == {b"k": b"2", b"": b"0"}
        assert chain.side("b") == {b"k": b"3"}
        assert chain.side("c") == {}
        assert chain.verify() == Verdict(Finding.OK, 5)


def test_an_empty_side_row_removes_the_one_before(path: Path, chain: Blockchain) -> None:
    chain.append([], NOW, [SideRow("t", b"k", b"v"), SideRow("t", b"other", b"v")])
    chain.append([], NOW, [SideRow("t", b"k", b"")])
    assert chain.side("t") == {b"other": b"v"}
    ((rows,),) = chain._db.execute("SELECT count(*) FROM side").fetchall()
    assert rows == 1


def test_side_rows_need_the_data_key(path: Path, chain: Blockchain) -> None:
    chain.append([], NOW, [SideRow("a", b"k", b"v")])
    chain.close()
    with opened(path, with_other_data_key()) as chain, pytest.raises(StoreUnreadable):
        chain.side("a")


@pytest.mark.parametrize(
    "change",
    [
        "sealed = x'00'",
        "sealed = zeroblob(60)",
        "sealed = 5",
        "sealed = 'text'",
        "sealed = CAST(x'ff' AS TEXT)",
        "row = x'00'",
        "row = 'text'",
        "row = 7",
        "name = 'b'",
        "sealed = (SELECT sealed FROM side WHERE name = 'c')",
        "sealed = substr(sealed, 1, length(sealed) - 1) || x'00'",
    ],
)
def test_a_side_row_that_was_changed_or_moved_does_not_open(
    path: Path, chain: Blockchain, change: str
) -> None:
    chain.append([], NOW, [SideRow("a", b"k", b"v"), SideRow("c", b"k", b"v")])
    chain.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE side SET {change} WHERE name = 'a'")
        connection.commit()
    with opened(path) as chain, pytest.raises(StoreUnreadable, match="side table"):
        chain.side("b" if "name" in change.split()[0] else "a")


def test_nothing_in_the_files_is_in_clear_but_who_and_how_many(path: Path) -> None:
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        text = Draft(SENT, b"meet me at noon, says wilhelmina", draft(1).entry_id)
        row = SideRow("members", b"fingerprint-of-bob", b"nick-of-bob")
        for _ in range(3):
            chain.append([text], NOW, [row])
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    held += path.read_bytes()
    for secret in (text.record, b"noon", b"wilhelmina", row.key, row.value):
        assert secret not in held
    for key in (keystore().chain_data_key, keystore().chain_signing_key.seed):
        assert key not in held
    assert keystore().identity.spki in held
    assert text.entry_id in held


# --------------------------------------------------------------------------------------------------
# verdicts


@pytest.mark.parametrize("i", range(5))
def test_a_flip_of_any_byte_of_a_block_names_that_block(i: int) -> None:
    """In header, signature and body; each bit of a byte has its turn.  The quick check finds the
    same, but for an old signature."""
    rows = rows_of(BASE)
    with database(rows) as connection:
        chain = Blockchain(connection, keystore().with_chain(value(BASE["chain_id"])))
        assert chain.is_chain_valid()
        for name, part in PARTS.items():
            whole: bytes = rows[i][part]
            for at in range(len(whole)):
                changed = (flipped(whole, at, at % 8), i)
                connection.execute(f"UPDATE blocks SET {name} = ? WHERE idx = ?", changed)
                verdict, quick = chain.verify(), chain.verify(signatures=False)
                assert not verdict.ok, (name, at)
                assert verdict.index == i, (name, at, verdict)
                if name == "signature" and i < 4:
                    assert (str(verdict), str(quick)) == (f"FORGED@{i}", "OK")
                else:
                    assert quick == verdict
                if name == "body":
                    assert verdict.finding is Finding.EDITED
            connection.execute(f"UPDATE blocks SET {name} = ? WHERE idx = ?", (whole, i))
        assert chain.is_chain_valid()


anything = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
)
places = st.integers(0, 6)
parts = st.sampled_from(["header", "signature", "body"])
changes = st.one_of(
    st.tuples(st.just("value"), places, parts, anything),
    st.tuples(st.just("idx"), places, anything),
    st.tuples(st.just("flip"), places, parts, st.integers(0, 2000), st.integers(0, 7)),
    st.tuples(st.just("swap"), places, places),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("zero"), places, st.integers(0, 400)),
    st.tuples(st.just("refer"), places, st.integers(0, 8)),
    st.tuples(st.just("repeat"), places, st.integers(-2, 7)),
    st.tuples(st.just("sign"), places, st.booleans()),
    st.tuples(st.just("rehash"), places),
    st.tuples(st.just("relink"), places),
    st.tuples(st.just("other"), places, st.sampled_from([1, 2, 3])),
)


def apply(rows: list[Row], change: tuple[Any, ...]) -> None:
    """What somebody with the file, and maybe the keys, does to it."""
    what, i, *more = change
    if i >= len(rows):
        return
    row = rows[i]
    match what, *more:
        case "value", name, new:
            row[PARTS[name]] = new
        case "idx", new:
            row[0] = new
        case "flip", name, at, bit:
            old = row[PARTS[name]]
            if isinstance(old, bytes) and old:
                row[PARTS[name]] = flipped(old, at % len(old), bit)
        case "swap", other if other < len(rows):
            row[1:], rows[other][1:] = rows[other][1:], row[1:]
        case ("delete",):
            del rows[i]
        case "repeat", idx:
            rows.append([idx, *row[1:]])
        case "zero", size:
            row[3] = bytes(size)
        case "other", part:
            row[part] = reference.CHAINS.other.rows[i % 5][part]
    header, body = row[1], row[3]
    if not (isinstance(header, bytes) and isinstance(body, bytes) and len(header) == HEADER_BYTES):
        return
    before = rows[i - 1][1] if i and isinstance(rows[i - 1][1], bytes) else b""
    match what, *more:
        case "sign", is_ours:
            person = reference.ALICE if is_ours else reference.BOB
            row[2] = reference.sign(person.csk_seed, header)
        case "refer", index:
            row[1] = header[:142] + u64(index)
        case ("rehash",):
            row[1] = header[:70] + hashlib.sha256(body).digest() + header[102:]
        case ("relink",):
            row[1] = header[:30] + H(Label.BLOCK, before) + header[62:]


(FORGOTTEN,) = (c for c in VECTORS["cases"] if c["why"].startswith("two texts erased"))


@given(st.lists(changes, max_size=6), st.sampled_from([BASE, FORGOTTEN]), st.booleans())
def test_two_verifiers_agree_on_whatever_was_done_to_a_chain(
    done: list[tuple[Any, ...]], case: dict[str, Any], is_any_chain: bool
) -> None:
    rows = rows_of(case)
    chain_id = bytes(16) if is_any_chain else value(case["chain_id"])
    for change in done:
        apply(rows, change)
    with database(rows) as connection:
        ours, quick, theirs = verdicts(connection, chain_id)
        left = [list(row) for row in connection.execute("SELECT * FROM blocks ORDER BY idx")]
    assert ours == theirs
    if ours == "OK" and ("sign", True) not in [(what, more[-1]) for what, *more in done]:
        # Without the key all is as it was, or the last blocks are gone; zeros are as good as none.
        for row, before in zip(left, rows_of(case), strict=False):
            assert row[:3] == before[:3]
            assert row[3] == before[3] or not (any(row[3]) or any(before[3]))
    if quick != ours:  # an old signature was altered, and maybe something behind it
        assert ours.startswith("FORGED@")
        assert quick == "OK" or int(quick.split("@")[1]) > int(ours.split("@")[1])


# --------------------------------------------------------------------------------------------------
# witnesses


def signed_head(chain: Blockchain, index: int, block_hash: bytes, **other: Any) -> Head:
    chain_id = other.get("chain_id", chain.get_latest_block().chain_id)
    csk = other.get("csk", keystore().chain_signing_key)
    signature = csk.sign(Label.BLOCK_SIG, chain_id + u64(index) + block_hash)
    return Head(chain_id, index, block_hash, signature)


def test_a_witness_shows_what_was_cut_off_or_written_anew(chain: Blockchain) -> None:
    block_hash = chain.hash_at(2)
    assert block_hash is not None
    assert chain.compare(chain.head(), "bob") == Verdict(Finding.OK, 4)
    assert chain.compare(signed_head(chain, 2, block_hash), "bob") == Verdict(Finding.OK, 4)
    for index in (4, 9, 2**64 - 1):
        verdict = chain.compare(signed_head(chain, index, b"h" * 32), "bob#7f3a")
        assert verdict == Verdict(Finding.TRUNCATED, 4, "bob#7f3a", index)
        assert f"4 blocks left, and bob#7f3a holds block {index} " in verdict.sentence
        assert "blocks 0 to 3 are whole" in verdict.sentence
    verdict = chain.compare(signed_head(chain, 2, b"h" * 32), "bob#7f3a")
    assert verdict == Verdict(Finding.REWRITTEN, 2, "bob#7f3a")
    assert "block 2 is not the one that bob#7f3a holds" in verdict.sentence


def test_a_head_that_our_key_did_not_sign_for_this_chain_shows_nothing(chain: Blockchain) -> None:
    head = chain.head()
    unsigned = [
        Head(head.chain_id, 9, head.hash, head.signature),
        Head(head.chain_id, 3, b"h" * 32, head.signature),
        signed_head(chain, 9, b"h" * 32, csk=SigningKey(b"another key of thirty-two bytes.")),
    ]
    for forged in unsigned:
        with pytest.raises(BadSignature):
            chain.compare(forged, "bob")
    with pytest.raises(ValueError, match="another chain"):
        chain.compare(signed_head(chain, 9, b"h" * 32, chain_id=bytes(16)), "bob")


# --------------------------------------------------------------------------------------------------
# erased


def test_a_text_is_erased_and_the_chain_says_so(path: Path, chain: Blockchain) -> None:
    chain.append([draft(4, RECEIVED), draft(5)], NOW)
    before = chain.block(1)
    forget = chain.forget(1, NOW + 7, b"what is kept")
    assert (forget.type, forget.index, forget.refers_to) == (BlockType.FORGET, 6, 1)
    assert (forget.timestamp_ms, forget.entry_id) == (NOW + 7, bytes(32))
    assert chain.record(forget) == b"what is kept"
    assert chain.get_latest_block() == forget
    chain.add_block(draft(6), NOW)
    chain.forget(4, NOW)
    for again in (False, True):
        if again:
            chain.close()
            chain = Blockchain.open(path, keystore())
        erased = chain.block(1)
        assert before is not None
        assert erased is not None
        assert (erased.header, erased.signature) == (before.header, before.signature)
        assert (before.is_erased, erased.is_erased) == (False, True)
        assert chain.erased() == {1: 6, 4: 8}
        verdict = chain.verify()
        assert (str(verdict), verdict.exit_code, verdict.erased) == ("OK", 0, 2)
        assert "2 texts were erased by /forget" in verdict.sentence
        assert chain.verify(signatures=False) == verdict
        with pytest.raises(StoreUnreadable, match="block 1 is erased"):
            chain.record(erased)
        found = [block.index for block, _ in chain.records(SENT, RECEIVED)]
        assert found == [2, 5, 7]
        assert len(chain.coins()) == 3
    chain.close()


def test_a_body_of_zeros_that_no_forget_block_names_is_unreadable(chain: Blockchain) -> None:
    chain.forget(2, NOW)
    for zeros in ("x''", "zeroblob(9)", "zeroblob(99)"):
        chain._db.execute(f"UPDATE blocks SET body = {zeros} WHERE idx = 1")
        assert str(chain.verify()) == str(chain.verify(signatures=False)) == "EDITED@1"
        with pytest.raises(StoreUnreadable, match="block 1 "):
            records(chain)


def test_only_a_message_that_is_there_can_be_erased(chain: Blockchain) -> None:
    chain.forget(2, NOW)
    head = chain.head()
    for index, why in {
        0: "no message but genesis",
        2: "erased already",
        3: "no message but event",
        4: "no message but forget",
        5: "there is no block 5",
        -1: "there is no block",
        2**64: "there is no block",
    }.items():
        with pytest.raises(ValueError, match=why):
            chain.forget(index, NOW)
    assert chain.head() == head
    assert chain.add_block(draft(9), NOW).index == 5


def held_in(*files: Path) -> bytes:
    """Every byte of these files and of what SQLite keeps beside them."""
    found = (other for file in files for other in file.parent.glob(f"{file.name}*"))
    return b"".join(other.read_bytes() for other in found)


def is_anywhere(body: bytes, held: bytes) -> bool:
    """Whether any 128 bytes of it in a row are there, or its first 16."""
    return any(body[at : at + 16] in held for at in range(0, len(body) - 16, 112))


def test_no_byte_of_an_erased_text_is_left_in_any_file(path: Path) -> None:
    """Texts of many sizes, with overflow pages and without, erased in any order among others that
    are written meanwhile."""
    rng = random.Random(5)
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        bodies: dict[int, bytes] = {}
        gone: list[bytes] = []
        for _ in range(30):
            sizes = [rng.choice((0, 5, 300, 300, 4000, 9000)) for _ in range(rng.randrange(5))]
            drafts = [Draft(RECEIVED, b"r" * size, os.urandom(32)) for size in sizes]
            row = SideRow("t", rng.randbytes(1), rng.randbytes(rng.choice((9, 900))))
            for block in chain.append(drafts, NOW, [row]):
                bodies[block.index] = block.body
            if bodies and rng.randrange(2):
                index = rng.choice(list(bodies))
                assert is_anywhere(bodies[index], held_in(path))
                chain.forget(index, NOW)
                gone.append(bodies.pop(index))
                held = held_in(path)
                assert not any(is_anywhere(body, held) for body in gone)
        assert len(gone) > 10
        assert str(chain.verify()) == "OK"
        assert len(list(chain.records(RECEIVED))) == len(bodies)


FORGET_STATEMENTS = 5  # BEGIN, the block, the zeros, COMMIT, the checkpoint


@pytest.mark.parametrize("is_carried_out", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("k", range(FORGET_STATEMENTS))
def test_a_text_is_erased_as_a_whole_or_not_at_all(
    path: Path, chain: Blockchain, k: int, is_carried_out: bool
) -> None:
    """The files as a crash at any statement leaves them."""
    chain.close()
    crashed = path.parent / "crashed" / path.name
    crashed.parent.mkdir()

    class Crash(sqlite3.OperationalError):
        def __init__(self) -> None:
            super().__init__("disk I/O error")
            for file in path.parent.glob("chain.db*"):
                (crashed.parent / file.name).write_bytes(file.read_bytes())

    with faulty_connections() as made, opened(path) as chain:
        (body,) = chain._db.execute("SELECT body FROM blocks WHERE idx = 1").fetchone()
        chain.add_block(draft(4), NOW)  # something to fold
        with mock.patch.object(Faulty, "error", property(lambda _: Crash())):
            # the second: after the one that reads the block
            made[0].fails_at, made[0].is_carried_out = k + 1, is_carried_out
            with pytest.raises(StoreFailed):
                chain.forget(1, NOW)
        with pytest.raises(StoreFailed):
            chain.add_block(draft(5), NOW)
    is_done = (k, is_carried_out) >= (FORGET_STATEMENTS - 2, True)
    with opened(crashed) as chain:
        assert is_anywhere(body, held_in(crashed)) is not is_done, "gone with the reopening"
        assert chain.erased() == ({1: 5} if is_done else {})
        assert str(chain.verify()) == "OK"
        assert records(chain)[0] == (b"record 2" if is_done else b"record 1")
        chain.forget(2, NOW)


# --------------------------------------------------------------------------------------------------
# in slices


def test_a_verification_in_slices_says_the_same_while_the_chain_grows(chain: Blockchain) -> None:
    chain.append([draft(number, RECEIVED) for number in range(20)], NOW)
    seen: list[Verdict | None] = []
    for verdict in chain.verification(slice_blocks=5):
        seen.append(verdict)
        if len(seen) in (1, 3):
            chain.add_block(draft(30 + len(seen)), NOW)
            chain.forget(len(seen) + 3, NOW)
    assert seen[:-1] == [None] * (len(seen) - 1)
    assert seen[-1] == Verdict(Finding.OK, 28)
    assert len(seen) > 4


@pytest.mark.parametrize("size", range(1, 8))
def test_slices_of_any_size_find_the_same(chain: Blockchain, size: int) -> None:
    def last(**how: Any) -> Verdict | None:
        return list(chain.verification(slice_blocks=size, **how))[-1]

    assert last() == last(signatures=True) == Verdict(Finding.OK, 4)
    chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = 2")
    assert last() == last(signatures=True) == Verdict(Finding.EDITED, 2)


def test_a_verification_can_begin_behind_what_is_known_to_be_whole(chain: Blockchain) -> None:
    for start in (*range(6), 2**64):
        assert chain.verify(start=start) == Verdict(Finding.OK, 4)
    chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = 1")
    for start, expected in enumerate(["EDITED@1", "EDITED@1", "OK", "OK", "OK", "EDITED@1"]):
        assert str(chain.verify(start=start)) == expected
        assert str(chain.verify(start=start, signatures=False)) == expected
    chain._db.execute("UPDATE blocks SET header = x'00' WHERE idx = 1")
    assert str(chain.verify(start=2)) == "UNREADABLE@1", "what cannot be read is not trusted"


def test_progress_is_told_now_and_then(chain: Blockchain) -> None:
    chain.append([draft(number, RECEIVED) for number in range(1100)], NOW)
    told: list[int] = []
    chain.verify(signatures=False, progress=told.append)
    assert told == [1000]


def test_a_verdict_says_what_where_and_what_is_left_since_when(chain: Blockchain) -> None:
    chain.append([draft(4, RECEIVED)], NOW + 3_600_000)
    for i in range(5):
        chain._db.execute("SAVEPOINT before")
        chain._db.execute("UPDATE blocks SET body = x'00' WHERE idx = ?", (i,))
        verdict = chain.verify()
        assert verdict.sentence.startswith(f"block {i} was changed after it was written; ")
        assert verdict.sentence.endswith(
            {
                0: "no block can be relied on",
                1: "block 0 is whole, of 2023-11-14 22:13 UTC",
            }.get(i, f"blocks 0 to {i - 1} are whole, the last of them of 2023-11-14 22:13 UTC")
        )
        chain._db.execute("ROLLBACK TO before")
    assert Verdict(Finding.EDITED, 3, good_ms=2**64 - 1).sentence


def test_no_two_findings_are_told_alike() -> None:
    for index in (0, 1, 17):
        told = {Verdict(finding, index, "bob", 20).sentence for finding in Finding}
        assert len(told) == len(Finding)
        assert not any("{" in sentence or "\n" in sentence for sentence in told)
    tampering = [v for f in Finding if (v := Verdict(f)).exit_code == 4]
    assert not any("read" in verdict.sentence for verdict in tampering)


def test_a_verdict_reads_like_this() -> None:
    assert str(Verdict(Finding.EDITED, 17)) == "EDITED@17"
    assert (str(Verdict(Finding.OK, 3)), Verdict(Finding.OK, 3).exit_code) == ("OK", 0)
    assert Verdict(Finding.OK, 3).sentence == "3 blocks, each as it was written"
    assert Verdict(Finding.OK, 1).sentence == "1 block, each as it was written"
    codes = {finding: Verdict(finding).exit_code for finding in Finding}
    assert [f for f, code in codes.items() if code == 6] == [Finding.UNREADABLE]
    assert [f for f, code in codes.items() if code == 0] == [Finding.OK]
    assert set(codes.values()) == {0, 4, 6}


# --------------------------------------------------------------------------------------------------
# the file


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX'")
def test_only_its_owner_can_read_a_chain(path: Path) -> None:
    umask = os.umask(0)
    try:
        with closing(Blockchain.create(path, keystore(), NOW)) as chain:
            chain.add_block(draft(1), NOW)
            files = list(path.parent.iterdir())
            assert {file.name for file in files} == {"chain.db", "chain.db-wal"}
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(umask)
    assert [file.name for file in path.parent.iterdir()] == ["chain.db"]


def test_a_commit_is_on_disk_before_it_returns(path: Path) -> None:
    Blockchain.create(path, keystore(), NOW).close()
    with faulty_connections() as made, opened(path):
        settings = {
            name: made[0].execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "locking_mode", "secure_delete")
        }
    expected = {"journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive"}
    assert settings == expected | {"secure_delete": 1}


def test_a_chain_is_open_once(path: Path, chain: Blockchain) -> None:
    with pytest.raises(StoreLocked, match="in use"):
        Blockchain.open(path, keystore())
    chain.add_block(draft(4), NOW)
    chain.close()
    with opened(path), pytest.raises(StoreLocked):  # also one that only reads
        Blockchain.open(path, keystore())
    with opened(path) as chain:
        assert chain.is_chain_valid()


def test_a_damaged_file_is_not_said_to_be_in_use(path: Path) -> None:
    """SQLite quotes what is damaged, and that may be called anything."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA user_version = 1; CREATE TABLE locked (a); PRAGMA writable_schema = 1;"
            "UPDATE sqlite_schema SET sql = 'CREATE nonsense'"
        )
    with pytest.raises(StoreUnreadable, match="locked"):
        Blockchain.open(path, keystore())


@pytest.mark.parametrize(
    "content",
    [b"", b"not a database", b"SQLite format 3\0", os.urandom(5000), bytes(8192)],
    ids=["empty", "text", "magic alone", "random", "zeros"],
)
def test_what_is_no_chain_is_unreadable_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreUnreadable, match=r"chain\.db"):
        Blockchain.open(path, keystore())
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("version", [0, 2, -1])
def test_a_database_of_another_format_is_unreadable_and_stays_as_it_is(
    path: Path, chain: Blockchain, version: int
) -> None:
    chain.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"PRAGMA user_version = {version}")
    content = path.read_bytes()
    with pytest.raises(StoreUnreadable, match=f"version {version}"):
        Blockchain.open(path, keystore())
    assert path.read_bytes() == content


def test_a_file_that_is_not_there_is_unreadable_and_not_made(path: Path, tmp_path: Path) -> None:
    for missing in (path, tmp_path / "nowhere" / "chain.db", tmp_path):
        with pytest.raises(StoreUnreadable):
            Blockchain.open(missing, keystore())
    assert list(tmp_path.iterdir()) == []


def whole_file(path: Path) -> bytes:
    Blockchain.create(path, keystore(), NOW).close()
    with opened(path) as chain:
        for number in range(6):
            chain.append([draft(number)], NOW, [SideRow("members", b"%d" % number, b"v" * 40)])
    return path.read_bytes()


def judged(path: Path) -> str:
    """The verdict on a file, or that it is unreadable; everything else is asked for too."""
    try:
        with opened(path) as chain:
            asked: list[Callable[[], object]] = [chain.coins, chain.head, chain.genesis]
            asked += [partial(records, chain), partial(chain.side, "members")]
            for ask in asked:
                with suppress(StoreUnreadable):
                    ask()
            verdict = chain.verify()
            assert chain.verify(signatures=False).ok or not verdict.ok
            return str(verdict)
    except StoreUnreadable:
        return "unreadable"


@pytest.mark.parametrize(
    "schema",
    [
        "idx TEXT PRIMARY KEY, header, signature, body",
        "idx REAL PRIMARY KEY, header, signature, body",
        "idx, header, signature, body DEFAULT NULL",
        "header, signature, body",
        "idx INTEGER PRIMARY KEY, header TEXT",
    ],
)
def test_a_chain_under_another_schema_is_unreadable(path: Path, schema: str) -> None:
    """Of any idx, from a damaged schema or a made-up one."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"CREATE TABLE blocks ({schema})")
        values = [None, *rows_of(BASE)[0][1:]]
        if "body DEFAULT" not in schema:
            values[0] = 0
        with suppress(sqlite3.Error):
            connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", values)
        connection.commit()
    assert judged(path).lower()[:10] == "unreadable"


def test_what_is_said_of_a_schema_is_one_short_line_whatever_is_in_it(
    path: Path, chain: Blockchain
) -> None:
    chain.close()
    run(path, f'CREATE VIEW "a\n\x1b[2J{"x" * 9000}" AS SELECT 1')
    with pytest.raises(StoreUnreadable, match=r"differs in 'view a\\n\\x1b\[2Jx+'\)$") as refusal:
        Blockchain.open(path, keystore())
    assert len(str(refusal.value)) < len(str(path)) + 120
    run(path, "BEGIN", *(f"CREATE TABLE t{number} (a)" for number in range(200)), "COMMIT")
    with pytest.raises(StoreUnreadable, match="no chain"):
        Blockchain.open(path, keystore())


def test_a_chain_is_whole_again_when_what_was_added_is_removed(
    path: Path, chain: Blockchain
) -> None:
    """So it is no tampering: nothing in the chain was changed."""
    chain.close()
    for add, remove in (
        ("CREATE INDEX i ON blocks (header)", "DROP INDEX i"),
        ("CREATE TABLE t (a)", "DROP TABLE t"),
    ):
        run(path, add)
        with pytest.raises(StoreUnreadable):
            Blockchain.open(path, keystore())
        run(path, remove)
        with opened(path) as chain:
            assert str(chain.verify()) == "OK"
            assert len(records(chain)) == 3


def test_a_row_that_was_not_written_is_a_write_that_failed(path: Path) -> None:
    """However it comes about; here by triggers in a file that is open already."""
    acts: dict[str, Callable[[Blockchain], object]] = {
        "INSERT ON blocks": lambda chain: chain.add_block(draft(4), NOW),
        "INSERT ON side": lambda chain: chain.append([], NOW, [SideRow("t", b"k", b"v")]),
        "UPDATE ON blocks": lambda chain: chain.forget(1, NOW),
    }
    for number, (event, act) in enumerate(acts.items()):
        file = path.with_name(f"{number}.db")
        with closing(Blockchain.create(file, keystore(), NOW)) as chain:
            chain.append([draft(1)], NOW)
            head = chain.head()
            chain._db.execute(f"CREATE TRIGGER t BEFORE {event} BEGIN SELECT RAISE(IGNORE); END")
            with pytest.raises(StoreFailed, match="did not write"):
                act(chain)
            assert chain.head() == head
            with pytest.raises(StoreFailed, match="an earlier write"):
                chain.add_block(draft(5), NOW)
        run(file, "DROP TRIGGER t")
        with opened(file) as chain:
            assert (chain.head(), records(chain)) == (head, [b"record 1"])


def test_a_profile_with_more_in_a_chains_file_is_refused_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "profiles" / "default"
    folder.mkdir(mode=0o700, parents=True)
    kept, path = folder / "evidence-1.db", folder / "chain.db"
    for number, file in enumerate((kept, path)):
        with closing(Blockchain.create(file, keystore(), NOW)) as chain:
            chain.append([draft(number)], NOW)
            keys = keystore().with_chain(chain.head().chain_id)
    (folder / "keys").write_bytes(keys.serialize())
    (folder / "keys").chmod(0o600)
    trigger = "CREATE TRIGGER t BEFORE INSERT ON blocks BEGIN SELECT RAISE(IGNORE); END"

    def checked() -> list[tuple[int, bool]]:
        return [(c.exit_code, "differs in 'trigger t'" in c.text) for c in verify_profile(tmp_path)]

    def balance() -> int:
        with Profile.open(tmp_path) as profile:
            assert profile.finding is None
            return profile.balance()

    assert (checked(), balance()) == ([(0, False), (0, False)], 2)
    run(kept, trigger)
    assert (checked(), balance()) == ([(6, True), (0, False)], 1), "a chat can go on"
    run(path, trigger, "UPDATE blocks SET body = x'00' WHERE idx = 1")
    files = {file: file.read_bytes() for file in folder.iterdir()}
    assert checked() == [(6, True), (6, True)]
    for create in (True, False):
        with pytest.raises(ProfileDamaged, match=r"differs in 'trigger t'.*nothing was"):
            Profile.open(tmp_path, "default", create=create)
    assert {file: file.read_bytes() for file in folder.iterdir()} == files
    for file in (kept, path):
        run(file, "DROP TRIGGER t")
    assert checked() == [(0, False), (4, False)], "what was done to the blocks is found then"


PARTIAL = (
    "CREATE INDEX i ON {} WHERE {}",
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON {}' WHERE name = 'i'",
)


def test_an_index_that_leaves_blocks_out_is_not_asked(path: Path, chain: Blockchain) -> None:
    """Even where a file with one could be opened."""
    chain.close()
    on = "blocks (substr(header, 5, 1), idx)"
    run(path, *(text.format(on, "idx < 2") for text in PARTIAL))
    with closing(sqlite3.connect(path)) as connection:
        by_index = "SELECT * FROM blocks WHERE substr(header, 5, 1) = x'04' AND idx > 0"
        assert connection.execute(by_index).fetchall() == [], "it does lie"
        chain = Blockchain(connection, keystore())
        assert [record for _, record in chain.records(RECEIVED)] == [b"record 2"]
        assert chain._rows.entry_ids(RECEIVED, 1, 9) == {draft(2).entry_id}


def test_an_index_of_side_rows_that_leaves_some_out_hides_none(
    path: Path, chain: Blockchain
) -> None:
    """It stands in the place of the one that the schema has, so the schema is right."""
    chain.append([], NOW, [SideRow("acks", b"1", b"one"), SideRow("members", b"2", b"two")])
    chain.close()
    on, name = "side (name, row)", "sqlite_autoindex_side_1"
    run(
        path,
        *(text.format(on, "name <> 'acks'") for text in PARTIAL),
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'i')"
        f" WHERE name = '{name}'",
        "DELETE FROM sqlite_schema WHERE name = 'i'",
    )
    with closing(sqlite3.connect(path)) as connection:
        by_index = "SELECT sealed FROM side WHERE name = 'acks'"
        assert connection.execute(by_index).fetchall() == [], "it does lie"
    with opened(path) as chain:
        assert chain.side("acks") == {b"1": b"one"}
        chain.append([], NOW, [SideRow("acks", b"1", b"newer"), SideRow("acks", b"3", b"three")])
        assert chain.side("acks") == {b"1": b"newer", b"3": b"three"}
        assert chain.side("members") == {b"2": b"two"}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_chain_in_another_text_encoding_reads_the_same(
    path: Path, chain: Blockchain, encoding: str
) -> None:
    chain.append([], NOW, [SideRow("t", b"k", b"v")])
    chain.close()
    copy = path.with_name("copy.db")
    run(
        copy,
        f"PRAGMA encoding = '{encoding}'",
        "PRAGMA user_version = 1",
        reference.BLOCKS,
        reference.SIDE,
    )
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA encoding").fetchone() == (encoding,)
    with opened(path) as chain:
        wanted = rows_of_side_and_blocks(chain)
    with closing(sqlite3.connect(copy)) as connection, connection:
        for table, rows in wanted.items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    with opened(copy) as chain:
        assert rows_of_side_and_blocks(chain) == wanted
        assert (str(chain.verify()), len(records(chain))) == ("OK", 3)
        chain.append([draft(4)], NOW, [SideRow("t", b"k", b"w")])
        assert chain.side("t") == {b"k": b"w"}
    with opened(copy) as chain:
        assert str(chain.verify()) == "OK"


def rows_of_side_and_blocks(chain: Blockchain) -> dict[str, list[Any]]:
    return {n: chain._db.execute(f"SELECT * FROM {n}").fetchall() for n in ("blocks", "side")}


@pytest.mark.parametrize("i", range(5))
def test_a_row_that_sqlite_cannot_give_is_named(i: int) -> None:
    """Text that is not UTF-8 stops the reading there, and what comes before is still judged."""
    with database(rows_of(BASE)) as connection:
        connection.execute("UPDATE blocks SET header = CAST(x'ff' AS TEXT) WHERE idx = ?", (i,))
        chain = Blockchain(connection, keystore())
        assert str(chain.verify()) == f"UNREADABLE@{i}"
        assert str(chain.verify(signatures=False)) == f"UNREADABLE@{i}"
        if i == 4:
            connection.execute("UPDATE blocks SET body = x'' WHERE idx = 3")
            assert str(chain.verify()) == "EDITED@3"


def test_a_tree_that_does_not_lead_to_a_row_is_no_tampering(path: Path) -> None:
    """A key is damaged in a page by which SQLite finds rows; the rows are as they were."""
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        chain.append([draft(number) for number in range(40)], NOW)
        ((root,),) = chain._db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blocks'")
        head = chain.head()
    content, rows, lost = path.read_bytes(), rows_in(path), 0
    page = (root - 1) * 4096
    assert content[page] == 5, "an interior page"
    for cell in range(int.from_bytes(content[page + 3 : page + 5], "big")):
        at = page + int.from_bytes(content[page + 12 + 2 * cell :][:2], "big") + 4
        path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
        assert rows_in(path) == rows
        with opened(path) as chain:
            verdicts = {str(list(chain.verification(slice_blocks=n))[-1]) for n in (3, 5, 100)}
            assert {verdict.split("@")[0] for verdict in verdicts} <= {"OK", "UNREADABLE"}
            for start in range(head.index + 1):
                places = list(range(max(1, start), head.index + 1))
                with suppress(StoreUnreadable):
                    assert [block.index for block, _ in chain.records(SENT, start=start)] == places
                with suppress(StoreUnreadable):
                    assert len(chain.coins(start=start)) == len(places)
            if chain.block(head.index) is None:
                lost += 1
                with pytest.raises(StoreUnreadable, match="cannot be found"):
                    chain.compare(head, "bob")
        lost += verdicts != {"OK"}
    assert lost > 1


def rows_in(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM blocks ORDER BY idx").fetchall()


def test_a_file_cut_short_is_whole_only_if_its_blocks_are(path: Path) -> None:
    content = whole_file(path)
    rows, last = rows_in(path), content.rindex(b"CRB1")
    for size in range(0, len(content), 512):
        path.write_bytes(content[:size])
        verdict = judged(path)
        if verdict != "unreadable":
            assert (verdict, rows_in(path)) == ("OK", rows)
            assert size > last


def test_a_damaged_file_is_judged_and_never_a_traceback(path: Path) -> None:
    """A bit of the file flipped anywhere, most of them in SQLite's own pages and schema."""
    content = whole_file(path)
    rows = rows_in(path)
    schema = [at for at in range(3000, 4096) if content[at]]
    seen = set()
    for at in [*random.sample(schema, 130), *range(100), *random.sample(range(len(content)), 70)]:
        path.write_bytes(flipped(content, at, random.randrange(8)))
        verdict = judged(path)
        seen.add(verdict)
        if verdict == "OK":
            assert rows_in(path) == rows, at
    assert {"OK", "unreadable"} < seen


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        ("DELETE FROM blocks", "MISSING@0"),
        ("UPDATE blocks SET header = x'00' WHERE idx = 3", "UNREADABLE@3"),
        ("UPDATE blocks SET signature = 0 WHERE idx = 3", "UNREADABLE@3"),
    ],
)
def test_a_chain_without_a_last_block_opens_to_be_judged(
    path: Path, chain: Blockchain, statement: str, verdict: str
) -> None:
    chain.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    with opened(path) as chain:
        assert str(chain.verify()) == verdict
        with pytest.raises(StoreUnreadable, match="no last block"):
            chain.head()
        with pytest.raises(StoreUnreadable, match="no last block"):
            chain.add_block(draft(4), NOW)
    with opened(path) as chain:
        assert str(chain.verify()) == verdict


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [(b"header BLOB NOT NULL", b"header BLOB NOT NUL\xcc"), (b"KEY (name", b"KEY (n\xe1me")],
    ids=["a keyword", "a column"],
)
def test_a_damaged_schema_that_is_not_utf8_is_unreadable(
    path: Path, whole: bytes, damaged: bytes
) -> None:
    """SQLite quotes it in its message, and Python cannot decode that."""
    content = whole_file(path)
    assert content.count(whole) == 1
    path.write_bytes(content.replace(whole, damaged))
    with pytest.raises(StoreUnreadable, match=r"chain\.db cannot be read"):
        Blockchain.open(path, keystore())


def test_every_error_is_a_store_error() -> None:
    assert {StoreFailed, StoreLocked, StoreUnreadable} == set(StoreError.__subclasses__())
