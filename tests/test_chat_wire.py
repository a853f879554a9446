"""Bytes: every frame there and back, every split of the input, any bytes at all."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat_wire
from chat_wire import (
    MAX_BUNDLE_BYTES,
    MAX_FRAME_BYTES,
    MAX_JOIN_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameDecoder,
    FrameType,
    H,
    Hello,
    Join,
    Label,
    LeaveReason,
    Malformed,
    Member,
    Ping,
    Pong,
    Reader,
    Rebundle,
    TooLarge,
    UnknownVersion,
    Welcome,
    WireError,
    frame,
    join_proof,
    prefixed,
    u8,
    u16,
    u32,
    u64,
    welcome_frames,
)

TAG, SESSION, PROOF, NONCE = b"T" * 16, b"S" * 16, b"P" * 32, b"N" * 32

# A message, and its frame laid out by hand: length, type, body.
EXAMPLES: list[tuple[Any, str]] = [
    (
        Hello(1, 1, NONCE, needs_password=True),
        "0000 0028 01" + "01 01" + "4e" * 32 + "01" + "0001 0000",
    ),
    (
        Join(TAG, SESSION, PROOF, b"bundle"),
        "0000 004a 02" + "01" + "54" * 16 + "53" * 16 + "50" * 32 + "0006" + b"bundle".hex(),
    ),
    (Welcome((), last=True), "0000 0004 03 01 0000"),
    (
        Welcome((Member(SESSION, b"b1"), Member(TAG, b"")), last=False),
        "0000 002a 03 00 0002" + "53" * 16 + "0002 6231" + "54" * 16 + "0000",
    ),
    (Add(SESSION, b"b1"), "0000 0015 04" + "53" * 16 + "0002 6231"),
    (Del(SESSION, LeaveReason.TIMEOUT), "0000 0012 05" + "53" * 16 + "02"),
    (Rebundle(b"b2"), "0000 0005 06 0002 6232"),
    (Broadcast(b"\x01\x02"), "0000 0003 07 01 02"),
    (Direct(SESSION, b"\x01"), "0000 0012 08" + "53" * 16 + "01"),
    (Ping(2**64 - 2), "0000 0009 09 ffff ffff ffff fffe"),
    (Pong(7), "0000 0009 0a 0000 0000 0000 0007"),
    (Error(ErrorCode.PASSWORD, "no ✓"), "0000 000a 0b 04 0006" + "no ✓".encode().hex()),
]
PARSERS: list[Any] = [type(message) for message, _ in EXAMPLES if message != Welcome((), last=True)]


def cut(stream: bytes, sizes: Iterable[int], limit: int = MAX_FRAME_BYTES) -> list[bytes]:
    """The frames of a stream that comes in pieces of these sizes, the rest in one."""
    decoder, at, frames = FrameDecoder(limit), 0, []
    for size in [*sizes, len(stream)]:
        decoder.feed(memoryview(stream)[at : at + size])
        at += size
        frames += [found.raw for found in decoder]
    return frames


@pytest.mark.parametrize(("message", "hexes"), EXAMPLES, ids=lambda x: type(x).__name__)
def test_a_message_is_its_documented_bytes_and_back(message: Any, hexes: str) -> None:
    raw = bytes.fromhex(hexes)
    assert message.serialize() == raw
    assert type(message).parse(Frame(raw).body) == message


def test_every_type_of_frame_has_an_example() -> None:
    assert {Frame(bytes.fromhex(hexes)).type for _, hexes in EXAMPLES} == set(FrameType)


def test_frames_are_the_same_however_the_stream_is_split() -> None:
    frames = [bytes.fromhex(hexes) for _, hexes in EXAMPLES]
    stream = b"".join(frames)
    assert cut(stream, []) == frames
    assert cut(stream, [1] * len(stream)) == frames
    for at in range(len(stream)):
        assert cut(stream, [at]) == frames
        assert cut(stream + stream[:at], [at])[: len(frames)] == frames  # trailing data


@given(
    bodies=st.lists(st.binary(max_size=300), max_size=8),
    sizes=st.lists(st.integers(0, 400), max_size=30),
    rest=st.binary(max_size=3),
)
def test_any_frames_survive_any_split(bodies: list[bytes], sizes: list[int], rest: bytes) -> None:
    frames = [frame(FrameType.BROADCAST, body) for body in bodies]
    assert cut(b"".join(frames) + rest, sizes) == frames


@given(stream=st.binary(max_size=200), sizes=st.lists(st.integers(0, 50), max_size=20))
def test_any_bytes_give_the_same_frames_or_error_for_every_split(
    stream: bytes, sizes: list[int]
) -> None:
    def outcome(sizes: list[int]) -> tuple[list[bytes], type[WireError] | None]:
        decoder, at, frames = FrameDecoder(64), 0, []
        try:
            for size in [*sizes, len(stream)]:
                decoder.feed(stream[at : at + size])
                at += size
                for found in decoder:
                    frames.append(found.raw)  # one by one: those before an error count
        except WireError as exc:
            return frames, type(exc)
        return frames, None

    assert outcome([]) == outcome([1] * len(stream)) == outcome(sizes)


@pytest.mark.parametrize("limit", [MAX_JOIN_FRAME_BYTES, MAX_FRAME_BYTES])
def test_a_length_over_the_limit_is_refused_by_its_four_bytes_alone(limit: int) -> None:
    for length in (limit + 1, 0xFFFF_FFFF):
        decoder = FrameDecoder(limit)
        decoder.feed(u32(length))
        with pytest.raises(TooLarge, match=f"{length} bytes, at most {limit}"):
            list(decoder)
    assert cut(u32(limit) + b"\x07" + bytes(limit - 1), [4], limit) != []


def test_a_frame_without_a_type_is_malformed() -> None:
    with pytest.raises(Malformed):
        cut(bytes(4), [])


def test_the_limit_may_be_raised_between_two_frames() -> None:
    small, large = frame(FrameType.JOIN, b"j"), frame(FrameType.BROADCAST, bytes(100))
    decoder = FrameDecoder(10)
    decoder.feed(small + large)
    found = iter(decoder)
    assert next(found).raw == small
    decoder.limit = 101
    assert [f.raw for f in found] == [large]


def test_a_frame_that_is_too_long_cannot_be_made() -> None:
    assert len(frame(FrameType.BROADCAST, bytes(MAX_FRAME_BYTES - 1))) == 4 + MAX_FRAME_BYTES
    with pytest.raises(TooLarge):
        frame(FrameType.BROADCAST, bytes(MAX_FRAME_BYTES))


@pytest.mark.parametrize("parser", PARSERS, ids=lambda p: p.__name__)
def test_any_bytes_are_a_message_that_serializes_to_them_or_a_wire_error(
    parser: Any,
) -> None:
    # Valid bodies are the seeds: random bytes alone would hardly ever get past the first field.
    bodies = [
        Frame(bytes.fromhex(hexes)).body for message, hexes in EXAMPLES if type(message) is parser
    ]

    @given(data=st.one_of(st.binary(max_size=120), mutated(bodies)))
    def check(data: bytes) -> None:
        try:
            message = parser.parse(data)
        except WireError:
            return
        assert Frame(message.serialize()).body == data

    check()


@st.composite
def mutated(draw: st.DrawFn, bodies: list[bytes]) -> bytes:
    """A valid body with some bytes changed, and maybe cut or lengthened."""
    data = bytearray(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data) + draw(
        st.binary(max_size=2)
    )


@pytest.mark.parametrize("parser", PARSERS, ids=lambda p: p.__name__)
def test_a_body_with_one_byte_missing_or_too_many_is_refused(parser: Any) -> None:
    for message, hexes in EXAMPLES:
        body = Frame(bytes.fromhex(hexes)).body
        if type(message) is not parser or parser in (Broadcast, Direct):
            continue
        for wrong in (body[:-1], body + b"\0"):
            with pytest.raises(Malformed):
                parser.parse(wrong)


def test_limits_of_fields_are_held() -> None:
    with pytest.raises(TooLarge):
        Rebundle.parse(prefixed(bytes(MAX_BUNDLE_BYTES + 1)))
    with pytest.raises(TooLarge):
        Broadcast.parse(bytes(MAX_PAYLOAD_BYTES + 1))
    with pytest.raises(TooLarge):
        prefixed(bytes(65_536))
    with pytest.raises(Malformed):
        Direct.parse(bytes(15))
    assert len(Direct(SESSION, bytes(MAX_PAYLOAD_BYTES)).serialize()) == 4 + MAX_FRAME_BYTES


def test_another_version_is_named_as_such_before_anything_else_is_looked_at() -> None:
    with pytest.raises(UnknownVersion, match="2"):
        Join.parse(b"\x02")
    with pytest.raises(UnknownVersion, match="2 to 3"):
        Hello.parse(b"\x02\x03" + bytes(37))
    assert Hello.parse(Frame(Hello(0, 9, NONCE, False).serialize()).body).version_max == 9


def test_a_long_error_text_is_cut_between_two_characters() -> None:
    text = Error.parse(Frame(Error(1, "x" + "✓" * 400).serialize()).body).text
    assert text == "x" + "✓" * 170
    assert Error.parse(Frame(Error(1, "\ud800").serialize()).body).text == "?"


def test_welcome_takes_as_many_frames_as_the_members_need_and_marks_the_last() -> None:
    for count in (0, 1, 15, 16, 100):
        members = [Member(u64(n) * 2, bytes(MAX_BUNDLE_BYTES)) for n in range(count)]
        pages = [Welcome.parse(Frame(raw).body) for raw in cut(welcome_frames(members), [])]
        assert [m for page in pages for m in page.members] == members
        assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
        assert len(pages) == max(1, -(-count // 15))  # 15 of the largest fit a frame


def test_the_password_proof_is_the_documented_hmac() -> None:
    message = b"chainroom/1 join\0" + NONCE + TAG + SESSION
    message += hashlib.sha256(b"chainroom/1 bundle\0" + b"bundle").digest()
    expected = hmac.new("pässword".encode(), message, "sha256").digest()
    assert join_proof("pässword".encode(), NONCE, TAG, SESSION, b"bundle") == expected


def test_the_password_proof_covers_every_field() -> None:
    fields = (b"password", NONCE, TAG, SESSION, b"bundle")
    proofs = {join_proof(*fields)}
    for n in range(len(fields)):
        changed: Any = [*fields[:n], fields[n][:-1] + b"!", *fields[n + 1 :]]
        proofs.add(join_proof(*changed))
    assert len(proofs) == 6


def test_labels_differ_and_none_begins_another() -> None:
    labels = [value for name, value in vars(Label).items() if name.isupper()]
    assert all(label.startswith(b"chainroom/1 ") and label.endswith(b"\0") for label in labels)
    assert len(set(labels)) == len(labels)
    assert H(Label.TEXT, b"x") == hashlib.sha256(b"chainroom/1 text\0x").digest()


@pytest.mark.parametrize(
    ("write", "read", "top"),
    [(u8, Reader.u8, 8), (u16, Reader.u16, 16), (u32, Reader.u32, 32), (u64, Reader.u64, 64)],
)
def test_numbers_are_big_endian_and_of_fixed_size(
    write: Callable[[int], bytes], read: Callable[[Reader], int], top: int
) -> None:
    for number in (0, 1, 2**top - 1):
        assert write(number) == number.to_bytes(top // 8, "big")
        assert read(Reader(write(number))) == number
    with pytest.raises(Malformed):
        read(Reader(write(1)[1:]))


def test_a_reader_knows_what_it_has_read_and_what_is_left() -> None:
    reader = Reader(b"\x01" + prefixed(b"abc") + b"rest")
    assert (reader.version(), reader.prefixed(3), reader.done()) == (1, b"abc", b"\x01\0\x03abc")
    with pytest.raises(Malformed, match="4 bytes too many"):
        reader.end()
    assert reader.rest() == b"rest"
    reader.end()
    with pytest.raises(TooLarge):
        Reader(prefixed(b"abc")).prefixed(2)


def test_all_names_everything_public() -> None:
    public = {
        name
        for name, value in vars(chat_wire).items()
        if getattr(value, "__module__", "") == "chat_wire" and not name.startswith("_")
    }
    assert public <= set(chat_wire.__all__)
