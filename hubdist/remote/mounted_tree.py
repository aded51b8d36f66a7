"""A directory on a mount that several machines have, or on the local disk.

Files appear whole. A file is written under a temporary name below `staging/` of the directory, and then renamed, or
linked if nothing may be there yet. Hard links fail on some mounts (FUSE); there the file is created with O_EXCL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from hubdist.errors import AccessDeniedError, IntegrityError, LengthMismatchError, ModelNotFoundError
from hubdist.remote.file_system import os_errors, walk_files
from hubdist.remote.temporary_files import sweep_files, temporary_file
from hubdist.remote.tree import MAX_OBJECT_BYTES, StoredFile, Tree
from hubdist.system.disk import NEW_FILE, sync_directory
from hubdist.system.portable import sync_file

STAGING = "staging"
"""Name of the folder with files that are being written; a listing of the whole directory leaves it out."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_COPY_BYTES = 1 << 20


class MountedTree(Tree):
    """A directory of a file system. Readers follow symbolic links; writers never follow a link out of the directory.

    A version is the time of the last change in nanoseconds, because inode numbers on FUSE differ between machines.

    Args:
        root: An absolute path; the first write creates the directory.
        on_driver: The user's own directory on the driver's disk: `listing` refuses everything that cannot be a file
            of a model, and errors speak of the driver's node.
    """

    def __init__(self, root: Path, *, on_driver: bool = False) -> None:
        self.redacted = str(root)
        self.exclusive = True
        self._root = root
        self._on_driver = on_driver
        self._swept = False

    def close(self) -> None:
        """Nothing is kept open."""

    def listing(self, folder: str = "") -> dict[str, StoredFile]:
        """All files below `folder`."""
        target = self._root / folder
        with self._errors(target, "read"):
            found = {path: _stored(status) for path, status in walk_files(target, strict=self._on_driver)}
        if folder or self._on_driver:
            return found
        return {path: file for path, file in found.items() if not path.startswith(f"{STAGING}/")}

    def read_into(self, path: str, start: int, view: memoryview, version: str = "") -> None:
        """Fill `view` with bytes of a file.

        Args:
            path: The file.
            start: Offset of the first byte.
            view: Where the bytes go.
            version: Checked when the bytes have been read; "" accepts any.
        """
        target = self._root / path
        with self._errors(target, "read"), target.open("rb", buffering=0) as file:
            filled = 0
            while filled < len(view):
                count = os.preadv(file.fileno(), [view[filled:]], start + filled)
                if not count:
                    raise LengthMismatchError(f"{target} ends at byte {start + filled}")
                filled += count
            found = _stored(os.fstat(file.fileno())).version
        if version and found != version:
            raise IntegrityError(f"{target} was replaced or written to: it changed at {found}, not at {version} ns")

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Read a range of a file into memory; without the copy that `read` makes of it.

        Args:
            path: The file.
            start: Offset of the first byte.
            end: Offset behind the last byte.

        Raises:
            LengthMismatchError: The file ends before `end`.
        """
        target = self._root / path
        with self._errors(target, "read"), target.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise LengthMismatchError(f"{target} ends at byte {start + len(data)}")
        return data

    def load(self, path: str) -> bytes | None:
        """A small file as a whole, or None."""
        target = self._root / path
        try:
            with self._errors(target, "read"), target.open("rb") as file:
                data = file.read(MAX_OBJECT_BYTES + 1)
        except ModelNotFoundError:
            return None
        if len(data) > MAX_OBJECT_BYTES:
            raise LengthMismatchError(f"{target} has more than {MAX_OBJECT_BYTES} bytes")
        return data

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file that must not exist yet.

        Args:
            path: Where to write.
            data: The content.
        """
        return self._put(path, lambda handle: _write_all(handle, data), create=True)

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file.

        Args:
            path: Where to write.
            data: The content.
        """
        self._put(path, lambda handle: _write_all(handle, data), create=False)

    def upload(self, path: str, file: Path, *, create: bool = True) -> bool:
        """Write a local file of any size.

        Args:
            path: Where to write.
            file: The local file.
            create: Write only if nothing is there yet.
        """

        def copy(handle: int) -> None:
            with file.open("rb", buffering=0) as source, os.fdopen(handle, "wb", buffering=0, closefd=False) as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)

        return self._put(path, copy, create=create)

    def delete(self, path: str, version: str = "") -> None:
        """Delete a file.

        Args:
            path: The file.
            version: Delete this version only; "" deletes any.
        """
        target = self._root / path
        with contextlib.suppress(ModelNotFoundError), self._errors(target, "deleted"):
            self._check_inside(target)
            if not version or _stored(target.lstat()).version == version:
                target.unlink()

    def _errors(self, path: Path, verb: str) -> contextlib.AbstractContextManager[None]:
        return os_errors(path, verb, on_driver=self._on_driver)

    def _put(self, path: str, fill: Callable[[int], None], *, create: bool) -> bool:
        target, staging = self._root / path, self._root / STAGING
        with self._errors(target, "written"):
            if create and target.exists():
                return False
            self._sweep()
            for folder in (staging, target.parent):
                folder.mkdir(parents=True, exist_ok=True)
            self._check_inside(target)
            with temporary_file(staging) as temporary:
                with _open_file(temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC) as handle:
                    fill(handle)
                    sync_file(handle)
                if create:
                    return _link(temporary, target, fill)
                temporary.rename(target)
                sync_directory(target.parent)
                return True

    def _check_inside(self, target: Path) -> None:
        """Refuse a target behind a link out of the directory: a planted link must not lead a writer elsewhere."""
        if not target.parent.resolve().is_relative_to(self._root.resolve()):
            raise AccessDeniedError(f"{target} leads out of {self._root} by a link", advice="Remove the link.")

    def _sweep(self) -> None:
        """Remove files that dead writers left, once."""
        if not self._swept:
            self._swept = True
            sweep_files(self._root / STAGING)


def _stored(status: os.stat_result) -> StoredFile:
    return StoredFile(status.st_size, str(status.st_mtime_ns), changed=str(status.st_ctime_ns))


def _link(temporary: Path, target: Path, fill: Callable[[int], None]) -> bool:
    """Give a written file its name unless something has that name; True if it got it."""
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
                sync_file(handle)
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
