"""What a megabyte costs from one actor to another: as small results of a call, or as an object in Ray's object store.

    python benchmarks/calls.py [--mib 256]

Two Ray nodes on this machine, an actor on each; four calls of 1 MiB are under way. Printed are MiB per second and
processor milliseconds for each MiB, of both actors and of Ray's raylets, with results of several sizes. Ray sends a
result of at most 100 KiB inside the answer.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

MIB = 1 << 20
RESULT_KIB = (48, 96, 100)
PATIENCE_S = 120


@ray.remote(num_cpus=0, max_concurrency=16)
class End:
    """Gives and fetches."""

    def __init__(self) -> None:
        self.data = np.random.default_rng().integers(0, 256, MIB, dtype=np.uint8)

    def spent(self) -> float:
        """Processor seconds of this process."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def give(self, size: int) -> tuple[bytes, ...]:
        """A MiB in results of this size."""
        return tuple(bytes(self.data.data[at : at + size]) for at in range(0, MIB, size))

    def give_object(self) -> Any:
        """A MiB as one object; a copy, as a chunk that has just been read is."""
        return self.data.copy()

    def fetch(self, other: Any, size: int | None) -> None:
        """A MiB from another actor, into a buffer."""
        if size is None:
            np.array(other.give_object.remote().future().result(timeout=PATIENCE_S))
            return
        results = other.give.options(num_returns=-(-MIB // size)).remote(size)
        results[-1].future().result(timeout=PATIENCE_S)
        bytearray().join(ray.get(results, timeout=PATIENCE_S))

    def fetch_all(self, other: Any, size: int | None, count: int) -> None:
        """So many of them, four at a time."""
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: self.fetch(other, size), range(count)))


def raylets() -> float:
    """Processor seconds of all raylets of this machine."""
    return sum(ticks(process) for process in Path("/proc").glob("[0-9]*")) / os.sysconf("SC_CLK_TCK")


def ticks(process: Path) -> int:
    """Processor ticks of a process if it is a raylet, else 0."""
    try:
        fields = (process / "stat").read_text().rpartition(")")
        return sum(map(int, fields[2].split()[11:13])) if "raylet" in fields[0] else 0
    except OSError:
        return 0


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="how much in each run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    store = {"object_store_memory": 300 * MIB}
    cluster = Cluster(initialize_head=True, head_node_args={"resources": {"a": 1}, **store})
    cluster.add_node(resources={"b": 1}, **store)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    sender, reader = (End.options(resources={name: 1}).remote() for name in "ab")
    sizes = [*(kib << 10 for kib in RESULT_KIB), None]
    for size in sizes:
        ray.get(reader.fetch_all.remote(sender, size, 4), timeout=PATIENCE_S)
    print(f"{'':20} {'MiB/s':>6} {'sender':>7} {'reader':>7} {'raylets':>8} {'ms of processor time for each MiB':>8}")
    for _ in range(options.rounds):
        for size in sizes:
            before = [*ray.get([sender.spent.remote(), reader.spent.remote()], timeout=PATIENCE_S), raylets()]
            begin = time.monotonic()
            ray.get(reader.fetch_all.remote(sender, size, options.mib), timeout=PATIENCE_S)
            took = time.monotonic() - begin
            after = [*ray.get([sender.spent.remote(), reader.spent.remote()], timeout=PATIENCE_S), raylets()]
            costs = [1e3 * (now - then) / options.mib for now, then in zip(after, before, strict=True)]
            name = "one object" if size is None else f"results of {size >> 10} KiB"
            print(f"{name:20} {options.mib / took:6.0f} {costs[0]:7.2f} {costs[1]:7.2f} {costs[2]:8.2f}", flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
