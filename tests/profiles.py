"""Profiles to be copied, damaged and tampered with: what the tests of a profile's modules share."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import simulated_room
from rsa_pool import pooled
from simulated_room import LOBBY

from blockchain import Blockchain, BlockType, Draft, SideRow
from chat_checkpoint import CHECKPOINT_TABLE, Checkpoint
from chat_memory import FEEDS_TABLE
from chat_messages import Bundle, Entry, EntryKind, Event, EventKind
from chat_profile import Profile, ProfileDamaged
from chat_verification import verify_profile
from chat_wire import u64
from crypto_utils import Identity, Keystore, SigningKey

COINS = 6  # of who talked: blocks 1 to 6 are sent ones
NOW_MS = 1_700_000_000_000
IGNORED = 3  # people, in the profile with a checkpoint

_generate, _from_pkcs8 = Keystore.generate, Identity.from_pkcs8


@cache
def keys(name: str) -> Keystore:
    """New keys, of which there are few, since they take a second."""
    return pooled(_generate)


@cache
def checked_identity(pkcs8: bytes) -> Identity:
    """What is read again and again is checked once: that takes a tenth of a second."""
    return _from_pkcs8(pkcs8)


def be_quick(patch: pytest.MonkeyPatch) -> None:
    """New profiles get the same keys, and keys are checked once."""
    patch.setattr(Keystore, "generate", lambda: keys("alice"))
    patch.setattr(Identity, "from_pkcs8", checked_identity)


def say(profile: Profile, *numbers: int) -> None:
    """Sends messages, each with an entry_id of its own."""
    for number in numbers:
        draft = Draft(BlockType.SENT, b"text %d" % number, number.to_bytes(32, "big"))
        profile.chain.add_block(draft, 1_700_000_000_000 + number)


def talk(home: Path) -> Path:
    """The home of somebody who said six things; to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch)
        with Profile.open(home) as profile:
            profile.remember_nick("alice")
            say(profile, *range(COINS))
    return home


def folder(home: Path, name: str = "default") -> Path:
    return home / "profiles" / name


def contents(home: Path) -> dict[str, bytes]:
    """Every file but the locks, by its path."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def tamper(home: Path, statement: str, *values: object) -> bytes:
    """Changes the chain as somebody with an editor for SQLite would; the file's bytes then."""
    database = sqlite3.connect(folder(home) / "chain.db")
    with database:
        assert database.execute(statement, values).rowcount
    database.close()
    return (folder(home) / "chain.db").read_bytes()


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query on the chain gives."""
    database = sqlite3.connect(folder(home) / "chain.db")
    found = database.execute(query).fetchall()
    database.close()
    return found


def flip(home: Path, column: str, index: int, at: int) -> bytes:
    """Flips a bit of a block."""
    database = sqlite3.connect(folder(home) / "chain.db")
    (data,) = database.execute(f"SELECT {column} FROM blocks WHERE idx = ?", (index,)).fetchone()
    database.close()
    data = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
    return tamper(home, f"UPDATE blocks SET {column} = ? WHERE idx = ?", data, index)


def edited(home: Path, index: int) -> None:
    flip(home, "body", index, 20)


def edit_body(home: Path) -> bytes:
    return flip(home, "body", 3, 20)


def delete(home: Path) -> bytes:
    return tamper(home, "DELETE FROM blocks WHERE idx = 3")


def garbage(path: Path) -> None:
    path.write_bytes(b"\0garbage" * 1000)


def balance(home: Path, name: str | None = None) -> int:
    with Profile.open(home, name, create=False) as profile:
        return profile.balance()


def outcome(action: Callable[[], object]) -> str:
    """What it gave, or what it was refused with."""
    try:
        return str(action())
    except ProfileDamaged as exc:
        return str(exc)


def codes(home: Path) -> list[int]:
    return [found.exit_code for found in verify_profile(home)]


# --------------------------------------------------------------------------- crashes

TOUCHES = {
    "open",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "sqlite3.connect",
    "sqlite3.connect/handle",
}


def is_killed(step: int, action: Callable[[], object]) -> bool:
    """Runs it in a process that dies, without a last word, when it touches the file system for
    the n-th time; False: it got through before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork where threads are: not ours
        pid = os.fork()
    if pid == 0:
        left = step

        def dies(event: str, _arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in TOUCHES:
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(dies)
        with suppress(BaseException):
            action()
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def crashes(
    action: Callable[[Path], object], work: Path, start: Path | None = None
) -> Iterator[int]:
    """For each step of it, after the crash there; at last after it got through.

    Each time `work` is a new copy of `start`.
    """
    step, is_over = 0, False
    while not is_over:
        step += 1
        shutil.rmtree(work, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, work)
        is_over = not is_killed(step, lambda: action(work))
        yield step
    assert step > 5


# --------------------------------------------------------------------------- people


@cache
def bundle_of(name: str) -> tuple[SigningKey, Bundle]:
    """A session of somebody else's."""
    key, keystore = SigningKey.generate(), simulated_room.keystore(name)
    sek = simulated_room.session_keys("everybody", 0).get_public_key()
    chain = (keystore.chain_id, keystore.chain_signing_key.public)
    ours = (keystore.identity, LOBBY, name, key, 1, sek)
    return key, Bundle.create(*ours, *chain)


def meet(profile: Profile, name: str) -> None:
    event = Event(EventKind.BUNDLE, bundle_of(name)[1].raw)
    draft = Draft(BlockType.EVENT, event.serialize(), event.event_id)
    profile.chain.add_block(draft, NOW_MS)


def hear(profile: Profile, name: str, *seqs: int, at_ms: int = NOW_MS) -> None:
    """Receives messages of somebody, each in its place in his feed."""
    key, bundle = bundle_of(name)
    for seq in seqs:
        zeros = bytes(32)
        place = (LOBBY.tag, bundle.session_id, seq, zeros, zeros, NOW_MS)
        entry = Entry(EntryKind.CHAT, *place, b"s" * 16, b"hello %d" % seq)
        draft = Draft(BlockType.RECEIVED, entry.sign(key).serialize(), entry.entry_id)
        stay = SideRow(FEEDS_TABLE, LOBBY.tag + bundle.session_id, u64(1))
        profile.chain.append([draft], at_ms, [stay])


def ignore(profile: Profile, number: int) -> None:
    event = Event(EventKind.IGNORE, bytes((number,)) * 32)
    profile.chain.add_block(Draft(BlockType.EVENT, event.serialize(), event.event_id), NOW_MS)


def talk_and_note(home: Path) -> Path:
    """Evidence with 3 coins; a chain with a checkpoint at block 8 and six blocks behind it."""
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch)
        with Profile.open(home) as profile:
            say(profile, 0, 1, 2, 3)
        edited(home, 4)
        with Profile.open(home) as profile:
            meet(profile, "bob")
            hear(profile, "bob", 1, 2, 4)
            say(profile, 11, 12)
            ignore(profile, 1)
            ignore(profile, 2)
            profile.checkpoint(NOW_MS)
            assert profile.chain.head().index == 8
            hear(profile, "bob", 3)
            meet(profile, "carol")
            hear(profile, "carol", 2)
            ignore(profile, 3)
            say(profile, 13, 14)
    return home


def note_of(home: Path) -> Checkpoint:
    keystore = Keystore.parse((folder(home) / "keys").read_bytes())
    chain = Blockchain.open(folder(home) / "chain.db", keystore)
    found = Checkpoint.read(chain)
    chain.close()
    assert found is not None
    return found


def put_note(home: Path, value: bytes) -> None:
    """As only this program could: under the chain's own key."""
    keystore = Keystore.parse((folder(home) / "keys").read_bytes())
    chain = Blockchain.open(folder(home) / "chain.db", keystore)
    chain.append([], NOW_MS, [SideRow(CHECKPOINT_TABLE, b"", value)])
    chain.close()


def says(*passphrases: bytes) -> Callable[[bool], bytes]:
    """Somebody who gives these, one after the other, and no more."""
    left = list(passphrases)

    def answer(again: bool) -> bytes:
        assert again == (len(left) < len(passphrases))
        return left.pop(0)

    return answer


def nobody(_again: bool) -> bytes:
    raise AssertionError("nobody is asked")
