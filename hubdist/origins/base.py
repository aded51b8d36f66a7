"""What all origins are: one `fetch`, behind one boundary and one deadline."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import final

from hubdist.model.source import FileSink, FileWriter
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import call_foreign


class Origin(abc.ABC):
    """Where the bytes of one handle first come from.

    Args:
        redacted: What is read, without secrets, for errors.
        deadline: When all of it must have been read.
    """

    def __init__(self, redacted: str, deadline: Deadline) -> None:
        self.redacted = redacted
        self.deadline = deadline

    @final
    def fetch(self, sink: FileSink) -> None:
        """Write every file of the model into `sink`.

        Raises:
            ResolveError: The origin says no.
            TransferError: The origin failed although every retry was made, or the deadline is over.
            IntegrityError: What came is damaged or unsafe.
            HubdistError: Whatever else goes wrong; what libraries or users' functions raise is in no chain.
        """
        call_foreign(lambda: self._fetch(_TimedSink(sink, self.deadline, self.redacted)), self.redacted)

    @abc.abstractmethod
    def _fetch(self, sink: FileSink) -> None:
        """Write every file of the model into `sink`; whatever this raises becomes an error of hubdist's."""


class _TimedSink:
    """A sink that takes nothing after the deadline: many files, each in time, are too late together."""

    def __init__(self, sink: FileSink, deadline: Deadline, redacted: str) -> None:
        self._sink = sink
        self._deadline = deadline
        self._public = redacted

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[FileWriter]:
        self._deadline.check(self._public)
        with self._sink.open_file(path) as writer:
            yield _TimedWriter(writer, self._deadline, self._public)

    def add_directory(self, path: str) -> None:
        self._deadline.check(self._public)
        self._sink.add_directory(path)


class _TimedWriter:
    def __init__(self, writer: FileWriter, deadline: Deadline, redacted: str) -> None:
        self._writer = writer
        self._deadline = deadline
        self._public = redacted

    def write(self, data: bytes | memoryview, /) -> None:
        self._deadline.check(self._public)
        self._writer.write(data)
