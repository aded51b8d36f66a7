"""What nodes got, noted once each: by the call that asked for it, or without one while an origin was being read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from hubdist.cluster.coordinator.arrivals import Arrivals
from hubdist.cluster.coordinator.node_reports import empty_report, with_received
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.report_log import ReportLog, thinned
from hubdist.cluster.nodes import Node
from hubdist.delivery.routes import Route, RouteChoice
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport

_LOG = logging.getLogger(__name__)
_EARLY = RouteChoice(Route.DRIVER, "it came while the origin was being read")
_MAX_REPORTS = 1_000
_MAX_POINTS = 1 << 15
"""Of all timelines of a job together, about: a prefetch of thousands of models to hundreds of nodes holds all their
reports at once. So each further timeline gets fewer points, but not fewer than `_MIN_POINTS`."""

_MIN_POINTS = 4


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
        self.log = ReportLog(_MAX_REPORTS)
        self.arrivals = Arrivals(self._note_arrival)

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
        self.log.note(report)
        _LOG.info("hubdist: %s to %s", report.handle, report)
        return report

    def _note_arrival(self, handle: str, digest: Digest, node: Node, stats: DeliveryStats) -> NodeReport:
        report = with_received(empty_report(node, handle, digest), _EARLY, self._node.name, stats)
        return self.note(digest, node, replace(report, seconds=report.timeline[-1][0] if report.timeline else 0.0))
