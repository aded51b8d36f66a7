"""The real plan with simulated nodes and links. The same at every run: time is simulated, no clock is read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import REPOSITORY

MIB = 1 << 20


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one case of `benchmarks/simulate.py`, which checks every command; the outcome."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import simulate

    def run(nodes: int, mib: int, **more: float) -> Any:
        step = 0.0 if nodes <= simulate.EXACT_NODES else 0.125
        case = simulate.Case("case", nodes, mib * MIB, None, 64 * MIB, 12.5e6, 1e-3, step=step, **more)
        return simulate.Simulation(case, seed=1).run()

    return run


@pytest.mark.parametrize("nodes", [2, 8, 64, 512])
def test_a_delivery_takes_little_longer_than_the_bound_and_no_link_sends_much_more(simulated: Any, nodes: int) -> None:
    outcome = simulated(nodes, 256)
    assert outcome.took_s <= 1.3 * outcome.case.bound_s
    assert outcome.sent[-1] == pytest.approx(outcome.case.total_bytes, rel=0.001)
    assert max(outcome.sent[:-1]) <= 1.5 * outcome.case.total_bytes
    assert outcome.fetches == nodes * len(outcome.case.sizes)


def test_eight_nodes_take_little_longer_than_two(simulated: Any) -> None:
    assert simulated(8, 64).took_s <= 1.25 * simulated(2, 64).took_s


def test_memory_in_flight_is_bounded(simulated: Any) -> None:
    outcome = simulated(64, 1024)
    assert max(outcome.into, outcome.out, outcome.from_source) <= 64 * MIB


def test_nodes_that_die_do_not_keep_the_others_long(simulated: Any) -> None:
    assert simulated(64, 256, failing=0.1).took_s <= 1.3 * simulated(64, 256).took_s + 5


def test_slow_nodes_hold_the_others_up_by_less_than_half(simulated: Any) -> None:
    outcome = simulated(64, 1024, slow=0.05)
    assert outcome.took_s <= 1.5 * outcome.case.bound_s
