"""PURE: who sends which chunk to whom. Events in, commands out; no I/O, no clock, no threads, no ray.

One `DeliveryPlan` brings one model's chunks to a set of nodes. The coordinator tells the plan what happened and carries
out the commands that the plan answers. `benchmarks/simulate.py` drives the same code with thousands of simulated nodes.
"""

from hubdist.delivery.chunk_sizes import choose_chunk_bytes
from hubdist.delivery.events import (
    ChunkArrived,
    ChunkFailed,
    ChunksReady,
    Command,
    Event,
    Fetch,
    Finish,
    HolderJoined,
    NodeEvent,
    NodeFailed,
    NodeHeard,
    NodeJoined,
    NodePublished,
    NodeSilent,
    Publish,
    SourceFailed,
    SourcePublished,
)
from hubdist.delivery.forest import choose_stripes
from hubdist.delivery.plan import MAX_TRIES, DeliveryPlan
from hubdist.delivery.stream_events import (
    Follow,
    Newcomer,
    NodeComplete,
    NodesJoined,
    NodeStuck,
    Reseat,
    StreamBroke,
    StreamCommand,
    StreamEvent,
    StreamLags,
)
from hubdist.delivery.stream_plan import StreamPlan

__all__ = [
    "MAX_TRIES",
    "ChunkArrived",
    "ChunkFailed",
    "ChunksReady",
    "Command",
    "DeliveryPlan",
    "Event",
    "Fetch",
    "Finish",
    "Follow",
    "HolderJoined",
    "Newcomer",
    "NodeComplete",
    "NodeEvent",
    "NodeFailed",
    "NodeHeard",
    "NodeJoined",
    "NodePublished",
    "NodeSilent",
    "NodeStuck",
    "NodesJoined",
    "Publish",
    "Reseat",
    "SourceFailed",
    "SourcePublished",
    "StreamBroke",
    "StreamCommand",
    "StreamEvent",
    "StreamLags",
    "StreamPlan",
    "choose_chunk_bytes",
    "choose_stripes",
]
