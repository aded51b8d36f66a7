"""The driver's node as the source of a delivery by streams: what its agent sends while the origin is read, and then."""

from __future__ import annotations

import logging

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S
from hubdist.cluster.coordinator.concurrency import SingleFlight
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.coordinator.senders import Senders
from hubdist.cluster.coordinator.source_offers import SourceOffers
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError

_LOG = logging.getLogger(__name__)


class StreamSource:
    """Lets the agent of the driver's node send. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        payload: The model, as far as it is known.
        source: The driver's node.
        senders: Lets nodes send from their snapshots.
        context: What all deliveries share.
    """

    def __init__(
        self, name: str, payload: Payload, source: SeedSource, senders: Senders, context: DeliveryContext
    ) -> None:
        assert source.node is not None
        self._node = source.node
        self._senders = senders
        self._agents = context.agents
        self._offers = None if source.staged is None else SourceOffers(name, payload, source, senders, context)
        self._checks = SingleFlight()

    @property
    def node(self) -> Node:
        """The driver's node."""
        return self._node

    def offer_more(self) -> None:
        """Offer the chunks that have come since the last call, if the origin is being read."""
        if self._offers is not None:
            self._offers.offer_more()

    def end_offers(self) -> None:
        """Note that the origin has been read: from the next call of `renew` on the agent sends from the snapshot."""
        self._offers = None

    async def renew(self) -> None:
        """Let the driver's agent send what there is; one that has replaced a lost agent knows nothing yet."""
        try:
            if self._offers is not None:
                await self._offers.start()
                return
            async with self._agents.use(self._node) as agent:
                await self._senders.hold(self._node, agent)
        except HubdistError as error:
            _LOG.info("hubdist: the driver's node does not send: %s", error)

    async def check(self) -> None:
        """Replace the driver's agent if it is gone, and let the new one send; calls at a time share the work."""

        async def work() -> None:
            try:
                await self._agents.call(self._node, "answer", timeout_s=START_TIMEOUT_S)
            except HubdistError as error:
                _LOG.warning("hubdist: the agent of the driver's node cannot be asked: %s", error)
            else:
                await self.renew()

        await self._checks.run("source", work)
