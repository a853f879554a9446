"""chat_audit: whose every record is, and what acks that are kept say of a chain that looks whole.

What BADAUTHOR is in each case: the vectors, which test_chat_verdicts.py runs through `audit`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from proofs import NOW, PRIVATE, Owner, Speaker

from blockchain import (
    Blockchain,
    BlockType,
    Draft,
    Finding,
    SideRow,
    StoreUnreadable,
    Verdict,
)
from chat_audit import Authors, Evidence, Misattributed, audit
from chat_memory import kept_of
from chat_messages import Event, EventKind
from chat_messages import Witness as WitnessPayload
from chat_wire import Label
from chat_witness import ACKS_TABLE, evidence


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.db"


@pytest.fixture
def alice(path: Path) -> Iterator[Owner]:
    with Owner("alice", path) as alice:
        yield alice


@pytest.fixture
def bob() -> Speaker:
    return Speaker("bob")


def deep(owner: Owner) -> Verdict:
    assert owner.chain.verify().ok
    return audit(owner.chain)


def cut(owner: Owner, path: Path, blocks: int) -> None:
    """Leaves that many blocks, and the side tables as they are."""
    owner.chain.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM blocks WHERE idx >= ?", (blocks,))
    owner.chain = Blockchain.open(path, owner.keys)


# --------------------------------------------------------------------------- authors


def test_a_chain_whose_authors_all_signed_is_well(alice: Owner, bob: Speaker) -> None:
    alice.addresses(alice, bob)
    alice.says("hello")
    heard = alice.hears(bob, "hi")
    alice.hears(bob, "psst", tag=PRIVATE)
    alice.is_acked_by(bob)
    alice.chain.forget(heard.index, NOW, kept_of(alice.chain.record(heard)))
    alice.chain.forget(heard.index + 1, NOW)
    assert str(deep(alice)) == "OK"
    assert deep(alice).index == alice.chain.head().index + 1


def test_words_that_their_author_did_not_sign_are_found(alice: Owner, bob: Speaker) -> None:
    alice.hears(bob, "hi")
    signed = bob.entry("I owe alice 100 coins")
    forged = replace(signed, signature=alice.session_key.sign(Label.ENTRY_SIG, signed.entry.head))
    block = alice.keeps(BlockType.RECEIVED, forged, bob)
    alice.says("look")
    assert deep(alice) == Verdict(Finding.BADAUTHOR, block.index)
    assert deep(alice).exit_code == 4
    assert f"blocks 0 to {block.index - 1} are whole" in deep(alice).sentence


def test_another_bundle_of_a_session_is_well(alice: Owner, bob: Speaker) -> None:
    heard = alice.hears(bob, "hi")
    alice.meets(bob.called("bobby", number=2))
    alice.chain.forget(heard.index, NOW, kept_of(alice.chain.record(heard)))
    assert deep(alice).ok


def test_nobody_claims_somebody_elses_session(
    alice: Owner, bob: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with the key that is public."""
    alice.hears(bob, "hi")
    posing = Speaker("carol")
    posing.session_key = bob.session_key
    with monkeypatch.context() as patch:
        patch.setattr("chat_messages.session_id_of", lambda *_: bob.session_id)
        claimed = posing.called("carol")
    block = alice.meets(claimed)
    assert str(deep(alice)) == f"BADAUTHOR@{block.index}"


def test_what_is_left_of_an_erased_entry_is_judged_by_the_bundle_before_that_entry(
    alice: Owner, bob: Speaker
) -> None:
    signed = bob.entry("hi")
    block = alice.append(BlockType.RECEIVED, signed.serialize(), signed.entry.entry_id)
    alice.meets(bob.bundle)
    erased = alice.chain.forget(block.index, NOW, kept_of(signed.serialize()))
    assert str(deep(alice)) == f"BADAUTHOR@{erased.index}"


def test_other_events_need_no_author(alice: Owner) -> None:
    event = Event(EventKind.IGNORE, bytes(32))
    alice.append(BlockType.EVENT, event.serialize(), event.event_id)
    assert deep(alice).ok


def test_an_author_who_was_not_introduced_is_named_so(alice: Owner, bob: Speaker) -> None:
    authors = Authors(alice.chain.genesis(), alice.keys.chain_id)
    signed = bob.entry("hi")
    block = alice.append(BlockType.RECEIVED, signed.serialize(), signed.entry.entry_id)
    with pytest.raises(Misattributed, match="nothing says whose session wrote it"):
        authors.take(block, signed.serialize())
    assert authors.introduced(bob.session_id, block.index) is None
    event = alice.meets(bob.bundle)
    authors.take(event, alice.chain.record(event))
    assert authors.introduced(bob.session_id, event.index) is None
    introduced = authors.introduced(bob.session_id, event.index + 1)
    assert introduced is not None
    assert (introduced.index, introduced.bundle.raw) == (event.index, bob.bundle.raw)
    again = alice.append(BlockType.RECEIVED, signed.serialize(), signed.entry.entry_id)
    written = authors.take(again, signed.serialize())
    assert written is not None
    assert (written.entry, written.author) == (signed.entry, introduced.bundle)
    assert not authors.is_ours(bob.session_id)


def test_a_record_that_cannot_be_read_is_no_wrong_author(alice: Owner, path: Path) -> None:
    said = alice.says("hello")
    other = replace(alice.keys, chain_data_key=b"another key of thirty-two bytes.")
    alice.chain.close()
    with closing(Blockchain.open(path, other)) as chain:
        assert chain.verify().ok
        with pytest.raises(StoreUnreadable):
            audit(chain)
    alice.chain = Blockchain.open(path, alice.keys)
    assert said.index == alice.chain.head().index


def test_progress_is_told_each_thousand_blocks(alice: Owner) -> None:
    event = Event(EventKind.IGNORE, bytes(32))
    draft = Draft(BlockType.EVENT, event.serialize(), event.event_id)
    alice.chain.append([draft] * 2500, NOW)
    seen: list[int] = []
    assert audit(alice.chain, progress=seen.append).ok
    assert seen == [1000, 2000]


# --------------------------------------------------------------------------- acks that are kept


def test_blocks_cut_off_are_missed_by_the_ack_of_who_holds_a_later_head(
    alice: Owner, bob: Speaker, path: Path
) -> None:
    said = alice.says("one")
    last = alice.hears(bob, "two")
    alice.is_acked_by(bob)
    assert deep(alice).ok
    cut(alice, path, said.index + 1)
    verdict = deep(alice)
    name = f"bob#{bob.fingerprint.hex()[:4]}"
    assert verdict == Verdict(Finding.TRUNCATED, said.index + 1, name, last.index)
    assert verdict.exit_code == 4
    assert name in verdict.sentence


def test_an_own_message_that_was_cut_off_is_missed_by_who_has_it(
    alice: Owner, bob: Speaker, path: Path
) -> None:
    """An ack lags: it names the newest message, and a head of some blocks before."""
    first = alice.says("one")
    alice.says("two")
    alice.is_acked_by(bob, first.index)
    cut(alice, path, first.index + 1)
    assert (deep(alice).finding, deep(alice).index) == (Finding.TRUNCATED, first.index + 1)


def test_blocks_written_anew_are_told_from_what_a_witness_holds(
    alice: Owner, bob: Speaker, path: Path
) -> None:
    first = alice.says("one")
    second = alice.hears(bob, "two")
    alice.is_acked_by(bob)
    cut(alice, path, first.index + 1)
    alice.meets(bob.bundle)
    alice.hears(bob, "something else")
    verdict = deep(alice)
    assert (verdict.finding, verdict.index) == (Finding.REWRITTEN, second.index)
    assert verdict.who.startswith("bob#")


def test_a_head_that_a_witness_handed_back_tells_as_an_ack_does(
    alice: Owner, bob: Speaker, path: Path
) -> None:
    first = alice.says("one")
    alice.says("two")
    last = alice.chain.head()
    witness = WitnessPayload.create(
        bob.session_key, bob.session_id, PRIVATE, alice.session_id, alice.head_at(last.index)
    )
    alice.remembers(bob, witness)
    assert deep(alice).ok
    cut(alice, path, first.index + 1)
    assert deep(alice) == Verdict(Finding.TRUNCATED, first.index + 1, bob.bundle.name, last.index)


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_erased_message_is_not_missed(alice: Owner, bob: Speaker, is_kept: bool) -> None:
    said = alice.says("regrettable")
    alice.is_acked_by(bob)
    alice.chain.forget(said.index, NOW, kept_of(alice.chain.record(said)) if is_kept else b"")
    assert deep(alice).ok


def test_what_an_ack_says_of_other_sessions_counts_for_nothing(
    alice: Owner, bob: Speaker, tmp_path: Path
) -> None:
    alice.says("hello")
    with Owner("alice", tmp_path / "other.db") as other:
        other.says("elsewhere")
        ack = bob.ack(alice.report(), other.report())
    alice.remembers(bob, ack)
    assert deep(alice).ok


def test_an_ack_that_is_damaged_is_no_tampering(alice: Owner, bob: Speaker) -> None:
    alice.says("hello")
    alice.chain.append([], NOW, [SideRow(ACKS_TABLE, b"key", b"no ack")])
    with pytest.raises(StoreUnreadable, match="damaged"):
        audit(alice.chain)


def test_evidence_is_what_its_witness_signed(alice: Owner, bob: Speaker) -> None:
    said = alice.says("hello")
    ack = bob.ack(alice.report())
    assert Evidence.parse(evidence(bob.bundle, ack)).feeds == ack.feeds
    head = alice.head_at(said.index)
    witness = WitnessPayload.create(
        bob.session_key, bob.session_id, PRIVATE, alice.session_id, head
    )
    handed = Evidence.parse(evidence(bob.bundle, witness))
    assert (handed.feeds, handed.payload) == ((), witness)
    assert handed.witness.name == f"bob#{bob.fingerprint.hex()[:4]}"
