"""What is in a store: each snapshot with its size, its last use, the handles that stand for it, and why it stays."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubdist.errors import HandleError, IntegrityError
from hubdist.model.manifest import Digest, Manifest
from hubdist.store.claims import is_claimed
from hubdist.store.folders import MANIFEST
from hubdist.store.holds import IN_USE
from hubdist.store.kept import kept_digests
from hubdist.store.pins import last_pins
from hubdist.store.store import Store
from hubdist.system.directories import children
from hubdist.system.locks import locked_files


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model, as a store or a shared cache has it.

    Attributes:
        digest: The model.
        handles: The handles that stood for it when they were last resolved here, without secrets; often none.
        size: Bytes of all files.
        files: How many files; 0 if the manifest cannot be read.
        used_at: When the model was used last, in seconds since 1970.
        kept: A person has told the store to keep it.
        in_use: A process that runs uses it, as far as this process can see.
    """

    digest: Digest
    handles: tuple[str, ...]
    size: int
    files: int
    used_at: float
    kept: bool = False
    in_use: bool = False

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "digest": str(self.digest),
            "handles": list(self.handles),
            "bytes": self.size,
            "files": self.files,
            "used_at": self.used_at,
            "kept": self.kept,
            "in_use": self.in_use,
        }


def list_models(store: Store) -> list[StoredModel]:
    """All snapshots of a store, also damaged ones; the one that was used last comes first.

    Nothing is opened, moved or checked.

    Args:
        store: The store.
    """
    named, kept, locked = handles_by_digest(store.root), kept_digests(store.root), locked_files()
    models = []
    for digest in snapshot_digests(store.root):
        path = store.root / "snapshots" / digest.value
        files, size = _size(path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # evicted meanwhile
            marker = _marker(path)
            in_use = (marker.st_dev, marker.st_ino) in locked or is_claimed(store.root, digest)
            models.append(
                StoredModel(digest, named.get(digest, ()), size, files, marker.st_mtime, digest in kept, in_use)
            )
    return sorted(models, key=lambda model: (-model.used_at, model.digest))


def snapshot_digests(root: Path) -> list[Digest]:
    """The digests of all directories that are, or should be, snapshots.

    Args:
        root: The store's root.
    """
    found = []
    for path in children(root / "snapshots"):
        with contextlib.suppress(HandleError):
            found.append(Digest.parse(f"sha256:{path.name}"))
    return sorted(found)


def handles_by_digest(root: Path) -> dict[Digest, tuple[str, ...]]:
    """Which handles stood for which digest when they were last resolved into a store.

    Only the store of a driver's node has such notes.

    Args:
        root: The store's root.
    """
    named: defaultdict[Digest, set[str]] = defaultdict(set)
    for path in children(last_pins(root)):
        if path.suffix == ".json":
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, HandleError):
                note = json.loads(path.read_bytes())
                named[Digest.parse(note["digest"])].add(str(note["handle"]))
    return {digest: tuple(sorted(handles)) for digest, handles in named.items()}


def _marker(path: Path) -> os.stat_result:
    """The status of a snapshot's marker of use; that of the directory if the marker is missing."""
    with contextlib.suppress(FileNotFoundError):
        return (path / IN_USE).lstat()
    return path.lstat()


def _size(path: Path) -> tuple[int, int]:
    """How many files, and how many bytes; without a readable manifest, what the disk says."""
    with contextlib.suppress(OSError, IntegrityError):
        manifest = Manifest.from_json((path / MANIFEST).read_bytes())
        return len(manifest.entries), manifest.total_bytes
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - os.walk gives texts
    return 0, size
