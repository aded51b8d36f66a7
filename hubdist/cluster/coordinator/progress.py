"""What a transfer remembers of each node that it brings a model to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from hubdist.cluster.coordinator.report_log import thinned
from hubdist.cluster.nodes import Node

_MAX_MARKS = 256


@dataclass(frozen=True, slots=True)
class DeliveryStats:
    """What it took to bring a model to a node.

    Attributes:
        sources: Who sent -> bytes.
        timeline: Seconds since the node joined, bytes that had arrived.
        retries: Chunks that had to be sent again.
        refused: Those of them that came with wrong bytes.
    """

    sources: tuple[tuple[str, int], ...]
    timeline: tuple[tuple[float, int], ...]
    retries: int
    refused: int


@dataclass(slots=True)
class NodeProgress:
    """One node's way to the model.

    Attributes:
        node: The node.
        done: Ends when it has published, or failed.
        arrived_bytes: Bytes that have arrived.
    """

    node: Node
    done: asyncio.Future[None]
    arrived_bytes: int = 0
    _begin: float = field(default_factory=time.monotonic)
    _sources: Counter[str] = field(default_factory=Counter)
    _marks: list[tuple[float, int]] = field(default_factory=list)
    _retries: int = 0
    _refused: int = 0

    def note_arrival(self, size: int, source: str) -> None:
        """So many bytes came from a source."""
        self.arrived_bytes += size
        self._sources[source] += size
        self._marks.append((time.monotonic() - self._begin, self.arrived_bytes))

    def note_failure(self, *, refused: bool) -> None:
        """A chunk did not come, or came with wrong bytes."""
        self._retries += 1
        self._refused += refused

    @property
    def brought(self) -> DeliveryStats:
        """For the report."""
        marks = thinned(self._marks, _MAX_MARKS)
        return DeliveryStats(tuple(self._sources.most_common()), marks, self._retries, self._refused)
