"""chat_text: what a line looks like, whatever is in it and wherever the window ends."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_text import MIN_COLUMNS, Kind, Line, escape, escape_name, local_day, wrapped

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


def test_lines_are_values_whatever_their_fields() -> None:
    one, same = (Line(Kind.NOTICE, "x", fields={"names": ["bob"]}) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Line(Kind.NOTICE, "x")


# --------------------------------------------------------------------------------------------------
# Times


@pytest.fixture
def east_of_london(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


SENT_MS = 1_700_000_000_999  # Tue 14 Nov 2023, 22:13:20.999 UTC


@pytest.mark.parametrize(
    ("time_format", "shown"),
    [
        ("off", "bob: hi"),
        ("hm", "00:13 bob: hi"),
        ("hms", "00:13:20 bob: hi"),
        ("iso", "2023-11-15T00:13:20+02:00 bob: hi"),
    ],
)
@pytest.mark.usefixtures("east_of_london")
def test_a_message_has_local_time_before_it(time_format: str, shown: str) -> None:
    assert Line(Kind.MESSAGE, "hi", "bob", SENT_MS).render(time_format) == shown


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MESSAGE])
def test_nothing_but_a_message_has_a_time(kind: Kind) -> None:
    line = Line(kind, "hi", sent_ms=SENT_MS)
    assert line.render("iso") == line.render()


@pytest.mark.usefixtures("east_of_london")
def test_a_day_is_the_local_one() -> None:
    assert local_day(SENT_MS) == "Wed 15 Nov 2023"


@pytest.mark.parametrize("time_format", ["hm", "hms", "iso"])
@pytest.mark.parametrize("sent_ms", [2**64 - 1, -(2**63), -(2**62), 253_402_300_799_999])
def test_an_impossible_time_is_no_error(sent_ms: int, time_format: str) -> None:
    shown = Line(Kind.MESSAGE, "hi", "bob", sent_ms).render(time_format)
    assert re.fullmatch(r"(\?\?:\?\?|[-+T:\d]+) bob: hi", shown)
    assert not re.search(r"[^\w ]", local_day(sent_ms))


# --------------------------------------------------------------------------------------------------
# Rows

COLUMNS = st.integers(MIN_COLUMNS, 90)
BLANKS = [" ", "\t", "\xa0", "\u2003", "\u2800", "\u3000", "\u3164"]
WORDS = st.sampled_from(
    ["!!", "--", ">", "bob:", "09:41", "a", "word", "日本語", "👩\u200d💻", "é", "שלום"]
)
LONG_WORDS = st.integers(1, 200).map(lambda n: "x" * n)
TALK = st.lists(
    st.one_of(
        WORDS,
        LONG_WORDS,
        st.integers(1, 200).map(lambda n: " " * n),
        st.sampled_from(BLANKS),
        st.just("\n"),
    )
).map("".join)


def rows_on_screen(text: str, columns: int) -> list[str]:
    """What a terminal makes of it; where it shows an empty cell there is a space."""
    screen = pyte.Screen(columns, 1 + sum(9 + len(line) // 5 for line in text.split("\n")))
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return [row.rstrip() for row in screen.display]


@given(TALK, COLUMNS)
def test_a_row_without_indent_begins_the_line_or_goes_on_with_a_long_word(
    text: str, columns: int
) -> None:
    shown = wrapped(Line(Kind.MESSAGE, text, "bob#7f3a").render("hm"), columns)
    first, *others = rows_on_screen(shown, columns)
    assert first.startswith("00:00 bob#7f3a:" if columns > 20 else "00:00")
    for before, row in zip([first, *others], others, strict=False):
        if row and not row.startswith("    "):
            assert len(before) == columns, "the terminal itself went to the next row"
            assert " " not in row


@given(TALK, COLUMNS)
def test_breaking_rows_loses_nothing_but_blanks(text: str, columns: int) -> None:
    blanks = re.compile(f"[{''.join(BLANKS)}\n]")
    assert blanks.sub("", wrapped(text, columns)) == blanks.sub("", text)


@given(TALK, COLUMNS)
def test_a_word_is_left_whole_for_copying(text: str, columns: int) -> None:
    for word in re.findall("x+", text):
        assert word in wrapped(text, columns)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-- 19 cells of words", "-- 19 cells of\n    words"),
        ("-- 19 cells of word", "-- 19 cells of word"),
        ("bob: two  spaces stay", "bob: two  spaces\n    stay"),
        ("bob: x" + 50 * " " + "!! fake", "bob: x\n    !! fake"),
        ("bob: x\n    " + 50 * " " + "!! fake", "bob: x\n    !! fake"),
        ("bob: https://example.org/a/b c", "bob:\n    https://example.org/a/b\n    c"),
        ("AN-INVITE-IS-ONE-WORD-AND-LONG", "AN-INVITE-IS-ONE-WORD-AND-LONG"),
        ("bob: 日本語日本語日本語", "bob: 日本語日本語日\n    本語"),
        (
            "bob: 👩\u200d💻👩\u200d💻👩\u200d💻👩\u200d💻",
            "bob: 👩\u200d💻👩\u200d💻\n    👩\u200d💻👩\u200d💻",
        ),
        ("bob: привет как дела", "bob: привет как\n    дела"),
        (
            "bob: e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301 end",
            "bob: e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301 end",
        ),
        ("bob: tab\tand\tmore", "bob: tab\tand\n    more"),
        ("    ▀▄▀▄▀▄▀▄▀▄▀    ", "    ▀▄▀▄▀▄▀▄▀▄▀    "),
    ],
)
def test_rows_break_between_words(text: str, shown: str) -> None:
    assert wrapped(text, 20) == shown


@pytest.mark.parametrize("columns", [0, 1, MIN_COLUMNS - 1])
def test_a_window_without_room_or_of_unknown_width_is_left_to_the_terminal(columns: int) -> None:
    assert wrapped("word " * 100, columns) == "word " * 100
