"""One running delivery: nodes begin, receive, publish and leave, whatever plan says who sends what to whom.

The coordinator tells agents what to do; the bytes go from agent to agent, and never through the coordinator.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import AGENT_TRIES
from hubdist.cluster.coordinator.agent_tasks import AgentTasks
from hubdist.cluster.coordinator.concurrency import SingleFlight
from hubdist.cluster.coordinator.node_links import NodeLinks, NodeWatch
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource
from hubdist.cluster.coordinator.progress import DeliveryStats, NodeProgress
from hubdist.cluster.coordinator.senders import Senders
from hubdist.cluster.nodes import Node
from hubdist.delivery import (
    Finish,
    HolderJoined,
    NodeEvent,
    NodeFailed,
    NodeHeard,
    NodePublished,
    NodeSilent,
    Publish,
)
from hubdist.errors import HubdistError, NodeLostError
from hubdist.report.delivery import OWN_STORE

_LOG = logging.getLogger(__name__)

_HOLDERS_S = 5.0
"""How long to wait for nodes that have the model, so that the source does not send what they can send."""

_MAX_HOLDERS = 8

EventT = TypeVar("EventT")
"""The events of the plan that a delivery has, besides `NodeEvent`."""


class DeliveryRun(abc.ABC, Generic[EventT]):
    """One running delivery of one model. Owned by the coordinator's event loop.

    Args:
        payload: The model, as far as it is known.
        source: Where the bytes first come from.
        holders: Other nodes that may have the snapshot.
        context: What all deliveries of the job share.
    """

    _BEGINS_WITH_SEAT = False
    """True if a node whose port is known already need not begin before it joins the plan."""

    def __init__(
        self, payload: Payload, source: SeedSource, *, holders: Sequence[Node], context: DeliveryContext
    ) -> None:
        self.name = secrets.token_hex(8)
        self.payload = payload
        self.ended = False
        self._source = source
        self._context = context
        self._agents = context.agents
        self._nodes: dict[str, Node] = {} if source.node is None else {source.node.id: source.node}
        self._receivers: dict[str, NodeProgress] = {}
        self._silent: dict[str, Node] = {}
        self._senders = Senders(self.name, payload)
        self._links = NodeLinks(self.name, context.agents, context.ended)
        self._watch = NodeWatch(
            self._nodes,
            self._silent,
            self._owing,
            context,
            lost=self._give_up,
            silent=self._note_silent,
            heard=self._note_heard,
        )
        self._tasks = AgentTasks(context.agents)
        self._work = SingleFlight()
        self._users = 0
        self._holders = list(holders)
        self._prepared: asyncio.Task[None] | None = None

    # What each kind of delivery does in its own way

    @abc.abstractmethod
    def _feed(self, event: EventT | NodeEvent) -> None:
        """Tell the plan what happened, and carry out what the plan says."""

    @abc.abstractmethod
    def _join(self, node: Node) -> None:
        """Let a node join the plan."""

    @abc.abstractmethod
    def _owing(self) -> Mapping[str, Node]:
        """Id -> node that owes an answer; such nodes are asked whether they live when they are quiet."""

    async def _stop_waiting_for(self, node: Node) -> None:
        """Let nobody wait for a node that gives no answer."""

    # Users

    @property
    def began_early(self) -> bool:
        """True if the delivery began while the origin was being read."""
        return self._source.staged is not None

    @property
    def receivers(self) -> tuple[NodeProgress, ...]:
        """The nodes that receive the model now."""
        return tuple(self._receivers.values())

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        """Keep the delivery from ending while the block runs; the last user to leave ends the delivery."""
        self._users += 1
        self._watch.start()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self.ended = True
                self._watch.stop()
                await self._links.release(self._source.node)

    # Nodes

    async def receive(self, node: Node) -> DeliveryStats | None:
        """Let a node receive the model, and return when the node has published it.

        Calls for the same node at the same time share one run. An agent that is lost while its node is alive (a
        process can be killed for its memory, a call that starts it can get lost) is replaced, and the node begins anew.

        Returns:
            None if the node's store had the model.

        Raises:
            HubdistError: Why the node could not get the model, with the node's name.
        """
        return await self._work.run(node.id, lambda: self._receive_by_new_agents(node))

    async def _receive_by_new_agents(self, node: Node) -> DeliveryStats | None:
        async with self.use():
            if self._prepared is None:
                self._prepared = self._tasks.start(self._prepare_senders())
            await asyncio.shield(self._prepared)
            for _ in range(AGENT_TRIES - 1):
                try:
                    return await self._receive_once(node)
                except NodeLostError as error:
                    _LOG.warning("hubdist: the agent on %s is lost: %s", node.name, error)
                    if node.id not in await self._context.cluster.alive_ids():
                        raise
            return await self._receive_once(node)

    async def _receive_once(self, node: Node) -> DeliveryStats | None:
        await self._links.keep(node)
        await self._context.ended.tell(node)
        async with self._context.receiving[node.id].take(), self._agents.use(node) as agent:
            address = self._agents.address_of(agent) if self._BEGINS_WITH_SEAT else None
            if address is not None:
                self._senders.note_address(node, address)
                return await self._take_part(node, agent, has_begun=False)
            try:
                ready = await self._senders.begin(node, agent, self._source.copy)
            except NodeLostError:
                self._agents.forget(node, agent)
                raise
            if ready.has_model:
                await self._add_holder(node)
                return None
            self._agents.note_address(node, agent, ready.address)
            return await self._take_part(node, agent, has_begun=True)

    async def _take_part(self, node: Node, agent: Any, *, has_begun: bool) -> DeliveryStats | None:
        """Let a node join the plan, and wait until the node is done; None if its store had the model."""
        done = asyncio.get_running_loop().create_future()
        receiver = NodeProgress(node, done, self._context.cluster.clock, has_begun=has_begun)
        self._receivers[node.id] = receiver
        self._nodes[node.id] = node
        self._silent.pop(node.id, None)  # the node has just answered
        try:
            self._join(node)
            await receiver.done
        except HubdistError as error:
            if isinstance(error, NodeLostError):
                self._agents.forget(node, agent)
            else:
                self._context.ended.note(node, self.name)
                await self._context.ended.tell(node)
            raise
        except asyncio.CancelledError:  # the plan must not wait for a node that nobody waits for
            self._give_up(node, "nobody waits for it any more")
            raise
        finally:
            del self._receivers[node.id]
        return None if receiver.had_model else receiver.stats

    async def _prepare_senders(self) -> None:
        """Start the source's agent, and let nodes that have the snapshot join as senders if they answer soon."""
        if self._source.node is not None:
            await self._links.keep(self._source.node)
        tasks = [self._tasks.start(self._add_holder(node)) for node in self._holders[:_MAX_HOLDERS]]
        if tasks:
            await asyncio.wait(tasks, timeout=_HOLDERS_S)

    async def _add_holder(self, node: Node) -> None:
        try:
            await self._links.keep(node)
            async with self._agents.use(node) as agent:
                await self._senders.hold(node, agent)
        except HubdistError as error:
            _LOG.info("hubdist: %s does not send what it has: %s", node.name, error)
            return
        self._nodes[node.id] = node
        self._feed(HolderJoined(node.id, node.zone))

    # Nodes that are silent or lost

    def _note_silent(self, node: Node) -> None:
        self._silent[node.id] = node
        self._tasks.start(self._stop_waiting_for(node))
        self._feed(NodeSilent(node.id))

    def _note_heard(self, node: Node) -> None:
        del self._silent[node.id]
        self._feed(NodeHeard(node.id))

    def _give_up(self, node: Node, reason: str) -> None:
        self._tasks.start(self._stop_waiting_for(node))
        self._lose(node.id)
        self._context.liveness.forget(node.id)
        self._feed(NodeFailed(node.id, NodeLostError(reason, node=node.name)))

    def _lose(self, node_id: str) -> None:
        self._nodes.pop(node_id, None)
        self._silent.pop(node_id, None)
        self._senders.lose(node_id)

    # Events and commands of the plan

    def _redacted_name(self, sender: str) -> str:
        if sender == OWN_STORE:
            return sender
        node = self._nodes.get(sender)
        return self._source.redacted if node is None else node.name

    def _obey_for_node(self, command: Publish | Finish) -> None:
        match command:
            case Publish(node):
                self._run(self._publish(self._receivers[node]), self._receivers[node])
            case Finish(node, error):
                self._finish(node, error)

    def _run(self, work: Coroutine[Any, Any, EventT | NodeEvent], receiver: NodeProgress) -> None:
        async def carry_out() -> None:
            event = await work
            # A node that failed and joined again has a new `NodeProgress`; answers to its earlier attempt must not
            # reach the plan, which would take them for answers to the new one.
            if self._receivers.get(receiver.node.id) is receiver:
                self._feed(event)

        self._tasks.start(carry_out())

    async def _publish(self, receiver: NodeProgress) -> EventT | NodeEvent:
        """Let a node publish, if it has not done so by itself: it does once it has all and knows the manifest."""
        node = receiver.node

        async def publish(agent: Any) -> NodeEvent:
            payload = self.payload
            if not receiver.has_published:
                call = agent.publish.remote(self.name, payload.manifest_to_send, payload.terms)
                await settle(call, timeout_s=self._context.config.timeout_s, node=node.name)
            self._senders.note_holder(node, agent)
            return NodePublished(node.id)

        return await self._tasks.ask(node, publish, lambda error: NodeFailed(node.id, error))

    def _finish(self, node_id: str, error: HubdistError | None) -> None:
        receiver = self._receivers[node_id]
        if error is not None:
            self._lose(node_id)
        if receiver.done.done():  # cancelled: nobody waits for the node
            return
        if error is None:
            receiver.done.set_result(None)
        else:
            receiver.done.set_exception(error.with_context(node=receiver.node.name))
