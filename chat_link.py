"""One connection to a relay: bytes out, frames in, on a thread of its own.

What lives here: the socket, its out-buffer, PINGs both ways, and the notion of a dead connection.
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
import select
import selectors
import socket
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chat_wire import (
    MAX_FRAME_BYTES,
    MAX_JOIN_FRAME_BYTES,
    PING_INTERVAL_S,
    SILENCE_S,
    Frame,
    FrameDecoder,
    FrameType,
    Hello,
    Ping,
    Pong,
    WireError,
)

__all__ = [
    "CannotConnect",
    "Inbox",
    "Link",
    "Lost",
    "Received",
    "connect",
    "fault",
    "wants_password",
]

CONNECT_TIMEOUT_S = 5.0  # for each address that a name stands for
# A relay speaks first and at once; what accepts and says nothing for so long is none, or is stuck.
HELLO_TIMEOUT_S = 15.0
MAX_INBOX_BYTES = 4 * 1024 * 1024
_RECV_BYTES = 262_144
_SEND_BYTES = 262_144
_FLUSH_S = 1.0
_LOOK_S = 1.0  # how often a silent connection is looked at


class CannotConnect(Exception):
    """No connection; the text says why and what to try."""


class _Over(Exception):
    """The connection is of no use any more; the text says why."""


def connect(host: str, port: int) -> socket.socket:
    """A TCP connection that does not block.  Raises CannotConnect."""
    try:
        sock = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S)
    except ConnectionRefusedError as exc:
        raise CannotConnect(
            f"nothing listens at {host} port {port}: is the relay running there?"
        ) from exc
    except TimeoutError as exc:
        raise CannotConnect(
            f"no answer from {host} port {port} in {CONNECT_TIMEOUT_S:.0f} s: "
            "is it the right address, on the same network, with no firewall between?"
        ) from exc
    except (socket.gaierror, ValueError) as exc:  # a name that IDNA refuses is a ValueError
        raise CannotConnect(
            f"{host} is no address that this computer can find: "
            "an address looks like 192.168.1.5; the relay prints its own"
        ) from exc
    except OSError as exc:
        raise CannotConnect(
            f"cannot reach {host} port {port}: {_reason(exc)}; "
            "is this computer on the relay's network?"
        ) from exc
    with suppress(OSError):  # macOS refuses it on a connection that is over; reading will tell
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def wants_password(sock: socket.socket) -> bool:
    """Whether the relay's HELLO, which is left for the link to read, asks for a password.

    False as well if none comes in time, or something else: whoever reads it says so.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    data = b""
    while (left_s := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([sock], [], [], left_s)
        try:
            seen = sock.recv(_RECV_BYTES, socket.MSG_PEEK) if readable else b""
            if len(seen) <= len(data):  # it is over, or nothing came since
                return False
            data, decoder = seen, FrameDecoder(MAX_FRAME_BYTES)
            decoder.feed(data)
            for frame in decoder:
                return frame.type == FrameType.HELLO and Hello.parse(frame.body).needs_password
        except (OSError, WireError):
            return False
    return False


def fault(exc: Exception) -> str:
    """One line about an exception that nobody expected: what it is, and where it came from."""
    places = traceback.extract_tb(exc.__traceback__)
    where = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "nowhere"
    return f"a fault in this program, please report it: {type(exc).__name__} at {where}: {exc}"


def _address(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname()[0])
    except (OSError, IndexError):  # it is over already, or is no TCP
        return ""


def _reason(exc: Exception) -> str:
    """What happened, without the number that Python puts before it."""
    strerror = exc.strerror if isinstance(exc, OSError) else None
    return strerror or str(exc) or type(exc).__name__


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
        # The answer to the newest PING, and a PING of ours: one of each at most, so that a relay
        # that pings and does not read makes nothing grow.
        self._pong = self._ping = b""
        self._put_bytes = 0  # written by the engine's thread alone
        self._sent_bytes = 0  # written by our thread alone
        self._closing = ""  # why, once it is to end
        self._deaf: OSError | None = None  # why the relay takes nothing more from us
        self._answered_s = 0.0  # when a PONG came
        self._address = _address(sock)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    @property
    def waiting_bytes(self) -> int:
        """Of what was given to `send` and is not with the kernel yet."""
        return self._put_bytes - self._sent_bytes

    @property
    def address(self) -> str:
        """The own one that it leads from."""
        return self._address

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

    def close(self, why: str = "closed") -> None:
        """Sends what waits, for at most a second, then closes."""
        self._closing = why
        self.wake()

    def run(self) -> None:
        """Until the connection ends or `close` was called."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_out, selectors.EVENT_READ)
                why = self._serve(selector)
        except (_Over, OSError) as exc:
            why = _reason(exc)
        except Exception as exc:
            why = fault(exc)
        finally:  # whatever happened, the engine hears that it is alone
            self._sock.close()
            self._wake_in.close()
            self._wake_out.close()
            self._inbox.put(Lost(why))

    def _serve(self, selector: selectors.BaseSelector) -> str:
        """Returns why it was closed by us; any other end is an exception.

        A relay is dead, whatever TCP still believes, without a byte from it for some time, and
        without an answer to our PINGs: bytes alone are not enough, since a frame whose length was
        altered on its way swallows all that comes behind it, at either end.
        """
        decoder = FrameDecoder(MAX_JOIN_FRAME_BYTES)
        heard_s = pinged_s = self._answered_s = time.monotonic()
        patience_s = HELLO_TIMEOUT_S
        close_by_s: float | None = None
        while True:
            reading = self._inbox.waiting_bytes < MAX_INBOX_BYTES
            wait_s = _LOOK_S if close_by_s is None else max(0.0, close_by_s - time.monotonic())
            if reading:  # what is over is over then, and not at the next look
                over_s = min(heard_s, self._answered_s) + patience_s
                wait_s = min(wait_s, max(0.0, over_s - time.monotonic()))
            ready = self._select(selector, reading, 0.0 if self._deaf and reading else wait_s)
            now_s = time.monotonic()
            if ready & selectors.EVENT_READ:
                heard_s, patience_s = now_s, SILENCE_S
                self._read(decoder)
            elif not reading:
                heard_s = self._answered_s = now_s  # its silence is our doing
            elif self._deaf is not None:
                raise self._deaf  # and all that it had said is read
            elif now_s >= heard_s + patience_s:
                raise _Over(f"no sign of a relay there for {patience_s:.0f} s")
            if now_s >= pinged_s + PING_INTERVAL_S:
                pinged_s, self._ping = now_s, Ping(int(now_s)).serialize()
            self._write()
            if self._sending:  # it takes no more now, and its answer is behind that
                self._answered_s = now_s
            elif now_s >= self._answered_s + patience_s:
                raise _Over(f"the relay did not answer for {patience_s:.0f} s")
            if self._closing:
                close_by_s = close_by_s or now_s + _FLUSH_S
                if not self._has_output() or now_s >= close_by_s:
                    return self._closing

    def _select(self, selector: selectors.BaseSelector, reading: bool, wait_s: float) -> int:
        """Waits until something can be done; what can be, of what we are interested in.

        With a full inbox and nothing to send the socket is not watched at all, since a selector
        takes no empty mask; `wake` ends the wait then.
        """
        events = selectors.EVENT_READ if reading else 0
        events |= selectors.EVENT_WRITE if self._has_output() else 0
        is_watched = self._sock in selector.get_map()
        if events and is_watched:
            selector.modify(self._sock, events)
        elif events:
            selector.register(self._sock, events)
        elif is_watched:
            selector.unregister(self._sock)
        ready = 0
        for key, mask in selector.select(wait_s):
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
            raise _Over("the relay closed the connection")
        decoder.feed(data)
        frames: list[Frame] = []
        try:
            for frame in decoder:
                decoder.limit = MAX_FRAME_BYTES  # the relay said HELLO
                if frame.type == FrameType.PING:
                    self._pong = Pong(Ping.parse(frame.body).token).serialize()
                elif frame.type == FrameType.PONG:
                    self._answered_s = time.monotonic()
                else:
                    frames.append(frame)
        except WireError as exc:
            is_relay = decoder.limit == MAX_FRAME_BYTES
            what = "the relay broke the protocol" if is_relay else "what answers there is no relay"
            raise _Over(f"{what}: {exc}") from exc
        finally:
            if frames:
                self._inbox.put(Received(frames, sum(len(f.raw) for f in frames)))

    def _has_output(self) -> bool:
        return self._deaf is None and bool(self._out or self._sending or self._pong or self._ping)

    def _write(self) -> None:
        if not self._has_output():
            return
        if not self._sending:
            pieces, size = [self._pong, self._ping], 0
            # The engine counts what it sends; this is ours.
            self._sent_bytes -= len(self._pong) + len(self._ping)
            self._pong = self._ping = b""
            while self._out and size < _SEND_BYTES:
                pieces.append(self._out.popleft())
                size += len(pieces[-1])
            self._sending = b"".join(pieces)
        try:
            sent = self._sock.send(self._sending)
        except BlockingIOError:
            return
        except OSError as exc:
            # What it said before it went, its reason among it, may be unread still.
            self._deaf = exc
            return
        self._sending = self._sending[sent:]
        self._sent_bytes += sent
