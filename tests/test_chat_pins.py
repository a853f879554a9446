"""Pins: the rule for names and keys, and names that look alike."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_pins
from chat_pins import Meeting, Pins, skeletons

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
        (pinned(("eve", ONE)), (), Meeting.RENAMED),
        (pinned(("eve", ONE), ("bob", TWO)), (TWO,), Meeting.RENAMED),
        (pinned(("eve", ONE), ("bob", TWO)), (), Meeting.CHANGED),
        (pinned(("bob", TWO)), (), Meeting.CHANGED),
        (pinned(("bob", TWO)), (THREE,), Meeting.CHANGED),
        (pinned(("bob", TWO)), (TWO,), Meeting.ANOTHER),
        (pinned(("bob", TWO), ("bob", THREE)), (), Meeting.CHANGED),
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
def test_changed_is_what_the_decision_says(
    made: list[tuple[str, bytes]],
    verified: set[bytes],
    nick: str,
    fingerprint: bytes,
    present: set[bytes],
) -> None:
    # "A fingerprint that is not pinned under a nick under which others are, while none of them is
    # present" (ADR 0011).
    pins = pinned(*made, verified=tuple(verified))
    of_nick = {f for n, f in made if n == nick}
    changed = bool(of_nick) and fingerprint not in of_nick and not (of_nick & present)
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


def test_further_names_make_room_before_whom_we_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_pins, "MAX_PINS", 4)
    pins = pinned(("bob", ONE), *((f"x{n}", TWO) for n in range(9)), ("y", THREE))
    assert pins.judge("bob", FOUR, ()) is Meeting.CHANGED


def test_who_takes_name_after_name_pushes_out_his_own_and_keeps_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_pins, "MAX_NICKS", 3)
    pins = pinned(("bob", TWO), *((nick, ONE) for nick in "abcde"), ("bob", ONE), ("e", THREE))
    assert pins.nicks_of(ONE) == ["a", "e", "bob"]
    assert list(pins) == [("bob", TWO), ("a", ONE), ("e", ONE), ("bob", ONE), ("e", THREE)]
    assert (pins.look_alikes("C"), pins.of("c")) == ([], [])


def test_ten_thousand_pins_cost_a_start_little_and_a_newcomer_nothing() -> None:
    pins = Pins()
    began = time.process_time()
    for number in range(10_000):
        pins.pin(f"bob{number}", number.to_bytes(32, "big"))
    copied = pins.copy()
    assert time.process_time() - began < 3
    began = time.process_time()
    for number in range(1000):
        copied.judge(f"bob{number}", ONE, {TWO})
        copied.look_alikes(f"BOB{number}")
    assert time.process_time() - began < 1


# --------------------------------------------------------------------------- names that look alike


@pytest.mark.parametrize(
    ("known", "other"),
    [
        # As they were reported, of other programs.
        ("user", "usеr"),  # mumble-voip/mumble#2462
        ("Mark", "Mаrk"),  # element-hq/element-web#5826
        ("chanserv", "Chɑnserv"),  # ergochat/ergo#519
        ("limes11", "Iimes11"),  # openstreetmap/openstreetmap-website#3919
        ("thibaudcolas", "thᎥbaudcolas"),  # wagtail/wagtail#14329
        ("Ian_Clarke", "Ιan_Clarke"),  # freenet/river#489
        ("Developer", "Ðeveloper"),  # magpiecapital/magpie-bot#573
        ("admin", "adrnin"),  # otwcode/otwarchive#6004, and the next two
        ("admin", "admın"),
        ("admin", "ᗅdmin"),
        # Case, width and style.
        ("bob", "Bob"),
        ("bob", "BOB"),
        ("bob", "ｂｏｂ"),
        ("bob", "𝐛𝐨𝐛"),
        ("bob", "ʙᴏʙ"),
        ("ﬁn", "fin"),
        ("иван", "Иван"),
        ("straße", "STRASSE"),
        # Other scripts, of which a whole name can be made.
        ("bob", "bоb"),  # Cyrillic
        ("bob", "bοb"),  # Greek
        ("bob", "ꓐꓳꓐ"),
        ("bob", "ΒΟΒ"),
        ("Nina", "ΝІΝА"),
        ("eve", "ЕѴЕ"),
        ("carol", "ϲarol"),
        ("сору", "copy"),
        ("paypal", "раураӏ"),
        ("νανα", "ΝΑΝΑ"),
        ("山口", "山ロ"),
        # Digits and pairs.
        ("bob", "b0b"),
        ("alice", "aIice"),
        ("alice", "al1ce"),
        ("alice", "a|ice"),
        ("boss", "bo55"),
        ("walter", "vvalter"),
        # What is added.
        ("bob", "bob_"),
        ("bob", "_bob_"),
        ("bob", "bob."),
        ("bob", "bob'"),
        ("bob", "@bob"),
        ("bob", "bób"),
        ("zoë", "zoe"),
        ("bob", "bo\u0336b"),
        ("bob", "bob\u094d"),  # a mark of another script
        ("محمد", "مُحمد"),
        ("pc-1", "pc–1"),
    ],
)
def test_names_that_a_person_may_take_for_each_other_look_alike(known: str, other: str) -> None:
    other = unicodedata.normalize("NFC", other)
    pins = pinned((known, ONE))
    assert pins.look_alikes(other) == [(known, ONE)]
    assert pins.look_alikes(known) == []
    assert pinned((other, ONE)).look_alikes(known) == [(other, ONE)]


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("bob", "rob"),
        ("anna", "hanna"),
        ("tim", "jim"),
        ("maria", "mario"),
        ("clara", "dara"),
        ("nick", "mick"),
        ("bob", "bob2"),
        ("student-1", "student-2"),
        ("pc-101", "pc-110"),
        ("иван", "иваn2"),
        ("李", "王"),
        ("さくら", "さくる"),
        ("たいき", "だいき"),
        ("रानी", "रीना"),
        ("ปู", "ปี"),
        ("김민수", "김민서"),
        ("_", "-"),
        ("🙂", "🙃"),
    ],
)
def test_ordinary_names_that_differ_do_not_look_alike(known: str, other: str) -> None:
    assert pinned((known, ONE)).look_alikes(other) == []


def test_each_character_of_the_table_is_taken_for_its_letter() -> None:
    for one, others in chat_pins._LOOKS_LIKE.items():
        for other in others:
            assert skeletons(f"x{one}x") & skeletons(f"x{other}x"), f"{other} for {one}"


@given(st.text(min_size=1, max_size=32))
def test_no_name_has_more_than_two_skeletons_and_it_has_them_in_any_form(name: str) -> None:
    found = skeletons(name)
    assert 1 <= len(found) <= 2
    assert skeletons(unicodedata.normalize("NFC", name)) & found
