"""Finds the report of a job: in the logs of Ray's session on this machine, or at the coordinators that run."""

from __future__ import annotations

from pathlib import Path

from hubdist.config.ray_places import latest_session
from hubdist.errors import HubdistError
from hubdist.report.job import JobReport
from hubdist.report.record import read_record, read_record_file


def read_report(path: Path) -> JobReport:
    """The report in a file.

    Raises:
        HubdistError: The file cannot be read, or is not the record of a job.
    """
    return read_record_file(path)


def find_report(job: str | None, *, session: Path | None = None, address: str | None = None) -> JobReport:
    """The report of a job: what its coordinator says if it runs, else what the logs of Ray's session hold.

    Args:
        job: Ray's id of the job; None takes the newest.
        session: The directory of a Ray session; None takes the one that was started last on this machine.
        address: Address of a Ray cluster whose coordinators are asked; None looks into the session first, and asks the
            cluster that runs here only if no record is there.

    Raises:
        ConfigError: There is no Ray at the address.
        HubdistError: There is no record, or it cannot be read.
    """
    if address is None:
        folder = (session or latest_session()) / "logs" / "hubdist"
        found = _in_folder(folder, job)
        if found is not None:
            return found
        if session is not None:
            raise _missing(job, str(folder))
    reports = _in_cluster(address or "auto", job)
    if not reports:
        raise _missing(job, "the cluster" if address is not None else f"{folder} or the cluster that runs here")
    return max(reports, key=lambda report: report.written)


def _in_folder(folder: Path, job: str | None) -> JobReport | None:
    """The newest record in a directory; None if there is none."""
    try:
        paths = [path for path in folder.glob("[!.]*.json") if job is None or path.stem == job]
        newest = max(paths, key=lambda path: path.stat().st_mtime, default=None)
    except OSError as error:
        raise HubdistError(f"{folder} cannot be read: {error.strerror}") from None
    return None if newest is None else read_record_file(newest)


def _in_cluster(address: str, job: str | None) -> list[JobReport]:
    """What coordinators report; without them, the newest record in the cluster's session if it is on this machine."""
    from hubdist.cluster.job_records import running_records
    from hubdist.cluster.ray_session import connect, disconnect
    from hubdist.cluster.session_logs import records_directory

    connected = connect(address)
    try:
        folder = records_directory()
        if folder is None:
            return []
        reports = [read_record(text, "the answer of a coordinator") for text in running_records()]
        reports = [report for report in reports if job in (None, report.job)]
        kept = None if reports else _in_folder(folder, job)
        return reports if kept is None else [kept]
    finally:
        if connected:
            disconnect()


def _missing(job: str | None, where: str) -> HubdistError:
    what = "no job has left a record" if job is None else f"job {job} has left no record"
    return HubdistError(
        f"{what} in {where}",
        advice="Run this on the node of the job's coordinator, most often the head node, or give the record's file.",
    )
