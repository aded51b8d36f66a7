"""Which nodes have a model already, for `hubdist.where`: what this job delivered, and what nodes answer.

A node that has a model is called warm. Nodes are asked by their agents, and answers are kept for minutes: an agent that
is started again and again would keep its node from scaling down.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.nodes import ClusterView, Node
from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport

KEPT_S = 600.0
"""Seconds for which an answer is kept. A wrong one costs a task the better place, and nothing else."""

_MAX_ANSWERS = 100_000


class WarmNodes:
    """Knows which nodes have which models, and asks the others. Owned by the coordinator's event loop.

    Args:
        node: The driver's node, whose store is looked at without an agent.
        snapshots: The snapshots of the driver's store.
        probes: Asks the other nodes.
        cluster: Tells the time.
        kept_s: Seconds after which a node is asked again.
    """

    def __init__(
        self, node: Node, snapshots: DriverSnapshots, probes: Probes, cluster: ClusterView, *, kept_s: float = KEPT_S
    ) -> None:
        self._node = node
        self._snapshots = snapshots
        self._probes = probes
        self._clock = cluster.clock
        self._kept_s = kept_s
        self._known: OrderedDict[tuple[str, str], tuple[bool, float]] = OrderedDict()
        """Digest and id of a node -> whether the node has the model, and until when that is believed."""
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def note(self, report: NodeReport) -> None:
        """Hear that a node got a model, or did not."""
        self._remember((report.digest, report.node), report.error is None)

    async def find(self, digests: Iterable[Digest], nodes: Sequence[Node], wait_s: float) -> dict[Digest, list[str]]:
        """The ids of the nodes that have each model. A node that has not answered in time counts as one without it.

        Args:
            digests: The models.
            nodes: The nodes that may be named.
            wait_s: Longest wait in seconds for nodes that have to be asked; their later answers count for later calls.
        """
        wanted = list(dict.fromkeys(digests))
        asked = [self._ask(digest, node) for digest in wanted for node in nodes if not self._knows(digest, node)]
        if asked:
            await asyncio.wait(asked, timeout=wait_s)
        return {digest: [node.id for node in nodes if self._is_warm(digest, node)] for digest in wanted}

    def _knows(self, digest: Digest, node: Node) -> bool:
        known = self._known.get((str(digest), node.id))
        return known is not None and self._clock() < known[1]

    def _is_warm(self, digest: Digest, node: Node) -> bool:
        return self._knows(digest, node) and self._known[str(digest), node.id][0]

    def _ask(self, digest: Digest, node: Node) -> asyncio.Task[None]:
        key = (str(digest), node.id)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask_now(key, digest, node))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return task

    async def _ask_now(self, key: tuple[str, str], digest: Digest, node: Node) -> None:
        holds = False
        with contextlib.suppress(HubdistError):  # a node without an answer is no place for a task that wants the model
            local = node.id == self._node.id
            holds = await (self._snapshots.has(digest) if local else self._probes.holds(node, digest))
        self._remember(key, holds)

    def _remember(self, key: tuple[str, str], holds: bool) -> None:
        self._known[key] = (holds, self._clock() + self._kept_s)
        self._known.move_to_end(key)
        if len(self._known) > _MAX_ANSWERS:
            self._known.popitem(last=False)
