"""chat_folder: names, the lock, keys that are the owner's alone, and files that replace others."""

from __future__ import annotations

import errno
import fcntl
import shutil
import sys
from pathlib import Path

import pytest
from profiles import (
    COINS,
    balance,
    codes,
    folder,
    ignore,
    say,
)

from chat_folder import (
    ProfileDamaged,
    ProfileError,
    check_profile_name,
    default_home,
    next_evidence,
)
from chat_profile import Profile
from chat_verification import verify_profile

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error"),
    pytest.mark.usefixtures("quick_keys"),
]


def test_a_folder_that_knows_no_locks_is_one_line_and_not_a_search_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ProfileError, match="No locks available"):
        Profile.open(tmp_path)
    assert [path.name for path in (tmp_path / "profiles").iterdir()] == ["default"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_keys_that_others_may_use_are_refused_until_they_may_not(home: Path, mode: int) -> None:
    path = folder(home) / "keys"
    path.chmod(mode)
    for action in (lambda: Profile.open(home), lambda: verify_profile(home)):
        with pytest.raises(ProfileDamaged, match=f"can be read by others: chmod 600 {path}"):
            action()
    path.chmod(0o600)
    assert balance(home) == COINS


def test_a_copy_of_the_chain_in_use_is_not_put_in_its_place(home: Path) -> None:
    with Profile.open(home) as profile:
        expected = profile.chain.head()
    shutil.copy(folder(home) / "chain.db", folder(home) / "chain.new")
    with Profile.open(home) as profile:
        assert (profile.finding, profile.chain.head()) == (None, expected)
    assert codes(home) == [0]


def test_a_chain_with_events_of_later_alone_is_in_use_too(tmp_path: Path) -> None:
    with Profile.open(tmp_path) as profile:
        ignore(profile, 1)
    shutil.copy(folder(tmp_path) / "chain.db", folder(tmp_path) / "chain.new")
    Profile.open(tmp_path).close()
    assert not (folder(tmp_path) / "evidence-1.db").exists()


def test_what_sqlite_left_of_a_chain_that_is_gone_does_not_get_into_the_new_one(
    home: Path, tmp_path: Path
) -> None:
    with Profile.open(home) as profile:
        say(profile, 100)
        wal = (folder(home) / "chain.db-wal").read_bytes()
    assert wal
    (folder(home) / "chain.db").unlink()
    (folder(home) / "chain.db-wal").write_bytes(wal)
    for _ in range(2):
        with Profile.open(home) as profile:
            assert profile.verdict.index == 1
            assert profile.chain.verify().ok
    assert (folder(home) / "evidence-1.db-wal").read_bytes() == wal
    assert next_evidence(folder(home)).name == "evidence-2.db"


@pytest.mark.parametrize(
    "name", ["a", "default-2", "A.b_c-9", "-", "x" * 64, "console", "com10", "nul_"]
)
def test_a_name_that_can_be_a_folders_is_taken(name: str) -> None:
    assert check_profile_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "a.", "a/b", "a\\b", "../x", "a b", "ä", "x" * 65, "a\n", "a\0", "a:b"],
)
def test_a_name_that_cannot_be_a_folders_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a profile's name ") as problem:
        check_profile_name(name)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "Com1", "lpt9.x.y", "prn"])
def test_a_name_that_is_a_device_of_windows_is_refused_everywhere(name: str) -> None:
    with pytest.raises(ValueError, match="no device of Windows"):
        check_profile_name(name)


def test_the_platforms_folder_is_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    for platform, environ, expected in (
        ("linux", {}, "/h/.local/share/chainroom"),
        ("linux", {"XDG_DATA_HOME": "/x"}, "/x/chainroom"),
        ("darwin", {}, "/h/Library/Application Support/chainroom"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/chainroom"),
        ("win32", {}, "/h/AppData/Local/chainroom"),
    ):
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "platform", platform)
        assert default_home() == Path(expected)


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for home in (tmp_path / "file", tmp_path / "file" / "home", Path("/proc/nothing/home")):
        with pytest.raises(ProfileError) as problem:
            Profile.open(home)
        assert str(problem.value).startswith(f"{folder(home)} cannot be used (")
        assert "--home" in str(problem.value)
        assert "\n" not in str(problem.value)
        assert "Errno" not in str(problem.value)
    assert (tmp_path / "file").read_text() == "in the way"
