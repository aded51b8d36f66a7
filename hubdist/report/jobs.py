"""What all jobs of a cluster have resolved and delivered: nodes x models. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from hubdist.report.arrivals import Arrival
from hubdist.report.plan import Status


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What one job of the cluster has resolved and delivered, and what is on its way.

    Attributes:
        job: Ray's id of the job.
        status: What the job knows; None if its coordinator gave no answer in time.
        arrivals: What is arriving on each node now.
    """

    job: str
    status: Status | None
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model that some job has resolved.

    Attributes:
        handle: The handle without secrets, as the job that resolved it last wrote it.
        digest: `sha256:<hex>` of the model.
        total_bytes: Bytes of all files.
    """

    handle: str
    digest: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What the jobs of a cluster have brought to which nodes.

    Attributes:
        nodes: Names of the nodes that are alive.
        jobs: The jobs that use hubdist.
    """

    nodes: tuple[str, ...]
    jobs: tuple[JobStatus, ...]

    @property
    def models(self) -> tuple[Model, ...]:
        """The models of all jobs, in the order in which they were resolved."""
        found: dict[str, Model] = {}
        for job in self.jobs:
            for pin in job.status.pins if job.status else ():
                found[pin.digest] = Model(pin.handle, pin.digest, pin.total_bytes)
        return tuple(found.values())

    def cell(self, node: str, digest: str) -> str:
        """What a node has of a model, in a word: the route by which it came, a share in percent, `failed`, or nothing.

        Args:
            node: The node's name.
            digest: The model's digest.
        """
        for job in self.jobs:
            for arrival in job.arrivals:
                if (arrival.node, arrival.digest) == (node, digest):
                    share = arrival.arrived_bytes / arrival.total_bytes if arrival.total_bytes else 0.0
                    return f"{share:.0%}"
        word = ""
        for job in self.jobs:
            for delivery in job.status.deliveries if job.status else ():
                if (delivery.name, delivery.digest) == (node, digest):
                    word = "failed" if delivery.error is not None else str(delivery.route)
        return word
