"""chat_editors: a person types while lines arrive, with prompt_toolkit and with readline.

Pseudo-terminals are real (`pseudo_terminal`), and what is compared is what is on the screen.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pseudo_terminal import EDITORS, Person, Start, as_on_screen, starter

import chat_editors
from chat_terminal import MAX_LINE_BYTES, Kind, Line
from chat_text import wrapped

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

HINT = "-- press Ctrl-C again, or type exit, to leave"


@pytest.fixture
def start() -> Iterator[Start]:
    with starter() as start:
        yield start


def on_screen(text: str, columns: int) -> list[str]:
    """The rows of a line, when the terminal breaks what is still too long."""
    rows = wrapped(text, columns).split("\n")
    return [row[i : i + columns].rstrip() for row in rows for i in range(0, len(row), columns)]


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
    for text in texts:
        expected += on_screen(f"00:00 bob#7f3a: {text}", columns)
    expected += [("> " + typed)[i : i + columns].rstrip() for i in range(0, 58, columns)]
    person.until(lambda rows: rows == expected)
    rows_of_prompt = -(-len("> " + typed) // columns)
    assert person.cursor() == (len(expected) - rows_of_prompt + position[0], position[1])
    person.type("ps\r")
    assert person.line() == typed + "ps"


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("back_end", EDITORS)
def test_a_thousand_lines_arrive_in_order_while_a_person_types(
    start: Start, back_end: str, columns: int
) -> None:
    person = start(back_end, columns, rows=24)
    kinds = [
        "short",
        "a text that is longer than forty columns, so that it takes two rows or more",
        "日本語のテキスト, emoji 👩\u200d💻 🎉, marks e\u0301 o\u0308, שלום עולם",
        "two lines\n!! KEY CHANGED",
    ]
    texts = [f"{n}: {kinds[n % len(kinds)]}" for n in range(1000)]
    typed = "grüße, 日本, שלום 🎉 e\u0301: every key counts, and the row is longer than forty"
    for n in range(10):
        person.order("talk", texts[n * 100 : n * 100 + 100])
        for key in typed[n * 8 : n * 8 + 8]:
            person.type(key)
            person.look()
    for _ in range(10):
        while b"\n" not in person.unread:
            person.wait_for_output_or_result()
        assert person.result() == ["talk"]
    person.do("show", "NOTICE", "the last")
    person.until(lambda rows: "-- the last" in rows and "forty" in rows[-1])
    lines = [Line(Kind.MESSAGE, text, "bob").render("hm") for text in texts] + ["-- the last"]
    expected = as_on_screen(wrapped("\n".join(lines), columns)).split("\n")
    shown, prompt = person.all_rows()[: len(expected)], person.all_rows()[len(expected) :]
    assert shown == expected
    assert "".join(prompt).replace(" ", "") == as_on_screen("> " + typed).replace(" ", "")
    person.type("!\r")
    assert person.line() == typed + "!"


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


PASTED = "\n".join(f"line {n} of the paste" for n in range(42))
QUESTION = "send these 42 lines as one message? [y/N]"


def paste(person: Person, text: str) -> None:
    """As a terminal does it (bracketed paste)."""
    person.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")


def throws_away(person: Person) -> None:
    """What is typed, by Ctrl-C."""
    person.type("\x03")
    person.until_last_are(HINT, ">")


@pytest.mark.parametrize("back_end", EDITORS)
def test_a_paste_of_42_lines_is_one_text_after_a_question(start: Start, back_end: str) -> None:
    person = start(back_end)
    paste(person, PASTED)
    person.until(lambda rows: "line 41 of the paste" in rows[-1])
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows[0] == "-- bob joined" and "line 41 of the paste" in rows[-1])
    person.type("\r")
    person.until_last_are(QUESTION)
    person.do("show", "NOTICE", "eve joined")
    person.until_last_are("-- eve joined", QUESTION)
    person.type("y\r")
    assert person.line() == PASTED
    person.until_last_are(QUESTION + " y", ">")


@pytest.mark.parametrize("back_end", EDITORS)
def test_a_paste_that_was_not_meant_can_be_mended_or_thrown_away(
    start: Start, back_end: str
) -> None:
    person = start(back_end)
    paste(person, PASTED)
    person.type("\r")
    person.until_last_are(QUESTION)
    person.type("\r")
    person.until(lambda rows: QUESTION in rows and "line 41 of the paste" in rows[-1])
    throws_away(person)
    person.type("hello\r")
    assert person.line() == "hello"


@pytest.mark.parametrize("back_end", EDITORS)
def test_answers_to_questions_are_not_in_the_history(start: Start, back_end: str) -> None:
    person = start(back_end)
    paste(person, PASTED)
    person.type("\r")
    person.until_last_are(QUESTION)
    person.type("y\r")
    assert person.line() == PASTED
    person.until_last_are(QUESTION + " y", ">")
    person.type("\x1b[A\r")
    person.until_last_are(QUESTION)
    person.type("y\r")
    assert person.line() == PASTED


@pytest.mark.parametrize("back_end", EDITORS)
def test_arrow_up_finds_the_lines_of_earlier_runs(start: Start, back_end: str) -> None:
    person = start(back_end, remembered=["oldest", "two", "newest, grüße"])
    person.type("\x1b[A")
    person.until_last_are("> newest, grüße")
    person.type("\x1b[A" * 2)
    person.until_last_are("> oldest")
    person.type("\r")
    assert person.line() == "oldest"
    person.until_last_are("> oldest", ">")
    person.type("\x1b[A")
    person.until_last_are("> oldest", "> oldest")
    person.type("\x1b[A" * 2)
    person.until_last_are("> oldest", "> two")


@pytest.mark.parametrize("back_end", EDITORS)
def test_tab_completes_as_far_as_is_sure_and_then_lists(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.do("complete", ["/msg bob#7f3a ", "/msg bob#91c2 ", "/wallet "])
    person.type("/w\tx")
    person.until_last_are("> /wallet x")
    person.type("\x15/msg b\t")
    person.until_last_are("> /msg bob#")
    person.type("\t")
    person.until_last_are("-- bob#7f3a  bob#91c2", "> /msg bob#")
    person.type("9\thi")
    person.until_last_are("> /msg bob#91c2 hi")
    person.type("\t\r")  # nothing to complete
    assert person.line() == "/msg bob#91c2 hi"


@pytest.mark.parametrize("back_end", EDITORS)
def test_tab_completes_left_of_the_cursor_and_keeps_what_is_right_of_it(
    start: Start, back_end: str
) -> None:
    person = start(back_end)
    person.do("complete", ["für /who "])
    person.type("für /w, wörter\x1b[D\x1b[D")
    person.type("\x1b[D" * 6 + "\t!\r")
    assert person.line() == "für /who !, wörter"


@pytest.mark.parametrize("back_end", EDITORS)
def test_what_tab_lists_is_escaped_and_bounded(start: Start, back_end: str) -> None:
    person = start(back_end)
    person.do("complete", [f"{n}\x1b[2J" for n in range(chat_editors.MAX_LISTED + 12)])
    person.type("\t")
    rows = person.until(lambda rows: "and 12 more" in "".join(rows[-2:]) and rows[-1] == ">")
    assert r"-- 0\x1b[2J  1\x1b[2J  2\x1b[2J" in rows[0]
    assert b"\x1b[2J" not in person.raw


def test_the_status_row_follows_a_text_that_grows_and_shrinks(start: Start) -> None:
    person = start("PromptToolkit", 80, 24)
    person.do("status", "3 in the room")
    person.type("x" * 200)
    person.until(lambda rows: [len(row) for row in rows] == [80, 80, 42, 13])
    person.type("\x15")
    person.until(lambda rows: rows == [">", "3 in the room"])
    person.type("hello")
    person.until(lambda rows: rows == ["> hello", "3 in the room"])


def test_the_status_row_is_below_the_prompt_and_leaves_no_trace(start: Start) -> None:
    person = start("PromptToolkit", 80, 10)
    person.do("status", "3 in the room\x1b[2J")
    person.until(lambda rows: rows == [">", r"3 in the room\x1b[2J"])
    person.type("hel")
    person.until(lambda rows: rows == ["> hel", r"3 in the room\x1b[2J"])
    assert person.cursor() == (0, 5)
    person.do("show", "NOTICE", "bob joined")
    person.do("status", "4 in the room " + "x" * 100)
    row = ("4 in the room " + "x" * 100)[:80]
    person.until(lambda rows: rows == ["-- bob joined", "> hel", row])
    person.type("lo\r")
    assert person.line() == "hello"
    person.until(lambda rows: rows == ["-- bob joined", "> hello", ">", row])
    person.do("status", "")
    person.until(lambda rows: rows == ["-- bob joined", "> hello", ">"])
    person.do("status", "bye")
    person.until(lambda rows: rows[-1] == "bye")
    person.type("\x04")
    assert person.line() is None
    person.until(lambda rows: rows == ["-- bob joined", "> hello", ">"])


@pytest.mark.parametrize(
    ("back_end", "columns", "rows"),
    [("PromptToolkit", 79, 24), ("PromptToolkit", 80, 9), ("Readline", 80, 24)],
)
def test_there_is_no_status_row_where_it_would_take_room_or_nobody_draws_it(
    start: Start, back_end: str, columns: int, rows: int
) -> None:
    person = start(back_end, columns, rows)
    person.do("status", "3 in the room")
    person.do("show", "NOTICE", "bob joined")
    person.until(lambda rows: rows == ["-- bob joined", ">"])
    assert b"3 in the room" not in person.raw


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


@pytest.mark.parametrize("back_end", EDITORS)
def test_ctrl_c_with_something_typed_since_only_clears_it(start: Start, back_end: str) -> None:
    person = start(back_end)
    for typed in ("one", "two"):
        person.type(typed)
        person.until_last_are("> " + typed)
        throws_away(person)
    person.type("three\r")
    assert person.line() == "three"


@pytest.mark.parametrize("back_end", EDITORS)
def test_colours_repeat_the_words_unless_no_color_is_set(start: Start, back_end: str) -> None:
    colourful = start(back_end)
    sober = start(back_end, environ={"NO_COLOR": "1"})
    for person in (colourful, sober):
        person.do("show", "ALERT", "KEY CHANGED")
        person.do("show", "NOTICE", "bob joined")
        person.do("show", "MESSAGE", "hi", "bob#7f3a", 0)
        person.until(lambda rows: rows[:1] == ["!! KEY CHANGED"] and rows[3:] == [">"])
        assert person.rows() == ["!! KEY CHANGED", "-- bob joined", "00:00 bob#7f3a: hi", ">"]
    assert b"\x1b[1;31m!! KEY CHANGED\x1b[0m" in colourful.raw
    assert b"\x1b[2m-- bob joined\x1b[0m" in colourful.raw
    assert b"00:00 \x1b[1mbob#7f3a: \x1b[0mhi" in colourful.raw
    for sequence in (b"\x1b[1;31m", b"\x1b[2m", b"\x1b[1m"):
        assert sequence not in sober.raw
