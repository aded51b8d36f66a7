"""Predicted times in the reports of a delivery."""

from __future__ import annotations

from typing import Any

from hubdist.cluster.coordinator.delivery_reports import with_predictions
from hubdist.delivery.routes import Route
from hubdist.errors import PeerError
from hubdist.report.delivery import NodeReport

SIZE = 100 << 20
LINK = 1e9 / 8


def report(route: Route | None, size: int, **others: Any) -> NodeReport:
    return NodeReport("id", "name", "handle", "sha256:1", route, "why", source="other", bytes_received=size, **others)


RECEIVED = [report(Route.DRIVER, SIZE), report(Route.DRIVER, SIZE)]
OTHERS = [
    report(Route.STORE, 0),
    report(Route.SHARED, SIZE),
    report(Route.DRIVER, SIZE // 2, error=PeerError("lost")),
]


def test_nodes_that_received_by_the_route_driver_have_one_prediction() -> None:
    *others, one, two = with_predictions([*OTHERS, *RECEIVED], SIZE, LINK, agents_run=True)
    assert others == OTHERS
    assert one.predicted_s == two.predicted_s
    assert one.predicted_s is not None
    assert SIZE / LINK < one.predicted_s < 1.5 * SIZE / LINK
    assert f"{one.predicted_s:.2f} s predicted" in str(one)
    assert "predicted" not in str(OTHERS[1])


def test_agents_that_have_to_start_take_their_time() -> None:
    up, cold = (with_predictions(RECEIVED, SIZE, LINK, agents_run=run)[0].predicted_s for run in (True, False))
    assert up is not None
    assert cold is not None
    assert cold > up


def test_nothing_is_predicted_without_the_link_or_without_a_delivery() -> None:
    assert with_predictions(RECEIVED, SIZE, None, agents_run=True) == RECEIVED
    assert with_predictions(OTHERS, SIZE, LINK, agents_run=True) == OTHERS
