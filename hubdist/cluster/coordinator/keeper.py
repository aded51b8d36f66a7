"""Keeps models on nodes, for `hubdist.keep`: brings them to nodes that join, and marks them so that none is evicted.

A node that joins costs one look at the list of nodes and one delivery. Its agent ends when it has no work, and asks Ray
for no resources, so neither keeps a node from scaling down or makes one start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hubdist.cluster.coordinator.agent_pool import START_TIMEOUT_S, AgentPool
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.errors import HubdistError, StoreError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport, PinReport

_LOG = logging.getLogger(__name__)
_MAX_PAUSE_S = 600.0
_PAUSE_FOR_LOOK = 10
"""A look at the list of nodes is followed by a pause that is so many times as long, at least."""


Bring = Callable[[str, list[Node]], Awaitable[tuple[PinReport | HubdistError, list[NodeReport]]]]


@dataclass(slots=True, eq=False)
class _KeepRecord:
    """A model that nodes get when they join.

    Attributes:
        handle: The handle.
        marked: Id of a node -> the digest that is marked in its store.
        busy: Nodes that are being filled.
        tries: Id of a node -> how often in a row it was filled in vain, and when it is tried again.
        released: True once nobody wants the model to be kept.
    """

    handle: Handle
    marked: dict[str, Digest] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    tries: dict[str, tuple[int, float]] = field(default_factory=dict)
    released: bool = False


class Keeper:
    """Keeps models, on the nodes that there are and on those that join. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        agents: Mark models in the stores of their nodes.
        cluster: Tells which nodes are alive, and the time.
        bring: Brings a model to nodes.
        find_digest: Tells what a handle stands for now; None if this job has not resolved it.
        look_s: Seconds between two looks at the list of nodes.
        pause_s: Seconds after which a node is tried again where a model could not be brought or marked; then ever
            longer.
    """

    def __init__(
        self,
        node: Node,
        agents: AgentPool,
        cluster: ClusterView,
        *,
        bring: Bring,
        find_digest: Callable[[Handle], Digest | None],
        look_s: float = 0.25,
        pause_s: float = 5.0,
    ) -> None:
        self._node = node
        self._agents = agents
        self._cluster = cluster
        self._bring = bring
        self._find_digest = find_digest
        self._look_s = look_s
        self._pause_s = pause_s
        self._kept: dict[str, _KeepRecord] = {}
        """`Handle.key` -> the model."""
        self._looking: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[None]] = set()

    @property
    def keeps(self) -> bool:
        """True while nodes that join get a model."""
        return bool(self._kept)

    async def keep(
        self, handle: Handle, nodes: list[Node], *, joining: bool
    ) -> tuple[PinReport | HubdistError, list[NodeReport]]:
        """Bring a model to nodes and mark it there.

        Args:
            handle: The handle.
            nodes: The nodes.
            joining: Nodes that join later get it, too.

        Returns:
            What the handle stands for, and the report of each node; or the error of a handle that cannot be resolved.
        """
        model = self._kept.get(handle.key) or _KeepRecord(handle)
        found, reports = await self._fill(model, nodes)
        if joining and not isinstance(found, HubdistError):
            self._kept[handle.key] = model
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
        return found, reports

    async def release(
        self, handle: Handle, digest: Digest | None, nodes: Sequence[Node], *, joining: bool
    ) -> list[str]:
        """Let stores evict a model again; returns the names of the nodes where it was marked.

        Args:
            handle: The handle.
            digest: What the handle stands for; None if nobody knows it.
            nodes: The nodes.
            joining: Nodes that join later do not get it any more.

        Raises:
            HubdistError: A node gave no answer; the others have done it.
        """
        model = self._kept.get(handle.key)
        if model is not None and joining:
            model.released = True
            del self._kept[handle.key]
        marked = set() if model is None else set(model.marked.values())
        digests = list((marked | ({digest} if digest is not None else set())) - self._digests_of_others(model))
        if not digests:
            return []
        calls = (self._agents.call(node, "release", digests, timeout_s=START_TIMEOUT_S) for node in nodes)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise errors[0]
        return [node.name for node, answer in zip(nodes, answers, strict=True) if answer]

    def _digests_of_others(self, model: _KeepRecord | None) -> set[Digest]:
        """What other handles keep: several may stand for the same bytes."""
        return {digest for other in self._kept.values() if other is not model for digest in other.marked.values()}

    async def _look(self) -> None:
        """Fill nodes as they join, until nothing is kept.

        The agent of the driver's node, which the coordinator keeps from scaling down anyway, stays meanwhile: it sends
        to nodes that join, whose first tasks do not wait until it has started.
        """
        async with self._agents.use(self._node):
            while self._kept:
                begin = time.monotonic()
                with contextlib.suppress(HubdistError):  # the cluster gives no answer now; it is asked again
                    alive = await self._cluster.alive()
                    for model in self._kept.values():
                        self._look_at(model, self._find_digest(model.handle), alive)
                # To list the nodes of a large cluster takes a while: that must not be most of what this process does.
                await asyncio.sleep(max(self._look_s, _PAUSE_FOR_LOOK * (time.monotonic() - begin)))

    def _look_at(self, model: _KeepRecord, digest: Digest | None, alive: Sequence[Node]) -> None:
        ids = {node.id for node in alive}
        for gone in set(model.marked) - ids:
            del model.marked[gone]
        for gone in set(model.tries) - ids:
            del model.tries[gone]
        now = self._cluster.clock()
        lacking = [
            node
            for node in alive
            if node.id not in model.busy
            and model.tries.get(node.id, (0, 0.0))[1] <= now
            and (node.id not in model.marked or (digest is not None and model.marked[node.id] != digest))
        ]
        if lacking:
            self._start(self._fill_joined(model, lacking))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _fill_joined(self, model: _KeepRecord, nodes: list[Node]) -> None:
        found, reports = await self._fill(model, nodes)
        errors = [(node.name, found) for node in nodes] if isinstance(found, HubdistError) else []
        errors += [(report.name, report.error) for report in reports if report.error is not None]
        for name, error in errors:
            _LOG.warning("hubdist: a kept model did not reach %s, and is tried again: %s", name, error)

    async def _fill(self, model: _KeepRecord, nodes: list[Node]) -> tuple[PinReport | HubdistError, list[NodeReport]]:
        """Bring a model to nodes and mark it; remember which nodes are to be tried again."""
        ids = {node.id for node in nodes}
        model.busy |= ids
        try:
            found, reports = await self._bring(model.handle.text, nodes)
            if not isinstance(found, HubdistError):
                digest, by_id = Digest.parse(found.digest), {node.id: node for node in nodes}
                marks = (self._mark(model, digest, by_id[report.node], report) for report in reports)
                reports = list(await asyncio.gather(*marks))
        finally:
            model.busy -= ids
        for node_id in ids - {report.node for report in reports if report.error is None}:
            count = model.tries.get(node_id, (0, 0.0))[0] + 1
            pause_s = min(self._pause_s * 2 ** (count - 1), _MAX_PAUSE_S)
            model.tries[node_id] = (count, self._cluster.clock() + pause_s)
        return found, reports

    async def _mark(self, model: _KeepRecord, digest: Digest, node: Node, report: NodeReport) -> NodeReport:
        """Mark a model in the store of a node that has it; a version that the handle stood for before is released."""
        if report.error is not None or model.released:
            return report
        try:
            done = await self._agents.call(node, "keep", [digest], timeout_s=START_TIMEOUT_S)
            if not done:
                raise StoreError(f"{digest} was evicted before it could be kept", node=node.name)
            before = model.marked.get(node.id, digest)
            model.marked[node.id] = digest
            model.tries.pop(node.id, None)
            if before not in {digest, *self._digests_of_others(model)}:
                await self._agents.call(node, "release", [before], timeout_s=START_TIMEOUT_S)
        except HubdistError as error:
            return replace(report, error=error.with_context(handle=report.handle, node=node.name))
        return report
