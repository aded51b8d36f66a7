"""`hubdist.plan` with a number of nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hubdist
from hubdist.errors import ConfigError

SIZE = 3 << 20


@pytest.fixture
def handle(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(bytes(SIZE))
    return str(folder)


def test_a_number_of_nodes_asks_what_a_delivery_would_take(handle: str) -> None:
    hubdist.resolve(handle)
    found = hubdist.plan(handle, nodes=512, link="100Mbit/s")
    assert isinstance(found, hubdist.WhatIf)
    assert (found.nodes, found.total_bytes) == (512, SIZE)
    assert found.seconds > SIZE / 12.5e6
    assert found.source_bytes == SIZE
    assert found.median_node_bytes <= found.max_node_bytes
    assert found.digest is not None
    text = str(found)
    assert "3.1 MB to 512 nodes, links of 100 Mbit/s" in text
    assert f"bottleneck: {found.bottleneck}" in text
    assert f"{found.seconds:.2f} s" in text


def test_the_size_may_be_given_for_a_model_that_nobody_has_read(handle: str) -> None:
    with pytest.raises(ConfigError, match=r"size.*resolve"):
        hubdist.plan(handle, nodes=2, link="1Gbit/s")
    found = hubdist.plan(handle, nodes=2, link="1Gbit/s", size="1GiB")
    assert (found.digest, found.total_bytes) == (None, 1 << 30)


def test_the_setting_stands_for_the_argument(handle: str) -> None:
    hubdist.init(link="1Gbit/s")
    assert hubdist.plan(handle, nodes=2, size="1GiB") == hubdist.plan(handle, nodes=2, size="1GiB", link="1Gbit/s")


def test_links_may_differ(handle: str) -> None:
    mapped = hubdist.plan(handle, nodes=3, size="1GiB", link={"10Gbit/s": 2, "1Gbit/s": 1})
    assert mapped == hubdist.plan(handle, nodes=3, size="1GiB", link=["10Gbit/s", "10Gbit/s", "1Gbit/s"])
    assert "10 Gbit/s (2 nodes), 1 Gbit/s (1 node)" in str(mapped)


@pytest.mark.parametrize(
    "arguments",
    [
        {"nodes": 2},
        {"nodes": 0, "link": "1Gbit/s"},
        {"nodes": -3, "link": "1Gbit/s"},
        {"nodes": True, "link": "1Gbit/s"},
        {"nodes": 10**9, "link": "1Gbit/s"},
        {"nodes": 2, "link": ["1Gbit/s"]},
        {"nodes": 2, "link": "quick"},
        {"nodes": 2, "link": "1Gbit/s", "source_link": "quick"},
        {"nodes": 2, "link": "1Gbit/s", "origin_link": 0},
        {"nodes": 2, "link": "1Gbit/s", "size": "big"},
        {"nodes": 2, "link": "1Gbit/s", "cores": 0},
        {"nodes": 2, "link": "1Gbit/s", "route": "shared"},
        {"link": "1Gbit/s"},
        {"nodes": ["host"], "size": "1GiB"},
    ],
)
def test_wrong_arguments_are_named(handle: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        hubdist.plan(handle, **({"size": "1GiB"} if "nodes" in arguments else {}) | arguments)


def test_without_a_number_a_plan_is_what_it_was(handle: str) -> None:
    assert isinstance(hubdist.plan(handle), hubdist.Plan)
