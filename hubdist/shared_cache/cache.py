"""The shared cache: snapshots on object storage, or on a mount, that every node can read.

    <url>/snapshots/<digest>/...        the model's files and nothing else: TensorFlow can open it in place
    <url>/snapshots/<digest>.json       the record: manifest, and the version of each object; written last
    <url>/handles/<Handle.key>.json     which digest a handle stood for; perhaps one that is not filled in yet
    <url>/leases/                       see `hubdist.shared_cache.lease`
    <url>/<sha1>/                       what TensorFlow Hub itself put there; used, never written

A snapshot without a record does not exist for readers, and one whose objects are not those of its record is no hit.
Nothing here holds a secret. Any number of processes may fill and read one cache: objects are created only where none
is, right ones are kept, and whoever replaces one writes the record again after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from hubdist.config.schema import Config
from hubdist.errors import AccessDeniedError, HandleError, HubdistError, IntegrityError, OriginError
from hubdist.model.handle import Handle, Kind
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.redact import redact_url
from hubdist.model.savedmodel import ModelKind, check_variables, model_kind
from hubdist.remote import StoredFile, Tree, open_tree
from hubdist.remote.snapshot_copy import RemoteCopy, find_difference
from hubdist.shared_cache.lease import hold_lease
from hubdist.shared_cache.upload import fill_folder
from hubdist.store.snapshot import Snapshot
from hubdist.system.deadline import Deadline

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRIES = 4
"""How often a fill looks again after another one has changed something meanwhile."""


@dataclass(frozen=True, slots=True)
class SharedSnapshot:
    """A snapshot in the shared cache.

    Attributes:
        manifest: Its files.
        copy: Where nodes read them.
    """

    manifest: Manifest
    copy: RemoteCopy


class SharedCache:
    """A directory of snapshots on storage. Safe for several threads; connections last for one call.

    Args:
        url: The directory: on object storage, a path or a `file://` URL.
        config: Deadlines, retries, memory.
        read_only: Never write to it.
    """

    def __init__(self, url: str, config: Config, *, read_only: bool = False) -> None:
        self._url = url.rstrip("/")
        self._config = config
        self._read_only = read_only
        self.redacted = redact_url(self._url)

    def find(self, digest: Digest) -> SharedSnapshot | None:
        """The snapshot with this digest, or None; a damaged one is no hit, and is logged.

        Raises:
            HubdistError: The cache cannot be read.
        """
        with open_tree(self._url, self._config) as tree:
            try:
                return self._find(tree, digest)
            except IntegrityError as error:
                _LOG.warning("hubdist: a damaged snapshot in the shared cache is not used: %s", error)
                return None

    def find_handle(self, handle: Handle) -> Digest | None:
        """What this handle stood for when it was last put into the cache, or None.

        Raises:
            HubdistError: The cache cannot be read.
        """
        with open_tree(self._url, self._config) as tree:
            data = tree.load(_pointer(handle))
        if data is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, HandleError, RecursionError):
                return Digest.parse(json.loads(data)["digest"])
            _LOG.warning("hubdist: %s is damaged and not used", tree.url(_pointer(handle)))
        return None

    def find_tfhub(self, handle: Handle) -> RemoteCopy | None:
        """The complete copy of a handle that TensorFlow Hub wrote into this directory, or None; nobody has digested it.

        TensorFlow Hub publishes file by file, holding `<sha1>.lock`: a copy is complete if no lock is there, nothing
        changes, and the model names no file that is missing.

        Source: tensorflow_hub 0.16.1, `resolver.py` (atomic_download) and `compressed_module_resolver.py`.

        Raises:
            HubdistError: The cache cannot be read.
        """
        if handle.kind not in (Kind.HUB, Kind.ARCHIVE) or handle.scheme not in ("http", "https"):
            return None
        with open_tree(self._url, self._config) as tree:
            for written in (handle.text, f"{handle.text}/"):
                folder = hashlib.sha1(written.encode(), usedforsecurity=False).hexdigest()
                try:
                    files = tree.listing(folder)
                    if not files:
                        continue
                    _check_tfhub(tree, folder, files)
                except IntegrityError as error:
                    _LOG.warning("hubdist: %s is not used: %s", tree.url(folder), error)
                    continue
                return RemoteCopy(f"{self._url}/{folder}", files)
        return None

    def fill(self, snapshot: Snapshot, handle: Handle | None = None) -> SharedSnapshot:
        """Put a snapshot into the cache, as far as it is not there, and note what the handle stands for.

        Args:
            snapshot: From a store; in use until this returns.
            handle: What it was resolved from, or None.

        Raises:
            AccessDeniedError: The cache may not be written, or is used read-only.
            OriginError: Somebody else keeps changing it meanwhile.
            HubdistError: It cannot be reached.
        """
        if self._read_only:
            raise AccessDeniedError(
                f"the shared cache {self.redacted} is read-only here",
                advice="Fill it from a cluster that may write, or unset shared_cache_read_only.",
            )
        with open_tree(self._url, self._config) as tree:
            for _ in range(_TRIES):
                with contextlib.suppress(IntegrityError):  # damaged: it is mended below
                    found = self._find(tree, snapshot.manifest.digest)
                    if found is not None and found.manifest == snapshot.manifest:
                        try:
                            _write_pointer(tree, handle, found.manifest.digest)
                        except HubdistError as error:  # what is there is of use without it
                            _LOG.warning("hubdist: the shared cache cannot note a handle: %s", error)
                        return SharedSnapshot(snapshot.manifest, found.copy)
                self._fill(tree, snapshot, handle)
            raise OriginError(
                f"{tree.url(_folder(snapshot.manifest.digest))} was changed by others each time it was filled",
                advice="Let nobody but hubdist write below the shared cache.",
            )

    @contextlib.contextmanager
    def lease(self, name: str, done: Callable[[], _T | None], deadline: Deadline | None = None) -> Iterator[_T | None]:
        """Let one cluster at a time do the work `name`; see `hubdist.shared_cache.lease.hold_lease`.

        Args:
            name: Of the work, such as a handle's key.
            done: Looks whether the work is done.
            deadline: When this cluster stops waiting; None after `timeout_s`.
        """
        config = self._config
        if deadline is not None:
            config = config.changed({"timeout_s": deadline.within(config.timeout_s)})
        with contextlib.ExitStack() as stack:
            found = done() if self._read_only else None
            if not self._read_only:
                found = stack.enter_context(hold_lease(self._url, name, config, done))
            yield found

    def _find(self, tree: Tree, digest: Digest) -> SharedSnapshot | None:
        data = tree.load(_record(digest))
        if data is None:
            return None
        manifest, versions = _read_record(data, digest, tree.url(_record(digest)))
        files = tree.listing(_folder(digest))
        difference = find_difference(versions, files)
        if difference is not None:
            path, what = difference
            raise IntegrityError(f"{tree.url(f'{_folder(digest)}/{path}')} {what} after the snapshot was filled")
        copy = RemoteCopy(f"{self._url}/{_folder(digest)}", files, digested=True)
        return SharedSnapshot(manifest.unproven(), copy)

    def _fill(self, tree: Tree, snapshot: Snapshot, handle: Handle | None) -> None:
        """Files, pointer, record: whoever finds the record finds everything."""
        manifest = snapshot.manifest
        files = fill_folder(tree, _folder(manifest.digest), snapshot, self._config)
        _write_pointer(tree, handle, manifest.digest)
        record, data = _record(manifest.digest), _write_record(manifest, files)
        if not tree.create(record, data) and tree.load(record) != data:
            tree.write(record, data)


def _folder(digest: Digest) -> str:
    return f"snapshots/{digest.value}"


def _record(digest: Digest) -> str:
    return f"snapshots/{digest.value}.json"


def _pointer(handle: Handle) -> str:
    return f"handles/{handle.key}.json"


def _write_pointer(tree: Tree, handle: Handle | None, digest: Digest) -> None:
    if handle is None:
        return
    data = json.dumps({"hubdist_handle": 1, "handle": handle.redacted, "digest": str(digest)}, indent=1).encode()
    if tree.load(_pointer(handle)) != data:
        tree.write(_pointer(handle), data)


def _write_record(manifest: Manifest, files: Mapping[str, StoredFile]) -> bytes:
    versions = {path: files[path].version for path in sorted(files)}
    document = {"hubdist_record": 1, "manifest": manifest.to_json().decode(), "versions": versions}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _read_record(data: bytes, digest: Digest, redacted: str) -> tuple[Manifest, dict[str, StoredFile]]:
    """The manifest of a record, and its files as they must be listed."""
    try:
        document = json.loads(data)
        if document["hubdist_record"] != 1:
            raise ValueError("another version")
        manifest = Manifest.from_json(document["manifest"].encode())
        versions = document["versions"]
        files = {entry.path: StoredFile(entry.size, str(versions[entry.path])) for entry in manifest.entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{redacted} is no record of a snapshot: {error}") from None
    if manifest.digest != digest:
        raise IntegrityError(f"{redacted} is the record of {manifest.digest} instead of {digest}")
    return manifest, files


def _check_tfhub(tree: Tree, folder: str, files: Mapping[str, StoredFile]) -> None:
    if model_kind(files.keys()) is ModelKind.OTHER:
        raise IntegrityError("it holds no complete model")

    def index(path: str) -> io.BytesIO:
        return io.BytesIO(tree.read(f"{folder}/{path}", 0, files[path].size, files[path].version))

    check_variables(index, files.keys())
    if tree.load(f"{folder}.lock") is not None:
        raise IntegrityError("TensorFlow Hub is writing to it, or was stopped: its lock is there")
    if find_difference(files, tree.listing(folder)) is not None:
        raise IntegrityError("it changes")
