"""The central directory of a zip: found, limited and parsed before anything else is read.

Source: PKWARE's APPNOTE.TXT 6.3.10; the section numbers below refer to it.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hubdist.errors import IntegrityError, LengthMismatchError, UnsafeArchiveError
from hubdist.origins.archive.members import ArchiveLimits, quoted

STORED, DEFLATED = 0, 8
"""The supported methods of compression (4.4.5)."""

DESCRIPTOR_FOLLOWS = 0x0008
"""The flag of a member whose sizes and checksum stand behind its data (4.4.4)."""

_EOCD = struct.Struct("<4s4H2LH")  # 4.3.16
_EOCD64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_EOCD64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")  # 4.3.12
_MAX_COMMENT = 0xFFFF
_KNOWN_FLAGS = 0x0806 | DESCRIPTOR_FOLLOWS  # UTF-8, and two bits for deflate's level
_ALL_ONES_16, _ALL_ONES_32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_DOS_DIRECTORY = 0x10
_EMPTY_DEFLATED_BYTES = 2


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One record of the central directory.

    Attributes:
        raw_name: The bytes of the name.
        name: The decoded name.
        flags: General purpose flags (4.4.4).
        method: `STORED` or `DEFLATED`.
        crc: CRC-32 of the uncompressed data.
        packed_bytes: Size of the compressed data.
        size: Size of the uncompressed data, bytes.
        offset: Offset of the local header.
        directory_at: Offset of the central directory.
    """

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size: int
    offset: int
    directory_at: int

    @property
    def is_directory(self) -> bool:
        """True for a directory, by its name."""
        return self.name.endswith("/")


def read_directory(file: BinaryIO, limits: ArchiveLimits) -> list[ZipEntry]:
    """Read all records of the central directory, and check each one by itself.

    Args:
        file: The archive, seekable.
        limits: Upper limits for the archive.

    Raises:
        UnsafeArchiveError: A member is not a plain file or directory, or the archive exceeds a limit.
        IntegrityError: The directory is damaged, cut off, or not where it should be.
    """
    count, size, at = _find_directory(file)
    if count > limits.max_members:
        raise UnsafeArchiveError(f"the zip has more than {limits.max_members} members")
    if size > limits.max_directory_bytes:
        raise UnsafeArchiveError(f"the zip's central directory has {size} bytes, more than any model needs")
    entries = []
    for entry in _parse_directory(read_at(file, at, size), at):
        entries.append(entry)
        if len(entries) > count:
            break
    if len(entries) != count:
        raise IntegrityError(f"the zip claims {count} members and lists {'more' if entries[count:] else len(entries)}")
    return entries


def read_at(file: BinaryIO, at: int, size: int) -> bytes:
    """Read exactly `size` bytes.

    Args:
        file: The archive, seekable.
        at: Offset of the first byte.
        size: How many bytes to read.

    Raises:
        LengthMismatchError: The file ends before.
    """
    file.seek(at)
    data = file.read(size)
    if len(data) != size:
        raise LengthMismatchError("the zip is cut off")
    return data


def wide_sizes(extra: bytes, values: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Replace values that are all ones by those of the zip64 field (4.5.3).

    Args:
        extra: The extra fields of a header.
        values: Uncompressed size, compressed size and offset of the header.
        name: The member's name, for errors.

    Returns:
        Uncompressed size, compressed size and offset.

    Raises:
        IntegrityError: The extra fields are damaged.
        UnsafeArchiveError: The extra fields contradict each other.
    """
    wide = _extra_fields(extra, name).get(_ZIP64_EXTRA, b"")
    result = []
    for value in values:
        if value == _ALL_ONES_32 and wide:
            if len(wide) < 8:
                raise IntegrityError(f"the zip has a damaged 64-bit size of {quoted(name)}")
            result.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        else:
            result.append(value)
    return result[0], result[1], result[2]


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Number of members, bytes and offset of the central directory, from the end record."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _MAX_COMMENT - _EOCD.size)
    tail = read_at(file, tail_at, size - tail_at)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _EOCD.size > len(tail):
        raise LengthMismatchError("the zip has no end record: it is cut off, or is not a zip")
    _, disk, start_disk, count_here, count, length, offset, comment = _EOCD.unpack_from(tail, found)
    if found + _EOCD.size + comment != len(tail):
        raise UnsafeArchiveError("the zip has bytes behind its end, or is cut off")
    end = tail_at + found
    if _ALL_ONES_16 in (count, count_here) or _ALL_ONES_32 in (length, offset):
        narrow = (disk, start_disk, count_here, count, length, offset)
        disk, start_disk, count_here, count, length, offset, end = _find_directory64(file, end, narrow)
    if disk or start_disk or count_here != count:
        raise UnsafeArchiveError("the zip is one of several parts")
    if offset + length != end:
        raise IntegrityError("the zip's central directory is not where its end record says")
    return count, length, offset


def _find_directory64(
    file: BinaryIO, eocd_at: int, narrow: tuple[int, int, int, int, int, int]
) -> tuple[int, int, int, int, int, int, int]:
    if eocd_at < _EOCD64_LOCATOR.size + _EOCD64.size:
        raise IntegrityError("the zip's 64-bit end record is missing")
    locator = read_at(file, eocd_at - _EOCD64_LOCATOR.size, _EOCD64_LOCATOR.size)
    signature, disk, at, disks = _EOCD64_LOCATOR.unpack(locator)
    if signature != b"PK\x06\x07" or disk or disks > 1 or at != eocd_at - _EOCD64_LOCATOR.size - _EOCD64.size:
        raise IntegrityError("the zip's 64-bit end record is not where it should be")
    record = _EOCD64.unpack(read_at(file, at, _EOCD64.size))
    signature, length, _, _, disk, start_disk, count_here, count, directory_bytes, offset = record
    if signature != b"PK\x06\x06" or length != _EOCD64.size - 12:
        raise IntegrityError("the zip's 64-bit end record is damaged")
    wide = (disk, start_disk, count_here, count, directory_bytes, offset)
    for small, large in zip(narrow, wide, strict=True):
        if small not in (large, _ALL_ONES_16, _ALL_ONES_32):
            raise UnsafeArchiveError("the zip's two end records disagree")
    return *wide, at


def _parse_directory(data: bytes, directory_at: int) -> Iterator[ZipEntry]:
    at = 0
    while at < len(data):
        if at + _CENTRAL.size > len(data):
            raise IntegrityError("the zip's central directory is cut off")
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, _, _, flags, method, _, _, crc, packed, size = fields[:11]
        name_bytes, extra_bytes, comment_bytes, disk, _, attributes, offset = fields[11:]
        name_at = at + _CENTRAL.size
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or at > len(data):
            raise IntegrityError("the zip's central directory is damaged")
        raw_name = data[name_at:extra_at]
        name = _decode(raw_name)
        size, packed, offset = wide_sizes(data[extra_at : extra_at + extra_bytes], (size, packed, offset), name)
        if disk:
            raise UnsafeArchiveError(f"{quoted(name)} lies in another part of the zip")
        entry = ZipEntry(raw_name, name, flags, method, crc, packed, size, offset, directory_at)
        _check_kind(entry, attributes)
        yield entry


def _decode(raw: bytes) -> str:
    """Decode a name as UTF-8, whether its flag says so or not.

    Without the flag, a name should be code page 437 (appendix D), but zip on Unix and macOS writes UTF-8 without the
    flag, and Windows its own code pages. Bytes that are valid UTF-8 are hardly ever anything else. The encoding of
    other bytes is unknown, and a guess would give a model with wrong names.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeArchiveError(f"the name {quoted(raw)} in the zip is not UTF-8") from None


def _check_kind(entry: ZipEntry, attributes: int) -> None:
    """Refuse everything but stored or deflated files, and directories: no encryption, no links, no devices."""
    name = quoted(entry.name)
    if entry.flags & ~_KNOWN_FLAGS:
        raise UnsafeArchiveError(f"{name} is encrypted or packed in a way that models do not need")
    if entry.method not in (STORED, DEFLATED):
        raise UnsafeArchiveError(f"{name} is packed by method {entry.method}; only stored and deflated are read")
    # Check the mode whatever system the zip claims to be from: zips from macOS have one too, and programs disagree.
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_directory else stat.S_IFREG):
        raise UnsafeArchiveError(f"{name} is neither a file nor a directory; models need no links")
    if entry.is_directory and (entry.size or entry.packed_bytes > _EMPTY_DEFLATED_BYTES):
        raise UnsafeArchiveError(f"the directory {name} has data")
    if not entry.is_directory and attributes & _DOS_DIRECTORY:
        raise UnsafeArchiveError(f"{name} is a file by its name and a directory by its attributes")


def _extra_fields(extra: bytes, name: str) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        if at + 4 + size > len(extra):
            raise IntegrityError(f"the zip has a damaged extra field of {quoted(name)}")
        if tag == _UNICODE_PATH_EXTRA or (tag == _ZIP64_EXTRA and tag in fields):
            raise UnsafeArchiveError(f"the zip has two names or two sizes of {quoted(name)}")
        fields[tag] = extra[at + 4 : at + 4 + size]
        at += 4 + size
    return fields
