"""A directory on the driver's disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import AccessDeniedError, HandleError, ModelNotFoundError, OriginError
from hubdist.paths import check_entry_path
from hubdist.source import FileSink, SourceFile, copy_source


@contextlib.contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn OSError on the driver's own files into the origin's errors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(
            f"{path} does not exist on the coordinator's node",
            advice="The path must exist where the driver runs; from Ray Client or Serve that is the head node.",
        ) from None
    except PermissionError:
        raise AccessDeniedError(f"{path} may not be read by this user") from None
    except OSError as error:
        raise OriginError(f"{path} cannot be read: {error.strerror}") from error


def file_version(status: os.stat_result) -> tuple[int, ...]:
    """What differs after a file was written to or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed_error(path: Path) -> OriginError:
    """The error for a path whose content changed while it was read."""
    return OriginError(f"{path} changed while it was read", advice="Try again when nobody writes to it.")


class LocalOrigin:
    """A directory as a `Source`; symbolic links in it are followed, as for any reader of the user's own files.

    It is looked at again after the copy: a file that was changed meanwhile is an error, never a mix.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetch(self, sink: FileSink) -> None:
        """Write every file of the directory into `sink`."""
        before = self._versions()
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
