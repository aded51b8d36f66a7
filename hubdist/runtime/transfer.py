"""Carries out a delivery's commands on Ray: agent calls and objects in, events out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from hubdist.config import Config
from hubdist.delivery import (
    ChunkArrived,
    ChunkFailed,
    ChunkOffered,
    Delivery,
    Event,
    Fetch,
    Finish,
    NodeFailed,
    NodeJoined,
    NodePublished,
    Offer,
    OfferFailed,
    Publish,
    Withdraw,
)
from hubdist.errors import HubdistError, PeerError, StoreError
from hubdist.manifest import BLOCK_BYTES, Manifest, cut_chunks
from hubdist.runtime.agents import AGENT_TRIES, START_TIMEOUT_S, Agents
from hubdist.runtime.calls import NodeLostError, settle
from hubdist.runtime.nodes import Node, alive_nodes

_LOG = logging.getLogger(__name__)
_MIN_CHUNK_BYTES = 4 << 20
_MAX_CHUNK_BYTES = 32 << 20
_CHUNKS_WANTED = 512
"""Each reference costs its owner about 3 kB and a call; so few hundred chunks, as long as they stay small."""
_MARGIN_S = 15.0


@dataclass(slots=True)
class _Waiting:
    node: Node
    done: asyncio.Future[None]
    arrived_bytes: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Brought:
    """What it took to bring a model to a node: bytes that came, chunks that had to be sent again."""

    bytes_received: int
    retries: int


class Transfer:
    """One running delivery of one model. Owned by the coordinator's event loop.

    Args:
        manifest: The model.
        source: The node whose store has it.
        nodes: The nodes alive now; their object stores limit chunks and windows.
        agents: Agents by node.
        config: Windows and deadlines.
    """

    def __init__(self, manifest: Manifest, source: Node, nodes: list[Node], agents: Agents, config: Config) -> None:
        self.manifest = manifest
        self._source = source
        self._agents = agents
        self._config = config
        room = min((node.object_store_bytes for node in nodes if node.object_store_bytes), default=1 << 30) // 4
        self._chunk_bytes = choose_chunk_bytes(manifest.total_bytes, room)
        chunks = cut_chunks(manifest, self._chunk_bytes)
        self._sizes = [chunk.size for chunk in chunks]
        window = min(config.in_flight_bytes, room)
        self._delivery = Delivery(self._sizes, node_window_bytes=window, source_window_bytes=window)
        self._waiting: dict[str, _Waiting] = {}
        self._offers: dict[int, list[Any]] = {}
        self._running: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> bool:
        """True while a node waits."""
        return bool(self._waiting)

    @property
    def arrived_bytes(self) -> Counter[str]:
        """Name of each waiting node -> bytes that have arrived there."""
        return Counter({waiting.node.name: waiting.arrived_bytes for waiting in self._waiting.values()})

    async def bring(self, node: Node) -> Brought | None:
        """Bring the model to one node; None if its store had it.

        An agent that is lost while its node is alive (a process can be killed for its memory, a call that starts it
        can get lost) is replaced, and the node begins anew.

        Raises:
            HubdistError: Why the node could not get it.
        """
        for _ in range(AGENT_TRIES - 1):
            try:
                return await self._bring(node)
            except NodeLostError as error:
                _LOG.warning("hubdist: the agent on %s is lost: %s", node.name, error)
                if node.id not in {alive.id for alive in await asyncio.to_thread(alive_nodes)}:
                    raise
        return await self._bring(node)

    async def _bring(self, node: Node) -> Brought | None:
        async with self._agents.use(self._source), self._agents.use(node) as agent:
            try:
                begin = agent.begin.remote(self.manifest, self._chunk_bytes)
                if await settle(begin, timeout_s=START_TIMEOUT_S, node=node.name):
                    return None
            except NodeLostError:
                self._agents.forget(node, agent)
                raise
            waiting = _Waiting(node, asyncio.get_running_loop().create_future())
            self._waiting[node.id] = waiting
            try:
                self._feed(NodeJoined(node.id))
                await waiting.done
            except HubdistError as error:
                if not isinstance(error, NodeLostError):
                    await self._tell(node, "give_up")
                raise
            finally:
                del self._waiting[node.id]
                if not self._waiting:
                    await self._tell(self._source, "stop_offering")
            return Brought(waiting.arrived_bytes, waiting.retries)

    def _feed(self, event: Event) -> None:
        if isinstance(event, ChunkArrived) and event.node in self._waiting:
            self._waiting[event.node].arrived_bytes += self._sizes[event.chunk]
        elif isinstance(event, ChunkFailed) and event.node in self._waiting:
            self._waiting[event.node].retries += 1
            _LOG.warning("hubdist: chunk %d did not reach %s: %s", event.chunk, event.node[:8], event.error)
        for command in self._delivery.handle(event):
            match command:
                case Offer(chunk):
                    self._run(self._offer(chunk), None)
                case Withdraw(chunk):
                    del self._offers[chunk]
                case Fetch(node, chunk):
                    waiting = self._waiting[node]
                    self._run(self._fetch(waiting.node, chunk, self._offers[chunk]), waiting)
                case Publish(node):
                    waiting = self._waiting[node]
                    self._run(self._publish(waiting.node), waiting)
                case Finish(node, error):
                    self._finish(node, error)

    def _run(self, work: Coroutine[Any, Any, Event], waiting: _Waiting | None) -> None:
        async def carry_out() -> None:
            event = await work
            # A node that failed and asks again is a new one: answers to its first life are nothing to its second.
            if waiting is None or self._waiting.get(waiting.node.id) is waiting:
                self._feed(event)

        task = asyncio.create_task(carry_out())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _offer(self, chunk: int) -> Event:
        async with self._agents.use(self._source) as agent:
            try:
                self._offers[chunk] = await settle(
                    agent.offer.remote(self.manifest.digest, self._chunk_bytes, chunk),
                    timeout_s=START_TIMEOUT_S,
                    node=self._source.name,
                )
            except HubdistError as error:
                if isinstance(error, NodeLostError):
                    self._agents.forget(self._source, agent)
                return OfferFailed(chunk, error)
            except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes an event
                return OfferFailed(chunk, _unexpected(error))
            return ChunkOffered(chunk)

    async def _fetch(self, node: Node, chunk: int, reference: list[Any]) -> Event:
        async with self._agents.use(node) as agent:
            try:
                await settle(
                    agent.fetch.remote(self.manifest.digest, chunk, reference),
                    timeout_s=self._config.chunk_timeout_s + _MARGIN_S,
                    node=node.name,
                )
            except (NodeLostError, StoreError) as error:
                if isinstance(error, NodeLostError):
                    self._agents.forget(node, agent)
                return NodeFailed(node.id, error)
            except HubdistError as error:
                return ChunkFailed(node.id, chunk, error)
            except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes an event
                return NodeFailed(node.id, _unexpected(error))
            return ChunkArrived(node.id, chunk)

    async def _publish(self, node: Node) -> Event:
        async with self._agents.use(node) as agent:
            try:
                await settle(
                    agent.publish.remote(self.manifest.digest), timeout_s=self._config.timeout_s, node=node.name
                )
            except HubdistError as error:
                return NodeFailed(node.id, error)
            except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes an event
                return NodeFailed(node.id, _unexpected(error))
            return NodePublished(node.id)

    def _finish(self, node_id: str, error: HubdistError | None) -> None:
        waiting = self._waiting[node_id]
        if waiting.done.done():
            return
        if error is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(error.placed(node=waiting.node.name))

    async def _tell(self, node: Node, method: str) -> None:
        """Let a node's agent drop what it keeps for this model. If it cannot, its end does the same."""
        async with self._agents.use(node) as agent:
            with contextlib.suppress(HubdistError):
                reference = getattr(agent, method).remote(self.manifest.digest)
                await settle(reference, timeout_s=_MARGIN_S, node=node.name)


def choose_chunk_bytes(total_bytes: int, room_bytes: int) -> int:
    """The size of chunks for a model: a few hundred of them, each in whole blocks and well below the room.

    Args:
        total_bytes: Bytes of the model.
        room_bytes: Bytes that may be in flight to a node.
    """
    wanted = max(_MIN_CHUNK_BYTES, min(_MAX_CHUNK_BYTES, total_bytes // _CHUNKS_WANTED))
    return max(1, min(wanted, room_bytes // 4) // BLOCK_BYTES) * BLOCK_BYTES


def _unexpected(error: Exception) -> HubdistError:
    _LOG.error("hubdist: unexpected error", exc_info=error)
    return PeerError(f"unexpected {type(error).__name__}: {error}")
