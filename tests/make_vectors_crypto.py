"""Writes tests/vectors/crypto.json: what keys, MACs and ciphertexts must be, and why.

    python tests/make_vectors_crypto.py

It imports nothing of Chainroom.  Everything is written again from docs/PROTOCOL.md and the RFCs
with hashlib, hmac and integers (AES-GCM and Argon2id alone are the library's), and nothing is
random, so that the file is the same on every run and a second implementation can be checked against
it.

A case is {"what": operation, "why": the rule, "given": its input, "expect": its result}.  Bytes are
hex.  A result that is "BadKey", "BadSignature", "BadCiphertext", "KeystoreDamaged",
"PassphraseNeeded" or "WrongPassphrase" is the error that must be raised.  None of these keys may
ever be used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

PATH = Path(__file__).parent / "vectors" / "crypto.json"

Case = dict[str, Any]

# name in `Label` → text, from docs/PROTOCOL.md 1.3
LABELS = {
    "IDENTITY": "identity",
    "OPEN_ROOM": "open room",
    "PAIR": "pair",
    "TEXT": "text",
    "ENTRY": "entry",
    "EVENT": "event",
    "ROSTER": "roster",
    "BUNDLE": "bundle",
    "BLOCK": "block",
    "SHARE_WRAP": "share",
    "KEYSTORE": "keystore",
    "INVITE": "invite",
    "SAFETY": "safety",
    "JOIN": "join",
    "ROOM_PROOF": "room proof",
    "MESSAGE_KEY": "mk",
    "CHAIN_KEY": "ck",
    "BODY_KEY": "body key",
    "SIDE_TABLE": "side table",
    "ROOM_TAG": "room tag",
    "ROOM_AUTH": "room auth",
    "ROOM_MIX": "room mix",
    "SAFETY_NUMBER": "safety number",
    "BUNDLE_SIG": "bundle sig",
    "CHAIN_CERT": "chain cert",
    "ENTRY_SIG": "entry sig",
    "SHARE_SIG": "share sig",
    "REQUEST_SIG": "key request sig",
    "REFUSAL_SIG": "key refusal sig",
    "ACK_SIG": "ack sig",
    "BLOCK_SIG": "block sig",
    "HYBRID": "hybrid",
}

# --------------------------------------------------------------------------- hashes, RFC 2104, 5869


def label(text: str) -> bytes:
    return b"chainroom/1 " + text.encode("ascii") + b"\0"


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tagged(text: str, body: bytes) -> bytes:
    return sha(label(text) + body)


def hmac_sha(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, body, hashlib.sha256).digest()


def hkdf(secret: bytes, text: str, size: int) -> bytes:
    """RFC 5869 with empty salt."""
    pseudo_random_key, block, made = hmac_sha(b"", secret), b"", b""
    while len(made) < size:
        block = hmac_sha(pseudo_random_key, block + label(text) + bytes((len(made) // 32 + 1,)))
        made += block
    return made[:size]


def stretched(name: str, size: int) -> bytes:
    """`size` bytes that look random and never change."""
    blocks = (sha(f"chainroom test {name} {i}".encode()) for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


# --------------------------------------------------------------------------- DER


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes((tag, len(body))) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body


def der_int(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(text: str) -> bytes:
    return der(6, bytes.fromhex(text))


RSA_OID = oid("2a864886f70d010101")
NULL = b"\5\0"


def spki(key: bytes, algorithm: bytes = RSA_OID + NULL) -> bytes:
    """SubjectPublicKeyInfo around the bytes of a key."""
    return der(0x30, der(0x30, algorithm), der(3, b"\0", key))


def pkcs1(modulus: int, exponent: int) -> bytes:
    return der(0x30, der_int(modulus), der_int(exponent))


# --------------------------------------------------------------------------- RSA, RFC 8017


def _prime(name: str, offset: int) -> int:
    return (int.from_bytes(stretched(name, 192), "big") | (3 << 1534) | 1) + offset


P, Q, E = _prime("q", 4680), _prime("p", 782), 65537  # the offsets were searched for; P > Q
N = P * Q
BYTES = 384


def exponent_of(e: int) -> int:
    return pow(e, -1, math.lcm(P - 1, Q - 1))


D = exponent_of(E)


def traditional(e: int) -> bytes:
    """RSAPrivateKey, RFC 8017 A.1.2."""
    d = exponent_of(e)
    fields = (0, N, e, d, P, Q, d % (P - 1), d % (Q - 1), pow(Q, -1, P))
    return der(0x30, *map(der_int, fields))


def pkcs8(e: int) -> bytes:
    return der(0x30, der_int(0), der(0x30, RSA_OID, NULL), der(4, traditional(e)))


def private(value: int) -> int:
    p, q = pow(value, D % (P - 1), P), pow(value, D % (Q - 1), Q)
    return q + (p - q) * pow(Q, -1, P) % P * Q


def mgf1(seed: bytes, size: int) -> bytes:
    blocks = (sha(seed + i.to_bytes(4, "big")) for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def pss_sign(message: bytes, salt: bytes) -> bytes:
    digest = sha(bytes(8) + sha(message) + salt)
    block = bytes(BYTES - 34 - len(salt)) + b"\1" + salt
    masked = xor(block, mgf1(digest, len(block)))
    encoded = bytes((masked[0] & 0x7F,)) + masked[1:] + digest + b"\xbc"
    return private(int.from_bytes(encoded, "big")).to_bytes(BYTES, "big")


def pss_fits(modulus: int, message: bytes, signature: bytes) -> bool:
    """Whether it is a signature with a salt of 32 bytes."""
    value = pow(int.from_bytes(signature, "big"), E, modulus).to_bytes(BYTES, "big")
    masked, digest = value[:-33], value[-33:-1]
    block = xor(masked, mgf1(digest, len(masked)))
    block = bytes((block[0] & 0x7F,)) + block[1:]
    salt = block[-32:]
    return (
        value[0] < 0x80
        and value[-1:] == b"\xbc"
        and block == bytes(len(block) - 33) + b"\1" + salt
        and digest == sha(bytes(8) + sha(message) + salt)
    )


def oaep_wrap(key: bytes, oaep_label: bytes, seed: bytes) -> bytes:
    block = sha(oaep_label) + bytes(BYTES - 66 - len(key)) + b"\1" + key
    masked = xor(block, mgf1(seed, len(block)))
    encoded = b"\0" + xor(seed, mgf1(masked, 32)) + masked
    return pow(int.from_bytes(encoded, "big"), E, N).to_bytes(BYTES, "big")


def oaep_unwrap(wrapped: bytes, oaep_label: bytes) -> bytes:
    """What was wrapped to (N, E)."""
    encoded = private(int.from_bytes(wrapped, "big")).to_bytes(BYTES, "big")
    seed = xor(encoded[1:33], mgf1(encoded[33:], 32))
    block = xor(encoded[33:], mgf1(seed, BYTES - 33))
    zeros, key = block[32:].split(b"\1", 1)
    assert encoded[0] == 0
    assert block[:32] == sha(oaep_label)
    assert not any(zeros)
    return key


# --------------------------------------------------------------------------- Ed25519, RFC 8032

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    t = _CURVE_D * a[0] * b[0] * a[1] * b[1] % PRIME
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + t, -1, PRIME) % PRIME
    return x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, -1, PRIME) % PRIME


def times(scalar: int, point: Point) -> Point:
    total = (0, 1)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


def on_curve(y: int) -> Point | None:
    """The point with this y and an even x, if there is one."""
    square = (y * y - 1) * pow(_CURVE_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    if x * x % PRIME != square:
        return None
    return (PRIME - x if x & 1 else x), y


def encoded(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def compressed(point: Point) -> bytes:
    return encoded(point[1], point[0] & 1)


def small_order_points() -> list[Point]:
    """The 8 points whose order divides 8: multiples of what is left of a point times ORDER."""
    for y in range(2, 100):
        point = on_curve(y)
        if point is not None and times(4, rest := times(ORDER, point)) != (0, 1):
            return [times(i, rest) for i in range(8)]
    raise AssertionError("half of all points leave one of order 8")


BASE = on_curve(4 * pow(5, -1, PRIME) % PRIME) or (0, 1)


def ed_public(seed: bytes) -> tuple[bytes, int, bytes]:
    """Public key, secret scalar, prefix."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
    return compressed(times(scalar, BASE)), scalar, digest[32:]


def ed_sign(seed: bytes, message: bytes) -> bytes:
    public, scalar, prefix = ed_public(seed)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    point = compressed(times(r, BASE))
    k = int.from_bytes(hashlib.sha512(point + public + message).digest(), "little") % ORDER
    return point + ((r + k * scalar) % ORDER).to_bytes(32, "little")


# --------------------------------------------------------------------------- the cases

BODY = b"the body of every hash and signature here"
KEY, SEED, MIX = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
IK = spki(pkcs1(N, E))


def case(what: str, why: str, expect: Any, **given: Any) -> Case:
    def text(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: text(field) for name, field in value.items()}
        return value.hex() if isinstance(value, bytes) else value

    return {"what": what, "why": why, "given": text(given), "expect": text(expect)}


def hashes() -> list[Case]:
    return [
        case("hash", f"the label {text}", tagged(text, BODY), label=text, body=BODY)
        for text in LABELS.values()
    ]


def rooms() -> list[Case]:
    names = {
        "lobby": "the default room",
        "Lobby": "capitals count",
        "caf\u00e9": "e with acute as one character",
        "cafe\u0301": "the same name typed as two characters: NFC makes it the same room",
        "\ufb01ka": "the ligature fi: NFC leaves it alone, NFKC would not",
    }
    cases = []
    for name, why in names.items():
        secret = tagged("open room", unicodedata.normalize("NFC", name).encode())[:16]
        keys = {"secret": secret, "tag": hkdf(secret, "room tag", 16)}
        keys |= {k: hkdf(secret, f"room {k}", 32) for k in ("auth", "mix")}
        cases.append(case("open room", why, keys, name=name))
    lobby = tagged("open room", b"lobby")[:16]
    tag = tagged("pair", lobby + KEY + SEED)[:16]
    why = "the lower fingerprint goes first"
    cases.append(case("pair tag", why, tag, secret=lobby, one=KEY, other=SEED))
    why = "whoever asks, the tag is the same"
    cases.append(case("pair tag", why, tag, secret=lobby, one=SEED, other=KEY))
    proof = hmac_sha(b"pass", label("join") + KEY + lobby + lobby + tagged("bundle", BODY))
    why = "covers nonce, room, session and bundle"
    given = {"password": b"pass", "nonce": KEY, "room_tag": lobby, "session_id": lobby}
    return [*cases, case("join proof", why, proof, bundle=BODY, **given)]


def safety_number(one: bytes, other: bytes) -> str:
    made = hkdf(tagged("safety", min(one, other) + max(one, other)), "safety number", 60)
    return " ".join(str(int(made[i : i + 5].hex(), 16))[-5:].zfill(5) for i in range(0, 60, 5))


def safety_numbers() -> list[Case]:
    number = safety_number(KEY, SEED)
    zeros = next(  # a group that starts with zeros, which print as such
        other
        for i in range(1000)
        if " 000" in safety_number(KEY, other := stretched(f"fingerprint {i}", 32))
    )
    return [
        case("safety number", "twelve groups of five digits", number, one=KEY, other=SEED),
        case("safety number", "whoever asks, it is the same", number, one=SEED, other=KEY),
        case("safety number", "zeros lead", safety_number(KEY, zeros), one=KEY, other=zeros),
    ]


def chains() -> list[Case]:
    cases, chain_key = [], KEY
    for n in range(1001):
        if n in (0, 1, 2, 1000):
            mk = hmac_sha(chain_key, label("mk") + MIX)
            why = f"{n} steps of HMAC(CK, ck), then HMAC(CK, mk and room_mix)"
            expect = {"chain_key": chain_key, "message_key": mk}
            cases.append(case("chain", why, expect, chain_key=KEY, room_mix=MIX, n=n))
        chain_key = hmac_sha(chain_key, label("ck"))
    return cases


def rsa_keys() -> list[Case]:
    odd = int.from_bytes(stretched("modulus", BYTES), "big") | 1
    key = pkcs1(N, E)
    dh = der(0x30, der_int(2**11213 - 1), der_int(2))
    p256 = bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )
    p256_oid = oid("2a8648ce3d0201") + oid("2a8648ce3d030107")
    padded = der(0x30, der_int(N), der(2, b"\0" + E.to_bytes(3, "big")))
    short = der(0x30, der(2, b"\0\x7f" + IK[34:417]), der_int(E))
    negative = der(0x30, der(2, N.to_bytes(BYTES, "big")), der_int(E))
    refused = {
        "exponent 3": spki(pkcs1(N, 3)),
        "an exponent with a leading zero": spki(padded),
        "2048 bits": spki(pkcs1(odd >> 1024 | 1 << 2047 | 1, E)),
        "3071 bits": spki(pkcs1((odd | 3 << 3070) >> 1 | 1, E)),
        "3071 bits with a zero to make up the length": spki(short),
        "4096 bits": spki(pkcs1(N << 1024 | 1, E)),
        "an even modulus": spki(pkcs1(N - 1, E)),
        "a negative modulus": spki(negative),
        "a byte behind it": IK + b"\0",
        "a byte cut off": IK[:-1],
        "nothing": b"",
        "a byte inside, behind the key": der(
            0x30, der(0x30, RSA_OID, NULL), der(3, b"\0", key), b"\0"
        ),
        "a length in more bytes than it needs": b"\x30\x83\x00" + IK[2:],
        "an indefinite length (BER)": b"\x30\x80" + IK[4:] + b"\0\0",
        "parameters left out": spki(key, RSA_OID),
        "the RSASSA-PSS identifier": spki(key, oid("2a864886f70d01010a")),
        "the RSASSA-PSS identifier with NULL": spki(key, oid("2a864886f70d01010a") + NULL),
        "the RSAES-OAEP identifier": spki(key, oid("2a864886f70d010107")),
        "a bit string with an unused bit": IK.replace(
            b"\x03\x82\x01\x8f\0", b"\x03\x82\x01\x8f\1", 1
        ),
        "PKCS #1 without SPKI around it": key,
        "PEM": b"-----BEGIN PUBLIC KEY-----\n"
        + base64.encodebytes(IK)
        + b"-----END PUBLIC KEY-----\n",
        "a private key": pkcs8(E),
        "a P-256 key": spki(p256, p256_oid),
        "an Ed25519 key": spki(ed_public(SEED)[0], oid("2b6570")),
        "a Diffie-Hellman key whose prime takes OpenSSL a minute": spki(
            der_int(4), oid("2a864886f70d010301") + dh
        ),
    }
    good = case("identity key", "RSA-3072, e = 65537, canonical", tagged("identity", IK), spki=IK)
    return [
        good,
        *(case("identity key", why, "BadKey", spki=data) for why, data in refused.items()),
    ]


def rsa_uses() -> list[Case]:
    message, own = label("bundle sig") + BODY, {"spki": IK, "label": "bundle sig", "body": BODY}
    salted = {n: pss_sign(message, stretched("salt", n)) for n in (0, 31, 32, 33)}
    good = salted[32]
    zero = pss_sign(message, stretched("salt 327", 32))  # searched for
    assert zero[0] == 0
    prefix = bytes.fromhex("3031300d060960864801650304020105000420")
    block = b"\0\1" + b"\xff" * (BYTES - 54) + b"\0" + prefix + sha(message)
    pkcs1_15 = private(int.from_bytes(block, "big")).to_bytes(BYTES, "big")

    def signature(why: str, data: bytes, expect: str = "BadSignature", **other: Any) -> Case:
        return case("identity signature", why, expect, **(own | other), signature=data)

    cases = [
        signature("PSS-SHA256, salt 32", good, "ok"),
        signature("another label", good, label="chain cert"),
        signature("another body", good, body=BODY + b"\0"),
        signature("a salt of 0 bytes", salted[0]),
        signature("a salt of 31 bytes", salted[31]),
        signature("a salt of 33 bytes", salted[33]),
        signature("PKCS #1 v1.5", pkcs1_15),
        signature("its first byte may be zero", zero, "ok"),
        signature("and is carried: 383 bytes are no signature", zero[1:]),
        signature("a zero too many", b"\0" + good),
        signature("nothing", b""),
        signature("the modulus", N.to_bytes(BYTES, "big")),
    ]
    share, hybrid = label("share"), label("hybrid")
    wrap = oaep_wrap(KEY, share, SEED)
    seeds = (stretched(f"oaep {i}", 32) for i in range(10_000))
    zero = next(w for seed in seeds if (w := oaep_wrap(KEY, share, seed))[0] == 0)
    mixed, bad = oaep_wrap(KEY, hybrid, SEED), "BadCiphertext"
    cases += [
        case("unwrap", "OAEP-SHA256 under its label", KEY, oaep_label=share, wrapped=wrap),
        case("unwrap", "another use", bad, oaep_label=hybrid, wrapped=wrap),
        case("unwrap", "no label", bad, oaep_label=b"", wrapped=wrap),
        case("unwrap", "31 bytes", bad, oaep_label=share, wrapped=oaep_wrap(KEY[:31], share, SEED)),
        case(
            "unwrap", "33 bytes", bad, oaep_label=share, wrapped=oaep_wrap(KEY + b"\0", share, SEED)
        ),
        case("unwrap", "its first byte may be zero", KEY, oaep_label=share, wrapped=zero),
        case("unwrap", "and is carried", bad, oaep_label=share, wrapped=zero[1:]),
        case(
            "unwrap",
            "as large as the modulus",
            bad,
            oaep_label=share,
            wrapped=N.to_bytes(BYTES, "big"),
        ),
    ]
    nonce = KEY[:12]
    sealed = nonce + AESGCM(KEY).encrypt(nonce, BODY, MIX)
    whole = mixed + nonce + AESGCM(KEY).encrypt(nonce, BODY, mixed)
    unbound = mixed + nonce + AESGCM(KEY).encrypt(nonce, BODY, b"")
    why = "nonce, ciphertext, tag"
    return [
        *cases,
        case("open", why, BODY, key=KEY, associated=MIX, sealed=sealed),
        case("open", "other associated data", bad, key=KEY, associated=b"", sealed=sealed),
        case("open", "another key", bad, key=SEED, associated=MIX, sealed=sealed),
        case("open", "no room for a tag", bad, key=KEY, associated=MIX, sealed=sealed[:27]),
        case(
            "open",
            "AES-128 is not in the suite",
            "BadKey",
            key=nonce + nonce[:4],
            sealed=sealed,
            associated=MIX,
        ),
        case("decrypt", "the wrap is the associated data", BODY, data=whole),
        case("decrypt", "the wrap is not covered", bad, data=unbound),
        case("decrypt", "a key share is no message", bad, data=wrap + whole[BYTES:]),
        case("decrypt", "the wrap alone", bad, data=mixed),
        case("decrypt", "nothing", bad, data=b""),
    ]


def session_keys() -> list[Case]:
    public, good = ed_public(SEED)[0], ed_sign(SEED, label("entry sig") + BODY)
    own = {"public": public, "label": "entry sig", "body": BODY}
    high = int.from_bytes(good[32:], "little") + ORDER
    given = {"seed": SEED, "label": "entry sig", "body": BODY}
    expect = {"public": public, "signature": good}
    refused = {f"small order, {p[1] % 1000} mod 1000": compressed(p) for p in small_order_points()}
    refused |= {
        "y = p + 2: another name for y = 2": encoded(PRIME + 2, 0),
        "31 bytes": public[:31],
        "33 bytes": public + b"\0",
        "nothing": b"",
    }

    def signature(why: str, data: bytes, expect: str = "BadSignature", **other: Any) -> Case:
        return case("session signature", why, expect, **(own | other), signature=data)

    return [
        case("session key", "Ed25519 over label and body", expect, **given),
        signature("as made", good, "ok"),
        signature("another label", good, label="share sig"),
        signature("another body", good, body=BODY + b"\0"),
        signature("S + L is the same S by another name", good[:32] + high.to_bytes(32, "little")),
        signature("63 bytes", good[:63]),
        signature("65 bytes", good + b"\0"),
        signature("nothing", b""),
        *(case("verify key", why, "BadKey", public=data) for why, data in refused.items()),
    ]


def keystore_of(
    key: bytes, magic: bytes = b"CRK1", kdf: int = 0, chain_id: bytes = KEY[:16]
) -> bytes:
    body = magic + bytes((kdf,)) + len(key).to_bytes(2, "big") + key + SEED + MIX + chain_id
    return body + tagged("keystore", body)


@cache
def argon2id(passphrase: bytes, salt: bytes, cost: tuple[int, ...]) -> bytes:
    memory_kib, iterations, lanes = cost
    made = Argon2id(
        salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    )
    return made.derive(passphrase)


PASSPHRASE = "drei Möwen".encode()  # ö is U+00F6: in NFC


def locked_keystore_of(
    key: bytes,
    *,
    cost: tuple[int, ...] = (64 * 1024, 3, 4),
    spki: bytes = IK,
    seed: bytes = SEED,
    chain_id: bytes = KEY[:16],
    more: bytes = b"",
    sealed: bytes | None = None,
    altered: bytes = b"",
) -> bytes:
    """A keystore behind PASSPHRASE.

    Args:
        more: stands behind the private keys.
        sealed: what stands in the place of nonce ‖ ciphertext.
        altered: a chain_id put there afterwards, so that the tag does not fit.
    """
    salt, nonce = stretched("salt", 16), stretched("nonce", 12)
    sizes = (4, 4, 1)
    body = b"CRK1\1" + b"".join(v.to_bytes(n, "big") for v, n in zip(cost, sizes, strict=True))
    body += salt + len(spki).to_bytes(2, "big") + spki + ed_public(SEED)[0] + chain_id
    if sealed is None:
        private = len(key).to_bytes(2, "big") + key + seed + MIX + more
        made = argon2id(PASSPHRASE, salt, cost)
        sealed = nonce + AESGCM(made).encrypt(nonce, private, body)
    body = body[: -len(altered)] + altered if altered else body
    body += len(sealed).to_bytes(2, "big") + sealed
    return body + tagged("keystore", body)


def keystores() -> list[Case]:
    good, small_e = (
        pkcs8(E),
        next(e for e in range(3, 99, 2) if math.gcd(e, (P - 1) * (Q - 1)) == 1),
    )
    keys = {"spki": IK, "seed": SEED, "data_key": MIX, "chain_id": KEY[:16]}
    whole, locked = keystore_of(good), locked_keystore_of(good)
    refused = {
        "another magic": keystore_of(good, magic=b"CRK2"),
        "an unknown key derivation": keystore_of(good, kdf=2),
        "an identity key with a small exponent": keystore_of(pkcs8(small_e)),
        "an identity key in the traditional encoding": keystore_of(traditional(E)),
        "no identity key": keystore_of(b""),
        "a checksum that does not fit": whole[:-1] + bytes((whole[-1] ^ 1,)),
        "a byte behind it": whole + b"\0",
        "a byte cut off": whole[:-1],
        "nothing": b"",
    }
    least, most = (64 * 1024, 3, 4), (1024 * 1024, 16, 8)
    none = bytes(28)  # that cost is refused before anything is derived, or takes too long here
    refused_locked = {
        "locked, a checksum that does not fit": locked[:-1] + bytes((locked[-1] ^ 1,)),
        "locked, a flipped bit of the ciphertext is no wrong passphrase": (
            locked[:-40] + bytes((locked[-40] ^ 1,)) + locked[-39:]
        ),
        "locked, a byte cut off": locked[:-1],
        "locked, a byte behind the private keys": locked_keystore_of(good, more=b"\0"),
        "locked, no public key": locked_keystore_of(good, spki=b"", sealed=none),
        "locked, another chain key than the public one": locked_keystore_of(good, seed=KEY),
        **{
            f"locked, {what} {way}": locked_keystore_of(
                good, cost=(*bound[:i], bound[i] + step, *bound[i + 1 :]), sealed=none
            )
            for way, bound, step in (("too low", least, -1), ("too high", most, 1))
            for i, what in enumerate(("memory", "iterations", "lanes"))
        },
    }
    why = "a chain_id that was altered is not told from a wrong passphrase"
    altered = locked_keystore_of(good, altered=SEED[:16])
    return [
        case("keystore", "all four keys", keys, data=whole),
        *(case("keystore", why, "KeystoreDamaged", data=data) for why, data in refused.items()),
        case("keystore", "locked, all four keys", keys, data=locked, passphrase=PASSPHRASE),
        case("keystore", "locked, nobody is asked", "PassphraseNeeded", data=locked),
        case(
            "keystore",
            "locked, another passphrase",
            "WrongPassphrase",
            data=locked,
            passphrase="drei Mo\u0308wen".encode(),  # what reads it makes that NFC
        ),
        case("keystore", f"locked, {why}", "WrongPassphrase", data=altered, passphrase=PASSPHRASE),
        *(
            case("keystore", why, "KeystoreDamaged", data=data, passphrase=PASSPHRASE)
            for why, data in refused_locked.items()
        ),
    ]


def build() -> dict[str, Any]:
    """What is in the file."""
    keys = (chains, rsa_keys, rsa_uses, session_keys, keystores)
    parts = (hashes, rooms, safety_numbers, *keys)
    return {
        "about": "Made by tests/make_vectors_crypto.py, which says how to read it.",
        "identity_pkcs8": pkcs8(E).hex(),
        "cases": [made for part in parts for made in part()],
    }


def text() -> str:
    """The file."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="ascii")
