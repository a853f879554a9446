"""A person's folder on this computer: lock, keys, chain, evidence.

What lives here: where profiles are, which one is free, and the order in which their files are made
so that a crash between two of them is never taken for tampering.  What it does not know: flags,
threads, sockets, rooms.

    with Profile.open(home) as profile:
        profile.keystore, profile.chain, profile.balance()

Layout: HOME/profiles/NAME/ (0700) holds, all 0600: `lock`, `keys`, `chain.db`, `nick`, and
`evidence-1.db`, … : chains that were found tampered with, kept as they were.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blockchain import Blockchain, Head, StoreError, StoreUnreadable
from chat_messages import check_nick
from crypto_utils import Keystore, KeystoreDamaged

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "Profile",
    "ProfileDamaged",
    "ProfileError",
    "ProfileLocked",
    "check_profile_name",
    "default_home",
    "verify_profile",
]

DEFAULT_PROFILE = "default"
_EMPTY_ID = bytes(16)


class ProfileError(Exception):
    """The profile cannot be used; the text is one line with what to do.  Exit code 6."""


class ProfileLocked(ProfileError):
    """Another process uses it."""


class ProfileDamaged(ProfileError):
    """One of its files is missing or cannot be read."""


def default_home() -> Path:
    """The platform's folder for a program's data, with `chainroom` in it."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "chainroom"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/chainroom"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "chainroom"


def check_profile_name(name: str) -> str:
    """`name` if it can be a folder's everywhere, else ValueError with one sentence."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            f"a profile's name has 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot, "
            f"not {name!r}"
        )
    return name


@dataclass
class Profile:
    """An open profile: locked for this process until `close`."""

    name: str
    path: Path
    number: int  # 1 for the default one or a named one, k for default-k
    keystore: Keystore
    chain: Blockchain
    finding: str | None  # what was found wrong with the chain before this one, at this opening
    is_new: bool
    _lock: IO[bytes] = field(repr=False)

    @classmethod
    def open(cls, home: Path, name: str | None = None, *, create: bool = True) -> Profile:
        """Locks, reads and quickly verifies a profile.

        A chain that was tampered with is kept as evidence and followed by a new one, whose genesis
        names it.

        Args:
            name: None takes `default`, or with `create` the first free one of default-2, ….
            create: False for commands that only read: nothing is made or moved.

        Raises:
            ProfileLocked: in use (a named one, or without `create`).
            ProfileDamaged: see its text.
        """
        for number in count(1):
            chosen = name or (DEFAULT_PROFILE if number == 1 else f"{DEFAULT_PROFILE}-{number}")
            path = home / "profiles" / chosen
            try:
                lock = _locked(path, create=create)
            except ProfileLocked:
                if name is not None or not create:
                    raise
                continue
            try:
                return _opened(chosen, path, number, lock, create=create)
            except BaseException:
                lock.close()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Closes the chain, then lets others in."""
        self.chain.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def nick(self) -> str | None:
        """The nick used last; None if there is none that could be used."""
        try:
            return check_nick((self.path / "nick").read_text("utf-8").strip())
        except (OSError, ValueError):
            return None

    def remember_nick(self, nick: str) -> None:
        """For the next start."""
        _write(self.path / "nick", nick.encode() + b"\n")

    def balance(self) -> int:
        """Coins: sent blocks of the chain, and of those before it as far as they verify."""
        coins = self.chain.coins()
        for path in _evidence(self.path):
            with suppress(StoreError):
                chain = Blockchain.open(path, self.keystore.with_chain(_EMPTY_ID))
                try:
                    verdict = chain.verify(signatures=False)
                    coins |= chain.coins(before=verdict.index)
                finally:
                    chain.close()
        return len(coins)


@dataclass(frozen=True)
class Checked:
    """What `verify_profile` found in one file."""

    text: str
    exit_code: int  # 0, 4 or 6


def verify_profile(home: Path, name: str | None = None) -> list[Checked]:
    """Every block and signature of a profile's chains, the kept ones first.

    A chain that follows a tampered one says so for ever, in its genesis.

    Raises:
        ProfileLocked, ProfileDamaged.
    """
    path = home / "profiles" / (name or DEFAULT_PROFILE)
    lock = _locked(path, create=False)
    try:
        keystore = _read_keys(path / "keys")
        results = [_checked(file, keystore.with_chain(_EMPTY_ID)) for file in _evidence(path)]
        if not (path / "chain.db").exists():
            return [*results, Checked(_GONE, 4)]
        chain = _open_chain(path / "chain.db", keystore)
        try:
            with suppress(StoreUnreadable):
                if finding := chain.genesis().finding:
                    results.append(Checked(f"an earlier chain: {finding}", 4))
            results.append(_judged("chain.db", chain))
        finally:
            chain.close()
        return results
    finally:
        lock.close()


def _judged(name: str, chain: Blockchain) -> Checked:
    verdict = chain.verify()
    return Checked(f"{verdict}: {verdict.sentence} ({name})", verdict.exit_code)


def _checked(path: Path, keystore: Keystore) -> Checked:
    try:
        chain = Blockchain.open(path, keystore)
    except StoreError as exc:
        return Checked(str(exc), 6)
    try:
        return _judged(path.name, chain)
    finally:
        chain.close()


# --------------------------------------------------------------------------- opening

_GONE = "MISSING@0: chain.db is gone, and all of it with it"


def _opened(name: str, path: Path, number: int, lock: IO[bytes], *, create: bool) -> Profile:
    """In this order, so that a crash after any step is finished by the next start:
    keys without a chain, the chain, keys that name it."""
    keys_path, chain_path = path / "keys", path / "chain.db"
    is_new = not keys_path.exists()
    if is_new:
        if chain_path.exists():
            raise ProfileDamaged(
                f"{keys_path} is gone, and the chain beside it is of no use without: put it back "
                f"from a copy, or move {path} away to start anew"
            )
        if not create:
            raise ProfileDamaged(f"there is no profile in {path} yet: chat first")
        _write(keys_path, Keystore.generate().serialize())
    keystore = _read_keys(keys_path)
    finding: str | None = None
    predecessor: Head | None = None
    if chain_path.exists():
        chain = _open_chain(chain_path, keystore)
        # The links make the head's signature vouch for every block, so an edited text or balance
        # is found here, at a tenth of the time that every signature takes; `verify` checks those.
        verdict = chain.verify(signatures=False)
        if verdict.ok or not create:
            return _adopted(name, path, number, lock, keystore, chain)
        if verdict.exit_code != 4:
            chain.close()
            raise ProfileDamaged(_unusable(chain_path, str(verdict)))
        with suppress(StoreUnreadable):
            predecessor = chain.head()
        chain.close()
        kept = _keep_evidence(chain_path)
        finding = f"{verdict}: {verdict.sentence}; kept as {kept.name}, a new chain follows"
    elif keystore.chain_id != _EMPTY_ID:
        if not create:
            raise ProfileDamaged(_unusable(chain_path, _GONE))
        kept_files = _evidence(path)
        # A crash between moving the evidence away and the new chain ends here too.
        kept_name = f"; see {kept_files[-1].name}" if kept_files else ""
        finding = f"{_GONE}{kept_name}; a new chain follows"
        predecessor = Head(keystore.chain_id, 0, bytes(32), bytes(64))
    # Made under another name first: a chain.db that is there is whole.
    fresh_path = path / "chain.new"
    for leftover in path.glob("chain.new*"):
        leftover.unlink()
    now_ms = time.time_ns() // 1_000_000
    Blockchain.create(
        fresh_path, keystore, now_ms, predecessor=predecessor, finding=finding or ""
    ).close()
    fresh_path.rename(chain_path)
    _sync(path)
    chain = _open_chain(chain_path, keystore.with_chain(_EMPTY_ID))
    profile = _adopted(name, path, number, lock, keystore.with_chain(_EMPTY_ID), chain)
    profile.finding, profile.is_new = finding, is_new
    return profile


def _adopted(
    name: str, path: Path, number: int, lock: IO[bytes], keystore: Keystore, chain: Blockchain
) -> Profile:
    """The profile of a chain that verified; its keys name that chain from here on."""
    chain_id = chain.get_latest_block().chain_id
    if keystore.chain_id == _EMPTY_ID:
        keystore = keystore.with_chain(chain_id)
        _write(path / "keys", keystore.serialize())
    return Profile(name, path, number, keystore, chain, None, False, lock)


def _open_chain(path: Path, keystore: Keystore) -> Blockchain:
    try:
        return Blockchain.open(path, keystore)
    except StoreError as exc:
        raise ProfileDamaged(_unusable(path, str(exc))) from exc


def _unusable(path: Path, why: str) -> str:
    return (
        f"{path} cannot be used ({why}): put it back from a copy, or move {path.parent} away "
        "to start anew; nothing was changed"
    )


def _read_keys(path: Path) -> Keystore:
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ProfileDamaged(f"{path} can be read by others: chmod 600 {path}")
        return Keystore.parse(path.read_bytes())
    except (OSError, KeystoreDamaged) as exc:
        raise ProfileDamaged(_unusable(path, str(exc))) from exc


def _evidence(path: Path) -> list[Path]:
    """Oldest first."""
    found = [file for file in path.glob("evidence-*.db") if file.stem[9:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[9:]))


def _keep_evidence(chain_path: Path) -> Path:
    """Moves a chain and what SQLite keeps beside it out of the way, unchanged."""
    folder = chain_path.parent
    numbers = [int(file.stem[9:]) for file in _evidence(folder)]
    kept = folder / f"evidence-{max(numbers, default=0) + 1}.db"
    for suffix in ("-wal", "-shm", ""):
        part = chain_path.with_name(chain_path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    _sync(folder)
    return kept


# --------------------------------------------------------------------------- files


def _locked(path: Path, *, create: bool) -> IO[bytes]:
    """The profile's lock, held until it is closed.  Raises ProfileLocked, ProfileDamaged."""
    try:
        if create:
            for folder in (path.parent.parent, path.parent, path):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.exists():
            raise ProfileDamaged(f"there is no profile in {path} yet: chat first")
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ProfileDamaged(f"{path} cannot be used: {exc}") from exc
    lock = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.close()
        raise ProfileLocked(
            f"the profile {path.name} is in use by another client ({path}): "
            "leave that one first, or name another with --profile"
        ) from exc
    return lock


def _write(path: Path, data: bytes) -> None:
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
