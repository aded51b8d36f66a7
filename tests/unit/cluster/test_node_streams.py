"""Which parents a node follows when the coordinator's calls overtake each other; without Ray."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from hubdist.cluster.agent.messages import Parent, Seat
from hubdist.cluster.agent.node_port import NodePort
from hubdist.cluster.agent.node_streams import NodeStreams
from hubdist.errors import PeerError
from hubdist.streams.buffers import Buffers


@pytest.fixture
def streams() -> Iterator[NodeStreams]:
    """A node whose parents have no ports and no units yet."""
    port = NodePort(None)
    port.join("d", b"s" * 32, lambda _: -1)
    made = NodeStreams(port, Buffers(1), request=lambda *_: bytearray(), describe=lambda *_: None)
    yield made
    made.leave("d")
    port.leave("d")


def follow(streams: NodeStreams, order: int, **parents: str) -> None:
    named = {int(stripe[1:]): Parent(name, None, name.encode()) for stripe, name in parents.items()}
    streams.follow("d", Seat(named, 3, order), lambda *_: None)


def parents_of(streams: NodeStreams) -> dict[int, str]:
    following: Any = streams._following["d"]
    return {stripe: current.parent for stripe, current in sorted(following.follower._current.items())}


@pytest.mark.parametrize("seed", range(6))
def test_the_newest_order_of_each_stripe_holds_however_they_come(streams: NodeStreams, seed: int) -> None:
    orders = [
        (0, {"s0": "a", "s1": "a", "s2": "a"}),
        (1, {"s1": "b"}),
        (2, {"s0": "c"}),
        (3, {"s1": "d"}),
        (4, {"s0": "a"}),
    ]
    random.Random(seed).shuffle(orders)
    for order, parents in orders:
        follow(streams, order, **parents)
    assert parents_of(streams) == {0: "a", 1: "d", 2: "a"}


def test_an_order_that_comes_twice_changes_nothing(streams: NodeStreams) -> None:
    for _ in range(2):
        follow(streams, 7, s0="a")
    assert parents_of(streams) == {0: "a"}


def test_a_node_that_left_the_delivery_has_no_news(streams: NodeStreams) -> None:
    follow(streams, 0, s0="a")
    streams.leave("d")
    with pytest.raises(PeerError, match="receives nothing"):
        streams.wait("d", 0.1)
