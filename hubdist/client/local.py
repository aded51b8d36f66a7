"""Without Ray: everything happens in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hubdist.config.schema import Config, ReadMode, RouteName
from hubdist.delivery.routes import Route, RouteChoice, RouteOrder
from hubdist.errors import ConfigError, HubdistError, NotPinnedError
from hubdist.model.chunks import Chunk
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.hints import suggesting
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import NodePlan, NodeReport, PinReport, Plan, Refreshed, Report, Status
from hubdist.resolver.resolver import Pin, Resolution, Resolver
from hubdist.resolver.values import ReadSources
from hubdist.store.pins import check_pin
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.disk import working_directory


@dataclass(frozen=True, slots=True)
class _Pinned:
    handle: Handle
    resolution: Resolution

    @property
    def report(self) -> PinReport:
        return self.resolution.report(origin_reads=int(self.resolution.source == "origin"))


class LocalBackend:
    """Resolves into this machine's store; each handle once for the life of the process. Safe for several threads.

    Args:
        config: The settings.
        base_dir: What relative paths of the settings are relative to; None if that directory is gone. Those of handles
            are relative to the directory that the process is in when it asks.
    """

    def __init__(self, config: Config, base_dir: Path | None) -> None:
        self._config = config
        self._node = socket.gethostname()
        self._store = Store(config.store_root(self._node), max_bytes=config.max_bytes)
        self._resolver = Resolver(config, self._store, base_dir)
        self._guard = threading.Lock()
        self._resolving: dict[str, threading.Lock] = {}
        self._pins: dict[str, _Pinned] = {}
        self._epoch = 0
        self._former: dict[Digest, _Pinned] = {}
        """What handles stood for before they were refreshed; whoever has such a model may need it again."""

    @property
    def node_id(self) -> str:
        """The host's name stands for a node's id."""
        return self._node

    @property
    def runs_tasks(self) -> bool:
        """False: there are none without Ray."""
        return False

    @property
    def sees_drivers_disk(self) -> bool:
        """True: this process is the driver's side."""
        return True

    def resolve(self, text: str, route: RouteName | None, read_mode: ReadMode | None) -> Pin:  # noqa: ARG002 - as for a cluster
        """What this process has pinned for a handle.

        Raises:
            HubdistError: Every kind of it.
        """
        pinned = self._pin(text, route)
        settings = self._resolver.settings_of(pinned.handle)
        return Pin(pinned.handle.redacted, pinned.resolution.digest, settings, pinned.resolution.seen)

    def refresh(self, text: str, route: RouteName | None) -> Refreshed:  # noqa: ARG002 - there is one way
        """Ask the origin again what a handle stands for.

        Raises:
            HubdistError: Every kind of it; the handle goes on to stand for what it did.
        """
        handle = self._resolver.parse(text)
        with self._turn(handle):
            before = self._pins.get(handle.key)
            resolution = self._resolver.read_anew(handle)
            self._pins[handle.key] = _Pinned(handle, resolution)
            self._epoch += 1
            if before is not None and before.resolution.digest != resolution.digest:
                self._former[before.resolution.digest] = before
        old = None if before is None else str(before.resolution.digest)
        return Refreshed(handle.redacted, old, str(resolution.digest))

    def epoch(self) -> int:
        """How often this process has refreshed a handle; nobody else does."""
        return self._epoch

    def locate(self, pin: Pin, route: RouteName | None) -> Snapshot:  # noqa: ARG002 - there is one way
        """The snapshot in this machine's store.

        Raises:
            NotPinnedError: It is not there, and this process does not know its handle.
            HubdistError: It cannot be had again.
        """
        snapshot = self._store.find(pin.digest)
        if snapshot is not None:
            return snapshot
        several = self._all_pinned(pin.digest)
        if not several:
            raise NotPinnedError(f"{pin.digest} is not in the store {self._store.root}", handle=pin.handle)
        for pinned in several[:-1]:  # equal bytes: it is enough that one of the handles is there
            with contextlib.suppress(HubdistError):
                return self._bring(pinned, pin.digest)
        return self._bring(several[-1], pin.digest)

    def _bring(self, pinned: _Pinned, digest: Digest) -> Snapshot:
        snapshot, _ = self._resolver.bring(pinned.handle, pinned.resolution)
        check_pin(pinned.handle, digest, snapshot.manifest.digest, "this process")
        return snapshot

    def access(self, pin: Pin, route: RouteName | None) -> ReadSources:
        """How this process can read a model past the store."""
        pinned = self._pinned(pin.digest)
        if pinned is None:
            with self.locate(pin, route) as snapshot:
                return ReadSources(snapshot.manifest, ((Route.DRIVER, None),))
        wanted = self._config.wanted_route(pin.settings, route)
        manifest = pinned.resolution.manifest
        found = {Route.SHARED: pinned.resolution.shared}
        if wanted in (None, Route.DIRECT):
            self._resolver.direct_url(pinned.handle, wanted=wanted is Route.DIRECT)
            found[Route.DIRECT] = self._resolver.direct_copy(pinned.handle, manifest)
        copies = {way: copy for way, copy in found.items() if copy is not None}
        return ReadSources.ordered(manifest, copies, wanted)

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot if the store has it."""
        return self._store.find(digest)

    def read(self, manifest: Manifest, chunk: Chunk) -> memoryview:
        """The bytes of one chunk of a model, from the store."""
        data = memoryview(bytearray(chunk.size))
        with self.locate(Pin(str(manifest.digest), manifest.digest), None) as snapshot:
            snapshot.read_chunk(chunk, data)
        return data

    def plan(self, text: str, nodes: Sequence[str] | None, route: RouteName | None) -> Plan:  # noqa: ARG002 - there is one way
        """What a load would do."""
        self._check_nodes(nodes)
        handle = self._parse(text)
        pinned = self._pins.get(handle.key)
        resolution = pinned.resolution if pinned else self._resolver.look(handle)
        choice = RouteChoice(Route.DRIVER, "this process reads the origin")
        if resolution is not None:
            choice = RouteChoice(Route.STORE, "everything happens in this process")
            if resolution.source == "shared cache":
                choice = RouteChoice(Route.SHARED, "only the shared cache has it")
        return Plan(
            handle=handle.redacted,
            digest=None if resolution is None else str(resolution.digest),
            total_bytes=None if resolution is None else resolution.manifest.total_bytes,
            known=None if resolution is None else ("this process" if pinned else f"the {resolution.source}"),
            read_mode=self._config.wanted_read_mode(self._resolver.settings_of(handle), None),
            nodes=(NodePlan(self._node, self._node, RouteOrder((choice,))),),
        )

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Resolve the handles; there is one node."""
        self._check_nodes(nodes)
        reports: list[PinReport] = []
        unresolved: list[HubdistError] = []
        for text in texts:
            try:
                pin = self.resolve(text, None, None)
                self.locate(pin, None).release()
            except HubdistError as error:
                unresolved.append(error)
                continue
            pinned = self._pinned(pin.digest)
            assert pinned is not None
            reports.append(pinned.report)
        return Report(tuple(reports), tuple(self._node_report(pin) for pin in reports), unresolved=tuple(unresolved))

    def status(self) -> Status:
        """What this process has resolved."""
        pins = tuple(pinned.report for pinned in self._pins.values())
        return Status("embedded", None, str(self._store.root), pins)

    def shutdown(self) -> None:
        """Forget the pins."""
        with self._guard:
            self._pins.clear()

    def _check_nodes(self, nodes: Sequence[str] | None) -> None:
        if nodes is not None and set(nodes) - {self._node}:
            raise ConfigError("there are no other nodes: Ray is not running", advice="Call ray.init() first.")

    def _parse(self, text: str) -> Handle:
        return parse_handle(text, base_dir=working_directory(), custom_schemes=self._config.origins.keys())

    def _pin(self, text: str, route: RouteName | None) -> _Pinned:
        handle = self._parse(text)
        with self._turn(handle):
            pinned = self._pins.get(handle.key)
            if pinned is None:
                settings = self._resolver.settings_of(handle)
                if self._config.wanted_route(settings, route) is Route.DIRECT:
                    self._resolver.direct_url(handle, wanted=True)
                with suggesting([text]):
                    pinned = _Pinned(handle, self._resolver.resolve(handle))
                self._pins[handle.key] = pinned
        return pinned

    def _turn(self, handle: Handle) -> threading.Lock:
        """The lock of whoever resolves a handle."""
        with self._guard:
            return self._resolving.setdefault(handle.key, threading.Lock())

    def _pinned(self, digest: Digest) -> _Pinned | None:
        return next(iter(self._all_pinned(digest)), None)

    def _all_pinned(self, digest: Digest) -> list[_Pinned]:
        """Every handle that stands for a model, what was refreshed since the last."""
        found = [pinned for pinned in (*self._pins.values(),) if pinned.resolution.digest == digest]
        return [*found, self._former[digest]] if digest in self._former else found

    def _node_report(self, pin: PinReport) -> NodeReport:
        return NodeReport(
            self._node, self._node, pin.handle, pin.digest, Route.STORE, "everything happens in this process"
        )
