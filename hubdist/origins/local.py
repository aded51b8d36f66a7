"""Directories and files on the driver's disk."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import AccessDeniedError, HandleError, HubdistError, ModelNotFoundError, OriginError
from hubdist.model.listing import check_versions
from hubdist.model.paths import check_entry_path
from hubdist.model.source import FileSink, SourceFile, copy_source
from hubdist.origins.base import Origin
from hubdist.system.deadline import Deadline
from hubdist.system.foreign import words_of


@contextlib.contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn OSError on the driver's own files into the origin's errors."""
    try:
        yield
    except HubdistError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(
            f"{path} does not exist on the coordinator's node",
            advice="The path must exist where the driver runs; from Ray Client or Serve that is the head node.",
        ) from None
    except PermissionError:
        raise AccessDeniedError(
            f"{path} may not be read by this user",
            advice="Give the user that runs the driver the right to read it, and to enter every directory above it.",
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            why = "is too long for a path" if error.errno == errno.ENAMETOOLONG else "is a circle of links"
            raise HandleError(f"{path} {why}") from None
        raise OriginError(f"{path} cannot be read: {words_of(error)}") from None


def file_version(status: os.stat_result) -> tuple[int, ...]:
    """What differs after a file was written to or replaced, even by one who sets its time of change back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def changed_error(path: Path) -> OriginError:
    """The error for a path whose content changed while it was read."""
    return OriginError(f"{path} changed while it was read", advice="Try again when nobody writes to it.")


def is_directory(path: Path) -> bool:
    """True for a directory, False for a file.

    Raises:
        ModelNotFoundError: Nothing is there.
        AccessDeniedError: Whether something is there may not be seen.
        HandleError: It is neither, such as a pipe, which would be waited for without an end; or not a path at all.
    """
    with local_errors(path):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return True
    if not stat.S_ISREG(mode):
        raise HandleError(f"{path} is neither a file nor a directory")
    return False


class LocalStream:
    """A file of the driver's disk in order: a `ByteStream`.

    Args:
        file: The open file; zip needs it as it is.
        path: Its path, for errors.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._path = path

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        with local_errors(self._path):
            return self.file.read(size)


@contextlib.contextmanager
def open_local(path: Path) -> Iterator[LocalStream]:
    """One file as a stream; one that was changed when the block ends is an error, never a mix.

    Raises:
        HubdistError: As for `is_directory`.
        OriginError: It changed.
    """
    if is_directory(path):
        raise HandleError(f"{path} is a directory where a file is needed")
    with local_errors(path):
        file = path.open("rb")
    with file:
        before = file_version(os.fstat(file.fileno()))
        yield LocalStream(file, path)
        if file_version(os.fstat(file.fileno())) != before:
            raise changed_error(path)


class LocalOrigin(Origin):
    """A directory as a `Source`; symbolic links in it are followed, as for any reader of the user's own files.

    It is looked at again after the copy: a file that was changed meanwhile is an error, never a mix.

    Args:
        root: The directory.
        deadline: When all of it must have been read.
        one_model: Refuse a directory of several versions of a model, before anything is copied.
    """

    def __init__(self, root: Path, deadline: Deadline, *, one_model: bool = False) -> None:
        super().__init__(str(root), deadline)
        self._root = root
        self._one_model = one_model

    def _fetch(self, sink: FileSink) -> None:
        before = self._versions()
        if self._one_model:
            check_versions(before.keys(), str(self._root))
        copy_source(self, sink)
        if self._versions() != before:
            raise changed_error(self._root)

    def entries(self) -> list[SourceFile]:
        """All files below the directory."""
        with local_errors(self._root):
            return [SourceFile(path, status.st_size) for path, status in self._walk(self._root, "")]

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` (included) to `end` (excluded) of a file."""
        with local_errors(self._root / path), (self._root / path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def _versions(self) -> dict[str, tuple[int, ...]]:
        with local_errors(self._root):
            return {path: file_version(status) for path, status in self._walk(self._root, "")}

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        for item in sorted(os.scandir(folder), key=lambda item: item.name):
            path = check_entry_path(f"{prefix}{item.name}")  # its limit of depth ends cycles of links
            if item.is_dir():
                yield from self._walk(Path(item.path), f"{path}/")
            elif item.is_file():
                yield path, item.stat()
            else:
                raise HandleError(f"{item.path} is neither a file nor a directory")
