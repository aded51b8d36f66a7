"""The chunks that one node receives and sends to others, for each delivery that the node takes part in."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubdist.cluster.agent.chunk_rpc import PART_BYTES, Sender, request_part
from hubdist.cluster.agent.node_port import Address, NodePort
from hubdist.config.node_settings import NodeSettings
from hubdist.errors import IntegrityError, PeerError, PortClosedError
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.paths import check_entry_path
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.store.chunk_stage import ChunkStage, read_pieces
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.disk import disk_errors

_HOLD_S = 10.0
"""How long a stage that has become a snapshot may be gone before the coordinator lets this node hold the snapshot."""


@dataclass(slots=True)
class _Incoming:
    """A stage that is being filled.

    Attributes:
        stage: The stage.
        copy: Reads the chunks that no agent sends; None if agents send all of them.
        publishing: Held while the stage becomes a snapshot. Whoever finds the stage gone waits for the lock and then
            finds the snapshot.
        unreachable: Ports that could not be reached; their nodes are asked by calls of Ray.
    """

    stage: ChunkStage
    copy: CopyReader | None
    publishing: threading.Lock = field(default_factory=threading.Lock)
    unreachable: set[Address] = field(default_factory=set)


@dataclass(slots=True)
class _Held:
    """A published snapshot that chunks are sent from; `paths` are its files in the order of the delivery."""

    snapshot: Snapshot
    paths: tuple[str, ...]


@dataclass(slots=True)
class _Offered:
    """The files of a stage that another process of this node writes; `paths` grow while the origin is being read."""

    root: Path
    paths: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer of an agent that was told to take part in a delivery.

    Attributes:
        has_model: The node's store has the model already, so that the node receives nothing.
        address: Where the node sends chunks; None if it has no port.
    """

    has_model: bool
    address: Address | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of fetching a chunk.

    Attributes:
        seconds: How long the bytes took to come.
        port_closed: Why the sender's port could not be reached, so that the chunk came by calls of Ray; None if it came
            by the port, or the sender has none.
    """

    seconds: float
    port_closed: str | None = None


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
        port: The node's port.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        config: NodeSettings,
        *,
        request: Callable[[Sender, str, Chunk, float], bytearray] = request_part,
        port: NodePort | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._port = port or NodePort(None)
        self._config = config
        self._request = request
        self._clock = clock
        self._guard = threading.Lock()
        self._held_more = threading.Condition(self._guard)
        self._offered: dict[str, _Offered] = {}
        self._incoming: dict[str, _Incoming] = {}
        self._held: dict[str, _Held] = {}
        self._awaited: set[_Awaited] = set()

    def begin(self, delivery: str, secret: bytes, manifest: Manifest | None, copy: RemoteCopy | None) -> Ready:
        """Make ready to receive a model.

        Another call discards what was received until then. A snapshot that this node sends from stays in use.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret, which other nodes must know to get chunks.
            manifest: The model's manifest; None while its origin is still being read.
            copy: The remote directory that this node reads chunks from; None if agents send all chunks.

        Raises:
            StoreError: The node's disk refuses, or has too little room.
            TransferError, ResolveError: The remote directory cannot be read.
        """
        self._discard(delivery)  # the stage of an attempt that was broken off
        snapshot = None if manifest is None else self._store().find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
            return Ready(True, None)
        self._release(delivery)  # a snapshot that the store has lost
        # Chunks of the earlier stage are not in the new one: the port would send what its files hold instead, and the
        # receivers would take this node for one that sends wrong bytes.
        self._port.leave(delivery)
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
                    return Ready(False, self._port.address)
                self._incoming[delivery] = _Incoming(stage, reader)
            undo.pop_all()
        self._port.join(delivery, secret, lambda number: self._open_file(delivery, number))
        return Ready(False, self._port.address)

    def offer(
        self, delivery: str, secret: bytes, stage: str | None, chunks: Sequence[tuple[Chunk, Sequence[str]]]
    ) -> Address | None:
        """Send chunks of a stage that another process of this node is writing.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            stage: Name of the stage in this node's store; None if nothing has been written yet.
            chunks: Further chunks that are in the stage, each with the path of the file of each piece.

        Returns:
            Where this node sends chunks; None if it has no port.
        """
        if stage is not None:
            with self._guard:
                offered = self._offered.setdefault(delivery, _Offered(self._store().staged_files(stage)))
                for chunk, paths in chunks:
                    numbers = (piece.entry_index for piece in chunk.pieces)
                    offered.paths.update(zip(numbers, paths, strict=True))
        self._port.join(delivery, secret, lambda number: self._open_file(delivery, number))
        for chunk, _ in chunks:
            self._port.add(delivery, chunk)
        return self._port.address

    def hold(
        self, delivery: str, secret: bytes, digest: Digest, ordinals: Sequence[int], chunk_bytes: int | None
    ) -> Address | None:
        """Make ready to send chunks of a published snapshot.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            digest: The model's digest.
            ordinals: For each entry of the model's manifest, the number of its file in the delivery's chunks.
            chunk_bytes: The size of the delivery's chunks, if they were cut from the manifest; None if they were cut
                while the origin was read. Then this node sends by its port only what came that way.

        Returns:
            Where this node sends chunks; None if it has no port.

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
            self._held_more.notify_all()
        self._port.join(delivery, secret, lambda number: self._open_file(delivery, number))
        for chunk in () if chunk_bytes is None else cut_chunks(snapshot.manifest, chunk_bytes):
            self._port.add(delivery, chunk)
        if before is not None:  # the coordinator repeated the call, because the answer was lost
            before.snapshot.release()
        return self._port.address

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

    def fetch(self, delivery: str, chunk: Chunk, sender: Sender | None) -> Fetched:
        """Fetch one chunk, check it and write it into the stage.

        Args:
            delivery: Name of the delivery.
            chunk: Which bytes, and their digests.
            sender: The agent to ask for the chunk; None to read the remote directory.

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
            seconds = self._read_copy(incoming, chunk)
            self._port.add(delivery, chunk)
            return Fetched(seconds)
        closed = None
        with self._await(delivery, sender) as asked:
            if sender.address is not None and sender.address not in incoming.unreachable:
                try:
                    return Fetched(self._fetch_by_port(delivery, chunk, sender.address, incoming, asked))
                except PortClosedError as error:
                    incoming.unreachable.add(sender.address)
                    closed = error.what
            seconds = self._fetch_by_calls(delivery, chunk, incoming, asked)
        self._port.add(delivery, chunk)
        return Fetched(seconds, closed)

    def _fetch_by_port(
        self, delivery: str, chunk: Chunk, address: Address, incoming: _Incoming, asked: Sender
    ) -> float:
        assert asked.cancelled is not None
        return self._port.fetch(
            delivery,
            chunk,
            address,
            incoming.stage.write_chunk,
            timeout_s=self._config.chunk_timeout_s,
            cancelled=asked.cancelled,
            clock=self._clock,
        )

    def _fetch_by_calls(self, delivery: str, chunk: Chunk, incoming: _Incoming, asked: Sender) -> float:
        seconds = 0.0
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

    def publish(self, delivery: str, secret: bytes, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Publish a stage that has all its chunks, and send chunks from the snapshot from then on.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
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
            self.hold(delivery, secret, manifest.digest, ordinals, None)
        self._discard(delivery)

    def forget(self, delivery: str) -> None:
        """Take no further part in a delivery: cancel requests, discard the stage, release the snapshot."""
        self._cancel(lambda awaited: awaited.delivery == delivery)
        try:
            self._discard(delivery)
        finally:
            self._release(delivery)
            self._port.leave(delivery)
            with self._guard:
                self._offered.pop(delivery, None)

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

    def _open_file(self, delivery: str, number: int) -> int:
        """Open a file of the delivery's model, for the port, wherever this node has the file now."""
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is not None:
            try:
                return incoming.stage.open_file(number)
            except IntegrityError:
                with incoming.publishing, self._guard:  # the stage may have become a snapshot meanwhile
                    if delivery not in self._held:
                        raise
        with self._guard:
            held, offered = self._held.get(delivery), self._offered.get(delivery)
        if held is None and offered is not None:
            with contextlib.suppress(IntegrityError):
                return _open(offered.root / check_entry_path(offered.paths[number]))
            with self._guard:  # the stage has become a snapshot, and the coordinator is about to say so
                self._held_more.wait_for(lambda: delivery in self._held, _HOLD_S)
                held = self._held.get(delivery)
        if held is None:
            raise IntegrityError(f"this node does not have file {number} of the model any more")
        return _open(held.snapshot.path / held.paths[number])

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


def _open(path: Path) -> int:
    with disk_errors(path):
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise IntegrityError(f"{path} is gone") from None
