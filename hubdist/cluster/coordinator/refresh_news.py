"""Tells all nodes that the job has refreshed a handle, so that their processes ask again for what they remember."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.cluster.refresh_marks import grow_mark
from hubdist.errors import HubdistError

_LOG = logging.getLogger(__name__)


async def tell_nodes(agents: AgentPool, cluster: ClusterView, here: Node, *, root: Path, scope: str) -> tuple[str, ...]:
    """Let every process ask again for what it remembers; returns the names of the nodes that could not be told.

    Args:
        agents: Calls the agents of the other nodes.
        cluster: Tells which nodes are alive.
        here: The driver's node.
        root: The directory that is configured as the store of the driver's node.
        scope: Names the job.

    Raises:
        PeerError: The cluster gives no answer.
    """

    async def tell(node: Node) -> str | None:
        try:
            await agents.call(node, "note_refresh", scope, timeout_s=START_TIMEOUT_S)
        except HubdistError as error:
            _LOG.warning("hubdist: %s was not told of a refreshed handle: %s", node.name, error)
            return node.name
        return None

    others = [node for node in await cluster.alive() if node.id != here.id]
    _, *told = await asyncio.gather(asyncio.to_thread(grow_mark, root, scope), *(tell(node) for node in others))
    alive = {node.name for node in await cluster.alive()}
    return tuple(name for name in told if name in alive)
