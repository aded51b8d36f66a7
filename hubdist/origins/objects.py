"""Directories and files on object storage, by any fsspec file system that is allowed and installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hubdist.config import Config
from hubdist.errors import ModelNotFoundError, OriginError
from hubdist.handle import Handle
from hubdist.source import READ_BYTES, ByteStream, FileSink, SourceFile, copy_source
from hubdist.storage.remote import RemoteTree
from hubdist.storage.tree import StoredFile


class ObjectsOrigin:
    """A directory on object storage as a `Source`.

    The listing is taken again after the copy: a file that was replaced or changed meanwhile is an error, never a mix.
    """

    def __init__(self, handle: Handle, config: Config) -> None:
        self._tree = RemoteTree(handle, config)

    def fetch(self, sink: FileSink) -> None:
        """Write every file of the directory into `sink`."""
        with self._tree:
            before = self._listing()
            copy_source(self, sink)
            if self._listing() != before:
                raise _changed(self._tree.public)

    def entries(self) -> list[SourceFile]:
        """All files below the directory."""
        return [SourceFile(path, file.size) for path, file in self._listing().items()]

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of a file."""
        return self._tree.fetch(path, start, end)

    def _listing(self) -> dict[str, StoredFile]:
        found = self._tree.listing()
        if not found:
            raise ModelNotFoundError(f"there is no directory with files at {self._tree.public}")
        return found


@contextlib.contextmanager
def open_object(handle: Handle, config: Config) -> Iterator[ByteStream]:
    """One file on object storage as a stream, such as an archive.

    The object is looked at again when the block ends: one that was replaced meanwhile is an error, never a mix.
    """
    with RemoteTree(handle, config) as tree:
        before = tree.file()
        yield _ObjectStream(tree, before.size)
        if tree.file() != before:
            raise _changed(tree.public)


class _ObjectStream:
    def __init__(self, tree: RemoteTree, size: int) -> None:
        self._tree = tree
        self._size = size
        self._at = 0
        self._buffer = memoryview(b"")

    def read(self, size: int) -> bytes:
        if len(self._buffer) == 0 and self._at < self._size:
            end = min(self._at + READ_BYTES, self._size)
            data = self._tree.fetch("", self._at, end)
            if len(data) != end - self._at:
                raise OriginError(f"{self._tree.public} ended at byte {self._at + len(data)} of {self._size}")
            self._buffer, self._at = memoryview(data), end
        data, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return data


def _changed(public: str) -> OriginError:
    return OriginError(f"{public} changed while it was read", advice="Try again.")
