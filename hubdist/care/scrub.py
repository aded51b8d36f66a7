"""Reads a store again, slowly and in small steps, to find bytes that the disk has lost.

    <root>/scrubbed/<digest>    how many blocks of the snapshot were read since the last round began, as a number;
                                the time of change of a finished one, with the number 0, is when that was

Whoever has time for it goes on where the last one stopped. One process of a node does so at a time. A block that
differs leads to a verification of the whole snapshot, and to its repair.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hubdist.care.inspection import Pace, StoppedError, read_manifest
from hubdist.care.listing import snapshot_digests
from hubdist.care.verification import Sources, Verified, verify
from hubdist.errors import HubdistError, IntegrityError
from hubdist.model.chunks import digests_between
from hubdist.model.manifest import BLOCK_BYTES, Digest, Manifest, digest_block
from hubdist.store.folders import FILES
from hubdist.store.store import Store
from hubdist.system.directories import children, make_private
from hubdist.system.disk import disk_errors, read_range
from hubdist.system.locks import LockResult, try_lock, unlock_and_close

_LOG = logging.getLogger(__name__)

AGAIN_S = 7 * 24 * 3600.0
"""Seconds after which a snapshot that was read is read again."""

_NOTE_BLOCKS = 64
"""After so many blocks a process notes how far it is."""


class Scrub:
    """Reads the snapshots of one store again. Any number of processes may try; one of them reads.

    Args:
        store: The store.
        sources: Where a repair gets blocks; what cannot be repaired is moved to the quarantine.
        again_s: Seconds after which a snapshot that was read is read again.
    """

    def __init__(self, store: Store, sources: Sources, *, again_s: float = AGAIN_S) -> None:
        self._store = store
        self._sources = sources
        self._again_s = again_s
        self._notes = store.root / "scrubbed"

    def run(self, pace: Pace) -> list[Verified]:
        """Read until everything was read within `again_s`, or the pace ends it; returns what was damaged.

        Args:
            pace: Bounds how fast it reads, and ends the work.
        """
        damaged: list[Verified] = []
        if self._store.read_only:
            return damaged
        with contextlib.suppress(StoppedError, OSError), self._turn() as is_ours:
            while is_ours and (digest := self._next()) is not None:
                try:
                    result = None if self._read(digest, pace) else verify(self._store, digest, self._sources)
                except HubdistError as error:  # of this snapshot alone
                    _LOG.warning("hubdist: %s in %s was not read again: %s", digest, self._store.root, error)
                    result = None
                self._note(digest, 0)
                if result is not None and result.damage:
                    damaged.append(result)
        return damaged

    def _next(self) -> Digest | None:
        """A snapshot that was begun, else the one that was read longest ago, if that is long enough."""
        digests = snapshot_digests(self._store.root)
        for note in children(self._notes):
            if note.name not in {digest.value for digest in digests}:
                with contextlib.suppress(OSError):
                    note.unlink()
        seen = {digest: self._seen(digest) for digest in digests}
        begun = [digest for digest, (blocks, _) in seen.items() if blocks]
        if begun:
            return begun[0]
        oldest = min(digests, key=lambda digest: seen[digest][1], default=None)
        return oldest if oldest is not None and time.time() - seen[oldest][1] >= self._again_s else None

    def _read(self, digest: Digest, pace: Pace) -> bool:
        """Read the blocks of a snapshot that are left in this round; False if one differs, or the manifest does."""
        path = self._store.root / "snapshots" / digest.value
        manifest, whole = read_manifest(path, digest)
        if manifest is None or not whole:
            return False
        done = self._seen(digest)[0]
        try:
            for number, (name, start, data, expected) in enumerate(_blocks(manifest)):
                if number < done:
                    continue
                try:
                    with disk_errors(path / FILES / name):
                        read_range(path / FILES / name, start, data)
                except IntegrityError:
                    return False
                if digest_block(data) != expected:
                    return False
                done = number + 1
                if done % _NOTE_BLOCKS == 0:
                    self._note(digest, done)
                pace.took(len(data))
        except StoppedError:
            self._note(digest, done)
            raise
        return True

    def _seen(self, digest: Digest) -> tuple[int, float]:
        """How many blocks were read in this round, and when that was noted; 0 and 0 if never."""
        with contextlib.suppress(OSError, ValueError):
            note = self._notes / digest.value
            return int(note.read_text(encoding="ascii")), note.stat().st_mtime
        return 0, 0.0

    def _note(self, digest: Digest, blocks: int) -> None:
        make_private(self._notes)
        (self._notes / digest.value).write_text(str(blocks), encoding="ascii")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """True if no other process of this node reads now."""
        file = os.open(_lock_file(self._store.root), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield try_lock(file, fcntl.LOCK_EX) is not LockResult.HELD
        finally:
            unlock_and_close(file)


def _blocks(manifest: Manifest) -> Iterator[tuple[str, int, memoryview, bytes]]:
    """Path, offset, a buffer and the digest of each block."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    for entry in manifest.entries:
        for start in range(0, entry.size, BLOCK_BYTES):
            size = min(BLOCK_BYTES, entry.size - start)
            yield entry.path, start, buffer[:size], digests_between(entry.block_digests, start, start + size)


def _lock_file(root: Path) -> Path:
    make_private(root / "locks")
    return root / "locks" / "scrub.lock"
