"""Decompress a gzip stream to its end, with checksum and length, for archives and objects on gs://."""

from __future__ import annotations

import zlib

from hubdist.errors import IntegrityError, LengthMismatchError
from hubdist.model.source import ByteStream

_GZIP = 31  # the window bits that make zlib read gzip's header and trailer
_READ_BYTES = 1 << 20
_FEED_BYTES = 64 << 10  # small, because after every call zlib copies the rest that it has not used


class Gunzip:
    """A `ByteStream` of the content of a gzip stream.

    Several gzip members in a row are one stream (RFC 1952, section 2.2), each with its own checksum and length.
    Anything else behind a member is refused, even zeros.

    Args:
        stream: The gzip stream.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(_GZIP)
        self._supply = memoryview(b"")
        self._pending = b""
        self._begun = False
        self._ended = False

    def read(self, size: int) -> bytes:
        """The next uncompressed bytes, at most `size`; empty at the end.

        Raises:
            IntegrityError: The data is damaged, or something else follows it.
            LengthMismatchError: The stream ends early.
        """
        while self._pending or self._refill():
            data = self._take(size)
            if data:
                return data
        return b""

    def _refill(self) -> bool:
        if not self._supply and not self._ended:
            self._supply = memoryview(self._stream.read(_READ_BYTES))
            self._ended = not self._supply
        if self._ended:
            if not self._begun or not self._inflate.eof:
                # A complete stream would have ended with a trailer, which zlib has not seen.
                raise LengthMismatchError("the gzip stream ends early")
            return False
        self._pending, self._supply = bytes(self._supply[:_FEED_BYTES]), self._supply[_FEED_BYTES:]
        return True

    def _take(self, size: int) -> bytes:
        if self._inflate.eof:
            self._inflate = zlib.decompressobj(_GZIP)
        try:
            data = self._inflate.decompress(self._pending, size)
        except zlib.error as error:
            raise IntegrityError(f"the gzip data is damaged or followed by something else: {error}") from None
        self._begun = True
        self._pending = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        return data
