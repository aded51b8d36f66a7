"""Stages that are filled before their manifest is known, and what the driver's stage gives to fill them with."""

from __future__ import annotations

import http.server
import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import DigestMismatchError, HubdistError, IntegrityError, StoreError, StoreFullError
from hubdist.model.chunks import Chunk, Piece, cut_chunks
from hubdist.model.digest_sink import Chunker
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import BLOCK_BYTES, Digest, Entry, Manifest, digest_block
from hubdist.origins import OriginSettings, open_origin
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.stage_directory import read_pieces
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines
from hubdist.system.directories import remove_tree
from tests.support.archives import tar, targz
from tests.support.chunks import one_block

FILES = {
    "z/big": os.urandom(5 * BLOCK_BYTES + 11),
    "saved_model.pb": os.urandom(300),
    "empty": b"",
    "a/exact": os.urandom(2 * BLOCK_BYTES),
    **{f"small/{number}": os.urandom(10) for number in range(20)},
}

Grown = tuple[list[tuple[Chunk, bytes]], Manifest, tuple[int, ...]]


def grow(store: Store, files: Mapping[str, bytes], chunk_bytes: int = 2 * BLOCK_BYTES) -> Grown:
    """What a driver's stage gives while these files are written in pieces: chunks with their bytes as read then."""
    chunks: list[tuple[Chunk, bytes]] = []

    def watch(chunk: Chunk) -> None:
        data = bytearray(chunk.size)
        paths = [stage.path_of(piece.entry_index) for piece in chunk.pieces]
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


def fill(stage: ChunkStage, chunks: list[tuple[Chunk, bytes]]) -> None:
    for chunk, data in chunks:
        stage.write_chunk(chunk, memoryview(data))


@pytest.mark.parametrize("folder", ["", "wrapped/"])
def test_chunks_in_any_order_from_many_threads_become_the_same_snapshot(here: Store, there: Store, folder: str) -> None:
    chunks, manifest, ordinals = grow(here, {f"{folder}{path}": data for path, data in FILES.items()})
    assert [chunk.index for chunk, _ in chunks] == list(range(len(chunks)))
    assert len(chunks) < len(FILES)  # small files share chunks
    random.Random(1).shuffle(chunks)
    with there.stage_chunks(None) as stage:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda item: stage.write_chunk(item[0], memoryview(item[1])), [*chunks, *chunks[:3]]))
        stage.close(manifest, ordinals)
        with there.publish(stage) as snapshot:
            assert snapshot.manifest == manifest
            assert files_of(snapshot.path) == FILES
    there.verify(manifest.digest)


def test_chunks_are_given_before_the_file_ends(here: Store) -> None:
    given_by_then: list[int] = []
    chunks: list[Chunk] = []
    with here.stage(watch=chunks.append, chunk_bytes=2 * BLOCK_BYTES) as stage:
        with stage.open_file("saved_model.pb") as file:
            for _ in range(10):
                file.write(bytes(BLOCK_BYTES))
                given_by_then.append(len(chunks))
        stage.finish()
    assert given_by_then[4] == 5
    assert sum(chunk.size for chunk in chunks) == 10 * BLOCK_BYTES


@given(
    sizes=st.lists(st.integers(0, 3 * BLOCK_BYTES + 5), min_size=1, max_size=6),
    blocks_each=st.integers(1, 4),
    step=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_cut_chunks_cover_every_byte_once(sizes: list[int], blocks_each: int, step: int) -> None:
    chunks: list[Chunk] = []
    cutter = Chunker(blocks_each * BLOCK_BYTES, chunks.append)
    for file, size in enumerate(sizes):
        for start in range(0, size, step * BLOCK_BYTES):
            part = min(step * BLOCK_BYTES, size - start)
            cutter.add(file, start, part, bytes(32 * -(-part // BLOCK_BYTES)))
    cutter.finish()
    cutter.finish()
    covered = [(piece.entry_index, piece.start, piece.end) for chunk in chunks for piece in chunk.pieces]
    assert all(0 < chunk.size <= blocks_each * BLOCK_BYTES for chunk in chunks)
    assert all(len(chunk.block_digests) == 32 * len(list(chunk.blocks())) for chunk in chunks)
    at = dict.fromkeys(range(len(sizes)), 0)
    for file, start, end in covered:
        assert start == at[file]
        at[file] = end
    assert list(at.values()) == sizes


def test_chunks_grow_with_what_was_cut() -> None:
    chunks: list[Chunk] = []
    cutter = Chunker(4 * BLOCK_BYTES, chunks.append)
    cutter.add(0, 0, 1024 * BLOCK_BYTES, bytes(32 * 1024))
    cutter.finish()
    sizes = [chunk.size // BLOCK_BYTES for chunk in chunks]
    assert sizes[:64] == [1] * 64
    assert set(sizes) == {1, 2, 3, 4}
    assert sum(sizes) == 1024
    cut = 0
    for size in sizes:
        assert size == 1 or size <= cut / 64
        cut += size


def test_a_known_manifests_chunks_fill_it_too(here: Store, there: Store) -> None:
    _, manifest, _ = grow(here, FILES)
    with (
        here.find(manifest.digest) or pytest.fail("lost") as snapshot,
        there.stage_chunks(manifest) as stage,
    ):
        for chunk in cut_chunks(manifest, 3 * BLOCK_BYTES):
            data = bytearray(chunk.size)
            snapshot.read_chunk(chunk, memoryview(data))
            stage.write_chunk(chunk, memoryview(data))
        stage.close(manifest, range(len(manifest.entries)))
        there.publish(stage).release()
    there.verify(manifest.digest)


def test_wrong_bytes_are_refused_and_not_written(here: Store, there: Store) -> None:
    chunks, _, _ = grow(here, FILES)
    chunk, data = chunks[0]
    wrong = bytearray(data)
    wrong[-1] ^= 1
    with there.stage_chunks(None) as stage:
        with pytest.raises(DigestMismatchError, match="block"):
            stage.write_chunk(chunk, memoryview(wrong))
        with pytest.raises(IntegrityError, match="bytes instead of"):
            stage.write_chunk(chunk, memoryview(data)[:-1])
        assert files_of(stage.path) == {"in-use": b""}
        with pytest.raises(IntegrityError):
            stage.read_chunk(chunk, memoryview(bytearray(len(data))))


def test_what_arrived_can_be_given_on_before_during_and_after_the_close(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    with there.stage_chunks(None) as stage:
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
    extra = Chunk(99, (Piece(77, 0, 5),), digest_block(b"extra"))
    for case in ("missing", "extra", "not closed"):
        with there.stage_chunks(None) as stage:
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
        tuple(
            replace(each, block_digests=bytes(len(each.block_digests))) if each == entry else each
            for each in manifest.entries
        )
    )
    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        with pytest.raises(IntegrityError, match="z/big"):
            stage.close(lying, ordinals)


def test_unproven_blocks_let_whole_files_be_digested(here: Store, there: Store) -> None:
    _, manifest, _ = grow(here, FILES)
    forged = os.urandom(300)
    entry = next(entry for entry in manifest.entries if entry.path == "saved_model.pb")
    fitted = replace(entry, block_digests=digest_block(forged))
    lying = Manifest(tuple(fitted if each == entry else each for each in manifest.entries))
    assert lying.digest == manifest.digest  # which names whole files only
    with there.stage_chunks(None) as stage:
        for chunk in cut_chunks(lying, BLOCK_BYTES):
            data = b"".join(
                (
                    forged
                    if lying.entries[piece.entry_index].path == "saved_model.pb"
                    else FILES[lying.entries[piece.entry_index].path]
                )[piece.start : piece.end]
                for piece in chunk.pieces
            )
            stage.write_chunk(chunk, memoryview(data))
        with pytest.raises(DigestMismatchError, match="saved_model"):
            stage.close(lying.unproven(), range(len(lying.entries)))


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a/../../x"])
def test_names_that_leave_the_stage_are_refused(here: Store, there: Store, path: str) -> None:
    chunks, manifest, _ = grow(here, {"saved_model.pb": b"graph"})
    evil = Manifest((replace(manifest.entries[0], path=path),))
    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        with pytest.raises(HubdistError):
            stage.close(evil, (0,))
        assert not list(stage.path.parent.parent.glob("**/out"))


def test_no_more_than_max_bytes_is_taken(here: Store, tmp_path: Path) -> None:
    chunks, manifest, _ = grow(here, FILES)
    small = Store(tmp_path / "small", max_bytes=4 * BLOCK_BYTES)
    with small.stage_chunks(None) as stage, pytest.raises(StoreFullError):
        fill(stage, chunks)
    with pytest.raises(StoreFullError, match="max_store_bytes"):
        small.stage_chunks(manifest)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "/abs"])
def test_a_stage_is_asked_for_by_its_name_only(here: Store, name: str) -> None:
    with pytest.raises(IntegrityError):
        here.staged_files(name)


def test_a_chunk_is_given_as_soon_as_it_is_full(here: Store) -> None:
    chunks: list[Chunk] = []
    with (
        here.stage(watch=chunks.append, chunk_bytes=2 * BLOCK_BYTES) as stage,
        stage.open_file("saved_model.pb") as file,
    ):
        file.write(bytes(BLOCK_BYTES))
        assert len(chunks) == 1


def test_paths_and_ordinals_fit_the_manifest_after_the_folder_is_gone(here: Store) -> None:
    chunks: list[Chunk] = []
    with here.stage(watch=chunks.append, chunk_bytes=BLOCK_BYTES) as stage:
        for path in ("model/saved_model.pb", "model/empty", "model/a"):
            with stage.open_file(path) as file:
                file.write(b"" if path == "model/empty" else path.encode())
        manifest = stage.finish()
        assert [stage.path_of(ordinal) for ordinal in stage.ordinals] == [entry.path for entry in manifest.entries]
        paths = [stage.path_of(piece.entry_index) for piece in chunks[0].pieces]
        data = bytearray(chunks[0].size)
        read_pieces(here.staged_files(stage.path.name), paths, chunks[0], memoryview(data))
        assert data == b"model/saved_model.pbmodel/a"


@pytest.mark.parametrize("wrapped", ["", "model/"])
def test_a_file_that_comes_again_leaves_no_trace_among_the_chunks(here: Store, there: Store, wrapped: str) -> None:
    chunks: list[tuple[Chunk, bytes]] = []

    def watch(chunk: Chunk) -> None:
        data = bytearray(chunk.size)
        paths = [stage.path_of(piece.entry_index) for piece in chunk.pieces]
        read_pieces(here.staged_files(stage.path.name), paths, chunk, memoryview(data))
        chunks.append((chunk, bytes(data)))

    with here.stage(watch=watch, chunk_bytes=BLOCK_BYTES) as stage:
        for path in ("z/big", "saved_model.pb", "z/big", "empty", "a/exact", "empty", "z/big"):
            with stage.open_file(f"{wrapped}{path}") as file:
                file.write(FILES[path])
        with stage.open_file(".gitattributes") as file:
            file.write(b"beside")
        with here.publish(stage) as snapshot:
            manifest, ordinals = snapshot.manifest, stage.ordinals
    assert sum(len(data) for _, data in chunks) == manifest.total_bytes
    expected = {path: FILES[path] for path in ("z/big", "saved_model.pb", "empty", "a/exact")}
    with there.stage_chunks(None) as growing:
        fill(growing, chunks)
        growing.close(manifest, ordinals)
        with there.publish(growing) as snapshot:
            assert files_of(snapshot.path) == {**expected, ".gitattributes": b"beside"}


_EDGES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES]


@given(sizes=st.lists(st.sampled_from(_EDGES), min_size=1, max_size=5), blocks=st.integers(1, 3), order=st.randoms())
@settings(max_examples=15, deadline=None)
def test_files_of_any_size_arrive_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], blocks: int, order: random.Random
) -> None:
    root = tmp_path_factory.mktemp("stores")
    files = {f"{order.randrange(99)}/{number}": os.urandom(size) for number, size in enumerate(sizes)}
    chunks, manifest, ordinals = grow(Store(root / "here"), files, blocks * BLOCK_BYTES)
    order.shuffle(chunks)
    there = Store(root / "there")
    with there.stage_chunks(order.choice([None, manifest])) as stage:
        fill(stage, chunks)
        stage.close(manifest, ordinals)
        with there.publish(stage) as snapshot:
            assert files_of(snapshot.path) == files
    there.verify(manifest.digest)
    remove_tree(root)


def test_a_chunk_that_contradicts_an_earlier_one_is_refused(there: Store) -> None:
    with there.stage_chunks(None) as stage:
        stage.write_chunk(one_block(0, b"right"), memoryview(b"right"))
        with pytest.raises(DigestMismatchError, match="block 0 of file 0"):
            stage.write_chunk(one_block(0, b"wrong"), memoryview(b"wrong"))
        data = bytearray(5)
        stage.read_chunk(one_block(0, b"right"), memoryview(data))
        assert data == b"right"
        with pytest.raises(IntegrityError, match="has not arrived"):
            stage.read_chunk(one_block(0, b"wrong"), memoryview(data))


@pytest.mark.parametrize(
    ("pieces", "digests"),
    [
        ((Piece(0, 0, 1),), 0),
        ((Piece(0, 0, 1),), 2),
        ((Piece(0, 0, 1),), 0.5),
        ((Piece(0, 1, 2),), 1),
        ((Piece(-1, 0, 1),), 1),
        ((Piece(0, -BLOCK_BYTES, 1 - BLOCK_BYTES),), 1),
        ((Piece(0, 0, 1), Piece(1, 0, 0)), 1),
        ((Piece(0, 0, 2), Piece(1, 1, 0)), 1),
    ],
)
def test_a_chunk_that_is_not_made_of_blocks_is_refused(there: Store, pieces: tuple[Piece, ...], digests: float) -> None:
    data = bytes(sum(piece.size for piece in pieces))
    chunk = Chunk(0, pieces, (digest_block(data) * 2)[: int(32 * digests)])
    with there.stage_chunks(None) as stage:
        with pytest.raises(IntegrityError):
            stage.write_chunk(chunk, memoryview(data))
        assert files_of(stage.path) == {"in-use": b""}


def test_what_was_missing_when_the_stage_was_closed_may_still_come(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    with there.stage_chunks(None) as stage:
        fill(stage, chunks[1:])
        with pytest.raises(IntegrityError, match="z/big have not arrived"):
            stage.close(manifest, ordinals)
        fill(stage, chunks[:1])
        stage.close(manifest, ordinals)
        there.publish(stage).release()
    there.verify(manifest.digest)


def test_a_closed_stage_takes_nothing_new_and_does_not_mind_what_it_has(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, FILES)
    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        stage.close(manifest, ordinals)
        fill(stage, chunks)
        stage.close(manifest, ordinals)
        with pytest.raises(IntegrityError, match="after the stage was closed"):
            stage.write_chunk(one_block(77, b"new"), memoryview(b"new"))
        with pytest.raises(IntegrityError, match="closed before"):
            stage.close(Manifest(manifest.entries[1:]), ordinals[1:])
        with there.publish(stage) as snapshot:
            assert files_of(snapshot.path) == FILES
        with pytest.raises(IntegrityError):  # it has moved
            stage.read_chunk(chunks[0][0], memoryview(bytearray(chunks[0][0].size)))


def test_close_waits_for_chunks_that_are_being_written(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, manifest, ordinals = grow(here, {"saved_model.pb": b"graph"})
    gate, inside = threading.Event(), threading.Event()
    write = os.pwrite

    def slow(handle: int, data: memoryview, offset: int) -> int:
        inside.set()
        assert gate.wait(30)
        return write(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    with there.stage_chunks(None) as stage, ThreadPoolExecutor(2) as threads:
        writing = threads.submit(fill, stage, chunks)
        assert inside.wait(30)
        with pytest.raises(IntegrityError, match="has not arrived"):
            stage.read_chunk(chunks[0][0], memoryview(bytearray(5)))
        closing = threads.submit(stage.close, manifest, ordinals)
        assert not closing.done()
        gate.set()
        writing.result(30)
        closing.result(30)
        with there.publish(stage) as snapshot:
            assert files_of(snapshot.path) == {"saved_model.pb": b"graph"}


def test_sizes_and_numbers_that_do_not_fit_are_refused(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, {"saved_model.pb": b"graph", "b": b"bytes", "empty": b""})
    model = next(entry for entry in manifest.entries if entry.path == "saved_model.pb")

    def lie(**changes: Any) -> Manifest:
        return Manifest(tuple(replace(each, **changes) if each is model else each for each in manifest.entries))

    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        for lying, numbers in (
            (lie(size=4), ordinals),
            (lie(size=6), ordinals),
            (lie(size=-5, block_digests=b""), ordinals),
            (lie(size=0, block_digests=b""), ordinals),
            (lie(size=BLOCK_BYTES + 1), ordinals),
            (lie(size=BLOCK_BYTES + 1, block_digests=model.block_digests * 2), ordinals),
            (lie(block_digests=model.block_digests + b"x"), ordinals),
            (lie(path="empty"), ordinals),
            (lie(path="B"), ordinals),
            (lie(path="zz/"), ordinals),
            (Manifest(manifest.entries[::-1]), ordinals[::-1]),
            (Manifest(manifest.entries[1:]), ordinals[1:]),
            (manifest, ordinals[::-1]),
            (manifest, ordinals[:-1]),
            (manifest, (*ordinals, 3)),
            (manifest, (ordinals[0],) * 3),
        ):
            with pytest.raises(IntegrityError):
                stage.close(lying, numbers)
        stage.close(manifest, ordinals)
        there.publish(stage).release()


def test_holes_inside_a_file_are_found(there: Store) -> None:
    """A short block in front, and a last one that makes up for it: as many blocks, all with the digests claimed."""
    short, long = b"x" * 5, b"y" * BLOCK_BYTES
    blocks = digest_block(short) + digest_block(long)
    claimed = Manifest((Entry("saved_model.pb", BLOCK_BYTES + 5, Digest("0" * 64), blocks),))
    with there.stage_chunks(None) as stage:
        stage.write_chunk(one_block(0, short), memoryview(short))
        stage.write_chunk(one_block(0, long, start=BLOCK_BYTES), memoryview(long))
        with pytest.raises(IntegrityError, match="instead of"):
            stage.close(claimed, (0,))


def test_the_manifests_digest_is_worked_out_and_not_taken_over(here: Store, there: Store) -> None:
    chunks, manifest, ordinals = grow(here, {"saved_model.pb": b"graph"})
    posing = Manifest(manifest.entries)
    posing.__dict__["digest"] = Digest("0" * 64)
    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        stage.close(posing, ordinals)
        with there.publish(stage) as snapshot:
            assert snapshot.manifest.digest == manifest.digest


def test_more_bytes_than_were_expected_are_refused(here: Store, there: Store) -> None:
    chunks, manifest, _ = grow(here, FILES)
    smaller = Manifest(manifest.entries[:-1])
    with there.stage_chunks(smaller) as stage, pytest.raises(IntegrityError, match="the model has"):
        fill(stage, chunks)


def test_what_came_before_is_not_counted_again(here: Store, tmp_path: Path) -> None:
    chunks, manifest, _ = grow(here, FILES)
    small = Store(tmp_path / "small", max_bytes=manifest.total_bytes)
    with small.stage_chunks(None) as stage:
        fill(stage, chunks)
        fill(stage, chunks)


def test_links_that_were_put_into_a_stage_are_not_followed(here: Store, there: Store, tmp_path: Path) -> None:
    chunks, manifest, ordinals = grow(here, {"saved_model.pb": b"graph"})
    with there.stage_chunks(None) as stage:
        (stage.path / "coming" / "0").symlink_to(tmp_path / "target")
        with pytest.raises(StoreError):
            fill(stage, chunks)
    with there.stage_chunks(None) as stage:
        fill(stage, chunks)
        (stage.files / "saved_model.pb").symlink_to(tmp_path / "target")
        with pytest.raises(IntegrityError, match="something lies"):
            stage.close(manifest, ordinals)
    assert not (tmp_path / "target").exists()
    (tmp_path / "link").symlink_to(here.root)
    with pytest.raises(IntegrityError, match="is missing"):
        read_pieces(tmp_path, ["link"], chunks[0][0], memoryview(bytearray(5)))
    with pytest.raises(IntegrityError):
        read_pieces(tmp_path, ["../x"], chunks[0][0], memoryview(bytearray(5)))


@pytest.mark.parametrize("packer", [tar, targz])
def test_chunks_of_an_archive_come_while_it_is_being_downloaded(
    here: Store, packer: Callable[[dict[str, bytes]], bytes]
) -> None:
    archive = packer({"saved_model.pb": os.urandom(8 * BLOCK_BYTES)})
    arrived = threading.Event()
    in_time: list[bool] = []

    class Halves(http.server.BaseHTTPRequestHandler):
        """Sends half of the archive, and the rest when a chunk of the first half has arrived."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive[: len(archive) // 2])
            in_time.append(arrived.wait(20))
            self.wfile.write(archive[len(archive) // 2 :])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Halves) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            handle = parse_handle(f"http://127.0.0.1:{server.server_port}/model.{'tar' if packer is tar else 'tar.gz'}")
            with here.stage(watch=lambda _: arrived.set(), chunk_bytes=BLOCK_BYTES) as stage:
                open_origin(handle, OriginSettings(Deadlines(retries=0)), stage.path).fetch(stage)
                assert stage.finish().total_bytes == 8 * BLOCK_BYTES
        finally:
            server.shutdown()
            thread.join()
    assert in_time == [True]
