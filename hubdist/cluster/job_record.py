"""What the cluster remembers of a job as long as the cluster lives, whichever nodes and processes it loses.

The record stands in the key-value table of Ray's control service, which Ray's own libraries use in the same way. A job
does not need it to go on: where it cannot be read or written, the job has what its processes and its store know.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from hubdist.cluster.job import Job
from hubdist.errors import HubdistError
from hubdist.model.manifest import Digest

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_NAMESPACE = "hubdist"


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
