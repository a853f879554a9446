"""chat_screen: what all terminals do: the queue, days, the bell, asking before a long text is sent.

The screen is a stream that blocks until the test lets it go; `Plain` is the terminal at hand.
"""

from __future__ import annotations

import io
import os
import pty
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pseudo_terminal import DEADLINE_S

from chat_screen import (
    BELL_INTERVAL_S,
    MAX_LINE_BYTES,
    MAX_QUEUED_CHARS,
    MAX_QUEUED_LINES,
    BadInput,
    Streams,
    Terminal,
)
from chat_terminal import Plain
from chat_text import Kind, Line, local_day

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

# --------------------------------------------------------------------------------------------------
# The queue


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


def plain_terminal(screen: Screen, *, stderr: io.RawIOBase | None = None, **options: Any) -> Plain:
    stdin = Screen(is_terminal=screen.is_terminal)
    return Plain(Streams(stdin, screen, stderr), **options)


def block(terminal: Terminal, screen: Screen) -> None:
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
    text = "x" * (MAX_QUEUED_CHARS // 4)
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


def test_the_width_of_a_window_is_known_and_of_anything_else_is_nought() -> None:
    for is_terminal in (True, False):
        screen = Screen(is_terminal=is_terminal)
        screen.go.set()
        terminal = plain_terminal(screen)
        assert terminal.columns == 0
        terminal.close()
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (24, 132))
        with open(slave, "wb", buffering=0) as window:
            terminal = Plain(Streams(None, window, None))
            assert terminal.columns == 132
            terminal.close()
    finally:
        os.close(master)


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
        terminal = Plain(Streams(stdin, stdout, None))
        with pytest.raises(BadInput):
            terminal.read_line("> ")
        assert terminal.read_line("> ") is None
        assert stdin.largest <= 2 * MAX_LINE_BYTES + 1
        terminal.close()


# --------------------------------------------------------------------------------------------------
# Days and the bell

DAY_MS = 86_400_000
NOON_MS = 1_763_985_600_000  # Mon 24 Nov 2025, 12:00 UTC


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(*lines: Line, is_terminal: bool = True, bell: str = "off", **options: Any) -> list[str]:
    """What is written for them, when 24 November is today."""
    screen = Screen(is_terminal=is_terminal)
    screen.go.set()
    terminal = plain_terminal(screen, **options)
    terminal._day = local_day(NOON_MS)
    terminal.bell = bell
    for line in lines:
        terminal.show(line)
        terminal.flush()
    terminal.close()
    return screen.lines()


def said(text: str, days: int = 0, *, mention: bool = False) -> Line:
    return Line(Kind.MESSAGE, text, "bob", NOON_MS + days * DAY_MS, mention=mention)


@pytest.mark.usefixtures("utc")
def test_a_day_stands_before_the_first_message_of_another_day() -> None:
    lines = [
        said("a"),
        said("b", -1),
        said("c", -1),
        Line(Kind.NOTICE, "d"),
        said("e"),
        said("f", 1),
    ]
    assert shown(*lines) == [
        "12:00 bob: a",
        "-- Sun 23 Nov 2025 --",
        "12:00 bob: b",
        "12:00 bob: c",
        "-- d",
        "-- Mon 24 Nov 2025 --",
        "12:00 bob: e",
        "-- Tue 25 Nov 2025 --",
        "12:00 bob: f",
    ]


@pytest.mark.usefixtures("utc")
def test_there_are_no_days_without_times_or_notices_or_in_a_pipe() -> None:
    assert shown(said("a", 1), time_format="off") == ["bob: a"]
    assert shown(said("a", 1), quiet=True) == ["12:00 bob: a"]
    assert shown(said("a", 1), is_terminal=False) == ["bob: a"]


@pytest.mark.usefixtures("utc")
def test_a_time_that_no_clock_shows_begins_no_day() -> None:
    assert shown(Line(Kind.MESSAGE, "a", "bob", 2**64 - 1)) == ["??:?? bob: a"]


def test_the_day_of_the_start_is_today() -> None:
    screen = Screen(is_terminal=True)
    screen.go.set()
    terminal = plain_terminal(screen)
    assert terminal._day == local_day(time.time_ns() // 1_000_000)
    terminal.close()


@pytest.mark.parametrize(
    ("bell", "rung"),
    [("off", []), ("mention", ["you"]), ("all", ["you", "all"])],
)
def test_what_rings_is_what_was_chosen(bell: str, rung: list[str]) -> None:
    lines = [said("you", mention=True), said("all"), Line(Kind.ALERT, "alert", mention=True)]
    assert [line.text for line in lines if "\a" in shown(line, bell=bell)] == rung


def test_a_pipe_never_rings() -> None:
    line = said("you", mention=True)
    assert shown(line, is_terminal=False, bell="all") == ["bob: you"]


def test_a_flood_rings_once_a_second() -> None:
    start_s = time.monotonic()
    rows = shown(*[said("you", mention=True)] * 50, bell="mention")
    most = 1 + (time.monotonic() - start_s) // BELL_INTERVAL_S
    assert 1 <= "".join(rows).count("\a") <= most


def test_no_other_bell_and_no_other_time_can_be_asked_for() -> None:
    screen = Screen(is_terminal=False)
    terminal = plain_terminal(screen)
    with pytest.raises(ValueError, match="one of off, mention, all, not 'loud'"):
        terminal.bell = "loud"
    assert terminal.bell == "mention"
    screen.go.set()
    terminal.close()
    with pytest.raises(ValueError, match="one of off, hm, hms, iso, not 'am'"):
        plain_terminal(screen, time_format="am")


# --------------------------------------------------------------------------------------------------
# A long pasted text


class Scripted(Terminal):
    """Reads what a script says; keeps what it was asked."""

    def __init__(self, *answers: str | BaseException, is_terminal: bool = True) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, bool]] = []
        stream = Screen(is_terminal=is_terminal)
        super().__init__(Streams(stream, stream, None))

    def _read(self, prompt: str, draft: str) -> str:
        self.asked.append((prompt, draft, self._is_asking))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _print(self, lines: list[Line]) -> None:
        pass


LONG = "\n".join(f"line {n}" for n in range(21))
QUESTION = "send these 21 lines as one message? [y/N] "


@pytest.mark.parametrize("answer", ["y", "Yes", " Y "])
def test_a_text_of_more_than_twenty_lines_is_one_text_after_a_yes(answer: str) -> None:
    terminal = Scripted(LONG, answer)
    assert terminal.read_line("> ") == LONG
    assert terminal.asked == [("> ", "", False), (QUESTION, "", True)]
    terminal.close()


@pytest.mark.parametrize("answer", ["", "n", "yesterday", EOFError(), KeyboardInterrupt()])
def test_a_text_that_is_not_meant_is_the_next_draft(answer: str | BaseException) -> None:
    terminal = Scripted(LONG, answer, "mended")
    assert terminal.read_line("> ") == "mended"
    assert terminal.asked == [("> ", "", False), (QUESTION, "", True), ("> ", LONG, False)]
    terminal.close()


@pytest.mark.parametrize("text", ["one", "\n" * 30, LONG.removesuffix("\nline 20"), "x\n" * 20])
def test_a_text_of_up_to_twenty_lines_is_not_asked_about(text: str) -> None:
    terminal = Scripted(text)
    assert terminal.read_line("> ") == text
    terminal.close()


def test_a_program_is_not_asked() -> None:
    terminal = Scripted(LONG, is_terminal=False)
    assert terminal.read_line("> ") == LONG
    terminal.close()


def test_a_second_ctrl_c_while_the_hint_is_written_leaves() -> None:
    terminal = Scripted(KeyboardInterrupt())

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "flush", interrupted)
        assert terminal.read_line("> ") is None
    terminal.close()
