"""One member's rules: a frame, a typed line or the passing of time in, effects out.

What lives here: everything that decides what a client says, believes, shows and keeps.  What it
does not know: sockets, threads, files, clocks, SQLite.  Every method that needs the time is given
a `Moment`; every method returns effects, which the caller performs in the order given, appends
first: all `Append`s of a batch are on disk before the first other effect is performed.

    effects = session.receive(frame, now)       # a Frame from the relay
    effects = session.typed("hello", now)       # a line from the person
    effects = session.tick(now, chain.head())   # at least each 100 ms, with nothing unperformed

Specified in docs/PROTOCOL.md, sections 2 (as a client) and 3.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from contextlib import suppress
from enum import Enum, auto

from chat_acks import Acks, Conversation, Dropped
from chat_blocks import BlockType, Draft, Head, SideRow
from chat_commands import HELP, Command, Typed, mentions, read_typed
from chat_effects import (
    Append,
    Close,
    Credit,
    Effects,
    Leave,
    MakeSessionKey,
    Moment,
    Named,
    Query,
    Ready,
    Refuse,
    Remember,
    Serve,
    Show,
    Transmit,
    alert,
    error,
    notice,
    number,
    record,
)
from chat_feeds import Arrival, OurFeed, TheirFeed
from chat_heard import Feed, Heard
from chat_memory import MEMBERS_TABLE, Memory, kept_of
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    Ack,
    Bundle,
    Entry,
    EntryKind,
    EventKind,
    FeedReport,
    KeyRefusal,
    KeyRequest,
    KeyShare,
    Message,
    Payload,
    RefusalReason,
    SignedEntry,
    Sync,
    Witness,
    check_nick,
    parse_payload,
    session_id_of,
)
from chat_people import COMMANDS as PEOPLE_COMMANDS
from chat_people import People
from chat_pins import Meeting
from chat_receipts import Receipts
from chat_roster import Roster
from chat_sync import CatchingUp
from chat_sync_bodies import Ask, AskLater, Entries, Fetch, Gained, parse_body
from chat_terminal import Field, Kind, Line
from chat_trust import Trust, Unread
from chat_wire import (
    MAX_TEXT_BYTES,
    Add,
    Broadcast,
    Del,
    Direct,
    Error,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Join,
    LeaveReason,
    Member,
    Rebundle,
    Welcome,
    WireError,
    join_proof,
    u64,
)
from chat_witness import Heads
from crypto_utils import (
    CryptoError,
    EncryptionManager,
    Keystore,
    KeyUsed,
    RoomSecret,
    SigningKey,
    TooFarAhead,
    pair_tag,
)

__all__ = ["Session"]

SEK_MAX_AGE_S = 3600.0
# Making the next SEK starts before the old one is over, so that none is used beyond its hour.
_SEK_RENEW_AFTER_S = SEK_MAX_AGE_S - 60.0
_SEK_GRACE_S = 120.0  # what was wrapped to the old one may still be on its way
# What an ack names and we lack is asked for after this, unless it comes by itself.
_MAY_STILL_COME_S = 10.0
_ANSWER_EVERY_S = 2.0  # key requests of one session in one conversation that we answer


# --------------------------------------------------------------------------- state


class _State(Enum):
    OFFLINE = auto()
    CONNECTED = auto()  # HELLO is awaited
    JOINING = auto()  # the last WELCOME is awaited
    JOINED = auto()
    CLOSING = auto()  # we said Close; what is still on its way is of no use


class Session:
    """One run's membership of one room.  Owned by the engine's thread."""

    def __init__(
        self,
        keystore: Keystore,
        room: RoomSecret,
        nick: str,
        sek: EncryptionManager,
        now: Moment,
        *,
        room_name: str = "lobby",
        memory: Memory | None = None,
        heads: Heads | None = None,
        password: bytes = b"",
        linger_s: float = 10.0,
    ) -> None:
        """Raises ValueError for a nick outside the grammar (`check_nick`).

        Args:
            room_name: what the person calls the room.
        """
        memory = memory or Memory()
        self._keystore = keystore
        self._room = room
        self._room_name = room_name
        self._password = password
        self._linger_s = linger_s
        self._key = SigningKey.generate()
        self._session_id = session_id_of(keystore.identity.fingerprint, self._key.public)
        self._seks: list[tuple[int, EncryptionManager]] = []
        self._old_sek_dies_s = 0.0
        self._sek_made_s = now.s
        self._sek_asked = False
        self._nick = nick  # of the next bundle
        our = self._new_bundle(sek)
        self._roster = Roster(our, memory.known, now.ms, memory.pins)
        self._trust = Trust(memory.pins, self._roster)
        self._new_here: list[bytes] = []  # fingerprints in this WELCOME that we never met
        self._said_later: Effects = []  # of who is in it, once it is complete
        self._people = People(self._roster, self._trust, memory.ignored)
        tags = {room.tag, *map(self._pair_tag, self._roster.known)}
        self._heard = Heard(memory, self._roster, tags, now.ms)
        self._acks = Acks(self._key, self._roster, heads or Heads())
        self._catching_up = CatchingUp(self._key, self._roster, memory.told, self._heard.unheld)
        self._caught_up = 0  # messages that others handed on, since that was said last
        self._conversations: dict[bytes, Conversation] = {}
        self._receipts = Receipts(self._conversations, self._roster, self._acks)
        self._room_conversation = self._conversation(room.tag, None)
        self._state = _State.OFFLINE
        self._was_ready = False
        self._joined_with = b""  # the bundle that the relay has of us
        self._said_refused = False  # on this connection
        # Since we were in the room: why we closed, and that the connection is lost.
        self._said_closed = self._said_kept = self._said_asked = False
        self._leaving_by_s: float | None = None
        self.counts: Counter[str] = Counter()  # frames that came to nothing, by reason

    # ----------------------------------------------------------------- the connection

    @property
    def our_name(self) -> str:
        """nick#tag of our own."""
        return self._roster.name(self._our.fingerprint)

    @property
    def joined(self) -> bool:
        """Whether we are in the room now."""
        return self._state is _State.JOINED

    @property
    def _our(self) -> Bundle:
        return self._roster.our

    def names(self) -> list[str]:
        """Everybody who is here, for completing what is typed."""
        return [self._roster.name(f) for f in self._roster.people()]

    def status_row(self) -> str:
        """Where we are, in a few words."""
        others = len(self._roster.people())
        here = f"{number(others, 'other')} here" if self.joined else "not connected"
        parts = [self.our_name, self._room_name, here]
        if doubted := self._trust.changed():
            parts.append(f"{number(doubted, 'key')} not accepted")
        if waiting := self.unsent():
            parts.append(f"{waiting} not delivered")
        return " | ".join(parts)

    def connected(self) -> Effects:
        """A connection to the relay was made; it speaks first."""
        self._state, self._said_refused = _State.CONNECTED, False
        return []

    def disconnected(self, why: str, now: Moment) -> Effects:
        """The connection is gone; what is typed from here on is kept."""
        self._state = _State.OFFLINE
        for feed in self._heard.feeds.values():
            self._stop_waiting(feed)
        for conversation in self._conversations.values():
            conversation.ours.forget(self._roster.live)
        self._acks.left(self._roster.live)
        self._catching_up.left(self._roster.live)
        self._count_unread(self._trust.cleared())
        self._roster.clear(now.s, now.ms)
        effects = self._acks.keep(now.s, at_once=True) + self._say_later()
        if self._said_kept or self.leaving:
            return effects
        self._said_kept = True
        kept = "what you type is kept, and delivered when it is back" if self._was_ready else ""
        if self._said_closed:  # and why
            lost = notice(f"connection lost; {kept}", "connection_lost", why=why)
            return [*effects, *([lost] if kept else [])]
        text = f"connection lost: {why}{'; ' if kept else ''}{kept}"
        return [*effects, alert(text, "connection_lost", why=why)]

    def receive(self, frame: Frame, now: Moment) -> Effects:
        """A frame from the relay, whose word is never evidence of who somebody is.

        Never raises: what cannot be understood closes the connection, as PROTOCOL.md 2.2 says.
        """
        if self._state in (_State.OFFLINE, _State.CLOSING):
            return self._dropped("after the end")
        try:
            return self._receive(frame, now)
        except Dropped as exc:
            return self._dropped(str(exc))
        except WireError as exc:
            why = alert(f"the relay broke the protocol: {exc}", "protocol_broken")
            return self._close(why, 3)

    def _close(self, why: Show, exit_code: int, *, is_asked: bool = False) -> Effects:
        """Said once, however often it is tried again.

        Args:
            is_asked: a person has to do something: said once as well, whatever was said before.
        """
        self._state = _State.CLOSING
        is_known = self._said_asked if is_asked else self._said_closed or self._said_kept
        self._said_asked |= is_asked
        self._said_closed = True
        return [*([] if is_known else [why]), Close(exit_code)]

    def _receive(self, frame: Frame, now: Moment) -> Effects:
        expected = {
            _State.CONNECTED: (FrameType.HELLO, FrameType.ERROR),
            _State.JOINING: (FrameType.WELCOME, FrameType.ERROR),
            _State.JOINED: (
                FrameType.BROADCAST,
                FrameType.DIRECT,
                FrameType.ADD,
                FrameType.DEL,
                FrameType.ERROR,
            ),
        }.get(self._state, ())
        if frame.type not in expected:
            raise WireError(f"a frame of type {frame.type} does not belong here")
        match frame.type:
            case FrameType.BROADCAST:
                return self._payload(Broadcast.parse(frame.body).payload, frame, now, direct=False)
            case FrameType.DIRECT:
                direct = Direct.parse(frame.body)
                if direct.session_id != self._session_id:
                    return self._dropped("misdirected")
                return self._payload(direct.payload, frame, now, direct=True)
            case FrameType.ADD:
                add = Add.parse(frame.body)
                return self._added(Member(add.session_id, add.bundle), now, said=True)
            case FrameType.DEL:
                return self._deleted(Del.parse(frame.body), now)
            case FrameType.HELLO:
                return self._hello(Hello.parse(frame.body))
            case FrameType.WELCOME:
                return self._welcome(Welcome.parse(frame.body), now)
            case _:
                return self._error(Error.parse(frame.body))

    def _hello(self, hello: Hello) -> Effects:
        if hello.needs_password and not self._password:
            wants = "this relay wants a password: --password-file FILE"
            return self._close(error(wants), 5, is_asked=True)
        proof = bytes(32)
        if hello.needs_password:
            proof = join_proof(
                self._password, hello.nonce, self._room.tag, self._session_id, self._our.raw
            )
        self._state, self._joined_with = _State.JOINING, self._our.raw
        join = Join(self._room.tag, self._session_id, proof, self._our.raw)
        return [Transmit(join.serialize())]

    def _welcome(self, welcome: Welcome, now: Moment) -> Effects:
        effects: Effects = []
        for member in welcome.members:
            for effect in self._added(member, now, said=False):
                (self._said_later if isinstance(effect, Show) else effects).append(effect)
        if not welcome.last:
            return effects
        self._state = _State.JOINED
        for conversation in self._conversations.values():
            conversation.will_report(s for tag, s in self._heard.feeds if tag == conversation.tag)
        for bundle in self._roster.live.values():
            self._acks.joined(bundle, now.s)
        self._room_conversation.owe_at_once(now.s)
        effects += self._announce()
        doubted = self._trust.withheld()
        here = [self._roster.name(f) for f in self._roster.people() if f not in doubted]
        fields: dict[str, Field] = {
            "you": self.our_name,
            "fingerprint": self._our.fingerprint.hex(),
            "room": self._room_name,
            "members": here,
        }
        text = f"in the room: {', '.join(here) or 'nobody else yet'}"
        if self._was_ready:
            effects.append(notice(f"connected again; {text}", "connected_again", **fields))
        else:
            effects.append(Show(Line(Kind.DIALOGUE, "Connected! Type your messages below.")))
            effects.append(notice(f"you are {self.our_name}; {text}", "ready", **fields))
        effects += self._say_later()
        if self._roster.sessions_of(self._our.fingerprint):
            effects.append(
                notice(
                    "your own identity is in the room already: a run of yours that ended without "
                    "a word and will be noticed soon, or a copy of your profile"
                )
            )
        if self._was_ready:
            effects += self._resume(now)
        self._was_ready = True
        self._said_closed = self._said_kept = self._said_asked = False
        return [*effects, Ready()]

    def _say_later(self) -> Effects:
        """What was pinned is said, whatever became of WELCOME."""
        effects, new = self._said_later, sorted(map(self._roster.name, self._new_here))
        here = len(self._roster.people()) - len(self._trust.withheld())
        self._new_here, self._said_later = [], []
        if not new:
            return effects
        are = "all new to you" if len(new) == here > 1 else f"new to you: {', '.join(new)}"
        return [notice(f"{are}; /verify NAME compares keys", "new", names=new), *effects]

    def _resume(self, now: Moment) -> Effects:
        """What was on its way when the connection was lost, once more as the same bytes, and then
        what was written since."""
        effects: Effects = []
        for conversation in self._conversations.values():
            effects += conversation.again(self._roster)
        for conversation in self._conversations.values():
            effects += self._send_pending(conversation, now)
        return effects

    def _send_pending(self, conversation: Conversation, now: Moment) -> Effects:
        """Under the audience that each was written for, less who is ignored or doubted by now."""
        without = self._people.without()
        if not (conversation.pending and self.joined and self._is_heard(conversation)):
            return []
        if conversation.peer in without:
            return []
        effects: Effects = []
        pending, conversation.pending = conversation.pending, []
        for signed, audience in pending:
            readers = audience - without
            effects += self._give_keys(conversation, readers, signed.entry.seq, now)
            effects += self._transmit(conversation, signed)
        return effects

    def _error(self, frame: Error) -> Effects:
        code = 5 if frame.code == ErrorCode.PASSWORD else 3
        is_asked = frame.code in (ErrorCode.PASSWORD, ErrorCode.VERSION)
        why = error(f"the relay closed the connection: {frame.text}")
        return self._close(why, code, is_asked=is_asked)

    # ----------------------------------------------------------------- presence

    def _added(self, member: Member, now: Moment, *, said: bool) -> Effects:
        try:
            bundle = Bundle.parse(member.bundle, self._room)
            if bundle.session_id != member.session_id or member.session_id == self._session_id:
                raise WireError("the bundle is of another session")
            if self._heard.is_another(bundle):
                raise WireError("the session is somebody else's")
        except (WireError, CryptoError) as exc:
            self.counts["bundle refused"] += 1
            if self._said_refused:
                return []
            self._said_refused = True
            text = f"refused a member whose bundle does not hold: {exc}"
            return [alert(text, "refused_member")]
        before = self._roster.live.get(bundle.session_id)
        if before is not None and bundle.raw == before.raw:
            return []
        if before is not None and not (said and bundle.may_follow(before)):
            return self._dropped("stale bundle")
        if before is None and self._roster.is_full:
            return self._dropped("one member too many")
        fingerprint = bundle.fingerprint
        is_again = bool(self._roster.sessions_of(fingerprint)) and before is None
        met = self._roster.known.get(fingerprint)
        called = self._roster.name(fingerprint)
        self._forget_people(self._roster.add(bundle, now.s, now.ms))
        self._room_conversation.owe()
        self._restate(bundle)
        if fingerprint == self._our.fingerprint:
            copy = "your own identity joined from elsewhere: somebody uses a copy of your profile"
            return [alert(copy, "own_copy")] if before is None and said else []
        if before is None and said:
            self._acks.joined(bundle, now.s)
        meeting = self._trust.meet(bundle, now.s)
        if meeting is Meeting.CHANGED:
            return []  # in silence, until it is known whether this is another of that name
        effects: Effects = []
        if met is not None and met.nick != bundle.nick:
            name = self._roster.name(fingerprint)
            text = f"{called} is now called {name}"
            fields = {"name": name, "before": called, "fingerprint": fingerprint.hex()}
            effects.append(notice(text, "renamed", **fields))
            if meeting is Meeting.KNOWN:  # else it is pinned anyway
                effects.append(record(EventKind.PIN, fingerprint + bundle.nick.encode()))
        if meeting is Meeting.NEW and not said:
            self._new_here.append(fingerprint)
        is_joining = said and (before is None or self._trust.doubts(bundle.session_id))
        effects += self._take_in(bundle, meeting, now, said=is_joining, is_again=is_again)
        return effects

    def _forget_people(self, fingerprints: list[bytes]) -> None:
        self._heard.outdated += [
            SideRow(MEMBERS_TABLE, self._room.tag + forgotten, b"") for forgotten in fingerprints
        ]

    def _take_in(
        self,
        bundle: Bundle,
        meeting: Meeting,
        now: Moment,
        *,
        said: bool,
        is_again: bool = False,
    ) -> Effects:
        """Somebody whose key is believed: met from here on, and read."""
        key, value = self._room.tag + bundle.fingerprint, u64(now.ms) + bundle.nick.encode()
        effects: Effects = [Remember(SideRow(MEMBERS_TABLE, key, value))]
        introduced = self._trust.introduce(bundle, meeting)
        if said:
            name = self._roster.name(bundle.fingerprint)
            how = f" (new to you: /verify {name})" if meeting is Meeting.NEW else ""
            fields = {"name": name, "fingerprint": bundle.fingerprint.hex()}
            text = f"{name} joined{' once more' if is_again else ''}{how}"
            effects.append(notice(text, "joined", **fields))
        effects += introduced
        for unread in self._trust.take_unread(bundle.session_id):
            effects += self._payload(unread.payload, unread.frame, now, direct=unread.direct)
        pair = self._conversations.get(self._pair_tag(bundle.fingerprint))
        return effects + (self._send_pending(pair, now) if pair else [])

    def _decided(self, now: Moment) -> Effects:
        """Of doubted members: who is another of that name, and whose key was changed."""
        effects: Effects = []
        for bundle, meeting in self._trust.decide(now.s, self._acks.interval_s):
            if meeting is Meeting.CHANGED:
                effects += self._trust.introduce(bundle, meeting)
            else:
                effects += self._take_in(bundle, meeting, now, said=True)
        return effects

    def _count_unread(self, frames: int) -> None:
        if frames:
            self.counts["of a key that is not accepted"] += frames

    def _deleted(self, gone: Del, now: Moment) -> Effects:
        bundle = self._roster.remove(gone.session_id, now.s, now.ms)
        if bundle is None:
            return self._dropped("unknown member left")
        self._room_conversation.owe()
        self._acks.left([bundle.session_id])
        self._catching_up.left([bundle.session_id])
        is_silent = self._trust.is_undecided(bundle.session_id)
        self._count_unread(self._trust.left(bundle.session_id))
        for conversation, feed in self._of_session(bundle):
            if conversation is not None:
                conversation.ours.forget([bundle.session_id])
            if feed is not None:
                self._stop_waiting(feed)
                feed.author_left(now.s)
        if bundle.fingerprint == self._our.fingerprint:
            return [notice("the other session under your own identity is gone")]
        why = {
            LeaveReason.TIMEOUT: " (connection lost)",
            LeaveReason.SLOW_CONSUMER: " (too slow)",
            LeaveReason.BAD_FRAME: " (broke the protocol)",
        }.get(gone.reason, "")  # type: ignore[call-overload]
        name = self._roster.name(bundle.fingerprint)
        if is_silent:  # nor was it said that it came
            return []
        if self._roster.sessions_of(bundle.fingerprint):
            return [notice(f"an earlier session of {name} ended{why}")]
        fields = {"name": name, "fingerprint": bundle.fingerprint.hex()}
        return [notice(f"{name} left{why}", "left", **fields)]

    def _of_session(self, bundle: Bundle) -> list[tuple[Conversation | None, TheirFeed | None]]:
        """The two conversations that a session can write to us in, and its feeds there, as far as
        there are any."""
        return [
            (self._conversations.get(tag), self._heard.feeds.get((tag, bundle.session_id)))
            for tag in (self._room.tag, self._pair_tag(bundle.fingerprint))
        ]

    def _restate(self, bundle: Bundle) -> None:
        """Who comes, or comes back, is told again how far we have what it wrote."""
        for peer in (None, bundle.fingerprint):
            tag = self._room.tag if peer is None else self._pair_tag(peer)
            feed = self._heard.feeds.get((tag, bundle.session_id))
            if feed is None:
                continue
            feed.author_came()
            if feed.last_id:
                self._conversation(tag, peer).owe(bundle.session_id)

    # ----------------------------------------------------------------- payloads

    def _dropped(self, why: str) -> Effects:
        self.counts[why] += 1
        return []

    def _payload(self, data: bytes, frame: Frame, now: Moment, *, direct: bool) -> Effects:
        try:
            payload = parse_payload(data)
        except WireError:
            return self._dropped("malformed")
        if payload.session_id == self._session_id:
            return self._echo(payload, frame)
        author = self._roster.live.get(payload.session_id)
        if author is None:
            return self._dropped("of no member")
        if author.fingerprint == self._our.fingerprint:  # see `_reachable`
            return self._dropped("of another session of ours")
        if payload.tag == self._room.tag:
            for_room = True
        elif payload.tag == self._pair_tag(author.fingerprint):
            for_room = False
        else:
            return self._dropped("of another conversation")
        # Messages and acks go the conversation's own way, all else is direct always.
        if direct != (not for_room or not isinstance(payload, Message | Ack)):
            return self._dropped("came the wrong way")
        if isinstance(payload, Message | KeyShare) and self._trust.doubts(author.session_id):
            if not self._trust.hold(author.session_id, Unread(data, frame, direct)):
                self._count_unread(1)
            return []
        if isinstance(payload, Message):
            return self._message(payload, author, now)
        try:
            payload.verify(author.session_key)
        except CryptoError:
            return self._dropped("bad signature")
        match payload:
            case KeyShare():
                return self._key_share(payload, author, now)
            case KeyRequest():
                return self._key_request(payload, author, now)
            case KeyRefusal():
                return self._key_refusal(payload, author)
            case Ack():
                return self._ack(payload, author, now)
            case Witness():
                return self._acks.take_witness(payload, author)
            case Sync():
                return self._sync(payload, author, now)

    def _echo(self, payload: Payload, frame: Frame) -> Effects:
        """The relay's copy of what we sent: our receipt that it went out, and unaltered."""
        conversation = self._conversations.get(payload.tag)
        if not isinstance(payload, Message) or conversation is None:
            return []
        conversation.take_echo(payload, frame.raw)
        return []

    def _message(self, message: Message, author: Bundle, now: Moment) -> Effects:
        feed = self._heard.feed(message.tag, message.session_id)
        if not feed.has_key(message.epoch):
            return self._hold(message, feed, author, now)
        try:
            signed = feed.open(message, author.session_key)
        except KeyUsed:
            return self._dropped("duplicate")
        except TooFarAhead:
            return self._dropped("too far ahead")
        except (CryptoError, WireError):
            return self._dropped("altered")
        entry = signed.entry
        missing_before, highest = feed.missing_count(), feed.highest
        match feed.accept(entry, now.ms):
            case Arrival.DUPLICATE:
                return self._dropped("duplicate")
            case Arrival.NOT_OURS:
                return self._dropped("before our time")
            case Arrival.FORK:
                return self._forked(signed, feed, author)
        peer = None if message.tag == self._room.tag else author.fingerprint
        effects = self._keep(signed, feed, author, peer)
        conversation = self._conversation(message.tag, peer)
        if author.fingerprint in self._people.ignored:
            return effects
        name = self._roster.name(author.fingerprint)
        if (missed := feed.missing_count() - missing_before) > 0:
            self._catching_up.lack(
                (feed.tag, feed.session_id),
                [(max(highest + 1, feed.first_seq), entry.seq - 1)],
                author.session_id,
                now.s,
                within_s=_MAY_STILL_COME_S,
            )
            text = f"{number(missed, 'message')} of {name} missing, fetching"
            effects.append(notice(text, "missing", name=name, count=missed))
        if entry.kind == EntryKind.CHAT:
            conversation.seen = entry.entry_id
            effects.append(self._shown(author, entry, is_private=bool(conversation.peer)))
        elif entry.kind not in tuple(EntryKind):
            effects.append(notice(f"{name} sent something of kind {entry.kind}; kept, not shown"))
        return effects

    def _forked(self, signed: SignedEntry, feed: TheirFeed, author: Bundle) -> Effects:
        """An entry that its author signed and that cannot stand beside what is on our chain: not
        shown and not handed on; its head is kept, which with the other's convinces anybody."""
        self.counts["fork"] += 1
        if feed.is_forked:
            return []
        feed.is_forked = True
        name = self._roster.name(author.fingerprint)
        text = (
            f"FORK: {name} signed two different messages in one place; both are kept as proof: "
            f"export --format proof FILE"
        )
        fields: dict[str, Field] = {"name": name, "fingerprint": author.fingerprint.hex()}
        proof = record(EventKind.FORK, kept_of(signed.serialize()))
        return [*self._heard.record_bundle(author), proof, alert(text, "fork", **fields)]

    def _keep(
        self, signed: SignedEntry, feed: TheirFeed, author: Bundle, peer: bytes | None
    ) -> Effects:
        """An entry that the feed took: onto our chain, and into our next ack."""
        self._conversation(feed.tag, peer).owe(feed.session_id)
        return self._heard.keep(signed, feed, author)

    def _shown(
        self, author: Bundle, entry: Entry, *, is_private: bool, via: Bundle | None = None
    ) -> Show:
        """A message for the person; `via` handed it on."""
        text, name = entry.text.decode(), self._roster.name(author.fingerprint)
        mention = is_private or mentions(text, self._our.nick)
        how = ["private"] if is_private else []
        if via is not None:
            is_own = via.fingerprint == author.fingerprint
            how.append("late" if is_own else f"late, via {self._roster.name(via.fingerprint)}")
        label = f"{name} ({', '.join(how)})" if how else name
        fields: dict[str, Field] = {
            "from": name,
            "nick": author.nick,
            "fingerprint": author.fingerprint.hex(),
            "verified": self._trust.is_verified(author.fingerprint),
            "private": is_private,
            "sent_ms": entry.sent_ms,
            "mention": mention,
            "late": via is not None,
        }
        line = Line(Kind.MESSAGE, text, label, entry.sent_ms, fields=fields, mention=mention)
        return Show(line)

    def _hold(self, message: Message, feed: TheirFeed, author: Bundle, now: Moment) -> Effects:
        if why := feed.wait_for(message.epoch, now.s):
            return self._dropped(why)
        of_session = [other for _, other in self._of_session(author) if other is not None]
        return [] if self._heard.hold(message, feed, of_session) else self._dropped("not held")

    def _drop_held(self, feed: TheirFeed, why: str) -> None:
        if dropped := len(self._heard.take_held(feed)):
            self.counts[why] += dropped

    def _stop_waiting(self, feed: TheirFeed) -> None:
        if dropped := self._heard.stop_waiting(feed):
            self.counts["no key came"] += dropped

    # ----------------------------------------------------------------- keys

    def _key_share(self, share: KeyShare, author: Bundle, now: Moment) -> Effects:
        if share.recipient != self._session_id:
            return self._dropped("misdirected")
        sek = next((k for number, k in self._seks if number == share.sek_number), None)
        feed = self._heard.feed(share.tag, share.session_id)
        if feed.has_key(share.epoch):
            return []  # its author cannot know what we still have when we come back
        if sek is None or not feed.may_unwrap(share, now.s):
            return self._dropped("key share of no use")
        try:
            chain_key = share.unwrap(sek)
        except CryptoError:
            return self._dropped("altered")
        feed.take_key(share, chain_key, self._room.mix, now.s)
        effects: Effects = []
        for message in self._heard.take_held(feed):
            if (message.epoch, message.n) < (share.epoch, share.n):
                self.counts["before our key"] += 1
            else:
                effects += self._message(message, author, now)
        return effects

    def _key_request(self, request: KeyRequest, asker: Bundle, now: Moment) -> Effects:
        if request.author != self._session_id:
            return self._dropped("misdirected")
        feed = self._heard.feed(request.tag, request.session_id)
        if now.s - feed.answered_s < _ANSWER_EVERY_S:
            return self._dropped("asked too often")
        feed.answered_s = now.s
        conversation = self._conversations.get(request.tag)
        if asker.fingerprint in self._people.without():
            answer: KeyShare | KeyRefusal = self._refusal(request, RefusalReason.ASK_LATER)
        elif conversation is None or conversation.ours.chain is None:
            answer = self._refusal(request, RefusalReason.NOT_FOR_YOU)
        else:
            answer = conversation.ours.share(asker)
        return [Transmit(Direct(asker.session_id, answer.serialize()).serialize())]

    def _refusal(self, request: KeyRequest, reason: RefusalReason) -> KeyRefusal:
        return KeyRefusal.create(self._key, self._session_id, request, reason)

    def _key_refusal(self, refusal: KeyRefusal, author: Bundle) -> Effects:
        feed = self._heard.feed(refusal.tag, refusal.session_id)
        if refusal.requester != self._session_id:
            return self._dropped("misdirected")
        if not feed.refuse(refusal.epoch):
            return self._dropped("refusal of no request")
        self._drop_held(feed, "not for us")
        if feed.said_refused or author.fingerprint in self._people.ignored:
            return []
        feed.said_refused = True
        name = self._roster.name(author.fingerprint)
        return [notice(f"{name} says things that are not for you to read")]

    # ----------------------------------------------------------------- acks and witnesses

    def _ack(self, ack: Ack, author: Bundle, now: Moment) -> Effects:
        conversation, feed = (
            self._conversations.get(ack.tag),
            self._heard.feed(ack.tag, ack.session_id),
        )
        is_next = ack.number == feed.ack_number + 1
        effects = self._acks.take(ack, author, conversation, feed, now)
        for report in {report.session_id: report for report in ack.feeds}.values():
            is_next &= self._heed(ack.tag, report, author, now)
        if ack.tag == self._room.tag:
            self._catching_up.heard(author, ack.head.index, now.s, is_next=is_next)
        return effects

    def _heed(self, tag: bytes, report: FeedReport, acker: Bundle, now: Moment) -> bool:
        """Whether what an acker has of somebody's feed is here, or asked for; of those whom we
        never met the acker tells when it is asked."""
        session_id = report.session_id
        feed, is_live = self._heard.feeds.get((tag, session_id)), session_id in self._roster.live
        first = feed.first_seq if feed else 0
        if report.seq < first or self._is_unwanted(session_id):
            return True
        if feed is None and not is_live:
            return False
        if feed is not None and feed.differs(report) and not feed.is_forked:
            self._catching_up.dispute((tag, session_id), report.seq, acker.session_id)
        if feed is not None and feed.highest >= report.seq and not feed.missing_count():
            return True
        # What the acker lacks too: no hole of its own is then in the answer of whoever is asked.
        lacking = self._heard.unheld((tag, session_id), (max(first, 1), report.seq))
        within_s = _MAY_STILL_COME_S if is_live else 0.0
        return not lacking or self._catching_up.lack(
            (tag, session_id), lacking, acker.session_id, now.s, within_s=within_s
        )

    # ----------------------------------------------------------------- catching up

    def _is_unwanted(self, session_id: bytes) -> bool:
        """Of ourselves, or of a key that is not accepted: when it is, all are asked anew."""
        live = self._roster.live.get(session_id)
        author = live.fingerprint if live else self._heard.author(session_id)
        return self._heard.is_ours(session_id) or author in self._trust.withheld()

    def _sync(self, sync: Sync, author: Bundle, now: Moment) -> Effects:
        if sync.recipient != self._session_id or sync.tag != self._room.tag:
            return self._dropped("misdirected")
        question = self._catching_up.answered(author.session_id, sync.request_id)
        if question is None and not self._catching_up.may_answer(author.session_id, now.s):
            return self._dropped("asked too often")
        sek = next((k for number, k in self._seks if number == sync.sek_number), None)
        try:
            if sek is None:
                raise Dropped("sealed to no key of ours")
            body = parse_body(sync.open(sek))
        except (Dropped, CryptoError, WireError) as exc:
            if question is not None:
                self._catching_up.ask_later(author.session_id, question, now.s)
            return self._dropped(str(exc) if isinstance(exc, Dropped) else "altered")
        match question, body:
            case None, Ask() | Fetch():
                return self._asked(author, sync.request_id, body)
            case Ask(), Gained():
                return self._told(question, body, author, now)
            case Fetch(), Entries() if body.deals_with(question):
                return self._handed_on(question, body, author, now)
            case Ask() | Fetch(), _:
                self._catching_up.ask_later(author.session_id, question, now.s)
                return []
            case _:
                return self._dropped("answer to no question")

    def _asked(self, asker: Bundle, request_id: bytes, question: Ask | Fetch) -> Effects:
        if asker.fingerprint in self._people.without():
            return [self._catching_up.transmit(asker.session_id, request_id, AskLater())]
        tags = frozenset((self._room.tag, self._pair_tag(asker.fingerprint)))
        return [Serve(asker, request_id, question, tags)]

    def serve(self, serve: Serve, answer: Gained | Entries) -> Effects:
        """What was found for somebody who asked."""
        if serve.asker.session_id not in self._roster.live:
            return []
        return [self._catching_up.transmit(serve.asker.session_id, serve.request_id, answer)]

    def _told(self, question: Ask, gained: Gained, author: Bundle, now: Moment) -> Effects:
        tags, by = (self._room.tag, self._pair_tag(author.fingerprint)), author.session_id
        is_all = True
        for tag, session_id, first, last in gained.ranges:
            feed = (tag, session_id)
            lacking = self._heard.unheld(feed, (first, last))
            if tag in tags and lacking and not self._is_unwanted(session_id):
                is_all = self._catching_up.lack(feed, lacking, by, now.s, is_sure=True)
                if not is_all:
                    break
        self._catching_up.told(author, question, gained, now.s, is_all=is_all)
        return []

    def _handed_on(self, question: Fetch, entries: Entries, via: Bundle, now: Moment) -> Effects:
        """Entries that somebody has for us, each checked as if it came from its author."""
        bundles: dict[bytes, Bundle] = {}
        for data in entries.bundles:
            with suppress(WireError, CryptoError):  # what it signed is then of no known session
                bundle = Bundle.parse(data, self._room)
                bundles[bundle.session_id] = bundle
        bundles |= self._roster.live
        effects: Effects = []
        shown: list[Show] = []
        for data in entries.entries:
            try:
                signed = SignedEntry.parse(data)
                author = bundles.get(signed.entry.session_id)
                if author is None or not question.covers(signed.entry):
                    raise Dropped("handed on, and not asked for")
                for effect in self._late(signed, author, via, now):
                    is_message = isinstance(effect, Show) and effect.line.kind is Kind.MESSAGE
                    (shown if is_message else effects).append(effect)  # type: ignore[arg-type]
            except Dropped as exc:
                self.counts[str(exc)] += 1
            except (WireError, CryptoError):
                self.counts["altered"] += 1
        self._catching_up.dealt_with(question, entries.done, via.session_id)
        self._caught_up += len(shown)
        shown.sort(key=lambda show: show.line.sent_ms)
        return [*effects, *shown]

    def _late(self, signed: SignedEntry, author: Bundle, via: Bundle, now: Moment) -> Effects:
        """An entry of `author` that `via` handed on.  Raises Dropped, CryptoError."""
        entry, person = signed.entry, author.fingerprint
        if person == self._our.fingerprint:
            raise Dropped("our own, handed on")
        if entry.tag not in (self._room.tag, self._pair_tag(person)):
            raise Dropped("of another conversation")
        if self._heard.is_another(author):
            raise Dropped("the session is somebody else's")
        signed.verify(author.session_key)
        effects = self._meet_absent(author, now)
        if person in self._trust.withheld():
            self.counts["of a key that is not accepted"] += 1
            return effects
        feed = self._heard.feed(entry.tag, entry.session_id)
        match feed.accept_late(entry, self._our.fingerprint[:AUDIENCE_ITEM_BYTES], now.ms):
            case Arrival.DUPLICATE:
                raise Dropped("duplicate")
            case Arrival.NOT_OURS:
                raise Dropped("handed on, and not for us")
            case Arrival.FORK:
                return effects + self._forked(signed, feed, author)
        peer = None if entry.tag == self._room.tag else person
        effects += self._keep(signed, feed, author, peer)
        if entry.kind == EntryKind.CHAT and person not in self._people.ignored:
            self._conversation(entry.tag, peer).seen = entry.entry_id
            effects.append(self._shown(author, entry, is_private=bool(peer), via=via))
        return effects

    def _meet_absent(self, bundle: Bundle, now: Moment) -> Effects:
        """Somebody whose bundle was handed on: it says whose words these are, never that it is
        here."""
        if bundle.fingerprint in self._roster.known:
            return []
        meeting = self._trust.judge_absent(bundle)
        self._forget_people(self._roster.met(bundle, now.ms))
        effects = self._trust.introduce(bundle, meeting)
        if meeting is Meeting.CHANGED:
            return effects
        key, value = self._room.tag + bundle.fingerprint, u64(now.ms) + bundle.nick.encode()
        return [*effects, Remember(SideRow(MEMBERS_TABLE, key, value))]

    def holders(self) -> list[tuple[str, int]]:
        """Who of those present holds which block of our chain, signed by us: name and index."""
        return self._acks.holders()

    # ----------------------------------------------------------------- what the person types

    def typed(self, typed: str | Typed, now: Moment) -> Effects:
        """A line as it was typed, which may hold newlines (a paste); or what a program means."""
        line = typed if isinstance(typed, str) else ""
        match read_typed(typed) if isinstance(typed, str) else typed:
            case None:
                return []
            case Command(name, argument):
                return self._command(name, argument, line, now)
            case said:
                return self._say(self._room_conversation, said.text, line, now)

    def _command(self, name: str, argument: str, line: str, now: Moment) -> Effects:
        match name:
            case "help":
                return [notice(text) for text in HELP.values()]
            case "who":
                feeds = {s: f for (tag, s), f in self._heard.feeds.items() if tag == self._room.tag}
                return self._people.who(feeds, joined=self.joined)
            case "msg":
                return self._msg(argument, line, now)
            case _ if name in PEOPLE_COMMANDS:
                effects, accepted = self._people.command(name, argument)
                for bundle in accepted:
                    effects += self._take_in(bundle, Meeting.KNOWN, now, said=False)
                if name == "accept":  # what others had of it was passed over
                    self._catching_up.start_over(now.s)
                return effects
            case "nick":
                return self._rename(argument)
            case "status":
                return self._status()
            case "bell" | "invite" | "history" | "find" | "forget" | "export" | "chain" | "wallet":
                return [Query(name, argument)]
            case "quit":
                return self.leave(now)
            case _:
                sentence = (
                    f"there is no command /{name}: nothing was sent; /help lists them, "
                    f"and //{name} says it as text"
                )
                # Not given back: what is typed next is another command, and would stand behind it.
                return [error(sentence), Refuse("")]

    def _say(self, conversation: Conversation, text: str, line: str, now: Moment) -> Effects:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            return [error("this is not Unicode text: not sent"), Refuse(line)]
        if not data:
            return [error("there is nothing in this message: not sent"), Refuse("")]
        if len(data) > MAX_TEXT_BYTES:
            sentence = f"this message has {len(data)} bytes, at most {MAX_TEXT_BYTES} can be sent"
            return [error(f"{sentence}: not sent"), Refuse(line)]
        effects = self._send_pending(conversation, now)
        audience = self._audience(conversation)
        feed = conversation.ours
        if self._can_send(conversation):
            effects += self._give_keys(conversation, audience, feed.seq + 1, now)
        effects += self._heard.record_bundle(self._our)
        if audience != feed.audience:
            control = feed.write_audience(audience, conversation.seen, now.ms)
            effects += self._send(conversation, control, BlockType.CONTROL)
        signed = feed.write(EntryKind.CHAT, data, conversation.seen, now.ms)
        conversation.wrote(signed)
        effects += self._send(conversation, signed, BlockType.SENT)
        to = self._roster.name(conversation.peer) if conversation.peer else ""
        effects.append(Credit(to))
        if conversation.peer is not None and not self._reachable(audience):
            why = f"{to} is away" if self.joined else "not connected"
            when = f"when {to} is here while you are" if self.joined else "when you are again"
            effects.append(notice(f"{why}: kept on your chain, delivered {when}", "away"))
        return effects

    def _give_keys(
        self, conversation: Conversation, audience: frozenset[bytes], seq: int, now: Moment
    ) -> Effects:
        """The present epoch to all who are here and may read entry `seq`, and lack it."""
        effects: Effects = []
        feed = conversation.ours
        feed.rotate_if_due(audience, now.s)
        for member in self._reachable(audience):
            if feed.lacks_key(member):
                share = feed.share(member, seq).serialize()
                effects.append(Transmit(Direct(member.session_id, share).serialize()))
        return effects

    def _send(self, conversation: Conversation, signed: SignedEntry, block: BlockType) -> Effects:
        effects: Effects = [Append(Draft(block, signed.serialize(), signed.entry.entry_id))]
        if self._can_send(conversation):
            return [*effects, *self._transmit(conversation, signed)]
        conversation.pending.append((signed, conversation.ours.audience))
        return effects

    def _transmit(self, conversation: Conversation, signed: SignedEntry) -> Effects:
        message = conversation.ours.seal(signed)
        frames = conversation.transmit(message.serialize(), self._roster)
        conversation.sent(message, frames[0].frame, signed.entry)
        conversation.owe()  # so that the others learn the head that holds it
        return [*frames]

    def _can_send(self, conversation: Conversation) -> bool:
        """Whether what is said there now goes out now, and behind nothing older."""
        return self.joined and self._is_heard(conversation) and not conversation.pending

    def _is_heard(self, conversation: Conversation) -> bool:
        """Whether there is somebody to send to; the room's messages go to the relay always."""
        peer = conversation.peer
        return peer is None or bool(self._reachable(self._audience(conversation)))

    def _conversation(self, tag: bytes, peer: bytes | None) -> Conversation:
        if tag not in self._conversations:
            ours = OurFeed(tag, self._session_id, self._key, self._room.mix)
            self._conversations[tag] = Conversation(ours, peer)
        return self._conversations[tag]

    def _pair_tag(self, fingerprint: bytes) -> bytes:
        return pair_tag(self._room, self._our.fingerprint, fingerprint)

    def _audience(self, conversation: Conversation) -> frozenset[bytes]:
        """Who may read what we say: we alone decide."""
        us = self._our.fingerprint
        if conversation.peer is not None:
            return frozenset((us, conversation.peer))
        without = self._people.without()
        return frozenset(f for f in self._roster.known if f not in without)

    def _reachable(self, audience: frozenset[bytes]) -> list[Bundle]:
        """The live sessions of an audience.  Another session under our own identity is a run that
        crashed, and its keys are gone with it, or a copy, and an identity has one device."""
        others = audience - {self._our.fingerprint}
        return [b for b in self._roster.live.values() if b.fingerprint in others]

    # ----------------------------------------------------------------- commands

    def _msg(self, argument: str, line: str, now: Moment) -> Effects:
        found = re.match(r"(\S+)\s(.*\S.*)", argument, re.DOTALL)
        if found is None:
            return [error("say it like this: /msg NAME TEXT"), Refuse(line)]
        name, text = found.groups()
        person = self._people.one(name)
        if isinstance(person, Show):
            return [person, Refuse(line)]
        if person in self._people.ignored:
            sentence = f"you ignore {self._roster.name(person)}: /ignore {name} off comes first"
            return [error(sentence), Refuse(line)]
        if person in self._trust.withheld():
            name = self._roster.name(person)
            return [error(f"the key of {name} is not accepted: /accept {name} first"), Refuse(line)]
        conversation = self._conversation(self._pair_tag(person), person)
        return self._say(conversation, text, line, now)

    def _rename(self, nick: str) -> Effects:
        """The room learns a new nick with a new key, so that a lower number is an older bundle."""
        if not nick:
            return [error("say it like this: /nick NAME")]
        try:
            self._nick = check_nick(unicodedata.normalize("NFC", nick))
        except ValueError as exc:
            return [error(str(exc))]
        if self._nick == self._our.nick:
            return [notice(f"you are called {nick} already")]
        if self._sek_asked:  # the bundle that is being made takes it along
            return []
        self._sek_asked = True
        return [MakeSessionKey()]

    def _status(self) -> Effects:
        others = len(self._roster.people())
        here = f"in the room with {number(others, 'other')}" if others else "alone in the room"
        effects: Effects = [notice(here if self.joined else "not connected")]
        effects += self._receipts.lines(self._room_conversation)
        if held := sum(len(f.held) for f in self._heard.feeds.values()):
            effects.append(notice(f"waiting for their key: {number(held, 'frame')}"))
        if missing := sum(f.missing_count() for f in self._heard.feeds.values()):
            effects.append(notice(f"{number(missing, 'message')} of others missing here"))
        if self.counts:
            dropped = ", ".join(f"{n} {why}" for why, n in sorted(self.counts.items()))
            effects.append(notice(f"dropped frames: {dropped}"))
        return effects

    # ----------------------------------------------------------------- time and leaving

    def tick(self, now: Moment, head: Head) -> Effects:
        """What the passing of time brings.

        Args:
            head: the chain's, with every Append of ours committed: acks vouch for it.
        """
        effects: Effects = []
        for feed in self._heard.feeds.values():
            feed.drop_old_keys(now.s)
        if self._seks[1:] and now.s >= self._old_sek_dies_s:
            del self._seks[1:]
        if now.s - self._sek_made_s >= _SEK_RENEW_AFTER_S and not self._sek_asked:
            self._sek_asked = True
            effects.append(MakeSessionKey())
        if self._heard.outdated:
            effects += [Remember(row) for row in self._heard.outdated]
            self._heard.outdated = []
        if self.joined:
            effects += self._requests(now)
            effects += self._catch_up(now)
            effects += self._receipts.due(now)
            effects += self._acks.due(
                self._conversations.values(), self._heard.feeds, now, head, at_once=self.leaving
            )
        effects += self._decided(now)  # last: no ack of this turn is for what it appends
        return effects + self._leave_if_done(now)

    def _catch_up(self, now: Moment) -> Effects:
        effects, given_up = self._catching_up.due(now.s)
        for feed in given_up:
            effects += self._still_missing(feed)
        effects += map(Remember, self._catching_up.rows())
        if self._caught_up and self._catching_up.is_idle(now.s):
            text = f"caught up: {number(self._caught_up, 'message')}"
            effects.append(notice(text, "caught_up", count=self._caught_up))
            self._caught_up = 0
        return effects

    def _still_missing(self, key: Feed) -> Effects:
        """Nobody here has what we lack; of who is ignored that is no news."""
        feed = self._heard.feeds.get(key)
        author = self._heard.author(key[1])
        if feed is None or not feed.missing_count() or author in self._people.ignored:
            return []
        name, count = self._roster.name(author), feed.missing_count()
        text = (
            f"{number(count, 'message')} of {name} still missing: nobody here has what is for you"
        )
        return [notice(text, "still_missing", name=name, count=count)]

    def _requests(self, now: Moment) -> Effects:
        effects: Effects = []
        for feed in self._heard.feeds.values():
            if not feed.lacks_key:
                continue
            epoch = feed.epoch_to_ask_for(now.s)
            if epoch is not None:
                request = KeyRequest.create(
                    self._key, self._session_id, feed.tag, epoch, feed.session_id
                )
                effects.append(Transmit(Direct(feed.session_id, request.serialize()).serialize()))
            feed.give_up(now.s)
            self._drop_held(feed, "no key came")
        return effects

    def session_key_made(self, sek: EncryptionManager, now: Moment) -> Effects:
        """The SEK that MakeSessionKey asked for: the room learns it by a new bundle."""
        self._old_sek_dies_s = now.s + _SEK_GRACE_S
        self._sek_made_s, self._sek_asked = now.s, False
        before = self._our.nick
        self._roster.renew(self._new_bundle(sek))
        self._trust.pin_us()
        effects = self._announce() if self.joined else []
        if self._our.nick == before:
            return effects
        text = f"you are {self.our_name} from here on"
        pinned = record(EventKind.PIN, self._our.fingerprint + self._our.nick.encode())
        named = notice(text, "you_are", you=self.our_name)
        return [pinned, *effects, Named(self._our.nick), named]

    def _announce(self) -> Effects:
        """Our bundle, if the relay has an older one."""
        if self._joined_with == self._our.raw:
            return []
        self._joined_with = self._our.raw
        return [Transmit(Rebundle(self._our.raw).serialize())]

    def _new_bundle(self, sek: EncryptionManager) -> Bundle:
        number = self._seks[0][0] + 1 if self._seks else 1
        self._seks.insert(0, (number, sek))
        return Bundle.create(
            self._keystore.identity,
            self._room,
            self._nick,
            self._key,
            number,
            sek.get_public_key(),
            self._keystore.chain_id,
            self._keystore.chain_signing_key.public,
        )

    @property
    def leaving(self) -> bool:
        """Whether the person wants to go: no more lines are taken."""
        return self._leaving_by_s is not None

    def leave(self, now: Moment, within_s: float | None = None) -> Effects:
        """The person wants to go: `tick` says Leave once every live member has confirmed, or after
        `within_s` (linger), and never later than was said before."""
        wait_s = self._linger_s if within_s is None else within_s
        by_s, is_first = now.s + wait_s, self._leaving_by_s is None
        self._leaving_by_s = by_s if self._leaving_by_s is None else min(by_s, self._leaving_by_s)
        if self.joined or not is_first or not wait_s or not (unsent := self.unsent()):
            return []
        them = number(unsent, "message")
        return [notice(f"waiting {wait_s:.0f} s for the relay to come back and take {them}")]

    def unsent(self) -> int:
        """Our messages that never left: not echoed by the relay, or in a pair not confirmed."""
        return self._receipts.unsent()

    def _leave_if_done(self, now: Moment) -> Effects:
        if self._leaving_by_s is None:
            return []
        unsent, waiting = self.unsent(), self._receipts.names()
        if now.s < self._leaving_by_s and (unsent or (self.joined and waiting)):
            return []
        effects: Effects = []
        if unsent:
            kept = f"{number(unsent, 'message')} not delivered; kept on your chain"
            effects.append(alert(kept, "not_delivered", count=unsent))
        elif waiting:
            text = f"your last messages are not confirmed by {', '.join(waiting)}"
            effects.append(notice(text, "unconfirmed", names=waiting))
        return [*effects, Leave(3 if unsent else 0)]
