"""Digests of bytes that nobody keeps: of a model on a node without a store, and of a file that comes a second time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hubdist.errors import IntegrityError, UnsafeArchiveError
from hubdist.model.manifest import Entry, EntryDigester, Manifest
from hubdist.model.paths import PathSet


class DigestSink:
    """A `FileSink` that keeps no bytes. It tells which model the files are, for nodes that do not store the model."""

    def __init__(self) -> None:
        self._paths = PathSet()
        self._entries: dict[str, Entry] = {}

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Digested | RepeatedFile]:
        """Begin a file.

        Args:
            path: The file's path below the model's directory.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with another one, or the file came with other bytes.
        """
        if self._paths.repeats(path):
            with repeated_file(path, self._entries.get(path)) as writer:
                yield writer
            return
        self._paths.add_file(path)
        digester = EntryDigester(path)
        yield _Digested(digester)
        self._entries[path] = digester.entry()

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name.

        Raises:
            UnsafeArchiveError: The path is unsafe, or a file has it.
        """
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of the files that came.

        Raises:
            IntegrityError: No files came.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        return Manifest.of(self._entries.values())


@contextlib.contextmanager
def repeated_file(path: str, first: Entry | None) -> Iterator[RepeatedFile]:
    """A writer for a file that a sink has already: it compares the bytes with the first ones, and drops them.

    Args:
        path: The file's path.
        first: The entry of the file that the sink has; None if that file was not written to its end.

    Raises:
        UnsafeArchiveError: The file was not written to its end, or other bytes came.
    """
    if first is None:
        raise UnsafeArchiveError(f"the file {path[:100]!r} comes again while it is being written")
    writer = RepeatedFile(first)
    yield writer
    writer.finish()


class RepeatedFile:
    """Takes a file's bytes a second time, and compares their digests with the first ones.

    Args:
        first: The entry of the file that came first.
    """

    def __init__(self, first: Entry) -> None:
        self._first = first
        self._digester = EntryDigester(first.path)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            UnsafeArchiveError: The file is longer than the first one.
        """
        self._digester.update(data)
        if self._digester.size > self._first.size:
            raise self._differs()

    def finish(self) -> None:
        """Compare the digests of all bytes.

        Raises:
            UnsafeArchiveError: They differ from the first ones.
        """
        if self._digester.entry() != self._first:
            raise self._differs()

    def _differs(self) -> UnsafeArchiveError:
        return UnsafeArchiveError(f"the file {self._first.path[:100]!r} is there twice, with different bytes")


class _Digested:
    def __init__(self, digester: EntryDigester) -> None:
        self.write = digester.update
