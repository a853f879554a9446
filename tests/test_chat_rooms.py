"""chat_rooms: which room a run joins, and how others come into it."""

from __future__ import annotations

import pytest

from chat_invite import Invite
from chat_rooms import ROOMS_TABLE, Room, choose_room
from chat_terminal import Kind
from crypto_utils import RoomSecret


def invited() -> Room:
    return Room.invited(Invite(RoomSecret.random()))


def code_of(room: Room, server: str) -> str:
    """The invite in what `/invite` says."""
    lines = room.invite_lines(server, 5555, 0)
    return next(line.text.split()[-1] for line in lines if line.kind == Kind.DIALOGUE)


@pytest.mark.parametrize("server", ["fe80::1%eth0", "x" * 65, "a*b"])
def test_address_that_no_invite_can_carry_is_left_out_and_said(server: str) -> None:
    room = invited()
    assert Invite.parse(code_of(room, server)) == Invite(room.secret)
    said = [line.text for line in room.invite_lines(server, 5556, 0)]
    assert any("does not say where the relay is" in text and server in text for text in said)


@pytest.mark.parametrize(
    ("made_with", "joined_at", "kept"),
    [
        ("", ("192.168.1.5", 6000), ("192.168.1.5", 6000)),  # by whoever made the room
        ("10.0.0.1", ("192.168.1.5", 5555), ("192.168.1.5", 5555)),  # the relay has moved
        ("10.0.0.1", None, ("10.0.0.1", 5555)),  # one's own relay is no address for another time
        ("10.0.0.1", ("fe80::1%eth0", 5555), ("10.0.0.1", 5555)),
    ],
)
def test_room_is_taken_again_where_it_was_joined_last(
    made_with: str, joined_at: tuple[str, int] | None, kept: tuple[str, int]
) -> None:
    room = Room.invited(Invite(RoomSecret.random(), made_with))
    rows = {row.key: row.value for row in room.row(1, {}, joined_at) if row.table == ROOMS_TABLE}
    again = choose_room("lobby", "", False, rows)
    assert again.secret == room.secret
    assert again.invite is not None
    assert (again.invite.server, again.invite.port) == kept
