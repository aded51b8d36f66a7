"""The plan of a delivery: events in, commands out, and what must hold in whatever order answers come."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.delivery import (
    MAX_TRIES,
    ChunkArrived,
    ChunkFailed,
    ChunkOffered,
    Command,
    Delivery,
    Event,
    Fetch,
    Finish,
    NodeFailed,
    NodeJoined,
    NodePublished,
    Offer,
    OfferFailed,
    Publish,
    SourceFailed,
    Withdraw,
)
from hubdist.errors import HubdistError, OriginError, PeerError, StoreFullError

LOST = PeerError("lost")
FULL = StoreFullError("full", need_bytes=2, free_bytes=1)
GONE = OriginError("the source is gone")


def delivery(chunks: int, *, node_window: int = 100, source_window: int = 100, size: int = 1) -> Delivery:
    return Delivery([size] * chunks, node_window_bytes=node_window, source_window_bytes=source_window)


def feed(plan: Delivery, *events: Event) -> list[Command]:
    """The commands of the last event."""
    out: list[Command] = []
    for event in events:
        out = plan.handle(event)
    return out


# One node


def test_a_node_that_joins_lets_the_first_chunks_be_offered() -> None:
    assert feed(delivery(3), NodeJoined("a")) == [Offer(0), Offer(1), Offer(2)]


def test_a_chunk_on_offer_is_fetched_by_the_node_that_waits() -> None:
    assert feed(delivery(2), NodeJoined("a"), ChunkOffered(1)) == [Fetch("a", 1)]


def test_a_chunk_that_everybody_has_is_withdrawn() -> None:
    plan = delivery(2)
    assert feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkArrived("a", 0)) == [Withdraw(0)]


def test_the_last_chunk_lets_the_node_publish() -> None:
    plan = delivery(1)
    assert feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkArrived("a", 0)) == [Publish("a"), Withdraw(0)]


def test_a_published_node_is_finished_without_error() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkArrived("a", 0))
    assert plan.active
    assert feed(plan, NodePublished("a")) == [Finish("a", None)]
    assert not plan.active


def test_a_model_without_bytes_is_published_at_once() -> None:
    plan = delivery(0)
    assert feed(plan, NodeJoined("a")) == [Publish("a")]
    assert feed(plan, NodePublished("a")) == [Finish("a", None)]


def test_a_node_that_joins_twice_is_one() -> None:
    plan = delivery(2)
    feed(plan, NodeJoined("a"))
    assert feed(plan, NodeJoined("a")) == []


# Windows


def test_offers_stay_within_the_windows_of_node_and_source() -> None:
    assert feed(delivery(9, node_window=3), NodeJoined("a")) == [Offer(0), Offer(1), Offer(2)]
    assert feed(delivery(9, source_window=2), NodeJoined("a")) == [Offer(0), Offer(1)]


def test_a_chunk_larger_than_every_window_still_travels_alone() -> None:
    plan = delivery(2, size=10, node_window=3, source_window=3)
    assert feed(plan, NodeJoined("a")) == [Offer(0)]
    assert feed(plan, ChunkOffered(0), ChunkArrived("a", 0)) == [Withdraw(0), Offer(1)]


def test_a_chunk_that_arrived_makes_room_for_the_next() -> None:
    plan = delivery(9, node_window=2)
    feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkOffered(1))
    assert sorted(feed(plan, ChunkArrived("a", 0)), key=str) == [Offer(2), Withdraw(0)]


# Several nodes


def test_two_nodes_share_an_offer() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"))
    assert feed(plan, NodeJoined("b")) == []
    assert feed(plan, ChunkOffered(0)) == [Fetch("a", 0), Fetch("b", 0)]


def test_an_offer_stays_as_long_as_somebody_reads_it() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), NodeJoined("b"), ChunkOffered(0))
    assert feed(plan, ChunkArrived("a", 0)) == [Publish("a")]
    assert feed(plan, ChunkArrived("b", 0)) == [Publish("b"), Withdraw(0)]


def test_a_late_node_takes_what_is_on_offer_first() -> None:
    plan = delivery(4, node_window=2, source_window=2)
    feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkOffered(1), ChunkArrived("a", 0), ChunkOffered(2))
    assert feed(plan, NodeJoined("late")) == [Fetch("late", 1), Fetch("late", 2)]


def test_a_late_node_gets_what_the_others_had_before_it_came() -> None:
    plan = delivery(2, node_window=1)
    feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkArrived("a", 0), ChunkOffered(1))
    assert feed(plan, NodeJoined("late")) == [Fetch("late", 1)]
    assert feed(plan, ChunkArrived("late", 1)) == [Offer(0)]


# Failures


def test_a_chunk_that_failed_is_offered_anew_and_tried_again() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), ChunkOffered(0))
    assert feed(plan, ChunkFailed("a", 0, LOST)) == [Withdraw(0), Offer(0)]
    assert feed(plan, ChunkOffered(0)) == [Fetch("a", 0)]


def test_a_chunk_that_failed_on_one_node_is_read_on_by_the_others() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), NodeJoined("b"), ChunkOffered(0))
    assert feed(plan, ChunkFailed("a", 0, LOST)) == [Fetch("a", 0)]


def test_a_node_is_given_up_after_its_last_try_and_the_others_go_on() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), NodeJoined("b"), ChunkOffered(0))
    for _ in range(MAX_TRIES - 1):
        assert Fetch("a", 0) in feed(plan, ChunkFailed("a", 0, LOST))
    assert feed(plan, ChunkFailed("a", 0, LOST)) == [Finish("a", LOST)]
    assert feed(plan, ChunkArrived("b", 0)) == [Publish("b"), Withdraw(0)]


def test_a_node_that_fails_is_finished_with_its_error_and_answers_no_more() -> None:
    plan = delivery(2)
    feed(plan, NodeJoined("a"), NodeJoined("b"), ChunkOffered(0), ChunkOffered(1))
    assert feed(plan, NodeFailed("a", FULL)) == [Finish("a", FULL)]
    for late in (ChunkArrived("a", 0), ChunkFailed("a", 1, LOST), NodeFailed("a", LOST), NodePublished("a")):
        assert feed(plan, late) == []


def test_a_node_that_cannot_publish_is_finished_with_its_error() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), ChunkOffered(0), ChunkArrived("a", 0))
    assert feed(plan, NodeFailed("a", FULL)) == [Finish("a", FULL)]
    assert not plan.active


def test_an_offer_that_failed_is_tried_again() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"))
    assert feed(plan, OfferFailed(0, LOST)) == [Offer(0)]


def test_a_chunk_that_cannot_be_offered_fails_every_node() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), NodeJoined("b"))
    out = feed(plan, *[OfferFailed(0, LOST)] * MAX_TRIES)
    assert out == [Finish("a", LOST), Finish("b", LOST)]
    assert not plan.active


def test_offers_that_worked_meanwhile_are_no_failures_of_a_late_node() -> None:
    plan = delivery(1)
    for node in "abcd":
        feed(plan, NodeJoined(node), OfferFailed(0, LOST), ChunkOffered(0), ChunkArrived(node, 0))
        assert feed(plan, NodePublished(node)) == [Finish(node, None)]


def test_a_source_that_fails_ends_every_node_that_still_lacks_something() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("has"), ChunkOffered(0), ChunkArrived("has", 0), NodeJoined("lacks"))
    assert Finish("lacks", GONE) in feed(plan, SourceFailed(GONE))
    assert feed(plan, NodePublished("has")) == [Finish("has", None)]


def test_an_offer_that_comes_when_all_are_gone_is_withdrawn() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), NodeFailed("a", FULL))
    assert feed(plan, ChunkOffered(0)) == [Withdraw(0)]


def test_a_node_may_come_again_after_it_failed() -> None:
    plan = delivery(1)
    feed(plan, NodeJoined("a"), ChunkOffered(0), NodeFailed("a", LOST))
    assert feed(plan, NodeJoined("a")) == [Offer(0)]


# Whatever order answers come in


@dataclass
class _Joined:
    reads: set[int] = field(default_factory=set)
    arrived: Counter[int] = field(default_factory=Counter)
    told_to_publish: bool = False
    finished: bool = False
    error: HubdistError | None = None
    failed: bool = False


class Cluster:
    """Carries out commands in its head, checks each of them, and keeps the answers that are still to come."""

    def __init__(self, sizes: Sequence[int], node_window: int, source_window: int) -> None:
        self.sizes = list(sizes)
        self.node_window = node_window
        self.source_window = source_window
        self.plan = Delivery(sizes, node_window_bytes=node_window, source_window_bytes=source_window)
        self.nodes: dict[str, _Joined] = {}
        self.on_offer: dict[int, bool] = {}
        self.offered_bytes = 0
        self.readers: Counter[int] = Counter()
        self.waiting: deque[Offer | Fetch | Publish] = deque()
        self.commands: Counter[type] = Counter()

    def tell(self, event: Event) -> None:
        self._take_in(event)
        for command in self.plan.handle(event):
            self.commands[type(command)] += 1
            self._obey(command)

    def join(self, name: str) -> None:
        self.nodes[name] = _Joined()
        self.tell(NodeJoined(name))

    @property
    def unfinished(self) -> list[str]:
        return [name for name, node in self.nodes.items() if not node.finished]

    def _take_in(self, event: Event) -> None:
        match event:
            case ChunkOffered(chunk):
                self.on_offer[chunk] = True
            case OfferFailed(chunk, _):
                del self.on_offer[chunk]
                self.offered_bytes -= self.sizes[chunk]
            case ChunkArrived(name, chunk) if not self.nodes[name].finished:
                self._stops_reading(name, chunk)
                self.nodes[name].arrived[chunk] += 1
            case ChunkFailed(name, chunk, _) if not self.nodes[name].finished:
                self._stops_reading(name, chunk)
            case NodeFailed(name, _) if not self.nodes[name].finished:
                self.nodes[name].failed = True
                for chunk in list(self.nodes[name].reads):
                    self._stops_reading(name, chunk)
            case SourceFailed(_):
                for name, node in self.nodes.items():
                    for chunk in list(node.reads):
                        self._stops_reading(name, chunk)

    def _stops_reading(self, name: str, chunk: int) -> None:
        self.nodes[name].reads.remove(chunk)
        self.readers[chunk] -= 1

    def _obey(self, command: Command) -> None:
        match command:
            case Offer(chunk):
                assert chunk not in self.on_offer, "offered twice"
                assert self.unfinished, "offered to nobody"
                self.on_offer[chunk] = False
                self.offered_bytes += self.sizes[chunk]
                assert self.offered_bytes <= self.source_window or len(self.on_offer) == 1
                self.waiting.append(command)
            case Withdraw(chunk):
                assert self.on_offer.pop(chunk), "withdrawn before it was there"
                assert self.readers[chunk] == 0, "withdrawn while somebody reads"
                self.offered_bytes -= self.sizes[chunk]
            case Fetch(name, chunk):
                node = self.nodes[name]
                assert not node.finished
                assert self.on_offer.get(chunk), "fetched what is not on offer"
                assert chunk not in node.reads
                assert node.arrived[chunk] == 0, "sent again what had arrived"
                node.reads.add(chunk)
                self.readers[chunk] += 1
                in_flight = sum(self.sizes[chunk] for chunk in node.reads)
                assert in_flight <= self.node_window or len(node.reads) == 1
                self.waiting.append(command)
            case Publish(name):
                node = self.nodes[name]
                assert not node.finished
                assert not node.told_to_publish
                assert set(node.arrived) == set(range(len(self.sizes)))
                assert set(node.arrived.values()) <= {1}
                node.told_to_publish = True
                self.waiting.append(command)
            case Finish(name, error):
                node = self.nodes[name]
                assert not node.finished, "finished twice"
                for chunk in list(node.reads):
                    self._stops_reading(name, chunk)
                node.finished = True
                node.error = error

    def answer(self, command: Offer | Fetch | Publish) -> None:
        """The answer if all goes well."""
        match command:
            case Offer(chunk):
                self.tell(ChunkOffered(chunk))
            case Fetch(name, chunk):
                self.tell(ChunkArrived(name, chunk))
            case Publish(name):
                self.tell(NodePublished(name))

    def refuse(self, command: Offer | Fetch | Publish, *, whole_node: bool) -> None:
        """The answer if it goes badly."""
        match command:
            case Offer(chunk):
                self.tell(OfferFailed(chunk, GONE))
            case Fetch(name, chunk) if not whole_node:
                self.tell(ChunkFailed(name, chunk, LOST))
            case Fetch(name, _) | Publish(name):
                self.tell(NodeFailed(name, FULL))


_SIZES = st.lists(st.integers(1, 4), max_size=6)
_WINDOWS = st.integers(1, 10)


@given(sizes=_SIZES, node_window=_WINDOWS, source_window=_WINDOWS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_without_failures_every_node_is_published_in_any_order(
    sizes: list[int], node_window: int, source_window: int, data: st.DataObject
) -> None:
    cluster = Cluster(sizes, node_window, source_window)
    to_join = [f"n{number}" for number in range(data.draw(st.integers(1, 4)))]
    while to_join or cluster.waiting:
        if to_join and (not cluster.waiting or data.draw(st.booleans())):
            cluster.join(to_join.pop())
        else:
            at = data.draw(st.integers(0, len(cluster.waiting) - 1))
            cluster.waiting.rotate(-at)
            cluster.answer(cluster.waiting.popleft())
        assert cluster.waiting or not cluster.unfinished, "nobody acts any more"
    assert all(node.finished and node.error is None for node in cluster.nodes.values())
    assert not cluster.plan.active
    assert not cluster.on_offer
    assert cluster.commands[Fetch] == len(cluster.nodes) * len(sizes)
    assert cluster.commands[Offer] <= len(cluster.nodes) * len(sizes)


@given(sizes=_SIZES, node_window=_WINDOWS, source_window=_WINDOWS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_with_any_failures_every_node_is_finished_once_and_the_plan_comes_to_an_end(
    sizes: list[int], node_window: int, source_window: int, data: st.DataObject
) -> None:
    cluster = Cluster(sizes, node_window, source_window)
    to_join = [f"n{number}" for number in range(data.draw(st.integers(1, 4)))]
    while to_join or cluster.waiting:
        if to_join and (not cluster.waiting or data.draw(st.integers(0, 3)) == 0):
            cluster.join(to_join.pop())
        else:
            at = data.draw(st.integers(0, len(cluster.waiting) - 1))
            cluster.waiting.rotate(-at)
            command = cluster.waiting.popleft()
            match data.draw(st.integers(0, 19)):
                case 0:
                    cluster.refuse(command, whole_node=True)
                case 1 | 2 | 3 | 4:
                    cluster.refuse(command, whole_node=False)
                case 5 if data.draw(st.integers(0, 4)) == 0:
                    cluster.waiting.appendleft(command)
                    cluster.tell(SourceFailed(GONE))
                case _:
                    cluster.answer(command)
        assert cluster.waiting or not cluster.unfinished, "nobody acts any more"
    assert all(node.finished for node in cluster.nodes.values())
    for node in cluster.nodes.values():
        assert node.error is not None or set(node.arrived) == set(range(len(sizes)))
    assert not cluster.plan.active
    assert not cluster.on_offer
    most_fetches = len(cluster.nodes) * len(sizes) * MAX_TRIES
    assert cluster.commands[Fetch] <= most_fetches
    assert cluster.commands[Offer] <= (most_fetches + len(sizes)) * MAX_TRIES


@pytest.mark.parametrize("nodes", [1, 2, 8, 64])
def test_nodes_in_step_let_each_chunk_be_offered_once(nodes: int) -> None:
    cluster = Cluster([4] * 50, node_window=16, source_window=16)
    for number in range(nodes):
        cluster.join(f"n{number}")
    while cluster.waiting:
        cluster.answer(cluster.waiting.popleft())
    assert cluster.commands[Offer] == 50


def test_a_thousand_nodes_take_seconds() -> None:
    cluster = Cluster([4] * 100, node_window=64, source_window=64)
    begin = time.process_time()
    for number in range(1000):
        cluster.join(f"n{number}")
    while cluster.waiting:
        cluster.answer(cluster.waiting.popleft())
    assert all(node.error is None for node in cluster.nodes.values())
    assert cluster.commands[Fetch] == 100_000
    assert cluster.commands[Offer] == 100
    assert time.process_time() - begin < 20
