"""The care of all nodes' stores, on real Ray nodes with a store each: by the commands, as a person would use them."""

from __future__ import annotations

import json
import random
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner, Result

import hubdist
from hubdist.cli.main import hubdist_command
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster

NODES = 3
FLIPS = 50
MODELS = {
    f"acme/model/{number}": {
        "saved_model.pb": random.Random(number).randbytes(100_000),
        "variables/weights": random.Random(-number).randbytes((6 << 20) + number),
    }
    for number in (1, 2, 3)
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("care"), nodes=NODES, cpus=2, log_to_driver=False) as cluster:
        yield cluster


@pytest.fixture
def handles(cluster: RayCluster, hub: LoopbackHub) -> Iterator[list[str]]:
    """Models that all nodes have in their stores, and that no job needs any more."""
    handles = [hub.add_model(name, files) for name, files in MODELS.items()]
    hubdist.init(store=cluster.store)
    hubdist.prefetch(handles)
    hubdist.shutdown()
    yield handles
    for node in cluster.node_ids:
        shutil.rmtree(cluster.store_of(node), ignore_errors=True)


def run(cluster: RayCluster, *args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(hubdist_command, [*args, "--where", "all", "--set", f"store={cluster.store}"])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result


def snapshots(cluster: RayCluster, node: str) -> list[Path]:
    return sorted((cluster.store_of(node) / "snapshots").iterdir())


def flip(file: Path, at: int, bit: int) -> None:
    mode = stat.S_IMODE(file.stat().st_mode)
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ (1 << bit)]))
    file.chmod(mode)


def test_fifty_random_flips_in_a_nodes_store_are_all_repaired_from_peers(
    cluster: RayCluster, hub: LoopbackHub, handles: list[str]
) -> None:
    node, chance = cluster.node_ids[1], random.Random(7)
    files = [file for path in snapshots(cluster, node) for file in sorted(path.rglob("*")) if file.is_file()]
    files = [file for file in files if file.stat().st_size]
    before = {file: file.read_bytes() for file in files}
    places = set()
    while len(places) < FLIPS:
        file = chance.choices(files, [file.stat().st_size for file in files])[0]
        places.add((file, chance.randrange(file.stat().st_size), chance.randrange(8)))
    for file, at, bit in places:
        flip(file, at, bit)
    reads = {handle: hub.reads(handle) for handle in handles}
    wrong = {file for file in files if file.read_bytes() != before[file]}
    found = json.loads(run(cluster, "verify", "--json", code=5).stdout)
    blocks = {(file, at >> 20) for file, at, _ in places if file.name != "manifest.json"}
    assert sum(record["blocks"] for record in found) == len(blocks)
    assert {record["digest"] for record in found if record["damage"]} == {
        f"sha256:{file.relative_to(cluster.store_of(node) / 'snapshots').parts[0]}" for file in wrong
    }
    mended = json.loads(run(cluster, "verify", "--repair", "--json").stdout)
    assert all(record["repaired"] for record in mended if record["damage"])
    assert {file: file.read_bytes() for file in files} == before
    assert not any(record["damage"] for record in json.loads(run(cluster, "verify", "--json").stdout))
    assert {handle: hub.reads(handle) for handle in handles} == reads
    assert all(record["repaired_from"] for record in mended if record["blocks"])


def test_what_is_damaged_on_every_node_comes_from_the_origin_once(
    cluster: RayCluster, hub: LoopbackHub, handles: list[str]
) -> None:
    digest = snapshots(cluster, cluster.node_ids[0])[0].name
    for node in cluster.node_ids:
        flip(cluster.store_of(node) / "snapshots" / digest / "files/variables/weights", 1000, 0)
    reads = sum(hub.reads(handle) for handle in handles)
    mended = json.loads(run(cluster, "verify", "--repair", "--json").stdout)
    assert [record["repaired"] for record in mended if record["digest"] == f"sha256:{digest}"] == [True] * NODES
    assert sum(hub.reads(handle) for handle in handles) == reads + 1


def test_all_nodes_are_listed_kept_and_cleared(cluster: RayCluster, handles: list[str]) -> None:
    records = json.loads(run(cluster, "ls", "--json").stdout)
    assert len({record["store"] for record in records}) == NODES
    assert len(records) == NODES * len(MODELS)
    run(cluster, "keep", handles[0])
    kept = {record["digest"] for record in json.loads(run(cluster, "ls", "--json", "--filter", "kept=true").stdout)}
    assert len(kept) == 1
    assert "it is kept" in run(cluster, "rm", "-y", handles[0], code=1).stderr
    run(cluster, "gc", "--max-bytes", "0")
    for node in cluster.node_ids:
        assert {f"sha256:{path.name}" for path in snapshots(cluster, node)} == kept
    run(cluster, "release", handles[0])
    run(cluster, "rm", "-y", handles[0])
    assert [snapshots(cluster, node) for node in cluster.node_ids] == [[]] * NODES


def test_a_model_that_a_job_has_pinned_stays_on_all_nodes(cluster: RayCluster, handles: list[str]) -> None:
    hubdist.init(store=cluster.store)
    path = hubdist.resolve(handles[0])
    assert "a running job has pinned it" in run(cluster, "rm", "-y", handles[0], code=1).stderr
    run(cluster, "gc", "--max-bytes", "0")
    assert Path(path, "saved_model.pb").is_file()
    assert [len(snapshots(cluster, node)) for node in cluster.node_ids] == [1] * NODES
    hubdist.shutdown()


def test_a_node_that_fails_is_named_and_the_others_are_done(cluster: RayCluster, handles: list[str]) -> None:
    node = cluster.node_ids[2]
    store = cluster.store_of(node)
    store.chmod(0o777)
    try:
        result = run(cluster, "gc", "--max-bytes", "0", code=7)
    finally:
        store.chmod(0o700)
    assert node[:8] in result.stderr
    assert [bool(snapshots(cluster, each)) for each in cluster.node_ids] == [False, False, True]


def test_this_nodes_store_is_repaired_from_the_other_nodes(
    cluster: RayCluster, hub: LoopbackHub, handles: list[str]
) -> None:
    node = ray.get_runtime_context().get_node_id()
    flip(snapshots(cluster, node)[0] / "files/variables/weights", 2 << 20, 3)
    reads = sum(hub.reads(handle) for handle in handles)
    arguments = ["verify", "--repair", "--json", "--set", f"store={cluster.store}"]
    result = CliRunner().invoke(hubdist_command, arguments)
    assert result.exit_code == 0, result.stderr
    (mended,) = [record for record in json.loads(result.stdout) if record["damage"]]
    assert mended["repaired"]
    assert sum(hub.reads(handle) for handle in handles) == reads


def test_an_idle_agent_reads_its_store_again_and_repairs_it(
    cluster: RayCluster, hub: LoopbackHub, handles: list[str]
) -> None:
    node = cluster.node_ids[1]
    file = snapshots(cluster, node)[0] / "files/variables/weights"
    before = file.read_bytes()
    flip(file, 3 << 20, 3)
    hubdist.init(store=cluster.store, scrub_rate="1GB/s", agent_idle_s=20)
    hubdist.prefetch(hub.add_model("acme/other/1", {"saved_model.pb": random.Random(9).randbytes(5 << 20)}))
    deadline = time.monotonic() + 30
    while file.read_bytes() != before and time.monotonic() < deadline:
        time.sleep(0.1)  # an agent's idle work has no end that anybody waits for
    assert file.read_bytes() == before
    hubdist.shutdown()
