"""Draws who sent how much to whom, as SVG: a column for each sender, a row for each receiver; many share one."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence

from hubdist.report.delivery import OWN_STORE, NodeReport, size_text
from hubdist.report.page_curves import Drawing

MAX_GROUPS = 20
"""More nodes share rows and columns."""

_WITH_NUMBERS = 8
_MAX_PLACES = 6
_CELL, _WIDE_CELL, _ROW = 22, 76, 22
_HEAD, _SIDE, _TAIL = 132, 168, 130
_MAX_NAME = 26
_MAX_TITLE = 200


def draw_matrix(deliveries: Sequence[NodeReport], coordinator: str | None) -> Drawing | None:
    """Draw who sent how much to whom, over all deliveries; None if nothing was sent.

    Args:
        deliveries: What nodes got.
        coordinator: Name of the coordinator's node, which has a column of its own; None if it is not known.
    """
    sent: Counter[tuple[str, str]] = Counter()
    for one in deliveries:
        for sender, size in one.sources:
            sent[sender, one.name] += size
    if not sent:
        return None
    nodes = {one.name for one in deliveries}
    places = Counter[str]()
    for (sender, _), size in sent.items():
        places[sender] += size if sender not in nodes and sender not in (OWN_STORE, coordinator) else 0
    kept = [place for place, size in places.most_common(_MAX_PLACES) if size]
    alone = {OWN_STORE, coordinator, *kept}
    group_of = dict.fromkeys((place for place, size in places.items() if size and place not in kept), "other places")
    inside = {name for pair in sent for name in pair} - alone - set(group_of)
    group_of |= _groups(sorted(inside, key=_numbered), MAX_GROUPS)
    cells: Counter[tuple[str, str]] = Counter()
    for (sender, receiver), size in sent.items():
        cells[group_of.get(sender, sender), group_of.get(receiver, receiver)] += size
    by_sender: Counter[str] = Counter()
    for (sender, _), size in cells.items():
        by_sender[sender] += size
    order = {OWN_STORE: 2, coordinator: 0}
    groups = set(group_of.values())
    senders = sorted(by_sender, key=lambda name: (order.get(name, int(name in groups)), _numbered(name)))
    receivers = sorted({receiver for _, receiver in cells}, key=_numbered)
    total = sum(by_sender.values())
    most, size = by_sender.most_common(1)[0]
    text = (
        f"{len(senders)} senders and {len(receivers)} receivers, {size_text(total)} in all;"
        f" {most[:_MAX_TITLE]} sent most, {size_text(size)}."
    )
    return Drawing(_svg(senders, receivers, cells, by_sender, text), (), text)


def _numbered(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts addresses by their numbers."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _groups(names: list[str], most: int) -> dict[str, str]:
    """Name -> name of its group: itself if there are few, else neighbours in the order of names."""
    if len(names) <= most:
        return {name: name for name in names}
    found: dict[str, str] = {}
    for at in range(most):
        part = names[at * len(names) // most : (at + 1) * len(names) // most]
        title = part[0] if len(part) == 1 else f"{part[0].partition('/')[0]} and {len(part) - 1} more"
        found |= dict.fromkeys(part, title)
    return found


def _svg(
    senders: list[str],
    receivers: list[str],
    cells: Counter[tuple[str, str]],
    by_sender: Counter[str],
    text: str,
) -> str:
    numbers = len(senders) <= _WITH_NUMBERS
    cell = _WIDE_CELL if numbers else _CELL
    width, height = _SIDE + cell * len(senders) + _TAIL, _HEAD + _ROW * (len(receivers) + 1) + 4
    largest = max(cells.values())
    parts = [f'<text class="axis" x="{_SIDE - 10}" y="{_HEAD - 8}" text-anchor="end">receiver \\ sender</text>']
    for at, sender in enumerate(senders):
        place = f"translate({_SIDE + cell * at + cell // 2 + 4} {_HEAD - 8}) rotate(-40)"
        parts.append(
            f'<text transform="{place}">{_short(sender)}<title>{html.escape(sender[:_MAX_TITLE])}</title></text>'
        )
    for row, receiver in enumerate(receivers):
        y = _HEAD + _ROW * row
        name = f"{_short(receiver)}<title>{html.escape(receiver[:_MAX_TITLE])}</title>"
        parts.append(f'<text x="{_SIDE - 10}" y="{y + 15}" text-anchor="end">{name}</text>')
        for at, sender in enumerate(senders):
            size = cells[sender, receiver]
            if not size:
                continue
            strength = (size / largest) ** 0.5 * (0.35 if numbers else 1.0)
            x = _SIDE + cell * at
            title = f"{_short(sender)} to {_short(receiver)}: {size_text(size)}"
            parts.append(
                f'<rect class="cell" x="{x}" y="{y}" width="{cell - 2}" height="{_ROW - 2}"'
                f' fill-opacity="{max(strength, 0.04):.2f}"><title>{title}</title></rect>'
            )
            if numbers:
                middle = x + cell // 2 - 1
                parts.append(f'<text x="{middle}" y="{y + 15}" text-anchor="middle">{size_text(size)}</text>')
    if numbers:
        y = _HEAD + _ROW * len(receivers) + 17
        parts.append(f'<text class="axis" x="{_SIDE - 10}" y="{y}" text-anchor="end">all together</text>')
        for at, sender in enumerate(senders):
            middle = _SIDE + cell * at + cell // 2 - 1
            size = by_sender[sender]
            parts.append(f'<text class="axis" x="{middle}" y="{y}" text-anchor="middle">{size_text(size)}</text>')
    label = html.escape(f"Who sent to whom: {text}")
    return (
        f'<svg class="matrix" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img"'
        f' aria-label="{label}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _short(name: str) -> str:
    return html.escape(name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…")
