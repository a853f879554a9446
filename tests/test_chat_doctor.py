"""The doctor names the step that fails, and what to do about it."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from own_network import in_own_network

import chat_doctor
from chat_addresses import Address
from chat_doctor import diagnose
from chat_server import start_server
from chat_wire import Error, ErrorCode, FrameType, Hello, frame, u8, u32


def asked(server: str, port: int, password: bytes = b"") -> tuple[int, list[str], list[str]]:
    """The exit code, what went well or is advice, what is wrong."""
    said: list[tuple[str, bool]] = []
    code = diagnose(server, port, password, lambda text, ok: said.append((text, ok)))
    return code, [text for text, ok in said if ok], [text for text, ok in said if not ok]


@contextmanager
def answering(data: bytes, *, closes: bool = False, asked: bool = False) -> Iterator[int]:
    """Something that listens on the returned port and says `data` to the first who comes.

    Args:
        asked: only when it was asked something.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                if asked:
                    sock.recv(1)
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
        "name", "way", "port", "relay", "password", "clock", "all is well"
    ]  # fmt: skip
    assert good[-1].endswith(f"chat_client.py --server 127.0.0.1 --port {port}")


@pytest.mark.parametrize(
    ("password", "code", "hint"),
    [
        (b"right", 0, ""),
        (b"wrong", 5, "password: it is another"),
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
    wrong = f"port: 127.0.0.1 is there, and nothing listens at its port {port}"
    assert (code, bad) == (3, [wrong])
    assert "does the relay run there" in good[-2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
def test_swallowed_connection_is_a_firewall_or_a_wifi_that_isolates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_doctor, "STEP_S", 0.2)
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)  # room for one, whom nobody accepts
        first.connect(listener.getsockname())
        port = listener.getsockname()[1]
        code, good, bad = asked("127.0.0.1", port)
    assert code == 3
    assert bad[0].startswith("port: no answer from 127.0.0.1 within 0.2 s")
    advice = "\n".join(good)
    for word in (f"ufw allow {port}/tcp", f"-LocalPort {port}", "client isolation", "hotspot"):
        assert word in advice


# Here, somebody who is not there, a network that is not ours, one behind a tunnel, and none.
SET_UP = """
ip link set lo up
for name in eth0 tun0; do ip link add $name type veth peer name $name-end; done
for name in eth0 tun0; do ip link set $name up; ip link set $name-end up; done
ip address add 192.168.1.5/24 dev eth0
ip address add 10.8.0.2/24 dev tun0
ip route add 192.168.7.0/24 via 192.168.1.1
ip route add 172.16.0.0/16 via 10.8.0.1
ip route add unreachable 10.1.0.0/16
"""
SCRIPT = """
import json, sys
import chat_doctor
chat_doctor.STEP_S = 0.2
for server in sys.argv[1:]:
    said = []
    said.append(chat_doctor.diagnose(server, 5555, b"", lambda text, ok: said.append(text)))
    print(json.dumps(said))
"""


def test_each_way_is_told_from_the_others_on_linux() -> None:
    servers = ["192.168.1.5", "192.168.1.7", "192.168.7.7", "172.16.1.1", "10.1.2.3", "10.2.2.2"]
    done = in_own_network(SET_UP, SCRIPT, *servers)
    assert done.returncode == 0, done
    own, near, far, tunnel, refused, none = map(json.loads, done.stdout.splitlines())
    assert {said[-1] for said in (own, near, far, tunnel, refused, none)} == {3}
    assert "that is this computer itself; whether others" in own[1]
    assert "nothing listens at its port 5555" in own[2]
    assert near[1] == "way: from 192.168.1.5 over eth0"
    assert "no answer from 192.168.1.7" in near[2]
    assert "firewall" in near[3]
    assert far[1] == "way: from 192.168.1.5 over eth0, to another network"
    assert "192.168.1.5 and 192.168.7.7 are of two networks" in far[3]
    assert tunnel[1] == "way: from 10.8.0.2 over tun0, which looks like a VPN or a virtual machine"
    assert "over tun0" in tunnel[3]
    assert "switched off" in tunnel[3]
    assert refused[1] == "way: this computer knows none to 10.1.2.3 (No route to host)"
    assert none[1] == "way: this computer knows none to 10.2.2.2 (Network is unreachable)"
    assert "is it on the network at all" in none[2]


def test_no_way_is_said_with_the_systems_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> socket.socket:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    code, good, bad = asked("127.0.0.1", 5555)
    assert (code, bad) == (3, ["port: 127.0.0.1 cannot be reached (No route to host)"])
    assert "Local Network" in good[-1]
    assert any("firewall-cmd --add-port=5555/tcp" in line for line in good)  # it answers so


def test_address_that_needs_an_adapters_name_is_said_to_need_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def invalid(_address: str) -> str:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(chat_doctor, "_source", invalid)
    code, good, bad = asked("fe80::1", 5555)
    assert (code, bad) == (3, ["way: this computer knows none to fe80::1 (Invalid argument)"])
    assert "fe80::1%eth0" in good[1]


def told_of_the_way(monkeypatch: pytest.MonkeyPatch, own: Address, server: str) -> str:
    monkeypatch.setattr(chat_doctor, "find_addresses", lambda: [own])
    monkeypatch.setattr(chat_doctor, "_source", lambda _address: own.text)
    said: list[str] = []
    chat_doctor._look_at_the_way(server, lambda text, _ok: said.append(text))
    return said[0]


def test_way_is_named_where_adapters_have_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, expected in (
        (Address("192.168.1.5"), "way: from 192.168.1.5"),
        (
            Address("100.101.102.103"),
            "way: from 100.101.102.103, which looks like a VPN or a virtual machine",
        ),
        (
            Address("169.254.3.4"),
            "way: from 169.254.3.4, which this computer gave itself: its network gave it none",
        ),
    ):
        assert told_of_the_way(monkeypatch, own, "192.168.1.7") == expected


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server("127.0.0.1", 0) as relay:
        port = relay.address[1]
        rows = [(0, 0, 0, "", (text, port)) for text in ("127.0.0.9", "127.0.0.1")]
        look_up = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda h, *a, **k: rows if h == "ship" else look_up(h, *a, **k)
        )
        code, good, bad = asked("ship", port)
    assert (code, bad) == (0, [])
    assert good[0] == "name: ship is 127.0.0.9, 127.0.0.1"
    assert good[2].endswith(f"nothing listens at its port {port}; there is another address")


def test_name_server_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()
    monkeypatch.setattr(chat_doctor, "STEP_S", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    code, good, bad = asked("ship", 5555)
    over.set()
    wrong = "name: whoever knows the names here does not answer for ship in 0.05 s"
    assert (code, bad) == (3, [wrong])
    assert "192.168.1.5" in good[-1]


@pytest.mark.parametrize("server", ["0.0.0.0", "::", "0"])
def test_address_to_listen_at_is_none_to_go_to(server: str) -> None:
    code, good, bad = asked(server, 5555)
    assert (code, len(bad)) == (3, 1)
    assert bad[0].startswith(f"name: {server} is no computer's address")
    assert "Join from another computer" in good[-1]


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 300])
def test_unknown_name_is_said_to_be_one(name: str) -> None:
    code, good, bad = asked(name, 5555)
    assert (code, bad) == (3, [f"name: nobody here knows an address for {name}"])
    assert "192.168.1.5" in good[-1]


@pytest.mark.parametrize(
    ("data", "closes", "hint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "a web server; it says 'HTTP/1.1 400"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False, "an SSH server; it says 'SSH-2.0-"),
        (b"220 ship ESMTP\r\n", False, "a mail or FTP server"),
        (b"", True, "is none, or is stuck: it closes the connection"),
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


def test_web_server_that_waits_to_be_asked_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_doctor, "STEP_S", 0.2)
    with answering(b"HTTP/1.0 404 Not Found\r\n\r\n", asked=True) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert code == 3
    assert bad == [
        r"relay: what answers there is a web server; it says 'HTTP/1.0 404 Not Found\r\n\r\n'"
    ]


def test_relay_of_another_version_is_said_with_both() -> None:
    body = u8(2) + u8(3) + bytes(32) + u8(0) + u32(65_536)
    with answering(frame(FrameType.HELLO, body)) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert (code, bad) == (3, ["version: the relay speaks versions 2 to 3, we speak 1"])


def test_silence_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_doctor, "STEP_S", 0.05)
    with answering(b"") as port:
        code, _, bad = asked("127.0.0.1", port)
    wrong = "relay: what listens there is none, or is stuck: no word within 0.05 s"
    assert (code, bad) == (3, [wrong])


HELLO = Hello(1, 1, bytes(32), False).serialize()


@pytest.mark.parametrize("before", [b"", HELLO])
def test_reason_of_a_relay_that_refuses_is_passed_on(before: bytes) -> None:
    full = Error(ErrorCode.ROOM_FULL, "the relay is full").serialize()
    with answering(before + full) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert (code, bad) == (3, ["relay: it does not let us in: the relay is full"])


def test_relay_that_hangs_up_at_our_joining_is_said() -> None:
    with answering(HELLO, closes=True) as port:
        code, _, bad = asked("127.0.0.1", port)
    assert code == 3
    assert bad[0].startswith("relay: it does not let us in: ")


def test_clock_that_stands_before_this_program_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, bool]] = []
    monkeypatch.setattr(chat_doctor, "_WRITTEN_S", 1 << 40)
    chat_doctor._look_at_the_clock(lambda text, ok: said.append((text, ok)))
    ((text, ok),) = said
    assert "long ago" in text
    assert not ok
