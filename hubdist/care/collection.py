"""Removes snapshots from a store: those that a person names, or those that were not used for long or are too many.

A snapshot that a process uses, that a job has pinned, or that a person keeps, stays in any case.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hubdist.care.listing import StoredModel, list_models
from hubdist.model.manifest import Digest
from hubdist.store import kept
from hubdist.store.eviction import EvictionResult
from hubdist.store.store import Store
from hubdist.system.disk import disk_errors

_WHY = {
    EvictionResult.ABSENT: "it is not there",
    EvictionResult.IN_USE: "a process uses it",
    EvictionResult.CLAIMED: "a running job has pinned it, or a running program uses its path",
    EvictionResult.KEPT: "it is kept; `hubdist release` lets it go",
    EvictionResult.NO_LOCKS: "this file system has no locks, so nobody can tell whether a process uses it",
    EvictionResult.FREES_NOTHING: "it lies in a layer of the container's image, so its bytes would stay",
}


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of one model that was to go.

    Attributes:
        digest: The model.
        size: Bytes of all files.
        handles: The handles that stood for it, without secrets.
        removed: True if it is gone, or would be.
        why: Why it stays, or what more there is to say; empty if nothing.
    """

    digest: Digest
    size: int
    handles: tuple[str, ...]
    removed: bool
    why: str = ""

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "digest": str(self.digest),
            "bytes": self.size,
            "handles": list(self.handles),
            "removed": self.removed,
            "why": self.why,
        }


def remove(
    store: Store, digests: Sequence[Digest], *, dry_run: bool = False, needed: Collection[Digest] = ()
) -> list[Removal]:
    """Delete snapshots that no process uses and nobody keeps.

    Args:
        store: The store.
        digests: The snapshots.
        dry_run: Only tell what would be deleted, as far as it can be told without a try.
        needed: Snapshots that stay in any case, because somebody on another node needs them.

    Raises:
        StoreError: The disk refuses.
    """
    known = {model.digest: model for model in list_models(store)}
    return [_remove(store, digest, known.get(digest), dry_run=dry_run, needed=needed) for digest in digests]


def _remove(
    store: Store, digest: Digest, model: StoredModel | None, *, dry_run: bool, needed: Collection[Digest]
) -> Removal:
    if model is None:
        return Removal(digest, 0, (), removed=False, why=_WHY[EvictionResult.ABSENT])
    result = EvictionResult.EVICTED
    if digest in needed:
        result = EvictionResult.CLAIMED
    elif not dry_run:
        result = store.try_evict(digest)
    elif model.kept:
        result = EvictionResult.KEPT
    elif model.in_use:
        result = EvictionResult.IN_USE
    return Removal(digest, model.size, model.handles, result is EvictionResult.EVICTED, _WHY.get(result, ""))


def collect(
    store: Store,
    *,
    max_bytes: int | None,
    max_age_s: float | None,
    dry_run: bool = False,
    needed: Collection[Digest] = (),
    now: float | None = None,
) -> list[Removal]:
    """Delete what dead processes left, and snapshots that are too old or too many.

    Args:
        store: The store.
        max_bytes: Most bytes of snapshots that stay; the least recently used go first. None for no limit.
        max_age_s: Snapshots that were not used for more seconds than this go. None for no limit.
        dry_run: Only tell which snapshots would go.
        needed: Snapshots that stay in any case, because somebody on another node needs them.
        now: The time in seconds since 1970; None asks the clock.

    Returns:
        The snapshots that went, and those that were to go but have to stay, with the reason.

    Raises:
        StoreError: The store is read-only, or the disk refuses.
    """
    if not dry_run:
        store.check_writable()
        store.sweep()
    models = list_models(store)
    total = sum(model.size for model in models)
    oldest = None if max_age_s is None else (time.time() if now is None else now) - max_age_s
    removals = []
    for model in reversed(models):
        too_old = oldest is not None and model.used_at < oldest
        too_many = max_bytes is not None and total > max_bytes
        if too_old or too_many:
            removal = _remove(store, model.digest, model, dry_run=dry_run, needed=needed)
            total -= model.size if removal.removed else 0
            removals.append(removal)
    return removals


def keep(store: Store, digests: Iterable[Digest]) -> list[Digest]:
    """Never evict these snapshots, until `release`; returns those that are there and are kept now.

    Args:
        store: The store.
        digests: The snapshots.

    Raises:
        StoreError: The store is read-only, or the disk refuses.
    """
    done = []
    for digest in digests:
        snapshot = store.find(digest)
        if snapshot is not None:
            with snapshot, disk_errors(store.root):
                kept.keep(store.root, digest)
            done.append(digest)
    return done


def release(store: Store, digests: Iterable[Digest]) -> list[Digest]:
    """Let the store evict snapshots again; returns those that were kept.

    Args:
        store: The store.
        digests: The snapshots, which need not be there any more.

    Raises:
        StoreError: The disk refuses.
    """
    with disk_errors(store.root):
        return [digest for digest in digests if kept.release(store.root, digest)]
