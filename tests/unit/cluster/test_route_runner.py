"""One bad neighbour stays alone: what happens to one node is in its report, and others neither fail nor wait."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from hubdist.cluster.nodes import Node
from hubdist.delivery.routes import Route
from hubdist.errors import PeerError
from tests.support.fake_agents import fake_nodes, run
from tests.unit.cluster.test_origin_feed import Job

SECRET = "token=hunter2"


@pytest.mark.parametrize("where", ["first", "_make_agent"])
def test_an_unexpected_failure_for_one_node_is_in_its_report_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """As it asks whose store the node shares, and as its agent is made."""
    with fake_nodes(tmp_path / "stores", "bad", "good") as nodes:
        job = Job(nodes, tmp_path)
        failed: list[str] = []

        def fail(node: Node) -> None:
            if node.id == "bad":
                failed.append(where)
                raise RuntimeError(f"a bug, or Ray's own trouble, with {SECRET}")

        if where == "first":
            first = job.stores.first

            async def find(node: Node) -> Node:
                fail(node)
                return await first(node)

            monkeypatch.setattr(job.stores, "first", find)
        else:
            make = nodes.agents._make_agent

            def make_or_fail(config: Any, node: Node) -> Any:
                fail(node)
                return make(config, node)

            monkeypatch.setattr(nodes.agents, "_make_agent", make_or_fail)

        async def work() -> None:
            await job.read()
            bad, good = await asyncio.gather(job.ask("bad"), job.ask("good"))
            assert failed
            assert "unexpected RuntimeError" in caplog.text
            assert SECRET not in caplog.text + str(bad.error)
            assert good.error is None
            if where == "_make_agent":
                assert isinstance(bad.error, PeerError)
                assert "unexpected RuntimeError" in str(bad.error)
                assert "on node node bad" in str(bad.error)

        run(work)
        assert job.has("good")


def test_nodes_that_share_a_store_do_not_wait_for_one_that_gives_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fake_nodes(tmp_path / "stores", "gone", "waits") as nodes:
        job = Job(nodes, tmp_path)

        async def first(node: Node) -> Node:
            return nodes.nodes["gone"] if node.id == "waits" else node

        monkeypatch.setattr(job.stores, "first", first)

        async def work() -> None:
            await job.read()
            nodes.stop("gone")
            begin = time.monotonic()
            report = await job.ask("waits")
            assert time.monotonic() - begin < 15
            assert report.error is None
            assert report.route is Route.DRIVER

        run(work)
        assert job.has("waits")
