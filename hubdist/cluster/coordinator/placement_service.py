"""The coordinator's calls about places: which nodes have models, and where models are kept.

For `Coordinator`, whose other calls are about what handles stand for and about deliveries.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence

from hubdist.cluster.coordinator.agent_pool import AgentPool
from hubdist.cluster.coordinator.keeper import Keeper
from hubdist.cluster.coordinator.lifetime import Lifetime, answering
from hubdist.cluster.coordinator.parts import CoordinatorParts
from hubdist.cluster.coordinator.prefetch import bring_to_nodes
from hubdist.cluster.job import WarmSnapshot
from hubdist.cluster.nodes import ClusterView, Node, choose_nodes
from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.resolver.values import Pinned


class PlacementService(abc.ABC):
    """Tells where models are, and keeps them there. Owned by the coordinator's event loop.

    Attributes:
        _keeper: Made at the first call that keeps or releases something.
    """

    _agents: AgentPool
    _cluster: ClusterView
    _life: Lifetime
    _node: Node

    @property
    @abc.abstractmethod
    def _parts(self) -> CoordinatorParts: ...

    @functools.cached_property
    def _keeper(self) -> Keeper:
        bring = functools.partial(bring_to_nodes, parts=self._parts, here=self._node, agents=self._agents)
        return Keeper(self._node, self._agents, self._cluster, bring=bring, find_digest=self._pinned_digest)

    @property
    def keeps_models(self) -> bool:
        """True while nodes that join get a model; may be asked in any thread."""
        keeper: Keeper | None = vars(self).get("_keeper")
        return keeper is not None and keeper.keeps

    @answering
    async def where(self, texts: list[str], wait_s: float) -> tuple[WarmSnapshot, ...]:
        """Which nodes have models. Nothing is resolved and nothing is brought.

        Args:
            texts: The handles.
            wait_s: Longest wait in seconds for nodes that have to be asked.

        Returns:
            For each handle the nodes that have it; none for a handle that nobody has resolved.

        Raises:
            HandleError: A text is not a handle.
        """
        found = [await self._known(self._parts.resolver.parse(text)) for text in texts]
        digests = [pinned.digest for pinned in found if pinned is not None]
        nodes = await self._cluster.alive() if digests else []
        warm = await self._parts.warm_nodes.find(digests, nodes, wait_s)
        return tuple(
            WarmSnapshot(None, 0, ())
            if pinned is None
            else WarmSnapshot(str(pinned.digest), pinned.manifest.total_bytes, tuple(warm[pinned.digest]))
            for pinned in found
        )

    @answering
    async def keep(self, texts: list[str], wanted: list[str] | None) -> Report:
        """Bring models to nodes, and never evict them there until `release`. What fails is in the report.

        Args:
            texts: The handles.
            wanted: Ids, names or addresses of nodes; None means all that are alive now, and all that join later.

        Raises:
            HandleError: A text is not a handle.
            ConfigError: A name belongs to no node that is alive.
        """
        begin = time.monotonic()
        handles = [self._parts.resolver.parse(text) for text in texts]
        nodes = choose_nodes(await self._cluster.alive(), wanted)
        found = await asyncio.gather(*(self._keeper.keep(handle, nodes, joining=wanted is None) for handle in handles))
        report = _report(found, time.monotonic() - begin)
        await self._parts.reporter.flush()  # a short driver may end right after this call
        return report

    @answering
    async def release(self, texts: list[str], wanted: list[str] | None) -> tuple[str, ...]:
        """Let stores evict models again, and bring them to no more nodes that join.

        Args:
            texts: The handles.
            wanted: Ids, names or addresses of nodes; None means all, and those that join later.

        Returns:
            The names of the nodes where one of the models was kept.

        Raises:
            HandleError: A text is not a handle.
            ConfigError: A name belongs to no node that is alive.
            PeerError, TransferError, StoreError: A node could not do it; the others have done it.
        """
        handles = [self._parts.resolver.parse(text) for text in texts]
        nodes = choose_nodes(await self._cluster.alive(), wanted)
        names: set[str] = set()
        for handle in handles:
            known = await self._known(handle)
            digest = None if known is None else known.digest
            names |= set(await self._keeper.release(handle, digest, nodes, joining=wanted is None))
        return tuple(sorted(names))

    def _pinned_digest(self, handle: Handle) -> Digest | None:
        pinned = self._parts.pins.find(handle)
        return None if pinned is None else pinned.digest

    async def _known(self, handle: Handle) -> Pinned | None:
        """What a handle stands for, as far as it is known without its origin."""
        pinned = self._parts.pins.find(handle)
        if pinned is None:
            with contextlib.suppress(HubdistError):  # nothing pins it, and a load will say so
                pinned = await self._parts.work.look(lambda: self._parts.resolver.look(handle))
        return pinned


def _report(found: Sequence[tuple[PinReport | HubdistError, list[NodeReport]]], seconds: float) -> Report:
    pins = tuple(one for one, _ in found if isinstance(one, PinReport))
    unresolved = tuple(one for one, _ in found if isinstance(one, HubdistError))
    return Report(pins, tuple(report for _, several in found for report in several), seconds, unresolved)
