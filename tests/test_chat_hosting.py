"""The relay that --host starts."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any, cast

import pytest
from scripted_person import Person

import chat_hosting
from chat_hosting import HostedRelay, NotHosted
from chat_link import CannotConnect, connect
from chat_terminal import Kind

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]


class Hosting:
    """A relay child, as --host starts it."""

    def __init__(self, home: Path, port: int = 0, *flags: str) -> None:
        self.person = Person()
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "relay.log"
        flags = ("--no-announce", *flags)
        self.relay = HostedRelay(port, flags, home, cast(Any, self.person), says_addresses=True)

    def __enter__(self) -> HostedRelay:
        return self.relay

    def __exit__(self, *_: object) -> None:
        self.relay.stop()
        assert self.relay._process.returncode is not None


def test_hosts_relay_runs_until_it_is_stopped_and_its_log_is_the_hosts_alone(
    tmp_path: Path,
) -> None:
    before = os.umask(0)
    try:
        hosting = Hosting(tmp_path)
    finally:
        os.umask(before)
    with hosting as relay:
        port = relay.port()
        connect("127.0.0.1", port).close()
        hosting.person.sees(f"--port {port}")
        assert stat.S_IMODE(hosting.log.stat().st_mode) == 0o600
    assert relay._process.returncode == 0
    with pytest.raises(CannotConnect):
        connect("127.0.0.1", port)
    assert hosting.log.read_text().rstrip().endswith("stop 0 members")
    relay.stop()  # again does nothing
    assert hosting.person.said(Kind.ALERT) == []


def test_hosts_relay_on_a_busy_port_says_why(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as busy:
        port = busy.getsockname()[1]
        with Hosting(tmp_path, port) as relay, pytest.raises(NotHosted) as failed:
            relay.port()
    assert failed.value.exit_code == 3
    assert f"the relay did not start: 0.0.0.0:{port} is in use" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_hosts_relay_gets_the_password_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "-pw"
    path.write_text("secret\n")
    path.chmod(0o644)
    with (
        Hosting(tmp_path, 0, "--password-file=-pw") as relay,
        pytest.raises(NotHosted) as failed,
    ):
        relay.port()
    assert failed.value.exit_code == 2
    assert "the relay did not start: password file -pw: others may use it" in str(failed.value)


def test_hosts_relay_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_hosting, "_STOP_S", 0.05)
    with Hosting(tmp_path) as relay:
        relay.port()
        relay._process.send_signal(signal.SIGSTOP)
    assert relay._process.returncode == -signal.SIGKILL


def test_hosts_relay_that_ends_by_itself_is_said_to_its_host(tmp_path: Path) -> None:
    hosting = Hosting(tmp_path)
    with hosting as relay:
        relay.port()
        relay._process.kill()
        hosting.person.sees("the relay that --host started has ended")
    assert len(hosting.person.said(Kind.ALERT)) == 1
