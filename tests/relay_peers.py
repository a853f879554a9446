"""What the relay's tests share: peers on real sockets, relays of both kinds, a relay as a process.

Nothing here sleeps to be right: a peer waits for the frame that must come, with a deadline of its
own, and `wait_until` is for what no frame tells.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

import chat_daemon
import chat_fanout
from chat_fanout import Segment
from chat_members import Limits
from chat_server import Relay, start_server
from chat_wire import (
    MAX_FRAME_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameDecoder,
    FrameType,
    Hello,
    Join,
    Member,
    Ping,
    Pong,
    Welcome,
    join_proof,
    u32,
)

DEADLINE_S = 20.0  # for anything to happen; the machine may be busy
ROOM, OTHER_ROOM = b"R" * 16, b"O" * 16
ROOT = Path(__file__).parent.parent

PARSERS: dict[int, Any] = {
    FrameType.HELLO: Hello,
    FrameType.WELCOME: Welcome,
    FrameType.ADD: Add,
    FrameType.DEL: Del,
    FrameType.BROADCAST: Broadcast,
    FrameType.DIRECT: Direct,
    FrameType.PING: Ping,
    FrameType.PONG: Pong,
    FrameType.ERROR: Error,
}


def wait_until(condition: Callable[[], bool]) -> None:
    """For what no frame tells: looks every 5 ms until the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def segments() -> int:
    """Of all logs in this process."""
    return sum(isinstance(thing, Segment) for thing in gc.get_objects())


def log_bytes() -> int:
    """Memory of all logs in this process, their files not counted."""
    return sum(len(thing.view) for thing in gc.get_objects() if isinstance(thing, Segment))


def log_files() -> int:
    """Of all logs in this process: memory that has a descriptor."""
    count = 0
    if sys.platform == "linux":
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # of the listing itself
                count += os.readlink(entry).startswith("/memfd:chainroom log")
    return count


def held() -> tuple[int, int]:
    """Segments and files of all logs, those of tests before this one gone."""
    gc.collect()
    return segments(), log_files()


def decoded(data: bytes) -> list[bytes]:
    """The frames of a stream that holds whole ones alone."""
    decoder = FrameDecoder(2**32)
    decoder.feed(data)
    frames = [found.raw for found in decoder]
    assert decoder.rest() == b"", "a torn frame"
    return frames


# --------------------------------------------------------------------------- a client


class Ended(Exception):
    """The relay closed the connection."""


class Peer:
    """A client in a few lines: sends at once, waits for what comes."""

    def __init__(
        self, address: tuple[str, int], source: str = "127.0.0.1", rcvbuf: int | None = None
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)
        if rcvbuf is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        try:
            self.socket.bind((source, 0))
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = chat_daemon.place(*self.socket.getsockname())  # as the relay's log has it
        self.session_id = b""
        self.answers_pings = True
        self._decoder = FrameDecoder(MAX_FRAME_BYTES)
        self._frames: Iterator[Frame] = iter(self._decoder)

    def raw(self) -> Frame:
        """The next frame, of whatever type."""
        while True:
            for found in self._frames:
                return found
            try:
                data = self.socket.recv(262_144)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Ended
            self._decoder.feed(data)
            self._frames = iter(self._decoder)

    def next(self) -> Any:
        """The next message that is no PING; PINGs are answered."""
        while True:
            found = self.raw()
            message = PARSERS[found.type].parse(found.body)
            if found.type != FrameType.PING:
                return message
            if self.answers_pings:
                with contextlib.suppress(OSError):
                    self.send(Pong(message.token))

    def expect(self, *messages: Any) -> None:
        """The next messages are these."""
        for message in messages:
            assert self.next() == message

    def expect_error(self, code: ErrorCode) -> None:
        """ERROR, then the end."""
        error = self.next()
        assert isinstance(error, Error), error
        assert error.code == code
        assert error.text.isprintable()
        assert error.text
        with pytest.raises(Ended):
            self.next()

    def expect_end(self) -> list[Any]:
        """All that comes before the end."""
        messages = []
        with contextlib.suppress(Ended):
            while True:
                messages.append(self.next())
        return messages

    def send(self, *messages: Any) -> None:
        """Messages, or bytes as they are."""
        self.socket.sendall(
            b"".join(m if isinstance(m, bytes) else m.serialize() for m in messages)
        )

    def join(
        self,
        room: bytes = ROOM,
        session: bytes | None = None,
        bundle: bytes = b"bundle",
        password: bytes = b"",
    ) -> None:
        """HELLO, JOIN; the answer is still to come."""
        hello = self.next()
        assert isinstance(hello, Hello)
        assert hello.needs_password == bool(password)
        self.session_id = session or os.urandom(16)
        proof = join_proof(password, hello.nonce, room, self.session_id, bundle)
        self.send(Join(room, self.session_id, proof if password else bytes(32), bundle))

    def welcome(self) -> list[Member]:
        """All of WELCOME."""
        members: list[Member] = []
        while True:
            page = self.next()
            assert isinstance(page, Welcome), page
            members += page.members
            if page.last:
                return members

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanishes with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --------------------------------------------------------------------------- relays


class Way(NamedTuple):
    """How a relay's bytes reach its members."""

    senders: int
    settings: dict[str, Any]  # of chat_fanout


# Every rule must hold whatever the system has and however large the room is.  "shared" takes the
# large room's way for the smallest: a file for all, several threads.  "plain" is what macOS does,
# "joined" what Windows does.
WAYS = {
    "plain": Way(1, {"_HAS_SENDFILE": False}),
    "shared": Way(
        3,
        {"SENDFILE_BYTES": 1, "SENDFILE_RECEIVERS": 1, "OUTLETS_A_THREAD": 1},
    ),
    "joined": Way(1, {"_HAS_SENDFILE": False, "_HAS_SENDMSG": False}),
}


def use(way: Way, patch: pytest.MonkeyPatch) -> None:
    """Sets what `chat_fanout` reads."""
    for name, value in way.settings.items():
        patch.setattr(chat_fanout, name, value)


class House:
    """Relays and peers of one test; at its end all are closed and no relay had a bug."""

    def __init__(self, way: str = "plain") -> None:
        self.relays: list[Relay] = []
        self.peers: list[Peer] = []
        self.lines: list[str] = []  # of the relays' logs
        self.way = WAYS[way]
        self._patch = pytest.MonkeyPatch()
        self._log = chat_daemon.EventLog(lambda line: self.lines.append(line.decode()))
        use(self.way, self._patch)

    def relay(
        self,
        password: bytes = b"",
        host: str = "127.0.0.1",
        log: chat_daemon.EventLog | None = None,
        status_interval_s: float = 0.0,
        **limits: Any,
    ) -> Relay:
        limits.setdefault("linger_s", 0.5)
        relay = start_server(
            host,
            0,
            password=password,
            limits=Limits(**limits),
            log=log or self._log,
            senders=self.way.senders,
            status_interval_s=status_interval_s,
        )
        self.relays.append(relay)
        return relay

    def peer(self, relay: Relay, **options: Any) -> Peer:
        self.peers.append(Peer(relay.address, **options))
        return self.peers[-1]

    def member(self, relay: Relay, **options: Any) -> Peer:
        """A peer that has joined; those that were there have yet to read its ADD."""
        bundle = options.pop("bundle", b"bundle")
        room, session = options.pop("room", ROOM), options.pop("session", None)
        peer = self.peer(relay, **options)
        peer.join(room, session, bundle)
        peer.welcome()
        return peer

    def members(self, relay: Relay, count: int) -> list[Peer]:
        """So many peers in one room, who have read each other's ADDs."""
        peers = [self.member(relay) for _ in range(count)]
        for n, peer in enumerate(peers):
            peer.expect(*(Add(later.session_id, b"bundle") for later in peers[n + 1 :]))
        return peers

    def status(self, relay: Relay) -> dict[str, float]:
        """Asks for a status line, and returns its numbers by the words before them."""
        count = self.count_of("status")
        relay.request_status()
        wait_until(lambda: self.count_of("status") > count)
        return numbers([line for line in self.lines if " status " in line][-1])

    def count_of(self, kind: str) -> int:
        """Lines of this kind in the log so far."""
        return sum(line.split(" ")[1] == kind for line in self.lines)

    def wait_for(self, text: str) -> None:
        """Until a line of the log has it."""
        wait_until(lambda: any(text in line for line in self.lines))

    def log(self) -> list[str]:
        """The lines so far without their times.  Ends the log."""
        self._log.close()
        return [line.split(" ", 1)[1].rstrip("\n") for line in self.lines]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        for relay in self.relays:
            relay.stop()
        self._log.close()
        self._patch.undo()
        assert [relay.failure for relay in self.relays] == [None] * len(self.relays)
        assert [line for line in self.lines if " bug " in line] == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def numbers(line: str) -> dict[str, float]:
    """The numbers of a status line by the words before them."""
    words = line.split(" status ")[1].split()
    found: dict[str, float] = {}
    name = ""
    for word in words:
        if re.fullmatch(r"[0-9.]+", word):
            found[name] = float(word)
            name = name.rpartition(" ")[0]  # "bytes/s in 1 out 2"
        else:
            name = f"{name} {word}".strip() if word in ("in", "out") else word
    return found


# --------------------------------------------------------------------------- a crowd


@cache
def numbered(number: int) -> bytes:
    """The BROADCAST that carries a number, and that no other looks like; 600 bytes on average."""
    return Broadcast(u32(number) * (1 + number % 301)).serialize()


class Ear:
    """What a member heard, as its crowd read it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.numbers = array("I")  # of the broadcasts, in order
        self.directs: list[tuple[int, bytes]] = []  # and behind how many broadcasts each came
        self.adds: dict[bytes, int] = {}  # behind how many broadcasts each session came
        self.dels: dict[bytes, int] = {}  # and left
        self.problem = ""  # what should not have come; the end, where the relay ended it
        self.is_over = False  # not read any more
        self.decoder = FrameDecoder(MAX_FRAME_BYTES)

    def take(self, data: bytes) -> None:
        """Bytes as they came."""
        self.decoder.feed(data)
        for found in self.decoder:
            if found.type == FrameType.BROADCAST:
                number = int.from_bytes(found.raw[5:9], "big")
                if found.raw != numbered(number):
                    self.problem = f"not what was sent: {found.raw[:40]!r}"
                self.numbers.append(number)
            elif found.type == FrameType.DIRECT:
                self.directs.append((len(self.numbers), Direct.parse(found.body).payload))
            elif found.type == FrameType.ADD:
                self.adds[Add.parse(found.body).session_id] = len(self.numbers)
            elif found.type == FrameType.DEL:
                self.dels[Del.parse(found.body).session_id] = len(self.numbers)
            elif found.type == FrameType.PING:
                self.peer.send(Pong(Ping.parse(found.body).token))
            else:
                self.problem = self.problem or repr(PARSERS[found.type].parse(found.body))


class Crowd:
    """Many members that one thread reads, as fast as they are sent to."""

    def __init__(self) -> None:
        self.progress = threading.Condition()  # notified when something was read
        self._selector = selectors.DefaultSelector()
        self._waker, self._wake = socket.socketpair()
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._requests: list[Callable[[], None]] = []
        self._is_over = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="crowd")
        self._thread.start()

    def add(self, peer: Peer) -> Ear:
        """From now on this thread alone reads the peer."""
        ear = Ear(peer)
        # What the peer's own decoder holds already came first.
        ear.take(peer._decoder.rest())
        self._ask(lambda: self._register(ear))
        return ear

    def drop(self, ear: Ear) -> None:
        """Closes the connection; the ear is final then."""
        self._ask(lambda: self._finish(ear))
        self.wait(lambda: ear.is_over)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until something that was read makes it true."""
        with self.progress:
            is_met = self.progress.wait_for(lambda: self._is_over or condition(), DEADLINE_S)
            assert is_met, f"not heard within {DEADLINE_S:g} s"
            assert not self._is_over, f"the crowd ended: {self._failure}"

    def close(self) -> None:
        def end() -> None:
            self._is_over = True

        self._ask(end)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._selector.close()
        self._waker.close()
        self._wake.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: Callable[[], None]) -> None:
        self._requests.append(request)
        self._wake.send(b"x")

    def _register(self, ear: Ear) -> None:
        self._selector.register(ear.peer.socket, selectors.EVENT_READ, ear)

    def _finish(self, ear: Ear) -> None:
        if not ear.is_over:
            ear.is_over = True
            self._selector.unregister(ear.peer.socket)
            ear.peer.close()

    def _read(self, ear: Ear) -> None:
        if ear.is_over:  # since the selector spoke
            return
        try:
            data = ear.peer.socket.recv(65_536)
        except OSError:
            data = b""
        ear.take(data)
        if not data:
            ear.problem = ear.problem or "the relay closed the connection"
            self._finish(ear)

    def _run(self) -> None:
        try:
            while not self._is_over:
                for key, _ in self._selector.select(DEADLINE_S):
                    if key.data is not None:
                        self._read(key.data)
                    else:
                        for _ in self._waker.recv(4096):
                            self._requests.pop(0)()
                with self.progress:
                    self.progress.notify_all()
        except Exception as exc:
            self._failure = repr(exc)
            raise
        finally:  # whatever happened, nobody shall wait
            with self.progress:
                self._is_over = True
                self.progress.notify_all()


def talk(crowd: Crowd, ears: list[Ear], numbers: range, window: int) -> None:
    """Says these numbers, each talker's congruent, and tells one member of every tenth alone.

    Args:
        ears: who stay; the one at `numbers.start` says them.
        numbers: from the talker's own, by the number of talkers.
        window: messages of all talkers that the slowest may have yet to hear.
    """
    talker = ears[numbers.start].peer
    for n, number in enumerate(numbers):
        if n % 8 == 0:
            heard = number - window
            crowd.wait(lambda: min(len(ear.numbers) for ear in ears) >= heard)  # noqa: B023
        talker.send(numbered(number))
        if n % 10 == 0:
            talker.send(Direct(ears[number % len(ears)].peer.session_id, u32(number)))


def judge(ears: list[Ear], guests: list[Ear], talkers: int, count: int) -> None:
    """All that was said was heard by all in one order, each direct frame in its place.

    Args:
        ears: who stayed from the first message to the last.
        guests: who came and left between.
        talkers: how many said it, see `talk`.
        count: messages in all.
    """
    order = ears[0].numbers
    assert sorted(order) == list(range(count)), "a frame was missed or repeated"
    for talker in range(talkers):
        own = [number for number in order if number % talkers == talker]
        assert own == sorted(own), "a sender's order was not kept"
    places = {number: place for place, number in enumerate(order)}
    told = [number for number in range(count) if number // talkers % 10 == 0]
    for n, ear in enumerate(ears):
        assert ear.problem == ""
        assert ear.numbers == order
        for guest in guests:
            session = guest.peer.session_id
            assert ear.adds[session] == ears[0].adds[session]
            assert ear.dels[session] == ears[0].dels[session]
        directs = {int.from_bytes(payload, "big"): place for place, payload in ear.directs}
        assert len(directs) == len(ear.directs)
        assert sorted(directs) == [number for number in told if number % len(ears) == n]
        for number, place in directs.items():
            # Behind the message before it, and before its sender's next.
            assert places[number] < place <= places.get(number + talkers, count)
    for guest in guests:
        assert guest.problem == ""
        start = ears[0].adds[guest.peer.session_id]
        assert guest.numbers == order[start : start + len(guest.numbers)]
        assert start + len(guest.numbers) <= ears[0].dels[guest.peer.session_id]


# --------------------------------------------------------------------------- the process


class Process:
    """`python chat_server.py` with these arguments."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(ROOT / "chat_server.py"), *arguments],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).rstrip("\n")

    def log_line(self, kind: str) -> str:
        """The next line of its log of this kind, whatever the format."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            words = json.loads(line)["event"] if line.startswith("{") else line.split(" ")[1]
            if words == kind:
                return str(line).rstrip("\n")
        raise AssertionError("the log ended")

    def address(self) -> tuple[str, int]:
        """Where it listens: its first two lines."""
        assert self.line() == "Server is running..."
        words = self.line().split(" ")
        assert words[:2] == ["Listening", "on"]
        host, _, port = words[2].rpartition(":")
        return host, int(port)

    def end(self) -> tuple[int, str, str]:
        """Exit code and what is left of both outputs."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out or "", err or ""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def processes() -> Iterator[Callable[..., Process]]:
    """Starts relays as processes; all have ended at the end."""
    started: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.close()
