"""Temporary files on a mount that several machines have: locked while they are written, removed when nobody does.

Where other machines may not see the locks, a file is removed only if nobody has touched it for an hour, because a
writer touches its file all the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hubdist.system.disk import NEW_FILE, unique_name
from hubdist.system.locks import LockResult, Reach, heartbeat, reach_of_locks, try_proven_lock, unlock_and_close

SILENT_S = 3600.0
"""Seconds without a touch after which a file's writer counts as dead, where locks do not tell."""

_TRIES = 100


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A new, empty file that nobody sweeps while the block runs. Afterwards it is removed if it is still there.

    Args:
        folder: The directory for the file.

    Raises:
        OSError: The file system fails.
    """
    file, lock = _make(folder)
    try:
        with heartbeat(file) if lock is None else contextlib.nullcontext():
            yield file
    finally:
        file.unlink(missing_ok=True)
        if lock is not None:
            unlock_and_close(lock)


def sweep_files(folder: Path) -> None:
    """Remove the files that nobody writes any more; files that cannot be removed stay."""
    with contextlib.suppress(OSError):
        for file in list(folder.iterdir()):
            with contextlib.suppress(OSError):
                _remove_unheld(file)


def _make(folder: Path) -> tuple[Path, int | None]:
    """A new file, and a lock on it where there are locks. A sweeper may remove the file first; then make another."""
    for _ in range(_TRIES):
        file = folder / unique_name()
        os.close(os.open(file, NEW_FILE, 0o644))
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError:  # a mount that can only write new files
            return file, None
        answer = LockResult.HELD
        try:
            with contextlib.suppress(FileNotFoundError):
                answer = try_proven_lock(descriptor, fcntl.LOCK_SH, file)
        except BaseException:
            os.close(descriptor)
            file.unlink(missing_ok=True)
            raise
        if answer is LockResult.TAKEN and _reaches_all(descriptor):
            return file, descriptor
        os.close(descriptor)
        if answer is not LockResult.HELD:
            return file, None
    raise FileNotFoundError(f"files in {folder} are removed by others as soon as they are made")


def _remove_unheld(file: Path) -> None:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:  # of another user, or on a mount that can only write new files
        _remove_silent(file)
        return
    try:
        answer = try_proven_lock(descriptor, fcntl.LOCK_EX, file)
        if answer is LockResult.TAKEN and _reaches_all(descriptor):
            file.unlink(missing_ok=True)
        elif answer is not LockResult.HELD:
            _remove_silent(file)
    finally:
        unlock_and_close(descriptor)


def _remove_silent(file: Path) -> None:
    changed = file.stat().st_mtime
    with contextlib.suppress(OSError):
        os.utime(file.parent)
    if file.parent.stat().st_mtime - changed > SILENT_S:  # both by the clock of the file system
        file.unlink(missing_ok=True)


def _reaches_all(descriptor: int) -> bool:
    return reach_of_locks(os.fstat(descriptor).st_dev) is Reach.ALL
