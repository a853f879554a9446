"""Relays that announce themselves on the network, and finding them: mDNS and DNS-SD.

What lives here: the service `_chainroom._tcp`, announced and looked for by the package zeroconf
(the extra `lan`).  What it does not know: relays, clients.  Without the package, or where multicast
does not work, nothing is announced and nothing is found: nobody needs this to connect.

    with announced(5555, ["192.168.1.5"]):          # on threads of zeroconf
        ...
    with Browser() as browser:
        browser.found()                             # [Found("ship", "192.168.1.5", 5555)]

What is found is the network's word: bounded here, and to be escaped by who shows it.
Source: RFC 6762, RFC 6763.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from chat_addresses import find_addresses

if TYPE_CHECKING:
    from zeroconf import ServiceBrowser, ServiceInfo, Zeroconf

__all__ = ["MAX_FOUND", "SERVICE", "Browser", "Found", "announced"]

SERVICE = "_chainroom._tcp.local."
MAX_FOUND = 16  # relays of one network; more are nobody's list to choose from
_MAX_NAME_CHARACTERS = 63  # RFC 6763, 4.1.1, counts bytes
_ANSWER_MS = 2000  # how long one relay is asked for its address


class Found(NamedTuple):
    """A relay that announced itself."""

    name: str  # as it calls itself
    address: str  # numeric, IPv4
    port: int


def _zeroconf() -> Zeroconf | None:
    """The package at work; None: it is not here, or cannot work here."""
    try:
        from zeroconf import IPVersion, Zeroconf
    except ImportError:
        return None
    # What it has to say about odd packets is nothing for the person at the prompt.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    interfaces = [a.text for a in find_addresses() if ":" not in a.text]
    try:
        return Zeroconf(interfaces=interfaces or ["127.0.0.1"], ip_version=IPVersion.V4Only)
    except OSError:  # no multicast here, or somebody keeps the port to himself
        return None


@contextmanager
def announced(
    port: int, addresses: Sequence[str], *, needs_password: bool = False
) -> Iterator[None]:
    """Announces a relay for as long as this is entered; from a thread, for it takes a second.

    Args:
        addresses: numeric ones of this computer; those that are not IPv4 are left out, and without
            any there is nothing to announce.
    """
    addresses = [address for address in addresses if ":" not in address]
    if not addresses:
        yield
        return
    thread = threading.Thread(
        target=_announce, args=(port, addresses, needs_password, over := threading.Event())
    )
    thread.name = "announcing"
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _announce(
    port: int, addresses: Sequence[str], needs_password: bool, over: threading.Event
) -> None:
    zeroconf = _zeroconf()
    if zeroconf is None:
        return
    from zeroconf import Error, ServiceInfo

    host = socket.gethostname().partition(".")[0][:40] or "relay"
    info = ServiceInfo(
        SERVICE,
        f"{host} {port}.{SERVICE}",
        addresses=[socket.inet_aton(address) for address in addresses],
        port=port,
        properties={"v": "1", "password": "yes" if needs_password else "no"},
        server=f"{host}.local.",
    )
    try:
        with suppress(Error, OSError):
            zeroconf.register_service(info, allow_name_change=True)
            over.wait()
            zeroconf.unregister_service(info)
    finally:
        zeroconf.close()


class Browser:
    """Looks for relays for as long as it is entered."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}  # by the service's name; of zeroconf's thread
        self._zeroconf: Zeroconf | None = None
        self._service_browser: ServiceBrowser | None = None
        self._starter = threading.Thread(target=self._start, name="looking for relays")
        self._is_over = False
        self._lock = threading.Lock()  # guards the four before

    def __enter__(self) -> Self:
        self._starter.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._is_over = True
        self._starter.join()
        if self._service_browser is not None:
            self._service_browser.cancel()
        if self._zeroconf is not None:
            self._zeroconf.close()

    def found(self) -> list[Found]:
        """What was found so far, the likeliest to be reached first.  Never waits."""
        return sorted(self._found.copy().values(), key=lambda f: (-_nearness(f.address), f))

    def _start(self) -> None:
        zeroconf = _zeroconf()
        if zeroconf is None:
            return
        from zeroconf import ServiceBrowser

        with self._lock:
            self._zeroconf = zeroconf
            if not self._is_over:
                self._service_browser = ServiceBrowser(zeroconf, SERVICE, handlers=[self._changed])

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: object
    ) -> None:
        """A thread of zeroconf calls it, by these names."""
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif len(self._found) < MAX_FOUND or name in self._found:
            info = zeroconf.get_service_info(service_type, name, timeout=_ANSWER_MS)
            if info is not None and (found := _read(name, info)):
                self._found[name] = found


def _read(name: str, info: ServiceInfo) -> Found | None:
    """None: it names no address that anybody could use."""
    ours = name.removesuffix("." + SERVICE)[:_MAX_NAME_CHARACTERS]
    usable = []
    for address in info.parsed_addresses()[:MAX_FOUND]:
        with suppress(ValueError):
            parsed = ipaddress.IPv4Address(address)
            if not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast):
                usable.append(str(parsed))
    if not usable or info.port is None or not 0 < info.port < 65_536:
        return None
    return Found(ours, max(usable, key=_nearness), info.port)


def _nearness(address: str) -> int:
    """How many bits an address shares with the nearest of our own."""
    value = int(ipaddress.IPv4Address(address))
    own = (int(ipaddress.IPv4Address(a.text)) for a in find_addresses() if ":" not in a.text)
    return max((32 - (value ^ one).bit_length() for one in own), default=0)
