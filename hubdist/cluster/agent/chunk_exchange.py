"""The chunks that one node receives and gives to others, for each delivery that it takes part in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from hubdist.cluster.agent.chunk_rpc import PART_BYTES, Sender, fetch
from hubdist.config.schema import Config
from hubdist.errors import IntegrityError, PeerError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import CopyReader, RemoteCopy
from hubdist.store.chunk_stage import ChunkStage, read_pieces
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store


@dataclass(slots=True)
class _Incoming:
    """A stage that is being filled; the lock is held while it turns into a snapshot."""

    stage: ChunkStage
    place: CopyReader | None
    publishing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Held:
    """A published snapshot that chunks are given from; `paths` are its files in the order of the delivery."""

    snapshot: Snapshot
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Awaited:
    """A chunk that another agent was asked for."""

    delivery: str
    sender: Sender
    given_up: Future[None]


class ChunkExchange:
    """Receives chunks into stages, and gives chunks of stages and snapshots. Safe for use by several threads.

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
        self._awaited: set[_Awaited] = set()

    def begin(self, delivery: str, manifest: Manifest | None, place: RemoteCopy | None) -> bool:
        """Make ready to receive a model; True if the store has it already.

        May be called again: what was received until then is discarded, and a snapshot that this node gives from is
        given from as before.

        Args:
            delivery: Names the delivery.
            manifest: The model's; None while its origin is still being read.
            place: Where this node reads chunks that are not sent to it.

        Raises:
            StoreError: The node's disk refuses, or lacks room.
            HubdistError: The place cannot be read.
        """
        self._discard(delivery)  # a stage of a delivery that was broken off
        snapshot = None if manifest is None else self._store().find(manifest.digest)
        if snapshot is not None:
            snapshot.release()
            return True
        self._let_go(delivery)  # of a snapshot that the store has lost
        with contextlib.ExitStack() as undo:
            stage = self._store().stage_chunks(manifest)
            undo.callback(stage.discard)
            reader = None if manifest is None or place is None else CopyReader(place, manifest, self._config)
            if reader is not None:
                undo.callback(reader.close)
            with self._guard:
                if delivery in self._incoming:  # two calls at once, after an answer was lost
                    return False
                self._incoming[delivery] = _Incoming(stage, reader)
            undo.pop_all()
        return False

    def hold(self, delivery: str, digest: Digest, ordinals: Sequence[int]) -> None:
        """Make ready to give chunks of a published snapshot.

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
        with contextlib.ExitStack() as undo:
            undo.callback(snapshot.release)
            paths = [""] * len(ordinals)
            for entry, ordinal in zip(snapshot.manifest.entries, ordinals, strict=True):
                paths[ordinal] = entry.path
            undo.pop_all()
        with self._guard:
            before = self._held.get(delivery)
            self._held[delivery] = _Held(snapshot, tuple(paths))
        if before is not None:  # asked again, after the answer was lost
            before.snapshot.release()

    def give(self, delivery: str, part: Chunk) -> bytearray:
        """Bytes of a stage or snapshot, for another node, which checks them.

        Raises:
            IntegrityError: They are missing on this node.
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
                with incoming.publishing, self._guard:  # it may have become a snapshot meanwhile
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

    def give_staged(self, stage: str, paths: Sequence[str], part: Chunk) -> bytearray:
        """As `give`, from a stage of this node's store that another process is writing.

        Args:
            stage: The stage's name in the store.
            paths: The files of the pieces, below the stage's files.
            part: Which bytes.

        Raises:
            IntegrityError: They are not there, perhaps not any more.
            StoreError: The node's disk refuses.
        """
        data = bytearray(part.size)
        read_pieces(self._store().staged_files(stage), paths, part, memoryview(data))
        return data

    def fetch(self, delivery: str, chunk: Chunk, sender: Sender | None) -> float:
        """Fetch one chunk, check it and write it into the stage.

        Args:
            delivery: Names the delivery.
            chunk: Which bytes, and their digests.
            sender: Whom to ask for them; None to read the place.

        Returns:
            Seconds that the bytes took to come.

        Raises:
            IntegrityError: The bytes are not the manifest's.
            TransferError: The chunk did not come.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None:
            raise PeerError(f"this node takes no part in the delivery {delivery}")
        if sender is None:
            return _read_place(incoming, chunk)
        seconds = 0.0
        with self._await(delivery, sender) as asked:
            for part in chunk.split(PART_BYTES):
                begin = time.monotonic()
                data = fetch(asked, delivery, part, self._config.chunk_timeout_s - seconds)
                seconds += time.monotonic() - begin
                incoming.stage.write_chunk(part, memoryview(data))
        return seconds

    def give_up(self, delivery: str, agent: bytes) -> None:
        """Wait no longer for chunks that an agent was asked for: their `fetch` ends with a PeerError.

        Args:
            delivery: Names the delivery.
            agent: As in `Sender`.
        """
        self._give_up(lambda awaited: (awaited.delivery, awaited.sender.agent) == (delivery, agent))

    def publish(self, delivery: str, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Publish a stage that has all its chunks, and go on to give them from the snapshot.

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
            incoming.stage.close(manifest, ordinals)
            self._store().publish(incoming.stage).release()
            self.hold(delivery, manifest.digest, ordinals)
        self._discard(delivery)

    def forget(self, delivery: str) -> None:
        """Take no further part in a delivery: discard its stage, let go of its snapshot, wait for no chunk."""
        self._give_up(lambda awaited: awaited.delivery == delivery)
        try:
            self._discard(delivery)
        finally:
            self._let_go(delivery)

    @contextlib.contextmanager
    def _await(self, delivery: str, sender: Sender) -> Iterator[Sender]:
        """The sender, so that what it was asked for can be given up while the block runs."""
        given_up: Future[None] = Future()
        awaited = _Awaited(delivery, replace(sender, given_up=given_up), given_up)
        with self._guard:
            self._awaited.add(awaited)
        try:
            yield awaited.sender
        finally:
            with self._guard:
                self._awaited.discard(awaited)

    def _give_up(self, meant: Callable[[_Awaited], bool]) -> None:
        with self._guard:
            found = [awaited for awaited in self._awaited if meant(awaited)]
            self._awaited.difference_update(found)
        for awaited in found:
            awaited.given_up.set_result(None)

    def _discard(self, delivery: str) -> None:
        with self._guard:
            incoming = self._incoming.pop(delivery, None)
        if incoming is None:
            return
        with contextlib.ExitStack() as ending:
            if incoming.place is not None:
                ending.callback(incoming.place.close)
            incoming.stage.discard()

    def _let_go(self, delivery: str) -> None:
        with self._guard:
            held = self._held.pop(delivery, None)
        if held is not None:
            held.snapshot.release()


def _read_place(incoming: _Incoming, chunk: Chunk) -> float:
    assert incoming.place is not None
    begin = time.monotonic()
    data = memoryview(bytearray(chunk.size))
    incoming.place.read(chunk, data)
    seconds = time.monotonic() - begin
    try:
        incoming.stage.write_chunk(chunk, data)
    except IntegrityError as error:
        raise incoming.place.blame(error, chunk, data) from None
    return seconds
