"""Directories that nobody removes while somebody holds them: stages, while they are written, and snapshots, in use.

Each has a file `in-use` in it. Whoever holds the directory has a shared lock on that file; whoever wants to remove the
directory must get an exclusive one first. So the kernel says who lives: no ids of processes and no ages are compared.
Where a file system has no locks, makers of stages touch the file instead, and who was silent for `SILENT_S` counts as
dead; who uses a snapshot is not known there.
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
from hubdist.system.disk import children, disk_errors, remove_tree
from hubdist.system.heartbeat import begin_signs, end_signs
from hubdist.system.locks import Answer, let_go, take_proven_lock
from hubdist.system.unique_names import unique_name

_LOG = logging.getLogger(__name__)

IN_USE = "in-use"
"""The file that is locked, in each stage and each snapshot."""

SILENT_S = 3600.0
"""Without locks: seconds without a sign of life after which a holder counts as dead."""

_OLD_S = 24 * 3600.0
"""Seconds after which what nobody can hold, for it has no `in-use`, is removed from among the stages."""

_TRIES = 100
_MARKER = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Hold:
    """A directory that this process keeps from being removed, until `release`.

    Attributes:
        descriptor: Of `in-use`, with a shared lock on it where the file system has locks.
        proven: The file system has locks.
    """

    def __init__(self, descriptor: int, *, proven: bool) -> None:
        self.descriptor = descriptor
        self.proven = proven

    @classmethod
    def take(cls, file: Path, *, folder: int | None = None, flags: int = os.O_RDONLY) -> Self | None:
        """Hold the directory that a file `in-use` is in; None if somebody is about to remove it.

        Args:
            file: The file.
            folder: Descriptor of its directory; None to go by the path.
            flags: Further flags to open it with.

        Raises:
            OSError: There is no such file, or the file system fails.
        """
        name = file if folder is None else IN_USE
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            answer = take_proven_lock(descriptor, fcntl.LOCK_SH, name, folder=folder)
        except BaseException:
            os.close(descriptor)
            raise
        if answer is Answer.HELD:
            os.close(descriptor)
            return None
        return cls(descriptor, proven=answer is Answer.TAKEN)

    def touch(self) -> None:
        """Note the use: the order in which snapshots are evicted goes by it."""
        with contextlib.suppress(OSError):  # a read-only store has no order of use
            os.utime(self.descriptor)

    def release(self) -> None:
        """Hold it no more. A child that was forked meanwhile, and may use it too, still does."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # the kernel has let go of it in any case
                os.close(descriptor)


class HeldDirectory:
    """A fresh directory that this process holds and removes in the end, unless it was handed over.

    Args:
        parent: Where it is made.
        folders: Names of the directories in it.

    Attributes:
        path: The directory.

    Raises:
        StoreError: It cannot be made.
    """

    def __init__(self, parent: Path, *folders: str) -> None:
        self._hold: Hold | None
        with disk_errors(parent):
            self.path, self._hold = _make(parent)
        self._signs = None if self._hold.proven else begin_signs(self.path / IN_USE)
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
        """The hold on the directory, which has another name by now; `discard` does nothing any more."""
        assert self._hold is not None
        end_signs(self._signs)
        hold, self._hold = self._hold, None
        return hold

    def touch(self) -> None:
        """Note that it is used now."""
        if self._hold is not None:
            self._hold.touch()

    def is_whole(self) -> bool:
        """True if the directory is still there under its name, and has not been made again by somebody else."""
        return self._hold is not None and is_same(self._hold.descriptor, self.path / IN_USE)

    def discard(self) -> None:
        """Delete it, unless it was handed over."""
        if self._hold is not None:
            end_signs(self._signs)
            hold, self._hold = self._hold, None
            _remove(self.path)
            hold.release()
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def forget(self) -> None:
        """In a forked child: the directory is the parent's, and ends with the parent."""
        if self._hold is not None:
            hold, self._hold = self._hold, None
            hold.release()


_living: weakref.WeakSet[HeldDirectory] = weakref.WeakSet()


def _begin_child() -> None:
    for directory in list(_living):
        directory.forget()


os.register_at_fork(after_in_child=_begin_child)


def sweep(parent: Path) -> None:
    """Remove what nobody holds any more from a directory of held directories; what cannot be removed stays."""
    for path in children(parent):
        with contextlib.suppress(OSError):
            remove_unheld(path)


def remove_unheld(path: Path) -> bool:
    """Remove a directory if nobody holds it; True if it is gone.

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
        answer = take_proven_lock(marker, fcntl.LOCK_EX, path / IN_USE)
        if answer is Answer.HELD or (answer is Answer.NONE and _age_s(path / IN_USE) < SILENT_S):
            return False
        _remove(path)
    finally:
        let_go(marker)
    path.rmdir()
    return True


def is_same(descriptor: int, path: Path) -> bool:
    """True if an open file or directory is what is at a path now; a link there is nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make(parent: Path) -> tuple[Path, Hold]:
    """A new directory, held. Who sweeps may remove it before it is; then the next one is made."""
    for _ in range(_TRIES):
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
            with contextlib.suppress(OSError):  # by name: there may be no descriptor left to list a directory with
                (path / IN_USE).unlink(missing_ok=True)
                path.rmdir()
            if hold is not None:
                hold.release()
            raise
        if hold is not None:
            hold.release()
    raise StoreError(
        f"each of {_TRIES} directories in {parent} was removed by others before it could be locked",
        path=str(parent),
        advice="See which process clears that directory.",
    )


def _remove(path: Path) -> None:
    """Delete a directory's content; `in-use` only when nothing else is left, so that it can be tried again."""
    for child in children(path):
        if child.name != IN_USE:
            remove_tree(child)
    if [child.name for child in children(path)] == [IN_USE]:
        with contextlib.suppress(OSError):
            (path / IN_USE).unlink()


def _remove_unmarked(path: Path) -> bool:
    """Remove what has no `in-use`: an empty directory at once, for its maker makes another; else when it is old."""
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
