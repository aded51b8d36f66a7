"""PURE: which route a node takes to a snapshot, from evidence, with the reason in words."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Route(enum.StrEnum):
    """How a node gets at a snapshot."""

    STORE = "store"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found out before a route is chosen.

    Attributes:
        node_holds_snapshot: A complete snapshot was found in the node's store, by a process on that node.
    """

    node_holds_snapshot: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A route and why it was taken; the reason is a clause for logs and reports."""

    route: Route
    reason: str


def choose_route(evidence: Evidence) -> Choice:
    """Choose the route for one node and one snapshot."""
    if evidence.node_holds_snapshot:
        return Choice(Route.STORE, "the node's store has the snapshot")
    return Choice(Route.DRIVER, "the node's store lacks the snapshot and the driver's node has it")
