"""The coordinator's methods, with its real parts, and agents in threads instead of Ray's actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hubdist.cluster.coordinator.coordinator import Coordinator
from hubdist.cluster.job import Job, JobRecord, Terms
from hubdist.config.model_settings import ModelSettings
from hubdist.delivery.routes import Route
from hubdist.errors import ConfigError, DigestMismatchError, ModelNotFoundError, NotPinnedError
from hubdist.model.chunks import cut_chunks
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest
from hubdist.resolver.values import CallOptions, LoaderPin
from tests.support.fake_agents import DRIVER, FakeActor, FakeNodes, fake_nodes, run, until

DATA = b"graph" * 1000


class Record:
    """What the cluster remembers of the job, without a cluster."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.digests: dict[str, Digest] = {}

    def keep_job(self, job: Job) -> None:
        self.job = job

    def close_job(self) -> None: ...

    def find(self, key: str) -> Digest | None:
        return self.digests.get(key)

    def keep(self, key: str, digest: Digest) -> None:
        self.digests[key] = digest


class World:
    """A job whose driver's disk has one model."""

    def __init__(self, nodes: FakeNodes, folder: Path) -> None:
        self.nodes = nodes
        self.record = Record()
        self.made: list[Coordinator] = []
        self.root = folder / "model"
        self.root.mkdir()
        self.handle = str(self.root)
        self.put(DATA)

    def put(self, data: bytes) -> None:
        (self.root / "saved_model.pb").write_bytes(data)

    def coordinator(self) -> Coordinator:
        made = Coordinator(
            Job.of(self.nodes.config, None, "session_1"),
            job_id="01000000",
            node=self.nodes.nodes[DRIVER],
            make_agent=lambda config, node: FakeActor(self.nodes, config, node),
            record=cast(JobRecord, self.record),
            detached=False,
            cluster=self.nodes.cluster,
        )
        self.made.append(made)
        return made

    def close(self) -> None:
        for coordinator in self.made:
            coordinator._parts.work.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        made = World(nodes, tmp_path)
        yield made
        made.close()


async def pin(coordinator: Coordinator, handle: str, terms: Terms | None = None) -> LoaderPin:
    return await coordinator.pin_for_process(handle, "a", CallOptions(), terms or Terms())


def test_a_pin_stays_until_it_is_refreshed(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        first = await pin(coordinator, world.handle)
        world.put(b"new")
        assert (await pin(coordinator, world.handle)).digest == first.digest
        refreshed = await coordinator.refresh(world.handle, "a", CallOptions())
        assert refreshed.before == str(first.digest)
        assert refreshed.untold == ()
        second = await pin(coordinator, world.handle)
        assert str(second.digest) == refreshed.digest != refreshed.before
        assert await coordinator.manifest(first.digest)  # a process that loaded it may need it

    run(work)


def test_a_coordinator_that_is_made_again_keeps_the_jobs_pins(world: World) -> None:
    async def work() -> None:
        first = await pin(world.coordinator(), world.handle)
        world.put(b"new")
        assert (await pin(world.coordinator(), world.handle)).digest == first.digest

    run(work)


def test_a_prefetch_brings_the_model_to_all_nodes_and_says_how(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        report = await coordinator.prefetch([world.handle, f"{world.handle}-none"], None)
        (found,) = report.pins
        assert (found.source, found.origin_reads) == ("origin", 1)
        assert {node.node for node in report.nodes} == {DRIVER, "a", "b"}
        assert all(node.error is None for node in report.nodes)
        assert [type(error) for error in report.unresolved] == [ModelNotFoundError]
        manifest = await coordinator.manifest(Digest.parse(found.digest))
        assert world.nodes.has("a", manifest)
        assert world.nodes.has("b", manifest)
        status = await coordinator.status()
        assert status.pins == (found,)
        assert sum(total.deliveries for total in status.totals) >= 2

    run(work)


def test_a_plan_changes_with_what_is_known(world: World) -> None:
    async def plan(coordinator: Coordinator) -> tuple[str | None, dict[str, Route]]:
        found = await coordinator.plan(world.handle, ["a", "b"], CallOptions(route="driver"))
        return found.known, {node.node: node.order.first.route for node in found.nodes}

    async def work() -> None:
        coordinator = world.coordinator()
        assert await plan(coordinator) == (None, {"a": Route.DRIVER, "b": Route.DRIVER})
        made = await pin(coordinator, world.handle)
        await coordinator.deliver(made, "a")
        assert await plan(coordinator) == ("this job", {"a": Route.STORE, "b": Route.DRIVER})

    run(work)


def test_the_call_decides_about_the_route(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world.handle)
        directly = await coordinator.access(made.asked_with(CallOptions(route="direct")))
        assert [route for route, _ in directly.candidates] == [Route.DIRECT, Route.DRIVER]
        by_driver = await coordinator.access(made.asked_with(CallOptions(route="driver")))
        assert by_driver.candidates == ((Route.DRIVER, None),)

    run(work)


def test_chunks_are_read_from_the_drivers_store(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world.handle)
        chunks = cut_chunks(await coordinator.manifest(made.digest), 1 << 20)
        data = b"".join([bytes(await coordinator.read(made.digest, chunk)) for chunk in chunks])
        assert data == DATA
        with pytest.raises(NotPinnedError):
            await coordinator.read(Digest("0" * 64), chunks[0])

    run(work)


def test_what_a_process_demands_is_checked(world: World) -> None:
    key = parse_handle(world.handle).key

    async def work() -> None:
        coordinator = world.coordinator()
        with pytest.raises(NotPinnedError, match="this process is frozen"):
            await pin(coordinator, world.handle, Terms(frozen=True))
        made = await pin(coordinator, world.handle)
        pinned = Terms(frozen=True, models={key: ModelSettings(made.digest)})
        assert (await pin(coordinator, world.handle, pinned)).digest == made.digest
        with pytest.raises(DigestMismatchError):
            await pin(coordinator, world.handle, Terms(models={key: ModelSettings(Digest("0" * 64))}))

    run(work)


@pytest.mark.parametrize("method", ["plan", "prefetch"])
def test_a_node_that_is_not_alive_is_an_error(world: World, method: str) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        asked: tuple[Any, ...] = (
            (world.handle, ["none"], CallOptions()) if method == "plan" else ([world.handle], ["none"])
        )
        with pytest.raises(ConfigError, match="none"):
            await getattr(coordinator, method)(*asked)

    run(work)


def test_joining_delivers_the_configured_models(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        membership = await coordinator.join([world.handle])
        assert membership.node_id == DRIVER
        assert world.record.job is membership.job
        made = await pin(coordinator, world.handle)
        manifest = await coordinator.manifest(made.digest)
        await until(lambda: world.nodes.has("a", manifest) and world.nodes.has("b", manifest))

    run(work)
