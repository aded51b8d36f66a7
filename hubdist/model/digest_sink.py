"""Digests of bytes while they pass: cut into chunks for a delivery, or of files that nobody keeps.

A delivery that does not wait for the end of a download does not know how large the model is going to be. So the first
chunks are one block each, and each later chunk is a fixed part of what was cut before it. The last chunk, which a
delivery ends with, is then small beside the whole model, and there are not too many chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from hubdist.errors import IntegrityError, UnsafeArchiveError
from hubdist.model.chunks import Chunk, Piece, digests_between
from hubdist.model.manifest import BLOCK_BYTES, Entry, EntryDigester, Manifest
from hubdist.model.paths import PathSet

_SHARE = 64
"""A chunk has at most this share (one in 64) of the bytes that were cut before it, but at least a block."""


class Chunker:
    """Groups blocks, in the order in which they come, into chunks; small files share chunks.

    Args:
        max_bytes: Most bytes of a chunk; at least a block.
        give: Gets each chunk when it is full.
    """

    def __init__(self, max_bytes: int, give: Callable[[Chunk], None]) -> None:
        self._max_bytes = max_bytes
        self._wanted_bytes = min(BLOCK_BYTES, max_bytes)
        self._cut_bytes = 0
        self._give = give
        self._count = 0
        self._size = 0
        self._pieces: list[Piece] = []
        self._digests: list[bytes] = []

    def add(self, file: int, start: int, size: int, block_digests: bytes) -> None:
        """Take further bytes of a file: whole blocks, but for the file's last one.

        Args:
            file: The file's number.
            start: Offset of the first byte.
            size: Bytes.
            block_digests: The BLAKE3 of each of the blocks, 32 bytes each.
        """
        for at in range(0, size, BLOCK_BYTES):
            block_bytes = min(BLOCK_BYTES, size - at)
            if self._size + block_bytes > self._wanted_bytes:
                self.finish()
            self._add_block(file, start + at, block_bytes)
            self._digests.append(digests_between(block_digests, at, at + block_bytes))
            if self._size == self._wanted_bytes:
                self.finish()

    def finish(self) -> None:
        """Give the blocks that are left as the last chunk, if there are any."""
        if self._pieces:
            chunk = Chunk(self._count, tuple(self._pieces), b"".join(self._digests))
            self._count += 1
            self._cut_bytes += self._size
            blocks = max(1, self._cut_bytes // _SHARE // BLOCK_BYTES)
            self._wanted_bytes = min(self._max_bytes, blocks * BLOCK_BYTES)
            self._size, self._pieces, self._digests = 0, [], []
            self._give(chunk)

    def _add_block(self, file: int, start: int, size: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and (last.entry_index, last.end) == (file, start):
            self._pieces[-1] = Piece(file, last.start, start + size)
        else:
            self._pieces.append(Piece(file, start, start + size))
        self._size += size


class DigestSink:
    """A `FileSink` that keeps no bytes. It tells which model the files are, for nodes that do not store the model."""

    def __init__(self) -> None:
        self._paths = PathSet()
        self._entries: dict[str, Entry] = {}

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[_Digested | RepeatedFile]:
        """Begin a file.

        Args:
            path: The file's path below the model's directory.

        Raises:
            UnsafeArchiveError: The path is unsafe or clashes with another one, or the file came with other bytes.
        """
        if self._paths.repeats(path):
            with repeated_file(path, self._entries.get(path)) as writer:
                yield writer
            return
        self._paths.add_file(path)
        digester = EntryDigester(path)
        yield _Digested(digester)
        self._entries[path] = digester.entry()

    def add_directory(self, path: str) -> None:
        """Note a directory, so that no file takes its name.

        Raises:
            UnsafeArchiveError: The path is unsafe, or a file has it.
        """
        self._paths.add_directory(path)

    def finish(self) -> Manifest:
        """The manifest of the files that came.

        Raises:
            IntegrityError: No files came.
        """
        if not self._entries:
            raise IntegrityError("the origin holds no files")
        return Manifest.of(self._entries.values())


@contextlib.contextmanager
def repeated_file(path: str, first: Entry | None) -> Iterator[RepeatedFile]:
    """A writer for a file that a sink has already: it compares the bytes with the first ones, and drops them.

    Args:
        path: The file's path.
        first: The entry of the file that the sink has; None if that file was not written to its end.

    Raises:
        UnsafeArchiveError: The file was not written to its end, or other bytes came.
    """
    if first is None:
        raise UnsafeArchiveError(f"the file {path[:100]!r} comes again while it is being written")
    writer = RepeatedFile(first)
    yield writer
    writer.finish()


class RepeatedFile:
    """Takes a file's bytes a second time, and compares their digests with the first ones.

    Args:
        first: The entry of the file that came first.
    """

    def __init__(self, first: Entry) -> None:
        self._first = first
        self._digester = EntryDigester(first.path)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            UnsafeArchiveError: The file is longer than the first one.
        """
        self._digester.update(data)
        if self._digester.size > self._first.size:
            raise self._differs()

    def finish(self) -> None:
        """Compare the digests of all bytes.

        Raises:
            UnsafeArchiveError: They differ from the first ones.
        """
        if self._digester.entry() != self._first:
            raise self._differs()

    def _differs(self) -> UnsafeArchiveError:
        return UnsafeArchiveError(f"the file {self._first.path[:100]!r} is there twice, with different bytes")


class _Digested:
    def __init__(self, digester: EntryDigester) -> None:
        self.write = digester.update
