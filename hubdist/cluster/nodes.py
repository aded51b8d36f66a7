"""The nodes of the cluster: which are alive, which is the driver's node, and what this process is to its job."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hubdist.errors import ConfigError, PeerError
from hubdist.system.log_once import LogOnce

LINK_LABEL = "hubdist.io/link"
_ONCE = LogOnce(logging.getLogger(__name__))


class ProcessRole(enum.Enum):
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
        zone: The node's rack or zone, as far as Ray's labels tell; nodes prefer to get bytes from the same one. Empty
            if unknown.
        link: Bytes per second of the node's link, by the label `hubdist.io/link`; None if nobody has said it.
    """

    id: str
    name: str
    address: str
    is_head: bool
    zone: str = ""
    link: float | None = None


def process_role() -> ProcessRole:
    """What this process is."""
    import ray
    from ray.util import client as ray_client

    if ray_client.ray.is_connected():
        return ProcessRole.OUTSIDE
    in_task = ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    return ProcessRole.TASK if in_task else ProcessRole.DRIVER


def alive_nodes() -> list[Node]:
    """The nodes that are alive now, the head first.

    Raises:
        PeerError: The cluster could not be asked.
    """
    import ray.exceptions

    try:
        infos = ray.nodes()
    except ray.exceptions.RayError as error:
        raise PeerError(f"the cluster could not be asked for its nodes: {type(error).__name__}") from error
    nodes = [
        Node(
            id=info["NodeID"],
            name=f"{info['NodeManagerAddress']}/{info['NodeID'][:8]}",
            address=info["NodeManagerAddress"],
            is_head="node:__internal_head__" in info["Resources"],
            zone=zone_of(info.get("Labels") or {}),
            link=link_of(info.get("Labels") or {}),
        )
        for info in infos
        if info["Alive"]
    ]
    return sorted(nodes, key=lambda node: (not node.is_head, node.id))


def zone_of(labels: Mapping[str, str]) -> str:
    """The rack that a node's labels name, otherwise the zone; the region alone is too wide to matter."""
    racks = [value for key, value in sorted(labels.items()) if key.rpartition("/")[2] == "rack"]
    return next(iter(racks), labels.get("ray.io/availability-zone", ""))


def link_of(labels: Mapping[str, str]) -> float | None:
    """Bytes per second of the link that a node's labels name; None if none does, or it is not a rate."""
    text = labels.get(LINK_LABEL)
    if text is None:
        return None
    from hubdist.config.amounts import parse_link  # loads pydantic, which few processes need for this

    try:
        return parse_link(text)
    except ConfigError as error:
        _ONCE.log(text, "hubdist: the label %s of a node is ignored: %s", LINK_LABEL, error)
        return None


def choose_nodes(alive: list[Node], wanted: list[str] | None) -> list[Node]:
    """The nodes that a user names.

    Args:
        alive: The nodes that are alive.
        wanted: Ids, names or addresses of nodes; None means all that are alive.

    Raises:
        ConfigError: A name belongs to no node that is alive.
    """
    if wanted is None:
        return alive
    chosen = [node for node in alive if {node.id, node.name, node.address} & set(wanted)]
    known = {key for node in chosen for key in (node.id, node.name, node.address)}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise ConfigError(
            f"no node that is alive has the id, name or address {', '.join(unknown)}",
            advice=f"Alive are: {', '.join(node.name for node in alive)}.",
        )
    return chosen


def driver_node(nodes: list[Node], here: ProcessRole) -> Node:
    """The node whose disk and credentials are the driver's; the head node where no node has a driver.

    No node has one with Serve, with a Ray Client, and once the driver has ended.

    Args:
        nodes: The nodes that are alive, the head first.
        here: What this process is to its job.
    """
    import ray

    if here is ProcessRole.OUTSIDE:
        return nodes[0]
    own = ray.get_runtime_context().get_node_id()
    if here is ProcessRole.DRIVER:
        return next((node for node in nodes if node.id == own), nodes[0])
    address = _driver_address()
    at_driver = [node for node in nodes if node.address == address]
    # Several nodes at the driver's address are one machine: the head, else this one, shares its disk.
    return next((node for node in at_driver if node.is_head or node.id == own), (at_driver or nodes)[0])


def job_is_over(job_id: str) -> bool:
    """True if the driver of a job has ended. Detached actors of the job may still live."""
    return any(job["JobID"] == job_id and job["IsDead"] for job in _jobs())


def _driver_address() -> str | None:
    """The address of this job's driver, or None if it has ended or cannot be told."""
    import ray

    job_id = ray.get_runtime_context().get_job_id()
    for job in _jobs():
        if job["JobID"] == job_id and not job["IsDead"]:
            return str(job["DriverIPAddress"])
    return None


def _jobs() -> list[dict[str, Any]]:
    from ray._private.state import jobs  # the job table has no public way that works without the dashboard

    return list(jobs())


class ClusterView:
    """Tells which nodes are alive. The coordinator makes one and hands it to all its parts.

    Args:
        list_nodes: Lists the nodes that are alive; may block, and may be called in any thread.
        clock: Tells the time in seconds.
    """

    def __init__(
        self, list_nodes: Callable[[], list[Node]] = alive_nodes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.list_nodes = list_nodes
        self.clock = clock

    async def alive(self) -> list[Node]:
        """Return the nodes that are alive now, without blocking the event loop.

        Raises:
            PeerError: The cluster gives no answer.
        """
        return await asyncio.to_thread(self.list_nodes)

    async def alive_ids(self) -> set[str]:
        """Return the ids of the nodes that are alive now.

        Raises:
            PeerError: The cluster gives no answer.
        """
        return {node.id for node in await self.alive()}
