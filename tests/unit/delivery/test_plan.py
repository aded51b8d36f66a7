"""The plan of a delivery: events in, commands out, and what must hold in whatever order answers come."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.delivery import (
    MAX_TRIES,
    ChunkArrived,
    ChunkFailed,
    Command,
    Fetch,
    Finish,
    NodeFailed,
    NodeJoined,
    NodePublished,
    Publish,
    SourceFailed,
    choose_chunk_bytes,
)
from tests.support.delivery_world import FULL, GONE, LOST, SOURCE, WRONG, World
from tests.support.examples import examples

# One node


def test_a_node_that_joins_fetches_from_the_source_as_much_as_fills_a_link() -> None:
    assert World([1] * 9).join("a") == [Fetch("a", 0, SOURCE), Fetch("a", 1, SOURCE)]


def test_a_chunk_that_came_makes_room_for_the_next() -> None:
    world = World([1] * 9)
    world.join("a")
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == [Fetch("a", 2, SOURCE)]


def test_the_last_chunk_lets_the_node_publish() -> None:
    world = World([1])
    world.join("a")
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == [Publish("a")]
    assert world.plan.active
    assert world.tell(NodePublished("a")) == [Finish("a", None)]
    assert not world.plan.active


def test_a_model_without_bytes_is_published_at_once() -> None:
    world = World([])
    assert world.join("a") == [Publish("a")]
    assert world.tell(NodePublished("a")) == [Finish("a", None)]


def test_a_node_that_joins_twice_is_one() -> None:
    world = World([1] * 2)
    world.join("a")
    assert world.tell(NodeJoined("a")) == []


# Several nodes


def test_a_chunk_that_one_node_has_goes_to_the_other_from_there() -> None:
    world = World([1])
    assert world.join("a") == [Fetch("a", 0, SOURCE)]
    assert world.join("b") == []
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == [Publish("a"), Fetch("b", 0, "a")]


def test_late_nodes_get_different_chunks_and_swap_them() -> None:
    world = World([1] * 40)
    world.hold("holder")
    for name in "abcd":
        world.join(name)
    asked = [command.chunk for command in world.waiting if isinstance(command, Fetch)]
    assert len(asked) == len(set(asked))
    world.run()
    assert world.sent["holder"] <= 80  # of 160 that came


@pytest.mark.parametrize("nodes", [1, 2, 8, 64])
def test_each_chunk_leaves_the_source_once(nodes: int) -> None:
    world = World([4] * 50, window=64, source_window=64, nodes=nodes)
    for number in range(nodes):
        world.join(f"n{number}")
    world.run()
    assert world.sent[SOURCE] == 200
    assert world.commands[Fetch] == 50 * nodes
    assert all(node.finished and node.error is None for node in world.nodes.values())
    if nodes > 8:  # each chunk spreads over several nodes: none sends much more than it received
        assert max(world.sent[name] for name in world.nodes) <= 3 * 200


@pytest.mark.parametrize("nodes", [2, 8])
def test_nodes_take_turns_in_fetching_from_the_source(nodes: int) -> None:
    world = World([1] * 64, nodes=nodes)
    for number in range(nodes):
        world.join(f"n{number}")
    world.run()
    sent = [world.sent[f"n{number}"] for number in range(nodes)]
    assert max(sent) <= 1.5 * min(sent)


def test_late_nodes_are_served_by_those_that_have_it() -> None:
    world = World([1] * 40)
    for name in ("a", "b"):
        world.join(name)
    world.run()
    for name in ("c", "d"):
        world.join(name)
    world.run()
    assert world.sent[SOURCE] == 40
    assert all(node.finished and node.error is None for node in world.nodes.values())


def test_nodes_that_have_the_snapshot_on_disk_go_before_the_source() -> None:
    world = World([1] * 40)
    for name in ("h1", "h2"):
        world.hold(name)
    for name in ("a", "b", "c"):
        world.join(name)
    world.run()
    assert world.sent[SOURCE] == 0
    assert world.sent["h1"] + world.sent["h2"] >= 40


# Failures


def test_a_chunk_that_failed_is_tried_again() -> None:
    world = World([1])
    world.join("a")
    assert world.tell(ChunkFailed("a", 0, SOURCE, LOST)) == [Fetch("a", 0, SOURCE)]


def test_a_peer_that_did_not_send_a_chunk_is_not_asked_for_it_again() -> None:
    world = World([1])
    world.hold("h1")
    world.hold("h2")
    [first] = world.join("a")
    assert isinstance(first, Fetch)
    [second] = world.tell(ChunkFailed("a", 0, first.sender, LOST))
    assert isinstance(second, Fetch)
    assert {first.sender, second.sender} == {"h1", "h2"}


def test_a_node_that_the_source_cannot_reach_is_given_up() -> None:
    world = World([1])
    world.join("a")
    out: list[Command] = []
    for _ in range(MAX_TRIES):
        out = world.tell(ChunkFailed("a", 0, SOURCE, LOST))
    assert out == [Finish("a", LOST)]
    assert not world.plan.active


def test_what_a_lost_node_had_to_send_is_fetched_elsewhere_at_once() -> None:
    world = World([1] * 6)
    for name in ("a", "b", "c"):
        world.join(name)
    while not any(isinstance(command, Fetch) and command.sender == "a" for command in world.waiting):
        world.answer(world.waiting.popleft())
    world.kill("a")
    world.run()
    assert world.nodes["a"].error is FULL
    assert world.nodes["b"].error is None
    assert world.nodes["c"].error is None
    assert world.nodes["b"].finished
    assert world.nodes["c"].finished


def test_a_node_that_sends_wrong_bytes_is_not_asked_again() -> None:
    world = World([1] * 30, liars=frozenset({"liar"}))
    for name in ("a", "b", "liar", "c"):
        world.join(name)
    world.run()
    assert all(node.finished and node.error is None for node in world.nodes.values())
    assert world.blamed
    assert world.sent["liar"] == 0


def test_a_node_that_finds_everybody_wrong_is_not_believed() -> None:
    world = World([1] * 30)
    for name in ("a", "b", "c", "d", "e"):
        world.hold(name)
    world.join("x")
    failed = 0
    while world.waiting and failed < 4:
        command = world.waiting.popleft()
        if isinstance(command, Fetch):
            failed += 1
            world.tell(ChunkFailed("x", command.chunk, command.sender, WRONG))
        else:
            world.answer(command)
    world.join("y")
    world.run()
    assert world.nodes["y"].error is None
    assert world.sent[SOURCE] <= 10


def test_a_node_that_fails_is_finished_with_its_error_and_answers_no_more() -> None:
    world = World([1] * 2)
    world.join("a")
    assert Finish("a", FULL) in world.tell(NodeFailed("a", FULL))
    for late in (ChunkArrived("a", 0, SOURCE), ChunkFailed("a", 1, SOURCE, LOST), NodePublished("a")):
        assert world.tell(late) == []


def test_a_node_that_cannot_publish_is_finished_with_its_error() -> None:
    world = World([1])
    world.join("a")
    world.tell(ChunkArrived("a", 0, SOURCE))
    assert world.tell(NodeFailed("a", FULL)) == [Finish("a", FULL)]
    assert not world.plan.active


def test_a_source_that_fails_ends_every_node_that_still_lacks_something() -> None:
    world = World([1])
    world.join("has")
    world.tell(ChunkArrived("has", 0, SOURCE))
    world.join("lacks")
    assert Finish("lacks", GONE) in world.tell(SourceFailed(GONE))
    assert world.tell(NodePublished("has")) == [Finish("has", None)]


def test_a_node_may_come_again_after_it_failed_or_lost_its_snapshot() -> None:
    world = World([1])
    world.join("a")
    world.tell(NodeFailed("a", LOST))
    world.join("a")
    world.run()
    world.join("a")
    world.run()
    assert world.nodes["a"].finished
    assert world.nodes["a"].error is None


# Nodes that give no answer


def test_what_a_silent_node_should_send_is_fetched_elsewhere_at_once() -> None:
    world = World([1] * 12)
    world.hold("holder")
    world.join("a")
    asked = [command.chunk for command in world.waiting if isinstance(command, Fetch) and command.sender == "holder"]
    assert asked
    world.silence("holder")
    again = [command.chunk for command in world.waiting if isinstance(command, Fetch) and command.sender == SOURCE]
    assert again
    world.waiting = deque(command for command in world.waiting if command.sender == SOURCE)  # the others never come
    world.run()
    assert world.nodes["a"].error is None
    assert world.nodes["a"].finished


def test_what_a_silent_node_was_to_hand_on_is_fetched_by_another() -> None:
    world = World([1] * 2)
    world.join("a")
    world.join("b")
    world.silence("a")
    world.waiting = deque(command for command in world.waiting if command.node != "a")
    world.run()
    assert world.nodes["b"].finished
    assert world.sent[SOURCE] == 2
    assert not world.nodes["a"].finished
    world.hear("a")
    world.run()
    assert world.nodes["a"].error is None
    assert world.nodes["a"].finished


def test_the_first_answer_wins_and_the_second_is_dropped() -> None:
    world = World([1])
    world.hold("holder")
    [first] = world.join("a")
    world.silence("holder")
    [second] = [command for command in world.waiting if command is not first]
    assert second == Fetch("a", 0, SOURCE)
    assert world.tell(ChunkArrived("a", 0, "holder")) == []  # the other one is under way
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == [Publish("a")]
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == []


def test_a_late_answer_to_a_silent_node_is_not_asked_for_again() -> None:
    world = World([1] * 2)
    first, second = world.join("a")
    world.silence("a")
    assert world.tell(ChunkArrived("a", 0, SOURCE)) == []
    world.hear("a")
    world.waiting.remove(first)
    world.waiting.remove(second)
    world.run()
    assert world.sent[SOURCE] == 1
    assert world.nodes["a"].finished


def test_a_node_that_answers_again_sends_what_it_has() -> None:
    world = World([1] * 8)
    world.hold("holder")
    world.silence("holder")
    world.hear("holder")
    world.join("a")
    world.run()
    assert world.sent["holder"] == 8


# A source that grows, and one that nodes read themselves


def test_chunks_travel_before_the_model_is_complete_and_nothing_is_published_before() -> None:
    world = World([1] * 2, later=[[1] * 3, [1]])
    world.join("a")
    world.join("b")
    while world.waiting:
        world.answer(world.waiting.popleft())
    assert world.nodes["a"].has == {0, 1}
    assert world.commands[Publish] == 0
    world.run()
    assert world.sent[SOURCE] == 6
    assert all(node.finished and node.error is None for node in world.nodes.values())


def test_a_place_is_read_once_by_all_nodes_together() -> None:
    world = World([1] * 40, is_remote=True)
    for name in "abcd":
        world.join(name)
    world.run()
    assert world.sent[SOURCE] == 40
    assert all(node.finished and node.error is None for node in world.nodes.values())


def test_a_node_that_cannot_read_the_place_gets_everything_from_the_others() -> None:
    world = World([1] * 40, is_remote=True)
    for name in "abcd":
        world.join(name)
    while world.waiting:
        command = world.waiting.popleft()
        if isinstance(command, Fetch) and (command.node, command.sender) == ("a", SOURCE):
            world.refuse(command, whole_node=False)
        else:
            world.answer(command)
    assert all(node.finished and node.error is None for node in world.nodes.values())


# The size of chunks


@pytest.mark.parametrize(
    ("total", "nodes", "mib"),
    [(1, 8, 1), (64 << 20, 8, 1), (1 << 30, 8, 8), (4 << 30, 8, 8), (1 << 30, 64, 8), (1 << 30, 4096, 13)],
)
def test_chunks_are_small_unless_there_would_be_many(total: int, nodes: int, mib: int) -> None:
    assert choose_chunk_bytes(total, room_bytes=64 << 20, nodes=nodes) == mib << 20


def test_a_small_room_holds_a_few_chunks() -> None:
    assert choose_chunk_bytes(1 << 40, room_bytes=16 << 20, nodes=8) == 2 << 20


# Whatever order answers come in

_SIZES = st.lists(st.integers(1, 4), max_size=8)
_WINDOWS = st.integers(1, 12)


def _world(data: st.DataObject) -> World:
    return World(
        data.draw(_SIZES),
        window=data.draw(_WINDOWS),
        source_window=data.draw(_WINDOWS),
        later=data.draw(st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=3)),
        is_remote=data.draw(st.booleans()),
        liars=data.draw(st.frozensets(st.sampled_from(["n0", "n1"]), max_size=1)),
        nodes=data.draw(st.integers(1, 5)),
    )


def _pick(world: World, data: st.DataObject) -> Fetch | Publish:
    at = data.draw(st.integers(0, len(world.waiting) - 1))
    world.waiting.rotate(-at)
    return world.waiting.popleft()


@given(data=st.data())
@settings(max_examples=examples(400), deadline=None)
def test_without_failures_every_node_is_published_in_any_order(data: st.DataObject) -> None:
    world = _world(data)
    to_join = [f"n{number}" for number in range(data.draw(st.integers(1, 5)))]
    holders = data.draw(st.integers(0, 1))
    if not world.later:
        for number in range(holders):
            world.hold(f"h{number}")
    while to_join or world.waiting or world.later:
        action = data.draw(st.integers(0, 3))
        if to_join and (not world.waiting or action == 0):
            world.join(to_join.pop())
        elif world.later and (not world.waiting or action == 1):
            world.grow()
        elif world.waiting:
            world.answer(_pick(world, data))
        assert world.waiting or to_join or world.later or not world.unfinished, "nobody acts any more"
    assert all(node.finished and node.error is None for node in world.nodes.values())
    assert not world.plan.active
    if not world.blamed:
        assert world.commands[Fetch] == sum(name[0] == "n" for name in world.nodes) * len(world.sizes)


def _go_on(world: World, data: st.DataObject) -> None:
    """One answer, well or not; or something dies."""
    command = _pick(world, data)
    match data.draw(st.integers(0, 19)):
        case 0:
            world.refuse(command, whole_node=True)
        case 1 | 2 | 3 | 4:
            world.refuse(command, whole_node=False)
        case 5 if world.nodes and data.draw(st.booleans()):  # a node that holds something dies
            world.waiting.appendleft(command)
            name = data.draw(st.sampled_from(sorted(world.nodes)))
            if world.nodes[name].alive:
                world.kill(name)
        case 7 | 8 if world.nodes:
            world.waiting.appendleft(command)
            _silence_or_hear(world, data)
        case 6 if data.draw(st.integers(0, 4)) == 0:
            world.waiting.appendleft(command)
            world.tell(SourceFailed(GONE))
        case _:
            world.answer(command)


def _silence_or_hear(world: World, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(world.nodes)))
    if world.nodes[name].silent:
        world.hear(name)
    elif world.nodes[name].alive:
        world.silence(name)


@given(data=st.data())
@settings(max_examples=examples(800), deadline=None)
def test_with_any_failures_every_node_is_finished_once_and_the_plan_comes_to_an_end(data: st.DataObject) -> None:
    world = _world(data)
    to_join = [f"n{number}" for number in range(data.draw(st.integers(1, 5)))]
    while to_join or world.waiting or world.later:
        action = data.draw(st.integers(0, 3))
        if to_join and (not world.waiting or action == 0):
            world.join(to_join.pop())
        elif world.later and (not world.waiting or action == 1):
            world.grow()
        elif world.waiting:
            _go_on(world, data)
        for name in [name for name, node in world.nodes.items() if node.silent]:
            if not (world.waiting or to_join or world.later):
                world.hear(name)
        assert world.waiting or to_join or world.later or not world.unfinished, "nobody acts any more"
    for node in world.nodes.values():
        assert node.finished
        assert not node.alive or node.error is not None or node.has == set(range(len(world.sizes)))
    assert not world.plan.active
