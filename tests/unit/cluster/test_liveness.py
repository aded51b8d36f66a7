"""Which nodes are taken for silent: those that owe something and give no answer, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.coordinator.liveness import DEFAULT_TIMES, Liveness
from hubdist.cluster.nodes import ClusterView
from hubdist.errors import NodeLostError
from tests.support.fake_agents import FakeNodes, fake_nodes, until

QUIET_S, SILENT_S = DEFAULT_TIMES.quiet_s, DEFAULT_TIMES.silent_s


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def looked(tmp_path: Path) -> Any:
    """Runs a test with nodes, a liveness and its clock."""

    def run(work: Callable[[FakeNodes, Liveness, Clock], Coroutine[Any, Any, None]]) -> None:
        with fake_nodes(tmp_path, "a") as nodes:
            clock = Clock()

            async def within() -> None:
                await asyncio.wait_for(work(nodes, Liveness(nodes.agents, ClusterView(clock=clock)), clock), 30)

            asyncio.run(within())

    return run


def pass_by(liveness: Liveness, clock: Clock, nodes: FakeNodes, seconds: float) -> float:
    """Look each second, as transfers do; how long the node is silent at the end."""
    silent_s = 0.0
    for _ in range(int(seconds)):
        clock.now += 1
        silent_s = liveness.silent_s(nodes.nodes["a"])
    return silent_s


def test_a_node_that_is_heard_of_is_not_asked(looked: Any) -> None:
    async def work(nodes: FakeNodes, liveness: Liveness, clock: Clock) -> None:
        for _ in range(20):
            clock.now += 1
            liveness.heard("a")
            assert liveness.silent_s(nodes.nodes["a"]) == 0
        assert nodes.calls["a", "answer"] == 0

    looked(work)


def test_a_node_that_answers_is_never_silent_and_is_asked_from_time_to_time(looked: Any) -> None:
    async def work(nodes: FakeNodes, liveness: Liveness, clock: Clock) -> None:
        for asked in range(1, 5):
            assert pass_by(liveness, clock, nodes, QUIET_S + 1) < SILENT_S
            await until(lambda asked=asked: nodes.calls["a", "answer"] == asked)  # type: ignore[misc]  # default
            await until(lambda: liveness.silent_s(nodes.nodes["a"]) == 0)

    looked(work)


def test_a_node_that_stops_is_silent_until_it_answers(looked: Any) -> None:
    async def work(nodes: FakeNodes, liveness: Liveness, clock: Clock) -> None:
        liveness.heard("a")
        nodes.stop("a")
        assert pass_by(liveness, clock, nodes, QUIET_S) < SILENT_S
        await asyncio.sleep(0)
        assert SILENT_S <= pass_by(liveness, clock, nodes, SILENT_S + 1) < 15
        nodes.go_on("a")
        await until(lambda: liveness.silent_s(nodes.nodes["a"]) == 0)

    looked(work)


def test_what_a_node_owed_long_ago_is_not_held_against_it(looked: Any) -> None:
    async def work(nodes: FakeNodes, liveness: Liveness, clock: Clock) -> None:
        nodes.stop("a")
        assert pass_by(liveness, clock, nodes, 20) > SILENT_S
        clock.now += 3600  # nobody cares
        assert liveness.silent_s(nodes.nodes["a"]) == 0

    looked(work)


def test_an_agent_that_was_lost_is_not_a_silent_node(looked: Any) -> None:
    """Its next one may take long to start."""

    async def work(nodes: FakeNodes, liveness: Liveness, clock: Clock) -> None:
        def lose(_: str, __: tuple[Any, ...]) -> None:
            raise NodeLostError("it was killed")

        nodes.before["answer"] = lose
        for asked in range(1, 4):
            assert pass_by(liveness, clock, nodes, SILENT_S - 1) < SILENT_S
            await until(lambda asked=asked: nodes.calls["a", "answer"] == asked)  # type: ignore[misc]  # default
            await until(lambda: liveness.silent_s(nodes.nodes["a"]) == 0)

    looked(work)
