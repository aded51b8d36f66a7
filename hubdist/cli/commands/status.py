"""`hubdist status`: which nodes have which models, and what is on its way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table
from hubdist.cli.session import address_option, connected

if TYPE_CHECKING:
    from hubdist.report.jobs import ClusterStatus


@click.command(
    cls=Command,
    examples=["hubdist status", "hubdist status --watch", "hubdist status --json | jq '.jobs[].status.deliveries'"],
)
@click.option("--watch", is_flag=True, help="Print it again and again until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: seconds between two looks.",
)
@address_option
@click.pass_obj
def status(output: Output, address: str, *, watch: bool, interval: float) -> None:
    """Print which nodes have which models, for all jobs of the cluster, and what is on its way.

    Nothing is started. A cell says by which route a model came (`store`: it was there), how much of it has arrived, or
    that the delivery failed.
    """
    with connected(address, needed=True):
        from hubdist.cli.records import to_json
        from hubdist.cluster.jobs import cluster_status

        if not watch:
            found = cluster_status()
            output.give(shown(found), to_json(found), [model.digest for model in found.models])
            return
        if output.live:
            _watch(output, interval)
            return
        while True:
            found = cluster_status()
            output.give(shown(found), to_json(found), [model.digest for model in found.models])
            time.sleep(interval)


def shown(found: ClusterStatus) -> list[str | Table]:
    """The status for people: jobs, models, and a table of nodes x models.

    Args:
        found: What the jobs know.
    """
    from hubdist.report.delivery import size_text

    parts: list[str | Table] = []
    for job in found.jobs:
        if job.status is None:
            parts.append(f"job {job.job}: its coordinator gave no answer")
            continue
        failed = sum(delivery.error is not None for delivery in job.status.deliveries)
        parts.append(
            f"job {job.job}: coordinator on {job.status.coordinator}, {_count(len(job.status.pins), 'model')}, "
            f"{_count(len(job.status.deliveries) - failed, 'delivery')} done"
            f"{f', {failed} failed' if failed else ''}{f', {len(job.arrivals)} on their way' if job.arrivals else ''}"
        )
    if not found.jobs:
        parts.append(f"no job uses hubdist now; {_count(len(found.nodes), 'node')} alive")
        return parts
    models = found.models
    if models:
        marks = [f"[{number}]" for number in range(1, len(models) + 1)]
        rows = [
            (mark, model.handle, model.digest.removeprefix("sha256:")[:12], size_text(model.total_bytes))
            for mark, model in zip(marks, models, strict=True)
        ]
        cells = [(node, *(found.cell(node, model.digest) or "-" for model in models)) for node in found.nodes]
        styles = {number: "red" for number, row in enumerate(cells) if "failed" in row}
        parts += ["", Table(("", "MODEL", "DIGEST", "SIZE>"), rows), "", Table(("NODE", *marks), cells, styles)]
    for job in found.jobs:
        for delivery in job.status.deliveries if job.status else ():
            if delivery.error is not None:
                parts.append(f"{delivery.name}: {delivery.error}")
    return parts


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _watch(output: Output, interval: float) -> None:
    from rich.console import Group
    from rich.live import Live

    from hubdist.cluster.jobs import cluster_status

    console = output.console()
    with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        while True:
            parts = shown(cluster_status())
            drawn = [part.rich() if isinstance(part, Table) else part for part in parts]
            live.update(Group(time.strftime("%H:%M:%S  hubdist status, Ctrl-C ends it"), "", *drawn), refresh=True)
            time.sleep(interval)
