"""A relay as a child process: what --host starts.

What lives here: starting `chat_server.py`, waiting until it listens, showing what it says, ending
it.  What it does not know: why, and who joins it.

    relay = HostedRelay(5555, ["--no-announce"], folder, terminal, says_addresses=True)
    relay.port()           # once it listens
    relay.stop()
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chat_terminal import Kind, Line, Terminal

__all__ = ["HostedRelay", "NotHosted"]

_STOP_S = 5.0


class NotHosted(Exception):
    """The relay did not start; the text is one line for the person."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class HostedRelay:
    """A child that ends when its stdin, which we hold, closes."""

    def __init__(
        self,
        port: int,
        flags: Sequence[str],
        folder: Path,
        terminal: Terminal,
        *,
        says_addresses: bool,
    ) -> None:
        """Starts it; whoever does must `stop` it.  Raises NotHosted.

        Args:
            flags: more of the relay's.
            folder: of the profile, which is ours alone while we run, and so is the log in it.
            terminal: where it says how others join it, and that it ended before it was stopped.
            says_addresses: whether it says the first of these.
        """
        command = [sys.executable, str(Path(__file__).with_name("chat_server.py"))]
        command += ["--port", str(port), "--exit-with-stdin", *flags]
        self._log_path = folder / "relay.log"
        self._terminal = terminal
        self._says_addresses = says_addresses
        self._is_wanted = True
        self._pump: threading.Thread | None = None
        try:
            log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own file, no shell
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,  # a Ctrl-C at our prompt is not for the relay
                )
            finally:
                os.close(log)
        except OSError as exc:
            raise NotHosted(1, f"the relay cannot be started: {exc}") from exc

    def port(self) -> int:
        """Waits until it listens.  Raises NotHosted."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("Listening on "):
                self._pump = threading.Thread(target=self._show_rest, name="relay", daemon=True)
                self._pump.start()
                return int(line.rsplit(":", 1)[1])
        self.stop()
        said = self._log_path.read_text("utf-8", "replace").strip().splitlines()
        reason = said[-1].removeprefix("chainroom-server: ") if said else "it said nothing"
        raise NotHosted(max(self._process.returncode, 0) or 3, f"the relay did not start: {reason}")

    def _show_rest(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if self._says_addresses:
                    self._terminal.show(Line(Kind.NOTICE, line.rstrip("\n")))
        if self._is_wanted:
            log = f"its log: {self._log_path}"
            text = f"the relay that --host started has ended: leave and start it again ({log})"
            self._terminal.show(Line(Kind.ALERT, text))

    def stop(self) -> None:
        """Closes the pipe; the relay tells its members and ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._is_wanted = False
        with suppress(OSError):  # it is gone already
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._pump is None:
            self._process.stdout.close()
        else:  # in vain where nobody reads what we print; it is a daemon
            self._pump.join(_STOP_S)
