"""The chunks that one node receives and sends to others, for each delivery that the node takes part in."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence

from hubdist.cluster.agent.block_reuse import BlockReuse
from hubdist.cluster.agent.chunk_fetches import ChunkFetches, Fetched, Incoming, expected_chunks
from hubdist.cluster.agent.chunk_rpc import RequestPart, Sender, request_part
from hubdist.cluster.agent.delivery_files import DeliveryFiles
from hubdist.cluster.agent.messages import DeliveryTerms, Ready
from hubdist.cluster.agent.node_port import Address, NodePort
from hubdist.config.node_settings import NodeSettings
from hubdist.errors import IntegrityError, PeerError
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.copy_reader import CopyReader
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.store.older_blocks import OlderBlocks
from hubdist.store.store import Store


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
        request: RequestPart = request_part,
        port: NodePort | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._port = port or NodePort(None)
        self._config = config
        self._guard = threading.Lock()
        self._files = DeliveryFiles()
        self._incoming: dict[str, Incoming] = {}
        self._fetches = ChunkFetches(self._port, request, timeout_s=config.chunk_timeout_s, clock=clock)

    def begin(
        self,
        delivery: str,
        manifest: Manifest | None,
        terms: DeliveryTerms,
        copy: RemoteCopy | None,
    ) -> Ready:
        """Make ready to receive a model.

        Another call discards what was received until then. A snapshot that this node sends from stays in use.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest; None while its origin is still being read.
            terms: What nodes agree on. A node that does not know the chunks' size takes nothing from its older
                snapshots.
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
        self._files.release(delivery)  # a snapshot that the store has lost
        # Chunks of the earlier stage are not in the new one: the port would send what its files hold instead, and the
        # receivers would take this node for one that sends wrong bytes.
        self._port.leave(delivery)
        with contextlib.ExitStack() as undo:
            stage = self._store().stage_chunks(manifest)
            undo.callback(stage.discard)
            reader = None
            if manifest is not None and copy is not None:
                reader = CopyReader(copy, manifest, self._config.deadlines, max_bytes=self._config.max_store_bytes)
                undo.callback(reader.close)
            if not self._files.fill(delivery, stage):  # the caller repeated the call, because an answer was lost
                return Ready(False, self._port.address)
            with self._guard:
                incoming = self._incoming[delivery] = Incoming(
                    stage, reader, expected_chunks(manifest, terms.chunk_bytes)
                )
            undo.pop_all()
        if manifest is not None:
            incoming.publish = functools.partial(self.publish, delivery, manifest, terms)
        self._join(delivery, terms.secret)
        if manifest is not None and terms.chunk_bytes is not None:
            incoming.reuse = BlockReuse(OlderBlocks(self._store(), manifest), stage)
            if copy is None:
                chunks = incoming.expected or cut_chunks(manifest, terms.chunk_bytes)
                incoming.reuse.start(self._port.units(delivery), chunks)
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
            self._files.offer(delivery, self._store().staged_files(stage), chunks)
        self._join(delivery, secret)
        for chunk, _ in chunks:
            self._port.add(delivery, chunk)
        return self._port.address

    def hold(
        self,
        delivery: str,
        secret: bytes,
        digest: Digest,
        ordinals: Sequence[int],
        cut: int | Sequence[Chunk] | None,
    ) -> Address | None:
        """Make ready to send chunks of a published snapshot.

        Args:
            delivery: Name of the delivery.
            secret: The delivery's secret.
            digest: The model's digest.
            ordinals: For each entry of the model's manifest, the number of its file in the delivery's chunks.
            cut: How the model is cut: the size of chunks that are cut from the manifest, or the chunks themselves; None
                if this node knows its chunks already.

        Returns:
            Where this node sends chunks; None if it has no port.

        Raises:
            IntegrityError: The snapshot is missing or damaged on this node.
        """
        snapshot = self._store().find(digest)
        if snapshot is None:
            raise IntegrityError(f"the snapshot {digest} is not in the store of the node that should send it")
        self._files.hold(delivery, snapshot, ordinals)
        self._join(delivery, secret)
        if cut is not None:
            chunks = cut_chunks(snapshot.manifest, cut) if isinstance(cut, int) else cut
            for chunk in chunks:
                self._port.add(delivery, chunk)
            self._port.units(delivery).set_count(len(chunks))
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
        if not self._port.units(delivery).has(part.index):
            raise IntegrityError(f"this node does not have chunk {part.index}")
        return self._files.read(delivery, part)

    def writer(self, delivery: str) -> Callable[[Chunk, memoryview], None]:
        """What checks a unit's bytes and writes them into this node's stage.

        Once the manifest is known, a unit must also be the manifest's: its digests came from the node that sent it.

        Raises:
            PeerError: This node receives nothing for the delivery.
        """
        stage = self._files.stage(delivery)
        with self._guard:
            incoming = self._incoming.get(delivery)
        expected = None if incoming is None else incoming.expected

        def write(chunk: Chunk, data: memoryview) -> None:
            if expected is not None and (chunk.index >= len(expected) or expected[chunk.index] != chunk):
                raise IntegrityError(f"unit {chunk.index} is not as the model's manifest says")
            stage.write_chunk(chunk, data)

        return write

    def reused_bytes(self, delivery: str) -> int:
        """Bytes of whole units that this node has taken from its older snapshots since the delivery began here."""
        with self._guard:
            incoming = self._incoming.get(delivery)
        return 0 if incoming is None or incoming.reuse is None else incoming.reuse.taken_bytes

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
        fetched = self._fetches.fetch(delivery, chunk, sender, incoming)
        self._port.add(delivery, chunk)
        return fetched

    def cancel_requests(self, delivery: str, agent: bytes) -> None:
        """Wait no longer for chunks that an agent was asked for: their `fetch` ends with a PeerError.

        Args:
            delivery: Name of the delivery.
            agent: The agent's handle, made by `pickle_agent`.
        """
        self._fetches.cancel(delivery, agent)

    def publish_received(self, delivery: str) -> bool:
        """Publish a stage that has all chunks; False if the manifest was not known when the delivery began here."""
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is None or incoming.publish is None:
            return False
        incoming.publish()
        return True

    def publish(self, delivery: str, manifest: Manifest, terms: DeliveryTerms) -> None:
        """Publish a stage that has all its chunks, and send chunks from the snapshot from then on.

        Args:
            delivery: Name of the delivery.
            manifest: The model's manifest.
            terms: What nodes agree on.

        Raises:
            IntegrityError: The stage does not hold exactly the manifest's files.
            StoreError: The node's disk refuses.
        """
        with self._guard:
            incoming = self._incoming.get(delivery)
        if incoming is not None and incoming.reuse is not None:
            incoming.reuse.stop()  # the store may have to evict the older snapshots when it publishes
        with self._files.publishing(delivery) as stage:
            if stage is None:  # the coordinator repeated the call, because the answer was lost
                return
            stage.close(manifest, terms.ordinals)
            self._store().publish(stage).release()
            self.hold(delivery, terms.secret, manifest.digest, terms.ordinals, None)
        self._discard(delivery)

    def forget(self, delivery: str) -> None:
        """Take no further part in a delivery: cancel requests, discard the stage, release the snapshot."""
        self._fetches.cancel(delivery)
        with contextlib.ExitStack() as ending:  # in reverse order, and each whatever the others do
            ending.callback(self._port.leave, delivery)
            ending.callback(self._files.forget, delivery)
            ending.callback(self._discard, delivery)

    def _join(self, delivery: str, secret: bytes) -> None:
        self._port.join(delivery, secret, lambda number: self._files.open(delivery, number))

    def _discard(self, delivery: str) -> None:
        with self._guard:
            incoming = self._incoming.pop(delivery, None)
        with contextlib.ExitStack() as ending:  # closes the reader even if the stage cannot be removed
            if incoming is not None and incoming.copy is not None:
                ending.callback(incoming.copy.close)
            if incoming is not None and incoming.reuse is not None:
                incoming.reuse.stop()
            self._files.discard_stage(delivery)
