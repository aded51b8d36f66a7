"""What a delivery to a cluster would take that need not exist. A frozen value that prints well."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubdist.report.delivery import size_text

if TYPE_CHECKING:
    from hubdist.delivery.what_if import Bottleneck, Prediction

_SHOWN_PARTS = 3


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What `hubdist.plan` answers for a number of nodes.

    Attributes:
        handle: The handle without secrets.
        digest: `sha256:<hex>` of the model; None if nobody knows yet.
        total_bytes: Bytes of all files.
        links: The links of the nodes in words.
        prediction: All figures, also those of single nodes.
    """

    handle: str
    digest: str | None
    total_bytes: int
    links: str
    prediction: Prediction

    @property
    def nodes(self) -> int:
        """Number of nodes that get the model."""
        return len(self.prediction.node_bytes)

    @property
    def seconds(self) -> float:
        """From the call to the last node's end."""
        return self.prediction.seconds

    @property
    def bottleneck(self) -> Bottleneck:
        """What takes the longest part; as text, its name in words."""
        return self.prediction.bottleneck

    @property
    def source_bytes(self) -> int:
        """Bytes that the driver's node sends."""
        return self.prediction.source_bytes

    @property
    def max_node_bytes(self) -> int:
        """Bytes that the node sends that sends most; each node receives `total_bytes`."""
        return max(self.prediction.node_bytes)

    @property
    def median_node_bytes(self) -> int:
        """Bytes that a node sends in the median."""
        return round(statistics.median(self.prediction.node_bytes))

    @property
    def coordinator_calls(self) -> int:
        """Calls of agents by the coordinator."""
        return self.prediction.calls

    @property
    def coordinator_seconds(self) -> float:
        """Processor seconds of the coordinator."""
        return self.prediction.call_seconds

    def __str__(self) -> str:
        """A short table."""
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        sent = {
            "the driver's node sends": self.source_bytes,
            "the busiest node sends": self.max_node_bytes,
            "the median node sends": self.median_node_bytes,
        }
        calls = f"{self.coordinator_calls:>11}   {self.coordinator_seconds:.2f} s of its processor"
        parts = sorted(self.prediction.parts.items(), key=lambda part: -part[1])[:_SHOWN_PARTS]
        alone = ", ".join(f"{thing} {seconds:.2f} s" for thing, seconds in parts)
        return "\n".join(
            [
                f"{self.handle}: {size_text(self.total_bytes)} to {nodes}, links of {self.links}",
                f"  {'time':<24} {self.seconds:>9.2f} s   bottleneck: {self.bottleneck}",
                *(
                    f"  {who:<24} {size_text(size):>11}   {size / self.total_bytes:.2f} of the model"
                    for who, size in sent.items()
                ),
                f"  {'the coordinator calls':<24} {calls}",
                f"  alone would take: {alone}",
            ]
        )
