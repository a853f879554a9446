"""Disks that are too small, a client on one, and the member it talks to.

    with SmallDisk(tmp_path / "disk", kib=64) as disk:
        client = Chatter(relay.port, disk.path, "alice", *disk.enter)
        disk.resize(4096)

What a client promised (`Witness`) is compared with what its chain holds (`kept_on`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Self

import pytest
from processes import DEADLINE_S, ROOT, Insider, Process, environment

from blockchain import Blockchain, BlockType, Head
from chat_blocks import signed_part
from chat_effects import Effects, Moment
from chat_folder import read_keys
from chat_messages import Ack, parse_payload
from chat_verification import verify_profile
from chat_wire import Broadcast, Direct, Frame, FrameType, Label, WireError
from crypto_utils import Keystore

__all__ = [
    "CANNOT_WRITE",
    "GOES_ON",
    "Chatter",
    "SmallDisk",
    "Witness",
    "assert_kept",
    "kept_on",
    "mounting",
]

CANNOT_WRITE = r"^!! your chain cannot be written: .*nothing that was confirmed is lost$"
GOES_ON = r"^-- your chain can be written again: you go on$"
REOPEN_EVERY_S = 0.2  # instead of 10 s
_CLIENT = f"""
import sys, chat_acks, chat_client, chat_engine
chat_engine._REOPEN_EVERY_S = {REOPEN_EVERY_S}
%s
sys.exit(chat_client.main(sys.argv[1:]))
"""


def _await(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)  # there are two streams, and no event of both


class Chatter(Process):
    """A client in pipes that looks at a disk that fails more often than others do."""

    def __init__(self, port: int, home: Path, name: str, *prefix: str, change: str = "") -> None:
        """`change` is a statement that comes before it starts."""
        self.said = 0
        at = ["--server", "127.0.0.1", "--port", str(port), "--name", name]
        super().__init__(["-c", _CLIENT % change, *at], environment(home), *prefix)

    def joined(self) -> Self:
        """Waits until it is in the room."""
        self.out.wait_for(r"Connected! Type your messages below\.$")
        return self

    def says(self, text: str) -> None:
        """Types a line, of which nothing has to be seen yet."""
        self.said += 1
        self.types(text)

    def mined(self) -> None:
        """Waits until all that was typed is on its chain."""
        self.out.wait_for(rf"^Mined 1 coin\. New balance: {self.said}$")

    def either(self, out: str, err: str) -> None:
        """Waits until one of its outputs says this, or the other that."""
        _await(
            lambda: (
                re.search(out, self.out.text, re.MULTILINE)
                or re.search(err, self.err.text, re.MULTILINE)
            )
        )

    def is_in_the_room(self) -> bool:
        """Waits until it is, or has ended."""
        _await(lambda: "Connected!" in self.out.text or self.process.poll() is not None)
        return "Connected!" in self.out.text

    def leaves(self) -> int:
        """Ends its input and waits for its end."""
        self.ends_input()
        return self.exit_code()


class Witness(Insider):
    """A member that keeps what others confirm."""

    def __init__(self, port: int, name: str, keystore: Keystore | None = None) -> None:
        self.heard: list[Ack] = []
        self._ahead_s = 0.0
        super().__init__(port, name, keystore)
        receive = self.session.receive

        def keeping(frame: Frame, now: Moment) -> Effects:
            if frame.type in (FrameType.BROADCAST, FrameType.DIRECT):
                parse = Broadcast.parse if frame.type == FrameType.BROADCAST else Direct.parse
                with suppress(WireError):
                    payload = parse_payload(parse(frame.body).payload)
                    if isinstance(payload, Ack):
                        self.heard.append(payload)
            return receive(frame, now)

        self.session.receive = keeping  # type: ignore[method-assign]

    def sees(self, name: str) -> None:
        """Reads from the relay until somebody of that name is here."""
        self._until(lambda: any(n.startswith(f"{name}#") for n in self.session.names()))

    def is_heard(self) -> None:
        """Reads from the relay until it has sent on all that was said."""
        self._until(lambda: not self.session.unsent())

    def is_alone(self) -> None:
        """Reads from the relay until nobody else is here."""
        self._until(lambda: not self.session.names())

    def confirms(self) -> None:
        """Sends an ack of all that it has: its chain is nobody's concern."""
        self._ahead_s += 10.0
        block_hash = bytes(31) + b"\1"
        place = signed_part(self.keystore.chain_id, 1, block_hash)
        signature = self.keystore.chain_signing_key.sign(Label.BLOCK_SIG, place)
        self.acks(Head(self.keystore.chain_id, 1, block_hash, signature), self._ahead_s)


# --------------------------------------------------------------------------- what is on disk


def kept_on(home: Path) -> list[tuple[BlockType, bytes, bytes]]:
    """Type, entry_id and hash of every block of a profile that nobody uses."""
    folder = home / "profiles" / "default"
    with closing(Blockchain.open(folder / "chain.db", read_keys(folder / "keys", None))) as chain:
        blocks = [chain.block(index) for index in range(chain.head().index + 1)]
    return [(b.type, b.entry_id, b.calculate_hash()) for b in blocks if b is not None]


def assert_kept(home: Path, witness: Witness, said: int, or_more: int = 0) -> None:
    """The chain is whole, holds each thing once, and all that was confirmed of it."""
    (checked,) = verify_profile(home, None, deep=True)
    assert (checked.exit_code, checked.text[:3]) == (0, "OK:"), checked
    kept = kept_on(home)
    ids = [entry_id for kind, entry_id, _ in kept if kind is not BlockType.EVENT][1:]
    assert len(ids) == len(set(ids)), "an entry stands there twice"
    assert said <= sum(kind is BlockType.SENT for kind, _, _ in kept) <= said + or_more
    chain_id = read_keys(home / "profiles" / "default" / "keys", None).chain_id
    ours = witness.session._session_id
    for ack in witness.heard:
        if ack.head.chain_id == chain_id:
            assert kept[ack.head.index][2] == ack.head.hash, "a head that is not there"
            for report in ack.feeds:
                assert report.session_id != ours or report.entry_id in ids, "confirmed, not there"


# --------------------------------------------------------------------------- small disks


@cache
def mounting() -> list[str]:
    """What comes before a command that may mount and that nobody else sees mounting; the test is
    skipped where there is nothing."""
    if sys.platform == "linux" and all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        command = ["unshare", "--mount"]
        if os.geteuid() != 0:
            command += ["--user", "--map-root-user"]
        with tempfile.TemporaryDirectory() as there:
            made = [*command, "mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", there]
            done = subprocess.run(made, capture_output=True, timeout=DEADLINE_S, check=False)
        if done.returncode == 0:
            return command
    return []


class SmallDisk:
    """A tmpfs that only those see who `enter` it."""

    def __init__(self, path: Path, kib: int) -> None:
        prefix = mounting()
        if not prefix:
            pytest.skip("no disk of our own can be made here: that takes Linux, unshare and rights")
        path.mkdir()
        self.path = path
        script = 'mount -t tmpfs -o "size=$2k" chainroom "$1" && echo made && exec cat'
        self._keeper = subprocess.Popen(
            [*prefix, "sh", "-c", script, "sh", str(path), str(kib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"made\n"
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        target = f"--target={self._keeper.pid}"
        self.enter = ["nsenter", target, *user, "--mount", f"--wd={ROOT}"]

    def resize(self, kib: int) -> None:
        """Makes room, or takes it."""
        self._run("mount", "-o", f"remount,size={kib}k", str(self.path))

    def copy_to(self, target: Path) -> Path:
        """All that is on it."""
        self._run("cp", "-a", str(self.path), str(target))
        return target

    def _run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], timeout=DEADLINE_S, check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(DEADLINE_S)
        self._keeper.stdout.close()
