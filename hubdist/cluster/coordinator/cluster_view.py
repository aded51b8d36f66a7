"""The cluster as the coordinator sees it: which nodes are alive, and what time it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hubdist.cluster.nodes import Node, alive_nodes


class ClusterView:
    """Tells which nodes are alive. The coordinator makes one and hands it to all its parts.

    Args:
        list_nodes: Lists the nodes that are alive; may block, and may be called in any thread.
        clock: Tells the time in seconds.
    """

    def __init__(
        self, list_nodes: Callable[[], list[Node]] = alive_nodes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.list_nodes = list_nodes
        self.clock = clock

    async def alive(self) -> list[Node]:
        """Return the nodes that are alive now, without blocking the event loop.

        Raises:
            PeerError: The cluster gives no answer.
        """
        return await asyncio.to_thread(self.list_nodes)

    async def alive_ids(self) -> set[str]:
        """Return the ids of the nodes that are alive now.

        Raises:
            PeerError: The cluster gives no answer.
        """
        return {node.id for node in await self.alive()}
