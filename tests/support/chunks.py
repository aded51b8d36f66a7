"""Chunks for tests that need no manifest."""

from __future__ import annotations

from hubdist.model.chunks import Chunk, Piece
from hubdist.model.manifest import digest_block


def one_block(entry_index: int, data: bytes, *, start: int = 0) -> Chunk:
    """A chunk of one block, with its digest.

    Args:
        entry_index: The file's number.
        data: The bytes; at most one block.
        start: Offset of the first byte.
    """
    return Chunk(0, (Piece(entry_index, start, start + len(data)),), digest_block(data))
