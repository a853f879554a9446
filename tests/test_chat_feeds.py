"""Feeds and their keys: our entries and who can read them, theirs and what we lack of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_feeds
from blockchain import Head
from chat_feeds import Arrival, OurFeed, TheirFeed
from chat_messages import (
    MAX_MISSING,
    Bundle,
    Entry,
    EntryKind,
    FeedReport,
    KeyShare,
    Message,
    SignedEntry,
    pad,
)
from chat_wire import Malformed
from crypto_utils import (
    MAX_SKIP,
    BadCiphertext,
    BadSignature,
    EncryptionManager,
    IdentityPublic,
    KeyUsed,
    SigningKey,
    TooFarAhead,
    VerifyKey,
    random_bytes,
    seal,
)

TAG, OTHER_TAG, MIX = b"T" * 16, b"P" * 16, b"m" * 32
ALICE, BOB, CAROL = b"a" * 16, b"b" * 16, b"c" * 16  # session_ids
PEOPLE = {session: session * 2 for session in (ALICE, BOB, CAROL)}  # their fingerprints
EVERYBODY = frozenset(PEOPLE.values())
S, MS = 1000.0, 1_700_000_000_000


@cache
def sek() -> EncryptionManager:
    return EncryptionManager()


@cache
def ssk() -> SigningKey:
    return SigningKey(b"s" * 32)


def verify_key() -> VerifyKey:
    return VerifyKey(ssk().public)


def bundle(session_id: bytes) -> Bundle:
    """As if it had been parsed."""
    identity = cast(IdentityPublic, SimpleNamespace(fingerprint=PEOPLE[session_id]))
    key = verify_key()
    spki = sek().get_public_key()
    return Bundle(TAG, identity, "nick", session_id, key, 1, spki, bytes(16), key, b"")


class Pair:
    """Alice's feed, and what Bob has of it."""

    def __init__(self) -> None:
        self.ours = OurFeed(TAG, ALICE, ssk(), MIX)
        self.theirs = TheirFeed(TAG, ALICE)

    def share(self, now_s: float = S, to: bytes = BOB) -> KeyShare:
        self.ours.rotate_if_due(self.ours.audience or EVERYBODY, now_s)
        return self.ours.share(bundle(to))

    def take(self, share: KeyShare, now_s: float = S) -> bool:
        """As the session does with a share that verified."""
        if not self.theirs.may_unwrap(share, now_s):
            return False
        self.theirs.take_key(share, share.unwrap(sek()), MIX, now_s)
        return True

    def say(self, text: bytes = b"x") -> Message:
        return self.ours.seal(self.ours.write(EntryKind.CHAT, text, bytes(32), MS))

    def audience(self, *sessions: bytes) -> Message:
        people = frozenset(PEOPLE[s] for s in sessions)
        return self.ours.seal(self.ours.write_audience(people, bytes(32), MS))

    def hear(self, message: Message) -> Arrival:
        return self.theirs.accept(self.theirs.open(message, verify_key()).entry, MS)


@pytest.fixture
def pair() -> Pair:
    """After the first share, before the first entry."""
    pair = Pair()
    assert pair.take(pair.share())
    return pair


# --------------------------------------------------------------------------- our feed


def test_feed_is_signed_and_linked_from_seq_1() -> None:
    feed = OurFeed(TAG, ALICE, ssk(), MIX)
    assert feed.seq == 0
    entries = [feed.write(EntryKind.CHAT, b"x", bytes(32), MS) for _ in range(3)]
    assert [e.entry.seq for e in entries] == [1, 2, 3]
    assert entries[0].entry.previous == bytes(32)
    assert entries[1].entry.previous == entries[0].entry.entry_id
    assert entries[2].entry.previous == entries[1].entry.entry_id
    for signed in entries:
        signed.verify(verify_key())


def test_audience_entry_lists_the_first_halves_sorted() -> None:
    feed = OurFeed(TAG, ALICE, ssk(), MIX)
    text = feed.write_audience(EVERYBODY, bytes(32), MS).entry.text
    assert text == ALICE + BOB + CAROL
    assert feed.audience == EVERYBODY


def epoch_after(feed: OurFeed, audience: frozenset[bytes], now_s: float) -> int:
    feed.rotate_if_due(audience, now_s)
    assert feed.chain is not None
    return feed.chain.epoch


def test_epoch_ends_when_the_audience_lost_somebody_and_not_when_it_gained() -> None:
    feed = OurFeed(TAG, ALICE, ssk(), MIX)
    two = frozenset((PEOPLE[ALICE], PEOPLE[BOB]))
    assert epoch_after(feed, two, S) == 1
    feed.write_audience(two, bytes(32), MS)
    assert epoch_after(feed, two, S) == 1
    assert epoch_after(feed, EVERYBODY, S) == 1
    feed.write_audience(EVERYBODY, bytes(32), MS)
    assert epoch_after(feed, two, S) == 2


def test_epoch_ends_when_somebody_was_given_its_key_and_is_lost_before_he_was_listed() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    assert epoch_after(pair.ours, EVERYBODY, S) == 1
    assert epoch_after(pair.ours, EVERYBODY - {PEOPLE[CAROL]}, S) == 2


def test_epoch_ends_after_a_thousand_messages() -> None:
    pair = Pair()
    pair.share()
    for _ in range(999):
        pair.say()
    assert epoch_after(pair.ours, EVERYBODY, S) == 1
    pair.say()
    assert epoch_after(pair.ours, EVERYBODY, S) == 2


def test_epoch_ends_after_an_hour() -> None:
    feed = OurFeed(TAG, ALICE, ssk(), MIX)
    assert epoch_after(feed, EVERYBODY, S) == 1
    assert epoch_after(feed, EVERYBODY, S + 3599) == 1
    assert epoch_after(feed, EVERYBODY, S + 3600) == 2
    assert epoch_after(feed, EVERYBODY, S + 7199) == 2


def test_epoch_ends_when_more_sessions_came_for_its_key_than_can_be_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_feeds, "_MAX_GIVEN", 2)
    pair = Pair()
    pair.share(to=BOB)
    assert epoch_after(pair.ours, EVERYBODY, S) == 1
    pair.share(to=CAROL)
    assert epoch_after(pair.ours, EVERYBODY, S) == 2
    assert pair.ours.lacks_key(bundle(BOB))


def test_new_epoch_has_a_key_of_its_own_that_everybody_lacks() -> None:
    pair = Pair()
    pair.share()
    assert not pair.ours.lacks_key(bundle(BOB))
    assert pair.ours.lacks_key(bundle(CAROL))
    assert pair.ours.chain is not None
    before = pair.ours.chain.chain_key
    pair.ours.rotate_if_due(EVERYBODY, S + 3600)
    assert pair.ours.chain.chain_key != before
    assert pair.ours.lacks_key(bundle(BOB))


def test_share_says_where_the_present_unbroken_stay_began() -> None:
    pair = Pair()
    assert pair.share().first_seq == 1  # the audience entry that is about to be written
    pair.audience(ALICE, BOB)
    pair.say()
    assert pair.share().first_seq == 1
    assert pair.share(to=CAROL).first_seq == 3
    pair.audience(ALICE, BOB, CAROL)
    assert pair.share(to=CAROL).first_seq == 3
    pair.audience(ALICE, CAROL)
    pair.say()
    assert pair.share(to=BOB).first_seq == 6
    pair.audience(ALICE, BOB, CAROL)
    pair.say()
    assert pair.share(to=BOB).first_seq == 6
    assert pair.share(to=CAROL).first_seq == 3


def report(feed: OurFeed, seq: int, *missing: int) -> FeedReport:
    return FeedReport(ALICE, seq, feed.ids[seq - 1], missing)


def test_receipt_covers_what_is_not_named_as_missing() -> None:
    pair = Pair()
    pair.share()
    for _ in range(4):
        pair.say()
    feed = pair.ours
    assert not feed.confirmed(BOB, 1)
    assert feed.take_report(BOB, report(feed, 3, 2))
    assert [feed.confirmed(BOB, seq) for seq in (1, 2, 3, 4)] == [True, False, True, False]
    assert feed.take_report(BOB, report(feed, 2))  # an older one takes nothing back
    assert feed.confirmed(BOB, 3)
    assert feed.take_report(BOB, report(feed, 3))
    assert feed.confirmed(BOB, 2)


def test_receipt_for_an_entry_never_written_says_nothing() -> None:
    pair = Pair()
    pair.share()
    pair.say()
    feed = pair.ours
    for bad in (
        FeedReport(ALICE, 1, bytes(32)),
        FeedReport(ALICE, 2, feed.ids[0]),
        FeedReport(ALICE, 0, feed.ids[0]),
    ):
        assert not feed.take_report(BOB, bad)
    assert feed.acked == {}
    assert feed.unconfirmed([BOB]) == [BOB]


def test_only_those_who_have_the_key_and_something_to_confirm_are_waited_for() -> None:
    pair = Pair()
    feed = pair.ours
    pair.share()
    assert (feed.unconfirmed([BOB, CAROL]), feed.recipients([BOB, CAROL])) == ([], [])
    pair.say()
    assert (feed.unconfirmed([BOB, CAROL]), feed.recipients([BOB, CAROL])) == ([BOB], [BOB])
    pair.share(to=CAROL)  # nothing was said since
    assert feed.unconfirmed([BOB, CAROL]) == [BOB]
    feed.take_report(BOB, report(feed, 1))
    assert (feed.unconfirmed([BOB]), feed.recipients([BOB])) == ([], [BOB])
    pair.say()
    assert feed.unconfirmed([BOB, CAROL]) == [BOB, CAROL]


def test_member_who_lacks_an_older_message_is_still_waited_for() -> None:
    pair = Pair()
    pair.share()
    pair.say()
    pair.say()
    pair.ours.take_report(BOB, report(pair.ours, 2, 1))
    assert pair.ours.unconfirmed([BOB]) == [BOB]


def test_member_who_lacks_what_was_never_for_him_is_not_waited_for() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    pair.say()
    pair.share(to=BOB)
    pair.say()
    pair.ours.take_report(BOB, report(pair.ours, 2, 1))
    assert pair.ours.unconfirmed([BOB]) == []


def test_member_who_lacks_what_was_written_before_he_came_is_not_waited_for() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    pair.audience(ALICE, BOB, CAROL)
    pair.say()
    assert pair.share(to=BOB).first_seq == 1
    pair.say()
    pair.ours.take_report(BOB, report(pair.ours, 3, 1, 2))
    assert pair.ours.unconfirmed([BOB]) == []


def test_member_who_was_left_out_of_an_epoch_is_no_recipient_of_what_it_carried() -> None:
    pair = Pair()
    pair.share(to=BOB)
    pair.audience(ALICE, BOB)
    pair.say()
    pair.ours.rotate_if_due(frozenset((PEOPLE[ALICE],)), S)
    pair.audience(ALICE)
    pair.say()
    assert pair.share(to=BOB).first_seq == 5
    assert (pair.ours.recipients([BOB]), pair.ours.unconfirmed([BOB])) == ([], [])
    pair.say()
    assert pair.ours.unconfirmed([BOB]) == [BOB]
    pair.ours.take_report(BOB, report(pair.ours, 5, 3, 4))
    assert pair.ours.unconfirmed([BOB]) == []


def test_member_who_lacks_a_message_of_an_earlier_epoch_is_still_waited_for() -> None:
    pair = Pair()
    pair.share()
    pair.say()
    pair.share(S + 3600)
    pair.say()
    pair.ours.take_report(BOB, report(pair.ours, 2, 1))
    assert pair.ours.unconfirmed([BOB]) == [BOB]


def test_session_that_is_gone_is_forgotten_and_given_the_key_again() -> None:
    pair = Pair()
    pair.share()
    pair.say()
    pair.ours.take_report(BOB, report(pair.ours, 1))
    pair.ours.forget([BOB, CAROL])
    assert pair.ours.acked == {}
    assert pair.ours.recipients([BOB]) == []
    assert pair.ours.lacks_key(bundle(BOB))
    pair.share()
    assert pair.ours.recipients([BOB]) == []
    assert epoch_after(pair.ours, EVERYBODY - {PEOPLE[BOB]}, S) == 2


# --------------------------------------------------------------------------- their keys


def test_entries_open_with_the_shared_key_each_once(pair: Pair) -> None:
    messages = [pair.say(b"one"), pair.say(b"two")]
    opened = [pair.theirs.open(m, verify_key()) for m in messages]
    assert [s.entry.text for s in opened] == [b"one", b"two"]
    for message in messages:
        with pytest.raises(KeyUsed):
            pair.theirs.open(message, verify_key())


def test_key_given_later_opens_nothing_said_before() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    before = [pair.say() for _ in range(3)]
    pair.take(pair.share())
    for message in before:
        with pytest.raises(KeyUsed):
            pair.theirs.open(message, verify_key())
    assert pair.hear(pair.say()) is Arrival.NEW


def test_forged_frame_of_a_high_n_neither_uses_up_a_key_nor_moves_the_chain(pair: Pair) -> None:
    for n in (0, 1, 700, MAX_SKIP):
        forged = Message(ALICE, TAG, 1, n, random_bytes(284))
        with pytest.raises(BadCiphertext):
            pair.theirs.open(forged, verify_key())
    assert [pair.hear(pair.say()) for _ in range(3)] == [Arrival.NEW] * 3


def test_message_that_another_session_signed_uses_up_no_key(pair: Pair) -> None:
    assert pair.ours.chain is not None
    key = pair.ours.chain.chain_key
    impostor = OurFeed(TAG, ALICE, SigningKey(b"i" * 32), MIX)
    impostor.rotate_if_due(EVERYBODY, S)
    assert impostor.chain is not None
    impostor.chain.chain_key = key  # a member has the key, as every listener must
    written = impostor.write(EntryKind.CHAT, b"not hers", bytes(32), MS)
    with pytest.raises(BadSignature):
        pair.theirs.open(impostor.seal(written), verify_key())
    assert pair.hear(pair.say()) is Arrival.NEW


@pytest.mark.parametrize(("tag", "session_id"), [(OTHER_TAG, ALICE), (TAG, CAROL)])
def test_entry_of_another_conversation_or_session_inside_is_refused(
    pair: Pair, tag: bytes, session_id: bytes
) -> None:
    entry = Entry.create(EntryKind.CHAT, tag, session_id, 1, bytes(32), bytes(32), MS, b"x")
    stray = pair.ours.seal(entry.sign(ssk()))
    with pytest.raises(Malformed):
        pair.theirs.open(stray, verify_key())
    assert pair.hear(pair.say()) is Arrival.NEW


def test_header_is_bound_to_what_it_seals(pair: Pair) -> None:
    message = pair.say()
    assert pair.ours.chain is not None
    for altered in (
        Message(CAROL, TAG, 1, message.n, message.sealed),
        Message(ALICE, OTHER_TAG, 1, message.n, message.sealed),
        Message(ALICE, TAG, 1, message.n + 1, message.sealed),
    ):
        with pytest.raises(BadCiphertext):
            pair.theirs.open(altered, verify_key())
    assert pair.hear(message) is Arrival.NEW


def test_a_thousand_keys_may_be_skipped_and_no_more(pair: Pair) -> None:
    assert pair.ours.chain is not None
    first = pair.say()
    for _ in range(MAX_SKIP):
        pair.ours.chain.next()
    far = pair.say()
    assert far.n == MAX_SKIP + 1
    with pytest.raises(TooFarAhead):
        pair.theirs.open(far, verify_key())
    assert pair.hear(first) is Arrival.NEW  # then it is 1000 ahead
    assert pair.hear(far) is Arrival.NEW


def test_old_epochs_keys_die_two_minutes_after_a_newer_epoch() -> None:
    pair = Pair()
    pair.take(pair.share())
    pair.hear(pair.audience(ALICE, BOB))
    late, later = pair.say(), pair.say()
    pair.ours.rotate_if_due(frozenset(), S + 1000)
    assert pair.take(pair.share(S + 1000), S + 1000)
    pair.theirs.drop_old_keys(S + 1119)
    assert pair.hear(late) is Arrival.NEW
    pair.theirs.drop_old_keys(S + 1120)
    assert not pair.theirs.has_key(later.epoch)
    assert pair.theirs.wait_for(later.epoch, S + 1121) == "too old"
    assert pair.theirs.has_key(2)


def test_keys_die_62_minutes_after_their_share_at_the_latest(pair: Pair) -> None:
    pair.theirs.drop_old_keys(S + 3719)
    assert pair.theirs.has_key(1)
    pair.theirs.drop_old_keys(S + 3720)
    assert not pair.theirs.has_key(1)


def test_newer_epoch_does_not_prolong_an_older_one(pair: Pair) -> None:
    pair.ours.rotate_if_due(frozenset(), S + 3700)
    pair.take(pair.share(S + 3700), S + 3700)
    pair.theirs.drop_old_keys(S + 3720)
    assert not pair.theirs.has_key(1)


def test_share_for_an_epoch_that_we_hold_or_left_behind_is_not_unwrapped() -> None:
    pair = Pair()
    first = pair.share()
    again = pair.share()
    assert pair.take(first)
    assert not pair.take(again)
    pair.say()
    assert not pair.take(pair.share())
    pair.ours.rotate_if_due(frozenset(), S)
    assert pair.take(pair.share())
    assert not pair.take(first)


def test_burst_of_shares_is_cut_off_and_one_more_is_taken_each_second() -> None:
    pair = Pair()
    shares = []
    for n in range(40):
        pair.ours.rotate_if_due(frozenset(), S)
        shares.append(pair.share())
        pair.ours.audience = frozenset((bytes([n]) * 32,))  # lost at the next rotation
    taken = [pair.theirs.may_unwrap(share, S) for share in shares]
    assert taken == [True] * 32 + [False] * 8
    assert not pair.theirs.may_unwrap(shares[-1], S + 0.9)
    assert pair.theirs.may_unwrap(shares[-1], S + 1.5)
    assert not pair.theirs.may_unwrap(shares[-1], S + 1.9)


def test_author_who_hurries_through_epochs_makes_us_keep_four() -> None:
    pair = Pair()
    for n in range(1, 20):
        pair.ours.rotate_if_due(frozenset(), S + n)
        pair.ours.audience = frozenset((bytes([n]) * 32,))
        assert pair.take(pair.share(S + n), S + n)
    assert [e for e in range(30) if pair.theirs.has_key(e)] == list(range(16, 20))
    assert pair.hear(pair.say()) is Arrival.NEW


def test_newest_key_of_an_author_who_left_is_kept_for_two_minutes() -> None:
    pair = Pair()
    pair.take(pair.share())
    pair.ours.rotate_if_due(frozenset(), S + 100)
    pair.take(pair.share(S + 100), S + 100)
    late, later = pair.say(), pair.say()
    pair.theirs.author_left(S + 105)
    assert not pair.theirs.has_key(1)
    pair.theirs.author_came()
    pair.theirs.author_left(S + 110)
    pair.theirs.drop_old_keys(S + 229)
    assert pair.hear(late) is Arrival.NEW
    pair.theirs.drop_old_keys(S + 230)
    assert not pair.theirs.has_key(later.epoch)
    TheirFeed(TAG, ALICE).author_left(S)  # without any key


def test_key_of_an_author_who_came_back_dies_when_it_would_have_anyway(pair: Pair) -> None:
    pair.theirs.author_left(S + 100)
    pair.theirs.author_came()
    pair.theirs.drop_old_keys(S + 3719)
    assert pair.theirs.has_key(1)
    pair.theirs.drop_old_keys(S + 3720)
    assert not pair.theirs.has_key(1)


# --------------------------------------------------------------------------- waiting for a key


def held(feed: TheirFeed, epoch: int, n: int, now_s: float = S) -> str:
    """As the session does with a frame whose key is not there."""
    why = feed.wait_for(epoch, now_s)
    if not why:
        feed.held.append(Message(ALICE, TAG, epoch, n, b""))
    return why


def test_key_is_asked_for_after_two_seconds_and_once_for_each_epoch() -> None:
    feed = TheirFeed(TAG, ALICE)
    assert not feed.lacks_key
    assert feed.epoch_to_ask_for(S) is None
    held(feed, 1, 0)
    assert feed.lacks_key
    assert feed.epoch_to_ask_for(S + 1.9) is None
    assert feed.epoch_to_ask_for(S + 2.0) == 1
    held(feed, 1, 1, S + 3)
    assert feed.epoch_to_ask_for(S + 300) is None
    held(feed, 2, 0, S + 300)
    assert feed.epoch_to_ask_for(S + 301.9) is None
    assert feed.epoch_to_ask_for(S + 302) == 2


def test_newest_epoch_is_asked_for_and_stands_for_the_older_ones() -> None:
    feed = TheirFeed(TAG, ALICE)
    for epoch in (3, 7, 5):
        held(feed, epoch, 0)
    assert feed.epoch_to_ask_for(S + 2) == 7
    assert feed.epoch_to_ask_for(S + 9) is None
    assert feed.refuse(7)
    assert len(feed.take_held()) == 3
    assert [held(feed, epoch, 1) for epoch in (3, 5, 7, 8)] == ["not for us"] * 3 + [""]


def test_requests_are_so_far_apart_that_all_are_answered() -> None:
    feed = TheirFeed(TAG, ALICE)
    held(feed, 1, 0, S)
    held(feed, 2, 0, S + 1)
    assert feed.epoch_to_ask_for(S + 2) == 1
    assert feed.epoch_to_ask_for(S + 5.9) is None
    assert feed.epoch_to_ask_for(S + 6) == 2


def test_refusal_counts_only_as_the_answer_to_a_request() -> None:
    feed = TheirFeed(TAG, ALICE)
    assert not feed.refuse(1)
    held(feed, 1, 0)
    assert not feed.refuse(1)
    feed.epoch_to_ask_for(S + 2)
    assert not feed.refuse(2)
    assert feed.refuse(1)
    assert not feed.refuse(1)


def test_refusal_ends_the_waiting_for_that_epoch_and_not_for_the_next() -> None:
    feed = TheirFeed(TAG, ALICE)
    held(feed, 1, 0)
    feed.epoch_to_ask_for(S + 2)
    held(feed, 2, 0, S + 2)
    feed.refuse(1)
    assert [m.epoch for m in feed.take_held()] == [1]
    assert [m.epoch for m in feed.held] == [2]
    assert feed.epoch_to_ask_for(S + 6) == 2


def test_waiting_ends_a_minute_after_a_request_that_nobody_answers() -> None:
    feed = TheirFeed(TAG, ALICE)
    held(feed, 9, 0)
    feed.give_up(S + 1000)  # not asked yet
    assert feed.take_held() == []
    feed.epoch_to_ask_for(S + 2)
    feed.give_up(S + 61.9)
    assert feed.take_held() == []
    feed.give_up(S + 62)
    assert len(feed.take_held()) == 1
    assert held(feed, 9, 1, S + 63) == "not for us"


def test_key_that_comes_ends_the_waiting_for_its_epoch_and_older_ones() -> None:
    pair = Pair()
    for epoch in (1, 2, 3):
        held(pair.theirs, epoch, 0)
    pair.share()
    pair.ours.rotate_if_due(frozenset(), S)
    assert pair.take(pair.share())
    assert [m.epoch for m in pair.theirs.take_held()] == [1, 2]
    assert [m.epoch for m in pair.theirs.held] == [3]
    assert pair.theirs.epoch_to_ask_for(S + 2) == 3
    pair.ours.rotate_if_due(frozenset(), S + 3600)
    assert pair.take(pair.share(S + 3600), S + 3600)
    assert not pair.theirs.lacks_key


def test_author_who_is_gone_is_not_waited_for_and_may_be_asked_again() -> None:
    feed = TheirFeed(TAG, ALICE)
    held(feed, 1, 0)
    feed.epoch_to_ask_for(S + 2)
    assert len(feed.stop_waiting()) == 1
    assert (feed.held, feed.lacks_key) == ([], False)
    held(feed, 1, 0, S + 3)
    assert feed.epoch_to_ask_for(S + 5) == 1


def test_epochs_that_somebody_invents_are_remembered_up_to_64() -> None:
    feed = TheirFeed(TAG, ALICE)
    for epoch in range(1000, 1064):
        assert feed.wait_for(epoch, S) == ""
    assert feed.wait_for(1, S + 1) == "not held"
    assert feed.epoch_to_ask_for(S + 2) == 1063
    assert feed.wait_for(1, S + 3) == "not held"
    feed.give_up(S + 62)
    assert feed.wait_for(1, S + 63) == ""  # in place of one that is over
    assert feed.epoch_to_ask_for(S + 65) == 1


# --------------------------------------------------------------------------- gaps


def entry(seq: int, previous: bytes = bytes(32), kind: int = EntryKind.CHAT) -> Entry:
    return Entry(kind, TAG, ALICE, seq, previous, bytes(32), MS, bytes(16), b"%d" % seq)


def linked(size: int) -> list[Entry]:
    """Entries 1 to `size` of one feed."""
    entries: list[Entry] = []
    for seq in range(1, size + 1):
        entries.append(entry(seq, entries[-1].entry_id if entries else bytes(32)))
    return entries


def test_gap_is_noted_reported_and_filled() -> None:
    entries, feed = linked(6), TheirFeed(TAG, ALICE)
    assert feed.accept(entries[0], MS) is Arrival.NEW
    assert feed.accept(entries[4], MS) is Arrival.NEW
    assert feed.missing_count() == 3
    assert feed.report() == FeedReport(ALICE, 5, entries[4].entry_id, (2, 3, 4))
    known = Head(bytes(16), 7, b"h" * 32, bytes(64))
    assert feed.report(known) == replace(feed.report(), witnessed_index=7, witnessed_hash=b"h" * 32)
    assert feed.accept(entries[2], MS) is Arrival.NEW
    assert feed.report().missing == (2, 4)
    assert feed.accept(entries[2], MS) is Arrival.DUPLICATE
    for late in (1, 3):
        assert feed.accept(entries[late], MS) is Arrival.NEW
    assert (feed.missing, feed.missing_count()) == ([], 0)
    assert feed.accept(entries[5], MS) is Arrival.NEW


def test_entry_on_the_chain_already_is_a_duplicate() -> None:
    entries, feed = linked(2), TheirFeed(TAG, ALICE)
    for e in entries:
        assert feed.accept(e, MS) is Arrival.NEW
    assert [feed.accept(e, MS) for e in entries] == [Arrival.DUPLICATE] * 2


def test_entry_that_does_not_follow_the_last_is_a_fork() -> None:
    entries, feed = linked(3), TheirFeed(TAG, ALICE)
    feed.accept(entries[0], MS)
    assert feed.accept(entry(2, previous=b"\1" * 32), MS) is Arrival.FORK
    assert feed.accept(entries[1], MS) is Arrival.NEW  # nothing moved


def test_another_entry_in_the_place_of_the_last_is_a_fork() -> None:
    entries, feed = linked(2), TheirFeed(TAG, ALICE)
    for each in entries:
        feed.accept(each, MS)
    other = replace(entries[1], salt=b"another salt 16b")
    assert feed.accept(other, MS) is Arrival.FORK
    assert feed.accept_late(other, ALICE, MS) is Arrival.FORK
    report = feed.report()
    assert not feed.differs(report)
    assert feed.differs(replace(report, entry_id=other.entry_id))
    assert not feed.differs(replace(report, seq=1, entry_id=entries[0].entry_id))


@pytest.mark.parametrize("first", [2, 3, 4])
def test_entry_in_a_gap_that_does_not_fit_what_stands_beside_it_is_a_fork(first: int) -> None:
    """Seqs 2 to 4 are missing; whichever comes first, what lies comes to nothing."""
    entries, feed = linked(5), TheirFeed(TAG, ALICE)
    feed.accept(entries[0], MS)
    feed.accept(entries[4], MS)
    assert feed.accept(entry(2, previous=b"\1" * 32), MS) is Arrival.FORK
    assert feed.accept(replace(entries[3], seen=b"\1" * 32), MS) is Arrival.FORK
    feed.accept(entries[first - 1], MS)
    for seq in {2, 3, 4} - {first}:
        if first in (seq - 1, seq + 1):
            assert feed.accept(entry(seq, previous=b"\1" * 32), MS) is Arrival.FORK
    for each in entries:
        feed.accept(each, MS)
    assert (feed.missing, feed._edges) == ([], {})


def test_report_names_the_first_64_that_are_missing() -> None:
    feed = TheirFeed(TAG, ALICE)
    feed.accept(entry(1), MS)
    feed.accept(entry(2**64 - 1), MS)
    assert feed.report().missing == tuple(range(2, 2 + MAX_MISSING))
    assert feed.missing_count() == 2**64 - 3


def test_nothing_below_the_stay_is_missing_nor_is_the_link_to_it_checked() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    pair.audience(ALICE, CAROL)
    pair.say()
    pair.take(pair.share())
    joined = pair.audience(ALICE, BOB, CAROL)
    assert pair.hear(joined) is Arrival.NEW
    assert (pair.theirs.first_seq, pair.theirs.missing_count()) == (3, 0)
    assert pair.hear(pair.say()) is Arrival.NEW


def test_stay_that_began_before_the_key_came_has_a_gap() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    pair.audience(ALICE, BOB, CAROL)
    pair.say()
    pair.take(pair.share())
    assert pair.hear(pair.say()) is Arrival.NEW
    assert pair.theirs.report().missing == (1, 2)


def test_first_entry_of_a_stay_is_missing_if_it_was_lost() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    pair.say()
    pair.take(pair.share())
    pair.audience(ALICE, BOB, CAROL)
    assert pair.hear(pair.say()) is Arrival.NEW
    assert pair.theirs.report().missing == (2,)


def test_gap_of_a_stay_that_ended_is_missing_no_more() -> None:
    pair = Pair()
    pair.take(pair.share())
    pair.hear(pair.audience(ALICE, BOB))
    pair.say()
    pair.hear(pair.say())
    assert pair.theirs.missing_count() == 1
    pair.ours.rotate_if_due(frozenset((PEOPLE[ALICE],)), S)
    pair.audience(ALICE)
    pair.say()
    pair.take(pair.share())
    assert pair.hear(pair.audience(ALICE, BOB)) is Arrival.NEW
    assert pair.theirs.missing_count() == 0
    assert pair.theirs.report().missing == ()


def test_entry_from_before_the_stay_is_not_ours() -> None:
    pair = Pair()
    pair.share(to=CAROL)
    old = pair.ours.write(EntryKind.CHAT, b"before", bytes(32), MS)
    pair.take(pair.share())
    assert pair.hear(pair.ours.seal(old)) is Arrival.NOT_OURS


def test_gaps_that_an_author_opens_are_bounded_and_the_oldest_given_up() -> None:
    feed = TheirFeed(TAG, ALICE)
    entries = linked(2060)
    for seq in range(2, 2 * 1030, 2):
        feed.accept(entries[seq - 1], MS)
    assert len(feed.missing) == 1024
    assert feed.missing[-1] == (2057, 2057)
    assert len(feed._edges) <= 2 * 1024
    assert feed.accept(entries[0], MS) is Arrival.DUPLICATE
    assert feed.accept(entries[2056], MS) is Arrival.NEW


@given(st.permutations(range(1, 9)), st.lists(st.integers(1, 8), max_size=8))
def test_any_order_and_any_repeats_give_every_entry_once(
    order: list[int], repeats: list[int]
) -> None:
    entries, feed = linked(8), TheirFeed(TAG, ALICE)
    new = []
    for seq in [*order, *repeats, *order]:
        if feed.accept(entries[seq - 1], MS) is Arrival.NEW:
            new.append(seq)
        have = set(new)
        lacking = {s for low, high in feed.missing for s in range(low, high + 1)}
        assert not have & lacking
        assert have | lacking == set(range(1, feed.highest + 1))
    assert new == order


# --------------------------------------------------------------------------- an earlier run's feed


def test_feed_of_an_earlier_run_goes_on_where_its_chain_ends() -> None:
    entries, feed = linked(7), TheirFeed(TAG, ALICE)
    for seq in (1, 2, 5, 4):
        feed.resume(entries[seq - 1], MS + seq)
    assert (feed.highest, feed.last_id) == (5, entries[4].entry_id)
    assert (feed.missing, feed.updated_ms) == ([(3, 3)], MS + 5)
    assert feed.accept(entries[4], MS) is Arrival.DUPLICATE
    assert feed.accept(entries[6], MS) is Arrival.NEW
    assert feed.missing == [(3, 3), (6, 6)]


def test_feed_of_an_earlier_run_lacks_nothing_from_before_its_stay() -> None:
    entries, feed = linked(9), TheirFeed(TAG, ALICE)
    feed.resume_stay(6)
    for seq in (1, 2, 3, 8):  # off the list at 4 and 5; 6 and 7 were lost
        feed.resume(entries[seq - 1], MS)
    assert feed.report().missing == (6, 7)
    assert feed.missing_count() == 2


def test_feed_of_an_earlier_run_lacks_the_start_of_its_stay_if_that_was_lost() -> None:
    feed = TheirFeed(TAG, ALICE)
    feed.resume_stay(6)
    feed.resume(entry(8), MS)
    assert feed.report().missing == (6, 7)


def test_feed_of_an_earlier_run_without_a_noted_stay_began_with_its_first_entry() -> None:
    feed = TheirFeed(TAG, ALICE)
    feed.resume(entry(8), MS)
    assert feed.report().missing == ()


def test_audience_is_the_last_that_the_author_wrote() -> None:
    feed = TheirFeed(TAG, ALICE)
    feed.accept(entry(1, kind=EntryKind.AUDIENCE), MS)
    assert feed.audience == b"1"
    feed.accept(entry(3, kind=EntryKind.AUDIENCE), MS)
    feed.accept(entry(2, kind=EntryKind.AUDIENCE), MS)  # late
    assert feed.audience == b"3"


def test_sealed_entry_is_padded() -> None:
    pair = Pair()
    pair.share()
    signed: SignedEntry = pair.ours.write(EntryKind.CHAT, b"x", bytes(32), MS)
    message = pair.ours.seal(signed)
    assert len(message.sealed) == len(seal(bytes(32), pad(signed.serialize()), b""))
    assert len(message.sealed) == 256 + 28
