"""Bounds the bytes in flight to each node and from each node, for all deliveries of a job together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

_MAX_CALLS = 64
"""A window holds at most this many chunks, however small, because each of them takes a thread of an agent."""

Pair = tuple[str, str | None]
"""Ids of the receiving and of the sending node; None for a remote directory, which takes no node's memory."""


@dataclass(slots=True, eq=False)
class WindowRoom:
    """Room for the bytes of one chunk.

    Attributes:
        pair: The ids of the receiver and of the sender.
        size: Bytes.
        taken: True from when the room is granted until it is given back.
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
    """Grants room for bytes in flight, first come, first served. Owned by one event loop.

    A chunk takes room at both ends at the same time, never at one end alone. So no chunk holds room that another one
    waits for, and there is no deadlock. A chunk that waits for a busy end lets others pass at the free end: a slow
    node does not keep the driver's node from sending to the rest.

    Args:
        max_bytes: Most bytes in flight to a node, and from one. A larger chunk is let through alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._min_room_bytes = max_bytes // _MAX_CALLS
        self._to: Counter[str] = Counter()
        self._from: Counter[str] = Counter()
        self._waiting: dict[Pair, deque[_Waiting]] = {}
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def room(self, receiver: str, sender: str | None, size: int) -> AsyncIterator[WindowRoom]:
        """Wait for room, and take it for as long as the block runs or until `give_back`.

        The deadline of a chunk starts in the block, so the wait costs the chunk nothing.

        Args:
            receiver: Id of the node that the bytes go to.
            sender: Id of the node that the bytes come from; None for a remote directory.
            size: Bytes of the chunk.
        """
        room = WindowRoom((receiver, sender), max(size, self._min_room_bytes))
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
        """Give back room whose bytes are not in flight any more; harmless if the room was given back before."""
        if room.taken:
            room.taken = False
            self._count(room, -1)
            self._grant_beside(room.pair)

    def used(self, node: str) -> tuple[int, int]:
        """Return the bytes in flight to a node, and from it."""
        return self._to[node], self._from[node]

    def _leave(self, waiting: _Waiting) -> None:
        queue = self._waiting.get(waiting.room.pair)
        if queue is not None and waiting in queue:  # cancelled before room was granted
            queue.remove(waiting)
            if not queue:
                del self._waiting[waiting.room.pair]

    def _grant_beside(self, changed: Pair) -> None:
        """Grant room to waiting chunks that fit at both ends, the oldest first.

        A chunk that does not fit at one end keeps younger chunks from taking room there, so that a large chunk gets its
        turn.

        Args:
            changed: Where room has changed: only chunks with one of these ends are considered.
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
            if not waiting.granted.done():  # otherwise it was cancelled
                waiting.room.taken = True
                self._count(waiting.room, 1)
                waiting.granted.set_result(None)
            if not queue:
                del queues[at], self._waiting[pair]

    def _fits(self, end: tuple[str, str], size: int) -> bool:
        used = (self._to if end[0] == "to" else self._from)[end[1]]
        return used == 0 or used + size <= self._max_bytes

    def _count(self, room: WindowRoom, sign: int) -> None:
        receiver, sender = room.pair
        for counter, node in ((self._to, receiver), (self._from, sender)):
            if node is not None:
                counter[node] += sign * room.size
                if not counter[node]:
                    del counter[node]
