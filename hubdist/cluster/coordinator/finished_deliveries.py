"""Lets agents forget the deliveries that have ended: nobody waits for that but the next delivery to the same node."""

from __future__ import annotations

import asyncio
import contextlib

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError

_FORGET_TIMEOUT_S = 15.0


class FinishedDeliveries:
    """Knows which agents have not been told of which ends. Owned by the coordinator's event loop.

    A snapshot that an agent still holds for an ended delivery cannot be evicted, and the next model may need its room.

    Args:
        agents: Lends the agents.
    """

    def __init__(self, agents: AgentPool) -> None:
        self._agents = agents
        self._untold: dict[str, set[str]] = {}
        """Node's id -> names of deliveries."""
        self._telling: dict[str, asyncio.Task[None]] = {}

    def note(self, node: Node, delivery: str) -> None:
        """Note that a node's agent is to forget a delivery; `tell` tells it.

        Args:
            node: The node.
            delivery: Name of the delivery.
        """
        self._untold.setdefault(node.id, set()).add(delivery)

    async def tell(self, node: Node) -> None:
        """Return when a node's agent has forgotten all that has ended, in one call. An agent that is gone has."""
        while node.id in self._telling or node.id in self._untold:
            task = self._telling.get(node.id)
            if task is None:
                task = self._telling[node.id] = asyncio.create_task(self._tell(node))
            await asyncio.shield(task)

    async def _tell(self, node: Node) -> None:
        try:
            names = self._untold.pop(node.id)
            if self._agents.runs(node):
                async with self._agents.use(node) as agent:
                    with contextlib.suppress(HubdistError):  # it is ended anyway once it has no work
                        await settle(agent.forget.remote(*names), timeout_s=_FORGET_TIMEOUT_S, node=node.name)
        finally:
            del self._telling[node.id]
