"""A passphrase from a person or from a file, and what is said when one is set.

What lives here: reading the first line of a secret's file, asking without echo, the notices.  What
it does not know: what a passphrase opens (`crypto_utils.Keystore`), where profiles are.

    Profile.open(home, passphrase=asker(settings.passphrase_file))
    profile.set_passphrase(ask_new(settings.new_passphrase_file))

A passphrase is UTF-8 in NFC, so that it is the same bytes whatever keyboard it was typed on.
"""

from __future__ import annotations

import getpass
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

from crypto_utils import MAX_PASSPHRASE_BYTES

__all__ = [
    "PassphraseError",
    "ask_new",
    "ask_password",
    "asker",
    "is_person_there",
    "notices",
    "read_secret",
]

_TRIES = 3  # how often a person at a terminal is asked


class PassphraseError(Exception):
    """There is no passphrase to go on with; the text is one line with what to do.  Exit code 6."""


def read_secret(path: Path, what: str) -> bytes:
    """The first line of a file without its line end, as UTF-8 in NFC.

    Args:
        what: is in the file, as a person calls it.

    Raises:
        ValueError: one sentence; the file cannot be read, others may read it, or its first line has
            not 1 to 4096 bytes of UTF-8.
    """
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise ValueError(f"{path} can be read by others: chmod 600 {path}")
            line = file.readline(MAX_PASSPHRASE_BYTES + 3).rstrip(b"\r\n")
        secret = _in_bytes(line.decode())
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeError as exc:
        raise ValueError(f"{path} does not begin with a line of UTF-8") from exc
    if not 0 < len(secret) <= MAX_PASSPHRASE_BYTES:
        size = f"1 to {MAX_PASSPHRASE_BYTES} bytes"
        raise ValueError(f"{path} has no first line of {size}: the {what} stands there")
    return secret


def asker(path: Path | None) -> Callable[[bool], bytes]:
    """What `Profile.open` calls for a passphrase: with False at first, with True if it was wrong.

    A person at a terminal is asked three times.  A file is read only if there is something to open,
    and once.

    Args:
        path: the file of --passphrase-file; None: a person is asked.

    Raises:
        PassphraseError: (the function that is returned) there is none, or no further one.
    """
    asked = 0

    def ask(again: bool) -> bytes:
        nonlocal asked
        if path is not None:
            if again:
                raise PassphraseError(f"the passphrase in {path} is not this profile's")
            return _read(path)
        if not is_person_there():
            raise PassphraseError(
                "this profile has a passphrase, and nobody can be asked here: "
                "name a file that holds it with --passphrase-file"
            )
        asked = asked + 1 if again else 1
        if asked > _TRIES:
            raise PassphraseError("that was not this profile's passphrase; nothing was opened")
        return _asked("Wrong passphrase. Try again: " if again else "Passphrase: ")

    return ask


def ask_new(path: Path | None) -> bytes:
    """A passphrase to be set: never empty.

    Args:
        path: the file that holds it; None: a person is asked, twice the same.

    Raises:
        PassphraseError.
    """
    if path is not None:
        return _read(path)
    if not is_person_there():
        raise PassphraseError(
            "nobody can be asked for a new passphrase here: name a file that holds it "
            "with --new-file"
        )
    question = "New passphrase (five random words are a good one): "
    for _ in range(_TRIES):
        passphrase = _asked(question)
        if not passphrase:
            raise PassphraseError("no passphrase was typed; nothing was changed")
        if _asked("The same again: ") == passphrase:
            return passphrase
        question = "These two differ. New passphrase: "
    raise PassphraseError("the two differed each time; nothing was changed")


def ask_password() -> bytes:
    """The relay's password, from a person.  Raises PassphraseError."""
    return _asked("Relay password: ", "--password-file")


def notices(had: bool, has: bool) -> list[str]:
    """What a person is told after `passphrase`, a line each.

    Args:
        had: the profile had a passphrase before.
        has: it has one now.
    """
    if not has:
        return [
            "the passphrase is removed" if had else "there was no passphrase",
            "who can read this profile's files reads everything in them",
        ]
    change, old = ("changed", "with the old passphrase") if had else ("set", "without one")
    protects = "the private keys, the texts and other people's names in this profile"
    shows = "how many messages there are, their times and sizes, your own fingerprint and nick"
    later = "also what is written from now on: if there may be one, start anew with --profile NAME"
    return [
        f"passphrase {change}: nobody can read {protects} without it",
        f"it does not hide {shows}, or addresses in relay.log if you ran a relay",
        f"a copy of `keys` from before opens everything {old}, {later}",
    ]


def _read(path: Path) -> bytes:
    try:
        return read_secret(path, "passphrase")
    except ValueError as exc:
        raise PassphraseError(str(exc)) from exc


def is_person_there() -> bool:
    """Whether somebody could be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def _asked(question: str, flag: str = "--passphrase-file") -> bytes:
    """One line that is typed and not shown.  Raises PassphraseError.

    Args:
        flag: names a file that may hold it instead.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            passphrase = _in_bytes(getpass.getpass(question))
    except EOFError as exc:
        raise PassphraseError("nothing was typed") from exc
    except getpass.GetPassWarning as exc:
        raise PassphraseError(
            f"this terminal would show what is typed: name a file that holds it with {flag}"
        ) from exc
    except UnicodeError as exc:
        raise PassphraseError("what was typed is no text in this terminal's encoding") from exc
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise PassphraseError(f"a passphrase has at most {MAX_PASSPHRASE_BYTES} bytes")
    return passphrase


def _in_bytes(text: str) -> bytes:
    return unicodedata.normalize("NFC", text).encode()
