"""A directory on a mount that several machines have, or on the local disk.

Files appear whole: they are written under a temporary name below `staging/` of the directory, and then renamed, or
linked where nothing may be there yet. Links fail on some mounts (FUSE); a file made with O_EXCL stands in there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hubdist.errors import (
    AccessDeniedError,
    HubdistError,
    IntegrityError,
    LengthMismatchError,
    ModelNotFoundError,
    OriginError,
)
from hubdist.remote.temporary_files import sweep_files, temporary_file
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, Tree
from hubdist.system.disk import NEW_FILE, sync_directory
from hubdist.system.foreign import words_of

STAGING = "staging"
"""Name of the folder with files that are being written; no part of any listing of the whole directory."""

_MAX_DEPTH = 32
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_COPY_BYTES = 1 << 20


class MountedTree(Tree):
    """A directory of a file system. Symbolic links in it are followed by readers, and out of it never by writers.

    A version is the time of the last change in nanoseconds: inode numbers differ from machine to machine on FUSE.

    Args:
        root: An absolute path; made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.redacted = str(root)
        self.exclusive = True
        self._root = root
        self._swept = False

    def close(self) -> None:
        """Nothing is kept open."""

    def listing(self, folder: str = "") -> dict[str, StoredFile]:
        """As `Tree.listing`."""
        with _errors(self._root / folder, "read"):
            found = dict(_walk(self._root / folder, "", 0))
        return {path: file for path, file in found.items() if folder or not path.startswith(f"{STAGING}/")}

    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """As `Tree.read_into`; the version is checked when the bytes have been read."""
        target = self._root / path
        with _errors(target, "read"), target.open("rb", buffering=0) as file:
            filled = 0
            while filled < len(view):
                count = os.preadv(file.fileno(), [view[filled:]], start + filled)
                if not count:
                    raise LengthMismatchError(f"{target} ends at byte {start + filled}")
                filled += count
            found = _stored(os.fstat(file.fileno())).version
        if version and found != version:
            raise IntegrityError(f"{target} was replaced or written to: it changed at {found}, not at {version} ns")

    def load(self, path: str) -> bytes | None:
        """As `Tree.load`."""
        target = self._root / path
        try:
            with _errors(target, "read"), target.open("rb") as file:
                data = file.read(MAX_OBJECT_BYTES + 1)
        except ModelNotFoundError:
            return None
        if len(data) > MAX_OBJECT_BYTES:
            raise LengthMismatchError(f"{target} has more than {MAX_OBJECT_BYTES} bytes")
        return data

    def create(self, path: str, data: bytes) -> bool:
        """As `Tree.create`."""
        return self._put(path, lambda handle: _write_all(handle, data), create=True)

    def write(self, path: str, data: bytes) -> None:
        """As `Tree.write`."""
        self._put(path, lambda handle: _write_all(handle, data), create=False)

    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """As `Tree.upload`."""

        def copy(handle: int) -> None:
            with file.open("rb", buffering=0) as source, os.fdopen(handle, "wb", buffering=0, closefd=False) as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)

        return self._put(path, copy, create=create)

    def delete(self, path: str) -> None:
        """As `Tree.delete`."""
        target = self._root / path
        with contextlib.suppress(ModelNotFoundError), _errors(target, "deleted"):
            self._check_inside(target)
            target.unlink()

    def _put(self, path: str, fill: Callable[[int], None], *, create: bool) -> bool:
        target, staging = self._root / path, self._root / STAGING
        with _errors(target, "written"):
            if create and target.exists():
                return False
            self._sweep()
            for folder in (staging, target.parent):
                folder.mkdir(parents=True, exist_ok=True)
            self._check_inside(target)
            with temporary_file(staging) as temporary:
                with _open_file(temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC) as handle:
                    fill(handle)
                    os.fsync(handle)
                if create:
                    return _link(temporary, target, fill)
                temporary.rename(target)
                sync_directory(target.parent)
                return True

    def _check_inside(self, target: Path) -> None:
        """Links are followed for reading only: what others may have planted must not lead a writer elsewhere."""
        if not target.parent.resolve().is_relative_to(self._root.resolve()):
            raise AccessDeniedError(f"{target} leads out of {self._root} by a link", advice="Remove the link.")

    def _sweep(self) -> None:
        """Remove what dead writers left."""
        if not self._swept:
            self._swept = True
            sweep_files(self._root / STAGING)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, StoredFile]]:
    if depth > _MAX_DEPTH:  # links may form a circle
        raise OriginError(f"{folder} is more than {_MAX_DEPTH} directories deep")
    try:
        items = sorted(os.scandir(folder), key=lambda item: item.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for item in items:
        path = f"{prefix}{item.name}"
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a link to nothing
            if item.is_dir():
                yield from _walk(Path(item.path), f"{path}/", depth + 1)
            elif item.is_file():
                yield path, _stored(item.stat())


def _stored(status: os.stat_result) -> StoredFile:
    return StoredFile(status.st_size, str(status.st_mtime_ns), changed=str(status.st_ctime_ns))


def _link(temporary: Path, target: Path, fill: Callable[[int], None]) -> bool:
    """Give a written file its name unless something has it; True if it did."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with _open_file(target, NEW_FILE) as handle:
                fill(handle)
                os.fsync(handle)
        except FileExistsError:
            return False
    sync_directory(target.parent)
    return True


@contextlib.contextmanager
def _open_file(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view) > 0:
        view = view[os.write(handle, view) :]


@contextlib.contextmanager
def _errors(path: Path, verb: str) -> Iterator[None]:
    """Turn OSError into the errors that `Tree` promises."""
    try:
        yield
    except HubdistError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(
            f"there is nothing at {path}", advice="A mounted directory must be mounted at the same path on every node."
        ) from None
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise AccessDeniedError(
                f"{path} may not be {verb} ({words_of(error)})", advice="Give this user rights to the directory."
            ) from None
        raise OriginError(f"{path} cannot be {verb}: {words_of(error)}") from None
