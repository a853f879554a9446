"""chat_sync: whom a session asks for what it lacks, how often, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import make_vectors_messages as reference
import pytest

import chat_sync
from chat_effects import Effects, Transmit
from chat_memory import TOLD_TABLE
from chat_messages import Bundle, Sync, parse_payload
from chat_pins import Pins
from chat_roster import Roster
from chat_sync import CatchingUp, Feed, Seqs
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
