"""What the coordinator's methods answer with, where the answer is not a value of another package."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.cluster.job import Job
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.report.plan import RouteTotal


@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """What the coordinator knows.

    Attributes:
        node: Name of its node.
        pins: The newest pins.
        deliveries: The newest reports of nodes.
        agents: Names of the nodes where an agent runs.
        left_out: How many older pins, and how many older reports, are not shown.
        totals: All deliveries by route.
    """

    node: str
    pins: tuple[PinReport, ...]
    deliveries: tuple[NodeReport, ...]
    agents: tuple[str, ...]
    left_out: tuple[int, int]
    totals: tuple[RouteTotal, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process needs to know to take part in its job: the job, and Ray's id of the driver's node."""

    job: Job
    node_id: str
