"""What all stages share: the directory in which files are written, and the step that makes it a snapshot.

Only its maker writes to a stage. Each file is made with O_EXCL and O_NOFOLLOW below the stage's directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.paths import check_entry_path
from hubdist.store.folders import FILES, MANIFEST, StoreFolders
from hubdist.store.holds import HeldDirectory
from hubdist.store.snapshot import check_snapshot
from hubdist.system.disk import NEW_FILE, disk_errors, mode_below, read_range, sync_directory, write_durably
from hubdist.system.portable import sync_file


class StageDirectory(HeldDirectory):
    """A fresh directory with the model's files below `files`.

    Use a stage as a context manager: it removes the directory in the end, unless the store has published the stage.

    Args:
        parent: The store's staging directory.
        folders: Names of the directories in it.

    Attributes:
        files: The directory of the model's files.
    """

    def __init__(self, parent: Path, *folders: str) -> None:
        super().__init__(parent, *folders)
        self.files = self.path / FILES

    def _create(self, target: Path) -> int:
        """Make a file and the directories above it."""
        self._make_parents(target)
        return os.open(target, NEW_FILE, 0o600)

    def _make_parents(self, target: Path) -> None:
        """Make the directories above a file, but not the stage itself: it may have been discarded or swept away."""
        for folder in reversed(target.relative_to(self.path).parents[:-1]):
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)


def check_whole(files: Path, manifest: Manifest) -> None:
    """Digest whole files and compare the digests with a manifest's.

    Args:
        files: The directory of the model's files.
        manifest: The model.

    Raises:
        DigestMismatchError: A file differs.
        StoreError: The disk refuses.
    """
    for entry in manifest.entries:
        with disk_errors(files / entry.path), (files / entry.path).open("rb") as file:
            found = Digest(hashlib.file_digest(file, entry.digest.algorithm).hexdigest())
        entry.check_whole(found)


def sync_files(files: Path, manifest: Manifest) -> None:
    """Make a model's files durable.

    Args:
        files: The directory of the model's files.
        manifest: Which files to look for.

    Raises:
        StoreError: The disk refuses.
    """
    with disk_errors(files):
        for entry in manifest.entries:
            descriptor = os.open(files / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                sync_file(descriptor)
            finally:
                os.close(descriptor)


def sync_directories(root: Path) -> None:
    """Make the names in a directory, and in every directory below it, durable."""
    for folder, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(folder))


def write_all(descriptor: int, view: memoryview, offset: int | None) -> None:
    """Write all bytes to an open file.

    Args:
        descriptor: The file.
        view: The bytes.
        offset: Where they go; None for the file's own position.

    Raises:
        OSError: The disk refuses.
    """
    while len(view) > 0:
        written = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        view = view[written:]
        if offset is not None:
            offset += written


def complete_stage(stage: StageDirectory, manifest: Manifest, root: Path) -> None:
    """Give a stage all that a snapshot has, read-only and durable.

    Args:
        stage: The finished stage.
        manifest: What the stage holds.
        root: The store's root, whose mode decides whether others may read the snapshot.

    Raises:
        StoreError: Somebody removed files from the stage.
        OSError: The disk refuses.
    """
    try:
        mode = mode_below(root)
        write_durably(stage.path / MANIFEST, manifest.to_json(), "new", mode=mode & 0o644)
        make_read_only(stage.files)
        stage.path.chmod(mode)
        sync_directories(stage.path)
        check_snapshot(manifest.digest, stage.path)
        is_whole = stage.is_whole()
    except FileNotFoundError:
        is_whole = False
    if not is_whole:
        raise StoreError(
            f"files of the model were removed from {stage.path} while it was written",
            path=str(stage.path),
            advice="Load it again, and keep whatever clears that directory away from it.",
        )


def move_to_path(stage: StageDirectory, path: Path, folders: StoreFolders) -> bool:
    """Move a complete stage to a snapshot's path by one rename; False if something is at the path.

    The lock that the maker of the stage holds goes along, so the snapshot is never without a user's lock.

    Args:
        stage: The complete stage.
        path: The snapshot's directory.
        folders: The store's directories, which are made again if somebody has removed them.

    Raises:
        OSError: The disk refuses.
    """
    stage.touch()
    try:
        stage.path.rename(path)
    except OSError as error:
        if error.errno == errno.ENOENT and stage.is_whole():
            folders.make()
            return False
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    sync_directory(folders.snapshots)
    return True


def make_read_only(files: Path) -> None:
    """Take the right to write from all files in a directory, and from the directory.

    Raises:
        OSError: The disk refuses.
    """
    for folder, _, names in os.walk(files, topdown=False):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)


def read_pieces(root: Path, paths: Sequence[str], chunk: Chunk, buffer: memoryview) -> None:
    """Read a chunk from files. The caller checks the bytes.

    Args:
        root: The directory of the files.
        paths: The file of each piece, below `root`.
        chunk: Which bytes.
        buffer: Where they go; of the chunk's size.

    Raises:
        IntegrityError: A file is gone or too short.
        StoreError: The disk refuses.
    """
    for path, part in zip(paths, chunk.parts(buffer), strict=True):
        target = root / check_entry_path(path)
        with disk_errors(target):
            read_range(target, part.piece.start, part.data)
