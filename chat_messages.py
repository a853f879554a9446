"""The values that members exchange, all of them opaque to the relay: parse and serialize.

What lives here: Bundle, KeyShare, KeyRequest, KeyRefusal, Message, Ack, Witness, the signed Entry
inside a Message, and the Event records of a chain.  A value that exists is well formed.  What it
does not know: who may send what and when (`chat_session`), keys in use, sockets, files.

    payload = parse_payload(data)           # one of Payload, or a WireError
    payload.verify(bundle.session_key)      # BadSignature unless that member signed it
    entry = SignedEntry.parse(unpad(plaintext))

Specified in docs/PROTOCOL.md, section 3.  Errors are `chat_wire.WireError` (the bytes) and
`crypto_utils.CryptoError` (the keys and signatures).
"""

from __future__ import annotations

import hmac
import struct
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Self

from chat_blocks import Head
from chat_wire import (
    ENTRY_ID_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    SESSION_ID_BYTES,
    TAG_BYTES,
    VERSION,
    H,
    Label,
    Malformed,
    Reader,
    TooLarge,
    UnknownVersion,
    prefixed,
    u8,
    u16,
    u32,
    u64,
)
from crypto_utils import (
    AEAD_NONCE_BYTES,
    AEAD_TAG_BYTES,
    RSA_BYTES,
    SIGNATURE_BYTES,
    BadKey,
    BadSignature,
    EncryptionManager,
    Identity,
    IdentityPublic,
    RoomSecret,
    SigningKey,
    VerifyKey,
    fingerprint,
    mac,
    random_bytes,
)

__all__ = [
    "AUDIENCE_ITEM_BYTES",
    "ENTRY_HEAD_BYTES",
    "MAX_AUDIENCE",
    "MAX_MISSING",
    "MAX_NICK_CHARACTERS",
    "NAME_TAG_DIGITS",
    "Ack",
    "Bundle",
    "Entry",
    "EntryKind",
    "Event",
    "EventKind",
    "FeedReport",
    "KeyRefusal",
    "KeyRequest",
    "KeyShare",
    "Message",
    "Payload",
    "PayloadKind",
    "RefusalReason",
    "SignedEntry",
    "Sync",
    "Witness",
    "audience_items",
    "check_nick",
    "full_name",
    "pad",
    "parse_payload",
    "roster_digest",
    "session_id_of",
    "unpad",
]

MAX_NICK_CHARACTERS = 32
NAME_TAG_DIGITS = 4  # of a fingerprint, behind a nick; more where two would be called the same
# An audience entry names people by the first 16 bytes of their fingerprints; 2048 of them (the
# latest seen) are the 32 KiB that such an entry may hold.
AUDIENCE_ITEM_BYTES = 16
MAX_AUDIENCE = 2048
MAX_MISSING = 64  # seqs that one ack names as lacking in one feed
MAX_ACK_BYTES = 61_440  # 60 KiB: what does not fit goes into the next ack
HASH_BYTES = 32


# --------------------------------------------------------------------------- nicks and bundles


# Characters of other categories that show nothing (Unicode's Default_Ignorable_Code_Point): the
# grapheme joiner, fillers of Hangul and Khmer, variation selectors.
_BLANK = frozenset(
    map(
        chr,
        [
            *(
                0x034F,
                0x115F,
                0x1160,
                0x17B4,
                0x17B5,
                0x180B,
                0x180C,
                0x180D,
                0x180F,
                0x3164,
                0xFFA0,
            ),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ],
    )
)


def check_nick(nick: str) -> str:
    """`nick` if it fits the grammar, else ValueError with one sentence for a person.

    1 to 32 characters in NFC; no white space, control, format (bidi and zero-width among them) or
    surrogate characters and none that shows nothing (`_BLANK`); no `#` and no `:`, which end a name
    on the screen; not starting with a combining mark, nor with `/` or `-`, which start commands and
    notices.
    """
    if not 1 <= len(nick) <= MAX_NICK_CHARACTERS:
        raise ValueError(f"a name has 1 to {MAX_NICK_CHARACTERS} characters, this has {len(nick)}")
    for char in nick:
        category = unicodedata.category(char)
        is_unseen = category[0] == "Z" or category in ("Cc", "Cf", "Cs") or char in _BLANK
        if is_unseen or char in "#:":
            raise ValueError(
                f"a name has no spaces, no '#', no ':' and no invisible characters; "
                f"this has U+{ord(char):04X}"
            )
    if nick[0] in "/-" or unicodedata.category(nick[0])[0] == "M":
        raise ValueError("a name does not start with '/', '-' or a combining mark")
    if not unicodedata.is_normalized("NFC", nick):
        raise ValueError("a name is in Unicode's NFC form")
    return nick


def full_name(nick: str, fingerprint: bytes, namesakes: Iterable[bytes] = ()) -> str:
    """nick#tag, the tag as long as it takes to differ from all others of that nick.

    Args:
        namesakes: fingerprints of those; this one may be among them.
    """
    digits, size = fingerprint.hex(), NAME_TAG_DIGITS
    others = {other.hex() for other in namesakes} - {digits}
    while size < len(digits) and any(other.startswith(digits[:size]) for other in others):
        size += 1
    return f"{nick}#{digits[:size]}"


@dataclass(frozen=True)
class Bundle:
    """Who a session is, signed by its identity key (PROTOCOL.md 3.1).

    version u8 ‖ room_tag[16] ‖ identity SPKI (u16) ‖ nick (u16, UTF-8) ‖ session_id[16] ‖
    SSK[32] ‖ SEK number u32 ‖ SEK SPKI (u16) ‖ chain_id[16] ‖ CSK[32] ‖
    room_proof[32] = HMAC(room_auth, "room proof" ‖ all before) ‖ PSS signature[384] of all before.
    """

    room_tag: bytes
    identity: IdentityPublic
    nick: str
    session_id: bytes
    session_key: VerifyKey  # SSK
    sek_number: int
    sek: bytes  # SPKI
    chain_id: bytes
    chain_key: VerifyKey  # CSK
    raw: bytes = field(repr=False)  # as carried: what is forwarded, recorded and compared

    @property
    def fingerprint(self) -> bytes:
        """The person's, 32 bytes."""
        return self.identity.fingerprint

    @property
    def name(self) -> str:
        """nick#first four digits of the fingerprint; a namesake may have these as well."""
        return full_name(self.nick, self.fingerprint)

    @classmethod
    def create(
        cls,
        identity: Identity,
        room: RoomSecret,
        nick: str,
        session_key: SigningKey,
        sek_number: int,
        sek: bytes,
        chain_id: bytes,
        chain_key: bytes,
    ) -> Bundle:
        """Our own bundle.  Raises ValueError for a nick outside the grammar."""
        body = (
            u8(VERSION) + room.tag + prefixed(identity.spki) + prefixed(check_nick(nick).encode())
        )
        body += session_id_of(identity.fingerprint, session_key.public) + session_key.public
        body += u32(sek_number) + prefixed(sek)
        body += chain_id + chain_key
        body += mac(room.auth, Label.ROOM_PROOF, body)
        return cls.parse(body + identity.sign(Label.BUNDLE_SIG, body), room)

    @classmethod
    def parse(cls, data: bytes, room: RoomSecret | None) -> Bundle:
        """Checks everything: the form, key sizes, SEK ≠ IK, session_id, room_proof and signature.

        Args:
            room: whose proof it must carry; None where the room is not ours to check (a record on
                a chain): then the signature alone vouches.

        Raises:
            WireError: the form.
            BadKey: a key that is weak or not canonical, or SEK = IK.
            BadSignature: room_proof or signature do not fit.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise TooLarge(f"a bundle of {len(data)} bytes, at most {MAX_BUNDLE_BYTES} are allowed")
        r = Reader(data)
        r.version()
        room_tag = r.fixed(TAG_BYTES)
        identity_spki, nick_utf8, session_id = r.prefixed(), r.prefixed(), r.fixed(SESSION_ID_BYTES)
        session_key, sek_number, sek = r.fixed(32), r.u32(), r.prefixed()
        chain_id, chain_key = r.fixed(16), r.fixed(32)
        proved = r.done()
        proof = r.fixed(32)
        signed = r.done()
        signature = r.fixed(RSA_BYTES)
        r.end()
        try:
            nick = check_nick(nick_utf8.decode("utf-8"))
        except ValueError as exc:
            raise Malformed(f"the name breaks the grammar: {exc}") from exc
        identity = IdentityPublic(identity_spki)
        EncryptionManager.check_public_key(sek)
        if sek == identity_spki:
            raise BadKey("the session encryption key is the identity key")
        if session_id != session_id_of(identity.fingerprint, session_key):
            raise Malformed("the session_id is not of this person and this session key")
        if room is not None and (
            room_tag != room.tag
            or not hmac.compare_digest(proof, mac(room.auth, Label.ROOM_PROOF, proved))
        ):
            raise BadSignature("the room proof does not fit: not invited to this room")
        identity.verify(signature, Label.BUNDLE_SIG, signed)
        return cls(
            room_tag,
            identity,
            nick,
            session_id,
            VerifyKey(session_key),
            sek_number,
            sek,
            chain_id,
            VerifyKey(chain_key),
            data,
        )

    @staticmethod
    def author_of(data: bytes) -> tuple[bytes, bytes]:
        """The session_id and fingerprint in a bundle's bytes, which are not checked.  Raises
        WireError."""
        r = Reader(data)
        r.version()
        r.fixed(TAG_BYTES)
        spki, _ = r.prefixed(), r.prefixed()
        return r.fixed(SESSION_ID_BYTES), fingerprint(spki)

    def may_follow(self, before: Bundle) -> bool:
        """Whether this bundle may replace `before` within one session: a higher SEK number, and
        nothing changed but nick and SEK."""
        return self.sek_number > before.sek_number and self._lasting == before._lasting

    @property
    def _lasting(self) -> tuple[bytes, ...]:
        """What is the same in all bundles of one session."""
        return (
            self.room_tag,
            self.fingerprint,
            self.session_id,
            self.session_key.public,
            self.chain_id,
            self.chain_key.public,
        )


def session_id_of(person: bytes, session_key: bytes) -> bytes:
    """H("session", fingerprint ‖ SSK)[:16] (PROTOCOL.md 3.1): random, since the SSK is, and nobody
    else's, so that nobody can say of what another's session signed that it was his.

    Args:
        person: a fingerprint, 32 bytes.
        session_key: a public SSK, 32 bytes.
    """
    return H(Label.SESSION, person + session_key)[:SESSION_ID_BYTES]


def roster_digest(bundles: Iterable[Bundle]) -> bytes:
    """H("roster", session_id ‖ fingerprint ‖ SSK of all, sorted), 32 bytes."""
    items = sorted(b.session_id + b.fingerprint + b.session_key.public for b in bundles)
    return H(Label.ROSTER, b"".join(items))


# --------------------------------------------------------------------------- entries


class EntryKind(IntEnum):
    """What an entry's text is; other kinds are kept, acknowledged and named."""

    CHAT = 1  # UTF-8, 1 to 16,384 bytes
    AUDIENCE = 2  # sorted 16-byte prefixes of the fingerprints that may read what follows


_HEAD = struct.Struct(">BB16s16sQ32s32sQ32s")
ENTRY_HEAD_BYTES = _HEAD.size  # 146
_SALT_BYTES = 16
_REQUEST_ID_BYTES = 16


@dataclass(frozen=True)
class Entry:
    """What somebody said, in its place in that session's feed (PROTOCOL.md 3.5).

    head (146 bytes): version u8 ‖ kind u8 ‖ tag[16] ‖ session_id[16] ‖ seq u64 ‖ previous[32] ‖
    seen[32] ‖ sent_ms u64 ‖ text_hash[32]; then salt[16] ‖ text (u16 length).
    text_hash = H("text", salt ‖ text), entry_id = H("entry", head).
    """

    kind: int
    tag: bytes  # of the conversation
    session_id: bytes  # the author's
    seq: int  # from 1
    previous: bytes  # entry_id of the feed's entry before, zeros for the first
    seen: bytes  # entry_id of the last entry of somebody else that the author was shown, or zeros
    sent_ms: int  # author's wall clock, milliseconds since 1970, UTC
    salt: bytes
    text: bytes

    @classmethod
    def create(
        cls,
        kind: EntryKind,
        tag: bytes,
        session_id: bytes,
        seq: int,
        previous: bytes,
        seen: bytes,
        sent_ms: int,
        text: bytes,
    ) -> Entry:
        """A new entry with a fresh salt."""
        salt = random_bytes(_SALT_BYTES)
        return cls(kind, tag, session_id, seq, previous, seen, sent_ms, salt, text)

    @classmethod
    def of_head(cls, head: bytes) -> Entry:
        """What is left of an entry whose text is gone, salt and text empty.  Raises WireError."""
        kind, tag, session_id, seq, previous, seen, sent_ms, _ = _read_head_of_entry(head)
        entry = cls(kind, tag, session_id, seq, previous, seen, sent_ms, b"", b"")
        vars(entry)["head"] = head  # it holds the text's hash, which nothing else gives any more
        return entry

    @cached_property
    def head(self) -> bytes:
        """The 146 bytes that are signed and hashed."""
        return _HEAD.pack(
            VERSION,
            self.kind,
            self.tag,
            self.session_id,
            self.seq,
            self.previous,
            self.seen,
            self.sent_ms,
            H(Label.TEXT, self.salt + self.text),
        )

    @cached_property
    def entry_id(self) -> bytes:
        """H("entry", head), 32 bytes."""
        return H(Label.ENTRY, self.head)

    def sign(self, key: SigningKey) -> SignedEntry:
        """By the author's session signing key."""
        return SignedEntry(self, key.sign(Label.ENTRY_SIG, self.head))


def _read_head_of_entry(head: bytes) -> tuple[int, bytes, bytes, int, bytes, bytes, int, bytes]:
    """kind, tag, session_id, seq, previous, seen, sent_ms, text_hash.  Raises WireError."""
    if len(head) != ENTRY_HEAD_BYTES:
        raise Malformed(f"an entry's head of {len(head)} bytes, expected {ENTRY_HEAD_BYTES}")
    version, kind, tag, session_id, seq, *rest = _HEAD.unpack(head)
    if version != VERSION:
        raise UnknownVersion(f"unknown version {version} of an entry")
    if seq == 0:
        raise Malformed("a feed starts with seq 1")
    previous, seen, sent_ms, text_hash = rest
    return kind, tag, session_id, seq, previous, seen, sent_ms, text_hash


@dataclass(frozen=True)
class SignedEntry:
    """entry ‖ SSK signature[64] over its head: what a Message carries and a block records."""

    entry: Entry
    signature: bytes

    def serialize(self) -> bytes:
        """228 bytes beyond the text."""
        entry = self.entry
        return entry.head + entry.salt + prefixed(entry.text) + self.signature

    @classmethod
    def parse(cls, data: bytes) -> SignedEntry:
        """Checks the form, the text's hash and, of a chat entry, that the text is UTF-8 within
        its limit; the signature is the caller's to verify.  Raises WireError."""
        r = Reader(data)
        head, salt, text = r.fixed(ENTRY_HEAD_BYTES), r.fixed(_SALT_BYTES), r.prefixed()
        signature = r.fixed(SIGNATURE_BYTES)
        r.end()
        kind, tag, session_id, seq, previous, seen, sent_ms, text_hash = _read_head_of_entry(head)
        if not hmac.compare_digest(text_hash, H(Label.TEXT, salt + text)):
            raise Malformed("the text is not the one that was signed")
        if kind == EntryKind.CHAT:
            _check_chat(text)
        elif kind == EntryKind.AUDIENCE:
            _check_audience(text)
        return cls(
            Entry(kind, tag, session_id, seq, previous, seen, sent_ms, salt, text), signature
        )

    def verify(self, key: VerifyKey) -> None:
        """Raises BadSignature."""
        key.verify(self.signature, Label.ENTRY_SIG, self.entry.head)


def _check_chat(text: bytes) -> None:
    if not text:
        raise Malformed("a message has at least one byte")
    if len(text) > MAX_TEXT_BYTES:
        raise TooLarge(f"a message of {len(text)} bytes, at most {MAX_TEXT_BYTES} are allowed")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Malformed("a message is UTF-8") from exc


def audience_items(text: bytes) -> list[bytes]:
    """The beginnings of fingerprints, 16 bytes each, that an audience entry's text lists."""
    size = AUDIENCE_ITEM_BYTES
    return [text[i : i + size] for i in range(0, len(text), size)]


def _check_audience(text: bytes) -> None:
    size = AUDIENCE_ITEM_BYTES
    if len(text) % size or len(text) > MAX_AUDIENCE * size:
        raise Malformed(f"an audience of {len(text)} bytes")
    if any(a >= b for a, b in pairwise(audience_items(text))):
        raise Malformed("an audience is sorted and names nobody twice")


def _padded_size(size: int) -> int:
    for step in (256, 512):
        if size <= step:
            return step
    return -(-size // 1024) * 1024


def pad(data: bytes) -> bytes:
    """Zero padding to 256, 512, 1024, then multiples of 1024 bytes: hides a text's exact length."""
    return data.ljust(_padded_size(len(data)), b"\0")


def unpad(data: bytes) -> bytes:
    """A padded signed entry without its padding; the lengths inside say where it ends.

    Raises:
        WireError: too short, padding that is not zero, or not padded to the right size.
    """
    r = Reader(data)
    r.fixed(_HEAD.size + _SALT_BYTES)
    r.prefixed()
    r.fixed(SIGNATURE_BYTES)
    entry, padding = r.done(), r.rest()
    if len(data) != _padded_size(len(entry)) or padding.count(0) != len(padding):
        raise Malformed("wrong padding")
    return entry


# --------------------------------------------------------------------------- payloads


class PayloadKind(IntEnum):
    """The second byte of every payload (PROTOCOL.md 3.2)."""

    KEY_SHARE = 1
    KEY_REQUEST = 2
    MESSAGE = 3
    ACK = 4
    WITNESS = 5
    SYNC = 6
    KEY_REFUSAL = 7


def _check_counted_from_1(*numbers: int) -> None:
    if 0 in numbers:
        raise Malformed("epochs, seqs and acks are counted from 1")


def _prefix(kind: PayloadKind, session_id: bytes) -> bytes:
    return bytes((VERSION, kind)) + session_id


_MESSAGE = struct.Struct(">BB16s16sII")  # 42 bytes: all that stands before the sealed entry


@dataclass(frozen=True)
class Message:
    """version, kind, session_id ‖ tag[16] ‖ epoch u32 ‖ n u32 ‖ nonce[12] ‖ ciphertext.

    nonce ‖ ciphertext = `seal`(mk_n, padded signed entry, AAD = the 42 bytes before the nonce).
    """

    session_id: bytes
    tag: bytes
    epoch: int
    n: int
    sealed: bytes = field(repr=False)

    @property
    def associated(self) -> bytes:
        """The AAD."""
        return self.header(self.session_id, self.tag, self.epoch, self.n)

    @staticmethod
    def header(session_id: bytes, tag: bytes, epoch: int, n: int) -> bytes:
        """The 42 bytes before the sealed entry."""
        return _MESSAGE.pack(VERSION, PayloadKind.MESSAGE, session_id, tag, epoch, n)

    def serialize(self) -> bytes:
        """The payload."""
        return self.associated + self.sealed

    @classmethod
    def parse(cls, data: bytes) -> Message:
        """`data` with its two leading bytes checked by `parse_payload`.

        Raises Malformed, also where no padded entry can be inside: nobody holds such bytes until
        a key comes."""
        if len(data) < _MESSAGE.size:
            raise Malformed(f"a message of {len(data)} bytes")
        _, _, session_id, tag, epoch, n = _MESSAGE.unpack_from(data)
        sealed = data[_MESSAGE.size :]
        size = len(sealed) - AEAD_NONCE_BYTES - AEAD_TAG_BYTES
        if size != _padded_size(size):
            raise Malformed(f"a padded entry does not have {size} bytes")
        _check_counted_from_1(epoch)
        return cls(session_id, tag, epoch, n, sealed)


@dataclass(frozen=True)
class _Signed:
    """A payload whose last 64 bytes are its session's signature over all before."""

    session_id: bytes
    signature: bytes = field(repr=False, kw_only=True)
    KIND: ClassVar[PayloadKind]
    SIG_LABEL: ClassVar[bytes]

    def _fields(self) -> bytes:
        raise NotImplementedError

    def _body(self) -> bytes:
        return _prefix(self.KIND, self.session_id) + self._fields()

    def serialize(self) -> bytes:
        """The payload."""
        return self._body() + self.signature

    @classmethod
    def _signed(cls, key: SigningKey, *fields: object) -> Self:
        """With these fields, session_id first, signed by our session."""
        unsigned = cls(*fields, signature=b"")  # type: ignore[arg-type]
        return replace(unsigned, signature=key.sign(cls.SIG_LABEL, unsigned._body()))

    def verify(self, key: VerifyKey) -> None:
        """Raises BadSignature unless the session whose key it is signed this payload."""
        key.verify(self.signature, self.SIG_LABEL, self._body())


@dataclass(frozen=True)
class KeyShare(_Signed):
    """Direct: our sender key from message n on (PROTOCOL.md 3.3).

    tag[16] ‖ epoch u32 ‖ n u32 ‖ first_seq u64 ‖ recipient's session_id[16] ‖ SEK number u32 ‖
    wrap[384] = OAEP of CK_n under the label H("share", every byte before the wrap).
    """

    tag: bytes
    epoch: int
    n: int
    first_seq: int  # nothing of this feed below it is missing to the recipient
    recipient: bytes
    sek_number: int
    wrap: bytes = field(repr=False)
    KIND: ClassVar[PayloadKind] = PayloadKind.KEY_SHARE
    SIG_LABEL: ClassVar[bytes] = Label.SHARE_SIG

    @staticmethod
    def _before_wrap(
        session_id: bytes,
        tag: bytes,
        epoch: int,
        n: int,
        first_seq: int,
        recipient: bytes,
        sek_number: int,
    ) -> bytes:
        body = _prefix(PayloadKind.KEY_SHARE, session_id) + tag + u32(epoch) + u32(n)
        return body + u64(first_seq) + recipient + u32(sek_number)

    @property
    def _bound(self) -> bytes:
        return self._before_wrap(
            self.session_id,
            self.tag,
            self.epoch,
            self.n,
            self.first_seq,
            self.recipient,
            self.sek_number,
        )

    @classmethod
    def create(
        cls,
        key: SigningKey,
        session_id: bytes,
        tag: bytes,
        epoch: int,
        n: int,
        first_seq: int,
        recipient: Bundle,
        chain_key: bytes,
    ) -> KeyShare:
        """`chain_key` is CK_n, 32 bytes."""
        number = recipient.sek_number
        before = cls._before_wrap(
            session_id, tag, epoch, n, first_seq, recipient.session_id, number
        )
        wrap = EncryptionManager.wrap_key(chain_key, recipient.sek, H(Label.SHARE_WRAP, before))
        signature = key.sign(cls.SIG_LABEL, before + wrap)
        return cls(
            session_id,
            tag,
            epoch,
            n,
            first_seq,
            recipient.session_id,
            number,
            wrap,
            signature=signature,
        )

    def unwrap(self, sek: EncryptionManager) -> bytes:
        """CK_n.  Verify the signature first.  Raises BadCiphertext."""
        return sek.unwrap_key(self.wrap, H(Label.SHARE_WRAP, self._bound))

    def _fields(self) -> bytes:
        return self._bound[2 + SESSION_ID_BYTES :] + self.wrap

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> KeyShare:
        tag, epoch, n, first_seq = r.fixed(TAG_BYTES), r.u32(), r.u32(), r.u64()
        recipient, sek_number = r.fixed(SESSION_ID_BYTES), r.u32()
        wrap, signature = r.fixed(RSA_BYTES), r.fixed(SIGNATURE_BYTES)
        _check_counted_from_1(epoch, first_seq)
        return cls(
            session_id, tag, epoch, n, first_seq, recipient, sek_number, wrap, signature=signature
        )


@dataclass(frozen=True)
class KeyRequest(_Signed):
    """Direct: I hold frames of an epoch of yours and no key.  tag[16] ‖ epoch u32 ‖ author[16]."""

    tag: bytes
    epoch: int
    author: bytes  # session_id
    KIND: ClassVar[PayloadKind] = PayloadKind.KEY_REQUEST
    SIG_LABEL: ClassVar[bytes] = Label.REQUEST_SIG

    @classmethod
    def create(
        cls, key: SigningKey, session_id: bytes, tag: bytes, epoch: int, author: bytes
    ) -> KeyRequest:
        """Signed by our session."""
        return cls._signed(key, session_id, tag, epoch, author)

    def _fields(self) -> bytes:
        return self.tag + u32(self.epoch) + self.author

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> KeyRequest:
        tag, epoch, author = r.fixed(TAG_BYTES), r.u32(), r.fixed(SESSION_ID_BYTES)
        _check_counted_from_1(epoch)
        return cls(session_id, tag, epoch, author, signature=r.fixed(SIGNATURE_BYTES))


class RefusalReason(IntEnum):
    """Why a key request is not answered with a share."""

    NOT_FOR_YOU = 1  # you are not in that audience
    ASK_LATER = 2  # not now: says nothing about why


@dataclass(frozen=True)
class KeyRefusal(_Signed):
    """Direct, the other answer to a request.  tag[16] ‖ epoch u32 ‖ requester[16] ‖ reason u8."""

    tag: bytes
    epoch: int
    requester: bytes  # session_id
    reason: RefusalReason
    KIND: ClassVar[PayloadKind] = PayloadKind.KEY_REFUSAL
    SIG_LABEL: ClassVar[bytes] = Label.REFUSAL_SIG

    @classmethod
    def create(
        cls, key: SigningKey, session_id: bytes, request: KeyRequest, reason: RefusalReason
    ) -> KeyRefusal:
        """Signed by our session."""
        return cls._signed(key, session_id, request.tag, request.epoch, request.session_id, reason)

    def _fields(self) -> bytes:
        return self.tag + u32(self.epoch) + self.requester + u8(self.reason)

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> KeyRefusal:
        tag, epoch = r.fixed(TAG_BYTES), r.u32()
        requester, reason = r.fixed(SESSION_ID_BYTES), r.u8()
        _check_counted_from_1(epoch)
        if reason not in tuple(RefusalReason):
            raise Malformed(f"unknown reason {reason}")
        return cls(
            session_id,
            tag,
            epoch,
            requester,
            RefusalReason(reason),
            signature=r.fixed(SIGNATURE_BYTES),
        )


@dataclass(frozen=True)
class FeedReport:
    """One feed in an ack, and what the acker holds of its author's chain.

    session_id[16] ‖ seq u64 ‖ entry_id[32] ‖ u16 count × missing u64 ‖ witnessed index u64 ‖
    witnessed hash[32].
    """

    session_id: bytes
    seq: int  # the highest on the acker's chain
    entry_id: bytes  # of that entry
    missing: tuple[int, ...] = ()  # at most 64, rising, all below seq
    # The newest head that the feed's author signed for the chain of his bundle, as far as the acker
    # knows; zeros: none is known.
    witnessed_index: int = 0
    witnessed_hash: bytes = bytes(HASH_BYTES)

    @property
    def is_witness(self) -> bool:
        """Whether it speaks of the author's chain."""
        return self.witnessed_hash != bytes(HASH_BYTES)

    def serialize(self) -> bytes:
        """98 bytes and 8 for each missing seq."""
        body = self.session_id + u64(self.seq) + self.entry_id + u16(len(self.missing))
        body += b"".join(map(u64, self.missing))
        return body + u64(self.witnessed_index) + self.witnessed_hash

    @classmethod
    def read(cls, r: Reader) -> FeedReport:
        """Raises WireError."""
        session_id, seq, entry_id = r.fixed(SESSION_ID_BYTES), r.u64(), r.fixed(ENTRY_ID_BYTES)
        count = r.u16()
        if count > MAX_MISSING:
            raise TooLarge(f"{count} missing seqs, at most {MAX_MISSING} are allowed")
        missing = tuple(r.u64() for _ in range(count))
        _check_counted_from_1(seq, *missing)
        if any(a >= b for a, b in pairwise((*missing, seq))):
            raise Malformed("missing seqs rise and lie below the highest")
        report = cls(session_id, seq, entry_id, missing, r.u64(), r.fixed(HASH_BYTES))
        if report.witnessed_index and not report.is_witness:
            raise _no_hash()
        return report


def _no_hash() -> Malformed:
    return Malformed("no block has a hash of zeros")


def _head_fields(head: Head) -> bytes:
    """chain_id[16] ‖ index u64 ‖ hash[32] ‖ CSK signature[64], 120 bytes."""
    return head.chain_id + u64(head.index) + head.hash + head.signature


def _read_head(r: Reader) -> Head:
    head = Head(r.fixed(16), r.u64(), r.fixed(HASH_BYTES), r.fixed(SIGNATURE_BYTES))
    if head.hash == bytes(HASH_BYTES):  # in a report it means that none is known
        raise _no_hash()
    return head


@dataclass(frozen=True)
class Ack(_Signed):
    """To the room, or direct in a pair: what is on my chain (PROTOCOL.md 3.7).

    tag[16] ‖ number u32 ‖ digest[32] ‖ u16 count × FeedReport ‖ chain_id[16] ‖ index u64 ‖
    hash[32] ‖ CSK signature[64].
    """

    tag: bytes
    number: int  # rising for each (session, tag)
    digest: bytes  # roster_digest; zeros in a pair
    feeds: tuple[FeedReport, ...]
    head: Head  # of the acker's chain
    KIND: ClassVar[PayloadKind] = PayloadKind.ACK
    SIG_LABEL: ClassVar[bytes] = Label.ACK_SIG
    ROOM_FOR_FEEDS: ClassVar[int] = MAX_ACK_BYTES - 18 - 16 - 4 - 32 - 2 - 120 - SIGNATURE_BYTES

    @classmethod
    def create(
        cls,
        key: SigningKey,
        session_id: bytes,
        tag: bytes,
        number: int,
        digest: bytes,
        feeds: tuple[FeedReport, ...],
        head: Head,
    ) -> Ack:
        """Signed by our session."""
        return cls._signed(key, session_id, tag, number, digest, feeds, head)

    def _fields(self) -> bytes:
        body = self.tag + u32(self.number) + self.digest + u16(len(self.feeds))
        body += b"".join(feed.serialize() for feed in self.feeds)
        return body + _head_fields(self.head)

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> Ack:
        tag, number, digest = r.fixed(TAG_BYTES), r.u32(), r.fixed(HASH_BYTES)
        _check_counted_from_1(number)
        feeds = tuple(FeedReport.read(r) for _ in range(r.u16()))
        head = _read_head(r)
        return cls(session_id, tag, number, digest, feeds, head, signature=r.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True)
class Witness(_Signed):
    """Direct: this head of a chain of yours I hold, signed by you (PROTOCOL.md 3.10).

    tag[16] ‖ recipient's session_id[16] ‖ chain_id[16] ‖ index u64 ‖ hash[32] ‖ CSK signature[64].
    """

    tag: bytes  # the room's
    recipient: bytes  # so that another run of the recipient cannot be told it again
    head: Head  # of the recipient's chain, now or once; its signature is the recipient's to check
    KIND: ClassVar[PayloadKind] = PayloadKind.WITNESS
    SIG_LABEL: ClassVar[bytes] = Label.WITNESS_SIG

    @classmethod
    def create(
        cls, key: SigningKey, session_id: bytes, tag: bytes, recipient: bytes, head: Head
    ) -> Witness:
        """Signed by our session."""
        return cls._signed(key, session_id, tag, recipient, head)

    def _fields(self) -> bytes:
        return self.tag + self.recipient + _head_fields(self.head)

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> Witness:
        tag, recipient, head = r.fixed(TAG_BYTES), r.fixed(SESSION_ID_BYTES), _read_head(r)
        return cls(session_id, tag, recipient, head, signature=r.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True)
class Sync(_Signed):
    """Direct: a question or an answer of two who catch up (PROTOCOL.md 3.11).

    tag[16] ‖ recipient's session_id[16] ‖ request_id[16] ‖ SEK number u32 ‖ sealed (u32 length) =
    `EncryptionManager.encrypt_message` of the body to that SEK.
    """

    tag: bytes  # the room's
    recipient: bytes
    request_id: bytes  # random; the answer carries its question's
    sek_number: int
    sealed: bytes = field(repr=False)
    KIND: ClassVar[PayloadKind] = PayloadKind.SYNC
    SIG_LABEL: ClassVar[bytes] = Label.SYNC_SIG

    @classmethod
    def create(
        cls,
        key: SigningKey,
        session_id: bytes,
        tag: bytes,
        recipient: Bundle,
        request_id: bytes,
        body: bytes,
    ) -> Sync:
        """`body` in clear (`chat_sync_bodies`); sealed and signed by our session."""
        sealed = EncryptionManager.encrypt_message(body, recipient.sek)
        number = recipient.sek_number
        return cls._signed(key, session_id, tag, recipient.session_id, request_id, number, sealed)

    def open(self, sek: EncryptionManager) -> bytes:
        """The body.  Verify the signature first.  Raises BadCiphertext."""
        return sek.decrypt_message(self.sealed)

    def _fields(self) -> bytes:
        fixed = self.tag + self.recipient + self.request_id + u32(self.sek_number)
        return fixed + u32(len(self.sealed)) + self.sealed

    @classmethod
    def _read(cls, session_id: bytes, r: Reader) -> Sync:
        tag, recipient = r.fixed(TAG_BYTES), r.fixed(SESSION_ID_BYTES)
        request_id, number, sealed = r.fixed(_REQUEST_ID_BYTES), r.u32(), r.fixed(r.u32())
        signature = r.fixed(SIGNATURE_BYTES)
        return cls(session_id, tag, recipient, request_id, number, sealed, signature=signature)


Payload = Message | KeyShare | KeyRequest | KeyRefusal | Ack | Witness | Sync

_READERS = {
    PayloadKind.KEY_SHARE: KeyShare._read,
    PayloadKind.KEY_REQUEST: KeyRequest._read,
    PayloadKind.KEY_REFUSAL: KeyRefusal._read,
    PayloadKind.ACK: Ack._read,
    PayloadKind.WITNESS: Witness._read,
    PayloadKind.SYNC: Sync._read,
}


def parse_payload(data: bytes) -> Payload:
    """What a BROADCAST or DIRECT carries; serialize() of the result is `data` again.

    Raises:
        UnknownVersion: not version 1.
        Malformed: another kind, or bytes that break the kind's grammar.
        TooLarge: over its limit.
    """
    if len(data) > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"a payload of {len(data)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    r = Reader(data)
    r.version()
    kind = r.u8()
    if kind == PayloadKind.MESSAGE:
        return Message.parse(data)
    read = _READERS.get(kind)  # type: ignore[call-overload]
    if read is None:
        raise Malformed(f"unknown kind {kind}")
    payload: Payload = read(r.fixed(SESSION_ID_BYTES), r)
    r.end()
    return payload


# --------------------------------------------------------------------------- events on one's chain


class EventKind(IntEnum):
    """What an EVENT block records (PROTOCOL.md 3.9)."""

    BUNDLE = 1  # of a session, before that session's first entry; body: the bundle as carried
    IGNORE = 2  # body: fingerprint[32]
    UNIGNORE = 3  # body: fingerprint[32]
    PIN = 4  # that key goes by that name; body: fingerprint[32] ‖ nick
    VERIFIED = 5  # the person compared that key; body: fingerprint[32]
    UNVERIFIED = 6  # and takes it back; body: fingerprint[32]
    ALERT = 7  # what the person was warned of; body: UTF-8 text
    # What somebody signed beside an entry on this chain that it cannot be of one feed with; body:
    # head[146] ‖ signature[64]
    FORK = 8


@dataclass(frozen=True)
class Event:
    """salt[16] ‖ kind u8 ‖ body; the block's entry_id is H("event", all of it)."""

    kind: int
    body: bytes
    salt: bytes = field(default_factory=lambda: random_bytes(_SALT_BYTES))

    def serialize(self) -> bytes:
        """The record."""
        return self.salt + u8(self.kind) + self.body

    @property
    def event_id(self) -> bytes:
        """32 bytes."""
        return H(Label.EVENT, self.serialize())

    @classmethod
    def parse(cls, data: bytes) -> Event:
        """Raises Malformed."""
        r = Reader(data)
        salt, kind = r.fixed(_SALT_BYTES), r.u8()
        return cls(kind, r.rest(), salt)
