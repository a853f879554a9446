"""The relay: TCP connections in, whole frames out to a room; it sees opaque bytes only.

What lives here: the handshake, rooms, presence, pings, limits, the command line.  What it does not
know: keys, names, what a payload or a bundle means (it imports no cryptography at all); what it
grants and to whom (`chat_members`); how bytes reach many members at once (`chat_fanout`); the
operating system's corners (`chat_daemon`).

    relay = start_server("127.0.0.1", 0)
    print(relay.address)
    relay.stop()

One thread owns everything: it reads all readable connections straight into their rooms' logs and
performs what is no broadcast; then each member is flushed with one send, in a large room by several
threads side by side while this one waits for them.  Nothing blocks, nothing is locked, nobody waits
for a peer.  Other threads only ask for a stop or a status line.

Specified in docs/PROTOCOL.md, section 2; DESIGN.md, section 7.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import chat_daemon
from chat_addresses import is_loopback
from chat_discovery import announce
from chat_fanout import Intake, Senders, default_senders
from chat_members import LEAVE_REASONS, LEGAL, NEVER, Client, Limits, Room, Stage
from chat_wire import (
    DEFAULT_PORT,
    MAX_JOIN_FRAME_BYTES,
    PING_INTERVAL_S,
    SILENCE_S,
    VERSION,
    Add,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Join,
    LeaveReason,
    Malformed,
    Member,
    Ping,
    Pong,
    Rebundle,
    TooLarge,
    UnknownVersion,
    WireError,
    join_proof,
    welcome_frames,
)

__all__ = [
    "Limits",
    "Relay",
    "broadcast",
    "handle_client",
    "main",
    "start_server",
]

JOIN_READ_BYTES = 4 + MAX_JOIN_FRAME_BYTES  # from a connection that is no member
READ_BYTES = 65_536  # at most, from one connection a turn: about one frame of the longest kind
# At most, from all connections a turn.  What one turn gathers is everybody's lag before anybody is
# flushed, so it must stay well below the lag limit.
GATHER_BYTES = 1_048_576
FRAMES_A_TURN = 512  # of one connection: 64 KiB of empty frames must not hold the others up
# The same for a flood of connections.  Few, since members wait behind them: with 64 the honest p99
# beside 10,000 connects in 10 s was 1.98 times the quiet one, with 4 it is 1.70.
ACCEPTS_A_TURN = 4
MAX_CLOSING = 256  # waiting to have read their ERROR; above it the oldest is dropped
# Of a closing connection each tick, read only to keep a RST from eating its ERROR; so who floods
# after that is held up by TCP.
DISCARD_BYTES = 16_384
UNSENT_BYTES = 1_048_576  # that the kernel may hold for one member; all beyond is lag, and bounded
ACCEPT_PAUSE_S = 0.5  # after running out of file descriptors: neither spin nor stop
MIN_PAUSE_S = 0.01  # who is over a rate is looked at no more than a hundred times a second
MAX_HANDSHAKE_FRAMES = 16  # before WELCOME; a client sends a JOIN there, and maybe a PING

_STOP, _STATUS = b"x", b"s"  # what other threads ask for


@dataclass
class Traffic:
    """What went through since the last status line."""

    since: float = field(default_factory=time.monotonic)
    frames: int = 0  # BROADCAST and DIRECT
    deliveries: int = 0  # of these, to a member each
    bytes_in: int = 0
    bytes_out: int = 0
    drops: int = 0  # members cut off as too slow, ever


def handle_client(relay: Relay, client: Client, most: int = READ_BYTES) -> None:
    """Reads at most `most` bytes that one connection has, and performs its frames.

    The seed's `handle_client(client_socket)` was a thread for each client that looped until its
    end; here it is what is done each time a client is readable, since one thread that gathers what
    many clients sent measured 15 to 30 times faster (DESIGN.md, section 7).
    """
    room = client.room
    try:
        if room is not None:
            intake = room.log.receive(client.socket, client.rest, most)
        elif not (count := client.socket.recv_into(relay.scratch, min(most, JOIN_READ_BYTES))):
            raise EOFError
    except (BlockingIOError, InterruptedError):
        return
    except (OSError, EOFError, MemoryError):
        relay.lose(client)  # half-closed is closed: all that was sent before is performed
        return
    client.heard, client.pings = relay.now, 0
    if room is not None:
        relay.traffic.bytes_in += intake.received
        for newcomer in client.challengers:
            relay.close(newcomer, ErrorCode.SESSION_IN_USE, "this session is connected already")
        relay.perform(client, intake)
    elif client.handshake is not None:
        client.handshake.decoder.feed(relay.scratch[:count])
        relay.perform(client, None)


def broadcast(relay: Relay, intake: Intake, sender: Client, most: int) -> bytes | None:
    """Takes a member's BROADCAST frames, byte for byte, into its room's log, up to `most` of them.

    The seed's `broadcast(message, sender_socket)` sent to each of the others in turn.  Here one
    copy serves everybody, each member's cursor finds it, and the echo is the sender's receipt.

    Returns:
        the first frame of another type, to be performed; None: there is none for now.

    Raises:
        WireError: what comes next is no frame.
    """
    room = sender.room
    assert room is not None  # a member
    before = intake.broadcasts
    try:
        return intake.next(most)
    finally:
        if count := intake.broadcasts - before:
            relay.touched_rooms.add(room)
            relay.traffic.frames += count
            relay.traffic.deliveries += count * len(room.members)


def start_server(
    host: str = "0.0.0.0",  # noqa: S104 - a relay is for the others on the network
    port: int = DEFAULT_PORT,
    *,
    password: bytes = b"",
    limits: Limits | None = None,
    log: chat_daemon.EventLog | None = None,
    senders: int = 0,
    status_interval_s: float = 0.0,
) -> Relay:
    """Binds, listens and starts the relay's thread; returns at once, the caller stops it.

    The seed's `start_server()` served until the process ended, and had nothing to set.

    Args:
        host: an IPv4 or IPv6 address of this host, or a name that resolves to one.
        port: 0 for any free one, see `Relay.address`.
        password: UTF-8 in NFC, or empty: none is needed.
        senders: threads that send to large rooms; 0: as many as there are cores.
        status_interval_s: seconds between status lines in the log; 0: none.

    Raises:
        OSError: the address is busy, not this host's, or not allowed.
    """
    relay = Relay(
        chat_daemon.listen(host, port),
        password,
        limits or Limits(),
        log,
        senders or default_senders(),
        status_interval_s,
    )
    relay.start()
    return relay


class Relay:
    """A relay on a listening socket, and its thread.  Only `request_stop`, `request_status`,
    `wait`, `stop` and `address` are for other threads.  As a context manager it stops at the end.
    """

    def __init__(
        self,
        listener: socket.socket,
        password: bytes,
        limits: Limits,
        log: chat_daemon.EventLog | None,
        senders: int,
        status_interval_s: float,
    ) -> None:
        name = listener.getsockname()
        self.address: tuple[str, int] = (name[0], name[1])
        self.failure: BaseException | None = None  # a bug that ended the thread
        # A byte here asks the thread for something: safe from other threads and signal handlers.
        self._waker, self._wake = socket.socketpair()
        self._waker.setblocking(False)
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

        # All below is owned by the relay's thread.
        self.limits = limits
        self.now = time.monotonic()  # of this turn
        self.scratch = memoryview(bytearray(READ_BYTES))  # for who is in no room
        self.touched_rooms: set[Room] = set()  # whose logs grew in this turn
        self.traffic = Traffic()
        self._touched: set[Client] = set()  # whose own frames grew, or who can be sent to again
        self._senders = Senders(senders)
        self._status_interval_s = status_interval_s
        self._status_at = self.now + status_interval_s if status_interval_s else NEVER
        self._is_status_due = False  # said when all is flushed: what waits for that is no lag
        self._password = password
        self._log = log
        self._listener = listener
        self._accept_at = NEVER  # when to accept again after running out of descriptors
        self._clients: set[Client] = set()
        self._half_open: dict[Client, None] = {}  # oldest first
        self._closing: dict[Client, None] = {}  # oldest first
        self._paused: list[tuple[float, int, Client]] = []  # a heap, by the time to go on
        self._pauses = 0  # so that the heap never compares clients
        self._per_ip: dict[str, int] = {}  # connections
        self._rooms: dict[bytes, Room] = {}
        self._members = 0  # in all rooms
        self._is_stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._waker, selectors.EVENT_READ, self._wake_up)

    def start(self) -> None:
        """Starts the thread."""
        self._note("start", address=chat_daemon.place(*self.address))
        self._thread.start()

    def request_stop(self) -> None:
        """Asks the relay to stop, and returns at once."""
        self._ask(_STOP)

    def request_status(self) -> None:
        """Asks for a status line in the log, and returns at once."""
        self._ask(_STATUS)

    def _ask(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # full: asked before; closed: stopped before
            self._wake.send(what)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the relay's end; returns whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Tells everybody, flushes for at most `linger_s`, closes everything."""
        self.request_stop()
        self.wait()
        self._wake.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # ------------------------------------------------------------------- the loop

    def _run(self) -> None:
        tick_at = 0.0
        try:
            while not (self._is_stopping and not self._clients):
                wake_at = min(tick_at, self._paused[0][0]) if self._paused else tick_at
                ready = self._selector.select(max(0.0, wake_at - time.monotonic()))
                self.now = time.monotonic()
                self._gather([(key.data, events) for key, events in ready])
                if self.now >= tick_at:
                    tick_at = self.now + self.limits.tick_s
                    self._tick()
                self._flush_touched()
                if self._is_status_due:
                    self._is_status_due = False
                    self._note_status()
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self._senders.close()
            for client in self._clients:
                client.socket.close()
            for sock in (self._listener, self._waker):
                sock.close()
            self._selector.close()

    def _gather(self, ready: list[tuple[Client | Callable[[], None], int]]) -> None:
        """Performs what all readable clients sent; nothing is sent yet."""
        resumed: list[Client] = []
        while self._paused and self._paused[0][0] <= self.now:
            resumed.append(heappop(self._paused)[2])
        readable: list[Client] = []
        for source, events in ready:
            if not isinstance(source, Client):
                source()
                continue
            if events & selectors.EVENT_WRITE:  # the kernel got rid of something
                source.is_blocked, source.stalled_since = False, NEVER
                self._touched.add(source)
            if events & selectors.EVENT_READ:
                readable.append(source)
        # Everybody is read in every turn, so that nobody starves behind a flood of others.
        share = min(READ_BYTES, max(1024, GATHER_BYTES // max(1, len(readable))))
        for client in readable:
            if client.stage is not Stage.GONE:
                handle_client(self, client, share)
        for client in resumed:
            if client.is_paused and client.room is not None:
                client.is_paused = False
                client.heard = self.now  # its silence was ours
                self._touched.add(client)
                self.perform(client, client.room.log.receive(None, client.rest, 0))

    def _flush_touched(self) -> None:
        """Flushes whom this turn concerns; who fails leaves, which concerns others."""
        while self.touched_rooms or self._touched:
            if self.touched_rooms:
                room = self.touched_rooms.pop()
                members = list(room.members.values())
                room.log.share(len(members))
                sent, unsettled = self._senders.flush(members)
            else:
                unsettled = list(self._touched)
                self._touched.clear()
                sent, _ = self._senders.flush(unsettled)
            self.traffic.bytes_out += sent
            for client in unsettled:
                self._settle(client)

    def _settle(self, client: Client) -> None:
        """What follows from how a client's flush ended, and what to watch it for."""
        if client.stage is Stage.GONE:
            return
        if client.is_broken:
            self.lose(client)
            return
        if not client.is_blocked:
            client.stalled_since = NEVER
            if client.stage is Stage.CLOSING:
                # FIN, not close: closing with unread bytes is a RST, which eats the ERROR.
                with contextlib.suppress(OSError):
                    client.socket.shutdown(socket.SHUT_WR)
        elif client.stalled_since == NEVER:
            client.stalled_since = self.now
        if client.lag > self.limits.max_lag_bytes and client.stage is not Stage.CLOSING:
            text = f"{client.lag} bytes behind, at most {self.limits.max_lag_bytes} are allowed"
            self.close(client, ErrorCode.SLOW_CONSUMER, text)
        is_read = not client.is_paused and client.stage is not Stage.CLOSING
        events = selectors.EVENT_READ if is_read else 0
        if client.is_blocked:
            events |= selectors.EVENT_WRITE
        if events != client.events:
            self._watch(client, events)

    def _watch(self, client: Client, events: int) -> None:
        if not client.events:
            self._selector.register(client.socket, events, client)
        elif events:
            self._selector.modify(client.socket, events, client)
        else:
            self._selector.unregister(client.socket)
        client.events = events

    def _tick(self) -> None:
        """Looks at every deadline."""
        now, limits = self.now, self.limits
        if now >= self._accept_at and not self._is_stopping:
            self._accept_at = NEVER
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for client in list(self._clients):
            if client.stage is Stage.MEMBER:
                if now - client.stalled_since >= limits.drain_timeout_s:
                    text = f"nothing taken for {limits.drain_timeout_s:g} s"
                    self.close(client, ErrorCode.SLOW_CONSUMER, text)
                elif client.is_paused:
                    continue  # its silence is ours
                elif client.pings == 2:
                    if now - client.heard >= limits.ping_interval_s * SILENCE_S / PING_INTERVAL_S:
                        self.close(client, ErrorCode.TIMEOUT, "two pings were not answered")
                elif now - client.heard >= limits.ping_interval_s * (client.pings + 1):
                    client.pings += 1
                    self._ping(client)
            elif now >= client.deadline:
                if client.stage is Stage.GREETED:
                    text = f"no JOIN within {limits.handshake_timeout_s:g} s"
                    self.close(client, ErrorCode.TIMEOUT, text)
                elif client.handshake is not None and client.handshake.rival is not None:
                    if client.handshake.rival.is_paused:  # its silence is ours
                        text = "this session is connected already"
                        self.close(client, ErrorCode.SESSION_IN_USE, text)
                    else:
                        self._replace(client.handshake.rival)
                else:
                    self.lose(client)
            elif client.stage is Stage.CLOSING:
                handle_client(self, client, DISCARD_BYTES)
        if now >= self._status_at:
            self._status_at = now + self._status_interval_s
            self._is_status_due = True
        if self._log is not None:
            self._log.roll()

    # ------------------------------------------------------------------- coming

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, name = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._note("pause", why=str(exc.strerror))
                    self._selector.unregister(self._listener)
                    self._accept_at = self.now + ACCEPT_PAUSE_S
                    return
                continue  # the client gave up before we came
            # IPv4 that comes to an IPv6 socket is IPv4.
            address, port = str(name[0]).removeprefix("::ffff:"), int(name[1])
            try:
                self._greet(sock, address, port)
            except OSError:  # gone already
                sock.close()

    def _greet(self, sock: socket.socket, address: str, port: int) -> None:
        limits = self.limits
        sock.setblocking(False)
        is_exempt = limits.is_loopback_exempt and is_loopback(address)
        if self._per_ip.get(address, 0) >= limits.max_per_ip and not is_exempt:
            # Before HELLO, because half-open ones count.  The client has sent nothing yet that a
            # RST could answer, so it is closed at once: a flood from one address must stay cheap.
            text = f"{limits.max_per_ip} connections from {address} are enough"
            name = chat_daemon.place(address, port)
            self._note("refused", address=name, code="ip_limit", why=text)
            with sock:
                sock.send(Error(ErrorCode.IP_LIMIT, text).serialize())
            return
        while len(self._half_open) >= limits.max_half_open:
            oldest = next(iter(self._half_open))
            self.close(oldest, ErrorCode.TIMEOUT, "others wanted to join too")
        # Frames are sent as soon as they are whole: waiting for more (Nagle) only adds latency.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else the kernel keeps 4 MB for who is stalled
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        client = Client(sock, address, chat_daemon.place(address, port), limits, self.now)
        self._watch(client, selectors.EVENT_READ)
        self._clients.add(client)
        self._half_open[client] = None
        self._per_ip[address] = self._per_ip.get(address, 0) + 1
        assert client.handshake is not None
        hello = Hello(VERSION, VERSION, client.handshake.nonce, bool(self._password))
        client.put(hello.serialize())
        self._touched.add(client)

    def perform(self, client: Client, intake: Intake | None) -> None:
        """Performs the frames that came from a client, until it must pause or close.

        Args:
            intake: of a member; None: what its handshake's decoder holds.
        """
        try:
            if intake is None:
                self._shake_hands(client)
            if intake is None and client.room is not None:  # it joined: what came behind JOIN
                intake = client.room.log.receive(None, client.rest, 0)
            pause_s = None if intake is None else self._take_in(client, intake)
        except TooLarge as exc:
            self.close(client, ErrorCode.TOO_LARGE, str(exc))
        except UnknownVersion as exc:
            self.close(client, ErrorCode.VERSION, f"{exc}; this relay speaks version {VERSION}")
        except WireError as exc:
            self.close(client, ErrorCode.BAD_FRAME, str(exc))
        except Exception as exc:  # a bug of ours: it costs this client, not its room
            where = traceback.extract_tb(exc.__traceback__)[-1]  # the text might be content
            why = f"{type(exc).__name__} in line {where.lineno}"
            self._note("bug", address=client.name, why=why)
            self.lose(client)
        else:
            if pause_s is not None:
                client.is_paused = True
                self._pauses += 1
                heappush(self._paused, (self.now + pause_s, self._pauses, client))
                self._touched.add(client)

    def _shake_hands(self, client: Client) -> None:
        handshake = client.handshake
        assert handshake is not None  # it is no member yet
        for frame in handshake.decoder:
            handshake.frames += 1
            if handshake.frames > MAX_HANDSHAKE_FRAMES:
                raise Malformed(f"more than {MAX_HANDSHAKE_FRAMES} frames {client.stage.value}")
            if frame.type == FrameType.JOIN and client.stage is Stage.GREETED:
                self._join(Join.parse(frame.body), client)
            else:
                self._perform(frame, client)
            if client.handshake is None:  # a member, or closed
                return

    def _take_in(self, client: Client, intake: Intake) -> float | None:
        """Returns for how many seconds not to read this member, None to go on."""
        bucket, now = client.frame_bucket, self.now
        # One more than it has left, so that a debt says for how long to wait.
        most = int(min(FRAMES_A_TURN, max(0.0, bucket.level(now)) + 1))
        frames = wait_s = 0.0
        while wait_s <= 0 and frames < FRAMES_A_TURN:
            before = intake.broadcasts
            raw = broadcast(self, intake, client, most)
            wait_s = bucket.spend(intake.broadcasts - before, now)
            frames += intake.broadcasts - before + 1
            if raw is None:
                break
            wait_s = max(wait_s, self._perform(Frame(raw), client))
            if client.stage is not Stage.MEMBER:
                return None
        client.rest = intake.rest()
        if wait_s > 0:
            return max(wait_s, MIN_PAUSE_S)
        return 0.0 if frames >= FRAMES_A_TURN else None

    def _perform(self, frame: Frame, client: Client) -> float:
        """Performs a frame that is neither JOIN nor BROADCAST; returns the seconds of its debt."""
        kind = frame.type
        if kind not in LEGAL[client.stage]:
            raise Malformed(f"a frame of type {kind} is not expected {client.stage.value}")
        if kind == FrameType.DIRECT:
            self._direct(frame, client)
            return client.direct_bucket.spend(len(frame.raw), self.now)
        if kind == FrameType.PONG:
            Pong.parse(frame.body)  # any bytes count as one
            return 0.0
        if kind == FrameType.PING:
            client.put(Pong(Ping.parse(frame.body).token).serialize())
            self._touched.add(client)
        else:
            self._rebundle(Rebundle.parse(frame.body), client)
        return client.frame_bucket.spend(1, self.now)

    def _join(self, join: Join, client: Client) -> None:
        """The checks of a JOIN, in the order of section 2.3; size and version came before, the
        address when it connected."""
        assert client.handshake is not None  # it is no member yet
        if self._password:
            nonce = client.handshake.nonce
            proof = join_proof(self._password, nonce, join.room_tag, join.session_id, join.bundle)
            if not hmac.compare_digest(proof, join.proof):
                text = "wrong password" if any(join.proof) else "this relay needs a password"
                self.close(client, ErrorCode.PASSWORD, text)
                return
        self._admit(join, client)

    def _admit(self, join: Join, client: Client) -> None:
        """The checks behind the password; once more when a rival is gone."""
        room = self._rooms.get(join.room_tag)
        rival = room.members.get(join.session_id) if room is not None else None
        if rival is not None:
            # Half-dead connections look alive for long: ask.  A full relay does not shut out who
            # comes back, since that adds no member.
            assert client.handshake is not None  # it is no member yet
            client.handshake.join, client.handshake.rival = join, rival
            client.stage = Stage.WAITING
            client.deadline = self.now + self.limits.challenge_timeout_s
            rival.challengers = (*rival.challengers, client)
            self._ping(rival)
        elif self._members >= self.limits.max_clients:
            text = f"the relay has {self._members} members, which is all it takes"
            self.close(client, ErrorCode.ROOM_FULL, text)
        else:
            self._enter(join, client)

    def _enter(self, join: Join, client: Client) -> None:
        """One point in the room's log: WELCOME is the state before it, ADD stands there for the
        others, the newcomer's cursor behind it."""
        room = self._rooms.setdefault(join.room_tag, Room(join.room_tag))
        others = [Member(other.session_id, other.bundle) for other in room.members.values()]
        if others:
            room.log.append(Add(join.session_id, join.bundle).serialize())
            self.touched_rooms.add(room)
        client.enter(room.log)
        client.put(welcome_frames(others), is_lag=False)
        self._touched.add(client)
        assert client.handshake is not None  # until now
        client.rest, client.handshake = client.handshake.decoder.rest(), None
        client.room, client.session_id, client.bundle = room, join.session_id, join.bundle
        client.stage, client.deadline = Stage.MEMBER, NEVER
        room.members[client.session_id] = client
        self._members += 1
        del self._half_open[client]
        self._note("join", address=client.name, session=client.session_id[:4].hex())

    # ------------------------------------------------------------------- being there

    def _direct(self, frame: Frame, sender: Client) -> None:
        assert sender.room is not None  # a member
        member = sender.room.members.get(Direct.parse(frame.body).session_id)
        if member is not None:  # else dropped silently: who is absent fetches it from others
            member.put(frame.raw)
            self._touched.add(member)
            self.traffic.frames += 1
            self.traffic.deliveries += 1

    def _rebundle(self, message: Rebundle, sender: Client) -> None:
        assert sender.room is not None  # a member
        sender.bundle = message.bundle
        add = Add(sender.session_id, message.bundle).serialize()
        for member in sender.room.members.values():
            if member is not sender:
                member.put(add)
        self.touched_rooms.add(sender.room)

    def _ping(self, client: Client) -> None:
        client.put(Ping(int(self.now * 1000)).serialize())
        self._touched.add(client)

    # ------------------------------------------------------------------- going

    def close(self, client: Client, code: ErrorCode, text: str) -> None:
        """Says why, and closes once the client has read it or `linger_s` is over."""
        stage = client.stage
        if stage in (Stage.CLOSING, Stage.GONE):
            return
        self._linger(client, Error(code, text))
        name = code.name.lower()
        if stage is Stage.MEMBER:
            self.traffic.drops += code is ErrorCode.SLOW_CONSUMER
            self._leave(client, LEAVE_REASONS[code], f"{name}: {text}")
        else:
            self._withdraw(client)
            self._note("refused", address=client.name, code=name, why=text)

    def _linger(self, client: Client, error: Error) -> None:
        client.stage, client.is_paused = Stage.CLOSING, False
        client.deadline = self.now + self.limits.linger_s
        if error.code == ErrorCode.SLOW_CONSUMER:
            client.cut(error.serialize())
        else:  # behind what it has yet to receive, its own receipts among it
            client.end(error.serialize())
        self._touched.add(client)
        self._closing[client] = None
        if len(self._closing) > MAX_CLOSING:
            self.lose(next(iter(self._closing)))

    def lose(self, client: Client) -> None:
        """Closes a connection now: nothing is left to say, or nobody to say it to."""
        if client.stage is Stage.GONE:
            return
        if client.stage is Stage.MEMBER:
            self._leave(client, LeaveReason.LEFT, "left")
        elif client.stage is not Stage.CLOSING:
            self._withdraw(client)
            self._note("refused", address=client.name, code="left", why="closed before it joined")
        client.stage, client.is_paused = Stage.GONE, False
        self._closing.pop(client, None)
        self._clients.remove(client)
        self._per_ip[client.address] -= 1
        if not self._per_ip[client.address]:
            del self._per_ip[client.address]
        if client.events:
            self._selector.unregister(client.socket)
        client.close()

    def _withdraw(self, client: Client) -> None:
        """A connection will not join after all."""
        del self._half_open[client]
        assert client.handshake is not None  # it is no member yet
        if (rival := client.handshake.rival) is not None:
            rival.challengers = tuple(c for c in rival.challengers if c is not client)
        client.handshake = None

    def _leave(self, client: Client, reason: LeaveReason, why: str) -> None:
        """Out of the room; the others see DEL, or the ADD that follows where it is replaced."""
        room = client.room
        assert room is not None  # a member
        del room.members[client.session_id]
        self._members -= 1
        if not room.members:
            del self._rooms[room.tag]
        elif reason is not LeaveReason.REPLACED:
            room.log.append(Del(client.session_id, reason).serialize())
            self.touched_rooms.add(room)
        client.room, client.rest = None, b""
        session = client.session_id[:4].hex()
        self._note("leave", address=client.name, session=session, why=why)
        waiting, client.challengers = client.challengers, ()
        for newcomer in waiting:
            assert newcomer.handshake is not None  # it waits
            assert newcomer.handshake.join is not None
            newcomer.handshake.rival = None
            self._admit(newcomer.handshake.join, newcomer)

    def _replace(self, old: Client) -> None:
        """Nothing came from a session's old connection: who claimed it first has it."""
        text = "this session joined again over another connection"
        self._linger(old, Error(ErrorCode.SESSION_IN_USE, text))
        self._leave(old, LeaveReason.REPLACED, "replaced by a new connection")

    def _wake_up(self) -> None:
        asked = self._waker.recv(4096)
        if _STATUS in asked:
            self._is_status_due = True
        if _STOP in asked and not self._is_stopping:
            self._begin_stop()

    def _begin_stop(self) -> None:
        """Tells everybody, behind all that they have yet to receive."""
        self._is_stopping = True
        self._note("stop", members=self._members)
        if self._accept_at == NEVER:
            self._selector.unregister(self._listener)
        self._listener.close()
        for client in self._clients:
            if client.stage is not Stage.CLOSING:
                error = Error(ErrorCode.SHUTDOWN, "the relay is going down")
                client.put(error.serialize())
                client.stage, client.is_paused = Stage.CLOSING, False
                client.room, client.handshake = None, None
                client.deadline = self.now + self.limits.linger_s
                self._touched.add(client)

    # ------------------------------------------------------------------- being watched

    def _note_status(self) -> None:
        """One line: what is there now, and what went through since the line before."""
        seconds = max(0.001, self.now - self.traffic.since)
        lags = [client.lag for client in self._clients]
        self._note(
            "status",
            members=self._members,
            rooms=len(self._rooms),
            frames_per_s=round(self.traffic.frames / seconds, 1),
            deliveries_per_s=round(self.traffic.deliveries / seconds, 1),
            bytes_in_per_s=round(self.traffic.bytes_in / seconds),
            bytes_out_per_s=round(self.traffic.bytes_out / seconds),
            most_lag_bytes=max(lags, default=0),
            drops=self.traffic.drops,
        )
        self.traffic = Traffic(since=self.now, drops=self.traffic.drops)

    def _note(self, kind: str, **fields: str | float) -> None:
        if self._log is not None:
            self._log.event(kind, **fields)


# --------------------------------------------------------------------------- the process


def _stop_with_stdin(relay: Relay) -> None:
    # os.read, not sys.stdin: a reader that is blocked there holds its lock when the process ends.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    relay.request_stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the relay until SIGINT, SIGTERM or, if asked, the end of stdin; returns the code."""
    try:
        options = chat_daemon.options(argv, Limits.max_clients, Limits.max_per_ip, Limits.rate)
    except SystemExit as exc:  # --help, --version, or usage
        return exc.code if isinstance(exc.code, int) else 0
    password = b""
    if options.password_file is not None:
        try:
            password = chat_daemon.read_password(options.password_file)
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            chat_daemon.complain(f"password file {options.password_file}: {why}")
            return 2
    limits = Limits(
        max_clients=options.max_clients, max_per_ip=options.max_per_ip, rate=options.rate
    )
    files = limits.max_clients  # of segments: four members and more share each
    connections = limits.max_clients + limits.max_half_open + MAX_CLOSING
    chat_daemon.raise_file_limit(connections + files + 64)
    log = chat_daemon.log_to_stderr(as_json=options.log_format == "json")
    try:
        relay = start_server(
            options.host,
            options.port,
            password=password,
            limits=limits,
            log=log,
            senders=options.senders,
            status_interval_s=options.status_interval,
        )
    except OSError as exc:
        if log is not None:
            log.close()
        chat_daemon.complain(chat_daemon.bind_hint(exc, options.host, options.port))
        return 3
    asks: dict[int, Callable[[], None]] = {
        signal.SIGINT: relay.request_stop,
        signal.SIGTERM: relay.request_stop,
    }
    if hasattr(signal, "SIGUSR1"):
        asks[signal.SIGUSR1] = relay.request_status
    handlers = {number: signal.signal(number, lambda n, _: asks[n]()) for number in asks}
    if options.exit_with_stdin:
        threading.Thread(target=_stop_with_stdin, args=(relay,), name="stdin", daemon=True).start()
    host, port = relay.address
    chat_daemon.say("Server is running...")
    chat_daemon.say(f"Listening on {chat_daemon.place(host, port)}")
    for line in chat_daemon.join_lines(host, port):
        chat_daemon.say(line)
    if password:
        chat_daemon.say("They need the password too: --password-file FILE")
    reachable = [] if options.no_announce else chat_daemon.reachable_addresses(host)
    with announce(
        port,
        [a.text for a in reachable if not a.is_virtual],
        needs_password=bool(password),
        failed=lambda why: log.event("unannounced", why=why) if log is not None else None,
    ):
        while not relay.wait(0.5):  # one long wait would not see Ctrl-C on Windows
            pass
    relay.stop()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if log is not None:
        log.close()
    return 1 if relay.failure is not None else 0


if __name__ == "__main__":
    sys.exit(main())
