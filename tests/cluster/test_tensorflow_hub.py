"""Programs that know tensorflow_hub alone, on a cluster whose workers have hubdist behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist.testing.cluster import RayCluster
from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY
from tests.support.legacy import legacy_environment
from tests.support.ray_head import RAY, ray_head

pytestmark = pytest.mark.cluster

PROGRAM = REPOSITORY / "examples" / "unchanged_tensorflow_hub.py"
INTEGRATION = "hubdist.integrations.tensorflow_hub"
KEY = "worker_process_setup_hook"
BY_NAME = {KEY: f"{INTEGRATION}.install"}
BY_VARIABLE = {"RAY_RUNTIME_ENV_HOOK": f"{INTEGRATION}.install_everywhere"}
OWN_HOOK = "tests.support.hooked_workers.own_hook"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:  # of what the nodes' workers inherit
        patch.setenv("PYTHONPATH", legacy_environment()["PYTHONPATH"])
        patch.setenv("HUBDIST_STORE", str(folder / "stores" / "{node_id}"))
        with RayCluster(folder, nodes=3, cpus=1, log_to_driver=False) as running:
            yield running


@pytest.mark.tf
def test_an_unmodified_program_reads_the_hub_once_for_all_nodes(
    cluster: RayCluster, hub: LoopbackHub, models: Path
) -> None:
    handle = hub.add_model("acme/words/1", models / "tf2")
    settings = {**BY_VARIABLE, "RAY_ADDRESS": cluster.address}
    done = subprocess.run(
        [sys.executable, PROGRAM, handle, "--processes", "3", "--reference", str(models / "tf2")],
        env=legacy_environment() | settings,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len({answer["node"] for answer in answers}) == 3
    assert all(answer["answers"] == answer["reference"] for answer in answers)
    assert hub.reads(handle) == 1
    assert [len(list((cluster.store_of(node) / "snapshots").iterdir())) for node in cluster.node_ids] == [1, 1, 1]


def told(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What `hooked_workers` prints."""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=150, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, None, {"driver": 0, "installed": 0, "imported": [], "called": []}),
        ({}, BY_NAME, {"driver": 0, "installed": 1, "imported": [], "called": []}),
        (BY_VARIABLE, None, {"driver": 1, "installed": 1, "imported": [], "called": []}),
        (BY_VARIABLE, {KEY: OWN_HOOK}, {"driver": 1, "installed": 1, "imported": [], "called": ["own_hook"]}),
    ],
    ids=["nothing", "name", "variable", "variable and a hook that is there"],
)
def test_workers_install_it_at_their_start_and_import_nothing_for_it(
    cluster: RayCluster, variables: dict[str, str], given: dict[str, str] | None, expected: dict[str, Any]
) -> None:
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, **variables}
    command = [sys.executable, "-m", "tests.support.hooked_workers", *([] if given is None else [json.dumps(given)])]
    assert told(command, environment) == expected


@pytest.mark.timeout(400)
def test_a_submitted_job_installs_it_by_name_or_with_its_own_hook_and_in_the_driver_too(tmp_path: Path) -> None:
    with ray_head(tmp_path, environment={"PYTHONPATH": str(REPOSITORY)}) as head:

        def submitted(runtime_env: dict[str, Any]) -> dict[str, Any]:
            submit = [*RAY, "job", "submit", "--address", head.dashboard_url, "--runtime-env-json"]
            entrypoint = ["--", "python", "-m", "tests.support.hooked_workers"]
            return told([*submit, json.dumps(runtime_env), *entrypoint], dict(head.environment))

        by_name = submitted(BY_NAME)
        with_own_hook = submitted({KEY: OWN_HOOK, "env_vars": BY_VARIABLE})

    assert by_name == {"driver": 0, "installed": 1, "imported": [], "called": []}
    assert with_own_hook == {"driver": 1, "installed": 1, "imported": [], "called": ["own_hook"]}
