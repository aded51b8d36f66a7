"""Finds nodes that give no answer: their host is gone or stopped, and no closed connection says so.

Ray needs up to a minute to declare such a node dead, and a chunk may take `chunk_timeout_s`. Other nodes must not wait
that long, and a slow node must not be taken for a dead one. So a node that owes an answer and has given none for a
while gets a call that costs nothing. A node that lives answers it in milliseconds, however slow its links are.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from hubdist.cluster.agent.chunk_rpc import ANSWER_GROUP
from hubdist.cluster.calls import settle
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.errors import HubdistError, NodeLostError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LivenessTimes:
    """How long nodes may give no answer, and how often the coordinator looks.

    `quiet_s`, `silent_s` and `look_s` together stay well below the 15 s for which a lost node may delay others, and far
    above what an answer takes on a busy node.

    Attributes:
        quiet_s: After this many seconds without any answer a node is asked for one.
        silent_s: A node that does not answer that question for so many seconds is silent: others do not count on it.
        look_s: Seconds between two looks at all nodes of a delivery.
        pause_s: If nobody looked at a node for longer than this, its earlier silence does not count.
        answer_s: After this many seconds without an answer the question is asked again.
    """

    quiet_s: float = 2.0
    silent_s: float = 6.0
    look_s: float = 1.0
    pause_s: float = 5.0
    answer_s: float = 20.0


DEFAULT_TIMES = LivenessTimes()


@dataclass(slots=True)
class _Heard:
    """When a node was heard, and what it was asked.

    Attributes:
        last: Time of the node's last answer.
        looked: Time when `silent_s` was last called for the node.
        asked: Time of the first question since the last answer; None if the node was not asked.
        call: The last question; not done while it has no answer.
    """

    last: float
    looked: float
    asked: float | None = None
    call: asyncio.Task[None] | None = None


class Liveness:
    """Notes answers of nodes, and asks for them; one for all deliveries of a job. Owned by one event loop.

    Args:
        agents: Lends the agents that are asked.
        cluster: Tells the time.
        times: How long nodes may give no answer.
    """

    def __init__(self, agents: AgentPool, cluster: ClusterView, times: LivenessTimes = DEFAULT_TIMES) -> None:
        self._agents = agents
        self._clock = cluster.clock
        self._times = times
        self._nodes: dict[str, _Heard] = {}

    def heard(self, node_id: str) -> None:
        """Note that a node gave an answer of any kind."""
        known = self._nodes.get(node_id)
        if known is None:
            self._nodes[node_id] = _Heard(self._clock(), self._clock())
        else:
            known.last, known.asked = self._clock(), None

    def silent_s(self, node: Node) -> float:
        """Return for how many seconds a node has given no answer to a question; ask the node if it has been quiet.

        Call this every `look_s` seconds while the node owes an answer; after a longer pause the seconds count from 0.
        """
        now = self._clock()
        known = self._nodes.setdefault(node.id, _Heard(now, now))
        if now - known.looked > self._times.pause_s:
            known.asked = None
        known.looked = now
        if now - known.last >= self._times.quiet_s and (known.call is None or known.call.done()):
            known.asked = now if known.asked is None else known.asked
            known.call = asyncio.create_task(self._ask(node))
        return 0.0 if known.asked is None else now - known.asked

    def is_silent(self, node: Node) -> bool:
        """Return True if others should not count on a node; call this every `look_s` seconds, like `silent_s`."""
        return self.silent_s(node) >= self._times.silent_s

    def forget(self, node_id: str) -> None:
        """Forget a node that is gone."""
        self._nodes.pop(node_id, None)

    async def _ask(self, node: Node) -> None:
        try:
            async with self._agents.use(node) as agent:
                answer = agent.answer.options(concurrency_group=ANSWER_GROUP, enable_task_events=False).remote()
                await settle(answer, timeout_s=self._times.answer_s, node=node.name)
        except NodeLostError:  # not silence: other calls of the agent fail too, and its next agent needs time to start
            self.heard(node.id)
        except HubdistError as error:  # `silent_s` asks again
            _LOG.debug("hubdist: %s does not say that it is alive: %s", node.name, error)
        else:
            self.heard(node.id)
