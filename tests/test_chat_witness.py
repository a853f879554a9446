"""Heads of others and witnesses of ours: what is kept, what replaces what, and that it is bounded.

The members are those of the vectors, so that no RSA key is made.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import make_vectors_messages as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_vectors_crypto import sha

import chat_witness
from blockchain import Head, SideRow
from chat_messages import Ack, Bundle, FeedReport, Witness, parse_payload
from chat_wire import Label, Reader, u64
from chat_witness import (
    ACKS_TABLE,
    HEADS_TABLE,
    MAX_CHAINS,
    MAX_EVIDENCE_BYTES,
    MAX_HEAD_PEOPLE,
    Heads,
    OurWitnesses,
    Taken,
    evidence,
    verify_ack_head,
)
from crypto_utils import BadSignature, SigningKey, VerifyKey

ALICE, BOB, TAG = reference.ALICE, reference.BOB, reference.TAG
CSK, BOBS_SSK = SigningKey(ALICE.csk.seed), SigningKey(BOB.ssk.seed)
PERSON, CHAIN = b"p" * 32, b"c" * 16
ID = b"e" * 32


@cache
def bob() -> Bundle:
    return Bundle.parse(reference.BOBS, None)


def head(index: int, what: bytes = b"", chain_id: bytes = ALICE.chain_id) -> Head:
    """Alice's, of a block that holds `what`, signed by her."""
    its_hash = sha(b"%d" % index + what)
    signature = CSK.sign(Label.BLOCK_SIG, chain_id + u64(index) + its_hash)
    return Head(chain_id, index, its_hash, signature)


def any_head(index: int, what: bytes = b"", chain_id: bytes = CHAIN) -> Head:
    """For where nothing is verified."""
    return Head(chain_id, index, sha(b"%d" % index + what), bytes(64))


def table(
    rows: list[SideRow], name: str, before: dict[bytes, bytes] | None = None
) -> dict[bytes, bytes]:
    """The side table after these rows."""
    kept = dict(before or {})
    for row in rows:
        assert row.table == name
        kept.pop(row.key, None)
        if row.value:
            kept[row.key] = row.value
    return kept


# --------------------------------------------------------------------------------------------------
# signatures of heads


def test_head_is_of_the_key_the_chain_the_index_and_the_hash_that_were_signed() -> None:
    key, good = VerifyKey(ALICE.csk.public), head(7)
    good.verify(key)
    for bad in (
        replace(good, index=8),
        replace(good, index=6),
        replace(good, hash=bytes(32)),
        replace(good, chain_id=BOB.chain_id),
        replace(good, signature=bytes(64)),
    ):
        with pytest.raises(BadSignature):
            bad.verify(key)
    with pytest.raises(BadSignature):
        good.verify(VerifyKey(BOB.csk.public))


def test_acks_head_is_of_the_chain_that_its_bundle_names() -> None:
    alice = Bundle.parse(reference.ALICES, None)
    verify_ack_head(head(7), alice)
    with pytest.raises(BadSignature):
        verify_ack_head(head(7, chain_id=CHAIN), alice)  # signed, but of a chain before this
    with pytest.raises(BadSignature):
        verify_ack_head(head(7), bob())


# --------------------------------------------------------------------------------------------------
# heads of others


def test_head_is_replaced_by_a_higher_one_alone() -> None:
    heads = Heads()
    for given_head, taken, held in (
        (any_head(5), Taken.NEWER, 5),
        (any_head(5), Taken.KNOWN, 5),
        (any_head(9), Taken.NEWER, 9),
        (any_head(5), Taken.KNOWN, 9),  # overtaken, or a copy from before
        (any_head(8, b"another"), Taken.KNOWN, 9),  # nobody can tell
        (any_head(9, b"another"), Taken.CONFLICT, 9),
        (any_head(0), Taken.KNOWN, 9),
        (any_head(10, b"another"), Taken.NEWER, 10),
    ):
        assert heads.take(PERSON, given_head, 1) is taken
        found = heads.get(PERSON, CHAIN)
        assert found is not None
        assert found.index == held
    assert heads.get(PERSON, CHAIN) == any_head(10, b"another")


def test_head_of_a_genesis_is_a_head() -> None:
    heads = Heads()
    assert heads.take(PERSON, any_head(0), 1) is Taken.NEWER
    assert heads.take(PERSON, any_head(0, b"another"), 1) is Taken.CONFLICT


def test_each_chain_of_each_person_has_its_own_head() -> None:
    heads, other = Heads(), b"d" * 16
    heads.take(PERSON, any_head(5), 1)
    heads.take(PERSON, any_head(2, chain_id=other), 2)
    heads.take(b"q" * 32, any_head(1, b"other"), 3)
    assert heads.of(PERSON) == [any_head(2, chain_id=other), any_head(5)]
    assert heads.of(b"q" * 32) == [any_head(1, b"other")]
    assert heads.of(b"r" * 32) == []
    assert heads.get(b"r" * 32, CHAIN) is None


def test_only_what_is_newer_is_written_and_once() -> None:
    heads = Heads()
    heads.take(PERSON, any_head(5), 7)
    (row,) = heads.unkept()
    value = u64(5) + any_head(5).hash + bytes(64) + u64(7)
    assert row == SideRow(HEADS_TABLE, PERSON + CHAIN, value)
    assert heads.unkept() == []
    heads.take(PERSON, any_head(5), 8)
    heads.take(PERSON, any_head(4), 8)
    heads.take(PERSON, any_head(5, b"another"), 8)
    assert heads.unkept() == []


def test_ninth_chain_of_a_person_takes_the_place_of_the_one_kept_longest_ago() -> None:
    heads = Heads()
    rows: dict[bytes, bytes] = {}
    chains = [bytes((n,)) * 16 for n in range(1, MAX_CHAINS + 2)]
    for n, chain_id in enumerate(chains[:MAX_CHAINS]):
        heads.take(PERSON, any_head(1, chain_id=chain_id), n)
    heads.take(PERSON, any_head(2, chain_id=chains[0]), 20)  # so the second is the oldest
    heads.take(PERSON, any_head(1, chain_id=chains[-1]), 21)
    kept = {h.chain_id for h in heads.of(PERSON)}
    assert kept == {*chains} - {chains[1]}
    rows = table(heads.unkept(), HEADS_TABLE)
    assert {key[32:] for key in rows} == kept
    # The same after a restart: the age is in the row.
    again = Heads(dict(sorted(rows.items())))
    assert again.of(PERSON) == heads.of(PERSON)
    again.take(PERSON, any_head(1, chain_id=b"x" * 16), 30)
    assert chains[2] not in {h.chain_id for h in again.of(PERSON)}
    assert table(again.unkept(), HEADS_TABLE, rows).keys() == {
        PERSON + h.chain_id for h in again.of(PERSON)
    }


def test_person_too_many_takes_the_place_of_the_one_kept_longest_ago() -> None:
    heads = Heads()
    people = [n.to_bytes(32, "big") for n in range(MAX_HEAD_PEOPLE + 5)]
    rows: dict[bytes, bytes] = {}
    for n, person in enumerate(people):
        heads.take(person, any_head(1), n)
        rows = table(heads.unkept(), HEADS_TABLE, rows)
    assert len(rows) == MAX_HEAD_PEOPLE
    assert all(heads.of(person) == [] for person in people[:5])
    assert {key[:32] for key in rows} == {*people[5:]}


def test_strangers_however_many_do_not_push_out_the_head_of_who_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose chain does not grow meanwhile, or was rewritten."""
    monkeypatch.setattr("chat_witness.MAX_HEAD_PEOPLE", 8)
    heads, away = Heads(), b"a" * 32
    other_chain = any_head(3, chain_id=b"d" * 16)
    for person, head in ((away, any_head(5)), (PERSON, other_chain), (PERSON, any_head(5))):
        heads.take(person, head, 1)
    for n in range(30):
        heads.take(n.to_bytes(32, "big"), any_head(1), 2)
        again = any_head(5, b"another") if n % 2 else any_head(4)
        assert heads.take(PERSON, again, 2) is (Taken.CONFLICT if n % 2 else Taken.KNOWN)
    assert heads.of(PERSON) == [any_head(5), other_chain]
    assert heads.of(away) == []
    rows = table(heads.unkept(), HEADS_TABLE)
    assert len({key[:32] for key in rows}) == 8


def test_rows_of_another_form_are_not_looked_at_and_too_many_are_forgotten() -> None:
    good = u64(5) + any_head(5).hash + bytes(64) + u64(7)
    rows = {PERSON + CHAIN: good, b"short": good, PERSON + b"d" * 16: good + b"x"}
    assert Heads(rows).of(PERSON) == [any_head(5)]
    many = {PERSON + bytes((n,)) * 16: good for n in range(20)}
    heads = Heads(many)
    assert len(heads.of(PERSON)) == MAX_CHAINS
    assert len(table(heads.unkept(), HEADS_TABLE, many)) == MAX_CHAINS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 4), st.booleans()),
        max_size=60,
    )
)
def test_what_a_restart_finds_is_what_was_held(
    taken: list[tuple[int, int, int, bool]],
) -> None:
    """Rows written after any heads, in any order, with restarts between."""
    heads = Heads()
    rows: dict[bytes, bytes] = {}
    people = [bytes((n,)) * 32 for n in range(4)]
    chains = [bytes((n,)) * 16 for n in range(10)]
    for now_ms, (person, chain, index, restart) in enumerate(taken):
        before = heads.get(people[person], chains[chain])
        heads.take(people[person], any_head(index, chain_id=chains[chain]), now_ms)
        after = heads.get(people[person], chains[chain])
        assert after is not None
        assert after.index == max(index, before.index if before else 0)
        if restart:
            rows = table(heads.unkept(), HEADS_TABLE, rows)
            found = Heads(rows)
            assert all(found.of(p) == heads.of(p) for p in people)
            assert all(len(found.of(p)) <= MAX_CHAINS for p in people)
            heads = found


# --------------------------------------------------------------------------------------------------
# witnesses of ours


def ours() -> OurWitnesses:
    return OurWitnesses(ALICE.session_id, ALICE.chain_id, VerifyKey(ALICE.csk.public))


def ack(
    *reports: FeedReport, author: bytes = BOB.session_id, number: int = 1, tag: bytes = TAG
) -> Ack:
    return Ack.create(BOBS_SSK, author, tag, number, bytes(32), reports, any_head(3))


def report(seq: int, held: Head | None = None, missing: tuple[int, ...] = ()) -> FeedReport:
    """Of Alice's feed."""
    return FeedReport(
        ALICE.session_id, seq, ID, missing, *((held.index, held.hash) if held else ())
    )


def test_ack_of_ours_is_kept_with_its_senders_bundle_and_can_be_checked_alone() -> None:
    witnesses, its = ours(), head(7)
    witnesses.carry(its)
    made = ack(report(2, its))
    witnesses.take_ack(made, bob())
    (row,) = witnesses.unkept()
    assert (row.table, row.key) == (ACKS_TABLE, ALICE.session_id + TAG + BOB.session_id)
    assert row.value == evidence(bob(), made)
    r = Reader(row.value)
    bundle, found = Bundle.parse(r.prefixed(), None), parse_payload(r.rest())
    assert isinstance(found, Ack)
    found.verify(bundle.session_key)
    assert found == made
    assert witnesses.unkept() == []
    assert witnesses.holders() == {BOB.session_id: 7}


def test_ack_that_knows_no_block_of_ours_is_evidence_too() -> None:
    witnesses = ours()
    witnesses.take_ack(ack(report(2)), bob())
    assert len(witnesses.unkept()) == 1
    assert witnesses.holders() == {}


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param(head(9), id="above what was sent"),
        pytest.param(head(7, b"another"), id="another hash at its index"),
        pytest.param(head(3), id="signed, but never sent in this run"),
        pytest.param(any_head(0), id="a genesis"),
    ],
)
def test_claim_of_a_head_that_no_ack_of_ours_carried_is_neither_believed_nor_kept(
    claimed: Head,
) -> None:
    """Else whoever lies in an ack could make our own chain look tampered with."""
    witnesses, its = ours(), head(7)
    witnesses.carry(its)
    witnesses.take_ack(ack(report(2, claimed)), bob())
    witnesses.take_ack(ack(report(1, its), report(2, claimed)), bob())
    assert witnesses.unkept() == []
    assert witnesses.holders() == {}


def test_ack_that_reports_our_feed_twice_or_not_at_all_is_no_evidence() -> None:
    witnesses = ours()
    witnesses.take_ack(ack(report(1), report(2)), bob())
    witnesses.take_ack(ack(), bob())
    witnesses.take_ack(ack(replace(report(1), session_id=b"x" * 16)), bob())
    assert witnesses.unkept() == []


def test_ack_that_says_less_does_not_replace_one_that_says_more() -> None:
    witnesses, low, high = ours(), head(5), head(7)
    for its in (low, high):
        witnesses.carry(its)
    place = ALICE.session_id + TAG
    kept: dict[bytes, bytes] = {}
    best = ack(report(5, high, (2,)))
    witnesses.take_ack(best, bob())
    for worse in (report(4, high), report(6, low), report(6), report(6, high, (2, 3))):
        witnesses.take_ack(ack(worse, number=2), bob())
        kept = table(witnesses.unkept(), ACKS_TABLE, kept)
        assert kept == {place + BOB.session_id: evidence(bob(), best)}
    # What is missing above is new, what was missing came: it says no less.  Of a later session too,
    # and then the earlier session's says nothing any more.
    later = ack(report(7, high, (6,)), author=b"s" * 16)
    witnesses.take_ack(later, bob())
    assert table(witnesses.unkept(), ACKS_TABLE, kept) == {
        place + b"s" * 16: evidence(bob(), later)
    }


def test_evidence_of_each_conversation_is_kept_apart() -> None:
    witnesses = ours()
    witnesses.take_ack(ack(report(2)), bob())
    witnesses.take_ack(ack(report(1), tag=reference.PAIR), bob())
    assert len(witnesses.unkept()) == 2


def test_long_acks_are_no_evidence() -> None:
    witnesses = ours()
    others = [FeedReport(n.to_bytes(16, "big"), 1, ID) for n in range(90)]
    while len(ack(report(1), *others).serialize()) > MAX_EVIDENCE_BYTES:
        others.pop()
    fits, long = ack(report(1), *others), ack(report(2), *others, others[0])
    assert len(fits.serialize()) + 98 == len(long.serialize()) > MAX_EVIDENCE_BYTES
    witnesses.take_ack(long, bob())
    assert witnesses.unkept() == []
    witnesses.take_ack(fits, bob())
    assert len(witnesses.unkept()) == 1


def test_whoever_comes_again_and_again_makes_evidence_grow_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    witnesses = ours()
    kept: dict[bytes, bytes] = {}
    for n in range(20):  # ever new sessions of one person
        witnesses.take_ack(ack(report(1), author=n.to_bytes(16, "big")), bob())
        kept = table(witnesses.unkept(), ACKS_TABLE, kept)
        assert len(kept) == 1
    monkeypatch.setattr(chat_witness, "_MAX_EVIDENCE", 5)
    for n in range(20):  # ever new conversations stand for ever new people
        witnesses.take_ack(ack(report(1), tag=n.to_bytes(16, "big")), bob())
        kept = table(witnesses.unkept(), ACKS_TABLE, kept)
        assert len(kept) <= 5
    assert [key[16:32] for key in kept] == [n.to_bytes(16, "big") for n in range(15, 20)]


def test_heads_that_were_sent_are_remembered_for_long_but_not_for_ever() -> None:
    witnesses, count = ours(), chat_witness._MAX_CARRIED
    for index in range(count + 1):
        witnesses.carry(any_head(index))
    witnesses.take_ack(ack(report(1, any_head(0))), bob())
    assert witnesses.holders() == {}
    witnesses.take_ack(ack(report(1, any_head(1))), bob())
    assert witnesses.holders() == {BOB.session_id: 1}
    assert len(witnesses._carried) == count


def witness(its: Head, author: bytes = BOB.session_id) -> Witness:
    return Witness.create(BOBS_SSK, author, TAG, ALICE.session_id, its)


def test_witness_is_of_a_head_that_we_signed_for_any_chain() -> None:
    witnesses = ours()
    witnesses.take_witness(witness(head(900)))
    assert witnesses.holders() == {BOB.session_id: 900}
    witnesses.take_witness(witness(head(7)))
    witnesses.take_witness(witness(head(2000, chain_id=CHAIN)))  # of a chain before this one
    assert witnesses.holders() == {BOB.session_id: 900}
    for bad in (any_head(1), replace(head(1), index=2), replace(head(1), chain_id=CHAIN)):
        with pytest.raises(BadSignature):
            witnesses.take_witness(witness(bad))
    witnesses.left(BOB.session_id)
    assert witnesses.holders() == {}


def test_witnesses_of_a_session_are_as_many_as_chains_and_each_chain_comes_once() -> None:
    witnesses = ours()
    chains = [bytes((n,)) * 16 for n in range(MAX_CHAINS + 3)]
    expected = [witnesses.is_expected(witness(any_head(1, chain_id=c))) for c in chains]
    assert expected == [True] * MAX_CHAINS + [False] * 3
    assert not witnesses.is_expected(witness(any_head(2, chain_id=chains[0])))
    assert witnesses.is_expected(witness(any_head(1), author=b"another session!"))
    witnesses.left(BOB.session_id)  # its next connection
    assert witnesses.is_expected(witness(any_head(2, chain_id=chains[0])))
