"""A node's store: a directory of published snapshots.

    <root>/snapshots/<digest>/files/...       the model, read-only: what TensorFlow opens
    <root>/snapshots/<digest>/manifest.json   beside the model's directory, never in it
    <root>/snapshots/<digest>/in-use          processes that use the snapshot hold a shared flock on it
    <root>/staging/<unique>/                  being written; its maker holds a shared flock on `in-use` in it
    <root>/quarantine/<unique>/               damaged, kept for a look; the next sweep deletes all but the newest
    <root>/locks/, <root>/pins/               see `Store.lock` and `hubdist.store.pins`
    <root>/nonces/, <root>/claims/            see `hubdist.store.nonces` and `hubdist.store.claims`

Rules for all processes and threads. A snapshot appears whole, by one rename of a directory, or not at all; it is taken
away as `homes` says. Two writers of one snapshot are harmless: one rename wins, the other discards. Nothing is removed
that somebody holds, see `holds`; where a file system has no locks, no snapshot is evicted. What is missing, because
somebody cleared the directory, is made again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hubdist.errors import (
    DigestMismatchError,
    HubdistError,
    IntegrityError,
    StoreError,
    StoreFullError,
    UnsafeStoreError,
)
from hubdist.model.manifest import BLOCK_BYTES, Digest, EntryDigester, Manifest, ProvenChunk
from hubdist.model.savedmodel import check_checkpoint
from hubdist.store.chunk_stage import ChunkStage, FilledStage
from hubdist.store.eviction import Eviction, Removal, ReplacedError
from hubdist.store.holds import IN_USE
from hubdist.store.snapshot import FILES, MANIFEST, Snapshot, check_snapshot
from hubdist.store.snapshot_directory import Home
from hubdist.store.stage import StreamStage, sync_directories
from hubdist.store.turns import take_turn
from hubdist.system.disk import (
    children,
    disk_errors,
    free_bytes,
    make_private,
    mode_below,
    sync_directory,
    write_durably,
)
from hubdist.system.ownership import check_folder, make_root, place_for_store

_LOG = logging.getLogger(__name__)
_ROUNDS = 100
"""How often one looks again when what one looked at was replaced meanwhile; each time, somebody else got on."""

_PAUSE_S = 0.001
"""Seconds by which each pause between two tries to publish is longer than the one before."""

_NO_MARKER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Why a store may be unable to make its folders; it serves what it has all the same."""


class Store:
    """The snapshots of one node; any number of processes and threads may use one root at the same time.

    Args:
        configured: The directory; made with mode 0700 if it is missing. If others own it or may write to it, the
            store is a directory in it that is this user's alone; see `ownership.find_root`.
        max_bytes: Most bytes of snapshots to keep: after a publish the least recently used ones that nobody uses are
            evicted. None keeps everything.

    Attributes:
        configured: The directory that was configured.
        root: The directory of the store: that one, or one in it.
        read_only: This user may not write to it; it serves what it has.

    Raises:
        UnsafeStoreError: Another user owns the store or may write to it.
        StoreError: It cannot be made or read.
    """

    def __init__(self, configured: Path, *, max_bytes: int | None = None) -> None:
        self.configured = configured
        self.root = root = make_root(configured)
        self._max_bytes = max_bytes
        self._unwritable: OSError | None = None
        self._snapshots = root / "snapshots"
        self._staging = root / "staging"
        self._quarantine = root / "quarantine"
        self._locks = root / "locks"
        self._removal = Removal(root)
        with disk_errors(root):
            try:
                self._make_folders()
                self.read_only = not os.access(root, os.W_OK)
            except StoreError:
                raise  # somebody has put another directory at the root's place
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
                self.read_only = True
                self._unwritable = error
            self._check_folders(root)
            for folder in self._folders():
                with contextlib.suppress(FileNotFoundError):  # another process has just removed old pins
                    self._check_folders(folder)

    def find(self, digest: Digest) -> Snapshot | None:
        """The published snapshot, checked for completeness, or None. A damaged one is quarantined.

        Checked are the manifest's own digest, every file's name, kind and size, and that the SavedModel's index of
        variables names only files that exist. `verify` re-reads the bytes as well. If somebody else has put a directory
        in the store's place, or may write to it by now, nothing is found; whoever then writes gets the error.
        """
        path = self._home(digest)
        with disk_errors(self.root):
            try:
                self._check_folders(self.root, self._snapshots)
            except (UnsafeStoreError, FileNotFoundError):
                return None
        with disk_errors(path):
            for _ in range(_ROUNDS):
                try:
                    with Home(path) as home:
                        return self._look_at(home, digest)
                except ReplacedError:
                    continue
                except FileNotFoundError:
                    return None
                except NotADirectoryError:
                    self._removal.put_stray_aside(path)
                    return None
        return None

    def _look_at(self, home: Home, digest: Digest) -> Snapshot | None:
        """The snapshot in an open directory; None if it is damaged, which is put aside, or is being evicted."""
        try:
            hold = home.hold()
        except OSError as error:
            if error.errno == errno.EACCES and self.read_only:
                return self._find_of_root(digest)
            if error.errno not in _NO_MARKER:
                raise
            self._removal.put_aside(home, "its marker of use is missing")
            return None
        if hold is None:
            return None
        with contextlib.ExitStack() as unless_found:
            unless_found.callback(hold.release)
            try:
                manifest = check_snapshot(digest, home.path)
            except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
                self._removal.put_aside(home, str(error))
                return None
            if not home.is_there():
                raise ReplacedError
            unless_found.pop_all()
        hold.touch()
        return Snapshot(home.path / FILES, manifest, hold)

    def _find_of_root(self, digest: Digest) -> Snapshot | None:
        """As `find`, in a store that root has filled for all: others can read it, and hold no lock in it."""
        home = self._home(digest)
        with disk_errors(home):
            try:
                return Snapshot(home / FILES, check_snapshot(digest, home))
            except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
                _LOG.warning("hubdist: snapshot %s in %s is damaged: %s", digest, self.root, error)
                return None

    def stage(
        self, *, watch: Callable[[ProvenChunk], None] | None = None, chunk_bytes: int = BLOCK_BYTES
    ) -> StreamStage:
        """A stage for files from an origin; use as a context manager. For the arguments see `StreamStage`."""
        self._check_writable()
        self.sweep()
        return StreamStage(self._staging, max_bytes=self._max_bytes, watch=watch, chunk_bytes=chunk_bytes)

    def staged_files(self, name: str) -> Path:
        """The directory of the files of a running stage.

        Raises:
            IntegrityError: The name is none of a stage.
        """
        if not name or name != Path(name).name or name.startswith("."):
            raise IntegrityError(f"{name!r} is no name of a stage")
        return self._staging / name / FILES

    def stage_growing(self, expected_bytes: int | None) -> ChunkStage:
        """A stage for chunks of a model whose manifest comes later; use as a context manager.

        Args:
            expected_bytes: Bytes of the model; None if they are not known.

        Raises:
            StoreFullError: The disk, or `max_bytes`, has no room for it.
        """
        self._check_writable()
        self.sweep()
        if expected_bytes is not None:
            self._make_room(expected_bytes)
        return ChunkStage(self._staging, expected_bytes=expected_bytes, max_bytes=self._max_bytes)

    def stage_manifest(self, manifest: Manifest, *, unproven: bool = False) -> FilledStage:
        """A stage for the chunks of a known manifest; use as a context manager.

        Args:
            manifest: What will be there.
            unproven: See `FilledStage`.

        Raises:
            StoreFullError: The disk, or `max_bytes`, has no room for it.
        """
        self._check_writable()
        self.sweep()
        self._make_room(manifest.total_bytes)
        return FilledStage(self._staging, manifest, unproven=unproven)

    def publish(self, stage: StreamStage | ChunkStage) -> Snapshot:
        """Move a stage to its place under its digest. If another process was faster, its snapshot is returned.

        Raises:
            IntegrityError: The staged model is incomplete by its own index.
            StoreError: The disk refuses; nothing is published.
        """
        manifest = stage.finish()
        home = self._home(manifest.digest)
        with disk_errors(home, need_bytes=manifest.total_bytes):
            check_checkpoint(stage.files, [entry.path for entry in manifest.entries])
            self._complete(stage, manifest)
        for waited in range(_ROUNDS):
            with disk_errors(home):
                if self._appear(stage, home):
                    snapshot: Snapshot | None = Snapshot(home / FILES, manifest, stage.hand_over())
                else:  # another one was there before, unless it was damaged or is evicted meanwhile
                    snapshot = self.find(manifest.digest)
            if snapshot is not None:
                if self._max_bytes is not None:
                    self._evict_to(self._max_bytes, keep=manifest.digest)
                return snapshot
            with disk_errors(home):
                self._removal.finish_eviction(home)
            time.sleep(waited * _PAUSE_S)
        raise StoreError(
            f"something lies where the snapshot {manifest.digest} belongs, and cannot be taken away",
            path=str(home),
            advice="Remove it.",
        )

    def _complete(self, stage: StreamStage | ChunkStage, manifest: Manifest) -> None:
        """Make a stage what a snapshot is, and durable."""
        try:
            mode = mode_below(self.root)
            write_durably(stage.path / MANIFEST, manifest.to_json(), "new", mode=mode & 0o644)
            _make_read_only(stage.files)
            stage.path.chmod(mode)
            sync_directories(stage.path)
            check_snapshot(manifest.digest, stage.path)
            whole = stage.is_whole()
        except FileNotFoundError:
            whole = False
        if not whole:
            raise StoreError(
                f"files of the model were removed from {stage.path} while it was written",
                path=str(stage.path),
                advice="Load it again, and keep whatever clears that directory away from it.",
            )

    def _appear(self, stage: StreamStage | ChunkStage, home: Path) -> bool:
        """Give a complete stage its place by one rename; False if something is there.

        The lock that its maker has on it is the lock of one who uses the snapshot, so it is never without.
        """
        stage.touch()
        try:
            stage.path.rename(home)
        except OSError as error:
            if error.errno == errno.ENOENT and stage.is_whole():
                self._make_folders()
                return False
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            return False
        sync_directory(self._snapshots)
        return True

    def refresh(self) -> None:
        """Let a network file system ask its server which snapshots there are: a miss may be a memory of this node."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def verify(self, digest: Digest) -> None:
        """Re-read every byte of a snapshot; quarantine it if anything differs.

        Raises:
            IntegrityError: The snapshot is missing or damaged.
        """
        snapshot = self.find(digest)
        if snapshot is None:
            raise IntegrityError(f"there is no complete snapshot {digest} in {self.root}")
        with snapshot:
            for entry in snapshot.manifest.entries:
                digester = EntryDigester(entry.path)
                with disk_errors(snapshot.path / entry.path), (snapshot.path / entry.path).open("rb") as file:
                    while data := file.read(1 << 20):
                        digester.update(data)
                found = digester.entry()
                if found != entry:
                    self._removal.put_found_aside(snapshot, f"{entry.path} is damaged")
                    raise DigestMismatchError(
                        f"{entry.path} of {digest} is damaged", expected=str(entry.digest), actual=str(found.digest)
                    )

    def digests(self) -> list[Digest]:
        """The digests of all published snapshots, least recently used first."""
        found: list[tuple[float, Digest]] = []
        with disk_errors(self._snapshots), contextlib.suppress(FileNotFoundError):
            for home in self._snapshots.iterdir():
                with contextlib.suppress(OSError, HubdistError):
                    found.append(((home / IN_USE).stat().st_mtime, Digest.parse(f"sha256:{home.name}")))
        return [digest for _, digest in sorted(found)]

    def evict(self, digest: Digest) -> bool:
        """Delete a snapshot that no process uses; True if it was deleted.

        Where the file system has no locks nobody knows who uses a snapshot, and none is deleted; nor is one that lies
        in a layer of the container's image, where it would stay on the disk.
        """
        path = self._home(digest)
        with disk_errors(path):
            return self._removal.evict(path) is Eviction.DONE

    def sweep(self) -> None:
        """Remove what dead processes left, and all but the newest quarantined snapshot."""
        self._removal.sweep()

    @contextlib.contextmanager
    def lock(self, name: str, timeout_s: float) -> Iterator[None]:
        """Hold a lock among the processes of this node, to save double work; never needed for right results.

        After `timeout_s` seconds without it, some seconds after its holder was stopped, or where the file system has
        no locks, the block runs all the same.
        """
        if self.read_only:
            yield
            return
        with contextlib.suppress(OSError):
            make_private(self._locks)
        with take_turn(self._locks, name, timeout_s):
            yield

    def _home(self, digest: Digest) -> Path:
        return self._snapshots / digest.value

    def _make_folders(self) -> None:
        """Make what is missing of the store; another one at its place is never made or taken."""
        if not self.root.exists():
            make_root(self.root)
        mode = mode_below(self.root)
        for folder in (self._snapshots, self._staging, self._quarantine, self._locks, self.root / "pins"):
            folder.mkdir(mode=mode, exist_ok=True)

    def _folders(self) -> Iterator[Path]:
        """The directories of the store that are there; snapshots and stages are looked at when they are used."""
        for name in ("snapshots", "staging", "quarantine", "locks", "pins"):
            if os.path.lexists(self.root / name):
                yield self.root / name
        yield from (path for path in (self.root / "nonces", *children(self.root / "pins")) if path.is_dir())

    def _check_folders(self, *folders: Path) -> None:
        for folder in folders:
            check_folder(folder, self.root)

    def _check_writable(self) -> None:
        if self._unwritable is not None and self._unwritable.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            with disk_errors(self.root):
                raise self._unwritable
        if self.read_only:
            raise StoreError(
                f"the store {self.root} is read-only and lacks this model",
                path=str(self.root),
                advice=f"Set store (HUBDIST_STORE) to {place_for_store()}, or fill this one beforehand.",
            )
        with disk_errors(self.root):
            self._make_folders()
            self._check_folders(self.root, self._snapshots, self._staging)

    def _make_room(self, total_bytes: int) -> None:
        """Evict what has to go for a model of this size."""
        if self._max_bytes is not None:
            if total_bytes > self._max_bytes:
                raise StoreFullError(
                    f"the model has {total_bytes} bytes, max_store_bytes allows {self._max_bytes} at {self.root}",
                    path=str(self.root),
                    need_bytes=total_bytes,
                    free_bytes=self._max_bytes,
                    advice="Raise max_store_bytes.",
                )
            self._evict_to(self._max_bytes - total_bytes)
        room = free_bytes(self._staging)
        if total_bytes > room:
            raise StoreFullError(
                f"the model has {total_bytes} bytes, the disk at {self.root} has {room} free",
                path=str(self.root),
                need_bytes=total_bytes,
                free_bytes=room,
                advice="Free space, lower max_store_bytes or set store to another disk.",
            )

    def _evict_to(self, max_bytes: int, keep: Digest | None = None) -> None:
        """Evict least recently used snapshots until at most `max_bytes` remain or all that remain are in use."""
        sizes = {digest: _size(self._home(digest)) for digest in self.digests()}
        total = sum(sizes.values())
        for digest, size in sizes.items():
            if total <= max(0, max_bytes):
                return
            try:
                with disk_errors(self._home(digest)):
                    if digest != keep and self._removal.evict(self._home(digest)) is not Eviction.NO:
                        total -= size
            except StoreError as error:  # no reason why another model could not be loaded
                _LOG.warning("hubdist: snapshot %s in %s cannot be evicted: %s", digest, self.root, error)


def _size(home: Path) -> int:
    try:
        return Manifest.from_json((home / MANIFEST).read_bytes()).total_bytes
    except (OSError, IntegrityError):
        return 0


def _make_read_only(files: Path) -> None:
    for folder, _, names in os.walk(files, topdown=False):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)
