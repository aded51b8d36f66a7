"""How large the chunks of a delivery are."""

from __future__ import annotations

from hubdist.manifest import BLOCK_BYTES

_FEW_NODES = 16
_CHUNKS_WANTED = {True: 256, False: 128}
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
    wanted = min(_MAX_CHUNK_BYTES, -(-total_bytes // _CHUNKS_WANTED[nodes <= _FEW_NODES]), room_bytes // 8)
    return max(1, -(-wanted // BLOCK_BYTES)) * BLOCK_BYTES
