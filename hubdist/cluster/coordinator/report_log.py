"""The coordinator's log of what nodes got: the newest reports whole, older ones in brief, the rest as totals.

A job may deliver thousands of models to hundreds of nodes. Reports are kept pickled: that takes a seventh of the memory
of their objects, and keeps nothing alive that an error refers to.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import cloudpickle

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport
from hubdist.report.plan import RouteTotal

_T = TypeVar("_T")

WHOLE_BYTES = 256 << 10
"""Bytes of pickled reports that are kept whole."""

BRIEF_BYTES = 384 << 10
"""Bytes of pickled reports that are kept without their timelines, and with a few of their senders."""

PINS_BYTES = 256 << 10
"""Bytes of pickled pins that a status shows. With the two limits above, a status stays below 1 MiB."""

_UNPICKLABLE = (pickle.PicklingError, TypeError, AttributeError, ValueError)
_SENDERS = 4
_TEXT = 1000
_MAX_BRIEF_BYTES = 16 << 10


class ReportLog:
    """Keeps reports in the order in which nodes were done. Owned by the coordinator's event loop.

    Args:
        max_reports: How many reports are kept.
    """

    def __init__(self, max_reports: int) -> None:
        self._max_reports = max_reports
        self._whole: deque[bytes] = deque()
        self._brief: deque[bytes] = deque()
        self._whole_bytes = 0
        self._brief_bytes = 0
        self._deliveries: Counter[Route | None] = Counter()
        self._bytes: Counter[Route | None] = Counter()

    def note(self, report: NodeReport) -> None:
        """Keep a report, and shorten or forget older ones if there are too many."""
        route = None if report.error is not None else report.route
        self._deliveries[route] += 1
        self._bytes[route] += report.bytes_received
        self._whole.append(pickled(report))
        self._whole_bytes += len(self._whole[-1])
        while self._whole_bytes > WHOLE_BYTES or len(self._whole) > self._max_reports:
            oldest = self._whole.popleft()
            self._whole_bytes -= len(oldest)
            self._brief.append(_in_brief(oldest))
            self._brief_bytes += len(self._brief[-1])
        while self._brief and (
            self._brief_bytes > BRIEF_BYTES or len(self._whole) + len(self._brief) > self._max_reports
        ):
            self._brief_bytes -= len(self._brief.popleft())

    @property
    def newest(self) -> tuple[NodeReport, ...]:
        """The reports that are kept, the newest last."""
        return tuple(unpickled(each) for each in (*self._brief, *self._whole))

    @property
    def count(self) -> int:
        """How many reports there have been."""
        return self._deliveries.total()

    @property
    def left_out(self) -> int:
        """How many older reports are not kept."""
        return self.count - len(self._whole) - len(self._brief)

    @property
    def totals(self) -> tuple[RouteTotal, ...]:
        """Counts of all reports, by route."""
        routes = sorted(self._deliveries, key=lambda route: (route is None, route))
        return tuple(RouteTotal(route, self._deliveries[route], self._bytes[route]) for route in routes)


def pickled(report: NodeReport) -> bytes:
    """A report as bytes. An error that cannot be pickled is replaced by its text."""
    try:
        return pickle.dumps(report)
    except _UNPICKLABLE:
        pass
    try:  # an error of a class of the user's `__main__`
        data: bytes = cloudpickle.dumps(report)
    except _UNPICKLABLE:
        return pickle.dumps(replace(report, error=HubdistError(str(report.error))))
    return data


def unpickled(data: bytes) -> NodeReport:
    """The report that `pickled` has turned into bytes."""
    report: NodeReport = pickle.loads(data)  # noqa: S301 - from this process
    return report


def newest(items: Sequence[_T], max_bytes: int) -> tuple[_T, ...]:
    """The last items, in their order.

    Args:
        items: All items, the newest last.
        max_bytes: How many bytes the returned items may take when they are pickled.
    """
    found = 0
    for count, item in enumerate(reversed(items)):
        found += len(pickle.dumps(item))
        if found > max_bytes:
            return tuple(items[len(items) - count :])
    return tuple(items)


def _in_brief(whole: bytes) -> bytes:
    report = unpickled(whole)
    report = replace(report, timeline=(), sources=report.sources[:_SENDERS])
    data = pickled(report)
    if len(data) <= _MAX_BRIEF_BYTES:
        return data
    error = report.error and HubdistError(_cut(str(report.error)))
    return pickled(replace(report, error=error, handle=_cut(report.handle), reason=_cut(report.reason)))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."


def thinned(timeline: Sequence[tuple[float, int]], max_points: int) -> tuple[tuple[float, int], ...]:
    """A timeline with fewer points, the last point among them.

    Args:
        timeline: Seconds and bytes that had arrived by then.
        max_points: How many points are left; positive.
    """
    step = -(-len(timeline) // max_points)
    return tuple(timeline[::-step][::-1]) if timeline else ()
