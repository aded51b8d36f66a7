"""A cluster whose Ray encrypts (`RAY_USE_TLS=1`): bytes go over ports that encrypt with Ray's certificates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.util

from tests.support.certificates import Authority
from tests.support.ray_head import Head, ray_head, ray_worker

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

DATA = os.urandom(12 << 20)

USE = """
import pathlib, sys, ray, hubdist

@ray.remote(num_cpus=0.1)
def use(handle):
    return pathlib.Path(hubdist.resolve(handle), "weights.bin").read_bytes()

ray.init()
hubdist.init(route="driver", agent_idle_s=60)
report = hubdist.prefetch(sys.argv[1])
assert {node.error for node in report.nodes} == {None}, report
data = pathlib.Path(sys.argv[1], "weights.bin").read_bytes()
tasks = [use.options(resources={name: 0.1}).remote(sys.argv[1]) for name in ("first", "second")]
assert ray.get(tasks, timeout=100) == [data, data]
second = next(node for node in report.nodes if node.node != ray.get_runtime_context().get_node_id())
assert (second.bytes_received, second.closed_ports) == (len(data), ()), second
assert hubdist.plan(sys.argv[1]).notes == ()
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("encrypted")
    certificate, key, authority = Authority(folder).files("localhost", ray.util.get_node_ip_address())
    encrypts = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": certificate,
        "RAY_TLS_SERVER_KEY": key,
        "RAY_TLS_CA_CERT": authority,
    }
    with (
        ray_head(folder / "head", environment=encrypts, resources={"first": 1}) as running,
        ray_worker(running, folder / "worker", resources={"second": 1}, labels="place=second"),
    ):
        yield running


def test_bytes_go_over_ports_that_encrypt(head: Head, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(DATA)
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    command = [sys.executable, "-c", USE, str(tmp_path / "model")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "calls of Ray" not in ran.stdout + ran.stderr
    assert "no port can be opened" not in ran.stdout + ran.stderr


def test_the_doctor_reaches_ports_that_encrypt(head: Head) -> None:
    command = [sys.executable, "-m", "hubdist", "doctor", "--address", head.address, "--json"]
    ran = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=200, check=False)
    ports = [found for found in json.loads(ran.stdout)["findings"] if found["check"] == "ports"]
    assert [found["level"] for found in ports] == ["ok", "ok"], ports
    assert all("is reached by 1 other node" in found["found"] for found in ports)
