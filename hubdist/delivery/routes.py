"""PURE: which ways a node tries to a snapshot, in which order, from evidence, with the reasons in words."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Route(enum.StrEnum):
    """How a node gets at a snapshot.

    STORE: it has it. SHARED: from the shared cache. DIRECT: from where the handle points. DRIVER: from the driver's
    node.
    """

    STORE = "store"
    SHARED = "shared"
    DIRECT = "direct"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found out about one way.

    Attributes:
        usable: A process on the node can read it.
        why: A clause that says how this is known, or what is in the way.
    """

    usable: bool
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found out before a route is chosen for one node and one snapshot.

    Attributes:
        wanted: The route to try first; None for the best.
        node_holds_snapshot: A complete snapshot was found in the node's store, by a process on that node.
        shares: A clause that says whose store the node sees as its own, which gets the snapshot first; None if it is
            not known to share any.
        shared: Whether the node can read the snapshot in the shared cache; None if it is in none.
        direct: Whether the node can read what the handle points to as it is; None if that is no directory.
    """

    wanted: Route | None = None
    node_holds_snapshot: bool = False
    shares: str | None = None
    shared: ProbeResult | None = None
    direct: ProbeResult | None = None


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """A route and why it is taken at this place of the order; the reason is a clause for logs and reports."""

    route: Route
    reason: str

    def __str__(self) -> str:
        """`route (reason)`."""
        return f"{self.route} ({self.reason})"


@dataclass(frozen=True, slots=True)
class RouteOrder:
    """The ways that a node tries one after another; the last one always exists.

    Attributes:
        choices: What is tried, the first first.
        refused: What would have come earlier but cannot be used, with the reason.
    """

    choices: tuple[RouteChoice, ...]
    refused: tuple[RouteChoice, ...] = ()

    @property
    def first(self) -> RouteChoice:
        """What is tried first."""
        return self.choices[0]


def order_routes(evidence: Evidence) -> RouteOrder:
    """The order of routes for one node.

    The node's own store comes before everything. Of the others the wanted one comes first, then the shared cache,
    which was set up for this, then the place that the handle names. The driver's node is last: it can always send,
    but over one link to all nodes.
    """
    if evidence.node_holds_snapshot:
        return RouteOrder((RouteChoice(Route.STORE, "the node's store has the snapshot"),))
    if evidence.shares is not None:
        return RouteOrder((RouteChoice(Route.STORE, evidence.shares),))
    if evidence.wanted is Route.DRIVER:
        return RouteOrder((RouteChoice(Route.DRIVER, "route: driver is set"),))
    choices: list[RouteChoice] = []
    refused: list[RouteChoice] = []
    ways = [(Route.SHARED, evidence.shared), (Route.DIRECT, evidence.direct)]
    ways.sort(key=lambda way: way[0] is not evidence.wanted)
    for route, finding in ways:
        if finding is None:
            if route is evidence.wanted:
                refused.append(RouteChoice(route, _MISSING[route]))
        elif finding.usable:
            choices.append(RouteChoice(route, finding.why))
        else:
            refused.append(RouteChoice(route, finding.why))
    choices.append(RouteChoice(Route.DRIVER, _why_driver(refused, first=not choices)))
    return RouteOrder(tuple(choices), tuple(refused))


_MISSING = {
    Route.SHARED: "the model is in no shared cache",
    Route.DIRECT: "the handle names no directory that nodes could read",
}


def _why_driver(refused: list[RouteChoice], *, first: bool) -> str:
    if not first:
        return "the driver's node can always send it"
    if refused:
        return "; ".join(f"not {choice.route}: {choice.reason}" for choice in refused)
    return "the node's store lacks the snapshot and the driver's node has it"
