"""Makes docs/conversation.svg and the transcripts in the README from a real conversation.

    .venv/bin/python docs/make_recording.py

Alice's and bob's terminals, with real shells, clients and a relay, in a network of their own: so
this needs Linux, namespaces (as root, or where users may have them) and a checkout outside /home.
The conversation is held twice: with a person's typing in two small windows for the picture, and in
wide ones for the transcripts, which stand in the README between `<!-- transcript: NAME -->` and
`<!-- end -->`.  tests/test_first_impression.py holds that a fresh run says the same.

The picture is an SVG that style sheets animate, without scripts: each row of a window is there once
for each text that it had, and shown while it had that.  Where nothing is animated (a reader who
prefers less motion, a program that does not know how) the end of the conversation is to be seen.
"""

# ruff: noqa: E402 - the tests' folder must be on the path before anything of it is imported

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from two_terminals import Cell, Look, Stage, Window, first_conversation

PICTURE = ROOT / "docs" / "conversation.svg"
README = ROOT / "README.md"

COLUMNS, ROWS = 58, 24  # of a window
KEY_S = 0.045  # for a key
MOST_STILL_S = 1.5  # a longer wait is cut to this
END_S = 6.0  # the last look, before it begins anew

# In the picture's units; they are pixels at its full width.
CELL_W, CELL_H = 7.2, 16.0
PADDING, BAR, GAP = 12.0, 28.0, 12.0
WINDOW_W = COLUMNS * CELL_W + 2 * PADDING
WINDOW_H = BAR + ROWS * CELL_H + 2 * PADDING
WIDTH, HEIGHT = 2 * WINDOW_W + GAP, WINDOW_H

STYLE = """\
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
fill:#d8dee4;white-space:pre}
.b{font-weight:bold}.r{fill:#ff7b72;font-weight:bold}.t{fill:#9ea7b3;text-anchor:middle}
.h{opacity:0}
.a{animation:LENGTH step-end infinite}
@media(prefers-reduced-motion:reduce){.a{animation:none!important}}
"""
DESCRIPTION = (
    "Alice hosts a room and bob joins by its invite. They compare a safety number. Bob comes back "
    "with another key, alice is warned, and accepts it. The README has the words."
)
FRAME = (
    f'<rect width="{WINDOW_W:g}" height="{WINDOW_H:g}" rx="8" fill="#161b22" stroke="#6e7681"/>'
    f'<path d="M0 {BAR:g}H{WINDOW_W:g}" stroke="#6e7681"/>'
)


@dataclass(frozen=True)
class Shown:
    """Something that is to be seen in the picture from one moment to another."""

    svg: str
    from_s: float
    to_s: float


class Animation:
    """Times of the recording as times of the picture, and a style sheet for them."""

    def __init__(self, looks: list[Look]) -> None:
        self._times: dict[float, float] = {}
        at_s, before_s = 0.0, looks[0].at_s
        for look in looks:
            at_s += min(look.at_s - before_s, MOST_STILL_S)
            self._times[look.at_s] = at_s
            before_s = look.at_s
        self.length_s = at_s + END_S
        self.rules: list[str] = []
        self._names: dict[str, str] = {}

    def time(self, at_s: float) -> float:
        return self._times[at_s]

    def steps(self, steps: list[tuple[float, str]]) -> str:
        """A class whose elements have each declaration from that second on."""
        parts = [f"{round(100 * at_s / self.length_s, 2):g}%{{{what}}}" for at_s, what in steps]
        rule = "".join(parts)
        if rule not in self._names:
            self._names[rule] = name = f"k{len(self._names)}"
            self.rules.append(f"@keyframes {name}{{{rule}}}.{name}{{animation-name:{name}}}")
        return f"a {self._names[rule]}"


def row_of(cells: Iterable[Cell], y: float) -> str:
    """One row of a window; empty for blanks."""
    texts = [
        (look, "".join(cell.text for cell in run))
        for look, run in groupby(cells, lambda cell: (cell.colour, cell.is_bold))
    ]
    while texts and not texts[-1][1].strip():
        texts.pop()
    if not texts:
        return ""
    texts[-1] = (texts[-1][0], texts[-1][1].rstrip())
    made, column = [], 0
    for (colour, is_bold), text in texts:
        kind = ' class="r"' if colour == "red" else ' class="b"' if is_bold else ""
        x, width = column * CELL_W, len(text) * CELL_W
        # The grid stays, whichever font the reader has.
        place = f'x="{x:g}" y="{y:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
        if text.strip():
            made.append(f"<text{kind} {place}>{escape(text)}</text>")
        column += len(text)
    return "".join(made)


def rows_of(looks: list[Look], end_s: float, time: Animation) -> list[Shown]:
    """Each text that each row of a window had, and from when to when.

    Args:
        looks: of one window.
        end_s: when the window goes.
    """
    made = []
    for y in range(max(len(look.rows) for look in looks)):
        texts = [
            (row_of(look.rows[y] if y < len(look.rows) else (), (y + 1) * CELL_H - 4), look)
            for look in looks
        ]
        changes = [
            (svg, time.time(next(run)[1].at_s)) for svg, run in groupby(texts, lambda t: t[0])
        ]
        ends = [at_s for _, at_s in changes[1:]] + [end_s]
        made += [
            Shown(svg, from_s, to_s)
            for (svg, from_s), to_s in zip(changes, ends, strict=True)
            if svg and to_s - from_s > KEY_S / 2
        ]
    return made


def visible(shown: Shown, time: Animation) -> str:
    """A group that is seen in that time only."""
    is_last = shown.to_s >= time.length_s
    steps = [(0.0, "opacity:0")] if shown.from_s else []
    steps += [(shown.from_s, "opacity:1")] + ([] if is_last else [(shown.to_s, "opacity:0")])
    return f'<g class="{"" if is_last else "h "}{time.steps(steps)}">{shown.svg}</g>'


def window_of(window: Window, looks: list[Look], end_s: float, time: Animation) -> str:
    """What one window shows, scrolled as far as it is at each moment."""
    rows = "".join(visible(shown, time) for shown in rows_of(looks, end_s, time))
    offsets = [(time.time(look.at_s), look.scrolled_off) for look in looks]
    steps = [(at_s, f"transform:translateY({-gone * CELL_H:g}px)")
             for at_s, gone in [(0.0, 0), *offsets]]  # fmt: skip
    changes = [next(run) for _, run in groupby(steps, lambda step: step[1])]
    last = offsets[-1][1] * CELL_H
    body = f'width="{WINDOW_W - PADDING:g}" height="{ROWS * CELL_H:g}"'
    return (
        f'<svg x="{PADDING:g}" y="{BAR + PADDING:g}" {body}><g class="{time.steps(changes)}" '
        f'style="transform:translateY({-last:g}px)">{rows}</g></svg>'
    )


def picture(stage: Stage, windows: dict[str, Window]) -> str:
    """The first window on the left, the others on the right, one after the other."""
    time = Animation(stage.looks)
    names = {window: name for name, window in windows.items()}
    left, *right = windows.values()
    opened = {
        window: next(time.time(look.at_s) for look in stage.looks if look.window is window)
        for window in windows.values()
    }
    made = []
    for x, slot in ((0.0, [left]), (WINDOW_W + GAP, right)):
        inside = [FRAME]
        ends = [opened[window] for window in slot[1:]] + [time.length_s]
        for number, (window, end_s) in enumerate(zip(slot, ends, strict=True)):
            title = f'<text class="t" x="{WINDOW_W / 2:g}" y="18">{escape(names[window])}</text>'
            from_s = 0.0 if number == 0 else opened[window]
            inside.append(visible(Shown(title, from_s, end_s), time))
            looks = [look for look in stage.looks if look.window is window]
            inside.append(window_of(window, looks, end_s, time))
        made.append(
            f'<svg x="{x:g}" width="{WINDOW_W:g}" height="{WINDOW_H:g}">{"".join(inside)}</svg>'
        )
    style = STYLE.replace("LENGTH", f"{time.length_s:.2f}s") + "\n".join(time.rules)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {WIDTH + 2:g} {HEIGHT + 2:g}" '
        f'role="img" aria-labelledby="t d"><title id="t">A conversation on two terminals</title>'
        f'<desc id="d">{DESCRIPTION}</desc><style>{style}</style>{"".join(made)}</svg>\n'
    )


def with_transcripts(document: str, transcripts: dict[str, str]) -> str:
    """The document, with what is between its marks replaced."""
    for name, text in transcripts.items():
        begin = f"<!-- transcript: {name} -->\n"
        before, found, rest = document.partition(begin)
        _, end, after = rest.partition("<!-- end -->")
        if not found or not end:
            sys.exit(f"{README.name} lacks {begin.strip()} or the <!-- end --> after it")
        document = f"{before}{begin}```console\n{text}\n```\n{end}{after}"
    return document


def main() -> None:
    with Stage(COLUMNS, ROWS, key_s=KEY_S, records=True) as stage:
        if not stage.world.is_own:
            sys.exit("this needs Linux with namespaces, and a checkout outside /home")
        PICTURE.write_text(picture(stage, first_conversation(stage)), "utf-8")
    with Stage() as stage:
        windows = first_conversation(stage)
        transcripts = {name: window.transcript() for name, window in windows.items()}
    README.write_text(with_transcripts(README.read_text("utf-8"), transcripts), "utf-8")


if __name__ == "__main__":
    main()
