"""The environment variable by which a process hands its settings to those that it starts.

These are processes of multiprocessing, joblib, subprocess and the like. The variable holds JSON and the id of the
process that wrote it: that process itself does not read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

VARIABLE = "HUBDIST_INHERITED"
"""Not a setting; only `hubdist.config.handover.hand_down` writes it."""


def write_inherited(environment: MutableMapping[str, str], values: Mapping[str, Any]) -> None:
    """Put settings where processes that this one starts find them.

    Args:
        environment: The process's environment variables.
        values: Keys and values that JSON can hold.
    """
    environment[VARIABLE] = json.dumps({"process": os.getpid(), "settings": dict(values)})


def read_inherited(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the process that started this one; none if no such process has any."""
    try:
        written = json.loads(environment.get(VARIABLE, "{}"))
        return {} if written.get("process") == os.getpid() else dict(written.get("settings", {}))
    except (ValueError, AttributeError, TypeError):
        return {}
