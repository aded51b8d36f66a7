"""Objects that Google's storage keeps compressed, as its own tools read them: inflated.

An object with `Content-Encoding: gzip` in its metadata (`gsutil cp -z`, `gcloud storage cp --gzip-local`) is listed
with the size of its compressed bytes. Whoever asks for it gets it inflated and whole, whatever range was asked for;
only who accepts gzip gets ranges, of the compressed bytes. Those are read here, and inflated.

Source: https://cloud.google.com/storage/docs/transcoding
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from hubdist.config.schema import Config
from hubdist.errors import IntegrityError, OriginError, StoreFullError, TransferTimeoutError
from hubdist.model.source import ByteStream
from hubdist.remote.gunzip import Gunzip
from hubdist.remote.tree import StoredFile

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20
_MAX_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as storage keeps it.

    Attributes:
        file: Size and md5 are those of the stored bytes.
        encoded: The stored bytes are said to be a gzip of the content.
    """

    file: StoredFile
    encoded: bool


def is_encoded(encoding: str, redacted: str) -> bool:
    """True if a Content-Encoding says that the stored bytes are a gzip of the content.

    Args:
        encoding: From the object's metadata.
        redacted: The object in errors.

    Raises:
        OriginError: It names another encoding.
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


class Inflated:
    """A `ByteStream` of what an object with `Content-Encoding: gzip` holds.

    Stored bytes that do not begin like a gzip are taken as they are, for Google's server does not inflate them either.

    Args:
        stored: The stored bytes.
        redacted: The object in errors.
    """

    def __init__(self, stored: ByteStream, redacted: str) -> None:
        self._stored = stored
        self._public = redacted
        self._content: ByteStream | None = None

    def read(self, size: int, /) -> bytes:
        """The next bytes of the content, at most `size`; empty only at the end.

        Raises:
            IntegrityError: The gzip is damaged or incomplete, or something else follows it.
            HubdistError: The stored bytes cannot be read.
        """
        try:
            if self._content is None:
                self._content = self._begin()
            return self._content.read(size)
        except IntegrityError as error:
            if self._public in error.what:
                raise
            raise IntegrityError(f"{self._public} has Content-Encoding: gzip, but {error.what}") from error

    def _begin(self) -> ByteStream:
        head = b""
        while len(head) < len(_GZIP_MAGIC) and (data := self._stored.read(_BLOCK_BYTES)):
            head += data
        stored = _Rejoined(head, self._stored)
        return Gunzip(stored) if head.startswith(_GZIP_MAGIC) else stored


class _Rejoined:
    def __init__(self, head: bytes, rest: ByteStream) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._rest.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class ContentReader:
    """Reads contents from end to end, within the job's limits: few stored bytes can hold very many.

    Args:
        config: `max_store_bytes` for one content, `timeout_s` for reading it.
        closing: When it is set, reading ends.
    """

    def __init__(self, config: Config, closing: threading.Event) -> None:
        self._config = config
        self._closing = closing

    def blocks(self, content: ByteStream, redacted: str) -> Iterator[bytes]:
        """The content in blocks of at most 1 MiB.

        Raises:
            StoreFullError: It is longer than `max_bytes`.
            TransferTimeoutError: It took longer than `timeout_s`.
            HubdistError: It cannot be read.
        """
        deadline, length, limit = time.monotonic() + self._config.timeout_s, 0, self._config.max_store_bytes
        while data := content.read(_BLOCK_BYTES):
            length += len(data)
            if limit is not None and length > limit:
                raise StoreFullError(
                    f"{redacted} is stored compressed and has more than the {limit} bytes that max_store_bytes allows",
                    need_bytes=length,
                    free_bytes=limit,
                    advice="Raise max_store_bytes if you trust the file.",
                )
            if time.monotonic() > deadline:
                raise TransferTimeoutError(f"{redacted} was not read within {self._config.timeout_s:g} s")
            if self._closing.is_set():
                raise OriginError(f"reading {redacted} was ended")
            yield data

    def measure(self, content: ByteStream, redacted: str) -> int:
        """Bytes of the content, of which one block is in memory at a time. Raises as `blocks`."""
        return sum(len(data) for data in self.blocks(content, redacted))


class KnownSizes:
    """How long contents are that were read before; safe for several threads.

    The bytes of a version never change, so a process measures each once, however often it is listed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sizes: OrderedDict[tuple[str, str], int] = OrderedDict()

    def get(self, url: str, version: str) -> int | None:
        """Bytes of the content, or None if they are not known."""
        with self._lock:
            return self._sizes.get((url, version))

    def keep(self, url: str, version: str, size: int) -> None:
        """Take note of a size."""
        with self._lock:
            self._sizes[url, version] = size
            if len(self._sizes) > _MAX_KNOWN:
                self._sizes.popitem(last=False)
