"""Where models are and stay in a process without Ray: in the one store of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hubdist.care import collection
from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import Report
from hubdist.store.store import Store
from hubdist.system.log_once import LogOnce

_ONCE = LogOnce(logging.getLogger(__name__))


class LocalPlacement:
    """Keeps models in this machine's store. Safe for several threads.

    Args:
        store: The store.
        node: This host's name.
        prefetch: Brings models into the store.
        check_nodes: Raises if another node is named.
        known: The digest that a handle stands for; None if nobody knows it.
        parse: Makes a handle of a text.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        *,
        prefetch: Callable[[Sequence[str], Sequence[str] | None], Report],
        check_nodes: Callable[[Sequence[str] | None], None],
        known: Callable[[Handle], Digest | None],
        parse: Callable[[str], Handle],
    ) -> None:
        self._store = store
        self._node = node
        self._prefetch = prefetch
        self._check_nodes = check_nodes
        self._known = known
        self._parse = parse

    def where(self, texts: Sequence[str], wait_s: float) -> dict[str, Any]:  # noqa: ARG002 - of the protocol; nobody is asked
        """No options: without Ray there are no nodes to choose from.

        Args:
            texts: The handles.
            wait_s: Nobody is waited for.

        Raises:
            HandleError: A text is not a handle.
        """
        for text in texts:
            self._parse(text)
        _ONCE.log(
            "no Ray", "hubdist: where() places nothing: Ray is not running in this process; call ray.init() first"
        )
        return {}

    def keep(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Fetch models, and never evict them. What fails is in the report.

        Args:
            texts: The handles.
            nodes: This host's name, or None.

        Raises:
            ConfigError: Another node is named.
        """
        report = self._prefetch(texts, nodes)
        reports = []
        for node in report.nodes:
            try:
                collection.keep(self._store, [Digest.parse(node.digest)])
                reports.append(node)
            except HubdistError as error:
                reports.append(replace(node, error=error.with_context(handle=node.handle, node=node.name)))
        return replace(report, nodes=tuple(reports))

    def release(self, texts: Sequence[str], nodes: Sequence[str] | None) -> tuple[str, ...]:
        """Let the store evict models again; returns this host's name if one of them was kept.

        Args:
            texts: The handles.
            nodes: This host's name, or None.

        Raises:
            ConfigError: Another node is named.
            StoreError: The disk refuses.
        """
        self._check_nodes(nodes)
        digests = [digest for text in texts if (digest := self._known(self._parse(text))) is not None]
        return (self._node,) if collection.release(self._store, digests) else ()
