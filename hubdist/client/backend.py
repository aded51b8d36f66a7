"""What a process needs to get at models, with Ray and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.arrivals import Watch
from hubdist.report.delivery import Report
from hubdist.report.plan import Plan, Refreshed, Status
from hubdist.resolver.values import CallOptions, LoaderPin, ReadSources
from hubdist.store.snapshot import Snapshot


class Placement(Protocol):
    """Tells where models are, and keeps them there. Safe for several threads."""

    def where(self, texts: Sequence[str], wait_s: float) -> dict[str, Any]:
        """Options of Ray that prefer nodes which have models; none if there is nothing to prefer.

        Args:
            texts: The handles.
            wait_s: Longest wait in seconds for nodes that have to be asked.

        Raises:
            HandleError: A text is not a handle.
        """
        ...

    def keep(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Bring models to nodes, and never evict them there. What fails is in the report.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all, now and later.

        Raises:
            ConfigError: There is no such node.
        """
        ...

    def release(self, texts: Sequence[str], nodes: Sequence[str] | None) -> tuple[str, ...]:
        """Let stores evict models again; returns the names of the nodes where one was kept.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all, and those that join later.

        Raises:
            ConfigError: There is no such node.
        """
        ...


class Backend(Protocol):
    """Pins handles and gives their files: `LocalBackend` in this process, `CoordinatorClient` through a cluster.

    Safe for several threads. Every method may raise a `HubdistError` whose subclass says what to do.
    """

    @property
    def node_id(self) -> str:
        """Ray's id of this process's node, or what stands for it."""
        ...

    @property
    def runs_tasks(self) -> bool:
        """True in a process of Ray that runs tasks, and is neither a driver nor an actor."""
        ...

    @property
    def task_resources(self) -> Mapping[str, float] | None:
        """What Ray gave the task or actor of this process, by the resource's name; None in drivers and without Ray."""
        ...

    @property
    def placement(self) -> Placement:
        """Tells where models are, and keeps them there."""
        ...

    @property
    def sees_drivers_disk(self) -> bool:
        """True if paths of the driver are paths of this process."""
        ...

    def pin(self, text: str, options: CallOptions) -> LoaderPin:
        """What a handle stands for; the first call resolves the handle.

        Args:
            text: The handle.
            options: What the call asks for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
            ResolveError, TransferError, IntegrityError: The model cannot be had, or a pin refuses it.
        """
        ...

    def refresh(self, text: str, options: CallOptions) -> Refreshed:
        """Ask the origin again what a handle stands for. After an error the handle stands for what it stood for.

        Args:
            text: The handle.
            options: What the call asks for in place of the settings.

        Raises:
            DigestMismatchError: The origin has other bytes than those that are pinned.
        """
        ...

    def epoch(self) -> int | None:
        """A number that grows whenever a handle is refreshed; None if this process is not told, and has to ask."""
        ...

    def locate(self, pin: LoaderPin) -> Snapshot:
        """The snapshot in the store that this process uses; brought there if it is missing.

        Raises:
            StoreError: The store cannot take the model.
            NotPinnedError: Nobody has the model, and nobody knows a handle that stands for it.
        """
        ...

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot, if the store that this process uses has it. Nothing is made or brought."""
        ...

    def access(self, pin: LoaderPin) -> ReadSources:
        """How this process can read a model without the store."""
        ...

    def read(self, manifest: Manifest, chunk: Chunk) -> Any:
        """The bytes of one chunk from the driver's store, as an object with the buffer protocol.

        Args:
            manifest: The model's files.
            chunk: The part to read.
        """
        ...

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None, watch: Watch | None = None) -> Report:
        """Bring models to nodes. A model or node that fails is in the report with its error.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all that are alive now.
            watch: Gets what is arriving; None draws progress bars where there are several nodes.

        Raises:
            ConfigError: There is no such node.
        """
        ...

    def plan(self, text: str, nodes: Sequence[str] | None, options: CallOptions) -> Plan:
        """What a load would do on each node, without doing it.

        Args:
            text: The handle.
            nodes: Ids, names or addresses of nodes; None means all that are alive now.
            options: What the load would ask for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
            ConfigError: There is no such node.
        """
        ...

    def status(self) -> Status:
        """What this job has resolved and delivered."""
        ...

    def shutdown(self) -> None:
        """Forget the pins; from the driver, end what serves the whole job."""
        ...
