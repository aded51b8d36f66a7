"""Slots for slow work: a fixed number at a time, and more while the work inside stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Slots:
    """Limits how many callers work at a time. Owned by one event loop.

    While no slot becomes free, one more caller is let in every `patience_s`: those inside may wait for an origin that
    does not answer, and that must not stop the others.

    Args:
        at_once: How many callers are let in at a time.
        patience_s: Seconds without a free slot after which one more caller is let in.
    """

    def __init__(self, at_once: int, patience_s: float) -> None:
        self._at_once = at_once
        self._patience_s = patience_s
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a slot, and take it for as long as the block runs."""
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
            else:  # cancelled after being let in: the slot goes to the next caller
                self._inside -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Let the first caller in, and start the timer anew for those behind it."""
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
