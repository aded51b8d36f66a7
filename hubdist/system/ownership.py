"""Whose directories are whose: finds a user's store, and checks that nobody else may write to a directory.

Whoever may write to a file can replace it, and models are programs. But volumes are handed out as they are: an
`emptyDir` of Kubernetes belongs to root and is open to all, a volume with an `fsGroup` to a group. So where the
configured directory is open to others, the store is a directory inside it that is this user's alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import StoreError, StoreFullError, UnsafeStoreError
from hubdist.system.disk import disk_errors

_LOG = logging.getLogger(__name__)
_STORE_SIGN = "snapshots"
"""A directory that has this directory in it is a store already."""


def place_for_store() -> str:
    """Words for advice: a place where this user could have a store."""
    user = os.geteuid()
    for folder in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - the store in it is private, or is refused
        if _may_write(folder):
            return f"a directory that user {user} may write to, such as {folder}/hubdist-{user}"
    return f"a directory that user {user} may write to, such as the mount of a volume"


def find_root(wanted: Path) -> Path:
    """The directory where this user's store is, or would be; nothing is made.

    That is the configured directory. If others own the configured directory or may write to it, the store is
    `hubdist-<uid>` inside it. A directory of that name that exists already is the store as well, unless the configured
    directory is a store itself.

    Args:
        wanted: The configured directory.

    Raises:
        UnsafeStoreError: The configured directory is open to others, and this user may not make a directory in it; or
            it is this user's own store and was opened to others.
        StoreError: This user cannot look at it, or it is not a directory.
    """
    with _place_errors(wanted):
        try:
            status = wanted.stat()
        except FileNotFoundError:
            return wanted
        below = wanted / f"hubdist-{os.geteuid()}"
        own = stat.S_ISDIR(status.st_mode) and is_private(status)
        is_store = os.path.isdir(wanted / _STORE_SIGN)  # noqa: PTH112 - False also where this user may not look
        if (own and is_store) or not stat.S_ISDIR(status.st_mode):
            return wanted
        if os.path.lexists(below):
            return below
        if own or (is_store and status.st_uid == os.geteuid()):
            return wanted
        if _may_write(wanted):
            return below
    why = "other users may write to it" if status.st_uid in (0, os.geteuid()) else f"user {status.st_uid} owns it"
    raise UnsafeStoreError(
        f"{wanted} cannot be the store: {why}, and user {os.geteuid()} may not make a directory in it",
        path=str(wanted),
        advice=f"Set store (HUBDIST_STORE) to {place_for_store()}.",
    )


def make_root(wanted: Path) -> Path:
    """The directory of this user's store as `find_root` finds it, made with mode 0700 if it is missing.

    Args:
        wanted: The configured directory.

    Raises:
        UnsafeStoreError: Another user owns what is there, or may write to it.
        StoreError: The directory cannot be made or looked at.
    """
    root = find_root(wanted)
    made = False
    with _place_errors(root):
        if not os.path.lexists(root):
            with contextlib.suppress(FileExistsError):
                root.mkdir(mode=0o700, parents=root == wanted)
                made = True
        if made and not is_private(root.stat()):
            root.rmdir()
            raise UnsafeStoreError(
                f"the file system of {root} cannot keep a directory private: it ignores modes, or sets other owners",
                path=str(root),
                advice=f"Set store (HUBDIST_STORE) to {place_for_store()}.",
            )
        check_folder(root, root)
    if made and root != wanted:
        _LOG.warning("hubdist: others may write to %s, so models are kept in %s, which is private", wanted, root)
    return root


def check_folder(folder: Path, root: Path) -> None:
    """Check that nobody but this user (or root) has made, owns or may write to a directory of a store.

    Args:
        folder: The directory, or a link to it.
        root: The store's root, which the advice names.

    Raises:
        UnsafeStoreError: Somebody else could replace what is in the directory.
        StoreError: It is not a directory.
        OSError: It is missing, or this user cannot look at it.
    """
    instead = f"Move it away if you may, or set store (HUBDIST_STORE) to {place_for_store()}."
    check_private(folder, whole=root, instead=instead)


def check_private(folder: Path, *, whole: Path | None = None, instead: str = "Use a directory of your own.") -> None:
    """Check that only this user (or root) owns and may write to a directory.

    Args:
        folder: The directory, or a link to it; nobody else may have made the link either.
        whole: The directory that the advice tells its owner to mend, with all that is in it; None for `folder`.
        instead: Advice for users who do not own the directory.

    Raises:
        UnsafeStoreError: Somebody else could replace what is in the directory.
        StoreError: It is not a directory.
        OSError: It is missing, or this user cannot look at it.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is not a directory", path=str(folder), advice=instead)
    for owner in (folder.lstat().st_uid, status.st_uid):
        if owner not in (os.geteuid(), 0):
            raise UnsafeStoreError(
                f"{folder} belongs to user {owner}, who could replace models in it", path=str(folder), advice=instead
            )
    if not is_private(status):
        mend = f"Run: chmod -R go-w {shlex.quote(str(whole or folder))}"
        raise UnsafeStoreError(
            f"other users may write to {folder}",
            path=str(folder),
            advice=mend if status.st_uid == os.geteuid() else instead,
        )


def is_private(status: os.stat_result) -> bool:
    """True if only this user (or root) owns and may write to the file or directory that has this status."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextlib.contextmanager
def _place_errors(root: Path) -> Iterator[None]:
    """Translate errors of the disk, with advice that names a place where a store could be."""
    try:
        with disk_errors(root):
            yield
    except (StoreFullError, UnsafeStoreError):
        raise
    except StoreError as error:
        error.advice = f"Set store (HUBDIST_STORE) to {place_for_store()}."
        raise


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
