"""One page for one job: a self-contained HTML file with routes, times, nodes, senders, errors and settings.

    from hubdist.report.page import write_page

    write_page(hubdist.prefetch(handle), "report.html")

The page needs no network and holds no script. `page_rows` sums up what the tables show; `page_curves` and `page_matrix`
draw.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from hubdist.report.delivery import Report, size_text
from hubdist.report.job import JobReport, when_text
from hubdist.report.page_curves import draw_curves
from hubdist.report.page_matrix import draw_matrix
from hubdist.report.page_rows import curves_of, error_rows, fact_rows, node_rows, pin_rows, route_rows, setting_rows
from hubdist.report.plan import Status

if TYPE_CHECKING:
    from jinja2 import Template


def write_page(found: JobReport | Report | Status, path: str | Path) -> Path:
    """Write the page of a job, of a prefetch or of a status; returns where.

    Args:
        found: What the page is about.
        path: The file to write, such as `report.html`.

    Raises:
        OSError: The file cannot be written.
    """
    target = Path(path)
    target.write_text(render_page(found), encoding="utf-8")
    return target


def render_page(found: JobReport | Report | Status) -> str:
    """The page of a job, of a prefetch or of a status, as HTML. It stays below 300 kB, however many nodes there are."""
    job = found if isinstance(found, JobReport) else JobReport.of(found)
    nodes, more_nodes = node_rows(job)
    pins, more_pins = pin_rows(job)
    return _template().render(
        title=f"job {job.job}" if job.job else "hubdist",
        facts=fact_rows(job),
        pins=pins,
        more_pins=more_pins,
        routes=route_rows(job),
        curves=[(title, draw_curves(curves)) for title, curves in curves_of(job)],
        matrix=draw_matrix(job.deliveries, job.coordinator),
        nodes=nodes,
        more_nodes=more_nodes,
        errors=error_rows(job),
        settings=setting_rows(job),
        written=when_text(job.written),
        version=job.versions.get("hubdist", ""),
        size=size_text,
    )


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hubdist.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
