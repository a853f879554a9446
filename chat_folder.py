"""A profile's folder: which file is which, who may use it, and how its files change so that a crash
between two of them is never taken for tampering.

What lives here: names, the lock, `keys`, `chain.new` in the place of `chain.db`, evidence, and what
a person is told when they cannot be used.  What it does not know: which chain is good, what a chain
says, where a passphrase comes from.

    lock = lock_folder(path, create=True)                # until it is closed
    keystore = read_keys(path / "keys", passphrase)
    finding = finish(path, keystore)                     # what a crash left half done
    keystore = new_chain(path, keystore, predecessor, finding)

The files are described in docs/PROFILE.md.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from blockchain import Blockchain, BlockType, Draft, Head, SideRow, StoreError
from crypto_utils import (
    CannotDerive,
    Keystore,
    KeystoreDamaged,
    PassphraseNeeded,
    PublicKeys,
    WrongPassphrase,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "DEFAULT_PROFILE",
    "GONE",
    "NO_CHAIN",
    "ChainGone",
    "Passphrase",
    "ProfileDamaged",
    "ProfileError",
    "ProfileLocked",
    "ProfileSealed",
    "check_profile_name",
    "default_home",
    "evidence_files",
    "finish",
    "lock_folder",
    "new_chain",
    "next_evidence",
    "not_yet",
    "profile_path",
    "read_keys",
    "unusable",
    "unwritable",
    "write",
]

# Called for a profile's passphrase: with False at first, with True if what it gave was wrong.
Passphrase = Callable[[bool], bytes]

DEFAULT_PROFILE = "default"
NO_CHAIN = bytes(16)  # the chain_id in keys for which no chain was made yet: any will do
GONE = "MISSING@0: chain.db is gone, and all of it with it"
_MOST_TRIES = 5  # with passphrases; who asks a person gives up before
# What Windows takes for a device, whatever follows behind a dot.
_DEVICES = r"(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:\..*)?"


class ProfileError(Exception):
    """The profile cannot be used; the text is one line with what to do."""

    exit_code = 6


class ProfileLocked(ProfileError):
    """Another process uses it."""


class ProfileDamaged(ProfileError):
    """One of its files is missing or cannot be read."""


class ChainGone(ProfileError):
    """There is no chain any more where one was written."""

    exit_code = 4


class ProfileSealed(ProfileError):
    """Its keys are behind a passphrase that was not given."""


# --------------------------------------------------------------------------- names


def default_home() -> Path:
    """The platform's folder for a program's data, with `chainroom` in it."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "chainroom"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/chainroom"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "chainroom"


def check_profile_name(name: str) -> str:
    """`name` if it can be a folder's everywhere, else ValueError with one sentence."""
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,64}(?<!\.)", name):
        raise ValueError(
            "a profile's name has 1 to 64 of A-Z a-z 0-9 . _ - and no dot at its ends, "
            f"not {name!r}"
        )
    if re.fullmatch(_DEVICES, name, re.IGNORECASE):
        raise ValueError(f"a profile's name is no device of Windows, as {name!r} is")
    return name


def profile_path(home: Path, name: str | None) -> Path:
    """The folder of a profile; None: of the default one."""
    return home / "profiles" / (name or DEFAULT_PROFILE)


def evidence_files(path: Path) -> list[Path]:
    """Chains that were found tampered with, oldest first."""
    found = [file for file in path.glob("evidence-*.db") if file.stem[9:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[9:]))


def next_evidence(path: Path) -> Path:
    """Where nothing is, neither a chain nor what SQLite kept beside one."""
    names = (re.match(r"evidence-(\d+)\.db", file.name) for file in path.glob("evidence-*"))
    return path / f"evidence-{max((int(n[1]) for n in names if n), default=0) + 1}.db"


# --------------------------------------------------------------------------- what a person is told


def unusable(path: Path, why: str) -> str:
    """Of a file that cannot be read."""
    return (
        f"{path} cannot be used ({why}): put it back from a copy, or move {path.parent} away "
        "to start anew; nothing was changed"
    )


def unwritable(path: Path, exc: Exception) -> str:
    """Of a folder."""
    why = f"{exc.strerror}: {exc.filename}" if isinstance(exc, OSError) and exc.filename else exc
    return f"{path} cannot be used ({why}): make room there, or name another folder with --home"


def not_yet(path: Path) -> str:
    """Of a folder that holds no profile."""
    return f"there is no profile in {path} yet: chat first"


# --------------------------------------------------------------------------- lock and keys


def lock_folder(path: Path, *, create: bool) -> IO[bytes]:
    """The profile's lock, held until it is closed; `create` makes the folder.

    Raises:
        ProfileLocked, ProfileDamaged: it is in use; there is none.
        ProfileError: it cannot be written.
    """
    try:
        if create:
            for folder in (path.parent.parent, path.parent, path):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.exists():
            raise ProfileDamaged(not_yet(path))
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ProfileError(unwritable(path, exc)) from exc
    lock = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:  # PermissionError is what Windows says
        lock.close()
        raise ProfileLocked(
            f"the profile {path.name} is in use by another client ({path}): "
            "leave that one first, or name another with --profile"
        ) from exc
    except OSError as exc:  # a network share that knows no locks: no other profile helps
        lock.close()
        raise ProfileError(unwritable(path, exc)) from exc
    return lock


def read_keys(path: Path, passphrase: Passphrase | None) -> Keystore:
    """Raises ProfileDamaged, ProfileSealed, and what `passphrase` raises."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ProfileDamaged(f"{path} can be read by others: chmod 600 {path}")
        data = path.read_bytes()
        for tries in range(_MOST_TRIES):
            ask = None if passphrase is None else partial(passphrase, tries > 0)
            with suppress(WrongPassphrase):
                return Keystore.parse(data, ask)
        raise ProfileSealed(f"{path} was not opened: that was not its passphrase")
    except PassphraseNeeded as exc:
        why = "name a file that holds it with --passphrase-file"
        raise ProfileSealed(f"{path} is locked with a passphrase: {why}") from exc
    except CannotDerive as exc:
        raise ProfileError(f"{path} cannot be opened here: {exc}") from exc
    except (OSError, KeystoreDamaged) as exc:
        raise ProfileDamaged(unusable(path, str(exc))) from exc


def write(path: Path, data: bytes) -> None:
    """Replaces a file as a whole: after a crash it is the old one or the new one."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Makes renames in a folder durable, where the platform knows how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --------------------------------------------------------------------------- the next chain


def new_chain(
    path: Path,
    keystore: Keystore,
    predecessor: Head | None = None,
    finding: str = "",
    drafts: Sequence[Draft] = (),
    side: Sequence[SideRow] = (),
) -> Keystore:
    """A new chain in the place of what is there, which is kept as evidence.

    In this order, so that a crash between any two steps is neither taken for tampering nor hides
    it: the chain under another name; keys that name it; then `_put_in_place`, which the next start
    does again.  Before the keys name it, the next start begins anew.

    Args:
        predecessor, finding: as `Blockchain.create` takes them.
        drafts: events that it begins with, of the time of its genesis.
        side: what is kept beside it from its beginning.

    Returns:
        the keys that name it.

    Raises:
        StoreFailed, OSError: it cannot be written.
    """
    for leftover in path.glob("chain.new*"):
        leftover.unlink()
    now_ms = time.time_ns() // 1_000_000
    chain = Blockchain.create(
        path / "chain.new", keystore, now_ms, predecessor=predecessor, finding=finding
    )
    try:
        if drafts or side:
            chain.append(drafts, now_ms, side)
        keystore = keystore.with_chain(chain.get_latest_block().chain_id)
        chain.settle()  # closing would say nothing, and its log does not go where the file goes
    finally:
        chain.close()
    _sync(path)
    write(path / "keys", keystore.serialize())
    _put_in_place(path)
    return keystore


def finish(path: Path, keys: Keystore | PublicKeys) -> str | None:
    """Does what a crash left undone: `chain.new` is the chain that the keys name already.

    Returns:
        what that chain says of the one before it, which nobody was told yet.

    Raises:
        StoreFailed, OSError: it cannot be done yet.
    """
    fresh_path = path / "chain.new"
    if keys.chain_id == NO_CHAIN or not fresh_path.exists():
        return None
    try:
        chain = Blockchain.open(fresh_path, keys)
    except StoreError:
        return None
    try:
        # It is the one that the keys name, or REWRITTEN.
        if not (chain.verify().ok and _is_unused(chain)):
            return None
        finding = chain.genesis().finding
        chain.settle()
    finally:
        chain.close()
    _put_in_place(path)
    return finding or None


def _is_unused(chain: Blockchain) -> bool:
    """Whether a chain that verifies is as `new_chain` made it: what is in its place must not give
    way to a copy of itself from before."""
    made_ms = None
    for index in range(chain.get_latest_block().index + 1):
        block = chain.block(index)
        if block is None or block.type not in (BlockType.GENESIS, BlockType.EVENT):
            return False
        made_ms = made_ms or block.timestamp_ms
        if block.timestamp_ms != made_ms:
            return False
    return True


def _put_in_place(path: Path) -> None:
    """`chain.new` becomes `chain.db`; what was there, and what SQLite kept beside it, is moved
    aside unchanged."""
    chain_path, kept = path / "chain.db", next_evidence(path)
    for suffix in ("-wal", "-shm", ""):
        part = chain_path.with_name(chain_path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    _sync(path)  # before its name is taken
    (path / "chain.new").rename(chain_path)
    _sync(path)
