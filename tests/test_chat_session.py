"""One member's rules, in a room that is a list: who reads what, what is said of it, what is kept.

Sections 3 and 4 of DESIGN.md, as far as there is no sync yet.  `room.tamper` is a relay that lies.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulated_room import (
    LOBBY,
    SimulatedMember,
    SimulatedRoom,
    Tamper,
    events,
    is_message,
    keystore,
    payload_of,
    recall,
    session_keys,
)
from simulated_room import tag as tag_behind

import chat_acks
import chat_heard
import chat_memory
from blockchain import BlockType, Draft, Head
from chat_commands import HELP
from chat_effects import (
    Append,
    Close,
    Credit,
    MakeSessionKey,
    Moment,
    Query,
    Ready,
    Remember,
    Show,
    Transmit,
)
from chat_memory import FEEDS_TABLE, MEMBERS_TABLE, Memory
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    FeedReport,
    KeyRefusal,
    KeyRequest,
    KeyShare,
    Message,
    RefusalReason,
    SignedEntry,
    pad,
    session_id_of,
)
from chat_roster import Person
from chat_terminal import Kind
from chat_text import local_time
from chat_wire import (
    MAX_TEXT_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Join,
    Label,
    LeaveReason,
    Ping,
    Pong,
    Rebundle,
    Welcome,
    frame,
    u64,
)
from chat_witness import HEADS_TABLE, Heads
from crypto_utils import (
    BadCiphertext,
    RoomSecret,
    SigningKey,
    open_sealed,
    pair_tag,
    random_bytes,
    seal,
)

# --------------------------------------------------------------------------- relays that lie


def withholding(
    matches: Callable[[bytes], bool], kept: list[bytes], receiver: SimulatedMember | None = None
) -> Tamper:
    """A relay that keeps to itself what matches, for one member or for all."""

    def tamper(_: SimulatedMember | None, to: SimulatedMember, data: bytes) -> list[bytes]:
        if matches(data) and receiver in (None, to):
            kept.append(data)
            return []
        return [data]

    return tamper


def carries(kind: type[Any]) -> Callable[[bytes], bool]:
    """Whether a frame's payload is of that kind."""
    return lambda data: isinstance(payload_of(data), kind)


def is_add(data: bytes) -> bool:
    return Frame(data).type == FrameType.ADD


def flipped(data: bytes, at: int = -1) -> bytes:
    """One bit of a frame changed, by default of what it carries."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def forged(author: SimulatedMember, epoch: int, n: int = 0, size: int = 256) -> bytes:
    """What anybody can send in somebody's name: noise, in a frame of the right form."""
    noise = Message(author.session_id, LOBBY.tag, epoch, n, random_bytes(size + 28))
    return Broadcast(noise.serialize()).serialize()


def tag_of(one: SimulatedMember, other: SimulatedMember) -> bytes:
    return pair_tag(
        LOBBY, keystore(one.name).identity.fingerprint, keystore(other.name).identity.fingerprint
    )


def fingerprint(name: str) -> bytes:
    return keystore(name).identity.fingerprint


def opens(member: SimulatedMember, message: Message) -> bool:
    """Whether any key that the session holds, or can make of those, opens a captured message.

    Every message key kept for skipped messages, and the next 40 of every chain."""
    for feed in member.session._heard.feeds.values():
        for chain, _ in feed._chains.values():
            keys = [*chain._skipped.values()]
            keys += [chain.derive(chain.n + ahead).key for ahead in range(40)]
            for key in keys:
                try:
                    open_sealed(key, message.sealed, message.associated)
                except BadCiphertext:
                    continue
                return True
    return False


def captured_messages(frames: Iterable[bytes]) -> list[Message]:
    return [p for p in map(payload_of, frames) if isinstance(p, Message)]


def unwrapped(member: SimulatedMember, frames: Iterable[bytes]) -> list[bytes]:
    """The recipients of all captured shares that open with any SEK that the session holds."""
    found = []
    for share in (p for p in map(payload_of, frames) if isinstance(p, KeyShare)):
        for _, sek in member.session._seks:
            try:
                share.unwrap(sek)
            except BadCiphertext:
                continue
            found.append(share.recipient)
    return found


# --------------------------------------------------------------------------- saying


def test_line_reaches_everybody_once_and_is_one_coin(
    alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("hello")
    bob.types("hi")
    assert bob.messages == ["alice: hello"]
    assert carol.messages == ["alice: hello", "bob: hi"]
    assert alice.texts == bob.texts == carol.texts == ["hello", "hi"]
    assert [m.coins for m in (alice, bob, carol)] == [1, 1, 0]
    assert [m.counts for m in (alice, bob, carol)] == [{}, {}, {}]


def test_first_entry_is_preceded_by_its_bundle_and_its_audience(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    alice.types("two")
    sent, sent_too = BlockType.SENT, BlockType.CONTROL
    assert [d.type for d in alice.drafts] == [BlockType.EVENT, sent_too, sent, sent]
    received = BlockType.RECEIVED
    assert [d.type for d in bob.drafts] == [BlockType.EVENT, received, received, received]
    for member in (alice, bob):
        event = Event.parse(member.drafts[0].record)
        assert (event.kind, event.body) == (EventKind.BUNDLE, alice.bundle)
    audience = alice.entries[0].text
    assert audience == b"".join(sorted(fingerprint(n)[:16] for n in ("alice", "bob")))


def test_nothing_is_shown_sent_or_credited_before_its_append(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    bob.types("hi")
    room.passes(5)
    for member in (alice, bob):
        seen = []
        for effect in member.effects:
            match effect:
                case Append(draft) if draft in member.drafts:
                    seen.append(draft.type.name)
                case Show(line) if line.kind is Kind.MESSAGE:
                    seen.append("shown")
                case Transmit(data) if is_message(data):
                    seen.append("sent")
                case Credit():
                    seen.append("credited")
        ours = ["EVENT", "CONTROL", "sent", "SENT", "sent", "credited"]
        theirs = ["EVENT", "RECEIVED", "RECEIVED", "shown"]
        assert seen == (ours + theirs if member is alice else theirs + ours)


def test_audience_is_written_again_when_it_changed_and_only_then(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.crash(bob)
    alice.types("two")  # who went offline stays entitled
    room.join("carol")
    alice.types("three")
    kinds = [e.kind for e in alice.entries]
    chat, audience = EntryKind.CHAT, EntryKind.AUDIENCE
    assert kinds == [audience, chat, chat, audience, chat]


def test_seen_names_the_last_entry_of_somebody_else_that_was_shown(
    alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("first")
    bob.types("second")
    said = [e for e in bob.entries if e.text == b"first"]
    assert bob.entries[-1].seen == said[0].entry_id
    bob.types("/ignore carol")
    carol.types("never shown")
    bob.types("third")
    assert bob.entries[-1].seen == said[0].entry_id


def test_own_echo_is_the_receipt_of_the_relay(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=alice)
    alice.types("hello")
    assert alice.session.unsent() == 1
    assert "1 of your messages not delivered" in alice.asks("/status")[-1]
    alice.hears(*kept)
    assert alice.session.unsent() == 0
    assert alice.counts == {}


def test_altered_echo_is_counted_and_the_message_stays_unsent(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=alice)
    alice.types("hello")
    audience, hello = kept
    alice.hears(audience, flipped(hello))
    assert (alice.session.unsent(), alice.counts) == (1, {"altered echo": 1})
    alice.hears(hello, hello)
    assert (alice.session.unsent(), alice.counts["duplicate"]) == (0, 1)


def test_ack_is_a_receipt_too_where_the_echo_was_altered_or_withheld(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(is_message, [], receiver=alice)
    alice.types("hello")
    assert alice.session.unsent() == 1
    room.passes(5.0)
    assert bob.messages == ["alice: hello"]
    assert alice.session.unsent() == 0


def test_ack_of_somebody_whom_it_was_not_sent_to_is_no_receipt(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.tamper = withholding(is_message, [])
    alice.types("hello nobody")
    room.tamper = None
    carol = room.join("carol")
    alice.types("hello carol")
    room.passes(5.0)
    assert carol.messages == ["alice: hello carol"]
    assert alice.session.unsent() == 1


@pytest.mark.parametrize("line", ["", "   ", "\n"])
def test_empty_line_sends_nothing(alice: SimulatedMember, bob: SimulatedMember, line: str) -> None:
    alice.types(line)
    assert (alice.drafts, bob.messages, alice.notices) == ([], [], alice.notices)


@pytest.mark.parametrize("line", ["/nonsense", "/msgbob hello", "/", "/ hello"])
def test_unknown_command_is_never_sent_and_not_put_before_the_next(
    alice: SimulatedMember, bob: SimulatedMember, line: str
) -> None:
    answer = alice.asks(line)
    assert "nothing was sent" in answer[0]
    assert alice.refused == [""]
    assert (alice.drafts, bob.messages, alice.coins) == ([], [], 0)


def test_two_slashes_say_one(alice: SimulatedMember, bob: SimulatedMember) -> None:
    alice.types("//who")
    assert bob.messages == ["alice: /who"]


def test_longest_message_goes_through_and_a_longer_one_is_given_back(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    longest = "é" * (MAX_TEXT_BYTES // 2)
    alice.types(longest)
    assert bob.messages == [f"alice: {longest}"]
    blocks = len(alice.drafts)
    answer = alice.asks(longest + "x")
    assert answer == [
        "chainroom: this message has 16385 bytes, at most 16384 can be sent: not sent"
    ]
    assert alice.refused == [longest + "x"]
    private = "/msg bob " + longest + "x"
    alice.types(private)
    assert alice.refused[1:] == [private]
    assert (len(alice.drafts), alice.coins, len(bob.messages)) == (blocks, 1, 1)
    alice.types("shorter")
    assert bob.messages[1:] == ["alice: shorter"]


@pytest.mark.parametrize("line", ["half a \ud83d pair", "/msg bob \udcff"])
def test_lone_surrogate_is_refused_and_given_back(
    alice: SimulatedMember, bob: SimulatedMember, line: str
) -> None:
    assert "not Unicode text: not sent" in alice.asks(line)[0]
    assert (alice.refused, alice.drafts, bob.messages) == ([line], [], [])


def test_pasted_lines_are_one_message(alice: SimulatedMember, bob: SimulatedMember) -> None:
    alice.types("one\ntwo\n/quit")
    assert bob.messages == ["alice: one\ntwo\n/quit"]
    assert alice.coins == 1


def test_help_lists_the_commands_and_the_chains_owner_answers_its_own(
    alice: SimulatedMember,
) -> None:
    assert len(alice.asks("/help")) == len(HELP)
    alice.types("/history 5")
    assert alice.effects[-1] == Query("history", "5")


# --------------------------------------------------------------------------- who can read what


def test_who_joins_later_reads_nothing_said_before(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("before")
    bob.types("before, too")
    captured = list(room.captured)
    dave = room.join("dave")
    alice.types("after")
    bob.types("after, too")
    assert dave.messages == ["alice: after", "bob: after, too"]
    assert not dave.said("missing")
    dave.hears(*captured)
    dave.hears(*reversed(captured))
    room.passes(10)
    dave.hears(*captured)
    assert dave.texts == ["after", "after, too"]


def test_latecomer_cannot_open_captured_bytes_with_all_its_keys(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("before")
    bob.types("before, too")
    alice.types("/msg bob between us")
    captured = list(room.captured)
    dave = room.join("dave")
    alice.types("after")
    bob.types("after, too")
    messages = captured_messages(captured)
    assert len(messages) == 6
    assert not any(opens(dave, m) for m in messages)
    assert unwrapped(dave, captured) == []
    # That this can fail: what is meant for him and held back opens.
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=dave)
    alice.types("held back")
    assert opens(dave, captured_messages(kept)[0])
    assert unwrapped(dave, room.captured) == [dave.session_id] * 2


def test_ignored_person_reads_nothing_said_after(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("for both")
    assert "you ignore carol" in alice.asks("/ignore carol")[0]
    before = len(room.captured)
    alice.types("for bob")
    assert bob.messages == ["alice: for both", "alice: for bob"]
    assert carol.messages == ["alice: for both"]
    captured = room.captured[before:]
    messages = captured_messages(captured)
    assert [m.epoch for m in messages] == [2, 2]
    assert unwrapped(carol, captured) == []
    room.passes(10)  # she asks for the key, in vain
    carol.hears(*captured, *room.captured)
    assert not any(opens(carol, m) for m in messages)
    assert opens(carol, captured_messages(room.captured[:before])[0]) is False  # used up
    assert carol.texts == ["for both"]


def test_ignored_person_is_not_shown_but_kept_and_confirmed(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/ignore bob")
    bob.types("can you hear me?")
    bob.types("/msg alice and now?")
    assert alice.messages == []
    assert alice.texts == ["can you hear me?", "and now?"]
    room.passes(5)
    assert "your last message to the room: delivered to 1 of 1" in bob.asks("/status")[1]
    assert bob.session.unsent() == 0


def test_ignored_person_can_say_nothing_by_the_shape_of_his_feed_either(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.types("one")
    alice.types("/ignore bob")
    before = len(alice.lines)
    room.tamper = withholding(is_message, [], receiver=alice)
    bob.types("lost")
    room.tamper = None
    bob.types("found")
    say_entry(bob, 77, b"of another kind")
    assert alice.lines[before:] == []
    assert alice.texts == ["one", "found"]


def test_ignore_off_lets_both_read_from_then_on(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    alice.types("/ignore bob")
    alice.types("two")
    bob.types("unheard")
    alice.types("/ignore bob off")
    alice.types("three")
    bob.types("heard")
    assert bob.messages == ["alice: one", "alice: three"]
    assert alice.messages == ["bob: heard"]
    assert not bob.said("missing")
    assert not alice.said("missing")
    room.passes(5)
    assert not bob.said("missing")
    assert "your last message to the room: delivered to 1 of 1" in alice.asks("/status")[1]


def test_ignoring_is_on_the_chain_and_said_once(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    assert alice.asks("/ignore") == ["-- you ignore nobody"]
    name = alice.session._roster.name(fingerprint("bob"))
    alice.types("/ignore bob")
    assert alice.asks("/ignore") == [f"-- you ignore {name}"]
    assert alice.asks("/who")[1].endswith("ignored)")
    assert alice.asks("/ignore bob") == [f"-- you ignore {name} already"]
    alice.types(f"/ignore {name} OFF")
    assert alice.asks(f"/ignore {name} off") == [f"-- you do not ignore {name}"]
    events = [Event.parse(d.record) for d in alice.drafts]
    assert [e.kind for e in events] == [EventKind.IGNORE, EventKind.UNIGNORE]
    assert {e.body for e in events} == {fingerprint("bob")}


def test_person_ignored_elsewhere_can_be_taken_back_here(room: SimulatedRoom) -> None:
    stranger = b"\xbe\xef" + bytes(30)
    alice = room.join("alice", Memory(ignored={stranger}))
    assert alice.asks("/ignore") == ["-- you ignore ?#beef"]
    assert "no longer ignore" in alice.asks("/ignore ?#beef off")[0]
    assert alice.asks("/ignore") == ["-- you ignore nobody"]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/ignore nobody", "nobody called nobody"),
        ("/ignore bob on", "say it like this"),
        ("/ignore bob off now", "say it like this"),
        ("/msg", "say it like this"),
        ("/msg bob", "say it like this"),
        ("/msg nobody hello", "nobody called nobody"),
        ("/msg alice hello", "nobody called alice"),
    ],
)
def test_command_that_cannot_be_done_changes_nothing(
    alice: SimulatedMember, bob: SimulatedMember, line: str, answer: str
) -> None:
    assert answer in alice.asks(line)[0]
    assert (alice.drafts, alice.coins, bob.messages) == ([], 0, [])
    assert alice.refused == ([line] if line.startswith("/msg") else [])


# --------------------------------------------------------------------------- two people


def test_two_people_talk_in_private_in_both_directions(
    alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("/msg bob psst")
    bob.types("/msg alice what?")
    alice.types("/msg bob nothing")
    assert bob.messages == ["alice (private): psst", "alice (private): nothing"]
    assert alice.messages == ["bob (private): what?"]
    assert alice.texts == bob.texts == ["psst", "what?", "nothing"]
    assert [m.coins for m in (alice, bob, carol)] == [2, 1, 0]
    tag = tag_of(alice, bob)
    assert {e.tag for e in alice.entries + bob.entries} == {tag}
    assert [m.counts for m in (alice, bob, carol)] == [{}, {}, {}]


def test_private_message_is_no_frame_no_hole_and_nothing_missing_for_others(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    delivered: list[bytes] = []
    alice.types("to all")
    room.passes(5)

    def tamper(_: SimulatedMember | None, to: SimulatedMember, data: bytes) -> list[bytes]:
        if to is carol:
            delivered.append(data)
        return [data]

    room.tamper = tamper
    alice.types("/msg bob psst")
    bob.types("/msg alice what?")
    room.passes(5)
    assert delivered == []
    alice.types("to all again")
    assert carol.messages == ["alice: to all", "alice: to all again"]
    assert [e.seq for e in carol.entries] == [1, 2, 3]
    assert not carol.said("missing")
    assert not any("missing" in line for line in carol.asks("/status"))


def test_private_message_is_confirmed_in_private(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("/msg bob psst")
    assert alice.session.unsent() == 1
    room.passes(5)
    assert alice.session.unsent() == 0
    acks = [a for a in bob.payloads(Ack) if a.tag == tag_of(alice, bob)]
    assert len(acks) == 2  # the second says that the author's chain with it is held too
    assert {ack.digest for ack in acks} == {bytes(32)}
    private = [a for a in alice.payloads(Ack) if a.tag != LOBBY.tag]
    (report,) = private[0].feeds
    assert (report.session_id, report.seq, len(private)) == (alice.session_id, 2, 1)
    assert private[0].head.index == len(alice.chain)
    assert all(a.tag == LOBBY.tag for a in carol.payloads(Ack))
    assert carol.counts == {}


def test_private_message_to_somebody_away_is_kept_said_and_counted_unsent(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.crash(bob)
    sent = len(alice.sent)
    answer = alice.asks("/msg bob psst")
    assert "bob" in answer[0]
    assert "is away: kept on your chain, delivered when bob#" in answer[0]
    assert (alice.texts, alice.coins, alice.session.unsent()) == (["psst"], 1, 1)
    assert alice.sent[sent:] == []
    alice.types("/quit")
    room.passes(10.5)
    assert alice.exit_code == 3


def test_private_message_to_somebody_ignored_is_refused_and_given_back(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/ignore bob")
    assert "/ignore bob off comes first" in alice.asks("/msg bob psst")[0]
    assert (alice.refused, bob.messages, alice.coins) == (["/msg bob psst"], [], 0)


def test_namesakes_are_told_apart(room: SimulatedRoom, alice: SimulatedMember) -> None:
    one, two = room.join("bob"), room.join("carol", nick="bob")
    room.passes(5)
    answer = alice.asks("/msg bob which?")[0]
    names = sorted(alice.session._roster.name(fingerprint(n)) for n in ("bob", "carol"))
    assert answer == f"chainroom: which bob? {', '.join(names)}"
    alice.types(f"/msg {alice.session._roster.name(fingerprint('carol'))} you")
    assert (one.messages, two.messages) == ([], ["alice (private): you"])


# --------------------------------------------------------------------------- what a relay can do


def test_frame_repeated_is_counted_and_shown_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = lambda _, to, data: [data] * (2 if to is bob and is_message(data) else 1)
    alice.types("hello")
    assert (bob.messages, bob.counts) == (["alice: hello"], {"duplicate": 2})
    room.tamper = None
    room.passes(100)
    bob.hears(*(f for f in room.captured if is_message(f)))
    assert (bob.messages, bob.counts) == (["alice: hello"], {"duplicate": 4})
    assert bob.texts == ["hello"]


def test_frame_withheld_is_a_gap_said_with_its_number_and_filled_later(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("two")
    alice.types("three")
    room.tamper = None
    alice.types("four")
    assert bob.messages == ["alice: one", "alice: four"]
    name = bob.session._roster.name(fingerprint("alice"))
    assert bob.notices[-1] == f"-- 2 messages of {name} missing, fetching"
    assert "-- 2 messages of others missing here" in bob.asks("/status")
    bob.hears(kept[1])
    assert "-- 1 message of others missing here" in bob.asks("/status")
    bob.hears(kept[0], *kept)
    assert bob.messages[2:] == ["alice: three", "alice: two"]
    assert not any("missing" in line for line in bob.asks("/status"))
    assert bob.counts == {"duplicate": 2}
    assert sum("missing here" in notice for notice in bob.notices) == 2  # both asked for


def test_sender_hears_that_a_withheld_message_is_missing_to_somebody(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.is_syncing = False
    alice.types("one")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("two")
    room.tamper = None
    alice.types("three")
    room.passes(5)
    assert f"not confirmed by {alice.session._roster.name(fingerprint('bob'))}" in str(
        alice.asks("/status")
    )
    bob.hears(*kept)
    room.passes(5)
    assert "not confirmed" not in str(alice.asks("/status"))


def test_frames_out_of_order_are_all_shown_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("zero")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    for word in ("one", "two", "three"):
        alice.types(word)
    bob.hears(*reversed(kept))
    assert bob.messages == [f"alice: {w}" for w in ("zero", "three", "two", "one")]
    assert bob.counts == {}
    assert not any("missing" in line for line in bob.asks("/status"))


def test_frame_altered_is_counted_and_the_true_one_still_opens(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("zero")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("one")
    bob.hears(*(flipped(kept[0], at) for at in (-1, -100, 60)))
    assert (bob.messages, bob.counts) == (["alice: zero"], {"altered": 3})
    bob.hears(*kept)
    assert bob.messages[1:] == ["alice: one"]


def test_forged_frame_of_a_high_number_costs_nothing_but_itself(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    bob.hears(forged(alice, 1, 500), forged(alice, 1, 2), forged(alice, 1, 5000))
    alice.types("two")
    assert bob.messages == ["alice: one", "alice: two"]
    assert bob.counts == {"altered": 2, "too far ahead": 1}


def test_member_cannot_speak_in_the_name_of_another(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    carol.types("mine")
    alice.types("hers")
    # Bob holds the key that Carol's words travel under, but not her signing key.
    chain, _ = bob.session._heard.feeds[LOBBY.tag, carol.session_id]._chains[1]
    head = Message.header(carol.session_id, LOBBY.tag, 1, chain.n)
    entry = Entry.create(
        EntryKind.CHAT, LOBBY.tag, carol.session_id, 3, bytes(32), bytes(32), 0, b"not hers"
    )
    signed = entry.sign(bob.session._key)
    sealed = seal(chain.derive(chain.n).key, pad(signed.serialize()), head)
    fake = Message(carol.session_id, LOBBY.tag, 1, chain.n, sealed)
    room.carry(bob, Broadcast(fake.serialize()).serialize())
    room.settle()
    assert (alice.messages, alice.counts) == (["carol: mine"], {"altered": 1})
    ack = Ack.create(bob.session._key, carol.session_id, LOBBY.tag, 99, bytes(32), (), alice.head())
    alice.hears(Broadcast(ack.serialize()).serialize())
    assert alice.counts["bad signature"] == 1
    carol.types("mine again")
    assert alice.messages[1:] == ["carol: mine again"]


def test_payload_of_nobody_who_is_here_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.types("hello")
    room.tick()
    room.crash(bob)
    before = alice.counts
    alice.hears(*(f for f in bob.sent if Frame(f).type == FrameType.BROADCAST))
    assert before == {}
    assert alice.counts == {"of no member": 3}  # its audience, its text and its ack
    assert alice.messages == ["bob: hello"]


def test_room_and_private_cannot_be_exchanged(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("/msg bob zero")
    alice.types("zero")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("for the room")
    alice.types("/msg bob for him")
    in_room, in_private = (p.serialize() for p in captured_messages(kept))
    bob.hears(Direct(bob.session_id, in_room).serialize(), Broadcast(in_private).serialize())
    assert bob.counts == {"came the wrong way": 2}
    carol.hears(Broadcast(in_private).serialize(), Direct(carol.session_id, in_private).serialize())
    assert carol.counts == {"of another conversation": 2}
    bob.hears(*kept)
    assert bob.messages[2:] == ["alice: for the room", "alice (private): for him"]


def test_ack_and_share_have_their_way_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.types("hello")
    room.passes(5)
    alice_counts = alice.counts
    ack, share = bob.payloads(Ack)[0].serialize(), bob.payloads(KeyShare)[0].serialize()
    alice.hears(Direct(alice.session_id, ack).serialize(), Broadcast(share).serialize())
    assert alice_counts == {}
    assert alice.counts == {"came the wrong way": 2}


def say_entry(
    member: SimulatedMember, kind: int, text: bytes, tag: bytes = LOBBY.tag, seq: int = 0
) -> Entry:
    """An entry that the member's session would never write, sealed and sent by it all the same."""
    feed = member.session._room_conversation.ours
    previous = feed.ids[-1] if feed.ids else bytes(32)
    entry = Entry(
        kind, tag, member.session_id, seq or feed.seq + 1, previous, bytes(32), 0, bytes(16), text
    )
    if not seq:
        feed.ids.append(entry.entry_id)
    member.room.carry(
        member, Broadcast(feed.seal(entry.sign(member.session._key)).serialize()).serialize()
    )
    member.room.settle()
    return entry


def test_entry_of_another_conversation_inside_a_message_is_refused(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    say_entry(alice, EntryKind.CHAT, b"in the wrong place", tag_of(alice, bob), seq=3)
    assert (bob.messages, bob.counts) == (["alice: hello"], {"altered": 1})
    alice.types("again")
    assert bob.messages[1:] == ["alice: again"]


def test_entry_of_an_unknown_kind_is_kept_confirmed_and_named(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    entry = say_entry(alice, 9, b"\xff of the future")
    assert entry in bob.entries
    assert bob.said("sent something of kind 9; kept, not shown")
    room.passes(5)
    assert bob.payloads(Ack)[-1].feeds[0].entry_id == entry.entry_id


def test_author_who_tells_two_stories_is_said_once_and_the_proof_is_kept(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    feed = alice.session._room_conversation.ours
    feed.ids[-1] = bytes(32)  # as if something else had been said before
    told = say_entry(alice, EntryKind.CHAT, b"another story")
    say_entry(alice, EntryKind.CHAT, b"and another", seq=3)
    assert (bob.texts, bob.counts) == (["hello"], {"fork": 2})
    name = f"alice#{tag_behind('alice')}"
    forked = f"FORK: {name} signed two different messages in one place; both are kept as proof: "
    assert bob.alerts == [forked + "export --format proof FILE"]
    (proof,) = events(bob, EventKind.FORK)
    assert proof[:-64] == told.head
    author = bob.session._roster.live[alice.session_id]
    author.session_key.verify(proof[-64:], Label.ENTRY_SIG, told.head)


# --------------------------------------------------------------------------- keys


def test_frames_before_their_key_are_held_and_opened_in_order_when_it_comes(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    shares: list[bytes] = []
    room.tamper = withholding(carries(KeyShare), shares)
    for word in ("one", "two", "three"):
        alice.types(word)
    assert bob.messages == []
    assert "-- waiting for their key: 4 frames" in bob.asks("/status")
    bob.hears(*shares)
    assert bob.messages == ["alice: one", "alice: two", "alice: three"]
    assert bob.counts == {}
    assert not bob.said("missing")
    assert not any("wait" in line for line in bob.asks("/status"))
    assert bob.session._heard._held_bytes == 0
    room.passes(5)
    assert bob.payloads(KeyRequest) == []


def test_held_frames_are_at_most_64_a_session(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    shares: list[bytes] = []
    room.tamper = withholding(carries(KeyShare), shares, receiver=bob)
    alice.types("/msg bob in private")
    for n in range(62):
        alice.types(str(n))
    assert bob.counts == {"not held": 1}  # two audiences, one private, 62 to all
    carol.types("of another session")
    assert bob.counts == {"not held": 1}
    assert "-- waiting for their key: 66 frames" in bob.asks("/status")
    room.tamper = None
    bob.hears(*shares)
    assert bob.messages[:2] == ["alice (private): in private", "alice: 0"]
    assert bob.messages[-2:] == ["alice: 60", "carol: of another session"]
    alice.types("62")
    assert bob.said("1 message of alice")


def test_held_frames_are_at_most_4_mib_in_all_and_their_room_comes_back(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    size = 64_512
    bob.hears(*(forged(alice, 1, n, size) for n in range(64)))
    assert bob.counts == {}
    bob.hears(forged(carol, 1, 0, size))
    assert bob.counts == {"not held": 1}
    bob.hears(forged(carol, 1, 1))
    assert bob.counts == {"not held": 1}
    room.crash(alice)
    assert bob.counts == {"not held": 1, "no key came": 64}
    bob.hears(*(forged(carol, 1, n, size) for n in range(63)))
    assert bob.counts["not held"] == 1
    room.crash(carol)
    assert bob.session._heard._held_bytes == 0


def test_key_of_a_frame_that_could_not_be_held_is_asked_for_all_the_same(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    bob.hears(*(forged(alice, 1, n, 64_512) for n in range(64)))
    room.tamper = withholding(carries(KeyShare), [], receiver=bob)
    carol.types("x" * 16_384)
    carol.types("y" * 16_384)
    carol.types("z" * 16_384)
    carol.types("too much")
    room.tamper = None
    room.passes(3)
    carol.types("now I can")
    assert "carol: now I can" in bob.messages


def test_held_frames_go_when_their_author_goes(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(KeyShare), [])
    alice.types("one")
    room.crash(alice)
    assert bob.counts == {"no key came": 2}
    assert not any("wait" in line for line in bob.asks("/status"))
    room.passes(10)
    assert bob.payloads(KeyRequest) == []


def test_held_frames_go_with_the_connection_and_the_key_is_asked_for_on_the_next(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.hears(forged(alice, 1))
    room.passes(3)
    assert bob.counts == {"not for us": 1}
    bob.hears(forged(alice, 2))
    room.disconnect(bob)
    assert bob.counts == {"not for us": 1, "no key came": 1}
    assert bob.session._heard._held_bytes == 0
    room.connect(bob)
    bob.hears(forged(alice, 1))
    room.passes(3)
    assert [r.epoch for r in bob.payloads(KeyRequest)] == [1, 1]


def test_frame_whose_key_never_comes_is_dropped_after_a_minute(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(KeyRequest), [])
    bob.hears(forged(alice, 99))
    room.passes(61.5)
    assert bob.counts == {}
    room.passes(1)
    assert bob.counts == {"no key came": 1}
    assert bob.session._heard._held_bytes == 0


def test_key_is_asked_for_after_two_seconds_and_once_for_each_epoch(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(lambda f: carries(KeyShare)(f) or carries(KeyRequest)(f), [])
    alice.types("one")
    room.passes(1.9, step=0.1)
    assert bob.payloads(KeyRequest) == []
    room.passes(0.2, step=0.1)
    assert [(r.epoch, r.author, r.tag) for r in bob.payloads(KeyRequest)] == [
        (1, alice.session_id, LOBBY.tag)
    ]
    for _ in range(10):
        alice.types("more")
        room.passes(10)
    assert len(bob.payloads(KeyRequest)) == 1
    room.passes(3600, step=60)
    alice.types("of the next epoch")
    room.passes(3)
    assert [r.epoch for r in bob.payloads(KeyRequest)] == [1, 2]


def test_request_is_answered_with_the_present_key_and_what_was_before_is_missing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.is_syncing = False
    kept: list[bytes] = []
    room.tamper = withholding(carries(KeyShare), kept)
    alice.types("one")
    alice.types("two")
    room.tamper = None
    room.passes(3)
    answer = alice.payloads(KeyShare)[-1]
    assert (answer.n, answer.first_seq) == (3, 1)
    assert bob.messages == []
    assert bob.counts == {"before our key": 3}
    alice.types("three")
    assert bob.messages == ["alice: three"]
    assert bob.said("3 messages of alice")
    bob.hears(*kept)  # the first share at last: of an epoch that we hold
    alice.types("four")
    assert bob.messages == ["alice: three", "alice: four"]
    assert bob.counts == {"before our key": 3}


def test_held_frames_are_dropped_when_the_key_is_refused(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/ignore bob")
    alice.types("not for him")
    assert bob.counts == {}
    room.passes(3)
    refusal = alice.payloads(KeyRefusal)
    assert [(r.reason, r.epoch) for r in refusal] == [(RefusalReason.ASK_LATER, 1)]
    assert bob.counts == {"not for us": 2}
    alice.types("nor this")
    room.passes(10)
    assert bob.counts == {"not for us": 3}
    assert len(bob.payloads(KeyRequest)) == 1
    assert bob.session._heard._held_bytes == 0
    room.passes(3600, step=60)
    alice.types("nor this, an hour later")
    room.passes(10)
    assert bob.counts == {"not for us": 4}
    assert sum("not for you to read" in notice for notice in bob.notices) == 1
    assert "-- dropped frames: 4 not for us" in bob.asks("/status")


def test_refusal_by_somebody_we_ignore_too_is_not_said(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/ignore bob")
    bob.types("/ignore alice")
    alice.types("not for him")
    room.passes(3)
    assert bob.counts == {"not for us": 2}
    assert not bob.said("not for you to read")


def test_author_without_a_key_says_that_nothing_is_for_you(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.hears(forged(alice, 1))
    room.passes(3)
    assert [r.reason for r in alice.payloads(KeyRefusal)] == [RefusalReason.NOT_FOR_YOU]
    assert bob.counts == {"not for us": 1}
    alice.types("but this is")
    assert bob.messages == ["alice: but this is"]


def key_request(asker: SimulatedMember, author: SimulatedMember, tag: bytes = LOBBY.tag) -> bytes:
    session = asker.session
    request = KeyRequest.create(session._key, asker.session_id, tag, 1, author.session_id)
    return Direct(author.session_id, request.serialize()).serialize()


def test_requests_of_a_session_are_answered_at_most_every_two_seconds(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("hello")
    alice.types("/msg bob psst")
    given = len(alice.payloads(KeyShare))
    request = key_request(bob, alice)
    alice.hears(request, request)
    room.passes(1.9)
    alice.hears(request)
    assert len(alice.payloads(KeyShare)) == given + 1
    assert alice.counts == {"asked too often": 2}
    alice.hears(key_request(carol, alice), key_request(bob, alice, tag_of(alice, bob)))
    assert len(alice.payloads(KeyShare)) == given + 3
    room.passes(0.1)
    alice.hears(request)
    assert len(alice.payloads(KeyShare)) == given + 4


def test_request_meant_for_somebody_else_is_not_answered(
    alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("hello")
    given = len(alice.payloads(KeyShare))
    payload = Direct.parse(Frame(key_request(bob, carol)).body).payload
    alice.hears(Direct(alice.session_id, payload).serialize(), key_request(bob, carol))
    assert alice.counts == {"misdirected": 2}
    assert len(alice.payloads(KeyShare)) == given


def test_share_meant_for_somebody_else_is_not_taken(
    alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    alice.types("hello")
    share = next(s for s in alice.payloads(KeyShare) if s.recipient == carol.session_id)
    bob.hears(Direct(bob.session_id, share.serialize()).serialize())
    assert bob.counts == {"misdirected": 1}


def test_refusal_that_answers_nothing_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    request = KeyRequest.create(
        bob.session._key, bob.session_id, LOBBY.tag, 2**32 - 1, alice.session_id
    )
    refusal = KeyRefusal.create(
        alice.session._key, alice.session_id, request, RefusalReason.NOT_FOR_YOU
    )
    bob.hears(Direct(bob.session_id, refusal.serialize()).serialize())
    assert bob.counts == {"refusal of no request": 1}
    carol = room.join("carol")
    carol.hears(Direct(carol.session_id, refusal.serialize()).serialize())
    assert carol.counts == {"misdirected": 1}
    alice.types("again")
    assert bob.messages == ["alice: hello", "alice: again"]


def test_listening_costs_no_keys(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.join("carol")
    room.passes(60)
    assert [m.payloads(KeyShare) for m in room.members] == [[], [], []]
    alice.types("hello")
    alice.types("again")
    assert len(alice.payloads(KeyShare)) == 2
    assert bob.payloads(KeyShare) == []


def test_new_epoch_when_the_audience_lost_somebody_and_not_when_somebody_joins(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    carol = room.join("carol")
    alice.types("two")
    room.crash(carol)
    alice.types("three")
    epochs = [m.epoch for m in alice.payloads(Message)]
    assert epochs == [1] * len(epochs)
    alice.types("/ignore carol")
    alice.types("four")
    assert [m.epoch for m in alice.payloads(Message)][len(epochs) :] == [2, 2]
    assert bob.messages == [f"alice: {w}" for w in ("one", "two", "three", "four")]


def test_new_epoch_after_a_thousand_messages_and_nothing_is_lost(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    for n in range(1001):
        alice.types(str(n))
    last = alice.payloads(Message)[-1]
    assert (last.epoch, last.n) == (2, 1)
    assert [s.epoch for s in alice.payloads(KeyShare)] == [1, 2]
    assert bob.texts == [str(n) for n in range(1001)]
    assert bob.counts == {}


def test_new_epoch_after_an_hour(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.passes(3599, step=100)
    alice.types("two")
    room.passes(1)
    alice.types("three")
    assert [m.epoch for m in alice.payloads(Message)] == [1, 1, 1, 2]
    assert bob.messages == ["alice: one", "alice: two", "alice: three"]


@pytest.mark.parametrize(("late_s", "opens_it"), [(119.0, True), (121.0, False)])
def test_old_epoch_opens_for_two_minutes_after_the_next(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    carol: SimulatedMember,
    late_s: float,
    opens_it: bool,
) -> None:
    room.is_syncing = False
    alice.types("one")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("late")
    room.tamper = None
    alice.types("/ignore carol")
    alice.types("of the next epoch")
    room.passes(late_s)
    bob.hears(*kept)
    assert ("alice: late" in bob.messages) == opens_it
    assert bob.counts == ({} if opens_it else {"too old": 1})
    room.passes(10)
    assert bob.payloads(KeyRequest) == []


# --------------------------------------------------------------------------- bundles


def test_session_key_is_replaced_before_its_hour_and_the_room_learns_it(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(3530, step=100)
    assert room.captured.count(Rebundle(alice.bundle).serialize()) == 0
    room.passes(60, step=10)
    for member in (alice, bob):
        others = alice if member is bob else bob
        assert member.session._our.sek_number == 2
        assert others.session._roster.live[member.session_id].sek_number == 2
        assert others.session._roster.live[member.session_id].raw == member.bundle
    assert not alice.said("is now called")
    alice.types("under the new key")
    assert [s.sek_number for s in alice.payloads(KeyShare)] == [2]
    assert bob.messages == ["alice: under the new key"]
    room.passes(3550, step=100)
    assert alice.session._our.sek_number == 3


@pytest.mark.parametrize(("late_s", "opens_it"), [(119.0, True), (121.0, False)])
def test_old_session_key_opens_for_two_more_minutes(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    late_s: float,
    opens_it: bool,
) -> None:
    room.tamper = withholding(is_add, [], receiver=alice)
    room.passes(3540, step=60)
    assert (bob.session._our.sek_number, len(bob.session._seks)) == (2, 2)
    room.passes(late_s)
    alice.types("to the old key")
    assert [s.sek_number for s in alice.payloads(KeyShare)] == [1]
    assert bob.messages == (["alice: to the old key"] if opens_it else [])
    assert bob.counts == ({} if opens_it else {"key share of no use": 1})
    assert len(bob.session._seks) == (2 if opens_it else 1)


def test_key_made_while_joining_is_announced_as_soon_as_we_are_in(room: SimulatedRoom) -> None:
    alice = room.join("alice")
    kept: list[bytes] = []
    room.tamper = withholding(lambda f: Frame(f).type == FrameType.WELCOME, kept)
    bob = room.join("bob")
    bob.perform(bob.session.session_key_made(session_keys("bob", 1), room.now))
    assert alice.session._roster.live[bob.session_id].sek_number == 1
    bob.hears(*kept)
    assert alice.session._roster.live[bob.session_id].sek_number == 2


def test_session_key_is_asked_for_once_however_long_it_takes(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    session = alice.session
    asked = [
        session.tick(Moment(room.now.s + s, room.now.ms), alice.head())
        for s in (3539, 3540, 3550, 3600)
    ]
    assert [MakeSessionKey() in effects for effects in asked] == [False, True, False, False]
    session.session_key_made(session_keys("alice", 1), Moment(room.now.s + 3601, room.now.ms))
    later = session.tick(Moment(room.now.s + 3601 + 3540, room.now.ms), alice.head())
    assert MakeSessionKey() in later


def rebundled(member: SimulatedMember, nick: str = "", number: int = 2) -> bytes:
    """Another bundle of the member's session."""
    session = member.session
    bundle = Bundle.create(
        keystore(member.name).identity,
        LOBBY,
        nick or member.name,
        session._key,
        number,
        session_keys(member.name, 1).get_public_key(),
        keystore(member.name).chain_id,
        keystore(member.name).chain_signing_key.public,
    )
    return bundle.raw


def test_new_nick_comes_with_a_new_bundle_and_is_said(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    digits = fingerprint("bob").hex()[:4]
    alice.hears(Add(bob.session_id, rebundled(bob, "robert")).serialize())
    assert alice.notices[-1] == f"-- bob#{digits} is now called robert#{digits}"
    bob.types("it is me")
    assert alice.messages == ["robert: it is me"]
    assert f"robert#{digits}" in alice.asks("/who")[1]


def test_new_nick_of_a_new_session_is_said_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    digits = fingerprint("bob").hex()[:4]
    room.crash(bob)
    room.join("bob", nick="robert")
    assert alice.notices[-2:] == [
        f"-- bob#{digits} is now called robert#{digits}",
        f"-- robert#{digits} joined",
    ]


def test_lower_or_equal_key_number_is_ignored_and_equal_bytes_are_nothing(
    alice: SimulatedMember, bob: SimulatedMember
) -> None:
    before, lines = bob.bundle, len(alice.lines)
    alice.hears(Add(bob.session_id, before).serialize())
    assert alice.counts == {}
    alice.hears(Add(bob.session_id, rebundled(bob, "liar", 1)).serialize())
    assert alice.counts == {"stale bundle": 1}
    alice.hears(Add(bob.session_id, rebundled(bob, "bob", 3)).serialize())
    alice.hears(Add(bob.session_id, rebundled(bob, "liar", 2)).serialize())
    alice.hears(Add(bob.session_id, before).serialize())
    assert alice.counts == {"stale bundle": 3}
    assert alice.session._roster.live[bob.session_id].sek_number == 3
    assert len(alice.lines) == lines


def bundle_of(name: str, room: RoomSecret = LOBBY) -> Bundle:
    """A valid bundle of a new session of somebody."""
    keys = keystore(name)
    return Bundle.create(
        keys.identity,
        room,
        name,
        SigningKey.generate(),
        1,
        session_keys(name, 0).get_public_key(),
        keys.chain_id,
        keys.chain_signing_key.public,
    )


def claiming(name: str, session_id: bytes) -> bytes:
    """A bundle of somebody, signed, for a session_id that is not made of its keys."""
    with mock.patch("chat_messages.session_id_of", return_value=session_id):
        return bundle_of(name).raw


def test_bundle_that_does_not_hold_is_refused_said_once_and_harmless(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    mine, carol = alice.session_id, bundle_of("carol")
    foreign = bundle_of("carol", RoomSecret.open_room("elsewhere"))
    bad = [
        Add(b"o" * 16, carol.raw),  # of another session
        Add(mine, claiming("carol", mine)),  # with our own session_id
        Add(mine, alice.bundle),
        Add(foreign.session_id, foreign.raw),  # not of this room
        Add(carol.session_id, flipped(carol.raw)),  # not signed
        Add(carol.session_id, b""),
        Add(bob.session_id, claiming("carol", bob.session_id)),  # not the session's owner
    ]
    for add in bad:
        alice.hears(add.serialize())
    assert alice.counts == {"bundle refused": 7}
    assert len(alice.alerts) == 1
    assert "refused a member" in alice.alerts[0]
    assert set(alice.session._roster.live) == {bob.session_id}
    alice.types("hello")
    bob.types("hi")
    assert (alice.messages, bob.messages) == (["bob: hi"], ["alice: hello"])
    assert alice.closed is None


def test_refusal_is_said_again_on_the_next_connection(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.disconnect(alice)
    room.connect(alice)
    for _ in range(2):
        alice.hears(Add(b"o" * 16, b"").serialize())
        assert sum("refused" in a for a in alice.alerts) == 1
    room.disconnect(alice)
    room.connect(alice)
    alice.hears(Add(b"o" * 16, b"").serialize())
    assert sum("refused" in a for a in alice.alerts) == 2


def test_session_that_wrote_to_us_can_never_be_somebody_elses(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    """Else what its next owner says would stand on our chain under the first one's name."""
    bob.types("I am bob")
    room.crash(bob)
    stolen = Add(bob.session_id, claiming("carol", bob.session_id)).serialize()
    alice.hears(stolen)
    assert alice.counts == {"bundle refused": 1}
    again = room.join("alice", alice.memory)
    again.hears(stolen)
    assert again.counts == {"bundle refused": 1}
    again.hears(Add(bob.session_id, bob.bundle).serialize())
    assert again.counts == {"bundle refused": 1}


def test_member_beyond_what_an_audience_can_name_is_not_taken(
    room: SimulatedRoom, alice: SimulatedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat_roster.MAX_LIVE", 1)
    room.join("bob")
    room.join("carol")
    assert len(alice.session._roster.live) == 1
    assert alice.counts == {"one member too many": 1}


def test_own_identity_in_another_session_is_said_and_gets_nothing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    copy = room.join("alice", nick="mallory")
    assert len(alice.alerts) == 1
    assert "a copy of your profile" in alice.alerts[0]
    assert copy.said("your own identity is in the room already")
    assert copy.alerts == []
    alice.types("hello")
    assert bob.texts == ["hello"]
    copy.types("hello, too")
    room.passes(10)
    assert (alice.messages, copy.messages) == ([], [])
    assert alice.session.our_name.startswith("alice#")
    assert "another session under your own identity" in alice.asks("/who")[-1]
    assert alice.asks("/status")[0] == "-- in the room with 1 other"
    alice.types("/quit")
    room.passes(1)
    assert alice.exit_code == 0  # nobody waits for a copy


def test_own_crashed_run_is_said_when_it_is_gone(room: SimulatedRoom) -> None:
    crashed = room.join("alice")
    again = room.join("alice", crashed.memory)
    assert again.said("your own identity is in the room already")
    again.types("hello")
    room.crash(crashed)
    assert again.said("the other session under your own identity is gone")
    assert again.alerts == []


# --------------------------------------------------------------------------- acks


def room_acks(member: SimulatedMember) -> list[Ack]:
    return [a for a in member.payloads(Ack) if a.tag == LOBBY.tag]


def test_who_comes_and_who_goes_causes_an_ack_of_the_others(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.passes(10)
    assert len(room_acks(alice)) == 1
    bob = room.join("bob")
    room.tick()
    assert room_acks(alice)[-1].digest == bob.session._roster.digest()
    assert len(room_acks(alice)) == 2
    room.crash(bob)
    room.passes(3)
    assert len(room_acks(alice)) == 3
    assert room_acks(alice)[-1].digest == alice.session._roster.digest()


def test_what_does_not_fit_one_ack_goes_in_the_next_the_latest_first(room: SimulatedRoom) -> None:
    memory = Memory()
    sessions = [n.to_bytes(16, "big") for n in range(1, 1101)]
    for n, session_id in enumerate(sessions[::2] + sessions[1::2]):
        entry = Entry(1, LOBBY.tag, session_id, 1, bytes(32), bytes(32), 0, bytes(16), b"x")
        memory.read_received(entry, room.now.ms - 10_000 + n)
    latest_first = list(reversed(sessions[::2] + sessions[1::2]))
    alice = room.join("alice", memory)
    room.passes(10)
    acks = room_acks(alice)
    reported = [[report.session_id for report in ack.feeds] for ack in acks]
    assert len(reported) == 2
    assert reported[0] + reported[1] == latest_first
    assert 60_000 < len(acks[0].serialize()) <= 61_440
    assert len(reported[0]) * 98 > 61_440 - 400


def test_newcomer_acknowledges_at_once_and_a_quiet_room_is_silent(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.passes(10)
    bob = room.join("bob")
    room.tick()
    assert len(room_acks(bob)) == 1
    room.passes(5)
    counts = [len(room_acks(m)) for m in (alice, bob)]
    room.passes(300)
    assert [len(room_acks(m)) for m in (alice, bob)] == counts


def test_ack_goes_out_only_after_its_append_and_its_head_covers_what_it_names(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    for word in ("one", "two", "three"):
        alice.types(word)
        assert room_acks(bob)[-1].feeds == () or word != "one"
        room.passes(3)
    reported = [a for a in room_acks(bob) if a.feeds]
    assert len(reported) >= 3
    ids = [d.entry_id for d in bob.drafts]
    for ack in reported:
        (report,) = ack.feeds
        assert report.entry_id in ids[: ack.head.index]
        assert (report.session_id, report.missing) == (alice.session_id, ())


def test_ack_waits_for_the_commit(room: SimulatedRoom, alice: SimulatedMember) -> None:
    """The session makes no ack while a frame is taken, but at the tick after it, with a head."""
    bob = room.join("bob")
    room.passes(5)
    before = len(bob.payloads(Ack))
    alice.types("hello")
    room.passes(0)
    assert len(bob.payloads(Ack)) == before
    bob.tick()
    assert bob.payloads(Ack)[-1].head == bob.head()


def test_acks_are_numbered_from_1_and_rise_in_each_conversation(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    for n in range(4):
        alice.types(str(n))
        alice.types(f"/msg bob {n}")
        room.passes(3)
    for tag in (LOBBY.tag, tag_of(alice, bob)):
        numbers = [a.number for a in bob.payloads(Ack) if a.tag == tag]
        assert len(numbers) >= 4
        assert numbers == list(range(1, len(numbers) + 1))
    assert alice.counts == {}


def test_ack_replayed_or_overtaken_is_dropped(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    kept: list[bytes] = []
    room.tamper = withholding(carries(Ack), kept, receiver=alice)
    alice.types("one")
    room.passes(3)
    alice.types("two")
    room.passes(3)
    first, second = (Broadcast(a.serialize()).serialize() for a in room_acks(bob)[-2:])
    assert {first, second} < set(kept)
    alice.hears(second)
    assert "delivered to 1 of 1" in alice.asks("/status")[1]
    alice.hears(first, second)
    assert alice.counts == {"duplicate": 2}
    assert "delivered to 1 of 1" in alice.asks("/status")[1]


def test_ack_for_an_entry_never_written_says_nothing(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(Ack), [])
    alice.types("hello")
    true_id = alice.entries[-1].entry_id
    for number, (seq, entry_id) in enumerate([(2, bytes(32)), (3, true_id), (1, true_id)], 1):
        report = FeedReport(alice.session_id, seq, entry_id)
        ack = Ack.create(
            bob.session._key,
            bob.session_id,
            LOBBY.tag,
            number,
            bytes(32),
            (report,),
            bob.head(),
        )
        alice.hears(Broadcast(ack.serialize()).serialize())
    assert "not confirmed by bob" in str(alice.asks("/status"))
    assert "not confirmed to be here yet" in alice.asks("/who")[1]
    assert alice.session._roster.present == set()


def test_status_of_who_is_alone_says_so(alice: SimulatedMember) -> None:
    assert alice.asks("/status") == ["-- alone in the room"]


def test_status_says_to_how_many_the_last_message_was_delivered(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    assert alice.asks("/status") == ["-- in the room with 2 others"]
    room.passes(5)
    room.tamper = withholding(carries(Ack), [])
    alice.types("hello")
    bob.tick()
    assert alice.asks("/status")[1] == "-- your last message to the room: delivered to 0 of 2"
    room.tamper = withholding(lambda f: carries(Ack)(f), [], receiver=bob)
    carol.tick()
    room.settle()
    name = alice.session._roster.name(fingerprint("bob"))
    assert alice.asks("/status")[1:] == [
        "-- your last message to the room: delivered to 1 of 2",
        f"-- not confirmed by {name} since {local_time(room.now.ms, 'hm')}",
    ]
    room.tamper = None
    alice.types("again")
    room.passes(5)
    assert alice.asks("/status")[1:] == ["-- your last message to the room: delivered to 2 of 2"]


@pytest.mark.parametrize("others", [1, 60])
def test_acks_are_as_far_apart_as_the_room_is_large(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, others: int
) -> None:
    bundles = [bundle_of("carol") for _ in range(1, others)]
    alice.hears(*(Add(b.session_id, b.raw).serialize() for b in bundles))
    apart = max(2.0, 0.1 * (others + 1))
    spread = {chat_acks._interval_s(others + 1, 0.75, 1.25) / apart for _ in range(200)}
    assert 0.75 <= min(spread) < 0.85
    assert 1.15 < max(spread) <= 1.25
    room.passes(10)
    sent_s: list[float] = []
    for _ in range(60):
        bob.types("x")
        count = len(room_acks(alice))
        room.passes(0.5)
        sent_s += [room.now.s] * (len(room_acks(alice)) - count)
    gaps = [b - a for a, b in pairwise(sent_s)]
    assert len(gaps) >= 3
    assert all(0.75 * apart <= gap <= 1.25 * apart + 0.5 for gap in gaps)


def test_total_ack_traffic_is_flat_as_the_room_grows() -> None:
    totals = {}
    for size in (5, 20, 40):
        room = SimulatedRoom()
        talker = room.join("dave")
        for n in range(1, size):
            room.join(("alice", "bob", "carol")[n % 3])
        # They are counted where they leave; to take them all would only take time.
        room.tamper = withholding(carries(Ack), [])
        room.passes(10)
        before = len(room.captured)
        for n in range(30):
            talker.types(str(n))
            room.passes(2)
        totals[size] = sum(carries(Ack)(f) for f in room.captured[before:])
    assert totals[5] <= 4 * 60 / 1.5
    assert 0.7 * 600 <= totals[20] <= 1.3 * 600
    assert 0.7 * 600 <= totals[40] <= 1.3 * 600


def test_member_who_comes_back_is_told_again_what_is_on_the_chain(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    alice.types("/msg bob psst")
    room.passes(5)
    feeds = [alice.session._conversations[t].ours for t in (LOBBY.tag, tag_of(alice, bob))]
    room.disconnect(alice)
    room.connect(alice)
    assert [feed.acked for feed in feeds] == [{}, {}]
    room.passes(5)
    assert all(feed.confirmed(bob.session_id, 2) for feed in feeds)


def test_member_who_comes_back_acknowledges_at_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.tick()
    room.disconnect(bob)
    room.connect(bob)
    before = len(room_acks(bob))
    bob.tick()
    (ack,) = room_acks(bob)[before:]
    assert [(r.session_id, r.seq) for r in ack.feeds] == [(alice.session_id, 2)]


def test_member_who_comes_back_is_given_the_key_again(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    for member in (bob, alice):
        room.disconnect(member)
        room.connect(member)
        given = len(alice.payloads(KeyShare))
        alice.types("again")
        assert len(alice.payloads(KeyShare)) == given + 1
        alice.types("once more")
        assert len(alice.payloads(KeyShare)) == given + 1
    assert len(bob.messages) == 5
    assert bob.counts == {}


def test_key_of_an_author_who_left_is_forgotten_after_two_minutes(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    room.crash(alice)
    room.passes(119, step=1)
    feed = bob.session._heard.feeds[LOBBY.tag, alice.session_id]
    assert feed.has_key(1)
    room.passes(1)
    assert not feed.has_key(1)


def test_key_of_an_author_who_came_back_in_time_lives_on(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.disconnect(alice)
    room.connect(alice)
    alice.types("two")
    room.passes(130, step=1)
    alice.types("three")
    assert bob.messages == ["alice: one", "alice: two", "alice: three"]
    assert bob.counts == {}


def test_new_run_tells_again_what_is_on_its_chain_in_private_too(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(Ack), [])
    alice.types("hello")
    alice.types("/msg bob psst")
    room.crash(bob)
    room.tamper = None
    assert alice.session.unsent() == 1
    room.join("bob", bob.memory)
    room.passes(5)
    assert alice.session.unsent() == 0


# --------------------------------------------------------------------------- who is here


def test_member_is_confirmed_to_be_here_by_an_ack_of_the_same_roster(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    kept: list[bytes] = []
    room.tamper = withholding(carries(Ack), kept, receiver=alice)
    bob = room.join("bob")
    room.passes(1)
    name = alice.session._roster.name(fingerprint("bob"))
    own = alice.session.our_name
    assert alice.asks("/who") == [f"-- {own} (you)", f"-- {name} (not confirmed to be here yet)"]
    alice.hears(*kept)
    assert alice.asks("/who") == [f"-- {own} (you)", f"-- {name}"]
    room.crash(bob)
    assert alice.asks("/who") == [f"-- {own} (you)"]


def test_replayed_member_is_never_confirmed_to_be_here(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    bob.types("hello")
    room.passes(5)
    old = [f for f in bob.sent if Frame(f).type == FrameType.BROADCAST]
    room.crash(bob)
    alice.hears(Add(bob.session_id, bob.bundle).serialize(), *old)
    assert "(not confirmed to be here yet)" in alice.asks("/who")[1]
    again = room.join("alice", alice.memory)
    again.hears(Add(bob.session_id, bob.bundle).serialize(), *old)
    assert "(not confirmed to be here yet)" in again.asks("/who")[1]
    again.types("anybody?")
    assert (
        again.asks("/status")[1]
        == "-- your last message to the room: nobody is known to have been there"
    )
    assert "not confirmed by bob" in again.asks("/status")[2]


def test_receipt_of_ours_confirms_its_sender_even_where_rosters_differ(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    alice.session._roster.present.clear()
    ghost = bundle_of("carol")  # for her alone
    alice.hears(Add(ghost.session_id, ghost.raw).serialize())
    alice.session._roster._digests.clear()
    alice.types("hello")
    room.passes(5)
    who = alice.asks("/who")
    assert [("not confirmed" in line) for line in who] == [False, False, True]


def test_who_says_whom_others_do_not_write_to_and_whom_we_never_met(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.passes(5)
    room.crash(carol)
    dave = room.join("dave")
    bob.types("/ignore carol")
    bob.types("hello")
    room.join("carol", carol.memory)
    bob.types("again")
    room.passes(5)
    name = alice.session._roster.name
    assert f"-- {name(fingerprint('bob'))} (does not write to {name(fingerprint('carol'))})" in (
        alice.asks("/who")
    )
    alice.types("hello, all")
    assert "also writes to" not in str(alice.asks("/who"))
    dave_who = str(dave.asks("/who"))
    assert "also writes to" not in dave_who


def test_who_says_that_somebody_also_writes_to_strangers(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    room.crash(alice)
    bob = room.join("bob")
    stranger = b"\xbe\xef" + bytes(30)
    alice = room.join("alice", Memory(known={stranger: Person("eve", 1)}))
    alice.types("hello")
    room.passes(5)
    assert "(also writes to 1 you have not met)" in bob.asks("/who")[1]


def test_person_with_two_sessions_is_listed_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    again = room.join("bob", bob.memory)
    name = alice.session._roster.name(fingerprint("bob"))
    assert alice.notices[-1] == f"-- {name} joined once more"
    assert len([line for line in alice.asks("/who") if "bob" in line]) == 1
    assert alice.asks("/status")[0] == "-- in the room with 1 other"
    carol = room.join("carol")
    assert sum(notice.count("bob#") for notice in carol.notices[:2]) == 1
    room.crash(bob)
    assert alice.notices[-1] == f"-- an earlier session of {name} ended (connection lost)"
    room.crash(again)
    assert alice.notices[-1] == f"-- {name} left (connection lost)"


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (LeaveReason.LEFT, ""),
        (LeaveReason.TIMEOUT, " (connection lost)"),
        (LeaveReason.SLOW_CONSUMER, " (too slow)"),
        (LeaveReason.BAD_FRAME, " (broke the protocol)"),
        (LeaveReason.REPLACED, ""),
        (99, ""),
    ],
)
def test_leaving_is_said_with_its_reason(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, reason: int, why: str
) -> None:
    name = alice.session._roster.name(fingerprint("bob"))
    alice.hears(Del(bob.session_id, reason).serialize())
    assert alice.notices[-1] == f"-- {name} left{why}"
    alice.hears(Del(bob.session_id, reason).serialize())
    assert alice.counts == {"unknown member left": 1}


def test_nobody_is_live_without_a_connection_nor_by_an_earlier_one(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.disconnect(alice)
    assert alice.session._roster.live == {}
    assert len(alice.asks("/who")) == 2
    room.crash(bob)
    room.connect(alice)
    assert set(alice.session._roster.live) == {carol.session_id}


# --------------------------------------------------------------------------- coming


def test_first_welcome_is_said_and_makes_the_session_ready_once(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    bob = room.join("bob")
    assert [e for e in bob.effects if isinstance(e, Ready)] == [Ready()]
    name = bob.session._roster.name(fingerprint("alice"))
    assert bob.notices == [
        "Connected! Type your messages below.",
        f"-- you are {bob.session.our_name}; in the room: {name}",
        f"-- new to you: {name}; /verify NAME compares keys",
    ]
    assert alice.notices[1].endswith("in the room: nobody else yet")
    room.disconnect(bob)
    room.connect(bob)
    assert sum(isinstance(e, Ready) for e in bob.effects) == 2
    assert sum("Connected!" in notice for notice in bob.notices) == 1


def test_welcome_comes_in_several_frames(room: SimulatedRoom) -> None:
    pages = [Welcome((), last=False), Welcome((), last=True)]
    room.tamper = lambda _, __, data: (
        [p.serialize() for p in pages] if Frame(data).type == FrameType.WELCOME else [data]
    )
    assert room.join("alice").session.joined


def test_password_is_proved_with_what_the_relay_said(room: SimulatedRoom) -> None:
    guarded = SimulatedRoom(password=b"correct horse")
    assert guarded.join("alice", password=b"correct horse").session.joined
    without = guarded.join("bob")
    assert (without.closed, without.session.joined) == (5, False)
    assert without.said("this relay wants a password")


def test_password_that_is_wanted_all_at_once_is_said_once_and_not_the_end(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    """The relay started anew with one, or a bit of its HELLO was flipped on the way."""
    room.disconnect(alice)
    for _ in range(3):
        alice.perform(alice.session.connected())
        alice.hears(Hello(1, 1, bytes(32), True).serialize())
        alice.perform(alice.session.disconnected("closed", room.now))
    wants = [notice for notice in alice.notices if "wants a password" in notice]
    assert len(wants) == 1
    room.connect(alice)
    assert alice.session.joined


def test_password_is_not_proved_to_a_relay_that_wants_none(room: SimulatedRoom) -> None:
    alice = room.join("alice", password=b"correct horse")
    (join,) = (Join.parse(Frame(f).body) for f in alice.sent)
    assert join.proof == bytes(32)


@pytest.mark.parametrize(
    ("code", "exit_code"), [(ErrorCode.PASSWORD, 5), (ErrorCode.SHUTDOWN, 3), (99, 3)]
)
def test_error_closes_the_connection_with_the_relays_words(
    room: SimulatedRoom, alice: SimulatedMember, code: int, exit_code: int
) -> None:
    alice.hears(Error(code, "so long").serialize())
    assert alice.closed == exit_code
    assert alice.notices[-1] == "chainroom: the relay closed the connection: so long"


# --------------------------------------------------------------------------- leaving


def test_leaving_ends_with_0_as_soon_as_every_live_member_has_confirmed(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("goodbye")
    lines = len(alice.lines)
    alice.types("/quit")
    assert alice.session.leaving
    room.tick()
    room.tick()  # now hers comes after those of the others
    assert alice.exit_code == 0
    assert alice.lines[lines:] == []


@pytest.mark.parametrize("line", ["exit", "EXIT", "/quit"])
def test_leaving_with_nothing_said_is_at_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, line: str
) -> None:
    alice.types(line)
    room.tick()
    assert (alice.exit_code, bob.messages) == (0, [])
    assert bob.said("left")


def test_leaving_after_linger_is_0_with_a_notice_who_has_not_confirmed(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(Ack), [], receiver=alice)
    alice.types("goodbye")
    alice.types("/quit")
    room.passes(9.5)
    assert alice.exit_code is None
    room.passes(0.5)
    assert alice.exit_code == 0
    name = alice.session._roster.name(fingerprint("bob"))
    assert alice.notices[-1] == f"-- your last messages are not confirmed by {name}"


def test_leaving_with_something_that_never_left_is_3_with_the_count(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.is_syncing = False
    room.tamper = withholding(is_message, [])
    alice.types("one")
    alice.types("two")
    alice.types("/msg bob three")
    alice.types("/quit")
    room.passes(9.5)
    assert alice.exit_code is None
    room.passes(0.5)
    assert alice.exit_code == 3
    assert alice.alerts == ["3 messages not delivered; kept on your chain"]


def test_leaving_does_not_wait_for_who_left_or_was_never_given_the_key(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(carries(Ack), [])
    alice.types("goodbye")
    room.join("carol")  # after it was said
    alice.types("/quit")
    room.passes(2)
    assert alice.exit_code is None
    room.crash(bob)
    room.tick()
    assert alice.exit_code == 0


def test_leaving_sends_the_acks_that_are_owed(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    bob.types("one")
    room.tick()  # so that the next is not due for two seconds
    bob.types("two")
    bob.types("/msg alice three")
    alice.types("/quit")
    room.tick()
    assert alice.exit_code == 0
    acks = alice.payloads(Ack)
    assert {(a.tag, a.feeds[0].seq) for a in acks[-2:]} == {(LOBBY.tag, 3), (tag_of(alice, bob), 2)}
    assert bob.session.unsent() == 0


def test_leaving_twice_never_prolongs_and_a_signal_shortens(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.tamper = withholding(lambda _: True, [])
    alice.types("goodbye")
    alice.types("/quit")
    room.passes(4)
    alice.types("/quit")
    room.passes(4)
    alice.perform(alice.session.leave(room.now, 1.0))
    room.passes(0.5)
    assert alice.exit_code is None
    room.passes(0.5)
    assert alice.exit_code == 3


def test_leaving_without_a_connection_is_at_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.passes(5)
    alice.types("heard")
    room.passes(5)
    room.disconnect(alice)
    (alert,) = alice.alerts
    assert alert.startswith("connection lost: the cable was pulled; what you type is kept, and ")
    alice.types("/quit")
    alice.tick()
    assert alice.exit_code == 0


def test_lines_typed_without_a_connection_are_kept_mined_and_counted_unsent(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("heard")
    room.passes(5)
    room.disconnect(alice)
    sent = len(alice.sent)
    alice.types("one")
    alice.types("two")
    alice.types("/msg bob three")
    assert alice.texts == ["heard", "one", "two", "three"]
    assert (alice.coins, alice.session.unsent(), alice.sent[sent:]) == (4, 3, [])
    assert alice.asks("/status")[0] == "-- not connected"
    assert alice.asks("/who")[-1] == "-- not connected: who is in the room is not known"
    alice.types("/quit")
    alice.tick()
    assert alice.exit_code is None  # the connection may come back
    room.now = Moment(room.now.s + 10, room.now.ms)
    alice.tick()
    assert alice.exit_code == 3
    assert alice.alerts[-1] == "3 messages not delivered; kept on your chain"
    assert bob.messages == ["alice: heard"]


def test_lines_typed_without_a_connection_are_delivered_when_it_is_back_each_once(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("heard")
    room.passes(5)
    room.disconnect(alice)
    alice.types("one")
    alice.types("/msg bob two")
    alice.types("three")
    alice.types("/quit")
    room.connect(alice)
    assert sorted(bob.messages) == [
        "alice (private): two",
        "alice: heard",
        "alice: one",
        "alice: three",
    ]
    room.passes(3)
    assert alice.exit_code == 0
    assert bob.counts == {}


def test_what_was_not_echoed_is_sent_again_as_the_same_bytes(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("first")
    room.passes(3)
    room.tamper = lambda sender, _, data: [] if sender is alice and is_message(data) else [data]
    alice.types("on its way")
    (lost,) = [frame for frame in alice.sent if is_message(frame)][-1:]
    room.tamper = None
    room.disconnect(alice)
    room.connect(alice)
    assert [frame for frame in alice.sent if is_message(frame)].count(lost) == 2
    assert bob.messages == ["alice: first", "alice: on its way"]
    room.disconnect(alice)
    room.connect(alice)
    assert alice.sent.count(lost) == 2
    assert alice.session.unsent() == 0


def test_private_message_that_was_not_confirmed_is_sent_again(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("/msg bob first")
    room.passes(3)
    room.tamper = lambda sender, _, data: [] if sender is alice and is_message(data) else [data]
    alice.types("/msg bob on its way")
    room.tamper = None
    room.disconnect(alice)
    room.connect(alice)
    assert bob.messages == ["alice (private): first", "alice (private): on its way"]


def test_private_message_to_somebody_away_reaches_him_when_he_comes(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.crash(bob)
    alice.types("/msg bob one")
    alice.types("/msg bob two")
    again = room.join("bob", bob.memory)
    assert again.messages == ["alice (private): one", "alice (private): two"]
    alice.types("/msg bob three")
    room.passes(5)
    assert again.messages[2:] == ["alice (private): three"]
    assert alice.session.unsent() == 0


def test_who_was_ignored_meanwhile_does_not_get_what_was_kept_for_him(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.disconnect(alice)
    alice.types("to all")
    alice.types("/msg bob psst")
    alice.types("/ignore bob")
    room.connect(alice)
    assert bob.messages == []
    alice.types("/ignore bob off")
    alice.types("/msg bob again")
    assert bob.messages == ["alice (private): psst", "alice (private): again"]


def test_connection_that_does_not_come_back_is_said_once(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    for _ in range(3):
        room.disconnect(alice)
        alice.perform(alice.session.connected())
    assert len(alice.alerts) == 1
    room.connect(alice)
    assert alice.notices[-1] == "-- connected again; in the room: nobody else yet"
    room.disconnect(alice)
    assert len(alice.alerts) == 2


def test_lines_typed_after_the_session_closed_are_kept_too(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    alice.hears(frame(FrameType.HELLO, b""))
    alice.types("after the end")
    assert (alice.texts, alice.session.unsent()) == (["after the end"], 1)


# --------------------------------------------------------------------------- a second run


def test_new_run_keeps_whom_it_ignores_whom_it_met_and_how_far_it_has_their_feeds(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, carol: SimulatedMember
) -> None:
    bob.types("/ignore carol")
    alice.types("one")
    carol.types("ignored")
    room.crash(bob)
    room.crash(carol)
    alice.types("two, while he is away")
    bob = room.join("bob", bob.memory)
    digits = fingerprint("carol").hex()[:4]
    assert bob.asks("/ignore") == [f"-- you ignore carol#{digits}"]
    alice.types("three")
    assert bob.messages == ["alice: three"]
    assert bob.notices[-1] == (
        f"-- 1 message of {bob.session._roster.name(fingerprint('alice'))} missing, fetching"
    )
    assert bob.texts == ["three"]
    assert not bob.asks("/status")[-1].startswith("-- dropped")
    bob.types("who may read this?")
    audience = next(e for e in bob.entries if e.kind == EntryKind.AUDIENCE and len(e.text) == 32)
    assert audience.text == b"".join(sorted(fingerprint(n)[:16] for n in ("alice", "bob")))


def test_new_run_ignores_nobody_who_was_taken_back(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    for line in ("/ignore bob", "/ignore bob off", "/ignore bob"):
        alice.types(line)
        again = SimulatedMember(room, "alice", alice.memory)
        assert again.session._people.ignored == alice.session._people.ignored


def test_new_run_reports_nothing_missing_that_was_not_for_it(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    alice.types("/ignore bob")
    alice.types("not for him")
    alice.types("/ignore bob off")
    alice.types("two")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=bob)
    alice.types("lost on the way")
    room.tamper = None
    alice.types("three")
    assert bob.texts == ["one", "two", "three"]
    assert "-- 1 message of others missing here" in bob.asks("/status")
    room.crash(alice)
    again = room.join("bob", bob.memory)
    assert "-- 1 message of others missing here" in again.asks("/status")
    feed = again.session._heard.feeds[LOBBY.tag, alice.session_id]
    assert feed.report() == bob.session._heard.feeds[LOBBY.tag, alice.session_id].report()


def test_latecomers_new_run_lacks_nothing_from_before(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("before")
    carol = room.join("carol")
    kept: list[bytes] = []
    room.tamper = withholding(is_message, kept, receiver=carol)
    alice.types("lost on the way")
    room.tamper = None
    alice.types("after")
    assert carol.said("2 messages of alice")  # an audience and a text
    room.crash(carol)
    again = room.join("carol", carol.memory)
    assert "-- 2 messages of others missing here" in again.asks("/status")
    alice.types("and on")
    assert again.messages == ["alice: and on"]
    assert not again.said("missing of")
    assert "-- 2 messages of others missing here" in again.asks("/status")


def test_new_run_takes_nothing_twice(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.crash(bob)
    again = room.join("bob", bob.memory)
    entry = next(e for e in alice.entries if e.kind == EntryKind.CHAT)
    alice.types("two")
    feed = alice.session._room_conversation.ours
    double = feed.seal(entry.sign(alice.session._key))  # said again, under a new key
    room.carry(alice, Broadcast(double.serialize()).serialize())
    room.settle()
    assert again.texts == ["two"]
    assert again.counts == {"duplicate": 1}


def test_new_run_goes_by_when_we_received_and_not_by_what_the_author_claims(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    room.now = Moment(room.now.s, 0)  # her clock is wrong
    alice.perform(alice.session.typed("from 1970", Moment(room.now.s, 0)))
    room.now = Moment(room.now.s, 1_700_000_000_000)
    room.settle()
    assert bob.entries[-1].sent_ms == 0
    again = room.join("bob", bob.memory)
    assert (LOBBY.tag, alice.session_id) in again.session._heard.feeds


def test_feeds_of_a_month_ago_are_not_recalled_and_their_rows_are_forgotten(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("long ago")
    memory = bob.memory
    (row,) = (k for k in bob.remembered if k[0] == FEEDS_TABLE)
    month_ms = 30 * 24 * 3600 * 1000
    room.now = Moment(room.now.s, room.now.ms + month_ms - 1)
    for left in (1, 0):
        again = SimulatedMember(room, "bob", memory)
        assert len(again.session._heard.feeds) == left
        again.remembered = dict(bob.remembered)
        again.tick()
        assert (row in again.remembered) == bool(left)
        changes = len([e for e in again.effects if isinstance(e, Remember)])
        again.tick()
        assert len([e for e in again.effects if isinstance(e, Remember)]) == changes
        room.now = Moment(room.now.s, room.now.ms + 1)


def test_feeds_of_other_rooms_are_not_recalled(room: SimulatedRoom, alice: SimulatedMember) -> None:
    bob = room.join("bob")
    alice.types("hello")
    alice.types("/msg bob psst")
    assert len(SimulatedMember(room, "bob", bob.memory).session._heard.feeds) == 2
    elsewhere = SimulatedRoom(RoomSecret.open_room("elsewhere"))
    again = SimulatedMember(elsewhere, "bob", bob.memory)
    assert again.session._heard.feeds == {}


def test_bundle_of_a_session_is_recorded_once_over_all_runs(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("one")
    room.crash(bob)
    again = room.join("bob", bob.memory)
    alice.types("two")
    assert [d.type for d in again.drafts] == [BlockType.RECEIVED]


@pytest.mark.parametrize("changed", ["nothing", "person", "SSK", "chain_id", "CSK"])
def test_session_that_wrote_keeps_its_person_its_keys_and_its_chain(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, changed: str
) -> None:
    """Also when it comes again, and to who has been away himself."""
    bob.types("hello")
    room.crash(bob)
    keys, other = keystore("bob"), keystore("carol")
    bundle = Bundle.create(
        (other if changed == "person" else keys).identity,
        LOBBY,
        "bob",
        SigningKey.generate() if changed == "SSK" else bob.session._key,
        2,
        session_keys("bob", 0).get_public_key(),
        b"another chain id" if changed == "chain_id" else keys.chain_id,
        (other if changed == "CSK" else keys).chain_signing_key.public,
    )
    room.crash(alice)
    again = room.join("alice", alice.memory)
    again.hears(Add(bob.session_id, bundle.raw).serialize())
    is_refused = changed != "nothing"
    assert again.counts == ({"bundle refused": 1} if is_refused else {})
    assert set(again.session._roster.live) == (set() if is_refused else {bob.session_id})


def test_memory_reads_only_rows_of_its_room_and_none_that_may_be_forgotten() -> None:
    memory = Memory()
    value = u64(5) + b"bob"
    memory.read_member(LOBBY, LOBBY.tag + b"b" * 32, value)
    memory.read_member(LOBBY, LOBBY.tag + b"c" * 32, b"")
    memory.read_member(LOBBY, b"x" * 16 + b"d" * 32, value)
    memory.read_feed(b"t" * 16 + b"s" * 16, b"")
    assert memory.known == {b"b" * 32: Person("bob", 5)}
    assert memory.feeds == {}


# --------------------------------------------------------------------------- nothing grows for ever


def come_and_go(room: SimulatedRoom, name: str, member: SimulatedMember, sessions: int) -> None:
    """One person who joins again and again, each time as a new session."""
    for _ in range(sessions):
        key, keys = SigningKey.generate(), keystore(name)
        session_id = session_id_of(keys.identity.fingerprint, key.public)
        bundle = Bundle.create(
            keys.identity,
            LOBBY,
            name,
            key,
            1,
            session_keys(name, 0).get_public_key(),
            keys.chain_id,
            keys.chain_signing_key.public,
        )
        ack = Ack.create(key, session_id, LOBBY.tag, 1, bytes(32), (), Head(b"", 0, b"", b""))
        request = KeyRequest.create(key, session_id, LOBBY.tag, 1, member.session_id)
        member.hears(
            Add(session_id, bundle.raw).serialize(),
            Broadcast(ack.serialize()).serialize(),
            Direct(member.session_id, request.serialize()).serialize(),
            Del(session_id, LeaveReason.LEFT).serialize(),
        )


def test_whoever_joins_again_and_again_makes_nothing_grow(
    room: SimulatedRoom, alice: SimulatedMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (chat_heard, chat_memory):
        monkeypatch.setattr(module, "MAX_FEEDS", 10)
    bob = room.join("bob")
    bob.types("hello")
    come_and_go(room, "carol", alice, 49)
    session = alice.session
    assert len(session._heard.feeds) == 10
    assert (LOBBY.tag, bob.session_id) in session._heard.feeds  # the live ones stay
    assert len(session._heard._recorded) <= 2
    assert session._room_conversation.ours.acked == {}
    assert len(session._roster.known) == 3
    bob.types("still here")
    assert alice.messages == ["bob: hello", "bob: still here"]


def test_feed_that_is_forgotten_takes_its_rows_with_it(
    room: SimulatedRoom,
    alice: SimulatedMember,
    bob: SimulatedMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bob.types("hello")
    room.crash(bob)
    row = (FEEDS_TABLE, LOBBY.tag + bob.session_id)
    assert row in alice.remembered
    assert bob.session_id in alice.session._heard._recorded
    for module in (chat_heard, chat_memory):
        monkeypatch.setattr(module, "MAX_FEEDS", 3)
    come_and_go(room, "carol", alice, 5)
    room.tick()
    assert row not in alice.remembered
    assert set(alice.session._heard._recorded) <= {alice.session_id}


def test_people_met_are_bounded_in_the_side_table_too(
    room: SimulatedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat_roster.MAX_AUDIENCE", 3)
    alice = room.join("alice")
    for name in ("bob", "carol", "dave"):
        room.crash(room.join(name))
    room.tick()
    assert len(alice.session._roster.known) == 3
    rows = {key[16:] for table, key in alice.remembered if table == MEMBERS_TABLE}
    assert rows == {fingerprint("carol"), fingerprint("dave")}
    assert set(alice.memory.known) == rows


def test_audience_that_forgot_somebody_starts_a_new_epoch(
    room: SimulatedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat_roster.MAX_AUDIENCE", 3)
    alice = room.join("alice")
    room.crash(room.join("bob"))
    room.join("carol")
    alice.types("for three")
    room.join("dave")
    alice.types("for others")
    assert [m.epoch for m in alice.payloads(Message)] == [1, 1, 2, 2]


def test_relay_that_talks_after_the_end_makes_no_further_line(
    room: SimulatedRoom, alice: SimulatedMember
) -> None:
    nonsense = frame(FrameType.HELLO, b"nonsense")
    alice.hears(*[nonsense] * 50)
    assert len(alice.alerts) == 1
    assert alice.counts == {"after the end": 49}
    alice.perform(alice.session.disconnected("closed", room.now))
    alice.hears(nonsense)
    assert len(alice.alerts) == 1
    assert alice.notices[-1].startswith("-- connection lost; what you type is kept")
    assert alice.lines[-1].event == "connection_lost"  # a program waits for `connected_again`


# --------------------------------------------------------------------------- any bytes at all


STATES = ("offline", "connected", "joining", "joined", "talking")


def in_state(name: str) -> SimulatedMember:
    """A session in one of its states; talking: with a past, and somebody in the room."""
    if name == "talking":
        return talking()[0]
    if name == "joined":
        return SimulatedRoom().join("alice")
    member = SimulatedMember(SimulatedRoom(), "alice")
    if name != "offline":
        member.perform(member.session.connected())
    if name == "joining":
        member.hears(Hello(1, 1, bytes(32), False).serialize())
    return member


def talking() -> tuple[SimulatedMember, list[bytes]]:
    """A member after a conversation, and every frame that it or anybody was given in it."""
    room = SimulatedRoom()
    pool: list[bytes] = []

    def tamper(_: SimulatedMember | None, __: SimulatedMember, data: bytes) -> list[bytes]:
        pool.append(data)
        return [data]

    room.tamper = tamper
    alice, bob, carol = room.join("alice"), room.join("bob"), room.join("carol")
    for member in (bob, alice, carol):
        member.types("hello")
    bob.types("/msg alice psst")
    bob.types("/ignore carol")
    bob.types("without her")
    room.passes(5)
    room.tamper = withholding(carries(KeyShare), pool)
    carol.types("/ignore bob")
    carol.types("under a key that did not come")
    room.crash(carol)
    room.tamper = None
    pool += room.captured
    pool.append(Error(ErrorCode.SHUTDOWN, "shutdown").serialize())
    return alice, list(dict.fromkeys(pool))


def any_frame() -> st.SearchStrategy[bytes]:
    bodies = st.binary(max_size=600)
    return st.builds(lambda t, b: frame_of(t, b), st.integers(0, 255), bodies)


def frame_of(kind: int, body: bytes) -> bytes:
    return (1 + len(body)).to_bytes(4, "big") + bytes((kind,)) + body


LEGAL = {
    FrameType.HELLO: Hello(1, 1, bytes(32), False).serialize(),
    FrameType.JOIN: Join(LOBBY.tag, bytes(16), bytes(32), b"").serialize(),
    FrameType.WELCOME: Welcome((), last=True).serialize(),
    FrameType.ADD: Add(b"x" * 16, b"").serialize(),
    FrameType.DEL: Del(b"x" * 16, 1).serialize(),
    FrameType.REBUNDLE: Rebundle(b"").serialize(),
    FrameType.BROADCAST: Broadcast(b"").serialize(),
    FrameType.DIRECT: Direct(bytes(16), b"").serialize(),
    FrameType.PING: Ping(1).serialize(),  # the link answers these
    FrameType.PONG: Pong(1).serialize(),
    FrameType.ERROR: Error(1, "x").serialize(),
}
EXPECTED = {
    "connected": {FrameType.HELLO, FrameType.ERROR},
    "joining": {FrameType.WELCOME, FrameType.ERROR},
    "joined": {
        FrameType.ADD,
        FrameType.DEL,
        FrameType.BROADCAST,
        FrameType.DIRECT,
        FrameType.ERROR,
    },
}


@pytest.mark.parametrize("state", EXPECTED)
@pytest.mark.parametrize("kind", LEGAL, ids=lambda kind: kind.name)
def test_legal_frame_in_the_wrong_state_closes_with_one_line(state: str, kind: FrameType) -> None:
    member = in_state(state)
    before = len(member.lines)
    member.hears(LEGAL[kind])
    if kind in EXPECTED[state]:
        assert member.alerts == [] or "refused a member" in member.alerts[0]
        assert member.closed in (None, 3)
    else:
        assert member.closed == 3
        assert member.alerts == [
            f"the relay broke the protocol: a frame of type {kind.value} does not belong here"
        ]
        assert len(member.lines) == before + 1
        assert member.sent[1:] == []


@settings(max_examples=15)
@given(st.lists(any_frame(), min_size=1, max_size=30))
def test_any_bytes_in_any_state_close_or_are_counted(frames: list[bytes]) -> None:
    for name in STATES:
        member = in_state(name)
        shown, chain = list(member.messages), list(member.drafts)
        for data in frames:
            before = sum(member.counts.values())
            effects = member.hears(data)
            closed = any(isinstance(e, Close) for e in effects)
            progress = member.session._state.name == "JOINING"
            assert closed or sum(member.counts.values()) > before or effects or progress, name
        assert member.messages == shown
        assert member.drafts == chain
        member.tick()


POOL: list[bytes] = []


def pool() -> list[bytes]:
    if not POOL:
        POOL.extend(talking()[1])
    return POOL


@st.composite
def lying_frames(draw: st.DrawFn) -> list[bytes]:
    """Legal frames, repeated, reordered, left out; some with a few bits or bytes changed."""
    frames = []
    for index in draw(st.lists(st.integers(0, len(pool()) - 1), max_size=25)):
        data = bytearray(pool()[index])
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
            at = draw(st.integers(4, len(data) - 1))
            data[at] ^= draw(st.integers(1, 255))
        frames.append(bytes(data))
    return frames


@settings(max_examples=40)
@given(lying_frames(), st.sampled_from(["connected", "joining", "joined", "talking"]))
def test_legal_frames_repeated_reordered_and_changed_never_raise_nor_forge(
    frames: list[bytes], state: str
) -> None:
    member = in_state(state)
    said = {"hello", "psst", "without her", "under a key that did not come"}
    for data in frames:
        member.hears(data)
    member.room.now = Moment(member.room.now.s + 3, member.room.now.ms)
    member.tick()
    assert set(member.texts) <= said
    ids = [e.entry_id for e in member.entries]
    assert len(ids) == len(set(ids))


# --------------------------------------------------------------------------- honest members

NAMES = ("alice", "bob", "carol", "dave")
SOMEBODY = st.integers(0, 11)  # one of those who are meant, whoever they are by then


class HonestRoom(RuleBasedStateMachine):
    """Members who come, go, talk and ignore; a model that knows who is to read what."""

    def __init__(self) -> None:
        super().__init__()
        self.room = SimulatedRoom()
        self.room.is_syncing = False  # what members hand on is test_room_machine's
        self.here: dict[str, SimulatedMember] = {}
        self.past: dict[str, list[tuple[Draft, int]]] = {n: [] for n in NAMES}
        self.rows: dict[str, dict[tuple[str, bytes], bytes]] = {n: {} for n in NAMES}
        self.met: dict[str, list[str]] = {n: [] for n in NAMES}
        self.ignored: dict[str, set[str]] = {n: set() for n in NAMES}
        self.to_read: dict[str, list[str]] = {n: [] for n in NAMES}
        self.to_see: dict[str, list[str]] = {n: [] for n in NAMES}  # of this run
        self.said: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.blips: Counter[SimulatedMember] = Counter()
        self.count = 0
        # Said in private to who was away, or ignored since, by those who are still here.
        self.kept: dict[tuple[str, str], list[str]] = defaultdict(list)

    def chain(self, name: str) -> list[tuple[Draft, int]]:
        member = self.here.get(name)
        own = list(zip(member.chain, member.appended_ms, strict=True)) if member else []
        return self.past[name] + own

    def member(self, number: int) -> str:
        return list(self.here)[number % len(self.here)]

    def pair(self, number: int, other: int) -> tuple[str, str]:
        name = self.member(number)
        return name, self.met[name][other % len(self.met[name])]

    @initialize()
    def two_come(self) -> None:
        self.comes("alice")
        self.comes("bob")

    @precondition(lambda self: len(self.here) < len(NAMES))
    @rule(number=SOMEBODY)
    def somebody_comes(self, number: int) -> None:
        away = [n for n in NAMES if n not in self.here]
        self.comes(away[number % len(away)])

    def comes(self, name: str) -> None:
        rows = self.rows[name]
        heads = Heads({key: row for (table, key), row in rows.items() if table == HEADS_TABLE})
        member = self.room.join(name, recall(self.past[name], rows), heads=heads)
        member.remembered = {**rows, **member.remembered}
        self.here[name] = member
        self.to_see[name] = []
        for other in self.others(member):
            self.delivers(other, name)
        for other in self.here.keys() - {name}:
            for one, another in ((name, other), (other, name)):
                if another not in self.met[one]:
                    self.met[one].append(another)

    def others(self, member: SimulatedMember) -> list[str]:
        """In the order in which what they kept for it comes: that of the relay's list."""
        return [other.name for other in self.room.members if other is not member]

    def delivers(self, name: str, peer: str) -> None:
        if peer in self.here and peer not in self.ignored[name]:
            for text in self.kept.pop((name, peer), []):
                self.reads(peer, name, text)

    @precondition(lambda self: len(self.here) > 1)
    @rule(number=SOMEBODY)
    def crashes(self, number: int) -> None:
        name = self.member(number)
        self.past[name] = self.chain(name)
        member = self.here.pop(name)
        self.rows[name] = member.remembered
        self.room.crash(member)
        for pair in [pair for pair in self.kept if pair[0] == name]:
            del self.kept[pair]

    def text(self) -> str:
        self.count += 1
        return f"line {self.count}"

    def reads(self, name: str, author: str, text: str) -> None:
        self.to_read[name].append(text)
        if author not in self.ignored[name]:
            self.to_see[name].append(text)

    @rule(number=SOMEBODY, lines=st.integers(1, 3))
    def says(self, number: int, lines: int) -> None:
        name = self.member(number)
        for _ in range(lines):
            text = self.text()
            self.here[name].types(text)
            self.said[name] += 1
            for other in self.here.keys() - {name} - self.ignored[name]:
                self.reads(other, name, text)

    @rule(number=SOMEBODY, other=SOMEBODY)
    def whispers(self, number: int, other: int) -> None:
        name, peer = self.pair(number, other)
        text = self.text()
        self.here[name].types(f"/msg {peer} {text}")
        if peer not in self.ignored[name]:
            self.said[name] += 1
            self.kept[name, peer].append(text)
            self.delivers(name, peer)

    @rule(number=SOMEBODY, other=SOMEBODY)
    def ignores_or_takes_back(self, number: int, other: int) -> None:
        name, peer = self.pair(number, other)
        off = " off" if peer in self.ignored[name] else ""
        self.here[name].types(f"/ignore {peer}{off}")
        self.ignored[name] ^= {peer}

    @rule(number=SOMEBODY)
    def loses_its_connection_for_a_moment(self, number: int) -> None:
        member = self.here[self.member(number)]
        self.room.disconnect(member)
        self.room.connect(member)
        for other in self.others(member):
            self.delivers(member.name, other)
            self.delivers(other, member.name)
        assert member.alerts[-1].startswith("connection lost")
        self.blips[member] += 1

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 3700.0]))
    def time_passes(self, seconds: float) -> None:
        self.room.passes(seconds, step=0.5 if seconds < 60 else 300)

    def teardown(self) -> None:
        """In the end everybody is here for everybody, and has confirmed all."""
        self.room.passes(8)
        for member in self.here.values():
            assert "not confirmed" not in str(member.asks("/status"))
            assert "not confirmed" not in str(member.asks("/who"))
            for other in self.here.keys() - {member.name}:
                assert len(member.heads.of(fingerprint(other))) == 1

    @invariant()
    def everybody_has_exactly_what_was_for_him_in_order_once(self) -> None:
        for name, member in self.here.items():
            received = [
                SignedEntry.parse(d.record).entry
                for d, _ in self.chain(name)
                if d.type is BlockType.RECEIVED
            ]
            texts = [e.text.decode() for e in received if e.kind == EntryKind.CHAT]
            assert texts == self.to_read[name]
            assert [m.split(": ", 1)[1] for m in member.messages] == self.to_see[name]

    @invariant()
    def a_coin_is_a_chat_entry_of_ones_own(self) -> None:
        for name in self.here:
            sent = [d for d, _ in self.chain(name) if d.type is BlockType.SENT]
            assert len(sent) == self.said[name]
        for member in self.here.values():
            assert member.coins == sum(d.type is BlockType.SENT for d in member.drafts)

    @invariant()
    def nothing_is_alarming_or_dropped(self) -> None:
        for member in self.here.values():
            assert len(member.alerts) == self.blips[member]
            harmless = {"not for us", "no key came", "before our key"}  # ignored by its author
            harmless |= {"duplicate"} if self.blips else set()  # sent again after a lost connection
            assert set(member.counts) <= harmless, member.counts

    @invariant()
    def heads_are_held_given_back_and_claimed_as_they_were_signed(self) -> None:
        room = self.room
        for member in self.here.values():
            others = [fingerprint(name) for name in NAMES]
            held = [head for other in others for head in member.heads.of(other)]
            given_back = [told.head for told in member.witnessed]
            assert {*held, *given_back} <= room.heads
            own = keystore(member.name).chain_id
            assert all(head.chain_id == own for head in given_back)
            assert all(head.chain_id != own for head in held)
            for _, index in member.session.holders():
                assert index < len(room.blocks[member.name])

    @invariant()
    def what_is_missing_and_what_is_there_make_up_each_stay(self) -> None:
        for name, member in self.here.items():
            there: dict[tuple[bytes, bytes], set[int]] = {}
            for draft, _ in self.chain(name):
                if draft.type is BlockType.RECEIVED:
                    entry = SignedEntry.parse(draft.record).entry
                    there.setdefault((entry.tag, entry.session_id), set()).add(entry.seq)
            for key, feed in member.session._heard.feeds.items():
                lacking = {s for low, high in feed._lacking() for s in range(low, high + 1)}
                seqs = there.get(key, set())
                assert not lacking & seqs
                stay = set(range(max(feed.first_seq, 1), feed.highest + 1))
                assert lacking | (seqs & stay) == (stay if seqs & stay else set())


def test_honest_members_have_exactly_what_was_for_them() -> None:
    run_state_machine_as_test(
        HonestRoom,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive"] * 3 + ["say"] * 3 + ["msg", "join", "ignore", "tick", "crash"]),
        SOMEBODY,
        SOMEBODY,
    ),
    min_size=15,
    max_size=50,
)


@settings(max_examples=30)
@given(STEPS)
def test_whatever_is_on_its_way_meanwhile_everybody_has_what_was_sent_to_him(
    steps: list[tuple[str, int, int]],
) -> None:
    """As above with a network that takes its time: what an author's session sent to a session
    that was in the room is what that one has, in order, once."""
    room = SimulatedRoom()
    room.is_slow, room.is_syncing = True, False
    sent: dict[tuple[bytes, bytes, bytes], list[str]] = {}  # author, reader, tag
    for name in ("alice", "bob"):
        room.join(name)
    for count, (what, number, other) in enumerate(steps):
        members = [m for m in room.connected if m.session.joined]
        member = members[number % len(members)] if members else None
        name = NAMES[other % len(NAMES)]
        match what:
            case "arrive":
                for ahead in range(1 + other):
                    room.arrive(number + ahead)
            case "join" if all(m.name != name for m in room.connected):
                room.join(name)
            case "crash" if member is not None and len(room.connected) > 2:
                room.crash(member)
            case "tick":
                room.passes(other / 4)
            case "ignore" if member is not None:
                off = " off" if fingerprint(name) in member.session._people.ignored else ""
                member.types(f"/ignore {name}{off}")
            case "msg" if member is None or not member.session._roster.sessions_of(
                fingerprint(name)
            ):
                continue  # kept until he comes
            case "say" | "msg" if member is not None:
                before, line = member.coins, f"line {count}"
                member.types(line if what == "say" else f"/msg {name} {line}")
                if member.coins == before:
                    continue
                feed = member.session._conversations[member.entries[-1].tag].ours
                for reader in room.members:
                    if reader.session_id in feed._given:
                        key = (member.session_id, reader.session_id, feed.tag)
                        sent.setdefault(key, []).append(line)
    for _ in range(20):
        while room.arrive(0):
            pass
        room.passes(0.5)
    # A refusal may come behind the key that made the request needless.
    needless = "refusal of no request"
    harmless = {"not for us", "no key came", "before our key", "of no member", needless}
    for reader in room.members:
        have: dict[tuple[bytes, bytes, bytes], list[str]] = {}
        for e in reader.entries:
            if e.kind == EntryKind.CHAT and e.session_id != reader.session_id:
                key = (e.session_id, reader.session_id, e.tag)
                have.setdefault(key, []).append(e.text.decode())
        assert have == {key: lines for key, lines in sent.items() if key[1] == reader.session_id}
        assert reader.alerts == []
        assert set(reader.counts) <= harmless, reader.counts
        assert "not confirmed" not in str(reader.session.typed("/status", room.now))
