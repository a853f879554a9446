"""The servers under test and the load generator, as processes of their own.

What lives here: which systems there are and how each is started, pinned, waited for and ended.
What it does not know: what is measured.

    bench = Bench(server_cores={0}, generator_cores={1}, attacker_cores={1})
    row = bench.load("throughput", relay("."), {"receivers": 100, "seconds": 2})
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "ATTACK",
    "LOADGEN",
    "PEERS",
    "ROOT",
    "Bench",
    "Failed",
    "Options",
    "Server",
    "System",
    "find",
    "relay",
]

ROOT = Path(__file__).resolve().parent.parent
LOADGEN, ATTACK = ROOT / "build" / "loadgen", ROOT / "build" / "attack"  # by `make bench`
TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc
DEADLINE_S = 120.0  # for anything to start, join, or end

Options = Mapping[str, int | str | bool]  # of the load generator: True for a flag


class Failed(Exception):
    """A measurement came to nothing; the text is one line."""


@dataclass(frozen=True)
class System:
    """A server to measure: `argv` with {port} and {folder} still to be filled in."""

    name: str
    protocol: str
    argv: tuple[str, ...]
    is_relay: bool = False
    cwd: Path | None = None
    config: str = ""  # written to {folder}/config


def relay(spec: str, capacity: int = 8192) -> System:
    """The relay of a checkout, from '[NAME=]PATH [FLAG...]'."""
    name, _, rest = spec.rpartition("=") if "=" in spec.split()[0] else ("", "", spec)
    path, *flags = shlex.split(rest)
    folder = Path(path).resolve()
    if not (folder / "chat_server.py").is_file():
        raise Failed(f"--relay {spec}: no chat_server.py there")
    if not name:
        place = [] if folder == ROOT else [f"({folder.name})"]
        name = " ".join(["relay", *place, *flags])
    limits = ("--rate", "0", "--max-clients", str(capacity))
    argv = (sys.executable, "chat_server.py", "--host", "127.0.0.1", "--port", "0", *limits)
    return System(name, "relay", (*argv, *flags), is_relay=True, cwd=folder)


# Set up as their makers would for this load: no persistence, no limit that drops a subscriber, no
# Nagle where that is a setting (it is off in the other two).
_MOSQUITTO = """listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
user root
"""
_REDIS = (
    *("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--dir", "{folder}"),
    *("--save", "", "--appendonly", "no", "--client-output-buffer-limit", "pubsub 0 0 0"),
)
PEERS = [
    System("redis", "redis", _REDIS),
    System("nats", "nats", ("nats-server", "-a", "127.0.0.1", "-p", "{port}")),
    System("mosquitto", "mqtt", ("mosquitto", "-c", "{folder}/config"), config=_MOSQUITTO),
]


def find(program: str) -> str | None:
    """Where a program is; Debian's servers are in /usr/sbin, which not everybody's PATH has."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def _started(argv: Sequence[str], cores: set[int], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process pinned to some cores, that is ended at the end in any case."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # is inherited
    try:
        process = subprocess.Popen(argv, text=True, **more)
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Server(NamedTuple):
    """A running one."""

    system: System
    port: int
    pid: int
    since: float  # when it was started, and how busy our cores and children had been until then
    busy_s: float
    children_s: float


def _port(server: System, chosen: int, said: str) -> int | None:
    """Where it listens, None as long as it does not: the relay says so, peers are tried."""
    if server.is_relay:
        _, listening, rest = said.partition("\nListening on ")
        line, newline, _ = rest.partition("\n")
        return int(line.rsplit(":", 1)[1]) if listening and newline else None
    try:
        socket.create_connection(("127.0.0.1", chosen)).close()
    except OSError:
        return None
    return chosen


def _children_s() -> float:
    """CPU time of all our processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Bench:
    """Where everything runs, and how the load generator is called."""

    server_cores: set[int]
    generator_cores: set[int]
    attacker_cores: set[int]

    @contextlib.contextmanager
    def serve(self, system: System) -> Iterator[Server]:
        """Starts a server, waits until it can be connected to, ends it."""
        since, busy_s, children_s = time.monotonic(), self._busy_s(), _children_s()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            with socket.create_server(("127.0.0.1", 0)) as probe:
                free = int(probe.getsockname()[1])  # a moment ago
            fill = {"port": str(free), "folder": str(folder)}
            (folder / "config").write_text(system.config.format(**fill))
            argv = [part.format(**fill) for part in system.argv]
            argv[0] = find(argv[0]) or argv[0]
            output = stack.enter_context((folder / "output").open("w+"))
            errors = stack.enter_context((folder / "errors").open("w+"))
            env = {k: v for k, v in os.environ.items() if not k.startswith("CHAINROOM_")}
            more = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": errors, "env": env}
            process = stack.enter_context(
                _started(argv, self.server_cores, cwd=system.cwd or folder, **more)
            )
            deadline = time.monotonic() + DEADLINE_S
            while True:
                said = (folder / "output").read_text()
                port = _port(system, free, said)
                if port is not None:
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    lines = (said + (folder / "errors").read_text()).splitlines()
                    raise Failed(f"{system.name} did not start: {lines[-1] if lines else 'silent'}")
                time.sleep(0.02)
            yield Server(system, port, process.pid, since, busy_s, children_s)

    @contextlib.contextmanager
    def generator(
        self, mode: str, server: Server, options: Options
    ) -> Iterator[subprocess.Popen[str]]:
        """Starts the load generator, and waits until it is `ready`."""
        argv = [str(LOADGEN), mode, "--port", str(server.port)]
        argv += ["--protocol", server.system.protocol, "--server-pid", str(server.pid)]
        for name, value in options.items():
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        with self._ready(argv, self.generator_cores, server) as process:
            yield process

    @contextlib.contextmanager
    def attack(self, name: str, server: Server, seconds: int) -> Iterator[subprocess.Popen[str]]:
        """Starts an attack, from another address of this host than the honest members have."""
        argv = [str(ATTACK), name, str(server.port), "127.0.0.2", str(seconds)]
        with self._ready(argv, self.attacker_cores, server) as process:
            yield process

    @contextlib.contextmanager
    def _ready(
        self, argv: list[str], cores: set[int], server: Server
    ) -> Iterator[subprocess.Popen[str]]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with _started(argv, cores, **pipes) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                _, errors = process.communicate(timeout=DEADLINE_S)
                raise Failed(f"{server.system.name}: {errors.strip()}")
            yield process

    def result(self, process: subprocess.Popen[str], server: Server) -> dict[str, Any]:
        """Ends the load generator's input, and waits for what it found."""
        try:
            text, errors = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{server.system.name}: the load generator does not end") from None
        if process.returncode != 0:
            raise Failed(f"{server.system.name}: {errors.strip()}")
        found: dict[str, Any] = json.loads(text)
        # What ran on our cores since the server started and was neither it nor our children.
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        ours_s = sum(map(int, ticks)) / TICKS + _children_s() - server.children_s
        share = (self._busy_s() - server.busy_s - ours_s) / (time.monotonic() - server.since)
        found["others"] = max(0.0, share / len(self.server_cores | self.generator_cores))
        return found

    def _busy_s(self) -> float:
        """Seconds that our cores have been busy with anything, or taken away by the host."""
        fields = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ours = {f"cpu{core}" for core in self.server_cores | self.generator_cores}
        busy = (sum(map(int, f[1:4] + f[6:9])) for f in fields if f and f[0] in ours)
        return sum(busy) / TICKS

    def load(self, mode: str, system: System, options: Options) -> dict[str, Any]:
        """One measurement, with a server of its own."""
        with self.serve(system) as server, self.generator(mode, server, options) as process:
            return self.result(process, server)
