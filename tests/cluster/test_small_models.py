"""Small models reach nodes without agents in the coordinator's answer: on real Ray nodes with a store each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import hubdist
from hubdist.delivery.routes import ENCLOSED
from hubdist.errors import StoreError
from hubdist.report.delivery import NodeReport
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster

SMALL = {"saved_model.pb": os.urandom(1_000_000), "assets/words": b"one\ntwo\n", "assets/none": b""}
LARGE = {"saved_model.pb": os.urandom((4 << 20) + 1)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("small"), nodes=3, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def fresh_stores(cluster: RayCluster) -> Iterator[None]:
    hubdist.init(store=cluster.store, agent_idle_s=30)  # an agent that was started would still be there
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


@ray.remote(num_cpus=0)
def read_model(handle: str) -> dict[str, bytes]:
    root = Path(hubdist.resolve(handle))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@ray.remote(num_cpus=0)
def read_by_digest(handle: str, digest: str) -> int:
    """What a pickled model does on a node: it knows handle and digest, and no size."""
    from hubdist.client.current import current_process
    from hubdist.model.manifest import Digest
    from hubdist.resolver.values import LoaderPin

    with current_process().backend.locate(LoaderPin(handle, Digest.parse(digest))) as snapshot:
        return snapshot.manifest.total_bytes


def received() -> list[NodeReport]:
    return [report for report in hubdist.status().deliveries if report.bytes_received]


@pytest.mark.parametrize("first", ["the driver", "a node"])
def test_a_small_model_reaches_nodes_without_any_agent(cluster: RayCluster, hub: LoopbackHub, first: str) -> None:
    handle = hub.add_model("acme/small/1", SMALL)
    if first == "the driver":
        hubdist.resolve(handle)
    for node in cluster.node_ids[1:]:
        assert ray.get(read_model.options(**cluster.on(node)).remote(handle), timeout=90) == SMALL
    assert hub.reads(handle) == 1
    assert hubdist.status().agents == ()
    reports = received()
    assert [report.node for report in reports] == cluster.node_ids[1:]
    assert {(str(report.route), report.reason) for report in reports} == {("driver", ENCLOSED.reason)}
    assert {report.bytes_received for report in reports} == {sum(map(len, SMALL.values()))}
    assert {report.source for report in reports} == {hubdist.status().coordinator}


def test_processes_of_a_node_share_one_answer(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/shared/1", SMALL)
    hubdist.resolve(handle)
    node = cluster.node_ids[1]
    answers = ray.get([read_model.options(**cluster.on(node)).remote(handle) for _ in range(12)], timeout=120)
    assert answers == [SMALL] * 12
    assert len(received()) == 1
    assert len(list((cluster.store_of(node) / "snapshots").iterdir())) == 1
    assert list((cluster.store_of(node) / "staging").iterdir()) == []
    assert hubdist.status().agents == ()


def test_a_process_that_knows_only_the_digest_gets_it_too(cluster: RayCluster, hub: LoopbackHub) -> None:
    handles = [hub.add_model("acme/digest/1", SMALL), hub.add_model("acme/digest/2", LARGE)]
    for handle in handles:
        hubdist.resolve(handle)
    node = cluster.node_ids[1]
    for handle, pin in zip(handles, hubdist.status().pins, strict=True):
        found = ray.get(read_by_digest.options(**cluster.on(node)).remote(handle, pin.digest), timeout=90)
        assert found == pin.total_bytes
    assert [report.reason == ENCLOSED.reason for report in received()] == [True, False]


def test_a_larger_model_is_delivered_by_agents(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/large/1", LARGE)
    node = cluster.node_ids[1]
    assert ray.get(read_model.options(**cluster.on(node)).remote(handle), timeout=90) == LARGE
    assert hubdist.status().agents
    assert ENCLOSED.reason not in {report.reason for report in received()}


def test_a_prefetch_brings_a_small_model_to_nodes_where_no_process_asks(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/prefetched/1", SMALL)
    report = hubdist.prefetch(handle)
    assert sum(node.bytes_received for node in report.nodes) == 2 * sum(map(len, SMALL.values()))
    assert ENCLOSED.reason not in {node.reason for node in report.nodes}
    assert all(list((cluster.store_of(node) / "snapshots").iterdir()) for node in cluster.node_ids)


def test_a_store_that_cannot_take_it_gives_the_usual_error_with_the_node(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/no-room/1", SMALL)
    hubdist.shutdown()
    hubdist.init(store=cluster.store, agent_idle_s=2, max_store_bytes="1MiB")
    hubdist.resolve(hub.add_model("acme/fits/1", {"saved_model.pb": b"x"}))
    node = cluster.node_ids[1]
    staging = cluster.store_of(node) / "staging"
    ray.get(read_model.options(**cluster.on(node)).remote(f"{hub.url}/acme/fits/1"), timeout=90)
    staging.rmdir()
    staging.write_text("a file where stages should be")
    try:
        with pytest.raises(StoreError) as caught:
            ray.get(read_model.options(**cluster.on(node)).remote(handle), timeout=90)
        error = caught.value.cause
        assert isinstance(error, StoreError)
        assert node[:8] in str(error.node)
        assert error.handle == handle
        (failed,) = [report for report in hubdist.status().deliveries if report.error is not None]
        assert failed.node == node
    finally:
        staging.unlink()
