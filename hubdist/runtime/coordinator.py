"""The coordinator: the one actor of a job that resolves, remembers and plans.

A plain class; `actors` makes an actor of it. Its methods run in one event loop, so its fields need no locks; what
blocks runs in threads. Every method may be called again with the same arguments: the work is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from hubdist.config import Config, ModelSettings, ReadMode, RouteName
from hubdist.errors import ConfigError, HubdistError
from hubdist.handle import Handle
from hubdist.manifest import Chunk, Digest, Manifest
from hubdist.reading import Access
from hubdist.report import NodePlan, NodeReport, PinReport, Plan, Refreshed, Report, RouteTotal
from hubdist.resolver import Pin, Resolver
from hubdist.routes import Evidence, Order, Route, order_routes
from hubdist.runtime.agent import read_chunk
from hubdist.runtime.agents import START_TIMEOUT_S, Agents
from hubdist.runtime.calls import stop_this_actor
from hubdist.runtime.deliveries import Deliveries
from hubdist.runtime.early import EarlyDelivery
from hubdist.runtime.job_pins import DirectRead, JobPins, Pinned, Reader
from hubdist.runtime.marks import grow_mark
from hubdist.runtime.nodes import Node, alive_nodes
from hubdist.runtime.reports import PINS_BYTES, newest
from hubdist.runtime.ways import Ways
from hubdist.store import Store

_LOG = logging.getLogger(__name__)
_DETACHED_IDLE_S = 600.0


@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """What the coordinator knows: its node's name, pins, what nodes got, where agents run; how much is left out."""

    node: str
    pins: tuple[PinReport, ...]
    deliveries: tuple[NodeReport, ...]
    agents: tuple[str, ...]
    left_out: tuple[int, int]
    totals: tuple[RouteTotal, ...]


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a process needs to know of its job.

    Attributes:
        config: The settings, without origins and models.
        fingerprint: Of the whole settings.
        scope: Names the job among all that ever used a store.
        node_id: Ray's id of the driver's node.
    """

    config: Config
    fingerprint: str
    scope: str
    node_id: str


class Coordinator:
    """Resolves each handle once for a job and brings snapshots to nodes.

    Args:
        config: The job's settings, without origins and models: Ray keeps what it makes actors with, and a model's
            handle may hold secrets.
        fingerprint: Of the whole settings.
        models: `Handle.key` -> what the configuration says of single models.
        origins: The user's own origins, by cloudpickle: they may be defined in the driver's `__main__`.
        base_dir: The driver's directory, for relative paths; None refuses them.
        scope: Names the job among all jobs of all clusters that ever used this store; its pins are kept under it.
        node: The node that this runs on.
        make_agent: Starts an agent on a node.
        detached: End the process after a long time without calls.
    """

    def __init__(
        self,
        config: Config,
        *,
        fingerprint: str,
        models: Mapping[str, ModelSettings],
        origins: bytes,
        base_dir: Path | None,
        scope: str,
        node: Node,
        make_agent: Callable[[Config, Node], Any],
        detached: bool,
    ) -> None:
        config = config.changed({"origins": cloudpickle.loads(origins)})
        self._config = config
        self._fingerprint = fingerprint
        self._models = models
        self._node = node
        self._detached = detached
        self._base_dir = base_dir
        self._scope = scope
        self._agents = Agents(config.for_nodes(), make_agent)
        self._ways = Ways(self._agents, config)
        self._last_call = time.monotonic()
        self._reading: dict[str, EarlyDelivery] = {}
        """`Handle.key` -> the delivery of a model whose origin is being read."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_delivery: asyncio.Task[None] | None = None

    @functools.cached_property
    def _pins(self) -> JobPins:
        """Made at the first call and not before: an error of the constructor would reach nobody with its type."""
        store = Store(self._config.store_root(self._node.id), max_bytes=self._config.max_bytes)
        resolver = Resolver(self._config, store, self._base_dir, self._models)
        return JobPins(store, resolver, self._scope)

    @functools.cached_property
    def _deliveries(self) -> Deliveries:
        return Deliveries(self._pins, self._agents, self._ways, self._node, self._config)

    async def settings(self, handles: list[str]) -> JobSettings:
        """The job's settings for its processes.

        Args:
            handles: The configured models; the first call begins to deliver them to all nodes.

        Raises:
            ConfigError: A path in the settings cannot be told on this node.
            StoreError: The store of the driver's node cannot be used.
        """
        self._last_call = time.monotonic()
        self._check_store()
        if self._first_delivery is None:
            self._first_delivery = asyncio.create_task(self._deliver_configured(handles))
            if self._detached:
                self._end_when_idle()
        return JobSettings(self._config.for_nodes(), self._fingerprint, self._scope, self._node.id)

    async def pin(self, text: str, node_id: str, route: RouteName | None, read_mode: ReadMode | None) -> Pin:
        """Resolve a handle, once per job; the answer stays the same even if the origin changes.

        Args:
            text: The handle.
            node_id: The node of the process that asks; it may be let read a directory that the handle names.
            route: Of this call; None for the configured one.
            read_mode: Of this call; None for the configured one. Only for `stage` does that node keep the files.

        Raises:
            HubdistError: With handle and node filled in.
        """
        pinned = await self._pin(text, route, node_id, read_mode)
        settings = self._pins.settings_of(pinned.handle)
        return Pin(pinned.handle.public, pinned.resolution.digest, settings, pinned.resolution.seen)

    async def refresh(self, text: str, node_id: str, route: RouteName | None) -> Refreshed:
        """Ask the origin again what a handle stands for, and tell every node.

        Processes that have the model that it stood for keep it.

        Args:
            text: As for `pin`.
            node_id: As for `pin`.
            route: As for `pin`.

        Raises:
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            HubdistError: Every other kind of it; the handle goes on to stand for what it did.
        """
        self._last_call = time.monotonic()
        try:
            handle = self._pins.parse(text)
            wanted = self._config.wanted_route(self._pins.settings_of(handle), route)
            before, digest = await self._pins.refresh(handle, wanted, self._reader(wanted, node_id, keep=False))
        except HubdistError as error:
            raise error.placed(node=self._node.name) from error.__cause__
        untold = await self._tell_nodes() if before not in (None, digest) else ()
        return Refreshed(handle.public, None if before is None else str(before), str(digest), untold)

    async def _tell_nodes(self) -> tuple[str, ...]:
        """Let every process ask again for what it remembers; returns the nodes that could not be told."""

        async def tell(node: Node) -> str | None:
            try:
                await self._agents.call(node, "note_refresh", self._scope, timeout_s=START_TIMEOUT_S)
            except HubdistError as error:
                _LOG.warning("hubdist: %s was not told of a refreshed handle: %s", node.name, error)
                return node.name
            return None

        nodes = [node for node in await asyncio.to_thread(alive_nodes) if node.id != self._node.id]
        here = functools.partial(grow_mark, self._config.store_root(self._node.id), self._scope)
        _, *told = await asyncio.gather(asyncio.to_thread(here), *(tell(node) for node in nodes))
        alive = {node.name for node in await asyncio.to_thread(alive_nodes)}
        return tuple(name for name in told if name in alive)

    async def deliver(self, pin: Pin, node_id: str, route: RouteName | None) -> NodeReport:
        """Bring a pinned model to one node; returns when its store has published it.

        Raises:
            HubdistError: The model is not there, or did not reach the node.
        """
        self._last_call = time.monotonic()
        nodes = await self._choose_nodes([node_id])
        wanted = self._config.wanted_route(pin.settings, route)
        report = await self._deliveries.bring(pin.digest, pin.handle, nodes[0], wanted)
        if report.error is not None:
            raise report.error
        return report

    async def access(self, pin: Pin, route: RouteName | None) -> Access:
        """How a process can read a pinned model by itself."""
        self._last_call = time.monotonic()
        manifest = await self._pins.manifest(pin.digest)
        wanted = self._config.wanted_route(pin.settings, route)
        return Access.ordered(manifest, self._deliveries.copies(pin.digest), wanted)

    async def prefetch(self, texts: list[str], wanted: list[str] | None) -> Report:
        """Resolve handles and bring them to nodes: to all that are alive now, or to those with these ids or names.

        A node that fails is in the report, with its error.
        """
        begin = time.monotonic()
        nodes = await self._choose_nodes(wanted)
        ids = [node.id for node in nodes]
        reader = self._node.id if self._node.id in ids or not ids else ids[0]
        pins = await asyncio.gather(*(self._pin(text, None, reader, "stage", ids) for text in texts))
        reports = await asyncio.gather(
            *(
                self._deliveries.bring(
                    pin.resolution.digest,
                    pin.handle.public,
                    node,
                    self._config.wanted_route(self._pins.settings_of(pin.handle), None),
                )
                for pin in pins
                for node in nodes
            )
        )
        return Report(tuple(pin.report for pin in pins), tuple(reports), time.monotonic() - begin)

    async def plan(self, text: str, wanted: list[str] | None, route: RouteName | None) -> Plan:
        """What a load of this handle would do on these nodes, without doing it; nodes are probed.

        Raises:
            HubdistError: The handle cannot be understood, or no such node is alive.
        """
        self._last_call = time.monotonic()
        handle = self._pins.parse(text)
        nodes = await self._choose_nodes(wanted)
        settings = self._pins.settings_of(handle)
        first = self._config.wanted_route(settings, route)
        pinned = self._pins.known(handle)
        resolution = pinned.resolution if pinned else await self._pins.look(handle)
        places: dict[Route, str] = {}
        if resolution is not None and resolution.shared is not None:
            places[Route.SHARED] = resolution.shared.url
        elif resolution is None and self._config.shared_cache and not self._config.shared_cache_read_only:
            places[Route.SHARED] = self._config.shared_cache
        url = None
        if first in (None, Route.DIRECT):
            url = await self._pins.direct_url(handle, wanted=first is Route.DIRECT)
        if url is not None:
            places[Route.DIRECT] = url
        digest = resolution.digest if resolution else None
        orders = await asyncio.gather(*(self._plan_node(node, digest, places, first) for node in nodes))
        return Plan(
            handle=handle.public,
            digest=None if digest is None else str(digest),
            total_bytes=None if resolution is None else resolution.manifest.total_bytes,
            known=None if resolution is None else ("this job" if pinned else f"the {resolution.source}"),
            read_mode=self._config.wanted_read_mode(settings, None),
            nodes=tuple(NodePlan(node.id, node.name, order) for node, order in zip(nodes, orders, strict=True)),
        )

    async def _plan_node(
        self, node: Node, digest: Digest | None, places: Mapping[Route, str], wanted: Route | None
    ) -> Order:
        if await self._holds(node, digest):
            return order_routes(Evidence(node_holds_snapshot=True))
        return await self._deliveries.order(node, places, wanted)

    async def progress(self) -> dict[str, tuple[int, int]]:
        """Node and model -> bytes that arrived, bytes in all; for the deliveries that run now."""
        return self._deliveries.progress

    async def status(self) -> CoordinatorStatus:
        """What this job knows."""
        pins, done = self._pins.reports, self._deliveries.reports
        shown = newest(pins, PINS_BYTES)
        left_out = (len(pins) - len(shown), done.left_out)
        return CoordinatorStatus(self._node.name, shown, done.newest, self._agents.names, left_out, done.totals)

    async def manifest(self, digest: Digest) -> Manifest:
        """The manifest of a pinned model.

        Raises:
            IntegrityError: The driver's store does not have it.
        """
        return await self._pins.manifest(digest)

    async def read(self, digest: Digest, chunk: Chunk) -> Any:
        """The bytes of one chunk of a pinned model, for processes outside the cluster.

        Raises:
            IntegrityError: The driver's store does not have them.
        """
        self._last_call = time.monotonic()
        snapshot = await self._pins.snapshot(digest)
        return await asyncio.to_thread(read_chunk, snapshot, chunk)

    def _check_store(self) -> None:
        try:
            _ = self._pins
        except HubdistError as error:
            raise error.placed(node=self._node.name) from error.__cause__

    async def _pin(
        self,
        text: str,
        route: RouteName | None,
        node_id: str,
        read_mode: ReadMode | None,
        nodes: list[str] | None = None,
    ) -> Pinned:
        self._last_call = time.monotonic()
        try:
            handle = self._pins.parse(text)
            known = self._pins.known(handle)
            if known is not None:
                return known
            settings = self._pins.settings_of(handle)
            wanted = self._config.wanted_route(settings, route)
            keep = self._config.wanted_read_mode(settings, read_mode) == "stage"
            early = self._early(handle, wanted, nodes or [node_id]) if keep else None
            try:
                return await self._pins.pin(handle, wanted, self._reader(wanted, node_id, keep=keep), early)
            finally:
                self._reading.pop(handle.key, None)
        except HubdistError as error:
            raise error.placed(node=self._node.name) from error.__cause__

    def _early(self, handle: Handle, wanted: Route | None, nodes: list[str]) -> EarlyDelivery | None:
        """Lets nodes take part in a delivery while the origin is being read; None if they may read elsewhere."""
        if wanted not in (None, Route.DRIVER) or (wanted is None and self._config.shared_cache is not None):
            return None
        early = self._reading.get(handle.key)
        if early is None:
            early = self._reading[handle.key] = self._deliveries.early(handle.public)
        task = asyncio.create_task(self._add_nodes(early, handle, nodes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return early

    async def _add_nodes(self, early: EarlyDelivery, handle: Handle, ids: list[str]) -> None:
        """Add the nodes but for those that have what the handle stood for last time; it is likely to be the same."""
        last = await self._pins.last_digest(handle)
        nodes = [node for node in await asyncio.to_thread(alive_nodes) if node.id in ids and node.id != self._node.id]
        for node in nodes:
            with contextlib.suppress(HubdistError):
                if not await self._holds(node, last):
                    early.add(node)

    async def _holds(self, node: Node, digest: Digest | None) -> bool:
        return digest is not None and await self._agents.call(node, "holds", digest, timeout_s=START_TIMEOUT_S)

    def _reader(self, wanted: Route | None, node_id: str, *, keep: bool) -> Reader | None:
        """Lets a node read a directory itself; None if the driver's side shall do so.

        It does for its own node, and for the shared cache, which it fills from its own store.
        """
        if node_id == self._node.id or (wanted is None and self._config.shared_cache is not None):
            return None

        async def read(url: str) -> DirectRead | None:
            nodes = {node.id: node for node in await asyncio.to_thread(alive_nodes)}
            if node_id not in nodes:  # a process outside the cluster
                return None
            return await self._ways.read(nodes[node_id], url, keep=keep, wanted=wanted is Route.DIRECT)

        return read

    async def _choose_nodes(self, wanted: list[str] | None) -> list[Node]:
        nodes = await asyncio.to_thread(alive_nodes)
        if wanted is None:
            return nodes
        chosen = [node for node in nodes if {node.id, node.name, node.address} & set(wanted)]
        known = {key for node in chosen for key in (node.id, node.name, node.address)}
        unknown = sorted(set(wanted) - known)
        if unknown:
            raise ConfigError(
                f"no node that is alive has the id, name or address {', '.join(unknown)}",
                advice=f"Alive are: {', '.join(node.name for node in nodes)}.",
            )
        return chosen

    async def _deliver_configured(self, handles: list[str]) -> None:
        """Bring the models of the configuration to all nodes; a failure shows again when somebody loads."""
        for handle in handles:
            try:
                await self.prefetch([handle], None)
            except HubdistError as error:
                _LOG.warning("hubdist: a model of the configuration could not be delivered: %s", error)

    def _end_when_idle(self) -> None:
        """End this process if it was not asked for long; else look again when that may be so."""
        idle_s = time.monotonic() - self._last_call
        if idle_s >= _DETACHED_IDLE_S and not self._deliveries.active:
            stop_this_actor()
        asyncio.get_running_loop().call_later(max(1.0, _DETACHED_IDLE_S - idle_s), self._end_when_idle)
