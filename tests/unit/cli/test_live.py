"""The live table of a delivery: what it says, and that it fits a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hubdist.cli.live import ArrivalTable, watching
from hubdist.cli.output import Form, Output
from hubdist.report.arrivals import Arrival

SIZE = 1_680_000_000
SENDERS = ("10.12.0.1/ab14cd5e", "10.12.0.3/ab34cd5e")


def arrivals(share: float, nodes: int = 3, digest: str = "a") -> tuple[Arrival, ...]:
    return tuple(
        Arrival(f"10.12.0.{node}/ab{node}4cd5e", f"sha256:{digest * 64}", int(share * SIZE), SIZE, SENDERS)
        for node in range(2, 2 + nodes)
    )


def drawn(table: ArrivalTable, width: int, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table.draw(height, width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 109, 110, 140])
def test_a_table_shows_whole_figures_in_every_terminal(width: int) -> None:
    now = 0.0
    table = ArrivalTable(lambda: now)
    table.note(arrivals(0.25))
    now = 2.0
    table.note(arrivals(0.5))
    lines = drawn(table, width)
    assert all(len(line) <= width for line in lines)
    for line in lines[1:4]:
        assert all(
            word in line for word in ("4cd5e ", "840.0 MB", " 50%", "210.0 MB/s", "10.12.0.1/ab14cd5e and 1 more")
        )
    assert ("━" in lines[1]) == (width >= 110)
    assert lines[4] == "2 s: 0 of 3 deliveries done, 2.52 GB of 5.04 GB, 630.0 MB/s"


def test_models_are_told_apart_where_there_are_several() -> None:
    table = ArrivalTable()
    table.note(arrivals(0.5) + arrivals(0.1, digest="b"))
    lines = drawn(table, 120)
    assert "MODEL" in lines[0]
    assert "b" * 12 in lines[1]  # the slowest come first


def test_what_does_not_arrive_any_more_is_done() -> None:
    table = ArrivalTable()
    table.note(arrivals(0.9))
    table.note(arrivals(0.9)[1:])
    assert "1 of 3 deliveries done" in table.summary
    assert [row[4] for row in table.rows(9)][-1] == "done"


def test_more_nodes_than_lines_are_counted() -> None:
    table = ArrivalTable()
    table.note(arrivals(0.5, nodes=40))
    lines = drawn(table, 100, height=14)
    assert len(lines) <= 14
    assert lines[-2] == "and 30 more"


def test_nobody_is_told_where_only_values_are_wanted() -> None:
    err = io.StringIO()
    with watching(Output(Form.QUIET, io.StringIO(), err)) as watch:
        watch(arrivals(0.5))
    assert err.getvalue() == ""
