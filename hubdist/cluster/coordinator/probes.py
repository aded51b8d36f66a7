"""Which ways nodes have to a model's files, as their own processes found out; and reading by those ways."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.coordinator.job_pins import DirectRead
from hubdist.cluster.coordinator.windows import Windows
from hubdist.cluster.nodes import Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import ProbeResult
from hubdist.errors import HubdistError, ModelNotFoundError, ResolveError, TransferError
from hubdist.model.manifest import Manifest
from hubdist.model.redact import redact_url
from hubdist.remote.snapshot_copy import FALLBACK_ERRORS, RemoteCopy, bytes_in_flight
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)

_USABLE_S = 600.0
_UNUSABLE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Found:
    finding: ProbeResult
    until: float


class Probes:
    """Probes nodes, remembers for a while what they could read, and lets them read. Owned by one event loop.

    Args:
        agents: Agents by node.
        config: Deadlines.
    """

    def __init__(self, agents: AgentPool, config: Config) -> None:
        self._agents = agents
        self._config = config
        self._found: dict[tuple[str, str], _Found] = {}
        self._once = LogOnce(_LOG)
        self._windows = Windows(config.in_flight_bytes)

    async def probe(self, node: Node, url: str) -> ProbeResult:
        """Whether a process on the node can read a directory; asked once per node and bucket, or mounted directory."""
        for place in (url, _place(url)):
            known = self._found.get((node.id, place))
            if known is not None and time.monotonic() < known.until:
                return known.finding
        place = _place(url)
        try:
            timeout_s = START_TIMEOUT_S + self._config.probe_timeout_s
            await self._agents.call(node, "probe", url, timeout_s=timeout_s)
            finding = ProbeResult(usable=True, why=f"the node can read {redact_url(place)}")
        except HubdistError as error:
            finding = ProbeResult(usable=False, why=error.what)
            if isinstance(error, ModelNotFoundError):
                place = url  # which says nothing of the rest of the bucket
        return self._keep(node, place, finding)

    async def copy(self, node: Node, manifest: Manifest, copy: RemoteCopy) -> int | None:
        """Let a node copy a model into its store; see `NodeAgent.copy`.

        What a node's copies keep in memory together is bounded by `in_flight_bytes`, apart from the chunks that other
        nodes send it: a place that stalls keeps no chunk waiting.

        Raises:
            HubdistError: What the node raised.
        """
        async with self._windows.room(node.id, None, bytes_in_flight(self._config)):
            try:
                arguments = (manifest, copy)
                read: int | None = await self._agents.call(node, "copy", *arguments, timeout_s=self._config.timeout_s)
            except (ResolveError, TransferError) as error:
                self._keep(node, copy.url, ProbeResult(usable=False, why=error.what))
                raise
        return read

    async def read(self, node: Node, url: str, *, keep: bool, wanted: bool) -> DirectRead | None:
        """Let a node read a directory that a handle names; None, with the reason logged, if it cannot.

        Args:
            node: Which.
            url: The directory.
            keep: Put the files into the node's store as well.
            wanted: The user asked for this way, so that its failure is worth a warning.
        """
        finding = await self.probe(node, url)
        if not finding.usable:
            self.say(node, url, finding.why, level=logging.WARNING if wanted else logging.INFO)
            return None
        try:
            arguments = (url, keep)
            manifest, copy = await self._agents.call(
                node, "read_directory", *arguments, timeout_s=self._config.timeout_s
            )
        except FALLBACK_ERRORS as error:
            self.say(node, url, str(error))
            return None
        return DirectRead(manifest, copy, node.name)

    def say(self, node: Node, url: str, why: str, *, level: int = logging.WARNING) -> None:
        """Log, once for each node and place, why a way is not taken."""
        reason, text = (node.id, _place(url)), "hubdist: %s does not read %s itself: %s"
        self._once.log(reason, text, node.name, redact_url(url), why, level=level)

    def _keep(self, node: Node, place: str, finding: ProbeResult) -> ProbeResult:
        keep_s = _USABLE_S if finding.usable else _UNUSABLE_S
        self._found[node.id, place] = _Found(finding, time.monotonic() + keep_s)
        return finding


def _place(url: str) -> str:
    """What rights and mounts belong to: the bucket, or the mounted directory itself."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if found else url
