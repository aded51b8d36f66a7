"""The nodes of one delivery that send: where they do, and which of them have been told to send from a snapshot."""

from __future__ import annotations

from typing import Any

from hubdist.cluster.agent.messages import Ready
from hubdist.cluster.agent.node_port import Address
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S
from hubdist.cluster.coordinator.concurrency import SingleFlight
from hubdist.cluster.coordinator.payload import Payload
from hubdist.cluster.nodes import Node
from hubdist.remote.snapshot_copy import RemoteCopy


class Senders:
    """Knows where the nodes of one delivery send. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        payload: The model, as far as it is known.
    """

    def __init__(self, name: str, payload: Payload) -> None:
        self._name = name
        self._payload = payload
        self._work = SingleFlight()
        self._holding: dict[str, Any] = {}
        """Node's id -> the agent that was told to send from the node's snapshot."""
        self._addresses: dict[str, Address | None] = {}

    def address_of(self, node: Node) -> Address | None:
        """Where a node sends; None if it has no port."""
        return self._addresses.get(node.id)

    def note_address(self, node: Node, address: Address | None) -> None:
        """Note where a node sends.

        Args:
            node: The node.
            address: Its port; None for a node without one.
        """
        self._addresses[node.id] = address

    async def begin(self, node: Node, agent: Any, copy: RemoteCopy | None) -> Ready:
        """Let a node make ready to receive.

        Args:
            node: The node.
            agent: The agent of the node.
            copy: The remote directory that the node reads chunks from; None if agents send all chunks.

        Raises:
            NodeLostError, TransferTimeoutError: The agent gives no answer.
            HubdistError: The node cannot receive.
        """
        payload = self._payload
        call = agent.begin.remote(self._name, payload.manifest_to_send, payload.terms, copy)
        ready: Ready = await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
        if not ready.has_model:
            self._addresses[node.id] = ready.address
        return ready

    async def hold(self, node: Node, agent: Any) -> None:
        """Make sure that a node's agent sends from the node's snapshot. Calls for one node at a time share the work.

        Args:
            node: The node.
            agent: The agent of the node.

        Raises:
            IntegrityError: The node does not have the snapshot.
            NodeLostError, TransferTimeoutError: The agent gives no answer.
        """
        await self._work.run(node.id, lambda: self._hold(node, agent))

    def note_holder(self, node: Node, agent: Any) -> None:
        """Note that a node has published: its agent sends from the snapshot from now on.

        Args:
            node: The node.
            agent: The agent that published.
        """
        self._holding[node.id] = agent

    def lose(self, node_id: str) -> None:
        """Forget a node that takes no part any more."""
        self._holding.pop(node_id, None)
        self._addresses.pop(node_id, None)

    async def _hold(self, node: Node, agent: Any) -> None:
        if self._holding.get(node.id) is agent:
            return
        payload = self._payload
        cut = payload.chunks if payload.chunk_bytes is None else payload.chunk_bytes
        call = agent.hold.remote(self._name, payload.secret, payload.digest, payload.ordinals, cut)
        self._addresses[node.id] = await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
        self._holding[node.id] = agent
