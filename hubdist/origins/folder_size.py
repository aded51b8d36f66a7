"""How many bytes lie in a directory that a library downloads into, to see whether it still goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a directory that other threads write to.

    Args:
        folder: The directory; what disappears meanwhile is not counted.
    """
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total
