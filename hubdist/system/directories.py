"""Whole directories: made for one user, listed, emptied and deleted, also while other processes do the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone.

    Raises:
        OSError: The disk refuses.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def children(folder: Path) -> list[Path]:
    """The paths in a directory; an empty list if this process cannot list the directory."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def remove_tree(path: Path) -> None:
    """Delete a file, or a directory of this user with all that is in it, read-only directories included.

    Errors are ignored: other processes may delete the same files meanwhile, and what is left is for a later sweep.
    """
    with contextlib.suppress(OSError):  # a directory
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            Path(folder).chmod(stat.S_IRWXU)
    with contextlib.suppress(OSError):  # rmtree does not ignore every error
        shutil.rmtree(path, ignore_errors=True)


def empty_directory(descriptor: int, into: Path | None, last: Sequence[str]) -> int:
    """Move or delete all entries of a directory of this user. Several processes may do so at the same time.

    The directory is known by its descriptor alone: at its former path another directory may lie by now.

    Args:
        descriptor: The open directory.
        into: Where to move the entries; None to delete them. An entry that cannot be moved, such as one from a layer of
            a container's image, is deleted.
        last: Names of the entries that go last, in this order, and stay if any other entry cannot be deleted.

    Returns:
        How many entries this call has moved or deleted.

    Raises:
        OSError: The disk refuses.
    """
    taken = 0
    for name in sorted(set(os.listdir(descriptor)) - set(last)):
        taken += _take_away(descriptor, name, into)
    if not set(os.listdir(descriptor)) - set(last):
        for name in last:
            taken += _take_away(descriptor, name, into)
    return taken


def _take_away(descriptor: int, name: str, into: Path | None) -> int:
    """Move or delete one entry of a directory; 1, or 0 if the entry was not there."""
    with contextlib.suppress(OSError):  # not a directory
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        try:
            os.fchmod(folder, stat.S_IRWXU)  # a directory that its owner may not write to cannot be moved
        finally:
            os.close(folder)
    if into is not None:
        with contextlib.suppress(OSError):
            os.rename(name, into / name, src_dir_fd=descriptor)
            return 1
    try:
        os.unlink(name, dir_fd=descriptor)
    except FileNotFoundError:
        return 0
    except (IsADirectoryError, PermissionError):  # Linux raises the first for a directory, POSIX allows the second
        for *_, below in os.fwalk(name, dir_fd=descriptor):
            os.fchmod(below, stat.S_IRWXU)  # nothing can be deleted from a read-only directory
        shutil.rmtree(name, ignore_errors=True, dir_fd=descriptor)
    return 1
