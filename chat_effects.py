"""What a session wants done: the effects that its rules return, and the moments they are given.

What lives here: one value for each thing that a client does to its chain, its connection or its
screen.  What it does not know: when any of it is due (`chat_session`), how it is done
(`chat_engine`).

    for effect in session.typed("hello", Moment(10.0, 1_700_000_000_000)):
        match effect:
            case Append(draft): ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from chat_blocks import BlockType, Draft, Head, SideRow
from chat_messages import Bundle, Event, EventKind
from chat_sync_bodies import Ask, Fetch
from chat_terminal import Field, Kind, Line

__all__ = [
    "Append",
    "Close",
    "Credit",
    "Effect",
    "Effects",
    "Leave",
    "MakeSessionKey",
    "Moment",
    "Named",
    "Query",
    "Ready",
    "Refuse",
    "Remember",
    "Serve",
    "Show",
    "Transmit",
    "Witnessed",
    "alert",
    "error",
    "notice",
    "number",
    "record",
]


class Moment(NamedTuple):
    """Now, twice."""

    s: float  # seconds that pass while the machine sleeps too: for ages and intervals
    ms: int  # wall clock, milliseconds since 1970, UTC: for people


# --------------------------------------------------------------------------- effects


@dataclass(frozen=True)
class Append:
    """A block for our chain."""

    draft: Draft


@dataclass(frozen=True)
class Transmit:
    """A frame for the relay."""

    frame: bytes


@dataclass(frozen=True)
class Show:
    """A line for the person."""

    line: Line


@dataclass(frozen=True)
class Credit:
    """A message of ours is on the chain: one coin, and the line that says so."""

    to: str = ""  # the name of who alone it is for; "": the room
    request: str = ""  # the id that a program gave it


@dataclass(frozen=True)
class Remember:
    """A row of a sealed side table, for our chain's file."""

    row: SideRow


@dataclass(frozen=True)
class Named:
    """We are called otherwise from here on, and when the profile is used again."""

    nick: str


@dataclass(frozen=True)
class MakeSessionKey:
    """A new SEK is due: make one elsewhere and hand it to `session_key_made`."""


@dataclass(frozen=True)
class Ready:
    """The first WELCOME is complete: lines may be typed from here on."""


@dataclass(frozen=True)
class Query:
    """A question that the session cannot answer: about the chain (`chat_answers`), the relay's
    address, the terminal."""

    name: str
    argument: str
    request: str = ""  # the id that a program gave it


@dataclass(frozen=True)
class Refuse:
    """A typed line that was not taken."""

    text: str  # to be given back to the person, for mending; "": nothing


@dataclass(frozen=True)
class Witnessed:
    """Somebody holds a head that we signed: our chain must still lead to it.  The signatures,
    theirs and ours, are verified; what is on our chain is for its owner to look up."""

    head: Head
    name: str  # the witness's
    row: SideRow  # to be kept as evidence if it does


@dataclass(frozen=True)
class Serve:
    """Somebody asks what our chain holds for it: look it up and hand it to `Session.serve`."""

    asker: Bundle
    request_id: bytes  # 16 bytes
    question: Ask | Fetch
    tags: frozenset[bytes]  # of the conversations that it is about


@dataclass(frozen=True)
class Leave:
    """The session is over, for the person's own reasons."""

    exit_code: int


@dataclass(frozen=True)
class Close:
    """The connection is of no use any more; `exit_code` is what it means for a run that ends."""

    exit_code: int


Effect = (
    Append
    | Transmit
    | Show
    | Credit
    | Remember
    | MakeSessionKey
    | Named
    | Ready
    | Query
    | Refuse
    | Witnessed
    | Serve
    | Leave
    | Close
)
Effects = list[Effect]


def number(count: int, what: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def notice(text: str, event: str = "", **fields: Field) -> Show:
    """A line about what happened.

    Args:
        event: what programs know it as (docs/JSON.md).
        fields: what they get with it.
    """
    return Show(Line(Kind.NOTICE, text, event=event, fields=fields))


def alert(text: str, event: str = "", **fields: Field) -> Show:
    """A line about what a person must not miss."""
    return Show(Line(Kind.ALERT, text, event=event, fields=fields))


def error(text: str) -> Show:
    """A line about why something was not done."""
    return Show(Line(Kind.ERROR, text))


def record(kind: EventKind, body: bytes) -> Append:
    """An event for our chain."""
    event = Event(kind, body)
    return Append(Draft(BlockType.EVENT, event.serialize(), event.event_id))
