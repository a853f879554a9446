"""Fan-out: what goes into a log and what comes out of it, byte for byte, whatever the kernel does.

Sockets are fakes that take and give as many bytes as a test says, and real ones with the smallest
buffers that there are.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import select
import socket
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from relay_peers import DEADLINE_S, WAYS, decoded, held, log_files, segments, use

import chat_fanout
from chat_fanout import Intake, Log, Outlet, Segment, Senders, default_senders
from chat_wire import (
    FrameDecoder,
    FrameType,
    Malformed,
    TooLarge,
    WireError,
    u32,
)

needs_files = pytest.mark.skipif(
    not chat_fanout._HAS_SENDFILE,
    reason="memfd and sendfile are there on Linux alone",
)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Limits small enough that every boundary is near."""
    for name, value in {
        "FIRST_SEGMENT_BYTES": 16,
        "SEGMENT_BYTES": 100,
        "MIN_READ_BYTES": 8,
        "MAX_FRAME_BYTES": MOST,
        "MAX_PAYLOAD_BYTES": MOST_PAYLOAD,
        "_MAX_BROADCAST_BYTES": 1 + MOST_PAYLOAD,
        "MAX_PIECES": 3,
        "JOINED_BYTES": 30,
        "SENDFILE_BYTES": 8,
        "SENDFILE_RECEIVERS": 1,
        "OUTLETS_A_THREAD": 1,
    }.items():
        monkeypatch.setattr(chat_fanout, name, value)
    return monkeypatch


MOST, MOST_PAYLOAD = 60, 43  # as far from each other as the real limits
BROADCAST, DIRECT = bytes([FrameType.BROADCAST]), bytes([FrameType.DIRECT])
PING, END = u32(9) + bytes([FrameType.PING]) + bytes(8), u32(1) + bytes([FrameType.ERROR])


def framed(kind: bytes, body: bytes) -> bytes:
    return u32(1 + len(body)) + kind + body


def numbered(n: int, size: int) -> bytes:
    return framed(BROADCAST, bytes([n % 251]) * size)


def chain(first: Segment) -> Iterator[Segment]:
    """This segment and all behind it."""
    segment: Segment | None = first
    while segment is not None:
        yield segment
        segment = segment.next


def content(first: Segment) -> bytes:
    """All that a log was given since then; its books are in order."""
    position, data = first.start, b""
    for segment in chain(first):
        assert segment.start == position
        assert segment.shared <= segment.used <= len(segment.view)
        if segment.fd >= 0:
            shared = bytes(segment.view[: segment.shared])
            assert os.pread(segment.fd, len(shared) + 100, 0) == shared
        data += segment.view[: segment.used]
        position += segment.used
    return data


# --------------------------------------------------------------------------- into the log


class Mouth:
    """A socket that gives at most so many bytes of its stream at each read."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.most = 0

    def recv_into(self, view: memoryview) -> int:
        if not self.most:
            raise BlockingIOError
        count = min(len(view), self.most, len(self.stream))
        view[:count] = self.stream[:count]
        self.stream = self.stream[count:]
        return count


class Sender:
    """A member as the relay sees it: its rest is carried from one intake to the next."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.mouth: Any = Mouth(stream)
        self.rest = b""
        self.events: list[bytes | type[WireError]] = []

    @property
    def is_over(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], type)

    def turn(self, log: Log, most: int, intake: Intake) -> None:
        """Takes in what was received, as far as `most` lets it."""
        found: bytes | type[WireError] | None = b""
        while found is not None and not self.is_over:
            last, at, before = log.last, log.last.used, intake.broadcasts
            try:
                found = intake.next(most)
            except WireError as exc:
                found = type(exc)
            assert log.last is last, "an intake lies in one segment"
            taken = decoded(bytes(last.view[at : last.used]))
            assert len(taken) == intake.broadcasts - before
            assert all(raw[4:5] == BROADCAST for raw in taken)
            self.events += taken
            if found is not None:
                self.events.append(found)
        assert intake.broadcasts <= most
        self.rest = intake.rest()
        if intake.broadcasts < most and not self.is_over:
            assert cut(self.rest) == [], "a frame was left behind"


def cut(stream: bytes) -> list[bytes | type[WireError]]:
    """What a stream is: frames, and the error that ends them, as FrameDecoder has it."""
    decoder = FrameDecoder(MOST)
    decoder.feed(stream)
    events: list[bytes | type[WireError]] = []

    def check(raw: bytes) -> None:  # a payload is refused by its header alone
        if raw[4:5] == BROADCAST and int.from_bytes(raw[:4], "big") > 1 + MOST_PAYLOAD:
            raise TooLarge

    try:
        for found in decoder:
            check(found.raw)
            events.append(found.raw)
        check(decoder.rest())
    except WireError as exc:
        events.append(type(exc))
    return events


BODIES = st.binary(max_size=MOST_PAYLOAD)
FRAMES = [
    st.builds(framed, st.just(BROADCAST), BODIES),
    st.builds(framed, st.just(BROADCAST), BODIES),
    st.builds(framed, st.just(DIRECT), st.binary(min_size=16, max_size=MOST - 1)),
    st.just(PING),
    # Runs of one size, maybe ended by a frame of the same size and another type.
    st.builds(
        lambda bodies, last: b"".join(framed(BROADCAST, body) for body in bodies) + last,
        st.lists(st.binary(min_size=8, max_size=8), min_size=2, max_size=9),
        st.sampled_from([b"", PING, framed(DIRECT, bytes(8))]),
    ),
]
ANYTHING = [
    st.builds(framed, st.just(BROADCAST), st.binary(min_size=MOST_PAYLOAD - 1, max_size=MOST)),
    st.builds(framed, st.binary(min_size=1, max_size=1), st.binary(max_size=9)),
    st.binary(max_size=6),
    st.sampled_from([bytes(4), u32(MOST + 1), b"\xff\xff\xff\xff", u32(MOST)]),
]
STREAMS = st.builds(
    lambda frames, rest: b"".join(frames + rest),
    st.lists(st.one_of(FRAMES), max_size=20),
    st.lists(st.one_of(*FRAMES, *ANYTHING), max_size=5),
)
TURNS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 250), st.integers(1, 9)),
    min_size=10,
    max_size=50,
)


def test_an_intake_cuts_any_bytes_as_the_decoder_does_whatever_the_split(
    patch: pytest.MonkeyPatch,
) -> None:
    @settings(max_examples=200)
    @given(
        streams=st.lists(STREAMS, min_size=1, max_size=3),
        turns=TURNS,
        segment_bytes=st.sampled_from([30, 100, 2_000]),
    )
    def check(streams: list[bytes], turns: list[tuple[int, int, int]], segment_bytes: int) -> None:
        patch.setattr(chat_fanout, "FIRST_SEGMENT_BYTES", segment_bytes // 2)
        patch.setattr(chat_fanout, "SEGMENT_BYTES", segment_bytes)
        log, senders = Log(), [Sender(stream) for stream in streams]
        first, expected = log.last, b""
        # At last everybody reads all that is left.
        rest = [(n, 999, 99) for n in range(len(senders)) for _ in range(500)]
        for who, size, most in [*turns, *rest]:
            if who == 3:  # the relay's own frames go between those of members
                log.append(END)
                expected += END
                assert content(first) == expected
            if who >= len(senders) or senders[who].is_over:
                continue
            sender = senders[who]
            sender.mouth.most = size
            left = len(sender.mouth.stream)
            if not left:
                continue
            # As the relay: who is over its rate goes on with what it has, and reads nothing.
            intake = log.receive(sender.mouth if size else None, sender.rest, 200)
            assert content(first) == expected, "a read touched what was there before"
            count = left - len(sender.mouth.stream)
            assert intake.received == count
            assert count >= min(size, left, 8), "a read of less than there was"
            events = len(sender.events)
            sender.turn(log, most, intake)
            expected += b"".join(
                event
                for event in sender.events[events:]
                if isinstance(event, bytes) and event[4:5] == BROADCAST
            )
            assert content(first) == expected
            assert log.end == len(expected)
        for sender in senders:
            while not sender.is_over and cut(sender.rest):
                sender.turn(log, 99, log.receive(None, sender.rest, 0))
            assert sender.events == cut(sender.stream)

    check()


def test_frames_are_the_same_for_every_split_in_two_and_byte_by_byte(
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(chat_fanout, "MIN_READ_BYTES", 999)
    frames = [numbered(1, 0), PING, numbered(2, MOST_PAYLOAD), framed(DIRECT, bytes(MOST - 1))] * 2
    stream = b"".join(frames)
    for sizes in [*([at, len(stream)] for at in range(1, len(stream))), [1] * len(stream)]:
        log, sender = Log(), Sender(stream)
        for size in sizes:
            if sender.mouth.stream:
                sender.mouth.most = size
                sender.turn(log, 9, log.receive(sender.mouth, sender.rest, 999))
        assert sender.events == frames


def test_what_is_no_broadcast_is_handed_out_where_the_log_stands_right_before_it(
    patch: pytest.MonkeyPatch,
) -> None:
    wire: Any = Wire()
    log, outlet = Log(), Outlet(wire)
    outlet.enter(log)
    patch.setattr(chat_fanout, "MIN_READ_BYTES", 99)
    mouth: Any = Mouth(numbered(1, 3) + PING + numbered(2, 3) + numbered(3, 3) + END)
    mouth.most = 99
    intake = log.receive(mouth, b"", 99)
    while (raw := intake.next(9)) is not None:
        outlet.put(raw)  # behind all that the log holds now
    log.append(numbered(4, 3))
    wire.room = 999
    outlet.flush()
    assert decoded(wire.taken) == [
        *(numbered(1, 3), PING, numbered(2, 3), numbered(3, 3), END, numbered(4, 3))
    ]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (u32(MOST + 1), TooLarge),
        (b"\xff\xff\xff\xff", TooLarge),
        (bytes(4), Malformed),
        (u32(2 + MOST_PAYLOAD) + BROADCAST, TooLarge),
    ],
)
def test_a_header_is_refused_before_its_body_is_there_and_what_came_before_is_kept(
    patch: pytest.MonkeyPatch, data: bytes, error: type[WireError]
) -> None:
    patch.setattr(chat_fanout, "MIN_READ_BYTES", 99)
    log, sender = Log(), Sender(numbered(1, 3) + PING + numbered(2, 3) + data)
    first, sender.mouth.most = log.last, 99
    sender.turn(log, 9, log.receive(sender.mouth, b"", 99))
    assert sender.events == [numbered(1, 3), PING, numbered(2, 3), error]
    assert content(first) == numbered(1, 3) + numbered(2, 3)


def test_the_end_of_a_connection_and_nothing_to_read_are_told_apart() -> None:
    log, silent, over = Log(), Sender(b""), Sender(b"")
    over.mouth.most = 1
    with pytest.raises(BlockingIOError):
        log.receive(silent.mouth, b"", 9)
    with pytest.raises(EOFError):
        log.receive(over.mouth, b"", 9)
    assert log.end == 0


def test_a_read_is_no_larger_than_asked_for_and_rest_comes_first() -> None:
    log, sender = Log(), Sender(bytes(1000))
    sender.mouth.most = 1000
    intake = log.receive(sender.mouth, b"rest", 70)
    assert intake.received == 70
    assert intake.rest() == b"rest" + bytes(70)


def test_a_segment_is_left_only_when_not_even_a_small_read_fits_it(
    patch: pytest.MonkeyPatch,
) -> None:
    log, sender = Log(), Sender(bytes(1_000))
    sender.mouth.most = 1_000
    log.append(numbered(1, 3))  # 8 of 16 bytes
    first = log.last
    assert log.receive(sender.mouth, b"", 1_000).received == 8
    assert log.last is first
    assert log.receive(sender.mouth, b"r", 1_000).received == 32 - 1
    assert log.last is first.next


def test_a_log_without_frames_has_allocated_nothing() -> None:
    log = Log()
    assert len(log.last.view) == 0
    assert log.end == 0


def test_segments_double_up_to_the_largest_and_the_longest_frame_fits_one(
    patch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    first = log.last
    for n in range(60):
        log.append(numbered(n, 7))
    sizes = [len(segment.view) for segment in chain(first)]
    assert sizes[:5] == [0, 16, 32, 64, 100]
    assert set(sizes[4:]) == {100}
    log.append(numbered(0, 500))
    assert len(log.last.view) == 505


# --------------------------------------------------------------------------- out of the log


class Wire:
    """A socket whose kernel has room for so many bytes."""

    numbers = itertools.count(100_000)  # no descriptor of ours is as high
    all: ClassVar[weakref.WeakValueDictionary[int, Wire]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self.room = 0
        self.taken = b""
        self.files = 0  # that were sent from
        self.number = next(self.numbers)
        self.all[self.number] = self

    def fileno(self) -> int:
        return self.number

    def send(self, data: Any) -> int:
        if not self.room:
            raise BlockingIOError
        piece = bytes(data)[: self.room]
        self.taken += piece
        self.room -= len(piece)
        return len(piece)

    def sendmsg(self, pieces: list[Any]) -> int:
        assert 0 < len(pieces) <= chat_fanout.MAX_PIECES
        return self.send(b"".join(bytes(piece) for piece in pieces))

    def close(self) -> None:
        del self.all[self.number]


def sendfile(ours: int, file: int, offset: int, count: int) -> int:
    """os.sendfile, into wires."""
    wire, data = Wire.all[ours], os.pread(file, count, offset)
    assert data, "nothing is there"
    wire.files += 1
    return wire.send(data)


# (sendmsg, memfd and sendfile): Linux, macOS, Windows
SYSTEMS = {"linux": (True, True), "macos": (True, False), "windows": (False, False)}
SIZES, WHO = st.integers(0, 40), st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), SIZES, WHO),
        st.tuples(st.just("turn"), SIZES, WHO),
        st.tuples(st.just("append"), SIZES, WHO),
        st.tuples(st.just("put"), SIZES, WHO),
        st.tuples(st.just("room"), st.integers(0, 200), WHO),
        st.tuples(st.just("room"), st.integers(0, 200), WHO),
    ),
    min_size=15,
    max_size=90,
)
HELLO, FINAL = framed(bytes([FrameType.HELLO]), b"hi"), framed(bytes([FrameType.ERROR]), b"bye")


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_outlet_sends_log_and_own_frames_in_their_order_whatever_the_kernel_takes(
    patch: pytest.MonkeyPatch, system: str
) -> None:
    has_sendmsg, has_sendfile = SYSTEMS[system]
    if has_sendfile and not chat_fanout._HAS_SENDFILE:
        pytest.skip("not on this system")
    patch.setattr(chat_fanout, "_HAS_SENDMSG", has_sendmsg)
    patch.setattr(chat_fanout, "_HAS_SENDFILE", has_sendfile)
    patch.setattr(chat_fanout, "SENDFILE_BYTES", 8)
    patch.setattr(os, "sendfile", sendfile, raising=False)
    by_file = [0]

    @settings(max_examples=100)
    @given(steps=STEPS, end=st.sampled_from(["", "cut", "end", "close"]), threads=st.integers(1, 2))
    def check(steps: list[tuple[str, int, int]], end: str, threads: int) -> None:
        wires: list[Any] = [Wire() for _ in range(3)]
        outlets = [Outlet(wire) for wire in wires]
        log, senders = Log(), Senders(threads)
        first = log.last
        log.append(numbered(0, 5))  # before they came
        for outlet in outlets:
            outlet.put(HELLO, is_lag=False)
            outlet.enter(log)
        lists, of_log = [[HELLO] for _ in outlets], numbered(0, 5)
        for n, (step, size, who) in enumerate(steps, 1):
            frame = numbered(n, size)
            if step in ("append", "turn"):
                of_log += frame
                log.append(frame)
                for frames in lists:
                    frames.append(frame)
            elif step == "put":
                outlets[who].put(frame)
                lists[who].append(frame)
            else:  # the kernel got rid of something
                wires[who].room += size
                outlets[who].is_blocked = False
            if step == "turn":
                log.share(receivers=1)
                before = sum(len(wire.taken) for wire in wires)
                sent, troubled = senders.flush(outlets)
                assert sent == sum(len(wire.taken) for wire in wires) - before
                assert set(troubled) == {outlet for outlet in outlets if outlet.is_blocked}
            for outlet, wire, frames in zip(outlets, wires, lists, strict=True):
                expected = b"".join(frames)
                assert expected.startswith(wire.taken)
                assert outlet.is_empty == (len(wire.taken) == len(expected))
                assert outlet.lag == len(expected) - max(len(HELLO), len(wire.taken))
                if step == "turn":
                    assert outlet.is_blocked or outlet.is_empty
            assert content(first) == of_log
        senders.close()
        outlet, wire, frames = outlets[0], wires[0], lists[0]
        if end:
            getattr(outlet, end)(*([] if end == "close" else [FINAL]))
            log.append(numbered(99, 5))  # after it left
            log.share(receivers=1)
        expected = b"".join(frames)
        if end == "cut":  # at the end of the frame that was half sent
            sizes = [0]
            while sizes[-1] < len(wire.taken):
                sizes.append(sizes[-1] + len(frames[len(sizes) - 1]))
            expected = expected[: sizes[-1]] + FINAL
        elif end == "end":
            expected += FINAL
        elif end == "close":
            expected = wire.taken
        assert outlet.lag == len(expected) - max(len(wire.taken), 0 if end else len(HELLO))
        wire.room, outlet.is_blocked = 99_999, False
        while not outlet.is_empty and not outlet.is_broken:
            outlet.is_blocked = False  # a file that ends early looks like a full kernel
            outlet.flush()
        assert wire.taken == expected
        assert outlet.lag == 0
        by_file[0] += sum(wire.files for wire in wires)

    check()
    assert (by_file[0] > 100) == has_sendfile


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_outlet_goes_on_from_whatever_byte_the_kernel_stopped_at(
    patch: pytest.MonkeyPatch, system: str
) -> None:
    patch.setattr(chat_fanout, "_HAS_SENDMSG", SYSTEMS[system][0])
    script = [numbered(1, 3), HELLO, PING, numbered(2, 12), numbered(3, 0), FINAL]
    stream = b"".join(script)
    for first in range(len(stream)):
        wire: Any = Wire()
        log, outlet = Log(), Outlet(wire)
        outlet.enter(log)
        for frame in script:
            (log.append if frame[4:5] == BROADCAST else outlet.put)(frame)
        for room in [first, *[1] * (len(stream) - first)]:
            wire.room, outlet.is_blocked = room, False
            outlet.flush()
            assert outlet.lag == len(stream) - len(wire.taken)
        assert wire.taken == stream
        assert outlet.is_empty


def test_own_frames_that_are_put_together_are_cut_where_the_frame_half_sent_ends(
    patch: pytest.MonkeyPatch,
) -> None:
    pages = [numbered(n, 20) for n in range(4)]
    for taken, whole in ((0, 0), (1, 1), (25, 1), (26, 2), (74, 3), (99, 4), (100, 4)):
        wire: Any = Wire()
        outlet = Outlet(wire)
        outlet.put(b"".join(pages))
        wire.room = taken
        outlet.flush()
        outlet.cut(FINAL)
        wire.room = 999
        outlet.flush()
        assert decoded(wire.taken) == [*pages[:whole], FINAL]


def test_many_small_frames_for_a_member_that_lags_take_less_than_twice_their_bytes() -> None:
    wire: Any = Wire()
    log, outlet = Log(), Outlet(wire)
    outlet.enter(log)
    tracemalloc.start()
    for _ in range(50_000):
        outlet.put(bytes(bytearray(PING)))  # each has bytes of its own, as from a socket
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outlet.lag == 50_000 * len(PING)
    assert used < 2 * outlet.lag
    wire.room = 1_000_000
    assert outlet.flush() == 50_000 * len(PING)
    assert wire.taken == PING * 50_000


def test_what_is_put_before_a_room_comes_before_the_room(patch: pytest.MonkeyPatch) -> None:
    wire: Any = Wire()
    log, outlet = Log(), Outlet(wire)
    log.append(numbered(1, 50) * 3)
    outlet.put(HELLO)
    outlet.put(PING)
    outlet.enter(log)
    log.append(numbered(2, 5))
    wire.room = 999
    outlet.flush()
    assert decoded(wire.taken) == [HELLO, PING, numbered(2, 5)]


def test_a_broken_connection_is_said_and_what_the_kernel_took_before_is_counted() -> None:
    wire: Any = Wire()

    def send(_data: Any) -> int:
        if wire.room:
            wire.room = 0
            return 9
        raise ConnectionResetError

    wire.send, wire.room = send, 1
    log, outlet = Log(), Outlet(wire)
    outlet.enter(log)
    log.append(numbered(1, 4))
    log.append(numbered(2, chat_fanout.FIRST_SEGMENT_BYTES))  # in the next segment
    assert outlet.flush() == 9
    assert outlet.is_broken
    assert not outlet.is_blocked


# --------------------------------------------------------------------------- real sockets


def pairs(kind: str, count: int) -> list[tuple[socket.socket, socket.socket]]:
    """Connected sockets, (ours, theirs), with the smallest buffers; ours do not block."""
    found = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(count):
            if kind == "tcp":
                theirs = socket.socket()
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                theirs.connect(listener.getsockname())
                ours, _ = listener.accept()
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            ours.setblocking(False)
            found.append((ours, theirs))
    return found


class Listener:
    """A member at a real socket."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, log: Log) -> None:
        self.outlet = Outlet(ours)
        self.outlet.enter(log)
        self.theirs = theirs
        self.expected = bytearray()
        self.heard = bytearray()

    def read(self, most: int) -> None:
        """Reads what is there, and lets the outlet go on if its kernel has room again."""
        while most > 0 and select.select([self.theirs], [], [], 0)[0]:
            data = self.theirs.recv(most)
            self.heard += data
            most -= len(data)
        if self.outlet.is_blocked and select.select([], [self.outlet.socket], [], 0)[1]:
            self.outlet.is_blocked = False

    def close(self) -> None:
        self.outlet.close()
        self.theirs.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("way", WAYS)
def test_real_sockets_with_tiny_buffers_get_every_byte_in_its_place(
    monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    use(WAYS[way], monkeypatch)
    monkeypatch.setattr(chat_fanout, "FIRST_SEGMENT_BYTES", 2_000)
    monkeypatch.setattr(chat_fanout, "SEGMENT_BYTES", 9_000)
    senders = Senders(WAYS[way].senders)
    for seed in range(4):
        rng, log = random.Random(seed), Log()
        members = [Listener(ours, theirs, log) for ours, theirs in pairs(kind, 5)]
        for n in range(400):
            step = rng.choice(["append", "append", "put", "share", "flush", "read"])
            member = rng.choice(members)
            frame = numbered(n, rng.choice([0, 30, 600, 5_000]))
            if step == "append":
                log.append(frame)
                for each in members:
                    each.expected += frame
            elif step == "put":
                member.outlet.put(frame)
                member.expected += frame
            elif step == "share":
                log.share(receivers=5)
            elif step == "flush":
                senders.flush([each.outlet for each in members])
            else:
                member.read(rng.choice([10, 1_000, 100_000]))
            assert all(each.expected.startswith(each.heard) for each in members)
        log.share(receivers=5)
        for member in members:
            while member.heard != member.expected:
                if not member.outlet.is_blocked:
                    member.outlet.flush()
                select.select([member.theirs], [], [], 0.01)
                member.read(100_000)
            assert member.outlet.is_empty
            member.close()
    senders.close()


def test_a_closed_outlet_sends_nothing_to_who_gets_its_descriptor(
    patch: pytest.MonkeyPatch,
) -> None:
    (gone, reader), (spare, other) = pairs("unix", 2)
    log = Log()
    outlet = Outlet(gone)
    outlet.enter(log)
    for n in range(1_000):
        log.append(numbered(n, 40))
        log.share(receivers=1)
    outlet.flush()
    assert outlet.is_blocked
    number = gone.fileno()
    outlet.close()
    os.dup2(spare.fileno(), number)  # somebody else's socket now
    try:
        outlet.is_blocked = False
        assert outlet.flush() == 0
        assert outlet.is_empty
        assert outlet.lag == 0
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
    finally:
        os.close(number)
        for sock in (reader, spare, other):
            sock.close()


# --------------------------------------------------------------------------- one file for all


class Sink(Wire):
    """A socket that takes everything and keeps nothing."""

    def send(self, data: Any) -> int:
        return len(data)


def test_segments_and_their_files_are_freed_when_the_last_cursor_has_left_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, files = held()
    wire: Any = Sink()
    monkeypatch.setattr(os, "sendfile", sendfile, raising=False)
    log, fast, slow, late = Log(), Outlet(wire), Outlet(wire), Outlet(wire)
    fast.enter(log)
    slow.enter(log)
    for n in range(200):
        log.append(numbered(n, 60_000))
        log.share(receivers=1_000)
        assert fast.flush() == 60_005
        if n == 100:
            late.enter(log)
    assert slow.lag == 200 * 60_005
    assert late.lag == 99 * 60_005
    assert fast.lag == 0
    size = chat_fanout.SEGMENT_BYTES
    assert 10 <= segments() - before <= 12_001_000 // (size - 60_005) + 9
    if chat_fanout._HAS_SENDFILE:
        assert log_files() - files >= 10
    slow.cut(b"")
    assert segments() - before <= 99 * 60_005 // (size - 60_005) + 3
    late.end(b"")  # takes a copy with it
    assert segments() - before <= 2
    assert log_files() - files <= 1
    fast.close()
    del log
    assert segments() - before <= 0
    assert log_files() - files <= 0
    assert late.flush() == 99 * 60_005


def test_a_small_room_or_a_small_turn_makes_no_file() -> None:
    log, (_, files) = Log(), held()
    log.append(bytes(chat_fanout.SENDFILE_BYTES))
    log.share(receivers=chat_fanout.SENDFILE_RECEIVERS - 1)
    assert (log.last.shared, log.last.fd) == (0, -1)
    log = Log()
    log.append(bytes(chat_fanout.SENDFILE_BYTES - 1))
    log.share(receivers=chat_fanout.SENDFILE_RECEIVERS)
    assert (log.last.shared, log.last.fd) == (0, -1)
    assert log_files() == files


@needs_files
@pytest.mark.parametrize("fails", ["memfd_create", "pwrite", "pwrite half way", "pwrite short"])
def test_without_a_file_every_send_copies_and_nothing_is_lost(
    patch: pytest.MonkeyPatch, fails: str
) -> None:
    wire: Any = Wire()
    idle: Any = Wire()
    pwrite, memfd_create, count = os.pwrite, os.memfd_create, [0]

    def failing_memfd(name: str) -> int:
        count[0] += 1
        if fails == "memfd_create" and count[0] % 3:
            raise OSError(errno.EMFILE, "too many open files")
        return memfd_create(name)

    def failing_pwrite(fd: int, data: memoryview, offset: int) -> int:
        count[0] += 1
        if fails == "pwrite" or (fails == "pwrite half way" and count[0] % 2):
            raise OSError(errno.ENOSPC, "no space left")
        return pwrite(fd, data if fails == "memfd_create" else data[: len(data) // 2], offset)

    patch.setattr(os, "memfd_create", failing_memfd)
    patch.setattr(os, "pwrite", failing_pwrite)
    patch.setattr(os, "sendfile", sendfile)
    patch.setattr(chat_fanout, "SEGMENT_BYTES", 1_000)
    log, fast, slow, senders = Log(), Outlet(wire), Outlet(idle), Senders(1)
    first = log.last
    fast.enter(log)
    slow.enter(log)
    expected = b""
    for n in range(200):
        frame = numbered(n, 40)
        expected += frame
        log.append(frame)
        log.share(receivers=1_000)
        wire.room = 999
        while not fast.is_empty:
            fast.is_blocked = False  # a file that ends early looks like a full kernel
            assert senders.flush([fast])[0] > 0
        assert wire.taken == expected
        assert content(first) == expected
    assert (wire.files > 0) == (fails != "pwrite")


# --------------------------------------------------------------------------- threads


class Fate(Wire):
    """A socket at which a send ends as it is told."""

    def __init__(self, fate: str = "takes 7") -> None:
        super().__init__()
        self.fate = fate
        self.sends = 0

    def send(self, data: Any) -> int:
        self.sends += 1
        if self.fate == "takes 7":
            assert len(data) == 7
            return 7
        if self.fate == "takes 3":
            return 3
        raise {"blocks": BlockingIOError, "breaks": ConnectionResetError}.get(self.fate, KeyError)


TROUBLE = ["was blocked", "takes 3", "blocks", "breaks"]


def fated(
    fates: list[str], *, is_next: bool = False, by_file: bool = False
) -> tuple[list[Any], list[Outlet]]:
    """An outlet for each fate, each of which lacks 7 bytes of one log: of the segment that its
    cursor is in, or of the next."""
    log, wires = Log(), [Fate(fate) for fate in fates]
    if not is_next:
        log.append(numbered(0, 2))
    outlets = []
    for wire in wires:
        sock: Any = wire
        outlets.append(Outlet(sock))
        outlets[-1].enter(log)
        outlets[-1].is_blocked = wire.fate == "was blocked"
    log.append(numbered(1, 2))
    if by_file:
        log.share(receivers=9)
    return wires, outlets


@pytest.mark.parametrize("is_next", [False, True])
@pytest.mark.parametrize("by_file", [False, pytest.param(True, marks=needs_files)])
def test_every_outlet_is_flushed_once_and_who_is_in_trouble_is_named(
    patch: pytest.MonkeyPatch, by_file: bool, is_next: bool
) -> None:
    patch.setattr(chat_fanout, "SENDFILE_BYTES", 1)
    patch.setattr(os, "sendfile", sendfile, raising=False)

    @settings(max_examples=40)
    @given(
        count=st.one_of(st.integers(0, 500), st.integers(0, 9)),
        threads=st.integers(1, 4),
        outlets_a_thread=st.sampled_from([1, 2, 64, 1_000]),
        seed=st.integers(0, 99),
    )
    @example(count=500, threads=4, outlets_a_thread=1, seed=0)
    @example(count=0, threads=4, outlets_a_thread=1, seed=0)
    def check(count: int, threads: int, outlets_a_thread: int, seed: int) -> None:
        patch.setattr(chat_fanout, "OUTLETS_A_THREAD", outlets_a_thread)
        fates = random.Random(seed).choices(["takes 7", *TROUBLE], [9, 1, 1, 1, 1], k=count)
        wires, outlets = fated(fates, is_next=is_next, by_file=by_file)
        senders = Senders(threads)
        sent, troubled = senders.flush(outlets)
        senders.close()
        assert [wire.sends for wire in wires] == [fate != "was blocked" for fate in fates]
        assert sent == 7 * fates.count("takes 7") + 3 * fates.count("takes 3")
        assert len(troubled) == len(set(troubled))
        assert [outlet in troubled for outlet in outlets] == [fate in TROUBLE for fate in fates]
        for outlet, fate in zip(outlets, fates, strict=True):
            assert outlet.is_blocked == (fate in ("was blocked", "takes 3", "blocks"))
            assert outlet.is_broken == (fate == "breaks")
            assert outlet.lag == {"takes 7": 0, "takes 3": 4}.get(fate, 7)

    check()


def test_a_large_flush_runs_on_all_threads_at_once_and_a_small_one_on_the_caller_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_fanout, "OUTLETS_A_THREAD", 2)
    meeting, names = threading.Barrier(3), []

    def send(wire: Fate, _data: Any) -> int:
        names.append(threading.current_thread().name)
        if wire.fate == "meets":
            meeting.wait(DEADLINE_S)  # breaks unless three are here at the same time
        return 7

    monkeypatch.setattr(Fate, "send", send)
    senders, caller = Senders(3), threading.current_thread().name
    assert senders.flush(fated(["meets"] * 6)[1]) == (42, [])
    assert set(names) == {caller, "sender-1", "sender-2"}
    names.clear()
    assert senders.flush(fated(["does not"] * 3)[1]) == (21, [])
    assert set(names) == {caller}
    senders.close()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bug_in_any_thread_reaches_the_caller_and_leaves_nothing_for_the_next_flush(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(chat_fanout, "OUTLETS_A_THREAD", 1)
    senders = Senders(3)
    fates = ["takes 3"] * 3
    fates[at] = "bug"
    wires, outlets = fated(fates)
    with pytest.raises(KeyError):
        senders.flush(outlets)
    assert [wire.sends for wire in wires] == [1, 1, 1], "one was left to be flushed later"
    wires, outlets = fated(["takes 7"] * 4)
    assert senders.flush(outlets) == (28, [])
    assert [wire.sends for wire in wires] == [1] * 4
    senders.close()


def test_senders_that_are_closed_leave_no_thread() -> None:
    before = threading.active_count()
    senders = Senders(4)
    assert threading.active_count() == before + 3
    senders.close()
    assert threading.active_count() == before
    Senders(1).close()  # the caller alone
    assert threading.active_count() == before


def test_there_is_a_sender_for_each_core_and_never_more_than_8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, expected in ((1, 1), (2, 2), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), False)
        assert default_senders() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_senders() == 1
