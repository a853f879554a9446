"""Writes tests/vectors/invite.json: what invites must be, which are to be refused, and why.

    python tests/make_vectors_invite.py

It imports nothing of Chainroom: everything is written again from docs/PROTOCOL.md 6.1, as strings
of bits and with a table of GF(32), and nothing is random.

A case is {"why": the rule, "text": what somebody typed, "expect": what comes of it}: room (hex),
server, port and the canonical text; or, where it must be refused, words that the error has.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

from make_vectors_crypto import stretched, tagged

PATH = Path(__file__).parent / "vectors" / "invite.json"

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ROOM = stretched("invited room", 16)

Case = dict[str, Any]


# GF(32) by the powers of x: x^5 = x^3 + 1.
POWERS = [1, 2, 4, 8, 16, 0b01001, 0b10010, 0b01101, 0b11010, 0b11101, 0b10011, 0b01111, 0b11110]
POWERS += [0b10101, 0b00011, 0b00110, 0b01100, 0b11000, 0b11001, 0b11011, 0b11111, 0b10111]
POWERS += [0b00111, 0b01110, 0b11100, 0b10001, 0b01011, 0b10110, 0b00101, 0b01010, 0b10100]


def times(one: int, power: int) -> int:
    """one · x^power."""
    return POWERS[(POWERS.index(one) + power) % 31] if one else 0


def check(symbols: list[int], number: int) -> int:
    """The fifth symbol of a part."""
    total = number % 32
    for power, symbol in zip((4, 3, 2, 1), symbols, strict=True):
        total ^= times(symbol, power)
    return total


def spelled(body: bytes, flip: int = 0) -> str:
    """Any bytes as an invite; `flip` spoils that bit of the checksum, from its end."""
    bits = "".join(f"{byte:08b}" for byte in body)
    parts = 1
    while 20 * parts < len(bits) + 16:
        parts += 1
    digest = "".join(f"{byte:08b}" for byte in tagged("invite", body))
    bits += digest[: 20 * parts - len(bits)]
    bits = f"{int(bits, 2) ^ (1 << flip >> 1):0{20 * parts}b}"
    words = []
    for number in range(1, parts + 1):
        part = bits[20 * number - 20 : 20 * number]
        symbols = [int(part[at : at + 5], 2) for at in range(0, 20, 5)]
        symbols.append(check(symbols, number))
        words.append("".join(ALPHABET[symbol] for symbol in symbols))
    return "-".join(words)


def body(
    form: int, address: bytes = b"", port: bytes = b"", version: int = 1, room: bytes = ROOM
) -> bytes:
    return bytes((version, form)) + room + address + port


def good() -> list[Case]:
    v4, v6 = "192.168.1.5", "fd00::c0a8:105"
    packed = {text: ipaddress.ip_address(text).packed for text in (v4, v6)}
    name, longest = "relay.local", "a-relay." * 8
    kinds = {
        "no address": ("", 5555, body(0)),
        "IPv4": (v4, 5555, body(1, packed[v4])),
        "IPv4 and another port than 5555": (v4, 6000, body(129, packed[v4], b"\x17\x70")),
        "IPv6": (v6, 5555, body(2, packed[v6])),
        "IPv6 and a port": (v6, 1, body(130, packed[v6], b"\0\1")),
        "a name": (name, 5555, body(2 + 11, name.encode())),
        "a name and a port": (name, 65535, body(130 + 11, name.encode(), b"\xff\xff")),
        "a name of 1 byte": ("r", 5555, body(3, b"r")),
        "a name of 64 bytes and a port": (longest, 80, body(194, longest.encode(), b"\0\x50")),
        "a name that is not ASCII": ("büro-pc", 5555, body(2 + 8, "büro-pc".encode())),
    }
    cases: list[Case] = []
    for why, (server, port, data) in kinds.items():
        canonical = spelled(data)
        made = {"room": ROOM.hex(), "server": server, "port": port, "text": canonical}
        cases.append({"why": why, "text": canonical, "expect": made})
    text: str = cases[1]["text"]
    expect = cases[1]["expect"]
    typed = {
        "small letters": text.lower(),
        "no dashes": text.replace("-", ""),
        "spaces and line breaks, wherever they are": f"\n {text[:15]}\r\n\t{text[15:]}  \n".replace(
            "-", " "
        ),
        "the prefix": "chainroom:" + text,
        "the prefix in capitals, and a space behind it": "CHAINROOM: " + text,
        "long dashes": text.replace("-", "\u2013"),
        "characters that nobody sees": "\u200b".join(text),
        "I, L and O for 1, 1 and 0": text.replace("0", "O").replace("1", "L", 1).replace("1", "i"),
    }
    return cases + [
        {"why": f"typed with {why}", "text": form, "expect": expect} for why, form in typed.items()
    ]


def refused() -> list[Case]:
    address = bytes((192, 168, 1, 5))
    data = body(1, address)
    text = spelled(data)
    words = text.split("-")

    def edited(number: int, part: str) -> str:
        return "-".join([*words[: number - 1], part, *words[number:]])

    wrong = ALPHABET[ALPHABET.index(words[2][1]) ^ 1]
    mistyped = words[2][:1] + wrong + words[2][2:]
    late = words[8][:4] + ALPHABET[ALPHABET.index(words[8][4]) ^ 5]
    swapped = words[3][1] + words[3][0] + words[3][2:]
    both = {
        "nothing": ("", "empty"),
        "dashes alone": (" - -- ", "empty"),
        "the prefix alone": ("chainroom:", "empty"),
        "more than 400 characters": (text + " " * (401 - len(text)), "at most 400"),
        "a wrong character": (edited(3, mistyped), f"part 3 of 10 ({mistyped}) is mistyped"),
        "a wrong character in small letters": (
            edited(3, mistyped).lower(),
            f"part 3 of 10 ({mistyped.lower()})",
        ),
        "a wrong check character": (edited(9, late), f"part 9 of 10 ({late}) is mistyped"),
        "two neighbours swapped": (edited(4, swapped), f"part 4 of 10 ({swapped})"),
        "two wrong parts": (
            edited(3, mistyped).replace(words[8], late),
            f"parts 3 and 9 of 10 ({mistyped}, {late}) are mistyped",
        ),
        "a letter that no invite has": (edited(5, "UUUUU"), "part 5 (UUUUU) has U"),
        "a character missing": (edited(6, words[5][1:]), f"part 6 ({words[5][1:]})"),
        "a character too many": (edited(6, words[5] + "7"), f"part 6 ({words[5]}7)"),
        "a part missing": ("-".join(words[:4] + words[5:]), "part 5 of 10 is missing"),
        "the first part missing": ("-".join(words[1:]), "part 1 is missing"),
        "the end missing": ("-".join(words[:-2]), "ends after part 8 of 10"),
        "a part twice": ("-".join(words[:4] + words[3:]), f"part 5 ({words[3]}) is one too many"),
        "a part of something else": (
            text + "-" + words[0],
            f"part 11 ({words[0]}) is one too many",
        ),
        "parts that changed places": (
            "-".join([*words[:1], words[6], *words[2:6], words[1], *words[7:]]),
            "parts 2 and 7 are in the wrong order",
        ),
        "words": ("at noon beside the gates", "no invite"),
        "a checksum that does not fit": (spelled(data, flip=1), "not all of them together"),
        "a wrong first bit of the checksum": (spelled(data, flip=24), "not all of them together"),
        "another version": (spelled(body(1, address, version=2)), "version 2"),
        "a form that is none": (spelled(body(67, b"x" * 65)), "keep to the rules"),
        "a port without an address": (spelled(body(128, b"", b"\x17\x70")), "keep to the rules"),
        "port 5555 written out": (spelled(body(129, address, b"\x15\xb3")), "keep to the rules"),
        "port 0": (spelled(body(129, address, b"\0\0")), "1 to 65535"),
        "an address as a name": (spelled(body(13, b"192.168.1.5")), "keep to the rules"),
        "a name that is no UTF-8": (spelled(body(3, b"\xff")), "looks like"),
        "a name with a space": (spelled(body(5, b"a b")), "looks like"),
        "a name with a slash": (spelled(body(5, b"a/b")), "looks like"),
        "a name with a control character": (spelled(body(5, b"a\x1bb")), "looks like"),
        "a room's secret of 15 bytes": (spelled(body(0, room=ROOM[:15])), "together"),
    }
    return [
        {"why": why, "text": text, "expect": expected} for why, (text, expected) in both.items()
    ]


def text() -> str:
    """The file."""
    about = "Made by tests/make_vectors_invite.py, which says how to read it."
    return json.dumps({"about": about, "cases": good() + refused()}, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="ascii")
