"""What nodes have and what they can read, as their own processes found out; and reads by nodes themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.windows import Windows
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import Evidence, ProbeResult, Route, RouteOrder, order_routes
from hubdist.errors import HubdistError, ModelNotFoundError, ResolveError, TransferError
from hubdist.model.manifest import Digest, Manifest
from hubdist.model.redact import redact_url
from hubdist.remote.copy_reader import copy_memory_bytes
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy
from hubdist.resolver.values import NodeRead
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)

_USABLE_S = 600.0
_UNUSABLE_S = 60.0
"""A refusal is forgotten sooner: rights and mounts are mended while a job runs."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What a probe found.

    Attributes:
        result: What was found.
        until: When it is to be asked again, on the clock of the probes.
    """

    result: ProbeResult
    until: float


class Probes:
    """Asks nodes what they have and can read, remembers that for a while, and lets them read.

    Owned by the coordinator's event loop.

    Args:
        agents: Agents by node.
        config: The job's settings: time limits, and how many bytes may be in flight to a node.
        cluster: Tells which nodes are alive, and the time.
    """

    def __init__(self, agents: AgentPool, config: Config, cluster: ClusterView) -> None:
        self._agents = agents
        self._config = config
        self._cluster = cluster
        self._clock = cluster.clock
        self._known: dict[tuple[str, str], _Remembered] = {}
        """Id of a node and a bucket or directory -> what the node can do there."""
        self._once = LogOnce(_LOG)
        self._windows = Windows(config.max_in_flight_bytes)

    async def holds(self, node: Node, digest: Digest) -> bool:
        """True if the node's store has a complete snapshot.

        Args:
            node: The node to ask.
            digest: The model.

        Raises:
            NodeLostError: The node is gone.
            TransferTimeoutError: The node gives no answer.
        """
        return bool(await self._agents.call(node, "holds", digest, timeout_s=START_TIMEOUT_S))

    async def look_again(self, node: Node, digest: Digest) -> bool:
        """True if the node's store has a snapshot that another node has just published in the same directory.

        Args:
            node: The node to ask.
            digest: The model.

        Raises:
            NodeLostError: The node is gone.
            TransferTimeoutError: The node gives no answer.
        """
        return bool(await self._agents.call(node, "look_again", digest, timeout_s=START_TIMEOUT_S))

    async def probe(self, node: Node, url: str) -> ProbeResult:
        """Whether a process on the node can read a directory. Each node is asked once per bucket, or per mount.

        Args:
            node: The node to ask.
            url: The directory.
        """
        scope = _rights_scope(url)
        for place in (url, scope):
            known = self._known.get((node.id, place))
            if known is not None and self._clock() < known.until:
                return known.result
        try:
            timeout_s = START_TIMEOUT_S + self._config.probe_timeout_s
            await self._agents.call(node, "probe", url, timeout_s=timeout_s)
        except ModelNotFoundError as error:  # which says nothing of the rest of the bucket
            return self._remember(node, url, ProbeResult(usable=False, why=error.what))
        except HubdistError as error:
            return self._remember(node, scope, ProbeResult(usable=False, why=error.what))
        return self._remember(node, scope, ProbeResult(usable=True, why=f"the node can read {redact_url(scope)}"))

    async def order(self, node: Node, places: Mapping[Route, str], wanted: Route | None) -> RouteOrder:
        """The order of routes of a node that lacks a model, by what the node's own process can read.

        Args:
            node: The node.
            places: Route -> the directory that the node would read.
            wanted: The route to try first; None for the best one.
        """
        results: dict[Route, ProbeResult] = {}
        if wanted is not Route.DRIVER:
            probed = await asyncio.gather(*(self.probe(node, url) for url in places.values()))
            results = dict(zip(places, probed, strict=True))
        return order_routes(Evidence(wanted, shared=results.get(Route.SHARED), direct=results.get(Route.DIRECT)))

    async def copy(self, node: Node, manifest: Manifest, copy: RemoteCopy) -> int | None:
        """Let a node copy a model into its store.

        What a node's copies keep in memory together is bounded by `in_flight_bytes`, apart from the chunks that other
        nodes send it. So storage that stalls does not keep chunks waiting.

        Args:
            node: The node that copies.
            manifest: The model's files.
            copy: Where they lie.

        Returns:
            Bytes that the node read; None if its store had the model.

        Raises:
            ResolveError, TransferError, IntegrityError: The copy cannot be read, or is another model.
            StoreError: The node's disk refuses.
        """
        async with self._windows.room(node.id, None, copy_memory_bytes(self._config.max_in_flight_bytes)):
            try:
                timeout_s = self._config.timeout_s
                read: int | None = await self._agents.call(node, "copy", manifest, copy, timeout_s=timeout_s)
            except (ResolveError, TransferError) as error:
                self._remember(node, copy.url, ProbeResult(usable=False, why=error.what))
                raise
        return read

    async def read_directory(self, node_id: str, url: str, *, keep: bool, wanted: bool) -> NodeRead | None:
        """Let a node read a directory that a handle names; None, with the reason logged, if the node cannot.

        Args:
            node_id: Ray's id of the node; that of a process outside of the cluster names none.
            url: The directory.
            keep: Put the files into the node's store as well.
            wanted: The user asked for this route, so that its failure is worth a warning.
        """
        node = next((node for node in await self._cluster.alive() if node.id == node_id), None)
        if node is None:
            return None
        result = await self.probe(node, url)
        if not result.usable:
            self.log_refusal(node, url, result.why, level=logging.WARNING if wanted else logging.INFO)
            return None
        try:
            timeout_s = self._config.timeout_s
            manifest, copy = await self._agents.call(node, "read_directory", url, keep, timeout_s=timeout_s)
        except FALLBACK_ERRORS as error:
            self.log_refusal(node, url, str(error))
            return None
        return NodeRead(manifest, copy, node.name)

    def log_refusal(self, node: Node, url: str, why: str, *, level: int = logging.WARNING) -> None:
        """Log why a node does not read a directory itself: once for each node and bucket, or mount.

        Args:
            node: The node.
            url: The directory.
            why: The reason, without secrets.
            level: Of the module `logging`.
        """
        key, text = (node.id, _rights_scope(url)), "hubdist: %s does not read %s itself: %s"
        self._once.log(key, text, node.name, redact_url(url), why, level=level)

    def _remember(self, node: Node, place: str, result: ProbeResult) -> ProbeResult:
        keep_s = _USABLE_S if result.usable else _UNUSABLE_S
        self._known[node.id, place] = _Remembered(result, self._clock() + keep_s)
        return result


def _rights_scope(url: str) -> str:
    """What rights and mounts belong to: the bucket, or the mounted directory itself."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if found else url
