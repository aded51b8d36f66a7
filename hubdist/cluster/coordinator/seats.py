"""What a node of a delivery by streams is told of its parents: names, ports and, where needed, agents."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubdist.cluster.agent.messages import Parent, Seat
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.progress import NodeProgress
from hubdist.cluster.coordinator.senders import Senders
from hubdist.cluster.nodes import Node
from hubdist.delivery import StreamPlan
from hubdist.errors import HubdistError, UnknownDeliveryError

_LOG = logging.getLogger(__name__)

_TRIES = 50
_PAUSE_S = 0.2


class Seats:
    """Makes seats for agents of what the plan says. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        plan: Says which node follows which.
        stripes: How many stripes the delivery has.
        nodes: The delivery's nodes by id; nodes come and go while the delivery runs.
        receiving: Returns True for the id of a node that receives the model or is the source: its agent knows the
            delivery, or will know it by itself.
        redacted: Returns the name of a parent for people.
        senders: Knows the ports, and lets nodes send from their snapshots.
        agents: Lends the agents.
    """

    def __init__(
        self,
        name: str,
        plan: StreamPlan,
        stripes: int,
        nodes: Mapping[str, Node],
        *,
        receiving: Callable[[str], bool],
        redacted: Callable[[str], str],
        senders: Senders,
        agents: AgentPool,
    ) -> None:
        self._name = name
        self._plan = plan
        self._stripes = stripes
        self._nodes = nodes
        self._receiving = receiving
        self._redacted = redacted
        self._senders = senders
        self._agents = agents
        self._orders = itertools.count()

    async def find(self, receiver: NodeProgress, stripes: Sequence[int]) -> Seat | None:
        """Return the parents of a node in some stripes, as the plan has them now; None if the plan has no seat for it.

        A parent that is gone is left out: the plan seats the node elsewhere, and the next call says where.

        Args:
            receiver: The node.
            stripes: The stripes.
        """
        seat, order = self._plan.seat(receiver.node.id), next(self._orders)
        if seat is None:
            return None
        found = {stripe: await self._find_parent(receiver, seat.parents[stripe]) for stripe in stripes}
        parents = {stripe: parent for stripe, parent in found.items() if parent is not None}
        receiver.parents.update({stripe: self._redacted(parent.name) for stripe, parent in parents.items()})
        return Seat(parents, self._stripes, order)

    async def tell(self, receiver: NodeProgress, agent: Any, stripes: Sequence[int]) -> None:
        """Tell a node its parents in some stripes; again for some seconds if the node is just about to begin.

        Args:
            receiver: The node.
            agent: The agent of the node.
            stripes: The stripes.

        Raises:
            HubdistError: The node was not told.
        """
        for last in range(1 - _TRIES, 1):
            seat = await self.find(receiver, stripes)
            if seat is None:
                return
            call = agent.follow.remote(self._name, seat)
            try:
                await settle(call, timeout_s=START_TIMEOUT_S, node=receiver.node.name)
                break
            except UnknownDeliveryError:
                if last == 0:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _find_parent(self, receiver: NodeProgress, name: str) -> Parent | None:
        node = self._nodes.get(name)
        if node is None:
            return None
        try:
            async with self._agents.use(node) as agent:
                if not self._receiving(node.id):
                    await self._senders.hold(node, agent)
                address = self._senders.address_of(node)
                is_open = address is not None and address not in receiver.unreached
                return Parent(name, address, None if is_open else self._agents.pickled(agent))
        except HubdistError as error:
            _LOG.info("hubdist: %s does not send: %s", node.name, error)
            return None
