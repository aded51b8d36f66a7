"""One origin read, one transfer per node, the same bytes everywhere: on real Ray nodes with a store each."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.cluster.connection import NAMESPACE, coordinator_name
from hubdist.cluster.job import Terms
from hubdist.errors import (
    ConfigError,
    DeliveryError,
    DigestMismatchError,
    HubdistError,
    ModelNotFoundError,
    NotPinnedError,
    StoreError,
    UnsafeStoreError,
)
from hubdist.resolver.values import CallOptions
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster"), nodes=3, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def fresh_stores(cluster: RayCluster) -> Iterator[None]:
    hubdist.init(store=cluster.store, agent_idle_s=2)
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


@ray.remote(num_cpus=0)
def read_model(handle: str) -> tuple[str, dict[str, bytes]]:
    root = Path(hubdist.resolve(handle))
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return ray.get_runtime_context().get_node_id(), files


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_64_cold_tasks_read_the_origin_once_and_write_each_store_once(
    cluster: RayCluster, hub: LoopbackHub, plain_model: Path
) -> None:
    handle = hub.add_model("acme/plain/1", plain_model)
    nodes = cluster.node_ids
    task = read_model.options  # 24 at a time, each in a process of its own
    answers = ray.get([task(**cluster.on(nodes[i % 3]), num_cpus=0.25).remote(handle) for i in range(64)], timeout=200)

    assert hub.reads(handle) == 1
    assert {node for node, _ in answers} == set(nodes)
    assert all(files == files_of(plain_model) for _, files in answers)
    deliveries = hubdist.status().deliveries
    sent = [delivery for delivery in deliveries if delivery.bytes_received]
    size = sum(len(data) for data in files_of(plain_model).values())
    assert sorted(delivery.node for delivery in sent) == sorted(nodes[1:])
    assert all(delivery.bytes_received == size for delivery in sent)
    for node in nodes:
        assert len(list((cluster.store_of(node) / "snapshots").iterdir())) == 1
        assert list((cluster.store_of(node) / "staging").iterdir()) == []


def test_a_job_keeps_its_bytes_when_the_origin_changes(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/changing/1", {"saved_model.pb": b"first"})
    assert Path(hubdist.resolve(handle), "saved_model.pb").read_bytes() == b"first"
    hub.add_model("acme/changing/1", {"saved_model.pb": b"second"})

    answers = ray.get([read_model.options(**cluster.on(node)).remote(handle) for node in cluster.node_ids], timeout=90)

    assert [files["saved_model.pb"] for _, files in answers] == [b"first"] * 3
    assert hub.reads(handle) == 1


def test_equal_handles_share_one_pin(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/same/2", {"saved_model.pb": b"same"})
    paths = {hubdist.resolve(text) for text in (handle, handle + "/", handle + "?tf-hub-format=compressed")}
    assert len(paths) == 1
    assert hub.reads(handle) == 1


def test_prefetch_reaches_all_nodes_and_reports_each(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/prefetched/1", {"saved_model.pb": b"x" * 5000})
    report = hubdist.prefetch([handle])
    assert [pin.origin_reads for pin in report.pins] == [1]
    assert sorted(node.node for node in report.nodes) == sorted(cluster.node_ids)
    assert sorted(node.bytes_received for node in report.nodes) == [0, 5000, 5000]
    assert all(str(node) in str(report) for node in report.nodes)


def test_prefetch_to_named_nodes_reaches_only_those(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/one-node/1", {"saved_model.pb": b"x"})
    wanted = cluster.node_ids[1]
    report = hubdist.prefetch(handle, nodes=[wanted])
    assert [node.node for node in report.nodes] == [wanted]
    assert not (cluster.store_of(cluster.node_ids[2]) / "snapshots").exists()


def test_a_node_that_joins_later_is_served_without_the_origin(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/late/1", {"saved_model.pb": b"late"})
    hubdist.prefetch(handle)
    late = cluster.add_node()
    try:
        _, files = ray.get(read_model.options(**cluster.on(late)).remote(handle), timeout=90)
        assert files == {"saved_model.pb": b"late"}
        assert hub.reads(handle) == 1
    finally:
        cluster.remove_node(late, graceful=True)


def test_agents_end_when_they_have_no_work(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/idle/1", {"saved_model.pb": b"idle"})
    hubdist.prefetch(handle)
    assert hubdist.status().agents
    deadline = time.monotonic() + 30
    while hubdist.status().agents:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_damaged_snapshot_on_a_node_is_fetched_again(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/damaged/1", {"saved_model.pb": b"whole" * 1000})
    node = cluster.node_ids[1]
    hubdist.prefetch(handle)
    (victim,) = (cluster.store_of(node) / "snapshots").glob("*/files/saved_model.pb")
    os.truncate(victim, 10)
    _, files = ray.get(read_model.options(**cluster.on(node)).remote(handle), timeout=90)
    assert files == {"saved_model.pb": b"whole" * 1000}
    assert len(list((cluster.store_of(node) / "quarantine").iterdir())) == 1


def test_a_damaged_snapshot_on_the_drivers_node_never_travels(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/bitrot/1", {"saved_model.pb": b"whole" * 1000})
    root = Path(hubdist.resolve(handle))
    victim = root / "saved_model.pb"
    victim.chmod(0o644)
    victim.write_bytes(b"wrong" * 1000)  # names and sizes still fit
    _, files = ray.get(read_model.options(**cluster.on(cluster.node_ids[1])).remote(handle), timeout=90)
    assert files == {"saved_model.pb": b"whole" * 1000}
    assert hub.reads(handle) == 2


def test_async_actors_keep_their_loop_free(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/async/1", {"saved_model.pb": b"async"})
    gate = hub.hold(handle)

    @ray.remote(num_cpus=0)
    class Server:
        def __init__(self) -> None:
            self._said: list[str] = []
            listener = logging.Handler()
            listener.emit = lambda record: self._said.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("ray._private.worker").addHandler(listener)

        async def resolve(self, handle: str) -> str:
            return await hubdist.resolve_async(handle)

        async def answer(self) -> str:
            await asyncio.sleep(0)
            return "free"

        async def warnings_of_ray(self) -> list[str]:
            return self._said

    server = Server.remote()
    reference = server.resolve.remote(handle)
    assert gate.wait_reached(60)
    assert ray.get(server.answer.remote(), timeout=60) == "free"
    gate.set()
    assert Path(ray.get(reference, timeout=60)).name == "files"
    assert ray.get(server.warnings_of_ray.remote(), timeout=60) == []  # of a loop that is blocked


def test_threads_of_one_process_share_one_resolve(cluster: RayCluster, hub: LoopbackHub) -> None:
    from concurrent.futures import ThreadPoolExecutor

    handle = hub.add_model("acme/threads/1", {"saved_model.pb": b"threads"})
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(hubdist.resolve, [handle] * 32))) == 1
    assert hub.reads(handle) == 1


def test_a_thousand_calls_at_once_share_one_resolve(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/thousand/1", {"saved_model.pb": b"thousand"})
    gate = hub.hold(handle)
    name = coordinator_name(ray.get_runtime_context().get_job_id())
    coordinator = ray.get_actor(name, namespace=NAMESPACE)
    node_id = cluster.node_ids[0]
    asked = (handle, node_id, CallOptions(), Terms())
    references = [coordinator.pin_for_process.remote(*asked) for _ in range(1000)]
    assert gate.wait_reached(60)
    gate.set()
    assert len(set(ray.get(references, timeout=90))) == 1
    assert hub.reads(handle) == 1


def test_ray_data_processes_load_from_their_nodes_store(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/data/1", {"saved_model.pb": b"data"})

    def add_size(batch: dict) -> dict:  # type: ignore[type-arg]  # Ray Data's batch
        size = Path(hubdist.resolve(handle), "saved_model.pb").stat().st_size
        return {"size": batch["id"] * 0 + size}

    rows = ray.data.range(8).map_batches(add_size, batch_size=4).take_all()
    assert [row["size"] for row in rows] == [4] * 8
    assert hub.reads(handle) == 1


def test_one_full_node_fails_alone(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/full/1", {"saved_model.pb": b"x" * 100_000})
    full, fine = cluster.node_ids[1:]
    cluster.store_of(full).parent.mkdir(exist_ok=True)
    cluster.store_of(full).write_text("a file where the store should be")
    try:
        with pytest.raises(DeliveryError) as caught:
            hubdist.prefetch(handle)
        ((name, error),) = caught.value.failures.items()
        assert full[:8] in name
        assert isinstance(error, StoreError)
        assert ray.get(read_model.options(**cluster.on(fine)).remote(handle), timeout=60)[0] == fine
    finally:
        cluster.store_of(full).unlink()


def test_paths_and_names_without_a_scheme_are_understood_in_driver_and_tasks(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    for handle in (tmp_path / "model.onnx", tmp_path / "." / "model.onnx", "model.onnx"):
        assert files_of(Path(hubdist.resolve(handle))) == {"model.onnx": b"onnx"}  # type: ignore[arg-type]
    for node in cluster.node_ids:
        assert ray.get(read_model.options(**cluster.on(node)).remote(tmp_path / "model.onnx"), timeout=60)[1] == {
            "model.onnx": b"onnx"
        }
    with pytest.raises(ModelNotFoundError, match="write hf://google/bert"):
        hubdist.resolve("google/bert")
    with pytest.raises(ModelNotFoundError, match="write hf://google/bert"):
        hubdist.prefetch("google/bert")


def test_errors_reach_the_calling_task_with_type_handle_and_node(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = f"{hub.url}/acme/missing/1"
    with pytest.raises(FileNotFoundError, match="missing"):
        hubdist.resolve(handle)
    with pytest.raises(FileNotFoundError) as caught:
        ray.get(read_model.remote(handle), timeout=60)
    error = caught.value.cause
    assert isinstance(error, ModelNotFoundError)
    assert error.handle == error.filename == handle
    assert cluster.node_ids[0][:8] in error.node


def test_an_unsafe_store_on_the_drivers_node_is_refused_at_once(cluster: RayCluster, tmp_path: Path) -> None:
    hubdist.shutdown()
    store = tmp_path / "open-to-all"
    (store / "snapshots").mkdir(parents=True)
    store.chmod(0o777)
    with pytest.raises(UnsafeStoreError, match="chmod -R go-w") as caught:
        hubdist.init(store=str(store))
    assert cluster.node_ids[0][:8] in str(caught.value.node)
    hubdist.init(store=str(tmp_path / "private"))


def test_configured_models_travel_at_once_and_their_secrets_stay_inside(
    cluster: RayCluster, hub: LoopbackHub, plain_model: Path
) -> None:
    hubdist.shutdown()
    redacted = hub.add_model("acme/secret/1", plain_model)
    handle = redacted.replace("http://", "http://user:canary-one@") + "?signature=canary-two"
    hubdist.init(store=cluster.store, models=[{"handle": handle}])
    deadline = time.monotonic() + 60
    while len(hubdist.status().deliveries) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    said = str(hubdist.status())
    folders = [Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"]
    folders += [cluster.store_of(node) for node in cluster.node_ids]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        said += path.read_bytes().decode(errors="replace")
    assert "user:***" in said or "***@" in said
    assert "canary" not in said


def test_a_configured_digest_is_enforced(cluster: RayCluster, hub: LoopbackHub) -> None:
    hubdist.shutdown()
    handle = hub.add_model("acme/enforced/1", {"saved_model.pb": b"other bytes"})
    hubdist.init(store=cluster.store, models=[{"handle": handle, "digest": "sha256:" + "0" * 64}])
    with pytest.raises(DigestMismatchError, match="the configuration"):
        ray.get(read_model.remote(handle), timeout=60)


@ray.remote(num_cpus=0, max_calls=1)
def read_with(settings: dict[str, Any], handle: str) -> str:
    hubdist.init(**settings)
    root = Path(hubdist.resolve(handle))
    return f"{root}: {(root / 'saved_model.pb').read_text()}"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"models": [{"handle": "{handle}", "digest": "sha256:" + "0" * 64}]}, DigestMismatchError),
        ({"frozen": True}, NotPinnedError),
        ({"offline": True}, NotPinnedError),
        ({"lock_file": "hubdist.lock"}, ConfigError),
        ({"shared_cache": "/mnt/cache"}, ConfigError),
    ],
    ids=["digest", "frozen", "offline", "lock_file", "shared_cache"],
)
def test_what_a_task_sets_for_itself_holds_or_is_refused(
    cluster: RayCluster, hub: LoopbackHub, settings: dict[str, Any], error: type[HubdistError]
) -> None:
    handle = hub.add_model("acme/own-settings/1", {"saved_model.pb": b"x"})
    for model in settings.get("models", ()):
        model["handle"] = handle
    with pytest.raises(error) as caught:
        ray.get(read_with.remote(settings, handle), timeout=90)
    assert next(iter(settings)) in str(caught.value) or error is DigestMismatchError
    if error is NotPinnedError:
        assert hub.reads(handle) == 0
    digest = hubdist.prefetch(handle).pins[0].digest
    if "offline" in settings:
        assert ray.get(read_with.remote(settings, handle), timeout=90).endswith(": x")
    if "frozen" in settings:
        models = [{"handle": handle, "digest": digest}]
        assert ray.get(read_with.remote({**settings, "models": models}, handle), timeout=90).endswith(": x")


def test_a_task_may_have_a_store_of_its_own(cluster: RayCluster, hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("acme/own-store/1", {"saved_model.pb": b"mine"})
    answer = ray.get(read_with.remote({"store": str(tmp_path / "mine")}, handle), timeout=90)
    assert answer.startswith(str(tmp_path / "mine"))
    assert answer.endswith(": mine")
    assert hub.reads(handle) == 1


@pytest.mark.parametrize("bad", [1, 2])
def test_a_handle_that_cannot_be_resolved_does_not_keep_the_others_from_the_nodes(
    cluster: RayCluster, hub: LoopbackHub, bad: int
) -> None:
    good = [hub.add_model(f"acme/good/{number}", {"saved_model.pb": b"%d" % number}) for number in (1, 2)]
    missing = [f"{hub.url}/acme/missing/{number}" for number in range(bad)]
    error = ModelNotFoundError if bad == 1 else DeliveryError
    with pytest.raises(error) as caught:
        hubdist.prefetch([good[0], *missing, good[1]])
    assert all(handle in str(caught.value) for handle in missing)
    for node in cluster.node_ids:
        assert len(list((cluster.store_of(node) / "snapshots").iterdir())) == 2
