"""Attacks by name: what a relay can do with frames and members, and what a lying member can sign.

Each ends in silence and a count, or in one notice, exactly as it stands here; and afterwards the
honest ones still hear each other, and all histories hold (tests/history_checker.py).  More attacks
are where the rule that stops them has its tests: withheld, repeated, reordered and altered frames,
held frames and their bounds in test_chat_session; ghosts and swapped keys in an invited room in
test_invited_room; changed keys and look-alikes in test_chat_trust; heads, witnesses, hidden members
and rooms that differ in test_chat_acks; every byte of every value in test_chat_messages.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import simulated_room
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from history_checker import check, of_room
from lying_relay import GHOST, Lie, LyingRelay, each_once, ghost
from simulated_room import LOBBY, SimulatedMember, events, keystore, signed_head

from blockchain import Head
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    EventKind,
    FeedReport,
    KeyRefusal,
    KeyRequest,
    KeyShare,
    Message,
    Payload,
    RefusalReason,
    SignedEntry,
    Sync,
    Witness,
    session_id_of,
)
from chat_wire import (
    Add,
    Broadcast,
    Del,
    Direct,
    Frame,
    FrameType,
    H,
    Hello,
    Label,
    LeaveReason,
    Welcome,
    WireError,
    prefixed,
    u8,
    u32,
)
from crypto_utils import RoomSecret, SigningKey, mac, pair_tag

U32, U64 = 2**32 - 1, 2**64 - 1
ELSEWHERE = RoomSecret.open_room("elsewhere")


AnyPayload = TypeVar("AnyPayload", bound=Payload)


class Scene:
    """Alice, Bob and Carol, who talked in the room and in pairs; Alice's second epoch has begun."""

    def __init__(self) -> None:
        room = self.room = LyingRelay()
        self.alice, self.bob, self.carol = map(room.start, ("alice", "bob", "carol"))
        self.alice.types("one")
        self.alice.types("/msg bob psst")
        self.alice.types("/msg carol psst, too")
        self.carol.types("two")
        self.bob.types("three")
        self.alice.types("/ignore carol")
        self.alice.types("four")
        self.alice.types("/ignore carol off")
        self.alice.types("five")
        room.passes(5)
        self.bob.session.counts.clear()
        self.lines, self.chain = len(self.bob.lines), len(self.bob.chain)

    def heard(self, *frames: bytes) -> list[str]:
        """What Bob is told when these come."""
        self.bob.hears(*frames)
        return self.told()

    def told(self) -> list[str]:
        """What Bob was told since, as it is rendered."""
        return [line.render() for line in self.bob.lines[self.lines :]]

    def quiet(self, counts: dict[str, int], *frames: bytes) -> None:
        """These come, and nothing comes of them but these counts."""
        self.bob.session.counts.clear()
        self.lines, self.chain = len(self.bob.lines), len(self.bob.chain)
        feeds = len(self.bob.session._heard.feeds)
        assert self.heard(*frames) == []
        assert self.bob.counts == counts
        assert len(self.bob.chain) == self.chain
        assert len(self.bob.session._heard.feeds) == feeds
        self.all_is_well()

    def all_is_well(self) -> None:
        """Whoever did not lie is still heard, and what everybody has holds."""
        before = len(self.bob.messages)
        self.carol.types("is all well?")
        assert self.bob.messages[before:] == ["carol: is all well?"]
        self.bob.types("it is")
        assert self.carol.messages[-1] == "bob: it is"
        check(of_room(self.room.everybody), late=None)

    def of(
        self, member: SimulatedMember, kind: type[AnyPayload], tag: bytes = LOBBY.tag
    ) -> list[AnyPayload]:
        """What a member sent."""
        return [p for p in member.payloads(kind) if p.tag == tag]

    def share(self, epoch: int, to: SimulatedMember) -> KeyShare:
        """Alice's, as it was sent."""
        shares = [s for s in self.alice.payloads(KeyShare) if s.tag == LOBBY.tag]
        return next(s for s in shares if (s.epoch, s.recipient) == (epoch, to.session_id))

    def tag(self, one: SimulatedMember, other: SimulatedMember) -> bytes:
        both = (keystore(m.name).identity.fingerprint for m in (one, other))
        return pair_tag(LOBBY, *both)


@pytest.fixture(scope="module", autouse=True)
def cheap_arithmetic() -> Iterator[None]:
    with each_once():
        yield


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def shared() -> Scene:
    """For attacks that change nothing."""
    return Scene()


def direct(to: SimulatedMember, payload: Payload) -> bytes:
    return Direct(to.session_id, payload.serialize()).serialize()


def public(payload: Payload) -> bytes:
    return Broadcast(payload.serialize()).serialize()


def sent(scene: Scene, payload: Payload) -> bytes:
    """As it goes: to the room, or to Bob."""
    is_public = isinstance(payload, Message | Ack) and payload.tag == LOBBY.tag
    return public(payload) if is_public else direct(scene.bob, payload)


# --------------------------------------------------------------------------- once more


@dataclass
class Attack:
    """What is done to Bob, and what becomes of it: counts, and nothing else."""

    frames: Callable[[Scene], list[bytes]]
    counts: dict[str, int]
    later_s: float = 0.0


def relabelled(**changes: Any) -> Callable[[Scene], list[bytes]]:
    """The share of Alice's second epoch for Bob, with something else in one field."""
    return lambda s: [direct(s.bob, replace(s.share(2, s.bob), **changes))]


REPLAYS: dict[str, Attack] = {
    "all that Alice said in the room": Attack(
        lambda s: [*map(public, s.of(s.alice, Message))], {"duplicate": 6}
    ),
    "all that she said to Bob": Attack(
        lambda s: [direct(s.bob, p) for p in s.of(s.alice, Message, s.tag(s.alice, s.bob))],
        {"duplicate": 2},
    ),
    "what she said in an epoch that is over": Attack(
        lambda s: [*map(public, s.of(s.alice, Message)[:2])], {"too old": 2}, later_s=130
    ),
    "what she said to Carol": Attack(
        lambda s: [direct(s.bob, p) for p in s.of(s.alice, Message, s.tag(s.alice, s.carol))],
        {"of another conversation": 2},
    ),
    "what was said in another room": Attack(
        lambda s: [public(replace(s.of(s.alice, Message)[0], tag=ELSEWHERE.tag))],
        {"of another conversation": 1},
    ),
    "what somebody said who is not here": Attack(
        lambda s: [public(replace(s.of(s.alice, Message)[0], session_id=b"x" * 16))],
        {"of no member": 1},
    ),
    "what he said himself": Attack(
        lambda s: [*map(public, s.of(s.bob, Message)[:2])], {"duplicate": 2}
    ),
    "his own acks, requests and shares": Attack(
        lambda s: [sent(s, p) for k in (Ack, KeyShare) for p in s.of(s.bob, k)], {}
    ),
    "the key of an epoch that he holds": Attack(lambda s: [direct(s.bob, s.share(2, s.bob))], {}),
    "the key of an epoch that is over": Attack(
        lambda s: [direct(s.bob, s.share(1, s.bob))], {"key share of no use": 1}, later_s=130
    ),
    "Carol's key share": Attack(
        lambda s: [direct(s.bob, s.share(1, s.carol))], {"misdirected": 1}
    ),
    "Carol's key share, in a frame for her": Attack(
        lambda s: [direct(s.carol, s.share(1, s.carol))], {"misdirected": 1}
    ),
    "the key of what Alice and Carol say in private": Attack(
        lambda s: [direct(s.bob, p) for p in s.of(s.alice, KeyShare, s.tag(s.alice, s.carol))],
        {"of another conversation": 1},
    ),
    "his key share, to the whole room": Attack(
        lambda s: [public(s.share(2, s.bob))], {"came the wrong way": 1}
    ),
    "Carol's share with his name in it": Attack(
        lambda s: [direct(s.bob, replace(s.share(1, s.carol), recipient=s.bob.session_id))],
        {"bad signature": 1},
    ),
    "his share as if for their private talk": Attack(
        lambda s: [direct(s.bob, replace(s.share(2, s.bob), tag=s.tag(s.alice, s.bob)))],
        {"bad signature": 1},
    ),
    "his share as if it were Carol's": Attack(
        lambda s: [direct(s.bob, replace(s.share(2, s.bob), session_id=s.carol.session_id))],
        {"bad signature": 1},
    ),
    "his share as of another epoch": Attack(relabelled(epoch=3), {"bad signature": 1}),
    "his share as from another message on": Attack(relabelled(n=1), {"bad signature": 1}),
    "his share as of another stay": Attack(relabelled(first_seq=9), {"bad signature": 1}),
    "his share as for another key of his": Attack(relabelled(sek_number=2), {"bad signature": 1}),
    "Alice's ack": Attack(lambda s: [*map(public, s.of(s.alice, Ack))][-1:], {"duplicate": 1}),
    "an ack as if it were newer": Attack(
        lambda s: [public(replace(s.of(s.alice, Ack)[-1], number=99))], {"bad signature": 1}
    ),
    "an ack as of another roster": Attack(
        lambda s: [public(replace(s.of(s.alice, Ack)[-1], number=99, digest=b"x" * 32))],
        {"bad signature": 1},
    ),
    "an ack as if it were Carol's": Attack(
        lambda s: [public(replace(s.of(s.alice, Ack)[-1], session_id=s.carol.session_id))],
        {"bad signature": 1},
    ),
    "an ack of the room in private": Attack(
        lambda s: [direct(s.bob, s.of(s.alice, Ack)[-1])], {"came the wrong way": 1}
    ),
    "an ack of the room as of their private talk": Attack(
        lambda s: [direct(s.bob, replace(s.of(s.alice, Ack)[-1], tag=s.tag(s.alice, s.bob)))],
        {"bad signature": 1},
    ),
    "a private ack as of the room": Attack(
        lambda s: [
            public(replace(s.of(s.bob, Ack, s.tag(s.alice, s.bob))[-1], tag=LOBBY.tag,
                           session_id=s.alice.session_id))
        ],
        {"bad signature": 1},
    ),
    "a refusal that answered somebody long ago": Attack(
        lambda s: [direct(s.bob, refusal(s.alice, s.bob))], {"refusal of no request": 1}
    ),
    "a refusal that answered Carol": Attack(
        lambda s: [direct(s.bob, refusal(s.alice, s.carol))], {"misdirected": 1}
    ),
    "the same for a second time, of a second member": Attack(
        lambda s: [public(s.of(m, Message)[-1]) for m in (s.alice, s.carol)] * 2, {"duplicate": 4}
    ),
}  # fmt: skip


def refusal(author: SimulatedMember, asker: SimulatedMember) -> KeyRefusal:
    request = KeyRequest.create(
        asker.session._key, asker.session_id, LOBBY.tag, 1, author.session_id
    )
    reason = RefusalReason.NOT_FOR_YOU
    return KeyRefusal.create(author.session._key, author.session_id, request, reason)


@pytest.mark.parametrize("what", REPLAYS)
def test_replay_is_dropped_in_silence(
    shared: Scene, what: str, request: pytest.FixtureRequest
) -> None:
    attack = REPLAYS[what]
    scene = request.getfixturevalue("scene") if attack.later_s else shared
    frames = attack.frames(scene)
    assert frames
    if attack.later_s:
        scene.room.passes(attack.later_s, step=10)
    scene.quiet(attack.counts, *frames)


def test_nothing_of_an_earlier_run_is_read_once_more_by_the_next(scene: Scene) -> None:
    """Of Bob's, though whoever said it is still there."""
    payloads = (FrameType.BROADCAST, FrameType.DIRECT)
    captured = [frame for frame in scene.room.seen if Frame(frame).type in payloads]
    scene.room.kill(scene.bob)
    again = scene.room.start("bob")
    again.hears(*captured)
    again.hears(*reversed(captured))
    assert again.messages == []
    assert not any("missing" in notice for notice in again.notices)
    scene.alice.types("six")
    assert again.messages == ["alice: six"]
    scene.room.passes(70, step=2)
    assert again.messages == ["alice: six"]
    check(of_room(scene.room.everybody), late=None)


# --------------------------------------------------------------------------- in somebody's name


def signed_payloads(s: Scene, author: SimulatedMember) -> list[Payload]:
    """One of each kind that is signed as a whole, for Bob, and not sent yet."""
    key, own = author.session._key, author.session_id
    ours = s.bob.session._our
    head = signed_head(author.name, 999, b"h" * 32)
    request = KeyRequest(s.bob.session_id, LOBBY.tag, 2, own, signature=b"")
    return [
        KeyShare.create(key, own, LOBBY.tag, 9, 0, 1, ours, bytes(32)),
        KeyRequest.create(key, own, LOBBY.tag, 1, s.bob.session_id),
        KeyRefusal.create(key, own, request, RefusalReason.NOT_FOR_YOU),
        Ack.create(key, own, LOBBY.tag, 999, bytes(32), (), head),
        Witness.create(key, own, LOBBY.tag, s.bob.session_id, signed_head("bob", 9, b"h" * 32)),
    ]


KINDS = ("KeyShare", "KeyRequest", "KeyRefusal", "Ack", "Witness")


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_payload_with_another_signature_is_dropped_in_silence(shared: Scene, kind: int) -> None:
    """Another's key, another payload's signature, that of an entry, none, or one bit of it."""
    s = shared
    payload = signed_payloads(s, s.alice)[kind]
    other = signed_payloads(s, s.alice)[(kind + 1) % len(KINDS)]
    assert not isinstance(payload, Message)
    assert not isinstance(other, Message)
    body = payload.serialize()[:-64]
    bit = bytearray(payload.signature)
    bit[9] ^= 1
    signatures = [
        s.carol.session._key.sign(payload.SIG_LABEL, body),
        s.alice.session._key.sign(Label.ENTRY_SIG, body),
        s.alice.session._key.sign(other.SIG_LABEL, body),
        other.signature,
        bytes(64),
        bytes(bit),
    ]
    frames = [sent(s, replace(payload, signature=signature)) for signature in signatures]
    s.quiet({"bad signature": 6}, *frames)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_payload_in_the_name_of_who_is_not_here_is_dropped_in_silence(
    shared: Scene, kind: int
) -> None:
    payload = signed_payloads(shared, shared.alice)[kind]
    shared.quiet({"of no member": 1}, sent(shared, replace(payload, session_id=b"x" * 16)))


def sealed(s: Scene, signed: SignedEntry) -> bytes:
    """An entry under the next of Alice's message keys, which any reader of hers could use."""
    return public(s.alice.session._room_conversation.ours.seal(signed))


def entry_of(s: Scene, **changes: Any) -> Entry:
    """The next that Alice would write, with something else in it."""
    feed = s.alice.session._room_conversation.ours
    entry = Entry(
        EntryKind.CHAT,
        LOBBY.tag,
        s.alice.session_id,
        feed.seq + 1,
        feed.ids[-1],
        bytes(32),
        0,
        bytes(16),
        b"hers",
    )
    return replace(entry, **changes)


FORGED_ENTRIES: dict[str, Callable[[Scene], SignedEntry]] = {
    "signed by another member": lambda s: entry_of(s).sign(s.carol.session._key),
    "signed by the ghost": lambda s: entry_of(s).sign(SigningKey.generate()),
    "with the signature of another entry": lambda s: SignedEntry(
        entry_of(s), entry_of(s, seq=99).sign(s.alice.session._key).signature
    ),
    "with no signature": lambda s: SignedEntry(entry_of(s), bytes(64)),
    "of another session": lambda s: entry_of(s, session_id=s.carol.session_id).sign(
        s.alice.session._key
    ),
    "of another conversation": lambda s: entry_of(s, tag=s.tag(s.alice, s.bob)).sign(
        s.alice.session._key
    ),
    "of another room": lambda s: entry_of(s, tag=ELSEWHERE.tag).sign(s.alice.session._key),
    "with no text": lambda s: entry_of(s, text=b"").sign(s.alice.session._key),
    "that is not UTF-8": lambda s: entry_of(s, text=b"\xff").sign(s.alice.session._key),
    "that is too long": lambda s: entry_of(s, text=b"x" * 16_385).sign(s.alice.session._key),
    "whose audience is not sorted": lambda s: entry_of(
        s, kind=EntryKind.AUDIENCE, text=b"b" * 16 + b"a" * 16
    ).sign(s.alice.session._key),
    "whose audience names somebody twice": lambda s: entry_of(
        s, kind=EntryKind.AUDIENCE, text=b"a" * 32
    ).sign(s.alice.session._key),
    "whose audience is cut": lambda s: entry_of(s, kind=EntryKind.AUDIENCE, text=b"a" * 17).sign(
        s.alice.session._key
    ),
}


@pytest.mark.parametrize("what", FORGED_ENTRIES)
def test_entry_that_its_author_could_not_have_written_is_dropped_in_silence(
    shared: Scene, what: str
) -> None:
    """Under the right message key: so whoever made it can read what Alice says."""
    shared.quiet({"altered": 1}, sealed(shared, FORGED_ENTRIES[what](shared)))


# --------------------------------------------------------------------------- out of shape


@pytest.mark.parametrize("kind", range(len(KINDS) + 1), ids=[*KINDS, "Message"])
def test_payload_out_of_shape_is_dropped_in_silence(shared: Scene, kind: int) -> None:
    payload = [*signed_payloads(shared, shared.alice), shared.of(shared.alice, Message)[0]][kind]
    data = payload.serialize()
    bad = [
        data[:1],
        data[:18],
        data[:34],
        data[:-1],
        data + b"\0",
        b"\0" + data[1:],
        b"\2" + data[1:],
        data[:1] + b"\0" + data[2:],
        data[:1] + b"\6" + data[2:],
        data[:1] + b"\xff" + data[2:],
        data.ljust(60_000, b"\0"),
    ]
    private = [Direct(shared.bob.session_id, body).serialize() for body in bad]
    in_public = [Broadcast(body).serialize() for body in bad]
    shared.quiet({"malformed": 2 * len(bad)}, *private, *in_public)


# Signed by Alice, of the right form, with the largest values; what comes of it, and whom she hurts.
EXTREMES: dict[str, tuple[Callable[[Scene], bytes], dict[str, int], list[str]]] = {
    "a message of the last number": (
        lambda s: public(Message(s.alice.session_id, LOBBY.tag, 2, U32, bytes(284))),
        {"too far ahead": 1},
        [],
    ),
    "an ack of the last number": (lambda s: ack(s, number=U32), {}, []),
    "an ack of feeds that nobody wrote": (
        lambda s: ack(s, *(FeedReport(bytes((i,)) * 16, U64, b"x" * 32) for i in range(255))),
        {},
        [],
    ),
    "an ack of what Bob never wrote": (
        lambda s: ack(s, FeedReport(s.bob.session_id, U64, b"x" * 32)),
        {},
        [],
    ),
    "an ack that lacks all": (
        lambda s: ack(s, FeedReport(s.bob.session_id, U64, b"x" * 32, tuple(range(1, 65)))),
        {},
        [],
    ),
    "an ack of a head that Bob never signed": (
        lambda s: ack(s, FeedReport(s.bob.session_id, 1, last_id(s), (), U64, b"x" * 32)),
        {},
        [],
    ),
    "an ack of the last head there can be": (
        lambda s: ack(s, head=signed_head("alice", U64, b"x" * 32)),
        {},
        [],
    ),
    "an ack of another's head": (
        lambda s: ack(s, head=signed_head("carol", 1, b"x" * 32)),
        {"head of another chain": 1},
        [],
    ),
    "a witness of the last head there can be": (
        lambda s: direct(s.bob, witness(s, replace(signed_head("bob", 1, b"x" * 32), index=U64))),
        {"head that is not ours": 1},
        [],
    ),
    "a request for the last epoch": (
        lambda s: direct(s.bob, KeyRequest.create(
            s.alice.session._key, s.alice.session_id, LOBBY.tag, U32, s.bob.session_id)),
        {},
        [],
    ),
}  # fmt: skip


def ack(s: Scene, *reports: FeedReport, number: int = 99, head: Head | None = None) -> bytes:
    """Signed by Alice."""
    head = head or s.alice.head()
    place = (s.alice.session_id, LOBBY.tag, number, s.alice.session._roster.digest())
    return public(Ack.create(s.alice.session._key, *place, reports, head))


def last_id(s: Scene) -> bytes:
    return s.bob.session._room_conversation.ours.ids[0]


def witness(s: Scene, head: Head) -> Witness:
    own = s.alice.session_id
    return Witness.create(s.alice.session._key, own, LOBBY.tag, s.bob.session_id, head)


@pytest.mark.parametrize("what", EXTREMES)
def test_largest_values_that_a_member_can_sign_hurt_nobody_else(scene: Scene, what: str) -> None:
    frame, counts, told = EXTREMES[what]
    assert scene.heard(frame(scene)) == told
    assert scene.bob.counts == counts
    scene.all_is_well()
    scene.room.passes(8, step=1)
    assert scene.bob.session.unsent() == 0


def test_share_of_the_last_epoch_silences_its_author_alone(scene: Scene) -> None:
    alice, bob = scene.alice, scene.bob
    fields = (alice.session_id, LOBBY.tag, U32, U32, U64)
    key = bytes(32)
    share = KeyShare.create(alice.session._key, *fields, bob.session._our, key)
    assert scene.heard(direct(bob, share)) == []
    alice.types("six")
    assert (scene.told(), bob.counts) == ([], {"before our time": 1})
    scene.room.passes(130, step=10)
    alice.types("seven")
    assert (scene.told(), bob.counts) == ([], {"before our time": 1, "too old": 1})
    assert scene.carol.messages[-1] == "alice: seven"
    scene.all_is_well()


def test_entry_of_the_last_place_in_a_feed_is_said_to_leave_so_many_out(scene: Scene) -> None:
    frame = sealed(scene, entry_of(scene, seq=U64, sent_ms=U64).sign(scene.alice.session._key))
    name = scene.bob.session._roster.name(keystore("alice").identity.fingerprint)
    missing = U64 - 1 - scene.alice.session._room_conversation.ours.seq
    assert scene.heard(frame) == [
        f"-- {missing} messages of {name} missing, fetching",
        f"{name}: hers",
    ]
    scene.room.passes(8, step=1)
    report = next(r for r in scene.of(scene.bob, Ack)[-1].feeds if r.seq == U64)
    assert len(report.missing) == 64
    scene.alice.types("six")
    assert scene.told()[2:] == [f"{name}: six"]
    again = scene.bob.memory.feeds[LOBBY.tag, scene.alice.session_id]
    assert (again.highest, again.missing_count()) == (U64, missing - 1)


# --------------------------------------------------------------------------- bundles


def ghost_sek() -> bytes:
    return simulated_room.session_keys(GHOST, 0).get_public_key()


def made_up(
    *,
    session_id: bytes = b"",
    version: int = 1,
    tag: bytes = LOBBY.tag,
    spki: bytes = b"",
    nick: bytes = b"mallory",
    ssk: bytes = b"",
    sek: bytes = b"",
    csk: bytes = b"",
    auth: bytes = LOBBY.auth,
    rest: bytes = b"",
) -> bytes:
    """A bundle that is right but for what is given, and signed by the ghost's identity key."""
    own = keystore(GHOST)
    spki, ssk = spki or own.identity.spki, ssk or SigningKey.generate().public
    session_id = session_id or session_id_of(H(Label.IDENTITY, spki), ssk)
    body = u8(version) + tag + prefixed(spki) + prefixed(nick) + session_id + ssk + u32(1)
    body += prefixed(sek or ghost_sek()) + own.chain_id + (csk or own.chain_signing_key.public)
    body += mac(auth, Label.ROOM_PROOF, body)
    return body + own.identity.sign(Label.BUNDLE_SIG, body) + rest


def spki_of(bits: int, exponent: int = 65537) -> bytes:
    """Of a key that nobody has: it is refused before anything is done with it."""
    key = rsa.RSAPublicNumbers(exponent, (1 << bits) - 159).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def with_modulus(spki: bytes, first: int, last: int) -> bytes:
    """The ghost's, with other bits at the ends of its modulus."""
    changed = bytearray(spki)
    changed[-389] &= first
    changed[-6] &= last
    return bytes(changed)


FORM = "not the canonical SPKI of an RSA-3072 key with e = 65537"
MODULUS = "a modulus that is even or not of 3072 bits"
POINT = "not canonical, or a point of small order"
PROOF = "the room proof does not fit: not invited to this room"
NAME = "the name breaks the grammar: a name "
UNSEEN = "has no spaces, no '#', no ':' and no invisible characters; this has U+"
NO_POINT = bytes((1,)) + bytes(31)
BUNDLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "an identity key of 2048 bits": (lambda: made_up(spki=spki_of(2048)), FORM),
    "an identity key of 4096 bits": (lambda: made_up(spki=spki_of(4096)), FORM),
    "an identity key with exponent 3": (lambda: made_up(spki=spki_of(3072, 3)), FORM),
    "a session key of 1024 bits": (lambda: made_up(sek=spki_of(1024)), FORM),
    "a session key with exponent 3": (lambda: made_up(sek=spki_of(3072, 3)), FORM),
    "a session key with more behind it": (lambda: made_up(sek=ghost_sek() + b"\0"), FORM),
    "a session key that is none": (lambda: made_up(sek=b"x"), FORM),
    "an even modulus": (lambda: made_up(sek=with_modulus(ghost_sek(), 0xFF, 0xFE)), MODULUS),
    "a modulus of 3071 bits": (lambda: made_up(sek=with_modulus(ghost_sek(), 0x7F, 0xFF)), MODULUS),
    "the identity key as session key": (
        lambda: made_up(sek=keystore(GHOST).identity.spki),
        "the session encryption key is the identity key",
    ),
    "a session signing key of small order": (lambda: made_up(ssk=NO_POINT), POINT),
    "a session signing key that is not canonical": (lambda: made_up(ssk=b"\xff" * 32), POINT),
    "a chain key of small order": (lambda: made_up(csk=bytes(32)), POINT),
    "the proof of another room": (lambda: made_up(auth=ELSEWHERE.auth), PROOF),
    "the tag of another room": (lambda: made_up(tag=ELSEWHERE.tag), PROOF),
    "another version": (lambda: made_up(version=2), "unknown version 2"),
    "a byte too many": (lambda: made_up(rest=b"\0"), "1 bytes too many"),
    "a byte too few": (lambda: made_up()[:-1], "expected 384 more bytes, got 383"),
    "another session": (
        lambda: made_up(session_id=b"h" * 16),
        "the session_id is not of this person and this session key",
    ),
    "somebody else's signature": (
        lambda: made_up(spki=keystore("carol").identity.spki),
        "the identity key did not sign this",
    ),
    "no name": (lambda: made_up(nick=b""), NAME + "has 1 to 32 characters, this has 0"),
    "a name that writes to the left": (
        lambda: made_up(nick="b\u202eob".encode()),
        NAME + UNSEEN + "202E",
    ),
    "a name with a tag in it": (lambda: made_up(nick=b"bob#7f3a"), NAME + UNSEEN + "0023"),
}  # fmt: skip


@pytest.mark.parametrize("what", BUNDLES)
def test_bundle_that_does_not_hold_is_refused_with_the_reason(shared: Scene, what: str) -> None:
    made, why = BUNDLES[what]
    bob = shared.bob
    bob.session._said_refused = False  # as on a new connection
    before, live = len(bob.lines), set(bob.session._roster.live)
    bob.session.counts.clear()
    data = made()
    try:
        session_id, _ = Bundle.author_of(data)
    except WireError:
        session_id = b"g" * 16
    bob.hears(Add(session_id, data).serialize())
    assert [line.render() for line in bob.lines[before:]] == [
        f"!! refused a member whose bundle does not hold: {why}"
    ]
    assert bob.counts == {"bundle refused": 1}
    assert set(bob.session._roster.live) == live
    shared.all_is_well()


def test_what_a_bundle_must_be_is_what_the_ghost_is_otherwise(scene: Scene) -> None:
    """So that each of those is refused for what it is named after."""
    data = made_up()
    told = scene.heard(Add(Bundle.author_of(data)[0], data).serialize())
    tag = keystore(GHOST).identity.fingerprint.hex()[:4]
    assert told == [f"-- mallory#{tag} joined (new to you: /verify mallory#{tag})"]


# --------------------------------------------------------------------------- who is there


def test_ghost_in_an_open_room_is_announced_and_reads_from_then_on_only(scene: Scene) -> None:
    room, bob = scene.room, scene.bob
    _, bundle = ghost()
    tag = bundle.fingerprint.hex()[:4]
    before = len(bob.payloads(KeyShare))
    room.show(bob, bundle.session_id, bundle.raw)
    assert scene.told() == [f"-- mallory#{tag} joined (new to you: /verify mallory#{tag})"]
    bob.types("six")
    shares = bob.payloads(KeyShare)[before:]
    assert [(s.recipient, s.first_seq, s.n) for s in shares] == [(bundle.session_id, 3, 2)]
    assert f"-- mallory#{tag} (not confirmed to be here yet)" in bob.asks("/who")
    assert "mallory" not in str(scene.carol.notices), "it was shown to Bob alone"


def test_ghost_under_a_known_name_that_its_owner_is_not_shown_is_an_alarm(scene: Scene) -> None:
    """She is here, and vouches for no roster that it stands in."""
    _, bundle = ghost("alice")
    scene.room.show(scene.bob, bundle.session_id, bundle.raw)
    scene.room.passes(8, step=1)
    (line,) = scene.told()
    assert line.startswith(f"!! KEY CHANGED: alice#{bundle.fingerprint.hex()[:4]} has another key")


def test_ghost_that_takes_the_place_of_who_left_is_an_alarm_and_gets_no_keys(scene: Scene) -> None:
    room, bob = scene.room, scene.bob
    room.kill(scene.alice)
    _, bundle = ghost("alice")
    known = bob.session._roster.name(keystore("alice").identity.fingerprint)
    room.show(bob, bundle.session_id, bundle.raw)
    before = len(bob.payloads(KeyShare))
    bob.types("is that you?")
    room.passes(8, step=1)
    tag = bundle.fingerprint.hex()[:4]
    changed = (
        f"!! KEY CHANGED: alice#{tag} has another key than {known}, whom you know. "
        f"Nothing of alice#{tag} is shown and alice#{tag} reads nothing of yours. Ask in person: "
        f"a new computer? Then /accept alice#{tag}"
    )
    assert scene.told() == [f"-- {known} left (connection lost)", changed]
    assert bob.payloads(KeyShare)[before:] == []


def test_members_earlier_session_shown_once_more_is_known_and_never_confirmed(
    scene: Scene,
) -> None:
    """A stale bundle: what was wrapped to it nobody can open."""
    room, bob = scene.room, scene.bob
    session_id, bundle = scene.alice.session_id, scene.alice.bundle
    room.kill(scene.alice)
    scene.lines = len(bob.lines)
    room.show(bob, session_id, bundle)
    name = bob.session._roster.name(keystore("alice").identity.fingerprint)
    assert scene.told() == [f"-- {name} joined"]
    room.passes(20, step=1)
    assert f"-- {name} (not confirmed to be here yet)" in bob.asks("/who")


def test_member_who_is_said_to_be_gone_and_is_not_still_reads(scene: Scene) -> None:
    """It is entitled, and has the key; only what it answers is not taken."""
    room, bob, carol = scene.room, scene.bob, scene.carol
    room.hide(bob, carol)
    name = bob.session._roster.name(keystore("carol").identity.fingerprint)
    assert scene.told() == [f"-- {name} left"]
    bob.types("is she gone?")
    assert carol.messages[-1] == "bob: is she gone?"
    carol.types("no")
    assert bob.counts == {"of no member": 1}
    assert len(scene.told()) == 1
    room.show(bob, carol.session_id, carol.bundle)
    carol.types("back again")
    assert scene.told()[1:] == [
        f"-- {name} joined",
        f"-- 1 message of {name} missing, fetching",
        f"{name}: back again",
    ]
    check(of_room(room.everybody), late=None)


def test_member_who_is_kept_from_another_is_read_by_way_of_others(scene: Scene) -> None:
    """Whose ADD was withheld: it asks for the key, and whom it asks does not know it."""
    room, bob = scene.room, scene.bob
    room.tamper = lambda _, to, data: (
        [] if to is bob and Frame(data).type == FrameType.ADD else [data]
    )
    dave = room.start("dave")
    room.tamper = room._lie
    bob.types("among ourselves")
    dave.types("hello")
    room.passes(3, step=1)
    assert (dave.messages, set(bob.counts)) == ([], {"of no member"})
    room.passes(64, step=2)
    name = bob.session._roster.name(keystore("dave").identity.fingerprint)
    late, caught_up = scene.told()
    assert late.startswith(f"{name} (late, via ")
    assert caught_up == "-- caught up: 1 message"
    assert dave.counts == {"no key came": 1}
    assert dave.texts == ["hello"]
    assert not bob.session._roster.sessions_of(keystore("dave").identity.fingerprint)
    check(of_room(room.everybody), late=None)


BROKE = "!! the relay broke the protocol: "
NONSENSE: dict[str, tuple[Callable[[Scene], bytes], str]] = {
    "a second WELCOME": (
        lambda s: Welcome((), last=True).serialize(),
        BROKE + "a frame of type 3 does not belong here",
    ),
    "a second HELLO": (
        lambda s: Hello(1, 1, bytes(32), False).serialize(),
        BROKE + "a frame of type 1 does not belong here",
    ),
    "a JOIN of its own": (
        lambda s: next(f for f in s.alice.sent if Frame(f).type == FrameType.JOIN),
        BROKE + "a frame of type 2 does not belong here",
    ),
    "an ADD that is cut": (
        lambda s: b"\0\0\0\x08\x04" + b"1234567",
        BROKE + "expected 16 more bytes, got 7",
    ),
    "a DEL that is cut": (
        lambda s: b"\0\0\0\x03\x05" + b"12",
        BROKE + "expected 16 more bytes, got 2",
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_what_no_relay_says_ends_the_connection_with_one_line(scene: Scene, what: str) -> None:
    made, line = NONSENSE[what]
    assert scene.heard(made(scene), made(scene)) == [line]
    assert (scene.bob.closed, scene.bob.counts) == (3, {"after the end": 1})
    scene.room.reconnect(scene.bob)
    scene.all_is_well()


def test_end_of_a_session_that_was_never_there_is_dropped_in_silence(shared: Scene) -> None:
    ours, nobody = shared.bob.session_id, b"x" * 16
    gone = [Del(s, LeaveReason.LEFT).serialize() for s in (ours, nobody)]
    shared.quiet({"unknown member left": 2}, *gone)


def test_relay_that_never_ends_its_welcome_keeps_us_from_talking_and_no_more(
    scene: Scene,
) -> None:
    room, bob = scene.room, scene.bob
    room.tamper = lambda _, to, data: (
        [Welcome(Welcome.parse(Frame(data).body).members, last=False).serialize()] * 20
        if to is bob and Frame(data).type == FrameType.WELCOME
        else [data]
    )
    room.reconnect(bob)
    room.tamper = room._lie
    scene.lines = len(bob.lines)
    bob.types("is anybody there?")
    room.passes(20, step=1)
    assert scene.told() == []
    assert (bob.session.joined, bob.session.unsent()) == (False, 1)
    assert len(bob.session._roster.live) == 2
    room.reconnect(bob)
    assert scene.carol.messages[-1] == "bob: is anybody there?"


def test_our_own_words_altered_on_their_way_back_stay_undelivered(scene: Scene) -> None:
    room, bob = scene.room, scene.bob
    room.lies[bob] = [Lie.ALTER]
    bob.types("six")
    assert bob.session.unsent() == 1
    room.reconnect(bob)
    assert bob.session.unsent() == 0
    assert scene.carol.messages[-1] == "bob: six"
    assert scene.carol.texts.count("six") == 1


# --------------------------------------------------------------------------- two stories


def story(s: Scene, text: bytes, *, seq: int = 0, previous: bytes = b"") -> SignedEntry:
    """What Alice signs as her next entry, whatever else she signs there."""
    feed = s.alice.session._room_conversation.ours
    entry = entry_of(
        s, text=text, seq=seq or feed.seq + 1, previous=previous or feed.ids[-1], sent_ms=1
    )
    return entry.sign(s.alice.session._key)


def forked(member: SimulatedMember) -> str:
    """What a member is told of Alice's two stories."""
    name = member.session._roster.name(keystore("alice").identity.fingerprint)
    told = f"FORK: {name} signed two different messages in one place; both are kept as proof: "
    return told + "export --format proof FILE"


def proofs_of(member: SimulatedMember) -> list[bytes]:
    """The heads on a member's chain that stand beside what it holds."""
    proofs = events(member, EventKind.FORK)
    key = member.session._roster.live[member.room.members[0].session_id].session_key
    for proof in proofs:
        key.verify(proof[-64:], Label.ENTRY_SIG, proof[:-64])
    return [proof[:-64] for proof in proofs]


def test_second_story_in_one_place_is_said_and_kept_as_proof(scene: Scene) -> None:
    one, other, third = (story(scene, text) for text in (b"yes", b"no", b"perhaps"))
    name = scene.bob.session._roster.name(keystore("alice").identity.fingerprint)
    frames = [sealed(scene, each) for each in (one, other, one, third)]
    assert scene.heard(*frames) == [f"{name}: yes", f"!! {forked(scene.bob)}"]
    assert scene.bob.lines[-1].event == "fork"
    assert "no" not in scene.bob.texts
    assert proofs_of(scene.bob) == [other.entry.head]
    assert scene.bob.counts == {"fork": 2, "duplicate": 1}


def test_two_stories_for_two_members_show_when_she_goes_on_with_one(scene: Scene) -> None:
    one, other = story(scene, b"yes"), story(scene, b"no")
    to_bob, to_carol = sealed(scene, one), sealed(scene, other)
    scene.bob.hears(to_bob)
    scene.carol.hears(to_carol)
    seq = one.entry.seq + 1
    told = story(scene, b"as I said", seq=seq, previous=one.entry.entry_id)
    after = sealed(scene, told)
    scene.bob.hears(after)
    scene.carol.hears(after)
    assert scene.bob.messages[-2:] == ["alice: yes", "alice: as I said"]
    assert scene.carol.messages[-1] == "alice: no"
    assert scene.carol.alerts == [forked(scene.carol)]
    assert proofs_of(scene.carol) == [told.entry.head]
    assert scene.bob.alerts == []


def test_two_stories_for_two_members_show_to_both_by_their_acks(scene: Scene) -> None:
    one, other = story(scene, b"yes"), story(scene, b"no")
    to_bob, to_carol = sealed(scene, one), sealed(scene, other)
    scene.bob.hears(to_bob)
    scene.carol.hears(to_carol)
    scene.room.passes(10)
    assert proofs_of(scene.bob) == [other.entry.head]
    assert proofs_of(scene.carol) == [one.entry.head]
    assert scene.bob.alerts == [forked(scene.bob)]
    assert scene.carol.alerts == [forked(scene.carol)]
    asked = len(scene.bob.payloads(Sync))
    scene.room.passes(60)
    assert len(scene.bob.payloads(Sync)) == asked
    scene.room.crash(scene.bob)
    again = scene.room.start("bob")
    scene.room.passes(60)
    assert (again.alerts, proofs_of(again)) == ([], [])  # it knows


def test_story_that_an_ack_names_and_nobody_can_show_is_asked_for_once(scene: Scene) -> None:
    one = story(scene, b"yes")
    scene.bob.hears(sealed(scene, one))
    asked = len(scene.bob.payloads(Sync))
    report = FeedReport(scene.alice.session_id, one.entry.seq, b"?" * 32, ())
    scene.bob.hears(ack(scene, report))
    scene.room.passes(10)
    assert len(scene.bob.payloads(Sync)) == asked + 1
    assert (scene.bob.alerts, proofs_of(scene.bob)) == ([], [])


# --------------------------------------------------------------------------- floods


def weight(value: object, seen: set[int]) -> int:
    """How many things a session holds on to, whatever they are in."""
    if id(value) in seen or isinstance(value, type | bytes | str | int | float):
        return 0
    seen.add(id(value))
    match value:
        case dict() | Counter():
            items = [*value.keys(), *value.values()]
        case list() | tuple() | set() | frozenset() | deque():
            items = [*value]
        case _:
            items = [*getattr(value, "__dict__", {}).values()]
            return sum(weight(item, seen) for item in items)
    return len(items) + sum(weight(item, seen) for item in items)


def fresh_messages(s: Scene, count: int, base: int) -> Iterator[bytes]:
    """Of epochs that nobody has a key of, by Alice."""
    for i in range(count):
        yield public(Message(s.alice.session_id, LOBBY.tag, base + i, 0, bytes(284)))


def fresh_acks(s: Scene, count: int, base: int) -> Iterator[bytes]:
    for i in range(count):
        report = FeedReport((base + i).to_bytes(16, "big"), base + i, b"x" * 32)
        yield ack(s, report, number=base + i)


def fresh_requests(s: Scene, count: int, base: int) -> Iterator[bytes]:
    for i in range(count):
        place = (s.alice.session_id, LOBBY.tag, base + i, s.bob.session_id)
        yield direct(s.bob, KeyRequest.create(s.alice.session._key, *place))


def fresh_witnesses(s: Scene, count: int, base: int) -> Iterator[bytes]:
    for i in range(count):
        head = signed_head("bob", base + i, b"h" * 32, (base + i).to_bytes(16, "big"))
        yield direct(s.bob, witness(s, head))


def fresh_bundles(s: Scene, count: int, base: int) -> Iterator[bytes]:
    """The same member, who comes and goes."""
    for _ in range(count):
        yield Del(s.carol.session_id, LeaveReason.LEFT).serialize()
        yield Add(s.carol.session_id, s.carol.bundle).serialize()


FLOODS = {
    "messages without a key": (fresh_messages, 80),
    "acks": (fresh_acks, 80),
    "requests": (fresh_requests, 80),
    "witnesses": (fresh_witnesses, 80),
    "coming and going": (fresh_bundles, 150),
}


@pytest.mark.parametrize("what", FLOODS)
def test_flood_makes_a_session_no_larger_than_its_beginning_did(scene: Scene, what: str) -> None:
    """By a member who may sign what it likes, or by the relay."""
    flood, count = FLOODS[what]
    bob = scene.bob
    for frame in flood(scene, count, 1000):
        bob.perform(bob.session.receive(Frame(frame), scene.room.now))
    after = weight(bob.session, set())
    for frame in flood(scene, 2 * count, 100_000):
        bob.perform(bob.session.receive(Frame(frame), scene.room.now))
    assert weight(bob.session, set()) <= after
    scene.room.settle()
    scene.carol.types("is anybody there?")
    assert bob.messages[-1] == "carol: is anybody there?"
