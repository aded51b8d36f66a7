"""Asks the coordinators that run in a cluster for the records of their jobs."""

from __future__ import annotations

import logging
from typing import Any

import ray
import ray.exceptions
from ray.util import list_named_actors

from hubdist.cluster.connection import NAMESPACE

_LOG = logging.getLogger(__name__)
_ASK_S = 10.0


def running_records(timeout_s: float = _ASK_S) -> list[str]:
    """The records of all jobs whose coordinators run and answer. This process must be connected to Ray.

    Args:
        timeout_s: Longest wait for all answers together, in seconds.
    """
    named = [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith("coordinator-")
    ]
    calls: list[Any] = []
    for name in named:
        try:
            calls.append(ray.get_actor(name, namespace=NAMESPACE).job_record.remote())
        except (ValueError, AttributeError):  # it has ended meanwhile, or is of a version that keeps no record
            _LOG.info("hubdist: %s was not asked", name)
    ready, _ = ray.wait(calls, num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    records = []
    for call in ready:
        try:
            records.append(str(ray.get(call, timeout=timeout_s)))
        except ray.exceptions.RayError as error:
            _LOG.info("hubdist: a coordinator gave no record: %s", type(error).__name__)
    return records
