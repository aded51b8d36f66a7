"""Deliveries by streams, seen from the coordinator: few calls, lost agents, origins that fail; without Ray."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.agent.messages import Seat
from hubdist.cluster.agent.node_port import NodePort
from hubdist.cluster.coordinator.payload import Payload
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError, NodeLostError, OriginError, PortClosedError, StoreError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Digest, Entry, Manifest
from hubdist.store.store import Store
from hubdist.streams.buffers import Buffers
from tests.support.fake_agents import DRIVER, QUICK, FakeActor, FakeNodes, fake_nodes, run, until

MIB = 1 << 20


def deliveries(nodes: FakeNodes) -> RunningDeliveries:
    return RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)


async def bring(running: RunningDeliveries, nodes: FakeNodes, manifest: Manifest, names: str) -> list[Any]:
    joining = (running.join_delivery(manifest, nodes.nodes[name], Route.DRIVER, None) for name in names)
    return await asyncio.gather(*joining, return_exceptions=True)


def calls_of(nodes: FakeNodes, name: str) -> dict[str, int]:
    """Method -> how often a node's agent was called, without the questions whether it lives."""
    return {method: count for (node, method), count in nodes.calls.items() if node == name and method != "answer"}


@pytest.mark.parametrize("mib", [8, 64])
def test_a_node_takes_a_handful_of_calls_however_large_the_model_is(tmp_path: Path, mib: int) -> None:
    with fake_nodes(tmp_path, *"abcdef") as nodes:
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(mib * MIB)})

        async def work() -> None:
            found = await bring(deliveries(nodes), nodes, manifest, "abcdef")
            assert all(isinstance(each, DeliveryStats) for each in found), found

        run(work)
        for name in "abcdef":
            calls = calls_of(nodes, name)
            polls = calls.pop("wait_for_news")
            assert calls == {"begin": 1, "follow": 1, "forget": 1}
            assert polls <= 8, "one, and more only while the machine is slow"


async def begin_all(running: RunningDeliveries, nodes: FakeNodes, names: str) -> None:
    """Deliver a small model, after which the coordinator knows the nodes' ports."""
    first = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(1000)})
    found = await bring(running, nodes, first, names)
    assert all(isinstance(each, DeliveryStats) for each in found), found
    await until(lambda: all(nodes.calls[name, "forget"] == 1 for name in names))
    nodes.calls.clear()


@pytest.mark.parametrize("mib", [1, 64])
def test_a_node_whose_port_is_known_takes_one_call_and_one_to_forget(tmp_path: Path, mib: int) -> None:
    with fake_nodes(tmp_path, *"abcdef") as nodes:

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "abcdef")
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(mib * MIB)})
            found = await bring(running, nodes, manifest, "abcdef")
            assert all(isinstance(each, DeliveryStats) for each in found), found
            assert all(nodes.has(name, manifest) for name in "abcdef")

        run(work)
        for name in "abcdef":
            calls = calls_of(nodes, name)
            assert calls.pop("wait_for_news", 0) <= 8, "none but while the machine is slow"
            assert calls == {"receive": 1, "forget": 1}


def test_a_child_waits_for_a_parent_that_is_told_later_and_complains_of_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, refused = threading.Lock(), threading.Semaphore(0)
    real = NodePort._find

    def find(self: NodePort, key: bytes) -> Any:
        found = real(self, key)
        if found is None:
            refused.release()
        return found

    def wait(_: str, __: tuple[Any, ...]) -> None:
        if first.acquire(blocking=False):  # the most urgent node, below which the others sit
            for _ in range(6):
                assert refused.acquire(timeout=30)

    monkeypatch.setattr(NodePort, "_find", find)
    with fake_nodes(tmp_path, *"abcd") as nodes:

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "abcd")
            while refused.acquire(blocking=False):
                pass
            nodes.before["receive"] = wait
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(64 * MIB)})
            found = await bring(running, nodes, manifest, "abcd")
            assert all(isinstance(each, DeliveryStats) and not each.retries for each in found), found

        run(work)
        assert "did not go on" not in caplog.text


def test_a_node_that_has_the_model_already_sends_it_to_those_below_it(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, *"abc") as nodes:
        data = os.urandom(16 * MIB)

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "abc")
            manifest = nodes.publish(DRIVER, {"saved_model.pb": data})
            assert nodes.publish("a", {"saved_model.pb": data}) == manifest
            had, *others = await bring(running, nodes, manifest, "abc")
            assert had is None
            assert all(isinstance(each, DeliveryStats) for each in others), others

        run(work)
        assert calls_of(nodes, "a") == {"receive": 1, "hold": 1, "forget": 1}


def test_a_node_that_cannot_begin_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.stage_chunks

    def refuse(self: Store, manifest: Manifest | None) -> Any:
        if "/a/" in f"{self.root}/":
            raise StoreError("the disk refuses", path="/disk")
        return real(self, manifest)

    with fake_nodes(tmp_path, *"abc") as nodes:

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "abc")
            monkeypatch.setattr(Store, "stage_chunks", refuse)
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(32 * MIB)})
            failed, *others = await bring(running, nodes, manifest, "abc")
            assert isinstance(failed, StoreError)
            assert all(isinstance(each, DeliveryStats) for each in others), others

        run(work)


def test_a_node_is_told_agents_only_of_parents_whose_ports_it_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = NodePort.open_stream

    def open_stream(self: NodePort, delivery: str, address: Any) -> Any:
        if self is cut_off[0]:
            raise PortClosedError("a packet filter is in the way")
        return real(self, delivery, address)

    with fake_nodes(tmp_path, *"ab") as nodes:
        cut_off: list[Any] = [None]
        told: list[tuple[str, bool]] = []

        def note(name: str, arguments: tuple[Any, ...]) -> None:
            seat = next(each for each in arguments if isinstance(each, Seat))
            told.extend((name, parent.agent is None) for parent in seat.parents.values())

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "ab")
            cut_off[0] = next(actor.port for actor in nodes.actors if actor.node.id == "b")
            monkeypatch.setattr(NodePort, "open_stream", open_stream)
            nodes.before["receive"] = nodes.before["follow"] = note
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(8 * MIB)})
            open_, closed = await bring(running, nodes, manifest, "ab")
            assert open_.closed_ports == ()
            assert closed.closed_ports
            assert closed.retries == 0

        run(work)
        assert {has_none for name, has_none in told if name == "a"} == {True}
        assert {has_none for name, has_none in told if name == "b"} == {True, False}


def test_a_new_agent_of_a_node_begins_before_it_is_seated(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "a")
            node = nodes.nodes["a"]
            async with nodes.agents.use(node) as agent:
                nodes.agents.forget(node, agent)
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(MIB)})
            assert isinstance((await bring(running, nodes, manifest, "a"))[0], DeliveryStats)

        run(work)
        assert nodes.calls["a", "begin"] == nodes.calls["a", "follow"] == 1


def test_a_call_that_ray_repeats_begins_once(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        begun: list[Any] = []
        again: list[Any] = []

        def repeat(_: str, arguments: tuple[Any, ...]) -> None:
            agent = next(actor for actor in nodes.actors if actor.node.id == "a")._agent
            real = agent._exchange.begin
            agent._exchange.begin = lambda *some: begun.append(some) or real(*some)
            again.append(agent.receive(*arguments))

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "a")
            nodes.before["receive"] = repeat
            manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(4 * MIB)})
            assert isinstance((await bring(running, nodes, manifest, "a"))[0], DeliveryStats)

        run(work)
        assert sum(each.arrived_bytes > 0 for each in again) == 1
        assert len(begun) == 1


def test_a_delivery_that_cannot_begin_holds_up_no_other(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        held, other = threading.Event(), threading.Event()

        def hold(_: str, arguments: tuple[Any, ...]) -> None:
            nodes.before.pop("receive")
            agent = next(actor for actor in nodes.actors if actor.node.id == "a")._agent
            real = agent._exchange.begin

            def begin(delivery: str, *some: Any) -> Any:
                if delivery != arguments[0]:
                    return real(delivery, *some)
                held.set()
                assert other.wait(20)  # as a disk that hangs for one model
                return real(delivery, *some)

            agent._exchange.begin = begin

        async def work() -> None:
            running = deliveries(nodes)
            await begin_all(running, nodes, "a")
            nodes.before["receive"] = hold
            first, second = (nodes.publish(DRIVER, {"saved_model.pb": os.urandom(MIB)}) for _ in range(2))
            late = asyncio.create_task(bring(running, nodes, first, "a"))
            assert await asyncio.to_thread(held.wait, 20)
            assert isinstance((await bring(running, nodes, second, "a"))[0], DeliveryStats)
            other.set()
            assert isinstance((await late)[0], DeliveryStats)

        run(work)


def test_nodes_publish_when_they_know_the_manifest_and_not_before(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, *"ab") as nodes:
        data = os.urandom(MIB)
        manifest = nodes.publish(DRIVER, {"saved_model.pb": data})
        snapshot = nodes.stores[DRIVER].find(manifest.digest)
        assert snapshot is not None
        [chunk] = cut_chunks(manifest, MIB)

        async def work() -> None:
            run_ = deliveries(nodes).start_early(list(nodes.nodes.values()), lambda _: ("unused", {}))
            async with run_.use():
                early = asyncio.create_task(run_.receive(nodes.nodes["a"]))
                await until(lambda: nodes.calls["a", "wait_for_news"] > 0)
                assert not nodes.has("a", manifest)
                run_.payload.chunks.append(chunk)
                run_.published(manifest, (0,))
                await early
                assert nodes.calls["a", "publish"] == 1
                await run_.receive(nodes.nodes["b"])
                assert nodes.calls["b", "publish"] == 0

        with snapshot:
            run(work)
        assert all(nodes.has(name, manifest) for name in "ab")


def test_a_node_that_cannot_publish_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise StoreError("the disk refuses", path="/disk")

    with fake_nodes(tmp_path, *"ab") as nodes:
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(MIB)})
        monkeypatch.setattr(Store, "publish", refuse)

        async def work() -> None:
            for found in await bring(deliveries(nodes), nodes, manifest, "ab"):
                assert isinstance(found, StoreError)
                assert "the disk refuses" in str(found)

        run(work)
        assert all(list((nodes.stores[name].root / "staging").iterdir()) == [] for name in "ab")


def test_news_that_ray_asks_for_again_is_the_same(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(2 * MIB)})
        told: list[tuple[Any, Any]] = []

        def again(_: str, arguments: tuple[Any, ...]) -> None:
            agent = next(actor for actor in nodes.actors if actor.node.id == "a")._agent
            told.append((agent.wait_for_news(*arguments), agent.wait_for_news(*arguments)))

        nodes.after["wait_for_news"] = again

        async def work() -> None:
            await bring(deliveries(nodes), nodes, manifest, "a")

        run(work)
        first, second = told[-1]
        assert first == second
        assert first.is_published
        assert sum(size for _, size in first.received) == 2 * MIB


def first_units(number: int) -> tuple[threading.Event, Any]:
    """An event that is set when so many units have come, and what replaces `Buffers.take` to see them."""
    came, left, guard = threading.Event(), [number], threading.Lock()
    real = Buffers.take

    def take(self: Buffers, size: int) -> Any:
        with guard:
            left[0] -= 1
            if not left[0]:
                came.set()
        return real(self, size)

    return came, take


def test_an_agent_of_the_drivers_node_that_is_lost_is_replaced_and_sends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, take = first_units(12)
    monkeypatch.setattr(Buffers, "take", take)
    lost: list[FakeActor] = []
    real = FakeActor.call

    def call(self: FakeActor, name: str, arguments: tuple[Any, ...], references: list[Any]) -> None:
        if self in lost:
            for reference in references:
                reference.answer.set_exception(NodeLostError("the agent is gone"))
            return
        real(self, name, arguments, references)

    monkeypatch.setattr(FakeActor, "call", call)
    with fake_nodes(tmp_path, *"abc") as nodes:
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(200 * MIB)})

        async def work() -> None:
            bringing = asyncio.create_task(bring(deliveries(nodes), nodes, manifest, "abc"))
            assert await asyncio.to_thread(came.wait, 30)
            lost.extend(actor for actor in nodes.actors if actor.node.id == DRIVER)
            await asyncio.to_thread(lost[0].port.stop)
            found = await bringing
            assert all(isinstance(each, DeliveryStats) for each in found), found

        run(work)
        assert all(nodes.has(name, manifest) for name in "abc")
        assert len([actor for actor in nodes.actors if actor.node.id == DRIVER]) == 2


def test_an_origin_that_fails_fails_nodes_that_have_no_seat_yet(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, *"ab") as nodes:

        async def work() -> None:
            run_ = deliveries(nodes).start_early(list(nodes.nodes.values()), lambda _: ("stage", {}))
            async with run_.use():
                early = asyncio.create_task(run_.receive(nodes.nodes["a"]))
                await until(lambda: nodes.calls["a", "begin"] > 0)
                run_.fail(OriginError("the origin is gone"))
                with pytest.raises(OriginError, match="the origin is gone"):
                    await early
                with pytest.raises(OriginError, match="the origin is gone"):
                    await run_.receive(nodes.nodes["b"])

        run(work)


def manifest_of(total_bytes: int) -> Manifest:
    """A manifest of a model that nobody has."""
    blocks = -(-total_bytes // MIB)
    return Manifest.of([Entry("saved_model.pb", total_bytes, Digest("0" * 64), bytes(32 * blocks))])


@pytest.mark.parametrize(("total_bytes", "shared"), [(64 * MIB, 0), (3 << 30, 1)])
def test_a_large_manifest_is_shared_once(total_bytes: int, shared: int) -> None:
    manifest = manifest_of(total_bytes)
    put: list[Any] = []

    def share(value: Any) -> str:
        put.append(value)
        return "reference"

    payload = Payload(list(cut_chunks(manifest, MIB)), manifest, (0,), MIB, share=share)
    sent = [payload.manifest_to_send for _ in range(3)]
    assert sent == ["reference" if shared else manifest] * 3
    assert put == [manifest] * shared


def test_errors_of_the_run_are_hubdists(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(MIB)})

        def fail(_: str, __: tuple[Any, ...]) -> None:
            raise HubdistError("the seat cannot be taken")

        nodes.before["follow"] = fail

        async def work() -> None:
            [found] = await bring(deliveries(nodes), nodes, manifest, "a")
            assert isinstance(found, HubdistError)
            assert "node a" in str(found)

        run(work)


def test_nodes_of_faster_links_sit_above_slower_ones(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, *"abcd") as nodes:
        for name, link in {"a": 1e8, "b": 1e9, "c": 1e8, "d": 1e9}.items():
            nodes.nodes[name] = replace(nodes.nodes[name], link=link)
        manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(16 * MIB)})
        parents: dict[str, set[str]] = {}

        def note(name: str, arguments: tuple[Any, ...]) -> None:
            parents[name] = {parent.name for parent in arguments[1].parents.values()}

        nodes.before["follow"] = note

        async def work() -> None:
            found = await bring(deliveries(nodes), nodes, manifest, "abcd")
            assert all(isinstance(each, DeliveryStats) for each in found), found

        run(work)
        assert parents["b"] | parents["d"] <= {DRIVER, "b", "d"}
        assert (parents["a"] | parents["c"]) & {"b", "d"}
