"""Unpack tar and tar.gz while they stream in.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hubdist.archive.gunzip import Gunzip
from hubdist.archive.members import (
    DEFAULT_LIMITS,
    READ_BYTES,
    ArchiveFormat,
    ArchiveLimits,
    Members,
    shown,
    tar_checksum_fits,
)
from hubdist.errors import IntegrityError, LengthMismatchError, UnsafeArchiveError
from hubdist.source import ByteStream, FileSink

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_MAX_SIZE = 1 << 60
_MAX_PADDING = 16 << 20
_FILE_TYPES = (b"0", b"\0", b"7")
_DIRECTORY = b"5"
_PAX, _PAX_GLOBAL, _GNU_LONG_NAME = b"x", b"g", b"L"
_UTF8 = "ISO-IR 10646 2000 UTF-8"


def unpack_stream(
    stream: ByteStream,
    format: ArchiveFormat,  # noqa: A002 - the field's word
    sink: FileSink,
    *,
    inner: str = "",
    limits: ArchiveLimits = DEFAULT_LIMITS,
) -> None:
    """Unpack a tar or tar.gz into a sink, in constant memory.

    Args:
        stream: The archive.
        format: TAR or TAR_GZ.
        sink: Takes the files.
        inner: The directory inside the archive that is wanted, "" for all.
        limits: Most that the archive may ask for.

    Raises:
        UnsafeArchiveError: It holds what no model needs.
        IntegrityError: It is damaged, cut off, or followed by something else.
        ModelNotFoundError: It has no directory `inner`.
    """
    reader = _Reader(Gunzip(stream) if format is ArchiveFormat.TAR_GZ else stream)
    members = Members(sink, inner, limits)
    extended = _Extended()
    while True:
        block = reader.exactly(_BLOCK, "a header")
        if block == _ZERO:
            break
        header = _parse_header(block)
        if header.kind in (_PAX, _PAX_GLOBAL, _GNU_LONG_NAME):
            if header.size > limits.max_header_bytes:
                raise UnsafeArchiveError(f"a tar header of {header.size} bytes is larger than any model needs")
            data = reader.exactly(header.size, "an extended header")
            reader.exactly(-header.size % _BLOCK, "padding")
            extended.add(header.kind, data)
        else:
            _unpack_member(reader, members, extended.apply(header))
            extended = _Extended()
    if extended != _Extended():
        raise IntegrityError("the tar ends with a header for a member that does not follow")
    _check_end(reader)
    members.finish()


def _check_end(reader: _Reader) -> None:
    """A second block of zeros, further zeros up to the end, nothing else."""
    if reader.exactly(_BLOCK, "the end mark") != _ZERO:
        raise IntegrityError("the tar has a block of zeros in its middle")
    padding = 0
    while data := reader.some(READ_BYTES):
        padding += len(data)
        if data.count(0) != len(data) or padding > _MAX_PADDING:
            raise UnsafeArchiveError("the tar has bytes behind its end")


def _unpack_member(reader: _Reader, members: Members, header: _Header) -> None:
    if header.kind == _DIRECTORY or (header.kind == b"\0" and header.name.endswith("/")):
        if header.size:
            raise UnsafeArchiveError(f"the directory {shown(header.name)} has data")
        members.directory(header.name)
        return
    if header.kind not in _FILE_TYPES:
        raise UnsafeArchiveError(
            f"{shown(header.name)} is neither a file nor a directory (tar type {header.kind!r}); models need no links"
        )
    with members.file(header.name) as writer:
        left = header.size
        while left:
            data = reader.some(min(left, READ_BYTES))
            if not data:
                raise LengthMismatchError(f"the tar ends {left} bytes before the end of {shown(header.name)}")
            writer.write(data)
            left -= len(data)
    reader.exactly(-header.size % _BLOCK, "padding")


class _Reader:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def some(self, size: int) -> bytes:
        return self._stream.read(size)

    def exactly(self, size: int, what: str) -> bytes:
        parts = []
        while size:
            data = self._stream.read(size)
            if not data:
                raise LengthMismatchError(f"the tar ends early, in {what}")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int


def _parse_header(block: bytes) -> _Header:
    if not tar_checksum_fits(block):
        raise IntegrityError("a tar header is damaged: its checksum differs")
    magic = block[257:265]
    if magic not in (b"ustar\x0000", b"ustar  \0", bytes(8)):
        raise IntegrityError(f"a tar header is of an unknown kind {magic!r}")
    name = _text(block[:100])
    prefix = _text(block[345:500]) if magic == b"ustar\x0000" else ""
    return _Header(f"{prefix}/{name}" if prefix else name, block[156:157], _number(block[124:136]))


def _text(field: bytes) -> str:
    raw, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise UnsafeArchiveError(f"the name {shown(raw)} in a tar header has bytes behind its end")
    return _decode(raw)


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeArchiveError(f"the name {shown(raw)} in a tar header is not UTF-8") from None


def _number(field: bytes) -> int:
    """A size: octal digits, or GNU's base 256 after a first byte of 0x80."""
    if field[0] == 0x80:
        size = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if not digits or any(digit not in b"01234567" for digit in digits):
            raise IntegrityError(f"a tar header has no valid size: {field!r}")
        size = int(digits, 8)
    if size > _MAX_SIZE:
        raise UnsafeArchiveError(f"a tar header claims {size} bytes")
    return size


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the next member."""

    path: str | None = None
    size: int | None = None
    begun: bool = False

    def add(self, kind: bytes, data: bytes) -> None:
        """Take one extended header in; a second one for the same member is refused, for readers disagree on it."""
        if kind == _GNU_LONG_NAME:
            if self.path is not None:
                raise UnsafeArchiveError("a tar member has two long names")
            self.path = _text(data)
            return
        records = _pax_records(data)
        if kind == _PAX_GLOBAL:
            if records.keys() & {"path", "size", "linkpath"}:
                raise UnsafeArchiveError("a global tar header sets names or sizes")
            return
        if self.begun or (self.path is not None and "path" in records):
            raise UnsafeArchiveError("a tar member has two extended headers")
        self.begun = True
        if "linkpath" in records:
            raise UnsafeArchiveError("a tar member is a link; models need no links")
        self.path = records.get("path", self.path)
        if "size" in records:
            if not records["size"].isascii() or not records["size"].isdigit() or len(records["size"]) > 18:
                raise UnsafeArchiveError(f"a tar member has the size {shown(records['size'])}")
            self.size = int(records["size"])

    def apply(self, header: _Header) -> _Header:
        """The member's header with what was said before it."""
        if self.size is not None and header.size not in (0, self.size):
            raise UnsafeArchiveError(f"{shown(header.name)} has two sizes: {header.size} and {self.size}")
        name = header.name if self.path is None else self.path
        return _Header(name, header.kind, header.size if self.size is None else self.size)


def _pax_records(data: bytes) -> dict[str, str]:
    r"""Parse `<length> <key>=<value>\\n` records; unknown keys are of no interest, times and owners for example."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        digits = bytes(itertools.takewhile(bytes([*b"0123456789"]).__contains__, data[at : at + 9]))
        end = at + int(digits or b"0")
        record = data[at + len(digits) : end]
        if end > len(data) or not record.startswith(b" ") or not record.endswith(b"\n") or b"=" not in record:
            raise IntegrityError("an extended tar header is damaged")
        raw_key, _, raw_value = record[1:-1].partition(b"=")
        key = _decode(raw_key)
        if key.startswith("GNU.sparse"):
            raise UnsafeArchiveError("a tar member is sparse; models need no sparse files")
        if key == "hdrcharset" and raw_value != _UTF8.encode():
            raise UnsafeArchiveError(f"a tar header is written in {shown(raw_value)} instead of UTF-8")
        if key in ("path", "size", "linkpath"):
            if key in records or not raw_value or b"\0" in raw_value:
                raise UnsafeArchiveError(f"an extended tar header has a second, empty or damaged {key}")
            records[key] = _decode(raw_value)
        at = end
    return records
