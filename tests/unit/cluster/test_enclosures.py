"""Small models in the coordinator's answers, with its real parts and stores, and no Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.agent.chunk_rpc import result_count
from hubdist.cluster.coordinator.coordinator import Coordinator
from hubdist.cluster.coordinator.enclosures import Enclosures
from hubdist.cluster.enclosure import MAX_ENCLOSED_BYTES, MAX_ENCLOSED_FILES, publish_enclosed
from hubdist.cluster.job import Terms
from hubdist.delivery.routes import ENCLOSED, Route
from hubdist.errors import ConfigError, DigestMismatchError, IntegrityError, NotPinnedError, StoreError
from hubdist.model.manifest import Digest, Manifest
from hubdist.resolver.values import CallOptions, LoaderPin
from hubdist.store.store import Store
from tests.support.fake_agents import DRIVER, fake_nodes, run
from tests.unit.cluster.test_coordinator import World

RESULTS = 1 + result_count(MAX_ENCLOSED_BYTES)
FILES = {
    "saved_model.pb": os.urandom(300_000),
    "assets/words": os.urandom(1_200_000),
    "assets/empty": b"",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fake_nodes(tmp_path / "stores", "a", "b") as nodes:
        made = World(nodes, tmp_path)
        put(made, FILES)
        yield made
        made.close()


def put(world: World, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (world.root / path).parent.mkdir(exist_ok=True)
        (world.root / path).write_bytes(data)


async def pin(coordinator: Coordinator, world: World, **options: Any) -> LoaderPin:
    asked = CallOptions(**options)
    found = await coordinator.pin_for_process(world.handle, DRIVER, asked, Terms())
    return found.asked_with(asked)


async def enclose(coordinator: Coordinator, made: LoaderPin, results: int = RESULTS) -> tuple[Manifest, list[bytes]]:
    manifest, *parts = await coordinator.enclose(made, "a", results)
    assert len(parts) == results - 1
    return manifest, parts


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_small_model_comes_whole_and_no_agent_works_for_it(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        for results in (RESULTS, 1 + result_count(made.total_bytes or 0)):
            manifest, parts = await enclose(coordinator, made, results)
            assert b"".join(parts) == b"".join(FILES[path] for path in sorted(FILES))
            with publish_enclosed(world.nodes.stores["a"], made.digest, manifest, parts) as snapshot:
                assert content(snapshot.path) == FILES
        assert not world.nodes.calls

    run(work)


def test_the_report_says_how_it_came_and_who_sent_it(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        await enclose(coordinator, made)
        assert (await coordinator.status()).deliveries == ()  # nobody knows yet whether the node's store took it
        await coordinator.note_enclosed(made, "a", 0.25)
        (report,) = (await coordinator.status()).deliveries
        size = sum(map(len, FILES.values()))
        assert (report.route, report.reason, report.source) == (Route.DRIVER, ENCLOSED.reason, "node driver")
        assert (report.node, report.bytes_received, report.seconds) == ("a", size, 0.25)
        assert report.sources == (("node driver", size),)
        assert report.timeline == ((0.25, size),)
        assert f"({ENCLOSED.reason})" in str(report)

    run(work)


def test_what_the_store_refused_is_not_reported_as_come(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        await enclose(coordinator, made)
        await coordinator.note_enclosed(made, "a", None)
        assert (await coordinator.status()).deliveries == ()
        with pytest.raises(ConfigError, match="none"):
            await coordinator.note_enclosed(made, "none", 0.1)

    run(work)


@pytest.mark.parametrize("route", ["shared", "direct"])
def test_a_route_that_the_process_wants_is_not_passed_over(world: World, route: str) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world, route=route)
        assert await coordinator.enclose(made, "a", 5) == (None,) * 5
        assert (await coordinator.enclose(await pin(coordinator, world, route="driver"), "a", RESULTS))[0] is not None

    run(work)


@pytest.mark.parametrize("why", ["large", "many files", "few results", "driver's node", "nobody has it"])
def test_what_is_not_enclosed_is_left_to_the_agents(world: World, why: str) -> None:
    if why == "large":
        put(world, {"large": bytes(MAX_ENCLOSED_BYTES)})
    elif why == "many files":
        put(world, {f"file-{number}": b"" for number in range(MAX_ENCLOSED_FILES)})

    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        if why == "nobody has it":
            made = LoaderPin("handle", Digest("0" * 64))
        results = 3 if why == "few results" else RESULTS
        answer = await coordinator.enclose(made, DRIVER if why == "driver's node" else "a", results)
        assert answer == (None,) * results

    run(work)


def test_a_model_of_just_the_most_bytes_is_enclosed(world: World) -> None:
    have = sum(map(len, FILES.values()))
    put(world, {"rest": bytes(MAX_ENCLOSED_BYTES - have - (world.root / "saved_model.pb").stat().st_size + 300_000)})

    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        assert made.total_bytes == MAX_ENCLOSED_BYTES
        _, parts = await enclose(coordinator, made, 1 + result_count(made.total_bytes))
        assert sum(map(len, parts)) == MAX_ENCLOSED_BYTES

    run(work)


def test_damaged_bytes_of_the_driver_are_not_enclosed(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world, route="driver")
        victim = world.nodes.stores[DRIVER].root / "snapshots" / made.digest.value / "files" / "saved_model.pb"
        victim.chmod(0o600)
        victim.write_bytes(bytes(len(FILES["saved_model.pb"])))
        assert (await coordinator.enclose(made, "a", RESULTS))[0] is None

    run(work)


def few(coordinator: Coordinator, **limits: float) -> Enclosures:
    """The coordinator's enclosures with other limits."""
    parts = coordinator._parts
    made = parts.enclosures
    return Enclosures(
        made._node,
        made._config,
        pins=made._pins,
        snapshots=made._snapshots,
        reports=made._reports,
        work=made._work,
        cluster=made._cluster,
        at_once=1,
        **limits,
    )


def test_few_answers_are_under_way_at_a_time(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        enclosures = few(coordinator, patience_s=0.05, lost_after_s=60.0)
        assert (await enclosures.enclose(made, "a", RESULTS))[0] is not None
        assert (await enclosures.enclose(made, "b", RESULTS))[0] is None
        await enclosures.note(made, "a", 0.1)
        assert (await enclosures.enclose(made, "b", RESULTS))[0] is not None
        await enclosures.note(made, "b", None)
        await enclosures.note(made, "b", None)  # a repeated call frees no more room than there was
        assert (await enclosures.enclose(made, "a", RESULTS))[0] is not None
        assert (await enclosures.enclose(made, "b", RESULTS))[0] is None

    run(work)


def test_who_waits_gets_the_room_of_the_one_before(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        enclosures = few(coordinator, patience_s=60.0, lost_after_s=60.0)
        await enclosures.enclose(made, "a", RESULTS)
        waiting = asyncio.create_task(enclosures.enclose(made, "b", RESULTS))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await enclosures.note(made, "a", 0.1)
        assert (await waiting)[0] is not None

    run(work)


def test_a_process_that_never_tells_what_became_of_it_keeps_no_room(world: World) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        enclosures = few(coordinator, patience_s=60.0, lost_after_s=0.05)
        for _ in range(3):
            assert (await enclosures.enclose(made, "a", RESULTS))[0] is not None

    run(work)


def test_a_plan_says_that_a_small_model_is_enclosed_and_a_large_one_is_not(world: World) -> None:
    async def reasons(coordinator: Coordinator, route: str) -> set[str]:
        plan = await coordinator.plan(world.handle, ["a", "b"], CallOptions(route=route))
        return {node.order.first.reason for node in plan.nodes}

    async def work() -> None:
        coordinator = world.coordinator()
        assert ENCLOSED.reason not in await reasons(coordinator, "auto")  # nobody knows how large it is
        await pin(coordinator, world)
        assert await reasons(coordinator, "auto") == {ENCLOSED.reason}
        assert await reasons(coordinator, "driver") == {ENCLOSED.reason}
        assert ENCLOSED.reason not in await reasons(coordinator, "direct")
        put(world, {"large": bytes(MAX_ENCLOSED_BYTES)})
        await coordinator.refresh(world.handle, DRIVER, CallOptions())
        assert ENCLOSED.reason not in await reasons(coordinator, "auto")

    run(work)


# What a process does with an answer


@pytest.mark.parametrize("change", ["flipped", "missing", "more", "another model", "files in another order"])
def test_nothing_but_the_model_gets_into_the_store(world: World, tmp_path: Path, change: str) -> None:
    store = Store(tmp_path / "receiving")

    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        manifest, parts = await enclose(coordinator, made)
        data, expected = bytearray(b"".join(parts)), made.digest
        if change == "flipped":
            data[700_000] ^= 1
        elif change == "missing":
            del data[-1]
        elif change == "more":
            data += b"x"
        elif change == "another model":
            expected = Digest("0" * 64)
        else:
            manifest = Manifest(manifest.entries[::-1])
        with pytest.raises(IntegrityError):
            publish_enclosed(store, expected, manifest, [bytes(data)])
        assert not list(store.root.glob("snapshots/*"))
        assert not list(store.root.glob("staging/*"))

    run(work)


def test_a_manifest_with_a_digest_that_does_not_follow_from_its_files_is_refused(world: World, tmp_path: Path) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        manifest, parts = await enclose(coordinator, made)
        forged = Manifest(manifest.entries[:1])
        forged.__dict__["digest"] = made.digest  # as it would come out of a pickle
        with pytest.raises(DigestMismatchError):
            publish_enclosed(Store(tmp_path / "receiving"), made.digest, forged, parts)

    run(work)


def test_a_store_without_room_refuses(world: World, tmp_path: Path) -> None:
    async def work() -> None:
        coordinator = world.coordinator()
        made = await pin(coordinator, world)
        manifest, parts = await enclose(coordinator, made)
        with pytest.raises(StoreError):
            publish_enclosed(Store(tmp_path / "small", max_bytes=1000), made.digest, manifest, parts)

    run(work)


def test_an_unknown_model_is_not_reported(world: World) -> None:
    async def work() -> None:
        with pytest.raises(NotPinnedError):
            await world.coordinator().note_enclosed(LoaderPin("handle", Digest("0" * 64)), "a", 0.1)

    run(work)
