"""The coordinator's side of enclosures: which models it encloses in its answers, for whom, and how many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from hubdist.cluster.agent.chunk_rpc import result_count, split_into_results
from hubdist.cluster.coordinator.concurrency import BlockingWork, SingleFlight
from hubdist.cluster.coordinator.delivery_reports import DeliveryReports
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.enclosure import chunks_of, fits
from hubdist.cluster.nodes import ClusterView, Node, choose_nodes
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route, may_enclose
from hubdist.errors import IntegrityError, StoreError
from hubdist.model.manifest import Digest
from hubdist.resolver.values import LoaderPin, Pinned
from hubdist.store.snapshot import Snapshot

_LOG = logging.getLogger(__name__)

_MAX_READ = 4
"""How many models are kept in memory: many nodes ask for the same one at about the same time."""


class Enclosures:
    """Encloses small models in answers. Owned by the coordinator's event loop.

    The bytes of all answers leave the driver's node, so few are under way at a time. A process that would have to wait
    for long gets nothing, and its node the model by an agent, which shares the work with others.

    Args:
        node: The driver's node.
        config: The job's settings.
        pins: The job's pins.
        snapshots: The driver's store.
        reports: Notes what nodes got.
        work: Threads for looks at the disk.
        cluster: Tells which nodes are alive.
        at_once: How many answers are under way at a time.
        patience_s: How many seconds a process waits until it gets nothing.
        lost_after_s: After how many seconds an answer counts as lost, because its process has not told what became of
            it.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        *,
        pins: JobPins,
        snapshots: DriverSnapshots,
        reports: DeliveryReports,
        work: BlockingWork,
        cluster: ClusterView,
        at_once: int = 16,
        patience_s: float = 0.5,
        lost_after_s: float = 10.0,
    ) -> None:
        self._node = node
        self._config = config
        self._pins = pins
        self._snapshots = snapshots
        self._reports = reports
        self._work = work
        self._cluster = cluster
        self._room = asyncio.Semaphore(at_once)
        self._patience_s = patience_s
        self._lost_after_s = lost_after_s
        self._under_way: dict[tuple[Digest, str], asyncio.TimerHandle] = {}
        """A model and a node's id -> what ends the wait for news of the answer."""
        self._flights = SingleFlight()
        self._read: OrderedDict[Digest, tuple[bytes, ...]] = OrderedDict()

    async def would_enclose(self, pinned: Pinned, wanted: Route | None) -> bool:
        """True if a process that asks for this model would get it enclosed. Nothing is read or noted.

        Args:
            pinned: The model.
            wanted: The route that the process wants; None for the best one.
        """
        small = fits(pinned.manifest) and may_enclose(wanted, in_shared_cache=pinned.shared is not None)
        return small and await self._snapshots.has(pinned.digest)

    async def enclose(self, pin: LoaderPin, node_id: str, results: int) -> tuple[Any, ...]:
        """The manifest and the bytes of a small model, as the results of one call.

        Args:
            pin: The model, with the route that the process wants.
            node_id: Ray's id of the process's node.
            results: How many results the call has: one for the manifest, the others for the bytes.

        Returns:
            The manifest, the bytes in order, and empty bytes for what is left of the results; None for each result if
            agents have to deliver the model.
        """
        nothing = (None,) * results
        wanted = self._config.wanted_route(pin.settings, None)
        shared = any(pinned.shared is not None for pinned in self._pins.of_digest(pin.digest))
        if node_id == self._node.id or not may_enclose(wanted, in_shared_cache=shared):
            return nothing
        snapshot = await self._snapshots.find(pin.digest)
        if snapshot is None or not fits(snapshot.manifest):
            return nothing
        if 1 + result_count(snapshot.manifest.total_bytes) > results:
            return nothing
        try:
            parts = await self._flights.run(pin.digest, lambda: self._parts(snapshot))
        except (IntegrityError, StoreError) as error:  # a delivery meets the same error, and mends the snapshot
            _LOG.info("hubdist: %s is not enclosed: %s", pin.handle, error)
            return nothing
        if not await self._begin((pin.digest, node_id)):
            return nothing
        return (snapshot.manifest, *parts, *(b"",) * (results - 1 - len(parts)))

    async def note(self, pin: LoaderPin, node_id: str, seconds: float | None) -> None:
        """Take note of what became of an answer.

        Args:
            pin: The model.
            node_id: Ray's id of the node whose process got the answer.
            seconds: How long the process took from its question to the published snapshot; None if it could not
                publish the model, which is then delivered and reported otherwise.

        Raises:
            ConfigError: The node is not alive any more.
            NotPinnedError: This job does not know the model.
        """
        self._end((pin.digest, node_id))
        if seconds is not None:
            node = choose_nodes(await self._cluster.alive(), [node_id])[0]
            manifest = await self._pins.manifest(pin.digest)
            self._reports.note_enclosed(pin.handle, manifest, node, seconds)

    async def _parts(self, snapshot: Snapshot) -> Sequence[bytes]:
        digest = snapshot.manifest.digest
        parts = self._read.get(digest)
        if parts is None:
            parts = self._read[digest] = await self._work.look(lambda: _read_parts(snapshot))
        self._read.move_to_end(digest)
        while len(self._read) > _MAX_READ:
            self._read.popitem(last=False)
        return parts

    async def _begin(self, answer: tuple[Digest, str]) -> bool:
        """Take room for one more answer; False if there is none."""
        try:
            await asyncio.wait_for(self._room.acquire(), self._patience_s)
        except TimeoutError:
            return False
        self._end(answer)  # an earlier one, which got lost or was asked for again
        loop = asyncio.get_running_loop()
        self._under_way[answer] = loop.call_later(self._lost_after_s, self._end, answer)
        return True

    def _end(self, answer: tuple[Digest, str]) -> None:
        timer = self._under_way.pop(answer, None)
        if timer is not None:
            timer.cancel()
            self._room.release()


def _read_parts(snapshot: Snapshot) -> tuple[bytes, ...]:
    """The bytes of a small model, checked."""
    data = memoryview(bytearray(snapshot.manifest.total_bytes))
    for chunk in chunks_of(snapshot.manifest):
        snapshot.read_chunk(chunk, data)
    return split_into_results(data)
