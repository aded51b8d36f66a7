"""The tasks of one delivery: each lets an agent work, and turns what goes wrong into an event of the plan."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError, NodeLostError, PeerError

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


class AgentTasks:
    """Runs the work of one delivery. Owned by the coordinator's event loop.

    Args:
        agents: Lends the agents.
    """

    def __init__(self, agents: AgentPool) -> None:
        self._agents = agents
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that nobody need wait for."""
        task = asyncio.create_task(work)
        self._running.add(task)  # the event loop itself keeps only a weak reference
        task.add_done_callback(self._running.discard)
        return task

    async def ask(self, node: Node, work: Callable[[Any], Awaitable[_T]], failed: Callable[[HubdistError], _T]) -> _T:
        """Let a node's agent work; a failure becomes an event.

        Args:
            node: The node.
            work: Gets the agent, and returns what came of it as an event.
            failed: Makes an event of an error.
        """
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
            where = "".join(traceback.format_tb(error.__traceback__))  # not its text, which may hold a secret
            _LOG.error("hubdist: unexpected %s in the delivery to %s:\n%s", type(error).__name__, node.name, where)
            return failed(PeerError(f"unexpected {type(error).__name__} in the delivery"))
