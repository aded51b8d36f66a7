"""How a process gets at models: the protocol that both backends fulfil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hubdist.config.model_settings import ReadMode, RouteName
from hubdist.model.manifest import Chunk, Digest, Manifest
from hubdist.report.delivery import Report
from hubdist.report.plan import Plan, Refreshed, Status
from hubdist.resolver.resolver import Pin
from hubdist.resolver.values import ReadSources
from hubdist.store.snapshot import Snapshot


class Backend(Protocol):
    """What a process asks: `LocalBackend` answers by itself, `CoordinatorClient` asks the job's coordinator."""

    def resolve(self, text: str, route: RouteName | None, read_mode: ReadMode | None) -> Pin:
        """Ask what a handle stands for.

        Args:
            text: The handle as the user wrote it.
            route: The route of the call; None takes what is set.
            read_mode: The read mode of the call; None takes what is set.
        """
        ...

    def locate(self, pin: Pin, route: RouteName | None) -> Snapshot:
        """The snapshot in this node's store, in use until the caller releases it; brought there if it is missing.

        Args:
            pin: The model.
            route: The route of the call; None takes what is set.
        """
        ...

    def access(self, pin: Pin, route: RouteName | None) -> ReadSources:
        """Where this process can read a model without the node's store.

        Args:
            pin: The model.
            route: The route of the call; None takes what is set.
        """
        ...

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot if this node's store has it."""
        ...

    def read(self, manifest: Manifest, chunk: Chunk) -> Any:
        """The bytes of one chunk of a model, from the driver's node.

        Args:
            manifest: The model.
            chunk: The chunk.
        """
        ...

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Bring models to nodes.

        Args:
            texts: The handles as the user wrote them.
            nodes: Ids, names or addresses of nodes; None for all.
        """
        ...

    def plan(self, text: str, nodes: Sequence[str] | None, route: RouteName | None) -> Plan:
        """What a load would do on each node.

        Args:
            text: The handle as the user wrote it.
            nodes: Ids, names or addresses of nodes; None for all.
            route: The route of the call; None takes what is set.
        """
        ...

    def status(self) -> Status:
        """What the job has resolved and delivered."""
        ...

    def shutdown(self) -> None:
        """Forget what was resolved; in the driver, end the job's coordinator and agents."""
        ...

    def refresh(self, text: str, route: RouteName | None) -> Refreshed:
        """Ask the origin again what a handle stands for.

        Args:
            text: The handle as the user wrote it.
            route: The route of the call; None takes what is set.
        """
        ...

    def epoch(self) -> int | None:
        """How often this job has refreshed a handle, as far as this process knows; None if it cannot tell."""
        ...

    @property
    def node_id(self) -> str:
        """Ray's id of this node; the host's name without Ray."""
        ...

    @property
    def runs_tasks(self) -> bool:
        """True if this process runs Ray tasks."""
        ...

    @property
    def sees_drivers_disk(self) -> bool:
        """True if a path of the driver is the same path in this process."""
        ...
