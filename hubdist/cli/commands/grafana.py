"""`hubdist grafana`: the dashboard of hubdist's metrics."""

from __future__ import annotations

from pathlib import Path

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.errors import ConfigError, HubdistError

_LATEST = "the latest session"


@click.command(
    cls=Command,
    examples=[
        "hubdist grafana -o hubdist.json",
        "hubdist grafana --install",
        "hubdist grafana --install /etc/grafana/provisioning/dashboards",
    ],
)
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write the dashboard to FILE."
)
@click.option(
    "--install",
    is_flag=False,
    flag_value=_LATEST,
    metavar="[DIR]",
    help="Write it where Ray's Grafana looks: RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR, else the latest session of this"
    " machine, which Ray clears when a head node starts. DIR is another directory.",
)
@click.pass_obj
def grafana(output: Output, *, file: Path | None, install: str | None) -> None:
    """Print the dashboard of hubdist's metrics for Grafana, or write it where Grafana reads it.

    Without an option the JSON goes to standard output; else the path of the file does.
    """
    from hubdist.cluster.grafana import FILE, dashboard, dashboard_text
    from hubdist.config.ray_places import dashboards_directory

    if file is not None and install is not None:
        raise ConfigError("-o and --install are two places; give one")
    if install is not None:
        folder = dashboards_directory() if install == _LATEST else Path(install)
        if not folder.is_dir():
            raise HubdistError(
                f"there is no directory {folder}",
                advice="Run this where the head node runs, with its dashboard, or name the directory.",
            )
        file = folder / FILE
    if file is None:
        text = dashboard_text().rstrip("\n")
        output.give(text, dashboard(), [text])
        return
    try:
        file.write_text(dashboard_text(), encoding="utf-8")
    except OSError as error:
        raise HubdistError(f"{file} cannot be written: {error.strerror}") from None
    path = str(file.absolute())
    output.give(path, {"path": path}, [path])
