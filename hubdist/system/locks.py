"""How processes learn whether another process lives: locks of the kernel (flock) on files, and heartbeats.

The kernel frees a lock when the last descriptor of its owner is gone, however the owner ended, in whatever container,
and over NFS too. NFS gives an exclusive lock only to descriptors that are open for writing, and a shared lock only to
descriptors that are open for reading. `reach_of_locks` tells whether other machines see a lock.

A heartbeat tells more than a lock where a holder may be stopped, hang, or lose its machine: a thread of the holder
touches files for as long as it holds what the files stand for, and others see a file's time of change move. The clock
of the file system sets these times, and a waiting process measures the silence with its own clock. So nobody compares
clocks of two machines.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import functools
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_LOCKS = Path("/proc/locks")
_LOCAL = re.compile(r"(nolock|localflock|local_lock=(all|flock))")
_FUSE = ("fuse", "9p", "virtiofs")
_OWN = ("fuse.fuse-overlayfs", "fuse.lxcfs")
"""Kinds that are named like those, but that no other machine can have mounted."""

_NOT_WRITABLE = (errno.EBADF, errno.EACCES)  # NFS says so of an exclusive lock, and nothing of other locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)
BEAT_S = 1.0
"""Seconds between two touches of a file."""

_JOIN_S = 1.0


class Reach(enum.Enum):
    """Who sees a lock.

    Attributes:
        ALL: All machines that have the file system mounted, or the file system is a disk of this machine.
        MACHINE: Only this machine; an option of the mount says so.
        UNKNOWN: Nobody can tell: a program (FUSE) or another kernel behind the file system decides.
    """

    ALL = enum.auto()
    MACHINE = enum.auto()
    UNKNOWN = enum.auto()


@functools.lru_cache(maxsize=64)
def reach_of_locks(device: int) -> Reach:
    """Who sees locks on the files of a device.

    Args:
        device: `st_dev` of any of the files.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):  # a container without /proc
        for line in _TABLE.read_text(encoding="utf-8", errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2:3] == [number]:
                return _reach(*system.split(" ", 2))
    return Reach.ALL


def _reach(kind: str, _source: str = "", options: str = "") -> Reach:
    if any(_LOCAL.fullmatch(option) for option in options.split(",")):
        return Reach.MACHINE
    if kind.partition(".")[0] in _FUSE and kind not in _OWN:
        return Reach.UNKNOWN
    return Reach.ALL


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


def locked_files() -> frozenset[tuple[int, int]]:
    """Device and inode of each file that a process has locked by flock, as far as this machine tells.

    For people only: the table leaves out processes of other containers and machines.
    """
    found = set()
    with contextlib.suppress(OSError, ValueError):
        for line in _LOCKS.read_text(encoding="ascii").splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK":
                major, minor, inode = fields[5].split(":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return frozenset(found)


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
