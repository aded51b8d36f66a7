"""What the resolver tells others, as frozen values: what a handle stands for, and how a process can read it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, cast

from hubdist.config.model_settings import ModelSettings, ReadMode, RouteName, check_call
from hubdist.delivery.routes import Evidence, ProbeResult, Route, order_routes
from hubdist.model.handle import Handle
from hubdist.model.hf_names import SCHEME
from hubdist.model.manifest import Digest, Manifest
from hubdist.origins.huggingface import needs_commit
from hubdist.origins.local import Look
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.delivery import PinReport


class ResolvedFrom(enum.StrEnum):
    """Where a model's manifest came from when its handle was resolved; prints as reports and logs show it.

    Attributes:
        STORE: The store of the driver's node had the model.
        SHARED_CACHE: Only the shared cache had it.
        TFHUB_CACHE: A directory that TensorFlow Hub itself had filled was read.
        ORIGIN: The origin was read.
    """

    STORE = "store"
    SHARED_CACHE = "shared cache"
    TFHUB_CACHE = "TensorFlow Hub cache"
    ORIGIN = "origin"


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a handle stands for, and where the files are, for the process that resolves handles.

    The handle may hold secrets, and the manifest of a large model takes megabytes. So this value stays where it was
    made; a process that loads the model gets a `LoaderPin`.

    Attributes:
        handle: The handle, with its secrets.
        manifest: The model's files.
        source: Where the manifest came from.
        read_by: Name of the node that read the origin itself; None if the driver's node did, or if nobody did.
        directory: The directory that holds the same model and is read in place of the handle; None if there is none.
        shared: The copy in the shared cache that nodes can read; None if there is none.
        direct: The directory that the handle names, as nodes can read it; None if the handle names none.
        seen: What a path of the driver looked like when it was read; None for other handles.
        origin_reads: How often this process or job has read the origin for this handle.
        seconds: How long it took to resolve the handle.
    """

    handle: Handle
    manifest: Manifest
    source: ResolvedFrom
    read_by: str | None = None
    directory: str | None = field(default=None, repr=False)
    shared: RemoteCopy | None = None
    direct: RemoteCopy | None = None
    seen: Look | None = None
    origin_reads: int = 0
    seconds: float = 0.0

    @property
    def digest(self) -> Digest:
        """The digest that names the model."""
        return self.manifest.digest

    @property
    def commit(self) -> str | None:
        """The handle of the commit that was read for a branch, a tag or a commit of Hugging Face; None for others."""
        if self.handle.root.scheme != SCHEME:
            return None
        return self.directory or (None if needs_commit(self.handle) else self.handle.text)

    @property
    def copies(self) -> dict[Route, RemoteCopy]:
        """Route -> the copy of the model that nodes read when they take this route."""
        copies = {Route.SHARED: self.shared, Route.DIRECT: self.direct}
        return {route: copy for route, copy in copies.items() if copy is not None}

    @property
    def report(self) -> PinReport:
        """The pin as users see it."""
        return PinReport(
            self.handle.redacted,
            str(self.digest),
            self.manifest.total_bytes,
            len(self.manifest.entries),
            str(self.source) if self.read_by is None else f"{self.source}, by {self.read_by}",
            self.origin_reads,
            self.seconds,
        )

    def for_loader(self, settings: ModelSettings) -> LoaderPin:
        """The part of this pin that a loading process needs.

        Args:
            settings: What holds for this model in the process that loads it.
        """
        return LoaderPin(self.handle.redacted, self.digest, settings, self.seen, self.manifest.total_bytes, self.commit)


@dataclass(frozen=True, slots=True)
class LoaderPin:
    """What a handle stands for, as it travels to the processes that load: without secrets and without the manifest.

    A pickled model becomes one of these too: its handle and digest are all that the pickle holds.

    Attributes:
        handle: The handle without secrets.
        digest: The model.
        settings: What the configuration, and then the call, say of this model.
        seen: What a path of the driver looked like when it was read; None for other handles.
        total_bytes: Bytes of all files; None if the process that has this value was not told.
        commit: Of a handle on Hugging Face, the handle of the commit that was read; None for others, and where the
            commit is not known, as for a digest that the settings pin.
    """

    handle: str
    digest: Digest
    settings: ModelSettings = field(default_factory=ModelSettings)
    seen: Look | None = None
    total_bytes: int | None = None
    commit: str | None = None

    def asked_with(self, options: CallOptions) -> LoaderPin:
        """This pin with the route and read mode of one call in place of the configured ones."""
        settings = replace(
            self.settings,
            route=options.route or self.settings.route,
            read_mode=options.read_mode or self.settings.read_mode,
        )
        return replace(self, settings=settings)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What one call of the user asks for in place of the settings.

    Attributes:
        route: The route to try first; None for the configured one.
        read_mode: What TensorFlow opens; None for the configured mode.
    """

    route: RouteName | None = None
    read_mode: ReadMode | None = None

    @classmethod
    def checked(cls, route: str | None, read_mode: str | None = None) -> Self:
        """The options that the user wrote.

        Args:
            route: `auto` or the name of a route; None for the configured one.
            read_mode: The name of a read mode; None for the configured one.

        Raises:
            ConfigError: `route` is not a route, or `read_mode` is not a read mode.
        """
        check_call(route, read_mode)
        return cls(cast(RouteName | None, route), cast(ReadMode | None, read_mode))


@dataclass(frozen=True, slots=True)
class NodeRead:
    """What a node found when it read a directory itself.

    Attributes:
        manifest: The files that it read.
        copy: The directory, listed before and after the read.
        node: Name of the node.
    """

    manifest: Manifest
    copy: RemoteCopy
    node: str


@dataclass(frozen=True, slots=True)
class ReadSources:
    """How a process can read a model by itself, without its node's store.

    Attributes:
        manifest: The model's files.
        candidates: Routes in the order in which the process tries them, each with the copy that it reads. The route
            `driver` has no copy: the process asks the driver's node for chunks.
    """

    manifest: Manifest
    candidates: tuple[tuple[Route, RemoteCopy | None], ...]

    @classmethod
    def ordered(cls, manifest: Manifest, copies: Mapping[Route, RemoteCopy], wanted: Route | None) -> Self:
        """The sources in the order in which a node would try them. Nothing is probed: the process finds out by trying.

        Args:
            manifest: The model's files.
            copies: Route -> the copy that this route reads.
            wanted: The route to try first; None for the best one.
        """
        tried = {route: ProbeResult(usable=True, why="it is tried") for route in copies}
        order = order_routes(Evidence(wanted, shared=tried.get(Route.SHARED), direct=tried.get(Route.DIRECT)))
        return cls(manifest, tuple((choice.route, copies.get(choice.route)) for choice in order.choices))
