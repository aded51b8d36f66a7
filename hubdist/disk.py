"""Few words for the disk: errors with a name, durable renames, deletion that cannot be stopped halfway by modes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import IntegrityError, LengthMismatchError, StoreError, StoreFullError, UnsafeStoreError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FAILED = {
    errno.EMFILE: ("too many files are open", "Raise the limit of open files (ulimit -n)."),
    errno.ENFILE: ("the machine has too many open files", "Raise fs.file-max."),
    errno.EIO: ("the disk reports an I/O error", "Check the disk; set another store."),
    errno.EROFS: ("the file system is read-only", "Set store to a directory that can be written."),
    errno.EACCES: ("permission is denied", "Set store to a directory that this user may write."),
    errno.EPERM: ("permission is denied", "Set store to a directory that this user may write."),
    errno.ENAMETOOLONG: ("the path is too long", "Set store to a shorter path."),
}


@contextlib.contextmanager
def disk_errors(path: Path, *, need_bytes: int = 0) -> Iterator[None]:
    """Turn OSError into StoreFullError or StoreError with the path, what happened and what to do."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        if number in _FULL:
            raise StoreFullError(
                f"{_FULL[number]} at {path}: {need_bytes} bytes needed, {free_bytes(path)} free",
                path=str(path),
                need_bytes=need_bytes,
                free_bytes=free_bytes(path),
                advice="Free space, lower max_bytes or set store to another disk.",
            ) from error
        what, advice = _FAILED.get(number, (error.strerror or type(error).__name__, None))
        raise StoreError(f"{what}: {error.filename or path}", path=str(path), advice=advice) from error


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


def check_private(folder: Path) -> None:
    """Check that only this user (or root) owns and may write to a directory.

    Raises:
        StoreError: It is no directory.
        UnsafeStoreError: Somebody else could replace what is in it.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{folder} is no directory", path=str(folder))
    if status.st_uid not in (os.geteuid(), 0):
        raise UnsafeStoreError(
            f"{folder} belongs to user {status.st_uid}, who could replace models in it",
            path=str(folder),
            advice="Use a directory of your own.",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeStoreError(
            f"other users may write to {folder}", path=str(folder), advice=f"Run: chmod go-w {folder}"
        )


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes, unique: str) -> None:
    """Replace a small file so that readers see the old or the new one, never a part.

    Args:
        path: The file.
        data: Its new content.
        unique: A suffix that no other writer uses, for the temporary name.
    """
    temporary = path.with_name(f".{path.name}.{unique}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
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
    """Delete a directory of ours, read-only directories included; what somebody else deletes meanwhile is fine."""
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            Path(folder).chmod(stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)
