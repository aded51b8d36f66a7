"""`hubdist import`: the models of a file of `hubdist export`, into this node's store or to all nodes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubdist.cli.byte_progress import byte_progress
from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table
from hubdist.cli.session import address_option, session, settings_options

if TYPE_CHECKING:
    from hubdist.client.exports import FileReport

_ASK_NOBODY = ("models=[]", "lock_file=null", "frozen=false", "locked=false", "offline=true")
"""Settings under which nothing but the file says which models there are."""


@click.command(
    "import",
    cls=Command,
    examples=[
        "hubdist import models.tar",
        "hubdist import models.tar --where all",
        "ray job submit -- hubdist import /shared/models.tar",
    ],
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--where",
    type=click.Choice(["node", "all"]),
    default="node",
    show_default=True,
    help="node: the store of this node, from which others get models when they load them. all: then the other nodes.",
)
@click.pass_obj
@address_option
@settings_options
def import_file(
    output: Output, file: str, *, where: str, address: str, config: Path | None, settings: tuple[str, ...]
) -> None:
    """Read the models of FILE into this node's store, and note which model each handle stands for.

    FILE was written by `hubdist export`; - is standard input. Every byte is checked. Run it on the node where drivers
    run: with the setting offline, every node of their jobs can then load the handles. After a kill, the same command
    keeps what was written. It prints the directories of the models.
    """
    import hubdist

    with session(address, config, (*settings, *_ASK_NOBODY)):
        with byte_progress(output, "import") as progress:
            report = hubdist.import_models(sys.stdin.buffer if file == "-" else file, progress=progress)
        if where == "all":
            hubdist.prefetch([handle for each in report.models for handle in each.loadable])
    _show(output, report)


def _show(output: Output, report: FileReport) -> None:
    from hubdist.report.delivery import size_text

    rows = [
        (handle, size_text(each.total_bytes), each.digest[:19], each.directory)
        for each in report.models
        for handle in each.handles
    ]
    record: dict[str, Any] = {
        "bytes": report.total_bytes,
        "kept_bytes": report.kept_bytes,
        "models": [
            {
                "handles": list(each.handles),
                "digest": each.digest,
                "bytes": each.total_bytes,
                "path": each.directory,
            }
            for each in report.models
        ],
    }
    paths: Sequence[str] = [each.directory for each in report.models]
    output.give([Table(("HANDLE", "SIZE>", "DIGEST", "DIRECTORY"), rows), *paths], record, paths)
