"""Unpack tar and tar.gz while they stream in.

Source: POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

from hubdist.errors import IntegrityError, LengthMismatchError, UnsafeArchiveError
from hubdist.model.source import ByteStream, FileSink
from hubdist.origins.archive.members import DEFAULT_LIMITS, READ_BYTES, ArchiveFormat, ArchiveLimits, Members, quoted
from hubdist.origins.archive.tar_headers import (
    BLOCK,
    DIRECTORY,
    FILES,
    GNU_LONG_NAME,
    PAX,
    PAX_GLOBAL,
    Extended,
    Header,
    parse_header,
)
from hubdist.remote.gunzip import Gunzip

_ZERO = bytes(BLOCK)
_MAX_PADDING = 16 << 20


def unpack_stream(
    stream: ByteStream,
    format: ArchiveFormat,  # noqa: A002 - the field's word
    sink: FileSink,
    *,
    inner: str = "",
    limits: ArchiveLimits = DEFAULT_LIMITS,
) -> None:
    """Unpack a tar or tar.gz into a sink, in constant memory. Errors of the stream pass through.

    Args:
        stream: The archive.
        format: TAR or TAR_GZ.
        sink: Takes the files.
        inner: The wanted directory of the archive, or the wanted file; "" wants all files.
        limits: Upper limits for the archive.

    Raises:
        UnsafeArchiveError: The archive holds something that no model needs.
        IntegrityError: The archive is damaged, cut off, or followed by something else.
        ModelNotFoundError: The archive has neither a directory nor a file `inner`.
    """
    reader = _Reader(Gunzip(stream) if format is ArchiveFormat.TAR_GZ else stream)
    members = Members(sink, inner, limits)
    extended, extended_bytes = Extended(), 0
    where = "the tar's first header"
    while True:
        block = reader.exactly(BLOCK, where)
        if block == _ZERO:
            break
        header = parse_header(block, where)
        if header.kind in (PAX, PAX_GLOBAL, GNU_LONG_NAME):
            extended_bytes += header.size
            if header.size > limits.max_header_bytes or extended_bytes > limits.max_extended_bytes:
                raise UnsafeArchiveError(f"{where} is too large: {header.size} bytes, {extended_bytes} of its kind")
            if header.kind == PAX_GLOBAL:  # a member has at most one header of the other kinds
                members.count()
            extended.add(header.kind, reader.exactly(header.size, where), where)
            reader.exactly(-header.size % BLOCK, where)
        else:
            member = extended.apply(header)
            _unpack_member(reader, members, member)
            extended = Extended()
            where = f"the tar header behind {quoted(member.name)}"
    if extended != Extended():
        raise IntegrityError(f"{where} is for a member that does not follow")
    _check_end(reader)
    members.finish()


def _check_end(reader: _Reader) -> None:
    """Check that a second block of zeros follows, then only zeros up to the end."""
    if reader.exactly(BLOCK, "the end mark") != _ZERO:
        raise IntegrityError("the tar has a block of zeros in its middle")
    padding = 0
    while data := bytes(reader.some(READ_BYTES)):
        padding += len(data)
        if data.count(0) != len(data) or padding > _MAX_PADDING:
            raise UnsafeArchiveError("the tar has bytes behind its end")


def _unpack_member(reader: _Reader, members: Members, header: Header) -> None:
    # Before tar had types, a directory was a file without data whose name ended in a slash.
    if header.kind == DIRECTORY or (header.kind == b"\0" and header.name.endswith("/")):
        if header.size:
            raise UnsafeArchiveError(f"the directory {quoted(header.name)} has data")
        members.directory(header.name)
        return
    if header.kind not in FILES:
        raise UnsafeArchiveError(
            f"{quoted(header.name)} is neither a file nor a directory (tar type {header.kind!r}); models need no links"
        )
    with members.file(header.name) as writer:
        left = header.size
        while left:
            data = reader.some(left)
            if not data:
                raise LengthMismatchError(f"the tar ends {left} bytes before the end of {quoted(header.name)}")
            writer.write(data)
            left -= len(data)
    reader.exactly(-header.size % BLOCK, f"the padding of {quoted(header.name)}")


class _Reader:
    """Reads large pieces and returns views of them, so that small files need no separate reads."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._view = memoryview(b"")

    def some(self, size: int) -> memoryview:
        """The next bytes: at least one, at most `size` and `READ_BYTES`; empty only at the end."""
        if not self._view:
            self._view = memoryview(self._stream.read(READ_BYTES))
        data, self._view = self._view[:size], self._view[size:]
        return data

    def exactly(self, size: int, what: str) -> bytes:
        """The next `size` bytes.

        Raises:
            LengthMismatchError: The stream ends before.
        """
        parts = []
        while size:
            data = self.some(size)
            if not data:
                raise LengthMismatchError(f"the tar ends early, in {what}")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)
