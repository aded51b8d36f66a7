"""Verifies snapshots of a store against their manifests, without any network, and repairs what is damaged."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubdist.care.inspection import Inspection, Pace, inspect, wrong_blocks
from hubdist.care.repair import BlockSource, repair
from hubdist.errors import IntegrityError, StoreError
from hubdist.model.manifest import Digest
from hubdist.store.snapshot import SnapshotDirectory
from hubdist.store.store import Store
from hubdist.system.disk import disk_errors

_LOG = logging.getLogger(__name__)

_NO_MARKER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)

Sources = Callable[[Digest, contextlib.ExitStack], Sequence[BlockSource]]
"""Where blocks of a model may be had, the nearest first; asked only when a snapshot is damaged. The stack gets what has
to be closed after the repair."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification found, and what became of it.

    Attributes:
        digest: The model.
        size: Bytes that were read.
        damage: What was wrong, a text for each file; none for a whole snapshot.
        blocks: How many blocks were wrong.
        repaired_from: Who gave blocks for the repair.
        repaired: The snapshot was damaged, and is whole now.
        quarantined: The snapshot could not be repaired, and was moved aside, so that nobody loads it.
    """

    digest: Digest
    size: int = 0
    damage: tuple[str, ...] = ()
    blocks: int = 0
    repaired_from: tuple[str, ...] = ()
    repaired: bool = False
    quarantined: bool = False

    @property
    def damaged(self) -> bool:
        """True if the snapshot was damaged and has not been repaired."""
        return bool(self.damage) and not self.repaired

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "digest": str(self.digest),
            "bytes": self.size,
            "damage": list(self.damage),
            "blocks": self.blocks,
            "repaired": self.repaired,
            "repaired_from": list(self.repaired_from),
            "quarantined": self.quarantined,
        }


def verify(
    store: Store,
    digest: Digest,
    sources: Sources | None = None,
    *,
    quarantine: bool = True,
    pace: Pace | None = None,
) -> Verified | None:
    """Read every byte of a snapshot, and compare it with the manifest.

    The store does not evict the snapshot meanwhile, and does not count this as a use of it.

    Args:
        store: The store.
        digest: The snapshot.
        sources: Repair a damaged snapshot with these. None changes nothing.
        quarantine: Move a snapshot that could not be repaired to the quarantine, so that nobody loads it.
        pace: Bounds how fast the snapshot is read; None for no bound.

    Returns:
        What was found; None if there is no such snapshot, or it is being evicted.

    Raises:
        StoreError: The disk refuses.
        StoppedError: The pace was told to end.
    """
    path = store.root / "snapshots" / digest.value
    with contextlib.ExitStack() as held:
        try:
            with disk_errors(path):
                if not _hold(path, held):
                    return None
                found = inspect(path, digest, pace or Pace())
        except StoreError:
            if path.is_dir():
                raise
            return None  # it is not there, or another process has moved it aside meanwhile
        size = sum(entry.size for entry in found.found.values())
        if not found.damage:
            return Verified(digest, size)
        _LOG.warning("hubdist: snapshot %s in %s is damaged: %s", digest, store.root, "; ".join(found.damage))
        verified = Verified(digest, size, found.damage, _count_wrong(found))
        if sources is None:
            return verified
        failure, repaired = _repair(path, found, verified, sources)
        if failure is not None and quarantine:
            store.quarantine(digest, failure)
            return replace(repaired, quarantined=True)
        return repaired


def _repair(path: Path, found: Inspection, verified: Verified, sources: Sources) -> tuple[str | None, Verified]:
    """Repair a snapshot; what is still wrong, or None, and the result."""
    failure: IntegrityError | None = None
    try:
        with contextlib.ExitStack() as opened:
            mended, used = repair(path, found, sources(verified.digest, opened))
    except IntegrityError as error:  # others may write to the snapshot, so nobody knows what is in it a moment later
        mended, used, failure = found, (), error
    if failure is None and not mended.damage:
        _LOG.warning("hubdist: snapshot %s is repaired, from %s", verified.digest, ", ".join(used) or "its own files")
        return None, replace(verified, repaired=True, repaired_from=used)
    return str(failure) if failure else "; ".join(mended.damage), replace(verified, repaired_from=used)


def _hold(path: Path, held: contextlib.ExitStack) -> bool:
    """Keep a snapshot from being evicted until the stack is closed; False if a process is evicting it.

    Args:
        path: The snapshot's directory.
        held: Gets what ends the hold.

    Raises:
        OSError: There is no such directory, or the file system fails.
    """
    directory = held.enter_context(SnapshotDirectory(path))
    try:
        hold = directory.hold()
    except OSError as error:
        if error.errno not in _NO_MARKER:  # the marker is missing, which is damage, or the store is another user's
            raise
        return True
    if hold is None:
        return False
    held.callback(hold.release)
    return True


def _count_wrong(found: Inspection) -> int:
    """How many blocks are wrong; 0 if the manifest cannot be read, because nobody knows then."""
    if found.manifest is None:
        return 0
    return sum(len(wrong_blocks(entry, found.found.get(entry.path))) for entry in found.manifest.entries)
