"""A person's folder on this computer: lock, keys, chain, evidence.

What lives here: where profiles are, which one is free, and the order in which their files are made
so that a crash between two of them is never taken for tampering.  What it does not know: flags,
threads, sockets, rooms.

    with Profile.open(home) as profile:
        profile.keystore, profile.chain, profile.balance()

Layout: HOME/profiles/NAME/ (0700) holds, all 0600: `lock`, `keys`, `chain.db`, `nick`, `relay.log`
(of --host), and `evidence-1.db`, … : chains that were found tampered with, kept as they were.
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

from blockchain import (
    Blockchain,
    Head,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnreadable,
    Verdict,
)
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
# What Windows takes for a device, whatever follows behind a dot.
_DEVICES = r"(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:\..*)?"


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
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,64}(?<!\.)", name):
        raise ValueError(
            "a profile's name has 1 to 64 of A-Z a-z 0-9 . _ - and no dot at its ends, "
            f"not {name!r}"
        )
    if re.fullmatch(_DEVICES, name, re.IGNORECASE):
        raise ValueError(f"a profile's name is no device of Windows, as {name!r} is")
    return name


@dataclass
class Profile:
    """An open profile: locked for this process until `close`."""

    name: str
    path: Path
    number: int  # 1 for the default one or a named one, k for default-k
    keystore: Keystore
    chain: Blockchain
    verdict: Verdict  # of the chain, at this opening; OK, unless it was opened to read only
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
            create: False for commands that only read: nothing is made or moved, but for what a
                crash left half done.  A chain that was tampered with is opened as it is, and
                `verdict` says so.

        Raises:
            ProfileLocked: in use (a named one, or without `create`).
            ProfileDamaged: see its text.
            ProfileError: its folder cannot be written.
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
            except (OSError, StoreFailed) as exc:
                lock.close()
                raise ProfileError(_unwritable(path, exc)) from exc
            except BaseException:
                lock.close()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Closes the chain, then lets others in."""
        try:
            self.chain.close()
        finally:
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
        """For the next start.  Raises ProfileError."""
        try:
            _write(self.path / "nick", nick.encode() + b"\n")
        except OSError as exc:
            raise ProfileError(_unwritable(self.path, exc)) from exc

    def balance(self) -> int:
        """Coins: sent blocks of the chain and of those before it, each as far as it verifies."""
        coins = self.chain.coins() if self.verdict.ok else self.chain.coins(self.verdict.index)
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
        chain_path = path / "chain.db"
        if not ((path / "keys").exists() or chain_path.exists() or _evidence(path)):
            raise ProfileDamaged(_not_yet(path))
        keystore = _read_keys(path / "keys")
        _finish(path, keystore)
        results: list[Checked] = []
        for file in _evidence(path):
            results += _checked(file, keystore.with_chain(_EMPTY_ID))
        if chain_path.exists():
            results += _checked(chain_path, keystore)
        elif keystore.chain_id != _EMPTY_ID:
            results.append(Checked(_GONE, 4))
        if not results:
            raise ProfileDamaged(_not_yet(path))
        return results
    except OSError as exc:
        raise ProfileError(_unwritable(path, exc)) from exc
    finally:
        lock.close()


def _checked(path: Path, keystore: Keystore) -> list[Checked]:
    """The verdict, after what the chain itself says of the one that it follows."""
    try:
        chain = Blockchain.open(path, keystore)
    except StoreError as exc:
        return [Checked(_unusable(path, str(exc)), 6)]
    results: list[Checked] = []
    try:
        with suppress(StoreUnreadable):
            if finding := chain.genesis().finding:
                results.append(Checked(f"an earlier chain: {finding}", 4))
        verdict = chain.verify()
        text = f"{verdict}: {verdict.sentence} ({path.name})"
        return [*results, Checked(text, verdict.exit_code)]
    finally:
        chain.close()


# --------------------------------------------------------------------------- opening

_GONE = "MISSING@0: chain.db is gone, and all of it with it"


def _opened(name: str, path: Path, number: int, lock: IO[bytes], *, create: bool) -> Profile:
    keys_path, chain_path = path / "keys", path / "chain.db"
    is_new = not keys_path.exists()
    if is_new:
        if chain_path.exists() or _evidence(path):
            raise ProfileDamaged(
                f"{keys_path} is gone, and the chain beside it is of no use without: put it back "
                f"from a copy, or move {path} away to start anew"
            )
        if not create:
            raise ProfileDamaged(_not_yet(path))
        _write(keys_path, Keystore.generate().serialize())
    keystore = _read_keys(keys_path)
    finding = _finish(path, keystore)
    if not chain_path.exists():
        predecessor: Head | None = None
        if keystore.chain_id == _EMPTY_ID:
            if not create:
                raise ProfileDamaged(_not_yet(path))
        elif create:
            finding = f"{_GONE}; a new chain follows"
            predecessor = Head(keystore.chain_id, 0, bytes(32), bytes(64))
        else:
            raise ProfileDamaged(_unusable(chain_path, _GONE))
        keystore = _new_chain(path, keystore, predecessor, finding)
    chain = _open_chain(chain_path, keystore)
    try:
        # The links make the head's signature vouch for every block, so an edited text or balance
        # is found here, at a tenth of the time that every signature takes; `verify` checks those.
        verdict = chain.verify(signatures=False)
        if verdict.exit_code == 4 and create:
            predecessor = Head(keystore.chain_id, 0, bytes(32), bytes(64))
            with suppress(StoreUnreadable):
                predecessor = chain.head()
            chain.close()
            kept = _next_evidence(path).name
            finding = f"{verdict}: {verdict.sentence}; kept as {kept}, a new chain follows"
            keystore = _new_chain(path, keystore, predecessor, finding)
            chain = _open_chain(chain_path, keystore)
            verdict = chain.verify(signatures=False)
        if verdict.exit_code == 6 or (create and not verdict.ok):
            raise ProfileDamaged(_unusable(chain_path, str(verdict)))
        if keystore.chain_id == _EMPTY_ID and verdict.ok:
            keystore = keystore.with_chain(chain.get_latest_block().chain_id)
            if create:
                _write(keys_path, keystore.serialize())
        return Profile(name, path, number, keystore, chain, verdict, finding, is_new, lock)
    except BaseException:
        chain.close()
        raise


def _new_chain(
    path: Path, keystore: Keystore, predecessor: Head | None, finding: str | None
) -> Keystore:
    """A new chain in the place of what is there, and the keys that name it.

    In this order, so that a crash between any two steps is neither taken for tampering nor hides
    it: the chain under another name; keys that name it; then `_put_in_place`, which the next start
    does again.  Before the keys name it, the next start begins anew.
    """
    for leftover in path.glob("chain.new*"):
        leftover.unlink()
    now_ms = time.time_ns() // 1_000_000
    chain = Blockchain.create(
        path / "chain.new", keystore, now_ms, predecessor=predecessor, finding=finding or ""
    )
    try:
        keystore = keystore.with_chain(chain.get_latest_block().chain_id)
    finally:
        chain.close()
    _sync(path)
    _write(path / "keys", keystore.serialize())
    _put_in_place(path)
    return keystore


def _finish(path: Path, keystore: Keystore) -> str | None:
    """What a crash left half done: `chain.new` is the chain that the keys name already.

    Returns:
        what that chain says of the one before it, which nobody was told yet.
    """
    fresh_path = path / "chain.new"
    if keystore.chain_id == _EMPTY_ID or not fresh_path.exists():
        return None
    try:
        chain = Blockchain.open(fresh_path, keystore)
    except StoreError:
        return None
    try:
        verdict = chain.verify()  # it is the one that the keys name, or REWRITTEN
        if not (verdict.ok and verdict.index == 1):
            return None
        finding = chain.genesis().finding
    finally:
        chain.close()
    _put_in_place(path)
    return finding or None


def _put_in_place(path: Path) -> None:
    """`chain.new` becomes `chain.db`; what was there, and what SQLite kept beside it, is moved
    aside unchanged."""
    chain_path, kept = path / "chain.db", _next_evidence(path)
    for suffix in ("-wal", "-shm", ""):
        part = chain_path.with_name(chain_path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    (path / "chain.new").rename(chain_path)
    _sync(path)


def _open_chain(path: Path, keystore: Keystore) -> Blockchain:
    try:
        return Blockchain.open(path, keystore)
    except StoreLocked as exc:
        raise ProfileLocked(str(exc)) from exc
    except StoreError as exc:
        raise ProfileDamaged(_unusable(path, str(exc))) from exc


def _unusable(path: Path, why: str) -> str:
    return (
        f"{path} cannot be used ({why}): put it back from a copy, or move {path.parent} away "
        "to start anew; nothing was changed"
    )


def _not_yet(path: Path) -> str:
    return f"there is no profile in {path} yet: chat first"


def _unwritable(path: Path, exc: Exception) -> str:
    why = f"{exc.strerror}: {exc.filename}" if isinstance(exc, OSError) and exc.filename else exc
    return f"{path} cannot be used ({why}): make room there, or name another folder with --home"


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


def _next_evidence(path: Path) -> Path:
    """Where nothing is, neither a chain nor what SQLite kept beside one."""
    names = (re.match(r"evidence-(\d+)\.db", file.name) for file in path.glob("evidence-*"))
    return path / f"evidence-{max((int(n[1]) for n in names if n), default=0) + 1}.db"


# --------------------------------------------------------------------------- files


def _locked(path: Path, *, create: bool) -> IO[bytes]:
    """The profile's lock, held until it is closed.  Raises ProfileError."""
    try:
        if create:
            for folder in (path.parent.parent, path.parent, path):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.exists():
            raise ProfileDamaged(_not_yet(path))
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ProfileError(_unwritable(path, exc)) from exc
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
        raise ProfileError(_unwritable(path, exc)) from exc
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
