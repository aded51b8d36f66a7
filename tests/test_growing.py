"""Stages that are filled before their manifest is known, and what the driver's stage gives to fill them with."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.cutting import ChunkCutter
from hubdist.errors import DigestMismatchError, HubdistError, IntegrityError, StoreFullError
from hubdist.growing import GrowingStage, read_pieces
from hubdist.manifest import BLOCK_BYTES, Chunk, Manifest, Piece, ProvenChunk, cut_chunks, prove
from hubdist.store import Store

FILES = {
    "z/big": os.urandom(5 * BLOCK_BYTES + 11),
    "saved_model.pb": os.urandom(300),
    "empty": b"",
    "a/exact": os.urandom(2 * BLOCK_BYTES),
    **{f"small/{number}": os.urandom(10) for number in range(20)},
}

Grown = tuple[list[tuple[ProvenChunk, bytes]], Manifest, tuple[int, ...]]


def grow(store: Store, files: Mapping[str, bytes], chunk_bytes: int = 2 * BLOCK_BYTES) -> Grown:
    """What a driver's stage gives while these files are written in pieces: chunks with their bytes as read then."""
    chunks: list[tuple[ProvenChunk, bytes]] = []

    def watch(chunk: ProvenChunk) -> None:
        data = bytearray(chunk.chunk.size)
        paths = [stage.path_of(piece.entry_index) for piece in chunk.chunk.pieces]
        read_pieces(store.staged_files(stage.path.name), paths, chunk, memoryview(data))
        chunks.append((chunk, bytes(data)))

    with store.stage(watch=watch, chunk_bytes=chunk_bytes) as stage:
        for path, data in files.items():
            with stage.open_file(path) as file:
                for start in range(0, len(data), 700_001):
                    file.write(data[start : start + 700_001])
        snapshot = store.publish(stage)
        with snapshot:
            return chunks, snapshot.manifest, stage.ordinals


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store(tmp_path / "there")


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fill(stage: GrowingStage, chunks: list[tuple[ProvenChunk, bytes]]) -> None:
    for chunk, data in chunks:
        stage.write_chunk(chunk, memoryview(data))


@pytest.mark.parametrize("folder", ["", "wrapped/"])
def test_chunks_in_any_order_from_many_threads_become_the_same_snapshot(here: Store, there: Store, folder: str) -> None:
    chunks, manifest, ordinals = grow(here, {f"{folder}{path}": data for path, data in FILES.items()})
    assert [chunk.chunk.index for chunk, _ in chunks] == list(range(len(chunks)))
    assert len(chunks) < len(FILES)  # small files share chunks
    random.Random(1).shuffle(chunks)
    with there.stage_growing(None) as stage:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda item: stage.write_chunk(item[0], memoryview(item[1])), [*chunks, *chunks[:3]]))
        stage.close(manifest, ordinals)
        with there.publish(stage) as snapshot:
            assert snapshot.manifest == manifest
            assert files_of(snapshot.path) == FILES
    there.verify(manifest.digest)


def test_chunks_are_given_before_the_file_ends(here: Store) -> None:
    given_by_then: list[int] = []
    chunks: list[ProvenChunk] = []
    with here.stage(watch=chunks.append, chunk_bytes=2 * BLOCK_BYTES) as stage:
        with stage.open_file("saved_model.pb") as file:
            for _ in range(10):
                file.write(bytes(BLOCK_BYTES))
                given_by_then.append(len(chunks))
        stage.finish()
    assert given_by_then[4] == 2
    assert sum(chunk.chunk.size for chunk in chunks) == 10 * BLOCK_BYTES


@given(
    sizes=st.lists(st.integers(0, 3 * BLOCK_BYTES + 5), min_size=1, max_size=6),
    blocks_each=st.integers(1, 4),
    step=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_cut_chunks_cover_every_byte_once(sizes: list[int], blocks_each: int, step: int) -> None:
    chunks: list[ProvenChunk] = []
    cutter = ChunkCutter(blocks_each * BLOCK_BYTES, chunks.append)
    for file, size in enumerate(sizes):
        for start in range(0, size, step * BLOCK_BYTES):
            part = min(step * BLOCK_BYTES, size - start)
            cutter.add(file, start, part, bytes(32 * -(-part // BLOCK_BYTES)))
    cutter.finish()
    cutter.finish()
    covered = [(piece.entry_index, piece.start, piece.end) for chunk in chunks for piece in chunk.chunk.pieces]
    assert all(0 < chunk.chunk.size <= blocks_each * BLOCK_BYTES for chunk in chunks)
    assert all(len(chunk.blocks) == sum(len(blocks) for _, _, blocks in chunk.parts()) for chunk in chunks)
    at = dict.fromkeys(range(len(sizes)), 0)
    for file, start, end in covered:
        assert start == at[file]
        at[file] = end
    assert list(at.values()) == sizes


def test_a_known_manifests_chunks_fill_it_too(here: Store, there: Store) -> None:
    _, manifest, _ = grow(here, FILES)
    with (
        here.find(manifest.digest) or pytest.fail("lost") as snapshot,
        there.stage_growing(manifest.total_bytes) as stage,
    ):
        for chunk in cut_chunks(manifest, 3 * BLOCK_BYTES):
            data = bytearray(chunk.size)
            snapshot.read_chunk(chunk, memoryview(data))
            stage.write_chunk(prove(manifest, chunk), memoryview(data))
        stage.close(manifest, range(len(manifest.entries)))
        there.publish(stage).release()
    there.verify(manifest.digest)


def test_wrong_bytes_are_refused_and_not_written(here: Store, there: Store) -> None:
    chunks, _, _ = grow(here, FILES)
    chunk, data = chunks[0]
    wrong = bytearray(data)
    wrong[-1] ^= 1
    with there.stage_growing(None) as stage:
        with pytest.raises(DigestMismatchError, match="block"):
            stage.write_chunk(chunk, memoryview(wrong))
        with pytest.raises(IntegrityError, match="bytes instead of"):
            stage.write_chunk(chunk, memoryview(data)[:-1])
        assert files_of(stage.path) == {}
        with pytest.raises(IntegrityError):
            stage.read_chunk(chunk, memoryview(bytearray(len(data))))


def test_what_arrived_can_be_given_on_before_during_and_after_the_close(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    with there.stage_growing(None) as stage:
        fill(stage, chunks)
        stop = threading.Event()

        def read() -> int:
            count = 0
            while not stop.is_set():
                for chunk, data in chunks:
                    buffer = bytearray(len(data))
                    try:
                        stage.read_chunk(chunk, memoryview(buffer))
                    except IntegrityError:
                        continue  # a file is on its way to its name
                    assert bytes(buffer) == data
                    count += 1
            return count

        with ThreadPoolExecutor(2) as threads:
            readers = [threads.submit(read) for _ in range(2)]
            stage.close(manifest, ordinals)
            stop.set()
            assert all(reader.result() >= 0 for reader in readers)
        buffer = bytearray(len(chunks[0][1]))
        stage.read_chunk(chunks[0][0], memoryview(buffer))
        assert bytes(buffer) == chunks[0][1]


def test_a_stage_that_is_not_exactly_the_manifests_is_not_published(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    extra = ProvenChunk(Chunk(99, (Piece(77, 0, 5),)), hashlib.sha256(b"extra").digest())
    for case in ("missing", "extra", "not closed"):
        with there.stage_growing(None) as stage:
            fill(stage, chunks[1:] if case == "missing" else chunks)
            if case == "extra":
                stage.write_chunk(extra, memoryview(b"extra"))
            with pytest.raises(IntegrityError):
                if case != "not closed":
                    stage.close(manifest, ordinals)
                stage.finish()
    assert there.digests() == []


def test_a_manifest_with_other_digests_is_refused(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    entry = next(entry for entry in manifest.entries if entry.path == "z/big")
    lying = Manifest(
        tuple(replace(each, blocks=bytes(len(each.blocks))) if each == entry else each for each in manifest.entries)
    )
    with there.stage_growing(None) as stage:
        fill(stage, chunks)
        with pytest.raises(IntegrityError, match="z/big"):
            stage.close(lying, ordinals)


def test_unproven_blocks_let_whole_files_be_digested(here: Store, there: Store) -> None:
    _, manifest, _ = grow(here, FILES)
    forged = os.urandom(300)
    entry = next(entry for entry in manifest.entries if entry.path == "saved_model.pb")
    fitted = replace(entry, blocks=hashlib.sha256(forged).digest())
    lying = Manifest(tuple(fitted if each == entry else each for each in manifest.entries))
    assert lying.digest == manifest.digest  # which names whole files only
    with there.stage_growing(None) as stage:
        for chunk in cut_chunks(lying, BLOCK_BYTES):
            data = b"".join(
                (
                    forged
                    if lying.entries[piece.entry_index].path == "saved_model.pb"
                    else FILES[lying.entries[piece.entry_index].path]
                )[piece.start : piece.end]
                for piece in chunk.pieces
            )
            stage.write_chunk(prove(lying, chunk), memoryview(data))
        with pytest.raises(DigestMismatchError, match="saved_model"):
            stage.close(lying, range(len(lying.entries)), unproven=True)


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../x"])
def test_names_that_leave_the_stage_are_refused(here: Store, there: Store, path: str) -> None:
    chunks, manifest, _ = grow(here, {"saved_model.pb": b"graph"})
    evil = Manifest((replace(manifest.entries[0], path=path),))
    with there.stage_growing(None) as stage:
        fill(stage, chunks)
        with pytest.raises(HubdistError):
            stage.close(evil, (0,))
        assert not list(stage.path.parent.parent.glob("**/out"))


def test_no_more_than_max_bytes_is_taken(here: Store, tmp_path: Path) -> None:
    chunks, manifest, _ = grow(here, FILES)
    small = Store(tmp_path / "small", max_bytes=4 * BLOCK_BYTES)
    with small.stage_growing(None) as stage, pytest.raises(StoreFullError):
        fill(stage, chunks)
    with pytest.raises(StoreFullError, match="max_bytes"):
        small.stage_growing(manifest.total_bytes)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "/abs"])
def test_a_stage_is_asked_for_by_its_name_only(here: Store, name: str) -> None:
    with pytest.raises(IntegrityError):
        here.staged_files(name)
