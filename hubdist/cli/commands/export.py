"""`hubdist export`: models as one file, for clusters without a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from hubdist.cli.byte_progress import byte_progress
from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.cli.session import session_options


@click.command(
    cls=Command,
    examples=[
        "hubdist export models.tar https://tfhub.dev/google/nnlm-en-dim50/2 gs://my-bucket/model",
        "hubdist export - gs://my-bucket/model | ssh airgapped hubdist import -",
    ],
)
@click.argument("file")
@click.argument("handles", nargs=-1, required=True, metavar="HANDLE...")
@click.pass_obj
@session_options
def export(output: Output, file: str, handles: Sequence[str]) -> None:
    """Write the models of each HANDLE into FILE, for `hubdist import` on a cluster without a network.

    Models that this node lacks are brought to it first. After a kill, the same command goes on where it stopped. FILE
    is a tar archive without secrets of handles, with the same bytes for the same models; - is standard output.
    """
    import hubdist

    streamed = file == "-"
    with byte_progress(output, "export") as progress:
        report = hubdist.export_models(sys.stdout.buffer if streamed else file, handles, progress=progress)
    if streamed:
        return
    record: dict[str, Any] = {
        "file": file,
        "bytes": report.total_bytes,
        "kept_bytes": report.kept_bytes,
        "models": [
            {"handles": list(each.handles), "digest": each.digest, "bytes": each.total_bytes} for each in report.models
        ],
    }
    if report.kept_bytes:
        output.say(f"{report.kept_bytes:,} of {report.total_bytes:,} bytes were there already")
    output.give(file, record, [file])
