"""How a store finds a snapshot: checked for completeness, and held against eviction before anybody looks at it."""

from __future__ import annotations

import contextlib
import errno
import logging

from hubdist.errors import IntegrityError, UnsafeStoreError
from hubdist.model.manifest import Digest
from hubdist.store.eviction import Evictor, ReplacedError
from hubdist.store.folders import FILES, StoreFolders
from hubdist.store.snapshot import Snapshot, SnapshotDirectory, check_snapshot
from hubdist.system.disk import disk_errors

_LOG = logging.getLogger(__name__)

MAX_LOOKS = 100
"""How often a process looks again when others replaced what it looked at; each time, another process got on."""

_NO_MARKER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Finder:
    """Finds snapshots in one store, while any number of processes publish and evict there.

    Args:
        folders: The store's directories.
        evictor: Moves damaged snapshots to the quarantine.
    """

    def __init__(self, folders: StoreFolders, evictor: Evictor) -> None:
        self._folders = folders
        self._evictor = evictor

    def find(self, digest: Digest) -> Snapshot | None:
        """The published snapshot, or None; see `Store.find`.

        Raises:
            StoreError: The disk refuses, or a damaged snapshot cannot be moved away.
        """
        path = self._folders.snapshot(digest)
        with disk_errors(self._folders.root):
            try:
                self._folders.check(self._folders.root, self._folders.snapshots)
            except (UnsafeStoreError, FileNotFoundError):
                return None
        with disk_errors(path):
            for _ in range(MAX_LOOKS):
                try:
                    with SnapshotDirectory(path) as directory:
                        return self._open(directory, digest)
                except ReplacedError:
                    continue
                except FileNotFoundError:
                    return None
                except NotADirectoryError:
                    self._evictor.quarantine_stray(path)
                    return None
        return None

    def _open(self, directory: SnapshotDirectory, digest: Digest) -> Snapshot | None:
        """The snapshot in a directory; None if it is damaged, and is quarantined then, or is being evicted."""
        try:
            hold = directory.hold()
        except OSError as error:
            if error.errno == errno.EACCES and self._folders.read_only:
                return self._open_unheld(digest)
            if error.errno not in _NO_MARKER:
                raise
            self._evictor.quarantine(directory, "its marker of use is missing")
            return None
        if hold is None:
            return None
        with contextlib.ExitStack() as unless_found:
            unless_found.callback(hold.release)
            try:
                manifest = check_snapshot(digest, directory.path)
            except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
                self._evictor.quarantine(directory, str(error))
                return None
            if not directory.is_there():  # the check went by the path, and may have looked at another snapshot
                raise ReplacedError
            unless_found.pop_all()
        hold.touch()
        return Snapshot(directory.path / FILES, manifest, hold)

    def _open_unheld(self, digest: Digest) -> Snapshot | None:
        """The snapshot in a store that root has filled for all users, who can read it but cannot lock files in it."""
        path = self._folders.snapshot(digest)
        with disk_errors(path):
            try:
                return Snapshot(path / FILES, check_snapshot(digest, path))
            except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
                _LOG.warning("hubdist: snapshot %s in %s is damaged: %s", digest, self._folders.root, error)
                return None
