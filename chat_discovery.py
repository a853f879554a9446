"""Relays that announce themselves on the network, and finding them: mDNS and DNS-SD.

What lives here: the service `_chainroom._tcp`, announced and looked for by the package zeroconf
(the extra `lan`), on threads of its own.  What it does not know: relays, clients.  Without the
package, or where multicast does not work, nothing is announced and nothing is found: nobody needs
this to connect.

    with announce(5555, ["192.168.1.5"]):
        ...
    with Browser() as browser:
        browser.found()                             # [Found("ship", "192.168.1.5", 5555)]

What is found is the network's word: bounded here, and to be escaped by who shows it.
Source: RFC 6762, RFC 6763.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from chat_addresses import Address, find_addresses
from chat_wire import VERSION

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

__all__ = ["MAX_FOUND", "SERVICE", "Browser", "Found", "announce"]

SERVICE = "_chainroom._tcp.local."
MAX_FOUND = 16  # relays of one network; more are nobody's list to choose from
_MAX_ADDRESSES = 16  # of one relay
_MAX_NAME_CHARACTERS = 63  # RFC 6763, 4.1.1, counts bytes
# In what is shown of a name.  Without spaces and colons nobody can write another relay's address,
# or what we say behind it, into his own name.
_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9._-]")
_MAX_HOST_CHARACTERS = 40  # what comes behind it must fit into 63 as well
_NO_HOST_CHARACTER = re.compile(r"[^A-Za-z0-9-]")
# Most tell their address with their name.  One that does not is asked, for so long; whoever makes
# up names and answers nothing is not to hold up the others for ever.
_ANSWER_MS = 1000
_MAX_ASKED = 32
# How long the end waits for the goodbye, and for threads.  What is not over by then goes on behind,
# on threads that hold up nobody's exit.
_STOP_S = 3.0


class Found(NamedTuple):
    """A relay that announced itself."""

    name: str  # as it calls itself: letters, digits and `._-` of ASCII, `?` for all else
    address: str  # numeric, IPv4
    port: int


class _CannotWork(Exception):
    """The text says why, after "no multicast: "."""


@contextmanager
def _zeroconf(own: Sequence[Address]) -> Iterator[Zeroconf]:
    """The package at work on our IPv4 addresses.  Raises _CannotWork."""
    try:
        from zeroconf import Error, IPVersion, Zeroconf
    except ImportError as exc:
        raise _CannotWork("the package zeroconf is not installed") from exc
    # What it has to say about odd packets is nothing for the person at the prompt.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    ipv4 = [address for address in own if ":" not in address.text]
    # No other computer is asked or told by way of our own virtual machines.
    interfaces = [address.text for address in ipv4 if not address.is_virtual or ipv4[0].is_virtual]
    if not interfaces:
        raise _CannotWork("this computer has no IPv4 address")
    try:
        zeroconf = Zeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
    except (OSError, RuntimeError, Error) as exc:  # no multicast, or somebody keeps the port
        raise _CannotWork(f"port 5353, {type(exc).__name__}: {exc}") from exc
    try:
        yield zeroconf
    finally:
        with suppress(OSError, RuntimeError, Error, TimeoutError):
            zeroconf.close()


@contextmanager
def announce(
    port: int,
    addresses: Sequence[str],
    *,
    needs_password: bool = False,
    failed: Callable[[str], None] = lambda why: None,
) -> Iterator[None]:
    """Announces a relay for as long as this is entered.

    Args:
        addresses: numeric ones of this computer; those that are not IPv4 are left out, and without
            any there is nothing to announce.
        failed: is called once if that does not work, on another thread, with the reason.
    """
    addresses = [address for address in addresses if ":" not in address]
    if not addresses:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(
        target=_announce,
        args=(port, addresses, needs_password, failed, over),
        name="announcing",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_STOP_S)


def _announce(
    port: int,
    addresses: Sequence[str],
    needs_password: bool,
    failed: Callable[[str], None],
    over: threading.Event,
) -> None:
    try:
        with _zeroconf(find_addresses()) as zeroconf:
            from zeroconf import Error, ServiceInfo

            try:
                host = _host_name()
                service = ServiceInfo(
                    SERVICE,
                    f"{host} {port}.{SERVICE}",
                    addresses=[socket.inet_aton(address) for address in addresses],
                    port=port,
                    properties={
                        "v": "1",  # of these properties
                        "version": str(VERSION),
                        "password": "yes" if needs_password else "no",
                    },
                    # Not the computer's own name, which another responder may answer for.
                    server=f"{host}-{port}-chainroom.local.",
                )
                zeroconf.register_service(service, allow_name_change=True)
            except (Error, OSError, ValueError) as exc:
                raise _CannotWork(f"{type(exc).__name__}: {exc}") from exc
            over.wait()  # leaving then says goodbye
    except _CannotWork as exc:
        if not over.is_set():
            failed(str(exc))


def _host_name() -> str:
    first = socket.gethostname().partition(".")[0]
    return _NO_HOST_CHARACTER.sub("", first)[:_MAX_HOST_CHARACTERS].strip("-") or "relay"


class Browser:
    """Looks for relays for as long as it is entered, which is once."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}  # by the service's name; of zeroconf's thread
        self._asked = 0  # of zeroconf's thread
        self._own: Sequence[Address] = ()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="looking for relays", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join(_STOP_S)

    def found(self) -> list[Found]:
        """What was found so far, the likeliest to be reached first.  Never waits."""
        own = self._own
        return sorted(self._found.copy().values(), key=lambda f: (_distance(f.address, own), f))

    def _look(self) -> None:
        self._own = find_addresses()
        with suppress(_CannotWork), _zeroconf(self._own) as zeroconf:
            if not self._over.is_set():
                from zeroconf import ServiceBrowser

                browser = ServiceBrowser(zeroconf, SERVICE, handlers=[self._changed])
                self._over.wait()
                browser.cancel()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: object
    ) -> None:
        """A thread of zeroconf calls it, by these names."""
        from zeroconf import Error, ServiceInfo, ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif len(self._found) < MAX_FOUND or name in self._found:
            with suppress(Error):  # of a name with a newline: it would end zeroconf's thread
                info = ServiceInfo(service_type, name)
                if self._is_told(zeroconf, info) and (found := _read(name, info, self._own)):
                    self._found[name] = found

    def _is_told(self, zeroconf: Zeroconf, info: ServiceInfo) -> bool:
        """Whether its address and port are known; may ask for them."""
        if info.load_from_cache(zeroconf):
            return True
        if self._over.is_set() or self._asked == _MAX_ASKED:
            return False
        self._asked += 1
        return info.request(zeroconf, _ANSWER_MS)


def _read(name: str, info: ServiceInfo, own: Sequence[Address]) -> Found | None:
    """None: it names no address that anybody could use."""
    if info.decoded_properties.get("v") != "1":
        return None
    usable = []
    for address in info.parsed_addresses()[:_MAX_ADDRESSES]:
        with suppress(ValueError):
            parsed = ipaddress.IPv4Address(address)
            if not (
                parsed.is_loopback
                or parsed.is_unspecified
                or parsed.is_multicast
                or parsed.is_reserved  # 255.255.255.255 among it
            ):
                usable.append(str(parsed))
    if not usable or info.port is None or not 0 < info.port < 65_536:
        return None
    # Its port stands in it so that one computer can have several; it is shown anyway.
    shown = name.removesuffix("." + SERVICE).removesuffix(f" {info.port}")[:_MAX_NAME_CHARACTERS]
    shown = _NO_NAME_CHARACTER.sub("?", shown)
    return Found(shown, min(usable, key=lambda text: _distance(text, own)), info.port)


def _distance(address: str, own: Sequence[Address]) -> int:
    """The number of that one of our own, the likeliest first, whose network it is in."""
    near = (number for number, one in enumerate(own) if one.is_near(address))
    return next(near, len(own))
