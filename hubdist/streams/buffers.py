"""Buffers for the bytes that all streams of a node receive: their number bounds the node's memory for deliveries."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from hubdist.errors import TransferTimeoutError
from hubdist.streams.frames import PART_BYTES


class Buffers:
    """Lends buffers of `PART_BYTES`. Safe for several threads.

    The buffer that was given back last is lent first, because it is still in the processor's cache.

    Args:
        count: How many there are at most; they are made when they are needed first.
        timeout_s: Longest wait for one in seconds.
    """

    def __init__(self, count: int, *, timeout_s: float = 60.0) -> None:
        self._left = threading.BoundedSemaphore(count)
        self._timeout_s = timeout_s
        self._free: list[bytearray] = []

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[memoryview]:
        """Lend a buffer to the block.

        Args:
            size: Bytes that are needed, at most `PART_BYTES`; of this size is what the block gets.

        Raises:
            TransferTimeoutError: All buffers are in use for too long.
        """
        if not self._left.acquire(timeout=self._timeout_s):
            raise TransferTimeoutError(f"no buffer became free within {self._timeout_s:g} s")
        buffer = self._pop() or bytearray(PART_BYTES)
        try:
            yield memoryview(buffer)[:size]
        finally:
            self._free.append(buffer)
            self._left.release()

    def _pop(self) -> bytearray | None:
        try:
            return self._free.pop()
        except IndexError:
            return None
