"""Carries out the plan of one delivery by streams: tells agents their parents, and waits for what they have to say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from hubdist.cluster.agent.node_streams import News, Parent
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S
from hubdist.cluster.coordinator.delivery_run import DeliveryRun
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.coordinator.progress import NodeProgress
from hubdist.cluster.nodes import Node
from hubdist.delivery import (
    Command,
    Event,
    Finish,
    Follow,
    Newcomer,
    NodeComplete,
    NodeFailed,
    NodesJoined,
    Publish,
    Reseat,
    StreamBroke,
    StreamPlan,
    choose_stripes,
)
from hubdist.errors import HubdistError, IntegrityError, NodeLostError, StoreError
from hubdist.model.chunks import Chunk

_LOG = logging.getLogger(__name__)

_COHORT_S = 0.05
"""Nodes that join within so many seconds are seated together, which makes the best trees."""

_FIRST_NEWS_S = 2.0
_MAX_NEWS_S = 60.0
_MARGIN_S = 15.0


class StreamRun(DeliveryRun):
    """One running delivery by streams. Owned by the coordinator's event loop.

    Args:
        payload: The model, as far as it is known.
        source: The driver's node, where the units come from.
        nodes: How many nodes are expected.
        holders: Other nodes that may have the snapshot.
        context: What all deliveries of the job share.
    """

    def __init__(
        self, payload: Payload, source: SeedSource, *, nodes: int, holders: Sequence[Node], context: DeliveryContext
    ) -> None:
        super().__init__(payload, source, chunk_bytes=1 << 20, nodes=1, holders=holders, context=context)
        self._stripes = choose_stripes(nodes, payload.count)
        self._streams = StreamPlan(
            source.name, stripes=self._stripes, complete=payload.manifest is not None, hand_on=None
        )
        self._newcomers: list[Node] = []
        self._news: dict[str, News] = {}

    def _join(self, node: Node) -> None:
        self._newcomers.append(node)
        if len(self._newcomers) == 1:
            asyncio.get_running_loop().call_later(_COHORT_S, self._seat_newcomers)

    def _seat_newcomers(self) -> None:
        nodes, self._newcomers = self._newcomers, []
        here = [node for node in nodes if node.id in self._receivers]
        if here:
            self._feed(NodesJoined(tuple(Newcomer(node.id) for node in here)))

    def _note_ready(self, chunk: Chunk) -> None:
        """Streams lengthen by themselves."""

    async def _prepare_senders(self) -> None:
        await super()._prepare_senders()
        node = self._source.node
        if node is not None and self.payload.manifest is not None:
            async with self._agents.use(node) as agent:
                await self._fetches.hold(node, agent)

    def _feed(self, event: Event) -> None:
        for command in self._streams.handle(event):  # type: ignore[arg-type]
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Follow(node, parents):
                receiver = self._receivers[node]
                self._run(self._stream(receiver, dict(enumerate(parents))), receiver)
            case Reseat(node, stripe, parent):
                receiver = self._receivers[node]
                self._start(self._reseat(receiver, stripe, parent))
            case Publish(node):
                self._run(self._publish(self._receivers[node].node), self._receivers[node])
            case Finish(node, error):
                self._finish(node, error)

    async def _parent(self, name: str) -> Parent:
        node = self._nodes.get(name)
        if node is None:
            return Parent(name, b"", None)
        async with self._agents.use(node) as agent:
            return Parent(name, self._agents.pickled(agent), self._fetches.address_of(node))

    async def _stream(self, receiver: NodeProgress, parents: dict[int, str]) -> Event:
        node = receiver.node

        async def follow(agent: Any) -> Event:
            seat = {stripe: await self._parent(name) for stripe, name in parents.items()}
            call = agent.follow.remote(self.name, seat, self._stripes)
            await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
            wait_s = _FIRST_NEWS_S
            while True:
                call = agent.wait_for_news.remote(self.name, wait_s)
                news: News = await settle(call, timeout_s=wait_s + _MARGIN_S, node=node.name)
                self._context.liveness.heard(node.id)
                wait_s = min(2 * wait_s, _MAX_NEWS_S)
                receiver.arrived_bytes = news.arrived_bytes
                for name, why in news.ports_closed:
                    if name in self._nodes:
                        self._fetches.log_closed(node, self._nodes[name], why)
                for broken in news.broken:
                    if isinstance(broken.error, StoreError):
                        return NodeFailed(node.id, broken.error)
                    receiver.note_failure(refused=isinstance(broken.error, IntegrityError))
                    _LOG.warning(
                        "hubdist: stripe %d did not go on to %s from %s: %s",
                        broken.stripe,
                        node.name,
                        self._redacted_name(broken.parent),
                        broken.error,
                    )
                    if self._receivers.get(node.id) is receiver:
                        self._feed(StreamBroke(node.id, broken.stripe, broken.parent, broken.next_unit, broken.error))
                if news.is_complete:
                    receiver.note_streams(
                        tuple((self._redacted_name(name), size) for name, size in news.received), news.marks
                    )
                    return NodeComplete(node.id)

        return await self._ask(node, follow, lambda error: NodeFailed(node.id, error))

    async def _reseat(self, receiver: NodeProgress, stripe: int, parent: str) -> None:
        node = receiver.node
        try:
            async with self._agents.use(node) as agent:
                seat = {stripe: await self._parent(parent)}
                call = agent.follow.remote(self.name, seat, self._stripes)
                await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
        except HubdistError as error:
            _LOG.info("hubdist: %s was not told a new parent: %s", node.name, error)
            if isinstance(error, NodeLostError) and self._receivers.get(node.id) is receiver:
                self._feed(NodeFailed(node.id, error))
