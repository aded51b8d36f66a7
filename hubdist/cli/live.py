"""The live table of a delivery: how much each node has, how fast it comes, and from whom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hubdist.cli.output import Output
from hubdist.report.arrivals import Arrival, Watch
from hubdist.report.delivery import size_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_RATE_S = 3.0
"""Seconds over which a rate is the mean."""

_LINE_S = 10.0
"""Seconds between two lines where nobody watches a terminal."""

_OTHER_LINES = 4
"""Lines of the terminal that the rows of nodes leave free."""

_BAR_CELLS = 16
_WIDE = 110
"""Columns from which on there is room for bars."""

_HEADINGS = (("NODE", 0), ("MODEL", 0), ("ARRIVED", 1), ("", 0), ("RATE", 1), ("FROM", 0))
"""Each column's name, and 1 if its cells stand right."""

_MODEL = 1


@dataclass(frozen=True)
class _Row:
    """A node that receives, or has received, a model."""

    arrival: Arrival
    marks: tuple[tuple[float, int], ...]
    """Seconds and arrived bytes, of the last `_RATE_S` seconds."""
    done: bool = False

    @property
    def rate(self) -> float:
        """Bytes per second of late."""
        (begin, before), (end, after) = self.marks[0], self.marks[-1]
        return 0.0 if end == begin else (after - before) / (end - begin)


class ArrivalTable:
    """Remembers what arrives, and draws it.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._rows: dict[tuple[str, str], _Row] = {}

    def note(self, arrivals: tuple[Arrival, ...]) -> None:
        """Take over what arrives now; nodes that are not among it any more are done.

        Args:
            arrivals: One for each node and model that is arriving.
        """
        now = self._clock()
        keys = {(arrival.node, arrival.digest) for arrival in arrivals}
        for key, row in self._rows.items():
            if key not in keys and not row.done:
                self._rows[key] = replace(row, done=True)
        for arrival in arrivals:
            key = (arrival.node, arrival.digest)
            old = self._rows[key].marks if key in self._rows else ()
            marks = (*(mark for mark in old if now - mark[0] <= _RATE_S), (now, arrival.arrived_bytes))
            self._rows[key] = _Row(arrival, marks)

    @property
    def summary(self) -> str:
        """One line: nodes that are done, bytes of all, rate of all."""
        rows = self._rows.values()
        seconds = self._clock() - self._begin
        if not rows:
            return f"{seconds:.0f} s: the coordinator resolves the handles and starts the nodes' agents"
        done = sum(row.done for row in rows)
        total = sum(row.arrival.total_bytes for row in rows)
        arrived = sum(row.arrival.total_bytes if row.done else row.arrival.arrived_bytes for row in rows)
        rate = sum(row.rate for row in rows if not row.done)
        text = f"{seconds:.0f} s: {done} of {len(rows)} deliveries done"
        return f"{text}, {size_text(arrived)} of {size_text(total)}, {size_text(int(rate))}/s"

    def rows(self, most: int, bar_cells: int = 0) -> list[tuple[str, str, str, str, str, str]]:
        """The cells of the rows: node, model, bytes, share, rate, from whom; what is slowest comes first.

        Args:
            most: Most rows.
            bar_cells: Length of the bar beside the share; 0 for no bar.
        """
        found = sorted(self._rows.values(), key=lambda row: (row.done, _share(row.arrival)))
        return [_cells(row, bar_cells) for row in found[:most]]

    def draw(self, height: int, width: int) -> RenderableType:
        """The table as rich draws it. In a narrow terminal shares stand without bars, and only who sends is cut.

        Args:
            height: Lines of the terminal.
            width: Columns of the terminal.
        """
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        most = max(1, height - _OTHER_LINES)
        rows = self.rows(most, bar_cells=_BAR_CELLS if width >= _WIDE else 0)
        shown = [at for at in range(6) if at != _MODEL or len({arrival for _, arrival in self._rows}) > 1]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for at in shown:
            heading, right = _HEADINGS[at]
            whole = max(len(row[at]) for row in rows) if rows and heading != "FROM" else None
            table.add_column(heading, justify="right" if right else "left", no_wrap=True, min_width=whole)
        for row in rows:
            table.add_row(*(Text(row[at]) for at in shown), style="green" if row[4] == "done" else None)
        more = len(self._rows) - most
        lines: list[RenderableType] = [table, Text(self.summary, style="dim")]
        if more > 0:
            lines.insert(1, Text(f"and {more} more", style="dim"))
        return Group(*lines) if self._rows else lines[-1]


@contextlib.contextmanager
def watching(output: Output) -> Iterator[Watch]:
    """Show what arrives until the block ends: as a table on a terminal, as a line now and then anywhere else.

    Args:
        output: Where it is shown; nowhere if only bare values are wanted.
    """
    table = ArrivalTable()
    if not output.live:
        last = time.monotonic()

        def tell(arrivals: tuple[Arrival, ...]) -> None:
            nonlocal last
            table.note(arrivals)
            if time.monotonic() - last >= _LINE_S:
                last = time.monotonic()
                output.say(table.summary)

        yield tell
        return
    from rich.live import Live

    console = output.console()
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(arrivals: tuple[Arrival, ...]) -> None:
            table.note(arrivals)
            live.update(table.draw(console.height, console.width), refresh=True)

        draw(())
        yield draw


def _share(arrival: Arrival) -> float:
    return arrival.arrived_bytes / arrival.total_bytes if arrival.total_bytes else 0.0


def _cells(row: _Row, bar_cells: int) -> tuple[str, str, str, str, str, str]:
    arrival = row.arrival
    share = 1.0 if row.done else _share(arrival)
    filled = round(share * bar_cells)
    bar = f"{'━' * filled}{'╌' * (bar_cells - filled)} " if bar_cells else ""
    first, others = next(iter(arrival.senders), ""), len(arrival.senders) - 1
    return (
        arrival.node,
        arrival.digest.removeprefix("sha256:")[:12],
        size_text(arrival.total_bytes if row.done else arrival.arrived_bytes),
        f"{bar}{share:4.0%}",
        "done" if row.done else f"{size_text(int(row.rate))}/s",
        f"{first} and {others} more" if others > 0 else first,
    )
