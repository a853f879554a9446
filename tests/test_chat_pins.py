"""Pins: the rule for names and keys, and names that look alike."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_pins
from chat_pins import Meeting, Pins, skeleton

ONE, TWO, THREE, FOUR = (bytes((n,)) * 32 for n in range(1, 5))
fingerprints = st.sampled_from((ONE, TWO, THREE, FOUR))
nicks = st.sampled_from(("bob", "zoë", "Bob"))


def pinned(*pins: tuple[str, bytes], verified: tuple[bytes, ...] = ()) -> Pins:
    made = Pins()
    for nick, fingerprint in pins:
        made.pin(nick, fingerprint)
    for fingerprint in verified:
        made.verify(fingerprint)
    return made


@pytest.mark.parametrize(
    ("pins", "present", "meeting"),
    [
        (pinned(), (), Meeting.NEW),
        (pinned(("eve", TWO)), (), Meeting.NEW),
        (pinned(("bob", ONE)), (), Meeting.KNOWN),
        (pinned(("bob", TWO), ("bob", ONE)), (TWO,), Meeting.KNOWN),
        (pinned(("eve", ONE), ("bob", TWO)), (), Meeting.RENAMED),
        (pinned(("bob", TWO)), (), Meeting.CHANGED),
        (pinned(("bob", TWO)), (THREE,), Meeting.CHANGED),
        (pinned(("bob", TWO)), (TWO,), Meeting.ANOTHER),
        (pinned(("bob", TWO), ("bob", THREE)), (), Meeting.ANOTHER),
        (pinned(("bob", TWO), ("bob", THREE), verified=(THREE,)), (), Meeting.CHANGED),
        (pinned(("bob", TWO), ("bob", THREE), verified=(THREE,)), (TWO,), Meeting.ANOTHER),
        (pinned(("bob", TWO), verified=(ONE,)), (), Meeting.CHANGED),
    ],
)
def test_who_comes_is_judged_by_the_pins_and_who_is_present(
    pins: Pins, present: tuple[bytes, ...], meeting: Meeting
) -> None:
    assert pins.judge("bob", ONE, present) is meeting


@given(
    st.lists(st.tuples(nicks, fingerprints)),
    st.sets(fingerprints),
    nicks,
    fingerprints,
    st.sets(fingerprints),
)
def test_changed_is_what_the_design_says(
    made: list[tuple[str, bytes]],
    verified: set[bytes],
    nick: str,
    fingerprint: bytes,
    present: set[bytes],
) -> None:
    # "An unpinned fingerprint under a nick with one pin (or a verified one) while no session pinned
    # to that nick is present."
    pins = pinned(*made, verified=tuple(verified))
    of_nick = {f for n, f in made if n == nick}
    is_unpinned = fingerprint not in {f for _, f in made}
    is_guarded = len(of_nick) == 1 or bool(of_nick & verified)
    changed = is_unpinned and is_guarded and not (of_nick & present)
    assert (pins.judge(nick, fingerprint, present) is Meeting.CHANGED) is changed


def test_pins_are_found_both_ways_in_the_order_in_which_they_were_made() -> None:
    pins = pinned(("bob", TWO), ("bob", ONE), ("rob", ONE), ("bob", TWO))
    assert pins.of("bob") == [TWO, ONE]
    assert pins.nicks_of(ONE) == ["bob", "rob"]
    assert (pins.of("eve"), pins.nicks_of(THREE)) == ([], [])


def test_verified_can_be_taken_back_and_is_about_the_key() -> None:
    pins = pinned(("bob", ONE), verified=(ONE,))
    pins.pin("rob", ONE)
    assert pins.is_verified(ONE)
    pins.unverify(ONE)
    pins.unverify(TWO)
    assert not pins.is_verified(ONE)


def test_copy_shares_nothing() -> None:
    pins = pinned(("bob", ONE), verified=(ONE,))
    copied = pins.copy()
    assert copied == pins
    copied.pin("bob", TWO)
    copied.unverify(ONE)
    assert pins == pinned(("bob", ONE), verified=(ONE,))


def test_the_oldest_that_is_not_verified_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_pins, "MAX_PINS", 3)
    pins = pinned(("a", ONE), ("b", TWO), ("c", THREE), verified=(ONE,))
    pins.pin("d", FOUR)
    assert [nick for nick, _ in pins] == ["a", "c", "d"]
    assert (pins.of("b"), pins.nicks_of(TWO), pins.look_alikes("B")) == ([], [], [])
    for fingerprint in (THREE, FOUR):
        pins.verify(fingerprint)
    pins.pin("e", TWO)
    assert [nick for nick, _ in pins] == ["c", "d", "e"]


# --------------------------------------------------------------------------- names that look alike


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("bob", "Bob"),
        ("bob", "BOB"),
        ("bob", "b0b"),
        ("bob", "bоb"),  # Cyrillic о
        ("bob", "bοb"),  # Greek ο
        ("bob", "ｂｏｂ"),
        ("bob", "𝐛𝐨𝐛"),
        ("bob", "bob_"),
        ("bob", "_bob_"),
        ("bob", "bob."),
        ("bob", "bób"),
        ("bob", "bob'"),
        ("alice", "aIice"),
        ("alice", "al1ce"),
        ("alice", "аlicе"),
        ("alice", "a|ice"),
        ("paypal", "pаypаl"),
        ("admin", "adrnin"),
        ("walter", "vvalter"),
        ("david", "clavid"),
        ("иван", "Иван"),
        ("straße", "STRASSE"),
        ("ﬁn", "fin"),
        ("сору", "copy"),
    ],
)
def test_names_that_a_person_may_take_for_each_other_look_alike(known: str, other: str) -> None:
    other = unicodedata.normalize("NFC", other)
    pins = pinned((known, ONE))
    assert pins.look_alikes(other) == [(known, ONE)]
    assert pins.look_alikes(known) == []


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("bob", "rob"),
        ("anna", "hanna"),
        ("tim", "jim"),
        ("maria", "mario"),
        ("bob", "bob2"),
        ("student-1", "student-2"),
        ("pc-101", "pc-110"),
        ("иван", "иваn2"),
        ("李", "王"),
        ("さくら", "さくる"),
        ("_", "-"),
        ("nick", "mick"),
    ],
)
def test_ordinary_names_that_differ_do_not_look_alike(known: str, other: str) -> None:
    assert pinned((known, ONE)).look_alikes(other) == []


@given(st.text(min_size=1, max_size=32))
def test_every_name_has_a_skeleton_that_is_its_own(name: str) -> None:
    found = skeleton(name)
    assert skeleton(found) == skeleton(skeleton(found))


def test_looks_like_table_has_each_character_once() -> None:
    others = "".join(chat_pins._LOOKS_LIKE.values())
    assert len(others) == len(set(others))
    assert not set(others) & set(chat_pins._LOOKS_LIKE)
