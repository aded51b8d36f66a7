"""The running deliveries of a job: nodes that ask for a model while its delivery runs take part in that delivery."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.chunk_run import ChunkRun
from hubdist.cluster.coordinator.closed_ports import ClosedPorts
from hubdist.cluster.coordinator.finished_deliveries import FinishedDeliveries
from hubdist.cluster.coordinator.liveness import DEFAULT_TIMES, Liveness, LivenessTimes
from hubdist.cluster.coordinator.payload import DeliveryContext, Payload, SeedSource, Staged
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.stream_run import StreamRun
from hubdist.cluster.coordinator.windows import Windows
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.delivery import choose_chunk_bytes
from hubdist.delivery.routes import Route
from hubdist.errors import StoreFullError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.arrivals import Arrival

_REMOTE_CHUNK_BYTES = 8 << 20
"""Least size of a chunk that is read from object storage: for less, waiting for the answer takes longer than the
transfer."""

UNIT_BYTES = 1 << 20
"""Size of the units of streams: small enough to stay in the processor's cache while they are checked and written."""

_HUGE_BYTES = 1 << 62

_MAX_ARRIVALS = 4096
"""Most entries of `watch`."""

MAX_SENDERS = 8
"""Most senders that an entry of `watch` names."""

EARLY_CHUNK_BYTES = 4 << 20
"""Most bytes of a chunk while the model's size is unknown; the first ones are smaller."""


class RunningDeliveries:
    """Starts deliveries, and remembers which nodes have received a model. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        agents: Starts and lends agents.
        cluster: Tells which nodes are alive.
        config: The job's settings: bytes in flight and deadlines.
        times: How long nodes may give no answer.
        share: Puts a value into Ray's object store, as in `Payload`; tests without Ray give None.
    """

    def __init__(
        self,
        node: Node,
        agents: AgentPool,
        cluster: ClusterView,
        config: Config,
        times: LivenessTimes = DEFAULT_TIMES,
        *,
        share: Callable[[Any], Any] | None = None,
    ) -> None:
        self._node = node
        self._share = share
        windows, liveness = Windows(config.max_in_flight_bytes), Liveness(agents, cluster, times)
        self.closed_ports = ClosedPorts(opens_ports=config.node_settings.opens_port)
        self._context = DeliveryContext(
            cluster, agents, windows, liveness, times, self.closed_ports, config, FinishedDeliveries(agents)
        )
        self._running: dict[tuple[Digest, Route], ChunkRun | StreamRun] = {}
        self._holders: dict[Digest, set[str]] = {}
        """Model's digest -> ids of nodes."""

    @property
    def active(self) -> bool:
        """True while a delivery runs."""
        return bool(self._running)

    def watch(self) -> tuple[Arrival, ...]:
        """What is arriving; the deliveries that began first come first. For some seconds nodes tell more often."""
        self._context.watching.note()
        found = (
            Arrival(
                receiver.node.name,
                str(digest),
                receiver.arrived_bytes,
                run.payload.total_bytes,
                receiver.senders[:MAX_SENDERS],
            )
            for (digest, _), run in self._running.items()
            for receiver in run.receivers
        )
        return tuple(itertools.islice(found, _MAX_ARRIVALS))

    @property
    def liveness(self) -> Liveness:
        """Tells which nodes give no answer."""
        return self._context.liveness

    def note_holder(self, digest: Digest, node: Node) -> None:
        """Note that a node has a model in its store and may send it to others.

        Args:
            digest: The model's digest.
            node: The node. The driver's node is not noted, because it is the source anyway.
        """
        if node.id != self._node.id:
            self._holders.setdefault(digest, set()).add(sys.intern(node.id))

    async def join_delivery(
        self, manifest: Manifest, node: Node, route: Route, copy: RemoteCopy | None
    ) -> DeliveryStats | None:
        """Let a node take part in the delivery of a model, which starts if none runs; return when the node has it.

        Args:
            manifest: The model's manifest.
            node: The node.
            route: Tells deliveries of one model apart.
            copy: A remote directory that the nodes read together, each a share for all; None to send from the
                driver's node.

        Returns:
            None if the node's store had the model.

        Raises:
            HubdistError: Why the node could not get the model, with the node's name.
        """
        key = (manifest.digest, route)
        run = self._running.get(key)
        if run is None or run.ended:
            nodes = await self._context.cluster.alive()
            run = self._running.get(key)
            if run is None or run.ended:  # nobody else has started the delivery meanwhile
                run = self._running[key] = self._start_run(manifest, nodes, copy)
        try:
            try:
                return await run.receive(node)
            except StoreFullError:
                if not run.began_early:
                    raise
                # The model's size was unknown when the node began. Now it is known, and the store makes room for it.
                return await run.receive(node)
        finally:
            self.drop_ended()

    def drop_ended(self) -> None:
        """Forget deliveries that have ended."""
        for key in [key for key, run in self._running.items() if run.ended]:
            del self._running[key]

    # While the origin is being read

    def start_early(self, nodes: list[Node], staged: Staged) -> StreamRun:
        """Start a delivery whose chunks are still to come.

        Args:
            nodes: All nodes that are alive.
            staged: Finds a chunk in the stage of the driver's node.
        """
        source = SeedSource.at(self._node, staged)
        return StreamRun(Payload(share=self._share), source, nodes=len(nodes), holders=[], context=self._context)

    def adopt(self, run: StreamRun) -> None:
        """Let others who ask for the model take part in a delivery that started early; the model is known now."""
        digest = run.payload.digest
        assert digest is not None
        running = self._running.get((digest, Route.DRIVER))
        if running is None or running.ended:
            self._running[digest, Route.DRIVER] = run

    def _start_run(self, manifest: Manifest, nodes: list[Node], copy: RemoteCopy | None) -> ChunkRun | StreamRun:
        holders = self._holders.get(manifest.digest, ())
        senders = [node for node in nodes if node.id in holders]
        if copy is None:
            source = SeedSource.at(self._node)
            payload = self._cut(manifest, UNIT_BYTES)
            return StreamRun(payload, source, nodes=len(nodes), holders=senders, context=self._context)
        room = self._context.config.max_in_flight_bytes
        chunk_bytes = choose_chunk_bytes(manifest.total_bytes, room_bytes=room, nodes=len(nodes))
        largest = choose_chunk_bytes(_HUGE_BYTES, room_bytes=room, nodes=len(nodes))
        chunk_bytes = max(chunk_bytes, min(_REMOTE_CHUNK_BYTES, largest))
        return ChunkRun(
            self._cut(manifest, chunk_bytes),
            SeedSource.remote(copy),
            chunk_bytes=chunk_bytes,
            nodes=len(nodes),
            holders=senders,
            context=self._context,
        )

    def _cut(self, manifest: Manifest, chunk_bytes: int) -> Payload:
        chunks = list(cut_chunks(manifest, chunk_bytes))
        return Payload(chunks, manifest, tuple(range(len(manifest.entries))), chunk_bytes, share=self._share)
