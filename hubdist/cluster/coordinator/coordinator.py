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
from typing import Any

from hubdist.cluster.agent.agent import read_chunk
from hubdist.cluster.calls import stop_this_actor
from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.job_pins import DirectRead, JobPins, Pinned, Reader
from hubdist.cluster.coordinator.lifetime import Lifetime, answering
from hubdist.cluster.coordinator.origin_feed import OriginFeed
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.report_log import PINS_BYTES, newest
from hubdist.cluster.coordinator.route_runner import RouteRunner
from hubdist.cluster.job import Job, Terms
from hubdist.cluster.job_record import JobRecord
from hubdist.cluster.nodes import Node, alive_nodes, job_is_over
from hubdist.cluster.refresh_marks import grow_mark
from hubdist.config.schema import Config, ReadMode, RouteName
from hubdist.delivery.routes import Evidence, Route, RouteOrder, order_routes
from hubdist.errors import ConfigError, HubdistError, NotPinnedError
from hubdist.model.chunks import Chunk
from hubdist.model.handle import Handle, Kind
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import NodePlan, NodeReport, PinReport, Plan, Refreshed, Report, RouteTotal
from hubdist.resolver.resolver import Pin, Resolver
from hubdist.resolver.values import ReadSources
from hubdist.store.store import Store

_LOG = logging.getLogger(__name__)
_DETACHED_IDLE_S = 600.0
_OVER_IDLE_S = 15.0
"""For the coordinator of a job whose driver is gone; one that is asked again is made again, with all that it knew."""


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
class Membership:
    """What a process needs to know to take part in its job: the job, and Ray's id of the driver's node."""

    job: Job
    node_id: str


class Coordinator:
    """Resolves each handle once for a job and brings snapshots to nodes.

    Args:
        job: The job.
        job_id: Ray's id of it.
        node: The node that this runs on.
        make_agent: Starts an agent on a node.
        detached: End the process after a long time without work; a driver's coordinator ends with the driver.
    """

    def __init__(
        self, job: Job, *, job_id: str, node: Node, make_agent: Callable[[Config, Node], Any], detached: bool
    ) -> None:
        self._job = job
        self._job_id = job_id
        self._node = node
        self._ledger = JobRecord(job_id)
        self._agents = AgentPool(job.config, lambda _, node: make_agent(job.config_on(node.id), node))
        self._life = Lifetime()
        self._reading: dict[str, OriginFeed] = {}
        """`Handle.key` -> the delivery of a model whose origin is being read."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_delivery: asyncio.Task[None] | None = None
        self._ledger.keep_job(job)
        if detached:
            self._life.end_when_idle(self._idle_limit_s, stop_this_actor)

    # What follows is made at the first call and not before: an error of the constructor would reach nobody with its
    # type.

    @functools.cached_property
    def _config(self) -> Config:
        return self._job.whole_config(self._node.id)

    @functools.cached_property
    def _ways(self) -> Probes:
        return Probes(self._agents, self._config)

    @functools.cached_property
    def _pins(self) -> JobPins:
        store = Store(self._config.store_root(self._node.id), max_bytes=self._config.max_bytes)
        resolver = Resolver(self._config, store, self._job.base_dir, self._job.models)
        return JobPins(store, resolver, self._job.scope, self._ledger)

    @functools.cached_property
    def _deliveries(self) -> RouteRunner:
        return RouteRunner(self._pins, self._agents, self._ways, self._node, self._config)

    @answering
    async def join(self, handles: list[str]) -> Membership:
        """Let a process take part in the job.

        Args:
            handles: The configured models; the first call begins to deliver them to all nodes.

        Raises:
            ConfigError: A path in the settings cannot be told on this node.
            StoreError: The store of the driver's node cannot be used.
        """
        self._check_store()
        if self._first_delivery is None:
            self._first_delivery = asyncio.create_task(self._deliver_configured(handles))
        return Membership(self._job, self._node.id)

    @answering
    async def close(self) -> None:
        """The driver shuts the job down: whatever its tasks go on to ask must not keep a coordinator for long."""
        await asyncio.to_thread(self._ledger.close_job)

    @answering
    async def pin(
        self, text: str, node_id: str, route: RouteName | None, read_mode: ReadMode | None, terms: Terms
    ) -> Pin:
        """Resolve a handle, once per job; the answer stays the same even if the origin changes.

        Args:
            text: The handle.
            node_id: The node of the process that asks; it may be let read a directory that the handle names.
            route: Of this call; None for the configured one.
            read_mode: Of this call; None for the configured one. Only for `stage` does that node keep the files.
            terms: What the process asks beyond the job's settings.

        Raises:
            HubdistError: With handle and node filled in.
        """
        pinned = await self._pin(text, route, node_id, read_mode, terms=terms)
        settings = terms.settings(pinned.handle, self._pins.settings_of(pinned.handle))
        return Pin(pinned.handle.redacted, pinned.resolution.digest, settings, pinned.resolution.seen)

    @answering
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
        try:
            handle = self._pins.parse(text)
            wanted = self._config.wanted_route(self._pins.settings_of(handle), route)
            before, digest = await self._pins.refresh(handle, wanted, self._reader(wanted, node_id, keep=False))
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__
        untold = await self._tell_nodes() if before not in (None, digest) else ()
        return Refreshed(handle.redacted, None if before is None else str(before), str(digest), untold)

    async def _tell_nodes(self) -> tuple[str, ...]:
        """Let every process ask again for what it remembers; returns the nodes that could not be told."""

        async def tell(node: Node) -> str | None:
            try:
                await self._agents.call(node, "note_refresh", self._job.scope, timeout_s=START_TIMEOUT_S)
            except HubdistError as error:
                _LOG.warning("hubdist: %s was not told of a refreshed handle: %s", node.name, error)
                return node.name
            return None

        nodes = [node for node in await asyncio.to_thread(alive_nodes) if node.id != self._node.id]
        here = functools.partial(grow_mark, self._config.store_root(self._node.id), self._job.scope)
        _, *told = await asyncio.gather(asyncio.to_thread(here), *(tell(node) for node in nodes))
        alive = {node.name for node in await asyncio.to_thread(alive_nodes)}
        return tuple(name for name in told if name in alive)

    @answering
    async def deliver(self, pin: Pin, node_id: str, route: RouteName | None) -> NodeReport:
        """Bring a pinned model to one node; returns when its store has published it.

        Raises:
            HubdistError: The model is not there, or did not reach the node.
        """
        nodes = await self._choose_nodes([node_id])
        wanted = self._config.wanted_route(pin.settings, route)
        report = await self._deliveries.bring(pin.digest, pin.handle, nodes[0], wanted)
        if report.error is not None:
            raise report.error
        return report

    @answering
    async def access(self, pin: Pin, route: RouteName | None) -> ReadSources:
        """How a process can read a pinned model by itself."""
        manifest = await self._pins.manifest(pin.digest)
        wanted = self._config.wanted_route(pin.settings, route)
        return ReadSources.ordered(manifest, self._deliveries.copies(pin.digest), wanted)

    @answering
    async def prefetch(self, texts: list[str], wanted: list[str] | None) -> Report:
        """Resolve handles and bring them to nodes: to all that are alive now, or to those with these ids or names.

        A handle that cannot be resolved, and a node that fails, are in the report, with their errors.
        """
        begin = time.monotonic()
        nodes = await self._choose_nodes(wanted)
        ids = [node.id for node in nodes]
        reader = self._node.id if self._node.id in ids or not ids else ids[0]
        found = await asyncio.gather(*(self._prefetch(text, nodes, reader) for text in texts))
        pins = [one for one, _ in found if isinstance(one, PinReport)]
        unresolved = [one for one, _ in found if isinstance(one, HubdistError)]
        reports = [report for _, several in found for report in several]
        return Report(tuple(pins), tuple(reports), time.monotonic() - begin, tuple(unresolved))

    async def _prefetch(
        self, text: str, nodes: list[Node], reader: str
    ) -> tuple[PinReport | HubdistError, list[NodeReport]]:
        """Bring one model to nodes; its failure is its own."""
        try:
            pin = await self._pin(text, None, reader, "stage", [node.id for node in nodes])
        except HubdistError as error:
            return error, []
        wanted = self._config.wanted_route(self._pins.settings_of(pin.handle), None)
        work = (self._deliveries.bring(pin.resolution.digest, pin.handle.redacted, node, wanted) for node in nodes)
        return pin.report, await asyncio.gather(*work)

    @answering
    async def plan(self, text: str, wanted: list[str] | None, route: RouteName | None) -> Plan:
        """What a load of this handle would do on these nodes, without doing it; nodes are probed.

        Raises:
            HubdistError: The handle cannot be understood, or no such node is alive.
        """
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
            handle=handle.redacted,
            digest=None if digest is None else str(digest),
            total_bytes=None if resolution is None else resolution.manifest.total_bytes,
            known=None if resolution is None else ("this job" if pinned else f"the {resolution.source}"),
            read_mode=self._config.wanted_read_mode(settings, None),
            nodes=tuple(NodePlan(node.id, node.name, order) for node, order in zip(nodes, orders, strict=True)),
        )

    async def _plan_node(
        self, node: Node, digest: Digest | None, places: Mapping[Route, str], wanted: Route | None
    ) -> RouteOrder:
        if await self._holds(node, digest):
            return order_routes(Evidence(node_holds_snapshot=True))
        return await self._deliveries.order(node, places, wanted)

    @answering
    async def progress(self) -> dict[str, tuple[int, int]]:
        """Node and model -> bytes that arrived, bytes in all; for the deliveries that run now."""
        return self._deliveries.progress

    @answering
    async def status(self) -> CoordinatorStatus:
        """What this job knows."""
        pins, done = self._pins.reports, self._deliveries.reports
        shown = newest(pins, PINS_BYTES)
        left_out = (len(pins) - len(shown), done.left_out)
        return CoordinatorStatus(self._node.name, shown, done.newest, self._agents.names, left_out, done.totals)

    @answering
    async def manifest(self, digest: Digest) -> Manifest:
        """The manifest of a pinned model.

        Raises:
            IntegrityError: The driver's store does not have it.
        """
        return await self._pins.manifest(digest)

    @answering
    async def read(self, digest: Digest, chunk: Chunk) -> Any:
        """The bytes of one chunk of a pinned model, for processes outside the cluster.

        Raises:
            IntegrityError: The driver's store does not have them.
        """
        snapshot = await self._pins.snapshot(digest)
        return await asyncio.to_thread(read_chunk, snapshot, chunk)

    def _check_store(self) -> None:
        try:
            _ = self._pins
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__

    async def _pin(
        self,
        text: str,
        route: RouteName | None,
        node_id: str,
        read_mode: ReadMode | None,
        nodes: list[str] | None = None,
        *,
        terms: Terms | None = None,
    ) -> Pinned:
        terms = terms or Terms()
        try:
            handle = self._pins.parse(text)
            pinned = await self._find(handle, terms)
            if pinned is None:
                settings = terms.settings(handle, self._pins.settings_of(handle))
                wanted = self._config.wanted_route(settings, route)
                keep = self._config.wanted_read_mode(settings, read_mode) == "stage"
                pinned = await self._resolve(handle, wanted, node_id, nodes or [node_id], keep=keep)
            terms.check(handle, pinned.resolution.digest)
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__
        return pinned

    async def _find(self, handle: Handle, terms: Terms) -> Pinned | None:
        """What this coordinator has pinned; refuses what a process does not want to be asked for.

        Raises:
            NotPinnedError: The process is frozen and nothing pins the handle, or offline and it would be asked for.
        """
        known = self._pins.known(handle)
        own = terms.models.get(handle.key)
        if terms.frozen and (own is None or own.digest is None) and not await self._pins.is_chosen(handle):
            raise NotPinnedError(
                "this process is frozen, and this handle has no pin",
                handle=handle.redacted,
                advice="Add it to models with its digest, in this process's init or in the job's.",
            )
        if known is None and terms.offline and handle.kind is not Kind.LOCAL and await self._pins.look(handle) is None:
            raise NotPinnedError(
                "this process is offline, and the job has not resolved this handle",
                handle=handle.redacted,
                advice="Resolve it in the driver, or in a process that is not offline.",
            )
        return known

    async def _resolve(
        self, handle: Handle, wanted: Route | None, node_id: str, nodes: list[str], *, keep: bool
    ) -> Pinned:
        early = self._early(handle, wanted, nodes) if keep else None
        try:
            return await self._pins.pin(handle, wanted, self._reader(wanted, node_id, keep=keep), early)
        finally:
            self._reading.pop(handle.key, None)

    def _early(self, handle: Handle, wanted: Route | None, nodes: list[str]) -> OriginFeed | None:
        """Lets nodes take part in a delivery while the origin is being read; None if they may read elsewhere."""
        if wanted not in (None, Route.DRIVER) or (wanted is None and self._config.shared_cache is not None):
            return None
        early = self._reading.get(handle.key)
        if early is None:
            early = self._reading[handle.key] = self._deliveries.early(handle.redacted)
        task = asyncio.create_task(self._add_nodes(early, handle, nodes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return early

    async def _add_nodes(self, early: OriginFeed, handle: Handle, ids: list[str]) -> None:
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

        async def deliver(handle: str) -> None:
            report = await self.prefetch([handle], None)
            for error in report.unresolved:
                _LOG.warning("hubdist: a model of the configuration could not be resolved: %s", error)

        await asyncio.gather(*(deliver(handle) for handle in handles))

    def _idle_limit_s(self, idle_s: float) -> float:
        """How long this may live without work: shorter once the driver has ended or shut the job down."""
        soon = min(_OVER_IDLE_S, _DETACHED_IDLE_S)
        over = idle_s < soon or self._job.closed or job_is_over(self._job_id)
        return soon if over else _DETACHED_IDLE_S
