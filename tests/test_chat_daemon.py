"""The relay as a process on its host: its log, its flags, its password file, its descriptors."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_peers import (
    DEADLINE_S,
    House,
    Peer,
    Process,
    numbers,
    processes,
    wait_until,
)

import chat_daemon
import chat_server
from chat_addresses import Address
from chat_daemon import EVENTS, EventLog
from chat_wire import PROGRAM_VERSION, Broadcast, ErrorCode, Rebundle, u32

if sys.platform != "win32":
    import resource

NO_LIMIT = -1


@pytest.fixture
def house() -> Iterator[House]:
    with House() as house:
        yield house


@pytest.fixture
def run() -> Iterator[Callable[..., Process]]:
    with processes() as start:
        yield start


# --------------------------------------------------------------------------- the log

SESSION = "00112233"
STATUS: dict[str, float] = {
    "members": 3,
    "rooms": 1,
    "frames_per_s": 12.5,
    "deliveries_per_s": 37.5,
    "bytes_in_per_s": 8000,
    "bytes_out_per_s": 24000,
    "most_lag_bytes": 4096,
    "drops": 2,
}
# Every kind of event: its fields as the relay gives them, and its line as text.
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "start": ({"address": "0.0.0.0:5555"}, "start 0.0.0.0:5555"),
    "join": (
        {"address": "192.168.1.5:50123", "session": SESSION},
        "join 192.168.1.5:50123 session 00112233",
    ),
    "leave": (
        {"address": "[fe80::1%eth0]:50123", "session": SESSION, "why": "left"},
        "leave [fe80::1%eth0]:50123 session 00112233 left",
    ),
    "refused": (
        {"address": "192.168.1.5:50123", "code": "password", "why": "wrong password"},
        "refused 192.168.1.5:50123 password: wrong password",
    ),
    "pause": (
        {"why": "Too many open files"},
        "pause no connections are accepted for a while: Too many open files",
    ),
    "unannounced": (
        {"why": "the package zeroconf is not installed"},
        "unannounced the network is not told of this relay: the package zeroconf is not installed",
    ),
    "status": (
        STATUS,
        (
            "status members 3 rooms 1 frames/s 12.5 deliveries/s 37.5 "
            "bytes/s in 8000 out 24000 lag 4096 drops 2"
        ),
    ),
    "bug": (
        {"address": "192.168.1.5:50123", "why": "KeyError in line 7"},
        "bug 192.168.1.5:50123 KeyError in line 7",
    ),
    "stop": ({"members": 3}, "stop 3 members"),
    "more": ({"count": 980, "kind": "refused"}, "more 980 more lines like refused, not listed"),
}


class Noon:
    """The time module at one moment, in a place that is half an hour off."""

    @staticmethod
    def monotonic() -> float:
        return 0.0

    @staticmethod
    def strftime(text: str) -> str:
        return time.strftime(text, time.localtime(1_753_000_000))


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if sys.platform == "win32":
        pytest.skip("no time zone but its own")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-05:30")
        patch.setattr(chat_daemon, "time", Noon)
        time.tzset()
        yield
    time.tzset()


def lines_of(*, as_json: bool, events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What a log writes of these events."""
    lines: list[str] = []
    log = EventLog(lambda line: lines.append(line.decode()), as_json=as_json)
    for kind, fields in events:
        log.event(kind, **fields)
    log.close()
    return lines


def test_every_kind_of_event_has_a_golden_example() -> None:
    assert set(GOLDEN) == set(EVENTS)


@pytest.mark.parametrize("kind", GOLDEN)
def test_an_event_is_one_line_as_text_and_one_object_as_json(
    noon: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fields, text = GOLDEN[kind]
    events = [(kind, fields)]
    if kind == "more":  # it comes of itself, where there are too many of another kind
        monkeypatch.setitem(chat_daemon.LINES_A_SECOND, "refused", 0)
        events = [("refused", GOLDEN["refused"][0])] * 980
    assert lines_of(as_json=False, events=events) == [f"2025-07-20T13:56:40 {text}\n"]
    (line,) = lines_of(as_json=True, events=events)
    expected = {"time": "2025-07-20T13:56:40+05:30", "event": kind, **fields}
    assert line == json.dumps(expected) + "\n"  # the order of the keys included
    assert json.loads(line) == expected


@settings(max_examples=25)
@given(why=st.text(max_size=20))
def test_a_line_of_json_is_one_line_and_ascii_whatever_is_in_it(why: str) -> None:
    (line,) = lines_of(as_json=True, events=[("pause", {"why": why})])
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line)["why"] == why


def test_joins_leaves_and_refusals_are_lines_of_json_with_address_and_without_content(
    house: House,
) -> None:
    lines: list[bytes] = []
    log = EventLog(lines.append, as_json=True)
    relay = house.relay(b"secret", max_clients=1, log=log)
    alice = house.peer(relay)
    alice.join(bundle=b"CONTENT of a bundle", password=b"secret")
    alice.welcome()
    alice.send(Broadcast(b"CONTENT"), Rebundle(b"CONTENT"))
    alice.expect(Broadcast(b"CONTENT"))
    wrong, full = house.peer(relay), house.peer(relay)
    wrong.join(password=b"CONTENT")
    wrong.expect_error(ErrorCode.PASSWORD)
    full.join(password=b"secret")
    full.expect_error(ErrorCode.ROOM_FULL)
    alice.close()
    wait_until(lambda: any(b'"leave"' in line for line in lines))
    for peer in (wrong, full):
        peer.close()
    relay.stop()
    log.close()
    assert not any(b"CONTENT" in line or b"secret" in line for line in lines)
    events = [json.loads(line) for line in lines]
    times = [event.pop("time") for event in events]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", t) for t in times)
    session = alice.session_id[:4].hex()
    assert events == [
        {"event": "start", "address": "{}:{}".format(*relay.address)},
        {"event": "join", "address": alice.name, "session": session},
        {"event": "refused", "address": wrong.name, "code": "password", "why": "wrong password"},
        {
            "event": "refused",
            "address": full.name,
            "code": "room_full",
            "why": "the relay has 1 members, which is all it takes",
        },
        {"event": "leave", "address": alice.name, "session": session, "why": "left"},
        {"event": "stop", "members": 0},
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_flood_of_refusals_is_counted_and_not_listed(as_json: bool) -> None:
    flood = {"address": "192.168.1.5:1", "code": "ip_limit", "why": "enough"}
    join = ("join", GOLDEN["join"][0])
    lines = lines_of(as_json=as_json, events=[*[("refused", flood)] * 1000, join])
    assert len(lines) <= 45  # two seconds' worth, if the clock just moved on
    kinds = [json.loads(line)["event"] if as_json else line.split(" ")[1] for line in lines]
    assert kinds.count("join") == 1
    more = sum(int(re.findall(r"\d+(?=, \"kind\"| more)", line)[-1])
               for line, kind in zip(lines, kinds, strict=True) if kind == "more")  # fmt: skip
    assert more + kinds.count("refused") == 1000


def test_a_log_that_is_on_hold_drops_what_its_queue_does_not_hold_and_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_daemon, "LOG_QUEUE_LINES", 5)
    on_hold, lines = threading.Event(), []

    def hold(line: bytes) -> None:
        on_hold.wait(DEADLINE_S)
        lines.append(line)

    log = EventLog(hold)
    for _ in range(100):
        log.event("stop", members=1)
    on_hold.set()
    log.close()
    assert 5 <= len(lines) <= 6


def test_any_thread_may_add_a_line() -> None:
    lines: list[bytes] = []
    log = EventLog(lines.append)
    start = threading.Barrier(4)

    def add() -> None:
        start.wait()
        for _ in range(40):
            log.event("stop", members=1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(lines) == 160  # below what a second may have


def test_there_is_no_log_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert chat_daemon.log_to_stderr() is None


# --------------------------------------------------------------------------- signals


@pytest.mark.skipif(os.name != "posix", reason="SIGUSR1")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_signal_asks_for_a_status_line_and_the_relay_goes_on(
    run: Callable[..., Process], log_format: str
) -> None:
    process = run("--host", "127.0.0.1", "--port", "0", "--log-format", log_format)
    with Peer(process.address()) as peer:
        peer.join()
        peer.welcome()
        for n in range(3):
            payload = bytes(1000)
            peer.send(Broadcast(payload))
            peer.expect(Broadcast(payload))
            process.process.send_signal(signal.SIGUSR1)
            line = process.log_line("status")
            if log_format == "json":
                status = json.loads(line)
                assert list(status) == ["time", "event", *STATUS]
                members, frames, lag = (
                    status[key] for key in ("members", "frames_per_s", "most_lag_bytes")
                )
            else:
                status = numbers(line)
                members, frames, lag = status["members"], status["frames/s"], status["lag"]
            assert (members, lag) == (1, 0)
            assert frames > 0, n
    process.process.terminate()
    assert process.end()[0] == 0


# --------------------------------------------------------------------------- descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="counts on /proc and prlimit")
def test_running_out_of_descriptors_neither_kills_nor_spins(run: Callable[..., Process]) -> None:
    process = run("--host", "127.0.0.1", "--port", "0")
    address = process.address()
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (30, 30))
    peers = [Peer(address) for _ in range(60)]
    peers[0].next()
    assert process.process.stderr is not None
    while "Too many open files" not in process.process.stderr.readline():
        pass
    before = process_seconds(process.process.pid)
    start = time.monotonic()
    process.process.stderr.readline()  # the next attempt, or a handshake's timeout
    assert process_seconds(process.process.pid) - before < max(0.2, time.monotonic() - start) / 2
    for peer in peers:
        peer.close()
    late = Peer(address)
    late.join()
    late.welcome()
    late.close()


def process_seconds(pid: int) -> float:
    """CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="memfd, /proc and prlimit")
def test_a_room_without_a_descriptor_left_for_its_log_hears_everything(
    run: Callable[..., Process],
) -> None:
    process = run("--host", "127.0.0.1", "--port", "0", "--senders", "2")
    address, pid = process.address(), process.process.pid
    members = [Peer(address) for _ in range(6)]
    for n, peer in enumerate(members):
        peer.join()
        assert len(peer.welcome()) == n
    files = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(files) + 1, max(files) + 1))
    assert files >= set(range(max(files))), "a descriptor is left"
    for n in range(40):
        payload = u32(n) * 12_000
        members[n % 6].send(Broadcast(payload))
        for peer in members:
            while (message := peer.next()) != Broadcast(payload):
                assert not isinstance(message, Broadcast)
    for peer in members:
        peer.close()


@pytest.mark.skipif(os.name != "posix", reason="limits of descriptors")
@pytest.mark.parametrize(
    ("soft", "hard", "need", "expected"),
    [
        (1024, 4096, 2000, 2000),
        (1024, 4096, 9000, 4096),  # as far as the host lets it
        (1024, NO_LIMIT, 9000, 9000),
        (1024, 4096, 1000, None),
        (NO_LIMIT, NO_LIMIT, 9000, None),
    ],
)
def test_the_limit_of_descriptors_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, need: int, expected: int | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "RLIM_INFINITY", NO_LIMIT)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    chat_daemon.raise_file_limit(need)
    assert limits == ([] if expected is None else [(expected, hard)])


def test_a_host_that_allows_no_more_descriptors_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    chat_daemon.raise_file_limit(100)


# --------------------------------------------------------------------------- flags


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = chat_server.main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("chainroom-server: ")
    assert err.count("\n") == 1
    return code, err


def test_a_busy_port_is_one_line_and_exit_3(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(house.relay().address[1])
    code, err = complaint(capsys, "--host", "127.0.0.1", "--port", port)
    assert code == 3
    assert "in use" in err
    assert "port 0" in err


@pytest.mark.parametrize("host", ["192.0.2.77", "a..b", "nowhere.invalid"])
def test_an_address_that_is_not_ours_is_one_line_and_exit_3(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    code, err = complaint(capsys, "--host", host, "--port", "0")
    assert code == 3
    assert host in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "65536"],
        ["--port", "-1"],
        ["--max-clients", "0"],
        ["--rate", "1e9"],
        ["--senders", "-1"],
        ["--senders", "65"],
        ["--senders", "two"],
        ["--log-format", "xml"],
        ["--log-format"],
        ["--status-interval", "-1"],
        ["--status-interval", "1.5"],
        ["--status-interval", "86401"],
        ["--nonsense"],
        ["5555"],
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, err = complaint(capsys, *arguments)
    assert code == 2
    assert "--help" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"senders": 0, "status_interval_s": 0, "port": 5555, "rate": 2000}),
        (
            ["--senders", "3", "--status-interval", "60", "--port", "0", "--rate", "0"],
            {"senders": 3, "status_interval_s": 60, "port": 0, "rate": 0},
        ),
    ],
)
def test_flags_reach_the_relay(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: dict[str, float],
) -> None:
    asked: dict[str, Any] = {}
    need: list[int] = []

    def start(host: str, port: int, **options: Any) -> None:
        asked.update(options, host=host, port=port, rate=options["limits"].rate)
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr(chat_server, "start_server", start)
    monkeypatch.setattr(chat_daemon, "raise_file_limit", need.append)
    code, err = complaint(capsys, "--max-clients", "5000", *arguments)
    assert code == 3
    assert "a port above 1023" in err
    assert expected.items() <= asked.items()
    assert asked["limits"].max_clients == 5000
    assert need[0] > 5000 + asked["limits"].max_half_open


def test_as_many_threads_send_as_asked_for_or_as_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_server, "default_senders", lambda: 4)
    for asked, expected in ((0, 4), (1, 1), (3, 3)):
        before = threading.active_count()
        with chat_server.start_server("127.0.0.1", 0, senders=asked):
            assert threading.active_count() - before == expected  # the relay's own among them
        assert threading.active_count() == before


# --------------------------------------------------------------------------- the password file


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize(
    ("content", "mode", "hint"),
    [
        (b"secret\n", 0o644, "chmod 600"),
        (b"secret\n", 0o640, "chmod 600"),
        (b"\nsecret\n", 0o600, "empty"),
        (b"", 0o600, "empty"),
        (b"\xff\xfe\n", 0o600, "UTF-8"),
        (b"x" * 5000, 0o600, "4096"),
        (None, 0, "No such file"),
    ],
)
def test_a_bad_password_file_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    mode: int,
    hint: str,
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    code, err = complaint(capsys, "--port", "0", "--password-file", str(path))
    assert code == 2
    assert hint in err


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_credential_of_systemd_is_private_and_nothing_below_or_beside_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "relay.service"
    below, beside = own / "below", tmp_path / "relay.service2"
    for folder in (own, below, beside):
        folder.mkdir()
        (folder / "password").write_text("secret\n")
        (folder / "password").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(own))
    assert chat_daemon.read_password(str(own / "password")) == b"secret"
    for folder in (below, beside):
        with pytest.raises(ValueError, match="chmod 600"):
            chat_daemon.read_password(str(folder / "password"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ValueError, match="chmod 600"):
        chat_daemon.read_password(str(own / "password"))


def test_the_password_is_the_first_line_in_nfc(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_bytes("pa\u0308ss word \r\nsecond".encode())
    assert chat_daemon.read_password(str(path)) == "p\u00e4ss word ".encode()


def test_a_password_file_closes_the_door_of_a_real_relay(
    run: Callable[..., Process], tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("secret\n")
    process = run("--host", "127.0.0.1", "--port", "0", "--password-file", str(path))
    address = process.address()
    peer, other = Peer(address), Peer(address)
    peer.join(password=b"secret")
    peer.welcome()
    other.join(password=b"guess")
    other.expect_error(ErrorCode.PASSWORD)
    peer.close()
    other.close()


# --------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("flag", "says"), [("--help", "Chainroom's relay"), ("--version", f" {PROGRAM_VERSION}, ")]
)
def test_help_and_version_are_said_with_exit_0(
    capsys: pytest.CaptureFixture[str], flag: str, says: str
) -> None:
    assert chat_server.main([flag]) == 0
    out, err = capsys.readouterr()
    assert says in out
    assert err == ""


def test_the_lines_to_paste_name_addresses_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = [
        Address("192.168.1.5", "eth0"),
        Address("fd00::5", "eth0"),
        Address("172.17.0.1", "docker0"),
    ]
    monkeypatch.setattr(chat_daemon, "find_addresses", lambda: own)
    command = "python chat_client.py --server"
    assert chat_daemon.join_lines("0.0.0.0", 5555) == [
        f"Join from another computer: {command} 192.168.1.5 --port 5555",
        f"Join from another computer (by docker0, virtual): {command} 172.17.0.1 --port 5555",
    ]
    assert len(chat_daemon.join_lines("::", 5555)) == 3
    assert chat_daemon.join_lines("10.0.0.7", 1) == [
        f"Join from another computer: {command} 10.0.0.7 --port 1"
    ]
    # Where the system does not say what it is called.
    own.append(Address("172.20.0.1"))
    assert chat_daemon.join_lines("0.0.0.0", 5555)[-1].startswith(
        "Join from another computer (virtual): "
    )
    (chosen,) = chat_daemon.join_lines("172.17.0.1", 5555)
    assert chosen.startswith("Join from another computer (by docker0, virtual): ")
    here = f"Join from this computer: {command} 127.0.0.1 --port 9"
    assert chat_daemon.join_lines("127.0.0.1", 9) == [here]
    own.clear()
    assert chat_daemon.join_lines("0.0.0.0", 9) == chat_daemon.join_lines("::", 9) == [here]


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_works_and_ipv4_comes_to_its_wildcard_as_itself(house: House, host: str) -> None:
    try:
        relay = house.relay(host=host)
    except OSError:
        pytest.skip("this host has no IPv6")
    sock = socket.create_connection(("::1", relay.address[1]), timeout=DEADLINE_S)
    assert sock.recv(1) == b"\0"
    sock.close()
    if host == "::":
        peer = Peer(("127.0.0.1", relay.address[1]))
        peer.join()
        peer.welcome()
        peer.close()
        house.wait_for(" join 127.0.0.1:")
