"""Where a repair gets blocks from beside other stores: the shared cache, or the origin."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from hubdist.errors import HubdistError, IntegrityError
from hubdist.model.chunks import Piece
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.origins import OriginSettings, keeps_folder, open_origin
from hubdist.remote import open_tree
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.store.stage import StreamStage
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.disk import disk_errors, read_range

_LOG = logging.getLogger(__name__)


class SharedBlocks:
    """A `BlockSource` of the shared cache.

    Args:
        cache: The shared cache.
        deadlines: Timeouts and retries of each read.
    """

    def __init__(self, cache: SharedCache, deadlines: Deadlines) -> None:
        self._cache = cache
        self._deadlines = deadlines
        self._found: SharedSnapshot | None = None

    @property
    def name(self) -> str:
        """The cache's URL without secrets."""
        return f"the shared cache {self._cache.redacted}"

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest in the record of a snapshot; None if the cache does not have the snapshot.

        Raises:
            ResolveError, TransferError: The cache cannot be read.
        """
        self._found = self._cache.find(digest)
        return None if self._found is None else self._found.manifest

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        """Bytes of one file, in the version that was listed.

        Args:
            manifest: What `manifest` gave.
            piece: Which bytes of which file.

        Raises:
            IntegrityError: The version is gone.
            ResolveError, TransferError: The cache cannot be read.
        """
        assert self._found is not None
        path, copy = manifest.entries[piece.entry_index].path, self._found.copy
        with open_tree(copy.url, self._deadlines) as tree:
            return tree.read(path, piece.start, piece.end, copy.files[path].version)


class OriginBlocks:
    """A `BlockSource` of the origin, which is read whole, into a stage that the store never publishes.

    Args:
        store: The store that has room for the stage.
        handles: The handles that stood for the model, without secrets; each may stand for another model by now.
        settings: How origins are read.
        timeout_s: Longest time for one handle, in seconds.
        opened: Closes the stage.
    """

    def __init__(
        self,
        store: Store,
        handles: Sequence[str],
        settings: OriginSettings,
        timeout_s: float,
        opened: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._handles = handles
        self._settings = settings
        self._timeout_s = timeout_s
        self._opened = opened
        self._stage: StreamStage | None = None

    @property
    def name(self) -> str:
        """The handles."""
        return f"the origin of {' and '.join(self._handles)}"

    def manifest(self, digest: Digest) -> Manifest | None:
        """Read the first handle that still stands for a model; None if none does.

        Raises:
            IntegrityError: The last handle stands for other bytes by now.
            ResolveError, TransferError, StoreError: The last handle's origin does not give the model.
        """
        failure: HubdistError | None = None
        for handle in self._handles:
            try:
                stage, manifest = self._fetch(handle)
            except HubdistError as error:
                failure = error
                continue
            if manifest.digest == digest:
                self._stage = stage
                return manifest
            failure = IntegrityError(f"{handle} stands for {manifest.digest} by now", handle=handle)
        if failure is not None:
            raise failure
        return None

    def _fetch(self, text: str) -> tuple[StreamStage, Manifest]:
        _LOG.warning("hubdist: the origin of %s is read, to repair the store %s", text, self._store.root)
        handle = parse_handle(text, custom_schemes=self._settings.custom.keys())
        stage = self._opened.enter_context(self._store.stage(keep_folder=keeps_folder(handle)))
        open_origin(handle, self._settings, stage.scratch, Deadline(self._timeout_s)).fetch(stage)
        return stage, stage.finish()

    def read(self, manifest: Manifest, piece: Piece) -> bytes:
        """Bytes of one file.

        Args:
            manifest: What `manifest` gave.
            piece: Which bytes of which file.

        Raises:
            IntegrityError: The file is missing.
            StoreError: The disk refuses.
        """
        assert self._stage is not None
        path, data = self._stage.files / manifest.entries[piece.entry_index].path, bytearray(piece.size)
        with disk_errors(path):
            read_range(path, piece.start, memoryview(data))
        return bytes(data)
