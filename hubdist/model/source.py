"""The protocols between the places that models come from and the places that they go to.

A `Source` is a tree of files that can be listed and read in ranges, such as a directory on object storage. A `FileSink`
takes the files of one model, such as a stage of the store. An origin writes all files of a handle into a sink;
`copy_source` does so for any source.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hubdist.errors import LengthMismatchError

READ_BYTES = 8 << 20
"""Most bytes of one read from a source; this bounds the memory of a copy."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source.

    Attributes:
        path: The path below the source's root, `/` between names.
        size: Bytes.
    """

    path: str
    size: int


class Source(Protocol):
    """A tree of files that can be read in ranges."""

    def entries(self) -> Sequence[SourceFile]:
        """All files, in any order."""
        ...

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes of one file; fewer than asked for only if the file has become shorter.

        Args:
            path: One of the paths of `entries`.
            start: Offset of the first byte.
            end: Offset behind the last byte.
        """
        ...


class ByteStream(Protocol):
    """Bytes that come in order, such as an archive that is being downloaded."""

    def read(self, size: int, /) -> bytes:
        """The next bytes: at least one, at most `size`; empty only at the end."""
        ...


class FileWriter(Protocol):
    """One file of a sink that is being written, in order."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes."""
        ...


class FileSink(Protocol):
    """Takes the files of one model, and refuses unsafe paths and too many bytes."""

    def open_file(self, path: str) -> AbstractContextManager[FileWriter]:
        """Begin a file. A file may come twice with the same bytes, which are then dropped.

        Args:
            path: The path below the model's directory, `/` between names.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with another file or directory; or, at the latest when the
                block ends, the file came with other bytes before.
        """
        ...

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name. A model keeps no empty directories.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with a file.
        """
        ...


def copy_source(source: Source, sink: FileSink, files: Sequence[SourceFile] | None = None) -> None:
    """Write every file of a source into a sink.

    Args:
        source: Gives the files.
        sink: Takes them.
        files: The source's files if the caller has listed them already; None lists them here.

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
