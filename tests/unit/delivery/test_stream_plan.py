"""The plan of streams: events in, commands out, and what must hold in whatever order things happen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.delivery import (
    Finish,
    Follow,
    Newcomer,
    NodeComplete,
    NodePublished,
    Publish,
    Reseat,
    SourceFailed,
    StreamBroke,
    StreamLags,
)
from hubdist.delivery.stream_repair import MAX_SOURCE_TRIES
from tests.support.examples import examples
from tests.support.stream_world import FULL, GONE, LOST, SOURCE, WRONG, StreamWorld


def names(count: int, first: int = 0) -> list[str]:
    return [f"n{number}" for number in range(first, first + count)]


def all_published(world: StreamWorld) -> bool:
    return not world.plan.active and all(node.finished and node.error is None for node in world.nodes.values())


# Without trouble


def test_a_node_alone_follows_the_source_and_publishes_when_it_has_everything() -> None:
    world = StreamWorld(4, 2)
    assert world.join("a") == [Follow("a", (SOURCE,) * 4)]
    assert world.tell(NodePublished("a")) == []
    world.nodes["a"].has = [2] * 4
    assert world.tell(NodeComplete("a")) == [Publish("a")]
    assert world.tell(NodePublished("a")) == [Finish("a", None)]
    assert not world.plan.active


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 20, 64])
@pytest.mark.parametrize("stripes", [1, 4, 8])
def test_each_unit_leaves_the_source_once_and_no_node_sends_more_than_its_slots(count: int, stripes: int) -> None:
    world = StreamWorld(stripes, 3)
    world.join(*names(count))
    world.run()
    assert all_published(world)
    assert world.sent[SOURCE] == 3 * stripes
    assert max(world.sent[name] for name in world.nodes) <= 3 * max(4, stripes)


def test_nodes_that_join_one_after_another_are_served_by_nodes() -> None:
    world = StreamWorld(4, 3)
    for name in names(12):
        world.join(name)
    world.run()
    assert all_published(world)
    assert world.sent[SOURCE] == 12


def test_nodes_that_have_the_snapshot_go_before_the_source() -> None:
    world = StreamWorld(4, 3)
    world.hold("h")
    world.join(*names(5))
    world.run()
    assert all_published(world)
    assert world.sent[SOURCE] == 0


def test_slower_nodes_sit_below_faster_ones() -> None:
    world = StreamWorld(8, 1)
    world.join(*(Newcomer(name, link=2e9 if name < "n3" else 1e9) for name in names(40)))
    for name, node in world.nodes.items():
        assert name >= "n3" or all(parent == SOURCE or parent < "n3" for parent in node.ordered.values())
    world.run()
    assert all_published(world)


def test_faster_nodes_that_join_later_take_the_place_of_slower_ones_at_the_source() -> None:
    world = StreamWorld(8, 3)
    world.join(Newcomer("slow", link=1e9))
    world.join(*(Newcomer(name, link=2e9) for name in names(12)))
    assert SOURCE not in world.nodes["slow"].ordered.values()
    world.run()
    assert all_published(world)
    assert world.sent[SOURCE] <= 3 * 8


def test_trees_go_into_each_zone_seldom() -> None:
    world = StreamWorld(8, 1)
    zones = {name: f"zone{int(name[1:]) % 4}" for name in names(100)}
    world.join(*(Newcomer(name, zone) for name, zone in zones.items()))
    for stripe in range(8):
        parents = [(name, node.ordered[stripe]) for name, node in world.nodes.items()]
        assert sum(parent == SOURCE or zones[name] != zones[parent] for name, parent in parents) <= 16
    world.run()
    assert all_published(world)


def test_seats_are_handed_on_by_nodes_that_others_wait_for() -> None:
    world = StreamWorld(8, 1)
    commands = world.join(*names(100))
    assert len(commands) == 8
    seats = [seat for command in commands if isinstance(command, Follow) for seat in command.flat()]
    assert sorted(seat.node for seat in seats) == sorted(names(100))
    assert all(len(seat.below) <= 8 for seat in seats)
    assert {seat.node for seat in commands} >= {seat.node for seat in seats if SOURCE in seat.parents}
    assert world.plan.seat(seats[-1].node) == Follow(seats[-1].node, seats[-1].parents)


# Streams that break


def test_a_node_whose_stream_broke_sits_elsewhere_and_not_below_the_same_node_again() -> None:
    world = StreamWorld(4, 2)
    world.hold("h1")
    world.hold("h2")
    world.join("a")
    first = world.nodes["a"].ordered[0]
    [command] = world.tell(StreamBroke("a", 0, first, 0, LOST))
    assert isinstance(command, Reseat)
    assert {first, command.parent} == {"h1", "h2"}
    assert world.tell(StreamBroke("a", 0, command.parent, 0, LOST)) == [Reseat("a", 0, SOURCE)]


def test_a_node_that_the_source_cannot_reach_is_given_up() -> None:
    world = StreamWorld(4, 2)
    world.join("a")
    for _ in range(MAX_SOURCE_TRIES - 1):
        assert world.tell(StreamBroke("a", 1, SOURCE, 1, LOST)) == [Reseat("a", 1, SOURCE)]
    assert world.tell(StreamBroke("a", 1, SOURCE, 1, LOST)) == [Finish("a", LOST)]
    assert not world.plan.active


def test_a_stream_that_brings_something_before_each_break_may_break_often() -> None:
    world = StreamWorld(4, 9)
    world.join("a")
    for unit in range(1, 33, 4):
        assert world.tell(StreamBroke("a", 1, SOURCE, unit, LOST)) == [Reseat("a", 1, SOURCE)]


def test_a_complaint_about_a_parent_of_the_past_is_answered_with_the_seat_of_now() -> None:
    world = StreamWorld(4, 2)
    world.hold("h")
    world.join("a")
    [moved] = world.tell(StreamBroke("a", 0, "h", 0, LOST))
    assert world.tell(StreamBroke("a", 0, "h", 0, LOST)) == [moved]
    assert world.tell(StreamLags("a", 0, "h")) == [moved]


def test_a_node_that_sends_wrong_bytes_gets_no_children_any_more() -> None:
    world = StreamWorld(8, 3, liars=frozenset({"n3"}))
    world.join(*names(20))
    world.run()
    assert all_published(world)
    assert world.blamed
    assert world.sent["n3"] == 0
    world.join(*names(20, 20))
    assert all("n3" not in world.nodes[name].ordered.values() for name in names(20, 20))


def test_a_node_that_finds_everybody_wrong_is_not_believed() -> None:
    world = StreamWorld(8, 3)
    world.join(*names(20))
    accused = dict.fromkeys(parent for parent in world.nodes["n19"].ordered.values() if parent != SOURCE)
    for name in accused:
        for stripe, parent in world.nodes["n19"].ordered.items():
            if parent == name:
                world.tell(StreamBroke("n19", stripe, parent, stripe, WRONG))
                break
    world.run()
    assert all_published(world)
    sitting = {parent for node in world.nodes.values() for parent in node.ordered.values()}
    assert len(set(accused) & sitting) >= len(accused) - 2


def test_children_of_a_lost_node_sit_elsewhere_at_once() -> None:
    world = StreamWorld(8, 3)
    world.join(*names(64))
    while world.waiting:
        world.deliver(world.waiting.popleft())
    children = {
        (name, at) for name, node in world.nodes.items() for at, parent in node.ordered.items() if parent == "n9"
    }
    assert len(children) >= 7
    world.kill("n9")
    assert {(move.node, move.stripe) for move in world.waiting if isinstance(move, Reseat)} == children
    world.run()
    assert world.nodes["n9"].error is FULL
    assert all(node.finished and node.error is None for name, node in world.nodes.items() if name != "n9")
    assert world.sent[SOURCE] <= 3 * 9


def test_two_complaints_are_enough_to_move_all_children_of_a_node_and_one_is_not() -> None:
    world = StreamWorld(8, 9)
    world.join(*names(64))
    seats = world.children("n9")
    (first, first_at), (second, second_at) = seats[:2]
    assert world.tell(StreamLags(first, first_at, "n9")) == []
    moves = world.tell(StreamLags(second, second_at, "n9"))
    assert {(move.node, move.stripe) for move in moves if isinstance(move, Reseat)} == set(seats)
    world.run()
    assert all_published(world)
    assert world.sent["n9"] == 0
    assert world.sent[SOURCE] <= 9 * 9


def test_a_node_that_complains_again_is_moved_alone() -> None:
    world = StreamWorld(8, 9)
    world.join(*names(64))
    (first, at), *_ = world.children("n9")
    assert world.tell(StreamLags(first, at, "n9")) == []
    [move] = world.tell(StreamLags(first, at, "n9"))
    assert isinstance(move, Reseat)
    assert (move.node, move.stripe) == (first, at)
    assert move.parent != "n9"


def test_a_complaint_does_not_count_if_the_parent_complains_of_the_same_stripe() -> None:
    world = StreamWorld(8, 9)
    world.join(*names(64))
    below = {name: world.children(name) for name in world.nodes}
    middle = next(
        name for name, children in below.items() if children and SOURCE not in _parents(world, name, children)
    )
    stripe = below[middle][0][1]
    assert world.tell(StreamLags(middle, stripe, world.nodes[middle].ordered[stripe])) == []
    for name, at in below[middle]:
        if at == stripe:
            assert world.tell(StreamLags(name, at, middle)) == []


def _parents(world: StreamWorld, name: str, children: list[tuple[str, int]]) -> set[str]:
    return {world.nodes[name].ordered[stripe] for _, stripe in children}


def test_a_silent_node_is_told_its_new_seat_when_it_answers_again() -> None:
    world = StreamWorld(8, 1)
    world.join(*names(20))
    child, stripe = world.children("n5")[0]
    world.silence(child)
    world.kill("n5")
    assert not any(isinstance(move, Reseat) and move.node == child for move in world.waiting)
    world.hear(child)
    assert any(isinstance(move, Reseat) and (move.node, move.stripe) == (child, stripe) for move in world.waiting)
    world.run()
    assert world.nodes[child].error is None


# The source


def test_units_travel_before_the_model_is_complete_and_nothing_is_published_before() -> None:
    world = StreamWorld(4, 5, ready=1)
    world.join(*names(6))
    while world.waiting or next(world.streams(), None):
        world.step()
    assert all(node.has == [1] * 4 and not node.told_to_publish for node in world.nodes.values())
    world.run()
    assert all_published(world)


def test_a_source_that_fails_ends_every_node_that_may_lack_something() -> None:
    world = StreamWorld(4, 1)
    world.join("has")
    world.nodes["has"].has = [1] * 4
    world.nodes["has"].told_complete = True
    world.tell(NodeComplete("has"))
    world.join("lacks")
    assert world.tell(SourceFailed(GONE)) == [Finish("lacks", GONE)]
    assert world.tell(NodePublished("has")) == [Finish("has", None)]


def test_a_node_may_come_again_after_it_failed_or_lost_its_snapshot() -> None:
    world = StreamWorld(4, 1)
    world.join("a")
    world.kill("a")
    for _ in range(2):
        world.join("a")
        world.run()
        assert all_published(world)


# Whatever order things happen in


def _world(data: st.DataObject) -> StreamWorld:
    units = data.draw(st.integers(1, 3))
    return StreamWorld(
        data.draw(st.sampled_from([1, 2, 4, 8])),
        units,
        ready=data.draw(st.none() | st.integers(0, units)),
        liars=data.draw(st.frozensets(st.sampled_from(["n0", "n1"]), max_size=1)),
    )


def _newcomers(data: st.DataObject) -> list[Newcomer]:
    zones, links = st.sampled_from(["", "a", "b"]), st.sampled_from([None, 1e9, 2e9])
    return [Newcomer(name, data.draw(zones), data.draw(links)) for name in names(data.draw(st.integers(1, 12)))]


def _join_some(world: StreamWorld, to_join: list[Newcomer], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(to_join)))
    world.join(*to_join[:count])
    del to_join[:count]


def _go_on(world: StreamWorld, data: st.DataObject) -> None:
    """Deliver a message or let a unit flow, in any order."""
    streams = list(world.streams())
    at = data.draw(st.integers(0, len(world.waiting) + len(streams) - 1))
    if at < len(world.waiting):
        world.waiting.rotate(-at)
        world.deliver(world.waiting.popleft())
    else:
        world.flow(*streams[at - len(world.waiting)])


@given(data=st.data())
@settings(max_examples=examples(200), deadline=None)
def test_without_failures_every_node_is_published_in_any_order(data: st.DataObject) -> None:
    world = _world(data)
    to_join = _newcomers(data)
    if world.published and data.draw(st.booleans()):
        world.hold("h")
    while True:
        if to_join and data.draw(st.integers(0, 3)) == 0:
            _join_some(world, to_join, data)
        elif world.waiting or next(world.streams(), None):
            _go_on(world, data)
        elif not world.published:
            world.grow()
        elif not to_join:
            break
    assert all_published(world)
    if not world.blamed and "h" not in world.nodes:
        assert world.sent[SOURCE] >= world.units * world.stripes


def _trouble(world: StreamWorld, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(world.nodes)))
    node = world.nodes[name]
    match data.draw(st.integers(0, 9)):
        case 0 if node.alive:
            world.kill(name)
        case 1 if node.silent:
            world.hear(name)
        case 2 if node.alive:
            world.silence(name)
        case 3 | 4 | 5:
            streams = list(world.streams())
            if streams:
                world.break_stream(*data.draw(st.sampled_from(streams)), data.draw(st.sampled_from([LOST, WRONG])))
        case 6 | 7 | 8 if node.follows:
            stripe = data.draw(st.sampled_from(sorted(node.follows)))
            world.waiting.append(StreamLags(name, stripe, node.follows[stripe]))
        case 9 if world.source_alive and data.draw(st.integers(0, 4)) == 0:
            world.source_alive = False
            world.tell(SourceFailed(GONE))


@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_with_any_failures_every_node_is_finished_once_and_the_plan_comes_to_an_end(data: st.DataObject) -> None:
    world = _world(data)
    to_join = _newcomers(data)
    for _ in range(data.draw(st.integers(0, 60))):
        if to_join and data.draw(st.integers(0, 3)) == 0:
            _join_some(world, to_join, data)
        elif world.nodes and data.draw(st.integers(0, 3)) == 0:
            _trouble(world, data)
        elif world.waiting or next(world.streams(), None):
            _go_on(world, data)
        elif world.source_alive and not world.published:
            world.grow()
    if to_join:
        world.join(*to_join)
    for name in [name for name, node in world.nodes.items() if node.silent]:
        world.hear(name)
    world.run()
    assert not world.unfinished
    assert not world.plan.active
    for name, node in world.nodes.items():
        assert node.error is not None or not node.alive or world.is_full(name)
