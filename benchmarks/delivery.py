"""How long a model takes from one driver to all nodes, by hubdist and by what else a Ray user could do.

    sudo python benchmarks/delivery.py                       # all schemes, 2, 4 and 8 nodes, 100 Mbit/s each way
    sudo python benchmarks/delivery.py --rate 100mbit 1gbit 10gbit --schemes hubdist floor "http star" ray.put
    sudo python benchmarks/delivery.py --scenario cold       # also: late, kill, origin, waiters
    sudo python benchmarks/delivery.py --out delivery.png

Simulated hosts (`hosts.py`), one Ray cluster on them, all schemes in turns in one run. T is from the call to the last
node's verified copy, T1 one plain HTTP stream to one node, the median of the rounds. Printed are T/T1, what the
driver's link sent over the size of the model S, what the busiest other node sent over S, the processor seconds of the
whole machine for each GiB that a node got, and how idle the processors were: with little idle time the run measures the
processors and not the links. `floor` is the least that any scheme costs (`delivery_floor.py`). Needs root, iproute2
and util-linux; BitTorrent needs `pip install libtorrent`, the picture `pip install 'hubdist[plot]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hosts import Hosts

SCHEMES = ["hubdist", "floor", "http star", "ray.put", "random chunks", "BitTorrent"]
SCENARIOS = ["swarm", "cold", "late", "kill", "origin", "waiters"]
INSIDE = Path(__file__).with_name("delivery_schemes.py")
PULLS = {"RAY_object_manager_pull_timeout_ms": "600000"}


def run(options: argparse.Namespace, rate: str, schemes: list[str], **environment: str) -> list[dict[str, Any]]:
    """One cluster on fresh hosts, one scenario; what it printed."""
    extra = options.scenario == "origin"
    with Hosts(options.nodes + extra, rate) as hosts:
        ray_hosts, hosts.count = hosts.count, options.nodes
        hosts.start_ray(**environment)
        hosts.count = ray_hosts
        size = ["--mib", str(options.mib), "--rounds", str(options.rounds)]
        arguments = [
            "--scenario",
            options.scenario,
            "--address",
            hosts.address(0),
            "--nodes",
            str(options.nodes),
            "--counts",
            *map(str, options.counts or sorted({min(2, options.nodes), min(4, options.nodes), options.nodes})),
            *size,
        ]
        if extra:
            serve = ["--scenario", "serve_origin", "--address", hosts.address(ray_hosts), *size]
            subprocess.Popen(hosts.command(ray_hosts, [sys.executable, str(INSIDE), *serve]), stderr=subprocess.DEVNULL)
            time.sleep(5.0 + options.mib * options.rounds / 50)
            arguments += ["--origin", f"http://{hosts.address(ray_hosts)}:8000"]
        if options.scenario == "kill":
            signal.signal(signal.SIGUSR1, lambda *_: hosts.stop_processes(options.nodes))
        command = [sys.executable, str(INSIDE), *arguments, "--schemes", *schemes]
        rows = [json.loads(line) for line in hosts.run(0, command, **environment).splitlines() if line[:1] == "{"]
    if options.scenario == "swarm":  # a single plain copy may have been disturbed
        usual = statistics.median(row["T1"] for row in rows)
        rows = [{**row, "ratio": row["s"] / usual} for row in rows]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table: medians, and the range over the rounds."""
    print(f"{'scheme':<36} {'nodes':>5} {'T/T1':>20} {'driver/S':>9} {'busiest/S':>9} {'s/GiB':>6} {'idle':>5}")
    for scheme, nodes in dict.fromkeys((row["scheme"], row.get("nodes")) for row in rows):
        mine = [row for row in rows if (row["scheme"], row.get("nodes")) == (scheme, nodes)]
        if "ratio" not in mine[0]:
            print(*(json.dumps(row) for row in mine), sep="\n")
            continue
        ratios = [row["ratio"] for row in mine]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        keys = ("driver", "busiest", "per_gib", "idle")
        driver, busiest, per_gib, idle = (statistics.median(row[key] for row in mine) for key in keys)
        print(f"{scheme:<36} {nodes:>5} {spread:>20} {driver:>9.2f} {busiest:>9.2f} {per_gib:>6.2f} {idle:>5.0%}")
    ours = [row for row in rows if row.get("processors") and row["nodes"] == max(row.get("nodes", 0) for row in rows)]
    if ours:
        shares = ", ".join(f"{name} {seconds:.1f}" for name, seconds in ours[0]["processors"].items())
        print(f"processor seconds, {ours[0]['scheme']}, first round: {shares}")
    copies = [row["T1"] for row in rows if "T1" in row]
    if copies:
        print(f"T1: {min(copies):.2f} to {max(copies):.2f} s")


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """T/T1 by scheme and number of nodes, and what arrived when in hubdist's last run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = [row for row in rows if "ratio" in row]
    ends = []
    for scheme in dict.fromkeys(row["scheme"] for row in measured):
        counts = sorted({row["nodes"] for row in measured if row["scheme"] == scheme})
        medians = [
            statistics.median(row["ratio"] for row in measured if (row["scheme"], row["nodes"]) == (scheme, count))
            for count in counts
        ]
        ours = scheme == "hubdist"
        (line,) = left.plot(
            counts, medians, marker="o", ms=4, lw=2.5 if ours else 1.2, color="#d95f02" if ours else None
        )
        ends.append((medians[-1], counts[-1], scheme, line.get_color()))
    below = 0.0
    for last, count, scheme, color in sorted(ends):  # names beside the lines' ends, never upon each other
        below = max(last, below * 1.22)
        left.annotate(f"{scheme} {last:.2f}", (count, below), (6, 0), "data", "offset points", color=color, va="center")
    left.axhline(1.0, color="black", lw=0.8, ls=":")
    left.set(xlabel="nodes", ylabel="T / T1", yscale="log", title="Time to the last node, in plain copies to one")
    ticks = [1, 2, 4, 8, 16]
    left.set_yticks(ticks, labels=map(str, ticks))
    left.set_yticks([], minor=True)
    left.set_xticks(sorted({row["nodes"] for row in measured}))
    left.margins(x=0.35)
    left.set_xlim(left=0)
    drawn = [row for row in measured if row.get("curves")]
    if drawn:
        for curve in drawn[-1]["curves"]:
            right.plot([0, *(at for at, _ in curve)], [0, *(count / 2**20 for _, count in curve)], lw=1)
        right.axvline(drawn[-1]["T1"], color="black", lw=0.8, ls=":")
        right.set(title="hubdist: what had arrived at each node (dotted: T1)", xlabel="seconds", ylabel="MiB")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def link_rate(text: str) -> str:
    """A rate as `tc` takes it; a bare number would be bits per second."""
    if not re.fullmatch(r"\d+(mbit|gbit)", text):
        raise argparse.ArgumentTypeError(f"{text} is not a rate such as 100mbit or 10gbit")
    return text


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", choices=SCENARIOS, default="swarm")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--counts", type=int, nargs="+", help="how many of them receive; 2, 4 and all")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument(
        "--rate",
        nargs="+",
        type=link_rate,
        default=["100mbit"],
        help="of each link, both ways, such as 1gbit; one or several",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemes", nargs="+", choices=[*SCHEMES, "ray.put, long pulls"], default=None)
    parser.add_argument("--out", help="file for a picture")
    options = parser.parse_args()
    wanted = options.schemes or [*SCHEMES, "ray.put, long pulls"]
    if "BitTorrent" in wanted and importlib.util.find_spec("libtorrent") is None:
        wanted.remove("BitTorrent")
        print("BitTorrent is left out: libtorrent is not installed")
    for rate in options.rate:
        print(f"{options.nodes} nodes, {options.mib} MiB, links of {rate}, {options.rounds} rounds", flush=True)
        rows = run(options, rate, [scheme for scheme in wanted if scheme in SCHEMES])
        if options.scenario == "swarm" and "ray.put, long pulls" in wanted:  # a setting of the whole cluster
            for row in run(options, rate, ["ray.put"], **PULLS):
                rows.append({**row, "scheme": "ray.put, long pulls"})
        show(rows)
    if options.out:
        draw(rows, options.out)


if __name__ == "__main__":
    main()
