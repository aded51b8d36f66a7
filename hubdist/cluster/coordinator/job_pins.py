"""The pins of one job: each handle is resolved once, and stays the same bytes for as long as the job runs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hubdist.cluster.coordinator.origin_feed import OriginFeed
from hubdist.cluster.coordinator.slots import Slots
from hubdist.cluster.single_flight import SingleFlight
from hubdist.config.schema import ModelSettings
from hubdist.delivery.routes import Route
from hubdist.errors import DigestMismatchError, HubdistError, IntegrityError, NotPinnedError, OriginError, StoreError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.report.delivery import PinReport
from hubdist.resolver.resolver import Resolution, Resolver
from hubdist.store.claims import Claims
from hubdist.store.nonces import Nonces
from hubdist.store.pins import Pins
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.directories import remove_tree
from hubdist.system.disk import unique_name

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_LOOKING_THREADS = 32
_READING_THREADS = 512
_READS_AT_ONCE = 32
"""Of origins, as long as they answer."""
_PATIENCE_S = 1.0
_OPEN_SNAPSHOTS = 64
"""Most snapshots with an open file each; all that the job has pinned are claimed by a `Claims`."""
_OLD_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a handle stands for in this job, and where its files can be had.

    Attributes:
        handle: The handle, secrets included.
        report: The same for people.
        resolution: What was resolved; its `shared` is where nodes find the files in the shared cache.
        direct: Where nodes find the files themselves, because the handle names a directory; None if it does not.
    """

    handle: Handle
    report: PinReport
    resolution: Resolution
    direct: RemoteCopy | None = None

    @property
    def manifest(self) -> Manifest:
        """The model's files."""
        return self.resolution.manifest


@dataclass(frozen=True, slots=True)
class DirectRead:
    """What a node found when it read a directory itself: the files, where they are, the node's name."""

    manifest: Manifest
    copy: RemoteCopy
    node: str


Reader = Callable[[str], Coroutine[Any, Any, DirectRead | None]]
"""Lets a node read the directory at a URL, never a path; None if none can."""


class Book(Protocol):
    """Where else pins are noted, by `Handle.key`; the driver's node may be lost. See `JobRecord`."""

    def find(self, key: str) -> Digest | None:
        """The digest that is noted, or None."""
        ...

    def keep(self, key: str, digest: Digest) -> None:
        """Note a digest."""
        ...


class JobPins:
    """Handle -> digest for one job, noted so that a restarted coordinator finds them. Owned by one event loop.

    Snapshots that the job has pinned stay in use, so the driver's store does not evict them.

    Args:
        store: The driver's store.
        resolver: Resolves into it.
        scope: Names this job among all that ever used the store.
        book: Where pins are noted besides the store.
    """

    def __init__(self, store: Store, resolver: Resolver, scope: str, book: Book | None = None) -> None:
        self._store = store
        self._resolver = resolver
        self._scope = _Scope(store.root / "pins" / scope)
        self._pins = Pins(store.root / "pins" / scope)
        self._book = book
        self._looking = ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="hubdist-look")
        self._reading = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix="hubdist-read")
        self._slots = Slots(_READS_AT_ONCE, _PATIENCE_S)
        self._work = SingleFlight()
        self._pinned: dict[str, Pinned] = {}
        self._former: dict[Digest, Pinned] = {}
        """What handles stood for before they were refreshed; a model that travels may need it still."""
        self._claims = Claims(store.root)
        self._open: OrderedDict[Digest, Snapshot] = OrderedDict()
        """The snapshots that were used last; all of them where the store cannot be written."""
        _forget_old(store.root / "pins")

    @property
    def nonces(self) -> Nonces:
        """Those of the driver's store."""
        return Nonces(self._store)

    @property
    def reports(self) -> tuple[PinReport, ...]:
        """What was pinned, in that order."""
        return tuple(pinned.report for pinned in self._pinned.values())

    def parse(self, text: str) -> Handle:
        """Parse a handle as this job understands it.

        Raises:
            HandleError: It is none.
        """
        return self._resolver.parse(text)

    def settings_of(self, handle: Handle) -> ModelSettings:
        """What the configuration says of this model alone."""
        return self._resolver.settings_of(handle)

    def known(self, handle: Handle) -> Pinned | None:
        """The pin of a handle, if this coordinator has it."""
        return self._pinned.get(handle.key)

    async def pin(
        self, handle: Handle, route: Route | None, reader: Reader | None, early: OriginFeed | None = None
    ) -> Pinned:
        """The pin of a handle; the first call resolves it.

        Args:
            handle: The handle.
            route: The route that the first caller wants, None for the best.
            reader: See `Reader`; None if the driver's side shall read.
            early: Sends on what the driver's side reads; settled or failed when this returns.

        Raises:
            HubdistError: Every kind of it.
        """
        pinned = self._pinned.get(handle.key)
        if pinned is None:
            await self._work.run(handle.key, lambda: self._pin_and_tell(handle, route, reader, early))
            pinned = self._pinned[handle.key]
        return pinned

    async def refresh(self, handle: Handle, route: Route | None, reader: Reader | None) -> tuple[Digest | None, Digest]:
        """Ask the origin again; from then on the handle stands for what it says.

        The model that it stood for stays known by its digest, but its files may be evicted from now on.

        Args:
            handle: The handle.
            route: As for `pin`.
            reader: As for `pin`.

        Returns:
            What it stood for, None if this job had not asked, and what it stands for.

        Raises:
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            HubdistError: Every other kind of it; the handle goes on to stand for what it did.
        """
        known = self._pinned.get(handle.key)
        pinned = known or await self.pin(handle, route, reader)
        if known is None and pinned.report.origin_reads:
            return None, pinned.resolution.digest
        digest = await self._work.run(("refresh", handle.key), lambda: self._refresh(handle, route, reader))
        return (None if known is None else known.resolution.digest), digest

    async def _refresh(self, handle: Handle, route: Route | None, reader: Reader | None) -> Digest:
        before = self._pinned[handle.key]
        resolution, direct = None, None
        if before.direct is not None and reader is not None:
            resolution, direct = await self._read_by_node(handle, before.direct.url, reader)
        if resolution is None:
            resolution = await self._read(lambda: self._resolver.read_anew(handle))
        if direct is None and before.direct is not None and route in (None, Route.DIRECT):
            direct = await self._run(lambda: self._resolver.direct_copy(handle, resolution.manifest))
        await self._note(handle, resolution, direct)
        after = self._pinned[handle.key]
        if after.resolution.digest != before.resolution.digest:
            self._former[before.resolution.digest] = before
            if all(one.resolution.digest != before.resolution.digest for one in self._pinned.values()):
                self._claims.drop(before.resolution.digest)
                self._open.pop(before.resolution.digest, None)
        return after.resolution.digest

    async def _read_by_node(
        self, handle: Handle, url: str, reader: Reader
    ) -> tuple[Resolution | None, RemoteCopy | None]:
        """Let a node read a directory; None if none can.

        A path is one of the driver: at the same path a node may have another directory, with equal names, sizes and
        times. So the driver's side alone tells which model it is, and what a node reads there is checked against that.
        """
        if handle.is_drivers:
            return None, None
        read = await reader(url)
        if read is None:
            return None, None
        source = f"origin, by {read.node}"
        resolution = await self._run(lambda: self._resolver.accept(handle, read.manifest, source, read.copy))
        await self._run(lambda: self._write("manifest", lambda: self._pins.keep_manifest(read.manifest)))
        return resolution, read.copy

    async def _note(self, handle: Handle, resolution: Resolution, direct: RemoteCopy | None) -> None:
        await self._run(lambda: self._write_pin(handle, resolution.digest))
        report = resolution.report(origin_reads=int(resolution.source.startswith("origin")))
        self._pinned[handle.key] = Pinned(handle, report, resolution, direct)
        await self.held(resolution.digest)

    def pinned(self, digest: Digest) -> Pinned:
        """The pin of a model.

        Raises:
            NotPinnedError: This job did not resolve it.
        """
        return self._all_pinned(digest)[0]

    def _all_pinned(self, digest: Digest) -> list[Pinned]:
        """The pins of a model: several handles may stand for the same bytes, and not all may be there still."""
        found = [pinned for pinned in self._pinned.values() if pinned.resolution.digest == digest]
        if digest in self._former:
            found.append(self._former[digest])
        if not found:
            raise NotPinnedError(f"this job has not resolved {digest}", advice="Load the model by its handle.")
        return found

    async def manifest(self, digest: Digest) -> Manifest:
        """The files of a model that this job has pinned, or that the driver's store has.

        Raises:
            NotPinnedError: Neither.
        """
        try:
            return self.pinned(digest).manifest
        except NotPinnedError:
            return (await self.snapshot(digest)).manifest

    async def snapshot(self, digest: Digest) -> Snapshot:
        """The driver's snapshot of a pinned model, checked again; fetched, once, if it is not there or damaged.

        Raises:
            NotPinnedError: This job did not resolve it, and the store lacks it.
            HubdistError: It was lost and cannot be had again.
        """
        return await self._work.run(digest, lambda: self._snapshot(digest))

    async def held(self, digest: Digest) -> Snapshot | None:
        """The driver's snapshot if its store has it."""
        snapshot = await self._run(lambda: self._store.find(digest))
        if snapshot is None:
            return None
        claimed = await self._run(lambda: self._claims.keep(digest))
        self._open[digest] = snapshot  # instead of one that was damaged and has been moved aside since
        self._open.move_to_end(digest)
        while claimed and len(self._open) > _OPEN_SNAPSHOTS:
            self._open.popitem(last=False)
        return snapshot

    async def is_chosen(self, handle: Handle) -> bool:
        """True if the settings or the lock file pin the handle."""
        return await self._run(lambda: self._resolver.is_chosen(handle))

    async def last_digest(self, handle: Handle) -> Digest | None:
        """What a handle stood for when it was last asked for; see `Resolver.last_digest`."""
        return await self._run(lambda: self._resolver.last_digest(handle))

    async def look(self, handle: Handle) -> Resolution | None:
        """What a handle would stand for, as far as this can be told without its origin; nothing is written."""
        return await self._run(lambda: self._resolver.look(handle))

    async def direct_url(self, handle: Handle, *, wanted: bool) -> str | None:
        """The directory that nodes could read themselves; see `Resolver.direct_url`."""
        return await self._run(lambda: self._resolver.direct_url(handle, wanted=wanted))

    async def repair(self, digest: Digest) -> bool:
        """Re-read the driver's snapshot; True if it was damaged and has been moved aside."""
        try:
            await self._run(lambda: self._store.verify(digest))
        except IntegrityError:
            return True
        return False

    async def _pin_and_tell(
        self, handle: Handle, route: Route | None, reader: Reader | None, early: OriginFeed | None
    ) -> None:
        try:
            await self._pin(handle, route, reader, early)
        except BaseException as error:
            if early is not None:  # whatever it was, nobody waits for the rest
                early.fail(error if isinstance(error, HubdistError) else OriginError("the model could not be read"))
            raise
        if early is not None:
            early.settle()

    async def _pin(self, handle: Handle, route: Route | None, reader: Reader | None, early: OriginFeed | None) -> None:
        before = await self._run(lambda: self._noted(handle))
        url = None
        if route in (None, Route.DIRECT):
            url = await self._run(lambda: self._resolver.direct_url(handle, wanted=route is Route.DIRECT))
        if before is None:
            resolution = await self._run(lambda: self._resolver.find(handle))
        else:  # by a coordinator of this job that is gone
            manifest = self._pins.find_manifest(before)
            resolution = await self._run(lambda: self._resolver.recall(handle, before, manifest))
        direct = None
        if resolution is None and url is not None and reader is not None:
            resolution, direct = await self._read_by_node(handle, url, reader)
        if resolution is None:
            watcher = early if url is None else None  # nodes that can read a directory themselves need no chunks of it
            resolution = await self._read(lambda: self._resolver.resolve(handle, watcher))
        _check_unchanged(handle, before, resolution.digest)
        if direct is None and url is not None:
            direct = await self._run(lambda: self._resolver.direct_copy(handle, resolution.manifest))
        await self._note(handle, resolution, direct)

    async def _snapshot(self, digest: Digest) -> Snapshot:
        snapshot = await self.held(digest)
        if snapshot is not None:
            return snapshot
        *others, last = self._all_pinned(digest)
        for pinned in others:
            try:
                await self._bring(pinned)
                break
            except HubdistError as error:
                _LOG.warning("hubdist: %s is not had by %s: %s", digest, pinned.report.handle, error)
        else:
            await self._bring(last)
        snapshot = await self.held(digest)
        if snapshot is None:
            raise IntegrityError(f"the model {digest} was lost from the driver's store", handle=last.handle.redacted)
        return snapshot

    async def _bring(self, pinned: Pinned) -> None:
        """Put the files of a pinned model into the driver's store."""
        found, read_origin = await self._read(lambda: self._resolver.bring(pinned.handle, pinned.resolution))
        with found:
            _check_unchanged(pinned.handle, pinned.resolution.digest, found.manifest.digest)
        if read_origin:
            report = replace(pinned.report, origin_reads=pinned.report.origin_reads + 1)
            self._pinned[pinned.handle.key] = replace(pinned, report=report)

    def _noted(self, handle: Handle) -> Digest | None:
        """What this job pinned before, by a coordinator that is gone."""
        return self._pins.find(handle) or (None if self._book is None else self._book.find(handle.key))

    def _write_pin(self, handle: Handle, digest: Digest) -> None:
        self._write("pin", lambda: self._pins.keep(handle, digest))
        if self._book is not None:
            self._book.keep(handle.key, digest)

    def _write(self, what: str, write: Callable[[], None]) -> None:
        """A note is for a coordinator that is made again; this one goes on without."""
        try:
            write()
            self._scope.claim()
        except StoreError as error:
            _LOG.warning("hubdist: a %s of this job cannot be noted: %s", what, error)

    async def _run(self, blocking: Callable[[], _T]) -> _T:
        """Do what asks disks, or a network for a moment."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, blocking)

    async def _read(self, blocking: Callable[[], _T]) -> _T:
        """Do what reads whole models: slow origins must not stop other work, and stop others like them only a while."""
        async with self._slots.take():
            return await asyncio.get_running_loop().run_in_executor(self._reading, blocking)


def _check_unchanged(handle: Handle, pinned: Digest | None, found: Digest) -> None:
    if pinned is not None and pinned != found:
        raise DigestMismatchError(
            "the origin changed during the job, and the driver's store lost the model that the job began with",
            expected=str(pinned),
            actual=str(found),
            handle=handle.redacted,
            advice="Start the job again to take the new model.",
        )


class _Scope:
    """The folder of a job's notes, locked for as long as the process that works for the job lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None
        self.claim()

    def claim(self) -> None:
        """Keep other jobs from taking the notes for those of a job that is long over."""
        if self._lock is None and self._folder.is_dir():
            with contextlib.suppress(OSError):
                os.utime(self._folder)
                self._lock = _lock_scope(self._folder, fcntl.LOCK_SH)


def _lock_scope(folder: Path, kind: int) -> int:
    """Take the lock of a job's notes.

    Raises:
        OSError: Another process has it, or this file system has no locks.
    """
    file = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _forget_old(folder: Path) -> None:
    """Remove the notes of jobs that are long over; several jobs may begin at once."""
    for scope in folder.glob("session_*"):
        with contextlib.suppress(OSError):  # it is in use, or another job was faster
            if time.time() - scope.stat().st_mtime > _OLD_S:
                lock = _lock_scope(scope, fcntl.LOCK_EX)
                try:
                    aside = scope.rename(scope.with_name(f"session_removed_{unique_name()}"))  # nobody locks it now
                    remove_tree(aside)
                finally:
                    os.close(lock)
