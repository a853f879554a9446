"""Typed lines: what is said, what is a command, what is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_commands import HELP, Command, Say, completions, mentions, read_typed


@pytest.mark.parametrize("line", ["", " ", "\t", "\n", " \r\n ", "\u3000"])
def test_line_without_a_character_is_nothing(line: str) -> None:
    assert read_typed(line) is None


@pytest.mark.parametrize("line", ["exit", "EXIT", "Exit", "  eXiT\t"])
def test_exit_in_any_case_is_the_command_quit(line: str) -> None:
    assert read_typed(line) == Command("quit", "")


@pytest.mark.parametrize("line", ["exit now", "exits", "an exit", "exit\nexit"])
def test_exit_among_other_words_is_said(line: str) -> None:
    assert read_typed(line) == Say(line)


@pytest.mark.parametrize("line", ["hello", "  two  spaces ", "1/2", "a\n/quit", "-- no notice"])
def test_line_is_said_as_it_was_typed(line: str) -> None:
    assert read_typed(line) == Say(line)


@pytest.mark.parametrize(
    ("line", "said"), [("//quit", "/quit"), (" //who ", "/who"), ("//", "/"), ("///", "//")]
)
def test_two_slashes_say_one(line: str, said: str) -> None:
    assert read_typed(line) == Say(said)


@pytest.mark.parametrize(
    ("line", "name", "argument"),
    [
        ("/who", "who", ""),
        ("/WHO", "who", ""),
        (" /msg bob  two  words ", "msg", "bob  two  words"),
        ("/msg\tbob hello", "msg", "bob hello"),
        ("/msg bob\nfirst\nsecond", "msg", "bob\nfirst\nsecond"),
        ("/quit\n", "quit", ""),
        ("/nonsense", "nonsense", ""),
        ("/", "", ""),
        ("/ who", "", "who"),
    ],
)
def test_one_slash_makes_a_command(line: str, name: str, argument: str) -> None:
    assert read_typed(line) == Command(name, argument)


@given(st.text())
def test_every_line_means_something_and_no_command_is_ever_said(line: str) -> None:
    typed = read_typed(line)
    if line.strip().startswith("/") and not line.strip().startswith("//"):
        assert isinstance(typed, Command)
    if isinstance(typed, Say):
        assert typed.text.strip()
        assert typed.text in line


def test_help_has_a_line_for_each_command() -> None:
    people = ["who", "msg", "verify", "accept", "key", "invite", "nick", "ignore"]
    own = ["history", "find", "forget", "export", "chain", "wallet"]
    assert list(HELP) == ["help", *people, *own, "bell", "status", "quit"]
    for name, line in HELP.items():
        assert line.startswith(f"/{name} ")


NAMES = ["bob#7f3a", "bob#91c2", "Zoë#0001"]


@pytest.mark.parametrize(
    ("before", "completed"),
    [
        ("/ms", ["/msg "]),
        ("/W", ["/wallet ", "/who "]),
        ("/x", []),
        ("/msg ", ["/msg Zoë#0001 ", "/msg bob#7f3a ", "/msg bob#91c2 "]),
        ("/msg B", ["/msg bob#7f3a ", "/msg bob#91c2 "]),
        ("/MSG z", ["/MSG Zoë#0001 "]),
        ("/msg bob#7f3a he", []),
        ("/history b", []),
        ("bob#9", ["bob#91c2: "]),
        ("well, bob", []),
        ("well, @zo", ["well, @Zoë#0001 "]),
        ("@bob#7", ["@bob#7f3a "]),
        ("hello", []),
        ("", []),
        ("bob#7f3a ", []),
    ],
)
def test_tab_completes_commands_and_names_where_they_belong(
    before: str, completed: list[str]
) -> None:
    assert completions(before, NAMES) == completed


@given(st.text())
def test_completing_never_raises_and_only_adds(before: str) -> None:
    for text in completions(before, NAMES):
        assert len(text) > len(before)


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("bob", True),
        ("hi Bob!", True),
        ("@bob: look", True),
        ("ask bob#7f3a", True),
        ("bobby", False),
        ("kebob", False),
        ("", False),
        ("bo b", False),
    ],
)
def test_text_names_somebody_by_a_word_of_its_own(text: str, is_named: bool) -> None:
    assert mentions(text, "bob") is is_named
