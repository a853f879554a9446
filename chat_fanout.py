"""Fan-out: one copy of a room's bytes, and for each member a cursor into it.

What lives here: a room's `Log` (frames appended once, in segments), and a member's `Outlet` (what
that member has yet to receive: a range of the log, and its own frames in their places between).
What it does not know: who members are, what a frame means (only that it begins with its length as
u32), when to flush, what to do about a laggard.

    log = Log()
    outlet = Outlet(); outlet.enter(log)
    log.append(frame); outlet.put(frame_for_this_member_alone)
    outlet.flush(socket)          # one send of everything it lacks

Memory: a segment is reached only from its predecessor, from the log if it is the last one, and from
the cursors inside it.  So it is freed by reference counting the moment the last cursor leaves it:
what a room holds is what its slowest member lacks, and no member is let to lack more than the
relay's lag limit.  A sent range is never written again, so that ranges can be handed to the kernel
later (memfd and sendfile): only `Segment` and `Outlet.flush` change for it.

Owned by the relay's thread; nothing here locks.  docs/PROTOCOL.md, section 2; DESIGN.md, section 7.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from typing import NamedTuple

__all__ = ["SEGMENT_BYTES", "Log", "Outlet"]

# Twice the longest frame, so that at most half a segment is left unused when a frame does not fit;
# small enough that a thousand rooms of two stay at 128 MiB.
SEGMENT_BYTES = 131_072

# Buffers of one sendmsg: Linux and macOS refuse more than 1024 (IOV_MAX).
MAX_PIECES = 512

# Windows has no sendmsg; there the pieces are joined, which costs one copy.
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")

_LENGTH = struct.Struct(">I")


class Segment:
    """A stretch of a log: whole frames, `used` of `len(view)` bytes; final once it has a `next`."""

    __slots__ = ("next", "start", "used", "view")

    def __init__(self, start: int, size: int) -> None:
        self.start = start  # bytes of the log before this segment
        self.view = memoryview(bytearray(size))
        self.used = 0
        self.next: Segment | None = None


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
        """Appends whole frames; they are never split between segments."""
        last = self.last
        end = last.used + len(frames)
        if end > len(last.view):
            fresh = Segment(last.start + last.used, max(SEGMENT_BYTES, len(frames)))
            last.next = self.last = fresh
            last, end = fresh, len(frames)
        last.view[last.used : end] = frames
        last.used = end


_NOWHERE = Log()  # where outlets of no room stand; nothing is ever appended


class _Own(NamedTuple):
    """Frames for one member, to be sent when its cursor stands at `position` of the log."""

    position: int
    data: bytes
    is_lag: bool


class Outlet:
    """What one member has yet to receive.  Invariant: own frames' positions never fall, none is
    behind the cursor, and all are boundaries between frames of the log."""

    __slots__ = ("_at", "_log", "_own", "_own_lag", "_own_sent", "_segment")

    def __init__(self) -> None:
        self._log = _NOWHERE
        self._segment, self._at = _NOWHERE.last, 0  # the cursor
        self._own: deque[_Own] = deque()
        self._own_sent = 0  # bytes of the first own frames that are sent already
        self._own_lag = 0  # bytes of own frames that count as lag

    def enter(self, log: Log) -> None:
        """Stands at the end of `log`: all that is appended from now on will be sent, after what
        was put before."""
        self._log = log
        self._segment, self._at = log.last, log.last.used
        self._own = deque(own._replace(position=log.end) for own in self._own)

    def put(self, frames: bytes, *, is_lag: bool = True) -> None:
        """Adds whole frames for this member alone, behind all that the log holds now.

        Args:
            is_lag: False for WELCOME, whose size is not the newcomer's fault.
        """
        self._own.append(_Own(self._log.end, frames, is_lag))
        if is_lag:
            self._own_lag += len(frames)

    def end(self, final: bytes) -> None:
        """Leaves the log with a copy of all that it lacks now, and `final` behind that."""
        rest = b"".join(self._pieces(sys.maxsize))
        self._leave(rest + final)

    def cut(self, final: bytes) -> None:
        """Leaves the log with the rest of a frame that is half sent alone, and `final`."""
        if self._own_sent:
            data, at = memoryview(self._own[0].data), self._own_sent
        else:
            data, at = self._segment.view, self._at
        self._leave(bytes(data[at : _frame_end(data, at)]) + final)

    def _leave(self, last: bytes) -> None:
        self._log, self._segment, self._at = _NOWHERE, _NOWHERE.last, 0
        self._own = deque([_Own(0, last, True)])
        self._own_sent, self._own_lag = 0, len(last)

    @property
    def is_empty(self) -> bool:
        """Nothing is left to send."""
        segment = self._segment
        return not self._own and segment.next is None and self._at == segment.used

    @property
    def lag(self) -> int:
        """Bytes that this member has yet to receive, WELCOME not counted."""
        return self._log.end - self._segment.start - self._at + self._own_lag

    def flush(self, sock: socket.socket) -> int:
        """One send, on a socket that does not block, of everything that this member lacks.

        Returns:
            Bytes that the kernel took; see `is_empty` for whether any are left.

        Raises:
            OSError: the connection is gone.
        """
        segment, at = self._segment, self._at
        try:
            if not self._own and segment.next is None:  # nearly always: one range, one segment
                if at == segment.used:
                    return 0
                sent = sock.send(segment.view[at : segment.used])
                self._at = at + sent
                return sent
            pieces = self._pieces(MAX_PIECES)
            if sys.platform != "win32" and _HAS_SENDMSG:
                sent = sock.sendmsg(pieces)
            else:
                sent = sock.send(b"".join(pieces))
        except (BlockingIOError, InterruptedError):
            return 0
        self._advance(sent)
        return sent

    def _pieces(self, most: int) -> list[memoryview]:
        """What is to be sent, in order; at most so many pieces of it."""
        pieces: list[memoryview] = []
        segment, at = self._segment, self._at
        skip = self._own_sent
        for own in self._own:
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
        while True:
            segment, at = self._segment, self._at
            here = segment.start + at
            if self._own and self._own[0].position == here:
                left = len(self._own[0].data) - self._own_sent
                if sent < left:
                    self._own_sent += sent
                    self._own_lag -= sent if self._own[0].is_lag else 0
                    return
                sent -= left
                self._own_lag -= left if self._own[0].is_lag else 0
                self._own.popleft()
                self._own_sent = 0
            elif at == segment.used and segment.next is not None:
                self._segment, self._at = segment.next, 0  # may free the segment that was left
            elif sent == 0:
                return
            else:
                stop = self._own[0].position - segment.start if self._own else segment.used
                step = min(sent, segment.used - at, stop - at)
                self._at = at + step
                sent -= step


def _frame_end(data: memoryview, at: int) -> int:
    """The first boundary between frames at or behind `at`; `data` begins with a frame."""
    end = 0
    while end < at:
        end += 4 + int(_LENGTH.unpack_from(data, end)[0])
    return end
