"""How often a node that joins has a kept model before its first task looks for it.

    python benchmarks/node_joins.py                      # 20 joins, a model of 40 MB
    python benchmarks/node_joins.py --imports tensorflow    # as hubdist.load does before it looks for the model

A Ray cluster on this machine, each node with a store of its own. The driver keeps a model on all nodes. A task waits
for a resource that no node has, as tasks do for which an autoscaler adds a node; then a node with it joins, and is
removed after the task. The task uses the model in its first line, or after the imports that the command names, and
notes whether its node's store had the model when hubdist looked. Printed is each join, and how many were warm.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from pathlib import Path

import ray

import hubdist
from hubdist.client.current import current_process
from hubdist.resolver.values import CallOptions
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub


@ray.remote(num_cpus=0, max_calls=1)
def use(handle: str, modules: list[str]) -> tuple[str, float, bool]:
    """The first task on a node: its node, when it looked for the model, and whether that was there."""
    for module in modules:
        importlib.import_module(module)
    process = current_process()
    pin = process.pin_of(handle, CallOptions())
    found = process.backend.find(pin.digest)
    looked = time.time()
    if found is not None:
        found.release()
    assert (Path(hubdist.resolve(handle)) / "saved_model.pb").is_file()
    return ray.get_runtime_context().get_node_id(), looked, found is not None


def join(cluster: RayCluster, handle: str, modules: list[str], resource: str) -> tuple[float, float | None, bool]:
    """Let a node join; seconds until its first task looked, seconds until its store had the model, and which was first.

    Args:
        cluster: The cluster.
        handle: The model.
        modules: What the task imports first.
        resource: What the task waits for; no other node has had it.
    """
    waiting = use.options(resources={resource: 1}).remote(handle, modules)
    begin = time.time()
    node = cluster.add_node(resources={resource: 1})
    _, looked, warm = ray.get(waiting, timeout=120)
    kept = cluster.store_of(node) / "kept"
    deadline = time.monotonic() + 30
    while not (kept.is_dir() and any(kept.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    snapshots = list((cluster.store_of(node) / "snapshots").iterdir())
    had = max(path.stat().st_ctime for path in snapshots) if snapshots else None
    cluster.remove_node(node)  # a node that is not yet known to be gone would delay the next one
    return looked - begin, None if had is None else had - begin, warm


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--joins", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=40.0)
    parser.add_argument(
        "--imports", nargs="*", default=[], help="modules that the task imports before it uses the model"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        LoopbackHub() as hub,
        RayCluster(Path(folder), nodes=2, cpus=2, log_to_driver=False) as cluster,
    ):
        hubdist.init(store=cluster.store)
        handle = hub.add_model("acme/kept/1", {"saved_model.pb": os.urandom(int(options.megabytes * 1e6))})
        hubdist.keep(handle)
        count = 0
        for number in range(1, options.joins + 1):
            looked, had, warm = join(cluster, handle, options.imports, f"joined-{number}")
            count += warm
            there = "never" if had is None else f"{had:.1f} s"
            print(
                f"join {number}: its first task looked after {looked:.1f} s, the model was there after {there}:"
                f" {'warm' if warm else 'not warm'}",
                flush=True,
            )
        print(
            f"{count} of {options.joins} nodes were warm before their first task; {hub.reads(handle)} read of the hub"
        )


if __name__ == "__main__":
    main()
