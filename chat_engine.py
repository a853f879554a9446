"""The engine: the one thread that owns session, chain and wallet.

What lives here: taking what waits (frames, lines, finished keys), asking the session what follows,
and performing it in the order that keeps the promise: first everything that must be on disk, in one
transaction, then what is sent and shown.  What it does not know: the protocol, the screen's kind,
flags, the relay's address.

    engine = Engine(profile, session, terminal, inbox)
    threading.Thread(target=engine.run).start()
    refused = engine.submit("hello", wait=True)
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

from blockchain import StoreFailed, StoreUnreadable
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
    Show,
    Transmit,
)
from chat_history import history
from chat_link import Inbox, Link, Lost, Received, fault
from chat_profile import Profile
from chat_session import Session
from chat_terminal import Kind, Line, Terminal
from crypto_utils import CryptoWallet, EncryptionManager

__all__ = ["Engine", "now"]

_TICK_S = 0.1  # the session's clock: acks, key requests and leaving are this exact
# Blocks of one transaction share an fsync; this many still commit within a few milliseconds.
_MOST_ITEMS = 64
_MOST_LINES = 64
MAX_WAITING_LINES = 256  # typed or piped, not yet taken
MAX_OUT_BYTES = 1024 * 1024  # beyond it no typed lines are taken until the relay has read
_HISTORY_DEFAULT = 20
_LOOK_S = 0.1  # how soon somebody who waits for the engine notices that it has ended


def now() -> Moment:
    """Now, on a clock that runs on while the machine sleeps, and on the wall's."""
    wall_ms = time.time_ns() // 1_000_000
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    seconds = time.monotonic() if boottime is None else time.clock_gettime(boottime)
    return Moment(seconds, wall_ms)


@dataclass
class _Typed:
    text: str
    done: threading.Event | None  # set once it was dealt with, if somebody waits for that
    refused: str = ""


@dataclass(frozen=True)
class _LeaveWithin:
    seconds: float


class Engine:
    """Performs a session's effects.  `run` is its thread; `submit` and `leave` are for others."""

    def __init__(
        self, profile: Profile, session: Session, terminal: Terminal, inbox: Inbox, balance: int
    ) -> None:
        self.exit_code = 0
        self.ready = threading.Event()  # lines may be typed, or `over` is set
        self.leaving = threading.Event()  # no more lines are taken
        self.over = threading.Event()
        self.refused = 0  # typed lines that the session did not take
        self.has_quit = False  # a typed line ended the session, so what follows it is not missed
        self._profile = profile
        self._chain = profile.chain
        self._wallet = CryptoWallet(balance)
        self._session = session
        self._terminal = terminal
        self._inbox = inbox
        self._link: Link | None = None
        self._key_maker: threading.Thread | None = None
        self._lines: queue.Queue[_Typed] = queue.Queue(MAX_WAITING_LINES)

    # ----------------------------------------------------------------- for other threads

    def submit(self, text: str, *, wait: bool) -> str:
        """A typed line; blocks while 256 lines wait.

        Args:
            wait: until it was dealt with, so that the prompt comes back below what it led to.

        Returns:
            the text if it was refused, for the person to mend, or came too late; else "".
        """
        typed = _Typed(text, threading.Event() if wait else None)
        while True:
            if self.over.is_set():
                return text
            try:
                self._lines.put(typed, timeout=_LOOK_S)
                break
            except queue.Full:
                continue
        self._inbox.put(typed)  # wakes the engine; the line itself stays in its own queue
        while typed.done and not (typed.done.wait(_LOOK_S) or self.over.is_set()):
            continue
        return typed.refused

    @property
    def untaken(self) -> int:
        """After `over`: submitted lines that the session ended before."""
        return self._lines.qsize()

    def leave(self, within_s: float) -> None:
        """A signal, maybe inside its handler: the session ends within this time, whatever is
        confirmed by then."""
        self._inbox.put(_LeaveWithin(within_s))

    def attach(self, link: Link) -> None:
        """The connection to use; before `run`."""
        self._link = link

    # ----------------------------------------------------------------- the thread

    def run(self) -> None:
        """Until the session is over, or the chain fails, or there is a fault in this program."""
        try:
            self._perform(self._session.connected())
            while not self.over.is_set():
                self._turn()
        except StoreFailed as exc:
            self._fail(f"your chain cannot be written, so nothing more is sent or shown: {exc}")
        except Exception as exc:
            self._fail(fault(exc))
        finally:
            for event in (self.over, self.leaving, self.ready):
                event.set()  # before all else: nobody may wait for what does not come
            if self._link is not None:
                self._link.close()
            self._terminal.end_input()
            if self._key_maker is not None:
                self._key_maker.join()

    def _fail(self, text: str) -> None:
        self.exit_code = 1
        self._show(Kind.ERROR, text)

    def _turn(self) -> None:
        effects: list[Effect] = []
        items = self._inbox.take(_TICK_S, _MOST_ITEMS)
        if self._link is not None and any(isinstance(item, Received) for item in items):
            self._link.wake()  # it may have stopped reading for us
        for item in items:
            match item:
                case Received(frames, _):
                    for frame in frames:
                        effects += self._session.receive(frame, now())
                case Lost(why):
                    self._link = None
                    effects += self._session.disconnected(why, now())
                    effects.append(Close(3))
                case EncryptionManager():
                    effects += self._session.session_key_made(item, now())
                case _LeaveWithin(seconds):
                    effects += self._session.leave(now(), seconds)
        self._perform(effects)
        done = [] if self.over.is_set() else self._take_lines()
        if not self.over.is_set():
            self._perform(self._session.tick(now(), self._chain.head()))
        if self._session.leaving:
            self.leaving.set()
        for typed in done:
            if typed.done:
                typed.done.set()

    def _take_lines(self) -> list[_Typed]:
        taken: list[_Typed] = []
        effects: list[Effect] = []
        while len(taken) < _MOST_LINES and not self._is_congested() and not self._session.leaving:
            try:
                typed = self._lines.get_nowait()
            except queue.Empty:
                break
            taken.append(typed)
            answers = self._session.typed(typed.text, now())
            for answer in answers:
                if isinstance(answer, Refuse):
                    self.refused += 1
                    typed.refused = answer.text
            effects += answers
            self.has_quit = self._session.leaving
        self._perform(effects)
        return taken

    def _is_congested(self) -> bool:
        return self._link is not None and self._link.waiting_bytes > MAX_OUT_BYTES

    # ----------------------------------------------------------------- effects

    def _perform(self, effects: list[Effect]) -> None:
        drafts = [e.draft for e in effects if isinstance(e, Append)]
        side = [e.row for e in effects if isinstance(e, Remember)]
        if drafts or side:
            self._chain.append(drafts, now().ms, side)
        for effect in effects:
            self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case Transmit(frame):
                if self._link is not None:
                    self._link.send(frame)
            case Show(line):
                self._terminal.show(line)
            case Credit():
                balance = self._wallet.mine(1)
                self._show(Kind.DIALOGUE, f"Mined 1 coin. New balance: {balance}")
            case MakeSessionKey():
                self._key_maker = threading.Thread(
                    target=lambda: self._inbox.put(EncryptionManager()), name="session key"
                )
                self._key_maker.start()
            case Ready():
                self.ready.set()
            case Query(name, argument):
                self._answer(name, argument)
            case Leave(exit_code):
                self.exit_code = exit_code
                self.over.set()
            case Close(exit_code):
                self._close(exit_code)
            case Append() | Remember() | Refuse():
                pass  # done before

    def _close(self, exit_code: int) -> None:
        if self._link is not None:
            self._link.close()
        if not (self.ready.is_set() or self.over.is_set()):
            self.exit_code = exit_code  # never in the room: there is nothing to go on with
            self.over.set()

    def _show(self, kind: Kind, text: str) -> None:
        self._terminal.show(Line(kind, text))

    # ----------------------------------------------------------------- commands about the chain

    def _answer(self, name: str, argument: str) -> None:
        try:
            match name:
                case "history":
                    self._history(argument)
                case _ if argument:
                    self._show(Kind.ERROR, f"say it like this, with nothing behind it: /{name}")
                case "wallet":
                    index = self._chain.get_latest_block().index
                    coins = f"{self._wallet.balance} coin{'' if self._wallet.balance == 1 else 's'}"
                    self._show(Kind.NOTICE, f"{coins}, from your chain up to block {index}")
                case "chain":
                    self._describe_chain()
        except StoreUnreadable as exc:
            self._show(Kind.ERROR, f"{exc}; /chain says whether your chain is whole")

    def _history(self, argument: str) -> None:
        is_number = argument.isascii() and argument.isdecimal() and len(argument) < 9
        count = int(argument) if is_number else 0 if argument else _HISTORY_DEFAULT
        if count == 0:
            self._show(Kind.ERROR, "say it like this: /history 50")
            return
        for line in history(self._chain, count):
            self._terminal.show(line)

    def _describe_chain(self) -> None:
        head = self._chain.head()
        verdict = self._chain.verify(signatures=False)
        groups = " ".join(head.hash.hex()[i : i + 8] for i in range(0, 64, 8))
        self._show(Kind.NOTICE, f"{head.index + 1} blocks, in {self._profile.path / 'chain.db'}")
        self._show(Kind.NOTICE, f"head: {groups}")
        self._show(Kind.NOTICE if verdict.ok else Kind.ALERT, f"{verdict}: {verdict.sentence}")
