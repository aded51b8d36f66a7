"""What a stream plan is told, and the commands that it answers. Nodes are named by text, stripes by number.

Events and commands about whole nodes are those of `hubdist.delivery.events`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hubdist.delivery.events import Finish, NodeEvent, Publish
from hubdist.errors import HubdistError


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A node that has a stage and wants the model.

    Attributes:
        node: The node's name.
        zone: Where the node is (zone, rack); bytes stay inside a zone where possible. Empty if unknown.
        link: Bytes per second of the node's link, as far as somebody knows; less if the node is known to be slow. None
            if nobody knows. Slower nodes, and those that nobody knows, are seated below faster ones.
        is_proven: True if the node has shown its speed. Such nodes are seated nearest to the roots.
    """

    node: str
    zone: str = ""
    link: float | None = None
    is_proven: bool = False


@dataclass(frozen=True, slots=True)
class NodesJoined:
    """Nodes want the model. Those that are told in one event are seated together, which makes the best trees."""

    newcomers: tuple[Newcomer, ...]


@dataclass(frozen=True, slots=True)
class StreamBroke:
    """A node gets no more units of a stripe from its parent: no connection, silence, wrong bytes, or units it lacks.

    Attributes:
        node: The node that waits.
        stripe: The stripe.
        parent: The node that should send, or the source.
        next_unit: The first unit of the stripe that the node lacks; the plan sees from it whether the node gets on.
        error: What happened; an `IntegrityError` means that the parent sent wrong bytes.
    """

    node: str
    stripe: int
    parent: str
    next_unit: int
    error: HubdistError


@dataclass(frozen=True, slots=True)
class StreamLags:
    """A stripe falls behind the others of a node, and the parent does not say that it waits for its own parent.

    Attributes:
        node: The node that waits.
        stripe: The stripe.
        parent: The node that sends too slowly.
    """

    node: str
    stripe: int
    parent: str


@dataclass(frozen=True, slots=True)
class NodeStuck:
    """A node gives no answer, and has not even taken its seat, so it has nothing to send to its children."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeComplete:
    """A node has all units of the model."""

    node: str


StreamEvent = NodesJoined | StreamBroke | StreamLags | NodeStuck | NodeComplete | NodeEvent


@dataclass(frozen=True, slots=True)
class Follow:
    """Let a node receive each stripe from a parent. Answered by `NodeComplete`, `StreamBroke` or `NodeFailed`.

    Attributes:
        node: The node.
        parents: For each stripe the name of the node's parent.
        below: Seats of other nodes, which this node may hand on, so that the coordinator need not tell every node
            itself. Nodes that others wait for most are told first.
    """

    node: str
    parents: tuple[str, ...]
    below: tuple[Follow, ...] = ()

    def flat(self) -> Iterator[Follow]:
        """Yield this seat and all seats below it, those that others wait for most first."""
        level = [self]
        while level:
            yield from level
            level = [seat for above in level for seat in above.below]


@dataclass(frozen=True, slots=True)
class Reseat:
    """Let a node receive a stripe from another parent, from the first unit on that the node lacks."""

    node: str
    stripe: int
    parent: str


StreamCommand = Follow | Reseat | Publish | Finish
