"""Directories on object storage or on a mount: list, read ranges, create, replace, upload, delete.

`open_tree` chooses by the URL: any fsspec file system that is allowed and installed, or a mounted directory. Every
call has a deadline and is tried again where that may help. Every failure is a typed error that names the file.
"""

from __future__ import annotations

from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.handle import Kind, parse_handle
from hubdist.model.redact import redact_url
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, Tree
from hubdist.system.deadline import Deadlines

__all__ = ["MAX_OBJECT_BYTES", "StoredFile", "Tree", "open_tree"]


def open_tree(url: str, deadlines: Deadlines, *, max_bytes: int | None = None) -> Tree:
    """Open a directory by its URL.

    Args:
        url: On object storage (`gs://bucket/directory`, see `TREE_SCHEMES` in `model.handle`), a path or `file://` URL.
        deadlines: Timeouts and retries of each call.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.

    Raises:
        HandleError: The URL does not name a directory, or the package for its scheme is not installed here.
        AccessDeniedError, OriginError, TransferTimeoutError: The storage cannot be opened; see `RemoteTree`.
    """
    handle = parse_handle(url)
    if handle.kind is Kind.LOCAL:
        from hubdist.remote.mounted_tree import MountedTree

        return MountedTree(Path(handle.text))
    if handle.kind not in (Kind.TREE, Kind.ARCHIVE) or handle.scheme in ("http", "https", "hf"):
        raise HandleError(f"{redact_url(url)} is not a directory on storage")
    from hubdist.remote.fsspec_tree import RemoteTree

    return RemoteTree(handle, deadlines, max_bytes=max_bytes)
