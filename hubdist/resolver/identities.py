"""Who the driver's node is to the origin of a handle and to the shared cache, for `plan`."""

from __future__ import annotations

from dataclasses import replace

from hubdist.config.schema import Config
from hubdist.model.handle import Handle, Kind, parse_handle
from hubdist.origins import OriginSettings
from hubdist.origins.identity import origin_identity, place_identity
from hubdist.report.plan import Plan


def with_identities(plan: Plan, handle: Handle, config: Config, settings: OriginSettings, node: str) -> Plan:
    """A plan that says who would ask; looks for credentials, and asks neither origin nor shared cache.

    Args:
        plan: The plan.
        handle: Its handle.
        config: The settings.
        settings: How origins are read.
        node: The name of this node.
    """
    identity = cache = None
    if not config.offline or handle.is_drivers:
        found = origin_identity(handle, config.deadlines, settings.find_access())
        identity = f"{found}, on node {node}"
    if config.shared_cache is not None:
        place = parse_handle(config.shared_cache)
        if not config.offline or place.kind is Kind.LOCAL:
            cache = f"{place_identity(place, config.deadlines)}, on node {node}"
    return replace(plan, identity=identity, cache_identity=cache)
