"""What holds for a job as long as it runs, and the record of it that the cluster keeps.

The record stands in the key-value table of Ray's control service, which Ray's own libraries use in the same way. It
outlives every node and process of the job, so whichever process makes the coordinator again finds the job's settings
and pins there. A job does not need the record to go on: where it cannot be read or written, the job has what its
processes and its store know.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

import cloudpickle

from hubdist.config.handover import fingerprint, without_secrets
from hubdist.config.model_settings import ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import ConfigError, DigestMismatchError, HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.report.plan import RouteTotal, Status

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_NAMESPACE = "hubdist"


@dataclass(frozen=True, slots=True)
class Job:
    """The settings of a job, as every process of the job gets them.

    Attributes:
        config: The settings, without origins and models: Ray keeps what it makes actors with, and a model's handle may
            hold secrets.
        fingerprint: Equal for equal settings; it counts models and origins too.
        models: `Handle.key` -> what the configuration says of single models.
        schemes: The schemes of the user's own origins.
        origins: The user's own origins, by cloudpickle: they may be defined in the driver's `__main__`.
        base_dir: The driver's directory, for relative paths; None refuses them.
        scope: Names the job among all jobs of all clusters that ever used a store. The job's pins are kept under it.
        drivers_store: Ray's id of the driver's node, and the store that the driver's environment means, if the settings
            name none. All processes of that node must mean the same store; other nodes go by their own environment.
        closed: True once the driver has shut the job down. What tasks still ask is answered, by a coordinator that does
            not stay for long.
    """

    config: Config
    fingerprint: str
    models: Mapping[str, ModelSettings]
    schemes: frozenset[str]
    origins: bytes = field(repr=False)
    base_dir: Path | None
    scope: str
    drivers_store: tuple[str, str] | None = None
    closed: bool = False

    @classmethod
    def of(
        cls, config: Config, base_dir: Path | None, scope: str, drivers_store: tuple[str, str] | None = None
    ) -> Self:
        """The job that a process would start.

        Args:
            config: The whole settings.
            base_dir: The driver's directory, for relative paths; None refuses them.
            scope: Names the job among all jobs of all clusters that ever used a store.
            drivers_store: Ray's id of the driver's node, and its store; None if the settings name a store.
        """
        return cls(
            config=without_secrets(config),
            fingerprint=fingerprint(config),
            models=config.model_settings(),
            schemes=frozenset(config.origins),
            origins=cloudpickle.dumps(dict(config.origins)),
            base_dir=base_dir,
            scope=scope,
            drivers_store=drivers_store,
        )

    def config_on(self, node_id: str) -> Config:
        """The settings for the processes of the node with this id."""
        if self.drivers_store is not None and self.drivers_store[0] == node_id:
            return self.config.replace({"store": self.drivers_store[1]})
        return self.config

    def whole_config(self, node_id: str) -> Config:
        """The settings for the coordinator on the node with this id, with the user's own origins.

        Raises:
            ConfigError: The modules that define the origins cannot be imported here.
        """
        try:
            origins = cloudpickle.loads(self.origins)
        except (ImportError, AttributeError, TypeError, ValueError, EOFError, pickle.PickleError) as error:
            raise ConfigError(
                f"the origins {', '.join(sorted(self.schemes))} cannot be unpickled: {type(error).__name__}",
                advice="Let runtime_env bring the modules that they use to all nodes.",
            ) from None
        return self.config_on(node_id).replace({"origins": origins})


@dataclass(frozen=True, slots=True)
class Terms:
    """What one process demands beyond its job's settings, because `init` was called in that process.

    Attributes:
        frozen: Refuse handles that nothing pins.
        offline: Take only what the job has, or what needs no question to a network.
        models: `Handle.key` -> what this process's settings say of single models.
    """

    frozen: bool = False
    offline: bool = False
    models: Mapping[str, ModelSettings] = field(default_factory=dict)

    def settings(self, handle: Handle, of_job: ModelSettings) -> ModelSettings:
        """The settings of a model in this process.

        Args:
            handle: The model's handle.
            of_job: What the job's settings say of the model; they hold where this process's settings say nothing.
        """
        own = self.models.get(handle.key)
        if own is None:
            return of_job
        return ModelSettings(own.digest or of_job.digest, own.route or of_job.route, own.read_mode or of_job.read_mode)

    def check(self, handle: Handle, found: Digest) -> None:
        """Compare what the job has pinned with what this process accepts.

        Args:
            handle: The handle.
            found: What the job has pinned for the handle.

        Raises:
            DigestMismatchError: This process's settings pin another digest.
        """
        own = self.models.get(handle.key)
        if own is not None and own.digest is not None and own.digest != found:
            raise DigestMismatchError(
                "the job has pinned other bytes than the settings of this process",
                expected=str(own.digest),
                actual=str(found),
                handle=handle.redacted,
                advice="Is the digest that init got in this task or actor the right one?",
            )

    def __bool__(self) -> bool:
        return self.frozen or self.offline or bool(self.models)


class JobRecord:
    """The entries of one job. Any process of the cluster may read and write them; a call takes about a millisecond.

    Args:
        job_id: Ray's id of the job.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id

    def job(self) -> Job | None:
        """The job's settings; None if they are not there or cannot be read."""
        data = self._get("settings")
        try:
            found = None if data is None else pickle.loads(data)  # noqa: S301 - Ray unpickles what its own table holds, too
        except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, TypeError, HubdistError) as error:
            _LOG.warning("hubdist: the job's settings in Ray's table cannot be read: %s", error)
            return None
        return found if isinstance(found, Job) else None

    def keep_job(self, job: Job) -> None:
        """Remember the job's settings."""
        self._put("settings", pickle.dumps(job))

    def close_job(self) -> None:
        """Remember that the driver has shut the job down."""
        job = self.job()
        if job is not None:
            self.keep_job(replace(job, closed=True))

    def find(self, key: str) -> Digest | None:
        """The digest that is pinned for the handle with this key, or None."""
        data = self._get(f"pins/{key}")
        return None if data is None else Digest.parse(data.decode())

    def keep(self, key: str, digest: Digest) -> None:
        """Note a pin of the job.

        Args:
            key: `Handle.key` of the handle.
            digest: What the handle stands for.
        """
        self._put(f"pins/{key}", str(digest).encode())

    def _get(self, name: str) -> bytes | None:
        from ray.experimental import internal_kv

        found: bytes | None = self._try(lambda: internal_kv._internal_kv_get(self._key(name), namespace=_NAMESPACE))
        return found

    def _put(self, name: str, data: bytes) -> None:
        from ray.experimental import internal_kv

        self._try(lambda: internal_kv._internal_kv_put(self._key(name), data, namespace=_NAMESPACE))

    def _key(self, name: str) -> str:
        return f"{self._job_id}/{name}"

    def _try(self, work: Callable[[], _T]) -> _T | None:
        import ray.exceptions

        try:
            return work()
        except ray.exceptions.RayError as error:
            _LOG.warning("hubdist: Ray's table cannot be asked: %s", type(error).__name__)
            return None


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

    def for_process(self, store: str) -> Status:
        """What a process shows to its user.

        Args:
            store: Root of the store that the process uses.
        """
        shown = (self.pins, self.deliveries, self.agents)
        return Status("ray", self.node, store, *shown, *self.left_out, self.totals)


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process needs to know to take part in its job: the job, and Ray's id of the driver's node."""

    job: Job
    node_id: str


@dataclass(frozen=True, slots=True)
class WarmSnapshot:
    """Which nodes have a model.

    Attributes:
        digest: `sha256:<hex>` of the model; None if nobody has resolved its handle.
        total_bytes: Bytes of all files.
        node_ids: Ray's ids of the nodes that have it.
    """

    digest: str | None
    total_bytes: int
    node_ids: tuple[str, ...]
