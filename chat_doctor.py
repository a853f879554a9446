"""Why can't I reach that relay?  One step after the other, and at the first that fails what to do.

What lives here: the steps, and the advice.  What it does not know: profiles, keys; it joins a room
that nobody else is in, for a moment, with no bundle at all.

    code = diagnose("192.168.1.5", 5555, b"", lambda text, ok: print(text))    # 0, 3 or 5

Nothing takes longer than 5 s a step.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from chat_addresses import find_addresses, is_loopback
from chat_wire import (
    CLIENT_COMMAND,
    DEFAULT_PORT,
    MAX_JOIN_FRAME_BYTES,
    Error,
    ErrorCode,
    Frame,
    FrameDecoder,
    FrameType,
    Hello,
    Join,
    UnknownVersion,
    WireError,
    join_proof,
)

__all__ = ["Say", "diagnose"]

STEP_S = 5.0
_QUOTED_BYTES = 40  # of what answers and is no relay

Say = Callable[[str, bool], None]


class _Failed(Exception):
    """A step failed; the texts are what is wrong, and what to try, a line each."""

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__(*lines)
        self.exit_code = exit_code
        self.lines = lines


def diagnose(server: str, port: int, password: bytes, say: Say) -> int:
    """Tells what works and what does not.

    Args:
        password: the relay's; empty: none is known.
        say: a line for the person, and whether it is no bad news: a step that went well, or what to
            try after one that did not.

    Returns:
        0: one can join; 3: one cannot; 5: the password is missing or wrong.
    """
    try:
        address = _look_up(server, port, say)
        _look_at_the_way(address, say)
        with _connect(address, port, say) as sock:
            hello, decoder = _hear(sock, say)
            _join(sock, hello, decoder, password, say)
    except _Failed as failed:
        wrong, *advice = failed.lines
        say(wrong, False)
        for line in advice:
            say(line, True)
        return failed.exit_code
    where = f"--server {server}" + (f" --port {port}" if port != DEFAULT_PORT else "")
    say(f"all is well: {CLIENT_COMMAND} {where}", True)
    return 0


def _look_up(server: str, port: int, say: Say) -> str:
    """The numeric address."""
    try:
        found = socket.getaddrinfo(server, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as exc:  # a name that IDNA refuses is a ValueError
        raise _Failed(
            3,
            f"name: nobody here knows an address for {server}",
            "the relay prints its address as a number, such as 192.168.1.5: take that",
        ) from exc
    address = str(found[0][4][0])
    say(
        f"name: {server} is {address}" if address != server else f"name: {server} is a number", True
    )
    return address


def _look_at_the_way(address: str, say: Say) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))  # sends nothing
            ours = str(sock.getsockname()[0]).partition("%")[0]
    except OSError as exc:
        raise _Failed(
            3,
            f"way: this computer knows none to {address} ({_reason(exc)})",
            "is it on the network at all (Wi-Fi, cable), and on the relay's?",
        ) from exc
    if is_loopback(address):
        say("way: that is this computer itself; nobody else reaches it by that address", True)
        return
    adapter = next((a for a in find_addresses() if a.text == ours), None)
    over = f" over {adapter.adapter}" if adapter is not None and adapter.adapter else ""
    say(f"way: from {ours}{over}", True)
    if adapter is not None and adapter.is_virtual:
        say(f"{adapter.adapter} looks like a VPN or a virtual machine: off, if it fails", False)
    elif family == socket.AF_INET and ours.rsplit(".", 1)[0] != address.rsplit(".", 1)[0]:
        say("the two addresses begin differently: another network, or a large one", True)


def _connect(address: str, port: int, say: Say) -> socket.socket:
    try:
        sock = socket.create_connection((address, port), timeout=STEP_S)
    except ConnectionRefusedError as exc:
        raise _Failed(
            3,
            f"port: the computer is there, and nothing listens at port {port}",
            "does the relay run there, and is that its port? It prints `Listening on …:PORT`",
            "one that was started with --host 127.0.0.1 hears its own computer alone",
        ) from exc
    except TimeoutError as exc:
        raise _Failed(
            3,
            f"port: no answer within {STEP_S:.0f} s: it is swallowed, or nobody has the address",
            f"a firewall on the relay's computer: allow TCP port {port} there:",
            f"  Ubuntu: sudo ufw allow {port}/tcp",
            f"  Fedora: sudo firewall-cmd --add-port={port}/tcp",
            "  Windows, as administrator: New-NetFirewallRule -DisplayName Chainroom "
            f"-Direction Inbound -Protocol TCP -LocalPort {port} -Action Allow",
            "  macOS: System Settings, Network, Firewall: allow incoming connections for Python",
            "a Wi-Fi that keeps its guests apart (client isolation): another network, or a cable",
            "a VPN on either computer: try without",
        ) from exc
    except OSError as exc:
        raise _Failed(
            3,
            f"port: {address} cannot be reached ({_reason(exc)})",
            "are both computers on the same network? A VPN, a guest Wi-Fi or a firewall keeps "
            "them apart; on a Mac the terminal needs the permission Local Network",
        ) from exc
    say(f"port: {port} is open", True)
    return sock


def _hear(sock: socket.socket, say: Say) -> tuple[Hello, FrameDecoder]:
    decoder = FrameDecoder(MAX_JOIN_FRAME_BYTES)
    heard = b""

    def no_relay(why: str) -> _Failed:
        quoted = ascii(heard[:_QUOTED_BYTES])[1:] if heard else "nothing"
        return _Failed(
            3,
            f"relay: {why}; it says {quoted}",
            "another program listens there: the relay prints its own port",
        )

    try:
        sock.settimeout(STEP_S)
        if not (frame := _next_frame(sock, decoder)):
            raise no_relay("what answers there closes the connection and is no relay")
        heard = frame.raw
        if frame.type != FrameType.HELLO:
            raise no_relay("what answers there is no relay")
        hello = Hello.parse(frame.body)
    except UnknownVersion as exc:
        raise _Failed(3, f"relay: {exc}", "one of the two is older: take the same version") from exc
    except _Foreign as exc:
        heard = exc.data
        raise no_relay("what answers there is no relay") from exc
    except (WireError, OSError) as exc:
        silent = f"no word within {STEP_S:g} s"
        why = silent if isinstance(exc, TimeoutError) else str(exc)
        raise no_relay(f"what listens there is no relay ({why})") from exc
    say("relay: it answers, and speaks our version", True)
    return hello, decoder


class _Foreign(Exception):
    """Bytes that are no frame."""

    def __init__(self, data: bytes) -> None:
        super().__init__("no frame")
        self.data = data


def _next_frame(sock: socket.socket, decoder: FrameDecoder) -> Frame | None:
    """None: the other side closed.  Raises OSError, _Foreign."""
    deadline = time.monotonic() + STEP_S
    data = b""
    while True:
        try:
            for frame in decoder:
                return frame
        except WireError as exc:
            raise _Foreign(data) from exc
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            more = sock.recv(4096)
        except TimeoutError:
            if data:
                raise _Foreign(data) from None
            raise
        if not more:
            if data:
                raise _Foreign(data)
            return None
        data += more
        decoder.feed(more)


def _join(
    sock: socket.socket, hello: Hello, decoder: FrameDecoder, password: bytes, say: Say
) -> None:
    """A room and a session that nobody else has, so that nobody sees it."""
    if hello.needs_password and not password:
        raise _Failed(
            5,
            "password: this relay wants one",
            "the client asks for it; here a file may hold it: --password-file F",
        )
    room, session_id, bundle = os.urandom(16), os.urandom(16), b""
    proof = bytes(32)
    if hello.needs_password:
        proof = join_proof(password, hello.nonce, room, session_id, bundle)
    frame: Frame | None = None
    with suppress(OSError, _Foreign):
        sock.sendall(Join(room, session_id, proof, bundle).serialize())
        frame = _next_frame(sock, decoder)
    if frame is not None and frame.type == FrameType.WELCOME:
        say("password: right" if hello.needs_password else "password: none is wanted", True)
        return
    with suppress(WireError):
        if frame is not None and frame.type == FrameType.ERROR:
            told = Error.parse(frame.body)
            code = 5 if told.code == ErrorCode.PASSWORD else 3
            raise _Failed(code, f"relay: it does not let us in: {told.text}")
    raise _Failed(3, "relay: it does not let us in, and does not say why", "look at its log")


def _reason(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
