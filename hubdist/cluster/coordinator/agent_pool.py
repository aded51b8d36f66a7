"""The coordinator's agents: one on each node with work, ended when it has had none for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from hubdist.cluster.agent.chunk_rpc import pickle_agent
from hubdist.cluster.calls import settle, stop_actor
from hubdist.cluster.nodes import Node, alive_nodes
from hubdist.config.schema import Config
from hubdist.errors import NodeLostError

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
"""For an agent's first answer: its process may have to be started, on a node that is busy."""

AGENT_TRIES = 3
"""How many agents on a living node may be lost before the work is given up."""


class AgentPool:
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
        self._pickled: dict[Any, bytes] = {}
        self.losses: Counter[str] = Counter()
        """Node's id -> how many of its agents have been lost."""

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that have an agent now."""
        return tuple(sorted(node.name for node, _ in self._agents.values()))

    def runs(self, node: Node) -> bool:
        """True if the node has an agent now."""
        return node.id in self._agents

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

    def pickled(self, agent: Any) -> bytes:
        """The handle of an agent, for other agents; see `pickle_agent`."""
        known = self._pickled.get(agent)
        if known is None:
            known = self._pickled[agent] = pickle_agent(agent)
        return known

    async def call(self, node: Node, method: str, *args: Any, timeout_s: float) -> Any:
        """Call a method of the node's agent; one that may run twice, for a lost agent is replaced and called again.

        Raises:
            NodeLostError: The node is gone, or its agents are lost again and again.
            HubdistError: What the method raised, or that it gave no answer in `timeout_s` seconds.
        """
        for last in range(1 - AGENT_TRIES, 1):
            async with self.use(node) as agent:
                try:
                    return await settle(getattr(agent, method).remote(*args), timeout_s=timeout_s, node=node.name)
                except NodeLostError as error:
                    self.forget(node, agent)
                    _LOG.warning("hubdist: the agent on %s is lost: %s", node.name, error)
                    if last == 0 or node.id not in {alive.id for alive in await asyncio.to_thread(alive_nodes)}:
                        raise
        raise AssertionError("the last try returns or raises")

    def forget(self, node: Node, agent: Any) -> None:
        """An agent is gone or does not answer: end it, and let the next use make a new one."""
        known = self._agents.get(node.id)
        if known is not None and known[1] is agent:
            self.losses[node.id] += 1
            self._end(node.id)

    def _end(self, node_id: str) -> None:
        timer = self._ends.pop(node_id, None)
        if timer is not None:
            timer.cancel()
        _, agent = self._agents.pop(node_id)
        self._pickled.pop(agent, None)
        stop_actor(agent)
