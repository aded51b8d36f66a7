"""Downloads of several files at a time, a few ahead of their reader, watched for as long as bytes arrive."""

from __future__ import annotations

import concurrent.futures
import functools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from hubdist.errors import TransferTimeoutError
from hubdist.origins.folder_size import folder_bytes
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk_space import Scratch
from hubdist.system.threads import leave_behind, start_thread

_T = TypeVar("_T")
_POLL_S = 0.1
"""Seconds between two counts of the bytes that have arrived."""

_END_S = 2.0
"""How long an error waits for the other downloads, which most often end for the same reason. Those that go on are left
behind: nobody can stop them."""

MAX_AT_ONCE = 8
"""Most files that are downloaded at a time, as many as huggingface_hub downloads itself."""


class Downloads:
    """Downloads into one directory.

    Args:
        folder: The directory, which nobody else writes to.
        scratch: Counts its bytes.
        deadlines: Longest time without a byte.
        deadline: When everything must have come.
        redacted: What is downloaded, for errors.
        max_at_once: Most files at a time.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Scratch,
        deadlines: Deadlines,
        deadline: Deadline,
        redacted: str,
        *,
        max_at_once: int = MAX_AT_ONCE,
    ) -> None:
        self._folder = folder
        self._scratch = scratch
        self._stall_s = deadlines.stall_s
        self._deadline = deadline
        self._redacted = redacted
        self._max_at_once = max_at_once

    def each(self, items: Sequence[_T], download: Callable[[_T], Path]) -> Generator[tuple[_T, Path]]:
        """Each item with its file, in order. The file is removed when the next one is asked for.

        Close it, so that the other downloads end with their reader's error.

        Args:
            items: What to download.
            download: Downloads one; called in threads of its own.

        Raises:
            TransferTimeoutError: Nothing arrived for `stall_s`, or the deadline has passed. Threads are left behind.
            StoreFullError: More bytes came than may be written.
            HubdistError: What `download` raised.
        """
        waiting = deque(items)
        running: deque[tuple[_T, Future[Path]]] = deque()
        end_s = _END_S
        try:
            while waiting or running:
                while waiting and len(running) < self._max_at_once:
                    item = waiting.popleft()
                    _, done = start_thread(functools.partial(download, item), "hubdist-download")
                    running.append((item, done))
                item, done = running[0]
                self._watch(done)
                path = done.result()
                running.popleft()
                yield item, path
                path.unlink()
            self._scratch.count(0)
        except TransferTimeoutError:  # they hang
            end_s = 0.0
            raise
        finally:
            for done in concurrent.futures.wait([done for _, done in running], end_s).not_done:
                leave_behind(done)

    def _watch(self, done: Future[Path]) -> None:
        """Wait for a download for as long as bytes arrive, be it for another file, and count the bytes."""
        seen, stalled = -1, Deadline(self._stall_s)
        while not done.done():
            concurrent.futures.wait([done], min(_POLL_S, self._deadline.remaining_s()))
            now = folder_bytes(self._folder)
            self._scratch.count(now)
            if done.done():
                break
            self._deadline.check(self._redacted)
            if now != seen:
                seen, stalled = now, Deadline(self._stall_s)
            elif stalled.remaining_s() <= 0:
                raise TransferTimeoutError(f"the hub gave nothing of {self._redacted} for {self._stall_s:g} s")
