"""Writes tests/vectors/chain.json: chains, good and bad, with the verdict on each, and why.

    python tests/make_vectors_chain.py

It imports nothing of Chainroom.  Everything is written again from docs/CHAIN_FORMAT.md (entries and
bundles from docs/PROTOCOL.md) with hashlib, hmac and `cryptography`, and nothing is random, so that
the file is the same on every run.  `verify` here is a second verifier, to hold against the first.

In the file bytes are hex, text is {"text": …}, and numbers and null are themselves.  "blocks" are
[header, signature, body]; a case's "rows" are [idx, number in "blocks"], its "chain_id" is what the
keystore names, "expect" the verdict, "exit" the exit code, "quick" the verdict that looks at no
signature but the last, where that is another one.  "records" are what a good chain's bodies say,
"coins" how many it earned, "erased" which blocks' texts are gone.  "head" is one that a witness
holds, "witnessed" the verdict on the chain beside it; "deep" the verdict that looks at the authors'
signatures too.  "schemas" are statements to run on the second case's file, and the exit code that
a verifier has for it then.  None of these keys may ever be used.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import make_vectors_crypto as crypto
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from make_vectors_crypto import hkdf, hmac_sha, label, mgf1, sha, spki, stretched, tagged, xor

PATH = Path(__file__).parent / "vectors" / "chain.json"

GENESIS, SENT, CONTROL, RECEIVED, EVENT, FORGET = range(1, 7)
ZEROS = bytes(32)
NOW = 1_700_000_000_000  # milliseconds

# --------------------------------------------------------------------------------------------------
# the second verifier: CHAIN_FORMAT.md 2, 3 and 5, and nothing else

_HEADER = struct.Struct(">4sBB16sQ32sQ32s32sQQ")


class Fields(NamedTuple):
    magic: bytes
    type: int
    difficulty: int
    chain_id: bytes
    number: int  # index
    previous_hash: bytes
    timestamp_ms: int
    body_hash: bytes
    entry_id: bytes
    nonce: int
    refers_to: int


class Head(NamedTuple):
    """What CSK signed of a chain."""

    chain_id: bytes
    number: int  # index
    hash: bytes
    signature: bytes


Row = list[Any]  # idx, header, signature, body as SQLite gives them


BLOCKS = """CREATE TABLE blocks (
    idx INTEGER PRIMARY KEY,
    header BLOB NOT NULL,
    signature BLOB NOT NULL,
    body BLOB NOT NULL
)"""
SIDE = """CREATE TABLE side (
    name TEXT NOT NULL,
    row BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (name, row)
)"""


def is_of_format(database: sqlite3.Connection) -> bool:
    """Whether a file may be a chain's at all, before `verify` looks at its rows."""
    if database.execute("PRAGMA user_version").fetchone() != (1,):
        return False
    found = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")
    return [found.fetchone() for _ in range(4)] == [
        ("table", "blocks", "blocks", BLOCKS),
        ("table", "side", "side", SIDE),
        ("index", "sqlite_autoindex_side_1", "side", None),
        None,
    ]


def verify(
    database: sqlite3.Connection, identity_spki: bytes, csk: bytes, expected_chain_id: bytes
) -> str:
    """The verdict, such as "OK" or "EDITED@17"."""
    rows, end = _in_place(database)
    key = Ed25519PublicKey.from_public_bytes(csk)
    chain_id = rows[0][1][6:22] if rows else b""

    def signed(row: Row) -> bool:
        body = chain_id + row[1][22:30] + tagged("block", row[1])
        return _fits(key, row[2], "block sig", body)

    for i, row in enumerate(rows):
        _, header, _, body = row
        fields = Fields(*_HEADER.unpack(header))
        following = rows[i + 1] if i + 1 < len(rows) else None
        if sha(body) != fields.body_hash:
            if fields.type not in (SENT, RECEIVED) or any(body):
                return f"EDITED@{i}"
            try:
                if i not in erased(database, key, chain_id):
                    return f"EDITED@{i}"
            except (sqlite3.Error, UnicodeDecodeError):
                return f"UNREADABLE@{i}"
        keys = _certified_keys(body, fields.chain_id) if i == 0 else None
        if isinstance(keys, tuple) and (
            keys != (identity_spki, csk) or expected_chain_id not in (fields.chain_id, bytes(16))
        ):
            return "REWRITTEN@0"
        linked = following is None or following[1][30:62] == tagged("block", header)
        if not signed(row):
            return f"FORGED@{i}" if linked else f"EDITED@{i}"
        if not linked and following is not None and signed(following):
            return f"EDITED@{i}"
        if isinstance(keys, str):
            return f"{keys}@0"
        least = max(8, fields.difficulty)
        if fields.type == SENT and (fields.difficulty < 8 or leading_zeros(header) < least):
            return f"WEAKPOW@{i}"
    return f"{end}@{len(rows)}" if end else "OK"


def erased(database: sqlite3.Connection, key: Ed25519PublicKey, chain_id: bytes) -> dict[int, int]:
    """What the forget blocks say: the index of an erased block → that of the first that says so."""
    found: dict[int, int] = {}
    for idx, header, signature, body in database.execute(
        "SELECT idx, header, signature, body FROM blocks "
        "WHERE idx >= 0 AND substr(header, 1, 5) = x'4352423106' ORDER BY idx"
    ):
        if type(idx) is not int or any(type(p) is not bytes for p in (header, signature, body)):
            continue
        if len(header) != 150 or len(signature) != 64:
            continue
        fields = Fields(*_HEADER.unpack(header))
        signed = chain_id + header[22:30] + tagged("block", header)
        if fields.refers_to < idx == fields.number and _fits(key, signature, "block sig", signed):
            found.setdefault(fields.refers_to, idx)
    return found


def compare(database: sqlite3.Connection, csk: bytes, head: Head) -> str:
    """The verdict on a chain that verifies, beside the head of it that a witness holds."""
    key = Ed25519PublicKey.from_public_bytes(csk)
    signed = head.chain_id + head.number.to_bytes(8, "big") + head.hash
    assert _fits(key, head.signature, "block sig", signed), "no head of ours"
    rows, _ = _in_place(database)
    if head.number >= len(rows):
        return f"TRUNCATED@{len(rows)}"
    return (
        "OK" if tagged("block", rows[head.number][1]) == head.hash else f"REWRITTEN@{head.number}"
    )


def deep(database: sqlite3.Connection, data_key: bytes, identity_spki: bytes, csk: bytes) -> str:
    """The verdict on the authors of a chain that verifies: CHAIN_FORMAT.md 5, BADAUTHOR."""
    rows, _ = _in_place(database)
    owner = (rows[0][1][6:22], identity_spki, csk)
    sessions: Sessions = {}
    for idx, header, _, body in rows[1:]:
        fields = Fields(*_HEADER.unpack(header))
        if not any(body):
            continue
        key = hmac_sha(data_key, label("body key") + header[6:30])
        record = AESGCM(key).decrypt(body[:12], body[12:], header[:70] + header[102:134])
        if fields.type == EVENT:
            fits = _is_event(idx, record, fields.entry_id, sessions)
        elif fields.type == FORGET:
            of = Fields(*_HEADER.unpack(rows[fields.refers_to][1]))
            head, signature = record[:-64], record[-64:]
            fits = not record or _is_written(of, head, signature, sessions, owner)
        else:
            size = 164 + int.from_bytes(record[162:164], "big")
            text = record[164:size]
            head, signature = record[:146], record[size:]
            fits = (
                head[114:146] == tagged("text", record[146:162] + text)
                and len(signature) == 64
                and _is_written(fields, head, signature, sessions, owner)
            )
        if not fits:
            return f"BADAUTHOR@{idx}"
    return "OK"


# By session_id: where each of its bundles stands, and identity, SSK, chain_id and CSK in it.
Sessions = dict[bytes, list[tuple[int, tuple[bytes, ...]]]]


def _is_event(idx: int, record: bytes, entry_id: bytes, sessions: Sessions) -> bool:
    if tagged("event", record) != entry_id:
        return False
    if record[16] == 8:
        head, signature = record[17:-64], record[-64:]
        return len(head) == 146 and _signer(idx, head, signature, sessions) is not None
    if record[16] != 1:
        return True
    # version, tag, SPKI, nick, session_id, SSK, SEK's number, SEK, chain_id, CSK, proof, signature
    bundle, parts, at = record[17:], [], 0
    for size in (1, 16, 0, 0, 16, 32, 4, 0, 16, 32, 32, 384):
        if size == 0:
            size, at = int.from_bytes(bundle[at : at + 2], "big"), at + 2
        parts.append(bundle[at : at + size])
        at += size
    _, _, identity, _, session, ssk, _, _, chain_id, csk, _, signature = parts
    how = (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    public = load_der_public_key(identity)
    of_both = tagged("session", tagged("identity", identity) + ssk)
    if at != len(bundle) or session != of_both[:16]:
        return False
    if not _fits(public, signature, "bundle sig", bundle[:-384], *how):
        return False
    sessions.setdefault(session, []).append((idx, (identity, ssk, chain_id, csk)))
    return True


def _is_written(
    block: Fields,
    head: bytes,
    signature: bytes,
    sessions: Sessions,
    owner: tuple[bytes, bytes, bytes],
) -> bool:
    if len(head) != 146 or tagged("entry", head) != block.entry_id:
        return False
    signer = _signer(block.number, head, signature, sessions)
    if signer is None or block.type == RECEIVED:
        return signer is not None
    identity, _, chain_id, csk = signer
    return (chain_id, identity, csk) == owner and head[1] == (1 if block.type == SENT else 2)


def _signer(
    number: int, head: bytes, signature: bytes, sessions: Sessions
) -> tuple[bytes, ...] | None:
    """Whose the session was at that block, if its key signed."""
    before = [who for idx, who in sessions.get(head[18:34], []) if idx < number]
    if not before:
        return None
    key = Ed25519PublicKey.from_public_bytes(before[-1][1])
    return before[-1] if _fits(key, signature, "entry sig", head) else None


def _in_place(database: sqlite3.Connection) -> tuple[list[Row], str]:
    """The rows that stand in their places, and why there is none in the next, if that is wrong."""
    rows: list[Row] = []
    try:
        found = database.execute("SELECT idx, header, signature, body FROM blocks ORDER BY idx")
        for idx, *parts in found:
            if type(idx) is not int:
                return rows, "UNREADABLE"
            if idx != len(rows):
                return rows, "MISSING" if idx > len(rows) else "REORDERED"
            if any(type(part) is not bytes for part in parts):
                return rows, "UNREADABLE"
            if len(parts[0]) != 150 or len(parts[1]) != 64:
                return rows, "UNREADABLE"
            fields = Fields(*_HEADER.unpack(parts[0]))
            if fields.magic != b"CRB1" or fields.type not in range(1, 7):
                return rows, "UNREADABLE"
            if fields.number != idx or (fields.type == GENESIS) != (idx == 0):
                return rows, "REORDERED"
            rows.append([idx, *parts])
    except (sqlite3.Error, UnicodeDecodeError):
        return rows, "UNREADABLE"
    return rows, "" if rows else "MISSING"


def _certified_keys(body: bytes, chain_id: bytes) -> tuple[bytes, bytes] | str:
    """Identity and CSK of a genesis, or the verdict on one that is none."""
    size = int.from_bytes(body[:2], "big")
    identity, csk, certificate, rest = (
        body[start + size : end + size]
        for start, end in ((2 - size, 2), (2, 34), (34, 418), (418, len(body)))
    )
    try:
        rest[58:].decode()
    except UnicodeDecodeError:
        return "UNREADABLE"
    if len(rest) < 58 or len(rest) != 58 + int.from_bytes(rest[56:58], "big"):
        return "UNREADABLE"
    try:
        public = load_der_public_key(identity)
    except (ValueError, UnsupportedAlgorithm):
        return "FORGED"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not isinstance(public, rsa.RSAPublicKey) or public.public_bytes(*form) != identity:
        return "FORGED"
    if (public.key_size, public.public_numbers().e) != (3072, 65537):
        return "FORGED"
    how = (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    if not _fits(public, certificate, "chain cert", chain_id + csk, *how):
        return "FORGED"
    return identity, csk


def _fits(key: Any, signature: bytes, name: str, body: bytes, *how: Any) -> bool:
    try:
        key.verify(signature, label(name) + body, *how)
    except InvalidSignature:
        return False
    return True


# --------------------------------------------------------------------------------------------------
# people


def _prime(name: str, offset: int) -> int:
    return (int.from_bytes(stretched(name, 192), "big") | (3 << 1534) | 1) + offset


class Person:
    """An identity, a chain's keys, and one session."""

    def __init__(self, name: str, p: int, q: int) -> None:
        self.name, self.p, self.q, self.n = name, p, q, p * q
        self.spki = spki(crypto.pkcs1(self.n, crypto.E))
        self.csk_seed = stretched(f"{name} csk", 32)
        self.data_key = stretched(f"{name} cdk", 32)
        self.ssk_seed = stretched(f"{name} ssk", 32)
        ssk = ed_public(self.ssk_seed)
        self.session_id = tagged("session", self.fingerprint + ssk)[:16]

    @property
    def fingerprint(self) -> bytes:
        return tagged("identity", self.spki)

    def body_key(self, header: bytes) -> bytes:
        return hmac_sha(self.data_key, label("body key") + header[6:30])


@cache
def certified(who: Person, name: str, body: bytes) -> bytes:
    """RSA-PSS-SHA256 with a salt of 32 bytes, RFC 8017 9.1.1."""
    salt = stretched("salt", 32)
    digest = sha(bytes(8) + sha(label(name) + body) + salt)
    block = bytes(384 - 66) + b"\1" + salt
    masked = xor(block, mgf1(digest, len(block)))
    value = int.from_bytes(bytes((masked[0] & 0x7F,)) + masked[1:] + digest + b"\xbc", "big")
    d = pow(crypto.E, -1, math.lcm(who.p - 1, who.q - 1))
    mp, mq = pow(value, d % (who.p - 1), who.p), pow(value, d % (who.q - 1), who.q)
    power = mq + (mp - mq) * pow(who.q, -1, who.p) % who.p * who.q
    return power.to_bytes(384, "big")


def ed_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def ed_sign(seed: bytes, name: str, body: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(label(name) + body)


ALICE = Person("alice", crypto.P, crypto.Q)
BOB = Person("bob", _prime("other p", 1524), _prime("other q", 1166))  # searched for
LOBBY = tagged("open room", b"lobby")[:16]
ROOM_TAG = hkdf(LOBBY, "room tag", 16)

# --------------------------------------------------------------------------------------------------
# records (PROTOCOL.md 3.1 and 3.5)


class Record(NamedTuple):
    type: int
    record: bytes
    entry_id: bytes


def entry(kind: int, who: Person, seq: int, text: bytes, previous: bytes = ZEROS) -> Record:
    """A signed entry: kind 1 chat, 2 audience."""
    salt = stretched(f"{who.name} salt {seq}", 16)
    head = struct.pack(">BB16s16sQ", 1, kind, ROOM_TAG, who.session_id, seq) + previous + ZEROS
    head += (NOW + seq).to_bytes(8, "big") + tagged("text", salt + text)
    record = head + salt + len(text).to_bytes(2, "big") + text
    record += ed_sign(who.ssk_seed, "entry sig", head)
    block = (SENT if kind == 1 else CONTROL) if who is ALICE else RECEIVED
    return Record(block, record, tagged("entry", head))


def event(kind: int, body: bytes) -> Record:
    """kind 1 bundle, 2 ignore, 3 unignore."""
    record = stretched(f"event {kind} {body.hex()}", 16) + bytes((kind,)) + body
    return Record(EVENT, record, tagged("event", record))


def kept(record: Record) -> bytes:
    """What stays of an entry whose text is erased."""
    return record.record[:146] + record.record[-64:]


def bundle(who: Person, sek: bytes, chain_id: bytes, signer: Person | None = None) -> bytes:
    nick = who.name.encode()
    body = b"\1" + ROOM_TAG + len(who.spki).to_bytes(2, "big") + who.spki
    body += len(nick).to_bytes(2, "big") + nick + who.session_id + ed_public(who.ssk_seed)
    body += (1).to_bytes(4, "big") + len(sek).to_bytes(2, "big") + sek
    body += chain_id + ed_public(who.csk_seed)
    body += hmac_sha(hkdf(LOBBY, "room auth", 32), label("room proof") + body)
    return body + certified(signer or who, "bundle sig", body)


# --------------------------------------------------------------------------------------------------
# chains


class Chain:
    """Writes blocks as CHAIN_FORMAT.md 2 and 3 say."""

    def __init__(
        self,
        name: str,
        owner: Person = ALICE,
        predecessor: tuple[bytes, int, bytes] = (bytes(16), 0, ZEROS),
        finding: bytes = b"",
    ) -> None:
        self.name, self.owner = name, owner
        self.chain_id = stretched(f"chain id {name}", 16)
        self.rows: list[Row] = []
        self.records: list[Record] = []
        csk = ed_public(owner.csk_seed)
        body = len(owner.spki).to_bytes(2, "big") + owner.spki + csk
        body += certified(owner, "chain cert", self.chain_id + csk)
        old, index, block_hash = predecessor
        body += old + index.to_bytes(8, "big") + block_hash
        body += len(finding).to_bytes(2, "big") + finding
        self.put(self.header(GENESIS), body)

    @property
    def previous_hash(self) -> bytes:
        return tagged("block", self.rows[-1][1]) if self.rows else ZEROS

    def header(self, kind: int, entry_id: bytes = ZEROS) -> Fields:
        """The next block's, with neither body_hash nor nonce."""
        index = len(self.rows)
        difficulty = 8 if kind == SENT else 0
        fields = (b"CRB1", kind, difficulty, self.chain_id, index, self.previous_hash)
        return Fields(*fields, NOW + 1000 * index, ZEROS, entry_id, 0, 0)

    def put(self, fields: Fields, body: bytes) -> None:
        """The next block: mined, signed, appended."""
        fields = mined(fields._replace(body_hash=sha(body)))
        header = _HEADER.pack(*fields)
        self.rows.append([fields.number, header, self.sign(header), body])

    def sign(self, header: bytes) -> bytes:
        return sign(self.owner.csk_seed, header)

    def forget(self, i: int, kept: bytes = b"", **other: Any) -> Chain:
        """The forget block of block i, whose body is zeros from now on."""
        self.rows[i][3] = bytes(len(self.rows[i][3]))
        return self.add(Record(FORGET, kept, ZEROS), **({"refers_to": i} | other))

    def head(self, index: int) -> Head:
        """As CSK signed it."""
        _, header, signature, _ = self.rows[index]
        return Head(self.chain_id, index, tagged("block", header), signature)

    def add(self, record: Record, **other: Any) -> Chain:
        """A record, sealed, in the next block."""
        fields = self.header(record.type, record.entry_id)._replace(**other)
        header = _HEADER.pack(*fields)
        key, associated = self.owner.body_key(header), header[:70] + header[102:134]
        nonce = stretched(f"nonce {self.name} {fields.number}", 12)
        self.put(fields, nonce + AESGCM(key).encrypt(nonce, record.record, associated))
        self.records.append(record)
        return self


def sign(seed: bytes, header: bytes) -> bytes:
    return ed_sign(seed, "block sig", header[6:30] + tagged("block", header))


def mined(fields: Fields) -> Fields:
    """With the first nonce that fits, if it is a sent block's."""
    if fields.type == SENT:
        while leading_zeros(_HEADER.pack(*fields)) < fields.difficulty:
            fields = fields._replace(nonce=fields.nonce + 1)
    return fields


def leading_zeros(header: bytes) -> int:
    return 256 - int.from_bytes(tagged("block", header), "big").bit_length()


class Chains:
    """The whole ones, from which the others are made."""

    @cached_property
    def base(self) -> Chain:
        """genesis, sent, received, sent, event"""
        first = entry(1, ALICE, 1, b"hello")
        chain = Chain("base").add(first).add(entry(1, BOB, 1, "hi, 你好".encode()))
        chain.add(entry(1, ALICE, 2, b"how are you?", first.entry_id))
        return chain.add(event(2, BOB.fingerprint))

    @cached_property
    def other(self) -> Chain:
        """The same person's, under another chain_id."""
        chain = Chain("other").add(entry(1, ALICE, 1, b"hello")).add(entry(1, BOB, 1, b"hi"))
        return chain.add(entry(1, ALICE, 2, b"bye")).add(event(2, BOB.fingerprint))

    @cached_property
    def forgotten(self) -> Chain:
        """genesis, sent, received (erased), sent (erased), forget 2, forget 3, event"""
        first, theirs = entry(1, ALICE, 1, b"hello"), entry(1, BOB, 1, b"hi")
        chain = Chain("forgotten").add(first).add(theirs)
        chain.add(entry(1, ALICE, 2, b"bye", first.entry_id))
        return chain.forget(2, kept(theirs)).forget(3).add(event(2, BOB.fingerprint))

    @cached_property
    def everything(self) -> Chain:
        """Every kind of record that is written today."""
        chain = Chain("everything")
        chain.add(event(1, bundle(ALICE, BOB.spki, chain.chain_id)))
        people = sorted((ALICE.fingerprint[:16], BOB.fingerprint[:16]))
        audience = entry(2, ALICE, 1, b"".join(people))
        chain.add(audience).add(entry(1, ALICE, 2, b"hello", audience.entry_id))
        chain.add(event(1, bundle(BOB, ALICE.spki, bytes(16))))
        chain.add(entry(2, BOB, 1, b"".join(people))).add(entry(1, BOB, 2, b"x" * 16_384))
        chain.add(event(2, BOB.fingerprint)).add(event(3, BOB.fingerprint))
        chain.add(event(4, BOB.fingerprint + b"bob")).add(event(5, BOB.fingerprint))
        chain.add(event(6, BOB.fingerprint)).add(event(7, b"KEY CHANGED"))
        return chain.add(event(8, kept(entry(1, BOB, 2, b"another story"))))


CHAINS = Chains()

# --------------------------------------------------------------------------------------------------
# what is done to them


def copy(chain: Chain) -> list[Row]:
    return [list(row) for row in chain.rows]


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


HEADER, SIGNATURE, BODY = 1, 2, 3
# where a field of the header begins
AT = {
    "magic": 0,
    "type": 4,
    "difficulty": 5,
    "chain_id": 6,
    "index": 22,
    "previous_hash": 30,
    "timestamp_ms": 62,
    "body_hash": 70,
    "entry_id": 102,
    "nonce": 134,
    "refers_to": 142,
}


def with_flip(i: int, part: int, at: int, mask: int = 1) -> list[Row]:
    rows = copy(CHAINS.base)
    rows[i][part] = flip(rows[i][part], at, mask)
    return rows


def with_part(i: int, part: int, value: Any) -> list[Row]:
    rows = copy(CHAINS.base)
    rows[i][part] = value
    return rows


def with_order(*numbers: int) -> list[Row]:
    """The base's blocks in these places."""
    return [[i, *CHAINS.base.rows[number][1:]] for i, number in enumerate(numbers)]


def with_header(i: int, seed: bytes | None, **fields: Any) -> list[Row]:
    """Block i with other fields, signed anew if there is a seed; what follows is left alone."""
    rows = copy(CHAINS.base)
    changed = Fields(*_HEADER.unpack(rows[i][HEADER]))._replace(**fields)
    rows[i][HEADER] = _HEADER.pack(*changed)
    if seed is not None:
        rows[i][SIGNATURE] = sign(seed, rows[i][HEADER])
    return rows


def as_it_is(_: int, fields: Fields) -> Fields:
    return fields


def rewritten(
    start: int,
    seed: bytes,
    change: Callable[[int, Fields], Fields] = as_it_is,
    genesis: bytes | None = None,
) -> list[Row]:
    """The base from block `start` on with changed headers, linked, mined and signed anew."""
    rows = copy(CHAINS.base)
    if genesis is not None:
        rows[0][BODY] = genesis
    for i in range(start, len(rows)):
        fields = Fields(*_HEADER.unpack(rows[i][HEADER]))
        if i > start:
            fields = fields._replace(previous_hash=tagged("block", rows[i - 1][HEADER]))
        fields = fields._replace(body_hash=sha(rows[i][BODY]))
        header = _HEADER.pack(*change(i, mined(fields)))
        rows[i][HEADER:BODY] = [header, sign(seed, header)]
    return rows


def weak(difficulty: int) -> list[Row]:
    """Block 1 with this difficulty, and a nonce for 7 zero bits and no more; then all is right."""

    def change(i: int, fields: Fields) -> Fields:
        if i == 1:
            fields = fields._replace(difficulty=difficulty, nonce=0)
            while leading_zeros(_HEADER.pack(*fields)) != 7:
                fields = fields._replace(nonce=fields.nonce + 1)
        return fields

    return rewritten(1, ALICE.csk_seed, change)


def with_genesis(body: bytes) -> list[Row]:
    """The genesis with another body, everything linked and signed anew."""
    return rewritten(0, ALICE.csk_seed, genesis=body)


# --------------------------------------------------------------------------------------------------
# the cases


class Case(NamedTuple):
    expect: str
    why: str
    rows: list[Row]
    chain_id: bytes | None = None  # None: the base's
    quick: str | None = None  # None: the same
    records: list[Record] | None = None
    head: Head | None = None
    witnessed: str = ""
    deep: str = ""


def good() -> list[Case]:
    base, everything = CHAINS.base, CHAINS.everything
    short = copy(base)[:3]
    last = base.rows[-1]
    finding = b"EDITED@2: kept as evidence-1.db, a new chain follows"
    after = Chain("after", ALICE, (base.chain_id, 4, tagged("block", last[HEADER])), finding)
    twice = Chain("twice").add(base.records[0]).add(base.records[0])
    hard = Chain("hard").add(entry(1, ALICE, 1, b"hello"), difficulty=12)
    return [
        Case("OK", "the example: genesis, sent, received", short, None, None, base.records[:2]),
        Case("OK", "genesis, sent, received, sent, event", base.rows, None, None, base.records),
        Case(
            "OK",
            "every kind of record",
            everything.rows,
            everything.chain_id,
            None,
            everything.records,
        ),
        Case("OK", "a genesis alone", copy(base)[:1], None, None, []),
        Case("OK", "a keystore of zeros takes any chain of its keys", base.rows, bytes(16)),
        Case("OK", "it follows a tampered chain", after.rows, after.chain_id, None, []),
        Case("OK", "one message in two blocks is one coin", twice.rows, twice.chain_id),
        Case("OK", "more work than is asked for", hard.rows, hard.chain_id),
        Case("OK", "the last blocks cut off: only a witness can tell", copy(base)[:4]),
    ]


def witnessed() -> list[Case]:
    """Good chains beside a head that somebody else holds."""
    base = CHAINS.base
    anew = Chain("base").add(base.records[0]).add(base.records[1])
    anew.add(entry(1, ALICE, 2, b"how were you?", base.records[0].entry_id)).add(base.records[3])

    def case(verdict: str, why: str, rows: list[Row], held: int) -> Case:
        return Case("OK", why, rows, head=base.head(held), witnessed=verdict)

    return [
        case("OK", "its own head", base.rows, 4),
        case("OK", "an earlier head", base.rows, 0),
        case("TRUNCATED@4", "the last block cut off", copy(base)[:4], 4),
        case("TRUNCATED@1", "all but the genesis cut off", copy(base)[:1], 3),
        case("REWRITTEN@3", "a block written anew by the right key", anew.rows, 3),
        case("REWRITTEN@4", "the same, beside a later head", anew.rows, 4),
        case("OK", "the same, beside an earlier head", anew.rows, 2),
        case("TRUNCATED@4", "the same, cut off", copy(anew)[:4], 4),
    ]


def forgotten() -> list[Case]:
    """Erased texts, rightly and not."""
    chain, base = CHAINS.forgotten, CHAINS.base
    chain_id, bytes_2 = chain.chain_id, len(chain.rows[2][BODY])
    emptied, unnamed, restored = copy(chain), copy(chain), copy(chain)
    emptied[2][BODY] = b""
    unnamed[1][BODY] = bytes(len(unnamed[1][BODY]))
    almost, moved, unsigned = copy(chain), copy(chain), copy(chain)
    almost[2][BODY] = bytes(bytes_2 - 1) + b"\1"
    moved[4][1:], moved[6][1:] = moved[6][1:], moved[4][1:]
    unsigned[4][SIGNATURE] = flip(unsigned[4][SIGNATURE], 3)
    whole = Chain("forgotten").add(entry(1, ALICE, 1, b"hello")).add(entry(1, BOB, 1, b"hi"))
    restored[2] = whole.rows[2]
    event_gone = copy(chain)
    event_gone[6][BODY] = bytes(len(event_gone[6][BODY]))
    an_event = Chain("an event").add(event(2, BOB.fingerprint)).forget(1)
    itself = Chain("itself").add(entry(1, ALICE, 1, b"hello"))
    itself.rows[1][BODY] = bytes(len(itself.rows[1][BODY]))
    early = Chain("early").add(Record(FORGET, b"", ZEROS), refers_to=2)
    early.add(entry(1, BOB, 1, b"hi"))
    early.rows[2][BODY] = bytes(len(early.rows[2][BODY]))
    far = Chain("far").add(entry(1, BOB, 1, b"hi")).forget(1, refers_to=2**64 - 1)
    twice = Chain("twice erased").add(entry(1, BOB, 1, b"hi")).forget(1).forget(1)
    stranger = Chain("by a stranger").add(entry(1, BOB, 1, b"hi")).forget(1)
    stranger.rows[2][SIGNATURE] = sign(BOB.csk_seed, stranger.rows[2][HEADER])
    another = (
        Chain("of another").add(entry(1, BOB, 1, b"hi")).add(entry(1, BOB, 2, b"ho")).forget(1)
    )
    another.rows[1][BODY], another.rows[2][BODY] = another.rows[2][BODY], another.rows[1][BODY]
    unreadable = copy(chain)
    unreadable[5][SIGNATURE] = "text"
    cut = copy(chain)[:4]
    return [
        Case("OK", "two texts erased, each with its forget block", chain.rows, chain_id),
        Case("OK", "an erased body of no bytes at all", emptied, chain_id),
        Case("OK", "an erased text that was put back", restored, chain_id),
        Case("OK", "erased twice", twice.rows, twice.chain_id),
        Case("OK", "a forget block without anything to forget", far_but_whole(), base.chain_id),
        Case("EDITED@1", "a body of zeros that no forget block names", unnamed, chain_id),
        Case("EDITED@2", "an erased body with one bit left", almost, chain_id),
        Case("EDITED@2", "the forget blocks cut off", cut, chain_id),
        Case("EDITED@2", "a forget block in another place", moved, chain_id),
        Case("EDITED@2", "a forget block with a bit of its signature changed", unsigned, chain_id),
        Case("EDITED@6", "an event of zeros", event_gone, chain_id),
        Case("EDITED@1", "an event that a forget block names", an_event.rows, an_event.chain_id),
        Case("EDITED@1", "a message alone, of zeros", itself.rows, itself.chain_id),
        Case("EDITED@2", "a forget block before the text", early.rows, early.chain_id),
        Case("EDITED@1", "a forget block that names nothing", far.rows, far.chain_id),
        Case("EDITED@1", "a forget block by another key", stranger.rows, stranger.chain_id),
        Case("EDITED@1", "the zeros in another block's place", another.rows, another.chain_id),
        Case("EDITED@3", "a forget block that is no row of a block", unreadable, chain_id),
    ]


def far_but_whole() -> list[Row]:
    """A forget block whose refers_to is larger than any index."""
    return Chain("base").add(Record(FORGET, b"", ZEROS), refers_to=2**64 - 1).rows


def misattributed() -> list[Case]:
    """Every block is as the owner wrote it, but not every record as its author did."""
    hello, audience = entry(1, ALICE, 2, b"hello"), entry(2, ALICE, 1, ALICE.fingerprint[:16])
    theirs = entry(1, BOB, 1, b"hi")
    named = theirs._replace(record=theirs.record[:-64] + hello.record[-64:])
    other_text = theirs._replace(record=theirs.record.replace(b"\0\2hi", b"\0\2ho"))
    other_id = theirs._replace(entry_id=hello.entry_id)
    as_ours = theirs._replace(type=SENT)
    of_bob = event(1, bundle(BOB, ALICE.spki, bytes(16)))
    by_nobody = event(1, bundle(BOB, ALICE.spki, bytes(16), signer=ALICE))
    double, as_bob = Person("bob", BOB.p, BOB.q), Person("carol", BOB.p, ALICE.q)
    double.ssk_seed = stretched("another ssk", 32)  # and the session_id is of the first
    as_bob.session_id, as_bob.ssk_seed = BOB.session_id, BOB.ssk_seed
    again, claim = (event(1, bundle(who, ALICE.spki, bytes(16))) for who in (double, as_bob))
    ignore = event(2, BOB.fingerprint)
    again_said = entry(1, BOB, 1, b"another story")
    unsigned = event(8, kept(again_said)[:-64] + kept(theirs)[-64:])

    def case(verdict: str, why: str, *records: Record, forgets: Record | None = None) -> Case:
        chain = Chain("deep")
        chain.add(event(1, bundle(ALICE, BOB.spki, chain.chain_id))).add(of_bob)
        for record in records:
            chain.add(record)
        if forgets is not None:
            chain.forget(len(chain.rows) - 1, kept(forgets))
        return Case("OK", why, chain.rows, chain.chain_id, deep=verdict)

    elsewhere = Chain("elsewhere").add(event(1, bundle(ALICE, BOB.spki, CHAINS.base.chain_id)))
    elsewhere.add(hello)
    nobody = Chain("nobody").add(theirs)
    early = Chain("early").add(theirs).add(of_bob).forget(1, kept(theirs))
    return [
        case("OK", "each by its author", audience, hello, theirs, ignore, again_whole()),
        case("OK", "an erased text by its author", theirs, forgets=theirs),
        case("OK", "another story by its author", theirs, event(8, kept(again_said))),
        case("BADAUTHOR@4", "another story that its author did not sign", theirs, unsigned),
        case("BADAUTHOR@3", "another story that is none", event(8, kept(again_said)[:-1])),
        case("OK", "of an erased text nothing is kept"),
        case("BADAUTHOR@3", "an entry that another session signed", named),
        case("BADAUTHOR@3", "another text than the one signed", other_text),
        case("BADAUTHOR@4", "another entry_id than the block's", hello, other_id),
        case("BADAUTHOR@3", "somebody else's entry as a sent one", as_ours),
        case("BADAUTHOR@3", "an audience entry as a sent one", audience._replace(type=SENT)),
        case("BADAUTHOR@3", "a chat entry as a control one", hello._replace(type=CONTROL)),
        case("BADAUTHOR@3", "a bundle that its identity did not sign", by_nobody),
        case("BADAUTHOR@4", "a second key for a session", theirs, again),
        case("BADAUTHOR@4", "who claims somebody else's session and key", theirs, claim),
        Case("OK", "an erased text before any bundle", early.rows, early.chain_id)._replace(
            deep="BADAUTHOR@3"
        ),
        case("BADAUTHOR@3", "an event under another id", ignore._replace(entry_id=ZEROS)),
        case("BADAUTHOR@4", "what is kept of an erased text is another's", theirs, forgets=hello),
        Case("OK", "an own session of another chain", elsewhere.rows, elsewhere.chain_id)._replace(
            deep="BADAUTHOR@2"
        ),
        Case("OK", "no bundle before the entry", nobody.rows, nobody.chain_id)._replace(
            deep="BADAUTHOR@1"
        ),
    ]


def again_whole() -> Record:
    """The same session's second bundle, with another SEK."""
    return event(1, bundle(BOB, Person("sek", BOB.p, ALICE.q).spki, bytes(16)))


def missing() -> list[Case]:
    base = CHAINS.base.rows
    far = with_part(4, 0, 2**63 - 1)
    return [
        Case("MISSING@0", "no rows at all", []),
        Case("MISSING@0", "the genesis deleted", copy(CHAINS.base)[1:]),
        Case("MISSING@2", "a middle block deleted", base[:2] + base[3:]),
        Case("MISSING@4", "the last block at the largest idx", far),
        Case("MISSING@1", "two blocks deleted", base[:1] + base[3:]),
    ]


def unreadable() -> list[Case]:
    header, signature, whole = CHAINS.base.rows[2][1:]
    parts = {
        "a header that is NULL": (HEADER, None),
        "a header that is text": (HEADER, "CRB1" * 30),
        "a header that is a number": (HEADER, 2**63 - 1),
        "a header that is a real": (HEADER, 0.5),
        "a header of 149 bytes": (HEADER, header[:-1]),
        "a header of 151 bytes": (HEADER, header + b"\0"),
        "an empty header": (HEADER, b""),
        "another magic": (HEADER, b"CRB2" + header[4:]),
        "type 0": (HEADER, header[:4] + b"\0" + header[5:]),
        "type 7": (HEADER, header[:4] + b"\7" + header[5:]),
        "a signature that is NULL": (SIGNATURE, None),
        "a signature that is text": (SIGNATURE, "s" * 64),
        "a signature of 63 bytes": (SIGNATURE, signature[:-1]),
        "a signature of 65 bytes": (SIGNATURE, signature + b"\0"),
        "a body that is NULL": (BODY, None),
        "a body that is text": (BODY, whole.hex()),
        "a body that is a negative number": (BODY, -1),
    }
    cases = [Case("UNREADABLE@2", why, with_part(2, *change)) for why, change in parts.items()]
    genesis = CHAINS.base.rows[0][BODY]
    bodies = {
        "a byte behind it": genesis + b"\0",
        "a finding that is not UTF-8": genesis[:-2] + b"\0\1\xff",
        "nothing in it": b"",
        "cut short": genesis[:-1],
    }
    return cases + [
        Case("UNREADABLE@0", f"a signed genesis with {why}", with_genesis(body))
        for why, body in bodies.items()
    ]


def reordered() -> list[Case]:
    base = CHAINS.base.rows
    below = copy(CHAINS.base)
    below.insert(0, [-1, *base[4][1:]])
    lowest = copy(CHAINS.base)
    lowest.append([-(2**63), *base[0][1:]])
    return [
        Case("REORDERED@1", "two blocks swapped", with_order(0, 2, 1, 3, 4)),
        Case("REORDERED@5", "the second block again at the end", with_order(0, 1, 2, 3, 4, 1)),
        Case("REORDERED@2", "the second block twice in its place", with_order(0, 1, 1, 2, 3, 4)),
        Case("REORDERED@0", "first and last swapped", with_order(4, 1, 2, 3, 0)),
        Case("REORDERED@2", "a second genesis", with_order(0, 1, 0, 3, 4)),
        Case("REORDERED@0", "a row before the first", below),
        Case("REORDERED@0", "a row at the lowest idx", lowest),
        Case("REORDERED@2", "a bit of the index", with_flip(2, HEADER, AT["index"] + 7, 4)),
        Case("REORDERED@2", "the highest bit of the index", with_flip(2, HEADER, AT["index"], 128)),
        Case("REORDERED@0", "a genesis that says it is sent", with_flip(0, HEADER, AT["type"], 3)),
    ]


def edited() -> list[Case]:
    base = CHAINS.base
    cases = [
        Case("EDITED@2", f"a bit of {name}", with_flip(2, HEADER, at))
        for name, at in AT.items()
        if name not in ("magic", "type", "index")
    ]
    body = flip(base.rows[2][BODY], 40)
    resealed = with_header(2, None, body_hash=sha(body))
    resealed[2][BODY] = body
    foreign = copy(base)
    foreign[2] = CHAINS.other.rows[2]
    other_key = [
        *resealed[:2],
        [2, resealed[2][1], sign(BOB.csk_seed, resealed[2][1]), body],
        *base.rows[3:],
    ]
    own = with_header(2, ALICE.csk_seed, timestamp_ms=NOW)
    return [
        *cases,
        Case("EDITED@0", "a bit of the genesis' chain_id", with_flip(0, HEADER, AT["chain_id"])),
        Case("EDITED@0", "a bit of the genesis' timestamp", with_flip(0, HEADER, 69)),
        Case("EDITED@0", "a bit of the genesis' certificate", with_flip(0, BODY, 500)),
        Case("EDITED@2", "sent becomes received", with_flip(2, HEADER, AT["type"], 1)),
        Case("EDITED@2", "a bit of the body's nonce", with_flip(2, BODY, 0)),
        Case("EDITED@2", "a bit of the body's last byte", with_flip(2, BODY, len(body) - 1, 128)),
        Case("EDITED@2", "a body emptied", with_part(2, BODY, b"")),
        Case("EDITED@4", "a bit of the last body", with_flip(4, BODY, 40)),
        Case("EDITED@2", "another body, with its hash", resealed),
        Case("EDITED@2", "the same, signed by another key", other_key),
        Case("EDITED@2", "a block of another chain of the same keys", foreign),
        Case(
            "EDITED@2",
            "signed anew by the right key, while its successor follows the old one",
            own,
        ),
        Case("EDITED@1", "bodies swapped", with_bodies_swapped()),
    ]


def with_bodies_swapped() -> list[Row]:
    rows = copy(CHAINS.base)
    rows[1][BODY], rows[3][BODY] = rows[3][BODY], rows[1][BODY]
    return rows


def forged() -> list[Case]:
    base, other = CHAINS.base.rows, CHAINS.other.rows
    swapped = copy(CHAINS.base)
    swapped[1][SIGNATURE], swapped[2][SIGNATURE] = base[2][SIGNATURE], base[1][SIGNATURE]
    stranger = with_part(2, SIGNATURE, sign(BOB.csk_seed, base[2][HEADER]))
    unlabelled = Ed25519PrivateKey.from_private_bytes(ALICE.csk_seed).sign(base[2][HEADER])
    bad = stretched("no certificate", 384)
    body = base[0][BODY]
    uncertified = with_genesis(body[:456] + bad + body[840:])
    not_a_key = with_genesis(body[:2] + bytes(422) + body[424:])
    flipped = with_flip(2, SIGNATURE, 63)
    broken = copy(CHAINS.base)
    broken[2][SIGNATURE], broken[3] = flipped[2][SIGNATURE], [3, None, None, None]
    return [
        Case("FORGED@2", "a bit of a signature", flipped, None, "OK"),
        Case("FORGED@2", "a signature of zeros", with_part(2, SIGNATURE, bytes(64)), None, "OK"),
        Case("FORGED@1", "signatures swapped", swapped, None, "OK"),
        Case("FORGED@2", "signed by another key", stranger, None, "OK"),
        Case("FORGED@2", "no label", with_part(2, SIGNATURE, unlabelled), None, "OK"),
        Case("FORGED@0", "a bit of the genesis' signature", with_flip(0, 2, 5), None, "OK"),
        Case("FORGED@4", "a bit of the last signature", with_flip(4, SIGNATURE, 0)),
        Case("FORGED@4", "a bit of the last header: no successor tells", with_flip(4, 1, 69)),
        Case("FORGED@2", "all from here on by another key", rewritten(2, BOB.csk_seed)),
        Case("FORGED@2", "a bit of a signature before a row that is none", broken),
        Case(
            "FORGED@1",
            "all but the genesis from another chain of the same keys",
            base[:1] + other[1:],
        ),
        Case("FORGED@0", "a signed genesis without certificate", uncertified),
        Case("FORGED@0", "a signed genesis without identity", not_a_key),
    ]


def weak_work() -> list[Case]:
    return [
        Case("WEAKPOW@1", "difficulty 7, signed by the right key", weak(7)),
        Case("WEAKPOW@1", "difficulty 8 that the hash does not have", weak(8)),
        Case("WEAKPOW@1", "difficulty 255 that the hash does not have", weak(255)),
        Case("WEAKPOW@1", "difficulty 0", weak(0)),
    ]


def other_chains() -> list[Case]:
    stranger = Chain("stranger", BOB).add(entry(1, BOB, 1, b"hello"))
    twin = Person("alice's second", ALICE.p, ALICE.q)
    cut = copy(CHAINS.other)[:2]
    return [
        Case("REWRITTEN@0", "a whole chain of somebody else", stranger.rows, stranger.chain_id),
        Case("REWRITTEN@0", "the same with any chain_id allowed", stranger.rows, bytes(16)),
        Case("REWRITTEN@0", "an older chain of the same keys", CHAINS.other.rows),
        Case("REWRITTEN@0", "its beginning", cut),
        Case("REWRITTEN@0", "the same identity, another CSK", Chain("base", twin).rows),
    ]


def two_at_once() -> list[Case]:
    gap = with_flip(1, BODY, 0)
    del gap[3]
    late = with_flip(3, BODY, 0)
    del late[1]
    weak_and_forged = weak(7)
    weak_and_forged[1][SIGNATURE] = bytes(64)
    both = with_flip(2, BODY, 0)
    both[2][SIGNATURE] = bytes(64)
    swapped = with_order(0, 1, 3, 2, 4)
    swapped[1][SIGNATURE] = bytes(64)
    stranger = copy(Chain("stranger", BOB))
    stranger[0][SIGNATURE] = bytes(64)
    return [
        Case("EDITED@1", "an edit before a gap", gap),
        Case("MISSING@1", "a gap before an edit", late),
        Case("FORGED@1", "weak and not signed", weak_and_forged),
        Case("EDITED@2", "body and signature", both),
        Case("FORGED@1", "a signature before two blocks swapped", swapped),
        Case("REWRITTEN@0", "somebody else's genesis, not signed", stranger),
    ]


def cases() -> list[Case]:
    right = (good, witnessed, forgotten, misattributed)
    wrong = (missing, unreadable, reordered, edited, forged, weak_work, other_chains, two_at_once)
    return [case for part in (*right, *wrong) for case in part()]


def with_sql(change: str, name: str = "blocks") -> list[str]:
    """What SQLite keeps as a table's statement, edited."""
    return [
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_schema SET sql = {change} WHERE name = '{name}'",
    ]


def schemas() -> list[tuple[int, str, list[str]]]:
    """Exit code, why, and statements: a schema is no row, so it is not signed."""
    part = "substr(header, 5, 1), idx"
    lying = f"CREATE INDEX i ON blocks ({part}) WHERE idx < 3"
    replaced = "replace(sql, 'body BLOB NOT NULL', 'body BLOB NOT NULL {}')"
    endless = "WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r)"
    as_rows = "SELECT i AS idx, x'' AS header, x'' AS signature, x'' AS body FROM r"
    refused = {
        "a trigger that lets no block be written": [
            "CREATE TRIGGER t BEFORE INSERT ON blocks BEGIN SELECT RAISE(IGNORE); END"
        ],
        "a trigger that puts a text back": [
            "CREATE TRIGGER t AFTER UPDATE ON blocks BEGIN UPDATE blocks SET body = old.body; END"
        ],
        "a trigger that removes side rows": [
            "CREATE TRIGGER t AFTER INSERT ON side BEGIN DELETE FROM side; END"
        ],
        "an index of some blocks that says it has all": [
            lying,
            *with_sql(f"'CREATE INDEX i ON blocks ({part})'", "i"),
        ],
        "an index of all blocks": [f"CREATE INDEX i ON blocks ({part})"],
        "a view without end in the place of blocks": [
            "ALTER TABLE blocks RENAME TO others",
            f"CREATE VIEW blocks AS {endless} {as_rows}",
        ],
        "a view that leaves blocks out": [
            "ALTER TABLE blocks RENAME TO others",
            "CREATE VIEW blocks AS SELECT * FROM others WHERE idx < 3",
        ],
        "a view beside": ["CREATE VIEW v AS SELECT * FROM blocks"],
        "a table beside": ["CREATE TABLE t (a)"],
        "statistics of ANALYZE": ["ANALYZE"],
        "no side table": ["DROP TABLE side"],
        "no tables": ["DROP TABLE side", "DROP TABLE blocks"],
        "one column more": ["ALTER TABLE blocks ADD COLUMN more"],
        "a column that is derived": ["ALTER TABLE blocks ADD COLUMN more AS (idx + 1)"],
        "a column of another name": ["ALTER TABLE blocks RENAME COLUMN body TO text"],
        "a check of values": with_sql(replaced.format("CHECK (idx < 9)")),
        "values that are replaced": with_sql(replaced.format("UNIQUE ON CONFLICT REPLACE")),
        "rows that go with others": with_sql(
            replaced.format("REFERENCES side (name) ON DELETE CASCADE")
        ),
        "a strict table": with_sql("sql || ' STRICT'"),
        "another collation": with_sql("replace(sql, 'TEXT', 'TEXT COLLATE NOCASE')", "side"),
        "another case": with_sql("replace(sql, 'BLOB', 'blob')"),
        "a space more": with_sql("sql || ' '"),
        "a comment": with_sql("sql || '/**/'"),
        "a statement that is no text": with_sql("CAST(sql AS BLOB)"),
        "another version": ["PRAGMA user_version = 2"],
    }
    allowed = {
        "as it is": [],
        "packed anew": ["VACUUM"],
        "other pages": [
            "PRAGMA journal_mode = DELETE",
            "PRAGMA page_size = 512",
            "PRAGMA auto_vacuum = FULL",
            "VACUUM",
        ],
        "another program's mark": ["PRAGMA application_id = 7"],
    }
    return [
        (code, why, statements)
        for code, schemas in ((0, allowed), (6, refused))
        for why, statements in schemas.items()
    ]


# --------------------------------------------------------------------------------------------------
# the file


def written(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    return value.hex() if isinstance(value, bytes) else value


def exit_code(verdict: str) -> int:
    return 0 if verdict == "OK" else 6 if verdict.startswith("UNREADABLE") else 4


def build() -> dict[str, Any]:
    """What is in the file."""
    blocks: list[list[Any]] = []
    found: list[dict[str, Any]] = []
    for case in cases():
        rows = []
        for idx, *parts in case.rows:
            block = [written(part) for part in parts]
            if block not in blocks:
                blocks.append(block)
            rows.append([idx, blocks.index(block)])
        chain_id = CHAINS.base.chain_id if case.chain_id is None else case.chain_id
        row: dict[str, Any] = {"why": case.why, "chain_id": chain_id.hex(), "rows": rows}
        row |= {"expect": case.expect, "exit": exit_code(case.expect)}
        if case.quick is not None:
            row["quick"] = case.quick
        if case.head is not None:
            row["head"] = {"index": case.head.number, "hash": case.head.hash.hex()}
            row["head"] |= {"signature": case.head.signature.hex()}
            row["witnessed"] = case.witnessed
        if case.deep:
            row["deep"] = case.deep
        if case.expect == "OK":
            sent = [r for r in case.rows if r[HEADER][4] == SENT]
            row["coins"] = len({r[HEADER][102:134] for r in sent})
            gone = [r[0] for r in case.rows if not any(r[BODY])]
            row |= {"erased": gone} if gone else {}
        if case.records is not None:
            row["records"] = [[r.type, r.record.hex()] for r in case.records]
        found.append(row)
    return {
        "about": "Made by tests/make_vectors_chain.py, which says how to read it.",
        "identity_spki": ALICE.spki.hex(),
        "csk_seed": ALICE.csk_seed.hex(),
        "csk": ed_public(ALICE.csk_seed).hex(),
        "cdk": ALICE.data_key.hex(),
        "bob_ssk": ed_public(BOB.ssk_seed).hex(),
        "blocks": blocks,
        "cases": found,
        "schemas": [{"exit": code, "why": why, "sql": sql} for code, why, sql in schemas()],
    }


def wrapped(data: bytes) -> list[str]:
    return ["    " + data[i : i + 44].hex() for i in range(0, len(data), 44)]


def example() -> str:
    """The first case, as CHAIN_FORMAT.md 8 shows it."""
    return "\n".join((*shown(0, "genesis"), *shown(1, "sent"), *shown(2, "received"), ""))


def shown(i: int, name: str) -> list[str]:
    _, header, signature, body = CHAINS.base.rows[i]
    lines = [f"block {i}, {name}"]
    for (field, start), end in zip(AT.items(), [*AT.values(), 150][1:], strict=True):
        lines.append(f"  {field:<13} {header[start:end].hex()}")
    lines += [f"  hash          {tagged('block', header).hex()}", "  signature"]
    lines += [*wrapped(signature), f"  body, {len(body)} bytes"]
    if i == 0:
        assert not any(body[840:])
        return [
            *lines,
            f"    SPKI         {body[:2].hex()} and 422 bytes whose SHA-256 is",
            f"                 {sha(body[2:424]).hex()}",
            f"    CSK          {body[424:456].hex()}",
            "    certificate  384 bytes whose SHA-256 is",
            f"                 {sha(body[456:840]).hex()}",
            "    the rest     58 zeros",
        ]
    lines += wrapped(body)
    if i == 1:
        lines += [f"  body key      {ALICE.body_key(header).hex()}"]
        lines += ["  record", *wrapped(CHAINS.base.records[0].record)]
    return lines


def text() -> str:
    """The file."""
    return json.dumps(build(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="ascii")
