"""PURE: in which order a node tries the routes to a snapshot, decided from evidence, with the reasons in words."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Route(enum.StrEnum):
    """How a node gets a snapshot."""

    STORE = "store"
    """The node's own store has the snapshot."""

    SHARED = "shared"
    """The node reads the shared cache."""

    DIRECT = "direct"
    """The node reads the directory that the handle names."""

    DRIVER = "driver"
    """The driver's node sends the snapshot, and nodes that have chunks pass them on."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether one route can be used from one node.

    Attributes:
        usable: True if a process on the node can read the route's directory.
        why: A clause that says how this is known, or what is in the way.
    """

    usable: bool
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known before a route is chosen for one node and one snapshot.

    Attributes:
        wanted: The route to try first; None for the best.
        node_holds_snapshot: True if a process on the node found a complete snapshot in the node's store.
        shares: A clause that names the node whose store this node shares, and which gets the snapshot first; None if
            the node is not known to share a store.
        shared: Whether the node can read the snapshot in the shared cache; None if no shared cache has the snapshot.
        direct: Whether the node can read the directory that the handle names; None if the handle names none.
    """

    wanted: Route | None = None
    node_holds_snapshot: bool = False
    shares: str | None = None
    shared: ProbeResult | None = None
    direct: ProbeResult | None = None


@dataclass(frozen=True, slots=True)
class RouteChoice:
    """A route, and a clause for logs and reports that says why the route has its place in the order."""

    route: Route
    reason: str

    def __str__(self) -> str:
        """Return `route (reason)`."""
        return f"{self.route} ({self.reason})"


@dataclass(frozen=True, slots=True)
class RouteOrder:
    """The routes that a node tries.

    Attributes:
        choices: The routes in the order in which they are tried; at least one.
        refused: Routes that would have come earlier but cannot be used, with the reason.
    """

    choices: tuple[RouteChoice, ...]
    refused: tuple[RouteChoice, ...] = ()

    @property
    def first(self) -> RouteChoice:
        """The route that is tried first."""
        return self.choices[0]


def order_routes(evidence: Evidence) -> RouteOrder:
    """Return the order of routes for one node.

    The node's own store comes before everything. Of the other routes the wanted one comes first, then the shared cache,
    which was set up for this, then the directory that the handle names. The driver's node is last: it can always send,
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
    probed = [(Route.SHARED, evidence.shared), (Route.DIRECT, evidence.direct)]
    probed.sort(key=lambda each: each[0] is not evidence.wanted)  # a stable sort: the wanted route moves to the front
    for route, result in probed:
        if result is None:
            if route is evidence.wanted:
                refused.append(RouteChoice(route, _MISSING[route]))
        elif result.usable:
            choices.append(RouteChoice(route, result.why))
        else:
            refused.append(RouteChoice(route, result.why))
    choices.append(RouteChoice(Route.DRIVER, _why_driver(refused, first=not choices)))
    return RouteOrder(tuple(choices), tuple(refused))


ENCLOSED = RouteChoice(Route.DRIVER, "a small model comes in the coordinator's answer")
"""How a process gets a small model that the driver's node has; no other route of the node is tried."""


def may_enclose(wanted: Route | None, *, in_shared_cache: bool) -> bool:
    """Return True if the coordinator may enclose a small model in its answer, whatever the node can read itself.

    A shared cache was set up so that nodes read it, and a route that the user wants is not passed over. Otherwise to
    find out what the node can read would take longer than to send the model.

    Args:
        wanted: The route to try first; None for the best.
        in_shared_cache: True if the shared cache has the model.
    """
    return wanted is Route.DRIVER or (wanted is None and not in_shared_cache)


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
