"""The directories of a store: makes missing ones, and checks that nobody but their owner may write to them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.manifest import Digest
from hubdist.system.directories import children
from hubdist.system.disk import NEW_FILE, disk_errors, mode_below
from hubdist.system.ownership import check_folder, make_root, place_for_store

FILES = "files"
"""Name of the model's directory inside a stage and a snapshot; the manifest lies beside it."""

MANIFEST = "manifest.json"
"""Name of the manifest inside a snapshot, beside the model's directory."""

_CACHE_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This file says that the directory is a cache, which programs that make backups may leave out.
# hubdist made it. See https://bford.info/cachedir/
"""

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors that make a store read-only instead of useless: it still serves the snapshots that it has."""


class StoreFolders:
    """The directories of one store. Safe for several threads and processes.

    Args:
        configured: The configured directory; made with mode 0700 if it is missing.

    Attributes:
        root: The store's root: the configured directory, or one inside it if others may write to the configured one.
        read_only: True if this user may not write to the store.
        snapshots: Published snapshots, by digest.
        staging: Stages that are being written.
        quarantine: Damaged snapshots.
        locks: Files for turns among processes.

    Raises:
        UnsafeStoreError: Another user owns the store or may write to it.
        StoreError: The store can neither be made nor read.
    """

    def __init__(self, configured: Path) -> None:
        self.root = root = make_root(configured)
        self.snapshots = root / "snapshots"
        self.staging = root / "staging"
        self.quarantine = root / "quarantine"
        self.locks = root / "locks"
        self._unwritable: OSError | None = None
        with disk_errors(root):
            try:
                self.make()
                self.read_only = not os.access(root, os.W_OK)
            except StoreError:
                raise  # somebody has put another directory at the root's place
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
                self.read_only = True
                self._unwritable = error
            self.check(root)
            for folder in self._existing():
                with contextlib.suppress(FileNotFoundError):  # another process has just removed old pins
                    self.check(folder)

    def snapshot(self, digest: Digest) -> Path:
        """The directory of a snapshot, which need not be there."""
        return self.snapshots / digest.value

    def make(self) -> None:
        """Make the directories that are missing. What somebody else has put in their place is left as it is.

        Raises:
            OSError: The disk refuses.
        """
        if not self.root.exists():
            make_root(self.root)
        mode = mode_below(self.root)
        for folder in (self.snapshots, self.staging, self.quarantine, self.locks, self.root / "pins"):
            folder.mkdir(mode=mode, exist_ok=True)
        with contextlib.suppress(OSError):  # it is there, or the store can do without
            tag = os.open(self.root / "CACHEDIR.TAG", NEW_FILE, mode & 0o644)
            try:
                os.write(tag, _CACHE_TAG)
            finally:
                os.close(tag)

    def check(self, *folders: Path) -> None:
        """Check that nobody but this user (or root) owns or may write to directories of the store.

        Raises:
            UnsafeStoreError: Somebody else could replace what is in one of them.
            StoreError: One of them is not a directory.
            OSError: One of them is missing, or this user cannot look at it.
        """
        for folder in folders:
            check_folder(folder, self.root)

    def check_writable(self) -> None:
        """Make the store ready for a stage.

        Raises:
            StoreFullError: The disk was full when the store was opened.
            UnsafeStoreError: Another user owns the store or may write to it by now.
            StoreError: The store is read-only, or the disk refuses.
        """
        if self._unwritable is not None and self._unwritable.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            with disk_errors(self.root):
                raise self._unwritable
        if self.read_only:
            raise StoreError(
                f"the store {self.root} is read-only and lacks this model",
                path=str(self.root),
                advice=f"Set store (HUBDIST_STORE) to {place_for_store()}, or fill this one beforehand.",
            )
        with disk_errors(self.root):
            self.make()
            self.check(self.root, self.snapshots, self.staging)

    def _existing(self) -> Iterator[Path]:
        """The directories that are there. Snapshots and stages are checked when they are used."""
        for name in ("snapshots", "staging", "quarantine", "locks", "pins"):
            if os.path.lexists(self.root / name):
                yield self.root / name
        yield from (path for path in (self.root / "nonces", *children(self.root / "pins")) if path.is_dir())
