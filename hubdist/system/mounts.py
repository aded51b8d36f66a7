"""Tells whether the machines that have a file system mounted see each other's locks on its files."""

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
"""Kinds that are named like those, but that no other machine can have mounted."""


class Reach(enum.Enum):
    """Who sees a lock.

    Attributes:
        ALL: All machines that have the file system mounted, or the file system is a disk of this machine.
        MACHINE: Only this machine; an option of the mount says so.
        UNKNOWN: Nobody can tell: a program (FUSE) or another kernel behind the file system decides.
    """

    ALL = enum.auto()
    MACHINE = enum.auto()
    UNKNOWN = enum.auto()


@functools.lru_cache(maxsize=64)
def reach_of_locks(device: int) -> Reach:
    """Who sees locks on the files of a device.

    Args:
        device: `st_dev` of any of the files.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):  # a container without /proc
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
