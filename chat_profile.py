"""A person's folder on this computer: lock, keys, chain, evidence.

What lives here: where profiles are, which one is free, the order in which their files are made so
that a crash between two of them is never taken for tampering, and what a start need not read again.
What it does not know: flags, threads, sockets, where a passphrase comes from.

    with Profile.open(home) as profile:
        profile.keystore, profile.chain, profile.recall(room), profile.balance()
        profile.checkpoint(now_ms)

Layout: HOME/profiles/NAME/ (0700) holds, all 0600: `lock`, `keys`, `chain.db`, `nick`, `relay.log`
(of --host), and `evidence-1.db`, … : chains that were found tampered with, kept as they were.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from blockchain import (
    Blockchain,
    BlockType,
    Finding,
    Genesis,
    Head,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnreadable,
    Verdict,
)
from chat_audit import audit
from chat_checkpoint import Checkpoint
from chat_history import read_past, recall
from chat_memory import FEED_LIFE_MS, Incomplete, Memory, Past
from chat_messages import check_nick
from chat_wire import Label, WireError, u64
from crypto_utils import (
    CannotDerive,
    CryptoError,
    Keystore,
    KeystoreDamaged,
    PassphraseNeeded,
    PublicKeys,
    RoomSecret,
    VerifyKey,
    WrongPassphrase,
)

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "Checked",
    "Passphrase",
    "Profile",
    "ProfileDamaged",
    "ProfileError",
    "ProfileLocked",
    "ProfileSealed",
    "check_profile_name",
    "default_home",
    "verify_profile",
]

# Called for a profile's passphrase: with False at first, with True if what it gave was wrong.
Passphrase = Callable[[bool], bytes]
# Told which file is being checked, how many of its blocks are, and how many there are.
Progress = Callable[[str, int, int], None]

DEFAULT_PROFILE = "default"
# A chain of so many blocks is verified as a whole at each start, which takes 0.2 s.
_VERIFIED_AT_ONCE = 50_000
_MOST_TRIES = 5  # with passphrases; who asks a person gives up before
_EMPTY_ID = bytes(16)
# What Windows takes for a device, whatever follows behind a dot.
_DEVICES = r"(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:\..*)?"


class ProfileError(Exception):
    """The profile cannot be used; the text is one line with what to do.  Exit code 6."""


class ProfileLocked(ProfileError):
    """Another process uses it."""


class ProfileDamaged(ProfileError):
    """One of its files is missing or cannot be read."""


class ProfileSealed(ProfileError):
    """Its keys are behind a passphrase that was not given."""


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


@dataclass(frozen=True)
class _ChainGone(Verdict):
    """Somebody holds a head, signed by this profile, of a chain that is nowhere in it."""

    chain_id: bytes = b""

    @property
    def sentence(self) -> str:
        """For a person; it names the chain, so that what says it once need not say it again."""
        return (
            f"a whole chain of this profile is gone: {self.who or 'somebody'} holds block "
            f"{self.held} of chain {self.chain_id.hex()} with its signature; this chain is another"
        )


@dataclass
class Profile:
    """An open profile: locked for this process until `close`."""

    name: str
    path: Path
    number: int  # 1 for the default one or a named one, k for default-k
    keystore: Keystore
    chain: Blockchain
    verdict: Verdict  # of the chain, at this opening; OK, unless it was opened to read only
    # The first block that this opening verified.  If it is not 0, the whole is still to be.
    checked_from: int
    finding: str | None  # what was found wrong with the chain before this one, and not said yet
    is_new: bool
    _lock: IO[bytes] = field(repr=False)
    _note: Checkpoint | None = field(repr=False)  # as this opening found it
    # What the chain says of others, and the block to go on with; None in it: not known any more.
    _past: tuple[int, Past | None] | None = field(default=None, repr=False)
    # Coins in the chain before a block and in the evidence, and which files that is.
    _counted: tuple[int, int, tuple[tuple[str, int], ...]] | None = field(default=None, repr=False)
    _former: tuple[set[bytes], list[str]] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        home: Path,
        name: str | None = None,
        *,
        create: bool = True,
        passphrase: Passphrase | None = None,
    ) -> Profile:
        """Locks, reads and quickly verifies a profile.

        A chain that was tampered with is kept as evidence and followed by a new one, whose genesis
        names it.

        Args:
            name: None takes `default`, or with `create` the first free one of default-2, ….
            create: False for commands that only read: nothing is made or moved, but for what a
                crash left half done.  A chain that was tampered with is opened as it is, and
                `verdict` says so; the whole of it is verified, where else `checked_from` says what
                is.
            passphrase: called if there is one; what it raises passes through.

        Raises:
            ProfileLocked: in use (a named one, or without `create`).
            ProfileDamaged: see its text.
            ProfileSealed: it has a passphrase, and the right one was not given.
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
                return _opened(chosen, path, number, lock, passphrase, create=create)
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

    def set_passphrase(self, passphrase: bytes) -> None:
        """Puts the keys behind another passphrase; empty: behind none.

        Raises:
            ProfileError: it is too long, this computer cannot do it, or `keys` cannot be written.
        """
        try:
            keystore = self.keystore.with_passphrase(passphrase)
            _write(self.path / "keys", keystore.serialize())
        except CryptoError as exc:
            raise ProfileError(f"the passphrase cannot be set: {exc}") from exc
        except OSError as exc:
            raise ProfileError(_unwritable(self.path, exc)) from exc
        self.keystore = keystore

    # ----------------------------------------------------------------- what the chain amounts to

    def recall(self, room: RoomSecret) -> Memory:
        """What a session in that room takes over from earlier runs.  Raises StoreUnreadable."""
        try:
            past = self._read_on()
        except Incomplete:
            past = None
        if past is None:
            self._past = (0, Past())
            past = self._read_on()
        return recall(self.chain, room, past)

    def _read_on(self) -> Past | None:
        """What the chain says of others, up to its last block; None: not known any more.

        Raises:
            Incomplete: what is behind the checkpoint needs what that left out.
            StoreUnreadable.
        """
        if self._past is None:
            self._past = _past_of(self._note)
        start, past = self._past
        self._past = (start, None)  # until it is whole again
        if past is not None:
            following = self.chain.get_latest_block().index + 1
            self._past = (following, read_past(past, self.chain, start))
        return past

    def balance(self) -> int:
        """Coins: sent blocks of the chain and of those before it, each as far as it verifies.

        An entry is counted once, though it be recorded twice; but no block from before a
        checkpoint is compared with those since.
        """
        if not self.verdict.ok:
            return len(self._coins_before() | self.chain.coins(self.verdict.index))
        note, evidence = self._note, _sizes(self.path)
        counted = self._counted
        if counted is None and note is not None:
            counted = (note.index + 1, note.coins, note.evidence)
        following = self.chain.get_latest_block().index + 1
        if counted is None or counted[2] != evidence:
            coins = len(self._coins_before() | self.chain.coins())
            evidence = _sizes(self.path)  # SQLite may have folded something
        else:
            coins = counted[1] + len(self._coins_between(counted[0], following))
        self._counted = (following, coins, evidence)
        return coins

    def _coins_between(self, start: int, end: int) -> set[bytes]:
        blocks = (self.chain.block(index) for index in range(start, end))
        return {block.entry_id for block in blocks if block and block.type is BlockType.SENT}

    def _coins_before(self) -> set[bytes]:
        """Of the chains that are kept as evidence."""
        coins: set[bytes] = set()
        for path in _evidence(self.path):
            with suppress(StoreError):
                chain = Blockchain.open(path, self.keystore.with_chain(_EMPTY_ID))
                try:
                    coins |= chain.coins(before=chain.verify(signatures=False).index)
                finally:
                    chain.close()
        return coins

    def checkpoint(self, now_ms: int) -> None:
        """Notes what the chain up to its last block amounts to, for the next start.

        It reads what came since `recall` or the last checkpoint.

        Raises:
            StoreFailed: it cannot be written.
        """
        if not self.verdict.ok:
            return
        with suppress(StoreUnreadable):  # then the next start has something to say
            past = b""
            with suppress(Incomplete):
                known = self._read_on()
                if known is not None:
                    known.forget(now_ms - FEED_LIFE_MS)
                    past = known.serialize()
            coins, head = self.balance(), self.chain.head()
            evidence = _sizes(self.path)
            note = Checkpoint(head.chain_id, head.index, head.hash, coins, evidence, past)
            self.chain.append([], now_ms, [note.row()])

    # ----------------------------------------------------------------- tampering

    def follow(self, finding: str) -> str:
        """The chain is not the one that this profile wrote: it is kept as evidence, and a new one
        takes its place, whose genesis names it and the finding.

        `chain`, `keystore`, `verdict` and `finding` are the new one's from then on.

        Args:
            finding: a verdict and its sentence, in clear for everybody who sees the file.

        Returns:
            the finding and where the evidence is.

        Raises:
            ProfileError: it cannot be written; this profile must be opened anew.
        """
        try:
            self.keystore, self.chain, finding = _followed(
                self.path, self.keystore, self.chain, finding
            )
            self.verdict = self.chain.verify(signatures=False)
        except (OSError, StoreError) as exc:
            raise ProfileError(_unwritable(self.path, exc)) from exc
        self.finding, self.checked_from = finding, 0
        self._note = self._past = self._counted = self._former = None
        return finding

    def compare(self, head: Head, who: str) -> Verdict | None:
        """What a head that somebody holds of this profile says of its chains.

        Args:
            head: of any chain.
            who: the witness, as a person is told.

        Returns:
            TRUNCATED or REWRITTEN, of the present chain; MISSING if the head's chain is nowhere
            here; None if it fits, or is about a chain whose finding is known already.

        Raises:
            BadSignature: this profile did not sign it.
            StoreUnreadable: the block there, or the genesis, cannot be parsed.
        """
        if head.chain_id == self.keystore.chain_id:
            verdict = self.chain.compare(head, who)
            return None if verdict.ok else verdict
        chain_key = VerifyKey(self.keystore.chain_signing_key.public)
        signed = head.chain_id + u64(head.index) + head.hash
        chain_key.verify(head.signature, Label.BLOCK_SIG, signed)
        if self._former is None:
            self._former = _former(self.path, self.keystore, self.chain)
        chain_ids, findings = self._former
        if head.chain_id in chain_ids or any(head.chain_id.hex() in said for said in findings):
            return None
        return _ChainGone(Finding.MISSING, 0, who, head.index, chain_id=head.chain_id)


@dataclass(frozen=True)
class Checked:
    """What `verify_profile` found in one file."""

    text: str
    exit_code: int  # 0, 4 or 6


def verify_profile(
    home: Path,
    name: str | None = None,
    *,
    deep: bool = False,
    passphrase: Passphrase | None = None,
    progress: Progress | None = None,
) -> list[Checked]:
    """Every block and signature of a profile's chains, the kept ones first.

    A chain that follows a tampered one says so for ever, in its genesis.

    Args:
        deep: each author's signature as well, and what others signed for the chain.
        passphrase: called if there is one.  None: then what it hides is not looked at.

    Raises:
        ProfileLocked, ProfileDamaged, ProfileSealed, and what `passphrase` raises.
    """
    path = home / "profiles" / (name or DEFAULT_PROFILE)
    lock = _locked(path, create=False)
    try:
        chain_path = path / "chain.db"
        if not ((path / "keys").exists() or chain_path.exists() or _evidence(path)):
            raise ProfileDamaged(_not_yet(path))
        keys: Keystore | PublicKeys
        try:
            keys = _read_keys(path / "keys", passphrase)
        except ProfileSealed:
            if passphrase is not None:
                raise
            keys = Keystore.public_part((path / "keys").read_bytes())
        _finish(path, keys)
        results: list[Checked] = []
        for file in _evidence(path):
            results += _checked(file, _of_chain(keys, _EMPTY_ID), deep, progress)
        if chain_path.exists():
            results += _checked(chain_path, keys, deep, progress)
        elif keys.chain_id != _EMPTY_ID:
            results.append(Checked(_GONE, 4))
        if not results:
            raise ProfileDamaged(_not_yet(path))
        return results
    except OSError as exc:
        raise ProfileError(_unwritable(path, exc)) from exc
    finally:
        lock.close()


def _checked(
    path: Path, keys: Keystore | PublicKeys, deep: bool, progress: Progress | None
) -> list[Checked]:
    """The verdict, after what the chain itself says of the one that it follows."""
    try:
        chain = Blockchain.open(path, keys)
    except StoreError as exc:
        return [Checked(_unusable(path, str(exc)), 6)]
    results: list[Checked] = []
    try:
        with suppress(StoreUnreadable):
            if finding := chain.genesis().finding:
                results.append(Checked(f"an earlier chain: {finding}", 4))
        verdict, not_checked = chain.verify(progress=_told(progress, path.name, chain)), ""
        if verdict.ok and not isinstance(keys, Keystore):
            not_checked = "; texts and authors were not checked: that needs the passphrase"
        elif verdict.ok and not deep:
            not_checked = "; its authors' signatures were not checked"
        elif verdict.ok:
            audited = audit(chain, progress=_told(progress, f"{path.name}, authors", chain))
            verdict = verdict if audited.ok else audited
        text = f"{verdict}: {verdict.sentence}{not_checked} ({path.name})"
        return [*results, Checked(text, verdict.exit_code)]
    except StoreError as exc:
        return [*results, Checked(_unusable(path, str(exc)), 6)]
    finally:
        chain.close()


def _told(progress: Progress | None, what: str, chain: Blockchain) -> Callable[[int], None] | None:
    """`progress` for one walk through a chain."""
    blocks = 0
    with suppress(StoreUnreadable):
        blocks = chain.get_latest_block().index + 1
    return None if progress is None else lambda done: progress(what, min(done, blocks), blocks)


# --------------------------------------------------------------------------- opening

_GONE = "MISSING@0: chain.db is gone, and all of it with it"


def _opened(
    name: str,
    path: Path,
    number: int,
    lock: IO[bytes],
    passphrase: Passphrase | None,
    *,
    create: bool,
) -> Profile:
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
    keystore = _read_keys(keys_path, passphrase)
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
        # Who goes on to write has the blocks before a checkpoint verified meanwhile.
        note = Checkpoint.read(chain, keystore.chain_id)
        checked_from = note.index if note is not None and create else 0
        if checked_from < _VERIFIED_AT_ONCE:
            checked_from = 0
        verdict = chain.verify(signatures=False, start=checked_from)
        if checked_from and not verdict.ok:  # what is wrong may have begun before
            verdict, checked_from = chain.verify(signatures=False), 0
        if verdict.exit_code == 4 and create:
            finding = f"{verdict}: {verdict.sentence}"
            keystore, chain, finding = _followed(path, keystore, chain, finding)
            note, checked_from = None, 0
            verdict = chain.verify(signatures=False)
        if verdict.exit_code == 6 or (create and not verdict.ok):
            raise ProfileDamaged(_unusable(chain_path, str(verdict)))
        if keystore.chain_id == _EMPTY_ID and verdict.ok:
            keystore = keystore.with_chain(chain.get_latest_block().chain_id)
            if create:
                _write(keys_path, keystore.serialize())
        return Profile(
            name, path, number, keystore, chain, verdict, checked_from, finding, is_new, lock, note
        )
    except BaseException:
        chain.close()
        raise


def _followed(
    path: Path, keystore: Keystore, chain: Blockchain, finding: str
) -> tuple[Keystore, Blockchain, str]:
    """A new chain in the place of one that was tampered with, which is kept as evidence.

    Returns:
        the keys that name it, the chain, and the finding that its genesis names.
    """
    predecessor = Head(keystore.chain_id, 0, bytes(32), bytes(64))
    with suppress(StoreUnreadable):
        predecessor = chain.head()
    chain.close()
    finding = f"{finding}; kept as {_next_evidence(path).name}, a new chain follows"
    keystore = _new_chain(path, keystore, predecessor, finding)
    return keystore, _open_chain(path / "chain.db", keystore), finding


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


def _finish(path: Path, keystore: Keystore | PublicKeys) -> str | None:
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


def _past_of(note: Checkpoint | None) -> tuple[int, Past]:
    """What is known of others up to a checkpoint, and the block to go on with."""
    if note is not None and note.past:
        with suppress(WireError):
            return note.index + 1, Past.parse(note.past)
    return 0, Past()


def _former(path: Path, keystore: Keystore, chain: Blockchain) -> tuple[set[bytes], list[str]]:
    """The chain_ids of the chains before this one, and what was found wrong with them.

    Raises StoreUnreadable: this one cannot say.
    """
    chain_ids: set[bytes] = set()
    findings: list[str] = []

    def read(genesis: Genesis) -> None:
        chain_ids.add(genesis.predecessor[0])
        findings.append(genesis.finding)

    read(chain.genesis())
    for file in _evidence(path):
        with suppress(StoreError):
            kept = Blockchain.open(file, keystore.with_chain(_EMPTY_ID))
            try:
                chain_ids.add(kept.get_latest_block().chain_id)
                read(kept.genesis())
            finally:
                kept.close()
    return chain_ids, findings


def _of_chain(keys: Keystore | PublicKeys, chain_id: bytes) -> Keystore | PublicKeys:
    """The same keys beside another chain."""
    return (
        keys.with_chain(chain_id)
        if isinstance(keys, Keystore)
        else replace(keys, chain_id=chain_id)
    )


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


def _read_keys(path: Path, passphrase: Passphrase | None) -> Keystore:
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
        raise ProfileDamaged(_unusable(path, str(exc))) from exc


def _evidence(path: Path) -> list[Path]:
    """Oldest first."""
    found = [file for file in path.glob("evidence-*.db") if file.stem[9:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[9:]))


def _sizes(path: Path) -> tuple[tuple[str, int], ...]:
    """The evidence files and their sizes."""
    return tuple((file.name, file.stat().st_size) for file in _evidence(path))


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
