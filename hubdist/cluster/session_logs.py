"""Where Ray keeps the logs of its session on this node: the records of jobs stand there, in a directory `hubdist`."""

from __future__ import annotations

import sys
from pathlib import Path


def records_directory() -> Path | None:
    """The directory for the records of jobs; None in a process that is not connected to Ray.

    The directory may be missing, and so may the one above it.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir(), context.get_session_name(), "logs", "hubdist")
