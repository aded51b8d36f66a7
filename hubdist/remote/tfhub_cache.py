"""Models that TensorFlow Hub itself has cached, on the driver's disk or in a directory on storage, by one rule.

TensorFlow Hub keeps a model in `<cache>/<sha1 of the handle as written>/`, and takes every directory there for a hit
that is not empty. It publishes file by file where a rename is not atomic, and holds `<sha1>.lock` meanwhile. Downloads
that were cut off leave directories that look like hits. So here a copy counts only if it is complete: no lock is
there, nothing changes, and the model names no file that is missing.

Source: tensorflow_hub 0.16.1, `resolver.py` (atomic_download) and `compressed_module_resolver.py`.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from hubdist.errors import HubdistError, IntegrityError
from hubdist.model.handle import Handle, Kind
from hubdist.model.savedmodel import ModelKind, check_variables, model_kind
from hubdist.remote.mounted_tree import MountedTree
from hubdist.remote.snapshot_copy import RemoteCopy, find_difference
from hubdist.remote.tree import StoredFile, Tree
from hubdist.system.ownership import check_private

_LOG = logging.getLogger(__name__)


def find_on_storage(handle: Handle, tree: Tree, url: str) -> RemoteCopy | None:
    """The complete copy of a handle in a directory on storage, or None. Nobody has digested the copy.

    Args:
        handle: Any handle; only those of hubs and archives over HTTP can be there.
        tree: The directory.
        url: The directory's URL.

    Raises:
        ResolveError, TransferError: The directory cannot be read.
    """
    for folder in _folders(handle):
        try:
            files = tree.listing(folder)
            if not files:
                continue
            _check_complete(tree, folder, files)
        except IntegrityError as error:
            _LOG.warning("hubdist: %s is not used: %s", tree.url(folder), error)
            continue
        return RemoteCopy(f"{url}/{folder}", files)
    return None


def find_on_disk(handle: Handle, cache_dir: Path) -> Path | None:
    """The complete copy of a handle in a cache on this machine, or None.

    A cache that another user owns or may write to is left alone, with a warning, because models are programs.

    Args:
        handle: Any handle; only those of hubs and archives over HTTP can be there.
        cache_dir: The cache.
    """
    with MountedTree(cache_dir) as tree:
        for folder in _folders(handle):
            try:
                files = tree.listing(folder)
                if not files:
                    continue
                check_private(cache_dir)
                check_private(cache_dir / folder)
                _check_complete(tree, folder, files)
            except (HubdistError, OSError) as error:
                _LOG.warning("hubdist: %s is not used: %s", tree.url(folder), error)
                continue
            return cache_dir / folder
    return None


def _folders(handle: Handle) -> Iterator[str]:
    """The names of the folders that may hold a handle, which users write with or without a slash at its end."""
    if handle.kind in (Kind.HUB, Kind.ARCHIVE) and handle.scheme in ("http", "https"):
        for written in (handle.text, f"{handle.text}/"):
            yield hashlib.sha1(written.encode(), usedforsecurity=False).hexdigest()


def _check_complete(tree: Tree, folder: str, files: Mapping[str, StoredFile]) -> None:
    if model_kind(files.keys()) is ModelKind.OTHER:
        raise IntegrityError("it holds no complete model")

    def open_file(path: str) -> io.BytesIO:
        return io.BytesIO(tree.read(f"{folder}/{path}", 0, files[path].size, files[path].version))

    check_variables(open_file, files.keys())
    if tree.load(f"{folder}.lock") is not None:
        raise IntegrityError("TensorFlow Hub is writing to it, or was stopped: its lock is there")
    if find_difference(files, tree.listing(folder)) is not None:
        raise IntegrityError("it changes")
