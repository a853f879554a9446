"""The doctor names the step that fails, and what to do about it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import chat_doctor
from chat_addresses import Address
from chat_doctor import diagnose
from chat_server import start_server
from chat_wire import FrameType, Hello, frame, u8, u32


def asked(server: str, port: int, password: bytes = b"") -> tuple[int, list[str], list[str]]:
    """The exit code, what went well or is advice, what is wrong."""
    said: list[tuple[str, bool]] = []
    code = diagnose(server, port, password, lambda text, ok: said.append((text, ok)))
    return code, [text for text, ok in said if ok], [text for text, ok in said if not ok]


@contextmanager
def answering(data: bytes, *, closes: bool = False) -> Iterator[int]:
    """Something that listens on the returned port and says `data` to the first who comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(data)
                if not closes:
                    over.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def test_relay_that_lets_us_in_is_well_and_nobody_sees_the_visit() -> None:
    with start_server("127.0.0.1", 0) as relay:
        port = relay.address[1]
        code, good, bad = asked("127.0.0.1", port)
    assert (code, bad) == (0, [])
    assert [line.split(":")[0] for line in good] == [
        "name", "way", "port", "relay", "password", "all is well"
    ]  # fmt: skip
    assert good[-1].endswith(f"chat_client.py --server 127.0.0.1 --port {port}")


@pytest.mark.parametrize(
    ("password", "code", "hint"),
    [
        (b"right", 0, ""),
        (b"wrong", 5, "relay: it does not let us in: wrong password"),
        (b"", 5, "password: this relay wants one"),
    ],
)
def test_password_is_checked(password: bytes, code: int, hint: str) -> None:
    with start_server("127.0.0.1", 0, password=b"right") as relay:
        found, _, bad = asked("localhost", relay.address[1], password)
    assert (found, bad) == (code, [hint] if hint else [])


def test_closed_port_is_said_to_be_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, good, bad = asked("127.0.0.1", port)
    assert (code, bad) == (3, [f"port: the computer is there, and nothing listens at port {port}"])
    assert "does the relay run there" in good[-2]


def test_swallowed_connection_is_a_firewall_or_a_wifi_that_isolates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def times_out(*_: object, **__: object) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", times_out)
    code, good, bad = asked("127.0.0.1", 5555)
    assert code == 3
    assert bad[0].startswith("port: no answer within 5 s")
    advice = "\n".join(good)
    for word in ("ufw allow 5555/tcp", "-LocalPort 5555", "client isolation", "VPN"):
        assert word in advice


def test_no_way_is_said_with_the_systems_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> socket.socket:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    code, good, bad = asked("127.0.0.1", 5555)
    assert (code, bad) == (3, ["port: 127.0.0.1 cannot be reached (No route to host)"])
    assert "Local Network" in good[-1]


def test_tunnel_on_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [Address("127.0.0.1", "tun0")]
    monkeypatch.setattr(chat_doctor, "find_addresses", lambda: own)
    monkeypatch.setattr(chat_doctor, "is_loopback", lambda _host: False)
    _, _, bad = asked("127.0.0.1", 1)
    assert bad[0] == "tun0 looks like a VPN or a virtual machine: off, if it fails"


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300])
def test_unknown_name_is_said_to_be_one(name: str) -> None:
    code, good, bad = asked(name, 5555)
    assert (code, bad) == (3, [f"name: nobody here knows an address for {name}"])
    assert "192.168.1.5" in good[-1]


@pytest.mark.parametrize(
    ("data", "closes", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "HTTP/1.1 400"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, "SSH-2.0"),
        (b"", True, "is no relay"),
        (b"hi", True, "'hi'"),
        (frame(FrameType.PING, bytes(8)), False, "is no relay"),
        (frame(FrameType.HELLO, b"\x01\x01\x1b[2J"), False, r"\x1b[2J"),
    ],
)
def test_what_listens_and_is_no_relay_is_quoted(data: bytes, closes: bool, hint: str) -> None:
    with answering(data, closes=closes) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert code == 3
    assert bad[0].startswith("relay: ")
    assert hint in bad[0]
    assert bad[0].isprintable()


def test_relay_of_another_version_is_said_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    body = u8(2) + u8(3) + bytes(32) + u8(0) + u32(65_536)
    with answering(frame(FrameType.HELLO, body)) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert (code, bad) == (3, ["relay: the relay speaks versions 2 to 3, we speak 1"])


def test_silence_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_doctor, "STEP_S", 0.05)
    with answering(b"") as port:
        code, _, bad = asked("127.0.0.1", port)
    assert code == 3
    assert "no word within" in bad[0]


def test_relay_that_hangs_up_at_our_joining_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(Hello(1, 1, bytes(32), False).serialize(), closes=True) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert (code, bad) == (3, ["relay: it does not let us in, and does not say why"])
