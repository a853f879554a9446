"""The documents say what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_first_screen_has_the_two_commands_and_they_exist() -> None:
    first_screen = "\n".join(README.splitlines()[:24])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("run", "test"):
        assert re.search(rf"^make {target}\b", first_screen, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert target in makefile.split(".PHONY:")[1].splitlines()[0]


def test_every_flag_in_the_readme_exists() -> None:
    commands = ("history", "verify", "export", "passphrase")
    helps = help_of("chat_client.py") + help_of("chat_server.py")
    helps += "".join(help_of("chat_client.py", command) for command in commands)
    known = set(re.findall(r"--[a-z-]+", helps))
    used = set(re.findall(r"(?<!-)--[a-z][a-z-]*", README)) - {"--help", "--unbuffered"}  # jq's
    assert used <= known


def test_every_flag_of_the_client_is_in_the_readme() -> None:
    known = set(re.findall(r"--[a-z-]+", help_of("chat_client.py"))) - {"--help", "--version"}
    assert known <= set(re.findall(r"--[a-z][a-z-]*", README)) | {"--find"}


def test_exit_codes_are_the_same_in_help_and_readme() -> None:
    for code, word in (
        (2, "usage"),
        (3, "network"),
        (4, "tampered"),
        (5, "refused"),
        (6, "in use"),
    ):
        for text in (README, help_of("chat_client.py")):
            assert re.search(rf"\b{code} [^,.;]*{word}", text), (code, word)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_changelog_has_what_is_not_released() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_documents_name_tests_that_exist() -> None:
    named = set()
    for document in DOCUMENTS:
        named |= set(re.findall(r"`(test_\w+)`", document.read_text("utf-8")))
    written = "\n".join(path.read_text("utf-8") for path in ROOT.glob("tests/test_*.py"))
    for name in named:
        assert f"def {name}(" in written or (ROOT / "tests" / f"{name}.py").exists(), name
