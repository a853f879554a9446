"""The program as people use it: real relays and real clients, in pipes and on a terminal."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import (
    Client,
    Guest,
    Insider,
    Process,
    Relay,
    RelayHere,
    Terminal,
    Wire,
    environment,
    run,
)

from blockchain import Head
from chat_checkpoint import CHECKPOINT_TABLE
from chat_history import history
from chat_messages import Message, PayloadKind
from chat_profile import Profile
from chat_verification import verify_profile
from chat_wire import Error, ErrorCode, Frame, FrameDecoder, FrameType, Hello, Join, Label, u64
from crypto_utils import MAX_SKIP, BadCiphertext, Keystore, KeyUsed, open_sealed

# What a member gets to see once it is in the room.
MEMBERS_FRAMES = {FrameType.BROADCAST, FrameType.DIRECT, FrameType.ADD, FrameType.DEL}


@pytest.fixture
def relay_process() -> Iterator[Relay]:
    with Relay() as process:
        yield process


def chain_of(home: Path, profile: str = "default") -> Path:
    return home / "profiles" / profile / "chain.db"


# ----------------------------------------------------------------- the seed's dialogue


def test_seed_dialogue_from_a_pipe(relay: RelayHere, tmp_path: Path) -> None:
    done = run(tmp_path, stdin=f"127.0.0.1\n{relay.port}\nhello\nexit\n")
    assert done.returncode == 0, done
    for expected in (
        "Enter server IP: ",
        "Enter port: ",
        "Connected! Type your messages below.",
        "> ",
        "Mined 1 coin. New balance: 1",
    ):
        assert expected in done.stdout
    assert "Mined 1 coin. New balance: 1" in done.stdout.splitlines()


@pytest.mark.parametrize("goodbye", ["exit", "EXIT", " Exit ", "/quit", "/QUIT", ""])
def test_every_way_to_leave_exits_with_0(relay: RelayHere, tmp_path: Path, goodbye: str) -> None:
    with Guest(relay.port, tmp_path / "a", "alice") as alice:
        if goodbye:
            alice.types(goodbye, "never said")
        assert alice.leaves() == 0
        assert "Mined" not in alice.out.text


def test_blank_port_means_5555(tmp_path: Path) -> None:
    try:
        busy = socket.create_server(("127.0.0.1", 5555))
    except OSError:
        pytest.skip("port 5555 is used by somebody on this machine")
    with busy:
        busy.settimeout(20)
        with Process(["chat_client.py"], environment(tmp_path)) as client:
            client.types("127.0.0.1", "")
            connection, _ = busy.accept()
            connection.close()
            assert client.exit_code() == 3


def test_three_clients_talk_one_of_them_on_a_terminal(relay_process: Relay, tmp_path: Path) -> None:
    flags = ("--server", "127.0.0.1", "--port", str(relay_process.port), "--name", "carol")
    with (
        Wire(relay_process.port) as wire,
        Client(wire.port, tmp_path / "a", "alice") as alice,
        Client(wire.port, tmp_path / "b", "bob") as bob,
        Terminal(tmp_path / "c", *flags) as carol,
    ):
        alice.joined()
        bob.joined()
        carol.shows("Connected! Type your messages below.")
        for one, others in ((alice, ("bob", "carol")), (bob, ("alice", "carol"))):
            for other in others:  # else who speaks may not know yet that it is for him as well
                one.sees(other)
        bob.types("what a day äöü 🎈")
        alice.shows(r"bob#\w{4}: what a day äöü 🎈")
        carol.shows(r"^\d\d:\d\d bob#\w{4}: what a day äöü")
        carol.types("half a sent")
        alice.types("in between")
        carol.shows(r"alice#\w{4}: in between")
        carol.types("ence\r")
        alice.shows(r"carol#\w{4}: half a sentence")
        bob.shows(r"carol#\w{4}: half a sentence")
        carol.shows("Mined 1 coin. New balance: 1")
        carol.types("exit\r")
        assert carol.exit_code() == 0
        assert alice.leaves() == 0
        assert bob.leaves() == 0
    captured = b"".join(wire.streams)
    assert b"alice" in captured, "a bundle names its owner"
    for secret in (b"what a day", b"half a sentence", b"in between", "äöü".encode()):
        assert secret not in captured
    for home in ("a", "b", "c"):
        done = run(tmp_path / home, "verify")
        assert done.returncode == 0, done
        assert done.stdout.startswith("OK"), done
    assert run(tmp_path / "b", "wallet").stdout.startswith("1 coin,")
    said = run(tmp_path / "c", "history").stdout.splitlines()
    assert [re.sub(r"#\w+", "", line) for line in said] == [
        "bob: what a day äöü 🎈",
        "alice: in between",
        "carol: half a sentence",
    ]


def test_two_clients_of_one_login_need_no_flags(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Process(["chat_client.py"], environment(tmp_path)) as first,
        Process(["chat_client.py"], environment(tmp_path)) as second,
    ):
        for client in (first, second):
            client.types("127.0.0.1", str(relay.port))
            client.out.wait_for("Connected!")
        notice = "another client uses your profile: this one is default-2"
        assert (notice in first.err.text) != (notice in second.err.text)
        first.err.wait_for(r"#\w+ joined|in the room: .*#")
        first.types("hello, other me")
        second.out.wait_for("hello, other me")
        first.types("exit")
        second.types("exit")
        assert (first.exit_code(), second.exit_code()) == (0, 0)
    assert chain_of(tmp_path).exists()
    assert chain_of(tmp_path, "default-2").exists()


def test_host_starts_a_relay_that_ends_with_the_client(tmp_path: Path) -> None:
    with Process(
        ["chat_client.py", "--host", "0", "--name", "alice"], environment(tmp_path / "a")
    ) as host:
        host.out.wait_for("Connected!")
        port = int(host.err.wait_for(r"--port \d+").split()[1])
        with Guest(port, tmp_path / "b", "bob").joined() as bob:
            bob.types("knock knock")
            host.out.wait_for(r"bob#\w{4}: knock knock")
            host.types("exit")
            assert host.exit_code() == 0
            bob.err.wait_for("the relay closed the connection")
            assert bob.leaves() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_host_on_a_busy_port_is_one_line_and_exit_3(relay: RelayHere, tmp_path: Path) -> None:
    done = run(tmp_path, "--host", str(relay.port))
    assert done.returncode == 3
    assert len([line for line in done.stderr.splitlines() if line.startswith("chainroom:")]) == 1
    assert str(relay.port) in done.stderr


# ----------------------------------------------------------------- private, ignored, late


def test_private_message_reaches_that_member_alone(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Client(relay.port, tmp_path / "a", "alice").joined() as alice,
        Guest(relay.port, tmp_path / "b", "bob").joined() as bob,
        Guest(relay.port, tmp_path / "c", "carol").joined() as carol,
    ):
        alice.sees("carol")
        alice.types("/msg bob between us", "to all")
        bob.shows(r"alice#\w{4} \(private\): between us")
        carol.shows(r"alice#\w{4}: to all")
        carol.types("/status")
        carol.err.wait_for("in the room with 2 others")
        assert [c.leaves() for c in (alice, bob, carol)] == [0, 0, 0]
        assert "between us" not in carol.out.text + carol.err.text
        assert "missing" not in carol.err.text
    assert b"between us" not in chain_of(tmp_path / "b").read_bytes()
    assert "between us" in run(tmp_path / "b", "history", "--find", "BETWEEN").stdout


def test_ignored_person_reads_nothing_said_after(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Client(relay.port, tmp_path / "a", "alice").joined() as alice,
        Guest(relay.port, tmp_path / "b", "bob").joined() as bob,
        Guest(relay.port, tmp_path / "c", "carol").joined() as carol,
    ):
        alice.sees("carol")
        alice.types("for both")
        carol.shows(r"alice#\w{4}: for both")
        alice.types("/ignore carol", "for bob")
        bob.shows(r"alice#\w{4}: for bob")
        carol.types("can you hear me?")
        bob.shows(r"carol#\w{4}: can you hear me\?")
        carol.err.wait_for(r"alice#\w{4} says things that are not for you")
        assert [c.leaves() for c in (carol, alice, bob)] == [0, 0, 0]
        assert "can you hear me?" not in alice.out.text
        assert "for bob" not in carol.out.text


def test_who_joins_later_reads_nothing_said_before(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Client(relay.port, tmp_path / "a", "alice").joined() as alice,
        Guest(relay.port, tmp_path / "b", "bob").joined() as bob,
    ):
        alice.sees("bob")
        alice.types("before")
        bob.shows(r"alice#\w{4}: before")
        with Client(relay.port, tmp_path / "d", "dave").joined() as dave:
            alice.sees("dave")
            alice.types("after")
            dave.shows(r"alice#\w{4}: after")
            assert dave.leaves() == 0
            assert "before" not in dave.out.text
            assert "missing" not in dave.err.text


def test_a_capture_opens_neither_to_who_came_later_nor_to_who_was_ignored(
    relay: RelayHere, tmp_path: Path
) -> None:
    """With all their keys, and every byte that ever went through the relay."""
    with (
        Wire(relay.port) as wire,
        Client(wire.port, tmp_path / "a", "alice").joined() as alice,
        Guest(wire.port, tmp_path / "b", "bob").joined() as bob,
    ):
        alice.sees("bob")
        alice.types("before")
        bob.shows(r"alice#\w{4}: before")
        with Insider(wire.port, "dave") as dave:
            alice.sees("dave")
            alice.types("during")
            dave.shows("during")
            alice.types("/ignore dave", "after")
            bob.shows(r"alice#\w{4}: after")
            assert [alice.leaves(), bob.leaves()] == [0, 0]
            messages = {
                frame
                for frame in wire.frames
                if frame.type == FrameType.BROADCAST and frame.body[1] == PayloadKind.MESSAGE
            }
            assert len(messages) == 6, "three texts, and an audience before each"
            frames = [frame for frame in wire.frames if frame.type in MEMBERS_FRAMES]
            dave.reads(frames)
            dave.reads(frames[::-1])
            assert dave.messages == ["during"]
            (feed,) = [f for f in dave.session._heard.feeds.values() if f._chains]
            for chain, _ in feed._chains.values():
                for n in range(chain.n + MAX_SKIP):
                    with suppress(KeyUsed):
                        key = chain.derive(n).key
                        for frame in messages:
                            message = Message.parse(frame.body)
                            with pytest.raises(BadCiphertext):
                                open_sealed(key, message.sealed, message.associated)


# ----------------------------------------------------------------- trouble


def test_relay_that_dies_is_said_and_typed_lines_are_kept(tmp_path: Path) -> None:
    flags = ("--linger", "0.5")
    with Relay() as relay, Client(relay.port, tmp_path, "alice", *flags).joined() as alice:
        alice.types("while it lived")
        alice.out.wait_for("New balance: 1")
        relay.process.kill()
        alice.err.wait_for("!! connection lost")
        alice.types("after its death")
        alice.out.wait_for("New balance: 2")
        assert alice.leaves() == 3
        alice.err.wait_for(r"!! \d messages? not delivered; kept on your chain")
    assert "after its death" in run(tmp_path, "history").stdout


def test_relay_says_shutdown_when_it_is_stopped(relay_process: Relay, tmp_path: Path) -> None:
    with Client(relay_process.port, tmp_path, "alice").joined() as alice:
        assert relay_process.stop() == 0
        alice.err.wait_for("the relay closed the connection")
        assert alice.leaves() == 0


def test_client_ends_in_order_on_sigterm(relay: RelayHere, tmp_path: Path) -> None:
    with Client(relay.port, tmp_path, "alice").joined() as alice:
        alice.types("last words")
        alice.out.wait_for("New balance: 1")
        alice.process.send_signal(signal.SIGTERM)
        assert alice.exit_code() == 0
    assert run(tmp_path, "verify").returncode == 0


def test_password_opens_the_relay(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    for path in (right, wrong):
        path.chmod(0o600)
    with Relay("--password-file", str(right)) as relay:
        with Client(
            relay.port, tmp_path / "a", "alice", "--password-file", str(right)
        ).joined() as alice:
            assert alice.leaves() == 0
        flags = ("--server", "127.0.0.1", "--port", str(relay.port))
        assert run(tmp_path / "b", *flags).returncode == 5
        refused = run(tmp_path / "b", *flags, "--password-file", str(wrong))
        assert refused.returncode == 5
        assert "password" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "hint"),
    [
        (["--port", "99999"], "", 2, "1 to 65535"),
        (["--port", "many"], "", 2, "1 to 65535"),
        ([], "127.0.0.1\nmany\n", 2, "1 to 65535"),
        ([], "127.0.0.1\n0\n", 2, "1 to 65535"),
        ([], "", 2, "--server"),
        (["--name", "a b", "--server", "127.0.0.1"], "", 2, "no spaces"),
        (["--name", "x" * 33, "--server", "127.0.0.1"], "", 2, "32 characters"),
        (["--server", "127.0.0.1", "--port", "1"], "", 3, "is the relay running"),
        (["--server", "no.such.host.invalid"], "", 3, "no address"),
        (["--frobnicate"], "", 2, "--help"),
        (["history", "many"], "", 2, "at least 1"),
        (["wallet"], "", 6, "profile"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(
    tmp_path: Path, arguments: list[str], stdin: str, code: int, hint: str
) -> None:
    done = run(tmp_path, *arguments, stdin=stdin)
    assert done.returncode == code, done
    problems = [line for line in done.stderr.splitlines() if line.startswith("chainroom:")]
    assert len(problems) == 1, done
    assert hint in problems[0]


def test_a_person_is_asked_again_three_times(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--plain") as terminal:
        for _ in range(3):
            terminal.shows("Enter server IP:$")
            terminal.types("127.0.0.1\r")
            terminal.shows("Enter port:$")
            terminal.types("nonsense\r")
        assert terminal.exit_code() == 2
        assert len([line for line in terminal.lines() if "1 to 65535" in line]) == 3


def test_long_line_is_refused_and_nothing_else_is_lost(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Client(relay.port, tmp_path / "a", "alice").joined() as alice,
        Guest(relay.port, tmp_path / "b", "bob").joined() as bob,
    ):
        alice.sees("bob")
        alice.types("before", "x" * 16_385, "y" * 16_384, "", "   ", "z" * 200_000, "after")
        bob.shows(r"alice#\w{4}: before")
        bob.shows(r"alice#\w{4}: y{16384}")
        bob.shows(r"alice#\w{4}: after")
        assert alice.leaves() == 3
        assert "16385 bytes, at most 16384" in alice.err.text
        assert "2 lines were not sent" in alice.err.text
        assert "New balance: 3" in alice.out.text
        assert "New balance: 4" not in alice.out.text
        assert bob.leaves() == 0


def test_unknown_command_is_never_sent(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Client(relay.port, tmp_path / "a", "alice").joined() as alice,
        Guest(relay.port, tmp_path / "b", "bob").joined() as bob,
    ):
        alice.sees("bob")
        alice.types("/frobnicate secret", "//frobnicate")
        bob.shows(r"alice#\w{4}: /frobnicate")
        alice.err.wait_for("there is no command /frobnicate")
        assert "secret" not in bob.out.text


def test_nothing_from_outside_reaches_the_screen_unescaped(
    relay: RelayHere, tmp_path: Path
) -> None:
    # ESC, OSC 52 (the clipboard), BEL, C1's CSI, CR, bidi overrides, and a notice that is none.
    evil = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x9b31m\u202e!! fake\r-- fake\n!! KEY CHANGED: fake"
    shown = r"\\x1b\[2J\\x1b\]52;c;ZXZpbA==\\x07\\x9b31m\\u202e!! fake\\x0d-- fake"
    flags = ("--server", "127.0.0.1", "--port", str(relay.port), "--name", "bob")
    with (
        Client(relay.port, tmp_path / "a", "alice", "--json").joined_as_program() as alice,
        Terminal(tmp_path / "b", *flags, columns=120) as bob,
    ):
        bob.shows("Connected!")
        alice.out.wait_for('"type": "joined"')
        alice.types(json.dumps({"type": "say", "text": evil}))
        bob.shows(rf"alice#\w{{4}}: {shown}$")
        bob.shows("^    !! KEY CHANGED: fake$")
        alice.types(json.dumps({"type": "command", "line": "/nick al\x1b]0;title\x07ice"}))
        alice.out.wait_for("a name has no spaces")
        bob.types("/history\r/find KEY\r")
        bob.until(lambda: sum("x9b31m" in line for line in bob.lines()) == 3, "all of them")
        bob.types("exit\r")
        assert bob.exit_code() == 0
        assert not any(line.startswith("!! ") for line in bob.lines())
        for forbidden in (b"\x1b[2J", b"]52;", b"\x07", "\x9b".encode(), "\u202e".encode()):
            assert forbidden not in bob.raw.replace(b"\\x1b]52;", b"")
        assert b"\x9b" not in alice.out.text.encode()
    history = run(tmp_path / "b", "history")
    assert history.stdout.count("\n") == 2
    exports = {}
    for kind in ("txt", "jsonl", "html"):
        done = run(tmp_path / "b", "export", "--format", kind, "-")
        assert done.returncode == 0, done
        exports[kind] = done.stdout
    told = [json.loads(line) for line in exports["jsonl"].splitlines()]
    assert [line["text"] for line in told if "text" in line] == [evil]  # as it was, in JSON
    for text in (history.stdout, *exports.values()):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
        # In a page a message has a frame of its own.
        assert text is exports["html"] or not re.search("^!! ", text, re.MULTILINE)


def test_paste_of_42_lines_is_one_message_and_one_coin(relay: RelayHere, tmp_path: Path) -> None:
    flags = ("--server", "127.0.0.1", "--port", str(relay.port), "--name", "bob")
    lines = [f"line {n}" for n in range(42)]
    with (
        Guest(relay.port, tmp_path / "a", "alice").joined() as alice,
        Terminal(tmp_path / "b", *flags) as bob,
    ):
        bob.shows("Connected!")
        alice.sees("bob")
        bob.types("\x1b[200~" + "\r".join(lines) + "\x1b[201~")
        bob.shows("line 41")
        bob.types("\r")
        bob.shows(r"send these 42 lines as one message\? \[y/N\]")
        bob.types("y\r")
        bob.shows("Mined 1 coin. New balance: 1")
        alice.shows("    line 41")
        bob.types("exit\r")
        assert bob.exit_code() == 0
        assert re.findall(r"^bob#\w{4}: (.*)$", alice.out.text, re.MULTILINE) == ["line 0"]
    assert run(tmp_path / "b", "wallet").stdout.startswith("1 coin,")


# ----------------------------------------------------------------- damage


def _tampered(home: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(chain_of(home)) as database:
        database.execute(statement, values)
    database.close()


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of somebody who said ten things."""
    home = tmp_path_factory.mktemp("talked")
    with RelayHere() as relay:
        lines = "".join(f"line {i}\n" for i in range(10))
        done = run(home, "--server", "127.0.0.1", "--port", str(relay.port), stdin=lines)
    assert done.returncode == 0, done
    return home


def test_damaged_chain_is_said_kept_and_followed_by_a_new_one(
    relay: RelayHere, talked: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(talked, home)
    _tampered(home, "DELETE FROM blocks WHERE idx = 5")
    before = run(home, "verify")
    assert before.returncode == 4
    assert "!! HISTORY TAMPERED: MISSING@5" in before.stderr
    flags = ("--server", "127.0.0.1", "--port", str(relay.port))
    done = run(home, *flags, stdin="and on we go\n")
    assert done.returncode == 0, done
    assert "!! HISTORY TAMPERED" in done.stderr
    assert "MISSING@5" in done.stderr
    kept = list(chain_of(home).parent.glob("evidence-*.db"))
    assert len(kept) == 1
    after = run(home, "verify")
    assert after.returncode == 4
    assert "MISSING@5" in after.stderr
    again = run(home, *flags, stdin="once more\n")
    assert "HISTORY TAMPERED" not in again.stderr, "said once"
    assert len(list(chain_of(home).parent.glob("evidence-*.db"))) == 1


@pytest.mark.parametrize("name", ["keys", "chain.db"])
def test_damaged_profile_is_exit_6_and_says_what_to_do(
    relay: RelayHere, talked: Path, tmp_path: Path, name: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(talked, home)
    path = chain_of(home).parent / name
    path.write_bytes(b"\0garbage" * 100)
    flags = ("--server", "127.0.0.1", "--port", str(relay.port))
    for arguments in (flags, ("verify",), ("history",), ("wallet",)):
        done = run(home, *arguments, stdin="hello\n")
        assert done.returncode == 6, done
        assert name in done.stderr
    assert path.read_bytes() == b"\0garbage" * 100, "nothing was changed"


def test_restart_continues_the_chain_and_the_balance(
    relay: RelayHere, talked: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(talked, home)
    done = run(home, "--server", "127.0.0.1", "--port", str(relay.port), stdin="more\n")
    assert "Mined 1 coin. New balance: 11" in done.stdout
    assert run(home, "verify").stdout.startswith("OK")


def test_profile_in_use_is_exit_6_for_subcommands(relay: RelayHere, tmp_path: Path) -> None:
    with Client(relay.port, tmp_path, "alice").joined():
        for command in ("history", "verify", "wallet"):
            done = run(tmp_path, command)
            assert done.returncode == 6, done
            assert "in use" in done.stderr


# ----------------------------------------------------------------- what others can tell


@dataclass
class Acquainted:
    """Alice, bob and carol have talked.  Bob is in the room still."""

    relay: RelayHere
    bob: Guest
    homes: dict[str, Path]
    earlier: Path  # alice's home before most of what she said


def alice_of(relay: RelayHere, home: Path) -> Client:
    """She waits for the relay's receipts, and hardly for anybody else's."""
    return Client(relay.port, home, "alice", "--linger", "0.3")


@pytest.fixture(scope="module")
def acquainted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Acquainted]:
    path = tmp_path_factory.mktemp("acquainted")
    homes = {name: path / name for name in ("alice", "bob", "carol")}
    with RelayHere() as relay, Guest(relay.port, homes["bob"], "bob") as bob:
        with Guest(relay.port, homes["carol"], "carol", "--linger", "0.3") as carol:
            bob.joined()
            carol.joined()
            with alice_of(relay, homes["alice"]).joined() as alice:
                alice.types("first")
                bob.shows(r"alice#\w{4}: first")
                shutil.copytree(homes["alice"], path / "earlier")  # as a backup, while it is used
                alice.types("second", "third")
                bob.shows(r"alice#\w{4}: third")
                bob.types("a reply")
                alice.shows(r"bob#\w{4}: a reply")
                alice.asks("/status", "your last message to the room: delivered to 2 of 2$")
                alice.types("/chain")
                alice.err.wait_for(r"^-- your signed head is kept by bob#\w{4} \(block \d+\)")
                assert alice.leaves() == 0
            carol.err.wait_for(r"^-- alice#\w{4} left$")
            assert carol.leaves() == 0
        yield Acquainted(relay, bob, homes, path / "earlier")


CUT = (
    r"^!! HISTORY TAMPERED: TRUNCATED@\d+: "
    r"the last blocks were cut off: .*, and {} holds block \d+"
)


def test_an_older_copy_that_is_put_back_is_found_and_the_chat_goes_on_on_a_new_chain(
    acquainted: Acquainted, tmp_path: Path
) -> None:
    home = shutil.copytree(acquainted.earlier, tmp_path / "alice")
    with alice_of(acquainted.relay, home) as alice:
        alice.err.wait_for(CUT.format(r"bob#\w{4}"))
        alice.err.wait_for(r"^-- that chain is kept as .*/evidence-1\.db; you go on with a new ")
        alice.types("fourth")
        acquainted.bob.shows(r"alice#\w{4}: fourth")
        assert alice.leaves() == 0
        assert alice.err.text.count("HISTORY TAMPERED") == 1
    done = run(home, "verify")
    assert done.returncode == 4
    assert "!! HISTORY TAMPERED: an earlier chain: TRUNCATED@" in done.stderr
    assert "evidence-1.db" in done.stdout, "which is readable still"


def test_an_older_copy_is_found_after_everybody_and_the_relay_started_anew(
    acquainted: Acquainted, relay: RelayHere, tmp_path: Path
) -> None:
    home = shutil.copytree(acquainted.earlier, tmp_path / "alice")
    with (
        Guest(relay.port, acquainted.homes["carol"], "carol") as carol,
        alice_of(relay, home) as alice,
    ):
        alice.err.wait_for(CUT.format(r"carol#\w{4}"))
        alice.types("fourth")
        carol.shows(r"alice#\w{4}: fourth")
        assert alice.leaves() == 0


def test_an_end_that_was_cut_off_is_found_offline_by_an_own_note_and_by_what_a_witness_signed(
    acquainted: Acquainted, tmp_path: Path
) -> None:
    home = shutil.copytree(acquainted.homes["alice"], tmp_path / "alice")
    _tampered(home, "DELETE FROM blocks WHERE idx >= 4")
    done = run(home, "verify")
    assert done.returncode == 4, done
    assert re.search(CUT.format("this profile's own note"), done.stderr)
    _tampered(home, "DELETE FROM side WHERE name = ?", CHECKPOINT_TABLE)
    done = run(home, "verify")
    assert done.returncode == 4, done
    assert re.search(CUT.format(r"(bob|carol)#\w{4}"), done.stderr)


def test_a_proof_convinces_somebody_without_a_profile_and_a_changed_one_nobody(
    acquainted: Acquainted, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("whole", "edited", "cut")]
    made = run(acquainted.homes["alice"], "export", "--format", "proof", str(paths[0]))
    assert made.returncode == 0, made
    data = paths[0].read_bytes()
    at = data.index(b"second")
    paths[1].write_bytes(data[:at] + b"S" + data[at + 1 :])
    paths[2].write_bytes(data[:-1])
    elsewhere = tmp_path / "nobody"
    with ThreadPoolExecutor() as pool:
        whole, edited, cut = pool.map(lambda path: run(elsewhere, "verify", str(path)), paths)
    assert whole.returncode == 0, whole
    for line in (
        r"history of alice#\w{4}, fingerprint (\w{4} ?){16}$",
        r"  3 of alice#\w{4}",
        r"  1 of bob#\w{4}",
        r"  bob#\w{4} holds .* of alice#\w{4}; fingerprint ",
    ):
        assert re.search(f"^{line}", whole.stdout, re.MULTILINE), whole.stdout
    assert edited.returncode == 4, edited
    assert "!! HISTORY TAMPERED: the file was changed" in edited.stderr
    assert cut.returncode == 6, cut
    assert "chainroom: this file cannot be read" in cut.stderr
    assert edited.stdout == cut.stdout == ""
    assert not elsewhere.exists()


def test_what_a_person_asks_about_the_chain_is_answered_in_the_chat(
    acquainted: Acquainted, talked: Path, tmp_path: Path
) -> None:
    home, file = shutil.copytree(talked, tmp_path / "home"), tmp_path / "talk.html"
    with Client(acquainted.relay.port, home, "erin").joined() as erin:
        erin.types("/find LINE 7")
        found = erin.out.wait_for(r"^\[\d+\] \w+#\w{4}: line 7$")
        block = found[1 : found.index("]")]
        erin.types(f"/chain {block}", f"/export {file}")
        erin.types(f"/forget {block}", f"/forget {block} yes")
        erin.err.wait_for(rf"-- block {block}: sent, appended ")
        erin.err.wait_for(r"^-- text: line 7$")
        size = r"\d+ messages, \d+ bytes"
        erin.err.wait_for(rf"^-- your history is in {file}: {size}, readable by you alone$")
        erin.err.wait_for(rf"^-- type /forget {block} yes to erase its text here for good")
        erin.err.wait_for(rf"^-- the text of block {block} is erased here; block \d+ says so$")
        erin.types("/find line 7", "/wallet", "/chain", "/chain 999", "/forget 0 yes", "/export")
        erin.err.wait_for(r"^-- no message of your chain holds line 7$")
        erin.err.wait_for(r"^-- 10 coins, from your chain up to block \d+$")
        erin.err.wait_for(r"^-- \d+ blocks since .* in .*chain\.db$")
        erin.err.wait_for(r"^-- OK: \d+ blocks, each as it was written; 1 text was erased")
        erin.err.wait_for(r"^chainroom: there is no block 999: your chain ends at \d+$")
        erin.err.wait_for(r"^chainroom: block 0 .*")
        erin.err.wait_for(r"^chainroom: say it like this: /export FILE\.html")
        assert erin.leaves() == 0
    assert b"line 7" in file.read_bytes()
    assert b"line 7" not in b"".join(path.read_bytes() for path in chain_of(home).parent.iterdir())


def test_behind_a_passphrase_a_profile_opens_with_it_alone(
    acquainted: Acquainted, talked: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(talked, tmp_path / "home")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path in (right, wrong):
        path.write_text(f"three {path.name} words\n")
        path.chmod(0o600)
    port = acquainted.relay.port
    unprotected = run(home, "wallet", "--passphrase-file", str(right))
    warning = "!! this profile has no passphrase: python chat_client.py passphrase sets one"
    assert warning in unprotected.stderr
    done = run(home, "passphrase", "--new-file", str(right))
    assert done.returncode == 0, done
    assert "-- passphrase set: nobody can read" in done.stderr
    # Alone, since bob may hold what another copy of this profile said.
    flags = ("--passphrase-file", str(right), "--room", "elsewhere")
    with Client(port, home, "dave", *flags).joined() as dave:
        dave.types("behind a passphrase")
        dave.out.wait_for("Mined 1 coin")
        assert dave.leaves() == 0
    server = ("--server", "127.0.0.1", "--port", str(port))
    for given, hint in (
        ((), "name a file that holds it with --passphrase-file"),
        (("--passphrase-file", str(wrong)), "is not this profile's"),
    ):
        refused = run(home, *server, *given, stdin="never sent\n")
        assert refused.returncode == 6
        assert re.fullmatch(rf"chainroom: .*{hint}\n", refused.stderr)
        assert refused.stdout == ""
    partly = run(home, "verify")
    assert partly.returncode == 0
    assert "texts and authors were not checked: that needs the passphrase" in partly.stdout


def test_a_member_who_lies_or_is_no_other_than_oneself_is_said(
    acquainted: Acquainted, tmp_path: Path
) -> None:
    port, bob = acquainted.relay.port, acquainted.bob
    with Insider(port, "mallory") as mallory:

        def head(of: bytes) -> Head:
            place = mallory.keystore.chain_id + u64(5) + of
            key = mallory.keystore.chain_signing_key
            return Head(place[:16], 5, of, key.sign(Label.BLOCK_SIG, place))

        mallory.acks(head(b"a" * 32))
        mallory.types("one thing")
        bob.shows(r"mallory#\w{4}: one thing")
        mallory.session._room_conversation.ours.ids[-1] = bytes(32)
        mallory.types("another")
        bob.err.wait_for(
            r"^!! FORK: mallory#\w{4} signed two different messages in one place; both"
        )
        proof = tmp_path / "two stories.proof"
        bob.types(f"/export {proof}")
        bob.err.wait_for("^-- .*two stories.proof")
        told = run(tmp_path, "verify", str(proof))
        assert told.returncode == 0
        assert "two different messages under one number were signed by mallory#" in told.stdout
        mallory.acks(head(b"b" * 32), in_s=10.0)
        bob.err.wait_for(r"^!! mallory#\w{4}'s chain was rewritten: mallory#\w{4} signed two .* 5;")
        assert "another" not in bob.out.text
        room_tag, bundle = mallory.session._our.room_tag, mallory.session._our.raw
    join = Join(room_tag, b"nobody's session", bytes(32), bundle)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(join.serialize())
        bob.err.wait_for("^!! refused a member whose bundle does not hold: the bundle is of an")
    keys = Keystore.parse((chain_of(acquainted.homes["bob"]).parent / "keys").read_bytes())
    with Insider(port, "bob", keys):
        bob.err.wait_for("^!! your own identity joined from elsewhere: somebody uses a copy")


# ----------------------------------------------------------------- many


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.torture)])
def test_every_line_of_a_long_pipe_arrives_in_order(
    relay_process: Relay, tmp_path: Path, count: int
) -> None:
    with (
        Guest(relay_process.port, tmp_path / "b", "bob").joined() as bob,
        Client(relay_process.port, tmp_path / "c", "carol").joined() as carol,
        Client(relay_process.port, tmp_path / "a", "alice").joined() as alice,
    ):
        bob.sees("alice")
        carol.sees("alice")
        alice.types(*(f"line {i}" for i in range(count)))
        assert alice.leaves() == 0
        assert f"Mined 1 coin. New balance: {count}\n" in alice.out.text
        for client in (bob, carol):
            assert client.leaves() == 0
            said = re.findall(r"^alice#\w{4}: line (\d+)$", client.out.text, re.MULTILINE)
            assert said == [str(i) for i in range(count)]


def test_relay_that_talks_nonsense_is_one_line_and_exit_3(tmp_path: Path) -> None:
    no_relay = "!! connection lost: what answers there is no relay: "
    answers = [
        (b"\xff" * 100, no_relay),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", no_relay),
        (Hello(2, 3, bytes(32), False).serialize(), "!! the relay broke the protocol: "),
        (
            Error(ErrorCode.ROOM_FULL, "this room is full\x1b[2J").serialize(),
            "chainroom: the relay closed the connection: this room is full",
        ),
        (b"", "!! connection lost: the relay closed the connection"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        port = listener.getsockname()[1]
        for answer, line in answers:
            kind = Client if answer == answers[0][0] else Guest
            with kind(port, tmp_path / kind.__name__, "alice") as client:
                connection, _ = listener.accept()
                connection.sendall(answer)
                connection.close()
                assert client.exit_code() == 3
                client.err.wait_for(f"^{re.escape(line)}")
                assert "\x1b" not in client.err.text


def test_relay_refuses_nonsense_with_an_error_frame(relay_process: Relay) -> None:
    with socket.create_connection(("127.0.0.1", relay_process.port), timeout=20) as sock:
        sock.sendall(b"\0\0\0\x01\x63")
        decoder, frames = FrameDecoder(8192), list[Frame]()
        while data := sock.recv(4096):
            decoder.feed(data)
            frames += decoder
    assert [f.type for f in frames] == [FrameType.HELLO, FrameType.ERROR]
    assert Error.parse(frames[1].body).code == ErrorCode.BAD_FRAME


@pytest.mark.parametrize("count", [8, pytest.param(30, marks=pytest.mark.torture)])
def test_many_clients_say_twenty_things_each_and_all_chains_are_complete(
    relay_process: Relay, tmp_path: Path, count: int
) -> None:
    names = [f"m{i}" for i in range(count)]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(relay_process.port, tmp_path / n, n)) for n in names]
        for client in clients:
            client.joined()
        for client in clients:
            for name in names:
                if name != client.name:
                    client.sees(name)
        for client in clients:
            client.types(*(f"{client.name} says {i}" for i in range(20)))
        for client in clients:
            client.out.wait_for(r"^m\d+#\w+: m\d+ says \d+$", (count - 1) * 20)
        for client in clients:
            client.ends_input()
        assert [client.exit_code() for client in clients] == [0] * count
        for client in clients:
            assert "Mined 1 coin. New balance: 20\n" in client.out.text
            assert "!!" not in client.err.text
            assert "missing" not in client.err.text
    for name in names:
        checked = verify_profile(tmp_path / name)
        assert [found.exit_code for found in checked] == [0], checked
        with Profile.open(tmp_path / name) as profile:
            assert profile.balance() == 20
            said = [line.text for line in history(profile.chain, 1000)]
        for author in names:
            of_author = [text for text in said if text.startswith(f"{author} ")]
            assert of_author == [f"{author} says {i}" for i in range(20)]
