"""The parts of a job's coordinator, put together in one place."""

from __future__ import annotations

import functools

from hubdist.cluster.calls import share
from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.enclosures import Enclosures
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.job_reporter import JobReporter
from hubdist.cluster.coordinator.job_scope import JobScope, PinRecord
from hubdist.cluster.coordinator.open_feeds import OpenFeeds
from hubdist.cluster.coordinator.pin_service import PinService
from hubdist.cluster.coordinator.planner import Planner
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.report_log import ReportLog
from hubdist.cluster.coordinator.route_runner import RouteRunner
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups, StoreSharing
from hubdist.cluster.coordinator.warm_nodes import WarmNodes
from hubdist.cluster.driver_access import DriverAccess
from hubdist.cluster.job import Job
from hubdist.cluster.metrics import Metrics
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.report.delivery import PinReport
from hubdist.resolver.node_store import open_store
from hubdist.resolver.resolver import Resolver
from hubdist.store.nonces import Nonces
from hubdist.store.older_blocks import known_digests
from hubdist.store.store import Store


class CoordinatorParts:
    """What a coordinator works with. Owned by the coordinator's event loop.

    Args:
        job: The job.
        node: The driver's node.
        agents: Agents by node.
        record: Where the cluster notes the job's pins.
        cluster: Tells which nodes are alive, and the time.
        values: The way to the driver's variables for origins.

    Attributes:
        config: The job's settings, with the user's own origins.
        work: Threads for disks and origins.
        resolver: Resolves handles into the driver's store.
        pins: The job's pins.
        pin_service: Answers what handles stand for.
        planner: Tells what loads would do.
        running: The deliveries that run.
        runner: Brings models to nodes.
        enclosures: Encloses small models in answers.
        warm_nodes: Knows which nodes have which models.
        reporter: Keeps the job's record, and counts for its metrics.

    Raises:
        ConfigError: The settings cannot hold on this node.
        StoreError: The store of the driver's node cannot be used.
    """

    def __init__(
        self,
        job: Job,
        node: Node,
        agents: AgentPool,
        record: PinRecord,
        cluster: ClusterView,
        *,
        values: DriverAccess,
    ) -> None:
        self.config = job.whole_config(node.id)
        metrics = Metrics.of_process(self.config.export_metrics, node.id)
        store = open_store(self.config, node.id, evicted=metrics.note_evicted)
        self.work = BlockingWork()
        snapshots = DriverSnapshots(store, self.work)
        access = functools.partial(values.access, self.config)
        self.resolver = Resolver(self.config, store, job.base_dir, job.models, find_access=access)
        self.reporter = JobReporter(job, self.config, node, _JobView(self), metrics)
        scope = JobScope(store.root / "pins", job.scope, record, locked=self.config.locked)
        self.pins = JobPins(self.resolver, scope, snapshots, self.work, note=self.reporter.note_handle)
        self.running = RunningDeliveries(node, agents, cluster, self.config, share=share)
        probes = Probes(agents, self.config, cluster)
        stores = StoreGroups(node, agents, Nonces(store), cluster)
        sharing = StoreSharing(node, stores, snapshots, probes, self.running.liveness)
        self.runner = self._make_runner(node, snapshots, probes, sharing)
        self.runner.reports.listen(self.reporter.note_delivery)
        self.warm_nodes = WarmNodes(node, snapshots, probes, cluster)
        self.runner.reports.listen(self.warm_nodes.note)
        self.enclosures = self._make_enclosures(node, snapshots, cluster)
        feeds = self._make_feeds(node, store, stores, probes, cluster)
        self.pin_service = PinService(
            node, self.config, resolver=self.resolver, pins=self.pins, work=self.work, probes=probes, feeds=feeds
        )
        self.planner = self._make_planner(node, probes, stores)

    def _make_runner(
        self, node: Node, snapshots: DriverSnapshots, probes: Probes, sharing: StoreSharing
    ) -> RouteRunner:
        return RouteRunner(
            node,
            self.config,
            pins=self.pins,
            snapshots=snapshots,
            probes=probes,
            running=self.running,
            sharing=sharing,
        )

    def _make_enclosures(self, node: Node, snapshots: DriverSnapshots, cluster: ClusterView) -> Enclosures:
        return Enclosures(
            node,
            self.config,
            pins=self.pins,
            snapshots=snapshots,
            reports=self.runner.reports,
            work=self.work,
            cluster=cluster,
        )

    def _make_feeds(
        self, node: Node, store: Store, stores: StoreGroups, probes: Probes, cluster: ClusterView
    ) -> OpenFeeds:
        return OpenFeeds(
            node,
            self.running,
            stores,
            arrivals=self.runner.reports.arrivals,
            probes=probes,
            cluster=cluster,
            find_known=functools.partial(known_digests, store),
        )

    def _make_planner(self, node: Node, probes: Probes, stores: StoreGroups) -> Planner:
        return Planner(
            node,
            self.config,
            resolver=self.resolver,
            pins=self.pins,
            work=self.work,
            probes=probes,
            stores=stores,
            closed_ports=self.running.closed_ports,
            enclosures=self.enclosures,
        )


class _JobView:
    """What the parts of a coordinator know of the job, once they are put together."""

    def __init__(self, parts: CoordinatorParts) -> None:
        self._parts = parts

    @property
    def pins(self) -> tuple[PinReport, ...]:
        return self._parts.pins.reports

    @property
    def log(self) -> ReportLog:
        return self._parts.runner.reports.log
