"""Seats nodes in a forest: one tree for each stripe of a model, and each node hands on bytes in about one of them.

With m stripes a node has m slots, each for one child in one stripe, so a node that uses all of them sends as many bytes
as it receives. Nodes that join together are seated together. They need m * (nodes - 1) slots for each other, which
leaves m slots: those are for the nodes that join next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MAX_STRIPES = 8
"""More stripes would make trees deeper in units; fewer would let one slow or dead node hold up more of the bytes."""

_MIN_STRIPES = 4
"""Even a delivery that begins with one node has this many stripes, for more nodes may join."""

ROOT = -1
"""Stands for the parent of a tree's root, which is somebody outside the seated nodes."""


def choose_stripes(nodes: int, units: int | None) -> int:
    """Return how many stripes a delivery has.

    Args:
        nodes: How many nodes are expected.
        units: How many units the model has; None while the origin is still being read.
    """
    stripes = min(MAX_STRIPES, max(_MIN_STRIPES, nodes))
    return stripes if units is None else max(1, min(stripes, units))


def choose_slots(stripes: int) -> int:
    """Return how many children a node has at most, over all stripes.

    A model of very few units has few stripes, and then more slots than stripes keep the trees flat.
    """
    return max(_MIN_STRIPES, stripes)


@dataclass(frozen=True, slots=True)
class Seating:
    """Who sits where.

    Attributes:
        parents: For each stripe and each node the node's parent, or `ROOT`. Nodes are numbered as they were given.
        order: All nodes, those that others wait for most first: nodes should be told their seats in this order.
    """

    parents: list[list[int]]
    order: list[int]


def seat_nodes(zones: Sequence[str], stripes: int) -> Seating:
    """Seat nodes that join together.

    Each tree goes into each zone once, as far as the zone's own nodes can feed the others. Nodes at the front of a zone
    sit nearer to the roots.

    Args:
        zones: Each node's zone, rack or the like: bytes should stay inside it. All empty if nothing is known.
        stripes: How many stripes.
    """
    count, slots = len(zones), choose_slots(stripes)
    fans = [_divide_slots(stripe, count, stripes, slots) for stripe in range(stripes)]
    ranks = _rank(fans, count)
    # Rank by rank the nodes of one zone after those of another: so each tree gets its part of inner nodes of each zone.
    by_zone = sorted(range(count), key=lambda node: zones[node])
    node_at = [0] * count
    for rank, node in zip(ranks, by_zone, strict=True):
        node_at[rank] = node
    parents = []
    urgency = [count] * count
    place = {rank: index for index, rank in enumerate(ranks)}
    for fan in fans:
        inner = sorted(fan, key=lambda rank: (-fan[rank], place[rank]))
        inside = set(inner)
        # The first of each zone goes before all others: its zone hangs below it.
        heads = list({zones[node_at[rank]]: rank for rank in reversed(inner)}.values())
        inner = sorted(inner, key=lambda rank: rank not in heads)
        for position, rank in enumerate(inner):
            urgency[node_at[rank]] = min(urgency[node_at[rank]], position)
        leaves = [rank for rank in ranks if rank not in inside]
        tree = _grow_tree([(node_at[rank], fan.get(rank, 0)) for rank in (*inner, *leaves)], zones, len(heads))
        parents.append(tree)
    return Seating(parents, sorted(range(count), key=lambda node: urgency[node]))


def _divide_slots(stripe: int, count: int, stripes: int, slots: int) -> dict[int, int]:
    """Return the ranks that have children in a stripe, with the number of the children.

    The stripes take turns through the slots of all ranks, so hardly any rank has children in two stripes.
    """
    if (
        -(-stripes // count) * (count - 1) <= slots
    ):  # so few nodes that the root of each tree can feed all others itself
        return {stripe % count: count - 1}
    fan: dict[int, int] = {}
    for slot in range(stripe * (count - 1), (stripe + 1) * (count - 1)):
        rank = slot // slots
        fan[rank] = fan.get(rank, 0) + 1
    return fan


def _rank(fans: list[dict[int, int]], count: int) -> list[int]:
    """Return all ranks, those nearest to the roots first, stripe by stripe in turns."""
    level: dict[int, tuple[int, int, int]] = {}
    for stripe, fan in enumerate(fans):
        for position, rank in enumerate(sorted(fan, key=lambda rank: (-fan[rank], rank))):
            found = (position, stripe, rank)
            level[rank] = min(level.get(rank, found), found)
    return sorted(range(count), key=lambda rank: level.get(rank, (count, 0, rank)))


class _OpenSlots:
    """The slots of one tree that are not taken yet, by zone and depth."""

    def __init__(self) -> None:
        self._by_zone: dict[str, list[deque[int]]] = {}
        self._first_depth: dict[str, int] = {}

    def add(self, node: int, zone: str, depth: int, count: int) -> None:
        if not count:
            return
        levels = self._by_zone.setdefault(zone, [])
        while len(levels) <= depth:
            levels.append(deque())
        levels[depth].extend([node] * count)
        self._first_depth[zone] = min(self._first_depth.get(zone, depth), depth)

    def take(self, zone: str | None) -> tuple[int, int]:
        """Take the slot nearest to the root, of a zone if it has one, and return its node and depth."""
        if zone is None or self._depth(zone) is None:
            found = {other: depth for other in self._by_zone if (depth := self._depth(other)) is not None}
            zone = min(found, key=lambda other: found[other])
        depth = self._first_depth[zone]
        return self._by_zone[zone][depth].popleft(), depth

    def _depth(self, zone: str) -> int | None:
        levels, depth = self._by_zone.get(zone, []), self._first_depth.get(zone, 0)
        while depth < len(levels) and not levels[depth]:
            depth += 1
        self._first_depth[zone] = depth
        return depth if depth < len(levels) else None


def _grow_tree(members: list[tuple[int, int]], zones: Sequence[str], heads: int) -> list[int]:
    """Return the parent of each node in one tree.

    Args:
        members: All nodes with their slots in this tree, in the order in which they are seated.
        zones: Each node's zone.
        heads: How many members at the front sit as near to the root as they can, in whatever zone.
    """
    parents = [ROOT] * len(members)
    slots = _OpenSlots()
    for position, (node, count) in enumerate(members):
        depth = -1
        if position:
            parents[node], depth = slots.take(None if position < heads else zones[node])
        slots.add(node, zones[node], depth + 1, count)
    return parents
