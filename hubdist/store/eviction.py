"""How snapshots leave a store: evicted when nobody uses them, or put aside when they are damaged."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import logging
import os
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.manifest import Digest
from hubdist.store.claims import is_claimed, sweep_claims
from hubdist.store.holds import IN_USE, HeldDirectory, remove_unheld, sweep
from hubdist.store.snapshot import Snapshot
from hubdist.store.snapshot_directory import Home
from hubdist.system.disk import children, make_private, remove_tree
from hubdist.system.locks import Answer, let_go, take_proven_lock
from hubdist.system.unique_names import unique_name

_LOG = logging.getLogger(__name__)


class ReplacedError(Exception):
    """Another process has taken a snapshot away since it was opened; never leaves the store."""


class Eviction(enum.Enum):
    """What came of an eviction.

    Attributes:
        DONE: The snapshot is gone.
        NO: Somebody uses it, or it is not there, or the file system has no locks.
        FREES_NOTHING: It lies in a layer of the container's image, and would stay on the disk.
    """

    DONE = enum.auto()
    NO = enum.auto()
    FREES_NOTHING = enum.auto()


class Removal:
    """Takes snapshots away, as any number of processes may do at the same time.

    Args:
        root: The store's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._snapshots = root / "snapshots"
        self._staging = root / "staging"
        self._quarantine = root / "quarantine"
        self._said_no_locks = False

    def evict(self, path: Path) -> Eviction:
        """Delete a snapshot that no process uses. See `Store.evict`.

        Raises:
            OSError: The disk refuses.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), Home(path) as home:
            marker = os.open(IN_USE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home.handle)
            try:
                answer = take_proven_lock(marker, fcntl.LOCK_EX, IN_USE, folder=home.handle)
                if answer is Answer.NONE:
                    self._say_no_locks()
                if answer is Answer.TAKEN:
                    return self._evict(home)
            finally:
                let_go(marker)
        return Eviction.NO

    def _evict(self, home: Home) -> Eviction:
        """Delete a snapshot on which there is an exclusive lock."""
        if is_claimed(self._root, Digest(home.path.name)):
            return Eviction.NO
        try:
            first = home.give_up()
        except OSError as error:
            if error.errno == errno.EXDEV:
                return Eviction.FREES_NOTHING
            raise
        self._clear(home)
        return Eviction.DONE if first else Eviction.NO

    def finish_eviction(self, path: Path) -> None:
        """Take away a snapshot that another process has begun to evict; that one may have been stopped.

        Raises:
            OSError: The disk refuses.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), Home(path) as home:
            hold = home.hold()
            if hold is not None:
                hold.release()
            elif not is_claimed(self._root, Digest(path.name)):  # else its evictor is about to find that out, too
                self._clear(home)

    def sweep(self) -> None:
        """Remove what dead processes left, and all but the newest quarantined snapshot."""
        sweep(self._staging)
        sweep_claims(self._root)
        for path in children(self._snapshots):
            with contextlib.suppress(OSError), Home(path) as home:
                if home.is_given_up():
                    self._clear(home)
        for old in sorted(children(self._quarantine), key=_changed)[:-1]:
            with contextlib.suppress(OSError):
                if os.path.lexists(old / IN_USE):
                    remove_unheld(old)
                else:
                    remove_tree(old)

    def _clear(self, home: Home) -> None:
        """Delete a snapshot that was given up; its path is free at once, and then its files go."""
        try:
            with HeldDirectory(self._staging, "evicted") as doomed:
                home.clear(doomed.path / "evicted")
        except StoreError:  # a full disk, or a store without `staging`
            home.clear(None)

    def put_aside(self, home: Home, reason: str) -> None:
        """Move a damaged snapshot to the quarantine, so that it is no hit any more.

        Raises:
            ReplacedError: It is not there any more: what looked like damage was its end.
            StoreError: It cannot be moved.
        """
        if home.is_given_up():
            with contextlib.suppress(OSError):  # a read-only store; it is no hit in any case
                self._clear(home)
            return
        if not home.is_there():
            raise ReplacedError
        aside = self._new_quarantine()
        cause: OSError | None = None
        taken = 0
        try:
            taken = home.clear(aside)
        except OSError as error:
            cause = error
        kept = aside is not None and children(aside) != []
        if aside is not None and not kept:
            with contextlib.suppress(OSError):
                aside.rmdir()
        if home.is_there():
            raise StoreError(
                f"the snapshot sha256:{home.path.name} in {self._root} is damaged ({reason}) and cannot be moved aside",
                path=str(home.path),
                number=None if cause is None else cause.errno,
                advice="Remove it, or set store to another directory.",
            ) from cause
        if taken:  # else it was the empty directory of one that was evicted, or another process was faster
            what = f"it is now {aside}" if kept else "it was deleted"
            _LOG.warning("hubdist: snapshot sha256:%s was damaged (%s); %s", home.path.name, reason, what)

    def put_found_aside(self, snapshot: Snapshot, reason: str) -> None:
        """As `put_aside`, for a snapshot that was found before; nothing if another process has done so.

        Raises:
            StoreError: It cannot be moved.
            OSError: The disk refuses.
        """
        path = snapshot.path.parent
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ReplacedError), Home(path) as home:
            if snapshot.is_in(home.handle):
                self.put_aside(home, reason)

    def put_stray_aside(self, path: Path) -> None:
        """Move away what lies in a snapshot's place and is no directory; a directory is never moved by this."""
        with contextlib.suppress(OSError):
            make_private(self._quarantine)
            os.link(path, self._quarantine / unique_name(), follow_symlinks=False)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            path.unlink()

    def _new_quarantine(self) -> Path | None:
        """A new directory in the quarantine; None if the disk refuses: there may be no room for a look any more."""
        aside = self._quarantine / unique_name()
        try:
            make_private(aside)
        except OSError:
            return None
        return aside

    def _say_no_locks(self) -> None:
        if not self._said_no_locks:
            self._said_no_locks = True
            _LOG.warning(
                "hubdist: the file system of %s has no locks, so nobody knows which models are in use, and none makes "
                "room: max_store_bytes is not kept. Set store (HUBDIST_STORE) to another disk.",
                self._root,
            )


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0
