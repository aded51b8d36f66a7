"""`hubdist.where`, `keep` and `release`: tasks go where a model is, and a model is where tasks will go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from hubdist.client.current import current_process
from hubdist.client.failures import raise_failures
from hubdist.model.handle import handle_text
from hubdist.report.delivery import Report

Handles = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

EVERYWHERE = "all"


def where(handles: Handles, *, wait_s: float = 10.0) -> dict[str, Any]:
    """Options of Ray that start tasks, actors, map workers or replicas on nodes that have a model already.

        embed.options(**hubdist.where(handle)).remote(texts)
        Embedder.options(num_cpus=1, **hubdist.where(handle)).remote()
        dataset.map_batches(Predict, concurrency=4, **hubdist.where(handle))

    They are a wish: where those nodes have no room, or are gone, tasks run elsewhere at once, and get the model there
    as ever. Of several models, nodes with all of them come first, then nodes with some. The answer is about the moment
    of the call. Nothing is resolved and nothing is brought: for a model that no node has, one that nobody has resolved,
    and without Ray, there are no options.

    The options are `label_selector` and `fallback_strategy`. A task takes one of each, so they do not go together with
    a selector of your own, nor with a `scheduling_strategy`.

    Args:
        handles: One handle or several.
        wait_s: Longest wait in seconds for nodes of which this job does not know whether they have the model; who has
            not answered then counts as a node without it. Answers are kept for ten minutes.

    Returns:
        Keyword arguments for `.options()` and `@ray.remote`; empty if there is no wish.

    Raises:
        HandleError: A handle cannot be understood.
        HubdistError: The coordinator cannot be asked.
    """
    return current_process().backend.placement.where(_texts(handles), wait_s)


def keep(handles: Handles, nodes: str | Iterable[str] = EVERYWHERE) -> Report:
    """Bring models to nodes and never evict them there, until `release`.

        hubdist.keep(handle)

    By default this is about all nodes, those that join later too: each gets the models as soon as Ray counts it as
    alive, while the first tasks start there. That asks Ray for no resources, so no node starts for it, and none is kept
    from scaling down. It lasts as long as the job's coordinator, which ends with the job. A handle that is refreshed is
    kept at its new bytes.

    A kept model has a mark in each store, the one of the command `hubdist keep`. Marks outlive the job.

    Args:
        handles: One handle or several.
        nodes: `all`: all nodes, now and later. Else ids, names or addresses of nodes that are alive.

    Returns:
        What was resolved, and how each node got it.

    Raises:
        DeliveryError: Some nodes or handles failed; the others are kept. Nodes are tried again if `nodes` is `all`.
        ConfigError: There is no such node.
        HubdistError: One handle alone could not be resolved, as for `load`.
    """
    texts = _texts(handles)
    report = current_process().backend.placement.keep(texts, _names(nodes))
    raise_failures(report, texts)
    return report


def release(handles: Handles, nodes: str | Iterable[str] = EVERYWHERE) -> tuple[str, ...]:
    """Let stores evict models again that `keep` or the command `hubdist keep` has kept.

    Args:
        handles: One handle or several.
        nodes: `all`: all nodes, and those that join later get the models no more. Else ids, names or addresses.

    Returns:
        The names of the nodes where one of the models was kept.

    Raises:
        HandleError: A handle cannot be understood.
        ConfigError: There is no such node.
        HubdistError: A node could not do it; the others have done it.
    """
    return current_process().backend.placement.release(_texts(handles), _names(nodes))


def _texts(handles: Handles) -> list[str]:
    several = [handles] if isinstance(handles, (str, os.PathLike)) else list(handles)
    return [handle_text(handle) for handle in several]


def _names(nodes: str | Iterable[str]) -> list[str] | None:
    if nodes == EVERYWHERE:
        return None
    return [nodes] if isinstance(nodes, str) else list(nodes)
