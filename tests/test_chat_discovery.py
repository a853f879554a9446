"""Relays announce themselves and are found; what the network says is bounded and never believed."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from own_network import in_own_network
from processes import DEADLINE_S, ROOT, environment
from two_terminals import ADDRESS, World

import chat_discovery
from chat_addresses import Address
from chat_discovery import MAX_FOUND, SERVICE, Browser, Found, announce

# A relay that announces itself, in a network of its own, and somebody who looks for one.
SCRIPT = """
import subprocess, sys, threading, time
from chat_discovery import Browser
relay = subprocess.Popen([sys.executable, sys.argv[1], "--exit-with-stdin"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert relay.stdout.readline() == b"Server is running...\\n"
with Browser() as browser:
    while not browser.found():
        time.sleep(0.02)
    for found in browser.found():
        print(found.address, found.port, flush=True)
    relay.stdin.close()
    relay.wait()
    while browser.found():
        time.sleep(0.02)
print("gone", [thread.name for thread in threading.enumerate()])
relay.stdout.close()
"""


def test_relay_is_found_where_it_announces_itself_and_lost_when_it_ends() -> None:
    pytest.importorskip("zeroconf")
    world = World()
    try:
        if not world.is_own:
            pytest.skip("no network of our own can be made here")
        done = subprocess.run(
            [*world.prefix, sys.executable, "-c", SCRIPT, ROOT / "chat_server.py"],
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        world.close()
    assert (done.stdout, done.stderr.count("Traceback")) == (
        f"{ADDRESS} 5555\ngone ['MainThread']\n",
        0,
    ), done


def info(*addresses: str, port: int | None = 5555, layout: str | None = "1") -> Any:
    told = {"v": layout}
    return SimpleNamespace(
        parsed_addresses=lambda: list(addresses), port=port, decoded_properties=told
    )


def read(name: str, service: Any, *own: Address) -> Found | None:
    return chat_discovery._read(f"{name}.{SERVICE}", service, own)


def test_address_in_the_likeliest_network_of_ours_is_taken() -> None:
    # docker0 is on both computers, and leads from neither to the other.
    own = Address("192.168.1.9", "eth0", 24), Address("172.17.0.1", "docker0", 16)
    service = info("10.0.0.7", "172.17.0.1", "192.168.1.5")
    assert read("ship", service, *own) == Found("ship", "192.168.1.5", 5555)
    assert read("ship", service) == Found("ship", "10.0.0.7", 5555)


@pytest.mark.parametrize(
    "service",
    [
        info(),
        info("127.0.0.1", "0.0.0.0", "224.0.0.1"),
        info("fe80::1", "fd00::5"),
        info("no address", "1.2.3.4.5"),
        info("192.168.1.5", port=0),
        info("192.168.1.5", port=65_536),
        info("192.168.1.5", port=None),
        info("255.255.255.255", "240.0.0.1"),
        info("192.168.1.5", layout="2"),
        info("192.168.1.5", layout=None),
    ],
)
def test_relay_that_nobody_can_reach_is_none(service: Any) -> None:
    assert read("ship", service) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ship 5555", "ship"),  # as relays of ours call themselves
        ("ship 5555-2", "ship?5555-2"),  # another port than its own: it is shown
        ("a: 192.168.1.5, port 5555; Enter takes it", "a??192.168.1.5??port?5555??Enter?takes?it"),
        ("ship\x1b[2J\n!! \u202e", "ship??2J?????"),
    ],
)
def test_nobody_can_write_an_address_or_a_notice_into_a_name(name: str, expected: str) -> None:
    assert read(name, info("10.0.0.7")) == Found(expected, "10.0.0.7", 5555)


def test_virtual_adapters_are_left_out_where_there_is_a_real_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zeroconf = pytest.importorskip("zeroconf")
    used: list[list[str]] = []

    class Zeroconf:
        def __init__(self, *, interfaces: list[str], ip_version: object) -> None:
            used.append(interfaces)

        def close(self) -> None:
            used.append([])

    monkeypatch.setattr(zeroconf, "Zeroconf", Zeroconf)
    real, virtual = Address("192.168.1.5", "eth0", 24), Address("172.17.0.1", "docker0", 16)
    for own in ([real, Address("fd00::5", "eth0", 64), virtual], [virtual]):
        with chat_discovery._zeroconf(own):
            pass
    assert used == [["192.168.1.5"], [], ["172.17.0.1"], []]


def test_names_are_bounded() -> None:
    found = read("x" * 1000, info("192.168.1.5"))
    assert found is not None
    assert found.name == "x" * 63


class Network:
    """Stands for zeroconf: relay N is at 10.0.0.N."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tells: bool) -> None:
        zeroconf = pytest.importorskip("zeroconf")
        self.states = zeroconf.ServiceStateChange
        self.asked = 0
        network = self

        class ServiceInfo:
            port = 5555
            decoded_properties: ClassVar = {"v": "1"}

            def __init__(self, service_type: str, name: str) -> None:
                self.number = name.partition(".")[0]

            def parsed_addresses(self) -> list[str]:
                return [f"10.0.0.{self.number}"]

            def load_from_cache(self, _zeroconf: object) -> bool:
                return tells

            def request(self, _zeroconf: object, _timeout_ms: int) -> bool:
                network.asked += 1
                return False

        monkeypatch.setattr(zeroconf, "ServiceInfo", ServiceInfo)

    def tell(self, browser: Browser, number: int, state: object = None) -> None:
        name = f"{number}.{SERVICE}"
        browser._changed(self, SERVICE, name, state or self.states.Added)  # type: ignore[arg-type]


def test_relays_are_bounded_and_the_nearest_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, tells=True)
    browser = Browser()
    browser._own = [Address("10.0.0.3", "eth0", 31)]
    for number in range(1, MAX_FOUND + 10):
        network.tell(browser, number)
    assert len(browser.found()) == MAX_FOUND
    assert [found.address for found in browser.found()[:3]] == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]
    network.tell(browser, 3, network.states.Removed)
    network.tell(browser, 3, network.states.Removed)
    assert len(browser.found()) == MAX_FOUND - 1


@pytest.mark.parametrize("name", ["ship\n", "\x1b[2J", "\ufffd" * 63, ""])
def test_a_name_that_zeroconf_refuses_ends_no_search(name: str) -> None:
    zeroconf: Any = pytest.importorskip("zeroconf")
    browser, added = Browser(), zeroconf.ServiceStateChange.Added
    browser._changed(zeroconf, SERVICE, f"{name}.{SERVICE}", added)
    assert browser.found() == []


def test_names_behind_which_nobody_answers_are_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(monkeypatch, tells=False)
    browser = Browser()
    for number in range(200):
        network.tell(browser, number)
    assert browser.found() == []
    assert network.asked == chat_discovery._MAX_ASKED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ship", "ship"),
        ("ship.home.example", "ship"),
        ("Zoë's Mac", "ZosMac"),
        ("-" * 70, "relay"),
        ("x" * 70, "x" * 40),
        ("", "relay"),
    ],
)
def test_host_is_announced_by_a_name_that_fits(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert chat_discovery._host_name() == expected


def test_without_the_package_nothing_is_found_and_the_relay_has_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    reasons: list[str] = []
    told = threading.Event()

    def failed(why: str) -> None:
        reasons.append(why)
        told.set()

    with announce(5555, ["192.168.1.5"], failed=failed), Browser() as browser:
        assert told.wait(DEADLINE_S)
        assert browser.found() == []
    assert reasons == ["the package zeroconf is not installed"]


def test_relay_for_this_computer_alone_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_discovery, "_announce", None)  # would be a fault
    with announce(5555, []), announce(5555, ["fd00::5"]):
        pass


# A relay where somebody keeps the port of mDNS; it ends when it has said so.
BUSY = """
import os, signal, socket, sys, warnings
warnings.simplefilter("ignore")  # zeroconf gives a socket up there without closing it
import chat_daemon, chat_server
from chat_discovery import Browser
class Log(chat_daemon.EventLog):
    def event(self, kind, **fields):
        super().event(kind, **fields)
        if kind == "unannounced":
            os.kill(os.getpid(), signal.SIGTERM)
chat_daemon.EventLog = Log
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", 5353))
    with Browser() as browser:
        code = chat_server.main(["--port", "0"])
        assert browser.found() == []
sys.exit(code)
"""


def test_relay_that_cannot_announce_itself_works_and_says_so_once_in_its_log() -> None:
    pytest.importorskip("zeroconf")
    done = in_own_network(
        "ip link set lo up; ip link add eth0 type veth peer name other; ip link set eth0 up;"
        "ip link set other up; ip address add 192.168.1.5/24 dev eth0",
        BUSY,
    )
    assert done.returncode == 0, done
    log = done.stderr.splitlines()
    kinds = [line.split(" ", 2)[1] for line in log]
    assert kinds == ["start", "unannounced", "stop"]
    assert log[1].endswith("Address already in use")
