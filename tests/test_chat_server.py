"""The relay over real sockets on 127.0.0.1: every rule of DESIGN.md, section 7.

Each rule is proved for a small room's way to its members and for a large room's
(`relay_peers.WAYS`).  Nothing sleeps to be right: a peer waits for the frame that must come, with a
deadline of its own.
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
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_peers import (
    DEADLINE_S,
    OTHER_ROOM,
    ROOM,
    WAYS,
    Crowd,
    Ear,
    House,
    Peer,
    Process,
    held,
    judge,
    log_bytes,
    log_files,
    numbers,
    processes,
    segments,
    talk,
    wait_until,
)

import chat_daemon
import chat_fanout
import chat_server
from chat_server import Relay
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


@pytest.fixture(params=["plain", "shared"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with House(request.param) as house:
        yield house


@pytest.fixture
def run() -> Iterator[Callable[..., Process]]:
    with processes() as start:
        yield start


# Where bytes of the log and a member's own frames meet, systems without sendmsg differ too.
every_way = pytest.mark.parametrize("house", WAYS, indirect=True)


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


@every_way
def test_a_member_may_speak_in_the_same_breath_as_it_joins(house: House) -> None:
    peer = house.peer(house.relay())
    peer.next()
    join = Join(ROOM, bytes(16), bytes(32), b"")
    peer.send(join, Broadcast(bytes(MAX_PAYLOAD_BYTES)))  # longer than a JOIN may be
    assert peer.welcome() == []
    peer.expect(Broadcast(bytes(MAX_PAYLOAD_BYTES)))


@every_way
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
    bob.expect(Add(late.session_id, b"bundle"))
    alice.send(Rebundle(b"newer"))  # and nothing behind it
    for peer in (bob, late):
        peer.expect(Add(alice.session_id, b"newer"))


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
    house.wait_for(" left")
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


def test_a_handshake_of_as_many_frames_as_are_allowed_is_welcomed(house: House) -> None:
    peer = house.peer(house.relay())
    hello = peer.next()
    assert isinstance(hello, Hello)
    pings = [Ping(n) for n in range(chat_server.MAX_HANDSHAKE_FRAMES - 1)]
    peer.send(*pings, Join(ROOM, os.urandom(16), bytes(32), b""), *pings, *pings)
    peer.expect(*(Pong(ping.token) for ping in pings))
    assert peer.welcome() == []
    peer.expect(*(Pong(ping.token) for ping in [*pings, *pings]))  # a member may go on


def test_more_frames_before_welcome_are_bad_frame_a_join_among_them(house: House) -> None:
    relay = house.relay()
    pings = [Ping(n) for n in range(chat_server.MAX_HANDSHAKE_FRAMES)]
    for one_more in (Ping(99), Pong(99), Join(ROOM, os.urandom(16), bytes(32), b"")):
        peer = house.peer(relay)
        peer.next()
        peer.send(*pings)
        peer.expect(*(Pong(ping.token) for ping in pings))
        peer.send(one_more)
        peer.expect_error(ErrorCode.BAD_FRAME)


def test_who_waits_for_a_session_may_send_no_more_frames_either(house: House) -> None:
    relay = house.relay(challenge_timeout_s=DEADLINE_S)
    old, other = house.members(relay, 2)
    claim = house.peer(relay)
    claim.join(session=old.session_id)
    assert old.raw().type == FrameType.PING
    pings = [Ping(n) for n in range(chat_server.MAX_HANDSHAKE_FRAMES)]  # and JOIN before them
    claim.send(*pings)
    claim.expect(*(Pong(ping.token) for ping in pings[:-1]))
    claim.expect_error(ErrorCode.BAD_FRAME)
    old.send(Broadcast(b"still here"))
    for peer in (old, other):
        peer.expect(Broadcast(b"still here"))


def test_a_flood_of_pings_before_a_join_costs_the_relay_16_answers_and_holds_nobody_up(
    house: House,
) -> None:
    relay = house.relay()
    alice, bob = house.members(relay, 2)
    flood = [house.peer(relay) for _ in range(30)]
    for peer in flood:
        peer.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            peer.socket.send(Ping(7).serialize() * 20_000)
        peer.socket.settimeout(DEADLINE_S)
    for n in range(100):
        alice.send(Broadcast(u32(n)))
        bob.expect(Broadcast(u32(n)))
        alice.expect(Broadcast(u32(n)))
    for peer in flood:
        assert isinstance(peer.next(), Hello)
        peer.expect(*[Pong(7)] * chat_server.MAX_HANDSHAKE_FRAMES)
        peer.expect_error(ErrorCode.BAD_FRAME)


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
    house.wait_for("closed before it joined")
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
    relay = house.relay(challenge_timeout_s=0.3)
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
    house.wait_for("closed before it joined")
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


@every_way
def test_a_broadcast_reaches_the_whole_room_sender_included_byte_for_byte(house: House) -> None:
    peers = house.members(house.relay(), 3)
    for payload in (b"", b"\0", os.urandom(600), os.urandom(MAX_PAYLOAD_BYTES)):
        raw = Broadcast(payload).serialize()
        peers[0].send(raw)
        assert [peer.raw().raw for peer in peers] == [raw] * 3


@every_way
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


@every_way
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


@every_way
def test_a_join_is_one_point_in_the_room_however_much_is_said_around_it(house: House) -> None:
    relay = house.relay(rate=0)
    talker = house.member(relay)
    is_over = threading.Event()
    seen: list[Any] = []

    def talk() -> None:
        n = 0
        while not is_over.is_set():
            wait_until(lambda: n < len(seen) + 5_000)  # noqa: B023 - it lags by so much, not more
            talker.send(*(Broadcast(u64(n + i) + bytes(100)) for i in range(20)))
            n += 20
        talker.send(Broadcast(b"the end"))

    def listen() -> None:
        while not seen or seen[-1] != Broadcast(b"the end"):
            seen.append(talker.next())

    listener = threading.Thread(target=listen)
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


@every_way
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


@every_way
def test_a_large_room_hears_one_order_while_others_come_and_go(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_server, "UNSENT_BYTES", 4_096)  # the kernel often takes a part alone
    relay = house.relay(rate=0)
    count, talkers = 500, 3
    rng = random.Random(1)
    guests: list[Ear] = []
    with Crowd() as crowd:
        ears = [
            crowd.add(house.member(relay, rcvbuf=4096 if n % 3 == 0 else None)) for n in range(200)
        ]
        speakers = [
            threading.Thread(target=talk, args=(crowd, ears, range(n, count, talkers), 40))
            for n in range(talkers)
        ]
        for speaker in speakers:
            speaker.start()
        present: list[Ear] = []
        while len(guests) < 50:
            guests.append(crowd.add(house.member(relay)))
            present.append(guests[-1])
            while present and rng.random() < 0.5:
                crowd.drop(present.pop(rng.randrange(len(present))))
        for speaker in speakers:
            speaker.join()
        for guest in present:
            crowd.drop(guest)
        crowd.wait(lambda: all(len(ear.numbers) == count for ear in ears))
        crowd.wait(lambda: all(len(ear.dels) == 50 for ear in ears))
        crowd.wait(lambda: sum(len(ear.directs) for ear in ears) == 51)
    judge(ears, guests, talkers, count)
    assert any(0 < ears[0].adds[guest.peer.session_id] < count for guest in guests)


def test_a_newcomer_hears_nothing_of_who_had_its_descriptor_before(house: House) -> None:
    relay = house.relay(rate=0, max_lag_bytes=2**30)
    talker = house.member(relay)
    for _ in range(3):
        slow = house.member(relay, rcvbuf=4096)
        talker.expect(Add(slow.session_id, b"bundle"))
        while house.status(relay)["lag"] == 0:
            for _ in range(20):
                talker.send(Broadcast(bytes(60_000)))
                talker.expect(Broadcast(bytes(60_000)))
        slow.reset()
        late = house.peer(relay)  # the kernel gives out the lowest number that is free
        late.join()
        talker.expect(Del(slow.session_id, LeaveReason.LEFT), Add(late.session_id, b"bundle"))
        assert late.welcome() == [Member(talker.session_id, b"bundle")]
        talker.send(Broadcast(b"first"), Direct(late.session_id, b"second"))
        late.expect(Broadcast(b"first"), Direct(late.session_id, b"second"))
        talker.expect(Broadcast(b"first"))
        late.close()
        talker.expect(Del(late.session_id, LeaveReason.LEFT))


def test_a_room_that_is_empty_holds_no_memory_and_no_file(house: House) -> None:
    before, files = held()
    relay = house.relay(rate=0)
    members = house.members(relay, 3)
    for _ in range(60):
        members[0].send(Broadcast(bytes(60_000)))
        for peer in members:
            peer.expect(Broadcast(bytes(60_000)))
    assert segments() > before
    assert log_files() == files + (house.way.senders > 1)
    for peer in members:
        peer.close()
    wait_until(lambda: segments() == before)
    assert log_files() == files


def test_an_idle_member_costs_less_than_4_kib_its_bundle_of_2000_bytes_included(
    house: House,
) -> None:
    relay, count = house.relay(), 150
    sockets = []
    tracemalloc.start()
    try:
        for n in range(count):
            sockets.append(socket.create_connection(relay.address, timeout=DEADLINE_S))
            sockets[n].sendall(Join(ROOM, u64(n) * 2, bytes(32), bytes(2_000)).serialize())
        wait_until(lambda: house.count_of("join") == count)
        assert house.status(relay)["lag"] == 0
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
        of_the_room = log_bytes()
    finally:
        tracemalloc.stop()
        for sock in sockets:
            sock.close()
    ours = [tracemalloc.Filter(True, f"*/{name}.py") for name in ("chat_*", "selectors")]
    used = snapshot.filter_traces(ours).statistics("filename")
    assert (sum(part.size for part in used) - of_the_room) / count < 4_096


# --------------------------------------------------------------------------- staying and leaving


def test_ping_is_answered_by_pong(house: House) -> None:
    peer = house.member(house.relay())
    peer.send(Ping(2**64 - 1))
    peer.expect(Pong(2**64 - 1))


def test_who_answers_pings_stays_and_who_does_not_is_timeout(house: House) -> None:
    relay = house.relay(ping_interval_s=0.1)
    alive, dead = house.members(relay, 2)
    alive.expect(Del(dead.session_id, LeaveReason.TIMEOUT))  # answers pings while it waits
    pings = [dead.raw(), dead.raw()]
    assert {ping.type for ping in pings} == {FrameType.PING}
    dead.expect_error(ErrorCode.TIMEOUT)
    alive.send(Broadcast(b"here"))
    alive.expect(Broadcast(b"here"))


@every_way
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


@pytest.mark.parametrize(
    "limits",
    [
        {"max_lag_bytes": 1_000_000},
        {"max_lag_bytes": 2**40, "drain_timeout_s": 0.5},
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
    (before, _), most = held(), 0
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


@every_way
def test_a_slow_consumer_that_reads_at_last_is_told_why_and_not_what_it_lacked(
    house: House,
) -> None:
    relay = house.relay(rate=0, max_lag_bytes=1_000_000, linger_s=DEADLINE_S)
    slow, talker = house.members(relay, 2)
    message, sent = None, 0
    while not isinstance(message, Del):
        if message is None or isinstance(message, Broadcast):  # in step with the echo
            talker.send(Broadcast(bytes(60_000)))
            sent += 1
        message = talker.next()
    messages = slow.expect_end()
    assert all(m == Broadcast(bytes(60_000)) for m in messages[:-1])  # none is torn
    assert messages[-1].code == ErrorCode.SLOW_CONSUMER
    assert sent - len(messages) >= 1_000_000 // 60_005 - 2


@every_way
def test_a_large_welcome_is_no_lag_and_what_is_said_behind_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("the kernel takes a large WELCOME whole")
    relay = house.relay(max_lag_bytes=20_000)
    members = [house.member(relay, bundle=bytes(MAX_BUNDLE_BYTES)) for _ in range(20)]
    monkeypatch.setattr(chat_server, "UNSENT_BYTES", 10_000)
    late = house.peer(relay, rcvbuf=4096)
    late.join()
    wait_until(lambda: house.count_of("join") == 21)
    assert house.status(relay)["lag"] == 0
    members[0].send(Broadcast(bytes(100)))
    house.wait_for(f"join {late.name}")
    wait_until(lambda: house.status(relay)["lag"] == 105)  # behind what is not sent yet
    assert len(late.welcome()) == 20
    late.expect(Broadcast(bytes(100)))


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
    peer = house.member(house.relay(rate=20, ping_interval_s=0.01))
    peer.send(*(Broadcast(u32(n)) for n in range(24)))
    for n in range(24):
        peer.expect(Broadcast(u32(n)))


def test_a_paused_member_does_not_lose_its_session(house: House) -> None:
    relay = house.relay(rate=20, challenge_timeout_s=0.1)
    old = house.member(relay)
    # Its PONG would lie behind these, which are not read before their time.
    old.send(*(Broadcast(u32(n)) for n in range(27)))
    for n in range(21):
        old.expect(Broadcast(u32(n)))
    claim = house.peer(relay)
    claim.join(session=old.session_id)
    claim.expect_error(ErrorCode.SESSION_IN_USE)
    for n in range(21, 27):
        old.expect(Broadcast(u32(n)))


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


def test_any_bytes_get_an_error_or_the_end_and_never_harm_the_relay(house: House) -> None:
    relay = house.relay()

    @settings(max_examples=100)
    @given(data=st.binary(max_size=200), joins=st.booleans())
    def check(data: bytes, joins: bool) -> None:
        with Peer(relay.address) as peer:
            if joins:
                peer.join(room=os.urandom(16))
                peer.welcome()
            peer.send(data)
            peer.half_close()
            messages = peer.expect_end()
        errors = [m for m in messages if isinstance(m, Error)]
        assert errors in ([], messages[-1:])
        assert relay.failure is None

    check()


def test_a_bug_costs_the_client_that_found_it_and_nobody_else(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("content that must not be logged")

    monkeypatch.setattr(Relay, "_rebundle", fail)
    lines: list[bytes] = []
    log = chat_daemon.EventLog(lines.append)
    one, two = house.members(house.relay(log=log), 2)
    one.send(Rebundle(b"x"))
    assert one.expect_end() == []
    two.expect(Del(one.session_id, LeaveReason.LEFT))
    log.close()
    (bug,) = [line for line in lines if b" bug " in line]
    assert b"RuntimeError" in bug
    assert one.name.encode() in bug
    assert b"content" not in bug


# --------------------------------------------------------------------------- the log of events


def test_the_log_has_one_line_for_each_join_leave_and_refusal_and_no_content(
    house: House,
) -> None:
    relay = house.relay()
    alice = house.member(relay, bundle=b"alice's bundle")
    alice.send(Broadcast(b"content"))
    alice.expect(Broadcast(b"content"))
    alice.close()
    house.wait_for(" left")
    vandal = house.peer(relay)
    vandal.next()
    vandal.send(u32(0))
    vandal.expect_error(ErrorCode.BAD_FRAME)
    vandal.close()
    relay.stop()
    session = alice.session_id[:4].hex()
    assert house.log() == [
        "start {}:{}".format(*relay.address),
        f"join {alice.name} session {session}",
        f"leave {alice.name} session {session} left",
        f"refused {vandal.name} bad_frame: a frame without a type",
        "stop 0 members",
    ]


class Clock:
    """The relay's time, which stands unless a test moves it."""

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()))

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(chat_server, "time", clock)
    return clock


def test_a_status_line_says_what_went_through_since_the_one_before(
    house: House, clock: Clock
) -> None:
    relay = house.relay(handshake_timeout_s=DEADLINE_S)
    alice, bob, carol = house.members(relay, 3)
    other = house.member(relay, room=OTHER_ROOM)
    house.peer(relay).next()  # half open: no member
    house.status(relay)
    clock.now += 2.0
    messages: list[Any] = [Broadcast(bytes(n * 100)) for n in range(10)]
    directs = [Direct(bob.session_id, b"abc"), Direct(bob.session_id, b"")]
    alice.send(*messages, *directs, Direct(bytes(16), b"to nobody"), Ping(1))
    alice.expect(*messages, Pong(1))
    bob.expect(*messages, *directs)
    carol.expect(*messages)
    other.send(messages[9])
    other.expect(messages[9])
    clock.now += 2.0
    sizes = [len(message.serialize()) for message in messages]
    received = sum(sizes) + 24 + 21 + 30 + 13 + sizes[9]
    sent = 3 * sum(sizes) + 24 + 21 + 13 + sizes[9]
    assert house.status(relay) == {
        "members": 4,
        "rooms": 2,
        "frames/s": round(13 / 4, 1),  # what goes to nobody is no frame
        "deliveries/s": round((10 * 3 + 2 + 1) / 4, 1),
        "bytes/s in": round(received / 4),
        "bytes/s out": round(sent / 4),
        "lag": 0,
        "drops": 0,
    }
    clock.now += 1.0
    status = house.status(relay)
    assert (status["frames/s"], status["bytes/s in"], status["bytes/s out"]) == (0, 0, 0)
    assert (status["members"], status["rooms"]) == (4, 2)


def test_a_status_line_says_who_lags_and_counts_who_was_cut(house: House) -> None:
    relay = house.relay(rate=0, max_lag_bytes=3_000_000)
    slow = house.member(relay, rcvbuf=4096)
    talker = house.member(relay)
    sent = 0
    while (status := house.status(relay))["lag"] == 0:
        talker.send(Broadcast(bytes(60_000)))
        talker.expect(Broadcast(bytes(60_000)))
        sent += 60_005
    assert status["lag"] <= 60_005  # more each time from now on
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        assert sent < 2 * chat_server.UNSENT_BYTES, "the kernel keeps too much"
    assert (status["members"], status["drops"]) == (2, 0)
    talker.send(Broadcast(bytes(60_000)))
    talker.expect(Broadcast(bytes(60_000)))
    assert house.status(relay)["lag"] == status["lag"] + 60_005
    slow.expect(Add(talker.session_id, b"bundle"))
    for _ in range(sent // 60_005 + 1):
        slow.expect(Broadcast(bytes(60_000)))
    assert house.status(relay)["lag"] == 0
    message: Any = None
    while not isinstance(message, Del):
        talker.send(Broadcast(bytes(60_000)))
        message = talker.next()
    talker.expect(Broadcast(bytes(60_000)))
    slow.close()
    house.wait_for("slow_consumer")
    for _ in range(2):  # ever, not since the line before
        status = house.status(relay)
        assert (status["members"], status["drops"]) == (1, 1)


def test_what_this_turn_will_send_is_no_lag(house: House, clock: Clock) -> None:
    relay = house.relay(status_interval_s=1.0)
    alice, bob = house.members(relay, 2)
    for n in range(5):
        count = house.count_of("status")
        clock.now += 1.0  # seen when the next message wakes the relay
        alice.send(Broadcast(bytes(20_000)))
        bob.expect(Broadcast(bytes(20_000)))
        alice.expect(Broadcast(bytes(20_000)))
        wait_until(lambda: house.count_of("status") > count)  # noqa: B023
        assert numbers(house.lines[-1])["lag"] == 0, n


def test_status_lines_come_by_themselves_at_their_interval_and_else_when_asked_for(
    house: House, clock: Clock
) -> None:
    often, never = house.relay(status_interval_s=10.0), house.relay()
    members = [house.member(relay) for relay in (often, never)]
    for n in range(1, 4):
        clock.now += 9.5
        for member in members:
            member.send(Ping(n))
            member.expect(Pong(n))
        assert house.count_of("status") == n - 1
        clock.now += 0.5
        wait_until(lambda: house.count_of("status") == n)  # noqa: B023
    house.status(never)


def test_a_log_that_blocks_or_breaks_holds_nobody_up(house: House) -> None:
    on_hold = threading.Event()

    def hold(_line: bytes) -> None:
        on_hold.wait(DEADLINE_S)
        raise BrokenPipeError

    log = chat_daemon.EventLog(hold)
    relay = house.relay(log=log)
    for _ in range(3):
        with house.member(relay) as peer:
            peer.send(Broadcast(b"hello"))
            peer.expect(Broadcast(b"hello"))
    on_hold.set()
    assert house.member(relay).session_id
    log.close()


# --------------------------------------------------------------------------- the process


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


def test_a_relay_that_is_stopped_leaves_no_thread_and_no_socket(house: House) -> None:
    before = threading.active_count()
    relay = house.relay()
    assert threading.active_count() == before + house.way.senders  # its own is one of them
    peer = house.peer(relay)
    peer.next()
    relay.request_stop()
    peer.expect_error(ErrorCode.SHUTDOWN)
    peer.close()
    relay.stop()
    relay.stop()
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(relay.address, timeout=DEADLINE_S)
