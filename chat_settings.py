"""What the person asked for: flags, environment, config.toml, defaults, in that order.

What lives here: the client's command line and its validation.  What it does not know: what is done
with any of it.

    settings = read_settings(["--server", "192.168.1.5"], os.environ)   # or UsageError

Each setting is `--some-name`, `CHAINROOM_SOME_NAME`, or `some_name = …` in HOME/config.toml.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from chat_folder import check_profile_name, default_home
from chat_messages import check_nick
from chat_terminal import BELLS, TIME_FORMATS
from chat_wire import CLIENT_COMMAND, DEFAULT_PORT, PROGRAM_VERSION

__all__ = [
    "FORMATS",
    "LAST_BLOCK",
    "VERSION_TEXT",
    "Settings",
    "UsageError",
    "format_of",
    "parse_address",
    "parse_port",
    "parser",
    "read_settings",
]

VERSION_TEXT = f"chainroom {PROGRAM_VERSION}"

# As in usage lines: `python` is left out there.
PROGRAM = CLIENT_COMMAND.removeprefix("python ")
FORMATS = ("txt", "jsonl", "html", "proof")
LAST_BLOCK = 2**62

_T = TypeVar("_T")

_DESCRIPTION = """\
LAN chat whose history you can prove.

examples:
  PROGRAM                                 ask for a relay, join it and chat
  PROGRAM --host                          start a relay here and chat
  PROGRAM --host --new-room               the same, in a room that only an invite opens
  PROGRAM --invite CODE                   join the room that somebody invited you to
  PROGRAM --server 192.168.1.5            join a relay
  PROGRAM doctor 192.168.1.5              why can't I reach it?
  PROGRAM --send TEXT --to bob            say it to bob alone, and leave
  date | PROGRAM --server 192.168.1.5     each line a message
  PROGRAM history 50                      what was said
  PROGRAM verify                          has anybody changed it?
  PROGRAM export talk.html                what was said, with what proves it
  PROGRAM export --only 12-40 talk.proof  of these blocks alone
  PROGRAM verify talk.proof               on any computer: what does it prove?
"""

_EPILOG = """\
exit codes: 0 ok, 1 error, 2 usage, 3 network or something unsent, 4 history tampered,
            5 refused, 6 profile in use or unreadable
"""


class UsageError(ValueError):
    """Something in the settings cannot be; the text is one line for the person."""


@dataclass(frozen=True)
class Settings:
    """Everything checked; None where the person said nothing and something is asked or found."""

    command: str  # chat, doctor, history, verify, export, wallet or passphrase
    home: Path
    profile: str | None
    server: str | None
    port: int | None
    host: int | None  # the port of a relay to start here
    no_announce: bool  # which the network is not told of
    name: str | None
    room: str  # an open room's name, where neither of the next two is given
    invite: str | None  # a code; "": of the invited room that we were in last
    new_room: bool  # one that only its invite opens
    password_file: Path | None
    passphrase_file: Path | None
    plain: bool
    quiet: bool
    json: bool
    time_format: str  # off, hm, hms or iso
    bell: str  # off, mention or all
    send: str | None  # say this and leave
    to: str  # to whom alone; "": to the room
    linger_s: float
    count: int  # of history's messages
    find: str
    file: Path | None  # that export writes or verify reads
    format: str  # of an export
    only: tuple[int, int]  # the first and the last block of an export
    peer: str  # whose conversation alone is exported; "": everybody's
    quick: bool  # verify hashes and links, and not every signature
    new_passphrase_file: Path | None
    removes_passphrase: bool


def parse_port(text: str) -> int:
    """1 to 65,535.  Raises ValueError with one sentence."""
    port = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else -1
    if not 1 <= port <= 65_535:
        raise ValueError(f"a port is a number from 1 to 65535, not {text!r}")
    return port


def _host_port(text: str) -> int:
    return 0 if text == "0" else parse_port(text)  # 0: any free one


def _room(text: str) -> str:
    name = unicodedata.normalize("NFC", text)
    if not 1 <= len(name) <= 64 or any(unicodedata.category(c)[0] in "CZ" for c in name):
        raise ValueError(f"a room's name has 1 to 64 characters and no spaces, not {text!r}")
    return name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise ValueError(f"a time is a number of seconds up to 86400, not {text!r}")
    return seconds


def _one_of(choices: Sequence[str], text: str) -> str:
    if text not in choices:
        raise ValueError(f"one of {', '.join(choices)}, not {text!r}")
    return text


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
        raise ValueError(f"a switch is true or false, not {text!r}")
    return text.lower() in ("1", "true", "yes", "on")


def parse_address(text: str) -> str:
    """A host's name or address, stripped.  Raises ValueError with one sentence."""
    if not text.strip() or any(unicodedata.category(c)[0] in "CZ" for c in text.strip()):
        raise ValueError(f"an address looks like 192.168.1.5 or a host's name, not {text!r}")
    return text.strip()


def _file(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(f"a file's name is expected, not {text!r}")
    return _expanded(text)


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise ValueError(f"nobody's home is known for {text!r}") from exc


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("there is nothing to say")
    return text


def _recipient(text: str) -> str:
    """Blank, as a script's unset variable is, it must not mean everybody."""
    if len(text.split()) != 1:
        raise ValueError(f"a person's name has no spaces and is not empty, not {text!r}")
    return text.strip()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) > 0):
        raise ValueError(f"a number of messages is at least 1, not {text!r}")
    return int(text)


def _blocks(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,15})(?:(-)([0-9]{1,15})?)?", text)
    first = int(found[1]) if found else 0
    last = first if found and not found[2] else int(found[3]) if found and found[3] else LAST_BLOCK
    if found is None or last < first:
        raise ValueError(f"blocks are named like 12-40, 12- or 12, not {text!r}")
    return first, last


def format_of(file: Path) -> str:
    """The format of an export, as the file's name says."""
    by_suffix = {".jsonl": "jsonl", ".html": "html", ".htm": "html", ".proof": "proof"}
    return by_suffix.get(file.suffix.lower(), "txt")


def _format(text: str, file: Path) -> str:
    if not text:
        return format_of(file)
    return _one_of(FORMATS, text)


# What may stand in the environment and in config.toml too.
_LAYERED: dict[str, Callable[[str], Any]] = {
    "profile": check_profile_name,
    "server": parse_address,
    "port": parse_port,
    "name": lambda text: check_nick(unicodedata.normalize("NFC", text)),
    "room": _room,
    "password_file": _file,
    "passphrase_file": _file,
    "plain": _switch,
    "quiet": _switch,
    "json": _switch,
    "no_announce": _switch,
    "time": partial(_one_of, TIME_FORMATS),
    "bell": partial(_one_of, BELLS),
    "linger": _seconds,
}
_ROOM_FLAGS = ("room", "invite", "new_room")
_DEFAULTS: dict[str, Any] = {
    "room": "lobby",
    "plain": False,
    "quiet": False,
    "json": False,
    "no_announce": False,
    "time": "hm",
    "bell": "mention",
    "linger": 10.0,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({PROGRAM} --help shows what there is)")


def parser() -> argparse.ArgumentParser:
    """The client's command line; man pages and completions are made of it."""
    # SUPPRESS: an attribute is there only if the flag was, so that the layers below can be asked,
    # and so that flags work on either side of the command.
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add = common.add_argument
    add("--home", metavar="DIR", help="where profiles and config.toml are kept")
    add("--profile", metavar="P", help="which identity and chain (default; a free one if in use)")
    add("--passphrase-file", metavar="F", help="a file with the profile's passphrase")
    whole = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [options] [COMMAND ...]",
        description=_DESCRIPTION.replace("PROGRAM", PROGRAM),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = whole.add_argument
    add("--version", action="version", version=VERSION_TEXT)
    add("--server", metavar="IP", help="the relay's address (asked for otherwise)")
    add("--port", metavar="N", help=f"the relay's port ({DEFAULT_PORT})")
    add(
        "--host",
        metavar="PORT",
        nargs="?",
        const="",
        help="start a relay on this computer, and join it (PORT, else that of --port)",
    )
    add(
        "--no-announce",
        action="store_const",
        const="true",
        help="with --host: do not tell the network (mDNS) that there is a relay",
    )
    add("--name", metavar="NICK", help="what you are called (your login name)")
    add("--room", metavar="R", help="which open room (lobby)")
    add(
        "--invite",
        metavar="CODE",
        nargs="?",
        const="",
        help="join an invited room (without CODE: the one that you were in last)",
    )
    add("--new-room", action="store_true", help="make a room that only its invite opens")
    add("--password-file", metavar="F", help="a file with the relay's password")
    add(
        "--plain",
        action="store_const",
        const="true",
        help="lines only, no editing; for screen readers",
    )
    add("--quiet", action="store_const", const="true", help="messages and warnings only")
    add("--json", action="store_const", const="true", help="JSON Lines both ways, for programs")
    add("--send", metavar="TEXT", help="say TEXT once in the room, and leave")
    add("--to", metavar="NICK", help="with --send: to that person alone")
    add("--time", metavar="F", help=f"{', '.join(TIME_FORMATS)}: how times are shown (hm)")
    add("--bell", metavar="B", help=f"{', '.join(BELLS)}: what rings (mention)")
    add("--linger", metavar="S", help="how long leaving waits for receipts, in seconds (10)")
    commands = whole.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=_Parser, prog=PROGRAM
    )

    def command(name: str, text: str) -> _Parser:
        return commands.add_parser(name, parents=[common], help=text, allow_abbrev=False)

    doctor = command("doctor", "SERVER [PORT]: why can't I reach that relay?")
    doctor.add_argument("server", metavar="SERVER", help="its address")
    doctor.add_argument("port", metavar="PORT", nargs="?", help=f"its port ({DEFAULT_PORT})")
    doctor.add_argument("--password-file", metavar="F", help="a file with the relay's password")
    history = command("history", "[N] [--find TEXT]: the last N messages of your chain")
    history.add_argument("count", metavar="N", nargs="?", default="20", help="how many (20)")
    history.add_argument("--find", metavar="TEXT", default="", help="that hold this text")
    verify = command("verify", "[FILE]: check your whole chain, or a proof that somebody gave you")
    verify.add_argument("file", metavar="FILE", nargs="?")
    verify.add_argument(
        "--quick", action="store_true", default=False, help="hashes and links, not each signature"
    )
    export = command("export", "FILE: your history for others, with what proves it")
    export.add_argument("file", metavar="FILE", help="where nothing is yet; - is standard output")
    add = export.add_argument
    add("--format", default="", help=f"{', '.join(FORMATS)} (as the file's name ends, else txt)")
    add("--only", metavar="N-M", default="0-", help="messages of these blocks alone")
    add("--with", metavar="NAME", dest="peer", default="", help="messages with that person alone")
    command("wallet", "your balance")
    passphrase = command("passphrase", "set, change or remove the passphrase of your profile")
    add = passphrase.add_argument
    add("--new-file", metavar="F", help="a file with the new one (asked for otherwise)")
    add("--remove", action="store_true", default=False, help="store the keys without one")
    return whole


def read_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of one run.

    Raises:
        UsageError: one line that names the flag, the variable or the file, and what is wrong.
        SystemExit: --help and --version, which print and exit 0.
    """
    flags = vars(parser().parse_args(argv))
    home = _home(flags.get("home"), environ.get("CHAINROOM_HOME"))
    config_path = home / "config.toml"
    config = _read_config(config_path)
    values = dict(_DEFAULTS)
    for key, parse in _LAYERED.items():
        flag, variable = f"--{key.replace('_', '-')}", f"CHAINROOM_{key.upper()}"
        layers = (
            (flag, flags.get(key)),
            (variable, environ.get(variable)),
            (f"{key} in {config_path}", config.get(key)),
        )
        for where, text in layers:
            if text is not None:
                values[key] = _checked(where, parse, text)
                break
    host = _host(flags, values.get("port", DEFAULT_PORT))
    _check_rooms(flags)
    if "to" in flags and "send" not in flags:
        raise UsageError("--to names who reads what --send says: use both")
    file = _optional(flags.get("command") or "", _file, flags.get("file"))
    if file is not None and flags.get("quick"):
        raise UsageError("--quick is for your own chain: a proof is checked as a whole")
    if flags.get("remove") and flags.get("new_file") is not None:
        raise UsageError("--remove stores no passphrase, --new-file names one: use one")
    return Settings(
        command=flags.get("command") or "chat",
        home=home,
        profile=values.get("profile"),
        server=values.get("server"),
        port=values.get("port"),
        host=host,
        no_announce=values["no_announce"],
        name=values.get("name"),
        room=values["room"],
        invite=flags.get("invite"),
        new_room=flags.get("new_room", False),
        password_file=values.get("password_file"),
        passphrase_file=values.get("passphrase_file"),
        plain=values["plain"],
        quiet=values["quiet"],
        json=values["json"],
        time_format=values["time"],
        bell=values["bell"],
        send=_optional("--send", _said, flags.get("send")),
        to=_optional("--to", _recipient, flags.get("to")) or "",
        linger_s=values["linger"],
        count=_checked("history", _count, flags.get("count", "20")),
        find=flags.get("find", ""),
        file=file,
        format=_checked("--format", partial(_format, file=file or Path()), flags.get("format", "")),
        only=_checked("--only", _blocks, flags.get("only", "0-")),
        peer=flags.get("peer", ""),
        quick=flags.get("quick", False),
        new_passphrase_file=_optional("--new-file", _file, flags.get("new_file")),
        removes_passphrase=flags.get("remove", False),
    )


def _home(flag: str | None, variable: str | None) -> Path:
    """An empty variable counts as none: a script that unsets it may well do it like that."""
    if flag is not None:
        return _checked("--home", _file, flag)
    if variable:
        return _checked("CHAINROOM_HOME", _file, variable)
    try:
        return default_home()
    except RuntimeError as exc:
        raise UsageError("your home folder is not known: name one with --home") from exc


def _host(flags: Mapping[str, str], port: int) -> int | None:
    """Where to start a relay here; None: nowhere."""
    if "host" not in flags:
        return None
    if "server" in flags:
        raise UsageError("--host starts a relay here, --server joins one elsewhere: use one")
    if not flags["host"]:
        return port
    if "port" in flags:
        raise UsageError("--host and --port name two ports for one relay: use one")
    return _checked("--host", _host_port, flags["host"])


def _check_rooms(flags: Mapping[str, Any]) -> None:
    named = [f"--{flag.replace('_', '-')}" for flag in _ROOM_FLAGS if flag in flags]
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]} name two rooms: use one")


def _optional(where: str, parse: Callable[[str], _T], text: str | None) -> _T | None:
    return None if text is None else _checked(where, parse, text)


def _checked(where: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as exc:
        raise UsageError(f"{where}: {exc}") from exc


def _read_config(path: Path) -> dict[str, str]:
    """config.toml's values as text, as the other layers have them."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path} cannot be read: {exc}") from exc
    import tomllib  # few have such a file

    try:
        values = tomllib.loads(text)
        texts = {key: str(value) for key, value in values.items()}
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits, {a={a={a=…
        raise UsageError(f"{path} cannot be read: {exc}") from exc
    for key, value in values.items():
        if key not in _LAYERED:
            known = ", ".join(sorted(_LAYERED))
            raise UsageError(f"{path}: {key} is no setting; there are {known}")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{path}: {key} is a text, a number, true or false")
    return texts
