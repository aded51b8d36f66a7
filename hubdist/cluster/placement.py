"""Where models are and stay, from a process of the cluster: for `hubdist.where`, `keep` and `release`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray

from hubdist.cluster.connection import CoordinatorConnection
from hubdist.cluster.job import WarmSnapshot
from hubdist.cluster.selectors import FALLBACKS_SINCE, scheduling_options, takes_fallbacks
from hubdist.report.delivery import Report
from hubdist.system.log_once import LogOnce

_ONCE = LogOnce(logging.getLogger(__name__))


class ClusterPlacement:
    """Asks the coordinator where models are, and lets it keep them. Safe for several threads.

    Args:
        connection: Calls the coordinator.
        absolute: Turns a handle of this process into one that means the same everywhere.
    """

    def __init__(self, connection: CoordinatorConnection, absolute: Callable[[str], str]) -> None:
        self._connection = connection
        self._absolute = absolute

    def where(self, texts: Sequence[str], wait_s: float) -> dict[str, Any]:
        """Options of Ray that prefer nodes which have the models; none if no node has one.

        Args:
            texts: The handles.
            wait_s: Longest wait in seconds for nodes that have to be asked.

        Raises:
            HandleError: A text is not a handle.
        """
        if not takes_fallbacks(ray.__version__):
            needed = ".".join(map(str, FALLBACKS_SINCE))
            _ONCE.log("old", "hubdist: where() places nothing: Ray %s is older than %s", ray.__version__, needed)
            return {}
        whole = [self._absolute(text) for text in texts]
        warm: tuple[WarmSnapshot, ...] = self._connection.call(
            lambda coordinator: coordinator.where.remote(whole, wait_s)
        )
        return scheduling_options(warm)

    def keep(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Bring models to nodes, and never evict them there. What fails is in the report.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all that are alive now, and all that join later.

        Raises:
            HandleError: A text is not a handle.
            ConfigError: There is no such node.
        """
        whole, wanted = [self._absolute(text) for text in texts], None if nodes is None else list(nodes)
        report: Report = self._connection.call(lambda coordinator: coordinator.keep.remote(whole, wanted))
        return report

    def release(self, texts: Sequence[str], nodes: Sequence[str] | None) -> tuple[str, ...]:
        """Let stores evict models again; returns the names of the nodes where one was kept.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all, and those that join later.

        Raises:
            HandleError: A text is not a handle.
            ConfigError: There is no such node.
            PeerError, TransferError, StoreError: A node could not do it; the others have done it.
        """
        whole, wanted = [self._absolute(text) for text in texts], None if nodes is None else list(nodes)
        names: tuple[str, ...] = self._connection.call(lambda coordinator: coordinator.release.remote(whole, wanted))
        return names
