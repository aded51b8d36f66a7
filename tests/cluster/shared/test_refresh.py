"""New weights at the same place, within a running job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.testing.cluster import RayCluster


def write(folder: Path, text: str) -> str:
    """A directory that looks like a SavedModel from outside."""
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_text(text)
    return str(folder)


def read(handle: str) -> str:
    return Path(hubdist.resolve(handle), "saved_model.pb").read_text()


@pytest.mark.cluster
def test_every_process_of_a_job_gets_the_new_bytes(cluster: RayCluster, tmp_path: Path) -> None:
    hubdist.init(store=cluster.store)
    handle = write(tmp_path / "model", "old")

    @ray.remote(num_cpus=0)
    class Replica:
        def read(self) -> str:
            return read(handle)

        def refresh(self) -> Any:
            return hubdist.refresh(handle)

    replicas = [Replica.options(**cluster.on(node)).remote() for node in cluster.node_ids for _ in range(2)]
    assert ray.get([one.read.remote() for one in replicas], timeout=120) == ["old"] * 6
    write(tmp_path / "model", "new!")
    assert ray.get([one.read.remote() for one in replicas], timeout=120) == ["old"] * 6
    refreshed = ray.get(replicas[-1].refresh.remote(), timeout=120)
    assert refreshed.changed
    assert not refreshed.untold
    assert [read(handle), *ray.get([one.read.remote() for one in replicas], timeout=120)] == ["new!"] * 7
    write(tmp_path / "model", "newest")
    assert hubdist.refresh(handle).before == refreshed.digest
    assert ray.get([one.read.remote() for one in replicas], timeout=120) == ["newest"] * 6
