"""docs/JSON.md, read by tests: its tables and its examples.

kinds, keys = table("To the program")["joined"]
assert named(keys) == ["name", "fingerprint"]
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENT", "FIXED", "TO_THE_PROGRAM", "check", "examples", "named", "table"]

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "JSON.md").read_text("utf-8")
TO_THE_PROGRAM = "To the program"
FIXED = ("v", "type", "kind", "text", "id")  # what objects of all types have, the id some of each


def _section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(title: str) -> dict[str, list[str]]:
    """The rows of the tables below a title, by the name in the first cell: the cells between it
    and the last, which is prose."""
    rows = [row.split("|")[1:-2] for row in _section(title).splitlines() if row.startswith("| `")]
    return {row[0].strip().strip("`"): row[1:] for row in rows}


def named(cell: str) -> list[str]:
    """The names that stand in a cell."""
    return re.findall("`([a-z_]+)`", cell)


def examples(title: str, language: str = "json") -> str:
    """What stands in the blocks of that language below a title."""
    return "".join(re.findall(rf"```{language}\n(.*?)```", _section(title), re.DOTALL))


def check(told: dict[str, Any]) -> None:
    """AssertionError: an object to the program is not as its row says."""
    kinds, keys = table(TO_THE_PROGRAM)[told["type"]]
    assert told["kind"] in kinds.split(), told
    assert [key for key in told if key not in FIXED] == named(keys), told
    assert list(told)[:4] == list(FIXED[:4]), told
    assert told["v"] == 1
