"""Reads chunks of the driver's snapshots, for processes that get them as answers of the coordinator."""

from __future__ import annotations

from typing import Any

from hubdist.model.chunks import Chunk
from hubdist.store.snapshot import Snapshot


def read_chunk(snapshot: Snapshot, chunk: Chunk) -> Any:
    """Return a chunk's bytes, checked, as a numpy array of uint8, which Ray sends without a copy.

    Args:
        snapshot: The snapshot to read.
        chunk: Which bytes.

    Raises:
        IntegrityError: The snapshot is damaged.
    """
    import numpy as np  # which few coordinators need, and takes long to load

    data = np.empty(chunk.size, dtype=np.uint8)
    snapshot.read_chunk(chunk, data.data)
    return data
