"""How people come in and what a terminal remembers, through real processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import Client, Guest, Process, Relay, RelayHere, Terminal, environment, run


def at(relay: Relay | RelayHere) -> tuple[str, ...]:
    return ("--server", "127.0.0.1", "--port", str(relay.port))


def invite_of(client: Process | Guest) -> str:
    return client.out.wait_for(r"^python chat_client\.py --invite \S+$").split()[-1]


# ----------------------------------------------------------------- invites


def test_an_invite_is_all_that_a_friend_types(tmp_path: Path) -> None:
    hosts = ["chat_client.py", "--host", "0", "--new-room", "--name", "alice"]
    with Process(hosts, environment(tmp_path / "a")) as alice:
        code = invite_of(alice)
        joins = ["chat_client.py", "--invite", code, "--name", "bob"]
        with Process(joins, environment(tmp_path / "b")) as bob:
            alice.err.wait_for(r"^-- bob#\w+ joined")
            bob.err.wait_for(r"in the room: alice#")
            bob.types("in here")
            alice.out.wait_for(r"^bob#\w+: in here$")
            bob.ends_input()
            assert bob.exit_code() == 0
        alice.ends_input()
        assert alice.exit_code() == 0


def test_invited_room_is_joined_again_without_its_code_and_no_other_way(
    relay: RelayHere, tmp_path: Path
) -> None:
    with Guest(relay.port, tmp_path / "a", "alice", "--new-room") as alice:
        code = invite_of(alice)
        done = run(tmp_path / "b", *at(relay), "--name", "bob", "--invite", code)
        assert done.returncode == 0, done
        with (
            Client(relay.port, tmp_path / "b", "bob", "--invite") as bob,
            Guest(relay.port, tmp_path / "c", "carol") as carol,
        ):
            carol.err.wait_for(r"in the room: nobody else yet$")
            bob.sees("alice")
            alice.err.wait_for(r"bob#\w+ joined", 2)
            bob.types("again")
            alice.shows(r"bob#\w+: again")
            assert "bob" not in carol.err.text


def test_invite_of_an_open_room_is_how_others_find_it(relay: RelayHere, tmp_path: Path) -> None:
    with Client(relay.port, tmp_path, "alice", "--room", "deck-3") as alice:
        alice.joined().types("/invite")
        alice.err.wait_for(rf"this room is open, .* --port {relay.port} --room deck-3$")


def test_mistyped_invite_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = run(tmp_path, "--invite", "ABCDE-FGHIJ")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(r"^chainroom: --invite: ", done.stderr, re.MULTILINE)


def test_no_invite_to_take_again_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = run(tmp_path, "--invite")
    assert done.returncode == 2
    assert "this profile was in no invited room yet" in done.stderr


def test_password_is_asked_of_a_person_and_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    with (
        Relay("--password-file", str(secret)) as relay,
        Terminal(tmp_path / "a", *at(relay), "--name", "ann") as ann,
    ):
        ann.shows("Relay password:")
        ann.types("correct horse\r")
        ann.shows("Connected!")
        assert not any("correct horse" in line for line in ann.lines())
        ann.types("exit\r")
        assert ann.exit_code() == 0


# ----------------------------------------------------------------- one message


def test_send_says_one_thing_and_leaves(relay: RelayHere, tmp_path: Path) -> None:
    with Guest(relay.port, tmp_path / "a", "alice") as alice:
        alice.joined()
        done = run(tmp_path / "b", *at(relay), "--name", "ci", "--send", "/build 42 is green")
        assert done.returncode == 0, done
        assert done.stdout.splitlines()[-1] == "Mined 1 coin. New balance: 1"
        alice.shows(r"ci#\w+: /build 42 is green")
        done = run(tmp_path / "b", *at(relay), "--name", "ci", "--send", "psst", "--to", "alice")
        assert done.returncode == 0, done
        alice.shows(r"ci#\w+ \(private\): psst")


def test_send_to_nobody_is_3_and_says_that_nothing_was_sent(
    relay: RelayHere, tmp_path: Path
) -> None:
    done = run(tmp_path, *at(relay), "--name", "ci", "--send", "psst", "--to", "nobody")
    assert done.returncode == 3
    assert "there is nobody called nobody here" in done.stderr
    assert "1 line was not sent" in done.stderr


# ----------------------------------------------------------------- what a terminal remembers


@contextmanager
def ann_chats(relay: RelayHere, home: Path) -> Iterator[Terminal]:
    """A run on a terminal, that she leaves in the end."""
    with Terminal(home, *at(relay), "--name", "ann") as ann:
        ann.shows("Connected!")
        yield ann
        ann.types("\x15exit\r")  # Ctrl-U: whatever stands there
        assert ann.exit_code() == 0


def test_typed_lines_come_back_in_the_next_run_and_lie_sealed(
    relay: RelayHere, tmp_path: Path
) -> None:
    with ann_chats(relay, tmp_path) as ann:
        ann.types("remember this\r")
        ann.shows("Mined 1 coin")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"remember this" in path.read_bytes() for path in files)
    with ann_chats(relay, tmp_path) as ann:
        ann.types("\x1b[A\x1b[A")
        ann.shows("^> remember this")


def test_erased_text_does_not_come_back_by_arrow_up(relay: RelayHere, tmp_path: Path) -> None:
    with ann_chats(relay, tmp_path) as ann:
        ann.types("a secret\r")
        ann.shows("Mined 1 coin")
        ann.types("/find a secret\r")
        ann.shows(r"\[(\d+)\] .*a secret")
        (index,) = re.findall(r"\[(\d+)\].*a secret", "\n".join(ann.lines()))
        ann.types(f"/forget {index} yes\r")
        ann.shows("is erased here")
    with ann_chats(relay, tmp_path) as ann:
        ann.types("\x1b[A" * 6)
        ann.shows("^> ")
    assert not any("a secret" in line for line in ann.lines())


def test_nick_is_remembered(relay: RelayHere, tmp_path: Path) -> None:
    with Client(relay.port, tmp_path, "ann") as ann:
        ann.joined().types("/nick zoë")
        ann.err.wait_for(r"you are zoë#\w+ from here on")
        assert ann.leaves() == 0
    done = run(tmp_path, *at(relay))
    assert re.search(r"you are zoë#\w+; in the room", done.stderr)


def test_bell_rings_for_a_mention_and_what_else_is_wanted(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Guest(relay.port, tmp_path / "b", "bob") as bob,
        Terminal(tmp_path / "a", *at(relay), "--name", "ann", "--time", "off") as ann,
    ):
        bob.sees("ann")
        bob.types("hello all")
        ann.shows(r"^bob#\w+: hello all")
        assert b"\a" not in ann.raw
        bob.types("Ann: look")
        ann.shows(r"^bob#\w+: Ann: look")
        ann.until(lambda: ann.raw.count(b"\a") == 1, "a bell")
        ann.types("/bell off\r")
        ann.shows("what rings is nothing")
        bob.types("/msg ann ann!")
        ann.shows("ann!$")
        ann.types("exit\r")
        assert ann.exit_code() == 0
        assert ann.raw.count(b"\a") == 1


def test_quiet_terminal_answers_what_is_asked(relay: RelayHere, tmp_path: Path) -> None:
    with Terminal(tmp_path, *at(relay), "--name", "ann", "--quiet") as ann:
        ann.types("/who\r")
        ann.shows(r"^-- ann#\w+ \(you\)")
        ann.types("/wallet\r")
        ann.shows("^-- 0 coins")
        ann.types("exit\r")
        assert ann.exit_code() == 0
        assert not any("Connected" in line or "in the room" in line for line in ann.lines())
