"""The ways to the bytes on a real cluster with a real bucket: shared, direct, and what follows when they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.errors import NotAModelError
from hubdist.report.delivery import NodeReport
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.cluster.shared.conftest import REQUESTS
from tests.support.gcs import FakeGcs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FILES = {"saved_model.pb": b"graph" * 1000, "variables.bin": bytes(range(256)) * 20_000, "assets/words.txt": b"a\nb\n"}
TOTAL = sum(map(len, FILES.values()))
NOWHERE = "http://127.0.0.1:9"


@ray.remote(num_cpus=1)
def read_files(handle: str, route: str | None) -> dict[str, bytes]:
    root = Path(hubdist.resolve(handle, route=route))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def reports() -> list[NodeReport]:
    return list(hubdist.status().deliveries)


def unique(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).translate({ord(char): "-" for char in "[]/"})


def model_files(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """Files that no other test's model has, so that no store has them already, nor a block of them."""
    own = unique(request).encode()
    return {**{path: own + data for path, data in FILES.items()}, "assets/test.txt": own}


# Shared cache


def test_cold_loads_fill_the_bucket_once_and_each_node_copies_once(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    handle = hub.add_model("m/1", files)
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{unique(request)}")
    nodes = cluster.node_ids
    before = len(REQUESTS)
    found = ray.get(
        [read_files.options(**cluster.on(nodes[i % 3])).remote(handle, None) for i in range(24)], timeout=200
    )
    assert all(each == files for each in found)
    assert hub.reads(handle) == 1
    done = {report.node: report for report in reports()}
    assert len(done) == len(reports())  # one delivery for each node
    workers = [report for node, report in done.items() if node != nodes[0]]
    assert [(str(report.route), report.bytes_received) for report in workers] == [("shared", size(files))] * 2
    assert all(report.source is not None and report.source.startswith("gs://models/") for report in workers)
    mine = [line for line in REQUESTS if f"{unique(request)}/snapshots/" in line]
    for path in files:
        reads = [line for line in mine if line.startswith("GET") and "alt=media" in line and f"/{path}?" in line]
        probes = 2 if path == "assets/test.txt" else 0  # each node proves with the smallest file that it can read
        assert len(reads) == 2 + probes, (path, mine)
    writes = [line for line in REQUESTS[before:] if line.startswith("POST /upload") and "ifGenerationMatch=0" in line]
    assert len(writes) == len(files) + 2  # the lease, the record, and each file once


def size(files: dict[str, bytes]) -> int:
    return sum(map(len, files.values()))


def test_a_later_job_takes_the_model_from_the_bucket_without_the_origin(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    handle = hub.add_model("m/1", files)
    cache = f"gs://models/{unique(request)}"
    hubdist.init(store=cluster.store, shared_cache=cache)
    hubdist.prefetch(handle, nodes=cluster.node_ids[:1])
    hubdist.shutdown()
    hubdist.init(store=f"{tmp_path}/other/{{node_id}}", shared_cache=cache, shared_cache_read_only=True)
    worker = cluster.node_ids[1]
    fresh = {"runtime_env": {"env_vars": {"JOB": "2"}}}  # a process that knows nothing of the first settings
    assert ray.get(read_files.options(**cluster.on(worker), **fresh).remote(handle, None), timeout=90) == files
    assert hub.reads(handle) == 1
    (pin,) = hubdist.status().pins
    assert (pin.source, pin.origin_reads) == ("shared cache", 0)
    assert [str(report.route) for report in reports()] == ["shared"]
    assert not (tmp_path / "other" / cluster.node_ids[0] / "snapshots").exists() or not list(
        (tmp_path / "other" / cluster.node_ids[0] / "snapshots").iterdir()
    )  # the driver's node did not need the bytes


@pytest.mark.parametrize("harm", ["replaced", "truncated", "swapped"])
def test_a_bucket_with_wrong_bytes_is_refused_and_the_driver_sends_the_right_ones(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest, harm: str
) -> None:
    files = model_files(request)
    handle = hub.add_model("m/1", files)
    prefix = unique(request)
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{prefix}")
    pin = hubdist.prefetch(handle, nodes=cluster.node_ids[:1]).pins[0]
    folder = f"{prefix}/snapshots/{pin.digest.removeprefix('sha256:')}"
    data = files["variables.bin"]
    wrong = {"replaced": data[:-1] + b"!", "truncated": data[:-1], "swapped": files["saved_model.pb"]}[harm]
    gcs.put("models", f"{folder}/variables.bin", wrong)
    worker = cluster.node_ids[1]
    assert ray.get(read_files.options(**cluster.on(worker)).remote(handle, None), timeout=90) == files
    (report,) = [report for report in reports() if report.node == worker]
    assert str(report.route) == "driver"
    assert "variables.bin" in report.reason


def test_a_mounted_directory_is_a_shared_cache_too(
    cluster: RayCluster, hub: LoopbackHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    handle = hub.add_model("m/1", files)
    hubdist.init(store=cluster.store, shared_cache=str(tmp_path / "mount"))
    worker = cluster.node_ids[1]
    assert ray.get(read_files.options(**cluster.on(worker)).remote(handle, None), timeout=90) == files
    assert [str(report.route) for report in reports() if report.node == worker] == ["shared"]


def test_a_directory_that_tfhub_filled_is_used_as_it_is(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    import hashlib

    files = model_files(request)
    handle = hub.add_model("m/1", files)
    prefix = unique(request)
    gcs.put_all("models", f"{prefix}/{hashlib.sha1(handle.encode()).hexdigest()}", files)
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{prefix}")
    worker = cluster.node_ids[1]
    assert ray.get(read_files.options(**cluster.on(worker)).remote(handle, None), timeout=90) == files
    assert hub.reads(handle) == 0
    (report,) = [report for report in reports() if report.node == worker]
    assert str(report.route) == "shared"
    assert hashlib.sha1(handle.encode()).hexdigest() in str(report.source)


def test_a_node_without_access_to_the_bucket_gets_it_from_the_driver_with_one_logged_reason(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    files = [{**model_files(request), "number": str(i).encode()} for i in range(2)]
    handles = [hub.add_model(f"m/{i}", each) for i, each in enumerate(files)]
    shut_out = cluster.add_node(env_vars={"STORAGE_EMULATOR_HOST": NOWHERE})
    try:
        hubdist.init(
            store=cluster.store, shared_cache=f"gs://models/{unique(request)}", probe_timeout_s=2, origin_retries=1
        )
        print(hubdist.plan(handles[0], nodes=[shut_out]))
        for handle, each in zip(handles, files, strict=True):
            assert ray.get(read_files.options(**cluster.on(shut_out)).remote(handle, None), timeout=90) == each
        mine = [report for report in reports() if report.node == shut_out]
        assert [str(report.route) for report in mine] == ["driver", "driver"]
        assert all("not shared" in report.reason for report in mine)
        logged = coordinator_log("does not read")
        assert len([line for line in logged if shut_out[:8] in line]) == 1, logged
    finally:
        cluster.remove_node(shut_out, graceful=True)


def logs() -> Path:
    node: Any = ray._private.worker._global_node
    return Path(node.get_logs_dir_path())


def coordinator_log(words: str) -> list[str]:
    return [line for path in logs().glob("worker-*.err") for line in path.read_text().splitlines() if words in line]


# Direct


def test_a_directory_of_a_bucket_is_read_by_the_nodes_and_not_by_the_driver(
    cluster: RayCluster, gcs: FakeGcs, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    gcs.put_all("models", unique(request), files)
    handle = f"gs://models/{unique(request)}"
    hubdist.init(store=cluster.store)
    first, second = cluster.node_ids[1:]
    for node in (first, second):
        assert ray.get(read_files.options(**cluster.on(node)).remote(handle, None), timeout=90) == files
    (pin,) = hubdist.status().pins
    assert pin.source.startswith("origin, by ")
    assert first[:8] in pin.source
    assert [(report.node, str(report.route)) for report in reports()] == [(second, "direct")]
    digest = pin.digest.removeprefix("sha256:")
    assert not (cluster.store_of(cluster.node_ids[0]) / "snapshots" / digest).exists()
    hubdist.prefetch(handle)  # the driver's node gets it when it is asked for
    assert (cluster.store_of(cluster.node_ids[0]) / "snapshots" / digest).exists()


@pytest.mark.parametrize("route", ["direct", "driver"])
def test_objects_that_are_stored_compressed_are_the_model_that_they_hold(
    cluster: RayCluster, gcs: FakeGcs, request: pytest.FixtureRequest, route: str
) -> None:
    files = model_files(request)
    gcs.put_all("models", f"{unique(request)}/plain", files)
    gcs.put_gzipped("models", f"{unique(request)}/gzipped", files)
    hubdist.init(store=cluster.store)
    handle = f"gs://models/{unique(request)}/gzipped"
    for node in cluster.node_ids[1:]:  # the first one tells the digest, by the route `direct`
        assert ray.get(read_files.options(**cluster.on(node)).remote(handle, route), timeout=90) == files
    assert str(reports()[-1].route) == route
    hubdist.resolve(f"gs://models/{unique(request)}/plain")
    assert len({pin.digest for pin in hubdist.status().pins}) == 1


def test_uncompressed_follows_the_hub_to_its_bucket(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    gcs.put_all("models", unique(request), files)
    handle = hub.add_model("m/1", files, uncompressed_location=f"gs://models/{unique(request)}")
    hubdist.init(store=cluster.store, route="direct")
    worker = cluster.node_ids[1]
    assert ray.get(read_files.options(**cluster.on(worker)).remote(handle, None), timeout=90) == files
    assert hub.reads(handle) == 0
    assert hubdist.status().pins[0].source.startswith("origin, by ")


def test_uncompressed_falls_back_to_the_archive_of_a_hub_that_has_nothing_else(
    cluster: RayCluster, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    handle = hub.add_model("m/1", files)
    hubdist.init(store=cluster.store)
    worker = cluster.node_ids[1]
    assert ray.get(read_files.options(**cluster.on(worker)).remote(handle, "direct"), timeout=90) == files
    assert hub.reads(handle) == 1
    assert coordinator_log("cannot be read directly")


def test_a_mount_of_all_nodes_is_read_directly(
    cluster: RayCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = model_files(request)
    for path, data in files.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    hubdist.init(store=cluster.store)
    hubdist.prefetch(str(tmp_path / "model"))
    assert sorted(str(report.route) for report in reports()) == ["direct", "direct", "store"]


# Plans


def test_a_plan_says_what_a_load_would_do_and_does_not_do_it(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    handle = hub.add_model("m/1", model_files(request))
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{unique(request)}")
    plan = hubdist.plan(handle)
    assert hub.reads(handle) == 0
    assert plan.digest is None
    assert [[str(choice.route) for choice in node.order.choices] for node in plan.nodes] == [["shared", "driver"]] * 3
    text = str(plan)
    assert "not resolved yet" in text
    assert "3 nodes" in text
    worker = cluster.node_ids[1]
    ray.get(read_files.options(**cluster.on(worker)).remote(handle, None), timeout=90)
    plan = hubdist.plan(handle)
    assert plan.known == "this job"
    routes = {node.node: str(node.order.first.route) for node in plan.nodes}
    assert routes == dict(zip(cluster.node_ids, ["store", "store", "shared"], strict=True))


def test_a_plan_writes_nothing(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import gcsfs

    handle = hub.add_model("m/1", model_files(request))
    hubdist.init(store=cluster.store)
    hubdist.prefetch(handle, nodes=cluster.node_ids[:1])  # so that the driver's store has what the cache lacks
    hubdist.shutdown()
    lock = tmp_path / "hubdist.lock"
    prefix = unique(request)
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{prefix}", lock_file=str(lock))
    assert hubdist.plan(handle).known == "the store"
    assert not lock.exists()
    bucket = gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)
    assert bucket.find(f"models/{prefix}") == []
    hubdist.prefetch(handle)
    assert lock.exists()
    assert bucket.find(f"models/{prefix}") != []


@pytest.mark.parametrize("route", ["pigeon", "tf-host"])
def test_a_wrong_route_is_refused(cluster: RayCluster, route: str) -> None:
    hubdist.init(store=cluster.store)
    with pytest.raises(hubdist.HubdistError, match="route"):
        hubdist.resolve("/model", route=route)


# Secrets


def test_no_secret_of_a_handle_leaves_the_drivers_side(
    cluster: RayCluster, gcs: FakeGcs, hub: LoopbackHub, request: pytest.FixtureRequest
) -> None:
    import gcsfs
    from ray._private.state import actors, jobs

    files = model_files(request)
    redacted = hub.add_model("m/1", files)
    handle = redacted.replace("http://", "http://user:canary-one@") + "?signature=canary-two"
    prefix = unique(request)
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{prefix}")
    said = str(hubdist.plan(handle)) + str(hubdist.prefetch(handle)) + str(hubdist.plan(handle))
    assert {str(report.route) for report in reports()} == {"store", "shared"}
    said += str(hubdist.status()) + str(actors()) + str(jobs())
    bucket = gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)
    names = bucket.find(f"models/{prefix}")
    said += "".join(name + bucket.cat_file(name).decode(errors="replace") for name in names)
    folders = [logs(), *(cluster.store_of(node) for node in cluster.node_ids)]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        said += path.read_bytes().decode(errors="replace")
    assert "***" in said
    assert any(name.startswith(f"models/{prefix}/snapshots/") for name in names)
    assert "canary" not in said
    missing = redacted.replace("http://", "http://user:canary-one@") + "/missing?signature=canary-two"
    with pytest.raises(hubdist.HubdistError) as caught:
        hubdist.resolve(missing, route="direct")
    assert "canary" not in f"{caught.value!s} {caught.value!r}"


# One file, and versions


@pytest.mark.parametrize("name", ["model.onnx", "weights"])
@pytest.mark.parametrize("route", [None, "direct"])
def test_one_object_of_a_bucket_reaches_nodes_as_a_model_of_one_file(
    cluster: RayCluster, gcs: FakeGcs, request: pytest.FixtureRequest, name: str, route: str | None
) -> None:
    data = unique(request).encode() * 10_000
    gcs.put("models", f"{unique(request)}/{name}", data)
    hubdist.init(store=cluster.store)
    handle = f"gs://models/{unique(request)}/{name}"
    found = ray.get([read_files.options(**cluster.on(node)).remote(handle, route) for node in cluster.node_ids[::-1]])
    assert found == [{name: data}] * 3
    assert {str(report.route) for report in reports()} <= {"driver", "store"}


def test_versions_in_a_bucket_are_refused_on_every_node_before_they_are_copied(
    cluster: RayCluster, gcs: FakeGcs, request: pytest.FixtureRequest
) -> None:
    files = {f"{version}/{path}": data for version in (1, 2) for path, data in model_files(request).items()}
    gcs.put_all("models", unique(request), files)
    hubdist.init(store=cluster.store)
    before = len(REQUESTS)
    for node in cluster.node_ids:
        with pytest.raises(NotAModelError, match="1, 2"):
            ray.get(read_files.options(**cluster.on(node)).remote(f"gs://models/{unique(request)}", None), timeout=60)
    reads = [line for line in REQUESTS[before:] if "alt=media" in line]
    assert all("/1/assets/test.txt?" in line for line in reads)  # a node's probe, of the smallest file
    worker = cluster.on(cluster.node_ids[1])
    found = ray.get(read_files.options(**worker).remote(f"gs://models/{unique(request)}/2", None), timeout=60)
    assert found == model_files(request)
