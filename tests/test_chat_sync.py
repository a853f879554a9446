"""chat_sync: whom a session asks for what it lacks, how often, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import make_vectors_messages as reference
import pytest

import chat_sync
from chat_effects import Effects, Transmit
from chat_heard import Feed, Seqs
from chat_memory import TOLD_TABLE
from chat_messages import Bundle, Sync, parse_payload
from chat_pins import Pins
from chat_roster import Roster
from chat_sync import CatchingUp
from chat_sync_bodies import MAX_RANGES, Ask, Fetch, Gained, Range
from chat_wire import Direct, Frame, u64
from crypto_utils import IdentityPublic, RoomSecret, SigningKey

TAG = reference.TAG
PAIR = b"pair".ljust(16)
U64 = 2**64 - 1
OURS = Bundle.parse(reference.ALICES, RoomSecret(reference.ROOM))
STEP_S = 0.05


def who(number: int) -> bytes:
    """Of member `number`, the session_id."""
    return b"member %8d." % number


def bundle(number: int, person: int | None = None, chain: int | None = None) -> Bundle:
    """Of member `number`, with a key that exists to be sealed to."""
    identity = SimpleNamespace(fingerprint=u64(number if person is None else person) * 4)
    return replace(
        OURS,
        identity=cast(IdentityPublic, identity),
        nick=f"m{number}",
        session_id=who(number),
        chain_id=u64(number if chain is None else chain) * 2,
    )


def feed(number: int, tag: bytes = TAG) -> Feed:
    return (tag, who(number))


Asked = tuple[int, Ask | Fetch]


class Asking:
    """A session that catches up, with what it holds, and the members that it asks."""

    def __init__(self, members: int = 0, told: dict[bytes, bytes] | None = None) -> None:
        self.roster = Roster(OURS, {}, 0, Pins())
        self.held: dict[Feed, set[int]] = {}
        key = SigningKey(reference.ALICE.ssk.seed)
        self.it = CatchingUp(key, self.roster, told or {}, self.unheld)
        self.now_s = 1000.0
        self.open: dict[bytes, Asked] = {}  # by request_id: the questions that nobody answered
        self.asked: list[Asked] = []
        self.given_up: list[Feed] = []
        self.bundles: dict[int, Bundle] = {}
        self.is_silent: Callable[[int, Ask | Fetch], bool] = lambda number, question: False
        for number in range(1, members + 1):
            self.comes(number)

    def unheld(self, feed: Feed, seqs: Seqs) -> list[Seqs]:
        parts, first = [], seqs[0]
        for seq in sorted(s for s in self.held.get(feed, ()) if seqs[0] <= s <= seqs[1]):
            if first < seq:
                parts.append((first, seq - 1))
            first = seq + 1
        return [*parts, (first, seqs[1])] if first <= seqs[1] else parts

    def comes(self, number: int, person: int | None = None, chain: int | None = None) -> None:
        self.bundles[number] = bundle(number, person, chain)
        self.roster.add(self.bundles[number], self.now_s, 0)

    def goes(self, number: int) -> None:
        self.roster.remove(who(number), self.now_s, 0)
        self.it.left([who(number)])
        self.open = {r: asked for r, asked in self.open.items() if asked[0] != number}

    def hears(self, number: int, head: int, *, is_next: bool = False) -> None:
        self.it.heard(self.bundles[number], head, self.now_s, is_next=is_next)

    def lacks(self, feed: Feed, *seqs: Seqs, by: int, **how: Any) -> bool:
        return self.it.lack(feed, seqs, who(by), self.now_s, **how)

    def due(self) -> list[Asked]:
        effects, given_up = self.it.due(self.now_s)
        self.given_up += given_up
        return self._sent(effects)

    def _sent(self, effects: Effects) -> list[Asked]:
        sent = []
        for effect in effects:
            assert isinstance(effect, Transmit)
            direct = Direct.parse(Frame(effect.frame).body)
            sync = parse_payload(direct.payload)
            assert isinstance(sync, Sync)
            assert sync.recipient == direct.session_id
            (number,) = [n for n in self.bundles if who(n) == sync.recipient]
            question = self.it._open[sync.request_id].question
            self.open[sync.request_id] = (number, question)
            sent.append((number, question))
        self.asked += sent
        return sent

    def passes(
        self, seconds: float, answer: Callable[[Asking, int, Any], None] | None = None
    ) -> list[Asked]:
        """So long, each question answered at once by `answer`, or never; what was asked."""
        before = len(self.asked)
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += STEP_S
            self.due()
            assert len(self.it._open) <= 4
            open_now = [asked.session_id for asked in self.it._open.values()]
            assert len(open_now) == len({*open_now})
            if answer is not None:
                for request_id, (number, question) in list(self.open.items()):
                    del self.open[request_id]
                    if self.is_silent(number, question):
                        continue
                    if self.it.answered(who(number), request_id) is not None:
                        answer(self, number, question)
        return self.asked[before:]

    # ----- answers

    def gained(
        self, number: int, question: Ask, upto: int, *ranges: Range, more: bool = False
    ) -> None:
        """As a session takes it in."""
        gained, is_all = Gained(upto, more, ranges), True
        for tag, session_id, first, last in ranges:
            if is_all and (lacking := self.unheld((tag, session_id), (first, last))):
                is_all = self.lacks((tag, session_id), *lacking, by=number, is_sure=True)
        self.it.told(self.bundles[number], question, gained, self.now_s, is_all=is_all)

    def gives(
        self, number: int, question: Fetch, has: dict[Feed, set[int]], most: int = 1000
    ) -> None:
        """What of it stands in `has`, at most so many."""
        done = []
        for tag, session_id, first, last in question.ranges:
            there = sorted(s for s in has.get((tag, session_id), ()) if first <= s <= last)
            taken, most = there[:most], max(0, most - len(there))
            if taken:
                self.held.setdefault((tag, session_id), set()).update(taken)
            done.append(last if len(taken) == len(there) else taken[-1] if taken else first - 1)
        self.it.dealt_with(question, done, who(number))


def nothing(asking: Asking, number: int, question: Ask | Fetch) -> None:
    if isinstance(question, Ask):
        asking.gained(number, question, question.since + 1)
    else:
        asking.gives(number, question, {})


def nothing_but(*ranges: Range) -> Callable[[Asking, int, Ask | Fetch], None]:
    def answer(asking: Asking, number: int, question: Ask | Fetch) -> None:
        if isinstance(question, Ask):
            asking.gained(number, question, 7, *ranges)
        else:
            nothing(asking, number, question)

    return answer


# ------------------------------------------------------------------------------------------------
# what came of looking hard


def test_who_deals_with_nothing_is_asked_once_and_it_is_given_up() -> None:
    asking = Asking(2)
    asking.lacks(feed(9), (1, 3), by=1, is_sure=True)

    def answer(asking: Asking, number: int, question: Ask | Fetch) -> None:
        if isinstance(question, Ask):
            asking.gained(number, question, 5)
        else:
            done = [its.first - 1 for its in question.ranges]
            asking.it.dealt_with(question, done, who(number))

    asked = asking.passes(4, answer)
    assert sorted(number for number, question in asked if isinstance(question, Fetch)) == [1, 2]
    assert asking.given_up == [feed(9)]


def test_all_that_one_does_not_have_of_a_feed_is_denied_at_once() -> None:
    asking = Asking(2)
    holes = tuple((seq, seq) for seq in range(1, 40, 2))
    asking.lacks(feed(9), *holes, by=1, is_sure=True)
    asked = asking.passes(9, nothing)
    assert sorted(number for number, question in asked if isinstance(question, Fetch)) == [1, 2]
    assert asking.given_up == [feed(9)]


def told_of(asking: Asking, number: int) -> int:
    return asking.it._told.get(chat_sync._chain(asking.bundles[number]), 0)


def kept_of(asking: Asking, number: int) -> bytes | None:
    key = TAG + chat_sync._chain(asking.bundles[number])
    rows = {row.key: row.value for row in asking.it.rows() if row.table == TOLD_TABLE}
    return rows.get(key)


class Holder:
    """A member whose chain has these entries, each in a block; it answers as an archive does."""

    def __init__(self, entries: dict[Feed, set[int]]) -> None:
        self.entries = entries

    def ranges(self) -> list[Range]:
        found = []
        for (tag, session_id), seqs in self.entries.items():
            for seq in sorted(seqs):
                found.append(Range(tag, session_id, seq, seq))
        return found

    def __call__(self, asking: Asking, number: int, question: Ask | Fetch) -> None:
        if isinstance(question, Fetch):
            asking.gives(number, question, self.entries, 100)
            return
        at = question.since  # each range is a block
        page = self.ranges()[at : at + MAX_RANGES]
        upto, head = at + len(page), len(self.ranges())
        asking.gained(number, question, upto, *page, more=upto < head)


@pytest.mark.parametrize("feeds", [1, 40])
def test_whatever_one_member_names_in_many_ranges_is_fetched(feeds: int) -> None:
    entries = {feed(100 + n): {*range(1, 2 * 700 // feeds, 2)} for n in range(feeds)}
    asking = Asking(1)
    asking.hears(1, 700)
    asking.passes(60, Holder(entries))
    assert asking.held == entries
    assert told_of(asking, 1) == len(Holder(entries).ranges())


def test_what_there_was_no_room_for_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_sync, "_MAX_LACKS", 4)
    entries = {feed(100 + n): {1, 2, 3} for n in range(20)}
    asking = Asking(1)
    asking.hears(1, 60)
    asking.passes(120, Holder(entries))
    assert asking.held == entries
    assert told_of(asking, 1) == 60


def test_who_names_feeds_without_end_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And never answers when it is asked for them."""
    monkeypatch.setattr(chat_sync, "_MAX_LACKS", 64)
    honest, made_up = Holder({feed(100): {1, 2, 3}}), iter(range(1000, 10**9))
    asking = Asking(2)
    asking.is_silent = lambda number, question: number == 1 and isinstance(question, Fetch)

    def answer(asking: Asking, number: int, question: Ask | Fetch) -> None:
        if number == 2:
            honest(asking, number, question)
        else:
            assert isinstance(question, Ask)
            ranges = [Range(*feed(next(made_up)), 1, U64) for _ in range(MAX_RANGES)]
            asking.gained(1, question, question.since + 1, *ranges, more=True)

    asking.hears(1, 10)
    asking.passes(3, answer)
    asking.hears(2, 3)
    asking.passes(20, answer)
    assert asking.held == honest.entries
    assert len(asking.it._lacks) <= 64


def test_what_is_lacked_of_many_feeds_takes_no_time_in_a_large_room() -> None:
    """Of 1,000 who may be asked, no more are looked at for each feed than it takes to find one."""
    asking, looked_at = Asking(1000), 0

    class Counting(dict[bytes, Bundle]):
        def __contains__(self, key: object) -> bool:
            nonlocal looked_at
            looked_at += 1
            return super().__contains__(key)

    for number in range(1000):
        asking.lacks(feed(2000 + number), (1, U64), by=1 + number % 7, is_sure=True)
    asking.roster.live = Counting(asking.roster.live)
    asking.due()
    assert looked_at < 5000


# ------------------------------------------------------------------------------------------------
# how much at once, how often


def fetched(asked: list[Asked]) -> list[int]:
    return [number for number, question in asked if isinstance(question, Fetch)]


def test_at_most_four_are_open_each_to_another_and_each_for_5_s() -> None:
    asking = Asking(9)
    for number in range(1, 10):
        asking.hears(number, 7)
    first = asking.passes(1)
    assert len({number for number, _ in first}) == len(first) == 4
    asked_s = asking.now_s - 1
    asking.passes(3.9)
    assert len(asking.asked) == 4
    second = asking.passes(1)
    assert len(asking.asked) == 8
    assert not {number for number, _ in first} & {number for number, _ in second}
    assert asking.now_s - asked_s < 6.1


def test_answer_after_5_s_is_to_no_question_and_who_was_silent_is_asked_10_s_later() -> None:
    asking = Asking(1)
    asking.hears(1, 7)
    asking.passes(5.2)
    ((request_id, (number, _)),) = asking.open.items()
    assert asking.it.answered(who(number), request_id) is None
    assert len(asking.passes(9)) == 0
    assert len(asking.passes(1.2)) == 1


def test_only_who_was_asked_answers_and_once() -> None:
    asking = Asking(2)
    asking.hears(1, 7)
    ((number, question),) = asking.due()
    (request_id,) = asking.open
    assert (number, question) == (1, Ask(0))
    assert asking.it.answered(who(2), request_id) is None
    assert asking.it.answered(who(1), bytes(16)) is None
    assert asking.it.answered(who(1), request_id) == question
    assert asking.it.answered(who(1), request_id) is None


def moments(asking: Asking, seconds: float) -> list[tuple[float, int]]:
    """When whom was asked, everybody answering at once."""
    found, end_s = [], asking.now_s + seconds
    while asking.now_s < end_s:
        asking.now_s += 0.01
        for request_id, (number, question) in [
            (r, asked) for r, asked in asking.open.items() if asking.it.answered(who(asked[0]), r)
        ]:
            del asking.open[request_id]
            nothing(asking, number, question)
        found += [(asking.now_s, number) for number, _ in asking.due()]
    return found


@pytest.mark.parametrize(("members", "pace_s"), [(30, 0.05), (500, 0.2), (1200, 0.4)])
def test_two_questions_are_as_far_apart_as_the_room_is_large(members: int, pace_s: float) -> None:
    asking = Asking(members)
    for number in range(1, 31):
        asking.hears(number, 7)
    at = [at_s for at_s, _ in moments(asking, 3)]
    gaps = [later - before for before, later in pairwise(at)]
    assert min(gaps) > pace_s - 0.001
    assert len(at) >= min(30, 2.9 / (pace_s + 0.011))


def test_two_questions_to_one_member_are_a_quarter_second_apart() -> None:
    asking, pages = Asking(1), 8
    asking.hears(1, pages)
    at: list[float] = []
    while asking.now_s < 1004:
        asking.now_s += 0.01
        for request_id, (number, question) in list(asking.open.items()):
            del asking.open[request_id]
            assert isinstance(question, Ask)
            assert asking.it.answered(who(number), request_id)
            more = question.since + 1 < pages
            asking.gained(number, question, question.since + 1, more=more)
        at += [asking.now_s for _ in asking.due()]
    assert len(at) == pages
    assert min(later - before for before, later in pairwise(at)) > 0.249


def test_one_member_gets_8_answers_at_once_then_4_a_second_and_all_together_32_then_10() -> None:
    asking = Asking(20)
    assert [asking.it.may_answer(who(1), 0.0) for _ in range(10)] == [True] * 8 + [False] * 2
    a_second = [asking.it.may_answer(who(1), 1 + n / 100) for n in range(100)]
    assert sum(a_second) in (7, 8)
    asking = Asking(20)
    at_once = [asking.it.may_answer(who(n), 0.0) for n in range(1, 21) for _ in range(8)]
    assert sum(at_once) == 32
    later = [asking.it.may_answer(who(n), 1.0) for n in range(1, 21)]
    assert sum(later) == 10


# ------------------------------------------------------------------------------------------------
# who is asked


def test_of_1000_each_is_asked_at_most_once_by_the_one_who_returns() -> None:
    entries = {feed(n): {1, 2, 3} for n in range(1, 1000, 10)}
    asking, holder = Asking(1000), Holder(entries)
    asking.hears(1, len(holder.ranges()))
    asked = asking.passes(60, holder)
    for number in range(2, 1001):
        asking.hears(number, len(holder.ranges()))
    asked += asking.passes(450, holder)
    asks = [number for number, question in asked if isinstance(question, Ask)]
    assert sorted(asks) == [*range(1, 1001)]
    assert asking.held == entries
    assert fetched(asked) == [1] * len(fetched(asked))  # who told of it first had it all
    assert len(fetched(asked)) <= 2 + 3 * len(entries) / 100
    assert asking.passes(60, holder) == []


def test_nobody_is_asked_whose_chain_gained_nothing() -> None:
    asking = Asking(2)
    asking.hears(1, 7)
    asking.passes(1, nothing_but())
    rows = {row.key: row.value for row in asking.it.rows()}
    again = Asking(2, rows)
    again.hears(1, 7)
    again.hears(1, 6)
    assert again.passes(60) == []
    again.hears(1, 8)
    assert again.passes(1) == [(1, Ask(7))]
    elsewhere = Asking(2, {b"another room    " + key[16:]: value for key, value in rows.items()})
    elsewhere.hears(1, 7)
    assert elsewhere.passes(1) == [(1, Ask(0))]


def test_acks_that_follow_each_other_tell_all_that_a_chain_gains() -> None:
    asking = Asking(1)
    asking.hears(1, 7, is_next=True)  # the first one: what was before it is not known
    assert asking.passes(1, nothing_but()) == [(1, Ask(0))]
    asking.hears(1, 9, is_next=True)
    assert asking.passes(60) == []
    assert told_of(asking, 1) == 9
    asking.hears(1, 12)  # one between was lost
    assert asking.passes(1) == [(1, Ask(9))]


def test_those_who_listed_it_are_asked_first_and_the_latest_of_them_first() -> None:
    asking = Asking(9)
    asking.lacks(feed(9), (1, 1), by=2)
    for number in (3, 5, 4, 6, 7, 8):
        asking.lacks(feed(9), (1, 1), by=number, is_sure=True)
    assert fetched(asking.passes(20, nothing))[:6] == [8, 7, 6, 4, 5, 3]


def test_then_who_showed_it_then_its_author_then_others_four_in_all() -> None:
    asking = Asking(9)
    asking.lacks(feed(9), (1, 1), by=2)
    asking.lacks(feed(9), (1, 1), by=3)
    assert fetched(asking.passes(20, nothing))[:4] == [3, 2, 9, 1]
    assert asking.given_up == [feed(9)]


def test_what_two_say_in_private_is_asked_of_the_other_one_alone() -> None:
    asking = Asking(4)
    asking.comes(5, person=2)  # a second run of member 2's person
    asking.lacks(feed(9, PAIR), (1, 1), by=2, is_sure=True)
    assert fetched(asking.passes(20, nothing)) == [2, 5]
    assert asking.given_up == [feed(9, PAIR)]


def test_our_own_other_run_is_asked_for_nothing() -> None:
    asking = Asking(0)
    asking.bundles[1] = replace(OURS, session_id=who(1))
    asking.roster.add(asking.bundles[1], asking.now_s, 0)
    asking.lacks(feed(9), (1, 1), by=1, is_sure=True)
    assert asking.passes(5) == []
    assert asking.given_up == [feed(9)]


def test_what_may_still_come_by_itself_is_waited_for() -> None:
    asking = Asking(1)
    asking.lacks(feed(9), (1, 3), by=1, within_s=10)
    assert asking.passes(9.9) == []
    asking.held[feed(9)] = {1, 3}
    assert asking.passes(0.3) == [(1, Fetch((Range(*feed(9), 2, 2),)))]
    other = Asking(1)
    other.lacks(feed(9), (1, 3), by=1, within_s=10)
    other.held[feed(9)] = {1, 2, 3}
    assert other.passes(20) == []
    assert other.it.is_idle(other.now_s)


def test_lacks_of_many_feeds_are_one_question_of_at_most_512_ranges() -> None:
    asking = Asking(1)
    for number in range(100, 800):
        asking.lacks(feed(number), (1, 1), by=1, is_sure=True)
    first, second = [question for _, question in asking.passes(1, nothing)][:2]
    assert isinstance(first, Fetch)
    assert isinstance(second, Fetch)
    assert (len(first.ranges), len(second.ranges)) == (512, 700 - 512)


def test_who_is_gone_is_asked_no_more_and_another_is_at_once() -> None:
    asking = Asking(2)
    asking.lacks(feed(9), (1, 1), by=1, is_sure=True)
    assert asking.passes(0.1) == [(1, Fetch((Range(*feed(9), 1, 1),)))]
    asking.hears(1, 7)
    asking.goes(1)
    assert fetched(asking.passes(0.2)) == [2]
    assert [number for number, _ in asking.passes(30)] == [2, 2]
    assert not asking.given_up


def test_member_that_disputes_an_entry_is_asked_for_it_once() -> None:
    asking = Asking(2)
    asking.held[feed(9)] = {1, 2}
    asking.it.dispute(feed(9), 2, who(1))
    asking.it.dispute(feed(9), 2, who(1))
    assert asking.passes(20, nothing) == [(1, Fetch((Range(*feed(9), 2, 2),)))]
    asking.it.dispute(feed(9), 2, who(2))
    asking.goes(2)
    assert asking.passes(20) == []


# ------------------------------------------------------------------------------------------------
# nobody has it, and what is kept


def test_what_nobody_has_is_told_again_by_who_did_not_take_it_back() -> None:
    """Member 1 listed it and left; 3 listed it and has nothing of it after all."""
    asking = Asking(3)
    lists = nothing_but(Range(*feed(9), 1, 1))
    for number in (1, 3):
        asking.is_silent = lambda _number, question: isinstance(question, Fetch)
        asking.hears(number, 7)
        asking.passes(0.3, lists)
    asking.goes(1)
    asking.is_silent = lambda _number, _question: False
    asking.passes(30, nothing)
    assert asking.given_up == [feed(9)]
    assert (told_of(asking, 1), told_of(asking, 3)) == (0, 7)
    asking.comes(1)
    asking.hears(1, 7)
    assert asking.passes(1, lists)[0] == (1, Ask(0))


def test_acks_alone_bring_no_question_for_10_s_then_20_and_so_on_to_640() -> None:
    asking, waits = Asking(1), []
    for _ in range(9):
        before = asking.now_s
        while not asking.lacks(feed(9), (1, 1), by=1):
            asking.now_s += 1
        waits.append(asking.now_s - before)
        asking.passes(0.5, nothing)
    assert waits[0] == 0
    for wait, expected in zip(waits[1:], (10, 20, 40, 80, 160, 320, 640, 640), strict=True):
        assert expected - 2 <= wait < expected + 0.1
    assert asking.lacks(feed(9), (1, 1), by=1, is_sure=True)  # who lists it is believed at once


def test_silence_alone_gives_nothing_up() -> None:
    asking = Asking(2)
    asking.lacks(feed(9), (1, 1), by=1, is_sure=True)
    assert len(fetched(asking.passes(60))) >= 4
    assert not asking.given_up
    asking.passes(60, nothing)
    assert asking.given_up == [feed(9)]


def test_who_says_later_is_asked_again_after_a_minute() -> None:
    asking = Asking(1)
    asking.hears(1, 7)
    ((number, question),) = asking.due()
    asking.it.answered(who(number), next(iter(asking.open)))
    asking.it.ask_later(who(1), question, asking.now_s)
    assert asking.passes(59.8) == []
    assert asking.passes(0.5) == [(1, Ask(0))]


def test_what_one_was_told_of_is_kept_when_nothing_of_it_is_lacking() -> None:
    asking, entries = Asking(1), {feed(9): {1, 2, 3}}
    asking.is_silent = lambda _number, question: isinstance(question, Fetch)
    asking.hears(1, 3)
    asking.passes(2, Holder(entries))
    assert told_of(asking, 1) == 3
    assert asking.it.rows() == []
    asking.is_silent = lambda _number, _question: False
    asking.passes(30, Holder(entries))
    assert kept_of(asking, 1) == u64(3)
    assert asking.it.rows() == []


def test_when_we_believe_others_all_are_asked_from_the_beginning() -> None:
    asking = Asking(2)
    asking.hears(1, 7)
    asking.passes(1, nothing_but())
    assert kept_of(asking, 1) == u64(7)
    asking.it.start_over(asking.now_s)
    assert kept_of(asking, 1) == b""
    assert sorted(asking.passes(1, nothing_but())) == [(1, Ask(0)), (2, Ask(0))]


# ------------------------------------------------------------------------------------------------
# bounds


def test_chains_without_end_are_forgotten_in_turn_and_ours_are_kept_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_sync, "_MAX_TOLD", 8)
    asking = Asking(0)
    kept: dict[bytes, bytes] = {}
    for number in range(1, 30):
        asking.comes(number, person=1)
        asking.hears(number, 7)
        asking.passes(0.3, nothing_but())
        kept |= {row.key: row.value for row in asking.it.rows()}
        asking.goes(number)
    assert len(asking.it._told) == 8
    assert sum(bool(value) for value in kept.values()) == 8


def test_ranges_without_end_are_one() -> None:
    asking = Asking(1)
    for n in range(600):
        asking.lacks(feed(9), (3 * n + 1, 3 * n + 1), by=1)
    assert len(asking.it._lacks[feed(9)].seqs) <= 256
    asking.passes(30, Holder({feed(9): {*range(1, 1800, 3)}}))
    assert asking.held[feed(9)] == {*range(1, 1800, 3)}


def test_heads_without_end_are_one_question() -> None:
    asking = Asking(1)
    for head in range(1, 5000):
        asking.hears(1, head)
    asking.hears(1, U64)
    assert asking.passes(4) == [(1, Ask(0))]


def test_whoever_shows_a_feed_in_turn_is_not_remembered_for_ever() -> None:
    asking = Asking(0)
    for number in range(1, 100):
        asking.comes(number)
        asking.lacks(feed(9), (1, 1), by=number)
        asking.lacks(feed(9), (1, 1), by=number, is_sure=True)
        asking.goes(number)
    lack = asking.it._lacks[feed(9)]
    assert len(lack.shown_by) <= 4
    assert len(lack.listed_by) <= 2
