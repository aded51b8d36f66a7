"""What an agent and the coordinator tell each other of a delivery, besides its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubdist.cluster.agent.node_port import Address
from hubdist.errors import HubdistError
from hubdist.streams.follower import StripeLags


@dataclass(frozen=True, slots=True)
class DeliveryTerms:
    """What the nodes of a delivery agree on.

    Attributes:
        secret: The delivery's secret, which a node must know to get chunks from another one.
        chunk_bytes: The size that the model is cut to, from its manifest; None if it is cut while its origin is being
            read.
        ordinals: For each entry of the manifest, the number of its file in the chunks; empty without a manifest.
    """

    secret: bytes = field(repr=False)
    chunk_bytes: int | None = None
    ordinals: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer of an agent that was told to take part in a delivery.

    Attributes:
        has_model: The node's store has the model already, so that the node receives nothing.
        address: Where the node sends chunks; None if it has no port.
    """

    has_model: bool
    address: Address | None


@dataclass(frozen=True, slots=True)
class Parent:
    """A node that sends stripes.

    Attributes:
        name: The node's name in the plan.
        address: The node's port; None if it has none.
        agent: Handle of the node's agent, made by `pickle_agent`; None if its port is believed to be open. A handle has
            more bytes than all the rest of a seat.
    """

    name: str
    address: Address | None
    agent: bytes | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a node gets its stripes.

    Attributes:
        parents: Stripe -> its parent; not all stripes need be named.
        stripes: The number of stripes of the delivery.
        order: Number of this order. Calls may overtake each other, and an older order must not undo a newer one: two
            nodes that wait for each other would wait for ever.
    """

    parents: Mapping[int, Parent]
    stripes: int
    order: int


@dataclass(frozen=True, slots=True)
class BrokenStream:
    """A stripe that does not come any more.

    Attributes:
        stripe: The stripe.
        parent: The parent's name in the plan.
        next_unit: The first unit of the stripe that this node lacks.
        error: Why the stream broke.
    """

    stripe: int
    parent: str
    next_unit: int
    error: HubdistError


@dataclass(frozen=True, slots=True)
class News:
    """How far a node is.

    Attributes:
        broken: The streams that broke since the last news.
        slow: The streams that fell behind since the last news.
        is_complete: The node has all units.
        arrived_bytes: Bytes that came so far.
        received: Parent and bytes that came from there, the largest first.
        marks: Seconds since the node began to receive and bytes that had come by then, a part of them; empty until the
            node has all units.
        ports_closed: Parents whose ports cannot be reached, these ports, and why; told once.
        is_published: The node has published what it received.
        had_model: The node's store had the model before, so that the node received nothing.
    """

    broken: tuple[BrokenStream, ...]
    slow: tuple[StripeLags, ...]
    is_complete: bool
    arrived_bytes: int
    received: tuple[tuple[str, int], ...]
    marks: tuple[tuple[float, int], ...]
    ports_closed: tuple[tuple[str, Address, str], ...] = ()
    is_published: bool = False
    had_model: bool = False


HAD_MODEL = News((), (), is_complete=True, arrived_bytes=0, received=(), marks=(), had_model=True)
"""The news of a node that need receive nothing."""
