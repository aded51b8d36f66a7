"""The snapshots of the driver's store that a job needs: found, and claimed for as long as the job runs."""

from __future__ import annotations

from collections import OrderedDict

from hubdist.cluster.coordinator.concurrency import BlockingWork
from hubdist.errors import IntegrityError
from hubdist.model.manifest import Digest
from hubdist.store.claims import Claims
from hubdist.store.snapshot import Snapshot
from hubdist.store.store import Store

_MAX_OPEN = 64
"""Each open snapshot has an open file. A job may pin more models than a process may open files."""


class DriverSnapshots:
    """Finds snapshots in the driver's store, and claims each one for as long as the job runs.

    Owned by the coordinator's event loop.

    Args:
        store: The driver's store.
        work: Threads for looks at the disk.
    """

    def __init__(self, store: Store, work: BlockingWork) -> None:
        self._store = store
        self._work = work
        self._claims = Claims(store.root)
        self._open: OrderedDict[Digest, Snapshot] = OrderedDict()
        """The snapshots that were used last; all of them where the store cannot be written to, and nothing claimed."""

    async def find(self, digest: Digest) -> Snapshot | None:
        """The snapshot, claimed from now on; None if the store lacks it."""
        snapshot = await self._work.look(lambda: self._store.find(digest))
        if snapshot is None:
            return None
        claimed = await self._work.look(lambda: self._claims.keep(digest))
        self._open[digest] = snapshot  # replaces one that was damaged and has been moved aside since
        self._open.move_to_end(digest)
        while claimed and len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return snapshot

    async def has(self, digest: Digest) -> bool:
        """True if the store has a complete snapshot; it is not claimed."""
        snapshot = await self._work.look(lambda: self._store.find(digest))
        if snapshot is not None:
            snapshot.release()
        return snapshot is not None

    def drop(self, digest: Digest) -> None:
        """Let the store evict a snapshot that no handle of the job stands for any more."""
        self._claims.drop(digest)
        self._open.pop(digest, None)

    def close(self) -> None:
        """Let the store evict all snapshots."""
        self._claims.close()
        self._open.clear()

    async def is_damaged(self, digest: Digest) -> bool:
        """Read a whole snapshot again; True if it was damaged, and has been moved aside."""
        try:
            await self._work.look(lambda: self._store.verify(digest))
        except IntegrityError:
            return True
        return False
