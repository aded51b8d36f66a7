"""Brings pinned models to nodes: each node's routes are tried in order, until one of them gives the model."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace

from hubdist.cluster.calls import unexpected_error
from hubdist.cluster.coordinator.concurrency import SingleFlight
from hubdist.cluster.coordinator.delivery_reports import DeliveryReports, empty_report, with_copied, with_received
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreSharing
from hubdist.cluster.nodes import Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route, RouteChoice
from hubdist.errors import HubdistError, IntegrityError, NodeLostError
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy
from hubdist.report.delivery import NodeReport

_LOG = logging.getLogger(__name__)
_FAILED = "it failed"
_DRIVERS_NODE = "it is the driver's own node"


class RouteRunner:
    """Tries the routes of nodes, and reports what came of it. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        config: The job's settings.
        pins: The job's pins.
        snapshots: The driver's store.
        probes: What nodes can read themselves.
        running: The deliveries that run.
        sharing: Which nodes wait for others that see the same store.

    Attributes:
        reports: What nodes got.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        *,
        pins: JobPins,
        snapshots: DriverSnapshots,
        probes: Probes,
        running: RunningDeliveries,
        sharing: StoreSharing,
    ) -> None:
        self._node = node
        self._config = config
        self._pins = pins
        self._snapshots = snapshots
        self._probes = probes
        self._running = running
        self._sharing = sharing
        self._flights = SingleFlight()
        self.reports = DeliveryReports(node, running.note_holder)

    async def run_routes(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        """Bring a pinned model to one node; a failure of any kind is in the report.

        Nothing is sent to a node that shares the store of another node: the other node gets the model.

        Args:
            digest: The model.
            handle: Its handle without secrets.
            node: The node that needs it.
            wanted: The route to try first; None for the best one.
        """
        key = ("share", digest, node.id)
        shared = await self._flights.run(key, lambda: self._wait_for_sharer(digest, handle, node, wanted))
        return shared or await self._run_once(digest, handle, node, wanted)

    def copies(self, digest: Digest) -> dict[Route, RemoteCopy]:
        """Route -> the copy of a model that nodes could read themselves.

        It is empty for a model that this job has not resolved: a pickle from another job names one.
        """
        pins = self._pins.of_digest(digest)
        return pins[0].copies if pins else {}

    async def admitted_copies(self, digest: Digest) -> dict[Route, RemoteCopy]:
        """The copies that nodes may begin to read now: not one in a shared cache that is being removed from it."""
        copies = self.copies(digest)
        if Route.SHARED in copies and not await self._pins.admit_shared(digest):
            del copies[Route.SHARED]
        return copies

    async def _wait_for_sharer(
        self, digest: Digest, handle: str, node: Node, wanted: Route | None
    ) -> NodeReport | None:
        """The report of a node that has the model because another one shares its store; None if it has to get it."""
        begin = time.monotonic()
        try:
            reason = await self._sharing.wait_for(
                digest, node, lambda first: self._run_once(digest, handle, first, wanted)
            )
        except HubdistError as error:  # the node's own routes meet the same error, and report it
            _LOG.info("hubdist: %s was not asked whose store it shares: %s", node.name, error)
            return None
        except Exception as error:  # noqa: BLE001 - the actor's loop: a node's trouble is that node's alone
            unexpected_error(error, f"asking {node.name} whose store it shares")
            return None
        if reason is None:
            return None
        report = replace(empty_report(node, handle, digest), route=Route.STORE, reason=reason)
        return self.reports.note(digest, node, replace(report, seconds=time.monotonic() - begin))

    async def _run_once(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        return await self._flights.run((digest, node.id), lambda: self._report_routes(digest, handle, node, wanted))

    async def _report_routes(self, digest: Digest, handle: str, node: Node, wanted: Route | None) -> NodeReport:
        """Try the routes of a node, and turn whatever happens into a report."""
        begin = time.monotonic()
        report = empty_report(node, handle, digest)
        try:
            early = await self._came_early(digest, node)
            if early is not None:
                return replace(early, handle=handle)
            report = await self._try_routes(digest, report, node, wanted)
        except HubdistError as error:
            report = replace(report, error=error.with_context(handle=handle, node=node.name), reason=_FAILED)
        except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes a report
            failed = unexpected_error(error, f"bringing a model to {node.name}")
            report = replace(report, error=failed.with_context(handle=handle, node=node.name), reason=_FAILED)
        before = report.timeline[-1][0] if report.timeline else 0.0  # the delivery may have begun before this call
        return self.reports.note(digest, node, replace(report, seconds=max(before, time.monotonic() - begin)))

    async def _came_early(self, digest: Digest, node: Node) -> NodeReport | None:
        """The report of a model that came while its origin was being read, if the node still has the model.

        The report has been noted already.
        """
        report = await self.reports.arrivals.take(digest, node)
        if report is not None:
            with contextlib.suppress(HubdistError):  # the routes meet the same error, and report it
                if await self._probes.holds(node, digest):
                    return report
        return None

    async def _try_routes(self, digest: Digest, report: NodeReport, node: Node, wanted: Route | None) -> NodeReport:
        """Try one route after another; the last one, from the driver's node, is always there."""
        manifest = await self._pins.manifest(digest)
        if node.id == self._node.id and await self._snapshots.find(digest) is not None:
            return replace(report, route=Route.STORE, reason=_DRIVERS_NODE)
        admitted = await self.admitted_copies(digest)
        copies = {route: copy for route, copy in admitted.items() if copy.fits(manifest)}
        order = await self._probes.order(node, {route: copy.url for route, copy in copies.items()}, wanted)
        for refused in order.refused:
            if refused.route in copies:
                self._probes.log_refusal(node, copies[refused.route].url, refused.reason)
        failed = []
        for choice in order.choices[:-1]:
            copy = copies[choice.route]
            try:
                return await self._read_copy(manifest, report, node, choice, copy)
            except NodeLostError:
                raise
            except FALLBACK_ERRORS as error:
                self._probes.log_refusal(node, copy.url, str(error))
                failed.append(f"not {choice.route}: {error.what}")
        last = order.choices[-1]
        return await self._send_from_driver(
            manifest, report, node, replace(last, reason="; ".join(failed) or last.reason)
        )

    async def _read_copy(
        self, manifest: Manifest, report: NodeReport, node: Node, choice: RouteChoice, copy: RemoteCopy
    ) -> NodeReport:
        """Let a node read a copy on storage: alone, or a share of it in a delivery to several nodes."""
        if self._config.swarm_reads:
            stats = await self._running.join_delivery(manifest, node, choice.route, copy)
            return with_received(report, choice, copy.redacted, stats)
        read_bytes = await self._probes.copy(node, manifest, copy)
        return with_copied(report, choice, copy, read_bytes, manifest.total_bytes)

    async def _send_from_driver(
        self, manifest: Manifest, report: NodeReport, node: Node, choice: RouteChoice
    ) -> NodeReport:
        """Send a model from the driver's node, which reads the origin first if its store lost the model."""
        digest = manifest.digest
        await self._pins.snapshot(digest)
        if node.id == self._node.id:
            return replace(report, route=Route.STORE, reason=_DRIVERS_NODE)
        try:
            stats = await self._running.join_delivery(manifest, node, Route.DRIVER, None)
        except IntegrityError:
            if not await self._snapshots.is_damaged(digest):
                raise
            _LOG.warning("hubdist: the driver's snapshot %s was damaged and is fetched again", digest)
            await self._pins.snapshot(digest)
            stats = await self._running.join_delivery(manifest, node, Route.DRIVER, None)
        return with_received(report, choice, self._node.name, stats)
