"""Watches the nodes of one delivery: which of them are gone, and which give no answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from hubdist.cluster.coordinator.context import DeliveryContext
from hubdist.cluster.coordinator.fetches import Fetches
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError

_LOG = logging.getLogger(__name__)


class NodeWatch:
    """Looks after the nodes of a delivery from time to time. Owned by the coordinator's event loop.

    A node that only sends owes nobody an answer that would tell its death, so nodes are looked up in the cluster too.

    Args:
        nodes: The delivery's nodes by id; nodes come and go while the delivery runs.
        fetches: Knows which nodes owe an answer, and which are silent.
        context: What all deliveries share.
        lost: Called with a node that is gone or silent for too long, and the reason.
        silent: Called with a node that has become silent.
        heard: Called with a node that was silent and answers again.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        fetches: Fetches,
        context: DeliveryContext,
        *,
        lost: Callable[[Node, str], None],
        silent: Callable[[Node], None],
        heard: Callable[[Node], None],
    ) -> None:
        self._nodes = nodes
        self._fetches = fetches
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
        known, times = self._fetches.silent, self._context.times
        max_silent_s = max(self._context.config.chunk_timeout_s, 2 * times.silent_s)
        for node in [*(self._fetches.owing | known).values()]:
            seconds = self._context.liveness.silent_s(node)
            if seconds >= max_silent_s:
                self._lost(node, f"the node gave no answer for {seconds:.0f} s")
            elif seconds >= times.silent_s and node.id not in known:
                _LOG.warning("hubdist: %s gives no answer; other nodes are asked for what it should send", node.name)
                self._silent(node)
            elif seconds == 0 and node.id in known:
                _LOG.warning("hubdist: %s answers again", node.name)
                self._heard(node)
