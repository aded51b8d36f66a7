"""Whether `hubdist.plan(handle, nodes=..., link=...)` tells the truth: ten clusters, predicted beside measured.

    sudo python benchmarks/what_if.py                        # all ten, five rounds each
    sudo python benchmarks/what_if.py --only 1 4 --rounds 3

Simulated hosts (`hosts.py`), which share the processors of this machine; `LAB` says what bytes and calls cost here, as
`calibrate.py` prints it. Measured is from the call of `prefetch` to its end, with agents that run and a model that the
driver's node has; the median of the rounds, and their range. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hosts import Hosts

from hubdist.delivery.costs import Costs
from hubdist.delivery.what_if import Cores, Links, Prediction, predict

MIB = 1 << 20
LAB = Costs(
    receive_s_per_mib=0.0030,
    send_s_per_mib=0.0002,
    payload_part=0.956,
    call_s=0.0015,
    start_s=0.017,
    node_s=0.0087,
    queue_s=0.1,
)
LATENCY_S = 0.0001
GOOD = 0.15
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Topology:
    """One cluster and one model.

    Attributes:
        name: What is special.
        source: Mbit/s of the driver's node.
        nodes: Mbit/s of each other node.
        mib: Of the model.
    """

    name: str
    source: int
    nodes: tuple[int, ...]
    mib: int

    def predict(self) -> Prediction:
        """What hubdist says, for hosts that share this machine's processors."""
        links = Links([rate * 1e6 / 8 for rate in self.nodes], self.source * 1e6 / 8, latency_s=LATENCY_S)
        return predict(self.mib * MIB, links, costs=LAB, cores=Cores(shared=float(os.cpu_count() or 1)))


TOPOLOGIES = [
    Topology("two nodes", 100, (100,) * 2, 32),
    Topology("four nodes", 100, (100,) * 4, 48),
    Topology("eight nodes", 100, (100,) * 8, 64),
    Topology("three nodes", 200, (200,) * 3, 64),
    Topology("six nodes", 300, (300,) * 6, 96),
    Topology("two nodes, 1 Gbit/s", 1000, (1000,) * 2, 256),
    Topology("half of them slower", 300, (300, 300, 100, 100), 48),
    Topology("three rates", 500, (500, 500, 200, 200, 100, 100), 48),
    Topology("one slow", 200, (200,) * 7 + (50,), 48),
    Topology("a slow source", 100, (300,) * 5, 48),
]


def inside(rounds: int, mib: int, nodes: int, address: str) -> None:
    """On the driver's host: seconds of each round."""
    bench = open_bench(nodes, mib, address)
    for _ in range(rounds + 1):  # the first opens connections and is not counted
        print(json.dumps({"s": deliver(bench)}), flush=True)


def open_bench(nodes: int, mib: int, address: str) -> Any:
    """A job with agents on all hosts."""
    import ray
    from delivery_schemes import Bench

    ray.init(address=f"{address}:6379", log_to_driver=False, logging_level="ERROR")
    return Bench(argparse.Namespace(address=address, nodes=nodes, mib=mib))


def deliver(bench: Any) -> float:
    """Seconds of one prefetch of a new model."""
    import hubdist

    model = bench.model(bench.size)
    hubdist.resolve(model)
    begin = time.monotonic()
    bench.deliver(model)
    return time.monotonic() - begin


def measure(topology: Topology, rounds: int) -> list[float]:
    """Seconds of each round, on fresh hosts."""
    rates = [f"{rate}mbit" for rate in (topology.source, *topology.nodes)]
    with Hosts(len(topology.nodes), rates) as hosts:
        hosts.start_ray()
        arguments = ["--inside", "topology", "--mib", str(topology.mib), "--rounds", str(rounds)]
        found = [row["s"] for row in run_inside(__file__, hosts, arguments)]
    return found[1:]


def run_inside(script: str, hosts: Hosts, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """The rows that a script prints on the driver's host."""
    command = [sys.executable, script, *arguments, "--nodes", str(hosts.count), "--address", hosts.address(0)]
    return (json.loads(line) for line in hosts.run(0, command, timeout_s=PATIENCE_S).splitlines() if line[:1] == "{")


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of topologies, from 1 on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="predict only")
    parser.add_argument(
        "--inside", choices=["topology", "calibrate", "receive", "send", "sink", "shares"], help=argparse.SUPPRESS
    )
    parser.add_argument("--mib", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.rounds, options.mib, options.nodes, options.address)
        sys.stdout.flush()
        os._exit(0)
    compare(options.only or range(1, len(TOPOLOGIES) + 1), options.rounds, dry=options.dry)


def compare(numbers: Any, rounds: int, *, dry: bool) -> None:
    """The table, and how many predictions are good."""
    print(f"{'topology':<26} {'MiB':>4} {'predicted s':>11} {'measured s':>22} {'ratio':>6}  bottleneck")
    good = 0
    for number in numbers:
        topology = TOPOLOGIES[number - 1]
        told = topology.predict()
        head = f"{number:>2} {topology.name:<23} {topology.mib:>4} {told.seconds:>11.2f}"
        if dry:
            print(f"{head} {'':>22} {'':>6}  {told.bottleneck}")
            continue
        found = measure(topology, rounds)
        middle = statistics.median(found)
        spread = f"{middle:.2f} ({min(found):.2f} - {max(found):.2f})"
        ratio = told.seconds / middle
        good += abs(ratio - 1) <= GOOD
        print(f"{head} {spread:>22} {ratio:>6.2f}  {told.bottleneck}", flush=True)
    if not dry:
        print(f"{good} of {len(list(numbers))} within {GOOD:.0%}")


if __name__ == "__main__":
    main()
