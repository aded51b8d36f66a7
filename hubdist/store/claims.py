"""A process's claims on snapshots of a store, with one open file however many they are.

    <root>/claims/<unique>/alive       locked by the process for as long as it lives
    <root>/claims/<unique>/<digest>    empty: the process needs this snapshot

An open `Snapshot` is a claim too, but costs an open file each; a job has thousands of models.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from pathlib import Path

from hubdist.model.manifest import Digest
from hubdist.store.snapshot import Snapshot
from hubdist.system.disk import make_private, remove_tree

_ALIVE = "alive"
_OLD_S = 24 * 3600.0
"""Age of what nobody can be asked about: where there are no locks, or what a process was killed over."""


class Claims:
    """The claims of one process on one store. Safe for several threads; a forked child has a share in them.

    Args:
        root: Root of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._kept: set[Digest] = set()
        self._folder: Path | None = None
        self._alive: int | None = None

    def keep(self, digest: Digest) -> bool:
        """Claim a snapshot that the caller has open; it is not evicted until `drop`, or until this process ends.

        Returns:
            False if the store cannot be written; then the caller's open snapshot is the only claim.
        """
        with self._guard, contextlib.suppress(OSError):
            self._kept.add(digest)
            if self._folder is None or not self._note(self._folder, digest):
                self._begin()
            return True
        return False

    def drop(self, digest: Digest) -> None:
        """Give a claim up."""
        with self._guard, contextlib.suppress(OSError):
            self._kept.discard(digest)
            if self._folder is not None:
                (self._folder / digest.value).unlink()

    def close(self) -> None:
        """Give all claims up."""
        with self._guard:
            self._kept.clear()
            if self._folder is not None and self._alive is not None:
                with contextlib.suppress(OSError):
                    remove_tree(self._folder)
                os.close(self._alive)
                self._folder = self._alive = None

    def _note(self, folder: Path, digest: Digest) -> bool:
        """False if a cleaner has removed the folder since."""
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(folder / digest.value, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            return True
        return False

    def _begin(self) -> None:
        """Make the folder under another name, so that nobody sees it before it is locked."""
        name = secrets.token_hex(16)
        new = _folder(self._root) / f".{name}"
        make_private(new.parent)
        new.mkdir(mode=0o700)
        alive = os.open(new / _ALIVE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # there are no locks here; age counts then
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for digest in self._kept:
                self._note(new, digest)
            folder = new.with_name(name)
            new.rename(folder)
        except BaseException:
            os.close(alive)
            raise
        if self._alive is not None:
            os.close(self._alive)
        self._folder, self._alive = folder, alive


class Given:
    """Snapshots whose directories callers got. They stay until the process ends, whatever is set up anew meanwhile."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._claims: dict[Path, Claims] = {}
        self._open: dict[Path, Snapshot] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; it costs an open file only where its store cannot be written."""
        with self._guard:
            claims = self._claims.setdefault(snapshot.root, Claims(snapshot.root))
        if claims.keep(snapshot.manifest.digest):
            snapshot.release()
        else:
            self._open[snapshot.path] = snapshot

    def clear(self) -> None:
        """Let all of them go."""
        for claims in self._claims.values():
            claims.close()
        self._open.clear()


def is_claimed(root: Path, digest: Digest) -> bool:
    """True if a living process claims a snapshot.

    Args:
        root: Root of the store.
        digest: The snapshot; the caller has its exclusive lock, so nobody can open it and claim it meanwhile.
    """
    return any((folder / digest.value).exists() and _lives(folder) for folder in _folders(root))


def sweep_claims(root: Path) -> None:
    """Remove the claims of processes that have ended."""
    for folder in _folders(root):
        if not _lives(folder):
            with contextlib.suppress(OSError):
                remove_tree(folder)


def _folder(root: Path) -> Path:
    return root / "claims"


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(_folder(root).iterdir())
    return []


def _lives(folder: Path) -> bool:
    """The kernel lets go of a process's lock when it ends, however it does."""
    if folder.name.startswith("."):  # it is being made: whoever tried its lock now could keep its owner from it
        return _is_young(folder)
    try:
        alive = os.open(folder / _ALIVE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _is_young(folder)  # it is being made, or being removed
    except OSError:
        return True  # another user's
    try:
        fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES) or _is_young(folder)
    else:
        return False
    finally:
        os.close(alive)


def _is_young(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime < _OLD_S
    return False
