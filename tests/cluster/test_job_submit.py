"""examples/job_submit, submitted to a head node as its README says."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import REPOSITORY
from tests.support.gcs import FakeGcs, fake_gcs
from tests.support.ray_head import RAY, Head, ray_head

EXAMPLE = REPOSITORY / "examples" / "job_submit"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def gcs() -> Iterator[FakeGcs]:
    with fake_gcs() as server:
        server.make_bucket("my-bucket")
        yield server


@pytest.fixture(scope="module")
def head(gcs: FakeGcs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head")) as running:
        yield running


def submit(head: Head, folder: Path, handle: str, *more: str, environment: str = "runtime_env.yaml") -> tuple[int, str]:
    """Run the README's command for this file, but with this handle and without `pip`, whose packages are here.

    Returns:
        The command's exit status, and what it printed.
    """
    runtime_env = yaml.safe_load((EXAMPLE / environment).read_text(encoding="utf-8"))
    del runtime_env["pip"]
    without_pip = folder / "runtime_env.yaml"
    without_pip.write_text(yaml.safe_dump(runtime_env), encoding="utf-8")
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    ray (job submit (?:.*\\\n)*.*)", text, flags=re.MULTILINE)
    (command,) = [command for command in commands if f" {environment} " in command]
    arguments = shlex.split(command.replace("\\\n", " "))
    for old, new in {
        "http://HEAD:8265": head.dashboard_url,
        environment: str(without_pip),
        arguments[-1]: handle,
    }.items():
        arguments[arguments.index(old)] = new
    job = subprocess.run(
        [*RAY, *arguments, *more],
        cwd=EXAMPLE,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    return job.returncode, job.stdout


@pytest.mark.tf
def test_the_submitted_job_loads_the_model_in_tasks_and_succeeds(head: Head, tmp_path: Path, models: Path) -> None:
    status, said = submit(head, tmp_path, str(models / "tf2"), "--tasks", "2")

    assert status == 0, said
    # "hello" is not in the model's vocabulary: row -1 times its variable.
    answer = r"^[\d.]+/\w+ process \d+: loaded in [\d.]+ s; output_0 float32\[1, 2\]: -2\.0, -3\.0$"
    assert len(re.findall(answer, said, re.MULTILINE)) == 2, said
    assert f"store {head.environment['XDG_CACHE_HOME']}/hubdist" in said
    assert "origin read once" in said
    assert re.search(r"^OK: 2 equal answers from 1 node\(s\)$", said, re.MULTILINE), said
    assert re.search(r"Job '\w+' succeeded", said), said


@pytest.mark.tf
def test_the_submitted_job_with_a_bucket_fills_it_and_reads_a_bucket(
    head: Head, gcs: FakeGcs, tmp_path: Path, models: Path
) -> None:
    import gcsfs

    for path in (models / "tf2").rglob("*"):
        if path.is_file():
            gcs.put("my-bucket", f"my-model/{path.relative_to(models / 'tf2')}", path.read_bytes())
    environment = "runtime_env_gcs.yaml"
    status, said = submit(head, tmp_path, "gs://my-bucket/my-model", "--tasks", "1", environment=environment)
    bucket = gcsfs.GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)
    snapshots = bucket.find("my-bucket/hubdist/snapshots")

    assert status == 0, said
    assert "origin read once" in said
    assert re.search(r"^OK: 1 equal answers from 1 node\(s\)$", said, re.MULTILINE), said
    assert any(name.endswith("/saved_model.pb") for name in snapshots)


def test_a_job_whose_model_is_missing_fails_and_says_so(head: Head, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing-here")
    status, said = submit(head, tmp_path, missing, "--tasks", "1")

    assert status != 0, said
    assert "ModelNotFoundError" in said
    assert missing in said
    assert re.search(r"Job '\w+' failed", said), said
