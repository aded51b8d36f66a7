"""`hubdist resolve`: a model's directory on this node."""

from __future__ import annotations

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.cli.selection import selection_options
from hubdist.cli.session import session_options


@click.command(
    cls=Command,
    examples=[
        "hubdist resolve https://tfhub.dev/google/nnlm-en-dim50/2",
        'cd "$(hubdist resolve -q gs://my-bucket/model)"',
        "hubdist resolve /models/mnist --address local",
        "hubdist resolve gs://my-bucket/model --include '*.json' --include 'assets/*'",
    ],
)
@click.argument("handle")
@click.option("--route", help="Which way to try first: auto, shared, direct or driver.")
@selection_options
@click.pass_obj
@session_options
def resolve(output: Output, handle: str, route: str | None, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    """Bring HANDLE to this node, and print its directory.

    HANDLE is a URL of a hub, an archive or a bucket, a path, or kaggle://owner/model/framework/variation/version. The
    directory is read-only and complete. It is the last line of standard output.
    """
    import hubdist

    path = hubdist.resolve(handle, route=route, include=include or None, exclude=exclude or None)
    output.give(path, {"handle": handle, "path": path}, [path])
