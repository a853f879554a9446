"""chat_terminal: what any terminal keeps to, plain lines, pipes.

Pipes and pseudo-terminals are real (`pseudo_terminal`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pseudo_terminal import ALL, DEADLINE_S, ROOT, Child, Start, starter

from chat_terminal import MAX_LINE_BYTES, MAX_QUEUED_LINES, Kind

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

HINT = "-- press Ctrl-C again, or type exit, to leave"

# --------------------------------------------------------------------------------------------------
# A person at a terminal, whichever it is


@pytest.fixture
def start() -> Iterator[Start]:
    with starter() as start:
        yield start


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


@pytest.mark.parametrize(
    ("back_end", "step"),
    [
        ("PromptToolkit", "_start_row"),
        ("PromptToolkit", "_take_down"),
        ("Readline", "_start_row"),
        ("Readline", "rl_redisplay"),
        ("Readline", "_take_down"),
        ("--plain", "_write"),
    ],
)
def test_ctrl_c_while_the_prompt_is_put_up_or_taken_down_is_like_any_other(
    start: Start, back_end: str, step: str
) -> None:
    person = start(back_end, wait=False, environ={"INTERRUPTED": step})
    if step == "_take_down":
        person.until_last_are(">")
        person.type("\r")
    person.until_last_are(HINT, ">")
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows[-2:] == ["-- bob joined", ">"])
    person.type("hello\r")
    assert person.line() == "hello"


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
def test_a_message_cannot_harm_the_terminal_or_pass_for_another_line(
    start: Start, back_end: str
) -> None:
    person = start(back_end)
    clipboard = "\x1b]52;c;cm0gLXJmIH4=\x07"
    text = f"\x1b[2J\x9b2J\x00{clipboard}\r!! fake\n!! fake\u2028\u202e!! fake\x1b[A\r!! fake"
    person.do("show", "MESSAGE", text, "e\x1b[m\u200bve\r!! fake", 0)
    for spaces in range(50, 80):  # one of these stands at the edge of the window
        person.do("show", "MESSAGE", "x" + " " * spaces + "!! fake", "eve", 0)
    person.do("show", "NOTICE", "the relay says: " + " " * 61 + "!! fake")
    person.do("show", "NOTICE", "the end")
    person.until(lambda rows: "-- the end" in rows and rows[-1] == ">")
    rows = [row for row in person.all_rows() if row not in ("", ">")]
    assert rows[:4] == [
        r"00:00 e\x1b[m\u200bve\x0d!! fake:",
        r"    \x1b[2J\x9b2J\x00\x1b]52;c;cm0gLXJmIH4=\x07\x0d!! fake",
        r"    !! fake\u2028\u202e!! fake\x1b[A\x0d!! fake",
        "00:00 eve: x" + " " * 50 + "!! fake",
    ]
    assert {row[:4].strip() for row in rows[3:]} == {"00:0", "", "-- t"}
    for unwanted in (b"\x07", b"\x1b[2J", b"\x9b", b"\x1b]52", "\u202e".encode()):
        assert unwanted not in person.raw


@pytest.mark.parametrize("back_end", ALL)
def test_the_bell_is_one_byte_that_leaves_the_screen_as_it_is(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.do("mention", "hi")
    person.until(lambda rows: rows[-1:] == [">"] and "00:00 bob: hi" in rows)
    assert person.raw.count(b"\x07") == 1
    person.do("bell", "off")
    person.do("mention", "again")
    person.until(lambda rows: rows[-1:] == [">"] and "00:00 bob: again" in rows)
    assert person.raw.count(b"\x07") == 1


@pytest.mark.parametrize("back_end", ALL)
def test_the_way_times_are_shown_is_chosen_at_the_start(start: Start, back_end: str) -> None:
    person = start(back_end, time_format="iso")
    person.do("show", "MESSAGE", "hi", "bob", 0)
    person.until_last_are("1970-01-01T00:00:00+00:00 bob: hi", ">")
    person.do("show", "MESSAGE", "there", "bob", 86_400_000)
    person.until_last_are("-- Fri 02 Jan 1970 --", "1970-01-02T00:00:00+00:00 bob: there", ">")


def test_a_plain_terminal_takes_each_line_of_a_pasted_text_and_has_no_colours(start: Start) -> None:
    person = start("--plain", remembered=["earlier"])
    person.do("status", "3 in the room")
    person.do("show", "ALERT", "KEY CHANGED")
    person.type("\n".join(map(str, range(30))) + "\n")
    assert [person.line() for _ in range(30)] == list(map(str, range(30)))
    assert b"\x1b" not in person.raw


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
        streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "bufsize": 0}
        child = Child(streams=streams, **options)
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
