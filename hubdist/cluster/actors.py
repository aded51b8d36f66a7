"""Where the coordinator and the agents run; the one place where `ray.remote` is applied."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hubdist.cluster.agent.agent import NodeAgent
from hubdist.cluster.agent.chunk_rpc import ANSWER_GROUP, SEND_GROUP
from hubdist.cluster.coordinator.coordinator import Coordinator
from hubdist.cluster.job import Job
from hubdist.cluster.job_record import JobRecord
from hubdist.cluster.nodes import Node, ProcessRole, alive_nodes, driver_node
from hubdist.config.schema import Config

NAMESPACE = "hubdist"
_PROTOCOL = 1
"""Part of the coordinator's name: processes that speak another protocol have a coordinator of their own."""

_COORDINATOR_CALLS = 10_000
_AGENT_THREADS = 96
_SEND_THREADS = 32
_LOST_CALLS = 5
"""How often Ray sends a call to an agent again that got lost on the way; the methods may run twice."""


def coordinator_name(job_id: str) -> str:
    """The name of a job's coordinator in hubdist's namespace."""
    return f"coordinator-{_PROTOCOL}-{job_id}"


def make_coordinator(job: Job, job_id: str, here: ProcessRole) -> Any:
    """The job's coordinator, made if there is none.

    A coordinator that the driver makes ends with the driver. One that a task makes must outlive that task's process, so
    it is detached, and ends itself when it has had no work for long.

    Args:
        job: What the coordinator is made from.
        job_id: Ray's id of the job.
        here: What this process is to the job.
    """
    node = driver_node(alive_nodes(), here)
    detached = here is ProcessRole.TASK
    return (
        ray.remote(Coordinator)
        .options(
            name=coordinator_name(job_id),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached" if detached else None,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_COORDINATOR_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(job, job_id=job_id, node=node, make_agent=make_agent, record=JobRecord(job_id), detached=detached)
    )


def scope_of(job_id: str) -> str:
    """A name of a job that no other job has, of all clusters that ever used a store."""
    return f"{ray.get_runtime_context().get_session_name()}-{job_id}"


def find_coordinator(job_id: str) -> Any | None:
    """The job's coordinator; None if there is none."""
    try:
        return ray.get_actor(coordinator_name(job_id), namespace=NAMESPACE)
    except ValueError:
        return None


def make_agent(config: Config, node: Node) -> Any:
    """A new agent on a node. It belongs to the process that makes it, and ends with that process at the latest.

    Args:
        config: The settings that hold on the node.
        node: The node.
    """
    return (
        ray.remote(concurrency_groups={SEND_GROUP: _SEND_THREADS, ANSWER_GROUP: 2})(NodeAgent)  # type: ignore[call-overload]  # ray's types lack it
        .options(
            num_cpus=0,
            max_restarts=0,
            max_task_retries=_LOST_CALLS,
            max_concurrency=_AGENT_THREADS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(config, node.id)
    )
