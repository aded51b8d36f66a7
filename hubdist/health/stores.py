"""A node's store: may this user write to it, has its disk room, and how fast is it?

The store is opened as a load would open it, which makes its directories if they are missing. One file is written to it,
read back and deleted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubdist.config.schema import Config
from hubdist.errors import HubdistError, StoreError, StoreFullError
from hubdist.health.finding import Level, Plain, of_error, size_words
from hubdist.store.store import Store
from hubdist.system.disk import NEW_FILE, disk_errors, free_bytes, unique_name
from hubdist.system.ownership import place_for_store
from hubdist.system.portable import forget_pages, sync_file

_TRIAL_BYTES = 32 << 20
_PART_BYTES = 1 << 20
_TRIAL_S = 5.0
"""After so long the trial ends, with the bytes that it has written by then."""

_MIN_FREE_BYTES = 64 << 20
_LOW_FREE_BYTES = 1 << 30
_SLOW = 20 << 20
_RIGHTS = f"Set store (HUBDIST_STORE) to {place_for_store()}."
_ROOM = "Free space, lower max_store_bytes, or set store (HUBDIST_STORE) to another disk."


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a disk is.

    Attributes:
        written: Bytes per second, until the disk said that it has them.
        read: Bytes per second, as far as the system lets go of its copy in memory.
    """

    written: float
    read: float


def examine_store(settings: Mapping[str, Any], node_id: str) -> list[Plain]:
    """Open the store of this node, look at its disk, and write and read a file.

    Args:
        settings: Keys of the configuration.
        node_id: Ray's id of the node, or what stands for it without Ray.
    """
    try:
        config = Config(**settings)
        kept = None if config.max_store_bytes is None else int(config.max_store_bytes)
        store = Store(config.store_root(node_id), max_bytes=kept)
    except StoreFullError as error:
        return [of_error("store-space", error, Level.FAIL, _ROOM)]
    except HubdistError as error:
        return [of_error("store-rights", error, Level.FAIL, _RIGHTS)]
    root = store.root
    free = free_bytes(root)
    findings = [judge_rights(store), judge_space(root, free, kept)]
    if not store.read_only and free >= _MIN_FREE_BYTES:
        try:
            findings.append(judge_speed(measure_speed(root)))
        except StoreFullError as error:  # a quota of this user, which `statvfs` need not show
            findings[1] = of_error("store-space", error, Level.FAIL, _ROOM)
        except StoreError as error:
            findings[0] = of_error("store-rights", error, Level.FAIL, _RIGHTS)
    return findings


def judge_rights(store: Store) -> Plain:
    """Judge what may be done in an open store."""
    if store.read_only:
        found = f"user {os.geteuid()} may not write to {store.root}: it serves the models that it has, and takes none"
        return "store-rights", Level.WARN.value, found, _RIGHTS
    inside = f", inside {store.configured}, which is not private" if store.root != store.configured else ""
    return "store-rights", Level.OK.value, f"{store.root} is private and can be written{inside}", None


def judge_space(root: Path, free: int, kept: int | None) -> Plain:
    """Judge the room on a store's disk.

    Args:
        root: The store's directory.
        free: Bytes that this user can still write.
        kept: `max_store_bytes`; None for no limit.
    """
    level, mend = Level.OK, None
    found = f"{size_words(free)} free at {root}"
    if free < _LOW_FREE_BYTES:
        level, mend = Level.FAIL if free < _MIN_FREE_BYTES else Level.WARN, _ROOM
        found = f"the disk at {root} is {'full' if level is Level.FAIL else 'nearly full'}: {size_words(free)} free"
    elif kept is not None and kept > (total := _total_bytes(root)) > 0:
        level, mend = (
            Level.WARN,
            f"Lower max_store_bytes below {size_words(total)}, so that hubdist makes room in time.",
        )
        found += f", and max_store_bytes allows {size_words(kept)}, more than the disk has"
    return "store-space", level.value, found, mend


def judge_speed(speed: Speed) -> Plain:
    """Judge how fast a store's disk is."""
    found = f"{size_words(int(speed.written))}/s written, {size_words(int(speed.read))}/s read"
    if min(speed.written, speed.read) >= _SLOW:
        return "store-speed", Level.OK.value, found, None
    mend = "Set store (HUBDIST_STORE) to a local disk. Is it a network file system, or is the disk busy?"
    return "store-speed", Level.WARN.value, f"the disk is slow: {found}", mend


def measure_speed(root: Path, *, trial_bytes: int = _TRIAL_BYTES, trial_s: float = _TRIAL_S) -> Speed:
    """Write a file to a directory, read it, and delete it.

    Args:
        root: The directory.
        trial_bytes: Size of the file.
        trial_s: After so many seconds the file is long enough.

    Raises:
        StoreFullError: The disk is full, or a quota is used up.
        StoreError: The disk refuses otherwise.
    """
    path = root / f"doctor-{unique_name()}"
    with disk_errors(root, need_bytes=trial_bytes):
        descriptor = os.open(path, NEW_FILE, 0o600)
        try:
            size, write_s = _write(descriptor, trial_bytes, trial_s)
            forget_pages(descriptor)
            read_size, read_s = _read(path, trial_s)
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
    return Speed(size / write_s, read_size / read_s)


def _write(descriptor: int, trial_bytes: int, trial_s: float) -> tuple[int, float]:
    part, size, begun = os.urandom(_PART_BYTES), 0, time.monotonic()
    while size < trial_bytes and time.monotonic() - begun < trial_s:
        size += os.write(descriptor, part)
    sync_file(descriptor)
    return size, max(1e-6, time.monotonic() - begun)


def _read(path: Path, trial_s: float) -> tuple[int, float]:
    buffer, size, begun = bytearray(_PART_BYTES), 0, time.monotonic()
    with path.open("rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and time.monotonic() - begun < trial_s:
            size += count
    return max(1, size), max(1e-6, time.monotonic() - begun)


def _total_bytes(root: Path) -> int:
    try:
        space = os.statvfs(root)
    except OSError:
        return 0
    return space.f_blocks * space.f_frsize
