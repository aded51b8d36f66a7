"""A published snapshot: an object that keeps it in use and reads it, its directory, and the check that it is whole.

To find or evict a snapshot, a path is not enough: at the same path another snapshot may lie a moment later. So its
directory is known by a descriptor. A snapshot comes to its path whole, by one rename. Its content is removed through
the descriptor, and its path is freed by `rmdir`, which refuses a directory that has content. So a process that removes
an old snapshot never touches a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hubdist.errors import DigestMismatchError, IntegrityError
from hubdist.model.chunks import Chunk, chunk_of
from hubdist.model.manifest import Digest, EntryDigester, Manifest
from hubdist.model.savedmodel import check_checkpoint
from hubdist.store.folders import FILES, MANIFEST
from hubdist.store.holds import IN_USE, Hold, is_same
from hubdist.system.directories import empty_directory
from hubdist.system.disk import disk_errors, read_range

_VERIFY_BYTES = 1 << 20
_EVICTED = "evicted"
"""The name that the model's directory in a snapshot gets when the eviction begins."""

_LAST = (IN_USE, _EVICTED)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(eq=False)
class Snapshot:
    """The complete, verified, read-only directory of one model.

    The store does not evict the snapshot while this object lives, or until `release`.

    Attributes:
        path: The model's directory.
        manifest: The files in it.
    """

    path: Path
    manifest: Manifest
    _hold: Hold | None = None

    @property
    def root(self) -> Path:
        """The root of the store that the snapshot is in."""
        return self.path.parents[2]

    def read_chunk(self, chunk: Chunk, view: memoryview) -> None:
        """Read a chunk, and check it against the snapshot's own manifest.

        Args:
            chunk: Which bytes. Its digests are not used, since it may come from another process.
            view: The buffer for them, of the chunk's size.

        Raises:
            IntegrityError: The files are not what the manifest says.
            StoreError: The disk refuses.
        """
        for part in chunk_of(self.manifest, chunk.pieces, chunk.index).parts(view):
            path = self.manifest.entries[part.piece.entry_index].path
            with disk_errors(self.path / path):
                read_range(self.path / path, part.piece.start, part.data)
            part.check(path)

    def find_damage(self) -> DigestMismatchError | None:
        """Read every byte again; the error for the first file that differs from the manifest, or None.

        Raises:
            StoreError: The disk refuses.
        """
        for entry in self.manifest.entries:
            digester = EntryDigester(entry.path)
            with disk_errors(self.path / entry.path), (self.path / entry.path).open("rb") as file:
                while data := file.read(_VERIFY_BYTES):
                    digester.update(data)
            found = digester.entry()
            if found != entry:
                what = f"{entry.path} of {self.manifest.digest} is damaged"
                return DigestMismatchError(what, expected=str(entry.digest), actual=str(found.digest))
        return None

    def is_in(self, descriptor: int) -> bool:
        """True if this snapshot is the one in an open directory, and not another one of the same model."""
        if self._hold is None:
            return False
        try:
            marker = os.stat(IN_USE, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._hold.descriptor), marker)

    def release(self) -> None:
        """Stop using the snapshot; the store may evict it from now on."""
        if self._hold is not None:
            hold, self._hold = self._hold, None
            hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def check_snapshot(digest: Digest, directory: Path) -> Manifest:
    """Check names, kinds and sizes of a snapshot's files, and that its checkpoint is complete; return its manifest.

    Args:
        digest: The model that it must be.
        directory: The snapshot's directory.

    Raises:
        IntegrityError: The snapshot is not whole, or others own or may write to a part of it.
        OSError: The disk refuses.
    """
    _check_owner(directory, directory.lstat())
    _check_owner(directory / MANIFEST, (directory / MANIFEST).lstat())
    _check_owner(directory / FILES, (directory / FILES).lstat())
    manifest = Manifest.from_json((directory / MANIFEST).read_bytes())
    if manifest.digest != digest:
        raise DigestMismatchError("the manifest is another one", expected=str(digest), actual=str(manifest.digest))
    expected = {entry.path: entry.size for entry in manifest.entries}
    found = dict(_walk(directory / FILES, ""))
    for path in sorted(expected.keys() | found.keys()):
        if found.get(path) != expected.get(path):
            raise IntegrityError(f"{path} has {found.get(path, 'no file')} instead of {expected.get(path, 'no')} bytes")
    check_checkpoint(directory / FILES, expected)
    return manifest


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as items:
        for item in items:
            path = f"{prefix}{item.name}"
            _check_owner(Path(item.path), item.stat(follow_symlinks=False))
            if item.is_dir(follow_symlinks=False):
                yield from _walk(Path(item.path), f"{path}/")
            elif item.is_file(follow_symlinks=False):
                yield path, item.stat(follow_symlinks=False).st_size
            else:
                yield path, -1


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Refuse what another user may have put there while the store was open to others."""
    if status.st_uid not in (os.geteuid(), 0):
        raise IntegrityError(f"{path} belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode):
        raise IntegrityError(f"other users may write to {path}")


class SnapshotDirectory:
    """An open directory of a snapshot. Use it as a context manager, which closes the descriptor.

    Args:
        path: Where the directory is.

    Attributes:
        path: The same.
        descriptor: The open directory.

    Raises:
        FileNotFoundError: Nothing is at the path.
        NotADirectoryError: Something else is at the path, such as a link.
        OSError: The file system fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, _OPEN)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def is_there(self) -> bool:
        """True if this directory is still the one at its path."""
        return is_same(self.descriptor, self.path)

    def hold(self) -> Hold | None:
        """Keep other processes from evicting the snapshot; None if one is evicting it.

        Raises:
            OSError: The directory has no `in-use`, or the file system fails.
        """
        return Hold.take(self.path / IN_USE, folder=self.descriptor)

    def is_evicted(self) -> bool:
        """True if a process has begun to evict the snapshot; that process may have been stopped since."""
        try:
            os.stat(_EVICTED, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def begin_eviction(self) -> bool:
        """Begin to evict the snapshot; True for the first process that does. The caller has an exclusive lock.

        Raises:
            OSError: The file system refuses: with EXDEV if the directory is one of a layer of a container's image.
        """
        try:
            os.rename(FILES, _EVICTED, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_EVICTED, 0o700, dir_fd=self.descriptor)
                return True
            return False
        return True

    def clear(self, into: Path | None) -> int:
        """Take the directory's content away, then the directory, which frees its path.

        Args:
            into: Where to move the content; None to delete it.

        Returns:
            How many entries this call has moved or deleted; other processes may do the same at the same time.

        Raises:
            OSError: The disk refuses.
        """
        taken = empty_directory(self.descriptor, into, _LAST)
        if self.is_there():
            with contextlib.suppress(OSError):  # another process was faster, or something could not be deleted
                self.path.rmdir()
        return taken
