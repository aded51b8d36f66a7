"""The base class of all origins: one `fetch` with one deadline, behind the boundary to foreign code. Also users' own.

Handles of the user's own schemes are read through a function of the user that makes a `Source`.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar, final

from hubdist.errors import AccessDeniedError, ModelNotFoundError, OriginError, TransferTimeoutError
from hubdist.model.handle import Handle
from hubdist.model.listing import check_versions
from hubdist.model.selection import Selection
from hubdist.model.source import FileSink, FileWriter, Source, SourceFile, copy_source
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import call_foreign
from hubdist.system.quiet import audible
from hubdist.system.threads import Worker

_T = TypeVar("_T")


class Origin(abc.ABC):
    """The place that the bytes of one handle first come from.

    Args:
        redacted: What is read, without secrets, for errors.
        deadline: When everything must have been read.

    Attributes:
        identity: Who asks, for errors of rights that do not say so themselves; None for nothing to say.
        selection: The files that are wanted; all of them, until `open_origin` sets it. No other file reaches the sink.
            An origin that can read files one by one reads no other file either.
    """

    identity: str | None = None

    def __init__(self, redacted: str, deadline: Deadline) -> None:
        self.redacted = redacted
        self.deadline = deadline
        self.selection = Selection()

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
        timed = _TimedSink(sink, self.deadline, self.redacted)
        chosen = None if self.selection == Selection() else ChosenSink(timed, self.selection)
        try:
            call_foreign(lambda: self._fetch(timed if chosen is None else chosen), self.redacted)
        except AccessDeniedError as error:
            if self.identity is None:
                raise
            refused = error.asked(self.identity)
        else:
            if chosen is not None and not chosen.count:
                raise ModelNotFoundError(
                    f"no file of {self.redacted} is chosen by {self.selection.text}",
                    advice="Patterns are matched against whole paths below the model's root, as by fnmatch.",
                )
            return
        raise refused

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


class ChosenSink:
    """A sink that passes on the chosen files alone; the bytes of others are dropped.

    Args:
        sink: Gets the chosen files.
        selection: Which files are chosen.

    Attributes:
        count: How many chosen files have begun.
    """

    def __init__(self, sink: FileSink, selection: Selection) -> None:
        self._sink = sink
        self._selection = selection
        self.count = 0

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[FileWriter]:
        """Begin a file.

        Args:
            path: The path below the model's directory.
        """
        if not self._selection.accepts(path):
            yield _Dropped()
            return
        self.count += 1
        with self._sink.open_file(path) as writer:
            yield writer

    def add_directory(self, path: str) -> None:
        """Note a directory."""
        self._sink.add_directory(path)


class _Dropped:
    def write(self, data: bytes | memoryview, /) -> None:
        """Take bytes that nobody wants."""


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
        self.identity = f"by the function for {handle.scheme}://"
        self._text = handle.text
        self._make = make
        self._worker = Worker(f"hubdist-{handle.scheme}")

    def _fetch(self, sink: FileSink) -> None:
        try:
            source = self._call(lambda: self._make(self._text))
            files = self._call(lambda: list(source.entries()))
            files = [file for file in files if self.selection.accepts(file.path)]
            check_versions([file.path for file in files], self.redacted)
            copy_source(_ThreadedSource(source.read, self), sink, files)
        finally:
            self._worker.close()

    def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return self._worker.call(functools.partial(_audibly, work), self.deadline.within(self.deadline.timeout_s))
        except TimeoutError:
            if not self._worker.lost:
                raise
        self.deadline.check(self.redacted)
        raise TransferTimeoutError(f"{self.redacted} was not read: too many earlier calls hang")


def _audibly(work: Callable[[], _T]) -> _T:
    with audible():
        return work()


class _ThreadedSource:
    """The user's source, whose functions are called in the origin's thread."""

    def __init__(self, read: Callable[[str, int, int], bytes], origin: CustomOrigin) -> None:
        self._read = read
        self._origin = origin

    def entries(self) -> list[SourceFile]:
        raise NotImplementedError  # `copy_source` gets the listed files

    def read(self, path: str, start: int, end: int) -> bytes:
        return self._origin._call(lambda: self._read(path, start, end))
