"""chat_link: one connection, its buffers, its limits and its end.  The relay is a bare socket."""

from __future__ import annotations

import errno
import gc
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace, TracebackType
from typing import Self

import pytest

import chat_link
from chat_link import CannotConnect, Inbox, Link, Lost, Received, connect
from chat_wire import Broadcast, Frame, FrameDecoder, FrameType, Hello, Ping, Pong

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen
HELLO = Hello(1, 1, bytes(32), False).serialize()


def broadcast(number: int, size: int = 0) -> bytes:
    """A frame that can be told from others."""
    return Broadcast(struct.pack(">I", number) + bytes(size)).serialize()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A real connection: unlike a socket pair it can be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=DEADLINE_S)
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


class Line:
    """A link on its thread, and the relay's end of it."""

    def __init__(self, pair: tuple[socket.socket, socket.socket] | None = None) -> None:
        self.sock, self.relay = pair or socket.socketpair()
        self.sock.setblocking(False)
        self.relay.settimeout(DEADLINE_S)
        self.inbox = Inbox()
        self.link = Link(self.sock, self.inbox)
        self.thread = threading.Thread(target=self.link.run, daemon=True)
        self._decoder = FrameDecoder(65_536)
        self.pings = 0  # that the relay got

    def starts(self) -> Self:
        self.thread.start()
        return self

    def receives(self, *, until: Callable[[list[bytes]], bool] | None = None) -> list[bytes]:
        """The frames that reach the inbox until `until` says so, or the connection is lost."""
        frames: list[bytes] = []
        deadline = time.monotonic() + DEADLINE_S
        while until is None or not until(frames):
            assert time.monotonic() < deadline, frames
            for item in self.inbox.take(1.0, 1):
                if isinstance(item, Lost):
                    assert until is None, item
                    self.lost = item.why
                    return frames
                assert isinstance(item, Received)
                assert item.size == sum(len(frame.raw) for frame in item.frames)
                frames += [frame.raw for frame in item.frames]
                self.link.wake()
        return frames

    def says(self) -> Frame:
        """The next frame that the relay gets, PINGs aside."""
        while True:
            for frame in self._decoder:
                if frame.type != FrameType.PING:
                    return frame
                self.pings += 1
            data = self.relay.recv(65_536)
            assert data, "the link closed"
            self._decoder.feed(data)

    def loops(self) -> None:
        """Until the link's thread has certainly looked at everything that is so by now."""
        for number in (1, 2):  # the first may be taken by a turn that had begun before
            self.link.send(broadcast(number))
            self.says()

    def ends(self) -> str:
        """Why it was lost, once its thread is over."""
        assert self.receives() == []
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        return self.lost

    def __enter__(self) -> Self:
        return self.starts()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.relay.close()
        self.link.close()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        assert self.sock.fileno() == -1, "the thread closes its socket"
        gc.collect()  # a ResourceWarning of what was left open is an error


@pytest.fixture
def line() -> Iterator[Line]:
    with Line() as running:
        yield running


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The link's time, which passes when `clock.s` is set."""
    fake = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(chat_link, "time", SimpleNamespace(monotonic=lambda: fake.s))
    monkeypatch.setattr(chat_link, "_LOOK_S", 0.01)
    return fake


# --------------------------------------------------------------------------- frames in


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 10**6])
def test_frames_come_whole_and_in_order_however_the_stream_is_split(line: Line, size: int) -> None:
    frames = [HELLO, *(broadcast(n, n * 37 % 300) for n in range(20))]
    stream = b"".join(frames)
    for at in range(0, len(stream), size):
        line.relay.sendall(stream[at : at + size])
    assert line.receives(until=lambda got: len(got) == len(frames)) == frames


def test_a_frame_of_the_largest_size_comes_once_the_relay_has_spoken(line: Line) -> None:
    largest = Broadcast(bytes(65_519)).serialize()
    line.relay.sendall(HELLO + largest)
    assert line.receives(until=lambda got: len(got) == 2)[1] == largest


def test_a_large_frame_before_any_other_is_refused_by_its_length(line: Line) -> None:
    line.relay.sendall(struct.pack(">I", 8_193))
    assert (
        line.ends()
        == "what answers there is no relay: a frame of 8193 bytes, at most 8192 are allowed"
    )


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\xff" * 100, bytes(4)],
)
def test_nonsense_of_what_is_no_relay_is_lost_with_one_clear_line(
    line: Line, nonsense: bytes
) -> None:
    line.relay.sendall(nonsense)
    why = line.ends()
    assert why.startswith("what answers there is no relay: ")
    assert "\n" not in why


@pytest.mark.parametrize(
    "nonsense", [b"\xff\xff\xff\xff", bytes(4), Ping(1).serialize()[:3] + b"\2\x09x"]
)
def test_frames_before_nonsense_are_delivered(line: Line, nonsense: bytes) -> None:
    frames = [HELLO, broadcast(1), broadcast(2)]
    line.relay.sendall(b"".join(frames) + nonsense)
    assert line.receives() == frames
    assert line.lost.startswith("the relay broke the protocol: ")


def test_a_closed_connection_is_said_once_and_last(line: Line) -> None:
    line.relay.sendall(HELLO + broadcast(1)[:-1])
    line.relay.close()
    assert line.receives() == [HELLO]
    assert line.lost == "the relay closed the connection"
    line.thread.join(DEADLINE_S)
    assert line.inbox.take(0.0, 9) == []


def test_an_unexpected_exception_is_named_and_ends_the_connection(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Link, _decoder: FrameDecoder) -> None:
        raise TypeError("nobody thought of this")

    monkeypatch.setattr(Link, "_read", broken)
    line.relay.sendall(HELLO)
    why = line.ends()
    assert "TypeError at test_chat_link.py:" in why
    assert why.endswith(": nobody thought of this")


# --------------------------------------------------------------------------- PING


def test_a_ping_is_answered_with_a_pong_of_its_token_and_not_handed_on(line: Line) -> None:
    for token in (0, 7, 2**64 - 1):
        line.relay.sendall(Ping(token).serialize() + Pong(3).serialize())
        assert line.says().raw == Pong(token).serialize()
    line.relay.sendall(broadcast(5))
    assert line.receives(until=bool) == [broadcast(5)]


def test_a_flood_of_pings_of_a_relay_that_does_not_read_makes_nothing_grow(line: Line) -> None:
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    count = 30_000
    for first in range(0, count, 1000):
        line.relay.sendall(b"".join(Ping(n).serialize() for n in range(first, first + 1000)))
    line.relay.sendall(broadcast(1))
    assert line.receives(until=bool) == [broadcast(1)]  # all pings before it were read
    assert line.link.waiting_bytes <= 2 * len(Pong(0).serialize())
    tokens = [Pong.parse(line.says().body).token]
    while tokens[-1] != count - 1:  # the newest is answered in any case
        tokens.append(Pong.parse(line.says().body).token)
    assert tokens == sorted(tokens)


def test_pings_are_answered_while_much_else_waits_to_be_sent(line: Line) -> None:
    for number in range(64):
        line.link.send(broadcast(number, 16_000))
    line.relay.sendall(Ping(9).serialize())
    numbers: list[int] = []
    pongs: list[int] = []
    while not pongs or len(numbers) < 64:
        frame = line.says()
        if frame.raw == Pong(9).serialize():
            pongs.append(len(numbers))
        else:
            numbers.append(struct.unpack_from(">I", frame.body)[0])
    assert numbers == list(range(64))
    assert len(pongs) == 1


# --------------------------------------------------------------------------- a full inbox


def test_nothing_is_read_while_the_inbox_is_full_and_wake_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat_link.MAX_INBOX_BYTES == 4 * 1024 * 1024
    monkeypatch.setattr(chat_link, "MAX_INBOX_BYTES", 100_000)
    monkeypatch.setattr(chat_link, "_RECV_BYTES", 10_000)
    frames = [broadcast(n, 1000) for n in range(1000)]
    with Line() as line:
        relay = threading.Thread(target=line.relay.sendall, args=(b"".join(frames),), daemon=True)
        relay.start()
        deadline = time.monotonic() + DEADLINE_S
        while line.inbox.waiting_bytes < 100_000:
            assert time.monotonic() < deadline
        line.loops()
        full = line.inbox.waiting_bytes
        line.loops()
        assert full == line.inbox.waiting_bytes < 110_000
        assert line.receives(until=lambda got: len(got) == len(frames)) == frames
        relay.join(DEADLINE_S)
        assert line.inbox.waiting_bytes == 0


def test_a_full_inbox_is_no_silence_of_the_relay(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_link, "MAX_INBOX_BYTES", 1)
    with Line() as line:
        line.relay.sendall(HELLO)
        deadline = time.monotonic() + DEADLINE_S
        while not line.inbox.waiting_bytes:
            assert time.monotonic() < deadline
        line.loops()
        clock.s += 1000.0  # the engine takes its time, and the relay has nothing to say
        line.loops()
        assert line.receives(until=bool) == [HELLO]
        line.loops()
        line.relay.sendall(broadcast(1))
        assert line.receives(until=bool) == [broadcast(1)]


def test_an_inbox_counts_frames_alone_and_gives_at_most_what_was_asked_for() -> None:
    inbox = Inbox()
    assert inbox.take(0.0, 5) == []
    some = Received([Frame(HELLO), Frame(HELLO)], 2 * len(HELLO))
    for item in ("line", some, Lost("why"), some):
        inbox.put(item)
    assert inbox.waiting_bytes == 4 * len(HELLO)
    assert inbox.take(1.0, 2) == ["line", some]
    assert inbox.waiting_bytes == 2 * len(HELLO)
    assert inbox.take(1.0, 5) == [Lost("why"), some]
    assert inbox.waiting_bytes == 0


# --------------------------------------------------------------------------- silence


def test_40_seconds_without_a_byte_are_a_lost_connection(
    clock: SimpleNamespace, line: Line
) -> None:
    line.relay.sendall(HELLO)
    assert line.receives(until=bool) == [HELLO]
    clock.s += 39.5
    line.loops()
    line.relay.sendall(Pong(1).serialize())
    line.loops()
    clock.s += 39.5
    line.loops()
    clock.s += 0.5
    assert line.ends() == "no sign of a relay there for 40 s"


def test_a_relay_that_talks_and_answers_no_ping_for_40_seconds_is_over(
    clock: SimpleNamespace, line: Line
) -> None:
    def passes(seconds: float) -> None:
        clock.s += seconds
        line.loops()

    line.relay.sendall(HELLO)
    assert line.receives(until=bool) == [HELLO]
    for seconds, pings in ((14.5, 0), (0.5, 1), (14.5, 1), (0.5, 2), (9.5, 2)):
        line.relay.sendall(broadcast(1))
        passes(seconds)
        assert line.pings == pings
    line.relay.sendall(Pong(2).serialize())  # and from there anew
    passes(0.5)
    passes(0.0)
    for pings in (3, 4):
        # A frame that never ends: its length was altered.
        line.relay.sendall(struct.pack(">I", 60_000) + bytes((FrameType.BROADCAST,)))
        passes(15.0)
        assert line.pings == pings
    passes(9.0)
    clock.s += 1.0
    line.receives()
    assert line.lost == "the relay did not answer for 40 s"
    assert line.link.waiting_bytes == 0  # the PINGs were not counted as the engine's


def test_a_ping_behind_what_the_relay_takes_slowly_may_wait(
    clock: SimpleNamespace, line: Line
) -> None:
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    line.relay.sendall(HELLO)
    assert line.receives(until=bool) == [HELLO]
    for number in range(64):
        line.link.send(broadcast(number, 16_000))
    for number in range(60):
        clock.s += 10.0
        line.relay.sendall(broadcast(0))
        assert line.receives(until=bool) == [broadcast(0)]
        assert line.says().raw == broadcast(number, 16_000)


def test_what_accepts_and_says_nothing_is_given_up_after_15_seconds(
    clock: SimpleNamespace, line: Line
) -> None:
    line.loops()
    clock.s += 14.5
    line.loops()
    clock.s += 0.5
    assert line.ends() == "no sign of a relay there for 15 s"


# --------------------------------------------------------------------------- frames out


def test_every_byte_goes_out_in_order_to_a_relay_that_reads_slowly(line: Line) -> None:
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    chance = random.Random(1)
    frames = [broadcast(n, chance.choice([0, 10, 1000, 60_000])) for n in range(200)]
    for frame in frames:
        line.link.send(frame)
    expected, got = b"".join(frames), bytearray()
    assert line.link.waiting_bytes > len(expected) - 1_000_000  # the kernel has the rest
    while len(got) < len(expected):
        got += line.relay.recv(chance.choice([1, 100, 5000]))
    assert bytes(got) == expected
    line.link.close()
    assert line.ends() == "closed"
    assert line.link.waiting_bytes == 0


def test_close_sends_what_waits_before_it_closes(line: Line) -> None:
    frames = [broadcast(n, 50_000) for n in range(20)]
    for frame in frames:
        line.link.send(frame)
    line.link.close()
    got = bytearray()
    while data := line.relay.recv(65_536):
        got += data
    assert bytes(got) == b"".join(frames)
    assert line.ends() == "closed"


@pytest.mark.parametrize("dribbles", [False, True], ids=["reads nothing", "reads a little"])
def test_close_gives_a_relay_that_does_not_read_one_second_and_no_more(
    line: Line, monkeypatch: pytest.MonkeyPatch, dribbles: bool
) -> None:
    assert chat_link._FLUSH_S == 1.0
    monkeypatch.setattr(chat_link, "_FLUSH_S", 0.05)
    monkeypatch.setattr(chat_link, "_LOOK_S", 60.0)  # nothing but the flush's own end ends it
    line.link.send(bytes(8_000_000))
    line.link.close()
    while dribbles and line.thread.is_alive():
        line.relay.recv(1000)
    assert line.ends() == "closed"


def test_what_the_relay_said_before_it_went_is_read_though_it_takes_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_link, "_RECV_BYTES", 1000)
    frames = [HELLO, *(broadcast(n, 500) for n in range(100))]
    ours, theirs = tcp_pair()
    line = Line((ours, theirs))
    ours.send(b"never read")
    theirs.sendall(b"".join(frames))
    theirs.recv(1)
    theirs.close()  # with bytes unread: that resets the connection
    line.link.send(broadcast(1))
    with line:
        assert line.receives() == frames


# --------------------------------------------------------------------------- the end


def test_a_link_that_has_ended_takes_calls_and_does_nothing(line: Line) -> None:
    line.relay.close()
    assert line.ends() == "the relay closed the connection"
    line.link.send(broadcast(1))
    line.link.wake()
    line.link.close()
    assert line.inbox.take(0.0, 9) == []


def test_a_reset_connection_is_one_line_without_numbers() -> None:
    ours, theirs = tcp_pair()
    with Line((ours, theirs)) as line:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert line.ends() == "Connection reset by peer"


# --------------------------------------------------------------------------- connect


def test_connect_gives_a_socket_that_neither_blocks_nor_waits_for_more_to_send() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connect("127.0.0.1", listener.getsockname()[1]) as sock,
    ):
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connect_to_a_port_where_nobody_listens_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CannotConnect) as failed:
        connect("127.0.0.1", port)
    expected = f"nothing listens at 127.0.0.1 port {port}: is the relay running there?"
    assert str(failed.value) == expected


@pytest.mark.parametrize(
    ("problem", "part"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no address that this computer"),
        (UnicodeError("label empty or too long"), "no address that this computer"),
        (ValueError("embedded null character"), "no address that this computer"),
        (TimeoutError("timed out"), "no answer from there port 5555 in 5 s"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "no answer from there port 5555"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "nothing listens at there"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "cannot reach there port 5555: No route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable; is this"),
        (OSError("getaddrinfo returns an empty list"), "port 5555: getaddrinfo returns"),
    ],
    ids=lambda x: str(x),
)
def test_every_way_not_to_connect_is_one_sentence_that_says_what_to_try(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, part: str
) -> None:
    def fails(_address: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout == 5.0
        raise problem

    monkeypatch.setattr(socket, "create_connection", fails)
    with pytest.raises(CannotConnect) as failed:
        connect("there", 5555)
    text = str(failed.value)
    assert part in text
    assert "there" in text
    assert "\n" not in text
    assert "Errno" not in text


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_a_name_that_no_host_can_have_is_one_sentence(host: str) -> None:
    with pytest.raises(CannotConnect, match="is no address that this computer can find"):
        connect(host, 5555)
