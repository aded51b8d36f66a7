"""Pure functions: the plan of a handle, from what is known of the handle and of the nodes."""

from __future__ import annotations

from collections.abc import Iterable

from hubdist.delivery.routes import Route
from hubdist.model.handle import Handle
from hubdist.report.plan import NodePlan, Plan
from hubdist.resolver.values import Pinned


def plan_of(
    handle: Handle, found: Pinned | None, *, pinned_by: str | None, read_mode: str, nodes: Iterable[NodePlan]
) -> Plan:
    """The plan of one handle.

    Args:
        handle: The handle.
        found: What the handle stands for; None if its origin has to be read to know that.
        pinned_by: Who has pinned the handle already, such as `this job`; None if `found` was only looked up.
        read_mode: What TensorFlow would open.
        nodes: What each node would do.
    """
    if found is None:
        return Plan(handle.redacted, None, None, None, read_mode, tuple(nodes))
    return Plan(
        handle=handle.redacted,
        digest=str(found.digest),
        total_bytes=found.manifest.total_bytes,
        known=pinned_by or f"the {found.source}",
        read_mode=read_mode,
        nodes=tuple(nodes),
    )


def places_to_probe(found: Pinned | None, *, fills: str | None, directory: str | None) -> dict[Route, str]:
    """Route -> the directory that nodes would read, if they can.

    Args:
        found: What the handle stands for; None if its origin has to be read to know that.
        fills: The shared cache that a read of the origin would fill; None if it would fill none.
        directory: The directory that the handle names; None if it names none.
    """
    places: dict[Route, str] = {}
    if found is not None and found.shared is not None:
        places[Route.SHARED] = found.shared.url
    elif found is None and fills is not None:
        places[Route.SHARED] = fills
    if directory is not None:
        places[Route.DIRECT] = directory
    return places
