"""Whether `hubdist.plan(handle, nodes=..., link=...)` tells the truth: ten clusters, predicted beside measured.

    sudo python benchmarks/what_if.py                        # all ten, five rounds each
    sudo python benchmarks/what_if.py --only 1 4 --rounds 3
    sudo python benchmarks/what_if.py --calibrate            # the costs of this machine, without any of the ten

Simulated hosts (`hosts.py`), which share the processors of this machine; `LAB` says what bytes and calls cost here, as
`--calibrate` prints it. Measured is from the call of `prefetch` to its end, with agents that run and a model that the
driver's node has; the median of the rounds, and their range. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hosts import Hosts

from hubdist.delivery.costs import Costs
from hubdist.delivery.what_if import Cores, Links, Prediction, predict

MIB = 1 << 20
LAB = Costs(
    receive_s_per_mib=0.0042, send_s_per_mib=0.0002, payload_part=0.954, call_s=0.0011, start_s=0.08, node_s=0.0134
)
LATENCY_S = 0.0001
GOOD = 0.15
SMALL_ROUNDS = 20
LARGE_ROUNDS = 3
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
        found = [row["s"] for row in run_inside(hosts, arguments)]
    return found[1:]


def run_inside(hosts: Hosts, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """What this file prints on the driver's host."""
    command = [sys.executable, __file__, *arguments, "--nodes", str(hosts.count), "--address", hosts.address(0)]
    return (json.loads(line) for line in hosts.run(0, command, timeout_s=PATIENCE_S).splitlines() if line[:1] == "{")


# Calibration


def calibrate_inside(nodes: int, mib: int, address: str) -> None:
    """On the driver's host: a new job's first delivery, small ones, and large ones."""
    import hubdist

    bench = open_bench(nodes, mib, address)
    hubdist.shutdown()
    hubdist.init(store="/hostlocal/store", agent_idle_s=600, route="driver")
    model = bench.model(1)
    begin = time.monotonic()
    hubdist.prefetch(model, nodes=bench.ids)
    first_s = time.monotonic() - begin
    whole, bench.size = bench.size, MIB
    deliver(bench)
    small, small_spent = repeat(bench, SMALL_ROUNDS)
    bench.size = whole
    _, spent = repeat(bench, LARGE_ROUNDS)
    row = {
        "first_s": first_s,
        "start_s": small,
        "coordinator_s": small_spent["ray::Coordinator"],
        "agents_s": small_spent["ray::NodeAgent"],
        "bytes_s": sum(spent[name] - small_spent[name] for name in ("ray::NodeAgent", "kernel, for packets")),
    }
    print(json.dumps(row), flush=True)


def repeat(bench: Any, rounds: int) -> tuple[float, Counter[str]]:
    """Seconds of a delivery, the median, and the mean processor seconds by kind of process."""
    from delivery_schemes import processor_seconds

    import hubdist

    models = [bench.model(bench.size) for _ in range(rounds)]
    for model in models:
        hubdist.resolve(model)
    before, took = processor_seconds(), []
    for model in models:
        begin = time.monotonic()
        bench.deliver(model)
        took.append(time.monotonic() - begin)
    after = processor_seconds()
    return statistics.median(took), Counter({name: (after[name] - before[name]) / rounds for name in after})


def payload_part(rate: int, mib: int) -> float:
    """Part of a link's rate that a plain copy gets."""
    with Hosts(1, f"{rate}mbit") as hosts:
        command = [sys.executable, __file__, "--inside", "receive", "--address", hosts.address(1)]
        copy: list[str] = []
        reader = threading.Thread(target=lambda: copy.append(hosts.run(1, command, timeout_s=60)))
        reader.start()
        send = [sys.executable, __file__, "--inside", "send", "--address", hosts.address(1), "--mib", str(mib)]
        hosts.run(0, send, timeout_s=60)
        reader.join()
    return float(json.loads(copy[0])["rate"]) * 8e-6 / rate


def receive(address: str) -> None:
    """Take what comes; bytes per second, without the first part, which a shaper lets through at once."""
    with socket.create_server((address, 5001)) as listener:
        connection, _ = listener.accept()
        total, begin, first = 0, 0.0, 4 * MIB
        while data := connection.recv(MIB):
            total += len(data)
            if not begin and total >= first:
                begin, first = time.monotonic(), total
        print(json.dumps({"rate": (total - first) / (time.monotonic() - begin)}))


def send(address: str, mib: int) -> None:
    """Send to whoever listens, within ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection((address, 5001))
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    with connection:
        for _ in range(mib):
            connection.sendall(bytes(MIB))


def calibrate() -> None:
    """Print the costs of this machine: what depends on the number of nodes from clusters of two and of eight."""
    part = payload_part(100, 32)
    found = {}
    for nodes, mib, rate in ((2, 8, None), (8, 8, None), (4, 128, "500mbit")):
        with Hosts(nodes, rate) as hosts:
            hosts.start_ray()
            found[nodes] = next(run_inside(hosts, ["--inside", "calibrate", "--mib", str(mib)]))
    more = {name: (found[8][name] - found[2][name]) / 6 for name in found[2]}
    call_s = more["coordinator_s"] / LAB.calls_per_node
    node_s = (more["start_s"] - more["coordinator_s"]) * (os.cpu_count() or 1)
    start_s = found[2]["start_s"] - 2 * more["start_s"]
    print(f"payload_part                 {part:.3f}")
    print(f"start_s                      {start_s:.3f}")
    print(f"node_s                       {node_s:.4f}")
    print(f"call_s                       {call_s:.5f}")
    print(f"receive and send, s per MiB  {found[4]['bytes_s'] / 4 / 128:.5f}")
    print(f"first delivery of a job, s   {found[2]['first_s']:.2f} to {found[8]['first_s']:.2f}")
    print(*(f"{nodes} nodes: {row}" for nodes, row in found.items()), sep="\n")


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of topologies, from 1 on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--dry", action="store_true", help="predict only")
    parser.add_argument("--inside", choices=["topology", "calibrate", "receive", "send"], help=argparse.SUPPRESS)
    parser.add_argument("--mib", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        run = {
            "topology": lambda: inside(options.rounds, options.mib, options.nodes, options.address),
            "calibrate": lambda: calibrate_inside(options.nodes, options.mib, options.address),
            "receive": lambda: receive(options.address),
            "send": lambda: send(options.address, options.mib),
        }
        run[options.inside]()
        sys.stdout.flush()
        os._exit(0)
    if options.calibrate:
        calibrate()
        return
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
