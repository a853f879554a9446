"""The chain's store beside plain SQLite: space, appends, verification, search.

    python benchmarks/bench_chain.py [--blocks 1000000] [--repeats 5] [--folder F]

Appends are measured alternating with inserts of rows of the same sizes into a plain SQLite table
under the same pragmas (WAL, synchronous=FULL, secure_delete, exclusive), on the same disk: one
block a transaction, and 64.  Sent blocks are mined besides (256 hashes each, on average), which
plain SQLite has no counterpart of; so they have a line of their own.

The store to verify and search holds messages of 100 bytes that one author signed, appended in large
groups.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from blockchain import Blockchain, BlockType, Draft  # noqa: E402
from chat_history import history  # noqa: E402
from chat_messages import Bundle, Entry, EntryKind, Event, EventKind  # noqa: E402
from crypto_utils import (  # noqa: E402
    EncryptionManager,
    Identity,
    Keystore,
    RoomSecret,
    SigningKey,
)

NOW_MS = 1_700_000_000_000
TEXT = "message {:07}: " + "the quick brown fox jumps over the lazy dog and the ship's cat".ljust(
    83, "."
)
assert len(TEXT.format(1)) == 100
SEARCHED = 100_000  # messages


class Author:
    """Somebody whose messages fill the store."""

    def __init__(self) -> None:
        self.room = RoomSecret.open_room("lobby")
        self.key, csk = SigningKey.generate(), SigningKey.generate().public
        sek = EncryptionManager().get_public_key()
        identity = Identity.generate()
        self.bundle = Bundle.create(
            identity,
            self.room,
            "bob",
            self.key,
            1,
            sek,
            bytes(16),
            csk,
        )
        self.last = bytes(32)

    def draft(self, seq: int) -> Draft:
        """The next message, received."""
        session_id, zeros = self.bundle.session_id, bytes(32)
        text = TEXT.format(seq).encode()
        entry = Entry.create(
            EntryKind.CHAT, self.room.tag, session_id, seq, self.last, zeros, NOW_MS + seq, text
        )
        self.last = entry.entry_id
        return Draft(BlockType.RECEIVED, entry.sign(self.key).serialize(), entry.entry_id)

    def introduction(self) -> Draft:
        """The event that says who this is."""
        event = Event(EventKind.BUNDLE, self.bundle.raw)
        return Draft(BlockType.EVENT, event.serialize(), event.event_id)


# --------------------------------------------------------------------------- appends


class Appends:
    """Seconds for one row, of each way, by name; all ways do the same number of rows in turn."""

    def __init__(self, folder: Path, keystore: Keystore, author: Author) -> None:
        self.chain = Blockchain.create(folder / "chain.db", keystore, NOW_MS)
        self.author = author
        self.seq = 0
        block = self.chain.add_block(author.draft(1), NOW_MS)
        self.sizes = (len(block.header), len(block.signature), len(block.body))
        self.plain = sqlite3.connect(folder / "plain.db", isolation_level=None)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self.plain.execute(f"PRAGMA {pragma}")
        self.plain.execute("PRAGMA secure_delete=ON")
        self.plain.execute(
            "CREATE TABLE rows (idx INTEGER PRIMARY KEY, header BLOB NOT NULL, "
            "signature BLOB NOT NULL, body BLOB NOT NULL)"
        )

    def insert(self, rows: int, group: int) -> float:
        """Plain SQLite."""
        made = [[os.urandom(size) for size in self.sizes] for _ in range(rows)]
        start = time.perf_counter()
        for at in range(0, rows, group):
            self.plain.execute("BEGIN IMMEDIATE")
            for row in made[at : at + group]:
                self.plain.execute("INSERT INTO rows VALUES (NULL, ?, ?, ?)", row)
            self.plain.execute("COMMIT")
        return (time.perf_counter() - start) / rows

    def append(self, rows: int, group: int, kind: BlockType) -> float:
        """The chain."""
        drafts = []
        for _ in range(rows):
            self.seq += 1
            drafted = self.author.draft(self.seq)
            drafts.append(Draft(kind, drafted.record, drafted.entry_id))
        start = time.perf_counter()
        for at in range(0, rows, group):
            self.chain.append(drafts[at : at + group], NOW_MS)
        return (time.perf_counter() - start) / rows

    def close(self) -> None:
        """Both."""
        self.chain.close()
        self.plain.close()


def measure_appends(folder: Path, keystore: Keystore, author: Author, repeats: int) -> None:
    """Prints a line for each group size."""
    appends = Appends(folder, keystore, author)
    with closing(appends):
        for group, rows in ((1, 400), (64, 6_400)):
            ways: dict[str, Callable[[], float]] = {
                "plain SQLite": lambda r=rows, g=group: appends.insert(r, g),  # type: ignore[misc]
                "received": lambda r=rows, g=group: appends.append(r, g, BlockType.RECEIVED),  # type: ignore[misc]
                "sent": lambda r=rows, g=group: appends.append(r, g, BlockType.SENT),  # type: ignore[misc]
            }
            took: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(repeats):
                for name, way in ways.items():
                    took[name].append(way())
            plain = statistics.median(took["plain SQLite"])
            for name, seconds in took.items():
                middle = statistics.median(seconds)
                spread = f"{min(seconds) * 1e6:.0f}-{max(seconds) * 1e6:.0f}"
                print(
                    f"append, {group:2} a transaction, {name:12} {1 / middle:8.0f}/s "
                    f"{middle * 1e6:6.0f} µs ({spread})  {middle / plain:4.2f} ×"
                )


# --------------------------------------------------------------------------- a large store


def timed(work: Callable[[], object], repeats: int) -> str:
    """Median and spread in seconds."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return f"{statistics.median(took):6.2f} s ({min(took):.2f}-{max(took):.2f})"


def grow(chain: Blockchain, author: Author, until: int) -> None:
    """Appends messages until there are so many blocks."""
    while (size := chain.get_latest_block().index + 1) < until:
        seqs = range(size, min(until, size + 5_000))
        chain.append([author.draft(seq) for seq in seqs], NOW_MS + size)


def measure_store(
    path: Path, keystore: Keystore, author: Author, blocks: int, repeats: int
) -> None:
    """Prints space, search and verification."""
    searched = min(SEARCHED, blocks)
    with closing(Blockchain.create(path, keystore, NOW_MS)) as chain:
        chain.add_block(author.introduction(), NOW_MS)
        grow(chain, author, searched)
    size = path.stat().st_size
    print(f"space: {size / searched:.0f} bytes for a message of 100 bytes")
    with closing(Blockchain.open(path, keystore)) as chain:
        needles = {"rare": f"{searched - 1:07}", "in none": "nowhere to be found"}
        for name, needle in needles.items():
            took = timed(lambda needle=needle: history(chain, 20, needle), repeats)  # type: ignore[misc]
            print(f"history --find over {searched} messages, a text that is {name:8} {took}")
        grow(chain, author, blocks)
    with closing(Blockchain.open(path, keystore)) as chain:
        took = timed(lambda: chain.verify(signatures=False), repeats)
        print(f"verify {blocks} blocks: headers, links, bodies, head signature {took}")
        few = blocks - min(blocks, 20_000)
        took = timed(lambda: chain.verify(start=few), 1)
        print(f"verify the last {blocks - few} of them with every signature    {took}")


def main() -> None:
    """Prints a small table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    version = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    print(f"chainroom {version}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    keystore, author = Keystore.generate(), Author()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure_appends(Path(folder), keystore, author, options.repeats)
        measure_store(Path(folder) / "large.db", keystore, author, options.blocks, options.repeats)


if __name__ == "__main__":
    main()
