"""The relay beside what people would run instead: deliveries a second, latency, memory, attacks.

    make bench                                    everything, about half an hour
    python benchmarks/bench_relay.py --quick      about a minute; writes nothing
    python benchmarks/bench_relay.py --only throughput --repeats 5
    python benchmarks/bench_relay.py --relay . --relay '. --senders 2' --relay old=../other

Each server runs pinned to one core, the load generator (benchmarks/loadgen.c, which says what is
measured and checks every byte) to another.  Every measurement starts a server of its own; what is
compared is interleaved, repeat by repeat, so that a noisy minute hits everybody.  Figures are
medians with the least and the most of all repeats; ratios are of medians in this run.

Parts (--only): throughput, latency, idle, and for the relay alone stall, attacks.  Peers come from
Debian's packages (redis-server, nats-server, mosquitto), listen on 127.0.0.1, keep nothing, and are
left out with one line where they are missing.  Results: benchmarks/results/DATE.json and the chart
docs/relay-throughput.svg.  Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks.chart import Bar, chart  # noqa: E402 - found through the line above
from benchmarks.servers import (  # noqa: E402
    ATTACK,
    LOADGEN,
    PEERS,
    ROOT,
    Bench,
    Failed,
    Options,
    System,
    find,
    relay,
)

PARTS = ("throughput", "latency", "idle", "stall", "attacks")
GENERATOR_LIMIT = 0.95  # of its core: above that it measures itself
DISTURBED = 0.05  # of our cores, taken by others: above that figures are said to be noisy
IDLE_ROOM = 1000  # members: each newcomer is announced to its whole room
STALL_RATE = 1000  # messages a second, to 100 members
LAST = ("last_p50_us", "last_p99_us")  # until the last receiver has it
# What is done to the relay beside honest members, and for how many seconds at most.
ATTACKS = {"connects": 15, "halfopen": 8, "hugelength": 5, "garbage": 30}

# What is done how often and for how long: (thoroughly, with --quick).
SETTINGS: dict[str, tuple[Any, Any]] = {
    "repeats": (3, 1),
    "seconds": (2, 1),  # of one throughput measurement, after half a second of warm-up
    "messages": (2000, 500),  # of one latency measurement, after 200 of warm-up
    "latency_seconds": (120, 2),  # at most
    "senders": ([1, 4], [1]),
    "windows": ([64, 256], [64]),
    "idle": ([1000, 5000], [1000]),  # connections
    "stall_seconds": (18, 3),  # long enough for the relay to lose patience
    "quiet_seconds": (5, 1),
    "attack_seconds": (60, 3),  # at most
}

Row = dict[str, Any]  # of a table and of the file of results


# --------------------------------------------------------------------------- figures


class Spread(NamedTuple):
    """Of all repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        return cls(statistics.median(samples), min(samples), max(samples))

    def show(self, form: str = ".0f") -> str:
        whole = f" ({self.low:{form}}–{self.high:{form}})" if self.low != self.high else ""
        return f"{self.median:{form}}{whole}"


def repeated(
    systems: Sequence[System], repeats: int, measure: Callable[[System], Row]
) -> dict[System, dict[str, Spread]]:
    """Measures all systems in turn, so many times.  A peer that fails is left out with a line; the
    relay's failure is the run's."""
    found: dict[System, list[Row]] = {system: [] for system in systems}
    for _ in range(repeats):
        for system in list(found):
            try:
                found[system].append(measure(system))
            except Failed as exc:
                if system.is_relay:
                    raise
                print(f"left out: {exc}", flush=True)
                del found[system]
    worst = max((row["others"] for rows in found.values() for row in rows), default=0.0)
    if worst > DISTURBED:
        print(f"  disturbed: others took up to {worst:.0%} of these cores")
    return {
        system: {key: Spread.of([row[key] for row in rows]) for key in rows[0]}
        for system, rows in found.items()
    }


def best_peer(
    found: dict[System, dict[str, Spread]], key: str, best: Callable[..., float]
) -> float | None:
    """The best median of those that are not the relay."""
    return best(
        (row[key].median for system, row in found.items() if not system.is_relay), default=None
    )


def ratio(value: float, peer: float | None) -> str:
    return "" if peer is None else f"{value / peer:.2f}×"


def print_row(*cells: object) -> None:
    """The first cell is a name, the others are as wide as the widest that occurs."""
    name, *others = cells
    print(f"  {name:<20}" + "".join(f"{cell!s:>22}" for cell in others), flush=True)


# --------------------------------------------------------------------------- parts


def throughput(bench: Bench, systems: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """As many deliveries as fit through, for each number of receivers, senders, window."""
    rows: list[Row] = []

    def measure(system: System) -> Row:
        row = bench.load("throughput", system, {**cell, "seconds": options.seconds})
        row["cpu_per_million"] = row["server_cpu"] / row["deliveries"] * 1e6
        row["server_busy"] = row["server_cpu"] / row["seconds"]
        row["generator_busy"] = row["generator_cpu"] / row["seconds"]
        return row

    for receivers in options.receivers:
        for senders in options.senders:
            for window in options.windows:
                cell = {"receivers": receivers, "senders": senders, "window": window}
                plural = "" if senders == 1 else "s"
                print(f"\nN={receivers}, {senders} sender{plural}, window {window}")
                found = repeated(systems, options.repeats, measure)
                print_row("", "1000 deliveries/s", "× best peer", "CPU s / million",
                          "server | generator")  # fmt: skip
                peer = best_peer(found, "per_second", max)
                for system, row in found.items():
                    rate = Spread(*(value / 1000 for value in row["per_second"]))
                    busy = row["generator_busy"].median
                    load = f"{row['server_busy'].median:.0%} | {busy:.0%}"
                    note = "  the generator was the limit" if busy > GENERATOR_LIMIT else ""
                    print_row(system.name, rate.show(), ratio(rate.median * 1000, peer),
                              row["cpu_per_million"].show(".3f"), load + note)  # fmt: skip
                    kept = {key: row[key] for key in row if key not in ("deliveries", "seconds")}
                    rows.append(
                        {"system": system.name, "is_relay": system.is_relay, **cell, **kept}
                    )
    return rows


def latency(bench: Bench, systems: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """One message at a time, the next when all have it: µs to the first and the last receiver."""
    rows: list[Row] = []
    keys = ("first_p50_us", "first_p99_us", *LAST)
    for receivers in options.receivers:
        load = {"receivers": receivers, "count": options.messages}
        load["seconds"] = options.latency_seconds

        def measure(system: System, load: Options = load) -> Row:
            return bench.load("latency", system, load)

        print(f"\nN={receivers}, {options.messages} messages, µs")
        found = repeated(systems, options.repeats, measure)
        print_row("", "first p50", "first p99", "last p50", "last p99", "last × best, p50|p99")
        p50, p99 = (best_peer(found, key, min) for key in keys[2:])
        for system, row in found.items():
            beside = f"{ratio(row[keys[2]].median, p50)} | {ratio(row[keys[3]].median, p99)}"
            print_row(system.name, *(row[key].show() for key in keys), beside)
            kept = {key: row[key] for key in (*keys, "messages", "server_cpu", "others")}
            rows.append({"system": system.name, "receivers": receivers, **kept})
    return rows


def private_kib(pid: int) -> int:
    """A process's memory that it shares with nobody, once it has nothing more to do."""

    def cpu_ticks() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]

    for _ in range(40):
        before = cpu_ticks()
        time.sleep(0.25)
        if cpu_ticks() == before:
            break
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def idle(bench: Bench, systems: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """What a connection that says nothing costs the server's process."""
    rows: list[Row] = []
    for connections in options.idle:
        rooms = -(-connections // IDLE_ROOM)

        def measure(system: System, n: int = connections, rooms: int = rooms) -> Row:
            load = {"receivers": n, "senders": 0, "rooms": rooms}
            with bench.serve(system) as server:
                before = private_kib(server.pid)
                begun = time.monotonic()
                with bench.generator("idle", server, load) as process:
                    joined_s = time.monotonic() - begun
                    after = private_kib(server.pid)
                    others = bench.result(process, server)["others"]  # fails if one was closed
            kib = (after - before) / n
            row = {"kib_per_connection": kib, "total_kib": after, "joined_s": joined_s}
            return {**row, "others": others}

        print(f"\n{connections} connections, the relay's in {rooms} room(s)")
        found = repeated(systems, options.repeats, measure)
        print_row("", "KiB a connection", "process, MiB", "joined after, s")
        for system, row in found.items():
            total = Spread(*(value / 1024 for value in row["total_kib"]))
            print_row(system.name, row["kib_per_connection"].show(".2f"), total.show(".1f"),
                      row["joined_s"].show(".1f"))  # fmt: skip
            rows.append({"system": system.name, "connections": connections, **row})
    return rows


def stall(bench: Bench, systems: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """A room of 100 under a steady load, without and with one member that stops reading."""
    load = {"receivers": 100, "rate": STALL_RATE, "seconds": options.stall_seconds}

    def measure(system: System) -> Row:
        quiet, row = (bench.load("latency", system, {**load, "stalled": k}) for k in (0, 1))
        row |= {f"quiet_{key}": quiet[key] for key in LAST}
        row["p99_ratio"] = row["last_p99_us"] / quiet["last_p99_us"]
        row["others"] = max(row["others"], quiet["others"])
        return row

    print(
        f"\nN=100, {STALL_RATE} messages/s for {options.stall_seconds} s; µs to the last honest one"
    )
    found = repeated([s for s in systems if s.is_relay], options.repeats, measure)
    print_row("", "all read: p50", "p99", "one stalled: p50", "p99", "p99, ratio")
    rows: list[Row] = []
    for system, row in found.items():
        print_row(system.name, row["quiet_last_p50_us"].show(), row["quiet_last_p99_us"].show(),
                  row["last_p50_us"].show(), row["last_p99_us"].show(),
                  row["p99_ratio"].show(".2f"))  # fmt: skip
        if row["stalled_reason"].low:
            left = f"DEL, reason {row['stalled_reason'].median:.0f}"
            left += f", {row['stalled_after_s'].show('.1f')} s after its last read"
        else:
            left = "still a member at the end"
        print(f"    the stalled one: {left}; {row['stalled_bytes'].show()} bytes had gone to it")
        kept = [key for key in row if "last" in key or "stalled" in key or key == "p99_ratio"]
        rows.append({"system": system.name, **{key: row[key] for key in kept}})
    return rows


def _attacked(bench: Bench, system: System, attack: str, quiet_s: int, most_s: int) -> Row:
    """A quiet run, and one while the attack lasts."""
    found: Row = {}
    honest: Options = {"receivers": 100, "seconds": 600, "until-eof": True}
    for name in ("quiet", "attacked"):
        with bench.serve(system) as server, bench.generator("latency", server, honest) as process:
            if name == "quiet":
                time.sleep(quiet_s)
            else:
                with bench.attack(attack, server, min(ATTACKS[attack], most_s)) as attacker:
                    found |= bench.result(attacker, server)
            row = bench.result(process, server)
            found |= {f"{name}_{key}": row[key] for key in LAST}
            found["others"] = max(found.get("others", 0.0), row["others"])
    found["p99_ratio"] = found["attacked_last_p99_us"] / found["quiet_last_p99_us"]
    return found


def attacks(bench: Bench, systems: Sequence[System], options: argparse.Namespace) -> list[Row]:
    """Honest members' latency while somebody abuses the relay, each beside a quiet run."""
    rows: list[Row] = []
    print("\nN=100, one message at a time; µs to the last one")
    print_row("", "quiet: p50", "p99", "attacked: p50", "p99", "p99, ratio")
    for attack in options.attacks:
        keys = [f"{name}_{key}" for name in ("quiet", "attacked") for key in LAST]
        relays = [system for system in systems if system.is_relay]

        def measure(system: System, attack: str = attack) -> Row:
            return _attacked(bench, system, attack, options.quiet_seconds, options.attack_seconds)

        for system, row in repeated(relays, options.repeats, measure).items():
            label = attack if len(relays) == 1 else f"{attack}, {system.name}"
            print_row(label, *(row[key].show() for key in keys), row["p99_ratio"].show(".2f"))
            sent = f"{row['connects'].median:.0f} connects, {row['bytes'].median:.0f} bytes"
            print(f"    {sent} in {row['seconds'].median:.1f} s")
            rows.append({"system": system.name, "attack": attack, **row})
    return rows


# --------------------------------------------------------------------------- the whole


def machine(systems: Sequence[System]) -> Row:
    """What the figures depend on."""

    def said(*argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
        return (done.stdout.splitlines() or [""])[0]

    cpu = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    peers = {s.name: find(s.argv[0]) for s in systems if not s.is_relay}
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "commit": said("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "tcp_congestion_control": congestion,
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "peers": {name: said(path, "--version") for name, path in peers.items() if path},
    }


def rounded(value: Any) -> Any:
    """For the file: four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def one_row_a_line(results: Row) -> str:
    """JSON whose changes a person can read."""

    def lines(value: Any) -> str:
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value)
        return f"[\n  {rows}\n ]" if isinstance(value, list) else json.dumps(value)

    return "{\n " + ",\n ".join(f'"{key}": {lines(results[key])}' for key in results) + "\n}\n"


def write_chart(rows: list[Row], options: argparse.Namespace) -> Path:
    """The chart that README shows: one sender, the smallest window."""
    senders, window = options.senders[0], options.windows[0]
    shown = [row for row in rows if (row["senders"], row["window"]) == (senders, window)]
    groups: dict[str, list[Bar]] = {}
    for row in shown:
        median, low, high = (value / 1e6 for value in row["per_second"])
        bar = Bar(row["system"], median, low, high, row["is_relay"])
        groups.setdefault(f"{row['receivers']} receivers", []).append(bar)
    path = ROOT / "docs" / "relay-throughput.svg"
    path.write_text(
        chart(
            "Million deliveries a second",
            f"600-byte messages, {senders} sender, {window} in flight, server on one core; "
            f"median of {options.repeats}, lines from least to most",
            groups,
        ),
        "utf-8",
    )
    return path


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    numbers: dict[str, Any] = {"type": lambda text: [int(n) for n in text.split(",")]}
    names: dict[str, Any] = {"type": lambda text: text.split(",")}
    cores = sorted(os.sched_getaffinity(0))
    flag("--quick", action="store_true", help="about a minute; writes nothing")
    flag("--no-write", action="store_true", help="only print")
    flag("--only", default=list(PARTS), metavar="PART,...", help=", ".join(PARTS), **names)
    flag("--relay", action="append", metavar="'[NAME=]PATH [FLAG...]'",
         help="a checkout whose relay is measured, and its flags; may be repeated")  # fmt: skip
    flag("--peers", default=[s.name for s in PEERS], metavar="NAME,...",
         help="redis, nats, mosquitto, or none", **names)  # fmt: skip
    flag("--repeats", type=int, metavar="N")
    flag("--seconds", type=int, metavar="S", help="of one throughput measurement")
    flag("--messages", type=int, metavar="N", help="of one latency measurement")
    flag("--receivers", default=[10, 100, 1000], metavar="N,...", **numbers)
    flag("--senders", metavar="N,...", **numbers)
    flag("--windows", metavar="N,...", **numbers)
    flag("--idle", metavar="N,...", help="connections", **numbers)
    flag("--attacks", default=list(ATTACKS), metavar="NAME,...", help=", ".join(ATTACKS), **names)
    flag("--server-cores", default=cores[:1], metavar="N,...", **numbers)
    flag("--generator-core", type=int, default=cores[-1], metavar="N")
    options = parser.parse_args(argv)
    for name, (thorough, quick) in SETTINGS.items():
        if getattr(options, name, None) is None:
            setattr(options, name, quick if options.quick else thorough)
    for chosen, known in ((options.only, PARTS), (options.attacks, ATTACKS)):
        for name in set(chosen) - set(known):
            parser.error(f"{name}: choose from {', '.join(known)}")
    return options


def run(options: argparse.Namespace) -> None:
    """All chosen parts, then what is to be kept of them."""
    if not (LOADGEN.is_file() and ATTACK.is_file()):
        raise Failed("the load generator is not compiled: run `make build/loadgen build/attack`")
    if len(os.sched_getaffinity(0)) < 2:
        raise Failed("needs two cores, one for the server and one for the load generator")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    systems = [relay(spec) for spec in options.relay or [str(ROOT)]]
    for peer in PEERS:
        if peer.name in options.peers and find(peer.argv[0]) is None:
            package = peer.argv[0]
            print(f"left out: {package} is not installed (sudo apt install {package})")
        elif peer.name in options.peers:
            systems.append(peer)
    third = os.sched_getaffinity(0) - {*options.server_cores, options.generator_core}
    generator = {options.generator_core}
    bench = Bench(set(options.server_cores), generator, third or generator)
    facts = machine(systems)
    names = ("cpu", "cores", "kernel", "python", "tcp_congestion_control")
    print(", ".join(f"{name.replace('_', ' ')}: {facts[name]}" for name in names))
    parts = (throughput, latency, idle, stall, attacks)
    results: Row = {"date": datetime.date.today().isoformat(), "machine": facts}
    for part in parts:
        if part.__name__ in options.only:
            print(f"\n== {part.__name__}: {(part.__doc__ or '').splitlines()[0]}")
            results[part.__name__] = part(bench, systems, options)
    if options.quick or options.no_write:
        return
    path = ROOT / "benchmarks" / "results" / f"{results['date']}.json"
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError, ValueError):  # other parts, measured before, stay
        before = json.loads(path.read_text("utf-8"))
        if before["machine"]["commit"] == facts["commit"]:
            results = before | results
    path.write_text(one_row_a_line(rounded(results)), "utf-8")
    print(f"\nwritten: {path.relative_to(ROOT)}")
    if "throughput" in results:
        print(f"written: {write_chart(results['throughput'], options).relative_to(ROOT)}")


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 if the relay failed a measurement; 130 after Ctrl-C."""
    options = arguments(argv)
    # SIGTERM ends us like Ctrl-C does, through every `with` that holds a process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(options)
    except Failed as exc:
        print(f"bench_relay: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
