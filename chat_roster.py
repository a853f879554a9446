"""Who is in the room, who has been, and what each is called.

What lives here: the live members with their verified bundles, the people met in this room, their
display names, and the digests of the rosters we had.  What it does not know: keys in use, feeds,
frames, clocks (every method that needs the time is given it).  Owned by the session.

    roster = Roster(our_bundle, known={}, now_ms, Pins())
    roster.add(bundle, now_s, now_ms)
    roster.name(bundle.fingerprint)     # 'bob#7f3a'

Names: a nick is nobody's for good, so a name carries the first four hex digits of the fingerprint,
and more of them until it differs from every other person's with that nick (DESIGN.md section 3).  A
verified person needs none, while no other who is verified or here has that nick.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from chat_messages import MAX_AUDIENCE, Bundle, full_name, roster_digest
from chat_pins import Pins

__all__ = ["DIGEST_LIFE_S", "MAX_LIVE", "Person", "Roster"]

# For how long an ack may still carry the digest of a roster that we had: the longest ack interval
# of 60 members and then some (PROTOCOL.md 3.7).
DIGEST_LIFE_S = 60.0
_MAX_DIGESTS = 256
# Of live members we take no more than an audience can name, ours aside: the rest could read nothing
# of ours, and a relay that invents members makes us keep no more than these.
MAX_LIVE = MAX_AUDIENCE - 1


@dataclass(frozen=True)
class Person:
    """Somebody whose valid bundle we saw in this room."""

    nick: str  # the latest
    last_seen_ms: int


class Roster:
    """The live members, ours aside, and everybody met."""

    def __init__(self, our: Bundle, known: dict[bytes, Person], now_ms: int, pins: Pins) -> None:
        self.our = our
        self._pins = pins  # the session's
        self.live: dict[bytes, Bundle] = {}  # by session_id; not ours; at most MAX_LIVE
        self.present: set[bytes] = set()  # session_ids that proved to run now
        # By fingerprint, the latest seen last; at most MAX_AUDIENCE.
        self.known = dict(sorted(known.items(), key=lambda item: item[1].last_seen_ms))
        self._names: dict[bytes, str] = {}  # made of `known` when first asked for
        # Of `known`, ours aside, by nick: always, since a room of a thousand is named as it comes.
        self._namesakes: dict[str, dict[bytes, None]] = {}
        for fingerprint, person in self.known.items():
            self._note_nick(fingerprint, person.nick)
        self._digest = b""  # made of `live` when first asked for
        # Digest, ended at, which roster of ours it was of.
        self._digests: deque[tuple[bytes, float, int]] = deque(maxlen=_MAX_DIGESTS)
        self.number = 0  # of the present roster
        self.signed: dict[bytes, int] = {}  # the newest roster that each live session signed
        self._meet(our, now_ms)

    def digest(self) -> bytes:
        """Of all valid live bundles, ours included."""
        if not self._digest:
            self._digest = roster_digest([self.our, *self.live.values()])
        return self._digest

    def renew(self, our: Bundle) -> None:
        """Our own new bundle."""
        self.our = our
        self.forget_names()

    @property
    def is_full(self) -> bool:
        """Whether no further session is taken."""
        return len(self.live) >= MAX_LIVE

    def add(self, bundle: Bundle, now_s: float, now_ms: int) -> list[bytes]:
        """Who came, or its new bundle; `bundle` is verified and may follow the old one.

        Returns:
            the fingerprints that are not known any more, for being seen longest ago.
        """
        self._retire_digest(now_s)
        self.live[bundle.session_id] = bundle
        self.forget_names()
        return self._meet(bundle, now_ms)

    def met(self, bundle: Bundle, now_ms: int) -> list[bytes]:
        """Somebody whose bundle was handed on, as of `add`."""
        self.forget_names()
        return self._meet(bundle, now_ms)

    def remove(self, session_id: bytes, now_s: float, now_ms: int) -> Bundle | None:
        """A member that is gone; None if it was not live."""
        if session_id not in self.live:
            return None
        self._retire_digest(now_s)
        bundle = self.live.pop(session_id)
        self.present.discard(session_id)
        self.signed.pop(session_id, None)
        self.forget_names()
        self._meet(bundle, now_ms)
        return bundle

    def clear(self, now_s: float, now_ms: int) -> None:
        """The connection is gone, and with it everybody."""
        self._retire_digest(now_s)
        gone = list(self.live.values())
        self.live.clear()
        self.present.clear()
        self.signed.clear()
        self.forget_names()
        for bundle in gone:
            self._meet(bundle, now_ms)

    def saw_digest(self, session_id: bytes, digest: bytes, now_s: float) -> bool:
        """Notes that a live member signed `digest`.

        Returns:
            whether it is one of our rosters, now or within the last minute: since each of those
            covers our own random session_id, the member is running now, and no replay.
        """
        recent = (
            n for old, ended, n in self._digests if digest == old and now_s - ended <= DIGEST_LIFE_S
        )
        number = self.number if digest == self.digest() else max(recent, default=-1)
        if number < 0 or session_id not in self.live:
            return number >= 0
        self.present.add(session_id)
        self.signed[session_id] = max(number, self.signed.get(session_id, 0))
        return True

    def may_have_been(self, digest: bytes, since_s: float) -> bool:
        """Whether `digest` is of a roster that we had since then, as far as we remember: where more
        came and went than that, it may have been."""
        forgotten = len(self._digests) == _MAX_DIGESTS and self._digests[0][1] >= since_s
        return (
            forgotten
            or digest == self.digest()
            or any(digest == old and ended >= since_s for old, ended, _ in self._digests)
        )

    def sessions_of(self, fingerprint: bytes) -> list[Bundle]:
        """The person's live sessions: none, one, or more after a crash."""
        return [b for b in self.live.values() if b.fingerprint == fingerprint]

    def people(self) -> list[bytes]:
        """The fingerprints behind the live sessions, each once, by name; not ours, whose other
        sessions are runs that crashed, or copies."""
        others = {b.fingerprint for b in self.live.values()} - {self.our.fingerprint}
        return sorted(others, key=self.name)

    def name(self, fingerprint: bytes) -> str:
        """nick#tag; a person whom we never met is `?#tag`."""
        name = self._names.get(fingerprint)
        if name is None:
            name = self._names[fingerprint] = self._make_name(fingerprint)
        return name

    def forget_names(self) -> None:
        """Somebody was pinned or verified, or is verified no longer."""
        self._names.clear()

    def _make_name(self, fingerprint: bytes) -> str:
        nick = self.nick(fingerprint)
        if self._pins.is_verified(fingerprint) and not self._is_claimed(nick, fingerprint):
            return nick
        namesakes = [*self._namesakes.get(nick, ()), *self._pins.of(nick)]
        if nick == self.our.nick:
            namesakes.append(self.our.fingerprint)
        return full_name(nick, fingerprint, namesakes)

    def _is_claimed(self, nick: str, but: bytes) -> bool:
        """Whether another who is verified or here has that nick."""
        here = {b.fingerprint for b in (self.our, *self.live.values()) if b.nick == nick}
        return bool((here | set(filter(self._pins.is_verified, self._pins.of(nick)))) - {but})

    def nick(self, fingerprint: bytes) -> str:
        """The latest of somebody met; else `?`."""
        if fingerprint == self.our.fingerprint:
            return self.our.nick  # whatever a copy of our profile calls itself
        person = self.known.get(fingerprint)
        return person.nick if person else "?"

    def find(self, name: str, strangers: Iterable[bytes] = ()) -> list[bytes]:
        """The fingerprints that `bob`, `bob#7f3a` or `#7f3a` may mean, ours aside.

        Live people are meant before those who are away, but for verified ones: a namesake who is
        here must not get what was for somebody whom we know better.

        Args:
            strangers: fingerprints that may be meant too, whether we met them here or not.
        """
        nick, _, digits = unicodedata.normalize("NFC", name).partition("#")
        if not nick and not digits:
            return []
        found = [
            fingerprint
            for fingerprint in {**self.known, **dict.fromkeys(strangers)}
            if fingerprint != self.our.fingerprint
            and nick in ("", self.nick(fingerprint))
            and fingerprint.hex().startswith(digits.lower())
        ]
        live = {b.fingerprint for b in self.live.values()}
        if live.isdisjoint(found):
            return found
        return [f for f in found if f in live or self._pins.is_verified(f)]

    def _meet(self, bundle: Bundle, now_ms: int) -> list[bytes]:
        """Re-inserted at the end, so that the first is the one not seen for longest."""
        self._forget(bundle.fingerprint)
        self.known[bundle.fingerprint] = Person(bundle.nick, now_ms)
        self._note_nick(bundle.fingerprint, bundle.nick)
        forgotten: list[bytes] = []
        if len(self.known) > MAX_AUDIENCE:
            kept = {b.fingerprint for b in self.live.values()} | {self.our.fingerprint}
            away = (f for f in self.known if f not in kept)
            forgotten = list(islice(away, len(self.known) - MAX_AUDIENCE))
            for fingerprint in forgotten:
                self._forget(fingerprint)
        return forgotten

    def _note_nick(self, fingerprint: bytes, nick: str) -> None:
        if fingerprint != self.our.fingerprint:
            self._namesakes.setdefault(nick, {})[fingerprint] = None

    def _forget(self, fingerprint: bytes) -> None:
        person = self.known.pop(fingerprint, None)
        if person is None or fingerprint == self.our.fingerprint:
            return
        of_nick = self._namesakes[person.nick]
        del of_nick[fingerprint]
        if not of_nick:
            del self._namesakes[person.nick]

    def _retire_digest(self, now_s: float) -> None:
        self._digests.append((self.digest(), now_s, self.number))
        self.number += 1
        self._digest = b""
