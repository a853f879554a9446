"""This computer's own addresses, as others on its network reach it.

What lives here: finding them, and which of them are likely to be of use.  What it does not know:
who asks, what listens there.

    own_addresses()               # ["192.168.1.5", "172.17.0.1"]: virtual adapters last
    is_loopback("127.0.0.1")      # True: nobody else reaches that

Linux and macOS name each adapter with its addresses; elsewhere the addresses are those of the
host's name, and what leads to nobody is told by their form.  Nothing is sent anywhere.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from array import array
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

__all__ = ["Address", "find_addresses", "is_loopback", "own_addresses"]

# Names of adapters that lead to no other computer of the same network, or not the usual way:
# containers, virtual machines, tunnels.  Not br0, which is a real network where a host bridges its
# virtual machines into it.
_VIRTUAL = re.compile(
    r"docker|br-[0-9a-f]{12}$|veth|virbr|vmnet|vboxnet|vnet|vEthernet|tun|tap|wg|tailscale|zt|utun|"
    r"gif\d|ipsec|ppp|cni|flannel|cali|cilium|lxc|lxd|incus|podman|mpqemubr|waydroid|nordlynx|"
    r"proton|mullvad|ham\d|bridge\d{3}$|awdl|llw|anpi|ap\d"
)
_TUNNEL = ipaddress.ip_network("100.64.0.0/10")  # Tailscale's, or a provider's: no LAN has these
_WSL = ipaddress.ip_network("172.16.0.0/12")  # behind its Windows, which alone reaches it
_UP_AND_RUNNING = 0x1 | 0x40  # IFF_UP, IFF_RUNNING: no bridge to nowhere
# An IPv6 address that is checked still, turned out to be another's, is going, or is of the kind
# that changes daily beside one that stays (IFA_F_* of Linux).
_PASSING = 0x40 | 0x08 | 0x20 | 0x01
# Numbers of ioctl: SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFNETMASK.
_GET = {
    "linux": (0x8913, 0x8915, 0x891B),
    "darwin": (0xC0206911, 0xC0206921, 0xC0206925),
}
_GET_ALL = 0x8912  # SIOCGIFCONF of Linux
# struct ifreq of Linux: a name, and a union whose largest part is struct ifmap.
_IFREQ_BYTES = 16 + struct.calcsize("@LLHBBB0L")
_MAX_IPV4 = 1024  # addresses that are asked for


class Address(NamedTuple):
    """One of our own."""

    text: str  # numeric, IPv4 or IPv6; `%` and the adapter behind it where it needs that
    adapter: str = ""  # its name; "" where the system does not say
    bits: int = 0  # length of its network's prefix; 0 where the system does not say

    @property
    def is_virtual(self) -> bool:
        """Whether it is likely to lead to no other computer, or not over this one's network."""
        ours = ipaddress.ip_address(self.text)
        if _VIRTUAL.match(self.adapter) or (ours.version == 4 and ours in _TUNNEL):
            return True
        if not self.adapter:
            # The adapter that a computer has in a network of its own virtual machines (Hyper-V,
            # VirtualBox, VMware) is the router there.
            return ours.version == 4 and ours.packed[3] == 1
        return _is_wsl() and ours.version == 4 and ours in _WSL

    @property
    def is_self_made(self) -> bool:
        """169.254.x.y, fe80::…: nobody gave this computer an address."""
        return ipaddress.ip_address(self.text).is_link_local

    def is_near(self, other: str) -> bool:
        """Whether a numeric address is of the same network; where its size is not known, a guess.

        A guess is what most have: 24 bits in common, of IPv6 64.
        """
        bits = self.bits or (64 if ":" in self.text else 24)
        network = ipaddress.ip_network(f"{self.text.partition('%')[0]}/{bits}", strict=False)
        return ipaddress.ip_address(other.partition("%")[0]) in network


@lru_cache(maxsize=1024)  # asked at each connection, and a flood of them comes from few addresses
def is_loopback(host: str) -> bool:
    """Whether a numeric address, or `localhost`, is this computer to itself alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def own_addresses() -> list[str]:
    """Numeric ones that mean the same elsewhere, the likeliest to be of use first; no loopback."""
    return [address.text for address in find_addresses() if "%" not in address.text]


def find_addresses() -> list[Address]:
    """As `own_addresses`, with what they are on.

    IPv6 that needs an adapter's name (fe80::…) is among them only where there is nothing else.
    """
    routes = [_source(socket.AF_INET), _source(socket.AF_INET6)]
    found = {address.text: address for address in _adapters()}
    for text in routes:
        if text and not any(a.adapter and (":" in a.text) == (":" in text) for a in found.values()):
            found.setdefault(text, Address(text))
    usable = [address for address in found.values() if _is_usable(address.text)]
    alone = [address for address in usable if "%" not in address.text]
    return sorted(
        alone or usable,
        key=lambda a: (a.is_virtual, a.is_self_made, ":" in a.text, a.text not in routes),
    )


def _is_usable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


@lru_cache(maxsize=1)
def _is_wsl() -> bool:
    """Whether this is a Linux that Windows runs."""
    import platform  # here, since it takes as long to import as all that a chat needs of this file

    return sys.platform == "linux" and "microsoft" in platform.release().lower()


def _source(family: socket.AddressFamily) -> str:
    """The address that most connections would leave from; "": there is no way out."""
    nobody = "198.51.100.1" if family == socket.AF_INET else "2001:db8::1"  # RFC 5737, RFC 3849
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((nobody, 9))  # UDP: chooses the way, and sends nothing
        return str(sock.getsockname()[0])
    return ""


def _adapters() -> Iterator[Address]:
    """Every address of every adapter that is up, loopbacks among them."""
    found = list(_named_adapters())
    if found:
        yield from found
        return
    with suppress(OSError):
        for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            text = str(info[4][0])
            if not ipaddress.ip_address(text.partition("%")[0]).is_link_local or ":" not in text:
                yield Address(text)


if sys.platform == "win32":

    def _named_adapters() -> Iterator[Address]:
        """Windows names them to its own programs only."""
        return iter(())

else:

    def _named_adapters() -> Iterator[Address]:
        """Where the system says what each is called; nothing elsewhere."""
        if sys.platform not in _GET:
            return
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name, text in _linux_names(sock) if sys.platform == "linux" else _all_names():
                with suppress(OSError):  # it has no IPv4 address, or went just now
                    yield from _ipv4(sock, name, text)
        yield from _linux_ipv6()

    def _linux_names(sock: socket.socket) -> Iterator[tuple[str, str]]:
        """Each IPv4 address with its adapter; no netlink socket, which a service may be denied."""
        room = array("B", bytes(_MAX_IPV4 * _IFREQ_BYTES))
        request = struct.pack("@iP", len(room), room.buffer_info()[0])  # struct ifconf
        size, _ = struct.unpack("@iP", fcntl.ioctl(sock, _GET_ALL, request))
        taken = room.tobytes()
        for at in range(0, size, _IFREQ_BYTES):
            name = taken[at : at + 16].partition(b"\0")[0].decode("ascii", "replace")
            yield name, socket.inet_ntoa(taken[at + 20 : at + 24])

    def _all_names() -> Iterator[tuple[str, str]]:
        """Each adapter, whose first IPv4 address is still to be asked for."""
        for _index, name in socket.if_nameindex():
            yield name, ""

    def _ipv4(sock: socket.socket, name: str, text: str) -> Iterator[Address]:
        """Raises OSError."""
        get_flags, get_address, get_mask = _GET[sys.platform]
        request = struct.pack("256s", name.encode()[:15])
        flags = struct.unpack_from("@H", fcntl.ioctl(sock, get_flags, request), 16)[0]
        if flags & _UP_AND_RUNNING == _UP_AND_RUNNING:
            text = text or socket.inet_ntoa(fcntl.ioctl(sock, get_address, request)[20:24])
            # With an address in it Linux answers for that one of the adapter's.
            request = struct.pack(
                "@16sHH4s232x", name.encode()[:15], socket.AF_INET, 0, socket.inet_aton(text)
            )
            mask = fcntl.ioctl(sock, get_mask, request)[20:24]
            yield Address(text, name, int.from_bytes(mask, "big").bit_count())

    def _linux_ipv6() -> Iterator[Address]:
        """address in hex, index, prefix's length, scope, flags, adapter (proc_net(5))."""
        with suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as lines:
            for line in lines:
                digits, _index, bits, _scope, flags, name = line.split()
                if not int(flags, 16) & _PASSING:
                    address = ipaddress.IPv6Address(int(digits, 16))
                    zone = f"%{name}" if address.is_link_local else ""
                    yield Address(f"{address}{zone}", name, int(bits, 16))
