"""Blocks of a store, for a store of another node that is being repaired."""

from __future__ import annotations

from hubdist.care.inspection import read_manifest
from hubdist.errors import IntegrityError
from hubdist.model.chunks import Piece
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.folders import FILES
from hubdist.store.store import Store
from hubdist.system.disk import disk_errors, read_range


class StoreBlocks:
    """A `BlockSource` of what lies in a store, whole or not. Nothing in it is moved, held or checked.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """The store's root."""
        return str(self._store.root)

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a snapshot; None if it is not there or cannot be read.

        Raises:
            StoreError: The disk refuses.
        """
        return read_manifest(self._store.root / "snapshots" / digest.value, digest)[0]

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        """Bytes of one file, which nobody has checked.

        Args:
            manifest: The model.
            piece: Which bytes of which file.

        Raises:
            IntegrityError: The file is missing or too short.
            StoreError: The disk refuses.
        """
        data = bytearray(piece.size)
        folder = self._store.root / "snapshots" / manifest.digest.value / FILES
        path = folder / manifest.entries[piece.entry_index].path
        with disk_errors(path):
            read_range(path, piece.start, memoryview(data))
        return bytes(data)

    def give(self, digest: Digest, piece: Piece) -> bytes:
        """Bytes for another node, which checks them.

        Args:
            digest: The model.
            piece: Which bytes of which file, as the node that asks numbers them.

        Raises:
            IntegrityError: They are not here.
            StoreError: The disk refuses.
        """
        manifest = self.manifest(digest)
        if manifest is None or not 0 <= piece.entry_index < len(manifest.entries):
            raise IntegrityError(f"{self.name} lacks {digest}")
        return self.read(manifest, piece)
