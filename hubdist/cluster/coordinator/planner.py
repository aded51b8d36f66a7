"""Tells what a load would do on each node, for `hubdist.plan`: nodes are probed, and nothing is read or moved."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from dataclasses import replace

from hubdist.cluster.coordinator.closed_ports import ClosedPorts
from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.cluster.coordinator.enclosures import Enclosures
from hubdist.cluster.coordinator.job_pins import JobPins
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.coordinator.store_groups import StoreGroups
from hubdist.cluster.nodes import Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import ENCLOSED, Evidence, Route, RouteOrder, order_routes
from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest
from hubdist.report.plan import NodePlan, Plan
from hubdist.resolver.identities import with_identities
from hubdist.resolver.plan_view import places_to_probe, plan_of
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import CallOptions


class Planner:
    """Makes plans. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        config: The job's settings.
        resolver: Knows what handles stand for.
        pins: The job's pins.
        work: Threads for looks at the disk.
        probes: Asks nodes what they have and can read.
        stores: Tells which nodes see the same store.
        closed_ports: Knows which nodes cannot reach each other's ports.
        enclosures: Tells which models are enclosed in answers.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        *,
        resolver: Resolver,
        pins: JobPins,
        work: BlockingWork,
        probes: Probes,
        stores: StoreGroups,
        closed_ports: ClosedPorts,
        enclosures: Enclosures,
    ) -> None:
        self._node = node
        self._config = config
        self._resolver = resolver
        self._pins = pins
        self._work = work
        self._probes = probes
        self._stores = stores
        self._closed_ports = closed_ports
        self._enclosures = enclosures

    async def plan(self, text: str, nodes: list[Node], options: CallOptions) -> Plan:
        """What a load of a handle would do on these nodes.

        Args:
            text: The handle.
            nodes: The nodes.
            options: What the load would ask for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
        """
        handle = self._resolver.parse(text)
        settings = self._resolver.policy.settings_of(handle)
        wanted = self._config.wanted_route(settings, options.route)
        pinned = self._pins.find(handle)
        found = pinned or await self._work.look(lambda: self._resolver.look(handle))
        directory = None
        if wanted in (None, Route.DIRECT):
            ask = wanted is Route.DIRECT
            directory = await self._work.look(lambda: self._resolver.direct.find(handle, wanted=ask))
        fills = None if self._config.shared_cache_read_only else self._config.shared_cache
        places = places_to_probe(found, fills=fills, directory=directory)
        digest = None if found is None else found.digest
        known = None
        if found is not None and await self._enclosures.would_enclose(found, wanted):
            known = RouteOrder((ENCLOSED,))
        orders = await asyncio.gather(*(self._order(node, digest, places, wanted, known) for node in nodes))
        planned = plan_of(
            handle,
            found,
            pinned_by="this job" if pinned else None,
            read_mode=self._config.wanted_read_mode(settings, options.read_mode),
            nodes=[NodePlan(node.id, node.name, order) for node, order in zip(nodes, orders, strict=True)],
        )
        named = functools.partial(
            with_identities, planned, handle, self._config, self._resolver.settings, self._node.name
        )
        planned = await self._work.look(named)
        travels = any(order.first.route in (Route.DRIVER, Route.SHARED) for order in orders)
        return replace(planned, notes=self._closed_ports.notes) if travels else planned

    async def _order(
        self,
        node: Node,
        digest: Digest | None,
        places: Mapping[Route, str],
        wanted: Route | None,
        known: RouteOrder | None,
    ) -> RouteOrder:
        """The order of one node; `known` holds if the node lacks the model, and None lets the node be probed."""
        if digest is not None and await self._probes.holds(node, digest):
            return order_routes(Evidence(node_holds_snapshot=True))
        with contextlib.suppress(HubdistError):  # the probes of the places meet the same error, and tell it
            first = await self._stores.first(node)
            if first.id != node.id:
                return order_routes(Evidence(shares=self._stores.reason(first)))
        return known or await self._probes.order(node, places, wanted)
