"""A stage for a known manifest: what is copied from a place that has exactly its files."""

from __future__ import annotations

import os
from pathlib import Path

from hubdist.disk import disk_errors
from hubdist.errors import IntegrityError
from hubdist.manifest import BLOCK_BYTES, Chunk, Entry, Manifest
from hubdist.paths import check_entry_path
from hubdist.staging import StageDirectory, check_whole, sync_files, write_at


class FilledStage(StageDirectory):
    """A stage for a known manifest, filled chunk by chunk in any order, from any thread.

    Every chunk is checked against the manifest before it is written, and a stage is finished only with all of them,
    so it holds exactly the manifest's bytes.

    Args:
        parent: The store's staging directory.
        manifest: What will be there.
        unproven: The manifest's block digests are not to be trusted; digest whole files before publishing.
    """

    def __init__(self, parent: Path, manifest: Manifest, *, unproven: bool = False) -> None:
        super().__init__(parent)
        self._manifest = manifest
        self._unproven = unproven
        self._blocks_left = {
            (index, start)
            for index, entry in enumerate(manifest.entries)
            for start in range(0, entry.size, BLOCK_BYTES)
        }
        try:
            with disk_errors(self.files, need_bytes=manifest.total_bytes):
                for entry in manifest.entries:
                    handle = self._create(check_entry_path(entry.path))
                    try:
                        os.ftruncate(handle, entry.size)
                    finally:
                        os.close(handle)
        except BaseException:
            self.discard()
            raise

    def write_chunk(self, chunk: Chunk, data: memoryview) -> None:
        """Check a chunk's bytes and write them into their files.

        Raises:
            DigestMismatchError: The bytes are not the manifest's; nothing was written.
            StoreFullError, StoreError: The disk refuses.
        """
        if len(data) != chunk.size:
            raise IntegrityError(f"chunk {chunk.index} came with {len(data)} bytes instead of {chunk.size}")
        parts: list[tuple[Entry, int, memoryview]] = []
        at = 0
        for piece in chunk.pieces:
            entry = self._manifest.entries[piece.entry_index]
            part = data[at : at + piece.end - piece.start]
            entry.check_range(piece.start, part)
            parts.append((entry, piece.start, part))
            at += len(part)
        for entry, start, part in parts:
            write_at(self.files / entry.path, start, part)
        for piece in chunk.pieces:
            self._blocks_left.difference_update(
                (piece.entry_index, start) for start in range(piece.start, piece.end, BLOCK_BYTES)
            )

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest.

        Raises:
            IntegrityError: Not all chunks were written, or a whole file is not the manifest's.
            StoreError: The disk refuses.
        """
        if self._blocks_left:
            raise IntegrityError(f"{len(self._blocks_left)} blocks of {self._manifest.digest} have not arrived")
        if self._unproven:
            check_whole(self.files, self._manifest)
        sync_files(self.files, self._manifest)
        return self._manifest
