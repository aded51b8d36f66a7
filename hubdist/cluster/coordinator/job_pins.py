"""The pins of one job: each handle is resolved once, and stands for the same bytes for as long as the job runs.

The job claims the snapshots of its pins in the driver's store, so that they are not evicted while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hubdist.cluster.coordinator.concurrency import BlockingWork, SingleFlight
from hubdist.cluster.coordinator.driver_snapshots import DriverSnapshots
from hubdist.cluster.coordinator.job_scope import JobScope
from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError, IntegrityError, NotPinnedError, OriginError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.report.delivery import PinReport
from hubdist.resolver.lookup import PinTable, check_unchanged
from hubdist.resolver.origin_fetch import Feed
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import NodeRead, Pinned
from hubdist.store.snapshot import Snapshot

DirectoryReader = Callable[[str], Coroutine[Any, Any, NodeRead | None]]
"""Lets a node read the directory at a URL; returns None if the node cannot."""


class JudgedFeed(Feed, Protocol):
    """A feed that also learns whether the pins accept what was read. Both methods may be called more than once."""

    def settle(self) -> None:
        """The model is what the handle stands for: whoever got the chunks may publish it."""
        ...

    def fail(self, error: HubdistError) -> None:
        """The origin could not be read, or a pin refuses the model: whoever got chunks discards them."""
        ...


@dataclass(frozen=True, slots=True)
class PinRequest:
    """How a handle is to be pinned, if it is not pinned yet.

    Attributes:
        handle: The handle.
        route: The route that the caller wants; None for the best one.
        reader: Lets a node read the directory that the handle names; None if the driver's node does so.
        feed: Gets the chunks that the driver's node reads, and is settled or failed in the end; None for nobody.
    """

    handle: Handle
    route: Route | None = None
    reader: DirectoryReader | None = None
    feed: JudgedFeed | None = None


class JobPins:
    """Handle -> pin for one job. Owned by the coordinator's event loop.

    Args:
        resolver: Resolves handles into the driver's store.
        scope: The job's notes, by which a coordinator that is made again finds what the job pinned.
        snapshots: The driver's store.
        work: Threads for disks and origins.
        note: Hears of each handle that is resolved, or of the error, which names the handle.
    """

    def __init__(
        self,
        resolver: Resolver,
        scope: JobScope,
        snapshots: DriverSnapshots,
        work: BlockingWork,
        *,
        note: Callable[[PinReport | HubdistError], None] = lambda _: None,
    ) -> None:
        self._note = note
        self._resolver = resolver
        self._scope = scope
        self._snapshots = snapshots
        self._work = work
        self._flights = SingleFlight()
        self._pins = PinTable()

    @property
    def reports(self) -> tuple[PinReport, ...]:
        """What every handle stands for, in the order in which the handles were pinned."""
        return self._pins.reports

    def find(self, handle: Handle) -> Pinned | None:
        """The pin of a handle; None if this coordinator has not pinned it."""
        return self._pins.find(handle)

    async def admit_shared(self, digest: Digest) -> bool:
        """Announce reads of the shared cache's snapshot; False if it is being removed, and must not be read."""
        return await self._work.look(lambda: self._resolver.admit_shared(digest))

    def of_digest(self, digest: Digest) -> list[Pinned]:
        """The pins of a model; several handles may stand for the same bytes."""
        return self._pins.of_digest(digest)

    async def pin_once(self, request: PinRequest) -> Pinned:
        """The pin of a handle; the first call resolves the handle, and others wait for it.

        Raises:
            DigestMismatchError: Other bytes are pinned, or the job's model is lost and the origin has another one.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
        """
        pinned = self._pins.find(request.handle)
        if pinned is None:
            pinned = await self._flights.run(request.handle.key, lambda: self._pin_and_judge(request))
        return pinned

    async def refresh(self, request: PinRequest) -> tuple[Digest | None, Digest]:
        """Ask the origin again; from then on the handle stands for what the origin has.

        The model that it stood for stays known by its digest, but the store may evict its files.

        Returns:
            What the handle stood for, None if this job had not asked, and what it stands for now.

        Raises:
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            ResolveError, TransferError, IntegrityError: The origin does not give the model; the pin stays as it was.
        """
        handle = request.handle
        known = self._pins.find(handle)
        if known is None:
            pinned = await self.pin_once(request)
            if pinned.origin_reads:  # the origin has just been read
                return None, pinned.digest
        digest = await self._flights.run(("refresh", handle.key), lambda: self._read_again(request))
        return (None if known is None else known.digest), digest

    async def manifest(self, digest: Digest) -> Manifest:
        """The files of a model that this job has pinned, or that the driver's store has.

        Raises:
            NotPinnedError: The job has not resolved the model, and the store lacks it.
        """
        pins = self._pins.of_digest(digest)
        return pins[0].manifest if pins else (await self.snapshot(digest)).manifest

    async def snapshot(self, digest: Digest) -> Snapshot:
        """The driver's snapshot of a model, checked by names and sizes; fetched again if it is lost or damaged.

        Raises:
            NotPinnedError: The job has not resolved the model, and the store lacks it.
            DigestMismatchError: The store lost the model, and its origin has other bytes by now.
        """
        return await self._flights.run(digest, lambda: self._find_or_restore(digest))

    async def _pin_and_judge(self, request: PinRequest) -> Pinned:
        """Pin a handle, and tell the feed in any case: nodes must not wait for chunks that nobody will send."""
        feed = request.feed
        try:
            pinned = await self._pin(request)
        except BaseException as error:
            if feed is not None:
                feed.fail(error if isinstance(error, HubdistError) else OriginError("the model could not be read"))
            if isinstance(error, HubdistError):
                self._note(error.with_context(handle=request.handle.redacted))
            raise
        if feed is not None:
            feed.settle()
        return pinned

    async def _pin(self, request: PinRequest) -> Pinned:
        handle, direct = request.handle, self._resolver.direct
        noted = await self._work.look(lambda: self._scope.find(handle))
        manifest = None if noted is None else await self._work.look(lambda: self._scope.find_manifest(noted))
        url = None
        if request.route in (None, Route.DIRECT):
            url = await self._work.look(lambda: direct.find(handle, wanted=request.route is Route.DIRECT))
        pinned = await self._work.look(lambda: self._resolver.find(handle, digest=noted, manifest=manifest))
        if pinned is None and url is not None:
            pinned = await self._read_by_node(request, url)
        if pinned is None:
            # Nodes that can read the directory themselves need no chunks of it.
            feed = request.feed if url is None else None
            pinned = await self._work.read(lambda: self._resolver.find_or_read(handle, directory=url, feed=feed))
        check_unchanged(handle, noted, pinned.digest)
        if pinned.direct is None and url is not None:
            found = pinned.manifest
            copy = await self._work.look(lambda: direct.copy_of(url, found))
            pinned = replace(pinned, directory=url, direct=copy)
        return await self._keep(pinned)

    async def _read_again(self, request: PinRequest) -> Digest:
        handle = request.handle
        before = self._pins.find(handle)
        assert before is not None
        pinned = None if before.direct is None else await self._read_by_node(request, before.direct.url)
        if pinned is None:
            pinned = await self._work.read(lambda: self._resolver.read_anew(handle, directory=before.directory))
            if before.direct is not None and request.route in (None, Route.DIRECT):
                url, manifest = before.direct.url, pinned.manifest
                copy = await self._work.look(lambda: self._resolver.direct.copy_of(url, manifest))
                pinned = replace(pinned, direct=copy)
        await self._keep(pinned)
        if not self._pins.is_current(before.digest):
            self._snapshots.drop(before.digest)
        return pinned.digest

    async def _read_by_node(self, request: PinRequest, url: str) -> Pinned | None:
        """Let a node read the directory that a handle names; None if the driver's node has to read it.

        A path is a path of the driver: at the same path a node may have another directory, with equal names, sizes and
        times. So the driver's node alone tells which model it is, and nodes check what they read there against that.
        """
        if request.reader is None or request.handle.is_drivers:
            return None
        read = await request.reader(url)
        if read is None:
            return None
        pinned = await self._work.look(lambda: self._resolver.accept(request.handle, read))
        await self._work.look(lambda: self._scope.note_manifest(read.manifest))
        return pinned

    async def _keep(self, pinned: Pinned) -> Pinned:
        await self._work.look(lambda: self._scope.note(pinned.handle, pinned.digest))
        self._pins.keep(pinned)
        await self._snapshots.find(pinned.digest)  # which claims it
        self._note(pinned.report)
        return pinned

    async def _find_or_restore(self, digest: Digest) -> Snapshot:
        snapshot = await self._snapshots.find(digest)
        if snapshot is not None:
            return snapshot
        pins = self._pins.of_digest(digest)
        if not pins:
            raise NotPinnedError(f"this job has not resolved {digest}", advice="Load the model by its handle.")
        restored, pinned = await self._work.read(lambda: self._resolver.restore(pins))
        with restored:
            self._pins.update(pinned)
            snapshot = await self._snapshots.find(digest)
        if snapshot is None:
            raise IntegrityError(f"the model {digest} was lost from the driver's store", handle=pinned.handle.redacted)
        return snapshot
