"""The backend where Ray runs: a process pins and locates models through the coordinator of its job."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.exceptions

from hubdist.cluster.bring import bring
from hubdist.cluster.connection import CoordinatorConnection
from hubdist.cluster.job import CoordinatorStatus, Membership, Terms
from hubdist.cluster.metrics import Metrics
from hubdist.cluster.nodes import ProcessRole
from hubdist.cluster.placement import ClusterPlacement
from hubdist.cluster.progress_bars import progress_bars, tell_watcher
from hubdist.cluster.pull import pull, read_chunk
from hubdist.cluster.refresh_marks import RefreshMark, find_mark
from hubdist.config.handover import fingerprint, replace_in_process, with_store_of
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, NotPinnedError, StoreError
from hubdist.model.chunks import Chunk
from hubdist.model.handle import BUILT_IN_SCHEMES, handle_text, parse_handle
from hubdist.model.hints import suggesting
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.arrivals import Watch
from hubdist.report.delivery import Report
from hubdist.report.plan import Plan, Refreshed, Status
from hubdist.resolver.node_store import open_store
from hubdist.resolver.values import CallOptions, LoaderPin, ReadSources
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.disk import working_directory
from hubdist.system.ownership import find_root


class CoordinatorClient:
    """A `Backend` that asks the coordinator of this process's job. Safe for several threads.

    Args:
        config: What this process would start a coordinator with.
    """

    def __init__(self, config: Config) -> None:
        self._connection = CoordinatorConnection(config)
        self._guard = threading.Lock()
        self._store: Store | None = None
        self._mark: RefreshMark | None = None
        self._terms = Terms()
        self._own_store = False
        """True if agents do not deliver to this process's store, so that the process fetches models itself."""
        self._drivers_node_id = ""
        self._metrics = Metrics.of_process(config.export_metrics, self.node_id)
        self.placement = ClusterPlacement(self._connection, self._absolute)
        """Tells where models are, and keeps them there."""

    @property
    def node_id(self) -> str:
        """Ray's id of this process's node; `outside` for a Ray Client."""
        return self._connection.node_id

    @property
    def runs_tasks(self) -> bool:
        """True in a process that runs tasks, and is neither a driver nor an actor."""
        return self._connection.role is ProcessRole.TASK and ray.get_runtime_context().get_actor_id() is None

    @property
    def task_resources(self) -> Mapping[str, float] | None:
        """What Ray gave the task or actor of this process, by the resource's name; None in drivers."""
        return ray.get_runtime_context().get_assigned_resources() if self._connection.role is ProcessRole.TASK else None

    @property
    def sees_drivers_disk(self) -> bool:
        """True if paths of the driver are paths of this process."""
        return self.node_id == self._drivers_node_id

    def join(self, asked: Mapping[str, Any] | None) -> Config:
        """Take part in the job; the first process of a job to do so makes the coordinator.

        Args:
            asked: The keys that `init` was called with in this process; None if it was not called.

        Returns:
            The settings for this process: the job's; in a task or actor changed by `asked`.

        Raises:
            ConfigError: `init` was called in the driver, and the job already runs with other settings; or a path in
                them cannot be told on the driver's node.
            NotPinnedError: The settings are locked, and the lock file lacks a model that they list.
            StoreError: The store of the driver's node cannot be used.
        """
        proposed, role = self._connection.config, self._connection.role
        try:
            member = self._join(proposed)
        except (ConfigError, NotPinnedError, StoreError):
            self.shutdown()  # a coordinator that cannot begin is of no use; the next call may bring better settings
            raise
        job = member.job
        if asked is not None and role is not ProcessRole.TASK and job.fingerprint != fingerprint(proposed):
            raise ConfigError(
                "this job already runs with other settings",
                advice="Call hubdist.init once, before the first load, or hubdist.shutdown() in between.",
            )
        settings = job.config_on(self.node_id)
        if role is ProcessRole.TASK and asked:
            settings = replace_in_process(settings, asked, job.schemes, job.base_dir)
            self._terms = Terms(settings.frozen, settings.offline, proposed.model_settings(job.schemes))
            self._own_store = settings.store != job.config_on(self.node_id).store
        elif job.fingerprint == fingerprint(proposed):
            settings = proposed  # with models and origins, should Ray be started anew
        if role is ProcessRole.OUTSIDE:
            settings = with_store_of(settings, proposed)  # another machine than the job's nodes
            self._own_store = True
        self._connection.config = settings
        self._connection.job = job
        self._drivers_node_id = member.node_id
        return settings

    def _join(self, proposed: Config) -> Membership:
        handles = [model.handle for model in proposed.models]
        member: Membership = self._connection.call(lambda coordinator: coordinator.join.remote(handles))
        if member.job.closed and self._connection.role is not ProcessRole.TASK:
            self.shutdown()  # a task made the coordinator after the driver had shut the job down; now it begins anew
            member = self._connection.call(lambda coordinator: coordinator.join.remote(handles))
        return member

    def epoch(self) -> int | None:
        """Grows whenever the job has refreshed a handle; None if this process is not told, and has to ask.

        The process is told by its node's store. So it has to ask where there is none, as with `read_mode: memory`.
        """
        job = self._connection.job
        if self._own_store or job is None:
            return None
        if self._mark is None:
            self._mark = find_mark(self._connection.config.store_root(self.node_id), job.scope)
        return None if self._mark is None else self._mark.size()

    def pin(self, text: str, options: CallOptions) -> LoaderPin:
        """What this job has pinned for a handle; the first call of the job resolves the handle.

        Args:
            text: The handle.
            options: What the call asks for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
            ResolveError, TransferError, IntegrityError: The model cannot be had, or a pin refuses it.
        """
        whole = self._absolute(text)
        with suggesting([text]):
            asked = (whole, self.node_id, options, self._terms)
            pin: LoaderPin = self._connection.call(lambda coordinator: coordinator.pin_for_process.remote(*asked))
        return pin

    def refresh(self, text: str, options: CallOptions) -> Refreshed:
        """Ask the origin again what a handle stands for, and tell all processes of the job.

        Args:
            text: The handle.
            options: What the call asks for in place of the settings.

        Raises:
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            ResolveError, TransferError, IntegrityError: The origin does not give the model; the pin stays as it was.
        """
        asked = (self._absolute(text), self.node_id, options)
        found: Refreshed = self._connection.call(lambda coordinator: coordinator.refresh.remote(*asked))
        return found

    def locate(self, pin: LoaderPin) -> Snapshot:
        """The snapshot in this node's store; brought here if it is missing.

        Raises:
            NotPinnedError: Nobody has the model, and the job does not know a handle that stands for it.
            TransferError, IntegrityError: The model did not reach this node.
            StoreError: The store cannot take the model, or has lost it again.
        """
        store = self._open_store()
        for tried in range(2):  # a snapshot may be evicted right after it was delivered, but not for ever
            snapshot = store.find(pin.digest)
            if snapshot is not None:
                if not tried:
                    self._metrics.note_hit()
                return snapshot
            if self._own_store:
                pull(self._connection, store, pin.digest)
                continue
            snapshot = bring(self._connection, store, pin, self.node_id)
            if snapshot is not None:
                return snapshot
        snapshot = store.find(pin.digest)
        if snapshot is None:
            raise StoreError(
                f"{pin.digest} was delivered to this node, but is not in its store {store.root}",
                path=str(store.root),
                handle=pin.handle,
                advice="Is it the same directory for all processes of the node? Is max_bytes large enough?",
            )
        return snapshot

    def access(self, pin: LoaderPin) -> ReadSources:
        """How this process can read a model by itself."""
        access: ReadSources = self._connection.call(lambda coordinator: coordinator.access.remote(pin))
        return access

    def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot, if this node has a store and it is there. Nothing is made or brought."""
        try:
            if not find_root(self._connection.config.store_root(self.node_id)).is_dir():
                return None
        except StoreError:  # there can be none
            return None
        return self._open_store().find(digest)

    def read(self, manifest: Manifest, chunk: Chunk) -> Any:
        """The bytes of one chunk, from the driver's node, as an array of uint8.

        Args:
            manifest: The model's files.
            chunk: The part to read.
        """
        return read_chunk(self._connection, manifest.digest, chunk)

    def plan(self, text: str, nodes: Sequence[str] | None, options: CallOptions) -> Plan:
        """What a load would do on each node, without doing it.

        Args:
            text: The handle.
            nodes: Ids, names or addresses of nodes; None means all that are alive now.
            options: What the load would ask for in place of the settings.

        Raises:
            HandleError: The text is not a handle.
            ConfigError: There is no such node.
        """
        asked = (self._absolute(text), None if nodes is None else list(nodes), options)
        plan: Plan = self._connection.call(lambda coordinator: coordinator.plan.remote(*asked))
        return plan

    def prefetch(self, texts: Sequence[str], nodes: Sequence[str] | None, watch: Watch | None = None) -> Report:
        """Bring models to nodes. What fails is in the report, with its error.

        Args:
            texts: The handles.
            nodes: Ids, names or addresses of nodes; None means all that are alive now.
            watch: Gets what is arriving; None draws progress bars.

        Raises:
            ConfigError: There is no such node.
        """
        whole = [self._absolute(text) for text in texts]
        wanted = None if nodes is None else list(nodes)
        with contextlib.ExitStack() as stack:
            shown = watch or stack.enter_context(progress_bars())
            report: Report = self._connection.call(
                lambda coordinator: coordinator.prefetch.remote(whole, wanted),
                while_waiting=lambda coordinator: tell_watcher(coordinator, shown),
            )
        return report

    def status(self) -> Status:
        """What the job knows."""
        config = self._connection.config
        store = config.store
        with contextlib.suppress(StoreError):  # this process may have none, and use memory
            store = str(find_root(config.store_root(self.node_id)))
        found: CoordinatorStatus = self._connection.call(lambda coordinator: coordinator.status.remote())
        return found.for_process(store)

    def shutdown(self) -> None:
        """From the driver: end the coordinator, and with it the agents."""
        self._connection.end()

    def _absolute(self, text: str) -> str:
        """The handle as text; in the driver with relative paths made absolute, because others run elsewhere.

        URLs stay as they are: only the coordinator knows which schemes are the user's own.
        """
        text = handle_text(text)
        if self._connection.role is not ProcessRole.DRIVER or "://" in text.rpartition("::")[2]:
            return text
        scheme = text.partition("://")[0].lower()
        return parse_handle(text, base_dir=working_directory(), custom_schemes={scheme} - BUILT_IN_SCHEMES).text

    def _open_store(self) -> Store:
        config = self._connection.config
        with self._guard:
            if self._store is None or self._store.configured != config.store_root(self.node_id):
                self._store = open_store(config, self.node_id, evicted=self._metrics.note_evicted)
            return self._store
