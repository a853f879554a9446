"""chat_checkpoint: a note beside a chain that is about that chain, or no note; what it tells."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_room import keystore

import chat_checkpoint
from blockchain import Blockchain, BlockType, Draft, Head, SideRow
from chat_checkpoint import CHECKPOINT_TABLE, Checkpoint, verify
from chat_wire import WireError

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

KEYS = keystore("alice").with_chain(bytes(16))
HEAD = Head(b"c" * 16, 7, b"h" * 32, b"s" * 64)
NOTE = Checkpoint(HEAD, 5, (("evidence-1.db", 4096), ("e", 0)), b"the past")


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Blockchain]:
    made = Blockchain.create(tmp_path / "chain.db", KEYS, 1)
    made.append([Draft(BlockType.SENT, b"text", bytes(32))] * 3, 2)
    yield made
    made.close()


def of(chain: Blockchain) -> Checkpoint:
    return Checkpoint(chain.head(), 3, (), b"")


def note(chain: Blockchain, note: Checkpoint) -> None:
    chain.append([], 3, [note.row()])


@pytest.mark.parametrize("note", [NOTE, replace(NOTE, evidence=()), replace(NOTE, past=b"")])
def test_a_note_is_read_as_it_was_written(note: Checkpoint) -> None:
    assert Checkpoint.parse(note.serialize()) == note


def test_a_past_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_checkpoint, "MAX_PAST_BYTES", 8)
    assert Checkpoint.parse(NOTE.serialize()) == NOTE
    larger = replace(NOTE, past=b"the past.")
    assert Checkpoint.parse(larger.serialize()) == replace(NOTE, past=b"")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        found = Checkpoint.parse(b"\2" + data)
    except WireError:
        assert len(data) < 16 + 8 + 32 + 64 + 8 + 4 or data[128:132] != bytes(4)
    else:
        assert found.serialize() == b"\2" + data


def test_a_file_whose_name_is_not_utf8_is_refused() -> None:
    data = NOTE.serialize().replace(b"evidence-1.db", b"evidence-\xff.db")
    with pytest.raises(WireError):
        Checkpoint.parse(data)


@pytest.mark.parametrize("data", [b"", b"\0" + NOTE.serialize()[1:], b"\1" + NOTE.serialize()[1:]])
def test_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Checkpoint.parse(data)


def test_the_note_of_a_chain_is_the_last_one_and_may_lie_behind(chain: Blockchain) -> None:
    assert Checkpoint.read(chain) is None
    for _ in range(2):
        written = of(chain)
        note(chain, written)
        assert Checkpoint.read(chain) == written
        chain.append([Draft(BlockType.SENT, b"more", bytes(32))] * 2, 4)
    assert Checkpoint.read(chain) == written
    assert verify(chain, written) == chain.verify()


@pytest.mark.parametrize(
    "change",
    [
        {"index": 2},
        {"index": 99},
        {"index": 2**64 - 1},
        {"hash": b"h" * 32},
        {"chain_id": b"c" * 16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_note_that_this_chains_key_did_not_sign_is_none(
    chain: Blockchain, change: dict[str, object]
) -> None:
    head = replace(chain.head(), **change)  # type: ignore[arg-type]
    note(chain, replace(of(chain), head=head))
    assert Checkpoint.read(chain) is None


def test_a_note_of_another_chain_of_the_same_keys_is_none(
    chain: Blockchain, tmp_path: Path
) -> None:
    other = Blockchain.create(tmp_path / "other.db", KEYS, 1)
    note(chain, of(other))
    other.close()
    assert Checkpoint.read(chain) is None


# --------------------------------------------------------------------------- a note as evidence


def edit(chain: Blockchain, path: Path, *statements: str) -> Blockchain:
    """The same chain after somebody edited the file."""
    chain.close()
    database = sqlite3.connect(path)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()
    return Blockchain.open(path, KEYS)


def told(chain: Blockchain) -> str:
    """The verdict, quick and full; and no reading of the note makes any of this fail."""
    written = Checkpoint.read(chain)
    verdict = verify(chain, written)
    assert verdict == verify(chain, written, signatures=False)
    return f"{verdict}: {verdict.sentence}"


def test_blocks_that_were_cut_off_are_missed_by_the_note_that_was_left(
    chain: Blockchain, tmp_path: Path
) -> None:
    note(chain, of(chain))
    cut = edit(chain, tmp_path / "chain.db", "DELETE FROM blocks WHERE idx > 1")
    assert cut.verify().ok
    assert told(cut).startswith(
        "TRUNCATED@2: the last blocks were cut off: 2 blocks left, and this profile's own note "
        "holds block 3 with this profile's signature; blocks 0 to 1 are whole"
    )
    for number in range(2):  # by somebody who does not look
        cut.append([Draft(BlockType.SENT, b"other", bytes(32))], 5)
        assert told(cut).startswith(("TRUNCATED@3", "REWRITTEN@3")[number])
    cut.close()


def test_a_chain_that_was_written_anew_is_told_by_the_note_that_was_left(
    chain: Blockchain, tmp_path: Path
) -> None:
    note(chain, of(chain))
    anew = edit(chain, tmp_path / "chain.db", "DELETE FROM blocks WHERE idx > 1")
    anew.append([Draft(BlockType.SENT, b"other", bytes(32))] * 5, 5)
    assert anew.verify().ok
    assert told(anew) == (
        "REWRITTEN@3: block 3 is not the one that this profile's own note holds with this "
        "profile's signature: that block, or one before it and all since, was written anew; how "
        "far back, only more witnesses can tell"
    )
    anew.close()


def test_what_is_wrong_with_the_chain_itself_is_said_before_what_its_note_says(
    chain: Blockchain, tmp_path: Path
) -> None:
    note(chain, of(chain))
    body = "UPDATE blocks SET body = zeroblob(3) WHERE idx = 1"
    edited = edit(chain, tmp_path / "chain.db", body, "DELETE FROM blocks WHERE idx > 2")
    assert told(edited).startswith("EDITED@1: ")
    empty = edit(edited, tmp_path / "chain.db", "DELETE FROM blocks")
    assert told(empty).startswith("MISSING@0: ")
    empty.close()


def test_a_chain_whose_texts_were_erased_is_the_one_that_its_note_is_about(
    chain: Blockchain,
) -> None:
    note(chain, of(chain))
    chain.forget(3, 4)
    assert told(chain).startswith("OK: 5 blocks, ")


def test_a_note_that_cannot_be_read_is_none(chain: Blockchain, tmp_path: Path) -> None:
    chain.append([], 3, [SideRow(CHECKPOINT_TABLE, b"", b"\1 is short")])
    assert Checkpoint.read(chain) is None
    note(chain, of(chain))
    chain.close()
    database = sqlite3.connect(tmp_path / "chain.db")
    with database:
        database.execute("UPDATE side SET sealed = zeroblob(length(sealed))")
    database.close()
    damaged = Blockchain.open(tmp_path / "chain.db", KEYS)
    assert Checkpoint.read(damaged) is None
    note(damaged, of(damaged))
    assert Checkpoint.read(damaged) == of(damaged), "the next one takes its place"
    damaged.close()
