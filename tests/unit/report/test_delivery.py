"""What a report says and draws."""

from __future__ import annotations

import builtins
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubdist.delivery.routes import Route
from hubdist.errors import PeerError
from hubdist.report.delivery import OWN_STORE, NodeReport, PinReport, Report

MIB = 1 << 20
DRIVER = "10.0.0.1/aaaa"


def node(number: int, **changes: Any) -> NodeReport:
    others = tuple((f"10.0.0.{other + 2}/bbbb", 2 * MIB) for other in range(8) if other != number)
    values: dict[str, Any] = {
        "node": f"id{number}",
        "name": f"10.0.0.{number + 2}/bbbb",
        "handle": "https://hub/m/1",
        "digest": "sha256:" + 64 * "1",
        "route": Route.DRIVER,
        "reason": "nothing else can be read",
        "source": DRIVER,
        "bytes_received": 16 * MIB,
        "seconds": 2.5,
        "sources": ((DRIVER, 2 * MIB), *others),
        "timeline": tuple((0.1 * step + 0.05 * number, step * MIB) for step in range(1, 17)),
    }
    return NodeReport(**(values | changes))


def report(*nodes: NodeReport) -> Report:
    pin = PinReport("https://hub/m/1", "sha256:" + 64 * "1", 16 * MIB, 3, "origin", 1, 0.5)
    return Report((pin,), nodes, 2.6)


def test_bytes_by_source_add_up_over_nodes_most_first() -> None:
    found = report(*(node(number) for number in range(8))).bytes_by_source
    assert found[DRIVER] == 16 * MIB
    assert sum(found.values()) == 8 * 16 * MIB
    assert next(iter(found)) == DRIVER


def test_two_handles_with_the_same_bytes_have_their_own_lines_or_share_those_of_one() -> None:
    first = report(node(0))
    other = replace(first.pins[0], handle="https://hub/m/2")
    separate = str(Report((*first.pins, other), (node(0), node(0, handle=other.handle)), 2.6))
    shared = str(Report((*first.pins, other), (node(0),), 2.6))
    assert separate.count("  10.0.0.2/bbbb: ") == shared.count("  10.0.0.2/bbbb: ") == 2


def test_a_node_says_who_sent_and_what_went_wrong() -> None:
    text = str(node(1, retries=3, refused=1))
    assert "16.8 MB from 10.0.0.1/aaaa and 7 other nodes in 2.50 s" in text
    assert "3 chunks sent again, 1 of them with wrong bytes" in text


def test_what_a_node_had_is_neither_sent_nor_the_work_of_another_node() -> None:
    had = node(1, bytes_received=2 * MIB, sources=((OWN_STORE, 14 * MIB), (DRIVER, 2 * MIB)))
    assert "2.1 MB from 10.0.0.1/aaaa and 14.7 MB from this node's store in 2.50 s" in str(had)
    last = str(report(had, had)).splitlines()[-1]
    assert last == "4.2 MB sent in 2.60 s: 4.2 MB by 10.0.0.1/aaaa; 29.4 MB were in older snapshots"
    whole = node(1, bytes_received=0, sources=((OWN_STORE, 16 * MIB),))
    assert str(report(whole)).splitlines()[-1] == "0 B sent in 2.60 s; 16.8 MB were in older snapshots"


def test_a_report_ends_with_who_sent_how_much() -> None:
    text = str(report(*(node(number) for number in range(8))))
    assert text.splitlines()[-1].startswith("134.2 MB sent in 2.60 s: 16.8 MB by 10.0.0.1/aaaa, 14.7 MB by ")
    assert text.splitlines()[-1].endswith(" and 5 more")


def test_a_timeline_has_a_line_for_each_node_and_an_axis() -> None:
    failed = node(2, error=PeerError("it died"), timeline=((0.1, MIB),))
    lines = report(node(0), node(1), failed).draw_text(width=20).splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("1.6 s")
    assert lines[2].endswith("failed")
    assert lines[3].split() == ["0", "1.6", "s"] or lines[3].split()[-1] == "s"
    assert {len(line.split("|")[1]) for line in lines[:3]} == {20}


def test_a_report_without_bytes_says_so() -> None:
    empty = node(0, route=Route.STORE, source=None, bytes_received=0, sources=(), timeline=())
    assert report(empty).draw_text() == "no bytes were sent"
    assert len(str(report(empty)).splitlines()) == 2


@pytest.mark.parametrize("count", [0, 1, 8, 40])
def test_a_plot_is_saved(tmp_path: Path, count: int) -> None:
    figure = report(*(node(number) for number in range(count))).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 2


def test_without_matplotlib_a_plot_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    mine = report(node(0), node(1))
    with pytest.raises(ImportError, match=r"pip install 'hubdist\[plot\]', or call draw_text"):
        mine.plot(tmp_path / "plot.png")
    assert not list(tmp_path.glob("plot*"))
    assert mine.draw_text().count("\n") == 2


def test_a_report_travels() -> None:
    mine = report(node(0), node(1, error=PeerError("it died")))
    assert str(pickle.loads(pickle.dumps(mine))) == str(mine)
