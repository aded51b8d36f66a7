"""The feeds of a job: one for each handle whose origin is being read, with the nodes that need the model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Collection

from hubdist.cluster.coordinator.delivery_reports import Arrivals
from hubdist.cluster.coordinator.origin_feed import OriginFeed
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest


class OpenFeeds:
    """One feed for each handle whose origin is being read. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        running: The deliveries of the job.
        stores: Tells which nodes see the same store.
        arrivals: Reports the models that come by a feed, whether anybody asks for them or not.
        probes: Asks nodes what their stores have.
        cluster: Tells which nodes are alive.
        find_known: Returns the digests of the blocks in older snapshots of the driver's store.
    """

    def __init__(
        self,
        node: Node,
        running: RunningDeliveries,
        stores: StoreGroups,
        *,
        arrivals: Arrivals,
        probes: Probes,
        cluster: ClusterView,
        find_known: Callable[[], Collection[bytes]] = frozenset,
    ) -> None:
        self._node = node
        self._running = running
        self._stores = stores
        self._arrivals = arrivals
        self._probes = probes
        self._cluster = cluster
        self._find_known = find_known
        self._open: dict[str, OriginFeed] = {}
        """`Handle.key` -> its feed."""
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, handle: Handle, node_ids: list[str], likely: Digest | None, *, at_once: bool = False) -> OriginFeed:
        """The feed of a handle, with further nodes that take part.

        Args:
            handle: The handle.
            node_ids: Ray's ids of the nodes that need the model.
            likely: What the handle stood for last time; a node that has that model is left out. None leaves out none.
            at_once: Start agents however little has been read, because nodes need them for a small model too.
        """
        feed = self._open.get(handle.key)
        if feed is None:
            feed = self._open[handle.key] = self.make(handle.redacted)
        if at_once:
            feed.begin()
        task = asyncio.create_task(self._add_nodes(feed, node_ids, likely))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return feed

    def close(self, handle: Handle, feed: OriginFeed) -> None:
        """Forget the feed of a handle: its origin has been read, or could not be read.

        Args:
            handle: The handle.
            feed: The feed that was opened for it.
        """
        feed.end()
        if self._open.get(handle.key) is feed:
            del self._open[handle.key]

    def make(self, handle: str) -> OriginFeed:
        """A feed without nodes, for a handle without secrets."""
        expect = functools.partial(self._arrivals.expect, handle)
        return OriginFeed(self._running, self._node, self._stores, expect, self._cluster, find_known=self._find_known)

    async def _add_nodes(self, feed: OriginFeed, node_ids: list[str], likely: Digest | None) -> None:
        if not await feed.begins():
            return
        for node in await self._cluster.alive():
            if node.id not in node_ids or node.id == self._node.id:
                continue
            with contextlib.suppress(HubdistError):  # a node that cannot be asked gets the model later, or an error
                if likely is None or not await self._probes.holds(node, likely):
                    feed.add(node)
