"""Deliveries between nodes that stop, wake and are slow, and how much is under way; without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.agent.messages import DeliveryTerms
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import RunningDeliveries
from hubdist.delivery.routes import Route
from hubdist.errors import NodeLostError, PeerError, StoreError
from hubdist.model.manifest import Manifest
from hubdist.remote.snapshot_copy import RemoteCopy, list_copy
from hubdist.streams.buffers import Buffers
from tests.support.fake_agents import DRIVER, QUICK, FakeActor, FakeNodes, fake_nodes, run, until

MIB = 1 << 20
SOON_S = 15.0
"""Far below `chunk_timeout_s`, and far above what is needed."""


class Job:
    """A job's deliveries of one model, which the driver has; by streams, or in chunks from a directory if `copies`."""

    def __init__(self, nodes: FakeNodes, mib: int = 12, *, copies: bool = False) -> None:
        self.nodes = nodes
        self.manifest = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(mib * MIB)})
        self.deliveries = RunningDeliveries(nodes.nodes[DRIVER], nodes.agents, nodes.cluster, nodes.config, QUICK)
        self.copy: RemoteCopy | None = None
        if copies:
            found = nodes.stores[DRIVER].find(self.manifest.digest)
            assert found is not None
            with found:
                self.copy = list_copy(str(found.path), nodes.config.deadlines)

    async def bring(self, name: str, manifest: Manifest | None = None) -> DeliveryStats | None:
        node = self.nodes.nodes[name]
        route = Route.DRIVER if self.copy is None else Route.SHARED
        brought = await self.deliveries.join_delivery(manifest or self.manifest, node, route, self.copy)
        self.deliveries.note_holder(self.manifest.digest, node)
        return brought

    def start(self) -> Any:
        """The delivery, for tests that keep it from ending."""
        return self.deliveries._start_run(self.manifest, list(self.nodes.nodes.values()), self.copy)


def stopping(nodes: FakeNodes, name: str, after: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Stops a node when it is called for the next time after so many calls."""
    left = [after]
    guard = threading.Lock()

    def stop(called: str, _: tuple[Any, ...]) -> None:
        with guard:
            left[0] -= called == name
            if called == name and left[0] < 0:
                nodes.stop(name)
        nodes.wait(called)

    return stop


@pytest.mark.parametrize("copies", [False, True])
def test_a_sender_that_stops_delays_others_by_seconds(tmp_path: Path, copies: bool) -> None:
    with fake_nodes(tmp_path, "holder", "late", host=None) as nodes:
        job = Job(nodes, copies=copies)

        async def work() -> None:
            assert await job.bring("holder")
            nodes.before["send"] = stopping(nodes, "holder", 0 if copies else 2)
            begin = time.monotonic()
            brought = await job.bring("late")
            assert time.monotonic() - begin < SOON_S
            assert brought is not None
            assert len(dict(brought.sources).keys() - {"node holder"}) == 1
            assert sum(size for _, size in brought.sources) == 12 * MIB
            windows = job.deliveries._context.windows
            assert windows.used("late") == windows.used("holder") == (0, 0)

        run(work)
        assert nodes.has("late", job.manifest)


def test_what_was_asked_of_a_silent_sender_is_given_up_where_it_is_awaited(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "holder", "late", host=None) as nodes:
        job = Job(nodes, copies=True)

        async def work() -> None:
            assert await job.bring("holder")
            nodes.before["send"] = stopping(nodes, "holder", 0)
            await job.bring("late")
            assert nodes.calls["late", "cancel_requests"] == 1

        run(work)


@pytest.mark.parametrize("call", ["fetch", "follow", "wait_for_news"])
def test_a_receiver_that_stops_delays_others_by_seconds_and_goes_on_when_it_wakes(tmp_path: Path, call: str) -> None:
    with fake_nodes(tmp_path, "stops", "other") as nodes:
        job = Job(nodes, copies=call == "fetch")
        nodes.before[call] = stopping(nodes, "stops", call == "fetch")

        async def work() -> None:
            first = asyncio.create_task(job.bring("stops"))
            begin = time.monotonic()
            await job.bring("other")
            assert time.monotonic() - begin < SOON_S
            assert not first.done()
            nodes.before.pop(call)
            nodes.go_on("stops")
            assert await first is not None

        run(work)
        assert nodes.has("stops", job.manifest)
        assert nodes.has("other", job.manifest)


@pytest.mark.parametrize("call", ["fetch", "wait_for_news"])
def test_a_node_that_never_wakes_is_given_up_with_an_error_that_says_so(tmp_path: Path, call: str) -> None:
    with fake_nodes(tmp_path, "stops", chunk_timeout_s=1) as nodes:
        job = Job(nodes, copies=call == "fetch")
        nodes.before[call] = stopping(nodes, "stops", 0)

        async def work() -> None:
            delivery = job.start()
            async with delivery.use():
                await delivery._prepare_senders()
                bringing = asyncio.create_task(delivery._receive_once(nodes.nodes["stops"]))
                with pytest.raises(Exception, match=r"the node gave no answer for \d+ s; on node node stops"):
                    await asyncio.wait_for(bringing, SOON_S)

        run(work)


@pytest.mark.parametrize("copies", [False, True])
def test_a_slow_sender_that_lives_is_not_given_up(tmp_path: Path, copies: bool) -> None:
    with fake_nodes(tmp_path, "holder", "late", host=None) as nodes:
        job = Job(nodes, mib=4, copies=copies)

        async def work() -> None:
            assert await job.bring("holder")
            nodes.before["send"] = lambda name, _: time.sleep(1.5 if name == "holder" else 0)
            brought = await job.bring("late")
            assert brought is not None
            assert brought.retries == 0
            assert copies or "node holder" in dict(brought.sources)

        run(work)
        assert nodes.calls["holder", "answer"] > 0
        assert nodes.calls["late", "cancel_requests"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", None])
def test_all_deliveries_to_a_node_together_stay_within_in_flight_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str | None
) -> None:
    lent: Counter[Buffers] = Counter()
    most: Counter[Buffers] = Counter()
    guard = threading.Lock()
    real = Buffers.take

    @contextlib.contextmanager
    def take(self: Buffers, size: int) -> Iterator[memoryview]:
        with real(self, size) as buffer:
            with guard:
                lent[self] += 1
                most[self] = max(most[self], lent[self])
            time.sleep(0.02)
            yield buffer
            with guard:
                lent[self] -= 1

    monkeypatch.setattr(Buffers, "take", take)
    with fake_nodes(tmp_path, "a", "b", max_in_flight_bytes=4 * MIB, host=host) as nodes:
        job = Job(nodes)
        models = [nodes.publish(DRIVER, {"saved_model.pb": os.urandom(3 * MIB)}) for _ in range(20)]

        async def work() -> None:
            await asyncio.gather(*(job.bring(name, model) for model in models for name in ("a", "b")))

        run(work)
        assert all(nodes.has(name, model) for name in ("a", "b") for model in models)
        assert sorted(most.values()) == [4, 4]


def test_a_node_that_hands_on_and_asks_again_keeps_what_it_holds(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "near", "late", host=None) as nodes:
        job = Job(nodes)
        asked, go_on = threading.Event(), threading.Event()

        def wait(name: str, _: tuple[Any, ...]) -> None:
            if name == "near" and not go_on.is_set():
                asked.set()
                assert go_on.wait(30)

        async def work() -> None:
            delivery = job.start()
            async with delivery.use():
                assert await delivery.receive(nodes.nodes["near"])
                nodes.before["send"] = wait
                late = asyncio.create_task(delivery.receive(nodes.nodes["late"]))
                assert await asyncio.to_thread(asked.wait, 30)
                assert await delivery.receive(nodes.nodes["near"]) is None  # while the late one is served by it
                go_on.set()
                brought = await late
                assert brought is not None
                assert brought.retries == 0
                assert "node near" in dict(brought.sources)

        run(work)


def test_a_node_that_nobody_waits_for_any_more_keeps_nobody_waiting(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "left", "other") as nodes:
        job = Job(nodes, mib=4)
        asked, go_on = threading.Event(), threading.Event()

        def wait(name: str, _: tuple[Any, ...]) -> None:
            if name == "left":
                asked.set()
                assert go_on.wait(30)

        nodes.before["wait_for_news"] = wait

        async def work() -> None:
            delivery = job.start()
            async with delivery.use():
                left = asyncio.create_task(delivery._receive_once(nodes.nodes["left"]))
                assert await asyncio.to_thread(asked.wait, 30)
                left.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await left
                assert await delivery.receive(nodes.nodes["other"])
            go_on.set()

        run(work)
        assert nodes.has("other", job.manifest)


def test_a_delivery_whose_agent_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "good", "bad") as nodes:
        job = Job(nodes)
        make = nodes.agents._make_agent

        def refuse(config: Any, node: Any) -> Any:
            if node.id == "bad":
                raise RuntimeError("no more processes")
            return make(config, node)

        nodes.agents._make_agent = refuse

        async def work() -> None:
            results = await asyncio.gather(job.bring("bad"), job.bring("good"), return_exceptions=True)
            assert isinstance(results[0], RuntimeError)
            assert isinstance(results[1], DeliveryStats)

        run(work)


def test_an_unexpected_error_of_an_agent_is_reported_by_its_type_and_never_by_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        job = Job(nodes, mib=1)
        url = "https://host/model?token=secret"

        def fail(_: str, __: tuple[Any, ...]) -> None:
            raise RuntimeError(url)

        nodes.before["follow"] = fail

        async def work() -> None:
            with pytest.raises(PeerError, match="unexpected RuntimeError in the delivery") as raised:
                await job.bring("a")
            assert "token=secret" not in str(raised.value)

        run(work)
        assert "unexpected RuntimeError in the delivery to node a" in caplog.text
        assert "agent_tasks.py" in caplog.text
        assert "token=secret" not in caplog.text


@pytest.mark.parametrize("call", ["fetch", "follow", "wait_for_news"])
def test_a_node_that_has_left_the_cluster_is_given_up_at_once(tmp_path: Path, call: str) -> None:
    with fake_nodes(tmp_path, "left", "other") as nodes:
        job = Job(nodes, copies=call == "fetch")
        nodes.before[call] = stopping(nodes, "left", 0)
        everybody = nodes.cluster.list_nodes

        async def work() -> None:
            left = asyncio.create_task(job.bring("left"))
            await until(lambda: nodes.calls["left", call] > 0)
            nodes.cluster.list_nodes = lambda: [node for node in everybody() if node.id != "left"]
            with pytest.raises(NodeLostError, match="the node is gone; on node node left"):
                await asyncio.wait_for(left, SOON_S)
            assert await job.bring("other")

        run(work)


def test_the_last_to_leave_a_delivery_lets_every_agent_forget_it(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b") as nodes:
        job = Job(nodes, mib=2)

        async def work() -> None:
            await asyncio.gather(job.bring("a"), job.bring("b"))
            assert not job.deliveries.active
            assert nodes.calls[DRIVER, "forget"] == 1
            await until(lambda: all(nodes.calls[name, "forget"] == 1 for name in (DRIVER, "a", "b")))
            await until(lambda: all(idle(actor._agent) for actor in nodes.actors))

        run(work)


def idle(agent: Any) -> bool:
    """True if an agent has no stage, no secret and no snapshot of a delivery any more, and no streams."""
    files = agent._exchange._files
    kept = (files._offered, files._filling, files._held, agent._exchange._incoming, agent._port._units)
    return not any((*kept, agent._streams._following, agent._begun, agent._last_news))


def test_nobody_waits_for_nodes_to_forget_but_who_receives_there_again(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a", "b", max_store_bytes=6 * MIB) as nodes:
        job = Job(nodes, mib=2)
        asked, go_on = threading.Event(), threading.Event()

        def hold(name: str, _: tuple[Any, ...]) -> None:
            if name == "a":
                asked.set()
                assert go_on.wait(30)

        nodes.before["forget"] = hold

        async def work() -> None:
            await asyncio.gather(job.bring("a"), job.bring("b"))
            assert await asyncio.to_thread(asked.wait, 30)
            other = nodes.publish(DRIVER, {"saved_model.pb": os.urandom(2 * MIB)})
            again = asyncio.create_task(job.bring("a", other))
            assert await job.bring("b", other)
            assert not again.done()
            assert nodes.calls["a", "receive"] == 0
            go_on.set()
            assert await again
            assert nodes.calls["a", "receive"] == 1

        run(work)


def test_an_agent_that_is_told_of_several_ends_forgets_each_whatever_the_others_do(tmp_path: Path) -> None:
    with fake_nodes(tmp_path, "a") as nodes:
        agent = FakeActor(nodes, nodes.config, nodes.nodes["a"])._agent
        for name in "xyz":
            agent.begin(name, None, DeliveryTerms(b"s" * 32), None)
        real = agent._exchange.forget

        def forget(delivery: str) -> None:
            real(delivery)
            if delivery == "y":
                raise StoreError("the disk refuses", path="/disk")

        agent._exchange.forget = forget
        with pytest.raises(StoreError):
            agent.forget(*"xyz")
        assert idle(agent)
