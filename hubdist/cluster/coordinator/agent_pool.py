"""The coordinator's agents: one on each node with work. An agent without work is ended after a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from hubdist.cluster.agent.chunk_rpc import pickle_agent
from hubdist.cluster.agent.node_port import Address
from hubdist.cluster.calls import settle, stop_actor
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.errors import NodeLostError

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
"""Deadline of an agent's first answer: its process may have to be started, on a node that is busy."""

_END_S = 1.0
"""Seconds before an agent's end at which its idle work ends."""

AGENT_TRIES = 3
"""After this many agents that were lost on a living node, the work there is given up."""


class AgentPool:
    """Starts, lends and ends node agents. Owned by the coordinator's event loop.

    Agents without work are ended, because an agent keeps its node from scaling down.

    Args:
        config: The settings that agents get; `agent_idle_s` is how long an agent without work is kept.
        make_agent: Starts an agent on a node and returns its handle.
        cluster: Tells which nodes are alive.
        stop_agent: Ends an agent for good.
        pickle_agent: Returns an agent's handle as bytes.
    """

    def __init__(
        self,
        config: Config,
        make_agent: Callable[[Config, Node], Any],
        cluster: ClusterView,
        *,
        stop_agent: Callable[[Any], None] = stop_actor,
        pickle_agent: Callable[[Any], bytes] = pickle_agent,
    ) -> None:
        self._config = config
        self._make_agent = make_agent
        self._cluster = cluster
        self._stop_agent = stop_agent
        self._pickle_agent = pickle_agent
        self._agents: dict[str, tuple[Node, Any]] = {}
        self._uses: Counter[str] = Counter()
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._pickled: dict[Any, bytes] = {}
        self._addresses: dict[Any, Address] = {}
        """Agent -> its port, which stays open as long as the agent lives."""
        self.losses: Counter[str] = Counter()
        """Node's id -> how many of its agents have been lost."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes that have an agent now."""
        return tuple(sorted(node.name for node, _ in self._agents.values()))

    def runs(self, node: Node) -> bool:
        """Return True if the node has an agent now."""
        return node.id in self._agents

    @contextlib.asynccontextmanager
    async def use(self, node: Node) -> AsyncIterator[Any]:
        """Lend the node's agent, which is started if there is none, for as long as the block runs."""
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
                self._scrub(node.id)

    def _scrub(self, node_id: str) -> None:
        """Let an agent without work read its store again until it ends, if the settings want that; nobody waits."""
        if self._config.scrub_rate is not None:
            peers = [(node.name, agent) for other, (node, agent) in self._agents.items() if other != node_id]
            self._agents[node_id][1].scrub.remote(max(0.0, self._config.agent_idle_s - _END_S), peers)

    def pickled(self, agent: Any) -> bytes:
        """Return the handle of an agent as bytes, for other agents to call it."""
        known = self._pickled.get(agent)
        if known is None:
            known = self._pickled[agent] = self._pickle_agent(agent)
        return known

    def address_of(self, agent: Any) -> Address | None:
        """Where an agent sends, if it has told that before; None if it has not, or has no port."""
        return self._addresses.get(agent)

    def note_address(self, node: Node, agent: Any, address: Address | None) -> None:
        """Note where an agent sends.

        Args:
            node: The agent's node.
            agent: The agent.
            address: Its port; None for an agent without one.
        """
        known = self._agents.get(node.id)
        if address is not None and known is not None and known[1] is agent:
            self._addresses[agent] = address

    async def call(self, node: Node, method: str, *args: Any, timeout_s: float) -> Any:
        """Call a method of the node's agent. An agent that is lost is replaced and called again.

        Args:
            node: The node.
            method: Name of the method, which may run twice.
            *args: The method's arguments.
            timeout_s: Deadline in seconds for the answer of each agent.

        Raises:
            NodeLostError: The node is gone, or its agents are lost again and again.
            TransferTimeoutError: No answer before the deadline.
            HubdistError: The method raised this error.
        """
        for last in range(1 - AGENT_TRIES, 1):
            async with self.use(node) as agent:
                try:
                    return await settle(getattr(agent, method).remote(*args), timeout_s=timeout_s, node=node.name)
                except NodeLostError as error:
                    self.forget(node, agent)
                    _LOG.warning("hubdist: the agent on %s is lost: %s", node.name, error)
                    if last == 0 or node.id not in await self._cluster.alive_ids():
                        raise
        raise AssertionError("the last try returns or raises")

    def forget(self, node: Node, agent: Any) -> None:
        """End an agent that is gone or gives no answer; the next `use` starts a new one.

        Args:
            node: The agent's node.
            agent: The agent. If another one has replaced it, nothing happens.
        """
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
        self._addresses.pop(agent, None)
        self._stop_agent(agent)
