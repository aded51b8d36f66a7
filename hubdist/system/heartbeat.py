"""Signs of life for others: a thread of this process touches files for as long as it holds what they stand for.

Others see a file's time of change move while its holder runs, and stand still when it is stopped, hangs, or its machine
is gone. The file system's own clock sets these times, and whoever waits measures with its own: no clocks are compared.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

BEAT_S = 1.0
"""Seconds between two signs of life."""

_END_S = 1.0


class _Signs:
    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: dict[object, Path] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def begin(self, file: Path) -> object:
        """Touch a file from now on; what is returned ends it."""
        key = object()
        with contextlib.suppress(OSError):
            os.utime(file)
        with self._guard:
            self._files[key] = file
            if self._thread is None:
                ended = threading.Event()
                thread = threading.Thread(target=self._run, args=(ended,), name="hubdist-signs", daemon=True)
                with contextlib.suppress(RuntimeError):  # no threads any more: others may take this process for silent
                    thread.start()
                    self._thread, self._ended = thread, ended
        return key

    def end(self, key: object) -> None:
        """Touch the file no more."""
        with self._guard:
            self._files.pop(key, None)
            if self._files or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._ended.set()
        thread.join(_END_S)

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with self._guard:
                files = list(self._files.values())
            for file in files:
                with contextlib.suppress(OSError):  # removed by a cleaner, or a full disk: it is only a sign
                    os.utime(file)


_signs = _Signs()


def begin_signs(file: Path) -> object:
    """Show signs of life on a file, now and every `BEAT_S` seconds, until `end_signs` gets what this returns."""
    return _signs.begin(file)


def end_signs(key: object) -> None:
    """Show no more signs of life on that file."""
    _signs.end(key)


@contextlib.contextmanager
def signs_of_life(file: Path) -> Iterator[None]:
    """Show signs of life on a file while the block runs."""
    key = begin_signs(file)
    try:
        yield
    finally:
        end_signs(key)


def _begin_child() -> None:
    """In a process that was just forked: what is held, the parent holds, and its thread did not come along."""
    global _signs  # noqa: PLW0603 - a process has one
    _signs = _Signs()


os.register_at_fork(after_in_child=_begin_child)
