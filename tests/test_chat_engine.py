"""chat_engine: what is performed in which order, and how it ends.

The session is a script, terminal, link and chain write one journal; where a chain is read, it is a
real one.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast

import pytest
from simulated_room import keystore
from test_chat_history import OUR_KEYS, Book

import chat_addresses
import chat_engine
import chat_retry
from blockchain import (
    Blockchain,
    BlockType,
    Draft,
    Finding,
    Head,
    SideRow,
    StoreFailed,
    Verdict,
)
from chat_addresses import Address
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
)
from chat_engine import MAX_OUT_BYTES, MAX_WAITING_LINES, Engine, now
from chat_link import CannotConnect, Inbox, Lost, Received
from chat_profile import ProfileError
from chat_retry import Retry
from chat_sync_bodies import Ask
from chat_terminal import Kind, Line
from chat_typed import TypedLines
from chat_wire import Broadcast, Frame

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen
HEAD = Head(bytes(16), 7, bytes(32), bytes(64))


def draft(name: str) -> Append:
    return Append(Draft(BlockType.SENT, name.encode(), bytes(32)))


def notice(text: str) -> Show:
    return Show(Line(Kind.NOTICE, text))


def received(*names: str) -> Received:
    frames = [Frame(Broadcast(name.encode()).serialize()) for name in names]
    return Received(frames, sum(len(frame.raw) for frame in frames))


@pytest.fixture(autouse=True)
def no_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is appended here are no entries."""
    nothing = SimpleNamespace(note=lambda *_: None)
    monkeypatch.setattr(chat_engine, "Archive", lambda _read: nothing)
    monkeypatch.setattr(chat_engine, "fill", lambda *_: iter(()))


class Script:
    """A session that does what a test says.  A line or frame that is in `answers` has those
    effects; any other is appended, sent and shown."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Effect]] = {}
        self.faults: dict[str, BaseException] = {}  # by method
        self.calls: list[str] = []
        self.ticks = 0
        self.on_tick: list[Effect] = []
        self.lets_in = True  # the relay
        self.exit_code = 0
        self.leaving = False
        self.lets_in = True  # a connection is in the room as soon as it is made
        self.undelivered = 0
        self.holding: list[tuple[str, int]] = []
        self.ticked = threading.Condition()

    def _called(self, method: str, detail: str = "") -> None:
        self.calls.append(f"{method} {detail}".strip())
        if method in self.faults:
            raise self.faults[method]

    def connected(self) -> list[Effect]:
        self._called("connected")
        return [Ready()] if self.lets_in else []

    def disconnected(self, why: str, _now: Moment) -> list[Effect]:
        self._called("disconnected", why)
        return [Show(Line(Kind.ALERT, why))]

    def receive(self, frame: Frame, _now: Moment) -> list[Effect]:
        name = frame.body.decode()
        self._called("receive", name)
        received = Append(Draft(BlockType.RECEIVED, name.encode(), bytes(32)))
        return self.answers.get(name, [notice(name), received])

    def typed(self, text: str, _now: Moment) -> list[Effect]:
        self._called("typed", text)
        if text == "/quit":
            return self.leave(_now)
        return self.answers.get(text, [Transmit(text.encode()), Credit(), draft(text)])

    def tick(self, _now: Moment, head: Head) -> list[Effect]:
        assert head == HEAD or head.index >= 0
        with self.ticked:
            self.ticks += 1
            self.ticked.notify_all()
        if "tick" in self.faults:
            raise self.faults["tick"]
        effects, self.on_tick = self.on_tick, []
        return effects + ([Leave(self.exit_code)] if self.leaving else [])

    def leave(self, _now: Moment, within_s: float | None = None) -> list[Effect]:
        self._called("leave", "" if within_s is None else str(within_s))
        self.leaving = True
        return []

    def unsent(self) -> int:
        return self.undelivered

    def names(self) -> list[str]:
        return []

    def holders(self) -> list[tuple[str, int]]:
        return self.holding

    def session_key_made(self, sek: object, _now: Moment) -> list[Effect]:
        self._called("session_key_made", type(sek).__name__)
        return [Transmit(b"rebundle")]

    def waits_for_ticks(self, count: int) -> None:
        """Until so many more turns are over."""
        with self.ticked:
            target = self.ticks + count
            assert self.ticked.wait_for(lambda: self.ticks >= target, DEADLINE_S)


class Running:
    """An engine on its thread; `journal` is what reached the outside, in order."""

    def __init__(
        self, chain: Blockchain | None = None, balance: int = 0, checked_from: int = 0
    ) -> None:
        self.journal: list[str] = []
        self.errors: list[str] = []
        self.session = Script()
        self.write_fails: BaseException | None = None
        self.inbox = Inbox()
        self.link = SimpleNamespace(
            send=lambda frame: self.journal.append(f"send {frame.decode()}"),
            wake=lambda: self.journal.append("wake"),
            close=self._close,
            waiting_bytes=0,
            address="192.168.1.7",
        )
        self.checkpoints = 0
        self.verification: list[Verdict | None] = []  # what the slices of the whole say
        self.compared: Verdict | None = None  # what a witness's head is found to be
        self.follow_fails: Exception | None = None
        self.head = HEAD
        self.reopened = Verdict(Finding.OK, 8)
        self.reopen_fails: Exception | None = None
        self.reopens = 0
        fake_chain = SimpleNamespace(
            append=self._append,
            head=lambda: self.head,
            verification=lambda **_: iter(self.verification),
        )
        profile = SimpleNamespace(
            chain=chain or fake_chain,
            path=Path("/profile"),
            verdict=Verdict(Finding.OK, 8),
            checked_from=checked_from,
            finding=None,
            checkpoint=self._checkpoint,
            compare=lambda _head, _who: self.compared,
            follow=self._follow,
            reopen=self._reopen,
            balance=lambda: 5,
        )
        self.profile = cast(Any, profile)
        self.renewed: tuple[Script, Any] = Script(), "no relay there"
        self.terminal: Any = SimpleNamespace(
            show=self._show,
            end_input=lambda: self.journal.append("end input"),
            interactive=False,
            bell="mention",
            status=lambda _text: None,
        )
        self.engine = Engine(
            self.profile,
            cast(Any, self.session),
            cast(Any, self.terminal),
            self.inbox,
            balance,
            lambda: cast(Any, self.renewed[0]),
            self._dial,
            lambda _sock: cast(Any, self.renewed[1]),
            lambda: [Line(Kind.NOTICE, "join like this")],
            TypedLines({}),
        )
        self.engine.attach(cast(Any, self.link))
        self.thread = threading.Thread(target=self.engine.run, daemon=True)

    def _close(self, _why: str = "closed") -> None:
        self.journal.append("close")

    def _dial(self) -> Any:
        if isinstance(self.renewed[1], str):
            raise CannotConnect(self.renewed[1])
        return SimpleNamespace(close=lambda: None)

    def _append(self, drafts: list[Draft], _ms: int, side: list[SideRow]) -> None:
        if self.write_fails is not None:
            raise self.write_fails
        names = [d.record.decode() for d in drafts] + [row.key.decode() for row in side]
        self.journal.append(f"append {' '.join(names)}")

    def _reopen(self, _known: Head) -> Verdict:
        self.reopens += 1
        if self.reopen_fails is not None:
            raise self.reopen_fails
        return self.reopened

    def _checkpoint(self, _ms: int) -> None:
        self.checkpoints += 1
        if self.write_fails is not None:
            raise self.write_fails

    def _follow(self, finding: str) -> str:
        if self.follow_fails is not None:
            raise self.follow_fails
        self.journal.append(f"follow {finding}")
        return "evidence-1.db"

    def _show(self, line: Line) -> None:
        self.journal.append(f"show {line.text}")
        if line.kind is Kind.ERROR:
            self.errors.append(line.text)

    @property
    def shown(self) -> list[str]:
        return [entry.removeprefix("show ") for entry in self.journal if entry.startswith("show ")]

    def ends(self) -> int:
        """Waits for the end of the thread; nobody is left waiting."""
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        for event in (self.engine.over, self.engine.leaving, self.engine.ready):
            assert event.is_set()
        assert self.journal.count("end input") == 1
        return self.engine.exit_code

    def waits_for_show(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while f"show {text}" not in self.journal:
            assert time.monotonic() < deadline, self.journal
            time.sleep(0.002)  # the engine's thread shows it

    def waits_for_call(self, call: str, count: int) -> None:
        """Until the session was called like that so often."""
        deadline = time.monotonic() + DEADLINE_S
        while self.session.calls.count(call) < count:
            assert time.monotonic() < deadline, self.session.calls
            self.session.waits_for_ticks(1)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.engine.leave(0.0)
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_engine, "_TICK_S", 0.002)


@pytest.fixture
def idle() -> Running:
    """Not started: what is given to it waits, and is one batch."""
    return Running()


@pytest.fixture
def running(idle: Running) -> Iterator[Running]:
    with idle:
        yield idle


# --------------------------------------------------------------------------- the order of effects


def test_blocks_are_on_disk_before_anything_is_sent_or_shown(running: Running) -> None:
    row = SideRow("members", b"row", b"value")
    running.session.answers["hello"] = [
        notice("shown"),
        Transmit(b"sent"),
        draft("one"),
        Credit(),
        Remember(row),
        draft("two"),
    ]
    running.engine.submit("hello", wait=True)
    assert running.journal == [
        "append one two row",
        "show shown",
        "send sent",
        "show Mined 1 coin. New balance: 1",
    ]


def test_all_that_waits_is_one_transaction_and_lines_are_a_second(idle: Running) -> None:
    for number in range(5):
        idle.inbox.put(received(f"frame{number}a", f"frame{number}b"))
    for number in range(5):
        idle.engine.submit(f"line{number}", wait=False)
    idle.engine.submit("/quit", wait=False)
    with idle:
        assert idle.ends() == 0
    names = [f"frame{number}{letter}" for number in range(5) for letter in "ab"]
    lines = [f"line{number}" for number in range(5)]
    expected = ["wake", f"append {' '.join(names)}", *(f"show {name}" for name in names)]
    expected.append(f"append {' '.join(lines)}")
    for number, line in enumerate(lines, 1):
        expected += [f"send {line}", f"show Mined 1 coin. New balance: {number}"]
    assert idle.journal == [*expected, "close", "end input"]


def test_a_turn_without_blocks_writes_nothing(running: Running) -> None:
    running.session.answers["/who"] = [notice("nobody")]
    running.engine.submit("/who", wait=True)
    assert running.journal == ["show nobody"]


def test_a_turn_takes_a_bounded_number_of_lines_and_frames(idle: Running) -> None:
    for number in range(200):
        idle.engine.submit(f"{number}", wait=False)
    idle.engine.submit("/quit", wait=False)
    with idle:
        assert idle.ends() == 0
    sizes = [len(entry.split()) - 1 for entry in idle.journal if entry.startswith("append")]
    assert sum(sizes) == 200
    assert max(sizes) == 64
    assert [entry for entry in idle.journal if entry.startswith("send")] == [
        f"send {number}" for number in range(200)
    ]


def test_acks_go_after_what_they_vouch_for_is_on_disk_and_shown(idle: Running) -> None:
    idle.inbox.put(received("hello"))
    idle.engine.submit("line", wait=False)
    idle.session.on_tick = [Transmit(b"ack")]
    with idle:
        idle.session.waits_for_ticks(1)
        idle.engine.leave(0.0)
        assert idle.ends() == 0
    expected = ["wake", "append hello", "show hello", "append line", "send line"]
    assert idle.journal[:7] == [*expected, "show Mined 1 coin. New balance: 1", "send ack"]


def test_the_balance_goes_on_from_the_chains(tmp_path: Path) -> None:
    with Running(balance=41) as running:
        running.engine.submit("hello", wait=True)
        assert "show Mined 1 coin. New balance: 42" in running.journal


# --------------------------------------------------------------------------- what goes wrong


FULL = StoreFailed("database or disk is full")
WAITS = (
    "your chain cannot be written: database or disk is full. Until it can, which is tried every "
    "0 s, nothing is sent, shown or confirmed; {}nothing that was confirmed is lost"
)
AGAIN = "show your chain can be written again: you go on"


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_engine, "_REOPEN_EVERY_S", 0.004)
    monkeypatch.setattr(chat_engine, "_LOOK_S", 0.001)


def waits_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # the engine's thread counts


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("cause", ["a frame", "a line"])
def test_what_cannot_be_written_waits_unsent_and_unseen_until_it_can(
    running: Running, cause: str
) -> None:
    running.session.waits_for_ticks(1)
    running.write_fails = FULL
    if cause == "a frame":
        running.inbox.put(received("hello"))
    else:
        assert running.engine.submit("hello", wait=True) == "", "it is kept, the prompt comes back"
    waits_for(lambda: running.reopens > 2)
    ticks = running.session.ticks
    running.inbox.put(received("later"))
    running.engine.submit("typed later", wait=False)
    waits_for(lambda: running.reopens > 4)
    kept = "" if cause == "a frame" else "what you typed waits, and "
    alert = f"show {WAITS.format(kept)}"
    assert [e for e in running.journal if e != "wake"] == [alert]
    assert running.session.ticks == ticks, "no ack is made meanwhile"
    running.write_fails = None
    waits_for(lambda: "send typed later" in running.journal)
    done = [e for e in running.journal if e != "wake"]
    first = ["show hello"] if cause == "a frame" else ["send hello"]
    assert done[1:4] == ["append hello", AGAIN, *first]
    assert "show later" in done
    assert done.count("append hello") == 1
    assert done.count(AGAIN) == 1


@pytest.mark.usefixtures("_impatient")
def test_a_write_that_had_reached_the_disk_is_not_written_twice(running: Running) -> None:
    def reopen(_known: Head) -> Verdict:
        running.head = replace(HEAD, index=HEAD.index + 1)
        return running.reopened

    running.session.waits_for_ticks(1)
    running.profile.reopen, running.write_fails = reopen, FULL
    running.engine.submit("hello", wait=True)
    running.waits_for_show("Mined 1 coin. New balance: 1")
    assert not [entry for entry in running.journal if entry.startswith("append")]
    assert "send hello" in running.journal


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("how", ["a signal", "the end of input", "it was leaving"])
def test_who_leaves_while_the_disk_fails_gets_one_more_try_and_exit_1(
    running: Running, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(chat_engine, "_REOPEN_EVERY_S", DEADLINE_S)
    running.session.waits_for_ticks(1)
    running.write_fails = FULL
    if how == "it was leaving":
        running.session.on_tick = []
        running.session.leave = lambda *_: [draft("last")]  # type: ignore[method-assign]
        running.engine.leave(1.0)
    else:
        running.engine.submit("hello", wait=True)
        running.engine.submit("untaken", wait=False)
        assert running.reopens == 0
        if how == "a signal":
            running.engine.leave(1.0)
        else:
            running.engine.submit("/quit", wait=False)
            running.engine.submit("behind it", wait=False)
    assert running.ends() == 1
    assert running.reopens == 1
    said = "your chain cannot be written: database or disk is full"
    unsent = "; what you typed since then is not sent"
    assert running.errors == [said + unsent]
    assert not [e for e in running.journal if e.startswith(("send", "append"))]
    assert running.engine.refused == (1 if how == "it was leaving" else 2)
    assert running.engine.has_quit == (how == "the end of input")
    assert running.checkpoints == 0


@pytest.mark.usefixtures("_impatient")
def test_a_disk_that_fails_before_the_room_ends_the_run_with_1(idle: Running) -> None:
    idle.write_fails = FULL
    idle.session.connected = lambda: [draft("first")]  # type: ignore[method-assign]
    with idle:
        assert idle.ends() == 1
    text = "your chain cannot be written: database or disk is full; what you typed since"
    assert idle.shown == [f"{text} then is not sent"]


@pytest.mark.usefixtures("_impatient")
def test_a_person_gets_back_what_is_typed_while_the_disk_fails_and_it_is_tried_at_once(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "_REOPEN_EVERY_S", DEADLINE_S)
    idle.terminal.interactive = True
    idle.session.status_row = lambda: ""  # type: ignore[attr-defined]
    with idle:
        idle.session.waits_for_ticks(1)
        idle.write_fails = FULL
        assert idle.engine.submit("one", wait=True) == ""
        assert idle.engine.submit("two", wait=True) == "two"
        assert idle.reopens == 1
        assert idle.errors == [
            "not taken yet, your chain cannot be written: database or disk is full"
        ]
        idle.write_fails = None
        assert idle.engine.submit("two", wait=True) == ""
        assert idle.reopens == 2
        assert [e for e in idle.journal if e.startswith("send")] == ["send one", "send two"]


@pytest.mark.usefixtures("_impatient")
def test_a_chain_that_cannot_be_read_either_is_tried_again(running: Running) -> None:
    running.session.waits_for_ticks(1)
    running.write_fails = FULL
    running.reopened = Verdict(Finding.UNREADABLE, 3)
    running.engine.submit("hello", wait=True)
    waits_for(lambda: running.reopens > 2)
    running.write_fails, running.reopened = None, Verdict(Finding.OK, 8)
    waits_for(lambda: "send hello" in running.journal)


@pytest.mark.usefixtures("_impatient")
def test_a_chain_that_is_another_when_it_is_opened_again_ends_the_run_with_4(
    running: Running,
) -> None:
    running.session.waits_for_ticks(1)
    running.write_fails = FULL
    running.reopened = Verdict(Finding.TRUNCATED, 5, "this run", 7)
    running.engine.submit("hello", wait=False)
    assert running.ends() == 4
    assert running.shown[-1].startswith("HISTORY TAMPERED: TRUNCATED@5: ")
    assert not [e for e in running.journal if e.startswith(("send", "append"))]


@pytest.mark.usefixtures("_impatient")
def test_a_nick_that_cannot_be_kept_ends_nothing(running: Running) -> None:
    def refuses(_nick: str) -> None:
        raise ProfileError("the disk is full")

    running.profile.remember_nick = refuses
    running.session.answers["/nick rob"] = [Named("rob")]
    running.engine.submit("/nick rob", wait=True)
    assert running.errors == ["the next start calls you as before: the disk is full"]
    assert not running.engine.over.is_set()


@pytest.mark.parametrize(
    "method", ["connected", "receive", "typed", "tick", "disconnected", "session_key_made", "leave"]
)
@pytest.mark.parametrize("fault", [RuntimeError("nobody thought of this"), KeyError("x")], ids=repr)
def test_an_unexpected_exception_is_one_line_that_names_it_and_its_place(
    idle: Running, monkeypatch: pytest.MonkeyPatch, method: str, fault: Exception
) -> None:
    class Key:
        """A session key that is made at once."""

    monkeypatch.setattr(chat_engine, "EncryptionManager", Key)
    idle.session.faults[method] = fault
    idle.inbox.put(received("hello"))
    idle.inbox.put(Key())
    idle.engine.submit("hello", wait=False)
    with idle:
        if method == "disconnected":
            idle.inbox.put(Lost("gone"))
        if method == "leave":
            idle.engine.leave(1.0)
        assert idle.ends() == 1
    (line,) = idle.errors
    assert type(fault).__name__ in line
    assert "at test_chat_engine.py:" in line
    assert str(fault) in line
    assert "\n" not in line
    assert ("close" in idle.journal) == (method != "disconnected")  # then there is none


def test_a_fault_in_the_store_is_no_silent_end(idle: Running) -> None:
    idle.write_fails = TypeError("not a block")
    idle.engine.submit("hello", wait=False)
    with idle:
        assert idle.ends() == 1
    assert "TypeError at test_chat_engine.py:" in idle.errors[0]


def test_who_waits_for_a_line_gets_it_back_when_the_engine_ends(idle: Running) -> None:
    idle.session.faults["typed"] = RuntimeError("fault")
    returned: list[str] = []
    waiting = threading.Thread(
        target=lambda: returned.append(idle.engine.submit("hello", wait=True)), daemon=True
    )
    waiting.start()
    with idle:
        assert idle.ends() == 1
    waiting.join(DEADLINE_S)
    assert not waiting.is_alive()
    assert idle.engine.submit("too late", wait=True) == "too late"
    assert idle.engine.submit("too late", wait=False) == "too late"
    assert idle.engine.untaken == 0


# --------------------------------------------------------------------------- lines


def test_a_line_that_is_refused_comes_back_to_who_waits_and_is_counted(running: Running) -> None:
    running.session.answers["/frob"] = [Show(Line(Kind.ERROR, "no such")), Refuse("/frob")]
    assert running.engine.submit("/frob", wait=True) == "/frob"
    assert running.engine.submit("hello", wait=True) == ""
    assert running.engine.submit("/frob", wait=False) == ""
    running.engine.submit("hello", wait=True)
    assert running.engine.refused == 2


def test_256_lines_wait_and_no_more_then_all_are_taken_in_order(idle: Running) -> None:
    lines = [f"{number}" for number in range(MAX_WAITING_LINES + 50)]

    def pipe() -> None:
        for line in [*lines, "/quit"]:
            assert idle.engine.submit(line, wait=False) == ""

    writer = threading.Thread(target=pipe, daemon=True)
    writer.start()
    deadline = time.monotonic() + DEADLINE_S
    while idle.engine.untaken < MAX_WAITING_LINES:
        assert time.monotonic() < deadline
    assert writer.is_alive()
    assert idle.engine.untaken == 256
    with idle:
        assert idle.ends() == 0
    writer.join(DEADLINE_S)
    assert [call for call in idle.session.calls if call.startswith("typed")] == [
        f"typed {line}" for line in [*lines, "/quit"]
    ]


def test_what_stands_behind_a_quit_is_not_taken_and_known_to_be_behind_it(idle: Running) -> None:
    for line in ("before", "/quit", "behind", "behind too"):
        idle.engine.submit(line, wait=False)
    with idle:
        assert idle.ends() == 0
    assert "typed behind" not in idle.session.calls
    assert idle.engine.has_quit
    assert idle.engine.untaken == 2


def test_what_a_signal_cuts_off_is_known_not_to_be_behind_a_quit(idle: Running) -> None:
    idle.engine.leave(0.0)
    idle.engine.submit("never taken", wait=False)
    with idle:
        assert idle.ends() == 0
    assert "typed never taken" not in idle.session.calls
    assert not idle.engine.has_quit
    assert idle.engine.untaken == 1


def test_no_lines_are_taken_above_1_mib_of_what_waits_to_be_sent(running: Running) -> None:
    assert MAX_OUT_BYTES == 1024 * 1024
    running.link.waiting_bytes = MAX_OUT_BYTES + 1
    running.engine.submit("waits", wait=False)
    running.inbox.put(received("frame"))
    running.session.waits_for_ticks(5)
    assert "typed waits" not in running.session.calls
    assert "show frame" in running.journal, "all else goes on"
    running.link.waiting_bytes = MAX_OUT_BYTES
    assert running.engine.submit("behind it", wait=True) == ""
    assert running.session.calls[-2:] == ["typed waits", "typed behind it"]


def test_a_signal_ends_an_engine_that_takes_no_lines(running: Running) -> None:
    running.link.waiting_bytes = MAX_OUT_BYTES + 1
    running.engine.submit("waits", wait=False)
    running.engine.leave(2.0)
    assert running.ends() == 0
    assert "leave 2.0" in running.session.calls


# --------------------------------------------------------------------------- the connection


@pytest.mark.parametrize("code", [3, 5])
def test_a_close_before_the_room_ends_the_run_with_its_code(idle: Running, code: int) -> None:
    idle.session.connected = list  # type: ignore[method-assign]
    idle.session.answers["error"] = [Show(Line(Kind.ERROR, "refused")), Close(code)]
    idle.inbox.put(received("error"))
    idle.engine.leave(0.0)  # whose Leave(0) must not hide the code
    idle.engine.submit("hello", wait=False)
    with idle:
        assert idle.ends() == code
    assert idle.journal[:3] == ["wake", "show refused", "close"]
    assert "typed hello" not in idle.session.calls
    assert idle.session.ticks == 0


def test_a_connection_lost_before_the_room_ends_the_run_with_3(idle: Running) -> None:
    idle.session.connected = list  # type: ignore[method-assign]
    idle.inbox.put(Lost("the relay closed the connection"))
    with idle:
        assert idle.ends() == 3
    assert idle.shown == ["the relay closed the connection"]


def test_a_connection_lost_in_the_room_leaves_lines_to_be_kept(running: Running) -> None:
    running.session.exit_code = 3
    running.inbox.put(Lost("gone"))
    running.session.waits_for_ticks(3)
    running.link.waiting_bytes = MAX_OUT_BYTES + 1  # of the connection that is gone
    running.engine.submit("kept", wait=True)
    assert running.journal == ["show gone", "append kept", "show Mined 1 coin. New balance: 1"]
    running.engine.submit("/quit", wait=True)
    assert running.ends() == 3


def test_a_close_in_the_room_ends_the_connection_and_not_the_run(running: Running) -> None:
    running.session.answers["error"] = [Close(3)]
    running.inbox.put(received("error"))
    running.session.waits_for_ticks(2)
    assert "close" in running.journal
    assert not running.engine.over.is_set()
    running.engine.submit("hello", wait=True)
    assert "append hello" in running.journal


def test_frames_that_were_taken_make_the_link_look_again(running: Running) -> None:
    running.session.answers["x"] = []
    running.inbox.put(received("x"))
    running.session.waits_for_ticks(2)
    assert running.journal == ["wake"]


def test_a_new_session_key_is_made_elsewhere_and_waited_for_at_the_end(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, made_on = threading.Event(), []

    class Key:
        def __init__(self) -> None:
            made_on.append(threading.current_thread())
            assert go_on.wait(DEADLINE_S)

    monkeypatch.setattr(chat_engine, "EncryptionManager", Key)
    running.session.on_tick = [MakeSessionKey()]
    running.session.waits_for_ticks(5)  # it does not wait for the key
    go_on.set()
    deadline = time.monotonic() + DEADLINE_S
    while "send rebundle" not in running.journal:
        assert time.monotonic() < deadline
    assert running.session.calls[-1] == "session_key_made Key"
    assert made_on[0] is not running.thread
    running.engine.leave(0.0)
    assert running.ends() == 0
    assert not made_on[0].is_alive()


def test_an_end_that_comes_while_a_key_is_made_waits_for_it(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, makers = threading.Event(), []

    class Key:
        def __init__(self) -> None:
            makers.append(threading.current_thread())
            assert go_on.wait(DEADLINE_S)

    monkeypatch.setattr(chat_engine, "EncryptionManager", Key)
    idle.session.on_tick = [MakeSessionKey()]
    idle.engine.leave(0.0)
    with idle:
        assert idle.engine.over.wait(DEADLINE_S), "the prompt may go on meanwhile"
        go_on.set()
        assert idle.ends() == 0
    assert not makers[0].is_alive()


# --------------------------------------------------------------------------- /history, /chain


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path / "chain.db")
    yield made
    made.chain.close()


def asked(running: Running, command: str, argument: str = "") -> list[str]:
    """What is shown for a query."""
    running.session.answers[command] = [Query(command, argument)]
    before = len(running.shown)
    running.engine.submit(command, wait=True)
    return running.shown[before:]


def test_history_shows_the_last_20_or_as_many_as_are_asked_for(book: Book) -> None:
    for number in range(25):
        book.says(book.bob, f"text {number}")
    texts = [f"text {number}" for number in range(25)]
    with Running(book.chain) as running:
        assert asked(running, "history") == texts[-20:]
        assert asked(running, "history", "3") == texts[-3:]
        assert asked(running, "history", "99999999") == texts
        assert running.errors == []
        for bad in ("0", "00", "-1", "x", "1 2", "1.5", "٣", "1" * 10):
            assert asked(running, "history", bad) == ["say it like this: /history 50"], bad
        assert len(running.errors) == 8


def test_wallet_and_chain_say_what_there_is(book: Book) -> None:
    book.says(book.alice, "hello")
    head = book.chain.head()
    with Running(book.chain, balance=1) as running:
        running.session.holding = [("bob#1234", 3)]
        assert asked(running, "wallet") == [f"1 coin, from your chain up to block {head.index}"]
        size, hexes, verdict, held, *_ = asked(running, "chain")
        assert asked(running, "chain", "1")[0].startswith("block 1: event")
        assert asked(running, "find", "ell")[0] == "hello"
    assert size.startswith(f"{head.index + 1} blocks since ")
    assert size.endswith("in /profile/chain.db")
    assert hexes.split(": ")[1].replace(" ", "") == head.hash.hex()
    assert verdict == f"OK: {head.index + 1} blocks, each as it was written"
    assert held == "your signed head is kept by bob#1234 (block 3)"
    with Running(book.chain, balance=2) as running:
        assert asked(running, "wallet")[0].startswith("2 coins, ")


def test_forget_is_done_by_the_engine_and_what_cannot_be_answered_is_an_error(book: Book) -> None:
    book.says(book.bob, "hello")
    index = book.chain.head().index
    with Running(book.chain) as running:
        assert asked(running, "forget", f"{index} yes") == [
            f"the text of block {index} is erased here; block {index + 1} says so"
        ]
        assert asked(running, "find") == ["say it like this: /find TEXT"]
        (usage,) = asked(running, "export")
        assert usage.startswith("say it like this: /export FILE")
        assert len(running.errors) == 2


@pytest.mark.usefixtures("_impatient")
def test_what_could_not_be_erased_can_be_erased_when_the_disk_works_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.says(book.bob, "hello")
    index = book.chain.head().index
    with Running(book.chain) as running:
        running.session.waits_for_ticks(1)
        with monkeypatch.context() as patch:
            patch.setattr(Blockchain, "_change", lambda *_: fail(sqlite3.OperationalError("full")))
            assert asked(running, "forget", f"{index} yes")[0] == "not done: full"

        def reopen(_known: Head) -> Verdict:
            book.chain.close()
            running.profile.chain = Blockchain.open(book.path, OUR_KEYS)
            return running.reopened

        running.profile.reopen = reopen
        running.waits_for_show(AGAIN.removeprefix("show "))
        assert asked(running, "forget", f"{index} yes")[-1].startswith(f"the text of block {index}")
        running.profile.chain.close()


def fail(problem: Exception) -> None:
    raise problem


def test_chain_of_a_chain_too_long_to_check_at_once_says_how_far_it_is_checked(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "_CHECKED_AT_ONCE", 1)
    with Running(book.chain) as running:
        assert asked(running, "chain")[2].startswith("OK: ")
    running = Running(book.chain, checked_from=3)
    running.engine._checking = iter(lambda: None, 0)  # for ever
    with running:
        assert asked(running, "chain")[2] == (
            "what is new since the last start is OK; the rest is being checked"
        )


def test_a_command_that_takes_nothing_refuses_what_is_behind_it(book: Book) -> None:
    with Running(book.chain) as running:
        assert asked(running, "wallet", "of bob") == [
            "say it like this, with nothing behind it: /wallet"
        ]
        assert len(running.errors) == 1


def test_a_damaged_record_is_one_line_and_the_chat_goes_on(book: Book) -> None:
    block = book.adds(BlockType.RECEIVED, b"decrypts, but is no entry")
    with Running(book.chain) as running:
        (line,) = asked(running, "history")
        assert line.startswith(f"block {block.index} cannot be read: ")
        assert running.errors == [line]
        assert running.engine.submit("hello", wait=True) == ""
        assert "send hello" in running.journal


def test_chain_says_where_it_was_changed(book: Book) -> None:
    book.says(book.bob, "hello")
    book.chain.close()
    database = sqlite3.connect(book.path)
    with database:
        database.execute("DELETE FROM blocks WHERE idx = 2")
    database.close()
    book.chain = Blockchain.open(book.path, keystore("alice").with_chain(bytes(16)))
    with Running(book.chain) as running:
        assert asked(running, "chain")[2].startswith("MISSING@2: ")


# --------------------------------------------------------------------------- findings


WITNESSED = Witnessed(HEAD, "bob#1234", SideRow("acks", b"what bob signed", b"..."))
CUT = Verdict(Finding.TRUNCATED, 5, "bob#1234", 7)


def is_over(running: Running) -> bool:
    return running.engine.over.wait(DEADLINE_S)


def test_a_witness_whose_head_fits_is_kept_as_evidence(running: Running) -> None:
    running.session.on_tick = [WITNESSED]
    running.session.waits_for_ticks(3)
    assert running.journal == ["append what bob signed"]


def test_a_witness_of_an_earlier_chain_whose_end_is_known_changes_nothing(
    running: Running,
) -> None:
    running.session.on_tick = [
        replace(WITNESSED, head=replace(HEAD, chain_id=b"earlier".ljust(16)))
    ]
    running.session.waits_for_ticks(3)
    assert running.journal == []


def test_a_witness_whose_head_does_not_fit_begins_a_new_chain_session_and_connection(
    idle: Running,
) -> None:
    again = SimpleNamespace(
        send=lambda frame: idle.journal.append(f"send again {frame.decode()}"),
        close=lambda: None,
        wake=lambda: None,
        waiting_bytes=0,
    )
    idle.renewed = (Script(), again)
    idle.compared = CUT
    idle.session.answers["witness"] = [WITNESSED, notice("behind it")]
    idle.link.close = lambda: idle.inbox.put(Lost("closed"))
    idle.inbox.put(received("witness"))
    with idle:
        idle.renewed[0].waits_for_ticks(1)
        idle.inbox.put(received("late"))  # over the new connection
        assert idle.engine.submit("hello", wait=True) == ""
    first, *rest = [entry for entry in idle.journal if "witness" not in entry and entry != "wake"]
    assert first == "show behind it", "what was begun is performed first"
    assert rest[0] == f"show HISTORY TAMPERED: TRUNCATED@5: {CUT.sentence}"
    assert "bob#1234" in rest[0]
    assert rest[1].startswith("follow TRUNCATED@5: ")
    assert "bob#1234" not in rest[1], "a genesis is in clear"
    assert rest[2] == (
        "show that chain is kept as /profile/evidence-1.db; you go on with a new one"
    )
    assert "send again hello" in rest
    assert idle.renewed[0].calls[0] == "connected"
    assert "typed hello" not in idle.session.calls
    assert "disconnected closed" not in idle.renewed[0].calls


def test_what_came_over_the_old_connection_is_dropped_and_a_signal_is_not(idle: Running) -> None:
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]

    def close() -> None:
        idle.inbox.put(received("too late"))
        idle.engine.leave(0.0)
        idle.inbox.put(Lost("closed"))

    idle.link.close = close
    with idle:
        assert is_over(idle)
    calls = idle.renewed[0].calls
    assert "leave 0.0" in calls
    assert "receive too late" not in calls


def test_a_finding_when_the_relay_is_gone_leaves_a_session_that_keeps_what_is_typed(
    idle: Running,
) -> None:
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]
    idle.link.close = lambda: idle.inbox.put(Lost("closed"))
    with idle:
        idle.waits_for_show("no relay there")
        assert not idle.engine.over.is_set()
        assert idle.engine.submit("kept", wait=True) == ""
        assert "append kept" in idle.journal


def test_a_finding_while_leaving_is_kept_and_the_run_ends(idle: Running) -> None:
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]
    idle.session.leaving = True
    with idle:
        assert is_over(idle)
    assert any(entry.startswith("follow TRUNCATED@5") for entry in idle.journal)
    assert idle.renewed[0].calls == []


def test_what_a_leaving_session_still_gets_stands_on_the_chain_that_it_began_on(
    idle: Running,
) -> None:
    # The new chain would not say whose sessions these are.
    turns = iter([[WITNESSED], [draft("late")], [Leave(0)]])
    idle.compared, idle.session.leaving = CUT, True
    idle.session.tick = lambda *_: next(turns)  # type: ignore[assignment,method-assign]
    with idle:
        assert is_over(idle)
    follows = next(i for i, entry in enumerate(idle.journal) if entry.startswith("follow"))
    assert idle.journal.index("append late") < follows


def test_what_is_typed_before_the_room_has_us_again_waits_for_that(idle: Running) -> None:
    again = SimpleNamespace(
        send=lambda _frame: None, close=lambda: None, wake=lambda: None, waiting_bytes=0
    )
    session = Script()
    session.connected = list  # type: ignore[method-assign]
    session.answers["welcome"] = [Ready()]
    idle.renewed = (session, again)
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]
    idle.link.close = lambda: idle.inbox.put(Lost("closed"))
    with idle:
        session.waits_for_ticks(1)
        assert idle.engine.submit("hello", wait=False) == ""
        session.waits_for_ticks(2)
        assert "typed hello" not in session.calls
        idle.inbox.put(received("welcome"))
        session.waits_for_ticks(2)
    assert session.calls[:2] == ["receive welcome", "typed hello"]


def test_what_the_old_session_had_not_delivered_is_said_and_the_run_ends_with_3(
    idle: Running,
) -> None:
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]
    idle.session.undelivered = 2
    idle.link.close = lambda: idle.inbox.put(Lost("closed"))
    with idle:
        idle.renewed[0].waits_for_ticks(1)
        said = "2 messages of yours may not have arrived; kept in evidence-1.db"
        assert f"show {said}" in idle.journal
        idle.engine.submit("/quit", wait=False)
        assert idle.ends() == 3


def test_what_a_start_did_not_verify_is_verified_behind_the_prompt() -> None:
    running = Running(checked_from=5)
    bad = Verdict(Finding.EDITED, 3)
    running.verification += [None, None, None, bad]
    running.link.close = lambda: running.inbox.put(Lost("closed"))
    with running:
        running.renewed[0].waits_for_ticks(1)
    assert f"show HISTORY TAMPERED: EDITED@3: {bad.sentence}" in running.journal
    assert running.session.ticks == 4, "a slice in each turn"


def test_a_chain_that_verifies_as_a_whole_is_not_verified_again() -> None:
    running = Running(checked_from=5)
    running.verification += [None, Verdict(Finding.OK, 9)]
    with running:
        running.session.waits_for_ticks(6)
    assert running.shown == []


def test_a_chain_that_turns_out_to_be_unreadable_ends_the_run_and_is_left_as_it_is() -> None:
    running = Running(checked_from=5)
    running.verification += [Verdict(Finding.UNREADABLE, 3)]
    with running:
        assert is_over(running)
    assert running.ends() == 6
    assert running.errors[0].startswith(
        "your chain cannot be read, so nothing more is sent or kept: UNR"
    )
    assert running.checkpoints == 0
    assert not any(entry.startswith("follow") for entry in running.journal)


def test_a_new_chain_that_cannot_be_made_is_one_line_and_exit_1(idle: Running) -> None:
    idle.compared = CUT
    idle.session.on_tick = [WITNESSED]
    idle.follow_fails = ProfileError("the disk is full")
    with idle:
        assert is_over(idle)
    assert idle.ends() == 1
    assert idle.errors == [
        "your chain cannot be written, so nothing more is sent or shown: the disk is full"
    ]


def test_a_checkpoint_is_written_at_the_end_and_after_many_blocks(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "_CHECKPOINT_BLOCKS", 2)
    for text in ("one", "two", "three"):
        running.engine.submit(text, wait=True)
    assert running.checkpoints == 1
    running.engine.submit("/quit", wait=False)
    assert running.ends() == 0
    assert running.checkpoints == 2


def test_a_checkpoint_that_cannot_be_written_at_the_end_is_no_failure(running: Running) -> None:
    running.session.waits_for_ticks(1)
    running.write_fails = StoreFailed("disk full")
    running.engine.submit("/quit", wait=False)
    assert running.ends() == 0
    assert running.shown == ["the next start takes longer, it has to read more: disk full"]


@pytest.mark.usefixtures("_impatient")
def test_a_checkpoint_that_cannot_be_written_meanwhile_is_waited_for(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_ms: int) -> None:
        raise StoreFailed("disk full")

    monkeypatch.setattr(chat_engine, "_CHECKPOINT_BLOCKS", 1)
    monkeypatch.setattr(running.profile, "checkpoint", fails)
    running.session.waits_for_ticks(1)
    running.engine.submit("one", wait=True)
    waits_for(lambda: "send one" in running.journal)
    assert running.reopens == 1
    assert running.journal[0] == "append one", "and not again"


# --------------------------------------------------------------------------- the clock


def test_now_is_both_clocks_and_the_first_never_goes_back() -> None:
    before = time.time()
    first, second = now(), now()
    assert second.s >= first.s
    assert before - 1 <= first.ms / 1000 <= time.time() + 1


def test_now_counts_what_the_machine_slept_where_a_clock_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock: Callable[[int], float] = {7: 1234.5}.__getitem__
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", clock)
    assert now().s == 1234.5
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert now().s != 1234.5


# --------------------------------------------------------------------------- the connection


def test_connection_that_is_lost_is_tried_again_until_it_is_back(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "Retry", lambda: Retry(lambda: 0.0))
    monkeypatch.setattr(chat_retry, "_FIRST_S", 0.001)
    running = Running()
    tries: list[int] = []

    def dial() -> Any:
        tries.append(len(tries))
        if len(tries) < 4:
            raise CannotConnect("no relay there")
        return SimpleNamespace(close=lambda: None)

    running.engine._dial = dial
    running.renewed = (Script(), running.link)
    with running:
        running.session.waits_for_ticks(1)
        running.inbox.put(Lost("cut"))
        assert running.engine.submit("kept meanwhile", wait=True) == ""
        deadline = time.monotonic() + DEADLINE_S
        while running.session.calls.count("connected") < 2:
            assert time.monotonic() < deadline, running.session.calls
            running.session.waits_for_ticks(1)
    assert tries == [0, 1, 2, 3]
    assert running.session.calls.count("disconnected cut") == 1


def test_relay_that_lets_nobody_in_is_tried_less_and_less_often_and_never_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    class Noted(Retry):
        def lost(self, now_s: float, members: int) -> None:
            calls.append("lost")
            super().lost(now_s, members)

        def failed(self, now_s: float) -> None:
            calls.append("failed")
            super().failed(now_s)

    monkeypatch.setattr(chat_engine, "Retry", lambda: Noted(lambda: 0.0))
    monkeypatch.setattr(chat_retry, "_FIRST_S", 0.001)
    running = Running()
    running.renewed = (running.session, running.link)
    with running:
        running.session.waits_for_ticks(1)
        running.session.lets_in = False
        running.session.answers["error"] = [Close(5)]
        for tries in range(1, 4):
            running.inbox.put(received("error"))
            running.inbox.put(Lost("closed"))
            running.waits_for_call("connected", tries + 1)
        running.session.lets_in = True
        running.inbox.put(Lost("closed"))
        running.waits_for_call("connected", 5)
        running.inbox.put(Lost("cut"))
        running.waits_for_call("connected", 6)
    assert calls == ["lost", "failed", "failed", "failed", "lost"]


def test_connection_that_is_lost_with_the_welcome_still_unread_is_tried_again(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "Retry", lambda: Retry(lambda: 0.0))
    running = Running()
    running.renewed = (running.session, running.link)
    running.session.answers["welcome"] = [Ready()]
    with running:
        running.session.waits_for_ticks(1)
        running.session.lets_in = False
        running.inbox.put(Lost("cut"))
        running.waits_for_call("connected", 2)
        with running.session.ticked:  # so that both are of one batch
            running.inbox.put(received("welcome"))
            running.inbox.put(Lost("cut"))
        running.waits_for_call("connected", 3)


def test_computer_that_slept_connects_anew_at_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.renewed = (Script(), running.link)
    running.link.close = lambda why="closed": running.inbox.put(Lost(why))
    running.session.waits_for_ticks(1)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 60)
    running.waits_for_call("connected", 2)
    assert "disconnected this computer slept" in running.session.calls


class Network:
    """This computer's addresses, as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses = {"192.168.1.7", "172.17.0.1"}
        self.looks = 0
        monkeypatch.setattr(chat_engine, "_NETWORK_LOOK_S", 0.002)
        monkeypatch.setattr(chat_addresses, "find_addresses", self._find)

    def _find(self) -> list[Address]:
        found = [Address(text) for text in self.addresses]
        self.looks += 1
        return found

    def is_seen(self) -> None:
        """Waits until the engine has looked at it as it is now."""
        looks, deadline = self.looks, time.monotonic() + DEADLINE_S
        while self.looks < looks + 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)  # the engine's lookout looks


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


def test_another_network_makes_a_waiting_try_due_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_engine, "Retry", lambda: Retry(lambda: 1.0))
    monkeypatch.setattr(chat_retry, "_FIRST_S", 1e6)
    running = Running()
    running.renewed = (Script(), running.link)
    with running:
        running.session.waits_for_ticks(1)
        network.is_seen()
        running.inbox.put(Lost("cut"))
        running.session.waits_for_ticks(10)
        assert running.session.calls.count("connected") == 1
        network.addresses = {"10.0.0.7"}
        running.waits_for_call("connected", 2)


def test_a_connection_from_an_address_that_is_gone_is_made_anew_at_once(
    network: Network, running: Running
) -> None:
    running.renewed = (Script(), running.link)
    running.link.close = lambda why="closed": running.inbox.put(Lost(why))
    running.session.waits_for_ticks(1)
    network.is_seen()
    network.addresses = {"10.0.0.7"}
    running.waits_for_call("connected", 2)
    assert "disconnected this computer is on another network" in running.session.calls


def test_a_connection_whose_address_stays_is_left_alone(network: Network, running: Running) -> None:
    running.session.waits_for_ticks(1)
    network.is_seen()
    for addresses in ({"192.168.1.7"}, {"192.168.1.7", "10.0.0.7"}, {"192.168.1.7"}):
        network.addresses = addresses
        network.is_seen()
        running.session.waits_for_ticks(2)
    assert "close" not in running.journal


def test_nobody_is_served_before_the_archive_knows_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else who asks would take a part for the whole, and never ask for the rest."""
    told, may_go_on = 0, threading.Event()

    def slices(*_: object) -> Iterator[None]:
        nonlocal told
        while not may_go_on.is_set():
            yield
        told = 7

    nothing = SimpleNamespace(note=lambda *_: None, answer=lambda *_: told)
    monkeypatch.setattr(chat_engine, "Archive", lambda _read: nothing)
    monkeypatch.setattr(chat_engine, "fill", slices)
    idle = Running()
    serve = Serve(cast(Any, SimpleNamespace(fingerprint=b"")), b"", Ask(0), frozenset())
    idle.session.answers["ask"] = [serve]
    monkeypatch.setattr(
        idle.session, "serve", lambda _serve, answer: [notice(f"told {answer}")], raising=False
    )
    idle.inbox.put(received("ask"))
    with idle:
        idle.session.waits_for_ticks(5)
        assert not idle.shown
        may_go_on.set()
        idle.waits_for_show("told 7")
        idle.inbox.put(received("ask"))
        idle.session.waits_for_ticks(2)
    assert idle.shown == ["told 7"] * 2
