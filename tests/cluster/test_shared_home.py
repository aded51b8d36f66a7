"""Nodes that see the same store, as with a home on a network file system, are not sent what is there."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

import hubdist
from hubdist.delivery.routes import Route
from hubdist.report.delivery import Report
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster

MIB = 1 << 20
FILES = {"saved_model.pb": b"graph", "weights.bin": os.urandom(12 * MIB)}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster"), nodes=3, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def clean_up(cluster: RayCluster) -> Iterator[None]:
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        if cluster.store_of(node).is_symlink():
            cluster.store_of(node).unlink()
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


@ray.remote(num_cpus=0, max_calls=1)  # a process keeps the settings that it began with
def size_of(handle: str) -> int:
    return sum(path.stat().st_size for path in Path(hubdist.resolve(handle)).rglob("*") if path.is_file())


def prefetch_while_the_origin_is_read(hub: LoopbackHub, handle: str, until: Callable[[], bool]) -> Report:
    """Hold the origin in its middle until something is so, and let all nodes wait for the model meanwhile."""
    gate = hub.hold(handle)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(hubdist.prefetch(handle)))
    thread.start()
    try:
        assert gate.wait_reached(60)
        for _ in range(600):
            if until():
                break
            threading.Event().wait(0.1)
        else:
            raise AssertionError("it did not come to that")
    finally:
        gate.set()
        thread.join(120)
    return reports[0]


def content(root: Path) -> dict[str, int]:
    return {name: len(list((root / name).iterdir())) for name in ("snapshots", "staging", "quarantine")}


def test_nodes_that_share_the_drivers_store_are_sent_nothing(
    cluster: RayCluster, hub: LoopbackHub, tmp_path: Path
) -> None:
    home = tmp_path / "home" / "hubdist"
    hubdist.init(store=str(home), agent_idle_s=30)
    handle = hub.add_model("acme/home/1", FILES)

    def both_were_asked() -> bool:
        return len(hubdist.status().agents) == 2 and not any((home / "nonces").iterdir())

    report = prefetch_while_the_origin_is_read(hub, handle, both_were_asked)

    assert hub.reads(handle) == 1
    assert [node.bytes_received for node in report.nodes] == [0, 0, 0]
    assert sorted(node.reason for node in report.nodes) == [
        "it is the driver's own node",
        "it shares the driver's store",
        "it shares the driver's store",
    ]
    assert {node.route for node in report.nodes} == {Route.STORE}
    assert "nothing sent" in str(report)
    assert content(home) == {"snapshots": 1, "staging": 0, "quarantine": 0}
    sizes = ray.get([size_of.options(**cluster.on(node)).remote(handle) for node in cluster.node_ids], timeout=90)
    assert sizes == [SIZE] * 3


def test_a_plan_says_that_nodes_share_the_drivers_store(cluster: RayCluster, hub: LoopbackHub, tmp_path: Path) -> None:
    hubdist.init(store=str(tmp_path / "home"), agent_idle_s=2)
    plan = hubdist.plan(hub.add_model("acme/plan/1", FILES))
    assert [node.order.first.reason for node in plan.nodes[1:]] == ["it shares the driver's store"] * 2


def test_of_nodes_that_share_a_store_with_each_other_one_is_sent_the_model(
    cluster: RayCluster, hub: LoopbackHub
) -> None:
    _, one, other = cluster.node_ids
    nfs = cluster.store_of(one)
    nfs.mkdir(mode=0o700, parents=True)
    cluster.store_of(other).symlink_to(nfs)  # the paths differ, the directory is one
    hubdist.init(store=cluster.store, agent_idle_s=2)
    handle = hub.add_model("acme/nfs/1", FILES)
    report = prefetch_while_the_origin_is_read(hub, handle, lambda: any((nfs / "staging").glob("*")))

    assert hub.reads(handle) == 1
    received = {node.node: node for node in report.nodes if node.node in (one, other)}
    assert sorted(node.bytes_received for node in received.values()) == [0, SIZE]
    (waited,) = [node for node in received.values() if not node.bytes_received]
    (sent,) = [node for node in received.values() if node.bytes_received]
    assert waited.reason == f"it shares the store of {sent.name}"
    assert content(nfs) == {"snapshots": 1, "staging": 0, "quarantine": 0}


def test_a_model_that_only_one_of_them_asks_for_is_there_for_both(cluster: RayCluster, hub: LoopbackHub) -> None:
    _, one, other = cluster.node_ids
    nfs = cluster.store_of(one)
    nfs.mkdir(mode=0o700, parents=True)
    cluster.store_of(other).symlink_to(nfs)
    hubdist.init(store=cluster.store, agent_idle_s=2)
    handle = hub.add_model("acme/later/1", FILES)
    hubdist.resolve(handle)
    for node in (one, other):
        assert ray.get(size_of.options(**cluster.on(node)).remote(handle), timeout=90) == SIZE
    assert sum(delivery.bytes_received for delivery in hubdist.status().deliveries) == SIZE
