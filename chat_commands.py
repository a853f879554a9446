"""What a typed line means: something to say, or a command.

What lives here: the grammar of typed lines and the help.  What it does not know: what a command
does (`chat_session`, `chat_client`).

    match read_typed(line):
        case Say(text): ...
        case Command("msg", argument): ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["HELP", "Command", "Say", "Typed", "read_typed"]

HELP = {
    "help": "/help                this list",
    "who": "/who                 who is in the room",
    "msg": "/msg NAME TEXT       a private message: that person alone can read it",
    "ignore": "/ignore NAME [off]   do not show NAME, and let NAME read nothing more of yours",
    "history": "/history [N]         the last N messages of your chain (20)",
    "find": "/find TEXT           messages that hold TEXT, with their blocks",
    "forget": "/forget N            erase the text of block N here, for good",
    "export": "/export FILE         your history as .txt, .jsonl, .html or .proof, as FILE ends",
    "chain": "/chain [N]           your chain: is it whole, and who can tell; or its block N",
    "wallet": "/wallet              your coins: one for each message you sent",
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
