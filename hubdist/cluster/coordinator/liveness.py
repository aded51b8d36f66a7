"""Which nodes give no answer: their host is gone, or stopped, and no connection says so.

Ray needs up to a minute to call such a node dead, and a chunk may take `chunk_timeout_s`. Others shall not wait so
long, and a slow node shall not be taken for a dead one. So a node that owes something and was not heard of for a while
is asked for an answer that costs it nothing. A node that lives gives it in milliseconds, however slow its links are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError, NodeLostError

_LOG = logging.getLogger(__name__)

QUIET_S = 2.0
"""After so many seconds without a sign of life a node is asked for one."""

SILENT_S = 6.0
"""A node that does not give it for so many seconds is silent: others do not count on it. With `QUIET_S`, and the second
between two looks, that is well below the 15 s for which a lost node may delay others; and far above what the answer
takes on a node that is busy."""

_PAUSE_S = 5.0

ANSWER_S = 20.0
"""After so many seconds without an answer a node is asked again."""

ANSWERING = "answering"
"""The agents' threads for calls that must not wait for others: they take no time."""


@dataclass(slots=True)
class _Heard:
    """What is known of a node.

    Attributes:
        last: When it was heard of last.
        looked: When somebody wanted to know last.
        asked: When it was asked for the first time since then; None if it was not.
        call: The question that has no answer yet.
    """

    last: float
    looked: float
    asked: float | None = None
    call: asyncio.Task[None] | None = None


class Liveness:
    """Notes signs of life, and asks for them; one for all transfers of a job. Owned by one event loop.

    Args:
        agents: Agents by node.
        clock: Tells the time in seconds.
    """

    def __init__(self, agents: AgentPool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = agents
        self._clock = clock
        self._nodes: dict[str, _Heard] = {}

    def heard(self, node_id: str) -> None:
        """A node gave an answer of any kind."""
        known = self._nodes.get(node_id)
        if known is None:
            self._nodes[node_id] = _Heard(self._clock(), self._clock())
        else:
            known.last, known.asked = self._clock(), None

    def silent_s(self, node: Node) -> float:
        """For how many seconds a node, which owes something, has given no answer; asks it if it is time to.

        To be called about once in a second while it owes something; a longer pause begins anew.
        """
        now = self._clock()
        known = self._nodes.setdefault(node.id, _Heard(now, now))
        if now - known.looked > _PAUSE_S:
            known.asked = None
        known.looked = now
        if now - known.last >= QUIET_S and (known.call is None or known.call.done()):
            known.asked = now if known.asked is None else known.asked
            known.call = asyncio.create_task(self._ask(node))
        return 0.0 if known.asked is None else now - known.asked

    def forget(self, node_id: str) -> None:
        """A node is gone."""
        self._nodes.pop(node_id, None)

    async def _ask(self, node: Node) -> None:
        try:
            async with self._agents.use(node) as agent:
                answer = agent.answer.options(concurrency_group=ANSWERING, enable_task_events=False).remote()
                await settle(answer, timeout_s=ANSWER_S, node=node.name)
        except NodeLostError:  # which all who called it hear of; its next agent may take a while to start
            self.heard(node.id)
        except HubdistError as error:  # it is asked again
            _LOG.debug("hubdist: %s gives no sign of life: %s", node.name, error)
        else:
            self.heard(node.id)
