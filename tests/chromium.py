"""Headless Chromium for the tests of what a browser must show, by its DevTools pipe.

    with Chromium() as browser:
        page = browser.open(path)
        png = page.screenshot(900, 700)
        assert page.complaints == []

No driver and no WebSocket library: `--remote-debugging-pipe` speaks JSON that ends in a zero byte,
on file descriptors 3 and 4.  A launch takes a second or two, so let a test do all it needs in one.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

DEADLINE_S = 60.0  # generous: the machine may be busy; no test depends on it being short
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # a container's root has none; it loads nothing but our own file
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small for it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_COMPLAINTS = (
    "Log.entryAdded",
    "Runtime.consoleAPICalled",
    "Runtime.exceptionThrown",
    "Audits.issueAdded",
    "Page.javascriptDialogOpening",
)
# Above 4 first, so that neither end is where the other one goes.
_MOVE_ENDS = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 5) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The program's path, if this machine has one."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Chromium:
    """One browser process, ended at the end of the `with`."""

    def __init__(self) -> None:
        program = find_chromium()
        assert program is not None, "look with find_chromium first"
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        chromium = (program, *_FLAGS, f"--user-data-dir={self._home.name}")
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _MOVE_ENDS, str(commands), str(answers), *chromium],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": self._home.name},
        )
        os.close(commands)
        os.close(answers)
        self._unread = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._to)  # it ends when its pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._home.cleanup()

    def call(self, method: str, session: str = "", **params: object) -> dict[str, Any]:
        """The answer to one command; what happens meanwhile is in `events`."""
        self._number += 1
        command: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self.events.append(message)
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    def wait_for(self, method: str) -> None:
        """Until such an event came."""
        while all(event["method"] != method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + DEADLINE_S
        while b"\0" not in self._unread:
            readable, _, _ = select.select([self._from], [], [], max(0, until - time.monotonic()))
            assert readable, "Chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium ended"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, path: Path) -> Page:
        """A page that has loaded the file, everything that belongs to it too."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The answer to one command to this tab."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression is here.  The page's policy does not count for it."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return done["result"]["value"]

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """The window's size in CSS pixels, and how many real ones each of them has."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, colour_scheme: str) -> None:
        """As if the person had chosen `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": colour_scheme}
        self.call("Emulation.setEmulatedMedia", media="", features=[feature])

    def screenshot(self) -> bytes:
        """PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """As it is printed on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, **size)["data"])

    @property
    def requests(self) -> list[str]:
        """URLs that were asked for since the page was opened, the page itself first."""
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """Whatever would be red or yellow in the console: errors, warnings, policy violations."""
        return [str(event) for event in self._browser.events if event["method"] in _COMPLAINTS]
