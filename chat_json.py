"""The terminal of a program: JSON Lines both ways instead of text.

What lives here: how a shown line becomes an object, how an object that a program sends becomes
something to say or a command, and the terminal that does both.  What it does not know: what a
command does, which events there are (docs/JSON.md lists them).

    terminal = open_json_terminal()
    terminal.show(Line(Kind.NOTICE, "bob#7f3a joined", event="joined"))  # any thread
    request = terminal.read_line("> ")    # Say, Command or None: leave; BadRequest: go on reading

A program is never asked anything, is shown every line whatever --quiet says, and finds nothing on
stderr.  docs/JSON.md is the contract; what changes it so that a program could break raises VERSION.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chat_commands import Command, Say, read_typed
from chat_terminal import BadInput, Kind, Line, Streams, Terminal

__all__ = [
    "MAX_ID_CHARACTERS",
    "VERSION",
    "BadRequest",
    "JsonTerminal",
    "RequestedCommand",
    "RequestedSay",
    "answering",
    "as_json",
    "open_json_terminal",
    "read_request",
    "request_id",
]

VERSION = 1
MAX_ID_CHARACTERS = 64  # a UUID has 36; it comes back with each line of an answer

# What each type of request needs beside its type, all of it strings.  v and id may be left out.
_KEYS = {"say": ("text",), "msg": ("to", "text"), "command": ("line",), "leave": ()}
_MAX_QUOTED = 40  # characters of somebody's mistake that are repeated
_NAMES = {bool: "true or false", int: "a number", float: "a number", list: "an array"}


class BadRequest(BadInput):
    """A line of input that is no request.  str(error) is a sentence that says what is wrong.

    id: the request's, as far as it could be read; else "".
    """

    def __init__(self, reason: str, request_id: str = "") -> None:
        super().__init__(reason)
        self.id = request_id

    @property
    def line(self) -> Line:
        """What the program is told."""
        line = Line(Kind.ERROR, str(self))
        return answering(line, self.id) if self.id else line


@dataclass(frozen=True)
class RequestedSay(Say):
    """A line for the room that a program gave an id."""

    id: str


@dataclass(frozen=True)
class RequestedCommand(Command):
    """A command that a program gave an id."""

    id: str


def request_id(typed: object) -> str:
    """The id that a program gave to what it wants; "" if none."""
    return typed.id if isinstance(typed, RequestedSay | RequestedCommand) else ""


def answering(line: Line, request_id: str) -> Line:
    """The line as part of what answers the request of that id."""
    return replace(line, fields={**line.fields, "id": request_id})


# ------------------------------------------------------------------------------- to the program


def as_json(line: Line) -> str:
    """One object in one row, without a newline at its end.

    In ASCII: whatever control or bidi characters a text has, they are inert where the output is
    looked at in a terminal, and no encoding of the reader can spoil them.
    """
    fields = dict(line.fields)
    what = line.event or line.kind.value
    if line.kind is Kind.MESSAGE and "from" not in fields:  # read back from the chain: no news
        what, fields = "history", {"author": line.author, "sent_ms": line.sent_ms, **fields}
    fixed = {"v": VERSION, "type": what, "kind": line.kind.value, "text": line.text}
    # Twice: what every object has comes first, and no field takes its place.
    return json.dumps({**fixed, **fields, **fixed})


# ----------------------------------------------------------------------------- from the program


def read_request(text: str) -> Say | Command:
    """What one line of input asks for.

    Raises:
        BadRequest: it is not JSON, or no request; keys that are not known or come twice are
            refused too, so that a program's slips are seen.
    """
    asked = _parsed(text)
    request_id = asked.get("id", "")
    try:
        typed = _meant(asked)
    except BadRequest as exc:
        exc.id = request_id if _is_id(request_id) else ""
        raise
    if not request_id:
        return typed
    if isinstance(typed, Say):
        return RequestedSay(typed.text, request_id)
    return RequestedCommand(typed.name, typed.argument, request_id)


def _parsed(text: str) -> dict[str, Any]:
    """One object, whatever is in it."""
    try:
        asked = json.loads(text, object_pairs_hook=_once)
    except BadRequest:
        raise
    except json.JSONDecodeError as exc:
        why = f"{exc.msg.removesuffix(' at')} (column {exc.colno})"
        raise BadRequest(f"a line of input is not JSON: {why}") from exc
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits, [[[[…
        raise BadRequest("a line of input is not JSON that can be read here") from exc
    if not isinstance(asked, dict):
        raise BadRequest("a request is a JSON object: {…}")
    return asked


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadRequest(f"the key {_quoted(key)} comes twice in one object")
        found[key] = value
    return found


def _meant(asked: Mapping[str, Any]) -> Say | Command:
    match _type_of(asked):
        case "say":
            return Say(_string(asked, "text"))
        case "msg":
            return _private(_string(asked, "to"), _string(asked, "text"))
        case "command":
            return _command(_string(asked, "line"))
        case _:
            return Command("quit", "")


def _type_of(asked: Mapping[str, Any]) -> str:
    """Of a request whose keys are known, and whose v and id are fit for use."""
    what = asked.get("type")
    if not isinstance(what, str) or what not in _KEYS:
        wrong = f"there is no type {_quoted(what)}" if isinstance(what, str) else "no type is named"
        raise BadRequest(f"{wrong}: a request is one of {', '.join(_KEYS)}")
    known = ("type", *_KEYS[what], "v", "id")
    for key in asked:
        if key not in known:
            raise BadRequest(f"there is no key {_quoted(key)} in {what}: it has {', '.join(known)}")
    version = asked.get("v", VERSION)
    if isinstance(version, bool) or version != VERSION:
        raise BadRequest(f"v is {VERSION}, or left out")
    if "id" in asked and not _is_id(asked["id"]):
        raise BadRequest(f"an id is a string of 1 to {MAX_ID_CHARACTERS} characters")
    return what


def _string(asked: Mapping[str, Any], key: str) -> str:
    if key not in asked:
        raise BadRequest(f"{asked['type']} needs {key}")
    value = asked[key]
    if not isinstance(value, str):
        raise BadRequest(f"{key} is a string, not {_named(value)}")
    if not value.strip():
        raise BadRequest(f"{key} is empty")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise BadRequest(f"{key} has half a surrogate pair, which is no Unicode text")
    return value


def _private(to: str, text: str) -> Command:
    if len(to.split()) > 1:
        raise BadRequest("to is one name, such as bob#7f3a: names have no spaces")
    return Command("msg", f"{to.strip()} {text}")


def _command(line: str) -> Command:
    typed = read_typed(line)
    if not isinstance(typed, Command):
        raise BadRequest("line is a command, such as /who; say is for messages")
    return typed


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_ID_CHARACTERS


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "...")


def _named(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), "an object")


# -------------------------------------------------------------------------------- the terminal


class JsonTerminal(Terminal):
    """Objects instead of lines, one a row, both ways.

    As for any pipe, a line waits where the program reads too slowly; nothing is ever skipped.
    """

    def __init__(self, streams: Streams) -> None:
        super().__init__(streams)
        # Who tries it by hand on a terminal is treated as a program is.
        self._person_types = self._on_screen = self.interactive = False

    def read_line(  # type: ignore[override]
        self, prompt: str, draft: str = ""
    ) -> Say | Command | None:
        """The next request: a value, so that a program can say what a person cannot type, `exit`.

        For one thread, the main one, as in `Terminal`.  Blank lines are passed over.  None: end of
        input, Ctrl-C, `broken`, a call of `end_input` or `close`; and for every prompt but `> `,
        since questions are not asked.  Raises BadRequest; the next call goes on with the next line.
        """
        while prompt == "> ":
            try:
                line = super().read_line(prompt, draft)
            except BadInput as exc:
                raise BadRequest(str(exc)) from exc
            if line is None:
                break
            if line.strip():
                return read_request(line)
        return None

    def progress(self, text: str) -> None:
        """Nothing: progress is for people."""

    def _read(self, prompt: str, draft: str) -> str:
        return self._next_line().decode("utf-8", "surrogateescape")

    def _print(self, lines: list[Line]) -> None:
        rows = "".join(f"{as_json(line)}\n" for line in lines)
        with self._turn:
            self._write(self._out, rows)


def open_json_terminal() -> JsonTerminal:
    """This process's stdin and stdout.  Close it when done."""
    return JsonTerminal(Streams.standard())
