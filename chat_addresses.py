"""This computer's own addresses, as others on its network reach it.

What lives here: finding them, and which of them are likely to be of use.  What it does not know:
who asks, what listens there.

    own_addresses()               # ["192.168.1.5", "172.17.0.1"]: virtual adapters last
    is_loopback("127.0.0.1")      # True: nobody else reaches that
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

if sys.platform == "linux":
    import fcntl

__all__ = ["Address", "find_addresses", "is_loopback", "own_addresses"]

# Names of adapters that lead to no other computer of the same network, or not the usual way:
# containers, virtual machines, tunnels.
_VIRTUAL = re.compile(
    r"docker|br-|veth|virbr|vmnet|vboxnet|vnet|vEthernet|tun|tap|wg|tailscale|zt|utun|ppp|cni|"
    r"flannel|cali|lxc|lxd|podman|nordlynx|ham\d|bridge\d|awdl|llw|anpi|ap\d"
)
_UP_AND_RUNNING = 0x1 | 0x40  # IFF_UP, IFF_RUNNING: no bridge to nowhere


class Address(NamedTuple):
    """One of our own."""

    text: str  # numeric, IPv4 or IPv6
    adapter: str  # its name; "" where the system does not say

    @property
    def is_virtual(self) -> bool:
        """Whether its adapter is likely to lead to no other computer."""
        return bool(_VIRTUAL.match(self.adapter))

    @property
    def is_self_made(self) -> bool:
        """169.254.x.y: nobody gave this computer an address."""
        return ipaddress.ip_address(self.text).is_link_local


@lru_cache(maxsize=1024)  # asked at each connection, and a flood of them comes from few addresses
def is_loopback(host: str) -> bool:
    """Whether a numeric address, or `localhost`, is this computer to itself alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def own_addresses() -> list[str]:
    """Numeric ones, the likeliest to be of use first; none that is a loopback."""
    return [address.text for address in find_addresses()]


def find_addresses() -> list[Address]:
    """As `own_addresses`, with what they are on."""
    default = _default_route()
    found = {address.text: address for address in _adapters()}
    if default and default not in found:
        found[default] = Address(default, "")
    usable = [address for address in found.values() if _is_usable(address.text)]
    return sorted(
        usable,
        key=lambda a: (a.is_virtual, a.is_self_made, ":" in a.text, a.text != default),
    )


def _is_usable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    is_bare = address.version == 6 and address.is_link_local  # needs the name of an adapter
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or is_bare)


def _default_route() -> str:
    """The IPv4 address that most connections would leave from; no packet is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # TEST-NET-1 of RFC 5737: nobody has it
        return str(sock.getsockname()[0])
    return ""


def _adapters() -> Iterator[Address]:
    if sys.platform == "linux":
        yield from _linux_v4()
        yield from _linux_v6()
        return
    with suppress(OSError):
        for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            yield Address(str(info[4][0]).partition("%")[0], "")


def _linux_v4() -> Iterator[Address]:
    """The first of each adapter that is up."""
    if sys.platform == "linux":
        get_flags, get_address = 0x8913, 0x8915  # SIOCGIFFLAGS, SIOCGIFADDR
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _index, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                with suppress(OSError):  # it has no IPv4 address
                    flags = struct.unpack_from("H", fcntl.ioctl(sock, get_flags, request), 16)[0]
                    if flags & _UP_AND_RUNNING == _UP_AND_RUNNING:
                        answer = fcntl.ioctl(sock, get_address, request)
                        yield Address(socket.inet_ntoa(answer[20:24]), name)


def _linux_v6() -> Iterator[Address]:
    """address in hex, index, prefix's length, scope, flags, adapter (proc_net(5))."""
    with suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as lines:
        for line in lines:
            digits, *_, name = line.split()
            yield Address(str(ipaddress.IPv6Address(int(digits, 16))), name)
