"""What a typed line means: something to say, or a command.

What lives here: the grammar of typed lines, the help, what Tab completes, whether a text names
somebody.  What it does not know: what a command does (`chat_session`, `chat_client`).

    match read_typed(line):
        case Say(text): ...
        case Command("msg", argument): ...
    completions("/ms", ["bob#7f3a"])     # ["/msg "]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["HELP", "Command", "Say", "Typed", "completions", "mentions", "read_typed"]

HELP = {
    "help": "/help                this list",
    "who": "/who                 who is in the room",
    "msg": "/msg NAME TEXT       a private message: that person alone can read it",
    "verify": "/verify NAME         is NAME who you think? both see a number to compare",
    "accept": "/accept NAME         take NAME's new key, once you know that it is NAME's",
    "key": "/key [NAME]          your fingerprint, or NAME's",
    "invite": "/invite              the code that lets others into this room",
    "nick": "/nick NAME           be called NAME from here on",
    "ignore": "/ignore NAME [off]   do not show NAME, and let NAME read nothing more of yours",
    "history": "/history [N]         the last N messages of your chain (20)",
    "find": "/find TEXT           messages that hold TEXT, with their blocks",
    "forget": "/forget N            erase the text of block N here, for good",
    "export": "/export FILE         your history as .txt, .jsonl, .html or .proof, as FILE ends",
    "chain": "/chain [N]           your chain: is it whole, and who can tell; or its block N",
    "wallet": "/wallet              your coins: one for each message you sent",
    "bell": "/bell [WHAT]         what rings: off, mention or all",
    "status": "/status              the connection, and who has confirmed your last message",
    "quit": "/quit                leave; so do exit and Ctrl-D",
}


@dataclass(frozen=True)
class Say:
    """A line for the room."""

    text: str


@dataclass(frozen=True)
class Command:
    """`/name argument`; the name in lower case and maybe unknown, the argument stripped."""

    name: str
    argument: str


Typed = Say | Command | None


# Their first word is a person's name.
_OF_PEOPLE = ("msg", "verify", "accept", "key", "ignore")


def read_typed(line: str) -> Typed:
    """None for a line of white space alone; `exit` in any case is the command quit; what starts
    with `//` is said with one slash less; a line is said as it was typed, spaces included."""
    stripped = line.strip()
    if not stripped:
        return None
    if stripped.lower() == "exit":
        return Command("quit", "")
    if stripped.startswith("//"):
        return Say(stripped[1:])
    if stripped.startswith("/"):
        found = re.match(r"/(\S*)", stripped)
        assert found is not None, "the pattern fits every text that begins with a slash"
        return Command(found[1].lower(), stripped[found.end() :].strip())
    return Say(line)


def completions(before: str, names: Iterable[str]) -> list[str]:
    """What a text may become when Tab is pressed at its end: whole texts, sorted; none if there is
    nothing to complete.

    A command's name, the name that a command wants, and a name anywhere that begins with `@` or
    stands first in a line (then with a colon, as people address each other).
    """
    start, _, last = before.rpartition(" ")
    if not start and last.startswith("/"):
        return sorted(f"/{name} " for name in HELP if name.startswith(last[1:].lower()))
    command = re.fullmatch(r"/(\S+)", start)
    if command and command[1].lower() in _OF_PEOPLE:
        return sorted(f"{start} {name} " for name in names if _begins(name, last))
    if last.startswith("@") or (last and not start and not command):
        at, end = ("@", " ") if last.startswith("@") else ("", ": ")
        space = before[: len(before) - len(last)]
        found = [name for name in names if _begins(name, last.removeprefix("@"))]
        return sorted(f"{space}{at}{name}{end}" for name in found)
    return []


def _begins(name: str, typed: str) -> bool:
    return name.casefold().startswith(typed.casefold())


def mentions(text: str, nick: str) -> bool:
    """Whether a text holds that nick as a word of its own, in any case."""
    return bool(re.search(rf"(?<!\w){re.escape(nick.casefold())}(?!\w)", text.casefold()))
