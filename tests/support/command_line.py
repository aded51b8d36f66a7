"""Runs the command `hubdist` as people do: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run_hubdist(
    *arguments: str | Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line to its end.

    Args:
        *arguments: What stands behind `hubdist`.
        folder: The directory to run in; None for this process's.
        environment: Variables on top of this process's.
        stdin: What it reads from standard input.
        timeout_s: Longest time for it in seconds.
    """
    return subprocess.run(
        [sys.executable, "-m", "hubdist", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def json_of(done: subprocess.CompletedProcess[bytes]) -> Any:
    """What a command with `--json` printed."""
    return json.loads(done.stdout)
