"""chat_invite: every invite comes back, every slip is found, and the part that has it is named.

`make_vectors_invite` is a second implementation; what the two agree on is in vectors/invite.json.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import make_vectors_invite as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_invite import MAX_PASTED_CHARACTERS, Invite, InviteError, same_number
from crypto_utils import RoomSecret, safety_number

VECTORS: list[dict[str, Any]] = json.loads(reference.PATH.read_text("ascii"))["cases"]
ROOM = RoomSecret(reference.ROOM)
INVITE = Invite(ROOM, "192.168.1.5")
# A typo is another character of the alphabet, read as another symbol, or one that no invite has.
SYMBOLS = reference.ALPHABET
TYPED = SYMBOLS + SYMBOLS.lower() + "uU!?ä"

names = st.text("abcXYZ019.-_\u00fc\u0301\u3042", min_size=1, max_size=20)
servers = st.one_of(
    st.just(""), names, st.ip_addresses().map(str), st.sampled_from(["127.1", "::", "x" * 64])
)
rooms = st.binary(min_size=16, max_size=16).map(RoomSecret)
ports = st.one_of(st.just(5555), st.integers(1, 65_535))


@st.composite
def invites(draw: st.DrawFn) -> Invite:
    server = draw(servers)
    return Invite(draw(rooms), server, draw(ports) if server else 5555)


def fault(text: str) -> str:
    """What is said of a text that is no invite."""
    with pytest.raises(InviteError) as caught:
        Invite.parse(text)
    said = str(caught.value)
    assert "\n" not in said
    assert not said.endswith(".")
    return said


def named(said: str) -> set[int]:
    """The numbers of the parts that it names."""
    found = re.match(r"parts? ((?:\d+(?:, | and )?)+)|.* in part (\d+) ", said)
    assert found, said
    return {int(number) for number in re.findall(r"\d+", found[1] or found[2])}


# --------------------------------------------------------------------------------------------------
# vectors


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["why"])
def test_vectors_come_out_as_they_say(case: dict[str, Any]) -> None:
    if isinstance(case["expect"], str):
        assert case["expect"] in fault(case["text"])
        return
    invite = Invite.parse(case["text"])
    got = {"room": invite.room.secret.hex(), "server": invite.server, "port": invite.port}
    assert got | {"text": invite.text} == case["expect"]


def test_the_vectors_are_what_their_script_makes() -> None:
    assert reference.PATH.read_text("ascii") == reference.text()


# --------------------------------------------------------------------------------------------------
# there and back


@given(invites())
def test_an_invite_comes_back_as_it_was_spelled_by_either_implementation(invite: Invite) -> None:
    text = invite.text
    assert Invite.parse(text) == invite
    assert Invite.parse(text).text == text == reference.spelled(invite._body())
    assert re.fullmatch(rf"[{SYMBOLS}]{{5}}(-[{SYMBOLS}]{{5}}){{7,34}}", text)
    assert len(text) * 1.9 < MAX_PASTED_CHARACTERS


@given(invites(), st.data())
def test_an_invite_is_read_however_it_was_typed(invite: Invite, data: st.DataObject) -> None:
    between = st.sampled_from(["", "", "", "-", " ", "\n", "\u2014", "\u200b", "\u00a0", " - "])
    looks = {"0": "0Oo", "1": "1IiLl"}
    typed = data.draw(st.sampled_from(["", "chainroom:", " CHAINROOM:\n"]))
    for char in invite.text.replace("-", ""):
        typed += data.draw(st.sampled_from(looks.get(char, char + char.lower())))
        typed += data.draw(between) if len(typed) < 300 else ""
    assert Invite.parse(typed[:MAX_PASTED_CHARACTERS]) == invite


def test_an_address_has_one_spelling() -> None:
    text = Invite(ROOM, "2001:DB8:0:0::1").text
    assert text == Invite(ROOM, "2001:db8::1").text
    assert Invite.parse(text).server == "2001:db8::1"


@pytest.mark.parametrize(("server", "parts"), [("", 8), ("10.0.0.1", 10), ("fe80::1", 15)])
def test_an_invite_is_as_short_as_it_can_be(server: str, parts: int) -> None:
    assert len(Invite(ROOM, server).text) == 6 * parts - 1
    if server:
        assert len(Invite(ROOM, server, 80).text) <= 6 * (parts + 1) - 1


def test_an_invite_does_not_show_its_secret_when_printed() -> None:
    assert ROOM.secret.hex() not in repr(INVITE)
    assert repr(ROOM.secret)[2:-1] not in repr(INVITE)


@pytest.mark.parametrize(
    ("server", "port", "said"),
    [
        ("a b", 5555, "looks like"),
        ("192.168.1.5:5555", 5555, "looks like"),
        ("[::1]", 5555, "looks like"),
        ("a\u202eb", 5555, "looks like"),
        ("a\ud800", 5555, "looks like"),
        ("x" * 65, 5555, "at most 64 bytes"),
        ("ü" * 33, 5555, "at most 64 bytes"),
        ("fe80::1%eth0", 5555, "this computer alone"),
        ("relay", 0, "1 to 65535"),
        ("relay", 65_536, "1 to 65535"),
        ("", 6000, "no port"),
    ],
)
def test_an_invite_that_could_not_be_read_cannot_be_made(server: str, port: int, said: str) -> None:
    with pytest.raises(InviteError, match=said):
        Invite(ROOM, server, port)


# --------------------------------------------------------------------------------------------------
# slips


def test_every_wrong_character_is_found_and_its_part_is_named() -> None:
    for invite in (Invite(ROOM), INVITE, Invite(ROOM, "relay.local", 80)):
        text = invite.text
        total = len(text.split("-"))
        for at, right in enumerate(text):
            number = at // 6 + 1
            if right == "-":
                continue
            for char in TYPED:
                typed = text[:at] + char + text[at + 1 :]
                if char.upper() == right:
                    assert Invite.parse(typed) == invite
                    continue
                said = fault(typed)
                part = typed[6 * number - 6 : 6 * number - 1]
                if char in SYMBOLS + SYMBOLS.lower():
                    assert said == f"part {number} of {total} ({part}) is mistyped"
                else:
                    assert said == f"part {number} ({part}) has {char}, which is in no invite"


def test_every_two_neighbours_that_changed_places_are_found_and_their_part_is_named() -> None:
    for text in (Invite(ROOM).text, INVITE.text, Invite(ROOM, "fd00::1", 80).text):
        plain = text.replace("-", "")
        for shape, size in ((text, 6), (plain, 5)):
            for at in range(len(shape) - 1):
                one, other = shape[at], shape[at + 1]
                swapped = shape[:at] + other + one + shape[at + 2 :]
                if one == other or "-" in (one, other):
                    assert Invite.parse(swapped).text == text
                else:
                    assert named(fault(swapped)) == {at // size + 1, (at + 1) // size + 1}


@given(invites(), st.data())
def test_any_two_characters_of_a_part_that_changed_places_are_found(
    invite: Invite, data: st.DataObject
) -> None:
    parts = invite.text.split("-")
    number = data.draw(st.integers(0, len(parts) - 1))
    one, other = data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True))
    chars = list(parts[number])
    chars[one], chars[other] = chars[other], chars[one]
    typed = "-".join([*parts[:number], "".join(chars), *parts[number + 1 :]])
    if typed == invite.text:
        assert Invite.parse(typed) == invite
    else:
        assert named(fault(typed)) == {number + 1}


@given(invites(), st.data())
def test_a_character_that_is_missing_or_too_many_is_found_in_its_part(
    invite: Invite, data: st.DataObject
) -> None:
    text = invite.text
    at = data.draw(st.integers(0, len(text) - 1).filter(lambda at: text[at] != "-"))
    more = data.draw(st.sampled_from(["", "7", *SYMBOLS]))
    typed = text[:at] + (text[at] + more if more else "") + text[at + 1 :]
    assert named(fault(typed)) == {at // 6 + 1}
    plain = typed.replace("-", "")
    # Without dashes a part that is out of step may fit by chance, 1 in 32, or the next be it.
    assert min(named(fault(plain))) >= at // 6 + 1


@given(invites(), st.data())
def test_a_part_that_is_missing_twice_there_or_misplaced_is_named(
    invite: Invite, data: st.DataObject
) -> None:
    parts = invite.text.split("-")
    total = len(parts)
    at = data.draw(st.integers(0, total - 2))
    of = f" of {total}" if at else ""
    assert fault("-".join(parts[:at] + parts[at + 1 :])) == f"part {at + 1}{of} is missing"
    twice = fault("-".join([*parts[: at + 1], *parts[at:]]))
    assert twice == f"part {at + 2} ({parts[at]}) is one too many"
    one, other = sorted(data.draw(st.lists(st.integers(0, total - 1), min_size=2, unique=True))[:2])
    parts[one], parts[other] = parts[other], parts[one]
    if (other - one) % 32:  # 35 parts at most have 32 numbers
        said = f"parts {one + 1} and {other + 1} are in the wrong order"
        assert fault("-".join(parts)) == said
    elif one != other:
        assert "not all of them together" in fault("-".join(parts))


@given(invites(), st.data())
def test_an_invite_that_was_cut_off_says_where(invite: Invite, data: st.DataObject) -> None:
    parts = invite.text.split("-")
    left = data.draw(st.integers(1, len(parts) - 1))
    said = fault("-".join(parts[:left]))
    assert said == f"this invite ends after part {left} of {len(parts)}"


@settings(max_examples=150)
@given(invites(), st.lists(st.tuples(st.integers(0, 250), st.sampled_from(SYMBOLS)), max_size=6))
def test_what_is_mistyped_more_than_once_is_never_another_invite(
    invite: Invite, slips: list[tuple[int, str]]
) -> None:
    typed = list(invite.text)
    for at, char in slips:
        typed[at % len(typed)] = char
    if "".join(typed).replace("-", "") == invite.text.replace("-", ""):
        return
    with contextlib.suppress(InviteError):
        assert Invite.parse("".join(typed)) == invite


# --------------------------------------------------------------------------------------------------
# anything


@given(st.one_of(st.text(max_size=500), st.text(SYMBOLS + "- chainroom:", max_size=500)))
def test_any_text_is_an_invite_or_an_invite_error(text: str) -> None:
    with contextlib.suppress(InviteError):
        invite = Invite.parse(text)
        assert Invite.parse(invite.text) == invite


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=90).map(lambda b: b"\1" + b)))
def test_any_bytes_spelled_well_are_an_invite_or_an_invite_error(data: bytes) -> None:
    text = reference.spelled(data)
    with contextlib.suppress(InviteError):
        assert Invite.parse(text).text == text


def test_more_than_400_characters_are_refused_before_they_are_looked_at() -> None:
    class Unread(str):
        __slots__ = ()

        def strip(self, _chars: str | None = None, /) -> str:
            raise AssertionError("read")

    with pytest.raises(InviteError, match="at most 400"):
        Invite.parse(Unread("0" * 401))


# --------------------------------------------------------------------------------------------------
# safety numbers

NUMBER = safety_number(bytes(32), b"\1" * 32)


@pytest.mark.parametrize(
    "pasted",
    [
        NUMBER,
        NUMBER.replace(" ", ""),
        NUMBER.replace(" ", "-"),
        f"\n{NUMBER[:35]}\r\n  {NUMBER[36:]}\n",
        NUMBER.replace(" ", "\u2009"),
        NUMBER.replace(" ", " \u2013 "),
        "\u202a" + NUMBER + "\u202c",
        NUMBER.translate({ord("0") + n: 0x0660 + n for n in range(10)}),
        NUMBER.translate({ord("0") + n: 0xFF10 + n for n in range(10)}),
    ],
)
def test_the_same_number_is_known_however_it_was_pasted(pasted: str) -> None:
    assert same_number(pasted, NUMBER) is True


def test_any_other_digit_is_another_number() -> None:
    for at, digit in enumerate(NUMBER):
        for other in set("0123456789 ") - {digit}:
            if digit != " " and other != " ":
                assert same_number(NUMBER[:at] + other + NUMBER[at + 1 :], NUMBER) is False
    assert same_number(NUMBER[::-1], NUMBER) is False
    assert same_number(NUMBER[6:] + " " + NUMBER[:5], NUMBER) is False


@pytest.mark.parametrize(
    "pasted",
    [
        *("", " ", NUMBER[:-1], NUMBER + "0", NUMBER[6:], "bob", NUMBER + "x", "-" * 60),
        *(NUMBER.replace(" ", "."), NUMBER.replace(" ", "\u00b2"), "\u00bd" * 60, "\ud800" * 60),
        NUMBER + " " * 400,
    ],
)
def test_what_is_no_safety_number_is_no_mismatch(pasted: str) -> None:
    assert same_number(pasted, NUMBER) is None


@given(st.text(max_size=450))
def test_any_text_is_the_number_another_or_none(text: str) -> None:
    assert same_number(text, NUMBER) in (False, None)
