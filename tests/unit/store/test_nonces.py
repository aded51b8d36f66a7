"""Which nodes see the same store: by nonces in it, whoever asks first, whatever was copied."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.route_runner import RouteRunner
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups, StoreSharing
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import PeerError, StoreError
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport
from hubdist.store.nonces import Nonces
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree


@pytest.fixture
def nonces(tmp_path: Path) -> Nonces:
    return Nonces(Store(tmp_path / "store"))


def test_a_nonce_is_seen_in_its_own_store_until_it_is_hidden(nonces: Nonces, tmp_path: Path) -> None:
    shown = nonces.show()
    assert shown is not None
    assert Nonces(Store(tmp_path / "store")).find(["0" * 32, shown]) == shown
    assert Nonces(Store(tmp_path / "another")).find([shown]) is None
    nonces.hide(shown)
    assert nonces.find([shown]) is None


def test_no_nonce_is_shown_twice(nonces: Nonces) -> None:
    assert len({nonces.show() for _ in range(100)}) == 100


@pytest.mark.parametrize("name", ["", ".", "..", "../snapshots", "/etc/passwd", "f" * 31, "F" * 32])
def test_what_cannot_be_a_nonce_is_not_looked_for(nonces: Nonces, name: str) -> None:
    nonces.show()
    assert nonces.find([name]) is None


def test_nonces_that_nobody_removed_are_swept_after_a_day(nonces: Nonces, tmp_path: Path) -> None:
    old, new = nonces.show(), nonces.show()
    assert old is not None
    assert new is not None
    place = tmp_path / "store" / "nonces" / old
    day = place.stat().st_mtime - 25 * 3600
    os.utime(place, (day, day))
    nonces.show()
    assert nonces.find([old]) is None
    assert nonces.find([new]) == new


def test_where_nothing_can_be_written_no_nonce_is_shown_and_none_found(nonces: Nonces, tmp_path: Path) -> None:
    (tmp_path / "store" / "nonces").write_bytes(b"")
    assert nonces.show() is None
    assert nonces.find(["0" * 32]) is None


# Which nodes share a store


class Disks:
    """Agents that look into directories of this machine, as nodes with these disks would."""

    def __init__(self, **disks: Path) -> None:
        self.disks = disks
        self.losses: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.alive = set(disks)
        self.lost: set[str] = set()
        self.cluster = ClusterView(lambda: [node(name) for name in self.alive])

    async def call(self, node: Node, method: str, *args: Any, timeout_s: float) -> Any:
        self.calls[node.id] += 1
        if node.id in self.lost:
            raise PeerError("the node is gone")
        await asyncio.sleep(0)
        nonces = Nonces(Store(self.disks[node.id]))
        return nonces.show() if method == "show_nonce" else nonces.find(*args)

    def stores(self) -> StoreGroups:
        return StoreGroups(node("driver"), cast(AgentPool, self), Nonces(Store(self.disks["driver"])), self.cluster)


def node(name: str) -> Node:
    return Node(id=name, name=f"node {name}", address=name, is_head=name == "driver")


def ask(stores: StoreGroups, *names: str) -> list[str]:
    async def together() -> list[Node]:
        return await asyncio.gather(*(stores.first(node(name)) for name in names))

    return [first.id for first in asyncio.run(together())]


def test_a_node_that_sees_the_drivers_store_needs_nothing_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    disks = Disks(driver=home, a=home, b=tmp_path / "b")
    stores = disks.stores()
    assert ask(stores, "a", "driver", "b") == ["driver", "driver", "b"]
    assert stores.reason(node("driver")) == "it shares the driver's store"
    assert list((home / "nonces").iterdir()) == []  # what was shown for the question is gone


def test_of_nodes_that_share_a_store_one_is_first_whoever_asks(tmp_path: Path) -> None:
    nfs, other = tmp_path / "nfs", tmp_path / "other"
    names = [f"n{number}" for number in range(6)]
    disks = Disks(driver=tmp_path / "driver", **{name: (nfs, other)[int(name[1]) % 2] for name in names})
    stores = disks.stores()
    firsts = ask(stores, *names)
    assert len(set(firsts[::2])) == 1
    assert len(set(firsts[1::2])) == 1
    assert firsts[0] in names[::2]
    assert firsts[1] in names[1::2]
    assert ask(stores, *reversed(names)) == firsts[::-1]
    assert stores.reason(node(firsts[0])) == f"it shares the store of node {firsts[0]}"


def test_a_store_that_was_copied_with_its_nonces_is_another_one(tmp_path: Path) -> None:
    Nonces(Store(tmp_path / "driver")).show()
    disks = Disks(driver=tmp_path / "driver", a=tmp_path / "a", b=tmp_path / "b")
    for copy in ("a", "b"):
        shutil.copytree(tmp_path / "driver", tmp_path / copy)
    assert ask(disks.stores(), "a", "b") == ["a", "b"]


def test_a_node_is_asked_once_and_again_when_its_agent_was_lost(tmp_path: Path) -> None:
    disks = Disks(driver=tmp_path / "driver", a=tmp_path / "a")
    stores = disks.stores()
    assert ask(stores, "a", "a") == ["a", "a"]
    asked = disks.calls["a"]
    assert ask(stores, "a") == ["a"]
    assert disks.calls["a"] == asked
    disks.losses["a"] += 1
    disks.disks["a"] = tmp_path / "driver"
    assert ask(stores, "a") == ["driver"]


def test_a_node_that_is_gone_is_first_for_nobody(tmp_path: Path) -> None:
    nfs = tmp_path / "nfs"
    disks = Disks(driver=tmp_path / "driver", a=nfs, b=nfs, c=nfs)
    stores = disks.stores()
    assert ask(stores, "a") + ask(stores, "b", "c") == ["a", "a", "a"]
    disks.alive.remove("a")
    assert ask(stores, "b", "c") in (["b", "b"], ["c", "c"])  # whose answer came first


def test_the_first_node_stays_the_first_when_its_agent_was_lost(tmp_path: Path) -> None:
    nfs = tmp_path / "nfs"
    disks = Disks(driver=tmp_path / "driver", a=nfs, b=nfs)
    stores = disks.stores()
    assert ask(stores, "a") + ask(stores, "b") == ["a", "a"]
    disks.losses["a"] += 1
    assert ask(stores, "a", "b") == ["a", "a"]


def test_a_node_that_cannot_be_asked_is_an_error_that_is_not_kept(tmp_path: Path) -> None:
    disks = Disks(driver=tmp_path / "driver", a=tmp_path / "a")
    stores = disks.stores()
    disks.lost.add("a")
    with pytest.raises(PeerError):
        ask(stores, "a")
    disks.lost.clear()
    assert ask(stores, "a") == ["a"]


@pytest.mark.parametrize("name", ["driver", "a"])
def test_a_store_that_cannot_show_a_nonce_is_shared_by_nobody(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (Store(home).root / "nonces").write_bytes(b"")
    disks = Disks(driver=home, a=home)
    assert ask(disks.stores(), name) == [name]
    remove_tree(home)


@pytest.mark.parametrize(("fails", "sees"), [(False, True), (True, True), (False, False)])
def test_who_shares_a_store_waits_for_the_first_and_receives_if_that_does_not_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool, sees: bool
) -> None:
    nfs = tmp_path / "nfs"
    disks = Disks(driver=tmp_path / "driver", a=nfs, b=nfs)
    delivered = []

    class Agent(Disks):
        async def call(self, node: Node, method: str, *args: Any, timeout_s: float) -> Any:
            if method in ("holds", "look_again"):
                return sees and "a" in delivered and not fails
            return await disks.call(node, method, *args, timeout_s=timeout_s)

    async def deliver(digest: Digest, handle: str, to: Node, wanted: Route | None) -> NodeReport:
        delivered.append(to.id)
        error = StoreError("the disk is full") if fails and to.id == "a" else None
        return NodeReport(to.id, to.name, handle, str(digest), Route.DRIVER, "", bytes_received=9, error=error)

    async def bring() -> list[NodeReport]:
        agents = cast(AgentPool, Agent(**disks.disks))
        driver, config = node("driver"), Config()
        stores = StoreGroups(driver, agents, Nonces(Store(tmp_path / "driver")), disks.cluster)
        probes, running = (
            Probes(agents, config, disks.cluster),
            RunningDeliveries(driver, agents, disks.cluster, config),
        )
        sharing = StoreSharing(driver, stores, cast(DriverSnapshots, None), probes, running.liveness)
        runner = RouteRunner(
            driver,
            config,
            pins=cast(JobPins, None),
            snapshots=cast(DriverSnapshots, None),
            probes=probes,
            running=running,
            sharing=sharing,
        )
        monkeypatch.setattr(runner, "_report_routes", deliver)
        assert await stores.first(node("a")) == node("a")
        return await asyncio.gather(*(runner.run_routes(Digest("0" * 64), "model", node(name), None) for name in "ba"))

    other, first = asyncio.run(bring())
    assert (first.error is not None) == fails
    if sees and not fails:
        assert delivered == ["a"]
        assert other.reason == "it shares the store of node a"
        assert other.bytes_received == 0
    else:
        assert delivered[-1] == "b"
        assert other.bytes_received == 9
