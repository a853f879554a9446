"""People at real terminals, each on a computer of his own, and all that is to be seen there.

    with Stage() as stage:
        alice = stage.open("alice")
        alice.types("python chat_client.py --host")
        alice.shows(r"in the room: nobody else yet")
        print(alice.transcript())

A window is a pseudo-terminal with a shell; what is typed there runs for real.  Where the system
lets us, all of it happens in a network of its own, in which this computer is 192.168.1.5 and port
5555 is free, and with a /home of its own; elsewhere in this computer's network and in a folder that
goes afterwards.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyte
from processes import DEADLINE_S, ROOT
from pseudo_terminal import Screen

__all__ = ["ADDRESS", "Cell", "Look", "Stage", "Window", "first_conversation", "with_placeholders"]

ADDRESS = "192.168.1.5"
_PROMPTS = ("$", ">")
# How long a person reads what came before it types, and looks at what it typed, in keys.
_READING_KEYS = 20
_LOOKING_KEYS = 8

_HOME = Path("/home")
# In the new network an adapter that has somebody at its other end; in the new /home nobody.
_SET_UP = f"""\
set -e
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add {ADDRESS}/24 dev eth0
ip link set eth0 up
ip link set eth1 up
mount -t tmpfs home {_HOME}
echo ready
exec cat
"""
_NEEDED = ("unshare", "nsenter", "ip", "mount")
# As `make install` leaves it: with prompt_toolkit, and without what only looks or finds better.
_WITHOUT = ("segno", "zeroconf")


class World:
    """The network and the homes of the processes that `prefix` starts: their own, if `is_own`.

    What holds them ends when we do.
    """

    def __init__(self) -> None:
        self.prefix: list[str] = []
        self._holder: subprocess.Popen[str] | None = None
        ours = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]  # must be there to be run
        if all(map(shutil.which, _NEEDED)) and not any(p.is_relative_to(_HOME) for p in ours):
            is_root = os.geteuid() == 0
            command = ["unshare", "--net", "--mount", *([] if is_root else ["--map-root-user"])]
            self._holder = subprocess.Popen(
                [*command, "sh", "-c", _SET_UP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() == "ready\n":
                self.prefix = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
                self.prefix += [] if is_root else ["--user", "--preserve-credentials"]

    @property
    def is_own(self) -> bool:
        """Whether addresses, ports and homes are what we made them."""
        return bool(self.prefix)

    def close(self) -> None:
        """Ends what holds it; whatever runs in it has to end before."""
        if self._holder is not None:
            assert self._holder.stdin is not None
            assert self._holder.stdout is not None
            self._holder.stdin.close()
            self._holder.wait(DEADLINE_S)
            self._holder.stdout.close()


@dataclass(frozen=True)
class Cell:
    """One character on a screen."""

    text: str
    colour: str = "default"  # pyte's name, or six hex digits
    is_bold: bool = False


@dataclass(frozen=True)
class Look:
    """What a window looked like from some moment on."""

    at_s: float  # since the stage was set
    window: Window
    rows: tuple[tuple[Cell, ...], ...]  # those that were scrolled off first
    scrolled_off: int  # so many of them


class Window:
    """A terminal, the shell in it, and the person before it.  `Stage.open` makes it."""

    def __init__(self, stage: Stage, person: str, home: Path, columns: int, rows: int) -> None:
        self.person = person
        self._stage = stage
        self.screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        python = Path(sys.executable).parent
        env = {
            "PATH": f"{python}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "USER": person,
            "LOGNAME": person,  # what a member is called who does not say
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PS1": "$ ",
            "COLUMNS": str(columns),
            "LINES": str(rows),
            "PYTHONPATH": str(stage.without),
        }
        make_home = f"rm -rf {home} && mkdir {home} && cd {ROOT} && exec sh -i"
        command = [*stage.world.prefix, "sh", "-c", make_home]
        self._pid, self.fd = pty.fork()
        if self._pid == 0:
            os.execvpe(command[0], command, env)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def types(self, line: str, *, pasted: str = "") -> None:
        """A line at the next prompt, key after key; `pasted` comes at once, before Enter."""
        self._stage.until(lambda: self.is_at_prompt, f"{self.person} has no prompt")
        self._stage.waits(_READING_KEYS * self._stage.key_s)
        for keys in [*(line if self._stage.key_s else [line]), pasted]:
            self._press(keys)
        # Seen before Enter is pressed, so that the next line waits for the next prompt.
        self._stage.until(lambda: not self.is_at_prompt, f"{line!r} is not echoed")
        self._stage.waits(_LOOKING_KEYS * self._stage.key_s)
        self._press("\r")

    def shows(self, pattern: str) -> re.Match[str]:
        """Waits until what is on the screen matches; words that were wrapped count as one."""
        compiled = re.compile(pattern)
        self._stage.until(
            lambda: compiled.search(self._flowing()) is not None, f"{pattern!r} is not shown"
        )
        found = compiled.search(self._flowing())
        assert found is not None
        return found

    @property
    def is_at_prompt(self) -> bool:
        """Whether an empty line waits for what is typed."""
        return self.screen.row(self.screen.cursor.y) in _PROMPTS

    def rows(self) -> list[str]:
        """All rows, those that were scrolled off first, without the empty ones at the end."""
        rows = self.screen.scrolled_off + [self.screen.row(y) for y in range(self.screen.lines)]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def transcript(self) -> str:
        """All rows, but for a prompt at which nothing was typed."""
        rows = self.rows()
        while rows and rows[-1] in _PROMPTS:
            rows.pop()
        return "\n".join(rows)

    def look(self, at_s: float) -> Look:
        """What it looks like now."""
        rows = [tuple(_cell(char) for char in row) for row in self.screen.cells()]
        return Look(at_s, self, tuple(rows), len(self.screen.scrolled_off))

    def close(self) -> None:
        """Ends the shell and what runs in it."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGHUP)
        os.close(self.fd)
        os.waitpid(self._pid, 0)

    def pump(self) -> None:
        """Takes what came.  Call it when there is something."""
        with suppress(OSError):  # the other side is closed
            self._stream.feed(os.read(self.fd, 65_536))

    def _flowing(self) -> str:
        return " ".join(row.strip() for row in self.rows())

    def _press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())
        self._stage.waits(self._stage.key_s)


class _Screen(Screen):
    """Keeps the cells too of what is scrolled off."""

    def __init__(self, columns: int, rows: int) -> None:
        self.gone: list[list[pyte.screens.Char]] = []
        super().__init__(columns, rows)

    def index(self) -> None:
        before = len(self.scrolled_off)
        top = [self.buffer[0][x] for x in range(self.columns)]
        super().index()
        if len(self.scrolled_off) > before:
            self.gone.append(top)

    def cells(self) -> list[list[pyte.screens.Char]]:
        """All rows, those that were scrolled off first."""
        shown = [[self.buffer[y][x] for x in range(self.columns)] for y in range(self.lines)]
        return self.gone + shown


def _cell(char: pyte.screens.Char) -> Cell:
    return Cell(char.data, char.fg, char.bold)


class Stage:
    """The windows, the world that they are in, and the clock.

    Args:
        columns, rows: of each window.
        key_s: how long a person takes for a key; 0: lines come at once.
        records: keep what was to be seen, in `looks`.
    """

    def __init__(
        self, columns: int = 200, rows: int = 100, *, key_s: float = 0.0, records: bool = False
    ) -> None:
        self.key_s = key_s
        self.looks: list[Look] = []
        self.windows: list[Window] = []
        self._size = (columns, rows)
        self._records = records
        self._began_s = time.monotonic()
        self._stack = ExitStack()
        self.world = World()
        self._stack.callback(self.world.close)
        folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        )
        self.homes = _HOME if self.world.is_own else folder
        self.without = folder / "without"
        self.without.mkdir()
        for module in _WITHOUT:
            (self.without / f"{module}.py").write_text("raise ImportError\n", "utf-8")

    @property
    def host(self) -> str:
        """The flag for a relay at the usual port, or at a free one where that may be busy."""
        return "--host" if self.world.is_own else "--host 0"

    def open(self, person: str) -> Window:
        """A terminal on a computer that nobody used before."""
        window = Window(self, person, self.homes / person, *self._size)
        self._stack.callback(window.close)
        self.windows.append(window)
        return window

    def until(self, seen: Callable[[], bool], problem: str) -> None:
        """Looks at all windows until that is so.  AssertionError after the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while not seen():
            left = deadline - time.monotonic()
            assert left > 0, "\n".join([problem, *(w.transcript() for w in self.windows)])
            self._look(left)

    def waits(self, seconds: float) -> None:
        """Looks at all windows for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._look(left)

    def _look(self, timeout_s: float) -> None:
        by_fd = {window.fd: window for window in self.windows}
        readable, _, _ = select.select(list(by_fd), [], [], timeout_s)
        for fd in readable:
            by_fd[fd].pump()
            if self._records:
                self.looks.append(by_fd[fd].look(time.monotonic() - self._began_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


# --------------------------------------------------------------------------- the README's story


def first_conversation(stage: Stage) -> dict[str, Window]:
    """What the README shows: invite, join, verify, a key that changes, accept, a private message.

    Returns:
        The windows, by what the README calls them.
    """
    alice = stage.open("alice")
    alice.types(f"python chat_client.py {stage.host} --new-room")
    code = "".join(alice.shows(r"--invite ([0-9A-Z-]{20,}( [0-9A-Z-]+)?) --")[1].split())
    bob = stage.open("bob")
    bob.types("python chat_client.py --invite ", pasted=code)
    bob.shows(r"in the room: alice#\w+")
    alice.shows(r"bob#\w+ joined")
    alice.types("hello bob")
    bob.shows(r"alice#\w+: hello bob")
    bob.types("hi alice")
    alice.shows(r"bob#\w+: hi alice")

    alice.types("/verify bob")
    number = alice.shows(r"(-- +(\d{5} ?){4} ?){3}")[0]
    bob.types("/verify alice")
    assert bob.shows(r"(-- +(\d{5} ?){4} ?){3}")[0] == number
    alice.types("/verify bob yes")
    alice.shows("bob is verified")
    bob.types("/verify alice yes")
    bob.shows("alice is verified")
    bob.types("exit")
    bob.shows(r"exit \$$")
    alice.shows("bob left")

    laptop = stage.open("bob")
    laptop.types("python chat_client.py --invite ", pasted=code)
    laptop.shows(r"in the room: alice#\w+")
    name = alice.shows(r"!! KEY CHANGED: (bob#\w+) ")[1]
    alice.types(f"/accept {name}")
    alice.shows(f"{name} is accepted")
    laptop.types("it is me, with a new laptop")
    alice.shows(f"{name}: it is me")
    alice.types(f"/msg {name} the door code is 4711")
    laptop.shows(r"alice#\w+ \(private\): the door code is 4711")
    laptop.types("exit")
    laptop.shows(r"exit \$$")
    alice.shows(f"{name} left")
    alice.types("exit")
    alice.types("python chat_client.py verify")
    alice.shows(r"OK: .* \$$")
    return {"alice": alice, "bob": bob, "bob's new laptop": laptop}


def with_placeholders(transcript: str) -> str:
    """A transcript without what differs from one run to the next; tags are counted, so that it
    still says who is who."""
    tags: dict[str, str] = {}
    transcript = re.sub(
        r"#[0-9a-f]{4,}\b", lambda m: tags.setdefault(m[0], f"#TAG{len(tags) + 1}"), transcript
    )
    for pattern, placeholder in (
        (r"\b\d\d:\d\d\b", "HH:MM"),
        (r"--invite [0-9A-Z-]{20,}", "--invite CODE"),
        (r"\b\d{5}\b", "DIGITS"),
        (r"--host 0\b", "--host"),
        (r"/\S+(?=/(alice|bob)/\S*chainroom)", "/home"),
        (r"OK: \d+ blocks", "OK: N blocks"),
    ):
        transcript = re.sub(pattern, placeholder, transcript, flags=re.ASCII)
    return transcript
