"""Whose directories are whose: where a user's store is, and that nobody else may write to it.

What others may write to, others can replace, and models are programs. But volumes are handed out as they are: an
`emptyDir` of Kubernetes belongs to root and is open to all, a volume with an `fsGroup` to a group. So where the
configured directory is open to others, the store is a directory below it that is this user's alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import StoreError, StoreFullError, UnsafeStoreError
from hubdist.system.disk import check_private, disk_errors, is_private

_LOG = logging.getLogger(__name__)
_HELD = "snapshots"
"""What a directory has in it that is a store already."""


def place_for_store() -> str:
    """In words: where this user could have a store, for advice."""
    user = os.geteuid()
    for folder in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - the store in it is private, or is refused
        if _may_write(folder):
            return f"a directory that user {user} may write to, such as {folder}/hubdist-{user}"
    return f"a directory that user {user} may write to, such as the mount of a volume"


def find_root(wanted: Path) -> Path:
    """Where this user's store is, or would be; nothing is made.

    That is the configured directory. If others own it or may write to it, it is `hubdist-<uid>` in it, and so it is
    wherever a directory of that name is there already, unless the configured one is a store itself.

    Args:
        wanted: The directory that is configured.

    Raises:
        UnsafeStoreError: It is open to others, and this user may not make a directory in it; or it is this user's own
            store and was opened to others.
        StoreError: It cannot be looked at, or is no directory.
    """
    with _place_errors(wanted):
        try:
            status = wanted.stat()
        except FileNotFoundError:
            return wanted
        below = wanted / f"hubdist-{os.geteuid()}"
        own = stat.S_ISDIR(status.st_mode) and is_private(status)
        held = os.path.isdir(wanted / _HELD)  # noqa: PTH112 - False also where this user may not look
        if (own and held) or not stat.S_ISDIR(status.st_mode):
            return wanted
        if os.path.lexists(below):
            return below
        if own or (held and status.st_uid == os.geteuid()):
            return wanted
        if _may_write(wanted):
            return below
    what = (
        "other users may write to it" if status.st_uid in (0, os.geteuid()) else f"it belongs to user {status.st_uid}"
    )
    raise UnsafeStoreError(
        f"{wanted} cannot be the store, for {what}, and user {os.geteuid()} may make no directory in it",
        path=str(wanted),
        advice=f"Set store (HUBDIST_STORE) to {place_for_store()}.",
    )


def make_root(wanted: Path) -> Path:
    """The directory of this user's store, made with mode 0700 if it is missing; see `find_root`.

    Args:
        wanted: The directory that is configured.

    Raises:
        UnsafeStoreError: Another user owns what is there, or may write to it.
        StoreError: It cannot be made or looked at.
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
                f"no directory can be private on the file system of {root}: it keeps no modes, or gives other owners",
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
        root: The store's.

    Raises:
        UnsafeStoreError: Somebody else could replace what is in it.
        StoreError: It is no directory.
        OSError: It is missing, or cannot be looked at.
    """
    instead = f"Move it away if you may, or set store (HUBDIST_STORE) to {place_for_store()}."
    check_private(folder, whole=root, instead=instead)


@contextlib.contextmanager
def _place_errors(root: Path) -> Iterator[None]:
    """As `disk_errors`, with a place that would do as the advice."""
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
