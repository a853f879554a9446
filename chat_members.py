"""A relay's connections and rooms: what is known of each, and what is granted to each.

What lives here: the limits, the stages of a connection and what may be sent at each, rates, and the
two things that the relay's thread owns many of, `Client` and `Room`.  What it does not know: what
is done at any stage (`chat_server`), how bytes reach many members (`chat_fanout`).

    client = Client(sock, "192.168.1.5", "192.168.1.5:50123", Limits(), now=0.0)
    if frame.type not in LEGAL[client.stage]: ...

docs/PROTOCOL.md, section 2; DESIGN.md, section 7.
"""

from __future__ import annotations

import secrets
import socket
import sys
from dataclasses import dataclass, field
from enum import Enum

from chat_fanout import Log, Outlet
from chat_wire import (
    MAX_JOIN_FRAME_BYTES,
    NONCE_BYTES,
    PING_INTERVAL_S,
    ErrorCode,
    FrameDecoder,
    FrameType,
    Join,
    LeaveReason,
)

__all__ = [
    "LEAVE_REASONS",
    "LEGAL",
    "NEVER",
    "Bucket",
    "Client",
    "Handshake",
    "Limits",
    "Room",
    "Stage",
]

NEVER = float("inf")


@dataclass(frozen=True)
class Limits:
    """What the relay grants; the defaults are DESIGN.md's, tests shorten them."""

    max_clients: int = 1_024  # members in all rooms
    max_per_ip: int = 64  # connections from one address, half-open ones too
    rate: float = 2_000.0  # BROADCAST (and REBUNDLE, PING) frames/s of one member; 0 = no limit
    direct_rate: float = 1_048_576.0  # bytes/s of DIRECT of one member
    max_lag_bytes: int = 4_194_304
    drain_timeout_s: float = 10.0  # without one byte taken by a member that lacks some
    handshake_timeout_s: float = 5.0
    challenge_timeout_s: float = 5.0  # for a session's old connection to show that it lives
    ping_interval_s: float = float(PING_INTERVAL_S)
    linger_s: float = 1.0  # for an ERROR to arrive; so a stop takes no longer either
    max_half_open: int = 256  # before WELCOME; the oldest makes room, so hoarding shuts nobody out
    is_loopback_exempt: bool = True  # from max_per_ip: many people may share this host

    @property
    def tick_s(self) -> float:
        """How often deadlines are looked at."""
        shortest = min(
            self.drain_timeout_s,
            self.handshake_timeout_s,
            self.challenge_timeout_s,
            self.ping_interval_s,
            self.linger_s,
        )
        return min(0.25, shortest / 4)


class Stage(Enum):
    """Where a connection is; it moves downwards alone."""

    GREETED = "before its JOIN"  # HELLO is sent
    WAITING = "while its session is in question"  # the session's old connection is being asked
    MEMBER = "of a member"
    CLOSING = "after its ERROR"  # that is still sent, what comes is discarded
    GONE = "after its end"  # the socket is closed


# Legal moves: what a client may send at each stage.  All else is ERROR bad_frame.
_ALWAYS = {FrameType.PING, FrameType.PONG}
LEGAL = {
    Stage.GREETED: {FrameType.JOIN, *_ALWAYS},
    Stage.WAITING: _ALWAYS,
    Stage.MEMBER: {FrameType.BROADCAST, FrameType.DIRECT, FrameType.REBUNDLE, *_ALWAYS},
}

# What the others are told about who was sent an ERROR.
LEAVE_REASONS = {
    ErrorCode.BAD_FRAME: LeaveReason.BAD_FRAME,
    ErrorCode.TOO_LARGE: LeaveReason.BAD_FRAME,
    ErrorCode.VERSION: LeaveReason.BAD_FRAME,
    ErrorCode.SLOW_CONSUMER: LeaveReason.SLOW_CONSUMER,
    ErrorCode.TIMEOUT: LeaveReason.TIMEOUT,
}


class Bucket:
    """A token bucket with a burst of one second."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = self._level = rate or NEVER  # 0 = no limit
        self._at = now

    def level(self, now: float) -> float:
        """What may be spent without debt; below 0 is debt."""
        if now > self._at:
            self._level = min(self._rate, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def spend(self, amount: float, now: float) -> float:
        """Takes `amount`; returns the seconds until the debt is paid, 0.0 if there is none."""
        self._level = self.level(now) - amount
        return 0.0 if self._level >= 0 else -self._level / self._rate


@dataclass(eq=False, slots=True)
class Room:
    """The members that joined with one room_tag, and their log."""

    tag: bytes
    log: Log = field(default_factory=Log)
    members: dict[bytes, Client] = field(default_factory=dict)  # by session_id


class Handshake:
    """What a connection needs until it is a member; dropped then, since most are idle members."""

    __slots__ = ("decoder", "frames", "join", "nonce", "rival")

    def __init__(self) -> None:
        self.frames = 0  # that came so far
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.decoder = FrameDecoder(MAX_JOIN_FRAME_BYTES)
        self.join: Join | None = None  # while it waits
        self.rival: Client | None = None  # whose session it claims, while it waits


class Client(Outlet):
    """One connection: what it has yet to receive, and what the relay knows of it.

    Owned by the relay's thread (its `Outlet` part: see there).
    """

    __slots__ = (
        "_direct_bucket",
        "_frame_bucket",
        "_limits",
        "address",
        "bundle",
        "challengers",
        "deadline",
        "events",
        "handshake",
        "heard",
        "is_paused",
        "name",
        "pings",
        "rest",
        "room",
        "session_id",
        "stage",
        "stalled_since",
    )

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        name: str,
        limits: Limits,
        now: float,
    ) -> None:
        super().__init__(sock)
        self.address = sys.intern(address)
        self.name = name  # address and port, for the log
        self.stage = Stage.GREETED
        self.handshake: Handshake | None = Handshake()  # before it is a member
        self.deadline = now + limits.handshake_timeout_s  # of its stage
        self.heard = now  # when bytes were read last
        self._limits = limits
        self._frame_bucket: Bucket | None = None  # most members are idle
        self._direct_bucket: Bucket | None = None
        self.events = 0  # that the selector watches
        self.is_paused = False  # over its rate: not read
        self.stalled_since = NEVER  # the kernel took no byte since, though some are lacking
        self.pings = 0  # since it was heard
        self.rest = b""  # of a member: what came and is no whole frame yet, or waits for its rate
        self.challengers: tuple[Client, ...] = ()  # who claim its session, in order
        self.room: Room | None = None  # of a member
        self.session_id = b""
        self.bundle = b""

    @property
    def frame_bucket(self) -> Bucket:
        """Of BROADCAST, REBUNDLE and PING, in frames; full when it is first used."""
        if self._frame_bucket is None:
            self._frame_bucket = Bucket(self._limits.rate, self.heard)
        return self._frame_bucket

    @property
    def direct_bucket(self) -> Bucket:
        """Of DIRECT, in bytes."""
        if self._direct_bucket is None:
            self._direct_bucket = Bucket(self._limits.direct_rate, self.heard)
        return self._direct_bucket
