"""What resolving a handle gives, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hubdist.delivery.routes import Evidence, ProbeResult, Route, order_routes
from hubdist.model.manifest import Manifest
from hubdist.remote.snapshot_copy import RemoteCopy


@dataclass(frozen=True, slots=True)
class ReadSources:
    """How a process can read a model by itself, without its node's store.

    Attributes:
        manifest: The model's files.
        ways: What to try, the first first; the driver's node has no copy to read, it is asked for chunks.
    """

    manifest: Manifest
    ways: tuple[tuple[Route, RemoteCopy | None], ...]

    @classmethod
    def ordered(cls, manifest: Manifest, copies: Mapping[Route, RemoteCopy], wanted: Route | None) -> Self:
        """In the order of `routes.order_routes`. Nothing is probed: the process finds out by trying."""
        tried = {route: ProbeResult(usable=True, why="it is tried") for route in copies}
        order = order_routes(Evidence(wanted, shared=tried.get(Route.SHARED), direct=tried.get(Route.DIRECT)))
        return cls(manifest, tuple((choice.route, copies.get(choice.route)) for choice in order.choices))
