"""A node's store: a directory of published snapshots.

    <root>/snapshots/<digest>/files/...       the model, read-only: what TensorFlow opens
    <root>/snapshots/<digest>/manifest.json   beside the model's directory, never in it
    <root>/snapshots/<digest>/in-use          processes that use the snapshot hold a shared lock on this file
    <root>/staging/<unique>/                  being written; its maker holds a shared lock on `in-use` in it
    <root>/quarantine/<unique>/               damaged, kept for a look; a sweep deletes all but the newest
    <root>/locks/                             turns of processes that would do the same work (`turns`)
    <root>/pins/                              which digest a handle stands for (`pins`)
    <root>/claims/                            snapshots that processes need, without an open file each (`claims`)
    <root>/kept/                              snapshots that a person wants to stay (`kept`)
    <root>/nonces/                            names by which nodes find out that they share the store (`nonces`)
    <root>/CACHEDIR.TAG                       tells programs that make backups to leave the store out

Rules for all processes and threads. A snapshot appears whole, by one rename of a directory, or not at all. A process
removes a snapshot through the snapshot's descriptor, never by its path (`snapshot_directory`). Two writers of one
snapshot are harmless: one rename wins, the other writer discards its stage. Nobody removes a directory that a process
holds (`holds`); where a file system has no locks, no snapshot is evicted. Directories that somebody has cleared away
are made again. Locks save double work only: results are right without them, also when a process is killed anywhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hubdist.errors import IntegrityError, StoreError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import BLOCK_BYTES, Digest, Manifest
from hubdist.model.savedmodel import check_checkpoint
from hubdist.store.chunk_stage import ChunkStage
from hubdist.store.eviction import EvictionResult, Evictor
from hubdist.store.finder import MAX_LOOKS, Finder
from hubdist.store.folders import FILES, StoreFolders
from hubdist.store.quota import Quota
from hubdist.store.snapshot import Snapshot
from hubdist.store.stage import StreamStage
from hubdist.store.stage_directory import complete_stage, move_to_path
from hubdist.store.turns import take_turn
from hubdist.system.directories import make_private
from hubdist.system.disk import disk_errors

_LOG = logging.getLogger(__name__)

_PAUSE_STEP_S = 0.001
"""Seconds by which each pause between two tries to publish is longer than the one before."""


class Store:
    """The snapshots of one node; any number of processes and threads may use one root at the same time.

    Args:
        configured: The directory; made with mode 0700 if it is missing. If others own it or may write to it, the
            store is a directory inside it that is this user's alone (`system.ownership`).
        max_bytes: Most bytes of snapshots to keep. After a publication the store evicts the least recently used
            snapshots that no process uses. None keeps all.
        low_percent: If it has to evict, it goes on down to this part of `max_bytes`, in percent (`quota`).
        evicted: Is called after each eviction by this object.

    Attributes:
        configured: The configured directory.
        root: The directory of the store: the configured one, or one inside it.

    Raises:
        UnsafeStoreError: Another user owns the store or may write to it.
        StoreError: The store can neither be made nor read.
    """

    def __init__(
        self,
        configured: Path,
        *,
        max_bytes: int | None = None,
        low_percent: int = 100,
        evicted: Callable[[], None] = lambda: None,
    ) -> None:
        self.configured = configured
        self._folders = StoreFolders(configured)
        self.root = self._folders.root
        self._max_bytes = max_bytes
        self._evictor = Evictor(self._folders, evicted)
        self._finder = Finder(self._folders, self._evictor)
        self._quota = Quota(self._folders, self._evictor.evict, max_bytes, low_percent=low_percent)

    @property
    def read_only(self) -> bool:
        """True if this user may not write to the store; it serves the snapshots that it has."""
        return self._folders.read_only

    def find(self, digest: Digest) -> Snapshot | None:
        """The published snapshot, checked for completeness, or None. A damaged snapshot goes to the quarantine.

        The check covers the manifest's own digest, every file's name, kind and size, and that the SavedModel's index of
        variables names only files that exist; `verify` reads the bytes as well. If somebody else has put a directory
        in the store's place, or may write to it by now, nothing is found; a later writer gets the error.

        Raises:
            StoreError: The disk refuses, or a damaged snapshot cannot be moved away.
        """
        return self._finder.find(digest)

    def stage(
        self,
        *,
        watch: Callable[[Chunk], None] | None = None,
        chunk_bytes: int = BLOCK_BYTES,
        keep_folder: bool = False,
    ) -> StreamStage:
        """A stage for files from an origin; use it as a context manager.

        Args:
            watch: Gets each chunk when its bytes have been written, in the thread that writes; None if nobody watches.
            chunk_bytes: Most bytes of such a chunk.
            keep_folder: Leave the folder that many archives have around a SavedModel.

        Raises:
            StoreError: The store is read-only, or the disk refuses.
        """
        self._prepare(None)
        return StreamStage(
            self._folders.staging,
            max_bytes=self._max_bytes,
            watch=watch,
            chunk_bytes=chunk_bytes,
            keep_folder=keep_folder,
        )

    def stage_chunks(self, manifest: Manifest | None) -> ChunkStage:
        """A stage for the chunks of a model; use it as a context manager.

        Args:
            manifest: The model, for which the store makes room; None if it is not known yet. If the manifest's block
                digests are not proven, the stage digests whole files before it is published.

        Raises:
            StoreFullError: The disk, or `max_bytes`, has no room for the model.
            StoreError: The store is read-only, or the disk refuses.
        """
        self._prepare(None if manifest is None else manifest.total_bytes)
        return ChunkStage(self._folders.staging, manifest, max_bytes=self._max_bytes)

    def _prepare(self, total_bytes: int | None) -> None:
        """Make the store ready for a stage of this size; None if the size is not known."""
        self._folders.check_writable()
        self.sweep()
        if total_bytes is not None:
            self._quota.make_room(total_bytes)

    def staged_files(self, name: str) -> Path:
        """The directory of the model's files in a stage that another process may be writing.

        Args:
            name: The name of the stage's directory. It may come from another node, so nothing in it is believed.

        Raises:
            IntegrityError: The name cannot be one of a stage.
        """
        if not name or name != Path(name).name or name.startswith("."):
            raise IntegrityError(f"{name!r} is not the name of a stage")
        return self._folders.staging / name / FILES

    def publish(self, stage: StreamStage | ChunkStage) -> Snapshot:
        """Move a stage to its place under its digest. If another process was faster, its snapshot is returned.

        Args:
            stage: A stage of this store that has all its files.

        Raises:
            IntegrityError: The staged model is incomplete by its own index.
            StoreError: The disk refuses; nothing is published.
        """
        manifest = stage.finish()
        path = self._folders.snapshot(manifest.digest)
        with disk_errors(path, need_bytes=manifest.total_bytes):
            check_checkpoint(stage.files, [entry.path for entry in manifest.entries])
            complete_stage(stage, manifest, self.root)
        for tries in range(MAX_LOOKS):
            with disk_errors(path):
                if move_to_path(stage, path, self._folders):
                    snapshot: Snapshot | None = Snapshot(path / FILES, manifest, stage.hand_over())
                else:  # a snapshot is there already, or was there and is damaged or being evicted
                    snapshot = self.find(manifest.digest)
            if snapshot is not None:
                self._quota.enforce(keep=manifest.digest)
                return snapshot
            with disk_errors(path):
                self._evictor.finish_eviction(path)
            time.sleep(tries * _PAUSE_STEP_S)
        raise StoreError(
            f"something lies where the snapshot {manifest.digest} belongs, and cannot be taken away",
            path=str(path),
            advice="Remove it.",
        )

    def quarantine(self, digest: Digest, reason: str) -> None:
        """Move a damaged snapshot to the quarantine; does nothing if it is not there.

        Args:
            digest: The snapshot.
            reason: The damage, for the log.

        Raises:
            StoreError: The snapshot cannot be moved.
        """
        self._evictor.quarantine_path(self._folders.snapshot(digest), reason)

    def refresh(self) -> None:
        """Make a network file system ask its server which snapshots there are; it may remember an earlier miss."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._folders.snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def verify(self, digest: Digest) -> None:
        """Read every byte of a snapshot again; move the snapshot to the quarantine if anything differs.

        Raises:
            IntegrityError: The snapshot is missing or damaged.
            StoreError: The disk refuses.
        """
        snapshot = self.find(digest)
        if snapshot is None:
            raise IntegrityError(f"there is no complete snapshot {digest} in {self.root}")
        with snapshot:
            damage = snapshot.find_damage()
            if damage is not None:
                self._evictor.quarantine_found(snapshot, damage.what)
                raise damage

    def digests(self) -> list[Digest]:
        """The digests of all published snapshots, least recently used first."""
        return self._quota.digests()

    def evict(self, digest: Digest) -> bool:
        """Delete a snapshot that no process uses and nobody keeps; True if it was deleted. `try_evict` tells more.

        Raises:
            StoreError: The disk refuses.
        """
        return self.try_evict(digest) is EvictionResult.EVICTED

    def try_evict(self, digest: Digest) -> EvictionResult:
        """Delete a snapshot that no process uses and nobody keeps; returns what came of it.

        Where the file system has no locks, nobody knows who uses a snapshot, and the store deletes none. A snapshot in
        a layer of the container's image stays too: its bytes would stay on the disk.

        Raises:
            StoreError: The disk refuses.
        """
        path = self._folders.snapshot(digest)
        with disk_errors(path):
            return self._evictor.evict(path)

    def check_writable(self) -> None:
        """Check that this user may write to the store.

        Raises:
            StoreError: The store is read-only, or the disk refuses.
        """
        self._folders.check_writable()

    def sweep(self) -> None:
        """Remove what dead processes left, and all but the newest snapshot in the quarantine."""
        self._evictor.sweep()

    @contextlib.contextmanager
    def lock(self, name: str, timeout_s: float) -> Iterator[None]:
        """Take turns with the other processes of this node; this saves double work and is never needed otherwise.

        The block runs without the turn after `timeout_s` seconds, some seconds after the holder stalled, where the file
        system has no locks, and in a read-only store.

        Args:
            name: Names the work.
            timeout_s: Longest wait in seconds.
        """
        if self.read_only:
            yield
            return
        with contextlib.suppress(OSError):
            make_private(self._folders.locks)
        with take_turn(self._folders.locks, name, timeout_s):
            yield
