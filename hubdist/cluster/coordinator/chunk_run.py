"""A delivery from a remote directory: nodes read its chunks together, each a share, and send them to each other.

The coordinator names for each chunk the node, or the directory, from which another node fetches the chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.cluster.coordinator.delivery_run import DeliveryRun
from hubdist.cluster.coordinator.fetches import Fetches
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.nodes import Node
from hubdist.delivery import (
    ChunkArrived,
    ChunkFailed,
    Command,
    DeliveryPlan,
    Event,
    Fetch,
    NodeEvent,
    NodeFailed,
    NodeJoined,
)
from hubdist.errors import HubdistError, IntegrityError, NodeLostError, StoreError

_LOG = logging.getLogger(__name__)


class ChunkRun(DeliveryRun[Event]):
    """One running delivery by chunks. Owned by the coordinator's event loop.

    Args:
        payload: The model.
        source: The remote directory.
        chunk_bytes: Size of the largest chunk.
        nodes: How many nodes are expected.
        holders: Nodes that may have the snapshot.
        context: What all deliveries of the job share.
    """

    def __init__(
        self,
        payload: Payload,
        source: SeedSource,
        *,
        chunk_bytes: int,
        nodes: int,
        holders: Sequence[Node],
        context: DeliveryContext,
    ) -> None:
        super().__init__(payload, source, holders=holders, context=context)
        self._plan = DeliveryPlan(
            [chunk.size for chunk in payload.chunks],
            source=source.name,
            nodes=nodes,
            node_window_bytes=context.config.max_in_flight_bytes,
            source_window_bytes=context.config.max_in_flight_bytes,
            largest_bytes=chunk_bytes,
            is_remote=True,
        )
        self._fetches = Fetches(
            self.name,
            source,
            self._senders,
            self._nodes,
            self._silent,
            receives=self._receivers.__contains__,
            context=context,
        )

    def _owing(self) -> Mapping[str, Node]:
        return self._fetches.owing

    async def _stop_waiting_for(self, node: Node) -> None:
        await self._fetches.stop_waiting_for(node)

    def _join(self, node: Node) -> None:
        self._feed(NodeJoined(node.id))

    def _feed(self, event: Event | NodeEvent) -> None:
        self._note(event)
        for command in self._plan.handle(event):
            self._obey(command)

    def _note(self, event: Event) -> None:
        """Remember for the node's report what happened."""
        if isinstance(event, ChunkArrived) and event.node in self._receivers:
            size = self.payload.chunks[event.chunk].size
            self._receivers[event.node].note_arrival(size, self._redacted_name(event.sender))
        elif isinstance(event, ChunkFailed) and event.node in self._receivers:
            receiver = self._receivers[event.node]
            receiver.note_failure(refused=isinstance(event.error, IntegrityError))
            _LOG.warning(
                "hubdist: chunk %d did not reach %s from %s: %s",
                event.chunk,
                receiver.node.name,
                self._redacted_name(event.sender),
                event.error,
            )

    def _obey(self, command: Command) -> None:
        if isinstance(command, Fetch):
            receiver = self._receivers[command.node]
            self._run(self._fetch(receiver.node, command), receiver)
        else:
            self._obey_for_node(command)

    async def _fetch(self, node: Node, command: Fetch) -> Event:
        chunk = self.payload.chunks[command.chunk]

        async def fetch(agent: Any) -> Event:
            fetched = await self._fetches.fetch(chunk, command.sender, node, agent)
            if fetched.reused_bytes and node.id in self._receivers:
                self._receivers[node.id].note_reused(fetched.reused_bytes, self._redacted_name(command.sender))
            return ChunkArrived(node.id, command.chunk, command.sender, fetched.seconds)

        def failed(error: HubdistError) -> Event:
            if isinstance(error, (NodeLostError, StoreError)):
                return NodeFailed(node.id, error)
            return ChunkFailed(node.id, command.chunk, command.sender, error)

        return await self._tasks.ask(node, fetch, failed)
