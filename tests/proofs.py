"""People, real chains and proof files to take apart, for the tests of proofs and audits.

    with Owner("alice", path) as alice:
        alice.says("hello")
        alice.hears(bob, "hi")
        alice.is_acked_by(bob)
        data = make_proof(alice.chain, nick="")

`Parts` is a proof file as fields, read and written from docs/CHAIN_FORMAT.md 9: a test changes some
and signs again, as a dishonest owner could.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from simulated_room import LOBBY, keystore, session_keys

from blockchain import Block, Blockchain, BlockType, Draft, Head, SideRow
from chat_messages import (
    Ack,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    FeedReport,
    SignedEntry,
    session_id_of,
)
from chat_messages import Witness as WitnessPayload
from chat_wire import Label, u64
from chat_witness import ACKS_TABLE, evidence
from crypto_utils import Keystore, RoomSecret, SigningKey

NOW = 1_700_000_000_000  # milliseconds
ZEROS = bytes(32)
PRIVATE = b"tag of two alone"


class Speaker:
    """One session of a person: a bundle, and feeds."""

    def __init__(self, name: str, keys: Keystore | None = None, room: RoomSecret = LOBBY) -> None:
        """`name` is the nick; `keys` are another person's, or those for a certain chain."""
        self.keys = keys or keystore(name)
        seed = hashlib.sha256(name.encode() + self.keys.chain_id).digest()
        self.session_key = SigningKey(seed)
        self.session_id = session_id_of(self.fingerprint, self.session_key.public)
        self.bundle = self.called(name, room)
        self._last: dict[bytes, Entry] = {}  # by tag
        self._acks = 0

    @property
    def fingerprint(self) -> bytes:
        return self.keys.identity.fingerprint

    def called(self, nick: str, room: RoomSecret = LOBBY, number: int = 1) -> Bundle:
        """Another bundle of this session."""
        return Bundle.create(
            self.keys.identity,
            room,
            nick,
            self.session_key,
            number,
            session_keys("anybody", 0).get_public_key(),
            self.keys.chain_id,
            self.keys.chain_signing_key.public,
        )

    def entry(
        self,
        text: str | bytes,
        *,
        tag: bytes = LOBBY.tag,
        kind: int = EntryKind.CHAT,
        seen: bytes = ZEROS,
        seq: int = 0,
        previous: bytes | None = None,
    ) -> SignedEntry:
        """The next one of that feed; seq and previous make another one."""
        last = self._last.get(tag)
        entry = Entry.create(
            EntryKind(kind),
            tag,
            self.session_id,
            seq or (last.seq + 1 if last else 1),
            previous if previous is not None else (last.entry_id if last else ZEROS),
            seen,
            NOW,
            text.encode() if isinstance(text, str) else text,
        )
        self._last[tag] = entry
        return entry.sign(self.session_key)

    def ack(self, *reports: FeedReport, tag: bytes = LOBBY.tag) -> Ack:
        self._acks += 1
        head = Head(self.keys.chain_id, 0, b"of another chain".ljust(32), bytes(64))
        return Ack.create(self.session_key, self.session_id, tag, self._acks, ZEROS, reports, head)


class Owner(Speaker):
    """Who has a chain in a file."""

    def __init__(self, name: str, path: Path, *, who: str = "", finding: str = "") -> None:
        """`who` is the person, where that is not `name`; `finding` makes a successor."""
        before = Head(b"an earlier chain", 7, hashlib.sha256(b"head").digest(), b"")
        predecessor = before if finding else None
        keys = keystore(who or name)
        with closing(
            Blockchain.create(path, keys, NOW, predecessor=predecessor, finding=finding)
        ) as made:
            keys = keys.with_chain(made.head().chain_id)
        self.chain = Blockchain.open(path, keys)
        super().__init__(name, keys)
        self._met: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.chain.close()

    def append(self, kind: BlockType, record: bytes, entry_id: bytes) -> Block:
        return self.chain.add_block(Draft(kind, record, entry_id), NOW + 1000)

    def meets(self, bundle: Bundle) -> Block:
        """Its event, once more too."""
        self._met.add(bundle.session_id)
        event = Event(EventKind.BUNDLE, bundle.raw)
        return self.append(BlockType.EVENT, event.serialize(), event.event_id)

    def keeps(self, kind: BlockType, signed: SignedEntry, speaker: Speaker) -> Block:
        """Of whoever wrote it, introduced before."""
        if speaker.session_id not in self._met:
            self.meets(speaker.bundle)
        return self.append(kind, signed.serialize(), signed.entry.entry_id)

    def says(self, text: str, *, tag: bytes = LOBBY.tag, seen: bytes = ZEROS) -> Block:
        return self.keeps(BlockType.SENT, self.entry(text, tag=tag, seen=seen), self)

    def addresses(self, *people: Speaker, tag: bytes = LOBBY.tag) -> Block:
        """An audience entry."""
        audience = b"".join(sorted(person.fingerprint[:16] for person in people))
        signed = self.entry(audience, tag=tag, kind=EntryKind.AUDIENCE)
        return self.keeps(BlockType.CONTROL, signed, self)

    def hears(
        self, speaker: Speaker, text: str, *, tag: bytes = LOBBY.tag, seen: bytes = ZEROS
    ) -> Block:
        return self.keeps(BlockType.RECEIVED, speaker.entry(text, tag=tag, seen=seen), speaker)

    # ----------------------------------------------------------------- witnesses

    def report(
        self,
        index: int | None = None,
        *,
        tag: bytes = LOBBY.tag,
        missing: tuple[int, ...] = (),
        its_hash: bytes | None = None,
    ) -> FeedReport:
        """What who has all of this feed says of it, and of the chain up to `index` (-1: nothing;
        None: the head)."""
        last = self._last[tag]
        head = self.chain.head()
        index = head.index if index is None else index
        at = self.chain.hash_at(index) if index >= 0 else ZEROS
        return FeedReport(
            self.session_id,
            last.seq,
            last.entry_id,
            missing,
            max(index, 0),
            its_hash or at or ZEROS,
        )

    def is_acked_by(
        self,
        witness: Speaker,
        index: int | None = None,
        *,
        tag: bytes = LOBBY.tag,
        missing: tuple[int, ...] = (),
    ) -> Ack:
        """Its ack is kept as evidence."""
        ack = witness.ack(self.report(index, tag=tag, missing=missing), tag=tag)
        self.remembers(witness, ack)
        return ack

    def remembers(self, witness: Speaker, payload: Ack | WitnessPayload) -> None:
        key = self.session_id + payload.tag + payload.session_id
        self.chain.append([], NOW, [SideRow(ACKS_TABLE, key, evidence(witness.bundle, payload))])

    def head_at(self, index: int) -> Head:
        """As our acks carry it."""
        chain_id, its_hash = self.keys.chain_id, self.chain.hash_at(index) or ZEROS
        signed = chain_id + u64(index) + its_hash
        signature = self.keys.chain_signing_key.sign(Label.BLOCK_SIG, signed)
        return Head(chain_id, index, its_hash, signature)


# --------------------------------------------------------------------------- proof files


@dataclass(frozen=True)
class Parts:
    """magic, version, nick, genesis, rows, records, statements."""

    nick: bytes
    genesis: bytes
    rows: tuple[bytes, ...]  # header[150] ‖ signature[64]
    records: tuple[tuple[int, bytes], ...]
    statements: tuple[tuple[bytes, bytes], ...]  # bundle, payload
    version: int = 1
    signature: bytes = field(default=b"", compare=False)

    @classmethod
    def of(cls, data: bytes) -> Parts:
        at = 5

        def number(form: str) -> int:
            nonlocal at
            (value,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
            return int(value)

        def fixed(size: int) -> bytes:
            nonlocal at
            at += size
            return data[at - size : at]

        def prefixed() -> bytes:
            return fixed(number(">H"))

        assert data[:4] == b"CRP1"
        parts = cls(
            nick=prefixed(),
            genesis=prefixed(),
            rows=tuple(fixed(214) for _ in range(number(">I"))),
            records=tuple((number(">Q"), prefixed()) for _ in range(number(">I"))),
            statements=tuple((prefixed(), prefixed()) for _ in range(number(">I"))),
            version=data[4],
            signature=data[-64:],
        )
        assert at == len(data) - 64
        return parts

    def unsigned(self) -> bytes:
        """All but the last signature."""
        short, long = struct.Struct(">H").pack, struct.Struct(">I").pack
        out = b"CRP1" + bytes((self.version,))
        out += short(len(self.nick)) + self.nick + short(len(self.genesis)) + self.genesis
        out += long(len(self.rows)) + b"".join(self.rows)
        out += long(len(self.records))
        for index, record in self.records:
            out += u64(index) + short(len(record)) + record
        out += long(len(self.statements))
        for bundle, payload in self.statements:
            out += short(len(bundle)) + bundle + short(len(payload)) + payload
        return out

    def signed_by(self, speaker: Speaker) -> bytes:
        """The file, signed by that person's chain key."""
        body = self.unsigned()
        return body + speaker.keys.chain_signing_key.sign(Label.PROOF_SIG, body)


def resigned(data: bytes, owner: Speaker, **changed: object) -> bytes:
    """That file with other fields, signed by its owner."""
    return replace(Parts.of(data), **changed).signed_by(owner)  # type: ignore[arg-type]


def rechained(data: bytes, owner: Owner, change: Callable[[Block], Block]) -> bytes:
    """That file with other headers, each linked to the one before and signed by its owner."""
    parts, rows, previous = Parts.of(data), [], ZEROS
    for row in parts.rows:
        block = change(replace(Block.parse(row[:150]), previous_hash=previous))
        if block.type is BlockType.SENT:
            block = block.mine_block(block.difficulty)
        previous = block.calculate_hash()
        signed = block.chain_id + u64(block.index) + previous
        rows.append(block.header + owner.keys.chain_signing_key.sign(Label.BLOCK_SIG, signed))
    return replace(parts, rows=tuple(rows)).signed_by(owner)
