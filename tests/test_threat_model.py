"""docs/THREAT_MODEL.md: what it says cannot be done is shown by a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
DOCUMENT = (TESTS.parent / "docs" / "THREAT_MODEL.md").read_text("utf-8")


def test_every_test_that_the_threat_model_names_exists() -> None:
    files = {path.stem: path.read_text("utf-8") for path in TESTS.glob("test_*.py")}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(files.values()), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    assert len(named) > 20
    assert named <= functions | set(files)
