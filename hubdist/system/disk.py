"""Files on a local disk, for all packages: typed errors, new files, durable writes, reads of ranges."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from hubdist.errors import HubdistError, IntegrityError, LengthMismatchError, StoreError, StoreFullError
from hubdist.system.portable import sync_file

_LOG = logging.getLogger(__name__)

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for a file that this process makes: an existing file or link at the path is an error, and is never written."""

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
    """Turn an OSError of the block into an error that says what happened, where, and what the user can do.

    Args:
        path: The file or directory that the block works on.
        need_bytes: Bytes that the block is about to write, for the error of a full disk.
        setting: The setting by which the user could choose another place, for advice.

    Raises:
        StoreFullError: The disk is full, or a quota is used up.
        StoreError: The disk refuses otherwise.
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
    """Log an error of the disk instead of raising it, for a block that writes notes which only save later work.

    Args:
        path: What the block writes.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, HubdistError) and not isinstance(error, StoreError):
            raise  # not of this disk
        _LOG.info("hubdist: %s is not written, and the work goes on without it: %s", path, error)


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user can still write at `path`, which need not exist yet; 0 if nobody can tell."""
    for existing in (path, *path.parents):
        with contextlib.suppress(OSError):
            space = os.statvfs(existing)
            return space.f_bavail * space.f_frsize
    return 0


def unique_name() -> str:
    """A file name that no other process, of this or another machine, uses."""
    return secrets.token_hex(16)


def working_directory() -> Path | None:
    """The working directory of this process; None if somebody deleted that directory."""
    try:
        return Path.cwd()
    except OSError:
        return None


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def mode_below(root: Path) -> int:
    """The mode for directories in a store: others may read them exactly if others may read the store's root.

    Raises:
        OSError: The root is missing.
    """
    return stat.S_IRWXU | (root.stat().st_mode & 0o055)


def write_durably(
    path: Path, data: bytes, unique: str, *, mode: int = 0o600, like: os.stat_result | None = None
) -> None:
    """Replace a small file so that readers see the old content or the new one, never a part.

    Args:
        path: The file.
        data: The new content.
        unique: A suffix that no other writer uses, for the temporary name.
        mode: The mode of the new file, unless `like` is given.
        like: The status of a file whose mode, and owner where that is allowed, the new file gets.

    Raises:
        OSError: The disk refuses; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{unique}")
    try:
        descriptor = os.open(temporary, NEW_FILE, mode)
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                with contextlib.suppress(OSError):
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            file.write(data)
            file.flush()
            sync_file(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_range(path: Path, start: int, view: memoryview) -> None:
    """Fill a buffer with bytes of a file.

    Args:
        path: The file.
        start: Offset of the first byte.
        view: The buffer.

    Raises:
        IntegrityError: The file is missing, a link, or too short.
        OSError: The disk refuses.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise IntegrityError(f"{path} is missing") from None
    try:
        read_open_file(descriptor, start, view)
    except LengthMismatchError as error:
        raise LengthMismatchError(f"{path}: {error.what}") from None
    finally:
        os.close(descriptor)


def read_open_file(descriptor: int, start: int, view: memoryview) -> None:
    """Fill a buffer with bytes of an open file.

    Args:
        descriptor: The file.
        start: Offset of the first byte.
        view: The buffer.

    Raises:
        LengthMismatchError: The file is too short.
        OSError: The disk refuses.
    """
    filled = 0
    while filled < len(view):
        count = os.preadv(descriptor, [view[filled:]], start + filled)
        if not count:
            raise LengthMismatchError(f"the file ends at byte {start + filled}")
        filled += count
