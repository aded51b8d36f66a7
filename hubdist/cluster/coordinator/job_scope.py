"""The notes of one job on the driver's disk: its pins, for a coordinator that is made again after a crash.

Layout: `<store>/pins/<scope>/`, with a file for each pin and the lock file `in-use`. The process that works for the job
holds a shared lock on that file. Notes of jobs that are long over are removed by whoever takes an exclusive lock on it,
so notes that are in use stay, however old they look.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hubdist.errors import StoreError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.pins import Pins
from hubdist.system.directories import remove_tree
from hubdist.system.disk import unique_name
from hubdist.system.locks import LockResult, try_lock, unlock_and_close

_LOG = logging.getLogger(__name__)
_OLD_S = 30 * 24 * 3600.0


class PinRecord(Protocol):
    """Where a job notes its pins outside of the store, by `Handle.key`, because the driver's node may be lost."""

    def find(self, key: str) -> Digest | None:
        """The digest that is noted for the handle with this key; None if there is none."""
        ...

    def keep(self, key: str, digest: Digest) -> None:
        """Note a digest.

        Args:
            key: `Handle.key` of the handle.
            digest: What the handle stands for.
        """
        ...


class JobScope:
    """The notes of one job. A note that cannot be written is logged: the job goes on without it.

    Safe for several threads of the one process that works for the job.

    Args:
        folder: The directory `pins` of the driver's store; notes of jobs that are long over are removed from it.
        scope: Names the job among all that ever used the store.
        record: Where pins are noted as well; None notes them in the store only.
        locked: The job asks each origin whether the lock file is up to date. Then notes of coordinators that did not,
            because the driver had other settings before, count for nothing.
    """

    def __init__(self, folder: Path, scope: str, record: PinRecord | None = None, *, locked: bool = False) -> None:
        self._kind = "_locked" if locked else ""
        self._folder = folder / f"{scope}{self._kind}"
        self._pins = Pins(self._folder)
        self._record = record
        self._lock: int | None = None
        self._claim()
        remove_old_scopes(folder)

    def find(self, handle: Handle) -> Digest | None:
        """What the job pinned for a handle before, by a coordinator that is gone; None if it pinned nothing."""
        return self._pins.find(handle) or (None if self._record is None else self._record.find(handle.key + self._kind))

    def find_manifest(self, digest: Digest) -> Manifest | None:
        """The files of a model that the job noted; None if it noted none."""
        return self._pins.find_manifest(digest)

    def note(self, handle: Handle, digest: Digest) -> None:
        """Note a pin.

        Args:
            handle: The handle.
            digest: What the handle stands for in this job.
        """
        self._write("pin", lambda: self._pins.keep(handle, digest))
        if self._record is not None:
            self._record.keep(handle.key + self._kind, digest)

    def note_manifest(self, manifest: Manifest) -> None:
        """Note the files of a model that the driver's store does not have, because a node read them itself."""
        self._write("manifest", lambda: self._pins.keep_manifest(manifest))

    def _write(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
            self._claim()
        except StoreError as error:
            _LOG.warning("hubdist: a %s of this job cannot be noted: %s", what, error)

    def _claim(self) -> None:
        """Keep other jobs from removing the notes; the folder may not be there before the first note."""
        if self._lock is None and self._folder.is_dir():
            with contextlib.suppress(OSError):
                os.utime(self._folder)
                self._lock = _lock(self._folder, fcntl.LOCK_SH)


def remove_old_scopes(folder: Path, *, old_s: float = _OLD_S) -> None:
    """Remove the notes of jobs that are over. Several jobs may do so at once.

    Args:
        folder: The directory `pins` of a store.
        old_s: Seconds since the last note after which a job counts as over, unless a process holds its lock.
    """
    for scope in folder.glob("session_*"):
        with contextlib.suppress(OSError):  # another job is removing it, or this file system refuses
            if time.time() - scope.stat().st_mtime <= old_s:
                continue
            lock = _lock(scope, fcntl.LOCK_EX)
            if lock is None:
                continue
            try:
                # Moved first: a job that began meanwhile would take a half-removed folder for its own.
                aside = scope.rename(scope.with_name(f"session_removed_{unique_name()}"))
                remove_tree(aside)
            finally:
                unlock_and_close(lock)


def _lock(scope: Path, kind: int) -> int | None:
    """Take the lock of a job's notes; None if another process holds it, or if this file system has no locks.

    Raises:
        OSError: The lock file cannot be opened.
    """
    file = os.open(scope / "in-use", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    taken = False
    try:
        taken = try_lock(file, kind) is LockResult.TAKEN
    finally:
        if not taken:
            os.close(file)
    return file if taken else None
