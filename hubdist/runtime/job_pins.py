"""The pins of one job: each handle is resolved once, and stays the same bytes for as long as the job runs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hubdist.disk import remove_tree
from hubdist.errors import DigestMismatchError, IntegrityError, NotPinnedError
from hubdist.handle import Handle
from hubdist.manifest import Digest
from hubdist.pins import Pins
from hubdist.report import PinReport
from hubdist.resolver import Resolution, Resolver
from hubdist.runtime.sharing import SharedWork
from hubdist.snapshot import Snapshot
from hubdist.store import Store

_T = TypeVar("_T")
_THREADS = 32
_OLD_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Pinned:
    handle: Handle
    report: PinReport


class JobPins:
    """Handle -> digest for one job, on disk, so that a restarted coordinator finds them. Owned by one event loop.

    Snapshots that the job has pinned stay in use, so the driver's store does not evict them.

    Args:
        store: The driver's store.
        resolver: Resolves into it.
        scope: Names this job among all that ever used the store.
    """

    def __init__(self, store: Store, resolver: Resolver, scope: str) -> None:
        self._store = store
        self._resolver = resolver
        self._pins = Pins(store.root / "pins" / scope)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="hubdist")
        self._work = SharedWork()
        self._pinned: dict[str, _Pinned] = {}
        self._held: dict[Digest, Snapshot] = {}
        self._origin_reads: Counter[str] = Counter()
        _forget_old(store.root / "pins")

    @property
    def reports(self) -> tuple[PinReport, ...]:
        """What was pinned, in that order."""
        return tuple(pinned.report for pinned in self._pinned.values())

    async def pin(self, text: str) -> PinReport:
        """The pin of a handle; the first call resolves it.

        Raises:
            HubdistError: Every kind of it.
        """
        handle = self._resolver.parse(text)
        pinned = self._pinned.get(handle.key)
        if pinned is None:
            await self._work.once(handle.key, lambda: self._pin(handle))
            pinned = self._pinned[handle.key]
        return pinned.report

    async def snapshot(self, digest: Digest) -> Snapshot:
        """The driver's snapshot of a pinned model, checked again; fetched anew, once, if it was lost or damaged.

        Raises:
            NotPinnedError: This job did not resolve it, and the store lacks it.
            HubdistError: It was lost and cannot be had again.
        """
        return await self._work.once(digest, lambda: self._snapshot(digest))

    async def repair(self, digest: Digest) -> bool:
        """Re-read the driver's snapshot; True if it was damaged and has been moved aside."""
        try:
            await self._run(lambda: self._store.verify(digest))
        except IntegrityError:
            return True
        return False

    async def _pin(self, handle: Handle) -> None:
        digest = await self._run(lambda: self._pins.find(handle))
        snapshot = None if digest is None else await self._run(lambda: self._store.find(digest))
        if digest is not None and snapshot is not None:
            resolution = Resolution(handle.public, snapshot.manifest, "store", 0.0)
        else:
            resolution = await self._resolve(handle, digest)
            await self._run(lambda: self._pins.keep(handle, resolution.digest))
        report = resolution.report(self._origin_reads[handle.key])
        self._pinned[handle.key] = _Pinned(handle, report)
        if snapshot is not None:
            self._held[resolution.digest] = snapshot

    async def _snapshot(self, digest: Digest) -> Snapshot:
        snapshot = await self._run(lambda: self._store.find(digest))
        if snapshot is None:
            handle = next((pin.handle for pin in self._pinned.values() if pin.report.digest == str(digest)), None)
            if handle is None:
                raise NotPinnedError(
                    f"this job has not resolved {digest}, and the driver's store lacks it",
                    advice="Load the model by its handle.",
                )
            await self._resolve(handle, digest)
            snapshot = await self._run(lambda: self._store.find(digest))
            if snapshot is None:
                raise IntegrityError(f"the model {digest} was lost from the driver's store", handle=handle.public)
        return self._held.setdefault(digest, snapshot)

    async def _resolve(self, handle: Handle, pinned: Digest | None) -> Resolution:
        resolution = await self._run(lambda: self._resolver.resolve(handle))
        if resolution.source == "origin":
            self._origin_reads[handle.key] += 1
        if pinned is not None and pinned != resolution.digest:
            raise DigestMismatchError(
                "the origin changed during the job, and the driver's store lost the model that the job began with",
                expected=str(pinned),
                actual=str(resolution.digest),
                handle=handle.public,
                advice="Start the job again to take the new model.",
            )
        return resolution

    async def _run(self, blocking: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, blocking)


def _forget_old(folder: Path) -> None:
    """Remove the pins of jobs that are long over."""
    if folder.is_dir():
        for scope in folder.glob("session_*"):
            if time.time() - scope.stat().st_mtime > _OLD_S:
                remove_tree(scope)
