"""What the person is shown, as text: kinds of lines, escaping, times, where rows break.

What lives here: how a thing to show becomes text that cannot harm a terminal, nor pass for another
line.  What it does not know: terminals, threads, colours, who may say what.

    line = Line(Kind.MESSAGE, "hello", "bob#7f3a", sent_ms=1_795_611_802_000)
    line.render("hm")                       # "14:03 bob#7f3a: hello"
    wrapped(line.render("hm"), columns=80)  # the same in rows of at most 79 cells
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

__all__ = [
    "MIN_COLUMNS",
    "TIME_FORMATS",
    "Field",
    "Kind",
    "Line",
    "escape",
    "escape_name",
    "local_day",
    "local_time",
    "wrapped",
]

MAX_MARKS = 3  # combining marks on one base: Vietnamese and Thai need 2, pointed Hebrew 3
MIN_COLUMNS = 20  # in a narrower window an indent leaves too little room to read
INDENT = "    "  # before all rows of a line but the first, so that none of them passes for a line
TIME_FORMATS = ("off", "hm", "hms", "iso")

# Control characters but newline and tab; line separators; bidi controls; U+FEFF; lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


# ------------------------------------------------------------------------------------- escaping


def escape(text: str) -> str:
    r"""Make a text from outside safe to show: a message, an error, what a relay says.

    Newline and tab stay.  Other control characters (C0, DEL, C1), U+2028, U+2029, bidi controls,
    U+FEFF and lone surrogates become visible, like `\x1b` or `\u202e`; so do combining marks after
    the third on one base.  Lines after the first are indented by 4 spaces.  Takes any str and never
    raises.  Not made to be undone: `\x1b` may also be what somebody typed.

    Where a long line ends at the edge of a window is not decided here: see `wrapped`.
    """
    return _visible(text, name=False).replace("\n", "\n" + INDENT)


def escape_name(text: str) -> str:
    """Like `escape`, for nicks, room and file names: newline, tab and zero-width (Cf) show too."""
    return _visible(text, name=True).replace("\n", "\\x0a").replace("\t", "\\x09")


def _visible(text: str, *, name: bool) -> str:
    text = _UNSAFE.sub(lambda found: _spelled(found[0]), text)
    if text.isascii():
        return text
    shown = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        if category.startswith("M"):
            marks += 1
            shown.append(char if marks <= MAX_MARKS else _spelled(char))
        elif category == "Cf":  # zero-width, so no base: marks after it pile up on the one before
            shown.append(_spelled(char) if name else char)
        else:
            marks = 0
            shown.append(char)
    return "".join(shown)


def _spelled(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# ---------------------------------------------------------------------------------------- lines


class Kind(enum.Enum):
    """What a line is."""

    MESSAGE = "message"  # author: text
    NOTICE = "notice"  # -- text
    ALERT = "alert"  # !! text
    DIALOGUE = "dialogue"  # text: the exact strings, "Connected! Type your messages below."
    ERROR = "error"  # chainroom: text


_BEGINS = {Kind.NOTICE: "-- ", Kind.ALERT: "!! ", Kind.DIALOGUE: "", Kind.ERROR: "chainroom: "}

Field = str | int | bool | list[str]

_NO_FIELDS: Mapping[str, Field] = MappingProxyType({})


@dataclass(frozen=True)
class Line:
    """One thing to show, as it came; rendering escapes it.

    author: of a message, with its tag: `bob#7f3a` or `bob#7f3a (private)`.
    sent_ms: of a message, milliseconds since 1970 UTC.
    event, fields: what a program is told beside the text (docs/JSON.md); people never see them.
    is_answer: to what was typed, so that a quiet terminal shows it too.
    mention: a message that names us or is for us alone, so that the bell rings.
    """

    kind: Kind
    text: str
    author: str = ""
    sent_ms: int = 0
    event: str = ""
    fields: Mapping[str, Field] = field(default_factory=lambda: _NO_FIELDS, hash=False)
    mention: bool = False
    is_answer: bool = False

    def render(self, time_format: str = "off") -> str:
        """The escaped line, without a newline at its end.

        Args:
            time_format: one of TIME_FORMATS: how the time before a message looks.
        """
        if self.kind is not Kind.MESSAGE:
            return _BEGINS[self.kind] + escape(self.text)
        time_of_day = local_time(self.sent_ms, time_format)
        return f"{time_of_day}{' ' if time_of_day else ''}{self.name}: {escape(self.text)}"

    @property
    def name(self) -> str:
        """The author, escaped."""
        return escape_name(self.author)


# ---------------------------------------------------------------------------------------- times


def local_time(sent_ms: int, time_format: str) -> str:
    """`14:03`, `14:03:22` or `2026-11-25T14:03:22+01:00`; `??:??` for a time that no clock shows.

    Args:
        sent_ms: milliseconds since 1970 UTC; it comes from outside, so it may be any u64.
        time_format: one of TIME_FORMATS; "off" gives "".
    """
    if time_format == "off":
        return ""
    moment = _local(sent_ms)
    if moment is None:
        return "??:??"
    if time_format == "iso":
        return moment.isoformat(timespec="seconds")
    return moment.strftime("%H:%M:%S" if time_format == "hms" else "%H:%M")


def local_day(sent_ms: int) -> str:
    """`Mon 23 Nov 2026`; "" for a time that no clock shows.  Takes what `local_time` takes."""
    moment = _local(sent_ms)
    return moment.strftime("%a %d %b %Y") if moment else ""


def _local(sent_ms: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(sent_ms // 1000, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return None


# ----------------------------------------------------------------------------------------- rows

# What looks empty, and so can separate words: spaces, Hangul fillers, the empty Braille pattern …
_BLANK = (
    " \t\xa0\u115f\u1160\u1680\u180e\u2000-\u200a\u202f\u205f\u2800\u3000\u3164\uffa0\U0001d159"
)
# Two cells wide, and written without spaces: a row may end before each of them.
_WIDE = (
    "\u1100-\u115e\u2e80-\u2fff\u3001-\u3163\u3165-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f"
    "\uff01-\uff60\uffe0-\uffe6\U0001f300-\U0001faff\U00020000-\U0003fffd"
)
# What belongs to the character before it: marks, variation selectors, skin tones, what is joined.
_ATTACHED = f"[\u0300-\u036f\u3099\u309a\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]|\u200d[^{_BLANK}]"
_PIECE = re.compile(f"([{_BLANK}]+)|[{_WIDE}](?:{_ATTACHED})*|[^{_BLANK}{_WIDE}]+")


def wrapped(text: str, columns: int) -> str:
    """Break rendered lines before the terminal does, and indent what follows by 4 spaces.

    Who sends spaces until a word stands at the edge of the window would else have the terminal
    begin a row with that word: `!! KEY CHANGED`, or a time, a name and a colon.  So a row that
    begins without an indent begins a line, or goes on with a word that is longer than a row: such
    a word (an address, a code) is left whole, for copying, and has no blank in it, so that it
    cannot look like a notice.  Blanks where a row ends are dropped.

    Args:
        columns: of the window; under MIN_COLUMNS nothing is done.

    Known holes: a window that is made narrower later breaks rows itself; so does a terminal that
    gives two cells to what is of ambiguous width (Greek, Cyrillic), if it is set up that way.
    """
    if columns < MIN_COLUMNS:
        return text
    limit = columns - 1  # some consoles go to the next row when the last cell is filled
    return "\n".join(row for line in text.split("\n") for row in _rows(line, limit))


def _rows(line: str, limit: int) -> list[str]:
    if line.isascii() and len(line) <= limit and "\t" not in line:
        return [line]
    rows = []
    row = blanks = ""
    used = 0  # cells of the row
    for found in _PIECE.finditer(line):
        piece = found[0]
        if found[1]:
            blanks = piece
            continue
        needed = _cells(blanks) + _cells(piece)
        if used + needed > limit and (row or blanks):
            if row:
                rows.append(row)
            row, used = INDENT + piece, len(INDENT) + _cells(piece)
        else:
            row, used = row + blanks + piece, used + needed
        blanks = ""
    rows.append(row + blanks if used + _cells(blanks) <= limit else row)
    return rows


def _cells(text: str) -> int:
    """The most cells that a terminal gives to it; a tab counts 8."""
    if text.isascii():
        return len(text) + 7 * text.count("\t")
    return sum(map(_cells_of, text))


def _cells_of(char: str) -> int:
    if char == "\t":
        return 8
    if unicodedata.category(char) in ("Mn", "Me") and char != "\ufe0f":  # it makes others wide
        return 0
    is_wide = unicodedata.east_asian_width(char) in "WF" or char >= "\U0001f000"
    return 2 if is_wide else 1
