"""The disk space that one model may use: counts the model's files and what lies beside them against their limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import StoreFullError
from hubdist.system.disk import disk_errors, free_bytes

_RESERVE_BYTES = 64 << 20
"""Free space that a stage leaves to other programs; a twentieth of the free space if that is less."""


class SpaceBudget:
    """Counts bytes before they are written, and refuses bytes beyond a limit.

    A model and the archive that it is unpacked from lie on the disk at the same time, so both together must fit into
    the free space. `max_bytes` bounds each of the two alone: the models of a store, and what is downloaded for one.

    Args:
        parent: A directory on the disk.
        max_bytes: Most bytes of the model, and most bytes beside it; None for the free space of the disk only.
    """

    def __init__(self, parent: Path, max_bytes: int | None) -> None:
        self._parent = parent
        self._max_bytes = max_bytes
        self._model_bytes = 0
        self._beside_bytes = 0
        free = free_bytes(parent)
        self._free_bytes = free - min(_RESERVE_BYTES, free // 20)

    def claim(self, size: int) -> None:
        """Count bytes of the model that are about to be written.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        self._model_bytes += size
        self._check(self._model_bytes, self._free_bytes - self._beside_bytes, "the model needs")

    def claim_beside(self, size: int) -> None:
        """Count bytes beside the model, such as of its archive; a negative size gives bytes back.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        self._beside_bytes += size
        if size > 0:
            free = self._free_bytes - self._model_bytes
            self._check(self._beside_bytes, free, "what is downloaded for the model needs")

    def _check(self, claimed: int, free: int, who: str) -> None:
        limit = free if self._max_bytes is None else min(free, self._max_bytes)
        if claimed > limit:
            why = "its disk has free" if limit == free else "max_store_bytes allows"
            raise StoreFullError(
                f"{who} more than the {limit} bytes that {why} at {self._parent}",
                path=str(self._parent),
                need_bytes=claimed,
                free_bytes=limit,
                advice="Free space, raise max_store_bytes or set store to another disk.",
            )


class Scratch:
    """A directory for files that an origin needs beside the model. Not safe for several threads.

    Args:
        path: The directory; whoever made it removes it.
        budget: Counts the bytes.
    """

    def __init__(self, path: Path, budget: SpaceBudget) -> None:
        self.path = path
        self._budget = budget
        self._counted_bytes = 0

    @contextlib.contextmanager
    def open_file(self, name: str) -> Iterator[ScratchFile]:
        """A new file, which is removed when the block ends.

        Args:
            name: The file's name in the directory.

        Raises:
            StoreError: The disk refuses.
        """
        path = self.path / name
        with disk_errors(path):
            file = path.open("x+b", buffering=0)
        written = ScratchFile(file, path, self._budget)
        try:
            yield written
        finally:
            file.close()
            with disk_errors(path):
                path.unlink(missing_ok=True)
            self._budget.claim_beside(-written.size)

    def count(self, total: int) -> None:
        """Note how many bytes another program has written into the directory so far.

        Args:
            total: All its bytes, those that were noted before included.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        size, self._counted_bytes = total - self._counted_bytes, total
        self._budget.claim_beside(size)


class ScratchFile:
    """A file of a `Scratch`.

    Args:
        file: The open file.
        path: Where the file is, for errors.
        budget: Counts the bytes.

    Attributes:
        file: The open file, for readers.
        size: Bytes that were written.
    """

    def __init__(self, file: BinaryIO, path: Path, budget: SpaceBudget) -> None:
        self.file = file
        self.size = 0
        self._path = path
        self._budget = budget

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            StoreFullError: The bytes do not fit under `max_bytes` or on the disk.
            StoreError: The disk refuses otherwise.
        """
        self._budget.claim_beside(len(data))
        self.size += len(data)
        view = memoryview(data)
        with disk_errors(self._path, need_bytes=len(view)):
            while len(view) > 0:
                view = view[self.file.write(view) :]
