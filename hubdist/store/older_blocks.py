"""Blocks of a new model that the snapshots of a store have already: finds them by digest and copies them into a stage.

A new version of a model often has most blocks of the version before, in the same file or in another one. A node that
has the old version takes those blocks from its own disk, and only the others travel.

The store first makes room for the new model and only then looks for blocks, so a store without room for two versions
evicts the old one, as ever. What is looked at is bounded: the manifests of the few snapshots that were used last. A
snapshot that has blocks of the model is held until `release`, so the store does not evict it while it is read.

Nothing in an old snapshot is believed. Each block is digested after it was read, as if another node had sent it. A
block that differs, or whose snapshot is gone after all, is not taken; then it has to come from elsewhere. Where the
file system can share blocks between files, the old block is first cloned into a file without a name, and digested
there: nobody can change that file afterwards, and the stage then clones it. Elsewhere the bytes are read and written;
`copy_file_range` would save nothing, because the bytes have to be read for their digest anyway.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple, Self

from hubdist.errors import HubdistError, IntegrityError, StoreError
from hubdist.model.chunks import Block, Chunk, Piece, cut_chunks, join_chunks
from hubdist.model.manifest import BLOCK_BYTES, DIGEST_BYTES, Digest, Manifest
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.folders import MANIFEST
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.clones import clone_range
from hubdist.system.disk import disk_errors, read_open_file
from hubdist.system.log_once import LogOnce
from hubdist.system.portable import TMPFILE

_LOG = logging.getLogger(__name__)

MAX_SNAPSHOTS = 4
"""How many snapshots are looked at, from the one that was used last."""

MAX_MANIFEST_BYTES = 32 << 20
"""Most bytes of manifests that are read: they describe about 400 GiB of models."""

MAX_BLOCKS = 1 << 18
"""Of a model with more blocks, which is one of more than 256 GiB, the blocks behind these are not looked for."""


class _Place(NamedTuple):
    """Where a block lies.

    Attributes:
        snapshot: The number of the snapshot among those that are held.
        path: The file, below the model's directory.
        start: Offset of the block's first byte.
    """

    snapshot: int
    path: str
    start: int


class OlderBlocks:
    """Copies blocks of one model out of the snapshots of a store. Safe for several threads.

    Use it as a context manager, or call `release`, so that the store may evict the snapshots again.

    Args:
        store: The store.
        manifest: The model; the store has no snapshot of it yet.
        max_snapshots: How many snapshots to look at, from the one that was used last.
        max_manifest_bytes: Most bytes of manifests to read.
        max_blocks: How many of the model's blocks to look for.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        *,
        max_snapshots: int = MAX_SNAPSHOTS,
        max_manifest_bytes: int = MAX_MANIFEST_BYTES,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        self._manifest = manifest
        self._snapshots: list[Snapshot] = []
        self._places: dict[bytes, _Place] = {}
        """Digest of a block -> where it lies."""
        self._can_clone = True
        self._releasing = threading.Lock()
        self._once = LogOnce(_LOG)
        wanted = set(itertools.islice(_block_digests(manifest), max_blocks))
        for older in newest_manifests(store, max_snapshots=max_snapshots, max_bytes=max_manifest_bytes):
            if older.digest != manifest.digest and not wanted.isdisjoint(_block_digests(older)):
                self._add(store, older.digest, wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def known_bytes(self, chunk: Chunk) -> int:
        """Bytes of those blocks of a chunk that have a known place. Nobody has read the blocks yet."""
        return sum(block.size for block in chunk.blocks() if block.digest in self._places)

    def take(self, chunk: Chunk, stage: ChunkStage) -> bool:
        """Copy a chunk into a stage; False if not all of it can be had here.

        Args:
            chunk: Which bytes, and their digests.
            stage: Where they go; it checks them.
        """
        if self.known_bytes(chunk) < chunk.size:
            return False
        data = memoryview(bytearray(chunk.size))
        try:
            with self._open_twin(stage) as twin:
                at, is_twin = 0, twin is not None
                for block in chunk.blocks():
                    view = data[at : at + block.size]
                    is_twin = self._read(block, view, twin if is_twin else None, at) and is_twin
                    at += block.size
                stage.write_chunk(chunk, data, twin=twin if is_twin else None)
        except (IntegrityError, StoreError) as error:
            place = self._places[next(chunk.blocks()).digest]
            self._once.log(
                place.snapshot,
                "hubdist: blocks of an older snapshot cannot be taken, and come from elsewhere: %s",
                error,
            )
            return False
        return True

    def take_blocks(self, chunk: Chunk, stage: ChunkStage) -> Chunk | None:
        """Copy what can be had of a chunk into a stage; return the rest of the chunk, or None if nothing is left.

        Args:
            chunk: Which bytes, and their digests.
            stage: Where they go; it checks them.
        """
        left = [part for part in chunk.split(BLOCK_BYTES) if not self.take(part, stage)]
        return join_chunks(left) if left else None

    def take_all(self, stage: ChunkStage) -> tuple[Piece, ...]:
        """Copy what can be had of the model into a stage; return the pieces that are left.

        Args:
            stage: A stage for the model; it checks the bytes.
        """
        left = [chunk for chunk in cut_chunks(self._manifest, BLOCK_BYTES) if not self.take(chunk, stage)]
        return join_chunks(left).pieces if left else ()

    def release(self) -> None:
        """Hold the snapshots no longer. Whoever still reads them may find that they are gone."""
        with self._releasing:
            for snapshot in self._snapshots:
                snapshot.release()

    def _add(self, store: Store, digest: Digest, wanted: set[bytes]) -> None:
        """Hold a snapshot and note which wanted blocks it has, unless it is damaged or gone meanwhile."""
        snapshot = None
        with contextlib.suppress(StoreError):
            snapshot = store.find(digest)
        if snapshot is None:
            return
        for entry in snapshot.manifest.entries:
            for number in range(len(entry.block_digests) // DIGEST_BYTES):
                block = entry.block_digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
                if block in wanted:
                    place = _Place(len(self._snapshots), entry.path, number * BLOCK_BYTES)
                    self._places.setdefault(block, place)
        self._snapshots.append(snapshot)

    def _read(self, block: Block, view: memoryview, twin: int | None, at: int) -> bool:
        """Read a block, without checking it; True if it was cloned into the twin and read there.

        Args:
            block: The block.
            view: The buffer; of the block's size.
            twin: Descriptor of the file to clone into; None to read the snapshot itself.
            at: Offset of the block in that file.
        """
        place = self._places[block.digest]
        path = self._snapshots[place.snapshot].path / place.path
        with disk_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise IntegrityError(f"{path} is gone") from None
            try:
                if twin is not None and block.size == BLOCK_BYTES and at % BLOCK_BYTES == 0:
                    self._can_clone = clone_range(descriptor, place.start, twin, at, block.size)
                    if self._can_clone:
                        read_open_file(twin, at, view)
                        return True
                read_open_file(descriptor, place.start, view)
            finally:
                os.close(descriptor)
        return False

    @contextlib.contextmanager
    def _open_twin(self, stage: ChunkStage) -> Iterator[int | None]:
        """A file without a name on the stage's disk; None if that disk cannot share blocks or has no such files."""
        descriptor = -1
        if self._can_clone and TMPFILE is not None:
            try:
                descriptor = os.open(stage.path, TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError:
                self._can_clone = False
        try:
            yield descriptor if descriptor >= 0 else None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def newest_manifests(
    store: Store, *, max_snapshots: int = MAX_SNAPSHOTS, max_bytes: int = MAX_MANIFEST_BYTES
) -> Iterator[Manifest]:
    """The manifests of a store's snapshots, from the one that was used last. Nobody holds the snapshots.

    Args:
        store: The store.
        max_snapshots: How many to read.
        max_bytes: Most bytes of manifests to read; a manifest that is too large for what is left is passed over.
    """
    try:
        digests = store.digests()[::-1][:max_snapshots]
    except StoreError:
        return
    for digest in digests:
        path = store.root / "snapshots" / digest.value / MANIFEST
        try:
            size = path.stat().st_size
            if size > max_bytes:
                continue
            max_bytes -= size
            yield Manifest.from_json(path.read_bytes())
        except (OSError, HubdistError):  # evicted meanwhile, or damaged, which whoever uses it will notice
            continue


def known_digests(store: Store, *, max_blocks: int = MAX_BLOCKS) -> frozenset[bytes]:
    """The digests of the blocks of a store's newest snapshots.

    Args:
        store: The store.
        max_blocks: Most digests; each takes about 100 bytes of memory.
    """
    digests = (digest for manifest in newest_manifests(store) for digest in _block_digests(manifest))
    return frozenset(itertools.islice(digests, max_blocks))


def _block_digests(manifest: Manifest) -> Iterator[bytes]:
    for entry in manifest.entries:
        for at in range(0, len(entry.block_digests), DIGEST_BYTES):
            yield entry.block_digests[at : at + DIGEST_BYTES]
