"""Directories of Ray on this machine, as Ray finds them: by its own environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def latest_session(environment: Mapping[str, str] | None = None) -> Path:
    """The directory of the Ray session that was started last on this machine, unless Ray was told another `temp_dir`.

    Args:
        environment: Environment variables; None takes those of this process.
    """
    found = os.environ if environment is None else environment
    return Path(found.get("RAY_TMPDIR") or found.get("TMPDIR") or "/tmp", "ray", "session_latest")  # noqa: S108 - Ray's


def dashboards_directory(session: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The directory whose dashboards Ray's Grafana shows.

    Args:
        session: The directory of a Ray session; None takes the latest one.
        environment: Environment variables; None takes those of this process.
    """
    found = os.environ if environment is None else environment
    told = found.get("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR")
    if told:
        return Path(told)
    root = found.get("RAY_METRICS_OUTPUT_ROOT")
    metrics = Path(root) if root else (session or latest_session(found)) / "metrics"
    return metrics / "grafana" / "dashboards"
