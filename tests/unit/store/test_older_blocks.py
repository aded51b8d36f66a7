"""Blocks that older snapshots of a store have come into a new model's stage, checked, or do not come at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubdist.errors import IntegrityError
from hubdist.model.chunks import Piece, chunk_of, cut_chunks
from hubdist.model.digest_sink import DigestSink
from hubdist.model.manifest import BLOCK_BYTES, Manifest
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.older_blocks import OlderBlocks, known_digests, newest_manifests
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from tests.support.examples import examples
from tests.support.store_models import content, home, publish

_RNG = random.Random(7)
BLOCKS = [_RNG.randbytes(BLOCK_BYTES) for _ in range(6)]
TAILS = [b"", b"", b"x", _RNG.randbytes(5000), _RNG.randbytes(BLOCK_BYTES - 1)]
OLD = {"a": b"".join(BLOCKS[:4]) + TAILS[3], "sub/b": TAILS[3], "c": BLOCKS[5]}

Files = dict[str, bytes]


def manifest_of(files: Files) -> Manifest:
    sink = DigestSink()
    for path, data in files.items():
        with sink.open_file(path) as file:
            file.write(data)
    return sink.finish()


def write_pieces(stage: ChunkStage, manifest: Manifest, files: Files, pieces: tuple[Piece, ...]) -> None:
    """What would travel."""
    for piece in pieces:
        data = files[manifest.entries[piece.entry_index].path][piece.start : piece.end]
        stage.write_chunk(chunk_of(manifest, (piece,)), memoryview(data))


def finish(store: Store, files: Files, **limits: int) -> int:
    """Publish a model with what older snapshots have and what they lack; return how much they lacked."""
    manifest = manifest_of(files)
    with store.stage_chunks(manifest) as stage:
        with OlderBlocks(store, manifest, **limits) as older:
            left = older.take_all(stage)
        write_pieces(stage, manifest, files, left)
        with store.publish(stage) as snapshot:
            assert content(snapshot.path) == files
            assert snapshot.find_damage() is None
    return sum(piece.size for piece in left)


def units(files: Files) -> list[tuple[bytes, ...]]:
    """The bytes of each unit's pieces."""
    manifest = manifest_of(files)
    return [
        tuple(files[manifest.entries[piece.entry_index].path][piece.start : piece.end] for piece in chunk.pieces)
        for chunk in cut_chunks(manifest, BLOCK_BYTES)
    ]


def blocks_of(files: Files) -> set[bytes]:
    return {data[at : at + BLOCK_BYTES] for data in files.values() for at in range(0, len(data), BLOCK_BYTES)}


some_files = st.dictionaries(
    st.sampled_from(["a", "sub/b", "sub/c", "d"]),
    st.builds(
        lambda blocks, tail: b"".join(blocks) + tail,
        st.lists(st.sampled_from(BLOCKS), max_size=3),
        st.sampled_from(TAILS),
    ),
    min_size=1,
)


@settings(max_examples=examples(60), deadline=None)
@given(old=st.lists(some_files, min_size=1, max_size=2), new=some_files)
def test_any_model_after_any_others_is_whole_and_what_did_not_change_does_not_travel(
    old: list[Files], new: Files
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder)
        for files in old:
            publish(store, files).release()
        lacked = 0 if manifest_of(new).digest in store.digests() else finish(store, new)
        there = set().union(*map(blocks_of, old))
        assert lacked <= sum(sum(map(len, unit)) for unit in units(new) if not there.issuperset(unit))
    finally:
        remove_tree(folder)


def test_what_changed_comes_from_elsewhere_whatever_file_the_rest_is_in(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, OLD).release()
    assert finish(store, {"moved": BLOCKS[1] + BLOCKS[4] + BLOCKS[0], "sub/tail": TAILS[3]}) == BLOCK_BYTES


def test_a_damaged_block_of_an_older_snapshot_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    with publish(store, OLD) as snapshot:
        damaged = snapshot.path / "a"
    damaged.chmod(0o600)
    with damaged.open("r+b") as file:
        file.seek(BLOCK_BYTES + 5)
        file.write(b"damage")
    damaged.chmod(0o444)
    with caplog.at_level(logging.WARNING):
        assert finish(store, {"new": b"".join(BLOCKS[:3])}) == BLOCK_BYTES
    assert caplog.text.count("blocks of an older snapshot cannot be taken") == 1


@pytest.mark.parametrize("how", ["cut short", "removed", "another kind"])
def test_an_older_snapshot_that_somebody_clears_away_is_not_missed(tmp_path: Path, how: str) -> None:
    """While it is held: `find` would quarantine it, and this is what happens after that."""
    store = Store(tmp_path)
    with publish(store, OLD) as snapshot:
        digest = snapshot.manifest.digest
    new = {"new": b"".join(BLOCKS[:3])}
    manifest = manifest_of(new)
    chunks = cut_chunks(manifest, BLOCK_BYTES)
    with store.stage_chunks(manifest) as stage, OlderBlocks(store, manifest) as older:
        assert older.take(chunks[0], stage)
        file = home(store, digest) / "files" / "a"
        if how == "removed":
            remove_tree(home(store, digest))
        elif how == "cut short":
            file.chmod(0o600)
            os.truncate(file, BLOCK_BYTES)
        else:
            file.parent.chmod(0o700)
            file.unlink()
            file.mkdir()
        assert [older.take(chunk, stage) for chunk in chunks[1:]] == [False, False]
        write_pieces(stage, manifest, new, tuple(piece for chunk in chunks[1:] for piece in chunk.pieces))
        with store.publish(stage) as published:
            assert content(published.path) == new


def test_a_snapshot_is_not_evicted_while_blocks_are_taken_from_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with publish(store, OLD) as snapshot:
        digest = snapshot.manifest.digest
    manifest = manifest_of({"new": BLOCKS[0]})
    older = OlderBlocks(store, manifest)
    assert not store.evict(digest)
    older.release()
    assert store.evict(digest)


def test_a_snapshot_that_has_nothing_of_the_model_is_neither_held_nor_counted_as_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digests = []
    for number in range(2):
        with publish(store, {"a": BLOCKS[number]}) as snapshot:
            digests.append(snapshot.manifest.digest)
        os.utime(home(store, digests[-1]) / "in-use", (number, number))
    older = OlderBlocks(store, manifest_of({"new": BLOCKS[5]}))
    assert store.digests() == digests
    assert all(map(store.evict, digests))
    older.release()


def test_only_the_newest_snapshots_and_only_so_many_blocks_are_looked_at(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        with publish(store, {"a": BLOCKS[number]}) as snapshot:
            os.utime(home(store, snapshot.manifest.digest) / "in-use", (number, number))
    new = {"new": b"".join(BLOCKS[:3])}
    older = OlderBlocks(store, manifest_of(new), max_snapshots=2)
    assert [older.known_bytes(chunk) for chunk in cut_chunks(manifest_of(new), BLOCK_BYTES)] == [
        0,
        BLOCK_BYTES,
        BLOCK_BYTES,
    ]
    older.release()
    assert len(list(newest_manifests(store, max_bytes=500))) == 1
    assert len(known_digests(store, max_blocks=2)) == 2
    assert len(known_digests(store)) == 3
    assert finish(store, new, max_blocks=1) == 2 * BLOCK_BYTES


def test_a_manifest_that_cannot_be_read_hides_no_other_snapshot(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        with publish(store, {"a": BLOCKS[number]}) as snapshot:
            path = home(store, snapshot.manifest.digest) / "manifest.json"
        if number == 1:
            path.chmod(0o600)
            path.write_bytes(b"{")
    assert finish(store, {"new": BLOCKS[0] + BLOCKS[2]}) == 0


def test_the_rest_of_a_chunk_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, OLD).release()
    new = {"new": BLOCKS[0] + BLOCKS[4] + BLOCKS[4] + BLOCKS[1], "tail": b"y"}
    manifest = manifest_of(new)
    (chunk,) = cut_chunks(manifest, 8 * BLOCK_BYTES)
    with store.stage_chunks(manifest) as stage, OlderBlocks(store, manifest) as older:
        left = older.take_blocks(chunk, stage)
        assert left is not None
        assert left.pieces == (Piece(0, BLOCK_BYTES, 3 * BLOCK_BYTES), Piece(1, 0, 1))
        with pytest.raises(IntegrityError):
            stage.close(manifest, range(2))
        write_pieces(stage, manifest, new, left.pieces)
        store.publish(stage).release()


def test_a_disk_that_cannot_share_blocks_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: Any) -> int:
        asked.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "no")

    store = Store(tmp_path)
    publish(store, OLD).release()
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert finish(store, {"new": b"".join(BLOCKS[:3])}) == 0
    assert len(asked) == 1


def test_a_clone_that_has_other_bytes_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is digested are the bytes of the clone, and not those that it was made of."""

    def clone(target: int, _: int, arguments: bytes) -> int:
        os.pwrite(target, bytes(BLOCK_BYTES), int.from_bytes(arguments[24:], "little"))
        return 0

    store = Store(tmp_path)
    publish(store, OLD).release()
    monkeypatch.setattr(fcntl, "ioctl", clone)
    assert finish(store, {"new": b"".join(BLOCKS[:3])}) == 3 * BLOCK_BYTES


def test_a_store_without_room_for_two_versions_gives_up_the_older_one(tmp_path: Path) -> None:
    store = Store(tmp_path, max_bytes=5 * BLOCK_BYTES)
    publish(store, {"a": b"".join(BLOCKS[:4])}).release()
    assert finish(store, {"a": b"".join(BLOCKS[:3])}) == 3 * BLOCK_BYTES
