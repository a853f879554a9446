"""The harnesses of `fuzz.py` hold over their seeds and what is near one of them: a short run,
always the same, so that none of them rots.  `make fuzz` is the long one.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from readers import HARNESSES, Harness

# Of a reader's memory, beyond its bytes: caches of modules and of the library.
SPARE_BYTES = 4 << 20

harnesses = pytest.mark.parametrize("harness", HARNESSES.values(), ids=HARNESSES)


def near(seed: bytes, most: int) -> Iterator[bytes]:
    """Longer by a byte; cut and changed at each byte, or if those are too many at every n-th: one
    bit, and four bytes as a huge number."""
    yield seed + b"\0"
    step = -(-3 * len(seed) // most) or 1
    for at in range(0, len(seed), step):
        yield seed[:at]
        yield seed[:at] + bytes((seed[at] ^ 1 << at % 8,)) + seed[at + 1 :]
        yield seed[:at] + b"\xff\xff\xff\xff" + seed[at + 4 :]


@harnesses
def test_a_reader_takes_its_seeds_and_what_is_near_one(harness: Harness) -> None:
    seeds = harness.seeds()
    for data in seeds[:10]:
        harness.read(data)
    for data in near(seeds[0], harness.near):
        harness.read(data)


@harnesses
def test_a_length_that_lies_takes_no_memory(harness: Harness) -> None:
    seed = harness.seeds()[0]
    lying = [seed[:at] + b"\xff" * 4 + seed[at + 4 :] for at in range(0, min(len(seed), 64), 4)]
    harness.read(seed)  # what is loaded once
    tracemalloc.start()
    try:
        for data in lying:
            harness.read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < SPARE_BYTES + 40 * len(seed)


def test_a_seed_is_no_longer_than_what_is_tried() -> None:
    for harness in HARNESSES.values():
        assert all(len(seed) <= harness.max_bytes for seed in harness.seeds()), harness.name
