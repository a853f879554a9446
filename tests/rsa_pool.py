"""RSA keys for those who need any: made once a run, for all workers of it.

A key takes a fifth of a second to make, and no test depends on which it has, so long as no two are
the same.  What proves that the program makes keys has them made (`test_crypto_utils`).

    keystore = pooled(Keystore.generate)
"""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "CHAINROOM_TEST_KEYS"  # the environment's; whoever runs pytest makes and removes it
AnyKeys = TypeVar("AnyKeys")
_generate = rsa.generate_private_key
_numbers = count()  # of this worker: its n-th key is that of all others too


def pooled(make: Callable[[], AnyKeys]) -> AnyKeys:
    """What it makes, with a key from the pool where it would make one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa, "generate_private_key", _next)
        return make()


def _next(exponent: int, bits: int) -> rsa.RSAPrivateKey:
    path = Path(os.environ[FOLDER], f"{bits}-{next(_numbers)}")
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # others wait while one makes it
        file.seek(0)
        if data := file.read():
            key = load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True)
            assert isinstance(key, rsa.RSAPrivateKey)
            return key
        key = _generate(exponent, bits)
        file.write(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return key
