"""The backend without Ray: this process resolves handles itself, into the store of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from hubdist.client.local_placement import LocalPlacement
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route, RouteChoice, RouteOrder
from hubdist.errors import ConfigError, HubdistError, NotPinnedError
from hubdist.model.chunks import Chunk
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.hints import suggesting
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.arrivals import Watch
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.report.plan import NodePlan, Plan, Refreshed, Status
from hubdist.resolver.identities import with_identities
from hubdist.resolver.lookup import PinTable
from hubdist.resolver.node_store import open_store
from hubdist.resolver.plan_view import plan_of
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import CallOptions, LoaderPin, Pinned, ReadSources, ResolvedFrom
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import working_directory

_IN_STORE = RouteChoice(Route.STORE, "everything happens in this process")
_IN_CACHE = RouteChoice(Route.SHARED, "only the shared cache has it")
_AT_ORIGIN = RouteChoice(Route.DRIVER, "this process reads the origin")


class LocalBackend:
    """A `Backend` that pins each handle once for the life of the process. Safe for several threads.

    Args:
        config: The settings.
        base_dir: What relative paths of the settings are relative to; None if that directory is gone. Relative handles
            are relative to the directory that the process is in when it asks.

    Raises:
        NotPinnedError: The settings are locked, and the lock file lacks a model that they list.
    """

    def __init__(self, config: Config, base_dir: Path | None) -> None:
        self._config = config
        self._node = socket.gethostname()
        self._store = open_store(config, self._node)
        self._resolver = Resolver(config, self._store, base_dir)
        self._resolver.policy.check_listed(self._parse(model.handle) for model in config.models)
        self._pins = PinTable()
        self._guard = threading.Lock()
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        """`Handle.key` -> the lock of the thread that resolves the handle; gone when no thread resolves it."""
        self._epoch = 0

    @property
    def node_id(self) -> str:
        """The host's name, which stands for a node's id."""
        return self._node

    @property
    def runs_tasks(self) -> bool:
        """False: without Ray there are no tasks."""
        return False

    @property
    def task_resources(self) -> None:
        """None: without Ray nobody gave this process anything."""
        return None

    @property
    def placement(self) -> LocalPlacement:
        """Keeps models in this machine's store."""
        return LocalPlacement(
            self._store,
            self._node,
            prefetch=self.prefetch,
            check_nodes=self._check_nodes,
            known=self._known_digest,
            parse=self._parse,
        )

    @property
    def sees_drivers_disk(self) -> bool:
        """True: this process is the driver."""
        return True

    def pin(self, text: str, options: CallOptions) -> LoaderPin:
        """What this process has pinned for a handle; the first call resolves the handle.

        Args:
            text: The handle.
            options: Only the route `direct` matters: a hub's uncompressed copy is read in place of its archive.
        """
        pinned = self._pinned(text, options)
        return pinned.for_loader(self._resolver.policy.settings_of(pinned.handle))

    def refresh(self, text: str, options: CallOptions) -> Refreshed:
        """Ask the origin again what a handle stands for. After an error the handle stands for what it stood for.

        Args:
            text: The handle.
            options: As for `pin`; they matter for a handle that is not pinned yet.
        """
        handle = self._parse(text)
        with self._turn(handle):
            before = self._pins.find(handle)
            directory = self._directory(handle, options) if before is None else before.directory
            pinned = self._resolver.read_anew(handle, directory=directory)
            self._pins.keep(pinned)
            self._epoch += 1
        return Refreshed(handle.redacted, None if before is None else str(before.digest), str(pinned.digest))

    def epoch(self) -> int:
        """How often this process has refreshed a handle; no other process refreshes its handles."""
        return self._epoch

    def locate(self, pin: LoaderPin) -> Snapshot:
        """The snapshot in this machine's store; fetched again if the store has lost it.

        Raises:
            NotPinnedError: The store lacks the model, and this process does not know a handle that stands for it.
            DigestMismatchError: The store lacks the model, and its handle stands for other bytes by now.
        """
        snapshot = self._store.find(pin.digest)
        if snapshot is not None:
            return snapshot
        pins = self._pins.of_digest(pin.digest)
        if not pins:
            raise NotPinnedError(f"{pin.digest} is not in the store {self._store.root}", handle=pin.handle)
        snapshot, pinned = self._resolver.restore(pins)
        self._pins.update(pinned)
        return snapshot

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot, if the store has it."""
        return self._store.find(digest)

    def access(self, pin: LoaderPin) -> ReadSources:
        """How this process can read a model without the store."""
        pins = self._pins.of_digest(pin.digest)
        if not pins:
            with self.locate(pin) as snapshot:
                return ReadSources.ordered(snapshot.manifest, {}, None)
        pinned = replace(pins[0], direct=None)
        if pinned.shared is not None and not self._resolver.admit_shared(pin.digest):
            pinned = replace(pinned, shared=None)
        wanted = self._config.wanted_route(pin.settings, None)
        if wanted in (None, Route.DIRECT):
            # Listed anew for each load: TensorFlow opens these files, and nobody verifies what it reads.
            url = self._resolver.direct.find(pinned.handle, wanted=wanted is Route.DIRECT)
            if url is not None:
                pinned = replace(pinned, direct=self._resolver.direct.copy_of(url, pinned.manifest))
        return ReadSources.ordered(pinned.manifest, pinned.copies, wanted)

    def read(self, manifest: Manifest, chunk: Chunk) -> memoryview:
        """The bytes of one chunk of a model, from the store.

        Args:
            manifest: The model's files.
            chunk: The part to read.
        """
        data = memoryview(bytearray(chunk.size))
        with self.locate(LoaderPin(str(manifest.digest), manifest.digest)) as snapshot:
            snapshot.read_chunk(chunk, data)
        return data

    def prefetch(
        self,
        texts: Sequence[str],
        nodes: Sequence[str] | None,
        watch: Watch | None = None,  # noqa: ARG002 - of the protocol; nothing travels between nodes here
    ) -> Report:
        """Resolve handles and fetch their files. A handle that fails is in the report with its error.

        Args:
            texts: The handles.
            nodes: This host's name, or None.
            watch: Not called: nothing travels between nodes.

        Raises:
            ConfigError: Another node is named.
        """
        self._check_nodes(nodes)
        reports: list[PinReport] = []
        unresolved: list[HubdistError] = []
        for text in texts:
            try:
                pinned = self._pinned(text, CallOptions())
                self.locate(pinned.for_loader(self._resolver.policy.settings_of(pinned.handle))).release()
            except HubdistError as error:
                unresolved.append(error)
            else:
                reports.append((self._pins.find(pinned.handle) or pinned).report)  # with the reads of `locate`
        return Report(tuple(reports), tuple(self._node_report(pin) for pin in reports), unresolved=tuple(unresolved))

    def plan(self, text: str, nodes: Sequence[str] | None, options: CallOptions) -> Plan:
        """What a load would do, without doing it.

        Args:
            text: The handle.
            nodes: This host's name, or None.
            options: What the load would ask for in place of the settings.

        Raises:
            ConfigError: Another node is named.
        """
        self._check_nodes(nodes)
        handle = self._parse(text)
        pinned = self._pins.find(handle)
        found = pinned or self._resolver.look(handle)
        plan = plan_of(
            handle,
            found,
            pinned_by="this process" if pinned else None,
            read_mode=self._config.wanted_read_mode(self._resolver.policy.settings_of(handle), options.read_mode),
            nodes=[NodePlan(self._node, self._node, RouteOrder((_choice(found),)))],
        )
        return with_identities(plan, handle, self._config, self._resolver.settings, self._node)

    def status(self) -> Status:
        """What this process has resolved."""
        return Status("embedded", None, str(self._store.root), self._pins.reports)

    def shutdown(self) -> None:
        """Forget the pins."""
        self._pins.clear()

    def _check_nodes(self, nodes: Sequence[str] | None) -> None:
        if nodes is not None and set(nodes) - {self._node}:
            raise ConfigError("there are no other nodes: Ray is not running", advice="Call ray.init() first.")

    def _parse(self, text: str) -> Handle:
        return parse_handle(text, base_dir=working_directory(), custom_schemes=self._config.origins.keys())

    def _pinned(self, text: str, options: CallOptions) -> Pinned:
        handle = self._parse(text)
        with self._turn(handle):
            pinned = self._pins.find(handle)
            if pinned is None:
                directory = self._directory(handle, options)
                with suggesting([text]):
                    pinned = self._resolver.find_or_read(handle, directory=directory)
                self._pins.keep(pinned)
        return pinned

    def _known_digest(self, handle: Handle) -> Digest | None:
        found = self._pins.find(handle) or self._resolver.look(handle)
        return None if found is None else found.digest

    def _directory(self, handle: Handle, options: CallOptions) -> str | None:
        """The directory to read in place of a handle: only if the user wants the route `direct`."""
        wanted = self._config.wanted_route(self._resolver.policy.settings_of(handle), options.route)
        return self._resolver.direct.find(handle, wanted=True) if wanted is Route.DIRECT else None

    def _turn(self, handle: Handle) -> threading.Lock:
        with self._guard:
            return self._turns.setdefault(handle.key, threading.Lock())

    def _node_report(self, pin: PinReport) -> NodeReport:
        return NodeReport(self._node, self._node, pin.handle, pin.digest, _IN_STORE.route, _IN_STORE.reason)


def _choice(found: Pinned | None) -> RouteChoice:
    """The one route of this process."""
    if found is None:
        return _AT_ORIGIN
    return _IN_CACHE if found.source is ResolvedFrom.SHARED_CACHE else _IN_STORE
