"""A child process with a Terminal, in pipes or on a pseudo-terminal, and the person before it.

The child shows lines when told to on a control pipe, and reports what `read_line` gave on a result
pipe; pyte is the terminal that the person looks at.

    person = Person("Readline", columns=40)
    person.do("show", "NOTICE", "bob joined")
    person.type("hello\\r")
    assert person.line() == "hello"
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyte
import pytest

__all__ = [
    "ALL",
    "DEADLINE_S",
    "EDITORS",
    "ROOT",
    "Child",
    "Person",
    "Start",
    "as_on_screen",
    "starter",
]

DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen
ROOT = Path(__file__).parent.parent
EDITORS = ["PromptToolkit", "Readline"]
ALL = [*EDITORS, "--plain"]

# The alternate screen, all kinds of mouse, "where is the cursor?", "who are you?", title, clipboard
UNWANTED = [
    f"\x1b[?{n}h".encode() for n in (47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049)
]
UNWANTED += [b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b]", b"\x1bP"]

CHILD = r"""
import json, os, signal, sys, threading
control, results, back_end, prompt = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
remembered = json.loads(sys.argv[6])
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal
if back_end != "PromptToolkit":
    sys.modules["prompt_toolkit"] = None
from chat_terminal import BadInput, Kind, Line, open_terminal
terminal = open_terminal(plain=back_end == "--plain", **json.loads(sys.argv[5]))
terminal._day = "Thu 01 Jan 1970"  # the tests' first day is today
if remembered:
    terminal.remember(remembered)
draft = ""
busy = threading.Lock()  # an order is being obeyed

def report(*what):
    os.write(results, json.dumps(what).encode() + b"\n")

def obey():
    for order in open(control, encoding="utf-8"):
        verb, *args = json.loads(order)
        busy.acquire()
        if verb == "show":
            terminal.show(Line(Kind[args[0]], *args[1:]))
        elif verb == "mention":
            terminal.show(Line(Kind.MESSAGE, args[0], "bob", mention=True))
        elif verb == "burst":
            for n in range(args[0]):
                terminal.show(Line(Kind.DIALOGUE, f"line {n}"))
        elif verb == "talk":
            for text in args[0]:
                terminal.show(Line(Kind.MESSAGE, text, "bob"))
        elif verb == "bell":
            terminal.bell = args[0]
        elif verb == "complete":
            terminal.complete = lambda before: [o for o in args[0] if o.startswith(before)]
        else:
            getattr(terminal, verb)(*args)  # flush, status, close, end_input
        report(verb)
        busy.release()

if ends := os.environ.get("ENDS"):  # by another thread, after read_line saw that it is not over
    def read(prompt, draft, read=terminal._read):
        thread = threading.Thread(target=getattr(terminal, ends))
        thread.start()
        thread.join()
        return read(prompt, draft)
    terminal._read = read

if name := os.environ.get("INTERRUPTED"):  # by Ctrl-C, as soon as it has done its work once
    owner = terminal._lib if name.startswith("rl_") else terminal
    def interrupted(*args, original=getattr(owner, name)):
        setattr(owner, name, original)
        original(*args)
        os.kill(os.getpid(), signal.SIGINT)
    setattr(owner, name, interrupted)

report("is", type(terminal).__name__, terminal.interactive)
threading.Thread(target=obey, daemon=True).start()
while True:
    try:
        text = terminal.read_line(prompt, draft)
    except BadInput as exc:
        report("bad", str(exc), exc.text)
        draft = exc.text
        continue
    report("line", text, terminal.broken)
    if text is None:
        break
    draft = text if text.startswith("again ") else ""
terminal.close()
with busy:
    report("left", threading.active_count())
"""


JOINER = "\u200d"  # pyte drops what follows it; without it, it shows what it joins side by side


def as_on_screen(text: str) -> str:
    """A text as the screen has it."""
    return unicodedata.normalize("NFC", text.replace(JOINER, ""))


class Screen(pyte.Screen):
    """Keeps what is scrolled off, as a terminal does."""

    def __init__(self, columns: int, rows: int) -> None:
        self.scrolled_off: list[str] = []
        super().__init__(columns, rows)

    def draw(self, data: str) -> None:
        super().draw(data.replace(JOINER, ""))

    def index(self) -> None:
        if self.cursor.y == self.lines - 1 and self.margins is None:
            self.scrolled_off.append(self.row(0))
        super().index()

    def row(self, y: int) -> str:
        cells = self.buffer[y]
        return "".join(cells[x].data for x in range(self.columns)).rstrip()


class Child:
    """A process with a Terminal, and its control and result pipes."""

    def __init__(
        self,
        back_end: str = "",
        *,
        prompt: str = "> ",
        remembered: list[str] | None = None,
        environ: dict[str, str] | None = None,
        streams: dict[str, Any],
        **options: Any,
    ) -> None:
        control_out, self.control = os.pipe()
        self.results, results_in = os.pipe()
        environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "TZ": "UTC"} | (environ or {})
        arguments = [control_out, results_in, back_end, prompt]
        arguments += [json.dumps(options), json.dumps(remembered or [])]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD, *map(str, arguments)],
            pass_fds=(control_out, results_in),
            env=environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
            **streams,
        )
        self.stdin: Any = self.process.stdin
        self.stdout: Any = self.process.stdout
        self.stderr: Any = self.process.stderr
        os.close(control_out)
        os.close(results_in)
        self.unread = b""
        self.feeder: threading.Thread | None = None

    def order(self, *what: Any) -> None:
        os.write(self.control, json.dumps(what).encode() + b"\n")

    def do(self, *what: Any) -> None:
        """Give the order and wait until it is done."""
        self.order(*what)
        assert self.result() == [what[0]]

    def wait_for_input(self, fd: int, deadline: float) -> None:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, "nothing came before the deadline"

    def result(self) -> list[Any]:
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in self.unread:
            self.wait_for_input(self.results, deadline)
            data = os.read(self.results, 65536)
            assert data, "the child is gone"
            self.unread += data
        line, self.unread = self.unread.split(b"\n", 1)
        return list(json.loads(line))

    def read(self, size: int) -> str:
        """So many bytes of stdout."""
        data = b""
        while len(data) < size:
            data += self.stdout.read(size - len(data)) or pytest.fail(f"ends after {data!r}")
        return data.decode()

    def feed(self, data: bytes) -> None:
        """Write stdin and close it, while the results are read."""

        def write() -> None:
            self.stdin.write(data)
            self.stdin.close()

        self.feeder = threading.Thread(target=write)
        self.feeder.start()

    def line(self) -> Any:
        verb, *rest = self.result()
        assert verb == "line", rest
        return rest[0]

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.feeder:
            self.feeder.join(DEADLINE_S)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                with suppress(OSError):
                    stream.close()
        os.close(self.control)
        os.close(self.results)


class Person(Child):
    """A child on a pseudo-terminal, and the person before it."""

    def __init__(
        self,
        back_end: str,
        columns: int = 80,
        rows: int = 60,
        *,
        expected: str = "",
        wait: bool = True,
        **options: Any,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # Else the system throws away what is written just when Ctrl-C comes (termios, NOFLSH).
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        super().__init__(back_end, streams=streams, **options)
        os.close(slave)
        self.screen = Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        assert self.result() == ["is", expected or back_end.replace("--plain", "Plain"), True]
        if wait:
            self.until_last_are(">")

    def rows(self) -> list[str]:
        """What is on the screen, without the empty rows at its end."""
        rows = [self.screen.row(y) for y in range(self.screen.lines)]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def all_rows(self) -> list[str]:
        """With those that were scrolled off."""
        return self.screen.scrolled_off + self.rows()

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Look at the screen until it is as expected; it is empty while it is drawn anew."""
        deadline = time.monotonic() + DEADLINE_S
        while not (self.rows() and seen(self.rows())):
            ready, _, _ = select.select(
                [self.master], [], [], max(0.0, deadline - time.monotonic())
            )
            assert ready, "\n".join(["the screen is:", *self.rows()])
            self.look()
        return self.rows()

    def until_all_is(self, text: str) -> None:
        """The rows, one after the other, are that text."""
        self.until(lambda rows: "".join(rows) == text)

    def until_last_are(self, *last: str) -> None:
        self.until(lambda rows: rows[-len(last) :] == list(last))

    def look(self) -> None:
        with suppress(OSError):  # EIO: the child is gone
            data = os.read(self.master, 65536)
            self.raw += data
            self.stream.feed(data)

    def wait_for_output_or_result(self) -> None:
        ready, _, _ = select.select([self.master, self.results], [], [], DEADLINE_S)
        assert ready, "nothing came before the deadline"
        if self.master in ready:
            self.look()
        if self.results in ready:
            data = os.read(self.results, 65536)
            assert data, "the child is gone"
            self.unread += data

    def type(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def cursor(self) -> tuple[int, int]:
        return self.screen.cursor.y, self.screen.cursor.x

    def end(self) -> None:
        os.close(self.master)
        super().end()
        assert not [sequence for sequence in UNWANTED if sequence in self.raw]


Start = Callable[..., Person]


@contextmanager
def starter() -> Iterator[Start]:
    """Starts people, and ends them."""
    with ExitStack() as stack:

        def start(*args: Any, **options: Any) -> Person:
            person = Person(*args, **options)
            stack.callback(person.end)
            return person

        yield start
