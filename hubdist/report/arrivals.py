"""How far the deliveries of a job are at the moment. Frozen values, for progress bars and live tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """How much of a model has arrived on a node that is receiving it.

    Attributes:
        node: The node's address and the first digits of its id.
        digest: `sha256:<hex>` of the model.
        arrived_bytes: Bytes that have arrived.
        total_bytes: Bytes of all files; 0 while the origin is being read and nobody knows.
        senders: Names of the nodes, or a public URL, that the bytes come from now; the first is the largest sender.
    """

    node: str
    digest: str
    arrived_bytes: int
    total_bytes: int
    senders: tuple[str, ...] = ()


Watch = Callable[[tuple[Arrival, ...]], None]
"""Gets what is arriving, about twice a second while something does."""
