"""`hubdist://` in tasks: ranges of models that a node does not have, and how many bytes of them travel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster

MIB = 1 << 20
WEIGHTS = os.urandom(32 * MIB + 12_345)


def files(name: str) -> dict[str, bytes]:
    """A model of its own for each test: equal files would be one model."""
    return {"saved_model.pb": name.encode(), "assets/vocab.txt": b"one\ntwo\n", "weights.bin": WEIGHTS}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("ranges"), nodes=2, log_to_driver=False) as running:
        yield running


@pytest.fixture
def worker(cluster: RayCluster) -> dict[str, Any]:
    """Options for a task on the node that is not the driver's."""
    return cluster.on(cluster.node_ids[1])


@ray.remote(max_retries=0)
def on_file_system(work: Callable[[Any], Any]) -> tuple[Any, int]:
    """What `work` returns, and the bytes that came from elsewhere than the node's store."""
    from hubdist.integrations.fsspec import HubdistFileSystem

    fs = HubdistFileSystem()
    before = fs.received_bytes
    return work(fs), fs.received_bytes - before


def ask(worker: dict[str, Any], work: Callable[[Any], Any]) -> tuple[Any, int]:
    found: tuple[Any, int] = ray.get(on_file_system.options(**worker).remote(work), timeout=100)
    return found


def models_of(store: Path) -> list[str]:
    return [path.name for path in store.rglob("manifest.json")]


def test_a_range_travels_without_the_rest_of_its_model(
    cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any]
) -> None:
    hubdist.init(store=cluster.store)
    handle = hub.add_model("acme/large/1", files("1"))
    path, start = f"{handle}!/weights.bin", 7 * MIB + 77
    names, received = ask(worker, lambda fs: fs.find(f"{handle}!"))
    assert (names, received) == ([f"{handle}!/{path}" for path in sorted(files("1"))], 0)
    data, received = ask(worker, lambda fs: fs.cat_file(path, start, start + MIB))
    assert data == WEIGHTS[start : start + MIB]
    assert received == 2 * MIB  # the two blocks that it touches
    assert models_of(cluster.store_of(cluster.node_ids[1])) == []
    assert hub.reads(handle) == 1


def test_small_reads_of_one_block_let_it_travel_once(
    cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any]
) -> None:
    hubdist.init(store=cluster.store)
    handle = hub.add_model("acme/large/2", files("2"))

    def lines(fs: Any) -> list[Any]:
        with fs.open(f"{handle}!/weights.bin") as file:
            parts = [file.read(1000) for _ in range(100)]
        with fs.open(f"{handle}!/weights.bin") as again:
            return [*parts, again.read(10)]

    parts, received = ask(worker, lines)
    assert b"".join(parts[:-1]) == WEIGHTS[:100_000]
    assert parts[-1] == WEIGHTS[:10]
    assert received == MIB


def test_a_node_reads_from_its_own_store_as_soon_as_it_has_the_model(
    cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any]
) -> None:
    hubdist.init(store=cluster.store)
    handle = hub.add_model("acme/large/3", files("3"))

    def before_and_after(fs: Any) -> tuple[bytes, int, bytes]:
        begin = fs.received_bytes
        before = fs.cat_file(f"{handle}!/weights.bin", 0, 10)
        received = fs.received_bytes - begin
        hubdist.resolve(handle)
        return before, received, fs.cat_file(f"{handle}!/weights.bin", 9 * MIB, 10 * MIB)

    (before, first, after), received = ask(worker, before_and_after)
    assert (before, after) == (WEIGHTS[:10], WEIGHTS[9 * MIB : 10 * MIB])
    assert first == received == MIB


def test_ranges_come_from_the_shared_cache_and_are_checked(
    cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any], tmp_path: Path
) -> None:
    hubdist.init(store=cluster.store, shared_cache=str(tmp_path / "shared"))
    handle = hub.add_model("acme/large/4", files("4"))
    driver = Path(hubdist.resolve(handle))
    (copy,) = (tmp_path / "shared").rglob("weights.bin")
    assert len(copy.read_bytes()) == len(WEIGHTS)
    for path in driver.rglob("*.bin"):  # what comes now is not from the driver's node
        path.parent.chmod(0o700)
        path.chmod(0o600)
        path.write_bytes(bytes(len(WEIGHTS)))
    first, received = ask(worker, lambda fs: fs.cat_file(f"{handle}!/weights.bin", 0, MIB))
    assert (first, received) == (WEIGHTS[:MIB], MIB)
    assert hub.reads(handle) == 1


def test_a_damaged_copy_in_the_shared_cache_is_left_for_the_drivers_node(
    cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any], tmp_path: Path
) -> None:
    hubdist.init(store=cluster.store, shared_cache=str(tmp_path / "shared"))
    handle = hub.add_model("acme/large/5", files("5"))
    hubdist.resolve(handle)
    (copy,) = (tmp_path / "shared").rglob("weights.bin")
    copy.chmod(0o600)
    copy.write_bytes(bytes(MIB) + WEIGHTS[MIB:])
    first, received = ask(worker, lambda fs: fs.cat_file(f"{handle}!/weights.bin", 0, MIB))
    assert (first, received) == (WEIGHTS[:MIB], MIB)


def test_errors_of_a_handle_reach_the_task(cluster: RayCluster, hub: LoopbackHub, worker: dict[str, Any]) -> None:
    hubdist.init(store=cluster.store)

    def missing(fs: Any) -> str:
        try:
            fs.cat_file(f"{hub_url}/acme/none/1!/weights.bin")
        except FileNotFoundError as error:
            return type(error).__name__
        return "nothing"

    hub_url = hub.url
    assert ask(worker, missing)[0] == "ModelNotFoundError"
