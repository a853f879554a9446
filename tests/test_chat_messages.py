"""chat_messages: what members exchange is one sequence of bytes each, and all else is refused.

`make_vectors_messages` is a second implementation; what the two must agree on, and what a second
client must refuse, is in vectors/messages.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any
from unittest import mock

import make_vectors_messages as reference
import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from make_vectors_crypto import hmac_sha, stretched

import chat_messages
from blockchain import Head
from chat_feeds import TheirFeed
from chat_messages import (
    MAX_ACK_BYTES,
    MAX_AUDIENCE,
    MAX_MISSING,
    MAX_NICK_CHARACTERS,
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    FeedReport,
    KeyRefusal,
    KeyRequest,
    KeyShare,
    Message,
    Payload,
    PayloadKind,
    RefusalReason,
    SignedEntry,
    Sync,
    Witness,
    check_nick,
    pad,
    parse_payload,
    roster_digest,
    unpad,
)
from chat_sync_bodies import Ask, parse_body, serialize_body
from chat_wire import (
    MAX_BUNDLE_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    FrameDecoder,
    FrameType,
    H,
    Hello,
    Join,
    Label,
    Malformed,
    Ping,
    Pong,
    Rebundle,
    TooLarge,
    Welcome,
    WireError,
    prefixed,
    u64,
)
from crypto_utils import (
    BadCiphertext,
    CryptoError,
    EncryptionManager,
    Identity,
    RoomSecret,
    SigningKey,
    VerifyKey,
    open_sealed,
    seal,
)

pytestmark = pytest.mark.timeout(60)

VECTORS: dict[str, Any] = json.loads(reference.PATH.read_text("ascii"))
NAMED: dict[str, bytes] = {
    case["name"]: reference.from_hex(case["given"]["data"])
    for case in VECTORS["cases"]
    if "name" in case
}
ROOM = RoomSecret(reference.ROOM)
LABELS = {name: value for name, value in vars(Label).items() if name.isupper()}
ALICE, BOB = reference.ALICE, reference.BOB
SSK, BOBS_SSK = SigningKey(ALICE.ssk.seed), SigningKey(BOB.ssk.seed)
SIGNED_KINDS = ("key share", "key request", "key refusal", "ack", "witness", "sync")


# RSA keys take 0.1 to 1 s to make; the vectors' exist already.


@cache
def identity(name: str) -> Identity:
    return Identity.from_pkcs8(bytes.fromhex(VECTORS["members"][name]["identity_pkcs8"]))


@cache
def sek(name: str) -> EncryptionManager:
    """The vectors' key, which exists only to be known, as a session encryption key."""
    data = bytes.fromhex(VECTORS["members"][name]["sek_pkcs8"])
    key = load_der_private_key(data, password=None)
    with mock.patch("crypto_utils.rsa.generate_private_key", return_value=key):
        return EncryptionManager()


@cache
def bundle(name: str = "alice") -> Bundle:
    return Bundle.parse({"alice": reference.ALICES, "bob": reference.BOBS}[name], ROOM)


def create_bundle(nick: str = "alice") -> Bundle:
    return Bundle.create(
        identity("alice"),
        ROOM,
        nick,
        SSK,
        1,
        sek("alice").get_public_key(),
        ALICE.chain_id,
        ALICE.csk.public,
    )


def outcome(action: Callable[..., object], *arguments: object) -> str:
    """The name of the documented error that it raises, else "ok"; any other is the test's."""
    try:
        action(*arguments)
    except (WireError, CryptoError) as exc:
        return type(exc).__name__
    return "ok"


def flipped(data: bytes, at: int) -> bytes:
    """One bit is another, a different one in each byte."""
    return data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]


def signed_entry(text: bytes, kind: int = EntryKind.CHAT, **changed: Any) -> bytes:
    """Well formed if its fields are; nobody signed it."""
    values = (kind, reference.TAG, ALICE.session_id, 1, bytes(32), bytes(32), 0, bytes(16), text)
    return SignedEntry(replace(Entry(*values), **changed), bytes(64)).serialize()


# --------------------------------------------------------------------------------------------------
# vectors

FRAMES: list[Any] = [
    *(Hello, Join, Welcome, Add, Del, Rebundle, Broadcast, Direct, Ping, Pong, Error)
]
KINDS: dict[str, type[Payload]] = {
    "key share": KeyShare,
    "key request": KeyRequest,
    "key refusal": KeyRefusal,
    "message": Message,
    "ack": Ack,
    "witness": Witness,
    "sync": Sync,
}


def do_frame(v: dict[str, Any]) -> object:
    decoder = FrameDecoder(MAX_FRAME_BYTES)
    decoder.feed(v["data"])
    (found,) = decoder
    message = FRAMES[found.type - 1].parse(found.body)
    assert message.serialize() == v["data"]
    return {"type": FrameType(found.type).name, **vars(message)}


def do_bundle(v: dict[str, Any]) -> object:
    parsed = Bundle.parse(v["data"], RoomSecret(v["room"]) if v["room"] else None)
    assert parsed.raw == v["data"]
    keys = {"session_key": parsed.session_key.public, "chain_key": parsed.chain_key.public}
    return vars(parsed) | keys | {"fingerprint": parsed.fingerprint}


def do_nick(v: dict[str, Any]) -> object:
    return Bundle.parse(reference.bundle(ALICE, nick=v["nick"]), ROOM).nick


def do_follow(v: dict[str, Any]) -> object:
    return Bundle.parse(v["after"], ROOM).may_follow(bundle())


def do_payload(v: dict[str, Any]) -> object:
    payload = parse_payload(v["data"])
    assert payload.serialize() == v["data"]
    got = dict(vars(payload))
    (got["kind"],) = (name for name, kind in KINDS.items() if kind is type(payload))
    if isinstance(payload, Ack):
        got["feeds"] = [vars(feed) for feed in payload.feeds]
    if isinstance(payload, Ack | Witness):
        head = payload.head
        got["head"] = head.chain_id + u64(head.index) + head.hash + head.signature
    if not isinstance(payload, Message):
        payload.verify(VerifyKey(v["key"]))
    return got


def do_unwrap(v: dict[str, Any]) -> object:
    share = parse_payload(v["data"])
    assert isinstance(share, KeyShare)
    share.verify(VerifyKey(v["key"]))
    return share.unwrap(sek(v["sek"]))


def do_open_sync(v: dict[str, Any]) -> object:
    sync = parse_payload(v["data"])
    assert isinstance(sync, Sync)
    sync.verify(VerifyKey(v["key"]))
    return sync.open(sek(v["sek"]))


def do_body(v: dict[str, Any]) -> object:
    body = parse_body(v["data"])
    assert serialize_body(body) == v["data"]
    return {"kind": body.KIND.name, **vars(body)}


def do_entry(v: dict[str, Any]) -> object:
    signed = SignedEntry.parse(v["data"])
    assert signed.serialize() == v["data"]
    signed.verify(VerifyKey(v["key"]))
    return vars(signed.entry) | {"entry_id": signed.entry.entry_id}


def do_padding(v: dict[str, Any]) -> object:
    entry = unpad(v["data"])
    assert pad(entry) == v["data"]
    return entry


def do_open(v: dict[str, Any]) -> object:
    share, message = parse_payload(v["share"]), parse_payload(v["data"])
    assert isinstance(share, KeyShare)
    assert isinstance(message, Message)
    feed = TheirFeed(share.tag, share.session_id)
    feed.take_key(share, share.unwrap(sek("bob")), RoomSecret(v["room"]).mix, 0.0)
    entry = feed.open(message, VerifyKey(v["key"])).entry
    return vars(entry) | {"entry_id": entry.entry_id}


def do_event(v: dict[str, Any]) -> object:
    event = Event.parse(v["data"])
    assert event.serialize() == v["data"]
    return vars(event) | {"event_id": event.event_id}


DO: dict[str, Callable[[dict[str, Any]], object]] = {
    "frame": do_frame,
    "bundle": do_bundle,
    "nick": do_nick,
    "follow": do_follow,
    "roster digest": lambda v: roster_digest(Bundle.parse(b, ROOM) for b in v["bundles"]),
    "payload": do_payload,
    "unwrap": do_unwrap,
    "open sync": do_open_sync,
    "sync body": do_body,
    "entry": do_entry,
    "padding": do_padding,
    "open": do_open,
    "event": do_event,
}
KEYSTORES = {"KeystoreDamaged", "PassphraseNeeded", "WrongPassphrase", "CannotDerive"}
ERRORS = {
    error.__name__
    for base in (WireError, CryptoError)
    for error in base.__subclasses__()
    if error.__name__ not in KEYSTORES
}


def as_vector(value: Any) -> Any:
    """As the file writes it."""
    if isinstance(value, dict):
        return {key: as_vector(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_vector(item) for item in value]
    return reference.to_hex(value) if isinstance(value, bytes) else value


def from_vector(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [from_vector(name, item) for item in value]
    return value if name == "sek" else reference.from_hex(value)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: f"{c['what']}: {c['why']}")
def test_vectors_come_out_as_they_say(case: dict[str, Any]) -> None:
    given_values = {name: from_vector(name, value) for name, value in case["given"].items()}
    do, expect = DO[case["what"]], case["expect"]
    if isinstance(expect, str) and expect in ERRORS:
        with pytest.raises((WireError, CryptoError)) as caught:
            do(given_values)
        assert type(caught.value).__name__ == expect
        return
    got = as_vector(do(given_values))
    if isinstance(expect, dict):
        got = {name: got[name] for name in expect}
    assert got == expect


def test_the_vectors_are_what_their_script_makes() -> None:
    assert reference.PATH.read_text("ascii") == reference.text()


def test_the_vectors_hex_is_there_and_back() -> None:
    for data in (b"", b"a" * 23, b"a" * 24, b"ab" + bytes(300) + b"a" * 40):
        assert reference.from_hex(reference.to_hex(data)) == data


def test_every_operation_has_a_vector_and_every_refusal_one_that_fails() -> None:
    cases = VECTORS["cases"]
    failing = {c["what"] for c in cases if c["expect"] in [*ERRORS, False]}
    assert {c["what"] for c in cases if c["expect"] not in [*ERRORS, False]} == DO.keys()
    assert failing == DO.keys() - {"roster digest"}  # it takes any
    assert {c["expect"] for c in cases if c["expect"] in list(ERRORS)} == ERRORS
    kinds = {c["expect"]["kind"] for c in cases if c["what"] == "payload" and "kind" in c["expect"]}
    assert kinds == KINDS.keys()


def test_we_make_what_the_vectors_have() -> None:
    """All but the bytes that RSA's random numbers decide."""
    made = create_bundle()
    assert made.raw[:-384] == reference.ALICES[:-384]
    made.identity.verify(made.raw[-384:], Label.BUNDLE_SIG, made.raw[:-384])
    share = KeyShare.create(
        SSK, ALICE.session_id, reference.TAG, 1, 0, 1, bundle("bob"), reference.CHAIN_KEYS[0]
    )
    assert share.serialize()[:70] == NAMED["key share"][:70]
    assert share.unwrap(sek("bob")) == reference.CHAIN_KEYS[0]

    request = KeyRequest.create(BOBS_SSK, BOB.session_id, reference.TAG, 1, ALICE.session_id)
    assert request.serialize() == NAMED["key request"]
    refusal = KeyRefusal.create(SSK, ALICE.session_id, request, RefusalReason.NOT_FOR_YOU)
    assert refusal.serialize() == NAMED["key refusal"]
    head = Head(BOB.chain_id, 7, *split(reference.chain_head(BOB)[24:], 32))
    known = (7, reference.block_hash(ALICE))
    reports = (FeedReport(ALICE.session_id, 2, reference.HELLO_ID, (), *known),)
    digest = roster_digest([bundle("alice"), bundle("bob")])
    ack = Ack.create(BOBS_SSK, BOB.session_id, reference.TAG, 1, digest, reports, head)
    assert ack.serialize() == NAMED["ack"]
    held = Head(ALICE.chain_id, 7, *split(reference.chain_head(ALICE)[24:], 32))
    place = (BOB.session_id, reference.TAG, ALICE.session_id)
    assert Witness.create(BOBS_SSK, *place, held).serialize() == NAMED["witness"]

    to = (bundle("alice"), reference.REQUEST_ID)
    sync = Sync.create(BOBS_SSK, BOB.session_id, reference.TAG, *to, serialize_body(Ask(0)))
    assert sync.serialize()[:74] == NAMED["sync"][:74]
    assert sync.open(sek("alice")) == reference.ASKED

    text, where = reference.HELLO[164:-64], (reference.TAG, ALICE.session_id, 2)
    with mock.patch("crypto_utils.os.urandom", return_value=reference.salt_of(2)):
        entry = Entry.create(
            EntryKind.CHAT, *where, reference.FIRST_ID, bytes(32), reference.NOW + 2, text
        )
    assert entry.sign(SSK).serialize() == NAMED["chat entry"]
    header = Message.header(ALICE.session_id, reference.TAG, 1, 1)
    key = hmac_sha(reference.CHAIN_KEYS[1], Label.MESSAGE_KEY + ROOM.mix)
    with mock.patch("crypto_utils.os.urandom", return_value=stretched("nonce 1", 12)):
        sealed = seal(key, pad(entry.sign(SSK).serialize()), header)
    message = Message(ALICE.session_id, reference.TAG, 1, 1, sealed)
    assert message.serialize() == NAMED["message"]
    assert message.associated == header


def split(data: bytes, at: int) -> tuple[bytes, bytes]:
    return data[:at], data[at:]


# --------------------------------------------------------------------------------------------------
# any bytes at all

ENTRIES = [NAMED["audience entry"], NAMED["chat entry"], signed_entry(b"\xff", kind=9)]
PARSERS: dict[str, tuple[list[bytes], Callable[[bytes], bytes]]] = {
    "payload": ([NAMED[k] for k in KINDS], lambda data: parse_payload(data).serialize()),
    "entry": (ENTRIES, lambda data: SignedEntry.parse(data).serialize()),
    "padding": ([pad(data) for data in ENTRIES], lambda data: pad(unpad(data))),
    "event": ([NAMED["ignore event"]], lambda data: Event.parse(data).serialize()),
    "bundle": ([NAMED["bundle"]], lambda data: Bundle.parse(data, ROOM).raw),
    "bundle on a chain": ([NAMED["bundle"]], lambda data: Bundle.parse(data, None).raw),
}


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid value with some bytes changed, and maybe cut or lengthened."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data))) if draw(st.booleans()) else len(data)
    return bytes(data[:cut]) + draw(st.binary(max_size=2))


@pytest.mark.parametrize("what", PARSERS)
def test_any_bytes_are_a_value_that_serializes_to_them_or_a_documented_error(what: str) -> None:
    seeds, read_and_write = PARSERS[what]

    @settings(max_examples=150)
    @given(data=st.one_of(st.binary(max_size=300), mutated(seeds)))
    def check(data: bytes) -> None:
        try:
            written = read_and_write(data)
        except (WireError, CryptoError):
            return
        assert written == data

    check()
    for data in seeds:
        assert read_and_write(data) == data


@pytest.mark.parametrize("what", ["payload", "entry", "padding", "bundle"])
def test_every_cut_and_every_byte_too_many_is_refused(what: str) -> None:
    seeds, read = PARSERS[what]
    for data in seeds:
        wrong: list[bytes] = [data[:size] for size in range(len(data))]
        for cut in [*wrong, data + b"\0"]:
            assert outcome(read, cut) in ("Malformed", "UnknownVersion")


def test_every_version_but_1_is_named_as_such() -> None:
    for version in {*range(256)} - {1}:
        for kind in KINDS:
            data = bytes((version,)) + NAMED[kind][1:]
            assert outcome(parse_payload, data) == "UnknownVersion"
        data = bytes((version,)) + reference.ALICES[1:]
        assert outcome(Bundle.parse, data, ROOM) == "UnknownVersion"


def test_every_kind_of_payload_but_the_seven_is_refused() -> None:
    ours = {NAMED[kind][1] for kind in KINDS}
    assert ours == {*PayloadKind}
    for kind in {*range(256)} - ours:
        with pytest.raises(Malformed, match=f"unknown kind {kind}"):
            parse_payload(bytes((1, kind)) + NAMED["ack"][2:])


ID, U32, U64 = (
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**64 - 1),
)
HASH, SIGNATURE = st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)
EPOCH = st.integers(1, 2**32 - 1)
HEADS = st.builds(Head, ID, st.integers(0, 2**64 - 1), HASH.filter(any), SIGNATURE)


@st.composite
def reports(draw: st.DrawFn) -> FeedReport:
    seqs = sorted(draw(st.sets(U64, min_size=1, max_size=MAX_MISSING + 1)))
    its_hash = draw(HASH)
    index = draw(st.integers(0, 2**64 - 1)) if any(its_hash) else 0
    return FeedReport(draw(ID), seqs[-1], draw(HASH), tuple(seqs[:-1]), index, its_hash)


ANY_PAYLOAD = st.one_of(
    st.builds(
        KeyShare,
        *(ID, ID, EPOCH, U32, U64, ID, U32, st.binary(min_size=384, max_size=384)),
        signature=SIGNATURE,
    ),
    st.builds(KeyRequest, ID, ID, EPOCH, ID, signature=SIGNATURE),
    st.builds(KeyRefusal, ID, ID, EPOCH, ID, st.sampled_from(RefusalReason), signature=SIGNATURE),
    st.builds(Message, ID, ID, EPOCH, U32, st.sampled_from([284, 540, 1052, 2076]).map(bytes)),
    st.builds(
        Ack,
        *(ID, ID, EPOCH, HASH, st.lists(reports(), max_size=3).map(tuple)),
        HEADS,
        signature=SIGNATURE,
    ),
    st.builds(Witness, ID, ID, ID, HEADS, signature=SIGNATURE),
    st.builds(Sync, ID, ID, ID, ID, U32, st.binary(max_size=99), signature=SIGNATURE),
)


@given(payload=ANY_PAYLOAD)
def test_any_payload_is_read_as_it_was_written(payload: Payload) -> None:
    assert parse_payload(payload.serialize()) == payload


AUDIENCES = st.sets(ID, max_size=5).map(lambda items: b"".join(sorted(items)))
ANY_ENTRY = st.one_of(
    st.builds(
        Entry,
        *(st.just(EntryKind.CHAT), ID, ID, U64, HASH, HASH, U64, ID),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.encode),
    ),
    st.builds(Entry, st.just(EntryKind.AUDIENCE), ID, ID, U64, HASH, HASH, U64, ID, AUDIENCES),
    st.builds(Entry, st.integers(3, 255), ID, ID, U64, HASH, HASH, U64, ID, st.binary()),
)


@given(entry=ANY_ENTRY, signature=SIGNATURE)
def test_any_entry_is_read_as_it_was_written(entry: Entry, signature: bytes) -> None:
    signed = SignedEntry(entry, signature)
    assert SignedEntry.parse(signed.serialize()) == signed
    assert SignedEntry.parse(unpad(pad(signed.serialize()))) == signed


# --------------------------------------------------------------------------------------------------
# limits of fields


@settings(max_examples=150)
@given(
    nick=st.one_of(st.text(max_size=34).map(lambda n: n.encode("utf-8", "replace")), st.binary())
)
def test_a_nick_is_read_in_a_bundle_if_it_may_be_written_in_one(nick: bytes) -> None:
    before, after = reference.ALICES[:441], reference.ALICES[448:]
    assert before + prefixed(b"alice") + after == reference.ALICES
    read = outcome(Bundle.parse, before + prefixed(nick) + after, None)
    try:
        check_nick(nick.decode("utf-8"))
    except ValueError:
        assert read == "Malformed"
    else:
        assert read == ("ok" if nick == b"alice" else "BadSignature")


@pytest.mark.parametrize(
    "character",
    [
        *("#", ":", " ", "\t", "\n", "\r", "\0", "\x1b", "\x7f", "\x80", "\x85", "\x9b", "\xa0"),
        *("\xad", "\u061c", "\u180e", "\u2028", "\u2029", "\u202f", "\u3000", "\ufeff"),
        *map(chr, range(0x2000, 0x2010)),  # spaces, zero-width, LRM, RLM
        *map(chr, range(0x202A, 0x202F)),  # bidi embeddings and overrides
        *map(chr, range(0x2060, 0x2065)),  # word joiner and invisible operators
        *map(chr, range(0x2066, 0x206A)),  # bidi isolates
        *("\u034f", "\u115f", "\u1160", "\u17b4", "\u180b", "\u180f", "\u3164", "\uffa0"),
        *("\ufe00", "\ufe0f", "\U000e0100", "\U000e01ef", "\ud800", "\udfff", "\U000e0041"),
    ],
    ids=ascii,
)
def test_no_character_that_cannot_be_seen_or_that_ends_a_name_is_in_a_nick(character: str) -> None:
    for nick in (character, f"{character}bob", f"b{character}b", f"bob{character}"):
        with pytest.raises(ValueError, match="a name"):
            check_nick(nick)


def test_a_nick_has_1_to_32_characters() -> None:
    assert MAX_NICK_CHARACTERS == 32
    for nick in ("b", "b" * 32, "\U0001f98a" * 32):
        assert check_nick(nick) == nick
    for nick in ("", "b" * 33):
        with pytest.raises(ValueError, match=f"1 to 32 characters, this has {len(nick)}"):
            check_nick(nick)


def test_some_characters_do_not_start_a_nick() -> None:
    for start in ("/", "-", "\u0301", "\u20dd", "\u0903"):
        with pytest.raises(ValueError, match="does not start"):
            check_nick(start + "b")
        assert check_nick(f"q{start}b") == f"q{start}b"


def test_a_nick_has_one_way_to_be_written() -> None:
    assert check_nick("Zo\u00eb") == "Zo\u00eb"
    for nick in ("Zoe\u0308", "\u212b", "q\u0307\u0323"):
        with pytest.raises(ValueError, match="NFC"):
            check_nick(nick)


def test_a_bundle_with_the_longest_nick_fits_its_limit() -> None:
    assert len(create_bundle("\U0001f98a" * 32).raw) < MAX_BUNDLE_BYTES
    with pytest.raises(ValueError, match="a name"):
        create_bundle("bob#7f3a")


@pytest.mark.parametrize(
    ("size", "expect"),
    [(0, "Malformed"), (1, "ok"), (MAX_TEXT_BYTES, "ok"), (MAX_TEXT_BYTES + 1, "TooLarge")],
)
def test_a_chat_text_has_1_to_16384_bytes(size: int, expect: str) -> None:
    data = signed_entry(b"a" * size)
    assert outcome(SignedEntry.parse, data) == expect
    if expect == "ok":
        assert SignedEntry.parse(unpad(pad(data))).entry.text == b"a" * size


def names(count: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(count)]


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        (b"".join(names(MAX_AUDIENCE)), "ok"),
        (b"".join(names(MAX_AUDIENCE + 1)), "Malformed"),
        (b"".join(names(3)) + b"a", "Malformed"),
        (b"".join(names(3))[:-1], "Malformed"),
        (b"".join(reversed(names(3))), "Malformed"),
        (b"".join([*names(3), names(3)[2]]), "Malformed"),
        (b"".join([names(3)[0], *names(3)]), "Malformed"),
    ],
    ids=["2048", "2049", "a byte over", "a byte under", "unsorted", "last twice", "first twice"],
)
def test_an_audience_is_at_most_2048_names_sorted_and_each_once(text: bytes, expect: str) -> None:
    data = signed_entry(text, kind=EntryKind.AUDIENCE)
    assert outcome(SignedEntry.parse, data) == expect


def test_the_largest_entries_fit_a_payload() -> None:
    for text, kind in (
        (b"a" * MAX_TEXT_BYTES, EntryKind.CHAT),
        (b"".join(names(MAX_AUDIENCE)), EntryKind.AUDIENCE),
    ):
        sealed = seal(bytes(32), pad(signed_entry(text, kind=kind)), b"")
        data = Message(ALICE.session_id, reference.TAG, 1, 0, sealed).serialize()
        assert parse_payload(data).serialize() == data


def test_the_room_for_feeds_fills_an_ack_of_60_kib() -> None:
    ack = parse_payload(NAMED["ack"])
    assert isinstance(ack, Ack)
    size = len(ack.serialize()) - sum(len(feed.serialize()) for feed in ack.feeds)
    assert size + Ack.ROOM_FOR_FEEDS == MAX_ACK_BYTES == 60 * 1024
    assert MAX_ACK_BYTES < MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("seq", "missing", "expect"),
    [
        (1, (), "ok"),
        (2**64 - 1, (1, 2**64 - 2), "ok"),
        (65, tuple(range(1, 65)), "ok"),
        (66, tuple(range(1, 66)), "TooLarge"),
        (0, (), "Malformed"),
        (5, (0, 1), "Malformed"),
        (5, (2, 1), "Malformed"),
        (5, (2, 2), "Malformed"),
        (5, (5,), "Malformed"),
        (5, (6,), "Malformed"),
    ],
)
def test_missing_seqs_rise_from_1_to_below_the_highest_and_are_at_most_64(
    seq: int, missing: tuple[int, ...], expect: str
) -> None:
    ack = parse_payload(NAMED["ack"])
    assert isinstance(ack, Ack)
    changed = replace(ack, feeds=(FeedReport(ALICE.session_id, seq, bytes(32), missing),))
    assert outcome(parse_payload, changed.serialize()) == expect


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("key share", "epoch"),
        ("key share", "first_seq"),
        ("key request", "epoch"),
        ("key refusal", "epoch"),
        ("message", "epoch"),
        ("ack", "number"),
    ],
)
def test_what_is_counted_from_1_is_never_0(kind: str, field: str) -> None:
    payload: Any = parse_payload(NAMED[kind])
    with pytest.raises(Malformed, match="from 1"):
        parse_payload(replace(payload, **{field: 0}).serialize())


def test_a_feed_starts_with_seq_1() -> None:
    assert SignedEntry.parse(signed_entry(b"a", seq=1)).entry.seq == 1
    with pytest.raises(Malformed, match="seq 1"):
        SignedEntry.parse(signed_entry(b"a", seq=0))


def test_a_refusal_has_one_of_two_reasons() -> None:
    data = NAMED["key refusal"]
    for reason in range(256):
        read = outcome(parse_payload, data[:54] + bytes((reason,)) + data[55:])
        assert read == ("ok" if reason in (1, 2) else "Malformed")


def test_a_sealed_entry_has_a_size_that_padding_gives() -> None:
    header = NAMED["message"][:42]
    taken = [n for n in range(4200) if outcome(parse_payload, header + bytes(n)) == "ok"]
    assert taken == [28 + size for size in (256, 512, 1024, 2048, 3072, 4096)]


def test_a_payload_over_its_limit_is_refused_whatever_it_is() -> None:
    for start in (b"", b"\1\3", b"\2"):
        with pytest.raises(TooLarge):
            parse_payload(start.ljust(MAX_PAYLOAD_BYTES + 1, b"\0"))


def test_an_ack_that_counts_more_feeds_than_it_has_is_refused_at_once() -> None:
    data = NAMED["ack"]
    assert data[70:72] == b"\0\1"
    for count in (b"\0\2", b"\xff\xff"):
        with pytest.raises(WireError):
            parse_payload(data[:70] + count + data[72:])


# --------------------------------------------------------------------------------------------------
# padding


def test_padding_hides_the_exact_length() -> None:
    """256, 512, 1024, then multiples of 1024: for every size, there and back."""
    for size in range(228, 3001):
        entry = signed_entry(bytes(size - 228), kind=9)
        padded = pad(entry)
        classes = (256, 512, 1024, 2048, 3072)
        assert len(entry) == size
        assert len(padded) == min(c for c in classes if c >= size)
        assert unpad(padded) == entry


@pytest.mark.parametrize("size", [229, 256, 257, 500, 512, 513, 1024, 1025, 2048])
def test_padding_of_another_size_or_with_a_byte_that_is_not_zero_is_refused(size: int) -> None:
    entry = signed_entry(b"a" * (size - 228))
    right = len(pad(entry))
    for other in {size, right - 1, right + 1, 256, 512, 1024, 2048, 3072} - {right}:
        if other >= size:
            with pytest.raises(Malformed, match="padding"):
                unpad(entry.ljust(other, b"\0"))
    for at in range(size, right):
        with pytest.raises(Malformed, match="padding"):
            unpad(flipped(pad(entry), at))


# --------------------------------------------------------------------------------------------------
# signatures


@pytest.mark.parametrize("kind", SIGNED_KINDS)
def test_any_byte_of_a_signed_payload_flipped_is_refused(kind: str) -> None:
    data = NAMED[kind]
    key = bundle("alice" if data[2:18] == ALICE.session_id else "bob").session_key

    def check(data: bytes) -> None:
        payload = parse_payload(data)
        assert not isinstance(payload, Message)
        payload.verify(key)

    check(data)
    for at in range(len(data)):
        assert outcome(check, flipped(data, at)) != "ok", at


def test_any_byte_of_a_bundle_flipped_is_refused() -> None:
    data = reference.ALICES
    for at in range(len(data)):
        assert outcome(Bundle.parse, flipped(data, at), ROOM) != "ok", at
        assert outcome(Bundle.parse, flipped(data, at), None) != "ok", at


def test_any_byte_of_an_entry_flipped_is_refused() -> None:
    data = NAMED["chat entry"]

    def check(data: bytes) -> None:
        SignedEntry.parse(data).verify(bundle().session_key)

    check(data)
    for at in range(len(data)):
        assert outcome(check, flipped(data, at)) != "ok", at


def test_any_byte_of_a_message_flipped_is_not_opened() -> None:
    data, key = (
        NAMED["message"],
        hmac_sha(reference.CHAIN_KEYS[1], Label.MESSAGE_KEY + ROOM.mix),
    )

    def check(data: bytes) -> bytes:
        message = parse_payload(data)
        assert isinstance(message, Message)
        return open_sealed(key, message.sealed, message.associated)

    assert unpad(check(data)) == NAMED["chat entry"]
    for at in range(2, len(data)):  # version and kind decide what it is read as
        assert outcome(check, flipped(data, at)) == "BadCiphertext", at


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("key share", "SHARE_SIG"),
        ("key request", "REQUEST_SIG"),
        ("key refusal", "REFUSAL_SIG"),
        ("ack", "ACK_SIG"),
        ("witness", "WITNESS_SIG"),
        ("sync", "SYNC_SIG"),
    ],
)
def test_a_signature_under_another_label_is_not_valid(kind: str, label: str) -> None:
    payload = parse_payload(NAMED[kind])
    assert not isinstance(payload, Message)
    key, body, valid = VerifyKey(SSK.public), NAMED[kind][:-64], []
    for name, value in LABELS.items():
        if outcome(replace(payload, signature=SSK.sign(value, body)).verify, key) == "ok":
            valid.append(name)
    assert valid == [label]


def test_an_entry_signed_under_another_label_is_not_valid() -> None:
    entry = SignedEntry.parse(NAMED["chat entry"]).entry
    key, valid = VerifyKey(SSK.public), []
    for name, value in LABELS.items():
        if outcome(SignedEntry(entry, SSK.sign(value, entry.head)).verify, key) == "ok":
            valid.append(name)
    assert valid == ["ENTRY_SIG"]


# --------------------------------------------------------------------------------------------------
# bundles


def test_a_bundle_may_be_followed_by_one_with_another_nick_or_sek_alone() -> None:
    before, bob = bundle("alice"), bundle("bob")
    for number in (0, 1):
        assert not replace(before, sek_number=number).may_follow(before)
    for number in (2, 2**32 - 1):
        assert replace(before, sek_number=number).may_follow(before)
    other = {field.name: getattr(bob, field.name) for field in fields(Bundle)}
    other["room_tag"] = bytes(16)
    may_change = {
        name
        for name, value in other.items()
        if replace(before, **{name: value, "sek_number": 2}).may_follow(before)
    }
    assert may_change == {"nick", "sek", "sek_number", "raw"}


def test_a_roster_digest_depends_on_who_and_not_on_order_nick_or_sek() -> None:
    alice, bob = bundle("alice"), bundle("bob")
    carol = replace(alice, session_id=bytes(16), session_key=VerifyKey(ALICE.csk.public))
    digest = roster_digest([alice, bob, carol])
    assert digest == roster_digest([carol, bob, alice]) == roster_digest([bob, alice, carol])
    other = {field.name: getattr(bob, field.name) for field in fields(Bundle)}
    counts = {
        name
        for name, value in other.items()
        if roster_digest([replace(alice, **{name: value}), bob, carol]) != digest
    }
    assert counts == {"session_id", "identity", "session_key"}
    subsets: Iterable[list[Bundle]] = ([], [alice], [alice, bob], [alice, alice, bob, carol])
    assert digest not in [roster_digest(members) for members in subsets]


# --------------------------------------------------------------------------------------------------
# key shares


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session_id", BOB.session_id),
        ("tag", reference.PAIR),
        ("epoch", 2),
        ("n", 1),
        ("first_seq", 2),
        ("recipient", ALICE.session_id),
        ("sek_number", 2),
    ],
)
def test_a_share_is_bound_to_each_of_its_fields(field: str, value: Any) -> None:
    """Nobody passes on, under his own signature, a key that was wrapped for something else."""
    share = parse_payload(NAMED["key share"])
    assert isinstance(share, KeyShare)
    assert share.unwrap(sek("bob")) == reference.CHAIN_KEYS[0]
    changed = replace(share, **{field: value})
    body = changed.serialize()[:-64]
    stolen = parse_payload(body + BOBS_SSK.sign(Label.SHARE_SIG, body))
    assert isinstance(stolen, KeyShare)
    stolen.verify(VerifyKey(BOBS_SSK.public))
    with pytest.raises(BadCiphertext):
        stolen.unwrap(sek("bob"))


def test_the_fields_that_a_share_is_bound_to_are_all_it_has() -> None:
    bound = {"session_id", "tag", "epoch", "n", "first_seq", "recipient", "sek_number"}
    assert {field.name for field in fields(KeyShare)} == bound | {"wrap", "signature"}


def test_a_share_opens_for_its_recipient_alone() -> None:
    share = KeyShare.create(
        SSK, ALICE.session_id, reference.TAG, 3, 7, 9, bundle("bob"), bytes(range(32))
    )
    share.verify(bundle().session_key)
    assert share.unwrap(sek("bob")) == bytes(range(32))
    with pytest.raises(BadCiphertext):
        share.unwrap(sek("alice"))


# --------------------------------------------------------------------------------------------------
# entries


def test_an_entry_id_is_of_the_head_alone() -> None:
    """So a text can be withheld or erased, and feed and proof still hold."""
    entry = SignedEntry.parse(NAMED["chat entry"]).entry
    head = NAMED["chat entry"][:146]
    assert entry.entry_id == H(Label.ENTRY, head)
    VerifyKey(SSK.public).verify(NAMED["chat entry"][-64:], Label.ENTRY_SIG, head)
    assert entry.text not in head
    assert entry.salt not in head


def test_an_entry_id_cannot_be_confirmed_from_a_text_without_the_salt() -> None:
    same = (EntryKind.CHAT, reference.TAG, ALICE.session_id, 1, bytes(32), bytes(32), 0, b"yes")
    entries = [Entry.create(*same) for _ in range(8)]
    assert len({entry.entry_id for entry in entries}) == 8
    for entry in entries:
        text_hash = entry.head[-32:]
        assert text_hash == H(Label.TEXT, entry.salt + b"yes")
        assert text_hash not in (H(Label.TEXT, b"yes"), H(Label.TEXT, bytes(16) + b"yes"))


def test_every_field_of_an_entry_but_the_text_is_in_its_head() -> None:
    entry = SignedEntry.parse(NAMED["chat entry"]).entry
    other = {
        "kind": 3,
        "tag": reference.PAIR,
        "session_id": BOB.session_id,
        "seq": 3,
        "previous": bytes(32),
        "seen": reference.FIRST_ID,
        "sent_ms": 0,
        "salt": bytes(16),
        "text": b"bye",
    }
    assert other.keys() == {field.name for field in fields(Entry)}
    changed = [replace(entry, **{name: value}) for name, value in other.items()]  # type: ignore[arg-type]
    assert len({e.entry_id for e in [entry, *changed]}) == 1 + len(other)


# --------------------------------------------------------------------------------------------------
# events, and the module


def test_an_events_id_is_of_a_salted_record() -> None:
    events = [Event(2, BOB.fingerprint) for _ in range(8)]
    assert len({event.event_id for event in events}) == 8
    for event in events:
        assert event.event_id == H(Label.EVENT, event.salt + b"\2" + BOB.fingerprint)
        assert Event.parse(event.serialize()) == event


def test_all_names_everything_public() -> None:
    public = {
        name
        for name, value in vars(chat_messages).items()
        if getattr(value, "__module__", "") == "chat_messages" and not name.startswith("_")
    }
    assert public <= set(chat_messages.__all__)
