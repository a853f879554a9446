"""A line that breaks when a test says so: a TCP proxy that knows bytes and no frames.

    with FaultProxy(relay.port, seed=7) as line, Client(line.port, home, "alice") as alice:
        line.stall(Way.UP)             # nothing that alice says reaches the relay any more
        line.heal()                    # and now it goes on

`cut` and `half_close` are done once, all else lasts until `heal`.  Each call returns when it is so.
What is corrupted or repeated depends on the seed and on how many bytes went by, not on when they
came or how the kernel split them.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any, Self

__all__ = ["FaultProxy", "Way"]

_REPEATED_BYTES = 64  # at most, at a time
_RESET = struct.pack("ii", 1, 0)  # struct linger: closing is a reset


class Way(Enum):
    """A direction, by where it leads."""

    UP = "to the relay"
    DOWN = "to the client"


class _Harm:
    """What is done to the bytes of one direction."""

    def __init__(self, rng: random.Random, every: int, *, repeats: bool) -> None:
        """`repeats`: some bytes come twice; else a bit of some is flipped."""
        self._rng, self._every, self._repeats = rng, every, repeats
        self._gap = self._next()  # bytes that pass unharmed before the next harm

    def _next(self) -> int:
        return self._rng.randrange(2 * self._every)

    def do(self, data: bytes) -> bytes:
        done = b""
        while self._gap < len(data):
            count = self._rng.randint(1, _REPEATED_BYTES) if self._repeats else 1
            before, harmed, data = (
                data[: self._gap],
                data[self._gap : self._gap + count],
                data[self._gap + count :],
            )
            done += before
            done += (
                harmed * 2 if self._repeats else bytes((harmed[0] ^ 1 << self._rng.randrange(8),))
            )
            self._gap = self._next()
        self._gap -= len(data)
        return done + data


class _Connection:
    """Of one client, and on to the relay."""

    def __init__(self, client: asyncio.StreamWriter, relay: asyncio.StreamWriter) -> None:
        self.writers = {Way.UP: relay, Way.DOWN: client}
        self.pumps: dict[Way, asyncio.Task[None]] = {}

    def half_close(self, way: Way) -> None:
        self.pumps[way].cancel()
        with suppress(OSError):  # it is over
            self.writers[way].write_eof()

    def reset(self) -> None:
        for writer in self.writers.values():
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            writer.transport.abort()


class FaultProxy:
    """Between the clients that connect to `port` and a relay on this computer."""

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self._target_port = target_port
        self._rng = random.Random(seed)
        self._delay_s = 0.0
        self._harms: dict[Way, _Harm] = {}
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._thread.start()
        self.port = self._performed(self._listen())

    # ----------------------------------------------------------------- the script, any thread

    def delay(self, seconds: float) -> None:
        """Every byte comes at least so much later."""
        self._do(lambda: setattr(self, "_delay_s", seconds))

    def stall(self, *ways: Way) -> None:
        """Nothing is forwarded, and nobody hears why; without a way neither up nor down."""
        self._do(lambda: self._stall(ways))

    def blackhole(self) -> None:
        """New connections are made, and that is all; those that there are go on."""
        self._do(lambda: self._is_open.clear())

    def duplicate(self, *ways: Way, every: int = 1000) -> None:
        """One byte of so many, and up to 63 behind it, come twice."""
        self._do(lambda: self._harm(ways, every, repeats=True))

    def corrupt(self, *ways: Way, every: int = 1000) -> None:
        """One byte of so many comes with a bit that was flipped."""
        self._do(lambda: self._harm(ways, every, repeats=False))

    def half_close(self, way: Way) -> None:
        """Who is there hears that the other has said all; the other direction goes on."""
        self._do(lambda: self._half_close(way))

    def cut(self) -> None:
        """Resets every connection, at both ends."""
        self._do(self._cut)

    def heal(self) -> None:
        """From here on bytes pass as they are; what was stalled goes on."""
        self._do(self._restore)

    # ----------------------------------------------------------------- its thread

    def _harm(self, ways: tuple[Way, ...], every: int, *, repeats: bool) -> None:
        for way in ways or Way:
            self._harms[way] = _Harm(self._rng, every, repeats=repeats)

    def _stall(self, ways: tuple[Way, ...]) -> None:
        for way in ways or Way:
            self._passes[way].clear()

    def _half_close(self, way: Way) -> None:
        for connection in self._connections:
            connection.half_close(way)

    def _cut(self) -> None:
        for connection in self._connections:
            connection.reset()

    def _restore(self) -> None:
        self._delay_s = 0.0
        self._harms.clear()
        for event in (self._is_open, *self._passes.values()):
            event.set()

    def _performed(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30.0)

    def _do(self, what: Callable[[], object]) -> None:
        async def done() -> None:
            what()

        self._performed(done())

    async def _listen(self) -> int:
        self._passes = {way: asyncio.Event() for way in Way}
        self._is_open = asyncio.Event()
        self._restore()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._is_open.wait()
        try:
            answers, relay = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:  # no relay there
            _Connection(client, client).reset()
            return
        connection = _Connection(client, relay)
        self._connections.add(connection)
        for way, source in ((Way.UP, reader), (Way.DOWN, answers)):
            pump = self._pump(way, source, connection.writers[way])
            connection.pumps[way] = asyncio.ensure_future(pump)
        ends = await asyncio.gather(*connection.pumps.values(), return_exceptions=True)
        self._connections.remove(connection)
        if any(isinstance(end, OSError) for end in ends):
            connection.reset()
        for writer in connection.writers.values():
            writer.close()

    async def _pump(
        self, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65_536):
            await asyncio.sleep(self._delay_s)
            await self._passes[way].wait()
            if way in self._harms:
                data = self._harms[way].do(data)
            target.write(data)
            await target.drain()
        await self._passes[way].wait()
        target.write_eof()

    async def _close(self) -> None:
        self._server.close()
        self._restore()  # so that nobody waits
        while len(asyncio.all_tasks()) > 1:
            self._cut()
            await asyncio.sleep(0.005)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._performed(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30.0)
        self._loop.close()
