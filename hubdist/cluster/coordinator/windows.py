"""How many bytes may be under way to each node and from each: one bound for all deliveries of a job."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

_MAX_CALLS = 64
"""A window holds at most as many chunks, however small: each takes a thread of an agent."""

Pair = tuple[str, str | None]
"""Who receives, and who sends; None for a place that takes no node's memory."""


@dataclass(slots=True, eq=False)
class WindowRoom:
    """Bytes that may be under way from now on.

    Attributes:
        pair: Who receives and who sends.
        size: How many.
        taken: False before it was granted, and after it was given back.
    """

    pair: Pair
    size: int
    taken: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    number: int
    room: WindowRoom
    granted: asyncio.Future[None]


class Windows:
    """Grants room for bytes under way, first come, first served. Owned by one event loop.

    Room is taken at both ends at the same time and never at one alone, so nobody holds what somebody else waits for,
    and every wait ends when others have what they asked for. Who waits for a busy end lets others pass at the free
    one: a slow node does not keep the driver's node from sending to the rest.

    Args:
        most_bytes: Most bytes to a node, and from one. More are let through alone.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._least = most_bytes // _MAX_CALLS
        self._to: Counter[str] = Counter()
        self._from: Counter[str] = Counter()
        self._waiting: dict[Pair, deque[_Waiting]] = {}
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def room(self, receiver: str, sender: str | None, size: int) -> AsyncIterator[WindowRoom]:
        """Room for bytes, for as long as the block runs or until it is given back. No time of theirs runs before.

        Args:
            receiver: Id of the node that they go to.
            sender: Id of the node that they come from; None for a place.
            size: How many.
        """
        room = WindowRoom((receiver, sender), max(size, self._least))
        waiting = _Waiting(next(self._numbers), room, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(room.pair, deque()).append(waiting)
        try:
            self._grant_beside(room.pair)
            await waiting.granted
            yield room
        finally:
            self._leave(waiting)
            self.give_back(room)

    def give_back(self, room: WindowRoom) -> None:
        """The bytes of a room are not under way any more, or never will be; harmless if it was given back."""
        if room.taken:
            room.taken = False
            self._count(room, -1)
            self._grant_beside(room.pair)

    def used(self, node: str) -> tuple[int, int]:
        """Bytes under way to a node, and from it."""
        return self._to[node], self._from[node]

    def _leave(self, waiting: _Waiting) -> None:
        queue = self._waiting.get(waiting.room.pair)
        if queue is not None and waiting in queue:  # cancelled
            queue.remove(waiting)
            if not queue:
                del self._waiting[waiting.room.pair]

    def _grant_beside(self, changed: Pair) -> None:
        """Let those begin that have room at both ends, who came first before the others.

        Args:
            changed: Only those are looked at that have an end in common with these.

        A pair that lacks room at one end keeps younger ones from taking it there, so that a large chunk gets its turn.
        """
        full: set[tuple[str, str]] = set()
        receiver, sender = changed
        queues = [
            (queue, pair)
            for pair, queue in self._waiting.items()
            if pair[0] == receiver or (sender is not None and pair[1] == sender)
        ]
        while queues:
            at = min(range(len(queues)), key=lambda each: queues[each][0][0].number)
            queue, pair = queues[at]
            ends = {("to", pair[0])} | ({("from", pair[1])} if pair[1] else set())
            lacking = {end for end in ends if not self._fits(end, queue[0].room.size)}
            full |= lacking
            if ends & full:
                del queues[at]
                continue
            waiting = queue.popleft()
            if not waiting.granted.done():  # else it was cancelled
                waiting.room.taken = True
                self._count(waiting.room, 1)
                waiting.granted.set_result(None)
            if not queue:
                del queues[at], self._waiting[pair]

    def _fits(self, end: tuple[str, str], size: int) -> bool:
        used = (self._to if end[0] == "to" else self._from)[end[1]]
        return used == 0 or used + size <= self._most

    def _count(self, room: WindowRoom, sign: int) -> None:
        receiver, sender = room.pair
        for counter, node in ((self._to, receiver), (self._from, sender)):
            if node is not None:
                counter[node] += sign * room.size
                if not counter[node]:
                    del counter[node]
