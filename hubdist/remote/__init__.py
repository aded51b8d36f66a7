"""Directories on object storage or on a mount: list, read ranges, create, replace, upload, delete.

`open_tree` chooses by the URL: any fsspec file system that is allowed and installed, or a mounted directory. Every
call has a deadline and is tried again where that may help; what fails is a typed error that names the object.
"""

from __future__ import annotations

from pathlib import Path

from hubdist.config.schema import Config
from hubdist.errors import HandleError
from hubdist.model.handle import Kind, parse_handle
from hubdist.model.redact import redact_url
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, Tree

__all__ = ["MAX_OBJECT_BYTES", "StoredFile", "Tree", "open_tree"]


def open_tree(url: str, config: Config) -> Tree:
    """A directory by its URL.

    Args:
        url: On object storage (`gs://bucket/directory`, see `TREE_SCHEMES` in `model.handle`), a path or `file://` URL.
        config: Deadlines and retries.

    Raises:
        HandleError: It names no directory, or the package for its scheme is not installed here.
    """
    handle = parse_handle(url)
    if handle.kind is Kind.LOCAL:
        from hubdist.remote.mounted_tree import MountedTree

        return MountedTree(Path(handle.text))
    if handle.kind not in (Kind.TREE, Kind.ARCHIVE) or handle.scheme in ("http", "https"):
        raise HandleError(f"{redact_url(url)} is no directory on storage")
    from hubdist.remote.fsspec_tree import RemoteTree

    return RemoteTree(handle, config)
