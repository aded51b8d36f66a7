"""A process's way to its job's coordinator."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.exceptions
from ray.experimental import tqdm_ray

from hubdist.cluster.actors import find_coordinator, make_coordinator, scope_of
from hubdist.cluster.calls import LOST, stop_actor, translated
from hubdist.cluster.coordinator.coordinator import CoordinatorStatus, Membership
from hubdist.cluster.job import Job, Terms
from hubdist.cluster.job_record import JobRecord
from hubdist.cluster.nodes import ProcessRole, process_role
from hubdist.cluster.refresh_marks import RefreshMark, find_mark
from hubdist.config.schema import Config, ReadMode, RouteName
from hubdist.errors import ConfigError, PeerError, StoreError, TransferTimeoutError
from hubdist.model.chunks import Chunk, cut_chunks
from hubdist.model.handle import BUILT_IN_SCHEMES, handle_text, parse_handle
from hubdist.model.hints import suggesting
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import Plan, Refreshed, Report, Status
from hubdist.resolver.resolver import Pin
from hubdist.resolver.values import ReadSources
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.disk import working_directory
from hubdist.system.ownership import find_root

_AGAIN_S = 0.2
_MAX_AGAIN_S = 5.0
_PROGRESS_S = 0.5
_CLOSE_S = 5.0
_PULL_BYTES = 4 << 20


class CoordinatorClient:
    """Resolves and locates models through the coordinator of this process's job. Safe for use by several threads.

    Args:
        config: What this process would start a coordinator with.
    """

    def __init__(self, config: Config) -> None:
        context = ray.get_runtime_context()
        self._config = config
        self._job_id = str(context.get_job_id())
        self._here = process_role()
        if self._here is ProcessRole.DRIVER:
            self._config = config.rooted(working_directory())  # for coordinators run in other directories
        self._node_id = "outside" if self._here is ProcessRole.OUTSIDE else str(context.get_node_id())
        self._guard = threading.Lock()
        self._coordinator: Any = None
        self._store: Store | None = None
        self._mark: RefreshMark | None = None
        self._job: Job | None = None
        self._terms = Terms()
        self._own_store = False
        """Agents do not deliver to this process's store; it fetches models itself."""
        self._drivers_node_id = ""

    @property
    def node_id(self) -> str:
        """Ray's id of this process's node; `outside` for a Ray Client."""
        return self._node_id

    @property
    def runs_tasks(self) -> bool:
        """True in a process that runs tasks, and is neither a driver nor an actor."""
        return self._here is ProcessRole.TASK and ray.get_runtime_context().get_actor_id() is None

    @property
    def sees_drivers_disk(self) -> bool:
        """True if paths of the driver are paths of this process."""
        return self._node_id == self._drivers_node_id

    def join(self, asked: Mapping[str, Any] | None) -> Config:
        """Take part in the job; the first process of a job to do so makes the coordinator.

        Args:
            asked: The keys that `init` was called with in this process; None if it was not called.

        Returns:
            The settings for this process: the job's; in a task or actor changed by `asked`.

        Raises:
            ConfigError: `init` was called in the driver, and the job already runs with other settings; or a path in
                them cannot be told on the driver's node.
            StoreError: The store of the driver's node cannot be used.
        """
        proposed = self._config
        try:
            member = self._join(proposed)
        except (ConfigError, StoreError):
            self.shutdown()  # a coordinator that cannot begin is of no use; the next call may bring better settings
            raise
        job = member.job
        if asked is not None and self._here is not ProcessRole.TASK and job.fingerprint != proposed.fingerprint:
            raise ConfigError(
                "this job already runs with other settings",
                advice="Call hubdist.init once, before the first load, or hubdist.shutdown() in between.",
            )
        settings = job.config_on(self._node_id)
        if self._here is ProcessRole.TASK and asked:
            settings = settings.changed_in_process(asked, job.schemes, job.base_dir)
            self._terms = Terms(settings.frozen, settings.offline, proposed.model_settings(job.schemes))
            self._own_store = settings.store != job.config_on(self._node_id).store
        elif job.fingerprint == proposed.fingerprint:
            settings = proposed  # with models and origins, should Ray be started anew
        if self._here is ProcessRole.OUTSIDE:
            settings = settings.with_store_of(proposed)  # another machine than the job's nodes
            self._own_store = True
        self._config = settings
        self._job = job
        self._drivers_node_id = member.node_id
        return settings

    def _join(self, proposed: Config) -> Membership:
        handles = [model.handle for model in proposed.models]
        member: Membership = self._call(lambda coordinator: coordinator.join.remote(handles))
        if member.job.closed and self._here is not ProcessRole.TASK:
            self.shutdown()  # a task made it after the driver had shut the job down; now it begins anew
            member = self._call(lambda coordinator: coordinator.join.remote(handles))
        return member

    def epoch(self) -> int | None:
        """Grows whenever the job has refreshed a handle; None if this process is not told and has to ask.

        It is told by its node's store; so it has to ask where there is none, as with `read_mode: memory`.
        """
        if self._own_store or self._job is None:
            return None
        if self._mark is None:
            self._mark = find_mark(self._config.store_root(self._node_id), self._job.scope)
        return None if self._mark is None else self._mark.size()

    def resolve(self, text: str, route: RouteName | None, read_mode: ReadMode | None) -> Pin:
        """What this job has pinned for a handle.

        Args:
            text: The handle.
            route: Of this call; None for the configured one.
            read_mode: Of this call; None for the configured one.

        Raises:
            HubdistError: Every kind of it.
        """
        whole = self._whole(text)
        with suggesting([text]):
            pin: Pin = self._call(
                lambda coordinator: coordinator.pin.remote(whole, self._node_id, route, read_mode, self._terms)
            )
        return pin

    def refresh(self, text: str, route: RouteName | None) -> Refreshed:
        """Ask the origin again what a handle stands for, and tell all processes of the job.

        Raises:
            HubdistError: Every kind of it; the handle goes on to stand for what it did.
        """
        whole = self._whole(text)
        found: Refreshed = self._call(lambda coordinator: coordinator.refresh.remote(whole, self._node_id, route))
        return found

    def locate(self, pin: Pin, route: RouteName | None) -> Snapshot:
        """The snapshot in this node's store; brought here if it is missing.

        Raises:
            HubdistError: Every kind of it.
        """
        store = self._open_store()
        for _ in range(2):  # a snapshot may be evicted right after it was delivered, but not for ever
            snapshot = store.find(pin.digest)
            if snapshot is not None:
                return snapshot
            if self._own_store:
                self._pull(store, pin.digest)
            else:
                self._call(lambda coordinator: coordinator.deliver.remote(pin, self._node_id, route))
        snapshot = store.find(pin.digest)
        if snapshot is None:
            raise StoreError(
                f"{pin.digest} was delivered to this node, but is not in its store {store.root}",
                path=str(store.root),
                handle=pin.handle,
                advice="Is it the same directory for all processes of the node? Is max_bytes large enough?",
            )
        return snapshot

    def access(self, pin: Pin, route: RouteName | None) -> ReadSources:
        """How this process can read a model by itself."""
        access: ReadSources = self._call(lambda coordinator: coordinator.access.remote(pin, route))
        return access

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot, if this node has a store and it is there; nothing is made or brought."""
        try:
            if not find_root(self._config.store_root(self._node_id)).is_dir():
                return None
        except StoreError:  # there can be none
            return None
        return self._open_store().find(digest)

    def read(self, manifest: Manifest, chunk: Chunk) -> Any:
        """The bytes of one chunk, from the driver's node, as an array of uint8."""
        return self._call(lambda coordinator: coordinator.read.remote(manifest.digest, chunk))

    def plan(self, text: str, nodes: Sequence[str] | None, route: RouteName | None) -> Plan:
        """What a load would do."""
        whole = self._whole(text)
        wanted = None if nodes is None else list(nodes)
        plan: Plan = self._call(lambda coordinator: coordinator.plan.remote(whole, wanted, route))
        return plan

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None) -> Report:
        """Bring models to nodes, with progress bars."""
        bars: dict[str, Any] = {}
        whole = [self._whole(text) for text in texts]
        wanted = None if nodes is None else list(nodes)
        try:
            report: Report = self._call(
                lambda coordinator: coordinator.prefetch.remote(whole, wanted),
                while_waiting=lambda coordinator: _show_progress(coordinator, bars),
            )
        finally:
            for bar in bars.values():
                bar.close()
        return report

    def status(self) -> Status:
        """What the job knows."""
        store = self._config.store
        with contextlib.suppress(StoreError):  # this process may have none, and use memory
            store = str(find_root(self._config.store_root(self._node_id)))
        found: CoordinatorStatus = self._call(lambda coordinator: coordinator.status.remote())
        shown = (found.pins, found.deliveries, found.agents)
        return Status("ray", found.node, store, *shown, *found.left_out, found.totals)

    def shutdown(self) -> None:
        """From the driver: end the coordinator, and with it the agents."""
        coordinator = None if self._here is ProcessRole.TASK else find_coordinator(self._job_id)
        if coordinator is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(coordinator.close.remote(), timeout=_CLOSE_S)
            stop_actor(coordinator)
        self._coordinator = None

    def _whole(self, text: str) -> str:
        """The handle as text; in the driver with relative paths made absolute, for others have another directory.

        URLs stay as they are: only the coordinator knows which schemes are the user's own.
        """
        text = handle_text(text)
        if self._here is not ProcessRole.DRIVER or "://" in text.rpartition("::")[2]:
            return text
        scheme = text.partition("://")[0].lower()
        return parse_handle(text, base_dir=working_directory(), custom_schemes={scheme} - BUILT_IN_SCHEMES).text

    def _pull(self, store: Store, digest: Digest) -> None:
        """Bring a model, chunk by chunk in calls, to a store that no agent fills: outside the cluster, or a task's."""
        manifest: Manifest = self._call(lambda coordinator: coordinator.manifest.remote(digest))
        with store.stage_chunks(manifest) as stage:
            for chunk in cut_chunks(manifest, _PULL_BYTES):
                stage.write_chunk(chunk, memoryview(self.read(manifest, chunk)))
            store.publish(stage).release()

    def _open_store(self) -> Store:
        with self._guard:
            root = self._config.store_root(self._node_id)
            if self._store is None or self._store.configured != root:
                self._store = Store(root, max_bytes=self._config.max_bytes)
            return self._store

    def _connect(self) -> Any:
        with self._guard:
            if self._coordinator is None:
                coordinator = find_coordinator(self._job_id)
                self._coordinator = coordinator or make_coordinator(self._truth(), self._job_id, self._here)
            return self._coordinator

    def _truth(self) -> Job:
        """What the job's coordinator is made from: what the job began with, if a task or actor has to make it again."""
        known = JobRecord(self._job_id).job() if self._here is ProcessRole.TASK else None
        known = known or self._job
        if known is not None:
            return known
        base_dir = working_directory() if self._here is ProcessRole.DRIVER else None
        return Job.of(self._config, base_dir, scope_of(self._job_id), self._drivers_store())

    def _drivers_store(self) -> tuple[str, str] | None:
        """See `Job`."""
        if self._here is ProcessRole.DRIVER and not self._config.names_store:
            with contextlib.suppress(StoreError):  # the coordinator says so too
                return self._node_id, self._config.literal_store(self._node_id)
        return None

    def _call(self, method: Callable[[Any], Any], while_waiting: Callable[[Any], None] | None = None) -> Any:
        """Call the coordinator; if it dies meanwhile, wait for its restart or make a new one, and call again."""
        deadline = time.monotonic() + self._config.timeout_s
        pause_s = _AGAIN_S
        while True:
            coordinator = self._connect()
            try:
                reference = method(coordinator)
                while while_waiting is not None and time.monotonic() < deadline:
                    if ray.wait([reference], timeout=_PROGRESS_S)[0]:
                        break
                    while_waiting(coordinator)
                return ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            except LOST as error:
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
                    f"the coordinator gave no answer within timeout_s = {self._config.timeout_s:g} s"
                ) from error
            except ray.exceptions.RayError as error:
                raise translated(error, None) from error.__cause__


def _show_progress(coordinator: Any, bars: dict[str, Any]) -> None:
    try:
        progress = ray.get(coordinator.progress.remote(), timeout=_PROGRESS_S)
    except ray.exceptions.RayError:
        return  # a progress bar is not worth an error
    for name, (arrived, total) in progress.items():
        if name not in bars:
            bars[name] = tqdm_ray.tqdm(desc=f"hubdist {name}", total=total, unit="B")
        bars[name].update(arrived - bars[name].n)
