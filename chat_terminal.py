"""The one door between Chainroom and the person: show lines, read lines.

Job: escape everything that is shown, print it above a prompt that somebody is typing at, read one
line of input.  Three implementations (prompt_toolkit, readline, plain lines) share one interface;
here are the plain one and the choice, in `chat_screen` what they share, in `chat_editors` the other
two, in `chat_text` what a line looks like.  Others import from here alone.
What it does not know: rooms, members, commands, keys, sockets, files.

    terminal = open_terminal()
    terminal.show(Line(Kind.NOTICE, "bob joined"))  # any thread
    text = terminal.read_line("> ")                 # the prompt thread; None: leave

The rules of this user interface are:

- Nobody else prints, nobody else escapes: callers hand over a text as it came.
- Lines, not a screen: no alternate screen, mouse or boxes.  Copy, scrollback, screen readers work.
- Incoming lines go above the prompt; half-typed text stays.
- How a line begins says what it is: `-- ` a notice, `!! ` an alert, else `author: text`.  All other
  rows of it are indented, so that nobody can fake a notice.  Colour only repeats the words.
- A terminal gets everything on stdout.  Else stdout has messages and dialogue, stderr the rest.
- Times, days, colours, the bell, completion and questions are for a terminal; a pipe has none.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from itertools import groupby

from chat_editors import PromptToolkit, Readline
from chat_screen import (
    BELLS,
    MAX_LINE_BYTES,
    MAX_QUEUED_CHARS,
    MAX_QUEUED_LINES,
    BadInput,
    Streams,
    Terminal,
)
from chat_text import TIME_FORMATS, Field, Kind, Line, escape, escape_name

__all__ = [
    "BELLS",
    "MAX_LINE_BYTES",
    "MAX_QUEUED_CHARS",
    "MAX_QUEUED_LINES",
    "TIME_FORMATS",
    "BadInput",
    "Field",
    "Kind",
    "Line",
    "Plain",
    "Streams",
    "Terminal",
    "escape",
    "escape_name",
    "open_terminal",
]


class Plain(Terminal):
    """Append-only lines: pipes, TERM=dumb, --plain.  The terminal, if any, edits and echoes.

    So it has no history, no Tab, and each line of a pasted text is a line.
    """

    def __init__(self, streams: Streams, *, quiet: bool = False, time_format: str = "hm") -> None:
        self._standing = ""  # under _turn: the prompt that stands at the end of stdout
        super().__init__(streams, quiet=quiet, time_format=time_format)

    def close(self) -> None:
        """Write what was shown, end the screen thread and a waiting `read_line`.  Any thread."""
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
        try:
            if self._person_types or not (self._quiet and prompt == "> "):
                with self._turn:
                    self._standing = prompt  # first: Ctrl-C may come as soon as it is seen
                    self._write(self._out, prompt)
            line = self._next_line()
        except (EOFError, KeyboardInterrupt):
            with self._turn:
                self._end_prompt()
            raise
        if self.interactive:
            with self._turn:
                self._standing = ""  # the person's Enter ended its line
        return line.decode("utf-8", "surrogateescape")


def open_terminal(
    *, plain: bool = False, quiet: bool = False, time_format: str = "hm", bell: str = "mention"
) -> Terminal:
    """The best terminal for this process's stdin, stdout and stderr.  Close it when done.

    Args:
        plain: append-only lines even on a terminal.
        quiet: show only messages, alerts and errors, and no `> ` where no person types.
        time_format: of the time before a message, on a terminal: one of TIME_FORMATS.
        bell: which messages ring, where a person types: one of BELLS.

    Raises:
        ValueError: time_format or bell is none of these.
    """
    terminal = _best(Streams.standard(), plain, quiet=quiet, time_format=time_format)
    terminal.bell = bell
    return terminal


def _best(streams: Streams, plain: bool, *, quiet: bool, time_format: str) -> Terminal:
    interactive = all(stream is not None and stream.isatty() for stream in streams[:2])
    if interactive and not plain and os.environ.get("TERM") != "dumb":
        for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
            if isinstance(stream, io.TextIOWrapper):  # both libraries ask it for the encoding
                stream.reconfigure(encoding="utf-8", errors=errors)
        for implementation in (PromptToolkit, Readline):
            # Not installed, or no console (mintty), or whatever else it finds lacking: the next.
            with suppress(Exception):
                return implementation(streams, quiet=quiet, time_format=time_format)
    return Plain(streams, quiet=quiet, time_format=time_format)
