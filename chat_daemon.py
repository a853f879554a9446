"""The relay as a process on its host: its flags, its log, its addresses, its files.

What lives here: what `chat_server` needs of its process and its operating system, and would
otherwise have to be read past there.  What it does not know: frames, members, rooms.

    flags = options(None, 1024, 64, 2000)
    log = log_to_stderr()
    sock = listen("0.0.0.0", 5555)
    for line in join_lines("0.0.0.0", 5555): ...

DESIGN.md, sections 6 and 7.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import json
import os
import queue
import socket
import stat
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import NoReturn

from chat_addresses import Address, find_addresses, is_loopback
from chat_wire import CLIENT_COMMAND, DEFAULT_PORT, PROGRAM_VERSION, VERSION

if sys.platform != "win32":
    import resource

__all__ = [
    "EventLog",
    "bind_hint",
    "complain",
    "join_lines",
    "listen",
    "log_to_stderr",
    "options",
    "place",
    "raise_file_limit",
    "reachable_addresses",
    "read_password",
    "say",
]

LINES_A_SECOND = {"refused": 20}  # of the log, by kind: a flood must not fill a disk
LINES_A_SECOND_ELSE = 200  # a thousand members coming back after a restart take 20 s
LOG_QUEUE_LINES = 2_000  # waiting for a slow terminal or pipe; what does not fit is dropped
BACKLOG = 1_024  # connections that the kernel holds until they are accepted


# --------------------------------------------------------------------------- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line with a hint, where argparse prints its usage too."""
        self.exit(2, f"chainroom-server: {message}; see --help\n")


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {low} to {high}")

    return parse


def options(
    argv: Sequence[str] | None, max_clients: int, max_per_ip: int, rate: float
) -> argparse.Namespace:
    """The flags of the command line, three of them with the defaults given.

    Raises:
        SystemExit: after --help, --version, or one line about a flag that is wrong (code 2).
    """
    parser = _Parser(
        prog="chainroom-server",
        description="Chainroom's relay: it passes on what it cannot read, and stores nothing.",
        epilog="Exit codes: 0 stopped, 1 error, 2 usage, 3 the address cannot be listened on.",
    )
    flag, many = parser.add_argument, _number(1, 1_000_000)
    everywhere = "0.0.0.0"  # noqa: S104 - a relay is for the others on the network
    flag("--host", default=everywhere, metavar="ADDRESS", help="IPv4 or IPv6 (%(default)s)")
    flag("--port", type=_number(0, 65_535), default=DEFAULT_PORT, metavar="N",
         help="0 picks a free one (%(default)s)")  # fmt: skip
    flag("--password-file", metavar="F", help="its first line is the password that members need")
    flag("--max-clients", type=many, default=max_clients, metavar="N",
         help="members in all rooms (%(default)s)")  # fmt: skip
    flag("--max-per-ip", type=many, default=max_per_ip, metavar="N",
         help="connections from one address, this host excepted (%(default)s)")  # fmt: skip
    flag("--rate", type=_number(0, 1_000_000), default=int(rate), metavar="N",
         help="messages a second from each member, 0 = any number (%(default)s)")  # fmt: skip
    flag("--senders", type=_number(0, 64), default=0, metavar="N",
         help="threads that send to large rooms, 0 = one for each core (%(default)s)")  # fmt: skip
    flag("--log-format", choices=("text", "json"), default="text",
         help="of the log on standard error, a line each (%(default)s)")  # fmt: skip
    flag("--status-interval", type=_number(0, 86_400), default=0, metavar="S",
         help="seconds between status lines, 0 = only at SIGUSR1 (%(default)s)")  # fmt: skip
    flag("--no-announce", action="store_true",
         help="do not tell the network (mDNS) that there is a relay")  # fmt: skip
    flag("--exit-with-stdin", action="store_true",
         help="stop when standard input ends, as chat_client.py --host needs it")  # fmt: skip
    version = f"chainroom-server {PROGRAM_VERSION}, protocol {VERSION}"
    flag("--version", action="version", version=version)
    return parser.parse_args(argv)


def bind_hint(exc: OSError, host: str, port: int) -> str:
    """Why `listen` failed, and what to try."""
    where = place(host, port)
    if exc.errno == errno.EADDRINUSE:
        return f"{where} is in use; is a relay running already? port 0 picks a free one"
    if exc.errno == errno.EACCES:
        return f"{where} is not allowed; try a port above 1023, such as --port {DEFAULT_PORT}"
    return f"cannot listen on {where}: {exc.strerror or exc}; try --host 0.0.0.0"


# --------------------------------------------------------------------------- the log


# How each kind of event reads as text; as JSON its fields are the keys.
EVENTS = {
    "start": "{address}",
    "join": "{address} session {session}",
    "leave": "{address} session {session} {why}",
    "refused": "{address} {code}: {why}",
    "pause": "no connections are accepted for a while: {why}",
    "unannounced": "the network is not told of this relay: {why}",
    "status": "members {members} rooms {rooms} frames/s {frames_per_s} "
    "deliveries/s {deliveries_per_s} bytes/s in {bytes_in_per_s} out {bytes_out_per_s} "
    "lag {most_lag_bytes} drops {drops}",
    "bug": "{address} {why}",
    "stop": "{members} members",
    "more": "{count} more lines like {kind}, not listed",
}


class EventLog:
    """One line for each event, begun by its time; bounded by rate, and never in the relay's way.

    A thread of its own writes, because a terminal on hold (Ctrl-S) or a full pipe blocks a write,
    and the relay must not be.  Any thread may add a line.

    Args:
        write: takes one encoded line; an OSError ends the log and nothing else.
        as_json: one JSON object a line: time (RFC 3339), event, and the event's fields.
    """

    def __init__(self, write: Callable[[bytes], object], *, as_json: bool = False) -> None:
        self._write = write
        self._as_json = as_json
        self._second = 0
        self._lines: dict[str, int] = {}  # of this second, by kind
        self._counting = threading.Lock()  # guards the two before
        self._queue: queue.Queue[str | None] = queue.Queue(LOG_QUEUE_LINES)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def event(self, kind: str, **fields: str | float) -> None:
        """Adds a line, unless there are too many of this kind in this second.

        Args:
            kind: one of `EVENTS`, whose fields are `fields`; never content.
        """
        self.roll()
        with self._counting:
            count = self._lines[kind] = self._lines.get(kind, 0) + 1
        if count <= LINES_A_SECOND.get(kind, LINES_A_SECOND_ELSE):
            self._put(kind, fields)

    def roll(self) -> None:
        """Says, once a second is over, how many lines it left out.  Call it now and then."""
        self._roll_to(int(time.monotonic()))

    def _roll_to(self, second: int) -> None:
        with self._counting:
            if second == self._second:
                return
            self._second, lines, self._lines = second, self._lines, {}
        for kind, count in lines.items():
            more = count - LINES_A_SECOND.get(kind, LINES_A_SECOND_ELSE)
            if more > 0:
                self._put("more", {"count": more, "kind": kind})

    def close(self) -> None:
        """Writes what is queued, for at most a second or two; then the log takes nothing more."""
        self._roll_to(-1)
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=1.0)
            self._thread.join(1.0)

    def _put(self, kind: str, fields: dict[str, str | float]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if self._as_json:
            line = json.dumps({"time": f"{now[:-2]}:{now[-2:]}", "event": kind, **fields})
        else:
            line = f"{now[:19]} {kind} {EVENTS[kind].format(**fields)}"
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(line + "\n")

    def _run(self) -> None:
        is_broken = False
        while (line := self._queue.get()) is not None:
            try:
                if not is_broken:
                    self._write(line.encode())
            except OSError:
                is_broken = True


def log_to_stderr(*, as_json: bool = False) -> EventLog | None:
    """A log on standard error; None where there is none."""
    # os.write, since a thread that blocks inside sys.stderr would hold its lock when the process
    # ends.  If stderr was closed at the start, descriptor 2 may be one of our sockets.
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return EventLog(lambda line: os.write(descriptor, line), as_json=as_json)


def complain(text: str) -> None:
    """One line on standard error, before the end."""
    with contextlib.suppress(OSError, ValueError):
        print(f"chainroom-server: {text}", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """One line on standard output, for people; if that is closed or broken, the relay goes on."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # else Python's exit tries again: code 120
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stdout.fileno())
            os.close(devnull)


# --------------------------------------------------------------------------- addresses


def place(address: str, port: int) -> str:
    """ADDRESS:PORT as people write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that does not block, on one address (`::` takes IPv4 as well).

    Raises:
        OSError: the address is busy, not this host's, not allowed, or no address at all.
    """
    try:
        family, kind, proto, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as exc:  # a name that IDNA refuses, such as a..b
        raise OSError(f"{host!r} is no host name") from exc
    sock = socket.socket(family, kind, proto)
    try:
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # restart without a wait
        if family == socket.AF_INET6 and host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def reachable_addresses(host: str) -> list[Address]:
    """By which others may reach a relay that is bound to `host`; empty: it is for this computer."""
    bound = ipaddress.ip_address(host.partition("%")[0])
    if bound.is_loopback:
        return []
    own = find_addresses()
    if not bound.is_unspecified:
        return [a for a in own if a.text == host] or [Address(host)]
    return [a for a in own if bound.version == 6 or ":" not in a.text]


def join_lines(host: str, port: int) -> list[str]:
    """What people paste to join a relay that is bound to `host`, a line for each way."""
    command = f"{CLIENT_COMMAND} --server %s --port {port}"
    addresses = reachable_addresses(host)
    if not addresses:
        here = host if is_loopback(host) else "127.0.0.1"
        return [f"Join from this computer: {command % here}"]
    return [f"Join from another computer{_by(a)}: {command % a.text}" for a in addresses]


def _by(address: Address) -> str:
    if not address.is_virtual:
        return ""
    return f" (by {address.adapter}, virtual)" if address.adapter else " (virtual)"


# --------------------------------------------------------------------------- the host's files


def read_password(path: str) -> bytes:
    """The first line of a file without its line end, as UTF-8 in NFC, at most 4096 bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: others may use it, it is empty, or no UTF-8.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        # systemd gives a service its credentials by an ACL, which looks like a readable group.
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        is_private = credentials is not None and os.path.dirname(path) == credentials
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO) and not is_private:
            raise ValueError(f"others may use it; try: chmod 600 {path}")
        line = file.readline(4097).rstrip(b"\r\n")
    if len(line) > 4096:
        raise ValueError("its first line is over 4096 bytes")
    try:
        password = unicodedata.normalize("NFC", line.decode())
    except UnicodeDecodeError as exc:
        raise ValueError("its first line is no UTF-8") from exc
    if not password:
        raise ValueError("its first line is empty; put the password there")
    return password.encode()


def raise_file_limit(need: int) -> None:
    """Allows this process `need` descriptors, if its host lets it; the usual limit is 1024."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < need:
            soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
