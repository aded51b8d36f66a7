"""Claims: the snapshots that a process needs, noted with one open file however many snapshots there are.

    <root>/claims/<unique>/alive       the process holds a lock on this file for as long as it lives
    <root>/claims/<unique>/<digest>    empty: the process needs this snapshot

An open `Snapshot` keeps its directory as well, but costs an open file; a job may have thousands of models.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from hubdist.model.manifest import Digest
from hubdist.store.snapshot import Snapshot
from hubdist.system.directories import children, make_private, remove_tree
from hubdist.system.disk import unique_name
from hubdist.system.locks import LockResult, try_lock

_ALIVE = "alive"
_OLD_S = 24 * 3600.0
"""Age in seconds of claims that a sweep removes although nobody can tell whether their process lives."""


class Claims:
    """The claims of one process on one store. Safe for several threads; a forked child shares the claims.

    Args:
        root: The store's root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._kept: set[Digest] = set()
        self._folder: Path | None = None
        self._alive: int | None = None

    def keep(self, digest: Digest) -> bool:
        """Claim a snapshot that the caller has open. The store keeps it until `drop` or the end of this process.

        Returns:
            False if the store cannot be written; then only the caller's open snapshot keeps the files.
        """
        with self._guard, contextlib.suppress(OSError):
            self._kept.add(digest)
            if self._folder is None or not _note(self._folder, digest):
                self._begin()
            return True
        return False

    def drop(self, digest: Digest) -> None:
        """Give up the claim on a snapshot."""
        with self._guard, contextlib.suppress(OSError):
            self._kept.discard(digest)
            if self._folder is not None:
                (self._folder / digest.value).unlink()

    def close(self) -> None:
        """Give up all claims."""
        with self._guard:
            self._kept.clear()
            if self._folder is not None and self._alive is not None:
                with contextlib.suppress(OSError):
                    remove_tree(self._folder)
                os.close(self._alive)
                self._folder = self._alive = None

    def _begin(self) -> None:
        """Make the folder of this process, with all its claims.

        The folder gets its name only when it is locked, so that no sweep takes it for the folder of a dead process.
        """
        name = unique_name()
        new = _claims(self._root) / f".{name}"
        make_private(new.parent)
        new.mkdir(mode=0o700)
        alive = os.open(new / _ALIVE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # without a lock, the age of the folder counts
                try_lock(alive, fcntl.LOCK_EX)
            for digest in self._kept:
                _note(new, digest)
            folder = new.with_name(name)
            new.rename(folder)
        except BaseException:
            os.close(alive)
            raise
        if self._alive is not None:
            os.close(self._alive)
        self._folder, self._alive = folder, alive


class HandedOutSnapshots:
    """Snapshots whose directories users got as paths. They stay until the process ends, also after a new `init`."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._claims: dict[Path, Claims] = {}
        self._open: dict[Path, Snapshot] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot. This costs an open file only where the store cannot be written."""
        with self._guard:
            claims = self._claims.setdefault(snapshot.root, Claims(snapshot.root))
        if claims.keep(snapshot.manifest.digest):
            snapshot.release()
        else:
            self._open[snapshot.path] = snapshot

    def clear(self) -> None:
        """Let stores evict all of them."""
        for claims in self._claims.values():
            claims.close()
        self._open.clear()


def is_claimed(root: Path, digest: Digest) -> bool:
    """True if a living process claims a snapshot.

    Args:
        root: The store's root.
        digest: The snapshot. The caller has its exclusive lock, so nobody can open it and claim it meanwhile.
    """
    return any((folder / digest.value).exists() and _lives(folder) for folder in children(_claims(root)))


def sweep_claims(root: Path) -> None:
    """Remove the claims of processes that have ended.

    Args:
        root: The store's root.
    """
    for folder in children(_claims(root)):
        if not _lives(folder):
            with contextlib.suppress(OSError):
                remove_tree(folder)


def _claims(root: Path) -> Path:
    return root / "claims"


def _note(folder: Path, digest: Digest) -> bool:
    """Note a claim; False if a sweep has removed the folder."""
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(folder / digest.value, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return True
    return False


def _lives(folder: Path) -> bool:
    """True if the process whose claims these are lives: the kernel frees a process's lock when the process ends."""
    if folder.name.startswith("."):  # being made: a try for its lock now could keep its owner from getting the lock
        return _is_young(folder)
    try:
        alive = os.open(folder / _ALIVE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _is_young(folder)  # being removed
    except OSError:
        return True  # another user's
    try:
        result = try_lock(alive, fcntl.LOCK_SH)
    except OSError as error:
        return error.errno == errno.EACCES or _is_young(folder)
    finally:
        os.close(alive)
    if result is LockResult.UNSUPPORTED:
        return _is_young(folder)
    return result is LockResult.HELD


def _is_young(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime < _OLD_S
    return False
