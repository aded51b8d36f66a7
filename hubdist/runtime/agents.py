"""The coordinator's agents: one on each node with work, ended when it has had none for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from hubdist.config import Config
from hubdist.runtime.calls import stop_actor
from hubdist.runtime.nodes import Node


class Agents:
    """Makes, shares and ends node agents. Owned by the coordinator's event loop.

    An agent that stayed would keep its node from scaling down.

    Args:
        config: The settings that agents get.
        make_agent: Starts an agent on a node.
    """

    def __init__(self, config: Config, make_agent: Callable[[Config, Node], Any]) -> None:
        self._config = config
        self._make_agent = make_agent
        self._agents: dict[str, tuple[Node, Any]] = {}
        self._uses: Counter[str] = Counter()
        self._ends: dict[str, asyncio.TimerHandle] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that have an agent now."""
        return tuple(sorted(node.name for node, _ in self._agents.values()))

    @contextlib.asynccontextmanager
    async def use(self, node: Node) -> AsyncIterator[Any]:
        """The node's agent, kept for as long as the block runs."""
        if node.id not in self._agents:
            self._agents[node.id] = (node, self._make_agent(self._config, node))
        timer = self._ends.pop(node.id, None)
        if timer is not None:
            timer.cancel()
        agent = self._agents[node.id][1]
        self._uses[node.id] += 1
        try:
            yield agent
        finally:
            self._uses[node.id] -= 1
            if self._uses[node.id] == 0 and node.id in self._agents:
                loop = asyncio.get_running_loop()
                self._ends[node.id] = loop.call_later(self._config.agent_idle_s, self._end, node.id)

    def forget(self, node: Node, agent: Any) -> None:
        """An agent is gone or does not answer: end it, and let the next use make a new one."""
        known = self._agents.get(node.id)
        if known is not None and known[1] is agent:
            self._end(node.id)

    def _end(self, node_id: str) -> None:
        timer = self._ends.pop(node_id, None)
        if timer is not None:
            timer.cancel()
        _, agent = self._agents.pop(node_id)
        stop_actor(agent)
