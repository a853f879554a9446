"""What the person typed in earlier runs, for arrow-up: sealed on disk like all else.

What lives here: the ring of typed lines in a side table.  What it does not know: the terminal that
shows them, what a line means.

    typed = TypedLines(chain.side(TYPED_TABLE))
    terminal.remember(typed.lines())
    rows = typed.add("hello")            # for the chain's file
"""

from __future__ import annotations

from collections.abc import Mapping

from chat_blocks import SideRow
from chat_wire import u16, u64

__all__ = ["TYPED_TABLE", "TypedLines"]

TYPED_TABLE = "typed"  # place in the ring u16 → number u64 ‖ the line
_MAX_LINES = 500
_MAX_LINE_BYTES = 4096  # a longer one is no line that somebody wants to send again


class TypedLines:
    """The last lines typed, oldest first.  Owned by the engine's thread, once it runs."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        """`rows` of the side table; what is in no form of ours is passed over."""
        good = [value for value in rows.values() if len(value) > 8]
        numbered = sorted((int.from_bytes(value[:8], "big"), value[8:]) for value in good)
        self._lines = {n: line.decode("utf-8", "replace") for n, line in numbered[-_MAX_LINES:]}
        self._next = max(self._lines, default=-1) + 1

    def lines(self) -> list[str]:
        """Oldest first."""
        return list(self._lines.values())

    def add(self, line: str) -> list[SideRow]:
        """A line was typed; the row that keeps it, if it is kept.  The oldest makes room."""
        data = line.encode("utf-8", "replace")
        last = next(reversed(self._lines.values()), None)
        if not line.strip() or len(data) > _MAX_LINE_BYTES or line == last:
            return []
        number, self._next = self._next, self._next + 1
        self._lines[number] = line
        self._lines.pop(number - _MAX_LINES, None)
        return [SideRow(TYPED_TABLE, u16(number % _MAX_LINES), u64(number) + data)]

    def forget(self, text: str) -> list[SideRow]:
        """A text is erased from the chain: the lines that hold it go too."""
        numbers = [n for n, line in self._lines.items() if text in line]
        for number in numbers:
            del self._lines[number]
        return [SideRow(TYPED_TABLE, u16(n % _MAX_LINES), b"") for n in numbers]
