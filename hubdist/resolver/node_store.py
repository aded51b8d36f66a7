"""The store of a node, as the settings describe it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hubdist.remote.snapshot_copy import ProvenCopies
from hubdist.shared_cache.best_effort import BestEffortCache
from hubdist.store.store import Store

if TYPE_CHECKING:  # an agent's process must not load `Config`
    from hubdist.config.node_settings import NodeSettings
    from hubdist.config.schema import Config


def open_store(config: Config | NodeSettings, node_id: str, *, evicted: Callable[[], None] = lambda: None) -> Store:
    """Open the store of a node; it is made if it is not there.

    Args:
        config: The settings that hold on the node.
        node_id: Ray's id of the node, or what stands for it without Ray.
        evicted: Is called after each eviction by this process.

    Raises:
        StoreError: The directory cannot be told or used, or another user could change it.
    """
    return Store(
        config.store_root(node_id),
        max_bytes=config.max_store_bytes,
        low_percent=config.low_store_percent,
        evicted=evicted,
    )


def open_cache(config: Config, proven: ProvenCopies) -> BestEffortCache:
    """Open the shared cache, if the settings name one.

    Args:
        config: The settings.
        proven: Notes the directories that were read.
    """
    return BestEffortCache(
        config.shared_cache,
        config.deadlines,
        proven,
        in_flight_bytes=config.max_in_flight_bytes,
        max_bytes=config.max_store_bytes,
        read_only=config.shared_cache_read_only,
        offline=config.offline,
    )
