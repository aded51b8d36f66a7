"""Handles of the user's own schemes, by a function that makes a `Source`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hubdist.config.schema import Config
from hubdist.errors import TransferTimeoutError
from hubdist.model.handle import Handle
from hubdist.model.listing import check_versions
from hubdist.model.source import FileSink, SourceFile, copy_source
from hubdist.origins.base import Origin
from hubdist.system.deadline import Deadline
from hubdist.system.threads import Worker

_T = TypeVar("_T")


class CustomOrigin(Origin):
    """A `Source` that the user registered for a scheme.

    All of its functions are called in one thread of their own, for they may hang: then that thread is left behind.

    Args:
        handle: Of kind CUSTOM.
        config: The user's own origins.
        deadline: When all of it must have been read.
    """

    def __init__(self, handle: Handle, config: Config, deadline: Deadline) -> None:
        super().__init__(handle.redacted, deadline)
        self._text = handle.text
        self._make = config.origins[handle.scheme]
        self._worker = Worker(f"hubdist-{handle.scheme}")

    def _fetch(self, sink: FileSink) -> None:
        try:
            source = self._call(lambda: self._make(self._text))
            files = self._call(lambda: list(source.entries()))
            check_versions([file.path for file in files], self.redacted)
            copy_source(_Called(source.read, self), sink, files)
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


class _Called:
    """The user's source, called in its thread."""

    def __init__(self, read: Callable[[str, int, int], bytes], origin: CustomOrigin) -> None:
        self._read = read
        self._origin = origin

    def entries(self) -> list[SourceFile]:
        raise NotImplementedError  # they were listed before

    def read(self, path: str, start: int, end: int) -> bytes:
        return self._origin._call(lambda: self._read(path, start, end))
