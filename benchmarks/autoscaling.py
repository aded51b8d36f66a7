"""What Ray's autoscaler makes of `hubdist.where` and `hubdist.keep`: they start no node, and keep none from going.

    sudo python benchmarks/autoscaling.py

Ray's fake provider of nodes, with autoscaler v2, on this machine: from two nodes of two CPUs to four. One node has a
model. First tasks with the options of `where` run, as many as the cluster has room for, and no node may start. Then the
driver keeps the model, and more tasks wait than there is room for: nodes are added and get the model. At last all nodes
are idle, and those that were added have to go although the model is kept on them. Printed is each step.

The script runs itself in namespaces of its own, for which it must be root: the provider's helper ends every Ray process
that it sees, and lacks a file in Ray's wheel.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private import fake_multi_node
from ray.cluster_utils import AutoscalingCluster

import hubdist
from hubdist.testing.hub import LoopbackHub

IDLE_MINUTES = 0.3
_PROVIDER = {
    "type": "fake_multinode",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
_LISTS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
_CONFIG: dict[str, Any] = {
    "cluster_name": "fake_multinode",
    "max_workers": 8,
    "provider": _PROVIDER,
    "available_node_types": {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
    "head_node_type": "ray.head.default",
    "auth": {},
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": IDLE_MINUTES,
    "docker": {},
    **{f"{name}_commands": [] for name in _LISTS},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}
"""What the file says that Ray's wheel lacks: the provider's defaults."""


def enter_namespaces(folder: Path) -> None:
    """Run this script again where it sees its own processes, network and mounts only.

    Args:
        folder: An empty directory.
    """
    provider = Path(fake_multi_node.__file__).parent
    names = [path.name for path in provider.iterdir() if path.name != "example.yaml"]
    script = (
        f"ip link set lo up && cp -r {' '.join(str(provider / name) for name in names)} {folder} &&"
        f" mount --bind {folder} {provider} && exec {sys.executable} {' '.join(sys.argv)} {folder}"
    )
    (folder / "example.yaml").write_text(yaml.safe_dump(_CONFIG))
    os.environ |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.execvp("unshare", ["unshare", "-pfnm", "--mount-proc", "bash", "-c", script])


def workers() -> list[str]:
    """The ids of the nodes that take tasks."""
    return sorted(info["NodeID"] for info in ray.nodes() if info["Alive"] and info["Resources"].get("CPU"))


def wait_for(count: int, timeout_s: float = 120.0) -> float:
    """Wait until there are so many nodes; returns seconds.

    Args:
        count: How many nodes that take tasks.
        timeout_s: Longest wait in seconds.
    """
    begin = time.monotonic()
    while len(workers()) != count:
        assert time.monotonic() - begin < timeout_s, f"{len(workers())} nodes"
        time.sleep(0.5)
    return time.monotonic() - begin


@ray.remote(num_cpus=1)
def place(seconds: float) -> str:
    """Work for a while; returns the node."""
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def run(what: str, count: int, seconds: float, handle: str) -> None:
    """Start tasks with the options of `where`, and print where they ran.

    Args:
        what: What the line is called.
        count: How many tasks.
        seconds: How long each works.
        handle: The model.
    """
    options = hubdist.where(handle)
    warm = options["label_selector"]["ray.io/node-id"]
    nodes = ray.get([place.options(**options).remote(seconds) for _ in range(count)], timeout=200)
    places = Counter(node in warm for node in nodes)
    print(f"{what}: {places[True]} of {count} on warm nodes, {len(workers())} nodes afterwards", flush=True)


def measure(folder: Path, hub: LoopbackHub) -> None:
    """Go through the steps.

    Args:
        folder: Where stores go.
        hub: Where the model is.
    """
    hubdist.init(store=str(folder / "stores" / "{node_id}"), agent_idle_s=3)
    print(f"2 nodes after {wait_for(2):.0f} s", flush=True)
    handle = hub.add_model("acme/scaled/1", {"saved_model.pb": os.urandom(20_000_000)})
    hubdist.prefetch(handle, nodes=workers()[:1])
    run("room on the warm node", 2, 3.0, handle)
    run("room in the cluster", 4, 8.0, handle)
    hubdist.keep(handle)
    run("no room in the cluster", 12, 8.0, handle)
    assert wait_for(4) >= 0
    kept = [node for node in workers() if any((folder / "stores" / node).glob("kept/*"))]
    print(f"the model is kept on {len(kept)} of {len(workers())} nodes", flush=True)
    print(f"idle nodes went after {wait_for(2):.0f} s; the autoscaler was told {IDLE_MINUTES * 60:.0f} s", flush=True)


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 1:
        enter_namespaces(Path(tempfile.mkdtemp(prefix="as")))
    folder = Path(sys.argv[1])
    worker = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 2, "max_workers": 4}
    cluster = AutoscalingCluster(
        {"CPU": 0}, {"worker": copy.deepcopy(worker)}, autoscaler_v2=True, idle_timeout_minutes=IDLE_MINUTES
    )
    cluster.start()
    with LoopbackHub() as hub:
        try:
            ray.init("auto", log_to_driver=False)
            measure(folder, hub)
        finally:
            if ray.is_initialized():
                hubdist.shutdown()
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
