"""Jobs on a cluster of two nodes with Ray's token authentication: the command, entrypoints, uv, and private servers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY
from tests.support.ray_head import RAY, Head, ray_head, ray_worker
from tests.support.recorder import DATA, Recorder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

RAY_TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = "s3cr3t-0f-the-driver"
PASSWORD = "p4ssw0rd-0f-bob"
FILES = {"weights.bin": bytes(range(256)) * 20_000}
SIZE = len(FILES["weights.bin"])

USE = """
import os, sys, pathlib, ray, hubdist

@ray.remote(num_cpus=0.1)
def use(handle):
    path = hubdist.resolve(handle)
    return path, pathlib.Path(path, "weights.bin").stat().st_size

ray.init()
kinds = [use.options(resources={name: 0.1}).remote(sys.argv[1]) for name in ("first", "second")]
print("USED", *ray.get(kinds))
print("COORDINATOR", hubdist.status().coordinator)
print("DRIVER", ray.get_runtime_context().get_node_id())
print("ENTRYPOINT", os.environ["XDG_CACHE_HOME"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN}
    with (
        ray_head(folder / "head", environment=token, resources={"first": 1}) as running,
        ray_worker(running, folder / "worker", resources={"second": 1}, labels="place=second"),
    ):
        yield running


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


def submit(head: Head, command: list[str], *options: str, working_dir: Path | None = None) -> str:
    """Run `ray job submit`; what it printed, if the job succeeded."""
    where = [] if working_dir is None else ["--working-dir", str(working_dir)]
    done = subprocess.run(
        [*RAY, "job", "submit", "--address", head.dashboard_url, *where, *options, "--", *command],
        env=dict(head.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def script(folder: Path) -> Path:
    place = folder / "job"
    place.mkdir()
    (place / "use.py").write_text(USE, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def runtime_env(folder: Path) -> Path:
    """configs/runtime-env.yaml, without `pip`, whose packages are here."""
    content = yaml.safe_load((REPOSITORY / "configs" / "runtime-env.yaml").read_text(encoding="utf-8"))
    del content["pip"]
    place = folder / "runtime-env.yaml"
    place.write_text(yaml.safe_dump(content), encoding="utf-8")
    return place


def test_a_job_uses_what_an_earlier_job_has_brought_to_all_nodes(
    head: Head, hub: LoopbackHub, script: Path, runtime_env: Path, folder: Path
) -> None:
    handle = hub.add_model("acme/used/1", FILES)

    submit(head, ["hubdist", "prefetch", handle], "--runtime-env", str(runtime_env))
    assert hub.reads(handle) == 1
    said = submit(head, ["python", "use.py", handle], "--runtime-env", str(runtime_env), working_dir=script)

    assert hub.reads(handle) == 1
    for node in ("head", "worker"):
        assert re.search(rf"USED .*{re.escape(str(folder / node))}/cache/hubdist/\S+', {SIZE}", said), said


def test_an_entrypoint_on_a_worker_node_uses_hubdist_from_there(
    head: Head, hub: LoopbackHub, script: Path, folder: Path
) -> None:
    handle = hub.add_model("acme/elsewhere/1", FILES)

    said = submit(
        head, ["python", "use.py", handle], "--entrypoint-label-selector", '{"place": "second"}', working_dir=script
    )

    # Both nodes have one address here, so Ray takes the first of them for the driver's; its variables are the second's.
    assert f"ENTRYPOINT {folder / 'worker' / 'cache'}\n" in said
    (driver,) = re.findall(r"^DRIVER (\w+)$", said, re.MULTILINE)
    (coordinator,) = re.findall(r"^COORDINATOR \S+/(\w+)$", said, re.MULTILINE)
    assert driver.startswith(coordinator)
    assert said.count(str(SIZE)) == 2
    assert hub.reads(handle) == 1


def asked(head: Head, path: str) -> Any:
    request = urllib.request.Request(head.dashboard_url + path, headers={"Authorization": f"Bearer {RAY_TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_nodes_without_hubdist_get_it_with_the_job(head: Head, hub: LoopbackHub, script: Path, folder: Path) -> None:
    handle = hub.add_model("acme/brought/1", FILES)
    absent = folder / "absent"
    (absent / "hubdist").mkdir(parents=True)
    (absent / "hubdist" / "__init__.py").write_text("raise ImportError('hubdist is not here')\n", encoding="utf-8")
    without: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(absent)}}

    with pytest.raises(AssertionError, match="hubdist is not here"):
        submit(head, ["python", "use.py", "-"], "--runtime-env-json", json.dumps(without), working_dir=script)
    brought = {**without, "py_modules": [str(REPOSITORY / "hubdist")]}
    said = submit(head, ["python", "use.py", handle], "--runtime-env-json", json.dumps(brought), working_dir=script)

    assert said.count(str(SIZE)) == 2
    assert hub.reads(handle) == 1


def test_a_driver_of_uv_run_and_its_workers_have_one_environment(head: Head, hub: LoopbackHub, script: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{head.environment['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    handle = hub.add_model("acme/uv/1", FILES)
    done = subprocess.run(
        [uv, "run", "--offline", "--no-project", "--python", sys.executable, "use.py", handle],
        cwd=script,
        env={**head.environment, "RAY_ADDRESS": head.address, "PATH": f"{Path(uv).parent}:{head.environment['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(str(SIZE)) == 2
    assert hub.reads(handle) == 1


@pytest.fixture
def private() -> Iterator[tuple[Recorder, Recorder]]:
    import base64

    by_header, by_login = Recorder(), Recorder()
    by_header.wants = f"Bearer {SECRET}"
    by_login.wants = "Basic " + base64.b64encode(f"bob:{PASSWORD}".encode()).decode()
    yield by_header, by_login
    by_header.close()
    by_login.close()


def test_secrets_of_the_driver_reach_private_servers_and_nothing_else(
    head: Head, private: tuple[Recorder, Recorder], tmp_path: Path, folder: Path
) -> None:
    by_header, by_login = private
    logins = tmp_path / "logins"
    logins.write_text(f"machine 127.0.0.1 login bob password {PASSWORD}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.private_driver", head.address, by_header.url, by_login.url],
        cwd=REPOSITORY,
        env={**head.environment, "HUB_TOKEN": SECRET, "NETRC": str(logins)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "SAID " in done.stdout, done.stdout + done.stderr
    said = json.loads(done.stdout.partition("SAID ")[2])

    assert "asked with the header Authorization of variable HUB_TOKEN, on node " in said["plans"][0]
    assert f"asked with the login bob of {logins}, on node " in said["plans"][1]
    for path in (*said["paths"], *said["again"]):  # those of `again` after Ray had started the coordinator again
        assert next(Path(path).glob("*.onnx")).read_bytes() == DATA
    # `localhost` is the same server under another name, for which nothing is set.
    assert re.search(r"answered 403, asked anonymously.*; on node \S+/\w+\. Give credentials", said["refused"])
    for word in ("constructor arguments in the object store", "blocking ray.get"):  # of Ray, which would frighten
        assert word not in done.stdout + done.stderr
    everything = [done.stdout, done.stderr, *shown_by(head)]
    everything += [path.read_text(errors="replace") for path in head.logs.parent.rglob("*") if path.is_file()]
    everything += [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert any("hubdist" in text for text in everything)
    for secret in (SECRET, PASSWORD, by_login.wants or ""):
        assert not [text[:200] for text in everything if secret in text]


def shown_by(head: Head) -> Iterator[str]:
    """What Ray's dashboard shows of jobs, actors, tasks and environments."""
    for kind in ("actors", "tasks", "workers", "objects", "runtime_envs", "jobs"):
        yield json.dumps(asked(head, f"/api/v0/{kind}?detail=1&limit=10000"))
    yield json.dumps(asked(head, "/api/jobs/"))
