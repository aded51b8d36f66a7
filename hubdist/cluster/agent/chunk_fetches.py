"""Fetches single chunks, in deliveries where the coordinator says for each chunk where it comes from."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from hubdist.cluster.agent.block_reuse import BlockReuse
from hubdist.cluster.agent.chunk_rpc import PART_BYTES, RequestPart, Sender
from hubdist.cluster.agent.node_port import Address, NodePort
from hubdist.errors import IntegrityError, PortClosedError
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Manifest
from hubdist.remote.copy_reader import CopyReader
from hubdist.store.chunk_stage import ChunkStage
from hubdist.streams.frames import PART_BYTES as STREAM_PART_BYTES


@dataclass(slots=True)
class Incoming:
    """A delivery that this node receives.

    Attributes:
        stage: What is filled.
        copy: Reads the chunks that no agent sends; None if agents send all of them.
        expected: The model's chunks, as its manifest gives them; None if they are not known.
        unreachable: Ports that could not be reached; their nodes are asked by calls of Ray.
        reuse: Takes what this node's store has of the model; None before it is known which model comes.
        publish: Publishes the stage once it has all chunks; None before it is known which model comes.
    """

    stage: ChunkStage
    copy: CopyReader | None
    expected: Sequence[Chunk] | None
    unreachable: set[Address] = field(default_factory=set)
    reuse: BlockReuse | None = None
    publish: Callable[[], None] | None = None


def expected_chunks(manifest: Manifest | None, chunk_bytes: int | None) -> Sequence[Chunk] | None:
    """The chunks that streams bring whole; larger ones come in parts, which are checked when the stage is published.

    Args:
        manifest: The model's manifest; None if it is not known yet.
        chunk_bytes: The size that the model is cut to; None if it is cut while its origin is being read.
    """
    if manifest is None or chunk_bytes is None or chunk_bytes > STREAM_PART_BYTES:
        return None
    return cut_chunks(manifest, chunk_bytes)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of fetching a chunk.

    Attributes:
        seconds: How long the bytes took to come.
        port_closed: Why the sender's port could not be reached, so that the chunk came by calls of Ray; None if it came
            by the port, or the sender has none.
        reused_bytes: Bytes of the chunk that this node's own store had, so that they did not travel.
    """

    seconds: float
    port_closed: str | None = None
    reused_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Awaited:
    """A chunk that another agent was asked for; `cancelled` is done when this node waits no longer."""

    delivery: str
    sender: Sender
    cancelled: Future[None]


class ChunkFetches:
    """Fetches chunks from the stores of this node, from other nodes and from a directory. Safe for several threads.

    Args:
        port: The node's port.
        request: Gets bytes from another agent, as `request_part`.
        timeout_s: Longest time in seconds for the bytes of one chunk.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        port: NodePort,
        request: RequestPart,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._request = request
        self._timeout_s = timeout_s
        self._clock = clock
        self._guard = threading.Lock()
        self._awaited: set[_Awaited] = set()

    def fetch(self, delivery: str, chunk: Chunk, sender: Sender | None, incoming: Incoming) -> Fetched:
        """Fetch one chunk, check it and write it into the stage.

        Args:
            delivery: Name of the delivery.
            chunk: Which bytes, and their digests.
            sender: The agent to ask for the chunk; None to read the remote directory.
            incoming: The delivery.

        Raises:
            IntegrityError: The bytes do not have the manifest's digests.
            TransferError: The chunk did not come.
            StoreError: The node's disk refuses.
        """
        left = chunk if incoming.reuse is None else incoming.reuse.take(chunk, by_node=sender is not None)
        reused = chunk.size - (0 if left is None else left.size)
        if left is None or sender is None:
            seconds = 0.0 if left is None else self._read_copy(incoming, left)
            return Fetched(seconds, reused_bytes=reused)
        closed = None
        with self._await(delivery, sender) as asked:
            if not reused and sender.address is not None and sender.address not in incoming.unreachable:
                try:
                    return Fetched(self._fetch_by_port(delivery, chunk, sender.address, incoming.stage, asked))
                except PortClosedError as error:
                    incoming.unreachable.add(sender.address)
                    closed = error.what
            seconds = self._fetch_by_calls(delivery, left, incoming.stage, asked)
        return Fetched(seconds, closed, reused)

    def cancel(self, delivery: str, agent: bytes | None = None) -> None:
        """Wait no longer for chunks of a delivery: their `fetch` ends with a PeerError.

        Args:
            delivery: Name of the delivery.
            agent: The handle of the agent that was asked, made by `pickle_agent`; None for all agents.
        """
        with self._guard:
            found = [
                awaited
                for awaited in self._awaited
                if awaited.delivery == delivery and agent in (None, awaited.sender.agent)
            ]
            self._awaited.difference_update(found)
        for awaited in found:
            awaited.cancelled.set_result(None)

    def _fetch_by_port(self, delivery: str, chunk: Chunk, address: Address, stage: ChunkStage, asked: Sender) -> float:
        assert asked.cancelled is not None
        return self._port.fetch(
            delivery,
            chunk,
            address,
            stage.write_chunk,
            timeout_s=self._timeout_s,
            cancelled=asked.cancelled,
            clock=self._clock,
        )

    def _fetch_by_calls(self, delivery: str, chunk: Chunk, stage: ChunkStage, asked: Sender) -> float:
        seconds = 0.0
        for part in chunk.split(PART_BYTES):
            begin = self._clock()
            data = self._request(asked, delivery, part, self._timeout_s - seconds)
            seconds += self._clock() - begin
            stage.write_chunk(part, memoryview(data))
        return seconds

    def _read_copy(self, incoming: Incoming, chunk: Chunk) -> float:
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

    @contextlib.contextmanager
    def _await(self, delivery: str, sender: Sender) -> Iterator[Sender]:
        """Note a request to a sender, so that `cancel` finds it while the block runs."""
        cancelled: Future[None] = Future()
        awaited = _Awaited(delivery, replace(sender, cancelled=cancelled), cancelled)
        with self._guard:
            self._awaited.add(awaited)
        try:
            yield awaited.sender
        finally:
            with self._guard:
                self._awaited.discard(awaited)
