"""The metrics of hubdist: all that there are, declared in one place, and what counts them.

They go through `ray.util.metrics`, so Prometheus finds them where it finds Ray's own, with `ray_` before each name and
`_total` behind that of a counter. The tag `node` is the node that a number is about, whichever process counts it: most
are counted by the coordinator, which has the report of every delivery. There are no gauges, since Ray may put those of
several processes on a node into one. Ray makes the sum of a histogram from the middles of its buckets, so the counts of
the buckets are what to go by.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hubdist.delivery.routes import Route
from hubdist.report.delivery import OWN_STORE, NodeReport, PinReport

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name without Ray's prefix.
        text: What it counts, with the unit.
        tags: The names of its tags.
        boundaries: The upper ends of a histogram's buckets; None for a counter.
    """

    name: str
    text: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] | None = None

    @property
    def exported(self) -> tuple[str, ...]:
        """The names that Prometheus reads."""
        if self.boundaries is None:
            return (f"ray_{self.name}_total",)
        return tuple(f"ray_{self.name}_{part}" for part in ("bucket", "sum", "count"))


RECEIVED = Metric(
    "hubdist_received_bytes",
    "Bytes that nodes received, by route (driver, shared, direct; resolve for what the coordinator read) and by source"
    " (driver: the driver's node; peer: another node; origin; shared: the shared cache; own_store: older snapshots in"
    " the node's own store, which did not travel).",
    ("node", "route", "source"),
)
DELIVERIES = Metric(
    "hubdist_deliveries",
    "Deliveries of one model to one node that ended, by route (store if nothing was sent) and outcome (ok, failed).",
    ("node", "route", "outcome"),
)
DELIVERY_SECONDS = Metric(
    "hubdist_delivery_seconds",
    "Seconds that a node waited for a model, from the call to the published snapshot, by route.",
    ("node", "route"),
    _SECONDS,
)
RESOLVES = Metric(
    "hubdist_resolves",
    "Handles that the coordinator resolved, by where the model came from (store, shared_cache, tfhub_cache, origin) and"
    " outcome (ok, failed).",
    ("node", "source", "outcome"),
)
RESOLVE_SECONDS = Metric(
    "hubdist_resolve_seconds", "Seconds that the coordinator took to resolve a handle.", ("node", "source"), _SECONDS
)
RETRIES = Metric("hubdist_retries", "Chunks that had to be sent again, for whatever reason.", ("node", "route"))
REFUSED = Metric("hubdist_refused_chunks", "Chunks that were refused because of wrong bytes.", ("node", "route"))
HITS = Metric(
    "hubdist_store_hits", "Times that a process found a model in its node's store without the coordinator.", ("node",)
)
EVICTIONS = Metric("hubdist_evictions", "Snapshots that were evicted from a node's store.", ("node",))

DECLARED = (
    RECEIVED,
    DELIVERIES,
    DELIVERY_SECONDS,
    RESOLVES,
    RESOLVE_SECONDS,
    RETRIES,
    REFUSED,
    HITS,
    EVICTIONS,
)

_NO_ROUTE = "none"
_RESOLVE = "resolve"
_ORIGIN_KINDS = {Route.SHARED: "shared", Route.DIRECT: "origin"}
_FOUND = {"store": "store", "shared cache": "shared_cache", "TensorFlow Hub cache": "tfhub_cache", "origin": "origin"}


class Metrics:
    """Counts for one node or, in the coordinator, for all. Safe for several threads; a count takes some microseconds.

    Args:
        node: Name of the node of this process.
        enabled: False counts nothing.
    """

    def __init__(self, node: str, *, enabled: bool) -> None:
        self._node = node
        self._enabled = enabled
        self._made: dict[str, Any] = {}

    @classmethod
    @functools.cache
    def of_process(cls, wanted: bool, node_id: str) -> Self:
        """What counts in this process, always the same object; nothing counts in a process that has no Ray.

        Args:
            wanted: What the setting `export_metrics` says.
            node_id: Ray's id of the node of this process.
        """
        ray = sys.modules.get("ray")
        if not wanted or ray is None or not ray.is_initialized():
            return cls("", enabled=False)
        return cls(f"{ray.util.get_node_ip_address()}/{node_id[:8]}", enabled=True)

    def note_delivery(self, report: NodeReport, driver: str) -> None:
        """Count what a node got.

        Args:
            report: How the node got the model, or why it did not.
            driver: Name of the driver's node.
        """
        if not self._enabled:
            return
        route = str(report.route or _NO_ROUTE)
        place = {"node": report.name, "route": route}
        self._count(DELIVERIES, 1, place | {"outcome": "ok" if report.error is None else "failed"})
        self._count(RETRIES, report.retries, place)
        self._count(REFUSED, report.refused, place)
        if report.error is None:
            self._observe(DELIVERY_SECONDS, report.seconds, place)
        for sender, size in report.sources:
            self._count(RECEIVED, size, place | {"source": source_kind(sender, report.route, driver)})

    def note_resolve(self, pin: PinReport) -> None:
        """Count a handle that was resolved."""
        if not self._enabled:
            return
        source = _FOUND.get(pin.source.partition(", by ")[0], "origin")
        self._count(RESOLVES, 1, {"node": self._node, "source": source, "outcome": "ok"})
        self._observe(RESOLVE_SECONDS, pin.seconds, {"node": self._node, "source": source})
        if source == "origin" and ", by " not in pin.source:  # what a node read itself is in that node's delivery
            self._count(RECEIVED, pin.total_bytes, {"node": self._node, "route": _RESOLVE, "source": "origin"})

    def note_unresolved(self) -> None:
        """Count a handle that could not be resolved."""
        self._count(RESOLVES, 1, {"node": self._node, "source": _NO_ROUTE, "outcome": "failed"})

    def note_hit(self) -> None:
        """Count a model that this process found in its node's store."""
        self._count(HITS, 1, {"node": self._node})

    def note_evicted(self) -> None:
        """Count a snapshot that this process has evicted."""
        self._count(EVICTIONS, 1, {"node": self._node})

    def _count(self, metric: Metric, amount: float, tags: Mapping[str, str]) -> None:
        if self._enabled and amount > 0:  # ray refuses to count nothing
            self._of_ray(metric).inc(amount, tags)

    def _observe(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        if self._enabled:
            self._of_ray(metric).observe(value, tags)

    def _of_ray(self, metric: Metric) -> Any:
        found = self._made.get(metric.name)
        if found is None:
            from ray.util.metrics import Counter, Histogram

            if metric.boundaries is None:
                found = Counter(metric.name, description=metric.text, tag_keys=metric.tags)
            else:
                boundaries = list(metric.boundaries)
                found = Histogram(metric.name, metric.text, boundaries=boundaries, tag_keys=metric.tags)
            found = self._made.setdefault(metric.name, found)
        return found


def source_kind(sender: str, route: Route | None, driver: str) -> str:
    """What kind of source sent bytes, for the tag `source`.

    Args:
        sender: Name of a node, a URL without secrets, or `OWN_STORE`.
        route: The route by which the bytes came.
        driver: Name of the driver's node.
    """
    if sender == OWN_STORE:
        return "own_store"
    if sender == driver:
        return "driver"
    if route in _ORIGIN_KINDS and (sender.startswith("/") or "://" in sender):
        return _ORIGIN_KINDS[route]
    return "peer"
