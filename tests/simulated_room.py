"""A room without processes: members in a list, a network that is a list, a clock that is a number.

    room = SimulatedRoom()
    alice, bob = room.join("alice"), room.join("bob")
    alice.types("hello")
    assert bob.messages == ["alice: hello"]

The relay here does what PROTOCOL.md section 2 says and nothing else; `room.tamper` may be set to a
function that makes it lie, and `room.inject` delivers what nobody sent.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from rsa_pool import pooled

from blockchain import BlockType, Draft, Head
from chat_archive import Archive
from chat_effects import (
    Append,
    Close,
    Credit,
    Effect,
    Leave,
    MakeSessionKey,
    Moment,
    Query,
    Ready,
    Refuse,
    Remember,
    Serve,
    Show,
    Transmit,
    Witnessed,
)
from chat_memory import FEEDS_TABLE, MEMBERS_TABLE, TOLD_TABLE, Memory
from chat_messages import (
    Entry,
    EntryKind,
    Event,
    EventKind,
    Message,
    Payload,
    SignedEntry,
    Sync,
    parse_payload,
)
from chat_session import Session
from chat_terminal import Kind, Line
from chat_wire import (
    MAX_FRAME_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Frame,
    FrameDecoder,
    FrameType,
    Hello,
    Join,
    Label,
    LeaveReason,
    Member,
    Rebundle,
    join_proof,
    u64,
    welcome_frames,
)
from chat_witness import HEADS_TABLE, Heads
from crypto_utils import EncryptionManager, Keystore, RoomSecret

LOBBY = RoomSecret.open_room("lobby")
START = Moment(10_000.0, 1_700_000_000_000)

# (sender or None, receiver, frame) → the frames that are delivered instead
Tamper = Callable[["SimulatedMember | None", "SimulatedMember", bytes], list[bytes]]
AnyPayload = TypeVar("AnyPayload", bound=Payload)
_SESSION_KEYS = 3  # of each name; later runs use them again


_generate = Keystore.generate  # whatever a test puts in its place


@cache
def keystore(name: str) -> Keystore:
    """One identity for each name; RSA keys are slow to make."""
    return pooled(_generate).with_chain(name.encode().ljust(16, b"\0")[:16])


@cache
def session_keys(name: str, number: int) -> EncryptionManager:
    """The SEK of one name's n-th run, modulo `_SESSION_KEYS`."""
    return pooled(EncryptionManager)


def signed_head(name: str, index: int, its_hash: bytes, chain_id: bytes = b"") -> Head:
    """Of a chain of that name's, signed by its key; `chain_id` is another than the present one."""
    keys = keystore(name)
    place = (chain_id or keys.chain_id, index, its_hash)
    signed = place[0] + u64(index) + its_hash
    return Head(*place, keys.chain_signing_key.sign(Label.BLOCK_SIG, signed))


def payload_of(frame: bytes) -> Payload | None:
    """What a BROADCAST or DIRECT carries; None of other frames."""
    whole = Frame(frame)
    match whole.type:
        case FrameType.BROADCAST:
            return parse_payload(Broadcast.parse(whole.body).payload)
        case FrameType.DIRECT:
            return parse_payload(Direct.parse(whole.body).payload)
    return None


def is_message(frame: bytes) -> bool:
    """Whether it carries something said, in the room or in private."""
    return isinstance(payload_of(frame), Message)


def recall(chain: list[tuple[Draft, int]], remembered: dict[tuple[str, bytes], bytes]) -> Memory:
    """As `chat_history.recall` does with a chain in its file."""
    memory = Memory()
    for (table, key), value in remembered.items():
        if table == MEMBERS_TABLE:
            memory.read_member(LOBBY, key, value)
        elif table == FEEDS_TABLE:
            memory.read_feed(key, value)
        elif table == TOLD_TABLE:
            memory.told[key] = value
    for draft, at_ms in chain:
        if draft.type is BlockType.EVENT:
            memory.read_event(Event.parse(draft.record))
        elif draft.type is BlockType.RECEIVED:
            memory.read_received(SignedEntry.parse(draft.record).entry, at_ms)
    return memory


DECIDED_S = 8.0  # an ack interval of a small room, and 5 s: whether a key is another's


def fingerprint(name: str) -> bytes:
    """Of `keystore(name)`."""
    return keystore(name).identity.fingerprint


def tag(name: str) -> str:
    """What stands behind the nick of `keystore(name)`."""
    return fingerprint(name).hex()[:4]


def events(member: SimulatedMember, kind: EventKind) -> list[bytes]:
    """The bodies of the events of one kind on its chain."""
    drafts = (draft for draft in member.chain if draft.type is BlockType.EVENT)
    found = (Event.parse(draft.record) for draft in drafts)
    return [event.body for event in found if event.kind == kind]


class SimulatedMember:
    """A session, its chain as a list of drafts, and what was shown."""

    def __init__(
        self,
        room: SimulatedRoom,
        name: str,
        memory: Memory | None = None,
        password: bytes = b"",
        nick: str = "",
        heads: Heads | None = None,
    ) -> None:
        self.room = room
        self.name = name
        self.chain: list[Draft] = []  # what it appended
        self.appended_ms: list[int] = []  # when, for each of the chain
        self.lines: list[Line] = []
        self.effects: list[Effect] = []
        self.coins = 0
        self.remembered: dict[tuple[str, bytes], bytes] = {}
        self.exit_code: int | None = None
        self.closed: int | None = None
        self.refused: list[str] = []
        self.witnessed: list[Witnessed] = []
        self.sent: list[bytes] = []  # every frame that it gave to the relay
        self.inbox: deque[bytes] = deque()
        self.session_id = b""
        self.bundle = b""
        number = room.joins.setdefault(name, 0)
        room.joins[name] += 1
        self.session = Session(
            keystore(name),
            room.secret,
            nick or name,
            session_keys(name, number % _SESSION_KEYS),
            room.now,
            memory=memory,
            heads=heads,
            password=password,
        )

    # -------------------------------------------------------------- what happens to it

    def types(self, line: str) -> None:
        """A typed line, and all that follows from it at this instant."""
        self.perform(self.session.typed(line, self.room.now))
        self.room.settle()

    def tick(self) -> None:
        """The engine's tick."""
        self.perform(self.session.tick(self.room.now, self.head()))

    def perform(self, effects: list[Effect]) -> None:
        """As the engine does: appends first."""
        self.effects += effects
        self.chain += [e.draft for e in effects if isinstance(e, Append)]
        blocks = self.room.blocks[self.name]
        for draft in self.chain[len(self.appended_ms) :]:
            self.appended_ms.append(self.room.now.ms)
            self.room.drafts[self.name].append(draft)
            blocks.append(hashlib.sha256(blocks[-1] + draft.record).digest())
        for effect in effects:
            match effect:
                case Transmit(frame):
                    self.sent.append(frame)
                    if self in self.room.connected:
                        self.room.carry(self, frame)
                case Show(line):
                    self.lines.append(line)
                case Credit():
                    self.coins += 1
                case Remember(row):
                    self.remembered[row.table, row.key] = row.value
                    if not row.value:
                        del self.remembered[row.table, row.key]
                case Refuse(text):
                    self.refused.append(text)
                case Leave(code):
                    self.exit_code = code
                    self.room.gone(self, LeaveReason.LEFT)
                case Close(code):
                    self.closed = code
                    self.room.gone(self, LeaveReason.LEFT)
                case MakeSessionKey():
                    number = self.room.joins[self.name]
                    self.room.joins[self.name] += 1
                    sek = session_keys(self.name, number % _SESSION_KEYS)
                    self.perform(self.session.session_key_made(sek, self.room.now))
                case Witnessed():
                    self.witnessed.append(effect)
                case Serve():
                    answer = self.archive().answer(
                        effect.question, effect.asker.fingerprint, effect.tags, self.head().index
                    )
                    self.perform(self.session.serve(effect, answer))
                case Append() | Ready() | Query():
                    pass

    def head(self) -> Head:
        """Of what this run and those before it appended."""
        blocks = self.room.blocks[self.name]
        head = signed_head(self.name, len(blocks) - 1, blocks[-1])
        self.room.heads.add(head)
        return head

    def archive(self) -> Archive:
        """Of what this run and those before it appended; block 0 is the genesis."""
        drafts = self.room.drafts[self.name]
        archive = Archive(lambda index: drafts[index - 1].record)
        for index, draft in enumerate(drafts, 1):
            archive.note(index, draft.type, draft.record)
        return archive

    def asks(self, command: str) -> list[str]:
        """The notices that answer a typed command."""
        before = len(self.notices)
        self.types(command)
        return self.notices[before:]

    def hears(self, *frames: bytes) -> list[Effect]:
        """Frames from the relay that nobody sent; the effects that they lead to."""
        before = len(self.effects)
        for frame in frames:
            self.perform(self.session.receive(Frame(frame), self.room.now))
        self.room.settle()
        return self.effects[before:]

    # -------------------------------------------------------------- what one can ask it

    @property
    def messages(self) -> list[str]:
        """As shown, without the tags behind the names."""
        return [
            f"{self._untagged(line.author)}: {line.text}"
            for line in self.lines
            if line.kind is Kind.MESSAGE
        ]

    @property
    def notices(self) -> list[str]:
        """Everything shown that is no message, as it is rendered."""
        return [line.render() for line in self.lines if line.kind is not Kind.MESSAGE]

    def said(self, part: str) -> bool:
        """Whether a notice holds `part`."""
        return any(part in notice for notice in self.notices)

    @property
    def alerts(self) -> list[str]:
        """Every `!! ` line."""
        return [line.text for line in self.lines if line.kind is Kind.ALERT]

    @property
    def counts(self) -> dict[str, int]:
        """Frames that came to nothing, by reason."""
        return dict(self.session.counts)

    def payloads(self, kind: type[AnyPayload]) -> list[AnyPayload]:
        """All that it sent, of one kind."""
        return [p for p in map(payload_of, self.sent) if isinstance(p, kind)]

    @property
    def memory(self) -> Memory:
        """What its next run knows."""
        return recall(list(zip(self.chain, self.appended_ms, strict=True)), self.remembered)

    @property
    def heads(self) -> Heads:
        """What its next run holds of others' chains."""
        rows = {key: row for (table, key), row in self.remembered.items() if table == HEADS_TABLE}
        return Heads(rows)

    @property
    def drafts(self) -> list[Draft]:
        """The chain but for whom it met: what it and others did."""
        pin = EventKind.PIN
        return [d for d in self.chain
                if d.type is not BlockType.EVENT or Event.parse(d.record).kind != pin]  # fmt: skip

    @property
    def entries(self) -> list[Entry]:
        """The entries on the chain, in its order."""
        kinds = (BlockType.SENT, BlockType.RECEIVED, BlockType.CONTROL)
        return [SignedEntry.parse(d.record).entry for d in self.chain if d.type in kinds]

    @property
    def texts(self) -> list[str]:
        """Of the chat entries on the chain."""
        return [e.text.decode() for e in self.entries if e.kind == EntryKind.CHAT]

    @staticmethod
    def _untagged(author: str) -> str:
        name, _, rest = author.partition("#")
        return name + (" (private)" if rest.endswith("(private)") else "")


class SimulatedRoom:
    """The relay, the network and the clock."""

    def __init__(self, secret: RoomSecret = LOBBY, password: bytes = b"") -> None:
        self.secret = secret
        self.password = password
        self.now = START
        self.members: list[SimulatedMember] = []  # whom the relay lets hear each other
        self.connected: list[SimulatedMember] = []
        self.joins: dict[str, int] = {}
        # By name: the hashes of that person's blocks, over all runs.
        self.blocks: dict[str, list[bytes]] = defaultdict(lambda: [b"genesis".ljust(32)])
        self.drafts: dict[str, list[Draft]] = defaultdict(list)  # likewise, the records
        self.heads: set[Head] = set()  # all that anybody signed
        self.captured: list[bytes] = []  # every frame that the relay saw
        self.tamper: Tamper | None = None
        self.is_syncing = True  # False: nobody hears what others ask to catch up
        self.is_slow = False  # frames are on their way until `arrive`
        self._in_flight: deque[SimulatedMember] = deque()  # in the order of sending
        self._nonce = bytes(32)

    def join(
        self,
        name: str,
        memory: Memory | None = None,
        password: bytes = b"",
        nick: str = "",
        heads: Heads | None = None,
    ) -> SimulatedMember:
        """A new run of `name`'s client, as far as its first WELCOME."""
        member = SimulatedMember(self, name, memory, password, nick, heads)
        self.connect(member)
        return member

    def connect(self, member: SimulatedMember) -> None:
        """A connection, and all that follows from it at this instant."""
        self.connected.append(member)
        member.perform(member.session.connected())
        hello = Hello(1, 1, self._nonce, bool(self.password))
        self.deliver(None, member, hello.serialize())
        self.settle()

    def disconnect(self, member: SimulatedMember) -> None:
        """A connection is lost, and both sides notice."""
        self.gone(member, LeaveReason.TIMEOUT)
        member.perform(member.session.disconnected("the cable was pulled", self.now))
        self.settle()

    def carry(self, sender: SimulatedMember, data: bytes) -> None:
        """What the relay does with a client's frame."""
        if not self.is_syncing and isinstance(payload_of(data), Sync):
            return
        self.captured.append(data)
        frame = Frame(data)
        match frame.type:
            case FrameType.JOIN:
                self._admit(sender, Join.parse(frame.body))
            case FrameType.BROADCAST:
                Broadcast.parse(frame.body)
                for member in self.members:
                    self.deliver(sender, member, data)
            case FrameType.DIRECT:
                recipient = Direct.parse(frame.body).session_id
                for member in self.members:
                    if member.session_id == recipient:
                        self.deliver(sender, member, data)
            case FrameType.REBUNDLE:
                sender.bundle = Rebundle.parse(frame.body).bundle
                for member in self.members:
                    if member is not sender:
                        add = Add(sender.session_id, sender.bundle).serialize()
                        self.deliver(None, member, add)
            case _:
                raise AssertionError(f"a client sent a frame of type {frame.type}")

    def _admit(self, member: SimulatedMember, join: Join) -> None:
        if self.password:
            expected = join_proof(
                self.password, self._nonce, join.room_tag, join.session_id, join.bundle
            )
            assert join.proof == expected
        member.session_id, member.bundle = join.session_id, join.bundle
        others = [Member(m.session_id, m.bundle) for m in self.members]
        for frame in self._cut(welcome_frames(others)):
            self.deliver(None, member, frame)
        for other in self.members:
            self.deliver(None, other, Add(join.session_id, join.bundle).serialize())
        self.members.append(member)

    def gone(self, member: SimulatedMember, reason: LeaveReason) -> None:
        """The relay noticed that a connection ended."""
        if member in self.connected:
            self.connected.remove(member)
        if member in self.members:
            self.members.remove(member)
            for other in self.members:
                self.deliver(None, other, Del(member.session_id, reason).serialize())
        member.inbox.clear()

    def crash(self, member: SimulatedMember) -> None:
        """A member is gone without a word."""
        self.gone(member, LeaveReason.TIMEOUT)
        self.settle()

    def deliver(
        self, sender: SimulatedMember | None, receiver: SimulatedMember, data: bytes
    ) -> None:
        """Into the receiver's inbox, unless the relay lies."""
        frames = [data] if self.tamper is None else self.tamper(sender, receiver, data)
        receiver.inbox.extend(frames)
        self._in_flight.extend([receiver] * len(frames))

    def settle(self) -> None:
        """Until no frame is on its way, unless the network is slow."""
        while self._in_flight and not self.is_slow:
            receiver = self._in_flight.popleft()
            if receiver.inbox:
                frame = Frame(receiver.inbox.popleft())
                receiver.perform(receiver.session.receive(frame, self.now))

    def arrive(self, number: int) -> bool:
        """The next frame of one member whom any waits for; False if there is none."""
        waiting = [member for member in self.connected if member.inbox]
        if not waiting:
            return False
        receiver = waiting[number % len(waiting)]
        frame = Frame(receiver.inbox.popleft())
        receiver.perform(receiver.session.receive(frame, self.now))
        return True

    def passes(self, seconds: float, step: float = 0.5) -> None:
        """Time passes for everybody."""
        while seconds > 0:
            moved = min(step, seconds)
            seconds -= moved
            self.now = Moment(self.now.s + moved, self.now.ms + int(moved * 1000))
            self.tick()

    def tick(self) -> None:
        """Everybody's engine ticks."""
        for member in list(self.members):
            member.tick()
        self.settle()

    @staticmethod
    def _cut(data: bytes) -> list[bytes]:
        decoder = FrameDecoder(MAX_FRAME_BYTES)
        decoder.feed(data)
        return [frame.raw for frame in decoder]
