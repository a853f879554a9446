"""Which room a run of the client joins: open, new, or invited.

What lives here: `Room`, how the settings and the profile choose one, how an invited one is
remembered, what `/invite` says.  What it does not know: connections, the room's members.

    room = choose_room("lobby", settings.invite, settings.new_room, chain.side(ROOMS_TABLE))
    room.secret, room.name, room.invite_lines("192.168.1.5", 5555, terminal.columns)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from chat_blocks import SideRow
from chat_invite import Invite, InviteError
from chat_qr import qr_rows
from chat_terminal import Kind, Line
from chat_wire import CLIENT_COMMAND, DEFAULT_PORT, u64
from crypto_utils import RoomSecret

__all__ = ["ROOMS_TABLE", "NoRoom", "Room", "choose_room", "kept_rooms"]

ROOMS_TABLE = "rooms"  # room_tag → last used, ms, u64 ‖ the invite as text
_INDENT = 4  # of what follows a line's first row
MAX_ROOMS = 64  # of one profile; the one not used for longest is forgotten


class NoRoom(ValueError):
    """There is no room to join; the text is one line for the person."""


@dataclass(frozen=True)
class Room:
    """What is joined."""

    secret: RoomSecret
    name: str  # what the person calls it
    invite: Invite | None = None  # None: anybody who knows the name may join

    @classmethod
    def open(cls, name: str) -> Self:
        """The one that everybody is in who says that name."""
        return cls(RoomSecret.open_room(name), name)

    @classmethod
    def invited(cls, invite: Invite) -> Self:
        """The one that only its invite opens; it is called by its tag, since it has no name."""
        return cls(invite.room, f"invited room {invite.room.tag[:2].hex()}", invite)

    def row(
        self, now_ms: int, rows: Mapping[bytes, bytes], relay: tuple[str, int] | None
    ) -> list[SideRow]:
        """What is to be kept of it in the side table `rooms`, and what goes for that.

        Args:
            relay: where it was joined, so that nobody is asked next time; None: as the code says.
        """
        if self.invite is None:
            return []
        invite = self.invite
        if relay is not None:
            with suppress(InviteError):  # such an address is typed anew each time
                invite = Invite(self.secret, *relay)
        value = u64(now_ms) + invite.text.encode()
        others = sorted((used, tag) for tag, used in rows.items() if tag != self.secret.tag)
        gone = [SideRow(ROOMS_TABLE, tag, b"") for _, tag in others[: -(MAX_ROOMS - 1)]]
        return [SideRow(ROOMS_TABLE, self.secret.tag, value), *gone]

    def invite_lines(self, server: str, port: int, columns: int) -> list[Line]:
        """How others come in.

        Args:
            server: the relay's address as they reach it.
            columns: of the terminal, for a QR code; 0: there is none.
        """
        to = f"--server {server}" + (f" --port {port}" if port != DEFAULT_PORT else "")
        if self.invite is None:
            how = f"{CLIENT_COMMAND} {to}" + (
                "" if self.name == "lobby" else f" --room {self.name}"
            )
            return [
                _notice(f"this room is open, others join it with: {how}"),
                _notice("one that only an invite opens is made by --new-room"),
            ]
        without = []
        try:
            invite = Invite(self.secret, server, port)
        except InviteError as exc:
            invite = Invite(self.secret)
            without = [_notice(f"the code does not say where the relay is: {exc}")]
        rows = qr_rows(invite.text)
        if not rows or len(rows[0]) + _INDENT > columns:
            rows = []
        return [
            _notice("others join this room with:"),
            Line(Kind.DIALOGUE, f"{CLIENT_COMMAND} --invite {invite.text}", event="invite"),
            *without,
            *([_notice("\n".join(["the code for a camera:", *rows]))] if rows else []),
            _notice("whoever has the code reads what is said from then on: hand it over in person"),
        ]


def choose_room(name: str, invite: str | None, new: bool, rooms: Mapping[bytes, bytes]) -> Room:
    """The room that a run joins.

    Args:
        name: of an open room, if nothing else is said.
        invite: a code; "": of the invited room that was used last; None: none.
        new: a new room.
        rooms: the side table `rooms`.

    Raises:
        NoRoom: the code is mistyped, or there is none to take again.
    """
    if new:
        return Room.invited(Invite(RoomSecret.random()))
    if invite is None:
        return Room.open(name)
    if not invite:
        invite = _last(rooms)
    try:
        return Room.invited(Invite.parse(invite))
    except InviteError as exc:
        raise NoRoom(f"--invite: {exc}") from exc


def _last(rooms: Mapping[bytes, bytes]) -> str:
    if not rooms:
        raise NoRoom("--invite: this profile was in no invited room yet: --invite CODE joins one")
    return max(rooms.values())[8:].decode("utf-8", "replace")


def kept_rooms(rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Of the side table `rooms`, the rows that a next chain is given."""
    return {tag: value for tag, value in rows.items() if len(tag) == 16 and len(value) < 1024}


def _notice(text: str) -> Line:
    return Line(Kind.NOTICE, text)
