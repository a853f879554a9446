"""One connection to a relay: bytes out, frames in, on a thread of its own.

What lives here: the socket, its out-buffer, answers to PING, and the notion of a dead connection.
What it does not know: what frames mean beyond PING, who sends them, what is done about a lost
connection.

    link = Link(connect("192.168.1.5", 5555), inbox)
    threading.Thread(target=link.run).start()
    link.send(frame)                       # any thread; never blocks

The thread hands `Received` and, at the end, `Lost` to the inbox; it stops reading while the inbox
holds more than 4 MiB, so that a flood waits in the relay and not in our memory.
"""

from __future__ import annotations

import queue
import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass

from chat_wire import (
    MAX_FRAME_BYTES,
    MAX_JOIN_FRAME_BYTES,
    PING_INTERVAL_S,
    Frame,
    FrameDecoder,
    FrameType,
    Ping,
    Pong,
    WireError,
)

__all__ = ["CannotConnect", "Inbox", "Link", "Lost", "Received", "connect"]

CONNECT_TIMEOUT_S = 5.0
# The relay pings after 15 s without a byte from us; three times that without a byte from it and
# the connection is dead, whatever TCP still believes.
SILENCE_S = 3 * PING_INTERVAL_S
MAX_INBOX_BYTES = 4 * 1024 * 1024
_RECV_BYTES = 262_144
_SEND_BYTES = 262_144
_FLUSH_S = 1.0


class CannotConnect(Exception):
    """No connection; the text says why and what to try."""


def connect(host: str, port: int) -> socket.socket:
    """A TCP connection within 5 s.  Raises CannotConnect."""
    try:
        sock = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
    except ConnectionRefusedError as exc:
        raise CannotConnect(
            f"nothing listens at {host} port {port}: is the relay running there?"
        ) from exc
    except socket.gaierror as exc:
        raise CannotConnect(f"{host} is no address that this computer can find") from exc
    except TimeoutError as exc:
        raise CannotConnect(
            f"no answer from {host} port {port} in {CONNECT_TIMEOUT_S:.0f} s: "
            "is it the right address, on the same network, with no firewall between?"
        ) from exc
    except (OSError, UnicodeError) as exc:
        raise CannotConnect(f"cannot reach {host} port {port}: {exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


@dataclass(frozen=True)
class Received:
    """Whole frames, in order; `size` is their bytes."""

    frames: list[Frame]
    size: int


@dataclass(frozen=True)
class Lost:
    """The connection is over; said once, last."""

    why: str


class Inbox:
    """What waits for the engine: from the link `Received` and `Lost`, from others what they put.

    `put_bytes` is written by the link's thread alone, `taken_bytes` by the engine's alone.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._put_bytes = 0
        self._taken_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Of frames."""
        return self._put_bytes - self._taken_bytes

    def put(self, item: object) -> None:
        """Any thread."""
        if isinstance(item, Received):
            self._put_bytes += item.size
        self._queue.put(item)

    def take(self, timeout_s: float, most: int) -> list[object]:
        """Up to `most` items, at least one unless `timeout_s` passes.  The engine's thread."""
        items: list[object] = []
        try:
            items.append(self._queue.get(timeout=timeout_s))
            while len(items) < most:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        self._taken_bytes += sum(i.size for i in items if isinstance(i, Received))
        return items


class Link:
    """One connection.  `run` is its thread; everything else may be called from any."""

    def __init__(self, sock: socket.socket, inbox: Inbox) -> None:
        self._sock = sock
        self._inbox = inbox
        self._out: deque[bytes] = deque()  # appended by any thread, taken by ours
        self._sending = b""  # what `send` has not taken yet of the pieces joined last
        # The answer to the newest PING: a relay that pings and does not read makes nothing grow.
        self._pong = b""
        self._put_bytes = 0  # written by the engine's thread alone
        self._sent_bytes = 0  # written by our thread alone
        self._closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    @property
    def waiting_bytes(self) -> int:
        """Of what was given to `send` and is not with the kernel yet."""
        return self._put_bytes - self._sent_bytes

    def send(self, frame: bytes) -> None:
        """Queues a frame; the engine's thread alone, which also bounds how much waits."""
        self._put_bytes += len(frame)
        self._out.append(frame)
        self.wake()

    def wake(self) -> None:
        """Makes the thread look again: something to send, or room in the inbox."""
        try:
            self._wake_in.send(b"\0")
        except OSError:  # full: it is awake; closed: it is gone
            return

    def close(self) -> None:
        """Sends what waits, for at most a second, then closes."""
        self._closing = True
        self.wake()

    def run(self) -> None:
        """Until the connection ends or `close` was called."""
        why = "closed"
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(self._wake_out, selectors.EVENT_READ)
            try:
                self._serve(selector)
            except (OSError, WireError) as exc:
                why = str(exc) or type(exc).__name__
        self._sock.close()
        self._wake_in.close()
        self._wake_out.close()
        self._inbox.put(Lost(why))

    def _serve(self, selector: selectors.BaseSelector) -> None:
        decoder = FrameDecoder(MAX_JOIN_FRAME_BYTES)
        heard_s = time.monotonic()
        close_by_s: float | None = None
        while True:
            reading = self._inbox.waiting_bytes < MAX_INBOX_BYTES
            events = (selectors.EVENT_READ if reading else 0) | (
                selectors.EVENT_WRITE if self._has_output() else 0
            )
            # Without any interest the socket is watched for writing, which is harmless: a selector
            # takes no empty mask.  A full inbox is left by `wake`.
            ready = self._select(selector, events)
            now_s = time.monotonic()
            if ready & selectors.EVENT_READ:
                heard_s = now_s
                self._read(decoder)
            elif reading and now_s - heard_s > SILENCE_S:
                raise OSError(f"no sign of the relay for {SILENCE_S} s")
            elif not reading:
                heard_s = now_s
            self._write()
            if self._closing:
                close_by_s = close_by_s or now_s + _FLUSH_S
                if not self._has_output() or now_s > close_by_s:
                    return

    def _select(self, selector: selectors.BaseSelector, events: int) -> int:
        if events:
            if self._sock in selector.get_map():
                selector.modify(self._sock, events)
            else:
                selector.register(self._sock, events)
        elif self._sock in selector.get_map():
            selector.unregister(self._sock)
        ready = 0
        for key, mask in selector.select(timeout=1.0):
            if key.fileobj is self._sock:
                ready = mask
            else:
                self._wake_out.recv(4096)
        return ready

    def _read(self, decoder: FrameDecoder) -> None:
        try:
            data = self._sock.recv(_RECV_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise OSError("the relay closed the connection")
        decoder.feed(data)
        frames: list[Frame] = []
        try:
            for frame in decoder:
                decoder.limit = MAX_FRAME_BYTES  # the relay said HELLO
                if frame.type == FrameType.PING:
                    self._pong = Pong(Ping.parse(frame.body).token).serialize()
                elif frame.type != FrameType.PONG:
                    frames.append(frame)
        finally:
            if frames:
                self._inbox.put(Received(frames, sum(len(f.raw) for f in frames)))

    def _has_output(self) -> bool:
        return bool(self._out or self._sending or self._pong)

    def _write(self) -> None:
        if not self._sending and self._has_output():
            pieces, size = [self._pong], 0
            self._sent_bytes -= len(self._pong)  # the engine counts what it sends; this is ours
            self._pong = b""
            while self._out and size < _SEND_BYTES:
                pieces.append(self._out.popleft())
                size += len(pieces[-1])
            self._sending = b"".join(pieces)
        if self._sending:
            try:
                sent = self._sock.send(self._sending)
            except BlockingIOError:
                return
            self._sending = self._sending[sent:]
            self._sent_bytes += sent
