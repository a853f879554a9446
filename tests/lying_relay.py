"""A relay that does as it pleases with what it carries, in a room that is a list.

    room = LyingRelay()
    alice, bob = room.start("alice"), room.start("bob")
    room.lies[bob] = [Lie.WITHHOLD, Lie.REPEAT]     # what becomes of the next frames to Bob
    room.hide(alice, bob)                           # Bob is told that Alice left
    room.be_honest()                                # from here on; what it kept is gone

It has every frame that ever passed (`seen`), every bundle that anybody joined with (`bundles`), and
an identity of its own (`ghost`).  It has nobody's keys.  `each_once` makes the arithmetic of keys
cheaper, where thousands of rooms are played.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

import pytest
import simulated_room
from simulated_room import LOBBY, SimulatedMember, SimulatedRoom, keystore, recall, session_keys

from blockchain import Draft
from chat_effects import Ready
from chat_messages import Bundle
from chat_wire import Add, Broadcast, Del, Direct, Frame, FrameType, Join, LeaveReason, WireError
from chat_witness import HEADS_TABLE, Heads
from crypto_utils import (
    BadSignature,
    EncryptionManager,
    IdentityPublic,
    RoomSecret,
    SigningKey,
    VerifyKey,
)

GHOST = "mallory"
_MAX_SEEN = 400
_SEKS = 3  # that all share, where arithmetic is to be cheap
_MAX_KNOWN = 100_000  # of what was computed once
_HEADER_BYTES = 5  # length and type: whoever changes these says something else


class Lie(Enum):
    """What becomes of one frame on its way to one member."""

    NONE = auto()
    WITHHOLD = auto()  # it is kept, and may come later
    REPEAT = auto()
    ALTER = auto()
    MISDIRECT = auto()  # a private frame of somebody else comes instead


def flipped(data: bytes, at: int) -> bytes:
    """One bit of a frame's body changed."""
    changed = bytearray(data)
    changed[_HEADER_BYTES + at % (len(data) - _HEADER_BYTES)] ^= 1 << at % 8
    return bytes(changed)


class LyingRelay(SimulatedRoom):
    """And the network and the clock; honest until it is told to lie."""

    def __init__(self, secret: RoomSecret = LOBBY) -> None:
        super().__init__(secret)
        self.everybody: list[SimulatedMember] = []  # every run of everybody's client, in order
        self.running: list[SimulatedMember] = []
        self.lies: dict[SimulatedMember, list[Lie]] = defaultdict(list)
        self.kept: dict[SimulatedMember, list[bytes]] = defaultdict(list)
        self.apart: set[tuple[str, str]] = set()  # who is not heard by whom, by name
        self.seen: deque[bytes] = deque(maxlen=_MAX_SEEN)
        self.bundles: list[tuple[bytes, bytes]] = []  # session_id, bundle
        self.tamper = self._lie
        self._flips = 0

    # ----------------------------------------------------------------- clients come and go

    def start(self, name: str) -> SimulatedMember:
        """A new run of that person's client, with all that the earlier ones left on the disk."""
        earlier = [member for member in self.everybody if member.name == name]
        chain: list[tuple[Draft, int]] = []
        for run in earlier:
            chain += zip(run.chain, run.appended_ms, strict=True)
        rows = dict(earlier[-1].remembered) if earlier else {}
        heads = Heads({key: row for (table, key), row in rows.items() if table == HEADS_TABLE})
        member = SimulatedMember(self, name, recall(chain, rows), heads=heads)
        member.remembered = rows
        self.everybody.append(member)
        self.running.append(member)
        self.connect(member)
        return member

    def kill(self, member: SimulatedMember) -> None:
        """The client is gone without a word."""
        self.running.remove(member)
        self.crash(member)

    def cut(self, member: SimulatedMember) -> None:
        """The connection is lost; the client runs on."""
        self.disconnect(member)

    def reconnect(self, member: SimulatedMember) -> None:
        """As the link does by itself: also after the session closed the connection."""
        if member in self.connected or member.closed is not None:
            self.disconnect(member)
        member.closed = None
        self.connect(member)

    def tick(self) -> None:
        """Every client's engine ticks, connected or not; who wanted to leave may be gone then."""
        for member in list(self.running):
            member.tick()
            if member.exit_code is not None:
                self.running.remove(member)
        self.settle()

    def takes_lines(self, member: SimulatedMember) -> bool:
        """Whether its person may type: from the first complete WELCOME until it leaves."""
        return not member.session.leaving and any(isinstance(e, Ready) for e in member.effects)

    # ----------------------------------------------------------------- lies about frames

    def _lie(
        self, sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
    ) -> list[bytes]:
        self.seen.append(data)
        if Frame(data).type == FrameType.HELLO:
            return [data]
        if sender is not None and (sender.name, receiver.name) in self.apart:
            return []
        lies = self.lies[receiver]
        match lies.pop(0) if lies else Lie.NONE:
            case Lie.WITHHOLD:
                self.kept[receiver].append(data)
                return []
            case Lie.REPEAT:
                return [data, data]
            case Lie.ALTER:
                self._flips += 7919  # anywhere, each time elsewhere
                return [flipped(data, self._flips)]
            case Lie.MISDIRECT:
                private = [f for f in self.seen if Frame(f).type == FrameType.DIRECT]
                return [private[-1] if private else data, data]
        return [data]

    def release(self, member: SimulatedMember, *, backwards: bool = False) -> None:
        """What was withheld from a member comes after all, if it is there to hear it."""
        frames = self.kept.pop(member, [])
        self._send(member, *(reversed(frames) if backwards else frames))

    def inject(self, member: SimulatedMember, frame: bytes) -> None:
        """Any frame, for which there is no reason."""
        self._send(member, frame)

    def redirected(self, frame: bytes, member: SimulatedMember) -> bytes:
        """What a BROADCAST or DIRECT carries, in a DIRECT to that member; else the frame."""
        whole = Frame(frame)
        try:
            if whole.type == FrameType.BROADCAST:
                payload = Broadcast.parse(whole.body).payload
            elif whole.type == FrameType.DIRECT:
                payload = Direct.parse(whole.body).payload
            else:
                return frame
        except WireError:
            return frame
        return Direct(member.session_id, payload).serialize()

    def _send(self, member: SimulatedMember, *frames: bytes) -> None:
        if member in self.connected:
            member.inbox.extend(frames)
            self._in_flight.extend([member] * len(frames))
            self.settle()

    # ----------------------------------------------------------------- lies about members

    def _admit(self, member: SimulatedMember, join: Join) -> None:
        self.bundles.append((join.session_id, join.bundle))
        super()._admit(member, join)

    def hide(self, member: SimulatedMember, whom: SimulatedMember) -> None:
        """`member` is told that `whom` is gone."""
        self._send(member, Del(whom.session_id, LeaveReason.LEFT).serialize())

    def show(self, member: SimulatedMember, session_id: bytes, bundle: bytes) -> None:
        """`member` is told that somebody is there."""
        self._send(member, Add(session_id, bundle).serialize())

    def be_honest(self) -> None:
        """From here on.  Who was hidden or made up stays so until the connection is made anew."""
        self.lies.clear()
        self.kept.clear()
        self.apart.clear()


def ghost(
    nick: str = GHOST, secret: RoomSecret = LOBBY, seed: bytes = b"g" * 32, number: int = 1
) -> tuple[SigningKey, Bundle]:
    """A session that the relay makes up: an identity of its own, under any nick."""
    key, own = SigningKey(seed), keystore(GHOST)
    sek = simulated_room.session_keys(GHOST, 0).get_public_key()
    chain = (own.chain_id, own.chain_signing_key.public)
    made = Bundle.create(own.identity, secret, nick, key, number, sek, *chain)
    return key, made


# --------------------------------------------------------------------------- cheaper arithmetic


@contextmanager
def each_once() -> Iterator[None]:
    """Each signature is verified once, whoever verifies it, what was wrapped in this process is
    unwrapped from a table, and all share a few session encryption keys, which take long to make.
    The first two are functions of their arguments alone; of the third nothing is seen, since a wrap
    opens for its recipient's session only."""
    verified: dict[tuple[bytes, ...], str] = {}  # why not; empty: it was signed
    wrapped: dict[tuple[bytes, bytes, bytes], bytes] = {}
    verify, verify_identity = VerifyKey.verify, IdentityPublic.verify
    wrap_key, unwrap_key = EncryptionManager.wrap_key, EncryptionManager.unwrap_key

    def verify_once(self: VerifyKey, signature: bytes, label: bytes, body: bytes) -> None:
        asked = (self.public, signature, label, body)
        if asked not in verified:
            verified[asked] = why_not(lambda: verify(self, signature, label, body))
        if verified[asked]:
            raise BadSignature(verified[asked])

    def identity_once(self: IdentityPublic, signature: bytes, label: bytes, body: bytes) -> None:
        asked = (self.spki, signature, label, body)
        if asked not in verified:
            verified[asked] = why_not(lambda: verify_identity(self, signature, label, body))
        if verified[asked]:
            raise BadSignature(verified[asked])

    def wrap(key: bytes, recipient: bytes, label: bytes) -> bytes:
        data = wrap_key(key, recipient, label)
        for known in (verified, wrapped):
            if len(known) > _MAX_KNOWN:
                known.clear()
        wrapped[recipient, data, label] = key
        return data

    def unwrap(self: EncryptionManager, data: bytes, label: bytes) -> bytes:
        key = wrapped.get((self.get_public_key(), data, label))
        return unwrap_key(self, data, label) if key is None else key

    def few_seks(name: str, number: int) -> EncryptionManager:
        return session_keys("everybody", (len(name) + number) % _SEKS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_room, "session_keys", few_seks)
        patch.setattr(VerifyKey, "verify", verify_once)
        patch.setattr(IdentityPublic, "verify", identity_once)
        patch.setattr(EncryptionManager, "wrap_key", staticmethod(wrap))
        patch.setattr(EncryptionManager, "unwrap_key", unwrap)
        yield


def why_not(check: Callable[[], None]) -> str:
    """What a check of a signature raises; empty: nothing."""
    try:
        check()
    except BadSignature as exc:
        return str(exc)
    return ""
