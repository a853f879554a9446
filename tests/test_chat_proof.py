"""chat_proof: what a file proves to somebody who has nothing else, and all that is refused."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_vectors_proof as vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proofs import NOW, PRIVATE, ZEROS, Owner, Parts, Speaker, rechained, resigned
from recorded_member import RecordedMember
from simulated_room import LOBBY, SimulatedRoom

from blockchain import Block, Blockchain, BlockType, Draft, Head, SideRow, StoreUnreadable
from chat_memory import kept_of
from chat_messages import EntryKind, Event, EventKind, KeyRequest, SignedEntry
from chat_messages import Witness as WitnessPayload
from chat_proof import Report, Who, Witness, check_proof, make_proof
from chat_wire import H, Label, u64
from chat_witness import ACKS_TABLE
from crypto_utils import SigningKey

SENT, RECEIVED = BlockType.SENT, BlockType.RECEIVED


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[Owner]:
    with Owner("alice", tmp_path / "chain.db") as alice:
        yield alice


@pytest.fixture
def bob() -> Speaker:
    return Speaker("bob")


@pytest.fixture
def carol() -> Speaker:
    return Speaker("carol")


def proof(owner: Owner) -> bytes:
    return make_proof(owner.chain, nick="")


def report(owner: Owner) -> Report:
    found = check_proof(proof(owner))
    assert (found.exit_code, found.problem) == (0, "")
    return found


def refused(data: bytes, *why: str, exit_code: int = 4) -> Report:
    """The report, which proves nothing, and says these words."""
    found = check_proof(data)
    assert found.exit_code == exit_code, found.problem
    assert all(word in found.problem for word in why), found.problem
    assert (found.messages, found.witnesses, found.blocks) == ((), (), 0)
    assert not any(line.startswith("proven") for line in found.lines())
    return found


def told(found: Report, *words: str) -> bool:
    """Whether one line has all these words."""
    return any(all(word in line for word in words) for line in found.lines())


def small(alice: Owner, bob: Speaker) -> bytes:
    """Something of everything."""
    alice.addresses(alice, bob)
    alice.says("hello")
    alice.hears(bob, "hi")
    alice.is_acked_by(bob)
    return proof(alice)


@pytest.mark.parametrize("case", vectors.load(), ids=lambda case: str(case["why"]))
def test_every_vector_comes_out_as_it_must(case: dict[str, Any]) -> None:
    found = check_proof(case["file"])
    assert found.exit_code == case["exit"], found.problem
    if found.exit_code == 0:
        expected = {key: case[key] for key in case.keys() - {"why", "exit", "file"}}
        assert vectors.outcome(found) == expected


# --------------------------------------------------------------------------- what is proven


def test_a_proof_shows_whose_it_is_who_said_what_and_who_witnessed_it(
    alice: Owner, bob: Speaker
) -> None:
    said = alice.says("hello")
    heard = alice.hears(bob, "hi, 你好")
    alice.is_acked_by(bob)
    found = report(alice)
    alice_, bob_ = Who(alice.fingerprint, "alice"), Who(bob.fingerprint, "bob")
    assert found.owner == alice_
    assert (found.chain_id, found.blocks) == (alice.keys.chain_id, 5)
    assert (found.head_hash, found.head_signed) == (alice.chain.head().hash, True)
    assert (found.started_ms, found.ended_ms) == (NOW, NOW + 1000)
    assert (found.finding, found.predecessor) == ("", None)
    assert (found.undisclosed, found.erased) == (0, 0)
    first, second = found.messages
    assert (first.index, first.author, first.text) == (said.index, alice_, "hello")
    assert (second.index, second.author, second.text) == (heard.index, bob_, "hi, 你好")
    assert (first.is_own, second.is_own) == (True, False)
    assert (first.sent_ms, first.appended_ms, first.seq) == (NOW, NOW + 1000, 1)
    assert (first.session_id, first.tag) == (alice.session_id, LOBBY.tag)
    assert found.witnesses == (Witness(bob_, heard.index, 1),)
    assert first.witnesses == second.witnesses == (bob_,)


def test_what_real_sessions_said_and_acknowledged_is_proven(tmp_path: Path) -> None:
    room = SimulatedRoom()
    with (
        RecordedMember(room, "alice", tmp_path / "a") as alice,
        RecordedMember(room, "bob", tmp_path / "b") as bob,
    ):
        for member in (alice, bob):
            room.connect(member)
        for text in ("one", "two", "/msg bob a secret"):
            alice.types(text)
            room.passes(5)
        bob.types("three")
        room.passes(5)
        found = check_proof(make_proof(alice.file, nick=""))
    assert (found.exit_code, found.problem) == (0, "")
    said = [(m.author.nick, m.text, m.is_private) for m in found.messages]
    assert said == [
        ("alice", "one", False),
        ("alice", "two", False),
        ("alice", "a secret", True),
        ("bob", "three", False),
    ]
    (witness,) = found.witnesses
    assert (witness.who.nick, witness.entries) == ("bob", 3)
    assert witness.index >= found.messages[0].index
    assert (found.late, found.unseen, found.forks) == (0, 0, ())


def test_a_chain_on_which_nothing_was_said_is_proven_to_be_empty(alice: Owner) -> None:
    found = report(alice)
    assert (found.blocks, found.messages, found.owner.nick) == (1, (), "?")
    assert check_proof(make_proof(alice.chain, nick="ally")).owner.nick == "ally"


def test_the_owner_is_called_what_his_last_session_was(alice: Owner, bob: Speaker) -> None:
    alice.hears(bob, "hi")
    alice.says("hello")
    alice.meets(alice.called("alicia", number=2))
    found = check_proof(make_proof(alice.chain, nick="somebody"))
    assert (found.exit_code, found.owner) == (0, Who(alice.fingerprint, "alicia"))


def test_an_earlier_chain_and_what_was_wrong_with_it_are_named(tmp_path: Path) -> None:
    with Owner("alice", tmp_path / "chain.db", finding="EDITED@7: block 7 was changed") as alice:
        found = report(alice)
    assert found.finding == "EDITED@7: block 7 was changed"
    assert found.predecessor is not None
    assert found.predecessor[:2] == (b"an earlier chain", 7)
    assert told(found, "earlier chain", "EDITED@7")


# --------------------------------------------------------------------------- what is shown of it


def test_what_is_not_disclosed_stays_a_hash(alice: Owner, bob: Speaker, carol: Speaker) -> None:
    alice.says("the first")
    alice.hears(bob, "a secret of bob")
    shown = alice.hears(carol, "the third")
    alice.is_acked_by(bob)
    data = make_proof(alice.chain, nick="", only=lambda block, _: block.index == shown.index)
    found = check_proof(data)
    assert (found.exit_code, [m.text for m in found.messages]) == (0, ["the third"])
    assert (found.undisclosed, found.erased) == (2, 0)
    for hidden in (b"the first", b"a secret", SignedEntry.serialize(bob.entry("x")).hex().encode()):
        assert hidden not in data
    records = dict(Parts.of(data).records)
    assert sum(b"bob" in record for record in records.values()) == 0
    assert told(found, "not disclosed: 2 entries")


def test_the_filter_is_asked_for_every_entry_and_an_erased_one_too(
    alice: Owner, bob: Speaker
) -> None:
    alice.addresses(alice, bob)
    said = alice.says("hello")
    alice.hears(bob, "hi")
    alice.chain.forget(said.index, NOW, kept_of(alice.chain.record(said)))
    asked: list[tuple[BlockType, int, bytes]] = []

    def only(block: Block, signed: SignedEntry) -> bool:
        asked.append((block.type, signed.entry.seq, signed.entry.text))
        return False

    found = check_proof(make_proof(alice.chain, nick="", only=only))
    assert sorted(asked)[0] == (SENT, 2, b"")
    assert sorted(kind for kind, _, _ in asked) == [SENT, BlockType.CONTROL, RECEIVED]
    assert (found.exit_code, found.messages, found.undisclosed, found.erased) == (0, (), 2, 1)


def test_an_erased_text_is_gone_and_its_author_is_still_proven(alice: Owner, bob: Speaker) -> None:
    heard = alice.hears(bob, "regrettable")
    alice.says("hello")
    alice.chain.forget(heard.index, NOW, kept_of(alice.chain.record(heard)))
    found = report(alice)
    erased, said = found.messages
    assert (erased.index, erased.author.nick, erased.text) == (heard.index, "bob", None)
    assert said.text == "hello"
    assert (found.erased, found.undisclosed) == (1, 0)
    assert told(found, "erased by alice", "1 text")


def test_of_a_text_that_was_erased_with_all_about_it_only_the_number_is_known(
    alice: Owner, bob: Speaker
) -> None:
    heard = alice.hears(bob, "regrettable")
    alice.chain.forget(heard.index, NOW)
    found = report(alice)
    assert (found.messages, found.erased, found.undisclosed) == ((), 1, 0)


def test_a_message_to_one_person_is_marked_private(alice: Owner, bob: Speaker) -> None:
    alice.says("to all")
    alice.hears(bob, "psst", tag=PRIVATE)
    assert [m.is_private for m in report(alice).messages] == [False, True]


def test_entries_that_are_no_messages_are_not_listed(alice: Owner, bob: Speaker) -> None:
    alice.addresses(alice, bob)
    signed = bob.entry(b"of a kind that is not known yet", kind=EntryKind.CHAT)
    later = replace(signed.entry, kind=9)
    alice.keeps(RECEIVED, later.sign(bob.session_key), bob)
    found = report(alice)
    assert (found.messages, found.undisclosed) == ((), 0)


# --------------------------------------------------------------------------- witnesses


def test_a_witness_covers_the_blocks_up_to_the_one_it_signed_for(
    alice: Owner, bob: Speaker, carol: Speaker
) -> None:
    first = alice.says("one")
    alice.is_acked_by(carol)
    second = alice.says("two")
    alice.is_acked_by(bob)
    alice.says("three")
    found = report(alice)
    names = [[who.nick for who in message.witnesses] for message in found.messages]
    assert names == [["bob", "carol"], ["bob"], []]
    indices = [(witness.who.nick, witness.index) for witness in found.witnesses]
    assert indices == [("bob", second.index), ("carol", first.index)]
    assert told(found, f"blocks 0 to {second.index}", "not changed")
    assert told(found, "not proven", f"block {found.blocks - 1}: no witness has it")


def test_a_witness_signed_for_the_messages_that_lead_to_the_one_it_names(
    alice: Owner, bob: Speaker
) -> None:
    alice.addresses(alice, bob)
    for text in ("one", "two", "three"):
        alice.says(text)
    alice.is_acked_by(bob, -1, missing=(3,))
    alice.says("four, not acked")
    found = report(alice)
    assert found.witnesses == (Witness(Who(bob.fingerprint, "bob"), -1, 3),)
    assert all(not message.witnesses for message in found.messages)
    assert told(found, "bob", "signed for 3 messages of alice")


def test_who_came_late_is_not_said_to_have_what_was_said_before(tmp_path: Path) -> None:
    room = SimulatedRoom()
    with (
        RecordedMember(room, "alice", tmp_path / "a") as alice,
        RecordedMember(room, "bob", tmp_path / "b") as bob,
    ):
        room.connect(alice)
        for text in ("one", "two"):
            alice.types(text)
        room.connect(bob)
        alice.types("three")
        room.passes(5)
        assert bob.messages == ["alice: three"]
        found = check_proof(make_proof(alice.file, nick=""))
    assert told(found, "bob#", "signed for 3 messages of alice")
    assert told(found, "named the last", "has those as well is not proven")


def test_a_message_that_is_not_disclosed_breaks_the_links_to_those_before(
    alice: Owner, bob: Speaker
) -> None:
    blocks = [alice.says(text) for text in ("one", "two", "three")]
    alice.is_acked_by(bob)
    hidden = blocks[1].index
    data = make_proof(alice.chain, nick="", only=lambda block, _: block.index != hidden)
    (witness,) = check_proof(data).witnesses
    assert witness.entries == 1


def test_several_acks_of_one_person_count_once(alice: Owner, bob: Speaker) -> None:
    alice.says("one")
    alice.says("psst", tag=PRIVATE)
    alice.is_acked_by(bob, 2)
    again = Speaker("bob", bob.keys.with_chain(b"bob's next chain"))
    alice.is_acked_by(again, 3)
    alice.is_acked_by(again, 1, tag=PRIVATE)
    assert report(alice).witnesses == (Witness(Who(bob.fingerprint, "bob"), 3, 2),)


def test_a_head_that_was_handed_back_is_evidence_too(alice: Owner, bob: Speaker) -> None:
    said = alice.says("hello")
    head = alice.head_at(said.index)
    alice.remembers(
        bob,
        WitnessPayload.create(bob.session_key, bob.session_id, LOBBY.tag, alice.session_id, head),
    )
    data = make_proof(alice.chain, nick="")
    assert check_proof(data).witnesses == (Witness(Who(bob.fingerprint, "bob"), said.index, 0),)


def test_acks_of_a_conversation_that_is_not_disclosed_stay_out(alice: Owner, bob: Speaker) -> None:
    alice.says("to all")
    alice.says("psst", tag=PRIVATE)
    alice.is_acked_by(bob, tag=PRIVATE)
    data = make_proof(alice.chain, nick="", only=lambda _, signed: signed.entry.tag == LOBBY.tag)
    assert Parts.of(data).statements == ()
    assert PRIVATE not in data
    alice.is_acked_by(bob)
    data = make_proof(alice.chain, nick="", only=lambda *_: False)
    assert [payload[18:34] for _, payload in Parts.of(data).statements] == [LOBBY.tag]


def test_whoever_lies_of_an_earlier_session_beside_the_present_one_spoils_no_proof(
    alice: Owner, bob: Speaker, carol: Speaker
) -> None:
    """A session compares with its chain what an ack says of itself, and of nothing else."""
    earlier = Speaker("allie", alice.keys)
    alice.meets(earlier.called("alice"))
    said = alice.says("hello")
    alice.is_acked_by(bob)
    lie = replace(alice.report(), session_id=earlier.session_id, entry_id=b"none".ljust(32))
    alice.remembers(carol, carol.ack(alice.report(), lie))
    found = report(alice)
    assert found.witnesses == (Witness(Who(bob.fingerprint, "bob"), said.index, 1),)


def test_the_owner_is_not_told_as_his_own_witness(alice: Owner) -> None:
    alice.says("hello")
    alice.is_acked_by(alice)
    found = report(alice)
    assert found.witnesses == ()
    assert told(found, "not proven", "the blocks", "written them anew")


# --------------------------------------------------------------------------- order


def test_late_messages_are_told_from_what_authors_signed(alice: Owner, bob: Speaker) -> None:
    alice.meets(bob.bundle)
    early, late = bob.entry("one"), bob.entry("two")
    alice.keeps(RECEIVED, late, bob)
    alice.keeps(RECEIVED, early, bob)
    found = report(alice)
    assert (found.late, [m.text for m in found.messages]) == (1, ["two", "one"])
    assert told(found, "1 entry", "late")


def test_an_answer_that_stands_before_what_its_author_had_seen_is_told(
    alice: Owner, bob: Speaker, carol: Speaker
) -> None:
    question = carol.entry("well?")
    alice.hears(bob, "yes", seen=question.entry.entry_id)
    alice.keeps(RECEIVED, question, carol)
    assert report(alice).late == 1


def test_gaps_in_an_authors_own_numbers_are_told(alice: Owner, bob: Speaker) -> None:
    alice.hears(bob, "one")
    for text in ("two", "three"):
        bob.entry(text)
    alice.hears(bob, "four")
    found = report(alice)
    assert found.unseen == 2
    assert told(found, "2 entries", "numbered")


def test_who_signed_two_messages_under_one_number_is_named(alice: Owner, bob: Speaker) -> None:
    alice.hears(bob, "yes")
    alice.keeps(RECEIVED, bob.entry("no", seq=1, previous=ZEROS), bob)
    found = report(alice)
    assert found.forks == (Who(bob.fingerprint, "bob"),)
    assert told(found, "two different messages", "bob")


# --------------------------------------------------------------------------- a changed file


def test_no_changed_byte_is_accepted(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    assert check_proof(data).exit_code == 0
    seed = random.Random(4)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << seed.randrange(8)
        assert check_proof(bytes(changed)).exit_code in (4, 6), at


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_no_byte_is_accepted_with_any_other_value(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    for at in range(len(data)):
        for value in set(range(256)) - {data[at]}:
            changed = data[:at] + bytes((value,)) + data[at + 1 :]
            assert check_proof(changed).exit_code in (4, 6), (at, value)


def test_no_other_value_of_a_sample_of_bytes_is_accepted(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    for at in random.Random(4).sample(range(len(data)), 8):
        for value in set(range(256)) - {data[at]}:
            changed = data[:at] + bytes((value,)) + data[at + 1 :]
            assert check_proof(changed).exit_code in (4, 6), (at, value)


def test_a_file_that_was_cut_cannot_be_read(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    for size in range(len(data)):
        assert check_proof(data[:size]).exit_code == 6, size
    refused(data + b"\0", "1 bytes too many", exit_code=6)


def test_what_is_no_proof_or_of_another_version_cannot_be_read(alice: Owner, bob: Speaker) -> None:
    refused(b"", exit_code=6)
    refused(b"From alice: hello\n" * 50, "no proof", exit_code=6)
    refused(replace(Parts.of(small(alice, bob)), version=2).signed_by(alice), "2", exit_code=6)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_it_raise(data: bytes, has_magic: bool) -> None:
    assert check_proof(b"CRP1\1" * has_magic + data).exit_code == 6


@pytest.mark.parametrize("field", ["rows", "records", "statements"])
def test_counts_of_gigabytes_cost_nothing(alice: Owner, bob: Speaker, field: str) -> None:
    data = small(alice, bob)
    parts = Parts.of(data)
    before = replace(parts, statements=())
    if field != "statements":
        before = replace(before, records=())
    if field == "rows":
        before = replace(before, rows=())
    at = len(before.unsigned()) - {"rows": 12, "records": 8, "statements": 4}[field]
    data = data[:at] + b"\xff" * 4 + data[at + 4 :]
    tracemalloc.start()
    refused(data, exit_code=6)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * len(data)


# --------------------------------------------------------------------------- third parties


def test_only_the_owner_can_sign_a_file(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    found = refused(Parts.of(data).signed_by(bob), "changed after its owner signed it")
    assert found.owner == Who(bytes(32), "?")


def test_a_text_that_somebody_swapped_is_refused(alice: Owner, bob: Speaker) -> None:
    refused(small(alice, bob).replace(b"hello", b"jello"), "changed after its owner signed it")


def test_a_proof_under_another_identity_names_that_one(
    alice: Owner, bob: Speaker, tmp_path: Path
) -> None:
    """Mallory shows alice's words as what he received: they stay alice's."""
    data = small(alice, bob)
    with Owner("alice", tmp_path / "m.db", who="mallory") as mallory:
        mallory.keeps(RECEIVED, alice.entry("hello"), alice)
        mallory.says("I am alice")
        found = report(mallory)
        assert found.owner == Who(mallory.fingerprint, "alice")
        assert found.owner != check_proof(data).owner
        names = [line.split()[2] for line in found.lines() if line.startswith("  1 of alice")]
        assert len(set(names)) == 2
        stolen = replace(Parts.of(data), genesis=Parts.of(proof(mallory)).genesis)
    refused(stolen.signed_by(mallory), "not certified")


def test_a_chain_key_that_the_identity_did_not_certify_is_refused(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    genesis = Parts.of(data).genesis
    other = SigningKey.generate().public
    refused(data.replace(genesis, genesis[:424] + other + genesis[456:]), "not certified")


# --------------------------------------------------------------------------- a dishonest owner


def test_a_block_of_another_chain_is_refused(alice: Owner, bob: Speaker, tmp_path: Path) -> None:
    data = small(alice, bob)
    with Owner("alice", tmp_path / "other.db") as other:
        other.says("from elsewhere")
        foreign = Parts.of(proof(other)).rows
    rows = Parts.of(data).rows
    for at in range(1, len(rows)):
        refused(resigned(data, alice, rows=(*rows[:at], foreign[1], *rows[at:])), f"block {at}")
        refused(resigned(data, alice, rows=(*rows[:at], foreign[1], *rows[at + 1 :])), f"{at}")
    refused(resigned(data, alice, rows=foreign), "not certified")


@pytest.mark.parametrize("at", [1, 3])
def test_blocks_that_are_repeated_missing_or_swapped_are_refused(
    alice: Owner, bob: Speaker, at: int
) -> None:
    data = small(alice, bob)
    rows = Parts.of(data).rows
    for changed in (
        (*rows[: at + 1], *rows[at:]),
        (*rows[:at], *rows[at + 1 :]),
        (*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]),
    ):
        refused(resigned(data, alice, rows=changed), "block")
    refused(resigned(data, alice, rows=()), "no block")


def test_blocks_cut_off_behind_what_a_witness_holds_are_missed(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    parts = Parts.of(data)
    shorter = parts.rows[:-1]
    records = tuple(r for r in parts.records if r[0] < len(shorter))
    refused(resigned(data, alice, rows=shorter, records=records), "bob", "cut off")


def test_a_chain_written_anew_is_refused_by_its_witness(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)

    def backdated(block: Block) -> Block:
        return replace(block, timestamp_ms=NOW - 86_400_000)

    changed = rechained(data, alice, backdated)
    refused(changed, "bob#", "written anew")
    assert check_proof(resigned(changed, alice, statements=())).exit_code == 0  # his word alone


def test_an_entry_that_a_witness_signed_for_cannot_be_left_out(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    said = next(i for i, row in enumerate(Parts.of(data).rows) if row[4] == SENT)

    def hidden(block: Block) -> Block:
        return replace(block, entry_id=H(Label.ENTRY, b"else")) if block.index == said else block

    parts = Parts.of(rechained(data, alice, hidden))
    ack = bob.ack(alice.report(-1))
    changed = replace(
        parts,
        records=tuple(r for r in parts.records if r[0] != said),
        statements=((bob.bundle.raw, ack.serialize()),),
    )
    refused(changed.signed_by(alice), "bob#", "not in this chain")


@pytest.mark.parametrize("is_erased", [False, True])
def test_a_message_that_was_received_twice_counts_where_it_stands_first(
    alice: Owner, bob: Speaker, is_erased: bool
) -> None:
    """Who is forgotten after a month can say the very same once more."""
    alice.meets(bob.bundle)
    yes = bob.entry("yes")
    first = alice.keeps(RECEIVED, yes, bob)
    alice.says("shall I hand over the money?")
    second = alice.keeps(RECEIVED, yes, bob)
    if is_erased:
        alice.chain.forget(first.index, NOW, kept_of(yes.serialize()))
    data = proof(alice)
    assert second.index not in dict(Parts.of(data).records)
    for disclosed in (data, disclosing(data, alice, second.index, yes.serialize())):
        found = check_proof(disclosed)
        assert [(m.author.nick, m.index) for m in found.messages] == [("bob", 2), ("alice", 4)]
        assert found.messages[0].text == (None if is_erased else "yes")
        counts = (found.undisclosed, found.erased, found.late, found.forks)
        assert counts == (0, int(is_erased), 0, ())
    alice.chain.forget(second.index, NOW)
    assert report(alice).erased == is_erased


@pytest.mark.parametrize("kind", [SENT, BlockType.CONTROL])
def test_a_message_of_the_owners_cannot_stand_twice(
    alice: Owner, bob: Speaker, kind: BlockType
) -> None:
    own = alice.entry(bytes(16), kind=EntryKind.CHAT if kind is SENT else EntryKind.AUDIENCE)
    alice.keeps(kind, own, alice)
    alice.hears(bob, "well?")
    alice.keeps(kind, own, alice)
    refused(proof(alice), "block 5 repeats the message of block 2")


@pytest.mark.parametrize("kind", [BlockType.GENESIS, BlockType.FORGET])
def test_a_genesis_stands_first_and_nowhere_else(
    alice: Owner, bob: Speaker, kind: BlockType
) -> None:
    data = small(alice, bob)
    at = 3 if kind is BlockType.GENESIS else 0
    changed = rechained(data, alice, lambda b: replace(b, type=kind) if b.index == at else b)
    refused(changed, f"block {at} cannot be of type")


def test_an_unknown_type_of_block_is_refused(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    rows = list(Parts.of(data).rows)
    rows[2] = rows[2][:4] + b"\7" + rows[2][5:]
    refused(resigned(data, alice, rows=tuple(rows)), "block 2", "unknown type")


def test_an_own_message_without_proof_of_work_is_refused(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    at = next(i for i, row in enumerate(Parts.of(data).rows) if row[4] == SENT)

    def cheap(block: Block) -> Block:
        return replace(block, difficulty=0) if block.index == at else block

    refused(rechained(data, alice, cheap), f"block {at} lacks its proof of work")


def test_an_old_block_that_is_not_signed_is_found_where_signatures_are_looked_at(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    rows = list(Parts.of(data).rows)
    rows[2] = rows[2][:150] + bytes(64)
    changed = resigned(data, alice, rows=tuple(rows))
    refused(changed, "block 2 does not bear the owner's signature")
    assert check_proof(changed, signatures=False).exit_code == 0
    assert check_proof(data, signatures=False) == check_proof(data)
    rows = [*Parts.of(data).rows[:-1], Parts.of(data).rows[-1][:150] + bytes(64)]
    last = check_proof(resigned(data, alice, rows=tuple(rows)), signatures=False)
    assert (last.exit_code, "does not bear" in last.problem) == (4, True)


def disclosing(data: bytes, owner: Owner, index: int, record: bytes) -> bytes:
    records = dict(Parts.of(data).records)
    return resigned(data, owner, records=tuple(sorted((records | {index: record}).items())))


def test_another_text_than_the_authors_is_refused(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    (index, record) = next((i, r) for i, r in Parts.of(data).records if b"hi" in r[-80:])
    swapped = record[:164] + b"ho" + record[166:]
    refused(
        disclosing(data, alice, index, swapped), f"block {index}", "not the one that was signed"
    )
    other = bob.entry("ho").serialize()
    refused(disclosing(data, alice, index, other), f"block {index}", "not the one that the block")


def test_a_message_without_its_authors_signature_is_refused(alice: Owner, bob: Speaker) -> None:
    alice.meets(bob.bundle)
    signed = bob.entry("I owe alice 100 coins")
    forged = replace(signed, signature=alice.session_key.sign(Label.ENTRY_SIG, signed.entry.head))
    block = alice.keeps(RECEIVED, forged, bob)
    refused(proof(alice), f"block {block.index}", "did not sign")


def test_a_message_cannot_be_given_to_another_author(
    alice: Owner, bob: Speaker, carol: Speaker
) -> None:
    """The bundle says whose session it is: it has to stand on the chain as it is shown."""
    data = small(alice, bob)
    (index, record) = next((i, r) for i, r in Parts.of(data).records if bob.bundle.raw in r)
    posing = Speaker("carol")
    posing.session_key, posing.session_id = bob.session_key, bob.session_id
    event = record[:17] + posing.called("carol").raw
    refused(disclosing(data, alice, index, event), f"block {index}", "not the one that the block")
    alice.meets(posing.called("carol"))
    assert [m.author.nick for m in report(alice).messages] == ["alice", "bob"]


def test_acks_under_bundles_that_differ_do_not_spoil_a_proof(alice: Owner, bob: Speaker) -> None:
    alice.hears(bob, "hi")
    alice.says("hello")
    alice.is_acked_by(bob)
    again = Speaker("bob", bob.keys.with_chain(b"bob's next chain"))
    again.session_key, again.session_id = bob.session_key, bob.session_id
    again.bundle = again.called("bob")
    alice.is_acked_by(again, tag=LOBBY.tag)
    alice.remembers(again, again.ack(alice.report()))
    assert [(w.who.nick, w.entries) for w in report(alice).witnesses] == [("bob", 1)]


def test_an_own_message_of_a_session_that_is_not_the_owners_is_refused(
    alice: Owner, bob: Speaker
) -> None:
    block = alice.keeps(SENT, bob.entry("I am alice"), bob)
    refused(proof(alice), f"block {block.index}", "the owner's own, and is not")


def test_an_own_session_of_another_chain_is_not_the_owners_here(
    alice: Owner, tmp_path: Path
) -> None:
    with Owner("alice", tmp_path / "other.db") as other:
        block = alice.keeps(SENT, other.entry("said elsewhere"), other)
    refused(proof(alice), f"block {block.index}", "the owner's own, and is not")


@pytest.mark.parametrize("kind", [SENT, BlockType.CONTROL])
def test_an_own_entry_of_another_kind_than_its_blocks_is_refused(
    alice: Owner, bob: Speaker, kind: BlockType
) -> None:
    other = EntryKind.AUDIENCE if kind is SENT else EntryKind.CHAT
    block = alice.keeps(kind, alice.entry(bytes(16), kind=other), alice)
    refused(proof(alice), f"block {block.index}", "another kind")


def test_records_stand_in_order_each_once_and_in_a_block_that_is_there(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    records = Parts.of(data).records
    for wrong in (records[0], records[-1], (99, records[-1][1])):
        changed = (*records, wrong)
        refused(resigned(data, alice, records=changed), "not in the order of their blocks")


def test_what_is_said_to_be_left_of_an_erased_text_has_to_be_its_own(
    alice: Owner, bob: Speaker
) -> None:
    heard = alice.hears(bob, "one")
    other = bob.entry("two")
    block = alice.chain.forget(heard.index, NOW, kept_of(other.serialize()))
    refused(proof(alice), f"block {block.index}", "not the one that the block")


def test_a_message_of_somebody_whose_bundle_is_not_there_is_refused(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    records = tuple((i, r) for i, r in Parts.of(data).records if bob.bundle.raw not in r)
    refused(resigned(data, alice, records=records), "whose session wrote it")


def test_an_owners_name_keeps_to_the_grammar(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    for nick in (b"\xff", b"two words", "\u202eecila".encode(), b"a" * 33):
        refused(resigned(data, alice, nick=nick), "owner's name")
    assert check_proof(resigned(data, alice, nick=b"ally")).owner.nick == "ally"


def test_whatever_the_owner_changes_and_signs_again_nobody_elses_word_changes(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    whole = check_proof(data)
    body, seed = Parts.of(data).unsigned(), random.Random(4)
    for at in range(5, len(body), 17):
        changed = body[:at] + bytes((body[at] ^ 1 << seed.randrange(8),)) + body[at + 1 :]
        signature = alice.keys.chain_signing_key.sign(Label.PROOF_SIG, changed)
        found = check_proof(changed + signature)
        if found.exit_code == 0:  # his own name, which is his to choose
            assert replace(found, owner=whole.owner) == whole


# --------------------------------------------------------------------------- bad statements


def stating(data: bytes, owner: Owner, bundle: bytes, payload: bytes) -> bytes:
    return resigned(data, owner, statements=((bundle, payload),))


def test_an_ack_that_its_witness_did_not_sign_is_refused(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    ((bundle, payload),) = Parts.of(data).statements
    changed = bytes([payload[-1] ^ 1]), bytes([bundle[-1] ^ 1])
    refused(stating(data, alice, bundle, payload[:-1] + changed[0]), "did not sign")
    refused(stating(data, alice, bundle[:-1] + changed[1], payload), "did not sign")
    ack = replace(bob.ack(alice.report()), session_id=alice.session_id)
    refused(stating(data, alice, bundle, ack.serialize()), "another session")


def test_an_ack_of_another_chain_is_refused(alice: Owner, bob: Speaker, tmp_path: Path) -> None:
    data = small(alice, bob)
    with Owner("alice", tmp_path / "other.db") as other:
        other.says("elsewhere")
        ack = bob.ack(other.report())
    refused(stating(data, alice, bob.bundle.raw, ack.serialize()), "nothing of this chain")
    session = replace(ack.feeds[0], session_id=alice.session_id)
    refused(stating(data, alice, bob.bundle.raw, bob.ack(session).serialize()), "written anew")


def test_an_ack_that_names_another_place_for_a_message_is_refused(
    alice: Owner, bob: Speaker
) -> None:
    data = small(alice, bob)
    for ack in (
        bob.ack(replace(alice.report(), seq=9)),
        bob.ack(alice.report(), tag=PRIVATE),
    ):
        found = stating(data, alice, bob.bundle.raw, ack.serialize())
        refused(found, "bob#", "is not the message of block")


def test_an_ack_names_no_message_that_the_owner_received(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    entry_id = next(row[102:134] for row in Parts.of(data).rows if row[4] == RECEIVED)
    ack = bob.ack(replace(alice.report(), entry_id=entry_id))
    refused(stating(data, alice, bob.bundle.raw, ack.serialize()), "not in this chain")


def test_a_head_that_says_nothing_of_this_chain_or_is_not_signed_is_refused(
    alice: Owner, bob: Speaker, tmp_path: Path
) -> None:
    data = small(alice, bob)
    head = alice.head_at(2)
    with Owner("alice", tmp_path / "other.db") as other:
        elsewhere = other.head_at(0)

    def handed(head: Head) -> bytes:
        witness = WitnessPayload.create(
            bob.session_key, bob.session_id, LOBBY.tag, alice.session_id, head
        )
        return stating(data, alice, bob.bundle.raw, witness.serialize())

    assert check_proof(handed(head)).exit_code == 0
    refused(handed(elsewhere), "another chain")
    refused(handed(replace(head, index=3)), "never signed")
    later = replace(head, index=99)
    signed = later.chain_id + u64(99) + later.hash
    key = alice.keys.chain_signing_key
    later = replace(later, signature=key.sign(Label.BLOCK_SIG, signed))
    refused(handed(later), "holds block 99", "cut off")


def test_a_statement_of_another_kind_or_the_owners_is_refused(alice: Owner, bob: Speaker) -> None:
    data = small(alice, bob)
    request = KeyRequest.create(bob.session_key, bob.session_id, LOBBY.tag, 1, alice.session_id)
    refused(stating(data, alice, bob.bundle.raw, request.serialize()), "neither an ack")
    own = alice.ack(alice.report())
    refused(stating(data, alice, alice.bundle.raw, own.serialize()), "no witness of his own")


def test_statements_stand_in_order_each_once(alice: Owner, bob: Speaker, carol: Speaker) -> None:
    alice.says("hello")
    for witness in (bob, carol):
        alice.is_acked_by(witness)
    data = proof(alice)
    one, other = Parts.of(data).statements
    for changed in ((other, one), (one, one)):
        refused(resigned(data, alice, statements=changed), "not in order, or there twice")


def test_more_witnesses_than_an_audience_holds_are_neither_read_nor_written(
    alice: Owner, bob: Speaker, carol: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.says("hello")
    alice.is_acked_by(bob, 1)
    alice.is_acked_by(carol, 2)
    data = proof(alice)
    monkeypatch.setattr("chat_proof._MAX_WITNESSES", 1)
    refused(data, "more than 1 witnesses", exit_code=6)
    assert [witness.index for witness in report(alice).witnesses] == [2]
    alice.says("is it you?")
    alice.is_acked_by(bob, 3)
    assert [(w.who.nick, w.index) for w in report(alice).witnesses] == [("bob", 3)]


# --------------------------------------------------------------------------- making one


def test_progress_is_told_each_thousand_blocks(alice: Owner) -> None:
    alice.says("hello")
    event = Event(EventKind.IGNORE, bytes(32))
    draft = Draft(BlockType.EVENT, event.serialize(), event.event_id)
    alice.chain.append([draft] * 2000, NOW)
    seen: list[int] = []
    assert check_proof(proof(alice), signatures=False, progress=seen.append).exit_code == 0
    assert seen == [1000, 2000]


def test_without_the_passphrase_no_proof_is_made(alice: Owner, tmp_path: Path) -> None:
    alice.says("hello")
    alice.chain.close()
    with (
        closing(Blockchain.open(tmp_path / "chain.db", alice.keys.public)) as locked,
        pytest.raises(StoreUnreadable, match="needs the passphrase"),
    ):
        make_proof(locked, nick="alice")


def test_a_chain_whose_last_block_stands_far_behind_makes_no_proof(
    alice: Owner, tmp_path: Path
) -> None:
    last, far = alice.says("hello"), 2**32
    alice.chain.close()
    header = replace(last, index=far).header
    with closing(sqlite3.connect(tmp_path / "chain.db")) as connection, connection:
        connection.execute(
            "UPDATE blocks SET idx = ?, header = ? WHERE idx = ?", (far, header, last.index)
        )
    with (
        closing(Blockchain.open(tmp_path / "chain.db", alice.keys)) as chain,
        pytest.raises(StoreUnreadable, match=f"block {last.index} is gone|cannot be read"),
    ):
        make_proof(chain, nick="alice")


def test_a_damaged_ack_or_record_makes_no_proof(alice: Owner, bob: Speaker) -> None:
    alice.says("hello")
    alice.chain.append([], NOW, [SideRow(ACKS_TABLE, b"key", b"no ack")])
    with pytest.raises(StoreUnreadable, match="evidence is damaged"):
        proof(alice)
    alice.chain.append([], NOW, [SideRow(ACKS_TABLE, b"key", b"")])
    block = alice.append(RECEIVED, b"no entry", bytes(32))
    with pytest.raises(StoreUnreadable, match=f"block {block.index} proves nothing"):
        proof(alice)
