"""chat_offline: every subcommand with every outcome, on a real profile and a scripted person."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from processes import ROOT, environment
from profiles import checked_identity
from proofs import NOW, PRIVATE, Owner, Speaker
from scripted_person import Person

import chat_offline
import chat_passphrase
import crypto_utils
from blockchain import BlockType, Draft, SideRow
from chat_audit import Evidence
from chat_offline import run_command
from chat_profile import Profile
from chat_proof import check_proof
from chat_settings import read_settings
from chat_terminal import Kind
from chat_witness import ACKS_TABLE
from crypto_utils import Identity, Keystore, PassphraseNeeded

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

BLOCKS = 10  # of the chain that the tests are about: 0 to 9
WITNESSED = 7  # the last block whose head bob holds
SAID = ["one", "hi\n-- there", "three", "Grüße", "psst"]  # blocks 3, 5, 6, 8 and 9
Flags = tuple[str, str]


def folder(home: Path) -> Path:
    return home / "profiles" / "default"


class _Aside:
    """What is made once, and what the tests say about it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        folder(home).mkdir(parents=True)
        self.bob, self.carol = Speaker("bob"), Speaker("carol")
        with Owner("alice", folder(home) / "chain.db") as self.alice:
            self.alice.addresses(self.alice, self.bob, self.carol)
            self.alice.says(SAID[0])
            self.alice.hears(self.bob, SAID[1])
            self.alice.says(SAID[2])
            self.alice.meets(self.carol.bundle)
            self.alice.is_acked_by(self.bob)
            self.alice.hears(self.carol, SAID[3])
            self.alice.hears(self.bob, SAID[4], tag=PRIVATE)
            assert self.alice.chain.head().index == BLOCKS - 1
        keys = folder(home) / "keys"
        keys.write_bytes(self.alice.keys.serialize())
        keys.chmod(0o600)
        (folder(home) / "nick").write_text("alice\n")


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> _Aside:
    return _Aside(tmp_path_factory.mktemp("aside"))


@pytest.fixture
def home(aside: _Aside, tmp_path: Path) -> Path:
    """Alice's, who talked with bob and carol: 1 says who she is, 2 who may read, 3 and 6 are hers,
    4 and 7 say who bob and carol are, 5, 8 and 9 are theirs; bob has an ack behind 7."""
    return shutil.copytree(aside.home, tmp_path / "home")


@pytest.fixture(autouse=True)
def _quick_keys_and_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "from_pkcs8", checked_identity)
    monkeypatch.setattr(crypto_utils, "_LEAST_COST", (64, 1, 1))
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read"))


def commanded(home: Path, *argv: str) -> tuple[int, Person]:
    """The exit code, and to whom it was said."""
    person = Person()
    settings = read_settings(argv, {"CHAINROOM_HOME": str(home)})
    code = run_command(settings, cast(Any, person))
    assert person.rows[-1] == "", "a bar that was drawn is taken away"
    return code, person


def tampered(home: Path, statement: str, *values: object) -> bytes:
    """The chain's bytes after somebody with an editor for SQLite was at it."""
    path = folder(home) / "chain.db"
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement, values).rowcount
    return path.read_bytes()


def edited(home: Path) -> bytes:
    """Block 6 is not what it was."""
    return tampered(home, "UPDATE blocks SET body = zeroblob(100) WHERE idx = 6")


def secret(home: Path, text: str, flag: str = "--passphrase-file") -> Flags:
    """The flag that names a file with this passphrase."""
    path = home.parent / f"{text} in a file"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return flag, str(path)


@pytest.fixture
def sealed(home: Path) -> Path:
    """Behind the passphrase `gull`."""
    with Profile.open(home) as profile:
        profile.set_passphrase(b"gull")
    return home


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody at a terminal types without an echo; to be filled."""
    answers: list[str] = []
    monkeypatch.setattr(getpass, "getpass", lambda _question: answers.pop(0))
    monkeypatch.setattr(chat_passphrase, "is_person_there", lambda: True)

    class AtTerminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", AtTerminal())
    return answers


# --------------------------------------------------------------------------- history and wallet


def test_history_says_what_was_said_and_by_whom(home: Path, aside: _Aside) -> None:
    code, person = commanded(home, "history")
    assert (code, person.said()) == (0, SAID)
    assert {line.kind for line in person.lines} == {Kind.MESSAGE}
    names = [line.author.partition("#")[0] for line in person.lines]
    assert names == ["alice", "bob", "alice", "carol", "bob"]
    code, person = commanded(home, "history", "1", "--find", "E")
    assert (code, person.said()) == (0, ["Grüße"])
    code, person = commanded(home, "history", "--find", "nowhere")
    assert (code, person.said()) == (0, [])


def test_history_goes_back_into_a_chain_that_was_tampered_with_as_far_as_that_is_whole(
    home: Path,
) -> None:
    edited(home)
    with Profile.open(home) as profile:  # a new chain follows
        kept, chain = [name for name, _, _ in profile.earlier_chains()], profile.chain
        assert chain.head().index == 0
    assert kept == ["evidence-1.db"]
    code, person = commanded(home, "history")
    assert code == 0
    (notice,) = person.said(Kind.NOTICE)
    assert notice == "from evidence-1.db, a chain that was tampered with, as far as it is whole"
    assert person.said(Kind.MESSAGE) == ["one", "hi\n-- there"]
    assert commanded(home, "history", "1")[1].said(Kind.MESSAGE) == ["hi\n-- there"]
    assert commanded(home, "history", "--find", "nowhere")[1].said() == []


def test_wallet_says_what_was_mined_and_up_to_which_block(home: Path) -> None:
    code, person = commanded(home, "wallet")
    assert (code, person.said()) == (0, ["2 coins, from the chain up to block 9"])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["history"], ["one", "hi\n-- there"]),
        (["wallet"], ["1 coin, from the chain up to block 5"]),
        (["verify"], []),
        (["verify", "--quick"], []),
    ],
)
def test_a_tampered_chain_is_exit_4_and_only_what_is_before_the_damage_counts(
    home: Path, command: list[str], expected: list[str]
) -> None:
    before = edited(home)
    code, person = commanded(home, *command)
    assert code == 4
    (alert,) = person.said(Kind.ALERT)
    assert alert.startswith("HISTORY TAMPERED: EDITED@6: ")
    assert person.said(Kind.MESSAGE, Kind.DIALOGUE) == expected
    assert (folder(home) / "chain.db").read_bytes() == before


def test_a_wallet_whose_whole_chain_was_replaced_says_that_nothing_counts(home: Path) -> None:
    tampered(home, "DELETE FROM blocks")
    code, person = commanded(home, "wallet")
    assert (code, person.said(Kind.DIALOGUE)) == (4, ["0 coins, from no block of the chain"])


# --------------------------------------------------------------------------- verify


def test_verify_of_a_whole_chain_is_exit_0_and_quick_says_what_it_left_out(home: Path) -> None:
    ok = "OK: 10 blocks, each as it was written"
    code, person = commanded(home, "verify")
    assert (code, person.said(Kind.DIALOGUE)) == (0, [f"{ok} (chain.db)"])
    (limit,) = person.said(Kind.NOTICE)
    assert "only people who hold a later head of it can tell" in limit
    code, person = commanded(home, "verify", "--quick")
    left_out = "of the signatures only the last one was checked"
    assert (code, person.said(Kind.DIALOGUE)) == (0, [f"{ok}; {left_out} (chain.db)"])


def test_a_chain_that_was_cut_is_found_by_what_a_witness_signed(home: Path, aside: _Aside) -> None:
    # Above what bob holds nobody can tell; below it the ack that lies beside the chain does.
    tampered(home, "DELETE FROM blocks WHERE idx > ?", WITNESSED)
    assert commanded(home, "verify")[0] == 0
    tampered(home, "DELETE FROM blocks WHERE idx > 5")
    code, person = commanded(home, "verify")
    (alert,) = person.said()
    assert code == 4
    assert alert.startswith("HISTORY TAMPERED: TRUNCATED@6: ")
    assert f"bob#{aside.bob.fingerprint.hex()[:4]} holds block {WITNESSED}" in alert
    assert commanded(home, "verify", "--quick")[0] == 0, "which looks at no witness, and says so"


def puts_words_into_carols_mouth(home: Path, aside: _Aside) -> None:
    """Block 10, which alice has written herself."""
    forged = aside.carol.entry("carol's words").entry.sign(aside.bob.session_key)
    draft = Draft(BlockType.RECEIVED, forged.serialize(), forged.entry.entry_id)
    with Profile.open(home) as profile:
        profile.chain.add_block(draft, NOW)


def test_words_that_their_author_did_not_sign_are_found_and_quick_does_not_look(
    home: Path, aside: _Aside
) -> None:
    puts_words_into_carols_mouth(home, aside)
    code, person = commanded(home, "verify")
    assert code == 4
    assert person.said(Kind.ALERT)[0].startswith("HISTORY TAMPERED: BADAUTHOR@10: ")
    assert commanded(home, "verify", "--quick")[0] == 0


def test_verify_says_all_there_is_and_a_finding_outweighs_what_could_not_be_checked(
    home: Path,
) -> None:
    path = folder(home)
    edited(home)
    with Profile.open(home) as profile:
        assert profile.finding is not None
    (path / "evidence-1.db").write_bytes(b"garbage")
    code, person = commanded(home, "verify")
    assert code == 4
    assert [line.kind for line in person.lines] == [Kind.ERROR, Kind.ALERT, Kind.DIALOGUE]
    assert person.said(Kind.ALERT)[0].startswith("HISTORY TAMPERED: an earlier chain: EDITED@6")
    (path / "chain.db").write_bytes(b"garbage" * 1000)
    code, person = commanded(home, "verify")
    assert code == 6
    assert {line.kind for line in person.lines} == {Kind.ERROR}


def test_verify_shows_how_far_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_offline, "_PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr("chat_audit._PROGRESS_BLOCKS", 5)
    _, person = commanded(home, "verify")
    shown = [row for row in person.rows if row]
    assert shown[-1].endswith("chain.db, authors: 5 of 10 blocks")
    assert shown[-1].startswith("[###############               ]  50%")


# --------------------------------------------------------------------------- with a passphrase


@pytest.mark.parametrize("command", ["history", "wallet", "verify", "export"])
def test_a_chain_that_is_gone_is_exit_4(home: Path, command: str, tmp_path: Path) -> None:
    (folder(home) / "chain.db").unlink()
    file = [str(tmp_path / "talk.txt")] if command == "export" else []
    code, person = commanded(home, command, *file)
    assert code == 4
    gone = "HISTORY TAMPERED: MISSING@0: chain.db is gone, and all of it with it"
    assert person.said() == [gone]


@pytest.mark.parametrize("command", ["history", "wallet", "verify", "export"])
def test_a_command_opens_a_profile_with_its_passphrase_from_a_file(
    sealed: Path, command: str
) -> None:
    argv = [command, *([str(sealed / "talk.txt")] if command == "export" else [])]
    code, person = commanded(sealed, *argv, *secret(sealed, "gull"))
    assert (code, person.said(Kind.ALERT, Kind.ERROR)) == (0, [])
    code, person = commanded(sealed, *argv, *secret(sealed, "rat"))
    (error,) = person.said()
    assert code == 6
    assert error.endswith("rat in a file is not this profile's")
    code, person = commanded(sealed, *argv, "--passphrase-file", str(sealed / "nowhere"))
    (error,) = person.said()
    assert code == 6
    assert error.startswith(f"{sealed / 'nowhere'} cannot be read")


@pytest.mark.parametrize("command", ["history", "wallet", "export"])
def test_where_nobody_can_be_asked_what_needs_a_passphrase_is_one_line_and_exit_6(
    sealed: Path, command: str
) -> None:
    argv = [command, *([str(sealed / "talk.txt")] if command == "export" else [])]
    code, person = commanded(sealed, *argv)
    assert code == 6
    (error,) = person.errors
    assert "nobody can be asked here: name a file that holds it with --passphrase-file" in error
    assert not (sealed / "talk.txt").exists()


def test_verify_checks_without_the_passphrase_what_it_can_and_says_what_not(sealed: Path) -> None:
    code, person = commanded(sealed, "verify")
    (said,) = person.said(Kind.DIALOGUE)
    assert code == 0
    left_out = "texts and authors were not checked: that needs the passphrase"
    assert said == f"OK: 10 blocks, each as it was written; {left_out} (chain.db)"
    edited(sealed)
    code, person = commanded(sealed, "verify")
    assert code == 4
    assert person.said()[0].startswith("HISTORY TAMPERED: EDITED@6: ")


def test_verify_asks_a_person_who_is_there(sealed: Path, typed: list[str]) -> None:
    typed += ["rat", "gull"]
    code, person = commanded(sealed, "verify")
    assert (code, typed) == (0, [])
    assert person.said(Kind.DIALOGUE) == ["OK: 10 blocks, each as it was written (chain.db)"]
    typed += ["rat", "rat", "rat"]
    code, person = commanded(sealed, "verify")
    assert (code, person.said()) == (
        6,
        ["that was not this profile's passphrase; nothing was opened"],
    )


@pytest.mark.parametrize("command", ["history", "wallet", "verify", "export"])
def test_who_names_a_passphrase_for_a_profile_without_one_is_told(home: Path, command: str) -> None:
    argv = [command, *([str(home / "talk.txt")] if command == "export" else [])]
    code, person = commanded(home, *argv, *secret(home, "gull"))
    assert code == 0
    assert person.said(Kind.ALERT) == [
        "this profile has no passphrase: python chat_client.py passphrase sets one"
    ]


# --------------------------------------------------------------------------- verify FILE


@pytest.fixture
def proof(home: Path) -> Path:
    path = home.parent / "talk.proof"
    assert commanded(home, "export", str(path))[0] == 0
    return path


def verified(path: Path) -> tuple[int, Person]:
    """On a computer without a profile."""
    return commanded(path.parent / "elsewhere", "verify", str(path))


def test_a_proof_says_whose_it_is_who_wrote_what_and_who_signed_for_it(
    proof: Path, aside: _Aside
) -> None:
    code, person = verified(proof)
    assert code == 0
    shown = [line for line in person.lines if line.kind is Kind.MESSAGE]
    assert [line.text for line in shown] == SAID
    assert shown[0].author.startswith("[3] alice#")
    said = person.said(Kind.DIALOGUE)
    alice, bob = (
        f"{who.bundle.nick}#{who.fingerprint.hex()[:4]}" for who in (aside.alice, aside.bob)
    )
    assert said[0].startswith(f"history of {alice}, fingerprint ")
    assert any(f"{bob} holds the head of block {WITNESSED}" in line for line in said)
    assert any(line.startswith("not proven: the order of blocks 8 to 9") for line in said)
    assert not (proof.parent / "elsewhere").exists()


@pytest.mark.parametrize("what", ["a text", "a block", "a name", "the signature"])
def test_a_proof_with_a_changed_byte_is_exit_4_and_nothing_in_it_is_said(
    proof: Path, what: str
) -> None:
    data = bytearray(proof.read_bytes())
    places = {"a text": b"Gr", "a block": b"CRB1\1", "a name": b"carol", "the signature": data[-1:]}
    data[data.rindex(bytes(places[what]))] ^= 1
    proof.write_bytes(data)
    code, person = verified(proof)
    (alert,) = person.said()
    assert (code, person.lines[0].kind) == (4, Kind.ALERT)
    assert "changed after its owner signed it" in alert


def cut(data: bytes) -> bytes:
    return data[:-1]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(_data: bytes) -> bytes:
    return b""


def no_proof(_data: bytes) -> bytes:
    return b"Dear reader,\n" * 100


def lengthened(data: bytes) -> bytes:
    return data + b"\n"


@pytest.mark.parametrize("spoil", [cut, halved, emptied, no_proof, lengthened])
def test_what_is_no_whole_proof_is_exit_6_in_one_line(
    proof: Path, spoil: Callable[[bytes], bytes]
) -> None:
    proof.write_bytes(spoil(proof.read_bytes()))
    code, person = verified(proof)
    assert code == 6
    (error,) = person.errors
    assert error.startswith("this file cannot be read: ")
    assert len(person.lines) == 1


def test_a_file_that_is_not_there_or_no_file_is_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        code, person = verified(path)
        (error,) = person.said()
        assert code == 1
        assert error.startswith(f"{path} cannot be read: ")
    path = tmp_path / "endless"
    path.write_bytes(bytes(11))
    monkeypatch.setattr(chat_offline, "MAX_PROOF_BYTES", 10)
    code, person = verified(path)
    assert (code, person.said()) == (1, [f"{path} has over 10 bytes, too many for a proof"])


# --------------------------------------------------------------------------- export


def test_each_format_is_written_for_its_owner_alone_and_holds_what_was_said(home: Path) -> None:
    for name, format_ in (
        ("talk", "txt"),
        ("talk.txt", "txt"),
        ("talk.jsonl", "jsonl"),
        ("talk.html", "html"),
        ("talk.proof", "proof"),
    ):
        path = home / name
        code, person = commanded(home, "export", str(path))
        data = path.read_bytes()
        size = f"5 messages, {len(data)} bytes, readable by you alone"
        assert (code, person.said(Kind.DIALOGUE)) == (0, [f"{path}: {size}"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if format_ == "proof":
            texts = [message.text for message in check_proof(data).messages]
            assert texts == SAID
        elif format_ == "jsonl":
            rows = [json.loads(line) for line in data.decode().splitlines()]
            assert [row["text"] for row in rows if row["type"] == "message"] == SAID
        else:
            assert "Grüße" in data.decode()
            assert data.startswith(b"<!DOCTYPE html>") == (format_ == "html")


def test_an_export_to_standard_output_is_the_files_bytes_and_nothing_else(
    home: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for format_ in ("txt", "jsonl", "html", "proof"):
        path = home / f"talk.{format_}"
        assert commanded(home, "export", str(path))[0] == 0
        code, person = commanded(home, "export", "--format", format_, "-")
        assert (code, person.said()) == (0, [])
        assert capfdbinary.readouterr().out == path.read_bytes()


def test_an_export_to_a_reader_that_went_away_is_one_line(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [sys.executable, "chat_client.py", "export", "-"],
        cwd=ROOT,
        env=environment(home),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        os.close(writing)
        assert client.stderr is not None
        said = client.stderr.read()
    assert said == "chainroom: standard output cannot be written: Broken pipe\n"
    assert client.returncode == 1


def test_an_export_never_replaces_a_file(home: Path) -> None:
    path = home / "talk.txt"
    path.write_text("mine")
    code, person = commanded(home, "export", str(path))
    assert (code, person.said()) == (1, [f"{path} is there already: nothing was written"])
    assert path.read_text() == "mine"
    code, person = commanded(home, "export", str(home / "nowhere" / "talk.txt"))
    assert code == 1
    assert "cannot be written" in person.errors[0]


def test_nothing_of_a_tampered_chain_is_exported(
    home: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    edited(home)
    for target in (str(home / "talk.html"), "-"):
        code, person = commanded(home, "export", target)
        (alert,) = person.said()
        assert code == 4
        assert alert.startswith("HISTORY TAMPERED: EDITED@6: ")
        assert alert.endswith("nothing was exported")
    assert not (home / "talk.html").exists()
    assert capfdbinary.readouterr().out == b""


def test_nothing_is_exported_that_verify_would_not_confirm(home: Path, aside: _Aside) -> None:
    # An opening checks links and the last signature; these two pass it.
    with Profile.open(home) as profile:
        block = profile.chain.block(3)
        assert block is not None
        signature = bytes((block.signature[0] ^ 1,)) + block.signature[1:]
    tampered(home, "UPDATE blocks SET signature = ? WHERE idx = 3", signature)
    code, person = commanded(home, "export", str(home / "talk.txt"))
    assert code == 4
    assert person.said(Kind.ALERT)[0].startswith("HISTORY TAMPERED: FORGED@3: ")
    tampered(home, "UPDATE blocks SET signature = ? WHERE idx = 3", block.signature)
    puts_words_into_carols_mouth(home, aside)
    code, person = commanded(home, "export", str(home / "talk.txt"))
    assert code == 4
    assert person.said(Kind.ALERT)[0].startswith("HISTORY TAMPERED: BADAUTHOR@10: ")
    assert not (home / "talk.txt").exists()


def test_an_export_of_some_holds_no_word_of_the_others(home: Path, aside: _Aside) -> None:
    def disclosed(*flags: str) -> list[str | None]:
        path = home / "some.proof"
        path.unlink(missing_ok=True)
        assert commanded(home, "export", *flags, str(path))[0] == 0
        report = check_proof(path.read_bytes())
        assert report.exit_code == 0
        return [message.text for message in report.messages]

    assert disclosed("--only", "5-6") == SAID[1:3]
    assert disclosed("--only", "8") == ["Grüße"]
    assert disclosed("--with", "carol") == ["Grüße"]
    assert disclosed("--with", f"bob#{aside.bob.fingerprint.hex()[:4]}") == [SAID[1], SAID[4]]
    assert disclosed("--with", "bob", "--only", "6-") == ["psst"]


def test_an_export_with_somebody_unknown_is_one_line_and_exit_1(home: Path) -> None:
    code, person = commanded(home, "export", "--with", "dave", str(home / "talk.txt"))
    assert (code, person.said()) == (1, ["nobody called dave is on it"])
    assert not (home / "talk.txt").exists()


def test_an_export_of_what_cannot_be_read_is_exit_6_and_nothing_is_written(home: Path) -> None:
    with Profile.open(home) as profile:
        (key, value), *_ = profile.chain.side(ACKS_TABLE).items()
        assert Evidence.parse(value)
        profile.chain.append([], NOW, [SideRow(ACKS_TABLE, key, value[:-1])])
    code, person = commanded(home, "export", str(home / "talk.txt"))
    (error,) = person.said()
    assert code == 6
    assert "damaged" in error
    assert not (home / "talk.txt").exists()


# --------------------------------------------------------------------------- passphrase


def opens_with(home: Path, passphrase: bytes) -> bool:
    """Whether the keys are behind this one."""
    data = (folder(home) / "keys").read_bytes()
    with pytest.raises(PassphraseNeeded):
        Keystore.parse(data)
    return Keystore.parse(data, lambda: passphrase).has_passphrase


def test_a_passphrase_is_set_changed_and_removed_from_files(home: Path) -> None:
    code, person = commanded(home, "passphrase", *secret(home, "gull", "--new-file"))
    assert code == 0
    assert {line.kind for line in person.lines} == {Kind.NOTICE}
    assert person.said()[0].startswith("passphrase set: nobody can read the private keys")
    assert opens_with(home, b"gull")
    old, new = secret(home, "gull"), secret(home, "tern", "--new-file")
    code, person = commanded(home, "passphrase", *old, *new)
    assert code == 0
    assert person.said()[0].startswith("passphrase changed: ")
    assert opens_with(home, b"tern")
    code, person = commanded(home, "passphrase", *secret(home, "tern"), "--remove")
    assert (code, person.said()[0]) == (0, "the passphrase is removed")
    code, person = commanded(home, "passphrase", "--remove")
    assert (code, person.said()[0]) == (0, "there was no passphrase")
    code, person = commanded(home, "verify")
    assert (code, person.said(Kind.ALERT)) == (0, [])


def test_a_passphrase_that_is_set_with_the_flag_for_the_old_one_too_is_no_alert(home: Path) -> None:
    flags = (*secret(home, "gull"), *secret(home, "gull", "--new-file"))
    code, person = commanded(home, "passphrase", *flags)
    assert (code, person.said(Kind.ALERT)) == (0, [])


def test_a_passphrase_is_asked_for_twice_and_the_old_one_before(
    home: Path, typed: list[str]
) -> None:
    typed += ["gull", "gall", "gull", "gull"]
    assert commanded(home, "passphrase")[0] == 0
    assert typed == []
    assert opens_with(home, b"gull")
    typed += ["gull", "tern", "tern"]
    assert commanded(home, "passphrase")[0] == 0
    assert opens_with(home, b"tern")
    typed += ["tern"]
    assert commanded(home, "passphrase", "--remove")[0] == 0
    Keystore.parse((folder(home) / "keys").read_bytes())


def test_without_the_old_passphrase_or_a_new_one_nothing_is_changed(
    sealed: Path, typed: list[str]
) -> None:
    before = (folder(sealed) / "keys").read_bytes()
    new, right = secret(sealed, "tern", "--new-file"), secret(sealed, "gull")
    for argv, answers in (
        ((*secret(sealed, "rat"), *new), []),
        ((*secret(sealed, "rat"), "--remove"), []),
        ((*right, "--new-file", str(sealed / "nowhere")), []),
        (new, ["rat", "rat", "rat"]),
        (right, ["one", "two", "three", "four", "five", "six"]),
        (right, [""]),
    ):
        typed[:] = answers
        code, person = commanded(sealed, "passphrase", *argv)
        assert code == 6, argv
        assert len(person.said()) == len(person.errors) == 1
        assert (folder(sealed) / "keys").read_bytes() == before
        assert typed == []


def test_where_nobody_can_be_asked_for_a_new_passphrase_nothing_is_changed(home: Path) -> None:
    before = (folder(home) / "keys").read_bytes()
    code, person = commanded(home, "passphrase")
    assert code == 6
    assert "name a file that holds it with --new-file" in person.errors[0]
    assert (folder(home) / "keys").read_bytes() == before


# --------------------------------------------------------------------------- every command

EVERY = ["history", "wallet", "verify", "export -", "passphrase --remove"]


@pytest.mark.parametrize("command", EVERY)
def test_a_command_on_a_profile_that_is_not_there_or_in_use_is_exit_6(
    tmp_path: Path, home: Path, command: str
) -> None:
    code, person = commanded(tmp_path / "nowhere", *command.split())
    assert code == 6
    (error,) = person.said()
    assert "there is no profile in" in error
    assert not (tmp_path / "nowhere").exists()
    with Profile.open(home):
        code, person = commanded(home, *command.split())
    assert code == 6
    (error,) = person.said()
    assert "is in use by another client" in error


@pytest.mark.parametrize("command", EVERY)
def test_a_command_that_is_interrupted_does_not_say_that_all_is_well(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("blockchain.Blockchain.verify", interrupted)
        code, person = commanded(home, *command.split())
    assert (code, person.said()) == (1, [])
    Profile.open(home).close()  # its lock is free
