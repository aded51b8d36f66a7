"""A stage that is filled chunk by chunk, perhaps before its manifest is known."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from hubdist.disk import disk_errors, read_range
from hubdist.errors import IntegrityError, StoreFullError
from hubdist.manifest import BLOCK_BYTES, Entry, Manifest, ProvenChunk
from hubdist.paths import check_entry_path
from hubdist.staging import StageDirectory, check_whole, sync_files, write_at

_COMING = "coming"


class GrowingStage(StageDirectory):
    """Takes chunks in any order, from any thread; files have numbers until `close` says what they are.

    Args:
        parent: The store's staging directory.
        max_bytes: Most bytes that all files together may take.
    """

    def __init__(self, parent: Path, *, max_bytes: int | None = None) -> None:
        super().__init__(parent)
        self._coming = self.path / _COMING
        with disk_errors(self._coming):
            self._coming.mkdir(mode=0o700)
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._files: dict[int, Path] = {}
        self._arrived: dict[tuple[int, int], bytes] = {}
        """File and offset of each block that has arrived -> its digest."""
        self._arrived_bytes = 0
        self._manifest: Manifest | None = None

    def write_chunk(self, chunk: ProvenChunk, data: memoryview) -> None:
        """Check a chunk's bytes and write them into their files; again if they came before.

        Raises:
            IntegrityError: The bytes are not the chunk's; nothing was written.
            StoreFullError, StoreError: The disk, or `max_bytes`, refuses.
        """
        chunk.check(data)
        for piece, where, blocks in chunk.parts():
            target = self._open_file(piece.entry_index)
            write_at(target, piece.start, data[where])
            with self._guard:
                for number, start in enumerate(range(piece.start, piece.end, BLOCK_BYTES)):
                    if (piece.entry_index, start) not in self._arrived:
                        self._arrived_bytes += min(BLOCK_BYTES, piece.end - start)
                    self._arrived[piece.entry_index, start] = blocks[32 * number : 32 * (number + 1)]
                self._check_size()

    def read_chunk(self, chunk: ProvenChunk, buffer: memoryview) -> None:
        """Give back bytes that have arrived, checked again.

        Raises:
            IntegrityError: They have not arrived, or are damaged, or the stage has been published.
        """
        with self._guard:
            paths = [self._files.get(piece.entry_index) for piece in chunk.chunk.pieces]
        if None in paths:
            raise IntegrityError(f"chunk {chunk.chunk.index} has not arrived")
        read_pieces(self.path, [str(path) for path in paths], chunk, buffer)

    def close(self, manifest: Manifest, ordinals: Sequence[int], *, unproven: bool = False) -> None:
        """Give the files their names.

        Args:
            manifest: What the model is.
            ordinals: For each of its entries, the number of its file.
            unproven: The digests of the blocks are not to be trusted; digest whole files.

        Raises:
            IntegrityError: What arrived is not exactly the manifest's.
            StoreError: The disk refuses.
        """
        expected = sum(-(-entry.size // BLOCK_BYTES) for entry in manifest.entries)
        for entry, ordinal in zip(manifest.entries, ordinals, strict=True):
            self._check_arrived(entry, ordinal)
        if len(self._arrived) != expected or len(set(ordinals)) != len(ordinals):
            raise IntegrityError(f"{len(self._arrived)} blocks of {manifest.digest} have arrived instead of {expected}")
        with disk_errors(self.files):
            for entry, ordinal in zip(manifest.entries, ordinals, strict=True):
                self._name(check_entry_path(entry.path), ordinal)
            self._coming.rmdir()
        if unproven:
            check_whole(self.files, manifest)
        self._manifest = manifest

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest.

        Raises:
            IntegrityError: The stage was not closed.
            StoreError: The disk refuses.
        """
        if self._manifest is None:
            raise IntegrityError("the stage has no manifest yet")
        sync_files(self.files, self._manifest)
        return self._manifest

    def _open_file(self, ordinal: int) -> Path:
        with self._guard:
            path = self._files.get(ordinal)
            if path is None:
                path = self._files[ordinal] = self._coming / str(ordinal)
                with disk_errors(path):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            return path

    def _check_size(self) -> None:
        if self._max_bytes is not None and self._arrived_bytes > self._max_bytes:
            raise StoreFullError(
                f"the model has more bytes than max_bytes allows at {self.path.parent}: {self._max_bytes}",
                path=str(self.path.parent),
                need_bytes=self._arrived_bytes,
                free_bytes=self._max_bytes,
                advice="Raise max_bytes.",
            )

    def _check_arrived(self, entry: Entry, ordinal: int) -> None:
        for start in range(0, entry.size, BLOCK_BYTES):
            if self._arrived.get((ordinal, start)) != entry.blocks_of(start, min(start + BLOCK_BYTES, entry.size)):
                raise IntegrityError(f"block {start // BLOCK_BYTES} of {entry.path} has not arrived as the manifest's")

    def _name(self, path: str, ordinal: int) -> None:
        target = self.files / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._guard:
            source = self._files.get(ordinal)
            if source is None:  # an empty file
                os.close(self._create(path))
            else:
                if os.path.lexists(target):
                    raise IntegrityError(f"{path} is there twice")
                source.rename(target)
            self._files[ordinal] = target


def read_pieces(root: Path, paths: Sequence[str], chunk: ProvenChunk, buffer: memoryview) -> None:
    """Read a chunk from files below `root`, checked.

    Args:
        root: The directory.
        paths: The file of each piece.
        chunk: Which bytes.
        buffer: Where they go; of the chunk's size.

    Raises:
        IntegrityError: A file is gone, shorter or damaged.
        StoreError: The disk refuses.
    """
    for path, (piece, where, _) in zip(paths, chunk.parts(), strict=True):
        with disk_errors(root / path):
            read_range(root / path, piece.start, buffer[where])
    chunk.check(buffer)
