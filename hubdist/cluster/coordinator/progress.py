"""What a delivery remembers of each node that receives the model, for the node's report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hubdist.cluster.agent.node_port import Address
from hubdist.cluster.coordinator.report_log import thinned
from hubdist.cluster.nodes import Node
from hubdist.report.delivery import OWN_STORE

_MAX_MARKS = 256


@dataclass(frozen=True, slots=True)
class DeliveryStats:
    """The figures of one node's part in a delivery.

    Attributes:
        sources: Name of each sender, and the bytes that came from there; the largest first. `OWN_STORE` stands for
            bytes that were in the node's store before.
        timeline: Pairs of seconds since the node joined and bytes that had arrived by then.
        retries: How many fetches failed and were repeated.
        refused: How many of them failed because of wrong bytes.
        closed_ports: Names of the senders whose ports the node could not reach.
    """

    sources: tuple[tuple[str, int], ...]
    timeline: tuple[tuple[float, int], ...]
    retries: int
    refused: int
    closed_ports: tuple[str, ...] = ()


@dataclass(slots=True)
class NodeProgress:
    """How far one node is with receiving the model.

    Attributes:
        node: The node.
        done: Ends when the node has published, or failed.
        clock: Tells the time in seconds.
        arrived_bytes: Bytes that have arrived.
        parents: Stripe -> name of the node that was told to send it, for people.
        closed_ports: Names of the senders whose ports the node could not reach.
        has_begun: The node has been told of the delivery; False if that comes with its seat.
        has_published: The node has said that it published what it received.
        had_model: The node has said that its store had the model.
        unreached: The ports of parents that the node could not reach.
    """

    node: Node
    done: asyncio.Future[None]
    clock: Callable[[], float]
    arrived_bytes: int = 0
    parents: dict[int, str] = field(default_factory=dict)
    closed_ports: list[str] = field(default_factory=list)
    has_begun: bool = True
    has_published: bool = False
    had_model: bool = False
    unreached: set[Address] = field(default_factory=set)
    _begin: float = field(init=False)
    _sources: Counter[str] = field(default_factory=Counter)
    _marks: list[tuple[float, int]] = field(default_factory=list)
    _retries: int = 0
    _refused: int = 0

    def __post_init__(self) -> None:
        self._begin = self.clock()

    def note_arrival(self, size: int, source: str) -> None:
        """Count a chunk that arrived.

        Args:
            size: Bytes of the chunk.
            source: Name of the sender for people.
        """
        self.arrived_bytes += size
        self._sources[source] += size
        self._marks.append((self.clock() - self._begin, self.arrived_bytes))

    def note_reused(self, size: int, source: str) -> None:
        """Count bytes of a chunk as the node's own that `note_arrival` counts as the sender's.

        Args:
            size: Bytes that older snapshots of the node's store had.
            source: Name of the chunk's sender for people.
        """
        self._sources[source] -= size
        self._sources[OWN_STORE] += size

    def note_failure(self, *, refused: bool) -> None:
        """Count a chunk that did not come; `refused` if it came with wrong bytes."""
        self._retries += 1
        self._refused += refused

    def note_streams(self, sources: Sequence[tuple[str, int]], marks: Sequence[tuple[float, int]]) -> None:
        """Take over what the node's agent has counted.

        Args:
            sources: Name of each sender for people, and the bytes that came from there.
            marks: Seconds since the node began to receive, and bytes that had arrived by then.
        """
        self._sources = Counter()
        for name, size in sources:
            self._sources[name] += size
        self._marks = list(marks)

    @property
    def senders(self) -> tuple[str, ...]:
        """Names of who sends to the node now, who sends most first."""
        counts = Counter(self.parents.values()) or +self._sources
        return tuple(name for name, _ in counts.most_common())

    @property
    def stats(self) -> DeliveryStats:
        """The figures for the node's report."""
        marks = thinned(self._marks, _MAX_MARKS)
        sources = (+self._sources).most_common()  # without senders whose bytes the node had itself
        closed = tuple(dict.fromkeys(self.closed_ports))
        return DeliveryStats(tuple(sources), marks, self._retries, self._refused, closed)
