"""How large the chunks of a delivery are."""

from __future__ import annotations

from hubdist.manifest import BLOCK_BYTES

_CHUNKS_WANTED = ((16, 256), (1024, 128))
"""Up to as many nodes, about so many chunks."""

_FEWEST_CHUNKS = 96
"""A delivery takes a few chunk times longer than a plain copy, so chunks are many; each of them costs the coordinator a
call for each node, so they are fewer if there are many nodes."""

_MAX_CHUNK_BYTES = 32 << 20


def choose_chunk_bytes(total_bytes: int, *, room_bytes: int, nodes: int) -> int:
    """The size of a model's chunks, in whole blocks.

    Args:
        total_bytes: Bytes of the model.
        room_bytes: Bytes that may be in flight to a node; it holds a few chunks.
        nodes: How many nodes will get the model.
    """
    chunks = next((count for most, count in _CHUNKS_WANTED if nodes <= most), _FEWEST_CHUNKS)
    wanted = min(_MAX_CHUNK_BYTES, -(-total_bytes // chunks), room_bytes // 8)
    return max(1, -(-wanted // BLOCK_BYTES)) * BLOCK_BYTES
