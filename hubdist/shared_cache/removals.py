"""Removals from a shared cache: in two steps, so that no cluster removes what another one is about to read.

    <url>/removals/<digest>/<token>            a mark: the snapshot is to go, and since when
    <url>/removals/<digest>/<token>.decided    what was decided of that mark, `remove` or `keep`; written once
    <url>/uses/<digest>.json                   when somebody used the snapshot last; only its age is of interest
    <url>/kept/<digest>.json                   a person wants the snapshot to stay

Whoever is about to read a snapshot looks for marks first (`admit`), and decides each one for `keep`. A collector marks
a snapshot, and lets a grace time pass that is longer than any read may take: readers that began before the mark have
ended by then. After it the collector decides for `remove`. The decision is one create-only write, so of a reader and a
collector that decide at the same time exactly one wins, and the other sees it. A reader that loses does not find the
snapshot. After the decision the record goes first, then the files, then mark and decision. Whoever finds a decision for
`remove` that is older than the grace time may finish the work: the collector is dead.

Clocks of several machines are compared to tell how old a use, a mark and a decision is; the grace time is hours, so
minutes do not matter. Where clocks are wrong by more, a read may fail, and the node takes its next route: what is read
is checked against the manifest in any case.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable

from hubdist.errors import HandleError, OriginError
from hubdist.model.manifest import Digest
from hubdist.remote import Tree

_LOG = logging.getLogger(__name__)

GRACE_S = 2 * 3600.0
"""Seconds between a mark and the removal; longer where one read may take longer (`grace_for`)."""

USE_S = 3600.0
"""A use is noted again after so many seconds; ages are exact to that."""

_DECIDED = ".decided"
_KEEP, _REMOVE = "keep", "remove"


def grace_for(read_s: float) -> float:
    """A grace time in seconds.

    Args:
        read_s: Longest time of one read of a whole snapshot, in seconds.
    """
    return max(GRACE_S, 2 * read_s)


class Removals:
    """Marks, decisions and uses in one cache. Safe for several threads and processes.

    Args:
        tree: The cache's directory, open.
        grace_s: Seconds between a mark and the removal. All clusters that share the cache should use the same.
        clock: Tells the time in seconds since 1970.
    """

    def __init__(self, tree: Tree, grace_s: float, clock: Callable[[], float] = time.time) -> None:
        self._tree = tree
        self._grace_s = grace_s
        self._clock = clock

    def admit(self, digest: Digest, *, read_only: bool = False) -> bool:
        """Announce a read of a snapshot; False if the snapshot is being removed, and must not be read.

        The read may last as long as the grace time.

        Args:
            digest: The snapshot.
            read_only: Write nothing: then a snapshot that is marked cannot be kept, and must not be read.

        Raises:
            ResolveError, TransferError: The cache cannot be read or written.
        """
        for token in self.marks(digest):
            decided = self._decision(digest, token) if read_only else self._decide(digest, token, _KEEP)
            if decided != _KEEP:
                return False
        if not read_only:
            self.note_use(digest)
        return True

    def is_removed(self, digest: Digest) -> bool:
        """True if the removal of a snapshot has been decided, and has not ended yet. One of a dead collector is ended.

        Raises:
            ResolveError, TransferError: The cache cannot be read or written.
        """
        for token in self.marks(digest):
            decided_at = self._decided_at(digest, token)
            if decided_at is not None and self._decision(digest, token) == _REMOVE:
                if self._clock() - decided_at < self._grace_s:
                    return True
                self.finish(digest, token)
        return False

    def mark(self, digest: Digest) -> None:
        """Mark a snapshot that is to go.

        Raises:
            OriginError: This storage has no create-only writes, so nobody can decide.
            ResolveError, TransferError: The cache cannot be written.
        """
        if not self._tree.exclusive:
            raise OriginError(
                f"{self._tree.redacted} is on storage without create-only writes, where nothing can be removed safely",
                advice="Let a rule of the storage delete old objects, while no job uses the cache.",
            )
        self._tree.create(self._path(digest, secrets.token_hex(8)), json.dumps({"at": self._clock()}).encode())

    def marks(self, digest: Digest) -> list[str]:
        """The tokens of all marks of a snapshot."""
        names = self._tree.listing(f"removals/{digest.value}")
        return sorted(name for name in names if not name.endswith(_DECIDED))

    def used_since(self, digest: Digest, token: str) -> bool:
        """True if somebody has noted a use of a snapshot after it was marked.

        Args:
            digest: The snapshot.
            token: The mark.
        """
        used_at, marked_at = self.used_at(digest), _time_in(self._tree.load(self._path(digest, token)))
        return used_at is not None and marked_at is not None and used_at > marked_at

    def settle(self, digest: Digest, token: str, *, stays: bool, dry_run: bool = False) -> tuple[bool, float]:
        """Go on with a mark as far as it may go: end it if somebody wants the snapshot, remove the snapshot if not.

        Args:
            digest: The snapshot.
            token: The mark.
            stays: The snapshot is to stay after all.
            dry_run: Only tell.

        Returns:
            Whether the snapshot is gone, or would be; and how many seconds of the grace time are left.

        Raises:
            ResolveError, TransferError: The cache cannot be read or written.
        """
        decided = self._decision(digest, token)
        marked_at = _time_in(self._tree.load(self._path(digest, token)))
        left_s = 0.0 if marked_at is None else marked_at + self._grace_s - self._clock()
        if decided is None and not stays and left_s > 0:
            return False, left_s
        if dry_run:
            return not stays and decided != _KEEP, 0.0
        if decided is None:
            decided = self._decide(digest, token, _KEEP if stays else _REMOVE)
        if decided == _REMOVE:
            self.finish(digest, token)
            return True, 0.0
        self._forget(digest, token)
        return False, 0.0

    def finish(self, digest: Digest, token: str) -> None:
        """Remove a snapshot whose removal was decided: record, files, use, and then the mark.

        Args:
            digest: The snapshot.
            token: The mark.

        Raises:
            ResolveError, TransferError: The cache cannot be written.
        """
        folder = f"snapshots/{digest.value}"
        found = self._tree.listing(folder)
        self._tree.delete(f"{folder}.json")
        for path, file in sorted(found.items()):
            self._tree.delete(f"{folder}/{path}", file.version)
        self._tree.delete(_use_path(digest))
        self._forget(digest, token)

    def note_use(self, digest: Digest) -> None:
        """Note that somebody uses a snapshot now; at most one write in `USE_S`."""
        used_at = self.used_at(digest)
        if used_at is None or self._clock() - used_at >= USE_S:
            self._tree.write(_use_path(digest), json.dumps({"at": self._clock()}).encode())

    def used_at(self, digest: Digest) -> float | None:
        """When somebody used a snapshot last, in seconds since 1970; None if nobody has noted it."""
        return _time_in(self._tree.load(_use_path(digest)))

    def _decide(self, digest: Digest, token: str, what: str) -> str:
        """Decide a mark, unless it is decided; what is true now. A mark that is gone was one for `remove`."""
        text = json.dumps({"decided": what, "at": self._clock()}).encode()
        if self._tree.create(self._path(digest, token) + _DECIDED, text):
            return what
        return self._decision(digest, token) or _REMOVE

    def _decision(self, digest: Digest, token: str) -> str | None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            data = self._tree.load(self._path(digest, token) + _DECIDED)
            return None if data is None else str(json.loads(data)["decided"])
        return _REMOVE  # damaged: nobody may rely on the snapshot

    def _decided_at(self, digest: Digest, token: str) -> float | None:
        return _time_in(self._tree.load(self._path(digest, token) + _DECIDED))

    def _forget(self, digest: Digest, token: str) -> None:
        """Delete a mark, and then its decision: a mark without a decision could be decided anew."""
        self._tree.delete(self._path(digest, token))
        self._tree.delete(self._path(digest, token) + _DECIDED)

    def _path(self, digest: Digest, token: str) -> str:
        return f"removals/{digest.value}/{token}"


def keep(tree: Tree, digest: Digest) -> None:
    """Let no collector mark a snapshot.

    Args:
        tree: The cache's directory.
        digest: The snapshot.
    """
    tree.create(_kept_path(digest), b"{}")


def release(tree: Tree, digest: Digest) -> bool:
    """Let collectors mark a snapshot again; False if it was not kept.

    Args:
        tree: The cache's directory.
        digest: The snapshot.
    """
    was_kept = tree.load(_kept_path(digest)) is not None
    tree.delete(_kept_path(digest))
    return was_kept


def digests_in(tree: Tree, folder: str) -> frozenset[Digest]:
    """The digests that name the files, or the folders, in a folder of a cache.

    Args:
        tree: The cache's directory.
        folder: `kept`, `removals`, `uses` or `snapshots`.
    """
    found = set()
    for path in tree.listing(folder):
        with contextlib.suppress(HandleError):
            found.add(Digest.parse(f"sha256:{path.partition('/')[0].removesuffix('.json')}"))
    return frozenset(found)


def _use_path(digest: Digest) -> str:
    return f"uses/{digest.value}.json"


def _kept_path(digest: Digest) -> str:
    return f"kept/{digest.value}.json"


def _time_in(data: bytes | None) -> float | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return None if data is None else float(json.loads(data)["at"])
    return None
