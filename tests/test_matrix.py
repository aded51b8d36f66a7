"""The matrix of origin kind, route and read mode: what each cell does, and what the cells that cannot be say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import CELLS, cell_name
from tests.tf_gs import tf_gs_command

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
    done = subprocess.run(
        [*tf_gs_command(folder), sys.executable, "-m", "tests.matrix", str(models / "tf2"), str(folder), "results"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return dict(json.loads((folder / "results").read_text(encoding="utf-8")))
