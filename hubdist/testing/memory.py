"""A source and a sink in memory, which count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hubdist.errors import ModelNotFoundError, UnsafeArchiveError
from hubdist.model.paths import PathSet
from hubdist.model.source import SourceFile


class MemorySource:
    """A `Source` of files in memory; register it as an origin of your own scheme.

        hubdist.init(origins={"test": lambda handle: MemorySource({"saved_model.pb": b"..."})})

    Attributes:
        reads: Calls of `read` so far.
        bytes_read: Bytes that they returned.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        self.reads = 0
        self.bytes_read = 0

    def entries(self) -> list[SourceFile]:
        """All files."""
        return [SourceFile(path, len(data)) for path, data in self._files.items()]

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of one file."""
        if path not in self._files:
            raise ModelNotFoundError(f"there is no file {path!r} in memory")
        data = self._files[path][start:end]
        self.reads += 1
        self.bytes_read += len(data)
        return data


class MemorySink:
    """A `FileSink` that keeps files in memory, with the same rules for paths as a stage.

    Attributes:
        files: Path -> content of every file that was written to its end.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._paths = PathSet()

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Buffer]:
        """Begin a file."""
        again = self._paths.repeats(path)
        if not again:
            self._paths.add_file(path)
        buffer = _Buffer()
        yield buffer
        if again and self.files.get(path) != bytes(buffer.data):
            raise UnsafeArchiveError(f"the file {path[:100]!r} is there twice, with different bytes")
        self.files[path] = bytes(buffer.data)

    def add_directory(self, path: str) -> None:
        """Note a directory."""
        self._paths.add_directory(path)


class _Buffer:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
