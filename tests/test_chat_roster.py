"""Who is in the room, who has been, and what each is called."""

from __future__ import annotations

import random
from functools import cache
from types import SimpleNamespace
from typing import cast

import pytest

import chat_roster
from chat_messages import MAX_AUDIENCE, Bundle, full_name, roster_digest
from chat_pins import Pins
from chat_roster import MAX_LIVE, Person, Roster
from crypto_utils import IdentityPublic, SigningKey, VerifyKey

OUR = bytes(32)
S, MS = 1000.0, 1_700_000_000_000


@cache
def ssk() -> VerifyKey:
    return VerifyKey(SigningKey(bytes(32)).public)


def person(number: int) -> bytes:
    """A fingerprint whose first four hex digits are the number's."""
    return number.to_bytes(2, "big") + bytes(30)


def bundle(nick: str, fingerprint: bytes, session: int = 0, sek_number: int = 1) -> Bundle:
    """As if it had been parsed; no key of it is used here."""
    identity = cast(IdentityPublic, SimpleNamespace(fingerprint=fingerprint))
    session_id = session.to_bytes(16, "big") if session else fingerprint[:16]
    return Bundle(
        bytes(16), identity, nick, session_id, ssk(), sek_number, b"", bytes(16), ssk(), b""
    )


def roster(*members: Bundle, known: dict[bytes, Person] | None = None) -> Roster:
    made = Roster(bundle("us", OUR, session=1), known or {}, MS, Pins())
    for member in members:
        made.add(member, S, MS)
    return made


# --------------------------------------------------------------------------- names


def test_name_is_the_nick_and_four_digits() -> None:
    assert roster(bundle("bob", person(0x7F3A))).name(person(0x7F3A)) == "bob#7f3a"


def test_names_grow_until_they_differ() -> None:
    one, two, three = (bytes.fromhex(h).ljust(32, b"\0") for h in ("7f3a10", "7f3a1f", "7f3b"))
    names = roster(bundle("bob", one), bundle("bob", two, 2), bundle("bob", three, 3))
    assert names.name(one) == "bob#7f3a10"
    assert names.name(two) == "bob#7f3a1f"
    assert names.name(three) == "bob#7f3b"


def test_names_of_different_nicks_do_not_make_each_other_grow() -> None:
    one, two = (bytes.fromhex(h).ljust(32, b"\0") for h in ("7f3a10", "7f3a1f"))
    names = roster(bundle("bob", one), bundle("rob", two, 2))
    assert [names.name(one), names.name(two)] == ["bob#7f3a", "rob#7f3a"]


def test_name_follows_the_latest_nick_and_shrinks_again() -> None:
    one, two = (bytes.fromhex(h).ljust(32, b"\0") for h in ("7f3a10", "7f3a1f"))
    names = roster(bundle("bob", one), bundle("bob", two, 2))
    assert names.name(one) == "bob#7f3a10"
    names.add(bundle("robert", two, 2, sek_number=2), S, MS)
    assert [names.name(one), names.name(two)] == ["bob#7f3a", "robert#7f3a"]


def test_name_of_a_stranger_is_a_question_mark() -> None:
    assert roster().name(person(0xBEEF)) == "?#beef"


def test_name_of_ours_is_what_we_call_ourselves_whatever_a_copy_says() -> None:
    names = roster(bundle("liar", OUR, session=2), known={OUR: Person("before", MS)})
    assert names.name(OUR) == "us#0000"
    names.renew(bundle("me", OUR, session=1, sek_number=2))
    assert names.name(OUR) == "me#0000"


def test_people_are_listed_once_by_name_and_without_us() -> None:
    zoe, bob = person(1), person(2)
    members = [bundle("zoe", zoe, 2), bundle("bob", bob, 3), bundle("bob", bob, 4)]
    names = roster(*members, bundle("us", OUR, session=5))
    assert names.people() == [bob, zoe]
    assert [b.session_id[-1] for b in names.sessions_of(bob)] == [3, 4]


# --------------------------------------------------------------------------- find


@pytest.mark.parametrize("name", ["bob", "bob#7f3a", "bob#7", "bob#7F3A", "#7f3a", "#7f", "bob#"])
def test_person_is_found_by_nick_by_tag_and_by_both(name: str) -> None:
    names = roster(bundle("bob", person(0x7F3A)), bundle("carol", person(0x1234), 2))
    assert names.find(name) == [person(0x7F3A)]


@pytest.mark.parametrize("name", ["bob#8", "rob#7f3a", "Bob", "bobby", "#", "", "us", "us#0000"])
def test_nobody_is_found_by_another_name_nor_are_we(name: str) -> None:
    assert roster(bundle("bob", person(0x7F3A))).find(name) == []


def test_namesakes_are_all_found_and_told_apart_by_tag() -> None:
    one, two = person(0x1111), person(0x2222)
    names = roster(bundle("bob", one), bundle("bob", two, 2))
    assert sorted(names.find("bob")) == [one, two]
    assert names.find("bob#2") == [two]


def test_names_after_any_coming_going_and_renaming_are_those_of_who_is_known_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_roster, "MAX_AUDIENCE", 6)  # so that some are forgotten
    rng = random.Random(1)
    people = [bytes((0x7F, 0x3A, n)).ljust(32, b"\0") for n in range(9)]  # of one tag
    names = roster()
    for step in range(300):
        who, nick = rng.choice([*people, OUR]), rng.choice(["ann", "bob", "us"])
        match rng.randrange(4):
            case 0:
                names.renew(bundle(nick, OUR, session=1, sek_number=step))
            case 1:
                names.remove(bundle(nick, who, session=9).session_id, S, MS)
            case _:
                names.add(bundle(nick, who, session=rng.choice((0, 9))), S, MS)
        for one in names.known:
            of_nick = [other for other in names.known if names.nick(other) == names.nick(one)]
            assert names.name(one) == full_name(names.nick(one), one, of_nick)


def test_live_people_are_meant_before_those_who_are_away() -> None:
    here, away = person(0x1111), person(0x2222)
    names = roster(bundle("bob", here), known={away: Person("bob", MS)})
    assert names.find("bob") == [here]
    assert names.find("bob#2222") == [away]
    names.remove(bundle("bob", here).session_id, S, MS)
    assert sorted(names.find("bob")) == [here, away]


def test_nick_is_found_in_any_unicode_form() -> None:
    rene = person(0x1111)
    assert roster(bundle("Ren\u00e9", rene)).find("Rene\u0301") == [rene]


def test_stranger_is_found_only_where_strangers_are_meant() -> None:
    stranger = person(0xBEEF)
    assert roster().find("#beef") == []
    for name in ("#beef", "?#beef"):
        assert roster().find(name, [stranger]) == [stranger]


# --------------------------------------------------------------------------- known


def crowd(size: int, first: int = 1) -> dict[bytes, Person]:
    """Each seen a millisecond after the one before."""
    return {person(n): Person(f"n{n}", MS - 100_000 + n) for n in range(first, first + size)}


def test_known_are_the_latest_seen_up_to_an_audience() -> None:
    names = roster(known=crowd(MAX_AUDIENCE - 1))
    assert len(names.known) == MAX_AUDIENCE
    assert names.add(bundle("new", person(60_000)), S, MS) == [person(1)]
    assert len(names.known) == MAX_AUDIENCE
    assert names.add(bundle("newer", person(60_001), 2), S, MS) == [person(2)]
    assert person(3) in names.known
    assert OUR in names.known


def test_known_from_memory_are_bounded_too_whatever_their_order() -> None:
    shuffled = dict(reversed(crowd(MAX_AUDIENCE + 10).items()))
    names = roster(known=shuffled)
    assert len(names.known) == MAX_AUDIENCE
    assert OUR in names.known
    gone = [n for n in range(1, MAX_AUDIENCE + 11) if person(n) not in names.known]
    assert gone == list(range(1, 12))


def test_live_member_is_never_forgotten_however_long_ago_it_came() -> None:
    first = bundle("first", person(65_000), 2)
    names = roster(first, known=crowd(MAX_AUDIENCE - 2))
    for n in range(3, 20):
        names.add(bundle("more", person(60_000 + n), n), S, MS)
        names.remove(n.to_bytes(16, "big"), S, MS)
    assert len(names.known) == MAX_AUDIENCE
    assert first.fingerprint in names.known


def test_being_gone_counts_as_seen() -> None:
    names = roster(bundle("bob", person(1)), bundle("carol", person(2), 2))
    names.remove(bundle("bob", person(1)).session_id, S, MS + 5)
    assert list(names.known)[-1] == person(1)
    assert names.known[person(1)].last_seen_ms == MS + 5


def test_live_members_are_no_more_than_an_audience_can_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MAX_LIVE == MAX_AUDIENCE - 1
    monkeypatch.setattr(chat_roster, "MAX_LIVE", 2)
    names = roster(bundle("bob", person(1)))
    assert not names.is_full
    names.add(bundle("carol", person(2), 2), S, MS)
    assert names.is_full


# --------------------------------------------------------------------------- digests and presence


def test_digest_covers_us_and_every_live_session() -> None:
    bob, carol = bundle("bob", person(1), 2), bundle("carol", person(2), 3)
    names = roster(bob)
    assert names.digest() == roster_digest([names.our, bob])
    names.add(carol, S, MS)
    assert names.digest() == roster_digest([carol, bob, names.our])
    names.remove(bob.session_id, S, MS)
    assert names.digest() == roster_digest([names.our, carol])
    names.clear(S, MS)
    assert names.digest() == roster_digest([names.our])


def test_member_who_signs_our_roster_is_present() -> None:
    bob = bundle("bob", person(1), 2)
    names = roster(bob)
    assert names.present == set()
    assert not names.saw_digest(bob.session_id, bytes(32), S)
    assert names.present == set()
    assert names.saw_digest(bob.session_id, names.digest(), S)
    assert names.present == {bob.session_id}


def test_digest_of_a_roster_counts_for_sixty_seconds_after_its_end() -> None:
    bob, carol = bundle("bob", person(1), 2), bundle("carol", person(2), 3)
    names = roster(bob)
    old = names.digest()
    names.add(carol, S, MS)
    assert not names.saw_digest(bob.session_id, old, S + 60.5)
    assert names.present == set()
    assert names.saw_digest(bob.session_id, old, S + 60.0)
    assert names.present == {bob.session_id}


def test_digest_of_a_roster_that_never_was_says_nothing() -> None:
    bob, ghost = bundle("bob", person(1), 2), bundle("ghost", person(2), 3)
    names = roster(bob)
    assert not names.saw_digest(bob.session_id, roster_digest([names.our, bob, ghost]), S)
    assert not names.saw_digest(bob.session_id, roster_digest([bob]), S)


def test_only_a_live_member_is_present_and_only_while_it_is_live() -> None:
    bob = bundle("bob", person(1), 2)
    names = roster(bob)
    names.saw_digest(bob.session_id, names.digest(), S)
    names.remove(bob.session_id, S, MS)
    assert names.present == set()
    assert names.saw_digest(bob.session_id, names.digest(), S)
    assert names.present == set()
    names.add(bob, S, MS)
    names.saw_digest(bob.session_id, names.digest(), S)
    names.clear(S, MS)
    assert (names.present, names.live) == (set(), {})


def test_unknown_session_cannot_be_removed() -> None:
    assert roster().remove(bytes(16), S, MS) is None
