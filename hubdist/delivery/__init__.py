"""PURE: who sends which chunk to whom. Events in, commands out; no I/O, no clock, no threads, no ray.

One `DeliveryPlan` brings one model's chunks to a set of nodes. The coordinator feeds it what happened and carries out
what it answers; `benchmarks/simulate.py` drives the same code with thousands of nodes that do not exist.
"""

from hubdist.delivery.chunk_sizes import choose_chunk_bytes
from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunksAdded,
    Closed,
    Command,
    Event,
    Fetch,
    Finish,
    HolderJoined,
    NodeFailed,
    NodeHeard,
    NodeJoined,
    NodePublished,
    NodeSilent,
    Publish,
    SourceFailed,
)
from hubdist.delivery.plan import MAX_TRIES, DeliveryPlan

__all__ = [
    "MAX_TRIES",
    "ChunkArrived",
    "ChunkFailed",
    "ChunksAdded",
    "Closed",
    "Command",
    "DeliveryPlan",
    "Event",
    "Fetch",
    "Finish",
    "HolderJoined",
    "NodeFailed",
    "NodeHeard",
    "NodeJoined",
    "NodePublished",
    "NodeSilent",
    "Publish",
    "SourceFailed",
    "choose_chunk_bytes",
]
