"""`hubdist doctor` on prepared faults: each is found, on its node, with what to do; the rest is well."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support import REPOSITORY
from tests.support.doctor_cluster import Findings, doctor, findings_of, names_of, only, ray_node
from tests.support.gcs import fake_gcs
from tests.support.ray_head import Head, ray_head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_OTHER_USER = 1000660000
_CLOCK = """
import sys, time
if any("default_worker" in word for word in sys.orig_argv):  # a raylet would not start
    real = time.time
    time.time = lambda: real() + 3600
"""


@dataclass(frozen=True)
class Examined:
    """What doctor said of the cluster.

    Attributes:
        code: The exit code.
        findings: The findings.
        names: What each node is for -> its name.
        human: The same for people, as in a pipe.
        seconds: How long it took.
    """

    code: int
    findings: Findings
    names: dict[str, str]
    human: str
    seconds: float


@contextlib.contextmanager
def refusing_storage() -> Iterator[str]:
    """A storage that gives nobody anything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def may_mount() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10, check=False)
    return os.geteuid() == 0 and done.returncode == 0


def prepare(folder: Path) -> str:
    """What nodes find on their disks; the paths of Python's modules."""
    for name in ("old/hubdist", "late", "poor-cache", "full-cache", "late-cache", "packages/only_here"):
        (folder / name).mkdir(parents=True)
    (folder / "old/hubdist/__init__.py").write_text('__version__ = "0.0.9"\n')
    (folder / "late/sitecustomize.py").write_text(_CLOCK)
    (folder / "packages/only_here/__init__.py").write_text("")
    if os.geteuid() == 0:
        for path in ("hubdist", "hubdist/hubdist-0"):  # root may make a directory in the first
            (folder / "poor-cache" / path).mkdir()
            os.chown(folder / "poor-cache" / path, _OTHER_USER, 0)
    return f"{REPOSITORY}:{folder / 'packages'}"


@contextlib.contextmanager
def faulty_nodes(folder: Path, address: str, env: dict[str, str], packages: str, refusing: str) -> Iterator[None]:
    """Four nodes, each with faults of its own."""
    caches = {name: {"XDG_CACHE_HOME": str(folder / f"{name}-cache")} for name in ("late", "poor", "full")}
    changes = {
        "old": {"PYTHONPATH": f"{folder / 'old'}:{packages}"},
        "late": {"PYTHONPATH": f"{folder / 'late'}:{packages}", **caches["late"]},
        "poor": {"PYTHONPATH": str(REPOSITORY), "STORAGE_EMULATOR_HOST": refusing, **caches["poor"]},
        "full": caches["full"],
    }
    disk = folder / "full-cache"
    fill = [f"mount -t tmpfs -o size=8m,mode=700 tmpfs {disk}", f"(head -c 16M /dev/zero > {disk}/rest || true)"]
    with contextlib.ExitStack() as stack:
        for name, changed in changes.items():
            options = f"--address={address}", f"--resources={json.dumps({name: 1})}"
            filled = name == "full" and may_mount()
            inside = ("unshare", "--mount", "--propagation", "private") if filled else ()
            before = fill if filled else ()
            stack.enter_context(ray_node({**env, **changed}, *options, before=before, inside=inside))
        yield


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examined]:
    """Five nodes: `well`, `old` (hubdist), `late` (clock), `poor` (bucket, store, package) and `full` (disk)."""
    folder = tmp_path_factory.mktemp("doctor")
    packages = prepare(folder)
    with contextlib.ExitStack() as stack:
        storage = stack.enter_context(fake_gcs())
        storage.make_bucket("models")
        storage.put("models", "one/saved_model.pb", b"model")
        refusing = stack.enter_context(refusing_storage())
        url = stack.enter_context(LoopbackHub()).add_model("/team/model", {"saved_model.pb": b"model"})
        own = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "PYTHONPATH": packages}
        head = stack.enter_context(ray_head(folder, resources={"well": 1}, environment=own))
        env = dict(head.environment)
        stack.enter_context(faulty_nodes(folder, head.address, env, packages, refusing))
        names = names_of(head.address, env, "well", "old", "late", "poor", "full")
        with socket.create_server(("127.0.0.1", 0)) as free:
            dead = f"http://127.0.0.1:{free.getsockname()[1]}/team/model"
        arguments = ["--address", head.address, "--set", "imports=[only_here]"]
        arguments += [url, dead, "gs://models/one", "az://container/directory"]
        begun = time.monotonic()
        code, out, err = doctor("--json", *arguments, environment=env)
        seconds = time.monotonic() - begun
        assert out, err
        _, human, _ = doctor(*arguments, environment=env)
        yield Examined(code, findings_of(out), names, human, seconds)


def test_it_ends_soon_and_with_a_failure(examined: Examined) -> None:
    assert examined.code == 1
    assert examined.seconds < 60


def test_another_version_on_a_node(examined: Examined) -> None:
    found = next(each for each in examined.findings if each["found"].startswith("hubdist 0.0.9, but "))
    assert (found["level"], found["node"]) == ("fail", examined.names["old"])
    assert "Install hubdist" in found["mend"]


def test_a_clock_an_hour_off(examined: Examined) -> None:
    found = only(examined.findings, "clock")
    assert (found["level"], found["node"]) == ("fail", examined.names["late"])
    assert "60 min ahead of" in found["found"]
    assert "NTP" in found["mend"]


def test_no_access_to_a_bucket_on_one_node(examined: Examined) -> None:
    found = [each for each in examined.findings if each["check"] == "origin" and "gs://models" in each["found"]]
    levels = {each["node"]: each["level"] for each in found}
    refused = examined.names["poor"]
    assert levels.pop(refused) == "warn"
    assert set(levels.values()) == {"ok"}
    assert examined.names["well"] in levels
    mend = next(each["mend"] for each in found if each["node"] == refused)
    assert "For the route direct, give this node the right" in mend


def test_a_module_that_one_node_lacks(examined: Examined) -> None:
    found = [each for each in examined.findings if "only_here" in each["found"]]
    assert [(each["node"], each["level"]) for each in found] == [(examined.names["poor"], "fail")]
    assert "Install the package" in found[0]["mend"]


def test_a_package_that_a_handle_needs(examined: Examined) -> None:
    levels = {each["node"]: each["level"] for each in examined.findings if "package adlfs is missing" in each["found"]}
    assert levels.pop(examined.names["well"]) == "fail"
    assert set(levels.values()) == {"warn"}
    assert any(each["mend"] == "Run there: pip install adlfs" for each in examined.findings)


def test_a_dead_hub(examined: Examined) -> None:
    found = only([each for each in examined.findings if "refused" in each["found"]], "origin")
    assert (found["level"], found["node"]) == ("fail", examined.names["well"])
    assert "DNS, firewalls, HTTPS_PROXY" in found["mend"]


def test_a_hub_that_lives_is_read_by_the_drivers_node_alone(examined: Examined) -> None:
    found = [each for each in examined.findings if "team/model" in each["found"] and each["level"] == "ok"]
    assert [each["node"] for each in found] == [examined.names["well"]]


def test_a_store_of_another_user(examined: Examined) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a directory of another user")
    found = only(examined.findings, "store-rights")
    assert (found["level"], found["node"]) == ("fail", examined.names["poor"])
    assert f"belongs to user {_OTHER_USER}" in found["found"]
    assert "set store (HUBDIST_STORE) to" in found["mend"]


def test_a_full_disk(examined: Examined) -> None:
    if not may_mount():
        pytest.skip("needs root and mount namespaces")
    found = only(examined.findings, "store-space")
    assert (found["level"], found["node"]) == ("fail", examined.names["full"])
    assert "full" in found["found"]
    assert "Free space" in found["mend"]


def test_nodes_reach_each_others_ports(examined: Examined) -> None:
    ports = [each for each in examined.findings if each["check"] == "ports"]
    assert {each["node"] for each in ports} == set(examined.names.values()) - {examined.names["old"]}
    assert {each["found"] for each in ports} == {"its port is reached by 3 other nodes"}


def test_the_healthy_node_has_no_fault_of_its_own(examined: Examined) -> None:
    bad = [each for each in examined.findings if each["node"] == examined.names["well"] and each["level"] != "ok"]
    assert {each["check"] for each in bad} == {"versions", "origin"}  # adlfs, and the dead hub


def test_people_read_each_fault_and_a_count(examined: Examined) -> None:
    failures = [each for each in examined.findings if each["level"] == "fail"]
    for each in failures:
        if not each["check"].startswith(("store-space", "limits")):  # free bytes differ from run to run
            assert each["found"] in examined.human
            assert f"→ {each['mend']}" in examined.human
    assert examined.human.splitlines()[-1].endswith(f"{len(failures)} failures")


RIGHT, WRONG = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that wants the token RIGHT."""
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RIGHT}
    with ray_head(tmp_path_factory.mktemp("guarded"), environment=environment) as head:
        yield head


@pytest.mark.parametrize("way", ["wrong", "missing", "off"])
def test_a_token_that_is_wrong_is_said_soon_and_the_rest_is_checked(guarded: Head, tmp_path: Path, way: str) -> None:
    tokens = {
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": WRONG},
        "missing": {"RAY_AUTH_MODE": "token"},
        "off": {"RAY_AUTH_MODE": "disabled"},
    }[way]
    env = {name: value for name, value in guarded.environment.items() if not name.startswith("RAY_AUTH")}
    env |= {"HOME": str(tmp_path), **tokens}
    begun = time.monotonic()
    code, out, err = doctor("--json", "--address", guarded.address, environment=env)
    assert time.monotonic() - begun < 20, err
    assert RIGHT not in out + err
    assert WRONG not in out + err
    assert code == 1
    found = only(findings_of(out), "ray")
    assert found["level"] == "fail"
    assert "RAY_AUTH_TOKEN" in found["mend"]
    assert "token" in found["found"]
    assert {"store-speed", "limits-files"} <= {each["check"] for each in findings_of(out)}


def test_the_right_token_opens_all_checks(guarded: Head) -> None:
    code, out, _ = doctor("--json", "--address", guarded.address, environment=dict(guarded.environment))
    assert code == 0, out


@pytest.mark.parametrize("form", ["{}", "ray://{}", "nonsense"])
@pytest.mark.parametrize("by", ["option", "variable"])
def test_no_ray_at_the_address(tmp_path: Path, form: str, by: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = form.format(f"127.0.0.1:{free.getsockname()[1]}")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env |= {"RAY_ADDRESS": address} if by == "variable" else {}
    begun = time.monotonic()
    code, out, _ = doctor("--json", *(["--address", address] if by == "option" else []), environment=env)
    assert time.monotonic() - begun < 20
    assert code == 1
    assert "is not reached" in only(findings_of(out), "ray")["found"]
    assert json.loads(out)["counts"]["fail"] == 1


def test_a_limit_of_64_open_files(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    code, out, err = doctor("--json", "--address", "local", environment=env, before="ulimit -n 64")
    assert code == 1, err
    found = only(findings_of(out), "limits-files")
    assert found["level"] == "fail"
    assert "64 files" in found["found"]
    assert "ulimit -n" in found["mend"]
