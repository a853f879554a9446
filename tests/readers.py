"""Whatever reads bytes that somebody else may have written, each as one function of the bytes.

A `Harness` is called with any bytes and returns; it raises only where the program is wrong: an
error that is not documented, a value that does not serialize to the bytes it was read from, a
report that contradicts itself.  `fuzz.py` looks for such bytes, guided by coverage; `test_fuzz.py`
runs each harness over its seeds and what is near one of them, so that none rots.

Where a signature, checksum or link would stop nearly all mutated bytes at the door, a harness also
goes in as who could make them: it adds the checksum that fits (`keystore`), spells what it is given
(`invite`), or leaves signatures out and links blocks anew (`bundle`, `proof_relinked`,
`chain_rows`).
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import re
import shutil
import sqlite3
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import zeroconf
from cryptography.hazmat.primitives.serialization import load_der_private_key
from zeroconf import ServiceInfo

import blockchain
import chat_feeds
import chat_invite
import chat_proof
import chat_settings
import chat_verdicts
import crypto_utils
from blockchain import Block, Blockchain, BlockType, Genesis, StoreError, StoreUnreadable
from chat_addresses import Address
from chat_audit import ENTRY_TYPES, Evidence, audit
from chat_blocks import (
    BODY_HASH_AT,
    CHAIN_ID_AT,
    ENTRY_ID_AT,
    HEADER,
    HEADER_BYTES,
    INDEX_AT,
    NONCE_AT,
    TIME_AT,
    Head,
)
from chat_checkpoint import Checkpoint
from chat_commands import Command, Say
from chat_discovery import SERVICE, Browser
from chat_effects import Append, Effect, Effects, MakeSessionKey, Moment, Show, Transmit
from chat_invite import Invite, InviteError, same_number
from chat_json import MAX_ID_CHARACTERS, BadRequest, as_json, read_request, request_id
from chat_memory import Memory, Past
from chat_messages import (
    ENTRY_HEAD_BYTES,
    Bundle,
    Entry,
    Event,
    Message,
    SignedEntry,
    pad,
    parse_payload,
    unpad,
)
from chat_proof import check_proof
from chat_rows import parse_row
from chat_session import Session
from chat_settings import UsageError
from chat_sync_bodies import Entries, Fetch, Range, parse_body, serialize_body
from chat_wire import (
    MAX_FRAME_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    Frame,
    FrameDecoder,
    FrameType,
    H,
    Hello,
    Join,
    Label,
    Ping,
    Pong,
    Reader,
    Rebundle,
    Welcome,
    WireError,
    prefixed,
    u8,
    u16,
    u32,
    u64,
)
from crypto_utils import (
    SIGNATURE_BYTES,
    BadSignature,
    CryptoError,
    EncryptionManager,
    Identity,
    IdentityPublic,
    Keystore,
    KeystoreDamaged,
    PassphraseNeeded,
    RoomSecret,
    SigningKey,
    VerifyKey,
)

VECTORS = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Harness:
    """One reader; its name is the function's."""

    read: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]  # the first is a good one
    max_bytes: int  # what is worth trying: no less than a seed has
    near: int = 450  # how many inputs near a seed `make test` can afford

    @property
    def name(self) -> str:
        return self.read.__name__


# --------------------------------------------------------------------------- seeds


@cache
def vectors(name: str) -> dict[str, Any]:
    """tests/vectors/NAME.json."""
    loaded: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("ascii"))
    return loaded


def _from_hex(text: str) -> bytes:
    """In which (61*300) stands for the byte 61 three hundred times."""
    return bytes.fromhex(re.sub(r"\((..)\*(\d+)\)", lambda m: m[1] * int(m[2]), text))


def _given(name: str, what: str, limit: int = 4096) -> list[bytes]:
    """The inputs of one kind of case, good and bad; none over `limit` bytes."""
    cases = (case for case in vectors(name)["cases"] if case["what"] == what)
    found = dict.fromkeys(_from_hex(case["given"]["data"]) for case in cases)
    return [data for data in found if len(data) <= limit]


@cache
def _keys() -> Keystore:
    """Whose the vectors' chain is."""
    chain = vectors("chain")
    identity = Identity.from_pkcs8(_good_key())
    seed, data_key = bytes.fromhex(chain["csk_seed"]), bytes.fromhex(chain["cdk"])
    return Keystore(identity, SigningKey(seed), data_key)


@cache
def _folder() -> Path:
    """For files that a reader wants; in memory where that can be, and gone at the end."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="chainroom-", dir=shm if shm.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _swapped(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _never(*_args: object) -> None:
    pass


@contextmanager
def _signatures_fit() -> Iterator[None]:
    """As if whoever made the bytes had every key."""
    with _swapped(VerifyKey, "verify", _never), _swapped(IdentityPublic, "verify", _never):
        yield


# --------------------------------------------------------------------------- frames

_MESSAGES: dict[int, Any] = {
    FrameType.HELLO: Hello,
    FrameType.JOIN: Join,
    FrameType.WELCOME: Welcome,
    FrameType.ADD: Add,
    FrameType.DEL: Del,
    FrameType.REBUNDLE: Rebundle,
    FrameType.BROADCAST: Broadcast,
    FrameType.DIRECT: Direct,
    FrameType.PING: Ping,
    FrameType.PONG: Pong,
    FrameType.ERROR: Error,
}


def _read_frame(frame: Frame) -> None:
    kind = _MESSAGES.get(frame.type)
    if kind is None:
        return
    try:
        message = kind.parse(frame.body)
    except WireError:
        return
    assert message.serialize() == frame.raw, message


def frames(data: bytes) -> None:
    """A stream in pieces: the first byte says how long they are, and which limit holds."""
    size, stream = (data[0] & 0x7F) + 1 if data else 1, data[1:]
    limit = 64 if data and data[0] & 0x80 else MAX_FRAME_BYTES
    decoder, out = FrameDecoder(limit), b""
    try:
        for at in range(0, len(stream), size):
            decoder.feed(stream[at : at + size])
            for frame in decoder:
                out += frame.raw
                assert 5 <= len(frame.raw) <= limit + 4
                _read_frame(frame)
            assert len(decoder._buffer) <= limit + 4 + size
            assert out + decoder.rest() == stream[: at + size]
    except WireError:
        assert stream.startswith(out + decoder.rest())


def relay_messages(data: bytes) -> None:
    """One frame that is whole: type u8 ‖ body."""
    if data:
        _read_frame(Frame(u32(len(data)) + data))


def _frame_seeds() -> list[bytes]:
    return [b"\x7f" + data for data in _given("messages", "frame")]


# --------------------------------------------------------------------------- payloads


def payload(data: bytes) -> None:
    """What a member hears from another, through the relay."""
    try:
        found = parse_payload(data)
    except WireError:
        return
    assert found.serialize() == data
    if not isinstance(found, Message):
        with suppress(BadSignature):
            found.verify(_keys_verify())


@cache
def _keys_verify() -> VerifyKey:
    return VerifyKey(_keys().chain_signing_key.public)


def sync_body(data: bytes) -> None:
    """A question or answer, after it is opened; also one whose length and padding are right."""
    kind, fields = data[:1], data[1:]
    fitting = kind + u32(len(fields)) + fields
    for body in (data, fitting + bytes(-len(fitting) % 1024)):
        try:
            found = parse_body(body)
        except WireError:
            continue
        assert serialize_body(found) == body
        if isinstance(found, Entries) and found.done:
            question = Fetch(tuple(Range(bytes(16), bytes(16), 1, 9) for _ in found.done))
            assert found.deals_with(question) == all(last <= 9 for last in found.done)


def _body_seeds() -> list[bytes]:
    bodies = _given("messages", "sync body")
    size = 5 + int.from_bytes(bodies[0][1:5], "big")
    return [*bodies, bodies[0][:1] + bodies[0][5:size]]


def entry(data: bytes) -> None:
    """What is inside a message, after the AEAD and before the signature."""
    try:
        plain = unpad(data)
    except WireError:
        plain = data
    else:
        assert pad(plain) == data
    for head in (plain, _with_hash(plain)):
        try:
            signed = SignedEntry.parse(head)
        except WireError:
            continue
        assert signed.serialize() == head
        with suppress(BadSignature):
            signed.verify(_keys_verify())
    with suppress(WireError):
        kept = Entry.of_head(data[:ENTRY_HEAD_BYTES])
        assert replace(kept, salt=b"", text=b"").entry_id != kept.entry_id
        Memory().read_received(kept, 0)


def _with_hash(data: bytes) -> bytes:
    """That entry with the hash of the text that it has."""
    try:
        r = Reader(data)
        head, salt, text = r.fixed(ENTRY_HEAD_BYTES), r.fixed(16), r.prefixed()
    except WireError:
        return data
    return head[:-32] + H(Label.TEXT, salt + text) + data[ENTRY_HEAD_BYTES:]


def event(data: bytes) -> None:
    """A record of one's own chain, and what a later run makes of it."""
    try:
        found = Event.parse(data)
    except WireError:
        return
    assert found.serialize() == data
    with _signatures_fit():
        past = Past()
        past.read_event(found)
        past.read_event(found)
    again = Past.parse(past.serialize())
    assert again.serialize() == past.serialize()


def bundle(data: bytes) -> None:
    """Who somebody says to be: nobody is believed without the identity's signature."""
    with _signatures_fit():
        try:
            found = Bundle.parse(data, None)
        except (WireError, CryptoError):
            return
    key = crypto_utils.RSA_BYTES
    body = u8(1) + found.room_tag + prefixed(found.identity.spki) + prefixed(found.nick.encode())
    body += found.session_id + found.session_key.public + u32(found.sek_number)
    body += prefixed(found.sek) + found.chain_id + found.chain_key.public
    assert body + data[-key - 32 :] == data == found.raw
    assert found.name.startswith(found.nick + "#")
    with suppress(BadSignature):
        Bundle.parse(data, RoomSecret(bytes.fromhex(vectors("messages")["room"])))


def evidence(data: bytes) -> None:
    """What a witness signed: bundle (u16) ‖ payload."""
    with _signatures_fit():
        try:
            found = Evidence.parse(data)
        except (WireError, CryptoError):
            return
        assert prefixed(found.witness.raw) + found.payload.serialize() == data
    with suppress(BadSignature):
        Evidence.parse(data)


def _evidence_seeds() -> list[bytes]:
    files = [proof for proof in _proofs() if len(proof) <= _MAX_PROOF_BYTES]
    found: dict[bytes, None] = {}
    for file in files:
        with suppress(WireError):
            for bundle_of, said in chat_proof._Layout.parse(file).evidence:
                found[prefixed(bundle_of) + said] = None
    return list(found)[:40]


# --------------------------------------------------------------------------- what people keep


@cache
def _good_key() -> bytes:
    return bytes.fromhex(vectors("crypto")["identity_pkcs8"])


@lru_cache(maxsize=64)
def _loaded(data: bytes, _password: None, *, unsafe_skip_rsa_key_validation: bool) -> object:
    """OpenSSL checks an RSA key for 30 ms, and it is not OpenSSL that is tried here: of other keys
    than ours it is asked about one in 128, and the rest are bad."""
    is_asked = unsafe_skip_rsa_key_validation or hashlib.sha256(data).digest()[0] < 2
    if not is_asked and data != _good_key():
        raise ValueError("no good key, as far as is known")
    return load_der_private_key(
        data, None, unsafe_skip_rsa_key_validation=unsafe_skip_rsa_key_validation
    )


def keystore(data: bytes) -> None:
    """A keystore's file, and the same bytes with the checksum that fits."""
    with _swapped(crypto_utils, "load_der_private_key", _loaded):
        for file in (data, data + H(Label.KEYSTORE, data)):
            with suppress(KeystoreDamaged):
                Keystore.public_part(file)
            try:
                found = Keystore.parse(file)
            except (KeystoreDamaged, PassphraseNeeded):
                continue
            assert found.serialize() == file


def keystore_opened(data: bytes) -> None:
    """What is behind a passphrase: whoever knows that may have put anything there."""
    parameters = crypto_utils._PARAMETERS.pack(*crypto_utils._LEAST_COST, bytes(16))
    lock = crypto_utils._Lock(parameters, bytes(32))
    public = _keys().public
    body = b"CRK1" + u8(1) + parameters + prefixed(public.identity_spki) + public.chain_key
    body += public.chain_id
    if len(data) > 60_000:
        return
    body += prefixed(crypto_utils.seal(lock.key, data, body))
    with (
        _swapped(crypto_utils, "load_der_private_key", _loaded),
        _swapped(crypto_utils._Lock, "derive", lambda *_: lock),
        suppress(KeystoreDamaged),
    ):
        found = Keystore.parse(body + H(Label.KEYSTORE, body), lambda: b"a passphrase")
        assert found.public == public
        assert found.identity.to_pkcs8() in data


def _keystore_seeds() -> list[bytes]:
    files = _given("crypto", "keystore")
    return [*files, *(file[:-32] for file in files)]


def _private_seeds() -> list[bytes]:
    keys = _keys()
    tail = keys.chain_signing_key.seed + keys.chain_data_key
    whole = prefixed(keys.identity.to_pkcs8()) + tail
    other = bytes.fromhex("302e020100300506032b657004220420") + bytes(32)  # Ed25519
    return [whole, prefixed(other) + tail, tail]


def invite(data: bytes) -> None:
    """What somebody pasted; then the same bytes as an invite's, spelled as they must be."""
    text = data.decode("utf-8", "surrogateescape")
    for typed in (text, _spelled(data)):
        try:
            found = Invite.parse(typed)
        except InviteError:
            continue
        assert Invite.parse(found.text) == found
        assert Invite.parse(f"chainroom:{found.text.lower()} ") == found
        assert typed != _spelled(data) or typed == found.text  # one invite, one spelling
    assert same_number(text, "12345 " * 12) in (None, False, True)


def _spelled(body: bytes) -> str:
    """With every checksum right, whatever the bytes say."""
    count = chat_invite._part_count(len(body))
    value = chat_invite._with_checksum(body, count * 20 - 8 * len(body))
    parts = []
    for number in range(1, count + 1):
        bits = value >> (count - number) * 20
        symbols = [bits >> shift & 31 for shift in (15, 10, 5, 0)]
        symbols.append(chat_invite._sum([*symbols, 0]) ^ number % 32)
        parts.append("".join(chat_invite._ALPHABET[symbol] for symbol in symbols))
    return "-".join(parts)


def _invite_seeds() -> list[bytes]:
    cases = vectors("invite")["cases"]
    texts = [case["text"] for case in cases]
    good = [case["expect"] for case in cases if isinstance(case["expect"], dict)]
    bodies = [
        Invite(RoomSecret(bytes.fromhex(e["room"])), e["server"], e["port"])._body() for e in good
    ]
    return [*(text.encode("utf-8", "surrogateescape") for text in texts), *bodies]


# --------------------------------------------------------------------------- chains


def block(data: bytes) -> None:
    """A header, and the same bytes as a genesis' body."""
    with suppress(WireError):
        found = Block.parse(data)
        assert replace(found).header == data  # from its fields
    with suppress(WireError, CryptoError):
        genesis = Genesis.parse(data)
        assert genesis.serialize() == data
        genesis.verify(bytes(16))


def _block_seeds() -> list[bytes]:
    blocks = vectors("chain")["blocks"]
    headers = dict.fromkeys(_from_hex(header) for header, *_ in blocks if isinstance(header, str))
    return [_from_hex(blocks[0][2]), *list(headers)[:40]]


def checkpoint(data: bytes) -> None:
    """The note beside a chain, and what it says of others."""
    try:
        found = Checkpoint.parse(data)
    except WireError:
        return
    assert found.serialize() == data
    past(found.past)


def past(data: bytes) -> None:
    """What a chain up to some block says of others: read, used, written and read again."""
    try:
        found = Past.parse(data)
    except WireError:
        return
    assert not _is_past(data + b"\0")
    found.memory({})
    written = found.serialize()
    again = Past.parse(written)
    assert again.serialize() == written
    again.forget(1)
    again.memory({})
    Past.parse(again.serialize())


def _is_past(data: bytes) -> bool:
    try:
        Past.parse(data)
    except WireError:
        return False
    return True


def _past_seeds() -> list[bytes]:
    made = Past()
    with _signatures_fit():
        for data in _given("messages", "event"):
            with suppress(WireError):
                made.read_event(Event.parse(data))
        for data in _given("messages", "entry"):
            with suppress(WireError):
                made.read_received(SignedEntry.parse(data).entry, 1)
    empty = Past()
    return [made.serialize(), empty.serialize()]


def _checkpoint_seeds() -> list[bytes]:
    head = bytes(16) + u64(7) + bytes(32) + bytes(64)
    plain = u8(2) + head + u64(3) + u32(0)
    files = u8(2) + head + u64(3) + u32(2) + (prefixed(b"evidence-1.db") + u64(9)) * 2
    return [*(files + past for past in _past_seeds()), files, plain]


def _rows_of(data: bytes) -> Iterator[tuple[object, ...]]:
    """Rows as SQLite may have them, each value of any type; as `_as_row` writes them."""
    r = Reader(data)
    with suppress(WireError):
        while True:
            row: list[object] = []
            for _ in range(4):
                match r.u8() % 5:
                    case 0:
                        row.append(int.from_bytes(r.fixed(8), "big", signed=True))
                    case 1 | 2:
                        row.append(r.prefixed())
                    case 3:
                        row.append(r.prefixed().decode("latin-1"))
                    case _:
                        row.append(None)
            yield tuple(row)


def _as_value(value: object) -> bytes:
    """As the vectors have it: a number, bytes in hex, a text or nothing."""
    match value:
        case int():
            return u8(0) + value.to_bytes(8, "big", signed=True)
        case str():
            return u8(1) + prefixed(_from_hex(value))
        case {"text": text}:
            return u8(3) + prefixed(str(text).encode("latin-1", "replace"))
    return u8(4)


def chain_rows(data: bytes) -> None:
    """The first byte says whether signatures count; then the rows of a chain's table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for sql in blockchain._TABLES.values():
            connection.execute(sql)
        for row in _rows_of(data[1:]):
            with suppress(sqlite3.Error):
                connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", row)
        if data[:1] < b"\x80":
            with _signatures_fit(), _swapped(chat_verdicts, "is_mined", lambda *_: True):
                _look_at(Blockchain(connection, _keys()))
        else:
            _look_at(Blockchain(connection, _keys()))


def _look_at(chain: Blockchain) -> None:
    """All that is asked of a chain; it says what is wrong with it, or StoreUnreadable."""
    with suppress(StoreUnreadable, WireError):
        last = chain._rows.last()
        chain._last = parse_row(last) if last else None
    quick, deep = chain.verify(signatures=False), chain.verify()
    for verdict in (quick, deep):
        assert verdict.exit_code in (0, 4, 6)
        assert verdict.sentence
    assert deep.ok <= quick.ok  # whatever the quick one sees, the deep one sees
    for ask in (
        chain.head,
        chain.genesis,
        chain.coins,
        chain.erased,
        lambda: chain.block(deep.index),
        lambda: list(chain.records(*BlockType)),
        lambda: list(chain.scan(*BlockType, newest_first=True)),
        lambda: audit(chain),
        lambda: chat_proof.make_proof(chain, nick=""),
        lambda: Checkpoint.read(chain),
    ):
        with suppress(StoreUnreadable):
            ask()


def _row_seeds() -> list[bytes]:
    chain, found = vectors("chain"), dict[bytes, None]()
    for case in chain["cases"]:
        values = [v for idx, number in case["rows"] for v in (idx, *chain["blocks"][number])]
        rows = b"".join(map(_as_value, values))
        found[b"\xff" + rows] = found[b"\x00" + rows] = None
    return [data for data in found if len(data) <= 8192]


def chain_file(data: bytes) -> None:
    """The file as a whole."""
    path = _folder() / "chain.db"
    for leftover in _folder().glob("chain.db*"):
        leftover.unlink()
    path.write_bytes(data)
    try:
        chain = Blockchain.open(path, _keys())
    except StoreError:
        return
    try:
        _look_at(chain)
    finally:
        chain.close()


def _file_seeds() -> list[bytes]:
    path = _folder() / "made.db"
    chain = vectors("chain")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=512")
        connection.execute("PRAGMA user_version=1")
        for sql in blockchain._TABLES.values():
            connection.execute(sql)
        for idx, number in chain["cases"][0]["rows"]:
            row = (idx, *map(_from_hex, chain["blocks"][number]))
            connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", row)
    data = path.read_bytes()
    path.unlink()
    return [data, data[: len(data) // 2], b""]


# --------------------------------------------------------------------------- proofs


_MAX_PROOF_BYTES = 12_000


@cache
def _proofs() -> list[bytes]:
    return [b64decode(case["file"]) for case in vectors("proof")["cases"]]


def _small_proofs() -> list[bytes]:
    """Of all lengths, good ones and bad ones."""
    found = {len(data) // 16: data for data in _proofs() if len(data) <= _MAX_PROOF_BYTES}
    return sorted(found.values(), key=lambda data: (check_proof(data).exit_code, len(data)))


def _judged(data: bytes) -> None:
    report = check_proof(data)
    assert report.exit_code in (0, 4, 6)
    assert (report.exit_code == 0) == (report.problem == "")
    lines = report.lines()
    assert all(isinstance(line, str) for line in lines)
    assert len(lines) < 200


def proof(data: bytes) -> None:
    """A file that somebody handed over."""
    _judged(data)


def proof_relinked(data: bytes) -> None:
    """The same from a dishonest owner whose friends sign anything: every link and signature fits,
    so what is left are the rules about what is in it."""
    try:
        made = _relinked(data)
    except WireError:
        made = data
    with _signatures_fit(), _swapped(chat_proof, "is_mined", lambda *_: True):
        _judged(made)


def _relinked(data: bytes) -> bytes:
    """Each header names its record and the block before; raises WireError."""
    layout = chat_proof._Layout.parse(data)
    size, rows = HEADER_BYTES + SIGNATURE_BYTES, layout.rows
    headers = [bytearray(rows[at : at + HEADER_BYTES]) for at in range(0, len(rows), size)]
    for index, record in layout.records:
        if index >= len(headers):
            continue
        _, kind, *_, refers_to = HEADER.unpack(headers[index])
        named, entry_id = index, b""
        if kind == BlockType.EVENT:
            entry_id = H(Label.EVENT, record)
        elif kind in ENTRY_TYPES:
            entry_id = H(Label.ENTRY, record[:ENTRY_HEAD_BYTES])
        elif kind == BlockType.FORGET and refers_to < index:
            named, entry_id = refers_to, H(Label.ENTRY, record[:-SIGNATURE_BYTES])
        if entry_id:
            headers[named][ENTRY_ID_AT:NONCE_AT] = entry_id
    previous, out = bytes(32), b""
    for index, header in enumerate(headers):
        header[CHAIN_ID_AT:INDEX_AT] = headers[0][CHAIN_ID_AT:INDEX_AT]
        header[INDEX_AT:TIME_AT] = u64(index) + previous
        if index == 0:
            header[BODY_HASH_AT:ENTRY_ID_AT] = hashlib.sha256(layout.genesis_body).digest()
        previous = H(Label.BLOCK, bytes(header))
        out += header + rows[index * size + HEADER_BYTES : (index + 1) * size]
    at = 5 + 2 + len(layout.nick) + 2 + len(layout.genesis_body) + 4
    return layout.signed[:at] + out + layout.signed[at + len(out) :] + layout.signature


# --------------------------------------------------------------------------- the network


_NO_ZEROCONF = zeroconf.Zeroconf.__new__(zeroconf.Zeroconf)  # nothing is asked of it


def announcement(data: bytes) -> None:
    """What a computer of the network says of a relay (mDNS): name (u16 length) ‖ port u16 ‖ number
    of addresses u8 ‖ so many, of 4 or 16 bytes ‖ its TXT record."""
    r = Reader(data)
    try:
        name, port = r.prefixed().decode("utf-8", "replace"), r.u16()
        addresses = [r.fixed(16 if r.u8() & 1 else 4) for _ in range(r.u8() % 20)]
    except WireError:
        return
    txt = r.rest()

    def told(service: str, name: str) -> ServiceInfo:
        return ServiceInfo(service, name, port=port, addresses=addresses, properties=txt)

    browser, added = Browser(), zeroconf.ServiceStateChange.Added
    browser._own = [Address("192.168.1.9", "eth0", 24)]
    with _swapped(zeroconf, "ServiceInfo", told), _swapped(Browser, "_is_told", lambda *_: True):
        browser._changed(
            zeroconf.Zeroconf.__new__(zeroconf.Zeroconf), SERVICE, f"{name}.{SERVICE}", added
        )
    for found in browser.found():
        assert found.name.isprintable()
        assert 1 <= found.port <= 65_535


def _announcement_seeds() -> list[bytes]:
    address = u8(0) + bytes((192, 168, 1, 5)) + u8(1) + bytes(16)
    good = prefixed(b"ship 5555") + u16(5555) + u8(2) + address + b"\3v=1"
    return [good, good + b"\5a=\xff\xfe\xfd", prefixed(b"a\nb") + good[11:], good[:-4]]


# --------------------------------------------------------------------------- a session


@cache
def _bob() -> tuple[Keystore, EncryptionManager, SigningKey]:
    member = vectors("messages")["members"]["bob"]
    identity = Identity.from_pkcs8(bytes.fromhex(member["identity_pkcs8"]))
    csk, chain_id = bytes.fromhex(member["csk_seed"]), bytes.fromhex(member["chain_id"])
    sek = EncryptionManager.__new__(EncryptionManager)  # it would make a key of its own
    sek._key = Identity.from_pkcs8(bytes.fromhex(member["sek_pkcs8"]))._key
    sek._spki = crypto_utils._spki(sek._key.public_key())
    keys = Keystore(identity, SigningKey(csk), bytes(32), chain_id)
    return keys, sek, SigningKey(bytes.fromhex(member["ssk_seed"]))


@contextmanager
def _nothing_is_secret() -> Iterator[None]:
    """Every signature, proof and hash of a text fits, what is sealed is what is in it, keys are all
    the same, and nothing is random: whoever made the bytes knew everything."""
    session_key = _bob()[2]
    with ExitStack() as stack:
        for owner, name, value in (
            (VerifyKey, "verify", _never),
            (IdentityPublic, "verify", _never),
            (hmac, "compare_digest", lambda *_: True),
            (chat_feeds, "open_sealed", lambda _key, sealed, _associated: sealed[12:-16]),
            (Identity, "sign", lambda *_: bytes(crypto_utils.RSA_BYTES)),
            (EncryptionManager, "unwrap_key", lambda *_: bytes(32)),
            (EncryptionManager, "wrap_key", lambda *_: bytes(crypto_utils.RSA_BYTES)),
            (SigningKey, "generate", lambda: session_key),
        ):
            stack.enter_context(_swapped(owner, name, value))
        yield


@cache
def _bob_session_id() -> bytes:
    return bytes.fromhex(vectors("messages")["members"]["bob"]["session_id"])


def session(data: bytes) -> None:
    """What a relay, and members who know every secret, make of one session: steps of what u8 ‖
    a body (u16 length).  0: time passes, 1: a line is typed, 2: the connection is lost and comes
    back, else a frame."""
    keys, sek, _ = _bob()
    r, now = Reader(data), Moment(10_000.0, 1_700_000_000_000)
    with _nothing_is_secret(), suppress(WireError):
        one = Session(keys, RoomSecret.open_room("lobby"), "bob", sek, now)
        one.connected()
        for _ in range(64):
            what, body = r.u8(), r.prefixed()
            effects: Effects = []
            match what:
                case 0:
                    later = int.from_bytes(body[:2], "big") / 10
                    now = Moment(now.s + later, now.ms + int(later * 1000))
                    effects += one.tick(now, Head(keys.chain_id, 7, bytes([1] * 32), bytes(64)))
                case 1:
                    effects += one.typed(body.decode("utf-8", "replace"), now)
                case 2:
                    effects += one.disconnected("cut", now)
                    effects += one.connected()
                case _:
                    frame = u32(len(body) + 1) + u8(what - 2) + body
                    effects += one.receive(Frame(frame), now)
            for effect in effects:
                _check_effect(effect)
                if isinstance(effect, MakeSessionKey):
                    one.session_key_made(sek, now)
        assert one._heard._held_bytes <= 4 << 20
        assert one.status_row()


def _check_effect(effect: Effect) -> None:
    match effect:
        case Transmit(frame):
            (sent,) = _decoded(frame)
            _read_frame(sent)
            if sent.type in (FrameType.BROADCAST, FrameType.DIRECT):
                parse_payload(sent.body[16 * (sent.type == FrameType.DIRECT) :])
        case Show(line):
            assert line.render()
            assert as_json(line).isascii()
        case Append(draft):
            assert len(draft.entry_id) == 32
            if draft.type is BlockType.EVENT:
                Event.parse(draft.record)
            else:
                SignedEntry.parse(draft.record)


def _decoded(frame: bytes) -> list[Frame]:
    decoder = FrameDecoder(MAX_FRAME_BYTES)
    decoder.feed(frame)
    return list(decoder)


def _step(what: int, body: bytes) -> bytes:
    return u8(what) + prefixed(body)


def _session_seeds() -> list[bytes]:
    alice = vectors("messages")["members"]["alice"]
    alice_id, bob_id = bytes.fromhex(alice["session_id"]), _bob_session_id()
    bundles = [b for b in _given("messages", "bundle") if len(b) > 1000]
    hello = _step(2 + FrameType.HELLO, bytes((1, 1)) + bytes(33) + u32(MAX_FRAME_BYTES))
    joined = hello + _step(2 + FrameType.WELCOME, u8(1) + u16(1) + alice_id + prefixed(bundles[0]))
    later, said = _step(0, b"\0\x40"), _step(1, b"hello") + _step(1, b"/msg alice psst")
    found = [joined + later + said + _step(1, b"/who") + _step(2, b"") + joined]
    share = next(p for p in _given("messages", "payload") if p[:2] == b"\1\1")
    for payload_of in _given("messages", "payload"):
        for way in (
            _step(2 + FrameType.BROADCAST, payload_of),
            _step(2 + FrameType.DIRECT, bob_id + payload_of),
        ):
            found.append(joined + way + later)
    with_key = joined + _step(2 + FrameType.DIRECT, bob_id + share)
    for number, plain in enumerate(_given("messages", "entry")[:12]):
        sealed = bytes(12) + pad(plain) + bytes(16)
        message = Message(alice_id, RoomSecret.open_room("lobby").tag, 1, number % 3, sealed)
        found.append(with_key + _step(2 + FrameType.BROADCAST, message.serialize()) + later * 2)
    for bundle_of in bundles:
        add = _step(2 + FrameType.ADD, alice_id + prefixed(bundle_of))
        found.append(joined + said + add + _step(2 + FrameType.DEL, alice_id + u8(1)) + later)
    return [data for data in dict.fromkeys(found) if len(data) <= 8192]


# --------------------------------------------------------------------------- text


def json_request(data: bytes) -> None:
    """A line of a program's."""
    asked = _asked(data.decode("utf-8", "surrogateescape"))
    if isinstance(asked, BadRequest):
        shown = as_json(asked.line)
        assert shown.isascii()
        assert "\n" not in shown
        assert len(shown) < 2000  # 40 characters of it, escaped twice, and an id
        assert len(asked.id) <= MAX_ID_CHARACTERS
    else:
        assert len(request_id(asked)) <= MAX_ID_CHARACTERS
        said = asked.text if isinstance(asked, Say) else asked.argument
        said.encode()  # no half of a surrogate pair


def _asked(line: str) -> Say | Command | BadRequest:
    try:
        return read_request(line)
    except BadRequest as exc:
        return exc


def _json_seeds() -> list[bytes]:
    return [
        b'{"type": "say", "text": "hello"}',
        b'{"v": 1, "type": "msg", "to": "bob#7f3a", "text": "h\\u00e9 \\ud83d\\ude00", "id": "7"}',
        b'{"type": "command", "line": "/history 5", "id": "a"}',
        b'{"type": "leave"}',
        b'{"type": "say", "text": "\\ud800"}',
        b'{"type": "say", "type": "say", "text": ["x", {"a": null, "b": [true, 1e5, -0.5]}]}',
        b"[" * 600 + b"]" * 600,
        b'{"v": ' + b"9" * 5000 + b"}",
    ]


_make_parser = chat_settings.parser


@cache  # it takes 3 ms to make
def _parser() -> Any:
    return _make_parser()


def config(data: bytes) -> None:
    """config.toml, with all that is done to its values."""
    (_folder() / "config.toml").write_bytes(data)
    with _swapped(chat_settings, "parser", _parser):
        try:
            found = chat_settings.read_settings([], {"CHAINROOM_HOME": str(_folder())})
        except UsageError:
            return
    assert found.port is None or 1 <= found.port <= 65_535


def _config_seeds() -> list[bytes]:
    return [
        b'name = "alice"\nserver = "192.168.1.5"\nport = 5556\nroom = "lobby"\nplain = true\n',
        b'time = "hms" # so\nbell = \'all\'\nlinger = 2.5\nquiet = false\nno_announce = "yes"\n',
        b'profile = "work"\npassword_file = "~/p"\npassphrase_file = """/tmp/x"""\njson = 0x1\n',
        b'name = "\\u00e9"\nport = 5_5\nlinger = inf\n',
        b"[table]\na = [1, {b = 2}, 1979-05-27T07:32:00Z]\n[[more]]\nc.d = ''\n",
        b"port = " + b"9" * 5000,
        b"port = " + b"{a=" * 400,
    ]


# --------------------------------------------------------------------------- all of them

HARNESSES: dict[str, Harness] = {
    harness.name: harness
    for harness in (
        Harness(frames, _frame_seeds, 4096),
        Harness(relay_messages, lambda: [d[5:] for d in _frame_seeds() if len(d) > 5], 4096),
        Harness(payload, lambda: _given("messages", "payload"), 2048),
        Harness(sync_body, _body_seeds, 4096),
        Harness(
            entry, lambda: [*_given("messages", "entry"), *_given("messages", "padding")], 4096
        ),
        Harness(event, lambda: _given("messages", "event"), 2048),
        Harness(bundle, lambda: _given("messages", "bundle"), 2048),
        Harness(evidence, _evidence_seeds, 4096),
        Harness(keystore, _keystore_seeds, 4096, near=100),
        Harness(keystore_opened, _private_seeds, 2048, near=100),
        Harness(invite, _invite_seeds, 512),
        Harness(block, _block_seeds, 1024),
        Harness(checkpoint, _checkpoint_seeds, 4096),
        Harness(past, _past_seeds, 4096),
        Harness(chain_rows, _row_seeds, 8192, near=60),
        Harness(chain_file, _file_seeds, 16_384, near=60),
        Harness(proof, _small_proofs, _MAX_PROOF_BYTES),
        Harness(proof_relinked, _small_proofs, _MAX_PROOF_BYTES),
        Harness(session, _session_seeds, 8192, near=60),
        Harness(announcement, _announcement_seeds, 512),
        Harness(json_request, _json_seeds, 6000),
        Harness(config, _config_seeds, 6000),
    )
}
