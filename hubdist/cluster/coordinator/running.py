"""The running transfers of a job: nodes that ask for a model while it travels take part in its delivery."""

from __future__ import annotations

import asyncio
import itertools
import sys

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.delivery_run import DeliveryRun
from hubdist.cluster.coordinator.fetches import Means
from hubdist.cluster.coordinator.liveness import Liveness
from hubdist.cluster.coordinator.payload import Payload, SeedSource, Staged
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.windows import Windows
from hubdist.cluster.nodes import Node, alive_nodes
from hubdist.config.schema import Config
from hubdist.delivery import choose_chunk_bytes
from hubdist.delivery.routes import Route
from hubdist.errors import StoreFullError
from hubdist.model.chunks import cut_chunks
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy

_STORAGE_CHUNK_BYTES = 8 << 20
"""A request to object storage for less takes longer to be answered than to be transferred."""

_MAX_BARS = 200
"""Of progress bars, nobody looks at more."""

EARLY_CHUNK_BYTES = 4 << 20
"""Most bytes of a chunk while the model's size is unknown; the first ones are smaller."""


class RunningDeliveries:
    """Begins transfers, and remembers which nodes have had a model. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        agents: Agents by node.
        config: Windows and deadlines.
    """

    def __init__(self, node: Node, agents: AgentPool, config: Config) -> None:
        self._node = node
        self._config = config
        self._means = Means(agents, Windows(config.in_flight_bytes), Liveness(agents), config)
        self._running: dict[tuple[Digest, Route], DeliveryRun] = {}
        self._holders: dict[Digest, set[str]] = {}
        """Model -> ids of nodes."""

    @property
    def active(self) -> bool:
        """True while a model travels."""
        return bool(self._running)

    @property
    def progress(self) -> dict[str, tuple[int, int]]:
        """Node and model -> bytes that arrived, bytes in all; of what began first, if there is much."""
        found = (
            (f"{name} {digest.value[:8]}", (arrived, transfer.contents.total_bytes))
            for (digest, _), transfer in self._running.items()
            for name, arrived in transfer.arrived_bytes.items()
        )
        return dict(itertools.islice(found, _MAX_BARS))

    @property
    def pulse(self) -> Liveness:
        """Tells which nodes give no answer."""
        return self._means.pulse

    def note_holder(self, digest: Digest, node: Node) -> None:
        """A node has a model in its store; it may send it to others."""
        if node.id != self._node.id:
            self._holders.setdefault(digest, set()).add(sys.intern(node.id))

    async def bring(
        self, manifest: Manifest, node: Node, route: Route, place: RemoteCopy | None
    ) -> DeliveryStats | None:
        """Bring a model to a node; None if its store had it.

        Args:
            manifest: The model.
            node: Which.
            route: Tells transfers of one model apart.
            place: What nodes read themselves, each a share, for all; None to send from the driver's node.

        Raises:
            HubdistError: Why the node could not get it.
        """
        key = (manifest.digest, route)
        transfer = self._running.get(key)
        if transfer is None or transfer.ended:
            nodes = await asyncio.to_thread(alive_nodes)
            transfer = self._running.get(key)
            if transfer is None or transfer.ended:
                transfer = self._begin(manifest, nodes, place)
                self._running[key] = transfer
        try:
            try:
                return await transfer.bring(node)
            except StoreFullError:
                if not transfer.began_early:
                    raise
                return await transfer.bring(node)  # now that its size is known, room is made for the model
        finally:
            self.drop_ended()

    def drop_ended(self) -> None:
        """Forget transfers that are over."""
        for key in [key for key, transfer in self._running.items() if transfer.ended]:
            del self._running[key]

    # While the origin is being read

    def open(self, nodes: list[Node], staged: Staged) -> DeliveryRun:
        """A transfer whose chunks are still to come.

        Args:
            nodes: All that are alive.
            staged: See `SeedSource`.
        """
        return self._make(Payload(), SeedSource.at(self._node, staged), nodes, [], EARLY_CHUNK_BYTES)

    def adopt(self, transfer: DeliveryRun) -> None:
        """The model of an opened transfer is known: others who ask for it take part."""
        digest = transfer.contents.digest
        assert digest is not None
        running = self._running.get((digest, Route.DRIVER))
        if running is None or running.ended:
            self._running[digest, Route.DRIVER] = transfer

    def _begin(self, manifest: Manifest, nodes: list[Node], place: RemoteCopy | None) -> DeliveryRun:
        room = self._config.in_flight_bytes
        chunk_bytes = choose_chunk_bytes(manifest.total_bytes, room_bytes=room, nodes=len(nodes))
        if place is not None:
            chunk_bytes = max(
                chunk_bytes, min(_STORAGE_CHUNK_BYTES, choose_chunk_bytes(1 << 62, room_bytes=room, nodes=len(nodes)))
            )
        contents = Payload(
            list(cut_chunks(manifest, chunk_bytes)),
            manifest,
            tuple(range(len(manifest.entries))),
        )
        holders = self._holders.get(manifest.digest, ())
        source = SeedSource.at(self._node) if place is None else SeedSource.read_at(place)
        return self._make(contents, source, nodes, [node for node in nodes if node.id in holders], chunk_bytes)

    def _make(
        self, contents: Payload, source: SeedSource, nodes: list[Node], holders: list[Node], chunk_bytes: int
    ) -> DeliveryRun:
        return DeliveryRun(
            contents,
            source,
            window_bytes=self._config.in_flight_bytes,
            chunk_bytes=chunk_bytes,
            nodes=len(nodes),
            holders=holders,
            means=self._means,
        )
