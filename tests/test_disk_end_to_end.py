"""A disk that fails under a real client: what it says, what it holds back, how it goes on.

The long runs are in `test_disk_torture`.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from failing_disks import CANNOT_WRITE, GOES_ON, Chatter, Witness, assert_kept, mounting
from processes import DEADLINE_S, ROOT, Relay, environment

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="another process's limits are Linux's"),
]


def test_full_disk_holds_everything_back_until_there_is_room(tmp_path: Path) -> None:
    with Relay() as relay, Witness(relay.port, "bob") as bob:
        with Chatter(relay.port, tmp_path, "alice") as alice:
            alice.joined()
            bob.sees("alice")
            bob.types("one")
            alice.out.wait_for(r"bob#\w+: one$")
            alice.says("two")
            alice.mined()
            bob.shows("two")
            unlimited = resource.prlimit(alice.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(alice.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
            before = alice.out.text
            bob.types("three")
            alice.err.wait_for(CANNOT_WRITE)
            alice.says("four")
            bob.types("five")
            assert alice.out.text.strip("> ") == before.strip("> "), "nothing was shown"
            resource.prlimit(alice.process.pid, resource.RLIMIT_FSIZE, unlimited)
            alice.mined()
            alice.out.wait_for(r"bob#\w+: five$")
            alice.err.wait_for(GOES_ON)
            bob.shows("four")
            alice.ends_input()
            bob.confirms()
            bob.is_alone()
            assert alice.exit_code() == 0
            assert len(re.findall("^!! ", alice.err.text, re.MULTILINE)) == 1
            assert re.findall(r"bob#\w+: (\w+)", alice.out.text) == ["one", "three", "five"]
        assert_kept(tmp_path, bob, alice.said)


@pytest.mark.parametrize("arguments", [["--send", "hello"], ["history"]], ids=["chat", "history"])
def test_home_that_cannot_be_written_is_one_line_and_exit_6(
    tmp_path: Path, arguments: list[str]
) -> None:
    prefix = mounting()
    if not prefix:
        pytest.skip("nothing can be mounted here: that takes Linux, unshare and rights")
    (tmp_path / "profiles" / "default").mkdir(parents=True)
    done = subprocess.run(
        [
            *prefix,
            "sh",
            "-ec",
            'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
            str(tmp_path),
            sys.executable,
            "chat_client.py",
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(tmp_path),
        timeout=DEADLINE_S,
        check=False,
    )
    profile = tmp_path / "profiles" / "default"
    assert done.returncode == 6, done
    assert done.stdout == ""
    assert done.stderr == (
        f"chainroom: {profile} cannot be used (Read-only file system: {profile / 'lock'}): "
        "make room there, or name another folder with --home\n"
    )
