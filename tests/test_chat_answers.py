"""chat_answers: what a person is told about the own chain, and what cannot be answered."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from proofs import NOW, Owner, Speaker

from blockchain import Blockchain, BlockType, Finding, Verdict
from chat_answers import (
    Unanswered,
    block_lines,
    chain_lines,
    coins,
    export,
    export_lines,
    find_lines,
    forget_lines,
    history_lines,
    wallet_line,
    write_new,
)
from chat_memory import kept_of
from chat_messages import Event, EventKind
from chat_proof import check_proof
from chat_terminal import Kind, Line

WITH_BOB, WITH_CAROL = b"tag of two alone", b"of carol and us."

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]


class Book(NamedTuple):
    """Alice's chain: 1 says who she is, 2 who may read, 3 her hello; 4 who bob is, 5 his words; 6
    who carol is, 7 hers; 8 bob's to alice alone."""

    alice: Owner
    bob: Speaker
    carol: Speaker
    path: Path

    @property
    def chain(self) -> Blockchain:
        return self.alice.chain


def name(speaker: Speaker) -> str:
    return f"{speaker.bundle.nick}#{speaker.fingerprint.hex()[:4]}"


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    path = tmp_path / "chain.db"
    bob, carol = Speaker("bob"), Speaker("carol")
    with Owner("alice", path) as alice:
        alice.addresses(alice, bob, carol)
        alice.says("hello")
        alice.hears(bob, "hi\n-- there")
        alice.hears(carol, "Grüße")
        alice.hears(bob, "psst", tag=WITH_BOB)
        yield Book(alice, bob, carol, path)


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


# --------------------------------------------------------------------------- what was said


def test_history_takes_a_number_and_find_a_text_with_block_numbers(book: Book) -> None:
    assert texts(history_lines(book.chain, "")) == ["hello", "hi\n-- there", "Grüße", "psst"]
    assert texts(history_lines(book.chain, "2")) == ["Grüße", "psst"]
    (found,) = find_lines(book.chain, "GRÜSSE")
    assert (found.author, found.text) == (f"[7] {name(book.carol)}", "Grüße")
    (none,) = find_lines(book.chain, "nowhere")
    assert none == Line(Kind.NOTICE, "no message of your chain holds nowhere")


@pytest.mark.parametrize("argument", ["0", "-1", "x", "1 2", "٣", "9" * 12])
def test_history_of_no_number_says_how_to_ask(book: Book, argument: str) -> None:
    with pytest.raises(Unanswered, match="/history 50"):
        history_lines(book.chain, argument)


def test_find_of_nothing_says_how_to_ask(book: Book) -> None:
    with pytest.raises(Unanswered, match="/find TEXT"):
        find_lines(book.chain, "")


def test_forget_shows_first_and_erases_when_it_is_said_again(book: Book) -> None:
    asked = forget_lines(book.chain, "5", NOW)
    assert any("hi\n-- there" in text for text in texts(asked))
    assert asked[-1].text.startswith("type /forget 5 yes to erase its text")
    assert len(history_lines(book.chain, "")) == 4
    (done,) = forget_lines(book.chain, "5 yes", NOW)
    assert done == Line(Kind.NOTICE, "the text of block 5 is erased here; block 9 says so")
    assert texts(history_lines(book.chain, "")) == ["hello", "Grüße", "psst"]
    assert book.chain.verify().ok
    assert "its text was erased by block 9" in texts(block_lines(book.chain, "5"))
    assert "erases the text of block 5" in texts(block_lines(book.chain, "9"))


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("", "say it like this"),
        ("six", "say it like this"),
        ("6 now", "say it like this: /forget 6 yes"),
        ("6 yes yes", "say it like this: /forget 6 yes"),
        ("99", "there is no block 99"),
        ("99 yes", "there is no block 99"),
        ("0", "no message but genesis"),
        ("0 yes", "no message but genesis"),
        ("2 yes", "no message but control"),
        ("9" * 16, "say it like this"),
    ],
)
def test_what_cannot_be_erased_is_one_line_and_nothing_is(
    book: Book, argument: str, why: str
) -> None:
    with pytest.raises(Unanswered, match=why):
        forget_lines(book.chain, argument, NOW)
    assert book.chain.head().index == 8


# --------------------------------------------------------------------------- the chain


def test_chain_says_what_there_is_who_can_tell_and_what_nobody_can(book: Book) -> None:
    verdict = book.chain.verify()
    lines = chain_lines(book.chain, book.path, verdict, [("bob#1234", 7), ("carol#5678", 5)])
    said = texts(lines)
    assert said[0].startswith("9 blocks since 20")
    assert str(book.path) in said[0]
    digest = book.chain.head().hash.hex()
    assert said[1].replace(" ", "").endswith(digest)
    assert max(map(len, said[1].split(": ")[1].split(" "))) == 8
    assert said[2].startswith("OK: 9 blocks, ")
    assert said[3] == "your signed head is kept by bob#1234 (block 7), carol#5678 (block 5)"
    assert said[4] == "not provable yet: that nothing after block 7 was cut off or replaced"
    assert said[5].startswith("never provable: ")
    assert {line.kind for line in lines} == {Kind.NOTICE}


def test_chain_without_a_witness_says_that_all_of_it_is_not_provable(book: Book) -> None:
    said = texts(chain_lines(book.chain, book.path, "being checked", []))
    assert said[2] == "being checked"
    assert said[3].startswith("nobody who is here has said yet")
    assert said[4] == "not provable yet: that nothing of it was cut off or replaced"


def test_chain_whose_head_is_held_says_nothing_of_an_end_that_may_be_cut(book: Book) -> None:
    said = texts(chain_lines(book.chain, book.path, book.chain.verify(), [("bob#1234", 8)]))
    assert not any("not provable yet" in text for text in said)


def test_chain_that_was_tampered_with_is_an_alert(book: Book) -> None:
    verdict = Verdict(Finding.EDITED, 5)
    (alert,) = [
        line for line in chain_lines(book.chain, book.path, verdict, []) if line.kind is Kind.ALERT
    ]
    assert alert.text == f"EDITED@5: {verdict.sentence}"


def test_every_block_can_be_shown_in_full(book: Book) -> None:
    bob, other = book.bob.fingerprint, book.bob.entry("another", seq=1)
    for kind, body in (
        (EventKind.IGNORE, bob),
        (EventKind.UNIGNORE, bob),
        (EventKind.PIN, bob + "zoë".encode()),
        (EventKind.VERIFIED, bob),
        (EventKind.UNVERIFIED, bob),
        (EventKind.ALERT, b"KEY CHANGED: ..."),
        (200, b"\xff"),
        (EventKind.FORK, kept_of(other.serialize())),
    ):
        event = Event(kind, body)
        book.alice.append(BlockType.EVENT, event.serialize(), event.event_id)
    expected = {
        0: ["it follows no other chain"],
        4: ["who session", name(book.bob)],
        2: ["control", "who may read what follows: #"],
        3: ["sent", "mined: 8 zero bits", name(book.alice), "text: hello"],
        5: ["received", name(book.bob), "text: hi\n-- there"],
        8: ["private text: psst"],
        9: [f"you ignored {bob.hex()}"],
        10: [f"you no longer ignored {bob.hex()}"],
        11: [f"the key of zoë from then on: {bob.hex()}"],
        12: [f"you verified {bob.hex()}"],
        13: [f"you took back that you verified {bob.hex()}"],
        14: ["you were warned: KEY CHANGED: ..."],
        15: ["event of kind 200: ff"],
        16: [f"{name(book.bob)} signed this too: entry 1 of", other.entry.entry_id.hex()],
    }
    for index, parts in expected.items():
        block = book.chain.block(index)
        assert block is not None
        said = "\n".join(texts(block_lines(book.chain, str(index))))
        for part in [f"block {index}: ", block.calculate_hash().hex(), *parts]:
            assert part in said, (index, part)
    with pytest.raises(Unanswered, match="there is no block 17: your chain ends at 16"):
        block_lines(book.chain, "17")


def test_a_block_is_named_by_who_its_session_was_then_whoever_claims_it_later(book: Book) -> None:
    thief = Speaker("mallory")
    thief.session_id, thief.session_key = book.bob.session_id, book.bob.session_key
    book.alice.meets(thief.called("mallory"))
    said = "\n".join(texts(block_lines(book.chain, "5")))
    assert name(book.bob) in said
    assert "mallory" not in said


def test_wallet_says_up_to_which_block_it_counted(book: Book) -> None:
    assert wallet_line(book.chain, 1).text == "1 coin, from your chain up to block 8"
    assert [coins(0), coins(1), coins(2)] == ["0 coins", "1 coin", "2 coins"]


# --------------------------------------------------------------------------- for others


def test_an_export_holds_what_was_asked_for_and_no_other_text(book: Book) -> None:
    def disclosed(**asked: Any) -> list[str | None]:
        report = check_proof(export(book.chain, "alice", "proof", **asked).data)
        assert report.exit_code == 0, report.problem
        return [message.text for message in report.messages]

    assert disclosed() == ["hello", "hi\n-- there", "Grüße", "psst"]
    assert disclosed(only=(5, 7)) == ["hi\n-- there", "Grüße"]
    assert disclosed(only=(9, 20)) == []
    assert disclosed(peer="carol") == ["Grüße"]
    assert disclosed(peer=name(book.bob)) == ["hi\n-- there", "psst"]
    assert disclosed(peer="bob", only=(7, 99)) == ["psst"]


def test_ours_to_one_person_alone_are_in_an_export_with_that_person(book: Book) -> None:
    book.alice.addresses(book.alice, book.carol, tag=WITH_CAROL)
    book.alice.says("for carol", tag=WITH_CAROL)
    report = check_proof(export(book.chain, "alice", "proof", peer="carol").data)
    assert [message.text for message in report.messages] == ["Grüße", "for carol"]


def test_a_name_that_is_nobodys_or_two_peoples_is_one_line(book: Book) -> None:
    with pytest.raises(Unanswered, match="nobody called dave is on it"):
        export(book.chain, "alice", "txt", peer="dave")
    with pytest.raises(Unanswered, match="nobody called bob#0000 is on it"):
        export(book.chain, "alice", "txt", peer="bob#0000")


def test_every_format_says_the_same(book: Book) -> None:
    for format_ in ("txt", "jsonl", "html"):
        data = export(book.chain, "alice", format_, only=(3, 3)).data.decode()
        assert "hello" in data
        assert "Grüße" not in data
        if format_ == "jsonl":
            assert [json.loads(line)["type"] for line in data.splitlines()]


def test_export_writes_a_file_for_its_owner_alone_in_the_format_of_its_name(
    book: Book, tmp_path: Path
) -> None:
    profile = cast(Any, SimpleNamespace(chain=book.chain, nick="alice"))
    path = tmp_path / "talk.proof"
    (line,) = export_lines(profile, str(path))
    assert f"{path}: 4 messages, " in line.text
    assert check_proof(path.read_bytes()).exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(Unanswered, match="is there already: nothing was written"):
        export_lines(profile, str(path))
    assert path.read_bytes() == before
    with pytest.raises(Unanswered, match=r"say it like this: /export FILE\.html"):
        export_lines(profile, "")


@pytest.mark.parametrize("typed", ["~nobody-of-this-name/talk.html", "a\0b.txt"])
def test_a_file_that_cannot_be_is_one_line(book: Book, typed: str) -> None:
    profile = cast(Any, SimpleNamespace(chain=book.chain, nick="alice"))
    with pytest.raises(Unanswered, match=r"nobody's home is known|cannot be written"):
        export_lines(profile, typed)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="cannot be written"):
        write_new(tmp_path / "nowhere" / "talk.txt", b"")
