"""What one job did, as it is kept when the job is over. A frozen value; `hubdist.report.record` writes and reads it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport, PinReport, Report, size_text
from hubdist.report.plan import RouteTotal, Status

MAX_DELIVERIES = 1_000
MAX_PINS = 1_000
MAX_ERRORS = 100


class RecordedError(HubdistError):
    """An error as a record holds it: its words, and the name of its class.

    Attributes:
        kind: The name of the class of the error that happened, such as `NodeLostError`.
    """

    def __init__(self, what: str, *, kind: str = "HubdistError", **context: str | None) -> None:
        super().__init__(what, **context)
        self.kind = kind


def kind_of(error: HubdistError) -> str:
    """The name of an error's class; of a `RecordedError`, the name that it has kept."""
    return error.kind if isinstance(error, RecordedError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class JobReport:
    """What one job did: its settings, what its handles stand for, and what its nodes got.

    Attributes:
        job: Ray's id of the job; empty for what happened without Ray.
        session: Ray's name of the session.
        coordinator: Name of the coordinator's node; None if it is not known.
        began: When the job's coordinator began, in seconds since 1970; 0 if it is not known.
        written: When this was put together, in seconds since 1970.
        closed: True if the driver has shut the job down.
        versions: Name of each package that matters -> its version on the coordinator's node.
        settings: The settings of the job without secrets, as JSON can hold them.
        given: The keys of the settings that were given; the others have their defaults.
        pins: What the handles stand for, the newest last.
        deliveries: What nodes got, in the order in which they were done; the newest 1,000.
        errors: Why handles could not be resolved, the newest 100.
        totals: All deliveries by route, also those that are left out above.
        pins_left_out: How many older pins are not in `pins`.
        deliveries_left_out: How many older deliveries are not in `deliveries`.
    """

    job: str = ""
    session: str = ""
    coordinator: str | None = None
    began: float = 0.0
    written: float = 0.0
    closed: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    pins: tuple[PinReport, ...] = ()
    deliveries: tuple[NodeReport, ...] = ()
    errors: tuple[HubdistError, ...] = ()
    totals: tuple[RouteTotal, ...] = ()
    pins_left_out: int = 0
    deliveries_left_out: int = 0

    @classmethod
    def of(cls, found: Report | Status) -> Self:
        """What a report of a prefetch, or a job's status, tells of the job."""
        if isinstance(found, Report):
            return cls(
                written=time.time(),
                pins=found.pins,
                deliveries=found.nodes,
                errors=found.unresolved,
                totals=totals_of(found.nodes),
            )
        return cls(
            coordinator=found.coordinator,
            written=time.time(),
            pins=found.pins,
            deliveries=found.deliveries,
            totals=found.totals or totals_of(found.deliveries),
            pins_left_out=found.pins_left_out,
            deliveries_left_out=found.deliveries_left_out,
        )

    def after(self, earlier: JobReport) -> JobReport:
        """This report with what an earlier coordinator of the same job has reported before it."""
        pins = {(pin.handle, pin.digest): pin for pin in (*earlier.pins, *self.pins)}
        deliveries = (*earlier.deliveries, *self.deliveries)
        return replace(
            self,
            began=earlier.began,
            pins=tuple(pins.values())[-MAX_PINS:],
            deliveries=deliveries[-MAX_DELIVERIES:],
            errors=(*earlier.errors, *self.errors)[-MAX_ERRORS:],
            totals=_sum(*earlier.totals, *self.totals),
            pins_left_out=self.pins_left_out + earlier.pins_left_out + max(0, len(pins) - MAX_PINS),
            deliveries_left_out=(
                self.deliveries_left_out + earlier.deliveries_left_out + max(0, len(deliveries) - MAX_DELIVERIES)
            ),
        )

    @property
    def failures(self) -> tuple[HubdistError, ...]:
        """All errors: of handles that could not be resolved, and of nodes that did not get a model."""
        return (*self.errors, *(node.error for node in self.deliveries if node.error is not None))

    def __str__(self) -> str:
        """The job, a line for each pin and each delivery, the errors, and the totals."""
        lines = [self.title]
        if self.pins_left_out:
            lines.append(f"{self.pins_left_out} older handles")
        lines += [str(pin) for pin in self.pins]
        if self.deliveries_left_out:
            lines.append(f"{self.deliveries_left_out} older deliveries")
        lines += [f"  {delivery}" for delivery in self.deliveries]
        lines += [f"{kind_of(error)}: {error}" for error in self.errors]
        if self.totals:
            lines.append(f"all together: {', '.join(str(total) for total in self.totals)}")
        return "\n".join(lines)

    @property
    def title(self) -> str:
        """Which job, with which versions, and when."""
        words = [f"job {self.job}" if self.job else "hubdist"]
        if self.began:
            words.append(f"began {when_text(self.began)}")
        words.append(f"{'shut down' if self.closed else 'written'} {when_text(self.written)}")
        if self.coordinator:
            words.append(f"coordinator on {self.coordinator}")
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return ", ".join(words) + (f" ({versions})" if versions else "")


def totals_of(deliveries: tuple[NodeReport, ...]) -> tuple[RouteTotal, ...]:
    """Counts of deliveries by route; None stands for those that failed."""
    return _sum(
        *(RouteTotal(None if one.error is not None else one.route, 1, one.bytes_received) for one in deliveries)
    )


def received_text(totals: tuple[RouteTotal, ...]) -> str:
    """What nodes received by all routes together, as people read it."""
    return size_text(sum(total.bytes_received for total in totals))


def when_text(seconds: float) -> str:
    """A time in UTC as people read it.

    Args:
        seconds: Seconds since 1970.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _sum(*totals: RouteTotal) -> tuple[RouteTotal, ...]:
    routes = sorted({total.route for total in totals}, key=lambda route: (route is None, route))
    return tuple(
        RouteTotal(
            route,
            sum(total.deliveries for total in totals if total.route == route),
            sum(total.bytes_received for total in totals if total.route == route),
        )
        for route in routes
    )
