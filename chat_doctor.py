"""Why can't I reach that relay?  One step after the other, and at the first that fails what to do.

What lives here: the steps, and the advice.  What it does not know: profiles, keys; it joins a room
that nobody else is in, for a moment, with no bundle at all.

    code = diagnose("192.168.1.5", 5555, b"", lambda text, ok: print(text))    # 0, 3 or 5

Nothing takes longer than 5 s a step.  Names, and what a relay says, are told as they came: to be
escaped by who shows them.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from chat_addresses import Address, find_addresses, is_loopback
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
_MAX_ADDRESSES = 8  # of one name
_RECEIVED_BYTES = 4096
_QUOTED_BYTES = 40  # of what answers and is no relay
_WRITTEN_S = 1_793_491_200  # 2026-11-01
# What answers there instead, by how it begins.
_KNOWN = {
    b"HTTP/": "a web server",
    b"\x15\x03": "a server for TLS",
    b"SSH-": "an SSH server",
    b"220": "a mail or FTP server",
    b"RFB ": "a VNC server",
}

Say = Callable[[str, bool], None]


class _Failed(Exception):
    """A step failed; the texts are what is wrong, and what to try, a line each."""

    def __init__(self, exit_code: int, wrong: str, *advice: str) -> None:
        super().__init__(wrong)
        self.exit_code = exit_code
        self.wrong = wrong
        self.advice = advice


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
        addresses = _look_up(server, port, say)
        with _reach(addresses, port, say) as sock:
            hello, decoder = _hear(sock, say)
            _join(sock, hello, decoder, password, say)
    except _Failed as failed:
        say(failed.wrong, False)
        for line in failed.advice:
            say(line, True)
        return failed.exit_code
    _look_at_the_clock(say)
    where = f"--server {server}" + (f" --port {port}" if port != DEFAULT_PORT else "")
    say(f"all is well: {CLIENT_COMMAND} {where}", True)
    return 0


# --------------------------------------------------------------------------- name


def _look_up(server: str, port: int, say: Say) -> list[str]:
    """Numeric addresses, at least one, in the order in which they are to be tried."""
    found: list[str] = []
    problem = f"nobody here knows an address for {server}"

    def look_up() -> None:
        # A name that IDNA refuses is a ValueError.
        with suppress(OSError, ValueError):
            for *_, place in socket.getaddrinfo(server, port, type=socket.SOCK_STREAM):
                found.append(str(place[0]))

    # A name server that is not there can take half a minute, and the system's call has no limit.
    thread = threading.Thread(target=look_up, name="looking up", daemon=True)
    thread.start()
    thread.join(STEP_S)
    if thread.is_alive():
        problem = f"whoever knows the names here does not answer for {server} in {STEP_S:g} s"
    addresses = list(dict.fromkeys(found))[:_MAX_ADDRESSES]
    if not addresses:
        raise _Failed(
            3,
            f"name: {problem}",
            "the relay prints its address as a number, such as 192.168.1.5: take that",
        )
    if ipaddress.ip_address(addresses[0]).is_unspecified:
        raise _Failed(
            3,
            f"name: {server} is no computer's address; to listen there is to listen at all of them",
            "take one that the relay prints behind `Join from another computer`",
        )
    is_number = addresses == [server]
    say(f"name: {server} is " + ("a number" if is_number else ", ".join(addresses)), True)
    return addresses


# --------------------------------------------------------------------------- way and port


def _reach(addresses: Sequence[str], port: int, say: Say) -> socket.socket:
    """A connection to the first that has one."""
    for address in addresses[:-1]:
        try:
            return _connect(address, port, _look_at_the_way(address, say), say)
        except _Failed as failed:
            say(f"{failed.wrong}; there is another address", True)
    return _connect(addresses[-1], port, _look_at_the_way(addresses[-1], say), say)


def _look_at_the_way(address: str, say: Say) -> list[str]:
    """What to try, with the likeliest first, if nothing is reached on this way."""
    try:
        ours = _source(address)
    except OSError as exc:
        advice = ["is it on the network at all (Wi-Fi, cable), and on the relay's?"]
        if ipaddress.ip_address(address.partition("%")[0]).is_link_local and "%" not in address:
            advice.insert(0, "such an address needs the adapter behind it: fe80::1%eth0")
        wrong = f"way: this computer knows none to {address} ({_reason(exc)})"
        raise _Failed(3, wrong, *advice) from exc
    if is_loopback(address):
        say("way: that is this computer itself; nobody else reaches it by that address", True)
        return []
    own = find_addresses()
    if address.partition("%")[0] in (one.text.partition("%")[0] for one in own):
        say(
            "way: that is this computer itself; whether others reach it has to be tried there", True
        )
        return []
    used = next((one for one in own if one.text.partition("%")[0] == ours), Address(ours))
    over = f" over {used.adapter}" if used.adapter else ""
    advice = []
    if used.is_virtual:
        over += ", which looks like a VPN or a virtual machine"
        advice.append(f"the way leads{over}: try with that switched off")
    elif used.is_self_made and not used.is_near(address):
        over += ", which this computer gave itself: its network gave it none"
        advice.append("this computer has no address: Wi-Fi off and on again, or another cable")
    elif not used.is_near(address):
        over += ", to another network"
        advice.append(
            f"{ours} and {address} are of two networks: both computers on the same Wi-Fi, and none "
            "on that for guests"
        )
    say(f"way: from {ours}{over}", True)
    return advice


def _source(address: str) -> str:
    """Our own address on the way to another, without an adapter's name.  Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))  # sends nothing
        return str(sock.getsockname()[0]).partition("%")[0]


def _connect(address: str, port: int, advice: Sequence[str], say: Say) -> socket.socket:
    """Where it fails, `advice` comes first of all."""
    try:
        sock = socket.create_connection((address, port), timeout=STEP_S)
    except ConnectionRefusedError as exc:
        raise _Failed(
            3,
            f"port: {address} is there, and nothing listens at its port {port}",
            "does the relay run there, and is that its port? It prints `Listening on …:PORT`",
            "one that was started with --host 127.0.0.1 hears its own computer alone",
        ) from exc
    except TimeoutError as exc:
        raise _Failed(
            3,
            f"port: no answer from {address} within {STEP_S:g} s: it is swallowed, or nobody has "
            "the address",
            *advice,
            *_let_through(port),
            "a Wi-Fi that keeps its guests apart (client isolation), as many access points and "
            "phones' hotspots do: another network, or a cable",
        ) from exc
    except OSError as exc:
        raise _Failed(
            3,
            f"port: {address} cannot be reached ({_reason(exc)})",
            *advice,
            "is the relay's computer on, awake and on this network, and is that its address still?",
            *_let_through(port),  # firewalld answers as if there were no way
            "on a Mac the terminal needs the permission Local Network (System Settings, Privacy)",
        ) from exc
    say(f"port: {port} is open", True)
    return sock


def _let_through(port: int) -> list[str]:
    on_windows = "New-NetFirewallRule -DisplayName Chainroom -Direction Inbound -Protocol TCP"
    return [
        f"a firewall on the relay's computer: allow TCP port {port} there:",
        f"  Ubuntu, Debian: sudo ufw allow {port}/tcp",
        f"  Fedora, openSUSE: sudo firewall-cmd --add-port={port}/tcp",
        f"  Windows, PowerShell as administrator: {on_windows} -LocalPort {port} -Action Allow",
        "  macOS: System Settings, Network, Firewall, Options: allow Python",
    ]


# --------------------------------------------------------------------------- relay and version


class _NoFrame(Exception):
    """What came instead of one; the text says why it is none."""

    def __init__(self, why: str, data: bytes = b"") -> None:
        super().__init__(why)
        self.data = data


def _hear(sock: socket.socket, say: Say) -> tuple[Hello, FrameDecoder]:
    """The relay's HELLO, and what decodes the frames behind it."""
    decoder = FrameDecoder(MAX_JOIN_FRAME_BYTES)
    try:
        frame = _next_frame(sock, decoder)
        if frame.type == FrameType.ERROR:  # too many connections from here
            raise _refused(frame)
        if frame.type != FrameType.HELLO:
            raise _no_relay("", frame.raw)
        try:
            hello = Hello.parse(frame.body)
        except UnknownVersion as exc:
            advice = "one of the two is older: take the same version"
            raise _Failed(3, f"version: {exc}", advice) from exc
        except WireError as exc:
            raise _no_relay(str(exc), frame.raw) from exc
    except _NoFrame as exc:
        raise _no_relay(str(exc), exc.data or _answer_to_http(sock)) from exc
    say("relay: it answers, and speaks our version", True)
    return hello, decoder


def _no_relay(why: str, data: bytes) -> _Failed:
    if not data:
        return _Failed(
            3,
            f"relay: what listens there is none, or is stuck: {why}",
            "the relay prints its own port; if that is it: start the relay again",
        )
    kind = next((what for start, what in _KNOWN.items() if data.startswith(start)), "no relay")
    return _Failed(
        3,
        f"relay: what answers there is {kind}; it says {ascii(data[:_QUOTED_BYTES])[1:]}",
        "another program listens there: the relay prints its own port",
    )


def _answer_to_http(sock: socket.socket) -> bytes:
    """What somebody silent says to a browser's question; a web server waits for one."""
    with suppress(OSError):
        sock.settimeout(STEP_S)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.recv(_RECEIVED_BYTES)
    return b""


def _next_frame(sock: socket.socket, decoder: FrameDecoder) -> Frame:
    """Raises _NoFrame."""
    deadline = time.monotonic() + STEP_S
    data = b""
    while True:
        try:
            for frame in decoder:
                return frame
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            more = sock.recv(_RECEIVED_BYTES)
        except WireError as exc:
            raise _NoFrame(str(exc), data) from exc
        except TimeoutError as exc:
            raise _NoFrame(f"no word within {STEP_S:g} s", data) from exc
        except OSError as exc:
            raise _NoFrame(_reason(exc), data) from exc
        if not more:
            raise _NoFrame("it closes the connection", data)
        data += more
        decoder.feed(more)


# --------------------------------------------------------------------------- password


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
    try:
        sock.sendall(Join(room, session_id, proof, bundle).serialize())
        frame = _next_frame(sock, decoder)
    except (OSError, _NoFrame) as exc:
        why = _reason(exc) if isinstance(exc, OSError) else str(exc)
        raise _Failed(3, f"relay: it does not let us in: {why}", "look at its log") from exc
    if frame.type != FrameType.WELCOME:
        raise _refused(frame)
    say("password: right" if hello.needs_password else "password: none is wanted", True)


def _refused(frame: Frame) -> _Failed:
    with suppress(WireError):
        if frame.type == FrameType.ERROR:
            told = Error.parse(frame.body)
            if told.code == ErrorCode.PASSWORD:
                return _Failed(5, "password: it is another", "who started the relay knows it")
            return _Failed(3, f"relay: it does not let us in: {told.text}")
    return _no_relay("", frame.raw)


# --------------------------------------------------------------------------- clock


def _look_at_the_clock(say: Say) -> None:
    """Nobody here can be asked for the time; a clock that stands before this program is wrong."""
    shown = time.strftime("%Y-%m-%d %H:%M")
    if time.time() < _WRITTEN_S:
        say(f"clock: {shown} is long ago, and your messages would bear that time: set it", False)
    else:
        say(f"clock: {shown} here; your messages will bear that time", True)


def _reason(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
