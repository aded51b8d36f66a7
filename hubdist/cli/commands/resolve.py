"""`hubdist resolve`: a model's directory on this node."""

from __future__ import annotations

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.cli.session import session_options


@click.command(
    cls=Command,
    examples=[
        "hubdist resolve https://tfhub.dev/google/nnlm-en-dim50/2",
        'cd "$(hubdist resolve -q gs://my-bucket/model)"',
        "hubdist resolve /models/mnist --address local",
    ],
)
@click.argument("handle")
@click.option("--route", help="Which way to try first: auto, shared, direct or driver.")
@click.pass_obj
@session_options
def resolve(output: Output, handle: str, route: str | None) -> None:
    """Bring HANDLE to this node, and print its directory.

    HANDLE is a URL of a hub, an archive or a bucket, a path, or kaggle://owner/model/framework/variation/version. The
    directory is read-only and complete. It is the last line of standard output.
    """
    import hubdist

    path = hubdist.resolve(handle, route=route)
    output.give(path, {"handle": handle, "path": path}, [path])
