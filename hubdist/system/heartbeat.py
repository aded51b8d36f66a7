"""Heartbeats: a thread of this process touches files for as long as the process holds what the files stand for.

Other processes see a file's time of change move while its holder runs, and stand still when the holder is stopped,
hangs, or lost its machine. The clock of the file system sets these times, and a waiting process measures the silence
with its own clock. So nobody compares clocks of two machines.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

BEAT_S = 1.0
"""Seconds between two touches of a file."""

_JOIN_S = 1.0


class _Heartbeats:
    """The files that this process touches, and the thread that does so while there are any."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: dict[object, Path] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self, file: Path) -> object:
        key = object()
        with contextlib.suppress(OSError):
            os.utime(file)
        with self._guard:
            self._files[key] = file
            if self._thread is None:
                stopped = threading.Event()
                thread = threading.Thread(target=self._run, args=(stopped,), name="hubdist-heartbeat", daemon=True)
                # The interpreter starts no threads while it shuts down. Then others may count this process as dead.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread, self._stopped = thread, stopped
        return key

    def stop(self, key: object) -> None:
        with self._guard:
            self._files.pop(key, None)
            if self._files or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._stopped.set()
        thread.join(_JOIN_S)

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(BEAT_S):
            with self._guard:
                files = list(self._files.values())
            for file in files:
                with contextlib.suppress(OSError):  # a sweep removed the file, or the disk is full
                    os.utime(file)


_heartbeats = _Heartbeats()


def start_heartbeat(file: Path) -> object:
    """Touch a file now and every `BEAT_S` seconds; returns the key that `stop_heartbeat` needs."""
    return _heartbeats.start(file)


def stop_heartbeat(key: object) -> None:
    """Stop touching a file.

    Args:
        key: What `start_heartbeat` returned for the file.
    """
    _heartbeats.stop(key)


@contextlib.contextmanager
def heartbeat(file: Path) -> Iterator[None]:
    """Touch a file now and every `BEAT_S` seconds while the block runs."""
    key = start_heartbeat(file)
    try:
        yield
    finally:
        stop_heartbeat(key)


def _begin_child() -> None:
    """Forget all files in a forked child: the parent holds them, and the thread does not run in the child."""
    global _heartbeats  # noqa: PLW0603 - a process has one
    _heartbeats = _Heartbeats()


os.register_at_fork(after_in_child=_begin_child)
