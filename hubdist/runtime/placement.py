"""Where the coordinator and the agents run; the one place where `ray.remote` is applied."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import ray
from ray.util import client as ray_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hubdist.config import Config

NAMESPACE = "hubdist"
_PROTOCOL = 1
"""Part of the coordinator's name: processes that speak another protocol have a coordinator of their own."""

_COORDINATOR_CALLS = 10_000
_AGENT_THREADS = 40


class Standpoint(enum.Enum):
    """What a process is to its job: the driver on a node, a Ray Client driver outside the cluster, a task or actor."""

    DRIVER = enum.auto()
    OUTSIDE = enum.auto()
    TASK = enum.auto()


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        id: Ray's id, hexadecimal.
        name: Address and the first digits of the id, for people.
        address: IP address.
        is_head: True for the head node.
        object_store_bytes: Size of its object store.
    """

    id: str
    name: str
    address: str
    is_head: bool
    object_store_bytes: int


def standpoint() -> Standpoint:
    """What this process is."""
    if ray_client.ray.is_connected():
        return Standpoint.OUTSIDE
    in_task = ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    return Standpoint.TASK if in_task else Standpoint.DRIVER


def alive_nodes() -> list[Node]:
    """The nodes that are alive now, the head first."""
    nodes = [
        Node(
            id=info["NodeID"],
            name=f"{info['NodeManagerAddress']}/{info['NodeID'][:8]}",
            address=info["NodeManagerAddress"],
            is_head="node:__internal_head__" in info["Resources"],
            object_store_bytes=int(info["Resources"].get("object_store_memory", 0)),
        )
        for info in ray.nodes()
        if info["Alive"]
    ]
    return sorted(nodes, key=lambda node: (not node.is_head, node.id))


def coordinator_name(job_id: str) -> str:
    """The name of a job's coordinator in hubdist's namespace."""
    return f"coordinator-{_PROTOCOL}-{job_id}"


def driver_node(nodes: list[Node], here: Standpoint) -> Node:
    """The node whose disk and credentials are the driver's, else the head node.

    The head stands in where there is no driver on a node: Serve, Ray Client, a driver that has ended.
    """
    if here is Standpoint.OUTSIDE:
        return nodes[0]
    own = ray.get_runtime_context().get_node_id()
    if here is Standpoint.DRIVER:
        return next((node for node in nodes if node.id == own), nodes[0])
    address = _driver_address()
    at_driver = [node for node in nodes if node.address == address]
    # Several nodes at the driver's address are one machine: the head, else this one, shares its disk.
    return next((node for node in at_driver if node.is_head or node.id == own), (at_driver or nodes)[0])


def _driver_address() -> str | None:
    """The address of this job's driver, or None if it has ended or cannot be told."""
    from ray._private.state import jobs  # the job table has no public way that works without the dashboard

    job_id = ray.get_runtime_context().get_job_id()
    for job in jobs():
        if job["JobID"] == job_id and not job["IsDead"]:
            return str(job["DriverIPAddress"])
    return None


def make_coordinator(config: Config, base_dir: Path | None, job_id: str, here: Standpoint) -> Any:
    """The job's coordinator, made if there is none.

    One that the driver makes ends with the driver. One that a task makes must outlive that task's process, so it is
    detached, and ends itself when it is not asked for long.
    """
    from hubdist.runtime.coordinator import Coordinator

    node = driver_node(alive_nodes(), here)
    detached = here is Standpoint.TASK
    bare = config.changed({"origins": {}})
    scope = f"{ray.get_runtime_context().get_session_name()}-{job_id}"
    return (
        ray.remote(Coordinator)
        .options(
            name=coordinator_name(job_id),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached" if detached else None,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_COORDINATOR_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(bare, cloudpickle.dumps(dict(config.origins)), base_dir, scope, node, detached=detached)
    )


def find_coordinator(job_id: str) -> Any | None:
    """The job's coordinator if it is there."""
    try:
        return ray.get_actor(coordinator_name(job_id), namespace=NAMESPACE)
    except ValueError:
        return None


def make_agent(config: Config, node: Node) -> Any:
    """A new agent on a node. It belongs to the process that made it and ends with it at the latest."""
    from hubdist.runtime.agent import NodeAgent

    return (
        ray.remote(NodeAgent)
        .options(
            num_cpus=0,
            max_restarts=0,
            max_concurrency=_AGENT_THREADS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(config, node.id)
    )


def stop_actor(actor: Any) -> None:
    """End an actor for good; harmless if it is gone."""
    ray.kill(actor, no_restart=True)


def stop_this_actor() -> None:
    """End the actor that calls this, for good."""
    stop_actor(ray.get_runtime_context().current_actor)
