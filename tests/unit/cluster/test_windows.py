"""Room for bytes under way: bounded at both ends, first come first served, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.cluster.coordinator.windows import Windows

MIB = 1 << 20
MOST = 8 * MIB


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work(), 30)

    return asyncio.run(within())


class Fetches:
    """Takes rooms, in the order of the calls, until they are told to end."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def begin(self, name: str, receiver: str, sender: str | None, size: int) -> None:
        end = self.ends[name] = asyncio.Event()

        async def fetch() -> None:
            async with self.windows.room(receiver, sender, size):
                self.begun.append(name)
                await end.wait()

        self.tasks[name] = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        for _ in range(3):
            await asyncio.sleep(0)


def test_a_window_is_one_for_all_and_the_first_come_are_the_first_served() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        for number in range(4):
            await fetches.begin(f"{number}", "a", f"sender{number}", 4 * MIB)
        assert fetches.begun == ["0", "1"]
        await fetches.end("1")
        assert fetches.begun == ["0", "1", "2"]

    run(work)


def test_a_sender_has_a_window_too_and_a_place_has_none() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        for receiver in "abc":
            await fetches.begin(receiver, receiver, "sender", 4 * MIB)
            await fetches.begin(f"{receiver} reads", receiver, None, 4 * MIB)
        assert fetches.begun == ["a", "a reads", "b", "b reads", "c reads"]

    run(work)


def test_a_slow_receiver_does_not_keep_a_sender_from_others() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        await fetches.begin("full", "slow", "other", MOST)
        for number in range(50):
            await fetches.begin(f"waits {number}", "slow", "driver", MIB)
        await fetches.begin("passes", "quick", "driver", MIB)
        assert fetches.begun == ["full", "passes"]

    run(work)


def test_a_large_chunk_gets_its_turn_before_small_ones_that_came_later() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        await fetches.begin("first", "a", "x", 4 * MIB)
        await fetches.begin("large", "a", "y", 6 * MIB)
        await fetches.begin("small", "a", "z", 1 * MIB)
        assert fetches.begun == ["first"]
        await fetches.end("first")
        assert fetches.begun == ["first", "large", "small"]

    run(work)


def test_a_chunk_that_is_larger_than_the_window_goes_alone() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        await fetches.begin("small", "a", "x", MIB)
        await fetches.begin("huge", "a", "x", 2 * MOST)
        assert fetches.begun == ["small"]
        await fetches.end("small")
        assert fetches.begun == ["small", "huge"]

    run(work)


def test_tiny_chunks_take_a_part_of_the_window_all_the_same() -> None:
    async def work() -> None:
        fetches = Fetches(Windows(MOST))
        for number in range(100):
            await fetches.begin(f"{number}", "a", "x", 1)
        assert len(fetches.begun) == 64

    run(work)


@pytest.mark.parametrize("granted", [False, True])
def test_who_is_cancelled_leaves_no_room_taken_and_keeps_nobody_waiting(granted: bool) -> None:
    async def work() -> None:
        windows = Windows(MOST)
        fetches = Fetches(windows)
        await fetches.begin("first", "a", "x", MOST)
        await fetches.begin("second", "a", "x", MOST)
        await fetches.begin("third", "a", "x", MOST)
        fetches.tasks["first" if granted else "second"].cancel()
        for task in (fetches.tasks["first"], fetches.tasks["second"]):
            if granted is (task is fetches.tasks["first"]):
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await asyncio.sleep(0)
        await fetches.end("second" if granted else "first")
        assert fetches.begun[-1] == "third"
        await fetches.end("third")
        assert windows.used("a") == windows.used("x") == (0, 0)
        assert not windows._waiting

    run(work)


def test_room_that_is_given_back_early_is_given_back_once() -> None:
    async def work() -> None:
        windows = Windows(MOST)
        async with windows.room("a", "x", MOST) as room:
            windows.give_back(room)
            assert windows.used("a") == (0, 0)
            async with windows.room("a", "x", MOST):
                windows.give_back(room)
                assert windows.used("a") == (MOST, 0)
        assert windows.used("a") == windows.used("x") == (0, 0)

    run(work)


@given(
    fetches=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "x", None]), st.integers(1, 10)), max_size=60
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_all_are_served_and_no_window_is_overfull(fetches: list[Any], order: Any) -> None:
    async def work() -> None:
        windows = Windows(MOST)
        under_way: list[tuple[asyncio.Event, str, str | None, int]] = []
        served = 0

        async def fetch(receiver: str, sender: str | None, size: int) -> None:
            nonlocal served
            async with windows.room(receiver, sender, size * MIB):
                mine = (asyncio.Event(), receiver, sender, size)
                under_way.append(mine)
                await mine[0].wait()
                under_way.remove(mine)
                served += 1

        tasks = [asyncio.create_task(fetch(*each)) for each in fetches]
        while served < len(fetches):
            await asyncio.sleep(0)
            for node in "abcx":
                to = [size for _, receiver, _, size in under_way if receiver == node]
                sent = [size for _, _, sender, size in under_way if sender == node]
                assert len(to) <= 1 or sum(to) <= MOST // MIB
                assert len(sent) <= 1 or sum(sent) <= MOST // MIB
            if under_way:
                order.choice(under_way)[0].set()
        await asyncio.gather(*tasks)

    run(work)
