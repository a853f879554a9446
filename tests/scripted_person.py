"""A person in a script, who stands for the terminal: for the tests of what talks to one.

person = Person("hello", "exit")
code = run_command(settings, person)
assert person.said(Kind.ALERT) == []
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from chat_terminal import Kind, Line

DEADLINE_S = 20.0  # for things that take milliseconds: reached only when they never happen
Answer = str | None | BaseException | Callable[[], str | None]


class Person:
    """Answers in order, then the input ends."""

    def __init__(self, *answers: Answer, interactive: bool = False) -> None:
        self.answers = list(answers)
        self.interactive = interactive
        self.lines: list[Line] = []
        self.prompts: list[tuple[str, str]] = []
        self.rows: list[str] = []  # how far something was
        self.closed = 0
        self.bell = "mention"
        self.columns = 0
        self.complete: Callable[[str], Sequence[str]] = lambda before: []
        self.remembered: list[str] = []
        self.status_row = ""
        self.on_show: Callable[[Line], None] = lambda line: None
        self.input_ended = threading.Event()

    def show(self, line: Line) -> None:
        self.lines.append(line)
        self.on_show(line)

    def read_line(self, prompt: str, draft: str = "") -> str | None:
        self.prompts.append((prompt, draft))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def waits(self) -> str | None:
        """An answer: none comes, until the session ends the input."""
        assert self.input_ended.wait(DEADLINE_S)
        return None

    def sees(self, text: str) -> None:
        """Until it was shown."""
        deadline = time.monotonic() + DEADLINE_S
        while not any(text in line.text for line in list(self.lines)):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.002)  # another thread shows it

    def remember(self, lines: Sequence[str]) -> None:
        self.remembered += lines

    def status(self, text: str) -> None:
        self.status_row = text

    def progress(self, text: str) -> None:
        self.rows.append(text)

    def flush(self) -> None:
        """All is shown at once here."""

    def end_input(self) -> None:
        self.input_ended.set()

    def close(self) -> None:
        self.closed += 1

    def said(self, *kinds: Kind) -> list[str]:
        return [line.text for line in self.lines if not kinds or line.kind in kinds]

    @property
    def errors(self) -> list[str]:
        return self.said(Kind.ERROR)
