"""Typed lines are kept for the next run, in a ring, and go with a text that is erased."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chat_blocks import SideRow
from chat_typed import TypedLines


def kept(rows: dict[bytes, bytes], changes: list[SideRow]) -> None:
    """As the chain's file does."""
    for row in changes:
        rows[row.key] = row.value
        if not row.value:
            del rows[row.key]


@given(st.lists(st.text(max_size=5), max_size=30))
def test_next_run_has_the_lines_in_their_order(typed: list[str]) -> None:
    rows: dict[bytes, bytes] = {}
    lines = TypedLines({})
    for line in typed:
        kept(rows, lines.add(line))
    again = TypedLines(rows).lines()
    assert again == lines.lines()
    expected: list[str] = []
    for line in typed:
        shown = line.encode("utf-8", "replace").decode()
        if line.strip() and expected[-1:] != [shown]:
            expected.append(shown)
    assert [line.encode("utf-8", "replace").decode() for line in again] == expected


def test_ring_keeps_the_last_500_over_runs() -> None:
    rows: dict[bytes, bytes] = {}
    for run in range(3):
        lines = TypedLines(rows)
        for n in range(400):
            kept(rows, lines.add(f"{run}-{n}"))
    assert len(rows) == 500
    assert TypedLines(rows).lines() == [f"1-{n}" for n in range(300, 400)] + [
        f"2-{n}" for n in range(400)
    ]


def test_line_over_4096_bytes_and_the_same_once_more_are_not_kept() -> None:
    lines = TypedLines({})
    assert lines.add("x" * 4096)
    assert not lines.add("x" * 4096)
    assert not lines.add("é" * 2049)
    assert lines.lines() == ["x" * 4096]


def test_erased_text_takes_the_lines_that_hold_it() -> None:
    rows: dict[bytes, bytes] = {}
    lines = TypedLines({})
    for line in ("a", "/msg bob secret", "secret", "b"):
        kept(rows, lines.add(line))
    kept(rows, lines.forget("secret"))
    assert lines.lines() == TypedLines(rows).lines() == ["a", "b"]
    kept(rows, TypedLines(rows).add("c"))
    assert TypedLines(rows).lines() == ["a", "b", "c"]


def test_rows_of_another_form_are_passed_over() -> None:
    assert TypedLines({b"": b"short", b"\0\1": b"\0" * 8 + b"\xff"}).lines() == ["\ufffd"]
