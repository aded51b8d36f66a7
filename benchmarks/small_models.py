"""How long a small model takes to a node without an agent: in the coordinator's answer, and by an agent that starts.

    python benchmarks/small_models.py                   # models of 0.1, 1 and 4 MB, 9 rounds, both ways in turns
    python benchmarks/small_models.py --nodes 4 --megabytes 1

A Ray cluster of several nodes on this machine, each with a store of its own. The driver's node has the model already; a
process that has worked with hubdist before asks for it on each of the other nodes at the same time. T is from its
question to the directory in its node's store, of the last of these processes. Agents of the round before are gone.
Printed are the medians and ranges of T, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import ray

import hubdist
from hubdist.client.current import current_process
from hubdist.cluster.client import CoordinatorClient
from hubdist.resolver.values import CallOptions
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

WAYS = ("answer", "agent")
IDLE_S = 0.2


@ray.remote(num_cpus=0)
class Asker:
    """A process on a node."""

    def bring(self, handle: str, way: str) -> float:
        """Bring a model to this node; returns seconds."""
        begin = time.perf_counter()
        if way == "answer":
            path = hubdist.resolve(handle)
        else:
            process = current_process()
            backend = process.backend
            assert isinstance(backend, CoordinatorClient)
            pin = process.pin_of(handle, CallOptions())
            backend._connection.call(lambda coordinator: coordinator.deliver.remote(pin, backend.node_id))
            path = str(process.give_directory(pin))
        seconds = time.perf_counter() - begin
        assert any(file.is_file() for file in Path(path).rglob("*"))
        return seconds

    def know(self, handle: str) -> None:
        """Learn what a handle stands for: the first call of a process joins the job."""
        current_process().pin_of(handle, CallOptions())


def wait_for_agents() -> None:
    """Wait until no node has an agent."""
    while hubdist.status().agents:
        time.sleep(0.05)
    time.sleep(2 * IDLE_S)


def measure(cluster: RayCluster, hub: LoopbackHub, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by way."""
    askers = [Asker.options(**cluster.on(node)).remote() for node in cluster.node_ids[1:]]
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):  # the first round starts what stays, and does not count
        for way in WAYS:
            handle = hub.add_model(f"acme/{size}-{way}-{number}/1", {"saved_model.pb": os.urandom(size)})
            hubdist.resolve(handle)
            if number == 0:
                ray.get([asker.know.remote(handle) for asker in askers])
            wait_for_agents()
            seconds = max(ray.get([asker.bring.remote(handle, way) for asker in askers]))
            agents = len(hubdist.status().agents)
            assert agents == 0 if way == "answer" else agents > 0, f"{agents} agents after {way}"
            found[way] += [seconds] if number else []
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.1, 1.0, 4.0])
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes ask at the same time")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LoopbackHub() as hub,
        RayCluster(Path(folder), nodes=options.nodes + 1, log_to_driver=False) as cluster,
    ):
        hubdist.init(store=cluster.store, agent_idle_s=IDLE_S)
        for megabytes in options.megabytes:
            found = measure(cluster, hub, int(megabytes * 1e6), options.rounds)
            for way in WAYS:
                times = found[way]
                spread = f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})"
                print(f"{megabytes:g} MB to {options.nodes} node(s), {way:<6} {spread}", flush=True)
            ratio = statistics.median(found["agent"]) / statistics.median(found["answer"])
            print(f"{megabytes:g} MB: the answer takes 1/{ratio:.0f} of the agent's time", flush=True)


if __name__ == "__main__":
    main()
