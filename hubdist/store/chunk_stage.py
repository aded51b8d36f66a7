"""Stages that are filled chunk by chunk, in any order, perhaps before their manifest is known."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Chunk, Entry, Manifest, Piece, ProvenChunk, prove
from hubdist.model.paths import check_entry_path
from hubdist.store.snapshot import FILES
from hubdist.store.stage import StageDirectory, check_whole, sync_files, write_all
from hubdist.system.disk import disk_errors, read_range
from hubdist.system.disk_space import SpaceBudget

_COMING = "coming"
"""Where files lie under their numbers until the manifest names them; beside the model's directory, never in it."""


@dataclass(slots=True)
class _ComingFile:
    """What is known of one file.

    Attributes:
        place: Where it is, below the stage's directory.
        blocks: Number -> digest of each block that has arrived or is being written. It never changes.
        unwritten: Those of them that are not on the disk yet.
        size: Bytes of all its blocks together.
        end: Where the last of its blocks ends.
    """

    place: str
    blocks: dict[int, bytes] = field(default_factory=dict)
    unwritten: set[int] = field(default_factory=set)
    size: int = 0
    end: int = 0


class ChunkStage(StageDirectory):
    """Takes chunks in any order, from any thread; files have numbers until `close` says what they are.

    Every chunk is checked before it is written. The stage remembers which digest each block was written with, so
    `close` compares with the manifest and reads nothing again, and the stage holds exactly the manifest's bytes.

    Args:
        parent: The store's staging directory.
        expected_bytes: Bytes of the model, for which there is room; None if they are not known.
        max_bytes: Most bytes that all files together may take if that is so; None for the free space of the disk.
    """

    def __init__(self, parent: Path, *, expected_bytes: int | None = None, max_bytes: int | None = None) -> None:
        super().__init__(parent, FILES, _COMING)
        self._expected_bytes = expected_bytes
        self._room = SpaceBudget(parent, max_bytes)
        self._claimed = 0
        self._changed = threading.Condition()
        """Guards everything below, and the place of each file; never held while data is read or written."""
        self._files: dict[int, _ComingFile] = {}
        self._writing = 0
        self._closing = False
        self._manifest: Manifest | None = None

    def write_chunk(self, chunk: ProvenChunk, data: memoryview) -> None:
        """Check a chunk's bytes and write them into their files. What has arrived before is not written again.

        Raises:
            DigestMismatchError: The bytes are not the chunk's, or the chunk contradicts an earlier one.
            IntegrityError: There are more bytes than expected, or the stage was closed; nothing was written.
            StoreFullError, StoreError: The disk, or `max_bytes`, refuses.
        """
        chunk.check(data)
        if not self._begin(chunk):
            return
        written = False
        try:
            for piece, where, _ in chunk.parts():
                self._write(piece, data[where])
            written = True
        finally:
            self._end(chunk, written=written)

    def read_chunk(self, chunk: ProvenChunk, buffer: memoryview) -> None:
        """Give back bytes that have arrived; while the stage is closed too. Who gets them checks them.

        Args:
            chunk: Which bytes.
            buffer: Where they go; of the chunk's size.

        Raises:
            IntegrityError: They have not arrived, or a file is shorter, or the stage has been published or discarded.
            StoreError: The disk refuses.
        """
        while True:
            places = self._places(chunk)
            try:
                read_pieces(self.path, places, chunk, buffer)
            except IntegrityError:
                if self._places(chunk) == places:
                    raise  # else `close` has just given a file its name
            else:
                return

    def close(self, manifest: Manifest, ordinals: Sequence[int], *, unproven: bool = False) -> None:
        """Give the files their names. If something is missing, it may still come, and the stage be closed again.

        Args:
            manifest: What the model is.
            ordinals: For each of its entries, the number of its file.
            unproven: The digests of the blocks are not to be trusted; digest whole files.

        Raises:
            IntegrityError: What arrived is not exactly the manifest's.
            StoreError: The disk refuses.
        """
        trusted = Manifest.of(manifest.entries)  # checks the paths; its own digest is not one that was sent along
        if trusted.entries != manifest.entries:
            raise IntegrityError(f"the entries of the manifest {trusted.digest} are not in order")
        with self._closed_for_writing(trusted) as is_new:
            if not is_new:
                return
            self._check_arrived(trusted, ordinals)
        with disk_errors(self.files):
            for entry, ordinal in zip(trusted.entries, ordinals, strict=True):
                self._name(entry.path, ordinal)
            (self.path / _COMING).rmdir()
        if unproven:
            check_whole(self.files, trusted)
        self._manifest = trusted

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest.

        Raises:
            IntegrityError: The stage was not closed.
            StoreError: The disk refuses.
        """
        if self._manifest is None:
            raise IntegrityError("the stage has not been closed: nobody knows which model it holds")
        sync_files(self.files, self._manifest)
        return self._manifest

    def _begin(self, chunk: ProvenChunk) -> bool:
        """Note the blocks of a chunk that is about to be written; False if all of them are there."""
        with self._changed:
            if self._has(chunk):
                return False
            if self._closing:
                raise IntegrityError(f"chunk {chunk.chunk.index} came after the stage was closed")
            fresh = [(piece, blocks, self._fresh(piece, blocks)) for piece, _, blocks in chunk.parts()]
            self._claim(sum(_block_bytes(piece, number) for piece, _, numbers in fresh for number in numbers))
            for piece, blocks, numbers in fresh:
                file = self._files[piece.entry_index]
                digests = dict(_numbered(piece, blocks))
                file.blocks.update((number, digests[number]) for number in numbers)
                file.unwritten.update(numbers)
                file.size += sum(_block_bytes(piece, number) for number in numbers)
                file.end = max(file.end, piece.end)
            self._writing += 1
            return True

    def _fresh(self, piece: Piece, blocks: bytes) -> list[int]:
        """The blocks of a piece that are new, whose file is made if it is new too."""
        ordinal = piece.entry_index
        if ordinal not in self._files:
            place = f"{_COMING}/{ordinal}"
            with disk_errors(self.path / place):
                os.close(self._create(self.path / place))
            self._files[ordinal] = _ComingFile(place)
        known = self._files[ordinal].blocks
        for number, digest in _numbered(piece, blocks):
            if known.get(number, digest) != digest:
                raise _other_block(number, f"file {ordinal}", known[number], digest)
        return [number for number, _ in _numbered(piece, blocks) if number not in known]

    def _claim(self, size: int) -> None:
        if self._expected_bytes is None:
            self._room.claim(size)
            return
        self._claimed += size
        if self._claimed > self._expected_bytes:
            raise LengthMismatchError(f"{self._claimed} bytes came, the model has {self._expected_bytes}")

    def _write(self, piece: Piece, data: memoryview) -> None:
        target = self.path / _COMING / str(piece.entry_index)
        with disk_errors(target, need_bytes=len(data)):
            handle = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                write_all(handle, data, piece.start)
            finally:
                os.close(handle)

    def _end(self, chunk: ProvenChunk, *, written: bool) -> None:
        with self._changed:
            self._writing -= 1
            if written:
                for piece, _, blocks in chunk.parts():
                    self._files[piece.entry_index].unwritten.difference_update(dict(_numbered(piece, blocks)))
            self._changed.notify_all()

    def _has(self, chunk: ProvenChunk) -> bool:
        """True if every block of a chunk is on the disk."""
        for piece, _, blocks in chunk.parts():
            file = self._files.get(piece.entry_index)
            if file is None:
                return False
            for number, digest in _numbered(piece, blocks):
                if file.blocks.get(number) != digest or number in file.unwritten:
                    return False
        return True

    def _places(self, chunk: ProvenChunk) -> list[str]:
        with self._changed:
            if not self._has(chunk):
                raise IntegrityError(f"chunk {chunk.chunk.index} has not arrived")
            return [self._files[piece.entry_index].place for piece in chunk.chunk.pieces]

    @contextlib.contextmanager
    def _closed_for_writing(self, manifest: Manifest) -> Iterator[bool]:
        """Let nobody write any more, unless the block fails; False if the stage was closed with this manifest before.

        What is being written is waited for: it waits for nothing but the disk.
        """
        with self._changed:
            if self._closing:
                if self._manifest != manifest:
                    raise IntegrityError("the stage was closed before, with another manifest or in vain")
                yield False
                return
            self._closing = True
            self._changed.wait_for(lambda: self._writing == 0)
            try:
                yield True
            except BaseException:
                self._closing = False
                raise

    def _check_arrived(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        if len(ordinals) != len(manifest.entries) or len(set(ordinals)) != len(ordinals):
            raise IntegrityError(f"the files of the model {manifest.digest} are not numbered one by one")
        for entry, ordinal in zip(manifest.entries, ordinals, strict=True):
            _check_file(entry, self._files.get(ordinal, _ComingFile("")))
        for ordinal in self._files.keys() - set(ordinals):
            raise IntegrityError(f"file {ordinal} is none of the model {manifest.digest}")

    def _name(self, path: str, ordinal: int) -> None:
        """Move a file to its path; make it if it is empty."""
        file = self._files.get(ordinal)
        target = self.files / path
        if file is None:
            os.close(self._create(target))
            return
        if os.path.lexists(target):
            raise IntegrityError(f"something lies where {path} of the model belongs")
        with self._changed:
            self._make_parents(target)
            (self.path / file.place).rename(target)
            file.place = f"{FILES}/{path}"


class FilledStage(ChunkStage):
    """A stage for a known manifest, filled chunk by chunk in any order, from any thread.

    Args:
        parent: The store's staging directory.
        manifest: What will be there.
        unproven: The manifest's block digests are not to be trusted; digest whole files before publishing.
    """

    def __init__(self, parent: Path, manifest: Manifest, *, unproven: bool = False) -> None:
        for entry in manifest.entries:
            check_entry_path(entry.path)
        super().__init__(parent, expected_bytes=manifest.total_bytes)
        self._known = manifest
        self._unproven = unproven

    def write_chunk(self, chunk: Chunk | ProvenChunk, data: memoryview) -> None:
        """As `ChunkStage.write_chunk`; a plain chunk is one of the manifest's."""
        super().write_chunk(prove(self._known, chunk) if isinstance(chunk, Chunk) else chunk, data)

    def finish(self) -> Manifest:
        """Make every file durable and return the manifest.

        Raises:
            IntegrityError: Not all chunks were written, or a whole file is not the manifest's.
            StoreError: The disk refuses.
        """
        self.close(self._known, range(len(self._known.entries)), unproven=self._unproven)
        return super().finish()


def read_pieces(root: Path, paths: Sequence[str], chunk: ProvenChunk, buffer: memoryview) -> None:
    """Read a chunk from files below `root`. Who gets it checks it.

    Args:
        root: The directory.
        paths: The file of each piece.
        chunk: Which bytes.
        buffer: Where they go; of the chunk's size.

    Raises:
        IntegrityError: A file is gone or shorter.
        StoreError: The disk refuses.
    """
    for path, (piece, where, _) in zip(paths, chunk.parts(), strict=True):
        target = root / check_entry_path(path)
        with disk_errors(target):
            read_range(target, piece.start, buffer[where])


def _check_file(entry: Entry, file: _ComingFile) -> None:
    """Check that the blocks of a file that arrived are exactly those of its entry."""
    count = entry.check_blocks_fit()
    missing = sum(number not in file.blocks or number in file.unwritten for number in range(count))
    if missing:
        raise IntegrityError(f"{missing} blocks of {entry.path} have not arrived")
    if len(file.blocks) != count or (file.size, file.end) != (entry.size, entry.size):
        # As many blocks as there must be, which end where the file does and fill it: each is as long as it must be.
        raise LengthMismatchError(f"{entry.path} came with {file.size} bytes instead of {entry.size}")
    for number in range(count):
        expected = entry.blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        if file.blocks[number] != expected:
            raise _other_block(number, entry.path, expected, file.blocks[number])


def _other_block(number: int, file: str, expected: bytes, actual: bytes) -> DigestMismatchError:
    return DigestMismatchError(
        f"block {number} of {file} came as another one",
        expected=f"sha256:{expected.hex()}",
        actual=f"sha256:{actual.hex()}",
    )


def _numbered(piece: Piece, blocks: bytes) -> Iterator[tuple[int, bytes]]:
    """Number in its file, and digest, of each block of a piece."""
    first = piece.start // BLOCK_BYTES
    for at in range(0, len(blocks), DIGEST_BYTES):
        yield first + at // DIGEST_BYTES, blocks[at : at + DIGEST_BYTES]


def _block_bytes(piece: Piece, number: int) -> int:
    return min(BLOCK_BYTES, piece.end - number * BLOCK_BYTES)
