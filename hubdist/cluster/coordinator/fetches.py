"""Lets agents fetch the chunks of one delivery, and knows which nodes owe an answer for a chunk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hubdist.cluster.agent.chunk_fetches import Fetched
from hubdist.cluster.agent.chunk_rpc import ANSWER_GROUP, Sender, sender_error
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.payload import DeliveryContext, SeedSource
from hubdist.cluster.coordinator.senders import Senders
from hubdist.cluster.coordinator.windows import WindowRoom
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError, PeerError, SenderLostError
from hubdist.model.chunks import Chunk

_MARGIN_S = 15.0
"""Seconds that a call may take in addition to the deadline of its chunk."""


@dataclass(slots=True, eq=False)
class _PendingFetch:
    """A fetch whose chunk is in flight, or waits for room.

    Attributes:
        receiver: The node that fetches.
        agent: The receiver's agent.
        sender: The node that sends; None for a remote directory.
        room: The room of the chunk's bytes; None while it waits.
        sender_agent: Handle of the sender's agent as bytes; empty for a remote directory.
    """

    receiver: Node
    agent: Any
    sender: Node | None
    room: WindowRoom | None = None
    sender_agent: bytes = b""


class Fetches:
    """Lets agents fetch chunks of one delivery when there is room. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        source: The remote directory where the chunks first come from.
        senders: Know where nodes send.
        nodes: The delivery's nodes by id; nodes come and go while the delivery runs.
        silent: Id -> node that gives no answer.
        receives: Returns True for the id of a node that has not published yet.
        context: What all deliveries share.
    """

    def __init__(
        self,
        name: str,
        source: SeedSource,
        senders: Senders,
        nodes: Mapping[str, Node],
        silent: Mapping[str, Node],
        *,
        receives: Callable[[str], bool],
        context: DeliveryContext,
    ) -> None:
        self._name = name
        self._source = source
        self._senders = senders
        self._nodes = nodes
        self._silent = silent
        self._receives = receives
        self._context = context
        self._pending: set[_PendingFetch] = set()

    @property
    def owing(self) -> dict[str, Node]:
        """Id -> node that owes an answer for a chunk."""
        nodes = [node for pending in self._pending for node in (pending.receiver, pending.sender) if node is not None]
        return {node.id: node for node in nodes}

    async def fetch(self, chunk: Chunk, sender_name: str, node: Node, agent: Any) -> Fetched:
        """Let a node's agent fetch a chunk from the remote directory, or from the agent of another node.

        Args:
            chunk: Which bytes.
            sender_name: The plan's name of the sender.
            node: The node that fetches.
            agent: The agent of that node.

        Returns:
            How long the bytes took, and how many of them the node had itself.

        Raises:
            IntegrityError: The chunk came with wrong bytes, or the sender does not have it.
            NodeLostError, StoreError: The receiving node failed.
            TransferError: The chunk did not come.
        """
        if sender_name == self._source.name:
            with self._note(_PendingFetch(node, agent, None)) as pending:
                return await self._call(pending, chunk, None)
        sending = self._nodes.get(sender_name)
        if sending is None:
            raise PeerError("the node that had the chunk is gone")
        agents = self._context.agents
        async with agents.use(sending) as sending_agent:
            with self._note(_PendingFetch(node, agent, sending, sender_agent=agents.pickled(sending_agent))) as pending:
                try:
                    return await self._fetch(chunk, pending, sending_agent)
                except SenderLostError:
                    agents.forget(sending, sending_agent)
                    raise

    async def stop_waiting_for(self, node: Node) -> None:
        """Give back the room of chunks to and from a node that gives no answer.

        Chunks to the node take no memory elsewhere, so their room is free at once. Agents that wait for chunks from
        the node are told to cancel their requests, which gives back their room.
        """
        waiting: dict[str, _PendingFetch] = {}
        for pending in self._pending:
            if pending.receiver.id == node.id and pending.room is not None:
                self._context.windows.give_back(pending.room)
            elif pending.sender is not None and pending.sender.id == node.id:
                waiting[pending.receiver.id] = pending
        calls = [
            pending.agent.cancel_requests.options(concurrency_group=ANSWER_GROUP).remote(
                self._name, pending.sender_agent
            )
            for pending in waiting.values()
        ]
        for pending, call in zip(waiting.values(), calls, strict=True):
            with contextlib.suppress(HubdistError):  # the fetch ends at its own deadline
                await settle(call, timeout_s=_MARGIN_S, node=pending.receiver.name)

    @contextlib.contextmanager
    def _note(self, pending: _PendingFetch) -> Iterator[_PendingFetch]:
        self._pending.add(pending)
        try:
            yield pending
        finally:
            self._pending.discard(pending)

    async def _fetch(self, chunk: Chunk, pending: _PendingFetch, sending_agent: Any) -> Fetched:
        sending = pending.sender
        assert sending is not None
        if not self._receives(sending.id):
            try:
                await self._senders.hold(sending, sending_agent)
            except HubdistError as error:  # not the receiver's fault
                raise sender_error(error) from error
        return await self._call(pending, chunk, Sender(pending.sender_agent, self._senders.address_of(sending)))

    async def _call(self, pending: _PendingFetch, chunk: Chunk, sender: Sender | None) -> Fetched:
        receiver, sending = pending.receiver, pending.sender
        context = self._context
        async with context.windows.room(
            receiver.id, None if sending is None else sending.id, chunk.size
        ) as pending.room:
            for node in (receiver, sending):
                if node is not None and node.id in self._silent:  # became silent while the chunk waited for room
                    raise PeerError(f"{node.name} gives no answer")
            call = pending.agent.fetch.options(enable_task_events=False).remote(self._name, chunk, sender)
            timeout_s = context.config.chunk_timeout_s + _MARGIN_S
            fetched: Fetched = await settle(call, timeout_s=timeout_s, node=receiver.name)
        if fetched.port_closed is not None and sending is not None:
            context.closed_ports.note(receiver, sending, fetched.port_closed)
        for node in (receiver, sending):
            if node is not None:
                context.liveness.heard(node.id)
        return fetched
