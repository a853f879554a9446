"""The engine: the one thread that owns session, chain and wallet.

What lives here: taking what waits (frames, lines, finished keys), asking the session what follows,
and performing it in the order that keeps the promise: first everything that must be on disk, in one
transaction, then what is sent and shown; waiting for a disk that fails; checking the chain
meanwhile, and what follows from a finding.  What it does not know: the protocol, the screen's kind,
flags, the relay's address, what the answers about the chain are (`chat_answers`).

    engine = Engine(profile, session, terminal, inbox, balance, renew, dial, join, invite, typed)
    engine.attach(link)
    threading.Thread(target=engine.run).start()
    refused = engine.submit("hello", wait=True)
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

import chat_addresses
import chat_answers
from blockchain import (
    Blockchain,
    BlockType,
    Draft,
    Head,
    SideRow,
    StoreError,
    StoreFailed,
    StoreUnreadable,
    Verdict,
)
from chat_answers import Unanswered
from chat_archive import Archive, fill
from chat_commands import Command, Typed, completions, read_typed
from chat_effects import (
    Append,
    Close,
    Credit,
    Effect,
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
    Witnessed,
    number,
)
from chat_json import answering, request_id
from chat_link import CannotConnect, Inbox, Link, Lost, Received, fault
from chat_profile import Profile, ProfileError
from chat_retry import Retry
from chat_session import Session
from chat_terminal import BELLS, Field, Kind, Line, Terminal
from chat_typed import TypedLines
from crypto_utils import CryptoWallet, EncryptionManager

__all__ = ["Engine", "now"]

_TICK_S = 0.1  # the session's clock: acks, key requests and leaving are this exact
# Blocks of one transaction share an fsync; this many still commit within a few milliseconds.
_MOST_ITEMS = 64
_MOST_LINES = 64
MAX_WAITING_LINES = 256  # typed or piped, not yet taken
MAX_OUT_BYTES = 1024 * 1024  # beyond it no typed lines are taken until the relay has read
# The whole chain is checked in slices of some milliseconds, so that nothing waits for it.
_SLICE_BLOCKS = 2000
# /chain checks a chain of up to so many blocks at once, in about a second.
_CHECKED_AT_ONCE = 50_000
_CHECKPOINT_BLOCKS = 10_000  # appended since the last one: a crash makes the next start read these
_SLEPT_S = 10.0  # a shorter nap breaks no connection, and somebody may set the clock a little
_NETWORK_LOOK_S = 1.0  # how often this computer's own addresses are looked at
_LOOK_S = 0.1  # how soon somebody who waits for the engine notices that it has ended
_REOPEN_EVERY_S = 10.0  # a chain that could not be written


def now() -> Moment:
    """Now, on a clock that runs on while the machine sleeps, and on the wall's."""
    wall_ms = time.time_ns() // 1_000_000
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    seconds = time.monotonic() if boottime is None else time.clock_gettime(boottime)
    return Moment(seconds, wall_ms)


@dataclass
class _Submitted:
    typed: str | Typed
    done: threading.Event | None  # set once it was dealt with, if somebody waits for that
    refused: str = ""


@dataclass(frozen=True)
class _LeaveWithin:
    seconds: float


# How others come into this room.
Invite = Callable[[], list[Line]]
# A new session on the profile's new chain.
Renew = Callable[[], Session]
# A connection to the relay, made on a thread of its own; and what makes a link of it.
Dial = Callable[[], socket.socket]
Join = Callable[[socket.socket], Link]


@dataclass(frozen=True)
class _Moved:
    """This computer has other addresses than a moment ago; without those that it lost."""

    lost: frozenset[str]


@dataclass(frozen=True)
class _Dialled:
    """One more try is over: a connection, or why there is none."""

    sock: socket.socket | None
    why: str = ""


class _End(Exception):
    """The run ends, with one line."""

    def __init__(self, line: Line, exit_code: int) -> None:
        super().__init__(line.text)
        self.line = line
        self.exit_code = exit_code


def _is_quit(typed: str | Typed) -> bool:
    meant = read_typed(typed) if isinstance(typed, str) else typed
    return isinstance(meant, Command) and meant.name == "quit"


def _answer_to(typed: str | Typed, effect: Effect) -> Effect:
    """The effect as part of what answers a typed line, or a program's request."""
    request = request_id(typed)
    match effect:
        case Show(line):
            return Show(_as_answer(line, request))
        case Credit() | Query() if request:
            return replace(effect, request=request)
        case _:
            return effect


def _as_answer(line: Line, request: str) -> Line:
    line = replace(line, is_answer=True)
    return answering(line, request) if request else line


class Engine:
    """Performs a session's effects.  `run` is its thread; `submit` and `leave` are for others."""

    def __init__(
        self,
        profile: Profile,
        session: Session,
        terminal: Terminal,
        inbox: Inbox,
        balance: int,
        renew: Renew,
        dial: Dial,
        join: Join,
        invite: Invite,
        typed_lines: TypedLines,
    ) -> None:
        self.exit_code = 0
        self.ready = threading.Event()  # lines may be typed, or `over` is set
        self.leaving = threading.Event()  # no more lines are taken
        self.over = threading.Event()
        self.refused = 0  # typed lines that the session did not take
        self.has_quit = False  # a typed line ended the session, so what follows it is not missed
        self._profile = profile
        self._use(profile.chain)
        self._wallet = CryptoWallet(balance)
        self._session = session
        self._terminal = terminal
        self._inbox = inbox
        self._renew = renew
        self._dial = dial
        self._join = join
        self._retry = Retry()
        self._dialler: threading.Thread | None = None
        self._lookout = threading.Thread(target=self._watch_network, name="lookout")
        self._asleep_s = time.time() - time.monotonic()  # a sum that grows while nothing runs
        self._invite = invite
        self._typed_lines = typed_lines
        self._names: list[str] = []  # of who is here, for completing
        self._status = ""
        self._link: Link | None = None
        self._is_rejoining = False  # typed lines wait until the room has us again
        self._is_in_room = False  # over the connection that there is
        self._code_so_far = 0  # of sessions that ended before this one
        # Of the whole chain; None: it is checked on.  What a start looked at is checked already.
        self._verdict = profile.verdict if profile.checked_from == 0 else None
        self._checking = self._chain.verification(slice_blocks=_SLICE_BLOCKS)
        self._finding: Verdict | None = None  # to be acted on when nothing is half performed
        self._unchecked = 0  # blocks appended since the last checkpoint
        self._key_maker: threading.Thread | None = None
        self._lines: queue.Queue[_Submitted] = queue.Queue(MAX_WAITING_LINES)
        self._taken: list[_Submitted] = []  # of them, in this turn
        self._is_end_wanted = False  # set by other threads: do not wait for the disk

    # ----------------------------------------------------------------- for other threads

    def completions(self, before: str) -> list[str]:
        """What Tab makes of a half-typed line."""
        return completions(before, self._names)

    def submit(self, typed: str | Typed, *, wait: bool) -> str:
        """A typed line, or what a program means; blocks while 256 of them wait.

        Args:
            wait: until it was dealt with, so that the prompt comes back below what it led to.

        Returns:
            the text if it was refused, for the person to mend, or came too late; else "".
        """
        text = typed if isinstance(typed, str) else repr(typed)
        self._is_end_wanted = self._is_end_wanted or _is_quit(typed)
        submitted = _Submitted(typed, threading.Event() if wait else None)
        while True:
            if self.over.is_set():
                return text
            try:
                self._lines.put(submitted, timeout=_LOOK_S)
                break
            except queue.Full:
                continue
        self._inbox.put(submitted)  # wakes the engine; the line itself stays in its own queue
        while submitted.done and not (submitted.done.wait(_LOOK_S) or self.over.is_set()):
            continue
        return submitted.refused

    @property
    def untaken(self) -> int:
        """After `over`: submitted lines that the session ended before."""
        return self._lines.qsize()

    def leave(self, within_s: float) -> None:
        """A signal, maybe inside its handler: the session ends within this time, whatever is
        confirmed by then."""
        self._is_end_wanted = True
        self._inbox.put(_LeaveWithin(within_s))

    def attach(self, link: Link) -> None:
        """The connection to use; before `run`."""
        self._link = link

    # ----------------------------------------------------------------- the thread

    def run(self) -> None:
        """Until the session is over, the chain of no use, or there is a fault in this program."""
        self._lookout.start()
        try:
            self._perform(self._session.connected())
            while not self.over.is_set():
                self._turn()
            if self._finding is not None:
                self._follow(self._finding)
            self._last_checkpoint()
        except _End as exc:
            self.exit_code = exc.exit_code
            self._terminal.show(exc.line)
        except ProfileError as exc:
            self._fail(f"your chain cannot be written, so nothing more is sent or shown: {exc}")
        except StoreUnreadable as exc:
            self._fail(f"your chain cannot be read, so nothing more is sent or kept: {exc}", 6)
        except Exception as exc:
            self._fail(fault(exc))
        finally:
            for event in (self.over, self.leaving, self.ready):
                event.set()  # before all else: nobody may wait for what does not come
            if self._link is not None:
                self._link.close()
            self._terminal.end_input()
            for thread in (self._key_maker, self._dialler, self._lookout):
                if thread is not None:
                    thread.join()
            self._drop_dialled()

    def _fail(self, text: str, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        self._show(Kind.ERROR, text)

    def _turn(self) -> None:
        effects: list[Effect] = []
        # While there is something left to check, nothing is waited for.
        is_done = self._verdict is not None and self._filling is None
        items = self._inbox.take(_TICK_S if is_done else 0.0, _MOST_ITEMS)
        if self._link is not None and any(isinstance(item, Received) for item in items):
            self._link.wake()  # it may have stopped reading for us
        for item in items:
            match item:
                case Received(frames, _):
                    for frame in frames:
                        effects += self._session.receive(frame, now())
                case Lost(why):
                    self._perform(effects)  # all that came before it, that we are in the room too
                    effects = self._lost(why)
                case _Moved(lost):
                    self._moved(lost)
                case _Dialled():
                    effects += self._dialled(item)
                case EncryptionManager():
                    effects += self._session.session_key_made(item, now())
                case _LeaveWithin(seconds):
                    effects += self._session.leave(now(), seconds)
        self._perform(effects)
        self._dial_if_due()
        if not self.over.is_set():
            self._take_lines()
        if not self.over.is_set():
            self._perform(self._session.tick(now(), self._chain.head()))
        self._look_on()
        # A session that is leaving still writes to the chain that it began on.
        if self._finding is not None and not (self._session.leaving or self.over.is_set()):
            self._follow(self._finding)
        if self._session.leaving:
            self.leaving.set()
        if self._terminal.interactive:
            self._show_state()
        self._release()

    # ----------------------------------------------------------------- the connection

    def _lost(self, why: str) -> list[Effect]:
        self._link = None
        members = len(self._session.names())
        effects = self._session.disconnected(why, now())
        if not self.ready.is_set():
            return [*effects, Close(3)]
        if self._is_in_room:
            self._retry.lost(now().s, members)
        else:
            # A relay that does not let us in is asked less and less often, and never given up: what
            # it wants may be a mistake, or not even its word.
            self._retry.failed(now().s)
        self._is_in_room = False
        return effects

    def _dial_if_due(self) -> None:
        """One try after the other, each on a thread, since it may take seconds."""
        # The wall's clock went on without ours: the computer slept.  What the relay still believes
        # of us, or we of it, is over; to find that out would take a minute.
        asleep_s = time.time() - time.monotonic()
        if asleep_s - self._asleep_s > _SLEPT_S:
            self._retry.at_once(now().s)
            if self._link is not None and self.ready.is_set():
                self._link.close("this computer slept")
        self._asleep_s = asleep_s
        if self._link is None and not self.over.is_set() and self._retry.is_due(now().s):
            self._dialler = threading.Thread(target=self._try, name="dialler")
            self._dialler.start()

    def _watch_network(self) -> None:
        """A thread of its own, since some systems ask a resolver for their own addresses."""
        before: frozenset[str] | None = None
        while not self.over.wait(_NETWORK_LOOK_S if before is not None else 0.0):
            addresses = frozenset(a.text for a in chat_addresses.find_addresses())
            if before is not None and addresses != before:
                self._inbox.put(_Moved(before - addresses))
            before = addresses

    def _moved(self, lost: frozenset[str]) -> None:
        """Another network: what did not lead to the relay may do so now, and what led there from an
        address that is gone leads nowhere, though nothing would say so for a long time."""
        self._retry.at_once(now().s)
        if self._link is not None and self.ready.is_set() and self._link.address in lost:
            self._link.close("this computer is on another network")

    def _try(self) -> None:
        try:
            self._inbox.put(_Dialled(self._dial()))
        except CannotConnect as exc:
            self._inbox.put(_Dialled(None, str(exc)))

    def _dialled(self, dialled: _Dialled) -> list[Effect]:
        if dialled.sock is None:
            self._retry.failed(now().s)
            if not self._is_rejoining:
                return []
            self._is_rejoining = False
            return self._session.disconnected(dialled.why, now())
        self._link = self._join(dialled.sock)
        return self._session.connected()

    def _drop_dialled(self) -> None:
        """A connection that came too late."""
        for item in self._inbox.take(0.0, 1 << 30):
            if isinstance(item, _Dialled) and item.sock is not None:
                item.sock.close()

    def _show_state(self) -> None:
        self._names = self._session.names()
        if (status := self._session.status_row()) != self._status:
            self._status = status
            self._terminal.status(status)

    def _take_lines(self) -> None:
        effects: list[Effect] = []
        while (
            len(self._taken) < _MOST_LINES and not self._must_wait() and not self._session.leaving
        ):
            try:
                submitted = self._lines.get_nowait()
            except queue.Empty:
                break
            self._taken.append(submitted)
            answers = self._session.typed(submitted.typed, now())
            for answer in answers:
                if isinstance(answer, Refuse):
                    self.refused += 1
                    submitted.refused = answer.text
            if self._terminal.interactive and isinstance(submitted.typed, str):
                effects += map(Remember, self._typed_lines.add(submitted.typed))
            effects += (_answer_to(submitted.typed, answer) for answer in answers)
            if request := request_id(submitted.typed):
                done = Line(Kind.DIALOGUE, "done", event="done")
                effects.append(Show(answering(done, request)))
            self.has_quit = self._session.leaving
        self._perform(effects)

    def _release(self) -> None:
        """Who waits for a line that was taken waits no longer."""
        for submitted in self._taken:
            if submitted.done:
                submitted.done.set()
        self._taken = []

    def _must_wait(self) -> bool:
        is_congested = self._link is not None and self._link.waiting_bytes > MAX_OUT_BYTES
        return is_congested or self._is_rejoining

    # ----------------------------------------------------------------- effects

    def _perform(self, effects: list[Effect]) -> None:
        drafts = [e.draft for e in effects if isinstance(e, Append)]
        side = [e.row for e in effects if isinstance(e, Remember)]
        if drafts or side:
            self._write(drafts, side)
            self._unchecked += len(drafts)
            if self._unchecked >= _CHECKPOINT_BLOCKS:
                self._checkpoint()
        for effect in effects:
            self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case Transmit(frame):
                if self._link is not None:
                    self._link.send(frame)
            case Show(line):
                self._terminal.show(line)
            case Credit(to, request):
                balance = self._wallet.mine(1)
                text = f"Mined 1 coin. New balance: {balance}"
                fields: dict[str, Field] = {"balance": balance, "private": bool(to), "to": to}
                line = Line(Kind.DIALOGUE, text, event="sent", fields=fields)
                self._terminal.show(answering(line, request) if request else line)
            case Named(nick):
                self._remember(nick)
            case MakeSessionKey():
                self._key_maker = threading.Thread(
                    target=lambda: self._inbox.put(EncryptionManager()), name="session key"
                )
                self._key_maker.start()
            case Ready():
                self.ready.set()
                self._is_rejoining = False
                self._is_in_room = True
                self._retry.reset()
            case Query():
                self._answer(effect)
            case Witnessed():
                self._compare(effect)
            case Serve():
                self._serve(effect)
            case Leave(exit_code):
                self.exit_code = exit_code or self._code_so_far
                self.over.set()
            case Close(exit_code):
                self._close(exit_code)
            case Append() | Remember() | Refuse():
                pass  # done before

    def _close(self, exit_code: int) -> None:
        self._is_rejoining = False
        if self._link is not None:
            self._link.close()
        if not (self.ready.is_set() or self.over.is_set()):
            self.exit_code = exit_code  # never in the room: there is nothing to go on with
            self.over.set()

    def _show(self, kind: Kind, text: str) -> None:
        self._terminal.show(Line(kind, text))

    # ----------------------------------------------------------------- a disk that fails

    def _write(self, drafts: list[Draft], side: list[SideRow]) -> None:
        """All of it is on disk when this returns, however long that takes.

        Meanwhile the engine stands still, as it does when the computer sleeps: what it would send
        and show comes after, what the relay sends waits until it has to wait itself.

        Raises:
            _End: somebody wants to leave, or the chain is another by now.
        """
        try:
            self._chain.append(drafts, now().ms, side)
        except StoreFailed as exc:
            self._recover(str(exc), drafts, side)
        first = self._chain.head().index - len(drafts) + 1
        for index, draft in enumerate(drafts, first):
            self._archive.note(index, draft.type, draft.record)

    def _recover(self, why: str, drafts: list[Draft], side: list[SideRow]) -> None:
        """After a write of these failed.  Raises _End."""
        before = self._chain.head()
        unsent = sum(draft.type is BlockType.SENT for draft in drafts)
        if is_said := not self._must_end():
            kept = "what you typed waits, and nothing" if unsent else "nothing"
            text = (
                f"your chain cannot be written: {why}. Until it can, which is tried every "
                f"{_REOPEN_EVERY_S:.0f} s, nothing is sent, shown or confirmed; "
                f"{kept} that was confirmed is lost"
            )
            self._terminal.show(Line(Kind.ALERT, text, event="disk_failed", fields={"why": why}))
        self._release()  # a person may want to leave
        while True:
            self._wait_for_disk()
            try:
                self._try_again(before, drafts, side)
                break
            except StoreError as exc:
                why = str(exc)
            if self._must_end():
                self._give_up(why, unsent)
            if self._terminal.interactive:
                self._turn_away(why)
        if is_said:
            text = "your chain can be written again: you go on"
            self._terminal.show(Line(Kind.NOTICE, text, event="disk_works"))

    def _must_end(self) -> bool:
        """Whether a disk that fails ends the run.  Who never was in the room has nothing to go on
        with."""
        return self._is_end_wanted or self._session.leaving or not self.ready.is_set()

    def _wait_for_disk(self) -> None:
        """Until it is tried again: a person who made room presses Enter.  Looked at now and then,
        since a signal's handler may set no event."""
        due_s = time.monotonic() + _REOPEN_EVERY_S
        while time.monotonic() < due_s and not self._must_end():
            if self._terminal.interactive and not self._lines.empty():
                return
            time.sleep(_LOOK_S)

    def _try_again(self, before: Head, drafts: list[Draft], side: list[SideRow]) -> None:
        """Raises StoreError: it still fails; _End: it is not the chain that we wrote."""
        verdict = self._profile.reopen(before)
        found = f"{verdict}: {verdict.sentence}"
        if verdict.exit_code == 6:  # a disk that fails may be one that cannot be read
            raise StoreUnreadable(found)
        if not verdict.ok:
            text = f"HISTORY TAMPERED: {found}"
            raise _End(Line(Kind.ALERT, text, event="history_tampered"), verdict.exit_code)
        self._use(self._profile.chain)
        self._verdict = verdict if self._profile.checked_from == 0 else None
        self._checking = self._chain.verification(slice_blocks=_SLICE_BLOCKS)
        # A write may have failed when all was on disk already.  The profile is locked for us and
        # the chain verified, so what is more than there was is what we tried.
        if self._chain.head() == before:
            self._chain.append(drafts, now().ms, side)

    def _turn_away(self, why: str) -> None:
        """What a person typed is given back, to be typed again when it can be taken."""
        while not self._lines.empty():
            submitted = self._lines.get_nowait()
            self._show(Kind.ERROR, f"not taken yet, your chain cannot be written: {why}")
            submitted.refused = submitted.typed if isinstance(submitted.typed, str) else ""
            self._taken.append(submitted)
        self._release()

    def _give_up(self, why: str, unsent: int) -> NoReturn:
        self.refused += unsent
        while not (self.has_quit or self._lines.empty()):
            self.has_quit = _is_quit(self._lines.get_nowait().typed)
            self.refused += not self.has_quit
        what = "; what you typed since then is not sent" if unsent else ""
        raise _End(Line(Kind.ERROR, f"your chain cannot be written: {why}{what}"), 1)

    # ----------------------------------------------------------------- the chain's own state

    def _use(self, chain: Blockchain) -> None:
        """From here on this is our chain."""
        self._chain = chain
        self._archive = Archive(self._read)  # of what it holds for others
        self._filling: Iterator[None] | None = fill(self._archive, chain, now().ms)
        self._unserved: list[Serve] = []  # until the archive knows all

    def _look_on(self) -> None:
        """Looks through another slice of the chain."""
        if self._filling is not None:
            for _ in self._filling:
                return
            self._filling = None
            for serve in self._unserved:
                self._serve(serve)
            self._unserved = []
        if self._verdict is None:
            self._verdict = next(self._checking)
            if self._verdict is not None and not self._verdict.ok:
                self._finding = self._finding or self._verdict

    def _compare(self, witnessed: Witnessed) -> None:
        """What somebody holds of this chain proves it, or that it was changed."""
        name, head = witnessed.name, witnessed.head
        try:
            finding = self._profile.compare(head, name)
        except StoreUnreadable as exc:
            self._show(Kind.ERROR, f"{exc}, so what {name} holds of it is not compared")
            return
        if finding is not None:
            self._finding = self._finding or finding
        elif head.chain_id == self._chain.head().chain_id:
            self._write([], [witnessed.row])

    def _remember(self, nick: str) -> None:
        try:
            self._profile.remember_nick(nick)
        except ProfileError as exc:
            self._show(Kind.ERROR, f"the next start calls you as before: {exc}")

    def _serve(self, serve: Serve) -> None:
        """Somebody catches up with what this chain holds for it."""
        if self._filling is not None:  # who is told of a part would take it for all
            self._unserved.append(serve)
            return
        head = self._chain.head().index
        answer = self._archive.answer(serve.question, serve.asker.fingerprint, serve.tags, head)
        self._perform(self._session.serve(serve, answer))

    def _read(self, index: int) -> bytes:
        """The record of a block; empty: erased."""
        block = self._chain.block(index)
        return b"" if block is None or block.is_erased else self._chain.record(block)

    def _checkpoint(self) -> None:
        self._unchecked = 0
        try:
            self._profile.checkpoint(now().ms)
        except StoreFailed as exc:
            self._recover(str(exc), [], [])

    def _last_checkpoint(self) -> None:
        try:
            self._profile.checkpoint(now().ms)
        except StoreFailed as exc:  # it saves time and nothing else
            self._show(Kind.NOTICE, f"the next start takes longer, it has to read more: {exc}")

    def _follow(self, finding: Verdict) -> None:
        """The chain is not the one that this profile wrote: it is kept as it is, and a new one
        begins, under a new session, so that nobody takes one for the other."""
        self._finding = None
        if finding.exit_code != 4:
            raise StoreUnreadable(f"{finding}: {finding.sentence}")
        text = f"HISTORY TAMPERED: {finding}: {finding.sentence}"
        self._terminal.show(Line(Kind.ALERT, text, event="history_tampered"))
        nameless = replace(finding, who="")  # what a genesis says is in clear, for everybody
        kept = self._profile.follow(f"{nameless}: {nameless.sentence}")
        where = self._profile.path / kept
        self._show(Kind.NOTICE, f"that chain is kept as {where}; you go on with a new one")
        self._show(Kind.NOTICE, "if you put an older copy back yourself, that is what was found")
        self._use(self._profile.chain)
        self._verdict = self._profile.verdict
        self._wallet = CryptoWallet(self._profile.balance())
        if self.over.is_set():
            return
        self._drain()
        if unsent := self._session.unsent():
            self._code_so_far = 3
            text = f"{number(unsent, 'message')} of yours may not have arrived; kept in {kept}"
            self._show(Kind.ALERT, text)
        self._session = self._renew()
        self._is_rejoining = True
        self._retry.lost(now().s, 0)
        self._retry.at_once(now().s)

    def _drain(self) -> None:
        """Ends the connection and drops what came over it; what others put stays."""
        if self._link is None:
            return
        self._link.close()
        others: list[object] = []
        while self._link is not None:
            for item in self._inbox.take(_TICK_S, _MOST_ITEMS):
                if isinstance(item, Lost):
                    self._link, self._is_in_room = None, False
                elif not isinstance(item, Received):
                    others.append(item)
        for item in others:
            self._inbox.put(item)

    # ----------------------------------------------------------------- questions about the chain

    def _answer(self, query: Query) -> None:
        why = ""
        try:
            lines = self._answered(query.name, query.argument)
        except Unanswered as exc:
            lines = [Line(Kind.ERROR, str(exc))]
        except StoreUnreadable as exc:
            lines = [Line(Kind.ERROR, f"{exc}; /chain says whether your chain is whole")]
        except StoreFailed as exc:
            why = str(exc)
            lines = [Line(Kind.ERROR, f"not done: {why}")]
        for line in lines:
            self._terminal.show(_as_answer(line, query.request))
        if why:
            self._recover(why, [], [])

    def _answered(self, name: str, argument: str) -> list[Line]:
        chain = self._chain
        match name:
            case "history":
                return chat_answers.history_lines(chain, argument)
            case "find":
                return chat_answers.find_lines(chain, argument)
            case "invite" if not argument:
                return self._invite()
            case "bell":
                return self._set_bell(argument)
            case "forget":
                return self._forget(argument)
            case "export":
                return chat_answers.export_lines(self._profile, argument)
            case "chain" if argument:
                return chat_answers.block_lines(chain, argument)
            case "chain":
                path = self._profile.path / "chain.db"
                return chat_answers.chain_lines(chain, path, self._whole(), self._session.holders())
            case _ if argument:
                raise Unanswered(f"say it like this, with nothing behind it: /{name}")
            case _:
                return [chat_answers.wallet_line(chain, self._wallet.balance)]

    def _set_bell(self, what: str) -> list[Line]:
        if what and what not in BELLS:
            raise Unanswered(f"say it like this: /bell {', '.join(BELLS)}")
        if what:
            self._terminal.bell = what
        rings = {"off": "nothing", "all": "each message"}
        on = rings.get(self._terminal.bell, "a message that names you or is for you alone")
        return [Line(Kind.NOTICE, f"bell: {self._terminal.bell}; what rings is {on}")]

    def _forget(self, argument: str) -> list[Line]:
        """Arrow-up must not bring back what is erased."""
        text = chat_answers.said_in(self._chain, argument)
        if text and argument.split()[1:] == ["yes"]:  # first: the erasing cleans the file
            self._write([], self._typed_lines.forget(text))
        return chat_answers.forget_lines(self._chain, argument, now().ms)

    def _whole(self) -> Verdict | str:
        """The chain's verdict as of now, or how far it is known."""
        if self._chain.head().index < _CHECKED_AT_ONCE:
            return self._chain.verify(signatures=False)
        return self._verdict or "what is new since the last start is OK; the rest is being checked"
