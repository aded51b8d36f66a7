"""Stages that are filled chunk by chunk, for nodes that receive a model from other nodes or copy it from storage."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubdist.errors import IntegrityError, LengthMismatchError
from hubdist.model.chunks import Chunk, Part
from hubdist.model.manifest import Manifest
from hubdist.model.paths import check_entry_path
from hubdist.store.arrived_blocks import ArrivedBlocks
from hubdist.store.folders import FILES
from hubdist.store.stage_directory import StageDirectory, check_whole, read_pieces, sync_files, write_all
from hubdist.system.clones import clone_range
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import SpaceBudget

COMING = "coming"
"""Where files lie under their numbers until the manifest names them; beside the model's directory, never in it."""


class ChunkStage(StageDirectory):
    """Takes chunks in any order, from any thread. Files have numbers until `close` says which paths they get.

    Every chunk is checked before it is written, and the stage remembers the digest of each block. So `close` compares
    digests with the manifest instead of reading the files again, and a closed stage holds exactly the manifest's bytes.

    Args:
        parent: The store's staging directory.
        manifest: The model, for which the caller has made room; None if it is not known yet. If it is known, file i is
            the file of entry i, and `finish` closes the stage.
        max_bytes: Most bytes that all files together may take while the manifest is not known; None for the free space
            of the disk.

    Raises:
        UnsafeArchiveError: The manifest has an unsafe path.
        StoreError: The disk refuses.
    """

    def __init__(self, parent: Path, manifest: Manifest | None = None, *, max_bytes: int | None = None) -> None:
        for entry in () if manifest is None else manifest.entries:
            check_entry_path(entry.path)
        super().__init__(parent, FILES, COMING)
        self._expected = manifest
        self._budget = SpaceBudget(parent, max_bytes)
        self._claimed_bytes = 0
        self._changed = threading.Condition()
        """Guards everything below, and the place of each file; never held while data is read or written."""
        self._arrived = ArrivedBlocks()
        self._places: dict[int, str] = {}
        """Number of a file -> where it is, below the stage's directory."""
        self._writing = 0
        self._closing = False
        self._closed: Manifest | None = None

    def write_chunk(self, chunk: Chunk, data: memoryview, *, twin: int | None = None) -> None:
        """Check a chunk's bytes and write them into their files. What has arrived before is not written again.

        Args:
            chunk: Which bytes.
            data: The bytes.
            twin: Descriptor of a file with exactly these bytes, which nobody else can write to: the stage shares its
                blocks instead of writing the bytes, where the file system can do that. None if there is no such file.

        Raises:
            DigestMismatchError: The bytes are not the chunk's, or the chunk contradicts an earlier one.
            IntegrityError: There are more bytes than expected, or the stage was closed; nothing was written.
            StoreFullError: The disk is full, or `max_bytes` are used up.
            StoreError: The disk refuses otherwise.
        """
        chunk.check(data)
        if not self._begin(chunk):
            return
        written = False
        try:
            at = 0
            for part in chunk.parts(data):
                self._write(part, twin, at)
                at += part.piece.size
            written = True
        finally:
            self._end(chunk, written=written)

    def take_file(self, number: int, file: Path, chunk: Chunk) -> bool:
        """Take a file that another stage has left in place of writing its bytes; False if this stage has one already.

        Args:
            number: The file's number in the chunks.
            file: The file, on the same disk; it is moved.
            chunk: Its blocks that the caller has checked. The other bytes count as not arrived.

        Raises:
            StoreError: The disk refuses.
        """
        with self._changed, disk_errors(file):
            if number in self._places:
                return False
            place = f"{COMING}/{number}"
            file.rename(self.path / place)
            self._places[number] = place
            self._arrived.add_file(number)
            self._claim(chunk.size)
            self._arrived.announce(chunk.blocks())
            self._arrived.confirm(chunk)
            return True

    def read_chunk(self, chunk: Chunk, buffer: memoryview) -> None:
        """Read bytes that have arrived, also while the stage is being closed. The caller checks them.

        Args:
            chunk: Which bytes.
            buffer: Where they go; of the chunk's size.

        Raises:
            IntegrityError: The bytes have not arrived, a file is too short, or the stage was published or discarded.
            StoreError: The disk refuses.
        """
        while True:
            places = self._places_of(chunk)
            try:
                read_pieces(self.path, places, chunk, buffer)
            except IntegrityError:
                if self._places_of(chunk) == places:
                    raise
                # `close` has just moved a file to its path: the bytes are there, under another name.
            else:
                return

    def open_file(self, number: int) -> int:
        """Open a file for reading, also while the stage is being closed, and return the descriptor.

        The descriptor stays good when the stage is published. Whoever reads checks the bytes.

        Args:
            number: The file's number in the chunks.

        Raises:
            IntegrityError: No byte of the file has arrived, or the stage was published or discarded.
            StoreError: The disk refuses.
        """
        while True:
            place = self._place_of(number)
            with disk_errors(self.path / place):
                try:
                    return os.open(self.path / place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    if self._place_of(number) == place:
                        raise IntegrityError(f"file {number} of the stage is gone") from None
                    # `close` has just moved the file to its path.

    def close(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Give the files their paths. If something is missing, it may still come, and the stage be closed again.

        Whole files are digested if the block digests of the manifest are not proven.

        Args:
            manifest: The model.
            ordinals: For each entry of the manifest, the number of its file.

        Raises:
            IntegrityError: What arrived is not exactly the manifest's.
            StoreError: The disk refuses.
        """
        trusted = Manifest.of(manifest.entries)  # checks the paths; computes the digest instead of taking a sent one
        if trusted.entries != manifest.entries:
            raise IntegrityError(f"the entries of the manifest {trusted.digest} are not in order")
        with self._no_more_writers(trusted) as is_first:
            if not is_first:
                return
            self._arrived.check_complete(trusted, ordinals)
        with disk_errors(self.files):
            for entry, ordinal in zip(trusted.entries, ordinals, strict=True):
                self._name(entry.path, ordinal)
            (self.path / COMING).rmdir()
        if not manifest.blocks_proven:
            check_whole(self.files, trusted)
        self._closed = trusted

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest, whose block digests are proven now.

        Raises:
            IntegrityError: The stage was not closed, or does not hold exactly the manifest that it was made for.
            StoreError: The disk refuses.
        """
        if self._expected is not None:
            self.close(self._expected, range(len(self._expected.entries)))
        if self._closed is None:
            raise IntegrityError("the stage has not been closed: nobody knows which model it holds")
        sync_files(self.files, self._closed)
        return self._closed

    def _begin(self, chunk: Chunk) -> bool:
        """Announce the blocks of a chunk that is about to be written; False if all of them are on the disk."""
        with self._changed:
            if self._arrived.has(chunk):
                return False
            if self._closing:
                raise IntegrityError(f"chunk {chunk.index} came after the stage was closed")
            new = self._arrived.find_new(chunk)
            for block in new:
                self._make_file(block.entry_index)
            self._claim(sum(block.size for block in new))
            self._arrived.announce(new)
            self._writing += 1
            return True

    def _make_file(self, number: int) -> None:
        if number not in self._places:
            place = f"{COMING}/{number}"
            with disk_errors(self.path / place):
                os.close(self._create(self.path / place))
            self._places[number] = place
            self._arrived.add_file(number)

    def _claim(self, size: int) -> None:
        if self._expected is None:
            self._budget.claim(size)
            return
        self._claimed_bytes += size
        if self._claimed_bytes > self._expected.total_bytes:
            raise LengthMismatchError(f"{self._claimed_bytes} bytes came, the model has {self._expected.total_bytes}")

    def _write(self, part: Part, twin: int | None, at: int) -> None:
        target = self.path / COMING / str(part.piece.entry_index)
        with disk_errors(target, need_bytes=len(part.data)):
            descriptor = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if twin is None or not clone_range(twin, at, descriptor, part.piece.start, part.piece.size):
                    write_all(descriptor, part.data, part.piece.start)
            finally:
                os.close(descriptor)

    def _end(self, chunk: Chunk, *, written: bool) -> None:
        with self._changed:
            self._writing -= 1
            if written:
                self._arrived.confirm(chunk)
            self._changed.notify_all()

    def _place_of(self, number: int) -> str:
        with self._changed:
            if number not in self._places:
                raise IntegrityError(f"no byte of file {number} has arrived")
            return self._places[number]

    def _places_of(self, chunk: Chunk) -> list[str]:
        with self._changed:
            if not self._arrived.has(chunk):
                raise IntegrityError(f"chunk {chunk.index} has not arrived")
            return [self._places[piece.entry_index] for piece in chunk.pieces]

    @contextlib.contextmanager
    def _no_more_writers(self, manifest: Manifest) -> Iterator[bool]:
        """Refuse further chunks, unless the block fails; False if the stage was closed with this manifest before.

        Writers that have begun are waited for. They wait for nothing but the disk, so this wait ends.
        """
        with self._changed:
            if self._closing:
                if self._closed != manifest:
                    raise IntegrityError("the stage was closed before, with another manifest or without success")
                yield False
                return
            self._closing = True
            self._changed.wait_for(lambda: self._writing == 0)
            try:
                yield True
            except BaseException:
                self._closing = False
                raise

    def _name(self, path: str, ordinal: int) -> None:
        """Move a file to its path. An empty file has no blocks and never came; it is made here."""
        place = self._places.get(ordinal)
        target = self.files / path
        if place is None:
            os.close(self._create(target))
            return
        if os.path.lexists(target):
            raise IntegrityError(f"something lies where {path} of the model belongs")
        with self._changed:
            self._make_parents(target)
            (self.path / place).rename(target)
            self._places[ordinal] = f"{FILES}/{path}"
