"""Tells the driver's agent which chunks are in the stage that the coordinator writes, so that it sends them."""

from __future__ import annotations

import asyncio
import logging

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S
from hubdist.cluster.coordinator.fetches import Fetches
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.errors import HubdistError
from hubdist.model.chunks import Chunk

_LOG = logging.getLogger(__name__)


class SourceOffers:
    """Offers the chunks of a stage while the origin is being read. Owned by the coordinator's event loop.

    One call is under way at a time, with all chunks that came since the last one. A node that asks for a chunk before
    the agent knows it waits at the agent's port.

    Args:
        name: Name of the delivery.
        payload: The model, as far as it is known.
        source: The driver's node, and what finds a chunk in its stage.
        fetches: Is told where the driver's node sends chunks.
        context: What all deliveries share.
    """

    def __init__(
        self, name: str, payload: Payload, source: SeedSource, fetches: Fetches, context: DeliveryContext
    ) -> None:
        self._name = name
        self._payload = payload
        self._source = source
        self._fetches = fetches
        self._agents = context.agents
        self._waiting: list[Chunk] = []
        self._started = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to offer, with the chunks that are there; without a port nothing is offered."""
        if await self._offer([]):
            self._started = True
            self._offer_more()

    def add(self, chunk: Chunk) -> None:
        """Offer a further chunk."""
        self._waiting.append(chunk)
        self._offer_more()

    async def publish(self) -> None:
        """Let the agent send from the snapshot that the stage has become."""
        node = self._source.node
        if node is None or not self._started:
            return
        try:
            async with self._agents.use(node) as agent:
                await self._fetches.hold(node, agent)
        except HubdistError as error:
            _LOG.info("hubdist: the driver's node does not send by its port any more: %s", error)

    def _offer_more(self) -> None:
        if self._started and self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._offer_all())

    async def _offer_all(self) -> None:
        while self._waiting:
            chunks, self._waiting = self._waiting, []
            if not await self._offer(chunks):
                return

    async def _offer(self, chunks: list[Chunk]) -> bool:
        """Call the agent; False if it cannot be told, or has no port: then chunks go by calls of Ray."""
        node, staged = self._source.node, self._source.staged
        assert node is not None
        assert staged is not None
        found = [(chunk, *staged(chunk)) for chunk in chunks]
        stage = found[0][1] if found else None
        described = [(chunk, [paths[piece.entry_index] for piece in chunk.pieces]) for chunk, _, paths in found]
        try:
            async with self._agents.use(node) as agent:
                call = agent.offer.remote(self._name, self._payload.secret, stage, described)
                address = await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
        except HubdistError as error:
            _LOG.info("hubdist: the driver's node does not send by its port: %s", error)
            address = None
        self._fetches.note_address(node, address)
        return address is not None
