"""Turns among the processes that use one directory: they save double work, and are never needed for right results.

Whoever has the turn holds a lock on a file and shows signs of life on it. A lock alone does not tell that its holder
works: the holder may be stopped, or its machine be gone while the server of a network file system still waits for it.
So the file is never written to but by its holder, as the package filelock does at each try to get a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hubdist.system.heartbeat import BEAT_S, signs_of_life
from hubdist.system.locks import Answer, let_go, take_lock

_LOG = logging.getLogger(__name__)

SILENT_S = 6.0
"""Seconds without a sign of life, as a waiter sees it, after which it waits no longer."""

_POLL_S = 0.01


@contextlib.contextmanager
def take_turn(folder: Path, name: str, timeout_s: float) -> Iterator[None]:
    """Run the block when no other process has the turn of this name, or when its holder is silent.

    Those who waited for a silent holder take turns again, with a second lock. After `timeout_s` seconds, or where the
    file system has no locks, the block runs all the same.

    Args:
        folder: Where the files of locks are; which exists.
        name: Of the turn.
        timeout_s: Longest time in seconds to wait.
    """
    deadline = time.monotonic() + timeout_s
    file, descriptor = folder / f"{name}.lock", None
    for file in (folder / f"{name}.lock", folder / f"{name}.second.lock"):
        descriptor = _wait(file, deadline)
        if descriptor is not None or time.monotonic() >= deadline:
            break
    if descriptor is None:
        yield
        return
    try:
        with signs_of_life(file):
            yield
    finally:
        let_go(descriptor)


def _wait(file: Path, deadline: float) -> int | None:
    """The locked file; None if there is no lock to be had, in time, from a holder that shows signs of life."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    taken = False
    try:
        taken = _wait_for(descriptor, file, deadline)
    except OSError as error:
        _LOG.warning("hubdist: %s cannot be locked, going on without: %s", file, error)
    finally:
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def _wait_for(descriptor: int, file: Path, deadline: float) -> bool:
    sign: int | None = None
    since = look_again = time.monotonic()
    while (answer := take_lock(descriptor, fcntl.LOCK_EX)) is Answer.HELD:
        now = time.monotonic()
        if now >= look_again:
            look_again = now + BEAT_S / 2
            seen = _sign_of(file)
            if seen != sign:
                sign, since = seen, now
        if now - since >= SILENT_S:
            _LOG.warning("hubdist: whoever holds %s shows no sign of life for %g s; going on", file, SILENT_S)
            return False
        if now >= deadline:
            return False
        time.sleep(max(0.0, min(_POLL_S, deadline - now)))
    return answer is Answer.TAKEN


def _sign_of(file: Path) -> int | None:
    """The last sign of life; the file is opened for it, so that a network file system asks its server."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # a cleaner removed it
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
