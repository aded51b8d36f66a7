"""Calls between actors that get lost on the way, in both directions: right bytes all the same, only later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

_SCRIPT = """
import hashlib, os, pathlib, sys
import ray, hubdist
from hubdist.testing.cluster import RayCluster

folder = pathlib.Path(sys.argv[1])
data = os.urandom(24 << 20)
(folder / "model").mkdir()
(folder / "model" / "saved_model.pb").write_bytes(data)

@ray.remote(num_cpus=0, max_retries=-1)
def digest(handle):
    return hashlib.sha256(pathlib.Path(hubdist.resolve(handle), "saved_model.pb").read_bytes()).hexdigest()

with RayCluster(folder, nodes=2) as cluster:
    hubdist.init(store=cluster.store)
    tasks = [digest.options(**cluster.on(node)).remote(str(folder / "model")) for node in cluster.node_ids]
    assert set(ray.get(tasks, timeout=150)) == {hashlib.sha256(data).hexdigest()}
    assert sum(pin.origin_reads for pin in hubdist.status().pins) <= 1  # a coordinator made again finds the pin
"""


def test_a_delivery_survives_lost_requests_and_lost_answers(tmp_path: Path) -> None:
    # Source: Ray's src/ray/rpc/rpc_chaos.cc: each process loses up to ten of these calls, a quarter each way.
    losses = {"num_failures": 10, "req_failure_prob": 25, "resp_failure_prob": 25}
    chaos = json.dumps({"CoreWorkerService.grpc_client.PushTask": losses})
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)],
        env={**os.environ, "RAY_testing_rpc_failure": chaos},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RpcFailureManager" in done.stdout + done.stderr, "this Ray loses no calls: the test shows nothing"
