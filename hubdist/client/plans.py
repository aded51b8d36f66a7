"""`hubdist.plan`: what a load would do on the nodes that there are, or what a delivery to others would take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, overload

from hubdist.client.current import current_process
from hubdist.config.amounts import LinkText, link_text, parse_link, parse_links, parse_size
from hubdist.errors import ConfigError
from hubdist.model.handle import handle_text
from hubdist.model.selection import selected
from hubdist.report.plan import Plan
from hubdist.resolver.values import CallOptions

if TYPE_CHECKING:
    from hubdist.report.what_if import WhatIf

MAX_NODES = 100_000
"""More would take a prediction minutes."""

LinkTexts = LinkText | Sequence[LinkText] | Mapping[LinkText, int]


@overload
def plan(
    handle: str | os.PathLike[str],
    nodes: Iterable[str] | None = None,
    *,
    route: str | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Plan: ...


@overload
def plan(
    handle: str | os.PathLike[str],
    nodes: int,
    *,
    link: LinkTexts | None = None,
    source_link: LinkText | None = None,
    origin_link: LinkText | None = None,
    size: str | int | None = None,
    cores: float = 8,
    agents_run: bool = True,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> WhatIf: ...


def plan(
    handle: str | os.PathLike[str],
    nodes: int | Iterable[str] | None = None,
    *,
    route: str | None = None,
    link: LinkTexts | None = None,
    source_link: LinkText | None = None,
    origin_link: LinkText | None = None,
    size: str | int | None = None,
    cores: float = 8,
    agents_run: bool = True,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> Plan | WhatIf:
    """What a load of a handle would do on each node, and why; or what a delivery to so many nodes would take.

        print(hubdist.plan(handle))
        print(hubdist.plan(handle, nodes=512, link="25Gbit/s"))

    The first asks the nodes what they have and what they can read, which starts an agent on each for some seconds;
    answers are kept for a while. The second asks no node, and predicts a delivery by the route `driver` to nodes of
    which none has the model and none fails. Neither reads the origin.

    Args:
        handle: As for `load`.
        nodes: Ids, names or addresses of nodes; None means all that are alive now. A number asks what a delivery to so
            many nodes beside the driver's would take; only then the arguments after `route` matter.
        route: As for `load`; not with a number of nodes.
        link: The nodes' links, in both directions at once: `25Gbit/s` for all, a list with one for each, or a mapping
            of rates to how many nodes have them; numbers are bytes per second. None takes the setting `link`.
        source_link: The driver's node's link; None takes the fastest of the nodes'.
        origin_link: At which rate the driver's node reads the origin; None if it has the model.
        size: The model's size, such as `2GiB`; None takes that of the handle, if somebody has resolved it.
        cores: Processors of each node.
        agents_run: False if hubdist's agents have to start first, as for the first delivery of a job.
        include: As for `resolve`.
        exclude: As for `resolve`.

    Raises:
        HandleError: The handle cannot be understood.
        ConfigError: No such node is alive, there is no such route, an argument is wrong, or the size is not known.
    """
    handle = selected(handle, include, exclude)
    if isinstance(nodes, int):
        if route is not None:
            raise ConfigError("a delivery to a number of nodes goes by the route driver", advice="Leave route out.")
        return _predict(
            handle,
            nodes,
            link=link,
            source_link=source_link,
            origin_link=origin_link,
            size=size,
            cores=cores,
            agents_run=agents_run,
        )
    if any(argument is not None for argument in (link, source_link, origin_link, size)):
        raise ConfigError("links and size are for a number of nodes", advice="Say how many: nodes=512.")
    call = CallOptions.checked(route)
    return current_process().backend.plan(handle_text(handle), None if nodes is None else list(nodes), call)


def _predict(
    handle: str | os.PathLike[str],
    nodes: int,
    *,
    link: LinkTexts | None,
    source_link: LinkText | None,
    origin_link: LinkText | None,
    size: str | int | None,
    cores: float,
    agents_run: bool,
) -> WhatIf:
    from hubdist.delivery.what_if import Cores, Links, predict  # numpy, which `import hubdist` must not load
    from hubdist.report.what_if import WhatIf

    if isinstance(nodes, bool) or not 1 <= nodes <= MAX_NODES:
        raise ConfigError(f"nodes={nodes} is not a number of nodes from 1 to {MAX_NODES}")
    if not 0 < cores < float("inf"):
        raise ConfigError(f"cores={cores} is not a number of processors")
    process = current_process()
    asked = process.config.link if link is None else link
    if asked is None:
        raise ConfigError(
            "nobody has said what links the nodes have", advice="Give a link, such as 25Gbit/s, or set `link`."
        )
    rates = parse_links(asked, nodes)
    source = max(rates) if source_link is None else parse_link(source_link)
    links = Links(rates, source, None if origin_link is None else parse_link(origin_link))
    known = process.backend.plan(handle_text(handle), [], CallOptions())
    total_bytes = known.total_bytes if size is None else parse_size(size)
    if not total_bytes:
        raise ConfigError(
            f"nobody knows the size of {known.handle} yet",
            advice="Give its size, such as 2GiB, or resolve the handle first.",
        )
    prediction = predict(total_bytes, links, cores=Cores(cores), agents_run=agents_run)
    return WhatIf(known.handle, known.digest, total_bytes, _words(rates), prediction)


def _words(rates: tuple[float, ...]) -> str:
    counts = Counter(link_text(rate) for rate in rates)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{text} ({count} node{'s' if count > 1 else ''})" for text, count in counts.items())
