"""Who sits where when nodes join together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.delivery.forest import MAX_STRIPES, ROOT, choose_slots, choose_stripes, seat_nodes
from tests.support.examples import examples


def depth(tree: list[int], node: int) -> int:
    steps = 0
    while tree[node] != ROOT:
        node = tree[node]
        steps += 1
        assert steps < len(tree), "a circle"
    return steps


@given(zones=st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=80), stripes=st.integers(1, 8))
@settings(max_examples=examples(200), deadline=None)
def test_every_tree_reaches_every_node_and_nobody_has_more_children_than_slots(zones: list[str], stripes: int) -> None:
    seating = seat_nodes(zones, stripes)
    children = Counter(parent for tree in seating.parents for parent in tree if parent != ROOT)
    assert len(seating.parents) == stripes
    for tree in seating.parents:
        assert tree.count(ROOT) == 1
        assert max(depth(tree, node) for node in range(len(tree))) < len(tree)
    assert max(children.values(), default=0) <= choose_slots(stripes)
    assert sorted(seating.order) == list(range(len(zones)))


@pytest.mark.parametrize(("count", "levels"), [(1, 1), (2, 2), (5, 2), (8, 2), (9, 2), (64, 3), (512, 4), (4096, 5)])
def test_trees_are_flat(count: int, levels: int) -> None:
    for tree in seat_nodes([""] * count, 8).parents:
        assert max(depth(tree, node) for node in range(count)) < levels


@pytest.mark.parametrize("count", [16, 64, 512])
def test_hardly_any_node_has_children_in_two_trees(count: int) -> None:
    inner = Counter(node for tree in seat_nodes([""] * count, 8).parents for node in set(tree) - {ROOT})
    assert sum(trees > 1 for trees in inner.values()) <= 7
    assert max(inner.values()) <= 2


def test_nodes_at_the_front_are_roots_and_are_told_first() -> None:
    seating = seat_nodes([""] * 100, 8)
    roots = {tree.index(ROOT) for tree in seating.parents}
    assert roots == set(range(8)) == set(seating.order[:8])


@pytest.mark.parametrize(
    ("nodes", "units", "stripes"), [(1, None, 4), (6, 100, 6), (64, 1000, 8), (64, 3, 3), (9, 0, 1)]
)
def test_there_are_fewer_stripes_for_few_nodes_and_few_units(nodes: int, units: int | None, stripes: int) -> None:
    assert choose_stripes(nodes, units) == stripes <= MAX_STRIPES
