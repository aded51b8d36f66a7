"""Threads for what the coordinator's event loop must not wait for: short looks at disks, and reads of whole models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hubdist.cluster.coordinator.slots import Slots

_T = TypeVar("_T")
_LOOK_THREADS = 32
_READ_THREADS = 512
_READS_AT_ONCE = 32
_PATIENCE_S = 1.0
"""A read that takes longer lets another one begin: an origin that gives no answer must not stop the other origins."""


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
