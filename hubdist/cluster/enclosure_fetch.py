"""A process's side of enclosures: asks the coordinator for a small model, and puts it into the node's store."""

from __future__ import annotations

import logging
import time

from hubdist.cluster.agent.chunk_rpc import result_count
from hubdist.cluster.connection import CoordinatorConnection
from hubdist.cluster.enclosure import MAX_ENCLOSED_BYTES, publish_enclosed
from hubdist.errors import HubdistError
from hubdist.resolver.values import LoaderPin
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store

_LOG = logging.getLogger(__name__)

_TURN_S = 5.0
"""How long a process waits for another one of its node that fetches the same enclosure."""


def fetch_enclosed(connection: CoordinatorConnection, store: Store, pin: LoaderPin, node_id: str) -> Snapshot | None:
    """Bring a small model to this node, without an agent. Of the processes of a node one asks; the others wait for it.

    Args:
        connection: This process's connection to the coordinator.
        store: The node's store.
        pin: The model.
        node_id: Ray's id of the node.

    Returns:
        The snapshot; None if the model has to be delivered by agents: it is large, the coordinator is busy or takes
        another route, or the store cannot take what came. The agent then meets the same error, and reports it.
    """
    if store.read_only or (pin.total_bytes is not None and pin.total_bytes > MAX_ENCLOSED_BYTES):
        return None
    with store.lock(f"enclosure-{pin.digest.value}", _TURN_S):
        store.refresh()
        snapshot = store.find(pin.digest)
        return snapshot or _fetch(connection, store, pin, node_id)


def _fetch(connection: CoordinatorConnection, store: Store, pin: LoaderPin, node_id: str) -> Snapshot | None:
    begin = time.monotonic()
    results = 1 + result_count(MAX_ENCLOSED_BYTES if pin.total_bytes is None else pin.total_bytes)
    manifest, *parts = connection.call(
        lambda coordinator: coordinator.enclose.options(num_returns=results).remote(pin, node_id, results)
    )
    if manifest is None:
        return None
    try:
        snapshot = publish_enclosed(store, pin.digest, manifest, parts)
    except HubdistError as error:
        _LOG.info("hubdist: %s is delivered by an agent, because what was enclosed was refused: %s", pin.handle, error)
        connection.tell(lambda coordinator: coordinator.note_enclosed.remote(pin, node_id, None))
        return None
    seconds = time.monotonic() - begin
    connection.tell(lambda coordinator: coordinator.note_enclosed.remote(pin, node_id, seconds))
    return snapshot
