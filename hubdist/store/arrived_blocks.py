"""PURE: the ledger of a stage that takes chunks: which blocks arrived, and whether they are exactly a manifest's files.

The ledger remembers the digest that each block was checked against when the block was written. So the files need not be
read again to tell which model they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError
from hubdist.model.chunks import Block, Chunk
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Entry, Manifest, name_block_digest


@dataclass(slots=True)
class _File:
    """What is known of one file.

    Attributes:
        digests: Number -> digest of each block that was announced. A digest never changes.
        unwritten: Numbers of the blocks that were announced and are not on the disk yet.
        size: Bytes of all announced blocks together.
        end: Offset behind the last of them.
    """

    digests: dict[int, bytes] = field(default_factory=dict)
    unwritten: set[int] = field(default_factory=set)
    size: int = 0
    end: int = 0


class ArrivedBlocks:
    """The blocks of one stage. Not safe for several threads: the stage calls under its own lock.

    A writer announces new blocks, writes them, and confirms them. If the write fails, the blocks stay announced, so
    that nobody counts their bytes twice, and unwritten, so that another chunk may bring them.
    """

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}

    def add_file(self, number: int) -> None:
        """Note a file that has no blocks yet."""
        self._files.setdefault(number, _File())

    def has(self, chunk: Chunk) -> bool:
        """True if every block of a chunk is on the disk.

        Args:
            chunk: Which blocks, and their digests.
        """
        for block in chunk.blocks():
            file = self._files.get(block.entry_index)
            if file is None or file.digests.get(block.number) != block.digest or block.number in file.unwritten:
                return False
        return True

    def find_new(self, chunk: Chunk) -> list[Block]:
        """The blocks of a chunk that were not announced yet.

        Raises:
            DigestMismatchError: Another chunk announced a block with another digest.
        """
        new: dict[tuple[int, int], Block] = {}
        for block in chunk.blocks():
            place = block.entry_index, block.number
            file = self._files.get(block.entry_index)
            known = new[place].digest if place in new else None if file is None else file.digests.get(block.number)
            if known is None:
                new[place] = block
            elif known != block.digest:
                raise _other_block(block.number, f"file {block.entry_index}", known, block.digest)
        return list(new.values())

    def announce(self, blocks: Iterable[Block]) -> None:
        """Note new blocks that are about to be written."""
        for block in blocks:
            self.add_file(block.entry_index)
            file = self._files[block.entry_index]
            file.digests[block.number] = block.digest
            file.unwritten.add(block.number)
            file.size += block.size
            file.end = max(file.end, block.number * BLOCK_BYTES + block.size)

    def confirm(self, chunk: Chunk) -> None:
        """Note that all blocks of a chunk are on the disk."""
        for block in chunk.blocks():
            self._files[block.entry_index].unwritten.discard(block.number)

    def check_complete(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Check that the blocks that arrived are exactly a manifest's.

        Args:
            manifest: The model.
            ordinals: For each entry of the manifest, the number of its file.

        Raises:
            IntegrityError: Blocks are missing, or there is a file that the manifest does not have.
            DigestMismatchError: A block differs.
            LengthMismatchError: A file has more bytes.
        """
        if len(ordinals) != len(manifest.entries) or len(set(ordinals)) != len(ordinals):
            raise IntegrityError(f"the files of the model {manifest.digest} are not numbered one by one")
        for entry, number in zip(manifest.entries, ordinals, strict=True):
            _check_file(entry, self._files.get(number, _File()))
        for number in self._files.keys() - set(ordinals):
            raise IntegrityError(f"file {number} does not belong to the model {manifest.digest}")


def _check_file(entry: Entry, file: _File) -> None:
    count = entry.check_blocks_fit()
    missing = sum(number not in file.digests or number in file.unwritten for number in range(count))
    if missing:
        raise IntegrityError(f"{missing} blocks of {entry.path} have not arrived")
    # The right number of blocks, which end where the file ends and fill the file: so each block has its right length.
    if len(file.digests) != count or (file.size, file.end) != (entry.size, entry.size):
        raise LengthMismatchError(f"{entry.path} came with {file.size} bytes instead of {entry.size}")
    for number in range(count):
        expected = entry.block_digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        if file.digests[number] != expected:
            raise _other_block(number, entry.path, expected, file.digests[number])


def _other_block(number: int, file: str, expected: bytes, actual: bytes) -> DigestMismatchError:
    return DigestMismatchError(
        f"block {number} of {file} came with another digest",
        expected=name_block_digest(expected),
        actual=name_block_digest(actual),
    )
