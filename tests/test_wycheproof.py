"""Project Wycheproof's vectors through our own wrappers (tests/make_vectors_wycheproof.py has what
was kept, from where and why).

Each wrapper of `crypto_utils` takes a label that stands before what it hashes or signs; an empty
one makes it the plain primitive, so every vector of our parameters fits.  Two wrappers take less
than their primitive does, and the tests say so: `unwrap_key` returns keys of 32 bytes alone, and
`VerifyKey` refuses points of small order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import crypto_utils
from crypto_utils import (
    BadCiphertext,
    BadKey,
    BadSignature,
    EncryptionManager,
    Identity,
    IdentityPublic,
    VerifyKey,
    mac,
    open_sealed,
)

Vector = dict[str, Any]
VECTORS: dict[str, list[Vector]] = json.loads(
    (Path(__file__).parent / "vectors" / "wycheproof.json").read_text("ascii")
)
SMALL_ORDER = "SmallOrderPublicKey"


def vectors(name: str) -> list[Vector]:
    """With all hex as bytes; a test without a group's key has that of the test before."""
    tests, group_key = [], b""
    for row in VECTORS[name]:
        test = {
            key: bytes.fromhex(value)
            if isinstance(value, str) and key not in ("result", "comment", "flags")
            else value
            for key, value in row.items()
        }
        group_key = test.setdefault("group_key", group_key)
        tests.append(test)
    return tests


def opened_by_unwrap_key(manager: EncryptionManager, test: Vector) -> bytes | None:
    try:
        return manager.unwrap_key(test["ct"], test["label"])
    except BadCiphertext:
        return None


def opened_by_padding(manager: EncryptionManager, test: Vector) -> bytes | None:
    try:
        return bytes(manager._key.decrypt(test["ct"], crypto_utils._oaep(test["label"])))
    except ValueError:
        return None


def test_oaep_opens_what_is_right_and_no_more() -> None:
    managers: dict[bytes, EncryptionManager] = {}
    keys = 0
    for test in vectors("oaep"):
        pkcs8 = test["group_key"]
        if pkcs8 not in managers:
            managers[pkcs8] = EncryptionManager.__new__(EncryptionManager)
            managers[pkcs8]._key = Identity.from_pkcs8(pkcs8)._key
        manager, expected = managers[pkcs8], test["msg"] if test["result"] == "valid" else None
        # The padding as we set it up, for messages of any size; then what wraps it, for keys.
        assert opened_by_padding(manager, test) == expected, test["id"]
        is_key = expected is not None and len(expected) == 32
        assert opened_by_unwrap_key(manager, test) == (expected if is_key else None), test["id"]
        keys += is_key
    assert keys >= 1


def test_pss_takes_what_was_signed_and_no_more() -> None:
    for test in vectors("pss"):
        key = IdentityPublic(test["group_key"])
        if test["result"] == "valid":
            key.verify(test["sig"], b"", test["msg"])
        else:
            with pytest.raises(BadSignature):
                key.verify(test["sig"], b"", test["msg"])


def test_gcm_opens_what_was_sealed_and_no_more() -> None:
    for test in vectors("gcm"):
        sealed = test["iv"] + test["ct"] + test["tag"]
        if test["result"] == "valid":
            assert open_sealed(test["key"], sealed, test["aad"]) == test["msg"], test["id"]
        else:
            with pytest.raises(BadCiphertext):
                open_sealed(test["key"], sealed, test["aad"])


def test_gcm_seals_what_others_open() -> None:
    for test in vectors("gcm"):
        if test["result"] == "valid":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("os.urandom", lambda _, iv=test["iv"]: iv)
                sealed = crypto_utils.seal(test["key"], test["msg"], test["aad"])
            assert sealed == test["iv"] + test["ct"] + test["tag"], test["id"]


def test_hkdf_with_an_empty_salt_derives_what_others_do() -> None:
    for test in vectors("hkdf"):
        assert crypto_utils._hkdf(test["ikm"], test["info"], test["size"]) == test["okm"]


def test_hmac_is_what_hkdf_is_made_of() -> None:
    # RFC 5869: one HMAC extracts, and one a block expands.  No HMAC of Wycheproof's is kept.
    for test in vectors("hkdf"):
        extracted, made, block = mac(bytes(32), b"", test["ikm"]), b"", b""
        for number in range(1, -(-test["size"] // 32) + 1):
            block = mac(extracted, block, test["info"] + bytes((number,)))
            made += block
        assert made[: test["size"]] == test["okm"], test["id"]


def test_ed25519_takes_what_was_signed_and_no_more() -> None:
    refused_keys = 0
    for test in vectors("ed25519"):
        try:
            key = VerifyKey(test["group_key"])
        except BadKey:
            assert SMALL_ORDER in test["flags"] or test["result"] == "invalid", test["id"]
            refused_keys += 1
            continue
        assert SMALL_ORDER not in test["flags"], test["id"]
        try:
            key.verify(test["sig"], b"", test["msg"])
        except BadSignature:
            assert test["result"] != "valid", (test["id"], test["comment"])
        else:
            assert test["result"] != "invalid", (test["id"], test["comment"])
    assert refused_keys >= 8
