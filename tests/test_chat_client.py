"""chat_client: from the command line to a conversation, in this process with a scripted person.

The relay is a real one on a thread, or for --host a real child.
"""

from __future__ import annotations

import errno
import gc
import getpass
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from processes import ROOT, environment
from profiles import checked_identity
from scripted_person import DEADLINE_S, Answer, Person
from simulated_room import keystore, session_keys

import chat_client
import crypto_utils
from blockchain import BlockType, Draft, StoreUnreadable
from chat_client import main, start_client
from chat_discovery import Found
from chat_engine import Engine
from chat_link import CannotConnect
from chat_messages import check_nick
from chat_profile import Profile
from chat_server import Relay, start_server
from chat_settings import Settings, read_settings
from chat_terminal import BadInput, Kind, Line
from crypto_utils import Identity, Keystore, PassphraseNeeded

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with start_server("127.0.0.1", 0) as running:
        yield running


@pytest.fixture(autouse=True)
def _keys_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keys that are there already; afterwards no thread, handler or open socket is left."""
    ours = keystore("alice").with_chain(bytes(16))
    monkeypatch.setattr(Keystore, "generate", lambda: ours)
    monkeypatch.setattr(Identity, "from_pkcs8", checked_identity)
    monkeypatch.setattr(chat_client, "EncryptionManager", lambda: session_keys("alice", 0))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    threads = set(threading.enumerate())
    yield
    assert [signal.getsignal(number) for number in numbers] == handlers
    deadline = time.monotonic() + DEADLINE_S
    while left := set(threading.enumerate()) - threads:
        assert time.monotonic() < deadline, left
        time.sleep(0.002)  # a thread that was told to end
    gc.collect()  # ResourceWarnings are errors


def settings(home: Path, *argv: str) -> Settings:
    return read_settings(argv, {"CHAINROOM_HOME": str(home), "CHAINROOM_NO_ANNOUNCE": "1"})


def chats(monkeypatch: pytest.MonkeyPatch, person: Person, home: Path, *argv: str) -> int:
    """A whole run of the chat; its exit code."""
    monkeypatch.setattr(chat_client, "open_terminal", lambda **_: person)
    code = start_client(settings(home, *argv))
    assert person.closed == 1
    return code


def raises(number: int, then: Answer = None) -> Callable[[], str | None]:
    """An answer: the signal comes while the person is asked."""

    def answer() -> str | None:
        signal.raise_signal(number)
        return cast("str | None", then)

    return answer


def at(relay: Relay) -> tuple[str, ...]:
    return ("--server", relay.address[0], "--port", str(relay.address[1]))


# --------------------------------------------------------------------------- the dialogue


def test_the_seeds_dialogue(relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Person("127.0.0.1", str(relay.address[1]), "hello", "exit")
    assert chats(monkeypatch, person, tmp_path, "--name", "ann") == 0
    assert person.said(Kind.DIALOGUE) == [
        "Connected! Type your messages below.",
        "Mined 1 coin. New balance: 1",
    ]
    asked = [prompt for prompt, _ in person.prompts]
    assert asked[:3] == ["Enter server IP: ", "Enter port: ", "> "]
    assert set(asked[2:]) == {"> "}
    assert person.errors == []


def test_a_blank_port_is_5555(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuses(host: str, port: int) -> socket.socket:
        tried.append((host, port))
        raise CannotConnect("nothing there")

    monkeypatch.setattr(chat_client, "connect", refuses)
    assert chats(monkeypatch, Person(" h ", " "), tmp_path) == 3
    assert chats(monkeypatch, Person("h", " 6000 "), tmp_path) == 3
    assert chats(monkeypatch, Person("h"), tmp_path, "--port", "6001") == 3
    assert chats(monkeypatch, Person(), tmp_path, "--server", "s") == 3
    assert tried == [("h", 5555), ("h", 6000), ("h", 6001), ("s", 5555)]


@pytest.mark.parametrize(
    ("answers", "code", "hint"),
    [
        ((), 2, "the input ended at the question 'Enter server IP:': see --server, --port"),
        (("h",), 2, "the input ended at the question 'Enter port:': see --server, --port"),
        (("h", "many"), 2, "a port is a number from 1 to 65535, not 'many'"),
        (("h", "0"), 2, "a port is a number from 1 to 65535, not '0'"),
        (("",), 2, "an address looks like 192.168.1.5 or a host's name, not ''"),
        (("a b",), 2, "an address looks like 192.168.1.5"),
        (("a\0b",), 2, "an address looks like 192.168.1.5"),
        ((BadInput("a line of input is not UTF-8"),), 2, "a line of input is not UTF-8"),
        (("h", "1"), 3, "no way"),
    ],
)
def test_a_pipe_is_asked_once_and_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[Answer],
    code: int,
    hint: str,
) -> None:
    def refuses(_host: str, _port: int) -> socket.socket:
        raise CannotConnect("no way")

    monkeypatch.setattr(chat_client, "connect", refuses)
    person = Person(*answers, "never asked", "never asked")
    if not answers or answers == ("h",):
        person.answers = list(answers)
    assert chats(monkeypatch, person, tmp_path) == code
    assert len(person.errors) == 1
    assert hint in person.errors[0]


def test_a_person_is_asked_three_times_and_told_each_time(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(relay.address[1])
    monkeypatch.setattr(chat_client, "Browser", FoundRelays)
    person = Person("", "127.0.0.1", "x", "127.0.0.1", port, "exit", interactive=True)
    assert chats(monkeypatch, person, tmp_path) == 0
    assert len(person.errors) == 2
    person = Person("", "", "", "127.0.0.1", port, interactive=True)
    assert chats(monkeypatch, person, tmp_path) == 2
    assert len(person.errors) == 3
    assert len(person.prompts) == 3


class FoundRelays:
    """What the network says, one relay after the other."""

    def __init__(self, *relays: Found) -> None:
        self.relays = list(relays)
        self.looks = 0

    def found(self) -> list[Found]:
        self.looks += 1
        return self.relays[: self.looks]

    def __enter__(self) -> FoundRelays:
        return self

    def __exit__(self, *_: object) -> None:
        self.looks = -1  # over


def test_relays_that_are_found_are_offered_and_enter_takes_the_first(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Found("ship\x1b[2J", *relay.address)
    browser = FoundRelays(first, Found("shore", "10.0.0.7", 6000))
    monkeypatch.setattr(chat_client, "Browser", lambda: browser)

    def waits_for_both() -> str:
        person.sees("found shore: 10.0.0.7, port 6000")
        return ""

    person = Person(waits_for_both, "exit", interactive=True)
    assert chats(monkeypatch, person, tmp_path) == 0
    offers = [text for text in person.said(Kind.NOTICE) if text.startswith("found ")]
    port = relay.address[1]
    assert offers == [
        f"found ship\x1b[2J: 127.0.0.1, port {port}; Enter takes it",
        "found shore: 10.0.0.7, port 6000",
    ]
    assert [prompt for prompt, _ in person.prompts][:2] == ["Enter server IP: ", "> "]
    assert browser.looks == -1


def test_typed_address_goes_before_what_is_found(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = FoundRelays(Found("elsewhere", "10.0.0.7", 6000))
    monkeypatch.setattr(chat_client, "Browser", lambda: browser)

    def typed() -> str:
        person.sees("found elsewhere")
        return "127.0.0.1"

    person = Person(typed, str(relay.address[1]), "exit", interactive=True)
    assert chats(monkeypatch, person, tmp_path) == 0


@pytest.mark.parametrize("answers", [("exit",), ("127.0.0.1", " EXIT "), ()])
def test_a_person_can_leave_at_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
) -> None:
    monkeypatch.setattr(chat_client, "Browser", FoundRelays)
    person = Person(*answers, interactive=True)
    assert chats(monkeypatch, person, tmp_path) == 0
    assert person.errors == []


def test_who_named_the_relay_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    person = Person(interactive=True)
    flags = ("--server", "127.0.0.1", "--port", port)
    assert chats(monkeypatch, person, tmp_path, *flags) == 3
    assert person.prompts == []
    assert len(person.errors) == 1


def test_all_that_takes_long_comes_before_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A relay gives a newcomer five seconds for its JOIN; reading a long chain may take more.
    steps: list[str] = []

    def noted(name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            return action(*args, **kwargs)

        return note

    def refuses(_host: str, _port: int) -> socket.socket:
        steps.append("connect")
        raise CannotConnect("far enough")

    monkeypatch.setattr(Profile, "recall", noted("recall", Profile.recall))
    monkeypatch.setattr(Profile, "balance", noted("balance", Profile.balance))
    monkeypatch.setattr(chat_client, "_password", noted("password", chat_client._password))
    made = noted("key made", lambda: session_keys("alice", 0))
    monkeypatch.setattr(chat_client, "EncryptionManager", made)
    monkeypatch.setattr(Future, "result", noted("key awaited", Future.result))
    monkeypatch.setattr(chat_client, "connect", refuses)
    assert chats(monkeypatch, Person(), tmp_path, "--server", "h") == 3
    assert steps.pop() == "connect"
    assert set(steps) == {"recall", "balance", "password", "key made", "key awaited"}


# --------------------------------------------------------------------------- nothing is lost


def test_lines_that_are_refused_or_no_text_are_counted_and_exit_3(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = BadInput("a line of input is not UTF-8 and was not taken", "x\\xff")
    person = Person("one", "x" * 16_385, bad, "/frobnicate", "", "two")
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 3
    assert person.errors[-1] == "3 lines were not sent"
    assert len(person.errors) == 4
    assert person.said(Kind.DIALOGUE)[-1] == "Mined 1 coin. New balance: 2"
    assert {draft for _, draft in person.prompts} == {""}, "a pipe mends nothing"


def test_one_line_that_is_refused_is_one(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person("/frobnicate", "exit")
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 3
    assert person.errors[-1] == "1 line was not sent"


def test_a_person_gets_back_what_was_refused_and_leaves_with_0(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = BadInput("not UTF-8", "x\\xff")
    person = Person("/msg nobody hello", "mended", bad, "exit", interactive=True)
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
    assert person.prompts[:4] == [
        ("> ", ""),
        ("> ", "/msg nobody hello"),
        ("> ", ""),
        ("> ", "x\\xff"),
    ]


def test_what_stands_behind_an_exit_was_not_meant(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person("one", "exit", *(["behind"] * 50))
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
    assert person.errors == []


def test_lines_that_a_signal_cuts_off_are_counted_and_exit_3(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()
    real = Engine.leave

    def stuck(line: Line) -> None:  # the engine waits for who reads what we print
        if line.text.startswith("Mined"):
            assert going.wait(DEADLINE_S)

    def behind() -> str:
        person.sees("Mined")
        return "two"

    def leave(engine: Engine, within_s: float) -> None:
        real(engine, within_s)
        going.set()

    person = Person("one", behind, "three", raises(signal.SIGTERM))
    person.on_show = stuck
    monkeypatch.setattr(Engine, "leave", leave)
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 3
    assert person.errors == ["2 lines were not sent"]


def test_what_is_unsent_at_the_end_is_exit_3_and_what_was_refused_is_said_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_server("127.0.0.1", 0) as relay:

        def dies() -> str:
            person.sees("Mined")
            relay.stop()
            person.sees("connection lost")
            return "after its death"

        person = Person("one", dies, "/frobnicate")
        assert chats(monkeypatch, person, tmp_path, *at(relay), "--linger", "0.3") == 3
    assert person.errors[-1] == "1 line was not sent"
    assert any("not delivered; kept on your chain" in text for text in person.said(Kind.ALERT))


def test_who_leaves_while_the_chain_cannot_be_written_is_told_what_is_lost_and_gets_exit_1(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def breaks() -> str:
        person.sees("Connected!")
        monkeypatch.setattr("blockchain.Blockchain._insert", full)
        return "hello"

    def leaves() -> str:
        person.sees("your chain cannot be written")
        return "exit"

    person = Person(breaks, leaves, "said to nobody")
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 1
    unsent = "what you typed since then is not sent"
    why = "your chain cannot be written: database or disk is full"
    assert person.errors == [f"{why}; {unsent}", "1 line was not sent"]
    assert not any("Mined" in text for text in person.said())


def test_a_disk_that_is_full_at_the_start_is_one_line_and_exit_6(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    Profile.open(tmp_path).close()
    monkeypatch.setattr("blockchain.Blockchain._put", full)
    person = Person("hello")
    assert chats(monkeypatch, person, tmp_path, *at(relay), "--new-room") == 6
    why = "your chain cannot be written (database or disk is full)"
    assert person.errors == [f"{why}: make room there, or name another folder with --home"]


def test_a_fault_at_the_prompt_ends_every_thread_and_is_not_swallowed(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person("hello", RuntimeError("nobody thought of this"))
    with pytest.raises(RuntimeError, match="nobody thought of this"):
        chats(monkeypatch, person, tmp_path, *at(relay))
    assert person.closed == 1
    Profile.open(tmp_path, "default").close()  # its lock is free


# --------------------------------------------------------------------------- the profile


def test_a_new_identity_and_a_second_client_are_said(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    path = tmp_path / "profiles"
    with Profile.open(tmp_path):
        person = Person()
        assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
        how = "without a passphrase: python chat_client.py passphrase --profile default-2 sets one"
        assert person.said(Kind.NOTICE)[:2] == [
            f"new identity, kept in {path / 'default-2'} {how}",
            "another client uses your profile: this one is default-2",
        ]
        assert any(text.startswith("you are ann-2#") for text in person.said())
        person = Person()
        assert chats(monkeypatch, person, tmp_path, "--profile", "default", *at(relay)) == 6
        assert "is in use by another client" in person.errors[0]


def test_a_tampered_chain_is_said_once_and_the_chat_goes_on(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Profile.open(tmp_path) as profile:
        profile.chain.add_block(Draft(BlockType.SENT, b"x", bytes(32)), 1)
        profile.chain.add_block(Draft(BlockType.SENT, b"y", bytes(31) + b"\1"), 1)
    with closing(sqlite3.connect(profile.path / "chain.db")) as database, database:
        database.execute("DELETE FROM blocks WHERE idx = 1")
    person = Person("hello")
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
    (alert,) = person.said(Kind.ALERT)
    assert alert.startswith("HISTORY TAMPERED: MISSING@1: ")
    assert "evidence-1.db" in alert
    assert person.said(Kind.DIALOGUE)[-1] == "Mined 1 coin. New balance: 1"
    person = Person()
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
    assert person.said(Kind.ALERT) == []


def test_a_record_that_cannot_be_read_is_exit_6_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise StoreUnreadable("block 7 cannot be read: unknown version 2 of an entry")

    monkeypatch.setattr(Profile, "recall", unreadable)
    person = Person()
    assert chats(monkeypatch, person, tmp_path, "--server", "h") == 6
    (error,) = person.errors
    assert error.startswith("block 7 cannot be read: unknown version 2 of an entry: put the")
    Profile.open(tmp_path, "default").close()  # and its lock is free


def test_a_home_that_cannot_be_written_is_one_line_and_exit_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profiles").write_text("in the way")
    person = Person()
    assert chats(monkeypatch, person, tmp_path, "--server", "h") == 6
    assert len(person.errors) == 1


# --------------------------------------------------------------------------- the passphrase


@pytest.fixture
def nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that is not there, to end a start that came so far; and Argon2id in no time."""

    def refuses(_host: str, _port: int) -> socket.socket:
        raise CannotConnect("no way")

    monkeypatch.setattr(chat_client, "connect", refuses)
    monkeypatch.setattr(crypto_utils, "_LEAST_COST", (64, 1, 1))


def secret(path: Path, text: str) -> tuple[str, str]:
    """The flag that names a file with this passphrase."""
    path.write_text(text + "\n")
    path.chmod(0o600)
    return "--passphrase-file", str(path)


def test_a_new_profile_gets_the_passphrase_of_the_file_at_once_and_opens_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_there: None
) -> None:
    home = tmp_path / "home"
    right, wrong = secret(tmp_path / "right", "gull"), secret(tmp_path / "wrong", "rat")
    person = Person()
    assert chats(monkeypatch, person, home, "--server", "h", *right) == 3
    path = home / "profiles" / "default"
    assert person.said(Kind.NOTICE) == [f"new identity, kept in {path} behind your passphrase"]
    with pytest.raises(PassphraseNeeded):
        Keystore.parse((path / "keys").read_bytes())
    for flags, hint in (
        ((), "this profile has a passphrase, and nobody can be asked here"),
        (wrong, f"the passphrase in {wrong[1]} is not this profile's"),
    ):
        person = Person()
        assert chats(monkeypatch, person, home, "--server", "h", *flags) == 6
        (error,) = person.said()
        assert error.startswith(hint)
    person = Person()
    assert chats(monkeypatch, person, home, "--server", "h", *right) == 3
    assert person.said() == ["no way"]


def test_who_names_a_passphrase_for_a_profile_without_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_there: None
) -> None:
    assert chats(monkeypatch, Person(), tmp_path / "home", "--server", "h") == 3
    person, flags = Person(), secret(tmp_path / "right", "gull")
    assert chats(monkeypatch, person, tmp_path / "home", "--server", "h", *flags) == 3
    assert person.said() == [
        "this profile has no passphrase: python chat_client.py passphrase sets one",
        "no way",
    ]
    assert person.lines[0].kind is Kind.ALERT


def test_where_the_passphrase_of_a_new_profile_cannot_be_read_no_keys_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_there: None
) -> None:
    flags = ("--server", "h", "--passphrase-file", str(tmp_path / "nowhere"))
    person = Person()
    assert chats(monkeypatch, person, tmp_path / "home", *flags) == 6
    (error,) = person.said()
    assert error.startswith(f"{tmp_path / 'nowhere'} cannot be read")
    assert not (tmp_path / "home" / "profiles" / "default" / "keys").exists()


# --------------------------------------------------------------------------- nicks


@pytest.mark.parametrize(
    ("login", "nick"),
    [
        ("ann", "ann"),
        ("Ann Smith", "AnnSmith"),
        ("DOMAIN#ann:1", "DOMAINann1"),
        ("-/ann", "ann"),
        ("", "someone"),
        ("   ", "someone"),
        ("#", "someone"),
        ("a\udcffb\u202ec\x1bd", "abcd"),
        ("\udcff", "someone"),
        ("x" * 40, "x" * 32),
        ("Zoe\u0308", "Zoë"),
        ("\u0301abc", "someone"),
        ("日本", "日本"),
    ],
)
def test_a_login_name_becomes_a_nick_that_fits_the_grammar(
    monkeypatch: pytest.MonkeyPatch, login: str, nick: str
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: login)
    assert chat_client._login_nick("") == nick
    suffixed = chat_client._login_nick("-2")
    assert suffixed == nick[:30] + "-2"
    for name in (nick, suffixed):
        assert check_nick(name) == name
        assert unicodedata.is_normalized("NFC", name)


@pytest.mark.parametrize("problem", [OSError("no login"), KeyError("uid 1234"), ImportError("pwd")])
def test_a_login_without_a_name_is_someone(
    monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def nobody() -> str:
        raise problem

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert chat_client._login_nick("") == "someone"
    assert chat_client._login_nick("-12") == "someone-12"


def test_a_nick_is_the_flags_then_the_remembered_then_the_login_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "login")
    with Profile.open(tmp_path) as profile:
        assert chat_client._nick(settings(tmp_path), profile) == "login"
        assert profile.nick == "login"
        assert chat_client._nick(settings(tmp_path, "--name", "ann"), profile) == "ann"
        monkeypatch.setattr(getpass, "getuser", lambda: "other")
        assert chat_client._nick(settings(tmp_path), profile) == "ann"
        with Profile.open(tmp_path) as second:
            assert chat_client._nick(settings(tmp_path), second) == "other-2"
        with Profile.open(tmp_path, "work-2") as named:
            assert chat_client._nick(settings(tmp_path), named) == "other"


# --------------------------------------------------------------------------- the password file


def password_of(path: Path) -> bytes:
    return chat_client._password(settings(path.parent, "--password-file", str(path)))


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (b"correct horse\nnot this", b"correct horse"),
        (b"correct horse", b"correct horse"),
        (b"windows\r\n", b"windows"),
        (b" spaces count \n", b" spaces count "),
        (b"a\rb\n", b"a\rb"),
        ("pa\u0308ss\n".encode(), "päss".encode()),
        (b"x" * 4096 + b"\n", b"x" * 4096),
    ],
)
def test_the_password_is_the_first_line_of_the_file_in_nfc(
    tmp_path: Path, data: bytes, password: bytes
) -> None:
    path = tmp_path / "pw"
    path.write_bytes(data)
    path.chmod(0o600)
    assert password_of(path) == password
    from chat_daemon import read_password

    assert read_password(str(path)) == password, "the relay reads it alike"


@pytest.mark.parametrize(
    ("data", "mode", "hint"),
    [
        (b"secret\n", 0o640, "can be read by others: chmod 600"),
        (b"secret\n", 0o604, "can be read by others: chmod 600"),
        (b"", 0o600, "has no first line of 1 to 4096 bytes"),
        (b"\nsecret\n", 0o600, "has no first line of 1 to 4096 bytes"),
        (b"x" * 4097, 0o600, "has no first line of 1 to 4096 bytes"),
        (b"\xff\xfe\n", 0o600, "does not begin with a line of UTF-8"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_password_file_that_cannot_be_used_is_exit_2_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, mode: int, hint: str
) -> None:
    path = tmp_path / "pw"
    if data is not None:
        path.write_bytes(data)
        path.chmod(mode)
    person = Person("never asked")
    assert chats(monkeypatch, person, tmp_path / "home", "--password-file", str(path)) == 2
    assert person.prompts == []
    (error,) = person.errors
    assert error.startswith(f"{path} ")
    assert hint in error
    assert "secret" not in error


def test_a_wrong_password_is_exit_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pw"
    path.write_text("battery staple\n")
    path.chmod(0o600)
    with start_server("127.0.0.1", 0, password=b"correct horse") as relay:
        for flags in ((), ("--password-file", str(path))):
            person = Person("hello")
            assert chats(monkeypatch, person, tmp_path / "home", *at(relay), *flags) == 5
            assert "password" in person.errors[0]


# --------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("place", ["profile", "first question", "second question", "connect"])
def test_a_signal_before_the_room_ends_the_run_with_0_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, place: str
) -> None:
    def connects(_host: str, _port: int) -> socket.socket:
        signal.raise_signal(number)
        raise AssertionError("it went on")

    monkeypatch.setattr(chat_client, "connect", connects)
    person = Person("h", "1")
    if place == "profile":

        def interrupted(*_: object) -> None:
            signal.raise_signal(number)
            raise AssertionError("it went on")

        monkeypatch.setattr(Profile, "recall", interrupted)
    elif place == "first question":
        person.answers[0] = raises(number)
    elif place == "second question":
        person.answers[1] = raises(number)
    assert chats(monkeypatch, person, tmp_path) == 0
    assert person.errors == []
    Profile.open(tmp_path, "default").close()  # its lock is free


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_at_the_prompt_leaves_in_order(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def signalled() -> str | None:
        person.sees("Mined 1 coin")
        signal.raise_signal(number)
        return "never said"

    person = Person("hello", signalled)
    assert chats(monkeypatch, person, tmp_path, *at(relay)) == 0
    with Profile.open(tmp_path) as profile:
        assert profile.balance() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_the_end_is_waited_for_ends_that(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made, real = Engine.__init__, Engine.leave
    left: list[float] = []

    class Over(threading.Event):
        """Somebody presses Ctrl-C once it is waited for without an end."""

        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None and not left:
                signal.raise_signal(number)
            return super().wait(timeout)

    def make(engine: Engine, *args: Any) -> None:
        made(engine, *args)
        engine.over = Over()

    def leave(engine: Engine, within_s: float) -> None:
        left.append(within_s)
        real(engine, within_s)

    def hangs(_engine: Engine) -> list[Any]:
        return []  # takes no lines, so that the session does not end by itself

    monkeypatch.setattr(Engine, "__init__", make)
    monkeypatch.setattr(Engine, "leave", leave)
    monkeypatch.setattr(Engine, "_take_lines", hangs)
    assert chats(monkeypatch, Person(), tmp_path, *at(relay)) == 0
    assert left[-1] == 0.0


def test_a_signal_between_two_waits_is_noted_and_ends_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person("never asked")
    person.on_show = lambda line: (
        signal.raise_signal(signal.SIGTERM) if line.text.startswith("new identity") else None
    )
    assert chats(monkeypatch, person, tmp_path) == 0
    assert person.prompts == []
    assert len(person.said(Kind.NOTICE)) == 1


def test_a_second_signal_where_nothing_is_waited_for_kills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = []
    with chat_client._Signals() as signals:
        signal.raise_signal(signal.SIGTERM)  # noted
        real = signal.raise_signal
        monkeypatch.setattr(
            signal, "raise_signal", lambda number: killed.append((number, signal.getsignal(number)))
        )
        real(signal.SIGINT)
        assert killed == [(signal.SIGINT, signal.SIG_DFL)]
        with pytest.raises(KeyboardInterrupt), signals.waiting():
            raise AssertionError("it was noted")


def test_a_signal_that_our_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with chat_client._Signals() as signals:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with signals.waiting():
                signal.raise_signal(signal.SIGHUP)
            with pytest.raises(chat_client._Ended), signals.waiting():
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_end_that_takes_too_long_since_nobody_reads_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exited = threading.Event()
    codes: list[int] = []

    def exits(code: int) -> None:
        codes.append(code)
        exited.set()

    class Stuck(Person):
        def close(self) -> None:
            super().close()
            assert exited.wait(DEADLINE_S)

    monkeypatch.setattr(os, "_exit", exits)
    monkeypatch.setattr(chat_client, "_SIGNAL_LINGER_S", 0.0)
    monkeypatch.setattr(chat_client, "_GIVE_UP_S", 0.01)
    assert chats(monkeypatch, Stuck(raises(signal.SIGTERM)), tmp_path) == 0
    assert codes == [1]


def test_an_end_in_time_is_not_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("killed"))
    assert chats(monkeypatch, Person(raises(signal.SIGTERM)), tmp_path) == 0
    # That the clock's thread has ended is what every test here checks.


def test_sigterm_at_the_question_is_a_quiet_end_of_the_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "chat_client.py", "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(len("Enter server IP: ")) == b"Enter server IP: "
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == b""


# --------------------------------------------------------------------------- main


def started(monkeypatch: pytest.MonkeyPatch, home: Path, *argv: str) -> tuple[int, Person]:
    """What `main` returns, and to whom it talked."""
    person = Person()
    monkeypatch.setattr(chat_client, "open_terminal", lambda **_: person)
    monkeypatch.setenv("CHAINROOM_HOME", str(home))
    code = main(argv)
    assert person.closed == 1
    return code, person


def test_a_usage_error_is_one_escaped_line_on_stderr_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (["--frob\x1b[2J"], ["--port", "many"], ["--name", "a b"], ["frob\nnicate"]):
        assert main(["--home", str(tmp_path), *argv]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("chainroom: ")
        assert "\x1b" not in said.err
        assert all(line.startswith("    ") for line in said.err.splitlines()[1:])


def test_main_chats_when_no_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, person = started(monkeypatch, tmp_path, "--name", "ann")
    assert code == 2
    assert person.prompts == [("Enter server IP: ", "")]


def test_main_runs_the_command_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, person = started(monkeypatch, tmp_path, "wallet")
    assert code == 6
    assert "there is no profile in" in person.errors[0]
    assert person.prompts == []


# --------------------------------------------------------------------------- the seed's names


def test_mine_and_send_message_and_receive_messages_hand_on_to_engine_and_link() -> None:
    said: list[tuple[str, bool]] = []

    def submit(text: str, *, wait: bool) -> str:
        said.append((text, wait))
        return "refused"

    engine: Any = SimpleNamespace(submit=submit)
    assert chat_client.mine_and_send_message(engine, "hello") == "refused"
    assert chat_client.mine_and_send_message(engine, "hi", wait=True) == "refused"
    assert said == [("hello", False), ("hi", True)]
    ran = threading.Event()
    chat_client.receive_messages(cast(Any, SimpleNamespace(run=ran.set)))
    assert ran.is_set()


# --------------------------------------------------------------------------- --host


def test_hosts_relay_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fails)
    person = Person()
    assert chats(monkeypatch, person, tmp_path, "--host", "0") == 1
    assert person.errors[0].startswith("the relay cannot be started: ")


def test_two_hosts_of_one_home_have_a_log_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[str] = []

    def second() -> str:
        person.sees("Connected!")
        first_log = tmp_path / "profiles" / "default" / "relay.log"
        before = first_log.read_bytes()
        other = Person("exit")
        with monkeypatch.context() as patch:
            patch.setattr(chat_client, "open_terminal", lambda **_: other)
            patch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
            # As another process would; the keys of this one are the same.
            assert start_client(settings(tmp_path, "--host", "0", "--name", "bob")) == 0
        assert first_log.read_bytes().startswith(before)
        assert before
        logs.extend(sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("relay.log")))
        return "exit"

    person = Person(second)
    assert chats(monkeypatch, person, tmp_path, "--host", "0", "--name", "ann") == 0
    assert logs == ["profiles/default-2/relay.log", "profiles/default/relay.log"]
