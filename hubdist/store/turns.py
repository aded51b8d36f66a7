"""Turns: one process at a time does a piece of work, for processes that use one directory.

Turns save double work, and are never needed for right results. The process whose turn it is holds a lock on a file and
touches the file (`heartbeat`). A lock alone does not tell that its holder works: the holder may be stopped, or its
machine may be gone while the server of a network file system still waits for it. So a waiting process must never write
to the file, as the package filelock does at each try: a write would look like a heartbeat.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hubdist.system.locks import BEAT_S, LockResult, heartbeat, try_lock, unlock_and_close

_LOG = logging.getLogger(__name__)

STALLED_AFTER_S = 6.0
"""Seconds without a heartbeat, by the waiting process's clock, after which the process waits no longer."""

_POLL_S = 0.01


@contextlib.contextmanager
def take_turn(folder: Path, name: str, timeout_s: float, *, stalled_after_s: float = STALLED_AFTER_S) -> Iterator[None]:
    """Run the block when no other process has the turn, or when the process that has it gives no heartbeat.

    Processes that waited for a stalled holder take turns among themselves, with a second lock. After `timeout_s`
    seconds, or where the file system has no locks, the block runs without the turn.

    Args:
        folder: The directory of the lock files; it must exist.
        name: Names the work.
        timeout_s: Longest wait in seconds.
        stalled_after_s: Seconds without a heartbeat, by the clock of the waiting process, after which the holder counts
            as stalled.
    """
    deadline = time.monotonic() + timeout_s
    file, descriptor = folder / f"{name}.lock", None
    for file in (folder / f"{name}.lock", folder / f"{name}.second.lock"):
        descriptor = _wait(file, deadline, stalled_after_s)
        if descriptor is not None or time.monotonic() >= deadline:
            break
    if descriptor is None:
        yield
        return
    try:
        with heartbeat(file):
            yield
    finally:
        unlock_and_close(descriptor)


def _wait(file: Path, deadline: float, stalled_after_s: float) -> int | None:
    """Descriptor of the locked file; None if this process could not lock it in time, or the holder has stalled."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    taken = False
    try:
        taken = _wait_for(descriptor, file, deadline, stalled_after_s)
    except OSError as error:
        _LOG.warning("hubdist: %s cannot be locked, and the work goes on without the lock: %s", file, error)
    finally:
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def _wait_for(descriptor: int, file: Path, deadline: float, stalled_after_s: float) -> bool:
    last_beat: int | None = None
    since = look_again = time.monotonic()
    while (result := try_lock(descriptor, fcntl.LOCK_EX)) is LockResult.HELD:
        now = time.monotonic()
        if now >= look_again:
            look_again = now + BEAT_S / 2
            seen = _last_beat(file)
            if seen != last_beat:
                last_beat, since = seen, now
        if now - since >= stalled_after_s:
            _LOG.warning(
                "hubdist: the process that holds %s gave no heartbeat for %g s; this process goes on",
                file,
                stalled_after_s,
            )
            return False
        if now >= deadline:
            return False
        time.sleep(max(0.0, min(_POLL_S, deadline - now)))
    return result is LockResult.TAKEN


def _last_beat(file: Path) -> int | None:
    """The time of the last heartbeat. Opening the file makes a network file system ask its server for the time."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # somebody cleared the directory
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
