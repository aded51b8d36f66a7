"""The real plan of streams with simulated nodes and links. Time is simulated, so every run is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hubdist.delivery import StreamLags
from hubdist.streams.lag import LagWatch, Progress, find_lead
from tests.support import REPOSITORY

GIB = 1 << 30


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import simulate_forest

    return simulate_forest


@pytest.mark.parametrize(("kind", "limit"), [("equal", 1.2), ("slow", 1.3), ("dying", 1.25), ("mixed", 1.1)])
def test_a_delivery_takes_little_longer_than_the_bound(simulation: Any, kind: str, limit: float) -> None:
    outcome = simulation.ForestSimulation(simulation.Case(kind, 64, GIB), seed=1).run()
    assert outcome.took <= limit
    assert outcome.slower <= (limit if kind == "mixed" else 1.1)
    assert outcome.from_source <= 1.3
    assert outcome.busiest <= 1.5


def test_the_coordinator_calls_each_node_twice_and_is_told_little(simulation: Any) -> None:
    outcome = simulation.ForestSimulation(simulation.Case("equal", 512, GIB, call_s=0.0003), seed=1).run()
    assert outcome.took <= 1.4
    assert outcome.complaints == outcome.moves == 0
    assert 1.9 * 512 <= outcome.calls <= 2 * 512
    assert outcome.from_source == pytest.approx(1, rel=0.001)


def test_agents_that_have_just_started_take_two_calls_more(simulation: Any) -> None:
    case = simulation.Case("equal", 64, GIB, is_cold=True)
    outcome = simulation.ForestSimulation(case, seed=1).run()
    assert 3.8 * 64 <= outcome.calls <= 4 * 64


def test_a_child_waits_until_its_parent_has_begun(simulation: Any) -> None:
    sim = simulation.ForestSimulation(simulation.Case("equal", 12, GIB, latency_s=0.0), seed=1)
    sim.begin(0, 1.0)
    for stripe, parent in enumerate((12, 0, 1, 2)):
        sim.seat(0, stripe, parent, 1.0)
    assert sim.begins[0, :2].tolist() == [1.0, 1.0]
    sim.begin(1, 1.025)
    sim.begin(2, 3.01)  # after the parent's port has closed the connection
    assert sim.begins[0, 2:4] == pytest.approx([1.025, 3.05])


def test_nodes_that_appear_one_after_another_are_soon_complete(simulation: Any) -> None:
    outcome = simulation.ForestSimulation(simulation.Case("late", 200, GIB), seed=1).run()
    assert outcome.worst_late <= 1.5
    assert outcome.from_source == pytest.approx(1, rel=0.001)


def test_nodes_of_the_simulation_complain_as_agents_do(simulation: Any) -> None:
    """The simulation applies the rule of `LagWatch` to all nodes at once."""
    nodes, stripes = 12, 8
    random = np.random.default_rng(1)
    sim = simulation.ForestSimulation(simulation.Case("equal", nodes, GIB), seed=1)
    sim.parent = random.integers(0, nodes + 1, (nodes, stripes))
    sim.seated[:] = True
    sim.begins[:] = np.where(random.random((nodes, stripes)) < 0.1, 1.0, -1.0)
    watches = [LagWatch(stripes) for _ in range(nodes)]
    speeds = random.choice([0.2, 0.9, 1.0], (nodes, stripes), p=[0.2, 0.2, 0.6])
    speeds[:2] *= 0.25
    told = 0
    for _ in range(400):
        sim.got[:nodes] = np.minimum(sim.got[:nodes] + speeds * random.uniform(0, 1, (nodes, 1)), 120)
        sim.queue.clear()
        sim.answered[:] = 0
        sim.complain(0.0)
        counts = sim.got.astype(int)
        expected = set()
        for node, watch in enumerate(watches):
            parents = [_progress(counts, sim, node, stripe) for stripe in range(stripes)]
            expected |= {(node, stripe) for stripe in watch.look(counts[node].tolist(), parents)}
        found = {(sim.index[each.node], each.stripe) for timed in sim.queue for each in timed.what}
        assert all(isinstance(each, StreamLags) for timed in sim.queue for each in timed.what)
        assert found == expected
        told += len(found)
    assert told > 20


def _progress(counts: Any, sim: Any, node: int, stripe: int) -> Progress | None:
    parent = sim.parent[node, stripe]
    if sim.begins[node, stripe] > 0:
        return None
    own = counts[parent].tolist()
    return Progress(own[stripe], find_lead(own), min(own) > 0)
