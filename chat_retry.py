"""When a lost connection is tried again: soon, and then less and less often.

What lives here: the times.  What it does not know: sockets, threads, clocks (it is told the time).

    retry = Retry()
    retry.lost(now_s, members=12)
    if retry.is_due(now_s): ...          # try; then `failed` or `reset`

Source: DESIGN.md sections 4 and 7: a random part of max(1 s, 20 ms × members), so that a room whose
relay started anew does not come back all at once; then doubling, with jitter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

__all__ = ["MAX_WAIT_S", "Retry"]

MAX_WAIT_S = 15.0  # who waits for a relay looks at it at least this often
_FIRST_S = 1.0
_FIRST_PER_MEMBER_S = 0.02


class Retry:
    """Of one connection.  Owned by the engine's thread."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        """`jitter` gives a number from 0 to 1."""
        self._jitter = jitter
        self._due_s = math.inf
        self._failures = 0

    def lost(self, now_s: float, members: int) -> None:
        """The connection is gone; so many were in the room."""
        self._failures = 0
        longest_s = max(_FIRST_S, _FIRST_PER_MEMBER_S * members)
        self._due_s = now_s + longest_s * self._jitter()

    def failed(self, now_s: float) -> None:
        """One more try came to nothing."""
        self._failures += 1
        longest_s = min(MAX_WAIT_S, _FIRST_S * 2.0 ** min(self._failures, 10))
        self._due_s = now_s + longest_s * (0.5 + 0.5 * self._jitter())

    def at_once(self, now_s: float) -> None:
        """Something changed: the computer woke up, or is on another network."""
        if self._due_s < math.inf:
            self._due_s, self._failures = now_s, 0

    def is_due(self, now_s: float) -> bool:
        """Whether to try now; not again before `failed` or `lost`."""
        if now_s < self._due_s:
            return False
        self._due_s = math.inf
        return True

    def reset(self) -> None:
        """There is a connection, or none is wanted any more."""
        self._due_s, self._failures = math.inf, 0
