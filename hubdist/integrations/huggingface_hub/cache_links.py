"""huggingface_hub's cache of one repository, made of links into this node's store.

    <cache>/models--org--name/refs/main                  the commit
    <cache>/models--org--name/blobs/<sha256>             -> the file in a snapshot of the store
    <cache>/models--org--name/snapshots/<commit>/<path>  -> ../../blobs/<sha256>

Whatever reads that cache finds the files: `try_to_load_from_cache`, transformers offline, vLLM. The store may evict a
snapshot that no living process uses; then links lead nowhere, huggingface_hub takes their files for missing, and the
next call here makes them anew. So that this cannot happen to a path that a process got, each process holds the
snapshots that its paths lead to, also those that another process has linked. What huggingface_hub has downloaded itself
stays as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from hubdist.errors import HandleError
from hubdist.model.manifest import Digest, Entry
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import unique_name


class RepoCache:
    """One repository in huggingface_hub's cache.

    Args:
        cache_dir: The cache.
        kind: `model`, `dataset` or `space`.
        repo_id: The repository.
        hold: Keeps a snapshot of this node's store while this process lives; False if the store lacks it.
    """

    def __init__(self, cache_dir: Path, kind: str, repo_id: str, hold: Callable[[Digest], bool]) -> None:
        self._folder = cache_dir / "--".join([f"{kind}s", *repo_id.split("/")])
        self._hold = hold
        self._held: dict[Digest, bool] = {}

    def link(self, snapshot: Snapshot, commit: str) -> Path:
        """Link all files of a snapshot.

        Args:
            snapshot: The snapshot, which this process holds.
            commit: The commit whose files they are.

        Returns:
            The directory of the commit.

        Raises:
            OSError: The cache cannot be written.
        """
        self._held[snapshot.manifest.digest] = True
        folder = self._folder / "snapshots" / commit
        for entry in snapshot.manifest.entries:
            pointer = folder / entry.path
            if not self._leads_to_bytes(pointer, entry, snapshot):
                blob = self._folder / "blobs" / entry.digest.value
                if not self._leads_to_bytes(blob, entry, snapshot):
                    _replace(blob, snapshot.path / entry.path)
                _replace(pointer, Path(os.path.relpath(blob, pointer.parent)))
        return folder

    def note_revision(self, revision: str, commit: str) -> None:
        """Note which commit a branch or tag is.

        Args:
            revision: The branch or tag; nothing is noted for the commit itself.
            commit: The commit.

        Raises:
            OSError: The cache cannot be written.
        """
        if revision == commit:
            return
        ref = self._folder / "refs" / revision
        with contextlib.suppress(OSError):
            if ref.read_text(encoding="utf-8") == commit:
                return
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{unique_name()}")
        new.write_text(commit, encoding="utf-8")
        new.replace(ref)

    def _leads_to_bytes(self, path: Path, entry: Entry, snapshot: Snapshot) -> bool:
        """True if a path leads to the file's bytes, in a snapshot that stays, or outside of this store."""
        with contextlib.suppress(OSError):
            target = path.resolve()
            if target.stat().st_size == entry.size:
                digest = _snapshot_of(target, snapshot.root)
                return digest is None or self._holds(digest)
        return False

    def _holds(self, digest: Digest) -> bool:
        if digest not in self._held:
            self._held[digest] = self._hold(digest)
        return self._held[digest]


def _snapshot_of(target: Path, root: Path) -> Digest | None:
    """The digest of the snapshot that a file is in; None if it is in none of this store."""
    snapshots = root.resolve() / "snapshots"
    if not target.is_relative_to(snapshots):
        return None
    with contextlib.suppress(HandleError):
        return Digest.parse(f"sha256:{target.relative_to(snapshots).parts[0]}")
    return None


def _replace(link: Path, target: Path) -> None:
    """Make a link, in place of whatever was there, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{unique_name()}")
    new.symlink_to(target)
    new.replace(link)
