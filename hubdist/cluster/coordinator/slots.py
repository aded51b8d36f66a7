"""Slots for slow work: so many pieces at a time, and more when those that run stand still."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Slots:
    """Lets so many in at a time. Owned by one event loop.

    Whoever waits is let in all the same, one each `patience_s`, while nobody comes out: those inside may wait for an
    origin that does not answer, which must not stop the others.

    Args:
        at_once: How many are let in at a time.
        patience_s: Seconds.
    """

    def __init__(self, at_once: int, patience_s: float) -> None:
        self._at_once = at_once
        self._patience_s = patience_s
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a slot; it is taken for as long as the block."""
        if self._inside < self._at_once and not self._waiting:
            self._inside += 1
        else:
            await self._wait()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside < self._at_once:
                self._admit()

    async def _wait(self) -> None:
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append(admitted)
        if self._timer is None:
            self._start_timer()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(admitted)
            else:  # it was let in at the same moment
                self._inside -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Let the first one in; those who wait behind it have patience again."""
        while self._waiting and self._waiting[0].cancelled():
            self._waiting.popleft()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._inside += 1
            self._waiting.popleft().set_result(None)
        if self._waiting:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._admit)
