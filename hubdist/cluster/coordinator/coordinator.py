"""The coordinator: the one actor of a job that resolves handles, remembers pins, and brings models to nodes.

A plain class, of which `actors` makes an actor. Its methods run in one event loop, so its fields need no locks; what
blocks runs in threads. Every method may be called again with the same arguments: the work is done once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from hubdist.cluster.calls import stop_this_actor
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.chunk_reads import read_chunk
from hubdist.cluster.coordinator.lifetime import Lifetime, answering
from hubdist.cluster.coordinator.parts import CoordinatorParts
from hubdist.cluster.coordinator.placement_service import PlacementService
from hubdist.cluster.coordinator.prefetch import bring_configured, bring_to_nodes
from hubdist.cluster.coordinator.refresh_news import tell_nodes
from hubdist.cluster.coordinator.report_log import PINS_BYTES, newest
from hubdist.cluster.driver_access import DriverAccess
from hubdist.cluster.job import CoordinatorStatus, Job, JobRecord, Membership, Terms
from hubdist.cluster.nodes import ClusterView, Node, choose_nodes, job_is_over
from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.arrivals import Arrival
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.report.plan import Plan, Refreshed
from hubdist.report.record import write_record
from hubdist.resolver.values import CallOptions, LoaderPin, ReadSources

_LOG = logging.getLogger(__name__)
_DETACHED_IDLE_S = 600.0
_OVER_IDLE_S = 15.0
"""For the coordinator of a job whose driver is gone. A task that asks once more makes it anew, with all its pins."""


class Coordinator(PlacementService):
    """Resolves each handle once for a job, and brings models to nodes.

    Args:
        job: The job.
        job_id: Ray's id of the job.
        node: The node that the coordinator runs on.
        make_agent: Starts an agent on a node.
        record: What the cluster remembers of the job.
        detached: End the process after a long time without work; a driver's coordinator ends with the driver.
        cluster: Tells which nodes are alive, and the time; None asks Ray.
        values: The way to the driver's variables for origins; None if there is none.
    """

    def __init__(
        self,
        job: Job,
        *,
        job_id: str,
        node: Node,
        make_agent: Callable[[Config, Node], Any],
        record: JobRecord,
        detached: bool,
        cluster: ClusterView | None = None,
        values: DriverAccess | None = None,
    ) -> None:
        self._job = job
        self._values = values or DriverAccess()
        self._job_id = job_id
        self._node = node
        self._record = record
        self._cluster = cluster or ClusterView()
        self._agents = AgentPool(job.config, lambda _, node: make_agent(job.config_on(node.id), node), self._cluster)
        self._life = Lifetime()
        self._first_delivery: asyncio.Task[None] | None = None
        record.keep_job(job)
        if detached:
            self._life.end_when_idle(self._idle_limit_s, stop_this_actor)

    @functools.cached_property
    def _parts(self) -> CoordinatorParts:
        """Made at the first call and not before: an error of the constructor would reach nobody with its type."""
        return CoordinatorParts(self._job, self._node, self._agents, self._record, self._cluster, values=self._values)

    @answering
    async def join(self, handles: list[str]) -> Membership:
        """Let a process take part in the job.

        Args:
            handles: The configured models; the first call begins to deliver them to all nodes.

        Raises:
            ConfigError, NotPinnedError: A path cannot be told on this node; or locked settings lack a model's pin.
            StoreError: The store of the driver's node cannot be used.
        """
        try:
            self._parts.resolver.policy.check_listed(map(self._parts.resolver.parse, handles))
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__
        if self._first_delivery is None:
            self._first_delivery = asyncio.create_task(bring_configured(self.prefetch, handles))
        return Membership(self._job, self._node.id)

    @answering
    async def close(self) -> None:
        """The driver shuts the job down: whatever its tasks still ask must not keep a coordinator for long."""
        await asyncio.to_thread(self._record.close_job)
        await self._parts.reporter.flush(closed=True)

    @answering
    async def pin_for_process(self, text: str, node_id: str, options: CallOptions, terms: Terms) -> LoaderPin:
        """What a handle stands for; the same for the whole job, even if the origin changes.

        Args:
            text: The handle.
            node_id: The node of the process that asks; it may have to read a directory that the handle names. Only for
                the read mode `stage` does that node keep the files.
            options: What the call asks for in place of the settings.
            terms: What the process demands beyond the job's settings.

        Raises:
            HandleError: The text is not a handle.
            ResolveError, TransferError, IntegrityError: The model cannot be had, or a pin refuses it.
        """
        pinned = await self._parts.pin_service.pinned(text, node_id, options, terms, [node_id])
        return pinned.for_loader(terms.settings(pinned.handle, self._parts.resolver.policy.settings_of(pinned.handle)))

    @answering
    async def refresh(self, text: str, node_id: str, options: CallOptions) -> Refreshed:
        """Ask the origin again what a handle stands for, and tell every node.

        Processes that have loaded the model that it stood for keep it. After an error the pin stays as it was.

        Args:
            text: The handle.
            node_id: The node of the process that asks; it may have to read a directory that the handle names.
            options: What the call asks for in place of the settings.

        Raises:
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
        """
        handle, before, digest = await self._parts.pin_service.refreshed(text, node_id, options)
        untold: tuple[str, ...] = ()
        if before not in (None, digest):
            root = self._parts.config.store_root(self._node.id)
            untold = await tell_nodes(self._agents, self._cluster, self._node, root=root, scope=self._job.scope)
        return Refreshed(handle.redacted, None if before is None else str(before), str(digest), untold)

    @answering
    async def deliver(self, pin: LoaderPin, node_id: str) -> NodeReport:
        """Bring a pinned model to one node; returns when the node's store has published it.

        Args:
            pin: The model, with the route that the process wants.
            node_id: Ray's id of the node.

        Raises:
            ConfigError: The node is not alive.
            NotPinnedError: Nobody has the model, and this job has not resolved it.
            TransferError, IntegrityError, StoreError: The model did not reach the node.
        """
        node = choose_nodes(await self._cluster.alive(), [node_id])[0]
        wanted = self._parts.config.wanted_route(pin.settings, None)
        report = await self._parts.runner.run_routes(pin.digest, pin.handle, node, wanted)
        if report.error is not None:
            raise report.error
        return report

    @answering
    async def enclose(self, pin: LoaderPin, node_id: str, results: int) -> tuple[Any, ...]:
        """A small model, for a process that writes it into its node's store.

        Args:
            pin: The model, with the route that the process wants.
            node_id: Ray's id of the process's node.
            results: How many results the call has.

        Returns:
            The manifest, and the bytes in the other results; None in each result if agents have to deliver the model.
        """
        return await self._parts.enclosures.enclose(pin, node_id, results)

    @answering
    async def note_enclosed(self, pin: LoaderPin, node_id: str, seconds: float | None) -> None:
        """Hear what became of an answer with an enclosed model.

        Args:
            pin: The model.
            node_id: Ray's id of the process's node.
            seconds: How long it took until the node's store had the model; None if the store did not take it.
        """
        await self._parts.enclosures.note(pin, node_id, seconds)

    @answering
    async def access(self, pin: LoaderPin) -> ReadSources:
        """How a process can read a pinned model by itself."""
        manifest = await self._parts.pins.manifest(pin.digest)
        wanted = self._parts.config.wanted_route(pin.settings, None)
        return ReadSources.ordered(manifest, await self._parts.runner.admitted_copies(pin.digest), wanted)

    @answering
    async def prefetch(self, texts: list[str], wanted: list[str] | None) -> Report:
        """Resolve handles and bring the models to nodes. What fails is in the report, with its error.

        Args:
            texts: The handles.
            wanted: Ids, names or addresses of nodes; None means all that are alive now.

        Raises:
            ConfigError: A name belongs to no node that is alive.
        """
        begin = time.monotonic()
        nodes = choose_nodes(await self._cluster.alive(), wanted)
        what = functools.partial(bring_to_nodes, parts=self._parts, here=self._node, agents=self._agents)
        found = await asyncio.gather(*(what(text, nodes) for text in texts))
        pins = [one for one, _ in found if isinstance(one, PinReport)]
        unresolved = [one for one, _ in found if isinstance(one, HubdistError)]
        reports = [report for _, several in found for report in several]
        report = Report(tuple(pins), tuple(reports), time.monotonic() - begin, tuple(unresolved))
        await self._parts.reporter.flush()  # a short driver may end right after this call
        return report

    @answering
    async def plan(self, text: str, wanted: list[str] | None, options: CallOptions) -> Plan:
        """What a load of this handle would do on nodes, without doing it; the nodes are probed.

        Args:
            text: The handle.
            wanted: Ids, names or addresses of nodes; None means all that are alive now.
            options: What the load would ask for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
            ConfigError: A name belongs to no node that is alive.
        """
        nodes = choose_nodes(await self._cluster.alive(), wanted)
        return await self._parts.planner.plan(text, nodes, options)

    @answering
    async def watch(self) -> tuple[Arrival, ...]:
        """What the deliveries that run now have brought to each node."""
        return self._parts.running.watch()

    @answering
    async def status(self) -> CoordinatorStatus:
        """What this job knows."""
        pins, log = self._parts.pins.reports, self._parts.runner.reports.log
        shown = newest(pins, PINS_BYTES)
        left_out = (len(pins) - len(shown), log.left_out)
        return CoordinatorStatus(self._node.name, shown, log.newest, self._agents.names, left_out, log.totals)

    @answering
    async def job_record(self) -> str:
        """The record of this job as it is now; text, so that other versions of hubdist can read it."""
        return write_record(self._parts.reporter.report)

    @answering
    async def manifest(self, digest: Digest) -> Manifest:
        """The files of a model.

        Raises:
            NotPinnedError: The job has not resolved the model, and the driver's store lacks it.
        """
        return await self._parts.pins.manifest(digest)

    @answering
    async def read(self, digest: Digest, chunk: Chunk) -> Any:
        """The bytes of one chunk of a pinned model, for processes without a store that agents fill.

        Args:
            digest: The model.
            chunk: The part to read.

        Raises:
            NotPinnedError: The job has not resolved the model, and the driver's store lacks it.
            IntegrityError: The driver's snapshot is damaged.
        """
        snapshot = await self._parts.pins.snapshot(digest)
        return await asyncio.to_thread(read_chunk, snapshot, chunk)

    def _idle_limit_s(self, idle_s: float) -> float:
        """After how many seconds without work this ends: sooner once the driver has ended or shut the job down.

        While the job runs, and nodes that join are to get models, it does not end.
        """
        soon = min(_OVER_IDLE_S, _DETACHED_IDLE_S)
        if idle_s < soon or self._job.closed or job_is_over(self._job_id):
            return soon
        return math.inf if self.keeps_models else _DETACHED_IDLE_S
