"""Models that came to nodes while their origins were being read: each is reported once, asked for or not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.report_log import pickled, unpickled
from hubdist.cluster.nodes import Node
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport

_MAX_ARRIVALS = 10_000
"""Of reports that are kept until somebody asks for the model on that node; most often nobody does."""

Coming = asyncio.Task[DeliveryStats | None]


class Arrivals:
    """Reports what came. Owned by the coordinator's event loop.

    Args:
        report: Makes and notes the report of a handle's model that came to a node, by the handle without secrets.
    """

    def __init__(self, report: Callable[[str, Digest, Node, DeliveryStats], NodeReport]) -> None:
        self._report = report
        self._coming: dict[tuple[Digest, str], Coming] = {}
        self._came: dict[tuple[Digest, str], bytes] = {}

    def expect(self, handle: str, digest: Digest, node: Node, coming: Coming) -> None:
        """A model is on its way to a node.

        Args:
            handle: Its handle without secrets.
            digest: The model's.
            node: Which.
            coming: Ends when the node has it, with what it took; with None or an error if it will not have it.
        """
        self._coming[digest, node.id] = coming
        coming.add_done_callback(functools.partial(self._note, handle, digest, node))

    async def take(self, digest: Digest, node: Node) -> NodeReport | None:
        """The report of a model that came, or is coming, to a node: once, for the first who asks.

        It has been noted already. That the node has the model still is for the caller to find out. None if none did.
        """
        coming = self._coming.get((digest, node.id))
        if coming is not None:
            await asyncio.wait([coming])
            await asyncio.sleep(0)  # so that it has been noted
        came = self._came.pop((digest, node.id), None)
        return None if came is None else unpickled(came)

    def _note(self, handle: str, digest: Digest, node: Node, came: Coming) -> None:
        key = (digest, node.id)
        if self._coming.get(key) is came:
            del self._coming[key]
        brought = None if came.cancelled() or came.exception() is not None else came.result()
        if brought is None:
            return
        self._came[key] = pickled(self._report(handle, digest, node, brought))
        if len(self._came) > _MAX_ARRIVALS:
            del self._came[next(iter(self._came))]
