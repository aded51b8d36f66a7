"""What came to nodes while the driver's side read the origin is reported once, whoever asks, and when; without Ray."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.open_feeds import OpenFeeds
from hubdist.cluster.coordinator.origin_feed import OriginFeed
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.route_runner import RouteRunner
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups, StoreSharing
from hubdist.cluster.enclosure import MAX_ENCLOSED_BYTES
from hubdist.delivery.routes import Route
from hubdist.errors import OriginError, StoreError
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport
from hubdist.resolver.resolver import Resolver
from hubdist.store.nonces import Nonces
from tests.support.fake_agents import DRIVER, QUICK, FakeNodes, fake_nodes, run, until

MIB = 1 << 20
SIZE = 9 * MIB + 3


class Job:
    """A job that reads a directory of the driver while nodes already take part."""

    def __init__(self, nodes: FakeNodes, folder: Path, size: int = SIZE) -> None:
        self.nodes = nodes
        root = folder / "model"
        root.mkdir()
        (root / "saved_model.pb").write_bytes(os.urandom(size))
        self.handle = parse_handle(str(root))
        self._resolver = Resolver(nodes.config, nodes.stores[DRIVER], None)
        driver, config = nodes.nodes[DRIVER], nodes.config
        pins = SimpleNamespace(manifest=self._manifest, of_digest=lambda _: [], snapshot=self._snapshot)
        snapshots = cast(DriverSnapshots, SimpleNamespace(find=self._snapshot))
        probes = Probes(nodes.agents, config, nodes.cluster)
        running = RunningDeliveries(driver, nodes.agents, nodes.cluster, config, QUICK)
        self.stores = StoreGroups(driver, nodes.agents, Nonces(nodes.stores[DRIVER]), nodes.cluster)
        self.runner = RouteRunner(
            driver,
            config,
            pins=cast(JobPins, pins),
            snapshots=snapshots,
            probes=probes,
            running=running,
            sharing=StoreSharing(driver, self.stores, snapshots, probes, running.liveness, times=QUICK),
        )
        self.feeds = OpenFeeds(
            driver, running, self.stores, arrivals=self.runner.reports.arrivals, probes=probes, cluster=nodes.cluster
        )
        self.digest: Digest | None = None

    async def read(self, *names: str) -> OriginFeed:
        """Read the origin; nodes take part, and have all chunks at the end."""
        early = self.feeds.make(self.handle.redacted)
        for name in names:
            early.add(self.nodes.nodes[name])
        await self.read_into(early)
        await until(lambda: all(self.nodes.calls[name, "begin"] for name in names))
        return early

    async def read_into(self, feed: OriginFeed) -> None:
        """Read the origin."""
        self._resolution = await asyncio.to_thread(self._resolver.find_or_read, self.handle, feed=feed)
        self.digest = self._resolution.digest

    async def ask(self, name: str) -> NodeReport:
        assert self.digest is not None
        return await self.runner.run_routes(self.digest, self.handle.redacted, self.nodes.nodes[name], None)

    async def reported(self, count: int) -> tuple[NodeReport, ...]:
        await until(lambda: self.runner.reports.log.count >= count)
        return self.runner.reports.log.newest

    def has(self, name: str) -> bool:
        return self.nodes.has(name, self._resolution.manifest)

    async def _manifest(self, _: Digest) -> Any:
        return self._resolution.manifest

    async def _snapshot(self, digest: Digest) -> Any:
        snapshot = self.nodes.stores[DRIVER].find(digest)
        assert snapshot is not None
        snapshot.release()
        return snapshot


def check(report: NodeReport, job: Job) -> None:
    assert report.error is None
    assert report.route is Route.DRIVER
    assert report.reason == "it came while the origin was being read"
    assert report.source == "node driver"
    assert report.bytes_received == sum(size for _, size in report.sources) == report.timeline[-1][1] == SIZE
    assert (report.handle, report.digest) == (job.handle.redacted, str(job.digest))
    assert report.seconds >= report.timeline[-1][0] > 0


def test_a_node_that_nobody_asks_for_has_a_report_too(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path)

        async def work() -> None:
            (await job.read("a")).settle()
            (report,) = await job.reported(1)
            check(report, job)
            assert await job.ask("a") == report  # it is not noted again
            assert job.runner.reports.log.count == 1
            assert (await job.ask("a")).route is Route.STORE  # who comes next was sent nothing

        run(work)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_asks_while_a_node_publishes_waits_and_hears_how_it_came(tmp_path: Path, when: str) -> None:
    """Before the snapshot is in the node's store, and after that but before the coordinator knows."""
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path)
        at_gate, go_on = threading.Event(), threading.Event()

        def gate(_: str, __: tuple[Any, ...]) -> None:
            at_gate.set()
            assert go_on.wait(30)

        getattr(nodes, when)["publish"] = gate

        async def work() -> None:
            (await job.read("a")).settle()
            assert await asyncio.to_thread(at_gate.wait, 30)
            assert job.has("a") == (when == "after")
            asking = asyncio.create_task(job.ask("a"))
            await asyncio.sleep(0.2)
            assert not asking.done()
            go_on.set()
            report = await asking
            check(report, job)
            assert job.runner.reports.log.newest == (report,)

        run(work)


def test_who_asks_where_the_early_delivery_failed_gets_it_anew_with_one_report(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path)

        def refuse(_: str, __: tuple[Any, ...]) -> None:
            nodes.before.pop("publish")
            raise StoreError("the disk refuses", path="/disk")

        nodes.before["publish"] = refuse

        async def work() -> None:
            (await job.read("a")).settle()
            report = await job.ask("a")
            assert report.error is None
            assert report.reason != "it came while the origin was being read"
            assert job.runner.reports.log.newest == (report,)

        run(work)
        assert job.has("a")


def test_a_model_that_a_node_lost_again_is_brought_and_not_only_reported(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a", agent_idle_s=0.01) as nodes:
        job = Job(nodes, tmp_path)

        async def work() -> None:
            (await job.read("a")).settle()
            await job.reported(1)
            snapshots = nodes.stores["a"].root / "snapshots"
            (snapshots / job.digest.value).rename(nodes.stores["a"].root / "gone")  # type: ignore[union-attr]  # read
            assert (await job.ask("a")).error is None

        run(work)
        assert job.has("a")


def test_an_origin_that_cannot_be_read_leaves_no_report_and_no_stage(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path)

        async def work() -> None:
            early = await job.read("a")
            early.fail(OriginError("it broke"))
            await until(lambda: list((nodes.stores["a"].root / "staging").iterdir()) == [])
            # The driver's agent may still wait for the snapshot that the stage has become.
            await until(lambda: not any(thread.name == "hubdist-stream" for thread in threading.enumerate()))

        run(work)
        assert job.runner.reports.log.count == 0


def test_a_cluster_that_does_not_answer_does_not_stop_the_reading(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores") as nodes:
        job = Job(nodes, tmp_path)

        def refuse() -> Any:
            raise OriginError("the cluster could not be asked")

        nodes.cluster.list_nodes = refuse

        async def work() -> None:
            (await job.read()).settle()

        run(work)
        assert job.has(DRIVER)


@pytest.mark.parametrize("size", [1 * MIB + 300_000, 4 * MIB])
def test_a_small_model_starts_no_agent(tmp_path: Path, size: int) -> None:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        job = Job(nodes, tmp_path, size)

        async def work() -> None:
            feed = job.feeds.open(job.handle, ["a", "b"], Digest("0" * 64))
            await job.read_into(feed)
            feed.settle()
            assert not await feed.begins()
            job.feeds.close(job.handle, feed)
            await asyncio.sleep(0.1)
            assert not nodes.calls
            assert not nodes.agents.names

        run(work)


def test_one_byte_more_than_is_enclosed_starts_agents(tmp_path: Path) -> None:
    size = MAX_ENCLOSED_BYTES + 1
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path, size)

        async def work() -> None:
            feed = job.feeds.open(job.handle, ["a"], None)
            await job.read_into(feed)
            assert await feed.begins()
            await until(lambda: nodes.calls["a", "begin"] > 0)
            feed.settle()
            job.feeds.close(job.handle, feed)
            (report,) = await job.reported(1)
            assert (report.reason, report.bytes_received) == ("it came while the origin was being read", size)

        run(work)
        assert job.has("a")


def test_nodes_that_need_agents_anyhow_get_a_small_model_while_it_is_read(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        job = Job(nodes, tmp_path, 1000)

        async def work() -> None:
            feed = job.feeds.open(job.handle, ["a"], None)
            assert job.feeds.open(job.handle, ["b"], None, at_once=True) is feed  # a prefetch comes to a load
            await job.read_into(feed)
            await until(lambda: nodes.calls["a", "begin"] and nodes.calls["b", "begin"])
            feed.settle()
            job.feeds.close(job.handle, feed)
            reports = await job.reported(2)
            assert {report.reason for report in reports} == {"it came while the origin was being read"}

        run(work)
        assert job.has("a")
        assert job.has("b")


def test_a_feed_that_nobody_reads_into_keeps_nobody_waiting(tmp_path: Path) -> None:
    with fake_nodes(tmp_path / "stores", "a") as nodes:
        job = Job(nodes, tmp_path)

        async def work() -> None:
            feed = job.feeds.open(job.handle, ["a"], None)
            job.feeds.close(job.handle, feed)
            assert not await feed.begins()
            await until(lambda: not job.feeds._tasks)
            assert not nodes.calls
            assert job.feeds.open(job.handle, [], None) is not feed

        run(work)
