"""Deliveries that begin while the origin is still being read: nodes get a model's chunks while they come.

A feed begins with a stage of the driver's store and ends with the manifest, or with an error of the origin.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from hubdist.cluster.coordinator.held_chunks import HeldChunks
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import EARLY_CHUNK_BYTES, RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.coordinator.stream_run import StreamRun
from hubdist.cluster.enclosure import MAX_ENCLOSED_BYTES
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.errors import HubdistError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

Expect = Callable[[Digest, Node, asyncio.Task[DeliveryStats | None]], None]


class OriginFeed:
    """Delivers the chunks of an origin to nodes while the origin is being read; a `Feed` of the resolver.

    The thread that reads the origin calls `started`, `chunk_ready` and `published`. Everything else runs in the
    coordinator's event loop. No node publishes before `settle`, because the pin may still refuse what was read.

    The delivery begins when more than `start_bytes` have been read: a smaller model is enclosed in answers, and needs
    no agents.

    Of nodes that share a store one takes part, and none of those that share the driver's store.

    Args:
        deliveries: The job's running deliveries.
        node: The driver's node.
        stores: Tells which nodes share a store.
        expect: Told at `settle` of each node that has joined: the model, the node, and the task that ends with the
            delivery's figures, or with None if the node did not get the model.
        cluster: Tells which nodes are alive.
        find_known: Returns the digests of the blocks in older snapshots of the driver's store.
        start_bytes: How many bytes may be read before agents are started.
    """

    def __init__(
        self,
        deliveries: RunningDeliveries,
        node: Node,
        stores: StoreGroups,
        expect: Expect,
        cluster: ClusterView,
        *,
        find_known: Callable[[], Collection[bytes]] = frozenset,
        start_bytes: int = MAX_ENCLOSED_BYTES,
    ) -> None:
        self._deliveries = deliveries
        self._stores = stores
        self._expect = expect
        self._cluster = cluster
        self._receiving: list[tuple[Node, asyncio.Task[DeliveryStats | None]]] = []
        self._joined = {node.id}
        """Ids of nodes in whose stores the model is being written."""
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[str, Node] = {}
        self._start_bytes = start_bytes
        self._stage: tuple[str, list[Node]] | None = None
        """Name of the stage that is being written, and the nodes that were alive when it was begun."""
        self._ready: list[Chunk] = []
        """Chunks that the delivery does not know yet."""
        self._decided = asyncio.Event()
        """Set when the delivery has begun, or will not begin."""
        self._run: StreamRun | None = None
        self._paths: list[tuple[str, ...]] = []
        """Chunk -> the paths of its files in the stage."""
        self._model: tuple[Manifest, tuple[int, ...]] | None = None
        self._over = asyncio.Event()
        self._held = HeldChunks(find_known)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.chunk_bytes = EARLY_CHUNK_BYTES

    # In the thread that reads the origin

    def started(self, stage: str) -> None:
        """Start the delivery: files are being written into the stage of this name."""
        try:
            alive = self._cluster.list_nodes()
        except HubdistError as error:  # the origin is read all the same, and delivered afterwards
            _LOG.warning("hubdist: nothing is delivered while the origin is read: %s", error)
            return
        self._loop.call_soon_threadsafe(self._on_started, stage, alive)

    def chunk_ready(self, chunk: Chunk, paths: Sequence[str]) -> None:
        """Deliver a chunk that has been written into the stage.

        Args:
            chunk: The chunk, with its digests.
            paths: For each piece of the chunk, the path of its file in the stage.
        """
        for ready in self._held.add(chunk, paths):
            self._loop.call_soon_threadsafe(self._on_chunk_ready, *ready)

    def published(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """Remember the manifest for `settle`: the stage has become a snapshot.

        Args:
            manifest: The snapshot's manifest.
            ordinals: For each entry of the manifest, the number of its file in the chunks.
        """
        left = self._held.end()
        if left is None:
            known = HubdistError(
                "most of the model is in older snapshots, so it is delivered when the manifest is known"
            )
            self._loop.call_soon_threadsafe(self.fail, known)
            return
        for ready in left:
            self._loop.call_soon_threadsafe(self._on_chunk_ready, *ready)
        self._loop.call_soon_threadsafe(self._on_published, manifest, tuple(ordinals))

    # In the event loop

    def add(self, node: Node) -> None:
        """Let a node take part."""
        if node.id not in self._wanted:
            self._wanted[node.id] = node
            if self._run is not None and not self._over.is_set():
                self._start(self._let_join, self._run, node)

    def begin(self) -> None:
        """Start agents however little has been read: nodes need the model although no process there asks for it."""
        self._start_bytes = -1
        self._begin_if_large()

    async def begins(self) -> bool:
        """Wait until this is known: True if nodes receive chunks while the origin is read."""
        await self._decided.wait()
        return self._run is not None

    def end(self) -> None:
        """Let nobody wait for a delivery that has not begun: nobody waits for the origin any more."""
        self._decided.set()

    def settle(self) -> None:
        """Let the nodes publish: the model that was read is the one that the handle stands for."""
        if self._run is not None and not self._over.is_set():
            if self._model is None:  # the resolver found the model elsewhere and stopped reading
                self._run.fail(HubdistError("the model was found elsewhere"))
            else:
                self._run.published(*self._model)
                self._deliveries.adopt(self._run)
                for node, task in self._receiving:
                    self._expect(self._model[0].digest, node, task)
        self._over.set()
        self._decided.set()

    def fail(self, error: HubdistError) -> None:
        """Let the nodes discard what they received: the origin failed, or a pin refused the model."""
        if self._run is not None and not self._over.is_set():
            self._run.fail(error)
        self._over.set()
        self._decided.set()

    def _on_started(self, stage: str, alive: list[Node]) -> None:
        if self._stage is not None:  # the first attempt failed, and another origin is being read
            self.fail(HubdistError("another origin is read"))
            return
        self._stage = stage, alive
        self._begin_if_large()

    def _begin_if_large(self) -> None:
        """Begin the delivery if it is due, and let it have the chunks that it does not know."""
        if self._stage is None or self._over.is_set():
            return
        if self._run is None and sum(chunk.size for chunk in self._ready) > self._start_bytes:
            self._run = self._start_run(*self._stage)
            self._decided.set()
        if self._run is not None:
            for chunk in self._ready:
                self._run.chunk_ready(chunk)
            self._ready.clear()

    def _start_run(self, stage: str, alive: list[Node]) -> StreamRun:
        def staged(chunk: Chunk) -> tuple[str, Mapping[int, str]]:
            numbers = [piece.entry_index for piece in chunk.pieces]
            return stage, dict(zip(numbers, self._paths[chunk.index], strict=True))

        run = self._deliveries.start_early(alive, staged)
        self._start(self._keep, run)
        for node in self._wanted.values():
            self._start(self._let_join, run, node)
        return run

    def _on_chunk_ready(self, chunk: Chunk, paths: tuple[str, ...]) -> None:
        if self._stage is not None and not self._over.is_set():
            self._paths.append(paths)
            self._ready.append(chunk)
            self._begin_if_large()

    def _on_published(self, manifest: Manifest, ordinals: tuple[int, ...]) -> None:
        self._model = (manifest, ordinals)

    async def _keep(self, run: StreamRun) -> None:
        """Keep the delivery from ending before the origin has been read, even if no node takes part yet."""
        async with run.use():
            await self._over.wait()
        self._deliveries.drop_ended()

    async def _let_join(self, run: StreamRun, node: Node) -> None:
        """Let the node that receives for this node's store join the delivery, once for each store."""
        try:
            node = await self._stores.first(node)
        except HubdistError as error:
            _LOG.info("hubdist: %s was not asked whose store it shares: %s", node.name, error)
            return
        if node.id not in self._joined and run is self._run and not self._over.is_set():
            self._joined.add(node.id)
            self._receiving.append((node, self._start(self._receive, run, node)))

    async def _receive(self, run: StreamRun, node: Node) -> DeliveryStats | None:
        try:
            return await run.receive(node)
        except HubdistError as error:  # whoever asks for the model on this node tries again and gets the error
            _LOG.info("hubdist: %s did not get the model while it was read: %s", node.name, error)
            return None
        finally:
            self._deliveries.drop_ended()

    def _start(self, work: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> asyncio.Task[_T]:
        task = asyncio.create_task(work(*arguments))
        self._tasks.add(task)  # the event loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)
        return task
