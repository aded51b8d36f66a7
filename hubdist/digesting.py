"""A sink that keeps nothing: for nodes that have no disk for a model and need to know which one it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hubdist.errors import IntegrityError
from hubdist.manifest import Entry, EntryDigester, Manifest
from hubdist.paths import PathSet


class DigestSink:
    """A `FileSink` that keeps nothing: it tells which model the files are, for nodes that have no disk for them."""

    def __init__(self) -> None:
        self._paths = PathSet()
        self._entries: list[Entry] = []

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Digested]:
        """Begin a file."""
        self._paths.add_file(path)
        digester = EntryDigester(path)
        yield _Digested(digester)
        self._entries.append(digester.entry())

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name."""
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of what came.

        Raises:
            IntegrityError: Nothing came.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        return Manifest.of(self._entries)


class _Digested:
    def __init__(self, digester: EntryDigester) -> None:
        self.write = digester.update
