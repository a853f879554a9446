"""Catching up: whom we ask for what we lack, and which of our questions are open.

What lives here: how far each member told us what its chain gained, the entries that we lack, the
questions that wait for an answer, and the pace of asking and answering.  What it does not know:
entries, names, what is shown (`chat_session`), what there is for others (`chat_archive`), clocks.
The session owns it.

    catching_up.heard(bundle, head_index, now_s, is_next=True)    # an ack of a live member
    catching_up.lack((tag, session_id), [(4, 7)], by, now_s)
    effects = catching_up.due(now_s)                              # at least each 100 ms
    question = catching_up.answered(session_id, request_id)       # by what came

Specified in docs/PROTOCOL.md 4.12.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from chat_blocks import SideRow
from chat_effects import Effects, Transmit
from chat_heard import Feed, Seqs
from chat_memory import TOLD_TABLE
from chat_messages import Bundle, Sync
from chat_roster import Roster
from chat_sync_bodies import MAX_RANGES, Ask, Body, Fetch, Gained, Range, serialize_body
from chat_wire import Direct, u64
from crypto_utils import SigningKey, random_bytes

__all__ = ["CatchingUp"]

_CHAIN_BYTES = 32 + 16
_MAX_TOLD = 4096  # chains of a room; the one that was told of longest ago is forgotten
_MAX_OPEN = 4  # questions of ours, each to another member
_ANSWER_WITHIN_S = 5.0
_TRY_AGAIN_S = 10.0  # somebody who did not answer
_ASK_AGAIN_S = 60.0  # somebody who said: later
# Between two questions, so that a room in which all come back at once is not busy with that alone;
# and between two to the same member, who answers no more than that.
_SHORTEST_PACE_S, _LONGEST_PACE_S = 0.05, 0.4
_PACE_PER_MEMBER_S = 0.0004
_SAME_PACE_S = 0.25
# What we answer: pages of 48 KiB, so that the relay's limit of 1 MiB/s leaves room for what we say.
_ANSWERS_BURST, _ANSWERS_PER_S = 8, 4.0  # to one member
_ALL_ANSWERS_BURST, _ALL_ANSWERS_PER_S = 32, 10.0
_MAX_LACKS = 4096  # feeds of which we lack something
_MAX_SEQS = 256  # ranges of one feed; more are joined
_MOST_TRIED = 4  # members that did not say that it is for us, before a feed is given up
# How long a feed is left alone of which nobody had anything for us; doubled each time.
_DENIED_S, _LONGEST_DENIED_S = 10.0, 640.0


class _Bucket:
    """So many at once, and so many a second."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at_s = burst, -math.inf

    def take(self, now_s: float) -> bool:
        """Whether one more is allowed."""
        if self._at_s > -math.inf:
            earned = max(0.0, now_s - self._at_s) * self._per_s
            self._tokens = min(self._burst, self._tokens + earned)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Open(NamedTuple):
    session_id: bytes  # who was asked
    question: Ask | Fetch
    asked_s: float


@dataclass
class _Lack:
    """What we lack of one feed."""

    person: bytes  # fingerprint of who told us of it first: in a pair, of the other one
    seqs: list[Seqs] = field(default_factory=list)
    denied: list[Seqs] = field(default_factory=list)  # by whom we are asking now
    shown_by: dict[bytes, None] = field(default_factory=dict)  # session_ids, the latest last
    listed_by: dict[bytes, None] = field(default_factory=dict)  # those who said that it is for us
    # Chains of those who told us of it, and up to where they had told before.
    told_by: dict[bytes, int] = field(default_factory=dict)
    tried: set[bytes] = field(default_factory=set)  # session_ids
    is_unanswered: bool = False  # by one of those
    due_s: float = math.inf
    is_asked: bool = False  # a question for it is open
    denials: int = 0
    left_alone_until_s: float = -math.inf


class CatchingUp:
    """One session's questions to the other members, and how many of theirs it answers."""

    def __init__(
        self,
        key: SigningKey,
        roster: Roster,
        told: Mapping[bytes, bytes],
        unheld: Callable[[Feed, Seqs], list[Seqs]],
    ) -> None:
        """The roster is the session's.

        Args:
            key: our SSK.
            told: the side table.
            unheld: what of a range is not on our chain.
        """
        self._key = key
        self._unheld = unheld
        self._roster = roster
        self._session_id = roster.our.session_id
        self._room_tag = roster.our.room_tag
        # By chain (`_chain`); the latest last.
        self._told = {
            k[16:]: int.from_bytes(value, "big")
            for k, value in told.items()
            if k[:16] == self._room_tag and len(k) == 16 + _CHAIN_BYTES and len(value) == 8
        }
        self._unkept: set[bytes] = set()  # chains of which the side table says something else
        # Session_ids of live members whose acks tell us all that their chains gain.
        self._following: set[bytes] = set()
        self._asks: dict[bytes, float] = {}  # by session_id: when it is to be asked
        self._lacks: dict[Feed, _Lack] = {}
        self._disputed: dict[bytes, Range] = {}  # by session_id: what it has, and we have another
        self._open: dict[bytes, _Open] = {}  # by request_id
        self._next_s = -math.inf
        self._next_to: dict[bytes, float] = {}  # by session_id
        self._answers: dict[bytes, _Bucket] = {}  # by session_id of live members
        self._all_answers = _Bucket(_ALL_ANSWERS_BURST, _ALL_ANSWERS_PER_S)

    # ----------------------------------------------------------------- who is there

    def heard(self, author: Bundle, head_index: int, now_s: float, *, is_next: bool) -> None:
        """An ack of a live member, after `lack` of what it reports: its chain has come so far.

        Args:
            is_next: it is the one behind the last that came, and we heeded all of it: it says what
                the chain gained since that.
        """
        chain, who = _chain(author), author.session_id
        told = self._told.get(chain, 0)
        if head_index <= told:
            self._following.add(who)
        elif is_next and who in self._following:
            self._tell(chain, head_index)
        else:
            self._following.discard(who)
            self._asks.setdefault(who, now_s)

    def left(self, session_ids: Iterable[bytes]) -> None:
        """Sessions are gone."""
        for session_id in list(session_ids):
            self._following.discard(session_id)
            self._asks.pop(session_id, None)
            self._disputed.pop(session_id, None)
            self._answers.pop(session_id, None)
            self._next_to.pop(session_id, None)
            for request_id, asked in list(self._open.items()):
                if asked.session_id == session_id:
                    self._unanswered(request_id)

    def start_over(self, now_s: float) -> None:
        """Whom we believe changed: what was passed over may be ours now."""
        for chain in list(self._told):
            self._tell(chain, 0)
        self._following.clear()
        us = self._roster.our.fingerprint
        self._asks = {s: now_s for s, b in self._roster.live.items() if b.fingerprint != us}
        for lack in self._lacks.values():
            lack.left_alone_until_s, lack.denials = -math.inf, 0

    def _tell(self, chain: bytes, upto: int) -> None:
        if self._told.pop(chain, None) is None and len(self._told) >= _MAX_TOLD:
            oldest = next(iter(self._told))
            del self._told[oldest]
            self._unkept.add(oldest)
        self._told[chain] = upto
        self._unkept.add(chain)

    # ----------------------------------------------------------------- what we lack

    def lack(
        self,
        feed: Feed,
        seqs: Iterable[Seqs],
        by: bytes,
        now_s: float,
        *,
        within_s: float = 0.0,
        is_sure: bool = False,
    ) -> bool:
        """A member has entries that we do not have.

        Args:
            by: that live member's session_id.
            within_s: how long they may still come by themselves.
            is_sure: it says that they are for us.

        Returns:
            whether they will be asked for: not where nobody had anything for us just before, nor
            where there is no room.
        """
        bundle = self._roster.live[by]
        if feed not in self._lacks and not self._has_room(bundle.fingerprint, now_s):
            return False
        lack = self._lacks.setdefault(feed, _Lack(bundle.fingerprint))
        if now_s < lack.left_alone_until_s and not is_sure:
            return False
        new = _without(seqs, [*lack.seqs, *lack.denied])
        lack.due_s = min(lack.due_s if lack.seqs else math.inf, now_s + within_s)
        if new:
            lack.seqs = _few(lack.seqs + new)
            lack.tried.discard(by)
        holders = lack.listed_by if is_sure else lack.shown_by
        holders.pop(by, None)
        holders[by] = None
        if len(lack.listed_by) > len(self._roster.live):
            lack.listed_by = {who: None for who in lack.listed_by if who in self._roster.live}
        if len(lack.shown_by) > _MOST_TRIED:
            del lack.shown_by[next(iter(lack.shown_by))]
        chain = _chain(bundle)
        lack.told_by.setdefault(chain, self._told.get(chain, 0))
        return True

    def _has_room(self, person: bytes, now_s: float) -> bool:
        """Whether another feed can be lacked that this person tells us of.  If not, who told us of
        most loses half of them, and is to tell them again."""
        if len(self._lacks) < _MAX_LACKS:
            return True
        self._lacks = {f: lack for f, lack in self._lacks.items() if lack.seqs}
        if len(self._lacks) < _MAX_LACKS:
            return True
        told_of = Counter(lack.person for lack in self._lacks.values())
        ((most, count),) = told_of.most_common(1)
        if 2 * told_of[person] >= count:
            return False
        theirs = [feed for feed, lack in self._lacks.items() if lack.person == most]
        for feed in theirs[count // 2 :]:
            self._give_up(feed, now_s)
            del self._lacks[feed]
        return True

    def dispute(self, feed: Feed, seq: int, by: bytes) -> None:
        """A live member says that it has another entry in the place of one of ours: it is asked
        for that, once."""
        self._disputed[by] = Range(*feed, seq, seq)

    def told(
        self, author: Bundle, question: Ask, gained: Gained, now_s: float, *, is_all: bool
    ) -> None:
        """An answer of a live member, after `lack` of what it lists.

        Args:
            is_all: there was room for all of that; else it is asked once more, later.
        """
        if not is_all:
            self._asks[author.session_id] = now_s + _TRY_AGAIN_S
            return
        chain = _chain(author)
        if gained.upto > self._told.get(chain, 0):
            self._tell(chain, gained.upto)
        if gained.more and gained.upto > question.since:
            self._asks[author.session_id] = -math.inf
        else:
            self._following.add(author.session_id)

    def dealt_with(self, question: Fetch, done: Iterable[int], by: bytes) -> None:
        """An answer: of each range that we asked for, the last seq that it deals with."""
        pairs = list(zip(question.ranges, done, strict=True))
        is_of_use = any(last >= its.first for its, last in pairs)
        dealt: dict[Feed, list[Seqs]] = {}
        for its, last in pairs:
            feed = (its.tag, its.session_id)
            lack = self._lacks.get(feed)
            if lack is None or not lack.is_asked:  # it was about a dispute
                continue
            parts = dealt.setdefault(feed, [])
            # Who stops early has given something; else it could go on for ever.
            if not is_of_use or self._unheld(feed, (its.first, last)) == [(its.first, last)]:
                last = its.last
            if last >= its.first:
                parts.append((its.first, last))
        for feed, parts in dealt.items():
            lack = self._lacks[feed]
            lack.is_asked = False
            lack.seqs = _without(lack.seqs, parts)
            denied = [part for seqs in parts for part in self._unheld(feed, seqs)]
            lack.denied = _few(lack.denied + denied)
            if denied and by in self._roster.live:  # what it told it has taken back
                lack.told_by.pop(_chain(self._roster.live[by]), None)
            if not lack.seqs and lack.denied:
                lack.tried.add(by)
                lack.seqs, lack.denied = lack.denied, []
            elif not lack.seqs:
                del self._lacks[feed]

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is asked for, or about to be."""
        is_asking = bool(self._open) or any(at_s <= now_s for at_s in self._asks.values())
        return not (is_asking or any(lack.seqs for lack in self._lacks.values()))

    def rows(self) -> list[SideRow]:
        """What is to be kept, once we have all that we were told of."""
        if not self._unkept or any(lack.seqs for lack in self._lacks.values()):
            return []
        unkept, self._unkept = self._unkept, set()
        return [
            SideRow(TOLD_TABLE, self._room_tag + chain, u64(upto) if upto else b"")
            for chain in unkept
            for upto in (self._told.get(chain, 0),)
        ]

    # ----------------------------------------------------------------- questions and answers

    def due(self, now_s: float) -> tuple[Effects, list[Feed]]:
        """The questions that go out now; and the feeds that are given up for now, since nobody
        here has what we lack of them for us."""
        for request_id, asked in list(self._open.items()):
            if now_s - asked.asked_s >= _ANSWER_WITHIN_S:
                self._unanswered(request_id)
                self._next_to[asked.session_id] = now_s + _TRY_AGAIN_S
                if isinstance(asked.question, Ask):
                    self._asks[asked.session_id] = now_s + _TRY_AGAIN_S
        effects: Effects = []
        given_up: list[Feed] = []
        if now_s < self._next_s:
            return effects, given_up
        if (found := self._question(now_s, given_up)) is not None:
            effects.append(self._ask(*found, now_s))
            members = len(self._roster.live)
            pace_s = max(_SHORTEST_PACE_S, min(_LONGEST_PACE_S, _PACE_PER_MEMBER_S * members))
            self._next_s = now_s + pace_s
        return effects, given_up

    def _question(self, now_s: float, given_up: list[Feed]) -> tuple[bytes, Ask | Fetch] | None:
        """Whom to ask what: of all who may be asked now one at random, so that nobody can be kept
        from his turn by others who have much to say and never answer."""
        if len(self._open) >= _MAX_OPEN:
            return None
        busy = {asked.session_id for asked in self._open.values()}
        busy |= {who for who, at_s in self._next_to.items() if now_s < at_s}
        fetches: dict[bytes, list[tuple[Feed, _Lack]]] = {}
        for feed, lack in list(self._lacks.items()):
            if lack.is_asked or not lack.seqs or now_s < lack.due_s:
                continue
            lack.seqs = sorted(part for seqs in lack.seqs for part in self._unheld(feed, seqs))
            if not lack.seqs:  # it came by itself
                del self._lacks[feed]
                continue
            is_held = False
            for who in self._holders(feed, lack):
                is_held = True
                if who not in busy:
                    fetches.setdefault(who, []).append((feed, lack))
                    break
            if not is_held and lack.is_unanswered:
                lack.tried, lack.is_unanswered = set(), False
                lack.due_s = now_s + _TRY_AGAIN_S
            elif not is_held:
                given_up.append(feed)
        for feed in given_up:
            self._give_up(feed, now_s)
        asks = [who for who, at_s in self._asks.items() if now_s >= at_s]
        candidates = dict.fromkeys((*fetches, *self._disputed, *asks))
        free = [who for who in candidates if who not in busy]
        if not free:
            return None
        who = free[int.from_bytes(random_bytes(4), "big") % len(free)]
        ranges: list[Range] = []
        for feed, lack in fetches.get(who, ()):
            if room := MAX_RANGES - len(ranges):
                ranges += [Range(*feed, *seqs) for seqs in lack.seqs[:room]]
                lack.is_asked = True
        if not ranges and who in self._disputed:
            ranges = [self._disputed.pop(who)]
        if ranges:
            return who, Fetch(tuple(ranges))
        del self._asks[who]
        return who, Ask(self._told.get(_chain(self._roster.live[who]), 0))

    def _holders(self, feed: Feed, lack: _Lack) -> Iterator[bytes]:
        """Whom to ask for it, some twice: all who said that it is for us, the latest first; a few
        of those who showed that it is there, its author, and others."""
        live, us = self._roster.live, self._roster.our.fingerprint
        others: Iterable[bytes] = ()
        if len(lack.tried - lack.listed_by.keys()) < _MOST_TRIED:
            others = itertools.chain(reversed(lack.shown_by), (feed[1],), live)
        for who in itertools.chain(reversed(lack.listed_by), others):
            if who not in live or who in lack.tried or live[who].fingerprint == us:
                continue
            # Else who is asked would learn who talks to whom, and how much.
            if feed[0] == self._room_tag or live[who].fingerprint == lack.person:
                yield who

    def _ask(self, session_id: bytes, question: Ask | Fetch, now_s: float) -> Transmit:
        request_id = random_bytes(16)
        self._open[request_id] = _Open(session_id, question, now_s)
        self._next_to[session_id] = now_s + _SAME_PACE_S
        return self.transmit(session_id, request_id, question)

    def transmit(self, session_id: bytes, request_id: bytes, body: Body) -> Transmit:
        """A question or an answer for a live member."""
        recipient, data = self._roster.live[session_id], serialize_body(body)
        sync = Sync.create(self._key, self._session_id, self._room_tag, recipient, request_id, data)
        return Transmit(Direct(session_id, sync.serialize()).serialize())

    def answered(self, session_id: bytes, request_id: bytes) -> Ask | Fetch | None:
        """The open question that this answers, which is open no longer; None: we asked that member
        no such thing, or the time is over."""
        asked = self._open.get(request_id)
        if asked is None or asked.session_id != session_id:
            return None
        del self._open[request_id]
        return asked.question

    def ask_later(self, session_id: bytes, question: Ask | Fetch, now_s: float) -> None:
        """A member does not answer now, or what makes no sense."""
        if isinstance(question, Ask):
            self._asks[session_id] = now_s + _ASK_AGAIN_S
        else:
            self._not_from(session_id, question)

    def _unanswered(self, request_id: bytes) -> None:
        asked = self._open.pop(request_id)
        if isinstance(asked.question, Fetch):
            self._not_from(asked.session_id, asked.question)

    def _not_from(self, session_id: bytes, question: Fetch) -> None:
        for its in question.ranges:
            lack = self._lacks.get((its.tag, its.session_id))
            if lack is not None and lack.is_asked:
                lack.is_asked, lack.is_unanswered = False, True
                lack.tried.add(session_id)

    def _give_up(self, feed: Feed, now_s: float) -> None:
        """For now: who told us of it is to tell it again."""
        lack = self._lacks[feed]
        for chain, since in lack.told_by.items():
            if since < self._told.get(chain, 0):
                self._tell(chain, since)
                for session_id, bundle in self._roster.live.items():
                    if _chain(bundle) == chain:
                        self._following.discard(session_id)
                        self._asks[session_id] = now_s + _ASK_AGAIN_S
        wait_s = min(_LONGEST_DENIED_S, _DENIED_S * 2**lack.denials)
        self._lacks[feed] = _Lack(
            lack.person, denials=min(lack.denials + 1, 16), left_alone_until_s=now_s + wait_s
        )

    def may_answer(self, session_id: bytes, now_s: float) -> bool:
        """Whether one more question of that live member is answered now."""
        bucket = self._answers.setdefault(session_id, _Bucket(_ANSWERS_BURST, _ANSWERS_PER_S))
        return bucket.take(now_s) and self._all_answers.take(now_s)


def _chain(bundle: Bundle) -> bytes:
    """Whose chain, and which of his: a chain_id is what its owner says, and may be another's."""
    return bundle.fingerprint + bundle.chain_id


def _few(seqs: list[Seqs]) -> list[Seqs]:
    """No more than so many ranges; else one, in which all of them are."""
    if len(seqs) <= _MAX_SEQS:
        return seqs
    return [(min(first for first, _ in seqs), max(last for _, last in seqs))]


def _without(seqs: Iterable[Seqs], known: Iterable[Seqs]) -> list[Seqs]:
    """What of the first ranges is in none of the others, rising; in one pass, since others make
    them many."""
    parts: list[Seqs] = []
    others = sorted(known)
    at = 0
    for first, last in sorted(seqs):
        while at < len(others) and others[at][1] < first:
            at += 1
        for low, high in itertools.islice(others, at, None):
            if low > last:
                break
            if first < low:
                parts.append((first, low - 1))
            first = max(first, high + 1)
        if first <= last:
            parts.append((first, last))
    return parts
