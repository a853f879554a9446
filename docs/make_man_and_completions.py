"""Makes man/ and contrib/completions/ from the command lines' own descriptions.

    .venv/bin/python docs/make_man_and_completions.py [FOLDER]

shtab writes the completions.  The manual pages are written here, from the same parsers: what
argparse-manpage makes of them repeats the common options below each command, and needed more
mending than this needs lines.  tests/test_first_impression.py holds that the committed files are
what this makes, which is why shtab is pinned in pyproject.toml.
"""

# ruff: noqa: E402 - the project's folder must be on the path before anything of it is imported

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import shtab

import chat_daemon
import chat_settings
from chat_members import Limits
from chat_terminal import BELLS, TIME_FORMATS

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
DATE = "2026-11-25"  # when the words below were last looked at

# What is installed under which name; the parsers speak of the files in the repository.
INSTALLED = {"chat_client.py": "chainroom", "chat_server.py": "chainroom-server"}

SHELLS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}  # each with its files' names

# What the shell offers behind an option, by the option or by what the help calls its value.
CHOICES = {"--time": TIME_FORMATS, "--bell": BELLS, "--format": chat_settings.FORMATS}
PATHS = {"F": shtab.FILE, "FILE": shtab.FILE, "DIR": shtab.DIRECTORY}

# What the manual pages have beside the parsers' words, in man(7).
CLIENT_SECTIONS = {
    "NAME": "chainroom \\- LAN chat whose history you can prove",
    "SYNOPSIS": """\
.B chainroom
.RI [ options ]
.br
.B chainroom
.IR "COMMAND " [ options ]""",
    "DESCRIPTION": """\
Joins a relay on the local network and chats there, encrypted from end to end.
Every message that is sent or received becomes a block of your own signed,
hash-linked chain, which
.B chainroom verify
checks.
Without a server it asks for one; in a pipe each line is a message.
.B /help
lists what can be typed in a chat.""",
    "FILES": """\
.TP
.I ~/.local/share/chainroom/
Where everything is kept, or the platform's own folder for data.
.B \\-\\-home
and
.B CHAINROOM_HOME
name another.
.TP
.I config.toml
in it: settings, such as
.BR "port = 6000" .
.TP
.I profiles/default/
in it: an identity with its keys, and its chain in
.IR chain.db .""",
    "ENVIRONMENT": """\
A flag wins over the environment, and that over
.IR config.toml .
.TP
.BR CHAINROOM_PORT ", " CHAINROOM_NAME " and so on"
What the flag of that name says.
.TP
.B NO_COLOR
No colours.
.TP
.B TERM
.B dumb
means
.BR \\-\\-plain .""",
    "SEE ALSO": ".BR chainroom\\-server (1)",
}
RELAY_SECTIONS = {
    "NAME": "chainroom\\-server \\- the relay of Chainroom, a LAN chat",
    "SYNOPSIS": """\
.B chainroom\\-server
.RI [ options ]""",
    "DESCRIPTION": """\
Passes on what it cannot read, and stores nothing.
Its first line is \\(dqServer is running...\\(dq, its second the address that it
listens on; then come the commands that others paste to join.
On standard error it logs a line for each join, leave and refusal, with
addresses and never content.
.PP
SIGUSR1 makes it log one status line.
SIGINT and SIGTERM end it, after its members were told.""",
    "EXAMPLES": """\
.TP
.B chainroom\\-server
for everybody on the network, at port 5555
.TP
.B chainroom\\-server \\-\\-host 127.0.0.1 \\-\\-port 0
for this computer alone, at any free port
.TP
.B chainroom\\-server \\-\\-password\\-file relay.password
for those who have the password""",
    "SEE ALSO": ".BR chainroom (1)",
}
# The order that man-pages(7) wants.
ORDER = (
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "COMMANDS",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "EXAMPLES",
    "SEE ALSO",
)


# --------------------------------------------------------------------------- the parsers


def client_parser() -> argparse.ArgumentParser:
    return prepared(chat_settings.parser(), "chainroom")


def relay_parser() -> argparse.ArgumentParser:
    # `options` makes a parser and uses it at once.
    with patch.object(argparse.ArgumentParser, "parse_args", lambda parser, _argv: parser):
        made = chat_daemon.options([], Limits.max_clients, Limits.max_per_ip, Limits.rate)
    assert isinstance(made, argparse.ArgumentParser)
    return prepared(made, "chainroom-server")


def prepared(parser: argparse.ArgumentParser, prog: str) -> argparse.ArgumentParser:
    """With the program's name as installed, and with what may follow each option."""
    parser.prog = prog
    parser.description = installed(parser.description)
    parser.epilog = installed(parser.epilog)
    for action in parser._actions:
        action.help = installed(action.help) % (vars(action) | {"prog": prog})
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                prepared(command, f"{prog} {name}")
            continue
        by_option = [CHOICES[name] for name in action.option_strings if name in CHOICES]
        if by_option:
            action.choices = by_option[0]
        elif action.metavar in PATHS:
            action.complete = PATHS[str(action.metavar)]  # type: ignore[attr-defined] # for shtab
    return parser


def installed(text: str | None) -> str:
    text = text or ""
    for file, name in INSTALLED.items():
        text = text.replace(f"python {file}", name).replace(file, name)
    return text


# --------------------------------------------------------------------------- the manual pages


def escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def item(head: str, body: str) -> list[str]:
    """An entry of a list.  The head is written already; it must not stand alone."""
    return [".TP", head, escaped(body) or "\\&"]


def invocation(action: argparse.Action) -> str:
    """`--port N`, as it is typed: what stands for something in italics, the rest in bold."""
    stands_for = action.metavar or "|".join(action.choices or [action.dest])
    value = "" if action.nargs == 0 else f"\\fI{escaped(str(stands_for))}\\fR"
    if action.nargs == "?":
        value = f"[{value}]"
    names = [f"\\fB{escaped(name)}\\fR {value}".rstrip() for name in action.option_strings]
    return ", ".join(names) or value


def options(parser: argparse.ArgumentParser, besides: set[str]) -> list[str]:
    """The flags of a parser, without those of these names."""
    return [
        line
        for action in parser._actions
        if action.option_strings and action.dest not in besides
        for line in item(invocation(action), action.help or "")
    ]


def commands(whole: argparse.ArgumentParser) -> list[str]:
    """Each command, what it does, and the flags that it alone has."""
    made = []
    common = {action.dest for action in whole._actions if action.option_strings}
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            for entry in action._choices_actions:
                command = action.choices[entry.dest]
                places = [invocation(a) for a in command._actions if not a.option_strings]
                made.append(f".SS {command.prog} {' '.join(places)}".rstrip())
                # In the help the arguments stand before a colon; here the heading has them.
                made.append(escaped(re.sub(r"^[^a-z]*: ", "", entry.help or "")))
                made += options(command, common)
    return made


def examples(text: str) -> list[str]:
    """From lines of `command   what it does`."""
    made = []
    for line in text.strip().splitlines():
        command, _, does = line.strip().partition("  ")
        made += item(f".B {escaped(command)}", does.strip())
    return made


def exit_codes(text: str) -> list[str]:
    """From `exit codes: 0 ok, 1 error, …`."""
    codes = re.findall(r"(\d) (.*?)(?:, (?=\d)|\.?$)", " ".join(text.partition(":")[2].split()))
    return [line for code, meaning in codes for line in item(f".B {code}", meaning)]


def manual(parser: argparse.ArgumentParser, written: dict[str, str]) -> str:
    """The manual page of one program."""
    sections = {
        "OPTIONS": options(parser, set()),
        "COMMANDS": commands(parser),
        "EXAMPLES": examples((parser.description or "").partition("examples:")[2]),
        "EXIT STATUS": exit_codes(parser.epilog or ""),
    }
    sections |= {heading: [text] for heading, text in written.items()}
    lines = [f'.TH {escaped(parser.prog.upper())} 1 {DATE} "Chainroom {VERSION}"']
    for heading in ORDER:
        if content := sections.get(heading):
            lines += [f".SH {heading}", *content]
    return "".join(f"{line}\n" for line in lines)


# --------------------------------------------------------------------------- all files


def files() -> dict[str, str]:
    """What is made, by its path below the project's folder."""
    made = {}
    for parser, written in (
        (client_parser(), CLIENT_SECTIONS),
        (relay_parser(), RELAY_SECTIONS),
    ):
        for shell, file in SHELLS.items():
            script = shtab.complete(parser, shell)
            script = "".join(f"{line.rstrip()}\n" for line in script.splitlines())
            made[f"contrib/completions/{shell}/{file.format(parser.prog)}"] = script
        made[f"man/{parser.prog}.1"] = manual(parser, written)
    return made


def main() -> None:
    os.environ["COLUMNS"] = "80"  # argparse wraps at what the terminal has
    folder = Path(sys.argv[1]) if sys.argv[1:] else ROOT
    for path, text in files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
