"""Objects that Google's storage keeps compressed: how their stored bytes become their content.

An object with `Content-Encoding: gzip` in its metadata (`gsutil cp -z`, `gcloud storage cp --gzip-local`) is listed
with the size of its compressed bytes. The server decompresses such an object for a plain reader and then ignores the
range that was asked for. Only a reader that accepts gzip gets ranges, of the compressed bytes. hubdist reads those
ranges and decompresses them itself, with the same result as Google's own tools.

Source: https://cloud.google.com/storage/docs/transcoding
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from hubdist.errors import IntegrityError, OriginError, StoreFullError
from hubdist.model.source import ByteStream
from hubdist.remote.gunzip import Gunzip
from hubdist.system.deadline import Deadline

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20
_MAX_KNOWN = 4096


def is_gzip_encoding(encoding: str, redacted: str) -> bool:
    """True if a Content-Encoding says that the stored bytes are a gzip of the content.

    Args:
        encoding: The value from the object's metadata; "" if there is none.
        redacted: The object's URL without secrets, for errors.

    Raises:
        OriginError: The value names another encoding.
    """
    name = encoding.strip().lower()
    if name in ("gzip", "x-gzip"):
        return True
    if name in ("", "identity"):
        return False
    raise OriginError(
        f"{redacted} is stored with Content-Encoding: {encoding[:40]}, which hubdist cannot decode",
        advice="Store the file plainly or with gzip; if it is stored plainly, clear its Content-Encoding.",
    )


class PrefixedStream:
    """A `ByteStream` whose first bytes were already taken, to look at them.

    Args:
        head: The bytes that were taken.
        rest: The stream that they were taken from.
    """

    def __init__(self, head: bytes, rest: ByteStream) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; empty only at the end."""
        if not self._head:
            return self._rest.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class Inflated:
    """A `ByteStream` of the content of an object with `Content-Encoding: gzip`.

    Stored bytes that do not begin like a gzip are the content themselves: Google's server does not decompress them
    either.

    Args:
        stored: The stored bytes.
        redacted: The object's URL without secrets, for errors.
    """

    def __init__(self, stored: ByteStream, redacted: str) -> None:
        self._stored = stored
        self._redacted = redacted
        self._content: ByteStream | None = None

    def read(self, size: int, /) -> bytes:
        """The next bytes of the content, at most `size`; empty only at the end.

        Raises:
            IntegrityError: The gzip is damaged or incomplete, or something else follows it.
            HubdistError: The stored bytes cannot be read; raised by the stream of stored bytes.
        """
        try:
            if self._content is None:
                self._content = self._begin()
            return self._content.read(size)
        except IntegrityError as error:
            if self._redacted in error.what:
                raise
            raise IntegrityError(f"{self._redacted} has Content-Encoding: gzip, but {error.what}") from error

    def _begin(self) -> ByteStream:
        head = b""
        while len(head) < len(_GZIP_MAGIC) and (data := self._stored.read(_BLOCK_BYTES)):
            head += data
        stored = PrefixedStream(head, self._stored)
        return Gunzip(stored) if head.startswith(_GZIP_MAGIC) else stored


class ContentReader:
    """Reads decompressed contents from end to end, within limits, because a small gzip can hold a huge content.

    Args:
        timeout_s: Longest time in seconds for one content.
        max_bytes: Most bytes of one content; None: no limit.
        closing: When this is set, reading ends.
    """

    def __init__(self, timeout_s: float, max_bytes: int | None, closing: threading.Event) -> None:
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._closing = closing

    def blocks(self, content: ByteStream, redacted: str) -> Iterator[bytes]:
        """The content in blocks of at most 1 MiB.

        Args:
            content: The content.
            redacted: The object's URL without secrets, for errors.

        Raises:
            StoreFullError: The content is longer than `max_bytes`.
            TransferTimeoutError: Reading took longer than `timeout_s`.
            OriginError: `closing` was set.
        """
        deadline, length, limit = Deadline(self._timeout_s), 0, self._max_bytes
        while data := content.read(_BLOCK_BYTES):
            length += len(data)
            if limit is not None and length > limit:
                raise StoreFullError(
                    f"{redacted} is stored compressed and has more than the {limit} bytes that max_store_bytes allows",
                    need_bytes=length,
                    free_bytes=limit,
                    advice="Raise max_store_bytes if you trust the file.",
                )
            deadline.check(redacted)
            if self._closing.is_set():
                raise OriginError(f"reading {redacted} was ended")
            yield data

    def measure(self, content: ByteStream, redacted: str) -> int:
        """Count the bytes of a content, with one block of it in memory at a time.

        Args:
            content: The content.
            redacted: The object's URL without secrets, for errors.

        Raises:
            StoreFullError: The content is longer than `max_bytes`.
            TransferTimeoutError: Reading took longer than `timeout_s`.
            OriginError: `closing` was set.
        """
        return sum(len(data) for data in self.blocks(content, redacted))


class KnownSizes:
    """The sizes of contents that this process has measured; safe for several threads.

    The bytes of a version never change, so a process measures each version once, however often it is listed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: OrderedDict[tuple[str, str], int] = OrderedDict()

    def get(self, url: str, version: str) -> int | None:
        """Look up a size.

        Args:
            url: The object's address.
            version: The object's version.

        Returns:
            Bytes of the content, or None if they were not measured.
        """
        with self._lock:
            return self._sizes.get((url, version))

    def keep(self, url: str, version: str, size: int) -> None:
        """Remember a size; the oldest one is forgotten when there are too many.

        Args:
            url: The object's address.
            version: The object's version.
            size: Bytes of the content.
        """
        with self._lock:
            self._sizes[url, version] = size
            if len(self._sizes) > _MAX_KNOWN:
                self._sizes.popitem(last=False)
