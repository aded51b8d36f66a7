"""The directory of one published snapshot, by a descriptor: its path may be another snapshot's a moment later.

A snapshot comes to its path by one rename, whole. It is taken away below its descriptor, and its path is freed by
`rmdir`, which refuses a directory that has content: so whoever takes away an old one never touches a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Self

from hubdist.store.holds import IN_USE, Hold, is_same
from hubdist.store.snapshot import FILES
from hubdist.system.disk import empty_directory

_GIVEN_UP = "evicted"
"""What the model's directory in a snapshot is called from the moment in which that is evicted."""

_LAST = (IN_USE, _GIVEN_UP)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Home:
    """An open directory of a snapshot.

    Args:
        path: Where it is.

    Raises:
        FileNotFoundError: There is nothing.
        NotADirectoryError: Something else is there, such as a link.
        OSError: The file system fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.handle = os.open(path, _OPEN)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)

    def is_there(self) -> bool:
        """True if the directory is still what its path leads to."""
        return is_same(self.handle, self.path)

    def hold(self) -> Hold | None:
        """Keep others from evicting it; None if somebody is doing so.

        Raises:
            OSError: It has no `in-use`, or the file system fails.
        """
        return Hold.take(self.path / IN_USE, folder=self.handle)

    def is_given_up(self) -> bool:
        """True if somebody has begun to evict it, and perhaps did not come to the end."""
        try:
            os.stat(_GIVEN_UP, dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def give_up(self) -> bool:
        """Begin to evict it, with an exclusive lock on `in-use`; True for the first who does.

        Raises:
            OSError: The file system refuses: with EXDEV if this is a directory of a layer of a container's image.
        """
        try:
            os.rename(FILES, _GIVEN_UP, src_dir_fd=self.handle, dst_dir_fd=self.handle)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_GIVEN_UP, 0o700, dir_fd=self.handle)
                return True
            return False
        return True

    def clear(self, into: Path | None) -> int:
        """Move its content away, or delete it, and free its path; see `empty_directory`."""
        taken = empty_directory(self.handle, into, _LAST)
        if self.is_there():
            with contextlib.suppress(OSError):  # somebody else was faster, or something could not be deleted
                self.path.rmdir()
        return taken
