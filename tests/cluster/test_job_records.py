"""What a job leaves behind in the logs of Ray's session, and what its metrics say, on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

import hubdist
from hubdist.report.record import read_record_file
from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub

pytestmark = pytest.mark.cluster


def make_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(6 << 20))
    return folder


def test_a_job_leaves_its_record_in_the_logs_of_the_session(tmp_path: Path, hub: LoopbackHub) -> None:
    handle = hub.add_model("acme/big/1", make_model(tmp_path / "model"))
    with RayCluster(tmp_path, nodes=3, log_to_driver=False) as cluster:
        hubdist.init(store=cluster.store)
        report = hubdist.prefetch(handle)
        context = ray.get_runtime_context()
        path = Path(
            context.get_temp_dir(), context.get_session_name(), "logs", "hubdist", f"{context.get_job_id()}.json"
        )
        found = read_record_file(path)
        assert found.session == context.get_session_name()
        assert found.pins == report.pins
        assert {one.name: one.bytes_received for one in found.deliveries} == {
            one.name: one.bytes_received for one in report.nodes
        }
        assert all(one.ended > found.began > 0 for one in found.deliveries)
        assert not found.closed
        with pytest.raises(hubdist.errors.ModelNotFoundError):
            hubdist.resolve(handle.replace("/big/1", "/big/2"))
        hubdist.shutdown()
        found = read_record_file(path)
        assert found.closed
        (error,) = found.errors
        assert "acme/big/2" in str(error.handle)
