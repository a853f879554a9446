"""chat_rooms: which room a run joins, and how others come into it."""

from __future__ import annotations

import pytest

from chat_invite import Invite
from chat_rooms import Room
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
