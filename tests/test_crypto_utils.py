"""crypto_utils: what each key may do, what is refused, and that nothing else can happen.

`make_vectors_crypto` is a second implementation of all of it (but AES-GCM and Argon2id) with
hashlib, hmac and integers; what the two must agree on is in vectors/crypto.json.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import make_vectors_crypto as reference
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import crypto_utils
from chat_wire import H, Label, join_proof
from crypto_utils import (
    MAX_PASSPHRASE_BYTES,
    MAX_SKIP,
    RSA_BYTES,
    SIGNATURE_BYTES,
    BadCiphertext,
    BadKey,
    BadSignature,
    CannotDerive,
    CryptoError,
    CryptoWallet,
    EncryptionManager,
    Identity,
    IdentityPublic,
    Keystore,
    KeystoreDamaged,
    KeyUsed,
    PassphraseNeeded,
    PublicKeys,
    ReceiverChain,
    RoomSecret,
    SenderChain,
    SigningKey,
    TooFarAhead,
    VerifyKey,
    WrongPassphrase,
    fingerprint,
    mac,
    open_sealed,
    pair_tag,
    random_bytes,
    safety_number,
    seal,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

VECTORS: dict[str, Any] = json.loads(reference.PATH.read_text("ascii"))
ERROR_NAMES = (
    "BadKey",
    "BadSignature",
    "BadCiphertext",
    "KeystoreDamaged",
    "PassphraseNeeded",
    "WrongPassphrase",
)
LABELS = {name: value for name, value in vars(Label).items() if name.isupper()}
BODY, MIX, KEY = b"a body", b"m" * 32, b"k" * 32
ROOM = RoomSecret(b"r" * 16)


# RSA keys take 0.1 to 1 s to make, so the tests share three.


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.from_pkcs8(bytes.fromhex(VECTORS["identity_pkcs8"]))


@pytest.fixture(scope="module")
def alice() -> EncryptionManager:
    return EncryptionManager()


@pytest.fixture(scope="module")
def bob() -> EncryptionManager:
    return EncryptionManager()


@pytest.fixture(scope="module")
def vector_manager() -> EncryptionManager:
    """The vectors' key, which exists only to be known, as a session encryption key."""
    key = load_der_private_key(bytes.fromhex(VECTORS["identity_pkcs8"]), password=None)
    with mock.patch("crypto_utils.rsa.generate_private_key", return_value=key):
        return EncryptionManager()


@pytest.fixture(scope="module")
def keystore(identity: Identity) -> Keystore:
    return Keystore(identity, SigningKey(b"s" * 32), b"d" * 32, b"c" * 16)


def outcome(action: Callable[[], object]) -> str:
    """The name of the CryptoError that it raises, else "ok"; any other error is the test's."""
    try:
        action()
    except CryptoError as exc:
        return type(exc).__name__
    return "ok"


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


# --------------------------------------------------------------------------------------------------
# vectors


def label_of(text: str) -> bytes:
    label = reference.label(text)
    assert label in LABELS.values()
    return label


def do_open_room(v: dict[str, Any]) -> object:
    room = RoomSecret.open_room(v["name"])
    return {"secret": room.secret, "tag": room.tag, "auth": room.auth, "mix": room.mix}


def do_chain(v: dict[str, Any]) -> object:
    with mock.patch("crypto_utils.os.urandom", return_value=v["chain_key"]):
        chain = SenderChain(1, v["room_mix"])
    while chain.n < v["n"]:
        chain.next()
    ck = chain.chain_key
    n, mk = chain.next()
    assert n == v["n"]
    assert mk == ReceiverChain(0, v["chain_key"], v["room_mix"]).derive(n).key
    assert mk == ReceiverChain(n, ck, v["room_mix"]).derive(n).key
    return {"chain_key": ck, "message_key": mk}


def do_identity_key(v: dict[str, Any]) -> object:
    spki = v["spki"]
    uses = [
        outcome(lambda: IdentityPublic(spki)),
        outcome(lambda: EncryptionManager.check_public_key(spki)),
        outcome(lambda: EncryptionManager.wrap_key(KEY, spki, b"")),
        outcome(lambda: EncryptionManager.encrypt_message(b"", spki)),
    ]
    assert len(set(uses)) == 1
    return IdentityPublic(spki).fingerprint


def do_identity_signature(v: dict[str, Any]) -> object:
    IdentityPublic(v["spki"]).verify(v["signature"], label_of(v["label"]), v["body"])
    return "ok"


def do_session_key(v: dict[str, Any]) -> object:
    key = SigningKey(v["seed"])
    return {"public": key.public, "signature": key.sign(label_of(v["label"]), v["body"])}


def do_session_signature(v: dict[str, Any]) -> object:
    VerifyKey(v["public"]).verify(v["signature"], label_of(v["label"]), v["body"])
    return "ok"


def do_keystore(v: dict[str, Any]) -> object:
    is_locked = "passphrase" in v
    store = Keystore.parse(v["data"], (lambda: v["passphrase"]) if is_locked else None)
    assert store.has_passphrase == is_locked
    assert Keystore.public_part(v["data"]) == store.public
    with mock.patch("crypto_utils.os.urandom", return_value=reference.stretched("nonce", 12)):
        assert store.serialize() == v["data"]
    return {
        "spki": store.identity.spki,
        "seed": store.chain_signing_key.seed,
        "data_key": store.chain_data_key,
        "chain_id": store.chain_id,
    }


DO: dict[str, Callable[[dict[str, Any]], object]] = {
    "hash": lambda v: H(label_of(v["label"]), v["body"]),
    "open room": do_open_room,
    "pair tag": lambda v: pair_tag(RoomSecret(v["secret"]), v["one"], v["other"]),
    "join proof": lambda v: join_proof(**v),
    "safety number": lambda v: safety_number(**v),
    "chain": do_chain,
    "identity key": do_identity_key,
    "identity signature": do_identity_signature,
    "open": lambda v: open_sealed(v["key"], v["sealed"], v["associated"]),
    "session key": do_session_key,
    "session signature": do_session_signature,
    "verify key": lambda v: VerifyKey(v["public"]),
    "keystore": do_keystore,
}


@pytest.mark.timeout(10)  # a Diffie-Hellman key in 1.4 kB once took 50 s to refuse
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: f"{c['what']}: {c['why']}")
def test_vectors_come_out_as_they_say(
    case: dict[str, Any], vector_manager: EncryptionManager
) -> None:
    text = {"name", "label"}  # the rest is numbers and hex
    v = {
        k: x if k in text or isinstance(x, int) else bytes.fromhex(x)
        for k, x in case["given"].items()
    }
    do = DO | {
        "unwrap": lambda v: vector_manager.unwrap_key(v["wrapped"], v["oaep_label"]),
        "decrypt": lambda v: vector_manager.decrypt_message(v["data"]),
    }
    if case["expect"] in ERROR_NAMES:
        with pytest.raises(CryptoError) as caught:
            do[case["what"]](v)
        assert type(caught.value).__name__ == case["expect"]
        return
    got = do[case["what"]](v)
    if isinstance(got, dict):
        assert {k: x.hex() for k, x in got.items()} == case["expect"]
    else:
        assert (got.hex() if isinstance(got, bytes) else got) == case["expect"]


def test_the_vectors_are_what_their_script_makes() -> None:
    assert reference.PATH.read_text("ascii") == reference.text()


def test_every_operation_has_a_vector_that_succeeds_and_every_refusal_one_that_fails() -> None:
    good = {c["what"] for c in VECTORS["cases"] if c["expect"] not in ERROR_NAMES}
    assert good == {*DO, "unwrap", "decrypt"} - {"verify key"}  # it has "session signature"
    assert {c["expect"] for c in VECTORS["cases"] if c["expect"] in ERROR_NAMES} == {*ERROR_NAMES}


# --------------------------------------------------------------------------------------------------
# labels


def test_labels_are_distinct_and_none_starts_another() -> None:
    values = list(LABELS.values())
    assert len(set(values)) == len(values)
    for value in values:
        assert value.startswith(b"chainroom/1 ")
        assert value.index(b"\0") == len(value) - 1  # so none is a prefix of another
        assert value.isascii()


def test_labels_are_the_specified_ones() -> None:
    specified = {name: reference.label(text) for name, text in reference.LABELS.items()}
    assert specified.items() <= LABELS.items()


def test_hashes_and_macs_under_two_labels_differ() -> None:
    assert len({H(label, BODY) for label in LABELS.values()}) == len(LABELS)
    assert len({mac(KEY, label, BODY) for label in LABELS.values()}) == len(LABELS)
    assert mac(KEY, Label.MESSAGE_KEY, BODY) == reference.hmac_sha(
        KEY, reference.label("mk") + BODY
    )


# --------------------------------------------------------------------------------------------------
# what each class is for


@pytest.mark.parametrize(
    ("kind", "may"),
    [
        (Identity, {"generate", "from_pkcs8", "to_pkcs8", "sign"}),
        (IdentityPublic, {"verify"}),
        (
            EncryptionManager,
            {"get_public_key", "check_public_key", "wrap_key", "unwrap_key"}
            | {"encrypt_message", "decrypt_message"},
        ),
        (SigningKey, {"generate", "sign"}),
        (VerifyKey, {"verify"}),
        (SenderChain, {"next"}),
        (ReceiverChain, {"derive", "commit", "Step"}),
    ],
)
def test_a_key_does_its_job_and_nothing_else(kind: type, may: set[str]) -> None:
    assert {name for name in vars(kind) if not name.startswith("_")} == may


def test_no_key_shows_its_secret_when_printed(keystore: Keystore, alice: EncryptionManager) -> None:
    receiver = ReceiverChain(0, KEY, MIX)
    holders = [keystore, keystore.identity, keystore.chain_signing_key, alice, ROOM]
    shown = repr([*holders, receiver, receiver.derive(0), SenderChain(1, MIX)])
    secrets = [keystore.chain_data_key, keystore.chain_signing_key.seed, ROOM.secret, KEY]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


# --------------------------------------------------------------------------------------------------
# signatures


def labels_that_fit(public: IdentityPublic | VerifyKey, signature: bytes) -> list[str]:
    def fits(label: bytes) -> bool:
        return outcome(lambda: public.verify(signature, label, BODY)) == "ok"

    return [name for name, label in LABELS.items() if fits(label)]


def test_a_signature_verifies_under_its_own_label_alone(identity: Identity) -> None:
    session = SigningKey.generate()
    by_identity = identity.sign(Label.BUNDLE_SIG, BODY)
    by_session = session.sign(Label.ENTRY_SIG, BODY)
    assert labels_that_fit(IdentityPublic(identity.spki), by_identity) == ["BUNDLE_SIG"]
    assert labels_that_fit(VerifyKey(session.public), by_session) == ["ENTRY_SIG"]


def test_a_signature_fits_one_key_and_one_body(
    identity: Identity, alice: EncryptionManager
) -> None:
    ours, theirs = SigningKey.generate(), SigningKey.generate()
    signature, rsa_signature = ours.sign(Label.ACK_SIG, BODY), identity.sign(Label.ACK_SIG, BODY)
    assert (len(signature), len(rsa_signature)) == (SIGNATURE_BYTES, RSA_BYTES)
    for key, body in ((theirs.public, BODY), (ours.public, BODY + b"\0"), (ours.public, b"")):
        with pytest.raises(BadSignature):
            VerifyKey(key).verify(signature, Label.ACK_SIG, body)
    for spki, body in ((alice.get_public_key(), BODY), (identity.spki, BODY[:-1])):
        with pytest.raises(BadSignature):
            IdentityPublic(spki).verify(rsa_signature, Label.ACK_SIG, body)


def test_a_second_implementation_verifies_our_signatures(identity: Identity) -> None:
    message = Label.CHAIN_CERT + BODY
    assert reference.pss_fits(reference.N, message, identity.sign(Label.CHAIN_CERT, BODY))
    session = SigningKey.generate()
    assert session.public == reference.ed_public(session.seed)[0]
    assert session.sign(Label.CHAIN_CERT, BODY) == reference.ed_sign(session.seed, message)


@pytest.mark.parametrize("bit", [0, 7])
def test_a_signature_with_any_byte_flipped_is_refused(identity: Identity, bit: int) -> None:
    session = SigningKey.generate()
    rsa_public, public = IdentityPublic(identity.spki), VerifyKey(session.public)
    signature = session.sign(Label.ACK_SIG, BODY)
    for at in range(SIGNATURE_BYTES):
        with pytest.raises(BadSignature):
            public.verify(flipped(signature, at, bit), Label.ACK_SIG, BODY)
    signature = identity.sign(Label.ACK_SIG, BODY)
    for at in range(RSA_BYTES):
        with pytest.raises(BadSignature):
            rsa_public.verify(flipped(signature, at, bit), Label.ACK_SIG, BODY)


@given(signature=st.binary(max_size=2 * RSA_BYTES))
def test_any_bytes_as_a_signature_are_refused(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        IdentityPublic(reference.IK).verify(signature, Label.BUNDLE_SIG, BODY)
    with pytest.raises(BadSignature):
        VerifyKey(SigningKey(KEY).public).verify(signature, Label.BUNDLE_SIG, BODY)


# --------------------------------------------------------------------------------------------------
# public keys


def test_a_fresh_key_is_canonical_and_new(alice: EncryptionManager, bob: EncryptionManager) -> None:
    made = Identity.generate()
    keys = [made.spki, alice.get_public_key(), bob.get_public_key()]
    assert len(set(keys)) == 3
    assert {len(spki) for spki in keys} == {422}
    for spki in keys:
        EncryptionManager.check_public_key(spki)
    public = IdentityPublic(made.spki)
    assert public.spki == made.spki
    assert public.fingerprint == made.fingerprint == fingerprint(made.spki)
    assert made.fingerprint == hashlib.sha256(b"chainroom/1 identity\0" + made.spki).digest()
    assert Identity.from_pkcs8(made.to_pkcs8()).spki == made.spki
    made_seeds = {SigningKey.generate().seed for _ in range(10)}
    assert len(made_seeds) == 10


@pytest.mark.parametrize("bits", [2048, 3071, 3073, 4096])
def test_an_rsa_key_of_another_size_is_refused(bits: int) -> None:
    modulus = 1 << bits - 1 | 1
    key = rsa.RSAPublicNumbers(65537, modulus).public_key()
    with pytest.raises(BadKey):
        IdentityPublic(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@given(st.data())
def test_a_changed_public_key_is_another_key_or_refused_but_never_the_same(
    data: st.DataObject,
) -> None:
    good = bytearray(reference.IK)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, 40), st.integers(0, len(good) - 1)))
        match data.draw(st.sampled_from(["set", "insert", "delete"])):
            case "set":
                good[at] = data.draw(st.integers(0, 255))
            case "insert":
                good.insert(at, data.draw(st.integers(0, 255)))
            case "delete":
                del good[at]
    spki = bytes(good)
    if outcome(lambda: IdentityPublic(spki)) == "BadKey":
        return
    key = IdentityPublic(spki)
    assert len(spki) == len(reference.IK)
    assert (key.fingerprint == fingerprint(reference.IK)) == (spki == reference.IK)
    # Not a product of two primes any more, and yet nothing but the documented errors.
    assert len(EncryptionManager.encrypt_message(b"", spki)) == RSA_BYTES + 28
    if spki != reference.IK:
        with pytest.raises(BadSignature):
            key.verify(bytes(RSA_BYTES - 1) + b"\1", Label.BUNDLE_SIG, BODY)


@given(st.binary(max_size=600))
def test_any_bytes_as_a_public_key_are_a_bad_key(data: bytes) -> None:
    assert outcome(lambda: IdentityPublic(data)) == "BadKey"
    assert outcome(lambda: EncryptionManager.check_public_key(data)) == "BadKey"
    assert outcome(lambda: Identity.from_pkcs8(data)) == "BadKey"


def test_ed25519_keys_of_small_order_are_refused() -> None:
    points = reference.small_order_points()
    assert len(set(points)) == 8
    assert all(reference.times(8, point) == (0, 1) for point in points)
    for point in points:
        for sign in (0, 1):  # where x = 0 the sign bit makes a second name
            with pytest.raises(BadKey):
                VerifyKey(reference.encoded(point[1], sign))


def test_a_key_of_small_order_would_let_one_signature_fit_many_bodies() -> None:
    """Why they are refused: the library alone takes them."""
    neutral = reference.encoded(1, 0)
    signature = reference.compressed(reference.times(5, reference.BASE)) + (5).to_bytes(
        32, "little"
    )
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    for body in (b"I owe you nothing", b"I owe you everything"):
        key.verify(signature, body)
    with pytest.raises(BadKey):
        VerifyKey(neutral)


def test_ed25519_keys_that_are_not_canonical_are_refused() -> None:
    for y in range(reference.PRIME, 2**255):
        for sign in (0, 1):
            with pytest.raises(BadKey):
                VerifyKey(reference.encoded(y, sign))


@given(st.binary(max_size=64))
def test_any_bytes_are_an_ed25519_key_or_a_bad_key(data: bytes) -> None:
    result = outcome(lambda: VerifyKey(data))
    assert result == "BadKey" or len(data) == 32
    assert outcome(lambda: SigningKey(data)) == ("ok" if len(data) == 32 else "BadKey")


# --------------------------------------------------------------------------------------------------
# sealing and wrapping


def test_what_was_sealed_opens_and_is_never_sealed_the_same_way_twice() -> None:
    sealed = {seal(KEY, BODY, MIX) for _ in range(20)}
    assert len({s[:12] for s in sealed}) == 20
    for s in sealed:
        assert len(s) == len(BODY) + 28
        assert open_sealed(KEY, s, MIX) == BODY
    assert len({random_bytes(32) for _ in range(20)}) == 20


def test_a_sealed_value_with_any_bit_flipped_or_cut_or_misplaced_is_refused() -> None:
    sealed = seal(KEY, BODY, MIX)
    wrong = [flipped(sealed, at, bit) for at in range(len(sealed)) for bit in range(8)]
    wrong += [sealed[:size] for size in range(len(sealed))]
    for data in [*wrong, sealed + b"\0"]:
        with pytest.raises(BadCiphertext):
            open_sealed(KEY, data, MIX)
    for key, associated in ((MIX, MIX), (KEY, b""), (KEY, MIX + b"\0")):
        with pytest.raises(BadCiphertext):
            open_sealed(key, sealed, associated)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33, 64])
def test_a_key_of_another_size_makes_no_weaker_cipher(size: int, bob: EncryptionManager) -> None:
    key = bytes(size)
    with pytest.raises(BadKey):
        seal(key, BODY, b"")
    with pytest.raises(BadKey):
        open_sealed(key, bytes(100), b"")
    with pytest.raises(BadKey):
        EncryptionManager.wrap_key(key, bob.get_public_key(), Label.SHARE_WRAP)


def test_a_wrapped_key_opens_for_its_recipient_and_its_label_alone(
    alice: EncryptionManager, bob: EncryptionManager
) -> None:
    wrapped = EncryptionManager.wrap_key(KEY, bob.get_public_key(), Label.SHARE_WRAP)
    assert len(wrapped) == RSA_BYTES
    assert bob.unwrap_key(wrapped, Label.SHARE_WRAP) == KEY
    with pytest.raises(BadCiphertext):
        alice.unwrap_key(wrapped, Label.SHARE_WRAP)
    for label in (Label.HYBRID, b"", Label.SHARE_WRAP[:-1], H(Label.SHARE_WRAP, b"")):
        with pytest.raises(BadCiphertext):
            bob.unwrap_key(wrapped, label)


def test_a_second_implementation_opens_what_we_wrap() -> None:
    wrapped = EncryptionManager.wrap_key(KEY, reference.IK, Label.SHARE_WRAP)
    assert reference.oaep_unwrap(wrapped, reference.label("share")) == KEY


def test_neither_use_of_a_session_key_opens_what_the_other_made(bob: EncryptionManager) -> None:
    message = EncryptionManager.encrypt_message(BODY, bob.get_public_key())
    share = EncryptionManager.wrap_key(KEY, bob.get_public_key(), Label.SHARE_WRAP)
    with pytest.raises(BadCiphertext):
        bob.unwrap_key(message[:RSA_BYTES], Label.SHARE_WRAP)
    with pytest.raises(BadCiphertext):
        bob.decrypt_message(share + seal(KEY, BODY, share))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 255, 4096, 16_384, 65_536, 100_000])
def test_a_message_of_any_size_comes_back(
    size: int, alice: EncryptionManager, bob: EncryptionManager
) -> None:
    message = random.Random(size).randbytes(size)
    data = EncryptionManager.encrypt_message(message, bob.get_public_key())
    assert len(data) == RSA_BYTES + 28 + size
    assert bob.decrypt_message(data) == message
    assert data != alice.encrypt_message(message, bob.get_public_key())
    with pytest.raises(BadCiphertext):
        alice.decrypt_message(data)  # the sender cannot either


def test_a_message_with_a_byte_flipped_or_cut_is_refused(bob: EncryptionManager) -> None:
    data = EncryptionManager.encrypt_message(b"x" * 300, bob.get_public_key())
    edges = {
        0,
        1,
        RSA_BYTES - 1,
        *range(RSA_BYTES, RSA_BYTES + 13),
        *range(len(data) - 17, len(data)),
    }
    for at in edges | {*range(0, len(data), 7)}:
        with pytest.raises(BadCiphertext):
            bob.decrypt_message(flipped(data, at, at % 8))
    for size in {0, 1, RSA_BYTES - 1, RSA_BYTES, RSA_BYTES + 12, RSA_BYTES + 27, len(data) - 1}:
        with pytest.raises(BadCiphertext):
            bob.decrypt_message(data[:size])
    with pytest.raises(BadCiphertext):
        bob.decrypt_message(data + b"\0")


def test_halves_of_two_messages_make_no_message(bob: EncryptionManager) -> None:
    one, other = (EncryptionManager.encrypt_message(BODY, bob.get_public_key()) for _ in range(2))
    with pytest.raises(BadCiphertext):
        bob.decrypt_message(one[:RSA_BYTES] + other[RSA_BYTES:])


@settings(max_examples=50)
@given(data=st.one_of(st.binary(max_size=500), st.binary(min_size=384, max_size=420)))
def test_any_bytes_as_a_ciphertext_are_refused(
    vector_manager: EncryptionManager, data: bytes
) -> None:
    assert outcome(lambda: vector_manager.decrypt_message(data)) == "BadCiphertext"
    assert outcome(lambda: vector_manager.unwrap_key(data, Label.SHARE_WRAP)) == "BadCiphertext"
    assert outcome(lambda: open_sealed(KEY, data, b"")) == "BadCiphertext"


# --------------------------------------------------------------------------------------------------
# sender keys


class Chains:
    """A sender, a receiver who got its key before message `at`, and what was sent since."""

    def __init__(self, at: int = 0) -> None:
        self.sender = SenderChain(1, MIX)
        self.before = [self.sender.next() for _ in range(at)]
        self.share = (self.sender.n, self.sender.chain_key)
        self.receiver = ReceiverChain(*self.share, MIX)

    def send(self, count: int) -> list[tuple[int, bytes]]:
        return [self.sender.next() for _ in range(count)]

    def open(self, n: int) -> bytes:
        step = self.receiver.derive(n)
        self.receiver.commit(step)
        return step.key


def test_a_chain_starts_at_zero_with_a_key_of_its_own() -> None:
    one, other = SenderChain(3, MIX), SenderChain(3, MIX)
    assert (one.epoch, one.n, len(one.chain_key)) == (3, 0, 32)
    assert one.chain_key != other.chain_key


def test_messages_open_in_order_each_with_a_key_of_its_own() -> None:
    chains = Chains()
    sent = chains.send(50)
    assert [n for n, _ in sent] == list(range(50))
    assert len({key for _, key in sent}) == 50
    assert [(n, chains.open(n)) for n, _ in sent] == sent


def test_messages_open_in_any_order() -> None:
    chains = Chains(at=4)
    sent = chains.send(60)
    random.Random(1).shuffle(sent)
    assert [(n, chains.open(n)) for n, _ in sent] == sent
    assert chains.receiver.n == 64


def test_a_message_key_works_once() -> None:
    chains = Chains()
    chains.send(10)
    for n in (0, 5, 3):
        chains.open(n)
    for n in (0, 5, 3):
        with pytest.raises(KeyUsed):
            chains.receiver.derive(n)
    chains.open(4)  # skipped, not used


def test_derive_without_commit_uses_nothing_up() -> None:
    chains = Chains()
    keys = dict(chains.send(2 + MAX_SKIP))
    for n in (7, 0, MAX_SKIP, 7, 3):
        assert chains.receiver.derive(n).key == keys[n]
        assert chains.receiver.n == 0
    with pytest.raises(TooFarAhead):
        chains.receiver.derive(MAX_SKIP + 1)
    assert [chains.open(n) for n in range(3)] == [keys[n] for n in range(3)]
    step = chains.receiver.derive(9)
    assert step == chains.receiver.derive(9)
    chains.receiver.commit(step)
    assert chains.open(3) == keys[3]


def test_steps_committed_in_any_order_bring_no_used_key_back() -> None:
    chains = Chains()
    steps = [chains.receiver.derive(n) for n in (5, 6, 2, 9)]
    for step in steps:
        chains.receiver.commit(step)
    assert chains.receiver.n == 10
    for step in steps:
        with pytest.raises(KeyUsed):
            chains.receiver.derive(step.n)
        with pytest.raises(KeyUsed):
            chains.receiver.commit(step)


def test_a_message_is_at_most_max_skip_ahead_of_the_next_expected_one() -> None:
    chains = Chains()
    keys = dict(chains.send(2 * MAX_SKIP + 3))
    for n in (MAX_SKIP + 1, 2**32 - 1):
        with pytest.raises(TooFarAhead):
            chains.receiver.derive(n)
    assert chains.open(MAX_SKIP) == keys[MAX_SKIP]
    with pytest.raises(TooFarAhead):
        chains.receiver.derive(2 * MAX_SKIP + 2)
    assert chains.open(2 * MAX_SKIP + 1) == keys[2 * MAX_SKIP + 1]


def test_at_most_max_skip_skipped_keys_are_kept_and_the_oldest_go_first() -> None:
    chains = Chains()
    keys = dict(chains.send(2 * MAX_SKIP))
    chains.open(MAX_SKIP)  # skips 0 … 999
    chains.open(MAX_SKIP + 3)  # and two more
    for n in (0, 1):
        with pytest.raises(KeyUsed):
            chains.receiver.derive(n)
    for n in (2, MAX_SKIP - 1, MAX_SKIP + 1, MAX_SKIP + 2):
        assert chains.open(n) == keys[n]


def test_forged_messages_far_ahead_are_hashed_for_once() -> None:
    """Anybody in the room can claim to be message n + 1000 of anybody else."""
    receiver = ReceiverChain(0, KEY, MIX)
    with mock.patch("crypto_utils.mac", wraps=mac) as hashed:
        for n in (MAX_SKIP, MAX_SKIP, 0, 500, MAX_SKIP):
            receiver.derive(n)
        assert hashed.call_count == 2 * (MAX_SKIP + 1)
        receiver.commit(receiver.derive(10))
        receiver.derive(MAX_SKIP + 11)
        assert hashed.call_count == 2 * (MAX_SKIP + 12)


def test_a_joiner_given_the_present_chain_key_cannot_derive_earlier_keys() -> None:
    chains = Chains(at=20)
    for n in range(20):
        with pytest.raises(KeyUsed):
            chains.receiver.derive(n)
    # What he holds is one HMAC behind CK_19, and stepping it never leads back.
    earlier, reachable = {key for _, key in chains.before}, set()
    chain_key = chains.share[1]
    for _ in range(100):
        reachable.add(hmac.digest(chain_key, Label.MESSAGE_KEY + MIX, "sha256"))
        chain_key = hmac.digest(chain_key, Label.CHAIN_KEY, "sha256")
    assert not earlier & reachable
    later = chains.send(3)
    assert [(n, chains.open(n)) for n, _ in later] == later


def test_a_sender_forgets_the_key_that_made_a_message() -> None:
    sender = SenderChain(1, MIX)
    first = sender.chain_key
    _, key = sender.next()
    assert first not in vars(sender).values()
    assert key not in vars(sender).values()


def test_a_receiver_forgets_a_used_key() -> None:
    receiver = ReceiverChain(0, KEY, MIX)
    steps = [receiver.derive(n) for n in (0, 3, 1)]
    for step in steps:
        receiver.commit(step)
    held = repr(vars(receiver))
    assert repr(KEY) not in held
    assert not any(repr(step.key) in held for step in steps)


def test_a_message_key_needs_the_room_as_well() -> None:
    other = ReceiverChain(0, KEY, b"n" * 32)
    assert ReceiverChain(0, KEY, MIX).derive(0).key != other.derive(0).key


def chain_keys(count: int) -> list[bytes]:
    """The chain keys that follow KEY, itself the first."""
    keys = [KEY]
    while len(keys) < count:
        keys.append(hmac.digest(keys[-1], Label.CHAIN_KEY, "sha256"))
    return keys


CHAIN_KEYS = chain_keys(1101)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1100), st.booleans()), max_size=12))
def test_a_chain_opens_exactly_what_was_not_opened_yet(moves: list[tuple[int, bool]]) -> None:
    receiver, used = ReceiverChain(0, KEY, MIX), set[int]()
    for n, genuine in moves:
        following = max(used, default=-1) + 1
        if n in used:
            with pytest.raises(KeyUsed):
                receiver.derive(n)
        elif n > following + MAX_SKIP:
            with pytest.raises(TooFarAhead):
                receiver.derive(n)
        elif n >= following - MAX_SKIP:  # older ones may have been pushed out
            step = receiver.derive(n)
            key = hmac.digest(CHAIN_KEYS[n], Label.MESSAGE_KEY + MIX, "sha256")
            assert (step.n, step.key) == (n, key)
            if genuine:
                receiver.commit(step)
                used.add(n)
        assert receiver.n == max(used, default=-1) + 1


# --------------------------------------------------------------------------------------------------
# room secrets


@given(st.text("aZ1 e\u0301\u00e9\u0327\u212b\ufb01\u1100\u1161\uac00\U0001f6a2", max_size=12))
def test_an_open_room_has_one_secret_however_its_name_was_typed(name: str) -> None:
    forms = {RoomSecret.open_room(unicodedata.normalize(f, name)).secret for f in ("NFC", "NFD")}
    composed = unicodedata.normalize("NFC", name).encode()
    assert forms == {hashlib.sha256(b"chainroom/1 open room\0" + composed).digest()[:16]}


def test_what_is_derived_from_a_room_secret_tells_nothing_of_the_rest() -> None:
    values = [ROOM.secret, ROOM.tag, ROOM.auth[:16], ROOM.mix[:16], ROOM.auth[16:], ROOM.mix[16:]]
    assert len(set(values)) == 6
    assert ROOM.tag == reference.hkdf(ROOM.secret, "room tag", 16)
    assert (len(ROOM.tag), len(ROOM.auth), len(ROOM.mix)) == (16, 32, 32)


def test_a_new_rooms_secret_is_16_bytes_that_no_other_has() -> None:
    rooms = [RoomSecret.random() for _ in range(100)]
    assert {len(room.secret) for room in rooms} == {16}
    for part in (0, 15):  # the first byte is random, and so is the last
        assert len({room.secret[part] for room in rooms}) > 20
    assert len({room.secret for room in rooms} | {room.tag for room in rooms}) == 200


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_room_secret_has_16_bytes(size: int) -> None:
    with pytest.raises(BadKey):
        RoomSecret(bytes(size))


def test_a_pair_has_one_tag_whoever_asks_and_another_in_another_room() -> None:
    people = [bytes((i,)) * 32 for i in range(5)]
    pairs = {frozenset((a, b)): pair_tag(ROOM, a, b) for a in people for b in people}
    for a in people:
        for b in people:
            assert pair_tag(ROOM, b, a) == pairs[frozenset((a, b))]
            assert pair_tag(RoomSecret(b"q" * 16), a, b) != pairs[frozenset((a, b))]
    assert len(set(pairs.values())) == len(pairs) == 15
    assert {len(tag) for tag in pairs.values()} == {16}
    assert ROOM.tag not in pairs.values()


# --------------------------------------------------------------------------------------------------
# safety numbers


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_pair_has_one_safety_number_and_both_implementations_say_it(
    one: bytes, other: bytes
) -> None:
    number = safety_number(one, other)
    assert re.fullmatch(r"\d{5}( \d{5}){11}", number, re.ASCII)
    assert number == safety_number(other, one) == reference.safety_number(one, other)


def test_another_person_has_another_safety_number_in_every_group() -> None:
    people = [reference.stretched(f"person {i}", 32) for i in range(50)]
    numbers = [safety_number(people[0], other).split() for other in people]
    for group in range(12):  # of 50, two may share a group: 1 in 80
        assert len({number[group] for number in numbers}) > 45


# --------------------------------------------------------------------------------------------------
# keystore and wallet


def test_a_keystore_comes_back_with_every_key(keystore: Keystore) -> None:
    data = keystore.serialize()
    back = Keystore.parse(data)
    assert back.serialize() == data
    assert back.identity.spki == keystore.identity.spki
    assert back.chain_signing_key.public == keystore.chain_signing_key.public
    assert (back.chain_data_key, back.chain_id) == (b"d" * 32, b"c" * 16)
    signature = back.identity.sign(Label.BUNDLE_SIG, BODY)
    IdentityPublic(keystore.identity.spki).verify(signature, Label.BUNDLE_SIG, BODY)


def test_a_new_keystore_has_new_keys_and_no_chain(identity: Identity) -> None:
    with mock.patch("crypto_utils.Identity.generate", return_value=identity):
        one, other = Keystore.generate(), Keystore.generate()
    assert one.identity is identity
    assert one.chain_id == bytes(16)
    assert one.chain_data_key != other.chain_data_key
    assert one.chain_signing_key.seed != other.chain_signing_key.seed
    assert len(one.chain_data_key) == 32


def test_another_chain_leaves_the_keys_alone(keystore: Keystore) -> None:
    moved = keystore.with_chain(b"e" * 16)
    assert (moved.chain_id, keystore.chain_id) == (b"e" * 16, b"c" * 16)
    assert moved.identity is keystore.identity
    assert moved.chain_signing_key is keystore.chain_signing_key
    assert moved.chain_data_key == keystore.chain_data_key


def test_what_is_public_of_a_keystore_is_its_public_keys_and_its_chain(keystore: Keystore) -> None:
    csk = keystore.chain_signing_key.public
    assert keystore.public == PublicKeys(keystore.identity.spki, csk, b"c" * 16)


def test_a_keystore_that_could_not_be_read_again_cannot_be_made(keystore: Keystore) -> None:
    for chain_id in (b"", b"e" * 15, b"e" * 17):
        with pytest.raises(BadKey):
            keystore.with_chain(chain_id)
    with pytest.raises(BadKey):
        Keystore(keystore.identity, keystore.chain_signing_key, b"d" * 31)


def test_a_keystore_with_any_byte_flipped_or_cut_is_damaged(keystore: Keystore) -> None:
    data = keystore.serialize()
    for at in range(len(data)):
        with pytest.raises(KeystoreDamaged):
            Keystore.parse(flipped(data, at, at % 8))
        with pytest.raises(KeystoreDamaged):
            Keystore.parse(data[:at])
    with pytest.raises(KeystoreDamaged):
        Keystore.parse(data + b"\0")


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"CRK1\0" + b)))
def test_any_bytes_as_a_keystore_are_damaged(data: bytes) -> None:
    with pytest.raises(KeystoreDamaged):
        Keystore.parse(data)


@settings(max_examples=20, deadline=None)
@given(at=st.integers(0, 1792), value=st.integers(0, 255), cut=st.integers(0, 3))
def test_a_keystore_with_a_bad_key_behind_a_good_checksum_is_damaged(
    at: int, value: int, cut: int
) -> None:
    good = bytes.fromhex(VECTORS["identity_pkcs8"])
    key = (good[:at] + bytes((value,)) + good[at + 1 :])[: len(good) - cut]
    data = reference.keystore_of(key)
    if key != good:
        with pytest.raises(KeystoreDamaged):
            Keystore.parse(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA-2048", "P-256", "Ed25519"],
)
def test_only_an_rsa_3072_key_is_an_identity(make: Callable[[], Any]) -> None:
    data = make().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(BadKey):
        Identity.from_pkcs8(data)
    with pytest.raises(KeystoreDamaged):
        Keystore.parse(reference.keystore_of(data))


def _rsa_with_prime(prime: int) -> bytes:
    """PKCS #8 of a key whose first prime that is, and whose other numbers are small."""
    numbers = map(reference.der_int, (0, 15, 65537, 3, prime, 3, 1, 1, 1))
    key = reference.der(4, reference.der(0x30, *numbers))
    algorithm = reference.der(0x30, reference.RSA_OID, reference.NULL)
    return reference.der(0x30, reference.der_int(0), algorithm, key)


def _diffie_hellman() -> bytes:
    parameters = reference.der(0x30, reference.der_int(2**4000 + 1), reference.der_int(2))
    algorithm = reference.der(0x30, reference.oid("2a864886f70d010301"), parameters)
    key = reference.der(4, reference.der_int(5))
    return reference.der(0x30, reference.der_int(0), algorithm, key)


@pytest.mark.parametrize(
    "data",
    [
        _diffie_hellman(),  # the library's InternalError
        _rsa_with_prime(2**9689 - 1),  # a prime: half a minute
        _rsa_with_prime(2**44497 - 1),  # another: an hour
    ],
    ids=["Diffie-Hellman", "RSA, a long prime", "RSA, a longer one"],
)
def test_no_number_is_tested_for_primality_that_is_not_of_an_rsa_3072_key(data: bytes) -> None:
    def load(*args: Any, unsafe_skip_rsa_key_validation: bool = False, **named: Any) -> Any:
        assert unsafe_skip_rsa_key_validation
        return load_der_private_key(*args, **named, unsafe_skip_rsa_key_validation=True)

    with mock.patch.object(crypto_utils, "load_der_private_key", load):
        with pytest.raises(BadKey):
            Identity.from_pkcs8(data)
        with pytest.raises(KeystoreDamaged):
            Keystore.parse(reference.keystore_of(data))


# --------------------------------------------------------------------------------------------------
# a keystore behind a passphrase

PASSPHRASE = "drei Möwen".encode()


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id at a cost that a loop can pay."""
    monkeypatch.setattr(crypto_utils, "_LEAST_COST", (64, 1, 1))
    monkeypatch.setattr(crypto_utils, "_MOST_COST", (128, 2, 8))


@pytest.fixture
def locked(weak: None, keystore: Keystore) -> Keystore:
    return keystore.with_passphrase(PASSPHRASE)


def unlock(data: bytes, passphrase: bytes = PASSPHRASE) -> Keystore:
    return Keystore.parse(data, lambda: passphrase)


def nobody() -> bytes:
    raise AssertionError("the passphrase is asked for")


def with_new_checksum(data: bytes) -> bytes:
    return data[:-32] + H(Label.KEYSTORE, data[:-32])


def test_a_locked_keystore_comes_back_with_every_key(locked: Keystore, keystore: Keystore) -> None:
    back = unlock(locked.serialize())
    assert back.public == keystore.public
    assert back.identity.to_pkcs8() == keystore.identity.to_pkcs8()
    assert back.chain_signing_key.seed == keystore.chain_signing_key.seed
    assert back.chain_data_key == keystore.chain_data_key
    assert (back.has_passphrase, keystore.has_passphrase) == (True, False)


def test_a_locked_keystore_shows_its_public_keys_and_no_private_one(locked: Keystore) -> None:
    data, pkcs8 = locked.serialize(), locked.identity.to_pkcs8()
    assert Keystore.public_part(data) == locked.public
    for public in (locked.identity.spki, locked.chain_signing_key.public, locked.chain_id):
        assert public in data
    for at in range(len(pkcs8) - 16):  # the modulus and the exponent are public
        part = pkcs8[at : at + 16]
        assert part not in data or part in locked.identity.spki
    for private in (locked.chain_data_key, locked.chain_signing_key.seed, PASSPHRASE):
        assert private not in data


def test_a_locked_keystore_opens_with_its_passphrase_alone(locked: Keystore) -> None:
    data = locked.serialize()
    for wrong in (b"", b"x", PASSPHRASE[:-1], PASSPHRASE + b" ", PASSPHRASE.upper()):
        with pytest.raises(WrongPassphrase):
            unlock(data, wrong)
    with pytest.raises(PassphraseNeeded):
        Keystore.parse(data)


def test_nobody_is_asked_for_the_passphrase_of_a_keystore_without_one(keystore: Keystore) -> None:
    assert Keystore.parse(keystore.serialize(), nobody).public == keystore.public


def test_what_the_question_for_a_passphrase_raises_passes_through(locked: Keystore) -> None:
    def no_answer() -> bytes:
        raise EOFError

    with pytest.raises(EOFError):
        Keystore.parse(locked.serialize(), no_answer)


def test_another_chain_needs_no_passphrase(locked: Keystore) -> None:
    opened = unlock(locked.serialize())
    with mock.patch("crypto_utils.Argon2id", side_effect=AssertionError("derived again")):
        moved = opened.with_chain(b"e" * 16)
        data, again = moved.serialize(), moved.serialize()
    assert unlock(data).public == moved.public
    assert Keystore.public_part(data).chain_id == b"e" * 16
    assert data != again  # never two texts under one nonce


def test_a_changed_passphrase_opens_and_the_old_one_does_not(locked: Keystore) -> None:
    changed = locked.with_passphrase(b"another")
    assert unlock(changed.serialize(), b"another").public == locked.public
    with pytest.raises(WrongPassphrase):
        unlock(changed.serialize())


def test_the_same_passphrase_makes_another_key_each_time_it_is_set(locked: Keystore) -> None:
    one, other = locked.serialize(), locked.with_passphrase(PASSPHRASE).serialize()
    assert one[5:14] == other[5:14]  # the cost
    assert one[14:30] != other[14:30]  # the salt


def test_an_empty_passphrase_is_none(locked: Keystore, keystore: Keystore) -> None:
    assert locked.with_passphrase(b"").serialize() == keystore.serialize()


def test_a_passphrase_has_at_most_4096_bytes(locked: Keystore) -> None:
    longest = b"x" * MAX_PASSPHRASE_BYTES
    assert unlock(locked.with_passphrase(longest).serialize(), longest).public == locked.public
    with pytest.raises(BadKey):
        locked.with_passphrase(longest + b"x")


def test_the_cost_that_is_written_is_rfc_9106s_second_choice(keystore: Keystore) -> None:
    with mock.patch("crypto_utils.Argon2id") as argon2id:
        argon2id.return_value.derive.return_value = KEY
        data = keystore.with_passphrase(PASSPHRASE).serialize()
    cost = {"memory_cost": 2**16, "iterations": 3, "lanes": 4, "length": 32}
    assert argon2id.call_args.kwargs == cost | {"salt": data[14:30]}
    assert data[:14] == b"CRK1\1" + bytes.fromhex("00010000 00000003 04")


def test_a_locked_keystore_with_any_byte_flipped_or_cut_is_damaged_and_nobody_is_asked(
    locked: Keystore,
) -> None:
    data = locked.serialize()
    for at in range(len(data)):
        for bad in (flipped(data, at, at % 8), data[:at]):
            with pytest.raises(KeystoreDamaged):
                Keystore.parse(bad, nobody)
            with pytest.raises(KeystoreDamaged):
                Keystore.public_part(bad)
    with pytest.raises(KeystoreDamaged):
        Keystore.parse(data + b"\0", nobody)


def test_a_locked_keystore_altered_under_a_new_checksum_never_opens(locked: Keystore) -> None:
    data = locked.serialize()
    found = set()
    for at in range(len(data) - 32):
        bad = with_new_checksum(flipped(data, at, at % 8))
        found.add(outcome(partial(unlock, bad)))
    assert found == {"KeystoreDamaged", "WrongPassphrase"}


def test_a_cost_out_of_bounds_is_refused_before_any_memory_is_taken(keystore: Keystore) -> None:
    data = reference.locked_keystore_of(b"", cost=(2**32 - 1, 2**32 - 1, 255), sealed=bytes(28))
    with (
        mock.patch("crypto_utils.Argon2id", side_effect=AssertionError("derived")),
        pytest.raises(KeystoreDamaged, match="out of bounds"),
    ):
        Keystore.parse(data, nobody)


@pytest.mark.parametrize("problem", [MemoryError(), UnsupportedAlgorithm("no Argon2")])
def test_a_computer_that_cannot_derive_says_so(locked: Keystore, problem: Exception) -> None:
    with mock.patch("crypto_utils.Argon2id", side_effect=problem):
        with pytest.raises(CannotDerive):
            unlock(locked.serialize())
        with pytest.raises(CannotDerive):
            locked.with_passphrase(b"another")


@given(st.binary(max_size=600), st.sampled_from([b"CRK1\0", b"CRK1\1", b"CRK1"]))
def test_any_bytes_behind_a_good_checksum_are_damaged(body: bytes, start: bytes) -> None:
    data = with_new_checksum(start + body + bytes(32))
    with pytest.raises(KeystoreDamaged):
        Keystore.parse(data, nobody)
    with pytest.raises(KeystoreDamaged):
        Keystore.public_part(data)


def test_a_locked_keystore_prints_neither_its_keys_nor_the_passphrases(locked: Keystore) -> None:
    assert locked._lock is not None
    for secret in (locked.chain_data_key, locked.chain_signing_key.seed, locked._lock.key):
        assert repr(secret)[2:-1] not in repr((locked, locked._lock))


@pytest.mark.parametrize(
    "fields",
    [
        {"identity_spki": b""},
        {"chain_key": b"\1" + bytes(31)},
        {"chain_key": b""},
        {"chain_id": b"c" * 15},
    ],
)
def test_public_keys_that_are_none_cannot_be_made(
    keystore: Keystore, fields: dict[str, bytes]
) -> None:
    with pytest.raises(BadKey):
        replace(keystore.public, **fields)


def test_the_document_says_where_each_field_of_a_locked_keystore_is(locked: Keystore) -> None:
    document = (reference.PATH.parents[2] / "docs" / "PROFILE.md").read_text("utf-8")
    section = document.split("## 2. ")[1].split("## 3. ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", section, re.MULTILINE)
    at = {field: int(start) for start, field in rows}
    spki, chain_key = locked.identity.spki, locked.chain_signing_key.public
    fields = {
        "magic[4]": b"CRK1",
        "kdf u8": b"\1",
        "memory u32": (64).to_bytes(4, "big"),
        "iterations u32": b"\0\0\0\1",
        "lanes u8": b"\1",
        "salt[16]": None,
        "IK SPKI (u16 length)": len(spki).to_bytes(2, "big") + spki,
        "CSK public[32]": chain_key,
        "chain_id[16]": locked.chain_id,
        "sealed (u16 length)": None,
    }
    assert list(at) == list(fields)
    data = locked.serialize()
    for field, value in fields.items():
        assert value is None or data[at[field] :].startswith(value)
    sealed = at["sealed (u16 length)"]
    assert sealed + 2 + int.from_bytes(data[sealed : sealed + 2], "big") + 32 == len(data)
    assert f"the {sealed} bytes before" in section


def test_the_document_says_what_a_passphrase_costs() -> None:
    document = (reference.PATH.parents[2] / "docs" / "PROFILE.md").read_text("utf-8")
    costs = zip(crypto_utils._LEAST_COST, crypto_utils._MOST_COST, strict=True)
    for least, most in costs:
        assert f"{least} is written, {least} to {most} are read" in document


# --------------------------------------------------------------------------------------------------
# the wallet


def test_a_wallet_grows_by_what_was_mined() -> None:
    wallet = CryptoWallet()
    assert [wallet.mine(1), wallet.mine(1), wallet.mine(3)] == [1, 2, 5]
    assert CryptoWallet(7).mine(1) == 8


@pytest.mark.parametrize("amount", [0, -1])
def test_a_wallet_mines_at_least_one_coin(amount: int) -> None:
    wallet = CryptoWallet(2)
    with pytest.raises(ValueError, match="at least 1"):
        wallet.mine(amount)
    assert wallet.balance == 2


# --------------------------------------------------------------------------------------------------
# errors


def test_every_error_is_a_crypto_error() -> None:
    locked = (PassphraseNeeded, WrongPassphrase, CannotDerive)
    keys = (BadKey, BadSignature, BadCiphertext, TooFarAhead, KeyUsed, KeystoreDamaged)
    for kind in (*keys, *locked):
        assert kind.__bases__ == (CryptoError,)
        assert kind.__name__ in crypto_utils.__all__
