"""How large the chunks of a delivery are."""

from __future__ import annotations

from hubdist.model.manifest import BLOCK_BYTES

_CHUNKS = ((128, 128, 8), (1 << 30, 80, 4))
"""Up to as many nodes: about so many chunks, and at least so many in flight.

A delivery takes a few chunk times longer than a plain copy, so chunks are many; each of them costs the coordinator a
call for each node, so they are not more, and fewer if there are many nodes.
"""

_MAX_CHUNK_BYTES = 32 << 20


def choose_chunk_bytes(total_bytes: int, *, room_bytes: int, nodes: int) -> int:
    """The size of a model's chunks, in whole blocks.

    Args:
        total_bytes: Bytes of the model.
        room_bytes: Bytes that may be in flight to a node; it holds a few chunks.
        nodes: How many nodes will get the model.
    """
    chunks, in_flight = next((chunks, in_flight) for most, chunks, in_flight in _CHUNKS if nodes <= most)
    wanted = min(_MAX_CHUNK_BYTES, -(-total_bytes // chunks), room_bytes // in_flight)
    return max(1, -(-wanted // BLOCK_BYTES)) * BLOCK_BYTES
