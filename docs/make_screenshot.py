"""Makes docs/history.png, the picture of an exported history in the README.

    .venv/bin/python docs/make_screenshot.py [PAGE.html]

Three members in a simulated room talk about a pump; alice's chain is a real one, its proof is made
and checked, and headless Chromium shows the page.  With an argument the page itself is kept too.
"""

# ruff: noqa: E402 - the project's folders must be on the path before anything of it is imported

from __future__ import annotations

import sys
import tempfile
from datetime import datetime
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

from chromium import Chromium
from recorded_member import RecordedMember
from simulated_room import SimulatedRoom

from chat_effects import Moment
from chat_export import as_html
from chat_proof import check_proof, make_proof

WIDTH, HEIGHT = 900, 1270

CONVERSATION = [
    ("2026-11-23T21:52:10", "alice", "line 3 reports a pressure drop, I am opening an incident"),
    ("2026-11-23T21:58:02", "carol", "valve 7 is closed by hand. 2.1 bar, falling slowly"),
    ("2026-11-23T21:59:47", "carol", "/msg alice the interlock was bypassed when I got here"),
    ("2026-11-24T06:10:40", "bob", "pump is running again: 4.0 bar, steady since 05:30"),
    (
        "2026-11-24T06:12:05",
        "carol",
        "logged. the seal of the bypass switch is in the evidence box",
    ),
    ("2026-11-24T06:20:59", "alice", "thank you both. closing, report at noon"),
]


def milliseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso + "+00:00").timestamp() * 1000)


def talk(path: Path) -> bytes:
    """The conversation; returns the proof that alice's chain, in a new file there, gives."""
    room = SimulatedRoom()
    room.now = Moment(room.now.s, milliseconds("2026-11-23T21:50:00"))
    with RecordedMember(room, "alice", path) as alice:
        room.connect(alice)
        members = {"alice": alice, "bob": room.join("bob"), "carol": room.join("carol")}
        room.passes(5)
        for at, name, line in CONVERSATION:
            room.now = Moment(room.now.s, milliseconds(at))
            members[name].types(line)
            room.passes(5)
        return make_proof(alice.file, nick="alice")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = check_proof(talk(Path(folder) / "chain.db"))
        assert report.exit_code == 0, report.problem
        page = Path(sys.argv[1] if sys.argv[1:] else f"{folder}/history.html")
        page.write_bytes(as_html(report).encode())
        with Chromium() as browser:
            tab = browser.open(page)
            tab.prefer("light")
            tab.resize(WIDTH, HEIGHT)
            (DOCS / "history.png").write_bytes(tab.screenshot())


if __name__ == "__main__":
    main()
