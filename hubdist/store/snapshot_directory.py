"""The directory of one published snapshot, known by a descriptor, for finding and evicting snapshots.

A path is not enough: at the same path another snapshot may lie a moment later. A snapshot comes to its path whole, by
one rename. Its content is removed through the descriptor, and its path is freed by `rmdir`, which refuses a directory
that has content. So a process that removes an old snapshot never touches a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Self

from hubdist.store.folders import FILES
from hubdist.store.holds import IN_USE, Hold, is_same
from hubdist.system.directories import empty_directory

_EVICTED = "evicted"
"""The name that the model's directory in a snapshot gets when the eviction begins."""

_LAST = (IN_USE, _EVICTED)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SnapshotDirectory:
    """An open directory of a snapshot. Use it as a context manager, which closes the descriptor.

    Args:
        path: Where the directory is.

    Attributes:
        path: The same.
        descriptor: The open directory.

    Raises:
        FileNotFoundError: Nothing is at the path.
        NotADirectoryError: Something else is at the path, such as a link.
        OSError: The file system fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, _OPEN)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_there(self) -> bool:
        """True if this directory is still the one at its path."""
        return is_same(self.descriptor, self.path)

    def hold(self) -> Hold | None:
        """Keep other processes from evicting the snapshot; None if one is evicting it.

        Raises:
            OSError: The directory has no `in-use`, or the file system fails.
        """
        return Hold.take(self.path / IN_USE, folder=self.descriptor)

    def is_evicted(self) -> bool:
        """True if a process has begun to evict the snapshot; that process may have been stopped since."""
        try:
            os.stat(_EVICTED, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def begin_eviction(self) -> bool:
        """Begin to evict the snapshot; True for the first process that does. The caller has an exclusive lock.

        Raises:
            OSError: The file system refuses: with EXDEV if the directory is one of a layer of a container's image.
        """
        try:
            os.rename(FILES, _EVICTED, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_EVICTED, 0o700, dir_fd=self.descriptor)
                return True
            return False
        return True

    def clear(self, into: Path | None) -> int:
        """Take the directory's content away, then the directory, which frees its path.

        Args:
            into: Where to move the content; None to delete it.

        Returns:
            How many entries this call has moved or deleted; other processes may do the same at the same time.

        Raises:
            OSError: The disk refuses.
        """
        taken = empty_directory(self.descriptor, into, _LAST)
        if self.is_there():
            with contextlib.suppress(OSError):  # another process was faster, or something could not be deleted
                self.path.rmdir()
        return taken
