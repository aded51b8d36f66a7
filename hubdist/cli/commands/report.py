"""`hubdist report`: what one job did, as text, as JSON or as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table
from hubdist.errors import ConfigError, HubdistError

if TYPE_CHECKING:
    from hubdist.report.job import JobReport

_MAX_LINES = 40


@click.command(
    cls=Command,
    examples=[
        "hubdist report",
        "hubdist report --job 01000000 --html report.html",
        "hubdist report /tmp/ray/session_latest/logs/hubdist/01000000.json --json",
        "hubdist report --address auto",
    ],
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--job", metavar="ID", help="Ray's id of the job; else the newest.")
@click.option(
    "--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page, and print where it is."
)
@click.option(
    "--session",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of a Ray session; else the latest of this machine.",
)
@click.option("--address", metavar="ADDRESS", help="Ask the coordinators that run in the cluster at this address.")
@click.pass_obj
def report(
    output: Output, *, file: Path | None, job: str | None, page: Path | None, session: Path | None, address: str | None
) -> None:
    """Tell what one job did: its routes with reasons, its nodes, and its errors with what to do.

    Without FILE the report is that of the newest job in the logs of Ray's session, which outlive the job.
    """
    from hubdist.client.job_reports import find_report, read_report
    from hubdist.report.record import write_record

    if file is not None and (job or session or address):
        raise ConfigError("FILE is one record; --job, --session and --address look for another")
    found = read_report(file) if file is not None else find_report(job, session=session, address=address)
    if page is None:
        import json

        output.give(list(_told(found)), json.loads(write_record(found)), [found.job])
        return
    from hubdist.report.page import write_page

    try:
        path = str(write_page(found, page).absolute())
    except OSError as error:
        raise HubdistError(f"{page} cannot be written: {error.strerror}") from None
    output.give(path, {"job": found.job, "path": path}, [path])


def _told(job: JobReport) -> Iterator[str | Table]:
    from hubdist.report.page_rows import error_rows, fact_rows, node_rows, route_rows

    yield f"job {job.job}" if job.job else "hubdist"
    yield "\n".join(f"  {name + ':':<14} {value}" for name, value in fact_rows(job))
    for pin in job.pins[-_MAX_LINES:]:
        yield f"\n{pin}"
    routes = route_rows(job)
    if routes:
        cells = [
            (
                row.route,
                row.nodes.partition(":")[0],
                row.received,
                f"{row.median_s:.2f} s",
                f"{row.longest_s:.2f} s",
                row.reason,
            )
            for row in routes
        ]
        yield ""
        yield Table(("ROUTE", "NODES>", "RECEIVED>", "MEDIAN>", "LONGEST>", "REASON"), cells)
    rows, _ = node_rows(job)
    if rows:
        yield ""
        shown = rows[:_MAX_LINES]
        yield Table(
            ("NODE", "MODEL", "ROUTE", "RECEIVED>", "TIME>", "FROM", "NOTES"),
            [
                (row.node, row.model, row.route, row.received, f"{row.seconds:.2f} s", row.senders, row.notes)
                for row in shown
            ],
            {at: "red" for at, row in enumerate(shown) if row.failed},
        )
        left_out = len(job.deliveries) + job.deliveries_left_out - len(shown)
        if left_out:
            yield f"{left_out} more deliveries; --json has {len(job.deliveries)}, --html sums them up"
    for error in error_rows(job):
        times = f" ({error.count} times)" if error.count > 1 else ""
        yield f"\n{error.kind}{times}: {error.what}"
        yield from (
            f"  {name}: {text}"
            for name, text in (("handle", error.handles), ("node", error.nodes), ("what to do", error.advice))
            if text
        )
