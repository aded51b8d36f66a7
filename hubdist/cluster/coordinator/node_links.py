"""The agents that one delivery keeps until its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError

_FORGET_TIMEOUT_S = 15.0


class NodeLinks:
    """Keeps the agents that may be asked for chunks until the delivery ends. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        agents: Lends the agents.
    """

    def __init__(self, name: str, agents: AgentPool) -> None:
        self._name = name
        self._agents = agents
        self._kept: dict[str, Node] = {}
        self._uses = contextlib.AsyncExitStack()

    async def keep(self, node: Node) -> None:
        """Keep a node's agent from being ended for lack of work, until `release`."""
        if node.id not in self._kept:
            self._kept[node.id] = node  # before the first wait, so that two calls at once keep the agent once
            try:
                await self._uses.enter_async_context(self._agents.use(node))
            except BaseException:
                del self._kept[node.id]
                raise

    async def tell_to_forget(self, node: Node) -> None:
        """Let a node's agent drop what it keeps for the delivery. An agent that cannot be told is ended anyway."""
        if not self._agents.runs(node):
            return
        async with self._agents.use(node) as agent:
            with contextlib.suppress(HubdistError):
                await settle(agent.forget.remote(self._name), timeout_s=_FORGET_TIMEOUT_S, node=node.name)

    def release(self) -> Coroutine[Any, Any, None]:
        """Keep no agent any longer; the coroutine tells those that were kept to forget the delivery.

        The call itself lets go of the agents, so that an agent that is kept again before the coroutine has run stays.
        """
        kept, self._kept = self._kept, {}
        uses, self._uses = self._uses, contextlib.AsyncExitStack()
        return self._release(kept.values(), uses)

    async def _release(self, nodes: Iterable[Node], uses: contextlib.AsyncExitStack) -> None:
        try:
            await asyncio.gather(*(self.tell_to_forget(node) for node in nodes))
        finally:
            await uses.aclose()
