"""How large the chunks of a delivery are."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.model.manifest import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class _SizeGoal:
    """What the chunk size of a delivery aims at.

    Attributes:
        chunks: About how many chunks a model is cut into.
        chunks_in_flight: How many chunks the room of a node holds at least.
    """

    chunks: int
    chunks_in_flight: int


# A delivery takes a few chunk times longer than a plain copy, so there should be many chunks. But each chunk costs the
# coordinator one call for each node, so there are fewer of them if there are many nodes.
_MAX_FEW_NODES = 128
_FEW_NODES = _SizeGoal(chunks=128, chunks_in_flight=8)
_MANY_NODES = _SizeGoal(chunks=80, chunks_in_flight=4)

_MAX_CHUNK_BYTES = 32 << 20


def choose_chunk_bytes(total_bytes: int, *, room_bytes: int, nodes: int) -> int:
    """Return the size of a model's chunks, in whole blocks.

    Args:
        total_bytes: Bytes of the model.
        room_bytes: Bytes that may be in flight to a node; it holds a few chunks.
        nodes: How many nodes will get the model.
    """
    goal = _FEW_NODES if nodes <= _MAX_FEW_NODES else _MANY_NODES
    wanted = min(_MAX_CHUNK_BYTES, -(-total_bytes // goal.chunks), room_bytes // goal.chunks_in_flight)
    return max(1, -(-wanted // BLOCK_BYTES)) * BLOCK_BYTES
