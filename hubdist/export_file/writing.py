"""Writes an export: to a file, where a killed process is taken up again, or to a stream."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import LengthMismatchError, StoreError
from hubdist.export_file.layout import ExportLayout, FileBlock, Literal, Progress, Segment
from hubdist.model.chunks import Piece, chunk_of
from hubdist.model.manifest import BLOCK_BYTES, Digest, digest_block
from hubdist.store.holds import is_same
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import disk_errors, read_open_file, sync_directory
from hubdist.system.portable import sync_file

_PLACE = "the file"


class ExportSource:
    """The bytes of an export, from snapshots.

    Args:
        layout: What to read.
        snapshots: Digest -> the snapshot of each model.
    """

    def __init__(self, layout: ExportLayout, snapshots: Mapping[Digest, Snapshot]) -> None:
        self._layout = layout
        self._snapshots = snapshots
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def read(self, segment: Segment) -> bytes | memoryview:
        """The bytes of a segment, checked. The next call overwrites them.

        Raises:
            IntegrityError: A snapshot is damaged.
            StoreError: The disk refuses.
        """
        if isinstance(segment, Literal):
            return segment.data
        model, entry = self._layout.places[segment.entry.digest][0]
        manifest = self._layout.models[model].manifest
        data = self._buffer[: segment.size]
        piece = Piece(entry, segment.start, segment.start + segment.size)
        self._snapshots[manifest.digest].read_chunk(chunk_of(manifest, (piece,)), data)
        return data


def write_export(path: Path, layout: ExportLayout, source: ExportSource, progress: Progress) -> int:
    """Write an export to `<path>.part` and rename it at the end, so that the file at `path` is always whole.

    What an earlier process has left of the same export is read, checked and kept up to its first wrong byte.

    Args:
        path: The file; what is there is replaced.
        layout: The export.
        source: Gives its bytes.
        progress: Is told how far it is.

    Returns:
        Bytes that were kept of an earlier run.

    Raises:
        IntegrityError: A snapshot is damaged.
        StoreError: The disk refuses, or another process writes the same file.
    """
    part = path.with_name(f"{path.name}.part")
    with disk_errors(part, setting=_PLACE), _opened(part) as descriptor:
        total, segments = layout.total_bytes, layout.segments()
        kept, pending = _check_part(descriptor, segments, lambda done: progress(done, total))
        os.ftruncate(descriptor, kept)
        os.lseek(descriptor, kept, os.SEEK_SET)
        done = kept
        while pending is not None:
            _write(descriptor, source.read(pending))
            done += pending.size
            progress(done, total)
            pending = next(segments, None)
        sync_file(descriptor)
        part.rename(path)
        sync_directory(path.parent)
    return kept


def stream_export(out: BinaryIO, layout: ExportLayout, source: ExportSource, progress: Progress) -> None:
    """Write an export to a stream.

    Args:
        out: Gets the bytes in order.
        layout: The export.
        source: Gives its bytes.
        progress: Is told how far it is.

    Raises:
        IntegrityError: A snapshot is damaged.
        StoreError: The stream takes no more.
    """
    done, total = 0, layout.total_bytes
    with disk_errors(Path("/dev/stdout"), setting=_PLACE):
        for segment in layout.segments():
            out.write(source.read(segment))
            done += segment.size
            progress(done, total)
        out.flush()


def _check_part(
    descriptor: int, segments: Iterator[Segment], progress: Callable[[int], None]
) -> tuple[int, Segment | None]:
    """How many bytes of a file are those of an export, in whole segments, and the first segment that is not there."""
    done = 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    for segment in segments:
        data = buffer[: segment.size]
        try:
            read_open_file(descriptor, done, data)
        except LengthMismatchError:
            return done, segment
        right = digest_block(data) == segment.digest if isinstance(segment, FileBlock) else None
        if right is False or (isinstance(segment, Literal) and data != segment.data):
            return done, segment
        done += segment.size
        progress(done)
    return done, None


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[int]:
    """Descriptor of the file, which no other process writes meanwhile."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        if not _lock(descriptor) or not is_same(descriptor, part):
            raise StoreError(
                f"another process writes {part}", path=str(part), advice="Wait for it, or export to another file."
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock on an open file; False if another process has it. True also where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _write(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view) > 0:
        view = view[os.write(descriptor, view) :]
