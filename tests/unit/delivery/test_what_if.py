"""What a delivery would take: bounds, what helps and what does not, and that the simulation of units says the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.delivery.costs import Costs
from hubdist.delivery.what_if import Bottleneck, Cores, Links, Prediction, predict
from tests.support import REPOSITORY
from tests.support.examples import examples

MIB = 1 << 20
GIB = 1 << 30
GBIT = 1e9 / 8
FREE = Costs(0.0, 0.0, payload_part=1.0, uneven=0.0, call_s=0.0, start_s=0.0, node_s=0.0, agent_start_s=0.0)
"""Nothing takes time but links, which are shared evenly."""

RATES = st.floats(0.1 * GBIT, 100 * GBIT)
LINKS = st.builds(Links, st.lists(RATES, min_size=1, max_size=9).map(tuple), RATES, are_known=st.booleans())
SIZES = st.integers(16 * MIB, 300 * MIB)


def equal(nodes: int, rate: float = GBIT, **others: Any) -> Links:
    return Links((rate,) * nodes, rate, **others)


def parts_of(prediction: Prediction) -> dict[Bottleneck, float]:
    return dict(prediction.parts)


@settings(deadline=None, max_examples=examples(60))
@given(links=LINKS, size=st.integers(1, 300 * MIB))
def test_no_delivery_is_faster_than_its_links(links: Links, size: int) -> None:
    found = predict(size, links, costs=FREE)
    for rate, seconds in zip(links.nodes, found.node_seconds, strict=True):
        assert seconds >= 0.999999 * size / rate
    assert found.seconds >= 0.999999 * max(found.source_bytes / links.source, size / min(links.nodes))


# Below, a few thousandths may go the wrong way: another node is complete first, and the coordinator hears of it first.


@settings(deadline=None, max_examples=examples(60))
@given(links=LINKS, size=SIZES, more=st.integers(0, 100 * MIB))
def test_more_bytes_are_never_faster(links: Links, size: int, more: int) -> None:
    assert predict(size + more, links).seconds >= 0.99 * predict(size, links).seconds


@settings(deadline=None, max_examples=examples(60))
@given(links=LINKS, size=SIZES, factor=st.floats(1, 10))
def test_faster_links_are_never_slower(links: Links, size: int, factor: float) -> None:
    faster = replace(links, nodes=tuple(factor * rate for rate in links.nodes), source=factor * links.source)
    assert predict(size, faster).seconds <= 1.01 * predict(size, links).seconds


@settings(deadline=None, max_examples=examples(60))
@given(links=LINKS, size=SIZES)
def test_all_bytes_are_sent_by_somebody_and_the_source_sends_about_one_model(links: Links, size: int) -> None:
    found = predict(size, links)
    assert found.source_bytes + sum(found.node_bytes) == size * len(links.nodes)
    if not links.are_known:
        assert found.source_bytes == size


@pytest.mark.parametrize("nodes", [1, 2, 8, 64, 512])
def test_equal_nodes_are_close_to_the_bound(nodes: int) -> None:
    links = equal(nodes, 25 * GBIT, latency_s=0.0)
    stripes = 8  # a unit waits for so many others on its way, at each hop
    bound_s = (GIB + stripes * math.log(nodes + 1, 4) * MIB) / (25 * GBIT)
    assert predict(GIB, links, costs=FREE).seconds <= 1.05 * bound_s


def test_thousands_of_nodes_are_predicted() -> None:
    rates = [(1 + number % 7) * GBIT for number in range(4096)]
    found = predict(GIB // 4, Links(rates, 7 * GBIT, are_known=True))
    assert len(found.node_seconds) == 4096
    assert found.bottleneck is Bottleneck.COORDINATOR
    assert found.calls == 4096 * Costs().calls_per_node
    assert found.call_seconds == pytest.approx(found.calls * Costs().call_s)


@pytest.mark.parametrize(
    ("kind", "nodes", "mib", "gbit"),
    [
        ("equal", 2, 64, 1),
        ("equal", 8, 128, 1),
        ("equal", 13, 256, 10),
        ("equal", 200, 1024, 25),
        ("mixed", 9, 128, 1),
        ("mixed", 24, 512, 10),
        ("mixed", 64, 1024, 10),
    ],
)
def test_the_simulation_of_units_says_the_same(
    monkeypatch: pytest.MonkeyPatch, kind: str, nodes: int, mib: int, gbit: int
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import simulate_forest

    case = simulate_forest.Case(kind, nodes, mib * MIB, call_s=0.0, rate=gbit * GBIT)
    simulation = simulate_forest.ForestSimulation(case, seed=5)
    simulation.run()
    rates = simulation.rates[:nodes].tolist()
    links = Links(rates, case.rate, latency_s=case.latency_s, are_known=kind == "mixed")
    assert predict(mib * MIB, links, costs=FREE).seconds == pytest.approx(float(simulation.done.max()), rel=0.03)


# What is named as the bottleneck, and helps if it is made faster


@pytest.mark.parametrize(
    ("bottleneck", "links", "cores"),
    [
        (Bottleneck.NODE_LINKS, Links((GBIT,) * 6, 10 * GBIT), Cores()),
        (Bottleneck.NODE_LINKS, Links((10 * GBIT, 10 * GBIT, GBIT), 10 * GBIT), Cores()),
        (Bottleneck.SOURCE_LINK, Links((10 * GBIT,) * 6, GBIT), Cores()),
        (Bottleneck.ORIGIN, Links((10 * GBIT,) * 6, 10 * GBIT, origin=GBIT), Cores()),
        (Bottleneck.PROCESSORS, equal(6, 100 * GBIT), Cores(1)),
        (Bottleneck.PROCESSORS, equal(6, 10 * GBIT), Cores(8, shared=2)),
    ],
)
def test_the_bottleneck_is_named_and_takes_nearly_all_the_time(
    bottleneck: Bottleneck, links: Links, cores: Cores
) -> None:
    found = predict(GIB, links, cores=cores)
    assert found.bottleneck is bottleneck
    alone = parts_of(found)[bottleneck]
    assert alone <= found.seconds <= 1.3 * alone + 0.3


def test_a_small_model_waits_for_the_start() -> None:
    up, cold = (predict(MIB // 16, equal(4), agents_run=run) for run in (True, False))
    assert up.bottleneck is cold.bottleneck is Bottleneck.START
    assert cold.seconds - up.seconds > Costs().agent_start_s


def test_a_slow_node_that_is_known_holds_up_nobody_else() -> None:
    rates = (GBIT,) + (10 * GBIT,) * 11
    known, unknown = (
        predict(GIB, Links(rates, 10 * GBIT, are_known=are_known), costs=FREE) for are_known in (True, False)
    )
    assert max(known.node_seconds[1:]) <= 1.2 * GIB / (10 * GBIT)
    assert max(unknown.node_seconds[1:]) >= 3 * GIB / (10 * GBIT)
    assert known.node_seconds[0] == pytest.approx(GIB / GBIT, rel=0.1)


def test_it_does_not_matter_in_which_order_links_are_named() -> None:
    rates = tuple(rate * GBIT for rate in (5, 5, 2, 2, 1, 1))
    fast_first, slow_first = (predict(48 * MIB, Links(each, 5 * GBIT), costs=FREE) for each in (rates, rates[::-1]))
    assert fast_first.seconds == pytest.approx(slow_first.seconds, rel=0.02)
    for rate, seconds in zip(rates[::-1], slow_first.node_seconds, strict=True):
        assert seconds >= 0.999999 * 48 * MIB / rate
