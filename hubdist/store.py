"""A node's store: a directory of published snapshots.

    <root>/snapshots/<digest>/files/...       the model, read-only: what TensorFlow opens
    <root>/snapshots/<digest>/manifest.json   beside the model's directory, never in it
    <root>/snapshots/<digest>/in-use          processes that use the snapshot hold a shared flock on it
    <root>/staging/<unique>/                  being written
    <root>/quarantine/<unique>/               damaged, kept for a look; the next sweep deletes all but the newest
    <root>/locks/, <root>/pins/               see `Store.lock` and `hubdist.pins`
    <root>/nonces/, <root>/claims/             see `hubdist.nonces` and `hubdist.claims`

Rule for all processes and threads: a snapshot appears whole, by one rename of a directory, or not at all. Two writers
of one snapshot are harmless: one rename wins, the other discards. Locks only save double work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from hubdist.claims import is_claimed, sweep_claims
from hubdist.disk import disk_errors, free_bytes, mode_below, remove_tree, sync_directory, write_durably
from hubdist.errors import (
    DigestMismatchError,
    HubdistError,
    IntegrityError,
    StoreError,
    StoreFullError,
    UnsafeStoreError,
)
from hubdist.growing import FilledStage, GrowingStage
from hubdist.makers import maker_is_dead, unique_name
from hubdist.manifest import BLOCK_BYTES, Digest, EntryDigester, Manifest, ProvenChunk
from hubdist.ownership import check_folder, make_root, place_for_store
from hubdist.savedmodel import check_checkpoint
from hubdist.snapshot import FILES, MANIFEST, Snapshot, check_snapshot
from hubdist.staging import Stage, sync_directories

_LOG = logging.getLogger(__name__)
_IN_USE = "in-use"
_LOCK_POLL_S = 0.01
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Why a store may be unable to make its folders; it serves what it has all the same."""

_OLD_STAGE_S = 24 * 3600.0
"""Age after which a stage is removed although its maker, on another machine, cannot be asked."""


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
        self._folders = (root, self._snapshots, self._staging, self._quarantine, self._locks, root / "pins")
        with disk_errors(root):
            try:
                for folder in self._folders[1:]:
                    folder.mkdir(mode=mode_below(root), exist_ok=True)
                self.read_only = not os.access(root, os.W_OK)
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
                self.read_only = True
                self._unwritable = error
            self._check_folders(*(folder for folder in self._folders if folder.exists()))

    def find(self, digest: Digest) -> Snapshot | None:
        """The published snapshot, checked for completeness, or None. A damaged one is quarantined.

        Checked are the manifest's own digest, every file's name, kind and size, and that the SavedModel's index of
        variables names only files that exist. `verify` re-reads the bytes as well. If somebody else has put a directory
        in the store's place, or may write to it by now, nothing is found; whoever then writes gets the error.
        """
        home = self._home(digest)
        with disk_errors(self.root):
            try:
                self._check_folders(self.root, self._snapshots)
            except (UnsafeStoreError, FileNotFoundError):
                return None
        try:
            in_use = os.open(home / _IN_USE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EACCES and self.read_only:
                return self._find_of_root(digest)
            with disk_errors(home):
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                if os.path.lexists(home):
                    self.quarantine(digest, "its marker of use is missing")
            return None
        try:
            if not _take_lock(in_use, fcntl.LOCK_SH) or not _same_file(in_use, home / _IN_USE):  # it is being evicted
                os.close(in_use)
                return None
            manifest = check_snapshot(digest, home)
        except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
            if _same_file(in_use, home / _IN_USE):  # else another process has replaced it meanwhile
                self.quarantine(digest, str(error))
            os.close(in_use)
            return None
        except BaseException:
            os.close(in_use)
            with disk_errors(home):
                raise
        with contextlib.suppress(OSError):  # a read-only store has no order of use
            os.utime(home / _IN_USE)
        return Snapshot(home / FILES, manifest, in_use)

    def _find_of_root(self, digest: Digest) -> Snapshot | None:
        """As `find`, in a store that root has filled for all: others can read it, and hold no lock in it."""
        home = self._home(digest)
        with disk_errors(home):
            try:
                return Snapshot(home / FILES, check_snapshot(digest, home))
            except (IntegrityError, FileNotFoundError, NotADirectoryError) as error:
                _LOG.warning("hubdist: snapshot %s in %s is damaged: %s", digest, self.root, error)
                return None

    def stage(self, *, watch: Callable[[ProvenChunk], None] | None = None, chunk_bytes: int = BLOCK_BYTES) -> Stage:
        """A stage for files from an origin; use as a context manager. For the arguments see `Stage`."""
        self._check_writable()
        self.sweep()
        return Stage(self._staging, max_bytes=self._max_bytes, watch=watch, chunk_bytes=chunk_bytes)

    def staged_files(self, name: str) -> Path:
        """The directory of the files of a running stage.

        Raises:
            IntegrityError: The name is none of a stage.
        """
        if not name or name != Path(name).name or name.startswith("."):
            raise IntegrityError(f"{name!r} is no name of a stage")
        return self._staging / name / FILES

    def stage_growing(self, expected_bytes: int | None) -> GrowingStage:
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
        return GrowingStage(self._staging, expected_bytes=expected_bytes, max_bytes=self._max_bytes)

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

    def publish(self, stage: Stage | GrowingStage) -> Snapshot:
        """Move a stage to its place under its digest. If another process was faster, its snapshot is returned.

        Raises:
            IntegrityError: The staged model is incomplete by its own index.
            StoreError: The disk refuses; nothing is published.
        """
        manifest = stage.finish()
        home = self._home(manifest.digest)
        with disk_errors(home, need_bytes=manifest.total_bytes):
            check_checkpoint(stage.files, [entry.path for entry in manifest.entries])
            mode = mode_below(self.root)
            write_durably(stage.path / MANIFEST, manifest.to_json(), "new", mode=mode & 0o644)
            os.close(os.open(stage.path / _IN_USE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            _make_read_only(stage.files)
            stage.path.chmod(mode)
            sync_directories(stage.path)
        for _ in range(2):
            with disk_errors(home):
                try:
                    stage.path.rename(home)
                    sync_directory(self._snapshots)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
            # Ours or the one that was there before; a damaged one is moved aside and the second round publishes ours.
            snapshot = self.find(manifest.digest)
            if snapshot is not None:
                if self._max_bytes is not None:
                    self._evict_to(self._max_bytes, keep=manifest.digest)
                return snapshot
            self._finish_eviction(home)
        raise StoreError(f"the snapshot {manifest.digest} was damaged right after it was published", path=str(home))

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
                    self.quarantine(digest, f"{entry.path} is damaged")
                    raise DigestMismatchError(
                        f"{entry.path} of {digest} is damaged", expected=str(entry.digest), actual=str(found.digest)
                    )

    def digests(self) -> list[Digest]:
        """The digests of all published snapshots, least recently used first."""
        found: list[tuple[float, Digest]] = []
        with disk_errors(self._snapshots), contextlib.suppress(FileNotFoundError):
            for home in self._snapshots.iterdir():
                with contextlib.suppress(OSError, HubdistError):
                    found.append(((home / _IN_USE).stat().st_mtime, Digest.parse(f"sha256:{home.name}")))
        return [digest for _, digest in sorted(found)]

    def evict(self, digest: Digest) -> bool:
        """Delete a snapshot that no process uses; True if it was deleted."""
        home = self._home(digest)
        with disk_errors(home):
            try:
                in_use = os.open(home / _IN_USE, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                if not _take_lock(in_use, fcntl.LOCK_EX) or not _same_file(in_use, home / _IN_USE):
                    return False
                return not is_claimed(self.root, digest) and self._discard(home)
            finally:
                os.close(in_use)

    def quarantine(self, digest: Digest, reason: str) -> None:
        """Move a damaged snapshot aside, so that it is no hit any more."""
        try:
            aside = self._quarantine / unique_name()
            self._home(digest).rename(aside)
        except FileNotFoundError:
            return  # another process was faster
        except OSError as error:
            raise StoreError(
                f"the snapshot {digest} in {self.root} is damaged ({reason}) and cannot be moved aside",
                path=str(self._home(digest)),
                advice="Remove it, or set store to another directory.",
            ) from error
        _LOG.warning("hubdist: snapshot %s was damaged (%s); it is now %s", digest, reason, aside)

    def sweep(self) -> None:
        """Remove stages whose makers are dead and all but the newest quarantined snapshot."""
        for stage in self._list(self._staging):
            if maker_is_dead(stage.name) or _age_s(stage, self._staging) > _OLD_STAGE_S:
                remove_tree(stage)
        sweep_claims(self.root)
        for old in sorted(self._list(self._quarantine), key=lambda path: -_age_s(path, self._quarantine))[:-1]:
            remove_tree(old)

    @contextlib.contextmanager
    def lock(self, name: str, timeout_s: float) -> Iterator[None]:
        """Claims a lock among the processes of this node, to save double work; never needed for right results.

        After `timeout_s` seconds without it, or where the file system has no locks, the block runs all the same.
        """
        lock = filelock.FileLock(self._locks / f"{name}.lock", mode=0o600)
        held = False
        if not self.read_only:
            with contextlib.suppress(filelock.Timeout, OSError, NotImplementedError):
                lock.acquire(timeout=timeout_s, poll_interval=_LOCK_POLL_S)
                held = True
        try:
            yield
        finally:
            if held:
                lock.release()

    def _home(self, digest: Digest) -> Path:
        return self._snapshots / digest.value

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
            self._check_folders(self.root, self._snapshots, self._staging)

    def _make_room(self, total_bytes: int) -> None:
        """Evict what has to go for a model of this size."""
        if self._max_bytes is not None:
            if total_bytes > self._max_bytes:
                raise StoreFullError(
                    f"the model has {total_bytes} bytes, max_bytes allows {self._max_bytes} at {self.root}",
                    path=str(self.root),
                    need_bytes=total_bytes,
                    free_bytes=self._max_bytes,
                    advice="Raise max_bytes.",
                )
            self._evict_to(self._max_bytes - total_bytes)
        room = free_bytes(self._staging)
        if total_bytes > room:
            raise StoreFullError(
                f"the model has {total_bytes} bytes, the disk at {self.root} has {room} free",
                path=str(self.root),
                need_bytes=total_bytes,
                free_bytes=room,
                advice="Free space, lower max_bytes or set store to another disk.",
            )

    def _evict_to(self, max_bytes: int, keep: Digest | None = None) -> None:
        """Evict least recently used snapshots until at most `max_bytes` remain or all that remain are in use."""
        sizes = {digest: _size(self._home(digest)) for digest in self.digests()}
        total = sum(sizes.values())
        for digest, size in sizes.items():
            if total <= max(0, max_bytes):
                return
            if digest != keep and self.evict(digest):
                total -= size

    def _finish_eviction(self, home: Path) -> None:
        """Remove a snapshot that another process has begun to evict; that one may have been stopped."""
        with disk_errors(home), contextlib.suppress(FileNotFoundError), (home / _IN_USE).open("rb") as in_use:
            if not _take_lock(in_use.fileno(), fcntl.LOCK_SH):
                self._discard(home)

    def _discard(self, home: Path) -> bool:
        """Delete a snapshot; False if another process was faster."""
        doomed = self._staging / unique_name()
        try:
            home.rename(doomed)
        except FileNotFoundError:
            return False
        remove_tree(doomed)
        return True

    @staticmethod
    def _list(folder: Path) -> list[Path]:
        try:
            return list(folder.iterdir())
        except OSError:
            return []


def _take_lock(in_use: int, kind: int) -> bool:
    """Take a snapshot's lock, shared to use it or exclusive to evict it; False if somebody holds the other kind."""
    try:
        fcntl.flock(in_use, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system: snapshots are just not protected from evict
        return True
    return True


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


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


def _age_s(path: Path, folder: Path) -> float:
    """Seconds between the last change of a folder's entry and of the folder itself: both by the same clock."""
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime - path.stat().st_mtime
    return 0.0
