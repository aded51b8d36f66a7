"""Keeps the record of a job in the logs of Ray's session, so that it outlives the job, and the cluster where logs do.

The record is written when a delivery ends, when a handle could not be resolved, and when the job is shut down: at once,
and then at most once in a while. A coordinator that is made again goes on with the record of the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import hubdist
from hubdist.cluster.coordinator.report_log import ReportLog
from hubdist.cluster.job import Job
from hubdist.cluster.metrics import Metrics
from hubdist.cluster.nodes import Node
from hubdist.cluster.session_logs import records_directory
from hubdist.config.redacted import given_keys, redacted_values
from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport, PinReport
from hubdist.report.job import MAX_ERRORS, MAX_PINS, JobReport
from hubdist.report.record import read_record_file, write_record
from hubdist.system.disk import unique_name, write_durably
from hubdist.system.log_once import LogOnce

_ONCE = LogOnce(logging.getLogger(__name__))
_FLUSH_S = 2.0
_SHARE = 50
"""A pause between two writes lasts at least so many times as long as the write before it."""


class JobView(Protocol):
    """What a coordinator knows of its job."""

    @property
    def pins(self) -> tuple[PinReport, ...]:
        """What every handle stands for."""
        ...

    @property
    def log(self) -> ReportLog:
        """What nodes got."""
        ...


class JobReporter:
    """Puts the report of a job together, and keeps it in a file. Owned by the coordinator's event loop.

    Args:
        job: The job.
        config: The job's settings, with the user's own origins.
        node: The coordinator's node.
        view: What the coordinator knows.
        metrics: Counts for Prometheus what is noted here.
        find_folder: Finds the directory for the record; None means that no record is kept.
        pause_s: Shortest time from one write to the next.
    """

    def __init__(
        self,
        job: Job,
        config: Config,
        node: Node,
        view: JobView,
        metrics: Metrics,
        *,
        find_folder: Callable[[], Path | None] = records_directory,
        pause_s: float = 1.0,
    ) -> None:
        self._session, _, self._job_id = job.scope.rpartition("-")
        self._config = config
        self._node = node
        self._view = view
        self._find_folder = find_folder
        self._pause_s = pause_s
        self._began = time.time()
        self._closed = job.closed
        self._errors: dict[str, HubdistError] = {}
        self._earlier: JobReport | None = None
        self._looked = False
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._metrics = metrics

    def note_delivery(self, report: NodeReport) -> None:
        """Take note that a node got a model, or failed to."""
        self._metrics.note_delivery(report, self._node.name)
        self._change()

    def note_handle(self, found: PinReport | HubdistError) -> None:
        """Take note that a handle has been resolved, or of the error, which names the handle."""
        if isinstance(found, PinReport):
            self._metrics.note_resolve(found)
        else:
            self._metrics.note_unresolved()
            self._errors.pop(str(found), None)  # the newest stands last
            self._errors[str(found)] = found
            while len(self._errors) > MAX_ERRORS:
                del self._errors[next(iter(self._errors))]
        self._change()

    @property
    def report(self) -> JobReport:
        """What the job has done until now."""
        pins, log = self._view.pins, self._view.log
        report = JobReport(
            job=self._job_id,
            session=self._session,
            coordinator=self._node.name,
            began=self._began,
            written=time.time(),
            closed=self._closed,
            versions=_versions(),
            settings=redacted_values(self._config),
            given=given_keys(self._config),
            pins=pins[-MAX_PINS:],
            deliveries=log.newest,
            errors=tuple(self._errors.values()),
            totals=log.totals,
            pins_left_out=max(0, len(pins) - MAX_PINS),
            deliveries_left_out=log.left_out,
        )
        return report if self._earlier is None else report.after(self._earlier)

    async def flush(self, *, closed: bool = False, timeout_s: float = _FLUSH_S) -> None:
        """Write what has changed since the last write. What cannot be written in time is left out.

        Args:
            closed: The driver has shut the job down.
            timeout_s: Longest wait in seconds.
        """
        if closed:
            self._closed = True
            self._changed.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._write(), timeout_s)

    def _change(self) -> None:
        self._changed.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_on())

    async def _write_on(self) -> None:
        """Write for as long as there is something new after each pause."""
        while self._changed.is_set():
            begin = time.monotonic()
            await self._write()
            await asyncio.sleep(max(self._pause_s, _SHARE * (time.monotonic() - begin)))

    async def _write(self) -> None:
        async with self._writing:
            folder = self._find_folder()
            if folder is None or not self._changed.is_set():
                return
            path = folder / f"{self._job_id}.json"
            if not self._looked:
                self._earlier = await asyncio.to_thread(_read_earlier, path, self._session)
                self._looked = True
            self._changed.clear()
            await asyncio.to_thread(_write_file, path, self.report)


def _read_earlier(path: Path, session: str) -> JobReport | None:
    if not path.is_file():
        return None
    try:
        found = read_record_file(path)
    except HubdistError as error:
        _ONCE.log("earlier", "hubdist: what the job's record held before is left out: %s", error, level=logging.INFO)
        return None
    return found if found.session == session else None


def _write_file(path: Path, report: JobReport) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_durably(path, write_record(report).encode(), unique_name(), mode=0o644)
    except OSError as error:
        why = error.strerror or type(error).__name__
        _ONCE.log(why, "hubdist: the record of the job cannot be written to %s: %s", path, why, level=logging.INFO)


@functools.cache
def _versions() -> dict[str, str]:
    import importlib.metadata  # a coordinator needs it for nothing else

    versions = {"hubdist": hubdist.__version__, "python": platform.python_version()}
    for package in ("ray", "tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
