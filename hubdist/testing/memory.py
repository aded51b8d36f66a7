"""A source in memory that counts reads, to stand for an origin; and a sink in memory, to look at what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hubdist.errors import ModelNotFoundError, UnsafeArchiveError
from hubdist.model.paths import PathSet
from hubdist.model.source import SourceFile


class MemorySource:
    """A `Source` of files in memory, to register as the origin of a URL scheme of your own.

        hubdist.init(origins={"test": lambda handle: MemorySource({"saved_model.pb": b"..."})})

    Args:
        files: Path in the model -> content.

    Attributes:
        reads: The number of calls of `read` so far.
        bytes_read: The number of bytes that these calls returned.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        self.reads = 0
        self.bytes_read = 0

    def entries(self) -> list[SourceFile]:
        """Path and size of every file."""
        return [SourceFile(path, len(data)) for path, data in self._files.items()]

    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes of a range of one file.

        Args:
            path: Path of the file in the model.
            start: The first byte, from 0.
            end: The byte after the last one; the file's end if the file is shorter.

        Raises:
            ModelNotFoundError: There is no such file.
        """
        if path not in self._files:
            raise ModelNotFoundError(f"there is no file {path!r} in memory")
        data = self._files[path][start:end]
        self.reads += 1
        self.bytes_read += len(data)
        return data


class MemorySink:
    """A `FileSink` that keeps files in memory. It refuses the same paths as a stage in the store does.

    Attributes:
        files: Path -> content of every file whose block was left.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._paths = PathSet()

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Buffer]:
        """Begin a file; the file counts when the block is left.

        Raises:
            UnsafeArchiveError: The path is not safe, or was written before with other bytes.
        """
        again = self._paths.repeats(path)
        if not again:
            self._paths.add_file(path)
        buffer = _Buffer()
        yield buffer
        if again and self.files.get(path) != bytes(buffer.data):
            raise UnsafeArchiveError(f"the file {path[:100]!r} is there twice, with different bytes")
        self.files[path] = bytes(buffer.data)

    def add_directory(self, path: str) -> None:
        """Check the path of a directory, and remember that no file may have the same path."""
        self._paths.add_directory(path)


class _Buffer:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
