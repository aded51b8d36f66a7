"""Draws when the bytes of one model came to its nodes, as SVG: a line for each node, or bands where there are many."""

from __future__ import annotations

import bisect
import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hubdist.report.delivery import NodeReport

MAX_LINES = 8
"""More nodes are drawn as bands."""

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 40
_SAMPLES = 80
_TICKS = 6
_POINTS = 96
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture and what its colours mean.

    Attributes:
        svg: The picture.
        legend: CSS class of a colour, and what it stands for.
        text: The same in words, for those who do not see it.
    """

    svg: str
    legend: tuple[tuple[str, str], ...]
    text: str


def draw_curves(deliveries: Sequence[NodeReport]) -> Drawing:
    """Draw how much had arrived at each moment since a node took part.

    Args:
        deliveries: Deliveries of one model that bytes came for; at least one.
    """
    last_s = max(one.timeline[-1][0] for one in deliveries) or 1e-3
    most = max(one.timeline[-1][1] for one in deliveries) or 1
    scale = _Scale(last_s, most)
    ends = sorted(one.timeline[-1][0] for one in deliveries)
    text = (
        f"Bytes that had arrived at {len(deliveries)} node{'s' if len(deliveries) > 1 else ''} over time; the last"
        f" bytes came after {ends[0]:.2f} s at the first node, {ends[len(ends) // 2]:.2f} s in the median,"
        f" {ends[-1]:.2f} s at the last."
    )
    if len(deliveries) <= MAX_LINES:
        shapes = [_line(one, scale, f"line c{at}") for at, one in enumerate(deliveries)]
        legend = tuple((f"c{at}", one.name[:_MAX_NAME]) for at, one in enumerate(deliveries))
    else:
        shapes = list(_bands(deliveries, scale))
        slowest = max(deliveries, key=lambda one: one.timeline[-1][0])
        shapes.append(_line(slowest, scale, "line c1"))
        legend = (
            ("band-all", f"all {len(deliveries)} nodes"),
            ("band-most", "eight of ten nodes"),
            ("c0", "the median"),
            ("c1", f"the last node, {slowest.name[:_MAX_NAME]}"),
        )
    body = "".join([*scale.axes(), *shapes])
    svg = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(text)}"'
        f' xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
    return Drawing(svg, legend, text)


class _Scale:
    """Turns seconds and bytes into places in the picture."""

    def __init__(self, last_s: float, most: int) -> None:
        self.step_s = _nice_step(last_s)
        self.last_s = math.ceil(last_s / self.step_s - 1e-9) * self.step_s
        self.unit, self.unit_bytes = next(
            (name, size) for name, size in _UNITS if most >= size or size == _UNITS[-1][1]
        )
        self.step = _nice_step(most / self.unit_bytes)
        self.most = math.ceil(most / self.unit_bytes / self.step - 1e-9) * self.step * self.unit_bytes

    def x(self, seconds: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / self.last_s:.1f}"

    def y(self, size: float) -> str:
        return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * size / self.most:.1f}"

    def axes(self) -> Iterator[str]:
        """Grid lines with their numbers, and what they count."""
        for at in range(round(self.most / self.unit_bytes / self.step) + 1):
            value = at * self.step
            y = self.y(value * self.unit_bytes)
            yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{value:g}</text>'
        for at in range(round(self.last_s / self.step_s) + 1):
            value = at * self.step_s
            yield f'<text x="{self.x(value)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        yield f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">seconds since the node took part</text>'
        middle = (_TOP + _HEIGHT - _BOTTOM) // 2
        yield f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{self.unit}</text>'


_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("bytes", 1))


def _nice_step(most: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives at most `_TICKS` steps."""
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _line(one: NodeReport, scale: _Scale, classes: str) -> str:
    step = -(-len(one.timeline) // _POINTS)
    points = [(0.0, 0), *one.timeline[::-step][::-1]]
    path = " ".join(f"{scale.x(seconds)},{scale.y(size)}" for seconds, size in points)
    return f'<polyline class="{classes}" points="{path}"><title>{html.escape(one.name[:_MAX_NAME])}</title></polyline>'


def _bands(deliveries: Sequence[NodeReport], scale: _Scale) -> Iterator[str]:
    times = [scale.last_s * at / _SAMPLES for at in range(_SAMPLES + 1)]
    readers = [_reader(one.timeline) for one in deliveries]
    samples = [sorted(read(seconds) for read in readers) for seconds in times]

    def share(row: list[float], part: float) -> float:
        return row[min(len(row) - 1, int(part * len(row)))]

    for low, high, kind in ((0.0, 1.0, "band-all"), (0.1, 0.9, "band-most")):
        above = [f"{scale.x(at)},{scale.y(share(row, high))}" for at, row in zip(times, samples, strict=True)]
        below = [f"{scale.x(at)},{scale.y(share(row, low))}" for at, row in zip(times, samples, strict=True)]
        yield f'<polygon class="{kind}" points="{" ".join([*above, *reversed(below)])}"/>'
    middle = " ".join(f"{scale.x(at)},{scale.y(share(row, 0.5))}" for at, row in zip(times, samples, strict=True))
    yield f'<polyline class="line c0" points="{middle}"><title>the median</title></polyline>'


def _reader(timeline: Sequence[tuple[float, int]]) -> Callable[[float], float]:
    """How much had arrived at a time, on straight lines between the points of a timeline."""
    times = [0.0, *(seconds for seconds, _ in timeline)]
    sizes = [0, *(size for _, size in timeline)]

    def read(seconds: float) -> float:
        at = bisect.bisect_right(times, seconds)
        if at >= len(times):
            return sizes[-1]
        span = times[at] - times[at - 1]
        part = (seconds - times[at - 1]) / span if span else 1.0
        return sizes[at - 1] + (sizes[at] - sizes[at - 1]) * part

    return read
