"""The command on a real cluster with Ray's token authentication: from a terminal, and inside a submitted job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from hubdist.cli.exits import Exit
from hubdist.cluster.ray_session import connect
from hubdist.errors import ConfigError
from hubdist.testing.cluster import RayCluster
from tests.support.ray_head import RAY, Head, ray_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head"), environment=TOKEN) as running:
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(6_000_000))
    return folder


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hubdist", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_commands_find_the_cluster_and_its_token(head: Head, model: Path) -> None:
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    nobody = run(environment, "status")
    assert (nobody.returncode, nobody.stderr) == (Exit.OK, "")
    assert "no job uses hubdist now; 1 node alive" in nobody.stdout
    done = run(environment, "prefetch", str(model))
    assert done.returncode == Exit.OK, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert (path / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()
    assert run(environment, "resolve", "-q", str(model)).stdout == f"{path}\n"


def test_a_wrong_token_is_named(head: Head, model: Path) -> None:
    environment = {**head.environment, "RAY_ADDRESS": head.address, "RAY_AUTH_TOKEN": "f" * 32}
    done = run(environment, "resolve", str(model))
    assert done.returncode == Exit.WRONG_USE, done.stderr
    assert "it refuses this process's token" in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "f" * 32 not in done.stderr


def test_another_version_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
            "This process on node 192.0.2.2 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
        )

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match=r"Python: 3\.11\.7 This process .* Python: 3\.12\.1") as caught:
        connect("auto")
    assert "--address local" in (caught.value.advice or "")


def test_the_command_runs_as_a_job(head: Head, model: Path) -> None:
    job = subprocess.run(
        [*RAY, "job", "submit", "--address", head.dashboard_url, "--", "hubdist", "prefetch", str(model)],
        env=dict(head.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert job.returncode == 0, job.stdout
    assert f"{head.environment['XDG_CACHE_HOME']}/hubdist/snapshots/" in job.stdout


def test_status_shows_nodes_and_models_of_all_jobs(tmp_path: Path, model: Path) -> None:
    import hubdist

    with RayCluster(tmp_path, nodes=3, log_to_driver=False) as cluster:
        hubdist.init(store=cluster.store)
        report = hubdist.prefetch(model)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        found = json.loads(run(environment, "status", "--json").stdout)
        shown = run(environment, "status").stdout
    (job,) = found["jobs"]
    assert sorted(found["nodes"]) == sorted(node.name for node in report.nodes)
    assert [pin["digest"] for pin in job["status"]["pins"]] == [report.pins[0].digest]
    assert {node["name"]: node["route"] for node in job["status"]["deliveries"]} == {
        node.name: str(node.route) for node in report.nodes
    }
    for node in report.nodes:
        (line,) = [line for line in shown.splitlines() if line.startswith(node.name)]
        assert line.split()[1] == str(node.route)
