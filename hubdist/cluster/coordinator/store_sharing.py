"""Nodes that see the store of another node: nothing is sent to them, they wait until that node has the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.liveness import DEFAULT_TIMES, Liveness, LivenessTimes
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.nodes import Node
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport

_LOG = logging.getLogger(__name__)


class StoreSharing:
    """Waits for models in shared stores. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        stores: Tells which nodes see the same store.
        snapshots: The driver's store.
        probes: Asks nodes what their stores have.
        liveness: Tells which nodes give no answer.
        times: How often to look whether a node still answers.
    """

    def __init__(
        self,
        node: Node,
        stores: StoreGroups,
        snapshots: DriverSnapshots,
        probes: Probes,
        liveness: Liveness,
        *,
        times: LivenessTimes = DEFAULT_TIMES,
    ) -> None:
        self._node = node
        self._stores = stores
        self._snapshots = snapshots
        self._probes = probes
        self._liveness = liveness
        self._look_s = times.look_s

    async def wait_for(
        self, digest: Digest, node: Node, send: Callable[[Node], Coroutine[Any, Any, NodeReport]]
    ) -> str | None:
        """Wait until a node that shares this one's store has a model.

        Args:
            digest: The model.
            node: The node that needs the model.
            send: Brings the model to the other node. It never waits for a shared store, so nodes cannot wait for each
                other in a circle.

        Returns:
            Why the node has the model now, as a clause; None if it has to get the model itself.

        Raises:
            NodeLostError: The node is gone.
            TransferTimeoutError: The node gives no answer.
        """
        first = await self._stores.first(node)
        if first.id == node.id:
            return None
        if not await self._probes.holds(node, digest):
            if first.id != self._node.id or await self._snapshots.find(digest) is None:
                report = await self._while_answering(first, send(first))
                if report is None or report.error is not None:
                    return None
            # A network file system may show the node an old directory, so the node has to look anew.
            if not await self._probes.look_again(node, digest):
                return None
        return self._stores.reason(first)

    async def _while_answering(self, first: Node, work: Coroutine[Any, Any, NodeReport]) -> NodeReport | None:
        """The report of a delivery to another node; None as soon as that node gives no answer."""
        task = asyncio.create_task(work)
        while not (await asyncio.wait([task], timeout=self._look_s))[0]:
            if self._liveness.is_silent(first):
                _LOG.warning("hubdist: %s gives no answer; nodes that share its store do not wait for it", first.name)
                return None  # the delivery goes on, and reports its end
        return task.result()
