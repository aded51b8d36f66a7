"""Asks the coordinators of all jobs of the cluster what they know, for `hubdist status`."""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.exceptions

from hubdist.cluster.connection import NAMESPACE, coordinator_name
from hubdist.cluster.nodes import alive_nodes
from hubdist.report.jobs import ClusterStatus, JobStatus

_ANSWER_S = 5.0


def cluster_status(timeout_s: float = _ANSWER_S) -> ClusterStatus:
    """What the jobs of the cluster have brought to which nodes. Starts nothing.

    Args:
        timeout_s: Longest wait for all coordinators together, in seconds. Those that do not answer have no status.

    Raises:
        PeerError: The cluster could not be asked for its nodes.
    """
    nodes = alive_nodes()
    prefix = coordinator_name("")
    names = ray.util.list_named_actors(all_namespaces=True)
    jobs = sorted(
        str(named["name"]).removeprefix(prefix)
        for named in names
        if named["namespace"] == NAMESPACE and str(named["name"]).startswith(prefix)
    )
    asked = [(job, _ask(job)) for job in jobs]
    deadline = time.monotonic() + timeout_s
    return ClusterStatus(
        tuple(node.name for node in nodes), tuple(_answered(job, calls, deadline) for job, calls in asked)
    )


def _ask(job: str) -> tuple[Any, Any] | None:
    try:
        coordinator = ray.get_actor(coordinator_name(job), namespace=NAMESPACE)
    except ValueError:  # it has ended since its name was listed
        return None
    return coordinator.status.remote(), coordinator.watch.remote()


def _answered(job: str, calls: tuple[Any, Any] | None, deadline: float) -> JobStatus:
    if calls is None:
        return JobStatus(job, None)
    try:
        status, arrivals = ray.get(list(calls), timeout=max(0.0, deadline - time.monotonic()))
    except ray.exceptions.RayError:
        return JobStatus(job, None)
    return JobStatus(job, status.for_process(""), arrivals)
