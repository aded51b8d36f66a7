"""`hubdist prefetch`: models to nodes, before they are needed."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output, Table
from hubdist.cli.selection import selection_options
from hubdist.cli.session import session_options

if TYPE_CHECKING:
    from hubdist.report.delivery import Report


@click.command(
    cls=Command,
    examples=[
        "hubdist prefetch https://tfhub.dev/google/nnlm-en-dim50/2 gs://my-bucket/model",
        "hubdist prefetch --config hubdist.yaml",
        "ray job submit -- hubdist prefetch gs://my-bucket/model",
    ],
)
@click.argument("handles", nargs=-1)
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Id, name or address; may be repeated. None: all.")
@selection_options
@click.pass_obj
@session_options
def prefetch(
    output: Output,
    handles: tuple[str, ...],
    nodes: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
) -> None:
    """Bring HANDLES to all nodes, and show how they come.

    Without HANDLES, the models that the configuration lists are brought. What nodes have already does not travel again.
    The last lines of standard output are the models' directories on this node, if it is among the nodes.
    """
    import hubdist
    from hubdist.cli.live import watching
    from hubdist.cli.records import to_json
    from hubdist.client.current import current_process
    from hubdist.errors import ConfigError
    from hubdist.model.selection import selected

    process = current_process()
    chosen = [selected(handle, include or None, exclude or None) for handle in handles]
    wanted = chosen or [model.handle for model in process.config.models]
    if (include or exclude) and not handles:
        raise ConfigError("--include and --exclude are for handles, and none is given")
    if not wanted:
        raise ConfigError("no handle is given, and the configuration lists no models")
    with watching(output) as watch:
        report = hubdist.prefetch(wanted, list(nodes) or None, watch=watch)
    here = process.backend.node_id
    is_here = any(node.node == here and node.error is None for node in report.nodes)
    paths = [os.fspath(hubdist.resolve(handle)) for handle in wanted] if is_here else []
    output.give([*_shown(report), *paths], to_json(report) | {"paths": paths}, paths)


def _shown(report: Report) -> list[str | Table]:
    from hubdist.report.delivery import OWN_STORE, size_text

    parts: list[str | Table] = []
    for pin in report.pins:
        nodes = [node for node in report.nodes if node.digest == pin.digest]
        rows = [
            (
                node.name,
                str(node.route),
                size_text(node.bytes_received) if node.source else "nothing sent",
                f"{node.seconds:.2f} s",
                node.senders if node.source else "",
                node.reason,
            )
            for node in nodes
        ]
        parts += [str(pin), Table(("NODE", "ROUTE", "RECEIVED>", "TIME>", "FROM", "WHY"), rows)]
    sent = Counter(report.bytes_by_source)
    had = sent.pop(OWN_STORE, 0)
    kept = f"; {size_text(had)} were in older snapshots" if had else ""
    parts.append(f"{size_text(sent.total())} sent in {report.seconds:.2f} s{kept}")
    return parts
