"""Slots: so many at a time, and more when those inside stand still."""

from __future__ import annotations

import asyncio

import pytest

from hubdist.cluster.coordinator.concurrency import Slots

LONG_S = 60.0


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Visitor:
    """Takes a slot and stays until it is let go."""

    def __init__(self, slots: Slots) -> None:
        self.inside = False
        self.inside_at_last = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(slots))

    async def _visit(self, slots: Slots) -> None:
        async with slots.take():
            self.inside = True
            self.inside_at_last.set()
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await settle()


def inside(visitors: list[Visitor]) -> list[int]:
    return [number for number, visitor in enumerate(visitors) if visitor.inside]


def test_so_many_are_inside_and_the_first_who_waits_is_next() -> None:
    async def run() -> None:
        slots = Slots(2, LONG_S)
        visitors = [Visitor(slots) for _ in range(4)]
        await settle()
        assert inside(visitors) == [0, 1]
        await visitors[1].leave()
        assert inside(visitors) == [0, 2]
        await visitors[0].leave()
        assert inside(visitors) == [2, 3]
        for visitor in visitors[2:]:
            await visitor.leave()
        late = Visitor(slots)
        await settle()
        assert late.inside
        await late.leave()

    asyncio.run(run())


def test_those_who_stand_still_do_not_stop_the_others() -> None:
    async def run() -> None:
        slots = Slots(2, 0.01)
        visitors = [Visitor(slots) for _ in range(5)]
        for visitor in visitors:
            await asyncio.wait_for(visitor.inside_at_last.wait(), 10)
        for visitor in visitors:
            await visitor.leave()

    asyncio.run(run())


def test_after_a_crowd_only_so_many_are_let_in_again() -> None:
    async def run() -> None:
        slots = Slots(1, 0.01)
        visitors = [Visitor(slots) for _ in range(3)]
        for visitor in visitors:
            await asyncio.wait_for(visitor.inside_at_last.wait(), 10)
        slots._patience_s = LONG_S
        late = Visitor(slots)
        await visitors[0].leave()
        await visitors[1].leave()
        assert not late.inside
        await visitors[2].leave()
        assert late.inside
        await late.leave()

    asyncio.run(run())


@pytest.mark.parametrize("who", [1, 2])
def test_who_is_cancelled_while_waiting_takes_no_turn(who: int) -> None:
    async def run() -> None:
        slots = Slots(1, LONG_S)
        visitors = [Visitor(slots) for _ in range(3)]
        await settle()
        visitors[who].task.cancel()
        await settle()
        await visitors[0].leave()
        assert inside(visitors) == [3 - who]
        await visitors[3 - who].leave()
        late = Visitor(slots)
        await settle()
        assert late.inside
        await late.leave()

    asyncio.run(run())


def test_who_is_cancelled_at_the_moment_of_being_let_in_passes_the_turn_on() -> None:
    async def run() -> None:
        slots = Slots(1, LONG_S)
        visitors = [Visitor(slots) for _ in range(3)]
        await settle()
        visitors[0]._leave.set()
        await asyncio.sleep(0)  # it leaves, and the next one is let in but has not run yet
        visitors[1].task.cancel()
        await settle()
        assert inside(visitors) == [2]
        await visitors[2].leave()

    asyncio.run(run())
