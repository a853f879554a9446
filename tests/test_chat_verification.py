"""chat_verification: every file of a profile is checked, and what was not is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from profiles import (
    NOW_MS,
    balance,
    codes,
    delete,
    edited,
    folder,
    garbage,
    hear,
    meet,
    say,
    says,
    talk_and_note,
    tamper,
)

from blockchain import BlockType, Draft
from chat_profile import Profile
from chat_verification import verify_profile

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error"),
    pytest.mark.usefixtures("quick_keys"),
]


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Of somebody with evidence, and a chain with a checkpoint."""
    return talk_and_note(tmp_path / "noted")


def test_evidence_that_cannot_be_read_is_said_and_outweighs_nothing(home: Path) -> None:
    delete(home)
    with Profile.open(home) as profile:
        say(profile, 50)
    garbage(folder(home) / "evidence-1.db")
    assert codes(home) == [6, 4, 0]
    assert balance(home) == 1


def test_a_damaged_chain_does_not_hide_what_is_known_of_the_one_before(home: Path) -> None:
    delete(home)
    Profile.open(home).close()
    garbage(folder(home) / "chain.db")
    assert codes(home) == [4, 6]


def test_what_a_passphrase_does_not_hide_is_verified_without_it_and_says_so(sealed: Path) -> None:
    (found,) = verify_profile(sealed, deep=True)
    assert found.exit_code == 0
    assert "texts and authors were not checked: that needs the passphrase" in found.text
    tamper(sealed, "DELETE FROM blocks WHERE idx = 3")
    Profile.open(sealed, passphrase=says(b"open sesame")).close()
    assert codes(sealed) == [4, 4, 0]
    edited(sealed, 0)
    assert codes(sealed) == [4, 4, 4]


def test_who_wrote_what_is_checked_where_that_is_asked_for(noted: Path, home: Path) -> None:
    assert codes(home) == [0]
    (found,) = verify_profile(home)
    assert "of the signatures only the last one was checked" in found.text
    (found,) = verify_profile(home, deep=True)  # texts that nobody signed
    assert (found.exit_code, found.text.split(":")[0]) == (4, "BADAUTHOR@1")
    with Profile.open(noted) as profile:
        profile.follow("TRUNCATED@15: cut off")
        meet(profile, "bob")
        hear(profile, "bob", 1, 2)
    found = verify_profile(noted, deep=True)[-1]
    assert found.exit_code == 0
    assert "not checked" not in found.text


def test_progress_is_told_for_each_file_up_to_its_end(noted: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with Profile.open(noted) as profile:
        drafts = [Draft(BlockType.CONTROL, b"", bytes(32))] * 2500
        profile.chain.append(drafts, NOW_MS)
    verify_profile(noted, deep=True, progress=lambda *done: told.append(done))
    assert {what for what, _, _ in told} <= {"evidence-1.db", "chain.db", "chain.db, authors"}
    assert [done for what, done, _ in told if what == "chain.db"][:2] == [1000, 2000]
    assert all(0 < done <= blocks for _, done, blocks in told)
