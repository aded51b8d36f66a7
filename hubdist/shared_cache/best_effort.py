"""The shared cache as far as it works: what goes wrong there is logged, once, and costs time only."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from hubdist.config.schema import Config
from hubdist.errors import HubdistError
from hubdist.model.handle import Handle
from hubdist.model.manifest import Digest
from hubdist.remote.proven_copies import ProvenCopies
from hubdist.remote.snapshot_copy import RemoteCopy
from hubdist.shared_cache.cache import SharedCache, SharedSnapshot
from hubdist.store.snapshot import Snapshot
from hubdist.system.deadline import Deadline
from hubdist.system.log_once import LogOnce

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class OptionalCache:
    """`SharedCache` for the driver's side: without one configured, or when it fails, it has nothing.

    Safe for several threads.

    Args:
        config: The job's settings.
        proven: The directories that are known to hold a model.
    """

    def __init__(self, config: Config, proven: ProvenCopies) -> None:
        self._proven = proven
        self._read_only = config.shared_cache_read_only
        self._cache: SharedCache | None = None
        self._once = LogOnce(_LOG)
        url = config.shared_cache
        if url is not None and not (config.offline and "://" in url):
            self._cache = SharedCache(url, config, read_only=self._read_only)

    def find(self, digest: Digest | None) -> SharedSnapshot | None:
        """The snapshot with this digest."""
        if self._cache is None or digest is None:
            return None
        return self._try(functools.partial(self._cache.find, digest))

    def digest_of(self, handle: Handle) -> Digest | None:
        """What whoever filled the cache found under this handle."""
        return None if self._cache is None else self._try(functools.partial(self._cache.find_handle, handle))

    def tfhub_copy(self, handle: Handle) -> RemoteCopy | None:
        """The complete directory that TensorFlow Hub itself wrote for this handle; any model may be in it."""
        return None if self._cache is None else self._try(functools.partial(self._cache.find_tfhub, handle))

    def share(self, snapshot: Snapshot, handle: Handle) -> RemoteCopy | None:
        """Where nodes can read this snapshot; written to the cache if it lacks it."""
        if self._cache is None:
            return None
        by_tfhub = self.tfhub_copy(handle)
        if by_tfhub is not None:
            by_tfhub = self._proven.judged(by_tfhub, snapshot.manifest.digest)
            if by_tfhub.digested:  # else it may be another model, of files with the same names and sizes
                return by_tfhub
        if self._read_only:
            found = self.find(snapshot.manifest.digest)
        else:
            found = self._try(functools.partial(self._cache.fill, snapshot, handle))
        return None if found is None else found.copy

    @contextlib.contextmanager
    def turn(self, name: str, done: Callable[[], _T | None], deadline: Deadline) -> Iterator[_T | None]:
        """Let one cluster work at a time: yields what `done` found meanwhile, or None to the one whose turn it is.

        Args:
            name: Of the work.
            done: Looks whether another cluster has finished it.
            deadline: When this one stops waiting, and works too.
        """
        with contextlib.ExitStack() as stack:
            found = None
            if self._cache is not None and not self._read_only:
                turn = self._cache.lease(name, done, deadline)
                found = self._try(lambda: stack.enter_context(turn))
            yield found

    def _try(self, work: Callable[[], _T]) -> _T | None:
        try:
            return work()
        except HubdistError as error:
            self._once.log(str(error), "hubdist: the shared cache is not used: %s", error)
            return None
