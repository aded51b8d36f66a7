"""How a node's report is filled in: by what the node had, copied by itself, or got from others."""

from __future__ import annotations

from dataclasses import replace

from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.nodes import Node
from hubdist.delivery.routes import Evidence, RouteChoice, order_routes
from hubdist.model.manifest import Digest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.delivery import NodeReport


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


def with_copied(report: NodeReport, choice: RouteChoice, copy: RemoteCopy, read_bytes: int | None) -> NodeReport:
    """The report of a node that copied the model from storage alone.

    Args:
        report: What is known so far.
        choice: The route, and why it was taken.
        copy: Where the node read.
        read_bytes: How much it read; None if its store had the model.
    """
    if read_bytes is None:
        return with_store_hit(report)
    return replace(
        report,
        route=choice.route,
        reason=choice.reason,
        source=copy.redacted,
        bytes_received=read_bytes,
        sources=((copy.redacted, read_bytes),),
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
        bytes_received=sum(size for _, size in stats.sources),
        sources=stats.sources,
        timeline=stats.timeline,
        retries=stats.retries,
        refused=stats.refused,
    )
