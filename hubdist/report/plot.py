"""Draws what a delivery did: with matplotlib, or as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVELS = " .:-=+*#"
_MAX_LABELS = 12
_MIB = float(1 << 20)

Curve = Sequence[tuple[float, int]]
"""Points of a node's arrival: seconds since the node took part, and the bytes that had arrived by then."""


def draw_text(curves: Mapping[str, Curve], failed: Sequence[str], *, width: int) -> str:
    """Draw one line for each node: the darker a character, the more bytes came in that part of the time.

    Args:
        curves: When the bytes came, by name of the node.
        failed: Nodes that did not get the model.
        width: Characters of a bar.
    """
    if not any(curves.values()):
        return "no bytes were sent"
    last = max(curve[-1][0] for curve in curves.values() if curve)
    room = max(len(name) for name in [*curves, *failed])
    cells = {name: _cells(curve, last, width) for name, curve in curves.items()}
    fullest = max(max(row) for row in cells.values()) or 1
    lines = []
    for name, row in cells.items():
        bar = "".join(_LEVELS[-(-count * (len(_LEVELS) - 1) // fullest)] for count in row)
        end = f"{curves[name][-1][0]:.1f} s" if curves[name] else "nothing sent"
        lines.append(f"{name:<{room}} |{bar}| {'failed' if name in failed else end}")
    axis = f"0{f'{last:.1f} s':>{width - 1}}"
    return "\n".join([*lines, f"{'':<{room}}  {axis}"])


def draw_figure(curves: Mapping[str, Curve], sources: Mapping[str, int], path: Path | None) -> Figure:
    """Draw curves of arrival beside bars of who sent how much.

    Args:
        curves: When the bytes came, by name of the node.
        sources: Bytes by sender, in the order of the bars.
        path: Where to save the picture; None for nowhere.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed: pip install 'hubdist[plot]', or call draw_text()") from error

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, curve in curves.items():
        if curve:
            left.plot(
                [0.0, *(seconds for seconds, _ in curve)],
                [0.0, *(count / _MIB for _, count in curve)],
                lw=1,
                label=name,
            )
    left.set(title="What had arrived", xlabel="seconds", ylabel="MiB")
    if 0 < len(curves) <= _MAX_LABELS:
        left.legend(fontsize="small", frameon=False)
    shown = dict(list(sources.items())[:_MAX_LABELS])
    rest = sum(sources.values()) - sum(shown.values())
    if rest:
        shown[f"{len(sources) - len(shown)} others"] = rest
    names = list(shown)[::-1]
    right.barh(names, [shown[name] / _MIB for name in names], color="#4c78a8")
    right.set(title="Who sent it", xlabel="MiB")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _cells(curve: Curve, last: float, width: int) -> list[int]:
    row = [0] * width
    before = 0
    for seconds, count in curve:
        row[min(width - 1, int(seconds / last * width) if last else 0)] += count - before
        before = count
    return row
