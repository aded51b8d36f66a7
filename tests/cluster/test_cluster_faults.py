"""Processes, nodes and disks that fail while a job runs. Each test has a cluster of its own: it breaks parts of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.cluster.connection import NAMESPACE, coordinator_name
from hubdist.errors import (
    AccessDeniedError,
    DeliveryError,
    HandleError,
    ModelNotFoundError,
    NotAModelError,
    StoreFullError,
)
from hubdist.store.chunk_stage import COMING
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub, Status

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("faults"), nodes=3, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def fresh_job_settings(cluster: RayCluster) -> Iterator[None]:
    hubdist.init(store=cluster.store)
    yield
    hubdist.shutdown()


@ray.remote(num_cpus=0)
def read_one(handle: str) -> bytes:
    return (Path(hubdist.resolve(handle)) / "saved_model.pb").read_bytes()


@ray.remote(num_cpus=0)
def load(handle: str) -> None:
    hubdist.load(handle)


def coordinator() -> Any:
    return ray.get_actor(coordinator_name(ray.get_runtime_context().get_job_id()), namespace=NAMESPACE)


def coordinator_pid() -> int:
    """The process of this cluster's coordinator, found by its title and its raylet's session."""
    session = ray.get_runtime_context().get_session_name()
    found = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if command(process).startswith("ray::Coordinator") and session in command(Path("/proc", parent(process)))
    ]
    assert len(found) == 1
    return found[0]


def command(process: Path) -> str:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        return (process / "cmdline").read_bytes().decode(errors="replace")
    return ""


def parent(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[1]


@pytest.mark.parametrize("how", ["killed", "killed for good"])
def test_pins_survive_a_coordinator_that_dies_between_two_loads(
    cluster: RayCluster, hub: LoopbackHub, how: str
) -> None:
    handle = hub.add_model(f"acme/{how.replace(' ', '-')}/1", {"saved_model.pb": b"first"})
    assert ray.get(read_one.remote(handle), timeout=60) == b"first"
    hub.add_model(f"acme/{how.replace(' ', '-')}/1", {"saved_model.pb": b"second"})
    if how == "killed":
        os.kill(coordinator_pid(), signal.SIGKILL)
    else:
        ray.kill(coordinator(), no_restart=True)

    nodes = cluster.node_ids
    answers = ray.get([read_one.options(**cluster.on(node)).remote(handle) for node in nodes], timeout=120)
    assert answers == [b"first"] * 3
    assert hub.reads(handle) == 1


def test_a_load_survives_a_coordinator_that_dies_during_it(cluster: RayCluster, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/during/1", {"saved_model.pb": os.urandom(100_000)})
    gate = hub.hold(handle)
    reference = read_one.options(**cluster.on(cluster.node_ids[1])).remote(handle)
    assert gate.wait_reached(60)
    os.kill(coordinator_pid(), signal.SIGKILL)
    gate.set()
    begin = time.monotonic()
    assert len(ray.get(reference, timeout=120)) == 100_000
    assert time.monotonic() - begin < 60
    head_store = cluster.store_of(cluster.node_ids[0])
    hubdist.prefetch(hub.add_model("acme/sweeper/1", {"saved_model.pb": b"x"}))
    assert list((head_store / "staging").iterdir()) == []


def test_the_others_finish_when_a_node_is_lost_during_its_delivery(cluster: RayCluster, tmp_path: Path) -> None:
    model = tmp_path / "large"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(os.urandom(300 << 20))
    doomed = cluster.add_node()
    others = cluster.node_ids[1:]
    others.remove(doomed)
    references = {node: read_one.options(**cluster.on(node)).remote(str(model)) for node in (*others, doomed)}
    store = cluster.store_of(doomed) / "staging"
    deadline = time.monotonic() + 60
    while not any(store.glob(f"*/{COMING}/*")):  # its first bytes: the file gets its name when the last has come
        assert time.monotonic() < deadline
        time.sleep(0.005)
    cluster.remove_node(doomed, wait=False)
    for node in others:
        assert len(ray.get(references[node], timeout=120)) == 300 << 20
    cluster.wait_until_gone(doomed)


def test_one_nodes_full_disk_is_its_own(cluster: RayCluster, hub: LoopbackHub) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    handle = hub.add_model("acme/full-disk/1", {"saved_model.pb": os.urandom(8 << 20)})
    full, fine = cluster.node_ids[1:3]
    root = cluster.store_of(full)
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(root)], check=True, timeout=10)
    try:
        with pytest.raises(StoreFullError) as caught:
            ray.get(read_one.options(**cluster.on(full)).remote(handle), timeout=60)
        error = caught.value.cause
        assert error.handle == handle
        assert full[:8] in error.node
        assert error.need_bytes == 8 << 20
        assert list((root / "staging").iterdir()) == []
        assert len(ray.get(read_one.options(**cluster.on(fine)).remote(handle), timeout=60)) == 8 << 20
        with pytest.raises(DeliveryError) as several:
            hubdist.prefetch(handle)
        assert list(map(type, several.value.failures.values())) == [StoreFullError]
    finally:
        subprocess.run(["umount", str(root)], check=True, timeout=10)


def test_every_refusal_is_typed_and_names_handle_and_node_within_seconds(
    cluster: RayCluster, hub: LoopbackHub, tmp_path: Path
) -> None:
    denied = hub.add_model("acme/denied/1", {"saved_model.pb": b"x"})
    hub.fail_next(denied, Status(401))
    no_model = hub.add_model("acme/no-model/1", {"readme.txt": b"hello"})
    cases = {
        f"{hub.url}/acme/none/1": ModelNotFoundError,
        str(tmp_path / "missing"): ModelNotFoundError,
        denied: AccessDeniedError,
        no_model: NotAModelError,
        "xyz://bucket/model": HandleError,
        "no/such/directory": ModelNotFoundError,  # relative to the driver's directory
    }
    for handle, expected in cases.items():
        begin = time.monotonic()
        with pytest.raises(expected) as caught:
            ray.get(load.remote(handle), timeout=60)
        assert time.monotonic() - begin < 20
        error = caught.value.cause
        assert type(error) is expected
        assert handle in str(error)
        if expected is not NotAModelError:
            assert cluster.node_ids[0][:8] in error.node
