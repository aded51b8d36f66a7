"""The chunks of one delivery that agents are asked to fetch, and who owes an answer for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubdist.cluster.agent.chunk_rpc import Sender, SenderLostError, sender_error
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.liveness import ANSWERING, Liveness
from hubdist.cluster.coordinator.payload import Payload, SeedSource
from hubdist.cluster.coordinator.windows import WindowRoom, Windows
from hubdist.cluster.nodes import Node
from hubdist.cluster.single_flight import SingleFlight
from hubdist.config.schema import Config
from hubdist.errors import HubdistError, IntegrityError, PeerError
from hubdist.model.chunks import Chunk

_MARGIN_S = 15.0
"""What a call may take beside the time of its chunk."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all transfers of a job share.

    Attributes:
        agents: Agents by node.
        windows: Room for bytes under way.
        pulse: Tells which nodes give no answer.
        config: Windows and deadlines.
    """

    agents: AgentPool
    windows: Windows
    pulse: Liveness
    config: Config


@dataclass(slots=True, eq=False)
class _Owed:
    """A chunk that is under way, or waits for room: who fetches it, who sends it, and in which room."""

    receiver: Node
    agent: Any
    sender: Node | None
    room: WindowRoom | None = None
    pickled: bytes = b""


class Fetches:
    """Lets agents fetch chunks of one delivery, when there is room. Owned by the coordinator's event loop.

    Args:
        name: Names the delivery.
        contents: The model, as far as it is known.
        source: Where its chunks first come from.
        nodes: The delivery's nodes by id; changes while it runs.
        receives: True for the id of a node that is still to publish.
        means: What all transfers share.

    Attributes:
        closed: The model is known, or will not be.
        silent: Nodes that give no answer.
    """

    def __init__(
        self,
        name: str,
        contents: Payload,
        source: SeedSource,
        nodes: Mapping[str, Node],
        *,
        receives: Callable[[str], bool],
        means: Means,
    ) -> None:
        self._name = name
        self._contents = contents
        self._source = source
        self._nodes = nodes
        self._receives = receives
        self._means = means
        self._work = SingleFlight()
        self._holding: dict[str, Any] = {}
        """Node -> its agent, which gives from the node's snapshot."""
        self._owed: set[_Owed] = set()
        self._undoubted = set() if source.node is None else {source.node.id}
        self.closed = asyncio.Event()
        self.silent: dict[str, Node] = {}

    @property
    def owing(self) -> dict[str, Node]:
        """Nodes that have to answer for a chunk, by id; without the first source, which is not doubted."""
        nodes = [node for owed in self._owed for node in (owed.receiver, owed.sender) if node is not None]
        return {node.id: node for node in nodes if node.id not in self._undoubted}

    async def fetch(self, chunk: Chunk, source: str, node: Node, agent: Any) -> float:
        """Let a node's agent fetch a chunk from the place, or from the agent of another node.

        Args:
            chunk: Which bytes.
            source: What the plan calls the sender.
            node: Who fetches.
            agent: Its agent.

        Returns:
            Seconds that the bytes took.

        Raises:
            HubdistError: They did not come.
        """
        if self._source.place is not None and source == self._source.name:
            with self._owe(_Owed(node, agent, None)) as owed:
                return await self._call(owed, chunk, None)
        sending = self._nodes.get(source)
        if sending is None:
            raise PeerError("the node that had the chunk is gone")
        agents = self._means.agents
        async with agents.use(sending) as sending_agent:
            with self._owe(_Owed(node, agent, sending, pickled=agents.pickled(sending_agent))) as owed:
                try:
                    return await self._fetch(chunk, owed, sending_agent)
                except SenderLostError:
                    agents.forget(sending, sending_agent)
                    raise

    async def hold(self, node: Node, agent: Any) -> None:
        """See to it that a node's agent gives from the node's snapshot.

        Raises:
            HubdistError: It cannot.
        """
        if self._holding.get(node.id) is not agent:
            call = agent.hold.remote(self._name, self._contents.digest, self._contents.ordinals)
            await settle(call, timeout_s=START_TIMEOUT_S, node=node.name)
            self._holding[node.id] = agent

    def note_holder(self, node: Node, agent: Any) -> None:
        """A node's agent has published, and gives from the snapshot."""
        self._holding[node.id] = agent

    def lose(self, node_id: str) -> None:
        """A node takes no part any more."""
        self._holding.pop(node_id, None)
        self.silent.pop(node_id, None)

    async def give_up(self, node: Node) -> None:
        """Wait no longer for a node that gives no answer; what is under way to it or from it makes room.

        What it was to receive holds no memory but its own. Who waits for chunks from it is told to drop them.
        """
        waiting: dict[str, _Owed] = {}
        for owed in self._owed:
            if owed.receiver.id == node.id and owed.room is not None:
                self._means.windows.give_back(owed.room)
            elif owed.sender is not None and owed.sender.id == node.id:
                waiting[owed.receiver.id] = owed
        calls = [
            owed.agent.give_up.options(concurrency_group=ANSWERING).remote(self._name, owed.pickled)
            for owed in waiting.values()
        ]
        for owed, call in zip(waiting.values(), calls, strict=True):
            with contextlib.suppress(HubdistError):  # its own call ends at its deadline
                await settle(call, timeout_s=_MARGIN_S, node=owed.receiver.name)

    @contextlib.contextmanager
    def _owe(self, owed: _Owed) -> Iterator[_Owed]:
        self._owed.add(owed)
        try:
            yield owed
        finally:
            self._owed.discard(owed)

    async def _fetch(self, chunk: Chunk, owed: _Owed, sending_agent: Any) -> float:
        sending = owed.sender
        assert sending is not None
        if self._source.staged is not None and sending.id in self._undoubted and self._contents.manifest is None:
            with contextlib.suppress(IntegrityError):  # the stage has just become a snapshot
                return await self._call(owed, chunk, Sender(owed.pickled, *self._source.staged(chunk)))
            await asyncio.wait_for(self.closed.wait(), self._means.config.timeout_s)
        if not self._receives(sending.id):
            try:
                await self._work.run(("hold", sending.id), lambda: self.hold(sending, sending_agent))
            except HubdistError as error:  # no fault of the one that receives
                raise sender_error(error) from error
        return await self._call(owed, chunk, Sender(owed.pickled))

    async def _call(self, owed: _Owed, chunk: Chunk, sender: Sender | None) -> float:
        receiver, sending = owed.receiver, owed.sender
        means = self._means
        async with means.windows.room(receiver.id, None if sending is None else sending.id, chunk.size) as owed.room:
            for node in (receiver, sending):
                if node is not None and node.id in self.silent:  # since it waits for room
                    raise PeerError(f"{node.name} gives no answer")
            call = owed.agent.fetch.options(enable_task_events=False).remote(self._name, chunk, sender)
            timeout_s = means.config.chunk_timeout_s + _MARGIN_S
            seconds: float = await settle(call, timeout_s=timeout_s, node=receiver.name)
        for node in (receiver, sending):
            if node is not None:
                means.pulse.heard(node.id)
        return seconds
