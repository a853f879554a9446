"""A verifier written from the document alone judges proof files as the vectors say."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import proof_verifier
import pytest
from proof_verifier import labelled, main, verify

VECTORS = Path(__file__).parent / "vectors" / "proof.json"
CASES: list[dict[str, Any]] = [
    case | {"file": b64decode(case["file"])}
    for case in json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
]
GOOD = [case for case in CASES if case["exit"] == 0]
SMALLEST = min((case["file"] for case in GOOD), key=len)
RICHEST = max(GOOD, key=lambda case: len(case["messages"]) + len(case["witnesses"]))["file"]


def openssl_is_there() -> bool:
    """One that has `pkeyutl -rawin`: OpenSSL 3, so not LibreSSL."""
    if shutil.which("openssl") is None:
        return False
    said = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False)
    name, _, version = said.stdout.partition(" ")
    return name == "OpenSSL" and version.partition(".")[0].isdigit() and int(version[0]) >= 3


needs_openssl = pytest.mark.skipif(
    not openssl_is_there(), reason="needs the command openssl, version 3 or newer"
)


def flipped(data: bytes, at: int) -> bytes:
    """With one bit changed, of another place in each byte."""
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def sampled_or_all(data: bytes, sample: int) -> pytest.MarkDecorator:
    """Positions in a file; all of them is for `make torture`."""
    return pytest.mark.parametrize(
        "positions",
        [
            pytest.param(range(0, len(data), len(data) // sample), id="sample"),
            pytest.param(range(len(data)), id="all", marks=pytest.mark.torture),
        ],
    )


def test_it_uses_nothing_but_the_standard_library() -> None:
    source = Path(proof_verifier.__file__).read_text(encoding="utf-8")
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or ".")
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


@needs_openssl
@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_it_agrees_with_the_vectors(case: dict[str, Any]) -> None:
    found = verify(case["file"])
    assert found.code == case["exit"], found.why
    if found.code:
        assert (found.messages, found.witnesses) == ([], [])
        return
    said = {
        "owner": [found.nick, found.fingerprint],
        "chain_id": found.chain_id.hex(),
        "blocks": len(found.blocks),
        "head": found.blocks[-1].hash.hex(),
        "messages": [[*message[:5]] for message in found.messages],
        "witnesses": sorted([*witness] for witness in found.witnesses),
        "undisclosed": found.undisclosed,
        "erased": found.erased,
        "late": found.late,
        "unseen": found.unseen,
        "forks": sorted([*author] for author in found.forks),
    }
    expected = {name: case[name] for name in said}
    for name in ("witnesses", "forks"):  # the document gives them no order
        expected[name] = sorted(expected[name])
    assert said == expected


@needs_openssl
@pytest.mark.timeout(900)
@sampled_or_all(SMALLEST, 60)
def test_no_changed_byte_is_accepted(positions: range) -> None:
    assert [at for at in positions if verify(flipped(SMALLEST, at)).code == 0] == []


@needs_openssl
@pytest.mark.timeout(900)
@sampled_or_all(RICHEST, 60)
def test_all_but_the_owners_name_is_bound_twice(
    positions: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the owner had signed the changed file: his name is all that he can change in it.
    real, last = proof_verifier.openssl_accepts, len(RICHEST) - 64

    def lenient(key: bytes, message: bytes, signature: bytes) -> bool:
        return message.startswith(labelled("proof sig", b"")) or real(key, message, signature)

    monkeypatch.setattr(proof_verifier, "openssl_accepts", lenient)
    name = range(7, 7 + int.from_bytes(RICHEST[5:7], "big"))
    accepted = {at for at in positions if verify(flipped(RICHEST, at)).code == 0}
    assert {at for at in accepted if at < last} <= set(name)


@needs_openssl
def test_it_says_what_it_found_and_exits_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.proof"
    for case in (GOOD[1], next(case for case in CASES if case["exit"] == 4), CASES[-1]):
        file.write_bytes(case["file"])
        assert main([str(file)]) == case["exit"]
        said = capsys.readouterr().out
        for message in case.get("messages", ()):
            assert f"block {message[0]}, {message[1]} {message[2]}" in said
            assert repr(message[3]) in said
        for nick, fingerprint, block, has in case.get("witnesses", ()):
            assert f"{nick} {fingerprint}: head of block {block}, {has} messages" in said
    assert main([str(tmp_path / "none.proof")]) == 6
