"""Brings a model to a process's node: enclosed in the coordinator's answer if it is small, else by a delivery."""

from __future__ import annotations

from hubdist.cluster.connection import CoordinatorConnection
from hubdist.cluster.enclosure_fetch import fetch_enclosed
from hubdist.delivery.routes import Route
from hubdist.report.delivery import NodeReport
from hubdist.resolver.values import LoaderPin
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.tracing import span


def bring(connection: CoordinatorConnection, store: Store, pin: LoaderPin, node_id: str) -> Snapshot | None:
    """Bring a model into the node's store.

    Args:
        connection: Asks the coordinator.
        store: The node's store.
        pin: The model.
        node_id: Ray's id of the node.

    Returns:
        The snapshot of a small model; None if agents have delivered the model into the store.

    Raises:
        TransferError, IntegrityError, StoreError: The model did not reach this node.
    """
    with span("hubdist.deliver", handle=pin.handle, digest=str(pin.digest), node=node_id) as seen:
        snapshot = fetch_enclosed(connection, store, pin, node_id)
        if snapshot is not None:
            seen.set(route=str(Route.DRIVER), bytes=snapshot.manifest.total_bytes)
            return snapshot
        report: NodeReport = connection.call(lambda coordinator: coordinator.deliver.remote(pin, node_id))
        seen.set(route=str(report.route), bytes=report.bytes_received, retries=report.retries)
    return None
