"""The base class of all origins: one `fetch`, behind the boundary to foreign code, with one deadline."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import final

from hubdist.errors import OriginError
from hubdist.model.source import FileSink, FileWriter
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import call_foreign


class Origin(abc.ABC):
    """The place that the bytes of one handle first come from.

    Args:
        redacted: What is read, without secrets, for errors.
        deadline: When everything must have been read.
    """

    def __init__(self, redacted: str, deadline: Deadline) -> None:
        self.redacted = redacted
        self.deadline = deadline

    @final
    def fetch(self, sink: FileSink) -> None:
        """Write every file of the model into `sink`.

        Raises:
            ResolveError: The origin refuses, or has no such model.
            TransferError: The origin failed although every retry was made, or the deadline has passed.
            IntegrityError: The bytes that came are damaged or unsafe.
            HubdistError: Anything else failed. Errors of libraries and users' functions are translated, and are not
                in its chain.
        """
        call_foreign(lambda: self._fetch(_TimedSink(sink, self.deadline, self.redacted)), self.redacted)

    @abc.abstractmethod
    def _fetch(self, sink: FileSink) -> None:
        """Write every file of the model into `sink`; every error that this raises is translated."""


def changed_error(redacted: str) -> OriginError:
    """The error for something that changed while it was read."""
    return OriginError(f"{redacted} changed while it was read", advice="Try again when nobody writes to it.")


class _TimedSink:
    """A sink that takes nothing after the deadline, because many files can each be in time and be late together."""

    def __init__(self, sink: FileSink, deadline: Deadline, redacted: str) -> None:
        self._sink = sink
        self._deadline = deadline
        self._redacted = redacted

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[FileWriter]:
        self._deadline.check(self._redacted)
        with self._sink.open_file(path) as writer:
            yield _TimedWriter(writer, self._deadline, self._redacted)

    def add_directory(self, path: str) -> None:
        self._deadline.check(self._redacted)
        self._sink.add_directory(path)


class _TimedWriter:
    def __init__(self, writer: FileWriter, deadline: Deadline, redacted: str) -> None:
        self._writer = writer
        self._deadline = deadline
        self._redacted = redacted

    def write(self, data: bytes | memoryview, /) -> None:
        self._deadline.check(self._redacted)
        self._writer.write(data)
