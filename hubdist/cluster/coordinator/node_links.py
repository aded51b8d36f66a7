"""The nodes of one delivery: the agents that it keeps until its end, and a watch for nodes that are gone or silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.finished_deliveries import FinishedDeliveries
from hubdist.cluster.coordinator.payload import DeliveryContext
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError

_END_S = 2.0
_TOLD_AT_A_TIME = 16
"""Other work of the coordinator comes between the calls that end a delivery to thousands of nodes."""

_LOG = logging.getLogger(__name__)


class NodeLinks:
    """Keeps the agents that may be asked for chunks until the delivery ends. Owned by the coordinator's event loop.

    Args:
        name: Name of the delivery.
        agents: Lends the agents.
        ended: Lets agents forget deliveries that have ended.
    """

    def __init__(self, name: str, agents: AgentPool, ended: FinishedDeliveries) -> None:
        self._name = name
        self._agents = agents
        self._ended = ended
        self._kept: dict[str, Node] = {}
        self._uses = contextlib.AsyncExitStack()
        self._releasing: asyncio.Task[None] | None = None

    async def keep(self, node: Node) -> None:
        """Keep a node's agent from being ended for lack of work, until `release`."""
        if node.id not in self._kept:
            self._kept[node.id] = node  # before the first wait, so that two calls at once keep the agent once
            try:
                await self._uses.enter_async_context(self._agents.use(node))
            except BaseException:
                del self._kept[node.id]
                raise

    async def release(self, first: Node | None) -> None:
        """Keep no agent any longer; those that were kept are told to forget the delivery, a few at a time.

        The call lets go of the agents at once, so that an agent that is kept again later stays. It returns when the
        first one has forgotten, and the others are told when nobody waits, or before they receive again.

        Args:
            first: The node whose agent is told first and at most `_END_S` are waited for it: the driver may need the
                room of the snapshot there. None to wait for nobody.
        """
        kept, self._kept = self._kept, {}
        uses, self._uses = self._uses, contextlib.AsyncExitStack()
        for node in kept.values():
            self._ended.note(node, self._name)
        self._releasing = asyncio.create_task(self._release(iter(kept.values()), uses))
        if first is not None:
            await asyncio.wait([asyncio.create_task(self._ended.tell(first))], timeout=_END_S)

    async def _release(self, nodes: Iterator[Node], uses: contextlib.AsyncExitStack) -> None:
        async def tell_some() -> None:
            for node in nodes:
                await self._ended.tell(node)

        try:
            await asyncio.gather(*(tell_some() for _ in range(_TOLD_AT_A_TIME)))
        finally:
            await uses.aclose()


class NodeWatch:
    """Looks after the nodes of a delivery from time to time. Owned by the coordinator's event loop.

    A node that only sends owes nobody an answer that would tell its death, so nodes are looked up in the cluster too.

    Args:
        nodes: The delivery's nodes by id; nodes come and go while the delivery runs.
        known: Id -> node that is silent.
        owing: Returns id -> node that owes an answer.
        context: What all deliveries share.
        lost: Called with a node that is gone or silent for too long, and the reason.
        silent: Called with a node that has become silent.
        heard: Called with a node that was silent and answers again.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        known: Mapping[str, Node],
        owing: Callable[[], Mapping[str, Node]],
        context: DeliveryContext,
        *,
        lost: Callable[[Node, str], None],
        silent: Callable[[Node], None],
        heard: Callable[[Node], None],
    ) -> None:
        self._nodes = nodes
        self._known = known
        self._owing = owing
        self._context = context
        self._lost = lost
        self._silent = silent
        self._heard = heard
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch; harmless if the watch runs already."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stop watching; `start` begins anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _watch(self) -> None:
        look_s = self._context.times.look_s
        asking: asyncio.Task[list[Node]] | None = None
        while True:
            await asyncio.sleep(look_s)
            asking = asking or asyncio.create_task(self._context.cluster.alive())
            # The cluster may be slow to answer; meanwhile silent nodes are still looked for.
            await asyncio.wait([asking], timeout=look_s)
            if asking.done():
                self._find_lost(asking)
                asking = None
            self._find_silent()

    def _find_lost(self, asked: asyncio.Task[list[Node]]) -> None:
        try:
            alive = {node.id for node in asked.result()}
        except HubdistError as error:
            _LOG.warning("hubdist: %s", error)
            return
        for node in [node for node in self._nodes.values() if node.id not in alive]:
            self._lost(node, "the node is gone")

    def _find_silent(self) -> None:
        """Report nodes that give no answer as silent, later as lost, and as heard when they answer again."""
        known, times = self._known, self._context.times
        max_silent_s = max(self._context.config.chunk_timeout_s, 2 * times.silent_s)
        for node in {**self._owing(), **known}.values():
            seconds = self._context.liveness.silent_s(node)
            if seconds >= max_silent_s:
                self._lost(node, f"the node gave no answer for {seconds:.0f} s")
            elif seconds >= times.silent_s and node.id not in known:
                _LOG.warning("hubdist: %s gives no answer; other nodes are asked for what it should send", node.name)
                self._silent(node)
            elif seconds == 0 and node.id in known:
                _LOG.warning("hubdist: %s answers again", node.name)
                self._heard(node)
