"""Paths of the driver's disk, and single files by path or URL, which are stored as they are."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from hubdist.errors import HandleError
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, Kind
from hubdist.model.paths import Ending, ending_of
from hubdist.model.source import READ_BYTES, ByteStream, FileSink
from hubdist.origins.base import Origin, changed_error
from hubdist.origins.http.stream import HttpStream
from hubdist.remote.file_system import os_errors
from hubdist.remote.gunzip import Gunzip
from hubdist.system.deadline import Deadline, Deadlines

_MARKER_FILES = ("", "saved_model.pb", "variables/variables.index")
"""What TensorFlow writes when it saves a model again; the first is the path itself."""

_LITE_NAME = "model.tflite"
"""The file's name where a hub answers to `lite-format=tflite`, because that handle ends in a version."""


def is_directory(path: Path) -> bool:
    """True for a directory, False for a file.

    Raises:
        ModelNotFoundError: Nothing is at the path.
        AccessDeniedError: This user may not see what is at the path.
        HandleError: Something else is there, such as a pipe, which would be read without end; or the path is invalid.
    """
    with os_errors(path, on_driver=True):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return True
    if not stat.S_ISREG(mode):
        raise HandleError(f"{path} is neither a file nor a directory")
    return False


class LocalStream:
    """A file of the driver's disk in order: a `ByteStream`.

    Args:
        file: The open file, which a reader of zip archives uses directly.
        path: The file's path, for errors.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._path = path

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        with os_errors(self._path, on_driver=True):
            return self.file.read(size)


@contextlib.contextmanager
def open_local(path: Path) -> Iterator[LocalStream]:
    """One file as a stream. A file that changed when the block ends is an error, so the bytes are never a mix.

    Raises:
        ModelNotFoundError: Nothing is at the path.
        AccessDeniedError: This user may not read the file.
        HandleError: The path is a directory, a pipe or the like; or it is invalid.
        OriginError: The file changed while the block ran.
    """
    if is_directory(path):
        raise HandleError(f"{path} is a directory where a file is needed")
    with os_errors(path, on_driver=True):
        file = path.open("rb")
    with file:
        before = _file_version(os.fstat(file.fileno()))
        yield LocalStream(file, path)
        if _file_version(os.fstat(file.fileno())) != before:
            raise changed_error(str(path))


@dataclass(frozen=True, slots=True)
class Look:
    """A quick look at a path. A difference shows that something has changed; equality does not show the opposite.

    Attributes:
        path: The path on the driver's node.
        versions: The versions of the path and of files that TensorFlow writes; empty for a missing one.
    """

    path: str
    versions: tuple[tuple[int, ...], ...]

    def has_changed(self) -> bool:
        """True if the path looks different now; only in a process that sees the driver's disk."""
        return _versions(self.path) != self.versions


def look_at(handle: Handle) -> Look | None:
    """Look at the path that a handle names, or that holds the archive which it names; None for other handles."""
    base = handle.root
    return Look(base.text, _versions(base.text)) if base.kind is Kind.LOCAL else None


def _versions(path: str) -> tuple[tuple[int, ...], ...]:
    return tuple(_version(f"{path}/{name}" if name else path) for name in _MARKER_FILES)


def _version(path: str) -> tuple[int, ...]:
    try:
        return _file_version(os.stat(path))  # noqa: PTH116 - paths as objects would take a fifth of a second load's time
    except OSError:
        return ()


def _file_version(status: os.stat_result) -> tuple[int, ...]:
    """A tuple that differs after a file was written to or replaced, even if the writer sets the time of change back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class FileOrigin(Origin):
    """The file behind a LOCAL or FILE handle; never unpacked, whatever it holds.

    Args:
        handle: The handle of the file.
        deadlines: Timeouts and retries.
        deadline: When everything must have been read.
        access: The headers and logins of this node; None for none.
    """

    def __init__(
        self, handle: Handle, deadlines: Deadlines, deadline: Deadline, *, access: OriginAccess | None = None
    ) -> None:
        super().__init__(handle.redacted, deadline)
        self._access = access
        self._handle = handle
        self._deadlines = deadlines

    def _fetch(self, sink: FileSink) -> None:
        name = _file_name(self._handle)
        with self._open(name) as stream, sink.open_file(name) as writer:
            while data := stream.read(READ_BYTES):
                writer.write(data)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[ByteStream]:
        if self._handle.kind is Kind.LOCAL:
            with open_local(Path(self._handle.text)) as local:
                yield local
            return
        with HttpStream(self._handle.text, self._deadlines, deadline=self.deadline, access=self._access) as stream:
            # A server may compress the file unasked. For a file that is a gzip itself it may send the same label and
            # mean the file.
            is_gzip = stream.gzipped and not name.lower().endswith(".gz")
            yield Gunzip(stream) if is_gzip else stream


def _file_name(handle: Handle) -> str:
    if handle.kind is Kind.LOCAL:
        return handle.text.rpartition("/")[2]
    path = urlsplit(handle.text).path
    return unquote(path).rpartition("/")[2] if ending_of(path) is Ending.MODEL_FILE else _LITE_NAME
