"""Decompressed copies, in temporary files, of objects that are stored compressed.

A gzip can only be read from its beginning: without a copy, each range would decompress it anew.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, cast

from hubdist.errors import LengthMismatchError, OriginError, StoreFullError, TransferTimeoutError
from hubdist.model.source import ByteStream
from hubdist.remote.compressed_objects import ContentReader
from hubdist.system.disk import disk_errors
from hubdist.system.disk_space import SpaceBudget

_CLOSE_S = 5.0

OpenContent = Callable[[], AbstractContextManager[ByteStream]]


class InflatedCopies:
    """The decompressed copies of one tree; safe for several threads.

    Args:
        reader: Reads contents, within the tree's limits.
        timeout_s: Longest time in seconds that one thread waits for another one that makes a copy.
    """

    def __init__(self, reader: ContentReader, timeout_s: float) -> None:
        self._reader = reader
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._copies: dict[tuple[str, str], InflatedCopy] = {}
        self._closed = False

    def find(self, name: str, version: str) -> InflatedCopy | None:
        """Look up a copy.

        Args:
            name: The object.
            version: The object's generation.

        Returns:
            The copy, or None if there is none of this version.
        """
        with self._lock:
            return self._copies.get((name, version))

    def add(self, name: str, version: str, open_content: OpenContent, redacted: str) -> InflatedCopy:
        """A copy of a version of an object; the first read of the copy makes its file.

        Args:
            name: The object.
            version: The object's generation.
            open_content: Opens the content for reading from its beginning.
            redacted: The object's URL without secrets, for errors.

        Raises:
            OriginError: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise OriginError(f"reading {redacted} was ended")
            made = InflatedCopy(open_content, self._reader, self._timeout_s, redacted)
            return self._copies.setdefault((name, version), made)

    def close(self) -> None:
        """Delete all copies."""
        with self._lock:
            self._closed = True
            copies = list(self._copies.values())
        for copy in copies:
            copy.close()


class InflatedCopy:
    """The content of one version of an object, decompressed by the first read; safe for several threads.

    Args:
        open_content: Opens the content for reading from its beginning.
        reader: Reads the content, within the tree's limits.
        timeout_s: Longest time in seconds to wait for another thread.
        redacted: The object's URL without secrets, for errors.
    """

    def __init__(self, open_content: OpenContent, reader: ContentReader, timeout_s: float, redacted: str) -> None:
        self._open_content = open_content
        self._reader = reader
        self._timeout_s = timeout_s
        self._redacted = redacted
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._size = 0
        self._closed = False

    def size(self) -> int:
        """Bytes of the content; decompresses the object if nobody has yet."""
        with self._opened():
            return self._size

    def read_into(self, start: int, view: memoryview) -> None:
        """Fill a buffer with the content's bytes from `start` on.

        Args:
            start: Offset of the first byte.
            view: Where the bytes go.

        Raises:
            LengthMismatchError: The content ends before the view is full.
            StoreError: The disk refuses the temporary file.
            TransferTimeoutError: Another thread, or the read of the object, took too long.
            OriginError: `close` was called.
        """
        with self._opened() as file:
            end = start + len(view)
            if end > self._size:
                raise LengthMismatchError(f"{self._redacted} ends at byte {self._size}, before byte {end}")
            file.seek(start)
            filled = 0
            while filled < len(view):
                filled += cast("int", file.readinto(view[filled:]))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Delete the file. If a thread still writes it, the file disappears when that thread ends."""
        self._closed = True
        if self._lock.acquire(timeout=_CLOSE_S):
            try:
                if self._file is not None:
                    self._file.close()
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if not self._lock.acquire(timeout=self._timeout_s):
            raise TransferTimeoutError(f"{self._redacted} was not read within {self._timeout_s:g} s")
        try:
            if self._closed:
                raise OriginError(f"reading {self._redacted} was ended")
            if self._file is None:
                self._file = self._made()
            yield self._file
        finally:
            self._lock.release()

    def _made(self) -> BinaryIO:
        folder, size = Path(tempfile.gettempdir()), 0
        room = SpaceBudget(folder, None)
        with contextlib.ExitStack() as on_failure:
            with disk_errors(folder):
                file = on_failure.enter_context(tempfile.TemporaryFile(buffering=0))
            with self._open_content() as content:
                for data in self._reader.blocks(content, self._redacted):
                    try:
                        room.claim(len(data))
                        with disk_errors(folder, need_bytes=len(data)):
                            _write_all(file, data)
                    except StoreFullError as error:
                        raise self._full(folder, error) from error
                    size += len(data)
            on_failure.pop_all()
        self._size = size
        return cast("BinaryIO", file)

    def _full(self, folder: Path, error: StoreFullError) -> StoreFullError:
        return StoreFullError(
            f"{folder} has no room for a decompressed copy of {self._redacted}, which is stored compressed",
            path=str(folder),
            need_bytes=error.need_bytes,
            free_bytes=error.free_bytes,
            advice="Free space there, set TMPDIR to another disk, or store the file plainly.",
        )


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while len(view) > 0:
        view = view[file.write(view) :]
