"""What an agent does apart from deliveries: with its node's store, and with directories that the node can read.

The directories are read with the node's own credentials and mounts.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubdist.care import collection
from hubdist.care.store_blocks import StoreBlocks
from hubdist.cluster.metrics import Metrics
from hubdist.cluster.refresh_marks import grow_mark
from hubdist.config.node_settings import NodeSettings
from hubdist.errors import ModelNotFoundError, StoreError
from hubdist.model.chunks import Piece
from hubdist.model.digest_sink import DigestSink
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.origins import OriginSettings, open_origin
from hubdist.remote.copy_reader import copy_remote
from hubdist.remote.snapshot_copy import RemoteCopy, check_copy, list_copy, probe
from hubdist.resolver.node_store import open_store
from hubdist.store.nonces import Nonces
from hubdist.store.older_blocks import OlderBlocks
from hubdist.store.store import Store


class StoreWork:
    """The calls of an agent that belong to no delivery. Safe for use by several threads.

    Args:
        config: The job's settings.
        node_id: Ray's id of the node; the store's root may depend on it.
    """

    def __init__(self, config: NodeSettings, node_id: str) -> None:
        self._config = config
        self._node_id = node_id

    @functools.cached_property
    def _store(self) -> Store:
        """Made at the first call, because an error of the actor's constructor would lose its type."""
        metrics = Metrics.of_process(self._config.export_metrics, self._node_id)
        return open_store(self._config, self._node_id, evicted=metrics.note_evicted)

    def holds(self, digest: Digest) -> bool:
        """Return True if the node's store has a complete snapshot of the model."""
        snapshot = self._store.find(digest)
        if snapshot is not None:
            snapshot.release()
        return snapshot is not None

    def keep(self, digests: Sequence[Digest]) -> list[Digest]:
        """Never evict models, until `release`; returns those that are here."""
        return collection.keep(self._store, digests)

    def release(self, digests: Sequence[Digest]) -> list[Digest]:
        """Let the store evict models again; returns those that were kept."""
        return collection.release(self._store, digests)

    def note_refresh(self, scope: str) -> None:
        """Tell this node's processes that the job has refreshed a handle, so that they ask for its digest again.

        The mark of a refresh is a file in the node's store, named by `scope`.
        """
        grow_mark(self._config.store_root(self._node_id), scope)

    def find_nonce(self, nonces: Sequence[str]) -> str | None:
        """Return the first of these nonces that the node's store shows.

        None means that the store shows none of them, or that the node has no usable store.
        """
        with contextlib.suppress(StoreError):
            return Nonces(self._store).find(nonces)
        return None

    def show_nonce(self) -> str | None:
        """Show a new nonce in the node's store and return it; None if the store cannot be written to."""
        with contextlib.suppress(StoreError):
            return Nonces(self._store).show()
        return None

    def look_again(self, digest: Digest) -> bool:
        """Return True if the node's store has a snapshot that another node has just published in the same directory.

        A network file system may show an old listing at first; the store is refreshed then.
        """
        if self.holds(digest):
            return True
        self._store.refresh()
        return self.holds(digest)

    def give_manifest(self, digest: Digest) -> Manifest | None:
        """The manifest of a model, for a node that repairs its own; None if there is none here that can be read."""
        return StoreBlocks(self._store).manifest(digest)

    def give(self, digest: Digest, piece: Piece) -> bytes:
        """Bytes of a model, for a node that repairs its own and checks them.

        Args:
            digest: The model.
            piece: Which bytes of which file.

        Raises:
            IntegrityError: They are not here.
        """
        return StoreBlocks(self._store).give(digest, piece)

    def scrub(self, for_s: float, peers: Sequence[tuple[str, Any]]) -> int:
        """Read the node's store again at the rate of the settings; return how many models were damaged.

        Args:
            for_s: Seconds after which the work ends.
            peers: Name and agent of other nodes, which may have right blocks.
        """
        from hubdist.cluster.agent.scrubbing import scrub_store  # no agent needs it to start

        return scrub_store(self._store, self._config, for_s, peers)

    def probe(self, url: str) -> None:
        """Check that this node can read a directory on object storage or a mount.

        Raises:
            TransferError, ResolveError: Why the node cannot read the directory.
        """
        try:
            probe(
                url,
                self._config.deadlines,
                timeout_s=self._config.probe_timeout_s,
                max_bytes=self._config.max_store_bytes,
            )
        except ModelNotFoundError:
            if url != self._config.shared_cache:  # a shared cache may still be empty
                raise

    def copy(self, manifest: Manifest, copy: RemoteCopy) -> int | None:
        """Copy a model from a remote directory into the node's store.

        Args:
            manifest: The model's manifest; the files are checked against it.
            copy: The remote directory.

        Returns:
            Bytes that were read; the others were in older snapshots of the store. None if the store had the model.

        Raises:
            IntegrityError: The directory does not hold the manifest's files.
            TransferError, ResolveError: The directory cannot be read.
            StoreError: The node's disk refuses.
        """
        with self._store.lock(f"copy-{manifest.digest.value}", self._config.timeout_s):
            if self.holds(manifest.digest):
                return None
            with self._store.stage_chunks(manifest) as stage:
                with OlderBlocks(self._store, manifest) as older:
                    left = older.take_all(stage)
                read = copy_remote(
                    copy,
                    manifest,
                    stage.write_chunk,
                    self._config.deadlines,
                    in_flight_bytes=self._config.max_in_flight_bytes,
                    max_bytes=self._config.max_store_bytes,
                    pieces=left,
                )
                self._store.publish(stage).release()
        return read

    def read_directory(self, url: str, keep: bool) -> tuple[Manifest, RemoteCopy]:
        """Read a directory that a handle names, to learn which model it holds.

        Args:
            url: The directory, on object storage or a mount.
            keep: Put the files into the node's store as well.

        Raises:
            IntegrityError: The directory changed while it was read.
            TransferError, ResolveError: The directory cannot be read.
            StoreError: The node's disk refuses.
        """
        deadlines, max_bytes = self._config.deadlines, self._config.max_store_bytes
        before = list_copy(url, deadlines, max_bytes=max_bytes)
        settings = OriginSettings(deadlines, max_bytes)
        handle = parse_handle(url)
        if keep:
            with self._store.stage() as stage:
                open_origin(handle, settings, stage.path).fetch(stage)
                with self._store.publish(stage) as snapshot:
                    manifest = snapshot.manifest
        else:
            sink = DigestSink()
            open_origin(handle, settings, Path()).fetch(sink)
            manifest = sink.finish()
        check_copy(before, deadlines, max_bytes=max_bytes)
        return manifest, replace(before, digested=True)
