"""A profile's files checked offline, one by one, and what a person is told of each.

What lives here: which files there are to check, in which order, and how deep.  What it does not
know: how a chain is checked (`blockchain`, `chat_checkpoint`, `chat_audit`), how a profile is
opened to be used (`chat_profile`).

    for checked in verify_profile(home, deep=True): terminal.show(checked.text)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from blockchain import Blockchain, StoreError, StoreUnreadable
from chat_audit import audit
from chat_checkpoint import Checkpoint, verify
from chat_folder import (
    GONE,
    NO_CHAIN,
    Passphrase,
    ProfileDamaged,
    ProfileError,
    ProfileSealed,
    evidence_files,
    finish,
    lock_folder,
    not_yet,
    profile_path,
    read_keys,
    unusable,
    unwritable,
)
from crypto_utils import Keystore, PublicKeys

__all__ = ["Checked", "Progress", "verify_profile"]

# Told which file is being checked, how many of its blocks are, and how many there are.
Progress = Callable[[str, int, int], None]


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
    """A profile's chains, those that are kept as evidence first.

    A chain that follows a tampered one says so for ever, in its genesis.

    Args:
        deep: each signature, of blocks and of authors, and what others signed for the chain;
            else hashes, links and the last block's signature, which vouches for all before it.
        passphrase: called if there is one.  None: then what it hides is not looked at.

    Raises:
        ProfileLocked, ProfileDamaged, ProfileSealed, and what `passphrase` raises.
    """
    path = profile_path(home, name)
    lock = lock_folder(path, create=False)
    try:
        chain_path = path / "chain.db"
        if not ((path / "keys").exists() or chain_path.exists() or evidence_files(path)):
            raise ProfileDamaged(not_yet(path))
        keys: Keystore | PublicKeys
        try:
            keys = read_keys(path / "keys", passphrase)
        except ProfileSealed:
            if passphrase is not None:
                raise
            keys = Keystore.public_part((path / "keys").read_bytes())
        finish(path, keys)
        results: list[Checked] = []
        for file in evidence_files(path):
            results += _checked(file, _of_chain(keys, NO_CHAIN), deep, progress)
        if chain_path.exists():
            results += _checked(chain_path, keys, deep, progress)
        elif keys.chain_id != NO_CHAIN:
            results.append(Checked(GONE, 4))
        if not results:
            raise ProfileDamaged(not_yet(path))
        return results
    except OSError as exc:
        raise ProfileError(unwritable(path, exc)) from exc
    finally:
        lock.close()


def _checked(
    path: Path, keys: Keystore | PublicKeys, deep: bool, progress: Progress | None
) -> list[Checked]:
    """The verdict, after what the chain itself says of the one that it follows."""
    try:
        chain = Blockchain.open(path, keys)
    except StoreError as exc:
        return [Checked(unusable(path, str(exc)), 6)]
    results: list[Checked] = []
    try:
        with suppress(StoreUnreadable):
            if finding := chain.genesis().finding:
                results.append(Checked(f"an earlier chain: {finding}", 4))
        told = _told(progress, path.name, chain)
        note = Checkpoint.read(chain)
        verdict, not_checked = verify(chain, note, signatures=deep, progress=told), ""
        if verdict.ok and not isinstance(keys, Keystore):
            not_checked = "; texts and authors were not checked: that needs the passphrase"
        elif verdict.ok and not deep:
            not_checked = "; of the signatures only the last one was checked"
        elif verdict.ok:
            audited = audit(chain, progress=_told(progress, f"{path.name}, authors", chain))
            verdict = verdict if audited.ok else audited
        text = f"{verdict}: {verdict.sentence}{not_checked} ({path.name})"
        return [*results, Checked(text, verdict.exit_code)]
    except StoreError as exc:
        return [*results, Checked(unusable(path, str(exc)), 6)]
    finally:
        chain.close()


def _told(progress: Progress | None, what: str, chain: Blockchain) -> Callable[[int], None] | None:
    """`progress` for one walk through a chain."""
    blocks = 0
    with suppress(StoreUnreadable):
        blocks = chain.get_latest_block().index + 1
    return None if progress is None else lambda done: progress(what, min(done, blocks), blocks)


def _of_chain(keys: Keystore | PublicKeys, chain_id: bytes) -> Keystore | PublicKeys:
    """The same keys beside another chain."""
    return (
        keys.with_chain(chain_id)
        if isinstance(keys, Keystore)
        else replace(keys, chain_id=chain_id)
    )
