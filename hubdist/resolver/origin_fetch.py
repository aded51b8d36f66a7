"""Fetches a model's files into the driver's store, from the shared cache or from the origin."""

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
from hubdist.origins import OriginSettings, keeps_folder, open_origin
from hubdist.origins.directory import DirectoryOrigin
from hubdist.remote import tfhub_cache
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, ProvenCopies, RemoteCopy, check_copy, list_copy
from hubdist.resolver.origin_settings import origin_settings
from hubdist.resolver.values import ResolvedFrom
from hubdist.shared_cache.best_effort import BestEffortCache
from hubdist.store.older_blocks import OlderBlocks
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline

_LOG = logging.getLogger(__name__)


class Feed(Protocol):
    """Gets an origin's chunks while the origin is read. Its methods are called by the thread that reads."""

    chunk_bytes: int
    """Largest size in bytes of a chunk that `chunk_ready` gets."""

    def started(self, stage: str) -> None:
        """The reader begins to write files into the stage of this name."""
        ...

    def chunk_ready(self, chunk: Chunk, paths: Sequence[str]) -> None:
        """A chunk is in the stage now.

        Args:
            chunk: The chunk, with the digests of its blocks; its pieces count files in the order of their arrival.
            paths: For each piece of the chunk, the path of its file in the stage.
        """
        ...

    def published(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """The stage has become a snapshot.

        Args:
            manifest: The model's files.
            ordinals: For each entry of the manifest, the number by which the chunks' pieces called its file.
        """
        ...


class Fetcher:
    """Fetches into one store. Safe for several threads.

    Args:
        config: The job's settings.
        store: The driver's store.
        cache: The shared cache, if there is one.
        proven: Notes the directories that were read.
        base_dir: What a relative `tfhub_cache_dir` is relative to; None refuses a relative one.
        settings: How origins are read; None takes them from `config` and this process's environment.

    Raises:
        ConfigError: `tfhub_cache_dir` begins with `~` where no home is known, or is relative without a `base_dir`.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        cache: BestEffortCache,
        proven: ProvenCopies,
        base_dir: Path | None,
        *,
        settings: OriginSettings | None = None,
    ) -> None:
        self._config = config
        self._settings = settings or origin_settings(config, store=store)
        self._store = store
        self._cache = cache
        self._proven = proven
        self._tfhub_cache: Path | None = None
        if config.tfhub_cache_dir is not None:
            name = "tfhub_cache_dir (TFHUB_CACHE_DIR)"
            self._tfhub_cache = drivers_path(config.tfhub_cache_dir, name, base_dir)

    def from_copy(self, manifest: Manifest, copy: RemoteCopy) -> Snapshot | None:
        """Copy what the store lacks of a model from the shared cache; None, with the reason logged, if that fails.

        Args:
            manifest: The model's files.
            copy: Where they lie in the shared cache.

        Raises:
            StoreError: The disk of the driver's node refuses.
        """
        if not self._cache.admit(manifest.digest):
            return None
        try:
            with self._store.stage_chunks(manifest) as stage:
                with OlderBlocks(self._store, manifest) as older:
                    left = older.take_all(stage)
                copy_remote(
                    copy,
                    manifest,
                    stage.write_chunk,
                    self._config.deadlines,
                    in_flight_bytes=self._config.max_in_flight_bytes,
                    max_bytes=self._config.max_store_bytes,
                    pieces=left,
                )
                return self._store.publish(stage)
        except StoreError:
            raise
        except HubdistError as error:
            _LOG.warning("hubdist: the shared cache is not used: %s", error)
            return None

    def from_origin(
        self,
        handle: Handle,
        deadline: Deadline,
        *,
        directory: str | None = None,
        feed: Feed | None = None,
        anew: bool = False,
    ) -> tuple[Snapshot, ResolvedFrom]:
        """Read the origin, or what TensorFlow Hub has cached of it.

        Args:
            handle: What to read.
            deadline: When the model must have been read.
            directory: The directory to read in place of the handle; None if there is none.
            feed: Gets the origin's chunks while they come; None sends them to nobody.
            anew: True ignores what TensorFlow Hub has cached, because that may be old.

        Returns:
            The snapshot, and whether it came from the origin or from TensorFlow Hub's cache.

        Raises:
            NotPinnedError: The settings are offline, and the handle is not on the driver's disk.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
            StoreError: The disk of the driver's node refuses.
        """
        self._settings.find_access()  # also brings the tokens that clients of hubs find in the environment
        snapshot = None if anew else self._from_tfhub(handle, deadline)
        if snapshot is not None:
            return snapshot, ResolvedFrom.TFHUB_CACHE
        if self._config.offline and not handle.is_drivers:
            raise NotPinnedError(
                "offline, and this model is not in the store of the driver's node",
                advice="Run once without offline, or put the model on the driver's disk.",
            )
        named = handle if directory is None else parse_handle(directory)
        return self._fetch(named, deadline, feed), ResolvedFrom.ORIGIN

    def _from_tfhub(self, handle: Handle, deadline: Deadline) -> Snapshot | None:
        """Read what TensorFlow Hub has cached on storage or on the driver's disk; None if that gives nothing.

        No feed gets these chunks: a feed that was told of one source cannot be told of another one afterwards.
        """
        copy = self._cache.tfhub_copy(handle)
        if copy is not None:
            try:
                return self._fetch(parse_handle(copy.url), deadline)
            except FALLBACK_ERRORS as error:
                _LOG.warning("hubdist: TensorFlow Hub's directory in the shared cache is not used: %s", error)
        if self._tfhub_cache is None:
            return None
        cached = tfhub_cache.find_on_disk(handle, self._tfhub_cache)
        if cached is not None:
            try:
                with self._store.stage() as stage:
                    DirectoryOrigin.at_path(cached, deadline, one_model=False).fetch(stage)
                    return self._store.publish(stage)
            except FALLBACK_ERRORS as error:
                _LOG.warning("hubdist: the TensorFlow Hub cache %s is not used: %s", self._tfhub_cache, error)
        return None

    def _fetch(self, handle: Handle, deadline: Deadline, feed: Feed | None = None) -> Snapshot:
        """Read what a handle names; a directory becomes a proven copy if it did not change meanwhile."""
        before = self._list(handle)
        snapshot = self._read(handle, deadline, feed)
        if before is not None:
            try:
                check_copy(before, self._config.deadlines, max_bytes=self._config.max_store_bytes)
            except HubdistError as error:
                _LOG.info("hubdist: %s is not known to hold the model that was read: %s", before.redacted, error)
            else:
                self._proven.keep(snapshot.manifest, before)
        return snapshot

    def _list(self, handle: Handle) -> RemoteCopy | None:
        """The files of the directory that a handle names; None if it names none, or if they may not be listed."""
        if handle.kind not in (Kind.TREE, Kind.LOCAL):
            return None
        try:
            return list_copy(handle.text, self._config.deadlines, max_bytes=self._config.max_store_bytes)
        except (AccessDeniedError, HandleError, IntegrityError, ModelNotFoundError):  # the read raises a better error
            return None
        except HubdistError:
            if handle.kind is Kind.LOCAL:
                return None
            raise  # after all retries, which the read would make again

    def _read(self, handle: Handle, deadline: Deadline, feed: Feed | None) -> Snapshot:
        keep_folder = keeps_folder(handle)
        if feed is None:
            with self._store.stage(keep_folder=keep_folder) as stage:
                open_origin(handle, self._settings, stage.scratch, deadline).fetch(stage)
                return self._store.publish(stage)

        def chunk_ready(chunk: Chunk) -> None:
            feed.chunk_ready(chunk, [stage.path_of(piece.entry_index) for piece in chunk.pieces])

        with self._store.stage(watch=chunk_ready, chunk_bytes=feed.chunk_bytes, keep_folder=keep_folder) as stage:
            feed.started(stage.path.name)
            open_origin(handle, self._settings, stage.scratch, deadline).fetch(stage)
            snapshot = self._store.publish(stage)
            feed.published(snapshot.manifest, stage.ordinals)
            return snapshot
