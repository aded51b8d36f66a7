"""Fetch: bring a model's files into the driver's store, from the shared cache or from the origin."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hubdist.config.schema import Config
from hubdist.errors import (
    AccessDeniedError,
    HandleError,
    HubdistError,
    IntegrityError,
    ModelNotFoundError,
    NotPinnedError,
    StoreError,
)
from hubdist.model.chunks import Chunk
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.model.manifest import Manifest
from hubdist.model.paths import drivers_path
from hubdist.origins import Origin, open_origin
from hubdist.origins.tfhub_cache import find_in_cache
from hubdist.remote.proven_copies import ProvenCopies
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy, check_copy, copy_remote, list_copy
from hubdist.shared_cache.best_effort import OptionalCache
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline

_LOG = logging.getLogger(__name__)


class Feed(Protocol):
    """Is told what an origin gives while it is being read, in the thread that reads."""

    chunk_bytes: int
    """Most bytes of a chunk that `grew` gets."""

    def began(self, stage: str) -> None:
        """The files are written into the stage of this name."""
        ...

    def grew(self, chunk: Chunk, paths: Sequence[str]) -> None:
        """These bytes are in the stage, in the files at these paths, one for each piece."""
        ...

    def published(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """The stage has become a snapshot; entry i of the manifest is file `ordinals[i]` of the chunks."""
        ...


class Fetcher:
    """Fetches into one store; safe for use by several threads.

    Args:
        config: The job's settings.
        store: The driver's store.
        cache: The shared cache, if there is one.
        proven: Gets the directories that were read.
        base_dir: What a relative `tfhub_cache_dir` is relative to; None refuses one.

    Raises:
        ConfigError: What `tfhub_cache_dir` means is not known here.
    """

    def __init__(
        self, config: Config, store: Store, cache: OptionalCache, proven: ProvenCopies, base_dir: Path | None
    ) -> None:
        self._config = config
        self._store = store
        self._cache = cache
        self._proven = proven
        cache_dir = config.tfhub_cache_dir
        self._tfhub_cache = None
        if cache_dir is not None:
            self._tfhub_cache = drivers_path(cache_dir, "tfhub_cache_dir (TFHUB_CACHE_DIR)", base_dir)

    def from_copy(self, manifest: Manifest, copy: RemoteCopy) -> Snapshot | None:
        """Copy a model out of the shared cache; None, with the reason logged, if that fails.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            with self._store.stage_chunks(manifest) as stage:
                copy_remote(copy, manifest, stage.write_chunk, self._config)
                return self._store.publish(stage)
        except StoreError:
            raise
        except HubdistError as error:
            _LOG.warning("hubdist: the shared cache is not used: %s", error)
            return None

    def from_origin(
        self,
        handle: Handle,
        directory: str | None,
        deadline: Deadline,
        watcher: Feed | None = None,
        *,
        anew: bool = False,
    ) -> tuple[Snapshot, str]:
        """Read the origin, or what TensorFlow Hub has cached of it.

        Args:
            handle: What to read.
            directory: The directory that was found to be the same model; None if there is none.
            deadline: When it has to be done.
            watcher: Is told what is read while it is read.
            anew: Pass by what TensorFlow Hub has cached, which may be old.

        Returns:
            The snapshot, and where it came from, in words.

        Raises:
            HubdistError: Every kind of it.
        """
        by_tfhub = None if anew else self._cache.tfhub_copy(handle)
        if by_tfhub is not None:
            try:
                return self._fetch(parse_handle(by_tfhub.url), deadline), "TensorFlow Hub cache"
            except FALLBACK_ERRORS as error:
                _LOG.warning("hubdist: TensorFlow Hub's directory in the shared cache is not used: %s", error)
        cached = None
        if self._tfhub_cache is not None and not anew:
            cached = find_in_cache(handle, self._tfhub_cache, deadline)
        if cached is not None:
            try:  # unwatched: who has been told of one read cannot be told of another
                return self._fetch(handle, deadline, cached), "TensorFlow Hub cache"
            except FALLBACK_ERRORS as error:
                _LOG.warning("hubdist: the TensorFlow Hub cache %s is not used: %s", self._tfhub_cache, error)
        if self._config.offline and not handle.is_drivers:
            raise NotPinnedError(
                "offline, and this model is not in the store of the driver's node",
                advice="Run once without offline, or put the model on the driver's disk.",
            )
        meant = handle if directory is None else parse_handle(directory)
        return self._fetch(meant, deadline, watcher=watcher), "origin"

    def _fetch(
        self, handle: Handle, deadline: Deadline, origin: Origin | None = None, watcher: Feed | None = None
    ) -> Snapshot:
        before = self._list(handle) if origin is None else None
        snapshot = self._read(handle, deadline, origin, watcher)
        if before is not None:
            try:
                check_copy(before, self._config)
            except HubdistError as error:
                _LOG.info("hubdist: what %s holds now is not known: %s", before.redacted, error)
            else:
                self._proven.keep(snapshot.manifest, before)
        return snapshot

    def _list(self, handle: Handle) -> RemoteCopy | None:
        """The files of the directory that a handle names; None if it names none, or if they may not be listed."""
        if handle.kind not in (Kind.TREE, Kind.LOCAL):
            return None
        try:
            return list_copy(handle.text, self._config)
        except (AccessDeniedError, HandleError, IntegrityError, ModelNotFoundError):  # the read says what is the matter
            return None
        except HubdistError:
            if handle.kind is Kind.LOCAL:
                return None
            raise  # after all retries, which the read would make again

    def _read(self, handle: Handle, deadline: Deadline, origin: Origin | None, watcher: Feed | None) -> Snapshot:
        if watcher is None:
            with self._store.stage() as stage:
                (origin or open_origin(handle, self._config, stage.scratch, deadline)).fetch(stage)
                return self._store.publish(stage)

        def grew(chunk: Chunk) -> None:
            watcher.grew(chunk, [stage.path_of(piece.entry_index) for piece in chunk.pieces])

        with self._store.stage(watch=grew, chunk_bytes=watcher.chunk_bytes) as stage:
            watcher.began(stage.path.name)
            (origin or open_origin(handle, self._config, stage.scratch, deadline)).fetch(stage)
            snapshot = self._store.publish(stage)
            watcher.published(snapshot.manifest, stage.ordinals)
            return snapshot
