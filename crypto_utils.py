"""Keys and what may be done with each: the only file that touches cryptographic primitives.

What lives here: the identity key, the session keys, sender-key ratchets, the room's secrets, the
keystore and the wallet.  What it does not know: payloads, blocks, sockets, files, clocks.  Every
key is a class of its own with just the operations that DESIGN.md section 3 allows it.

    identity = Identity.generate()
    signature = identity.sign(Label.BUNDLE_SIG, body)
    IdentityPublic(spki).verify(signature, Label.BUNDLE_SIG, body)  # or raises BadSignature

Suite of version 1 (docs/PROTOCOL.md 1.4): RSA-3072 with e = 65537, PSS-SHA256 (salt 32) and
OAEP-SHA256 (RFC 8017), Ed25519 (RFC 8032), AES-256-GCM with random 96-bit nonces (SP 800-38D),
HMAC-SHA256 (RFC 2104), HKDF-SHA256 (RFC 5869).

Errors::

    CryptoError
    ├── BadKey            a key that is not canonical, of the wrong kind or size, or weak
    ├── BadSignature      a signature that does not verify
    ├── BadCiphertext     altered, or not for us
    ├── TooFarAhead       a message key more than MAX_SKIP steps ahead
    ├── KeyUsed           a message key that was used, or is older than what we were given
    └── KeystoreDamaged   a keystore that cannot be read
"""

from __future__ import annotations

import hmac
import os
import unicodedata
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from chat_wire import H, Label, Reader, WireError, prefixed, u8

__all__ = [
    "AEAD_NONCE_BYTES",
    "AEAD_TAG_BYTES",
    "MAX_SKIP",
    "RSA_BYTES",
    "SIGNATURE_BYTES",
    "BadCiphertext",
    "BadKey",
    "BadSignature",
    "CryptoError",
    "CryptoWallet",
    "EncryptionManager",
    "Identity",
    "IdentityPublic",
    "KeyUsed",
    "Keystore",
    "KeystoreDamaged",
    "PublicKeys",
    "ReceiverChain",
    "RoomSecret",
    "SenderChain",
    "SigningKey",
    "TooFarAhead",
    "VerifyKey",
    "fingerprint",
    "mac",
    "open_sealed",
    "pair_tag",
    "random_bytes",
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
        try:
            key = load_der_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise BadKey("not a DER private key") from exc
        if not isinstance(key, rsa.RSAPrivateKey):
            raise BadKey(f"expected an RSA key, got {type(key).__name__}")
        identity = cls(key)
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
_NO_KDF = 0


@dataclass(frozen=True)
class PublicKeys:
    """What of a keystore is no secret: enough to check a chain, not to read one."""

    identity_spki: bytes  # DER, 422 bytes
    chain_key: bytes  # CSK, 32 bytes
    # Of the chain that the profile writes; zeros: none was made yet.
    chain_id: bytes = bytes(_CHAIN_ID_BYTES)


@dataclass(frozen=True)
class Keystore:
    """What a profile keeps of its keys.

    magic "CRK1" ‖ kdf u8 = 0 (no passphrase) ‖ IK PKCS8 (u16 length) ‖ CSK seed[32] ‖ CDK[32] ‖
    chain_id[16] ‖ H("keystore", all before)[32].  The checksum tells a damaged file from a whole
    one; it protects against nobody.
    """

    identity: Identity
    chain_signing_key: SigningKey
    chain_data_key: bytes = field(repr=False)  # 32 bytes
    # Of the chain that this profile writes; zeros: none was made yet.
    chain_id: bytes = bytes(_CHAIN_ID_BYTES)

    def __post_init__(self) -> None:
        """Raises BadKey: what `serialize` wrote of other sizes could never be read again."""
        if len(self.chain_data_key) != KEY_BYTES or len(self.chain_id) != _CHAIN_ID_BYTES:
            raise BadKey(f"expected {KEY_BYTES} and {_CHAIN_ID_BYTES} bytes")

    @classmethod
    def generate(cls) -> Keystore:
        """New keys; takes 0.1 to 1 s."""
        return cls(Identity.generate(), SigningKey.generate(), os.urandom(KEY_BYTES))

    @property
    def public(self) -> PublicKeys:
        """What may be shown."""
        return PublicKeys(self.identity.spki, self.chain_signing_key.public, self.chain_id)

    def with_chain(self, chain_id: bytes) -> Keystore:
        """The same keys beside another chain."""
        return replace(self, chain_id=chain_id)

    def serialize(self) -> bytes:
        """The file's bytes.  They hold private keys: write them 0600."""
        body = _KEYSTORE_MAGIC + u8(_NO_KDF) + prefixed(self.identity.to_pkcs8())
        body += self.chain_signing_key.seed + self.chain_data_key + self.chain_id
        return body + H(Label.KEYSTORE, body)

    @classmethod
    def parse(cls, data: bytes) -> Keystore:
        """Raises KeystoreDamaged."""
        r = Reader(data)
        try:
            if r.fixed(4) != _KEYSTORE_MAGIC:
                raise KeystoreDamaged("not a keystore")
            if (kdf := r.u8()) != _NO_KDF:
                raise KeystoreDamaged(f"unknown key derivation {kdf}")
            pkcs8, seed, data_key = r.prefixed(), r.fixed(KEY_BYTES), r.fixed(KEY_BYTES)
            chain_id = r.fixed(_CHAIN_ID_BYTES)
            body = r.done()
            checksum = r.fixed(32)
            r.end()
            if not hmac.compare_digest(checksum, H(Label.KEYSTORE, body)):
                raise KeystoreDamaged("the checksum does not fit")
            return cls(Identity.from_pkcs8(pkcs8), SigningKey(seed), data_key, chain_id)
        except (WireError, BadKey) as exc:
            raise KeystoreDamaged(str(exc)) from exc


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
