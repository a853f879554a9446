"""What a block of a person's chain is: its layout, its mining, the genesis, a signed head.

What lives here: values, and which bytes each is; CHAIN_FORMAT.md 2 and 3.  What it does not know:
files and SQLite (`chat_rows`, `blockchain`), secret keys, when a chain is right (`chat_verdicts`).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from functools import cached_property

from chat_wire import H, Label, Malformed, Reader, prefixed, u64
from crypto_utils import IdentityPublic, VerifyKey

__all__ = [
    "BODY_HASH_AT",
    "CHAIN_ID_AT",
    "CHAIN_ID_BYTES",
    "DEFAULT_DIFFICULTY",
    "DIFFICULTY_AT",
    "ENTRY_ID_AT",
    "ERASABLE",
    "HEADER",
    "HEADER_BYTES",
    "INDEX_AT",
    "MAGIC",
    "NONCE_AT",
    "PREVIOUS_AT",
    "TIME_AT",
    "TYPE_AT",
    "Block",
    "BlockType",
    "Draft",
    "Genesis",
    "Head",
    "SideRow",
    "is_mined",
    "signed_part",
]

# Zero bits that the hash of every sent block begins with: the seed's "00" in hex, and never less.
DEFAULT_DIFFICULTY = 8
CHAIN_ID_BYTES = 16

MAGIC = b"CRB1"
# A header's fields, in the order of `Block`'s.
HEADER = struct.Struct(">4sBB16sQ32sQ32s32sQQ")
HEADER_BYTES = HEADER.size  # 150
# Where in a header they begin, for who goes through very many.
TYPE_AT, DIFFICULTY_AT, CHAIN_ID_AT, INDEX_AT, PREVIOUS_AT, TIME_AT = 4, 5, 6, 22, 30, 62
BODY_HASH_AT, ENTRY_ID_AT, NONCE_AT = 70, 102, 134
_MAX_NONCE = 2**64 - 1


class BlockType(IntEnum):
    """What a block's record is (CHAIN_FORMAT.md 3)."""

    GENESIS = 1  # a Genesis, in clear
    SENT = 2  # a signed chat entry of one's own; mined
    CONTROL = 3  # a signed audience entry of one's own
    RECEIVED = 4  # a signed entry of somebody else
    EVENT = 5  # an Event
    FORGET = 6  # refers_to = the index of a message whose body was erased


# Types whose body may be erased: what somebody wrote.
ERASABLE = (BlockType.SENT, BlockType.RECEIVED)


@dataclass(frozen=True)
class Draft:
    """What somebody wants appended."""

    type: BlockType
    record: bytes  # in clear
    entry_id: bytes  # 32 bytes: the entry's, or the event's
    refers_to: int = 0


@dataclass(frozen=True)
class SideRow:
    """A value that is kept beside the chain under a key, sealed; it replaces the one before, and an
    empty value removes it."""

    table: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Head:
    """The last block; the signature is CSK's over "block sig" ‖ chain_id ‖ index ‖ hash."""

    chain_id: bytes  # 16 bytes
    index: int
    hash: bytes  # 32 bytes
    signature: bytes  # 64 bytes

    def verify(self, chain_key: VerifyKey) -> None:
        """Raises BadSignature unless this CSK signed it, for that chain."""
        part = signed_part(self.chain_id, self.index, self.hash)
        chain_key.verify(self.signature, Label.BLOCK_SIG, part)


@dataclass(frozen=True)
class Block:
    """A header, its CSK signature and its body.

    header (150 bytes): magic "CRB1" ‖ type u8 ‖ difficulty u8 ‖ chain_id[16] ‖ index u64 ‖
    previous_hash[32] ‖ timestamp_ms u64 ‖ body_hash[32] ‖ entry_id[32] ‖ nonce u64 ‖ refers_to u64.
    """

    type: BlockType
    difficulty: int
    chain_id: bytes
    index: int
    previous_hash: bytes
    timestamp_ms: int
    body_hash: bytes
    entry_id: bytes
    nonce: int
    refers_to: int
    body: bytes = field(repr=False, default=b"")
    signature: bytes = field(repr=False, default=b"")

    @cached_property
    def header(self) -> bytes:
        """150 bytes."""
        return HEADER.pack(
            MAGIC,
            self.type,
            self.difficulty,
            self.chain_id,
            self.index,
            self.previous_hash,
            self.timestamp_ms,
            self.body_hash,
            self.entry_id,
            self.nonce,
            self.refers_to,
        )

    @classmethod
    def parse(cls, header: bytes, body: bytes = b"", signature: bytes = b"") -> Block:
        """A block from its stored parts; nothing is verified.  Raises Malformed."""
        if len(header) != HEADER_BYTES:
            raise Malformed(f"a header of {len(header)} bytes, expected {HEADER_BYTES}")
        magic, kind, *rest = HEADER.unpack(header)
        if magic != MAGIC:
            raise Malformed("not a block")
        known = _TYPES.get(kind)
        if known is None:
            raise Malformed(f"unknown type {kind}")
        # Not __init__, which takes four times as long: a search parses every block there is.
        block = cls.__new__(cls)
        vars(block).update(zip(_FIELDS, (known, *rest, body, signature, header), strict=True))
        return block

    @property
    def is_erased(self) -> bool:
        """Whether its body was overwritten with zeros; `verify` says whether that was right."""
        return self.type in ERASABLE and not self.body.strip(b"\0")

    def calculate_hash(self) -> bytes:
        """H("block", header), 32 bytes."""
        return H(Label.BLOCK, self.header)

    def mine_block(self, difficulty: int) -> Block:
        """This block with a nonce for which the hash begins with `difficulty` zero bits.

        The nonce and refers_to are the header's last 16 bytes, so all before is hashed once.
        """
        start = replace(self, difficulty=difficulty, nonce=0).header
        common = hashlib.sha256(Label.BLOCK + start[:NONCE_AT])
        tail, limit = start[NONCE_AT + 8 :], 1 << (256 - difficulty)
        # Whole zero bytes are compared first: that alone settles 255 attempts in 256.
        zeros = bytes(difficulty // 8)
        for nonce in range(_MAX_NONCE):
            attempt = common.copy()
            attempt.update(nonce.to_bytes(8, "big") + tail)
            digest = attempt.digest()
            if digest.startswith(zeros) and int.from_bytes(digest, "big") < limit:
                return replace(self, difficulty=difficulty, nonce=nonce)
        raise AssertionError("2^64 hashes did not suffice")


_TYPES = {int(kind): kind for kind in BlockType}
_FIELDS = (*(f.name for f in fields(Block)), "header")


@dataclass(frozen=True)
class Genesis:
    """The first block's body: whose chain this is, and what it follows.

    identity SPKI (u16) ‖ CSK[32] ‖ certificate[384] ‖ predecessor's chain_id[16] ‖ its index u64 ‖
    its hash[32] (zeros: none) ‖ finding (u16, UTF-8).
    certificate = IK's signature over "chain cert" ‖ chain_id ‖ CSK.
    """

    identity_spki: bytes
    chain_key: bytes
    certificate: bytes
    predecessor: tuple[bytes, int, bytes]  # chain_id, index, hash
    finding: str  # what was found wrong with the predecessor

    def serialize(self) -> bytes:
        """The body."""
        chain_id, index, block_hash = self.predecessor
        body = prefixed(self.identity_spki) + self.chain_key + self.certificate
        return body + chain_id + u64(index) + block_hash + prefixed(self.finding.encode())

    @classmethod
    def parse(cls, data: bytes) -> Genesis:
        """Raises WireError."""
        r = Reader(data)
        spki, key, certificate = r.prefixed(), r.fixed(32), r.fixed(384)
        predecessor = (r.fixed(CHAIN_ID_BYTES), r.u64(), r.fixed(32))
        finding = r.prefixed()
        r.end()
        try:
            return cls(spki, key, certificate, predecessor, finding.decode())
        except UnicodeDecodeError as exc:
            raise Malformed("the finding is not UTF-8") from exc

    def verify(self, chain_id: bytes) -> None:
        """Raises CryptoError unless the identity certified this key for this chain."""
        identity = IdentityPublic(self.identity_spki)
        identity.verify(self.certificate, Label.CHAIN_CERT, chain_id + self.chain_key)


def signed_part(chain_id: bytes, index: int, block_hash: bytes) -> bytes:
    """What CSK signs of a block, under `Label.BLOCK_SIG`: chain_id ‖ index u64 ‖ hash."""
    return chain_id + u64(index) + block_hash


def is_mined(difficulty: int, block_hash: bytes) -> bool:
    """Whether a hash has the zero bits that its header promises, and they are enough."""
    zero_bits = block_hash.startswith(bytes(difficulty // 8)) and (
        int.from_bytes(block_hash, "big") >> (256 - difficulty) == 0
    )
    return zero_bits and difficulty >= DEFAULT_DIFFICULTY
