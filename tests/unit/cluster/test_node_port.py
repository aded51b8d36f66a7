"""Chunks go from port to port; where a port cannot be reached they go by calls, which is logged once; without Ray."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.agent.chunk_exchange import ChunkExchange
from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.cluster.agent.node_port import NodePort, _key
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.config.node_settings import find_tls_files
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError, HubdistError, PeerError
from hubdist.model.manifest import Manifest
from hubdist.remote.snapshot_copy import list_copy
from hubdist.store.store import Store
from hubdist.streams.client import UnitStream
from tests.support.certificates import Authority
from tests.support.chunks import one_block
from tests.support.fake_agents import DRIVER, QUICK, FakeNodes, fake_nodes, run

MIB = 1 << 20
FILES = {"saved_model.pb": os.urandom(20 * MIB + 7), "a": b"x", "empty": b"", "b": os.urandom(3 * MIB)}


def deliveries(nodes: FakeNodes) -> RunningDeliveries:
    return RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)


async def bring(
    running: RunningDeliveries, nodes: FakeNodes, manifest: Manifest, *names: str
) -> list[DeliveryStats | None]:
    joining = (running.join_delivery(manifest, nodes.nodes[name], Route.DRIVER, None) for name in names)
    return await asyncio.gather(*joining)


def bring_all(nodes: FakeNodes, manifest: Manifest, *names: str) -> None:
    async def work() -> None:
        await bring(deliveries(nodes), nodes, manifest, *names)

    run(work)


def content(nodes: FakeNodes, name: str, manifest: Manifest) -> dict[str, bytes]:
    snapshot = nodes.stores[name].find(manifest.digest)
    assert snapshot is not None
    with snapshot:
        return {entry.path: (snapshot.path / entry.path).read_bytes() for entry in manifest.entries}


def test_bytes_go_from_port_to_port(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", "c") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        bring_all(nodes, manifest, "a", "b", "c")
        assert all(content(nodes, name, manifest) == FILES for name in "abc")
        assert not [call for call in nodes.calls if call[1].startswith("send")]


def test_without_ports_bytes_go_by_calls(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", data_port="off") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        bring_all(nodes, manifest, "a", "b")
        assert all(content(nodes, name, manifest) == FILES for name in "ab")
        assert nodes.calls[DRIVER, "send"]


def test_a_closed_port_is_said_once_and_other_nodes_keep_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_nodes(tmp_path, "a", "b") as nodes:
        models = [nodes.publish(DRIVER, FILES), nodes.publish(DRIVER, {"saved_model.pb": os.urandom(9 * MIB)})]
        running = deliveries(nodes)

        def close(name: str, _: tuple[Any, ...]) -> None:
            if name == DRIVER:
                [port] = [actor.port for actor in nodes.actors if actor.node.id == DRIVER]
                assert port._server is not None
                port._server.stop()

        nodes.after["hold"] = close
        received: list[DeliveryStats | None] = []

        async def work() -> None:
            for manifest in models:
                received.extend(await bring(running, nodes, manifest, "a", "b"))

        run(work)
        assert all(content(nodes, name, models[0]) == FILES and nodes.has(name, models[1]) for name in "ab")
        said = [record.getMessage() for record in caplog.records if "by calls of Ray" in record.getMessage()]
        assert len(said) == len(running.closed_ports.notes) == 2
        assert all("from node driver to" in line for line in said)
        noted = [stats.closed_ports for stats in received if stats]
        assert len(noted) == 4
        assert set(noted) <= {("node driver",), ()}  # a node may get all of one model from the other node
        assert ("node driver",) in noted[::2]
        assert ("node driver",) in noted[1::2]
        assert all("node a" in dict(stats.sources) or "node b" in dict(stats.sources) for stats in received if stats)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("spare", [8, 24, 64])
def test_with_few_descriptors_a_delivery_ends_with_right_bytes_or_a_clear_error(tmp_path: Path, spare: int) -> None:
    with fake_nodes(tmp_path, "a", "b") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        begun = time.monotonic()
        results: list[Any] = []

        async def work() -> None:
            running = deliveries(nodes)
            joining = (running.join_delivery(manifest, nodes.nodes[name], Route.DRIVER, None) for name in "ab")
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + spare, hard))
            try:
                results.extend(await asyncio.gather(*joining, return_exceptions=True))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        run(work)
        assert time.monotonic() - begun < 45
        for name, result in zip("ab", results, strict=True):
            assert isinstance(result, (DeliveryStats, HubdistError)), result
            assert nodes.has(name, manifest) is isinstance(result, DeliveryStats)
        bring_all(nodes, manifest, "a", "b")
        assert all(content(nodes, name, manifest) == FILES for name in "ab")


def test_a_node_that_begins_again_sends_nothing_of_its_earlier_stage(tmp_path: Path) -> None:
    config, secret = Config(store=str(tmp_path / "store")), b"s" * 32
    port = NodePort("127.0.0.1")
    exchange = ChunkExchange(lambda: Store(tmp_path / "store"), config, port=port)
    try:
        for _ in range(2):
            assert exchange.begin("d", None, DeliveryTerms(secret), None).address == port.address
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
        bring_all(nodes, manifest, "a")
        ports = [actor.port.address[1] for actor in nodes.actors if actor.port.address is not None]
        assert len(set(ports)) == 2
        assert all(30123 <= port <= 30423 for port in ports)


@pytest.mark.parametrize("ports", ["80-90", "30000", "40000-30000", "1-2-3", "30000-70000"])
def test_a_wrong_range_of_ports_is_refused(ports: str) -> None:
    with pytest.raises(ConfigError, match="data_ports"):
        Config(data_ports=ports)


ENCRYPTS = {"RAY_TLS_SERVER_CERT": "node.crt", "RAY_TLS_SERVER_KEY": "node.key", "RAY_TLS_CA_CERT": "ca.crt"}
FILES_OF_RAY = tuple(ENCRYPTS.values())


@pytest.mark.parametrize(("encrypts", "files"), [("1", FILES_OF_RAY), ("True", FILES_OF_RAY), ("0", None)])
def test_where_ray_encrypts_its_certificates_are_taken(
    monkeypatch: pytest.MonkeyPatch, encrypts: str, files: tuple[str, ...] | None
) -> None:
    for name, value in (ENCRYPTS | {"RAY_USE_TLS": encrypts}).items():
        monkeypatch.setenv(name, value)
    assert find_tls_files() == files


def test_bytes_between_ports_are_encrypted_where_ray_encrypts(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Authority(tmp_path_factory.mktemp("tls")).files("localhost")
    for name, value in zip(ENCRYPTS, files, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with fake_nodes(tmp_path, "a", "b") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        bring_all(nodes, manifest, "a", "b")
        ports = [actor.port for actor in nodes.actors if actor.port.address is not None]
        assert len(ports) == 3
        for port in ports:
            assert port.address is not None
            with pytest.raises(PeerError):  # it does not answer in plain words
                UnitStream(port.address, b"s" * 32, b"delivery")


def test_without_the_files_for_it_no_port_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (ENCRYPTS | {"RAY_USE_TLS": "1"}).items():
        monkeypatch.setenv(name, value)
    with fake_nodes(tmp_path, "a") as nodes:
        manifest = nodes.publish(DRIVER, FILES)
        bring_all(nodes, manifest, "a")
        assert [actor.port.address for actor in nodes.actors] == [None, None]
    assert "no port can be opened on 127.0.0.1" in caplog.text


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
