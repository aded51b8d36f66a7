"""The node agent: works on one node while a delivery runs.

The agent receives units and chunks into a stage and publishes the stage. It sends those of stages and snapshots to
other nodes, which name a delivery and a number, never a path. What it does apart from deliveries is in `store_work`.
`NodeAgent` is a plain class; `cluster.connection` makes an actor with several threads of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace

from hubdist.cluster.agent.chunk_exchange import ChunkExchange
from hubdist.cluster.agent.chunk_fetches import Fetched
from hubdist.cluster.agent.chunk_rpc import (
    DescribeUnit,
    RequestPart,
    Sender,
    describe_unit,
    request_part,
    split_into_results,
)
from hubdist.cluster.agent.messages import HAD_MODEL, DeliveryTerms, News, Ready, Seat
from hubdist.cluster.agent.node_port import Address, NodePort
from hubdist.cluster.agent.node_streams import NodeStreams
from hubdist.cluster.agent.store_work import StoreWork
from hubdist.config.node_settings import NodeSettings, find_tls_files
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.delivery import OWN_STORE
from hubdist.streams.buffers import Buffers
from hubdist.streams.frames import PART_BYTES


class NodeAgent(StoreWork):
    """Receives, sends and reads on one node. Safe for use by several threads.

    Every method may be called again with the same arguments: Ray repeats a call whose answer was lost.

    Args:
        config: The job's settings.
        node_id: Ray's id of the node; the store's root may depend on it.
        host: The node's address, on which its port is opened; None: chunks go by calls of Ray.
        request: Gets bytes from another agent, as `request_part`; tests pass a fake.
        describe: Asks another agent for a unit's chunk, as `describe_unit`; tests pass a fake.
    """

    def __init__(
        self,
        config: NodeSettings,
        node_id: str,
        *,
        host: str | None = None,
        request: RequestPart = request_part,
        describe: DescribeUnit = describe_unit,
    ) -> None:
        super().__init__(config, node_id)
        self._port = NodePort(host if config.opens_port else None, config.port_range, find_tls_files())
        buffers = Buffers(max(1, config.max_in_flight_bytes // PART_BYTES))
        self._streams = NodeStreams(self._port, buffers, request, describe)
        self._guard = threading.Lock()
        self._beginning: dict[str, threading.Lock] = {}
        """Delivery -> the lock of the thread that begins it: a disk that hangs for one model holds up no other."""
        self._begun: dict[str, int] = {}
        """Delivery -> number of the order with which it began here."""
        self._last_news: dict[str, News] = {}
        """Delivery -> the news that this node has published: nobody has more to tell if Ray asks again."""
        self._exchange = ChunkExchange(lambda: self._store, config, request=request, port=self._port)

    def begin(
        self,
        delivery: str,
        manifest: Manifest | None,
        terms: DeliveryTerms,
        copy: RemoteCopy | None,
    ) -> Ready:
        """Make ready to receive a model.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest; None while its origin is still being read.
            terms: What the nodes of the delivery agree on.
            copy: The remote directory that this node reads chunks from; None if agents send all chunks.

        Raises:
            StoreError: The node's disk refuses, or has too little room.
            TransferError, ResolveError: The remote directory cannot be read.
        """
        self._leave(delivery)
        return self._exchange.begin(delivery, manifest, terms, copy)

    def receive(
        self, delivery: str, manifest: Manifest | None, terms: DeliveryTerms, seat: Seat, timeout_s: float
    ) -> News:
        """Begin, follow parents and wait for news, in one call: for a node whose port is known to the others already.

        Parents may not have begun yet; they are asked again for some seconds.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest; None while its origin is still being read.
            terms: What the nodes of the delivery agree on.
            seat: The parents of all stripes.
            timeout_s: Longest wait for the units in seconds.

        Returns:
            As `wait_for_news`.

        Raises:
            PeerError: This node was told to forget the delivery meanwhile.
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses, or has too little room.
        """
        with self._guard:
            beginning = self._beginning.setdefault(delivery, threading.Lock())
        with beginning:
            if self._begun.get(delivery) != seat.order:  # Ray has not repeated the call
                if self.begin(delivery, manifest, terms, None).has_model:
                    return HAD_MODEL
                self._begun[delivery] = seat.order
                self.follow(delivery, seat)
        return self.wait_for_news(delivery, timeout_s)

    def offer(
        self, delivery: str, secret: bytes, stage: str | None, chunks: Sequence[tuple[Chunk, Sequence[str]]]
    ) -> Address | None:
        """Send chunks of a stage that the coordinator is writing; return where this node sends chunks.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            stage: Name of the stage in this node's store; None if nothing has been written yet.
            chunks: Further chunks that are in the stage, each with the path of the file of each piece.
        """
        return self._exchange.offer(delivery, secret, stage, chunks)

    def hold(
        self,
        delivery: str,
        secret: bytes,
        digest: Digest,
        ordinals: Sequence[int],
        cut: int | Sequence[Chunk] | None,
    ) -> Address | None:
        """Make ready to send chunks of a published snapshot; return where this node sends chunks.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            digest: The model's digest.
            ordinals: For each entry of the model's manifest, the number of its file in the delivery's chunks.
            cut: How the model is cut: the size of chunks that are cut from the manifest, or the chunks themselves; None
                if this node knows its chunks already.

        Raises:
            IntegrityError: The snapshot is missing or damaged on this node.
        """
        return self._exchange.hold(delivery, secret, digest, ordinals, cut)

    def send(self, delivery: str, part: Chunk) -> tuple[bytes, ...]:
        """Return bytes of a chunk to another agent, split into several results of the call.

        Args:
            delivery: Name of the delivery.
            part: Which bytes.

        Raises:
            IntegrityError: The bytes are missing on this node.
            PeerError: This node takes no part in the delivery.
            StoreError: The node's disk refuses.
        """
        return split_into_results(memoryview(self._exchange.send(delivery, part)))

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
        return self._exchange.fetch(delivery, chunk, sender)

    def follow(self, delivery: str, seat: Seat) -> None:
        """Receive stripes from parents; an earlier parent of a stripe is left.

        Args:
            delivery: Name of the delivery, which has begun here.
            seat: The parents, and which order this is; an older one does not undo a newer one.

        Raises:
            UnknownDeliveryError: This node receives nothing for the delivery.
        """
        self._streams.follow(delivery, seat, self._exchange.writer(delivery))

    def wait_for_news(self, delivery: str, timeout_s: float) -> News:
        """Wait until this node has all units of a delivery, or a stream breaks; return how far the node is.

        A node that has all units publishes them, if it knows the manifest; the news is told after that.

        Args:
            delivery: Name of the delivery.
            timeout_s: Longest wait for the units in seconds.

        Raises:
            PeerError: This node receives nothing for the delivery.
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses.
        """
        told = self._last_news.get(delivery)
        if told is not None:
            return told
        news = self._streams.wait(delivery, timeout_s)
        reused = self._exchange.reused_bytes(delivery)
        if reused:
            received = (*news.received, (OWN_STORE, reused))
            news = replace(news, arrived_bytes=news.arrived_bytes + reused, received=received)
        if news.is_complete and self._exchange.publish_received(delivery):
            news = self._last_news[delivery] = replace(news, is_published=True)
            self._streams.leave(delivery)
        return news

    def describe_unit(self, delivery: str, number: int) -> Chunk | int | None:
        """Return the chunk of a unit, for a node that cannot reach this node's port.

        Args:
            delivery: Name of the delivery.
            number: The unit.

        Returns:
            The number of units if the delivery has fewer; None if this node has not got the unit within a second.

        Raises:
            PeerError: This node takes no part in the delivery.
        """
        units = self._port.units(delivery)
        chunk = units.wait(number, 1.0)
        return units.count if chunk is None and units.is_beyond(number) else chunk

    def cancel_requests(self, delivery: str, agent: bytes) -> None:
        """Wait no longer for chunks that an agent was asked for.

        Args:
            delivery: Name of the delivery.
            agent: The agent's handle, made by `pickle_agent`.
        """
        self._exchange.cancel_requests(delivery, agent)

    def answer(self) -> None:
        """Show that this node is alive. Runs in a thread of `ANSWER_GROUP`, so that no other work delays it."""

    def publish(self, delivery: str, manifest: Manifest, terms: DeliveryTerms) -> None:
        """Publish a stage that has all its chunks.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest.
            terms: What the nodes of the delivery agree on.

        Raises:
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses.
        """
        self._streams.leave(delivery)
        self._exchange.publish(delivery, manifest, terms)

    def forget(self, *deliveries: str) -> None:
        """Take no further part in deliveries.

        Args:
            *deliveries: Names of the deliveries.
        """
        with contextlib.ExitStack() as ending:  # each whatever the others do
            for delivery in deliveries:
                ending.callback(self._beginning.pop, delivery, None)
                ending.callback(self._exchange.forget, delivery)
                ending.callback(self._leave, delivery)

    def _leave(self, delivery: str) -> None:
        self._last_news.pop(delivery, None)
        self._begun.pop(delivery, None)
        self._streams.leave(delivery)
