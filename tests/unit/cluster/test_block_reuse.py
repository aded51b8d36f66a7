"""Nodes take from their older snapshots what a new version shares with them, and only the rest travels; without Ray."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.cluster.agent.block_reuse import BlockReuse
from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import UNIT_BYTES, RunningDeliveries
from hubdist.delivery.routes import Route
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, Manifest
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import list_copy
from hubdist.report.delivery import OWN_STORE
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.older_blocks import OlderBlocks
from hubdist.streams.units import Units
from tests.support.examples import examples
from tests.support.fake_agents import DRIVER, QUICK, FakeNodes, fake_nodes, run

MIB = 1 << 20
Files = dict[str, bytes]


def changed(data: bytes, *blocks: int) -> bytes:
    """The same bytes with one byte of some blocks changed."""
    new = bytearray(data)
    for block in blocks:
        new[block * BLOCK_BYTES] ^= 1
    return bytes(new)


def deliver(nodes: FakeNodes, manifest: Manifest, *names: str, route: Route = Route.DRIVER) -> list[DeliveryStats]:
    """Bring the driver's model to nodes; what each got from where."""
    deliveries = RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)
    found: list[DeliveryStats] = []
    copy = None
    if route is not Route.DRIVER:
        snapshot = nodes.stores[DRIVER].find(manifest.digest)
        assert snapshot is not None
        copy = list_copy(str(snapshot.path), nodes.config.deadlines)
        snapshot.release()

    async def work() -> None:
        tasks = (deliveries.join_delivery(manifest, nodes.nodes[name], route, copy) for name in names)
        for stats in await asyncio.gather(*tasks):
            assert stats is not None
            found.append(stats)

    run(work)
    for name in names:
        snapshot = nodes.stores[name].find(manifest.digest)
        assert snapshot is not None
        assert snapshot.find_damage() is None
        snapshot.release()
    return found


def travelled(stats: DeliveryStats) -> int:
    """Bytes that came from others."""
    return sum(size for name, size in stats.sources if name != OWN_STORE)


def content(mib: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(mib * MIB)


def test_only_the_blocks_that_changed_travel(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b") as nodes:
        old = content(24)
        for name in ("a", "b"):
            nodes.publish(name, {"saved_model.pb": b"old", "variables": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": b"new", "variables": changed(old, 3, 4, 17)})
        for stats in deliver(nodes, new, "a", "b"):
            assert travelled(stats) == 3 * MIB + len(b"new")
            assert dict(stats.sources)[OWN_STORE] == 21 * MIB


@settings(max_examples=examples(12), deadline=None)
@given(old=st.lists(st.integers(0, 5), max_size=6), new=st.lists(st.integers(0, 7), min_size=1, max_size=9))
def test_any_version_after_any_other_arrives_whole(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], new: list[int]
) -> None:
    blocks = [random.Random(number).randbytes(BLOCK_BYTES) for number in range(8)]
    with fake_nodes(tmp_path_factory.mktemp("nodes"), "a") as nodes:
        nodes.publish("a", {"saved_model.pb": b"old", "b": b"".join(blocks[number] for number in old)})
        manifest = nodes.publish(DRIVER, {"saved_model.pb": b"new", "a": b"".join(blocks[number] for number in new)})
        (stats,) = deliver(nodes, manifest, "a")
    assert travelled(stats) == 3 + sum(BLOCK_BYTES for number in new if number not in old)
    assert sum(size for _, size in stats.sources) == manifest.total_bytes


def test_a_damaged_block_travels_after_all(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(12)
        manifest = nodes.publish("a", {"saved_model.pb": old})
        snapshot = nodes.stores["a"].find(manifest.digest)
        assert snapshot is not None
        file = snapshot.path / "saved_model.pb"
        snapshot.release()
        file.chmod(0o600)
        file.write_bytes(changed(old, 7))
        file.chmod(0o444)
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, 2)})
        (stats,) = deliver(nodes, new, "a")
        assert travelled(stats) == 2 * MIB


def test_what_a_node_takes_from_its_own_store_it_sends_to_others(tmp_path: Path) -> None:
    """The driver's node sends each changed byte about once, and another node what the third one lacks."""
    with fake_nodes(tmp_path, "old", "fresh") as nodes:
        old = content(16)
        nodes.publish("old", {"saved_model.pb": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, 5)})
        had, fresh = deliver(nodes, new, "old", "fresh")
        assert travelled(had) == MIB
        assert travelled(fresh) == 16 * MIB
        assert OWN_STORE not in dict(fresh.sources)


@pytest.mark.parametrize("route", [Route.DIRECT, Route.DRIVER])
def test_a_model_that_is_wholly_there_under_other_names_does_not_travel(tmp_path: Path, route: Route) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(9)
        nodes.publish("a", {"saved_model.pb": b"graph", "old": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": b"graph", "new": old})
        (stats,) = deliver(nodes, new, "a", route=route)
        assert stats.sources == ((OWN_STORE, new.total_bytes),)


@pytest.mark.parametrize("host", ["127.0.0.1", None])
def test_nodes_that_read_a_directory_together_read_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None
) -> None:
    read: list[int] = []
    real = CopyReader.read

    def count(self: CopyReader, chunk: Chunk, buffer: memoryview) -> None:
        read.append(chunk.size)
        real(self, chunk, buffer)

    monkeypatch.setattr(CopyReader, "read", count)
    with fake_nodes(tmp_path, "a", "b", host=host) as nodes:
        old = content(32)
        for name in ("a", "b"):
            nodes.publish(name, {"saved_model.pb": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, 3, 4, 30)})
        stats = deliver(nodes, new, "a", "b", route=Route.DIRECT)
    assert sum(read) == 3 * MIB
    assert [(travelled(one), dict(one.sources)[OWN_STORE]) for one in stats] == [(3 * MIB, 29 * MIB)] * 2
    assert sum(size for one in stats for name, size in one.sources if name.startswith("/")) == 3 * MIB


def test_a_chunk_of_which_a_node_has_little_comes_whole_by_the_port(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "old", "fresh") as nodes:
        old = content(8)
        nodes.publish("old", {"saved_model.pb": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, *range(6))})
        stats = deliver(nodes, new, "old", "fresh", route=Route.DIRECT)
    own = [dict(one.sources).get(OWN_STORE, 0) for one in stats]
    assert own in ([0, 0], [2 * MIB, 0])  # whether the node with the old version read the directory or not
    assert [sum(size for _, size in one.sources) for one in stats] == [8 * MIB] * 2
    assert nodes.calls["old", "send"] == nodes.calls["fresh", "send"] == 0


def test_a_node_that_copies_a_directory_alone_reads_only_what_changed(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(20)
        nodes.publish("a", {"saved_model.pb": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, 0, 19)})
        snapshot = nodes.stores[DRIVER].find(new.digest)
        assert snapshot is not None
        copy = list_copy(str(snapshot.path), nodes.config.deadlines)
        snapshot.release()

        async def work() -> None:
            async with nodes.agents.use(nodes.nodes["a"]) as agent:
                reference = agent.copy.remote(new, copy)
                assert await asyncio.wrap_future(reference.future()) == 2 * MIB

        run(work)
        assert nodes.has("a", new)


# One node's part


class Gate(OlderBlocks):
    """Stops before each block until it may go on."""

    go_on: threading.Event
    asked: threading.Event

    def take(self, chunk: Chunk, stage: ChunkStage) -> bool:
        self.asked.set()
        assert self.go_on.wait(30)
        return super().take(chunk, stage)


def gated(nodes: FakeNodes, old: bytes, new: bytes) -> tuple[Gate, Manifest]:
    """Node `a` has the old version, the driver's node the new one."""
    nodes.publish("a", {"saved_model.pb": old})
    manifest = nodes.publish(DRIVER, {"saved_model.pb": new})
    older = Gate(nodes.stores["a"], manifest)
    older.go_on, older.asked = threading.Event(), threading.Event()
    return older, manifest


def test_no_parent_is_asked_for_what_is_expected(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(8)
        older, manifest = gated(nodes, old, changed(old, 2, 5))
        units = Units(b"s" * 32, lambda _: -1)
        with nodes.stores["a"].stage_chunks(manifest) as stage:
            reuse = BlockReuse(older, stage)
            reuse.start(units, cut_chunks(manifest, UNIT_BYTES))
            assert older.asked.wait(30)
            assert [stripe for stripe in range(8) if units.next_missing(stripe, 8) is not None] == [2, 5]
            assert not units.wait_taken(0.01)
            older.go_on.set()
            assert units.wait_taken(30)
            assert units.arrived == 6
            reuse.stop()
            assert reuse.taken_bytes == 6 * MIB


def test_a_node_that_leaves_takes_no_more_and_lets_the_snapshot_go(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(8)
        older, manifest = gated(nodes, old, changed(old, 2))
        store = nodes.stores["a"]
        units = Units(b"s" * 32, lambda _: -1)
        with store.stage_chunks(manifest) as stage:
            reuse = BlockReuse(older, stage, threads=2)
            reuse.start(units, cut_chunks(manifest, UNIT_BYTES))
            assert older.asked.wait(30)
            assert not store.evict(store.digests()[0])
            stopping = threading.Thread(target=reuse.stop)
            stopping.start()
            older.go_on.set()
            stopping.join(30)
            assert not stopping.is_alive()
            assert units.arrived <= 2
            assert units.wait_taken(0)  # what was expected is given up: a parent may send it
        assert store.evict(store.digests()[0])


def test_a_node_that_is_told_to_forget_while_it_takes_blocks_leaves_nothing(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        old = content(40)
        nodes.publish("a", {"saved_model.pb": old})
        new = nodes.publish(DRIVER, {"saved_model.pb": changed(old, 2)})

        async def work() -> None:
            async with nodes.agents.use(nodes.nodes["a"]) as agent:
                begun = agent.begin.remote("d", new, DeliveryTerms(os.urandom(32), UNIT_BYTES), None)
                await asyncio.wrap_future(begun.future())
                await asyncio.wrap_future(agent.forget.remote("d").future())

        run(work)
        store = nodes.stores["a"]
        assert list((store.root / "staging").iterdir()) == []
        assert store.evict(store.digests()[0])
