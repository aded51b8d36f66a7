"""Names that tell which process made a file, so that what a dead process left can be cleared away."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def unique_name() -> str:
    """A name that no other process has: boot and process namespace, process id, its start time, random digits.

    A stage whose maker is dead can thus be told from one that is still written (see `maker_is_dead`).
    """
    return f"{_boot()}-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(6)}"


def maker_is_dead(name: str) -> bool:
    """True if the process that made this unique name ran on this machine and is gone; False if alive or unknown."""
    parts = name.split("-")
    if len(parts) != 4 or parts[0] != _boot() or not parts[1].isdigit():
        return False
    return _start_time(int(parts[1])) != parts[2]


def _boot() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:12]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return "unknown"


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks after boot; "gone" if there is no such process."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if after_name[0] in "ZX" else after_name[19]
