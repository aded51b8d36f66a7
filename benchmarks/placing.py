"""Where tasks run with the options of `hubdist.where`: on the nodes that have the model, as long as there is room.

    python benchmarks/placing.py                # 6 nodes, 2 of them warm, 100 tasks

A Ray cluster on this machine, each node with a store of its own; the driver's node takes no tasks. Two nodes get a
model. Then tasks are started with the options of `where`: so few at once that those nodes have room for all, then more
than these nodes have room for, then more than the cluster has. For comparison the first is done without the options.
Printed is how many tasks ran where, and how long all took.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub


@ray.remote
def place(seconds: float) -> str:
    """Work for a while; returns the node."""
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def run(what: str, warm: set[str], count: int, seconds: float, options: dict[str, Any]) -> None:
    """Start tasks at once, and print where they ran.

    Args:
        what: What the line is called.
        warm: The nodes that have the model.
        count: How many tasks.
        seconds: How long each works.
        options: Options of each.
    """
    begin = time.perf_counter()
    tasks = [place.options(**options).remote(seconds) for _ in range(count)]
    nodes = Counter(node in warm for node in ray.get(tasks, timeout=300))
    took = time.perf_counter() - begin
    print(f"{what}: {nodes[True]} of {count} on warm nodes, {nodes[False]} on others, {took:.1f} s", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=100)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LoopbackHub() as hub,
        RayCluster(Path(folder), nodes=1, cpus=0, log_to_driver=False) as cluster,
    ):
        nodes = [cluster.add_node(num_cpus=1) for _ in range(options.nodes)]
        hubdist.init(store=cluster.store)
        handle = hub.add_model("acme/placed/1", {"saved_model.pb": os.urandom(10_000_000)})
        hubdist.prefetch(handle, nodes=nodes[: options.warm])
        begin = time.perf_counter()
        found = hubdist.where(handle)
        print(f"where() took {time.perf_counter() - begin:.2f} s, again", end=" ")
        begin = time.perf_counter()
        assert hubdist.where(handle) == found
        print(f"{time.perf_counter() - begin:.3f} s")
        warm, part = set(nodes[: options.warm]), options.warm / options.tasks
        run("without where(), room for all", warm, options.tasks, 0.05, {"num_cpus": part})
        run("room for all on warm nodes", warm, options.tasks, 0.05, {"num_cpus": part, **found})
        run("twice the room of warm nodes", warm, 2 * options.warm, 5.0, found)
        run("more than the cluster has room for", warm, 3 * options.nodes, 2.0, found)
        for node in nodes[: options.warm]:
            cluster.remove_node(node)
        run("warm nodes are gone", warm, options.nodes - options.warm, 0.5, found)


if __name__ == "__main__":
    main()
