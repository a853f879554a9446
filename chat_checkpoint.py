"""What a chain up to one of its blocks amounts to, noted beside it so that a start need not read
all of it.

What lives here: the note's bytes and where it is kept.  What it does not know: how a chain is
verified or counted, which profile it belongs to.

    note = Checkpoint.read(chain, keystore.chain_id)   # None: there is none that fits
    chain.append([], now_ms, [note.row()])

A note is trusted for saving time alone.  It is sealed under the chain's data key, so nobody else
can write one; an older one, put back, is as true as it was; one that does not fit the chain, or
cannot be read, is none.  What stands before its block is not looked at by a start that uses it, so
whoever uses it verifies the whole chain as well, in the background.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from blockchain import Blockchain, SideRow, StoreUnreadable
from chat_wire import Malformed, Reader, WireError, prefixed, u8, u32, u64

__all__ = ["CHECKPOINT_TABLE", "MAX_PAST_BYTES", "Checkpoint"]

CHECKPOINT_TABLE = "checkpoint"  # one row, with an empty key
# 16,000 feeds of a large room take 3 MB.  What is more is left out, and read from the chain again.
MAX_PAST_BYTES = 8 * 1024 * 1024
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A chain up to block `index`.

    version u8 = 1 ‖ chain_id[16] ‖ index u64 ‖ hash[32] ‖ coins u64 ‖ count u32 ‖ evidence files:
    name (u16 length) ‖ size u64 ‖ past, all that is left.
    """

    chain_id: bytes
    index: int
    hash: bytes  # of that block
    coins: int  # in it and in the chains before it, which are in these files
    evidence: tuple[tuple[str, int], ...]  # name, size
    past: bytes = field(repr=False)  # `Past.serialize`; empty: not known

    def serialize(self) -> bytes:
        """The row's value."""
        head = u8(_FORMAT) + self.chain_id + u64(self.index) + self.hash + u64(self.coins)
        files = [prefixed(name.encode()) + u64(size) for name, size in self.evidence]
        past = self.past if len(self.past) <= MAX_PAST_BYTES else b""
        return head + u32(len(files)) + b"".join(files) + past

    @classmethod
    def parse(cls, data: bytes) -> Checkpoint:
        """Raises WireError."""
        r = Reader(data)
        if (version := r.u8()) != _FORMAT:
            raise Malformed(f"unknown version {version} of a checkpoint")
        chain_id, index, block_hash, coins = r.fixed(16), r.u64(), r.fixed(32), r.u64()
        files = tuple((r.prefixed().decode("utf-8", "replace"), r.u64()) for _ in range(r.u32()))
        return cls(chain_id, index, block_hash, coins, files, r.rest())

    def row(self) -> SideRow:
        """To be appended to its chain."""
        return SideRow(CHECKPOINT_TABLE, b"", self.serialize())

    @classmethod
    def read(cls, chain: Blockchain, chain_id: bytes) -> Checkpoint | None:
        """The note beside this chain, if it is about this chain as it is.

        Args:
            chain_id: of the chain that it should be.
        """
        with suppress(StoreUnreadable, WireError):
            value = chain.side(CHECKPOINT_TABLE).get(b"")
            note = cls.parse(value) if value else None
            if note and note.chain_id == chain_id and chain.hash_at(note.index) == note.hash:
                return note
        return None
