"""Locks of the kernel (flock) on files, by which processes learn whether another process lives.

The kernel frees a lock when the last descriptor of its owner is gone, however the owner ended, in whatever container,
and over NFS too. NFS gives an exclusive lock only to descriptors that are open for writing, and a shared lock only to
descriptors that are open for reading.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from pathlib import Path

from hubdist.system.mounts import Reach, reach_of_locks

_NOT_WRITABLE = (errno.EBADF, errno.EACCES)  # NFS says so of an exclusive lock, and nothing of other locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)


class LockResult(enum.Enum):
    """What came of a try to lock a file.

    Attributes:
        TAKEN: This process has the lock.
        HELD: Another process has the lock, or nobody can tell.
        UNSUPPORTED: The file system has no locks, its locks have no effect, or other machines that have it mounted do
            not see this machine's locks.
    """

    TAKEN = enum.auto()
    HELD = enum.auto()
    UNSUPPORTED = enum.auto()


def try_lock(descriptor: int, kind: int) -> LockResult:
    """Try to lock an open file, without waiting.

    Args:
        descriptor: The file, open for reading and writing.
        kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.

    Raises:
        OSError: The file system fails.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK or (kind == fcntl.LOCK_EX and error.errno in _NOT_WRITABLE):
            return LockResult.HELD
        if error.errno in _NO_LOCKS:
            return LockResult.UNSUPPORTED
        raise
    return LockResult.TAKEN


def try_proven_lock(descriptor: int, kind: int, name: str | Path, *, folder: int | None = None) -> LockResult:
    """Try to lock an open file, and test that the lock works: TAKEN means that other processes and machines see it.

    The test asks for a second lock, through another descriptor, which a working file system must refuse.

    Args:
        descriptor: The file, open for reading and writing.
        kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        name: The file's path, or its name in `folder`.
        folder: Descriptor of the directory that the file is in; None if `name` is a path.

    Raises:
        OSError: The file system fails, or another file, or none, has this name by now.
    """
    result = try_lock(descriptor, kind)
    if result is not LockResult.TAKEN:
        return result
    if reach_of_locks(os.fstat(descriptor).st_dev) is Reach.MACHINE:
        return LockResult.UNSUPPORTED
    second = _open_again(name, folder)
    try:
        if not os.path.samestat(os.fstat(second), os.fstat(descriptor)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name))
        if try_lock(second, fcntl.LOCK_EX) is LockResult.TAKEN:
            return LockResult.UNSUPPORTED
    finally:
        os.close(second)
    return LockResult.TAKEN


def unlock_and_close(descriptor: int) -> None:
    """Free a lock at once and close its file.

    Closing alone would not free the lock while a child that was forked meanwhile has the descriptor too.

    Raises:
        OSError: The file system fails.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno not in (*_NO_LOCKS, errno.EIO):  # closing the file frees the lock too
            raise
    finally:
        os.close(descriptor)


def _open_again(name: str | Path, folder: int | None) -> int:
    try:
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_WRITING:
            raise
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
