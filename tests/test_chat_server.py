"""The relay over real sockets on 127.0.0.1: every rule of DESIGN.md, section 7, and its fan-out.

Nothing sleeps to be right: a peer waits for the frame that must come, with a deadline of its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chat_daemon
import chat_fanout
import chat_server
from chat_fanout import Log, Outlet, Segment
from chat_members import Limits
from chat_server import Relay, start_server
from chat_wire import (
    MAX_BUNDLE_BYTES,
    MAX_FRAME_BYTES,
    MAX_JOIN_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
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
    LeaveReason,
    Member,
    Ping,
    Pong,
    Rebundle,
    Welcome,
    frame,
    join_proof,
    u32,
    u64,
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

    def expect(self, message: Any) -> None:
        """The next message is this one."""
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

    def close(self) -> None:
        self.socket.close()


class House:
    """Relays and peers of one test; at its end all are closed and no relay had a bug."""

    def __init__(self) -> None:
        self.relays: list[Relay] = []
        self.peers: list[Peer] = []
        self.lines: list[str] = []  # of the relays' logs
        self._log = chat_daemon.EventLog(lambda line: self.lines.append(line.decode()))

    def relay(self, password: bytes = b"", host: str = "127.0.0.1", **limits: Any) -> Relay:
        limits.setdefault("linger_s", 0.5)
        self.relays.append(
            start_server(host, 0, password=password, limits=Limits(**limits), log=self._log)
        )
        return self.relays[-1]

    def peer(self, relay: Relay, **options: Any) -> Peer:
        self.peers.append(Peer(relay.address, **options))
        return self.peers[-1]

    def member(self, relay: Relay, **options: Any) -> Peer:
        """A peer that has joined; those that were there have read its ADD."""
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
            for later in peers[n + 1 :]:
                peer.expect(Add(later.session_id, b"bundle"))
        return peers

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
        assert [relay.failure for relay in self.relays] == [None] * len(self.relays)
        assert [line for line in self.lines if " bug " in line] == []


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what no frame tells: looks every 5 ms until the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --------------------------------------------------------------------------- joining


def test_hello_comes_first_with_a_nonce_of_its_own_for_each_connection(house: House) -> None:
    relay = house.relay()
    hellos = [house.peer(relay).next() for _ in range(2)]
    assert all(h == Hello(1, 1, h.nonce, False, MAX_FRAME_BYTES) for h in hellos)
    assert hellos[0].nonce != hellos[1].nonce


def test_a_newcomer_is_welcomed_with_the_others_and_they_are_told(house: House) -> None:
    relay = house.relay()
    alice = house.peer(relay)
    alice.join(bundle=b"alice")
    assert alice.welcome() == []
    bob = house.peer(relay)
    bob.join(bundle=b"bob")
    assert bob.welcome() == [Member(alice.session_id, b"alice")]
    alice.expect(Add(bob.session_id, b"bob"))
    bob.close()
    alice.expect(Del(bob.session_id, LeaveReason.LEFT))


def test_welcome_comes_in_several_frames_where_the_bundles_need_them(house: House) -> None:
    relay = house.relay()
    peers = [house.member(relay, bundle=bytes(MAX_BUNDLE_BYTES)) for _ in range(20)]
    late = house.peer(relay)
    late.join()
    assert [m.session_id for m in late.welcome()] == [p.session_id for p in peers]


def test_a_member_may_speak_in_the_same_breath_as_it_joins(house: House) -> None:
    peer = house.peer(house.relay())
    peer.next()
    join = Join(ROOM, bytes(16), bytes(32), b"")
    peer.send(join, Broadcast(bytes(MAX_PAYLOAD_BYTES)))  # longer than a JOIN may be
    assert peer.welcome() == []
    peer.expect(Broadcast(bytes(MAX_PAYLOAD_BYTES)))


def test_a_new_bundle_reaches_the_others_and_later_newcomers(house: House) -> None:
    relay = house.relay()
    alice, bob = house.members(relay, 2)
    alice.send(Broadcast(b"1"), Rebundle(b"new"), Broadcast(b"2"))
    for message in (Broadcast(b"1"), Add(alice.session_id, b"new"), Broadcast(b"2")):
        bob.expect(message)
    for message in (Broadcast(b"1"), Broadcast(b"2")):
        alice.expect(message)
    late = house.peer(relay)
    late.join()
    assert Member(alice.session_id, b"new") in late.welcome()


@pytest.mark.parametrize("password", [b"secret", "pässwörd".encode()])
def test_the_right_password_opens_the_door(house: House, password: bytes) -> None:
    peer = house.peer(house.relay(password))
    peer.join(password=password)
    assert peer.welcome() == []


@pytest.mark.parametrize("proof", [bytes(32), b"x" * 32])
def test_a_missing_or_wrong_password_is_error_password(house: House, proof: bytes) -> None:
    relay = house.relay(b"secret")
    peer = house.peer(relay)
    peer.next()
    peer.send(Join(ROOM, bytes(16), proof, b""))
    peer.expect_error(ErrorCode.PASSWORD)
    # A proof is good for one connection: its nonce is in it.
    first, second = house.peer(relay), house.peer(relay)
    nonce = first.next().nonce
    second.next()
    second.send(Join(ROOM, bytes(16), join_proof(b"secret", nonce, ROOM, bytes(16), b""), b""))
    second.expect_error(ErrorCode.PASSWORD)


def test_a_full_relay_refuses_who_is_new_but_not_before_the_password(house: House) -> None:
    relay = house.relay(b"secret", max_clients=1)
    first, second, third = (house.peer(relay) for _ in range(3))
    first.join(password=b"secret")
    first.welcome()
    second.join(password=b"secret", room=OTHER_ROOM)
    second.expect_error(ErrorCode.ROOM_FULL)
    third.join(password=b"wrong")
    third.expect_error(ErrorCode.PASSWORD)
    first.close()
    wait_until(lambda: any("left" in line for line in house.lines))
    fourth = house.peer(relay)
    fourth.join(password=b"secret")
    fourth.welcome()


def test_who_does_not_join_in_time_is_error_timeout(house: House) -> None:
    relay = house.relay(handshake_timeout_s=0.1)
    peer = house.peer(relay)
    peer.next()
    peer.expect_error(ErrorCode.TIMEOUT)
    chatty = house.peer(relay)  # signs of life are no JOIN
    chatty.next()
    with contextlib.suppress(OSError):
        while True:
            chatty.send(Ping(1))
            if isinstance(chatty.next(), Error):
                break
    assert chatty.expect_end() == []


def test_half_open_connections_are_bounded_and_the_oldest_makes_room(house: House) -> None:
    relay = house.relay(max_half_open=3)
    peers = [house.peer(relay) for _ in range(4)]
    for peer in peers:
        peer.next()
    peers[0].expect_error(ErrorCode.TIMEOUT)
    for peer in peers[1:]:
        peer.send(Join(ROOM, os.urandom(16), bytes(32), b""))
        peer.welcome()


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is there on Linux alone")
def test_connections_of_one_address_are_limited_half_open_ones_too(house: House) -> None:
    relay = house.relay(max_per_ip=3, is_loopback_exempt=False)
    alice = house.member(relay, source="127.0.0.2")
    half_open = [house.peer(relay, source="127.0.0.2") for _ in range(2)]
    for peer in half_open:
        peer.next()
    house.peer(relay, source="127.0.0.2").expect_error(ErrorCode.IP_LIMIT)
    bob = house.member(relay, source="127.0.0.3")  # others are unaffected
    alice.expect(Add(bob.session_id, b"bundle"))
    half_open[0].close()
    wait_until(lambda: any("closed before it joined" in line for line in house.lines))
    house.member(relay, source="127.0.0.2")


def test_this_host_is_exempt_from_the_limit_of_addresses(house: House) -> None:
    relay = house.relay(max_per_ip=1)
    house.members(relay, 3)


# --------------------------------------------------------------------------- one session, twice


def test_a_session_that_lives_is_error_session_in_use_for_who_claims_it(house: House) -> None:
    relay = house.relay()
    old, other = house.members(relay, 2)
    claims = [house.peer(relay) for _ in range(2)]
    for claim in claims:
        claim.join(session=old.session_id)
    pings = [old.raw() for _ in claims]
    assert {ping.type for ping in pings} == {FrameType.PING}
    old.send(Pong(Ping.parse(pings[0].body).token))
    for claim in claims:
        claim.expect_error(ErrorCode.SESSION_IN_USE)
    other.send(Broadcast(b"still here"))
    old.expect(Broadcast(b"still here"))
    other.expect(Broadcast(b"still here"))  # and no ADD, no DEL before it


def test_a_session_that_is_silent_is_replaced_and_others_see_add_alone(house: House) -> None:
    relay = house.relay(challenge_timeout_s=0.2)
    old, other = house.members(relay, 2)
    new = house.peer(relay)
    new.join(session=old.session_id, bundle=b"again")
    assert new.welcome() == [Member(other.session_id, b"bundle")]
    other.expect(Add(old.session_id, b"again"))
    other.send(Broadcast(b"hello"), Direct(old.session_id, b"again"))
    other.expect(Broadcast(b"hello"))
    new.expect(Broadcast(b"hello"))
    new.expect(Direct(old.session_id, b"again"))
    old.answers_pings = False
    old.expect_error(ErrorCode.SESSION_IN_USE)
    assert any("replaced" in line for line in house.log())


def test_a_silent_session_is_replaced_by_the_first_who_claims_it(house: House) -> None:
    relay = house.relay(challenge_timeout_s=0.8)
    old = house.member(relay)
    first, second = house.peer(relay), house.peer(relay)
    first.join(session=old.session_id)
    assert old.raw().type == FrameType.PING
    second.join(session=old.session_id)
    assert first.welcome() == []
    assert first.raw().type == FrameType.PING
    first.send(Ping(1))  # any bytes are a sign of life
    second.expect_error(ErrorCode.SESSION_IN_USE)


def test_who_claims_a_session_joins_at_once_when_its_old_connection_ends(house: House) -> None:
    relay = house.relay(challenge_timeout_s=DEADLINE_S)
    old, other = house.members(relay, 2)
    new = house.peer(relay)
    new.join(session=old.session_id)
    assert old.raw().type == FrameType.PING
    old.close()
    assert new.welcome() == [Member(other.session_id, b"bundle")]
    other.expect(Del(old.session_id, LeaveReason.LEFT))
    other.expect(Add(old.session_id, b"bundle"))


def test_who_gives_up_a_claim_leaves_no_trace(house: House) -> None:
    relay = house.relay(challenge_timeout_s=0.2)
    old = house.member(relay)
    claim = house.peer(relay)
    claim.join(session=old.session_id)
    assert old.raw().type == FrameType.PING
    claim.close()
    wait_until(lambda: any("closed before it joined" in line for line in house.lines))
    late = house.member(relay)
    old.expect(Add(late.session_id, b"bundle"))


def test_who_comes_back_to_a_full_relay_may_claim_its_session(house: House) -> None:
    relay = house.relay(max_clients=1, challenge_timeout_s=0.1)
    old = house.member(relay)
    new = house.peer(relay)
    new.join(session=old.session_id)
    assert new.welcome() == []


def test_the_same_session_in_another_room_is_another(house: House) -> None:
    relay = house.relay()
    one = house.member(relay)
    two = house.member(relay, room=OTHER_ROOM, session=one.session_id)
    one.send(Broadcast(b"one"))
    one.expect(Broadcast(b"one"))
    two.send(Direct(two.session_id, b"two"))
    two.expect(Direct(two.session_id, b"two"))


# --------------------------------------------------------------------------- passing on


def test_a_broadcast_reaches_the_whole_room_sender_included_byte_for_byte(house: House) -> None:
    peers = house.members(house.relay(), 3)
    for payload in (b"", b"\0", os.urandom(600), os.urandom(MAX_PAYLOAD_BYTES)):
        raw = Broadcast(payload).serialize()
        peers[0].send(raw)
        assert [peer.raw().raw for peer in peers] == [raw] * 3


def test_the_order_of_each_sender_is_kept_and_everybody_sees_the_same_order(house: House) -> None:
    peers = house.members(house.relay(rate=0), 4)
    count = 300

    def talk(n: int) -> None:
        for i in range(count):
            peers[n].send(Broadcast(bytes([n]) + u32(i) + bytes(i % 900)))

    talkers = [threading.Thread(target=talk, args=(n,)) for n in range(3)]
    for talker in talkers:
        talker.start()
    seen = [[peer.raw().raw for _ in range(3 * count)] for peer in peers]
    for talker in talkers:
        talker.join()
    assert all(order == seen[0] for order in seen)
    for n in range(3):
        own = [raw for raw in seen[0] if raw[5] == n]
        assert own == [
            Broadcast(bytes([n]) + u32(i) + bytes(i % 900)).serialize() for i in range(count)
        ]


def test_a_direct_frame_reaches_its_member_alone_and_keeps_its_place(house: House) -> None:
    alice, bob, carol = house.members(house.relay(), 3)
    script: list[Any] = [
        Broadcast(b"1"),
        Direct(bob.session_id, b"for bob"),
        Direct(carol.session_id, b"for carol"),
        Broadcast(b"2"),
        Direct(bob.session_id, b""),
        Direct(alice.session_id, b"for myself"),
        Direct(b"nobody here    !", b"lost"),
        Broadcast(b"3"),
    ] * 50
    alice.send(*script)
    for peer in (alice, bob, carol):
        for message in script:
            if isinstance(message, Broadcast) or message.session_id == peer.session_id:
                assert peer.raw().raw == message.serialize()


def test_rooms_are_apart(house: House) -> None:
    relay = house.relay()
    one, two = house.member(relay), house.member(relay, room=OTHER_ROOM)
    one.send(Broadcast(b"one"), Direct(two.session_id, b"across"), Broadcast(b"end"))
    two.send(Broadcast(b"two"), Ping(5))
    two.expect(Broadcast(b"two"))
    two.expect(Pong(5))
    one.expect(Broadcast(b"one"))
    one.expect(Broadcast(b"end"))


def test_a_join_is_one_point_in_the_room_however_much_is_said_around_it(house: House) -> None:
    relay = house.relay(rate=0)
    talker = house.member(relay)
    is_over = threading.Event()

    def talk() -> None:
        n = 0
        while not is_over.is_set():
            talker.send(*(Broadcast(u64(n + i) + bytes(100)) for i in range(20)))
            n += 20
        talker.half_close()

    seen: list[Any] = []
    listener = threading.Thread(target=lambda: seen.extend(talker.expect_end()))
    speaker = threading.Thread(target=talk)
    listener.start()
    speaker.start()
    first: dict[bytes, int] = {}
    for _ in range(25):
        late = house.member(relay)
        message = late.next()
        assert isinstance(message, Broadcast)
        n = first[late.session_id] = int.from_bytes(message.payload[:8], "big")
        for step in range(1, 40):
            message = late.next()
            assert message.payload[:8] == u64(n + step)
        late.close()
    is_over.set()
    speaker.join()
    listener.join()
    joined = None  # whose ADD stands right before the broadcast at hand
    points = {}
    for message in seen:
        if isinstance(message, Add):
            joined = message.session_id
        elif isinstance(message, Broadcast) and joined is not None:
            points[joined] = int.from_bytes(message.payload[:8], "big")
            joined = None
    assert points == first


def test_nobody_misses_or_repeats_a_frame_while_others_come_and_go(house: House) -> None:
    relay = house.relay(rate=0)
    talker, listener = house.members(relay, 2)
    count = 4_000

    def talk() -> None:
        for n in range(0, count, 20):
            talker.send(*(Broadcast(u32(n + i)) for i in range(20)))

    speaker = threading.Thread(target=talk)
    drain = threading.Thread(target=talker.expect_end)
    speaker.start()
    drain.start()
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            house.member(relay).close()

    guest = threading.Thread(target=come_and_go)
    guest.start()
    numbers: list[int] = []
    while len(numbers) < count:
        message = listener.next()
        if isinstance(message, Broadcast):
            numbers.append(int.from_bytes(message.payload, "big"))
    assert numbers == list(range(count))
    is_over.set()
    for thread in (speaker, guest):
        thread.join()
    talker.half_close()
    drain.join()


# --------------------------------------------------------------------------- staying and leaving


def test_ping_is_answered_by_pong(house: House) -> None:
    peer = house.member(house.relay())
    peer.send(Ping(2**64 - 1))
    peer.expect(Pong(2**64 - 1))


def test_who_answers_pings_stays_and_who_does_not_is_timeout(house: House) -> None:
    relay = house.relay(ping_interval_s=0.3)
    alive, dead = house.members(relay, 2)
    alive.expect(Del(dead.session_id, LeaveReason.TIMEOUT))  # answers pings while it waits
    pings = [dead.raw(), dead.raw()]
    assert {ping.type for ping in pings} == {FrameType.PING}
    dead.expect_error(ErrorCode.TIMEOUT)
    alive.send(Broadcast(b"here"))
    alive.expect(Broadcast(b"here"))


def test_half_closed_is_left(house: House) -> None:
    alice, bob = house.members(house.relay(), 2)
    bob.send(Broadcast(b"last words"))
    bob.half_close()
    alice.expect(Broadcast(b"last words"))
    alice.expect(Del(bob.session_id, LeaveReason.LEFT))
    assert bob.expect_end() == [Broadcast(b"last words")]


def test_a_reset_connection_is_left(house: House) -> None:
    alice, bob = house.members(house.relay(), 2)
    bob.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    bob.close()
    alice.expect(Del(bob.session_id, LeaveReason.LEFT))


BAD_AT_ONCE = {
    "unknown type": (b"\0\0\0\1\x63", ErrorCode.BAD_FRAME),
    "no type": (bytes(4), ErrorCode.BAD_FRAME),
    "of the relay": (Del(bytes(16), 1).serialize(), ErrorCode.BAD_FRAME),
    "HELLO": (Hello(1, 1, bytes(32), False).serialize(), ErrorCode.BAD_FRAME),
    "malformed PING": (frame(FrameType.PING, b"x"), ErrorCode.BAD_FRAME),
    "malformed PONG": (frame(FrameType.PONG, b""), ErrorCode.BAD_FRAME),
    "length of 4 GiB": (b"\xff\xff\xff\xff", ErrorCode.TOO_LARGE),
}
BAD_BEFORE_JOIN = {
    "malformed JOIN": (frame(FrameType.JOIN, b"\1"), ErrorCode.BAD_FRAME),
    "trailing bytes": (
        frame(FrameType.JOIN, Join(ROOM, ROOM, bytes(32), b"").serialize()[5:] + b"x"),
        ErrorCode.BAD_FRAME,
    ),
    "version 2": (frame(FrameType.JOIN, b"\2"), ErrorCode.VERSION),
    "BROADCAST": (Broadcast(b"early").serialize(), ErrorCode.BAD_FRAME),
    "DIRECT": (Direct(bytes(16), b"early").serialize(), ErrorCode.BAD_FRAME),
    "too long for a JOIN": (u32(MAX_JOIN_FRAME_BYTES + 1), ErrorCode.TOO_LARGE),
    "bundle over 4 KiB": (
        frame(FrameType.JOIN, b"\1" + bytes(64) + b"\x10\x01" + bytes(4097)),
        ErrorCode.TOO_LARGE,
    ),
}
BAD_OF_A_MEMBER = {
    "second JOIN": (Join(ROOM, ROOM, bytes(32), b"").serialize(), ErrorCode.BAD_FRAME),
    "WELCOME": (Welcome((), True).serialize(), ErrorCode.BAD_FRAME),
    "ADD": (Add(bytes(16), b"").serialize(), ErrorCode.BAD_FRAME),
    "ERROR": (Error(1, "you").serialize(), ErrorCode.BAD_FRAME),
    "short DIRECT": (frame(FrameType.DIRECT, bytes(15)), ErrorCode.BAD_FRAME),
    "malformed REBUNDLE": (frame(FrameType.REBUNDLE, b"\0\5x"), ErrorCode.BAD_FRAME),
    "bundle over 4 KiB": (frame(FrameType.REBUNDLE, b"\x10\x01"), ErrorCode.TOO_LARGE),
    "payload too long": (
        frame(FrameType.BROADCAST, bytes(MAX_PAYLOAD_BYTES + 1)),
        ErrorCode.TOO_LARGE,
    ),
    "frame too long": (u32(MAX_FRAME_BYTES + 1), ErrorCode.TOO_LARGE),
}


@pytest.mark.parametrize("name", [*BAD_AT_ONCE, *BAD_BEFORE_JOIN])
def test_what_breaks_the_protocol_before_a_join_is_told_why(house: House, name: str) -> None:
    data, code = {**BAD_AT_ONCE, **BAD_BEFORE_JOIN}[name]
    peer = house.peer(house.relay())
    peer.next()
    peer.send(data)
    peer.expect_error(code)
    assert len([line for line in house.log() if f" {code.name.lower()}: " in line]) == 1


@pytest.mark.parametrize("name", [*BAD_AT_ONCE, *BAD_OF_A_MEMBER])
def test_a_member_that_breaks_the_protocol_is_told_why_and_the_others_too(
    house: House, name: str
) -> None:
    data, code = {**BAD_AT_ONCE, **BAD_OF_A_MEMBER}[name]
    alice, mallory = house.members(house.relay(), 2)
    mallory.send(Broadcast(b"before"), data, Broadcast(b"after"))
    for peer in (alice, mallory):
        peer.expect(Broadcast(b"before"))
    mallory.expect_error(code)
    alice.expect(Del(mallory.session_id, LeaveReason.BAD_FRAME))
    alice.send(Broadcast(b"on we go"))
    alice.expect(Broadcast(b"on we go"))
    assert len([line for line in house.log() if f" {code.name.lower()}: " in line]) == 1


def test_an_error_arrives_though_bytes_are_left_unread(house: House) -> None:
    peer = house.peer(house.relay())
    peer.next()
    peer.send(b"\xff" * 900_000)  # closing over unread bytes would reset the connection
    peer.expect_error(ErrorCode.TOO_LARGE)


def test_endless_garbage_ends(house: House) -> None:
    peer = house.peer(house.relay())

    def send_a_gigabyte() -> None:
        for _ in range(16_384):
            peer.send(bytes(65_536))

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        send_a_gigabyte()


# --------------------------------------------------------------------------- limits


def read_along(peer: Peer, until: type) -> tuple[threading.Thread, list[Any]]:
    """Reads in a thread up to the first message of a type; returns what was no BROADCAST."""
    found: list[Any] = []

    def run() -> None:
        while not (found and isinstance(found[-1], until)):
            message = peer.next()
            if not isinstance(message, Broadcast):
                found.append(message)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def segments() -> int:
    """Of all logs in this process."""
    return sum(isinstance(thing, Segment) for thing in gc.get_objects())


@pytest.mark.parametrize(
    "limits",
    [
        {"max_lag_bytes": 1_000_000},
        {"max_lag_bytes": 2**40, "drain_timeout_s": 1.0},
    ],
    ids=["lags", "does not drain"],
)
def test_a_slow_consumer_is_cut_while_others_go_on_and_memory_is_bounded(
    house: House, limits: dict[str, Any]
) -> None:
    relay = house.relay(rate=0, **limits)
    slow = house.member(relay, rcvbuf=4096)
    talker, listener = house.member(relay), house.member(relay)
    talker.expect(Add(listener.session_id, b"bundle"))
    thread, found = read_along(listener, Del)
    before, most = segments(), 0
    sent = 0
    while thread.is_alive() and sent < 200_000_000:
        # In step with the echo, so that only the slow one lags; enough for the kernel's buffers.
        if sent < 20_000_000 or "drain_timeout_s" not in limits:
            talker.send(Broadcast(bytes(60_000)))
            sent += 60_000
            while not isinstance(talker.next(), Broadcast):
                pass
            most = max(most, segments())
        else:
            thread.join(0.01)
    thread.join()
    assert found == [Del(slow.session_id, LeaveReason.SLOW_CONSUMER)]
    if "drain_timeout_s" not in limits:
        assert most - before <= 1_000_000 // chat_fanout.SEGMENT_BYTES * 2 + 6
    talker.send(Broadcast(b"on we go"))
    for peer in (talker, listener):
        while (message := peer.next()) != Broadcast(b"on we go"):
            assert isinstance(message, Del | Broadcast)
    assert segments() - before <= 4  # what the slow one lacked is freed
    last = [m for m in slow.expect_end() if not isinstance(m, Add)]  # whole frames, or cut off
    assert all(m == Broadcast(bytes(60_000)) or isinstance(m, Error) for m in last)


def test_a_slow_consumer_that_reads_at_last_is_told_why(house: House) -> None:
    relay = house.relay(rate=0, max_lag_bytes=1_000_000, linger_s=DEADLINE_S)
    slow, talker = house.members(relay, 2)
    message = None
    while not isinstance(message, Del):
        if message is None or isinstance(message, Broadcast):  # in step with the echo
            talker.send(Broadcast(bytes(60_000)))
        message = talker.next()
    messages = slow.expect_end()
    assert all(m == Broadcast(bytes(60_000)) for m in messages[:-1])  # none is torn
    assert messages[-1].code == ErrorCode.SLOW_CONSUMER


def test_a_large_welcome_is_no_lag(house: House) -> None:
    relay = house.relay(max_lag_bytes=20_000)
    for _ in range(20):
        house.member(relay, bundle=bytes(MAX_BUNDLE_BYTES))
    late = house.peer(relay)
    late.join()
    assert len(late.welcome()) == 20


def test_the_rate_of_broadcasts_is_held_by_back_pressure_and_nothing_is_lost(
    house: House,
) -> None:
    fast, other = house.members(house.relay(rate=200), 2)
    start = time.monotonic()
    fast.send(*(Broadcast(u32(n)) for n in range(300)))
    for n in range(300):
        fast.expect(Broadcast(u32(n)))
        other.expect(Broadcast(u32(n)))
        if n == 250:
            assert time.monotonic() - start >= 0.2
    assert time.monotonic() - start >= 0.45  # 200 at once, 100 at 200 a second


def test_the_rate_of_direct_bytes_is_held_by_back_pressure_and_nothing_is_lost(
    house: House,
) -> None:
    fast, other = house.members(house.relay(direct_rate=100_000), 2)
    start = time.monotonic()
    frames = [Direct(other.session_id, bytes([n]) * 30_000) for n in range(5)]
    fast.send(*frames)
    other.send(Broadcast(b"not held up"))
    fast.expect(Broadcast(b"not held up"))
    assert [m for m in (other.next() for _ in range(6)) if isinstance(m, Direct)] == frames
    assert time.monotonic() - start >= 0.15  # the fifth waits for the debt of the fourth


def test_a_paused_member_is_not_taken_for_dead(house: House) -> None:
    peer = house.member(house.relay(rate=10, ping_interval_s=0.02))
    peer.send(*(Broadcast(u32(n)) for n in range(14)))
    for n in range(14):
        peer.expect(Broadcast(u32(n)))


def test_a_flood_of_small_frames_is_performed_in_turns(house: House) -> None:
    flood, other = house.members(house.relay(rate=0), 2)
    flood.send(*(Broadcast(b"") for _ in range(chat_server.FRAMES_A_TURN * 20)))
    other.send(Broadcast(b"between"))
    seen = [flood.next() for _ in range(chat_server.FRAMES_A_TURN * 20 + 1)]
    assert Broadcast(b"between") in seen


# --------------------------------------------------------------------------- any bytes at all


def garbage(rng: random.Random) -> bytes:
    """Random bytes, or frames of random types, or valid ones that are cut."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 3000))
    if kind == 1:
        body = rng.randbytes(rng.randrange(80))
        return u32(len(body) + 1) + bytes([rng.randrange(14)]) + body
    join = Join(ROOM, rng.randbytes(16), bytes(32), rng.randbytes(50)).serialize()
    if kind == 2:
        return join[: rng.randrange(1, len(join))]
    types = [FrameType.BROADCAST, FrameType.DIRECT, FrameType.REBUNDLE, FrameType.PING]
    frames = [frame(rng.choice(types), rng.randbytes(rng.randrange(60))) for _ in range(9)]
    return Join(OTHER_ROOM, rng.randbytes(16), bytes(32), b"").serialize() + b"".join(frames)


def test_garbage_from_many_disturbs_nobody_who_is_honest(house: House) -> None:
    relay = house.relay()
    alice, bob = house.members(relay, 2)
    is_over = threading.Event()

    def disturb(seed: int) -> None:
        rng = random.Random(seed)
        while not is_over.is_set():
            vandals = [Peer(relay.address) for _ in range(4)]
            for vandal in vandals:
                with contextlib.suppress(OSError):
                    vandal.send(garbage(rng))
                    vandal.half_close()
            for vandal in vandals:
                messages = vandal.expect_end()
                assert [m for m in messages if isinstance(m, Error)] in ([], messages[-1:])
                vandal.close()

    vandals = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
    for vandal in vandals:
        vandal.start()
    try:
        for n in range(300):
            alice.send(Broadcast(u32(n)))
            bob.send(Direct(alice.session_id, u32(n)))
            assert [m.payload for m in (alice.next(), alice.next())] == [u32(n)] * 2
            bob.expect(Broadcast(u32(n)))
    finally:
        is_over.set()
        for vandal in vandals:
            vandal.join()


@pytest.fixture(scope="module")
def open_relay() -> Iterator[Relay]:
    with start_server("127.0.0.1", 0, limits=Limits(linger_s=0.5)) as relay:
        yield relay
    assert relay.failure is None


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200), joins=st.booleans())
def test_any_bytes_get_an_error_or_the_end_and_never_harm_the_relay(
    open_relay: Relay, data: bytes, joins: bool
) -> None:
    peer = Peer(open_relay.address)
    try:
        if joins:
            peer.join(room=os.urandom(16))
            peer.welcome()
        peer.send(data)
        peer.half_close()
        messages = peer.expect_end()
    finally:
        peer.close()
    errors = [m for m in messages if isinstance(m, Error)]
    assert errors in ([], messages[-1:])
    assert open_relay.failure is None


def test_a_bug_costs_the_client_that_found_it_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[bytes] = []
    log = chat_daemon.EventLog(lines.append)

    def fail(*_arguments: object) -> None:
        raise RuntimeError("content that must not be logged")

    monkeypatch.setattr(Relay, "_rebundle", fail)
    with start_server("127.0.0.1", 0, log=log) as relay:
        one, two = Peer(relay.address), Peer(relay.address)
        for peer in (one, two):
            peer.join()
            peer.welcome()
        one.expect(Add(two.session_id, b"bundle"))
        one.send(Rebundle(b"x"))
        assert one.expect_end() == []
        two.expect(Del(one.session_id, LeaveReason.LEFT))
        one.close()
        two.close()
    log.close()
    (bug,) = [line for line in lines if b" bug " in line]
    assert b"RuntimeError" in bug
    assert b"content" not in bug


# --------------------------------------------------------------------------- the log of events


def test_the_log_has_one_line_for_each_join_leave_and_refusal_and_no_content(
    house: House,
) -> None:
    relay = house.relay()
    alice = house.member(relay, bundle=b"alice's bundle")
    alice.send(Broadcast(b"content"))
    alice.expect(Broadcast(b"content"))
    name = "{}:{}".format(*alice.socket.getsockname())
    alice.close()
    wait_until(lambda: any("left" in line for line in house.lines))
    vandal = house.peer(relay)
    vandal.next()
    vandal.send(u32(0))
    vandal.expect_error(ErrorCode.BAD_FRAME)
    vandal_name = "{}:{}".format(*vandal.socket.getsockname())
    relay.stop()
    session = alice.session_id[:4].hex()
    assert house.log() == [
        "start {}:{}".format(*relay.address),
        f"join {name} session {session}",
        f"leave {name} session {session} left",
        f"refused {vandal_name} bad_frame: a frame without a type",
        "stop 0 members",
    ]


def test_a_flood_of_refusals_is_counted_and_not_listed() -> None:
    lines: list[bytes] = []
    log = chat_daemon.EventLog(lines.append)
    log.roll()
    for n in range(1000):
        log.line("refused", str(n))
    log.line("join", "somebody")
    log.close()
    texts = [line.decode().split(" ", 1)[1] for line in lines]
    assert len(texts) <= 45  # two seconds' worth, if the clock just moved on
    assert "join somebody\n" in texts
    more = sum(int(t.split()[1]) for t in texts if t.endswith("more, not listed\n"))
    assert more + sum(t.startswith("refused") and "more" not in t for t in texts) == 1000


def test_a_log_that_blocks_or_breaks_holds_nobody_up(house: House) -> None:
    on_hold = threading.Event()

    def hold(_line: bytes) -> None:
        on_hold.wait(DEADLINE_S)
        raise BrokenPipeError

    log = chat_daemon.EventLog(hold)
    with start_server("127.0.0.1", 0, limits=Limits(linger_s=0.5), log=log) as relay:
        for _ in range(3):
            peer = house.member(relay)
            peer.send(Broadcast(b"hello"))
            peer.expect(Broadcast(b"hello"))
            peer.close()
        on_hold.set()
        assert house.member(relay).session_id
    log.close()


# --------------------------------------------------------------------------- the process


class Process:
    """`python chat_server.py` with these arguments, listening on a free port."""

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
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).rstrip("\n")

    def address(self) -> tuple[str, int]:
        assert self.line() == "Server is running..."
        words = self.line().split(" ")
        assert words[:2] == ["Listening", "on"]
        host, _, port = words[2].rpartition(":")
        return host, int(port)

    def end(self) -> tuple[int, str, str]:
        """Exit code and what is left of both outputs."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out or "", err or ""


@pytest.fixture
def run() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*arguments: str, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
        process.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_relay_cleanly(run: Callable[..., Process], number: int) -> None:
    process = run("--host", "127.0.0.1", "--port", "0")
    address = process.address()
    assert process.line() == (
        f"Join from this computer: python chat_client.py --server 127.0.0.1 --port {address[1]}"
    )
    peers = [Peer(address), Peer(address)]
    peers[0].join()
    peers[0].welcome()
    peers[1].next()  # is only half open
    process.process.send_signal(number)
    for peer in peers:
        peer.expect_error(ErrorCode.SHUTDOWN)
        peer.close()
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert [line.split(" ")[1] for line in err.splitlines()] == ["start", "join", "stop"]


def test_a_member_that_does_not_read_cannot_hold_up_a_stop(run: Callable[..., Process]) -> None:
    process = run("--host", "127.0.0.1", "--port", "0", "--rate", "0")
    peer = Peer(process.address(), rcvbuf=4096)
    peer.join()
    peer.welcome()
    for _ in range(60):  # below the lag limit, above what the kernel takes
        peer.send(Broadcast(bytes(60_000)))
    start = time.monotonic()
    process.process.terminate()
    assert process.end()[0] == 0
    assert time.monotonic() - start < 5.0
    peer.close()


def test_the_relay_ends_with_its_standard_input_if_asked(run: Callable[..., Process]) -> None:
    process = run("--host", "127.0.0.1", "--port", "0", "--exit-with-stdin")
    peer = Peer(process.address())
    peer.join()
    peer.welcome()
    assert process.process.stdin is not None
    process.process.stdin.write("ignored\n")
    process.process.stdin.flush()
    peer.send(Ping(1))
    peer.expect(Pong(1))
    process.process.stdin.close()
    process.process.stdin = None  # else `communicate` closes it again
    peer.expect_error(ErrorCode.SHUTDOWN)
    peer.close()
    assert process.end()[0] == 0


def free_port() -> int:
    """One that no client is given, so that nobody connects to itself while nothing listens."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def test_a_broken_output_does_not_stop_the_relay(run: Callable[..., Process]) -> None:
    port = free_port()
    for out, err in ((True, False), (False, True), (True, True)):
        reader, writer = os.pipe()
        process = run(
            "--host", "127.0.0.1", "--port", str(port), "--exit-with-stdin",
            stdout=writer if out else subprocess.DEVNULL,
            stderr=writer if err else subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writer)
        os.close(reader)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                peer = Peer(("127.0.0.1", port))
                break
            except ConnectionRefusedError:  # not yet
                assert time.monotonic() < deadline
                assert process.process.poll() is None
        peer.join()
        peer.welcome()
        peer.send(u32(0))
        peer.expect_error(ErrorCode.BAD_FRAME)
        peer.close()
        assert process.end()[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts on /proc and prlimit")
def test_running_out_of_descriptors_neither_kills_nor_spins(run: Callable[..., Process]) -> None:
    import resource

    process = run("--host", "127.0.0.1", "--port", "0")
    address = process.address()
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (30, 30))
    peers = [Peer(address) for _ in range(60)]
    peers[0].next()
    assert process.process.stderr is not None
    while "Too many open files" not in process.process.stderr.readline():
        pass
    before = process_seconds(process.process.pid)
    start = time.monotonic()
    process.process.stderr.readline()  # the next attempt, or a handshake's timeout
    assert process_seconds(process.process.pid) - before < max(0.2, time.monotonic() - start) / 2
    for peer in peers:
        peer.close()
    late = Peer(address)
    late.join()
    late.welcome()
    late.close()


def process_seconds(pid: int) -> float:
    """CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = chat_server.main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("chainroom-server: ")
    assert err.count("\n") == 1
    return code, err


def test_a_busy_port_is_one_line_and_exit_3(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(house.relay().address[1])
    code, err = complaint(capsys, "--host", "127.0.0.1", "--port", port)
    assert code == 3
    assert "in use" in err
    assert "--port 0" in err


@pytest.mark.parametrize("host", ["192.0.2.77", "a..b", "nowhere.invalid"])
def test_an_address_that_is_not_ours_is_one_line_and_exit_3(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    code, err = complaint(capsys, "--host", host, "--port", "0")
    assert code == 3
    assert host in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "65536"],
        ["--port", "-1"],
        ["--max-clients", "0"],
        ["--rate", "1e9"],
        ["--nonsense"],
        ["5555"],
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, err = complaint(capsys, *arguments)
    assert code == 2
    assert "--help" in err


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize(
    ("content", "mode", "hint"),
    [
        (b"secret\n", 0o644, "chmod 600"),
        (b"secret\n", 0o640, "chmod 600"),
        (b"\nsecret\n", 0o600, "empty"),
        (b"", 0o600, "empty"),
        (b"\xff\xfe\n", 0o600, "UTF-8"),
        (b"x" * 5000, 0o600, "4096"),
        (None, 0, "No such file"),
    ],
)
def test_a_bad_password_file_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    mode: int,
    hint: str,
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    code, err = complaint(capsys, "--port", "0", "--password-file", str(path))
    assert code == 2
    assert hint in err


def test_the_password_is_the_first_line_in_nfc(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_bytes("pa\u0308ss word \r\nsecond".encode())
    assert chat_daemon.read_password(str(path)) == "p\u00e4ss word ".encode()


def test_a_password_file_closes_the_door_of_a_real_relay(
    run: Callable[..., Process], tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("secret\n")
    process = run("--host", "127.0.0.1", "--port", "0", "--password-file", str(path))
    address = process.address()
    peer, other = Peer(address), Peer(address)
    peer.join(password=b"secret")
    peer.welcome()
    other.join(password=b"guess")
    other.expect_error(ErrorCode.PASSWORD)
    peer.close()
    other.close()


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_said_with_exit_0(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert chat_server.main([flag]) == 0
    out, err = capsys.readouterr()
    assert "hainroom" in out
    assert err == ""


def test_the_lines_to_paste_name_addresses_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = ["127.0.0.1", "192.168.1.5", "10.0.0.7", "192.168.1.5"]
    monkeypatch.setattr(chat_daemon, "own_addresses", lambda: iter(own))
    command = "python chat_client.py --server"
    assert chat_daemon.join_lines("0.0.0.0", 5555) == [
        f"Join from another computer: {command} 192.168.1.5 --port 5555",
        f"Join from another computer: {command} 10.0.0.7 --port 5555",
    ]
    assert chat_daemon.join_lines("10.0.0.7", 1) == [
        f"Join from another computer: {command} 10.0.0.7 --port 1"
    ]
    here = f"Join from this computer: {command} 127.0.0.1 --port 9"
    assert chat_daemon.join_lines("127.0.0.1", 9) == [here]
    del own[1:]
    assert chat_daemon.join_lines("0.0.0.0", 9) == chat_daemon.join_lines("::", 9) == [here]


def test_own_addresses_are_numeric() -> None:
    for address in chat_daemon.own_addresses():
        socket.inet_pton(socket.AF_INET, address)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_works_and_ipv4_comes_to_its_wildcard_as_itself(house: House, host: str) -> None:
    try:
        relay = house.relay(host=host)
    except OSError:
        pytest.skip("this host has no IPv6")
    sock = socket.create_connection(("::1", relay.address[1]), timeout=DEADLINE_S)
    assert sock.recv(1) == b"\0"
    sock.close()
    if host == "::":
        peer = Peer(("127.0.0.1", relay.address[1]))
        peer.join()
        peer.welcome()
        peer.close()
        wait_until(lambda: any(" join 127.0.0.1:" in line for line in house.lines))


def test_a_relay_that_is_stopped_leaves_no_thread_and_no_socket() -> None:
    before = threading.active_count()
    relay = start_server("127.0.0.1", 0)
    peer = Peer(relay.address)
    peer.next()
    relay.request_stop()
    peer.expect_error(ErrorCode.SHUTDOWN)
    peer.close()
    relay.stop()
    relay.stop()
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(relay.address, timeout=DEADLINE_S)


# --------------------------------------------------------------------------- fan-out


class Wire:
    """A socket that takes so many bytes of each send, or blocks where that is none."""

    def __init__(self) -> None:
        self.room = 0
        self.taken = b""

    def send(self, data: Any) -> int:
        if not self.room:
            raise BlockingIOError
        piece = bytes(data)[: self.room]
        self.taken += piece
        return len(piece)

    def sendmsg(self, pieces: list[Any]) -> int:
        assert 0 < len(pieces) <= chat_fanout.MAX_PIECES
        return self.send(b"".join(bytes(piece) for piece in pieces))


class Sink(Wire):
    """A socket that takes everything and keeps nothing."""

    def send(self, data: Any) -> int:
        return len(data)


def numbered(n: int, size: int) -> bytes:
    return u32(1 + size) + bytes([n % 251]) * (1 + size)


@pytest.mark.parametrize("has_sendmsg", [True, False])
@settings(max_examples=200)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 40)),
            st.tuples(st.just("put"), st.integers(0, 40)),
            st.tuples(st.just("flush"), st.integers(0, 200)),
        ),
        max_size=60,
    ),
    end=st.sampled_from(["", "cut", "end"]),
)
def test_an_outlet_sends_log_and_own_frames_in_their_order_whatever_the_kernel_takes(
    has_sendmsg: bool, steps: list[tuple[str, int]], end: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_fanout, "SEGMENT_BYTES", 100)
        patch.setattr(chat_fanout, "MAX_PIECES", 3)
        patch.setattr(chat_fanout, "_HAS_SENDMSG", has_sendmsg)
        log, outlet, wire = Log(), Outlet(), Wire()
        sock: Any = wire
        log.append(numbered(0, 5))  # before it came
        outlet.put(b"\0\0\0\1H", is_lag=False)
        outlet.enter(log)
        frames = [b"\0\0\0\1H"]
        for n, (step, size) in enumerate(steps, 1):
            if step == "flush":
                wire.room = size
                assert outlet.flush(sock) <= size
            else:
                frames.append(numbered(n, size))
                (log.append if step == "append" else outlet.put)(frames[-1])
            expected = b"".join(frames)
            assert expected.startswith(wire.taken)
            assert outlet.is_empty == (len(wire.taken) == len(expected))
            assert outlet.lag == len(expected) - max(5, len(wire.taken))
        if end:
            frames.append(b"\0\0\0\1E")
            (outlet.cut if end == "cut" else outlet.end)(frames[-1])
            log.append(numbered(99, 5))  # after it left
        if end == "cut":
            assert outlet.lag <= 4 + 41 + 5
        wire.room = 1000
        while not outlet.is_empty:
            assert outlet.flush(sock)
        assert outlet.lag == 0
        if end == "cut":
            *whole, last = decoded(wire.taken)
            assert (whole, last) == (frames[: len(whole)], frames[-1])
        else:
            assert wire.taken == b"".join(frames)


def decoded(data: bytes) -> Iterator[bytes]:
    """The frames of a stream that holds whole ones alone."""
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        assert len(data) >= size
        yield data[:size]
        data = data[size:]


def test_segments_are_freed_when_the_last_cursor_has_left_them() -> None:
    before = segments()
    log, fast, slow = Log(), Outlet(), Outlet()
    fast.enter(log)
    slow.enter(log)
    wire: Any = Sink()
    for n in range(200):
        log.append(numbered(n, 60_000))
        while not fast.is_empty:
            fast.flush(wire)
    assert segments() - before > 90
    slow.cut(b"")
    assert segments() - before <= 3
    assert fast.lag == 0
