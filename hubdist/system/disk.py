"""Few words for the disk: errors with a name, durable renames, deletion that cannot be stopped halfway by modes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubdist.errors import (
    HubdistError,
    IntegrityError,
    LengthMismatchError,
    StoreError,
    StoreFullError,
    UnsafeStoreError,
)

_LOG = logging.getLogger(__name__)
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FAILED = {
    errno.EMFILE: ("too many files are open", "Raise the limit of open files (ulimit -n)."),
    errno.ENFILE: ("the machine has too many open files", "Raise fs.file-max."),
    errno.EIO: ("the disk reports an I/O error", "Check the disk, or set {setting} to another one."),
    errno.EROFS: ("the file system is read-only", "Set {setting} to a place that can be written."),
    errno.EACCES: ("permission is denied", "Set {setting} to a place that this user may write to."),
    errno.EPERM: ("permission is denied", "Set {setting} to a place that this user may write to."),
    errno.ENAMETOOLONG: ("the path is too long", "Set {setting} to a shorter path."),
}


@contextlib.contextmanager
def disk_errors(path: Path, *, need_bytes: int = 0, setting: str = "store (HUBDIST_STORE)") -> Iterator[None]:
    """Turn OSError into StoreFullError or StoreError with the path, what happened and what to do.

    Args:
        path: What the block works on.
        need_bytes: Bytes that it needs.
        setting: What names another place, for advice.
    """
    try:
        yield
    except HubdistError:
        raise  # some are OSErrors too, and say already what happened
    except OSError as error:
        number = error.errno or 0
        if number in _FULL:
            raise StoreFullError(
                f"{_FULL[number]} at {path}: {need_bytes} bytes needed, {free_bytes(path)} free",
                path=str(path),
                number=number,
                need_bytes=need_bytes,
                free_bytes=free_bytes(path),
                advice=f"Free space, lower max_store_bytes or set {setting} to another disk.",
            ) from error
        what, advice = _FAILED.get(number, (error.strerror or type(error).__name__, None))
        advice = None if advice is None else advice.format(setting=setting)
        named = (
            error.filename if Path(str(error.filename)).is_absolute() else path
        )  # else it is a descriptor, or below one
        raise StoreError(f"{what}: {named}", path=str(path), number=error.errno, advice=advice) from error


@contextlib.contextmanager
def optional_note(path: Path) -> Iterator[None]:
    """Let a block write what only saves work another time: that the disk refuses it is logged, and no error.

    Args:
        path: What the block writes.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, HubdistError) and not isinstance(error, StoreError):
            raise  # not of this disk
        _LOG.info("hubdist: %s is not written, and the work goes on: %s", path, error)


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user can still write at `path`, which need not exist yet; 0 if that cannot be told."""
    for existing in (path, *path.parents):
        with contextlib.suppress(OSError):
            room = os.statvfs(existing)
            return room.f_bavail * room.f_frsize
    return 0


def working_directory() -> Path | None:
    """The directory that this process is in; None if it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def check_private(folder: Path, *, whole: Path | None = None, instead: str = "Use a directory of your own.") -> None:
    """Check that only this user (or root) owns and may write to a directory.

    Args:
        folder: The directory, or a link to it, which nobody else may have made either.
        whole: What its owner shall mend, with all that is in it; None for `folder`.
        instead: Advice for those who do not own it.

    Raises:
        StoreError: It is no directory.
        UnsafeStoreError: Somebody else could replace what is in it.
        OSError: It is missing, or cannot be looked at.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is no directory", path=str(folder), advice=instead)
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
    """True if only this user (or root) owns and may write to what has this status."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def mode_below(root: Path) -> int:
    """The mode for directories in a store: for this user alone, but for others to read if its root is."""
    return stat.S_IRWXU | (root.stat().st_mode & 0o055)


def write_durably(
    path: Path, data: bytes, unique: str, *, mode: int = 0o600, like: os.stat_result | None = None
) -> None:
    """Replace a small file so that readers see the old or the new one, never a part.

    Args:
        path: The file.
        data: Its new content.
        unique: A suffix that no other writer uses, for the temporary name.
        mode: Of the new file.
        like: A file whose mode, and owner where that is allowed, the new one gets instead.
    """
    temporary = path.with_name(f".{path.name}.{unique}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as file:
            if like is not None:
                with contextlib.suppress(OSError):
                    os.fchown(handle, like.st_uid, like.st_gid)
                os.fchmod(handle, stat.S_IMODE(like.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_range(path: Path, start: int, view: memoryview) -> None:
    """Fill a buffer with a file's bytes from `start` on.

    Raises:
        IntegrityError: The file is missing, a link, or too short.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise IntegrityError(f"{path} is missing") from None
    with os.fdopen(handle, "rb", buffering=0) as file:
        file.seek(start)
        filled = 0
        while filled < len(view):
            count = file.readinto(view[filled:])
            if not count:
                raise LengthMismatchError(f"{path} ends at byte {start + filled}")
            filled += count


def remove_tree(path: Path) -> None:
    """Delete a directory or file of ours, read-only ones included; what somebody else deletes meanwhile is fine."""
    with contextlib.suppress(OSError):  # it is a directory
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            Path(folder).chmod(stat.S_IRWXU)
    with contextlib.suppress(OSError):  # there are errors that rmtree does not ignore
        shutil.rmtree(path, ignore_errors=True)


def children(folder: Path) -> list[Path]:
    """What is in a directory; nothing if it cannot be listed."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def make_private(folder: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone.

    Raises:
        OSError: The disk refuses.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def empty_directory(handle: int, into: Path | None, last: Sequence[str]) -> int:
    """Move or delete all that is in a directory of ours, whatever its name is by now; several may do so at once.

    Nothing here goes by the directory's path, which may be another directory's by now.

    Args:
        handle: Descriptor of the directory.
        into: Where to move it; None to delete it. What cannot be moved, as from a layer of a container's image, is
            deleted.
        last: Names of the entries that go last, in this order, and stay if any other one cannot be deleted.

    Returns:
        How many entries this call has moved or deleted.

    Raises:
        OSError: The disk refuses.
    """
    taken = 0
    for name in sorted(set(os.listdir(handle)) - set(last)):
        taken += _take_away(handle, name, into)
    if not set(os.listdir(handle)) - set(last):
        for name in last:
            taken += _take_away(handle, name, into)
    return taken


def _take_away(handle: int, name: str, into: Path | None) -> int:
    """Move or delete one entry of a directory; 1, or 0 if it was not there."""
    with contextlib.suppress(OSError):  # it is no directory
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        try:
            os.fchmod(folder, stat.S_IRWXU)  # else it cannot be moved
        finally:
            os.close(folder)
    if into is not None:
        with contextlib.suppress(OSError):
            os.rename(name, into / name, src_dir_fd=handle)
            return 1
    try:
        os.unlink(name, dir_fd=handle)
    except FileNotFoundError:
        return 0
    except (IsADirectoryError, PermissionError):  # Linux and POSIX
        for *_, below in os.fwalk(name, dir_fd=handle):
            os.fchmod(below, stat.S_IRWXU)  # else nothing in it can be deleted
        shutil.rmtree(name, ignore_errors=True, dir_fd=handle)
    return 1
