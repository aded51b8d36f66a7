"""New weights at the same place, within a running job."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import hubdist
from hubdist.errors import DigestMismatchError, ModelNotFoundError
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub


def write(folder: Path, text: str) -> str:
    """A directory that looks like a SavedModel from outside."""
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_text(text)
    return str(folder)


def read(handle: str) -> str:
    return Path(hubdist.resolve(handle), "saved_model.pb").read_text()


def test_a_handle_stands_for_new_bytes_once_it_is_refreshed(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    old = Path(hubdist.resolve(handle))
    write(tmp_path / "model", "new!")
    assert read(handle) == "old"
    refreshed = hubdist.refresh(handle)
    assert refreshed.changed
    assert refreshed.before is not None
    assert refreshed.before.startswith("sha256:") and refreshed.before != refreshed.digest
    assert read(handle) == "new!"
    assert (old / "saved_model.pb").read_text() == "old"  # whoever has it keeps it
    assert not hubdist.refresh(handle).changed


def test_a_refresh_of_what_was_not_resolved_resolves_it(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "first")
    refreshed = hubdist.refresh(handle)
    assert refreshed.before is None
    assert read(handle) == "first"


def test_a_hubs_model_is_read_again_although_the_store_has_it() -> None:
    with LoopbackHub() as hub:
        handle = hub.add_model("acme/model/1", {"saved_model.pb": b"old"})
        assert read(handle) == "old"
        hub.add_model("acme/model/1", {"saved_model.pb": b"new"})
        hubdist.refresh(handle)
        assert read(handle) == "new"
        hubdist.shutdown()
        assert read(handle) == "new"  # and for later jobs


def test_a_refresh_respects_pins(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    hubdist.init(lock_file=str(tmp_path / "hubdist.lock"))
    assert read(handle) == "old"
    write(tmp_path / "model", "new!")
    with pytest.raises(DigestMismatchError, match="pins"):
        hubdist.refresh(handle)
    assert read(handle) == "old"


def test_a_refresh_that_fails_changes_nothing(tmp_path: Path) -> None:
    handle = write(tmp_path / "model", "old")
    read(handle)
    (tmp_path / "model" / "saved_model.pb").unlink()
    (tmp_path / "model").rmdir()
    with pytest.raises(ModelNotFoundError):
        hubdist.refresh(handle)
    assert read(handle) == "old"


def test_a_load_after_a_change_that_can_be_seen_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handle = write(tmp_path / "model", "old")
    read(handle)
    assert not caplog.records
    write(tmp_path / "model", "new!")
    with caplog.at_level(logging.WARNING, "hubdist"):
        assert read(handle) == "old"
        assert read(handle) == "old"
    assert [record.getMessage().count("hubdist.refresh(handle)") for record in caplog.records] == [1]
    caplog.clear()
    hubdist.refresh(handle)
    read(handle)
    assert not caplog.records


@pytest.mark.tf
def test_a_loaded_model_stays_what_it_is(models: Path, tmp_path: Path) -> None:
    import shutil

    import tensorflow as tf

    shutil.copytree(models / "tf2", tmp_path / "model")
    old = hubdist.load(str(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(models / "tf1", tmp_path / "model")
    hubdist.refresh(str(tmp_path / "model"))
    assert "serving_default" in hubdist.load(str(tmp_path / "model")).signatures
    assert not hasattr(hubdist.load(str(tmp_path / "model")), "scale")
    assert old(tf.constant(["one"])).numpy().tolist() == [[2.0, 3.0]]
    old.scale.assign([1.0, 1.0])
    assert pickle.loads(pickle.dumps(old)).scale.numpy().tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with RayCluster(tmp_path_factory.mktemp("refresh"), nodes=3, log_to_driver=False) as cluster:
        yield cluster


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


@pytest.mark.tf
def test_unload_lets_go_of_what_a_handle_stood_for_before(models: Path, tmp_path: Path) -> None:
    import gc
    import shutil
    import weakref

    hubdist.init(max_loaded_bytes="1GiB")
    handle = str(tmp_path / "model")
    assert hubdist.unload(handle) is False  # nothing is read for it
    shutil.copytree(models / "tf2", handle)
    old = weakref.ref(hubdist.load(handle))
    shutil.rmtree(handle)
    shutil.copytree(models / "tf1", handle)
    hubdist.refresh(handle)
    new = weakref.ref(hubdist.load(handle))
    assert hubdist.unload(f"{handle}/") is True
    gc.collect()
    assert (old(), new()) == (None, None)
