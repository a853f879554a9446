"""Simulated members on a real relay: sessions without processes, on sockets that one thread drives.

    room = RelayedRoom(relay.port)
    alice, bob = room.join("alice"), room.join("bob")
    room.until(lambda: alice.session.joined and bob.session.joined, "both are in the room")

So hundreds of members fit into one process.  What many of them check alike (a bundle, a signature)
is checked once, and who unwraps a key is told what was wrapped (`in_one_process`): each of them
would have a computer for that.  Each session's clock ticks once a second, not ten times.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from unittest import mock

import simulated_room
from simulated_room import LOBBY, SimulatedMember, SimulatedRoom, recall, session_keys
from test_chain_torture import remembered_signatures

from chat_archive import Archive
from chat_engine import now
from chat_link import connect
from chat_memory import Memory
from chat_messages import Bundle
from chat_wire import MAX_FRAME_BYTES, FrameDecoder, FrameType, LeaveReason, Ping, Pong
from crypto_utils import EncryptionManager, RoomSecret

_TICK_S = 1.0
_READ_BYTES = 65_536
_KEYS = 8  # session keys, for all members together


@contextmanager
def in_one_process() -> Iterator[None]:
    """What would take one computer nearly all of the time is done once, or not at all."""

    @cache
    def parsed(raw: bytes, room: RoomSecret) -> Bundle:
        return parse(raw, room)

    @cache
    def key_of(number: int) -> EncryptionManager:
        return session_keys("everybody", number)

    def any_key(name: str, number: int) -> EncryptionManager:
        return key_of(hash((name, number)) % _KEYS)

    def wrap_key(key: bytes, recipient_public_key: bytes, label: bytes) -> bytes:
        wrapped = wrap(key, recipient_public_key, label)
        wraps[wrapped, recipient_public_key, label] = key
        return wrapped

    def unwrap_key(self: EncryptionManager, wrapped: bytes, label: bytes) -> bytes:
        known = wraps.get((wrapped, self.get_public_key(), label))
        return unwrap(self, wrapped, label) if known is None else known

    def archive(self: SimulatedMember) -> Archive:
        """Told of what the chain gained since it was last asked for."""
        drafts = self.room.drafts[self.name]
        its, noted = archives.get(self.name, (Archive(lambda index: drafts[index - 1].record), 0))
        for index, draft in enumerate(islice(drafts, noted, None), noted + 1):
            its.note(index, draft.type, draft.record)
        archives[self.name] = its, len(drafts)
        return its

    archives: dict[str, tuple[Archive, int]] = {}
    wraps: dict[tuple[bytes, bytes, bytes], bytes] = {}
    parse, wrap = Bundle.parse, EncryptionManager.wrap_key
    unwrap = EncryptionManager.unwrap_key
    with (
        remembered_signatures(),
        mock.patch.object(Bundle, "parse", parsed),
        mock.patch.object(EncryptionManager, "wrap_key", staticmethod(wrap_key)),
        mock.patch.object(EncryptionManager, "unwrap_key", unwrap_key),
        mock.patch.object(SimulatedMember, "archive", archive),
        mock.patch.object(simulated_room, "session_keys", any_key),
    ):
        yield


class _Line:
    """One member's connection."""

    def __init__(self, member: SimulatedMember, sock: socket.socket) -> None:
        self.member, self.sock = member, sock
        self.decoder = FrameDecoder(MAX_FRAME_BYTES)
        self.unsent = bytearray()
        self.tick_s = 0.0

    def flush(self) -> None:
        if self.unsent:
            try:
                del self.unsent[: self.sock.send(self.unsent)]
            except BlockingIOError:
                return


class RelayedRoom(SimulatedRoom):
    """The relay is a real one."""

    def __init__(self, port: int, secret: RoomSecret = LOBBY) -> None:
        super().__init__(secret)
        self.now = now()
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._lines: dict[SimulatedMember, _Line] = {}
        self._waiting: set[_Line] = set()  # for room in the kernel
        self._last_runs: dict[str, SimulatedMember] = {}

    def returns(self, name: str) -> SimulatedMember:
        """A new run of somebody who is not here, who remembers all earlier ones."""
        before = self._last_runs.get(name)
        memory, heads = None, None
        if before is not None:
            memory, heads = self._memory(before), before.heads
        member = self.join(name, memory, heads=heads)
        if before is not None:
            member.remembered |= before.remembered
        self._last_runs[name] = member
        return member

    def _memory(self, before: SimulatedMember) -> Memory:
        drafts = [(draft, self.now.ms) for draft in self.drafts[before.name]]
        return recall(drafts, before.remembered)

    def connect(self, member: SimulatedMember) -> None:
        """A connection; what follows comes by `until`."""
        line = self._lines[member] = _Line(member, connect("127.0.0.1", self._port))
        self._selector.register(line.sock, selectors.EVENT_READ, line)
        self.connected.append(member)
        member.perform(member.session.connected())

    def carry(self, sender: SimulatedMember, data: bytes) -> None:
        """To the real relay."""
        self._lines[sender].unsent += data
        self._waiting.add(self._lines[sender])

    def gone(self, member: SimulatedMember, reason: LeaveReason) -> None:
        """It closes its connection."""
        if line := self._lines.pop(member, None):
            line.flush()
            self._waiting.discard(line)
            self._selector.unregister(line.sock)
            line.sock.close()
            self.connected.remove(member)

    def settle(self) -> None:
        """Frames are on their way until `until`."""

    def until(
        self, is_it: Callable[[], bool], what: str, within_s: float, *, is_time: bool = False
    ) -> float:
        """Drives all until that is so; how long it took.

        Args:
            is_time: it is no fault if it never is.
        """
        start = time.monotonic()
        while not is_it():
            if (took_s := time.monotonic() - start) > within_s:
                assert is_time, f"not within {within_s} s: {what}"
                return took_s
            self._turn()
        return time.monotonic() - start

    def passes(self, seconds: float, step: float = 0.5) -> None:
        """Drives all for so long."""
        self.until(lambda: False, "", seconds, is_time=True)

    def _turn(self) -> None:
        for key, _ in self._selector.select(0.005):
            self._read(key.data)
        self.now = now()
        for line in [*self._lines.values()]:
            if self.now.s >= line.tick_s:
                line.tick_s = self.now.s + _TICK_S
                line.member.tick()
        for line in [*self._waiting]:
            line.flush()
            if not line.unsent:
                self._waiting.discard(line)

    def _read(self, line: _Line) -> None:
        if line.member not in self._lines:  # closed in this turn
            return
        data = line.sock.recv(_READ_BYTES)
        assert data, f"the relay closed the connection of {line.member.name}: {line.member.alerts}"
        line.decoder.feed(data)
        for frame in line.decoder:
            self.now = now()
            if frame.type == FrameType.PING:
                self.carry(line.member, Pong(Ping.parse(frame.body).token).serialize())
            elif line.member in self._lines:
                line.member.perform(line.member.session.receive(frame, self.now))

    def close(self) -> None:
        """Everybody is gone."""
        for member in [*self.connected]:
            self.gone(member, LeaveReason.LEFT)
        self._selector.close()
