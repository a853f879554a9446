"""chat_terminal: what reaches the screen, what comes back from the person.

Pipes and pseudo-terminals are real: a child process shows lines when told to on a control pipe and
reports what `read_line` gave on a result pipe; pyte is the terminal that the person looks at.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_terminal
from chat_terminal import MAX_LINE_BYTES, MAX_QUEUED_LINES, Kind, Line, escape, escape_name

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen
ROOT = Path(__file__).parent.parent

# --------------------------------------------------------------------------------------------------
# escape

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
REFUSED = {chr(c) for c in [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]} - {
    "\n",
    "\t",
}
REFUSED |= {*BIDI, "\ufeff", "\u2028", "\u2029"}
ANY_TEXT = st.text(
    st.one_of(
        st.characters(codec=None, exclude_categories=[]),
        st.sampled_from([*sorted(REFUSED), "\n", "\t", "\u0301", "\u200d", "\U000e0001", "a"]),
    )
)


def longest_run_of_marks(text: str) -> int:
    """Zero-width characters in between do not end a run."""
    longest = run = 0
    for char in text:
        category = unicodedata.category(char)
        run = run + 1 if category[0] == "M" else run if category == "Cf" else 0
        longest = max(longest, run)
    return longest


@given(ANY_TEXT)
def test_escaped_text_has_no_control_but_newline_and_tab(text: str) -> None:
    assert not REFUSED & set(escape(text))


@given(ANY_TEXT)
def test_every_line_after_the_first_is_indented(text: str) -> None:
    _, *others = escape(text).split("\n")
    assert all(line.startswith("    ") for line in others)
    assert len(others) == text.count("\n")


@given(ANY_TEXT)
def test_at_most_three_marks_stand_on_one_base(text: str) -> None:
    assert longest_run_of_marks(escape(text)) <= 3
    assert longest_run_of_marks(escape_name(text)) <= 3


@given(ANY_TEXT)
def test_an_escaped_name_is_one_line_without_invisible_characters(text: str) -> None:
    name = escape_name(text)
    assert not (REFUSED | {"\n", "\t"}) & set(name)
    assert "Cf" not in {unicodedata.category(char) for char in name}
    assert len(name.splitlines()) <= 1


@given(ANY_TEXT)
def test_escaped_text_can_be_written_as_utf_8(text: str) -> None:
    escape(text).encode()
    escape_name(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, tab\there", "plain text, tab\there"),
        ("ESC \x1b[2J", "ESC \\x1b[2J"),
        (
            "bell \x07, C1 CSI \x9b, DEL \x7f, NUL \0",
            "bell \\x07, C1 CSI \\x9b, DEL \\x7f, NUL \\x00",
        ),
        ("carriage\rreturn", "carriage\\x0dreturn"),
        ("bidi \u202e and \u2066", "bidi \\u202e and \\u2066"),
        ("BOM \ufeff, separators \u2028\u2029", "BOM \\ufeff, separators \\u2028\\u2029"),
        ("half a pair \ud83d", "half a pair \\ud83d"),
        ("one\ntwo", "one\n    two"),
        ("e\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301\\u0301"),
        ("e\u0301\u0301\u0301\u200b\u0301", "e\u0301\u0301\u0301\u200b\\u0301"),
        ("grüße, 日本語, 👩\u200d💻", "grüße, 日本語, 👩\u200d💻"),
    ],
)
def test_what_is_unsafe_is_spelled_and_the_rest_stays(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_name_shows_newlines_tabs_and_zero_width_characters() -> None:
    assert escape_name("b\nb\tb\u200bb\U000e0041b") == "b\\x0ab\\x09b\\u200bb\\U000e0041b"


# --------------------------------------------------------------------------------------------------
# Line


def test_each_kind_of_line_begins_with_what_it_is() -> None:
    lines = [
        Line(Kind.MESSAGE, "hello", "bob#7f3a (private)"),
        Line(Kind.NOTICE, "bob joined"),
        Line(Kind.ALERT, "KEY CHANGED"),
        Line(Kind.DIALOGUE, "Mined 1 coin. New balance: 1"),
        Line(Kind.ERROR, "cannot connect"),
    ]
    assert [line.render() for line in lines] == [
        "bob#7f3a (private): hello",
        "-- bob joined",
        "!! KEY CHANGED",
        "Mined 1 coin. New balance: 1",
        "chainroom: cannot connect",
    ]


@pytest.mark.parametrize("kind", Kind)
def test_no_kind_of_line_lets_its_text_fake_a_notice(kind: Kind) -> None:
    shown = Line(kind, "x\r\n-- bob left\n!! \x1b[2J", "e\nve").render()
    assert not {"\r", "\x1b"} & set(shown)
    assert not re.search(r"\n(--|!!)", shown)


def test_a_message_has_local_time_before_it_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    line = Line(Kind.MESSAGE, "hi", "bob", sent_ms=1_700_000_000_000)  # 22:13:20 UTC
    assert line.render("hm") == "00:13 bob: hi"
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("sent_ms", [2**64 - 1, -(2**63)])
def test_an_impossible_time_is_no_error(sent_ms: int) -> None:
    shown = Line(Kind.MESSAGE, "hi", "bob", sent_ms).render("hm")
    assert re.fullmatch(r"(\?\?:\?\?|\d\d:\d\d) bob: hi", shown)


# --------------------------------------------------------------------------------------------------
# The queue, with a screen that is blocked until the test lets it go


class Screen(io.RawIOBase):
    """A stdout that blocks in `write` until `go` is set."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.go = threading.Event()
        self.entered = threading.Event()
        self.written = bytearray()

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, data: Any) -> int:
        self.entered.set()
        assert self.go.wait(DEADLINE_S)
        self.written += data
        return len(data)

    def lines(self) -> list[str]:
        return self.written.decode().splitlines()


def plain_terminal(screen: Screen, *, stderr: io.RawIOBase | None = None) -> chat_terminal.Terminal:
    stdin = Screen(is_terminal=screen.is_terminal)
    return chat_terminal.Plain(chat_terminal.Streams(stdin, screen, stderr), quiet=False)


def block(terminal: chat_terminal.Terminal, screen: Screen) -> None:
    terminal.show(Line(Kind.DIALOGUE, "first"))
    assert screen.entered.wait(DEADLINE_S)


def test_a_terminal_that_is_too_slow_skips_lines_and_says_how_many() -> None:
    screen = Screen(is_terminal=True)
    terminal = plain_terminal(screen)
    block(terminal, screen)
    for n in range(MAX_QUEUED_LINES + 123):
        terminal.show(Line(Kind.DIALOGUE, str(n)))
    screen.go.set()
    terminal.flush()
    terminal.show(Line(Kind.DIALOGUE, "later"))
    terminal.close()
    assert screen.lines() == [
        "first",
        *map(str, range(MAX_QUEUED_LINES)),
        "-- 123 lines were skipped: the screen is slower than the room; /history shows them",
        "later",
    ]


def test_alerts_get_through_when_lines_are_skipped() -> None:
    screen = Screen(is_terminal=True)
    terminal = plain_terminal(screen)
    block(terminal, screen)
    for _ in range(MAX_QUEUED_LINES + 1):
        terminal.show(Line(Kind.NOTICE, "flood"))
    terminal.show(Line(Kind.ALERT, "KEY CHANGED"))
    screen.go.set()
    terminal.close()
    assert screen.lines()[-2:] == [
        "!! KEY CHANGED",
        "-- 1 lines were skipped: the screen is slower than the room; /history shows them",
    ]


def test_long_lines_fill_the_queue_sooner() -> None:
    screen = Screen(is_terminal=True)
    terminal = plain_terminal(screen)
    block(terminal, screen)
    text = "x" * (chat_terminal.MAX_QUEUED_CHARS // 4)
    for _ in range(6):
        terminal.show(Line(Kind.DIALOGUE, text))
    screen.go.set()
    terminal.close()
    assert [line[:20] for line in screen.lines()[1:]] == [text[:20]] * 4 + ["-- 2 lines were skip"]


def test_a_pipe_that_is_too_slow_makes_the_caller_wait_and_loses_nothing() -> None:
    screen = Screen(is_terminal=False)
    terminal = plain_terminal(screen)
    block(terminal, screen)
    for n in range(MAX_QUEUED_LINES):
        terminal.show(Line(Kind.DIALOGUE, str(n)))
    returned = threading.Event()

    def show_one_more() -> None:
        terminal.show(Line(Kind.DIALOGUE, "one more"))
        returned.set()

    thread = threading.Thread(target=show_one_more)
    thread.start()
    assert not returned.wait(0.1)
    screen.go.set()
    thread.join(DEADLINE_S)
    assert returned.is_set()
    terminal.close()
    assert screen.lines() == ["first", *map(str, range(MAX_QUEUED_LINES)), "one more"]


def test_flush_returns_when_everything_shown_before_is_written() -> None:
    screen = Screen(is_terminal=False)
    terminal = plain_terminal(screen)
    block(terminal, screen)
    flushed = threading.Event()

    def flush() -> None:
        terminal.flush()
        flushed.set()

    thread = threading.Thread(target=flush)
    thread.start()
    assert not flushed.wait(0.1)
    screen.go.set()
    assert flushed.wait(DEADLINE_S)
    assert screen.lines() == ["first"]
    thread.join(DEADLINE_S)
    terminal.close()


def test_close_ends_the_screen_thread_and_may_be_called_again() -> None:
    screen = Screen(is_terminal=False)
    screen.go.set()
    terminal = plain_terminal(screen)
    terminal.close()
    terminal.close()
    terminal.show(Line(Kind.DIALOGUE, "too late"))
    terminal.flush()
    assert not terminal._thread.is_alive()
    assert terminal.read_line("> ") is None
    assert screen.lines() == []


def test_writes_that_take_only_a_part_are_continued() -> None:
    class Slow(Screen):
        def write(self, data: Any) -> int:
            return super().write(data[:3])

    screen = Slow(is_terminal=False)
    screen.go.set()
    terminal = plain_terminal(screen)
    terminal.show(Line(Kind.DIALOGUE, "grüße an alle"))
    terminal.close()
    assert screen.lines() == ["grüße an alle"]


def test_progress_is_a_row_of_a_terminal_that_the_next_replaces() -> None:
    screen, row = Screen(is_terminal=False), Screen(is_terminal=True)
    screen.go.set()
    row.go.set()
    terminal = plain_terminal(screen, stderr=row)
    for text in ("999 of 1000", "all\x1b[2J", ""):
        terminal.progress(text)
    terminal.close()
    assert row.written.decode() == "\r999 of 1000\rall\\x1b[2J \r          \r"
    assert screen.lines() == []


def test_progress_in_a_pipe_is_nothing() -> None:
    screen, row = Screen(is_terminal=True), Screen(is_terminal=False)
    terminal = plain_terminal(screen, stderr=row)
    terminal.progress("1 of 2")
    assert row.written.decode() == ""
    screen.go.set()
    terminal.close()


# --------------------------------------------------------------------------------------------------
# Child processes

CHILD = r"""
import json, os, sys, threading
control, results, back_end, quiet = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal
if back_end != "PromptToolkit":
    sys.modules["prompt_toolkit"] = None
from chat_terminal import BadInput, Kind, Line, open_terminal
terminal = open_terminal(plain=back_end == "--plain", quiet=quiet == "quiet")
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
        elif verb == "burst":
            for n in range(args[0]):
                terminal.show(Line(Kind.DIALOGUE, f"line {n}"))
        elif verb == "close":
            terminal.close()
        elif verb == "end_input":
            terminal.end_input()
        terminal.flush() if verb == "flush" else None
        report(verb)
        busy.release()

if ends := os.environ.get("ENDS"):  # by another thread, after read_line saw that it is not over
    def read(prompt, draft, read=terminal._read):
        thread = threading.Thread(target=getattr(terminal, ends))
        thread.start()
        thread.join()
        return read(prompt, draft)
    terminal._read = read

report("is", type(terminal).__name__, terminal.interactive)
threading.Thread(target=obey, daemon=True).start()
prompt = sys.argv[5]
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


class Child:
    """A process with a Terminal, and its control and result pipes."""

    def __init__(
        self,
        back_end: str = "",
        *,
        quiet: bool = False,
        prompt: str = "> ",
        environ: dict[str, str] | None = None,
        **streams: Any,
    ) -> None:
        control_out, self.control = os.pipe()
        self.results, results_in = os.pipe()
        environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "TZ": "UTC"} | (environ or {})
        arguments = (control_out, results_in, back_end, "quiet" if quiet else "", prompt)
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
        super().__init__(back_end, stdin=slave, stdout=slave, stderr=slave, **options)
        os.close(slave)
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        assert self.result() == ["is", expected or back_end.replace("--plain", "Plain"), True]
        if wait:
            self.until_last_are(">")

    def rows(self) -> list[str]:
        """What is on the screen, without the empty rows at its end."""
        rows = [row.rstrip() for row in self.screen.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

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


@pytest.fixture
def start() -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def start_one(*args: Any, **options: Any) -> Person:
        people.append(Person(*args, **options))
        return people[-1]

    yield start_one
    for person in people:
        person.end()


Start = Callable[..., Person]
EDITORS = ["PromptToolkit", "Readline"]
ALL = [*EDITORS, "--plain"]

# --------------------------------------------------------------------------------------------------
# A person at a terminal


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("back_end", EDITORS)
def test_half_typed_text_stays_below_the_lines_that_arrive(
    start: Start, back_end: str, columns: int
) -> None:
    person = start(back_end, columns)
    typed = "this half of a line is longer than forty columns, it wra"
    person.type(typed)
    person.until(lambda rows: "".join(rows) == "> " + typed)
    position = person.cursor()
    texts = [f"incoming {n}: {'x' * (n * 7 % 60)}" for n in range(20)]
    for text in texts:
        person.order("show", "MESSAGE", text, "bob#7f3a", 0)
    for _ in texts:
        assert person.result() == ["show"]
    person.do("flush")
    expected = []
    for text in [f"00:00 bob#7f3a: {text}" for text in texts] + ["> " + typed]:
        expected += [text[i : i + columns].rstrip() for i in range(0, len(text), columns)]
    person.until(lambda rows: rows == expected)
    rows_of_prompt = -(-len("> " + typed) // columns)
    assert person.cursor() == (len(expected) - rows_of_prompt + position[0], position[1])
    person.type("ps\r")
    assert person.line() == typed + "ps"


@pytest.mark.parametrize("back_end", EDITORS)
def test_typing_goes_on_in_the_right_place_at_the_edge_of_the_screen(
    start: Start, back_end: str
) -> None:
    person = start(back_end, 40)
    above = ""
    for length in (37, 38, 39, 77, 78):  # with "> " before it: a cell less than a row, a row, ...
        typed = ("0123456789" * 8)[:length]
        person.type(typed)
        person.until_all_is(above + "> " + typed)
        for n in range(3):
            person.do("show", "NOTICE", f"notice {n}")
            above += f"-- notice {n}"
        person.until_all_is(above + "> " + typed)
        person.type("abc")
        above += "> " + typed + "abc"
        person.until_all_is(above)
        person.type("\r")
        assert person.line() == typed + "abc"
        person.until_all_is(above + ">")


@pytest.mark.parametrize("back_end", EDITORS)
def test_the_cursor_stays_in_the_middle_of_a_word(start: Start, back_end: str) -> None:
    person = start(back_end, 40)
    typed = "grüße, 日本語, and so on and so forth, to the end"
    person.type(typed)
    person.until(lambda rows: "".join(rows).endswith("to the end"))
    person.type("\x1b[D" * 10)  # left
    before = person.until(lambda rows: person.cursor()[1] < 12)
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows == ["-- bob joined", *before])
    person.type("X")
    person.until(lambda rows: "".join(rows).endswith("X the end"[1:]) or "Xto the end" in rows[-1])
    person.type("\r")
    assert person.line() == typed.replace("to the end", "Xto the end")


@pytest.mark.parametrize("back_end", EDITORS)
def test_lines_arrive_while_keys_are_pressed_and_no_key_is_lost(
    start: Start, back_end: str
) -> None:
    person = start(back_end, 80)
    person.order("burst", 500)
    typed = "every single key counts"
    for key in typed:
        person.type(key)
        person.look()
    assert person.result() == ["burst"]
    person.do("show", "NOTICE", "end of burst")
    person.until(lambda rows: "-- end of burst" in rows)
    person.type("\r")
    assert person.line() == typed
    person.until_last_are(">")
    seen = re.findall(rb"line (\d+)", person.raw)
    assert [int(n) for n in seen] == list(range(500))


@pytest.mark.parametrize("back_end", EDITORS)
def test_lines_arrive_while_prompts_come_and_go_and_nothing_is_lost(
    start: Start, back_end: str
) -> None:
    person = start(back_end, 80)
    person.order("burst", 5000)
    for n in range(50):
        person.type(f"typed {n}\r")
        person.look()
    given: list[list[Any]] = []
    while len(given) < 51:
        person.wait_for_output_or_result()
        while b"\n" in person.unread:
            given.append(person.result())
    assert [what[1] for what in given if what[0] == "line"] == [f"typed {n}" for n in range(50)]
    person.do("show", "NOTICE", "end of burst")
    person.until(lambda rows: "-- end of burst" in rows and rows[-1] == ">")
    seen = re.findall(rb"line (\d+)", person.raw)
    assert [int(n) for n in seen] == list(range(5000))


@pytest.mark.parametrize("back_end", EDITORS)
def test_arrow_up_brings_the_last_line_back(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("hello\r")
    assert person.line() == "hello"
    person.until(lambda rows: rows == ["> hello", ">"])
    person.type("\x1b[A")
    person.until(lambda rows: rows == ["> hello", "> hello"])
    person.type("\r")
    assert person.line() == "hello"


def test_a_paste_of_42_lines_under_prompt_toolkit_is_one_text(start: Start) -> None:
    person = start("PromptToolkit")
    pasted = "\n".join(f"line {n} of the paste" for n in range(42))
    person.type("\x1b[200~" + pasted.replace("\n", "\r") + "\x1b[201~")
    person.until(lambda rows: "line 41 of the paste" in rows[-1])
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows[0] == "-- bob joined" and "line 41 of the paste" in rows[-1])
    person.type("\r")
    assert person.line() == pasted


def test_prompt_toolkit_neither_takes_the_screen_nor_the_mouse_nor_asks_the_terminal(
    start: Start,
) -> None:
    person = start("PromptToolkit")
    person.type("hello\r")
    assert person.line() == "hello"
    person.until(lambda rows: rows == ["> hello", ">"])
    person.type("\x04")
    assert person.line() is None
    assert person.result() == ["left", 2]
    person.until(lambda rows: rows == ["> hello", ">"] and b"\x1b[?2004l" in person.raw)
    for unwanted in (b"\x1b[?1049h", b"\x1b[?1000h", b"\x1b[6n"):
        assert unwanted not in person.raw


@pytest.mark.parametrize("back_end", EDITORS)
def test_a_draft_is_in_the_edit_buffer(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("again grüße\r")  # the child uses it as the next draft
    assert person.line() == "again grüße"
    person.until(lambda rows: rows == ["> again grüße", "> again grüße"])
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows == ["> again grüße", "-- bob joined", "> again grüße"])
    person.type("\x7f!\r")
    assert person.line() == "again grüß!"


def test_typed_bytes_that_are_not_utf_8_are_refused_and_shown(start: Start) -> None:
    person = start("PromptToolkit")  # readline drops them itself
    person.type(b"caf\xe9\r")
    reason = "a line of input is not UTF-8 and was not taken"
    assert person.result() == ["bad", reason, "caf\\udce9"]
    person.until_last_are("> caf\\udce9")


def test_a_text_that_is_too_long_is_refused_and_kept(start: Start) -> None:
    person = start("PromptToolkit")
    text = "\r".join(["x" * 1000] * 66)
    pasted = "\x1b[200~" + text + "\x1b[201~\r"
    person.feeder = threading.Thread(target=person.type, args=(pasted,))
    person.feeder.start()
    while not person.unread:
        person.wait_for_output_or_result()
    verb, reason, kept = person.result()
    assert (verb, kept) == ("bad", text.replace("\r", "\n"))
    assert str(MAX_LINE_BYTES) in reason


HINT = "-- press Ctrl-C again, or type exit, to leave"


@pytest.mark.parametrize("back_end", ALL)
def test_ctrl_c_clears_the_line_and_a_second_one_leaves(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("half a li")
    person.until_last_are("> half a li")
    person.type("\x03")
    person.until_last_are(HINT, ">")
    person.type("\x03")
    assert person.line() is None
    assert person.result()[0] == "left"
    assert person.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("back_end", EDITORS)
def test_ctrl_c_with_something_typed_since_only_clears_it(start: Start, back_end: str) -> None:
    person = start(back_end)
    for typed in ("one", "two"):
        person.type(typed)
        person.until_last_are("> " + typed)
        person.type("\x03")
        person.until_last_are(HINT, ">")
    person.type("three\r")
    assert person.line() == "three"


@pytest.mark.parametrize("back_end", ALL)
def test_a_line_between_two_ctrl_c_disarms_the_first(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("\x03")
    person.until(lambda rows: len(rows) > 1 and rows[-1] == ">")
    person.type("hello\r")
    assert person.line() == "hello"
    person.until_last_are("> hello", ">")
    person.type("\x03")
    person.until_last_are(HINT, ">")
    person.type("bye\r")
    assert person.line() == "bye"


@pytest.mark.parametrize("back_end", ALL)
def test_ctrl_d_is_the_end_of_input(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("\x04")
    assert person.line() is None
    assert person.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("back_end", ALL)
def test_close_by_another_thread_ends_read_line_and_restores_the_terminal(
    start: Start, back_end: str
) -> None:
    person = start(back_end)
    person.order("close")
    assert sorted([person.result()[0], person.result()[0]]) == ["close", "line"]
    assert person.process.wait(DEADLINE_S) == 0
    assert termios.tcgetattr(person.master)[3] & termios.ECHO
    assert termios.tcgetattr(person.master)[3] & termios.ICANON


@pytest.mark.parametrize("back_end", ALL)
def test_end_input_ends_read_line_and_lines_are_still_shown(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.type("half")
    person.until_last_are("> half")
    person.order("show", "NOTICE", "before")
    person.order("end_input")
    assert person.result() == ["show"]
    assert sorted([person.result()[0], person.result()[0]]) == ["end_input", "line"]
    assert person.process.wait(DEADLINE_S) == 0
    person.until(lambda rows: "-- before" in rows)


@pytest.mark.parametrize("ends", ["end_input", "close"])
@pytest.mark.parametrize("back_end", ALL)
def test_an_end_just_before_the_prompt_stands_is_not_missed(
    start: Start, back_end: str, ends: str
) -> None:
    person = start(back_end, wait=False, environ={"ENDS": ends})
    assert person.line() is None


def test_on_a_plain_terminal_every_line_is_appended_on_a_row_of_its_own(start: Start) -> None:
    person = start("--plain")
    person.type("half")
    person.until(lambda rows: rows == ["> half"])
    person.do("show", "MESSAGE", "hi", "bob", 0)
    person.do("show", "NOTICE", "eve joined")
    person.until(
        lambda rows: (
            rows
            in (
                ["> half", "00:00 bob: hi", ">", "-- eve joined", ">"],
                ["> half", "00:00 bob: hi", "-- eve joined", ">"],
            )
        )
    )
    person.type(" a line\r")
    assert person.line() == "half a line"
    assert b"\x1b" not in person.raw


@pytest.mark.parametrize("back_end", ALL)
def test_a_message_cannot_send_escape_sequences_to_the_terminal(
    start: Start, back_end: str
) -> None:
    person = start(back_end)
    person.do("show", "MESSAGE", "\x1b[2J\x07\x9b2J\x00\r-- fake\n-- fake", "e\x1b[mve", 0)
    person.until(lambda rows: "-- fake" in "".join(rows) and rows[-1] == ">")
    message = [row for row in person.rows() if row not in ("", ">")]
    assert message == [
        r"00:00 e\x1b[mve: \x1b[2J\x07\x9b2J\x00\x0d-- fake",
        "    -- fake",
    ]
    assert b"\x07" not in person.raw
    assert b"\x1b[2J" not in person.raw


@pytest.mark.parametrize("back_end", EDITORS)
def test_alerts_are_bold_unless_no_color_is_set(start: Start, back_end: str) -> None:
    colourful = start(back_end)
    sober = start(back_end, environ={"NO_COLOR": "1"})
    for person in (colourful, sober):
        person.do("show", "ALERT", "KEY CHANGED")
        person.until(lambda rows: rows == ["!! KEY CHANGED", ">"])
    assert b"\x1b[1;31m!! KEY CHANGED\x1b[0m" in colourful.raw
    assert b"\x1b[1;31m" not in sober.raw


def test_with_a_dumb_terminal_lines_are_plain(start: Start) -> None:
    start("PromptToolkit", environ={"TERM": "dumb"}, expected="Plain")


@pytest.mark.parametrize("back_end", ALL)
@pytest.mark.parametrize(
    "environ", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_umlauts_are_shown_and_read_whatever_the_locale(
    start: Start, back_end: str, environ: dict[str, str]
) -> None:
    person = start(back_end, environ=environ)
    person.do("show", "NOTICE", "grüße 日本")
    person.until(lambda rows: "-- grüße 日 本" in rows or "-- grüße 日本" in rows)
    person.type("für dich\r")
    assert person.line() == "für dich"


# --------------------------------------------------------------------------------------------------
# Pipes


@pytest.fixture
def pipes() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start_one(**options: Any) -> Child:
        pipe = subprocess.PIPE
        child = Child(stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, **options)
        children.append(child)
        assert child.result() == ["is", "Plain", False]
        if not options.get("quiet"):
            assert child.read(len(options.get("prompt", "> "))) == options.get("prompt", "> ")
        return child

    yield start_one
    for child in children:
        child.end()


Pipes = Callable[..., Child]


def lines_read(child: Child) -> list[Any]:
    """Everything that read_line gave, until it was None."""
    given = []
    while (result := child.result())[1] is not None:
        given.append(result[1])
    return given


def test_in_pipes_messages_and_dialogue_are_stdout_and_the_rest_is_stderr(pipes: Pipes) -> None:
    child = pipes()
    child.do("show", "NOTICE", "bob joined")
    child.do("show", "MESSAGE", "hello\nthere", "bob#7f3a", 0)
    child.do("show", "ALERT", "KEY CHANGED")
    child.do("show", "DIALOGUE", "Mined 1 coin. New balance: 1")
    child.do("show", "ERROR", "no route to host")
    child.do("flush")
    out, err = child.process.communicate(timeout=DEADLINE_S)
    assert out.decode() == ("\nbob#7f3a: hello\n    there\nMined 1 coin. New balance: 1\n")
    assert err.decode() == "-- bob joined\n!! KEY CHANGED\nchainroom: no route to host\n"


def test_a_line_on_stdout_ends_the_prompt_before_it(pipes: Pipes) -> None:
    child = pipes(prompt="Enter port: ")
    child.stdin.write(b"5555\n")
    assert child.line() == "5555"
    assert child.read(len("Enter port: ")) == "Enter port: "
    child.do("show", "DIALOGUE", "Connected! Type your messages below.")
    child.do("show", "MESSAGE", "hi", "bob", 0)
    child.do("flush")
    out, _ = child.process.communicate(timeout=DEADLINE_S)
    assert out.decode() == "\nConnected! Type your messages below.\nbob: hi\n"


def test_input_lines_come_without_lf_or_crlf_and_the_last_one_may_lack_it(pipes: Pipes) -> None:
    child = pipes()
    child.process.communicate("one\ntwo\r\n\n\0 für\nlast".encode(), timeout=DEADLINE_S)
    assert lines_read(child) == ["one", "two", "", "\0 für", "last"]


def test_a_line_that_is_not_utf_8_is_refused_and_the_next_one_taken(pipes: Pipes) -> None:
    child = pipes()
    child.process.communicate(b"caf\xe9\n\xed\xa0\x80\nok\n", timeout=DEADLINE_S)
    assert child.result() == ["bad", "a line of input is not UTF-8 and was not taken", "caf\\udce9"]
    assert child.result()[0] == "bad"
    assert child.line() == "ok"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_the_limit_is_taken_and_one_byte_more_is_refused(
    pipes: Pipes, ending: bytes
) -> None:
    child = pipes()
    longest = b"x" * MAX_LINE_BYTES
    data = longest + ending + longest + b"y" + ending + b"z" * 3_000_000 + ending + b"ok" + ending
    child.feed(data + b"z" * 200_000)
    assert child.line() == longest.decode()
    reason = f"a line of input is over {MAX_LINE_BYTES} bytes and was not taken"
    assert [child.result(), child.result()] == [["bad", reason, ""]] * 2
    assert child.line() == "ok"
    assert child.result() == ["bad", reason, ""]
    assert child.line() is None


def test_a_line_without_end_takes_bounded_memory() -> None:
    class Endless(Screen):
        largest = chunks = 0

        def read(self, size: int = -1) -> bytes:
            self.chunks += 1
            self.largest = max(self.largest, len(terminal._unread))
            return b"x" * size if self.chunks < 1000 else b""

        def fileno(self) -> int:
            return devnull.fileno()

    with open(os.devnull, "rb") as devnull:
        stdin, stdout = Endless(is_terminal=False), Screen(is_terminal=False)
        stdout.go.set()
        terminal = chat_terminal.Plain(chat_terminal.Streams(stdin, stdout, None), quiet=False)
        with pytest.raises(chat_terminal.BadInput):
            terminal.read_line("> ")
        assert terminal.read_line("> ") is None
        assert stdin.largest <= 2 * MAX_LINE_BYTES + 1
        terminal.close()


def test_quiet_shows_messages_alerts_and_errors_and_no_prompt(pipes: Pipes) -> None:
    child = pipes(quiet=True)
    for kind in Kind:
        child.do("show", kind.name, "text", "bob")
    out, err = child.process.communicate(b"hello\n", timeout=DEADLINE_S)
    assert (out, err) == (b"bob: text\n", b"!! text\nchainroom: text\n")


def test_quiet_still_asks_its_questions(pipes: Pipes) -> None:
    child = pipes(quiet=True, prompt="Enter server IP: ")
    out, _ = child.process.communicate(timeout=DEADLINE_S)
    assert out == b"Enter server IP: \n"


def test_pipes_are_utf_8_whatever_the_locale(pipes: Pipes) -> None:
    child = pipes(
        environ={"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    )
    child.do("show", "MESSAGE", "grüße", "bob")
    child.do("flush")
    out, _ = child.process.communicate("für\n".encode(), timeout=DEADLINE_S)
    assert "bob: grüße\n" in out.decode()
    assert lines_read(child) == ["für"]


def test_a_reader_that_leaves_ends_the_input_without_traceback(pipes: Pipes) -> None:
    child = pipes()
    child.stdout.close()
    child.order("show", "MESSAGE", "hello", "bob")
    assert sorted([child.result(), child.result()]) == [["line", None, True], ["show"]]
    assert child.process.wait(DEADLINE_S) == 0
    assert child.stderr.read() == b""


def test_callers_that_wait_for_a_full_pipe_are_freed_when_its_reader_leaves(pipes: Pipes) -> None:
    child = pipes()
    child.order("burst", 5 * MAX_QUEUED_LINES)  # far more than a pipe and the queue hold
    assert child.read(len("\nline 0\n")) == "\nline 0\n"
    child.stdout.close()
    assert {child.result()[0], child.result()[0]} == {"burst", "line"}
    assert child.process.wait(DEADLINE_S) == 0
    assert child.stderr.read() == b""


def test_a_closed_stderr_does_not_stop_the_messages(pipes: Pipes) -> None:
    child = pipes()
    child.stderr.close()
    child.do("show", "NOTICE", "nobody reads this")
    child.do("show", "MESSAGE", "hello", "bob")
    child.do("flush")
    child.stdin.close()
    assert lines_read(child) == []
    assert child.read(len("\nbob: hello\n")) == "\nbob: hello\n"


def test_streams_that_were_closed_before_the_start_are_no_error() -> None:
    code = (
        "from chat_terminal import *\n"
        "t = open_terminal(); t.show(Line(Kind.ALERT, 'x')); assert t.broken\n"
        "assert t.read_line('> ') is None; t.close()"
    )
    command = 'exec "$0" -W error -c "$1" <&- >&- 2>&-'
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, code], env=environ, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0


def test_where_no_person_types_one_ctrl_c_is_the_end(pipes: Pipes) -> None:
    child = pipes()
    child.process.send_signal(signal.SIGINT)
    assert child.line() is None
    _, err = child.process.communicate(timeout=DEADLINE_S)
    assert err == b""


def test_thirty_thousand_lines_come_out_of_a_slow_pipe_in_order(pipes: Pipes) -> None:
    child = pipes()
    child.order("burst", 3 * MAX_QUEUED_LINES)
    child.order("flush")
    expected = "\n" + "".join(f"line {n}\n" for n in range(3 * MAX_QUEUED_LINES))
    assert child.read(len(expected)) == expected
