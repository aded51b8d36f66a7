"""Chunks go from port to port; where a port cannot be reached they go by calls, which is logged once; without Ray."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from hubdist.cluster.agent.chunk_exchange import ChunkExchange
from hubdist.cluster.agent.node_port import NodePort, _key
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError
from hubdist.model.manifest import Manifest
from hubdist.remote.snapshot_copy import list_copy
from hubdist.store.store import Store
from tests.support.chunks import one_block
from tests.support.fake_agents import DRIVER, QUICK, FakeNodes, fake_nodes, run

MIB = 1 << 20
FILES = {"saved_model.pb": os.urandom(20 * MIB + 7), "a": b"x", "empty": b"", "b": os.urandom(3 * MIB)}


def deliveries(nodes: FakeNodes) -> RunningDeliveries:
    return RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)


async def bring(running: RunningDeliveries, nodes: FakeNodes, manifest: Manifest, *names: str) -> None:
    await asyncio.gather(*(running.join_delivery(manifest, nodes.nodes[name], Route.DRIVER, None) for name in names))


def content(nodes: FakeNodes, name: str, manifest: Manifest) -> dict[str, bytes]:
    snapshot = nodes.stores[name].find(manifest.digest)
    assert snapshot is not None
    with snapshot:
        return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in manifest.entries}


def test_bytes_go_from_port_to_port(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", "c") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        run(lambda: bring(deliveries(nodes), nodes, manifest, "a", "b", "c"))
        assert all(content(nodes, name, manifest) == FILES for name in "abc")
        assert not [call for call in nodes.calls if call[1].startswith("send")]


def test_without_ports_bytes_go_by_calls(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", data_port="off") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        run(lambda: bring(deliveries(nodes), nodes, manifest, "a", "b"))
        assert all(content(nodes, name, manifest) == FILES for name in "ab")
        assert nodes.calls[DRIVER, "send"]


def test_a_closed_port_is_said_once_and_other_nodes_keep_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_nodes(tmp_path, "a", "b") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        running = deliveries(nodes)

        async def work() -> None:
            await bring(running, nodes, manifest, "a")
            for actor in nodes.actors:
                if actor.node.id == DRIVER:
                    actor.port._server.stop()  # type: ignore[union-attr]  # it was opened
            await bring(running, nodes, manifest, "b")

        run(work)
        assert content(nodes, "b", manifest) == FILES
        said = [record for record in caplog.records if "by calls of Ray" in record.getMessage()]
        assert len(said) <= 1


def test_a_node_that_begins_again_sends_nothing_of_its_earlier_stage(tmp_path: Path) -> None:
    config, secret = Config(store=str(tmp_path / "store")), b"s" * 32
    port = NodePort("127.0.0.1")
    exchange = ChunkExchange(lambda: Store(tmp_path / "store"), config, port=port)
    try:
        for _ in range(2):
            assert exchange.begin("d", secret, None, None).address == port.address
            units = port._units[_key("d")]
            assert units.arrived == 0
            port.add("d", one_block(0, b"bytes"))
            assert units.arrived == 1
    finally:
        exchange.forget("d")
        port.stop()


def test_a_port_of_the_given_range_is_opened(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", data_ports="30123-30423") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        run(lambda: bring(deliveries(nodes), nodes, manifest, "a"))
        ports = [actor.port.address[1] for actor in nodes.actors if actor.port.address is not None]
        assert len(set(ports)) == 2
        assert all(30123 <= port <= 30423 for port in ports)


@pytest.mark.parametrize("ports", ["80-90", "30000", "40000-30000", "1-2-3", "30000-70000"])
def test_a_wrong_range_of_ports_is_refused(ports: str) -> None:
    with pytest.raises(ConfigError, match="data_ports"):
        Config(data_ports=ports)


@pytest.mark.parametrize(("encrypts", "opens"), [("1", False), ("true", False), ("0", True)])
def test_where_ray_encrypts_no_port_is_opened(monkeypatch: pytest.MonkeyPatch, encrypts: str, opens: bool) -> None:
    monkeypatch.setenv("RAY_USE_TLS", encrypts)
    assert Config().node_settings.opens_port is opens
    assert not Config(data_port="off").node_settings.opens_port


def test_what_a_node_read_from_storage_goes_on_by_its_port(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", "c") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        found = nodes.stores[DRIVER].find(manifest.digest)
        assert found is not None
        with found:
            copy = list_copy(str(found.path), nodes.config.deadlines)
        running = deliveries(nodes)

        async def work() -> None:
            await asyncio.gather(
                *(running.join_delivery(manifest, nodes.nodes[name], Route.SHARED, copy) for name in "abc")
            )

        begun = time.monotonic()
        run(work)
        assert time.monotonic() - begun < 30
        assert all(content(nodes, name, manifest) == FILES for name in "abc")
        assert not [call for call in nodes.calls if call[1].startswith("send")]
