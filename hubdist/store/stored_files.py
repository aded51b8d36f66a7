"""Single files of a store's snapshots, for an origin that can tell a file's digest before it reads the file.

Two choices of files of one repository are two models. What one of them has brought need not leave the hub again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hubdist.model.manifest import Digest, Entry
from hubdist.store.older_blocks import newest_manifests
from hubdist.store.store import Store

MAX_SNAPSHOTS = 256
"""How many snapshots are looked at, from the one that was used last."""


class StoredFiles:
    """The files that a store had when this object was made. Nothing is believed: readers check what they read.

    Args:
        store: The store.
        max_snapshots: How many snapshots to look at.
    """

    def __init__(self, store: Store, *, max_snapshots: int = MAX_SNAPSHOTS) -> None:
        self._store = store
        self._places: dict[tuple[str, int], list[tuple[Digest, Entry]]] = {}
        """A file's sha256 or its name, and its size -> where such files are."""
        for manifest in newest_manifests(store, max_snapshots=max_snapshots):
            for entry in manifest.entries:
                for key in (entry.digest.value, entry.path.rpartition("/")[2]):
                    self._places.setdefault((key, entry.size), []).append((manifest.digest, entry))

    @contextlib.contextmanager
    def open(self, key: str, size: int) -> Iterator[Iterator[Path]]:
        """Files that may be the wanted one; the store keeps each until the block ends.

        Args:
            key: The file's sha256 as hex digits; or, if that is not known, its name without directories.
            size: Its size in bytes.
        """
        with contextlib.ExitStack() as held:

            def paths() -> Iterator[Path]:
                for digest, entry in self._places.get((key, size), ()):
                    snapshot = self._store.find(digest)
                    if snapshot is not None:
                        yield held.enter_context(snapshot).path / entry.path

            yield paths()
