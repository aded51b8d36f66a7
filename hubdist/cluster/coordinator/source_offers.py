"""Tells the driver's agent which chunks are in the stage that the coordinator writes, so that it sends them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.coordinator.senders import Senders
from hubdist.errors import HubdistError

_LOG = logging.getLogger(__name__)


class SourceOffers:
    """Offers the chunks of a stage while the origin is being read. Owned by the coordinator's event loop.

    One call is under way at a time, with all chunks that came since the last one. A node that asks for a chunk before
    the agent knows it waits there. An agent that has replaced a lost one is offered all chunks again.

    Args:
        name: Name of the delivery.
        payload: The model, as far as it is known.
        source: The driver's node, and what finds a chunk in its stage.
        senders: Are told where the driver's node sends.
        context: What all deliveries share.
    """

    def __init__(
        self, name: str, payload: Payload, source: SeedSource, senders: Senders, context: DeliveryContext
    ) -> None:
        self._name = name
        self._payload = payload
        self._source = source
        self._senders = senders
        self._agents = context.agents
        self._offered = 0
        """How many chunks the agent knows."""
        self._agent: Any = None
        self._started = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to offer, with the chunks that are there.

        Raises:
            HubdistError: The driver's agent cannot be told.
        """
        self._started = True
        await self._offer()
        self.offer_more()

    def offer_more(self) -> None:
        """Offer the chunks that have come since the last call."""
        if self._started and self._offered < len(self._payload.chunks) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._offer_all())

    async def _offer_all(self) -> None:
        try:
            while self._offered < len(self._payload.chunks):
                await self._offer()
        except HubdistError as error:  # a node that waits for the chunks says so, and the agent is told again
            _LOG.info("hubdist: the driver's node was not told which chunks are there: %s", error)

    async def _offer(self) -> None:
        node, staged = self._source.node, self._source.staged
        assert node is not None
        assert staged is not None
        async with self._agents.use(node) as agent:
            if agent is not self._agent:
                self._agent, self._offered = agent, 0
            chunks = self._payload.chunks[self._offered :]
            found = [(chunk, *staged(chunk)) for chunk in chunks]
            stage = found[0][1] if found else None
            described = [(chunk, [paths[piece.entry_index] for piece in chunk.pieces]) for chunk, _, paths in found]
            call = agent.offer.remote(self._name, self._payload.secret, stage, described)
            address = await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
            self._offered += len(chunks)
            self._senders.note_address(node, address)
