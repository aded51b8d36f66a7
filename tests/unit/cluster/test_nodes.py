"""What the labels of Ray's nodes tell of their places and links."""

from __future__ import annotations

import pytest

from hubdist.cluster.nodes import LINK_LABEL, link_of, zone_of


@pytest.mark.parametrize(
    ("labels", "zone"),
    [
        ({}, ""),
        ({"ray.io/availability-region": "us"}, ""),
        ({"ray.io/availability-zone": "us-a"}, "us-a"),
        ({"ray.io/availability-zone": "us-a", "topology.kubernetes.io/rack": "r7"}, "r7"),
        ({"rack": "r7"}, "r7"),
        ({"track": "r7"}, ""),
    ],
)
def test_a_rack_or_else_a_zone_is_where_a_node_is(labels: dict[str, str], zone: str) -> None:
    assert zone_of(labels) == zone


@pytest.mark.parametrize(
    ("text", "link"), [(None, None), ("25Gbps", 25e9 / 8), ("100MBps", 100e6), ("fast", None), ("-1Gbps", None)]
)
def test_a_label_names_the_link(text: str | None, link: float | None) -> None:
    assert link_of({} if text is None else {LINK_LABEL: text}) == link


def test_a_label_that_is_no_rate_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert link_of({LINK_LABEL: "very fast"}) is None
    assert len([record for record in caplog.records if "very fast" in record.getMessage()]) == 1
