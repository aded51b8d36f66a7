"""What a delivery carries, where its chunks first come from, and what all deliveries of a job share."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.closed_ports import ClosedPorts
from hubdist.cluster.coordinator.concurrency import Slots
from hubdist.cluster.coordinator.finished_deliveries import FinishedDeliveries
from hubdist.cluster.coordinator.liveness import Liveness, LivenessTimes
from hubdist.cluster.coordinator.windows import Windows
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.streams.handshake import SECRET_BYTES

_WATCHED_S = 5.0
_MAX_MODELS = 32
"""How many models a node receives at a time; more if these stand still, as while slow origins are read."""

_SHARED_FROM_BYTES = 2 << 30
"""The manifest of a model of this size takes more than 64 KiB."""

Staged = Callable[[Chunk], tuple[str, Mapping[int, str]]]
"""Chunk -> the name of the stage that holds it, and the paths of the chunk's files in that stage, by their numbers."""


@dataclass(frozen=True, slots=True)
class SeedSource:
    """The seed of a delivery: a node's snapshot, a stage that is still being written, or a remote directory.

    Attributes:
        name: The source's name in the plan: the node's id, or the directory's redacted URL.
        redacted: The source's name for people, without secrets.
        node: The node that has the snapshot or the stage; None for a remote directory.
        staged: Finds a chunk in the stage while the origin is being read; None for a snapshot or a remote directory.
        copy: The remote directory; None for a node.
    """

    name: str
    redacted: str
    node: Node | None
    staged: Staged | None = None
    copy: RemoteCopy | None = None

    @classmethod
    def at(cls, node: Node, staged: Staged | None = None) -> Self:
        """Make the driver's node the source.

        Args:
            node: The driver's node.
            staged: Finds chunks in the stage that is being written there; None if the node has the snapshot.
        """
        return cls(node.id, node.name, node, staged)

    @classmethod
    def remote(cls, copy: RemoteCopy) -> Self:
        """Make a remote directory, which nodes read themselves, the source."""
        return cls(copy.redacted, copy.redacted, None, None, copy)


@dataclass(slots=True)
class Payload:
    """The model that is delivered, as far as it is known.

    Attributes:
        chunks: The model's chunks; more are ready while the origin is being read.
        manifest: The model's manifest; None until the origin has been read.
        ordinals: For each entry of the manifest, the number of its file in the chunks.
        chunk_bytes: The size that the chunks were cut to, from the manifest; None if they were cut while the origin was
            read.
        secret: What nodes must know to get chunks from each other's ports.
        share: Puts a value into Ray's object store, and returns a reference that stands for the value in calls; None
            to send the value itself.
    """

    chunks: list[Chunk] = field(default_factory=list)
    manifest: Manifest | None = None
    ordinals: tuple[int, ...] = ()
    chunk_bytes: int | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)
    share: Callable[[Any], Any] | None = None
    _shared: Any = None

    @property
    def manifest_to_send(self) -> Any:
        """The manifest as an argument of an agent's call: a large one is put into Ray's object store once.

        The coordinator would otherwise send it to each node itself.
        """
        if self._shared is not None:
            return self._shared
        if self.manifest is None or self.share is None or self.total_bytes < _SHARED_FROM_BYTES:
            return self.manifest
        self._shared = self.share(self.manifest)
        return self._shared

    @property
    def terms(self) -> DeliveryTerms:
        """What the nodes agree on, as far as it is known."""
        return DeliveryTerms(self.secret, self.chunk_bytes, self.ordinals)

    @property
    def digest(self) -> Digest | None:
        """The model's digest; None while the origin is being read."""
        return None if self.manifest is None else self.manifest.digest

    @property
    def count(self) -> int | None:
        """How many chunks there are; None while the origin is being read."""
        return None if self.manifest is None else len(self.chunks)

    @property
    def total_bytes(self) -> int:
        """Bytes of the model's chunks so far."""
        if self.manifest is not None:
            return self.manifest.total_bytes  # there may be 100,000 chunks, and each call of a node asks
        return sum(chunk.size for chunk in self.chunks)


class Watching:
    """Remembers whether somebody has looked a moment ago at what arrives: then nodes tell more often.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0

    def note(self) -> None:
        """Note that somebody looks."""
        self._until = self._clock() + _WATCHED_S

    def __bool__(self) -> bool:
        """True if somebody has looked within some seconds."""
        return self._clock() < self._until


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What all deliveries of a job share.

    Attributes:
        cluster: Tells which nodes are alive.
        agents: Starts and lends agents.
        windows: Grants room for bytes in flight.
        liveness: Tells which nodes give no answer.
        times: How long nodes may give no answer, and how often the coordinator looks.
        closed_ports: Knows which nodes cannot reach each other's ports.
        receiving: Node's id -> limits how many models the node receives at a time: each takes threads of its agent.
        config: The job's settings: bytes in flight and deadlines.
        ended: Lets agents forget deliveries that have ended.
        watching: Tells whether somebody watches what arrives.
    """

    cluster: ClusterView
    agents: AgentPool
    windows: Windows
    liveness: Liveness
    times: LivenessTimes
    closed_ports: ClosedPorts
    config: Config
    ended: FinishedDeliveries
    receiving: defaultdict[str, Slots] = field(default_factory=lambda: defaultdict(lambda: Slots(_MAX_MODELS, 1.0)))
    watching: Watching = field(default_factory=Watching)
