"""Real processes for the end-to-end tests: relays, clients in pipes, clients on a terminal.

Those whom they meet may be guests: the same program on threads of this process.

    with Relay() as relay, Client(relay, home, "alice") as alice:
        alice.types("hello")
        alice.waits_for_output("Mined 1 coin. New balance: 1")

Everything is awaited with a deadline, nothing is slept for, and whatever was started is ended.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO, Self

import pyte
import pytest
from profiles import checked_identity
from rsa_pool import pooled
from simulated_room import keystore, session_keys

import chat_client
import chat_server
from blockchain import Head
from chat_effects import Effect, Show, Transmit
from chat_engine import now
from chat_profile import Profile
from chat_screen import Streams
from chat_session import Session
from chat_settings import Settings, read_settings
from chat_terminal import Kind, Line, Plain
from chat_wire import MAX_FRAME_BYTES, Frame, FrameDecoder, FrameType, Ping, Pong
from crypto_utils import EncryptionManager, Identity, Keystore, RoomSecret

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 30.0  # generous: the machine may be busy; no test depends on it being short
_MOST_GUESTS = 4  # of one test
_session_numbers = count()


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """What a process of ours gets to see: no settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAINROOM_")}
    kept |= {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", "CHAINROOM_NO_ANNOUNCE": "1"}
    kept |= more
    if home is not None:
        kept["CHAINROOM_HOME"] = str(home)
    return kept


class _Stream:
    """Collects what a pipe says, on a thread, and lets others wait for it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._data = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        while data := os.read(self._pipe.fileno(), 65_536):
            with self._changed:
                self._data += data
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return self._data.decode()

    def more(self, at: int, within_s: float) -> bytes:
        """What stands behind byte `at`, once there is any; b"": the end, or it took longer."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._data) > at or self._ended, within_s)
            return bytes(self._data[at:])

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """The text of the `count`-th match.  AssertionError after the deadline or the end."""
        compiled = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while True:
                text = self._data.decode("utf-8", "replace")
                matches = list(compiled.finditer(text))
                if len(matches) >= count:
                    return matches[count - 1].group()
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{pattern!r} x {count} not in:\n{text}")
                self._changed.wait(left)

    def close(self) -> None:
        self._thread.join(DEADLINE_S)
        self._pipe.close()


class Process:
    """One process with pipes."""

    def __init__(self, arguments: list[str], env: dict[str, str], *prefix: str) -> None:
        """`prefix` is what runs it: `strace`, …."""
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=env,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = _Stream(self.process.stdout)
        self.err = _Stream(self.process.stderr)

    def types(self, *lines: str) -> None:
        """Lines into its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self.process.stdin.flush()

    def ends_input(self) -> None:
        """Closes its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def exit_code(self) -> int:
        """Waits for its end."""
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.out.close()
        self.err.close()
        if problem is not None:
            problem.add_note(f"{self}\n--- stdout\n{self.out.text}\n--- stderr\n{self.err.text}")
        assert "Traceback" not in self.err.text, self.err.text


class Relay(Process):
    """A relay on a free port of the loopback interface."""

    def __init__(self, *flags: str) -> None:
        arguments = ["chat_server.py", "--host", "127.0.0.1", "--port", "0", *flags]
        super().__init__(arguments, environment())
        listening = self.out.wait_for(r"^Listening on .*:\d+$")
        self.port = int(listening.rsplit(":", 1)[1])

    def stop(self) -> int:
        """As a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()


class RelayHere:
    """A relay on threads of this process: for those whom it only connects."""

    def __init__(self, port: int = 0) -> None:
        self._relay = chat_server.start_server("127.0.0.1", port)
        self.port = self._relay.address[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._relay.stop()


class _InPipes(ABC):
    """A client in pipes: what is typed, and awaited of it."""

    out: _Stream
    err: _Stream

    @abstractmethod
    def types(self, *lines: str) -> None:
        """Lines into its standard input."""

    @abstractmethod
    def ends_input(self) -> None:
        """Closes its standard input."""

    @abstractmethod
    def exit_code(self) -> int:
        """Waits for its end."""

    def joined(self) -> Self:
        """Waits until it is in the room."""
        self.out.wait_for(r"Connected! Type your messages below\.$")
        return self

    def joined_as_program(self) -> Self:
        """Waits until it is in the room, with --json."""
        self.out.wait_for('"type": "ready"')
        return self

    def shows(self, text: str, count: int = 1) -> None:
        """Waits for a message on its standard output."""
        self.out.wait_for(rf"^{text}$", count)

    def sees(self, name: str) -> None:
        """Waits until it was told that `name` is in the room."""
        self.err.wait_for(rf"{name}#\w+ joined|in the room: .*{name}#")

    def asks(self, command: str, answer: str) -> None:
        """Types a command until what it leads to, on standard error, matches."""
        deadline = time.monotonic() + DEADLINE_S
        while not re.search(answer, self.err.text, re.MULTILINE):
            assert time.monotonic() < deadline, self.err.text
            self.types(command)
            time.sleep(0.1)  # what it waits for is no line of its own

    def leaves(self) -> int:
        """Ends its input and waits for its end."""
        self.ends_input()
        return self.exit_code()


class Client(Process, _InPipes):
    """A client in pipes, joined to a relay."""

    def __init__(self, port: int, home: Path, name: str, *flags: str) -> None:
        arguments = ["chat_client.py", "--server", "127.0.0.1", "--port", str(port)]
        super().__init__([*arguments, "--name", name, *flags], environment(home))
        self.name = name


class Guest(_InPipes):
    """The same on threads of this process, with keys that are there already.

    Whom the client that a test is about talks with: the program too, from its flags to its exit
    code, in a twentieth of the time, for most of a start goes into making RSA keys.
    """

    def __init__(self, port: int, home: Path, name: str, *flags: str) -> None:
        self.name = name
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(chat_client, "EncryptionManager", _next_session_key)
        self._patch.setattr(Identity, "from_pkcs8", checked_identity)
        if not home.exists():
            settled(home)
        arguments = ["--server", "127.0.0.1", "--port", str(port), "--name", name, *flags]
        known = {"CHAINROOM_HOME": str(home), "CHAINROOM_NO_ANNOUNCE": "1"}
        stdin, self._stdin = _pipe()
        (out, stdout), (err, stderr) = _pipe(), _pipe()
        self.out, self.err = _Stream(out), _Stream(err)
        self._signals = chat_client._Signals()  # caught by nobody: it knows the engine
        self._code = -1
        streams = Streams(stdin, stdout, stderr)
        self._thread = threading.Thread(
            target=self._run, args=(read_settings(arguments, known), streams), name=f"guest {name}"
        )
        self._thread.start()

    def _run(self, settings: Settings, streams: Streams) -> None:
        terminal = Plain(streams, quiet=settings.quiet)
        try:
            self._code = chat_client._run(settings, terminal, self._signals)
        except chat_client._Exit as exc:
            if str(exc):
                terminal.show(Line(Kind.ERROR, str(exc)))
            self._code = exc.code
        finally:
            terminal.close()
            for stream in streams:
                assert stream is not None
                stream.close()

    def types(self, *lines: str) -> None:
        """Lines into its standard input."""
        rest = "".join(f"{line}\n" for line in lines).encode()
        while rest:
            rest = rest[self._stdin.write(rest) :]

    def ends_input(self) -> None:
        """Closes its standard input."""
        self._stdin.close()

    def exit_code(self) -> int:
        """Waits for its end."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self._code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        self.ends_input()
        deadline = time.monotonic() + DEADLINE_S
        while self._thread.is_alive():
            assert time.monotonic() < deadline
            if self._signals.engine is not None:
                self._signals.engine.leave(0.0)
            self._thread.join(0.05)
        self.out.close()
        self.err.close()
        self._patch.undo()
        if problem is not None:
            problem.add_note(f"{self}\n--- stdout\n{self.out.text}\n--- stderr\n{self.err.text}")


def settled(home: Path) -> Path:
    """Makes a profile there, with keys that are there already: other than those of homes of other
    names."""
    keys = keystore(f"guest in {home.name}").with_chain(bytes(16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keystore, "generate", lambda: keys)
        Profile.open(home).close()
    return home


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    """Its ends, for reading and for writing."""
    reads, writes = os.pipe()
    return io.FileIO(reads, "rb"), io.FileIO(writes, "wb")


def _next_session_key() -> EncryptionManager:
    """No two of those who are there at once have the same."""
    return session_keys("guest", next(_session_numbers) % _MOST_GUESTS)


def run(home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A client run to its end, with everything it said."""
    done = subprocess.run(
        [sys.executable, "chat_client.py", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(home),
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


class Terminal:
    """A client on a pseudo-terminal; `screen` is what a person would see."""

    def __init__(self, home: Path, *flags: str, columns: int = 100, **more: str) -> None:
        self.screen = pyte.HistoryScreen(columns, 40, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = bytearray()
        env = environment(home, TERM="xterm-256color", COLUMNS=str(columns), LINES="40", **more)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "chat_client.py", *flags], env)
        self._code: int | None = None

    def types(self, text: str) -> None:
        """Keys as they are pressed; Enter is \\r."""
        os.write(self._fd, text.encode())

    def shows(self, pattern: str) -> None:
        """Waits until a line on the screen matches."""
        compiled = re.compile(pattern)
        self.until(lambda: any(compiled.search(line) for line in self.lines()), pattern)

    def until(self, seen: Callable[[], bool], what: str) -> None:
        """Reads what is written to the terminal until `seen`."""
        deadline = time.monotonic() + DEADLINE_S
        while not seen():
            left = deadline - time.monotonic()
            assert left > 0, f"{what!r} not on the screen:\n" + "\n".join(self.lines())
            self._pump(left)

    def lines(self) -> list[str]:
        """All lines, those that scrolled away first."""
        gone = [
            "".join(line[column].data for column in range(self.screen.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return gone + [line.rstrip() for line in self.screen.display]

    def exit_code(self) -> int:
        """Waits for its end."""
        deadline = time.monotonic() + DEADLINE_S
        while self._pump(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, "\n".join(self.lines())
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _pump(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._fd], [], [], timeout_s)
        if not readable:
            return True
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # the other side is closed
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


class Wire:
    """A forwarder on the loopback interface that keeps every byte of every connection."""

    def __init__(self, port: int) -> None:
        self.streams: list[bytearray] = []  # two for each connection, one for each direction
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                captured = bytearray()
                self.streams.append(captured)
                thread = threading.Thread(target=self._forward, args=(source, target, captured))
                self._threads.append(thread)
                thread.start()

    @property
    def frames(self) -> list[Frame]:
        """Every whole frame that went either way."""
        found: list[Frame] = []
        for stream in self.streams:
            decoder = FrameDecoder(MAX_FRAME_BYTES)
            decoder.feed(bytes(stream))
            found += decoder
        return found

    def _forward(self, source: socket.socket, target: socket.socket, captured: bytearray) -> None:
        try:
            while data := source.recv(65_536):
                captured += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for sock in self._sockets:
            sock.close()


class Insider:
    """A member in this process, whose every key the test can get at: a session on a socket."""

    def __init__(self, port: int, name: str, keystore: Keystore | None = None) -> None:
        room = RoomSecret.open_room("lobby")
        self.keystore = keystore or pooled(Keystore.generate).with_chain(bytes(15) + b"\1")
        self.session = Session(self.keystore, room, name, pooled(EncryptionManager), now())
        self.messages: list[str] = []
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._decoder = FrameDecoder(MAX_FRAME_BYTES)
        self._perform(self.session.connected())
        self._until(lambda: self.session.joined)

    def shows(self, text: str) -> None:
        """Reads from the relay until this message was shown."""
        self._until(lambda: text in self.messages)

    def types(self, line: str) -> None:
        """Says it, or does it."""
        self._perform(self.session.typed(line, now()))

    def acks(self, head: Head, in_s: float = 0.0) -> None:
        """Sends the ack that is due, at a time that is still to come, with that head."""
        moment = now()
        self._perform(self.session.tick(moment._replace(s=moment.s + in_s), head))

    def reads(self, frames: list[Frame]) -> None:
        """Takes frames as if the relay had sent them."""
        for frame in frames:
            self._perform(self.session.receive(frame, now()))

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            data = self._sock.recv(65_536)
            assert data, "the relay closed the connection"
            self._decoder.feed(data)
            for frame in self._decoder:
                if frame.type == FrameType.PING:
                    self._sock.sendall(Pong(Ping.parse(frame.body).token).serialize())
                else:
                    self._perform(self.session.receive(frame, now()))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._sock.sendall(effect.frame)
            elif isinstance(effect, Show) and effect.line.kind is Kind.MESSAGE:
                self.messages.append(effect.line.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
