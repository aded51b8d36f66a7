"""The node agent: works on one node while a delivery runs.

It fetches chunks into a stage and publishes it; it gives chunks of stages and snapshots to other nodes, by delivery
and chunk, never by path; and it reads what nodes can read themselves, with the node's own credentials and mounts. A
plain class: `actors` makes an actor of it, with several threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hubdist.cluster.agent.chunk_exchange import ChunkExchange
from hubdist.cluster.agent.chunk_rpc import Sender, split_into_results
from hubdist.cluster.refresh_marks import grow_mark
from hubdist.config.schema import Config
from hubdist.errors import ModelNotFoundError, StoreError
from hubdist.model.chunks import Chunk
from hubdist.model.digest_sink import DigestSink
from hubdist.model.handle import parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.origins import open_origin
from hubdist.remote.snapshot_copy import RemoteCopy, check_copy, copy_remote, list_copy, probe
from hubdist.store.nonces import Nonces
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store


class NodeAgent:
    """Receives, gives and reads on one node. Safe for use by several threads.

    Args:
        config: The job's settings.
        node_id: Ray's id of the node; tells the store's root.
    """

    def __init__(self, config: Config, node_id: str) -> None:
        self._config = config
        self._node_id = node_id
        self._exchange = ChunkExchange(lambda: self._store, config)

    @functools.cached_property
    def _store(self) -> Store:
        """Made at the first call and not before: an error of the constructor would reach nobody with its type."""
        return Store(self._config.store_root(self._node_id), max_bytes=self._config.max_bytes)

    def begin(self, delivery: str, manifest: Manifest | None, place: RemoteCopy | None) -> bool:
        """See `ChunkExchange.begin`."""
        return self._exchange.begin(delivery, manifest, place)

    def hold(self, delivery: str, digest: Digest, ordinals: Sequence[int]) -> None:
        """See `ChunkExchange.hold`."""
        self._exchange.hold(delivery, digest, ordinals)

    def give(self, delivery: str, part: Chunk) -> tuple[bytes, ...]:
        """See `ChunkExchange.give`; the bytes as several results."""
        return split_into_results(memoryview(self._exchange.give(delivery, part)))

    def give_staged(self, stage: str, paths: Sequence[str], part: Chunk) -> tuple[bytes, ...]:
        """See `ChunkExchange.give_staged`; the bytes as several results."""
        return split_into_results(memoryview(self._exchange.give_staged(stage, paths, part)))

    def fetch(self, delivery: str, chunk: Chunk, sender: Sender | None) -> float:
        """See `ChunkExchange.fetch`."""
        return self._exchange.fetch(delivery, chunk, sender)

    def give_up(self, delivery: str, agent: bytes) -> None:
        """See `ChunkExchange.give_up`."""
        self._exchange.give_up(delivery, agent)

    def answer(self) -> None:
        """Show that this node is alive; called in a thread of its own, however busy the others are."""

    def publish(self, delivery: str, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """See `ChunkExchange.publish`."""
        self._exchange.publish(delivery, manifest, ordinals)

    def forget(self, delivery: str) -> None:
        """See `ChunkExchange.forget`."""
        self._exchange.forget(delivery)

    def holds(self, digest: Digest) -> bool:
        """True if the node's store has a complete snapshot."""
        snapshot = self._store.find(digest)
        if snapshot is not None:
            snapshot.release()
        return snapshot is not None

    def note_refresh(self, scope: str) -> None:
        """Tell this node's processes that the job has refreshed a handle; see `marks`."""
        grow_mark(self._config.store_root(self._node_id), scope)

    def find_nonce(self, nonces: Sequence[str]) -> str | None:
        """The first of these nonces that the node's store shows; None also if the node can have no store."""
        with contextlib.suppress(StoreError):
            return Nonces(self._store).find(nonces)
        return None

    def show_nonce(self) -> str | None:
        """Show a new nonce in the node's store; None if that cannot be written to."""
        with contextlib.suppress(StoreError):
            return Nonces(self._store).show()
        return None

    def look_again(self, digest: Digest) -> bool:
        """As `holds`, for a snapshot that another node has just published in the same directory."""
        if self.holds(digest):
            return True
        self._store.refresh()
        return self.holds(digest)

    def probe(self, url: str) -> None:
        """Find out whether this node can read a directory on object storage or a mount.

        Raises:
            HubdistError: Why not.
        """
        try:
            probe(url, self._config, timeout_s=self._config.probe_timeout_s)
        except ModelNotFoundError:
            if url != self._config.shared_cache:  # where nothing need have been put yet
                raise

    def copy(self, manifest: Manifest, copy: RemoteCopy) -> int | None:
        """Copy a model from where it lies into the node's store.

        Returns:
            Bytes that were read; None if the store had it.

        Raises:
            IntegrityError: What lies there is not the manifest's.
            TransferError, ResolveError: It cannot be read.
            StoreError: The node's disk refuses.
        """
        with self._store.lock(f"copy-{manifest.digest.value}", self._config.timeout_s):
            if self.holds(manifest.digest):
                return None
            with self._store.stage_chunks(manifest) as stage:
                read = copy_remote(copy, manifest, stage.write_chunk, self._config)
                self._store.publish(stage).release()
        return read

    def read_directory(self, url: str, keep: bool) -> tuple[Manifest, RemoteCopy]:
        """Read a directory that a handle names, to learn which model it is.

        Args:
            url: On object storage.
            keep: Put the files into the node's store as well.

        Raises:
            HubdistError: It cannot be read, or changed meanwhile; or the node's disk refuses.
        """
        before = list_copy(url, self._config)
        handle = parse_handle(url)
        if keep:
            with self._store.stage() as stage:
                open_origin(handle, self._config, stage.path).fetch(stage)
                with self._store.publish(stage) as snapshot:
                    manifest = snapshot.manifest
        else:
            sink = DigestSink()
            open_origin(handle, self._config, Path()).fetch(sink)
            manifest = sink.finish()
        check_copy(before, self._config)
        return manifest, replace(before, digested=True)


def read_chunk(snapshot: Snapshot, chunk: Chunk) -> Any:
    """A chunk's bytes, checked, as a numpy array of uint8: Ray hands those on without a copy.

    Raises:
        IntegrityError: The snapshot is damaged.
    """
    data = np.empty(chunk.size, dtype=np.uint8)
    snapshot.read_chunk(chunk, data.data)
    return data
