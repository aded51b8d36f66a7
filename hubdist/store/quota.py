"""The quota of a store: makes room for new models by evicting the snapshots that were not used for the longest time.

Above the high mark, which is the quota, the store evicts down to the low mark, so that a full store does not evict at
every publication. But below the high mark a snapshot goes only if the store stays at or above the low mark: so a store
of a few large models evicts no more than it has to.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from hubdist.errors import HubdistError, IntegrityError, StoreError, StoreFullError
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.eviction import EvictionResult
from hubdist.store.folders import MANIFEST, StoreFolders
from hubdist.store.holds import IN_USE
from hubdist.system.disk import disk_errors, free_bytes

_LOG = logging.getLogger(__name__)

_COUNTS_NO_LONGER = (EvictionResult.EVICTED, EvictionResult.ABSENT, EvictionResult.FREES_NOTHING)
"""Results after which a snapshot counts no longer; the bytes of one in an image's layer stay anyway."""


class Quota:
    """Keeps a store below a size. Safe for several threads and processes.

    Args:
        folders: The store's directories.
        evict: Tries to delete the snapshot in a directory.
        max_bytes: Most bytes of snapshots, without those that processes use; None for no limit but the disk.
        low_percent: The low mark, in percent of `max_bytes`; 100 evicts no more than it has to.
    """

    def __init__(
        self,
        folders: StoreFolders,
        evict: Callable[[Path], EvictionResult],
        max_bytes: int | None,
        *,
        low_percent: int = 100,
    ) -> None:
        self._folders = folders
        self._evict = evict
        self._max_bytes = max_bytes
        self._low_percent = low_percent

    def digests(self) -> list[Digest]:
        """The digests of all published snapshots, least recently used first.

        Raises:
            StoreError: The disk refuses.
        """
        found: list[tuple[float, Digest]] = []
        with disk_errors(self._folders.snapshots), contextlib.suppress(FileNotFoundError):
            for path in self._folders.snapshots.iterdir():
                with contextlib.suppress(OSError, HubdistError):
                    found.append(((path / IN_USE).stat().st_mtime, Digest.parse(f"sha256:{path.name}")))
        return [digest for _, digest in sorted(found)]

    def make_room(self, total_bytes: int) -> None:
        """Evict as many snapshots as a new model needs.

        Args:
            total_bytes: The size of the model.

        Raises:
            StoreFullError: The model is larger than the quota, or does not fit on the disk.
            StoreError: The disk refuses.
        """
        root = self._folders.root
        if self._max_bytes is not None:
            if total_bytes > self._max_bytes:
                raise StoreFullError(
                    f"the model has {total_bytes} bytes, max_store_bytes allows {self._max_bytes} at {root}",
                    path=str(root),
                    need_bytes=total_bytes,
                    free_bytes=self._max_bytes,
                    advice="Raise max_store_bytes.",
                )
            self._evict_for(total_bytes)
        free = free_bytes(self._folders.staging)
        if total_bytes > free:
            raise StoreFullError(
                f"the model has {total_bytes} bytes, the disk at {root} has {free} free",
                path=str(root),
                need_bytes=total_bytes,
                free_bytes=free,
                advice="Free space, lower max_store_bytes or set store to another disk.",
            )

    def enforce(self, keep: Digest) -> None:
        """Evict snapshots until the store is within the quota, or processes use all that remain.

        Args:
            keep: A snapshot that stays: the one that was just published.

        Raises:
            StoreError: The disk refuses.
        """
        if self._max_bytes is not None:
            self._evict_for(0, keep=keep)

    def _evict_for(self, new_bytes: int, keep: Digest | None = None) -> None:
        """Evict down to the marks, if the store is above the high mark.

        Args:
            new_bytes: Bytes that are about to come, below both marks.
            keep: A snapshot that stays.
        """
        assert self._max_bytes is not None
        high = self._max_bytes - new_bytes
        low = self._max_bytes * self._low_percent // 100 - new_bytes
        sizes = {digest: _size(self._folders.snapshot(digest)) for digest in self.digests()}
        total = sum(sizes.values())
        if total <= high:
            return
        for digest, size in sizes.items():
            if total <= max(0, low) or (total <= high and total - size < low):
                return
            path = self._folders.snapshot(digest)
            try:
                with disk_errors(path):
                    if digest != keep and self._evict(path) in _COUNTS_NO_LONGER:
                        total -= size
            except StoreError as error:  # the new model can be loaded all the same
                _LOG.warning("hubdist: snapshot %s in %s cannot be evicted: %s", digest, self._folders.root, error)


def _size(directory: Path) -> int:
    try:
        return Manifest.from_json((directory / MANIFEST).read_bytes()).total_bytes
    except (OSError, IntegrityError):
        return 0
