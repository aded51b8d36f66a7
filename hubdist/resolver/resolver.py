"""Resolves handles for one job: finds what is known of a handle, else reads its origin into the driver's store.

The store, the pins and the shared cache are kept in step here: what is found or read is checked against the pins, noted
for later jobs, and put into the shared cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hubdist.config.model_settings import ModelSettings
from hubdist.config.schema import Config
from hubdist.errors import DigestMismatchError, HubdistError
from hubdist.model.access import OriginAccess
from hubdist.model.handle import Handle, parse_handle
from hubdist.model.manifest import Digest, Manifest
from hubdist.origins.huggingface import needs_commit
from hubdist.origins.local import look_at
from hubdist.remote.snapshot_copy import ProvenCopies
from hubdist.resolver.commits import Commits
from hubdist.resolver.direct_source import DirectSource
from hubdist.resolver.from_whole import take_from_whole
from hubdist.resolver.lookup import Lookup, PinPolicy, check_unchanged, is_immutable
from hubdist.resolver.node_store import open_cache
from hubdist.resolver.origin_fetch import Feed, Fetcher
from hubdist.resolver.origin_settings import origin_settings
from hubdist.resolver.timing import timed
from hubdist.resolver.values import NodeRead, Pinned, ResolvedFrom
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store
from hubdist.system.deadline import Deadline

_LOG = logging.getLogger(__name__)


class Resolver:
    """Resolves handles, from several threads and processes at the same time.

    Processes of one node take turns for one handle, so the second finds what the first published. Clusters that share
    a cache take turns too, for handles whose bytes are known not to change.

    Args:
        config: The job's settings.
        store: The driver's store.
        base_dir: What relative paths are relative to; None refuses them.
        models: `Handle.key` -> what the configuration says of the model; None takes it from `config`.
        find_access: Returns what servers of hubs and archives get to know; None asks this process's environment.

    Attributes:
        policy: Which digests the configuration and the lock file allow.
        direct: Finds the directories that nodes can read themselves.
        settings: How origins are read.

    Raises:
        ConfigError: A path in the settings begins with `~` where no home is known, or is relative without a `base_dir`.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        base_dir: Path | None,
        models: Mapping[str, ModelSettings] | None = None,
        *,
        find_access: Callable[[], OriginAccess] | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._base_dir = base_dir
        self._proven = ProvenCopies(store.root / "pins" / "places")
        self._cache = open_cache(config, self._proven)
        self.settings = origin_settings(config, find_access, store=store)
        self._fetcher = Fetcher(config, store, self._cache, self._proven, base_dir, settings=self.settings)
        self.policy = PinPolicy(config, store, base_dir, models)
        self.direct = DirectSource(config, self._proven, self.settings.find_access)
        self._commits = Commits(config.deadlines)
        self._lookup = Lookup(config, store, self._cache, self.policy)

    def parse(self, text: str) -> Handle:
        """Parse a handle as this job understands it.

        Raises:
            HandleError: The text is not a handle, or it is a relative path and there is no directory for it.
        """
        return parse_handle(text, base_dir=self._base_dir, custom_schemes=self._config.origins.keys())

    def look(self, handle: Handle) -> Pinned | None:
        """What a handle stands for, as far as this can be told without its origin. Nothing is written anywhere.

        Raises:
            NotPinnedError: The settings are frozen or locked, and nothing pins the handle.
            ConfigError: The lock file is damaged.
        """
        return self._lookup.by_handle(handle, self.policy.required(handle))

    def find(self, handle: Handle, *, digest: Digest | None = None, manifest: Manifest | None = None) -> Pinned | None:
        """What a handle stands for, if that is known and may be used. It is noted, and put into the shared cache.

        Args:
            handle: The handle.
            digest: What this job pinned before; None asks the pins, and the notes of former jobs.
            manifest: The files that this job noted for `digest`; None if it noted none.

        Raises:
            DigestMismatchError: Other bytes are pinned.
            NotPinnedError: The settings are frozen or locked, and nothing pins the handle.
        """
        return timed(handle, lambda: self._find(handle, self.policy.required(handle), digest, manifest))

    def find_or_read(self, handle: Handle, *, directory: str | None = None, feed: Feed | None = None) -> Pinned:
        """What a handle stands for; its origin is read, verified and published if that is not known yet.

        Args:
            handle: The handle.
            directory: The directory to read in place of the handle; None if there is none.
            feed: Gets the origin's chunks while they come; None sends them to nobody.

        Raises:
            DigestMismatchError: Other bytes are pinned.
            NotPinnedError: The settings are frozen, locked or offline, and the handle is not known.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
            StoreError: The disk of the driver's node refuses.
        """
        deadline = Deadline(self._config.timeout_s)

        def work() -> Pinned:
            required = self.policy.required(handle)
            found = self._find(handle, required)
            if found is not None:
                return found
            with self._store.lock(f"resolve-{handle.key}", deadline.remaining_s()):
                if self.policy.asks_origins:  # TensorFlow Hub's cache and other clusters may have old bytes
                    return self._read(handle, required, directory, feed, deadline, anew=True)
                found = self._find(handle, required)  # another process may have published it meanwhile
                return found or self._read_in_turn(handle, required, directory, feed, deadline)

        pinned = timed(handle, work)
        assert pinned is not None
        return replace(pinned, directory=directory or pinned.commit)

    def read_anew(self, handle: Handle, *, directory: str | None = None) -> Pinned:
        """What a handle stands for now: its origin is read, whatever is known of the handle.

        Args:
            handle: The handle.
            directory: The directory to read in place of the handle; None if there is none.

        Raises:
            DigestMismatchError: Other bytes are pinned.
            ResolveError, TransferError, IntegrityError: The origin does not give the model.
            StoreError: The disk of the driver's node refuses.
        """

        def work() -> Pinned:
            required, deadline = self.policy.required(handle), Deadline(self._config.timeout_s)
            with self._store.lock(f"resolve-{handle.key}", deadline.remaining_s()):
                return self._read(handle, required, directory, None, deadline, anew=True)

        if needs_commit(handle):
            directory = None  # the commit that the branch or tag was
        pinned = timed(handle, work)
        assert pinned is not None
        return replace(pinned, directory=directory or pinned.commit)

    def accept(self, handle: Handle, read: NodeRead) -> Pinned:
        """Take what a node has read itself, if the pins allow it.

        Args:
            handle: The handle.
            read: What the node found in the directory that the handle names.

        Raises:
            DigestMismatchError: Other bytes are pinned.
        """
        pinned = Pinned(
            handle,
            read.manifest,
            ResolvedFrom.ORIGIN,
            read_by=read.node,
            directory=read.copy.url,
            direct=read.copy,
            origin_reads=1,
        )
        accepted = timed(handle, lambda: self._accepted(pinned, self.policy.required(handle)))
        self._proven.keep(read.manifest, read.copy)
        return accepted or pinned

    def admit_shared(self, digest: Digest) -> bool:
        """Announce a read of the shared cache's snapshot; False if it is being removed, and must not be read."""
        return self._cache.admit(digest)

    def restore(self, pins: Sequence[Pinned]) -> tuple[Snapshot, Pinned]:
        """Put a pinned model that the driver's store has lost there again, from the shared cache or from an origin.

        Args:
            pins: The handles that stand for the model, at least one. Their bytes are equal, so it is enough that one
                of them is still there; they are tried in this order.

        Returns:
            The snapshot, and the pin that gave it, whose `origin_reads` has grown if the origin was read.

        Raises:
            DigestMismatchError: The last handle stands for other bytes by now.
            ResolveError, TransferError, IntegrityError: The last handle's origin does not give the model.
            StoreError: The disk of the driver's node refuses.
        """
        *others, last = pins
        for pinned in others:
            try:
                return self._restore(pinned)
            except HubdistError as error:
                _LOG.warning("hubdist: %s does not give %s again: %s", pinned.handle.redacted, pinned.digest, error)
        return self._restore(last)

    def _restore(self, pinned: Pinned) -> tuple[Snapshot, Pinned]:
        deadline = Deadline(self._config.timeout_s)
        try:
            with self._store.lock(f"bring-{pinned.digest.value}", deadline.remaining_s()):
                snapshot = self._store.find(pinned.digest)
                if snapshot is None and pinned.shared is not None:
                    snapshot = self._fetcher.from_copy(pinned.manifest, pinned.shared)
                if snapshot is not None:
                    return snapshot, pinned
                snapshot, _ = self._fetcher.from_origin(pinned.handle, deadline, directory=pinned.directory)
        except HubdistError as error:
            raise error.with_context(handle=pinned.handle.redacted) from error.__cause__
        try:
            check_unchanged(pinned.handle, pinned.digest, snapshot.manifest.digest)
        except DigestMismatchError:
            snapshot.release()
            raise
        return snapshot, replace(pinned, origin_reads=pinned.origin_reads + 1)

    def _find(
        self, handle: Handle, required: Digest | None, digest: Digest | None = None, manifest: Manifest | None = None
    ) -> Pinned | None:
        """Find a model without its origin, note it, and put it into the shared cache if the cache lacks it."""
        if digest is None:
            found = self._lookup.by_handle(handle, required)
        else:
            found = self._lookup.by_digest(handle, digest, manifest)
        if found is None:
            return None
        snapshot = self._store.find(found.digest)
        if snapshot is not None:
            with snapshot:
                found = replace(found, shared=self._cache.publish(snapshot, handle))
        return self._accepted(found, required)

    def _read_in_turn(
        self, handle: Handle, required: Digest | None, directory: str | None, feed: Feed | None, deadline: Deadline
    ) -> Pinned:
        """Read the origin; if another cluster does so for the same shared cache, wait and take what it filled in."""
        if required is None and not is_immutable(handle):  # what another cluster read may be old
            return self._read(handle, required, directory, feed, deadline)
        with self._cache.single_filler(handle.key, lambda: self._find(handle, required), deadline) as found:
            return found or self._read(handle, required, directory, feed, deadline)

    def _read(
        self,
        handle: Handle,
        required: Digest | None,
        directory: str | None,
        feed: Feed | None,
        deadline: Deadline,
        *,
        anew: bool = False,
    ) -> Pinned:
        settled = self._settled(handle, required, deadline, anew=anew)
        commit = None if settled is None else settled.text
        known = None if settled is None else self._lookup.settled(settled)
        if known is not None:
            return self._accepted(replace(known, handle=handle, directory=commit), required)
        seen = look_at(handle)  # before the read, so that a change during the read is noticed later
        place = directory or commit
        taken = take_from_whole(self._store, settled or handle, self.policy.last, deadline)
        snapshot, source = taken or self._fetcher.from_origin(handle, deadline, directory=place, feed=feed, anew=anew)
        with snapshot:
            reads = int(source is ResolvedFrom.ORIGIN)
            pinned = Pinned(handle, snapshot.manifest, source, seen=seen, directory=commit, origin_reads=reads)
            # Checked before it is shared: other jobs must not get bytes that a pin refuses.
            self.policy.accept(pinned, required)
            if settled is not None:
                self.policy.note(settled, pinned.digest)
            return replace(pinned, shared=self._cache.publish(snapshot, settled or handle))

    def _settled(self, handle: Handle, required: Digest | None, deadline: Deadline, *, anew: bool) -> Handle | None:
        """The commit to read for a branch or tag of Hugging Face: the one that gave the digest that is required."""
        if self._config.offline:
            return None
        place = None if required is None or anew else self.policy.place_of(handle, required)
        return self._commits.settled(handle, deadline, anew=anew) if place is None else self.parse(place)

    def _accepted(self, pinned: Pinned, required: Digest | None) -> Pinned:
        self.policy.accept(pinned, required)
        return pinned
