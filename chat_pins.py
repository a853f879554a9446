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

__all__ = ["MAX_NICKS", "MAX_PINS", "Meeting", "Pins", "skeletons"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
# Pins that are remembered; the oldest further name of a key makes room, then the oldest that is not
# verified.  A relay can have us pin strangers, each at the cost of an RSA key: this many take it
# about an hour of one core, and us some megabytes.
MAX_PINS = 16_384
# Of one fingerprint: names cost nothing, so that one person's would push out who else is known.
MAX_NICKS = 16


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
        nicks = self._by_fingerprint.get(fingerprint, [])
        if len(nicks) >= MAX_NICKS:
            self._forget(nicks[1], fingerprint)  # the oldest but that under which it was met
        elif len(self._pins) >= MAX_PINS:
            unverified = [pin for pin in self._pins if pin[1] not in self._verified]
            # Further names cost nothing, a key does.
            spare = (pin for pin in unverified if self._by_fingerprint[pin[1]][0] != pin[0])
            self._forget(*next(spare, next(iter(unverified), next(iter(self._pins)))))
        self._pins[nick, fingerprint] = None
        if nick not in self._by_nick:
            for skeleton in skeletons(nick):
                self._by_skeleton.setdefault(skeleton, []).append(nick)
        self._by_nick.setdefault(nick, []).append(fingerprint)
        self._by_fingerprint.setdefault(fingerprint, []).append(nick)

    def _forget(self, nick: str, fingerprint: bytes) -> None:
        del self._pins[nick, fingerprint]
        _remove(self._by_nick, nick, fingerprint)
        _remove(self._by_fingerprint, fingerprint, nick)
        if nick not in self._by_nick:
            for skeleton in skeletons(nick):
                _remove(self._by_skeleton, skeleton, nick)

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
        if pinned and not any(other in present for other in pinned):
            return Meeting.CHANGED
        if fingerprint in self._by_fingerprint:
            return Meeting.RENAMED
        return Meeting.ANOTHER if pinned else Meeting.NEW

    def look_alikes(self, nick: str) -> list[tuple[str, bytes]]:
        """Who is pinned under another nick that looks the same."""
        found = (self._by_skeleton.get(skeleton, ()) for skeleton in sorted(skeletons(nick)))
        nicks = dict.fromkeys(other for nicks in found for other in nicks if other != nick)
        return [(other, fingerprint) for other in nicks for fingerprint in self._by_nick[other]]


def _remove(table: dict[_Key, list[_Value]], key: _Key, value: _Value) -> None:
    table[key].remove(value)
    if not table[key]:
        del table[key]


# --------------------------------------------------------------------------- what names look like

# What is taken for each Latin letter, small or capital: digits, and letters of other scripts that a
# terminal has in its font and a whole name can be made of, by Unicode's confusables.txt (UTS #39);
# all small capitals, and letters with a stroke.  As written, before case is folded: a Greek capital
# Nu looks like N, a small one like v.  What NFKC makes Latin is not here.  i, l and 1 are one:
# in many fonts a capital i is a small l.  No `cl` for d: Clara is not Dara.
_LOOKS_LIKE = {
    "a": "аАαΑɑⱭᴀᎪᗅꓮ",
    "b": "вВβΒьЬƅƄʙƀᏏᏴᗷᑲꓐ",
    "c": "сСᴄᏟꓚ",
    "d": "ԁԀđĐðÐᴅᎠᏧᗞᗪᑯꓓ",
    "e": "еЕєЄεΕҽᴇᎬꓰ",
    "f": "ϝϜքꜰᖴꓝ",
    "g": "ɡցԍԌɢᏀᏳꓖ",
    "h": "һҺнНհΗħĦʜᎻᏂᕼꓧ",
    "i": "l1|!іІιΙıɩӏӀłŁɨɪʟⲓᎥᏞᒪꓲꓡ",
    "j": "јЈϳͿյᴊᎫᒍꓙ",
    "k": "кКκΚᴋᏦꓗ",
    "m": "мМΜϺᴍᎷᗰꓟ",
    "n": "пηոռΝɴꓠ",
    "o": "0оОοΟσօՕøØɵᴏⲟꓳ",
    "p": "рРρΡᴘᏢᑭꓑ",
    "q": "ԛԚգզ",
    "r": "гᴦʀᎡᎱᏒᖇꓣ",
    "s": "5ѕЅՏꜱᏕᏚꓢ",
    "t": "тТτΤŧŦᴛᎢꓔ",
    "u": "υսՍᴜᑌꓴ",
    "v": "νѵѴᴠᏙᐯꓦ",
    "w": "ωѡѠԝԜաᴡᎳᏔꓪ",
    "x": "хХχΧ×ꓫ",
    "y": "уУγΥүҮʏᎩᎽꓬ",
    "z": "ΖᴢʐᏃꓜ",
    # Kana that are a Chinese character as well.
    "一": "ー",
    "二": "ニ",
    "八": "ハ",
    "力": "カ",
    "卜": "ト",
    "口": "ロ",
    "夕": "タ",
    "工": "エ",
    "へ": "ヘ",
    "-": "‐‒–—―−",
    "'": "’‘ʼ",
}
_AS_SEEN = str.maketrans({other: one for one, others in _LOOKS_LIKE.items() for other in others})
_LUNATE_SIGMA = str.maketrans("ϲϹ", "cC")  # NFKC makes it another sigma
_SIGNS = frozenset(("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sk"))  # punctuation, ` and ^
_LAST_EUROPEAN = "\u052f"  # Latin, Greek, Cyrillic


def skeletons(nick: str) -> set[str]:
    """One or two texts; names that a person may take for each other have one in common.

    The name in Unicode's NFKC, without marks and the signs around it, in one case, characters that
    look like Latin ones as those.  There are two texts where a capital looks like another letter
    than the small one: ΝΑΝΑ in Greek is νανα, and looks like Nana.  Not for showing.
    """
    text = unicodedata.normalize("NFKC", nick.translate(_LUNATE_SIGMA))
    text = _without_padding("".join(_letters(unicodedata.normalize("NFD", text))))
    cases = (text.translate(_AS_SEEN).casefold(), text.casefold())
    return {each.translate(_AS_SEEN).replace("rn", "m").replace("vv", "w") for each in cases}


def _letters(text: str) -> Iterator[str]:
    """`text`, in NFD, without what may be added to a letter and leaves it the same: accents and the
    like, not the vowels of Devanagari and Thai, nor what makes a kana another one."""
    base = ""
    for char in text:
        category = unicodedata.category(char)[0]
        if category != "M":
            base = char
        elif base <= _LAST_EUROPEAN or _is_accent(char):
            continue
        if category not in "ZC":
            yield char


def _is_accent(mark: str) -> bool:
    """By Unicode's combining class: 1 is struck through, 10 to 35 are points of Hebrew and Arabic,
    from 200 on they have a place around the letter; in between, and 0, are what a script needs."""
    placed = unicodedata.combining(mark)
    return placed == 1 or 10 <= placed <= 35 or placed >= 200


def _without_padding(text: str) -> str:
    """`text` without the signs around it; if it has nothing else, as it is."""
    inside = [at for at, char in enumerate(text) if not _is_padding(char)]
    return text[inside[0] : inside[-1] + 1] if inside else text


def _is_padding(char: str) -> bool:
    return unicodedata.category(char) in _SIGNS or char in "~+=<>"
