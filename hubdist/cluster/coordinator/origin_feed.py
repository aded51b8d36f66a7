"""Deliveries that begin while the origin is still being read; the manifest closes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from hubdist.cluster.coordinator.delivery_run import DeliveryRun
from hubdist.cluster.coordinator.progress import DeliveryStats
from hubdist.cluster.coordinator.running import EARLY_CHUNK_BYTES, RunningDeliveries
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.nodes import Node, alive_nodes
from hubdist.errors import HubdistError
from hubdist.model.chunks import Chunk
from hubdist.model.manifest import Digest, Manifest

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

Expect = Callable[[Digest, Node, asyncio.Task[DeliveryStats | None]], None]


class OriginFeed:
    """Sends the chunks of a handle's origin on while they come; a `fetching.Feed`.

    `began`, `grew` and `published` are called by the thread that reads the origin, everything else in the
    coordinator's event loop. Nothing is published on a node before `settle`.

    Of nodes that share a store one takes part, and none of those that share the driver's.

    Args:
        transfers: The job's.
        node: The driver's node.
        stores: Tells which nodes share a store.
        expect: Told at `settle` of each node that the model is on its way to, or that has it: the model, the node, and
            the task that ends with what it took; None if the node did not get it.
    """

    def __init__(self, transfers: RunningDeliveries, node: Node, stores: StoreGroups, expect: Expect) -> None:
        self._transfers = transfers
        self._stores = stores
        self._expect = expect
        self._bringing: list[tuple[Node, asyncio.Task[DeliveryStats | None]]] = []
        self._joined = {node.id}
        """Nodes in whose stores the model is being written."""
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[str, Node] = {}
        self._transfer: DeliveryRun | None = None
        self._paths: list[tuple[str, ...]] = []
        self._files: tuple[Manifest, tuple[int, ...]] | None = None
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.chunk_bytes = EARLY_CHUNK_BYTES

    # In the thread that reads the origin

    def began(self, stage: str) -> None:
        """See `Feed`."""
        try:
            alive = alive_nodes()
        except HubdistError as error:  # the origin is read all the same, and sent on afterwards
            _LOG.warning("hubdist: nothing is sent on while the origin is read: %s", error)
            return
        self._loop.call_soon_threadsafe(self._begin, stage, alive)

    def grew(self, chunk: Chunk, paths: Sequence[str]) -> None:
        """See `Feed`."""
        self._loop.call_soon_threadsafe(self._grow, chunk, tuple(paths))

    def published(self, manifest: Manifest, ordinals: Sequence[int]) -> None:
        """See `Feed`."""
        self._loop.call_soon_threadsafe(self._publish, manifest, tuple(ordinals))

    # In the event loop

    def add(self, node: Node) -> None:
        """Let a node take part."""
        if node.id not in self._wanted:
            self._wanted[node.id] = node
            if self._transfer is not None and not self._over.is_set():
                self._start(self._bring, self._transfer, node)

    def settle(self) -> None:
        """What was read is what the handle stands for: let the nodes publish it."""
        if self._transfer is not None and not self._over.is_set():
            if self._files is None:  # the origin was not read to its end after all
                self._transfer.fail(HubdistError("the model was found elsewhere"))
            else:
                self._transfer.close(*self._files)
                self._transfers.adopt(self._transfer)
                for node, task in self._bringing:
                    self._expect(self._files[0].digest, node, task)
        self._over.set()

    def fail(self, error: HubdistError) -> None:
        """It is not, or could not be read: let the nodes discard what they have."""
        if self._transfer is not None and not self._over.is_set():
            self._transfer.fail(error)
        self._over.set()

    def _begin(self, stage: str, alive: list[Node]) -> None:
        if self._transfer is not None:  # the first try failed, and another origin is being read
            self.fail(HubdistError("another origin is read"))
            return

        def staged(chunk: Chunk) -> tuple[str, Mapping[int, str]]:
            numbers = [piece.entry_index for piece in chunk.pieces]
            return stage, dict(zip(numbers, self._paths[chunk.index], strict=True))

        self._transfer = self._transfers.open(alive, staged)
        self._start(self._keep, self._transfer)
        for node in self._wanted.values():
            self._start(self._bring, self._transfer, node)

    def _grow(self, chunk: Chunk, paths: tuple[str, ...]) -> None:
        if self._transfer is not None and not self._over.is_set():
            self._paths.append(paths)
            self._transfer.add([chunk])

    def _publish(self, manifest: Manifest, ordinals: tuple[int, ...]) -> None:
        self._files = (manifest, ordinals)

    async def _keep(self, transfer: DeliveryRun) -> None:
        async with transfer.use():
            await self._over.wait()
        self._transfers.drop_ended()

    async def _bring(self, transfer: DeliveryRun, node: Node) -> None:
        try:
            node = await self._stores.first(node)
        except HubdistError as error:
            _LOG.info("hubdist: %s was not asked whose store it shares: %s", node.name, error)
            return
        if node.id not in self._joined and transfer is self._transfer and not self._over.is_set():
            self._joined.add(node.id)
            self._bringing.append((node, self._start(self._receive, transfer, node)))

    async def _receive(self, transfer: DeliveryRun, node: Node) -> DeliveryStats | None:
        try:
            return await transfer.bring(node)
        except HubdistError as error:  # whoever asks for the model on this node tries again, and hears of it
            _LOG.info("hubdist: %s did not get the model while it was read: %s", node.name, error)
            return None
        finally:
            self._transfers.drop_ended()

    def _start(self, work: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> asyncio.Task[_T]:
        task = asyncio.create_task(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
