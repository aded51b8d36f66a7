"""The node agent: works on one node while a delivery runs.

It offers chunks of published snapshots to other nodes, by digest and chunk, never by path; and it fetches chunks into
a stage and publishes it. A plain class: `actors` makes an actor of it, with several threads.
"""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.exceptions

from hubdist.config import Config
from hubdist.errors import IntegrityError, PeerError
from hubdist.manifest import Chunk, Digest, Manifest, cut_chunks
from hubdist.runtime.calls import translated
from hubdist.snapshot import Snapshot
from hubdist.staging import FilledStage
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
