"""Digest, entry, manifest, chunk: the frozen values that say which bytes a model is.

A manifest lists the files of a model with size and digest. Its own digest names the model: the sha256 of one line
`<file's sha256 hex> <size> <path>` + newline for each entry, in order of path, so anybody can recompute it with
`sha256sum`. Directories, modes, owners and times are not part of a model.

Each entry carries the digests of its blocks of `BLOCK_BYTES` too. They follow from the same bytes and are not part
of the name; they let one chunk be checked before the rest of its file is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from hubdist.errors import DigestMismatchError, HandleError, IntegrityError
from hubdist.model.paths import PathSet

BLOCK_BYTES = 1 << 20
"""Bytes that one block digest covers; the last block of a file may be shorter. Part of the manifest's format."""

DIGEST_BYTES = hashlib.sha256().digest_size
"""Bytes of one block digest."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """Algorithm and value of a digest; printed and parsed as `sha256:<64 hex digits>`."""

    value: str
    algorithm: str = "sha256"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<hex>`.

        Raises:
            HandleError: The text has another form.
        """
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
            raise HandleError(f"{text!r} is no digest", advice="A digest reads sha256:<64 lower-case hex digits>.")
        return cls(text.removeprefix("sha256:"))

    def __str__(self) -> str:
        """`sha256:<hex>`."""
        return f"{self.algorithm}:{self.value}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a model.

    Attributes:
        path: Path below the model's directory, `/` between names.
        size: Bytes.
        digest: Digest of the whole file.
        blocks: The sha256 of each block of `BLOCK_BYTES`, 32 bytes each, one after another.
    """

    path: str
    size: int
    digest: Digest
    blocks: bytes

    def check_whole(self, digest: Digest) -> None:
        """Compare with the digest of a whole file.

        Raises:
            DigestMismatchError: It differs.
        """
        if digest != self.digest:
            raise DigestMismatchError(
                f"{self.path} is not the manifest's", expected=str(self.digest), actual=str(digest)
            )

    def check_range(self, start: int, data: memoryview) -> None:
        """Check bytes of this file against the block digests.

        Args:
            start: Offset in the file of the first byte, a multiple of `BLOCK_BYTES`.
            data: Whole blocks (the file's last one may be short).

        Raises:
            DigestMismatchError: A block differs.
        """
        _check_blocks(data, self.blocks_of(start, start + len(data)), start, self.path)

    def blocks_of(self, start: int, end: int) -> bytes:
        """The digests of the blocks from byte `start` to byte `end`."""
        return self.blocks[start // BLOCK_BYTES * DIGEST_BYTES : -(-end // BLOCK_BYTES) * DIGEST_BYTES]

    def check_blocks_fit(self) -> int:
        """Check that there is one digest for each block; how many these are.

        Raises:
            IntegrityError: There are more, or fewer, or the size is none.
        """
        count = -(-self.size // BLOCK_BYTES)
        if self.size < 0 or len(self.blocks) != DIGEST_BYTES * count:
            raise IntegrityError(f"the manifest's block digests of {self.path} do not fit its size")
        return count


class EntryDigester:
    """Digests a file's bytes as they stream by, in order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._block_filled = 0
        self._blocks: list[bytes] = []
        self._taken = 0
        self._ended = False
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        view = memoryview(data)
        self._whole.update(view)
        self.size += len(view)
        while len(view) > 0:
            part = view[: BLOCK_BYTES - self._block_filled]
            self._block.update(part)
            self._block_filled += len(part)
            view = view[len(part) :]
            if self._block_filled == BLOCK_BYTES:
                self._end_block()

    def take_blocks(self) -> tuple[int, int, bytes]:
        """Offset, bytes and digests of the blocks that were completed since the last call."""
        start, self._taken = self._taken, self.size if self._ended else self.size - self._block_filled
        first = start // BLOCK_BYTES
        return start, self._taken - start, b"".join(self._blocks[first : -(-self._taken // BLOCK_BYTES)])

    def entry(self) -> Entry:
        """The entry of the file; call once, after the last byte."""
        if self._block_filled:
            self._end_block()
        self._ended = True
        return Entry(self._path, self.size, Digest(self._whole.hexdigest()), b"".join(self._blocks))

    def _end_block(self) -> None:
        self._blocks.append(self._block.digest())
        self._block, self._block_filled = hashlib.sha256(), 0


@dataclass(frozen=True)
class Manifest:
    """The sorted files of a model. Make one with `Manifest.of`."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """The manifest of these files, in any order.

        Raises:
            UnsafeArchiveError: A path is unsafe or two of them clash.
        """
        ordered = tuple(sorted(entries, key=lambda entry: entry.path))
        paths = PathSet()
        for entry in ordered:
            paths.add_file(entry.path)
        return cls(ordered)

    @cached_property
    def digest(self) -> Digest:
        """The digest that names the model."""
        whole = hashlib.sha256()
        for entry in self.entries:
            whole.update(f"{entry.digest.value} {entry.size} {entry.path}\n".encode())
        return Digest(whole.hexdigest())

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def to_json(self) -> bytes:
        """The manifest as a file: JSON, UTF-8, read back by `from_json`."""
        files = [
            {"path": entry.path, "size": entry.size, "sha256": entry.digest.value, "blocks": entry.blocks.hex()}
            for entry in self.entries
        ]
        document = {"hubdist_manifest": 1, "digest": str(self.digest), "block_bytes": BLOCK_BYTES, "files": files}
        return json.dumps(document, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote, trusting nothing in it.

        Raises:
            IntegrityError: It is no manifest, or its digest does not follow from its files.
        """
        try:
            document = json.loads(data)
            if (document["hubdist_manifest"], document["block_bytes"]) != (1, BLOCK_BYTES):
                raise ValueError("another version")
            manifest = cls.of(
                Entry(
                    str(file["path"]),
                    int(file["size"]),
                    Digest.parse(f"sha256:{file['sha256']}"),
                    bytes.fromhex(file["blocks"]),
                )
                for file in document["files"]
            )
            claimed = document["digest"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, HandleError) as error:
            raise IntegrityError(f"this is no manifest of hubdist: {error}") from error
        for entry in manifest.entries:
            entry.check_blocks_fit()
        if claimed != str(manifest.digest):
            raise DigestMismatchError("the manifest is damaged", expected=str(claimed), actual=str(manifest.digest))
        return manifest


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` (included) to `end` (excluded) of one file."""

    entry_index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed byte range of a manifest's files in order: the unit of transfer and of check.

    It begins and ends at block or file boundaries, so that it can be checked without its neighbours.
    """

    index: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.end - piece.start for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class ProvenChunk:
    """A chunk with the digests of its blocks, so that it can be checked without its manifest.

    Attributes:
        chunk: Which bytes. While an origin is being read, `entry_index` of its pieces numbers the files in the order
            in which they came.
        blocks: The sha256 of each block, 32 bytes each, one after another.
    """

    chunk: Chunk
    blocks: bytes

    def parts(self) -> Iterator[tuple[Piece, slice, bytes]]:
        """Each piece, where its bytes are in the chunk, and the digests of its blocks.

        Raises:
            IntegrityError: A piece does not begin with a block, or the digests are not one for each block.
        """
        at = first = 0
        for piece in self.chunk.pieces:
            size = piece.end - piece.start
            last = first + -(-size // BLOCK_BYTES) * DIGEST_BYTES
            if (
                min(piece.entry_index, piece.start, size - 1) < 0
                or piece.start % BLOCK_BYTES
                or last > len(self.blocks)
            ):
                raise IntegrityError(f"chunk {self.chunk.index} is not made of whole blocks with their digests")
            yield piece, slice(at, at + size), self.blocks[first:last]
            at, first = at + size, last
        if first != len(self.blocks):
            raise IntegrityError(f"chunk {self.chunk.index} is not made of whole blocks with their digests")

    def cut(self, most_bytes: int) -> list[ProvenChunk]:
        """The same bytes in parts of whole blocks, none larger than asked for.

        Args:
            most_bytes: A multiple of `BLOCK_BYTES`, at least one block.
        """
        if self.chunk.size <= most_bytes:
            return [self]
        parts: list[ProvenChunk] = []
        for piece, _, blocks in self.parts():
            for start in range(piece.start, piece.end, most_bytes):
                end = min(start + most_bytes, piece.end)
                first = (start - piece.start) // BLOCK_BYTES * DIGEST_BYTES
                last = -(-(end - piece.start) // BLOCK_BYTES) * DIGEST_BYTES
                part = Chunk(self.chunk.index, (Piece(piece.entry_index, start, end),))
                if parts and parts[-1].chunk.size + part.size <= most_bytes:
                    part = Chunk(part.index, parts[-1].chunk.pieces + part.pieces)
                    parts[-1] = ProvenChunk(part, parts[-1].blocks + blocks[first:last])
                else:
                    parts.append(ProvenChunk(part, blocks[first:last]))
        return parts

    def check(self, data: memoryview) -> None:
        """Check the chunk's bytes.

        Raises:
            IntegrityError: They are not as many.
            DigestMismatchError: A block differs.
        """
        if len(data) != self.chunk.size:
            raise IntegrityError(f"chunk {self.chunk.index} came with {len(data)} bytes instead of {self.chunk.size}")
        for piece, where, blocks in self.parts():
            _check_blocks(data[where], blocks, piece.start, f"file {piece.entry_index}")


def prove(manifest: Manifest, chunk: Chunk) -> ProvenChunk:
    """A chunk of a manifest with the digests of its blocks."""
    return ProvenChunk(
        chunk,
        b"".join(manifest.entries[piece.entry_index].blocks_of(piece.start, piece.end) for piece in chunk.pieces),
    )


def _check_blocks(data: memoryview, blocks: bytes, start: int, file: str) -> None:
    """Check whole blocks of a file from `start` on against their digests."""
    for number, offset in enumerate(range(0, len(data), BLOCK_BYTES)):
        expected = blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        actual = hashlib.sha256(data[offset : offset + BLOCK_BYTES]).digest()
        if actual != expected:
            raise DigestMismatchError(
                f"block {(start + offset) // BLOCK_BYTES} of {file} is damaged",
                expected=f"sha256:{expected.hex()}",
                actual=f"sha256:{actual.hex()}",
            )


def cut_chunks(manifest: Manifest, chunk_bytes: int) -> tuple[Chunk, ...]:
    """Cut a manifest's files, in order, into chunks of at most `chunk_bytes`; small files share chunks.

    Args:
        manifest: What to cut.
        chunk_bytes: A multiple of `BLOCK_BYTES`, at least one block.
    """
    groups: list[list[Piece]] = []
    room = 0
    for piece in _pieces(manifest, chunk_bytes):
        size = piece.end - piece.start
        if size > room:
            groups.append([])
            room = chunk_bytes
        groups[-1].append(piece)
        room -= size
    return tuple(Chunk(index, tuple(group)) for index, group in enumerate(groups))


def _pieces(manifest: Manifest, chunk_bytes: int) -> Iterator[Piece]:
    for index, entry in enumerate(manifest.entries):
        for start in range(0, entry.size, chunk_bytes):
            yield Piece(index, start, min(start + chunk_bytes, entry.size))
