"""Writes tests/vectors/messages.json: frames, bundles, payloads and entries, good and bad, and why.

    python tests/make_vectors_messages.py

It imports nothing of Chainroom.  Everything is written again from docs/PROTOCOL.md (Ed25519 and
AES-GCM alone are the library's), and nothing is random, so that the file is the same on every run
and a second client or relay can be checked against it.

A case is {"what": operation, "why": the rule, "given": its input, "expect": its result}; one that
docs/PROTOCOL.md shows has its title there as "name".  Bytes are hex, in which (61*300) stands for
the byte 61 three hundred times.  A result that is the name of an error ("Malformed",
"BadSignature", ...) is the error that must be raised.  "members" has the keys of the two who speak.
None of these keys may ever be used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import make_vectors_crypto as base
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from make_vectors_crypto import der, der_int, hkdf, hmac_sha, label, mgf1, sha, stretched, tagged

PATH = Path(__file__).parent / "vectors" / "messages.json"

Case = dict[str, Any]

FRAMES = {
    "HELLO": 1,
    "JOIN": 2,
    "WELCOME": 3,
    "ADD": 4,
    "DEL": 5,
    "REBUNDLE": 6,
    "BROADCAST": 7,
    "DIRECT": 8,
    "PING": 9,
    "PONG": 10,
    "ERROR": 11,
}
KEY_SHARE, KEY_REQUEST, MESSAGE, ACK, WITNESS, SYNC, KEY_REFUSAL = range(1, 8)
CHAT, AUDIENCE = 1, 2
SIG_LABELS = {
    KEY_SHARE: "share sig",
    KEY_REQUEST: "key request sig",
    KEY_REFUSAL: "key refusal sig",
    ACK: "ack sig",
    WITNESS: "witness sig",
    SYNC: "sync sig",
}
ASK, GAINED, FETCH, ENTRIES, ASK_LATER = range(1, 6)

# --------------------------------------------------------------------------- keys


class Rsa:
    """RSA-3072, e = 65537, with salts and seeds that are given (RFC 8017)."""

    def __init__(self, p: int, q: int) -> None:
        self.p, self.q = max(p, q), min(p, q)
        self.n, e = p * q, base.E
        d = pow(e, -1, math.lcm(p - 1, q - 1))
        self.dp, self.dq = d % (self.p - 1), d % (self.q - 1)
        self.q_inverse = pow(self.q, -1, self.p)
        numbers = (0, self.n, e, d, self.p, self.q, self.dp, self.dq, self.q_inverse)
        key = der(0x30, *map(der_int, numbers))
        self.pkcs8 = der(0x30, der_int(0), der(0x30, base.RSA_OID, base.NULL), der(4, key))
        self.spki = base.spki(base.pkcs1(self.n, e))

    def sign(self, text: str, body: bytes) -> bytes:
        """PSS-SHA256 over label ‖ body, with a salt that the body decides."""
        salt = sha(b"salt" + body)
        digest = sha(bytes(8) + sha(label(text) + body) + salt)
        block = bytes(base.BYTES - 66) + b"\1" + salt
        masked = base.xor(block, mgf1(digest, len(block)))
        value = int.from_bytes(bytes((masked[0] & 0x7F,)) + masked[1:] + digest + b"\xbc", "big")
        p, q = pow(value, self.dp, self.p), pow(value, self.dq, self.q)
        return (q + (p - q) * self.q_inverse % self.p * self.q).to_bytes(base.BYTES, "big")

    def wrap(self, key: bytes, oaep_label: bytes) -> bytes:
        """OAEP-SHA256, with a seed that the label decides."""
        seed = sha(b"seed" + oaep_label)
        block = sha(oaep_label) + bytes(base.BYTES - 66 - len(key)) + b"\1" + key
        masked = base.xor(block, mgf1(seed, len(block)))
        encoded = b"\0" + base.xor(seed, mgf1(masked, 32)) + masked
        return pow(int.from_bytes(encoded, "big"), base.E, self.n).to_bytes(base.BYTES, "big")


def rsa(name: str, p_offset: int, q_offset: int) -> Rsa:
    """The offsets were searched for."""
    p, q = (
        (int.from_bytes(stretched(f"{name} {which}", 192), "big") | (3 << 1534) | 1) + offset
        for which, offset in (("p", p_offset), ("q", q_offset))
    )
    return Rsa(p, q)


class Ed:
    """An Ed25519 key (RFC 8032; deterministic, make_vectors_crypto has the arithmetic)."""

    def __init__(self, name: str) -> None:
        self.seed = stretched(name, 32)
        self._key = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, text: str, body: bytes) -> bytes:
        return self._key.sign(label(text) + body)


class Member:
    """Somebody's keys."""

    def __init__(self, name: str, ik: Rsa, sek: Rsa) -> None:
        self.name, self.ik, self.sek = name, ik, sek
        self.ssk, self.csk = Ed(f"{name} ssk"), Ed(f"{name} csk")
        self.chain_id = stretched(f"{name} chain", 16)
        self.fingerprint = tagged("identity", ik.spki)
        self.session_id = tagged("session", self.fingerprint + self.ssk.public)[:16]


ROOM = tagged("open room", b"lobby")[:16]
TAG, AUTH, MIX = hkdf(ROOM, "room tag", 16), hkdf(ROOM, "room auth", 32), hkdf(ROOM, "room mix", 32)
OTHER_ROOM = tagged("open room", b"another")[:16]
ALICE = Member("alice", Rsa(base.P, base.Q), rsa("alice sek", 150, 3468))
BOB = Member("bob", rsa("bob ik", 1340, 1124), rsa("bob sek", 1098, 1514))
# Alice's SEK number 2: of a public key nobody asks whether its modulus has two factors.
NEXT_SEK = base.spki(
    base.pkcs1(int.from_bytes(stretched("sek 2", 384), "big") | 1 << 3071 | 1, 65537)
)
PAIR = tagged("pair", ROOM + b"".join(sorted((ALICE.fingerprint, BOB.fingerprint))))[:16]
NOW = 1_700_000_000_000
CHAIN_KEYS = [stretched("chain key", 32)]
while len(CHAIN_KEYS) < 1003:
    CHAIN_KEYS.append(hmac_sha(CHAIN_KEYS[-1], label("ck")))

# --------------------------------------------------------------------------- encoding


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def prefixed(data: bytes) -> bytes:
    return u16(len(data)) + data


def flipped(data: bytes, at: int = -1) -> bytes:
    at %= len(data)
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def to_hex(data: bytes) -> str:
    """Hex; a byte that comes 24 times or more in a row is (xx*times)."""
    parts = []
    for value, run in groupby(data):
        count = len(list(run))
        parts.append(f"({value:02x}*{count})" if count >= 24 else f"{value:02x}" * count)
    return "".join(parts)


def from_hex(text: str) -> bytes:
    """What `to_hex` wrote."""
    return bytes.fromhex(re.sub(r"\((..)\*(\d+)\)", lambda m: m[1] * int(m[2]), text))


def case(what: str, why: str, expect: Any, name: str = "", **given: Any) -> Case:
    def text(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: text(field) for key, field in value.items()}
        if isinstance(value, (list, tuple)):
            return [text(item) for item in value]
        return to_hex(value) if isinstance(value, bytes) else value

    made = {"what": what, "why": why, "given": text(given), "expect": text(expect)}
    return {"name": name} | made if name else made


# --------------------------------------------------------------------------- values


def bundle(
    who: Member,
    *,
    version: int = 1,
    room: bytes = ROOM,
    tag: bytes | None = None,
    spki: bytes | None = None,
    nick: bytes | None = None,
    session_id: bytes | None = None,
    ssk: bytes | None = None,
    number: int = 1,
    sek: bytes | None = None,
    chain_id: bytes | None = None,
    csk: bytes | None = None,
    proof: bytes | None = None,
    proof_of: bytes = b"",
    sig_label: str = "bundle sig",
    signer: Rsa | None = None,
) -> bytes:
    """PROTOCOL.md 3.1."""
    body = bytes((version,)) + (tag or hkdf(room, "room tag", 16)) + prefixed(spki or who.ik.spki)
    body += prefixed(who.name.encode() if nick is None else nick)
    ssk = ssk or who.ssk.public
    of_both = tagged("session", tagged("identity", spki or who.ik.spki) + ssk)
    body += (session_id or of_both[:16]) + ssk + u32(number)
    body += prefixed(sek or who.sek.spki) + (chain_id or who.chain_id) + (csk or who.csk.public)
    auth = proof_of or hkdf(room, "room auth", 32)
    body += proof or hmac_sha(auth, label("room proof") + body)
    return body + (signer or who.ik).sign(sig_label, body)


def head(
    text: bytes,
    *,
    version: int = 1,
    kind: int = CHAT,
    tag: bytes = TAG,
    session_id: bytes = ALICE.session_id,
    seq: int = 1,
    previous: bytes = bytes(32),
    seen: bytes = bytes(32),
    salt: bytes = b"",
) -> bytes:
    """PROTOCOL.md 3.5."""
    fields = bytes((version, kind)) + tag + session_id + u64(seq) + previous + seen
    return fields + u64((NOW + seq) % 2**64) + tagged("text", (salt or salt_of(seq)) + text)


def salt_of(seq: int) -> bytes:
    return stretched(f"salt {seq}", 16)


def entry(
    text: bytes, *, signer: Ed = ALICE.ssk, sig_label: str = "entry sig", **fields: Any
) -> bytes:
    """head ‖ salt ‖ text ‖ signature."""
    made, salt = head(text, **fields), fields.get("salt") or salt_of(fields.get("seq", 1))
    return made + salt + prefixed(text) + signer.sign(sig_label, made)


def padded(data: bytes) -> bytes:
    size = next((s for s in (256, 512) if len(data) <= s), -(-len(data) // 1024) * 1024)
    return data + bytes(size - len(data))


def signed(
    kind: int,
    fields: bytes,
    who: Member = ALICE,
    *,
    session_id: bytes = b"",
    signer: Ed | None = None,
    sig_label: str = "",
) -> bytes:
    """version ‖ kind ‖ session_id ‖ fields ‖ signature."""
    body = bytes((1, kind)) + (session_id or who.session_id) + fields
    return body + (signer or who.ssk).sign(sig_label or SIG_LABELS[kind], body)


def message(
    plaintext: bytes,
    n: int,
    *,
    epoch: int = 1,
    tag: bytes = TAG,
    session_id: bytes = ALICE.session_id,
    mix: bytes = MIX,
) -> bytes:
    """PROTOCOL.md 3.6."""
    header = bytes((1, MESSAGE)) + session_id + tag + u32(epoch) + u32(n)
    key, nonce = hmac_sha(CHAIN_KEYS[n], label("mk") + mix), stretched(f"nonce {n}", 12)
    return header + nonce + AESGCM(key).encrypt(nonce, plaintext, header)


def share_fields(
    *,
    session_id: bytes = ALICE.session_id,
    tag: bytes = TAG,
    epoch: int = 1,
    n: int = 0,
    first_seq: int = 1,
    recipient: bytes = BOB.session_id,
    number: int = 1,
    bound: bytes | None = None,
    to: Rsa = BOB.sek,
) -> bytes:
    """What stands between the session_id and the signature of a key share (PROTOCOL.md 3.3)."""
    fields = tag + u32(epoch) + u32(n) + u64(first_seq) + recipient + u32(number)
    before = bytes((1, KEY_SHARE)) + session_id + fields if bound is None else bound
    return fields + to.wrap(CHAIN_KEYS[n], tagged("share", before))


def block_hash(who: Member) -> bytes:
    """Of block 7 of somebody's chain."""
    return stretched(f"{who.name} block", 32)


def report(
    seq: int,
    entry_id: bytes,
    missing: tuple[int, ...] = (),
    who: Member = ALICE,
    witnessed: tuple[int, bytes] | None = None,
) -> bytes:
    """A feed in an ack; its author's block 7 is known if nothing else is said."""
    index, its_hash = witnessed or (7, block_hash(who))
    body = who.session_id + u64(seq) + entry_id + u16(len(missing)) + b"".join(map(u64, missing))
    return body + u64(index) + its_hash


def chain_head(who: Member, signer: Ed | None = None, its_hash: bytes = b"") -> bytes:
    """What an ack says of the acker's chain, and a witness of the recipient's."""
    body = who.chain_id + u64(7) + (its_hash or block_hash(who))
    return body + (signer or who.csk).sign("block sig", body)


def witness_fields(
    tag: bytes = TAG, recipient: bytes = ALICE.session_id, head: bytes = b""
) -> bytes:
    """What stands between the session_id and the signature of a witness (PROTOCOL.md 3.10)."""
    return tag + recipient + (head or chain_head(ALICE))


def sync_range(first: int = 1, last: int = 2, who: Member = ALICE, tag: bytes = TAG) -> bytes:
    """PROTOCOL.md 3.11."""
    return tag + who.session_id + u64(first) + u64(last)


def body(kind: int, fields: bytes, *, size: int = -1, padding: bytes | None = None) -> bytes:
    """PROTOCOL.md 3.11: what a SYNC has inside; `size` is what it says of its fields."""
    data = bytes((kind,)) + u32(len(fields) if size < 0 else size) + fields
    return data + (bytes(-len(data) % 1024) if padding is None else padding)


def hybrid(data: bytes, to: Rsa, oaep_label: bytes = b"") -> bytes:
    """PROTOCOL.md 3.8, with a key and a nonce that the data decides."""
    key, nonce = sha(b"hybrid key" + data), sha(b"hybrid nonce" + data)[:12]
    wrap = to.wrap(key, oaep_label or label("hybrid"))
    return wrap + nonce + AESGCM(key).encrypt(nonce, data, wrap)


def sync_fields(
    sealed: bytes,
    *,
    tag: bytes = TAG,
    recipient: Member = ALICE,
    request_id: bytes = b"",
    number: int = 1,
    size: int = -1,
) -> bytes:
    """What stands between the session_id and the signature of a question or answer."""
    fields = tag + recipient.session_id + (request_id or REQUEST_ID) + u32(number)
    return fields + u32(len(sealed) if size < 0 else size) + sealed


def ack(*reports: bytes, number: int = 1, count: int = -1, head: bytes = b"") -> bytes:
    """PROTOCOL.md 3.7, of Bob."""
    fields = TAG + u32(number) + roster(ALICE, BOB)
    fields += u16(len(reports) if count < 0 else count) + b"".join(reports)
    fields += head or chain_head(BOB)
    return signed(ACK, fields, BOB)


def roster(*members: Member) -> bytes:
    items = sorted(m.session_id + m.fingerprint + m.ssk.public for m in members)
    return tagged("roster", b"".join(items))


def frame(name: str, body: bytes) -> bytes:
    """PROTOCOL.md 2.1."""
    return u32(1 + len(body)) + bytes((FRAMES[name],)) + body


ALICES, BOBS = bundle(ALICE), bundle(BOB)
ALICES_NEXT = bundle(ALICE, number=2, nick=b"alice2", sek=NEXT_SEK)
NAMED = b"".join(sorted((ALICE.fingerprint[:16], BOB.fingerprint[:16])))
FIRST = entry(NAMED, kind=AUDIENCE)
FIRST_ID = tagged("entry", FIRST[:146])
HELLO = entry("hello, Bob \N{WAVING HAND SIGN}".encode(), seq=2, previous=FIRST_ID)
HELLO_ID = tagged("entry", HELLO[:146])
SHARE = signed(KEY_SHARE, share_fields())
MESSAGES = [message(padded(FIRST), 0), message(padded(HELLO), 1)]
REQUEST_FIELDS = TAG + u32(1) + ALICE.session_id
REFUSAL_FIELDS = TAG + u32(1) + BOB.session_id
REQUEST, REFUSAL = (
    signed(KEY_REQUEST, REQUEST_FIELDS, BOB),
    signed(KEY_REFUSAL, REFUSAL_FIELDS + b"\1"),
)
REQUEST_ID = stretched("request", 16)
ASKED = body(ASK, u64(0))
TOLD = body(GAINED, u64(7) + b"\0" + u16(1) + sync_range())
FETCHED = body(FETCH, u16(1) + sync_range())
GIVEN_FIELDS = u16(1) + u64(2) + u16(1) + prefixed(ALICES)
GIVEN_FIELDS += u16(2) + b"".join(u32(len(e)) + e for e in (FIRST, HELLO))
GIVEN = body(ENTRIES, GIVEN_FIELDS)
SEALED = hybrid(ASKED, ALICE.sek)
SYNCED = signed(SYNC, sync_fields(SEALED), BOB)
ACKED = ack(report(2, HELLO_ID))
WITNESSED = signed(WITNESS, witness_fields(), BOB)

# --------------------------------------------------------------------------- the cases


def frames() -> list[Case]:
    nonce, password = stretched("nonce", 32), "correct horse"
    covered = nonce + TAG + ALICE.session_id + tagged("bundle", ALICES)
    proof = hmac_sha(password.encode(), label("join") + covered)
    join = bytes((1,)) + TAG + ALICE.session_id + proof
    members = BOB.session_id + prefixed(BOBS)
    hello = bytes((1, 1)) + nonce + b"\1" + u32(65_536)

    def good(name: str, why: str, body: bytes, title: str = "", **expect: Any) -> Case:
        return case("frame", why, {"type": name} | expect, title, data=frame(name, body))

    def bad(why: str, data: bytes, expect: str = "Malformed") -> Case:
        return case("frame", why, expect, data=data)

    cases = [
        good(
            "HELLO",
            "a relay that wants a password",
            hello,
            "HELLO",
            version_min=1,
            version_max=1,
            nonce=nonce,
            needs_password=True,
            max_frame_bytes=65_536,
        ),
        good(
            "JOIN",
            f"the proof is of the password '{password}' and the nonce of HELLO",
            join + prefixed(ALICES),
            "JOIN",
            room_tag=TAG,
            session_id=ALICE.session_id,
            proof=proof,
            bundle=ALICES,
        ),
        good(
            "WELCOME",
            "Bob is there, and nobody else",
            b"\1" + u16(1) + members,
            "WELCOME",
            last=True,
            members=[[BOB.session_id, BOBS]],
        ),
        good("WELCOME", "nobody is there", b"\1" + u16(0), last=True, members=[]),
        good("WELCOME", "more pages follow", b"\0" + u16(0), last=False, members=[]),
        good("ADD", "Bob came", members, "ADD", session_id=BOB.session_id, bundle=BOBS),
        good("DEL", "Bob left", BOB.session_id + b"\1", "DEL", session_id=BOB.session_id, reason=1),
        good(
            "DEL",
            "a reason of a later version is kept",
            BOB.session_id + b"\xff",
            session_id=BOB.session_id,
            reason=255,
        ),
        good(
            "REBUNDLE",
            "Alice has a new SEK and a new nick",
            prefixed(ALICES_NEXT),
            "REBUNDLE",
            bundle=ALICES_NEXT,
        ),
        good("BROADCAST", "Alice says hello", MESSAGES[1], "BROADCAST", payload=MESSAGES[1]),
        good("BROADCAST", "a relay never looks inside", b"", payload=b""),
        good("BROADCAST", "the longest payload", bytes(65_519), payload=bytes(65_519)),
        good(
            "DIRECT",
            "Bob asks Alice for a key",
            ALICE.session_id + REQUEST,
            "DIRECT",
            session_id=ALICE.session_id,
            payload=REQUEST,
        ),
        good("PING", "any number", u64(0x0102030405060708), "PING", token=0x0102030405060708),
        good("PONG", "the same number", u64(0x0102030405060708), "PONG", token=0x0102030405060708),
        good(
            "ERROR",
            "no password, no way in",
            b"\4" + prefixed(b"wrong password"),
            "ERROR",
            code=4,
            text="wrong password",
        ),
        good("ERROR", "a code of a later version is kept", b"\xff\0\0", code=255, text=""),
        bad("a length of zero", u32(0)),
        bad("a length over the limit, found by itself", u32(65_537), "TooLarge"),
        bad("versions 2 to 3", frame("HELLO", bytes((2, 3)) + hello[2:]), "UnknownVersion"),
        bad("flags of a later version", frame("HELLO", hello[:34] + b"\2" + hello[35:])),
        bad("version 2", frame("JOIN", b"\2" + join[1:] + prefixed(ALICES)), "UnknownVersion"),
        bad("a bundle over 4096 bytes", frame("JOIN", join + prefixed(bytes(4097))), "TooLarge"),
        bad("last is neither 0 nor 1", frame("WELCOME", b"\2" + u16(0))),
        bad("a member is missing", frame("WELCOME", b"\1" + u16(1))),
        bad("a payload of 65520 bytes", frame("BROADCAST", bytes(65_520)), "TooLarge"),
        bad("no room for a session_id", frame("DIRECT", bytes(15))),
        bad("513 bytes of text", frame("ERROR", b"\1" + prefixed(b"x" * 513)), "TooLarge"),
        bad("a text that is no UTF-8", frame("ERROR", b"\1" + prefixed(b"\xff"))),
    ]
    short = {
        "HELLO": hello,
        "JOIN": join + prefixed(b"bundle"),
        "WELCOME": b"\1" + u16(1) + BOB.session_id + prefixed(b"bundle"),
        "ADD": BOB.session_id + prefixed(b"bundle"),
        "DEL": BOB.session_id + b"\1",
        "REBUNDLE": prefixed(b"bundle"),
        "PING": u64(1),
        "PONG": u64(1),
        "ERROR": b"\4" + prefixed(b"why"),
    }
    for name, body in short.items():
        cases.append(bad(f"{name} with a byte too many", frame(name, body + b"\0")))
        cases.append(bad(f"{name} with a byte missing", frame(name, body[:-1])))
    return cases


def bundles() -> list[Case]:
    def read(why: str, data: bytes, title: str = "", room: bytes = ROOM, **changed: Any) -> Case:
        expect = {
            "fingerprint": ALICE.fingerprint,
            "nick": "alice",
            "session_id": ALICE.session_id,
            "session_key": ALICE.ssk.public,
            "sek_number": 1,
            "chain_id": ALICE.chain_id,
            "chain_key": ALICE.csk.public,
        }
        return case("bundle", why, expect | changed, title, data=data, room=room)

    def bad(why: str, expect: str, data: bytes, room: bytes = ROOM) -> Case:
        return case("bundle", why, expect, data=data, room=room)

    cases = [
        read("Alice in the lobby", ALICES, "bundle"),
        read("a SEK number may be any", bundle(ALICE, number=2**32 - 1), sek_number=2**32 - 1),
        read("of another room, where nobody asks which", bundle(ALICE, room=OTHER_ROOM), room=b""),
    ]
    small = [base.compressed(p) for p in base.small_order_points()]
    high_y = (base.PRIME + 2).to_bytes(32, "little")
    stretched_sek = der(0x30, der(0x30, base.RSA_OID), der(3, b"\0", base.pkcs1(BOB.sek.n, 65537)))
    cases += [
        bad("version 2", "UnknownVersion", bundle(ALICE, version=2)),
        bad("a nick outside the grammar", "Malformed", bundle(ALICE, nick=b"bob#7f3a")),
        bad("nothing", "Malformed", b""),
        bad("a byte too many", "Malformed", ALICES + b"\0"),
        bad("a byte missing", "Malformed", ALICES[:-1]),
        bad("over 4096 bytes", "TooLarge", ALICES + bytes(4097 - len(ALICES))),
        bad("the SEK is the identity key", "BadKey", bundle(ALICE, sek=ALICE.ik.spki)),
        bad("a SEK with e = 3", "BadKey", bundle(ALICE, sek=base.spki(base.pkcs1(BOB.sek.n, 3)))),
        bad("a SEK that is not canonical", "BadKey", bundle(ALICE, sek=stretched_sek)),
        bad("an identity key that is not canonical", "BadKey", bundle(ALICE, spki=stretched_sek)),
        bad("a session key of small order", "BadKey", bundle(ALICE, ssk=small[1])),
        bad("a session key by another name", "BadKey", bundle(ALICE, ssk=high_y)),
        bad("a chain key of small order", "BadKey", bundle(ALICE, csk=small[4])),
        bad("a chain key by another name", "BadKey", bundle(ALICE, csk=high_y)),
        bad("for another room", "BadSignature", bundle(ALICE, room=OTHER_ROOM)),
        bad(
            "the room's tag without its secret",
            "BadSignature",
            bundle(ALICE, room=OTHER_ROOM, tag=TAG),
        ),
        bad(
            "another tag, with this room's secret",
            "BadSignature",
            bundle(ALICE, tag=hkdf(OTHER_ROOM, "room tag", 16), proof_of=AUTH),
        ),
        bad("a room proof of nobody", "BadSignature", bundle(ALICE, proof=bytes(32))),
        bad("another identity signed it", "BadSignature", bundle(ALICE, signer=BOB.ik)),
        bad(
            "signed as a chain's certificate", "BadSignature", bundle(ALICE, sig_label="chain cert")
        ),
        bad("the signature altered", "BadSignature", flipped(ALICES)),
        bad("the signature altered, on a chain", "BadSignature", flipped(ALICES), b""),
    ]
    return cases


def nicks() -> list[Case]:
    good = {
        "one character": "b",
        "32 characters": "b" * 32,
        "32 characters of four bytes": "\N{FOX FACE}" * 32,
        "NFC": "Zo\u00eb",
        "any script": "\u5c71\u7530",
        "also one that is written to the left": "\u05d3\u05d5\u05d3",
        "- and / behind the start": "a-/b",
        "a combining mark behind the start": "q\u0301",
    }
    bad = {
        "nothing": b"",
        "of 33 characters": b"b" * 33,
        "with a space": b"a b",
        "with a no-break space": "a\u00a0b".encode(),
        "with a line separator": "a\u2028b".encode(),
        "with #": b"bob#7f3a",
        "with :": b"bob:",
        "that starts like a command": b"/bob",
        "that starts like a notice": b"-bob",
        "that starts with a combining mark": "\u0301a".encode(),
        "that is not in NFC": "Zoe\u0308".encode(),
        "with a zero-width joiner": "bo\u200db".encode(),
        "with a zero-width space": "bo\u200bb".encode(),
        "with a byte order mark": "\ufeffbob".encode(),
        "with a bidi override": "\u202ebob".encode(),
        "with a bidi isolate": "bob\u2066".encode(),
        "with a filler that shows nothing": "bob\u3164".encode(),
        "with a variation selector": "bob\ufe0f".encode(),
        "with a control character": b"bob\x07",
        "with CSI": "bob\u009b".encode(),
        "with a surrogate": b"bob\xed\xa0\x80",
        "that is no UTF-8": b"bob\xff",
    }
    cases = [case("nick", why, nick, nick=nick.encode()) for why, nick in good.items()]
    return cases + [case("nick", why, "Malformed", nick=nick) for why, nick in bad.items()]


def following() -> list[Case]:
    """Whether a bundle may replace the one that is named "bundle"."""

    def follow(why: str, after: bytes, expect: bool) -> Case:
        return case("follow", why, expect, after=after)

    return [
        follow("a higher SEK number", bundle(ALICE, number=2, sek=NEXT_SEK), True),
        follow("a new nick with it", bundle(ALICE, number=9, nick=b"alice2", sek=NEXT_SEK), True),
        follow("the same SEK number", bundle(ALICE, number=1, sek=NEXT_SEK), False),
        follow("a lower SEK number", bundle(ALICE, number=0, sek=NEXT_SEK), False),
        follow("another person", bundle(ALICE, number=2, spki=BOB.ik.spki, signer=BOB.ik), False),
        follow("another session", bundle(ALICE, number=2, ssk=BOB.ssk.public), False),
        follow("another chain", bundle(ALICE, number=2, chain_id=BOB.chain_id), False),
        follow("another chain key", bundle(ALICE, number=2, csk=BOB.csk.public), False),
    ]


def rosters() -> list[Case]:
    both, why = roster(ALICE, BOB), "the order does not matter"
    return [
        case("roster digest", "Alice and Bob", both, bundles=[ALICES, BOBS]),
        case("roster digest", why, both, bundles=[BOBS, ALICES]),
        case("roster digest", "nor does nick or SEK", both, bundles=[ALICES_NEXT, BOBS]),
        case("roster digest", "Alice alone", roster(ALICE), bundles=[ALICES]),
    ]


def payloads() -> list[Case]:
    def good(why: str, data: bytes, who: Member, title: str = "", **expect: Any) -> Case:
        what = {KEY_SHARE: "key share", KEY_REQUEST: "key request", MESSAGE: "message"}
        what |= {ACK: "ack", WITNESS: "witness", SYNC: "sync", KEY_REFUSAL: "key refusal"}
        kind = what[data[1]]
        expect = {"kind": kind, "session_id": who.session_id, "tag": TAG} | expect
        return case("payload", why, expect, title, data=data, key=who.ssk.public)

    def bad(why: str, data: bytes, expect: str = "Malformed", who: Member = ALICE) -> Case:
        return case("payload", why, expect, data=data, key=who.ssk.public)

    def acked(why: str, number: int, feeds: list[Any], *reports: bytes, title: str = "") -> Case:
        expect = {
            "number": number,
            "digest": roster(ALICE, BOB),
            "feeds": feeds,
            "head": chain_head(BOB),
        }
        return good(why, ack(*reports, number=number), BOB, title, **expect)

    def feed(
        seq: int, missing: tuple[int, ...] = (), index: int = 7, its_hash: bytes = b""
    ) -> dict[str, Any]:
        fields = {"session_id": ALICE.session_id, "seq": seq, "entry_id": HELLO_ID}
        known = {"witnessed_index": index, "witnessed_hash": its_hash or block_hash(ALICE)}
        return fields | {"missing": list(missing)} | known

    many = tuple(range(1, 65))
    cases = [
        good(
            "Alice's key for Bob",
            SHARE,
            ALICE,
            "key share",
            epoch=1,
            n=0,
            first_seq=1,
            recipient=BOB.session_id,
            sek_number=1,
        ),
        good(
            "Bob asks Alice for the key of epoch 1",
            REQUEST,
            BOB,
            "key request",
            epoch=1,
            author=ALICE.session_id,
        ),
        good(
            "not for you",
            REFUSAL,
            ALICE,
            "key refusal",
            epoch=1,
            requester=BOB.session_id,
            reason=1,
        ),
        good(
            "ask later",
            signed(KEY_REFUSAL, REFUSAL_FIELDS + b"\2"),
            ALICE,
            epoch=1,
            requester=BOB.session_id,
            reason=2,
        ),
        good("Alice says who may read", MESSAGES[0], ALICE, epoch=1, n=0),
        good("Alice says hello", MESSAGES[1], ALICE, "message", epoch=1, n=1),
        acked("Bob has two entries of Alice", 1, [feed(2)], report(2, HELLO_ID), title="ack"),
        acked("nothing to report but the roster", 2, []),
        acked("64 are missing", 3, [feed(65, many)], report(65, HELLO_ID, many)),
        acked(
            "Bob knows no block of Alice",
            4,
            [feed(2, (), 0, bytes(32))],
            report(2, HELLO_ID, witnessed=(0, bytes(32))),
        ),
        acked(
            "Bob knows her first block",
            5,
            [feed(2, (), 0, b"\1" * 32)],
            report(2, HELLO_ID, witnessed=(0, b"\1" * 32)),
        ),
        good(
            "Bob has what Alice signed",
            WITNESSED,
            BOB,
            "witness",
            recipient=ALICE.session_id,
            head=chain_head(ALICE),
        ),
        good(
            "what Alice did not sign is a witness too: whose head it is, the recipient checks",
            signed(WITNESS, witness_fields(head=chain_head(ALICE, BOB.csk)), BOB),
            BOB,
            recipient=ALICE.session_id,
            head=chain_head(ALICE, BOB.csk),
        ),
        good(
            "Bob asks Alice what her chain gained",
            SYNCED,
            BOB,
            "sync",
            recipient=ALICE.session_id,
            request_id=REQUEST_ID,
            sek_number=1,
            sealed=SEALED,
        ),
        good(
            "what is sealed is the recipient's to open",
            signed(SYNC, sync_fields(b"")),
            ALICE,
            recipient=ALICE.session_id,
            sealed=b"",
        ),
    ]
    for c in [c for c in cases if "name" in c]:
        data, kind = from_hex(c["given"]["data"]), c["name"]
        who = BOB if data[2:18] == BOB.session_id else ALICE
        cases.append(bad(f"{kind}: version 2", b"\2" + data[1:], "UnknownVersion", who))
        cases.append(bad(f"{kind}: a byte too many", data + b"\0", who=who))
        cases.append(bad(f"{kind}: a byte missing", data[:-1], who=who))
        if data[1] == MESSAGE:
            continue
        fields, own = data[18:-64], data[1]
        other = "entry sig" if own == ACK else "ack sig"
        wrong = {
            "the signature altered": flipped(data),
            "signed by another session": signed(own, fields, who, signer=ALICE.csk),
            "signed under another label": signed(own, fields, who, sig_label=other),
        }
        cases += [bad(f"{kind}: {w}", d, "BadSignature", who) for w, d in wrong.items()]
    mail = MESSAGES[1]
    return [
        *cases,
        bad("nothing", b""),
        bad("a version alone", b"\1"),
        bad("kind 0", b"\1\0" + SHARE[2:]),
        bad("another kind than its fields are of", bytes((1, SYNC)) + SHARE[2:]),
        bad("sync: less is sealed than it says", signed(SYNC, sync_fields(b"x", size=2))),
        bad("sync: more is sealed than it says", signed(SYNC, sync_fields(b"xy", size=1))),
        bad("sync: a length that no frame has", signed(SYNC, sync_fields(b"", size=2**32 - 1))),
        bad("kind 8", b"\1\x08" + SHARE[2:]),
        bad("a payload of 65520 bytes", b"\1\3" + bytes(65_518), "TooLarge"),
        bad("key share: epoch 0", signed(KEY_SHARE, share_fields(epoch=0))),
        bad("key share: first_seq 0", signed(KEY_SHARE, share_fields(first_seq=0))),
        bad("key request: epoch 0", signed(KEY_REQUEST, TAG + bytes(4) + ALICE.session_id, BOB)),
        bad("key refusal: epoch 0", signed(KEY_REFUSAL, TAG + bytes(4) + BOB.session_id + b"\1")),
        bad("key refusal: reason 0", signed(KEY_REFUSAL, REFUSAL_FIELDS + b"\0")),
        bad("key refusal: reason 3", signed(KEY_REFUSAL, REFUSAL_FIELDS + b"\3")),
        bad("message: epoch 0", message(padded(HELLO), 1, epoch=0)),
        bad("message: nothing sealed", mail[:42]),
        bad("message: cut inside its header", mail[:41]),
        bad("message: no size that padding gives", mail + bytes(16)),
        bad("message: an entry of no bytes", message(b"", 1)),
        bad("ack: number 0", ack(number=0), who=BOB),
        bad("ack: a feed without an entry", ack(report(0, HELLO_ID)), who=BOB),
        bad("ack: seq 0 is missing", ack(report(2, HELLO_ID, (0,))), who=BOB),
        bad("ack: missing seqs that fall", ack(report(9, HELLO_ID, (3, 2))), who=BOB),
        bad("ack: a missing seq twice", ack(report(9, HELLO_ID, (3, 3))), who=BOB),
        bad("ack: the highest is missing", ack(report(2, HELLO_ID, (2,))), who=BOB),
        bad("ack: 65 missing", ack(report(99, HELLO_ID, (*many, 65))), "TooLarge", BOB),
        bad(
            "ack: a block that has no hash",
            ack(report(2, HELLO_ID, (), ALICE, (1, bytes(32)))),
            who=BOB,
        ),
        bad(
            "ack: its own head has no hash",
            ack(head=chain_head(BOB, its_hash=bytes(32))),
            who=BOB,
        ),
        bad(
            "witness: a head that has no hash",
            signed(WITNESS, witness_fields(head=chain_head(ALICE, its_hash=bytes(32))), BOB),
            who=BOB,
        ),
        bad("ack: a feed more than counted", ack(report(2, HELLO_ID), count=0), who=BOB),
    ]


def shares() -> list[Case]:
    def unwrap(why: str, data: bytes, expect: Any = "BadCiphertext", sek: str = "bob") -> Case:
        return case("unwrap", why, expect, data=data, sek=sek, key=ALICE.ssk.public)

    bound = SHARE[:70]
    wrong: dict[str, dict[str, Any]] = {
        "session_id": {"session_id": BOB.session_id},
        "tag": {"tag": PAIR},
        "epoch": {"epoch": 2},
        "n": {"n": 1},
        "first_seq": {"first_seq": 2},
        "recipient": {"recipient": ALICE.session_id},
        "SEK number": {"number": 2},
    }
    cases = [
        unwrap("CK_0 for Bob", SHARE, CHAIN_KEYS[0]),
        unwrap(
            "CK_2, for a reader from seq 3 on",
            signed(KEY_SHARE, share_fields(n=2, first_seq=3)),
            CHAIN_KEYS[2],
        ),
        unwrap("Alice cannot open what is Bob's", SHARE, sek="alice"),
        unwrap("no label", signed(KEY_SHARE, share_fields(bound=b""))),
    ]
    for name, changed in wrong.items():
        session = {"session_id": changed["session_id"]} if "session_id" in changed else {}
        data = signed(KEY_SHARE, share_fields(bound=bound, **changed), **session)
        cases.append(unwrap(f"wrapped for another {name}, signed again", data))
    return cases


def syncs() -> list[Case]:
    def opened(why: str, data: bytes, expect: Any = "BadCiphertext", sek: str = "alice") -> Case:
        return case("open sync", why, expect, data=data, sek=sek, key=BOB.ssk.public)

    def resealed(changed: bytes) -> bytes:
        return signed(SYNC, sync_fields(changed), BOB)

    return [
        opened("Bob's question", SYNCED, ASKED),
        opened("Bob cannot open what is Alice's", SYNCED, sek="bob"),
        opened("nothing sealed", resealed(b"")),
        opened("the wrap altered", resealed(flipped(SEALED, 7))),
        opened("the nonce altered", resealed(flipped(SEALED, 384))),
        opened("the last byte altered", resealed(flipped(SEALED))),
        opened("wrapped for another use", resealed(hybrid(ASKED, ALICE.sek, label("share")))),
    ]


def bodies() -> list[Case]:
    def good(why: str, data: bytes, kind: str, title: str = "", **expect: Any) -> Case:
        return case("sync body", why, {"kind": kind} | expect, title, data=data)

    def bad(why: str, data: bytes, expect: str = "Malformed") -> Case:
        return case("sync body", why, expect, data=data)

    both = [TAG, ALICE.session_id, 1, 2]
    last = [PAIR, BOB.session_id, 1, 2**64 - 1]
    pair, plain = sync_range(1, 2**64 - 1, BOB, PAIR), bytes(32) + u64(1) * 2
    full = body(ENTRIES, u16(0) * 2 + u16(1) + u32(1024 - 15) + bytes(1024 - 15))
    named = {"ASK": ASKED, "GAINED": TOLD, "FETCH": FETCHED, "ENTRIES": GIVEN}
    cases = [
        good("all that is for Bob", ASKED, "ASK", "ask", since=0),
        good("behind any block", body(ASK, u64(2**64 - 1)), "ASK", since=2**64 - 1),
        good("two entries", TOLD, "GAINED", "gained", upto=7, more=False, ranges=[both]),
        good(
            "and there is more",
            body(GAINED, u64(9) + b"\1" + u16(2) + sync_range() + pair),
            "GAINED",
            upto=9,
            more=True,
            ranges=[both, last],
        ),
        good("nothing", body(GAINED, u64(7) + b"\0\0\0"), "GAINED", ranges=[]),
        good("both of them", FETCHED, "FETCH", "fetch", ranges=[both]),
        good("512 ranges", body(FETCH, u16(512) + plain * 512), "FETCH"),
        good(
            "here they are",
            GIVEN,
            "ENTRIES",
            "entries",
            done=[2],
            bundles=[ALICES],
            entries=[FIRST, HELLO],
        ),
        good("none is held", body(ENTRIES, u16(1) + u64(2) + bytes(4)), "ENTRIES", done=[2]),
        good("no padding", full, "ENTRIES", entries=[bytes(1024 - 15)]),
        good("not now", body(ASK_LATER, b""), "ASK_LATER"),
    ]
    for kind, data in named.items():
        size = int.from_bytes(data[1:5], "big")
        fields, number = data[5 : 5 + size], data[0]
        cases += [
            bad(f"{kind}: a byte too many", body(number, fields + b"\0")),
            bad(f"{kind}: a byte missing", body(number, fields[:-1])),
            bad(f"{kind}: the last byte of the padding is not zero", flipped(data)),
            bad(f"{kind}: 1024 more bytes of padding", data + bytes(1024)),
            bad(f"{kind}: not all of its padding", data[:-1]),
        ]
    return [
        *cases,
        bad("nothing", b""),
        bad("zeros", bytes(1024)),
        bad("kind 0", body(0, u64(0))),
        bad("kind 6", body(6, b"")),
        bad("fields that end behind the end", body(ASK, u64(0), size=1020)),
        bad("ASK_LATER with a byte too many", body(ASK_LATER, b"\0")),
        bad("more is neither 0 nor 1", body(GAINED, u64(7) + b"\2\0\0")),
        bad("seq 0", body(FETCH, u16(1) + sync_range(0, 2))),
        bad("a range that ends before it begins", body(FETCH, u16(1) + sync_range(3, 2))),
        bad("a question for nothing", body(FETCH, u16(0))),
        bad("a range more than counted", body(FETCH, u16(1) + sync_range() * 2)),
        bad("513 ranges are asked for", body(FETCH, u16(513) + plain * 513), "TooLarge"),
        bad(
            "513 ranges are told of",
            body(GAINED, u64(7) + b"\0" + u16(513) + plain * 513),
            "TooLarge",
        ),
        bad(
            "513 ranges are dealt with",
            body(ENTRIES, u16(513) + u64(2) * 513 + bytes(4)),
            "TooLarge",
        ),
        bad(
            "a bundle over 4096 bytes",
            body(ENTRIES, bytes(2) + u16(1) + prefixed(bytes(4097)) + bytes(2)),
            "TooLarge",
        ),
    ]


def entries() -> list[Case]:
    def good(why: str, data: bytes, text: bytes, title: str = "", **expect: Any) -> Case:
        read = {
            "kind": data[1],
            "seq": int.from_bytes(data[34:42], "big"),
            "previous": data[42:74],
            "seen": data[74:106],
            "sent_ms": int.from_bytes(data[106:114], "big"),
            "text": text,
            "entry_id": tagged("entry", data[:146]),
        }
        return case("entry", why, read | expect, title, data=data, key=ALICE.ssk.public)

    def bad(why: str, data: bytes, expect: str = "Malformed") -> Case:
        return case("entry", why, expect, data=data, key=ALICE.ssk.public)

    def audience(*items: bytes) -> bytes:
        return entry(b"".join(items), kind=AUDIENCE)

    low, high = NAMED[:16], NAMED[16:]
    hello = HELLO[164:-64]
    return [
        good("who may read: Alice and Bob", FIRST, NAMED, "audience entry"),
        good("hello", HELLO, hello, "chat entry"),
        good("seen is what was read before it", entry(b"yes", seen=HELLO_ID), b"yes"),
        good("the longest text", entry(b"a" * 16_384), b"a" * 16_384),
        good("the shortest text", entry(b"a"), b"a"),
        good("any UTF-8, controls too", entry(b"\0\x1b[2J"), b"\0\x1b[2J"),
        good("the last seq", entry(b"a", seq=2**64 - 1), b"a"),
        good("a kind of a later version", entry(b"\xff\0", kind=3), b"\xff\0"),
        good("with no text either", entry(b"", kind=0), b""),
        good("an audience of nobody", audience(), b""),
        bad("version 2", entry(b"a", version=2), "UnknownVersion"),
        bad("seq 0", entry(b"a", seq=0)),
        bad("a text of no bytes", entry(b"")),
        bad("a text of 16385 bytes", entry(b"a" * 16_385), "TooLarge"),
        bad("a text that is no UTF-8", entry(b"\xff")),
        bad("a text with a surrogate", entry(b"\xed\xa0\x80")),
        bad("a text in overlong UTF-8", entry(b"\xc0\xaf")),
        bad("an audience cut inside a fingerprint", audience(low, high[:15])),
        bad("an audience that is not sorted", audience(high, low)),
        bad("an audience that names somebody twice", audience(low, low)),
        bad("another text", HELLO[:164] + flipped(hello) + HELLO[-64:]),
        bad("another salt", HELLO[:146] + flipped(HELLO[146:162]) + HELLO[162:]),
        bad("a byte too many", HELLO + b"\0"),
        bad("a byte missing", HELLO[:-1]),
        bad("nothing", b""),
        bad("another seq", flipped(HELLO, 41), "BadSignature"),
        bad("another kind", HELLO[:1] + b"\3" + HELLO[2:], "BadSignature"),
        bad("the signature altered", flipped(HELLO), "BadSignature"),
        bad("signed by another session", entry(b"a", signer=BOB.ssk), "BadSignature"),
        bad("signed as an ack", entry(b"a", sig_label="ack sig"), "BadSignature"),
    ]


def paddings() -> list[Case]:
    def unpad(why: str, data: bytes, expect: Any = "Malformed") -> Case:
        return case("padding", why, expect, data=data)

    cases = []
    for size in (229, 256, 257, 512, 513, 1024, 1025, 2048, 2049):
        made = entry(b"a" * (size - 228))
        data = padded(made)
        cases.append(unpad(f"an entry of {size} bytes has {len(data)}", data, made))
    data = padded(HELLO)
    return [
        *cases,
        unpad("a bit of the padding is not zero", flipped(data)),
        unpad("the first byte of the padding is not zero", flipped(data, len(HELLO))),
        unpad("of the next size", data + bytes(256)),
        unpad("a byte missing", data[:-1]),
        unpad("a byte too many", data + b"\0"),
        unpad("none", HELLO),
        unpad("a text longer than all", HELLO[:162] + u16(65_535) + HELLO[164:]),
        unpad("nothing", b""),
    ]


def openings() -> list[Case]:
    def opened(why: str, data: bytes, expect: Any = "BadCiphertext", share: bytes = SHARE) -> Case:
        return case("open", why, expect, data=data, share=share, room=ROOM, key=ALICE.ssk.public)

    later = signed(KEY_SHARE, share_fields(n=1, first_seq=2))
    mail, text = MESSAGES[1], padded(HELLO)
    away = entry(b"a", session_id=BOB.session_id)
    elsewhere, unsigned = entry(b"a", tag=PAIR), flipped(HELLO)
    return [
        opened("the first message", MESSAGES[0], {"entry_id": FIRST_ID, "text": NAMED}),
        opened("the second", mail, {"entry_id": HELLO_ID, "text": HELLO[164:-64]}),
        opened("by a later share", mail, {"entry_id": HELLO_ID, "text": HELLO[164:-64]}, later),
        opened("1000 ahead", message(text, 1000), {"entry_id": HELLO_ID, "text": HELLO[164:-64]}),
        opened("1001 ahead", message(text, 1001), "TooFarAhead"),
        opened("from before the share", MESSAGES[0], "KeyUsed", later),
        opened("of another room", message(text, 1, mix=hkdf(OTHER_ROOM, "room mix", 32))),
        opened("another n", mail[:41] + b"\2" + mail[42:]),
        opened("another tag in its header", mail[:18] + PAIR + mail[34:]),
        opened("another session in its header", mail[:2] + BOB.session_id + mail[18:]),
        opened("the nonce altered", flipped(mail, 42)),
        opened("the ciphertext altered", flipped(mail, 54)),
        opened("the last byte altered", flipped(mail)),
        opened("the padding altered by the sender", message(flipped(text), 1), "Malformed"),
        opened("an entry of another session", message(padded(away), 1), "Malformed"),
        opened("an entry of another conversation", message(padded(elsewhere), 1), "Malformed"),
        opened("an entry that nobody signed", message(padded(unsigned), 1), "BadSignature"),
    ]


def events() -> list[Case]:
    salt = stretched("salt", 16)
    bodies = {
        "Bob's bundle, before his first entry": (1, BOBS, "bundle event"),
        "Bob is ignored": (2, BOB.fingerprint, "ignore event"),
        "and no longer": (3, BOB.fingerprint, ""),
        "Bob goes by this name": (4, BOB.fingerprint + "böb".encode(), "pin event"),
        "his key was compared": (5, BOB.fingerprint, ""),
        "and that is taken back": (6, BOB.fingerprint, ""),
        "a warning was given": (7, b"KEY CHANGED", ""),
        "a kind of a later version is kept": (255, b"", ""),
    }
    cases = []
    for why, (kind, body, name) in bodies.items():
        data = salt + bytes((kind,)) + body
        expect = {"kind": kind, "body": body, "event_id": tagged("event", data)}
        cases.append(case("event", why, expect, name, data=data))
    return [
        *cases,
        case("event", "a salt alone", "Malformed", data=salt),
        case("event", "nothing", "Malformed", data=b""),
    ]


def members() -> dict[str, Any]:
    return {
        who.name: {
            "identity_pkcs8": who.ik.pkcs8.hex(),
            "sek_pkcs8": who.sek.pkcs8.hex(),
            "ssk_seed": who.ssk.seed.hex(),
            "csk_seed": who.csk.seed.hex(),
            "session_id": who.session_id.hex(),
            "chain_id": who.chain_id.hex(),
        }
        for who in (ALICE, BOB)
    }


def build() -> dict[str, Any]:
    """What is in the file."""
    parts: tuple[Callable[[], list[Case]], ...] = (
        frames,
        bundles,
        nicks,
        following,
        rosters,
        payloads,
        shares,
        syncs,
        bodies,
        entries,
        paddings,
        openings,
        events,
    )
    return {
        "about": "Made by tests/make_vectors_messages.py, which says how to read it.",
        "room": ROOM.hex(),
        "chain_key": CHAIN_KEYS[0].hex(),
        "members": members(),
        "cases": [made for part in parts for made in part()],
    }


def text() -> str:
    """The file."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="ascii")
