"""chat_profile: a folder that survives crashes, damage, tampering and a second client."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import stat
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from profiles import (
    COINS,
    IGNORED,
    NOW_MS,
    balance,
    bundle_of,
    codes,
    contents,
    crashes,
    delete,
    edit_body,
    edited,
    flip,
    folder,
    garbage,
    hear,
    ignore,
    keys,
    nobody,
    note_of,
    outcome,
    put_note,
    rows,
    say,
    says,
    talk_and_note,
    tamper,
)
from simulated_room import LOBBY

import chat_folder
import chat_profile
from blockchain import Block, Blockchain, BlockType, Draft, Head, SideRow, StoreError, StoreFailed
from chat_checkpoint import CHECKPOINT_TABLE, Checkpoint
from chat_folder import ChainGone
from chat_memory import FEED_LIFE_MS, FEEDS_TABLE, MEMBERS_TABLE, Memory
from chat_messages import Event, EventKind
from chat_profile import (
    Profile,
    ProfileDamaged,
    ProfileError,
    ProfileLocked,
    ProfileSealed,
)
from chat_roster import Person
from chat_verification import verify_profile
from chat_wire import u64
from chat_witness import ACKS_TABLE, HEADS_TABLE
from crypto_utils import BadSignature, Keystore

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error"),
    pytest.mark.usefixtures("quick_keys"),
]


# --------------------------------------------------------------------------- a new one


def test_a_new_profile_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Profile.open(tmp_path / "a" / "home") as profile:
            profile.remember_nick("alice")
            say(profile, 1)
            relative = [p.relative_to(tmp_path) for p in (tmp_path / "a").rglob("*")]
            modes = {str(p): stat.S_IMODE((tmp_path / p).stat().st_mode) for p in relative}
    finally:
        os.umask(before)
    files = {"lock", "keys", "chain.db", "chain.db-wal", "nick"}
    expected = {f"a/home/profiles/default/{name}": 0o600 for name in files}
    expected |= dict.fromkeys(("a/home", "a/home/profiles", "a/home/profiles/default"), 0o700)
    assert modes == expected


def test_a_new_profile_has_keys_that_name_its_chain_and_goes_on_at_the_next_start(
    tmp_path: Path,
) -> None:
    with Profile.open(tmp_path) as profile:
        assert (profile.name, profile.number, profile.is_new) == ("default", 1, True)
        assert (profile.finding, profile.nick, profile.balance()) == (None, None, 0)
        assert profile.verdict.ok
        assert profile.keystore.chain_id == profile.chain.get_latest_block().chain_id != bytes(16)
        say(profile, 1, 2)
        chain_id = profile.keystore.chain_id
    with Profile.open(tmp_path) as profile:
        assert (profile.is_new, profile.finding, profile.balance()) == (False, None, 2)
        assert profile.keystore.chain_id == chain_id
        say(profile, 3)
        assert profile.balance() == 3
    assert codes(tmp_path) == [0]


def test_commands_that_only_read_make_nothing(tmp_path: Path) -> None:
    for missing in (tmp_path, folder(tmp_path)):
        missing.mkdir(parents=True, exist_ok=True)
        for action in (
            lambda: Profile.open(tmp_path, create=False),
            lambda: verify_profile(tmp_path),
        ):
            with pytest.raises(ProfileDamaged, match=r"there is no profile in .* yet: chat first"):
                action()
        assert contents(tmp_path) == {}


def test_a_profile_that_was_copied_to_another_place_works_there(home: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(home, tmp_path / "else" / "where")
    (elsewhere / "profiles" / "default").rename(elsewhere / "profiles" / "other")
    shutil.rmtree(home)
    with Profile.open(elsewhere, "other") as profile:
        assert (profile.nick, profile.balance(), profile.finding) == ("alice", COINS, None)
        say(profile, 100)
    assert balance(elsewhere, "other") == COINS + 1


# --------------------------------------------------------------------------- crashes


def test_a_crash_at_any_step_of_the_making_is_no_tampering_and_loses_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    first, later = keys("alice"), keys("bob")
    monkeypatch.setattr(Keystore, "generate", lambda: later)

    def make(home: Path) -> None:
        monkeypatch.setattr(Keystore, "generate", lambda: first)
        Profile.open(home)

    for step in crashes(make, home):
        had_keys = (folder(home) / "keys").exists()
        for action in (codes, balance):
            copy = shutil.copytree(home, tmp_path / "copy") if home.exists() else tmp_path / "copy"
            said = outcome(partial(action, copy))
            assert said in ("[0]", "0") or said.endswith(" yet: chat first"), step
            shutil.rmtree(copy, ignore_errors=True)
        with Profile.open(home) as profile:
            assert profile.finding is None, step
            expected = first if had_keys else later
            assert profile.keystore.identity is not None
            assert profile.keystore.identity.fingerprint == expected.identity.fingerprint, step
            assert profile.keystore.chain_id == profile.chain.get_latest_block().chain_id
            say(profile, 1)
        assert codes(home) == [0], step
        assert balance(home) == 1
        names = {path.name for path in folder(home).iterdir()}
        assert names <= {"keys", "chain.db", "lock"}, step


def test_a_crash_at_any_step_of_putting_a_tampered_chain_aside_neither_hides_nor_doubles_it(
    home: Path, tmp_path: Path
) -> None:
    tampered = tamper(home, "DELETE FROM blocks WHERE idx = 4")
    with Profile.open(home, create=False) as profile:
        head = profile.chain.head()
    work = tmp_path / "work"
    for step in crashes(Profile.open, work, home):
        is_over = (
            not (folder(work) / "chain.new").exists() and (folder(work) / "evidence-1.db").exists()
        )
        copy = shutil.copytree(work, tmp_path / "copy")
        assert 4 in codes(copy), step
        assert all("MISSING@4" in f.text for f in verify_profile(copy) if f.exit_code), step
        with Profile.open(work) as profile:
            assert "MISSING@4" in (profile.finding or "") or is_over, step
            genesis = profile.chain.genesis()
            assert genesis.finding.startswith("MISSING@4: "), step
            assert genesis.finding.endswith("kept as evidence-1.db, a new chain follows")
            assert genesis.predecessor == (head.chain_id, head.index, head.hash), step
            assert profile.balance() == 3, step
        kept = {path.name for path in folder(work).iterdir()}
        assert kept == {"keys", "chain.db", "lock", "nick", "evidence-1.db"}, step
        assert (folder(work) / "evidence-1.db").read_bytes() == tampered, step
        shutil.rmtree(copy)


def test_a_crash_at_any_step_of_replacing_a_chain_that_is_gone_still_says_so(
    home: Path, tmp_path: Path
) -> None:
    (folder(home) / "chain.db").unlink()
    work = tmp_path / "work"
    for step in crashes(Profile.open, work, home):
        is_over = (folder(work) / "chain.db").exists()
        with Profile.open(work) as profile:
            assert "MISSING@0: chain.db is gone" in (profile.finding or "") or is_over, step
            assert profile.chain.genesis().finding.startswith("MISSING@0"), step
        assert 4 in codes(work), step


def test_an_opening_that_is_interrupted_leaves_nothing_open(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Blockchain, "verify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Profile.open(home)
    with Profile.open(home, "default") as profile:
        assert profile.balance() == COINS


def test_keys_that_name_no_chain_yet_are_made_to_name_the_one_that_is_there(home: Path) -> None:
    keys_path = folder(home) / "keys"
    named = keys_path.read_bytes()
    unnamed = Keystore.parse(named).with_chain(bytes(16)).serialize()
    keys_path.write_bytes(unnamed)
    with Profile.open(home, create=False) as profile:
        assert profile.keystore.serialize() == named
    assert keys_path.read_bytes() == unnamed, "nothing is made by who only reads"
    Profile.open(home).close()
    assert keys_path.read_bytes() == named


# --------------------------------------------------------------------------- the lock


def test_a_second_client_takes_the_next_free_profile_and_a_command_never_does(
    home: Path,
) -> None:
    with Profile.open(home) as first, Profile.open(home) as second, Profile.open(home) as third:
        opened = [(p.name, p.number, p.path) for p in (first, second, third)]
        assert opened == [
            ("default", 1, folder(home)),
            ("default-2", 2, folder(home, "default-2")),
            ("default-3", 3, folder(home, "default-3")),
        ]
        assert (first.nick, second.nick) == ("alice", None)
        second.close()
        with Profile.open(home) as again:
            assert (again.name, again.is_new) == ("default-2", False)
        for action in (
            lambda: Profile.open(home, "default"),
            lambda: Profile.open(home, create=False),
            lambda: Profile.open(home, "default-3", create=False),
            lambda: verify_profile(home),
            lambda: verify_profile(home, "default-3"),
        ):
            with pytest.raises(ProfileLocked, match=r"is in use by another client .*--profile"):
                action()
    assert balance(home) == COINS


def test_a_named_profile_is_number_one(tmp_path: Path) -> None:
    with Profile.open(tmp_path, "work-2") as profile:
        assert (profile.name, profile.number) == ("work-2", 1)


def test_a_chain_that_another_program_holds_is_locked_and_not_damaged(home: Path) -> None:
    database = sqlite3.connect(folder(home) / "chain.db", isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ProfileLocked, match=r"chain\.db is in use by another process"):
        Profile.open(home)
    database.close()
    assert balance(home) == COINS


# --------------------------------------------------------------------------- damage


def refused_by_all(home: Path, part: str) -> None:
    """Nobody opens it, each says `part`, and not one byte is changed."""
    before = contents(home)
    for name, create in ((None, True), ("default", True), (None, False)):
        with pytest.raises(ProfileDamaged) as problem:
            Profile.open(home, name, create=create)
        text = str(problem.value)
        assert part in text
        assert "\n" not in text
        assert "put it back from a copy" in text
        assert contents(home) == before
    assert part in outcome(lambda: [f"{f.text} {f.exit_code}" for f in verify_profile(home)])
    assert contents(home) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\0garbage" * 100,
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:1000] + bytes((data[1000] ^ 1,)) + data[1001:],
    ],
    ids=["empty", "garbage", "cut", "longer", "a bit"],
)
def test_damaged_keys_are_refused_and_nothing_is_changed(
    home: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = folder(home) / "keys"
    path.write_bytes(damage(path.read_bytes()))
    refused_by_all(home, str(path))


def test_keys_that_are_gone_or_no_file_are_refused_and_nothing_is_changed(home: Path) -> None:
    path = folder(home) / "keys"
    path.unlink()
    refused_by_all(home, str(path))
    path.mkdir(mode=0o700)
    refused_by_all(home, str(path))


def test_keys_that_are_gone_are_not_made_anew_beside_evidence(home: Path) -> None:
    (folder(home) / "chain.db").rename(folder(home) / "evidence-1.db")
    (folder(home) / "keys").unlink()
    refused_by_all(home, "keys")


def half_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def somebody_elses(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()


def no_block(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE blocks SET header = 'text' WHERE idx = 3")
    database.close()


@pytest.mark.parametrize("damage", [half_a_page, garbage, emptied, somebody_elses, no_block])
def test_a_damaged_chain_is_refused_and_nothing_is_changed(
    home: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder(home) / "chain.db")
    refused_by_all(home, "chain.db")


# --------------------------------------------------------------------------- tampering


def edit_header(home: Path) -> bytes:
    return flip(home, "header", 3, 60)


def swap(home: Path) -> bytes:
    tamper(home, "UPDATE blocks SET idx = 99 WHERE idx = 3")
    tamper(home, "UPDATE blocks SET idx = 3 WHERE idx = 4")
    return tamper(home, "UPDATE blocks SET idx = 4 WHERE idx = 99")


def forge_last(home: Path) -> bytes:
    return flip(home, "signature", COINS, 5)


def empty(home: Path) -> bytes:
    return tamper(home, "DELETE FROM blocks")


def exchange(home: Path) -> bytes:
    """For a whole chain of the same keys: what was written so far is gone."""
    path = folder(home) / "chain.db"
    keystore = Keystore.parse((folder(home) / "keys").read_bytes())
    path.unlink()
    chain = Blockchain.create(path, keystore, 1)
    chain.add_block(Draft(BlockType.SENT, b"new", bytes(31) + b"\1"), 2)
    chain.close()
    return path.read_bytes()


TAMPERED: list[tuple[Callable[[Path], bytes], str, int]] = [
    (edit_body, "EDITED@3", 2),
    (edit_header, "EDITED@3", 2),
    (swap, "REORDERED@3", 2),
    (delete, "MISSING@3", 2),
    (forge_last, f"FORGED@{COINS}", COINS - 1),
    (empty, "MISSING@0", 0),
    (exchange, "REWRITTEN@0", 1),
]


@pytest.mark.parametrize(
    ("change", "verdict", "coins"), TAMPERED, ids=lambda x: getattr(x, "__name__", x)
)
def test_a_tampered_chain_is_kept_byte_for_byte_and_followed_by_one_that_names_it(
    home: Path, change: Callable[[Path], bytes], verdict: str, coins: int
) -> None:
    tampered = change(home)
    database = sqlite3.connect(f"file:{folder(home) / 'chain.db'}?immutable=1", uri=True)
    last = database.execute("SELECT header FROM blocks ORDER BY idx DESC LIMIT 1").fetchone()
    database.close()
    old_id = Keystore.parse((folder(home) / "keys").read_bytes()).chain_id
    assert codes(home) == [4]
    for _ in range(2):
        with Profile.open(home) as profile:
            if _ == 0:
                assert profile.finding is not None
                assert profile.finding.startswith(f"{verdict}: ")
            else:
                assert profile.finding is None, "said once"
            assert (profile.is_new, profile.verdict.ok) == (False, True)
            assert profile.keystore.chain_id != old_id
            genesis = profile.chain.genesis()
            assert genesis.finding.startswith(f"{verdict}: ")
            assert genesis.finding.endswith("; kept as evidence-1.db, a new chain follows")
            if last:
                head = Block.parse(last[0])
                named = (head.chain_id, head.index, head.calculate_hash())
                assert genesis.predecessor == named
            else:
                assert genesis.predecessor == (old_id, 0, bytes(32))
            assert profile.balance() == coins
            assert profile.nick == "alice"
        found = verify_profile(home)
        assert 4 in [f.exit_code for f in found]
        assert verdict in "".join(f.text for f in found)
        kept = sorted(path.name for path in folder(home).glob("evidence*"))
        assert kept == ["evidence-1.db"]
        assert (folder(home) / "evidence-1.db").read_bytes() == tampered
    (folder(home) / "evidence-1.db").unlink()
    assert codes(home) == [4, 0], "the chain itself remembers"


@pytest.mark.parametrize(
    ("change", "verdict", "coins"), TAMPERED, ids=lambda x: getattr(x, "__name__", x)
)
def test_who_only_reads_a_tampered_chain_is_told_and_gets_the_verified_part(
    home: Path, change: Callable[[Path], bytes], verdict: str, coins: int
) -> None:
    change(home)
    before = contents(home)
    with Profile.open(home, create=False) as profile:
        assert str(profile.verdict) == verdict
        # Of a chain that is another one nothing counts before it is known as evidence.
        assert profile.balance() == (0 if verdict == "REWRITTEN@0" else coins)
    assert contents(home) == before


def test_a_chain_that_is_tampered_with_twice_is_kept_twice(home: Path) -> None:
    first = edit_body(home)
    with Profile.open(home) as profile:
        say(profile, 100, 101, 102)
    second = tamper(home, "DELETE FROM blocks WHERE idx = 2")
    with Profile.open(home) as profile:
        assert profile.finding is not None
        assert "kept as evidence-2.db" in profile.finding
        assert profile.balance() == 2 + 1
    assert (folder(home) / "evidence-1.db").read_bytes() == first
    assert (folder(home) / "evidence-2.db").read_bytes() == second
    assert codes(home) == [4, 4, 4, 4, 0]


def test_no_coin_is_counted_twice(home: Path) -> None:
    delete(home)
    with Profile.open(home) as profile:
        say(profile, 0, 1, 77)  # 0 and 1 are in the verified part of the evidence
        assert profile.balance() == 3
        assert profile.chain.coins() & {bytes(32)}


# --------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def noted_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied."""
    return talk_and_note(tmp_path_factory.mktemp("noted"))


@pytest.fixture
def noted(noted_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where so many blocks are too many to be verified at each start."""
    monkeypatch.setattr(chat_profile, "_VERIFIED_AT_ONCE", 1)
    return shutil.copytree(noted_home, tmp_path / "noted")


def amounts_to(home: Path) -> tuple[Memory, int, str]:
    with Profile.open(home) as profile:
        memory = profile.recall(LOBBY)
        assert profile.chain.verify().ok
        return memory, profile.balance(), str(profile.verdict)


def without_its_past(home: Path) -> None:
    put_note(home, replace(note_of(home), past=b"").serialize())


def with_a_damaged_past(home: Path) -> None:
    put_note(home, replace(note_of(home), past=note_of(home).past[:-1]).serialize())


def with_other_evidence(home: Path) -> None:
    put_note(home, replace(note_of(home), evidence=(("evidence-1.db", 1),), coins=99).serialize())


def that_nobody_signed(home: Path) -> None:
    note = note_of(home)
    put_note(home, replace(note, head=replace(note.head, index=99), coins=99).serialize())


def of_another_chain(home: Path) -> None:
    keystore = Keystore.parse((folder(home) / "keys").read_bytes())
    other = Blockchain.create(home / "other.db", keystore, NOW_MS)
    put_note(home, replace(note_of(home), head=other.head(), coins=99).serialize())
    other.close()


def of_another_version(home: Path) -> None:
    put_note(home, b"\2" + note_of(home).serialize()[1:])


def that_is_short(home: Path) -> None:
    put_note(home, note_of(home).serialize()[:50])


def that_is_gone(home: Path) -> None:
    put_note(home, b"")


def that_is_damaged(home: Path) -> None:
    tamper(home, "UPDATE side SET sealed = zeroblob(length(sealed)) WHERE name = 'checkpoint'")


NOTES = [
    without_its_past,
    with_a_damaged_past,
    with_other_evidence,
    that_nobody_signed,
    of_another_chain,
    of_another_version,
    that_is_short,
    that_is_gone,
    that_is_damaged,
]


@pytest.mark.parametrize("change", NOTES, ids=lambda x: x.__name__)
def test_a_checkpoint_whatever_its_state_changes_no_memory_balance_or_verdict(
    noted: Path, change: Callable[[Path], None]
) -> None:
    with Profile.open(noted) as profile:
        assert profile.checked_from == 8
    expected = amounts_to(noted)
    memory, coins, verdict = expected
    assert (coins, verdict) == (3 + 4, "OK")
    assert memory.ignored == {bytes((number,)) * 32 for number in (1, 2, 3)}
    ranges = {feed.session_id: feed.missing for feed in memory.feeds.values()}
    bob, carol = (bundle_of(name)[1].session_id for name in ("bob", "carol"))
    assert ranges == {bob: [], carol: [(1, 1)]}
    change(noted)
    assert amounts_to(noted) == expected
    with Profile.open(noted) as profile:
        profile.recall(LOBBY)
        profile.checkpoint(NOW_MS)
        say(profile, 15)
    assert note_of(noted).head.index == 14, "the next one is right again"
    again, coins, verdict = amounts_to(noted)
    assert (again, coins, verdict) == (memory, 8, "OK")


def test_a_start_looks_at_what_came_since_the_checkpoint_and_the_rest_is_for_the_background(
    noted: Path,
) -> None:
    with Profile.open(noted, create=False) as profile:
        assert profile.checked_from == 0, "nothing goes on in the background of a command"
    for index in (8, 13):
        copy = shutil.copytree(noted, noted.with_name(f"copy-{index}"))
        edited(copy, index)
        with Profile.open(copy) as profile:
            assert (profile.finding or "").startswith(f"EDITED@{index}: ")
    edited(noted, 3)
    assert codes(noted)[-1] == 4
    with Profile.open(noted, create=False) as profile:
        assert str(profile.verdict) == "EDITED@3"
    with Profile.open(noted) as profile:
        assert (profile.finding, profile.checked_from) == (None, 8)
        assert str(list(profile.chain.verification())[-1]) == "EDITED@3"
        assert profile.balance() == 7, "as it was when it was verified"
    edited(noted, 14)
    with Profile.open(noted) as profile:
        assert (profile.finding or "").startswith("EDITED@3: "), "the first that is wrong is named"


def test_a_start_verifies_all_of_a_chain_that_takes_no_time(
    noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(noted, 3)
    monkeypatch.setattr(chat_profile, "_VERIFIED_AT_ONCE", 9)
    with Profile.open(noted) as profile:
        assert (profile.finding or "").startswith("EDITED@3: ")


def test_a_chain_that_was_cut_below_its_checkpoint_is_found_offline_and_followed(
    noted: Path,
) -> None:
    tamper(noted, "DELETE FROM blocks WHERE idx > 6")
    said = "TRUNCATED@7: the last blocks were cut off: 7 blocks left, and this profile's own note"
    evidence, earlier, checked = verify_profile(noted)
    assert (evidence.exit_code, earlier.exit_code, checked.exit_code) == (4, 4, 4)
    assert checked.text.startswith(said)
    with Profile.open(noted, create=False) as profile:
        assert (str(profile.verdict), profile.balance()) == ("TRUNCATED@7", 3 + 2)
    with Profile.open(noted) as profile:
        assert (profile.finding or "").startswith(said)
        assert (profile.checked_from, profile.balance()) == (0, 3 + 2)
        # They were ignored in blocks that are gone; the note knows.
        assert profile.recall(LOBBY).ignored == {bytes((number,)) * 32 for number in (1, 2)}
    assert codes(noted) == [4, 4, 4, 4, 0], "the evidence is still found to be cut"


def test_a_chain_that_was_written_anew_below_its_checkpoint_is_found_offline_and_followed(
    noted: Path,
) -> None:
    tamper(noted, "DELETE FROM blocks WHERE idx > 5")
    keystore = Keystore.parse((folder(noted) / "keys").read_bytes())
    chain = Blockchain.open(folder(noted) / "chain.db", keystore)
    chain.append([Draft(BlockType.SENT, b"anew", bytes((n,)) * 32) for n in range(9)], NOW_MS)
    chain.close()
    assert "REWRITTEN@8" in verify_profile(noted)[-1].text
    with Profile.open(noted, create=False) as profile:
        assert str(profile.verdict) == "REWRITTEN@8"
        coins = profile.balance()
    with Profile.open(noted) as profile:
        assert (profile.finding or "").startswith("REWRITTEN@8: ")
        assert profile.balance() == coins, "what is behind it is no balance afterwards either"
    assert codes(noted) == [4, 4, 4, 4, 0]


def test_an_older_copy_of_the_whole_is_no_finding_and_one_beside_a_newer_note_is(
    noted: Path,
) -> None:
    older = shutil.copytree(noted, noted.with_name("older"))
    with Profile.open(noted) as profile:
        say(profile, 100)
        profile.checkpoint(NOW_MS)
    with Profile.open(older) as profile:  # only somebody else can tell
        assert profile.finding is None
    (note,) = rows(noted, "SELECT sealed FROM side WHERE name = 'checkpoint'")
    tamper(older, "UPDATE side SET sealed = ? WHERE name = 'checkpoint'", note[0])
    with Profile.open(older) as profile:
        assert (profile.finding or "").startswith("TRUNCATED@15: ")


def test_a_checkpoint_of_another_chain_of_the_same_keys_does_not_vouch_for_it(
    home: Path, noted: Path
) -> None:
    with Profile.open(home) as profile:
        profile.recall(LOBBY)
        profile.checkpoint(NOW_MS)
    shutil.copy(folder(home) / "chain.db", folder(noted) / "chain.db")
    with Profile.open(noted) as profile:
        assert (profile.finding or "").startswith("REWRITTEN@0: ")


def test_checkpoints_of_one_run_build_on_each_other(noted: Path) -> None:
    with Profile.open(noted) as profile:
        memory = profile.recall(LOBBY)
        for number in range(3):
            say(profile, 100 + number)
            hear(profile, "bob", 5 + number)
            profile.checkpoint(NOW_MS)
            assert profile.balance() == 8 + number
        (bob,) = (feed for feed in memory.feeds.values() if feed.missing == [])
        assert bob.highest == 4, "what a session was given is its own"
    assert note_of(noted).head.index == profile_length(noted) - 1
    with_note = amounts_to(noted)
    that_is_gone(noted)
    assert amounts_to(noted) == with_note


def profile_length(home: Path) -> int:
    with Profile.open(home, create=False) as profile:
        return profile.verdict.index


def test_who_writes_after_a_memory_has_ended_is_read_from_the_whole_chain(noted: Path) -> None:
    later_ms = NOW_MS + FEED_LIFE_MS + 1
    with Profile.open(noted) as profile:
        profile.recall(LOBBY)
        profile.checkpoint(later_ms)
        hear(profile, "bob", 6, at_ms=later_ms)
    expected = None
    for _ in range(2):
        memory, _, _ = amounts_to(noted)
        assert [feed.missing for feed in memory.feeds.values() if feed.highest == 6] == [[(5, 5)]]
        assert expected in (None, memory)
        expected = memory
        that_is_gone(noted)
    with Profile.open(noted) as profile:
        profile.recall(LOBBY)
        profile.checkpoint(later_ms)
        hear(profile, "carol", 3, at_ms=later_ms)
        for _ in range(2):
            profile.checkpoint(later_ms)
    assert note_of(noted).past == b"", "no run stops to read a whole chain"
    assert len(amounts_to(noted)[0].feeds) == 2


@pytest.mark.parametrize("kills", [10, pytest.param(1000, marks=pytest.mark.torture)])
@pytest.mark.timeout(900)
def test_a_kill_between_blocks_and_checkpoints_is_never_taken_for_tampering(
    home: Path, tmp_path: Path, kills: int
) -> None:
    rng, work, copy = random.Random(kills), tmp_path / "work", tmp_path / "copy"
    notes: set[Head | None] = set()
    # More, where a busy machine lets hardly anybody live long enough to note something.
    for kill in takewhile(lambda kill: kill < kills or len(notes) < 2, count()):
        if kill % 20 == 0:  # a chain that grows takes ever longer to verify
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(home, work)
        kill_while_it_writes(work, rng)
        shutil.copytree(work, copy)
        assert codes(copy) == [0], kill
        shutil.rmtree(copy)
        with Profile.open(work) as profile:
            assert (profile.finding, profile.is_new) == (None, False), kill
            note, head = Checkpoint.read(profile.chain), profile.chain.head()
            assert note is None or note.head.index <= head.index, kill
            notes.add(note.head if note else None)
        assert not list(folder(work).glob("evidence-*")), kill


def kill_while_it_writes(home: Path, rng: random.Random) -> None:
    """Somebody who writes, notes and erases as fast as he can until the kernel ends him."""
    ready, tell = os.pipe()
    seed, wait_s = rng.random(), rng.uniform(0, 0.03)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork where threads are: not ours
        pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            write_for_ever(home, random.Random(seed), tell)
        os._exit(1)
    os.close(tell)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    time.sleep(wait_s)  # whatever it is in the middle of
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def write_for_ever(home: Path, rng: random.Random, tell: int) -> None:
    profile = Profile.open(home)
    os.write(tell, b".")
    while True:
        numbers = [rng.getrandbits(64) for _ in range(rng.randrange(3))]
        say(profile, *numbers)
        profile.checkpoint(NOW_MS)
        if numbers and rng.random() < 0.2:
            profile.chain.forget(profile.chain.head().index, NOW_MS)


def test_a_chain_that_cannot_be_read_gets_no_checkpoint(home: Path) -> None:
    edit_body(home)
    before = contents(home)
    with Profile.open(home, create=False) as profile:
        profile.checkpoint(NOW_MS)
    assert contents(home) == before
    with Profile.open(home) as profile:
        profile.chain.add_block(Draft(BlockType.RECEIVED, b"no entry", bytes(32)), NOW_MS)
        profile.checkpoint(NOW_MS)
        assert profile.chain.side(CHECKPOINT_TABLE) == {}


# --------------------------------------------------------------------------- found during a run


def test_a_chain_that_is_found_tampered_with_during_a_run_is_followed_in_that_run(
    noted: Path,
) -> None:
    with Profile.open(noted) as profile:
        profile.recall(LOBBY)
        old, old_id = profile.chain.head(), profile.keystore.chain_id
        kept = profile.follow("TRUNCATED@15: cut off")
        assert kept == "evidence-2.db"
        finding = "TRUNCATED@15: cut off; kept as evidence-2.db, a new chain follows"
        assert (profile.finding, profile.checked_from) == (finding, 0)
        assert (profile.verdict.ok, profile.verdict.index) == (True, 1 + IGNORED)
        genesis = profile.chain.genesis()
        assert genesis.finding == finding
        assert genesis.predecessor == (old_id, old.index, old.hash)
        assert profile.keystore.chain_id == profile.chain.head().chain_id != old_id
        assert profile.balance() == 7
        everybody = {bytes((number,)) * 32 for number in range(1, IGNORED + 1)}
        assert profile.recall(LOBBY) == Memory(ignored=everybody)
        say(profile, 21)
        profile.checkpoint(NOW_MS)
    with Profile.open(noted) as profile:
        assert (profile.finding, profile.balance()) == (None, 8)
        assert profile.checked_from == 1 + IGNORED
    assert codes(noted) == [4, 4, 0, 4, 0]


def test_a_crash_at_any_step_of_following_neither_hides_nor_doubles_what_was_found(
    home: Path, tmp_path: Path
) -> None:
    def run(home: Path) -> None:
        Profile.open(home).follow("REWRITTEN@3: bob holds another")

    work = tmp_path / "work"
    found = 0
    for step in crashes(run, work, home):
        with Profile.open(work) as profile:
            genesis = profile.chain.genesis()
            if genesis.finding:
                found += 1
                assert genesis.finding.startswith("REWRITTEN@3: "), step
                assert (folder(work) / "evidence-1.db").exists(), step
            assert profile.balance() == COINS, step
        kept = {path.name for path in folder(work).iterdir()}
        assert {"keys", "chain.db", "lock", "nick"} <= kept, step
        # Before the keys name it, a new chain is none, and who found something finds it again.
        more = {"evidence-1.db"} if genesis.finding else {"chain.new", "keys.new"}
        assert kept <= {"keys", "chain.db", "lock", "nick"} | more, step
        assert codes(work) == ([0, 4, 0] if genesis.finding else [0]), step
    assert found > 1


def test_a_following_that_cannot_be_written_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses(path: Any, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "chain.new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, mode)

    with Profile.open(home) as profile, monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        with pytest.raises(ProfileError, match="No space left"):
            profile.follow("TRUNCATED@7: cut off")
    assert codes(home) == [0]
    assert balance(home) == COINS


# --------------------------------------------------------------------------- handed over

# What this profile holds for others, whom it met, and what is about its chain alone.
HEAD_OF_BOB = SideRow(HEADS_TABLE, b"b" * 48, u64(5) + b"h" * 32 + b"s" * 64 + u64(NOW_MS))
MET_BOB = SideRow(MEMBERS_TABLE, LOBBY.tag + b"b" * 32, u64(NOW_MS) + b"bob")
ABOUT_THE_CHAIN = SideRow(FEEDS_TABLE, b"f" * 32, u64(1))
EVE, MALLORY = (bytes((number,)) * 32 for number in (1, 2))


@pytest.fixture
def social(home: Path) -> Path:
    """Somebody who ignores Eve since block 7 and Mallory since block 10."""
    with Profile.open(home) as profile:
        ignore(profile, 1)
        say(profile, 50, 51)
        profile.chain.append([], NOW_MS, [HEAD_OF_BOB, MET_BOB, ABOUT_THE_CHAIN])
        ignore(profile, 2)
        say(profile, 52)
    return home


def keeps(profile: Profile, *ignored: bytes) -> None:
    """What was handed over is there, and nothing else."""
    assert profile.recall(LOBBY).ignored == set(ignored)
    for row in (HEAD_OF_BOB, MET_BOB):
        assert profile.chain.side(row.table) == {row.key: row.value}
    assert profile.recall(LOBBY).known == {b"b" * 32: Person("bob", NOW_MS)}
    for table in (FEEDS_TABLE, ACKS_TABLE, CHECKPOINT_TABLE):
        assert profile.chain.side(table) == {}
    assert profile.chain.verify().index == 1 + len(ignored), "nothing else was carried over"


@pytest.mark.parametrize(
    ("statement", "verdict", "ignored"),
    [
        ("UPDATE blocks SET body = zeroblob(60) WHERE idx = 3", "EDITED@3", [EVE, MALLORY]),
        ("UPDATE blocks SET body = zeroblob(60) WHERE idx = 7", "EDITED@7", [MALLORY]),
        ("DELETE FROM blocks WHERE idx = 8", "MISSING@8", [EVE, MALLORY]),
        ("DELETE FROM blocks WHERE idx < 9", "MISSING@0", [MALLORY]),
        ("UPDATE blocks SET idx = 20 WHERE idx = 10", "MISSING@10", [EVE]),
        ("DELETE FROM blocks", "MISSING@0", []),
    ],
)
def test_what_concerns_others_outlives_a_chain_that_was_tampered_with(
    social: Path, statement: str, verdict: str, ignored: list[bytes]
) -> None:
    tamper(social, statement)
    for _ in range(2):
        with Profile.open(social) as profile:
            assert profile.chain.genesis().finding.startswith(f"{verdict}: ")
            keeps(profile, *ignored)


def test_what_concerns_others_outlives_a_chain_that_is_followed_during_a_run(social: Path) -> None:
    with Profile.open(social) as profile:
        for finding in (
            "TRUNCATED@12: cut off",
            "MISSING@0: a whole chain of this profile is gone",
        ):
            profile.follow(finding)
            keeps(profile, EVE, MALLORY)
        unignored = Event(EventKind.UNIGNORE, EVE)
        draft = Draft(BlockType.EVENT, unignored.serialize(), unignored.event_id)
        profile.chain.add_block(draft, NOW_MS)
        profile.follow("REWRITTEN@1: another")
        keeps(profile, MALLORY)
    assert codes(social) == [0, 4, 0, 4, 0, 4, 0]


def test_what_concerns_others_outlives_a_crash_at_any_step_of_following(
    social: Path, tmp_path: Path
) -> None:
    tamper(social, "DELETE FROM blocks WHERE idx = 8")
    work = tmp_path / "work"
    for step in crashes(Profile.open, work, social):
        with Profile.open(work) as profile:
            keeps(profile, EVE, MALLORY)
            assert profile.chain.genesis().finding.startswith("MISSING@8: "), step
        assert not list(folder(work).glob("chain.new*")), step
        assert codes(work) == [4, 4, 0], step


def test_of_a_chain_that_is_gone_there_is_nothing_to_hand_over(social: Path) -> None:
    (folder(social) / "chain.db").unlink()
    with Profile.open(social) as profile:
        assert profile.chain.verify().index == 1
        assert profile.recall(LOBBY) == Memory()
        assert profile.chain.side(HEADS_TABLE) == {}


def test_another_persons_chain_hands_over_nothing(social: Path, tmp_path: Path) -> None:
    (folder(social) / "chain.db").unlink()
    chain = Blockchain.create(folder(social) / "chain.db", keys("bob"), 1)
    event = Event(EventKind.IGNORE, EVE)
    draft = Draft(BlockType.EVENT, event.serialize(), event.event_id)
    chain.append([draft], 2, [HEAD_OF_BOB, MET_BOB])
    chain.close()
    with Profile.open(social) as profile:
        assert (profile.finding or "").startswith("REWRITTEN@0: ")
        assert profile.recall(LOBBY) == Memory()
        assert profile.chain.side(HEADS_TABLE) == {}


# --------------------------------------------------------------------------- witnesses


def test_a_head_that_the_chain_has_fits_and_others_are_findings(home: Path) -> None:
    with Profile.open(home) as profile:
        heads = []
        for number in (50, 51):
            heads.append(profile.chain.head())
            say(profile, number)
        last = profile.chain.head()
        assert [profile.compare(head, "bob#7f3a") for head in (*heads, last)] == [None] * 3
    tamper(home, "DELETE FROM blocks WHERE idx = 8")
    with Profile.open(home) as profile:
        assert profile.compare(heads[1], "bob#7f3a") is None
        cut = profile.compare(last, "bob#7f3a")
        assert cut is not None
        assert (str(cut), cut.exit_code) == ("TRUNCATED@8", 4)
        assert "bob#7f3a holds block 8" in cut.sentence
        say(profile, 52)
        rewritten = profile.compare(last, "bob#7f3a")
        assert rewritten is not None
        assert str(rewritten) == "REWRITTEN@8"


def test_a_head_of_a_chain_before_this_one_says_nothing_new(home: Path) -> None:
    heads = []
    with Profile.open(home) as profile:
        heads.append(profile.chain.head())
        for _ in range(2):
            profile.follow("TRUNCATED@7: cut off")
            heads.append(profile.chain.head())
        assert [profile.compare(head, "bob") for head in heads] == [None] * 3
    (folder(home) / "chain.db").unlink()
    with Profile.open(home) as profile:
        assert [profile.compare(head, "bob") for head in heads] == [None] * 3


def test_a_head_of_a_chain_that_is_nowhere_here_is_a_finding_once(home: Path) -> None:
    backup = shutil.copytree(home, home.with_name("backup"))
    with Profile.open(home) as profile:
        profile.follow("TRUNCATED@7: cut off")
        say(profile, 60)
        lost = profile.chain.head()
    with Profile.open(backup) as profile:
        gone = profile.compare(lost, "bob#7f3a")
        assert gone is not None
        assert (str(gone), gone.exit_code) == ("MISSING@0", 4)
        assert "bob#7f3a holds block 1 of chain" in gone.sentence
        nameless = replace(gone, who="")
        assert "bob" not in nameless.sentence
        profile.follow(f"{nameless}: {nameless.sentence}")
        assert profile.compare(lost, "carol") is None
        profile.follow("TRUNCATED@1: cut off")
        assert profile.compare(lost, "carol") is None
    assert 4 in codes(backup)


def test_a_head_that_this_profile_did_not_sign_is_refused(home: Path) -> None:
    with Profile.open(home) as profile:
        head = profile.chain.head()
        forged = head.signature[:-1] + bytes((head.signature[-1] ^ 1,))
        for other in (
            replace(head, signature=forged),
            replace(head, index=head.index + 1),
            replace(head, chain_id=b"c" * 16),
        ):
            with pytest.raises(BadSignature):
                profile.compare(other, "mallory")


# --------------------------------------------------------------------------- passphrases


def test_a_profile_with_a_passphrase_opens_with_it(sealed: Path) -> None:
    for create in (True, False):
        with Profile.open(sealed, create=create, passphrase=says(b"open sesame")) as profile:
            assert profile.balance() == COINS + 1
        wrong_first = says(b"sesame", b"", b"open sesame")
        with Profile.open(sealed, create=create, passphrase=wrong_first) as profile:
            assert profile.keystore.has_passphrase
    with Profile.open(sealed, passphrase=says(b"open sesame")) as profile:
        profile.set_passphrase(b"another")
    with Profile.open(sealed, passphrase=says(b"another")) as profile:
        profile.set_passphrase(b"")
    with Profile.open(sealed, passphrase=nobody) as profile:
        assert profile.balance() == COINS + 1


def test_without_its_passphrase_a_profile_is_one_line_and_unchanged(sealed: Path) -> None:
    before = contents(sealed)
    for give, says_what in (
        (None, "is locked with a passphrase: name a file"),
        (lambda _again: b"wrong", "that was not its passphrase"),
    ):
        for create in (True, False):
            with pytest.raises(ProfileSealed, match=says_what) as problem:
                Profile.open(sealed, "default", create=create, passphrase=give)
            assert "\n" not in str(problem.value)
    with pytest.raises(ProfileSealed, match="that was not its passphrase"):
        verify_profile(sealed, passphrase=lambda _again: b"wrong")
    assert contents(sealed) == before


def test_what_the_asking_raises_passes_through_and_lets_go_of_the_lock(sealed: Path) -> None:
    for action in (
        lambda: Profile.open(sealed, passphrase=nobody),
        lambda: verify_profile(sealed, passphrase=nobody),
    ):
        with pytest.raises(AssertionError, match="nobody is asked"):
            action()
    Profile.open(sealed, "default", passphrase=says(b"open sesame")).close()


def test_a_new_profiles_keys_never_lie_in_clear_on_the_disk(
    tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    real = chat_folder.write

    def noted(path: Path, data: bytes) -> None:
        written.append(data)
        real(path, data)

    for module in (chat_folder, chat_profile):
        monkeypatch.setattr(module, "write", noted)
    with Profile.open(tmp_path, passphrase=nobody, first=lambda: b"open sesame") as profile:
        assert (profile.is_new, profile.keystore.has_passphrase) == (True, True)
        say(profile, 1)
    secrets = keys("alice").identity.to_pkcs8(), keys("alice").chain_signing_key.seed
    assert len(written) == 2
    assert not any(secret in data for secret in secrets for data in written)
    with pytest.raises(ProfileSealed):
        Profile.open(tmp_path, first=never)
    with Profile.open(tmp_path, passphrase=says(b"open sesame"), first=never) as profile:
        assert (profile.is_new, profile.balance()) == (False, 1)


def never() -> bytes:
    raise AssertionError("nobody is asked for a new passphrase")


def test_only_of_a_profile_that_is_made_a_first_passphrase_is_asked(
    home: Path, cheap: None
) -> None:
    for create in (True, False):
        Profile.open(home, create=create, passphrase=nobody, first=never).close()
    with pytest.raises(ProfileDamaged, match="chat first"):
        Profile.open(home, "other", create=False, first=never)
    with Profile.open(home, first=never), Profile.open(home, first=lambda: b"two") as second:
        assert (second.name, second.keystore.has_passphrase) == ("default-2", True)
    with Profile.open(home, "third", first=lambda: b"") as third:
        assert not third.keystore.has_passphrase


def test_a_first_passphrase_that_cannot_be_had_makes_no_keys(tmp_path: Path, cheap: None) -> None:
    def interrupted() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Profile.open(tmp_path, first=interrupted)
    with pytest.raises(ProfileError, match="at most 4096 bytes"):
        Profile.open(tmp_path, first=lambda: b"x" * 4097)
    assert [path.name for path in folder(tmp_path).iterdir()] == ["lock"]
    Profile.open(tmp_path, "default", first=lambda: b"open sesame").close()


def test_a_crash_at_any_step_of_the_making_leaves_no_keys_in_clear(
    tmp_path: Path, cheap: None
) -> None:
    def make(home: Path) -> None:
        Profile.open(home, first=lambda: b"open sesame")

    home, secret = tmp_path / "home", keys("alice").identity.to_pkcs8()
    for step in crashes(make, home):
        assert not any(secret in data for data in contents(home).values()), step
        with Profile.open(home, passphrase=says(b"open sesame"), first=lambda: b"x") as profile:
            assert profile.keystore.has_passphrase, step
            assert profile.finding is None


def test_a_new_chain_stays_behind_the_passphrase(sealed: Path) -> None:
    tamper(sealed, "DELETE FROM blocks WHERE idx = 3")
    with Profile.open(sealed, passphrase=says(b"open sesame")) as profile:
        assert (profile.finding or "").startswith("MISSING@3")
        profile.follow("TRUNCATED@1: cut off")
    with Profile.open(sealed, passphrase=says(b"open sesame")) as profile:
        assert profile.balance() == 2
    with pytest.raises(ProfileSealed):
        Profile.open(sealed)


def test_a_crash_between_chains_is_finished_without_the_passphrase(
    sealed: Path, tmp_path: Path
) -> None:
    tamper(sealed, "DELETE FROM blocks WHERE idx = 4")
    work = tmp_path / "work"
    for _ in crashes(
        lambda home: Profile.open(home, passphrase=says(b"open sesame")), work, sealed
    ):
        assert 4 in codes(work)
        with Profile.open(work, passphrase=says(b"open sesame")) as profile:
            assert profile.balance() == 3


def test_a_passphrase_that_cannot_be_set_is_one_line_and_changes_nothing(
    home: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(home)
    with Profile.open(home) as profile:
        with pytest.raises(ProfileError, match="at most 4096 bytes"):
            profile.set_passphrase(b"x" * 4097)
        with monkeypatch.context() as patch:
            patch.setattr(chat_profile, "write", refuses_to_write)
            with pytest.raises(ProfileError, match="No space left"):
                profile.set_passphrase(b"open sesame")
        assert not profile.keystore.has_passphrase
    assert contents(home) == before


def refuses_to_write(path: Path, _data: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


# --------------------------------------------------------------------------- a chain that is gone


def test_a_chain_that_is_gone_is_said_and_followed_by_one_that_names_it(home: Path) -> None:
    chain_id = Keystore.parse((folder(home) / "keys").read_bytes()).chain_id
    (folder(home) / "chain.db").unlink()
    assert codes(home) == [4]
    with pytest.raises(ChainGone, match=r"MISSING@0: chain\.db is gone"):
        Profile.open(home, create=False)
    with Profile.open(home) as profile:
        assert profile.finding is not None
        assert profile.finding.startswith("MISSING@0: chain.db is gone")
        genesis = profile.chain.genesis()
        assert genesis.finding == profile.finding
        assert genesis.predecessor == (chain_id, 0, bytes(32))
        assert profile.balance() == 0
        assert profile.keystore.identity.fingerprint == keys("alice").identity.fingerprint
    with Profile.open(home) as profile:
        assert profile.finding is None
    assert codes(home) == [4, 0]


# --------------------------------------------------------------------------- nicks and names


def test_a_nick_is_remembered(tmp_path: Path) -> None:
    with Profile.open(tmp_path) as profile:
        profile.remember_nick("alice")
        profile.remember_nick("Zoë🎈")
    with Profile.open(tmp_path) as profile:
        assert profile.nick == "Zoë🎈"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"a b", b"a:b", b"\xff\xfe", b"x" * 33, b"/quit", "e\u0301".encode(), b"a\0b"],
)
def test_a_nick_that_cannot_be_used_is_as_none(home: Path, data: bytes) -> None:
    (folder(home) / "nick").write_bytes(data)
    with Profile.open(home) as profile:
        assert profile.nick is None
        profile.remember_nick("bob")
        assert profile.nick == "bob"


def test_a_nick_that_is_a_folder_is_as_none(home: Path) -> None:
    (folder(home) / "nick").unlink()
    (folder(home) / "nick").mkdir()
    with Profile.open(home) as profile:
        assert profile.nick is None
        with pytest.raises(ProfileError):
            profile.remember_nick("bob")


# --------------------------------------------------------------------------- no room to write


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_takes_no_writing_is_one_line_and_lets_go_of_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.open

    def refuses(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and Path(path).name != "lock":
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        with pytest.raises(ProfileError, match=os.strerror(number)):
            Profile.open(tmp_path)
    with Profile.open(tmp_path, "default") as profile:
        patch.setattr(os, "open", refuses)
        with pytest.raises(ProfileError, match=os.strerror(number)):
            profile.remember_nick("alice")
        patch.undo()


def test_a_disk_that_fills_while_the_chain_is_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses(path: Any, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "chain.new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        with pytest.raises(ProfileError, match="No space left"):
            Profile.open(tmp_path)
    with Profile.open(tmp_path) as profile:
        assert profile.finding is None


@pytest.mark.parametrize("leaves_off", ["new_chain", "finish"])
def test_a_new_chain_is_not_put_in_place_before_all_of_it_is_in_its_file(
    tmp_path: Path, leaves_off: str
) -> None:
    """Its log would stay behind, and the profile would be left with an empty chain."""
    if leaves_off == "finish":
        crash = mock.patch.object(chat_folder, "_put_in_place", side_effect=KeyboardInterrupt)
        with crash, pytest.raises(KeyboardInterrupt):
            Profile.open(tmp_path)
    failing = mock.patch.object(Blockchain, "_fold", side_effect=sqlite3.OperationalError("EIO"))
    with failing, pytest.raises(ProfileError, match="EIO"):
        Profile.open(tmp_path)
    assert not (tmp_path / "profiles" / "default" / "chain.db").exists()
    with Profile.open(tmp_path) as profile:
        assert profile.verdict.ok
        assert profile.finding is None


# --------------------------------------------------------------------------- a write that failed


def fails_to_write(profile: Profile) -> None:
    with (
        mock.patch.object(Blockchain, "_put", side_effect=sqlite3.OperationalError("disk is full")),
        pytest.raises(StoreFailed),
    ):
        profile.chain.append([], 1, [SideRow("table", b"key", b"value")])


def event(text: bytes) -> Draft:
    return Draft(BlockType.EVENT, text, bytes(32))


def test_a_chain_is_opened_again_after_a_write_that_failed(tmp_path: Path) -> None:
    with Profile.open(tmp_path) as profile:
        profile.chain.add_block(event(b"one"), 1)
        known = profile.chain.head()
        fails_to_write(profile)
        with pytest.raises(StoreFailed, match="an earlier write failed"):
            profile.chain.add_block(event(b"two"), 1)
        assert profile.reopen(known).ok
        assert profile.chain.head() == known
        profile.chain.add_block(event(b"two"), 1)
        assert profile.reopen(known).ok, "it leads on from there"
        assert profile.chain.head().index == known.index + 1


def test_a_chain_that_is_opened_again_is_wholly_on_disk_or_it_is_said_that_it_is_not(
    tmp_path: Path,
) -> None:
    """A second fsync of what a first one failed to write would say nothing."""
    with Profile.open(tmp_path) as profile:
        log = profile.path / "chain.db-wal"
        profile.chain.add_block(event(b"one"), 1)
        known = profile.chain.head()
        fails_to_write(profile)
        kept, folded = log.read_bytes(), (profile.path / "chain.db").read_bytes()
        profile.chain.close()
        log.write_bytes(kept)  # as if it could not be folded when it was closed
        (profile.path / "chain.db").write_bytes(folded)
        failing = sqlite3.OperationalError("disk I/O error")
        with (
            mock.patch.object(Blockchain, "_fold", side_effect=failing),
            pytest.raises(StoreFailed, match="disk I/O error"),
        ):
            profile.reopen(known)
        assert profile.reopen(known).ok
        assert not log.exists() or not log.read_bytes()
        assert profile.chain.head() == known


def test_a_chain_that_is_away_can_be_opened_again_when_it_is_back(tmp_path: Path) -> None:
    with Profile.open(tmp_path) as profile:
        known = profile.chain.head()
        fails_to_write(profile)
        profile.chain.close()
        path = profile.path / "chain.db"
        path.rename(profile.path / "away")
        for _ in range(2):
            with pytest.raises(StoreError, match=r"chain\.db"):
                profile.reopen(known)
        (profile.path / "away").rename(path)
        assert profile.reopen(known).ok


def test_a_chain_that_lost_its_end_meanwhile_is_found_when_it_is_opened_again(
    tmp_path: Path,
) -> None:
    with Profile.open(tmp_path) as profile:
        path = profile.path / "chain.db"
        profile.chain.settle()
        old = path.read_bytes()
        profile.chain.add_block(event(b"one"), 1)
        known = profile.chain.head()
        fails_to_write(profile)
        profile.chain.close()
        path.write_bytes(old)
        assert str(profile.reopen(known)) == f"TRUNCATED@{known.index}"
