"""Bring a folder on storage to hold exactly a snapshot's files."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hubdist.config.schema import Config
from hubdist.errors import DigestMismatchError, IntegrityError, ModelNotFoundError, OriginError
from hubdist.model.manifest import Entry
from hubdist.model.source import READ_BYTES
from hubdist.remote import StoredFile, Tree
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import disk_errors

_UPLOADS = 8
_TRIES = 4
_HASH_BYTES = 1 << 20


def fill_folder(tree: Tree, folder: str, snapshot: Snapshot, config: Config) -> dict[str, StoredFile]:
    """Upload what is missing, replace what is wrong, delete what is too much.

    A file that is there is right if the storage's own md5 is that of the snapshot's file; else it is read again, and
    its digest compared. What was uploaded is checked in the same way.

    Args:
        tree: The storage.
        folder: Where the files go.
        snapshot: Whose files.
        config: `in_flight_bytes` bounds the memory of uploads.

    Returns:
        The files as they were listed when all of them were right.

    Raises:
        OriginError: Somebody else keeps changing the folder.
        DigestMismatchError: The snapshot itself is damaged.
        HubdistError: The storage refuses.
    """
    filling = _Filling(tree, folder, snapshot)
    uploads = max(1, min(_UPLOADS, config.max_in_flight_bytes // READ_BYTES))
    with _threads(uploads) as pool:
        for _ in range(_TRIES):
            found = tree.listing(folder)
            right = pool.map(lambda entry, found=found: filling.is_right(entry, found), snapshot.manifest.entries)
            wrong = [entry for entry, fine in zip(snapshot.manifest.entries, right, strict=True) if not fine]
            surplus = found.keys() - {entry.path for entry in snapshot.manifest.entries}
            if not wrong and not surplus:
                return found
            tuple(pool.map(lambda entry, found=found: filling.upload(entry, found), wrong))
            for path in surplus:
                tree.delete(f"{folder}/{path}")
    raise OriginError(
        f"{tree.url(folder)} was changed by others each of {_TRIES} times it was filled",
        advice="Let nobody but hubdist write below the shared cache.",
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(count, thread_name_prefix="hubdist-fill")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Filling:
    """Compares and uploads; its methods are called by several threads, for different entries."""

    def __init__(self, tree: Tree, folder: str, snapshot: Snapshot) -> None:
        self._tree = tree
        self._folder = folder
        self._snapshot = snapshot
        self._md5s: dict[str, str] = {}
        self._seen_right: dict[str, StoredFile] = {}

    def is_right(self, entry: Entry, found: Mapping[str, StoredFile]) -> bool:
        """True if the file that was listed has the bytes of the entry."""
        file = found.get(entry.path)
        if file is None or file.size != entry.size:
            return False
        if file.version and self._seen_right.get(entry.path) == file:
            return True
        right = file.md5 == self._md5(entry) or self._read_again(entry, file)
        if right:
            self._seen_right[entry.path] = file
        return right

    def upload(self, entry: Entry, found: Mapping[str, StoredFile]) -> None:
        """Create the file, or replace the wrong one that was listed; another writer's new one is left for a check."""
        self._md5(entry)
        target = f"{self._folder}/{entry.path}"
        self._tree.upload(target, self._snapshot.path / entry.path, create=entry.path not in found)

    def _read_again(self, entry: Entry, file: StoredFile) -> bool:
        digest = hashlib.sha256()
        target = f"{self._folder}/{entry.path}"
        try:
            for start in range(0, file.size, READ_BYTES):
                digest.update(self._tree.read(target, start, min(start + READ_BYTES, file.size), file.version))
        except (IntegrityError, ModelNotFoundError):  # replaced or deleted meanwhile
            return False
        return digest.hexdigest() == entry.digest.value

    def _md5(self, entry: Entry) -> str:
        """The md5 of the snapshot's file, whose own digest is checked on the way: damage must not spread."""
        if entry.path not in self._md5s:
            self._md5s[entry.path] = _local_md5(self._snapshot.path / entry.path, entry)
        return self._md5s[entry.path]


def _local_md5(path: Path, entry: Entry) -> str:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with disk_errors(path), path.open("rb") as file:
        while data := file.read(_HASH_BYTES):
            md5.update(data)
            sha256.update(data)
    if sha256.hexdigest() != entry.digest.value:
        raise DigestMismatchError(
            f"{path} is damaged and not put into the shared cache",
            expected=str(entry.digest),
            actual=f"sha256:{sha256.hexdigest()}",
        )
    return md5.hexdigest()
