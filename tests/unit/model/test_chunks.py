"""Chunks: they cover a model, prove their bytes, and are believed in nothing."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import DigestMismatchError, IntegrityError
from hubdist.model.chunks import Chunk, Piece, chunk_of, cut_chunks, join_chunks
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, EntryDigester, Manifest


def entry(path: str, data: bytes) -> Entry:
    digester = EntryDigester(path)
    digester.update(data)
    return digester.entry()


def manifest_of(files: dict[str, bytes]) -> Manifest:
    return Manifest.of(entry(path, data) for path, data in files.items())


def sized(path: str, size: int) -> Entry:
    """An entry of which only path and size matter."""
    return Entry(path, size, Digest(f"{0:064x}"), bytes(32 * -(-size // BLOCK_BYTES)))


# Bytes

_CONTENT = bytes(2 * BLOCK_BYTES + 100)
_CONTENT_ENTRY = entry("f", _CONTENT)


def check_part(start: int, data: memoryview) -> None:
    (part,) = chunk_of(Manifest((_CONTENT_ENTRY,)), (Piece(0, start, start + len(data)),)).parts(data)
    part.check("f")


@given(st.integers(0, len(_CONTENT) - 1), st.integers(1, 255))
@settings(max_examples=50, deadline=None)
def test_any_flipped_byte_is_found(at: int, flip: int) -> None:
    damaged = bytearray(_CONTENT)
    damaged[at] ^= flip
    with pytest.raises(DigestMismatchError, match=f"block {at // BLOCK_BYTES} of f"):
        check_part(0, memoryview(damaged))


@pytest.mark.parametrize(("start", "end"), [(0, len(_CONTENT)), (BLOCK_BYTES, 2 * BLOCK_BYTES), (BLOCK_BYTES, None)])
def test_right_blocks_pass_from_any_block_on(start: int, end: int | None) -> None:
    check_part(start, memoryview(_CONTENT)[start:end])


def test_another_number_of_bytes_is_refused() -> None:
    chunk = chunk_of(Manifest((entry("f", b"content"),)), (Piece(0, 0, 7),))
    for data in (b"conten", b"content!", b""):
        with pytest.raises(IntegrityError, match=f"chunk 0 came with {len(data)} bytes instead of 7"):
            chunk.check(memoryview(data))


# Cutting

_SIZES = st.one_of(st.integers(0, 50), st.integers(0, 5 * BLOCK_BYTES), st.just(BLOCK_BYTES))


@given(st.lists(_SIZES, max_size=12), st.integers(1, 4))
@settings(deadline=None)
def test_chunks_cover_every_byte_once_in_order(sizes: list[int], blocks: int) -> None:
    manifest = Manifest(tuple(sized(f"f{index:02}", size) for index, size in enumerate(sizes)))
    chunks = cut_chunks(manifest, blocks * BLOCK_BYTES)
    covered = [piece for chunk in chunks for piece in chunk.pieces]
    at = dict.fromkeys(range(len(sizes)), 0)
    for piece in covered:
        assert piece.start == at[piece.entry_index]
        at[piece.entry_index] = piece.end
    assert list(at.values()) == sizes
    assert [piece.entry_index for piece in covered] == sorted(piece.entry_index for piece in covered)


@given(st.lists(_SIZES, max_size=12), st.integers(1, 4))
@settings(deadline=None)
def test_chunks_are_bounded_and_begin_and_end_at_blocks_or_files(sizes: list[int], blocks: int) -> None:
    manifest = Manifest(tuple(sized(f"f{index:02}", size) for index, size in enumerate(sizes)))
    chunks = cut_chunks(manifest, blocks * BLOCK_BYTES)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert 0 < chunk.size <= blocks * BLOCK_BYTES
        for piece in chunk.pieces:
            assert piece.start % BLOCK_BYTES == 0
            assert piece.end % BLOCK_BYTES == 0 or piece.end == sizes[piece.entry_index]


@given(st.lists(_SIZES, max_size=12), st.integers(1, 4))
@settings(deadline=None)
def test_two_neighbours_would_never_fit_into_one_chunk(sizes: list[int], blocks: int) -> None:
    manifest = Manifest(tuple(sized(f"f{index:02}", size) for index, size in enumerate(sizes)))
    chunks = cut_chunks(manifest, blocks * BLOCK_BYTES)
    for left, right in itertools.pairwise(chunks):
        first_of_right = right.pieces[0].end - right.pieces[0].start
        assert left.size + first_of_right > blocks * BLOCK_BYTES


def test_small_files_share_a_chunk() -> None:
    manifest = Manifest(tuple(sized(f"f{index}", 10) for index in range(3)))
    digests = b"".join(each.block_digests for each in manifest.entries)
    pieces = (Piece(0, 0, 10), Piece(1, 0, 10), Piece(2, 0, 10))
    assert cut_chunks(manifest, BLOCK_BYTES) == (Chunk(0, pieces, digests),)


def test_a_model_of_empty_files_has_no_chunks() -> None:
    assert cut_chunks(manifest_of({"a": b"", "b": b""}), BLOCK_BYTES) == ()


FILES = {"a": os.urandom(BLOCK_BYTES + 7), "b": os.urandom(5), "c": os.urandom(3 * BLOCK_BYTES), "d": os.urandom(9)}
DATA = b"".join(FILES.values())


def whole() -> Chunk:
    pieces = tuple(Piece(number, 0, len(data)) for number, data in enumerate(FILES.values()))
    return chunk_of(manifest_of(FILES), pieces, 3)


def test_the_parts_of_a_chunk_are_its_pieces_with_their_bytes() -> None:
    parts = list(whole().parts(memoryview(DATA)))
    assert [bytes(part.data) for part in parts] == list(FILES.values())
    assert b"".join(part.block_digests for part in parts) == whole().block_digests


def test_the_blocks_of_a_chunk_are_numbered_in_their_files() -> None:
    blocks = list(whole().blocks())
    assert [(block.entry_index, block.number) for block in blocks] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (2, 1),
        (2, 2),
        (3, 0),
    ]
    assert sum(block.size for block in blocks) == len(DATA)
    assert b"".join(block.digest for block in blocks) == whole().block_digests


@pytest.mark.parametrize("max_blocks", [1, 2, 3])
def test_a_chunk_is_split_at_blocks_and_each_part_proves_itself(max_blocks: int) -> None:
    parts = whole().split(max_blocks * BLOCK_BYTES)
    assert len(parts) > 1
    at = 0
    for part in parts:
        assert part.index == 3
        assert part.size <= max_blocks * BLOCK_BYTES
        part.check(memoryview(DATA)[at : at + part.size])
        at += part.size
    assert at == len(DATA)


@given(st.lists(_SIZES, max_size=12), st.integers(1, 4))
def test_the_parts_of_a_chunk_joined_are_the_chunk(sizes: list[int], blocks: int) -> None:
    manifest = Manifest.of(sized(f"f{number:03}", size) for number, size in enumerate(sizes))
    for chunk in cut_chunks(manifest, 4 * BLOCK_BYTES):
        assert join_chunks(chunk.split(blocks * BLOCK_BYTES)) == chunk


def test_a_chunk_that_is_small_enough_is_not_split() -> None:
    assert whole().split(len(DATA) + BLOCK_BYTES) == [whole()]
