"""chat_history: a chain read back into people and messages, and into what a session remembers."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_room import LOBBY, keystore, session_keys

import chat_history
import chat_messages
from blockchain import Block, Blockchain, BlockType, Draft, SideRow, StoreUnreadable
from chat_history import forget, hand_over, history, read_past, recall
from chat_memory import FEEDS_TABLE, MEMBERS_TABLE, Incomplete, Memory, Past
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
)
from chat_pins import Pins
from chat_terminal import Kind, Line
from chat_wire import prefixed, u64
from chat_witness import ACKS_TABLE, HEADS_TABLE, MAX_CHAINS
from crypto_utils import RoomSecret, SigningKey, pair_tag

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

NOW_MS = 1_700_000_000_000
ELSEWHERE = RoomSecret.open_room("elsewhere")


OUR_KEYS = keystore("alice").with_chain(bytes(16))


class Author:
    """One session of somebody, and the feeds that it writes."""

    def __init__(self, name: str, nick: str | None = None, room: RoomSecret = LOBBY) -> None:
        self.key = SigningKey.generate()
        self.room = room
        keys = keystore(name)
        self.bundle = Bundle.create(
            keys.identity,
            room,
            nick or name,
            self.key,
            1,
            session_keys("everybody", 0).get_public_key(),
            keys.chain_id,
            keys.chain_signing_key.public,
        )
        self.fingerprint = self.bundle.fingerprint
        self.name = f"{self.bundle.nick}#{self.fingerprint.hex()[:4]}"
        self._seqs: dict[bytes, int] = {}

    def writes(
        self, text: str | bytes, kind: int = EntryKind.CHAT, tag: bytes | None = None
    ) -> SignedEntry:
        """The next entry of its feed in a conversation."""
        tag = tag or self.room.tag
        seq = self._seqs[tag] = self._seqs.get(tag, 0) + 1
        data = text.encode() if isinstance(text, str) else text
        zeros = bytes(32)
        entry = Entry(kind, tag, self.bundle.session_id, seq, zeros, zeros, NOW_MS, b"s" * 16, data)
        return entry.sign(self.key)


@cache
def authors() -> tuple[Author, Author, Author]:
    """Us and two others; bundles take an RSA signature each."""
    return Author("alice"), Author("bob"), Author("carol")


class Book:
    """Alice's chain, filled block by block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chain = Blockchain.create(path, OUR_KEYS, NOW_MS)
        self.alice, self.bob, self.carol = (Author.__new__(Author) for _ in range(3))
        for ours, shared in zip((self.alice, self.bob, self.carol), authors(), strict=True):
            ours.__dict__ |= shared.__dict__ | {"_seqs": {}}
            self.meets(ours)

    def adds(self, kind: BlockType, record: bytes) -> Block:
        return self.chain.add_block(Draft(kind, record, bytes(32)), NOW_MS)

    def event(self, kind: int, body: bytes) -> Block:
        return self.adds(BlockType.EVENT, Event(kind, body).serialize())

    def meets(self, author: Author) -> None:
        self.event(EventKind.BUNDLE, author.bundle.raw)

    def says(self, author: Author, text: str, tag: bytes | None = None) -> SignedEntry:
        """A message, as it is on Alice's chain."""
        signed = author.writes(text, tag=tag)
        is_ours = author.fingerprint == self.alice.fingerprint
        self.adds(BlockType.SENT if is_ours else BlockType.RECEIVED, signed.serialize())
        return signed

    def writes_to(self, *people: Author, tag: bytes | None = None) -> None:
        """Alice's audience entry."""
        prefixes = sorted(p.fingerprint[:AUDIENCE_ITEM_BYTES] for p in (self.alice, *people))
        signed = self.alice.writes(b"".join(prefixes), EntryKind.AUDIENCE, tag)
        self.adds(BlockType.CONTROL, signed.serialize())

    def pair(self, other: Author) -> bytes:
        return pair_tag(LOBBY, self.alice.fingerprint, other.fingerprint)

    def shown(self, count: int = 100, find: str = "") -> list[str]:
        return [f"{line.author}: {line.text}" for line in history(self.chain, count, find)]

    def texts(self, count: int = 100, find: str = "") -> list[str]:
        return [line.text for line in history(self.chain, count, find)]


def recalled(chain: Blockchain, room: RoomSecret) -> Memory:
    """What a new session takes over from this chain."""
    return recall(chain, room, read_past(Past(), chain))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path / "chain.db")
    yield made
    made.chain.close()


# --------------------------------------------------------------------------- who said what


def test_messages_come_in_the_order_of_the_chain_with_names_and_times(book: Book) -> None:
    book.writes_to(book.bob, book.carol)
    book.says(book.alice, "hello")
    book.says(book.bob, "hi\nthere")
    book.says(book.carol, "🎈")
    assert history(book.chain, 10) == [
        Line(Kind.MESSAGE, "hello", book.alice.name, NOW_MS),
        Line(Kind.MESSAGE, "hi\nthere", book.bob.name, NOW_MS),
        Line(Kind.MESSAGE, "🎈", book.carol.name, NOW_MS),
    ]


def test_private_messages_say_so_and_ours_say_for_whom(book: Book) -> None:
    tag = book.pair(book.bob)
    book.says(book.bob, "to you", tag)
    book.says(book.alice, "to whom?", tag)  # what says it is missing
    book.writes_to(book.bob, tag=tag)
    book.says(book.alice, "to bob", tag)
    book.says(book.bob, "back", tag)
    assert book.shown() == [
        f"{book.bob.name} (private): to you",
        f"{book.alice.name} (private): to whom?",
        f"{book.alice.name} (private to {book.bob.name}): to bob",
        f"{book.bob.name} (private): back",
    ]


def test_a_room_of_two_is_not_private(book: Book) -> None:
    book.writes_to(book.bob)
    book.says(book.alice, "hello")
    assert book.shown() == [f"{book.alice.name}: hello"]


def test_a_person_of_whom_no_bundle_is_kept_is_named_by_the_tag(book: Book) -> None:
    stranger = Author("dave")
    tag = book.pair(stranger)
    book.writes_to(stranger, tag=tag)
    book.says(book.alice, "hello", tag)
    tagged = stranger.fingerprint.hex()[:4]
    assert book.shown() == [f"{book.alice.name} (private to ?#{tagged}): hello"]


def test_who_renames_himself_is_called_so_from_then_on(book: Book) -> None:
    book.meets(book.bob)
    book.says(book.bob, "before")
    book.event(EventKind.PIN, book.bob.fingerprint + b"robert")
    book.says(book.bob, "after")
    names = [line.author.partition("#")[0] for line in history(book.chain, 9)]
    assert names == [book.bob.bundle.nick, "robert"]


def test_a_name_is_the_sessions_own_and_a_private_ones_the_latest(book: Book) -> None:
    renamed = Author("bob", "robert")
    book.says(book.bob, "as bob")
    book.meets(renamed)
    book.says(renamed, "as robert")
    tag = book.pair(book.bob)
    book.writes_to(book.bob, tag=tag)
    book.says(book.alice, "to you", tag)
    book.says(book.bob, "as bob again")
    digits = book.bob.fingerprint.hex()[:4]
    assert book.shown() == [
        f"bob#{digits}: as bob",
        f"robert#{digits}: as robert",
        f"{book.alice.name} (private to robert#{digits}): to you",
        f"bob#{digits}: as bob again",
    ]


def test_tags_of_one_nick_grow_until_they_differ_whoever_came_first(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With no digit at all everybody of one nick collides, as a ground fingerprint does with four.
    monkeypatch.setattr(chat_messages, "NAME_TAG_DIGITS", 0)
    book.says(book.bob, "I am bob")
    assert book.shown() == ["bob#: I am bob"]
    other = Author("dave", "bob")
    book.meets(other)
    book.meets(Author("bob"))  # the same person again is nobody else
    book.says(other, "so am I")
    one, two = book.bob.fingerprint.hex(), other.fingerprint.hex()
    size = next(n for n in range(1, 64) if one[:n] != two[:n])
    assert book.shown() == [f"bob#{one[:size]}: I am bob", f"bob#{two[:size]}: so am I"]


def test_who_is_ignored_is_hidden_from_then_until_no_longer(book: Book) -> None:
    book.says(book.bob, "before")
    book.event(EventKind.IGNORE, book.bob.fingerprint)
    book.says(book.bob, "hidden")
    book.says(book.bob, "hidden too", book.pair(book.bob))
    book.says(book.carol, "carol")
    book.says(book.alice, "alice")
    book.event(EventKind.UNIGNORE, book.bob.fingerprint)
    book.says(book.bob, "after")
    assert book.texts() == ["before", "carol", "alice", "after"]
    assert book.texts(find="hidden") == []


def test_messages_of_every_room_are_there(book: Book) -> None:
    abroad = Author("carol", room=ELSEWHERE)
    book.meets(abroad)
    book.says(abroad, "far away")
    assert book.shown() == [f"{book.carol.name}: far away"]


def test_what_is_no_message_or_of_nobody_known_is_left_out(book: Book) -> None:
    book.adds(BlockType.RECEIVED, book.bob.writes(b"\xff\0", kind=77).serialize())
    audience = book.bob.writes(book.bob.fingerprint[:16], EntryKind.AUDIENCE)
    book.adds(BlockType.RECEIVED, audience.serialize())
    book.says(Author("dave"), "who is it?")
    book.event(99, b"an event of a later version")
    book.says(book.bob, "hello")
    assert book.texts() == ["hello"]


# --------------------------------------------------------------------------- how many, and which


def test_the_last_ones_are_shown_oldest_first(book: Book) -> None:
    for number in range(5):
        book.says(book.bob, f"{number}")
    assert book.texts(2) == ["3", "4"]
    assert book.texts(5) == book.texts(10**8) == ["0", "1", "2", "3", "4"]


def test_only_what_is_found_counts(book: Book) -> None:
    for text in ("old cat", "dog", "new cat", "dog", "bird"):
        book.says(book.bob, text)
    assert book.texts(1, "cat") == ["new cat"]
    assert book.texts(9, "cat") == ["old cat", "new cat"]
    assert book.texts(9, "fish") == []


def test_the_last_ones_are_read_from_the_end_and_nothing_more(book: Book) -> None:
    no_entry(book)
    for number in range(3):
        book.says(book.bob, f"{number}")
    assert book.texts(2) == ["1", "2"]
    assert book.texts(1, "1") == ["1"]
    assert history(book.chain, 0) == []
    with pytest.raises(StoreUnreadable):
        book.texts(4)


def test_lines_name_their_blocks_where_that_is_asked_for(book: Book) -> None:
    book.says(book.bob, "one")
    book.says(book.alice, "two", book.pair(book.bob))
    labels = [line.author for line in history(book.chain, 9, numbered=True)]
    assert labels == [f"[4] {book.bob.name}", f"[5] {book.alice.name} (private)"]
    (line,) = history(book.chain, 9, "TWO", numbered=True)
    assert line.author == labels[1]


@pytest.mark.parametrize(
    ("text", "find"),
    [
        ("Straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("MASSE und GRÖSSE", "größe"),
        ("İstanbul", "İSTANBUL"),
        ("i̇stanbul", "İstanbul"),
        ("ΟΔΟΣ", "οδος"),
        ("οδός", "ΟΔΌΣ"),
        ("cafe\u0301", "CAFÉ"),
        ("CAFÉ", "cafe\u0301"),
        ("x" * 100 + "Needle" + "y" * 100, "nEEDLE"),
        ("a.b*c", ".b*"),
        ("two\nlines", "o\nl"),
    ],
)
def test_case_and_the_encoding_of_accents_make_no_difference(
    book: Book, text: str, find: str
) -> None:
    book.says(book.bob, text)
    assert book.texts(find=find) == [text]


def slowly_folded(text: str) -> str:
    """What `find` means, written down once more."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


# Letters whose folding is the hardest there is, beside plain ones.
TEXTS = st.text(
    st.sampled_from(
        "aAbBsSkKiıIİßẞſﬁΣςσΐΰǰǰéÉe\u0301\u0323\u0345ªÅ" + "Åñйё가각ᄀ\u1161が か\u3099\n.*"
    ),
    max_size=6,
) | st.text(max_size=6)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS.filter(bool), TEXTS)
def test_a_search_finds_exactly_what_folding_every_text_would_find(
    before: str, find: str, behind: str
) -> None:
    for text in (before + find + behind, before + find.upper() + behind, before + behind):
        data = text.encode()
        record = bytes(146 + 16) + prefixed(data) + bytes(64)
        is_there = slowly_folded(find) in slowly_folded(text)
        assert chat_history._Search(find).may_match(record) == is_there


def test_letters_that_are_folded_alone_fold_alone() -> None:
    plain = chat_history._PLAIN
    for char in filter(plain.fullmatch, map(chr, range(0x110000))):
        folded = slowly_folded(char)
        assert folded == char.casefold()
        parts = unicodedata.normalize("NFD", char)
        assert not unicodedata.combining(parts[0]), "it would move, or join what stands before it"
        assert slowly_folded(f"e{char}e") == f"e{folded}e"
        assert slowly_folded(f"\uac00{char}") == f"\uac00{folded}"


@pytest.mark.parametrize(
    "record", [b"", bytes(227), bytes(146 + 16) + b"\0\1" + bytes(64), b"\0\2\xff\0".rjust(166)]
)
def test_a_record_that_is_no_entry_is_looked_at_whatever_is_looked_for(record: bytes) -> None:
    assert chat_history._Search("x").may_match(record)


@pytest.mark.parametrize(
    ("text", "find"), [("café", "cafe"), ("istanbul", "İstanbul"), ("ab", "a b")]
)
def test_other_letters_do_make_one(book: Book, text: str, find: str) -> None:
    book.says(book.bob, text)
    assert book.texts(find=find) == []


# --------------------------------------------------------------------------- what cannot be read


def no_entry(book: Book) -> Block:
    return book.adds(BlockType.RECEIVED, b"decrypts, but is no entry")


def no_event(book: Book) -> Block:
    return book.adds(BlockType.EVENT, b"short")


def another_text(book: Book) -> Block:
    record = bytearray(book.bob.writes("hello").serialize())
    record[-70] ^= 1  # the text is not the one whose hash is signed
    return book.adds(BlockType.RECEIVED, bytes(record))


def later_version(book: Book) -> Block:
    return book.adds(BlockType.RECEIVED, b"\2" + book.bob.writes("hello").serialize()[1:])


@pytest.mark.parametrize("bad", [no_entry, no_event, another_text, later_version])
def test_a_record_that_decrypts_and_is_none_is_unreadable_and_named(
    book: Book, bad: Callable[[Book], Block]
) -> None:
    block = bad(book)
    for read in (lambda: history(book.chain, 10), lambda: recalled(book.chain, LOBBY)):
        with pytest.raises(StoreUnreadable) as problem:
            read()
        assert str(problem.value).startswith(f"block {block.index} cannot be read: ")
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize("flaw", ["garbage", "signature"])
def test_a_bundle_on_the_chain_that_does_not_hold_is_unreadable_and_named(
    book: Book, flaw: str
) -> None:
    raw = book.bob.bundle.raw
    raw = b"garbage" if flaw == "garbage" else raw[:-1] + bytes((raw[-1] ^ 1,))
    book.says(book.bob, "vouched for")
    block = book.event(EventKind.BUNDLE, raw)
    if flaw == "signature":
        assert book.texts() == ["vouched for"], "nobody is shown whom it introduces"
        book.says(book.bob, "not vouched for")
        assert book.texts(find="not a word of it") == []
    with pytest.raises(StoreUnreadable, match=rf"^block {block.index} cannot be read: "):
        history(book.chain, 10)


def test_a_block_that_was_changed_is_unreadable_and_what_is_before_it_can_be_asked_for(
    book: Book,
) -> None:
    for text in ("one", "two", "three", "four"):
        book.says(book.bob, text)
    book.chain.close()
    database = sqlite3.connect(book.path)
    with database:
        database.execute("UPDATE blocks SET body = zeroblob(99) WHERE idx = 6")
    database.close()
    book.chain = Blockchain.open(book.path, OUR_KEYS)
    assert str(book.chain.verify()) == "EDITED@6"
    for read in (lambda: history(book.chain, 10), lambda: recalled(book.chain, LOBBY)):
        with pytest.raises(StoreUnreadable, match="block 6 cannot be read"):
            read()
    assert [line.text for line in history(book.chain, 10, before=6)] == ["one", "two"]
    assert [line.text for line in history(book.chain, 10, "TWO", before=6)] == ["two"]
    assert [line.text for line in history(book.chain, 10, before=5)] == ["one"]
    assert history(book.chain, 10, before=0) == []


def test_a_block_from_before_that_stands_behind_is_not_shown_again(book: Book) -> None:
    for text in ("one", "two", "three"):
        book.says(book.bob, text)
    book.chain.close()
    database = sqlite3.connect(book.path)
    with database:
        database.execute("DELETE FROM blocks WHERE idx = 6")
        database.execute(
            "INSERT INTO blocks SELECT 6, header, signature, body FROM blocks WHERE idx = 4"
        )
    database.close()
    book.chain = Blockchain.open(book.path, OUR_KEYS)
    verdict = book.chain.verify()
    assert str(verdict) == "REORDERED@6"
    assert [line.text for line in history(book.chain, 10, before=6)] == ["one", "two"]


# --------------------------------------------------------------------------- what was erased


def test_an_erased_text_is_not_there_and_what_is_remembered_of_its_feed_is_as_before(
    book: Book,
) -> None:
    for author, text in ((book.bob, "one"), (book.alice, "two"), (book.bob, "three")):
        book.says(author, text)
    book.says(book.carol, "four")
    before = recalled(book.chain, LOBBY)
    for index in (6, 5, 7, 4):
        block = forget(book.chain, index, NOW_MS)
        assert (block.type, block.refers_to) == (BlockType.FORGET, index)
        assert recalled(book.chain, LOBBY) == before
    assert book.texts() == []
    assert book.chain.verify().ok


def test_forgetting_keeps_the_head_and_the_signature_alone(book: Book) -> None:
    signed = book.says(book.bob, "a secret")
    block = forget(book.chain, 4, NOW_MS)
    assert book.chain.record(block) == signed.entry.head + signed.signature


@pytest.mark.parametrize("index", [0, 1, 5, 99, -1])
def test_what_is_no_message_cannot_be_forgotten(book: Book, index: int) -> None:
    book.says(book.bob, "one")
    forget(book.chain, 4, NOW_MS)
    before = book.chain.head()
    with pytest.raises(
        ValueError, match=r"^(there is no block|block|the text of block) "
    ) as problem:
        forget(book.chain, index, NOW_MS)
    assert "\n" not in str(problem.value)
    with pytest.raises(ValueError, match="erased already"):
        forget(book.chain, 4, NOW_MS)
    assert book.chain.head() == before


# --------------------------------------------------------------------------- recall


def test_a_past_may_be_read_in_parts(book: Book) -> None:
    book.says(book.bob, "one")
    past = read_past(Past(), book.chain)
    following = book.chain.get_latest_block().index + 1
    book.says(book.bob, "two")
    book.event(EventKind.IGNORE, book.carol.fingerprint)
    read_past(past, book.chain, following)
    assert recall(book.chain, LOBBY, past) == recalled(book.chain, LOBBY)


def test_who_was_left_out_of_a_past_and_writes_again_makes_it_incomplete(book: Book) -> None:
    book.says(book.bob, "one")
    past = read_past(Past(), book.chain)
    past.forget(NOW_MS)
    following = book.chain.get_latest_block().index + 1
    read_past(past, book.chain, following)
    book.says(book.bob, "two")
    with pytest.raises(Incomplete):
        read_past(past, book.chain, following)


def remember(book: Book, table: str, key: bytes, value: bytes) -> None:
    book.chain.append([], NOW_MS, [SideRow(table, key, value)])


def test_recall_of_a_new_chain_is_nothing(tmp_path: Path) -> None:
    chain = Blockchain.create(tmp_path / "new.db", OUR_KEYS, NOW_MS)
    memory = recalled(chain, LOBBY)
    assert (memory.known, memory.ignored, memory.feeds) == ({}, set(), {})
    chain.close()


def test_recall_knows_the_people_met_in_this_room_and_no_other(book: Book) -> None:
    bob, carol = book.bob.fingerprint, book.carol.fingerprint
    remember(book, MEMBERS_TABLE, LOBBY.tag + bob, u64(5) + b"old name")
    remember(book, MEMBERS_TABLE, LOBBY.tag + bob, u64(NOW_MS) + "böb".encode())
    remember(book, MEMBERS_TABLE, ELSEWHERE.tag + carol, u64(NOW_MS) + b"carol")
    known = recalled(book.chain, LOBBY).known
    assert list(known) == [bob]
    assert (known[bob].nick, known[bob].last_seen_ms) == ("böb", NOW_MS)
    assert list(recalled(book.chain, ELSEWHERE).known) == [carol]


def test_recall_knows_who_is_ignored_at_the_end(book: Book) -> None:
    bob, carol = book.bob.fingerprint, book.carol.fingerprint
    for kind, who in (
        (EventKind.IGNORE, bob),
        (EventKind.IGNORE, carol),
        (EventKind.UNIGNORE, bob),
        (EventKind.UNIGNORE, book.alice.fingerprint),
    ):
        book.event(kind, who)
    assert recalled(book.chain, LOBBY).ignored == {carol}


def test_recall_knows_how_far_every_feed_of_others_is_on_the_chain(book: Book) -> None:
    book.says(book.bob, "one")
    last = book.says(book.bob, "two")
    private = book.says(book.bob, "between us", book.pair(book.bob))
    book.says(book.alice, "ours is not among them")
    book.bob.writes("never came")
    gap = book.says(book.bob, "four")
    feeds = recalled(book.chain, LOBBY).feeds
    session_id = book.bob.bundle.session_id
    room, pair = (LOBBY.tag, session_id), (book.pair(book.bob), session_id)
    assert set(feeds) == {room, pair}
    assert (feeds[room].highest, feeds[room].last_id) == (4, gap.entry.entry_id)
    assert (feeds[pair].highest, feeds[pair].last_id) == (1, private.entry.entry_id)
    assert feeds[room].missing == [(3, 3)]
    assert last.entry.entry_id != gap.entry.entry_id


def test_recall_dates_a_feed_by_our_clock_and_not_by_its_authors(book: Book) -> None:
    signed = replace(book.bob.writes("when?").entry, sent_ms=2**63).sign(book.bob.key)
    book.adds(BlockType.RECEIVED, signed.serialize())
    feeds = recalled(book.chain, LOBBY).feeds
    assert [feed.updated_ms for feed in feeds.values()] == [NOW_MS]


def test_recall_knows_where_our_stay_in_a_feed_began(book: Book) -> None:
    session_id = book.bob.bundle.session_id
    remember(book, FEEDS_TABLE, LOBBY.tag + session_id, u64(7))
    feeds = recalled(book.chain, LOBBY).feeds
    assert feeds[LOBBY.tag, session_id].noted_first_seq == 7


@pytest.mark.parametrize("table", [MEMBERS_TABLE, FEEDS_TABLE])
def test_a_side_table_that_was_changed_is_unreadable(book: Book, table: str) -> None:
    remember(book, table, LOBBY.tag + bytes(16), u64(7) + b"x")
    book.chain.close()
    database = sqlite3.connect(book.path)
    with database:
        database.execute("UPDATE side SET sealed = zeroblob(50)")
    database.close()
    book.chain = Blockchain.open(book.path, OUR_KEYS)
    with pytest.raises(StoreUnreadable, match=f"the side table {table} cannot be read"):
        recalled(book.chain, LOBBY)


# --------------------------------------------------------------------------- the next chain


def handed(book: Book, past: Past | None = None, start: int = 0) -> set[bytes]:
    """Who the next chain ignores from its beginning."""
    drafts, _ = hand_over(book.chain, past or Past(), start)
    events = [Event.parse(draft.record) for draft in drafts]
    assert {draft.type for draft in drafts} <= {BlockType.EVENT}
    assert {event.kind for event in events} <= {EventKind.IGNORE}
    assert [draft.entry_id for draft in drafts] == [event.event_id for event in events]
    assert len({event.body for event in events}) == len(events)
    return {event.body for event in events}


def ignoring(book: Book, number: int, kind: EventKind = EventKind.IGNORE) -> Block:
    return book.event(kind, bytes((number,)) * 32)


def people(*numbers: int) -> set[bytes]:
    return {bytes((number,)) * 32 for number in numbers}


def damage(book: Book, *indices: int) -> None:
    """Their bodies do not decrypt any more."""
    for index in indices:
        change(book, "UPDATE blocks SET body = randomblob(100) WHERE idx = ?", index)


def change(book: Book, statement: str, *values: object) -> None:
    book.chain.close()
    database = sqlite3.connect(book.path)
    with database:
        assert database.execute(statement, values).rowcount
    database.close()
    book.chain = Blockchain.open(book.path, OUR_KEYS)


def test_who_is_ignored_at_the_end_is_ignored_by_the_next_chain(book: Book) -> None:
    assert handed(book) == set()
    for number in (1, 2, 3):
        ignoring(book, number)
    ignoring(book, 2, EventKind.UNIGNORE)
    book.says(book.bob, "hello")
    assert handed(book) == people(1, 3)


def test_damage_in_any_one_block_costs_what_that_block_says_and_no_more(book: Book) -> None:
    numbered = {ignoring(book, number).index: number for number in range(1, 5)}
    book.says(book.bob, "hello")
    last = book.chain.get_latest_block().index
    for index in range(last + 1):
        copy = Book.__new__(Book)
        copy.path = book.path.with_name(f"copy-{index}")
        book.chain.close()
        copy.path.write_bytes(book.path.read_bytes())
        book.chain = Blockchain.open(book.path, OUR_KEYS)
        copy.chain = Blockchain.open(copy.path, OUR_KEYS)
        damage(copy, index)
        assert handed(copy) == people(*(set(numbered.values()) - {numbered.get(index, 0)}))
        copy.chain.close()


def test_between_two_damaged_events_nothing_is_read(book: Book) -> None:
    blocks = [ignoring(book, number) for number in range(1, 6)]
    damage(book, blocks[1].index, blocks[3].index)
    assert handed(book) == people(1, 5)


def test_what_is_known_from_before_holds_until_an_event_says_otherwise(book: Book) -> None:
    for number in (1, 2):
        ignoring(book, number)
    past, start = read_past(Past(), book.chain), book.chain.get_latest_block().index + 1
    ignoring(book, 1, EventKind.UNIGNORE)
    ignoring(book, 3)
    assert handed(book, past, start) == handed(book) == people(2, 3)
    change(book, "DELETE FROM blocks WHERE idx >= 4")  # and all of that is gone
    assert handed(book, past, start) == people(1, 2)


def test_an_event_from_elsewhere_or_from_before_says_nothing(book: Book, tmp_path: Path) -> None:
    ignoring(book, 1)
    block = ignoring(book, 1, EventKind.UNIGNORE)
    ignoring(book, 1)
    copy = "INSERT INTO blocks SELECT 99, header, signature, body FROM blocks WHERE idx = ?"
    change(book, copy, block.index)
    assert handed(book) == people(1)
    other = Blockchain.create(tmp_path / "other.db", OUR_KEYS, NOW_MS)
    undone = Event(EventKind.UNIGNORE, bytes((1,)) * 32).serialize()
    there = other.append([Draft(BlockType.EVENT, undone, bytes(32))] * 7, NOW_MS)[-1]
    other.close()
    row = (there.index, there.header, there.signature, there.body)
    change(book, "INSERT INTO blocks VALUES (?, ?, ?, ?)", *row)
    assert handed(book) == people(1)


def test_an_event_that_decrypts_and_is_none_says_nothing(book: Book) -> None:
    book.adds(BlockType.EVENT, b"short")
    ignoring(book, 1)
    assert handed(book) == people(1)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EventKind.IGNORE, bytes(31)),
        (EventKind.PIN, bytes(31)),
        (EventKind.PIN, bytes(32)),
        (EventKind.PIN, bytes(32) + b"\xff"),
        (EventKind.PIN, bytes(32) + b"two words"),
        (EventKind.VERIFIED, b""),
        (EventKind.ALERT, bytes(32)),
        (200, bytes(32)),
    ],
)
def test_an_event_of_another_kind_or_with_another_body_says_nothing(
    book: Book, kind: int, body: bytes
) -> None:
    book.event(kind, body)
    assert handed(book) == set()
    memory = recalled(book.chain, LOBBY)
    assert (memory.ignored, memory.pins) == (set(), Pins())


def test_pins_and_what_was_verified_are_recalled_and_go_to_the_next_chain(
    book: Book, tmp_path: Path
) -> None:
    one, two = sorted(people(1, 2))
    for person, nick in ((one, "bob"), (two, "bob"), (one, "zoë"), (two, "eve")):
        book.event(EventKind.PIN, person + nick.encode())
    for kind, person in (
        (EventKind.VERIFIED, one),
        (EventKind.VERIFIED, two),
        (EventKind.UNVERIFIED, one),
        (EventKind.ALERT, one),
    ):
        book.event(kind, person)
    pins = recalled(book.chain, LOBBY).pins
    assert list(pins) == [("bob", one), ("bob", two), ("zoë", one), ("eve", two)]
    assert pins.verified == [two]
    drafts, _ = hand_over(book.chain, Past(), 0)
    assert len(drafts) == 5
    following = Blockchain.create(tmp_path / "next.db", OUR_KEYS, NOW_MS)
    following.append(drafts, NOW_MS)
    assert recalled(following, LOBBY).pins == pins
    following.close()


def held(person: int, chain: int, index: int = 7) -> tuple[bytes, bytes]:
    """A row of the side table `heads`."""
    key = bytes((person,)) * 32 + bytes((chain,)) * 16
    return key, u64(index) + b"h" * 32 + b"s" * 64 + u64(NOW_MS + chain)


def side_of(book: Book) -> dict[str, dict[bytes, bytes]]:
    """What is kept beside the next chain."""
    tables: dict[str, dict[bytes, bytes]] = {}
    for row in hand_over(book.chain, Past(), 0)[1]:
        tables.setdefault(row.table, {})[row.key] = row.value
    return tables


def test_heads_of_others_and_people_met_go_to_the_next_chain_and_what_is_of_this_one_stays(
    book: Book,
) -> None:
    assert side_of(book) == {}
    heads = dict(held(person, chain) for person in (1, 2) for chain in (1, 2))
    member = LOBBY.tag + book.bob.fingerprint
    for key, value in heads.items():
        remember(book, HEADS_TABLE, key, value)
    remember(book, MEMBERS_TABLE, member, u64(NOW_MS) + b"bob")
    remember(book, FEEDS_TABLE, LOBBY.tag + book.bob.bundle.session_id, u64(1))
    remember(book, ACKS_TABLE, b"key", b"an ack")
    expected = {HEADS_TABLE: heads, MEMBERS_TABLE: {member: u64(NOW_MS) + b"bob"}}
    assert side_of(book) == expected
    for key, value in ((b"short", b"row"), (held(3, 1)[0], b"short"), (bytes(49), held(3, 1)[1])):
        remember(book, HEADS_TABLE, key, value)
    remember(book, MEMBERS_TABLE, b"short", u64(1) + b"nick")
    assert side_of(book) == expected, "rows of another form are left out"
    change(book, "DELETE FROM blocks")
    assert side_of(book) == expected


def test_of_one_persons_heads_as_many_are_handed_over_as_are_held(book: Book) -> None:
    rows = dict(held(1, chain) for chain in range(MAX_CHAINS + 3))
    for key, value in rows.items():
        remember(book, HEADS_TABLE, key, value)
    assert side_of(book)[HEADS_TABLE] == dict(list(rows.items())[3:])


def test_a_side_row_that_was_changed_costs_that_row_and_nothing_else(book: Book) -> None:
    ignoring(book, 1)
    remember(book, HEADS_TABLE, *held(1, 1))
    change(book, "UPDATE side SET sealed = zeroblob(60) WHERE name = ?", HEADS_TABLE)
    change(book, "INSERT INTO side VALUES (?, 'text', 7)", HEADS_TABLE)
    remember(book, HEADS_TABLE, *held(1, 2))
    remember(book, MEMBERS_TABLE, LOBBY.tag + book.bob.fingerprint, u64(NOW_MS) + b"bob")
    tables = side_of(book)
    assert tables[HEADS_TABLE] == dict([held(1, 2)])
    assert set(tables) == {HEADS_TABLE, MEMBERS_TABLE}
    assert handed(book) == people(1)
