"""Keys and what may be done with each: the only file that touches cryptographic primitives.

What lives here: the identity key, the session keys, sender-key ratchets, the room's secrets, the
keystore and the wallet.  What it does not know: payloads, blocks, sockets, files, clocks.  Every
key is a class of its own with just the operations that DESIGN.md section 3 allows it.

    identity = Identity.generate()
    signature = identity.sign(Label.BUNDLE_SIG, body)
    IdentityPublic(spki).verify(signature, Label.BUNDLE_SIG, body)  # or raises BadSignature

Suite of version 1 (docs/PROTOCOL.md 1.4): RSA-3072 with e = 65537, PSS-SHA256 (salt 32) and
OAEP-SHA256 (RFC 8017), Ed25519 (RFC 8032), AES-256-GCM with random 96-bit nonces (SP 800-38D),
HMAC-SHA256 (RFC 2104), HKDF-SHA256 (RFC 5869), Argon2id (RFC 9106).

Errors::

    CryptoError
    ├── BadKey            a key that is not canonical, of the wrong kind or size, or weak
    ├── BadSignature      a signature that does not verify
    ├── BadCiphertext     altered, or not for us
    ├── TooFarAhead       a message key more than MAX_SKIP steps ahead
    ├── KeyUsed           a message key that was used, or is older than what we were given
    ├── KeystoreDamaged   a keystore that cannot be read
    ├── PassphraseNeeded  a keystore that is locked, and nobody to ask for its passphrase
    ├── WrongPassphrase   a passphrase that does not open it
    └── CannotDerive      this computer has too little memory for Argon2id, or lacks it
"""

from __future__ import annotations

import hmac
import os
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

try:
    from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_der_private_key,
    )
except (
    ImportError
) as exc:  # the first that people meet who start it with another Python than .venv's
    raise SystemExit(
        "chainroom: this Python lacks the package cryptography, or has an old one: make install, "
        "then .venv/bin/python chat_client.py; or pip install ."
    ) from exc

from chat_wire import H, Label, Reader, WireError, prefixed, u8

__all__ = [
    "AEAD_NONCE_BYTES",
    "AEAD_TAG_BYTES",
    "MAX_PASSPHRASE_BYTES",
    "MAX_SKIP",
    "RSA_BYTES",
    "SIGNATURE_BYTES",
    "BadCiphertext",
    "BadKey",
    "BadSignature",
    "CannotDerive",
    "CryptoError",
    "CryptoWallet",
    "EncryptionManager",
    "Identity",
    "IdentityPublic",
    "KeyUsed",
    "Keystore",
    "KeystoreDamaged",
    "PassphraseNeeded",
    "PublicKeys",
    "ReceiverChain",
    "RoomSecret",
    "SenderChain",
    "SigningKey",
    "TooFarAhead",
    "VerifyKey",
    "WrongPassphrase",
    "fingerprint",
    "mac",
    "open_sealed",
    "pair_tag",
    "random_bytes",
    "safety_number",
    "seal",
]

RSA_BITS = 3072
RSA_BYTES = RSA_BITS // 8  # of an RSA signature, and of an OAEP ciphertext
RSA_EXPONENT = 65_537
SIGNATURE_BYTES = 64  # Ed25519
AEAD_NONCE_BYTES = 12
AEAD_TAG_BYTES = 16
KEY_BYTES = 32
_ROOM_SECRET_BYTES = 16
_SAFETY_GROUPS, _SAFETY_GROUP_BYTES, _SAFETY_GROUP_DIGITS = 12, 5, 5  # 60 digits: 199 bits
_CHAIN_ID_BYTES = 16
# How many messages of one sender may be missing before the next one we can open.  It bounds the
# hashing that forged frames can ask for (2000 HMACs, 3 to 10 ms, once for each message that was
# opened: `ReceiverChain` keeps what it derived) and the keys that we hold (32 bytes each).
MAX_SKIP = 1000

_SHA256 = hashes.SHA256()
_PSS = padding.PSS(padding.MGF1(_SHA256), salt_length=32)


class CryptoError(Exception):
    """Base of everything that this module raises."""


class BadKey(CryptoError):
    """A key that is not canonical, of the wrong kind or size, or weak."""


class BadSignature(CryptoError):
    """A signature that does not verify."""


class BadCiphertext(CryptoError):
    """A ciphertext that was altered or is not for this key."""


class TooFarAhead(CryptoError):
    """A message key more than MAX_SKIP steps ahead of the next expected one."""


class KeyUsed(CryptoError):
    """A message key that was used already, or lies before what we were given."""


class KeystoreDamaged(CryptoError):
    """A keystore whose bytes cannot be read or do not fit their checksum."""


class PassphraseNeeded(CryptoError):
    """A keystore that is locked, and nobody to ask for its passphrase."""


class WrongPassphrase(CryptoError):
    """A passphrase that does not open a keystore: another one was set, or somebody altered the
    file and made its checksum anew, which cannot be told apart."""


class CannotDerive(CryptoError):
    """This computer has too little memory for a keystore's Argon2id, or a library without it."""


def random_bytes(size: int) -> bytes:
    """`size` bytes from the operating system's generator."""
    return os.urandom(size)


def mac(key: bytes, label: bytes, body: bytes) -> bytes:
    """HMAC-SHA256(key, label ‖ body), 32 bytes."""
    return hmac.digest(key, label + body, "sha256")


def _hkdf(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-SHA256 with empty salt and info = label; one call for each output."""
    return HKDF(_SHA256, length=size, salt=None, info=label).derive(secret)


def _aead(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:  # AESGCM would take 16 and 24 too, and be another cipher
        raise BadKey(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
    return AESGCM(key)


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """nonce[12] ‖ AES-256-GCM(key, plaintext, associated): 28 bytes longer than the plaintext.

    Args:
        key: 32 bytes, else BadKey.
        associated: what is authenticated beside the plaintext.
    """
    nonce = os.urandom(AEAD_NONCE_BYTES)
    return nonce + _aead(key).encrypt(nonce, plaintext, associated)


def open_sealed(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext that `seal` was given.

    Raises:
        BadCiphertext: too short, altered, another key or other associated data.
        BadKey: `key` is not 32 bytes.
    """
    if len(sealed) < AEAD_NONCE_BYTES + AEAD_TAG_BYTES:
        raise BadCiphertext(f"a sealed value of {len(sealed)} bytes is too short")
    nonce, ciphertext = sealed[:AEAD_NONCE_BYTES], sealed[AEAD_NONCE_BYTES:]
    try:
        return _aead(key).decrypt(nonce, ciphertext, associated)
    except InvalidTag as exc:
        raise BadCiphertext("altered, or sealed with another key") from exc


# --------------------------------------------------------------------------- RSA keys


def _spki(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# The DER of an RSA-3072 SPKI (RFC 5280 4.1, RFC 8017 A.1.1) around its modulus of 384 bytes.
_SPKI_HEAD = bytes.fromhex(
    "308201a2"  # SubjectPublicKeyInfo
    "300d06092a864886f70d0101010500"  # rsaEncryption, NULL
    "0382018f00"  # BIT STRING without unused bits
    "3082018a"  # RSAPublicKey
    "0282018100"  # the modulus, behind the zero that makes it positive
)
_SPKI_TAIL = bytes.fromhex("0203010001")  # the exponent


@lru_cache(maxsize=4096)  # made once a member, not once a share; 4096 > the largest room's keys
def _rsa_public(spki: bytes) -> rsa.RSAPublicKey:
    """The RSA-3072 key in `spki`, which must be its one canonical DER encoding.  Raises BadKey.

    Compared, not parsed: a general parser can be asked for far more than a key of this kind (the
    primality of a Diffie-Hellman prime in 1.4 kB takes OpenSSL 50 s).
    """
    n = spki[len(_SPKI_HEAD) : -len(_SPKI_TAIL)]
    if len(n) != RSA_BYTES or spki != _SPKI_HEAD + n + _SPKI_TAIL:
        raise BadKey(f"not the canonical SPKI of an RSA-{RSA_BITS} key with e = {RSA_EXPONENT}")
    if n[0] < 0x80 or n[-1] % 2 == 0:
        raise BadKey(f"a modulus that is even or not of {RSA_BITS} bits")
    return rsa.RSAPublicNumbers(RSA_EXPONENT, int.from_bytes(n, "big")).public_key()


# What stands behind the length in the DER of every RSA private key (RFC 5958 2, RFC 8017 A.1).
_PKCS8_RSA = bytes.fromhex(
    "020100"  # version
    "300d06092a864886f70d0101010500"  # rsaEncryption, NULL
)
# With primes of 1,536 bits each it has at most 1,796.
_MAX_PKCS8_BYTES = 2048


def _rsa_private(data: bytes) -> rsa.RSAPrivateKey:
    """The RSA-3072 key in `data`, PKCS #8 in DER.  Raises BadKey.

    Looked at before it is checked: of a prime of 11,213 bits OpenSSL needs 40 s to say that it is
    one, and of a broken Diffie-Hellman key the library says an InternalError.
    """
    if len(data) > _MAX_PKCS8_BYTES or data[4 : 4 + len(_PKCS8_RSA)] != _PKCS8_RSA:
        raise BadKey(f"not the PKCS #8 of an RSA-{RSA_BITS} key")
    try:
        unchecked = _load_rsa(data, unchecked=True)
        numbers = unchecked.private_numbers()
        if unchecked.key_size != RSA_BITS or numbers.p * numbers.q != numbers.public_numbers.n:
            raise BadKey(f"not a modulus of {RSA_BITS} bits and its primes")
        return _load_rsa(data, unchecked=False)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadKey("not a DER private key") from exc


def _load_rsa(data: bytes, *, unchecked: bool) -> rsa.RSAPrivateKey:
    key = load_der_private_key(data, None, unsafe_skip_rsa_key_validation=unchecked)
    assert isinstance(key, rsa.RSAPrivateKey), "its algorithm was compared"
    return key


def _oaep(label: bytes) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(_SHA256), _SHA256, label)


def fingerprint(spki: bytes) -> bytes:
    """H("identity", SPKI DER): 32 bytes that name a person's identity key for good."""
    return H(Label.IDENTITY, spki)


class Identity:
    """A person's identity key (IK), RSA-3072: signs bundles and the genesis; never decrypts."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        """Raises BadKey unless it is RSA-3072 with e = 65537."""
        self._key = key
        self.spki = _spki(key.public_key())
        _rsa_public(self.spki)
        self.fingerprint = fingerprint(self.spki)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity; takes 0.1 to 1 s."""
        return cls(rsa.generate_private_key(RSA_EXPONENT, RSA_BITS))

    @classmethod
    def from_pkcs8(cls, data: bytes) -> Identity:
        """Raises BadKey."""
        identity = cls(_rsa_private(data))
        if identity.to_pkcs8() != data:
            raise BadKey("not the canonical encoding")
        return identity

    def to_pkcs8(self) -> bytes:
        """DER, unencrypted: for the keystore alone."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, label: bytes, body: bytes) -> bytes:
        """RSA-PSS over label ‖ body, 384 bytes."""
        return self._key.sign(label + body, _PSS, _SHA256)


class IdentityPublic:
    """Somebody's identity key, checked: canonical SPKI of RSA-3072, e = 65537."""

    def __init__(self, spki: bytes) -> None:
        """Raises BadKey."""
        self._key = _rsa_public(spki)
        self.spki = spki
        self.fingerprint = fingerprint(spki)

    def verify(self, signature: bytes, label: bytes, body: bytes) -> None:
        """Raises BadSignature."""
        if len(signature) != RSA_BYTES:  # OpenSSL takes one whose leading zeros were cut off
            raise BadSignature(f"expected {RSA_BYTES} bytes, got {len(signature)}")
        try:
            self._key.verify(signature, label + body, _PSS, _SHA256)
        except InvalidSignature as exc:
            raise BadSignature("the identity key did not sign this") from exc


class EncryptionManager:
    """A session encryption key (SEK), RSA-3072: opens what others wrap to it, and nothing else.

    It lives in memory only.  `encrypt_message` and `decrypt_message` are the hybrid for whole
    messages to one member (docs/PROTOCOL.md 3.8); `wrap_key` and `unwrap_key` are OAEP alone, for
    key shares.  Each use has its own OAEP label, so neither opens what the other made.
    """

    def __init__(self) -> None:
        """Makes a new key; takes 0.1 to 1 s, so not on a thread that others wait for."""
        self._key = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
        self._spki = _spki(self._key.public_key())

    def get_public_key(self) -> bytes:
        """SPKI DER, 422 bytes."""
        return self._spki

    @staticmethod
    def check_public_key(spki: bytes) -> None:
        """Raises BadKey unless `spki` is a canonical RSA-3072 key with e = 65537."""
        _rsa_public(spki)

    @staticmethod
    def wrap_key(key: bytes, recipient_public_key: bytes, label: bytes) -> bytes:
        """RSA-OAEP of a 32-byte key under an OAEP label, 384 bytes.

        Raises:
            BadKey: no such public key, or `key` is not 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise BadKey(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        return _rsa_public(recipient_public_key).encrypt(key, _oaep(label))

    def unwrap_key(self, wrapped: bytes, label: bytes) -> bytes:
        """The 32-byte key in `wrapped`.

        Raises:
            BadCiphertext: not 384 bytes, for another key, under another label, or not 32 bytes.
        """
        try:
            key = self._key.decrypt(wrapped, _oaep(label))
        except ValueError as exc:
            raise BadCiphertext("not wrapped to this key, or under another label") from exc
        if len(key) != KEY_BYTES:
            raise BadCiphertext(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        return key

    @classmethod
    def encrypt_message(cls, message: bytes, recipient_public_key: bytes) -> bytes:
        """wrap[384] ‖ nonce[12] ‖ AES-256-GCM of `message` under a fresh key.

        The seed's version encrypted to its own key, so nobody could read anything; this one takes
        the recipient's SPKI and needs no key of ours.

        Args:
            message: any bytes.
            recipient_public_key: the recipient's SEK, SPKI DER.

        Raises:
            BadKey: not such a key.
        """
        key = os.urandom(KEY_BYTES)
        wrapped = cls.wrap_key(key, recipient_public_key, Label.HYBRID)
        return wrapped + seal(key, message, wrapped)

    def decrypt_message(self, data: bytes) -> bytes:
        """What `encrypt_message` was given for our key.  Raises BadCiphertext."""
        wrapped, sealed = data[:RSA_BYTES], data[RSA_BYTES:]
        return open_sealed(self.unwrap_key(wrapped, Label.HYBRID), sealed, wrapped)


# --------------------------------------------------------------------------- Ed25519 keys

# y coordinates (RFC 8032, 5.1.2) of the points whose order divides 8, without their sign bit.  A
# signature under such a key fits many messages, so nobody could be held to it.
_P = 2**255 - 19
_Y8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


class SigningKey:
    """An Ed25519 key: a session signing key (SSK) or a chain signing key (CSK)."""

    def __init__(self, seed: bytes) -> None:
        """`seed` is 32 bytes; another size raises BadKey."""
        if len(seed) != KEY_BYTES:
            raise BadKey(f"expected a seed of {KEY_BYTES} bytes, got {len(seed)}")
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key."""
        return cls(os.urandom(KEY_BYTES))

    def sign(self, label: bytes, body: bytes) -> bytes:
        """Ed25519 over label ‖ body, 64 bytes."""
        return self._key.sign(label + body)


class VerifyKey:
    """Somebody's Ed25519 key, checked: canonical, not of small order."""

    def __init__(self, public: bytes) -> None:
        """`public` is 32 bytes.  Raises BadKey."""
        if len(public) != KEY_BYTES:
            raise BadKey(f"expected {KEY_BYTES} bytes, got {len(public)}")
        y = int.from_bytes(public, "little") & (2**255 - 1)
        if y >= _P or y in _SMALL_ORDER_Y:
            raise BadKey("not canonical, or a point of small order")
        self._key = ed25519.Ed25519PublicKey.from_public_bytes(public)
        self.public = public

    def verify(self, signature: bytes, label: bytes, body: bytes) -> None:
        """Raises BadSignature."""
        try:
            self._key.verify(signature, label + body)
        except InvalidSignature as exc:
            raise BadSignature("this key did not sign this") from exc


# --------------------------------------------------------------------------- room secrets


@dataclass(frozen=True)
class RoomSecret:
    """A room's secret (RS), 16 bytes, and what is derived from it.

    The relay learns `tag` alone.  Of an open room anybody who knows the name knows the secret; of
    an invited room only those who hold the invite.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raises BadKey."""
        if len(self.secret) != _ROOM_SECRET_BYTES:
            raise BadKey(f"expected {_ROOM_SECRET_BYTES} bytes, got {len(self.secret)}")

    @classmethod
    def random(cls) -> RoomSecret:
        """Of a new room, into which only its invite leads."""
        return cls(random_bytes(_ROOM_SECRET_BYTES))

    @classmethod
    def open_room(cls, name: str) -> RoomSecret:
        """H("open room", NFC name)[:16]."""
        digest = H(Label.OPEN_ROOM, unicodedata.normalize("NFC", name).encode())
        return cls(digest[:_ROOM_SECRET_BYTES])

    @cached_property
    def tag(self) -> bytes:
        """16 bytes: names the room to the relay, and its conversation in payloads."""
        return _hkdf(self.secret, Label.ROOM_TAG, 16)

    @cached_property
    def auth(self) -> bytes:
        """32 bytes: makes and checks a bundle's room_proof."""
        return _hkdf(self.secret, Label.ROOM_AUTH, 32)

    @cached_property
    def mix(self) -> bytes:
        """32 bytes: goes into every message key."""
        return _hkdf(self.secret, Label.ROOM_MIX, 32)


def pair_tag(room: RoomSecret, one: bytes, other: bytes) -> bytes:
    """The conversation tag of two people: H("pair", RS ‖ both fingerprints sorted)[:16]."""
    low, high = sorted((one, other))
    return H(Label.PAIR, room.secret + low + high)[:16]


def safety_number(one: bytes, other: bytes) -> str:
    """What two people compare to know that each holds the other's true identity key.

    The same whoever asks and in every room, since it is made of the two fingerprints (32 bytes
    each) alone.  HKDF("safety number", H("safety", both sorted), 60 bytes), each 5 bytes as a
    big-endian number modulo 100,000 (PROTOCOL.md 6.2).

    Returns:
        Twelve groups of five digits, a space between each two.  Shorter codes of lasting keys
        could be ground: keys made until the code fits.
    """
    low, high = sorted((one, other))
    secret = H(Label.SAFETY, low + high)
    made = _hkdf(secret, Label.SAFETY_NUMBER, _SAFETY_GROUPS * _SAFETY_GROUP_BYTES)
    groups = (
        int.from_bytes(made[at : at + _SAFETY_GROUP_BYTES], "big") % 10**_SAFETY_GROUP_DIGITS
        for at in range(0, len(made), _SAFETY_GROUP_BYTES)
    )
    return " ".join(f"{group:0{_SAFETY_GROUP_DIGITS}}" for group in groups)


# --------------------------------------------------------------------------- sender keys


def _step(chain_key: bytes) -> bytes:
    return mac(chain_key, Label.CHAIN_KEY, b"")


class SenderChain:
    """One epoch of our own sender key: a fresh chain key, stepped once a message.

    CK_{n+1} = HMAC(CK_n, "ck"), mk_n = HMAC(CK_n, "mk" ‖ room_mix).
    """

    def __init__(self, epoch: int, room_mix: bytes) -> None:
        self.epoch = epoch
        self.n = 0  # of the next message
        self.chain_key = os.urandom(KEY_BYTES)  # CK_n: what a key share carries
        self._room_mix = room_mix

    def next(self) -> tuple[int, bytes]:
        """(n, mk) for one message; the chain key that made it is gone afterwards."""
        n, key = self.n, mac(self.chain_key, Label.MESSAGE_KEY, self._room_mix)
        self.n, self.chain_key = n + 1, _step(self.chain_key)
        return n, key


class ReceiverChain:
    """One epoch of somebody's sender key, as far as a key share let us see it.

    `derive` uses nothing up; `commit` what it returned only after the AEAD and the signature both
    passed, so that a forged frame can neither use up a key nor move the chain.  What `derive` once
    hashed it keeps, so that a flood of forged frames costs no more hashing than one.
    """

    @dataclass(frozen=True)
    class Step:
        """One derived message key."""

        n: int
        key: bytes = field(repr=False)

    def __init__(self, n: int, chain_key: bytes, room_mix: bytes) -> None:
        self.n = n  # of the next expected message
        self._room_mix = room_mix
        self._ahead: list[bytes] = []  # the message keys of n, n + 1, …; at most MAX_SKIP + 1
        self._chain_key = chain_key  # behind the last of them
        self._skipped: dict[int, bytes] = {}  # at most MAX_SKIP, oldest first

    def derive(self, n: int) -> ReceiverChain.Step:
        """The key of message `n`.

        Raises:
            KeyUsed: it was used, or lies before what we were given.
            TooFarAhead: more than MAX_SKIP ahead.
        """
        if n < self.n:
            if n not in self._skipped:
                raise KeyUsed(f"message {n} was opened already, or we were not given its key")
            return self.Step(n, self._skipped[n])
        ahead = n - self.n
        if ahead > MAX_SKIP:
            raise TooFarAhead(f"message {n} is {ahead} ahead, at most {MAX_SKIP}")
        while len(self._ahead) <= ahead:
            self._ahead.append(mac(self._chain_key, Label.MESSAGE_KEY, self._room_mix))
            self._chain_key = _step(self._chain_key)
        return self.Step(n, self._ahead[ahead])

    def commit(self, step: ReceiverChain.Step) -> None:
        """Uses up the step's key.  Raises KeyUsed if that was done since it was derived."""
        if step.n < self.n:
            if self._skipped.pop(step.n, None) is None:
                raise KeyUsed(f"message {step.n} was opened already")
            return
        passed = step.n - self.n
        self._skipped.update(enumerate(self._ahead[:passed], self.n))
        while len(self._skipped) > MAX_SKIP:
            del self._skipped[next(iter(self._skipped))]
        del self._ahead[: passed + 1]
        self.n = step.n + 1


# --------------------------------------------------------------------------- keystore and wallet

_KEYSTORE_MAGIC = b"CRK1"
_NO_KDF, _ARGON2ID = 0, 1
_CHECKSUM_BYTES = 32
MAX_PASSPHRASE_BYTES = 4096

# Argon2id's memory in KiB, iterations and lanes.  What is written, and the least that is read, is
# the second choice that RFC 9106 section 4 recommends (0.1 to 0.3 s); the most that is read keeps a
# file of somebody else's from taking all the memory there is.
_LEAST_COST = (64 * 1024, 3, 4)
_MOST_COST = (1024 * 1024, 16, 8)
_PARAMETERS = struct.Struct(">IIB16s")  # the cost, and the salt


@dataclass(frozen=True)
class PublicKeys:
    """What of a keystore is no secret: enough to check a chain, not to read one."""

    identity_spki: bytes  # DER, 422 bytes
    chain_key: bytes  # CSK, 32 bytes
    # Of the chain that the profile writes; zeros: none was made yet.
    chain_id: bytes = bytes(_CHAIN_ID_BYTES)

    def __post_init__(self) -> None:
        """Raises BadKey."""
        _rsa_public(self.identity_spki)
        VerifyKey(self.chain_key)
        if len(self.chain_id) != _CHAIN_ID_BYTES:
            raise BadKey(f"expected {_CHAIN_ID_BYTES} bytes, got {len(self.chain_id)}")


@dataclass(frozen=True)
class _Lock:
    """A passphrase's key, and what makes it again: cost and salt as `_PARAMETERS` packs them."""

    parameters: bytes
    key: bytes = field(repr=False)  # 32 bytes

    @classmethod
    def derive(cls, passphrase: bytes, parameters: bytes) -> _Lock:
        """Takes the time and memory that `parameters`, which are in bounds, say.

        Raises CannotDerive.
        """
        memory_kib, iterations, lanes, salt = _PARAMETERS.unpack(parameters)
        try:
            argon2id = Argon2id(
                salt=salt,
                length=KEY_BYTES,
                iterations=iterations,
                lanes=lanes,
                memory_cost=memory_kib,
            )
            return cls(parameters, argon2id.derive(passphrase))
        except MemoryError as exc:
            need = f"{memory_kib // 1024} MiB"
            raise CannotDerive(f"{need} of memory are needed for the passphrase") from exc
        except UnsupportedAlgorithm as exc:
            raise CannotDerive("this computer's OpenSSL lacks Argon2id (3.2 has it)") from exc


@dataclass(frozen=True)
class _Locked:
    """A keystore with a passphrase, as it is in its file."""

    parameters: bytes
    public: PublicKeys
    associated: bytes  # what stands before `sealed`
    sealed: bytes

    @classmethod
    def read(cls, r: Reader) -> _Locked:
        """What stands behind the kdf.  Raises KeystoreDamaged, WireError, BadKey."""
        parameters = r.fixed(_PARAMETERS.size)
        *cost, _ = _PARAMETERS.unpack(parameters)
        # Before any memory is taken.
        for least, asked, most in zip(_LEAST_COST, cost, _MOST_COST, strict=True):
            if not least <= asked <= most:
                raise KeystoreDamaged(f"Argon2id's cost {cost} is out of bounds")
        public = PublicKeys(r.prefixed(), r.fixed(KEY_BYTES), r.fixed(_CHAIN_ID_BYTES))
        associated, sealed = r.done(), r.prefixed()
        r.end()
        return cls(parameters, public, associated, sealed)

    def open(self, passphrase: bytes) -> Keystore:
        """Raises WrongPassphrase, CannotDerive, KeystoreDamaged, WireError, BadKey."""
        lock = _Lock.derive(passphrase, self.parameters)
        try:
            r = Reader(open_sealed(lock.key, self.sealed, self.associated))
        except BadCiphertext as exc:
            raise WrongPassphrase("wrong passphrase, or somebody altered the keys") from exc
        keystore = Keystore(*_read_private(r), self.public.chain_id, lock)
        r.end()
        if keystore.public != self.public:
            raise KeystoreDamaged("its public keys are not those of its private ones")
        return keystore


def _read_private(r: Reader) -> tuple[Identity, SigningKey, bytes]:
    """IK, CSK and CDK.  Raises WireError, BadKey."""
    return Identity.from_pkcs8(r.prefixed()), SigningKey(r.fixed(KEY_BYTES)), r.fixed(KEY_BYTES)


@dataclass(frozen=True)
class Keystore:
    """What a profile keeps of its keys (docs/PROFILE.md 2).

    private = IK PKCS8 (u16 length) ‖ CSK seed[32] ‖ CDK[32].  Without a passphrase:

    magic "CRK1" ‖ kdf u8 = 0 ‖ private ‖ chain_id[16] ‖ checksum[32]

    With one, Argon2id makes the key of AES-256-GCM; its associated data is all that stands before
    the length of nonce ‖ ciphertext:

    magic "CRK1" ‖ kdf u8 = 1 ‖ memory KiB u32 ‖ iterations u32 ‖ lanes u8 ‖ salt[16] ‖ IK SPKI (u16
    length) ‖ CSK public[32] ‖ chain_id[16] ‖ nonce[12] ‖ ciphertext of private (u16 length) ‖
    checksum[32]

    checksum = H("keystore", all before).  It tells a damaged file from a whole one, and so from a
    wrong passphrase; it protects against nobody.
    """

    identity: Identity
    chain_signing_key: SigningKey
    chain_data_key: bytes = field(repr=False)  # 32 bytes
    # Of the chain that this profile writes; zeros: none was made yet.
    chain_id: bytes = bytes(_CHAIN_ID_BYTES)
    # Kept, so that another chain can be named without the passphrase being typed again.
    _lock: _Lock | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises BadKey: what `serialize` wrote of other sizes could never be read again."""
        if len(self.chain_data_key) != KEY_BYTES or len(self.chain_id) != _CHAIN_ID_BYTES:
            raise BadKey(f"expected {KEY_BYTES} and {_CHAIN_ID_BYTES} bytes")

    @classmethod
    def generate(cls) -> Keystore:
        """New keys, without a passphrase; takes 0.1 to 1 s."""
        return cls(Identity.generate(), SigningKey.generate(), os.urandom(KEY_BYTES))

    @property
    def public(self) -> PublicKeys:
        """What may be shown."""
        return PublicKeys(self.identity.spki, self.chain_signing_key.public, self.chain_id)

    @property
    def has_passphrase(self) -> bool:
        """Whether what `serialize` makes can be read with a passphrase alone."""
        return self._lock is not None

    def with_chain(self, chain_id: bytes) -> Keystore:
        """The same keys, behind the same passphrase, beside another chain."""
        return replace(self, chain_id=chain_id)

    def with_passphrase(self, passphrase: bytes) -> Keystore:
        """The same keys behind another passphrase; takes 0.1 to 0.3 s and 64 MiB.

        Args:
            passphrase: UTF-8 in NFC, at most 4096 bytes, else BadKey; empty: none from now on.

        Raises:
            CannotDerive.
        """
        if len(passphrase) > MAX_PASSPHRASE_BYTES:
            raise BadKey(f"a passphrase has at most {MAX_PASSPHRASE_BYTES} bytes")
        if not passphrase:
            return replace(self, _lock=None)
        parameters = _PARAMETERS.pack(*_LEAST_COST, os.urandom(16))
        return replace(self, _lock=_Lock.derive(passphrase, parameters))

    def serialize(self) -> bytes:
        """The file's bytes; with a passphrase, others each time.  Write them 0600."""
        private = prefixed(self.identity.to_pkcs8()) + self.chain_signing_key.seed
        private += self.chain_data_key
        if self._lock is None:
            body = _KEYSTORE_MAGIC + u8(_NO_KDF) + private + self.chain_id
        else:
            body = _KEYSTORE_MAGIC + u8(_ARGON2ID) + self._lock.parameters
            body += prefixed(self.identity.spki) + self.chain_signing_key.public + self.chain_id
            body += prefixed(seal(self._lock.key, private, body))
        return body + H(Label.KEYSTORE, body)

    @classmethod
    def parse(cls, data: bytes, passphrase: Callable[[], bytes] | None = None) -> Keystore:
        """The keys in a file.

        Args:
            passphrase: called once, if there is one on it and nothing is wrong with the file as
                far as can be seen without; what it raises passes through.

        Raises:
            KeystoreDamaged: whatever the passphrase.
            PassphraseNeeded: there is one, and `passphrase` is None.
            WrongPassphrase: what was given does not open it.
            CannotDerive.
        """
        try:
            kept = cls._read(data)
            if isinstance(kept, Keystore):
                return kept
            if passphrase is None:
                raise PassphraseNeeded("a passphrase is needed")
            return kept.open(passphrase())
        except (WireError, BadKey) as exc:
            raise KeystoreDamaged(str(exc)) from exc

    @classmethod
    def public_part(cls, data: bytes) -> PublicKeys:
        """What of a file's keys can be read without its passphrase.

        Where there is one, nothing but the checksum vouches for these until the file is opened:
        who can write the file can put other keys there.

        Raises:
            KeystoreDamaged.
        """
        try:
            return cls._read(data).public
        except (WireError, BadKey) as exc:
            raise KeystoreDamaged(str(exc)) from exc

    @classmethod
    def _read(cls, data: bytes) -> Keystore | _Locked:
        """Raises KeystoreDamaged, WireError, BadKey."""
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if body[: len(_KEYSTORE_MAGIC)] != _KEYSTORE_MAGIC:
            raise KeystoreDamaged("not a keystore")
        if not hmac.compare_digest(checksum, H(Label.KEYSTORE, body)):
            raise KeystoreDamaged("the checksum does not fit")
        r = Reader(body)
        r.fixed(len(_KEYSTORE_MAGIC))
        kdf = r.u8()
        if kdf == _ARGON2ID:
            return _Locked.read(r)
        if kdf != _NO_KDF:
            raise KeystoreDamaged(f"unknown key derivation {kdf}")
        keystore = cls(*_read_private(r), r.fixed(_CHAIN_ID_BYTES))
        r.end()
        return keystore


class CryptoWallet:
    """The simulated wallet: one coin for each message sent, worth nothing.

    The balance is never stored: it starts as what the verified chain says
    (`Profile.balance`) and grows as blocks are committed.
    """

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance

    def mine(self, amount: int) -> int:
        """Credits `amount` coins (at least 1, else ValueError) and returns the new balance."""
        if amount < 1:
            raise ValueError(f"a mined amount is at least 1, got {amount}")
        self.balance += amount
        return self.balance
