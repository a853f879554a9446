"""The one door between Chainroom and the person: show lines, read lines.

Job: escape everything that is shown, print it above a prompt that somebody is typing at, read one
line of input.  Three implementations (prompt_toolkit, readline, plain lines) share one interface.
What it does not know: rooms, members, commands, keys, sockets, files.  It imports nothing of the
project, and prompt_toolkit only when it is used.

    terminal = open_terminal()
    terminal.show(Line(Kind.NOTICE, "bob joined"))  # any thread
    text = terminal.read_line("> ")                 # the prompt thread; None: leave

The rules of this user interface are:

- Nobody else prints, nobody else escapes: callers hand over a text as it came.
- Lines, not a screen: no alternate screen, mouse or boxes.  Copy, scrollback, screen readers work.
- Incoming lines go above the prompt; half-typed text stays.
- How a line begins says what it is: `-- ` a notice, `!! ` an alert, else `author: text`.  Further
  lines of a text are indented, so that nobody can fake a notice.  Colour only repeats the words.
- A terminal gets everything on stdout.  Else stdout has messages and dialogue, stderr the rest.

Threads: the screen thread takes lines from a bounded queue and writes them.  The prompt thread
reads; it holds `_turn` while it puts up a prompt or takes it down, and no line is written then.
Where the line is edited in this process, lines above it are handed to the prompt thread.
"""

from __future__ import annotations

import ctypes
import enum
import io
import os
import re
import select
import signal
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple, TextIO

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_QUEUED_CHARS",
    "MAX_QUEUED_LINES",
    "BadInput",
    "Field",
    "Kind",
    "Line",
    "Terminal",
    "escape",
    "escape_name",
    "open_terminal",
]

MAX_LINE_BYTES = 65_536  # of input: bounds the memory that a file without a newline can take
MAX_QUEUED_LINES = 10_000  # a terminal shows these in about a second; nobody reads a longer backlog
MAX_QUEUED_CHARS = 4_194_304  # of these lines together: 10,000 messages of 16 KiB would be 160 MB
BATCH_LINES = 200  # written at once: the prompt is redrawn once a batch, keys are served in between
MAX_MARKS = 3  # combining marks on one base: Vietnamese and Thai need 2, pointed Hebrew 3

# Control characters but newline and tab; line separators; bidi controls; U+FEFF; lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def escape(text: str) -> str:
    r"""Make a text from outside safe to show: a message, an error, what a relay says.

    Newline and tab stay.  Other control characters (C0, DEL, C1), U+2028, U+2029, bidi controls,
    U+FEFF and lone surrogates become visible, like `\x1b` or `\u202e`; so do combining marks after
    the third on one base.  Lines after the first are indented by 4 spaces.  Takes any str and never
    raises.  Not made to be undone: `\x1b` may also be what somebody typed.

    Known hole: long lines are wrapped by the terminal, so spaces can push words to a row's start.
    """
    return _visible(text, name=False).replace("\n", "\n    ")


def escape_name(text: str) -> str:
    """Like `escape`, for nicks, room and file names: newline, tab and zero-width (Cf) show too."""
    return _visible(text, name=True).replace("\n", "\\x0a").replace("\t", "\\x09")


def _visible(text: str, *, name: bool) -> str:
    text = _UNSAFE.sub(lambda found: _spelled(found[0]), text)
    if text.isascii():
        return text
    shown = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        if category.startswith("M"):
            marks += 1
            shown.append(char if marks <= MAX_MARKS else _spelled(char))
        elif category == "Cf":  # zero-width, so no base: marks after it pile up on the one before
            shown.append(_spelled(char) if name else char)
        else:
            marks = 0
            shown.append(char)
    return "".join(shown)


def _spelled(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Kind(enum.Enum):
    """What a line is."""

    MESSAGE = "message"  # author: text
    NOTICE = "notice"  # -- text
    ALERT = "alert"  # !! text
    DIALOGUE = "dialogue"  # text: the exact strings, "Connected! Type your messages below."
    ERROR = "error"  # chainroom: text


_BEGINS = {Kind.NOTICE: "-- ", Kind.ALERT: "!! ", Kind.DIALOGUE: "", Kind.ERROR: "chainroom: "}


Field = str | int | bool | list[str]

_NO_FIELDS: Mapping[str, Field] = MappingProxyType({})


@dataclass(frozen=True)
class Line:
    """One thing to show, as it came; rendering escapes it.

    author: of a message, with its tag: `bob#7f3a` or `bob#7f3a (private)`.
    sent_ms: of a message, milliseconds since 1970 UTC.
    event, fields: what a program is told beside the text (docs/JSON.md); people never see them.
    mention: a message that names us or is for us alone, so that the bell rings.
    """

    kind: Kind
    text: str
    author: str = ""
    sent_ms: int = 0
    event: str = ""
    fields: Mapping[str, Field] = field(default_factory=lambda: _NO_FIELDS, hash=False)
    mention: bool = False

    def render(self, *, clock: bool = False) -> str:
        """The escaped line without a newline at its end; with `clock` a message begins HH:MM."""
        if self.kind is not Kind.MESSAGE:
            return _BEGINS[self.kind] + escape(self.text)
        time_of_day = _local_time(self.sent_ms) + " " if clock else ""
        return f"{time_of_day}{escape_name(self.author)}: {escape(self.text)}"


def _local_time(sent_ms: int) -> str:
    try:
        return time.strftime("%H:%M", time.localtime(sent_ms // 1000))
    except (OverflowError, ValueError, OSError):  # sent_ms comes from outside: any u64
        return "??:??"


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


class _Streams(NamedTuple):
    """Bytes without buffers; None: closed before we started."""

    stdin: io.RawIOBase | None
    stdout: io.RawIOBase | None
    stderr: io.RawIOBase | None


class Terminal:
    """Both ends of the talk with the person.  `open_terminal` picks the implementation.

    interactive: stdin and stdout are both a terminal.
    broken: stdout is gone (`| head -1`); lines are dropped and `read_line` returns None.
    bell: which messages ring: off, mention or all.  Any thread may set it.
    complete: given the text left of the cursor, what that may become; Tab asks it.  Any thread may
    set it; the prompt thread calls it.
    """

    def __init__(self, streams: _Streams, *, quiet: bool) -> None:
        self._in, self._out, self._err = streams
        self.bell = "mention"
        self.complete: Callable[[str], Sequence[str]] = lambda before: ()
        self._quiet = quiet
        self._person_types = self._in is not None and self._in.isatty()
        self._on_screen = self._out is not None and self._out.isatty()
        self._colour = False
        self.interactive = self._person_types and self._on_screen
        self.broken = self._out is None
        self._interrupted = False  # the prompt thread's: Ctrl-C came since the last line
        self._progress = ""  # what `progress` shows
        bell = os.pipe()
        os.set_blocking(bell[1], False)  # full is rung often enough
        self._bell_heard, self._bell = io.FileIO(bell[0], "rb"), io.FileIO(bell[1], "wb")
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

    def show(self, line: Line) -> None:
        """Queue a line for the screen.  Any thread.  After `close` it is dropped.

        When the queue is full (MAX_QUEUED_LINES or _CHARS) an interactive terminal skips lines
        until it has caught up, and then says how many; anything else makes the caller wait.  Alerts
        and errors have twice that room, so that a flood of messages does not hide them.
        """
        if self._quiet and line.kind in (Kind.NOTICE, Kind.DIALOGUE):
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
        buffer (plain lines have none).  None: end of input, Ctrl-D, Ctrl-C twice with nothing typed
        between (once, if no person types), `broken`, or a call of `end_input` or `close`.
        Raises BadInput; the next call continues with the next line.
        """
        while not self._reading_is_over():
            try:
                text = self._read(prompt, draft)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._person_types or (self._interrupted and not self._half_typed()):
                    return None
                self._interrupted, draft = True, ""
                self.show(Line(Kind.NOTICE, "press Ctrl-C again, or type exit, to leave"))
                self.flush()  # above the next prompt, and not after what is typed there
            else:
                self._interrupted = False
                return _checked(text)
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
            self._bell.close()
            self._bell_heard.close()

    # What an implementation adds.

    def _read(self, prompt: str, draft: str) -> str:
        """One line, bad bytes as lone surrogates.  Raises EOFError, KeyboardInterrupt, BadInput."""
        raise NotImplementedError

    def _print(self, lines: list[Line]) -> None:
        """Write lines, above the prompt if one stands.  Only the screen thread calls it."""
        raise NotImplementedError

    def _wake_reader(self) -> None:
        """Make `_read` look if `_reading_is_over`, or a text was handed.  Caller holds `_turn`."""
        with suppress(ValueError):  # close was called before
            self._bell.write(b"!")

    def _wait_for_input(self) -> bool:
        """Wait until stdin can be read; False: woken.  Raises OSError, ValueError: it is gone."""
        if self._in is None:
            raise OSError("no stdin")
        if os.name != "posix":  # there pipes cannot be waited for, and a reader not be woken
            return True
        try:
            # A signal that comes just before select would wait with it: its number rings the bell.
            _wake_by_signals(self._bell.fileno())
            ready, _, _ = select.select([self._in, self._bell_heard], [], [])
        finally:
            _wake_by_signals(-1)
        if self._bell_heard in ready:
            self._bell_heard.read(1)
            return False
        return True

    def _half_typed(self) -> str:
        """What stood in the edit buffer when Ctrl-C came, as far as that can be known."""
        return ""

    # The queue and the screen.

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
        shown = []
        for line in lines:
            text = line.render(clock=self._on_screen)
            if self._colour and line.kind is Kind.ALERT:
                text = f"\x1b[1;31m{text}\x1b[0m"
            shown.append(text + "\n")
        return "".join(shown)

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


def _wake_by_signals(descriptor: int) -> None:
    """Has each signal's number written there; -1: nowhere."""
    with suppress(ValueError):  # not the main thread: signals do not come here
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)


class _Plain(Terminal):
    """Append-only lines: pipes, TERM=dumb, --plain.  The terminal, if any, edits and echoes."""

    def __init__(self, streams: _Streams, *, quiet: bool) -> None:
        self._unread = bytearray()
        self._standing = ""  # under _turn: the prompt that stands at the end of stdout
        super().__init__(streams, quiet=quiet)

    def close(self) -> None:
        super().close()
        with self._turn:
            self._end_prompt()

    def _print(self, lines: list[Line]) -> None:
        with self._turn:
            prompt = self._standing
            self._end_prompt()
            for stream, group in groupby(lines, self._stream_of):
                self._write(stream, self._rendered(list(group)))
            if self.interactive and prompt:  # a person sees where to type; a pipe has no use for it
                self._write(self._out, prompt)
                self._standing = prompt

    def _stream_of(self, line: Line) -> io.RawIOBase | None:
        to_stdout = self._on_screen or line.kind in (Kind.MESSAGE, Kind.DIALOGUE)
        return self._out if to_stdout else self._err

    def _end_prompt(self) -> None:
        if self._standing:
            self._standing = ""
            self._write(self._out, "\n")

    def _read(self, prompt: str, draft: str) -> str:
        self.flush()  # what was shown first stands above the prompt
        if self._person_types or not (self._quiet and prompt == "> "):
            with self._turn:
                self._write(self._out, prompt)
                self._standing = prompt
        try:
            line = self._next_line()
        except (EOFError, KeyboardInterrupt):
            with self._turn:
                self._end_prompt()
            raise
        if self.interactive:
            with self._turn:
                self._standing = ""  # the person's Enter ended its line
        return line.decode("utf-8", "surrogateescape")

    def _next_line(self) -> bytes:
        """The next line, without LF or CR LF.  Keeps at most two times MAX_LINE_BYTES."""
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


class _Editor(Terminal):
    """The line is edited in this process, by a library that knows what is on the screen.

    So only the prompt thread may write while a prompt stands.  The screen thread hands it a text
    and waits until that is written.
    """

    def __init__(self, streams: _Streams, *, quiet: bool) -> None:
        self._prompt_stands = False  # under _turn: the prompt thread takes texts
        self._handed = ""  # from the screen thread to the prompt thread
        self._handed_written = threading.Event()
        super().__init__(streams, quiet=quiet)
        self._colour = os.name == "posix" and not os.environ.get("NO_COLOR")

    def _print(self, lines: list[Line]) -> None:
        text = self._rendered(lines)
        with self._turn:
            if not self._prompt_stands:
                self._write(self._out, text)
                return
            self._handed = text
            self._handed_written.clear()
            self._wake_reader()
        self._handed_written.wait()

    def _write_handed(self) -> None:
        self._write(self._out, self._handed)
        self._handed = ""
        self._handed_written.set()

    def _start_row(self) -> None:
        """Clear keys that were echoed while no prompt stood; they come again as input."""
        if os.name == "posix":
            self._write(self._out, "\r\x1b[K")


class _PromptToolkit(_Editor):
    """prompt_toolkit runs an event loop in the prompt thread for as long as a prompt stands.

    Not used: its patch_stdout, which loses a text when the prompt ends at the wrong moment, and its
    run_in_terminal, which lets the terminal echo the keys that are pressed meanwhile.
    """

    def __init__(self, streams: _Streams, *, quiet: bool) -> None:
        # Else it asks the terminal for the cursor, and warns in the chat where no answer comes.
        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
        from prompt_toolkit import PromptSession

        self._session = PromptSession[str](reserve_space_for_menu=0, enable_suspend=True)
        super().__init__(streams, quiet=quiet)

    def _read(self, prompt: str, draft: str) -> str:
        def started() -> None:
            self._prompt_stands = True
            if self._reading_is_over():  # since read_line looked; nobody could wake us then
                self._wake_reader()
            self._turn.release()

        self._turn.acquire()
        try:
            self._start_row()
            return self._session.prompt(prompt, default=draft, pre_run=started)
        finally:
            if self._prompt_stands:
                self._turn.acquire()
                self._prompt_stands = False
                self._write_handed()  # if the loop ended before it could
            self._turn.release()

    def _wake_reader(self) -> None:
        if self._prompt_stands and (loop := self._session.app.loop):
            with suppress(RuntimeError):  # just closed: _read goes on
                loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        app = self._session.app
        if app.is_running and not app.is_done:
            app.renderer.erase()
            self._write_handed()
            app.invalidate()
            if self._reading_is_over():
                app.exit(exception=EOFError)

    def _half_typed(self) -> str:
        return self._session.default_buffer.text


class _Readline(_Editor):
    """readline by its callback interface: we wait for keys and texts, it handles a key at a time.

    Python's `input` keeps readline to itself until Enter.  To ask `readline.get_line_buffer` from
    another thread meanwhile crashes now and then: it copies a buffer that changes.  Needs GNU
    readline >= 7 as a shared library; libedit has no rl_clear_visible_line, so plain lines it is.

    Known holes: a new window size is noticed with the next key or line.  Typed bytes that are not
    UTF-8 are dropped by readline itself.
    """

    def __init__(self, streams: _Streams, *, quiet: bool) -> None:
        import readline  # sets readline up: its own signal handlers stay off

        self._readline = readline
        self._lib, self._libc = ctypes.CDLL(readline.__file__), ctypes.CDLL(None)
        self._lib.rl_clear_visible_line.restype = ctypes.c_int  # AttributeError: it has none
        self._accepted = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._accept)
        self._got: list[bytes | None] = []  # what was accepted; None: end of input
        self._half = ""
        super().__init__(streams, quiet=quiet)

    def _accept(self, line: int | None) -> None:
        """readline calls it at Enter (the line is ours to free) and at the end of input (None)."""
        self._lib.rl_callback_handler_remove()
        self._got.append(None if line is None else ctypes.string_at(line))
        self._libc.free(ctypes.c_void_p(line))

    def _read(self, prompt: str, draft: str) -> str:
        lib = self._lib
        self._got.clear()
        with self._turn:
            self._start_row()
            lib.rl_callback_handler_install(prompt.encode(), self._accepted)
            lib.rl_insert_text(draft.encode("utf-8", "backslashreplace"))
            lib.rl_redisplay()
            self._prompt_stands = True
        try:
            while not self._got:
                if self._wait_for_input():
                    lib.rl_callback_read_char()
                elif not self._reading_is_over():
                    self._print_above()
                else:
                    break
        except (OSError, ValueError):  # the terminal hung up, or is closed
            pass
        finally:
            with self._turn:
                if not self._got:  # interrupted
                    self._half = self._readline.get_line_buffer()
                    lib.rl_free_line_state()
                    lib.rl_cleanup_after_signal()
                    lib.rl_callback_handler_remove()
                if not self._got or self._got[0] is None:
                    self._write(self._out, "\n")
                self._prompt_stands = False
                self._write_handed()
        line = self._got[0] if self._got else None
        if line is None:
            raise EOFError
        if line:
            lib.add_history(line)
        return line.decode("utf-8", "surrogateescape")

    def _print_above(self) -> None:
        lib = self._lib
        lib.rl_resize_terminal()
        lib.rl_clear_visible_line()
        self._libc.fflush(None)
        self._write_handed()
        lib.rl_forced_update_display()

    def _half_typed(self) -> str:
        return self._half


def open_terminal(
    *, plain: bool = False, quiet: bool = False, time_format: str = "hm", bell: str = "mention"
) -> Terminal:
    """The best terminal for this process's stdin, stdout and stderr.  Close it when done.

    plain: append-only lines even on a terminal.  quiet: show only messages, alerts and errors, and
    no `> ` where no person types.  time_format: off, hm, hms or iso.  bell: off, mention or all.
    """
    streams = _Streams(_raw(sys.stdin, "rb"), _raw(sys.stdout, "wb"), _raw(sys.stderr, "wb"))
    interactive = all(stream is not None and stream.isatty() for stream in streams[:2])
    if interactive and not plain and os.environ.get("TERM") != "dumb":
        for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
            if isinstance(stream, io.TextIOWrapper):  # both libraries ask it for the encoding
                stream.reconfigure(encoding="utf-8", errors=errors)
        for implementation in (_PromptToolkit, _Readline):
            # Not installed, or no console (mintty), or whatever else it finds lacking: the next.
            with suppress(Exception):
                terminal: Terminal = implementation(streams, quiet=quiet)
                terminal.bell = bell
                return terminal
    terminal = _Plain(streams, quiet=quiet)
    terminal.bell = bell
    return terminal


def _raw(stream: TextIO | None, mode: str) -> io.RawIOBase | None:
    """The stream's bytes without a buffer; None if there are none."""
    if stream is None:
        return None
    try:
        stream.flush()
        return open(stream.fileno(), mode, buffering=0, closefd=False)  # type: ignore[return-value]
    except (OSError, ValueError):
        return None
