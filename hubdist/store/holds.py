"""Holds: locks that keep a directory from being removed, for stages while they are written and snapshots in use.

Each such directory has a file `in-use` in it. A process that holds the directory has a shared lock on that file, and a
process that wants to remove the directory must get an exclusive lock first. So the kernel tells which holders live:
nobody compares ids of processes or ages. Where a file system has no locks, makers of stages touch the file instead, and
a maker that was silent for `DEAD_AFTER_S` counts as dead; nobody knows there which processes use a snapshot.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import weakref
from pathlib import Path
from typing import Self

from hubdist.errors import StoreError
from hubdist.system.directories import children, remove_tree
from hubdist.system.disk import disk_errors, unique_name
from hubdist.system.locks import LockResult, start_heartbeat, stop_heartbeat, try_proven_lock, unlock_and_close

_LOG = logging.getLogger(__name__)

IN_USE = "in-use"
"""Name of the file in each stage and each snapshot that their holders lock."""

DEAD_AFTER_S = 3600.0
"""Where there are no locks: seconds without a heartbeat after which the maker of a stage counts as dead."""

_OLD_S = 24 * 3600.0
"""Age in seconds after which a sweep removes an entry without `in-use`, which nobody can hold."""

_MAX_TRIES = 100
_MARKER = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Hold:
    """Keeps a directory from being removed, until `release`.

    Args:
        descriptor: The open file `in-use`, with a shared lock on it where the file system has locks.
        proven: True if other processes see the lock.

    Attributes:
        proven: The same.
    """

    def __init__(self, descriptor: int, *, proven: bool) -> None:
        self._open = [descriptor]
        """The open file; empty after `release`."""
        self.proven = proven

    @property
    def descriptor(self) -> int:
        """The open file `in-use`; -1 after `release`."""
        return next(iter(self._open), -1)

    @classmethod
    def take(cls, file: Path, *, folder: int | None = None, flags: int = os.O_RDONLY) -> Self | None:
        """Hold a directory; None if another process is about to remove it.

        Args:
            file: The path of the directory's `in-use`.
            folder: Descriptor of the directory; None to find the file by its path.
            flags: Flags to open the file with.

        Raises:
            OSError: There is no such file, or the file system fails.
        """
        name = file if folder is None else IN_USE
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            result = try_proven_lock(descriptor, fcntl.LOCK_SH, name, folder=folder)
        except BaseException:
            os.close(descriptor)
            raise
        if result is LockResult.HELD:
            os.close(descriptor)
            return None
        return cls(descriptor, proven=result is LockResult.TAKEN)

    def touch(self) -> None:
        """Note that the directory is used now: a store evicts the least recently used snapshots first."""
        with contextlib.suppress(OSError):  # a read-only store evicts nothing
            os.utime(self.descriptor)

    def release(self) -> None:
        """Hold the directory no longer. A child that was forked meanwhile may use it, and still holds it."""
        # One step, since several threads may call this, and a finalizer in the midst of it, which no lock would bear.
        # A second close could hit a file that has got the same number meanwhile.
        with contextlib.suppress(IndexError):
            descriptor = self._open.pop()
            with contextlib.suppress(OSError):  # the kernel has freed the lock in any case
                os.close(descriptor)


class HeldDirectory:
    """A fresh directory that this process holds, and removes in the end unless it hands the hold over.

    Args:
        parent: The directory in which it is made.
        folders: Names of the directories that are made in it.

    Attributes:
        path: The directory.

    Raises:
        StoreError: The disk refuses.
    """

    def __init__(self, parent: Path, *folders: str) -> None:
        self._hold: Hold | None
        with disk_errors(parent):
            self.path, self._hold = _make(parent)
        self._heartbeat = None if self._hold.proven else start_heartbeat(self.path / IN_USE)
        _living.add(self)
        try:
            with disk_errors(self.path):
                for folder in folders:
                    (self.path / folder).mkdir(mode=0o700)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def hand_over(self) -> Hold:
        """Give the hold to a snapshot, which the directory has become. `discard` does nothing after that."""
        assert self._hold is not None
        self._stop_heartbeat()
        hold, self._hold = self._hold, None
        return hold

    def touch(self) -> None:
        """Note that the directory is used now."""
        if self._hold is not None:
            self._hold.touch()

    def is_whole(self) -> bool:
        """True if the directory is still at its path, and is not another one that was made there since."""
        return self._hold is not None and is_same(self._hold.descriptor, self.path / IN_USE)

    def discard(self) -> None:
        """Delete the directory, unless the hold was handed over."""
        if self._hold is not None:
            self._stop_heartbeat()
            hold, self._hold = self._hold, None
            _remove(self.path)
            hold.release()
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def forget(self) -> None:
        """Hold the directory no longer and leave it where it is; for a forked child, whose parent holds it too."""
        if self._hold is not None:
            hold, self._hold = self._hold, None
            hold.release()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            stop_heartbeat(self._heartbeat)


_living: weakref.WeakSet[HeldDirectory] = weakref.WeakSet()


def _begin_child() -> None:
    for directory in list(_living):
        directory.forget()


os.register_at_fork(after_in_child=_begin_child)


def sweep(parent: Path) -> None:
    """Remove the directories in `parent` that nobody holds any more. Directories that cannot be removed stay."""
    for path in children(parent):
        with contextlib.suppress(OSError):
            remove_unheld(path)


def remove_unheld(path: Path) -> bool:
    """Remove a directory if nobody holds it; True if it is gone.

    Args:
        path: The directory. One without `in-use` is removed if it is empty or old.

    Raises:
        OSError: The file system fails.
    """
    try:
        marker = os.open(path / IN_USE, _MARKER)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR):
            raise
        return _remove_unmarked(path)
    try:
        result = try_proven_lock(marker, fcntl.LOCK_EX, path / IN_USE)
        if result is LockResult.HELD:
            return False
        if result is LockResult.UNSUPPORTED and _age_s(path / IN_USE) < DEAD_AFTER_S:
            return False
        _remove(path)
    finally:
        unlock_and_close(marker)
    path.rmdir()
    return True


def is_same(descriptor: int, path: Path) -> bool:
    """True if an open file or directory is the one that is at a path now. Links are not followed.

    Args:
        descriptor: The open file or directory.
        path: The path.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make(parent: Path) -> tuple[Path, Hold]:
    """A new directory and the hold on it. A sweep may remove a directory before it is held; then another is made."""
    for _ in range(_MAX_TRIES):
        path = parent / unique_name()
        path.mkdir(mode=0o700)
        hold = None
        try:
            hold = Hold.take(path / IN_USE, flags=os.O_RDWR | os.O_CREAT)
            if hold is not None and is_same(hold.descriptor, path / IN_USE):
                return path, hold
        except FileNotFoundError:
            if not parent.exists():
                raise
        except BaseException:
            with contextlib.suppress(
                OSError
            ):  # by name, since listing would need a descriptor, and there may be none left
                (path / IN_USE).unlink(missing_ok=True)
                path.rmdir()
            if hold is not None:
                hold.release()
            raise
        if hold is not None:
            hold.release()
    raise StoreError(
        f"each of {_MAX_TRIES} directories in {parent} was removed by others before it could be locked",
        path=str(parent),
        advice="See which process clears that directory.",
    )


def _remove(path: Path) -> None:
    """Delete a directory's content, and `in-use` only when nothing else is left, so that a later sweep can go on."""
    for child in children(path):
        if child.name != IN_USE:
            remove_tree(child)
    if [child.name for child in children(path)] == [IN_USE]:
        with contextlib.suppress(OSError):
            (path / IN_USE).unlink()


def _remove_unmarked(path: Path) -> bool:
    """Remove an entry without `in-use`: an empty directory at once, since its maker then makes another; else if old."""
    with contextlib.suppress(OSError):
        path.rmdir()
        return True
    if _age_s(path) > _OLD_S:
        remove_tree(path)
        return True
    return False


def _age_s(path: Path) -> float:
    """Seconds since the last change of a file or directory, by the clock of its file system.

    Raises:
        OSError: The file system fails.
    """
    changed = path.lstat().st_mtime
    clock = path.parent if path.name != IN_USE else path.parent.parent
    os.utime(clock)
    return clock.stat().st_mtime - changed
