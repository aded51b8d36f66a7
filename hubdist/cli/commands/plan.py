"""`hubdist plan`: what a load would do, or what a delivery would take."""

from __future__ import annotations

from typing import Any

import click

from hubdist.cli.command import Command
from hubdist.cli.output import Output
from hubdist.cli.selection import selection_options
from hubdist.cli.session import session_options


@click.command(
    cls=Command,
    examples=[
        "hubdist plan gs://my-bucket/model",
        "hubdist plan gs://my-bucket/model --nodes 512 --link 25Gbit/s --size 10GiB",
        "hubdist plan gs://my-bucket/model --nodes 2 --link 10Gbit/s --link 1Gbit/s --size 2GiB",
    ],
)
@click.argument("handle")
@click.option("--node", "names", multiple=True, metavar="NODE", help="Id, name or address; may be repeated. None: all.")
@click.option("--route", help="Which way to try first: auto, shared, direct or driver.")
@click.option("--nodes", type=click.IntRange(min=1), help="What if there were so many nodes?")
@click.option(
    "--link",
    "links",
    multiple=True,
    metavar="RATE",
    help="With --nodes: the nodes' links, 25Gbit/s; one for all, or one each.",
)
@click.option("--source-link", metavar="RATE", help="With --nodes: the driver's node's link.")
@click.option("--origin-link", metavar="RATE", help="With --nodes: at which rate the origin is read.")
@click.option("--size", metavar="SIZE", help="With --nodes: the model's size, 2GiB, if nobody has resolved it.")
@click.option("--cores", type=float, default=8, show_default=True, help="With --nodes: processors of each node.")
@click.option("--cold", is_flag=True, help="With --nodes: hubdist's agents have to start first.")
@selection_options
@click.pass_obj
@session_options
def plan(
    output: Output, /, handle: str, names: tuple[str, ...], route: str | None, nodes: int | None, **what_if: Any
) -> None:
    """Print what a load of HANDLE would do on each node, and why; nothing is loaded.

    With --nodes, print what a delivery to so many nodes would take, and what limits it.
    """
    import hubdist
    from hubdist.cli.records import to_json
    from hubdist.errors import ConfigError
    from hubdist.model.selection import selected

    place = selected(handle, what_if.pop("include") or None, what_if.pop("exclude") or None)

    if nodes is None:
        given = [key for key in ("links", "source_link", "origin_link", "size") if what_if[key]]
        if given:
            raise ConfigError("links and size are for a number of nodes", advice="Say how many: --nodes 512.")
        found: Any = hubdist.plan(place, list(names) or None, route=route)
    else:
        if names or route:
            raise ConfigError("--nodes asks about nodes that are not there", advice="Leave --node and --route out.")
        links, cold = what_if.pop("links"), what_if.pop("cold")
        link = links[0] if len(links) == 1 else list(links) or None
        found = hubdist.plan(place, nodes, link=link, agents_run=not cold, **what_if)
    output.give(str(found), to_json(found), [])
