"""Which key goes by which name, and which names look alike.

What lives here: `Pins` (nick ↔ fingerprint, and who is verified), the rule that tells a changed key
from a namesake, and the skeletons of names.  What it does not know: who is here (it is told), what
follows (`chat_trust`), where pins are kept (events on one's own chain).

    pins = Pins()
    pins.pin("bob", fingerprint)
    pins.judge("bob", other, present=set())      # Meeting.CHANGED
    pins.look_alikes("b0b")                      # [("bob", fingerprint)]

Specified in docs/PROTOCOL.md 4.11.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from enum import Enum, auto
from typing import TypeVar

__all__ = ["MAX_PINS", "Meeting", "Pins", "skeleton"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
# Pins that are remembered; the oldest that is not verified makes room.  A relay can have us pin
# strangers, each at the cost of an RSA key: this many take it days, and us some megabytes.
MAX_PINS = 16_384


class Meeting(Enum):
    """What somebody is to us who comes under a nick."""

    KNOWN = auto()  # pinned under it
    RENAMED = auto()  # pinned, but under other nicks only
    NEW = auto()  # nobody is pinned under it
    CHANGED = auto()  # somebody else is, and is not here
    ANOTHER = auto()  # somebody else is as well


class Pins:
    """Pins in the order in which they were made.  A nick may have several, a fingerprint too."""

    def __init__(self) -> None:
        self._pins: dict[tuple[str, bytes], None] = {}
        self._by_nick: dict[str, list[bytes]] = {}
        self._by_fingerprint: dict[bytes, list[str]] = {}
        self._by_skeleton: dict[str, list[str]] = {}  # nicks
        self._verified: dict[bytes, None] = {}  # the latest last

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._pins)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pins):
            return NotImplemented
        return (list(self), self.verified) == (list(other), other.verified)

    @property
    def verified(self) -> list[bytes]:
        """Fingerprints that were compared, the latest last."""
        return list(self._verified)

    def copy(self) -> Pins:
        """The same, and nothing shared."""
        copied = Pins()
        for fingerprint in self._verified:
            copied.verify(fingerprint)
        for nick, fingerprint in self._pins:
            copied.pin(nick, fingerprint)
        return copied

    def pin(self, nick: str, fingerprint: bytes) -> None:
        """Binds a nick to a fingerprint, if it is not."""
        if (nick, fingerprint) in self._pins:
            return
        if len(self._pins) >= MAX_PINS:
            unverified = (pin for pin in self._pins if pin[1] not in self._verified)
            self._forget(*next(unverified, next(iter(self._pins))))
        self._pins[nick, fingerprint] = None
        if nick not in self._by_nick:
            self._by_skeleton.setdefault(skeleton(nick), []).append(nick)
        self._by_nick.setdefault(nick, []).append(fingerprint)
        self._by_fingerprint.setdefault(fingerprint, []).append(nick)

    def _forget(self, nick: str, fingerprint: bytes) -> None:
        del self._pins[nick, fingerprint]
        _remove(self._by_nick, nick, fingerprint)
        _remove(self._by_fingerprint, fingerprint, nick)
        if nick not in self._by_nick:
            _remove(self._by_skeleton, skeleton(nick), nick)

    def verify(self, fingerprint: bytes) -> None:
        """The person compared that key, whatever it is called."""
        self._verified[fingerprint] = None
        if len(self._verified) > MAX_PINS:
            del self._verified[next(iter(self._verified))]

    def unverify(self, fingerprint: bytes) -> None:
        """The person takes that back."""
        self._verified.pop(fingerprint, None)

    def is_verified(self, fingerprint: bytes) -> bool:
        """Whether the person compared that key."""
        return fingerprint in self._verified

    def of(self, nick: str) -> list[bytes]:
        """The fingerprints that are pinned under a nick, the first met first."""
        return list(self._by_nick.get(nick, ()))

    def nicks_of(self, fingerprint: bytes) -> list[str]:
        """The nicks that a fingerprint is pinned under, the first first."""
        return list(self._by_fingerprint.get(fingerprint, ()))

    def judge(self, nick: str, fingerprint: bytes, present: Collection[bytes]) -> Meeting:
        """What somebody is to us who comes under that nick.

        CHANGED is a fingerprint that is not pinned, under a nick that has one pin, or a verified
        one, while nobody who is pinned to that nick is present (DESIGN.md section 3).

        Args:
            present: fingerprints of who proved to be here now.
        """
        pinned = self._by_nick.get(nick, ())
        if fingerprint in pinned:
            return Meeting.KNOWN
        if fingerprint in self._by_fingerprint:
            return Meeting.RENAMED
        if not pinned:
            return Meeting.NEW
        is_guarded = len(pinned) == 1 or any(map(self.is_verified, pinned))
        if is_guarded and not any(other in present for other in pinned):
            return Meeting.CHANGED
        return Meeting.ANOTHER

    def look_alikes(self, nick: str) -> list[tuple[str, bytes]]:
        """Who is pinned under another nick that looks the same."""
        nicks = self._by_skeleton.get(skeleton(nick), ())
        return [(other, f) for other in nicks if other != nick for f in self._by_nick[other]]


def _remove(table: dict[_Key, list[_Value]], key: _Key, value: _Value) -> None:
    table[key].remove(value)
    if not table[key]:
        del table[key]


# --------------------------------------------------------------------------- what names look like

# Letters of other scripts, and digits, beside the Latin letters that they are taken for: those of
# Unicode's confusables.txt (UTS #39) for Cyrillic, Greek, Armenian and Cherokee letters of which a
# whole name can be made.  After NFKC and case folding, so that full-width and mathematical letters
# are gone already.  i, l, 1 and j without a dot are one; so are o and 0.
_LOOKS_LIKE = {
    "a": "аɑαა",
    "b": "ЬьѣƄ",
    "c": "сϲⅽᴄꮯ",
    "d": "ԁⅾꮷ",
    "e": "еєεҽ℮ꬲ",
    "g": "ɡցᶃ",
    "h": "һհᏂ",
    "i": "іıɩιӏլ1l|!ⅼꭵ",
    "j": "јϳյ",
    "k": "кκᴋꮶ",
    "m": "мᴍⅿꮇ",
    "n": "ոռпηҋ",
    "o": "оοօσ0ᴏჿ",
    "p": "рρϱꮲ",
    "q": "ԛգզ",
    "r": "гᴦꭇꮁ",
    "s": "ѕꜱꮪ5",
    "t": "тτᴛ",
    "u": "սυᴜц",
    "v": "ѵνᴠꮩ",
    "w": "ԝѡωաꮃ",
    "x": "хχ×ⅹ",
    "y": "уүγყ",
    "z": "ᴢꮓ",
}
_FOLDED = str.maketrans({other: one for one, others in _LOOKS_LIKE.items() for other in others})
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_PADDING = "_.-'`~*^,;=+"


def skeleton(nick: str) -> str:
    """The same for names that a person may take for each other.

    NFKC and case folded; without marks, padding around it and characters that are no letters,
    digits or symbols; letters that look like Latin ones as those.  Not for showing.
    """
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", nick).casefold())
    text = "".join(char for char in text if unicodedata.category(char)[0] not in "MZC")
    text = text.strip(_PADDING) or text
    for two, one in _PAIRS:
        text = text.replace(two, one)
    return text.translate(_FOLDED)
