"""Resolves handles and brings the models to nodes at once, for `Coordinator.prefetch`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.delivery_reports import with_predictions
from hubdist.cluster.coordinator.parts import CoordinatorParts
from hubdist.cluster.job import Terms
from hubdist.cluster.nodes import Node
from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.resolver.values import CallOptions

_LOG = logging.getLogger(__name__)


async def bring_to_nodes(
    text: str, nodes: list[Node], *, parts: CoordinatorParts, here: Node, agents: AgentPool
) -> tuple[PinReport | HubdistError, list[NodeReport]]:
    """Bring one model to nodes. Its failure is returned, so that the other models are not stopped by it.

    Args:
        text: The handle.
        nodes: The nodes.
        parts: What the coordinator works with.
        here: The driver's node.
        agents: Tells where agents run.
    """
    ids = [node.id for node in nodes]
    reader_id = here.id if here.id in ids or not ids else ids[0]
    try:
        options = CallOptions(read_mode="store")
        pinned = await parts.pin_service.pinned(text, reader_id, options, Terms(), ids, at_once=True)
    except HubdistError as error:
        return error, []
    wanted = parts.config.wanted_route(parts.resolver.policy.settings_of(pinned.handle), None)
    agents_run = {node.name for node in nodes} <= set(agents.names)
    work = (parts.runner.run_routes(pinned.digest, pinned.handle.redacted, node, wanted) for node in nodes)
    reports = await asyncio.gather(*work)
    size, link = pinned.manifest.total_bytes, parts.config.link
    return pinned.report, await asyncio.to_thread(with_predictions, reports, size, link, agents_run=agents_run)


async def bring_configured(prefetch: Callable[[list[str], None], Awaitable[Report]], handles: list[str]) -> None:
    """Bring the models of the configuration to all nodes; a failure shows again when a process loads one.

    Args:
        prefetch: Brings models, each by a call of its own, to all nodes.
        handles: The models.
    """

    async def bring(handle: str) -> None:
        report = await prefetch([handle], None)
        for error in report.unresolved:
            _LOG.warning("hubdist: a model of the configuration could not be resolved: %s", error)

    await asyncio.gather(*(bring(handle) for handle in handles))
