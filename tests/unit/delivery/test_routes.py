"""Which ways a node tries, in which order: a table from evidence to routes and reasons."""

from __future__ import annotations

import pytest

from hubdist.delivery.routes import Evidence, ProbeResult, Route, order_routes

YES = ProbeResult(usable=True, why="it can")
NO = ProbeResult(usable=False, why="no credentials")


@pytest.mark.parametrize(
    ("evidence", "routes", "refused"),
    [
        (Evidence(), "driver", ""),
        (Evidence(node_holds_snapshot=True, shared=YES, wanted=Route.DIRECT), "store", ""),
        (Evidence(shared=YES), "shared driver", ""),
        (Evidence(direct=YES), "direct driver", ""),
        (Evidence(shared=YES, direct=YES), "shared direct driver", ""),
        (Evidence(Route.DIRECT, shared=YES, direct=YES), "direct shared driver", ""),
        (Evidence(Route.SHARED, shared=NO, direct=YES), "direct driver", "shared"),
        (Evidence(Route.SHARED), "driver", "shared"),
        (Evidence(Route.DIRECT), "driver", "direct"),
        (Evidence(Route.DRIVER, shared=YES, direct=YES), "driver", ""),
        (Evidence(shared=NO, direct=NO), "driver", "shared direct"),
    ],
)
def test_the_order_follows_from_the_evidence(evidence: Evidence, routes: str, refused: str) -> None:
    order = order_routes(evidence)
    assert [choice.route.value for choice in order.choices] == routes.split()
    assert [choice.route.value for choice in order.refused] == refused.split()
    assert all(choice.reason for choice in (*order.choices, *order.refused))


def test_the_drivers_route_says_what_is_in_the_way_of_the_others() -> None:
    assert order_routes(Evidence(shared=NO)).first.reason == "not shared: no credentials"


def test_a_wanted_route_that_does_not_exist_is_named() -> None:
    first = order_routes(Evidence(Route.SHARED)).first
    assert str(first) == "driver (not shared: the model is in no shared cache)"
