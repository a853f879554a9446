"""What every terminal does, whatever edits its line: the queue, the screen's thread, the prompt.

What lives here: `Terminal`, which `chat_terminal` opens and others hold.  What it does not know:
how a line is edited, rooms, members, commands, keys, sockets, files.

    terminal.show(Line(Kind.NOTICE, "bob joined"))  # any thread
    text = terminal.read_line("> ")                 # the prompt thread; None: leave

Threads: the screen thread takes lines from a bounded queue and writes them.  The prompt thread
reads; it holds `_turn` while it puts up a prompt or takes it down, and no line is written then.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TextIO

from chat_text import TIME_FORMATS, Kind, Line, escape_name, local_day, wrapped

__all__ = [
    "BELLS",
    "MAX_LINE_BYTES",
    "MAX_QUEUED_CHARS",
    "MAX_QUEUED_LINES",
    "BadInput",
    "Streams",
    "Terminal",
]

MAX_LINE_BYTES = 65_536  # of input: bounds the memory that a file without a newline can take
MAX_QUEUED_LINES = 10_000  # a terminal shows these in about a second; nobody reads a longer backlog
MAX_QUEUED_CHARS = 4_194_304  # of these lines together: 10,000 messages of 16 KiB would be 160 MB
BATCH_LINES = 200  # written at once: the prompt is redrawn once a batch, keys are served in between
MAX_UNASKED_LINES = 20  # of a pasted text: who pastes more may have pasted the wrong thing
BELLS = ("off", "mention", "all")
BELL_INTERVAL_S = 1.0  # a flood of messages rings once in that time


class BadInput(ValueError):
    """A line of input that cannot be taken: not UTF-8, or longer than MAX_LINE_BYTES.

    str(error) is a sentence for the person.  text: what was refused, with bad bytes spelled out;
    "" when it was not kept.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(reason)
        self.text = text


_TOO_LONG = f"a line of input is over {MAX_LINE_BYTES} bytes and was not taken"


def _checked(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise BadInput("a line of input is not UTF-8 and was not taken", shown) from exc
    if size > MAX_LINE_BYTES:
        raise BadInput(_TOO_LONG, text)
    return text


class Streams(NamedTuple):
    """Bytes without buffers; None: closed before we started."""

    stdin: io.RawIOBase | None
    stdout: io.RawIOBase | None
    stderr: io.RawIOBase | None

    @classmethod
    def standard(cls) -> Streams:
        """This process's own."""
        return cls(_raw(sys.stdin, "rb"), _raw(sys.stdout, "wb"), _raw(sys.stderr, "wb"))


def _raw(stream: TextIO | None, mode: str) -> io.RawIOBase | None:
    """The stream's bytes without a buffer; None if there are none."""
    if stream is None:
        return None
    try:
        stream.flush()
        return open(stream.fileno(), mode, buffering=0, closefd=False)  # type: ignore[return-value]
    except (OSError, ValueError):
        return None


class Terminal:
    """Both ends of the talk with the person.  `chat_terminal.open_terminal` picks which one.

    interactive: stdin and stdout are both a terminal.
    broken: stdout is gone (`| head -1`); lines are dropped and `read_line` returns None.
    complete: given the text left of the cursor, all that it may become; Tab asks it.  Any thread
    may set it; the prompt thread calls it.
    """

    def __init__(self, streams: Streams, *, quiet: bool = False, time_format: str = "hm") -> None:
        if time_format not in TIME_FORMATS:
            raise ValueError(f"one of {', '.join(TIME_FORMATS)}, not {time_format!r}")
        self._in, self._out, self._err = streams
        self._quiet = quiet
        self._person_types = self._in is not None and self._in.isatty()
        self._on_screen = self._out is not None and self._out.isatty()
        self._time_format = time_format if self._on_screen else "off"
        self._colour = False
        self._bell_of = "mention"
        self.complete: Callable[[str], Sequence[str]] = lambda before: ()
        self.interactive = self._person_types and self._on_screen
        self.broken = self._out is None
        # The prompt thread's:
        self._interrupted = False  # Ctrl-C came since the last line
        self._is_asking = False  # what is typed answers our own question: no history, no Tab
        self._unread = bytearray()  # of stdin, where lines are not edited in this process
        # The screen thread's:
        self._day = local_day(time.time_ns() // 1_000_000)  # of the last message; first: today
        self._rang_s = -BELL_INTERVAL_S
        # Whose turn it is to write:
        self._progress = ""  # what `progress` shows
        waker = os.pipe()
        os.set_blocking(waker[1], False)  # full wakes often enough
        self._woken, self._waker = io.FileIO(waker[0], "rb"), io.FileIO(waker[1], "wb")
        self._turn = threading.Lock()  # held while writing
        self._changed = threading.Condition()  # guards what follows
        self._queue: deque[Line] = deque()
        self._queued_chars = 0
        self._skipped = 0  # lines skipped since the queue was full; 0 when it is empty
        self._shown = self._written = 0  # lines ever put into the queue, lines of them written
        self._input_ended = False
        self._closed = self._stopped = False  # closing was asked for, the screen thread has ended
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    @property
    def bell(self) -> str:
        """Which messages ring, where a person types: one of BELLS.  Any thread may set it."""
        return self._bell_of

    @bell.setter
    def bell(self, which: str) -> None:
        if which not in BELLS:
            raise ValueError(f"one of {', '.join(BELLS)}, not {which!r}")
        self._bell_of = which

    @property
    def columns(self) -> int:
        """Of the window that stdout is; 0: it is none, or does not say."""
        if self._out is None or not self._on_screen:
            return 0
        try:
            return os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):
            return 0

    def show(self, line: Line) -> None:
        """Queue a line for the screen.  Any thread.  After `close` it is dropped.

        When the queue is full (MAX_QUEUED_LINES or _CHARS) an interactive terminal skips lines
        until it has caught up, and then says how many; anything else makes the caller wait.  Alerts
        and errors have twice that room, so that a flood of messages does not hide them.
        """
        if self._quiet and line.kind in (Kind.NOTICE, Kind.DIALOGUE) and not line.is_answer:
            return
        urgent = line.kind in (Kind.ALERT, Kind.ERROR)
        with self._changed:
            if self.interactive and (self._full(urgent) or (self._skipped and not urgent)):
                self._skipped += 1
                return
            self._changed.wait_for(lambda: self._over() or not self._full(urgent))
            if not self._over():
                self._queue.append(line)
                self._queued_chars += len(line.text)
                self._shown += 1
                self._changed.notify_all()

    def read_line(self, prompt: str, draft: str = "") -> str | None:
        """Ask for a line.  It comes without its newline; a pasted one may have newlines inside.

        For one thread, the main one: only there Ctrl-C arrives.  `draft` is put into the edit
        buffer (plain lines have none).  A pasted text of more than MAX_UNASKED_LINES is asked about
        first; if it is not meant, it is the next draft.  None: end of input, Ctrl-D, Ctrl-C twice
        with nothing typed between (once, if no person types), `broken`, or a call of `end_input` or
        `close`.  Raises BadInput; the next call continues with the next line.
        """
        prompt = escape_name(prompt)  # it may name what was found on the network
        while not self._reading_is_over():
            try:
                if self._interrupted:
                    self.flush()  # the hint stands above the prompt
                text = self._read_once(prompt, draft)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._person_types or (self._interrupted and not self._half_typed()):
                    return None
                self._interrupted, draft = True, ""
                self.show(Line(Kind.NOTICE, "press Ctrl-C again, or type exit, to leave"))
                continue
            self._interrupted = False
            if self._is_meant(_checked(text)):
                return text
            draft = text
        return None

    def remember(self, lines: Sequence[str]) -> None:
        """Put lines typed in earlier runs, oldest first, where arrow-up finds them.

        For the prompt thread, before the first `read_line`.
        """

    def status(self, text: str) -> None:
        """What the row below the prompt says, where there is such a row; "": none.  Any thread."""

    def progress(self, text: str) -> None:
        """Show how far something is, in a row that the next call replaces; "" takes it away.

        On a terminal alone, and where no prompt stands.  Take it away before anything is shown.
        """
        if self._quiet or self._err is None or not self._err.isatty():
            return
        width = len(self._progress)
        self._progress = escape_name(text)
        row = self._progress.ljust(width) if text else " " * width + "\r"
        with self._turn:
            self._write(self._err, "\r" + row)

    def flush(self) -> None:
        """Return when all that was shown before is written, or dropped because of `broken`."""
        with self._changed:
            shown = self._shown
            self._changed.wait_for(lambda: self._written >= shown or self._stopped)

    def end_input(self) -> None:
        """Make a waiting `read_line`, and every later one, return None.  Any thread."""
        self._input_ended = True
        with self._turn:
            self._wake_reader()

    def close(self) -> None:
        """Write what was shown, end the screen thread and a waiting `read_line`.  Any thread."""
        self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._turn:
            self._wake_reader()
            self._waker.close()
            self._woken.close()

    # ------------------------------------------------------------ what an implementation adds

    def _read(self, prompt: str, draft: str) -> str:
        """One line, bad bytes as lone surrogates.  Raises EOFError, KeyboardInterrupt, BadInput."""
        raise NotImplementedError

    def _take_down(self) -> None:
        """After `_read`, however it ended: no prompt stands, nobody waits for it.  Idempotent."""

    def _print(self, lines: list[Line]) -> None:
        """Write lines, above the prompt if one stands.  Only the screen thread calls it."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        """Make `_read` look if `_reading_is_over`, or a text was handed.  Caller holds `_turn`."""
        with suppress(ValueError):  # close was called before
            self._waker.write(b"!")

    def _half_typed(self) -> str:
        """What stood in the edit buffer when Ctrl-C came, as far as that can be known."""
        return ""

    # --------------------------------------------------------------------------- the input

    def _read_once(self, prompt: str, draft: str) -> str:
        """Raises what `_read` does."""
        try:
            return self._read(prompt, draft)
        finally:
            self._take_down()  # again: an interrupt may have come while `_read` did it

    def _is_meant(self, text: str) -> bool:
        """Whether a text of many lines, which a slip of the hand can paste, is to be sent."""
        lines = text.rstrip("\n").count("\n") + 1
        if not self.interactive or lines <= MAX_UNASKED_LINES:
            return True
        self._is_asking = True
        try:
            answer = self._read_once(f"send these {lines} lines as one message? [y/N] ", "")
        except (EOFError, KeyboardInterrupt):
            return False
        finally:
            self._is_asking = False
        return answer.strip().lower() in ("y", "yes")

    def _next_line(self) -> bytes:
        """The next line of stdin, without LF or CR LF.  Keeps at most two times MAX_LINE_BYTES.

        Raises EOFError, KeyboardInterrupt, and BadInput for a line that is too long.
        """
        too_long = False
        searched = 0  # no newline in that many bytes of _unread
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > MAX_LINE_BYTES + 1:  # 1: perhaps a CR
                too_long, searched = True, 0
                self._unread.clear()
            chunk = self._chunk()
            if not chunk:
                if not self._unread and not too_long:
                    raise EOFError
                end = len(self._unread)
                break
            self._unread += chunk
        line = bytes(self._unread[:end]).removesuffix(b"\r")
        del self._unread[: end + 1]
        if too_long or len(line) > MAX_LINE_BYTES:
            raise BadInput(_TOO_LONG)
        return line

    def _chunk(self) -> bytes:
        """Wait for some input; empty at its end."""
        try:
            while not self._wait_for_input():
                if self._reading_is_over():
                    raise EOFError
            assert self._in is not None
            return self._in.read(MAX_LINE_BYTES) or b""
        except (OSError, ValueError):  # a terminal that hung up; closed meanwhile
            return b""

    def _wait_for_input(self) -> bool:
        """Wait until stdin can be read; False: woken.  Raises OSError, ValueError: it is gone."""
        if self._in is None:
            raise OSError("no stdin")
        if os.name != "posix":  # there pipes cannot be waited for, and a reader not be woken
            return True
        try:
            # A signal that comes just before select would wait with it: its number wakes us.
            _wake_by_signals(self._waker.fileno())
            ready, _, _ = select.select([self._in, self._woken], [], [])
        finally:
            _wake_by_signals(-1)
        if self._woken in ready:
            self._woken.read(1)
            return False
        return True

    # ---------------------------------------------------------------- the queue and the screen

    def _over(self) -> bool:
        return self._closed or self.broken

    def _reading_is_over(self) -> bool:
        return self._input_ended or self._over()

    def _full(self, urgent: bool) -> bool:
        share = max(len(self._queue) / MAX_QUEUED_LINES, self._queued_chars / MAX_QUEUED_CHARS)
        return share >= (2 if urgent else 1)

    def _run(self) -> None:
        try:
            while lines := self._take():
                self._print(lines)
                with self._changed:
                    self._written += len(lines)
                    self._changed.notify_all()
        finally:  # after a bug in _print too: nobody waits for a thread that is gone
            with self._changed:
                self._closed = self._stopped = True
                self._changed.notify_all()

    def _take(self) -> list[Line]:
        """Wait for lines.  None left: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            lines = [self._queue.popleft() for _ in range(min(BATCH_LINES, len(self._queue)))]
            self._queued_chars -= sum(len(line.text) for line in lines)
            if self._skipped and not self._queue:
                why = "the screen is slower than the room; /history shows them"
                lines.append(Line(Kind.NOTICE, f"{self._skipped} lines were skipped: {why}"))
                self._shown += 1
                self._skipped = 0
            self._changed.notify_all()
            return lines

    def _rendered(self, lines: list[Line]) -> str:
        """All that is written for them, days and bell included.  The screen thread's."""
        columns = self.columns
        shown = []
        for line in lines:
            if self._begins_a_day(line):
                shown.append(self._row(Line(Kind.NOTICE, self._day + " --"), columns))
            shown.append(self._row(line, columns))
        if any(map(self._rings, lines)) and time.monotonic() - self._rang_s >= BELL_INTERVAL_S:
            self._rang_s = time.monotonic()
            shown.append("\a")
        return "".join(shown)

    def _row(self, line: Line, columns: int) -> str:
        """A line as it is written, in as many rows as it takes, with its newline."""
        text = line.render(self._time_format)
        if line.kind is not Kind.DIALOGUE:  # our own words, a command to be copied among them
            text = wrapped(text, columns)
        return (_coloured(line, text) if self._colour else text) + "\n"

    def _begins_a_day(self, line: Line) -> bool:
        """Whether it is a message of another day than the one before, where days are shown."""
        if not self.interactive or self._time_format == "off" or line.kind is not Kind.MESSAGE:
            return False
        before, self._day = self._day, local_day(line.sent_ms) or self._day
        return self._day != before and not self._quiet

    def _rings(self, line: Line) -> bool:
        is_wanted = self._bell_of == "all" or (self._bell_of == "mention" and line.mention)
        return self.interactive and line.kind is Kind.MESSAGE and is_wanted

    def _write(self, stream: io.RawIOBase | None, text: str) -> None:
        """Write all of it.  UTF-8 whatever the locale; unbuffered, so nothing can fail at exit."""
        if stream is None:
            return
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data:
                count = stream.write(data)
                if count is None:  # who started us made it non-blocking
                    select.select([], [stream], [])
                data = data[count or 0 :]
        except (OSError, ValueError):  # the other side closed it, the disk is full, it is closed
            if stream is self._out:
                self._out, self.broken = None, True
                self._wake_reader()
            else:
                self._err = None


def _coloured(line: Line, text: str) -> str:
    """Colours repeat what the words say: alerts red, notices faint, authors bold."""
    match line.kind:
        case Kind.ALERT:
            return f"\x1b[1;31m{text}\x1b[0m"
        case Kind.NOTICE:
            return f"\x1b[2m{text}\x1b[0m"
        case Kind.MESSAGE:
            before, name, after = text.partition(f"{line.name}: ")
            return f"{before}\x1b[1m{name}\x1b[0m{after}"
        case _:
            return text


def _wake_by_signals(descriptor: int) -> None:
    """Has each signal's number written there; -1: nowhere."""
    with suppress(ValueError):  # not the main thread: signals do not come here
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
