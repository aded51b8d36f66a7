"""Turns of processes that replace one small file, by a lock (flock) on the file itself: no other file lies beside it.

Each of them replaces the file. So a lock counts only if the file at the path is still the one that was locked; a
process that finds another file there tries again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.system.disk import unique_name, write_durably

_LOG = logging.getLogger(__name__)
_POLL_S = 0.005
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_writing = threading.Lock()
"""The threads of a process take turns by this lock, also where the file system has no locks."""


@contextlib.contextmanager
def take_file_turn(path: Path, empty: bytes, wait_s: float) -> Iterator[os.stat_result]:
    """Let one thread of all processes replace a file at a time; yields the status of the file.

    Args:
        path: The file, which is no link.
        empty: The content of the file if it has to be made.
        wait_s: Longest wait in seconds for other writers.

    Raises:
        StoreError: Another process has held the file for so long.
        OSError: The disk refuses.
    """
    deadline = time.monotonic() + wait_s
    if not _writing.acquire(timeout=wait_s):
        raise _held(path, wait_s)
    try:
        while True:
            with _opened(path, empty) as descriptor:
                status = os.fstat(descriptor)
                if _take_lock(descriptor, path) and _is_at(path, status):
                    yield status
                    return
            if time.monotonic() > deadline:
                raise _held(path, wait_s)
            time.sleep(_POLL_S)
    finally:
        _writing.release()


def _held(path: Path, wait_s: float) -> StoreError:
    return StoreError(
        f"another process has held the lock file {path} for {wait_s:g} s",
        path=str(path),
        advice="Find out which process that is (lsof, fuser), and end it if it hangs.",
    )


@contextlib.contextmanager
def _opened(path: Path, empty: bytes) -> Iterator[int]:
    """Descriptor of the file, which is made if it is missing."""
    descriptor = _open(path)
    while descriptor is None:
        _make(path, empty)
        descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Open the file for a lock; None if it is missing. NFS locks only files that are open for writing."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError:  # the file may be replaced even if this user may only read it
            if flags == os.O_RDONLY:
                raise
    return None


def _make(path: Path, empty: bytes) -> None:
    """Make the file, unless one is there. Readers see it with its whole content or not at all."""
    new = path.with_name(f".{path.name}.{unique_name()}")
    try:
        write_durably(new, empty, "new", mode=0o666)
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def _take_lock(descriptor: int, path: Path) -> bool:
    """Take the lock if it is free; True also where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _LOG.warning("hubdist: %s cannot be locked (%s): let one process at a time add to it", path, error.strerror)
    return True


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False
