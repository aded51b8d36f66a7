"""Handles of the user's own schemes, by a function that makes a `Source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hubdist.errors import TransferTimeoutError
from hubdist.model.handle import Handle
from hubdist.model.listing import check_versions
from hubdist.model.source import FileSink, Source, SourceFile, copy_source
from hubdist.origins.base import Origin
from hubdist.system.deadline import Deadline
from hubdist.system.threads import Worker

_T = TypeVar("_T")


class CustomOrigin(Origin):
    """A `Source` that the user registered for a scheme.

    One separate thread calls all functions of the source, because they may hang; then the thread is left behind.

    Args:
        handle: A handle of kind CUSTOM.
        make: The user's function, which makes the source from the handle's text.
        deadline: When everything must have been read.
    """

    def __init__(self, handle: Handle, make: Callable[[str], Source], deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._text = handle.text
        self._make = make
        self._worker = Worker(f"hubdist-{handle.scheme}")

    def _fetch(self, sink: FileSink) -> None:
        try:
            source = self._call(lambda: self._make(self._text))
            files = self._call(lambda: list(source.entries()))
            check_versions([file.path for file in files], self.redacted)
            copy_source(_ThreadedSource(source.read, self), sink, files)
        finally:
            self._worker.close()

    def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return self._worker.call(work, self.deadline.within(self.deadline.timeout_s))
        except TimeoutError:
            if not self._worker.lost:
                raise
        self.deadline.check(self.redacted)
        raise TransferTimeoutError(f"{self.redacted} was not read: too many earlier calls hang")


class _ThreadedSource:
    """The user's source, whose functions are called in the origin's thread."""

    def __init__(self, read: Callable[[str, int, int], bytes], origin: CustomOrigin) -> None:
        self._read = read
        self._origin = origin

    def entries(self) -> list[SourceFile]:
        raise NotImplementedError  # `copy_source` gets the listed files

    def read(self, path: str, start: int, end: int) -> bytes:
        return self._origin._call(lambda: self._read(path, start, end))
