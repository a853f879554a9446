"""Which of this computer's addresses others may reach it by, the likeliest first."""

from __future__ import annotations

import ipaddress
import json
import platform
import socket
import sys
from collections.abc import Iterator

import pytest
from own_network import in_own_network

import chat_addresses
from chat_addresses import Address, find_addresses, is_loopback, own_addresses


def found(
    monkeypatch: pytest.MonkeyPatch, *adapters: tuple[str, str], default: str = "", v6: str = ""
) -> list[str]:
    """Own addresses of a computer with these adapters and ways out."""
    sources = {socket.AF_INET: default, socket.AF_INET6: v6}
    monkeypatch.setattr(chat_addresses, "_adapters", lambda: (Address(*a) for a in adapters))
    monkeypatch.setattr(chat_addresses, "_source", sources.__getitem__)
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


def test_a_tunnel_that_is_the_way_out_is_virtual_still(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = ("10.8.0.2", "wg0"), ("192.168.1.5", "wlan0")
    assert found(monkeypatch, *adapters, default="10.8.0.2") == ["192.168.1.5", "10.8.0.2"]


def test_ipv6_comes_after_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = ("fd00::5", "eth0"), ("192.168.1.5", "eth0"), ("10.0.0.7", "eth1")
    expected = ["192.168.1.5", "10.0.0.7", "fd00::5"]
    assert found(monkeypatch, *adapters, v6="fd00::5", default="192.168.1.5") == expected


def test_ipv6_that_needs_an_adapters_name_is_told_only_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found(monkeypatch, ("fe80::1%eth0", "eth0"), ("fd00::5", "eth0")) == ["fd00::5"]
    assert found(monkeypatch, ("fe80::1%eth0", "eth0")) == []  # it means nothing elsewhere
    assert find_addresses() == [Address("fe80::1%eth0", "eth0")]


def test_loopback_is_never_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, ("127.0.0.1", "lo"), ("::1", "lo"), ("0.0.0.0", "x")) == []


def test_where_adapters_have_no_names_the_way_out_comes_first_and_a_router_is_virtual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Windows with Hyper-V and VirtualBox: its own addresses in their networks.
    adapters = [("172.20.0.1", ""), ("192.168.56.1", ""), ("192.168.1.5", ""), ("10.0.0.7", "")]
    expected = ["10.0.0.7", "192.168.1.5", "172.20.0.1", "192.168.56.1"]
    assert found(monkeypatch, *adapters, default="10.0.0.7") == expected
    assert found(monkeypatch, ("172.20.0.1", ""), default="10.0.0.7")[0] == "10.0.0.7"


def test_where_adapters_have_names_no_address_comes_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The way out over IPv6 often leaves from an address that is another tomorrow.
    adapters = ("192.168.1.5", "eth0"), ("fd00::5", "eth0")
    assert found(monkeypatch, *adapters, v6="fd00::1234") == ["192.168.1.5", "fd00::5"]


@pytest.mark.parametrize(
    "name",
    ["eth0", "eth0:1", "enp3s0", "wlan0", "wlp2s0", "en0", "br0", "bond0", "Wi-Fi", "Ethernet", ""],
)
def test_ordinary_adapters_are_not_virtual(name: str) -> None:
    assert not Address("192.168.1.5", name).is_virtual


@pytest.mark.parametrize(
    "name",
    [
        "docker0",
        "br-0a1b2c3d4e5f",
        "veth12ab",
        "virbr0",
        "vmnet8",
        "vboxnet0",
        "tun0",
        "tap0",
        "wg0",
        "tailscale0",
        "zt5u4y6",
        "utun3",
        "bridge100",
        "vEthernet",
        "lxdbr0",
        "cni0",
        "awdl0",
    ],
)
def test_adapters_of_containers_virtual_machines_and_tunnels_are_virtual(name: str) -> None:
    assert Address("192.168.1.5", name).is_virtual


def test_tunnels_and_linux_on_windows_are_told_by_their_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Address("100.101.102.103", "").is_virtual
    behind_windows = Address("172.28.3.4", "eth0")
    monkeypatch.setattr(chat_addresses, "_is_wsl", lambda: False)
    assert not behind_windows.is_virtual
    monkeypatch.setattr(chat_addresses, "_is_wsl", lambda: True)
    assert behind_windows.is_virtual
    assert not Address("192.168.1.5", "eth0").is_virtual  # WSL that shares Windows's network


@pytest.mark.parametrize(
    ("release", "expected"),
    [("5.15.153.1-microsoft-standard-WSL2", sys.platform == "linux"), ("6.18.44", False)],
)
def test_linux_on_windows_is_told_by_its_kernel(
    monkeypatch: pytest.MonkeyPatch, release: str, expected: bool
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    assert chat_addresses._is_wsl.__wrapped__() is expected


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (Address("192.168.1.5", "eth0", 24), "192.168.1.77", True),
        (Address("192.168.1.5", "eth0", 24), "192.168.2.77", False),
        (Address("10.20.1.5", "eth0", 16), "10.20.200.1", True),
        (Address("10.20.1.5", ""), "10.20.1.200", True),  # a guess
        (Address("10.20.1.5", ""), "10.20.2.200", False),
        (Address("fd00::5", "eth0", 64), "fd00::77", True),
        (Address("fd00::5", "eth0"), "fd00:0:0:1::77", False),
        (Address("fe80::5%eth0", "eth0", 64), "fe80::77%wlan0", True),
        (Address("192.168.1.5", "eth0", 24), "fd00::77", False),
    ],
)
def test_near_is_what_the_same_network_holds(own: Address, other: str, expected: bool) -> None:
    assert own.is_near(other) is expected


def test_what_is_found_here_are_addresses_that_others_may_reach() -> None:
    for address in find_addresses():
        parsed = ipaddress.ip_address(address.text)
        assert not parsed.is_loopback
        assert not parsed.is_unspecified
    for text in own_addresses():
        assert "%" not in text


SET_UP = """
ip link set lo up
for name in eth0 docker0 down0; do ip link add $name type veth peer name $name-end; done
for name in eth0 docker0; do ip link set $name up; ip link set $name-end up; done
ip address add 172.17.0.1/16 dev docker0
ip address add 10.2.2.2/24 dev down0
ip address add 192.168.1.5/24 dev eth0
ip address add 10.9.8.7/20 dev eth0
ip address add fd00:1::5/64 dev eth0 nodad
ip address add fd00:1::6/64 dev eth0 nodad preferred_lft 0
ip address add fe80::5/64 dev eth0 nodad
"""
SCRIPT = """
import json
from chat_addresses import find_addresses
print(json.dumps(find_addresses()))
"""


def test_every_address_of_every_adapter_that_is_up_is_found_on_linux() -> None:
    done = in_own_network(SET_UP, SCRIPT)
    assert done.returncode == 0, done
    assert [tuple(each) for each in json.loads(done.stdout)] == [
        ("192.168.1.5", "eth0", 24),
        ("10.9.8.7", "eth0", 20),
        ("fd00:1::5", "eth0", 64),  # and not the one that is going
        ("172.17.0.1", "docker0", 16),
    ]


def test_without_any_address_none_is_found_on_linux() -> None:
    done = in_own_network("", SCRIPT)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done


def nothing(*_: object) -> Iterator[Address]:
    return iter(())


def test_elsewhere_the_addresses_of_the_hosts_name_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(*_: object, **__: object) -> list[tuple[object, ...]]:
        rows = ["192.168.1.5", "fe80::1%5", "fd00::5", "192.168.1.5"]
        return [(0, 0, 0, "", (text, 0)) for text in rows]

    monkeypatch.setattr(chat_addresses, "_named_adapters", nothing)
    monkeypatch.setattr(chat_addresses, "_source", lambda _family: "192.168.1.5")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert own_addresses() == ["192.168.1.5", "fd00::5"]


def test_a_host_whose_name_nobody_knows_has_the_address_of_its_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(8, "nodename nor servname provided, or not known")

    monkeypatch.setattr(chat_addresses, "_named_adapters", nothing)
    monkeypatch.setattr(socket, "getaddrinfo", fails)
    monkeypatch.setattr(
        chat_addresses, "_source", {socket.AF_INET: "192.168.1.5", socket.AF_INET6: ""}.__getitem__
    )
    assert own_addresses() == ["192.168.1.5"]


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
