"""The table of blocks as SQLite has it: rows that may hold anything, and the blocks in them.

What lives here: each query of that table, and what a row must be to hold a block.  What it does not
know: what is written and when (`blockchain`), keys, which block is right (`chat_verdicts`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from chat_blocks import HEADER_BYTES, MAGIC, Block, BlockType
from chat_wire import Malformed
from crypto_utils import SIGNATURE_BYTES

__all__ = ["MAX_IDX", "SQLITE_ERRORS", "Row", "Rows", "is_whole", "parse_row"]

# idx, header, signature, body as SQLite has them: where a schema was changed, of any type.
Row = tuple[Any, Any, Any, Any]
# A message of SQLite's may quote damaged bytes, which Python then cannot decode; and where a
# damaged length is huge, it says that there is no memory.
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)
MAX_IDX = 2**63 - 1  # SQLite's integers


def is_whole(row: Row) -> bool:
    """Whether its parts have the types and sizes of a block's."""
    _, header, signature, body = row
    return (
        type(header) is type(signature) is type(body) is bytes
        and len(header) == HEADER_BYTES
        and len(signature) == SIGNATURE_BYTES
        and header.startswith(MAGIC)
    )


def parse_row(row: Row) -> Block:
    """Raises Malformed."""
    if not is_whole(row):
        raise Malformed("a row of other types or sizes than a block's")
    _, header, signature, body = row
    return Block.parse(header, body, signature)


class Rows:
    """The rows of a chain's blocks, to read.  Every method, and every step through a cursor, may
    raise SQLITE_ERRORS."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def block(self, index: int) -> Block | None:
        """The block there, verified or not; None: no such row.  Raises Malformed."""
        if not 0 <= index <= MAX_IDX:
            return None
        row: Row | None = self._select("WHERE idx = ?", index).fetchone()
        return parse_row(row) if row else None

    def first(self) -> Row | None:
        """The row of the lowest idx."""
        row: Row | None = self._select("ORDER BY idx LIMIT 1").fetchone()
        return row

    def last(self) -> Row | None:
        """The row of the highest idx."""
        row: Row | None = self._select("ORDER BY idx DESC LIMIT 1").fetchone()
        return row

    def following(self, index: int, limit: int) -> sqlite3.Cursor:
        """At most so many rows from that idx on."""
        return self._select("WHERE idx >= ? ORDER BY idx LIMIT ?", index, limit)

    def all_following(self, index: int) -> sqlite3.Cursor:
        """All rows from that idx on; from 0 on, those with an idx that is none too.

        What is there is found, even if the tree that leads to it is damaged: the plus makes SQLite
        go through all rows.
        """
        if index == 0:
            return self._select("ORDER BY idx")
        return self._select("WHERE +idx >= ? ORDER BY idx", index)

    def of_types(
        self, types: Sequence[BlockType], start: int, *, newest_first: bool
    ) -> sqlite3.Cursor:
        """The rows with a header of these types, from that idx on."""
        self._check_path(start)
        kinds = ",".join(f"x'{kind:02x}'" for kind in types)
        order = "DESC" if newest_first else "ASC"
        wanted = f"WHERE idx >= ? AND substr(header, 5, 1) IN ({kinds}) ORDER BY idx {order}"
        return self._select(wanted, min(start, MAX_IDX))

    def forgetting(self, after: int) -> sqlite3.Cursor:
        """The rows of forget blocks behind that idx, found as by `all_following`."""
        forget = MAGIC + bytes((BlockType.FORGET,))
        return self._select(
            "WHERE +idx > ? AND substr(header, 1, 5) = ? ORDER BY idx", after, forget
        )

    def entry_ids(self, kind: BlockType, start: int, before: int) -> set[bytes]:
        """The different entry_ids of the blocks of a type, with start <= idx < before."""
        self._check_path(start)
        rows = self._db.execute(
            "SELECT DISTINCT substr(header, 103, 32) FROM blocks NOT INDEXED "
            "WHERE idx >= ? AND idx < ? AND substr(header, 5, 1) = ?",
            (start, before, bytes((kind,))),
        )
        return {entry_id for (entry_id,) in rows}

    def _check_path(self, index: int) -> None:
        """Where the tree is damaged that leads to a row, SQLite begins behind rows that are there.
        From 0 on, a verification begins as well, and tells."""
        if index > 0 and not self._select("WHERE idx = ?", min(index, MAX_IDX)).fetchone():
            last = self.last()
            if last and last[0] >= index:
                raise sqlite3.DatabaseError(f"block {index} cannot be found")

    def _select(self, rest: str, *values: bytes | int) -> sqlite3.Cursor:
        # NOT INDEXED: an index that somebody added could have some of the rows only.  `rest` is
        # ours, never from outside.
        select = f"SELECT idx, header, signature, body FROM blocks NOT INDEXED {rest}"  # noqa: S608
        return self._db.execute(select, values)
