"""The limits that a node's processes run under: descriptors, memory, and the shared memory for Ray's objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubdist.health.finding import Finding, Level, size_words

_FEW_DESCRIPTORS = 1024
_TOO_FEW_DESCRIPTORS = 128
_AGENT_BYTES = 256 << 20
_WINDOWS = 4
"""`max_in_flight_bytes` bounds four things, each for itself."""

_PLACE = "/dev/shm"  # noqa: S108 - where Linux has its shared memory
_SMALL_SHARED_MEMORY = 128 << 20
_RAISE = "Raise it where Ray starts: `ulimit -n 65536` before `ray start`, or LimitNOFILE of its service."


def judge_limits(node: str, limits: Mapping[str, Any], max_in_flight_bytes: int) -> list[Finding]:
    """Judge what `machine.read_limits` has read.

    Args:
        node: The node's name.
        limits: What was read there.
        max_in_flight_bytes: The setting of that name.
    """
    return [
        judge_descriptors(node, *limits["descriptors"]),
        judge_memory(node, limits["memory"], _AGENT_BYTES + _WINDOWS * max_in_flight_bytes),
        *judge_shared_memory(node, limits["shared_memory"]),
    ]


def judge_descriptors(node: str, soft: int, hard: int) -> Finding:
    """Judge how many files a process may open.

    Args:
        node: The node's name.
        soft: The limit that holds; negative for none.
        hard: What a process may raise it to; negative for no limit.
    """
    if soft < 0 or soft >= _FEW_DESCRIPTORS:
        return Finding(
            "limits-files", Level.OK, node, f"a process may open {'any number of' if soft < 0 else soft} files"
        )
    level = Level.FAIL if soft < _TOO_FEW_DESCRIPTORS else Level.WARN
    most = "none" if hard < 0 else hard
    found = f"a process may open {soft} files (hard limit {most}); it should be {_FEW_DESCRIPTORS} or more"
    return Finding("limits-files", level, node, found, _RAISE)


def judge_memory(node: str, memory: Mapping[str, int | None], need_bytes: int) -> Finding:
    """Judge whether there is memory for hubdist's agent.

    Args:
        node: The node's name.
        memory: As `machine.read_memory` returns it.
        need_bytes: What the agent takes at most.
    """
    limit, used, available = (memory.get(key) for key in ("limit", "used", "available"))
    need = f"hubdist's agent takes up to {size_words(need_bytes)}"
    mend = "Give the container or machine more memory, or lower max_in_flight_bytes."
    if limit is not None:
        free = limit - (used or 0)
        found = f"the cgroup allows {size_words(limit)}, {size_words(max(0, free))} of it free"
        if free < need_bytes:
            return Finding("limits-memory", Level.WARN, node, f"{found}; {need}", mend)
        if available is None or available >= need_bytes:
            return Finding("limits-memory", Level.OK, node, found)
    if available is None:
        return Finding("limits-memory", Level.OK, node, "nobody tells how much memory is free")
    found = f"{size_words(available)} of memory available"
    if available < need_bytes:
        return Finding("limits-memory", Level.WARN, node, f"{found}; {need}", mend)
    return Finding("limits-memory", Level.OK, node, f"{found}, no cgroup limit")


def judge_shared_memory(node: str, size: int | None) -> list[Finding]:
    """Judge the size of `/dev/shm`, where Ray has its object store.

    Args:
        node: The node's name.
        size: Bytes; None if there is none.
    """
    if size is not None and size >= _SMALL_SHARED_MEMORY:
        return [Finding("limits-shm", Level.OK, node, f"{_PLACE} has {size_words(size)}")]
    found = f"there is no {_PLACE}" if size is None else f"{_PLACE} has {size_words(size)}"
    mend = "Start the container with more: `docker run --shm-size`, or an emptyDir with medium: Memory at /dev/shm."
    return [Finding("limits-shm", Level.WARN, node, f"{found}: Ray puts objects on a disk instead", mend)]
