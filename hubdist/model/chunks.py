"""Chunks: the byte ranges in which a model travels, each with the digests that prove its bytes.

A chunk begins and ends at block or file boundaries and carries the digests of its blocks. So a receiver can check a
chunk without its neighbours, and before anybody knows the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hubdist.errors import DigestMismatchError, IntegrityError
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Manifest, digest_block, name_block_digest


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one file.

    Attributes:
        entry_index: The number of the file's entry in the manifest. While an origin is being read there is no manifest
            yet; then files are numbered in the order in which they came.
        start: Offset of the first byte, a multiple of `BLOCK_BYTES`.
        end: Offset behind the last byte; a multiple of `BLOCK_BYTES`, or the file's size.
    """

    entry_index: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


class Block(NamedTuple):
    """One block of a file, as a chunk describes it.

    Attributes:
        entry_index: The file, as in `Piece`.
        number: The block's place in its file, from 0.
        size: Bytes; `BLOCK_BYTES`, or fewer for the last block of a file.
        digest: The BLAKE3 of the bytes.
    """

    entry_index: int
    number: int
    size: int
    digest: bytes


class Part(NamedTuple):
    """One piece of a chunk with its bytes.

    Attributes:
        piece: Where the bytes belong.
        data: The bytes.
        block_digests: The BLAKE3 of each of the piece's blocks, 32 bytes each, one after another.
    """

    piece: Piece
    data: memoryview
    block_digests: bytes

    def check(self, file: str) -> None:
        """Check the bytes against the digests of their blocks.

        Args:
            file: What the error calls the file.

        Raises:
            DigestMismatchError: A block differs.
        """
        for number, at in enumerate(range(0, len(self.data), BLOCK_BYTES)):
            expected = self.block_digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
            actual = digest_block(self.data[at : at + BLOCK_BYTES])
            if actual != expected:
                raise DigestMismatchError(
                    f"block {self.piece.start // BLOCK_BYTES + number} of {file} is damaged",
                    expected=name_block_digest(expected),
                    actual=name_block_digest(actual),
                )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit of transfer and of check: pieces of one or more files. Pickles.

    Attributes:
        index: The chunk's place among the chunks of its delivery, from 0.
        pieces: Which bytes, in order.
        block_digests: The BLAKE3 of each block of the pieces, 32 bytes each, one after another.
    """

    index: int
    pieces: tuple[Piece, ...]
    block_digests: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.size for piece in self.pieces)

    def parts(self, data: memoryview) -> Iterator[Part]:
        """Each piece with its bytes, in order. The bytes are not checked.

        Args:
            data: The chunk's bytes, or the buffer that they are going to be in.

        Raises:
            IntegrityError: The chunk has another size, or is not made of whole blocks with one digest each.
        """
        if len(data) != self.size:
            raise IntegrityError(f"chunk {self.index} came with {len(data)} bytes instead of {self.size}")
        at = 0
        for piece, digests in self._digested_pieces():
            yield Part(piece, data[at : at + piece.size], digests)
            at += piece.size

    def blocks(self) -> Iterator[Block]:
        """Each block of the chunk, in order.

        Raises:
            IntegrityError: The chunk is not made of whole blocks with one digest each.
        """
        for piece, digests in self._digested_pieces():
            first = piece.start // BLOCK_BYTES
            for number, start in enumerate(range(piece.start, piece.end, BLOCK_BYTES)):
                size = min(BLOCK_BYTES, piece.end - start)
                digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
                yield Block(piece.entry_index, first + number, size, digest)

    def check(self, data: memoryview) -> None:
        """Check the chunk's bytes against its digests.

        Args:
            data: The bytes.

        Raises:
            IntegrityError: The chunk has another size, or is not made of whole blocks with one digest each.
            DigestMismatchError: A block differs.
        """
        for part in self.parts(data):
            part.check(f"file {part.piece.entry_index}")

    def split(self, max_bytes: int) -> list[Chunk]:
        """The same bytes as smaller chunks with the same index.

        Args:
            max_bytes: Most bytes of each of them; a multiple of `BLOCK_BYTES`, at least one block.
        """
        if self.size <= max_bytes:
            return [self]
        split: list[Chunk] = []
        for piece, digests in self._digested_pieces():
            for start in range(piece.start, piece.end, max_bytes):
                end = min(start + max_bytes, piece.end)
                own = digests_between(digests, start - piece.start, end - piece.start)
                if split and split[-1].size + end - start <= max_bytes:
                    last = split.pop()
                    pieces, own = last.pieces, last.block_digests + own
                else:
                    pieces = ()
                split.append(Chunk(self.index, (*pieces, Piece(piece.entry_index, start, end)), own))
        return split

    def _digested_pieces(self) -> Iterator[tuple[Piece, bytes]]:
        """Each piece with the digests of its blocks; chunks come from other nodes, so nothing in them is believed."""
        first = 0
        for piece in self.pieces:
            last = first + -(-piece.size // BLOCK_BYTES) * DIGEST_BYTES
            if min(piece.entry_index, piece.start, piece.size - 1) < 0 or piece.start % BLOCK_BYTES:
                raise self._malformed()
            if last > len(self.block_digests):
                raise self._malformed()
            yield piece, self.block_digests[first:last]
            first = last
        if first != len(self.block_digests):
            raise self._malformed()

    def _malformed(self) -> IntegrityError:
        return IntegrityError(f"chunk {self.index} is not made of whole blocks with their digests")


def chunk_of(manifest: Manifest, pieces: tuple[Piece, ...], index: int = 0) -> Chunk:
    """A chunk of a manifest's files.

    Args:
        manifest: Gives the digests of the blocks.
        pieces: Which bytes.
        index: The chunk's place among the chunks of its delivery.
    """
    entries = manifest.entries
    digests = (digests_between(entries[piece.entry_index].block_digests, piece.start, piece.end) for piece in pieces)
    return Chunk(index, pieces, b"".join(digests))


def cut_chunks(manifest: Manifest, chunk_bytes: int) -> tuple[Chunk, ...]:
    """Cut a manifest's files, in order, into chunks; small files share chunks.

    Args:
        manifest: The model.
        chunk_bytes: Most bytes of a chunk; a multiple of `BLOCK_BYTES`, at least one block.
    """
    groups: list[list[Piece]] = []
    left_bytes = 0
    for index, entry in enumerate(manifest.entries):
        for start in range(0, entry.size, chunk_bytes):
            piece = Piece(index, start, min(start + chunk_bytes, entry.size))
            if piece.size > left_bytes:
                groups.append([])
                left_bytes = chunk_bytes
            groups[-1].append(piece)
            left_bytes -= piece.size
    return tuple(chunk_of(manifest, tuple(group), index) for index, group in enumerate(groups))


def digests_between(digests: bytes, start: int, end: int) -> bytes:
    """The digests of the blocks that cover a byte range.

    Args:
        digests: The digests of consecutive blocks, 32 bytes each.
        start: Offset of the range's first byte, counted from the first of those blocks; a multiple of `BLOCK_BYTES`.
        end: Offset behind its last byte.
    """
    return digests[start // BLOCK_BYTES * DIGEST_BYTES : -(-end // BLOCK_BYTES) * DIGEST_BYTES]


def join_chunks(parts: Sequence[Chunk]) -> Chunk:
    """The chunk that `Chunk.split` made these parts of.

    Args:
        parts: The parts in order, at least one.
    """
    pieces: list[Piece] = []
    for piece in (piece for part in parts for piece in part.pieces):
        last = pieces[-1] if pieces else None
        if last is not None and (last.entry_index, last.end) == (piece.entry_index, piece.start):
            pieces[-1] = Piece(piece.entry_index, last.start, piece.end)
        else:
            pieces.append(piece)
    return Chunk(parts[0].index, tuple(pieces), b"".join(part.block_digests for part in parts))
