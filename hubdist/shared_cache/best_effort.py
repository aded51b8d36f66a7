"""Best-effort access to the shared cache: errors are logged once and treated as a miss."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.remote.snapshot_copy import ProvenCopies, RemoteCopy
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.shared_cache.lease import hold_lease
from hubdist.store.snapshot import Snapshot
from hubdist.system.deadline import Deadline, Deadlines
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_ADMITTED_S = 600.0
"""Seconds for which an admission is remembered; with the longest read it must be shorter than the grace time."""


class BestEffortCache:
    """The shared cache for the driver's side. Without a cache, or when it fails, every look-up is a miss.

    Safe for several threads.

    Args:
        url: The cache's directory; None: there is no cache.
        deadlines: Timeouts and retries of each call.
        proven: The directories that are known to hold a model.
        in_flight_bytes: Most bytes in memory while files are uploaded.
        max_bytes: Most bytes of the content of one object that is stored compressed; None: no limit.
        read_only: Never write to the cache.
        offline: Use the cache only if it is a path of this machine.
    """

    def __init__(
        self,
        url: str | None,
        deadlines: Deadlines,
        proven: ProvenCopies,
        *,
        in_flight_bytes: int,
        max_bytes: int | None = None,
        read_only: bool = False,
        offline: bool = False,
    ) -> None:
        self._deadlines = deadlines
        self._proven = proven
        self._read_only = read_only
        self._cache: SharedCache | None = None
        self._once = LogOnce(_LOG)
        self._guard = threading.Lock()
        self._admitted: dict[Digest, float] = {}
        """Snapshot -> when its admission has to be renewed, by the monotonic clock."""
        if url is not None and not (offline and "://" in url):
            self._cache = SharedCache(
                url, deadlines, in_flight_bytes=in_flight_bytes, max_bytes=max_bytes, read_only=read_only
            )

    def find(self, digest: Digest | None) -> SharedSnapshot | None:
        """The snapshot with this digest, or None."""
        if self._cache is None or digest is None:
            return None
        return self._try(functools.partial(self._cache.find, digest))

    def admit(self, digest: Digest, *, for_s: float = _ADMITTED_S) -> bool:
        """Announce reads of a snapshot that begin soon; False if it is being removed, or the cache cannot be asked.

        Args:
            digest: The snapshot.
            for_s: Seconds for which an answer is remembered.
        """
        if self._cache is None:
            return False
        now = time.monotonic()
        with self._guard:
            if now < self._admitted.get(digest, 0.0):
                return True
        admitted = bool(self._try(functools.partial(self._cache.admit, digest)))
        with self._guard:
            self._admitted[digest] = now + for_s if admitted else 0.0
        return admitted

    def digest_of(self, handle: Handle) -> Digest | None:
        """The digest that the handle stood for when it was last put into the cache, or None."""
        return None if self._cache is None else self._try(functools.partial(self._cache.find_handle, handle))

    def tfhub_copy(self, handle: Handle) -> RemoteCopy | None:
        """The complete directory that TensorFlow Hub itself wrote for this handle, or None; any model may be in it."""
        return None if self._cache is None else self._try(functools.partial(self._cache.find_tfhub, handle))

    def publish(self, snapshot: Snapshot, handle: Handle) -> RemoteCopy | None:
        """Make a snapshot readable for nodes: write it to the cache, unless it is there or the cache is read-only.

        Args:
            snapshot: A snapshot of the driver's store; the caller holds it until this returns.
            handle: The handle that the snapshot was resolved from.

        Returns:
            Where nodes can read the snapshot, or None if they cannot.
        """
        if self._cache is None:
            return None
        by_tfhub = self.tfhub_copy(handle)
        if by_tfhub is not None:
            by_tfhub = self._proven.judged(by_tfhub, snapshot.manifest.digest)
            if by_tfhub.digested:  # otherwise another model may be there, with files of the same names and sizes
                return by_tfhub
        if self._read_only:
            found = self.find(snapshot.manifest.digest)
        else:
            found = self._try(functools.partial(self._cache.fill, snapshot, handle))
        return None if found is None else found.copy

    @contextlib.contextmanager
    def single_filler(self, name: str, done: Callable[[], _T | None], deadline: Deadline) -> Iterator[_T | None]:
        """Let one cluster at a time do a piece of work that ends in the cache.

        Without a cache that can be written, the block runs at once.

        Args:
            name: The name of the work, such as a handle's key.
            done: Looks whether another cluster has finished the work.
            deadline: When this cluster stops waiting, and does the work too.

        Yields:
            What `done` found, or None: then the block does the work.
        """
        with contextlib.ExitStack() as stack:
            found = None
            if self._cache is not None and not self._read_only:
                limits = replace(self._deadlines, total_s=deadline.within(self._deadlines.total_s))
                lease = hold_lease(self._cache.url, name, limits, done)
                found = self._try(lambda: stack.enter_context(lease))
            yield found

    def _try(self, work: Callable[[], _T]) -> _T | None:
        try:
            return work()
        except HubdistError as error:
            root = "" if self._cache is None else self._cache.redacted
            reason = re.sub(rf"{re.escape(root)}\S*", "", str(error))  # the same for every file of the cache
            self._once.log(reason, "hubdist: the shared cache is not used: %s", error)
            return None
