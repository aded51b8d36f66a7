"""A process's connection to its job's coordinator: finds the actor or starts it, joins the job, and calls methods."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hubdist.cluster.agent.chunk_rpc import ANSWER_GROUP, SEND_GROUP
from hubdist.cluster.calls import lost_errors, result_of, stop_actor, translated
from hubdist.cluster.driver_access import DriverAccess
from hubdist.cluster.job import Job, JobRecord
from hubdist.cluster.nodes import Node, ProcessRole, alive_nodes, driver_node, process_role
from hubdist.config.handover import literal_store, rooted
from hubdist.config.schema import Config
from hubdist.errors import HubdistError, PeerError, StoreError, TransferTimeoutError
from hubdist.system.disk import working_directory

_LOG = logging.getLogger(__name__)
_AGAIN_S = 0.2
_MAX_AGAIN_S = 5.0
_PROGRESS_S = 0.5
_CLOSE_S = 5.0
_TELL_S = 5.0
NAMESPACE = "hubdist"
_PROTOCOL = 5
"""Part of the coordinator's name: processes that speak another protocol have a coordinator of their own."""

_COORDINATOR_CALLS = 10_000
_AGENT_THREADS = 96
_SEND_THREADS = 32
_PROBE_THREADS = 8
_CARE_THREADS = 32
_LOST_CALLS = 5
"""How often Ray sends a call to an agent again that got lost on the way; the methods may run twice."""


class CoordinatorConnection:
    """Calls the coordinator of this process's job. Safe for several threads.

    Args:
        config: What this process would start a coordinator with.

    Attributes:
        config: The settings that hold in this process. `CoordinatorClient` replaces them once the process has joined.
        job: The job, once this process has joined.
        role: What this process is to the job.
        node_id: Ray's id of this process's node; `outside` for a Ray Client.
    """

    def __init__(self, config: Config) -> None:
        context = ray.get_runtime_context()
        self.role = process_role()
        # The coordinator and other processes may run in other directories than the driver.
        self.config = rooted(config, working_directory()) if self.role is ProcessRole.DRIVER else config
        self.node_id = "outside" if self.role is ProcessRole.OUTSIDE else str(context.get_node_id())
        self.job: Job | None = None
        self._job_id = str(context.get_job_id())
        self._guard = threading.Lock()
        self._coordinator: Any = None
        self._values: DriverAccess | None = None
        """Kept as long as this process may be asked for them."""

    def call(self, method: Callable[[Any], Any], while_waiting: Callable[[Any], None] | None = None) -> Any:
        """Call the coordinator. If it dies meanwhile, wait for its restart or make a new one, and call again.

        Args:
            method: Gets the actor, and returns the reference of the call.
            while_waiting: Gets the actor twice a second until the call is answered; None for nothing.

        Raises:
            PeerError: The coordinator could not start, or is gone and did not come back.
            TransferTimeoutError: The coordinator gave no answer within `timeout_s`.
        """
        deadline = time.monotonic() + self.config.timeout_s
        pause_s = _AGAIN_S
        while True:
            coordinator = self._connect()
            try:
                return _answer(coordinator, method, while_waiting, deadline)
            except lost_errors() as error:
                if getattr(error, "actor_init_failed", False):
                    raise PeerError(
                        f"the coordinator could not start: {error}",
                        advice="Is hubdist installed where the driver runs, or named in runtime_env?",
                    ) from error
                if time.monotonic() + pause_s > deadline:
                    raise PeerError("the coordinator is gone and did not come back") from error
                if isinstance(error, ray.exceptions.ActorUnschedulableError):
                    stop_actor(coordinator)  # its node is gone; a new one is made elsewhere under its name
                with self._guard:
                    self._coordinator = None
                threading.Event().wait(pause_s)  # until Ray has restarted it; nothing tells when
                pause_s = min(2 * pause_s, _MAX_AGAIN_S)
            except ray.exceptions.GetTimeoutError as error:
                raise TransferTimeoutError(
                    f"the coordinator gave no answer within timeout_s = {self.config.timeout_s:g} s"
                ) from error
            except ray.exceptions.RayError as error:
                raise translated(error, None) from error.__cause__

    def tell(self, method: Callable[[Any], Any]) -> None:
        """Call the coordinator once, and wait a moment for its answer; nothing is lost if the call gets lost.

        Args:
            method: Gets the actor, and returns the reference of the call.
        """
        try:
            result_of(method(self._connect()), _TELL_S)
        except (ray.exceptions.RayError, HubdistError) as error:
            _LOG.info("hubdist: the coordinator was not told: %s", type(error).__name__)

    def end(self) -> None:
        """From the driver or a Ray Client: end the coordinator, and with it the agents. A task only disconnects."""
        coordinator = None if self.role is ProcessRole.TASK else find_coordinator(self._job_id)
        if coordinator is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(coordinator.close.remote(), timeout=_CLOSE_S)
            stop_actor(coordinator)
        with self._guard:
            self._coordinator = None

    def _connect(self) -> Any:
        with self._guard:
            if self._coordinator is None:
                coordinator = find_coordinator(self._job_id)
                if coordinator is None:
                    self._values = self._values or DriverAccess.of_driver(self.config, self.role)
                    coordinator = make_coordinator(self._original_job(), self._job_id, self.role, self._values)
                self._coordinator = coordinator
            return self._coordinator

    def _original_job(self) -> Job:
        """What the coordinator is made from: what the job began with, if a task has to make the coordinator again."""
        known = JobRecord(self._job_id).job() if self.role is ProcessRole.TASK else None
        known = known or self.job
        if known is not None:
            return known
        base_dir = working_directory() if self.role is ProcessRole.DRIVER else None
        return Job.of(self.config, base_dir, scope_of(self._job_id), self._drivers_store())

    def _drivers_store(self) -> tuple[str, str] | None:
        """The driver's node and the store that its environment means; None if the settings name a store."""
        if self.role is ProcessRole.DRIVER and not self.config.names_store:
            with contextlib.suppress(StoreError):  # the coordinator raises it too, with more to say
                return self.node_id, literal_store(self.config, self.node_id)
        return None


def _answer(
    coordinator: Any, method: Callable[[Any], Any], while_waiting: Callable[[Any], None] | None, deadline: float
) -> Any:
    reference = method(coordinator)
    while while_waiting is not None and time.monotonic() < deadline:
        if ray.wait([reference], timeout=_PROGRESS_S)[0]:
            break
        while_waiting(coordinator)
    return result_of(reference, max(0.0, deadline - time.monotonic()))


def coordinator_name(job_id: str) -> str:
    """The name of a job's coordinator in hubdist's namespace."""
    return f"coordinator-{_PROTOCOL}-{job_id}"


def make_coordinator(job: Job, job_id: str, here: ProcessRole, values: DriverAccess) -> Any:
    """The job's coordinator, made if there is none.

    A coordinator that the driver makes ends with the driver. One that a task makes must outlive that task's process, so
    it is detached, and ends itself when it has had no work for long.

    Args:
        job: What the coordinator is made from.
        job_id: Ray's id of the job.
        here: What this process is to the job.
        values: The way to the driver's variables for origins.
    """
    from hubdist.cluster.coordinator.coordinator import Coordinator  # most processes find the coordinator made

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
        .remote(
            job,
            job_id=job_id,
            node=node,
            make_agent=make_agent,
            record=JobRecord(job_id),
            detached=detached,
            values=values,
        )
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
    from hubdist.cluster.agent.agent import NodeAgent  # only the coordinator makes agents

    return (
        ray.remote(concurrency_groups={SEND_GROUP: _SEND_THREADS, ANSWER_GROUP: 2})(NodeAgent)  # type: ignore[call-overload]  # ray's types lack it
        .options(
            num_cpus=0,
            max_restarts=0,
            max_task_retries=_LOST_CALLS,
            max_concurrency=_AGENT_THREADS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(config.node_settings, node.id, host=node.address)
    )


def make_probe(kind: type[Any], node_id: str) -> Any:
    """A process on a node that measures for `hubdist doctor`; it ends with the process that makes it.

    Args:
        kind: The class of the probe.
        node_id: Ray's id of the node.
    """
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(kind).options(num_cpus=0, max_concurrency=_PROBE_THREADS, scheduling_strategy=strategy).remote()


def make_care_agent(config: Config, node: Node) -> Any:
    """A new care agent on a node. It ends with the process that makes it at the latest.

    Args:
        config: The settings that hold on the node.
        node: The node.
    """
    from hubdist.cluster.agent.care_agent import CareAgent  # most processes make none

    return (
        ray.remote(CareAgent)
        .options(
            num_cpus=0,
            max_restarts=0,
            max_task_retries=_LOST_CALLS,
            max_concurrency=_CARE_THREADS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(config.node_settings, node.id)
    )
