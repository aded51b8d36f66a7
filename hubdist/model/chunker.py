"""Cuts a model into chunks while its files are still being written.

How large the model is going to be is not known: the first chunks are a block each, later ones a part of what has been
cut. So the last one, which a delivery ends with, is small beside the whole, and the chunks do not get too many.
"""

from __future__ import annotations

from collections.abc import Callable

from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Chunk, Piece, ProvenChunk

_PART = 64
"""A chunk is this part of what was cut before it."""


class ChunkCutter:
    """Groups blocks, in the order in which they come, into chunks; small files share chunks.

    Args:
        most_bytes: Most bytes of a chunk; at least a block.
        give: Gets each chunk when it is full.
    """

    def __init__(self, most_bytes: int, give: Callable[[ProvenChunk], None]) -> None:
        self._most = most_bytes
        self._wanted = min(BLOCK_BYTES, most_bytes)
        self._cut_bytes = 0
        self._give = give
        self._count = 0
        self._size = 0
        self._pieces: list[Piece] = []
        self._blocks: list[bytes] = []

    def add(self, file: int, start: int, size: int, blocks: bytes) -> None:
        """Take further bytes of a file, in whole blocks but for its last one.

        Args:
            file: Its number.
            start: Offset of the first byte.
            size: Bytes.
            blocks: The digests of the blocks.
        """
        for number, offset in enumerate(range(0, size, BLOCK_BYTES)):
            block = min(BLOCK_BYTES, size - offset)
            if self._size + block > self._wanted:
                self.finish()
            at = start + offset
            if self._pieces and (self._pieces[-1].entry_index, self._pieces[-1].end) == (file, at):
                self._pieces[-1] = Piece(file, self._pieces[-1].start, at + block)
            else:
                self._pieces.append(Piece(file, at, at + block))
            self._blocks.append(blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES])
            self._size += block
            if self._size == self._wanted:
                self.finish()

    def finish(self) -> None:
        """Give what there is."""
        if self._pieces:
            chunk = ProvenChunk(Chunk(self._count, tuple(self._pieces)), b"".join(self._blocks))
            self._count += 1
            self._cut_bytes += self._size
            blocks = max(1, self._cut_bytes // _PART // BLOCK_BYTES)
            self._wanted = min(self._most, blocks * BLOCK_BYTES)
            self._size, self._pieces, self._blocks = 0, [], []
            self._give(chunk)
