"""Kept snapshots: those that a person has told the store never to evict.

    <root>/kept/<digest>    empty: the snapshot is kept

The mark lies in the store, so it holds for every process, and outlives all of them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.manifest import Digest
from hubdist.system.directories import children, make_private
from hubdist.system.disk import sync_directory


def keep(root: Path, digest: Digest) -> None:
    """Keep a snapshot until `release`.

    Args:
        root: The store's root.
        digest: The snapshot, which the caller has open, so that nobody evicts it meanwhile.

    Raises:
        OSError: The disk refuses.
    """
    folder = _folder(root)
    make_private(folder)
    os.close(os.open(folder / digest.value, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    sync_directory(folder)


def release(root: Path, digest: Digest) -> bool:
    """Let the store evict a snapshot again; False if it was not kept.

    Args:
        root: The store's root.
        digest: The snapshot.

    Raises:
        OSError: The disk refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        (_folder(root) / digest.value).unlink()
        return True
    return False


def is_kept(root: Path, digest: Digest) -> bool:
    """True if a snapshot is kept.

    Args:
        root: The store's root.
        digest: The snapshot.
    """
    return os.path.lexists(_folder(root) / digest.value)


def kept_digests(root: Path) -> frozenset[Digest]:
    """All digests that are kept in the store with this root."""
    found = set()
    for path in children(_folder(root)):
        with contextlib.suppress(HandleError):
            found.add(Digest.parse(f"sha256:{path.name}"))
    return frozenset(found)


def _folder(root: Path) -> Path:
    return root / "kept"
