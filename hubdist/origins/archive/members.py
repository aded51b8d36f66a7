"""Shared by tar and zip: formats, limits, and the rules for members' names."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass

from hubdist.errors import IntegrityError, ModelNotFoundError, UnsafeArchiveError
from hubdist.model.paths import PathSet, check_entry_path
from hubdist.model.source import FileSink, FileWriter

READ_BYTES = 1 << 20
"""Bytes that are read, decompressed and written at a time."""


class ArchiveFormat(enum.StrEnum):
    """An archive's format."""

    TAR = "tar"
    TAR_GZ = "tar.gz"
    ZIP = "zip"


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Upper limits for an archive.

    There is no limit for the ratio of compression: deflate cannot exceed 1,032 to 1, and weights of zeros come close.

    Attributes:
        max_members: Files, directories and global headers.
        max_header_bytes: One extended header of a tar.
        max_directory_bytes: The central directory of a zip.
        max_bytes: All files together, uncompressed, wanted or not; None leaves the limit to the sink.
        max_extended_bytes: All extended headers of a tar together, because they compress well and take long to read.
        max_name_bytes: All paths together: 128 bytes plus the path's length for each file and each directory, named or
            implied. This bounds memory, because a few compressed bytes can name millions of directories.
    """

    max_members: int = 100_000
    max_header_bytes: int = 1 << 20
    max_directory_bytes: int = 64 << 20
    max_bytes: int | None = None
    max_extended_bytes: int = 32 << 20
    max_name_bytes: int = 32 << 20


DEFAULT_LIMITS = ArchiveLimits()

_NAME_BYTES = 128  # about the memory for a path, without its characters


def detect_format(head: bytes) -> ArchiveFormat | None:
    """Tell the format from an archive's first 512 bytes; None for anything else."""
    if head.startswith(b"\x1f\x8b"):
        return ArchiveFormat.TAR_GZ
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ArchiveFormat.ZIP
    return ArchiveFormat.TAR if head[257:262] == b"ustar" or tar_checksum_fits(head) else None


_OTHER_FORMATS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}


def other_format(head: bytes) -> str | None:
    """The program that packed an archive in an unsupported format, by its first bytes; None for anything else."""
    return next((name for magic, name in _OTHER_FORMATS.items() if head.startswith(magic)), None)


def tar_checksum_fits(block: bytes) -> bool:
    """True if a block of 512 bytes is a tar header by its checksum.

    Source: POSIX.1-2017, pax, "ustar Interchange Format": the sum of all bytes, with spaces in place of the checksum.
    """
    field = block[148:156].strip(b" \0")
    if len(block) != 512 or not field or any(digit not in b"01234567" for digit in field):
        return False
    return int(field, 8) == sum(block[:148]) + 8 * 32 + sum(block[156:])


def quoted(name: str | bytes) -> str:
    """A member's name for a message, escaped and cut."""
    return repr(name[:100])


def is_of_macos(path: str) -> bool:
    """True for a path that macOS adds to archives.

    `__MACOSX/` and `._<name>` hold resource forks and attributes, `.DS_Store` the Finder's view of a folder.

    Source: RFC 1740, "MIME Encapsulation of Macintosh Files", on AppleDouble; Apple's tar and Archive Utility.
    """
    return any(name in ("__MACOSX", ".DS_Store") or name.startswith("._") for name in path.split("/"))


class Members:
    """Checks the names of all members, and passes the wanted files on to a sink, without what macOS adds.

    Args:
        sink: Takes the files.
        inner: The wanted directory of the archive, whose path is cut off, or the wanted file; "" wants all files.
        limits: Upper limits for the archive.
    """

    def __init__(self, sink: FileSink, inner: str, limits: ArchiveLimits) -> None:
        self._sink = sink
        self._inner = inner
        self._prefix = f"{inner}/" if inner else ""
        self._limits = limits
        self._paths = PathSet()
        self._parents: set[str] = set()
        self._count = 0
        self._name_bytes = 0
        self._wanted = 0
        self._bytes = 0

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[FileWriter]:
        """Begin the file with this member name.

        A repeated name is passed on again; the sink checks whether the bytes are the same.

        Raises:
            UnsafeArchiveError: The name is unsafe or taken, or there are too many members.
        """
        self.count()
        path = _without_dots(name)
        if is_of_macos(path):
            check_entry_path(path)
            yield _Counted(None, self)
            return
        if not self._paths.repeats(path):
            self._paths.add_file(path)
            self._claim_name(path)
        wanted = self._wanted_path(path)
        if wanted is None:
            yield _Counted(None, self)
            return
        self._wanted += 1
        with self._sink.open_file(wanted) as writer:
            yield _Counted(writer, self)

    def directory(self, name: str) -> None:
        """Note the directory with this member name.

        Raises:
            UnsafeArchiveError: The name is unsafe or taken, or there are too many members.
        """
        self.count()
        path = _without_dots(name)
        if name and path in ("", "."):  # the root itself
            return
        path = path.removesuffix("/")
        if is_of_macos(path):
            check_entry_path(path)
            return
        self._paths.add_directory(path)
        self._claim_name(path)
        if path.startswith(self._prefix):
            self._sink.add_directory(path.removeprefix(self._prefix))

    def finish(self) -> None:
        """Check that a wanted file was found; call this at the archive's end.

        Raises:
            ModelNotFoundError: There is neither a file nor a directory `inner`.
            IntegrityError: The archive holds no files.
        """
        if self._wanted == 0 and self._inner:
            raise ModelNotFoundError(f"the archive holds neither a directory nor a file {self._inner!r}")
        if self._wanted == 0:
            raise IntegrityError("the archive holds no files")

    def claim(self, size: int) -> None:
        """Count bytes of any member, wanted or not.

        Raises:
            UnsafeArchiveError: The archive has more bytes than the limit.
        """
        self._bytes += size
        if self._limits.max_bytes is not None and self._bytes > self._limits.max_bytes:
            raise UnsafeArchiveError(f"the archive holds more than {self._limits.max_bytes} bytes")

    def count(self) -> None:
        """Count a member, or a header that belongs to no member.

        Raises:
            UnsafeArchiveError: The archive has more members than the limit.
        """
        self._count += 1
        if self._count > self._limits.max_members:
            raise UnsafeArchiveError(f"the archive has more than {self._limits.max_members} members")

    def _wanted_path(self, path: str) -> str | None:
        """The path of a file in the sink; None for a file that is not wanted."""
        if path.startswith(self._prefix):
            return path.removeprefix(self._prefix)
        return path.rpartition("/")[2] if path == self._inner else None

    def _claim_name(self, path: str) -> None:
        self._name_bytes += len(path) + _NAME_BYTES
        parent = path.rpartition("/")[0]
        while parent and parent not in self._parents:  # if a folder is known, its parents are known too
            self._parents.add(parent)
            self._name_bytes += len(parent) + _NAME_BYTES
            parent = parent.rpartition("/")[0]
        if self._name_bytes > self._limits.max_name_bytes:
            raise UnsafeArchiveError(f"the archive names more directories than any model needs, up to {quoted(path)}")


def _without_dots(name: str) -> str:
    """A name without the `./` that `tar -C directory -cf archive .` writes in front of it."""
    start = 0
    while name.startswith("./", start):  # a name may begin with a million of them, so make no copy for each
        start += 2
    return name[start:]


class _Counted:
    """A writer that counts bytes, and drops them without an inner writer."""

    def __init__(self, writer: FileWriter | None, members: Members) -> None:
        self._writer = writer
        self._members = members

    def write(self, data: bytes | memoryview) -> None:
        self._members.claim(len(data))
        if self._writer is not None:
            self._writer.write(data)
