"""How processes learn that a handle was refreshed: a small file in their node's store grows.

A process looks at the file before it believes what it remembers of a handle. A look costs microseconds; a question to
the coordinator would cost a millisecond each time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.system.ownership import find_root


def find_mark(wanted: Path, scope: str) -> RefreshMark | None:
    """The mark of a job in a node's store; None if the store has not been made yet.

    Args:
        wanted: The directory that is configured as the store.
        scope: Names the job.
    """
    with contextlib.suppress(StoreError):
        root = find_root(wanted)
        return RefreshMark(root, scope) if root.is_dir() else None
    return None


def grow_mark(wanted: Path, scope: str) -> None:
    """Tell the processes of this node that a handle was refreshed; does nothing if the store has not been made yet.

    Args:
        wanted: The directory that is configured as the store.
        scope: Names the job.
    """
    mark = find_mark(wanted, scope)
    if mark is not None:
        mark.grow()


class RefreshMark:
    """The file of one job in one node's store; it has one byte for each refresh.

    Any process may read and write the file. Each look opens it, because that makes network file systems ask the server.

    Args:
        root: Root of the store.
        scope: Names the job among all that ever used the store.
    """

    def __init__(self, root: Path, scope: str) -> None:
        self._path = root / "pins" / scope / "refreshed"

    def grow(self) -> None:
        """Tell the node's processes that a handle was refreshed.

        Where the file cannot be written, the processes ask the coordinator each time. To grow it twice for one refresh
        does no harm: the processes ask once more.
        """
        self._open(b".")

    def size(self) -> int | None:
        """How often the file has grown; None if it can neither be read nor made, so that it would tell nobody."""
        for _ in range(2):
            try:
                file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                if not self._open(b""):
                    return None
            else:
                try:
                    return os.fstat(file).st_size
                finally:
                    os.close(file)
        return None

    def _open(self, data: bytes) -> bool:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(file, data)
            finally:
                os.close(file)
        except OSError:
            return False
        return True
