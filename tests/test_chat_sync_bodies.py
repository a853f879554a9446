"""chat_sync_bodies: each question and answer is one sequence of bytes; all else is refused."""

from __future__ import annotations

from collections.abc import Callable

import make_vectors_messages as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_archive import Archive
from chat_blocks import BlockType
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    Bundle,
    Entry,
    Event,
    EventKind,
    SignedEntry,
    Sync,
)
from chat_sync_bodies import (
    MAX_ENTRIES_BYTES,
    MAX_RANGES,
    RANGE_BYTES,
    Ask,
    AskLater,
    Body,
    Entries,
    Fetch,
    Gained,
    Range,
    parse_body,
    serialize_body,
)
from chat_wire import (
    MAX_BUNDLE_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_BYTES,
    Direct,
    Malformed,
    TooLarge,
    WireError,
    u8,
    u16,
    u32,
    u64,
)
from crypto_utils import RoomSecret, SigningKey

ALICE, BOB, TAG = reference.ALICE, reference.BOB, reference.TAG
READER = b"reader".ljust(AUDIENCE_ITEM_BYTES, b"\0")
FINGERPRINT = READER.ljust(32, b"\0")

# ------------------------------------------------------------------------------------------------
# every value

_ID = st.binary(min_size=16, max_size=16)
_U64 = st.integers(0, 2**64 - 1)
_SEQS = st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1)).map(sorted)
_RANGES = st.lists(
    st.builds(lambda tag, who, seqs: Range(tag, who, *seqs), _ID, _ID, _SEQS), max_size=6
).map(tuple)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.builds(Ask, _U64),
    st.builds(Gained, _U64, st.booleans(), _RANGES),
    st.builds(Fetch, _RANGES.filter(bool)),
    st.builds(
        Entries,
        st.lists(_U64, max_size=6).map(tuple),
        st.lists(st.binary(max_size=1500), max_size=3).map(tuple),
        st.lists(st.binary(max_size=1500), max_size=4).map(tuple),
    ),
    st.builds(AskLater),
)


@given(BODIES)
def test_a_body_is_read_as_it_was_written_and_padded_to_whole_kib(body: Body) -> None:
    data = serialize_body(body)
    assert parse_body(data) == body
    assert len(data) == -(-(5 + len(body.fields())) // 1024) * 1024


@given(BODIES, st.data())
def test_what_is_changed_is_refused_or_another_value_with_these_bytes(
    body: Body, data: st.DataObject
) -> None:
    changed = bytearray(serialize_body(body))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(changed), 5 + len(body.fields())) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    try:
        found = parse_body(bytes(changed))
    except WireError:
        return
    assert serialize_body(found) == bytes(changed)


@given(st.binary(max_size=40))
def test_any_fields_are_a_value_or_refused(fields: bytes) -> None:
    for kind in range(8):
        try:
            found = parse_body(padded(kind, fields))
        except WireError:
            continue
        assert serialize_body(found) == padded(kind, fields)


# ------------------------------------------------------------------------------------------------
# each refusal


def padded(kind: int, fields: bytes, size: int | None = None) -> bytes:
    """A body of these fields; `size` is what it says of their length."""
    data = u8(kind) + u32(len(fields) if size is None else size) + fields
    return data + bytes(-len(data) % 1024)


RANGE = Range(TAG, ALICE.session_id, 1, 2)
GOOD: tuple[Body, ...] = (
    Ask(7),
    Gained(7, False, (RANGE,)),
    Fetch((RANGE,)),
    Entries((2,), (b"bundle",), (b"entry",)),
    AskLater(),
)


@pytest.mark.parametrize("body", GOOD, ids=lambda body: type(body).__name__)
def test_bytes_too_many_or_too_few_are_refused(body: Body) -> None:
    fields, kind = body.fields(), int(body.KIND)
    assert parse_body(padded(kind, fields)) == body
    for size in range(len(fields)):
        with pytest.raises(Malformed):
            parse_body(padded(kind, fields[:size]))
    with pytest.raises(Malformed, match="1 bytes too many"):
        parse_body(padded(kind, fields + b"\0"))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data + bytes(1024),
        lambda data: data[:-1] + b"\1",
        lambda data: data[:13] + b"\1" + data[14:],
        lambda data: data[:13],
    ],
    ids=["short", "long", "a whole KiB", "its last byte", "its first byte", "none"],
)
def test_wrong_padding_is_refused(change: Callable[[bytes], bytes]) -> None:
    data = serialize_body(Ask(7))
    assert data[13:] == bytes(1024 - 13)
    with pytest.raises(Malformed, match="wrong padding"):
        parse_body(change(data))


def test_fields_that_fill_a_kib_have_no_padding() -> None:
    body = Entries((), (), (bytes(1024 - 5 - 6 - 4),))
    assert len(serialize_body(body)) == 1024
    assert parse_body(serialize_body(body)) == body


@pytest.mark.parametrize("kind", [0, 6, 7, 255])
def test_other_kinds_are_refused(kind: int) -> None:
    with pytest.raises(Malformed, match=f"unknown kind {kind}"):
        parse_body(padded(kind, b""))


@pytest.mark.parametrize("size", [0, 4, 1020, 1 << 31, 2**32 - 1])
def test_length_that_is_not_the_fields_is_refused(size: int) -> None:
    with pytest.raises(Malformed):
        parse_body(padded(1, u64(7), size))
    for cut in range(5):
        with pytest.raises(Malformed):
            parse_body(padded(1, u64(7))[:cut])


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (2, 1), (2**64 - 1, 1)])
def test_range_that_is_none_is_refused(first: int, last: int) -> None:
    written = u16(1) + TAG + ALICE.session_id + u64(first) + u64(last)
    for kind, before in ((2, u64(7) + u8(0)), (3, b"")):
        with pytest.raises(Malformed, match=f"seqs from {first} to {last}"):
            parse_body(padded(kind, before + written))


def test_question_for_nothing_is_refused_and_nothing_gained_is_not() -> None:
    with pytest.raises(Malformed, match="nothing is asked for"):
        parse_body(padded(3, u16(0)))
    assert parse_body(padded(2, u64(7) + u8(1) + u16(0))) == Gained(7, True, ())


@pytest.mark.parametrize("more", [2, 255])
def test_more_is_0_or_1(more: int) -> None:
    with pytest.raises(Malformed, match="more is 0 or 1"):
        parse_body(padded(2, u64(7) + u8(more) + u16(0)))


def test_512_ranges_are_taken_and_513_are_not() -> None:
    many = (RANGE,) * MAX_RANGES
    for body in (Gained(7, True, many), Fetch(many), Entries((2,) * MAX_RANGES, (), ())):
        assert parse_body(serialize_body(body)) == body
    too_many = (RANGE,) * (MAX_RANGES + 1)
    for body in (Gained(7, True, too_many), Fetch(too_many), Entries((2,) * 513, (), ())):
        with pytest.raises(TooLarge, match="513 ranges, at most 512"):
            parse_body(serialize_body(body))
        lying = body.fields().replace(u16(513), u16(65_535), 1)
        with pytest.raises(TooLarge, match="65535 ranges"):
            parse_body(padded(int(body.KIND), lying))


def test_bundle_over_4096_bytes_is_refused() -> None:
    body = Entries((), (bytes(MAX_BUNDLE_BYTES),), ())
    assert parse_body(serialize_body(body)) == body
    with pytest.raises(TooLarge, match="4097 bytes"):
        parse_body(serialize_body(Entries((), (bytes(MAX_BUNDLE_BYTES + 1),), ())))


def test_counts_that_lie_are_refused() -> None:
    fields = Entries((2,), (b"bundle",), (b"entry",)).fields()
    for at in (0, 10, 20):  # of ranges, of bundles, of entries
        for count in (0, 2):
            with pytest.raises(WireError):
                parse_body(padded(4, fields[:at] + u16(count) + fields[at + 2 :]))


def test_a_range_has_48_bytes() -> None:
    assert len(RANGE.serialize()) == RANGE_BYTES == 48


# ------------------------------------------------------------------------------------------------
# what an answer says of its question


def test_answer_deals_with_each_range_of_its_question_from_before_its_first_to_its_last() -> None:
    question = Fetch((Range(TAG, ALICE.session_id, 5, 9), Range(TAG, BOB.session_id, 1, 1)))
    fitting: list[tuple[int, ...]] = [(4, 0), (9, 1), (7, 0)]
    for done in fitting:
        assert Entries(done, (), ()).deals_with(question)
    others: list[tuple[int, ...]] = [(), (9,), (9, 1, 1), (3, 1), (10, 1), (9, 2)]
    for done in others:
        assert not Entries(done, (), ()).deals_with(question)


def test_question_covers_what_it_asks_for() -> None:
    question = Fetch((Range(TAG, ALICE.session_id, 5, 9), Range(TAG, ALICE.session_id, 20, 20)))
    covered = [
        seq for seq in range(1, 30) if question.covers(entry_of(ALICE.session_id, b"x", seq))
    ]
    assert covered == [5, 6, 7, 8, 9, 20]
    assert not question.covers(entry_of(BOB.session_id, b"x", 5))
    assert not question.covers(entry_of(ALICE.session_id, b"x", 5, tag=reference.PAIR))


# ------------------------------------------------------------------------------------------------
# what fits a frame


def entry_of(session_id: bytes, text: bytes, seq: int, *, kind: int = 1, tag: bytes = TAG) -> Entry:
    """Not signed by anybody."""
    return Entry(kind, tag, session_id, seq, bytes(32), bytes(32), 0, bytes(16), text)


def bundle_of(session_id: bytes, size: int) -> bytes:
    """As far as an archive looks at one; nobody signed it."""
    spki = session_id.ljust(422, b"\0")
    body = u8(1) + TAG + u16(422) + spki + u16(4) + b"nick" + session_id
    return body.ljust(size, b"\0")


class Held:
    """A chain that holds these entries, and what its archive makes of them."""

    def __init__(self, bundle_bytes: int) -> None:
        self.records: dict[int, bytes] = {}
        self.archive = Archive(lambda index: self.records[index])
        self.bundle_bytes = bundle_bytes
        self.seqs: dict[bytes, int] = {}

    def _put(self, kind: BlockType, record: bytes) -> None:
        index = len(self.records) + 1
        self.records[index] = record
        self.archive.note(index, kind, record)

    def writes(self, session_id: bytes, text: bytes, kind: int = 1) -> None:
        if session_id not in self.seqs:
            bundle = bundle_of(session_id, self.bundle_bytes)
            self._put(BlockType.EVENT, Event(EventKind.BUNDLE, bundle).serialize())
            self.seqs[session_id] = 0
            self.writes(session_id, READER, kind=2)
        self.seqs[session_id] += 1
        entry = entry_of(session_id, text, self.seqs[session_id], kind=kind)
        self._put(BlockType.RECEIVED, SignedEntry(entry, bytes(64)).serialize())

    def answer(self, *ranges: Range) -> Entries:
        answer = self.archive.answer(Fetch(ranges), FINGERPRINT, {TAG}, len(self.records))
        assert isinstance(answer, Entries)
        return answer


def frame_of(body: Body) -> bytes:
    """As it goes to the relay: sealed to Bob and signed by Alice."""
    bob = Bundle.parse(reference.BOBS, RoomSecret(reference.ROOM))
    key = SigningKey(ALICE.ssk.seed)
    sync = Sync.create(key, ALICE.session_id, TAG, bob, bytes(16), serialize_body(body))
    assert len(sync.serialize()) <= MAX_PAYLOAD_BYTES
    return Direct(bob.session_id, sync.serialize()).serialize()


def test_the_largest_of_each_body_fits_a_frame() -> None:
    ranges = (Range(TAG, ALICE.session_id, 1, 2**64 - 1),) * MAX_RANGES
    entries = (bytes(MAX_ENTRIES_BYTES - 4),)
    # An entry of one byte is none, so this is more than there can be of counts and lengths.
    many = (b"",) * (MAX_ENTRIES_BYTES // 4)
    for body in (
        Gained(2**64 - 1, True, ranges),
        Fetch(ranges),
        Entries((2**64 - 1,) * MAX_RANGES, (), entries),
        Entries((2**64 - 1,) * MAX_RANGES, (), many),
        Entries((2**64 - 1,) * MAX_RANGES, (b"",) * (MAX_ENTRIES_BYTES // 2), ()),
    ):
        assert len(frame_of(body)) <= 4 + MAX_FRAME_BYTES


def session(number: int) -> bytes:
    return u64(number).rjust(16, b"s")


AUDIENCE = b"".join(sorted([READER, *(u64(n).rjust(16, b"\1") for n in range(2047))]))


@pytest.mark.parametrize("bundle_bytes", [1_386, MAX_BUNDLE_BYTES])
@pytest.mark.parametrize("last", [b"x" * MAX_TEXT_BYTES, AUDIENCE], ids=["text", "audience"])
@pytest.mark.parametrize("before", [0, 2, 11, 80])
def test_an_answer_of_an_archive_fits_a_frame_whatever_comes_last(
    bundle_bytes: int, last: bytes, before: int
) -> None:
    """Many sessions that each need a bundle, and the largest entries behind them."""
    held = Held(bundle_bytes)
    for number in range(before):
        held.writes(session(number), b"x" * (1 + 37 * number))
    for _ in range(4):
        held.writes(session(before), last, kind=2 if last is AUDIENCE else 1)
    ranges = [Range(TAG, session(n), 1, 2**64 - 1) for n in range(before + 1)]
    ranges += [Range(TAG, session(1000 + n), 1, 1) for n in range(MAX_RANGES - len(ranges))]
    got = dict.fromkeys(held.seqs, 0)
    for _ in range(200):
        answer = held.answer(*ranges)
        question = Fetch(tuple(ranges))
        assert answer.deals_with(question)
        assert len(frame_of(answer)) <= 4 + MAX_FRAME_BYTES
        for data in answer.entries:
            entry = SignedEntry.parse(data).entry
            assert (entry.seq, question.covers(entry)) == (got[entry.session_id] + 1, True)
            got[entry.session_id] += 1
        assert len(answer.bundles) == len(
            {SignedEntry.parse(d).entry.session_id for d in answer.entries}
        )
        ranges = [
            its._replace(first=done + 1)
            for its, done in zip(ranges, answer.done, strict=True)
            if done < its.last
        ]
        if not ranges:
            break
        assert answer.entries, "who answers with nothing goes on for ever"
    assert got == held.seqs
