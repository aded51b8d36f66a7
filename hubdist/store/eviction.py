"""How snapshots leave a store: evicted when nobody uses them, or moved to the quarantine when they are damaged."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.manifest import Digest
from hubdist.store.claims import is_claimed, sweep_claims
from hubdist.store.folders import StoreFolders
from hubdist.store.holds import IN_USE, HeldDirectory, remove_unheld, sweep
from hubdist.store.kept import is_kept
from hubdist.store.snapshot import Snapshot, SnapshotDirectory
from hubdist.system.directories import children, make_private, remove_tree
from hubdist.system.disk import disk_errors, unique_name
from hubdist.system.locks import LockResult, try_proven_lock, unlock_and_close
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)


class ReplacedError(Exception):
    """Another process has removed a snapshot since it was opened. The store handles this error itself."""


class EvictionResult(enum.Enum):
    """What came of a try to evict a snapshot.

    Attributes:
        EVICTED: The snapshot is gone.
        ABSENT: The snapshot is not there, or another process is evicting it.
        IN_USE: A process has the snapshot open.
        CLAIMED: A process that runs needs the snapshot: a job has pinned it, or a program has got its path.
        KEPT: A person has told the store to keep the snapshot.
        NO_LOCKS: The file system has no locks, so nobody can tell whether a process uses the snapshot.
        FREES_NOTHING: The snapshot lies in a layer of the container's image, so its bytes would stay on the disk.
    """

    EVICTED = enum.auto()
    ABSENT = enum.auto()
    IN_USE = enum.auto()
    CLAIMED = enum.auto()
    KEPT = enum.auto()
    NO_LOCKS = enum.auto()
    FREES_NOTHING = enum.auto()


class Evictor:
    """Removes snapshots from one store, while any number of processes may do the same.

    Args:
        folders: The store's directories.
        evicted: Is called after each eviction by this process.
    """

    def __init__(self, folders: StoreFolders, evicted: Callable[[], None] = lambda: None) -> None:
        self._folders = folders
        self._evicted = evicted
        self._once = LogOnce(_LOG)

    def evict(self, path: Path) -> EvictionResult:
        """Delete a snapshot that no process uses.

        Args:
            path: The snapshot's directory.

        Raises:
            OSError: The disk refuses.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), SnapshotDirectory(path) as directory:
            wanted = self._wanted(path)  # first without the lock, at which other processes would take it for evicted
            if wanted is not None:
                return wanted
            marker = os.open(IN_USE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
            try:
                result = try_proven_lock(marker, fcntl.LOCK_EX, IN_USE, folder=directory.descriptor)
                if result is LockResult.UNSUPPORTED:
                    self._log_no_locks()
                    return EvictionResult.NO_LOCKS
                return EvictionResult.IN_USE if result is LockResult.HELD else self._evict(directory)
            finally:
                unlock_and_close(marker)
        return EvictionResult.ABSENT

    def _wanted(self, path: Path) -> EvictionResult | None:
        """Why the snapshot in a directory has to stay although no process may have it open; None if nothing says so."""
        digest = Digest(path.name)
        if is_kept(self._folders.root, digest):
            return EvictionResult.KEPT
        return EvictionResult.CLAIMED if is_claimed(self._folders.root, digest) else None

    def _evict(self, directory: SnapshotDirectory) -> EvictionResult:
        """Delete a snapshot on which this process has an exclusive lock."""
        wanted = self._wanted(directory.path)
        if wanted is not None:
            return wanted
        try:
            is_first = directory.begin_eviction()
        except OSError as error:
            if error.errno == errno.EXDEV:
                return EvictionResult.FREES_NOTHING
            raise
        self._clear(directory)
        if not is_first:
            return EvictionResult.ABSENT
        self._evicted()
        return EvictionResult.EVICTED

    def finish_eviction(self, path: Path) -> None:
        """Remove a snapshot that another process has begun to evict; that process may have been stopped.

        Args:
            path: The snapshot's directory.

        Raises:
            OSError: The disk refuses.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), SnapshotDirectory(path) as directory:
            hold = directory.hold()
            if hold is not None:
                hold.release()
            elif self._wanted(path) is None:  # else the other process will let it stay, too
                self._clear(directory)

    def sweep(self) -> None:
        """Remove what dead processes left, and all but the newest snapshot in the quarantine."""
        sweep(self._folders.staging)
        sweep_claims(self._folders.root)
        for path in children(self._folders.snapshots):
            with contextlib.suppress(OSError), SnapshotDirectory(path) as directory:
                if directory.is_evicted():
                    self._clear(directory)
        for old in sorted(children(self._folders.quarantine), key=_changed)[:-1]:
            with contextlib.suppress(OSError):
                if os.path.lexists(old / IN_USE):
                    remove_unheld(old)
                else:
                    remove_tree(old)

    def _clear(self, directory: SnapshotDirectory) -> None:
        """Delete a snapshot whose eviction has begun: free its path at once, and delete its files after that."""
        try:
            with HeldDirectory(self._folders.staging, "evicted") as doomed:
                directory.clear(doomed.path / "evicted")
        except StoreError:  # the disk is full, or the store has no `staging`
            directory.clear(None)

    def quarantine(self, directory: SnapshotDirectory, reason: str) -> None:
        """Move a damaged snapshot to the quarantine, so that `Store.find` finds it no more.

        Args:
            directory: The snapshot's directory.
            reason: The damage, for the log.

        Raises:
            ReplacedError: The snapshot is not there any more: its removal looked like damage.
            StoreError: The snapshot cannot be moved.
        """
        if directory.is_evicted():
            with contextlib.suppress(OSError):  # a read-only store; `Store.find` skips the snapshot in any case
                self._clear(directory)
            return
        if not directory.is_there():
            raise ReplacedError
        aside = self._new_quarantine()
        cause: OSError | None = None
        taken = 0
        try:
            taken = directory.clear(aside)
        except OSError as error:
            cause = error
        kept = aside is not None and children(aside) != []
        if aside is not None and not kept:
            with contextlib.suppress(OSError):
                aside.rmdir()
        if directory.is_there():
            raise StoreError(
                f"the snapshot sha256:{directory.path.name} in {self._folders.root} is damaged ({reason}) and cannot be"
                " moved aside",
                path=str(directory.path),
                number=None if cause is None else cause.errno,
                advice="Remove it, or set store to another directory.",
            ) from cause
        if taken:  # else another process was faster, or has evicted the snapshot and left an empty directory
            what = f"it is now {aside}" if kept else "it was deleted"
            _LOG.warning("hubdist: snapshot sha256:%s was damaged (%s); %s", directory.path.name, reason, what)

    def quarantine_found(self, snapshot: Snapshot, reason: str) -> None:
        """Move an open snapshot to the quarantine, unless another process has removed it already.

        Args:
            snapshot: The snapshot, as `Store.find` gave it.
            reason: The damage, for the log.

        Raises:
            StoreError: The snapshot cannot be moved.
            OSError: The disk refuses.
        """
        path = snapshot.path.parent
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError, ReplacedError),
            SnapshotDirectory(path) as directory,
        ):
            if snapshot.is_in(directory.descriptor):
                self.quarantine(directory, reason)

    def quarantine_path(self, path: Path, reason: str) -> None:
        """Move the snapshot at a path to the quarantine; does nothing if none is there.

        Args:
            path: The snapshot's directory.
            reason: The damage, for the log.

        Raises:
            StoreError: The snapshot cannot be moved.
        """
        with (
            disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError, ReplacedError),
            SnapshotDirectory(path) as directory,
        ):
            self.quarantine(directory, reason)

    def quarantine_stray(self, path: Path) -> None:
        """Move something that is not a directory away from a snapshot's path. A directory is left where it is."""
        with contextlib.suppress(OSError):
            make_private(self._folders.quarantine)
            os.link(path, self._folders.quarantine / unique_name(), follow_symlinks=False)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            path.unlink()

    def _new_quarantine(self) -> Path | None:
        """A new directory in the quarantine; None if the disk refuses. Then the damaged snapshot is deleted."""
        aside = self._folders.quarantine / unique_name()
        try:
            make_private(aside)
        except OSError:
            return None
        return aside

    def _log_no_locks(self) -> None:
        self._once.log(
            "no locks",
            "hubdist: the file system of %s has no locks, so nobody knows which models are in use, and none is evicted:"
            " max_store_bytes is not kept. Set store (HUBDIST_STORE) to another disk.",
            self._folders.root,
        )


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0
