"""What a process can read of its machine: packages, limits, memory, time.

`cluster.node_probes` pickles this module's functions by value, for nodes that lack hubdist or have another version. So
the module imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_V1_UNLIMITED = 1 << 60
"""Larger numbers mean "no limit" in the first version of cgroups."""


def read_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each package; None for a package that is not installed. Nothing is imported.

    Args:
        packages: Names as a package index has them; `one|other` stands for the first that is installed.
    """
    found: dict[str, str | None] = {}
    for names in packages:
        found[names.partition("|")[0]] = None
        for name in names.split("|"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[names.partition("|")[0]] = importlib.metadata.version(name)
                break
    return found


def hubdist_version() -> str | None:
    """The version of the hubdist that this process would import; None if there is none."""
    try:
        import hubdist
    except (ImportError, SyntaxError):
        return None
    return str(getattr(hubdist, "__version__", "unknown"))


def missing_modules(modules: Sequence[str]) -> list[str]:
    """Those of these modules that this process could not import, by their topmost package."""
    missing = []
    for module in modules:
        user_module = module.partition(".")[0]
        if importlib.util.find_spec(user_module) is None:
            missing.append(module)
    return missing


def read_memory(root: Path = Path("/")) -> dict[str, int | None]:
    """Memory in bytes: `total` and `available` of the machine, `limit` and `used` of this process's cgroup.

    What a cgroup uses does not count pages of files that the system can drop. A limit that is None is none.

    Args:
        root: Where `proc` and `sys` are.
    """
    lines = _text(root / "proc/meminfo").splitlines()
    sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if len(line.split()) > 1}
    memory: dict[str, int | None] = {"total": sizes.get("MemTotal"), "available": sizes.get("MemAvailable")}
    limit, used = None, None
    for folder, names in _cgroups(root):
        found = _text(folder / names[0]).strip()
        if found.isdecimal() and int(found) < _V1_UNLIMITED and (limit is None or int(found) < limit):
            counted = _text(folder / names[1]).strip()
            cache = [
                line.split()[1] for line in _text(folder / "memory.stat").splitlines() if line.startswith(names[2])
            ]
            limit = int(found)
            used = int(counted) - sum(map(int, cache)) if counted.isdecimal() else None
    return memory | {"limit": limit, "used": used}


def _cgroups(root: Path) -> list[tuple[Path, tuple[str, str, str]]]:
    """The cgroups that bound this process's memory, and their files for the limit, for what is used, and for caches."""
    found: list[tuple[Path, tuple[str, str, str]]] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if kinds else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        names = names if kinds else ("memory.max", "memory.current", "inactive_file ")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        found += [(top.joinpath(*parts[:end]), names) for end in range(len(parts), -1, -1)]
    return found


def read_limits(shared_memory: Path = Path("/dev/shm")) -> dict[str, Any]:  # noqa: S108 - it is looked at only
    """The limits of this process: `descriptors` (soft, hard), `memory` as `read_memory`, bytes of `shared_memory`.

    Args:
        shared_memory: Where Ray has its object store.
    """
    size = None
    with contextlib.suppress(OSError):
        space = os.statvfs(shared_memory)
        size = space.f_blocks * space.f_frsize
    return {
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "memory": read_memory(),
        "shared_memory": size,
    }


def read_facts(packages: Sequence[str], modules: Sequence[str]) -> dict[str, Any]:
    """What a node has: versions, missing modules and limits, by names of the standard library's types alone.

    Args:
        packages: As for `read_versions`.
        modules: As for `missing_modules`.
    """
    return {
        "hubdist": hubdist_version(),
        "python": platform.python_version(),
        "packages": read_versions(packages),
        "missing": missing_modules(modules),
        "limits": read_limits(),
    }


def read_clock() -> float:
    """Seconds since 1970, by this machine's clock."""
    return time.time()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
