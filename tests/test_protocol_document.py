"""docs/PROTOCOL.md says what the code does: every example's bytes, every name, number and limit."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

import make_vectors_crypto as base
import make_vectors_invite as invites
import make_vectors_messages as reference
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key
from make_vectors_crypto import stretched

import chat_acks
import chat_archive
import chat_feeds
import chat_heard
import chat_invite
import chat_link
import chat_members
import chat_messages
import chat_roster
import chat_server
import chat_session
import chat_sync
import chat_sync_bodies
import chat_wire
import chat_witness
import crypto_utils
from blockchain import Head
from chat_archive import Archive
from chat_effects import Append, Effect, Leave, Moment, Serve, Show, Transmit
from chat_invite import Invite, InviteError
from chat_messages import (
    Ack,
    Bundle,
    EntryKind,
    Event,
    EventKind,
    FeedReport,
    KeyRefusal,
    KeyRequest,
    KeyShare,
    Message,
    PayloadKind,
    RefusalReason,
    SignedEntry,
    Sync,
    Witness,
    parse_payload,
)
from chat_session import Session
from chat_sync_bodies import _Kind as BodyKind
from chat_sync_bodies import parse_body, serialize_body
from chat_terminal import Kind
from chat_wire import (
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Join,
    Label,
    LeaveReason,
    Member,
    Ping,
    Pong,
    Rebundle,
    join_proof,
    welcome_frames,
)
from crypto_utils import EncryptionManager, Identity, Keystore, RoomSecret, SigningKey, VerifyKey

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "PROTOCOL.md").read_text("utf-8")
CASES = json.loads(reference.PATH.read_text("ascii"))["cases"]
VECTORS: dict[str, bytes] = {
    case["name"]: reference.from_hex(case["given"]["data"]) for case in CASES if "name" in case
}
ALICE, BOB, TAG = reference.ALICE, reference.BOB, reference.TAG
EXAMPLES: dict[str, list[str]] = {
    name: lines.splitlines()
    for name, lines in re.findall(r"```example ([^\n]*)\n(.*?)\n```", DOCUMENT, re.DOTALL)
}


def section(number: str) -> str:
    """All between the heading of that number and the next heading."""
    found = re.search(
        rf"^#+ {re.escape(number)} .*?\n(.*?)(?=^#|\Z)", DOCUMENT, re.DOTALL | re.MULTILINE
    )
    assert found, f"no section {number}"
    return found[1]


def tables(number: str) -> list[list[list[str]]]:
    """The tables of a section, as rows of cells, without their headings."""
    blocks = re.findall(r"(?:^\|.*\n)+", section(number), re.MULTILINE)
    split = [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        for block in blocks
    ]
    return [rows[2:] for rows in split]


# --------------------------------------------------------------------------------------------------
# examples


def frames() -> dict[str, bytes]:
    """Made by the code of what the document's remarks say."""
    nonce = stretched("nonce", 32)
    session = ALICE.session_id
    proof = join_proof(b"correct horse", nonce, TAG, session, reference.ALICES)
    return {
        "HELLO": Hello(1, 1, nonce, needs_password=True).serialize(),
        "JOIN": Join(TAG, session, proof, reference.ALICES).serialize(),
        "WELCOME": welcome_frames([Member(BOB.session_id, reference.BOBS)]),
        "ADD": Add(BOB.session_id, reference.BOBS).serialize(),
        "DEL": Del(BOB.session_id, LeaveReason.LEFT).serialize(),
        "REBUNDLE": Rebundle(reference.ALICES_NEXT).serialize(),
        "BROADCAST": Broadcast(VECTORS["message"]).serialize(),
        "DIRECT": Direct(session, VECTORS["key request"]).serialize(),
        "PING": Ping(0x0102030405060708).serialize(),
        "PONG": Pong(0x0102030405060708).serialize(),
        "ERROR": Error(ErrorCode.PASSWORD, "wrong password").serialize(),
    }


def read_payload(kind: type, key: bytes) -> Callable[[bytes], bytes]:
    def read(data: bytes) -> bytes:
        payload = parse_payload(data)
        assert type(payload) is kind
        if not isinstance(payload, Message):
            payload.verify(VerifyKey(key))
        return payload.serialize()

    return read


def read_entry(data: bytes) -> bytes:
    signed = SignedEntry.parse(data)
    signed.verify(VerifyKey(ALICE.ssk.public))
    return signed.serialize()


def read_body(data: bytes) -> bytes:
    return serialize_body(parse_body(data))


# What the code reads, and writes again as it was.
READ: dict[str, Callable[[bytes], bytes]] = {
    "bundle": lambda data: Bundle.parse(data, RoomSecret(reference.ROOM)).raw,
    "key share": read_payload(KeyShare, ALICE.ssk.public),
    "key request": read_payload(KeyRequest, BOB.ssk.public),
    "key refusal": read_payload(KeyRefusal, ALICE.ssk.public),
    "message": read_payload(Message, b""),
    "ack": read_payload(Ack, BOB.ssk.public),
    "witness": read_payload(Witness, BOB.ssk.public),
    "sync": read_payload(Sync, BOB.ssk.public),
    "ask": read_body,
    "gained": read_body,
    "fetch": read_body,
    "entries": read_body,
    "audience entry": read_entry,
    "chat entry": read_entry,
    "bundle event": lambda data: Event.parse(data).serialize(),
    "ignore event": lambda data: Event.parse(data).serialize(),
    "pin event": lambda data: Event.parse(data).serialize(),
}


class Shown(NamedTuple):
    """One line of an example."""

    data: bytes
    remark: str


def shown(name: str) -> Iterator[Shown]:
    """The lines of an example beside the bytes of the vector that they show."""
    data, at = VECTORS[name], 0
    for line in EXAMPLES[name]:
        if line.startswith("="):
            assert line == f"= {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"
            continue
        hexes, _, remark = line.partition(";")
        short = re.fullmatch(r"([0-9a-f]{8})…([0-9a-f]{8}) \((\d+)\)", hexes.strip())
        size = int(short[3]) if short else len(bytes.fromhex(hexes))
        here = data[at : at + size]
        expected = f"{here[:4].hex()}…{here[-4:].hex()} ({size})" if short else here.hex()
        assert hexes.strip() == expected, f"{name}: {line}"
        at += size
        yield Shown(here, remark.strip())
    assert at == len(data), f"{name} ends too early"
    assert EXAMPLES[name][-1].startswith("=") or not any("…" in line for line in EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_code_makes_or_reads(name: str) -> None:
    list(shown(name))
    if name in READ:
        assert READ[name](VECTORS[name]) == VECTORS[name]
    else:
        assert frames()[name] == VECTORS[name]


def test_every_frame_payload_and_named_vector_has_an_example() -> None:
    assert EXAMPLES.keys() == VECTORS.keys() == {*frames(), *READ}
    assert frames().keys() == {kind.name for kind in FrameType}
    shown_kinds = re.findall(r"; version 1, ([A-Z_]+)$", DOCUMENT, re.MULTILINE)
    ours = [kind.name for kinds in (PayloadKind, EntryKind) for kind in kinds]
    assert sorted(shown_kinds) == sorted(ours)


@pytest.mark.parametrize("name", EXAMPLES)
def test_remarks_are_true(name: str) -> None:
    """Numbers, names of kinds and quoted texts beside the bytes."""
    counted = "length|epoch|n|first_seq|seq|number|SEK number|index|since|upto|first|last|done"
    numbers = rf"(?:{counted}) (\d+)|(\d+) (?:member|feed|missing|range|bundle|entries)"
    kinds: tuple[type[IntEnum], ...] = (FrameType, PayloadKind, EntryKind, EventKind, BodyKind)
    for data, remark in shown(name):
        if found := re.fullmatch(numbers, remark):
            assert int.from_bytes(data, "big") == int(found[1] or found[2]), remark
        if quoted := re.search(r'^(?:text: )?"(.*)"$', remark):
            assert data.decode() == quoted[1]
        if len(data) <= 2 and (kind := re.fullmatch(r"(?:version 1, )?([A-Z_]+)", remark)):
            assert kind[1] in [k(data[-1]).name for k in kinds if data[-1] in list(k)], remark
        if remark.endswith("signature of SSK"):
            assert len(data) == crypto_utils.SIGNATURE_BYTES
    reasons = {"left": LeaveReason.LEFT, "password": ErrorCode.PASSWORD}
    reasons |= {"not_for_you": RefusalReason.NOT_FOR_YOU}
    for data, remark in shown(name):
        if remark in reasons:
            assert data == bytes((reasons[remark],))


# --------------------------------------------------------------------------------------------------
# names and numbers


def test_the_labels_are_the_codes() -> None:
    (rows,) = tables("1.3")
    written = [text for row in rows for text in re.findall(r"`([^`]+)`", row[0])]
    ours = [value for name, value in vars(Label).items() if name.isupper()]
    assert sorted(b"chainroom/1 " + text.encode() + b"\0" for text in written) == sorted(ours)


def enum_of(rows: list[list[str]]) -> dict[int, str]:
    """Number and name, as the first two cells of a table have them."""
    return {int(row[0]): row[1] for row in rows}


@pytest.mark.parametrize(
    ("number", "table", "ours"),
    [
        ("2.2", 0, FrameType),
        ("2.2", 1, ErrorCode),
        ("2.2", 2, LeaveReason),
        ("3.2", 0, PayloadKind),
        ("3.4", 0, RefusalReason),
        ("3.5", 0, EntryKind),
        ("3.9", 0, EventKind),
        ("3.11", 0, BodyKind),
    ],
)
def test_the_numbers_are_the_codes(number: str, table: int, ours: type[IntEnum]) -> None:
    written = enum_of(tables(number)[table])
    assert {n: name.upper() for n, name in written.items()} == {k.value: k.name for k in ours}


def test_a_frames_sender_is_who_the_relay_takes_it_from() -> None:
    rows = tables("2.2")[0]
    from_clients = {FrameType[row[1]] for row in rows if row[2] in ("client", "both")}
    assert from_clients == set().union(*chat_members.LEGAL.values())
    assert {row[2] for row in rows} == {"client", "relay", "both"}


def test_what_a_del_says_after_an_error_is_the_codes() -> None:
    written = {row[1].upper(): row[3].upper() for row in tables("2.2")[1] if row[3]}
    ours = {code.name: reason.name for code, reason in chat_members.LEAVE_REASONS.items()}
    del ours["VERSION"]  # a member sends none: it is JOIN's
    assert written == ours


def test_a_payloads_label_is_the_codes() -> None:
    written = {row[1]: row[3].strip("`") for row in tables("3.2")[0]}
    for kind in (KeyShare, KeyRequest, KeyRefusal, Ack, Witness, Sync):
        label = b"chainroom/1 " + written.pop(kind.KIND.name).encode() + b"\0"
        assert label == kind.SIG_LABEL
    assert written == {"MESSAGE": "(the entry inside: `entry sig`)"}


def test_the_form_of_an_rsa_key_is_the_codes() -> None:
    head, tail = re.findall(r"`([0-9a-f]{10,})`", section("1.4"))
    spki = ALICE.ik.spki
    assert spki == bytes.fromhex(head) + spki[33:-5] + bytes.fromhex(tail)
    assert len(spki[33:-5]) == crypto_utils.RSA_BYTES == 384
    assert f"{len(spki)} bytes" in section("1.4")


def test_the_lobbys_secrets_are_the_codes() -> None:
    room = RoomSecret.open_room("lobby")
    written = {row[0]: bytes.fromhex(row[1].strip("`")) for row in tables("1.5")[0]}
    ours = {"RS": room.secret, "room_tag": room.tag, "room_auth": room.auth, "room_mix": room.mix}
    assert written == ours


def size_of(layout: str) -> int:
    """Bytes of all that has a fixed size in a layout, lengths and counts among it."""
    sizes = [int(size) for size in re.findall(r"\[(\d+)\]", layout)]
    sizes += [int(bits) // 8 for bits in re.findall(r"\bu(8|16|32|64)\b", layout)]
    return sum(sizes) + 2 * layout.count("list of") + 18 * layout.count("prefix")


def layout(number: str, start: str) -> str:
    """What follows `start` in its paragraph, as far as a layout goes."""
    for paragraph in section(number).split("\n\n"):
        text = " ".join(paragraph.split())
        if start in text:
            return re.split(r"\. |; |seal\(m", text[text.index(start) + len(start) :])[0]
    raise AssertionError(f"{number} has no {start}")


CHAT_TEXT = len("hello, Bob \N{WAVING HAND SIGN}".encode())


@pytest.mark.parametrize(
    ("number", "start", "size"),
    [
        ("1.2", "AAD) =", crypto_utils.AEAD_NONCE_BYTES + crypto_utils.AEAD_TAG_BYTES),
        ("3.1", "version u8", len(VECTORS["bundle"]) - 1 - 2 * 422 - len(b"alice")),
        ("3.2", "prefix =", 18),
        ("3.3", "", len(VECTORS["key share"])),
        ("3.4", "Request:", len(VECTORS["key request"])),
        ("3.4", "Refusal:", len(VECTORS["key refusal"])),
        ("3.5", "head[146] =", 146),
        ("3.5", "signed entry = head", len(VECTORS["chat entry"]) - 146 - CHAT_TEXT),
        ("3.6", "", len(Message.header(bytes(16), bytes(16), 1, 0))),
        ("3.7", "", len(VECTORS["ack"]) - len(FeedReport(TAG, 1, bytes(32)).serialize())),
        ("3.7", "feed =", len(FeedReport(TAG, 2, bytes(32), (1,)).serialize())),
        ("3.10", "", len(VECTORS["witness"])),
        ("3.11", "prefix(6)", len(VECTORS["sync"]) - 18 - len(reference.SEALED)),
        ("3.11", "A **range** is", chat_sync_bodies.RANGE_BYTES),
        ("3.8", "one session:", crypto_utils.RSA_BYTES + crypto_utils.KEY_BYTES),
        ("3.9", "never sent:", len(VECTORS["ignore event"]) - 32),
    ],
)
def test_a_layout_has_the_size_of_the_codes(number: str, start: str, size: int) -> None:
    assert size_of(layout(number, start)) == size


def test_a_frames_body_has_the_size_of_its_example() -> None:
    varying = {
        "JOIN": len(reference.ALICES),
        "WELCOME": len(reference.BOBS),
        "ADD": len(reference.BOBS),
        "REBUNDLE": len(reference.ALICES_NEXT),
        "BROADCAST": len(VECTORS["message"]),
        "DIRECT": len(VECTORS["key request"]),
        "ERROR": len("wrong password"),
    }
    for _, name, _, body in tables("2.2")[0]:
        assert size_of(body) == len(VECTORS[name]) - 5 - varying.get(name, 0), name
    assert f"at most {chat_wire.MAX_ERROR_TEXT_BYTES} bytes" in tables("2.2")[0][10][3]


def test_a_message_is_bound_to_all_that_stands_before_its_nonce() -> None:
    size = len(Message.header(bytes(16), bytes(16), 1, 0))
    assert f"AAD = the {size} bytes before the nonce" in " ".join(section("3.6").split())


# --------------------------------------------------------------------------------------------------
# limits

MODULES = (
    chat_acks,
    chat_feeds,
    chat_heard,
    chat_link,
    chat_messages,
    chat_roster,
    chat_server,
    chat_session,
    chat_wire,
    chat_witness,
    crypto_utils,
)


def constant(name: str) -> float:
    """The code's constant of that name, public or not, in whichever module it stands."""
    found = {
        float(value)
        for module in MODULES
        for key, value in vars(module).items()
        if key.lstrip("_") == name
    }
    assert len(found) == 1, f"{name}: {found}"
    return found.pop()


RELAYS = {
    "frame": "MAX_FRAME_BYTES",
    "first frame": "MAX_JOIN_FRAME_BYTES",
    "bundle": "MAX_BUNDLE_BYTES",
    "payload": "MAX_PAYLOAD_BYTES",
    "error text": "MAX_ERROR_TEXT_BYTES",
    "frames before WELCOME": "MAX_HANDSHAKE_FRAMES",
    "ping": "PING_INTERVAL_S",
}
LIMITS = {
    "members": "max_clients",
    "connections of an address": "max_per_ip",
    "connections before WELCOME": "max_half_open",
    "handshake": "handshake_timeout_s",
    "claim": "challenge_timeout_s",
    "frames of a member": "rate",
    "direct bytes of a member": "direct_rate",
    "lag": "max_lag_bytes",
    "drain": "drain_timeout_s",
    "ping": "ping_interval_s",
    "linger": "linger_s",
}
MEMBERS = {
    "nick": "MAX_NICK_CHARACTERS",
    "text": "MAX_TEXT_BYTES",
    "audience": "MAX_AUDIENCE",
    "live members": "MAX_LIVE",
    "missing seqs of a feed": "MAX_MISSING",
    "ack": "MAX_ACK_BYTES",
    "keys ahead": "MAX_SKIP",
    "epoch, messages": "EPOCH_MAX_MESSAGES",
    "epoch, age": "EPOCH_MAX_AGE_S",
    "SEK, age": "SEK_MAX_AGE_S",
    "SEK, grace": "SEK_GRACE_S",
    "key after a newer epoch": "OLD_EPOCH_LIFE_S",
    "key after its share": "KEY_LIFE_S",
    "held messages of a session": "MAX_HELD_FRAMES",
    "held bytes": "MAX_HELD_BYTES",
    "request after": "REQUEST_AFTER_S",
    "requests in a feed": "REQUEST_EVERY_S",
    "answers to a session": "ANSWER_EVERY_S",
    "answer within": "ANSWER_WITHIN_S",
    "shares in a feed": "SHARE_BURST",
    "ack interval": "ACK_MIN_INTERVAL_S",
    "ack interval, each member": "ACK_INTERVAL_PER_MEMBER_S",
    "old roster": "DIGEST_LIFE_S",
    "old rosters": "MAX_DIGESTS",
    "rosters differ for": "DIFFER_FOR_S",
    "chains of a person": "MAX_CHAINS",
    "people with heads": "MAX_HEAD_PEOPLE",
    "acks as evidence, of a run": "MAX_EVIDENCE",
    "ack as evidence": "MAX_EVIDENCE_BYTES",
    "heads of ours that count": "MAX_CARRIED",
    "relay silent": "SILENCE_S",
    "HELLO within": "HELLO_TIMEOUT_S",
}


def written_limits(number: str) -> dict[str, float]:
    def value(cell: str) -> float:
        found = re.match(r"[\d,.]*\d", cell)
        assert found, cell
        return float(found[0].replace(",", ""))

    return {row[0]: value(row[1]) for row in tables(number)[0]}


def test_the_relays_limits_are_the_codes() -> None:
    ours = {name: float(getattr(chat_members.Limits(), key)) for name, key in LIMITS.items()}
    ours |= {name: constant(key) for name, key in RELAYS.items()}
    assert written_limits("2.5") == ours
    every = set(vars(chat_members.Limits())) - {"is_loopback_exempt"}  # said in words
    assert set(LIMITS.values()) == every
    assert chat_members.Limits().is_loopback_exempt
    assert chat_server.DISCARD_BYTES == 16 * 1024
    assert chat_members.Limits().tick_s == 0.25


def test_a_members_limits_are_the_codes() -> None:
    assert written_limits("4.9") == {name: constant(key) for name, key in MEMBERS.items()}


def test_every_limit_of_the_codes_values_is_in_the_document() -> None:
    ours = {
        name
        for module in (chat_wire, chat_messages, chat_witness, crypto_utils)
        for name in vars(module)
        if re.fullmatch(r"MAX_\w+|\w+_S", name) and not name.startswith("_")
    }
    ours -= {"MAX_PASSPHRASE_BYTES"}  # of no concern to anybody else
    assert ours <= {*RELAYS.values(), *MEMBERS.values()}


@pytest.mark.parametrize(
    ("number", "sentence", "name", "unit"),
    [
        ("2.4", "PING after each {} s", "PING_INTERVAL_S", 1),
        ("2.4", "not sent a byte for {} s", "SILENCE_S", 1),
        ("2.4", "not sent HELLO for {} s", "HELLO_TIMEOUT_S", 1),
        ("3.1", "1 to {} characters", "MAX_NICK_CHARACTERS", 1),
        ("3.1", "replaced before it is {} h old", "SEK_MAX_AGE_S", 3600),
        ("3.1", "still unwraps for {} min", "SEK_GRACE_S", 60),
        ("3.6", "up to {} ahead", "MAX_SKIP", 1),
        ("3.6", "for {} min after a newer", "OLD_EPOCH_LIFE_S", 60),
        ("3.6", "at most {} min in all", "KEY_LIFE_S", 60),
        ("3.7", "at most {} seqs", "MAX_MISSING", 1),
        ("4.1", "within the last {} s", "DIGEST_LIFE_S", 1),
        ("4.1", "at most {} are taken", "MAX_LIVE", 1),
        ("4.2", "at most {} at once", "SHARE_BURST", 1),
        ("4.3", "{} messages were sealed", "EPOCH_MAX_MESSAGES", 1),
        ("4.3", "it is {} h old", "EPOCH_MAX_AGE_S", 3600),
        ("4.5", "at most {} of one session", "MAX_HELD_FRAMES", 1),
        ("4.5", "{} MiB in all", "MAX_HELD_BYTES", 1024 * 1024),
        ("4.5", "After {} s one KEY_REQUEST", "REQUEST_AFTER_S", 1),
        ("4.5", "at most each {} s", "REQUEST_EVERY_S", 1),
        ("4.5", "within {} s of the last", "ANSWER_EVERY_S", 1),
        ("4.5", "unanswered for {} s", "ANSWER_WITHIN_S", 1),
        ("4.6", "max({} s,", "ACK_MIN_INTERVAL_S", 1),
        ("4.6", "{} ms × members", "ACK_INTERVAL_PER_MEMBER_S", 0.001),
        ("4.10", "max({} s,", "ACK_MIN_INTERVAL_S", 1),
        ("4.10", "{} ms × members", "ACK_INTERVAL_PER_MEMBER_S", 0.001),
        ("4.10", "at most {} chains", "MAX_CHAINS", 1),
        ("4.10", "at most {} people", "MAX_HEAD_PEOPLE", 1),
        ("4.10", "takes at most {} of a session", "MAX_CHAINS", 1),
        ("4.10", "more than {} bytes", "MAX_EVIDENCE_BYTES", 1),
        ("4.6", "last {} days", "FEED_LIFE_MS", 24 * 3600 * 1000),
    ],
)
def test_a_number_in_the_prose_is_the_codes(
    number: str, sentence: str, name: str, unit: float
) -> None:
    written = sentence.format(f"{constant(name) / unit:,.0f}")
    assert written in " ".join(section(number).split())


@pytest.mark.parametrize(
    ("number", "sentence", "module", "name", "unit"),
    [
        ("3.11", "at most {} in one body", chat_sync_bodies, "MAX_RANGES", 1),
        ("3.11", "fewer than {}, up to a multiple", chat_sync_bodies, "_PADDED_TO", 1),
        ("4.12", "at most {} KiB of entries", chat_sync_bodies, "MAX_ENTRIES_BYTES", 1024),
        ("4.12", "more than {} days before", chat_archive, "_LIFE_MS", 24 * 3600 * 1000),
        ("4.12", "At most {} questions are open", chat_sync, "_MAX_OPEN", 1),
        ("4.12", "one to each member, {} s each", chat_sync, "_ANSWER_WITHIN_S", 1),
        ("4.12", "not answer within {} s", chat_sync, "_ANSWER_WITHIN_S", 1),
        ("4.12", "asked again after {} s. If all", chat_sync, "_TRY_AGAIN_S", 1),
        ("4.12", "stand and asks again after {} s", chat_sync, "_TRY_AGAIN_S", 1),
        ("4.12", "then to at most {} more", chat_sync, "_MOST_TRIED", 1),
        ("4.12", "for {} s, doubled each time", chat_sync, "_DENIED_S", 1),
        ("4.12", "each time up to {} s", chat_sync, "_LONGEST_DENIED_S", 1),
        ("4.12", "between two of them {} ms", chat_sync, "_SHORTEST_PACE_S", 0.001),
        ("4.12", "or {} ms × members", chat_sync, "_PACE_PER_MEMBER_S", 0.001),
        ("4.12", "at most {} s; between two", chat_sync, "_LONGEST_PACE_S", 1),
        ("4.12", "to the same member {} s", chat_sync, "_SAME_PACE_S", 1),
        ("4.12", "{} questions at once", chat_sync, "_ANSWERS_BURST", 1),
        ("4.12", "and then {} a second", chat_sync, "_ANSWERS_PER_S", 1),
        ("4.12", "of all together {} and", chat_sync, "_ALL_ANSWERS_BURST", 1),
        ("4.12", "and {}; more are dropped", chat_sync, "_ALL_ANSWERS_PER_S", 1),
        ("4.12", "are asked for after {} s", chat_session, "_MAY_STILL_COME_S", 1),
    ],
)
def test_a_number_of_catching_up_is_the_codes(
    number: str, sentence: str, module: ModuleType, name: str, unit: float
) -> None:
    written = sentence.format(f"{round(getattr(module, name) / unit, 3):g}")
    assert written in " ".join(section(number).split())


def test_every_large_number_in_the_document_is_one_of_the_limits() -> None:
    known = {*written_limits("2.5").values(), *written_limits("4.9").values()}
    examples = re.compile(r"```example.*?```", re.DOTALL)
    numbers = re.findall(r"\d{1,3}(?:,\d{3})+", examples.sub("", DOCUMENT))
    assert {float(n.replace(",", "")) for n in numbers} <= known


# --------------------------------------------------------------------------------------------------
# references


def test_every_reference_to_a_section_leads_to_one() -> None:
    headings = set(re.findall(r"^#+ ([\d.]+) ", DOCUMENT, re.MULTILINE))
    assert headings >= {"1", "2", "3", "4", "5"}
    inside = set(re.findall(r"\((?:[a-z ]*)?(\d\.\d+)\)", DOCUMENT))
    assert inside <= headings
    outside: dict[str, str] = {}
    for path in [*ROOT.glob("*.py"), *(ROOT / "tests").glob("*.py")]:
        for found in re.findall(
            r"PROTOCOL\.md,? (?:sections? )?(\d(?:\.\d+)?)", path.read_text("utf-8")
        ):
            outside[found] = path.name
    assert {number: outside[number] for number in outside.keys() - headings} == {}
    assert {
        "1.3",
        "1.4",
        "2.2",
        "3.1",
        "3.2",
        "3.3",
        "3.5",
        "3.7",
        "3.8",
        "3.9",
        "3.10",
        "3.11",
    } <= outside.keys()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("1.3", "Labels"),
        ("1.4", "Suite"),
        ("2.2", "Frame types and errors"),
        ("2.3", "Joining"),
        ("2.4", "Pings and timeouts"),
        ("3.1", "Bundle"),
        ("3.2", "Payloads"),
        ("3.3", "Key share"),
        ("3.4", "Key request and refusal"),
        ("3.5", "Entry and audience"),
        ("3.6", "Message"),
        ("3.7", "Ack"),
        ("3.8", "encrypt_message"),
        ("3.9", "Events"),
        ("3.10", "Witness"),
        ("3.11", "Sync"),
    ],
)
def test_a_section_that_the_code_refers_to_is_about_what_it_says(number: str, words: str) -> None:
    assert re.search(rf"^#+ {re.escape(number)} {words}$", DOCUMENT, re.MULTILINE)


def test_every_file_that_the_document_names_exists() -> None:
    for name in re.findall(r"`(tests/[\w./]+)`", DOCUMENT):
        assert (ROOT / name).is_file(), name
    for module in ("make_vectors_messages", "make_vectors_crypto"):
        assert importlib.import_module(module).__doc__


# --------------------------------------------------------------------------------------------------
# a second client


def cut(data: bytes, *sizes: int) -> list[bytes]:
    """Fields of these sizes; 0 is one behind its u16 length, -1 all that is left."""
    fields, at = [], 0
    for size in sizes:
        if size == 0:
            size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        end = len(data) if size == -1 else at + size
        assert end <= len(data)
        fields.append(data[at:end])
        at = end
    assert at == len(data)
    return fields


def signed_by(public: bytes, text: str, data: bytes) -> None:
    """The last 64 bytes, over all before; raises if they are not."""
    key = Ed25519PublicKey.from_public_bytes(public)
    key.verify(data[-64:], base.label(text) + data[:-64])


def public(modulus: int) -> reference.Rsa:
    """A key of which only that is known; it wraps."""
    key = object.__new__(reference.Rsa)
    key.n = modulus
    return key


class Stranger:
    """Alice's client, written from the document: nothing of Chainroom's code is in it."""

    def __init__(self) -> None:
        self.bundle = reference.ALICES
        self.sek = load_der_private_key(ALICE.sek.pkcs8, None)

    def meet(self, join: bytes) -> None:
        """2.3 and 3.1: reads the other's JOIN."""
        length, kind, version, tag, session_id, proof, bundle = cut(join, 4, 1, 1, 16, 16, 32, 0)
        assert int.from_bytes(length, "big") == len(join) - 4
        assert (kind, version, tag, proof) == (b"\2", b"\1", reference.TAG, bytes(32))
        fields = cut(bundle, 1, 16, 0, 0, 16, 32, 4, 0, 16, 32, 32, 384)
        _, tag, spki, self.nick, in_bundle, self.ssk, number, self.spki = fields[:8]
        assert (tag, in_bundle, number) == (reference.TAG, session_id, reference.u32(1))
        proved = base.label("room proof") + bundle[: -384 - 32]
        assert fields[10] == base.hmac_sha(reference.AUTH, proved)
        modulus = int.from_bytes(spki[33:-5], "big")
        assert base.pss_fits(modulus, base.label("bundle sig") + bundle[:-384], bundle[-384:])
        self.session_id, self.fingerprint = session_id, base.tagged("identity", spki)

    def writes(self, words: bytes) -> list[bytes]:
        """3.5: an audience entry and a chat entry."""
        names = sorted(f[:16] for f in (ALICE.fingerprint, self.fingerprint))
        first = reference.entry(b"".join(names), kind=reference.AUDIENCE)
        return [first, reference.entry(words, seq=2, previous=base.tagged("entry", first[:146]))]

    def says(self, words: bytes) -> list[bytes]:
        """4.3: a key share, an audience entry, and a chat entry, as frames."""
        share = reference.signed(
            reference.KEY_SHARE, reference.share_fields(recipient=self.session_id)
        )
        entries = self.writes(words)
        self.said = base.tagged("entry", entries[1][:146])
        messages = [reference.message(reference.padded(e), n) for n, e in enumerate(entries)]
        return [
            reference.frame("DIRECT", self.session_id + share),
            *(reference.frame("BROADCAST", m) for m in messages),
        ]

    def hears(self, share: bytes, *messages: bytes) -> bytes:
        """3.3 and 3.6: the text of the last of the other's messages."""
        fields = cut(share, 1, 1, 16, 16, 4, 4, 8, 16, 4, 384, 64)
        assert fields[1:4] == [b"\1", self.session_id, reference.TAG]
        assert fields[7:9] == [ALICE.session_id, reference.u32(1)]
        signed_by(self.ssk, "share sig", share)
        assert isinstance(self.sek, RSAPrivateKey)
        bound = base.tagged("share", share[: -384 - 64])
        oaep = OAEP(MGF1(SHA256()), SHA256(), bound)
        chain_key, previous = self.sek.decrypt(fields[9], oaep), bytes(32)
        for n, message in enumerate(messages):
            version, kind, session_id, tag, epoch, number, nonce, sealed = cut(
                message, 1, 1, 16, 16, 4, 4, 12, -1
            )
            assert (version, kind, session_id, tag) == (b"\1", b"\3", *fields[2:4])
            assert (epoch, number) == (fields[4], reference.u32(n))
            key = base.hmac_sha(chain_key, base.label("mk") + reference.MIX)
            chain_key = base.hmac_sha(chain_key, base.label("ck"))
            padded = AESGCM(key).decrypt(nonce, sealed, message[:42])
            size = 146 + 16 + 2 + int.from_bytes(padded[162:164], "big") + 64
            assert reference.padded(padded[:size]) == padded
            head, salt, text, signature = cut(padded[:size], 146, 16, 0, 64)
            signed_by(self.ssk, "entry sig", head + signature)
            assert head[34:42] == reference.u64(n + 1)
            assert head[42:74] == previous
            assert head[-32:] == base.tagged("text", salt + text)
            previous = base.tagged("entry", head)
        self.heard = (reference.u64(len(messages)), previous)
        return text

    # ----- catching up

    def acks_alone(self) -> bytes:
        """3.7: that our chain came as far as block 7."""
        mine = ALICE.session_id + ALICE.fingerprint + ALICE.ssk.public
        other = self.session_id + self.fingerprint + self.ssk
        digest = base.tagged("roster", b"".join(sorted((mine, other))))
        fields = reference.TAG + reference.u32(1) + digest + reference.u16(0)
        fields += reference.chain_head(ALICE)
        return reference.frame("BROADCAST", reference.signed(reference.ACK, fields))

    def range_of(self, session_id: bytes) -> list[bytes]:
        """3.11: seqs 1 and 2 of a feed of the room."""
        return [reference.TAG, session_id, reference.u64(1), reference.u64(2)]

    def synced(self, effects: list[Effect]) -> list[tuple[bytes, int, list[bytes]]]:
        """3.11 and 3.8: the request_id, kind and fields of each SYNC among what was sent to us."""
        found = []
        for frame in sent(effects):
            if frame[4:5] != b"\x08" or frame[22:23] != b"\6":
                continue
            payload = frame[21:]
            signed_by(self.ssk, "sync sig", payload)
            fields = cut(payload, 1, 1, 16, 16, 16, 16, 4, 4, len(payload) - 138, 64)
            assert fields[0:5] == [b"\1", b"\6", self.session_id, reference.TAG, ALICE.session_id]
            assert fields[6] == reference.u32(1)
            assert int.from_bytes(fields[7], "big") == len(fields[8])
            wrap, nonce, sealed = cut(fields[8], 384, 12, -1)
            assert isinstance(self.sek, RSAPrivateKey)
            key = self.sek.decrypt(wrap, OAEP(MGF1(SHA256()), SHA256(), base.label("hybrid")))
            data = AESGCM(key).decrypt(nonce, sealed, wrap)
            size = int.from_bytes(data[1:5], "big")
            assert data[5 + size :] == bytes(-(5 + size) % 1024)
            found.append((fields[5], data[0], self._read(data[0], data[5 : 5 + size])))
        return found

    def _read(self, kind: int, fields: bytes) -> list[bytes]:
        """3.11: of ENTRIES the bundles and signed entries come behind `done`."""
        if kind == 1:
            return cut(fields, 8)
        if kind in (2, 3):
            before = [8, 1, 2] if kind == 2 else [2]
            ranges = (len(fields) - sum(before)) // 48
            return cut(fields, *before, *[16, 16, 8, 8] * ranges)
        assert kind == 4
        dealt, at = cut(fields[:10], 2, 8), 10
        assert dealt[0] == reference.u16(1)
        read = [dealt[1]]
        for size in (2, 4):
            count, at = int.from_bytes(fields[at : at + 2], "big"), at + 2
            for _ in range(count):
                end = at + size + int.from_bytes(fields[at : at + size], "big")
                read.append(fields[at + size : end])
                at = end
        assert at == len(fields)
        return read

    def _sync(self, kind: int, fields: bytes, request_id: bytes) -> bytes:
        """3.11: a question or answer for the other."""
        modulus = int.from_bytes(self.spki[33:-5], "big")
        sealed = reference.hybrid(reference.body(kind, fields), public(modulus))
        body = reference.TAG + self.session_id + request_id + reference.u32(1)
        body += reference.u32(len(sealed)) + sealed
        payload = reference.signed(reference.SYNC, body)
        return reference.frame("DIRECT", self.session_id + payload)

    def gained(self, request_id: bytes) -> bytes:
        """4.12: our two entries, and that is all up to block 7."""
        fields = reference.u64(7) + b"\0" + reference.u16(1)
        fields += b"".join(self.range_of(ALICE.session_id))
        return self._sync(2, fields, request_id)

    def gives(self, request_id: bytes, entries: list[bytes]) -> bytes:
        """4.12: both, and who wrote them."""
        fields = reference.u16(1) + reference.u64(2)
        fields += reference.u16(1) + reference.prefixed(self.bundle) + reference.u16(len(entries))
        fields += b"".join(reference.u32(len(entry)) + entry for entry in entries)
        return self._sync(4, fields, request_id)

    def asks(self, since: bytes) -> bytes:
        """4.12: what did your chain gain?"""
        self.request_id = stretched("ask", 16)
        return self._sync(1, since, self.request_id)

    def fetches(self, its: bytes) -> bytes:
        """4.12: give me that range."""
        self.request_id = stretched("fetch", 16)
        return self._sync(3, reference.u16(1) + its, self.request_id)

    def takes(self, fields: list[bytes]) -> bytes:
        """3.5: the text of the last of two entries that the other wrote."""
        done, bundle, *entries = fields
        assert done == reference.u64(2)
        assert cut(bundle, 1, 16, 0, 0, 16, 32, 4, 0, 16, 32, 32, 384)[4] == self.session_id
        previous = bytes(32)
        for n, entry in enumerate(entries):
            head, salt, text, signature = cut(entry, 146, 16, 0, 64)
            signed_by(self.ssk, "entry sig", head + signature)
            assert head[34:42] == reference.u64(n + 1)
            assert head[42:74] == previous
            assert head[-32:] == base.tagged("text", salt + text)
            previous = base.tagged("entry", head)
        return text

    def reads_ack(self, ack: bytes) -> bytes:
        """3.7: what the other has of us."""
        version, kind, session_id, tag, count, digest, feeds, head = cut(
            ack, 1, 1, 16, 16, 4, 32, 2 + 98, -1
        )
        assert (version, kind, session_id, tag) == (b"\1", b"\4", self.session_id, reference.TAG)
        assert count == reference.u32(1)
        mine = ALICE.session_id + ALICE.fingerprint + ALICE.ssk.public
        other = self.session_id + self.fingerprint + self.ssk
        assert digest == base.tagged("roster", b"".join(sorted((mine, other))))
        assert len(head) == 16 + 8 + 32 + 64 + 64
        signed_by(self.ssk, "ack sig", ack)
        return feeds

    def acks(self) -> bytes:
        """3.7: that we have all that we heard."""
        mine = ALICE.session_id + ALICE.fingerprint + ALICE.ssk.public
        other = self.session_id + self.fingerprint + self.ssk
        digest = base.tagged("roster", b"".join(sorted((mine, other))))
        feed = self.session_id + b"".join(self.heard) + reference.u16(0) + bytes(40)
        fields = reference.TAG + reference.u32(1) + digest + reference.u16(1) + feed
        fields += reference.chain_head(ALICE)
        return reference.frame("BROADCAST", reference.signed(reference.ACK, fields))


NOW = Moment(1000.0, reference.NOW)


def sent(effects: list[Effect]) -> list[bytes]:
    return [effect.frame for effect in effects if isinstance(effect, Transmit)]


class Ours:
    """Bob's session in a room with the stranger."""

    def __init__(self, stranger: Stranger) -> None:
        key = load_der_private_key(BOB.sek.pkcs8, None)
        with mock.patch("crypto_utils.rsa.generate_private_key", return_value=key):
            sek = EncryptionManager()
        keys = Identity.from_pkcs8(BOB.ik.pkcs8), SigningKey(BOB.csk.seed)
        keystore = Keystore(*keys, bytes(32), BOB.chain_id)
        self.session = Session(keystore, RoomSecret(reference.ROOM), "bob", sek, NOW)
        self.session.connected()
        hello = reference.frame("HELLO", bytes((1, 1)) + bytes(32) + b"\0" + reference.u32(65_536))
        (join,) = sent(self.hears(hello))
        stranger.meet(join)
        member = ALICE.session_id + reference.prefixed(stranger.bundle)
        self.hears(reference.frame("WELCOME", b"\1" + reference.u16(1) + member))

    def hears(self, *frames: bytes) -> list[Effect]:
        return [effect for data in frames for effect in self.session.receive(Frame(data), NOW)]


def messages_in(effects: list[Effect]) -> list[str]:
    lines = [effect.line for effect in effects if isinstance(effect, Show)]
    return [line.text for line in lines if line.kind is Kind.MESSAGE]


def test_a_client_written_from_this_document_and_ours_chat() -> None:
    stranger = Stranger()
    member, now = Ours(stranger), NOW
    ours, gives, head = member.session, member.hears, Head(BOB.chain_id, 7, bytes(32), bytes(64))
    effects = gives(*stranger.says(b"hello, Bob"))
    assert messages_in(effects) == ["hello, Bob"]
    (ack,) = sent(ours.tick(now, head))
    told = ALICE.session_id + reference.u64(2) + stranger.said + reference.u16(0)
    assert stranger.reads_ack(ack[5:]) == reference.u16(1) + told + bytes(40)

    share, *messages = sent(ours.typed("hello, Alice", now))
    assert cut(share, 4, 1, 16, -1)[1:3] == [b"\x08", ALICE.session_id]
    assert [data[4:5] for data in messages] == [b"\7", b"\7"]
    assert stranger.hears(share[21:], *(data[5:] for data in messages)) == b"hello, Alice"
    gives(*messages)  # the echo
    ours.leave(now)
    assert Leave(0) not in ours.tick(now, head)
    gives(stranger.acks())
    assert Leave(0) in ours.tick(now, head)
    assert not ours.counts


def test_a_client_written_from_this_document_and_ours_catch_up() -> None:
    """What each said while the other was away: Alice's entries come to Bob, and Bob's to her."""
    stranger, head = Stranger(), Head(BOB.chain_id, 7, bytes(32), bytes(64))
    ours = Ours(stranger)
    entries = stranger.writes(b"hello, Bob")
    ours.hears(stranger.acks_alone())
    (question,) = stranger.synced(ours.session.tick(NOW, head))
    assert question[1:] == (1, [reference.u64(0)])
    ours.hears(stranger.gained(question[0]))
    (question,) = stranger.synced(ours.session.tick(later(1), head))
    assert question[1] == 3
    assert question[2] == [reference.u16(1), *stranger.range_of(ALICE.session_id)]
    effects = ours.hears(stranger.gives(question[0], entries))
    assert messages_in(effects) == ["hello, Bob"]

    held = [effect.draft for effect in effects if isinstance(effect, Append)]
    effects = ours.session.typed("hello, Alice", NOW)  # which the relay withholds
    held += [effect.draft for effect in effects if isinstance(effect, Append)]
    archive = Archive(lambda index: held[index].record)
    for index, draft in enumerate(held):
        archive.note(index, draft.type, draft.record)

    def answers(frame: bytes) -> tuple[bytes, int, list[bytes]]:
        (serve,) = [effect for effect in ours.hears(frame) if isinstance(effect, Serve)]
        asker = serve.asker.fingerprint
        answer = archive.answer(serve.question, asker, serve.tags, len(held) - 1)
        (got,) = stranger.synced(ours.session.serve(serve, answer))
        return got

    request_id, kind, fields = answers(stranger.asks(reference.u64(0)))
    assert (request_id, kind) == (stranger.request_id, 2)
    upto, more, count, *its = fields
    assert (upto, more, count) == (reference.u64(len(held) - 1), b"\0", reference.u16(1))
    assert its == stranger.range_of(stranger.session_id)
    request_id, kind, fields = answers(stranger.fetches(b"".join(its)))
    assert (request_id, kind) == (stranger.request_id, 4)
    assert stranger.takes(fields) == b"hello, Alice"
    assert not ours.session.counts


def later(seconds: float) -> Moment:
    return Moment(NOW.s + seconds, NOW.ms + int(seconds * 1000))


# --------------------------------------------------------------------------------------------------
# what people hand each other


def test_the_example_of_an_invite_is_the_codes() -> None:
    written = {row[0]: re.findall(r"`([^`]+)`", row[1]) for row in tables("6.1")[2]}
    (room,), (data,), (text,) = written["RS"], written["bytes"], written["text"]
    invite = Invite(RoomSecret(bytes.fromhex(room)), "192.168.1.5", 6000)
    assert dict(tables("6.1")[2])["relay"] == f"{invite.server}, port {invite.port}"
    assert (invite.text, Invite.parse(text)) == (text, invite)
    size = len(bytes.fromhex(data))
    parts = text.split("-")
    assert len(parts) == -(-(8 * size + 16) // 20)
    (alphabet,) = re.findall(r"`(\w{32})`", tables("6.1")[1][0][1])
    values = [[alphabet.index(char) for char in part] for part in parts]
    bits = "".join(f"{value:05b}" for part in values for value in part[:4])
    assert int(bits[: 8 * size], 2) == int(data, 16)
    fill = len(bits) - 8 * size
    digest = base.tagged("invite", bytes.fromhex(data)).hex()
    assert written[f"checksum, its first {fill} bits"] == [digest[: fill // 4]]
    assert int(bits[8 * size :], 2) == int(digest, 16) >> 256 - fill
    first = [f"{value:05b}" for value in values[0]]
    assert written["symbols of part 1"] == [" ".join(first[:4]), first[4]]


def test_the_layout_of_an_invite_is_the_codes() -> None:
    rows = tables("6.1")[0]
    assert size_of(" ".join(row[0] for row in rows)) == 1 + 1 + 16 + 2
    sizes = {"no address": "", "IPv4": "10.0.0.1", "IPv6": "fd00::1"}
    for form, what in re.findall(r"(\d) ([\w ]+);", rows[1][1]):
        if what in sizes:
            made = Invite(RoomSecret(bytes(16)), sizes.pop(what))._body()
            assert made[:2] == bytes((1, int(form)))
    assert not sizes
    longest = Invite(RoomSecret(bytes(16)), "r" * 64, 80)._body()
    assert longest[1] == 128 + 2 + 64 == 194
    assert "67 to 128 or above 194" in section("6.1")
    for form in (67, 127, 128, 195, 255):
        spelled = invites.spelled(bytes((1, form)) + bytes(90))
        with pytest.raises(InviteError, match="keep to the rules"):
            Invite.parse(spelled)
    assert f"More than {chat_invite.MAX_PASTED_CHARACTERS}\ncharacters" in section("6.1")


def test_the_example_of_a_safety_number_is_the_codes() -> None:
    written = {row[0]: row[1].strip("`") for row in tables("6.2")[0]}
    people = [bytes.fromhex(written[f"{name}'s fingerprint"]) for name in ("Alice", "Bob")]
    assert people == [ALICE.fingerprint, BOB.fingerprint]
    assert written["safety number"] == crypto_utils.safety_number(*people)
