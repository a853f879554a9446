"""Which of this computer's addresses others may reach it by, the likeliest first."""

from __future__ import annotations

import ipaddress

import pytest

import chat_addresses
from chat_addresses import Address, find_addresses, is_loopback, own_addresses


def found(
    monkeypatch: pytest.MonkeyPatch, *adapters: tuple[str, str], default: str = ""
) -> list[str]:
    monkeypatch.setattr(chat_addresses, "_adapters", lambda: (Address(*a) for a in adapters))
    monkeypatch.setattr(chat_addresses, "_default_route", lambda: default)
    return own_addresses()


def test_virtual_adapters_come_last_and_self_made_addresses_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(
        monkeypatch,
        ("172.17.0.1", "docker0"),
        ("10.8.0.2", "tun0"),
        ("169.254.3.4", "eth1"),
        ("192.168.1.5", "wlan0"),
        ("192.168.7.5", "eth0"),
        default="192.168.7.5",
    ) == ["192.168.7.5", "192.168.1.5", "169.254.3.4", "172.17.0.1", "10.8.0.2"]


def test_ipv6_comes_after_ipv4_and_what_needs_an_adapters_name_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(
        monkeypatch, ("fe80::1", "eth0"), ("fd00::5", "eth0"), ("192.168.1.5", "eth0")
    ) == ["192.168.1.5", "fd00::5"]


def test_loopback_is_never_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, ("127.0.0.1", "lo"), ("::1", "lo"), ("0.0.0.0", "x")) == []


def test_address_of_the_default_route_is_one_where_adapters_have_no_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(monkeypatch, ("172.20.0.1", ""), default="10.0.0.7") == ["10.0.0.7", "172.20.0.1"]


@pytest.mark.parametrize(
    "name", ["eth0", "enp3s0", "wlan0", "wlp2s0", "en0", "Wi-Fi", "Ethernet", ""]
)
def test_ordinary_adapters_are_not_virtual(name: str) -> None:
    assert not Address("192.168.1.5", name).is_virtual


def test_what_is_found_here_are_addresses_that_others_may_reach() -> None:
    for address in find_addresses():
        parsed = ipaddress.ip_address(address.text)
        assert not parsed.is_loopback
        assert not parsed.is_unspecified


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("192.168.1.5", False),
        ("fe80::1%eth0", False),
        ("ship", False),
        ("", False),
    ],
)
def test_loopback_is_this_computer_to_itself(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own
