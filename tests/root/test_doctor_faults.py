"""`hubdist doctor` on faults that only root can prepare: a packet filter between nodes, a store of another user."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.doctor_cluster import doctor, findings_of, only, ray_node
from tests.support.net_hosts import NetHosts, net_hosts, why_not
from tests.support.owners import ME, OTHER, base, run_as

__all__ = ["base"]  # a fixture

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PORTS = "30500-30999"
HEAD_PORT = 30400


@pytest.fixture
def hosts() -> Iterator[NetHosts]:
    if why_not() is not None:
        pytest.skip(f"hosts with networks of their own: {why_not()}")
    with net_hosts("one", "two") as hosts:
        yield hosts


@pytest.mark.cluster
def test_a_port_that_a_filter_closes(tmp_path: Path, hosts: NetHosts) -> None:
    one, two = (hosts.addresses[name] for name in ("one", "two"))
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    root = Path(tempfile.mkdtemp(prefix="rd-"))  # the paths of Ray's sockets may have 107 bytes
    head = [f"--port={HEAD_PORT}", "--include-dashboard=false", f"--temp-dir={root}", "--head"]
    ask = ["--json", "--address", f"{one}:{HEAD_PORT}", "--set", f"data_ports={PORTS}"]
    try:
        with (
            ray_node(env, *head, f"--node-ip-address={one}", inside=hosts.command("one")),
            ray_node(
                env,
                f"--address={one}:{HEAD_PORT}",
                f"--node-ip-address={two}",
                f"--resources={json.dumps({'two': 1})}",
                inside=hosts.command("two"),
            ),
        ):
            code_open, open_ports, err = doctor(*ask, environment=env, inside=hosts.command("one"))
            hosts.drop("one", "two", f"tcp dport {PORTS}")
            code, closed, _ = doctor(*ask, environment=env, inside=hosts.command("one"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert code_open == 0, open_ports + err
    assert code == 1
    found = only(findings_of(closed), "ports")
    assert found["level"] == "fail"
    assert found["node"].startswith(f"{two}/")
    assert f"not reached from {one}/" in found["found"]
    assert "data_ports" in found["mend"]
    assert "data_port: off" in found["mend"]


def test_a_store_of_another_user(base: Path) -> None:
    store = base / "store"
    store.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(store, OTHER, 0)
    work = """
from click.testing import CliRunner
from hubdist.cli.main import hubdist_command
print(CliRunner().invoke(hubdist_command, ["doctor", "--address", "local", "--set", f"store={root}"]).output)
"""
    said = run_as(ME, work, store, HOME="/")
    assert "fail" in said
    assert f"{store} cannot be the store: user {OTHER} owns it" in said
    assert f"→ Set store (HUBDIST_STORE) to a directory that user {ME} may write to, such as /tmp/hubdist-{ME}" in said
