"""chat_qr: the rows are the code that segno makes, light and dark as a reader needs them.

Read back by zbar 0.23.92 and zxing-cpp 3.1.1 by hand on 2026-11-25, from pictures of the rows as a
terminal draws them: light letters on a dark ground both; the negative zxing alone.
"""

from __future__ import annotations

import sys

import pytest

from chat_invite import Invite
from chat_qr import QUIET_MODULES, qr_rows
from crypto_utils import RoomSecret, safety_number

INVITE = Invite(RoomSecret(bytes(range(16))), "192.168.1.5").text
TEXTS = [INVITE, safety_number(bytes(32), b"\1" * 32), "bob#7f3a: grüße", "x", "x" * 2900]
# What a block draws above and below in the letters' colour.
DRAWN = {" ": (0, 0), "▄": (0, 1), "▀": (1, 0), "█": (1, 1)}

LIGHT_GROUNDS = ["0;15", "0;7", "0;default;15", "15"]
DARK_GROUNDS = ["15;0", "7;8", "15;default", "15;default;0", "", "nonsense", "0;115"]


@pytest.fixture(autouse=True)
def _dark_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLORFGBG", raising=False)


def drawn(rows: list[str]) -> list[list[int]]:
    """Rows of modules: 1 is in the letters' colour."""
    halves = [[[DRAWN[char][half] for char in row] for half in (0, 1)] for row in rows]
    return [row for pair in halves for row in pair]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:20])
def test_the_light_modules_are_drawn_and_a_quiet_zone_around_them(text: str) -> None:
    segno = pytest.importorskip("segno")
    modules = [list(row) for row in segno.make_qr(text, error="l").matrix]
    size, rows = len(modules) + 2 * QUIET_MODULES, drawn(qr_rows(text))
    assert {len(row) for row in rows} == {size}
    assert rows.pop() == [0] * size, "half a row too many is the ground"
    assert len(rows) == size
    inner = range(QUIET_MODULES, size - QUIET_MODULES)
    for y, row in enumerate(rows):
        for x, is_drawn in enumerate(row):
            is_dark = x in inner and y in inner and modules[y - inner.start][x - inner.start]
            assert is_drawn == (not is_dark)


def test_on_a_light_ground_the_dark_modules_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segno")
    on_dark = drawn(qr_rows(INVITE))[:-1]
    for value in LIGHT_GROUNDS:
        monkeypatch.setenv("COLORFGBG", value)
        on_light = drawn(qr_rows(INVITE))
        assert on_light.pop() == [0] * len(on_light), "the ground below stays as it is"
        assert on_light == [[1 - module for module in row] for row in on_dark]
    for value in DARK_GROUNDS:
        monkeypatch.setenv("COLORFGBG", value)
        assert drawn(qr_rows(INVITE))[:-1] == on_dark


def test_an_invite_fits_a_small_terminal() -> None:
    pytest.importorskip("segno")
    for invite, width, height in (
        (Invite(RoomSecret(bytes(16))), 33, 17),
        (Invite(RoomSecret(bytes(16)), "192.168.1.5"), 37, 19),
        (Invite(RoomSecret(bytes(16)), "192.168.1.5", 6000), 37, 19),
        (Invite(RoomSecret(bytes(16)), "fd00::1", 6000), 41, 21),
    ):
        rows = qr_rows(invite.text)
        assert (len(rows[0]), len(rows)) == (width, height)


def test_without_segno_there_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    assert qr_rows(INVITE) == []


def test_more_than_a_code_holds_is_refused() -> None:
    pytest.importorskip("segno")
    with pytest.raises(ValueError, match="too large"):
        qr_rows("x" * 2954)
