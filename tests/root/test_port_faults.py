"""Ports behind packet filters and hosts that vanish: right bytes, soon, and only those who must pay for it; no Ray."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.delivery.routes import Route
from hubdist.model.manifest import Manifest
from tests.support.fake_agents import DRIVER, QUICK, FakeNodes, fake_nodes, run
from tests.support.net_hosts import NetHosts, net_hosts, why_not

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.skipif(why_not() is not None, reason=f"hosts with networks of their own: {why_not()}"),
]

MIB = 1 << 20
PORTS = "30500-30999"
NAMES = ("a", "b", "c")
ENDED: dict[str, float] = {}
"""When each node of the last delivery had the model, or had failed."""


@pytest.fixture
def hosts() -> Iterator[NetHosts]:
    with net_hosts(DRIVER, *NAMES, rate="80mbit") as hosts:
        yield hosts


@pytest.fixture
def nodes(tmp_path: Path, hosts: NetHosts) -> Iterator[FakeNodes]:
    with fake_nodes(tmp_path, *NAMES, host=hosts.addresses, data_ports=PORTS) as nodes:
        nodes.enter = hosts.enter
        yield nodes


def deliver(
    nodes: FakeNodes, manifest: Manifest, *, after_s: float = 0.0, happens: Callable[[], None] | None = None
) -> dict[str, DeliveryStats | BaseException | None]:
    """Bring a model to all nodes; something happens meanwhile."""
    running = RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)
    found: dict[str, DeliveryStats | BaseException | None] = {}

    async def bring(name: str) -> None:
        try:
            found[name] = await running.join_delivery(manifest, nodes.nodes[name], Route.DRIVER, None)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[name] = error
        ENDED[name] = time.monotonic()

    async def work() -> None:
        bringing = [asyncio.create_task(bring(name)) for name in NAMES]
        if happens is not None:
            await asyncio.sleep(after_s)
            await asyncio.to_thread(happens)
        await asyncio.wait(bringing, timeout=25)
        for task in bringing:
            task.cancel()

    run(work)
    return found


def model(nodes: FakeNodes, mib: int) -> Manifest:
    return nodes.publish(DRIVER, {"saved_model.pb": os.urandom(mib * MIB), "other": b"bytes"})


def closed(found: dict[str, DeliveryStats | BaseException | None]) -> dict[str, set[str]]:
    """Node -> the nodes whose ports it could not reach."""
    return {name: set(each.closed_ports) for name, each in found.items() if isinstance(each, DeliveryStats)}


@pytest.mark.parametrize("ways", [[("b", "c")], [("b", "c"), ("c", "b")], [(DRIVER, "a"), ("a", DRIVER)]])
def test_a_port_that_some_cannot_reach_costs_only_them(
    hosts: NetHosts, nodes: FakeNodes, ways: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = model(nodes, 12)
    for sender, receiver in ways:
        hosts.drop(sender, receiver, f"tcp dport {PORTS}")
    begin = time.monotonic()
    found = deliver(nodes, manifest)
    assert time.monotonic() - begin < 20
    assert all(nodes.has(name, manifest) for name in NAMES), found
    said = [record.getMessage() for record in caplog.records if "by calls of Ray" in record.getMessage()]
    # Of so few nodes each gets a stripe from each other one, and the driver gets none.
    cannot = {(name, f"node {other}") for name, other in ways if name != DRIVER}
    assert {(name, other) for name, others in closed(found).items() for other in others} == cannot
    assert len(said) == len(cannot)


@pytest.mark.parametrize("ways", [[("b", "c")], [("b", "c"), ("c", "b")]])
def test_a_filter_that_comes_in_the_middle_delays_by_seconds(
    hosts: NetHosts, nodes: FakeNodes, ways: list[tuple[str, str]]
) -> None:
    manifest = model(nodes, 30)

    def cut() -> None:
        for sender, receiver in ways:
            hosts.drop(sender, receiver)

    begin = time.monotonic()
    found = deliver(nodes, manifest, after_s=1.5, happens=cut)
    assert time.monotonic() - begin < 30
    assert all(nodes.has(name, manifest) for name in NAMES), found


def test_a_host_that_vanishes_in_the_middle_delays_others_by_seconds(hosts: NetHosts, nodes: FakeNodes) -> None:
    manifest = model(nodes, 30)

    def vanish() -> None:
        hosts.unplug("a")
        nodes.stop("a")

    ended = time.monotonic() + 30
    found = deliver(nodes, manifest, after_s=1.5, happens=vanish)
    assert isinstance(found["b"], DeliveryStats), found
    assert isinstance(found["c"], DeliveryStats), found
    assert max(ENDED["b"], ENDED["c"]) < ended
    assert not nodes.has("a", manifest)
