"""Whether the locks of a file system are seen by the other machines that have it mounted."""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_LOCAL = re.compile(r"(nolock|localflock|local_lock=(all|flock))")
_FUSE = ("fuse", "9p", "virtiofs")
_OWN = ("fuse.fuse-overlayfs", "fuse.lxcfs")
"""File systems of that kind that no other machine can have mounted."""


class Reach(enum.Enum):
    """Who sees a lock.

    Attributes:
        ALL: All machines that have the file system mounted; or it is a disk of this one.
        MACHINE: Only this machine, by the options of the mount.
        UNKNOWN: The file system decides, and does not say how.
    """

    ALL = enum.auto()
    MACHINE = enum.auto()
    UNKNOWN = enum.auto()


@functools.lru_cache(maxsize=64)
def reach_of_locks(device: int) -> Reach:
    """Who sees locks on files of a device.

    Args:
        device: `st_dev` of such a file.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):  # no /proc
        for line in _TABLE.read_text(encoding="utf-8", errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2:3] == [number]:
                return _reach(*system.split(" ", 2))
    return Reach.ALL


def _reach(kind: str, _source: str = "", options: str = "") -> Reach:
    if any(_LOCAL.fullmatch(option) for option in options.split(",")):
        return Reach.MACHINE
    if kind.partition(".")[0] in _FUSE and kind not in _OWN:
        return Reach.UNKNOWN
    return Reach.ALL
