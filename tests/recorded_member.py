"""A member of a simulated room whose chain is a real one, in a file.

with RecordedMember(room, "alice", path) as alice:
    room.connect(alice)
    alice.types("hello")
    alice.file.verify()
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Self

from simulated_room import SimulatedMember, SimulatedRoom, keystore, session_keys

from blockchain import Blockchain, Head
from chat_effects import Append, Effect, Remember
from chat_session import Session


class RecordedMember(SimulatedMember):
    """What it appends and remembers goes into a file as well, in the engine's order."""

    def __init__(self, room: SimulatedRoom, name: str, path: Path) -> None:
        with closing(Blockchain.create(path, keystore(name), room.now.ms)) as made:
            keys = keystore(name).with_chain(made.head().chain_id)
        self.file = Blockchain.open(path, keys)
        super().__init__(room, name)
        self.session = Session(keys, room.secret, name, session_keys(name, 0), room.now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.file.close()

    def perform(self, effects: list[Effect]) -> None:
        """As the engine does: on disk before anybody hears of it."""
        drafts = [effect.draft for effect in effects if isinstance(effect, Append)]
        rows = [effect.row for effect in effects if isinstance(effect, Remember)]
        if drafts or rows:
            self.file.append(drafts, self.room.now.ms, rows)
        super().perform(effects)

    def head(self) -> Head:
        """Of the chain in the file."""
        return self.file.head()
