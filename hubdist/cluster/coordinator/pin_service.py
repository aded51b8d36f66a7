"""Pins handles for processes: checks what a process demands, and decides who reads the origin and who listens."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.cluster.coordinator.job_pins import DirectoryReader, JobPins, PinRequest
from hubdist.cluster.coordinator.open_feeds import OpenFeeds
from hubdist.cluster.coordinator.probes import Probes
from hubdist.cluster.job import Terms
from hubdist.cluster.nodes import Node
from hubdist.config.schema import Config
from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError, NotPinnedError
from hubdist.model.handle import Handle, Kind
from hubdist.model.manifest import Digest
from hubdist.resolver.resolver import Resolver
from hubdist.resolver.values import CallOptions, Pinned


class PinService:
    """Answers what a handle stands for. Owned by the coordinator's event loop.

    Args:
        node: The driver's node.
        config: The job's settings.
        resolver: Parses handles, and knows the pins of the settings.
        pins: The job's pins.
        work: Threads for looks at the disk.
        probes: Lets nodes read directories.
        feeds: Lets nodes take part while an origin is read.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        *,
        resolver: Resolver,
        pins: JobPins,
        work: BlockingWork,
        probes: Probes,
        feeds: OpenFeeds,
    ) -> None:
        self._node = node
        self._config = config
        self._resolver = resolver
        self._pins = pins
        self._work = work
        self._probes = probes
        self._feeds = feeds

    async def pinned(
        self,
        text: str,
        reader_id: str,
        options: CallOptions,
        terms: Terms,
        receiver_ids: Sequence[str],
        *,
        at_once: bool = False,
    ) -> Pinned:
        """The pin of a handle; it is resolved if it is not pinned yet.

        Args:
            text: The handle.
            reader_id: Ray's id of the node that may read a directory that the handle names.
            options: What the call asks for in place of the settings.
            terms: What the process that asks demands beyond the job's settings.
            receiver_ids: The nodes that need the files, if the read mode is `store`.
            at_once: These nodes need agents, however small the model is.

        Raises:
            HandleError: The text is not a handle.
            NotPinnedError: The process or the job is frozen or offline, and the handle is not known.
            DigestMismatchError: Other bytes are pinned, by the job or by the process.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
        """
        try:
            handle = self._resolver.parse(text)
            pinned = await self._known_to(terms, handle)
            if pinned is None:
                settings = terms.settings(handle, self._resolver.policy.settings_of(handle))
                wanted = self._config.wanted_route(settings, options.route)
                keep = self._config.wanted_read_mode(settings, options.read_mode) == "store"
                pinned = await self._pin(handle, wanted, reader_id, list(receiver_ids), keep=keep, at_once=at_once)
            terms.check(handle, pinned.digest)
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__
        return pinned

    async def refreshed(self, text: str, reader_id: str, options: CallOptions) -> tuple[Handle, Digest | None, Digest]:
        """Ask the origin again what a handle stands for.

        Args:
            text: The handle.
            reader_id: Ray's id of the node that may read a directory that the handle names.
            options: What the call asks for in place of the settings.

        Returns:
            The handle, what it stood for, None if this job had not asked, and what it stands for now.

        Raises:
            HandleError: The text is not a handle.
            DigestMismatchError: Other bytes are pinned by the configuration or its lock file.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
        """
        try:
            handle = self._resolver.parse(text)
            wanted = self._config.wanted_route(self._resolver.policy.settings_of(handle), options.route)
            reader = self._reader(wanted, reader_id, keep=False)
            before, digest = await self._pins.refresh(PinRequest(handle, wanted, reader))
        except HubdistError as error:
            raise error.with_context(node=self._node.name) from error.__cause__
        return handle, before, digest

    async def _known_to(self, terms: Terms, handle: Handle) -> Pinned | None:
        """What the coordinator has pinned for a process; None if the handle has to be resolved.

        Raises:
            NotPinnedError: The process is frozen and nothing pins the handle, or it is offline and somebody would have
                to be asked for the handle.
        """
        known = self._pins.find(handle)
        own = terms.models.get(handle.key)
        if terms.frozen and (own is None or own.digest is None):
            required = await self._work.look(lambda: self._resolver.policy.required(handle))
            if required is None:
                raise NotPinnedError(
                    "this process is frozen, and this handle has no pin",
                    handle=handle.redacted,
                    advice="Add it to models with its digest, in this process's init or in the job's.",
                )
        asks = known is None and terms.offline and handle.kind is not Kind.LOCAL
        if asks and await self._work.look(lambda: self._resolver.look(handle)) is None:
            raise NotPinnedError(
                "this process is offline, and the job has not resolved this handle",
                handle=handle.redacted,
                advice="Resolve it in the driver, or in a process that is not offline.",
            )
        return known

    async def _pin(
        self,
        handle: Handle,
        wanted: Route | None,
        reader_id: str,
        receiver_ids: list[str],
        *,
        keep: bool,
        at_once: bool,
    ) -> Pinned:
        feed = None
        # Where nodes may read the shared cache or a directory themselves, they need no chunks from the driver's node.
        if keep and (wanted is Route.DRIVER or (wanted is None and self._config.shared_cache is None)):
            likely = await self._work.look(lambda: self._resolver.policy.last(handle))
            feed = self._feeds.open(handle, receiver_ids, likely, at_once=at_once)
        try:
            reader = self._reader(wanted, reader_id, keep=keep)
            return await self._pins.pin_once(PinRequest(handle, wanted, reader, feed))
        finally:
            if feed is not None:
                self._feeds.close(handle, feed)

    def _reader(self, wanted: Route | None, reader_id: str, *, keep: bool) -> DirectoryReader | None:
        """Lets a node read a directory itself; None if the driver's node has to do so.

        The driver's node reads for itself, and for the shared cache, which is filled from its store.
        """
        if reader_id == self._node.id or (wanted is None and self._config.shared_cache is not None):
            return None
        read = self._probes.read_directory
        return functools.partial(read, reader_id, keep=keep, wanted=wanted is Route.DIRECT)
