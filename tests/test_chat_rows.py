"""chat_rows: whatever indexes and encoding a database has, each row is read, or said not to be."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import make_vectors_chain as reference
import pytest
from chains import (
    BASE,
    NOW,
    RECEIVED,
    SENT,
    database,
    draft,
    keystore,
    opened,
    records,
    rows_in,
    rows_of,
    run,
)

from blockchain import Blockchain, SideRow, StoreUnreadable

pytestmark = pytest.mark.timeout(60)

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
