"""Programs as they use Chainroom: real relays, clients with --json, a bot, a shell with jq."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from json_document import DOCUMENT, check
from processes import DEADLINE_S, ROOT, Process, RelayHere, environment, run

TEXT = 'say "hi"\\ to\nthe\ttwo {of} \x1b[2J\x9b\x07\u202e!! you \x00 café 👩\u200d🚀 exit'
BOT = "examples/echo_bot.py"
SHELL = DOCUMENT.split("```sh\n")[2].split("```")[0]  # the session with jq


def at(relay: RelayHere) -> list[str]:
    return ["--server", "127.0.0.1", "--port", str(relay.port)]


class Program(Process):
    """A program that talks to a client, or another one that does (`command`)."""

    def __init__(
        self, relay: RelayHere, home: Path, name: str, *flags: str, command: str = ""
    ) -> None:
        arguments = [command] if command else ["chat_client.py", "--json"]
        arguments += [*at(relay), "--name", name, *flags]
        super().__init__(arguments, environment(home))

    def sends(self, **request: str) -> None:
        self.types(json.dumps(request, ensure_ascii=False))

    def told(self) -> list[dict[str, Any]]:
        """All objects so far."""
        whole = self.out.text.rpartition("\n")[0]
        return [json.loads(row) for row in whole.splitlines()]

    def waits_for(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            told = self.told()
            for event in told:
                if is_it(event):
                    return event
            self.out.wait_for("\n", len(told) + 1)

    def gets(self, what: str, **wanted: object) -> dict[str, Any]:
        """Waits for an object of that type, in which these keys have these values."""
        return self.waits_for(lambda e: e["type"] == what and wanted.items() <= e.items())

    def types_of(self, request: str) -> list[str]:
        """What answered the request of that id, so far."""
        return [told["type"] for told in self.told() if told.get("id") == request]

    def meets(self, nick: str) -> str:
        """Waits until somebody of that nick is here, and returns the name."""

        def names(event: dict[str, Any]) -> list[str]:
            come = [event["name"]] if event["type"] == "joined" else event.get("members", [])
            return [name for name in come if name.startswith(f"{nick}#")]

        return names(self.waits_for(lambda event: bool(names(event))))[0]


@contextmanager
def shell_runs(script: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell, and all that it started, ended at the end."""
    env = environment(home, CHAINROOM_LINGER="0.2")  # what it said is there when it leaves
    with subprocess.Popen(["sh", "-c", script], cwd=home, env=env, start_new_session=True) as shell:
        try:
            yield shell
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


def test_two_programs_talk(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Program(relay, tmp_path / "a", "alice") as alice,
        Program(relay, tmp_path / "b", "bob", "--quiet") as bob,
    ):
        us, them = alice.gets("ready"), bob.gets("ready")
        assert us["you"] == f"alice#{us['fingerprint'][:4]}" == bob.meets("alice")
        assert them["you"] == alice.meets("bob")
        assert us["room"] == "lobby"

        # Every text arrives as it was, and nothing in it can harm who looks at the output.
        alice.sends(type="say", text=TEXT, id="1")
        assert alice.gets("sent", id="1")["balance"] == 1
        said = bob.gets("message", text=TEXT)
        assert said | {"sent_ms": 0} == {
            "v": 1, "type": "message", "kind": "message", "text": TEXT, "from": us["you"],
            "nick": "alice", "fingerprint": us["fingerprint"], "verified": False,
            "private": False, "sent_ms": 0, "mention": False, "late": False,
        }  # fmt: skip
        assert bob.out.text.isascii()
        assert bob.out.text.replace("\n", "").isprintable()

        # What a person cannot say, a program can.
        for text in ("exit", "/who", "//", " bob: "):
            alice.sends(type="say", text=text)
            assert bob.gets("message", text=text)["mention"] == ("bob" in text)
        bob.sends(type="msg", to=us["you"], text="psst\n  you", id="2")
        assert bob.gets("sent", id="2", private=True)["to"] == us["you"]
        assert alice.gets("message", text="psst\n  you", private=True)["mention"]

        # A slip is answered, and the next request is read; each answer has its request's id.
        bob.types('{"type":"say","id":"3","txt":"hi"}', "hello", '{"type":"say","text":"\\ud800"}')
        bob.sends(type="msg", to="nobody", text="hi", id="4")
        bob.sends(type="command", line="/who", id="5")
        bob.sends(type="command", line="/history", id="6")
        bob.sends(type="command", line="/wallet", id="7")
        assert 'no key "txt"' in bob.gets("error", id="3")["text"]
        assert "nobody called nobody" in bob.gets("error", id="4")["text"]
        bob.gets("done", id="7")
        assert bob.types_of("5") == ["notice", "notice", "done"]
        assert bob.types_of("6") == ["history"] * 6 + ["done"]
        assert bob.types_of("7") == ["notice", "done"]
        errors = [told["text"] for told in bob.told() if told["type"] == "error"]
        assert [text for text in errors if "is not JSON" in text or "surrogate" in text] == [
            "a line of input is not JSON: Expecting value (column 1)",
            "text has half a surrogate pair, which is no Unicode text",
        ]

        # Both leave, in two ways; what was refused shows in the exit code.
        bob.sends(type="leave", id="8")
        assert bob.exit_code() == 3
        assert bob.told()[-1]["text"] == "4 lines were not sent"
        alice.gets("left", fingerprint=them["fingerprint"])
        alice.ends_input()
        assert alice.exit_code() == 0
        for told in [*alice.told(), *bob.told()]:
            check(told)
        assert alice.err.text + bob.err.text == ""


def test_the_bot_answers_whoever_names_it(relay: RelayHere, tmp_path: Path) -> None:
    with (
        Program(relay, tmp_path / "e", "echo", "--linger", "0.2", command=BOT) as bot,
        Program(relay, tmp_path / "a", "alice") as alice,
    ):
        echo = alice.meets("echo")
        alice.sends(type="say", text='hi Echo, "hi" \x1b')
        assert alice.gets("message", private=False)["text"] == 'I heard: hi Echo, "hi" \x1b'
        alice.sends(type="say", text="I heard: echo")  # as another such bot would
        alice.sends(type="say", text="hi all")
        alice.sends(type="msg", to=echo, text="psst")
        assert alice.gets("message", private=True)["text"] == "I heard: psst"
        assert [told["type"] for told in alice.told()].count("message") == 2
        bot.process.send_signal(signal.SIGINT)
        assert bot.exit_code() in (0, 3)  # 3: alice has not confirmed yet what was for her alone
        alice.gets("left", name=echo)
    assert bot.err.text == ""


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_the_session_with_jq_answers_and_leaves(relay: RelayHere, tmp_path: Path) -> None:
    script = SHELL.replace("--server 192.168.1.5", " ".join(at(relay)))
    script = script.replace("python ", f"{sys.executable} ")
    script = script.replace("chat_client.py", str(ROOT / "chat_client.py"))
    with (
        shell_runs(script, tmp_path) as shell,
        Program(relay, tmp_path / "a", "alice") as alice,
    ):
        ping = alice.meets("ping")
        alice.sends(type="say", text='ping, "hi" \x1b')
        assert alice.gets("message", private=True)["text"] == "pong"
        alice.sends(type="say", text="ping: bye")
        alice.gets("left", name=ping)
        assert shell.wait(DEADLINE_S) == 0


def test_a_session_with_jq_in_the_readme_is_the_one_that_is_tested() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert all(block == SHELL for block in blocks if "jq" in block)


def test_exit_codes_and_why(relay: RelayHere, home: Path) -> None:
    def runs(*flags: str) -> tuple[int, list[dict[str, Any]]]:
        done = run(home, "--json", "--profile", "default", *flags)
        assert done.stderr == ""
        return done.returncode, [json.loads(row) for row in done.stdout.splitlines()]

    with Program(relay, home, "alice", "--profile", "default") as alice:
        alice.gets("ready")
        in_use = runs(*at(relay))
    for why, code, (exit_code, told) in (
        ("--server", 2, runs()),
        ("127.0.0.1", 3, runs("--server", "127.0.0.1", "--port", "1")),
        ("in use", 6, in_use),
    ):
        assert exit_code == code
        assert [t["type"] for t in told].count("error") == 1
        assert told[-1]["kind"] == "error"
        assert why in told[-1]["text"]


def test_a_program_reads_slowly_and_misses_nothing(relay: RelayHere, tmp_path: Path) -> None:
    """Kept out of memory by waiting, not by skipping."""
    count = 300
    text = "x" * 1_000
    with (
        Program(relay, tmp_path / "a", "alice") as alice,
        subprocess.Popen(
            [sys.executable, "chat_client.py", "--json", "--name", "bob", *at(relay)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env=environment(tmp_path / "b"), encoding="utf-8",
        ) as bob,
    ):  # fmt: skip
        alice.meets("bob")
        for number in range(count):
            alice.sends(type="say", text=f"{number} {text}")
        alice.gets("sent", balance=count)
        assert bob.stdout is not None
        heard = []
        for row in bob.stdout:  # nobody read before
            told = json.loads(row)
            if told["type"] == "message":
                heard.append(told["text"].split()[0])
                if len(heard) == count:
                    break
        assert heard == [str(number) for number in range(count)]
        assert bob.stdin is not None
        bob.stdin.close()
        assert bob.wait(DEADLINE_S) == 0
