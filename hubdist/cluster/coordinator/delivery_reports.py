"""The report of each node that got a model, noted once.

A call that asks for a model fills in the report and notes it. A model that comes while its origin is being read may
come before any call: then the report is noted when the model has come, and the first call that asks gets it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.report_log import ReportLog, pickled, thinned, unpickled
from hubdist.cluster.nodes import Node
from hubdist.delivery.routes import ENCLOSED, Evidence, Route, RouteChoice, order_routes
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.delivery import OWN_STORE, NodeReport

_MAX_ARRIVALS = 10_000
"""Reports that are kept until somebody asks for the model on that node; most often nobody does."""

Coming = asyncio.Task[DeliveryStats | None]
_LOG = logging.getLogger(__name__)
_EARLY = RouteChoice(Route.DRIVER, "it came while the origin was being read")
_MAX_REPORTS = 1_000
_MAX_POINTS = 1 << 15
"""Of all timelines of a job together, about: a prefetch of thousands of models to hundreds of nodes holds all their
reports at once. So each further timeline gets fewer points, but not fewer than `_MIN_POINTS`."""

_MIN_POINTS = 4


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


def empty_report(node: Node, handle: str, digest: Digest) -> NodeReport:
    """The report of a node before anything is known.

    Args:
        node: The node.
        handle: The model's handle without secrets.
        digest: The model.
    """
    return NodeReport(node.id, node.name, handle, str(digest), None, "")


def with_store_hit(report: NodeReport) -> NodeReport:
    """The report of a node whose store had the model."""
    found = order_routes(Evidence(node_holds_snapshot=True)).first
    return replace(report, route=found.route, reason=found.reason)


def with_copied(
    report: NodeReport, choice: RouteChoice, copy: RemoteCopy, read_bytes: int | None, total_bytes: int
) -> NodeReport:
    """The report of a node that copied the model from storage alone.

    Args:
        report: What is known so far.
        choice: The route, and why it was taken.
        copy: Where the node read.
        read_bytes: How much it read; None if its store had the model.
        total_bytes: The size of the model.
    """
    if read_bytes is None:
        return with_store_hit(report)
    return replace(
        report,
        route=choice.route,
        reason=choice.reason,
        source=copy.redacted,
        bytes_received=read_bytes,
        sources=tuple(
            (name, size) for name, size in ((copy.redacted, read_bytes), (OWN_STORE, total_bytes - read_bytes)) if size
        ),
    )


def with_received(report: NodeReport, choice: RouteChoice, source: str, stats: DeliveryStats | None) -> NodeReport:
    """The report of a node that took part in a delivery.

    Args:
        report: What is known so far.
        choice: The route, and why it was taken.
        source: Where the delivery's chunks came from first: a node by name, or a URL without secrets.
        stats: What it took; None if the node's store had the model.
    """
    if stats is None:
        return with_store_hit(report)
    return replace(
        report,
        route=choice.route,
        reason=choice.reason,
        source=source,
        bytes_received=sum(size for name, size in stats.sources if name != OWN_STORE),
        sources=stats.sources,
        timeline=stats.timeline,
        retries=stats.retries,
        refused=stats.refused,
        closed_ports=stats.closed_ports,
    )


def with_predictions(
    reports: Sequence[NodeReport], total_bytes: int, link: float | None, *, agents_run: bool
) -> list[NodeReport]:
    """The reports of one delivery, with what the planner says beside the real times. Takes long for many nodes.

    Args:
        reports: The reports of all nodes, in any order.
        total_bytes: Bytes of the model.
        link: Bytes per second of each node's link; None if nobody has said it, and then nothing is predicted.
        agents_run: False if agents had to start.
    """
    received = [
        report for report in reports if report.route is Route.DRIVER and report.bytes_received and report.error is None
    ]
    if link is None or not received:
        return list(reports)
    ids = {id(report) for report in received}
    from hubdist.delivery.what_if import Links, predict  # loads numpy, which a coordinator needs for nothing else

    seconds = predict(total_bytes, Links([link] * len(received), link), agents_run=agents_run).seconds
    return [replace(report, predicted_s=seconds) if id(report) in ids else report for report in reports]


class DeliveryReports:
    """Notes reports, and hands out those of models that came early. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        note_holder: Is told of each node that has a model, so that the node may send it to others.

    Attributes:
        log: The reports that are kept.
        arrivals: The models that come while their origins are being read.
    """

    def __init__(self, node: Node, note_holder: Callable[[Digest, Node], None]) -> None:
        self._node = node
        self._note_holder = note_holder
        self._listeners: list[Callable[[NodeReport], None]] = []
        self.log = ReportLog(_MAX_REPORTS)
        self.arrivals = Arrivals(self._note_arrival)

    def listen(self, listener: Callable[[NodeReport], None]) -> None:
        """Let a function hear of each report that is noted from now on."""
        self._listeners.append(listener)

    def note(self, digest: Digest, node: Node, report: NodeReport) -> NodeReport:
        """Note what a node got; returns the report as it is handed out, with a shorter timeline.

        Args:
            digest: The model.
            node: The node.
            report: How the node got the model, or why it did not.
        """
        max_points = max(_MIN_POINTS, _MAX_POINTS // (self.log.count + 1))
        report = replace(report, timeline=thinned(report.timeline, max_points))
        if report.error is None:
            self._note_holder(digest, node)
        return self._log(report)

    def note_enclosed(self, handle: str, manifest: Manifest, node: Node, seconds: float) -> NodeReport:
        """Note that a process got a small model in the coordinator's answer.

        The node is not noted as one that can send the model: to start its agent for that is not worth it.

        Args:
            handle: The model's handle without secrets.
            manifest: The model's files.
            node: The node of the process.
            seconds: From the question to the published snapshot.
        """
        size = manifest.total_bytes
        stats = DeliveryStats(((self._node.name, size),), ((seconds, size),), retries=0, refused=0)
        report = with_received(empty_report(node, handle, manifest.digest), ENCLOSED, self._node.name, stats)
        return self._log(replace(report, seconds=seconds))

    def _log(self, report: NodeReport) -> NodeReport:
        report = replace(report, ended=time.time())
        self.log.note(report)
        for listener in self._listeners:
            listener(report)
        _LOG.info("hubdist: %s to %s", report.handle, report)
        return report

    def _note_arrival(self, handle: str, digest: Digest, node: Node, stats: DeliveryStats) -> NodeReport:
        report = with_received(empty_report(node, handle, digest), _EARLY, self._node.name, stats)
        return self.note(digest, node, replace(report, seconds=report.timeline[-1][0] if report.timeline else 0.0))
