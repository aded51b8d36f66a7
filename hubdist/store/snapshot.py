"""A published snapshot: reading it, and checking that it is whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hubdist.errors import DigestMismatchError, IntegrityError
from hubdist.model.manifest import Chunk, Digest, Manifest
from hubdist.model.savedmodel import check_checkpoint
from hubdist.store.holds import IN_USE, Hold
from hubdist.system.disk import disk_errors, read_range

FILES = "files"
"""Name of the model's directory inside a stage and a snapshot; the manifest lies beside it."""

MANIFEST = "manifest.json"
"""Name of the manifest inside a snapshot, beside the model's directory."""


@dataclass(eq=False)
class Snapshot:
    """One manifest's complete, verified, read-only directory.

    While this object lives, or until `release`, its process is noted as a user and the snapshot is not evicted.

    Attributes:
        path: The model's directory.
        manifest: What is in it.
    """

    path: Path
    manifest: Manifest
    _hold: Hold | None = None

    @property
    def root(self) -> Path:
        """The store that it is in."""
        return self.path.parents[2]

    def read_chunk(self, chunk: Chunk, view: memoryview) -> None:
        """Read a chunk into a buffer of its size, and check it.

        Raises:
            IntegrityError: The files are not what the manifest says.
            StoreError: The disk refuses.
        """
        at = 0
        for piece in chunk.pieces:
            entry = self.manifest.entries[piece.entry_index]
            part = view[at : at + piece.end - piece.start]
            with disk_errors(self.path / entry.path):
                read_range(self.path / entry.path, piece.start, part)
            entry.check_range(piece.start, part)
            at += len(part)

    def is_in(self, handle: int) -> bool:
        """True if this is the snapshot in an open directory, and not another one of the same bytes."""
        if self._hold is None:
            return False
        try:
            marker = os.stat(IN_USE, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(self._hold.descriptor), marker)

    def release(self) -> None:
        """Stop using the snapshot."""
        if self._hold is not None:
            hold, self._hold = self._hold, None
            hold.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def check_snapshot(digest: Digest, home: Path) -> Manifest:
    """Check a published snapshot's names and sizes, and its checkpoint's completeness; return its manifest.

    Raises:
        IntegrityError: It is not whole, or others own or may write to a part of it.
        OSError: The disk refuses.
    """
    _check_owner(home, home.lstat())
    _check_owner(home / MANIFEST, (home / MANIFEST).lstat())
    _check_owner(home / FILES, (home / FILES).lstat())
    manifest = Manifest.from_json((home / MANIFEST).read_bytes())
    if manifest.digest != digest:
        raise DigestMismatchError("the manifest is another one", expected=str(digest), actual=str(manifest.digest))
    expected = {entry.path: entry.size for entry in manifest.entries}
    found = dict(_walk(home / FILES, ""))
    for path in sorted(expected.keys() | found.keys()):
        if found.get(path) != expected.get(path):
            raise IntegrityError(f"{path} has {found.get(path, 'no file')} instead of {expected.get(path, 'no')} bytes")
    check_checkpoint(home / FILES, expected)
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
    """What another user has put there, while the store was open to others, is not what was published."""
    if status.st_uid not in (os.geteuid(), 0):
        raise IntegrityError(f"{path} belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode):
        raise IntegrityError(f"other users may write to {path}")
