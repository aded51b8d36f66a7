"""Locks of the kernel on files: whoever holds one is alive, in whatever container, and before no reboot.

The kernel frees a lock with the last descriptor of whoever took it, NFS included. NFS gives an exclusive lock only to
descriptors that are open for writing, and a shared one only to those that are open for reading.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from pathlib import Path

from hubdist.system.mounts import Reach, reach_of_locks

_NOT_WRITABLE = (errno.EBADF, errno.EACCES)  # NFS, of an exclusive lock: nothing is known of other locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)


class Answer(enum.Enum):
    """What the kernel says to one who wants a lock.

    Attributes:
        TAKEN: The lock is taken.
        HELD: Somebody else holds it, or this cannot be told.
        NONE: This file system has no locks, or they do nothing, or other machines that have it mounted do not see them.
    """

    TAKEN = enum.auto()
    HELD = enum.auto()
    NONE = enum.auto()


def take_lock(descriptor: int, kind: int) -> Answer:
    """Take a lock on an open file, without waiting.

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
            return Answer.HELD
        if error.errno in _NO_LOCKS:
            return Answer.NONE
        raise
    return Answer.TAKEN


def take_proven_lock(descriptor: int, kind: int, name: str | Path, *, folder: int | None = None) -> Answer:
    """As `take_lock`, and never TAKEN where locks do nothing: a second one, which must not be given, is asked for.

    Nor is it TAKEN where other machines that have the file system mounted do not see this one's locks.

    Args:
        descriptor: The file, open for reading and writing.
        kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        name: The file.
        folder: Descriptor of the directory that it is in; None if `name` is a path.

    Raises:
        OSError: The file system fails, or the file is gone.
    """
    answer = take_lock(descriptor, kind)
    if answer is not Answer.TAKEN:
        return answer
    if reach_of_locks(os.fstat(descriptor).st_dev) is Reach.MACHINE:
        return Answer.NONE
    try:
        second = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_WRITING:
            raise
        second = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not os.path.samestat(os.fstat(second), os.fstat(descriptor)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name))
        if take_lock(second, fcntl.LOCK_EX) is Answer.TAKEN:
            return Answer.NONE
    finally:
        os.close(second)
    return Answer.TAKEN


def let_go(descriptor: int) -> None:
    """Free a lock now, also where a child that was forked meanwhile has the descriptor too, and close the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno not in (*_NO_LOCKS, errno.EIO):  # closing it frees it too
            raise
    finally:
        os.close(descriptor)
