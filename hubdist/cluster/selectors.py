"""Which options make Ray prefer nodes that have models. Pure: nobody is asked, and Ray is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubdist.cluster.job import WarmSnapshot

FALLBACKS_SINCE = (2, 51)
"""The version of Ray that first takes `fallback_strategy`. Without it a selector is a must, and tasks would wait."""

_NODE_ID = "ray.io/node-id"


def takes_fallbacks(version: str) -> bool:
    """True if a version of Ray takes `fallback_strategy`, such as `2.60.0`."""
    major, minor = version.split(".")[:2]
    return not (major.isdigit() and minor.isdigit()) or (int(major), int(minor)) >= FALLBACKS_SINCE


def scheduling_options(warm: Sequence[WarmSnapshot]) -> dict[str, Any]:
    """Options of Ray that prefer the nodes with the most bytes of the models, then nodes with some, then any node.

    Args:
        warm: Which nodes have which model.
    """
    held: dict[str, int] = {}
    for model in warm:
        for node_id in model.node_ids:
            held[node_id] = held.get(node_id, 0) + max(1, model.total_bytes)
    if not held:
        return {}
    most = max(held.values())
    best = [node_id for node_id, size in held.items() if size == most]
    tiers = [best] if len(best) == len(held) else [best, list(held)]
    first, *others = ({_NODE_ID: f"in({','.join(sorted(tier))})"} for tier in tiers)
    return {
        "label_selector": first,
        "fallback_strategy": [{"label_selector": selector} for selector in (*others, {})],
    }
