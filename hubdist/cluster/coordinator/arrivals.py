"""Reports of models that came to nodes while the origin was being read: one report for each, asked for or not."""

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
"""Reports that are kept until somebody asks for the model on that node; most often nobody does."""

Coming = asyncio.Task[DeliveryStats | None]


class Arrivals:
    """Makes the reports of early arrivals. Owned by the coordinator's event loop.

    Args:
        report: Makes and notes the report of a model that came to a node. Gets the handle without secrets.
    """

    def __init__(self, report: Callable[[str, Digest, Node, DeliveryStats], NodeReport]) -> None:
        self._report = report
        self._coming: dict[tuple[Digest, str], Coming] = {}
        self._came: dict[tuple[Digest, str], bytes] = {}

    def expect(self, handle: str, digest: Digest, node: Node, coming: Coming) -> None:
        """Note that a model is on its way to a node.

        Args:
            handle: The model's handle without secrets.
            digest: The model's digest.
            node: The node.
            coming: Ends with the delivery's figures when the node has the model; ends with None or an error if the node
                will not get the model.
        """
        self._coming[digest, node.id] = coming
        coming.add_done_callback(functools.partial(self._note, handle, digest, node))

    async def take(self, digest: Digest, node: Node) -> NodeReport | None:
        """Return the report of a model that came, or is coming, to a node; the first caller gets the report.

        The report has been noted already. The caller checks that the node still has the model.

        Args:
            digest: The model's digest.
            node: The node.

        Returns:
            None if the model did not come to the node early, or if its report was taken before.
        """
        coming = self._coming.get((digest, node.id))
        if coming is not None:
            await asyncio.wait([coming])
            await asyncio.sleep(0)  # lets the task's callback, `_note`, run
        came = self._came.pop((digest, node.id), None)
        return None if came is None else unpickled(came)

    def _note(self, handle: str, digest: Digest, node: Node, came: Coming) -> None:
        key = (digest, node.id)
        if self._coming.get(key) is came:
            del self._coming[key]
        stats = None if came.cancelled() or came.exception() is not None else came.result()
        if stats is None:
            return
        self._came[key] = pickled(self._report(handle, digest, node, stats))
        if len(self._came) > _MAX_ARRIVALS:
            del self._came[next(iter(self._came))]
