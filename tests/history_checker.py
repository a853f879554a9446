"""Whether what everybody has in the end is what was promised: over all members' chains and acks.

What lives here: `faults`, which names every breach of the promise in a set of `History`s, and the
two ways to get those: `of_room` (members of tests/simulated_room.py, over all their runs) and
`of_profiles` (folders of real clients that have ended).  What it does not know: how the histories
came about, and which relay lied; the scenario tells it what may be lacking or late.

    check(of_room(room.everybody))                  # AssertionError with all that is wrong
    faults(histories, lacking=())                   # since members sync: nothing may be lacking

The rules, each with the name that a `Fault` carries:

    verdict       the chain verifies
    balance       coins are the distinct chat entries of one's own
    written       own feeds go 1, 2, 3, each entry signed, linked, and an audience opens the feed
    recorded      a session's bundle stands before its first entry, and vouches for each of them
    twice         no entry, and no place in a feed, is there twice
    unsent        nothing is there that its author did not write
    not entitled  who holds an entry was in the audience that was in force for it
    order         a feed's entries stand in its order, those that came late aside
    link          neighbours in a feed name each other
    hole          who was in the audience has the entry, if anybody is here who may give it to him
    acknowledged  what an ack names was on the chain under the head that the ack carries, and what
                  it does not name as missing, too
    shown         nothing was shown that is not on the chain
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from simulated_room import SimulatedMember, keystore

from blockchain import BlockType, Draft, StoreUnreadable
from chat_audit import kept_evidence
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    MAX_MISSING,
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
    audience_items,
)
from chat_profile import Profile
from chat_terminal import Kind
from chat_verification import verify_profile
from chat_wire import WireError
from crypto_utils import CryptoError, VerifyKey

_BEHIND_GENESIS = [kind for kind in BlockType if kind is not BlockType.GENESIS]
Place = tuple[bytes, bytes]  # a feed: tag, session_id


class Fault(NamedTuple):
    """One breach of the promise."""

    rule: str
    name: str  # whose chain it is on
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.rule}: {self.text}"


@dataclass
class History:
    """All that is left of one person, over all runs."""

    name: str
    fingerprint: bytes
    blocks: list[Draft]  # the i-th is block i + 1; 0 is the genesis
    balance: int
    acks: list[Ack] = field(default_factory=list)  # that it signed
    shown: list[str] | None = None  # texts of messages; None: not known
    verdict: str = "OK"
    is_here: bool = True  # in the end, for long enough, with all others that are
    doubts: set[bytes] = field(default_factory=set)  # in the end: fingerprints


# --------------------------------------------------------------------------- where they come from


def of_room(
    members: Iterable[SimulatedMember], here: Collection[str] | None = None
) -> list[History]:
    """Of simulated members, every run of each in its order.

    Args:
        here: who was there in the end, by name; None: everybody.
    """
    histories: dict[str, History] = {}
    for member in members:
        name = member.name
        history = histories.get(name)
        if history is None:
            identity = keystore(name).identity
            history = histories[name] = History(name, identity.fingerprint, [], 0, shown=[])
            history.is_here = here is None or name in here
        history.blocks += member.chain
        history.balance += member.coins
        history.acks += member.payloads(Ack)
        assert history.shown is not None
        history.doubts = member.session._trust.withheld()
        history.shown += [line.text for line in member.lines if line.kind is Kind.MESSAGE]
    return list(histories.values())


def of_profiles(homes: Mapping[str, Path], here: Collection[str] | None = None) -> list[History]:
    """Of real clients that have ended, by the folders that they were started with (`--home`).

    Their acks are those that the others keep as evidence.
    """
    histories: dict[bytes, History] = {}
    acks: list[tuple[bytes, Ack]] = []
    for name, home in homes.items():
        found = verify_profile(home, deep=True)
        verdict = "; ".join(checked.text for checked in found if checked.exit_code) or "OK"
        with Profile.open(home, create=False) as profile:
            fingerprint = profile.keystore.identity.fingerprint
            blocks: list[Draft] = []
            with suppress(StoreUnreadable):  # the verdict says so
                for block, record in profile.chain.records(*_BEHIND_GENESIS):
                    blocks.append(Draft(block.type, record, block.entry_id, block.refers_to))
                    assert block.index == len(blocks), "nobody forgets anything in a scenario"
            histories[fingerprint] = History(
                name, fingerprint, blocks, profile.balance(), verdict=verdict
            )
            histories[fingerprint].is_here = here is None or name in here
            for _, kept in kept_evidence(profile.chain):
                if isinstance(kept.payload, Ack):
                    acks.append((kept.witness.fingerprint, kept.payload))
    for fingerprint, ack in acks:
        if fingerprint in histories:
            histories[fingerprint].acks.append(ack)
    return list(histories.values())


# --------------------------------------------------------------------------- the rules


def check(histories: Iterable[History], **allowed: Collection[object] | None) -> None:
    """AssertionError with every fault, if there is any; `allowed` as of `faults`."""
    found = faults(histories, **allowed)  # type: ignore[arg-type]
    assert not found, "\n".join(map(str, found))


def faults(
    histories: Iterable[History],
    *,
    lacking: Collection[tuple[str, bytes]] | None = None,
    late: Collection[bytes] | None = (),
    liars: Collection[str] = (),
) -> list[Fault]:
    """Every breach of the promise.

    Args:
        lacking: who may lack what: name and entry_id.  None: anybody anything.
        late: entry_ids that may stand behind a later one of their feed.  None: all.
        liars: names of members who do as they please: nothing is asked of them, nor of others
            about what they wrote.
    """
    found: list[Fault] = []
    people = [_Person(history, found) for history in histories]
    trusted = {p.fingerprint: p for p in people if p.name not in liars}
    for person in trusted.values():
        person.check_own()
        person.check_received(trusted, late)
        person.check_acks(trusted.values())
        person.check_shown()
    if lacking is not None:
        for reader in trusted.values():
            _check_holes(reader, trusted, lacking)
    return found


class _Held(NamedTuple):
    block: int  # its index
    signed: SignedEntry

    @property
    def entry(self) -> Entry:
        return self.signed.entry


class _Person:
    """A history, taken apart."""

    def __init__(self, history: History, found: list[Fault]) -> None:
        self.name, self.fingerprint = history.name, history.fingerprint
        self.is_here = history.is_here
        self.ignored: set[bytes] = set()  # fingerprints
        self.gives_nothing_to = history.doubts
        self.written: dict[Place, list[_Held]] = defaultdict(list)
        self.received: dict[Place, list[_Held]] = defaultdict(list)
        self.by_id: dict[bytes, _Held] = {}
        self._history, self._found = history, found
        self._authors: dict[bytes, tuple[int, Bundle]] = {}  # by session_id; since which block
        self._coins: set[bytes] = set()
        for index, draft in enumerate(history.blocks, start=1):
            self._read(index, draft)

    def fault(self, rule: str, text: str) -> None:
        """Notes one."""
        self._found.append(Fault(rule, self.name, text))

    def _read(self, index: int, draft: Draft) -> None:
        if draft.type is BlockType.EVENT:
            event = Event.parse(draft.record)
            if event.kind == EventKind.BUNDLE:
                bundle = _bundle(event.body)
                self._authors.setdefault(bundle.session_id, (index, bundle))
            elif event.kind == EventKind.IGNORE:
                self.ignored.add(event.body)
            elif event.kind == EventKind.UNIGNORE:
                self.ignored.discard(event.body)
        elif draft.type in (BlockType.SENT, BlockType.CONTROL, BlockType.RECEIVED):
            held = _Held(index, _signed(draft.record))
            entry = held.entry
            if entry.entry_id in self.by_id:
                self.fault("twice", f"{_place(entry)} in block {index}")
                return
            self.by_id[entry.entry_id] = held
            is_own = draft.type is not BlockType.RECEIVED
            feeds = self.written if is_own else self.received
            feeds[entry.tag, entry.session_id].append(held)
            if draft.type is BlockType.SENT:
                self._coins.add(entry.entry_id)
            if is_own and (draft.type is BlockType.SENT) != (entry.kind == EntryKind.CHAT):
                self.fault("written", f"{_place(entry)} is of another kind than its block")

    # ----------------------------------------------------------------- what is this person's own

    def check_own(self) -> None:
        """verdict, balance, written, recorded of own sessions."""
        if self._history.verdict != "OK":
            self.fault("verdict", self._history.verdict)
        if self._history.balance != len(self._coins):
            coins = f"{self._history.balance} coins for {len(self._coins)} messages"
            self.fault("balance", coins)
        for feed in self.written.values():
            if [held.entry.seq for held in feed] != [*range(1, len(feed) + 1)]:
                self.fault("written", f"{_place(feed[0].entry)}: its own feed has holes")
            if feed[0].entry.kind != EntryKind.AUDIENCE:
                self.fault("written", f"{_place(feed[0].entry)}: no audience before it")
            self._check_links(feed)
            for held in feed:
                self._check_author(held, self.fingerprint)

    def _check_author(self, held: _Held, expected: bytes | None = None) -> Bundle | None:
        entry = held.entry
        since, bundle = self._authors.get(entry.session_id, (0, None))
        if bundle is None or since > held.block:
            self.fault("recorded", f"{_place(entry)}: nothing before it says whose it is")
            return None
        if not _is_signed(held.signed, bundle.session_key):
            self.fault("recorded", f"{_place(entry)}: its session did not sign it")
            return None
        if expected not in (None, bundle.fingerprint):
            self.fault("recorded", f"{_place(entry)}: it is somebody else's")
        return bundle

    def _check_links(self, feed: list[_Held]) -> None:
        by_seq = {held.entry.seq: held.entry for held in feed}
        for seq, entry in by_seq.items():
            before = by_seq.get(seq - 1)
            if before is not None and entry.previous != before.entry_id:
                self.fault("link", f"{_place(entry)} does not follow the one before it")

    # ----------------------------------------------------------------- what came from others

    def check_received(
        self, people: Mapping[bytes, _Person], late: Collection[bytes] | None
    ) -> None:
        """recorded, twice, unsent, not entitled, order and link of what came from others."""
        for place, feed in self.received.items():
            author = None
            for held in feed:
                bundle = self._check_author(held)
                author = people.get(bundle.fingerprint) if bundle else None
                if author is self:
                    self.fault("unsent", f"{_place(held.entry)}: its own, as somebody else's")
                elif author is not None:
                    self._check_entry(held, author)
            seqs = Counter(held.entry.seq for held in feed)
            for seq in [seq for seq, times in seqs.items() if times > 1]:
                self.fault("twice", f"{_feed(place)}: two entries {seq}")
            if late is not None:
                due = [held.entry for held in feed if held.entry.entry_id not in late]
                for one, other in pairwise(due):
                    if one.seq > other.seq:
                        self.fault("order", f"{_place(other)} stands behind {one.seq}")
            if author is not None:
                self._check_links(feed)

    def _check_entry(self, held: _Held, author: _Person) -> None:
        entry = held.entry
        theirs = author.by_id.get(entry.entry_id)
        if theirs is None or theirs.signed.serialize() != held.signed.serialize():
            self.fault("unsent", f"{_place(entry)}: {author.name} did not write it")
        elif not author.may_read(self.fingerprint, entry):
            self.fault("not entitled", f"{_place(entry)} of {author.name}")

    def may_read(self, reader: bytes, entry: Entry) -> bool:
        """Whether that fingerprint was in the audience in force for an entry of this one's."""
        return reader[:AUDIENCE_ITEM_BYTES] in self.audience(entry)

    def audience(self, entry: Entry) -> frozenset[bytes]:
        """The one in force for an entry of this one's."""
        audience: frozenset[bytes] = frozenset()
        for held in self.written[entry.tag, entry.session_id]:
            if held.entry.seq > entry.seq:
                break
            if held.entry.kind == EntryKind.AUDIENCE:
                audience = frozenset(audience_items(held.entry.text))
        return audience

    # ----------------------------------------------------------------- what was signed and shown

    def check_acks(self, people: Iterable[_Person]) -> None:
        """acknowledged."""
        writers = {place: person for person in people for place in person.written}
        for ack in self._history.acks:
            for report in ack.feeds:
                place = (ack.tag, report.session_id)
                feed = self.written.get(place) or self.received.get(place, [])
                there = {h.entry.seq: h.entry for h in feed if h.block <= ack.head.index}
                what = f"ack {ack.number} of {_feed(place)}"
                named = there.get(report.seq)
                if named is None or named.entry_id != report.entry_id:
                    self.fault("acknowledged", f"{what} names {report.seq}, which is not there")
                if any(seq in there for seq in report.missing):
                    self.fault("acknowledged", f"{what} says that it lacks what is there")
                if place in writers and len(report.missing) < MAX_MISSING:
                    stay = {*writers[place].stay(self.fingerprint, place, report.seq)}
                    # Who got an audience entry without the one before it may take its stay to have
                    # begun there.
                    began = (
                        seq
                        for seq in stay & there.keys()
                        if there[seq].kind == EntryKind.AUDIENCE and seq - 1 not in there
                    )
                    first = max(began, default=0)
                    if not {s for s in stay if s >= first} <= there.keys() | {*report.missing}:
                        self.fault("acknowledged", f"{what} does not say all that it lacks")

    def stay(self, reader: bytes, place: Place, seq: int) -> range:
        """The seqs up to that one, since the audience entry from which on that reader was in the
        audience without a break."""
        first = seq + 1
        for held in reversed(self.written[place][:seq]):
            if held.entry.kind == EntryKind.AUDIENCE:
                if not self.may_read(reader, held.entry):
                    break
                first = held.entry.seq
        return range(first, seq + 1)

    def check_shown(self) -> None:
        """shown."""
        if self._history.shown is None:
            return
        there = [h.entry for feed in self.received.values() for h in feed]
        texts = Counter(e.text.decode() for e in there if e.kind == EntryKind.CHAT)
        for text in Counter(self._history.shown) - texts:
            self.fault("shown", f"{text!r}")


def _check_holes(
    reader: _Person, people: Mapping[bytes, _Person], lacking: Collection[tuple[str, bytes]]
) -> None:
    """hole: of what everybody wrote that this one may read."""
    if not reader.is_here:
        return
    for author in people.values():
        if author is reader:
            continue
        for feed in author.written.values():
            entries = [held.entry for held in feed]
            for entry in entries:
                if entry.entry_id in reader.by_id or (reader.name, entry.entry_id) in lacking:
                    continue
                if not author.may_read(reader.fingerprint, entry):
                    continue
                givers = [p.name for p in people.values() if _may_give(p, reader, entries, entry)]
                if givers:
                    text = f"{_place(entry)} of {author.name}, which {', '.join(givers)} has"
                    reader.fault("hole", text)


def _may_give(giver: _Person, reader: _Person, feed: list[Entry], entry: Entry) -> bool:
    """Whether that member is here, believes the reader's key, has an entry, and everything since
    the audience that is in force for it, which is how it knows that it may hand it on."""
    if reader.fingerprint in giver.ignored | giver.gives_nothing_to:
        return False
    if giver is reader or not giver.is_here:
        return False
    for before in reversed(feed[: entry.seq]):
        if before.entry_id not in giver.by_id:
            return False
        if before.kind == EntryKind.AUDIENCE:
            return True
    return False


# --------------------------------------------------------------------------- the same for all


def _feed(place: Place) -> str:
    return f"feed {place[1].hex()[:8]} in {place[0].hex()[:8]}"


def _place(entry: Entry) -> str:
    what = entry.text.decode() if entry.kind == EntryKind.CHAT else f"kind {entry.kind}"
    return f"{_feed((entry.tag, entry.session_id))}, entry {entry.seq} ({what[:40]!r})"


# What several members have is read and verified once.


@lru_cache(maxsize=4096)
def _bundle(raw: bytes) -> Bundle:
    return Bundle.parse(raw, None)


@lru_cache(maxsize=65_536)
def _signed(record: bytes) -> SignedEntry:
    return SignedEntry.parse(record)


_VERIFIED: dict[tuple[bytes, bytes], bool] = {}
_MAX_VERIFIED = 65_536


def _is_signed(signed: SignedEntry, key: VerifyKey) -> bool:
    known = (signed.entry.entry_id + signed.signature, key.public)
    if known not in _VERIFIED:
        if len(_VERIFIED) >= _MAX_VERIFIED:
            _VERIFIED.clear()
        try:
            signed.verify(key)
        except (WireError, CryptoError):
            _VERIFIED[known] = False
        else:
            _VERIFIED[known] = True
    return _VERIFIED[known]
