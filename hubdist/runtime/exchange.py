"""The chunks that one node receives and offers, for each delivery that it takes part in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray.exceptions

from hubdist.config import Config
from hubdist.copies import CopyReader, RemoteCopy
from hubdist.errors import IntegrityError, PeerError, TransferTimeoutError
from hubdist.growing import GrowingStage, read_pieces
from hubdist.manifest import Digest, Manifest, ProvenChunk
from hubdist.runtime.calls import NodeLostError, translated
from hubdist.snapshot import Snapshot
from hubdist.store import Store


@dataclass(slots=True)
class _Incoming:
    """A stage that is being filled; the lock is held while it turns into a snapshot."""

    stage: GrowingStage
    place: CopyReader | None
    publishing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Held:
    """A published snapshot that chunks are offered from; `paths` are its files in the order of the delivery."""

    snapshot: Snapshot
    paths: tuple[str, ...]


class Exchange:
    """Receives chunks into stages and offers chunks of stages and snapshots. Safe for use by several threads.

    Args:
        store: Gives the node's store.
        config: Deadlines.
    """

    def __init__(self, store: Callable[[], Store], config: Config) -> None:
        self._store = store
        self._config = config
        self._guard = threading.Lock()
        self._incoming: dict[str, _Incoming] = {}
        self._held: dict[str, _Held] = {}

    def begin(self, delivery: str, manifest: Manifest | None, place: RemoteCopy | None) -> bool:
        """Make ready to receive a model; True if the store has it already.

        Args:
            delivery: Names the delivery.
            manifest: The model's; None while its origin is still being read.
            place: Where this node reads chunks that are not sent to it.

        Raises:
            StoreError: The node's disk refuses, or lacks room.
        """
        self.forget(delivery)  # a stage of a delivery that was broken off
        snapshot = None if manifest is None else self._store().find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
            return True
        stage = self._store().stage_growing(None if manifest is None else manifest.total_bytes)
        reader = None if manifest is None or place is None else CopyReader(place, manifest, self._config)
        with self._guard:
            self._incoming[delivery] = _Incoming(stage, reader)
        return False

    def hold(self, delivery: str, digest: Digest, ordinals: Sequence[int]) -> None:
        """Make ready to offer chunks of a published snapshot.

        Args:
            delivery: Names the delivery.
            digest: The model's.
            ordinals: For each entry of its manifest, which of the delivery's files it is.

        Raises:
            IntegrityError: The snapshot is missing or damaged on this node.
        """
        snapshot = self._store().find(digest)
        if snapshot is None:
            raise IntegrityError(f"the snapshot {digest} is not in the store of the node that should send it")
        paths = [""] * len(ordinals)
        for entry, ordinal in zip(snapshot.manifest.entries, ordinals, strict=True):
            paths[ordinal] = entry.path
        with self._guard:
            self._held[delivery] = _Held(snapshot, tuple(paths))

    def offer(self, delivery: str, chunk: ProvenChunk) -> Any:
        """A chunk of a stage or snapshot, checked, as a numpy array of uint8: Ray hands those on without a copy.

        Raises:
            IntegrityError: It is missing or damaged on this node.
        """
        data = np.empty(chunk.chunk.size, dtype=np.uint8)
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is not None:
            try:
                incoming.stage.read_chunk(chunk, data.data)
            except IntegrityError:
                with incoming.publishing, self._guard:  # it may have become a snapshot meanwhile
                    if delivery not in self._held:
                        raise
            else:
                return data
        with self._guard:
            held = self._held.get(delivery)
        if held is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        paths = [held.paths[piece.entry_index] for piece in chunk.chunk.pieces]
        read_pieces(held.snapshot.path, paths, chunk, data.data)
        return data

    def offer_staged(self, stage: str, paths: Sequence[str], chunk: ProvenChunk) -> Any:
        """As `offer`, from a stage of this node's store that another process is writing.

        Args:
            stage: The stage's name in the store.
            paths: The files of the chunk's pieces, below the stage's files.
            chunk: Which bytes.

        Raises:
            IntegrityError: They are not there, perhaps not any more.
        """
        data = np.empty(chunk.chunk.size, dtype=np.uint8)
        read_pieces(self._store().staged_files(stage), paths, chunk, data.data)
        return data

    def fetch(self, delivery: str, chunk: ProvenChunk, reference: Sequence[Any], keep: bool) -> tuple[float, Any]:
        """Fetch one chunk, check it and write it into the stage.

        Args:
            delivery: Names the delivery.
            chunk: Which bytes, and their digests.
            reference: A list with the object's reference, for an argument that is one itself would be waited for; an
                empty list to read the place.
            keep: Return the bytes too, for others to fetch.

        Returns:
            Seconds that the fetch took; and the bytes or None.

        Raises:
            IntegrityError: The bytes are not the manifest's.
            TransferError: The chunk did not come.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        begin = time.monotonic()
        if reference:
            data = _get(reference[0], self._config.chunk_timeout_s)
        else:
            assert incoming.place is not None
            data = np.empty(chunk.chunk.size, dtype=np.uint8)
            incoming.place.read(chunk.chunk, data.data)
        seconds = time.monotonic() - begin
        try:
            incoming.stage.write_chunk(chunk, memoryview(data))
        except IntegrityError as error:
            if reference or incoming.place is None:
                raise
            raise incoming.place.blame(error, chunk.chunk, data.data) from None
        return seconds, data if keep else None

    def publish(self, delivery: str, manifest: Manifest, ordinals: Sequence[int], unproven: bool) -> None:
        """Publish a stage that has all its chunks, and go on to offer them from the snapshot.

        Raises:
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None:
            return  # asked again, after the answer was lost
        with incoming.publishing:
            with self._guard:
                if delivery in self._held:  # asked again, while the first call was at work
                    return
            incoming.stage.close(manifest, ordinals, unproven=unproven)
            self._store().publish(incoming.stage).release()
            self.hold(delivery, manifest.digest, ordinals)
        self._discard(delivery)

    def forget(self, delivery: str) -> None:
        """Take no further part in a delivery: discard its stage, let go of its snapshot."""
        self._discard(delivery)
        with self._guard:
            held = self._held.pop(delivery, None)
        if held is not None:
            held.snapshot.release()

    def _discard(self, delivery: str) -> None:
        with self._guard:
            incoming = self._incoming.pop(delivery, None)
        if incoming is not None:
            incoming.stage.discard()
            if incoming.place is not None:
                incoming.place.close()


def _get(reference: Any, timeout_s: float) -> Any:
    """The object, without a copy.

    By its future, not by `ray.get`: that one holds a lock of the whole process while it waits, so that the threads of
    an agent would hold each other up.
    """
    try:
        return reference.future().result(timeout=timeout_s)
    except TimeoutError:
        raise TransferTimeoutError(f"the chunk did not come within {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        found = translated(error, None)
        if isinstance(found, NodeLostError):  # not this node
            found = PeerError("the node that offered the chunk is gone")
        raise found from error
