"""The two small protocols between where bytes come from and where they go.

A `Source` is a tree of files that can be listed and read in ranges: a directory on object storage, memory in tests.
A `FileSink` takes the files of one model; the store's stage is the real one. An origin fetches: it writes all files
of its handle into a sink. `copy_source` turns any source into that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hubdist.errors import LengthMismatchError

READ_BYTES = 8 << 20
"""Bytes asked from a source at a time; bounds the memory of a copy."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a source offers: its path below the source's root, and its size in bytes."""

    path: str
    size: int


class Source(Protocol):
    """A tree of files that can be read in ranges."""

    def entries(self) -> Sequence[SourceFile]:
        """All files, in any order."""
        ...

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of one file; short only if the source is damaged."""
        ...


class ByteStream(Protocol):
    """Bytes in order, such as an archive that is being downloaded."""

    def read(self, size: int, /) -> bytes:
        """The next bytes: at least one, at most `size`; empty only at the end."""
        ...


class FileWriter(Protocol):
    """One file of a sink that is being written, in order."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Append."""
        ...


class FileSink(Protocol):
    """Takes the files of one model and refuses what is unsafe or too much."""

    def open_file(self, path: str) -> AbstractContextManager[FileWriter]:
        """Begin a file at this path below the model's directory.

        A path that was there before is accepted when the same bytes come again, which are then dropped.

        Raises:
            UnsafeArchiveError: The path is unsafe, or clashes with a file or directory that is there; or, at the
                latest when the block ends, the file was there with other bytes.
        """
        ...

    def add_directory(self, path: str) -> None:
        """Take note of a directory; a model keeps no empty ones, but a file of the same name is then refused.

        Raises:
            UnsafeArchiveError: As for `open_file`.
        """
        ...


def copy_source(source: Source, sink: FileSink, files: Sequence[SourceFile] | None = None) -> None:
    """Write every file of a source into a sink.

    Args:
        source: Where from.
        sink: Where to.
        files: What the source has been found to offer; None asks it.

    Raises:
        LengthMismatchError: A file ends before the size that was listed.
    """
    for file in source.entries() if files is None else files:
        with sink.open_file(file.path) as writer:
            for start in range(0, file.size, READ_BYTES):
                end = min(start + READ_BYTES, file.size)
                data = source.read(file.path, start, end)
                if len(data) != end - start:
                    raise LengthMismatchError(
                        f"{file.path} is not as long as listed: bytes {start} to {end} came as {len(data)} bytes"
                    )
                writer.write(data)
