"""Unpack zip archives, after their central directory and local headers were found to agree on every byte.

Source: PKWARE's APPNOTE.TXT 6.3.10; section numbers below are its.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hubdist.archive.members import DEFAULT_LIMITS, READ_BYTES, ArchiveLimits, Members, shown
from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError, UnsafeArchiveError
from hubdist.source import FileSink, FileWriter

_EOCD = struct.Struct("<4s4H2LH")  # 4.3.16
_EOCD64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_EOCD64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_CENTRAL = struct.Struct("<4s2B5H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_MAX_COMMENT = 0xFFFF
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR_FOLLOWS, _UTF8 = 0x0008, 0x0800
_KNOWN_FLAGS = 0x0006 | _DESCRIPTOR_FOLLOWS | _UTF8  # and deflate's two bits of level
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_UNIX = 3
_DOS_DIRECTORY = 0x10
_EMPTY_DEFLATED_BYTES = 2


def unpack_zip(file: BinaryIO, sink: FileSink, *, inner: str = "", limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Unpack a zip into a sink.

    The archive must be nothing but its members, one after another from its first byte, the central directory and the
    end record: no gaps, no overlaps, nothing in front or behind.

    Args:
        file: The archive, seekable.
        sink: Takes the files.
        inner: The directory inside the archive that is wanted, "" for all.
        limits: Most that the archive may ask for.

    Raises:
        UnsafeArchiveError: It holds what no model needs.
        IntegrityError: It is damaged, cut off, or disagrees with itself.
        ModelNotFoundError: It has no directory `inner`.
    """
    members = Members(sink, inner, limits)
    entries = sorted(_read_directory(file, limits), key=lambda entry: entry.offset)
    at = 0
    for entry in entries:
        if entry.offset != at or entry.packed_bytes > entry.directory_at - at:
            raise UnsafeArchiveError(f"the zip has a gap or an overlap before {shown(entry.name)}")
        data_at = _check_local_header(file, entry)
        if entry.is_directory:
            members.directory(entry.name)
        else:
            with members.file(entry.name) as writer:
                _inflate(file, data_at, entry, writer)
        at = _check_descriptor(file, data_at + entry.packed_bytes, entry)
        if at > entry.directory_at:
            raise UnsafeArchiveError(f"{shown(entry.name)} overlaps the zip's central directory")
    if entries and at != entries[0].directory_at:
        raise UnsafeArchiveError("the zip has a gap before its central directory")
    members.finish()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the central directory."""

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
        return self.name.endswith("/")


def _read_directory(file: BinaryIO, limits: ArchiveLimits) -> list[_Entry]:
    count, size, at = _find_directory(file)
    if count > limits.max_members:
        raise UnsafeArchiveError(f"the zip has more than {limits.max_members} members")
    if size > limits.max_directory_bytes:
        raise UnsafeArchiveError(f"the zip's central directory has {size} bytes, more than any model needs")
    data = _read_at(file, at, size)
    entries = list(_parse_directory(data, at))
    if len(entries) != count:
        raise IntegrityError(f"the zip claims {count} members and lists {len(entries)}")
    return entries


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Number of members, bytes and offset of the central directory, from the end record."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _MAX_COMMENT - _EOCD.size)
    tail = _read_at(file, tail_at, size - tail_at)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _EOCD.size > len(tail):
        raise LengthMismatchError("the zip has no end record: it is cut off, or no zip")
    _, disk, start_disk, count_here, count, length, offset, comment = _EOCD.unpack_from(tail, found)
    if found + _EOCD.size + comment != len(tail):
        raise UnsafeArchiveError("the zip has bytes behind its end, or is cut off")
    end = tail_at + found
    if 0xFFFF in (count, count_here) or 0xFFFFFFFF in (length, offset):
        disk, start_disk, count_here, count, length, offset, end = _find_directory64(file, end)
    if disk or start_disk or count_here != count:
        raise UnsafeArchiveError("the zip is one of several parts")
    if offset + length != end:
        raise IntegrityError("the zip's central directory is not where its end record says")
    return count, length, offset


def _find_directory64(file: BinaryIO, eocd_at: int) -> tuple[int, int, int, int, int, int, int]:
    if eocd_at < _EOCD64_LOCATOR.size + _EOCD64.size:
        raise IntegrityError("the zip's 64-bit end record is missing")
    locator = _read_at(file, eocd_at - _EOCD64_LOCATOR.size, _EOCD64_LOCATOR.size)
    signature, disk, at, disks = _EOCD64_LOCATOR.unpack(locator)
    if signature != b"PK\x06\x07" or disk or disks > 1 or at != eocd_at - _EOCD64_LOCATOR.size - _EOCD64.size:
        raise IntegrityError("the zip's 64-bit end record is not where it should be")
    record = _EOCD64.unpack(_read_at(file, at, _EOCD64.size))
    signature, length, _, _, disk, start_disk, count_here, count, directory_bytes, offset = record
    if signature != b"PK\x06\x06" or length != _EOCD64.size - 12:
        raise IntegrityError("the zip's 64-bit end record is damaged")
    return disk, start_disk, count_here, count, directory_bytes, offset, at


def _parse_directory(data: bytes, directory_at: int) -> Iterator[_Entry]:
    at = 0
    while at < len(data):
        if at + _CENTRAL.size > len(data):
            raise IntegrityError("the zip's central directory is cut off")
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, system, _, flags, method, _, _, crc, packed, size = fields[:11]
        name_bytes, extra_bytes, comment_bytes, disk, _, attributes, offset = fields[11:]
        end = at + _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or end > len(data):
            raise IntegrityError("the zip's central directory is damaged")
        raw_name = data[at + _CENTRAL.size :][:name_bytes]
        extra = data[at + _CENTRAL.size + name_bytes :][:extra_bytes]
        size, packed, offset = _wide(extra, (size, packed, offset))
        name = _decode(raw_name, flags)
        if disk:
            raise UnsafeArchiveError(f"{shown(name)} lies in another part of the zip")
        entry = _Entry(raw_name, name, flags, method, crc, packed, size, offset, directory_at)
        _check_kind(entry, system, attributes)
        yield entry
        at = end


def _decode(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise UnsafeArchiveError(f"the name {shown(raw)} in the zip is not UTF-8") from None


def _check_kind(entry: _Entry, system: int, attributes: int) -> None:
    """Only stored or deflated files, and directories; no encryption, no links, no devices."""
    name = shown(entry.name)
    if entry.flags & ~_KNOWN_FLAGS:
        raise UnsafeArchiveError(f"{name} is encrypted or packed in a way that models do not need")
    if entry.method not in (_STORED, _DEFLATED):
        raise UnsafeArchiveError(f"{name} is packed by method {entry.method}; only stored and deflated are read")
    kind = stat.S_IFMT(attributes >> 16) if system == _UNIX else 0
    if kind not in (0, stat.S_IFDIR if entry.is_directory else stat.S_IFREG):
        raise UnsafeArchiveError(f"{name} is neither a file nor a directory; models need no links")
    if entry.is_directory and (entry.size or entry.packed_bytes > _EMPTY_DEFLATED_BYTES):
        raise UnsafeArchiveError(f"the directory {name} has data")
    if not entry.is_directory and attributes & _DOS_DIRECTORY:
        raise UnsafeArchiveError(f"{name} is a file by its name and a directory by its attributes")


def _wide(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Uncompressed size, compressed size and offset, from the zip64 field where they are all ones (4.5.3)."""
    fields = _extra_fields(extra)
    wide = fields.get(_ZIP64_EXTRA, b"")
    result = []
    for value in values:
        if value == 0xFFFFFFFF and wide:
            if len(wide) < 8:
                raise IntegrityError("the zip has a damaged 64-bit size")
            result.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        else:
            result.append(value)
    return result[0], result[1], result[2]


def _extra_fields(extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        if at + 4 + size > len(extra):
            raise IntegrityError("the zip has a damaged extra field")
        if tag == _UNICODE_PATH_EXTRA or (tag == _ZIP64_EXTRA and tag in fields):
            raise UnsafeArchiveError("the zip has a member with two names or two sizes")
        fields[tag] = extra[at + 4 : at + 4 + size]
        at += 4 + size
    return fields


def _check_local_header(file: BinaryIO, entry: _Entry) -> int:
    """The offset of the member's data, after its local header was found to agree with the central directory."""
    header = _read_at(file, entry.offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(header)
    rest = _read_at(file, entry.offset + _LOCAL.size, name_bytes + extra_bytes)
    size, packed, _ = _wide(rest[name_bytes:], (size, packed, 0))
    told = (crc, packed, size)
    agrees = told == (entry.crc, entry.packed_bytes, entry.size)
    if entry.flags & _DESCRIPTOR_FOLLOWS:
        agrees = agrees or told == (0, 0, 0)
    same = (signature, flags, method, rest[:name_bytes]) == (b"PK\x03\x04", entry.flags, entry.method, entry.raw_name)
    if not agrees or not same:
        raise UnsafeArchiveError(f"the zip's two headers of {shown(entry.name)} disagree")
    return entry.offset + _LOCAL.size + len(rest)


def _check_descriptor(file: BinaryIO, at: int, entry: _Entry) -> int:
    """The offset behind the member; behind its data descriptor (4.3.9) if it has one, which must agree too."""
    if not entry.flags & _DESCRIPTOR_FOLLOWS:
        return at
    data = _read_at(file, at, min(24, entry.directory_at - at) if entry.directory_at > at else 0)
    told = (entry.crc, entry.packed_bytes, entry.size)
    for layout in ("<L2Q", "<3L"):
        try:
            descriptor = struct.pack(layout, *told)
        except struct.error:  # sizes of 4 GiB and more have the wide form only
            continue
        for form in (b"PK\x07\x08" + descriptor, descriptor):
            if data.startswith(form):
                return at + len(form)
    raise UnsafeArchiveError(f"the zip's headers of {shown(entry.name)} disagree")


def _inflate(file: BinaryIO, at: int, entry: _Entry, writer: FileWriter) -> None:
    file.seek(at)
    inflate = zlib.decompressobj(-15) if entry.method == _DEFLATED else None
    left, written, crc = entry.packed_bytes, 0, 0
    pending = b""
    while True:
        if not pending and left:
            pending = file.read(min(left, READ_BYTES))
            if not pending:
                raise LengthMismatchError(f"the zip ends inside {shown(entry.name)}")
            left -= len(pending)
        if inflate is None:
            data, pending = pending, b""
        else:
            data, pending = _step(inflate, pending, entry.name)
        written += len(data)
        if written > entry.size:
            raise LengthMismatchError(f"{shown(entry.name)} is longer than the {entry.size} bytes that the zip claims")
        crc = zlib.crc32(data, crc)
        writer.write(data)
        if not data and not pending and not left:
            break
    if (inflate is not None and not inflate.eof) or written != entry.size:
        raise LengthMismatchError(f"{shown(entry.name)} has {written} bytes, the zip claims {entry.size}")
    if crc != entry.crc:
        raise DigestMismatchError(
            f"{shown(entry.name)} is damaged", expected=f"crc32:{entry.crc:08x}", actual=f"crc32:{crc:08x}"
        )


def _step(inflate: zlib._Decompress, pending: bytes, name: str) -> tuple[bytes, bytes]:
    try:
        data = inflate.decompress(pending, READ_BYTES)
    except zlib.error as error:
        raise IntegrityError(f"{shown(name)} is damaged: {error}") from None
    if inflate.unused_data:
        raise LengthMismatchError(f"{shown(name)} ends before its data does")
    return data, inflate.unconsumed_tail


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) != size:
        raise LengthMismatchError("the zip is cut off")
    return data
