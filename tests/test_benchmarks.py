"""The load generator must be believed: it measures the real relay, and fails on any wrong byte.

A relay that tampers lives here, in a thread; the generator is compiled once for the module.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import servers
from benchmarks.chart import Bar, chart
from chat_server import Limits, Relay, start_server
from chat_wire import (
    MAX_FRAME_BYTES,
    VERSION,
    FrameDecoder,
    FrameType,
    Hello,
    welcome_frames,
)

ROOT = Path(__file__).resolve().parent.parent
GCC = shutil.which("gcc")
DEADLINE_S = 20.0

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs epoll"),
    pytest.mark.skipif(GCC is None, reason="no C compiler (gcc)"),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both programs, compiled without a warning."""
    folder = tmp_path_factory.mktemp("build")
    assert GCC is not None
    for name in ("loadgen", "attack"):
        command = [GCC, "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
        command += ["-o", str(folder / name), str(ROOT / "benchmarks" / f"{name}.c")]
        subprocess.run(command, check=True, timeout=DEADLINE_S)
    return folder


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    """The real one."""
    with start_server("127.0.0.1", 0, limits=Limits(rate=0.0)) as running:
        yield running


def run(build: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """One of the programs, run to its end."""
    program, *rest = map(str, arguments)
    return subprocess.run(
        [str(build / program), *rest],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


# What becomes of the 20th frame, or from the 20th on, on its way to one of three receivers.
Tamper = Callable[[int, bytes], bytes]


class TamperingRelay:
    """Speaks the handshake, and sends broadcasts to everybody; the first member gets what `tamper`
    makes of them."""

    def __init__(self, tamper: Tamper) -> None:
        self._tamper = tamper
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_over, self._over = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        decoders: dict[socket.socket, FrameDecoder] = {}
        frames = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._is_over, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock is self._is_over:
                        for member in decoders:
                            member.close()
                        return
                    if sock is self._listener:
                        member = sock.accept()[0]
                        member.sendall(Hello(VERSION, VERSION, bytes(32), False).serialize())
                        decoders[member] = FrameDecoder(MAX_FRAME_BYTES)
                        selector.register(member, selectors.EVENT_READ)
                        continue
                    try:
                        data = sock.recv(65_536)
                        decoders[sock].feed(data)
                        for frame in decoders[sock]:
                            if frame.type == FrameType.JOIN:
                                sock.sendall(welcome_frames([]))
                                continue
                            frames += 1
                            for place, member in enumerate(decoders):
                                raw = frame.raw if place else self._tamper(frames, frame.raw)
                                member.sendall(raw)
                    except OSError:
                        data = b""
                    if not data:
                        selector.unregister(sock)

    def __enter__(self) -> TamperingRelay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.close()
        self._thread.join(DEADLINE_S)
        self._listener.close()
        self._is_over.close()
        assert not self._thread.is_alive()


def changed(place: int) -> Tamper:
    """One bit of the 20th frame is wrong."""

    def tamper(count: int, frame: bytes) -> bytes:
        if count != 20:
            return frame
        return frame[:place] + bytes((frame[place] ^ 1,)) + frame[place + 1 :]

    return tamper


def swapped() -> Tamper:
    """The 21st frame comes before the 20th."""
    held: list[bytes] = []

    def tamper(count: int, frame: bytes) -> bytes:
        if count == 20:
            held.append(frame)
            return b""
        return frame + held[0] if count == 21 else frame

    return tamper


FAULTS: dict[str, tuple[Tamper, str]] = {
    "nothing": (lambda _, frame: frame, ""),
    "a wrong length": (changed(3), "unexpected frame of type 7"),
    "a wrong type": (changed(4), "unexpected frame of type 6"),
    "a wrong sender": (changed(5), "wrong bytes: a message of sender 1 of 1"),
    "a wrong time": (changed(20), "wrong bytes in message 20"),
    "a wrong first byte of the pattern": (changed(25), "wrong bytes in message 20"),
    "a wrong byte in the middle": (changed(300), "wrong bytes in message 20"),
    "a wrong last byte": (changed(604), "wrong bytes in message 20"),
    "a byte too few": (lambda n, f: f[:-1] if n == 20 else f, "wrong bytes in message 20"),
    "a byte too many": (lambda n, f: f + b"\0" if n == 20 else f, "unexpected frame of type"),
    "lost": (lambda n, f: b"" if n == 20 else f, "lost or out of order: expected message 20"),
    "all lost from there": (lambda n, f: b"" if n >= 20 else f, "nothing arrived for 1 s"),
    "repeated": (lambda n, f: f * 2 if n == 20 else f, "repeated or out of order: expected"),
    "reordered": (swapped(), "lost or out of order: expected message 20 of sender 0, got 21"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_generator_fails_on_any_fault_of_one_delivery(build: Path, fault: str) -> None:
    tamper, complaint = FAULTS[fault]
    mode = (
        "throughput" if complaint else "latency"
    )  # the one that several messages are under way in
    load = ("--receivers", 3, "--window", 4, "--count", 50, "--patience", 1)
    with TamperingRelay(tamper) as tampering:
        done = run(build, "loadgen", mode, "--port", tampering.port, *load)
    if not complaint:
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 1, done.stdout
    assert complaint in done.stderr
    assert done.stderr.startswith("loadgen: ")
    assert done.stderr.count("\n") == 1


def test_the_generator_measures_the_real_relay_with_every_byte_right(
    build: Path, relay: Relay
) -> None:
    load = ("--port", relay.address[1], "--receivers", 3, "--senders", 2, "--seconds", 1)
    done = run(build, "loadgen", "throughput", *load, "--server-pid", os.getpid())
    assert (done.returncode, done.stderr) == (0, "")
    ready, text = done.stdout.splitlines()
    found = json.loads(text)
    assert ready == "ready"
    assert found["deliveries"] > 1000
    assert found["per_second"] == pytest.approx(found["deliveries"] / found["seconds"], rel=0.01)
    assert found["server_cpu"] > 0
    assert 0 < found["generator_cpu"] <= found["seconds"]


def test_the_relay_outlives_an_attack_that_says_what_it_did(build: Path, relay: Relay) -> None:
    port = relay.address[1]
    done = run(build, "attack", "hugelength", port, "127.0.0.2", 0.3)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[1])["connects"] > 0
    done = run(build, "loadgen", "latency", "--port", port, "--receivers", 2, "--count", 50)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.0", "localhost", "::1"])
def test_nothing_but_loopback_is_loaded_or_attacked(build: Path, address: str) -> None:
    done = run(build, "loadgen", "throughput", "--port", 9, "--host", address)
    assert (done.returncode, done.stdout) == (2, "")
    assert address in done.stderr
    done = run(build, "attack", "connects", 9, address, 1)
    assert (done.returncode, done.stdout) == (2, "")
    assert address in done.stderr


def test_the_benchmark_ends_what_it_started_when_it_is_interrupted(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "LOADGEN", build / "loadgen")
    cores = os.sched_getaffinity(0)
    bench = servers.Bench(cores, cores, cores)
    pids: list[int] = []

    def interrupted() -> None:
        system = servers.relay(str(ROOT))
        with (
            bench.serve(system) as server,
            bench.generator("idle", server, {"receivers": 2, "senders": 0}) as process,
        ):
            pids.extend((server.pid, process.pid))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert os.sched_getaffinity(0) == cores


def test_the_chart_is_well_formed_and_says_its_values_in_words() -> None:
    bars = [Bar("relay <new>", 3.25, 3.0, 3.5, True), Bar("redis", 1.5, 1.25, 1.75, False)]
    root = ET.fromstring(chart("Million & more", "600 bytes", {"10 receivers": bars}))
    said = {node.tag.rpartition("}")[2]: node.text or "" for node in root}
    assert said["title"] == "Million & more"
    assert "10 receivers: relay <new> 3.25, redis 1.50" in said["desc"]
