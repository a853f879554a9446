"""chat_report: what a person is told of a proof: no more than is proven, and of whom."""

from __future__ import annotations

import hashlib

import pytest

from chat_report import Message, Report, Who, Witness, grouped

ALICE = Who(hashlib.sha256(b"alice").digest(), "alice")
BOB = Who(hashlib.sha256(b"bob").digest(), "bob")
NAME = f"bob#{BOB.fingerprint.hex()[:4]}"


def said(author: Who, index: int = 2) -> Message:
    session = author.fingerprint[:16]
    return Message(index, author, author == ALICE, False, "hi", 0, 0, 1, session, bytes(16), ())


def report(
    *messages: Message,
    witnesses: tuple[Witness, ...] = (),
    forks: tuple[Who, ...] = (),
    exit_code: int = 0,
    **more: int,
) -> Report:
    fields = {"undisclosed": 0, "erased": 0} | more
    return Report(
        owner=ALICE,
        chain_id=bytes(16),
        blocks=10,
        head_hash=bytes(range(32)),
        head_signed=True,
        started_ms=0,
        ended_ms=2**64 - 1,
        finding="",
        predecessor=None,
        messages=messages,
        witnesses=witnesses,
        problem="it does not fit" if exit_code else "",
        exit_code=exit_code,
        undisclosed=fields["undisclosed"],
        erased=fields["erased"],
        late=fields.get("late", 0),
        unseen=fields.get("unseen", 0),
        forks=forks,
    )


def told(found: Report, *words: str) -> bool:
    return any(all(word in line for word in words) for line in found.lines())


def test_a_name_has_the_beginning_of_its_fingerprint() -> None:
    assert BOB.name == NAME


def test_every_author_is_listed_with_the_whole_fingerprint() -> None:
    found = report(said(ALICE), said(BOB), said(BOB, 3))
    digits = BOB.fingerprint.hex()
    grouped = " ".join(digits[i : i + 4] for i in range(0, 64, 4))
    assert told(found, "3 messages", "word for word")
    assert told(found, f"2 of {NAME}", grouped)


def test_a_person_of_several_names_is_listed_once_with_all_of_them() -> None:
    names = [Who(BOB.fingerprint, nick) for nick in ("bob", "robert")]
    found = report(*map(said, names), forks=tuple(names))
    digits = NAME.partition("#")[2]
    both = f"{NAME}, also robert#{digits}"
    assert [line for line in found.lines() if " of bob" in line or " of robert" in line] == [
        f"  2 of {both}, fingerprint {grouped(BOB.fingerprint, 4)}"
    ]
    assert [line for line in found.lines() if "under one number" in line] == [
        f"two different messages under one number were signed by {both}"
    ]
    many = report(*(said(Who(BOB.fingerprint, f"n{i}")) for i in range(100)))
    assert told(many, "100 of n0#", "also 95 other names, fingerprint")
    assert max(map(len, many.lines())) < 200


def test_two_people_of_one_name_are_told_apart() -> None:
    twin = Who(BOB.fingerprint[:3] + bytes(29), "bob")
    names = [
        line.split()[2] for line in report(said(BOB), said(twin)).lines() if " of bob#" in line
    ]
    assert len({*names}) == 2
    assert all(name.startswith(f"{NAME}") for name in names)


def test_where_no_witness_signed_the_order_is_the_owners_word_alone() -> None:
    found = report(said(BOB))
    assert told(found, "not proven", "the order of the blocks", "alice#", "anew")
    assert not told(found, "not changed since")


def test_what_no_witness_has_is_named() -> None:
    found = report(said(BOB), witnesses=(Witness(BOB, 6, 2),))
    assert told(found, NAME, "holds the head of block 6 and signed for 2 messages of alice#")
    assert told(found, "blocks 0 to 6", "not changed since")
    assert told(found, "not proven", "blocks 7 to 9")
    whole = report(said(BOB), witnesses=(Witness(BOB, 9, 0),))
    assert not told(whole, "not proven")
    assert told(whole, f"{NAME} holds the head of block 9; fingerprint")


def test_one_block_is_not_called_several() -> None:
    found = report(said(BOB), witnesses=(Witness(BOB, 8, 0),))
    assert told(found, "not proven: block 9: no witness has it")
    found = report(said(BOB), witnesses=(Witness(BOB, 0, 0),))
    assert told(found, "so block 0 has not changed since then")
    assert told(report(said(BOB)), "who wrote this message, word for word")


def test_a_witness_of_messages_alone_says_nothing_of_the_chain() -> None:
    found = report(said(BOB), witnesses=(Witness(BOB, -1, 1),))
    assert told(found, f"{NAME} signed for 1 message of alice#")
    assert not told(found, "not changed since")
    found = report(said(BOB), witnesses=(Witness(BOB, -1, 0),))
    assert told(found, f"{NAME} signed for no disclosed message of alice#")


@pytest.mark.parametrize("entries", [1, 2])
def test_a_witness_is_not_said_to_have_the_messages_before_the_one_it_named(entries: int) -> None:
    found = report(said(ALICE), witnesses=(Witness(BOB, 6, entries),))
    assert told(found, "named the last", "not proven") == (entries > 1)
    assert told(found, f"{NAME} holds the head of block 6 and signed for ")


def test_what_is_not_in_it_is_counted() -> None:
    found = report(said(BOB), undisclosed=1, erased=2, unseen=3, late=1)
    assert told(found, "not disclosed: 1 entry")
    assert told(found, "erased by alice#", "2 texts")
    assert told(found, "3 entries that authors numbered")
    assert told(found, "1 entry came late")
    assert not told(report(said(BOB)), "not disclosed")
    assert told(report(said(BOB), late=2), "2 entries came late")


def test_what_no_proof_can_show_is_always_said() -> None:
    for words in ("all that was said", "any time", "private message", "key", "two people"):
        assert told(report(), "never proven", words)


def test_a_crowd_is_counted_behind_the_first_twenty() -> None:
    crowd = [Who(hashlib.sha256(b"%d" % i).digest(), f"n{i}") for i in range(2000)]
    found = report(
        *(said(who) for who in crowd), witnesses=tuple(Witness(who, 5, 1) for who in crowd)
    )
    assert len(found.lines()) < 60
    assert told(found, "1980 further people")
    assert told(found, "1980 further witnesses")


@pytest.mark.parametrize(("exit_code", "words"), [(4, "relied on"), (6, "proves nothing")])
def test_a_file_that_is_no_proof_proves_nothing(exit_code: int, words: str) -> None:
    found = report(said(BOB), witnesses=(Witness(BOB, 6, 2),), exit_code=exit_code)
    assert told(found, words)
    assert not told(found, "proven")
    assert told(found, "signature of alice#") == (exit_code == 4)


def test_an_impossible_time_is_said_to_be_one() -> None:
    assert told(report(), "1970-01-01 00:00 UTC", "an impossible time")
