"""chat_passphrase: where a passphrase comes from, and what it hides of a profile's files."""

from __future__ import annotations

import getpass
import io
import os
import pty
import re
import sqlite3
import sys
import warnings
from contextlib import closing
from pathlib import Path

import pytest
from simulated_room import LOBBY, SimulatedRoom, keystore

import chat_passphrase
import crypto_utils
from blockchain import Blockchain, BlockType, Draft, SideRow
from chat_messages import Bundle
from chat_passphrase import PassphraseError, ask_new, asker, notices, read_secret
from chat_profile import Profile
from crypto_utils import MAX_PASSPHRASE_BYTES, Keystore

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

ROOT = Path(__file__).resolve().parent.parent
NFC, NFD = "Möwe", "Mo\u0308we"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person will type, to be filled; then the input ends."""
    typed: list[str] = []

    def answer(_question: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr(getpass, "getpass", answer)
    monkeypatch.setattr(chat_passphrase, "is_person_there", lambda: True)
    return typed


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe instead of a person, and a terminal that may not be touched."""

    def refuse(question: str) -> str:
        raise AssertionError(f"a pipe was asked: {question}")

    monkeypatch.setattr(sys, "stdin", io.StringIO("a line of the chat\n"))
    monkeypatch.setattr(getpass, "getpass", refuse)


# --------------------------------------------------------------------------- a file


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nmore\n", b"\n\xff"])
def test_a_secret_is_the_first_line_of_its_file(tmp_path: Path, end: bytes) -> None:
    path = written(tmp_path / "f", b" three gulls " + end)
    assert read_secret(path, "password") == b" three gulls "


def test_a_secret_is_the_same_however_its_letters_were_put_together(tmp_path: Path) -> None:
    one, other = written(tmp_path / "1", NFC.encode()), written(tmp_path / "2", NFD.encode())
    assert read_secret(one, "password") == read_secret(other, "password") == NFC.encode()


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\nx", b"x" * 4097, b"x" * 9999 + b"\n"])
def test_a_secret_has_1_to_4096_bytes(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 4096 bytes: the password stands there"):
        read_secret(written(tmp_path / "f", data), "password")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_secret_of_4096_bytes_is_one(tmp_path: Path, end: bytes) -> None:
    longest = b"x" * MAX_PASSPHRASE_BYTES
    assert read_secret(written(tmp_path / "f", longest + end), "password") == longest


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "f", b"x")
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"chmod 600 {re.escape(str(path))}"):
        read_secret(path, "password")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    files = {
        tmp_path / "none": "cannot be read: No such file",
        tmp_path / "folder": "cannot be read: Is a directory",
        written(tmp_path / "latin", "Möwe".encode("latin-1")): "a line of UTF-8",
    }
    for path, why in files.items():
        with pytest.raises(ValueError, match=why) as caught:
            read_secret(path, "password")
        assert "\n" not in str(caught.value)
        with pytest.raises(PassphraseError, match=why):
            asker(path)(False)
        with pytest.raises(PassphraseError, match=why):
            ask_new(path)


def test_a_file_is_read_when_it_is_needed_and_never_twice(tmp_path: Path, nobody: None) -> None:
    ask = asker(tmp_path / "later")
    path = written(tmp_path / "later", b"three gulls\n")
    assert ask(False) == b"three gulls"
    with pytest.raises(PassphraseError, match=f"the passphrase in {re.escape(str(path))} is not"):
        ask(True)
    assert ask_new(path) == b"three gulls"


# --------------------------------------------------------------------------- a person


def test_a_pipe_is_never_asked_and_told_of_the_flag(nobody: None) -> None:
    with pytest.raises(PassphraseError, match="--passphrase-file"):
        asker(None)(False)
    with pytest.raises(PassphraseError, match="--new-file"):
        ask_new(None)


def test_a_missing_standard_input_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(PassphraseError, match="--passphrase-file"):
        asker(None)(False)


def test_a_person_is_asked_three_times(answers: list[str]) -> None:
    answers += ["one", NFD, "three", "four"]
    ask = asker(None)
    assert [ask(False), ask(True), ask(True)] == [b"one", NFC.encode(), b"three"]
    with pytest.raises(PassphraseError, match="not this profile's passphrase"):
        ask(True)
    assert answers == ["four"]


def test_another_opening_has_three_tries_again(answers: list[str]) -> None:
    answers += ["1", "2", "3", "4", "5", "6"]
    ask = asker(None)
    assert [ask(again) for again in (False, True, True) * 2] == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_a_new_passphrase_is_typed_twice(answers: list[str]) -> None:
    answers += ["three gulls", "three hulls", NFC, NFD]
    assert ask_new(None) == NFC.encode()


def test_three_that_differ_are_enough(answers: list[str]) -> None:
    answers += ["1", "2", "3", "4", "5", "6", "7", "7"]
    with pytest.raises(PassphraseError, match="differed each time; nothing was changed"):
        ask_new(None)
    assert len(answers) == 2


@pytest.mark.parametrize("typed", [[""], []], ids=["Enter", "Ctrl-D"])
def test_an_empty_passphrase_is_never_set(answers: list[str], typed: list[str]) -> None:
    answers += typed
    with pytest.raises(PassphraseError, match="was typed"):
        ask_new(None)


@pytest.mark.parametrize("typed", ["x" * 4097, "\udcff"], ids=["long", "no text"])
def test_what_cannot_be_a_passphrase_is_one_line(answers: list[str], typed: str) -> None:
    answers += [typed, typed]
    with pytest.raises(PassphraseError):
        asker(None)(False)
    with pytest.raises(PassphraseError):
        ask_new(None)


def test_what_would_be_shown_is_not_asked_for(
    answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def visible(question: str) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        raise AssertionError("typed in clear")

    monkeypatch.setattr(getpass, "getpass", visible)
    with pytest.raises(PassphraseError, match="would show what is typed"):
        asker(None)(False)


def test_a_passphrase_is_not_echoed_on_a_real_terminal() -> None:
    program = "from chat_passphrase import ask_new; print('len', len(ask_new(None)))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", program])
    screen = b""

    def until(part: bytes) -> None:
        nonlocal screen
        while part not in screen:
            screen += os.read(terminal, 4096)

    try:
        # Only when a question stands is the echo off.
        for question in (b"words are a good one): ", b"again: "):
            until(question)
            os.write(terminal, "drei Möwen\n".encode())
        until(b"len 11")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"wen" not in screen


# --------------------------------------------------------------------------- what is said


def test_the_notice_names_all_that_still_shows() -> None:
    for had in (False, True):
        text = " ".join(notices(had, True))
        for part in ("how many", "times", "sizes", "fingerprint", "nick", "relay.log", "copy of"):
            assert part in text
    assert "with the old passphrase" in " ".join(notices(True, True))
    assert "removed" in " ".join(notices(True, False))


# --------------------------------------------------------------------------- what a thief reads

PEOPLE = ("Bartholomew", "Caroline-Ann")
PASSPHRASE = "drei Möwen am Kai".encode()
TEXTS = ("the harbour gate is open at nine", "bring the large key", "nobody else may know this")


class Talked:
    """The profile of somebody who talked with two others, in the room and in private."""

    def __init__(self, home: Path) -> None:
        room = SimulatedRoom()
        alice, bob, caroline = (room.join(name) for name in ("alice", *PEOPLE))
        alice.types(TEXTS[0])
        bob.types(TEXTS[1])
        caroline.types(f"/msg alice {TEXTS[2]}")
        room.passes(5.0)
        alice.types(f"/ignore {PEOPLE[1]}")
        with Profile.open(home) as profile:
            profile.remember_nick("alice")
            rows = [SideRow(*name, value) for name, value in alice.remembered.items()]
            profile.chain.append(alice.chain, room.now.ms, rows)
            self.path, self.keystore = profile.path, profile.keystore
        self.tables = {row.table for row in rows}
        records = [draft.record for draft in alice.chain]
        self.in_clear = b"".join([*records, *(row.key + row.value for row in rows)])
        self.bundles = [Bundle.parse(member.bundle, LOBBY) for member in (bob, caroline)]

    def lock(self) -> None:
        """Sets the passphrase."""
        keys = self.keystore.with_passphrase(PASSPHRASE)
        (self.path / "keys").write_bytes(keys.serialize())

    def files(self) -> dict[str, bytes]:
        """Every file, while the chain is open and its write-ahead log beside it."""
        keys = Keystore.parse((self.path / "keys").read_bytes(), lambda: PASSPHRASE)
        with closing(Blockchain.open(self.path / "chain.db", keys)) as chain:
            chain.add_block(Draft(BlockType.SENT, TEXTS[0].encode(), bytes(32)), 1)
            found = {file.name: file.read_bytes() for file in self.path.iterdir()}
        assert "chain.db-wal" in found
        return found

    @property
    def private_keys(self) -> dict[str, bytes]:
        """Ours; of the identity all but the modulus, which is public."""
        pkcs8, spki = self.keystore.identity.to_pkcs8(), self.keystore.identity.spki
        parts = (pkcs8[at : at + 32] for at in range(0, len(pkcs8) - 32, 8))
        of_identity = {f"IK {i}": part for i, part in enumerate(parts) if part not in spki}
        return of_identity | {
            "CSK": self.keystore.chain_signing_key.seed,
            "CDK": self.keystore.chain_data_key,
        }

    @property
    def of_others(self) -> dict[str, bytes]:
        """Texts, names and keys, and what ties us to the room."""
        found = {text: text.encode() for text in (*TEXTS, *PEOPLE)}
        found["room"] = LOBBY.tag
        for bundle in self.bundles:
            named = {
                "identity": bundle.identity.spki[-200:],
                "fingerprint": bundle.fingerprint[:16],
                "session": bundle.session_id,
                "chain": bundle.chain_id,
            }
            found |= {f"{bundle.nick}'s {what}": value for what, value in named.items()}
        return found


@pytest.fixture
def talked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Talked:
    ours, *_ = (keystore(name).with_chain(bytes(16)) for name in ("alice", *PEOPLE))
    monkeypatch.setattr(Keystore, "generate", lambda: ours)
    monkeypatch.setattr(crypto_utils, "_LEAST_COST", (64, 1, 1))
    return Talked(tmp_path)


def shown(secrets: dict[str, bytes], files: dict[str, bytes]) -> list[str]:
    return [
        f"{what} in {name}"
        for what, secret in secrets.items()
        for name, data in files.items()
        if secret in data
    ]


def test_behind_a_passphrase_no_file_shows_a_private_key_or_anything_of_others(
    talked: Talked,
) -> None:
    talked.lock()
    assert shown(talked.private_keys | talked.of_others, talked.files()) == []


def test_without_one_the_keys_show_and_what_the_test_looks_for_is_there(talked: Talked) -> None:
    assert len(talked.private_keys) > 100
    whose = {what.split()[0] for what in shown(talked.private_keys, talked.files())}
    assert whose == {"IK", "CSK", "CDK"}
    assert [what for what, part in talked.of_others.items() if part not in talked.in_clear] == []


def test_what_shows_behind_a_passphrase_is_what_the_notice_names(talked: Talked) -> None:
    talked.lock()
    files = talked.files()
    assert files["nick"] == b"alice\n"
    for name in ("keys", "chain.db"):
        assert talked.keystore.identity.spki in files[name]
    assert {*files} == {"lock", "keys", "nick", "chain.db", "chain.db-wal"}
    assert files["lock"] == b""
    with closing(sqlite3.connect(talked.path / "chain.db")) as database:
        tables = database.execute("SELECT DISTINCT name FROM side").fetchall()
        headers = database.execute("SELECT header, length(body) FROM blocks").fetchall()
    assert {name for (name,) in tables} == talked.tables
    assert len(headers) > len(TEXTS)  # how many, when, and how long


def test_a_copy_of_the_keys_from_before_opens_what_was_written_since(talked: Talked) -> None:
    before = Keystore.parse((talked.path / "keys").read_bytes())
    talked.lock()
    talked.files()  # which writes a message
    with closing(Blockchain.open(talked.path / "chain.db", before)) as chain:
        assert [record for _, record in chain.records(BlockType.SENT)][-1] == TEXTS[0].encode()
