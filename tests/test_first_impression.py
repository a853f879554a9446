"""What somebody meets first: manual pages, completions, the conversation that the README shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from processes import ROOT
from two_terminals import Stage, first_conversation, with_placeholders

PAGES = sorted(ROOT.glob("man/*"))
COMPLETIONS = sorted(ROOT.glob("contrib/completions/*/*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --------------------------------------------------------------------------- the wrong Python


def test_a_python_without_cryptography_is_told_which_one_has_it() -> None:
    """As the system's own is, with which people paste what a relay prints for them."""
    command = [sys.executable, "-S", "chat_client.py", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"chainroom: [^\n]*make install[^\n]*\n", done.stderr)


# --------------------------------------------------------------------------- man pages, completions


def test_man_pages_and_completions_are_what_the_parsers_say(tmp_path: Path) -> None:
    script = ROOT / "docs" / "make_man_and_completions.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=60)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)) for path in made} == {
        name(path) for path in PAGES + COMPLETIONS
    }
    for path in made:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text("utf-8") == path.read_text("utf-8"), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_man_page_has_a_fault(page: Path) -> None:
    if shutil.which("mandoc"):
        command = ["mandoc", "-T", "lint", "-W", "style", str(page)]
    elif shutil.which("groff"):
        command = ["groff", "-man", "-ww", "-z", str(page)]
    else:
        pytest.skip("neither mandoc nor groff is here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("script", COMPLETIONS, ids=name)
def test_each_shell_reads_its_completions(script: Path) -> None:
    shell = script.parent.name
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here")
    done = subprocess.run([shell, "-n", script], capture_output=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)


def offered(*words: str) -> list[str]:
    """What bash offers behind a command line."""
    script = f"""
        source '{ROOT}/contrib/completions/bash/{words[0]}'
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_{words[0].replace("-", "_")}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
def test_tab_offers_commands_flags_and_what_may_follow_them() -> None:
    assert offered("chainroom", "ver") == ["verify"]
    assert offered("chainroom", "verify", "--q") == ["--quick"]
    assert offered("chainroom", "--time", "") == ["off", "hm", "hms", "iso"]
    assert offered("chainroom", "export", "--format", "j") == ["jsonl"]
    assert offered("chainroom", "verify", "READ") == ["README.md"]
    assert offered("chainroom-server", "--log-format", "") == ["text", "json"]


def test_an_installation_brings_man_pages_and_completions() -> None:
    patterns = [p for group in PROJECT["tool"]["setuptools"]["data-files"].values() for p in group]
    brought = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert brought == {*PAGES, *COMPLETIONS}


# --------------------------------------------------------------------------- nobody sees the server


def test_what_the_faq_quotes_is_what_the_programs_say() -> None:
    said = "".join(path.read_text("utf-8") for path in ROOT.glob("*.py"))
    said = re.sub(r'"\s+f?"', "", said)  # a text that goes on in the next line
    faq = (ROOT / "docs" / "FAQ.md").read_text("utf-8")
    quoted = re.findall(r"^\| `([^`]*)`", faq, re.MULTILINE)
    assert len(quoted) > 5
    for words in quoted:
        for part in words.split("…"):
            assert part.strip() in said, words


# --------------------------------------------------------------------------- the conversation


def written_transcripts() -> dict[str, str]:
    """Those of the README, by the window that each is of."""
    marked = r"<!-- transcript: ([^\n]*) -->\n```console\n(.*?)\n```\n<!-- end -->"
    return dict(re.findall(marked, (ROOT / "README.md").read_text("utf-8"), re.DOTALL))


def test_conversation_in_the_readme_is_what_happens() -> None:
    """Held anew, by real processes on real terminals; ten seconds, in most of which they wait."""
    with Stage() as stage:
        windows = first_conversation(stage)
        said = {name: window.transcript() for name, window in windows.items()}
    # Else a README that is made anew could follow the program wherever that goes.
    assert re.search(r"^-- bob is verified", said["alice"], re.MULTILINE)
    assert re.search(r"^!! KEY CHANGED: bob#\w+ has another key than bob#", said["alice"], re.M)
    assert "the door code is 4711" in said["bob's new laptop"]
    assert "the door code is 4711" not in said["bob"]
    written = written_transcripts()
    assert set(written) == set(said)
    for name, text in said.items():
        assert with_placeholders(written[name]) == with_placeholders(text), "run: make docs"


def test_picture_of_the_conversation_is_small_and_needs_nothing_else() -> None:
    picture = ROOT / "docs" / "conversation.svg"
    assert picture.stat().st_size < 100_000
    text = picture.read_text("utf-8")
    kinds = {element.tag.rpartition("}")[2] for element in ET.fromstring(text).iter()}
    assert kinds <= {"svg", "title", "desc", "style", "g", "rect", "path", "text"}
    assert not re.search(r"url\(|@import|href", text)
