"""An invited room, end to end: whoever lacks the invite is refused, whatever the relay says.

In an open room anybody who knows its name can join, and so can a relay that invents members.  The
secret of an invited room is not the relay's, so no bundle that it makes or changes carries a room
proof that fits (PROTOCOL.md 3.1): its owner is never live, gets no keys and is in no audience.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from unittest import mock

import pytest
from processes import DEADLINE_S, Insider, Relay
from simulated_room import SimulatedMember, SimulatedRoom, keystore, session_keys

from chat_effects import Effect, Show
from chat_invite import Invite
from chat_messages import Bundle, EntryKind, KeyShare, session_id_of
from chat_terminal import Kind
from chat_wire import (
    MAX_FRAME_BYTES,
    Add,
    Direct,
    Frame,
    FrameDecoder,
    FrameType,
    Join,
    Label,
    Member,
    Ping,
    Welcome,
    prefixed,
    u8,
    u32,
)
from crypto_utils import Keystore, RoomSecret, SigningKey, mac

SECRET = Invite.parse(Invite(RoomSecret.random()).text).room  # as a friend gets it
REFUSED = "refused a member whose bundle does not hold: "
NOT_INVITED = "the room proof does not fit: not invited to this room"
GHOST = b"ghost's session!"


@pytest.fixture
def room() -> SimulatedRoom:
    return SimulatedRoom(SECRET)


@pytest.fixture
def alice(room: SimulatedRoom) -> SimulatedMember:
    return room.join("alice")


@pytest.fixture
def bob(room: SimulatedRoom, alice: SimulatedMember) -> SimulatedMember:
    return room.join("bob")


def forged(
    name: str,
    *,
    tag: bytes = SECRET.tag,
    auth: bytes = RoomSecret.random().auth,
    keys: Keystore | None = None,
) -> bytes:
    """A bundle in which everything is right but the room proof: all that a relay can make."""
    keys = keys or keystore("ghost")
    ssk = SigningKey.generate().public
    body = u8(1) + tag + prefixed(keys.identity.spki) + prefixed(name.encode())
    body += session_id_of(keys.identity.fingerprint, ssk) + ssk + u32(1)
    body += prefixed(session_keys("ghost", 0).get_public_key())
    body += keys.chain_id + keys.chain_signing_key.public
    body += mac(auth, Label.ROOM_PROOF, body)
    return body + keys.identity.sign(Label.BUNDLE_SIG, body)


def swapped(bundle: bytes) -> bytes:
    """Somebody's bundle with the ghost's session encryption key in it."""
    sek = Bundle.parse(bundle, None).sek
    return bundle.replace(sek, session_keys("ghost", 0).get_public_key())


def resigned(bundle: bytes) -> bytes:
    """Somebody's bundle with the ghost's identity key in it and its signature under it."""
    ghost, found = keystore("ghost").identity, Bundle.parse(bundle, None)
    session_id = session_id_of(ghost.fingerprint, found.session_key.public)
    body = bundle.replace(found.identity.spki, ghost.spki)[:-384]
    body = body.replace(found.session_id, session_id)
    return body + ghost.sign(Label.BUNDLE_SIG, body)


def directs(frames: list[bytes]) -> dict[bytes, int]:
    """To whom key shares were sent: session_id → how many."""
    found: dict[bytes, int] = {}
    for data in frames:
        if Frame(data).type == FrameType.DIRECT:
            to = Direct.parse(Frame(data).body)
            found[to.session_id] = found.get(to.session_id, 0) + (to.payload[1] == KeyShare.KIND)
    return found


def audiences(member: SimulatedMember) -> list[list[bytes]]:
    """Whom it said may read, each time."""
    texts = [e.text for e in member.entries if e.kind == EntryKind.AUDIENCE]
    return [[text[at : at + 16] for at in range(0, len(text), 16)] for text in texts]


# What a relay may say: given Bob's session and bundle, what it claims and why that is refused.
ELSEWHERE, LOBBY = RoomSecret.random(), RoomSecret.open_room("lobby")


def session_of(bundle: bytes) -> bytes:
    """The session_id in it."""
    return Bundle.author_of(bundle)[0]


# Of bob's bundle: the one that the relay shows, and why it is refused.
LIES: dict[str, Callable[[bytes], tuple[bytes, str]]] = {
    "a ghost": lambda _: (forged("carol"), NOT_INVITED),
    "a ghost that proves the lobby": lambda _: (forged("carol", auth=LOBBY.auth), NOT_INVITED),
    "a ghost with the name of somebody here": lambda _: (forged("bob"), NOT_INVITED),
    "a bundle of another room": lambda _: (
        forged("carol", tag=ELSEWHERE.tag, auth=ELSEWHERE.auth),
        NOT_INVITED,
    ),
    "the same with this room's tag in it": lambda _: (
        forged("carol", auth=ELSEWHERE.auth),
        NOT_INVITED,
    ),
    "somebody's session key swapped": lambda bundle: (swapped(bundle), NOT_INVITED),
    "somebody's identity key swapped": lambda bundle: (resigned(bundle), NOT_INVITED),
    "somebody's bundle under another session": lambda bundle: (bundle, "another session"),
}


def shown(lie: str, bob: SimulatedMember) -> tuple[bytes, bytes, str]:
    """The session_id that it is shown for, the bundle, and why it is refused."""
    bundle, why = LIES[lie](bob.bundle)
    return (session_of(bundle) if why == NOT_INVITED else GHOST), bundle, why


@pytest.mark.parametrize("lie", LIES)
def test_a_member_that_the_relay_adds_later_is_refused_and_gets_no_keys(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, lie: str
) -> None:
    session_id, bundle, why = shown(lie, bob)
    alice.hears(Add(session_id, bundle).serialize())
    (alert,) = alice.alerts
    assert alert.startswith(REFUSED)
    assert why in alert
    assert set(alice.session._roster.live) == {bob.session_id}
    alice.types("only for bob")
    bob.types("only for alice")
    assert (bob.messages, alice.messages) == (["alice: only for bob"], ["bob: only for alice"])
    assert directs(alice.sent) == {bob.session_id: 1}
    ghosts = keystore("ghost").identity.fingerprint[:16]
    for member in (alice, bob):
        assert audiences(member)
        assert all(ghosts not in names for names in audiences(member))


@pytest.mark.parametrize("lie", LIES)
def test_a_member_that_the_relay_names_in_its_welcome_is_refused_and_gets_no_keys(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember, lie: str
) -> None:
    session_id, bundle, why = shown(lie, bob)

    def tamper(
        sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
    ) -> list[bytes]:
        frame = Frame(data)
        if frame.type != FrameType.WELCOME:
            return [data]
        members = [m for m in Welcome.parse(frame.body).members if m.session_id != session_id]
        return [Welcome((*members, Member(session_id, bundle)), last=True).serialize()]

    room.tamper = tamper
    carol = room.join("carol")
    assert why in carol.alerts[0]
    assert len(carol.alerts) == 1
    carol.types("hello")
    assert alice.messages == ["carol: hello"]
    true = {alice.session_id} | ({bob.session_id} - {session_id})
    assert set(carol.session._roster.live) == true
    assert directs(carol.sent) == dict.fromkeys(true, 1)


def test_a_relay_that_swaps_the_keys_of_whoever_joins_keeps_the_two_apart_and_reads_nothing(
    room: SimulatedRoom,
) -> None:
    """The man in the middle, in earnest: each is shown the other with the relay's own keys."""

    def tamper(
        sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
    ) -> list[bytes]:
        frame = Frame(data)
        if frame.type == FrameType.ADD:
            add = Add.parse(frame.body)
            bundle = resigned(add.bundle)
            return [Add(session_of(bundle), bundle).serialize()]
        if frame.type == FrameType.WELCOME:
            bundles = [resigned(member.bundle) for member in Welcome.parse(frame.body).members]
            members = tuple(Member(session_of(bundle), bundle) for bundle in bundles)
            return [Welcome(members, last=True).serialize()]
        return [data]

    room.tamper = tamper
    alice, bob = room.join("alice"), room.join("bob")
    for member in (alice, bob):
        assert any(NOT_INVITED in alert for alert in member.alerts)
        member.types("is anybody there?")
        assert directs(member.sent) == {}
    assert alice.messages == bob.messages == []


def test_in_an_open_room_the_same_ghost_is_taken_in() -> None:
    """What the invite is for."""
    alice = SimulatedRoom(LOBBY).join("alice")
    ghost = forged("carol", tag=LOBBY.tag, auth=LOBBY.auth)
    alice.hears(Add(session_of(ghost), ghost).serialize())
    assert alice.alerts == []
    alice.types("hello")
    assert directs(alice.sent) == {session_of(ghost): 1}


def test_the_relay_is_told_the_rooms_tag_and_nothing_else_of_its_secret(
    room: SimulatedRoom, alice: SimulatedMember, bob: SimulatedMember
) -> None:
    alice.types("hello")
    bob.types("/msg alice hello")
    seen = b"".join(room.captured)
    assert SECRET.tag in seen
    for secret in (SECRET.secret, SECRET.auth, SECRET.mix):
        assert secret not in seen


# --------------------------------------------------------------------------------------------------
# over a real relay


class Guest(Insider):
    """A member of an invited room, with what it was warned of."""

    def __init__(self, port: int, name: str, room: RoomSecret) -> None:
        self.alerts: list[str] = []
        with mock.patch.object(RoomSecret, "open_room", return_value=room):
            super().__init__(port, name, keystore(name))

    def _perform(self, effects: list[Effect]) -> None:
        shown = [effect.line for effect in effects if isinstance(effect, Show)]
        self.alerts += [line.text for line in shown if line.kind is Kind.ALERT]
        super()._perform(effects)

    def is_warned(self) -> str:
        """Reads until there was an alert."""
        self._until(lambda: bool(self.alerts))
        return self.alerts[-1]


def heard(sock: socket.socket) -> list[Frame]:
    """All that the relay sent up to now, since the last call."""
    sock.sendall(Ping(7).serialize())
    decoder, frames = FrameDecoder(MAX_FRAME_BYTES), list[Frame]()
    while not any(frame.type == FrameType.PONG for frame in frames):
        data = sock.recv(65_536)
        assert data, "the relay closed the connection"
        decoder.feed(data)
        frames += decoder
    return frames[:-1]


def test_whoever_joins_a_real_relay_under_the_rooms_tag_is_refused_and_gets_ciphertext() -> None:
    with (
        Relay() as relay,
        Guest(relay.port, "alice", SECRET) as alice,
        Guest(relay.port, "bob", SECRET) as bob,
        socket.create_connection(("127.0.0.1", relay.port), timeout=DEADLINE_S) as ghost,
    ):
        bundle = forged("carol")
        ghost.sendall(Join(SECRET.tag, session_of(bundle), bytes(32), bundle).serialize())
        for member in (alice, bob):
            assert member.is_warned() == REFUSED + NOT_INVITED
        alice.types("for bob alone")
        bob.shows("for bob alone")
        types = [frame.type for frame in heard(ghost)]
        assert types[:2] == [FrameType.HELLO, FrameType.WELCOME]
        assert set(types[2:]) == {FrameType.BROADCAST}, "and no key"


def test_two_rooms_on_one_relay_do_not_see_each_other() -> None:
    with (
        Relay() as relay,
        Guest(relay.port, "alice", SECRET) as alice,
        Guest(relay.port, "mallory", RoomSecret.random()) as mallory,
        Insider(relay.port, "dave", keystore("dave")) as dave,
        Guest(relay.port, "bob", SECRET) as bob,
    ):
        alice._until(lambda: bool(alice.session._roster.live))
        alice.types("hello")
        bob.shows("hello")
        for stranger in (mallory, dave):
            assert heard(stranger._sock) == []
            assert not stranger.session._roster.live
        assert alice.alerts == bob.alerts == mallory.alerts == []
