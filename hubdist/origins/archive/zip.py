"""Unpack zip archives whose central directory and local headers agree on every byte.

Source: PKWARE's APPNOTE.TXT 6.3.10; the section numbers below refer to it.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from hubdist.errors import DigestMismatchError, IntegrityError, LengthMismatchError, UnsafeArchiveError
from hubdist.model.source import FileSink, FileWriter
from hubdist.origins.archive.members import DEFAULT_LIMITS, READ_BYTES, ArchiveLimits, Members, quoted
from hubdist.origins.archive.zip_directory import (
    DEFLATED,
    DESCRIPTOR_FOLLOWS,
    ZipEntry,
    read_at,
    read_directory,
    wide_sizes,
)

_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_DESCRIPTOR_MAX_BYTES = 24


def unpack_zip(file: BinaryIO, sink: FileSink, *, inner: str = "", limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Unpack a zip into a sink.

    The archive must consist only of its members, one after another from the first byte, the central directory and the
    end record: no gaps, no overlaps, nothing in front or behind.

    Args:
        file: The archive, seekable.
        sink: Takes the files.
        inner: The wanted directory of the archive, or the wanted file; "" wants all files.
        limits: Upper limits for the archive.

    Raises:
        UnsafeArchiveError: The archive holds something that no model needs, or contradicts itself.
        IntegrityError: The archive is damaged or cut off.
        ModelNotFoundError: The archive has neither a directory nor a file `inner`.
    """
    members = Members(sink, inner, limits)
    entries = sorted(read_directory(file, limits), key=lambda entry: entry.offset)
    at = 0
    for entry in entries:
        if entry.offset != at:
            raise UnsafeArchiveError(f"the zip has a gap or an overlap before {quoted(entry.name)}")
        data_at = _check_local_header(file, entry)
        if data_at + entry.packed_bytes > entry.directory_at:
            raise UnsafeArchiveError(f"{quoted(entry.name)} overlaps the zip's central directory")
        if entry.is_directory:
            members.directory(entry.name)
        else:
            with members.file(entry.name) as writer:
                _inflate(file, data_at, entry, writer)
        at = _check_descriptor(file, data_at + entry.packed_bytes, entry)
    if entries and at != entries[0].directory_at:
        raise UnsafeArchiveError("the zip has a gap before its central directory")
    members.finish()


def _check_local_header(file: BinaryIO, entry: ZipEntry) -> int:
    """Check that a member's local header agrees with the central directory; return the offset of the data."""
    header = read_at(file, entry.offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(header)
    rest = read_at(file, entry.offset + _LOCAL.size, name_bytes + extra_bytes)
    size, packed, _ = wide_sizes(rest[name_bytes:], (size, packed, 0), entry.name)
    same = (signature, flags, method, rest[:name_bytes]) == (b"PK\x03\x04", entry.flags, entry.method, entry.raw_name)
    for told, true in ((crc, entry.crc), (packed, entry.packed_bytes), (size, entry.size)):
        # Values of a data descriptor may be 0 here (4.4.4); some writers already know the size and write it.
        same = same and (told == true or (told == 0 and bool(flags & DESCRIPTOR_FOLLOWS)))
    if not same:
        raise UnsafeArchiveError(f"the zip's two headers of {quoted(entry.name)} disagree")
    return entry.offset + _LOCAL.size + len(rest)


def _check_descriptor(file: BinaryIO, at: int, entry: ZipEntry) -> int:
    """Check a member's data descriptor (4.3.9), if it has one; return the offset behind the member."""
    if not entry.flags & DESCRIPTOR_FOLLOWS:
        return at
    data = read_at(file, at, min(_DESCRIPTOR_MAX_BYTES, entry.directory_at - at))
    for layout in ("<L2Q", "<3L"):
        try:
            descriptor = struct.pack(layout, entry.crc, entry.packed_bytes, entry.size)
        except struct.error:  # sizes from 4 GiB on fit the wide form only
            continue
        for form in (b"PK\x07\x08" + descriptor, descriptor):
            if data.startswith(form):
                return at + len(form)
    raise UnsafeArchiveError(f"the zip's headers and data descriptor of {quoted(entry.name)} disagree")


def _inflate(file: BinaryIO, at: int, entry: ZipEntry, writer: FileWriter) -> None:
    file.seek(at)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
    left, written, crc = entry.packed_bytes, 0, 0
    pending = b""
    while True:
        if not pending and left:
            pending = file.read(min(left, READ_BYTES))
            if not pending:
                raise LengthMismatchError(f"the zip ends inside {quoted(entry.name)}")
            left -= len(pending)
        if inflate is None:
            data, pending = pending, b""
        else:
            data, pending = _step(inflate, pending, entry.name)
        written += len(data)
        if written > entry.size:
            raise LengthMismatchError(f"{quoted(entry.name)} is longer than the {entry.size} bytes that the zip claims")
        crc = zlib.crc32(data, crc)
        writer.write(data)
        if not data and not pending and not left:
            break
    if (inflate is not None and not inflate.eof) or written != entry.size:
        raise LengthMismatchError(f"{quoted(entry.name)} has {written} bytes, the zip claims {entry.size}")
    if crc != entry.crc:
        raise DigestMismatchError(
            f"{quoted(entry.name)} is damaged", expected=f"crc32:{entry.crc:08x}", actual=f"crc32:{crc:08x}"
        )


def _step(inflate: zlib._Decompress, pending: bytes, name: str) -> tuple[bytes, bytes]:
    try:
        data = inflate.decompress(pending, READ_BYTES)
    except zlib.error as error:
        raise IntegrityError(f"{quoted(name)} is damaged: {error}") from None
    if inflate.unused_data:
        raise LengthMismatchError(f"{quoted(name)} ends before its data does")
    return data, inflate.unconsumed_tail
