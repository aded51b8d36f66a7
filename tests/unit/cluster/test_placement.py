"""Which nodes have a model, and models that nodes keep: the coordinator with agents in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import hubdist
from hubdist.client import local_placement
from hubdist.cluster.coordinator.coordinator import Coordinator
from hubdist.cluster.coordinator.keeper import Keeper
from hubdist.cluster.job import WarmSnapshot
from hubdist.cluster.nodes import Node
from hubdist.cluster.selectors import scheduling_options, takes_fallbacks
from hubdist.errors import HandleError, HubdistError, ModelNotFoundError
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.resolver.values import CallOptions
from hubdist.store import kept
from hubdist.system.log_once import LogOnce
from tests.support.fake_agents import DRIVER, FakeNodes, fake_nodes, run, until
from tests.unit.cluster.test_coordinator import World, pin


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        made = World(nodes, tmp_path)
        yield made
        made.close()


async def manifest_of(coordinator: Coordinator, world: World) -> Manifest:
    return await coordinator.manifest((await pin(coordinator, world.handle)).digest)


def is_kept(world: World, node: str, digest: Digest) -> bool:
    return kept.is_kept(world.nodes.stores[node].root, digest)


def test_where_names_the_nodes_that_have_the_model_and_asks_each_node_once(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        await coordinator.deliver(await pin(coordinator, world.handle), "a")
        for _ in range(2):
            (warm,) = await coordinator.where([world.handle], 10.0)
            assert set(warm.node_ids) == {DRIVER, "a"}
        assert warm.total_bytes == 5000
        assert world.nodes.calls["b", "holds"] == 1
        assert world.nodes.calls["a", "holds"] == 0  # this job has brought it there

    run(work)


def test_where_finds_what_an_earlier_job_has_brought(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        world.nodes.publish("b", {"saved_model.pb": b"graph" * 1000})
        await pin(coordinator, world.handle)
        (warm,) = await coordinator.where([world.handle], 10.0)
        assert set(warm.node_ids) == {DRIVER, "b"}

    run(work)


def test_where_resolves_nothing_and_asks_no_node_about_an_unknown_model(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        assert await coordinator.where([world.handle], 10.0) == (WarmSnapshot(None, 0, ()),)
        assert not (await coordinator.status()).pins
        assert not world.nodes.actors
        with pytest.raises(HandleError):
            await coordinator.where(["ftp//"], 10.0)

    run(work)


def test_where_waits_no_longer_for_a_silent_node_than_it_was_told(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        await pin(coordinator, world.handle)
        world.nodes.publish("b", {"saved_model.pb": b"graph" * 1000})
        world.nodes.stop("b")
        (warm,) = await asyncio.wait_for(coordinator.where([world.handle], 0.2), 10)
        assert set(warm.node_ids) == {DRIVER}
        world.nodes.go_on("b")  # its answer to the first question counts for later ones
        (warm,) = await coordinator.where([world.handle], 30.0)
        assert set(warm.node_ids) == {DRIVER, "b"}
        assert world.nodes.calls["b", "holds"] == 1

    run(work)


@pytest.mark.parametrize(
    ("warm", "selectors"),
    [
        ([], []),
        ([WarmSnapshot(None, 0, ())], []),
        ([WarmSnapshot("d", 5, ("b", "a"))], ["in(a,b)"]),
        ([WarmSnapshot("d", 5, ("a", "b")), WarmSnapshot("e", 9, ("b",))], ["in(b)", "in(a,b)"]),
        ([WarmSnapshot("d", 5, ("a",)), WarmSnapshot("e", 9, ("b",))], ["in(b)", "in(a,b)"]),
        ([WarmSnapshot("d", 5, ("a",)), WarmSnapshot(None, 0, ())], ["in(a)"]),
    ],
)
def test_options_prefer_the_nodes_with_most_of_the_bytes_and_end_with_any_node(
    warm: list[WarmSnapshot], selectors: list[str]
) -> None:
    options = scheduling_options(warm)
    if not selectors:
        assert options == {}
        return
    strategies = [options.pop("label_selector"), *(one["label_selector"] for one in options.pop("fallback_strategy"))]
    assert strategies == [*({"ray.io/node-id": text} for text in selectors), {}]
    assert not options


@pytest.mark.parametrize(
    ("version", "takes"), [("2.50.1", False), ("2.51.0", True), ("2.60.0", True), ("3.0.0.dev0", True)]
)
def test_only_a_ray_that_takes_fallbacks_gets_selectors(version: str, takes: bool) -> None:
    assert takes_fallbacks(version) is takes


def test_kept_models_are_marked_on_all_nodes_and_released_again(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        report = await coordinator.keep([world.handle], None)
        assert [node.error for node in report.nodes] == [None, None, None]
        manifest = await manifest_of(coordinator, world)
        for name in (DRIVER, "a", "b"):
            assert world.nodes.has(name, manifest)
            assert is_kept(world, name, manifest.digest)
        assert coordinator.keeps_models
        assert len(await coordinator.release([world.handle], None)) == 3
        assert not any(is_kept(world, name, manifest.digest) for name in (DRIVER, "a", "b"))
        assert not coordinator.keeps_models
        assert await coordinator.release([world.handle], None) == ()

    run(work)


def test_a_model_that_some_nodes_keep_goes_to_no_other_node(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        await coordinator.keep([world.handle], ["a"])
        digest = (await manifest_of(coordinator, world)).digest
        assert is_kept(world, "a", digest)
        assert not is_kept(world, "b", digest)
        assert not coordinator.keeps_models

    run(work)


def test_a_node_that_joins_gets_what_is_kept_and_not_what_was_released(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        late = world.nodes.nodes.pop("b")
        await coordinator.keep([world.handle], None)
        digest = (await manifest_of(coordinator, world)).digest
        assert not is_kept(world, "b", digest)
        world.nodes.nodes["b"] = late
        await until(lambda: is_kept(world, "b", digest))
        looks = world.nodes.calls["a", "keep"]
        await coordinator.release([world.handle], None)
        kept.release(world.nodes.stores["b"].root, digest)
        del world.nodes.nodes["b"]
        world.nodes.nodes["b"] = late
        await asyncio.sleep(1)
        assert not is_kept(world, "b", digest)
        assert world.nodes.calls["a", "keep"] == looks == 1  # who has it is not asked again and again

    run(work)


def test_a_handle_that_is_refreshed_is_kept_at_its_new_bytes(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        await coordinator.keep([world.handle], None)
        before = (await manifest_of(coordinator, world)).digest
        world.put(b"new")
        after = Digest.parse((await coordinator.refresh(world.handle, "a", CallOptions())).digest)
        assert after != before
        await until(lambda: all(is_kept(world, name, after) for name in (DRIVER, "a", "b")))
        await until(lambda: not any(is_kept(world, name, before) for name in (DRIVER, "a", "b")))

    run(work)


def test_bytes_that_another_handle_keeps_stay_kept(world: World, tmp_path: Path) -> None:
    (tmp_path / "same").symlink_to(world.root)

    async def work() -> None:
        coordinator = world.coordinator()
        other = str(tmp_path / "same")
        await coordinator.keep([world.handle, other], None)
        digest = (await manifest_of(coordinator, world)).digest
        await coordinator.release([other], None)
        assert is_kept(world, "a", digest)
        await coordinator.release([world.handle], None)
        assert not is_kept(world, "a", digest)

    run(work)


def test_a_handle_that_cannot_be_resolved_is_not_kept(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        report = await coordinator.keep([f"{world.handle}-none"], None)
        assert len(report.unresolved) == 1
        assert not coordinator.keeps_models

    run(work)


class Bringer:
    """Brings a model to nodes, in vain for as many times as a test says."""

    def __init__(self, nodes: FakeNodes, digest: Digest, failures: int) -> None:
        self._nodes = nodes
        self._digest = digest
        self._failures = failures
        self.tried: list[float] = []

    async def bring(self, handle: str, nodes: list[Node]) -> tuple[PinReport | HubdistError, list[NodeReport]]:
        pinned = PinReport(handle, str(self._digest), 1, 1, "store", 0, 0.0)
        reports = [NodeReport(node.id, node.name, handle, str(self._digest), None, "") for node in nodes]
        if any(node.id == "a" for node in nodes):
            self.tried.append(self._nodes.cluster.clock())
            if len(self.tried) <= self._failures:
                return pinned, [replace(report, error=HubdistError("no room")) for report in reports]
        return pinned, reports


def test_a_node_that_fails_is_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    handle: Handle = parse_handle("/models/one")

    async def work() -> None:
        with fake_nodes(tmp_path / "stores", "a") as nodes:
            manifest = nodes.publish("a", {"saved_model.pb": b"one"})
            joined = nodes.nodes.pop("a")
            nodes.publish(DRIVER, {"saved_model.pb": b"one"})
            bringer = Bringer(nodes, manifest.digest, failures=2)
            keeper = Keeper(
                nodes.nodes[DRIVER],
                nodes.agents,
                nodes.cluster,
                bring=bringer.bring,
                find_digest=lambda _: manifest.digest,
                look_s=0.01,
                pause_s=0.2,
            )
            await keeper.keep(handle, list(nodes.nodes.values()), joining=True)
            nodes.nodes["a"] = joined
            await until(lambda: kept.is_kept(nodes.stores["a"].root, manifest.digest))
            await keeper.release(handle, None, list(nodes.nodes.values()), joining=True)
            first, second, third = bringer.tried
            assert second - first >= 0.2
            assert third - second >= 0.4

    run(work)


@pytest.mark.parametrize("over", [False, True])
def test_a_coordinator_without_work_stays_while_nodes_that_join_get_models(
    world: World, monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    monkeypatch.setattr("hubdist.cluster.coordinator.coordinator.job_is_over", lambda _: over)

    async def work() -> None:
        coordinator = world.coordinator()
        idle = coordinator._idle_limit_s(3600.0)
        await coordinator.keep([world.handle], None)
        assert coordinator._idle_limit_s(3600.0) == (idle if over else float("inf"))
        await coordinator.release([world.handle], None)
        assert coordinator._idle_limit_s(3600.0) == idle

    run(work)


def test_without_ray_a_model_is_kept_in_the_one_store_and_nothing_is_placed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_placement, "_ONCE", LogOnce(logging.getLogger("hubdist.client")))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"graph")
    hubdist.init(store=str(tmp_path / "store"))
    assert hubdist.where(str(tmp_path / "model")) == {}
    assert hubdist.where([str(tmp_path / "model")]) == {}
    assert [record.getMessage() for record in caplog.records].count(
        "hubdist: where() places nothing: Ray is not running in this process; call ray.init() first"
    ) == 1
    assert hubdist.release(str(tmp_path / "model")) == ()
    report = hubdist.keep(str(tmp_path / "model"))
    assert kept.is_kept(tmp_path / "store", Digest.parse(report.pins[0].digest))
    assert len(hubdist.release([str(tmp_path / "model")])) == 1
    with pytest.raises(ModelNotFoundError):
        hubdist.keep(str(tmp_path / "none"))
