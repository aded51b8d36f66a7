"""Runs a piece of work once for all callers that ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

_T = TypeVar("_T")


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
