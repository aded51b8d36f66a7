"""Reads models from the driver's node chunk by chunk, for a process whose store no agent fills."""

from __future__ import annotations

from typing import Any

from hubdist.cluster.connection import CoordinatorConnection
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.store import Store

_PULL_BYTES = 4 << 20


def read_chunk(connection: CoordinatorConnection, digest: Digest, chunk: Chunk) -> Any:
    """The bytes of one chunk, from the driver's node, as an array of uint8.

    Args:
        connection: This process's connection to the coordinator.
        digest: The model.
        chunk: The part to read.
    """
    return connection.call(lambda coordinator: coordinator.read.remote(digest, chunk))


def pull(connection: CoordinatorConnection, store: Store, digest: Digest) -> None:
    """Bring a model to a store that no agent fills: outside the cluster, or a task's own.

    Args:
        connection: This process's connection to the coordinator.
        store: The store of this process.
        digest: The model.

    Raises:
        NotPinnedError: Nobody has the model, and the job has not resolved it.
        IntegrityError, StoreError: The bytes are not the model's, or the store cannot take them.
    """
    manifest: Manifest = connection.call(lambda coordinator: coordinator.manifest.remote(digest))
    with store.stage_chunks(manifest) as stage:
        for chunk in cut_chunks(manifest, _PULL_BYTES):
            stage.write_chunk(chunk, memoryview(read_chunk(connection, manifest.digest, chunk)))
        store.publish(stage).release()
