"""A person's profile: keys, chain, and what a start need not read again.

What lives here: opening one that is free, what its chain amounts to, and a new chain in the place
of one that was tampered with.  What it does not know: how files are named and changed
(`chat_folder`), flags, threads, sockets, where a passphrase comes from.

    with Profile.open(home) as profile:
        profile.keystore, profile.chain, profile.recall(room), profile.balance()
        profile.checkpoint(now_ms)

Layout: HOME/profiles/NAME/ (0700) holds, all 0600: `lock`, `keys`, `chain.db`, `nick`, `relay.log`
(of --host), and `evidence-1.db`, … : chains that were found tampered with, kept as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Self

from blockchain import (
    Blockchain,
    Finding,
    Genesis,
    Head,
    StoreError,
    StoreFailed,
    StoreLocked,
    StoreUnreadable,
    Verdict,
)
from chat_checkpoint import Checkpoint, verify
from chat_folder import (
    DEFAULT_PROFILE,
    GONE,
    NO_CHAIN,
    ChainGone,
    Passphrase,
    ProfileDamaged,
    ProfileError,
    ProfileLocked,
    ProfileSealed,
    check_profile_name,
    default_home,
    evidence_files,
    finish,
    lock_folder,
    new_chain,
    next_evidence,
    not_yet,
    profile_path,
    read_keys,
    unusable,
    unwritable,
    write,
)
from chat_history import hand_over, read_past, recall
from chat_memory import FEED_LIFE_MS, Incomplete, Memory, Past
from chat_messages import check_nick
from chat_wire import WireError
from crypto_utils import CryptoError, Keystore, RoomSecret, VerifyKey

__all__ = [
    "Passphrase",
    "Profile",
    "ProfileDamaged",
    "ProfileError",
    "ProfileLocked",
    "ProfileSealed",
    "check_profile_name",
    "default_home",
]

# A chain of so many blocks is verified as a whole at each start, which takes 0.2 s.
_VERIFIED_AT_ONCE = 50_000


@dataclass(frozen=True)
class _OtherChain(Verdict):
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
        first: Callable[[], bytes] | None = None,
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
            first: called for the passphrase of a profile that is made now (empty: none), before
                its keys are written, so that they never lie in clear on the disk; what it raises
                passes through, and no keys were made.

        Raises:
            ProfileLocked: in use (a named one, or without `create`).
            ProfileDamaged: see its text.
            ChainGone: without `create`, where the chain is gone that the keys name.
            ProfileSealed: it has a passphrase, and the right one was not given.
            ProfileError: its folder cannot be written.
        """
        for number in count(1):
            chosen = name or (DEFAULT_PROFILE if number == 1 else f"{DEFAULT_PROFILE}-{number}")
            path = profile_path(home, chosen)
            try:
                lock = lock_folder(path, create=create)
            except ProfileLocked:
                if name is not None or not create:
                    raise
                continue
            try:
                return _opened(chosen, path, number, lock, passphrase, first, create=create)
            except (OSError, StoreFailed) as exc:
                lock.close()
                raise ProfileError(unwritable(path, exc)) from exc
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

    def __exit__(self, *_exc: object) -> None:
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
            write(self.path / "nick", nick.encode() + b"\n")
        except OSError as exc:
            raise ProfileError(unwritable(self.path, exc)) from exc

    def set_passphrase(self, passphrase: bytes) -> None:
        """Puts the keys behind another passphrase; empty: behind none.

        Raises:
            ProfileError: it is too long, this computer cannot do it, or `keys` cannot be written.
        """
        try:
            keystore = _behind(self.keystore, passphrase)
            write(self.path / "keys", keystore.serialize())
        except OSError as exc:
            raise ProfileError(unwritable(self.path, exc)) from exc
        self.keystore = keystore

    def reopen(self, known: Head) -> Verdict:
        """The chain anew, as the disk has it, after a write that failed; verified as at an opening.

        `chain`, `verdict` and `checked_from` are the new one's from then on.

        Args:
            known: of its head, before that write.

        Returns:
            what it is found to be; OK only if it leads on from there.  All of it is on disk.

        Raises:
            StoreError: it cannot be used yet.
        """
        self.chain.close()
        self.chain = Blockchain.open(self.path / "chain.db", self.keystore)
        self.chain.settle()
        note = Checkpoint.read(self.chain)
        self.checked_from = _checked_to(note, self.chain, self.keystore)
        self.verdict = verify(self.chain, note, signatures=False, start=self.checked_from)
        if self.verdict.ok:
            self.verdict = self.compare(known, "this run") or self.verdict
        return self.verdict

    # ----------------------------------------------------------------- what the chain amounts to

    def recall(self, room: RoomSecret) -> Memory:
        """What a session in that room takes over from earlier runs.  Raises StoreUnreadable."""
        try:
            past = self._read_on()
        except Incomplete:
            past = None
        if past is None:
            past = read_past(Past(), self.chain)
            self._past = (self.chain.get_latest_block().index + 1, past)
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
            counted = (note.head.index + 1, note.coins, note.evidence)
        following = self.chain.get_latest_block().index + 1
        if counted is None or counted[2] != evidence:
            coins = len(self._coins_before() | self.chain.coins())
            evidence = _sizes(self.path)  # SQLite may have folded something
        else:
            coins = counted[1] + len(self.chain.coins(before=following, start=counted[0]))
        self._counted = (following, coins, evidence)
        return coins

    def _coins_before(self) -> set[bytes]:
        """Of the chains that are kept as evidence."""
        coins: set[bytes] = set()
        for _, chain, verdict in self.earlier_chains():
            with suppress(StoreUnreadable):
                coins |= chain.coins(before=verdict.index)
        return coins

    def earlier_chains(self) -> Iterator[tuple[str, Blockchain, Verdict]]:
        """The chains that were tampered with and are kept as evidence, the newest first: a file's
        name, the chain, open until the next one is asked for, and what it is found to be now.

        One that cannot be opened is left out; `verify_profile` says so.
        """
        for path in reversed(evidence_files(self.path)):
            try:
                chain = Blockchain.open(path, self.keystore.with_chain(NO_CHAIN))
            except StoreError:
                continue
            with closing(chain):
                verdict = verify(chain, Checkpoint.read(chain), signatures=False)
                yield path.name, chain, verdict

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
            note = Checkpoint(head, coins, evidence, past)
            self.chain.append([], now_ms, [note.row()])

    # ----------------------------------------------------------------- tampering

    def follow(self, finding: str) -> str:
        """The chain is not the one that this profile wrote: it is kept as evidence, and a new one
        takes its place, whose genesis names it and the finding.

        `chain`, `keystore`, `verdict` and `finding` are the new one's from then on.

        Args:
            finding: a verdict and its sentence, in clear for everybody who sees the file.

        Returns:
            the name of the file that the evidence is in.

        Raises:
            ProfileError: it cannot be written; this profile must be opened anew.
        """
        try:
            self.keystore, self.chain, finding = _followed(
                self.path, self.keystore, self.chain, finding
            )
            self.verdict = self.chain.verify(signatures=False)
        except (OSError, StoreError) as exc:
            raise ProfileError(unwritable(self.path, exc)) from exc
        self.finding, self.checked_from = finding, 0
        self._note = self._past = self._counted = self._former = None
        return evidence_files(self.path)[-1].name

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
        head.verify(VerifyKey(self.keystore.chain_signing_key.public))
        if self._former is None:
            self._former = _former(self.path, self.keystore, self.chain)
        chain_ids, findings = self._former
        if head.chain_id in chain_ids or any(head.chain_id.hex() in said for said in findings):
            return None
        return _OtherChain(Finding.MISSING, 0, who, head.index, chain_id=head.chain_id)


# --------------------------------------------------------------------------- opening


def _opened(
    name: str,
    path: Path,
    number: int,
    lock: IO[bytes],
    passphrase: Passphrase | None,
    first: Callable[[], bytes] | None,
    *,
    create: bool,
) -> Profile:
    keys_path, chain_path = path / "keys", path / "chain.db"
    is_new = not keys_path.exists()
    if is_new:
        if chain_path.exists() or evidence_files(path):
            raise ProfileDamaged(
                f"{keys_path} is gone, and the chain beside it is of no use without: put it back "
                f"from a copy, or move {path} away to start anew"
            )
        if not create:
            raise ProfileDamaged(not_yet(path))
        keystore = _behind(Keystore.generate(), first() if first is not None else b"")
        write(keys_path, keystore.serialize())
    else:
        keystore = read_keys(keys_path, passphrase)
    finding = finish(path, keystore)
    if not chain_path.exists():
        predecessor: Head | None = None
        if keystore.chain_id == NO_CHAIN:
            if not create:
                raise ProfileDamaged(not_yet(path))
        elif create:
            finding = f"{GONE}; a new chain follows"
            predecessor = Head(keystore.chain_id, 0, bytes(32), bytes(64))
        else:
            raise ChainGone(GONE)
        keystore = new_chain(path, keystore, predecessor, finding or "")
    chain = _open_chain(chain_path, keystore)
    try:
        # The links make the head's signature vouch for every block, so an edited text or balance
        # is found here, at a tenth of the time that every signature takes; `verify` checks those.
        # Who goes on to write has the blocks before a checkpoint verified meanwhile.
        note = Checkpoint.read(chain)
        checked_from = _checked_to(note, chain, keystore) if create else 0
        verdict = verify(chain, note, signatures=False, start=checked_from)
        if checked_from and not verdict.ok:  # what is wrong may have begun before
            verdict, checked_from = verify(chain, note, signatures=False), 0
        if verdict.exit_code == 4 and create:
            finding = f"{verdict}: {verdict.sentence}"
            keystore, chain, finding = _followed(path, keystore, chain, finding)
            note, checked_from = None, 0
            verdict = chain.verify(signatures=False)
        if verdict.exit_code == 6 or (create and not verdict.ok):
            raise ProfileDamaged(unusable(chain_path, str(verdict)))
        if keystore.chain_id == NO_CHAIN and verdict.ok:
            keystore = keystore.with_chain(chain.get_latest_block().chain_id)
            if create:
                write(keys_path, keystore.serialize())
        note = note if verdict.ok else None
        return Profile(
            name, path, number, keystore, chain, verdict, checked_from, finding, is_new, lock, note
        )
    except BaseException:
        chain.close()
        raise


def _behind(keystore: Keystore, passphrase: bytes) -> Keystore:
    """The same keys behind a passphrase; empty: behind none.  Raises ProfileError."""
    try:
        return keystore.with_passphrase(passphrase)
    except CryptoError as exc:
        raise ProfileError(f"the passphrase cannot be set: {exc}") from exc


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
    # The note may know more of who is ignored than the blocks that are left.
    start, past = _past_of(Checkpoint.read(chain))
    drafts, side = hand_over(chain, past, start)
    chain.close()
    finding = f"{finding}; kept as {next_evidence(path).name}, a new chain follows"
    keystore = new_chain(path, keystore, predecessor, finding, drafts, side)
    return keystore, _open_chain(path / "chain.db", keystore), finding


def _open_chain(path: Path, keystore: Keystore) -> Blockchain:
    try:
        return Blockchain.open(path, keystore)
    except StoreLocked as exc:
        raise ProfileLocked(str(exc)) from exc
    except StoreError as exc:
        raise ProfileDamaged(unusable(path, str(exc))) from exc


def _checked_to(note: Checkpoint | None, chain: Blockchain, keystore: Keystore) -> int:
    """The block that a start may begin to verify with, since a note vouches for those before it."""
    if note is None or note.head.chain_id != keystore.chain_id or not note.compare(chain).ok:
        return 0
    return note.head.index if note.head.index >= _VERIFIED_AT_ONCE else 0


def _past_of(note: Checkpoint | None) -> tuple[int, Past]:
    """What is known of others up to a checkpoint, and the block to go on with."""
    if note is not None and note.past:
        with suppress(WireError):
            return note.head.index + 1, Past.parse(note.past)
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
    for file in evidence_files(path):
        with suppress(StoreError):
            kept = Blockchain.open(file, keystore.with_chain(NO_CHAIN))
            try:
                chain_ids.add(kept.get_latest_block().chain_id)
                read(kept.genesis())
            finally:
                kept.close()
    return chain_ids, findings


def _sizes(path: Path) -> tuple[tuple[str, int], ...]:
    """The evidence files and their sizes."""
    return tuple((file.name, file.stat().st_size) for file in evidence_files(path))
