"""Names that tell which process made a file, so that what a dead process left can be cleared away."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_UNKNOWN = "unknown"


def unique_name() -> str:
    """A name that no other process has: boot and process namespace, process id, its start time, random digits.

    A stage whose maker is dead can thus be told from one that is still written (see `maker_is_dead`).

    Raises:
        OSError: The process may open no more files.
    """
    return f"{_boot()}-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(6)}"


def maker_is_dead(name: str) -> bool:
    """True if the process that made this unique name ran on this machine and is gone; False if alive or unknown."""
    parts = name.split("-")
    if len(parts) != 4 or _UNKNOWN in parts or not parts[1].isdigit():
        return False
    with contextlib.suppress(OSError):
        return parts[0] == _boot() and _start_time(int(parts[1])) not in (parts[2], _UNKNOWN)
    return False


def _boot() -> str:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:12]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return _UNKNOWN


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks after boot; "gone" if there is no such process, else "unknown"."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "gone" if Path("/proc/self").exists() else _UNKNOWN
    except PermissionError:
        return _UNKNOWN
    return "gone" if after_name[0] in "ZX" else after_name[19]
