"""A delivery by streams: the coordinator tells each node its parents, and hears from it when it has all, or of trouble.

The source is the driver's node, which has the model or is reading it from its origin.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hubdist.cluster.agent.messages import BrokenStream, News
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.delivery_run import DeliveryRun
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.coordinator.progress import NodeProgress
from hubdist.cluster.coordinator.seats import Seats
from hubdist.cluster.coordinator.stream_source import StreamSource
from hubdist.cluster.nodes import Node
from hubdist.delivery import (
    Finish,
    Follow,
    Newcomer,
    NodeComplete,
    NodeEvent,
    NodeFailed,
    NodeSilent,
    NodesJoined,
    NodeStuck,
    Publish,
    Reseat,
    SourceFailed,
    SourcePublished,
    StreamBroke,
    StreamEvent,
    StreamLags,
    StreamPlan,
    choose_stripes,
)
from hubdist.errors import (
    HubdistError,
    IntegrityError,
    NodeLostError,
    PeerError,
    PortClosedError,
    StoreError,
)
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Manifest

_LOG = logging.getLogger(__name__)

_COHORT_S = 0.05
"""Nodes that join within this many seconds are seated together, which makes the best trees."""

FIRST_NEWS_S = 2.0
MAX_NEWS_S = 30.0
NEWS_SHARE_S = 0.01
"""Least wait of a call for news, for each node that receives: such calls take a tenth of the coordinator's time."""
_UNWANTED = "nobody waits for the node any more"
_LATE_S = 1.0
"""News that is so much later than its call waits owes an answer: the coordinator may be busy with other nodes'."""
_WATCHED_NEWS_S = 0.5
"""How long a call for news waits while somebody watches the progress."""


class StreamRun(DeliveryRun[StreamEvent]):
    """One running delivery by streams. Owned by the coordinator's event loop.

    Args:
        payload: The model, as far as it is known.
        source: The driver's node.
        nodes: How many nodes are expected.
        holders: Other nodes that may have the snapshot.
        context: What all deliveries of the job share.
    """

    _BEGINS_WITH_SEAT = True

    def __init__(
        self, payload: Payload, source: SeedSource, *, nodes: int, holders: Sequence[Node], context: DeliveryContext
    ) -> None:
        super().__init__(payload, source, holders=holders, context=context)
        self._stripes = choose_stripes(nodes, payload.count)
        self._plan = StreamPlan(source.name, stripes=self._stripes, complete=payload.manifest is not None, hand_on=None)
        self._driver = StreamSource(self.name, payload, source, self._senders, context)
        self._expected = nodes
        self._seats = Seats(
            self.name,
            self._plan,
            self._stripes,
            self._nodes,
            receiving=lambda node_id: node_id in self._receivers or node_id == source.name,
            redacted=self._redacted_name,
            senders=self._senders,
            agents=context.agents,
        )
        self._newcomers: list[NodeProgress] = []
        self._failed: HubdistError | None = None
        self._news_due: dict[str, float] = {}
        """Node's id -> when its next news must have come, by the cluster's clock."""
        self._untold: set[str] = set()
        """Ids of nodes that have not taken their seats yet."""
        self._suspects: dict[str, Node] = {}
        """Nodes from which a stream broke."""

    # Events of the origin

    def chunk_ready(self, chunk: Chunk) -> None:
        """Take a further chunk of the origin, which is in the source's stage."""
        self.payload.chunks.append(chunk)
        self._driver.offer_more()

    def published(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Take the manifest: the origin has been read, and nodes may publish.

        Args:
            manifest: The model's manifest.
            ordinals: For each entry of the manifest, the number of its file in the chunks.
        """
        self.payload.manifest = manifest
        self.payload.ordinals = tuple(ordinals)
        self._driver.end_offers()
        if self._prepared is not None:
            self._tasks.start(self._driver.renew())
        self._feed(SourcePublished())

    def fail(self, error: HubdistError) -> None:
        """End the delivery for all nodes with this error: the origin cannot be read."""
        self._failed = error
        for newcomer in self._newcomers:
            self._finish(newcomer.node.id, error)
        self._newcomers.clear()
        self._feed(SourceFailed(error))

    async def _prepare_senders(self) -> None:
        await self._links.keep(self._driver.node)
        await self._driver.renew()
        await super()._prepare_senders()

    # Nodes

    def _owing(self) -> Mapping[str, Node]:
        now = self._context.cluster.clock()
        late = [node_id for node_id, due in self._news_due.items() if due < now]
        suspects = [node_id for node_id in self._suspects if node_id in self._nodes]
        return {node_id: self._nodes[node_id] for node_id in (*late, *suspects) if node_id in self._nodes}

    def _join(self, node: Node) -> None:
        if self._failed is not None:
            self._finish(node.id, self._failed)
            return
        self._newcomers.append(self._receivers[node.id])
        if len(self._nodes) >= self._expected:  # nobody else is to come
            self._seat_newcomers()
        elif len(self._newcomers) == 1:
            asyncio.get_running_loop().call_later(_COHORT_S, self._seat_newcomers)

    def _seat_newcomers(self) -> None:
        newcomers, self._newcomers = self._newcomers, []
        nodes = [each.node for each in newcomers if self._receivers.get(each.node.id) is each and not each.done.done()]
        if nodes:
            self._feed(NodesJoined(tuple(Newcomer(node.id, node.zone, node.link) for node in nodes)))

    # Events and commands of the plan

    def _feed(self, event: StreamEvent | NodeEvent) -> None:
        if isinstance(event, NodeFailed) and any(each.node.id == event.node for each in self._newcomers):
            self._newcomers = [each for each in self._newcomers if each.node.id != event.node]
            self._finish(event.node, event.error)
            return
        if isinstance(event, NodeSilent) and event.node in self._untold:
            event = NodeStuck(event.node)
        for command in self._plan.handle(event):
            match command:
                case Follow(node):
                    receiver = self._receivers[node]
                    self._run(self._stream(receiver), receiver)
                case Reseat(node, stripe):
                    self._tasks.start(self._reseat(self._receivers[node], stripe))
                case Publish() | Finish():
                    self._obey_for_node(command)

    async def _stream(self, receiver: NodeProgress) -> StreamEvent | NodeEvent:
        """Tell a node its parents, and wait until it has all units."""
        node = receiver.node

        async def follow(agent: Any) -> StreamEvent | NodeEvent:
            wait_s = self._news_s(FIRST_NEWS_S)
            if receiver.has_begun:
                await self._seats.tell(receiver, agent, range(self._stripes))
                self._untold.discard(node.id)
                call = agent.wait_for_news.remote(self.name, wait_s)
            else:
                call = await self._receive(receiver, agent, wait_s)
            return await self._hear(receiver, agent, call, wait_s)

        self._untold.add(node.id)
        self._news_due[node.id] = self._context.cluster.clock()
        try:
            return await self._tasks.ask(node, follow, lambda error: NodeFailed(node.id, error))
        finally:
            if self._receivers.get(node.id) is receiver:  # not a later attempt's
                self._untold.discard(node.id)
                self._news_due.pop(node.id, None)

    async def _receive(self, receiver: NodeProgress, agent: Any, wait_s: float) -> Any:
        """Call a node that has not begun: it takes its seat, and answers as to `wait_for_news`."""
        payload = self.payload
        seat = await self._seats.find(receiver, range(self._stripes))
        if seat is None:
            raise PeerError(_UNWANTED)
        return agent.receive.remote(self.name, payload.manifest_to_send, payload.terms, seat, wait_s)

    def _news_s(self, wanted_s: float) -> float:
        """How long a call for news waits, so that the coordinator has time for other work than such calls."""
        return max(min(MAX_NEWS_S, wanted_s), len(self._receivers) * NEWS_SHARE_S)

    async def _hear(self, receiver: NodeProgress, agent: Any, call: Any, wait_s: float) -> StreamEvent | NodeEvent:
        """Wait for news of a node until it has all units.

        Args:
            receiver: The node.
            agent: The node's agent.
            call: The first call that the news answers.
            wait_s: How long it waits in seconds.
        """
        node = receiver.node
        while self._receivers.get(node.id) is receiver:
            self._news_due[node.id] = self._context.cluster.clock() + wait_s + _LATE_S
            # The node may publish before it answers; `NodeWatch` finds one that gives no answer long before this.
            news: News = await settle(call, timeout_s=wait_s + self._context.config.timeout_s, node=node.name)
            self._untold.discard(node.id)
            self._context.liveness.heard(node.id)
            event = await self._take_news(receiver, agent, news)
            if event is not None:
                return event
            wait_s = self._news_s(_WATCHED_NEWS_S if self._context.watching else 2 * wait_s)
            call = agent.wait_for_news.remote(self.name, wait_s)
        return NodeFailed(node.id, PeerError(_UNWANTED))  # which the plan is not told

    async def _take_news(self, receiver: NodeProgress, agent: Any, news: News) -> StreamEvent | NodeEvent | None:
        """Take in what a node tells; return the event that it has all, or failed, and None if it goes on."""
        node = receiver.node
        if news.had_model:
            receiver.had_model = receiver.has_published = True
            try:
                await self._senders.hold(node, agent)
            except HubdistError as error:
                _LOG.info("hubdist: %s does not send what it has: %s", node.name, error)
            return NodeComplete(node.id)
        receiver.arrived_bytes = news.arrived_bytes
        for name, address, why in news.ports_closed:
            receiver.unreached.add(address)
            if name in self._nodes:
                self._context.closed_ports.note(node, self._nodes[name], why)
                receiver.closed_ports.append(self._nodes[name].name)
        for broken in news.broken:
            if isinstance(broken.error, StoreError):
                return NodeFailed(node.id, broken.error)
            await self._note_broken(receiver, broken)
        if news.is_complete:
            received = tuple((self._redacted_name(name), size) for name, size in news.received)
            receiver.note_streams(received, news.marks)
            receiver.has_published = news.is_published
            return NodeComplete(node.id)
        for slow in news.slow:
            if self._receivers.get(node.id) is receiver:
                self._feed(StreamLags(node.id, slow.stripe, slow.parent))
        return None

    async def _note_broken(self, receiver: NodeProgress, broken: BrokenStream) -> None:
        node, parent = receiver.node, self._nodes.get(broken.parent)
        is_closed = isinstance(broken.error, PortClosedError)
        if not is_closed:
            receiver.note_failure(refused=isinstance(broken.error, IntegrityError))
            text = "hubdist: stripe %d did not go on to %s from %s: %s"
            _LOG.warning(text, broken.stripe, node.name, self._redacted_name(broken.parent), broken.error)
        if parent is not None and parent == self._driver.node:
            await self._driver.check()
        elif parent is not None:
            self._suspects[parent.id] = parent
        if self._receivers.get(node.id) is not receiver:
            return
        if is_closed:  # the node was told no agent of the parent's; now it is
            self._tasks.start(self._reseat(receiver, broken.stripe))
        else:
            self._feed(StreamBroke(node.id, broken.stripe, broken.parent, broken.next_unit, broken.error))

    async def _reseat(self, receiver: NodeProgress, stripe: int) -> None:
        node = receiver.node
        try:
            async with self._agents.use(node) as agent:
                await self._seats.tell(receiver, agent, [stripe])
        except HubdistError as error:
            _LOG.info("hubdist: %s was not told a new parent: %s", node.name, error)
            if isinstance(error, NodeLostError) and self._receivers.get(node.id) is receiver:
                self._feed(NodeFailed(node.id, error))
