"""Fan-out: one copy of a room's bytes, a cursor into it for each member, threads that send.

What lives here: a room's `Log` (frames in their one order, in segments), an `Intake` (what one
member sent, on its way into the log), a member's `Outlet` (what it has yet to receive: a range of
the log, and its own frames in their places between) and the `Senders` that flush many outlets on
several cores.  What it does not know: who members are, what a frame means (only its length and
whether it is a BROADCAST), when to flush, what to do about a laggard.

    log = Log()
    outlet = Outlet(socket); outlet.enter(log)
    intake = log.receive(other_socket, b"", 65_536)     # straight into the log
    while (frame := intake.next(512)) is not None: ...  # what is no BROADCAST
    log.share(receivers=100)
    senders.flush([outlet, ...])                        # one send to each of all that it lacks

Memory: a segment is reached only from its predecessor, from the log if it is the last one, and from
the cursors inside it.  So it is freed by reference counting the moment the last cursor leaves it:
what a room holds is what its slowest member lacks, and no member is let to lack more than the
relay's lag limit.

docs/FANOUT.md tells how it works and why; docs/adr/0005 what else was measured.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import sys
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from chat_wire import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    Malformed,
    TooLarge,
)

__all__ = [
    "SEGMENT_BYTES",
    "SENDFILE_RECEIVERS",
    "Intake",
    "Log",
    "Outlet",
    "Senders",
    "default_senders",
]

# A room's first segment; each next one is twice as large, up to the largest.  So a thousand rooms
# of two stay at 64 MiB, and a busy room does not change segments all the time.
FIRST_SEGMENT_BYTES = 65_536
SEGMENT_BYTES = 1_048_576
# A laggard that is cut off looks for the end of its frame from the last mark before it: far enough
# apart to be few, near enough for a room of five-byte frames.
MARK_BYTES = 4_096
# Buffers of that size kept for the next segments: zeroing a new one is 2 % of a small room's turn.
MAX_SPARE = 4
# A read takes no less than this where there is more to read: the end of a segment is left unused.
MIN_READ_BYTES = 16_384

# From here on one file for all and `sendfile` beat a copy for each (figures in docs/FANOUT.md).
SENDFILE_BYTES = 12_288
SENDFILE_RECEIVERS = 4

# Outlets that one more thread must have for itself before it is woken.  Waking it costs 2 to 20 µs,
# a send 1.4 to 6.5 µs (benchmarks/bench_senders.py), so that 64 sends are worth ten times as much.
OUTLETS_A_THREAD = 64

# Buffers of one sendmsg: Linux and macOS refuse more than 1024 (IOV_MAX).
MAX_PIECES = 512

# Small frames for a member that lags are joined up to about here: each alone takes many times its
# bytes, which are what its lag is counted in.
JOINED_BYTES = 4_096

# Windows has no sendmsg; there the pieces are joined, which costs one copy.
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")
# Linux alone has both.
_HAS_SENDFILE = hasattr(os, "memfd_create") and hasattr(os, "sendfile")

_LENGTH = struct.Struct(">I")
_HEADER = struct.Struct(">IB")  # length of type and body, type
_BROADCAST = int(FrameType.BROADCAST)
_MAX_BROADCAST_BYTES = 1 + MAX_PAYLOAD_BYTES


@lru_cache(maxsize=64)  # lengths in use at a time; a peer may choose any of 65,520
def _headers(length: int) -> struct.Struct:
    """Reads the header of a frame of `length` bytes, and steps over the rest of it."""
    return struct.Struct(f">IB{length - 1}x")


_spare: list[memoryview] = []  # what any thread puts there the relay's thread takes


class Segment:
    """A stretch of a log: whole frames, `used` of `len(view)` bytes; final once it has a `next`.

    Its first `shared` bytes are in the file `fd` too, at the same offsets.  No byte of a file is
    ever written twice: what `sendfile` was given stays in socket buffers by reference.  Memory may
    serve again, since `send` copies.
    """

    __slots__ = ("fd", "marks", "next", "shared", "start", "used", "view")

    def __init__(self, start: int, size: int) -> None:
        self.start = start  # bytes of the log before this segment
        fits = _spare and len(_spare[-1]) == size
        self.view = _spare.pop() if fits else memoryview(bytearray(size))
        self.used = 0
        self.marks = [0]  # some of the boundaries between its frames, in order
        self.shared = 0
        self.fd = -1  # none yet
        self.next: Segment | None = None

    def grow(self, used: int) -> None:
        """Whole frames were added, up to `used`."""
        self.used = used
        if used - self.marks[-1] >= MARK_BYTES:
            self.marks.append(used)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if len(self.view) == SEGMENT_BYTES and len(_spare) < MAX_SPARE:
            _spare.append(self.view)


class Log:
    """A room's bytes in their one order.  Nothing is allocated before the first frame."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = Segment(0, 0)

    @property
    def end(self) -> int:
        """Bytes ever appended: the position that the next frame will have."""
        return self.last.start + self.last.used

    def append(self, frames: bytes) -> None:
        """Appends whole frames.  What an `Intake` still had to take in is overwritten."""
        last = self._with_room_for(len(frames))
        end = last.used + len(frames)
        last.view[last.used : end] = frames
        last.grow(end)

    def receive(self, sock: socket.socket | None, rest: bytes, most: int) -> Intake:
        """Reads what a member sent, behind all that the log holds.

        Args:
            sock: of the member; does not block.  None reads nothing: `rest` alone.
            rest: what `Intake.rest` said of its last bytes.
            most: bytes to read.

        Raises:
            BlockingIOError: there is nothing to read.
            OSError, EOFError: the connection is over.
        """
        size = len(rest)
        last = self._with_room_for(size + min(most, MIN_READ_BYTES))
        at = last.used
        last.view[at : at + size] = rest
        if sock is not None:
            count = sock.recv_into(last.view[at + size : at + size + most])
            if not count:
                raise EOFError
            size += count
        return Intake(last, at + size, size - len(rest))

    def share(self, receivers: int) -> None:
        """Puts what is new into the segment's file, if so many receivers make that worth it.

        Where there is no file (another system, no descriptor left) every send copies instead.
        """
        last = self.last
        size = last.used - last.shared
        if not _HAS_SENDFILE or receivers < SENDFILE_RECEIVERS or size < SENDFILE_BYTES:
            return
        try:
            if last.fd < 0:
                last.fd = os.memfd_create("chainroom log")
            last.shared += os.pwrite(last.fd, last.view[last.shared : last.used], last.shared)
        except OSError:
            return

    def _with_room_for(self, size: int) -> Segment:
        last = self.last
        if last.used + size > len(last.view):
            double = min(SEGMENT_BYTES, max(FIRST_SEGMENT_BYTES, 2 * len(last.view)))
            last.next = self.last = Segment(last.start + last.used, max(double, size))
        return self.last


class Intake:
    """What one member sent, lying behind the end of its room's log.

    Its broadcasts become part of the log where they lie.  Any other frame is handed out, and the
    broadcasts behind it move up.  To be done with before anything else reads into that log.
    """

    __slots__ = ("_at", "_end", "_segment", "broadcasts", "received")

    def __init__(self, segment: Segment, end: int, received: int) -> None:
        self.received = received  # bytes, just now
        self.broadcasts = 0  # that became part of the log
        self._segment = segment
        self._at, self._end = segment.used, end

    def next(self, most: int) -> bytes | None:
        """Takes broadcasts in until there is another frame, and hands that out, header included.

        Returns:
            None where no whole frame is left, or `most` broadcasts were taken in.

        Raises:
            TooLarge: a length over its limit, seen before its body is there.
            Malformed: a length of zero.
        """
        segment, at, end = self._segment, self._at, self._end
        view, used, count = segment.view, segment.used, self.broadcasts
        length = kind = 0
        may_run = True
        while end - at > 4 and count < most:
            length, kind = _HEADER.unpack_from(view, at)
            if kind != _BROADCAST or not length or length > _MAX_BROADCAST_BYTES:
                break
            size = 4 + length
            if size > end - at:
                break
            frames = 1
            if may_run:
                # Messages are padded to few sizes, so many in a row have the same header.
                frames = min((end - at) // size, most - count)
                headers = [*_headers(length).iter_unpack(view[at : at + frames * size])]
                if headers.count((length, kind)) < frames:
                    may_run, frames = False, 1
            if used != at:  # up, behind a frame that was handed out
                view[used : used + frames * size] = view[at : at + frames * size]
            used += frames * size
            at += frames * size
            count += frames
        self._at, self.broadcasts = at, count
        segment.grow(used)
        if end - at < 4 or count >= most:
            return None
        (length,) = _LENGTH.unpack_from(view, at)
        if length > MAX_FRAME_BYTES:
            raise TooLarge(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")
        if length == 0:
            raise Malformed("a frame without a type")
        if length > _MAX_BROADCAST_BYTES and end - at > 4 and kind == _BROADCAST:
            raise TooLarge(f"a payload is at most {MAX_PAYLOAD_BYTES} bytes")
        after = at + 4 + length
        if after > end:
            return None
        self._at = after
        return bytes(view[at:after])

    def rest(self) -> bytes:
        """What was not taken in: the beginning of a frame, or more if it was left early."""
        return bytes(self._segment.view[self._at : self._end])


_NOWHERE = Log()  # where outlets of no room stand; nothing is ever appended


class _Own(NamedTuple):
    """Frames for one member, to be sent when its cursor stands at `position` of the log."""

    position: int
    data: bytes
    is_lag: bool


class Outlet:
    """What one member has yet to receive, and the socket it goes to.

    Invariant: own frames' positions never fall, none is behind the cursor, and all are boundaries
    between frames of the log.  Owned by the relay's thread, but for the time of a flush by the
    thread that flushes it.
    """

    __slots__ = (
        "_at",
        "_fd",
        "_log",
        "_own",
        "_own_lag",
        "_own_sent",
        "_segment",
        "is_blocked",
        "is_broken",
        "socket",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.is_blocked = False  # the kernel takes no more for now: not flushed until it does
        self.is_broken = False  # the connection is gone
        self._fd = sock.fileno()
        self._log = _NOWHERE
        self._segment, self._at = _NOWHERE.last, 0  # the cursor
        self._own: deque[_Own] | None = None  # None, not empty: an idle member has none
        self._own_sent = 0  # bytes of the first own frames that are sent already
        self._own_lag = 0  # bytes of own frames that count as lag

    def enter(self, log: Log) -> None:
        """Stands at the end of `log`: all that is appended from now on will be sent, after what
        was put before."""
        self._log = log
        self._segment, self._at = log.last, log.last.used
        if self._own is not None:
            self._own = deque(own._replace(position=log.end) for own in self._own)

    def put(self, frames: bytes, *, is_lag: bool = True) -> None:
        """Adds whole frames for this member alone, behind all that the log holds now.

        Args:
            is_lag: False for WELCOME, whose size is not the newcomer's fault.
        """
        own, position = self._own, self._log.end
        if own is None:
            own = self._own = deque()
        last = own[-1] if own else None
        if (
            last is not None
            and (last.position, last.is_lag) == (position, is_lag)
            and len(last.data) < JOINED_BYTES
        ):
            own[-1] = last._replace(data=last.data + frames)
        else:
            own.append(_Own(position, frames, is_lag))
        if is_lag:
            self._own_lag += len(frames)

    def end(self, final: bytes) -> None:
        """Leaves the log with a copy of all that it lacks now, and `final` behind that."""
        self._leave(b"".join(self._pieces(sys.maxsize)) + final)

    def cut(self, final: bytes) -> None:
        """Leaves the log with the rest of a frame that is half sent alone, and `final`."""
        if self._own and self._own_sent:
            data, at, start = memoryview(self._own[0].data), self._own_sent, 0
        else:
            data, at, marks = self._segment.view, self._at, self._segment.marks
            start = marks[bisect_right(marks, at) - 1]
        self._leave(bytes(data[at : _frame_end(data, at, start)]) + final)

    def close(self) -> None:
        """Closes the socket, and holds on to nothing."""
        self._leave(b"")
        self._fd = -1  # soon somebody else's
        self.socket.close()

    def _leave(self, last: bytes) -> None:
        self._log, self._segment, self._at = _NOWHERE, _NOWHERE.last, 0
        self._own = deque([_Own(0, last, True)]) if last else None
        self._own_sent, self._own_lag = 0, len(last)

    @property
    def is_empty(self) -> bool:
        """Nothing is left to send."""
        segment = self._segment
        return self._own is None and segment.next is None and self._at == segment.used

    @property
    def lag(self) -> int:
        """Bytes that this member has yet to receive, WELCOME not counted."""
        return self._log.end - self._segment.start - self._at + self._own_lag

    def flush(self) -> int:
        """Sends all that this member lacks, nearly always in one call, until the kernel blocks.

        Returns:
            Bytes that the kernel took.  `is_blocked` and `is_broken` say how it ended.
        """
        total = 0
        try:
            while True:
                segment, at = self._segment, self._at
                if self._own is not None:
                    size, sent = self._send_pieces()
                elif at < segment.shared - SENDFILE_BYTES:
                    size = segment.shared - at
                    sent = os.sendfile(self._fd, segment.fd, at, size)
                    self._at = at + sent
                elif at < segment.used:
                    size = segment.used - at
                    sent = self.socket.send(segment.view[at : segment.used])
                    self._at = at + sent
                elif segment.next is not None:
                    self._segment, self._at = segment.next, 0  # may free the one that was left
                    continue
                else:
                    return total
                total += sent
                if sent < size:
                    self.is_blocked = True
                    return total
        except (BlockingIOError, InterruptedError):
            self.is_blocked = True
        except OSError:
            self.is_broken = True
        return total

    def _send_pieces(self) -> tuple[int, int]:
        """One send of log and own frames in their order; (bytes offered, bytes taken)."""
        pieces = self._pieces(MAX_PIECES)
        if sys.platform != "win32" and _HAS_SENDMSG:
            sent = self.socket.sendmsg(pieces)
        else:
            sent = self.socket.send(b"".join(pieces))
        self._advance(sent)
        return sum(map(len, pieces)), sent

    def _pieces(self, most: int) -> list[memoryview]:
        """What is to be sent, in order; at most so many pieces of it."""
        pieces: list[memoryview] = []
        segment, at = self._segment, self._at
        skip = self._own_sent
        for own in self._own or ():
            while (here := segment.start + at) < own.position and len(pieces) < most:
                if at == segment.used:
                    assert segment.next is not None  # own.position is within the log
                    segment, at = segment.next, 0
                    continue
                stop = min(segment.used, at + own.position - here)
                pieces.append(segment.view[at:stop])
                at = stop
            if len(pieces) >= most:
                return pieces
            pieces.append(memoryview(own.data)[skip:])
            skip = 0
        rest: Segment | None = segment
        while rest is not None and len(pieces) < most:
            if at < rest.used:
                pieces.append(rest.view[at : rest.used])
            rest, at = rest.next, 0
        return pieces

    def _advance(self, sent: int) -> None:
        """Moves past `sent` bytes, in the order of `_pieces`."""
        own = self._own
        while True:
            segment, at = self._segment, self._at
            here = segment.start + at
            if own and own[0].position == here:
                left = len(own[0].data) - self._own_sent
                if sent < left:
                    self._own_sent += sent
                    self._own_lag -= sent if own[0].is_lag else 0
                    return
                sent -= left
                self._own_lag -= left if own[0].is_lag else 0
                self._own_sent = 0
                own.popleft()
                if not own:
                    own = self._own = None
            elif at == segment.used and segment.next is not None:
                self._segment, self._at = segment.next, 0  # may free the segment that was left
            elif sent == 0:
                return
            else:
                stop = own[0].position - segment.start if own else segment.used
                step = min(sent, segment.used - at, stop - at)
                self._at = at + step
                sent -= step


_O = TypeVar("_O", bound=Outlet)


def _frame_end(data: memoryview, at: int, start: int) -> int:
    """The first boundary between frames at or behind `at`; a frame of `data` begins at `start`."""
    end = start
    while end < at:
        end += 4 + int(_LENGTH.unpack_from(data, end)[0])
    return end


# --------------------------------------------------------------------------- threads


class Senders:
    """Threads that flush outlets side by side: the kernel's part of a send runs without the GIL.

    Fork and join: `flush` returns when all is sent, and until then nobody else touches an outlet or
    a log.  So nothing here locks.  A small flush is done by the calling thread alone.
    """

    def __init__(self, count: int) -> None:
        """`count` threads in all, the calling one among them."""
        self._work: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, list[Any]] | Exception] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"sender-{n}", daemon=True)
            for n in range(1, count)
        ]
        for thread in self._threads:
            thread.start()

    def flush(self, outlets: Sequence[_O]) -> tuple[int, list[_O]]:
        """Flushes each that is not blocked.

        Returns:
            bytes that the kernel took, and the outlets that want looking at: blocked or broken.
        """
        helpers = min(len(self._threads), len(outlets) // OUTLETS_A_THREAD - 1)
        if helpers <= 0:
            return _flush(outlets)
        for n in range(helpers):
            self._work.put(outlets[n :: helpers + 1])
        try:
            total, troubled = _flush(outlets[helpers :: helpers + 1])
        finally:  # whatever happens, nobody is at work any more and no result is left over
            results = [self._done.get() for _ in range(helpers)]
        for result in results:
            if isinstance(result, Exception):
                raise result
            total += result[0]
            troubled += result[1]
        return total, troubled

    def close(self) -> None:
        """Ends the threads."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (outlets := self._work.get()) is not None:
            try:
                self._done.put(_flush(outlets))
            except Exception as exc:  # a bug: the calling thread must hear of it, not wait
                self._done.put(exc)
            del outlets  # they may be gone long before there is work again


def _flush(outlets: Sequence[_O]) -> tuple[int, list[_O]]:
    """`Outlet.flush` for each; most lack the same range, which is worked out once."""
    total = 0
    troubled: list[_O] = []
    segment, at, size, by_file, data = _NOWHERE.last, 0, 0, False, memoryview(b"")
    for outlet in outlets:
        if not outlet.is_blocked:
            if outlet._own is None and outlet._segment.next is None:
                if outlet._segment is not segment or outlet._at != at:
                    segment, at = outlet._segment, outlet._at
                    data = segment.view[at : segment.used]
                    size = len(data)
                    by_file = segment.shared == segment.used and size >= SENDFILE_BYTES
                if not size:
                    continue
                try:
                    if by_file:
                        sent = os.sendfile(outlet._fd, segment.fd, at, size)
                    else:
                        sent = outlet.socket.send(data)
                    outlet._at = at + sent
                    total += sent
                    if sent == size:
                        continue
                    outlet.is_blocked = True
                except (BlockingIOError, InterruptedError):
                    outlet.is_blocked = True
                except OSError:
                    outlet.is_broken = True
            else:
                total += outlet.flush()
        if outlet.is_blocked or outlet.is_broken:
            troubled.append(outlet)
    return total, troubled


def default_senders() -> int:
    """As many as there are cores for this process, at most 8: beyond that the GIL is the limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores or 1)
