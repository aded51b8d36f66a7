"""The shared cache: snapshots on object storage, or on a mount, that every node can read.

    <url>/snapshots/<digest>/...        the model's files and nothing else: TensorFlow can open the folder in place
    <url>/snapshots/<digest>.json       the record: manifest, and the version of each object; written last
    <url>/handles/<Handle.key>.json     the digest that a handle stood for; its snapshot may not be there yet
    <url>/leases/                       the leases of `hubdist.shared_cache.lease`
    <url>/removals/, uses/, kept/       what goes, what was used, what stays (`hubdist.shared_cache.removals`)
    <url>/<sha1>/                       models that TensorFlow Hub itself put there; read, never written

For readers, a snapshot without a record does not exist, and a snapshot whose objects differ from its record is not a
hit. Nothing in the cache holds a secret. Any number of processes may fill and read one cache: they create objects only
where none is and keep right ones, and a process that replaces an object writes the record again after it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hubdist.errors import AccessDeniedError, HandleError, HubdistError, IntegrityError, OriginError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.redact import redact_url
from hubdist.remote import StoredFile, Tree, open_tree, tfhub_cache
from hubdist.remote.snapshot_copy import RemoteCopy, find_difference
from hubdist.shared_cache.removals import Removals, grace_for
from hubdist.shared_cache.upload import fill_folder
from hubdist.store.snapshot import Snapshot
from hubdist.system.deadline import Deadlines

_LOG = logging.getLogger(__name__)
_MAX_TRIES = 4
"""How often a fill starts again because another process changed something meanwhile."""


@dataclass(frozen=True, slots=True)
class SharedSnapshot:
    """A snapshot in the shared cache.

    Attributes:
        manifest: The snapshot's files.
        copy: Where nodes read the files.
    """

    manifest: Manifest
    copy: RemoteCopy


class SharedCache:
    """A directory of snapshots on storage. Safe for several threads; connections last for one call.

    Args:
        url: The directory: on object storage, a path or a `file://` URL.
        deadlines: Timeouts and retries of each call.
        in_flight_bytes: Most bytes in memory while files are uploaded.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.
        read_only: Never write to the cache.
        grace_s: Seconds between the mark of a snapshot and its removal; None: as long as the longest read demands.

    Attributes:
        url: The directory, which may hold secrets.
        redacted: The directory without secrets.
        grace_s: Seconds between the mark of a snapshot and its removal.
    """

    def __init__(
        self,
        url: str,
        deadlines: Deadlines,
        *,
        in_flight_bytes: int,
        max_bytes: int | None = None,
        read_only: bool = False,
        grace_s: float | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.redacted = redact_url(self.url)
        self._deadlines = deadlines
        self._in_flight_bytes = in_flight_bytes
        self._max_bytes = max_bytes
        self._read_only = read_only
        self.grace_s = grace_for(deadlines.total_s) if grace_s is None else grace_s

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Tree, Removals]]:
        """The directory, and what goes from it, for as long as the block runs."""
        with self._open() as tree:
            yield tree, Removals(tree, self.grace_s)

    def admit(self, digest: Digest) -> bool:
        """Announce a read of a snapshot, for at most the grace time; False if it is being removed.

        Raises:
            ResolveError, TransferError: The cache cannot be read.
        """
        with self.opened() as (_, removals):
            try:
                return removals.admit(digest, read_only=self._read_only)
            except AccessDeniedError:  # to write
                return removals.admit(digest, read_only=True)

    def find(self, digest: Digest) -> SharedSnapshot | None:
        """The snapshot with this digest, or None; a damaged snapshot is not a hit, and is logged.

        Raises:
            ResolveError, TransferError: The cache cannot be read.
        """
        with self._open() as tree:
            try:
                return self._find(tree, digest)
            except IntegrityError as error:
                _LOG.warning("hubdist: a damaged snapshot in the shared cache is not used: %s", error)
                return None

    def find_handle(self, handle: Handle) -> Digest | None:
        """The digest that this handle stood for when it was last put into the cache, or None.

        Raises:
            ResolveError, TransferError: The cache cannot be read.
        """
        with self._open() as tree:
            data = tree.load(pointer_path(handle))
        if data is None:
            return None
        digest = decode_pointer(data)
        if digest is None:
            _LOG.warning("hubdist: %s is damaged and not used", tree.url(pointer_path(handle)))
        return digest

    def find_tfhub(self, handle: Handle) -> RemoteCopy | None:
        """The complete copy of a handle that TensorFlow Hub wrote into this directory, or None; nobody has digested it.

        Raises:
            ResolveError, TransferError: The cache cannot be read.
        """
        with self._open() as tree:
            return tfhub_cache.find_on_storage(handle, tree, self.url)

    def fill(self, snapshot: Snapshot, handle: Handle | None = None) -> SharedSnapshot:
        """Put a snapshot into the cache, unless it is there, and note which digest the handle stands for.

        Args:
            snapshot: A snapshot of a store; the caller holds it until this returns.
            handle: The handle that the snapshot was resolved from, or None.

        Raises:
            AccessDeniedError: The cache may not be written, or is used read-only.
            OriginError: Another process keeps changing the snapshot's folder.
            ResolveError, TransferError: The cache cannot be reached.
        """
        if self._read_only:
            raise AccessDeniedError(
                f"the shared cache {self.redacted} is read-only here",
                advice="Fill it from a cluster that may write, or unset shared_cache_read_only.",
            )
        digest = snapshot.manifest.digest
        with self.opened() as (tree, removals):
            if removals.is_removed(digest) or not removals.admit(digest):
                raise OriginError(f"{tree.url(snapshot_folder(digest))} is being removed by another process")
            for _ in range(_MAX_TRIES):
                with contextlib.suppress(IntegrityError):  # damaged: the fill below repairs it
                    found = self._find(tree, digest)
                    if found is not None and found.manifest == snapshot.manifest:
                        try:
                            _write_pointer(tree, handle, digest)
                        except HubdistError as error:  # the snapshot is of use without a pointer
                            _LOG.warning("hubdist: the shared cache cannot note a handle: %s", error)
                        return SharedSnapshot(snapshot.manifest, found.copy)  # our manifest: its blocks are proven
                self._fill(tree, snapshot, handle)
            raise OriginError(
                f"{tree.url(snapshot_folder(digest))} was changed by others each time it was filled",
                advice="Let nobody but hubdist write below the shared cache.",
            )

    def _open(self) -> Tree:
        return open_tree(self.url, self._deadlines, max_bytes=self._max_bytes)

    def _find(self, tree: Tree, digest: Digest) -> SharedSnapshot | None:
        data = tree.load(record_path(digest))
        if data is None:
            return None
        folder = snapshot_folder(digest)
        manifest, recorded = decode_record(data, digest, tree.url(record_path(digest)))
        files = tree.listing(folder)
        difference = find_difference(recorded, files)
        if difference is not None:
            path, what = difference
            raise IntegrityError(f"{tree.url(f'{folder}/{path}')} {what} after the snapshot was filled")
        return SharedSnapshot(manifest.unproven(), RemoteCopy(f"{self.url}/{folder}", files, digested=True))

    def _fill(self, tree: Tree, snapshot: Snapshot, handle: Handle | None) -> None:
        """Write files, pointer and record in this order: a reader that finds the record finds everything."""
        manifest = snapshot.manifest
        files = fill_folder(tree, snapshot_folder(manifest.digest), snapshot, self._in_flight_bytes)
        _write_pointer(tree, handle, manifest.digest)
        path, data = record_path(manifest.digest), encode_record(manifest, files)
        if not tree.create(path, data) and tree.load(path) != data:
            tree.write(path, data)


def _write_pointer(tree: Tree, handle: Handle | None, digest: Digest) -> None:
    if handle is None:
        return
    data = encode_pointer(handle, digest)
    if tree.load(pointer_path(handle)) != data:
        tree.write(pointer_path(handle), data)


def snapshot_folder(digest: Digest) -> str:
    """The folder with the files of a snapshot."""
    return f"snapshots/{digest.value}"


def record_path(digest: Digest) -> str:
    """The record of a snapshot."""
    return f"snapshots/{digest.value}.json"


def pointer_path(handle: Handle) -> str:
    """The pointer of a handle."""
    return f"handles/{handle.key}.json"


def encode_record(manifest: Manifest, files: Mapping[str, StoredFile]) -> bytes:
    """The record of a snapshot.

    Args:
        manifest: The snapshot's manifest.
        files: Path -> file as it was listed when all files were right.
    """
    versions = {path: files[path].version for path in sorted(files)}
    document = {"hubdist_record": 1, "manifest": manifest.to_json().decode(), "versions": versions}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def decode_record(data: bytes, digest: Digest, redacted: str) -> tuple[Manifest, dict[str, StoredFile]]:
    """Read a record.

    Args:
        data: The record's bytes.
        digest: The digest that the manifest must have.
        redacted: The record's URL without secrets, for errors.

    Returns:
        The manifest, and its files as a listing must show them.

    Raises:
        IntegrityError: The data is not a record of this digest.
    """
    try:
        document = json.loads(data)
        if document["hubdist_record"] != 1:
            raise ValueError("another version")
        manifest = Manifest.from_json(document["manifest"].encode())
        versions = document["versions"]
        files = {entry.path: StoredFile(entry.size, str(versions[entry.path])) for entry in manifest.entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{redacted} is not a record of a snapshot: {error}") from None
    if manifest.digest != digest:
        raise IntegrityError(f"{redacted} is the record of {manifest.digest} instead of {digest}")
    return manifest, files


def encode_pointer(handle: Handle, digest: Digest) -> bytes:
    """The pointer of a handle.

    Args:
        handle: The handle; only its form without secrets is written.
        digest: The digest that the handle stands for.
    """
    return json.dumps({"hubdist_handle": 1, "handle": handle.redacted, "digest": str(digest)}, indent=1).encode()


def decode_pointer(data: bytes) -> Digest | None:
    """The digest in a pointer, or None if the pointer is damaged."""
    with contextlib.suppress(ValueError, KeyError, TypeError, HandleError, RecursionError):
        return Digest.parse(json.loads(data)["digest"])
    return None
