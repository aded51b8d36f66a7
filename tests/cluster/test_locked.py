"""`frozen`, `locked`, and the commands that write lock files and exports, on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.errors import ConfigError, DigestMismatchError, NotPinnedError
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support.command_line import json_of, run_hubdist

pytestmark = pytest.mark.cluster

OLD = {"saved_model.pb": b"old"}
NEW = {"saved_model.pb": b"newer"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("cluster"), nodes=2, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def fresh_stores(cluster: RayCluster) -> Iterator[None]:
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


@pytest.fixture
def lock(cluster: RayCluster, hub: LoopbackHub, tmp_path: Path) -> str:
    """A lock file that pins `acme/known/1`."""
    handle = hub.add_model("acme/known/1", OLD)
    hubdist.init(store=cluster.store, lock_file=str(tmp_path / "hubdist.lock"), agent_idle_s=2)
    hubdist.resolve(handle)
    hubdist.shutdown()
    return str(tmp_path / "hubdist.lock")


@ray.remote(num_cpus=0, max_calls=1)
def read(handle: str, settings: dict[str, Any]) -> bytes:
    if settings:
        hubdist.init(**settings)
    return Path(hubdist.resolve(handle), "saved_model.pb").read_bytes()


def read_on_all(cluster: RayCluster, handle: str) -> set[bytes]:
    tasks = [read.options(**cluster.on(node)).remote(handle, {}) for node in cluster.node_ids]
    return set(ray.get(tasks, timeout=120))


def test_locked_asks_the_origin_once_for_all_processes_of_a_job(
    cluster: RayCluster, hub: LoopbackHub, lock: str
) -> None:
    handle, reads = f"{hub.url}/acme/known/1", hub.reads(f"{hub.url}/acme/known/1")
    hubdist.init(store=cluster.store, lock_file=lock, locked=True, agent_idle_s=2)
    for _ in range(2):
        assert read_on_all(cluster, handle) == {b"old"}
    assert hub.reads(handle) == reads + 1


def test_an_origin_that_has_changed_is_refused_by_locked_and_not_looked_at_by_frozen(
    cluster: RayCluster, hub: LoopbackHub, lock: str
) -> None:
    handle = hub.add_model("acme/known/1", NEW)
    hubdist.init(store=cluster.store, lock_file=lock, frozen=True, agent_idle_s=2)
    assert read_on_all(cluster, handle) == {b"old"}
    hubdist.shutdown()
    hubdist.init(store=cluster.store, lock_file=lock, locked=True, agent_idle_s=2)
    with pytest.raises(DigestMismatchError, match=r"hubdist\.lock pins"):
        ray.get(read.remote(handle, {}), timeout=90)


def test_what_is_not_pinned_is_refused_at_once_by_locked_and_when_it_is_loaded_by_frozen(
    cluster: RayCluster, hub: LoopbackHub, lock: str
) -> None:
    known, unknown = f"{hub.url}/acme/known/1", hub.add_model("acme/unknown/1", NEW)
    with pytest.raises(NotPinnedError, match="locked") as caught:
        hubdist.init(store=cluster.store, lock_file=lock, locked=True, models=[known, unknown])
    assert caught.value.handle == unknown
    hubdist.init(store=cluster.store, lock_file=lock, frozen=True, models=[known, unknown], agent_idle_s=2)
    assert ray.get(read.remote(known, {}), timeout=90) == b"old"
    with pytest.raises(NotPinnedError, match="frozen"):
        ray.get(read.remote(unknown, {}), timeout=90)
    assert hub.reads(unknown) == 0
    hubdist.shutdown()
    hubdist.init(store=cluster.store, lock_file=lock, locked=True, models=[known], agent_idle_s=2)
    with pytest.raises(NotPinnedError, match="locked"):
        ray.get(read.remote(unknown, {}), timeout=90)


def test_locked_is_the_drivers_to_set(cluster: RayCluster, hub: LoopbackHub, lock: str) -> None:
    hubdist.init(store=cluster.store, lock_file=lock, agent_idle_s=2)
    settings = {"locked": True, "lock_file": lock}
    with pytest.raises(ConfigError, match="locked: no effect in a task"):
        ray.get(read.remote(f"{hub.url}/acme/known/1", settings), timeout=90)


def test_the_lock_command_resolves_through_the_cluster(cluster: RayCluster, hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("acme/a/1", OLD)
    options = ("--address", cluster.address, "--set", f"store={cluster.store}", "--json")
    models = ("--set", f"models=[{handle}]")
    assert run_hubdist("lock", "--check", *options, *models, folder=tmp_path).returncode == 1
    done = run_hubdist("lock", *options, *models, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [each["state"] for each in json_of(done)["handles"]] == ["added"]
    assert run_hubdist("lock", "--check", *options, folder=tmp_path).returncode == 0
    hub.add_model("acme/a/1", NEW)
    changed = run_hubdist("lock", "--check", *options, folder=tmp_path)
    assert (changed.returncode, json_of(changed)["handles"][0]["state"]) == (1, "out of date")
    upgraded = run_hubdist("lock", "--upgrade", *options, folder=tmp_path)
    assert (upgraded.returncode, json_of(upgraded)["handles"][0]["state"]) == (0, "upgraded")
    # The configured models are no job's here: nobody brings them to all nodes.
    assert sum(len(list((cluster.store_of(node) / "snapshots").glob("*"))) for node in cluster.node_ids) == 2


def test_an_import_to_all_nodes_needs_no_origin(cluster: RayCluster, hub: LoopbackHub, tmp_path: Path) -> None:
    handle = hub.add_model("acme/a/1", {"saved_model.pb": b"graph" * 1_000_000})
    export = run_hubdist("export", "models.tar", handle, "--address", "local", folder=tmp_path)
    assert export.returncode == 0, export.stderr
    reads = hub.reads(handle)
    options = ("--address", cluster.address, "--set", f"store={cluster.store}", "--json")
    done = run_hubdist("import", "models.tar", "--where", "all", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    digest = json_of(done)["models"][0]["digest"].removeprefix("sha256:")
    assert all((cluster.store_of(node) / "snapshots" / digest / "files").is_dir() for node in cluster.node_ids)
    hubdist.init(store=cluster.store, offline=True, agent_idle_s=2)
    assert len(read_on_all(cluster, handle)) == 1
    assert hub.reads(handle) == reads
