"""Cuts a model into chunks while its files are still being written, for a delivery that does not wait for the end.

Nobody knows yet how large the model is going to be. So the first chunks are one block each, and each later chunk is a
fixed part of what was cut before it. The last chunk, which a delivery ends with, is then small beside the whole model,
and there are not too many chunks.
"""

from __future__ import annotations

from collections.abc import Callable

from hubdist.model.chunks import Chunk, Piece, digests_between
from hubdist.model.manifest import BLOCK_BYTES

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
            block_digests: The sha256 of each of the blocks, 32 bytes each.
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
