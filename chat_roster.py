"""Who is in the room, who has been, and what each is called.

What lives here: the live members with their verified bundles, the people met in this room, their
display names, and the digests of the rosters we had.  What it does not know: keys in use, feeds,
frames, clocks (every method that needs the time is given it).  Owned by the session.

    roster = Roster(our_bundle, known={})
    roster.add(bundle, now_ms)
    roster.name(bundle.fingerprint)     # 'bob#7f3a'

Names: a nick is nobody's for good, so a name carries the first four hex digits of the fingerprint,
and more of them until it differs from every other person's with that nick (DESIGN.md section 3).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from chat_messages import MAX_AUDIENCE, Bundle, roster_digest

__all__ = ["Person", "Roster"]

_TAG_DIGITS = 4
# For how long an ack may still carry the digest of a roster that we had: the longest ack interval
# of 60 members and then some (PROTOCOL.md 3.7).
_DIGEST_LIFE_S = 60.0
_MAX_DIGESTS = 256


@dataclass(frozen=True)
class Person:
    """Somebody whose valid bundle we saw in this room."""

    nick: str  # the latest
    last_seen_ms: int


class Roster:
    """The live members, ours aside, and everybody met."""

    def __init__(self, our: Bundle, known: dict[bytes, Person], now_ms: int) -> None:
        self.our = our
        self.live: dict[bytes, Bundle] = {}  # by session_id; not ours
        self.present: set[bytes] = set()  # session_ids that proved to run now
        # By fingerprint, the latest seen last; at most MAX_AUDIENCE.
        self.known = dict(sorted(known.items(), key=lambda item: item[1].last_seen_ms))
        self._meet(our, now_ms)
        self._digests: deque[tuple[bytes, float]] = deque(maxlen=_MAX_DIGESTS)  # digest, ended at

    def digest(self) -> bytes:
        """Of all valid live bundles, ours included."""
        return roster_digest([self.our, *self.live.values()])

    def add(self, bundle: Bundle, now_s: float, now_ms: int) -> None:
        """Who came, or its new bundle; `bundle` is verified and may follow the old one."""
        self._retire_digest(now_s)
        self.live[bundle.session_id] = bundle
        self._meet(bundle, now_ms)

    def remove(self, session_id: bytes, now_s: float, now_ms: int) -> Bundle | None:
        """A member that is gone; None if it was not live."""
        if session_id not in self.live:
            return None
        self._retire_digest(now_s)
        bundle = self.live.pop(session_id)
        self.present.discard(session_id)
        self._meet(bundle, now_ms)
        return bundle

    def clear(self, now_s: float, now_ms: int) -> None:
        """The connection is gone, and with it everybody."""
        for session_id in list(self.live):
            self.remove(session_id, now_s, now_ms)

    def saw_digest(self, session_id: bytes, digest: bytes, now_s: float) -> bool:
        """Notes that a live member signed `digest`.

        Returns:
            whether it is one of our rosters, now or within the last minute: since each of those
            covers our own random session_id, the member is running now, and no replay.
        """
        ours = digest == self.digest() or any(
            digest == old and now_s - ended <= _DIGEST_LIFE_S for old, ended in self._digests
        )
        if ours and session_id in self.live:
            self.present.add(session_id)
        return ours

    def sessions_of(self, fingerprint: bytes) -> list[Bundle]:
        """The person's live sessions: none, one, or more after a crash."""
        return [b for b in self.live.values() if b.fingerprint == fingerprint]

    def name(self, fingerprint: bytes) -> str:
        """nick#tag; a person whom we never met is `?#tag`."""
        person = self.known.get(fingerprint)
        nick, digits = (person.nick if person else "?"), fingerprint.hex()
        namesakes = [
            other.hex()
            for other, who in self.known.items()
            if who.nick == nick and other != fingerprint
        ]
        size = _TAG_DIGITS
        while size < len(digits) and any(n.startswith(digits[:size]) for n in namesakes):
            size += 1
        return f"{nick}#{digits[:size]}"

    def find(self, name: str) -> list[bytes]:
        """The fingerprints that `bob`, `bob#7f3a` or `#7f3a` may mean, ours aside.

        Live people are meant before those who are away.
        """
        nick, _, digits = name.partition("#")
        found = [
            fingerprint
            for fingerprint, person in self.known.items()
            if fingerprint != self.our.fingerprint
            and (not nick or person.nick == nick)
            and fingerprint.hex().startswith(digits.lower())
        ]
        live = [f for f in found if self.sessions_of(f)]
        return live or found

    def _meet(self, bundle: Bundle, now_ms: int) -> None:
        """Re-inserted at the end, so that the first is the one not seen for longest."""
        self.known.pop(bundle.fingerprint, None)
        self.known[bundle.fingerprint] = Person(bundle.nick, now_ms)
        while len(self.known) > MAX_AUDIENCE:
            oldest = next(f for f in self.known if f != self.our.fingerprint)
            del self.known[oldest]

    def _retire_digest(self, now_s: float) -> None:
        self._digests.append((self.digest(), now_s))
