"""Brings pinned models to nodes: by the best way that each node has, and by the next one if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.arrivals import Arrivals
from hubdist.cluster.coordinator.cluster_view import ClusterView
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.liveness import DEFAULT_TIMES, LivenessTimes
from hubdist.cluster.coordinator.origin_feed import OriginFeed
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.report_log import ReportLog, thinned
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.nodes import Node
from hubdist.cluster.single_flight import SingleFlight
from hubdist.config.schema import Config
from hubdist.delivery.routes import Evidence, ProbeResult, Route, RouteChoice, RouteOrder, order_routes
from hubdist.errors import HubdistError, IntegrityError, NodeLostError, NotPinnedError, PeerError
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy
from hubdist.report.delivery import NodeReport

_LOG = logging.getLogger(__name__)
_EARLY = "it came while the origin was being read"
_LOOK_S = 1.0
_MAX_REPORTS = 1_000
"""Of those that are remembered; `reports` bounds their bytes."""

_POINTS = 1 << 15
"""A job's deliveries have timelines of so many points divided by how many deliveries it has had, and no fewer than
`_LEAST_POINTS`: a prefetch of thousands of models to hundreds of nodes holds all their reports at once."""

_LEAST_POINTS = 4


class RouteRunner:
    """All deliveries of a job. Owned by the coordinator's event loop.

    Args:
        pins: The job's pins.
        agents: Agents by node.
        ways: What nodes can read themselves.
        node: The driver's node.
        config: The job's settings.
        cluster: Tells which nodes are alive.
        times: How long nodes may give no answer.
    """

    def __init__(
        self,
        pins: JobPins,
        agents: AgentPool,
        ways: Probes,
        node: Node,
        config: Config,
        *,
        cluster: ClusterView,
        times: LivenessTimes = DEFAULT_TIMES,
    ) -> None:
        self._cluster = cluster
        self._pins = pins
        self._agents = agents
        self._ways = ways
        self._node = node
        self._config = config
        self._work = SingleFlight()
        self._transfers = RunningDeliveries(node, agents, cluster, config, times)
        self._stores = StoreGroups(node, agents, pins.nonces, cluster)
        self._reports = ReportLog(_MAX_REPORTS)
        self._arrivals = Arrivals(self._report_early)

    @property
    def active(self) -> bool:
        """True while a model travels."""
        return self._transfers.active

    @property
    def reports(self) -> ReportLog:
        """What nodes got."""
        return self._reports

    @property
    def progress(self) -> dict[str, tuple[int, int]]:
        """Node and model -> bytes that arrived, bytes in all; for what travels from node to node now."""
        return self._transfers.progress

    async def bring(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        """Bring a pinned model to one node; a failure, of whatever kind, is in the report and nowhere else.

        To a node that shares the store of another one nothing is sent: that one gets the model, and this one looks.
        """
        shared = await self._work.run(("share", digest, node.id), lambda: self._share(digest, handle, node, wanted))
        return shared or await self._once(digest, handle, node, wanted)

    def early(self, handle: str) -> OriginFeed:
        """A delivery that can begin while an origin is being read.

        Each node that it brings the model to has a report, whether anybody asks for the model there or not.

        Args:
            handle: The handle without secrets.
        """
        expect = functools.partial(self._arrivals.expect, handle)
        return OriginFeed(self._transfers, self._node, self._stores, expect, self._cluster)

    def copies(self, digest: Digest) -> dict[Route, RemoteCopy]:
        """The places where nodes could read a model themselves."""
        try:
            pinned = self._pins.pinned(digest)
        except NotPinnedError:  # a pickle from another job; the driver's store may have it
            return {}
        found = {Route.SHARED: pinned.resolution.shared, Route.DIRECT: pinned.direct}
        return {route: copy for route, copy in found.items() if copy is not None}

    async def order(self, node: Node, places: Mapping[Route, str], wanted: Route | None) -> RouteOrder:
        """The routes of a node that lacks a model, by what its own process can read.

        Args:
            node: Which.
            places: Route -> the directory that would be read.
            wanted: The route to try first; None for the best.
        """
        with contextlib.suppress(HubdistError):  # the probes of the places say what is the matter
            first = await self._stores.first(node)
            if first.id != node.id:
                return order_routes(Evidence(shares=self._stores.reason(first)))
        return await self._order(node, places, wanted)

    async def _order(self, node: Node, places: Mapping[Route, str], wanted: Route | None) -> RouteOrder:
        findings: dict[Route, ProbeResult] = {}
        if wanted is not Route.DRIVER:
            probes = await asyncio.gather(*(self._ways.probe(node, url) for url in places.values()))
            findings = dict(zip(places, probes, strict=True))
        evidence = Evidence(wanted, shared=findings.get(Route.SHARED), direct=findings.get(Route.DIRECT))
        return order_routes(evidence)

    async def _once(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        return await self._work.run((digest, node.id), lambda: self._deliver(digest, handle, node, wanted))

    async def _share(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport | None:
        """Wait until a node that shares this one's store has the model, and look; None if that is of no use.

        It waits for deliveries, and no delivery waits for it.
        """
        begin = time.monotonic()
        try:
            first = await self._stores.first(node)
            if first.id == node.id:
                return None
            if not await self._holds(node, digest):
                if first.id != self._node.id or await self._pins.held(digest) is None:
                    filled = await self._while_heard(first, self._once(digest, handle, first, wanted))
                    if filled is None or filled.error is not None:
                        return None
                if not await self._agents.call(node, "look_again", digest, timeout_s=START_TIMEOUT_S):
                    return None
        except HubdistError as error:  # the node's own delivery meets it again, and reports it
            _LOG.info("hubdist: %s was not asked whose store it shares: %s", node.name, error)
            return None
        except Exception as error:  # noqa: BLE001 - the actor's loop: a node's trouble is that node's alone
            _LOG.error("hubdist: unexpected error", exc_info=error)
            return None
        report = NodeReport(node.id, node.name, handle, str(digest), Route.STORE, self._stores.reason(first))
        return self._note(digest, node, replace(report, seconds=time.monotonic() - begin))

    async def _while_heard(self, first: Node, work: Coroutine[Any, Any, NodeReport]) -> NodeReport | None:
        """What another node got; None if that one gives no answer, which must not keep the others waiting."""
        task = asyncio.create_task(work)
        while not (await asyncio.wait([task], timeout=_LOOK_S))[0]:
            if self._transfers.liveness.is_silent(first):
                _LOG.warning("hubdist: %s gives no answer; nodes that share its store do not wait for it", first.name)
                return None
        return task.result()

    def _note(self, digest: Digest, node: Node, report: NodeReport) -> NodeReport:
        """Remember what a node got; returns it as it is handed out."""
        points = max(_LEAST_POINTS, _POINTS // (self._reports.count + 1))
        report = replace(report, timeline=thinned(report.timeline, points))
        if report.error is None:
            self._transfers.note_holder(digest, node)
        self._reports.note(report)
        _LOG.info("hubdist: %s to %s", report.handle, report)
        return report

    def _report_early(self, handle: str, digest: Digest, node: Node, brought: DeliveryStats) -> NodeReport:
        report = NodeReport(node.id, node.name, handle, str(digest), None, "")
        report = _brought(report, RouteChoice(Route.DRIVER, _EARLY), self._node.name, brought)
        return self._note(digest, node, replace(report, seconds=report.timeline[-1][0] if report.timeline else 0.0))

    async def _came_early(self, digest: Digest, node: Node) -> NodeReport | None:
        """The report, noted already, of a model that came while its origin was being read, if the node has it still."""
        came = await self._arrivals.take(digest, node)
        with contextlib.suppress(HubdistError):  # the delivery meets it again, and reports it
            if came is not None and await self._holds(node, digest):
                return came
        return None

    async def _holds(self, node: Node, digest: Digest) -> bool:
        return bool(await self._agents.call(node, "holds", digest, timeout_s=START_TIMEOUT_S))

    async def _deliver(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        begin = time.monotonic()
        report = NodeReport(node.id, node.name, handle, str(digest), None, "")
        try:
            early = await self._came_early(digest, node)
            if early is not None:
                return replace(early, handle=handle)
            report = await self._bring(digest, report, node, wanted)
        except HubdistError as error:
            report = replace(report, error=error.with_context(handle=handle, node=node.name), reason="it failed")
        except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes a report
            _LOG.error("hubdist: unexpected error", exc_info=error)
            failed = PeerError(f"unexpected {type(error).__name__}: {error}", handle=handle, node=node.name)
            report = replace(report, error=failed, reason="it failed")
        before = report.timeline[-1][0] if report.timeline else 0.0  # it may have begun before this call
        return self._note(digest, node, replace(report, seconds=max(before, time.monotonic() - begin)))

    async def _bring(self, digest: Digest, report: NodeReport, node: Node, wanted: Route | None) -> NodeReport:
        manifest = await self._pins.manifest(digest)
        if node.id == self._node.id and await self._pins.held(digest) is not None:
            return replace(report, route=Route.STORE, reason="it is the driver's own node")
        copies = {route: copy for route, copy in self.copies(digest).items() if copy.fits(manifest)}
        order = await self._order(node, {route: copy.url for route, copy in copies.items()}, wanted)
        for refused in order.refused:
            if refused.route in copies:
                self._ways.say(node, copies[refused.route].url, refused.reason)
        failed = []
        for choice in order.choices[:-1]:
            copy = copies[choice.route]
            try:
                if self._config.swarm_reads:
                    brought = await self._transfers.join_delivery(manifest, node, choice.route, copy)
                    found = _brought(report, choice, copy.redacted, brought)
                else:
                    found = _copied(report, choice, copy, await self._ways.copy(node, manifest, copy))
            except NodeLostError:
                raise
            except FALLBACK_ERRORS as error:
                self._ways.say(node, copy.url, str(error))
                failed.append(f"not {choice.route}: {error.what}")
            else:
                return found
        last = order.choices[-1]
        return await self._send(manifest, report, node, replace(last, reason="; ".join(failed) or last.reason))

    async def _send(self, manifest: Manifest, report: NodeReport, node: Node, choice: RouteChoice) -> NodeReport:
        """The last way: from the driver's node, which reads the origin first if it lacks the model."""
        digest = manifest.digest
        await self._pins.snapshot(digest)
        if node.id == self._node.id:
            return replace(report, route=Route.STORE, reason="it is the driver's own node")
        try:
            brought = await self._transfers.join_delivery(manifest, node, Route.DRIVER, None)
        except IntegrityError:
            if not await self._pins.repair(digest):
                raise
            _LOG.warning("hubdist: the driver's snapshot %s was damaged and is fetched again", digest)
            await self._pins.snapshot(digest)
            brought = await self._transfers.join_delivery(manifest, node, Route.DRIVER, None)
        return _brought(report, choice, self._node.name, brought)


def _copied(report: NodeReport, choice: RouteChoice, copy: RemoteCopy, read: int | None) -> NodeReport:
    if read is None:
        return _had_it(report)
    return replace(
        report,
        route=choice.route,
        reason=choice.reason,
        source=copy.redacted,
        bytes_received=read,
        sources=((copy.redacted, read),),
    )


def _brought(report: NodeReport, choice: RouteChoice, source: str, brought: DeliveryStats | None) -> NodeReport:
    if brought is None:
        return _had_it(report)
    return replace(
        report,
        route=choice.route,
        reason=choice.reason,
        source=source,
        bytes_received=sum(size for _, size in brought.sources),
        sources=brought.sources,
        timeline=brought.timeline,
        retries=brought.retries,
        refused=brought.refused,
    )


def _had_it(report: NodeReport) -> NodeReport:
    found = order_routes(Evidence(node_holds_snapshot=True)).first
    return replace(report, route=found.route, reason=found.reason)
