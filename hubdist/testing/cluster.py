"""A Ray cluster of several nodes on this machine, each with a store of its own, for tests of code that uses hubdist.

from hubdist.testing.cluster import RayCluster

def test_my_tasks_load_it_everywhere(tmp_path):
    with RayCluster(tmp_path, nodes=3) as cluster:
        hubdist.init(store=cluster.store)
        ...
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.cluster_utils import Cluster

import hubdist

_NOTICE_S = 60.0


class RayCluster:
    """Starts several Ray nodes on this machine and connects this process to them as the driver.

    Use it in a `with` block: when the block is left, hubdist, Ray and all nodes are shut down. The nodes share this
    machine's disk and network address, so a test on such a cluster can tell whether your code is right, but not how
    fast it is.

    Args:
        folder: An existing directory, such as pytest's `tmp_path`. The nodes' stores go to `stores` inside of it, which
            is removed afterwards.
        nodes: The number of nodes, the head included.
        cpus: The number of CPUs that Ray counts on each node.
        object_store_bytes: The size of each node's object store in bytes; Ray takes at least 75 MiB.
        **init: Further arguments of `ray.init`.

    Attributes:
        store: The value for hubdist's `store` setting; it gives each node a store of its own.
    """

    def __init__(
        self, folder: Path, *, nodes: int = 3, cpus: int = 1, object_store_bytes: int = 100 << 20, **init: Any
    ) -> None:
        self._folder = folder / "stores"
        self.store = str(self._folder / "{node_id}")
        self._node_args = {"num_cpus": cpus, "object_store_memory": object_store_bytes}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._node_args, "include_dashboard": False})
        self._added: dict[str, Any] = {}
        try:
            for _ in range(nodes - 1):
                self.add_node()
            ray.init(address=self._cluster.address, **init)
        except BaseException:
            self._cluster.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if ray.is_initialized():
                hubdist.shutdown()
        finally:
            ray.shutdown()
            self._cluster.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """The cluster's address, for `ray.init(address=...)` in another process."""
        return str(self._cluster.address)

    @property
    def node_ids(self) -> list[str]:
        """The ids of the nodes that are alive, the head first."""
        alive = [info for info in ray.nodes() if info["Alive"]]
        return [
            info["NodeID"] for info in sorted(alive, key=lambda info: "node:__internal_head__" not in info["Resources"])
        ]

    def add_node(self, **options: Any) -> str:
        """Add a node to the cluster.

        Args:
            **options: Arguments of `ray.cluster_utils.Cluster.add_node`; they win over those of the cluster.

        Returns:
            The id of the node.
        """
        node = self._cluster.add_node(**{**self._node_args, **options})
        self._added[node.node_id] = node
        return str(node.node_id)

    def remove_node(self, node_id: str, *, wait: bool = True, graceful: bool = False) -> None:
        """Take a node from the cluster. The head cannot be removed.

        Args:
            node_id: The id of a node, as `add_node` or `node_ids` gives it.
            wait: True returns when the cluster has noticed that the node is gone; False returns at once.
            graceful: False kills the node, as if its machine had been switched off, which the cluster notices after
                some seconds; True lets it take its leave, which the cluster notices at once.

        Raises:
            TimeoutError: The cluster did not notice within a minute that the node is gone.
        """
        self._cluster.remove_node(self._added.pop(node_id), allow_graceful=graceful)
        if wait:
            self.wait_until_gone(node_id)

    def wait_until_gone(self, node_id: str) -> None:
        """Wait until the cluster has noticed that a node is gone.

        Raises:
            TimeoutError: The cluster did not notice it within a minute.
        """
        deadline = time.monotonic() + _NOTICE_S
        while node_id in self.node_ids:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Ray still counts node {node_id} as alive")
            time.sleep(0.1)

    def store_of(self, node_id: str) -> Path:
        """The directory of a node's store."""
        return self._folder / node_id

    def on(self, node_id: str) -> dict[str, Any]:
        """Options that make Ray run a task or an actor on a node: `task.options(**cluster.on(node_id))`."""
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        return {"scheduling_strategy": strategy}
