"""chat_blocks: a block is its bytes and back, and its hash is what was mined for."""

from __future__ import annotations

import itertools
from contextlib import suppress

import make_vectors_chain as reference
import pytest
from chains import NOW, RECEIVED, VECTORS, draft, flipped, naive_hash, value
from hypothesis import given
from hypothesis import strategies as st

from blockchain import Block, Blockchain, BlockType, Genesis
from chat_blocks import DEFAULT_DIFFICULTY, HEADER_BYTES
from chat_wire import H, Label, Malformed, WireError

pytestmark = pytest.mark.timeout(60)
sizes = {"chain_id": 16, "previous_hash": 32, "body_hash": 32, "entry_id": 32}
numbers = {"index": 64, "timestamp_ms": 64, "nonce": 64, "refers_to": 64, "difficulty": 8}
blocks = st.builds(
    Block,
    type=st.sampled_from(BlockType),
    body=st.binary(max_size=9),
    signature=st.binary(max_size=9),
    **{name: st.binary(min_size=size, max_size=size) for name, size in sizes.items()},
    **{name: st.integers(0, 2**bits - 1) for name, bits in numbers.items()},
)


@given(block=blocks)
def test_a_block_is_its_header_body_and_signature_and_back(block: Block) -> None:
    assert len(block.header) == HEADER_BYTES
    assert Block.parse(block.header, block.body, block.signature) == block


@given(block=blocks, at=st.integers(0, HEADER_BYTES - 1), data=st.binary(max_size=4))
def test_any_bytes_are_a_header_or_malformed(block: Block, at: int, data: bytes) -> None:
    header = block.header[:at] + data + block.header[at + len(data) :]
    try:
        assert Block.parse(header).header == header
    except Malformed:
        assert header[:4] != b"CRB1" or header[4] not in set(BlockType) or len(header) != 150


@given(data=st.binary(max_size=200))
def test_a_header_of_another_size_is_malformed(data: bytes) -> None:
    if len(data) != HEADER_BYTES:
        with pytest.raises(Malformed, match=f"{len(data)} bytes"):
            Block.parse(data)


def zero_bits(digest: bytes) -> int:
    return len(f"1{int.from_bytes(digest, 'big'):0256b}".removeprefix("1").split("1")[0])


@given(block=blocks)
def test_a_blocks_hash_is_that_of_its_label_and_header(block: Block) -> None:
    assert block.calculate_hash() == naive_hash(block)


@given(block=blocks, difficulty=st.integers(0, 10))
def test_mining_takes_the_first_nonce_that_fits_and_changes_nothing_else(
    block: Block, difficulty: int
) -> None:
    mined = block.mine_block(difficulty)
    attempts = (
        reference._HEADER.pack(*reference._HEADER.unpack(mined.header)[:-2], nonce, mined.refers_to)
        for nonce in itertools.count()
    )
    fitting = (h for h in attempts if zero_bits(H(Label.BLOCK, h)) >= difficulty)
    assert mined.header == next(fitting)
    assert mined.difficulty == difficulty
    before, after = vars(block) | {"header": 0}, vars(mined) | {"header": 0}
    changed = {name for name in after if before[name] != after[name]}
    assert changed <= {"nonce", "difficulty"}


def test_every_sent_block_is_mined_and_no_other(chain: Blockchain) -> None:
    for number in range(40):
        sent, received = chain.append([draft(number), draft(number, RECEIVED)], NOW)
        assert zero_bits(naive_hash(sent)) >= DEFAULT_DIFFICULTY == sent.difficulty == 8
        assert (received.nonce, received.difficulty) == (0, 0)


GENESIS_BODY = value(VECTORS["blocks"][0][2])


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_genesis_or_a_wire_error(data: bytes) -> None:
    for body in (data, GENESIS_BODY[:-2] + data, GENESIS_BODY + data, data + GENESIS_BODY):
        try:
            assert Genesis.parse(body).serialize() == body
        except WireError:
            assert body != GENESIS_BODY


@given(at=st.integers(0, len(GENESIS_BODY) - 1), bit=st.integers(0, 7), finding=st.text(max_size=9))
def test_a_changed_genesis_serializes_back_or_is_a_wire_error(
    at: int, bit: int, finding: str
) -> None:
    said = finding.encode()
    body = flipped(GENESIS_BODY, at, bit)[:-2] + len(said).to_bytes(2, "big") + said
    with suppress(WireError):
        genesis = Genesis.parse(body)
        assert genesis.serialize() == body
        assert genesis.finding == finding
