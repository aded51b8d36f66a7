"""How the coordinator shares work: one flight for equal calls, slots in threads for blocking calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")
_LOOK_THREADS = 32
_READ_THREADS = 512
_READS_AT_ONCE = 32
_PATIENCE_S = 1.0
"""A read that takes longer lets another one begin: an origin that gives no answer must not stop the other origins."""


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


class SingleFlight:
    """Lets callers that ask for the same work at the same time wait for one run of it. Owned by one event loop.

    Results and errors are not kept: a caller that asks after the end starts a new run.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """The result of `work`, or of the run with this key that has not ended yet.

        A caller that is cancelled does not stop the run for the others.

        Args:
            key: Tells which work it is.
            work: Starts a run; called only if there is none.
        """
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        result: _T = await asyncio.shield(task)
        return result

    def _end(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # or asyncio would log that nobody took it, if every caller has left


class BlockingWork:
    """Runs blocking functions in threads of two pools, so that slow origins do not delay looks at the disk.

    Owned by the coordinator's event loop.
    """

    def __init__(self) -> None:
        self._look_pool = ThreadPoolExecutor(_LOOK_THREADS, thread_name_prefix="hubdist-look")
        self._read_pool = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="hubdist-read")
        self._slots = Slots(_READS_AT_ONCE, _PATIENCE_S)

    async def look(self, blocking: Callable[[], _T]) -> _T:
        """Do what asks a disk, or a network for a moment."""
        return await asyncio.get_running_loop().run_in_executor(self._look_pool, blocking)

    async def read(self, blocking: Callable[[], _T]) -> _T:
        """Do what reads a whole model. About 32 run at once, and more while some of them get no answer."""
        async with self._slots.take():
            return await asyncio.get_running_loop().run_in_executor(self._read_pool, blocking)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._look_pool.shutdown()
        self._read_pool.shutdown()
