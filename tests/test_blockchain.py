"""blockchain: what is written, and that it is on disk or not at all.

What its verdicts are is in test_chat_verdicts; what all share, vectors too, in chains.py.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import make_vectors_chain as reference
import pytest
from chains import (
    BASE,
    EVENT,
    EXAMPLE,
    NOW,
    RECEIVED,
    ROOT,
    SENT,
    VECTORS,
    database,
    draft,
    flipped,
    held_in,
    is_anywhere,
    keystore,
    naive_hash,
    opened,
    records,
    rows_in,
    rows_of,
    run,
    stored,
    value,
)

from blockchain import (
    Block,
    Blockchain,
    BlockType,
    Draft,
    Finding,
    Head,
    SideRow,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnreadable,
    Verdict,
)
from chat_messages import Bundle, EntryKind, Event, EventKind, SignedEntry
from chat_profile import Profile, ProfileDamaged
from chat_verification import verify_profile
from chat_wire import H, Label, u64
from crypto_utils import BadSignature, Identity, Keystore, RoomSecret, SigningKey, VerifyKey

pytestmark = pytest.mark.timeout(60)

DOCUMENT = (ROOT / "docs" / "CHAIN_FORMAT.md").read_text("utf-8")


def with_other_data_key() -> Keystore:
    ours = keystore()
    return Keystore(ours.identity, ours.chain_signing_key, b"another key of thirty-two bytes.")


# --------------------------------------------------------------------------------------------------
# vectors and the document


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
        wanted = StoreFailed if isinstance(error, Exception) else type(error)
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


def page_of_a_row_beyond_memory() -> bytes:
    """A database whose schema has a row of 2^64 bytes, if one believes it."""
    page = bytearray(512)
    page[:24] = b"SQLite format 3\0" + bytes.fromhex("0200000000402020")
    page[63] = 1  # the user_version
    page[100:110] = bytes.fromhex("0d000000030000000162")
    page[0x162:0x171] = b"\xff" * 13 + b"\0\x49"
    return bytes(page)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a database",
        b"SQLite format 3\0",
        os.urandom(5000),
        bytes(8192),
        page_of_a_row_beyond_memory(),
    ],
    ids=["empty", "text", "magic alone", "random", "zeros", "a row of 2^64 bytes"],
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
