"""Shows what is arriving on nodes while a prefetch waits for the coordinator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
import ray.exceptions
from ray.experimental import tqdm_ray

from hubdist.report.arrivals import Arrival, Watch

_ANSWER_S = 0.5
_MAX_BARS = 200
"""Nobody looks at more progress bars."""


def tell_watcher(coordinator: Any, watch: Watch) -> None:
    """Ask the coordinator what is arriving, and tell a watcher; nothing happens if it gives no answer.

    Args:
        coordinator: The actor.
        watch: Gets what is arriving.
    """
    try:
        arrivals = ray.get(coordinator.watch.remote(), timeout=_ANSWER_S)
    except ray.exceptions.RayError:
        return  # progress is not worth an error
    watch(arrivals)


@contextlib.contextmanager
def progress_bars() -> Iterator[Watch]:
    """Draw a bar for each node that receives a model."""
    bars: dict[tuple[str, str], Any] = {}

    def draw(arrivals: tuple[Arrival, ...]) -> None:
        for arrival in arrivals[:_MAX_BARS]:
            key = arrival.node, arrival.digest
            if key not in bars:
                label = f"hubdist {arrival.node} {arrival.digest[7:15]}"
                bars[key] = tqdm_ray.tqdm(desc=label, total=arrival.total_bytes, unit="B")
            bars[key].update(arrival.arrived_bytes - bars[key].n)

    try:
        yield draw
    finally:
        for bar in bars.values():
            bar.close()
