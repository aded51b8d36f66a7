"""Tasks go where a model is, models are where tasks will go, and TensorFlow takes what Ray gives: on real Ray nodes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster

FILES = {"saved_model.pb": b"graph" * 1000, "extra.bin": bytes(5 << 20)}
IDLE_S = 1.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Four nodes with a CPU each; the driver's node is one of them."""
    with RayCluster(tmp_path_factory.mktemp("placement"), nodes=4, cpus=1, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def fresh_stores(cluster: RayCluster) -> Iterator[None]:
    hubdist.init(store=cluster.store, agent_idle_s=IDLE_S)
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


@ray.remote
def node_of_task(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def nodes_of(options: dict[str, Any], count: int, seconds: float = 0.0) -> set[str]:
    return set(ray.get([node_of_task.options(**options).remote(seconds) for _ in range(count)], timeout=90))


def wait_until(is_so: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_kept(cluster: RayCluster, node: str) -> bool:
    folder = cluster.store_of(node) / "kept"
    return folder.is_dir() and any(folder.iterdir())


def test_tasks_and_actors_run_where_the_model_is(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/placed/1", FILES)
    warm = cluster.node_ids[:2]  # the driver's node reads the origin, so it has the model, too
    hubdist.prefetch(handle, nodes=warm[1:])
    options = hubdist.where(handle)
    assert nodes_of({"num_cpus": 0.05, **options}, 30) <= set(warm)

    @ray.remote(num_cpus=0.05, **options)
    class Placed:
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    actors = [Placed.remote() for _ in range(3)]
    assert set(ray.get([actor.node.remote() for actor in actors], timeout=60)) <= set(warm)

    @ray.remote(num_cpus=0, **options)
    def where_in_a_task() -> dict[str, Any]:
        return hubdist.where([handle])

    assert ray.get(where_in_a_task.remote(), timeout=60) == options


def test_tasks_for_which_warm_nodes_have_no_room_run_elsewhere(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/full/1", FILES)
    hubdist.resolve(handle)
    options = hubdist.where(handle)
    used = nodes_of(options, 4, seconds=3.0)
    assert cluster.node_ids[0] in used
    assert len(used) > 1


def test_a_model_that_nobody_has_resolved_is_no_reason_to_wait_or_to_fetch(hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/unknown/1", FILES)
    assert hubdist.where(handle) == {}
    assert hub.reads(handle) == 0
    assert hubdist.status().agents == ()


def test_map_workers_run_where_the_model_is(cluster: RayCluster, hub: LoopbackHub) -> None:
    import ray.data

    handle = hub.add_model("acme/mapped/1", FILES)
    hubdist.prefetch(handle, nodes=cluster.node_ids[1:2])

    def note_node(batch: dict[str, Any]) -> dict[str, Any]:
        return {"node": [str(ray.get_runtime_context().get_node_id())] * len(batch["id"])}

    mapped = ray.data.range(8, override_num_blocks=4).map_batches(note_node, num_cpus=0.1, **hubdist.where(handle))
    assert {row["node"] for row in mapped.take_all()} <= set(cluster.node_ids[:2])


def test_nodes_that_join_get_what_is_kept_and_their_agents_end(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/kept/1", FILES)
    report = hubdist.keep(handle)
    assert {node.node for node in report.nodes} == set(cluster.node_ids)
    joined = [cluster.add_node(resources={"late": 1}) for _ in range(2)]
    for node in joined:
        wait_until(lambda node=node: is_kept(cluster, node))
    assert hub.reads(handle) == 1
    assert set(joined) <= {node for node in cluster.node_ids if node in str(hubdist.where(handle))}
    own = (hubdist.status().coordinator,)  # the coordinator keeps its node from scaling down anyway
    wait_until(lambda: hubdist.status().agents == own)
    time.sleep(3 * IDLE_S)
    assert hubdist.status().agents == own

    released = hubdist.release(handle)
    assert len(released) == len(cluster.node_ids)
    assert not any(is_kept(cluster, node) for node in cluster.node_ids)
    for node in joined:
        cluster.remove_node(node, wait=False)
    for node in joined:
        cluster.wait_until_gone(node)


def test_some_nodes_keep_a_model(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/some/1", FILES)
    hubdist.keep([handle], nodes=cluster.node_ids[1:2])
    assert [is_kept(cluster, node) for node in cluster.node_ids[:3]] == [False, True, False]
    assert len(hubdist.release(handle, nodes=cluster.node_ids[1])) == 1


@pytest.mark.tf
def test_tensorflow_takes_what_ray_gives(cluster: RayCluster, models: Path) -> None:
    @ray.remote
    class Loader:
        def load(self, handle: str, **settings: Any) -> tuple[tuple[int, int], list[Any]]:
            if settings:
                hubdist.init(**settings)
            answer = hubdist.load(handle)(["one"]).numpy().tolist()
            from tensorflow.config import threading

            return (
                (threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()),
                answer,
            )

    handle = str(models / "tf2")
    node = cluster.on(cluster.node_ids[0])
    actors = [Loader.options(num_cpus=0.25, **node).remote() for _ in range(3)]
    found = [actors[0].load.remote(handle), actors[1].load.remote(handle)]
    found.append(actors[2].load.remote(handle, tf_resources="all"))
    assert ray.get(found, timeout=120) == [((1, 2), [[2.0, 3.0]])] * 2 + [((0, 0), [[2.0, 3.0]])]
