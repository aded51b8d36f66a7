"""The chunks that one node receives and sends to others, for each delivery that the node takes part in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from hubdist.cluster.agent.chunk_rpc import PART_BYTES, Sender, request_part
from hubdist.config.schema import Config
from hubdist.errors import IntegrityError, PeerError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.store.chunk_stage import ChunkStage, read_pieces
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store


@dataclass(slots=True)
class _Incoming:
    """A stage that is being filled.

    Attributes:
        stage: The stage.
        copy: Reads the chunks that no agent sends; None if agents send all of them.
        publishing: Held while the stage becomes a snapshot. Whoever finds the stage gone waits for the lock and then
            finds the snapshot.
    """

    stage: ChunkStage
    copy: CopyReader | None
    publishing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Held:
    """A published snapshot that chunks are sent from; `paths` are its files in the order of the delivery."""

    snapshot: Snapshot
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Awaited:
    """A chunk that another agent was asked for; `cancelled` is done when this node waits no longer."""

    delivery: str
    sender: Sender
    cancelled: Future[None]


class ChunkExchange:
    """Receives chunks into stages, and sends chunks of stages and snapshots. Safe for use by several threads.

    Args:
        store: Returns the node's store.
        config: Deadline of a chunk, and how remote directories are read.
        request: Gets bytes from another agent, as `request_part`.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        config: Config,
        *,
        request: Callable[[Sender, str, Chunk, float], bytearray] = request_part,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._config = config
        self._request = request
        self._clock = clock
        self._guard = threading.Lock()
        self._incoming: dict[str, _Incoming] = {}
        self._held: dict[str, _Held] = {}
        self._awaited: set[_Awaited] = set()

    def begin(self, delivery: str, manifest: Manifest | None, copy: RemoteCopy | None) -> bool:
        """Make ready to receive a model.

        Another call discards what was received until then. A snapshot that this node sends from stays in use.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest; None while its origin is still being read.
            copy: The remote directory that this node reads chunks from; None if agents send all chunks.

        Returns:
            True if the store has the model already, so that nothing will be received.

        Raises:
            StoreError: The node's disk refuses, or has too little room.
            TransferError, ResolveError: The remote directory cannot be read.
        """
        self._discard(delivery)  # the stage of an attempt that was broken off
        snapshot = None if manifest is None else self._store().find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
            return True
        self._release(delivery)  # a snapshot that the store has lost
        with contextlib.ExitStack() as undo:
            stage = self._store().stage_chunks(manifest)
            undo.callback(stage.discard)
            reader = None
            if manifest is not None and copy is not None:
                reader = CopyReader(copy, manifest, self._config.deadlines, max_bytes=self._config.max_store_bytes)
            if reader is not None:
                undo.callback(reader.close)
            with self._guard:
                if delivery in self._incoming:  # the caller repeated the call, because an answer was lost
                    return False
                self._incoming[delivery] = _Incoming(stage, reader)
            undo.pop_all()
        return False

    def hold(self, delivery: str, digest: Digest, ordinals: Sequence[int]) -> None:
        """Make ready to send chunks of a published snapshot.

        Args:
            delivery: Name of the delivery.
            digest: The model's digest.
            ordinals: For each entry of the model's manifest, the number of its file in the delivery's chunks.

        Raises:
            IntegrityError: The snapshot is missing or damaged on this node.
        """
        snapshot = self._store().find(digest)
        if snapshot is None:
            raise IntegrityError(f"the snapshot {digest} is not in the store of the node that should send it")
        with contextlib.ExitStack() as undo:
            undo.callback(snapshot.release)
            paths = [""] * len(ordinals)
            for entry, ordinal in zip(snapshot.manifest.entries, ordinals, strict=True):
                paths[ordinal] = entry.path
            undo.pop_all()
        with self._guard:
            before = self._held.get(delivery)
            self._held[delivery] = _Held(snapshot, tuple(paths))
        if before is not None:  # the coordinator repeated the call, because the answer was lost
            before.snapshot.release()

    def send(self, delivery: str, part: Chunk) -> bytearray:
        """Return bytes of a chunk for another node, which checks them.

        Args:
            delivery: Name of the delivery.
            part: Which bytes.

        Raises:
            IntegrityError: The bytes are missing on this node.
            PeerError: This node takes no part in the delivery.
            StoreError: The node's disk refuses.
        """
        data = bytearray(part.size)
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is not None:
            try:
                incoming.stage.read_chunk(part, memoryview(data))
            except IntegrityError:
                with incoming.publishing, self._guard:  # the stage may have become a snapshot meanwhile
                    if delivery not in self._held:
                        raise
            else:
                return data
        with self._guard:
            held = self._held.get(delivery)
        if held is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        paths = [held.paths[piece.entry_index] for piece in part.pieces]
        read_pieces(held.snapshot.path, paths, part, memoryview(data))
        return data

    def send_staged(self, stage: str, paths: Sequence[str], part: Chunk) -> bytearray:
        """Return bytes of a stage that another process of this node is writing; the receiver checks them.

        Args:
            stage: Name of the stage in this node's store.
            paths: For each piece of the part, the path of its file in the stage.
            part: Which bytes.

        Raises:
            IntegrityError: The bytes are not there; the stage may have become a snapshot.
            StoreError: The node's disk refuses.
        """
        data = bytearray(part.size)
        read_pieces(self._store().staged_files(stage), paths, part, memoryview(data))
        return data

    def fetch(self, delivery: str, chunk: Chunk, sender: Sender | None) -> float:
        """Fetch one chunk, check it and write it into the stage.

        Args:
            delivery: Name of the delivery.
            chunk: Which bytes, and their digests.
            sender: The agent to ask for the chunk; None to read the remote directory.

        Returns:
            Seconds that the bytes took to come.

        Raises:
            IntegrityError: The bytes do not have the manifest's digests.
            TransferError: The chunk did not come.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        if sender is None:
            return self._read_copy(incoming, chunk)
        seconds = 0.0
        with self._await(delivery, sender) as asked:
            for part in chunk.split(PART_BYTES):
                begin = self._clock()
                data = self._request(asked, delivery, part, self._config.chunk_timeout_s - seconds)
                seconds += self._clock() - begin
                incoming.stage.write_chunk(part, memoryview(data))
        return seconds

    def cancel_requests(self, delivery: str, agent: bytes) -> None:
        """Wait no longer for chunks that an agent was asked for: their `fetch` ends with a PeerError.

        Args:
            delivery: Name of the delivery.
            agent: The agent's handle, made by `pickle_agent`.
        """
        self._cancel(lambda awaited: (awaited.delivery, awaited.sender.agent) == (delivery, agent))

    def publish(self, delivery: str, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Publish a stage that has all its chunks, and send chunks from the snapshot from then on.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest.
            ordinals: For each entry of the manifest, the number of its file in the delivery's chunks.

        Raises:
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None:
            return  # the coordinator repeated the call, because the answer was lost
        with incoming.publishing:
            with self._guard:
                if delivery in self._held:  # the first of two calls has published meanwhile
                    return
            incoming.stage.close(manifest, ordinals)
            self._store().publish(incoming.stage).release()
            self.hold(delivery, manifest.digest, ordinals)
        self._discard(delivery)

    def forget(self, delivery: str) -> None:
        """Take no further part in a delivery: cancel requests, discard the stage, release the snapshot."""
        self._cancel(lambda awaited: awaited.delivery == delivery)
        try:
            self._discard(delivery)
        finally:
            self._release(delivery)

    @contextlib.contextmanager
    def _await(self, delivery: str, sender: Sender) -> Iterator[Sender]:
        """Note a request to a sender, so that `cancel_requests` finds it while the block runs."""
        cancelled: Future[None] = Future()
        awaited = _Awaited(delivery, replace(sender, cancelled=cancelled), cancelled)
        with self._guard:
            self._awaited.add(awaited)
        try:
            yield awaited.sender
        finally:
            with self._guard:
                self._awaited.discard(awaited)

    def _cancel(self, matches: Callable[[_Awaited], bool]) -> None:
        with self._guard:
            found = [awaited for awaited in self._awaited if matches(awaited)]
            self._awaited.difference_update(found)
        for awaited in found:
            awaited.cancelled.set_result(None)

    def _read_copy(self, incoming: _Incoming, chunk: Chunk) -> float:
        assert incoming.copy is not None
        begin = self._clock()
        data = memoryview(bytearray(chunk.size))
        incoming.copy.read(chunk, data)
        seconds = self._clock() - begin
        try:
            incoming.stage.write_chunk(chunk, data)
        except IntegrityError as error:
            raise incoming.copy.with_object_url(error, chunk, data) from None
        return seconds

    def _discard(self, delivery: str) -> None:
        with self._guard:
            incoming = self._incoming.pop(delivery, None)
        if incoming is None:
            return
        with contextlib.ExitStack() as ending:  # closes the reader even if the stage cannot be removed
            if incoming.copy is not None:
                ending.callback(incoming.copy.close)
            incoming.stage.discard()

    def _release(self, delivery: str) -> None:
        with self._guard:
            held = self._held.pop(delivery, None)
        if held is not None:
            held.snapshot.release()
