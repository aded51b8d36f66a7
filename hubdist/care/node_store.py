"""The care of one node's store, by a process on that node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from hubdist.care import collection, listing
from hubdist.care.block_sources import OriginBlocks, SharedBlocks
from hubdist.care.collection import Removal
from hubdist.care.listing import StoredModel
from hubdist.care.place import Answers
from hubdist.care.repair import BlockSource
from hubdist.care.verification import Sources, Verified, verify
from hubdist.errors import HubdistError, StoreError
from hubdist.model.manifest import Digest
from hubdist.origins import OriginSettings
from hubdist.shared_cache.cache import SharedCache
from hubdist.store.store import Store
from hubdist.system.deadline import Deadlines

_T = TypeVar("_T")

Peers = Callable[[contextlib.ExitStack], Sequence[BlockSource]]
"""Finds stores of other nodes that may have blocks. The stack gets what has to be closed after the repair."""


class NodeStore:
    """A `CarePlace` of one store in this process.

    Args:
        name: What answers call the store.
        store: The store; None if the node has none, so that nothing is in it.
        sources: Where a repair gets blocks; None: nowhere but from the files themselves.
    """

    def __init__(self, name: str, store: Store | None, sources: Sources | None = None) -> None:
        self._name = name
        self._store = store
        self._sources: Sources = sources or (lambda _digest, _opened: ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open."""

    def list_models(self) -> Answers[list[StoredModel]]:
        """All models; the one that was used last comes first."""
        return self._answer(listing.list_models)

    def verify(self, digests: Sequence[Digest] | None, *, repair: bool) -> Answers[list[Verified]]:
        """Read every byte again, and compare it with the manifest.

        Args:
            digests: The models; None for all.
            repair: Mend what is damaged, or move it aside.
        """
        sources = self._sources if repair else None
        return self._answer(lambda store: verify_all(store, digests, sources))

    def remove(self, digests: Sequence[Digest], *, dry_run: bool) -> Answers[list[Removal]]:
        """Delete models that nobody uses and nobody keeps.

        Args:
            digests: The models.
            dry_run: Only tell what would be deleted.
        """
        return self._answer(lambda store: collection.remove(store, digests, dry_run=dry_run))

    def collect(self, *, max_bytes: int | None, max_age_s: float | None, dry_run: bool) -> Answers[list[Removal]]:
        """Delete what dead processes left, and models that are too old or too many.

        Args:
            max_bytes: Most bytes of models that stay; None for no limit.
            max_age_s: Models that were not used for more seconds than this go; None for no limit.
            dry_run: Only tell what would be deleted.
        """
        return self._answer(
            lambda store: collection.collect(store, max_bytes=max_bytes, max_age_s=max_age_s, dry_run=dry_run)
        )

    def keep(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Never evict models, until `release`; the answer has those that are there."""
        return self._answer(lambda store: collection.keep(store, digests))

    def release(self, digests: Sequence[Digest]) -> Answers[list[Digest]]:
        """Let the store evict models again; the answer has those that were kept."""
        return self._answer(lambda store: collection.release(store, digests))

    def _answer(self, work: Callable[[Store], list[_T]]) -> Answers[list[_T]]:
        if self._store is None:
            return Answers({self._name: []})
        try:
            return Answers({self._name: work(self._store)})
        except StoreError as error:
            return Answers({}, {self._name: error})


def verify_all(
    store: Store, digests: Sequence[Digest] | None, sources: Sources | None, *, quarantine: bool = True
) -> list[Verified]:
    """Verify several snapshots; one that the disk cannot read counts as damaged, with the disk's error.

    Args:
        store: The store.
        digests: The snapshots; None for all. Those that are not there are left out of the result.
        sources: As for `verify`.
        quarantine: As for `verify`.
    """
    results = []
    for digest in listing.snapshot_digests(store.root) if digests is None else digests:
        try:
            result = verify(store, digest, sources, quarantine=quarantine)
        except StoreError as error:
            result = Verified(digest, damage=(str(error),))
        if result is not None:
            results.append(result)
    return results


def sources_of(
    store: Store,
    *,
    peers: Peers | None = None,
    cache: SharedCache | None = None,
    origins: OriginSettings | None = None,
    deadlines: Deadlines,
) -> Sources:
    """Where a repair of a store gets blocks: peers first, then the shared cache, then the origin.

    Args:
        store: The store.
        peers: Finds stores of other nodes; None: there are none.
        cache: The shared cache; None: there is none.
        origins: How origins are read; None: they are not.
        deadlines: Timeouts and retries of each read.
    """

    def find(digest: Digest, opened: contextlib.ExitStack) -> Sequence[BlockSource]:
        found: list[BlockSource] = []
        if peers is not None:
            with contextlib.suppress(HubdistError):  # other sources may do
                found += peers(opened)
        if cache is not None:
            found.append(SharedBlocks(cache, deadlines))
        handles = listing.handles_by_digest(store.root).get(digest, ())
        if origins is not None and handles:
            found.append(OriginBlocks(store, handles, origins, deadlines.total_s, opened))
        return found

    return find
