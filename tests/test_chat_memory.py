"""chat_memory: what a chain says of others, whole or gone on with from any block of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_room import LOBBY, keystore, session_keys

import chat_memory
import chat_pins
from chat_memory import (
    FEED_LIFE_MS,
    MAX_FEEDS,
    Incomplete,
    Memory,
    Past,
    kept_members,
    kept_of,
    who,
)
from chat_messages import Bundle, Entry, EntryKind, Event, EventKind
from chat_pins import Pins
from chat_wire import Malformed, WireError, prefixed, u64
from crypto_utils import SigningKey

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
TAGS = (LOBBY.tag, b"p" * 16)
SESSIONS = 3


@cache
def session(number: int) -> tuple[SigningKey, Bundle]:
    """One of few: a bundle takes an RSA signature."""
    key, keys = SigningKey(bytes((number,)) * 32), keystore("bob")
    sek = session_keys("everybody", 0).get_public_key()
    chain = (keys.chain_id, keys.chain_signing_key.public)
    bundle = Bundle.create(keys.identity, LOBBY, "bob", key, 1, sek, *chain)
    return key, bundle


def entry(number: int, seq: int, tag: bytes = LOBBY.tag, text: bytes = b"hello") -> Entry:
    kind = EntryKind.AUDIENCE if text == b"a" * 16 else EntryKind.CHAT
    session_id = session(number)[1].session_id
    return Entry(kind, tag, session_id, seq, bytes(32), bytes(32), 5, b"s" * 16, text)


Step = Callable[[Past | Memory], object]  # a block, told to one of them


@dataclass
class Story:
    """Blocks of a chain as they are told, each with its time."""

    steps: list[tuple[int, Step]] = field(default_factory=list)
    now_ms: int = NOW_MS
    said: dict[tuple[int, bytes], int] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)
    meets_again: bool = False

    def tell(self, step: Step) -> None:
        self.steps.append((self.now_ms, step))

    def wait(self, days: int) -> None:
        self.now_ms += days * DAY_MS

    def meet(self, number: int) -> None:
        self.meets_again |= number in self.met
        self.met.add(number)
        event = Event(EventKind.BUNDLE, session(number)[1].raw)
        self.tell(lambda teller: teller.read_event(event))

    def say(self, number: int, which: int, step: int, text: bytes) -> None:
        """The next entry of a feed, or behind a gap, or one that had been missing."""
        if number not in self.met:
            self.meet(number)
        tag = TAGS[which]
        last = self.said.get((number, tag), 0)
        seq = max(1, last + step)
        self.said[number, tag] = max(last, seq)
        said, at_ms = entry(number, seq, tag, text), self.now_ms
        self.tell(lambda teller: teller.read_received(said, at_ms))

    def pin(self, number: int, nick: str) -> None:
        """That session's person is met under a nick."""
        event = Event(EventKind.PIN, bytes((number,)) * 32 + nick.encode())
        self.tell(lambda teller: teller.read_event(event))

    def fork(self, number: int, which: int) -> None:
        """Another entry is found in the place of the first."""
        if (number, TAGS[which]) not in self.said:
            return
        signed = entry(number, 1, TAGS[which], b"another").sign(session(number)[0])
        event = Event(EventKind.FORK, kept_of(signed.serialize()))
        self.tell(lambda teller: teller.read_event(event))

    def ignore(self, number: int, kind: EventKind) -> None:
        event = Event(kind, bytes((number,)) * 32)
        self.tell(lambda teller: teller.read_event(event))

    def past(self, start: int = 0, end: int | None = None, past: Past | None = None) -> Past:
        told = past or Past()
        for _, step in self.steps[start:end]:
            step(told)
        return told


DECISIONS = (
    EventKind.IGNORE,
    EventKind.UNIGNORE,
    EventKind.VERIFIED,
    EventKind.UNVERIFIED,
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    story = Story()
    for _ in range(draw(st.integers(0, 14))):
        number = draw(st.integers(0, SESSIONS - 1))
        steps = ("say", "say", "say", "say", "wait", "meet", "ignore", "pin", "fork")
        match draw(st.sampled_from(steps)):
            case "say":
                step = draw(st.sampled_from((1, 1, 1, 2, 4, -1, -2)))
                text = draw(st.sampled_from((b"hello", b"a" * 16)))
                story.say(number, draw(st.integers(0, 1)), step, text)
            case "wait":
                story.wait(draw(st.sampled_from((1, 20, 29, 31))))
            case "meet":
                story.meet(number)
            case "fork":
                story.fork(number, draw(st.integers(0, 1)))
            case "pin":
                story.pin(number, draw(st.sampled_from(("bob", "zoë", "b" * 32))))
            case _:
                story.ignore(number, draw(st.sampled_from(DECISIONS)))
    return story


def stays() -> st.SearchStrategy[dict[bytes, bytes]]:
    """Rows of the side table `feeds`."""
    keys = [tag + session(number)[1].session_id for tag in TAGS for number in range(SESSIONS)]
    return st.dictionaries(st.sampled_from(keys), st.integers(1, 12).map(u64))


def taken_over(memory: Memory, now_ms: int) -> tuple[object, ...]:
    """All that a session that begins now makes use of."""
    feeds = memory.feeds_of(set(TAGS), now_ms - FEED_LIFE_MS)
    known = {session_id: memory.recorded.get(session_id) for _, session_id in feeds}
    outdated = [key for key, feed in memory.feeds.items() if feed.noted_first_seq]
    return memory.ignored, memory.pins, feeds, known, sorted(outdated)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories(), stays(), st.data())
def test_gone_on_with_from_any_block_it_is_what_the_whole_chain_says_or_incomplete(
    story: Story, rows: dict[bytes, bytes], data: st.DataObject
) -> None:
    expected = taken_over(story.past().memory(rows), story.now_ms)
    cut = data.draw(st.integers(0, len(story.steps)))
    past = story.past(end=cut)
    then_ms = story.steps[cut - 1][0] if cut else NOW_MS
    past.forget(then_ms - FEED_LIFE_MS)
    resumed = Past.parse(past.serialize())
    assert resumed.serialize() == past.serialize()
    try:
        story.past(cut, past=resumed)
    except Incomplete:
        assert past.serialize()[0], "where nothing was forgotten nothing is missing"
        return
    assert taken_over(resumed.memory(rows), story.now_ms) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories().filter(lambda story: not story.meets_again), stays())
def test_the_side_tables_may_come_before_the_chain_or_after_it(
    story: Story, rows: dict[bytes, bytes]
) -> None:
    memory = Memory()
    for key, value in rows.items():
        memory.read_feed(key, value)
    for _, step in story.steps:
        step(memory)
    assert story.past().memory(rows) == memory


def test_what_was_silent_for_longer_than_a_memory_lasts_is_forgotten_with_its_session() -> None:
    story = Story()
    for number in (0, 1):
        story.say(number, 0, 1, b"hello")
    story.say(1, 1, 1, b"hello")
    story.wait(31)
    story.say(1, 1, 1, b"hello")
    past = story.past()
    past.forget(story.now_ms - FEED_LIFE_MS)
    one, two = (session(number)[1] for number in (0, 1))
    memory = past.memory({})
    assert set(memory.feeds) == {(tag, two.session_id) for tag in TAGS}, "all of a session's"
    assert memory.recorded == {two.session_id: who(two)}
    with pytest.raises(Incomplete):
        past.read_received(entry(0, 2), story.now_ms)
    past = Past.parse(past.serialize())
    past.read_event(Event(EventKind.BUNDLE, one.raw))
    past.read_received(entry(0, 2), story.now_ms)
    assert past.memory({}).feeds[LOBBY.tag, one.session_id].highest == 2


def test_a_session_that_is_introduced_again_begins_anew_as_it_did_for_who_introduced_it() -> None:
    story = Story()
    story.say(0, 0, 1, b"hello")
    story.say(0, 0, 3, b"hello")
    story.meet(0)
    past = story.past()
    assert past.memory({}).feeds == {}
    past.read_received(entry(0, 9), NOW_MS)
    session_id = session(0)[1].session_id
    key = LOBBY.tag + session_id
    feed = past.memory({key: u64(8)}).feeds[LOBBY.tag, session_id]
    assert (feed.highest, feed.report().missing) == (9, (8,))
    assert past.memory({}).feeds[LOBBY.tag, session_id].report().missing == ()


def test_who_told_two_stories_is_remembered_by_the_feed_alone() -> None:
    story = Story()
    for which in (0, 1):
        story.say(0, which, 1, b"hello")
    story.fork(0, 1)
    past = Past.parse(story.past().serialize())
    memory, session_id = past.memory({}), session(0)[1].session_id
    assert [memory.feeds[tag, session_id].is_forked for tag in TAGS] == [False, True]
    past.read_event(Event(EventKind.FORK, b"no head"))
    assert past.serialize() == story.past().serialize()


def test_the_feeds_of_a_memory_are_its_own() -> None:
    story = Story()
    story.say(0, 0, 1, b"hello")
    past = story.past()
    before = past.serialize()
    (feed,) = past.memory({}).feeds.values()
    feed.resume(entry(0, 7), NOW_MS)
    assert past.serialize() == before


PIN_KINDS = (EventKind.PIN, EventKind.PIN, EventKind.VERIFIED, EventKind.UNVERIFIED)


@given(
    st.lists(
        st.tuples(st.sampled_from(PIN_KINDS), st.integers(0, 5), st.sampled_from("abcde")),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_pins_are_the_same_live_and_read_back_from_any_block_however_many_were_forgotten(
    decided: list[tuple[EventKind, int, str]], cut: int
) -> None:
    live, past = Pins(), Past()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_pins, "MAX_PINS", 5)
        patch.setattr(chat_pins, "MAX_NICKS", 3)
        for at, (kind, number, nick) in enumerate(decided):
            if at == cut:
                past = Past.parse(past.serialize())
            person = bytes((number,)) * 32
            match kind:
                case EventKind.PIN:
                    live.pin(nick, person)
                case EventKind.VERIFIED:
                    live.verify(person)
                case _:
                    live.unverify(person)
            past.read_event(Event(kind, person + nick.encode()))
        read = past.memory({}).pins
        assert read == live
        for nick in "abcde":
            assert (read.of(nick), read.look_alikes(nick.upper())) == (
                live.of(nick),
                live.look_alikes(nick.upper()),
            )


def test_an_erased_entry_leaves_no_gap() -> None:
    erased, session_id = entry(0, 2), session(0)[1].session_id
    record = erased.sign(session(0)[0]).serialize()
    for order in ((1, 3, 2), (1, 2)):
        past, whole = Past(), Past()
        for seq in order:
            if seq == 2:
                past.read_forgotten(kept_of(record), NOW_MS + 7)
            else:
                past.read_received(entry(0, seq), NOW_MS)
        for seq in sorted(order):
            whole.read_received(entry(0, seq), NOW_MS + 7 if seq == 2 else NOW_MS)
        assert past.serialize() == whole.serialize()
    Past().read_forgotten(b"", NOW_MS)
    assert past.memory({}).feeds[LOBBY.tag, session_id].last_id == erased.entry_id


@pytest.mark.parametrize("change", [lambda k: k[:-1], lambda k: k + b"x", lambda k: b"\2" + k[1:]])
def test_what_is_no_head_and_signature_was_not_kept_of_an_entry(
    change: Callable[[bytes], bytes],
) -> None:
    kept = kept_of(entry(0, 2).sign(session(0)[0]).serialize())
    with pytest.raises(WireError):
        Past().read_forgotten(change(kept), NOW_MS)


def test_no_more_feeds_are_kept_than_a_room_of_thousands_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat_memory._MAX_PAST_FEEDS >= MAX_FEEDS
    monkeypatch.setattr(chat_memory, "_MAX_PAST_FEEDS", 2)
    past = Past()
    for number in range(3):
        past.read_received(entry(number, 1), NOW_MS + number)
    past.forget(0)
    feeds = past.memory({}).feeds
    assert [session_id for _, session_id in feeds] == [session(n)[1].session_id for n in (1, 2)]


def test_members_of_a_room_who_see_the_same_people_cost_their_list_once() -> None:
    past = Past()
    for number in range(3):
        past.read_received(entry(number, 1, text=b"a" * 16), NOW_MS)
    assert past.serialize().count(b"a" * 16) == 1


def test_of_the_people_met_a_next_chain_is_given_those_seen_last_and_no_damaged_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen(number: int, value: bytes = b"nick") -> tuple[bytes, bytes]:
        return LOBBY.tag + bytes((number,)) * 32, u64(NOW_MS + number) + value

    good = dict(seen(number) for number in range(6)) | dict([seen(6, b"n" * 4 * 32)])
    damaged = dict([seen(9, b""), seen(10, b"n" * 129)])
    damaged |= {b"": u64(1) + b"nick", bytes(47): u64(1) + b"n", bytes(49): u64(1) + b"n"}
    assert kept_members(good | damaged) == good
    assert kept_members({}) == {}
    monkeypatch.setattr(chat_memory, "MAX_KEPT_MEMBERS", 3)
    assert kept_members(good) == dict([seen(4), seen(5), seen(6, b"n" * 4 * 32)])


def good() -> bytes:
    story = Story()
    story.ignore(1, EventKind.IGNORE)
    story.ignore(0, EventKind.VERIFIED)
    story.pin(0, "bob")
    story.say(0, 0, 3, b"a" * 16)
    story.say(0, 1, 1, b"hello")
    return story.past().serialize()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_past_or_refused(data: bytes) -> None:
    try:
        past = Past.parse(data)
    except WireError:
        return
    past.memory({})


def test_a_past_that_was_cut_or_whose_numbers_lead_nowhere_is_refused() -> None:
    data = good()
    assert Past.parse(data).serialize() == data
    for size in range(len(data)):
        with pytest.raises(WireError):
            Past.parse(data[:size])
    with pytest.raises(WireError):
        Past.parse(data + b"x")
    at = data.index(LOBBY.tag) + 16  # the first feed's session
    with pytest.raises(Malformed, match="a feed of no session"):
        Past.parse(data[:at] + b"\xff" + data[at + 1 :])
    known = who(session(0)[1])
    earlier = data.replace(prefixed(known), prefixed(known[:64]))  # as it was noted once
    with pytest.raises(Malformed, match="who a session is"):
        Past.parse(earlier)
