"""The ledger of blocks that arrived: what it believes, and what it says of a manifest."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError
from hubdist.model.chunks import Chunk, Piece, chunk_of, cut_chunks
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, Manifest, digest_block
from hubdist.store.arrived_blocks import ArrivedBlocks


def manifest_of(*sizes: int) -> Manifest:
    entries = []
    for number, size in enumerate(sizes):
        digests = (digest_block(bytes([number, block])) for block in range(-(-size // BLOCK_BYTES)))
        entries.append(Entry(f"f{number}", size, Digest("0" * 64), b"".join(digests)))
    return Manifest(tuple(entries))


def arrive(ledger: ArrivedBlocks, chunk: Chunk) -> None:
    ledger.announce(ledger.find_new(chunk))
    ledger.confirm(chunk)


@given(
    sizes=st.lists(st.sampled_from([0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES]), max_size=5),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_a_manifest_is_complete_with_its_last_chunk_and_not_before(sizes: list[int], order: random.Random) -> None:
    manifest = manifest_of(*sizes)
    ordinals = range(len(sizes))
    chunks = list(cut_chunks(manifest, 2 * BLOCK_BYTES))
    order.shuffle(chunks)
    ledger = ArrivedBlocks()
    for chunk in chunks:
        with pytest.raises(IntegrityError, match="have not arrived"):
            ledger.check_complete(manifest, ordinals)
        assert not ledger.has(chunk)
        arrive(ledger, chunk)
        assert ledger.has(chunk)
        assert ledger.find_new(chunk) == []
    ledger.check_complete(manifest, ordinals)


def test_a_block_that_could_not_be_written_is_announced_and_missing() -> None:
    manifest = manifest_of(BLOCK_BYTES)
    (chunk,) = cut_chunks(manifest, BLOCK_BYTES)
    ledger = ArrivedBlocks()
    ledger.announce(ledger.find_new(chunk))
    assert not ledger.has(chunk)
    assert ledger.find_new(chunk) == []  # its bytes have been counted
    with pytest.raises(IntegrityError, match="1 blocks of f0 have not arrived"):
        ledger.check_complete(manifest, [0])
    ledger.confirm(chunk)
    ledger.check_complete(manifest, [0])


def test_a_digest_never_changes() -> None:
    ledger = ArrivedBlocks()
    arrive(ledger, Chunk(0, (Piece(0, 0, 5),), b"a" * 32))
    with pytest.raises(DigestMismatchError, match="block 0 of file 0 came with another digest"):
        ledger.find_new(Chunk(1, (Piece(0, 0, 5),), b"b" * 32))


def test_a_chunk_that_names_a_block_twice_brings_it_once_or_is_refused() -> None:
    piece = Piece(0, 0, 5)
    ledger = ArrivedBlocks()
    with pytest.raises(DigestMismatchError):
        ledger.find_new(Chunk(0, (piece, piece), b"a" * 32 + b"b" * 32))
    arrive(ledger, Chunk(0, (piece, piece), b"a" * 64))
    ledger.check_complete(Manifest((Entry("f0", 5, Digest("0" * 64), b"a" * 32),)), [0])


@pytest.mark.parametrize(
    ("size", "error"),
    [(BLOCK_BYTES + 1, IntegrityError), (BLOCK_BYTES - 1, LengthMismatchError), (0, LengthMismatchError)],
)
def test_a_file_of_another_length_is_not_the_manifests(size: int, error: type[IntegrityError]) -> None:
    ledger = ArrivedBlocks()
    arrive(ledger, cut_chunks(manifest_of(BLOCK_BYTES), BLOCK_BYTES)[0])
    with pytest.raises(error):
        ledger.check_complete(manifest_of(size), [0])


def test_blocks_with_holes_between_them_are_not_a_file() -> None:
    manifest = manifest_of(3 * BLOCK_BYTES)
    ledger = ArrivedBlocks()
    arrive(ledger, chunk_of(manifest, (Piece(0, 0, BLOCK_BYTES), Piece(0, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES))))
    with pytest.raises(IntegrityError, match="1 blocks of f0 have not arrived"):
        ledger.check_complete(manifest, [0])


def test_files_that_the_manifest_does_not_have_are_refused() -> None:
    manifest = manifest_of(5)
    ledger = ArrivedBlocks()
    arrive(ledger, cut_chunks(manifest, BLOCK_BYTES)[0])
    ledger.add_file(7)
    with pytest.raises(IntegrityError, match="file 7 does not belong to the model"):
        ledger.check_complete(manifest, [0])


@pytest.mark.parametrize("ordinals", [[], [0], [0, 0], [0, 1, 2]])
def test_each_entry_has_a_file_of_its_own(ordinals: list[int]) -> None:
    with pytest.raises(IntegrityError, match="not numbered one by one"):
        ArrivedBlocks().check_complete(manifest_of(0, 0), ordinals)
