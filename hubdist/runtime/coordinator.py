"""The coordinator: the one actor of a job that resolves, remembers and plans.

A plain class; `actors` makes an actor of it. Its methods run in one event loop, so its fields need no locks; what
blocks runs in threads. Every method may be called again with the same arguments: the work is done once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

from hubdist.config import Config
from hubdist.errors import ConfigError, HubdistError, IntegrityError, PeerError
from hubdist.manifest import Chunk, Digest, Manifest
from hubdist.report import NodeReport, PinReport, Report
from hubdist.resolver import Resolver
from hubdist.routes import Evidence, Route, choose_route
from hubdist.runtime.agent import read_chunk
from hubdist.runtime.agents import Agents
from hubdist.runtime.calls import stop_this_actor
from hubdist.runtime.job_pins import JobPins
from hubdist.runtime.nodes import Node, alive_nodes
from hubdist.runtime.sharing import SharedWork
from hubdist.runtime.transfer import Brought, Transfer
from hubdist.store import Store

_LOG = logging.getLogger(__name__)
_DETACHED_IDLE_S = 600.0
_MAX_REPORTS = 10_000


@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """What the coordinator knows: its node's name, pins, what nodes got, where agents run."""

    node: str
    pins: tuple[PinReport, ...]
    deliveries: tuple[NodeReport, ...]
    agents: tuple[str, ...]


class Coordinator:
    """Resolves each handle once for a job and brings snapshots to nodes.

    Args:
        config: The job's settings, without origins and models: Ray keeps what it makes actors with, and a model's
            handle may hold secrets.
        fingerprint: Of the whole settings.
        wanted: `Handle.key` -> the only digest that is accepted.
        origins: The user's own origins, by cloudpickle: they may be defined in the driver's `__main__`.
        base_dir: The driver's directory, for relative paths; None refuses them.
        scope: Names the job among all jobs of all clusters that ever used this store; its pins are kept under it.
        node: The node that this runs on.
        make_agent: Starts an agent on a node.
        detached: End the process after a long time without calls.
    """

    def __init__(
        self,
        config: Config,
        *,
        fingerprint: str,
        wanted: Mapping[str, Digest],
        origins: bytes,
        base_dir: Path | None,
        scope: str,
        node: Node,
        make_agent: Callable[[Config, Node], Any],
        detached: bool,
    ) -> None:
        config = config.changed({"origins": cloudpickle.loads(origins)})
        self._config = config
        self._fingerprint = fingerprint
        self._wanted = wanted
        self._node = node
        self._detached = detached
        self._base_dir = base_dir
        self._scope = scope
        self._agents = Agents(config.for_nodes(), make_agent)
        self._work = SharedWork()
        self._transfers: dict[Digest, Transfer] = {}
        self._deliveries: deque[NodeReport] = deque(maxlen=_MAX_REPORTS)
        self._last_call = time.monotonic()
        self._first_delivery: asyncio.Task[None] | None = None

    @functools.cached_property
    def _pins(self) -> JobPins:
        """Made at the first call and not before: an error of the constructor would reach nobody with its type."""
        store = Store(self._config.store_root(self._node.id), max_bytes=self._config.max_bytes)
        return JobPins(store, Resolver(self._config, store, self._base_dir, self._wanted), self._scope)

    async def settings(self, handles: list[str]) -> tuple[Config, str]:
        """The job's settings for its processes, and their fingerprint.

        Args:
            handles: The configured models; the first call begins to deliver them to all nodes.

        Raises:
            StoreError: The store of the driver's node cannot be used.
        """
        self._last_call = time.monotonic()
        self._check_store()
        if self._first_delivery is None:
            self._first_delivery = asyncio.create_task(self._deliver_configured(handles))
            if self._detached:
                self._end_when_idle()
        return self._config.for_nodes(), self._fingerprint

    async def pin(self, text: str) -> tuple[str, Digest]:
        """Resolve a handle, once per job; the answer stays the same even if the origin changes.

        Returns:
            The handle without secrets, and the model that it stands for.

        Raises:
            HubdistError: With handle and node filled in.
        """
        report = await self._pin(text)
        return report.handle, Digest.parse(report.digest)

    async def deliver(self, digest: Digest, handle: str, node_id: str) -> NodeReport:
        """Bring a pinned model to one node; returns when its store has published it.

        Raises:
            HubdistError: The model is not there, or did not reach the node.
        """
        self._last_call = time.monotonic()
        nodes = await self._choose_nodes([node_id])
        report = await self._report(digest, handle, nodes[0])
        if report.error is not None:
            raise report.error
        return report

    async def prefetch(self, texts: list[str], wanted: list[str] | None) -> Report:
        """Resolve handles and bring them to nodes: to all that are alive now, or to those with these ids or names.

        A node that fails is in the report, with its error.
        """
        pins = await asyncio.gather(*(self._pin(text) for text in texts))
        nodes = await self._choose_nodes(wanted)
        reports = await asyncio.gather(
            *(self._report(Digest.parse(pin.digest), pin.handle, node) for pin in pins for node in nodes)
        )
        return Report(tuple(pins), tuple(reports))

    async def progress(self) -> dict[str, tuple[int, int]]:
        """Node and model -> bytes that arrived, bytes in all; for the deliveries that run now."""
        return {
            f"{name} {digest.value[:8]}": (arrived, transfer.manifest.total_bytes)
            for digest, transfer in self._transfers.items()
            for name, arrived in transfer.arrived_bytes.items()
        }

    async def status(self) -> CoordinatorStatus:
        """What this job knows."""
        return CoordinatorStatus(self._node.name, self._pins.reports, tuple(self._deliveries), self._agents.names)

    async def manifest(self, digest: Digest) -> Manifest:
        """The manifest of a pinned model.

        Raises:
            IntegrityError: The driver's store does not have it.
        """
        return (await self._pins.snapshot(digest)).manifest

    async def read(self, digest: Digest, chunk: Chunk) -> Any:
        """The bytes of one chunk of a pinned model, for processes outside the cluster.

        Raises:
            IntegrityError: The driver's store does not have them.
        """
        self._last_call = time.monotonic()
        snapshot = await self._pins.snapshot(digest)
        return await asyncio.to_thread(read_chunk, snapshot, chunk)

    def _check_store(self) -> None:
        try:
            _ = self._pins
        except HubdistError as error:
            raise error.placed(node=self._node.name) from error.__cause__

    async def _pin(self, text: str) -> PinReport:
        self._last_call = time.monotonic()
        try:
            return await self._pins.pin(text)
        except HubdistError as error:
            raise error.placed(node=self._node.name) from error.__cause__

    async def _report(self, digest: Digest, handle: str, node: Node) -> NodeReport:
        return await self._work.once((digest, node.id), lambda: self._deliver(digest, handle, node))

    async def _deliver(self, digest: Digest, handle: str, node: Node) -> NodeReport:
        begin = time.monotonic()
        report = NodeReport(node.id, node.name, handle, str(digest), None, "")
        try:
            report = await self._bring(digest, report, node)
        except HubdistError as error:
            report = replace(report, error=error.placed(handle=handle, node=node.name), reason="it failed")
        except Exception as error:  # noqa: BLE001 - the actor's loop: a failure becomes a report
            _LOG.error("hubdist: unexpected error", exc_info=error)
            failed = PeerError(f"unexpected {type(error).__name__}: {error}", handle=handle, node=node.name)
            report = replace(report, error=failed, reason="it failed")
        report = replace(report, seconds=time.monotonic() - begin)
        self._deliveries.append(report)
        _LOG.info("hubdist: %s to %s", handle, report)
        return report

    async def _bring(self, digest: Digest, report: NodeReport, node: Node) -> NodeReport:
        snapshot = await self._pins.snapshot(digest)
        if node.id == self._node.id:
            return replace(report, route=Route.STORE, reason="it is the driver's own node")
        try:
            brought = await self._transfer(snapshot.manifest, node)
        except IntegrityError:
            if not await self._pins.repair(digest):
                raise
            _LOG.warning("hubdist: the driver's snapshot %s was damaged and is fetched again", digest)
            snapshot = await self._pins.snapshot(digest)
            brought = await self._transfer(snapshot.manifest, node)
        choice = choose_route(Evidence(node_holds_snapshot=brought is None))
        report = replace(report, route=choice.route, reason=choice.reason)
        if brought is None:
            return report
        return replace(report, source=self._node.name, bytes_received=brought.bytes_received, retries=brought.retries)

    async def _transfer(self, manifest: Manifest, node: Node) -> Brought | None:
        transfer = self._transfers.get(manifest.digest)
        if transfer is None:
            nodes = await asyncio.to_thread(alive_nodes)
            transfer = self._transfers.setdefault(
                manifest.digest, Transfer(manifest, self._node, nodes, self._agents, self._config)
            )
        try:
            return await transfer.bring(node)
        finally:
            if not transfer.active and self._transfers.get(manifest.digest) is transfer:
                del self._transfers[manifest.digest]

    async def _choose_nodes(self, wanted: list[str] | None) -> list[Node]:
        nodes = await asyncio.to_thread(alive_nodes)
        if wanted is None:
            return nodes
        chosen = [node for node in nodes if {node.id, node.name, node.address} & set(wanted)]
        known = {key for node in chosen for key in (node.id, node.name, node.address)}
        unknown = sorted(set(wanted) - known)
        if unknown:
            raise ConfigError(
                f"no node that is alive has the id, name or address {', '.join(unknown)}",
                advice=f"Alive are: {', '.join(node.name for node in nodes)}.",
            )
        return chosen

    async def _deliver_configured(self, handles: list[str]) -> None:
        """Bring the models of the configuration to all nodes; a failure shows again when somebody loads."""
        for handle in handles:
            try:
                await self.prefetch([handle], None)
            except HubdistError as error:
                _LOG.warning("hubdist: a model of the configuration could not be delivered: %s", error)

    def _end_when_idle(self) -> None:
        """End this process if it was not asked for long; else look again when that may be so."""
        idle_s = time.monotonic() - self._last_call
        if idle_s >= _DETACHED_IDLE_S and not self._transfers:
            stop_this_actor()
        asyncio.get_running_loop().call_later(max(1.0, _DETACHED_IDLE_S - idle_s), self._end_when_idle)
