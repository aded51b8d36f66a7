"""Nodes that share a store: their home is on a network file system, or they are on one machine.

Nothing is sent to a node that sees another node's store: it waits until that node has the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.concurrency import SingleFlight
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.liveness import DEFAULT_TIMES, Liveness, LivenessTimes
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport
from hubdist.store.nonces import Nonces

_DRIVERS = "the driver's"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was found out about a node.

    Attributes:
        node: The node.
        store: The name of the node's store: `_DRIVERS`, or the first nonce that a node has shown there.
        losses: How many of the node's agents had been lost when the node was asked.
    """

    node: Node
    store: str
    losses: int


class StoreGroups:
    """Finds out, with nonces, which nodes share a store. Owned by the coordinator's event loop.

    A store does not move, so a node's answer is kept until an agent of that node is lost.

    Args:
        node: The driver's node.
        agents: Calls the agents of nodes.
        nonces: The nonces of the driver's store.
        cluster: Tells which nodes are alive.
    """

    def __init__(self, node: Node, agents: AgentPool, nonces: Nonces, cluster: ClusterView) -> None:
        self._node = node
        self._agents = agents
        self._cluster = cluster
        self._nonces = nonces
        self._work = SingleFlight()
        self._answers: dict[str, _Answer] = {}
        """Node's id -> what was found out; the node that was asked first comes first."""
        self._shown: list[str] = []
        """Nonces that nodes have shown: one for each store that is known, and one for each node that is being asked."""

    async def first(self, node: Node) -> Node:
        """Return the node that receives for all nodes that share this node's store.

        That is the node itself if no other living node shares its store.

        Raises:
            NodeLostError, TransferTimeoutError: The node could not be asked.
        """
        if node.id == self._node.id:
            return node
        answer = self._answers.get(node.id)
        if answer is None or answer.losses != self._agents.losses[node.id]:
            answer = await self._work.run(node.id, lambda: self._ask(node))
        if answer.store == _DRIVERS:
            return self._node
        others = [other for other in self._answers.values() if other.store == answer.store]
        if len(others) > 1:
            alive = await self._cluster.alive_ids()
            others = [other for other in others if other.node.id in alive]
        return next((other.node for other in others), node)

    def reason(self, first: Node) -> str:
        """Return why a node is sent nothing, as a clause for logs and reports.

        Args:
            first: The other node, which receives for this one.
        """
        return f"it shares {_DRIVERS} store" if first.id == self._node.id else f"it shares the store of {first.name}"

    async def _ask(self, node: Node) -> _Answer:
        losses = self._agents.losses[node.id]
        store = await self._find(node)
        self._answers[node.id] = _Answer(node, store, losses)  # keeps its place in the dict: the first stays first
        return self._answers[node.id]

    async def _find(self, node: Node) -> str:
        nonce = await asyncio.to_thread(self._nonces.show)
        if nonce is not None:
            try:
                if await self._call(node, "find_nonce", [nonce]) is not None:
                    return _DRIVERS
            finally:
                await asyncio.to_thread(self._nonces.hide, nonce)
        own = await self._call(node, "show_nonce")
        if own is None:
            return node.id
        # Of two nodes that are asked at the same time, the one whose nonce is noted later finds the other's nonce.
        earlier = list(self._shown)
        self._shown.append(own)
        found = await self._call(node, "find_nonce", earlier) if earlier else None
        if found is None:
            return own
        self._shown.remove(own)
        return found

    async def _call(self, node: Node, method: str, *args: list[str]) -> str | None:
        answer: str | None = await self._agents.call(node, method, *args, timeout_s=START_TIMEOUT_S)
        return answer


class StoreSharing:
    """Waits for models in shared stores. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        stores: Tells which nodes see the same store.
        snapshots: The driver's store.
        probes: Asks nodes what their stores have.
        liveness: Tells which nodes give no answer.
        times: How often to look whether a node still answers.
    """

    def __init__(
        self,
        node: Node,
        stores: StoreGroups,
        snapshots: DriverSnapshots,
        probes: Probes,
        liveness: Liveness,
        *,
        times: LivenessTimes = DEFAULT_TIMES,
    ) -> None:
        self._node = node
        self._stores = stores
        self._snapshots = snapshots
        self._probes = probes
        self._liveness = liveness
        self._look_s = times.look_s

    async def wait_for(
        self, digest: Digest, node: Node, send: Callable[[Node], Coroutine[Any, Any, NodeReport]]
    ) -> str | None:
        """Wait until a node that shares this one's store has a model.

        Args:
            digest: The model.
            node: The node that needs the model.
            send: Brings the model to the other node. It never waits for a shared store, so nodes cannot wait for each
                other in a circle.

        Returns:
            Why the node has the model now, as a clause; None if it has to get the model itself.

        Raises:
            NodeLostError: The node is gone.
            TransferTimeoutError: The node gives no answer.
        """
        first = await self._stores.first(node)
        if first.id == node.id:
            return None
        if not await self._probes.holds(node, digest):
            if first.id != self._node.id or await self._snapshots.find(digest) is None:
                report = await self._while_answering(first, send(first))
                if report is None or report.error is not None:
                    return None
            # A network file system may show the node an old directory, so the node has to look anew.
            if not await self._probes.look_again(node, digest):
                return None
        return self._stores.reason(first)

    async def _while_answering(self, first: Node, work: Coroutine[Any, Any, NodeReport]) -> NodeReport | None:
        """The report of a delivery to another node; None as soon as that node gives no answer."""
        task = asyncio.create_task(work)
        while not (await asyncio.wait([task], timeout=self._look_s))[0]:
            if self._liveness.is_silent(first):
                _LOG.warning("hubdist: %s gives no answer; nodes that share its store do not wait for it", first.name)
                return None  # the delivery goes on, and reports its end
        return task.result()
