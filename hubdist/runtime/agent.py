"""The node agent: works on one node while a delivery runs.

It offers chunks of published snapshots to other nodes, by digest and chunk, never by path; it fetches chunks into a
stage and publishes it; and it reads what nodes can read themselves, with the node's own credentials and mounts. A
plain class: `actors` makes an actor of it, with several threads.
"""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.exceptions

from hubdist.config import Config
from hubdist.copies import RemoteCopy, check_copy, copy_remote, list_copy, probe
from hubdist.errors import IntegrityError, ModelNotFoundError, PeerError
from hubdist.handle import parse_handle
from hubdist.manifest import Chunk, Digest, Manifest, cut_chunks
from hubdist.origins import open_origin
from hubdist.runtime.calls import translated
from hubdist.snapshot import Snapshot
from hubdist.staging import DigestSink, FilledStage
from hubdist.store import Store


@dataclass(slots=True)
class _Incoming:
    """A snapshot that is being received."""

    stage: FilledStage
    chunks: tuple[Chunk, ...]


@dataclass(slots=True)
class _Outgoing:
    """A snapshot that chunks are offered from."""

    snapshot: Snapshot
    chunks: tuple[Chunk, ...]


class NodeAgent:
    """Receives and offers chunks on one node. Safe for use by several threads.

    Args:
        config: The job's settings.
        node_id: Ray's id of the node; tells the store's root.
    """

    def __init__(self, config: Config, node_id: str) -> None:
        self._config = config
        self._node_id = node_id
        self._guard = threading.Lock()
        self._incoming: dict[Digest, _Incoming] = {}
        self._outgoing: dict[tuple[Digest, int], _Outgoing] = {}

    @functools.cached_property
    def _store(self) -> Store:
        """Made at the first call and not before: an error of the constructor would reach nobody with its type."""
        return Store(self._config.store_root(self._node_id), max_bytes=self._config.max_bytes)

    def begin(self, manifest: Manifest, chunk_bytes: int) -> bool:
        """Make ready to receive a model; True if the node's store has it already.

        Raises:
            StoreError: The node's disk refuses, or lacks room.
        """
        self.give_up(manifest.digest)  # a stage of a delivery that was broken off
        snapshot = self._store.find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
            return True
        incoming = _Incoming(self._store.stage_manifest(manifest), cut_chunks(manifest, chunk_bytes))
        with self._guard:
            self._incoming[manifest.digest] = incoming
        return False

    def holds(self, digest: Digest) -> bool:
        """True if the node's store has a complete snapshot."""
        snapshot = self._store.find(digest)
        if snapshot is not None:
            snapshot.release()
        return snapshot is not None

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
            with self._store.stage_manifest(manifest, unproven=copy.unproven) as stage:
                read = copy_remote(copy, manifest, stage.write_chunk, self._config)
                self._store.publish(stage).release()
        return read

    def read_directory(self, url: str, keep: bool) -> tuple[Manifest, RemoteCopy]:
        """Read a directory that a handle names, to learn which model it is.

        Args:
            url: On object storage or a mount.
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
        return manifest, before

    def offer(self, digest: Digest, chunk_bytes: int, index: int) -> list[Any]:
        """Put one chunk of a published snapshot into the object store.

        Returns:
            A list with its reference; in a list it can be passed on without being fetched.

        Raises:
            IntegrityError: The snapshot is missing or damaged on this node.
        """
        outgoing = self._open_outgoing(digest, chunk_bytes)
        return [ray.put(read_chunk(outgoing.snapshot, outgoing.chunks[index]))]

    def fetch(self, digest: Digest, index: int, reference: list[Any]) -> float:
        """Fetch one chunk, check it and write it into the stage.

        Returns:
            Seconds that it took.

        Raises:
            IntegrityError: The bytes are not the manifest's.
            TransferError: The chunk did not come.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(digest)
        if incoming is None:
            raise PeerError(f"this node does not receive {digest}")
        begin = time.monotonic()
        try:
            data = ray.get(reference[0], timeout=self._config.chunk_timeout_s)
        except ray.exceptions.RayError as error:
            raise translated(error, None) from error
        incoming.stage.write_chunk(incoming.chunks[index], memoryview(data))
        return time.monotonic() - begin

    def publish(self, digest: Digest) -> None:
        """Publish a stage that has all its chunks.

        Raises:
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.pop(digest, None)
        if incoming is None:
            return  # asked twice
        with incoming.stage as stage:
            self._store.publish(stage).release()

    def give_up(self, digest: Digest) -> None:
        """Discard a stage that will not be finished."""
        with self._guard:
            incoming = self._incoming.pop(digest, None)
        if incoming is not None:
            incoming.stage.discard()

    def stop_offering(self, digest: Digest) -> None:
        """Let go of a snapshot that chunks were offered from."""
        with self._guard:
            keys = [key for key in self._outgoing if key[0] == digest]
            stopped = [self._outgoing.pop(key) for key in keys]
        for outgoing in stopped:
            outgoing.snapshot.release()

    def _open_outgoing(self, digest: Digest, chunk_bytes: int) -> _Outgoing:
        with self._guard:
            outgoing = self._outgoing.get((digest, chunk_bytes))
            if outgoing is None:
                snapshot = self._store.find(digest)
                if snapshot is None:
                    raise IntegrityError(f"the snapshot {digest} is not in the store of the node that should send it")
                outgoing = _Outgoing(snapshot, cut_chunks(snapshot.manifest, chunk_bytes))
                self._outgoing[digest, chunk_bytes] = outgoing
            return outgoing


def read_chunk(snapshot: Snapshot, chunk: Chunk) -> Any:
    """A chunk's bytes, checked, as a numpy array of uint8: Ray hands those on without a copy.

    Raises:
        IntegrityError: The snapshot is damaged.
    """
    data = np.empty(chunk.size, dtype=np.uint8)
    snapshot.read_chunk(chunk, data.data)
    return data
