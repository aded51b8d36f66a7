"""Many TensorFlow processes on one node: threads, memory, and how long they take to load and to answer.

    python benchmarks/many_processes.py                         # 16 actors, tf_resources: task
    python benchmarks/many_processes.py --actors 64 --tf-resources all

One Ray node on this machine. Its actors share the node's CPUs: each asks for an equal part of them. They are started
some at a time, as many as start in the given time and leave the node 3 GiB of free memory; each loads a model with a
matrix of weights. Then all answer at the same time, several times. Printed are how many actors answered, threads and
memory of each process (proportional: what processes share is counted once), and the times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

import hubdist
from hubdist.testing.cluster import RayCluster

FREE_BYTES = 3 << 30
_EXPORT = """
import sys, tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        self.weights = tf.Variable(tf.random.stateless_normal([512, 512], [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, 512])])
    def __call__(self, values):
        for _ in range(8):
            values = tf.tanh(values @ self.weights)
        return values

tf.saved_model.save(Model(), sys.argv[1])
"""


@ray.remote
class Answerer:
    """A process that holds a model."""

    def __init__(self, handle: str) -> None:
        self._model = hubdist.load(handle)

    def answer(self) -> float:
        """Answer once; returns seconds."""
        import tensorflow as tf

        begin = time.perf_counter()
        assert self._model(tf.ones([256, 512])).shape == [256, 512]
        return time.perf_counter() - begin

    def size(self) -> tuple[int, int]:
        """Threads of this process, and bytes of its memory."""
        rollup = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        return len(list(Path("/proc/self/task").iterdir())), int(rollup["Pss"].split()[0]) << 10


def free_bytes() -> int:
    """Memory in bytes that this machine has for new processes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def start(handle: str, count: int, cpus: float, at_once: int, start_s: float) -> list[Any]:
    """Start actors until there are enough, or time or memory ends.

    Args:
        handle: The model.
        count: How many actors.
        cpus: CPUs of each.
        at_once: How many start at a time.
        start_s: Seconds after which no more are started.
    """
    actors: list[Any] = []
    deadline = time.monotonic() + start_s
    while len(actors) < count and free_bytes() > FREE_BYTES and time.monotonic() < deadline:
        more = [Answerer.options(num_cpus=cpus).remote(handle) for _ in range(min(at_once, count - len(actors)))]
        ray.get([actor.answer.remote() for actor in more], timeout=300)
        actors += more
    return actors


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--actors", type=int, default=16)
    parser.add_argument("--tf-resources", choices=["task", "all"], default="task")
    parser.add_argument("--at-once", type=int, default=4, help="how many actors start at the same time")
    parser.add_argument("--start-s", type=float, default=600.0, help="seconds after which no more actors start")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        subprocess.run([sys.executable, "-c", _EXPORT, model], check=True, capture_output=True, timeout=300)
        with RayCluster(Path(folder), nodes=1, cpus=cores, log_to_driver=False) as cluster:
            hubdist.init(store=cluster.store, tf_resources=options.tf_resources)
            begin = time.perf_counter()
            actors = start(model, options.actors, cores / options.actors, options.at_once, options.start_s)
            loaded = time.perf_counter() - begin
            rounds = []
            for _ in range(options.rounds):
                begin = time.perf_counter()
                ray.get([actor.answer.remote() for actor in actors], timeout=300)
                rounds.append(time.perf_counter() - begin)
            threads, sizes = zip(*ray.get([actor.size.remote() for actor in actors], timeout=300), strict=True)
            print(f"{len(actors)} of {options.actors} actors on {cores} cores, tf_resources: {options.tf_resources}")
            print(f"  all had loaded and answered after {loaded:.0f} s, {options.at_once} at a time")
            print(f"  all answered at the same time in {statistics.median(rounds):.2f} s (median of {options.rounds})")
            print(f"  threads of a process {min(threads)} to {max(threads)}, {sum(threads)} in all")
            print(f"  memory of a process {statistics.median(sizes) / 1e6:.0f} MB, {sum(sizes) / 1e9:.1f} GB in all")
            print(f"  free memory {free_bytes() / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
