"""A network that is nobody's but ours, for as long as one process runs in it.

    done = in_own_network("ip link set lo up", "print('hello')")
    done.stdout

Where no such thing can be made, the test is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

import pytest
from processes import DEADLINE_S, ROOT, environment

__all__ = ["in_own_network"]


def in_own_network(
    set_up: str, script: str, *arguments: str, within_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a network namespace of its own, with our modules to import.

    Args:
        set_up: shell commands that come before: `ip link add …`.

    Returns:
        What it said and how it ended.
    """
    prefix = _prefix()
    if not prefix:
        pytest.skip("no network of our own can be made here: that takes Linux, unshare, ip, rights")
    return subprocess.run(
        [
            *prefix,
            "sh",
            "-ec",
            f'{set_up}\nexec "$@"',
            "sh",
            sys.executable,
            "-c",
            script,
            *arguments,
        ],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


@cache
def _prefix() -> list[str]:
    """What comes before a command that gets one; empty: it cannot be had."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "ip"))):
        return []
    prefix = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    made = [*prefix, "sh", "-c", "ip link set lo up && ip link add one type veth peer name other"]
    works = subprocess.run(made, capture_output=True, timeout=DEADLINE_S, check=False)
    return prefix if works.returncode == 0 else []
