"""A chain's file under torture: nothing that is done to it goes unseen, and no crash is tampering.

Each test has a small run in the normal suite and the long one under `make torture`: every byte of a
chain of 200 blocks, 10,000 changes, 1,000 kills.  That changes are found is known from what was
changed, not from a second opinion (that is `test_chat_verdicts`'s).
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from chains import PARTS, ROOT, flipped, held_in, is_anywhere, keystore

from blockchain import Block, Blockchain, BlockType, Draft, Head, SideRow, StoreUnreadable
from crypto_utils import BadSignature, IdentityPublic, VerifyKey

pytestmark = pytest.mark.timeout(900)

NOW = 1_700_000_000_000  # milliseconds
KINDS = (BlockType.SENT, BlockType.RECEIVED, BlockType.EVENT, BlockType.CONTROL)

Row = tuple[int, bytes, bytes, bytes]


def torture(small: int, large: int) -> pytest.MarkDecorator:
    """How much of it; the large run is for `make torture`."""
    return pytest.mark.parametrize(
        "amount", [small, pytest.param(large, marks=pytest.mark.torture)]
    )


@contextmanager
def remembered_signatures() -> Iterator[None]:
    """Each signature is checked once: whether it fits depends on nothing else, and they would take
    nearly all the time."""

    @cache
    def fits(verify: Callable[..., None], key: str, *signed: bytes) -> bool:
        try:
            verify(keys[key], *signed)
        except BadSignature:
            return False
        return True

    def remembering(verify: Callable[..., None], name: str) -> Callable[..., None]:
        def verify_once(self: Any, *signed: bytes) -> None:
            key = getattr(self, name).hex()
            keys[key] = self
            if not fits(verify, key, *signed):
                raise BadSignature

        return verify_once

    keys: dict[str, Any] = {}
    with (
        mock.patch.object(VerifyKey, "verify", remembering(VerifyKey.verify, "public")),
        mock.patch.object(IdentityPublic, "verify", remembering(IdentityPublic.verify, "spki")),
    ):
        yield


def grow(chain: Blockchain, rng: random.Random, until: int, *, forgets: bool = True) -> None:
    """More of all kinds of blocks, some of them erased."""
    while (index := chain.head().index + 1) < until:
        if forgets and index % 20 == 19:
            erasable = [block.index for block, _ in chain.records(*KINDS[:2])]
            chain.forget(rng.choice(erasable), NOW + index)
        else:
            kind = KINDS[0] if index == 1 else rng.choice(KINDS)
            text = rng.randbytes(rng.choice((1, 30, 60)))
            side = [SideRow("members", b"%d" % (index % 5), text)]
            chain.append([Draft(kind, text, rng.randbytes(32))], NOW + index, side)


def rows_in(path: Path) -> list[Row] | None:
    """As SQLite gives them to anybody; None: it cannot."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT * FROM blocks ORDER BY idx").fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def judged(path: Path, head: Head) -> str:
    """The verdict on a file, beside a head that a witness holds."""
    try:
        with closing(Blockchain.open(path, keystore())) as chain:
            verdict = chain.verify()
            quick = chain.verify(signatures=False)
            if verdict.ok:
                assert quick.ok
                verdict = chain.compare(head, "bob")
            elif verdict != quick:
                assert str(verdict).startswith("FORGED@")
            return str(verdict)
    except StoreUnreadable:
        return "UNREADABLE"


# --------------------------------------------------------------------------------------------------
# every byte


def expected(rows: list[Row], i: int, part: str, at: int) -> set[str]:
    """The verdicts that a change of this byte may have."""
    header = rows[i][1]
    if header[4] == BlockType.FORGET and part != "body":  # then what it erased has no excuse
        return {f"EDITED@{int.from_bytes(header[142:], 'big')}"}
    if part == "body":
        return {f"EDITED@{i}"}
    if part == "signature":
        return {f"FORGED@{i}"}
    if at < 4:  # magic
        return {f"UNREADABLE@{i}"}
    if at == 4:  # type: unknown, a genesis elsewhere, or another that fits its place
        return {f"UNREADABLE@{i}", f"REORDERED@{i}", f"EDITED@{i}", f"FORGED@{i}"}
    if 22 <= at < 30:  # index
        return {f"REORDERED@{i}"}
    if 70 <= at < 102:  # body_hash
        return {f"EDITED@{i}"}
    return {f"FORGED@{i}" if i == len(rows) - 1 else f"EDITED@{i}"}


@torture(40, 200)
def test_no_byte_of_a_file_can_be_changed_unseen(tmp_path: Path, amount: int) -> None:
    """All of them in the long run, one in 41 else, a bit of each: the file's own structure too.

    Whatever the byte, either every row is as it was or the verdict is not OK beside the witness's
    head; "tampered" is said only where a row is not as it was; a change within a block has that
    block's verdict.
    """
    rng = random.Random(amount)
    path = tmp_path / "chain.db"
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        grow(chain, rng, amount)
        head = chain.head()
    content, rows = path.read_bytes(), rows_in(path)
    assert rows is not None
    assert len(rows) == amount
    places: dict[int, tuple[int, str, int]] = {}  # offset in the file → block, part, offset in it
    for i, (_, *parts) in enumerate(rows):
        start = content.index(b"".join(parts))
        for part, held in zip(PARTS, parts, strict=True):
            places |= {start + at: (i, part, at) for at in range(len(held))}
            start += len(held)
    seen: Counter[str] = Counter()
    step = 1 if amount == 200 else 41
    with remembered_signatures():
        assert judged(path, head) == "OK"
        for offset in range(rng.randrange(step), len(content), step):
            path.write_bytes(flipped(content, offset, rng.randrange(8)))
            verdict = judged(path, head)
            if offset in places:
                assert verdict in expected(rows, *places[offset]), (offset, places[offset])
            else:
                found = rows_in(path)
                assert verdict != "OK" or found == rows, offset
                assert verdict.startswith(("OK", "UNREADABLE")) or found != rows, offset
            seen[verdict.split("@")[0]] += 1
            for leftover in tmp_path.glob("chain.db-*"):
                leftover.unlink()
    assert {"OK", "UNREADABLE", "REORDERED", "EDITED", "FORGED"} <= set(seen), seen


# --------------------------------------------------------------------------------------------------
# any change


def forgets_of(rows: list[Row]) -> dict[int, int]:
    """Index of an erased block → of the forget block that says so."""
    forgets = (row for row in rows if row[1][4] == BlockType.FORGET)
    return {int.from_bytes(row[1][142:], "big"): row[0] for row in forgets}


class Changes:
    """What somebody may do to rows, each returning the verdict that follows from it; `*@17` is any
    at that block."""

    def __init__(self, rows: list[Row], others: list[Row], rng: random.Random) -> None:
        self.rows, self.others, self.rng = rows, others, rng
        self.size = len(rows)
        self.forgets = forgets_of(rows)

    def found(self, what: str, index: int, changed: Container[int]) -> str:
        """The verdict, unless one of the changed rows was the forget block of an earlier one."""
        orphans = [erased for erased, forget in self.forgets.items() if forget in changed]
        if orphans and min(orphans) < index:
            return f"EDITED@{min(orphans)}"
        return f"{what}@{index}"

    def edit(self, db: sqlite3.Connection) -> str:
        """Some bytes of a part."""
        rng, i = self.rng, self.rng.randrange(self.size)
        part = rng.choice(list(PARTS))
        old: bytes = self.rows[i][1:][PARTS[part] - 1]
        at = rng.randrange(len(old))
        end = min(len(old), at + rng.choice((1, 1, 2, 8)))
        new = bytes(byte ^ rng.randrange(1, 256) for byte in old[at:end])
        changed = old[:at] + new + old[end:]
        db.execute(f"UPDATE blocks SET {part} = ? WHERE idx = ?", (changed, i))
        if part == "body":
            return f"EDITED@{i}"
        return self.found("*" if part == "header" else "FORGED", i, {i})

    def value(self, db: sqlite3.Connection) -> str:
        """A part becomes what is no blob, or of another size."""
        i, part = self.rng.randrange(self.size), self.rng.choice(list(PARTS))
        new = self.rng.choice(["text", 5, 0.5, b"", bytes(63)])
        db.execute(f"UPDATE blocks SET {part} = ? WHERE idx = ?", (new, i))
        if part == "body" and isinstance(new, bytes):
            return f"EDITED@{i}" if any(self.rows[i][3]) else "OK"
        return self.found("UNREADABLE", i, {i})

    def swap(self, db: sqlite3.Connection) -> str:
        """Two rows, or two bodies, or two signatures."""
        i, j = sorted(self.rng.sample(range(self.size), 2))
        columns, what = self.rng.choice(
            [("header, signature, body", "REORDERED"), ("body", "EDITED"), ("signature", "FORGED")]
        )
        select = f"SELECT {columns} FROM blocks WHERE idx = ?"
        one, other = (db.execute(select, (n,)).fetchone() for n in (i, j))
        marks = ", ".join("?" * len(one))
        for n, new in ((i, other), (j, one)):
            db.execute(f"UPDATE blocks SET ({columns}) = ({marks}) WHERE idx = ?", (*new, n))
        if columns == "body":
            return f"EDITED@{i}" if any(one[0]) or any(other[0]) else "OK"
        return self.found(what, i, {i, j})

    def delete(self, db: sqlite3.Connection) -> str:
        """Some rows that are not the last."""
        i = self.rng.randrange(self.size - 1)
        end = min(self.size - 1, i + self.rng.choice((1, 1, 2, 30)))
        db.execute("DELETE FROM blocks WHERE idx >= ? AND idx < ?", (i, end))
        return self.found("MISSING", i, range(i, end))

    def truncate(self, db: sqlite3.Connection) -> str:
        """The last rows go: the witness knows of them."""
        end = self.rng.randrange(1, self.size)
        db.execute("DELETE FROM blocks WHERE idx >= ?", (end,))
        return self.found("TRUNCATED", end, range(end, self.size))

    def older_copy(self, db: sqlite3.Connection) -> str:
        """A copy from earlier, on which other messages followed: every signature is right."""
        end = self.rng.randrange(1, len(self.others) + 1)
        db.execute("DELETE FROM blocks")
        db.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", self.others[:end])
        forgets = forgets_of(self.others[:end])
        for idx, _, _, body in self.others[:end]:
            if not any(body) and idx not in forgets:  # erased later, as this copy is cut
                return f"EDITED@{idx}"
        return f"TRUNCATED@{end}" if end < self.size else f"REWRITTEN@{self.size - 1}"

    def splice(self, db: sqlite3.Connection) -> str:
        """Rows from that other copy take the place of ours: they follow another block."""
        pairs = zip(self.rows, self.others, strict=False)
        fork = next(row[0] for row, other in pairs if row[1] != other[1])
        i = self.rng.randrange(fork + 1, self.size)
        end = self.rng.randrange(i + 1, self.size + 1)
        db.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", self.others[i:end])
        rows = [*self.rows[:i], *self.others[i:end], *self.rows[end:]]
        forgets = forgets_of(rows)
        for idx, _, _, body in rows[: i - 1]:
            if not any(body) and idx not in forgets:
                return f"EDITED@{idx}"
        return f"EDITED@{i - 1}"


@pytest.mark.parametrize("forgets", [True, False], ids=["some erased", "none erased"])
@torture(300, 5_000)
def test_whatever_is_done_to_rows_is_found_with_its_verdict(
    tmp_path: Path, amount: int, forgets: bool
) -> None:
    """Edits, values that are none, swaps, deletions, truncations, older copies: in memory, each on
    the whole chain again, and the verdict is the one that follows from what was done."""
    rng = random.Random(amount)
    path, copy = tmp_path / "chain.db", tmp_path / "copy.db"
    with closing(Blockchain.create(path, keystore(), NOW)) as chain:
        grow(chain, rng, 60, forgets=forgets)
    shutil.copy(path, copy)
    with closing(Blockchain.open(copy, keystore())) as chain:
        grow(chain, rng, 110, forgets=forgets)
    with closing(Blockchain.open(path, keystore())) as chain:
        grow(chain, rng, 100, forgets=forgets)
        head = chain.head()
    rows, others = rows_in(path), rows_in(copy)
    assert rows is not None
    assert others is not None
    changes = Changes(rows, others, rng)
    seen: Counter[str] = Counter()
    with remembered_signatures(), closing(sqlite3.connect(path)) as source:
        db = sqlite3.connect(":memory:", isolation_level=None)
        source.backup(db)
        for _ in range(amount):
            change = rng.choice(
                [
                    changes.edit,
                    changes.value,
                    changes.swap,
                    changes.delete,
                    changes.truncate,
                    changes.older_copy,
                    changes.splice,
                ]
            )
            db.execute("SAVEPOINT before")
            wanted = change(db)
            chain = Blockchain(db, keystore())
            verdict = chain.verify()
            if verdict.ok:
                row = db.execute("SELECT * FROM blocks ORDER BY idx DESC LIMIT 1").fetchone()
                chain._last = Block.parse(row[1], row[3], row[2])
                verdict = chain.compare(head, "bob")
            assert verdict.sentence
            if wanted.startswith("*"):
                assert not verdict.ok
                wanted = wanted.replace("*", verdict.finding.name)
            assert str(verdict) == wanted, change.__name__
            seen[verdict.finding.name] += 1
            db.execute("ROLLBACK TO before")
        db.close()
    expected = {"MISSING", "UNREADABLE", "REORDERED", "EDITED", "FORGED", "TRUNCATED", "REWRITTEN"}
    assert expected <= set(seen), seen


# --------------------------------------------------------------------------------------------------
# honest crashes

NURSERY = """
import os, random, sys
from pathlib import Path
from blockchain import Blockchain, BlockType, Draft, SideRow
from crypto_utils import Keystore

path, keystore = Path(sys.argv[1]), Keystore.parse(Path(sys.argv[2]).read_bytes())

def live(rng):
    chain = Blockchain.open(path, keystore)
    os.write(1, b"pid %d\\n" % os.getpid())
    while True:
        if rng.randrange(8) == 0:  # say what will be erased, then that it is
            index = chain.head().index
            block = chain.block(rng.randrange(max(1, index - 20), index + 1))
            if block.type is BlockType.SENT and not block.is_erased:
                os.write(1, b"erase %d %s\\n" % (block.index, block.body.hex().encode()))
                chain.forget(block.index, 0)
                os.write(1, b"erased %d\\n" % block.index)
            continue
        if rng.randrange(40) == 0:
            chain.close()
            chain = Blockchain.open(path, keystore)
        drafts = [
            Draft(BlockType.SENT, b"x" * rng.choice((30, 300, 5000)), os.urandom(32))
            for _ in range(rng.randrange(1, 4))
        ]
        last = chain.head().index + len(drafts)
        blocks = chain.append(drafts, 0, [SideRow("table", b"last", b"%d" % last)])
        for block in blocks:
            os.write(1, b"block %d %s\\n" % (block.index, block.calculate_hash().hex().encode()))

for line in sys.stdin:  # a life for each line, which is its seed
    child = os.fork()
    if child == 0:
        live(random.Random(int(line)))
    os.waitpid(child, 0)
    os.write(1, b"gone\\n")
"""


class Nursery:
    """Writers that are killed at any moment."""

    def __init__(self, path: Path, keys: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(path), str(keys)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._child = 0

    def live(self, seed: int, for_s: float) -> list[list[str]]:
        """What a writer said until it was killed, by its words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % seed)
        said, killed_at = b"", 0.0
        while not said.endswith(b"gone\n"):
            if not self._child and said.startswith(b"pid ") and b"\n" in said:
                self._child = int(said.split()[1])
                killed_at = time.monotonic() + for_s
            left_s = max(0.0, killed_at - time.monotonic()) if self._child else None
            if select.select([self._process.stdout], [], [], left_s)[0]:
                said += os.read(self._process.stdout.fileno(), 1 << 20)
            if self._child and time.monotonic() >= killed_at:
                os.kill(self._child, signal.SIGKILL)
                self._child, killed_at = 0, float("inf")
                said += self._rest()
        return [line.split() for line in said.decode().splitlines()[1:-1]]

    def _rest(self) -> bytes:
        assert self._process.stdout is not None
        rest = b""
        while not rest.endswith(b"gone\n"):
            rest += os.read(self._process.stdout.fileno(), 1 << 20)
        return rest

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
@torture(25, 1_000)
def test_a_writer_killed_at_any_moment_loses_nothing_and_tampers_with_nothing(
    tmp_path: Path, amount: int
) -> None:
    """It appends, erases, and reopens.  What it said was written is there, in its place, or erased
    as it was told to; a group of blocks and its side row are there as a whole or not at all."""
    rng = random.Random(amount)
    path, keys = tmp_path / "chain.db", tmp_path / "keys"
    keys.write_bytes(keystore().serialize())
    Blockchain.create(path, keystore(), NOW).close()
    hashes: dict[int, str] = {}
    erased: set[int] = set()
    checked, seen = 0, Counter[str]()
    nursery = Nursery(path, keys)

    def is_enough() -> bool:
        return seen["block"] > amount and seen["erased"] > amount / 20

    try:
        # More, where a busy machine lets hardly anybody live long enough to write.
        for life in takewhile(lambda life: life < amount or not is_enough(), count()):
            said = nursery.live(life, rng.choice((0.0, 0.002, rng.random() * 0.05)))
            gone: dict[int, bytes] = {}  # in this life, maybe
            for word, number, *more in said:
                seen[word] += 1
                if word == "block":
                    hashes[int(number)] = more[0]
                elif word == "erase":
                    gone[int(number)] = bytes.fromhex(more[0])
                else:
                    erased.add(int(number))
            with closing(Blockchain.open(path, keystore())) as chain:
                verdict = chain.verify(signatures=False, start=checked)
                assert verdict.ok, verdict
                last = chain.head().index
                assert last >= max(hashes, default=0)
                for index in range(checked + 1, last + 1):
                    block_hash = chain.hash_at(index) or b""
                    assert hashes.get(index, block_hash.hex()) == block_hash.hex()
                if side := chain.side("table"):
                    written = chain.scan(BlockType.SENT, start=checked)
                    assert int(side[b"last"]) >= max((index for index, _, _ in written), default=0)
                now_erased = chain.erased() if gone else {}
                assert set(now_erased) >= (erased & set(gone))
                for index, body in gone.items():
                    assert is_anywhere(body, held_in(path)) is (index not in now_erased)
                checked = last
    finally:
        nursery.close()
    with closing(Blockchain.open(path, keystore())) as chain:
        assert str(chain.verify(signatures=amount < 100)) == "OK"
        assert set(chain.erased()) >= erased
        texts = [record for _, record in chain.records(BlockType.SENT)]
        assert len(texts) + len(chain.erased()) == len(chain.coins())
        assert len(chain.coins()) >= len(hashes)
