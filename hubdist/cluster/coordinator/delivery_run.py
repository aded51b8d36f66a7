"""Carries out a delivery's commands on Ray: calls of agents out, events in.

The coordinator tells an agent whom to ask for a chunk; the bytes go from agent to agent and never pass here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from hubdist.cluster.calls import NodeLostError, settle
from hubdist.cluster.coordinator.agent_pool import AGENT_TRIES, START_TIMEOUT_S
from hubdist.cluster.coordinator.fetches import Fetches, Means
from hubdist.cluster.coordinator.liveness import SILENT_S
from hubdist.cluster.coordinator.payload import Payload, SeedSource
from hubdist.cluster.coordinator.progress import DeliveryStats, NodeProgress
from hubdist.cluster.nodes import Node, alive_nodes
from hubdist.cluster.single_flight import SingleFlight
from hubdist.delivery import (
    ChunkArrived,
    ChunkFailed,
    ChunksAdded,
    Closed,
    Command,
    DeliveryPlan,
    Event,
    Fetch,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeHeard,
    NodeJoined,
    NodePublished,
    NodeSilent,
    Publish,
    SourceFailed,
)
from hubdist.errors import HubdistError, IntegrityError, PeerError, StoreError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Manifest

_LOG = logging.getLogger(__name__)
_MARGIN_S = 15.0
_LOOK_S = 1.0
"""How often to look whether nodes are alive: one that only sends owes no answer that would tell."""

_HOLDERS_S = 5.0
"""How long to wait for nodes that have the model: the source shall not send what they can."""

_MAX_HOLDERS = 8

_END_S = 2.0
"""How long the last node waits until all have been told that it is over; one that gives no answer keeps nobody."""


class DeliveryRun:
    """One running delivery of one model. Owned by the coordinator's event loop.

    Args:
        contents: The model, as far as it is known.
        source: Where its chunks first come from.
        window_bytes: Most bytes in flight to a node, and from one.
        chunk_bytes: Size of the largest chunk.
        nodes: How many nodes are expected.
        holders: Other nodes that may have the snapshot.
        means: What all transfers of the job share.
    """

    def __init__(
        self,
        contents: Payload,
        source: SeedSource,
        *,
        window_bytes: int,
        chunk_bytes: int,
        nodes: int,
        holders: Sequence[Node],
        means: Means,
    ) -> None:
        self.name = secrets.token_hex(8)
        self.contents = contents
        self.ended = False
        self._source = source
        self._agents = means.agents
        self._pulse = means.pulse
        self._config = means.config
        self._delivery = DeliveryPlan(
            [chunk.size for chunk in contents.chunks],
            source=source.name,
            nodes=nodes,
            node_window_bytes=window_bytes,
            source_window_bytes=window_bytes,
            largest_bytes=chunk_bytes,
            is_place=source.place is not None,
            closed=contents.manifest is not None,
        )
        self._nodes: dict[str, Node] = {} if source.node is None else {source.node.id: source.node}
        self._receivers: dict[str, NodeProgress] = {}
        self._fetches = Fetches(
            self.name, contents, source, self._nodes, receives=lambda node_id: node_id in self._receivers, means=means
        )
        self._kept: dict[str, Node] = {}
        """Nodes whose agents may be asked for chunks until the end."""
        self._uses = contextlib.AsyncExitStack()
        self._running: set[asyncio.Task[None]] = set()
        self._work = SingleFlight()
        self._users = 0
        self._holders = list(holders)
        self._ready: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None

    @property
    def began_early(self) -> bool:
        """True if it began while the origin was being read."""
        return self._source.staged is not None

    @property
    def arrived_bytes(self) -> Counter[str]:
        """Name of each node that receives -> bytes that have arrived there."""
        return Counter({receiver.node.name: receiver.arrived_bytes for receiver in self._receivers.values()})

    @contextlib.asynccontextmanager
    async def use(self) -> Any:
        """Keep the transfer from ending while the block runs; the last to leave ends it."""
        self._users += 1
        if self._look is None:
            self._look = asyncio.create_task(self._look_after_nodes())
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self.ended = True
                await self._end()

    # What the origin says

    def add(self, chunks: Iterable[Chunk]) -> None:
        """The origin has further chunks."""
        more = list(chunks)
        self.contents.chunks.extend(more)
        self._feed(ChunksAdded(tuple(chunk.size for chunk in more)))

    def close(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """The origin has been read: these are the model's files."""
        self.contents.manifest = manifest
        self.contents.ordinals = tuple(ordinals)
        self._fetches.closed.set()
        self._feed(Closed())

    def fail(self, error: HubdistError) -> None:
        """The origin cannot be read."""
        self._fetches.closed.set()
        self._feed(SourceFailed(error))

    # Nodes

    async def bring(self, node: Node) -> DeliveryStats | None:
        """Bring the model to one node; None if its store had it. Who asks again meanwhile waits for the same.

        An agent that is lost while its node is alive (a process can be killed for its memory, a call that starts it
        can get lost) is replaced, and the node begins anew.

        Raises:
            HubdistError: Why the node could not get it.
        """
        return await self._work.run(node.id, lambda: self._bring_or_retry(node))

    async def _bring_or_retry(self, node: Node) -> DeliveryStats | None:
        async with self.use():
            if self._ready is None:
                self._ready = self._start(self._make_ready())
            await asyncio.shield(self._ready)
            for _ in range(AGENT_TRIES - 1):
                try:
                    return await self._bring(node)
                except NodeLostError as error:
                    _LOG.warning("hubdist: the agent on %s is lost: %s", node.name, error)
                    if node.id not in {alive.id for alive in await asyncio.to_thread(alive_nodes)}:
                        raise
            return await self._bring(node)

    async def _bring(self, node: Node) -> DeliveryStats | None:
        await self._keep(node)
        async with self._agents.use(node) as agent:
            begin = agent.begin.remote(self.name, self.contents.manifest, self._source.place)
            try:
                has_it = await settle(begin, timeout_s=START_TIMEOUT_S, node=node.name)
            except NodeLostError:
                self._agents.forget(node, agent)
                raise
            if has_it:
                await self._add_holder(node)
                return None
            receiver = NodeProgress(node, asyncio.get_running_loop().create_future())
            self._receivers[node.id] = receiver
            self._nodes[node.id] = node
            self._fetches.silent.pop(node.id, None)  # it has just answered
            try:
                self._feed(NodeJoined(node.id))
                await receiver.done
            except HubdistError as error:
                if isinstance(error, NodeLostError):
                    self._agents.forget(node, agent)
                else:
                    await self._tell_to_forget(node)
                raise
            except asyncio.CancelledError:  # which the plan does not know
                self._give_up(node, "nobody waits for it any more")
                raise
            finally:
                del self._receivers[node.id]
        return receiver.brought

    async def _make_ready(self) -> None:
        """Start the source's agent, and let nodes that have the snapshot give of it, those that answer soon."""
        if self._source.node is not None:
            await self._keep(self._source.node)
        tasks = [self._start(self._add_holder(node)) for node in self._holders[:_MAX_HOLDERS]]
        if tasks:
            await asyncio.wait(tasks, timeout=_HOLDERS_S)

    async def _add_holder(self, node: Node) -> None:
        try:
            await self._keep(node)
            async with self._agents.use(node) as agent:
                await self._fetches.hold(node, agent)
        except HubdistError as error:
            _LOG.info("hubdist: %s does not send what it has: %s", node.name, error)
            return
        self._nodes[node.id] = node
        self._feed(HolderJoined(node.id))

    async def _keep(self, node: Node) -> None:
        """Keep a node's agent for as long as this transfer runs."""
        if node.id not in self._kept:
            self._kept[node.id] = node  # before the first wait, so that it is kept once
            try:
                await self._uses.enter_async_context(self._agents.use(node))
            except BaseException:
                del self._kept[node.id]
                raise

    async def _look_after_nodes(self) -> None:
        asking: asyncio.Task[list[Node]] | None = None
        while True:
            await asyncio.sleep(_LOOK_S)
            asking = asking or asyncio.create_task(asyncio.to_thread(alive_nodes))
            await asyncio.wait([asking], timeout=_LOOK_S)  # the cluster may be slow to say; what follows is not
            if asking.done():
                self._look_for_lost_nodes(asking)
                asking = None
            self._look_for_silent_nodes()

    def _look_for_lost_nodes(self, asked: asyncio.Task[list[Node]]) -> None:
        try:
            alive = {node.id for node in asked.result()}
        except HubdistError as error:
            _LOG.warning("hubdist: %s", error)
            return
        for node in [node for node in self._nodes.values() if node.id not in alive]:
            self._give_up(node, "the node is gone")

    def _look_for_silent_nodes(self) -> None:
        """Let nobody count on nodes that give no answer, until they do; and give them up at last."""
        silent = self._fetches.silent
        for node in [*(self._fetches.owing | silent).values()]:
            seconds = self._pulse.silent_s(node)
            if seconds >= max(self._config.chunk_timeout_s, 2 * SILENT_S):
                self._give_up(node, f"the node gave no answer for {seconds:.0f} s")
            elif seconds >= SILENT_S and node.id not in silent:
                _LOG.warning("hubdist: %s gives no answer; what it should send is asked of others", node.name)
                silent[node.id] = node
                self._start(self._fetches.give_up(node))
                self._feed(NodeSilent(node.id))
            elif seconds == 0 and node.id in silent:
                _LOG.warning("hubdist: %s answers again", node.name)
                del silent[node.id]
                self._feed(NodeHeard(node.id))

    def _give_up(self, node: Node, why: str) -> None:
        self._start(self._fetches.give_up(node))
        self._lose(node.id)
        self._pulse.forget(node.id)
        self._feed(NodeFailed(node.id, NodeLostError(why, node=node.name)))

    def _lose(self, node_id: str) -> None:
        self._nodes.pop(node_id, None)
        self._fetches.lose(node_id)

    async def _end(self) -> None:
        look, self._look = self._look, None
        if look is not None:
            look.cancel()
        kept, self._kept = self._kept, {}
        uses, self._uses = self._uses, contextlib.AsyncExitStack()
        await asyncio.wait([self._start(self._let_go(kept.values(), uses))], timeout=_END_S)

    async def _let_go(self, nodes: Iterable[Node], uses: contextlib.AsyncExitStack) -> None:
        try:
            await asyncio.gather(*(self._tell_to_forget(node) for node in nodes))
        finally:
            await uses.aclose()

    # Events and commands

    def _feed(self, event: Event) -> None:
        self._note(event)
        for command in self._delivery.handle(event):
            self._obey(command)

    def _note(self, event: Event) -> None:
        """Remember for the report what happened."""
        if isinstance(event, ChunkArrived) and event.node in self._receivers:
            size = self.contents.chunks[event.chunk].size
            self._receivers[event.node].note_arrival(size, self._public(event.source))
        elif isinstance(event, ChunkFailed) and event.node in self._receivers:
            receiver = self._receivers[event.node]
            receiver.note_failure(refused=isinstance(event.error, IntegrityError))
            _LOG.warning(
                "hubdist: chunk %d did not reach %s from %s: %s",
                event.chunk,
                receiver.node.name,
                self._public(event.source),
                event.error,
            )

    def _public(self, source: str) -> str:
        node = self._nodes.get(source)
        return self._source.redacted if node is None else node.name

    def _obey(self, command: Command) -> None:
        match command:
            case Fetch(node):
                self._run(self._fetch(self._receivers[node].node, command), self._receivers[node])
            case Publish(node):
                self._run(self._publish(self._receivers[node].node), self._receivers[node])
            case Finish(node, error):
                self._finish(node, error)

    def _run(self, work: Coroutine[Any, Any, Event], receiver: NodeProgress) -> None:
        async def carry_out() -> None:
            event = await work
            # A node that failed and asks again is a new one: answers to its first life are nothing to its second.
            if self._receivers.get(receiver.node.id) is receiver:
                self._feed(event)

        self._start(carry_out())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _fetch(self, node: Node, command: Fetch) -> Event:
        proven = self.contents.chunks[command.chunk]

        async def fetch(agent: Any) -> Event:
            seconds = await self._fetches.fetch(proven, command.source, node, agent)
            return ChunkArrived(node.id, command.chunk, command.source, seconds)

        def failed(error: HubdistError) -> Event:
            if isinstance(error, (NodeLostError, StoreError)):
                return NodeFailed(node.id, error)
            return ChunkFailed(node.id, command.chunk, command.source, error)

        return await self._ask(node, fetch, failed)

    async def _publish(self, node: Node) -> Event:
        async def publish(agent: Any) -> Event:
            contents = self.contents
            call = agent.publish.remote(self.name, contents.manifest, contents.ordinals)
            await settle(call, timeout_s=self._config.timeout_s, node=node.name)
            self._fetches.note_holder(node, agent)
            return NodePublished(node.id)

        return await self._ask(node, publish, lambda error: NodeFailed(node.id, error))

    async def _ask(
        self, node: Node, work: Callable[[Any], Awaitable[Event]], failed: Callable[[HubdistError], Event]
    ) -> Event:
        """Let a node's agent work; a failure becomes an event."""
        try:
            async with self._agents.use(node) as agent:
                try:
                    return await work(agent)
                except NodeLostError:
                    self._agents.forget(node, agent)
                    raise
        except HubdistError as error:
            return failed(error)
        except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes an event
            _LOG.error("hubdist: unexpected error", exc_info=error)
            return failed(PeerError(f"unexpected {type(error).__name__}: {error}"))

    def _finish(self, node_id: str, error: HubdistError | None) -> None:
        receiver = self._receivers[node_id]
        if error is not None:
            self._lose(node_id)
        if receiver.done.done():
            return
        if error is None:
            receiver.done.set_result(None)
        else:
            receiver.done.set_exception(error.with_context(node=receiver.node.name))

    async def _tell_to_forget(self, node: Node) -> None:
        """Let a node's agent drop what it keeps for this delivery. If it cannot, its end does the same."""
        if not self._agents.runs(node):
            return
        async with self._agents.use(node) as agent:
            with contextlib.suppress(HubdistError):
                await settle(agent.forget.remote(self.name), timeout_s=_MARGIN_S, node=node.name)
