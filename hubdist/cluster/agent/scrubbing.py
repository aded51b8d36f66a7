"""The idle work of an agent: it reads its node's store again, and repairs what the disk has lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from hubdist.care.inspection import Pace
from hubdist.care.node_store import sources_of
from hubdist.care.repair import BlockSource
from hubdist.care.scrub import Scrub
from hubdist.cluster.agent.peer_blocks import PeerBlocks
from hubdist.config.node_settings import NodeSettings
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.store import Store


def scrub_store(store: Store, settings: NodeSettings, for_s: float, peers: Sequence[tuple[str, Any]]) -> int:
    """Read a store again for some seconds; returns how many models were damaged.

    Args:
        store: The node's store.
        settings: The settings that hold on the node; without `scrub_rate` nothing is read.
        for_s: Seconds after which the work ends. A repair that has begun is finished.
        peers: Name and agent of other nodes, which may have right blocks.
    """
    if settings.scrub_rate is None:
        return 0
    blocks = [PeerBlocks(name, agent, settings.chunk_timeout_s) for name, agent in peers]

    def find(_: contextlib.ExitStack) -> Sequence[BlockSource]:
        return blocks

    deadline = time.monotonic() + for_s

    def wait(seconds: float) -> bool:
        time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))
        return time.monotonic() >= deadline

    sources = sources_of(store, peers=find, cache=node_cache(settings), deadlines=settings.deadlines)
    return len(Scrub(store, sources).run(Pace(settings.scrub_rate, wait)))


def node_cache(settings: NodeSettings) -> SharedCache | None:
    """The shared cache as a node reads it; None if the settings name none."""
    if settings.shared_cache is None:
        return None
    return SharedCache(
        settings.shared_cache,
        settings.deadlines,
        in_flight_bytes=settings.max_in_flight_bytes,
        max_bytes=settings.max_store_bytes,
        read_only=True,
    )
