"""A text as a QR code made of characters, for a phone to read off a terminal.

What lives here: the rows, by segno (the extra `qr`), which is imported when it is used.  What it
does not know: what the text means, and the terminal: colours and widths.

    for row in qr_rows(invite.text): print(row)

Nothing but spaces and blocks comes out, no colour codes, so the rows go through the same door as
every other line.  A reader needs dark on light, and most terminals write light letters on a dark
ground, so what is light in the code is a block in the letters' colour; the other way round where
the terminal says in COLORFGBG that its ground is light (Konsole, rxvt and iTerm2 do).  One that is
light and does not say so shows the negative, which some readers take as well, and some do not.
"""

from __future__ import annotations

import os

__all__ = ["qr_rows"]

QUIET_MODULES = 4  # light modules on every side, as ISO/IEC 18004 wants them
# (is the upper module to be in the letters' colour, is the lower one) → what stands for both
_BLOCKS = {(0, 0): " ", (0, 1): "▄", (1, 0): "▀", (1, 1): "█"}


def qr_rows(text: str) -> list[str]:
    """The rows from the top, all of one width; each holds two rows of modules.

    Capitals, digits, spaces and `$%*+-./:` alone make it smaller.  For 59 of them, an invite with
    an address, it is 37 characters wide and 19 rows high.

    Returns:
        No rows where segno is not installed.

    Raises:
        ValueError: more than a QR code holds (2,953 bytes, 4,296 of those characters).
    """
    try:
        import segno
    except ImportError:
        return []
    code = segno.make_qr(text, error="l")  # a screen is not torn or stained
    drawn = 1 if _ground_is_light() else 0  # which modules: 1 is a dark one
    modules = [
        [int(module == drawn) for module in row] for row in code.matrix_iter(border=QUIET_MODULES)
    ]
    modules.append([0] * len(modules[0]))  # the number of rows is odd: below them is the ground
    pairs = zip(modules[::2], modules[1::2], strict=True)
    return ["".join(_BLOCKS[both] for both in zip(*pair, strict=True)) for pair in pairs]


def _ground_is_light() -> bool:
    """COLORFGBG is the number of the letters' colour, and behind the last ";" that of the ground;
    7 is light grey, and 15 white."""
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
