"""Room on a disk for what is about to be written, counted against a limit: of a model, and of what lies beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hubdist.errors import StoreFullError
from hubdist.system.disk import disk_errors, free_bytes

_RESERVE_BYTES = 64 << 20
"""Free space that a stage leaves to others; a twentieth of what is free if that is less."""


class SpaceBudget:
    """Counts what is written, against a limit.

    A model and what it is unpacked from lie on the disk at the same time, so both count together against its free
    space. `max_bytes` is for each of them: it bounds the models of a store, and what is read for one.

    Args:
        parent: Where it is written.
        max_bytes: Most bytes in all; None for the free space of the disk only.
    """

    def __init__(self, parent: Path, max_bytes: int | None) -> None:
        self._parent = parent
        self._max_bytes = max_bytes
        self._claimed = 0
        self._beside = 0
        free = free_bytes(parent)
        self._free = free - min(_RESERVE_BYTES, free // 20)

    def claim(self, size: int) -> None:
        """Count bytes of the model that are about to be written.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        self._claimed += size
        self._check(self._claimed, self._free - self._beside, "the model needs")

    def claim_beside(self, size: int) -> None:
        """Count bytes beside the model, such as of an archive that it is unpacked from; less than 0 gives some back.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        self._beside += size
        if size > 0:
            self._check(self._beside, self._free - self._claimed, "what is downloaded for the model needs")

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
    """A directory for what an origin needs on disk beside the model. For one thread.

    Args:
        path: The directory; whoever made it removes it.
        room: What counts the bytes.
    """

    def __init__(self, path: Path, room: SpaceBudget) -> None:
        self.path = path
        self._room = room
        self._counted = 0

    @contextlib.contextmanager
    def open_file(self, name: str) -> Iterator[ScratchFile]:
        """A new file, which is removed when the block ends.

        Raises:
            StoreError: The disk refuses.
        """
        path = self.path / name
        with disk_errors(path):
            file = path.open("x+b", buffering=0)
        written = ScratchFile(file, path, self._room)
        try:
            yield written
        finally:
            file.close()
            with disk_errors(path):
                path.unlink(missing_ok=True)
            self._room.claim_beside(-written.size)

    def count(self, total: int) -> None:
        """Take note of how many bytes somebody else has written into the directory by now.

        Raises:
            StoreFullError: They do not fit under `max_bytes` or on the disk.
        """
        size, self._counted = total - self._counted, total
        self._room.claim_beside(size)


class ScratchFile:
    """A file of a `Scratch`.

    Attributes:
        file: The file itself, for readers.
        size: Bytes that were written.
    """

    def __init__(self, file: BinaryIO, path: Path, room: SpaceBudget) -> None:
        self.file = file
        self.size = 0
        self._path = path
        self._room = room

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            StoreFullError: It does not fit under `max_bytes` or on the disk.
            StoreError: The disk refuses otherwise.
        """
        self._room.claim_beside(len(data))
        self.size += len(data)
        view = memoryview(data)
        with disk_errors(self._path, need_bytes=len(view)):
            while len(view) > 0:
                view = view[self.file.write(view) :]
