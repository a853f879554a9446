"""Relays announce themselves and are found; what the network says is bounded and never believed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from processes import DEADLINE_S, ROOT, environment
from two_terminals import ADDRESS, World

import chat_discovery
from chat_addresses import Address
from chat_discovery import MAX_FOUND, SERVICE, Browser, Found, announced

# A relay that announces itself, in a network of its own, and somebody who looks for one.
SCRIPT = """
import subprocess, sys, time
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
print("gone")
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
    assert (done.stdout, done.stderr.count("Traceback")) == (f"{ADDRESS} 5555\ngone\n", 0), done


def info(*addresses: str, port: int | None = 5555) -> Any:
    return SimpleNamespace(parsed_addresses=lambda: list(addresses), port=port)


def read(name: str, service: Any) -> Found | None:
    return chat_discovery._read(f"{name}.{SERVICE}", service)


def test_nearest_address_of_a_relay_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [Address("192.168.1.9", "eth0")]
    monkeypatch.setattr(chat_discovery, "find_addresses", lambda: own)
    service = info("172.17.0.1", "192.168.1.5", "10.0.0.7")
    assert read("ship", service) == Found("ship", "192.168.1.5", 5555)


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
    ],
)
def test_relay_that_nobody_can_reach_is_none(service: Any) -> None:
    assert read("ship", service) is None


def test_names_are_bounded() -> None:
    found = read("x" * 1000, info("192.168.1.5"))
    assert found is not None
    assert found.name == "x" * 63


def test_relays_are_bounded_and_the_nearest_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    states = pytest.importorskip("zeroconf").ServiceStateChange
    own = [Address("10.0.0.3", "eth0")]
    monkeypatch.setattr(chat_discovery, "find_addresses", lambda: own)
    browser = Browser()

    def told(number: int, state: object = states.Added) -> None:
        asked = SimpleNamespace(get_service_info=lambda *_, **__: info(f"10.0.0.{number}"))
        browser._changed(asked, SERVICE, f"{number}.{SERVICE}", state)  # type: ignore[arg-type]

    for number in range(1, MAX_FOUND + 10):
        told(number)
    assert len(browser.found()) == MAX_FOUND
    assert browser.found()[0].address == "10.0.0.3"
    told(3, states.Removed)
    told(3, states.Removed)
    assert len(browser.found()) == MAX_FOUND - 1


def test_without_the_package_nothing_is_said_or_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with announced(5555, ["192.168.1.5"]), Browser() as browser:
        assert browser.found() == []


def test_relay_for_this_computer_alone_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_discovery, "_announce", None)  # would be a fault
    with announced(5555, []), announced(5555, ["fd00::5"]):
        pass
