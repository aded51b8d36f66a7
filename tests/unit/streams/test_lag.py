"""When a node complains about a stripe: the units of all stripes are counted, no clock is read."""

from __future__ import annotations

import pytest

from hubdist.streams.lag import MIN_BEHIND, PATIENCE, UNHEARD, WINDOW, LagWatch, Progress, find_lead

STRIPES = 8


def complaints(gains: list[float], units: int, parent_gain: float, parent_ahead: int = 0) -> list[list[int]]:
    """What a node complains about while its leading stripes get so many units, and the others a part of that.

    Args:
        gains: For each stripe which part of a unit comes while the leading ones get one.
        units: How many units the leading ones get.
        parent_gain: The same part for the leading stripe of all parents.
        parent_ahead: How many units of the child's stripe a parent has more than the child.
    """
    watch, found = LagWatch(STRIPES), []
    for unit in range(1, units + 1):
        counts = [1 + int(unit * gain) for gain in gains]
        lead = 1 + int(unit * parent_gain)
        found.append(watch.look(counts, [Progress(count + parent_ahead, lead, True) for count in counts]))
    return [each for each in found if each]


def one_slow(gain: float) -> list[float]:
    return [gain] + [1.0] * (STRIPES - 1)


def test_nobody_complains_while_all_stripes_come_alike() -> None:
    assert complaints([1.0] * STRIPES, 400, 1.0, 5) == []
    assert complaints([0.25] * STRIPES, 400, 1.0, 5) == []


def test_a_parent_that_receives_slowly_is_blamed_soon_and_seldom_again() -> None:
    assert complaints(one_slow(0.25), 20, 0.25) == [[0]]
    assert complaints(one_slow(0.25), 200, 0.25) == [[0]] * 3


def test_a_parent_that_sends_slowly_is_blamed() -> None:
    assert complaints(one_slow(0.25), 20, 1.0, parent_ahead=9) == [[0]]


def test_a_parent_that_waits_for_its_own_parent_is_not_blamed() -> None:
    assert complaints(one_slow(0.25), 400, 1.0, parent_ahead=1) == []
    assert complaints(one_slow(0.0), 400, 1.0) == []


def test_a_parent_with_one_child_too_many_is_not_blamed() -> None:
    assert complaints(one_slow(8 / 9), 400, 1.0, parent_ahead=9) == []


def test_most_stripes_may_lag_at_once() -> None:
    found = complaints([0.25] * 6 + [1.0] * 2, 20, 0.25)
    assert found == [[0, 1, 2, 3, 4, 5]]


def test_a_parent_that_waits_for_its_first_unit_is_not_blamed() -> None:
    watch = LagWatch(3)
    for unit in range(100):
        assert watch.look([unit, 0, unit], [Progress(0, 0, False)] * 3) == []


def test_a_parent_that_does_not_answer_is_blamed_when_others_have_sent_many_units() -> None:
    watch = LagWatch(3)
    found = [
        unit
        for unit in range(1, 40)
        if watch.look([0, unit, unit], [None, Progress(0, 0, False), Progress(0, 0, False)])
    ]
    assert found
    assert UNHEARD < found[0] <= UNHEARD + 2 * WINDOW


def test_a_parent_that_has_not_begun_is_not_blamed() -> None:
    watch = LagWatch(3)
    for unit in range(1, 100):
        assert watch.look([1, unit, unit], [Progress(1, unit, False)] * 3) == []


def test_a_parent_that_stands_still_is_blamed_even_if_some_of_its_stripes_have_not_begun() -> None:
    watch = LagWatch(3)
    assert any(watch.look([1, unit, unit], [Progress(1, 2, False)] * 3) for unit in range(1, 20))


def test_a_new_parent_gets_the_patience_that_the_old_one_had() -> None:
    watch, looks = LagWatch(3), []
    for unit in range(1, 61):
        if watch.look([1, unit, unit], [Progress(1, 1, True)] * 3):
            looks.append(unit)
            watch.reseat(0)
    assert looks[1] - looks[0] >= PATIENCE * WINDOW
    assert len(looks) >= 3


@pytest.mark.parametrize(("counts", "lead"), [([3], 3), ([3, 5], 3), ([9, 2, 7], 7)])
def test_the_lead_leaves_out_one_stripe_that_runs_ahead(counts: list[int], lead: int) -> None:
    assert find_lead(counts) == lead


def test_a_stripe_that_is_a_little_behind_is_left_alone() -> None:
    watch = LagWatch(3)
    for unit in range(1, 400):
        assert watch.look([max(1, unit - MIN_BEHIND + 1), unit, unit], [Progress(unit, 1, True)] * 3) == []
