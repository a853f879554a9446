"""chat_checkpoint: a note beside a chain that is about that chain as it is, or no note."""

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
from blockchain import Blockchain, BlockType, Draft, SideRow
from chat_checkpoint import CHECKPOINT_TABLE, Checkpoint
from chat_wire import WireError

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

KEYS = keystore("alice").with_chain(bytes(16))
NOTE = Checkpoint(b"c" * 16, 7, b"h" * 32, 5, (("evidence-1.db", 4096), ("e", 0)), b"the past")


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Blockchain]:
    made = Blockchain.create(tmp_path / "chain.db", KEYS, 1)
    made.append([Draft(BlockType.SENT, b"text", bytes(32))] * 3, 2)
    yield made
    made.close()


def of(chain: Blockchain) -> Checkpoint:
    head = chain.head()
    return Checkpoint(head.chain_id, head.index, head.hash, 3, (), b"")


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


@given(st.binary(max_size=120))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        Checkpoint.parse(b"\1" + data)
    except WireError:
        assert len(data) < 16 + 8 + 32 + 8 + 4 or data[64:68] != bytes(4)


@pytest.mark.parametrize("data", [b"", b"\0" + NOTE.serialize()[1:], b"\2" + NOTE.serialize()[1:]])
def test_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Checkpoint.parse(data)


def test_the_note_of_a_chain_is_the_last_one_and_may_lie_behind(chain: Blockchain) -> None:
    chain_id = chain.head().chain_id
    assert Checkpoint.read(chain, chain_id) is None
    for _ in range(2):
        written = of(chain)
        note(chain, written)
        assert Checkpoint.read(chain, chain_id) == written
        chain.append([Draft(BlockType.SENT, b"more", bytes(32))] * 2, 4)
    assert Checkpoint.read(chain, chain_id) == written


@pytest.mark.parametrize(
    "change",
    [
        {"index": 2},
        {"index": 4},
        {"index": 2**64 - 1},
        {"hash": bytes(32)},
        {"chain_id": bytes(16)},
    ],
)
def test_a_note_that_is_not_about_this_chain_is_none(
    chain: Blockchain, change: dict[str, object]
) -> None:
    note(chain, replace(of(chain), **change))  # type: ignore[arg-type]
    assert Checkpoint.read(chain, chain.head().chain_id) is None


def test_a_note_of_another_chain_than_the_one_that_it_should_be_is_none(chain: Blockchain) -> None:
    note(chain, of(chain))
    assert Checkpoint.read(chain, bytes(16)) is None


def test_a_note_that_cannot_be_read_is_none(chain: Blockchain, tmp_path: Path) -> None:
    chain_id = chain.head().chain_id
    chain.append([], 3, [SideRow(CHECKPOINT_TABLE, b"", b"\1 is short")])
    assert Checkpoint.read(chain, chain_id) is None
    note(chain, of(chain))
    chain.close()
    database = sqlite3.connect(tmp_path / "chain.db")
    with database:
        database.execute("UPDATE side SET sealed = zeroblob(length(sealed))")
    database.close()
    damaged = Blockchain.open(tmp_path / "chain.db", KEYS)
    assert Checkpoint.read(damaged, chain_id) is None
    note(damaged, of(damaged))
    assert Checkpoint.read(damaged, chain_id) == of(damaged), "the next one takes its place"
    damaged.close()
