"""What a chain up to one of its blocks amounts to, noted beside it so that a start need not read
all of it.

What lives here: the note's bytes and where it is kept, and what it tells of the chain beside it.
What it does not know: how a chain is verified or counted, which profile it belongs to.

    note = Checkpoint.read(chain)                      # None: there is none of this chain
    verdict = verify(chain, note)                      # OK, EDITED@17, TRUNCATED@17, …
    chain.append([], now_ms, [note.row()])

A note saves a start from looking at what stands before its block, so whoever uses it for that
verifies the whole chain as well, in the background.  And it is evidence: it was committed after its
block, in the same file, so no crash and no copy of the whole file parts them.  If that block is
gone or is another, the chain was cut off or written anew, and the note was left.  It is sealed
under the chain's data key, so nobody else can write one; an older one, put back, is as true as it
was; one that was deleted or cannot be read is none, and nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from blockchain import Blockchain, Head, SideRow, StoreUnreadable, Verdict
from chat_wire import Malformed, Reader, WireError, prefixed, u8, u32, u64
from crypto_utils import SIGNATURE_BYTES, BadSignature

__all__ = ["CHECKPOINT_TABLE", "MAX_PAST_BYTES", "Checkpoint", "verify"]

CHECKPOINT_TABLE = "checkpoint"  # one row, with an empty key
# 16,000 feeds of a large room take 3 MB.  What is more is left out, and read from the chain again.
MAX_PAST_BYTES = 8 * 1024 * 1024
_FORMAT = 3
_WHO = "this profile's own note"  # who holds the head that is in one, as a person is told


@dataclass(frozen=True)
class Checkpoint:
    """A chain up to one of its blocks.

    version u8 = 3 ‖ chain_id[16] ‖ index u64 ‖ hash[32] ‖ the block's signature[64] ‖ coins u64 ‖
    count u32 ‖ evidence files: name (u16 length) ‖ size u64 ‖ past, all that is left.
    """

    head: Head  # that block, as the last one
    coins: int  # in it and in the chains before it, which are in these files
    evidence: tuple[tuple[str, int], ...]  # name, size
    past: bytes = field(repr=False)  # `Past.serialize`; empty: not known

    def serialize(self) -> bytes:
        """The row's value."""
        head = self.head.chain_id + u64(self.head.index) + self.head.hash + self.head.signature
        files = [prefixed(name.encode()) + u64(size) for name, size in self.evidence]
        past = self.past if len(self.past) <= MAX_PAST_BYTES else b""
        counted = u64(self.coins) + u32(len(files)) + b"".join(files)
        return u8(_FORMAT) + head + counted + past

    @classmethod
    def parse(cls, data: bytes) -> Checkpoint:
        """Raises WireError."""
        r = Reader(data)
        if (version := r.u8()) != _FORMAT:
            raise Malformed(f"unknown version {version} of a checkpoint")
        head, coins = Head(r.fixed(16), r.u64(), r.fixed(32), r.fixed(SIGNATURE_BYTES)), r.u64()
        try:
            files = tuple((r.prefixed().decode(), r.u64()) for _ in range(r.u32()))
        except UnicodeDecodeError as exc:
            raise Malformed("a file's name is not UTF-8") from exc
        return cls(head, coins, files, r.rest())

    def row(self) -> SideRow:
        """To be appended to its chain."""
        return SideRow(CHECKPOINT_TABLE, b"", self.serialize())

    @classmethod
    def read(cls, chain: Blockchain) -> Checkpoint | None:
        """The note beside this chain, if it is about a chain of its chain_id, signed by its key."""
        with suppress(StoreUnreadable, WireError, BadSignature):
            value = chain.side(CHECKPOINT_TABLE).get(b"")
            note = cls.parse(value) if value else None
            if note and note.head.chain_id == chain.get_latest_block().chain_id:
                note.compare(chain)  # for its signature
                return note
        return None

    def compare(self, chain: Blockchain) -> Verdict:
        """What it says of that chain, which it was read beside: OK, TRUNCATED or REWRITTEN."""
        return chain.compare(self.head, _WHO)


def verify(
    chain: Blockchain,
    note: Checkpoint | None,
    *,
    signatures: bool = True,
    start: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """`Blockchain.verify`, and if that says OK, what the note says.  Raises StoreUnreadable."""
    verdict = chain.verify(signatures=signatures, start=start, progress=progress)
    if verdict.ok and note is not None:
        found = note.compare(chain)
        return verdict if found.ok else found
    return verdict
