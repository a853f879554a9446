"""Bytes: the encoding, the labels, the frames between a client and the relay.

What lives here: reading and writing fields, the labels that keep one key's uses apart, `H`, the
frame decoder, the relay's messages, the limits that both sides of a connection hold each other to,
and the password proof.  What it does not know: sockets, files, clocks, keys, and what a payload
means.  It imports the standard library alone, so that the relay, which imports only this module,
cannot decrypt anything.

    decoder = FrameDecoder(MAX_FRAME_BYTES)
    decoder.feed(data_from_a_socket)
    for frame in decoder: message = Hello.parse(frame.body)

Specified in docs/PROTOCOL.md, sections 1 (encoding) and 2 (frames).

Errors: everything here either returns a value or raises a `WireError`::

    WireError
    ├── Malformed        the bytes break the grammar
    ├── TooLarge         a length is over its limit (found before anything is allocated)
    └── UnknownVersion   well formed as far as it can be read, but not version 1
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, NamedTuple

__all__ = [
    "CLIENT_COMMAND",
    "DEFAULT_PORT",
    "ENTRY_ID_BYTES",
    "MAX_BUNDLE_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_JOIN_FRAME_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_TEXT_BYTES",
    "PING_INTERVAL_S",
    "PROGRAM_VERSION",
    "SESSION_ID_BYTES",
    "SILENCE_S",
    "TAG_BYTES",
    "VERSION",
    "Add",
    "Broadcast",
    "Del",
    "Direct",
    "Error",
    "ErrorCode",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "H",
    "Hello",
    "Join",
    "Label",
    "LeaveReason",
    "Malformed",
    "Member",
    "Ping",
    "Pong",
    "Reader",
    "Rebundle",
    "TooLarge",
    "UnknownVersion",
    "Welcome",
    "WireError",
    "frame",
    "join_proof",
    "prefixed",
    "u8",
    "u16",
    "u32",
    "u64",
    "welcome_frames",
]

VERSION = 1
PROGRAM_VERSION = "0.1.0"  # as pyproject.toml has it

DEFAULT_PORT = 5555
# What people type to start the client, where this file is part of an installation or of a checkout.
_IS_INSTALLED = Path(__file__).resolve().parent.name in ("site-packages", "dist-packages")
CLIENT_COMMAND = "chainroom" if _IS_INSTALLED else "python chat_client.py"
# Section 2.4.  Seconds between PINGs, and until a connection is dead on which two came to nothing:
# less than 45, so that it is known by then on a busy computer too.
PING_INTERVAL_S = 15
SILENCE_S = 40

# Sizes that never vary, in bytes.
TAG_BYTES = 16
SESSION_ID_BYTES = 16
ENTRY_ID_BYTES = 32
HASH_BYTES = 32
NONCE_BYTES = 32

# A frame's length counts its type and body.  64 KiB holds the longest message (16 KiB of text,
# padded) four times over, and bounds what one peer makes another allocate.
MAX_FRAME_BYTES = 65_536
# Before WELCOME nobody is known: enough for a JOIN with the largest bundle, and no more.
MAX_JOIN_FRAME_BYTES = 8_192
MAX_BUNDLE_BYTES = 4_096
# What fits into a DIRECT beside its type and the recipient's session_id; BROADCAST holds to it too.
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 1 - SESSION_ID_BYTES
MAX_TEXT_BYTES = 16_384  # one chat message, UTF-8
MAX_ERROR_TEXT_BYTES = 512


class WireError(ValueError):
    """Base of what bytes from outside can raise; the text says what was expected and got."""


class Malformed(WireError):
    """The bytes break the grammar."""


class TooLarge(WireError):
    """A length is over its limit."""


class UnknownVersion(WireError):
    """A version other than 1: said as such, never as a bad signature."""


# --------------------------------------------------------------------------- labels


def _label(name: str) -> bytes:
    return b"chainroom/1 " + name.encode("ascii") + b"\0"


class Label:
    """One label for each use of a hash, MAC, signature or derived key (PROTOCOL.md 1.3)."""

    # hashes
    IDENTITY = _label("identity")  # fingerprint of an identity's SPKI
    OPEN_ROOM = _label("open room")  # room secret of a room that has a name and no invite
    PAIR = _label("pair")  # conversation tag of two people
    TEXT = _label("text")  # salted hash of an entry's text
    ENTRY = _label("entry")  # entry_id
    EVENT = _label("event")  # id of an event block's salted record
    ROSTER = _label("roster")  # digest of the members one sees
    SESSION = _label("session")  # a session_id: whose session, and under which key
    BUNDLE = _label("bundle")  # a bundle inside a join proof
    BLOCK = _label("block")  # a block's hash
    SHARE_WRAP = _label("share")  # OAEP label of a key share
    KEYSTORE = _label("keystore")  # checksum of a keystore without a passphrase
    INVITE = _label("invite")  # checksum of an invite
    SAFETY = _label("safety")  # two people's fingerprints
    # MACs
    JOIN = _label("join")  # proof of the relay's password
    ROOM_PROOF = _label("room proof")  # proof of the room secret in a bundle
    MESSAGE_KEY = _label("mk")
    CHAIN_KEY = _label("ck")
    BODY_KEY = _label("body key")  # key of one block's body
    SIDE_TABLE = _label("side table")  # key of one side table
    SIDE_ROW = _label("side row")  # id of one of its rows
    # HKDF
    ROOM_TAG = _label("room tag")
    ROOM_AUTH = _label("room auth")
    ROOM_MIX = _label("room mix")
    SAFETY_NUMBER = _label("safety number")
    # signatures
    BUNDLE_SIG = _label("bundle sig")  # identity key
    CHAIN_CERT = _label("chain cert")  # identity key
    ENTRY_SIG = _label("entry sig")  # session signing key, as those below
    SHARE_SIG = _label("share sig")
    REQUEST_SIG = _label("key request sig")
    REFUSAL_SIG = _label("key refusal sig")
    ACK_SIG = _label("ack sig")
    WITNESS_SIG = _label("witness sig")
    SYNC_SIG = _label("sync sig")
    BLOCK_SIG = _label("block sig")  # chain signing key
    PROOF_SIG = _label("proof sig")  # chain signing key: of an exported proof
    # OAEP
    HYBRID = _label("hybrid")  # EncryptionManager.encrypt_message


def H(label: bytes, body: bytes) -> bytes:
    """SHA-256(label ‖ body), 32 bytes; `label` is one of `Label`."""
    return hashlib.sha256(label + body).digest()


# --------------------------------------------------------------------------- fields

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


def u8(value: int) -> bytes:
    """One byte."""
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return _U16.pack(value)


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return _U64.pack(value)


def prefixed(data: bytes) -> bytes:
    """`data` behind its length as u16.

    Raises:
        TooLarge: over 65,535 bytes.
    """
    if len(data) > 0xFFFF:
        raise TooLarge(f"{len(data)} bytes do not fit a u16 length")
    return _U16.pack(len(data)) + data


class Reader:
    """Reads fields one after another; `end()` refuses trailing bytes.

    Every method raises `Malformed` where the data is too short, so that a parser is a plain list
    of fields and `serialize(parse(b)) == b` for every b that parses.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fixed(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise Malformed(f"expected {size} more bytes, got {len(self._data) - self._at}")
        field = self._data[self._at : end]
        self._at = end
        return field

    def u8(self) -> int:
        """The next byte."""
        return self.fixed(1)[0]

    def u16(self) -> int:
        """The next two bytes, big-endian."""
        return int.from_bytes(self.fixed(2), "big")

    def u32(self) -> int:
        """The next four bytes, big-endian."""
        return int.from_bytes(self.fixed(4), "big")

    def u64(self) -> int:
        """The next eight bytes, big-endian."""
        return int.from_bytes(self.fixed(8), "big")

    def prefixed(self, limit: int = 0xFFFF) -> bytes:
        """A field behind its u16 length, at most `limit` bytes (else TooLarge)."""
        size = self.u16()
        if size > limit:
            raise TooLarge(f"a field of {size} bytes, at most {limit} are allowed")
        return self.fixed(size)

    def version(self) -> int:
        """The version byte, which must be 1 (else UnknownVersion)."""
        version = self.u8()
        if version != VERSION:
            raise UnknownVersion(f"unknown version {version}")
        return version

    def rest(self) -> bytes:
        """All that is left, maybe nothing."""
        field = self._data[self._at :]
        self._at = len(self._data)
        return field

    def done(self) -> bytes:
        """All that was read so far: what a signature or a label covers."""
        return self._data[: self._at]

    def end(self) -> None:
        """Raises Malformed if anything is left."""
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes too many")


# --------------------------------------------------------------------------- frames


class FrameType(IntEnum):
    """The u8 behind a frame's length (PROTOCOL.md 2.2)."""

    HELLO = 1
    JOIN = 2
    WELCOME = 3
    ADD = 4
    DEL = 5
    REBUNDLE = 6
    BROADCAST = 7
    DIRECT = 8
    PING = 9
    PONG = 10
    ERROR = 11


class ErrorCode(IntEnum):
    """Why the relay closes a connection; the text beside it is for a person."""

    BAD_FRAME = 1
    TOO_LARGE = 2
    VERSION = 3
    PASSWORD = 4
    ROOM_FULL = 5
    IP_LIMIT = 6
    SESSION_IN_USE = 7
    SLOW_CONSUMER = 8
    TIMEOUT = 9
    SHUTDOWN = 10


class LeaveReason(IntEnum):
    """Why a member is gone, as the relay saw it."""

    LEFT = 1  # its connection was closed
    TIMEOUT = 2  # two pings unanswered
    SLOW_CONSUMER = 3  # lagged 4 MiB or did not drain for 10 s
    BAD_FRAME = 4  # broke the protocol
    REPLACED = 5  # joined again over a new connection


class Frame(NamedTuple):
    """A whole frame as carried, header included: the relay forwards `raw` unchanged."""

    raw: bytes

    @property
    def type(self) -> int:
        """The frame's type; maybe none of `FrameType`."""
        return self.raw[4]

    @property
    def body(self) -> bytes:
        """All behind the type."""
        return self.raw[5:]


def frame(frame_type: FrameType, body: bytes) -> bytes:
    """u32 length ‖ u8 type ‖ body.

    Raises:
        TooLarge: type and body are over `MAX_FRAME_BYTES`.
    """
    length = 1 + len(body)
    if length > MAX_FRAME_BYTES:
        raise TooLarge(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")
    return _U32.pack(length) + bytes((frame_type,)) + body


class FrameDecoder:
    """Cuts a byte stream into frames, however the stream was split.

    Iterate after each `feed`; iteration stops at the first incomplete frame.  `limit` may be raised
    between two frames (the relay does so once a member has joined).  It buffers at most one
    incomplete frame beyond what was fed.

    Raises (from iteration):
        TooLarge: a length over `limit`, seen before its body is awaited.
        Malformed: a length of zero.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Appends bytes as they came."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def __iter__(self) -> Iterator[Frame]:
        buffer = self._buffer
        while len(buffer) - self._at >= 4:
            (length,) = _U32.unpack_from(buffer, self._at)
            if length > self.limit:
                raise TooLarge(f"a frame of {length} bytes, at most {self.limit} are allowed")
            if length == 0:
                raise Malformed("a frame without a type")
            end = self._at + 4 + length
            if end > len(buffer):
                return
            raw = bytes(memoryview(buffer)[self._at : end])
            self._at = end
            yield Frame(raw)
        if self._at == len(buffer):  # hold on to nothing while the peer is silent
            buffer.clear()
            self._at = 0

    def rest(self) -> bytes:
        """What was fed and not yielded yet."""
        return bytes(self._buffer[self._at :])


# --------------------------------------------------------------------------- the relay's messages


@dataclass(frozen=True)
class Hello:
    """Relay → client, first of all.  min u8 ‖ max u8 ‖ nonce[32] ‖ flags u8 ‖ max_frame u32."""

    version_min: int
    version_max: int
    nonce: bytes  # 32 random bytes, one connection
    needs_password: bool
    max_frame_bytes: int = MAX_FRAME_BYTES

    def serialize(self) -> bytes:
        """The whole frame."""
        body = u8(self.version_min) + u8(self.version_max) + self.nonce
        body += u8(1 if self.needs_password else 0) + u32(self.max_frame_bytes)
        return frame(FrameType.HELLO, body)

    @classmethod
    def parse(cls, body: bytes) -> Hello:
        """Raises WireError; UnknownVersion if version 1 is not offered."""
        r = Reader(body)
        low, high = r.u8(), r.u8()
        if not low <= VERSION <= high:
            raise UnknownVersion(f"the relay speaks versions {low} to {high}, we speak {VERSION}")
        nonce, flags, limit = r.fixed(NONCE_BYTES), r.u8(), r.u32()
        r.end()
        if flags > 1:
            raise Malformed(f"unknown flags {flags}")
        return cls(low, high, nonce, bool(flags), limit)


@dataclass(frozen=True)
class Join:
    """Client → relay.  version u8 ‖ room_tag[16] ‖ session_id[16] ‖ proof[32] ‖ bundle u16."""

    room_tag: bytes
    session_id: bytes
    proof: bytes  # join_proof(...), or 32 zeros where no password is needed
    bundle: bytes  # opaque to the relay, at most MAX_BUNDLE_BYTES

    def serialize(self) -> bytes:
        """The whole frame."""
        body = u8(VERSION) + self.room_tag + self.session_id + self.proof + prefixed(self.bundle)
        return frame(FrameType.JOIN, body)

    @classmethod
    def parse(cls, body: bytes) -> Join:
        """Raises WireError."""
        r = Reader(body)
        r.version()
        tag, session_id = r.fixed(TAG_BYTES), r.fixed(SESSION_ID_BYTES)
        proof, bundle = r.fixed(HASH_BYTES), r.prefixed(MAX_BUNDLE_BYTES)
        r.end()
        return cls(tag, session_id, proof, bundle)


class Member(NamedTuple):
    """A live member as the relay names it; the bundle is unverified."""

    session_id: bytes
    bundle: bytes


@dataclass(frozen=True)
class Welcome:
    """Relay → client: the other live members.

    last u8 ‖ u16 count × (session_id[16] ‖ bundle u16)."""

    members: tuple[Member, ...]
    last: bool

    def serialize(self) -> bytes:
        """The whole frame.  Raises TooLarge where the members need several: `welcome_frames`."""
        body = u8(1 if self.last else 0) + u16(len(self.members))
        body += b"".join(m.session_id + prefixed(m.bundle) for m in self.members)
        return frame(FrameType.WELCOME, body)

    @classmethod
    def parse(cls, body: bytes) -> Welcome:
        """Raises WireError."""
        r = Reader(body)
        last, count = r.u8(), r.u16()
        if last > 1:
            raise Malformed(f"last is 0 or 1, got {last}")
        members = tuple(
            Member(r.fixed(SESSION_ID_BYTES), r.prefixed(MAX_BUNDLE_BYTES)) for _ in range(count)
        )
        r.end()
        return cls(members, bool(last))


def welcome_frames(members: Iterable[Member]) -> bytes:
    """WELCOME in as many frames as the members need, the last one marked (section 2.3)."""
    pages: list[list[Member]] = [[]]
    room = MAX_FRAME_BYTES - 4  # type, last, count
    for member in members:
        size = SESSION_ID_BYTES + 2 + len(member.bundle)
        if size > room:
            pages.append([])
            room = MAX_FRAME_BYTES - 4
        pages[-1].append(member)
        room -= size
    return b"".join(Welcome(tuple(page), last=page is pages[-1]).serialize() for page in pages)


@dataclass(frozen=True)
class Add:
    """Relay → the others: a member came, or has a new bundle.  session_id[16] ‖ bundle u16."""

    session_id: bytes
    bundle: bytes

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(FrameType.ADD, self.session_id + prefixed(self.bundle))

    @classmethod
    def parse(cls, body: bytes) -> Add:
        """Raises WireError."""
        r = Reader(body)
        session_id, bundle = r.fixed(SESSION_ID_BYTES), r.prefixed(MAX_BUNDLE_BYTES)
        r.end()
        return cls(session_id, bundle)


@dataclass(frozen=True)
class Del:
    """Relay → the others: a member is gone.  session_id[16] ‖ reason u8."""

    session_id: bytes
    reason: int  # one of LeaveReason; an unknown one is kept as it is

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(FrameType.DEL, self.session_id + u8(self.reason))

    @classmethod
    def parse(cls, body: bytes) -> Del:
        """Raises WireError."""
        r = Reader(body)
        session_id, reason = r.fixed(SESSION_ID_BYTES), r.u8()
        r.end()
        return cls(session_id, reason)


@dataclass(frozen=True)
class Rebundle:
    """Client → relay: my new bundle, same session_id.  bundle u16."""

    bundle: bytes

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(FrameType.REBUNDLE, prefixed(self.bundle))

    @classmethod
    def parse(cls, body: bytes) -> Rebundle:
        """Raises WireError."""
        r = Reader(body)
        bundle = r.prefixed(MAX_BUNDLE_BYTES)
        r.end()
        return cls(bundle)


@dataclass(frozen=True)
class Broadcast:
    """Client → relay → the whole room, the sender too, byte for byte.  The body is the payload."""

    payload: bytes

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(FrameType.BROADCAST, self.payload)

    @classmethod
    def parse(cls, body: bytes) -> Broadcast:
        """Raises TooLarge over MAX_PAYLOAD_BYTES."""
        if len(body) > MAX_PAYLOAD_BYTES:
            raise TooLarge(f"a payload of {len(body)} bytes, at most {MAX_PAYLOAD_BYTES}")
        return cls(body)


@dataclass(frozen=True)
class Direct:
    """Client → relay → one member, byte for byte.  recipient's session_id[16] ‖ payload."""

    session_id: bytes
    payload: bytes

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(FrameType.DIRECT, self.session_id + self.payload)

    @classmethod
    def parse(cls, body: bytes) -> Direct:
        """Raises Malformed."""
        r = Reader(body)
        return cls(r.fixed(SESSION_ID_BYTES), r.rest())


@dataclass(frozen=True)
class Ping:
    """Either side: answer with a PONG of the same u64."""

    token: int
    TYPE: ClassVar[FrameType] = FrameType.PING

    def serialize(self) -> bytes:
        """The whole frame."""
        return frame(self.TYPE, u64(self.token))

    @classmethod
    def parse(cls, body: bytes) -> Ping:
        """Raises Malformed."""
        r = Reader(body)
        token = r.u64()
        r.end()
        return cls(token)


@dataclass(frozen=True)
class Pong(Ping):
    """The answer to a PING."""

    TYPE: ClassVar[FrameType] = FrameType.PONG


@dataclass(frozen=True)
class Error:
    """Relay → client, before it closes.  code u8 ‖ text u16 (UTF-8, at most 512 bytes)."""

    code: int  # one of ErrorCode; an unknown one is kept as it is
    text: str

    def serialize(self) -> bytes:
        """The whole frame; a text that is too long is cut between two characters."""
        text = self.text.encode("utf-8", "replace")[:MAX_ERROR_TEXT_BYTES]
        text = text.decode("utf-8", "ignore").encode()
        return frame(FrameType.ERROR, u8(self.code) + prefixed(text))

    @classmethod
    def parse(cls, body: bytes) -> Error:
        """Raises WireError."""
        r = Reader(body)
        code, text = r.u8(), r.prefixed(MAX_ERROR_TEXT_BYTES)
        r.end()
        try:
            return cls(code, text.decode())
        except UnicodeDecodeError as exc:
            raise Malformed("the text of an error is no UTF-8") from exc


def join_proof(
    password: bytes, nonce: bytes, room_tag: bytes, session_id: bytes, bundle: bytes
) -> bytes:
    """HMAC-SHA256(password, "join" ‖ nonce ‖ room_tag ‖ session_id ‖ H("bundle", bundle)).

    Args:
        password: the relay's password, UTF-8 in NFC, not empty.
        nonce: HELLO's 32 bytes.
        room_tag, session_id: 16 bytes each.
        bundle: as carried in JOIN.

    Returns:
        32 bytes.  Compare with hmac.compare_digest.
    """
    body = Label.JOIN + nonce + room_tag + session_id + H(Label.BUNDLE, bundle)
    return hmac.digest(password, body, "sha256")
