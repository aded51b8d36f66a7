"""Publication: turns a finished stage into a snapshot at its path, for `Store.publish`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hubdist.errors import StoreError
from hubdist.model.manifest import Manifest
from hubdist.store.folders import MANIFEST, StoreFolders
from hubdist.store.snapshot import check_snapshot
from hubdist.store.stage_directory import StageDirectory, sync_directories
from hubdist.system.disk import mode_below, sync_directory, write_durably


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
        _make_read_only(stage.files)
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


def _make_read_only(files: Path) -> None:
    for folder, _, names in os.walk(files, topdown=False):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)
