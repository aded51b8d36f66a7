"""A bar for commands that read or write one file, for people who watch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from hubdist.cli.output import Output


@contextlib.contextmanager
def byte_progress(output: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error while the block runs; nothing if nobody watches.

    Args:
        output: Tells whether somebody watches.
        what: The word before the bar.

    Yields:
        Takes how many bytes of how many are done.
    """
    if not output.live:
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.console(), transient=True) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
