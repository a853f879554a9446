"""Looks for bytes that break a reader, guided by coverage: atheris (libFuzzer) over `readers.py`.

    make fuzz                          each harness in turn, for 20 s
    make fuzz SECONDS=3600 RUNS=10000000 ONLY='frames payload'
    .venv/bin/python tests/fuzz.py frames -runs=1000      one, with libFuzzer's own flags
    .venv/bin/python tests/fuzz.py frames FILE            once more what was found

What it tried and kept is in build/fuzz/NAME, and where the next call goes on from; what broke
something in build/fuzz/NAME.found-*.  A run ends at the first of those.
"""

from __future__ import annotations

import importlib
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "build" / "fuzz"
MAX_MEMORY_BYTES = 1 << 30  # of address space: what a lying length asks for is over it
MAX_SECONDS = 5  # for one input
# Each module whose branches count; `readers` too, for what it makes of its bytes.
MODULES = [path.stem for path in sorted(ROOT.glob("*.py"))] + ["readers"]


def fuzz(name: str, flags: list[str]) -> None:
    """Runs one harness until libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    with atheris.instrument_imports(include=MODULES):
        harness = importlib.import_module("readers").HARNESSES[name]
    if not any(Path(flag).is_file() for flag in flags):
        corpus = CORPUS / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(harness.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        flags = [*flags, str(corpus)]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    limits = [f"-max_len={harness.max_bytes}", f"-timeout={MAX_SECONDS}"]
    found = f"-artifact_prefix={CORPUS / name}.found-"
    atheris.Setup([sys.argv[0], *limits, found, *flags], harness.read)
    atheris.Fuzz()


def main(runs: str, seconds: str, names: list[str]) -> int:
    """Each harness in a process of its own, until either is over; how many found something."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    failed = 0
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name in names or importlib.import_module("readers").HARNESSES:
        log, begun = CORPUS / f"{name}.log", time.monotonic()
        bounds = [f"-runs={runs}", f"-max_total_time={seconds}", "-print_final_stats=1"]
        with log.open("wb") as out:
            command = [sys.executable, __file__, name, *bounds]
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
        text, took = log.read_text("utf-8", "replace"), time.monotonic() - begun
        done = re.findall(r"number_of_executed_units: (\d+)", text) or ["?"]
        edges = re.findall(r"cov: (\d+)", text) or ["?"]
        what = f"SOMETHING, see {log}" if code else "nothing"
        print(
            f"{name}: {done[-1]} runs in {took:.0f} s, {edges[-1]} edges, found {what}", flush=True
        )
        failed += code != 0
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "all":
        sys.exit(min(main(sys.argv[2], sys.argv[3], sys.argv[4:]), 1))
    fuzz(sys.argv[1], sys.argv[2:])
