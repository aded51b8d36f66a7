"""Deliveries on a real cluster: nodes serve each other, the driver sends each byte about once, chunks come early."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import hubdist
from hubdist.errors import OriginError
from hubdist.model.source import SourceFile
from hubdist.report.delivery import NodeReport, Report
from hubdist.testing.cluster import RayCluster
from tests.support.gcs import FakeGcs, fake_gcs, gcs_environment
from tests.support.gcs_proxy import GcsProxy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MIB = 1 << 20
NODES = 5
REQUESTS: list[str] = []


@pytest.fixture(scope="module")
def gcs() -> Iterator[FakeGcs]:
    def note(_: int, when: str, request: str) -> None:
        if when == "after":
            REQUESTS.append(request)

    with fake_gcs() as server:
        server.make_bucket("models")
        with GcsProxy(server.url, note) as proxy, gcs_environment(proxy.url):
            yield server


@pytest.fixture(scope="module")
def cluster(gcs: FakeGcs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("swarm"), nodes=NODES, cpus=2, log_to_driver=False) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_stores(cluster: RayCluster) -> Iterator[None]:
    yield
    hubdist.shutdown()
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


def model(folder: Path, mib: int = 20) -> Path:
    root = folder / "model"
    (root / "variables").mkdir(parents=True)
    (root / "saved_model.pb").write_bytes(os.urandom(5000))
    (root / "variables" / "data").write_bytes(os.urandom(mib * MIB + 17))
    (root / "empty").touch()
    return root


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_stores(cluster: RayCluster, report: Report, expected: dict[str, bytes]) -> None:
    for node in report.nodes:
        assert node.error is None, node
        home = cluster.store_of(node.node)
        assert files_of(home / "snapshots" / report.pins[0].digest.removeprefix("sha256:") / "files") == expected
        assert list((home / "staging").iterdir()) == []


def by_source(nodes: list[NodeReport]) -> Counter[str]:
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(dict(node.sources))
    return total


def test_the_driver_sends_each_byte_once_and_nodes_serve_each_other(cluster: RayCluster, tmp_path: Path) -> None:
    root = model(tmp_path)
    size = sum(map(len, files_of(root).values()))
    hubdist.init(store=cluster.store, route="driver")  # all nodes of this cluster could read the path
    report = hubdist.prefetch(str(root))
    check_stores(cluster, report, files_of(root))
    driver, *others = sorted(report.nodes, key=lambda node: node.node != cluster.node_ids[0])
    assert driver.sources == ()
    total = by_source(others)
    assert total[driver.name] <= 1.1 * size
    assert sum(total.values()) == size * len(others)
    assert len(total) >= 3  # the driver and at least two others sent something
    for node in others:
        assert node.bytes_received == sum(count for _, count in node.sources) == size
        assert node.timeline[-1][1] == size
        assert list(node.timeline) == sorted(node.timeline)
        assert (node.retries, node.refused) == (0, 0)


def test_late_nodes_get_it_from_those_that_have_it(cluster: RayCluster, tmp_path: Path) -> None:
    root = model(tmp_path)
    hubdist.init(store=cluster.store, route="driver")
    first = hubdist.prefetch(str(root), nodes=cluster.node_ids[:3])
    late = hubdist.prefetch(str(root), nodes=cluster.node_ids[3:])
    check_stores(cluster, late, files_of(root))
    driver = next(node.name for node in first.nodes if node.node == cluster.node_ids[0])
    total = by_source(list(late.nodes))
    assert total[driver] <= 0.1 * sum(total.values())


def test_a_holder_with_damaged_bytes_is_not_asked_again(cluster: RayCluster, tmp_path: Path) -> None:
    root = model(tmp_path)
    hubdist.init(store=cluster.store, route="driver")
    first = hubdist.prefetch(str(root), nodes=cluster.node_ids[1:2])
    held = cluster.store_of(cluster.node_ids[1]) / "snapshots" / first.pins[0].digest.removeprefix("sha256:")
    data = held / "files" / "variables" / "data"
    data.chmod(0o600)
    with data.open("r+b") as file:
        file.write(bytes(20 * MIB))
    report = hubdist.prefetch(str(root), nodes=cluster.node_ids[2:])
    check_stores(cluster, report, files_of(root))
    assert by_source(list(report.nodes))[first.nodes[0].name] <= 2 * MIB


# While the origin is being read


class Waits:
    """A source that gives its second half when a node has some of the first, and then perhaps fails."""

    def __init__(self, content: dict[str, bytes], wait_for: list[Path], error: Exception | None) -> None:
        self.content = content
        self.wait_for = wait_for
        self.error = error

    def entries(self) -> list[SourceFile]:
        return [SourceFile(path, len(data)) for path, data in self.content.items()]

    def read(self, path: str, start: int, end: int) -> bytes:
        if start > 0:
            deadline = time.monotonic() + 60
            while not all(any(file.stat().st_size for file in place.rglob("*/coming/*")) for place in self.wait_for):
                assert time.monotonic() < deadline, "no chunk came while the origin was being read"
                threading.Event().wait(0.05)
            if self.error is not None:
                raise self.error
        return self.content[path][start:end]


@pytest.mark.parametrize("call", ["prefetch", "load"])
def test_chunks_travel_while_the_origin_is_being_read(cluster: RayCluster, call: str) -> None:
    content = {"model/saved_model.pb": os.urandom(3000), "model/big": os.urandom(20 * MIB + 3), "model/none": b""}
    others = cluster.node_ids[1:] if call == "prefetch" else cluster.node_ids[1:2]
    stages = [cluster.store_of(node) / "staging" for node in others]
    for stage in stages:
        stage.mkdir(mode=0o700, parents=True)
        stage.parent.chmod(0o700)
    hubdist.init(store=cluster.store, origins={"slow": lambda _: Waits(content, stages, None)})
    expected = {path.removeprefix("model/"): data for path, data in content.items()}
    if call == "prefetch":
        report = hubdist.prefetch(f"slow://{call}")
        check_stores(cluster, report, expected)
        assert {str(node.route) for node in report.nodes} == {"store", "driver"}
        assert all(node.timeline for node in report.nodes if str(node.route) == "driver")
    else:

        @ray.remote(num_cpus=0)
        def read() -> dict[str, bytes]:
            root = Path(hubdist.resolve(f"slow://{call}"))
            return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

        assert ray.get(read.options(**cluster.on(others[0])).remote(), timeout=90) == expected


def test_an_origin_that_fails_at_the_end_leaves_nothing_on_the_nodes(cluster: RayCluster) -> None:
    stages = [cluster.store_of(node) / "staging" for node in cluster.node_ids[1:]]
    for stage in stages:
        stage.mkdir(mode=0o700, parents=True)
        stage.parent.chmod(0o700)
    content = {"saved_model.pb": os.urandom(20 * MIB)}
    hubdist.init(store=cluster.store, origins={"bad": lambda _: Waits(content, stages, OriginError("it broke"))})
    with pytest.raises(OriginError, match="it broke"):
        hubdist.prefetch("bad://it")
    deadline = time.monotonic() + 30
    while any(list(stage.iterdir()) for stage in stages):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not any(list(stage.parent.glob("snapshots/*")) for stage in stages)


# The shared cache


@pytest.mark.parametrize("swarm_reads", [True, False])
def test_a_bucket_is_read_once_by_a_swarm_and_by_every_node_without(
    cluster: RayCluster, gcs: FakeGcs, tmp_path: Path, swarm_reads: bool
) -> None:
    root = model(tmp_path)
    size = sum(map(len, files_of(root).values()))
    hubdist.init(store=cluster.store, shared_cache=f"gs://models/{swarm_reads}", swarm_reads=swarm_reads)
    hubdist.prefetch(str(root), nodes=cluster.node_ids[:1])
    others = cluster.node_ids[1:]
    report = hubdist.prefetch(str(root), nodes=others)
    check_stores(cluster, report, files_of(root))
    assert {str(node.route) for node in report.nodes} == {"shared"}
    from_bucket = sum(count for source, count in by_source(list(report.nodes)).items() if source.startswith("gs://"))
    assert from_bucket == (size if swarm_reads else size * len(others))
