"""A line that is edited in this process, by prompt_toolkit or readline, below lines that arrive.

What lives here: all that depends on one of these two libraries; each is imported when it is used.
What it does not know: what a line means, what Tab offers, where earlier lines are kept.

    terminal = PromptToolkit(Streams.standard())   # or Readline; an error: it cannot be used here

The screen thread hands lines to the prompt thread, since only the library knows what stands where.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import TYPE_CHECKING

from chat_screen import Streams, Terminal
from chat_text import Kind, Line, escape_name

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyPressEvent

__all__ = ["MAX_LISTED", "PromptToolkit", "Readline"]

MAX_LISTED = 50  # of what Tab could complete: 1,024 members are no help
# The status row is no use in a window where it takes room that messages need.
_STATUS_COLUMNS, _STATUS_ROWS = 80, 10


class _Editor(Terminal):
    """The line is edited in this process, by a library that knows what is on the screen.

    So only the prompt thread may write while a prompt stands.  The screen thread hands it a text
    and waits until that is written.
    """

    def __init__(self, streams: Streams, *, quiet: bool = False, time_format: str = "hm") -> None:
        self._prompt_stands = False  # under _turn: the prompt thread takes texts
        self._handed = ""  # from the screen thread to the prompt thread
        self._handed_written = threading.Event()
        super().__init__(streams, quiet=quiet, time_format=time_format)
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

    def _completed(self, before: str) -> tuple[str, str]:
        """What Tab makes of the text left of the cursor, and what it writes above the prompt."""
        options = [] if self._is_asking else list(self.complete(before))
        if not options:
            return before, ""
        same = takewhile(lambda chars: len(set(chars)) == 1, zip(*options, strict=False))
        common = "".join(chars[0] for chars in same)
        if len(options) == 1 or len(common) > len(before):
            return common, ""
        start = before.rfind(" ") + 1  # only the last word of each is of interest
        names = [escape_name(option[start:].strip()) for option in options]
        more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
        listed = "  ".join(names[:MAX_LISTED] + more)
        return before, self._row(Line(Kind.NOTICE, listed), self.columns)


class PromptToolkit(_Editor):
    """prompt_toolkit runs an event loop in the prompt thread for as long as a prompt stands.

    Not used: its patch_stdout, which loses a text when the prompt ends at the wrong moment; its
    run_in_terminal, which lets the terminal echo the keys that are pressed meanwhile, and so its
    completion; its toolbar, which shows only where the terminal said where the cursor is.
    """

    def __init__(self, streams: Streams, *, quiet: bool = False, time_format: str = "hm") -> None:
        # Else it asks the terminal for the cursor, and warns in the chat where no answer comes.
        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
        self._status = ""
        self._lines = self._session = self._new_session()
        self._answers = self._new_session()  # of its own, so that they are in nobody's history
        super().__init__(streams, quiet=quiet, time_format=time_format)

    def _new_session(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.enums import DEFAULT_BUFFER
        from prompt_toolkit.filters import Always, Condition, has_focus, is_done
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, HSplit, Window

        keys = KeyBindings()
        keys.add("tab", filter=has_focus(DEFAULT_BUFFER))(self._tab)
        session = PromptSession[str](
            reserve_space_for_menu=0, enable_suspend=True, key_bindings=keys
        )
        row = Window(FormattedTextControl(lambda: self._status), height=1, style="reverse")
        shows = Condition(self._shows_status) & ~is_done
        rows = session.layout.container
        assert isinstance(rows, HSplit)
        # Directly below the text, also when that was higher before: the rest of the room is last.
        session.layout.current_window.dont_extend_height = Always()
        rows.children += [ConditionalContainer(row, filter=shows), Window()]
        return session

    def remember(self, lines: Sequence[str]) -> None:
        """Put lines typed in earlier runs, oldest first, where arrow-up finds them."""
        for line in lines:
            self._lines.history.append_string(line)

    def status(self, text: str) -> None:
        """What the row below the prompt says, where there is room for it; "": no row."""
        shown = escape_name(text)
        if shown == self._status:
            return
        self._status = shown
        with suppress(RuntimeError):  # the loop has just ended: the next prompt shows it
            self._session.app.invalidate()

    def _shows_status(self) -> bool:
        size = self._session.app.output.get_size()
        return bool(self._status) and size.columns >= _STATUS_COLUMNS and size.rows >= _STATUS_ROWS

    def _tab(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        before = buffer.document.text_before_cursor
        after, listed = self._completed(before)
        if after != before:
            buffer.delete_before_cursor(len(before))
            buffer.insert_text(after)
        if listed:
            event.app.renderer.erase()
            self._write(self._out, listed)
            event.app.invalidate()

    def _read(self, prompt: str, draft: str) -> str:
        with self._turn:
            self._session = self._answers if self._is_asking else self._lines
            self._start_row()
            self._prompt_stands = True
        try:
            return self._session.prompt(prompt, default=draft, pre_run=self._started)
        finally:
            self._take_down()

    def _started(self) -> None:
        """The loop runs: what came before it did, when nobody could be woken, is looked at now."""
        with self._turn:
            self._wake_reader()

    def _take_down(self) -> None:
        with self._turn:
            self._prompt_stands = False
            self._write_handed()  # if the loop ended before it could

    def _wake_reader(self) -> None:
        if loop := self._session.app.loop:
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


class Readline(_Editor):
    """readline by its callback interface: we wait for keys and texts, it handles a key at a time.

    Python's `input` keeps readline to itself until Enter.  To ask `readline.get_line_buffer` from
    another thread meanwhile crashes now and then: it copies a buffer that changes.  Needs GNU
    readline >= 7 as a shared library; libedit has no rl_clear_visible_line, so plain lines it is.

    Known holes: a new window size is noticed with the next key or line.  Typed bytes that are not
    UTF-8 are dropped by readline itself.
    """

    def __init__(self, streams: Streams, *, quiet: bool = False, time_format: str = "hm") -> None:
        import readline  # sets readline up: its own signal handlers stay off

        self._readline = readline
        self._lib, self._libc = ctypes.CDLL(readline.__file__), ctypes.CDLL(None)
        self._lib.rl_clear_visible_line.restype = ctypes.c_int  # AttributeError: it has none
        self._accepted = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._accept)
        self._got: list[bytes | None] = []  # what was accepted; None: end of input
        self._half = ""
        readline.parse_and_bind("set enable-bracketed-paste on")  # the default since 8.1
        key = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self._on_tab = key(self._note_tab)  # kept: readline does not
        self._lib.rl_bind_key(ord("\t"), self._on_tab)
        self._tab_pressed = False
        super().__init__(streams, quiet=quiet, time_format=time_format)

    def remember(self, lines: Sequence[str]) -> None:
        """Put lines typed in earlier runs, oldest first, where arrow-up finds them."""
        for line in lines:
            self._lib.add_history(_for_readline(line))

    def _accept(self, line: int | None) -> None:
        """readline calls it at Enter (the line is ours to free) and at the end of input (None)."""
        self._lib.rl_callback_handler_remove()
        self._got.append(None if line is None else ctypes.string_at(line))
        self._libc.free(ctypes.c_void_p(line))

    def _note_tab(self, count: int, key: int) -> int:
        """readline calls it; an error could not be raised through it, so the work is done after."""
        self._tab_pressed = True
        return 0

    def _read(self, prompt: str, draft: str) -> str:
        lib = self._lib
        self._got.clear()
        try:
            with self._turn:
                self._start_row()
                self._prompt_stands = True
                lib.rl_callback_handler_install(prompt.encode(), self._accepted)
                lib.rl_insert_text(_for_readline(draft))
                lib.rl_redisplay()
            while not self._got:
                if self._wait_for_input():
                    lib.rl_callback_read_char()
                    if self._tab_pressed:
                        self._tab_pressed = False
                        self._complete()
                elif not self._reading_is_over():
                    with self._above():
                        self._write_handed()
                else:
                    break
        except (OSError, ValueError):  # the terminal hung up, or is closed
            pass
        finally:
            self._take_down()
        line = self._got[0] if self._got else None
        if line is None:
            raise EOFError
        if line and not self._is_asking:
            lib.add_history(line)
        return line.decode("utf-8", "surrogateescape")

    def _take_down(self) -> None:
        lib = self._lib
        with self._turn:
            if not self._prompt_stands:
                return
            if not self._got:  # interrupted
                self._half = self._readline.get_line_buffer()
                lib.rl_free_line_state()
                lib.rl_cleanup_after_signal()
                lib.rl_callback_handler_remove()
            if not self._got or self._got[0] is None:
                self._write(self._out, "\n")
            self._prompt_stands = False
            self._write_handed()

    def _complete(self) -> None:
        lib = self._lib
        point = ctypes.c_int.in_dll(lib, "rl_point")
        typed = ctypes.c_char_p.in_dll(lib, "rl_line_buffer").value or b""
        before = typed[: point.value].decode("utf-8", "surrogateescape")
        after, listed = self._completed(before)
        if after != before:
            lib.rl_delete_text(0, point.value)
            point.value = 0
            lib.rl_insert_text(_for_readline(after))
            lib.rl_redisplay()
        if listed:
            with self._above():
                self._write(self._out, listed)

    @contextmanager
    def _above(self) -> Iterator[None]:
        """Takes the prompt away, and puts it below what is written meanwhile."""
        lib = self._lib
        lib.rl_resize_terminal()
        lib.rl_clear_visible_line()
        self._libc.fflush(None)
        yield
        lib.rl_forced_update_display()

    def _half_typed(self) -> str:
        return self._half


def _for_readline(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace").replace(b"\0", b"")
