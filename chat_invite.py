"""What people hand each other as text: an invite into a room, and a safety number read back.

What lives here: how an invite is spelled, how it is read however it was pasted or typed, and what
is said of one that was mistyped: which part.  What it does not know: files, flags, QR codes, and
who may see an invite (whoever sees one can read along and can add others).

    text = Invite(RoomSecret.random(), "192.168.1.5").text       # 0400G-…, ten parts of five
    invite = Invite.parse("chainroom:" + text.lower())           # or raises InviteError
    same_number(pasted, safety_number(ours, theirs))             # True, False or None

An invite is read aloud across a room and typed by whoever has never seen one, so it is written in
Crockford's base32: no letter differs from another by case alone, none looks or sounds like a digit
(I, L and O are read as 1, 1 and 0; U is left out), and all of it fits the denser mode of QR codes.

Specified in docs/PROTOCOL.md, section 6.

Errors: InviteError, with one sentence that says what is wrong, and where.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from chat_wire import DEFAULT_PORT, VERSION, H, Label, Reader, u8, u16
from crypto_utils import RoomSecret

__all__ = ["Invite", "InviteError", "same_number"]

MAX_HOST_BYTES = 64
# Of what is pasted: twice the longest invite, with room for line breaks.  All that is read is
# bounded by it.
MAX_PASTED_CHARACTERS = 400

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)} | {"I": 1, "L": 1, "O": 0}
_VALUES |= {char.lower(): value for char, value in _VALUES.items()}

_PART_CHARACTERS = 5
_PART_BITS = 20  # the fifth character is the check
_CHECKSUM_BITS = 16  # at least; it fills the last part, so that nothing else has to
_PREFIX = "chainroom:"
_BROKEN = "this invite was made by a program that does not keep to the rules"

# form u8: which address follows the room's secret, if any
_NO_ADDRESS, _IPV4, _IPV6, _NAME = 0, 1, 2, 2  # _NAME + n: a name of n bytes, at least 1
_HAS_PORT = 0x80  # a port other than 5555 stands behind the address


class InviteError(ValueError):
    """No invite can be that; the text is one sentence for the person."""


@dataclass(frozen=True)
class Invite:
    """Into a room, and where its relay is, if that is known.

    version u8 ‖ form u8 ‖ RS[16] ‖ address[0, 4, 16 or the name's length] ‖ port u16, left out
    where it is 5555 or where there is no address.
    """

    room: RoomSecret
    server: str = ""  # the relay's address or name; "": the invite does not say
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        """Raises InviteError: an address that no invite can carry."""
        _form_and_address(self.server)
        if not 1 <= self.port <= 65_535:
            raise InviteError(f"a port is a number from 1 to 65535, not {self.port}")
        if not self.server and self.port != DEFAULT_PORT:
            raise InviteError("an invite that has no relay's address has no port either")

    @property
    def text(self) -> str:
        """The one canonical spelling: parts of five characters, a dash between each two; 8 of them
        without an address, 10 or 11 with an IPv4 address, at most 35."""
        body = self._body()
        count = _part_count(len(body))
        value = _with_checksum(body, count * _PART_BITS - 8 * len(body))
        parts = []
        for number in range(1, count + 1):
            bits = value >> (count - number) * _PART_BITS
            symbols = [bits >> shift & 31 for shift in (15, 10, 5, 0)]
            symbols.append(_sum([*symbols, 0]) ^ number % 32)
            parts.append("".join(_ALPHABET[symbol] for symbol in symbols))
        return "-".join(parts)

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Reads it in any case, with any white space and dashes or none, with "chainroom:" or not.

        A server's address comes back as Python's ipaddress spells it.

        Raises:
            InviteError: which part is mistyped, missing, misplaced or too much, or what else.
        """
        parts = _parts(text)
        size = _checked_size(parts)
        value = 0
        for part in parts:
            value = value << _PART_BITS | _value(part)
        fill = len(parts) * _PART_BITS - 8 * size
        body = (value >> fill).to_bytes(size, "big")
        if value != _with_checksum(body, fill):
            raise InviteError(
                "each part of this invite fits, but not all of them together: compare it once more"
            )
        return cls._of_body(body)

    def _body(self) -> bytes:
        form, address = _form_and_address(self.server)
        port = b""
        if self.port != DEFAULT_PORT:
            form, port = form | _HAS_PORT, u16(self.port)
        return u8(VERSION) + u8(form) + self.room.secret + address + port

    @classmethod
    def _of_body(cls, body: bytes) -> Invite:
        """Of a body whose size fits its form and whose checksum fits."""
        r = Reader(body)
        _, form, room = r.u8(), r.u8(), RoomSecret(r.fixed(16))
        kind, server = form & ~_HAS_PORT, ""
        if kind == _IPV4:
            server = str(ipaddress.IPv4Address(r.fixed(4)))
        elif kind == _IPV6:
            server = str(ipaddress.IPv6Address(r.fixed(16)))
        elif kind != _NO_ADDRESS:
            server = r.fixed(kind - _NAME).decode("utf-8", "replace")
        invite = cls(room, server, r.u16() if form & _HAS_PORT else DEFAULT_PORT)
        if invite._body() != body:  # a name that is an address or no UTF-8, a port that is 5555
            raise InviteError(_BROKEN)
        return invite


def same_number(pasted: str, number: str) -> bool | None:
    """Whether what a person pasted is that safety number (`crypto_utils.safety_number`).

    White space and dashes do not count, and digits of any script do: phones write them so.

    Returns:
        None where it is no safety number at all, so that the person is asked again instead of
        being told of a mismatch: not 60 digits, or something else among them.
    """
    if len(pasted) > MAX_PASTED_CHARACTERS:
        return None
    digits = [unicodedata.decimal(char, -1) for word in _words(pasted) for char in word]
    expected = [int(char) for char in number if char != " "]
    if -1 in digits or len(digits) != len(expected):
        return None
    return digits == expected


def _form_and_address(server: str) -> tuple[int, bytes]:
    """Raises InviteError: neither an address nor a name, or one that leads nowhere elsewhere."""
    if not server:
        return _NO_ADDRESS, b""
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        pass
    else:
        if "%" in server:
            raise InviteError(f"{server} is an address on this computer alone: leave out its zone")
        return (_IPV4 if address.version == 4 else _IPV6), address.packed
    if not all(unicodedata.category(c)[0] in "LMN" or c in ".-_" for c in server):
        raise InviteError(f"a relay's address looks like 192.168.1.5 or a name, not {server!r}")
    name = server.encode()
    if len(name) > MAX_HOST_BYTES:
        raise InviteError(
            f"a relay's name has at most {MAX_HOST_BYTES} bytes in an invite, {server} has "
            f"{len(name)}: use its address"
        )
    return _NAME + len(name), name


# --------------------------------------------------------------------------- the whole


def _body_size(first: int) -> int:
    """How many bytes an invite has whose first 20 bits these are: version, form, and 4 more.

    Raises InviteError: another version, or no such form.
    """
    version, form = first >> 12, first >> 4 & 0xFF
    if version != VERSION:
        raise InviteError(
            f"this invite is of version {version}, and this program knows version {VERSION} alone: "
            "use the Chainroom of whoever sent it"
        )
    kind, port = form & ~_HAS_PORT, 2 if form & _HAS_PORT else 0
    if kind > _NAME + MAX_HOST_BYTES or (kind == _NO_ADDRESS and port):
        raise InviteError(_BROKEN)
    return 18 + {_NO_ADDRESS: 0, _IPV4: 4, _IPV6: 16}.get(kind, kind - _NAME) + port


def _part_count(size: int) -> int:
    """Of a body of so many bytes and its checksum."""
    return -(-(8 * size + _CHECKSUM_BITS) // _PART_BITS)


def _with_checksum(body: bytes, fill: int) -> int:
    """The body's bits, and behind them the first `fill` bits of H("invite", body)."""
    checksum = int.from_bytes(H(Label.INVITE, body), "big") >> (256 - fill)
    return int.from_bytes(body, "big") << fill | checksum


# --------------------------------------------------------------------------- a part


def _sum(symbols: Sequence[int]) -> int:
    """What a part adds up to: if it is right, the number of its place, modulo 32.

    The symbols are the coefficients of a polynomial over GF(32), made with x^5 + x^3 + 1, the
    first one the highest, and this is its value at x: a shortened Reed-Solomon code.  Each symbol
    has another power of x before it, so a single wrong one shows, and so do any two that changed
    places within the part; since the sum is the part's place, a whole part out of place does too.
    """
    total = 0
    for symbol in symbols:
        total <<= 1
        if total & 32:
            total ^= 0b101001
        total ^= symbol
    return total


def _sum_of(part: str) -> int:
    return _sum([_VALUES[char] for char in part])


def _value(part: str) -> int:
    """The 20 bits before the check."""
    value = 0
    for char in part[:-1]:
        value = value << 5 | _VALUES[char]
    return value


# --------------------------------------------------------------------------- what was typed


def _words(text: str) -> list[str]:
    """What is left between white space, dashes of any kind, and characters that nobody sees."""

    def separates(char: str) -> bool:
        return char.isspace() or unicodedata.category(char) in ("Pd", "Cf")

    return "".join(" " if separates(char) else char for char in text).split()


def _parts(text: str) -> list[str]:
    """The parts as typed: at least one, each of five characters of the alphabet.

    Raises InviteError.
    """
    if len(text) > MAX_PASTED_CHARACTERS:
        raise InviteError(
            f"an invite has at most {MAX_PASTED_CHARACTERS} characters, this has {len(text)}"
        )
    text = text.strip()
    if text[: len(_PREFIX)].lower() == _PREFIX:
        text = text[len(_PREFIX) :]
    words = _words(text)
    symbols = "".join(words)
    if not symbols:
        raise InviteError("this invite is empty")
    ends = range(0, len(symbols), _PART_CHARACTERS)
    parts = [symbols[at : at + _PART_CHARACTERS] for at in ends]
    for number, part in enumerate(parts, 1):
        for char in part:
            if char not in _VALUES:
                raise InviteError(f"part {number} ({part}) has {char}, which is in no invite")
    if len(parts[-1]) == _PART_CHARACTERS:  # wherever a line was broken
        return parts
    odd = [n for n, word in enumerate(words) if len(word) != _PART_CHARACTERS]
    if len(words) > 1 and odd[-1] - odd[0] <= 1:  # the dashes show it
        at, found = odd[0], words[odd[0]]
    else:  # else the first sum that does not fit: behind it all parts are out of step
        sums = enumerate(map(_sum_of, parts[:-1]), 1)
        at = next((number - 1 for number, total in sums if total != number % 32), len(parts) - 1)
        found = parts[at]
    raise InviteError(f"a character is missing or too many in part {at + 1} ({found})")


def _checked_size(parts: Sequence[str]) -> int:
    """How many bytes the invite in these parts has, each of which is right.

    Raises InviteError: a part is wrong or missing, or there are too many.
    """
    sums = [_sum_of(part) for part in parts]
    wrong = [number for number, total in enumerate(sums, 1) if total != number % 32]
    size = None if 1 in wrong else _body_size(_value(parts[0]))
    if size is None or wrong:
        raise InviteError(_fault(parts, sums, wrong, size and _part_count(size)))
    count = _part_count(size)
    if len(parts) < count:
        raise InviteError(f"this invite ends after part {len(parts)} of {count}")
    if len(parts) > count:
        raise InviteError(f"this invite has {count} parts, and here are {len(parts)}")
    return size


def _fault(
    parts: Sequence[str], sums: Sequence[int], wrong: Sequence[int], count: int | None
) -> str:
    """What is wrong with the parts, in one sentence.

    Args:
        sums: what each part adds up to.
        wrong: the numbers of the parts that do not fit their place, from 1; at least one.
        count: how many there should be; None where the first part, which says so, is wrong.
    """
    first = wrong[0]

    def moved(start: int, by: int) -> bool:
        """Whether the parts from `start` on stand where those that many places further belong, as
        far as the number of parts allows that."""
        fits = all(sums[n - 1] == (n + by) % 32 for n in range(start, len(parts) + 1))
        return fits and count in (None, len(parts) + by) and len(parts) > 1

    if moved(first, 1):
        return f"part {first}{f' of {count}' if count else ''} is missing"
    if moved(first + 1, -1):
        return f"part {first} ({parts[first - 1]}) is one too many"
    many = ", ".join(str(number) for number in wrong[:-1])
    named = f"parts {many} and {wrong[-1]}" if many else f"part {first}"
    if sorted(sums[number - 1] for number in wrong) == sorted(number % 32 for number in wrong):
        return f"{named} are in the wrong order"
    if 2 * len(wrong) > len(parts):
        return "this is no invite, or more than half of its parts are mistyped"
    typed = ", ".join(parts[number - 1] for number in wrong)
    are = "are" if many else "is"
    return f"{named} of {count or len(parts)} ({typed}) {are} mistyped"
