"""A cluster of two hosts that see nobody but each other: models come by one file, and load offline on both."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubdist.testing.hub import LoopbackHub
from tests.support.command_line import run_hubdist
from tests.support.net_hosts import NetHosts, net_hosts, why_not
from tests.support.ray_head import RAY, end_family

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.root,
    pytest.mark.tf,
    pytest.mark.skipif(why_not() is not None, reason=f"hosts with networks of their own: {why_not()}"),
]

PORT = 6379
START_S = 90.0
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}

_LOAD = """
import json, os, socket, sys, ray, hubdist

handle, store, hub = sys.argv[1:]
ray.init(address=os.environ["HEAD"], log_to_driver=False)
hubdist.init(store=store, offline=True)

@ray.remote(num_cpus=1)
def load(handle, hub):
    try:
        socket.create_connection(("127.0.0.1", int(hub)), timeout=5)
    except OSError:
        pass
    else:
        raise AssertionError("the hub can be reached from here")
    import tensorflow as tf
    found = hubdist.load(handle)(tf.constant(["one", "two", "unknown"])).numpy().tolist()
    where = hubdist.resolve(handle)
    return ray.util.get_node_ip_address(), found, where

nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
tasks = [load.options(scheduling_strategy=strategy(node, soft=False)).remote(handle, hub) for node in nodes]
print(json.dumps(ray.get(tasks, timeout=180)))
"""


@contextlib.contextmanager
def ray_node(hosts: NetHosts, name: str, *options: str) -> Iterator[None]:
    """A Ray node on a host; it has started when this is entered."""
    start = [*RAY, "start", "--block", "--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000"]
    start += [f"--node-ip-address={hosts.addresses[name]}", "--min-worker-port=0", "--max-worker-port=0", *options]
    process = subprocess.Popen(
        [*hosts.command(name), *start],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said, deadline = b"", time.monotonic() + START_S
        while b"--block" not in said:
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(process.stdout.fileno(), 1 << 16) if readable else b""
            assert part, said.decode(errors="replace")
            said += part
        yield
    finally:
        end_family(process)


@pytest.fixture
def hosts() -> Iterator[NetHosts]:
    with net_hosts("head", "worker") as hosts:
        yield hosts


@pytest.fixture
def head(hosts: NetHosts) -> Iterator[str]:
    """The address of a cluster of two hosts."""
    folder = Path(tempfile.mkdtemp(prefix="rn-"))  # the paths of Ray's sockets may have 107 bytes
    address = f"{hosts.addresses['head']}:{PORT}"
    try:
        with (
            ray_node(hosts, "head", "--head", f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false"),
            ray_node(hosts, "worker", f"--address={address}"),
        ):
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(400)
def test_what_was_imported_loads_offline_on_both_hosts(
    hosts: NetHosts, head: str, hub: LoopbackHub, models: Path, tmp_path: Path
) -> None:
    files = {
        str(path.relative_to(models / "tf2")): path.read_bytes()
        for path in (models / "tf2").rglob("*")
        if path.is_file()
    }
    handle = hub.add_model("acme/table/1", files)
    exported = run_hubdist("export", tmp_path / "models.tar", handle, "--address", "local", "--json")
    assert exported.returncode == 0, exported.stderr
    reads, store = hub.reads(handle), f"{tmp_path}/stores/{{node_id}}"
    inside = hosts.command("head")
    environment = {**os.environ, **ENVIRONMENT, "HEAD": head}
    hubdist = [*inside, sys.executable, "-m", "hubdist"]
    options = ["--address", head, "--set", f"store={store}", "--json"]
    imported = subprocess.run(
        [*hubdist, "import", tmp_path / "models.tar", *options],
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["models"][0]["digest"] == json.loads(exported.stdout)["models"][0]["digest"]
    loaded = subprocess.run(
        [*inside, sys.executable, "-c", _LOAD, handle, store, hub.url.rpartition(":")[2]],
        env=environment,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr.decode()
    found = json.loads(loaded.stdout.splitlines()[-1])
    assert {address for address, _, _ in found} == set(hosts.addresses.values())
    assert [values for _, values, _ in found] == [[[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]] * 2
    digest = json.loads(exported.stdout)["models"][0]["digest"].removeprefix("sha256:")
    folders = {Path(where) for _, _, where in found}
    assert {folder.parent.name for folder in folders} == {digest}
    assert len(folders) == 2
    assert hub.reads(handle) == reads
