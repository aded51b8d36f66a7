"""The matrix of origin kind, route and read mode: what each cell does, and what the cells that cannot be say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY
from tests.support.matrix import CELLS, cell_name
from tests.support.tf_gs import run_with_gs, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.tf, pytest.mark.timeout(900)]

ANSWER = [[2.0, 3.0], [4.0, 6.0], [-2.0, -3.0]]
"""Of the words "one", "two" and one that is not in the vocabulary."""

DIRECTORIES = ("bucket", "path", "hub that has it uncompressed")


def expected_way(kind: str, route: str) -> str:
    """How the bytes come to the node, and what can be opened in place."""
    if route in ("shared", "driver"):
        return route
    if kind in ("bucket", "path") or (kind in DIRECTORIES and route == "direct"):
        return "direct"
    return "driver"  # the handle names no directory


@pytest.fixture(scope="module")
def results(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matrix")
    found = folder / "results.json"
    command = [sys.executable, "-m", "tests.support.matrix", str(models / "tf2"), str(folder), str(found)]
    if why_not() is None:
        done = run_with_gs(command, {}, timeout_s=600)
    else:  # all but TensorFlow's own client of gs://
        root = REPOSITORY
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return dict(json.loads(found.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "route", "mode"), CELLS, ids=[cell_name(*cell) for cell in CELLS])
def test_cell(results: dict[str, dict[str, Any]], kind: str, route: str, mode: str) -> None:
    result = results[cell_name(kind, route, mode)]
    way = expected_way(kind, route)
    if mode == "in_place" and way == "driver":
        assert result["error"] == "ConfigError"
        assert "this model has none. Set shared_cache" in result["says"]
        return
    assert result["answer"] == ANSWER
    # Read by the driver's side, unless a node reads a directory itself; paths are the driver's.
    by_node = way == "direct" and kind != "path"
    assert result["source"].startswith("origin, by ") == by_node
    assert result["driver has it"] != by_node
    if mode == "memory":
        assert result["opened"].startswith("ram://hubdist-")
        assert not result["node has it"]
    elif mode == "in_place" and (kind, way) == ("path", "direct"):
        assert result["opened"].endswith(cell_name(kind, route, mode))
        assert not result["node has it"]
    elif mode == "in_place" and why_not() is None:
        assert result["opened"].startswith("gs://models/")
        assert not result["node has it"]
    else:  # TensorFlow's own client cannot reach the bucket here: the next best is the node's store
        assert "/stores/" in result["opened"]
        assert result["node has it"]
        if (kind, route, mode) == ("path", "auto", "store"):  # small, and the driver's node has it: it is enclosed
            way = "driver"
        # The first node to read a directory keeps it, without a delivery, unless it was told not to.
        assert result["routes"] == ([] if (by_node, mode) == (True, "store") else [way])
